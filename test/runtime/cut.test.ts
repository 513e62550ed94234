/** A cut through partitions that are at work. */
import { expect, it } from "vitest";
import { align } from "../../runtime/cut.ts";
import { SporeError } from "../../runtime/errors.ts";
import type { Replica } from "../../runtime/replica.ts";

/** A partition without messages, one of whose segments is gone until it is read anew. */
function replicaOf({ isStale }: { readonly isStale: boolean }) {
  let reopened = 0;
  const replica: Partial<Replica> = {
    seq: 7,
    scan: async () => {
      if (reopened === 0) throw new SporeError("corrupt-segment", "segment 3 is missing");
      return { entries: [], isDone: true };
    },
    isStale: async () => isStale,
    reopen: async () => {
      reopened += 1;
    },
  };
  return { replica: replica as Replica, reopened: () => reopened };
}

it("reads anew what was merged away under it", async () => {
  const { replica, reopened } = replicaOf({ isStale: true });
  expect(await align([replica])).toEqual([]);
  expect(reopened()).toBe(1);
});

it("takes for damage what nothing newer explains", async () => {
  const { replica, reopened } = replicaOf({ isStale: false });
  await expect(align([replica])).rejects.toThrow("segment 3 is missing");
  expect(reopened()).toBe(0);
});
