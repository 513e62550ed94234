/**
 * A partition's rows: a sorted map from strings to bytes, of which only what changed lately
 * is in memory. A log-structured merge tree whose write-ahead log is the partition's log:
 * the owner puts `encodeBatch` of its changes into a log entry and gives the same changes
 * to `apply`; this file writes segments, never the log.
 *
 * B1 `checkpoint` encodes the list of segments and every row that is in none of them, as of
 *    that moment: exactly the state after all `apply` calls so far. Called in the same turn
 *    as `Log.append("checkpoint", …)`, with everything applied that earlier entries hold, a
 *    new owner gets the state from `open(checkpoint)` and `apply` of the batches after it.
 *    Applying a batch twice does no harm.
 * B2 Segments are immutable, have names that no other owner, life or attempt can have (epoch,
 *    counter, nonce), and a row is in the newest of: memory, level 0 from the newest segment
 *    to the oldest, level 1, level 2 … Below level 0 the segments of a level don't overlap.
 * B3 A segment that merging made superfluous is deleted only after a checkpoint without it
 *    is durable (`commit`). A later owner begins from that checkpoint or a newer one, so it
 *    never misses what an earlier one deletes, however late.
 *
 * `flush` and `compact` run beside reads and `apply`, one of each at a time, and yield to
 * the event loop between pieces. One call of `compact` merges one segment with those that
 * it overlaps in the next level (or all of level 0 with level 1; with each other while they
 * are small beside it): bounded by the sizes in `defaults`, whatever the table's size. A
 * segment that overlaps none goes down as it is.
 *
 * Keys are Latin-1, which `encodeBatch` sees to. Bytes handed in or out are shared, not copied:
 * nobody changes them.
 */
import { type Batch, encodeBatch, readBatch } from "./batch.ts";
import { ByteReader, ByteWriter, hexOf, Truncated } from "./bytes.ts";
import { assert, SporeError } from "./errors.ts";
import { Merge, type Source } from "./merge.ts";
import type { Clock, Digest, Observer, Random, Store } from "./ports.ts";
import { Retrier } from "./retry.ts";
import { type Codec, folderOf, type SegmentInfo, SegmentWriter } from "./segment.ts";
import { type RowsRange, SegmentCache } from "./segments.ts";
import { SortedMap } from "./sorted.ts";
import { seqText } from "./tail.ts";

export interface TableOptions {
  readonly store: Store;
  /** Before `/table/…`; a folder of the partition. */
  readonly prefix: string;
  /** The owner's, from the log's claim. */
  readonly epoch: number;
  readonly random: Random;
  readonly digest: Digest;
  readonly clock: Clock;
  readonly observer: Observer;
  readonly codec?: Codec | undefined;
  readonly limits?: Partial<TableLimits>;
}

export interface TableLimits {
  /** Of blocks read, all segments together. */
  readonly cacheBytesMax: number;
  /** Of footers read, which say where a row may be. */
  readonly footerBytesMax: number;
  /** A block is ended at this size: what a point lookup reads. */
  readonly blockBytes: number;
  /** A segment is ended at this size. */
  readonly segmentBytesMax: number;
  /** As many segments in level 0 are merged into level 1. */
  readonly levelZeroMax: number;
  /** Of level 1; each further level may have ten times as much. */
  readonly levelOneBytesMax: number;
}

const defaults: TableLimits = Object.freeze({
  cacheBytesMax: 32 * 1024 * 1024,
  footerBytesMax: 32 * 1024 * 1024,
  blockBytes: 16 * 1024,
  segmentBytesMax: 8 * 1024 * 1024,
  levelZeroMax: 4,
  levelOneBytesMax: 32 * 1024 * 1024,
});

export interface Range {
  /** Only keys that begin with it. */
  readonly prefix?: string;
  /** Inclusive. */
  readonly from?: string;
  /** Exclusive: where the last page ended. */
  readonly after?: string;
  /** Exclusive. */
  readonly to?: string;
  /** Rows at most in this page; default 1000. */
  readonly limit?: number;
  /** The page ends with the row that makes it as large as this; default: no matter how large. */
  readonly bytesMax?: number;
}

export interface Page {
  readonly entries: readonly (readonly [key: string, value: Uint8Array])[];
  /** False: there are more rows after the last of these. */
  readonly isDone: boolean;
}

export interface TableCheckpoint {
  readonly bytes: Uint8Array;
  /** For `commit`. */
  readonly generation: number;
}

/** What one call of `compact` does: the upper ones and those below become some of the target level. */
interface Job {
  readonly level: number;
  readonly upper: readonly SegmentInfo[];
  readonly lower: readonly SegmentInfo[];
  readonly target: number;
}

type Memtable = SortedMap<Uint8Array>;

const levelRatio = 10;
const pageRowsDefault = 1000;
/** Rows of what is read whole that one look takes. */
const rowsPerRead = 10_000;
const memtableRowBytes = 64;
const sliceRows = 256;
/** Work between two turns of the event loop. */
const breathBytes = 256 * 1024;
const checkpointVersion = 1;

export class Table {
  readonly #options: TableOptions;
  readonly #limits: TableLimits;
  readonly #retrier: Retrier;
  readonly #cache: SegmentCache;
  #memtable: Memtable = new SortedMap();
  #memtableBytes = 0;
  /** Being written by `flush`. */
  #frozen: Memtable | undefined;
  #frozenBytes = 0;
  /** By level; level 0 newest first, the others by key. */
  #levels: readonly (readonly SegmentInfo[])[] = [];
  #generation = 0;
  #obsolete: { readonly key: string; readonly generation: number }[] = [];
  #counter = 0;
  /** Per level: the key after which the next merge looks for its segment. */
  readonly #mergedUpTo: string[] = [];
  #flushing: Promise<boolean> | undefined;
  #compacting: Promise<boolean> | undefined;

  /** Use `open`. */
  constructor(options: TableOptions) {
    this.#options = options;
    this.#limits = { ...defaults, ...options.limits };
    this.#retrier = new Retrier(options.clock, options.observer);
    this.#cache = new SegmentCache({
      store: options.store,
      retrier: this.#retrier,
      tools: { digest: options.digest, codec: options.codec },
      blockBytesMax: this.#limits.cacheBytesMax,
      footerBytesMax: this.#limits.footerBytesMax,
    });
  }

  /** The table as of a checkpoint, or an empty one. Reads no segment. */
  static open(options: TableOptions, checkpoint?: Uint8Array): Table {
    const table = new Table(options);
    if (checkpoint !== undefined) table.#restore(checkpoint);
    return table;
  }

  /** Bytes of rows that are only in memory: what the owner decides by when to flush. */
  get memtableBytes(): number {
    return this.#memtableBytes + this.#frozenBytes;
  }

  /** Segments now, for metrics. */
  get segments(): readonly SegmentInfo[] {
    return this.#levels.flat();
  }

  /** Takes over changes; `undefined` deletes the row. Visible at once. */
  apply(batch: Batch): void {
    for (const [key, value] of batch) {
      const before = this.#memtable.find(key);
      if (before !== undefined) this.#memtableBytes -= rowBytes(key, before.value);
      this.#memtableBytes += rowBytes(key, value);
      this.#memtable.set(key, value);
    }
  }

  async get(key: string): Promise<Uint8Array | undefined> {
    const inMemory = this.#memtable.find(key) ?? this.#frozen?.find(key);
    if (inMemory !== undefined) return inMemory.value;
    return this.#reading(async () => {
      for (const info of this.#candidates(key)) {
        const row = await this.#cache.find(info, key);
        if (row !== undefined) return row.value;
      }
      return undefined;
    });
  }

  /** The answer of `get` if it can be given without waiting; undefined if it can't. */
  getHot(key: string): { readonly value: Uint8Array | undefined } | undefined {
    const inMemory = this.#memtable.find(key) ?? this.#frozen?.find(key);
    if (inMemory !== undefined) return inMemory;
    for (const info of this.#candidates(key)) {
      const found = this.#cache.findHot(info, key);
      if (found.kind === "unknown") return undefined;
      if (found.kind === "row") return { value: found.value };
    }
    return { value: undefined };
  }

  /** All rows below a prefix that has few. */
  async all(prefix: string): Promise<(readonly [string, Uint8Array])[]> {
    const rows: (readonly [string, Uint8Array])[] = [];
    for (let after: string | undefined; ; after = rows.at(-1)?.[0]) {
      const range = { prefix, limit: rowsPerRead, ...(after === undefined ? {} : { after }) };
      const page = await this.scan(range);
      rows.push(...page.entries);
      if (page.isDone) return rows;
    }
  }

  /**
   * One page of rows in code-unit order. Each row is as it was at some moment of the call;
   * without `apply` meanwhile all are of one moment.
   */
  async scan(range: Range = {}): Promise<Page> {
    const { limit = pageRowsDefault, bytesMax = Number.POSITIVE_INFINITY } = range;
    const { start, isAfter, end } = boundsOf(range);
    const folder = folderOf(range.prefix ?? "");
    return this.#reading(async () => {
      const entries: [string, Uint8Array][] = [];
      const merge = new Merge(this.#sourcesOf({ start, isAfter, end, folder }));
      let bytes = 0;
      for (;;) {
        const row = merge.takeIfFilled() ?? ((await merge.fill()) ? merge.take() : undefined);
        if (row === undefined || (end !== undefined && row.key >= end)) {
          return { entries, isDone: true };
        }
        if (row.value === undefined) continue;
        if (entries.length === limit || bytes >= bytesMax) return { entries, isDone: false };
        entries.push([row.key, row.value]);
        bytes += row.key.length + row.value.length;
      }
    });
  }

  /**
   * Writes all rows that are only in memory as segments. Reads and `apply` go on. True if
   * there were any: then a `checkpoint` is worth taking.
   */
  flush(): Promise<boolean> {
    this.#flushing ??= this.#flush().finally(() => {
      this.#flushing = undefined;
    });
    return this.#flushing;
  }

  /** Does one piece of merging; false if none is due. */
  compact(): Promise<boolean> {
    this.#compacting ??= this.#compact().finally(() => {
      this.#compacting = undefined;
    });
    return this.#compacting;
  }

  /** B1. Small after a flush; without one it contains all rows that are only in memory. */
  checkpoint(): TableCheckpoint {
    const writer = new ByteWriter(1024);
    writer.u8(checkpointVersion);
    writer.count(this.segments.length);
    for (const info of this.segments) encodeInfo(writer, info);
    const rows = new Map<string, Uint8Array | undefined>();
    for (const source of [this.#frozen, this.#memtable]) {
      if (source === undefined) continue;
      const all = source.slice("", { isAfter: false, max: source.size });
      for (const [index, key] of all.keys.entries()) rows.set(key, all.values[index]);
    }
    writer.raw(encodeBatch(rows));
    return { bytes: writer.done(), generation: this.#generation };
  }

  /**
   * The checkpoint of that generation is durable: deletes what it no longer names (B3). What
   * can't be deleted is tried again by the next call.
   */
  async commit(generation: number): Promise<void> {
    const superfluous = this.#obsolete.filter((segment) => segment.generation <= generation);
    for (const segment of superfluous) {
      if (!(await this.#delete(segment.key))) continue;
      // A read that was under way may have remembered it once more.
      this.#cache.forget(new Set([segment.key]));
      this.#obsolete = this.#obsolete.filter((other) => other !== segment);
    }
  }

  /**
   * Deletes segments that earlier owners wrote and no checkpoint ever named. Lists, so it is
   * for the background, now and then; returns how many. Only epochs before this one: what
   * they left is either in our checkpoint or in nobody's.
   */
  async sweep(): Promise<number> {
    const { store, prefix, epoch } = this.#options;
    const named = new Set([...this.segments, ...this.#obsolete].map(({ key }) => key));
    const before = `${prefix}/table/${seqText(epoch)}`;
    let count = 0;
    for (let after: string | undefined; ; ) {
      const options = after === undefined ? {} : { after };
      const page = await this.#retrier.run("table list", () =>
        store.list(`${prefix}/table/`, options),
      );
      for (const { key } of page.keys) {
        if (key < before && !named.has(key) && (await this.#delete(key))) count += 1;
      }
      after = page.keys.at(-1)?.key;
      if (!page.isTruncated || after === undefined || after >= before) return count;
    }
  }

  /** Ends waiting: calls under way throw host-stopping instead of trying again. */
  close(): void {
    this.#retrier.close();
  }

  /** Segments that may hold the key, newest first (B2). */
  *#candidates(key: string): Generator<SegmentInfo> {
    for (const [level, segments] of this.#levels.entries()) {
      if (level === 0) {
        for (const info of segments) if (info.firstKey <= key && key <= info.lastKey) yield info;
        continue;
      }
      const info = segments[firstEndingFrom(segments, key)];
      if (info !== undefined && info.firstKey <= key) yield info;
    }
  }

  /** Newest first (B2). */
  #sourcesOf(range: RowsRange): Source[] {
    const { start, isAfter, end } = range;
    const sources: Source[] = [memtableSource(this.#memtable, start, isAfter)];
    if (this.#frozen) sources.push(memtableSource(this.#frozen, start, isAfter));
    for (const [level, segments] of this.#levels.entries()) {
      if (level === 0) {
        for (const info of segments) {
          const isInside = info.lastKey >= start && (end === undefined || info.firstKey < end);
          if (isInside) sources.push(this.#cache.rows([info], range));
        }
        continue;
      }
      const first = firstEndingFrom(segments, start);
      const last = end === undefined ? segments.length : firstBeginningFrom(segments, end);
      if (first < last) sources.push(this.#cache.rows(segments.slice(first, last), range));
    }
    return sources;
  }

  /**
   * A read that meets a segment which was merged and deleted under it begins again with the
   * segments of now. If those are still the same, the object is really gone.
   */
  async #reading<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      const levels = this.#levels;
      try {
        return await work();
      } catch (error) {
        const isDamage = error instanceof SporeError && error.code === "corrupt-segment";
        if (!isDamage || levels === this.#levels) throw error;
      }
    }
  }

  async #flush(): Promise<boolean> {
    assert(this.#frozen === undefined, "one memtable is flushed at a time");
    if (this.#memtable.size === 0) return false;
    const frozen = this.#memtable;
    this.#frozen = frozen;
    this.#frozenBytes = this.#memtableBytes;
    this.#memtable = new SortedMap();
    this.#memtableBytes = 0;
    try {
      const rows = memtableSource(frozen, "", false);
      const isKept = this.#levels.some((level) => level.length > 0);
      const written = await this.#write([rows], { level: 0, isDropped: () => !isKept });
      const [levelZero = [], ...rest] = this.#levels;
      this.#install([[...written, ...levelZero], ...rest]);
    } catch (error) {
      this.#unfreeze(frozen);
      throw error;
    } finally {
      this.#frozen = undefined;
      this.#frozenBytes = 0;
    }
    return true;
  }

  /** A failed flush: its rows are back in memory, below what was applied meanwhile. */
  #unfreeze(frozen: Memtable): void {
    const rows = frozen.slice("", { isAfter: false, max: frozen.size });
    for (const [index, key] of rows.keys.entries()) {
      if (this.#memtable.find(key) === undefined) this.apply(new Map([[key, rows.values[index]]]));
    }
  }

  async #compact(): Promise<boolean> {
    const job = this.#nextJob();
    if (job === undefined) return false;
    const { target } = job;
    const inputs = new Set([...job.upper, ...job.lower].map(({ key }) => key));
    const isMove = job.level > 0 && job.lower.length === 0 && !job.upper.some(hasDeleted);
    const written = isMove
      ? job.upper.map((info) => ({ ...info, level: target }))
      : await this.#merge(job);
    // A flush may have added to level 0 meanwhile; nothing else changes the levels.
    const levels = this.#levels.map((level) => level.filter(({ key }) => !inputs.has(key)));
    while (levels.length <= target) levels.push([]);
    const now = [...(levels[target] ?? []), ...written]; // in level 0: the oldest (B2)
    levels[target] = target === 0 ? now : now.sort(byFirstKey);
    this.#install(levels);
    if (isMove) return true;
    for (const key of inputs) this.#obsolete.push({ key, generation: this.#generation });
    this.#cache.forget(inputs);
    return true;
  }

  #merge({ level, upper, lower, target }: Job): Promise<SegmentInfo[]> {
    const runs = level === 0 ? upper.map((info) => [info]) : [upper];
    const sources = [...runs, lower]
      .filter((run) => run.length > 0)
      .map((run) => this.#cache.rows(run, { start: "", isAfter: false, isOnce: true }));
    const deeper = this.#levels.slice(target + 1);
    const isDropped = (key: string): boolean => !deeper.some((level) => covers(level, key));
    return this.#write(sources, { level: target, isDropped });
  }

  #nextJob(): Job | undefined {
    for (const [level, segments] of this.#levels.entries()) {
      const isDue =
        level === 0
          ? segments.length >= this.#limits.levelZeroMax
          : sizeOf(segments) > this.#limits.levelOneBytesMax * levelRatio ** (level - 1);
      if (!isDue) continue;
      const upper = level === 0 ? [...segments] : this.#nextInTurn(level, segments);
      const lower = overlapping(this.#levels[level + 1] ?? [], upper);
      // Many checkpoints of little would each rewrite all that they overlap.
      const isLittle = sizeOf(upper) * levelRatio < sizeOf(lower) && upper.length > 1;
      if (level === 0 && isLittle && sizeOf(upper) < this.#limits.segmentBytesMax) {
        return { level, upper, lower: [], target: 0 };
      }
      return { level, upper, lower, target: level + 1 };
    }
    return undefined;
  }

  /** Segments of a level take turns in the order of their keys. */
  #nextInTurn(level: number, segments: readonly SegmentInfo[]): SegmentInfo[] {
    const upTo = this.#mergedUpTo[level] ?? "";
    const next = segments.find(({ firstKey }) => firstKey > upTo) ?? segments[0];
    assert(next !== undefined, "a level that is too large has segments");
    this.#mergedUpTo[level] = next.lastKey;
    return [next];
  }

  /** Merges sources, newest first, into segments that are durable when this resolves. */
  async #write(
    sources: readonly Source[],
    options: { level: number; isDropped: (key: string) => boolean },
  ): Promise<SegmentInfo[]> {
    const written: SegmentInfo[] = [];
    const merge = new Merge(sources);
    const breath = Math.min(breathBytes, this.#limits.segmentBytesMax);
    let writer = this.#writer();
    let breatheAt = breath;
    while (await merge.fill()) {
      // Between fills nothing waits, which is most of the time.
      for (let row = merge.take(); row !== undefined; row = merge.takeIfFilled()) {
        const { key, value } = row;
        if (value !== undefined || !options.isDropped(key)) writer.add(key, value);
        if (writer.bytes >= breatheAt) break;
      }
      if (writer.bytes >= this.#limits.segmentBytesMax) {
        written.push(await this.#put(writer, options.level));
        writer = this.#writer();
        breatheAt = breath;
      } else if (writer.bytes >= breatheAt) {
        breatheAt += breath;
        await this.#breathe();
      }
    }
    if (writer.rows > 0) written.push(await this.#put(writer, options.level));
    return written;
  }

  #writer(): SegmentWriter {
    const { digest, codec } = this.#options;
    return new SegmentWriter({ digest, codec, blockBytes: this.#limits.blockBytes });
  }

  async #put(writer: SegmentWriter, level: number): Promise<SegmentInfo> {
    const { store, prefix, epoch, random } = this.#options;
    this.#counter += 1;
    const name = `${seqText(epoch)}-${this.#counter}-${hexOf(random.bytes(8))}`;
    const key = `${prefix}/table/${name}`;
    const { bytes, info } = writer.finish({ key, level });
    // Repeating an unanswered PUT overwrites the object with itself.
    await this.#retrier.run("table put", () => store.put(key, bytes));
    return info;
  }

  #breathe(): Promise<void> {
    return new Promise((resolve) => {
      this.#options.clock.after(0, resolve);
    });
  }

  #install(levels: readonly (readonly SegmentInfo[])[]): void {
    this.#levels = levels;
    this.#generation += 1;
  }

  async #delete(key: string): Promise<boolean> {
    try {
      await this.#options.store.delete(key);
      return true;
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#options.observer.log("warn", "a segment could not be deleted", { key, message });
      return false;
    }
  }

  #restore(checkpoint: Uint8Array): void {
    try {
      const reader = new ByteReader(checkpoint);
      const found = reader.u8();
      if (found !== checkpointVersion) throw new Truncated(`it has version ${found}`);
      const levels: SegmentInfo[][] = [[]];
      for (let left = reader.count(); left > 0; left -= 1) {
        const info = decodeInfo(reader);
        while (levels.length <= info.level) levels.push([]);
        levels[info.level]?.push(info);
      }
      // Commits up to 195501c could leave a level 1 that overlaps, with each row in one segment only.
      const [levelZero = [], levelOne = [], ...rest] = levels;
      this.#levels = isDisjoint(levelOne) ? levels : [[...levelZero, ...levelOne], [], ...rest];
      this.apply(readBatch(reader));
    } catch (error) {
      if (!(error instanceof Truncated)) throw error;
      const place = `table ${this.#options.prefix}`;
      throw new SporeError(
        "corrupt-log",
        `the checkpoint of ${place} is damaged: ${error.message}`,
      );
    }
  }
}

function memtableSource(memtable: Memtable, start: string, isAfterStart: boolean): Source {
  let from = start;
  let isAfter = isAfterStart;
  return async () => {
    const rows = memtable.slice(from, { isAfter, max: sliceRows });
    from = rows.keys.at(-1) ?? from;
    isAfter = true;
    return rows;
  };
}

function encodeInfo(writer: ByteWriter, info: SegmentInfo): void {
  writer.latin1(info.key);
  const { level, bytes, footerOffset, rows, deleted } = info;
  for (const value of [level, bytes, footerOffset, rows, deleted]) writer.count(value);
  writer.raw(info.footerHash);
  writer.latin1(info.firstKey);
  writer.latin1(info.lastKey);
}

function decodeInfo(reader: ByteReader): SegmentInfo {
  const key = reader.latin1();
  const [level, bytes, footerOffset] = [reader.count(), reader.count(), reader.count()];
  const [rows, deleted] = [reader.count(), reader.count()];
  if (level > 20 || footerOffset > bytes) throw new Truncated("a segment's place is impossible");
  const footerHash = reader.raw(32).slice();
  const [firstKey, lastKey] = [reader.latin1(), reader.latin1()];
  return { key, level, bytes, footerOffset, footerHash, rows, deleted, firstKey, lastKey };
}

function boundsOf(range: Range): {
  readonly start: string;
  readonly isAfter: boolean;
  readonly end: string | undefined;
} {
  const { prefix = "", from = "", after, to } = range;
  let first = prefix;
  if (from > first) first = from;
  const isAfter = after !== undefined && after >= first;
  const prefixEnd = endOfPrefix(prefix);
  const isToFirst = prefixEnd === undefined || (to !== undefined && to < prefixEnd);
  return { start: isAfter ? after : first, isAfter, end: isToFirst ? to : prefixEnd };
}

/** The first key after all that begin with the prefix; undefined if there is none. */
function endOfPrefix(prefix: string): string | undefined {
  for (let end = prefix.length; end > 0; end -= 1) {
    const last = prefix.charCodeAt(end - 1);
    if (last < 0xff) return prefix.slice(0, end - 1) + String.fromCharCode(last + 1);
  }
  return undefined;
}

/** Index of the first segment, of those that don't overlap, that ends at or after the key. */
function firstEndingFrom(segments: readonly SegmentInfo[], key: string): number {
  return firstNot(segments, ({ lastKey }) => lastKey < key);
}

/** The same of the first that begins there. */
function firstBeginningFrom(segments: readonly SegmentInfo[], key: string): number {
  return firstNot(segments, ({ firstKey }) => firstKey < key);
}

/** Index of the first segment that isn't before; all that are stand in front. */
function firstNot(
  segments: readonly SegmentInfo[],
  isBefore: (info: SegmentInfo) => boolean,
): number {
  let low = 0;
  let high = segments.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const info = segments[middle];
    if (info !== undefined && isBefore(info)) low = middle + 1;
    else high = middle;
  }
  return low;
}

function covers(segments: readonly SegmentInfo[], key: string): boolean {
  const info = segments[firstEndingFrom(segments, key)];
  return info !== undefined && info.firstKey <= key;
}

/** Also those between two of the others: what becomes of them is one range without a gap. */
function overlapping(
  segments: readonly SegmentInfo[],
  others: readonly SegmentInfo[],
): SegmentInfo[] {
  let [first, last] = [others[0]?.firstKey ?? "", others[0]?.lastKey ?? ""];
  for (const { firstKey, lastKey } of others) {
    if (firstKey < first) first = firstKey;
    if (lastKey > last) last = lastKey;
  }
  return segments.filter((info) => info.firstKey <= last && first <= info.lastKey);
}

function isDisjoint(segments: readonly SegmentInfo[]): boolean {
  return segments.every(({ firstKey }, index) => {
    const before = segments[index - 1];
    return before === undefined || before.lastKey < firstKey;
  });
}

function hasDeleted({ deleted }: SegmentInfo): boolean {
  return deleted > 0;
}

function byFirstKey(left: SegmentInfo, right: SegmentInfo): number {
  return left.firstKey < right.firstKey ? -1 : 1;
}

function sizeOf(segments: readonly SegmentInfo[]): number {
  return segments.reduce((sum, { bytes }) => sum + bytes, 0);
}

function rowBytes(key: string, value: Uint8Array | undefined): number {
  return key.length + (value?.length ?? 0) + memtableRowBytes;
}
