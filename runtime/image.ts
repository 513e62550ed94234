/**
 * A machine's memory as a difference from its component's pristine memory: what is
 * stored when a run goes quiet, and how it comes back. Owns the byte format; knows
 * nothing about instances, threads or storage. Called by host/sandbox only.
 *
 * An image, all integers little-endian:
 *
 *   offset  size  field
 *        0     4  magic "SPIM"
 *        4     1  format version, 1
 *        5     1  compression: the Compressor's id (0 none, 1 zstd)
 *        6     2  zero
 *        8    16  engine: first half of its sha256
 *       24    16  component: first half of its id
 *       40    16  baseline: first half of the sha256 of the pristine memory
 *       56     4  memory pages (64 KiB each)
 *       60     4  zero
 *       64     4  length of the difference when uncompressed
 *       68     4  length of the difference as stored, n
 *       72     n  the difference
 *     72+n    16  first half of the sha256 of everything before
 *
 * A difference: u32 count of dirty 4 KiB pages; for each of them a u32 page number
 * (strictly rising); for each a u16 mask of its sixteen 256-byte blocks (never 0), padded
 * with zeros to a multiple of 4 bytes; then, in the same order, each block of the mask
 * XORed with the pristine block. Memory past the pristine length counts as zeros. Because
 * blocks are bits of a rising page list, overlapping blocks cannot be written down.
 *
 * The baseline's hash is in the image because compiling the same source twice does not
 * give the same memory: the same component id alone would not prove the right base.
 *
 * M1 restoring gives exactly the bytes that were imaged, or throws corrupt-image.
 * M2 nothing is written to memory before every check has passed.
 */
import { assert, SporeError } from "./errors.ts";
import type { Digest } from "./ports.ts";

/** Lossless compression by one fixed algorithm. */
export interface Compressor {
  /** Written into what is stored; 0 is no compression, 1 zstd. */
  readonly id: number;
  compress(bytes: Uint8Array): Uint8Array;
  /** Throws if the result would be longer than `sizeMax`: a few bytes may claim gigabytes. */
  decompress(bytes: Uint8Array, sizeMax: number): Uint8Array;
}

/** What stored memory is checked and packed with. */
export interface ImageCodec {
  readonly compressor: Compressor;
  readonly digest: Digest;
  /** The platform's memcmp; finds dirty pages several times faster than a loop here does. */
  readonly isSame?: SameRange;
}

/** Whether two arrays have the same bytes from `from` until before `to`. */
export type SameRange = (left: Uint8Array, right: Uint8Array, from: number, to: number) => boolean;

/** The base of an image: what it is a difference from. */
export interface ImageBase {
  /** Hex sha256 of the engine. */
  readonly engine: string;
  /** Hex id of the component. */
  readonly component: string;
  readonly pristine: Uint8Array;
  /** sha256 of `pristine`. */
  readonly pristineHash: Uint8Array;
}

export const wasmPageBytes = 65536;
/** Memory that an image may have at most: 1 GiB. */
const imagePagesMax = 16384;
const stretchBytes = 32768;
const pageBytes = 4096;
const blockBytes = 256;
const blockWords = blockBytes / 4;
const headerBytes = 72;
const trailerBytes = 16;
const magic = 0x4d495053;
const formatVersion = 1;

assert(pageBytes / blockBytes === 16, "a page's blocks fit a 16-bit mask");
assert(wasmPageBytes % stretchBytes === 0, "memory is a whole number of stretches");
assert(stretchBytes % pageBytes === 0, "a stretch is a whole number of pages");

/** Packs the difference of `memory` from its base; `memory` is whole Wasm pages. */
export function takeImage(memory: Uint8Array, base: ImageBase, codec: ImageCodec): Uint8Array {
  const plain = difference(memory, base.pristine, codec.isSame);
  return sealDifference(plain, memory.length, base, codec);
}

/** Packs a difference that was taken before, of a memory of `memoryBytes`. */
export function sealDifference(
  plain: Uint8Array,
  memoryBytes: number,
  base: ImageBase,
  codec: ImageCodec,
): Uint8Array {
  const packed = codec.compressor.compress(plain);
  const image = new Uint8Array(headerBytes + packed.length + trailerBytes);
  const view = new DataView(image.buffer);
  view.setUint32(0, magic, true);
  view.setUint8(4, formatVersion);
  view.setUint8(5, codec.compressor.id);
  image.set(halfOfHex(base.engine), 8);
  image.set(halfOfHex(base.component), 24);
  image.set(base.pristineHash.subarray(0, 16), 40);
  view.setUint32(56, memoryBytes / wasmPageBytes, true);
  view.setUint32(64, plain.length, true);
  view.setUint32(68, packed.length, true);
  image.set(packed, headerBytes);
  const sum = codec.digest.sha256(image.subarray(0, image.length - trailerBytes));
  image.set(sum.subarray(0, trailerBytes), image.length - trailerBytes);
  return image;
}

/** An image whose header, checksum and difference have been checked against a base. */
export interface OpenImage {
  /** Wasm pages that the memory must have. */
  readonly pages: number;
  /** The plain difference, for `applyDifference`. */
  readonly difference: Uint8Array;
}

/** What an image says of itself: that it is whole. Throws corrupt-image. */
export function checkImage(image: Uint8Array, digest: Digest): void {
  if (image.length < headerBytes + trailerBytes) throw corrupt("is truncated");
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  if (view.getUint32(0, true) !== magic) throw corrupt("doesn't begin with its magic");
  if (view.getUint8(4) !== formatVersion) throw corrupt(`has version ${view.getUint8(4)}`);
  const packedBytes = view.getUint32(68, true);
  if (image.length !== headerBytes + packedBytes + trailerBytes)
    throw corrupt("has a wrong length");
  const end = image.length - trailerBytes;
  const sum = digest.sha256(image.subarray(0, end)).subarray(0, trailerBytes);
  if (!isEqual(sum, image.subarray(end))) throw corrupt("fails its checksum");
}

/** Checks an image against its base. Throws corrupt-image. */
export function openImage(image: Uint8Array, base: ImageBase, codec: ImageCodec): OpenImage {
  checkImage(image, codec.digest);
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const end = image.length - trailerBytes;
  if (view.getUint8(5) !== codec.compressor.id) {
    throw corrupt(`is compressed with algorithm ${view.getUint8(5)}, which this host lacks`);
  }
  if (!isEqual(image.subarray(8, 24), halfOfHex(base.engine))) {
    throw corrupt("belongs to another engine");
  }
  if (!isEqual(image.subarray(24, 40), halfOfHex(base.component))) {
    throw corrupt("belongs to another component");
  }
  if (!isEqual(image.subarray(40, 56), base.pristineHash.subarray(0, 16))) {
    throw corrupt("belongs to another build of the component");
  }
  const pages = view.getUint32(56, true);
  if (pages * wasmPageBytes < base.pristine.length || pages > imagePagesMax) {
    throw corrupt(`declares ${pages} memory pages`);
  }
  const plain = unpack(image.subarray(headerBytes, end), view.getUint32(64, true), pages, codec);
  checkDifference(plain, pages * wasmPageBytes);
  return { pages, difference: plain };
}

/**
 * Makes `memory` what it was when the image was taken. It must already have the image's
 * number of pages (`openImage`). Throws corrupt-image with `memory` untouched (M2).
 */
export function restoreImage(
  image: Uint8Array,
  memory: Uint8Array,
  base: ImageBase,
  codec: ImageCodec,
): void {
  const open = openImage(image, base, codec);
  if (memory.length !== open.pages * wasmPageBytes) {
    throw corrupt(`is of ${open.pages} pages, not of ${memory.length / wasmPageBytes}`);
  }
  resetMemory(memory, base.pristine);
  applyDifference(open.difference, memory);
}

/** Where bytes of a pristine memory are that aren't zero. */
export interface Extent {
  readonly from: number;
  readonly to: number;
}

/** Zeros between two extents are at least so many: filling less by itself isn't worth a call. */
const gapBytesMin = 16 * 1024;

/**
 * The extents of a memory, in order. What is outside is half of it: the unused stack, free
 * heap, and all but the last bytes of heap that nobody asked for yet.
 */
export function extentsOf(pristine: Uint8Array): readonly Extent[] {
  const extents: { from: number; to: number }[] = [];
  for (let at = 0; at < pristine.length; at++) {
    if (pristine[at] === 0) continue;
    const last = extents.at(-1);
    if (last === undefined || at - last.to >= gapBytesMin) extents.push({ from: at, to: at + 1 });
    else last.to = at + 1;
  }
  return extents;
}

/**
 * Makes `memory` pristine, including what lies past the pristine length. This is most of
 * the cost of a short run, and zeros are filled in half the time that it takes to copy them.
 */
export function resetMemory(
  memory: Uint8Array,
  pristine: Uint8Array,
  extents: readonly Extent[] = [{ from: 0, to: pristine.length }],
): void {
  assert(memory.length >= pristine.length, "memory holds its pristine contents");
  let at = 0;
  for (const { from, to } of extents) {
    memory.fill(0, at, from);
    memory.set(pristine.subarray(from, to), from);
    at = to;
  }
  memory.fill(0, at);
}

/**
 * The plain difference of a memory from its pristine contents. In levels, because most
 * pages are clean and most blocks of a dirty page are too: 32 KiB, pages, then blocks.
 */
export function difference(
  memory: Uint8Array,
  pristine: Uint8Array,
  isSame: SameRange = isSameRange,
): Uint8Array {
  assert(memory.length % wasmPageBytes === 0, "memory is whole Wasm pages");
  assert(pristine.length % wasmPageBytes === 0, "pristine memory is whole Wasm pages");
  assert(memory.length >= pristine.length, "memory never shrinks");
  const pages: number[] = [];
  for (let from = 0; from < pristine.length; from += stretchBytes) {
    if (isSame(memory, pristine, from, from + stretchBytes)) continue;
    for (let at = from; at < from + stretchBytes; at += pageBytes) {
      if (!isSame(memory, pristine, at, at + pageBytes)) pages.push(at / pageBytes);
    }
  }
  const now = words(memory);
  for (let at = pristine.length; at < memory.length; at += pageBytes) {
    if (!isZero(now, at)) pages.push(at / pageBytes);
  }
  const base = words(pristine);
  return writeDifference({ now, base, pages, masks: pages.map((p) => dirtyBlocks(now, base, p)) });
}

/** XORs a checked difference into a memory that is pristine. */
export function applyDifference(plain: Uint8Array, memory: Uint8Array): void {
  assert(memory.byteOffset % 4 === 0, "a Wasm memory is aligned");
  const view = new DataView(plain.buffer, plain.byteOffset, plain.byteLength);
  const target = words(memory);
  const count = view.getUint32(0, true);
  const source = words(plain);
  let at = blocksOffset(count) / 4;
  for (let index = 0; index < count; index++) {
    const page = view.getUint32(4 + index * 4, true);
    const mask = view.getUint16(4 + count * 4 + index * 2, true);
    for (let block = 0; block < 16; block++) {
      if ((mask & (1 << block)) === 0) continue;
      const first = (page * pageBytes + block * blockBytes) >> 2;
      for (let word = first; word < first + blockWords; word++) {
        target[word] = (target[word] ?? 0) ^ (source[at++] ?? 0);
      }
    }
  }
}

/** FNV-1a: the cheap check value of what an activation drained. Not for anything hostile. */
export function hash32(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < bytes.length; index++) {
    hash = Math.imul(hash ^ (bytes[index] ?? 0), 0x01000193);
  }
  return hash >>> 0;
}

/** First 16 bytes of a hex digest. */
export function halfOfHex(hex: string): Uint8Array {
  assert(/^[0-9a-f]{32,}$/.test(hex), "ids of engines and components are hex digests");
  const bytes = new Uint8Array(16);
  for (let index = 0; index < 16; index++) {
    bytes[index] = Number.parseInt(hex.slice(index * 2, index * 2 + 2), 16);
  }
  return bytes;
}

export function isEqual(left: Uint8Array, right: Uint8Array): boolean {
  if (left.length !== right.length) return false;
  for (let index = 0; index < left.length; index++) {
    if (left[index] !== right[index]) return false;
  }
  return true;
}

interface Dirt {
  readonly now: Int32Array;
  readonly base: Int32Array;
  /** Dirty pages, rising, and the dirty blocks of each. */
  readonly pages: readonly number[];
  readonly masks: readonly number[];
}

function writeDifference({ now, base, pages: dirty, masks }: Dirt): Uint8Array {
  const start = blocksOffset(dirty.length);
  const blockCount = masks.reduce((sum, mask) => sum + countBits(mask), 0);
  const plain = new Uint8Array(start + blockCount * blockBytes);
  const view = new DataView(plain.buffer);
  view.setUint32(0, dirty.length, true);
  const target = words(plain);
  let at = start / 4;
  for (let index = 0; index < dirty.length; index++) {
    const page = dirty[index] ?? 0;
    const mask = masks[index] ?? 0;
    view.setUint32(4 + index * 4, page, true);
    view.setUint16(4 + dirty.length * 4 + index * 2, mask, true);
    for (let block = 0; block < 16; block++) {
      if ((mask & (1 << block)) === 0) continue;
      const first = (page * pageBytes + block * blockBytes) >> 2;
      for (let word = first; word < first + blockWords; word++) {
        target[at++] = (now[word] ?? 0) ^ (base[word] ?? 0);
      }
    }
  }
  assert(at === target.length, "every dirty block is written once");
  return plain;
}

function unpack(
  packed: Uint8Array,
  plainBytes: number,
  pages: number,
  codec: ImageCodec,
): Uint8Array {
  // No difference is longer than all blocks and their table, whatever the header claims.
  const pageCount = (pages * wasmPageBytes) / pageBytes;
  if (plainBytes > blocksOffset(pageCount) + pages * wasmPageBytes) {
    throw corrupt(`declares a difference of ${plainBytes} bytes`);
  }
  let plain: Uint8Array;
  try {
    plain = codec.compressor.decompress(packed, plainBytes);
  } catch (cause) {
    throw corrupt("can't be decompressed", cause);
  }
  if (plain.length !== plainBytes) throw corrupt("isn't as long as it declares");
  return plain;
}

function checkDifference(plain: Uint8Array, memoryBytes: number): void {
  if (plain.length < 4) throw corrupt("has no block table");
  const view = new DataView(plain.buffer, plain.byteOffset, plain.byteLength);
  const count = view.getUint32(0, true);
  if (count > memoryBytes / pageBytes || blocksOffset(count) > plain.length) {
    throw corrupt(`declares ${count} dirty pages`);
  }
  let before = -1;
  let blockCount = 0;
  for (let index = 0; index < count; index++) {
    const page = view.getUint32(4 + index * 4, true);
    const mask = view.getUint16(4 + count * 4 + index * 2, true);
    if (page <= before) throw corrupt("has unsorted pages");
    if (page >= memoryBytes / pageBytes) throw corrupt(`has page ${page}, past the memory`);
    if (mask === 0) throw corrupt("has a dirty page without a block");
    before = page;
    blockCount += countBits(mask);
  }
  if (plain.length !== blocksOffset(count) + blockCount * blockBytes) {
    throw corrupt("has other blocks than its table says");
  }
}

/** The masks are padded with zeros to a whole word, so that blocks are aligned. */
function blocksOffset(pageCount: number): number {
  return 4 + pageCount * 4 + Math.ceil(pageCount / 2) * 4;
}

function isZero(now: Int32Array, at: number): boolean {
  for (let word = at >> 2; word < (at + pageBytes) >> 2; word++) {
    if (now[word] !== 0) return false;
  }
  return true;
}

const isSameRange: SameRange = (left, right, from, to) => {
  const now = words(left);
  const base = words(right);
  for (let word = from >> 2; word < to >> 2; word++) {
    if (now[word] !== base[word]) return false;
  }
  return true;
};

function dirtyBlocks(now: Int32Array, base: Int32Array, page: number): number {
  let mask = 0;
  for (let block = 0; block < 16; block++) {
    const first = (page * pageBytes + block * blockBytes) >> 2;
    for (let word = first; word < first + blockBytes / 4; word++) {
      if (now[word] === (base[word] ?? 0)) continue;
      mask |= 1 << block;
      break;
    }
  }
  return mask;
}

function countBits(mask: number): number {
  let count = 0;
  for (let rest = mask; rest !== 0; rest &= rest - 1) count++;
  return count;
}

/** As 32-bit words, without a copy where alignment allows. Little-endian, as Wasm is. */
function words(bytes: Uint8Array): Int32Array {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return new Int32Array(aligned.buffer, aligned.byteOffset, aligned.length >> 2);
}

function corrupt(what: string, cause?: unknown): SporeError {
  return new SporeError("corrupt-image", `the memory image ${what}`, { cause });
}
