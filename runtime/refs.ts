/**
 * Stored values and what speaks of them. An object is named `<hash>` or `<hash>.<generation>`
 * (collector.ts says why); a `Ref` carries that name. Owns the names, and finding them in bytes
 * that nobody decodes: rows are encoded values within encoded values.
 */
import { latin1Text } from "./bytes.ts";

/** Of a hash as text. */
const hashCharacters = 64;
const namePattern = /^[0-9a-f]{64}(?:\.[1-9a-f][0-9a-f]{0,11})?$/;
/** An encoded Ref up to its name: 27(["Ref", name, size]), PROTOCOL 1.3. */
const refHead = [0xd8, 0x1b, 0x83, 0x63, 0x52, 0x65, 0x66, 0x78] as const;

/** 27(["Stored", [name, …]]) up to the name. */
const storedHead = [
  0xd8, 0x1b, 0x82, 0x66, 0x53, 0x74, 0x6f, 0x72, 0x65, 0x64, 0x83, 0x78,
] as const;

export function isObjectName(name: string): boolean {
  return namePattern.test(name);
}

/** The object of a hash that is stored in this generation. */
export function objectName(hash: string, generation: number): string {
  return generation === 0 ? hash : `${hash}.${generation.toString(16)}`;
}

export function hashOfName(name: string): string {
  return name.slice(0, hashCharacters);
}

export function generationOfName(name: string): number {
  return name.length === hashCharacters ? 0 : Number.parseInt(name.slice(hashCharacters + 1), 16);
}

export function objectKey(prefix: string, tenant: string, name: string): string {
  return `${prefix}objects/${tenant}/${name}`;
}

/**
 * Every hash that stands in the bytes as text: 64 lower-case hex digits. Finds more than there
 * are references, never fewer: whoever collects errs on the side of keeping.
 */
export function forEachHash(bytes: Uint8Array, found: (hash: string) => void): void {
  // A run of 64 digits covers one of every 64 places.
  for (let at = hashCharacters - 1; at < bytes.length; at += hashCharacters) {
    if (!isHexDigit(bytes[at])) continue;
    let start = at;
    while (start > 0 && isHexDigit(bytes[start - 1])) start -= 1;
    let end = at + 1;
    while (end < bytes.length && isHexDigit(bytes[end])) end += 1;
    // A text begins with its length, which is no digit; what follows it may look like one.
    if (end - start >= hashCharacters) {
      found(latin1Text(bytes.subarray(start, start + hashCharacters)));
    }
    at = Math.max(at, end - 1);
  }
}

/** Names in the encoded Refs of a value, each once. */
export function refsIn(encoded: Uint8Array): ReadonlySet<string> {
  return namesAfter(refHead, encoded);
}

/** Names of objects that stand in the place of a value (stored.ts), each once. */
export function storedIn(encoded: Uint8Array): ReadonlySet<string> {
  return namesAfter(storedHead, encoded);
}

function namesAfter(head: readonly number[], encoded: Uint8Array): ReadonlySet<string> {
  const names = new Set<string>();
  const [first = 0] = head;
  for (let at = encoded.indexOf(first); at >= 0; at = encoded.indexOf(first, at + 1)) {
    if (!head.every((byte, index) => encoded[at + index] === byte)) continue;
    const from = at + head.length + 1;
    const name = latin1Text(encoded.subarray(from, from + (encoded[from - 1] ?? 0)));
    if (isObjectName(name)) names.add(name);
  }
  return names;
}

function isHexDigit(byte: number | undefined): boolean {
  return byte !== undefined && ((byte >= 0x30 && byte <= 0x39) || (byte >= 0x61 && byte <= 0x66));
}
