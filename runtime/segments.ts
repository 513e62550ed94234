/**
 * Reads rows out of segments, remembering footers and, within a bound, the blocks that were
 * used last. Owns no knowledge about which segments a table has.
 */
import { assert } from "./errors.ts";
import type { Store } from "./ports.ts";
import type { Retrier } from "./retry.ts";
import {
  type BlockPlace,
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
  /** Of blocks; footers are kept besides (about 1.5 bytes per row and 40 per block). */
  readonly bytesMax: number;
}

export type HotRow =
  | { readonly kind: "row"; readonly value: Uint8Array | undefined }
  | { readonly kind: "absent" }
  /** Something must be read first. */
  | { readonly kind: "unknown" };

type Block = Rows<Uint8Array>;

/** What a row costs in memory besides its bytes in the block, about. */
const rowBytes = 80;
/** A scan asks for 1, 4, 16 … blocks at once, up to here (1 MiB). */
const readAheadMax = 64;

export class SegmentCache {
  readonly #options: SegmentCacheOptions;
  readonly #footers = new Map<string, Promise<Footer>>();
  readonly #footersHot = new Map<string, Footer>();
  /** Least recently used first. */
  readonly #blocks = new Map<string, { readonly block: Block; readonly bytes: number }>();
  #bytes = 0;
  /** Reads under way: a thousand that want one block read it once. */
  readonly #reads = new Map<string, Promise<Block[]>>();

  constructor(options: SegmentCacheOptions) {
    this.#options = options;
  }

  /** The row of a key; undefined if the segment has none. */
  async find(
    info: SegmentInfo,
    key: string,
  ): Promise<{ readonly value: Uint8Array | undefined } | undefined> {
    const footer = this.#footersHot.get(info.key) ?? (await this.#footer(info));
    if (!footer.bloom.mayHave(key)) return undefined;
    const index = blockFor(footer, key);
    if (index < 0) return undefined;
    const block = this.#cached(info, index) ?? (await this.#block(info, footer, index));
    return rowIn(block, key);
  }

  /** The same without waiting. */
  findHot(info: SegmentInfo, key: string): HotRow {
    const footer = this.#footersHot.get(info.key);
    if (footer === undefined) return { kind: "unknown" };
    const index = footer.bloom.mayHave(key) ? blockFor(footer, key) : -1;
    if (index < 0) return { kind: "absent" };
    const block = this.#cached(info, index);
    if (block === undefined) return { kind: "unknown" };
    const row = rowIn(block, key);
    return row === undefined ? { kind: "absent" } : { kind: "row", value: row.value };
  }

  /**
   * Rows of segments that follow each other, from `start` on, a block at a time. `isOnce`:
   * nobody will want them again, so they don't push others out of the cache.
   */
  rows(
    run: readonly SegmentInfo[],
    options: { readonly start: string; readonly isAfter: boolean; readonly isOnce?: boolean },
  ): () => Promise<Block> {
    const { start, isAfter, isOnce = false } = options;
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
        const footer = await this.#footer(info);
        next ??= Math.max(0, blockFor(footer, start));
        const end = Math.min(footer.blocks.length, next + ahead);
        read = await this.#blocksOf(info, footer, { from: next, end, isOnce });
        ahead = Math.min(ahead * 4, readAheadMax);
        next = end;
        if (end < footer.blocks.length) continue;
        segment += 1;
        next = 0;
      }
    };
  }

  /** Segments that a table no longer has. */
  forget(keys: ReadonlySet<string>): void {
    for (const key of keys) {
      this.#footers.delete(key);
      this.#footersHot.delete(key);
    }
    for (const [name, { bytes }] of this.#blocks) {
      if (!keys.has(name.slice(0, name.lastIndexOf("#")))) continue;
      this.#blocks.delete(name);
      this.#bytes -= bytes;
    }
  }

  #footer(info: SegmentInfo): Promise<Footer> {
    let footer = this.#footers.get(info.key);
    if (footer === undefined) {
      footer = this.#readFooter(info);
      this.#footers.set(info.key, footer);
      // Only success is remembered.
      footer.catch(() => this.#footers.delete(info.key));
    }
    return footer;
  }

  async #readFooter(info: SegmentInfo): Promise<Footer> {
    const { footerOffset: offset, bytes } = info;
    const read = await this.#read(info, offset, bytes - offset);
    const footer = decodeFooter(read, info, this.#options.tools.digest);
    // `forget` may have come first.
    if (this.#footers.has(info.key)) this.#footersHot.set(info.key, footer);
    return footer;
  }

  async #block(info: SegmentInfo, footer: Footer, index: number): Promise<Block> {
    const range = { from: index, end: index + 1, isOnce: false };
    const [block] = await this.#blocksOf(info, footer, range);
    if (block === undefined) throw damagedSegment(info.key, `it has no block ${index}`);
    return block;
  }

  /** Blocks next to each other with one read, or none if the cache has them all. */
  async #blocksOf(
    info: SegmentInfo,
    footer: Footer,
    range: { readonly from: number; readonly end: number; readonly isOnce: boolean },
  ): Promise<Block[]> {
    const { from, end, isOnce } = range;
    const places = footer.blocks.slice(from, end);
    const [first, last] = [places[0], places.at(-1)];
    if (first === undefined || last === undefined) return [];
    const cached = places.map((_, index) => this.#cached(info, from + index));
    const hot = cached.filter((block) => block !== undefined);
    if (hot.length === places.length) return hot;
    if (isOnce) return this.#readBlocks(info, places, { from, isOnce });
    const name = `${info.key}#${from}-${end}`;
    let read = this.#reads.get(name);
    if (read === undefined) {
      read = this.#readBlocks(info, places, { from, isOnce });
      this.#reads.set(name, read);
      const isOver = (): boolean => this.#reads.delete(name);
      read.then(isOver, isOver);
    }
    return [...(await read)]; // whoever scans takes them out of its own
  }

  async #readBlocks(
    info: SegmentInfo,
    places: readonly BlockPlace[],
    { from, isOnce }: { readonly from: number; readonly isOnce: boolean },
  ): Promise<Block[]> {
    const [first, last] = [places[0], places.at(-1)];
    assert(first !== undefined && last !== undefined, "there are blocks to read");
    const bytes = await this.#read(info, first.offset, last.offset + last.length - first.offset);
    return places.map((place, index) => {
      const at = place.offset - first.offset;
      const stored = bytes.subarray(at, at + place.length);
      // A cached block must not hold on to its neighbours.
      const own = isOnce || places.length === 1 ? stored : stored.slice();
      const block = decodeBlock(own, place, { ...this.#options.tools, key: info.key });
      if (!isOnce) this.#keep(info, from + index, { block, place });
      return block;
    });
  }

  #cached(info: SegmentInfo, index: number): Block | undefined {
    const name = `${info.key}#${index}`;
    const entry = this.#blocks.get(name);
    if (entry === undefined) return undefined;
    this.#blocks.delete(name);
    this.#blocks.set(name, entry);
    return entry.block;
  }

  #keep(info: SegmentInfo, index: number, read: { block: Block; place: BlockPlace }): void {
    // `forget` may have come first.
    if (!this.#footers.has(info.key)) return;
    const name = `${info.key}#${index}`;
    const bytes = read.place.rawLength + read.block.keys.length * rowBytes;
    this.#bytes += bytes - (this.#blocks.get(name)?.bytes ?? 0);
    this.#blocks.delete(name);
    this.#blocks.set(name, { block: read.block, bytes });
    for (const [oldest, entry] of this.#blocks) {
      if (this.#bytes <= this.#options.bytesMax) break;
      this.#blocks.delete(oldest);
      this.#bytes -= entry.bytes;
    }
  }

  async #read(info: SegmentInfo, offset: number, length: number): Promise<Uint8Array> {
    const { retrier, store } = this.#options;
    const range = { offset, length };
    const bytes = await retrier.run("table get", () => store.get(info.key, range));
    if (bytes === undefined) throw damagedSegment(info.key, "it is missing");
    return bytes;
  }
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
