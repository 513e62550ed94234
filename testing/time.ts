/**
 * A test's own time: it stands still until somebody moves it. A `Clock` for the host, whose
 * timers come in the order of their times, and in that of their making where these are equal.
 */
import type { Cancel, Clock } from "../runtime/ports.ts";

interface Timer {
  readonly atMs: number;
  readonly order: number;
  readonly run: () => void;
}

/** A timer that is farther away than any date never comes. */
const neverMs = 8.64e15;

export class TestTime implements Clock {
  #nowMs: number;
  #order = 0;
  /** In order, the last one first. */
  readonly #timers: Timer[] = [];
  readonly #onTimer: () => void;

  /** `onTimer` hears of each timer that is set. */
  constructor(nowMs: number, onTimer: () => void) {
    this.#nowMs = nowMs;
    this.#onTimer = onTimer;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, run: () => void): Cancel {
    const atMs = this.#nowMs + Math.max(0, delayMs);
    if (!(atMs < neverMs)) return () => undefined;
    const timer: Timer = { atMs, order: this.#order++, run };
    this.#timers.splice(this.#placeOf(timer), 0, timer);
    this.#onTimer();
    return () => {
      const at = this.#timers.indexOf(timer);
      if (at !== -1) this.#timers.splice(at, 1);
    };
  }

  /** When the next timer comes. */
  get nextMs(): number | undefined {
    return this.#timers.at(-1)?.atMs;
  }

  /** Moves to a time that isn't before now, and not past a timer. */
  moveTo(atMs: number): void {
    this.#nowMs = Math.max(this.#nowMs, atMs);
  }

  /** Runs the timers that are due; false if there was none. */
  fireDue(): boolean {
    let hasFired = false;
    for (let next = this.#timers.at(-1); next !== undefined; next = this.#timers.at(-1)) {
      if (next.atMs > this.#nowMs) break;
      this.#timers.pop();
      hasFired = true;
      next.run();
    }
    return hasFired;
  }

  #placeOf(timer: Timer): number {
    let low = 0;
    let high = this.#timers.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const other = this.#timers[middle];
      if (other !== undefined && isBefore(timer, other)) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function isBefore(left: Timer, right: Timer): boolean {
  return left.atMs === right.atMs ? left.order < right.order : left.atMs < right.atMs;
}
