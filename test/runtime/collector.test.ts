/**
 * The collector at the moments that its head comment is about: what is stored, handed on or
 * deployed right between its mark and its deletions. The engine is the real one, in a world
 * without faults (test/sim); the collector's own store is stopped where the test says.
 */
import { createHash } from "node:crypto";
import { beforeEach, expect, test } from "vitest";
import { decode, encode, type Ref } from "../../guest/cbor.ts";
import { get, handle, put, signal, workflow } from "../../guest/index.ts";
import { collect } from "../../runtime/collector.ts";
import { partitionOf, runKey } from "../../runtime/ids.ts";
import type { GarbageReport, TenantHost } from "../../runtime/index.ts";
import { findNamespace } from "../../runtime/namespace.ts";
import type { Ports, Store } from "../../runtime/ports.ts";
import { epochMs, World, type WorldOptions } from "../sim/world.ts";

const value = "a value that is stored ".repeat(100);

workflow("storing", async () => {
  await signal("begin");
  const ref = await put(value);
  await signal("read");
  return (await get(ref)) === value;
});

/** Stores, hands the Ref on and forgets it. */
workflow("giving", async (target: string) => {
  const ref = await put(value);
  await signal("give");
  await handle(target).signal("ref", ref);
});

workflow("taking", async () => {
  const ref = await signal<Ref<string>>("ref");
  await signal("read");
  return (await get(ref)) === value;
});

/** What it was given may be names of anything. */
workflow("keeping", async (names: string[]) => {
  await signal("end");
  return names.length;
});

let world: World;
let tenant: TenantHost;

beforeEach(() => begin({ imageAfterMs: 0 }));

async function begin(limits: WorldOptions["limits"]): Promise<void> {
  world = new World({ seed: 5, partitions: 2, limits, storeMs: 1 });
  const host = world.startHost();
  await world.runUntil(() => host.isReady, 60_000);
  if (host.host === undefined) throw new Error("the host is ready");
  tenant = host.host.tenant("t");
  await during(tenant.deploy({ kind: "javascript", code: "export {};" }));
}

function during<T>(work: Promise<T>): Promise<T> {
  return world.finished(work, 600_000);
}

const nothing = { log: () => undefined, count: () => undefined, observe: () => undefined };

/** A collector apart from all hosts; `before` is called before each of its store's calls. */
async function collecting(
  before: (call: "get" | "put" | "delete" | "list", key: string) => Promise<void> = async () => {},
  options: { isDryRun?: boolean; condemnedMs?: number; candidatesMax?: number } = {},
): Promise<GarbageReport> {
  const { bucket } = world;
  const store: Store = {
    async get(key, range) {
      await before("get", key);
      return bucket.get(key, range);
    },
    async put(key, bytes) {
      await before("put", key);
      if (bucket.objects.has(key)) return "exists";
      bucket.objects.set(key, bytes);
      return "created";
    },
    async delete(key) {
      await before("delete", key);
      bucket.objects.delete(key);
    },
    async list(prefix, { after = "" } = {}) {
      await before("list", prefix);
      return bucket.list(prefix, after, 1000);
    },
    close: async () => undefined,
  };
  const ports: Omit<Ports, "sandbox" | "calendar" | "outbound"> = {
    store,
    random: { bytes: (count) => new Uint8Array(count) },
    digest: { sha256: (bytes) => new Uint8Array(createHash("sha256").update(bytes).digest()) },
    clock: { nowMs: () => epochMs + world.nowMs, after: () => () => undefined },
    observer: nothing,
  };
  const layouts = await findNamespace({ ...ports, prefix: "" });
  return collect(ports, { prefix: "", layouts, ...options });
}

async function start(id: string, name: string, args: unknown[] = []): Promise<void> {
  await during(tenant.startRun({ id, workflow: name, args: encode(args) }));
  await during(world.sleep(500));
}

async function tell(id: string, name: string): Promise<void> {
  await during(tenant.signalRun(id, name, encode(true)));
  await during(world.sleep(500));
}

async function outputOf(id: string): Promise<unknown> {
  const result = await during(tenant.output(id, { waitMs: 60_000 }));
  if (result.kind !== "ready") return result.kind;
  const { outcome } = result;
  return outcome.kind === "ok" ? decode(outcome.value) : outcome.error.code;
}

function objects(): string[] {
  return [...world.bucket.objects.keys()].filter((key) => key.startsWith("objects/"));
}

test("a value goes when the run that stored it is deleted, and not before", async () => {
  await start("a", "storing");
  await tell("a", "begin");
  expect((await collecting()).objects.count).toBe(0);
  await tell("a", "read");
  expect(await outputOf("a")).toBe(true);
  expect((await collecting()).objects.count).toBe(0);
  await during(tenant.deleteRun("a"));
  expect(await collecting(undefined, { isDryRun: true })).toMatchObject({
    isDryRun: true,
    objects: { count: 1, bytes: encode(value).length },
  });
  expect(objects()).toHaveLength(1);
  expect((await collecting()).objects.count).toBe(1);
  expect(objects()).toEqual([]);
});

test("rows are read only while there is something that they could speak for", async () => {
  await begin({ checkpointEntries: 3 });
  for (let n = 0; n < 20; n += 1) await start(`kept${n}`, "keeping", [[]]);
  const segmentsRead = async (): Promise<number> => {
    let count = 0;
    await collecting(async (call, key) => {
      if (call === "get" && key.includes("/table/")) count += 1;
    });
    return count;
  };
  expect(await segmentsRead()).toBe(0);
  await start("a", "storing");
  await tell("a", "begin");
  await tell("a", "read");
  await during(tenant.deleteRun("a"));
  expect(await segmentsRead()).toBeGreaterThan(0);
  expect(objects()).toEqual([]);
});

test("where there are more objects than one collection judges, the next goes on after them", async () => {
  for (let n = 0; n < 2300; n += 1) {
    const name = createHash("sha256").update(`litter ${n}`).digest("hex");
    world.bucket.objects.set(`objects/t/${name}`, new Uint8Array(1));
  }
  const kept = [...world.bucket.objects.keys()].filter((key) => key.startsWith("objects/")).sort();
  // The first page's are all referred to: no collection may get stuck at them.
  const isFirst = new Set(kept.slice(0, 1000));
  await start("keeper", "keeping", [[...isFirst].map((key) => key.slice(-64))]);
  const counts: number[] = [];
  for (let round = 0; round < 4; round += 1) {
    const { objects } = await collecting(undefined, { candidatesMax: 1000 });
    counts.push(objects.count);
  }
  expect(counts).toEqual([0, 1000, 300, 0]);
  expect(objects().sort()).toEqual([...isFirst]);
});

test("a value that is stored again while its old object is being deleted is there", async () => {
  await start("old", "storing");
  await tell("old", "begin");
  await tell("old", "read");
  await during(tenant.deleteRun("old"));
  await start("new", "storing");
  const report = await collecting(async (call) => {
    // Marked, and about to delete: now the same value is put by another run.
    if (call === "delete" && objects().length === 1) await tell("new", "begin");
  });
  expect(report.objects.count).toBe(1);
  await tell("new", "read");
  expect(await outputOf("new")).toBe(true);
});

test("a Ref that goes to a partition which was read already is seen", async () => {
  const idIn = (partition: number, name: string): string => {
    for (let n = 0; ; n += 1) {
      if (partitionOf(runKey("t", `${name}${n}`), 2) === partition) return `${name}${n}`;
    }
  };
  const [taker, giver] = [idIn(0, "taker"), idIn(1, "giver")];
  await start(taker, "taking");
  await start(giver, "giving", [taker]);
  let isGiven = false;
  const report = await collecting(async (call, key) => {
    if (isGiven || call !== "get" || !key.startsWith("p/1/")) return;
    isGiven = true;
    await tell(giver, "give");
    await during(tenant.deleteRun(giver));
  });
  expect([isGiven, report.objects.count]).toEqual([true, 0]);
  await tell(taker, "read");
  expect(await outputOf(taker)).toBe(true);
});

test("a component goes when a second collection finds it unused, and comes back by a deployment", async () => {
  const [first = ""] = [...world.bucket.objects.keys()].filter((key) => /^components\//.test(key));
  const other = { kind: "javascript", code: "export const other = 1;" } as const;
  for (let version = 0; version < 11; version += 1) {
    await during(tenant.deploy({ kind: "javascript", code: `export const version = ${version};` }));
  }
  expect(await collecting(undefined, { condemnedMs: 1000 })).toMatchObject({ condemned: 2 });
  expect(world.bucket.objects.has(first)).toBe(true);
  await during(world.sleep(2000));
  const second = await collecting(undefined, { condemnedMs: 1000 });
  expect(second.components.count).toBe(2);
  expect(world.bucket.objects.has(first)).toBe(false);
  await during(tenant.deploy({ kind: "javascript", code: "export {};" }));
  expect(world.bucket.objects.has(`${first}.1`)).toBe(true);
  await during(tenant.deploy(other));
  await start("a", "storing");
  expect((await during(tenant.getRun("a"))).status).toBe("RUNNING");
});

test("a collection that a change of partitions has overtaken is to be repeated, and calls nothing damaged", async () => {
  await start("a", "storing");
  await tell("a", "begin");
  const [host] = world.liveHosts;
  if (host?.host === undefined) throw new Error("a host is there");
  const engine = host.host;
  let isChanged = false;
  const change = async (_call: string, key: string): Promise<void> => {
    if (isChanged || key !== "p/0/table/") return;
    isChanged = true;
    await during(engine.repartition(3));
    await during(engine.collect({}));
  };
  await expect(collecting(change)).rejects.toMatchObject({ code: "host-busy" });
  expect(isChanged).toBe(true);
});
