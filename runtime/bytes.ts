/**
 * A small writer and reader of bytes for what the engine stores: little-endian integers,
 * variable-length counts, strings and byte strings with their lengths. The reader throws
 * `Truncated` instead of reading past the end; the caller says what was damaged.
 */
import { assert } from "./errors.ts";

/** Bytes ended too early or a number is out of range: the object is damaged. */
export class Truncated extends Error {
  override readonly name = "Truncated";
}

const twoTo32 = 2 ** 32;

export class ByteWriter {
  #bytes: Uint8Array;
  #view: DataView;
  #length = 0;

  constructor(capacity = 256) {
    this.#bytes = new Uint8Array(capacity);
    this.#view = new DataView(this.#bytes.buffer);
  }

  get length(): number {
    return this.#length;
  }

  u8(value: number): void {
    const at = this.#claim(1); // first: it may replace the view
    this.#view.setUint8(at, value);
  }

  u32(value: number): void {
    const at = this.#claim(4);
    this.#view.setUint32(at, value, true);
  }

  /** A whole number up to 2^53 - 1. */
  u64(value: number): void {
    assert(Number.isSafeInteger(value) && value >= 0, "an integer fits 53 bits");
    const at = this.#claim(8);
    this.#view.setUint32(at, value % twoTo32, true);
    this.#view.setUint32(at + 4, Math.floor(value / twoTo32), true);
  }

  /** A whole number up to 2^53 - 1 in as few bytes as it needs, seven bits each. */
  count(value: number): void {
    assert(Number.isSafeInteger(value) && value >= 0, "a count is a whole number");
    let rest = value;
    while (rest >= 0x80) {
      this.u8((rest % 0x80) | 0x80);
      rest = Math.floor(rest / 0x80);
    }
    this.u8(rest);
  }

  raw(bytes: Uint8Array): void {
    const at = this.#claim(bytes.length);
    this.#bytes.set(bytes, at);
  }

  /** Length and bytes. */
  bytes(bytes: Uint8Array): void {
    this.count(bytes.length);
    this.raw(bytes);
  }

  /** Length and one byte per character; only Latin-1, where byte order is string order. */
  latin1(text: string, from = 0): void {
    this.count(text.length - from);
    const at = this.#claim(text.length - from);
    let units = 0;
    for (let index = from; index < text.length; index += 1) {
      const unit = text.charCodeAt(index);
      units |= unit;
      this.#bytes[at + index - from] = unit;
    }
    // Before it is written anywhere: it would be read back as another text.
    assert(units <= 0xff, "what is written as Latin-1 is Latin-1");
  }

  /** What was written; a view that stays valid, because the writer is not used again. */
  done(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  /** Room for `count` bytes; where it begins. */
  #claim(count: number): number {
    const at = this.#length;
    const needed = at + count;
    if (needed > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(needed, this.#bytes.length * 2));
      larger.set(this.#bytes.subarray(0, at));
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    this.#length = needed;
    return at;
  }
}

export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get offset(): number {
    return this.#at;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  u64(): number {
    const at = this.#take(8);
    const high = this.#view.getUint32(at + 4, true);
    const value = high * twoTo32 + this.#view.getUint32(at, true);
    if (!Number.isSafeInteger(value)) throw new Truncated("an integer is out of range");
    return value;
  }

  count(): number {
    let value = 0;
    for (let scale = 1; scale < 2 ** 53; scale *= 0x80) {
      const byte = this.u8();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80 && Number.isSafeInteger(value)) return value;
    }
    throw new Truncated("a count is out of range");
  }

  /** A view into what is read, not a copy. */
  raw(length: number): Uint8Array {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  bytes(): Uint8Array {
    return this.raw(this.count());
  }

  latin1(): string {
    return latin1Text(this.bytes());
  }

  #take(length: number): number {
    if (length > this.left) throw new Truncated("the bytes end too early");
    const at = this.#at;
    this.#at += length;
    return at;
  }
}

/** Characters handed to one call: far below every engine's limit on arguments. */
const charactersPerCall = 4096;

export function latin1Text(bytes: Uint8Array): string {
  if (bytes.length <= charactersPerCall) return textOfPart(bytes);
  let text = "";
  for (let at = 0; at < bytes.length; at += charactersPerCall) {
    text += textOfPart(bytes.subarray(at, at + charactersPerCall));
  }
  return text;
}

/** Five times as fast as spreading the bytes, and keys are most of what a scan decodes. */
function textOfPart(bytes: Uint8Array): string {
  return Reflect.apply(String.fromCharCode, undefined, bytes as ArrayLike<number>);
}

export function isSameBytes(left: Uint8Array, right: Uint8Array): boolean {
  if (left.length !== right.length) return false;
  for (let index = 0; index < left.length; index += 1) {
    if (left[index] !== right[index]) return false;
  }
  return true;
}

export function hexOf(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}
