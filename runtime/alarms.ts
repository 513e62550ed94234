/**
 * Fires a partition's timers. All of them are rows; the next ones lie in a heap, which is
 * refilled from the table before its end is reached. So a million sleepers cost memory only
 * in the bucket (I8).
 */
import { rowKeys, timerOfRow } from "./format.ts";
import type { Cancel, Clock } from "./ports.ts";
import { type Timer, TimerHeap } from "./timers.ts";

/** Timers kept in the heap; later ones stay in the table. */
const timerWindow = 10_000;

export interface AlarmsParts {
  /** How far ahead the table is asked again even if it had nothing more. */
  readonly windowMs: number;
  /** The clock may be set: nobody sleeps longer than this without a look at it. */
  readonly lookMs: number;
  readonly clock: Clock;
  readonly isOwned: () => boolean;
  /** Durable timer rows in the order of their times. */
  readonly scan: (limit: number) => Promise<{
    readonly entries: readonly (readonly [string, Uint8Array])[];
    readonly isDone: boolean;
  }>;
  /** Resolves when everything that was staged until now is durable. */
  readonly durable: () => Promise<void>;
  /** The timer is due. */
  readonly fire: (timer: Timer) => Promise<void>;
  readonly background: (work: Promise<unknown>) => void;
}

export class Alarms {
  readonly #parts: AlarmsParts;
  readonly #heap = new TimerHeap();
  /** Every timer due before this is in the heap. */
  #horizonMs = 0;
  /** Whether the table may have timers from there on. */
  #isMore = true;
  #cancel: Cancel | undefined;
  #armedForMs = Number.POSITIVE_INFINITY;
  #isFiring = false;
  /** Timers that were set while the heap is being refilled. */
  #backlog: Timer[] | undefined;

  constructor(parts: AlarmsParts) {
    this.#parts = parts;
  }

  close(): void {
    this.#cancel?.();
  }

  /** When the next timer is due, or the table has to be asked for more; undefined: never. */
  get nextAtMs(): number | undefined {
    const dueMs = this.#heap.peek()?.atMs;
    if (!this.#isMore) return dueMs;
    return Math.min(dueMs ?? this.#horizonMs, this.#horizonMs);
  }

  set(timer: Timer): void {
    if (timer.atMs >= this.#horizonMs) {
      // Stays in the table until its time comes near.
      this.#isMore = true;
      this.#backlog?.push(timer);
      return;
    }
    this.#heap.push(timer);
    this.#arm();
  }

  #arm(): void {
    const next = Math.min(this.#heap.peek()?.atMs ?? Number.POSITIVE_INFINITY, this.#horizonMs);
    if (next >= this.#armedForMs || !Number.isFinite(next)) return;
    this.#cancel?.();
    this.#armedForMs = next;
    const { clock, lookMs } = this.#parts;
    const delayMs = Math.min(Math.max(0, next - clock.nowMs()), lookMs);
    this.#cancel = clock.after(delayMs, () => {
      this.#armedForMs = Number.POSITIVE_INFINITY;
      this.#parts.background(this.#fireDue());
    });
  }

  async #fireDue(): Promise<void> {
    const { clock, isOwned } = this.#parts;
    if (this.#isFiring || !isOwned()) return;
    this.#isFiring = true;
    try {
      for (;;) {
        const nowMs = clock.nowMs();
        const timer = this.#heap.peek();
        if (timer === undefined || timer.atMs > nowMs) {
          if (this.#horizonMs > nowMs) break;
          await this.refill();
          const next = this.#heap.peek();
          if (next === undefined || next.atMs > nowMs) break;
          continue;
        }
        this.#heap.pop();
        await this.#parts.fire(timer);
      }
    } finally {
      this.#isFiring = false;
      this.#arm();
    }
  }

  /** Takes the next window of durable timers into the heap. */
  async refill(): Promise<void> {
    const { clock, windowMs, isOwned, durable, scan } = this.#parts;
    const from = this.#horizonMs;
    const backlog: Timer[] = [];
    this.#backlog = backlog;
    // Timers that are staged but not durable yet would be missed by the scan.
    if (isOwned()) await durable();
    const page = await scan(timerWindow);
    const seen = new Set<string>();
    for (let timer = this.#heap.pop(); timer !== undefined; timer = this.#heap.pop()) {
      seen.add(rowKeys.timer(timer.atMs, timer.key, timer.id));
    }
    for (const [key] of page.entries) seen.add(key);
    this.#backlog = undefined;
    for (const timer of backlog) seen.add(rowKeys.timer(timer.atMs, timer.key, timer.id));
    for (const key of seen) this.#heap.push(timerOfRow(key));
    const last = page.entries.at(-1)?.[0];
    this.#isMore = !page.isDone;
    const farMs = clock.nowMs() + windowMs;
    this.#horizonMs =
      page.isDone || last === undefined ? Math.max(from, farMs) : timerOfRow(last).atMs + 1;
    this.#arm();
  }
}
