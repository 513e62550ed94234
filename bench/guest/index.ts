/** What the benchmarks run. */
import {
  actor,
  type Graph,
  map,
  query,
  signal,
  sleep,
  step,
  update,
  workflow,
} from "sporeflow/guest";

export const increment = step("increment", (n: number) => n + 1);

/** `count` pure steps, one after the other. */
export const chain = workflow("chain", async (count: number) => {
  let value = 0;
  for (let i = 0; i < count; i++) value = await increment(value);
  return value;
});

/** `count` steps at once. */
export const fanOut = workflow("fanOut", async (count: number) => {
  const values = await Promise.all(Array.from({ length: count }, (_, i) => increment(i)));
  return values.length;
});

/** `count` steps with an effect each, one after the other. */
export const effects = workflow("effects", async (count: number, url: string) => {
  for (let i = 0; i < count; i++) await visit(url);
  return count;
});

export const visit = step("visit", async (url: string) => (await fetch(url)).status);

/** A history of `count` steps, then a wait: each `poke` wakes it. */
export const sleeper = workflow("sleeper", async (count: number) => {
  let value = 0;
  for (let i = 0; i < count; i++) value = await increment(value);
  update("poke", () => ++value);
  return value + (await signal<number>("end"));
});

export const dozer = workflow("dozer", async (ms: number) => {
  await sleep(ms);
  return "awake";
});

export const bounded = workflow("bounded", async (count: number) => {
  const items = Array.from({ length: count }, (_, i) => i);
  return (await map(items, (i) => increment(i), { concurrency: 16 })).length;
});

export const countDown = step("countDown", (n: number): Graph<number> | number =>
  n === 0 ? 0 : countDown.step(n - 1),
);

export const Counter = actor(
  "Counter",
  class {
    n = 0;
    add(by = 1) {
      this.n += by;
      return this.n;
    }
    value() {
      return this.n;
    }
  },
  { readonly: ["value"] },
);

/** Calls another actor `count` times, one after the other. */
export const Caller = actor(
  "Caller",
  class {
    calls = 0;
    async ping(key: string, count: number) {
      for (let i = 0; i < count; i++) await Counter.getOrCreate(key).add();
      this.calls += count;
      return this.calls;
    }
    /** One-way: they leave together when the method ends. */
    post(key: string, count: number) {
      for (let i = 0; i < count; i++) void Counter.getOrCreate(key).send.add();
      this.calls += count;
      return this.calls;
    }
  },
);

/** Sleeps; a `poke` wakes it for a moment. */
export const napper = workflow("napper", async (ms: number) => {
  let pokes = 0;
  update("poke", () => ++pokes);
  await sleep(ms);
  return pokes;
});

/** Takes `count` signals. */
export const taker = workflow("taker", async (count: number) => {
  let taken = 0;
  query("taken", () => taken);
  for (; taken < count; taken++) await signal<number>("item");
  return count;
});

/** Waits for its place, does nothing, gives it back. */
export const passer = workflow("passer", (n: number) => n, {
  queue: { name: "narrow", concurrency: 16 },
});
