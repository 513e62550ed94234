/**
 * A bounded scanner in front of every CBOR decoder: hostile bytes are refused here, in
 * time linear in their length and without making values of them. Definite lengths only;
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

export interface Scanned {
  /** No tags and no integers of 64 bits: what every decoder understands alike. */
  readonly isPlain: boolean;
}

/** Keys of one map: few are compared one with another, many are looked up. */
interface Keys {
  readonly starts: number[];
  readonly ends: number[];
  texts: Set<string> | undefined;
  /** A Map (tag 259) may have keys of any kind. */
  readonly isText: boolean;
}

const comparedMax = 8;
const mapTag = 259;
const utf8 = new TextDecoder("utf-8", { fatal: true });
const latin1 = new TextDecoder("latin1");

/** Throws invalid-cbor unless `bytes` are exactly one item within the limits. */
export function scanCbor(bytes: Uint8Array, limits: ScanLimits): Scanned {
  const { length } = bytes;
  // One entry for each array, map or tag that is not finished: what is still to come of
  // it (a map counts keys and values), its keys, and its tag or -1.
  const left: number[] = [];
  const keysOf: (Keys | undefined)[] = [];
  const tagOf: number[] = [];
  let depth = 0;
  let at = 0;
  let isPlain = true;
  do {
    const startedAt = at;
    if (at >= length) throw refused("it ends too early", at);
    const initial = bytes[at++] as number;
    const major = initial >> 5;
    const info = initial & 31;
    let argument = info;
    if (info >= 24) {
      if (info > 27) throw refused("indefinite and reserved lengths are not allowed", startedAt);
      const width = 1 << (info - 24);
      if (at + width > length) throw refused("it ends too early", startedAt);
      argument = 0;
      // Of eight bytes only the size against what is left matters, so a number will do.
      for (const end = at + width; at < end; at++)
        argument = argument * 256 + (bytes[at] as number);
    }
    const keys = depth === 0 ? undefined : keysOf[depth - 1];
    const isKey = keys !== undefined && (left[depth - 1] as number) % 2 === 0;
    const tag = depth === 0 ? -1 : (tagOf[depth - 1] as number);
    if (isKey && keys.isText && major !== 3) throw refused("a key that is no text", startedAt);
    if ((tag === 2 || tag === 3) && (major !== 2 || argument > limits.bignumBytesMax)) {
      throw refused("a big number out of bounds", startedAt);
    }
    if (depth > 0) left[depth - 1] = (left[depth - 1] as number) - 1;
    if (info === 27 && major < 2) isPlain = false;
    let items = 0;
    if (major === 2 || major === 3) {
      if (argument > length - at) throw refused("a length beyond the end", startedAt);
      at += argument;
      if (major === 3) checkText(bytes, at - argument, at);
    } else if (major === 4 || major === 5) {
      items = major === 4 ? argument : argument * 2;
      if (items > length - at) throw refused("a length beyond the end", startedAt);
    } else if (major === 6) {
      if (!limits.tags.has(argument)) throw refused(`tag ${argument} is not allowed`, startedAt);
      isPlain = false;
      items = 1;
    } else if (major === 7 && (info < 20 || info === 24)) {
      throw refused("an unknown simple value", startedAt);
    }
    if (items > 0) {
      if (depth >= limits.depthMax) throw refused("nested too deeply", startedAt);
      left[depth] = items;
      tagOf[depth] = major === 6 ? argument : -1;
      keysOf[depth] =
        major === 5
          ? { starts: [], ends: [], texts: undefined, isText: tag !== mapTag }
          : undefined;
      depth++;
    } else if (isKey) {
      addKey(bytes, keys, startedAt, at);
    }
    while (depth > 0 && left[depth - 1] === 0) depth--;
  } while (depth > 0);
  if (at !== length) throw refused("bytes follow the item", at);
  return { isPlain };
}

function checkText(bytes: Uint8Array, from: number, to: number): void {
  let bits = 0;
  for (let index = from; index < to; index++) bits |= bytes[index] as number;
  if (bits < 0x80) return;
  try {
    utf8.decode(bytes.subarray(from, to));
  } catch {
    throw refused("text that is not UTF-8", from);
  }
}

/** `__proto__` as a text item. */
const protoKey = new Uint8Array([0x69, ...new TextEncoder().encode("__proto__")]);

/** Scalar keys only: two equal compound keys are two keys of a Map. */
function addKey(bytes: Uint8Array, keys: Keys, from: number, to: number): void {
  if (isSame(bytes, from, to, protoKey, 0, protoKey.length)) {
    throw refused("the key __proto__ is not allowed", from);
  }
  const { starts, ends } = keys;
  if (keys.texts === undefined && starts.length < comparedMax) {
    for (let index = 0; index < starts.length; index++) {
      if (isSame(bytes, from, to, bytes, starts[index] as number, ends[index] as number)) {
        throw refused("a key that is there twice", from);
      }
    }
    starts.push(from);
    ends.push(to);
    return;
  }
  keys.texts ??= new Set(
    starts.map((start, index) => latin1.decode(bytes.subarray(start, ends[index]))),
  );
  const text = latin1.decode(bytes.subarray(from, to));
  if (keys.texts.has(text)) throw refused("a key that is there twice", from);
  keys.texts.add(text);
}

function isSame(
  one: Uint8Array,
  oneFrom: number,
  oneTo: number,
  other: Uint8Array,
  otherFrom: number,
  otherTo: number,
): boolean {
  if (oneTo - oneFrom !== otherTo - otherFrom) return false;
  for (let index = oneFrom; index < oneTo; index++) {
    if (one[index] !== other[otherFrom + index - oneFrom]) return false;
  }
  return true;
}

function refused(what: string, at: number): SporeError {
  return new SporeError("invalid-cbor", `the CBOR is not a value: ${what} (at byte ${at})`);
}
