/** Workflows behind queues, for queues.test.ts. */
import {
  continueAsNew,
  NonRetryableError,
  run,
  signal,
  sleep,
  start,
  workflow,
} from "sporeflow/guest";

/** Holds its place until it is told to go. */
export const held = workflow("held", () => signal<string>("go"), {
  queue: { name: "pair", concurrency: 2 },
});

/** One at a time for each customer, who is in the arguments. */
export const charge = workflow(
  "charge",
  async (_order: { customer: string }) => signal<string>("go"),
  { queue: { name: "charges", concurrency: 3, keyConcurrency: 1, key: "0.customer" } },
);

export const brief = workflow("brief", (n: number) => n, {
  queue: { name: "spaced", rate: { limit: 10, per: "1 second", burst: 2 } },
});

export const full = workflow("full", () => signal("go"), {
  queue: { name: "small", concurrency: 1, maxPending: 1 },
});

/** Lives twice, and is in the queue all the while. */
export const twoLives = workflow(
  "twoLives",
  async (life: number) => {
    const said = await signal<string>("go");
    if (life === 1) continueAsNew(2);
    return said;
  },
  { queue: { name: "single", concurrency: 1 } },
);

let attempts = 0;

export const breaks = workflow(
  "breaks",
  async () => {
    await signal("go");
    return run("once", () => {
      attempts += 1;
      if (attempts === 1) throw new NonRetryableError("not yet");
      return attempts;
    });
  },
  { queue: "single" },
);

export const free = workflow("free", async () => signal("go"));

/** Its children pass a queue; it does not. */
export const family = workflow("family", async (count: number) => {
  const children = Array.from({ length: count }, (_, i) => nap(i));
  const last = await start(nap.with(count), { queue: { priority: 7 } });
  return [...(await Promise.all(children)), await last.result()];
});

export const nap = workflow(
  "nap",
  async (n: number) => {
    await sleep(30);
    return n;
  },
  { queue: { name: "naps", concurrency: 2 } },
);
