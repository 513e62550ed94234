/** Lists by name and tag cost what they show, also beside runs from before there were rows for them. */
import { beforeEach, expect, test } from "vitest";
import { encode } from "../../guest/cbor.ts";
import { signal, workflow } from "../../guest/index.ts";
import type { ListRequest, TenantHost } from "../../runtime/index.ts";
import { Partition } from "../../runtime/partition.ts";
import { Changes } from "../../runtime/state.ts";
import { World } from "../sim/world.ts";

workflow("listedOften", async () => 1);
workflow("listedRarely", async () => signal("go"));

let world: World;
let tenant: TenantHost;

beforeEach(() => {
  world = new World({ seed: 5, partitions: 2, limits: {}, storeMs: 1 });
});

async function serve(): Promise<void> {
  const host = world.startHost();
  await world.runUntil(() => host.isReady, world.nowMs + 60_000);
  if (host.host === undefined) throw new Error("the host is ready");
  tenant = host.host.tenant("t");
  await during(tenant.deploy({ kind: "javascript", code: "export {};" }));
}

function during<T>(work: Promise<T>): Promise<T> {
  return world.finished(work, 600_000);
}

async function begin(id: string, name: string, tags: Record<string, string> = {}): Promise<void> {
  const request = { id, workflow: name, args: encode([]), tags };
  await during(tenant.startRun(request));
  await during(world.sleep(2));
}

async function ids(request: ListRequest): Promise<string[]> {
  const found: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await during(tenant.listRuns({ ...request, cursor }));
    found.push(...page.runs.map(({ id }) => id));
    ({ cursor } = page);
  } while (cursor !== undefined);
  return found;
}

/** Rows that the work reads by scans. */
async function rowsOf(work: () => Promise<unknown>): Promise<number> {
  const { scan } = Partition.prototype;
  let rows = 0;
  Partition.prototype.scan = async function (prefix, options) {
    const page = await scan.call(this, prefix, options);
    rows += page.entries.length;
    return page;
  };
  try {
    await work();
  } finally {
    Partition.prototype.scan = scan;
  }
  return rows;
}

test("a rare name and a rare tag cost what they show", async () => {
  await serve();
  await begin("first", "listedRarely");
  for (let n = 0; n < 60; n += 1) await begin(`often${n}`, "listedOften", { n: `${n}` });
  await begin("last", "listedRarely", { "team/x": "a=b é" });
  const rare = { names: ["listedRarely"] };
  expect(await ids(rare)).toEqual(["last", "first"]);
  expect(await rowsOf(() => ids(rare))).toBeLessThan(6);
  expect(await ids({ tag: { key: "team/x", value: "a=b é" } })).toEqual(["last"]);
  expect(await rowsOf(() => ids({ tag: { key: "n", value: "7" } }))).toBeLessThan(4);
  expect(await ids({ tag: { key: "n", value: "7" } })).toEqual(["often7"]);
  expect(await ids({ tag: { key: "n", value: "77" } })).toEqual([]);
  const both = await ids({ names: ["listedOften", "listedRarely"], limit: 7 });
  expect(both).toHaveLength(62);
  expect(new Set(both).size).toBe(62);
  expect(await ids({ ...rare, statuses: ["SUCCESSFUL"] })).toEqual([]);

  await during(tenant.signalRun("first", "go", encode(1)));
  await during(tenant.output("first", { waitMs: 10_000 }));
  expect(await ids({ ...rare, statuses: ["SUCCESSFUL"] })).toEqual(["first"]);
  expect(await ids({ ...rare, statuses: ["RUNNING"] })).toEqual(["last"]);
  await during(tenant.deleteRun("first"));
  expect(await ids(rare)).toEqual(["last"]);
});

test("runs from before there were such rows are found as well, each once", async () => {
  const { put } = Changes.prototype;
  Changes.prototype.put = function (rowKey, value) {
    if (!/^[yi]\//.test(rowKey)) put.call(this, rowKey, value);
  };
  try {
    await serve();
    for (let n = 0; n < 20; n += 1) await begin(`old${n}`, "listedOften", { team: "red" });
    await begin("oldRare", "listedRarely", { team: "red" });
  } finally {
    Changes.prototype.put = put;
  }
  for (const host of world.liveHosts) host.crash();
  await during(world.sleep(120_000)); // the next host's clock may be behind
  await serve();
  const rare = { names: ["listedRarely"] };
  expect(await ids(rare)).toEqual(["oldRare"]);
  await begin("soon", "listedRarely", { team: "red" });
  expect(await ids(rare)).toEqual(["soon", "oldRare"]);
  await world.finished(world.sleep(2 * 86_400_000), 3 * 86_400_000);
  await begin("late", "listedRarely", { team: "red" });
  // What is old and changes has both kinds of rows.
  await during(tenant.signalRun("oldRare", "go", encode(1)));
  await during(tenant.output("oldRare", { waitMs: 10_000 }));
  expect(await ids(rare)).toEqual(["late", "soon", "oldRare"]);
  expect(await ids({ ...rare, limit: 1 })).toEqual(["late", "soon", "oldRare"]);
  const tagged = await ids({ tag: { key: "team", value: "red" }, limit: 5 });
  expect([tagged.length, new Set(tagged).size]).toEqual([23, 23]);
});

/** Reads of that part of an index begin when `before` is over. */
async function delaying<T>(
  part: string,
  before: () => Promise<unknown>,
  work: () => Promise<T>,
): Promise<T> {
  const { scan } = Partition.prototype;
  let changing: Promise<unknown> | undefined;
  Partition.prototype.scan = async function (prefix, options) {
    if (prefix.startsWith("x/") && prefix.endsWith(part)) {
      changing ??= before();
      await changing;
    }
    return scan.call(this, prefix, options);
  };
  try {
    return await work();
  } finally {
    Partition.prototype.scan = scan;
  }
}

test("a run whose status changes while a list is read is shown once, and counts once", async () => {
  await serve();
  await begin("changing", "listedRarely");
  const pause = (): Promise<unknown> => tenant.pauseRun("changing");
  const resume = (): Promise<unknown> => tenant.resumeRun("changing");
  // Its old place is read after it has left, its new one before it came; and the other way round.
  expect(await delaying("/RUNNING/", pause, () => ids({}))).toEqual(["changing"]);
  expect(await delaying("/RUNNING/", resume, () => ids({}))).toEqual(["changing"]);
  expect(await delaying("/PAUSED/", pause, () => ids({ limit: 1 }))).toEqual(["changing"]);
  const { components } = await delaying("/PAUSED/", resume, () => during(tenant.componentUse()));
  expect(components.map(({ runs }) => runs)).toEqual([{ RUNNING: 1 }]);
  expect(await ids({ statuses: ["PAUSED"] })).toEqual([]);
});
