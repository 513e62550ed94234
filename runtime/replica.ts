/**
 * A partition as somebody sees it who doesn't own it: its rows as of an entry of its log, and
 * the entries after that. Reads only, disturbs nobody, and can be used while owners append,
 * merge, truncate and change. Collector, check and copy of a bucket are built on it.
 *
 * R1 `open` shows every entry that was durable when it was called: the end of the log is asked
 *    for with `hasLater` (tail.ts), which never answers too little.
 * R2 `follow` gives every batch after the last one seen, in order and without a gap, or says
 *    that it can't because the owner freed entries that weren't read yet.
 * R3 What an owner deletes under a reader is never taken for damage: only if the newest
 *    checkpoint is still the one that was read is something missing.
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
}

export class Replica {
  readonly #options: ReplicaOptions;
  readonly #entries: Entries;
  /** Rows as of the entry up to which they were read. */
  #table: Table;
  #tableBase = 0;
  #position: Position;

  /** Use `open`. */
  constructor(options: ReplicaOptions) {
    this.#options = options;
    this.#entries = new Entries(options, new Retrier(options.clock, options.observer));
    this.#table = this.#emptyTable();
    this.#position = { seq: 0, hash: new Uint8Array(hashBytes), base: 0, epoch: 0 };
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

  /** The rows that were read and applied, as the payload of a checkpoint entry. */
  checkpoint(): Uint8Array {
    return this.#table.checkpoint().bytes;
  }

  /** Takes over what `follow` gave: then rows are as of the last entry that was read. */
  apply(batch: Batch): void {
    this.#table.apply(batch);
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
  async follow(
    found: (batch: Batch) => void,
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
      if (!(await hasLater(this.#entries.exists, this.#position.seq))) return true;
      // It came between the two questions, so all that was durable before has been seen.
      return (await this.#entries.read(seq)) !== undefined;
    }
    return true;
  }

  /** The entry after the last one seen; false if that isn't what stands there. */
  async #take(entry: Entry, found: (batch: Batch) => void): Promise<boolean> {
    const { seq, hash, base, epoch } = entry;
    if (!isSameBytes(entry.previous, this.#position.hash)) {
      // Litter in a place that was freed (log.ts L2); else the log is broken.
      const end = await this.#findEnd();
      if (end !== undefined && end.base > seq) return false;
      throw damaged(this.#entries.place(seq), "it does not follow the entry before it");
    }
    if (entry.kind === "batch") found(decodeBatch(entry.payload));
    this.#position = { seq, hash, base, epoch };
    return true;
  }

  async #readNow(): Promise<{ table: Table; base: number; position: Position }> {
    let base = -1;
    for (let attempt = 1; ; attempt += 1) {
      const end = await this.#findEnd();
      if (end === undefined) {
        const position = { seq: 0, hash: new Uint8Array(hashBytes), base: 0, epoch: 0 };
        return { table: this.#emptyTable(), base: 0, position };
      }
      try {
        const { seq, hash, epoch } = end;
        const table = await this.#readTable(end);
        return { table, base: end.base, position: { seq, hash, epoch, base: end.base } };
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
    const { store, prefix, random, digest, clock, observer } = this.#options;
    return Table.open({ store, prefix, epoch: 0, random, digest, clock, observer }, checkpoint);
  }
}
