/** What of a host is under way in real time, so that a test's own time moves only when nothing is. */
import { setImmediate, setTimeout } from "node:timers";

/** Turns of the event loop in which nothing may happen before all is called quiet. */
const quietTurns = 3;

export class Activity {
  #underWay = 0;
  #events = 0;
  #isAbandoned = false;
  #wake: (() => void) | undefined;

  /** Something happened. */
  touch(): void {
    this.#events += 1;
  }

  /** Counts as under way until the returned function is called. */
  begin(): () => void {
    if (this.#isAbandoned) return () => undefined;
    this.#underWay += 1;
    this.touch();
    let isOver = false;
    return () => {
      if (isOver || this.#isAbandoned) return;
      isOver = true;
      this.touch();
      this.#underWay -= 1;
      if (this.#underWay === 0) this.#wake?.();
    };
  }

  async during<T>(work: Promise<T>): Promise<T> {
    const end = this.begin();
    try {
      return await work;
    } finally {
      end();
    }
  }

  /** Nothing of it counts any more: the host is gone. */
  abandon(): void {
    this.#isAbandoned = true;
    this.#underWay = 0;
    this.touch();
    this.#wake?.();
  }

  /** Resolves when nothing is under way and nothing has happened for some turns. */
  async quiet(): Promise<void> {
    let seen = -1;
    for (let turns = 0; turns < quietTurns; turns++) {
      if (this.#underWay > 0) await this.#noneUnderWay();
      if (seen !== this.#events) turns = 0;
      seen = this.#events;
      await nextTurn();
    }
  }

  #noneUnderWay(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        if (this.#underWay > 0) return;
        this.#wake = undefined;
        resolve();
      };
    });
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

/** Real time, which a runner's fake timers don't touch. */
export function realPause(delayMs: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, delayMs);
  });
}
