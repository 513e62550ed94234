/**
 * Requests to any host of a namespace whose partitions lie on several: three hosts with a
 * fixed share each, and a front that serves none. The engine is the real one, in the
 * simulated world (test/sim) with perfect order around it.
 */
import { beforeEach, expect, test } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import { actor, externalEvent, publish, signal, update, workflow } from "../../guest/index.ts";
import { SporeError } from "../../runtime/errors.ts";
import { partitionOf, runKey } from "../../runtime/ids.ts";
import type { Host, RunSummary, TenantHost } from "../../runtime/index.ts";
import { encodeRequest } from "../../runtime/wire.ts";
import { World } from "../sim/world.ts";

const partitions = 3;

workflow("answers", async (name: string) => {
  update("change", (value: number) => value + 1);
  return `${name}: ${await signal<string>("go")}`;
});
workflow("asksToDecide", async () => {
  const approval = await externalEvent<boolean>("ok");
  publish("token", approval.token);
  return approval.result();
});
workflow("quick", (n: number) => n);
workflow("asksActor", (key: string) => Tally.getOrCreate(key).add(1));

const Tally = actor(
  "Tally",
  class {
    total = 0;
    add(n: number): number {
      if (n < 0) throw new Error("only forward");
      this.total += n;
      return this.total;
    }
    value(): number {
      return this.total;
    }
  },
  { readonly: ["value"] },
);

let world: World;
let front: TenantHost;
let hosts: Host[];

beforeEach(async () => {
  world = new World({
    seed: 1,
    partitions,
    limits: { lingerMs: 5 },
    storeMs: 1,
    hostOptions: (number) => ({
      placement: {
        here: number <= partitions ? [number - 1] : [],
        addressOf: (partition) => `h${partition + 1}`,
      },
    }),
  });
  const started = Array.from({ length: partitions + 1 }, () => world.startHost());
  await world.runUntil(() => started.every((host) => host.isReady), 10_000);
  hosts = started.map(({ host }) => {
    if (host === undefined) throw new Error("the host is ready");
    return host;
  });
  front = tenantOf(partitions);
  await finished(front.deploy({ kind: "javascript", code: "export {};" }));
});

function tenantOf(host: number): TenantHost {
  const found = hosts[host];
  if (found === undefined) throw new Error(`there is no host ${host}`);
  return found.tenant("t");
}

function finished<T>(work: Promise<T>): Promise<T> {
  return world.finished(work);
}

/** Ids of runs in each partition in turn. */
function idsOf(count: number): string[] {
  const ids: string[] = [];
  for (let n = 0; ids.length < count; n += 1) {
    const wanted = ids.length % partitions;
    if (partitionOf(runKey("t", `r${n}`), partitions) === wanted) ids.push(`r${n}`);
  }
  return ids;
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await finished(work);
    return "none";
  } catch (error) {
    return error instanceof SporeError ? error.code : String(error);
  }
}

// ---------------------------------------------------------------- one key

test("a run is started, told, asked and awaited through any host", async () => {
  for (const [n, id] of idsOf(6).entries()) {
    const host = tenantOf((n * 2 + 1) % (partitions + 1));
    const started = await finished(host.startRun({ id, workflow: "answers", args: encode([id]) }));
    expect(started).toEqual({ id, status: "RUNNING", created: true });
    const changed = await finished(front.updateRun(id, "change", encode([n])));
    expect(changed.kind === "done" && changed.outcome).toEqual({
      kind: "ok",
      value: encode(n + 1),
    });
    await finished(host.signalRun(id, "go", encode("now"), { messageId: "m" }));
    expect(await finished(front.signalRun(id, "go", encode("now"), { messageId: "m" }))).toEqual({
      duplicate: true,
    });
    const output = await finished(front.output(id, { waitMs: 5000 }));
    expect(output.kind === "ready" && output.outcome).toEqual({
      kind: "ok",
      value: encode(`${id}: now`),
    });
    expect((await finished(front.getRun(id))).createdAtMs).toBeGreaterThan(0);
  }
});

test("a start that waits answers with the outcome from another host", async () => {
  for (const id of idsOf(3)) {
    const started = await finished(
      front.startRun({ id, workflow: "quick", args: encode([7]), waitMs: 5000 }),
    );
    expect(started).toMatchObject({ created: true, outcome: { kind: "ok", value: encode(7) } });
  }
});

test("a run without an id of its own begins in a partition that is near", async () => {
  for (let n = 0; n < 10; n += 1) {
    const { id } = await finished(tenantOf(1).startRun({ workflow: "quick", args: encode([n]) }));
    expect(partitionOf(runKey("t", id), partitions)).toBe(1);
  }
});

test("an error crosses with its code, message and hint", async () => {
  for (const id of idsOf(3)) {
    const error = await finished(front.startRun({ id, workflow: "none" }).catch((e) => e));
    expect(error).toBeInstanceOf(SporeError);
    expect(error).toMatchObject({ code: "workflow-not-found", kind: "missing" });
    expect(error.hint).toContain("Defined: ");
    expect(await codeOf(front.getRun(id))).toBe("run-not-found");
    expect(await codeOf(front.queryRun(id, "q", encode([])))).toBe("run-not-found");
  }
});

test("an actor is called, read, watched and forked through any host", async () => {
  for (const key of ["a", "b", "c", "d"]) {
    for (let n = 1; n <= 3; n += 1) {
      const request = { type: "Tally", key, method: "add", args: encode([n]), callId: `c${n}` };
      await finished(tenantOf(n).callActor(request));
      const again = await finished(front.callActor(request));
      expect(again.kind === "done" && again.outcome.kind).toBe("ok");
    }
    const read = await finished(
      front.callActor({ type: "Tally", key, method: "value", args: encode([]) }),
    );
    expect(read.kind === "done" && read.outcome).toEqual({ kind: "ok", value: encode(6) });
    const fork = await finished(front.forkActor("Tally", key, `${key}.fork`));
    expect(fork).toMatchObject({ key: `${key}.fork`, turns: 0 });
    expect((await finished(front.actorHistory("Tally", key))).length).toBeGreaterThan(3);
  }
  expect(await codeOf(front.forkActor("Tally", "none", "x"))).toBe("actor-not-found");
});

test("calls of one session through several hosts are executed in their order", async () => {
  const calls = Array.from({ length: 12 }, (_, n) =>
    tenantOf(n % 4).callActor({
      type: "Tally",
      key: "ordered",
      method: "add",
      args: encode([10 ** (n % 3)]),
      session: { id: "s", seq: n + 1 },
    }),
  );
  const totals = (await finished(Promise.all(calls))).map((result) =>
    result.kind === "done" && result.outcome.kind === "ok" ? decode(result.outcome.value) : 0,
  );
  expect(totals).toEqual([1, 11, 111, 112, 122, 222, 223, 233, 333, 334, 344, 444]);
});

test("messages between partitions of two hosts arrive", async () => {
  for (const id of idsOf(6)) {
    const started = await finished(
      front.startRun({ id, workflow: "asksActor", args: encode([`of ${id}`.replace(" ", "-")]) }),
    );
    expect(started.created).toBe(true);
    const output = await finished(front.output(id, { waitMs: 5000 }));
    expect(output.kind === "ready" && output.outcome).toEqual({ kind: "ok", value: encode(1) });
  }
});

test("events follow a run on another host until it ends, and stop when nobody listens", async () => {
  for (const id of idsOf(3)) {
    await finished(front.startRun({ id, workflow: "answers", args: encode([id]) }));
    const types: string[] = [];
    const reading = (async () => {
      const signalOfReader = { aborted: false, addEventListener: () => undefined };
      for await (const each of front.events(id, { from: 0, signal: signalOfReader })) {
        types.push(each.type);
      }
    })();
    await finished(world.sleep(100));
    expect(types).toContain("run.started");
    await finished(front.signalRun(id, "go", encode("now")));
    await finished(reading);
    expect(types.at(-1)).toBe("run.succeeded");
  }
});

test("an event is looked at and decided by its token through a host without partitions", async () => {
  const last = hosts[partitions];
  if (last === undefined) throw new Error("there is a last host");
  const outcome = { kind: "ok", value: encode(true) } as const;
  for (const id of idsOf(3)) {
    await finished(front.startRun({ id, workflow: "asksToDecide" }));
    const published = await finished(front.published(id, "token", { waitMs: 5000 }));
    if (published.kind === "pending") throw new Error("there is a token");
    const token = decode(published.value) as string;
    expect(await finished(last.event(token))).toMatchObject({ name: "ok", isDecided: false });
    expect(await finished(last.decideEvent(token, outcome))).toEqual({ duplicate: false });
    expect(await finished(last.decideEvent(token, outcome))).toEqual({ duplicate: true });
    const output = await finished(front.output(id, { waitMs: 5000 }));
    expect(output.kind === "ready" && output.outcome).toEqual(outcome);
  }
  expect(await codeOf(last.event("nonsense"))).toBe("event-not-found");
});

// ---------------------------------------------------------------- all partitions

test("lists are merged over hosts, page after page", async () => {
  const ids = idsOf(9);
  for (const id of ids) {
    await finished(front.startRun({ id, workflow: "quick", args: encode([1]), waitMs: 5000 }));
    await finished(world.sleep(10));
  }
  const seen: RunSummary[] = [];
  let cursor: string | undefined;
  do {
    const page = await finished(front.listRuns({ limit: 2, cursor }));
    expect(page.runs.length).toBeLessThanOrEqual(2);
    seen.push(...page.runs);
    cursor = page.cursor;
  } while (cursor !== undefined);
  expect(seen.map(({ id }) => id).sort()).toEqual(ids.toSorted());
  // Newest first by the clocks of the hosts, which differ.
  const newestFirst = seen.toSorted((left, right) => right.createdAtMs - left.createdAtMs);
  expect(seen).toEqual(newestFirst);
});

test("actors and schedules are listed in order, page after page", async () => {
  const keys = ["a", "b", "c", "d", "e", "f", "g"];
  for (const key of keys.toReversed()) {
    await finished(front.ensureActor("Tally", key, encode([])));
    await finished(front.createSchedule(key, { ...schedule, workflow: "quick" }));
  }
  const actors: string[] = [];
  const schedules: string[] = [];
  for (let cursor: string | undefined; ; ) {
    const page = await finished(tenantOf(0).listActors({ type: "Tally", limit: 3, cursor }));
    actors.push(...page.actors.map(({ key }) => key));
    cursor = page.cursor;
    if (cursor === undefined) break;
  }
  for (let cursor: string | undefined; ; ) {
    const page = await finished(tenantOf(1).listSchedules({ limit: 3, cursor }));
    schedules.push(...page.schedules.map(({ id }) => id));
    cursor = page.cursor;
    if (cursor === undefined) break;
  }
  expect(actors).toEqual(keys);
  expect(schedules).toEqual(keys);
});

const schedule = { everyMs: 3_600_000, overlap: "skip", catchUpMs: 0 } as const;

test("a bulk action reaches the runs of all hosts, and says of each what became of it", async () => {
  const ids = idsOf(6);
  for (const id of ids) {
    await finished(front.startRun({ id, workflow: "answers", args: encode([id]) }));
  }
  const { runs } = await finished(front.bulk({ action: "terminate", filter: {} }));
  expect(runs.map(({ id, status }) => `${id} ${status}`).sort()).toEqual(
    ids.map((id) => `${id} CANCELED`).sort(),
  );
});

// ---------------------------------------------------------------- who isn't there

test("a request waits for a host that comes back, and else says that it can be repeated", async () => {
  const [first = ""] = idsOf(1);
  world.hosts[0]?.crash();
  const waiting = front.startRun({ id: first, workflow: "quick", args: encode([1]) });
  await finished(world.sleep(2000));
  const error = await finished(waiting.catch((thrown: unknown) => thrown));
  expect(error).toMatchObject({ code: "peer-refused", kind: "unavailable" });
  expect(await codeOf(front.listRuns({}))).toBe("peer-refused");
});

test("a host refuses what isn't for its partitions, and executes nothing", async () => {
  const [, second = ""] = idsOf(2);
  const args = [{ id: second, workflow: "quick" }];
  const request = encodeRequest({ kind: "tenant", tenant: "t", method: "startRun", args }, 0);
  const answer = decode(
    (await finished(hosts[0]?.serve(request) ?? Promise.reject())) as Uint8Array,
  );
  expect(answer).toMatchObject({ kind: "refused" });
  expect(await codeOf(front.getRun(second))).toBe("run-not-found");
});

test("a host refuses what counts partitions in another layout, and executes nothing", async () => {
  const [first = ""] = idsOf(1);
  const args = [{ id: first, workflow: "quick" }];
  const request = encodeRequest({ kind: "tenant", tenant: "t", method: "startRun", args }, 1);
  const answer = decode(
    (await finished(hosts[0]?.serve(request) ?? Promise.reject())) as Uint8Array,
  );
  expect(answer).toMatchObject({ kind: "refused" });
  expect(await codeOf(front.getRun(first))).toBe("run-not-found");
});

test.each([
  ["no CBOR", new Uint8Array([0xff]), "invalid-cbor"],
  ["an unknown kind", encode({ kind: "else" }), "invalid-request"],
  [
    "an unknown method",
    encodeRequest({ kind: "tenant", tenant: "t", method: "toString", args: [] }, 0),
    "invalid-request",
  ],
])("a host answers %s with an error", async (_what, request, code) => {
  const answer = decode(
    (await finished(hosts[0]?.serve(request) ?? Promise.reject())) as Uint8Array,
  );
  expect(answer).toMatchObject({ kind: "error", code });
});
