/**
 * What the engine has of the web by itself, with types: QuickJS brings base64 and
 * DOMException, but the guest is type-checked with the language's own library only.
 */

interface EngineGlobals {
  readonly DOMException: new (message?: string, name?: string) => Error & { readonly code: number };
  readonly atob: (text: string) => string;
  readonly btoa: (binary: string) => string;
  readonly escape: (text: string) => string;
  readonly unescape: (text: string) => string;
}

interface Base64Bytes {
  readonly fromBase64: (text: string) => Uint8Array<ArrayBuffer>;
}

const engine = globalThis as unknown as EngineGlobals;

/** Taken once: what user code does to the globals later changes nothing here. */
export const { DOMException } = engine;
const { atob, btoa, escape: escapeBinary, unescape: unescapeBinary } = engine;
const { fromBase64 } = Uint8Array as unknown as Base64Bytes;
const toBase64: unknown = Reflect.get(Uint8Array.prototype, "toBase64");

/** Each character of `binary` (0 to 255) as a byte. */
export function bytesOfBinary(binary: string): Uint8Array<ArrayBuffer> {
  return fromBase64.call(Uint8Array, btoa(binary));
}

/** Each byte as a character. */
export function binaryOfBytes(bytes: Uint8Array): string {
  if (typeof toBase64 !== "function") throw new TypeError("the engine has no base64");
  return atob(toBase64.call(bytes));
}

/** UTF-8 of a text, a character for each byte. Throws URIError at a lone surrogate. */
export function utf8Binary(text: string): string {
  return unescapeBinary(encodeURIComponent(text));
}

/** The text of UTF-8 bytes that are given as characters. Throws URIError if they are none. */
export function utf8Text(binary: string): string {
  return decodeURIComponent(escapeBinary(binary));
}
