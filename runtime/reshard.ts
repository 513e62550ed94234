/**
 * Puts a namespace into another number of partitions while hosts serve it.
 *
 * The partitions' rows are copied to new partitions as they are, each to where its entity
 * belongs, while owners go on; then what was appended since, until little is left. Then every
 * log is sealed (layout.ts Y1), which stops its owner like any other claim. What the logs still
 * hold is copied, and the new layout is made known. Hosts then claim the new partitions and go
 * on as after a crash.
 *
 * Z1 Nothing acknowledged is lost: an entry is acknowledged only before the seal of its log
 *    (log.ts L2), and everything before a seal is copied (replica.ts R2).
 * Z2 Nothing happens twice: rows say what was applied, as after a crash. A message is in an
 *    outbox and not below the cursor of its target, or it was applied. When all logs are
 *    sealed no more are applied; those that were not are put, in their order, into the outbox
 *    of the partition where their target lives now, which takes them before any other.
 * Z3 If this stops in the middle, the old layout holds: hosts that wait behind seals give the
 *    change up (Y2). What was copied is litter under a folder that nobody uses.
 */
import { encodeBatch } from "./batch.ts";
import { hexOf } from "./bytes.ts";
import { assert, SporeError } from "./errors.ts";
import { decodeRow, encodeRow, entityOfRow, type Message, rowKeys } from "./format.ts";
import { partitionOf } from "./ids.ts";
import type { RepartitionProgress } from "./index.ts";
import { type Layout, type Layouts, partitionsMax } from "./layout.ts";
import { Log } from "./log.ts";
import type { Clock, Digest, Observer, Random, Store } from "./ports.ts";
import { Replica } from "./replica.ts";
import { Table } from "./table.ts";

export interface ReshardOptions {
  readonly store: Store;
  /** Of the namespace. */
  readonly prefix: string;
  readonly layouts: Layouts;
  /** How many partitions there are to be. */
  readonly partitions: number;
  /** Names whoever does it, for those who find the seals. */
  readonly hostId: string;
  readonly random: Random;
  readonly digest: Digest;
  readonly clock: Clock;
  readonly observer: Observer;
  /** Whoever serves a partition stops for a moment: who appends without end can't be sealed. */
  readonly pause: (partition: number) => Promise<void>;
  /** Called now and then with what has been done. */
  readonly onProgress?: (progress: RepartitionProgress) => void;
}

const pageRows = 1000;
const pageBytes = 1024 * 1024;
/** Partitions that are copied at once, each with pages and blocks in memory. */
const copiesAtOnce = 4;
const cacheBytesMax = 1024 * 1024;
/** Of rows that wait in memory, all new partitions together; a Worker has 128 MB for everything. */
const writersBytes = 32 * 1024 * 1024;
/** Of one new partition: between these, and a batch is a sixteenth. */
const checkpointBytesMin = 256 * 1024;
const checkpointBytesMax = 16 * 1024 * 1024;
const compactionsMax = 8;
/** Rounds of following while owners append; the last one is behind the seals. */
const roundsMax = 20;
/** So few changes since the last round are copied behind the seals. */
const changesFew = 500;

/**
 * Throws layout-changing if another change is under way or the hosts gave this one up, and
 * invalid-request for a number that isn't one.
 */
export async function reshard(options: ReshardOptions): Promise<Layout> {
  const { layouts, partitions, random } = options;
  if (!Number.isInteger(partitions) || partitions < 1 || partitions > partitionsMax) {
    throw new SporeError("invalid-request", `a namespace has 1 to ${partitionsMax} partitions`);
  }
  const from = await layouts.current();
  if (from.partitions === partitions) return from;
  const folder = `p${from.number + 1}-${hexOf(random.bytes(4))}`;
  const move = new Move(options, from, { number: from.number + 1, partitions, folder });
  try {
    return await move.run();
  } finally {
    move.close();
  }
}

class Move {
  readonly #options: ReshardOptions;
  readonly #from: Layout;
  readonly #to: Layout;
  readonly #writers: Writer[] = [];
  /** By source: what its entities sent and may not have been applied, by row name. */
  readonly #outboxes: Map<string, Uint8Array>[];
  /** By target and source: the last message that was applied. */
  readonly #cursors: Map<number, number>[];
  /** By source: from when on its runs are indexed. */
  readonly #indexedFrom = new Map<number, number>();
  #changes = 0;

  constructor(options: ReshardOptions, from: Layout, to: Layout) {
    this.#options = options;
    this.#from = from;
    this.#to = to;
    this.#outboxes = Array.from({ length: from.partitions }, () => new Map());
    this.#cursors = Array.from({ length: from.partitions }, () => new Map());
  }

  async run(): Promise<Layout> {
    const indexes = Array.from({ length: this.#from.partitions }, (_, index) => index);
    for (let index = 0; index < this.#to.partitions; index += 1) {
      this.#writers.push(await Writer.open(this.#options, this.#to, index));
    }
    const sources = await Promise.all(indexes.map((index) => this.#replica(index)));
    const left = sources.values();
    const copyLeft = async (): Promise<void> => {
      for (const source of left) await this.#copy(source);
    };
    await Promise.all(Array.from({ length: copiesAtOnce }, copyLeft));
    for (let round = 0; round < roundsMax; round += 1) {
      this.#changes = 0;
      // What is large is done before the logs end, and what comes meanwhile is the next round's.
      await Promise.all(this.#writers.map((writer) => writer.checkpoint()));
      await Promise.all(sources.map((source) => this.#follow(source)));
      this.#report("following");
      if (this.#changes <= changesFew) break;
    }
    // All before the first is sealed: behind a seal hosts wait for the new layout, and not for long.
    await Promise.allSettled(indexes.map((index) => this.#options.pause(index))); // or it is a race
    const ends = await Promise.all(indexes.map((index) => this.#seal(index)));
    this.#report("sealed");
    await Promise.all(sources.map((source) => this.#follow(source)));
    for (const [index, source] of sources.entries()) {
      assert(source.seq === ends[index], `partition ${index} was read up to its seal`);
    }
    await this.#putMessages();
    await this.#putIndexedFrom();
    await Promise.all(this.#writers.map((writer) => writer.write()));
    const layout = await this.#options.layouts.change(this.#from, this.#to);
    if (layout.folder !== this.#to.folder) throw changing("the hosts didn't wait for it");
    this.#report("done");
    return layout;
  }

  close(): void {
    for (const writer of this.#writers) writer.close();
  }

  #replica(index: number): Promise<Replica> {
    return Replica.open({
      ...this.#options,
      prefix: `${this.#options.prefix}${this.#from.folder}/${index}`,
      partition: index,
      cacheBytesMax,
    });
  }

  /** All rows as of when the replica was opened; newer ones come by following. */
  async #copy(source: Replica): Promise<void> {
    let after: string | undefined;
    for (;;) {
      let page: Awaited<ReturnType<Replica["scan"]>>;
      try {
        const range = { limit: pageRows, bytesMax: pageBytes };
        page = await source.scan(after === undefined ? range : { ...range, after });
      } catch (error) {
        const isDamage = error instanceof SporeError && error.kind === "corrupt";
        if (!isDamage || !(await source.isStale())) throw error;
        // Rows that are newer than what is followed do no harm: they are written once more.
        await source.refresh();
        continue;
      }
      for (const [key, value] of page.entries) await this.#put(source.partition, key, value);
      this.#report("copying");
      if (page.isDone) return;
      after = page.entries.at(-1)?.[0];
    }
  }

  async #follow(source: Replica): Promise<void> {
    const rows: [string, Uint8Array | undefined][] = [];
    for (;;) {
      const isWhole = await source.follow((batch) => rows.push(...batch));
      for (const [key, value] of rows.splice(0)) await this.#put(source.partition, key, value);
      if (isWhole) return;
      // The owner freed entries that weren't read yet: its rows say the same.
      throw changing("the partitions change faster than they are copied");
    }
  }

  async #put(source: number, key: string, value: Uint8Array | undefined): Promise<void> {
    this.#changes += 1;
    const entity = entityOfRow(key);
    if (entity !== undefined) {
      await this.#writerOf(partitionOf(entity, this.#to.partitions)).put(key, value);
    } else if (key === rowKeys.indexedFrom && value !== undefined) {
      this.#indexedFrom.set(source, decodeRow<number>(key, value));
    } else if (key.startsWith(rowKeys.outboxes)) {
      const outbox = this.#outboxes[source];
      if (value === undefined) outbox?.delete(key);
      else outbox?.set(key, value);
    } else if (key.startsWith(rowKeys.inboxes) && value !== undefined) {
      const sender = Number.parseInt(key.slice(rowKeys.inboxes.length), 16);
      this.#cursors[source]?.set(sender, decodeRow<number>(key, value));
    } else {
      // Counters of messages begin anew.
      assert(key.startsWith(rowKeys.outboxCounters), `row ${key} has a place in a new layout`);
    }
  }

  /** The seal is the last entry: its place. */
  async #seal(index: number): Promise<number> {
    for (;;) {
      const { hostId } = this.#options;
      const log = new Log({
        ...this.#options,
        prefix: `${this.#options.prefix}${this.#from.folder}/${index}`,
        partition: index,
      });
      const claim = await log.claim(encodeRow({ hostId, seal: this.#to.number }));
      // Entries of a layout that is left go, too: whoever follows them has to find out (tail.ts T3).
      if (claim.kind === "claimed") await log.pass();
      log.close();
      if (claim.kind === "claimed") return claim.epoch;
      if (claim.kind === "sealed") throw changing("another change is under way");
    }
  }

  /** Z2: what was sent and not applied waits where its target lives now. */
  async #putMessages(): Promise<void> {
    const counters = this.#writers.map(() => 0);
    for (const [source, outbox] of this.#outboxes.entries()) {
      for (const key of [...outbox.keys()].sort()) {
        const { target, index } = placeOfMessage(key);
        const isApplied = target !== source && index <= (this.#cursors[target]?.get(source) ?? 0);
        const row = outbox.get(key);
        if (isApplied || row === undefined) continue;
        const at = partitionOf(decodeRow<Message>(key, row).to, this.#to.partitions);
        const next = (counters[at] ?? 0) + 1;
        counters[at] = next;
        await this.#writerOf(at).put(rowKeys.outbox(at, next), row);
      }
    }
    for (const [at, last] of counters.entries()) {
      if (last > 0) await this.#writerOf(at).put(rowKeys.outboxCounter(at), encodeRow(last));
    }
  }

  /** A new partition has runs of all: what the last of them has indexed, all have. */
  async #putIndexedFrom(): Promise<void> {
    if (this.#indexedFrom.size < this.#from.partitions) return;
    const row = encodeRow(Math.max(...this.#indexedFrom.values()));
    for (const writer of this.#writers) await writer.put(rowKeys.indexedFrom, row);
  }

  #writerOf(index: number): Writer {
    const writer = this.#writers[index];
    assert(writer !== undefined, `partition ${index} is one of the new`);
    return writer;
  }

  #report(phase: RepartitionProgress["phase"]): void {
    const rows = this.#writers.reduce((sum, writer) => sum + writer.rows, 0);
    this.#options.onProgress?.({ phase, rows });
  }
}

/** Writes rows to a partition that nobody uses yet. */
class Writer {
  readonly #log: Log;
  readonly #table: Table;
  readonly #checkpointBytes: number;
  #batch = new Map<string, Uint8Array | undefined>();
  #batchBytes = 0;
  #bytesSinceCheckpoint = 0;
  #writing: Promise<void> = Promise.resolve();
  rows = 0;

  constructor(log: Log, table: Table, checkpointBytes: number) {
    this.#log = log;
    this.#table = table;
    this.#checkpointBytes = checkpointBytes;
  }

  static async open(options: ReshardOptions, layout: Layout, index: number): Promise<Writer> {
    const prefix = `${options.prefix}${layout.folder}/${index}`;
    const log = new Log({ ...options, prefix, partition: index });
    const claim = await log.claim(encodeRow({ hostId: options.hostId }));
    assert(claim.kind === "claimed", "nobody else knows the folder");
    const bytes = Math.max(checkpointBytesMin, writersBytes / layout.partitions);
    const table = Table.open({ ...options, prefix, epoch: claim.epoch });
    return new Writer(log, table, Math.min(bytes, checkpointBytesMax));
  }

  async put(key: string, value: Uint8Array | undefined): Promise<void> {
    this.#batch.set(key, value);
    this.#batchBytes += key.length + (value?.length ?? 0);
    this.rows += 1;
    if (this.#batchBytes >= this.#checkpointBytes / 16) await this.write();
  }

  /** Everything is durable, and little has to be read by who opens the partition. */
  async checkpoint(): Promise<void> {
    await this.write();
    if (this.#bytesSinceCheckpoint > 0) await this.#checkpoint();
  }

  close(): void {
    this.#log.close();
    this.#table.close();
  }

  /** Everything is durable. One write at a time: a log takes its entries one after the other. */
  write(): Promise<void> {
    this.#writing = this.#writing.then(() => this.#writeNow());
    return this.#writing;
  }

  async #writeNow(): Promise<void> {
    if (this.#batch.size === 0) return;
    const batch = this.#batch;
    this.#batch = new Map();
    this.#batchBytes = 0;
    const payload = encodeBatch(batch);
    await this.#append("batch", payload);
    this.#table.apply(batch);
    this.#bytesSinceCheckpoint += payload.length;
    if (this.#bytesSinceCheckpoint >= this.#checkpointBytes) await this.#checkpoint();
  }

  async #checkpoint(): Promise<void> {
    this.#bytesSinceCheckpoint = 0;
    await this.#table.flush();
    for (let pieces = 0; pieces < compactionsMax && (await this.#table.compact()); pieces += 1);
    const { bytes, generation } = this.#table.checkpoint();
    await this.#append("checkpoint", bytes);
    await this.#table.commit(generation);
    await this.#log.truncate();
  }

  async #append(kind: "batch" | "checkpoint", payload: Uint8Array): Promise<void> {
    const result = await this.#log.append(kind, payload);
    assert(result.kind === "written", "nobody else writes to a new partition");
  }
}

function placeOfMessage(key: string): { readonly target: number; readonly index: number } {
  return {
    target: Number.parseInt(key.slice(2, 6), 16),
    index: Number.parseInt(key.slice(7), 16),
  };
}

function changing(why: string): SporeError {
  return new SporeError("layout-changing", `the number of partitions was not changed: ${why}`, {
    hint: "Try again when there is less to do.",
  });
}
