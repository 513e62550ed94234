/** What is due next: the timers that lie in the near future. */
import { Heap } from "./heap.ts";
import type { EntityKey } from "./ids.ts";

export interface Timer {
  readonly atMs: number;
  readonly key: EntityKey;
  readonly id: number;
}

export class TimerHeap extends Heap<Timer> {
  constructor() {
    // Of those that are due at once the one that was set first is first, as in JavaScript.
    super(
      (left, right) => left.atMs < right.atMs || (left.atMs === right.atMs && left.id < right.id),
    );
  }
}
