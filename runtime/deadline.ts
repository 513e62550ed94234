/**
 * What is left of the time that somebody waits, counted by alarms: the clock may be set meanwhile.
 * It is believed from one alarm to the next, and only if what it says can be.
 */
import type { Cancel, Clock } from "./ports.ts";

/** Alarms of a long wait. A jump that is believed takes two parts at most. */
const partsMax = 32;
const partMsMin = 100;

export class Deadline {
  readonly #clock: Clock;
  readonly #partMs: number;
  /** As of the last alarm. */
  #leftMs: number;
  #atMs: number;
  #cancel: Cancel | undefined;

  constructor(clock: Clock, waitMs: number) {
    this.#clock = clock;
    this.#partMs = Math.max(partMsMin, Math.ceil(waitMs / partsMax));
    this.#leftMs = Math.max(0, waitMs);
    this.#atMs = clock.nowMs();
    this.#setAlarm();
  }

  /** 0 when the time is up. */
  get leftMs(): number {
    return Math.max(0, this.#leftMs - this.#spentMs());
  }

  /** Nobody asks any more. */
  stop(): void {
    this.#cancel?.();
  }

  #setAlarm(): void {
    if (this.#leftMs === 0) return;
    const afterMs = Math.min(this.#partMs, this.#leftMs);
    this.#cancel = this.#clock.after(afterMs, () => {
      this.#leftMs = Math.max(0, this.#leftMs - Math.max(afterMs, this.#spentMs()));
      this.#atMs = this.#clock.nowMs();
      this.#setAlarm();
    });
  }

  /** Since the last alarm; an alarm isn't as late as a clock that was set. */
  #spentMs(): number {
    const spentMs = this.#clock.nowMs() - this.#atMs;
    return spentMs >= 0 && spentMs <= 2 * this.#partMs ? spentMs : 0;
  }
}
