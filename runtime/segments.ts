/**
 * Reads rows out of segments, remembering, within bounds, the footers and the blocks that were
 * used last. Owns no knowledge about which segments a table has.
 *
 * A lookup or a scan of a folder reads no block of a segment that has nothing of it (but for one
 * in a hundred: the filters may err), and none that lies wholly behind its range. So what a wake
 * reads doesn't grow with the levels: the blocks that the entity lies in, mostly one.
 */
import { assert } from "./errors.ts";
import type { Store } from "./ports.ts";
import type { Retrier } from "./retry.ts";
import {
  blockFor,
  damagedSegment,
  decodeBlock,
  decodeFooter,
  type Footer,
  type SegmentInfo,
  type SegmentTools,
} from "./segment.ts";
import { lowerBound, type Rows } from "./sorted.ts";

export interface SegmentCacheOptions {
  readonly store: Store;
  readonly retrier: Retrier;
  readonly tools: SegmentTools;
  /** Of blocks. */
  readonly blockBytesMax: number;
  /** Of footers: about 3 bytes per row and 300 per block. */
  readonly footerBytesMax: number;
}

export type HotRow =
  | { readonly kind: "row"; readonly value: Uint8Array | undefined }
  | { readonly kind: "absent" }
  /** Something must be read first. */
  | { readonly kind: "unknown" };

type Block = Rows<Uint8Array>;

interface BlocksRange {
  readonly from: number;
  readonly end: number;
  readonly isOnce: boolean;
}

/** What a row costs in memory besides its bytes in the block, about. */
const rowBytes = 80;
/** What a block's place costs in memory besides its bytes in the footer, about. */
const placeBytes = 250;
/** A range in so few blocks is read at once: most entities, where they lie across an end. */
const wholeBlocksMax = 4;
/** A longer scan asks for 1, 4, 16 … blocks at once, up to here. */
const readAheadMax = 64;
/** And for no more than this, unless one block is larger. */
const readAheadBytes = 1024 * 1024;

export interface RowsRange {
  readonly start: string;
  readonly isAfter: boolean;
  /** Exclusive: rows behind it may be given, blocks behind it aren't read. */
  readonly end?: string | undefined;
  /** All rows that are wanted are in it. */
  readonly folder?: string | undefined;
  /** Nobody will want them again, so they don't push others out of the cache. */
  readonly isOnce?: boolean;
}

export class SegmentCache {
  readonly #options: SegmentCacheOptions;
  readonly #footers: Recent<Footer>;
  /** Under the segment's key and their index. */
  readonly #blocks: Recent<Block>;
  /** Reads under way: a thousand that want one block, or one footer, read it once. */
  readonly #footerReads = new Map<string, Promise<Footer>>();
  readonly #reads = new Map<string, Promise<Block[]>>();

  constructor(options: SegmentCacheOptions) {
    this.#options = options;
    this.#footers = new Recent(options.footerBytesMax);
    this.#blocks = new Recent(options.blockBytesMax);
  }

  /** The row of a key; undefined if the segment has none. */
  async find(
    info: SegmentInfo,
    key: string,
  ): Promise<{ readonly value: Uint8Array | undefined } | undefined> {
    const footer = this.#footers.get(info.key) ?? (await this.#footer(info));
    const index = footer.keys.mayHave(key) ? blockFor(footer, key) : -1;
    if (index < 0) return undefined;
    const block = this.#cached(info, index) ?? (await this.#block(info, footer, index));
    return rowIn(block, key);
  }

  /** The same without waiting. */
  findHot(info: SegmentInfo, key: string): HotRow {
    const footer = this.#footers.get(info.key);
    if (footer === undefined) return { kind: "unknown" };
    const index = footer.keys.mayHave(key) ? blockFor(footer, key) : -1;
    if (index < 0) return { kind: "absent" };
    const block = this.#cached(info, index);
    if (block === undefined) return { kind: "unknown" };
    const row = rowIn(block, key);
    return row === undefined ? { kind: "absent" } : { kind: "row", value: row.value };
  }

  /** Rows of segments that follow each other, in pieces of a block. */
  rows(run: readonly SegmentInfo[], range: RowsRange): () => Promise<Block> {
    const { start, isAfter, isOnce = false } = range;
    let segment = 0;
    let next: number | undefined;
    let ahead = isOnce ? readAheadMax : 1;
    let read: Block[] = [];
    return async () => {
      for (;;) {
        const ready = read.shift();
        if (ready !== undefined) {
          const rows = rowsFrom(ready, start, isAfter);
          if (rows.keys.length > 0) return rows;
          continue;
        }
        const info = run[segment];
        if (info === undefined) return { keys: [], values: [] };
        const footer = this.#footers.get(info.key) ?? (await this.#footer(info));
        const { from, end } = blocksIn(footer, range);
        next ??= from;
        if (next < end) {
          const most = end - next <= wholeBlocksMax ? end : Math.min(end, next + ahead);
          const to = fitting(footer, next, most);
          read = await this.#blocksOf(info, footer, { from: next, end: to, isOnce });
          ahead = Math.min(ahead * 4, readAheadMax);
          next = to;
        }
        if (next < end) continue;
        segment += 1;
        next = undefined;
      }
    };
  }

  /** Segments that a table no longer has. */
  forget(keys: ReadonlySet<string>): void {
    for (const key of keys) {
      this.#footers.delete(key);
      this.#footerReads.delete(key);
    }
    for (const name of this.#blocks.names()) {
      if (keys.has(name.slice(0, name.lastIndexOf("#")))) this.#blocks.delete(name);
    }
  }

  #footer(info: SegmentInfo): Promise<Footer> {
    let read = this.#footerReads.get(info.key);
    if (read === undefined) {
      read = this.#readFooter(info);
      this.#footerReads.set(info.key, read);
      const isOver = (): boolean => this.#footerReads.delete(info.key);
      read.then(isOver, isOver);
    }
    return read;
  }

  async #readFooter(info: SegmentInfo): Promise<Footer> {
    const { footerOffset: offset, bytes } = info;
    const read = await this.#read(info, offset, bytes - offset);
    const footer = decodeFooter(read, info, this.#options.tools.digest);
    this.#footers.set(info.key, footer, read.length + footer.blocks.length * placeBytes);
    return footer;
  }

  async #block(info: SegmentInfo, footer: Footer, index: number): Promise<Block> {
    const range = { from: index, end: index + 1, isOnce: false };
    const [block] = await this.#blocksOf(info, footer, range);
    if (block === undefined) throw damagedSegment(info.key, `it has no block ${index}`);
    return block;
  }

  /** Blocks next to each other: with one read from the first to the last that aren't cached. */
  async #blocksOf(
    info: SegmentInfo,
    footer: Footer,
    { from, end, isOnce }: BlocksRange,
  ): Promise<Block[]> {
    const cached: (Block | undefined)[] = [];
    for (let index = from; index < end; index += 1) cached.push(this.#cached(info, index));
    const first = cached.indexOf(undefined);
    const last = cached.lastIndexOf(undefined);
    if (first >= 0) {
      const missing = { from: from + first, end: from + last + 1, isOnce };
      const read = isOnce
        ? this.#readBlocks(info, footer, missing)
        : this.#readOnce(info, footer, missing);
      cached.splice(first, last + 1 - first, ...(await read));
    }
    return cached.filter((block) => block !== undefined);
  }

  /** What several want at a time is read once. */
  #readOnce(info: SegmentInfo, footer: Footer, range: BlocksRange): Promise<Block[]> {
    const name = `${info.key}#${range.from}-${range.end}`;
    let read = this.#reads.get(name);
    if (read === undefined) {
      read = this.#readBlocks(info, footer, range);
      this.#reads.set(name, read);
      const isOver = (): boolean => this.#reads.delete(name);
      read.then(isOver, isOver);
    }
    return read;
  }

  async #readBlocks(
    info: SegmentInfo,
    footer: Footer,
    { from, end, isOnce }: BlocksRange,
  ): Promise<Block[]> {
    const places = footer.blocks.slice(from, end);
    const [first, last] = [places[0], places.at(-1)];
    assert(first !== undefined && last !== undefined, "there are blocks to read");
    const bytes = await this.#read(info, first.offset, last.offset + last.length - first.offset);
    return places.map((place, index) => {
      const at = place.offset - first.offset;
      const stored = bytes.subarray(at, at + place.length);
      // A cached block must not hold on to its neighbours.
      const own = isOnce || places.length === 1 ? stored : stored.slice();
      const block = decodeBlock(own, place, { ...this.#options.tools, key: info.key });
      if (!isOnce) {
        const blockBytes = place.rawLength + block.keys.length * rowBytes;
        this.#blocks.set(`${info.key}#${from + index}`, block, blockBytes);
      }
      return block;
    });
  }

  #cached(info: SegmentInfo, index: number): Block | undefined {
    return this.#blocks.get(`${info.key}#${index}`);
  }

  async #read(info: SegmentInfo, offset: number, length: number): Promise<Uint8Array> {
    const { retrier, store } = this.#options;
    const range = { offset, length };
    const bytes = await retrier.run("table get", () => store.get(info.key, range));
    if (bytes === undefined) throw damagedSegment(info.key, "it is missing");
    return bytes;
  }
}

/** What was used last, within a bound. */
class Recent<Value> {
  readonly #bytesMax: number;
  /** Least recently used first. */
  readonly #entries = new Map<string, { readonly value: Value; readonly bytes: number }>();
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get(name: string): Value | undefined {
    const entry = this.#entries.get(name);
    if (entry === undefined) return undefined;
    this.#entries.delete(name);
    this.#entries.set(name, entry);
    return entry.value;
  }

  set(name: string, value: Value, bytes: number): void {
    this.delete(name);
    this.#entries.set(name, { value, bytes });
    this.#bytes += bytes;
    for (const oldest of this.#entries.keys()) {
      if (this.#bytes <= this.#bytesMax) break;
      this.delete(oldest);
    }
  }

  delete(name: string): void {
    this.#bytes -= this.#entries.get(name)?.bytes ?? 0;
    this.#entries.delete(name);
  }

  names(): Iterable<string> {
    return this.#entries.keys();
  }
}

/** Where in a segment rows of the range may be; `end` isn't after `from` if nowhere. */
function blocksIn(
  footer: Footer,
  { start, end, folder }: RowsRange,
): { readonly from: number; readonly end: number } {
  const isOutside = folder !== undefined && footer.folders?.mayHave(folder) === false;
  if (isOutside) return { from: 0, end: 0 };
  return {
    from: Math.max(0, blockFor(footer, start)),
    end: end === undefined ? footer.blocks.length : lowerBound(footer.firstKeys, end),
  };
}

/** Up to which block, of those up to `end`, they are read at once. */
function fitting({ blocks }: Footer, from: number, end: number): number {
  let bytes = blocks[from]?.length ?? 0;
  let to = from + 1;
  for (; to < end; to += 1) {
    bytes += blocks[to]?.length ?? 0;
    if (bytes > readAheadBytes) break;
  }
  return to;
}

function rowIn(block: Block, key: string): { value: Uint8Array | undefined } | undefined {
  const at = lowerBound(block.keys, key);
  return block.keys[at] === key ? { value: block.values[at] } : undefined;
}

function rowsFrom(block: Block, start: string, isAfter: boolean): Block {
  let at = lowerBound(block.keys, start);
  if (isAfter && block.keys[at] === start) at += 1;
  return at === 0 ? block : { keys: block.keys.slice(at), values: block.values.slice(at) };
}
