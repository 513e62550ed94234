/**
 * Repeats what the store could not answer, for as long as the host lives. Waits double up
 * to a bound, on the clock that was handed in.
 */
import { SporeError } from "./errors.ts";
import type { Clock, Observer } from "./ports.ts";

const firstWaitMs = 20;
const waitMsMax = 2_000;

export class Retrier {
  readonly #clock: Clock;
  readonly #observer: Observer;
  readonly #waiting = new Set<() => void>();
  #isClosed = false;

  constructor(clock: Clock, observer: Observer) {
    this.#clock = clock;
    this.#observer = observer;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /**
   * The result of `work`, which is called again while it throws store-unavailable; other
   * errors pass through. Throws host-stopping after `close`.
   */
  async run<T>(what: string, work: () => Promise<T>): Promise<T> {
    for (let waitMs = firstWaitMs; ; waitMs = Math.min(waitMs * 2, waitMsMax)) {
      if (this.#isClosed) throw new SporeError("host-stopping", `${what}: the host is stopping`);
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof SporeError) || error.code !== "store-unavailable") throw error;
        this.#observer.count("spore_store_retries_total", 1, { what });
        if (waitMs >= waitMsMax) {
          this.#observer.log("warn", "the store does not answer", { what, message: error.message });
        }
      }
      await this.#sleep(waitMs);
    }
  }

  close(): void {
    this.#isClosed = true;
    for (const wake of this.#waiting) wake();
  }

  #sleep(waitMs: number): Promise<void> {
    return new Promise((resolve) => {
      if (this.#isClosed) return resolve();
      const wake = (): void => {
        cancel();
        this.#waiting.delete(wake);
        resolve();
      };
      const cancel = this.#clock.after(waitMs, wake);
      this.#waiting.add(wake);
    });
  }
}
