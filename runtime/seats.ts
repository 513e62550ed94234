/**
 * The partitions that this host serves: opens them, counts who is at work in each, and lets
 * one go in order. Doesn't decide which they are (host.ts, members.ts).
 */
import { assert, SporeError } from "./errors.ts";
import type { HostStatus } from "./index.ts";
import type { Partition } from "./partition.ts";
import type { Clock, Observer } from "./ports.ts";

export interface SeatsParts {
  readonly partitions: number;
  readonly create: (index: number) => Partition;
  readonly clock: Clock;
  readonly observer: Observer;
  /** Another host has taken the partition over. */
  readonly onMoved: (index: number, error: SporeError) => void;
  /** A partition's log is sealed: it is being put into another layout. */
  readonly onSealed: () => void;
}

/** A partition that stopped on a fault of ours is opened again after this. */
const reopenDelayMs = 250;
/** How long effects under way may hold up a hand-over, and then requests that are being executed. */
const closeMsMax = 5000;
/** Somebody may put a damaged object back, or the store may have been wrong. */
const damagedDelayMs = 5000;
/** How long a partition that was paused isn't served. */
const pauseMs = 10_000;

interface Seat {
  partition: Partition;
  /** Why it can't be opened. */
  trouble?: SporeError;
  /** Requests that are being executed. */
  busy: number;
  /** It is being let go … */
  closing?: Promise<void>;
  /** … and takes in no more requests. */
  isClosing: boolean;
  whenIdle: () => void;
}

export class Seats {
  readonly count: number;
  readonly #parts: SeatsParts;
  readonly #seats = new Map<number, Seat>();
  #isStopped = false;

  constructor(parts: SeatsParts) {
    this.count = parts.partitions;
    this.#parts = parts;
  }

  has(index: number): boolean {
    return this.#seats.has(index);
  }

  isServed(index: number): boolean {
    return this.#seats.get(index)?.partition.state === "owned";
  }

  /** The partition, if it is here, whatever its state. Throws peer-refused. */
  partition(index: number): Partition {
    const seat = this.#seats.get(index);
    if (seat !== undefined) return seat.partition;
    throw new SporeError("peer-refused", `partition ${index} isn't served here`);
  }

  /** Whether a request may come in: to be executed, or to hear what is wrong. */
  isOpen(index: number): boolean {
    const seat = this.#seats.get(index);
    if (seat === undefined || seat.isClosing) return false;
    return seat.partition.state !== "claiming" || seat.trouble !== undefined;
  }

  /** Counts somebody in; the result counts out. */
  enter(index: number): () => void {
    const seat = this.#seats.get(index);
    assert(seat !== undefined, `partition ${index} is here`);
    seat.busy += 1;
    return () => {
      seat.busy -= 1;
      if (seat.busy === 0) seat.whenIdle();
    };
  }

  get indexes(): number[] {
    return [...this.#seats.keys()].sort((left, right) => left - right);
  }

  /** Partitions that take requests, each with the epoch of its claim. */
  get owned(): (readonly [partition: number, epoch: number])[] {
    return this.indexes
      .filter((index) => this.isOpen(index))
      .map((index) => [index, this.epochOf(index) ?? 0] as const);
  }

  epochOf(index: number): number | undefined {
    return this.#seats.get(index)?.partition.epoch;
  }

  /** Asks the log whether the partition is still ours; if it isn't, `onMoved` is called. */
  verify(index: number): void {
    const seat = this.#seats.get(index);
    if (seat?.partition.state !== "owned") return;
    // What it finds is told by `lost`.
    seat.partition.durable().catch(() => undefined);
  }

  /**
   * Lets a partition go in order: lets effects under way end (a repeated one is seen outside) while
   * requests are served as ever; then takes in no more of them, ends waits, lets what is going on
   * end, and commits. What still goes on after a while fails, or is done again by the next owner.
   */
  async close(index: number): Promise<void> {
    const seat = this.#seats.get(index);
    if (seat === undefined) return;
    seat.closing ??= this.#close(seat);
    await seat.closing;
  }

  async #close(seat: Seat): Promise<void> {
    const { partition } = seat;
    await this.#within(closeMsMax, partition.settleEffects());
    seat.isClosing = true;
    partition.interrupt();
    if (seat.busy > 0) {
      const idle = Promise.withResolvers<void>();
      seat.whenIdle = idle.resolve;
      await this.#within(closeMsMax, idle.promise);
    }
    await partition.stop();
    this.forget(partition.index, partition);
  }

  /** Before a stop, in all that are here: whoever opens them next repeats nothing. */
  async settleEffects(timeoutMs: number): Promise<void> {
    const settling = [...this.#seats.values()].map(({ partition }) => partition.settleEffects());
    await this.#within(Math.min(timeoutMs, closeMsMax), Promise.all(settling));
  }

  async #within(timeoutMs: number, work: Promise<unknown>): Promise<void> {
    const over = Promise.withResolvers<void>();
    const cancel = this.#parts.clock.after(timeoutMs, over.resolve);
    await Promise.race([work, over.promise]);
    cancel();
  }

  /** The partition isn't here any more. */
  forget(index: number, partition = this.#seats.get(index)?.partition): void {
    if (this.#seats.get(index)?.partition === partition) this.#seats.delete(index);
  }

  /** Takes the partition over. One whose objects are damaged refuses its own requests only. */
  open(index: number): Promise<void> {
    return this.#open(this.#newSeat(index));
  }

  /**
   * As `open`, where nobody is there to hear what went wrong: a partition that another host took
   * first is told of by `onMoved`, as if it had been here; anything else is tried again.
   */
  async openAgain(index: number): Promise<void> {
    const seat = this.#newSeat(index);
    try {
      await this.#open(seat);
    } catch (error) {
      // Let go while it was opened: whoever did that knows.
      if (this.#isStopped || seat.closing !== undefined || this.#seats.get(index) !== seat) return;
      if (error instanceof SporeError && error.kind === "moved") {
        this.#moved(index, error, "info"); // it never was here: nothing is lost
        return;
      }
      const message = error instanceof Error ? error.message : String(error);
      this.#parts.observer.log("error", `partition ${index} can't be opened: ${message}`, {});
      this.#reopenAfter(damagedDelayMs, index);
    }
  }

  #newSeat(index: number): Seat {
    const partition = this.#parts.create(index);
    const seat: Seat = { partition, busy: 0, isClosing: false, whenIdle: () => undefined };
    this.#seats.set(index, seat);
    return seat;
  }

  async #open(seat: Seat): Promise<void> {
    const { partition } = seat;
    try {
      await partition.open();
    } catch (error) {
      if (!(error instanceof SporeError)) throw error;
      seat.trouble = error;
      if (error.code === "layout-changing") {
        this.#parts.onSealed();
        return;
      }
      if (error.kind !== "corrupt") throw error;
      this.#parts.observer.log("error", error.message, { code: error.code });
      this.#reopenAfter(damagedDelayMs, partition.index);
    }
  }

  /** Takes a partition that was let go again, unless somebody else has done so. */
  openLater(index: number): void {
    this.#parts.clock.after(pauseMs, () => {
      if (!this.#isStopped && !this.has(index)) void this.openAgain(index);
    });
  }

  /** What a partition says when it can't go on (`Neighbours.lost`). */
  lost(partition: Partition, error: SporeError): void {
    const { index } = partition;
    if (this.#isStopped || this.#seats.get(index)?.partition !== partition) return;
    const isLeaving = this.#seats.get(index)?.closing !== undefined;
    if (error.kind === "moved") this.#moved(index, error, isLeaving ? "info" : "warn");
    else this.#reopenAfter(reopenDelayMs, index);
  }

  #moved(index: number, error: SporeError, level: "info" | "warn"): void {
    this.#parts.observer.log(level, error.message, { code: error.code });
    this.#parts.onMoved(index, error);
  }

  #reopenAfter(delayMs: number, index: number): void {
    this.#parts.clock.after(delayMs, () => void this.#reopen(index));
  }

  /** After a fault of ours: a new partition object recovers from the log. */
  async #reopen(index: number): Promise<void> {
    if (this.#isStopped || !this.#seats.has(index)) return;
    await this.openAgain(index);
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await Promise.all([...this.#seats.values()].map(({ partition }) => partition.stop()));
  }

  status(): HostStatus["partitions"] {
    return [...this.#seats.values()].map(({ partition }) => ({
      partition: partition.index,
      state: partition.state,
      seq: partition.seq,
      residentEntities: partition.residentEntities,
      memtableBytes: partition.memtableBytes,
      logLag: partition.logLag,
      nextTimerAtMs: partition.nextTimerAtMs,
    }));
  }
}
