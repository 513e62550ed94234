/** What the bucket is asked for: R2 is paid by the call (docs/EDGE.md has the same figures). */
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { type Outside, projectCode, startOutside } from "../acceptance/kit.ts";
import { Counter, chain, fib } from "../acceptance/project.ts";
import { type BucketUse, type EdgeHost, startEdge, stopEdges } from "./kit.ts";

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

let edge: EdgeHost;
let outside: Outside;

beforeAll(async () => {
  outside = await startOutside();
  const env = { SPORE_STORAGE: "r2:FAULTY", SPORE_PARTITIONS: "1" };
  edge = await startEdge({ env });
  await edge.client.deploy(await projectCode());
  await edge.client.run(fib.step(1), { id: "warm" });
});
afterAll(async () => {
  await stopEdges();
  await outside.close();
});

async function useOf(work: () => Promise<unknown>): Promise<BucketUse["calls"]> {
  return (await wholeUseOf(work)).calls;
}

async function wholeUseOf(work: () => Promise<unknown>): Promise<BucketUse> {
  await edge.disturb({});
  await work();
  return edge.disturb({});
}

it("a workflow of many pure steps is one write when it is started and awaited", async () => {
  const calls = await useOf(() => edge.client.run(fib.step(8), { id: "fib" }));
  expect(calls.put).toBeLessThanOrEqual(2);
  expect(calls.get).toBeLessThanOrEqual(3);
});

it("a step with an effect is a write or two", async () => {
  const calls = await useOf(() =>
    edge.client.run(chain.with(`${outside.url}/economy`, 10), { id: "chain" }),
  );
  expect(calls.put).toBeLessThanOrEqual(15);
});

it("an actor's call is a write, and reading it is a look at the log", async () => {
  const counter = await edge.client.getOrCreate(Counter, "economy", 0);
  const written = await useOf(() => counter.incr());
  const read = await useOf(() => counter.value());
  expect(written.put).toBeLessThanOrEqual(1);
  expect(read).toMatchObject({ put: 0, list: 0 });
});

it("an object that starts again reads what was committed since its last checkpoint", async () => {
  const calls = await useOf(async () => {
    await edge.crash(0);
    await (await fetch(`${edge.url}/readyz`)).text();
  });
  expect(calls.put).toBeLessThanOrEqual(4);
  expect(calls.get).toBeLessThanOrEqual(120);
});

it("a run in an object that isn't there yet waits for the bucket a dozen times", async () => {
  await edge.crash(0);
  const { rounds, calls } = await wholeUseOf(() => edge.client.run(fib.step(1), { id: "cold" }));
  // The namespace; the log's end; the claim; what may follow it, bit by bit; the commit.
  expect(rounds).toBeLessThanOrEqual(11);
  expect(calls.put).toBeLessThanOrEqual(3);
});

it("at rest nothing is asked for", async () => {
  const calls = await useOf(() => new Promise((resolve) => setTimeout(resolve, 2000)));
  expect(calls.put + calls.get).toBeLessThanOrEqual(2);
});
