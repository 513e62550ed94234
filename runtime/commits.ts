/**
 * The commits of one partition: what transitions change is collected in a batch, batches go to
 * the log one after another, and whoever waited for one is released. Now and then a checkpoint
 * stands for all that went before.
 *
 * Owns the gate of outputs and when it opens. Doesn't own what the log guarantees (log.ts),
 * how rows are kept (table.ts), or what becomes of a partition that is lost (partition.ts).
 *
 * Border: `recover` once; then `changes` is what a transition writes to, `demand` and `linger`
 * say how soon that has to be durable, `afterCommit` waits for it; `close` when the partition
 * is lost or stopped. Tells the partition `moved`, `committed` and `rested`.
 *
 * Invariants:
 * - G1 One append is in flight; the next batch collects meanwhile. Releases run in the order of
 *   their batches.
 * - G2 A release runs when its batch is durable, and this host was the owner at some moment
 *   after the release was staged: a batch without rows asks the log for that (I2, I3).
 * - G3 Once it is closed nothing is released: every waiter gets the error instead (I2), also one
 *   who comes later. What was under way may stage more: that is nobody's, and sets no alarm.
 * - G4 A checkpoint is taken from the table and appended with no batch between them.
 */
import { type Batch, decodeBatch, encodeBatch } from "./batch.ts";
import { assert, type SporeError } from "./errors.ts";
import type { Log } from "./log.ts";
import type { Cancel, Clock, Observer } from "./ports.ts";
import { Changes } from "./state.ts";
import type { Table } from "./table.ts";

export interface CommitLimits {
  /** How long changes that nobody waits for may stay uncommitted. */
  readonly lingerMs: number;
  /** How long a commit waits for the results of guests that are at work. */
  readonly gatherMs: number;
  /** Log bytes after which a checkpoint is taken. */
  readonly checkpointBytes: number;
  /** Log entries after which a checkpoint is taken. */
  readonly checkpointEntries: number;
}

export interface CommitsParts {
  readonly log: Log;
  readonly clock: Clock;
  readonly observer: Observer;
  readonly limits: CommitLimits;
  readonly isOwned: () => boolean;
  /** Whether guests are at work whose results will be staged: a commit waits a moment for them. */
  readonly isResultComing: () => boolean;
  readonly background: (work: Promise<unknown>) => void;
  /** The log has another owner; its claim, if the log said so. */
  readonly moved: (by: Uint8Array | undefined) => void;
  /** The batch is durable, and what waited for it is released. */
  readonly committed: (batch: Changes) => void;
  /** Nothing is left to commit. */
  readonly rested: () => void;
}

const confirmDelayMs = 100;
/**
 * Pieces of merging done for a checkpoint's worth of rows: each level passes on as many segments as
 * it gets, so with fewer a level grows beyond its size, and all of it is rewritten again and again.
 */
const compactionsMax = 4;
/** Checkpoints' worth of rows that may be only in memory, beside those that are being written. */
const backlogMax = 4;
/** A batch with more doesn't wait for others. */
const lingerRowsMax = 20_000;

export class Commits {
  readonly #parts: CommitsParts;
  readonly #log: Log;
  #table: Table | undefined;

  #changes = new Changes(1);
  #durableNumber = 0;
  #inFlight: Changes | undefined;
  #isCommitting = false;
  #isDemanded = false;
  #whenGathered: (() => void) | undefined;
  #lingerCancel: Cancel | undefined;

  #bytesSinceCheckpoint = 0;
  #entriesSinceCheckpoint = 0;
  #checkpoint: Promise<void> | undefined;
  #isCheckpointReady = false;
  #closedBy: SporeError | undefined;
  readonly #rowWatchers = new Set<(rows: Batch) => void>();

  constructor(parts: CommitsParts) {
    this.#parts = parts;
    this.#log = parts.log;
  }

  /** Puts into the table what the log has after the checkpoint that the table was opened with. */
  recover(table: Table, entries: readonly { readonly payload: Uint8Array }[]): void {
    for (const { payload } of entries) {
      table.apply(decodeBatch(payload));
      this.#bytesSinceCheckpoint += payload.length;
      this.#entriesSinceCheckpoint += 1;
    }
    this.#table = table;
  }

  /** What the next commit takes. */
  get changes(): Changes {
    return this.#changes;
  }

  /** Calls back with the rows of each batch once they are in the table. */
  watchRows(changed: (rows: Batch) => void): () => void {
    this.#rowWatchers.add(changed);
    return () => this.#rowWatchers.delete(changed);
  }

  /** Number of the last batch that is durable. */
  get durableNumber(): number {
    return this.#durableNumber;
  }

  /** Of the log, what a new owner would have to read: entries and bytes since the checkpoint. */
  get lag(): { readonly entries: number; readonly bytes: number } {
    return { entries: this.#entriesSinceCheckpoint, bytes: this.#bytesSinceCheckpoint };
  }

  /** The checkpoint that is being prepared. */
  get checkpoint(): Promise<void> | undefined {
    return this.#checkpoint;
  }

  /** Nothing is released any more; whoever waits gets the error (G3). */
  close(error: SporeError): void {
    this.#closedBy = error;
    this.#lingerCancel?.();
    const lost = [this.#inFlight, this.#changes];
    this.#changes = new Changes(this.#changes.number + 1);
    for (const changes of lost) for (const fail of changes?.failures ?? []) fail(error);
  }

  /** Calls `release` as G2 has it, or `fail` if the partition is lost before. */
  afterCommit(release: () => void, fail: (error: unknown) => void): void {
    if (this.#closedBy !== undefined) {
      fail(this.#closedBy);
      return;
    }
    this.#changes.releases.push(release);
    this.#changes.failures.push(fail);
    this.demand();
  }

  /** Somebody waits: commits as soon as what is in flight is durable. */
  demand(): void {
    if (this.#closedBy !== undefined) return;
    this.#isDemanded = true;
    if (this.#isCommitting) return;
    this.#isCommitting = true;
    this.#parts.background(this.#commitLoop());
  }

  /** Nobody waits: commits after a while, if something is staged. */
  linger(): void {
    if (this.#closedBy !== undefined) return;
    const isNothing = this.#changes.isEmpty && this.#changes.releases.length === 0;
    if (isNothing || this.#isCommitting || this.#lingerCancel !== undefined) return;
    if (this.#changes.rowCount > lingerRowsMax) {
      this.demand();
      return;
    }
    this.#lingerCancel = this.#parts.clock.after(this.#parts.limits.lingerMs, () => {
      this.#lingerCancel = undefined;
      this.demand();
    });
  }

  /** All results that were coming are staged: who waits for them goes on. */
  gathered(): void {
    this.#whenGathered?.();
  }

  async #commitLoop(): Promise<void> {
    try {
      await undefined; // let the transitions of this turn of the event loop join
      while (this.#isDemanded && this.#parts.isOwned()) {
        await this.#gather();
        this.#isDemanded = false;
        if (!(await this.#commit())) return;
        if (this.#isCheckpointReady && !(await this.#writeCheckpoint())) return;
        await this.#keepUp();
      }
    } finally {
      this.#isCommitting = false;
    }
    if (this.#isDemanded && this.#parts.isOwned()) this.demand();
    else this.linger();
    this.#parts.rested();
    this.#maybeCheckpoint();
  }

  /**
   * While guests are at work their results are about to come: waiting a moment for them makes
   * one commit of many. Nobody waits when nothing is going on.
   */
  async #gather(): Promise<void> {
    if (!this.#parts.isResultComing() || !this.#parts.isOwned()) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const cancel = this.#parts.clock.after(this.#parts.limits.gatherMs, resolve);
    this.#whenGathered = resolve;
    await promise;
    this.#whenGathered = undefined;
    cancel();
  }

  /** Writes one batch and releases what waited for it (G1). False when the partition is lost. */
  async #commit(): Promise<boolean> {
    const { clock, observer } = this.#parts;
    const batch = this.#changes;
    this.#changes = new Changes(batch.number + 1);
    this.#inFlight = batch;
    this.#lingerCancel?.();
    this.#lingerCancel = undefined;
    if (!batch.isEmpty) {
      const rows = batch.freeze();
      const payload = encodeBatch(rows);
      const startMs = clock.nowMs();
      if (!(await this.#append("batch", payload))) return false;
      this.#tableNow().apply(rows);
      for (const changed of this.#rowWatchers) changed(rows);
      this.#bytesSinceCheckpoint += payload.length;
      this.#entriesSinceCheckpoint += 1;
      observer.observe("spore_commit_bytes", payload.length);
      observer.observe("spore_commit_ms", clock.nowMs() - startMs);
    }
    // G2: what was read is as old as the last commit, unless the log says who owns it.
    if (batch.isEmpty && batch.releases.length > 0 && !(await this.#confirm())) return false;
    this.#durableNumber = batch.number;
    this.#inFlight = undefined;
    for (const release of batch.releases) release();
    this.#parts.committed(batch);
    return true;
  }

  async #append(kind: "batch" | "checkpoint", payload: Uint8Array): Promise<boolean> {
    const result = await this.#log.append(kind, payload);
    if (!this.#parts.isOwned()) return false;
    if (result.kind === "written") return true;
    this.#parts.moved(result.by);
    return false;
  }

  async #confirm(): Promise<boolean> {
    const isOwner = await this.#log.confirm();
    if (!this.#parts.isOwned()) return false;
    if (!isOwner) this.#parts.moved(this.#log.fencedBy);
    return isOwner;
  }

  /** Whether there is a successor; if the log can't be asked now, that isn't known. */
  async isFenced(): Promise<boolean> {
    const before = this.#durableNumber;
    while (this.#isCommitting && this.#parts.isOwned()) {
      // A commit that began after this one in flight says as much as asking.
      if (this.#durableNumber > before + 1) return false;
      this.demand();
      await new Promise<void>((resolve) => this.#parts.clock.after(confirmDelayMs, resolve));
    }
    if (!this.#parts.isOwned()) return true;
    this.#isCommitting = true;
    try {
      return !(await this.#confirm());
    } catch {
      return !this.#parts.isOwned(); // let go meanwhile, as above; or the log itself is damaged
    } finally {
      this.#isCommitting = false;
    }
  }

  /**
   * Under work without a pause: segments are begun all the same, and commits wait for those that are
   * being written rather than fill the memory, and the next checkpoint, with what came meanwhile.
   */
  async #keepUp(): Promise<void> {
    if (this.#isCheckpointReady) return;
    this.#maybeCheckpoint();
    const isFar = this.#bytesSinceCheckpoint >= backlogMax * this.#parts.limits.checkpointBytes;
    if (isFar) await this.#checkpoint?.catch(() => undefined);
  }

  #maybeCheckpoint(): void {
    const { checkpointBytes, checkpointEntries } = this.#parts.limits;
    const isDue =
      this.#bytesSinceCheckpoint >= checkpointBytes ||
      this.#entriesSinceCheckpoint >= checkpointEntries;
    if (!isDue || this.#checkpoint !== undefined || !this.#parts.isOwned()) return;
    this.#checkpoint = this.#prepareCheckpoint().finally(() => {
      this.#checkpoint = undefined;
    });
    this.#parts.background(this.#checkpoint);
  }

  /** Moves rows from memory to segments beside the commits; the commit loop then writes the entry. */
  async #prepareCheckpoint(): Promise<void> {
    const share = Math.ceil(this.#bytesSinceCheckpoint / this.#parts.limits.checkpointBytes);
    this.#bytesSinceCheckpoint = 0;
    this.#entriesSinceCheckpoint = 0;
    const table = this.#tableNow();
    await table.flush();
    const piecesMax = compactionsMax * Math.max(1, share);
    for (let pieces = 0; pieces < piecesMax && (await table.compact()); pieces++);
    await this.#log.pass(); // now, so that no commit waits for it
    this.#isCheckpointReady = true;
    this.demand();
  }

  /** Stands for everything before it (table.ts B1): taken and appended without a pause between. */
  async #writeCheckpoint(): Promise<boolean> {
    this.#isCheckpointReady = false;
    const before = this.#log.base;
    const { bytes, generation } = this.#tableNow().checkpoint();
    if (!(await this.#append("checkpoint", bytes))) return false;
    this.#parts.observer.count("spore_checkpoints_total", 1);
    this.#parts.background(this.#afterCheckpoint(generation, before));
    return true;
  }

  /** Who follows the log from outside (replica.ts) has from one checkpoint to the next for it. */
  async #afterCheckpoint(generation: number, before: number): Promise<void> {
    await this.#tableNow().commit(generation);
    await this.#log.truncate(before);
  }

  #tableNow(): Table {
    assert(this.#table !== undefined, "there are commits only after recovery");
    return this.#table;
  }
}
