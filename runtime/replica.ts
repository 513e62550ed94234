/**
 * A partition as somebody sees it who doesn't own it: its rows as of an entry of its log, and
 * the entries after that. Reads only, disturbs nobody, and can be used while owners append,
 * merge, truncate and change. Collector, check and copy of a bucket are built on it, and reads by
 * hosts that don't own the partition (follower.ts).
 *
 * R1 `open` shows every entry that was durable when it was called: the end of the log is asked
 *    for with `hasLater` (tail.ts), which never answers too little.
 * R2 `follow` gives every batch after the last one seen, in order and without a gap, or says
 *    that it can't because the owner freed entries that weren't read yet.
 *    "Up to what was durable": nothing stands after the last one, and either the base is not
 *    marked as passed (tail.ts T3: two questions) or `hasLater` says so.
 * R3 What an owner deletes under a reader is never taken for damage: only if the newest
 *    checkpoint is still the one that was read is something missing.
 * R4 After `advance` the rows are those of the entry that was the last one at some moment after
 *    it was called: what `open` or `reopen` found is asked about once more, as by R2.
 */
import { type Batch, decodeBatch } from "./batch.ts";
import { isSameBytes } from "./bytes.ts";
import { Entries } from "./entries.ts";
import { damaged, type Entry, hashBytes } from "./entry.ts";
import { assert, SporeError } from "./errors.ts";
import type { Clock, Digest, Observer, Random, Store } from "./ports.ts";
import { Retrier } from "./retry.ts";
import type { SegmentInfo } from "./segment.ts";
import { type Page, type Range, Table } from "./table.ts";
import { findTail, hasLater } from "./tail.ts";

export interface ReplicaOptions {
  readonly store: Store;
  /** A folder of the partition. */
  readonly prefix: string;
  readonly partition: number;
  readonly random: Random;
  readonly digest: Digest;
  readonly clock: Clock;
  readonly observer: Observer;
  /** Of the rows' blocks that were read, at most; the default is a table's. */
  readonly cacheBytesMax?: number | undefined;
}

/** Owners that append without a pause are chased so many times. */
const attemptsMax = 20;
/** Reads at once. */
const parallelMax = 16;

interface Position {
  readonly seq: number;
  readonly hash: Uint8Array;
  readonly base: number;
  /** Of the last owner. */
  readonly epoch: number;
  /** What the last entry says, if it is a claim. */
  readonly claim: Uint8Array | undefined;
}

const start: Position = {
  seq: 0,
  hash: new Uint8Array(hashBytes),
  base: 0,
  epoch: 0,
  claim: undefined,
};

export class Replica {
  readonly #options: ReplicaOptions;
  readonly #retrier: Retrier;
  readonly #entries: Entries;
  /** Rows as of the entry up to which they were read. */
  #table: Table;
  #tableBase = 0;
  #position: Position;

  /** An empty one: `reopen` reads the rows. `open` does both. */
  constructor(options: ReplicaOptions) {
    this.#options = options;
    this.#retrier = new Retrier(options.clock, options.observer);
    this.#entries = new Entries(options, this.#retrier);
    this.#table = this.#emptyTable();
    this.#position = start;
  }

  /** R1. Throws corrupt-log for a damaged log. */
  static async open(options: ReplicaOptions): Promise<Replica> {
    const replica = new Replica(options);
    await replica.reopen();
    return replica;
  }

  get partition(): number {
    return this.#options.partition;
  }

  /** The last entry that was read; 0 for a log that nobody has claimed yet. */
  get seq(): number {
    return this.#position.seq;
  }

  get base(): number {
    return this.#position.base;
  }

  get epoch(): number {
    return this.#position.epoch;
  }

  /** What the last entry that was read says, if that is a claim. */
  get claim(): Uint8Array | undefined {
    return this.#position.claim;
  }

  /** Of rows that are only in memory. */
  get memoryBytes(): number {
    return this.#table.memtableBytes;
  }

  get segments(): readonly SegmentInfo[] {
    return this.#table.segments;
  }

  /** Reads the rows as of now, and goes on following from there. */
  async reopen(): Promise<void> {
    const { table, base, position } = await this.#readNow();
    this.#table = table;
    this.#tableBase = base;
    this.#position = position;
  }

  /** Reads the rows as of now; what is followed goes on from where it was. */
  async refresh(): Promise<void> {
    const { table, base } = await this.#readNow();
    this.#table = table;
    this.#tableBase = base;
  }

  /**
   * One page of rows. Throws corrupt-segment also if a newer checkpoint made segments go
   * (`isStale` tells): then `refresh`, and go on after the last row.
   */
  scan(range: Range): Promise<Page> {
    return this.#table.scan(range);
  }

  /** One row. Throws as `scan` does. */
  get(key: string): Promise<Uint8Array | undefined> {
    return this.#table.get(key);
  }

  /** The rows that were read and applied, as the payload of a checkpoint entry. */
  checkpoint(): Uint8Array {
    return this.#table.checkpoint().bytes;
  }

  /** Takes over what `follow` gave: then rows are as of the last entry that was read. */
  apply(batch: Batch): void {
    this.#table.apply(batch);
  }

  /** Ends waiting: calls under way throw host-stopping instead of trying again. */
  close(): void {
    this.#retrier.close();
    this.#table.close();
  }

  /** R3: whether there is a newer checkpoint than that of the rows. */
  async isStale(): Promise<boolean> {
    const end = await this.#findEnd();
    return end !== undefined && end.base > this.#tableBase;
  }

  /**
   * R2: the batches after the last one seen, up to what was durable when this was called, or
   * at most `entriesMax` entries. False: some were freed, and the rows have to be read anew.
   */
  follow(
    found: (batch: Batch) => void,
    entriesMax: number = Number.POSITIVE_INFINITY,
  ): Promise<boolean> {
    const take = ({ kind, payload }: Entry): void => {
      if (kind === "batch") found(decodeBatch(payload));
    };
    return this.#follow(take, entriesMax);
  }

  async #follow(
    found: (entry: Entry) => void,
    entriesMax: number = Number.POSITIVE_INFINITY,
  ): Promise<boolean> {
    // Twice as many at once as were there the last time: an owner at work is caught up with.
    let window = 1;
    for (let count = 0; count < entriesMax; ) {
      const seq = this.#position.seq + 1;
      const atOnce = Math.min(window, entriesMax - count);
      const entries = await Promise.all(
        Array.from({ length: atOnce }, (_, index) => this.#entries.read(seq + index)),
      );
      const missing = entries.indexOf(undefined);
      for (const entry of missing < 0 ? entries : entries.slice(0, missing)) {
        if (entry === undefined || !(await this.#take(entry, found))) return false;
        count += 1;
      }
      if (missing < 0) {
        window = Math.min(window * 2, parallelMax);
        continue;
      }
      window = 1;
      if (missing > 0) continue;
      if (!(await this.#hasLater())) return true;
      // It came between the questions, or it was freed. (One that was freed and came back, log.ts
      // L2, fits as well; but the one after it doesn't.)
      if (!(await this.#entries.exists(seq))) return false;
    }
    return true;
  }

  /** Whether an entry after the last one seen, which was just found missing, was created. */
  async #hasLater(): Promise<boolean> {
    const { seq, base } = this.#position;
    return (await this.#entries.isPassed(base)) && hasLater(this.#entries.exists, seq);
  }

  /**
   * R4: makes the rows those of the last entry that there is, at some moment after the call.
   * For who calls nothing else that moves.
   */
  async advance(): Promise<void> {
    while (!(await this.#follow((entry) => this.#applyEntry(entry)))) await this.reopen();
  }

  #applyEntry({ kind, seq, payload }: Entry): void {
    if (kind === "batch") this.#table.apply(decodeBatch(payload));
    if (kind !== "checkpoint") return;
    // The same rows; but the segments of before may go from now on (table.ts B1, B3).
    this.#table = this.#openTable(payload);
    this.#tableBase = seq;
  }

  /** The entry after the last one seen; false if that isn't what stands there. */
  async #take(entry: Entry, found: (entry: Entry) => void): Promise<boolean> {
    const { seq, hash, base, epoch } = entry;
    if (!isSameBytes(entry.previous, this.#position.hash)) {
      // Litter in a place that was freed (log.ts L2); else the log is broken.
      const end = await this.#findEnd();
      if (end !== undefined && end.base > seq) return false;
      throw damaged(this.#entries.place(seq), "it does not follow the entry before it");
    }
    found(entry);
    this.#position = { seq, hash, base, epoch, claim: claimOf(entry) };
    return true;
  }

  async #readNow(): Promise<{ table: Table; base: number; position: Position }> {
    let base = -1;
    for (let attempt = 1; ; attempt += 1) {
      const end = await this.#findEnd();
      if (end === undefined) {
        return { table: this.#emptyTable(), base: 0, position: start };
      }
      try {
        const { seq, hash, epoch } = end;
        const table = await this.#readTable(end);
        const position = { seq, hash, epoch, base: end.base, claim: claimOf(end) };
        return { table, base: end.base, position };
      } catch (error) {
        const isDamage = error instanceof SporeError && error.kind === "corrupt";
        if (!isDamage || end.base === base || attempt === attemptsMax) throw error;
        base = end.base;
      }
    }
  }

  /** The last entry; undefined for an empty log. */
  async #findEnd(): Promise<Entry | undefined> {
    for (let attempt = 1; attempt <= attemptsMax; attempt += 1) {
      let tail = await findTail(this.#entries.exists);
      // Reading is faster than appending: the end is reached, though it moves on.
      while (await this.#entries.exists(tail + 1)) tail += 1;
      const entry = tail === 0 ? undefined : await this.#entries.read(tail);
      if (tail !== 0 && entry === undefined) continue;
      if (!(await hasLater(this.#entries.exists, tail)) || (await this.#follows(entry, tail + 1))) {
        return entry;
      }
    }
    const { partition } = this.#options;
    throw new SporeError("host-busy", `partition ${partition} is written faster than it is read`, {
      hint: "Try again when there is less to do.",
    });
  }

  /** Whether the entry was the last until that one was appended: then it was so in this call. */
  async #follows(entry: Entry | undefined, seq: number): Promise<boolean> {
    const next = await this.#entries.read(seq);
    const hash = entry?.hash ?? new Uint8Array(hashBytes);
    return next !== undefined && isSameBytes(next.previous, hash);
  }

  /** Checkpoint and batches up to the given entry, each following the one before. */
  async #readTable(end: Entry): Promise<Table> {
    let table = this.#emptyTable();
    let before: Entry | undefined;
    const from = Math.max(1, end.base);
    for (let at = from; at <= end.seq; at += parallelMax) {
      const seqs = Array.from(
        { length: Math.min(parallelMax, end.seq + 1 - at) },
        (_, index) => at + index,
      );
      const entries = await Promise.all(seqs.map((seq) => this.#entries.read(seq)));
      for (const [index, entry] of entries.entries()) {
        const place = this.#entries.place(at + index);
        if (entry === undefined) throw damaged(place, "it is missing");
        if (before !== undefined && !isSameBytes(entry.previous, before.hash)) {
          throw damaged(place, "it does not follow the entry before it");
        }
        if (entry.seq === end.base) {
          if (entry.kind !== "checkpoint") throw damaged(place, "it is no checkpoint");
          table = this.#openTable(entry.payload);
        } else if (entry.kind === "batch") table.apply(decodeBatch(entry.payload));
        before = entry;
      }
    }
    assert(before?.seq === end.seq, "a log is read up to its end");
    return table;
  }

  #emptyTable(): Table {
    return this.#openTable(undefined);
  }

  /** Never written through, so it needs no epoch. */
  #openTable(checkpoint: Uint8Array | undefined): Table {
    const { store, prefix, random, digest, clock, observer, cacheBytesMax } = this.#options;
    const limits = cacheBytesMax === undefined ? {} : { cacheBytesMax };
    const parts = { store, prefix, random, digest, clock, observer, limits };
    return Table.open({ ...parts, epoch: 0 }, checkpoint);
  }
}

function claimOf({ kind, payload }: Entry): Uint8Array | undefined {
  return kind === "claim" ? payload.slice() : undefined;
}
