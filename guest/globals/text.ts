/**
 * TextEncoder and TextDecoder (UTF-8 only, no streaming). The engine has no UTF-8
 * primitive of its own; what it has (URI coding and base64) is combined into one, which
 * is 20 times faster than a loop in the interpreter. Loops are left for ill-formed bytes
 * and for `encodeInto`.
 */
import { binaryOfBytes, bytesOfBinary, utf8Binary, utf8Text } from "./engine.ts";

const replacement = 0xfffd;
const wide = /[^\0-\x7f]/;
/** Code units per String.fromCharCode call: more arguments could exhaust the guest's stack. */
const unitsPerCall = 4096;

export class TextEncoder {
  get encoding(): string {
    return "utf-8";
  }

  encode(input = ""): Uint8Array<ArrayBuffer> {
    return bytesOfBinary(utf8Binary(String(input).toWellFormed()));
  }

  encodeInto(input: string, target: Uint8Array): { read: number; written: number } {
    return writeUtf8(String(input), target);
  }
}

export class TextDecoder {
  readonly encoding = "utf-8";
  readonly fatal: boolean;
  readonly ignoreBOM: boolean;

  constructor(label = "utf-8", options: { fatal?: boolean; ignoreBOM?: boolean } = {}) {
    const name = String(label).trim().toLowerCase();
    if (!["utf-8", "utf8", "unicode-1-1-utf-8"].includes(name)) {
      throw new RangeError(`TextDecoder knows only utf-8, not "${label}"`);
    }
    this.fatal = Boolean(options.fatal);
    this.ignoreBOM = Boolean(options.ignoreBOM);
  }

  decode(input?: ArrayBufferLike | ArrayBufferView, options: { stream?: boolean } = {}): string {
    if (options.stream) {
      throw new TypeError(
        "TextDecoder can't stream in a guest: collect the bytes, then decode once",
      );
    }
    const bytes = input === undefined ? new Uint8Array(0) : viewBytes(input);
    const hasMark = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
    const content = hasMark && !this.ignoreBOM ? bytes.subarray(3) : bytes;
    const binary = binaryOfBytes(content);
    if (!wide.test(binary)) return binary;
    try {
      return utf8Text(binary);
    } catch {
      // Not UTF-8: the loop finds where, or replaces what is wrong.
      return readUtf8(content, this.fatal);
    }
  }
}

/** The bytes under any buffer or view, without a copy. */
export function viewBytes(input: ArrayBufferLike | ArrayBufferView): Uint8Array {
  if (input instanceof Uint8Array) return input;
  if (ArrayBuffer.isView(input)) {
    return new Uint8Array(input.buffer, input.byteOffset, input.byteLength);
  }
  if (input instanceof ArrayBuffer || input instanceof SharedArrayBuffer) {
    return new Uint8Array(input);
  }
  throw new TypeError("expected an ArrayBuffer or a view of one");
}

function writeUtf8(text: string, target: Uint8Array): { read: number; written: number } {
  let read = 0;
  let written = 0;
  while (read < text.length) {
    let point = text.codePointAt(read) ?? 0;
    const units = point > 0xffff ? 2 : 1;
    if (point >= 0xd800 && point <= 0xdfff) point = replacement;
    const size = utf8Size(point);
    if (written + size > target.length) break;
    writePoint(point, size, target, written);
    read += units;
    written += size;
  }
  return { read, written };
}

function utf8Size(point: number): number {
  if (point < 0x80) return 1;
  if (point < 0x800) return 2;
  return point < 0x10000 ? 3 : 4;
}

function writePoint(point: number, size: number, target: Uint8Array, at: number): void {
  if (size === 1) {
    target[at] = point;
    return;
  }
  for (let index = size - 1; index > 0; index -= 1) {
    target[at + index] = 0x80 | ((point >> (6 * (size - 1 - index))) & 0x3f);
  }
  target[at] = ((0xf00 >> size) & 0xff) | (point >> (6 * (size - 1)));
}

function readUtf8(bytes: Uint8Array, isFatal: boolean): string {
  let output = "";
  let units: number[] = [];
  let index = 0;
  while (index < bytes.length) {
    const { point, size } = readPoint(bytes, index);
    if (point < 0 && isFatal) {
      throw new TypeError(`The bytes are not UTF-8 (at offset ${index})`);
    }
    index += size;
    const shown = point < 0 ? replacement : point;
    if (shown > 0xffff) units.push(0xd7c0 + (shown >> 10), 0xdc00 | (shown & 0x3ff));
    else units.push(shown);
    if (units.length < unitsPerCall) continue;
    output += String.fromCharCode(...units);
    units = [];
  }
  return output + String.fromCharCode(...units);
}

/**
 * One code point, or -1 and the length of the ill-formed part that one replacement
 * character stands for (the "maximal subpart" of the Unicode and Encoding standards).
 */
function readPoint(bytes: Uint8Array, at: number): { point: number; size: number } {
  const lead = bytes[at] ?? 0;
  if (lead < 0x80) return { point: lead, size: 1 };
  const size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4) return { point: -1, size: 1 };
  let point = lead & (0xff >> (size + 1));
  for (let index = 1; index < size; index += 1) {
    const next = bytes[at + index] ?? 0;
    const [least, most] = index === 1 ? secondByteRange(lead) : [0x80, 0xbf];
    if (next < least || next > most) return { point: -1, size: index };
    point = (point << 6) | (next & 0x3f);
  }
  return { point, size };
}

/** Excludes overlong forms, surrogates and points above U+10FFFF at the second byte. */
function secondByteRange(lead: number): readonly [number, number] {
  if (lead === 0xe0) return [0xa0, 0xbf];
  if (lead === 0xed) return [0x80, 0x9f];
  if (lead === 0xf0) return [0x90, 0xbf];
  if (lead === 0xf4) return [0x80, 0x8f];
  return [0x80, 0xbf];
}
