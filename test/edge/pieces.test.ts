/**
 * What reads or copies a whole namespace is cut into pieces in a Worker: each is an invocation of
 * the object, with CPU time and subrequests of its own. Lost in the middle, it has done no harm.
 */
import { createHash } from "node:crypto";
import { afterEach, expect, it, vi } from "vitest";
import { clock, digest, random } from "../../host/node.ts";
import { pieceLimits } from "../../host/worker/pieces.ts";
import { Generations } from "../../runtime/generations.ts";
import { ask, codeOf, until } from "../acceptance/kit.ts";
import { leg, twice } from "./journey.ts";
import { type EdgeHost, startEdge, stopEdges } from "./kit.ts";

vi.setConfig({ testTimeout: 240_000, hookTimeout: 120_000 });
afterEach(stopEdges);

/** The call that passes the end of a piece: a segment; and what the object does for itself. */
const besides = { calls: 100, bytes: (8 + 2) * 1024 * 1024 };
const env = { SPORE_STORAGE: "r2:FAULTY", SPORE_PARTITIONS: "1" };

async function startAt(setup: Readonly<Record<string, string>> = {}): Promise<EdgeHost> {
  const edge = await startEdge({ env: { ...env, ...setup }, attemptsMax: 30 });
  await edge.client.deploy(await codeOf("test/edge/journey.ts"));
  await edge.client.start(leg.with("kept"), { id: "kept" });
  return edge;
}

/** Objects that nothing refers to. */
async function litter(edge: EdgeHost, count: number): Promise<void> {
  const names = Array.from({ length: count }, (_, n) => {
    return createHash("sha256").update(`litter ${n}`).digest("hex");
  });
  for (let at = 0; at < count; at += 200) {
    await edge.strew(names.slice(at, at + 200).map((name) => `objects/default/${name}`));
  }
}

async function littered(edge: EdgeHost): Promise<number> {
  const store = await edge.store();
  return (await store.list("objects/default/")).keys.length;
}

/** What was there before goes on. */
async function goesOn(edge: EdgeHost): Promise<void> {
  await edge.client.handle("kept").signal("go", "after");
  expect(await edge.client.handle("kept").result()).toBe("kept after");
  expect(await edge.client.run(twice.with(3))).toBe(6);
}

it("a collection takes as many invocations as it needs, none of them more than a piece", async () => {
  const edge = await startAt();
  await litter(edge, 1600);
  await edge.disturb({});
  const { status, body } = await ask(edge, "POST", "/v1/gc", { json: {} });
  const { invocations, most, calls } = await edge.disturb({});
  expect([status, body.objects]).toEqual([200, { count: 1600, bytes: 1600 * 6 }]);
  expect(calls.delete).toBe(1600);
  expect(invocations).toBeGreaterThanOrEqual(4);
  expect(most.calls).toBeLessThanOrEqual(pieceLimits.calls + besides.calls);
  expect(await littered(edge)).toBe(0);
  await goesOn(edge);
});

it("a collection whose object dies in the middle has done no harm, and the next one ends", async () => {
  const edge = await startAt();
  await litter(edge, 1600);
  await edge.disturb({ delayMs: 100 });
  const first = ask(edge, "POST", "/v1/gc", { json: {} });
  let deleted = 0;
  await until("some are gone", async () => {
    deleted += (await edge.disturb({})).calls.delete;
    return deleted > pieceLimits.calls;
  });
  await edge.crash(0);
  const refused = await first;
  expect([refused.status, refused.body.code]).toEqual([503, "peer-unavailable"]);
  const left = await littered(edge);
  expect(left).toBeGreaterThan(0);
  await edge.disturb({ delayMs: 0 });
  const report = await edge.client.collectGarbage();
  expect(report.objects.count).toBeGreaterThanOrEqual(left);
  expect(await littered(edge)).toBe(0);
  await goesOn(edge);
});

it("the number of partitions changes in pieces, however much there is to copy", async () => {
  const edge = await startAt();
  await fill(edge, 24);
  await quiet(edge);
  // What the objects do that serve the partitions then is theirs.
  await edge.disturb({ until: "layouts/" });
  const { status, body } = await ask(edge, "PUT", "/v1/cluster", { json: { partitions: 3 } });
  const { invocations, most } = await edge.disturb({});
  expect([status, body.partitions]).toEqual([200, 3]);
  expect(invocations).toBeGreaterThanOrEqual(6);
  expect(most.calls).toBeLessThanOrEqual(pieceLimits.calls + besides.calls);
  expect(most.bytes).toBeLessThanOrEqual(pieceLimits.bytes + besides.bytes);
  await goesOn(edge);
  await filled(edge, 24);
});

it("a change of the number whose object dies in the middle has changed nothing, and the next one ends", async () => {
  const edge = await startAt();
  await fill(edge, 24);
  await edge.disturb({ delayMs: 30 });
  const first = ask(edge, "PUT", "/v1/cluster", { json: { partitions: 3 } });
  await until("it copies", async () => (await copies(edge)) > 10, 60_000);
  await edge.crash(0);
  const refused = await first;
  expect([refused.status, refused.body.code]).toEqual([503, "peer-unavailable"]);
  await edge.disturb({ delayMs: 0 });
  expect((await ask(edge, "GET", "/v1/cluster")).body.partitions).toBe(1);
  const { status, body } = await ask(edge, "PUT", "/v1/cluster", { json: { partitions: 3 } });
  expect([status, body.partitions]).toEqual([200, 3]);
  await goesOn(edge);
  await filled(edge, 24);
});

/** Runs whose rows no two are the same. */
async function fill(edge: EdgeHost, count: number): Promise<void> {
  for (let n = 0; n < count; n += 1) {
    await edge.client.start(leg.with(noise(n)), { id: `large_${n}` });
  }
}

/** They go on, with all that they were given. */
async function filled(edge: EdgeHost, count: number): Promise<void> {
  for (let n = 0; n < count; n += 1) {
    await edge.client.handle(`large_${n}`).signal("go", "on");
    expect(await edge.client.handle(`large_${n}`).result()).toBe(`${noise(n)} on`);
  }
}

/** Many characters that say nothing. */
function noise(seed: number): string {
  const parts = Array.from({ length: 9000 }, (_, n) => {
    return createHash("sha512").update(`${seed} ${n}`).digest("base64");
  });
  return parts.join("");
}

/** Objects below the folder of a layout to come. */
async function copies(edge: EdgeHost): Promise<number> {
  const store = await edge.store();
  return (await store.list("p1-")).keys.length;
}

it("a cron trigger collects once a day, in pieces as well", async () => {
  const edge = await startAt();
  await litter(edge, 1100);
  await edge.disturb({});
  await edge.scheduled();
  await until("it has collected", async () => (await littered(edge)) === 0);
  const { invocations, most } = await edge.disturb({});
  expect(invocations).toBeGreaterThanOrEqual(4);
  expect(most.calls).toBeLessThanOrEqual(pieceLimits.calls + besides.calls);
  // Not again on the same day.
  await litter(edge, 3);
  await edge.scheduled();
  await quiet(edge);
  expect(await littered(edge)).toBe(3);
  // A day later: so it looks to who reads when the newest collection began.
  const generations = await generationsOf(edge, Date.now() - 86_400_001);
  await generations.advance((await generations.newest()).generation, undefined);
  await edge.scheduled();
  await until("it has collected again", async () => (await littered(edge)) === 0);
  await goesOn(edge);
});

/** When nothing has been asked of the bucket for a while. */
async function quiet(edge: EdgeHost): Promise<void> {
  await until("nothing is asked for", async () => {
    await edge.disturb({});
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const { calls } = await edge.disturb({});
    return Object.values(calls).every((count) => count === 0);
  });
}

/** As somebody has them whose clock stands there. */
async function generationsOf(edge: EdgeHost, nowMs: number): Promise<Generations> {
  return new Generations({
    store: await edge.store(),
    prefix: "",
    random,
    digest,
    clock: { ...clock, nowMs: () => nowMs },
    observer: { log: () => undefined, count: () => undefined, observe: () => undefined },
  });
}
