/**
 * Hosts that collect by themselves, in the simulated world (test/sim): when they do, when they
 * don't, and what becomes of one that can't. What a collection deletes is collector.test.ts.
 */
import { createHash } from "node:crypto";
import { beforeEach, expect, test } from "vitest";
import { encode } from "../../guest/cbor.ts";
import { put, workflow } from "../../guest/index.ts";
import { Collecting } from "../../runtime/collecting.ts";
import { collectionDue, Generations } from "../../runtime/generations.ts";
import type { TenantHost } from "../../runtime/index.ts";
import type { Ports, Store } from "../../runtime/ports.ts";
import { epochMs, type SimHost, World } from "../sim/world.ts";

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

workflow("storesMuch", async () => {
  await put("a value that is stored ".repeat(100));
});

let world: World;

beforeEach(() => {
  world = newWorld();
});

function newWorld(isShared = false): World {
  const limits = { imageAfterMs: 0 };
  return new World({
    seed: 5,
    partitions: 4,
    limits,
    storeMs: 1,
    isShared,
    isCollecting: true,
  });
}

async function startHost(): Promise<SimHost> {
  const host = world.startHost();
  await world.runUntil(() => host.isReady, world.nowMs + 60_000);
  expect(host.isReady).toBe(true);
  return host;
}

function tenantOf(host: SimHost): TenantHost {
  if (host.host === undefined) throw new Error("the host is ready");
  return host.host.tenant("t");
}

function pass(ms: number): Promise<void> {
  return world.finished(world.sleep(ms), ms + 1);
}

/** Ports of somebody who is no host. */
function portsApart(): Omit<Ports, "sandbox" | "calendar" | "outbound"> {
  const { bucket } = world;
  const store: Store = {
    get: async (key, range) => bucket.get(key, range),
    async put(key, bytes, { ifAbsent = false } = {}) {
      if (ifAbsent && bucket.objects.has(key)) return "exists";
      bucket.objects.set(key, bytes);
      return "created";
    },
    delete: async (key) => void bucket.objects.delete(key),
    list: async (prefix, { after = "" } = {}) => bucket.list(prefix, after, 1000),
    close: async () => undefined,
  };
  return {
    store,
    random: { bytes: (count) => new Uint8Array(count) },
    digest: { sha256: (bytes) => new Uint8Array(createHash("sha256").update(bytes).digest()) },
    clock: { nowMs: () => epochMs + world.nowMs, after: () => () => undefined },
    observer: { log: () => undefined, count: () => undefined, observe: () => undefined },
  };
}

/** As if a collection had begun then. */
async function begin(atMs: number): Promise<void> {
  const clock = { nowMs: () => epochMs + atMs, after: () => () => undefined };
  const generations = new Generations({ ...portsApart(), clock, prefix: "" });
  const { generation } = await generations.newest();
  await generations.advance(generation, undefined);
}

function isDue(): Promise<boolean> {
  return collectionDue({ ...portsApart(), prefix: "" });
}

function begun(): number {
  return [...world.bucket.objects.keys()].filter((key) => key.startsWith("collections/")).length;
}

function ended(): number {
  return world.counts.get("spore_collections_total") ?? 0;
}

function objects(): number {
  return [...world.bucket.objects.keys()].filter((key) => key.startsWith("objects/")).length;
}

test("a collection is due if there was none, after a day, or if the last one is a day ahead", async () => {
  const dues: boolean[] = [await isDue()];
  for (const atMs of [-dayMs, 1 - dayMs, 0, dayMs - 1, dayMs]) {
    await begin(atMs);
    dues.push(await isDue());
  }
  expect(dues).toEqual([true, true, false, false, false, true]);
});

test("a host collects once a day: what a deleted run had stored goes within one", async () => {
  const tenant = tenantOf(await startHost());
  await world.finished(tenant.deploy({ kind: "javascript", code: "export {};" }));
  await world.finished(tenant.startRun({ id: "a", workflow: "storesMuch", args: encode([]) }));
  await pass(hourMs);
  expect([begun(), ended(), objects()]).toEqual([1, 1, 1]);
  await world.finished(tenant.deleteRun("a"));
  await pass(22 * hourMs);
  expect([begun(), objects()]).toEqual([1, 1]);
  await pass(3 * hourMs);
  expect([begun(), objects()]).toEqual([2, 0]);
  await pass(10 * 25 * hourMs);
  expect([begun(), ended()]).toEqual([12, 12]);
});

test("who collects otherwise puts the next one off", async () => {
  const host = await startHost();
  await pass(20 * hourMs);
  const collected = host.call(async (engine) => engine.collect({}), hourMs);
  await world.finished(collected);
  await pass(23 * hourMs);
  expect(begun()).toBe(2);
  await pass(2 * hourMs);
  expect(begun()).toBe(3);
});

test("who takes partition 0 over from a host that is gone goes on with it", async () => {
  const first = await startHost();
  await pass(20 * hourMs);
  first.crash();
  await startHost();
  await pass(3 * hourMs);
  expect(begun()).toBe(1);
  await pass(3 * hourMs);
  expect([begun(), ended()]).toEqual([2, 2]);
});

test("of hosts that share the partitions one collects", async () => {
  world = newWorld(true);
  for (let count = 0; count < 3; count += 1) world.startHost();
  await begin(-2 * dayMs);
  await pass(60_000);
  expect([begun(), ended()]).toEqual([2, 1]);
});

// ---------------------------------------------------------------- one by one

interface Timer {
  readonly delayMs: number;
  readonly run: () => void;
}

/** On the world's bucket, with timers that the test fires. */
function collecting(isServed: () => boolean, store: Partial<Store> = {}) {
  const timers: Timer[] = [];
  const told: string[] = [];
  const apart = portsApart();
  const ports = {
    ...apart,
    store: { ...apart.store, ...store },
    clock: {
      nowMs: () => apart.clock.nowMs(),
      after(delayMs: number, run: () => void) {
        const timer = { delayMs, run };
        timers.push(timer);
        return () => void timers.splice(timers.indexOf(timer), 1);
      },
    },
    observer: {
      log: (level: string, message: string) => void told.push(`${level}: ${message}`),
      count(name: string, _by: number, labels = {}) {
        if (name === "spore_collections_total") told.push(JSON.stringify(labels));
      },
      observe: () => undefined,
    },
  };
  const made = new Collecting({
    ports,
    prefix: "",
    isServed: (index) => index === 0 && isServed(),
  });
  made.start();
  /** Fires the next timer, and waits for what it does. */
  const look = async (): Promise<number | undefined> => {
    const timer = timers.shift();
    timer?.run();
    for (let turns = 0; turns < 50 && timers.length === 0; turns += 1) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    return timer?.delayMs;
  };
  return { made, timers, told, look };
}

test("a host that doesn't serve partition 0 asks the store nothing", async () => {
  let calls = 0;
  const get: Store["get"] = async () => {
    calls += 1;
    return undefined;
  };
  const { look, told } = collecting(() => false, { get });
  expect([await look(), await look(), calls, told]).toEqual([10_000, hourMs, 0, []]);
});

test("a collection that fails is told and counted, and looked for again", async () => {
  // There is no namespace.
  const { look, told } = collecting(() => true);
  await look();
  expect(told).toEqual([
    '{"outcome":"failed"}',
    "error: a collection failed: the object namespace is not there: the storage is empty",
  ]);
  expect(await look()).toBe(hourMs);
  expect(told).toHaveLength(4);
});

test("after a stop nothing is asked of the store, nothing said, and nothing looked for", async () => {
  const host = await startHost();
  host.crash();
  const answer = Promise.withResolvers<void>();
  const asked: string[] = [];
  const { made, timers, told, look } = collecting(() => true, {
    async list(prefix) {
      asked.push(prefix);
      await answer.promise;
      return { keys: [], isTruncated: false };
    },
  });
  const looking = look();
  while (asked.length === 0) await new Promise((resolve) => setImmediate(resolve));
  made.stop();
  answer.resolve();
  await looking;
  expect([asked, told, timers]).toEqual([["objects/"], [], []]);
});
