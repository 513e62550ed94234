/**
 * Copies of a namespace that is at work, and the check of one that was damaged. The engine is
 * the real one, in a world without faults (test/sim).
 */
import { createHash } from "node:crypto";
import { beforeEach, expect, test } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import { actor, handle, signal, workflow } from "../../guest/index.ts";
import { MemoryStore } from "../../host/store/memory.ts";
import { check } from "../../runtime/check.ts";
import { copyNamespace } from "../../runtime/copy.ts";
import type { CheckReport, TenantHost } from "../../runtime/index.ts";
import { findNamespace } from "../../runtime/namespace.ts";
import type { Store } from "../../runtime/ports.ts";
import { epochMs, World } from "../sim/world.ts";

workflow("pinging", async (target: string, count: number) => {
  for (let i = 1; i <= count; i++) await handle(target).signal("ping", i);
  return count;
});

workflow("counted", async (count: number) => {
  const got: number[] = [];
  while (got.length < count) got.push(await signal<number>("ping"));
  return got;
});

actor(
  "Tally",
  class {
    n = 0;
    add(): number {
      this.n += 1;
      return this.n;
    }
  },
);

let world: World;
let tenant: TenantHost;

beforeEach(async () => {
  const limits = { imageAfterMs: Number.POSITIVE_INFINITY, checkpointEntries: 10 };
  world = new World({ seed: 7, partitions: 3, limits, storeMs: 1 });
  tenant = await served();
  await during(tenant.deploy({ kind: "javascript", code: "export {};" }));
});

async function served(): Promise<TenantHost> {
  const host = world.startHost();
  await world.runUntil(() => host.isReady, world.nowMs + 60_000);
  if (host.host === undefined) throw new Error("the host is ready");
  return host.host.tenant("t");
}

/** Lets the world go on until the promise is settled. */
async function during<T>(work: Promise<T>): Promise<T> {
  let isSettled = false;
  const settled = (): void => {
    isSettled = true;
  };
  work.then(settled, settled);
  await world.runUntil(() => isSettled, world.nowMs + 600_000);
  return work;
}

/** The world's bucket for somebody who is no host; each call takes its time. */
function bucketStore(): Store {
  const { bucket } = world;
  return {
    async get(key, range) {
      await world.sleep(0.2);
      return bucket.get(key, range);
    },
    put: () => Promise.reject(new Error("nothing is written to the source")),
    delete: () => Promise.reject(new Error("nothing is deleted in the source")),
    async list(prefix, { after = "" } = {}) {
      await world.sleep(0.2);
      return bucket.list(prefix, after, 1000);
    },
    close: async () => undefined,
  };
}

const ports = {
  random: { bytes: (count: number) => new Uint8Array(count) },
  digest: {
    sha256: (bytes: Uint8Array) => new Uint8Array(createHash("sha256").update(bytes).digest()),
  },
  clock: { nowMs: () => epochMs + world.nowMs, after: () => () => undefined },
  observer: { log: () => undefined, count: () => undefined, observe: () => undefined },
};

async function checked(store: Store): Promise<CheckReport> {
  const layouts = await findNamespace({ ...ports, store, prefix: "" });
  return check({ ...ports, store }, { prefix: "", layouts });
}

/** Components of the simulated sandbox are no real ones: they end with no hash. */
function damagesOf(report: CheckReport): string[] {
  return report.damages.map(({ key }) => key).filter((key) => !key.startsWith("components/"));
}

async function start(id: string, name: string, args: unknown[]): Promise<void> {
  await during(tenant.startRun({ id, workflow: name, args: encode(args) }));
}

test("a copy that is made while runs send each other signals goes on as one that never moved", async () => {
  const pairs = Array.from({ length: 6 }, (_, index) => index);
  for (const pair of pairs) {
    await start(`counted${pair}`, "counted", [40]);
    await start(`pinging${pair}`, "pinging", [`counted${pair}`, 40]);
  }
  const target = new MemoryStore();
  // The simulated components have no hash at their end, which the check of the copy says.
  await during(copyNamespace(ports, { source: bucketStore(), target })).catch((error: unknown) => {
    expect(String(error)).toContain("components/");
  });
  await target.delete("incomplete");
  const { keys } = await target.list("", { limit: 1000 });
  const report = await during(checked(target));
  expect(damagesOf(report)).toEqual([]);
  expect(report.runs).toBe(12);
  // The copy alone, on a bucket of its own.
  const left = world;
  world = new World({ seed: 8, partitions: 3, limits: {}, storeMs: 1 });
  for (const { key } of keys) {
    const bytes = await target.get(key);
    if (bytes !== undefined) world.bucket.objects.set(key, bytes);
  }
  expect(left.bucket.objects.size).toBeGreaterThan(keys.length);
  tenant = await served();
  for (const pair of pairs) {
    const result = await during(tenant.output(`counted${pair}`, { waitMs: 60_000 }));
    if (result.kind !== "ready" || result.outcome.kind !== "ok") throw new Error("it ends well");
    expect(decode(result.outcome.value)).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
  }
});

test("a copy goes into nothing but an empty storage, and no host begins on half of one", async () => {
  const target = new MemoryStore();
  await target.put("something", new Uint8Array(1));
  const source = bucketStore();
  await expect(during(copyNamespace(ports, { source, target }))).rejects.toMatchObject({
    code: "storage-in-use",
  });
  const half = new MemoryStore();
  await half.put("incomplete", encode({ atMs: 1 }));
  await expect(findNamespace({ ...ports, store: half, prefix: "" })).rejects.toMatchObject({
    code: "storage-incomplete",
  });
});

test("a check finds what is deployed missing, though no run has it, and a damaged version of it", async () => {
  const { objects } = world.bucket;
  const [component = ""] = [...objects.keys()].filter((key) => key.startsWith("components/"));
  const bytes = objects.get(component) ?? new Uint8Array(0);
  objects.delete(component);
  const missing = await during(checked(bucketStore()));
  expect(missing.damages).toEqual([
    { key: component, what: "it is missing", touches: ["tenant t"] },
  ]);
  objects.set(component, bytes);
  const version = "tenants/t/deployments/0000000000000001";
  const damaged = objects.get(version)?.slice() ?? new Uint8Array(0);
  damaged[20] = (damaged[20] ?? 0) ^ 1;
  objects.set(version, damaged);
  expect(damagesOf(await during(checked(bucketStore())))).toEqual([version]);
});

test("a check names each damaged object, and whom it touches", async () => {
  for (let n = 0; n < 30; n += 1) {
    await start(`counted${n}`, "counted", [1]);
    await during(tenant.signalRun(`counted${n}`, "ping", encode(n)));
  }
  await during(world.sleep(2000));
  expect(damagesOf(await during(checked(bucketStore())))).toEqual([]);
  const { objects } = world.bucket;
  const segment = [...objects.keys()].find((key) => key.includes("/table/")) ?? "";
  const bytes = objects.get(segment)?.slice() ?? new Uint8Array(0);
  bytes[20] = (bytes[20] ?? 0) ^ 1;
  objects.set(segment, bytes);
  const report = await during(checked(bucketStore()));
  expect(damagesOf(report)).toEqual([segment]);
  expect(report.damages.find(({ key }) => key === segment)?.touches?.length).toBeGreaterThan(0);
  objects.delete(segment);
  const missing = await during(checked(bucketStore()));
  expect(missing.damages.find(({ key }) => key === segment)?.what).toBe("it is missing");
});
