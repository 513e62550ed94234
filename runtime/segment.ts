/**
 * An immutable file of sorted rows. Owns the format, and reading parts of it: a point
 * lookup reads the footer once and then one block.
 *
 *     blocks    rows in order: how many characters the key shares with the one before in
 *               the block, the rest of the key, value length + 1 (0: deleted), value
 *     footer    magic u32, version u8, counts (rows, deleted rows), per block: first key,
 *               offset, stored length, raw length, codec u8, 8 bytes of the SHA-256 of the
 *               stored bytes; then a Bloom filter over all keys and one over all folders
 *
 * A folder is the beginning of a key up to one of its slashes: who scans one leaves out the
 * segments that have no row in it, as a lookup leaves out those that don't have its key.
 *
 * Whoever refers to a segment (the table's manifest) keeps the footer's place and SHA-256,
 * so the footer is read and trusted with one ranged GET, and each block through it. Keys
 * are Latin-1: a byte per character, so that the order of bytes is the order of strings.
 */
import { ByteReader, ByteWriter, isSameBytes, Truncated } from "./bytes.ts";
import { assert, SporeError } from "./errors.ts";
import type { Digest } from "./ports.ts";
import { lowerBound, type Rows } from "./sorted.ts";

/** What a manifest keeps about a segment. */
export interface SegmentInfo {
  readonly key: string;
  readonly level: number;
  readonly bytes: number;
  readonly footerOffset: number;
  readonly footerHash: Uint8Array;
  readonly rows: number;
  readonly deleted: number;
  readonly firstKey: string;
  readonly lastKey: string;
}

/** Optional compression of blocks; its id is stored with each block that uses it. */
export interface Codec {
  /** 1 to 255. */
  readonly id: number;
  compress(bytes: Uint8Array): Uint8Array;
  decompress(bytes: Uint8Array, rawBytes: number): Uint8Array;
}

export interface SegmentTools {
  readonly digest: Digest;
  readonly codec: Codec | undefined;
}

export interface SegmentWriterOptions extends SegmentTools {
  /** A block is ended at this size: what a point lookup reads. */
  readonly blockBytes: number;
}

export interface BlockPlace {
  readonly offset: number;
  readonly length: number;
  readonly rawLength: number;
  readonly codec: number;
  readonly check: Uint8Array;
}

export interface Footer {
  readonly firstKeys: readonly string[];
  readonly blocks: readonly BlockPlace[];
  readonly keys: Bloom;
  /** Undefined: the segment was written before there were such filters. */
  readonly folders: Bloom | undefined;
}

const magic = 0x67737073;
const version = 1;
const checkBytes = 8;
/** Bound on what a block may claim to be when unpacked: one row can be large. */
const rawBytesMax = 512 * 1024 * 1024;

/** Takes rows in order, gives the segment's bytes. */
export class SegmentWriter {
  readonly #options: SegmentWriterOptions;
  readonly #out = new ByteWriter(64 * 1024);
  readonly #index = new ByteWriter();
  readonly #keyHashes: number[] = [];
  readonly #folderHashes: number[] = [];
  #block = new ByteWriter();
  #blockFirst = "";
  #blocks = 0;
  #deleted = 0;
  #firstKey = "";
  #lastKey = "";

  constructor(options: SegmentWriterOptions) {
    this.#options = options;
  }

  get rows(): number {
    return this.#keyHashes.length / 2;
  }

  /** So far, without the footer. */
  get bytes(): number {
    return this.#out.length + this.#block.length;
  }

  add(key: string, value: Uint8Array | undefined): void {
    assert(this.rows === 0 || key > this.#lastKey, "rows come in order");
    const isFirst = this.#block.length === 0;
    if (isFirst) this.#blockFirst = key;
    if (this.rows === 0) this.#firstKey = key;
    const sharedWithLast = sharedLength(this.#lastKey, key);
    const shared = isFirst ? 0 : sharedWithLast;
    this.#block.count(shared);
    this.#block.latin1(key, shared);
    this.#block.count(value === undefined ? 0 : value.length + 1);
    if (value === undefined) this.#deleted += 1;
    else this.#block.raw(value);
    this.#lastKey = key;
    this.#hash(key, sharedWithLast);
    if (this.#block.length >= this.#options.blockBytes) this.#endBlock();
  }

  finish(place: { readonly key: string; readonly level: number }): {
    readonly bytes: Uint8Array;
    readonly info: SegmentInfo;
  } {
    assert(this.rows > 0, "a segment has rows");
    if (this.#block.length > 0) this.#endBlock();
    const footer = new ByteWriter();
    footer.u32(magic);
    footer.u8(version);
    for (const value of [this.rows, this.#deleted, this.#blocks]) footer.count(value);
    footer.raw(this.#index.done());
    footer.bytes(bloomOf(this.#keyHashes));
    footer.bytes(bloomOf(this.#folderHashes));
    const footerOffset = this.#out.length;
    const footerHash = this.#options.digest.sha256(footer.done());
    this.#out.raw(footer.done());
    const bytes = this.#out.done();
    const info: SegmentInfo = {
      ...place,
      bytes: bytes.length,
      footerOffset,
      footerHash,
      rows: this.rows,
      deleted: this.#deleted,
      firstKey: this.#firstKey,
      lastKey: this.#lastKey,
    };
    return { bytes, info };
  }

  /** The key, and its folders but for those that the key before, in order, had as well. */
  #hash(key: string, shared: number): void {
    let hash = hashStart;
    for (let index = 0; index < key.length; index += 1) {
      const unit = key.charCodeAt(index);
      hash = hashStep(hash, unit);
      if (unit === slash && index >= shared) this.#folderHashes.push(hash >>> 0, secondHash(hash));
    }
    this.#keyHashes.push(hash >>> 0, secondHash(hash));
  }

  #endBlock(): void {
    const { codec, digest } = this.#options;
    const raw = this.#block.done();
    const packed = codec?.compress(raw);
    const isPacked = packed !== undefined && packed.length < raw.length;
    const stored = isPacked ? packed : raw;
    this.#index.latin1(this.#blockFirst);
    for (const value of [this.#out.length, stored.length, raw.length]) this.#index.count(value);
    this.#index.u8(isPacked && codec ? codec.id : 0);
    this.#index.raw(digest.sha256(stored).subarray(0, checkBytes));
    this.#out.raw(stored);
    this.#block = new ByteWriter(this.#options.blockBytes * 2);
    this.#blocks += 1;
  }
}

export function decodeFooter(bytes: Uint8Array, info: SegmentInfo, digest: Digest): Footer {
  if (!isSameBytes(digest.sha256(bytes), info.footerHash)) {
    throw damagedSegment(info.key, "its footer's hash does not fit");
  }
  return decoding(info.key, () => {
    const reader = new ByteReader(bytes);
    if (reader.u32() !== magic) throw new Truncated("it is not a segment");
    const found = reader.u8();
    if (found !== version) throw new Truncated(`its format is version ${found}, not ${version}`);
    reader.count();
    reader.count();
    const count = reader.count();
    const firstKeys: string[] = [];
    const blocks: BlockPlace[] = [];
    for (let index = 0; index < count; index += 1) {
      firstKeys.push(reader.latin1());
      const [offset, length, rawLength] = [reader.count(), reader.count(), reader.count()];
      const codec = reader.u8();
      blocks.push({ offset, length, rawLength, codec, check: reader.raw(checkBytes) });
    }
    const keys = new Bloom(reader.bytes());
    const folders = reader.left === 0 ? undefined : new Bloom(reader.bytes());
    return { firstKeys, blocks, keys, folders };
  });
}

/** The folder in which all keys are that begin with the prefix; undefined if there is none. */
export function folderOf(prefix: string): string | undefined {
  const end = prefix.lastIndexOf("/") + 1;
  return end === 0 ? undefined : prefix.slice(0, end);
}

/** The rows of one block from its stored bytes. */
export function decodeBlock(
  stored: Uint8Array,
  place: BlockPlace,
  options: SegmentTools & { readonly key: string },
): Rows<Uint8Array> {
  const { key, digest } = options;
  const check = digest.sha256(stored).subarray(0, checkBytes);
  if (stored.length !== place.length || !isSameBytes(check, place.check)) {
    throw damagedSegment(key, `the block at ${place.offset} does not fit its check`);
  }
  return decoding(key, () => decodeRows(unpack(stored, place, options)));
}

function decodeRows(raw: Uint8Array): Rows<Uint8Array> {
  const reader = new ByteReader(raw);
  const keys: string[] = [];
  const values: (Uint8Array | undefined)[] = [];
  let last = "";
  while (reader.left > 0) {
    const shared = reader.count();
    if (shared > last.length) throw new Truncated("a key shares more than there is");
    last = last.slice(0, shared) + reader.latin1();
    const length = reader.count();
    keys.push(last);
    values.push(length === 0 ? undefined : reader.raw(length - 1));
  }
  return { keys, values };
}

function unpack(
  stored: Uint8Array,
  place: BlockPlace,
  options: SegmentTools & { readonly key: string },
): Uint8Array {
  if (place.codec === 0) return stored;
  const { codec, key } = options;
  if (place.codec !== codec?.id || place.rawLength > rawBytesMax) {
    throw damagedSegment(key, `the block at ${place.offset} has the unknown codec ${place.codec}`);
  }
  const raw = codec.decompress(stored, place.rawLength);
  if (raw.length !== place.rawLength) throw new Truncated("a block unpacks to another length");
  return raw;
}

/** Index of the block that holds the key if the segment does; -1 if it is before all. */
export function blockFor(footer: Footer, key: string): number {
  const at = lowerBound(footer.firstKeys, key);
  return footer.firstKeys[at] === key ? at : at - 1;
}

export function damagedSegment(key: string, why: string): SporeError {
  return new SporeError("corrupt-segment", `segment ${key} is damaged: ${why}`, {
    hint: "Restore this object from a backup or another version; nothing else repairs it.",
  });
}

function decoding<T>(key: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof Truncated) throw damagedSegment(key, error.message);
    throw error;
  }
}

function sharedLength(left: string, right: string): number {
  const end = Math.min(left.length, right.length);
  let length = 0;
  while (length < end && left.charCodeAt(length) === right.charCodeAt(length)) length += 1;
  return length;
}

/** Bits per entry and probes: about one false answer in a hundred. */
const bloomBitsPerEntry = 10;
const bloomProbes = 7;

/** Says for certain that a text isn't among its own, or that it may be. */
export class Bloom {
  readonly #bits: Uint8Array;

  constructor(bits: Uint8Array) {
    this.#bits = bits;
  }

  mayHave(text: string): boolean {
    const [first, second] = hashesOf(text);
    const count = this.#bits.length * 8;
    for (let probe = 0; probe < bloomProbes; probe += 1) {
      const bit = (first + Math.imul(probe, second)) >>> 0;
      if (!hasBit(this.#bits, bit % count)) return false;
    }
    return true;
  }
}

/** From pairs of hashes; a power of two is not needed, a byte count is. */
function bloomOf(hashes: readonly number[]): Uint8Array {
  const bits = new Uint8Array(
    Math.max(8, Math.ceil(((hashes.length / 2) * bloomBitsPerEntry) / 8)),
  );
  const count = bits.length * 8;
  for (let at = 0; at < hashes.length; at += 2) {
    for (let probe = 0; probe < bloomProbes; probe += 1) {
      const bit = (((hashes[at] ?? 0) + Math.imul(probe, hashes[at + 1] ?? 0)) >>> 0) % count;
      bits[bit >>> 3] = (bits[bit >>> 3] ?? 0) | (1 << (bit & 7));
    }
  }
  return bits;
}

function hasBit(bits: Uint8Array, bit: number): boolean {
  return (((bits[bit >>> 3] ?? 0) >>> (bit & 7)) & 1) === 1;
}

const slash = 0x2f;
const hashStart = 0x811c9dc5;

/** Two hashes of a text (FNV-1a, then mixed), stored in filters and so part of the format. */
function hashesOf(text: string): readonly [number, number] {
  let hash = hashStart;
  for (let index = 0; index < text.length; index += 1) {
    hash = hashStep(hash, text.charCodeAt(index));
  }
  return [hash >>> 0, secondHash(hash)];
}

function hashStep(hash: number, unit: number): number {
  return Math.imul(hash ^ unit, 0x01000193);
}

function secondHash(hash: number): number {
  let other = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  other = Math.imul(other ^ (other >>> 13), 0xc2b2ae35);
  return ((other ^ (other >>> 16)) | 1) >>> 0;
}
