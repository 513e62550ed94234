/**
 * A bounded scanner in front of every CBOR decoder: hostile bytes are refused here, in
 * time linear in their length and without making objects of them. Definite lengths only;
 * depth, tags, big numbers and duplicate keys are checked, text must be UTF-8, and
 * nothing may follow the item.
 */
import { SporeError } from "../runtime/errors.ts";

export interface ScanLimits {
  readonly depthMax: number;
  /** Bytes of one big number: decoding it takes time in the square of that. */
  readonly bignumBytesMax: number;
  readonly tags: ReadonlySet<number>;
}

/** One array, map or tag that is not finished yet. */
interface Open {
  readonly keys: Set<string> | undefined;
  /** Items that still have to come; a map counts its keys and values. */
  left: number;
  /** The tag whose one item this is. */
  readonly tag: number | undefined;
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** Throws invalid-cbor unless `bytes` are exactly one item within the limits. */
export function scanCbor(bytes: Uint8Array, limits: ScanLimits): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const stack: Open[] = [];
  let at = 0;
  for (;;) {
    const startedAt = at;
    const initial = bytes[at++];
    if (initial === undefined) throw refused("it ends too early", startedAt);
    const major = initial >> 5;
    const info = initial & 31;
    if (info > 27) throw refused("indefinite and reserved lengths are not allowed", startedAt);
    const width = info < 24 ? 0 : 1 << (info - 24);
    if (at + width > bytes.length) throw refused("it ends too early", startedAt);
    const argument = readArgument(view, at, info);
    at += width;
    const top = stack.at(-1);
    const isKey = top?.keys !== undefined && top.left % 2 === 0;
    let opened: Open | undefined;
    switch (major) {
      case 0:
      case 1:
        break;
      case 2:
      case 3: {
        if (argument > bytes.length - at) throw refused("a length beyond the end", startedAt);
        if (top?.tag === 2 || top?.tag === 3) {
          const isFit = major === 2 && argument <= limits.bignumBytesMax;
          if (!isFit) throw refused("a big number out of bounds", startedAt);
        }
        if (major === 3) checkText(bytes.subarray(at, at + argument), isKey, startedAt);
        at += argument;
        break;
      }
      case 4:
        if (argument > bytes.length - at) throw refused("a length beyond the end", startedAt);
        opened = { keys: undefined, left: argument, tag: undefined };
        break;
      case 5:
        if (argument * 2 > bytes.length - at) throw refused("a length beyond the end", startedAt);
        opened = { keys: new Set(), left: argument * 2, tag: undefined };
        break;
      case 6:
        if (!limits.tags.has(argument)) throw refused(`tag ${argument} is not allowed`, startedAt);
        opened = { keys: undefined, left: 1, tag: argument };
        break;
      default:
        // false, true, null, undefined, and the three widths of float.
        if (info < 20 || info === 24) throw refused("an unknown simple value", startedAt);
    }
    if ((top?.tag === 2 || top?.tag === 3) && major !== 2) {
      throw refused("a big number that is no byte string", startedAt);
    }
    if (top !== undefined) top.left--;
    if (opened === undefined) {
      if (isKey) checkKey(top.keys, bytes.subarray(startedAt, at), startedAt);
    } else if (opened.left > 0) {
      if (stack.length >= limits.depthMax) throw refused("nested too deeply", startedAt);
      stack.push(opened);
    }
    while (stack.length > 0 && stack.at(-1)?.left === 0) stack.pop();
    if (stack.length === 0) break;
  }
  if (at !== bytes.length) throw refused("bytes follow the item", at);
}

function readArgument(view: DataView, at: number, info: number): number {
  if (info < 24) return info;
  if (info === 24) return view.getUint8(at);
  if (info === 25) return view.getUint16(at);
  if (info === 26) return view.getUint32(at);
  // As a number: only its size against the bytes that are left is of interest.
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
}

function checkText(text: Uint8Array, isKey: boolean, at: number): void {
  let decoded: string;
  try {
    decoded = utf8.decode(text);
  } catch {
    throw refused("text that is not UTF-8", at);
  }
  if (isKey && decoded === "__proto__") throw refused("the key __proto__ is not allowed", at);
}

/** Scalar keys only: two equal compound keys are two keys of a Map. */
function checkKey(keys: Set<string> | undefined, encoded: Uint8Array, at: number): void {
  const key = latin1(encoded);
  if (keys?.has(key) === true) throw refused("a key that is there twice", at);
  keys?.add(key);
}

function latin1(bytes: Uint8Array): string {
  if (bytes.length > 4096) return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return String.fromCharCode(...bytes);
}

function refused(what: string, at: number): SporeError {
  return new SporeError("invalid-cbor", `the CBOR is not a value: ${what} (at byte ${at})`);
}
