/** What is due next: a binary heap of the timers that lie in the near future. */
import type { EntityKey } from "./ids.ts";

export interface Timer {
  readonly atMs: number;
  readonly key: EntityKey;
  readonly id: number;
}

export class TimerHeap {
  readonly #heap: Timer[] = [];

  get size(): number {
    return this.#heap.length;
  }

  peek(): Timer | undefined {
    return this.#heap[0];
  }

  push(timer: Timer): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(timer);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent];
      if (above === undefined || above.atMs <= timer.atMs) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = timer;
  }

  pop(): Timer | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      const left = 2 * at + 1;
      const right = left + 1;
      const leftTimer = heap[left];
      if (leftTimer === undefined) break;
      const rightTimer = heap[right];
      const isRight = rightTimer !== undefined && rightTimer.atMs < leftTimer.atMs;
      const child = isRight ? rightTimer : leftTimer;
      if (child.atMs >= last.atMs) break;
      heap[at] = child;
      at = isRight ? right : left;
    }
    heap[at] = last;
    return first;
  }
}
