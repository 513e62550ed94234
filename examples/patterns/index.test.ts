/** Each pattern does what it is there to show. */
import { createTestHost, type TestHost } from "sporeflow/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  coinFlip,
  crawl,
  diamond,
  etl,
  factorial,
  fibonacci,
  parent,
  processFile,
  shoutAll,
  sizeOf,
  trip,
  unsteady,
  withExitHandler,
} from "./index.ts";

let spore: TestHost;
let underWay = 0;
let mostAtOnce = 0;

beforeAll(async () => {
  spore = await createTestHost({
    entry: new URL("./index.ts", import.meta.url),
    async fetch() {
      underWay += 1;
      mostAtOnce = Math.max(mostAtOnce, underWay);
      await spore.sleep("1 s");
      underWay -= 1;
      return new Response("one\ntwo\nthree");
    },
  });
}, 60_000);

afterAll(() => spore.stop());

async function stepsOf(id: string): Promise<readonly string[]> {
  return (await spore.client.handle(id).steps()).map(({ step }) => step);
}

test("steps meet, and a node that is used twice runs once", async () => {
  expect(await spore.client.run(diamond.step(), { id: "diamond" })).toBe("top and top");
  expect(await stepsOf("diamond")).toEqual(["diamond", "say", "say_1", "say_2", "both"]);
});

test("data decides", async () => {
  expect(await spore.client.run(coinFlip.step())).toBe("it was heads");
  expect(await spore.client.run(sizeOf.with(50))).toBe("medium");
});

test("loops have as many steps as they need", async () => {
  expect(await spore.client.run(shoutAll.step(["hello", "world"]))).toBe("HELLO WORLD");
  expect(await spore.client.run(fibonacci.with(7))).toEqual([1, 1, 2, 3, 5, 8, 13]);
  expect(await spore.client.run(factorial.step(10, 1))).toBe(3628800);
});

test("the third attempt succeeds, two minutes later", async () => {
  const before = spore.now().getTime();
  expect(await spore.client.run(unsteady.step())).toBe(3);
  expect(spore.now().getTime() - before).toBeGreaterThanOrEqual(120_000);
});

test.each([
  [true, "SUCCESSFUL", ["say", "notify"]],
  [false, "FAILED", ["notify"]],
])("the exit handler runs after success and failure (%s)", async (isGood, status, steps) => {
  const run = await spore.client.start(withExitHandler.with(isGood), { id: `exit_${isGood}` });
  await run.result().catch(() => undefined);
  expect(await run.status()).toBe(status);
  expect(await stepsOf(run.id)).toEqual(steps);
});

test("workflows call workflows", async () => {
  expect(await spore.client.run(parent.with())).toEqual(["hello Ada", "hello Bob"]);
});

test("a file goes from step to step by reference", async () => {
  const result = await spore.client.run(processFile.with("https://files.example/a"));
  expect(result).toMatchObject({ lines: 3 });
});

test("a trip is booked as a whole, or what was booked is canceled, last first", async () => {
  expect(await spore.client.run(trip.with("Ada"))).toHaveLength(3);
  const failed = await spore.client.start(trip.with("Eve"), { id: "eve" });
  await expect(failed.result()).rejects.toThrow("the hotel is full");
  const undone = (await failed.steps()).filter(({ name }) => name === "cancel");
  expect(undone.map(({ value }) => value)).toEqual([
    "flight for Eve canceled",
    "car for Eve canceled",
  ]);
});

test("extract, transform, load", async () => {
  expect(await spore.client.run(etl.step())).toBe("the total is 1236.7");
});

test("twenty requests go three at a time", async () => {
  mostAtOnce = 0;
  const urls = Array.from({ length: 20 }, (_, index) => `https://files.example/${index}`);
  expect(await spore.client.run(crawl.with(urls))).toEqual(urls.map(() => 200));
  expect(mostAtOnce).toBe(3);
});
