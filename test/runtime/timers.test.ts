import { expect, test } from "vitest";
import type { EntityKey } from "../../runtime/ids.ts";
import { TimerHeap } from "../../runtime/timers.ts";

test("of timers that are due at once those that were set first come first", () => {
  const heap = new TimerHeap();
  const key = "t/r/1" as EntityKey;
  for (const id of [2, 9, 4, 1, 10, 3, 7]) heap.push({ atMs: 700, key, id });
  heap.push({ atMs: 699, key, id: 11 });
  const ids = Array.from({ length: heap.size }, () => heap.pop()?.id);
  expect(ids).toEqual([11, 1, 2, 3, 4, 7, 9, 10]);
});
