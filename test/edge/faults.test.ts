/**
 * What Cloudflare does to a Worker: objects are thrown out of memory at any moment, R2
 * refuses calls or loses its answers, and a guest that computes for too long takes its
 * object with it. Nothing that was acknowledged is lost.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished, vi } from "vitest";
import {
  codeOf,
  type Outside,
  projectCode,
  seeded,
  startOutside,
  until,
} from "../acceptance/kit.ts";
import { Counter, chain, nap } from "../acceptance/project.ts";
import { sleeper, spinner, twice } from "./journey.ts";
import { type EdgeHost, startEdge, stopEdges } from "./kit.ts";

vi.setConfig({ testTimeout: 240_000, hookTimeout: 120_000 });

let outside: Outside;
beforeAll(async () => {
  outside = await startOutside();
});
afterEach(stopEdges);
afterAll(() => outside.close());

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Whether the object that would answer this is free to. */
async function answers(edge: EdgeHost, path: string): Promise<boolean> {
  const signal = AbortSignal.timeout(3000);
  return fetch(edge.url + path, { signal })
    .then((response) => response.text())
    .then(
      () => true,
      () => false,
    );
}

describe("an object that is lost", () => {
  it("is brought back by its alarm, and its timers fire with nobody asking", async () => {
    const edge = await startEdge();
    await edge.client.deploy(await codeOf("test/edge/journey.ts"));
    await edge.client.start(sleeper.with(outside.url, 2000), { id: "short" });
    await edge.client.start(sleeper.with(outside.url, 60_000), { id: "long" });
    for (const index of [0, 1]) await edge.crash(index);
    await until("the short one woke", () => outside.calls.get("/woke") === 1, 180_000);
    // Most probably it rests now, with its alarm at the long one's timer; if not, the alarm
    // that guards its work brings it back.
    await pause(5000);
    for (const index of [0, 1]) await edge.crash(index);
    await until("the long one woke", () => outside.calls.get("/woke") === 2, 180_000);
    expect(await edge.client.handle("short").result()).toBe("/woke");
    expect(await edge.client.handle("long").result()).toBe("/woke");
  });

  it("is started again if its alarm throws, or dies with it, and its timers fire all the same", async () => {
    const edge = await startEdge({ env: { SPORE_PARTITIONS: "1" } });
    // It asks all objects to start, as any first request has the Worker do a second later.
    expect((await fetch(`${edge.url}/readyz`)).status).toBe(200);
    await edge.client.deploy(await codeOf("test/edge/journey.ts"));
    const before = outside.calls.get("/woke") ?? 0;
    await edge.client.start(sleeper.with(outside.url, 5000), { id: "short" });
    // From here on nobody asks for anything: there is an alarm and nothing else, and it fails.
    await edge.failAlarms(0, ["throw", "throw", "die"]);
    await edge.crash(0);
    await until("it woke", () => outside.calls.get("/woke") === before + 1, 180_000);
    expect(await edge.alarmsLeft(0)).toBe(0);
    expect(await edge.client.handle("short").result()).toBe("/woke");
  });

  it("loses nothing in the middle of commits, over a bucket that fails one call in five", async () => {
    const seed = Number(process.env.SPORE_TEST_SEED ?? 20_261_121);
    console.log(`SPORE_TEST_SEED=${seed}`);
    const edge = await startEdge({ env: { SPORE_STORAGE: "r2:FAULTY/below" }, attemptsMax: 40 });
    const { client } = edge;
    await client.deploy(await projectCode());
    await edge.disturb({ before: 100, after: 100, delayMs: 20, seed });
    const random = seeded(seed);
    const runs = Array.from({ length: 12 }, (_, n) =>
      client.run(chain.with(`${outside.url}/chain/${n}`, 4), { id: `chain_${n}` }),
    );
    const counter = await client.getOrCreate(Counter, "counted", 0);
    const calls = Array.from({ length: 30 }, () => counter.incr());
    const naps = Array.from({ length: 4 }, (_, n) => client.run(nap.with(300), { id: `nap_${n}` }));
    const work = Promise.all([Promise.all(runs), Promise.all(calls), Promise.all(naps)]);
    let crashes = 0;
    let isDone = false;
    const crashing = (async () => {
      for (let round = 0; round < 8 && !isDone; round++) {
        await pause(40 + random() * 200); // the work takes a second at least
        await edge.crash(round % 2);
        crashes += 1;
      }
    })();
    const [chains, sums] = await work.finally(() => {
      isDone = true;
    });
    await crashing;
    expect(crashes).toBeGreaterThan(1);
    const { failures } = await edge.disturb({ before: 0, after: 0, delayMs: 0 });
    expect(failures).toBeGreaterThan(10);
    expect(chains).toEqual(new Array(12).fill(4));
    expect(sums.toSorted((left, right) => left - right)).toEqual(
      Array.from({ length: 30 }, (_, index) => index + 1),
    );
    expect(await counter.value()).toBe(30);
    for (const index of [0, 1]) await edge.crash(index);
    expect(await client.actor(Counter, "counted").value()).toBe(30);
    expect(await client.getOutput("chain_7")).toBe(4);
  });
});

it("a guest that takes its object with it again and again is stopped, and others go on", async () => {
  const folder = await mkdtemp(join(tmpdir(), "spore-edge-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const env = { SPORE_PARTITIONS: "1" };
  let edge = await startEdge({ folder, env });
  await edge.client.deploy(await codeOf("test/edge/journey.ts"));
  await edge.client.start(spinner.with(500), { id: "spinner" });
  // Here nothing enforces a CPU limit: we end the whole runtime, as the limit ends an object.
  for (let loss = 1; loss <= 4; loss++) {
    await until("the guest spins", async () => !(await answers(edge, "/v1/runs/spinner")));
    await edge.stop();
    edge = await startEdge({ folder, env });
  }
  await until("the run has failed", async () => {
    const isFree = await answers(edge, "/v1/runs/spinner");
    return isFree && (await edge.client.getStatus("spinner")) === "FAILED";
  });
  const { error } = await edge.client.handle("spinner").info();
  expect(error).toMatchObject({ code: "guest-timeout" });
  expect(await edge.client.run(twice.with(2), { id: "after" })).toBe(4);
});
