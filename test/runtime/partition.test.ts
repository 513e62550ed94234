/**
 * What one partition owes to whoever has sent it something, at the moments when two things
 * happen at once: a life that ends, an actor that is deleted, a mailbox that is full. The
 * engine is the real one, with the simulated world (test/sim) in perfect order around it.
 */
import { beforeEach, expect, test } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import { actor, continueAsNew, signal, sleep, update, workflow } from "../../guest/index.ts";
import type { Outcome } from "../../guest/protocol.ts";
import { mailFromEntitiesMax, mailMax } from "../../runtime/actor.ts";
import type { CallResult, TenantHost } from "../../runtime/index.ts";
import { effect, guarded } from "../sim/guest.ts";
import { World } from "../sim/world.ts";

workflow("lives", async (life: number) => {
  update("which", () => life);
  await signal("next");
  if (life < 2) continueAsNew(life + 1);
  return life;
});

workflow("sleepsAfterwards", async () => {
  update("poke", () => 1);
  await signal("go");
  await sleep("30 days");
});

/** Ends its first life while it waits for items, too. */
workflow("reader", async (life: number) => {
  const first = signal<string>("item");
  if (life === 1) {
    await signal("next");
    continueAsNew(2);
  }
  return [await first, await signal<string>("item")];
});

/** The wait is given up by its timeout, and a new life begins at once. */
workflow("late", async (life: number) => {
  const got: unknown[] = [];
  if (life === 1) {
    await signal("item", { timeout: 50 }).catch(() => undefined);
    continueAsNew(2);
  }
  for (let i = 0; i < 3; i++) got.push(await signal("item"));
  return got;
});

workflow("effectOfALife", async (life: number) => {
  const key = effect("slow");
  if (life > 1) return key;
  await signal("next");
  continueAsNew(2);
});

workflow("guardedReader", async (name: string) => {
  const first = signal<string>("item");
  await guarded(name);
  return [await first, await signal<string>("item")];
});

/** Asks a workflow that asks this actor: both would wait for ever. */
const Circle = actor(
  "Circle",
  class {
    begin(): Promise<string> {
      return roundabout();
    }
  },
);
const roundabout: () => Promise<string> = workflow("roundabout", () =>
  Circle.getOrCreate("k")
    .begin()
    .catch((error: { code?: string }) => error.code ?? "another error"),
);

const Slow = actor(
  "Sluggish",
  class {
    done = 0;
    async work(ms: number): Promise<number> {
      await sleep(ms);
      this.done += 1;
      return this.done;
    }
  },
);

/** One-way calls, all at once: how many of them are refused. */
workflow("flood", async (key: string, count: number) => {
  const sent = Array.from({ length: count }, () => Slow.getOrCreate(key).send.work(0));
  const results = await Promise.allSettled(sent);
  return results.filter(({ status }) => status === "rejected").length;
});

workflow("askSlow", (key: string) => Slow.getOrCreate(key).work(60_000));

let world: World;
let tenant: TenantHost;

beforeEach(async () => {
  world = new World({ seed: 1, partitions: 1, limits: { lingerMs: 5 }, storeMs: 1 });
  const host = world.startHost();
  await world.runUntil(() => host.isReady, 10_000);
  if (host.host === undefined) throw new Error("the host is ready");
  tenant = host.host.tenant("t");
  await finished(tenant.deploy({ kind: "javascript", code: "export {};" }));
});

function finished<T>(work: Promise<T>): Promise<T> {
  return world.finished(work);
}

async function begin(id: string, name: string, ...args: unknown[]): Promise<void> {
  await finished(tenant.startRun({ id, workflow: name, args: encode(args) }));
  await finished(world.sleep(20));
}

async function outcomeOf(id: string): Promise<Outcome> {
  const output = await finished(tenant.output(id, { waitMs: 60_000 }));
  if (output.kind !== "ready") throw new Error(`${id} does not end`);
  return output.outcome;
}

function resultOf(outcome: Outcome): unknown {
  if (outcome.kind === "ok") return decode(outcome.value);
  throw new Error(outcome.error.message);
}

function answerOf(result: CallResult): unknown {
  if (result.kind === "accepted") throw new Error("there is no answer");
  return result.outcome.kind === "ok" ? decode(result.outcome.value) : result.outcome.error.code;
}

function sent(id: string, name: string, value: unknown = null): Promise<unknown> {
  return tenant.signalRun(id, name, encode(value), {});
}

// ---------------------------------------------------------------- lives

test("an update that waits while its run begins anew is answered by the next life", async () => {
  await begin("r", "lives", 1);
  const [, result] = await finished(
    Promise.all([
      sent("r", "next"),
      tenant.updateRun("r", "which", encode([]), { updateId: "u", waitMs: 5000 }),
    ]),
  );
  expect(answerOf(result)).toBe(2);
});

test("a cancellation that waits while its run begins anew is for the next life", async () => {
  await begin("r", "lives", 1);
  await finished(Promise.all([sent("r", "next"), tenant.cancelRun("r", "enough")]));
  const outcome = await outcomeOf("r");
  expect(outcome).toMatchObject({ kind: "error", error: { class: "cancelled" } });
  const run = await finished(tenant.getRun("r"));
  expect(run).toMatchObject({ status: "CANCELED", attempt: 2 });
});

test("signals that come while a run begins anew are read by the next life, in order", async () => {
  await begin("r", "reader", 1);
  await finished(Promise.all([sent("r", "next"), sent("r", "item", "a"), sent("r", "item", "b")]));
  expect(resultOf(await outcomeOf("r"))).toEqual(["a", "b"]);
});

test("a signal that came together with its wait's timeout is read by the next life, before younger ones", async () => {
  await begin("r", "late", 1);
  await finished(tenant.pauseRun("r"));
  await finished(world.sleep(200)); // the timer's answer waits first
  for (const item of [1, 2, 3]) await finished(sent("r", "item", item));
  await finished(tenant.resumeRun("r"));
  expect(resultOf(await outcomeOf("r"))).toEqual([1, 2, 3]);
});

test("an effect of an earlier life answers no command of a later one", async () => {
  await finished(tenant.startRun({ id: "r", workflow: "effectOfALife", args: encode([1]) }));
  // Its answer is on its way when the next life gives the same command id again.
  await world.runUntil(() => (world.counts.get("effects") ?? 0) === 1, world.nowMs + 10_000);
  await finished(sent("r", "next"));
  expect(resultOf(await outcomeOf("r"))).toBe("r/2/effect");
  expect(world.counts.get("effects")).toBe(2);
});

test("an update that waits while its run ends is refused, not forgotten", async () => {
  await begin("r", "lives", 2);
  const [, result] = await finished(
    Promise.all([
      sent("r", "next"),
      tenant.updateRun("r", "which", encode([]), { updateId: "u", waitMs: 5000 }),
    ]),
  );
  expect(answerOf(result)).toBe("run-closed");
  expect(resultOf(await outcomeOf("r"))).toBe(2);
});

test("signals that come around a failure are there after a resume", async () => {
  for (let delayMs = 0; delayMs <= 60; delayMs += 4) {
    const id = `r${delayMs}`;
    world.ledger.off.add(id);
    await finished(tenant.startRun({ id, workflow: "guardedReader", args: encode([id]) }));
    await finished(world.sleep(delayMs));
    const taken: string[] = [];
    for (const item of ["a", "b"]) {
      await finished(sent(id, "item", item)).then(
        () => taken.push(item),
        (error: unknown) => expect(error).toMatchObject({ code: "run-closed" }),
      );
    }
    await finished(world.sleep(5000));
    expect(await finished(tenant.getRun(id))).toMatchObject({ status: "FAILED" });
    world.ledger.off.delete(id);
    await finished(tenant.resumeRun(id));
    for (const item of ["a", "b"].slice(taken.length)) await finished(sent(id, "item", item));
    expect(resultOf(await outcomeOf(id))).toEqual(["a", "b"]);
  }
});

// ---------------------------------------------------------------- actors

function call(callId: string, ms: number, options: object = {}): Promise<CallResult> {
  const args = encode([ms]);
  return tenant.callActor({ type: "Sluggish", key: "k", method: "work", args, callId, ...options });
}

test("a call that found the mailbox full is not taken for accepted when it is repeated", async () => {
  const first = call("first", 2000);
  await finished(world.sleep(1000));
  const waiting = Array.from({ length: mailMax }, (_, i) => call(`c${i}`, 0, { isAsync: true }));
  await finished(Promise.all(waiting));
  await expect(finished(call("refused", 0))).rejects.toMatchObject({ code: "too-many-messages" });
  expect(answerOf(await finished(first))).toBe(1);
  expect(answerOf(await finished(call("refused", 0)))).toBe(mailMax + 2);
});

test("what a run sends waits where a client is refused, and what is one too many is told", async () => {
  const first = call("first", 5000);
  await finished(world.sleep(500));
  const count = mailFromEntitiesMax + 2;
  await begin("flood", "flood", "k", count);
  expect(resultOf(await outcomeOf("flood"))).toBe(2);
  await expect(finished(call("client", 0))).rejects.toMatchObject({ code: "too-many-messages" });
  expect(answerOf(await finished(first))).toBe(1);
  await finished(world.sleep(60_000));
  expect(answerOf(await finished(call("client", 0)))).toBe(mailFromEntitiesMax + 2);
}, 60_000);

test("a call that was there before its actor waited for the caller is refused as well", async () => {
  const args = encode([]);
  const result = await finished(
    tenant.callActor({ type: "Circle", key: "k", method: "begin", args, callId: "c" }),
  );
  expect(answerOf(result)).toBe("call-deadlock");
});

test("whoever waits for an actor that is deleted is told so", async () => {
  const calls = Promise.all([call("turn", 60_000), call("mail", 0)]);
  await finished(world.sleep(100));
  await finished(tenant.deleteActor("Sluggish", "k"));
  const beforeMs = world.nowMs;
  expect((await finished(calls)).map(answerOf)).toEqual(["actor-not-found", "actor-not-found"]);
  expect(world.nowMs - beforeMs).toBeLessThan(1000);
  expect(answerOf(await finished(call("turn", 0)))).toBe(1);
});

test("a workflow that waits for an actor that is deleted is told so", async () => {
  const asking = tenant.startRun({ id: "w", workflow: "askSlow", args: encode(["k"]) });
  await finished(asking);
  await finished(world.sleep(200));
  await finished(tenant.deleteActor("Sluggish", "k"));
  const outcome = await outcomeOf("w");
  expect(outcome).toMatchObject({ kind: "error" });
  expect(JSON.stringify(outcome)).toContain("actor-not-found");
});

test("actors move forward by themselves, and stay where they are when a deployment is taken back", async () => {
  const add = async (): Promise<unknown> => {
    await finished(world.sleep(3000)); // what a host knows of deployments is that old at most
    const request = { type: "Nomad", key: "n", method: "add", args: encode([]) };
    return answerOf(await finished(tenant.callActor(request)));
  };
  const deploy = (code: string) => finished(tenant.deploy({ kind: "javascript", code }));
  expect(await add()).toEqual([1, 0]);
  const { id: second } = await deploy("export {}; // second");
  expect(await add()).toEqual([2, 1]);
  await deploy("export {}; // third");
  expect(await add()).toEqual([3, 2]);
  expect((await finished(tenant.rollBack())).component).toBe(second);
  expect(await add()).toEqual([4, 2]);
  // Deployed again it is meant to be moved to.
  await deploy("export {}; // second");
  expect(await add()).toEqual([5, 3]);
});

// ---------------------------------------------------------------- taking over

workflow("patient", async (name: string) => {
  await signal("go");
  return guarded(name);
});

test("a host that takes over many active runs reads what they share once, not for each", async () => {
  const limits = { lingerMs: 5, checkpointEntries: 20 };
  world = new World({ seed: 3, partitions: 1, limits, storeMs: 5 });
  const first = world.startHost();
  await world.runUntil(() => first.isReady, 10_000);
  if (first.host === undefined) throw new Error("the host is ready");
  tenant = first.host.tenant("t");
  await finished(tenant.deploy({ kind: "javascript", code: "export {};" }));
  const ids = Array.from({ length: 300 }, (_, index) => `run-${index}`);
  // Some at a time, so that their rows are in several segments.
  for (let at = 0; at < ids.length; at += 10) {
    const part = ids.slice(at, at + 10);
    const start = (id: string) =>
      tenant.startRun({ id, workflow: "patient", args: encode(["off"]) });
    await finished(Promise.all(part.map(start)));
    // They wait for an answer that doesn't come: each needs attention after a crash.
    await finished(Promise.all(part.map((id) => sent(id, "go"))));
  }
  first.crash();
  const reads = new Map<string, number>();
  const { bucket } = world;
  const get = bucket.get.bind(bucket);
  bucket.get = (key, range) => {
    if (key.includes("/table/")) reads.set(key, (reads.get(key) ?? 0) + 1);
    return get(key, range);
  };
  const second = world.startHost();
  await world.runUntil(() => second.isReady, 60_000);
  await world.runUntil(() => false, world.nowMs + 2000);
  const total = [...reads.values()].reduce((sum, count) => sum + count, 0);
  expect(reads.size).toBeGreaterThan(0);
  expect(total).toBeLessThan(25);
}, 60_000);

test("what runs wait for is done by who takes them over, also if somebody asks for them just then", async () => {
  world = new World({
    seed: 4,
    partitions: 1,
    limits: { lingerMs: 5, residentMax: 1 },
    storeMs: 5,
  });
  const first = world.startHost();
  await world.runUntil(() => first.isReady, 10_000);
  if (first.host === undefined) throw new Error("the host is ready");
  tenant = first.host.tenant("t");
  await finished(tenant.deploy({ kind: "javascript", code: "export {};" }));
  const { ledger } = world;
  const fetch = ledger.fetch.bind(ledger);
  ledger.fetch = () => new Promise(() => undefined); // no answer comes before the crash
  const ids = Array.from({ length: 200 }, (_, index) => `run-${index}`);
  const start = (id: string) =>
    tenant.startRun({ id, workflow: "patient", args: encode([id]), signal: go(id) });
  await finished(Promise.all(ids.map(start)));
  await finished(world.sleep(1000));
  first.crash();
  ledger.fetch = fetch;
  const second = world.startHost();
  await world.runUntil(() => second.isReady, 60_000);
  if (second.host === undefined) throw new Error("the host is ready");
  tenant = second.host.tenant("t");
  await finished(Promise.all(ids.map((id) => tenant.output(id, { waitMs: 1 }))));
  await finished(world.sleep(30_000));
  const views = await finished(Promise.all(ids.map((id) => tenant.getRun(id))));
  expect(views.filter(({ status }) => status !== "SUCCESSFUL")).toEqual([]);
}, 60_000);

function go(id: string) {
  return { name: "go", value: encode(true), messageId: `${id}-go` };
}

test("a cancellation that comes with what the run waited for reaches what it waits for then", async () => {
  await begin("r", "sleepsAfterwards");
  // The update keeps the run busy, so that the others come to it together.
  const poked = tenant.updateRun("r", "poke", encode([]));
  await finished(Promise.all([poked, sent("r", "go"), tenant.cancelRun("r", "enough")]));
  await finished(world.sleep(1000));
  expect((await finished(tenant.getRun("r"))).status).toBe("CANCELED");
});
