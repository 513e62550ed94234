/** Runs that replace each other under one id, and what is told of a run that was ended, resumed, forked or moved. */
import { beforeEach, expect, test } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import {
  context,
  continueAsNew,
  externalEvent,
  NonRetryableError,
  publish,
  signal,
  sleep,
  start,
  step,
  update,
  workflow,
} from "../../guest/index.ts";
import { foldStep } from "../../runtime/history.ts";
import type { StartResult, StepView, TenantHost } from "../../runtime/index.ts";
import { ok } from "../../runtime/outcomes.ts";
import type { PartitionLimits } from "../../runtime/partition.ts";
import { World } from "../sim/world.ts";

workflow("replaced", async (n: number) => {
  publish("n", n);
  return [n, await signal("first"), await signal("last")];
});
workflow("slowUpdates", async () => {
  update("work", async () => {
    await sleep("1 day");
    return "done";
  });
  await signal("close");
});
const breaking = step("breaking", () => {
  if ((context().step?.attempt ?? 0) < 4) throw new NonRetryableError("broken");
  return "mended";
});
const quick = step("quick", (text: string) => text);
const shrug = step("shrug", (text: string) => text);
const lasting = step("lasting", async () => sleep("1 day"));
workflow("givingUp", async () => {
  try {
    return await quick(await breaking());
  } catch (error) {
    void lasting();
    await shrug("given up");
    throw error;
  }
});
const resting = step("resting", async (n: number) => {
  await sleep(10);
  for (let turns = 0; turns < 10 * n; turns += 1) await undefined;
  return n;
});
workflow("lanes", () => Promise.all([1, 2, 3].map(async (n) => quick(String(await resting(n))))));
const leaf = workflow("leaf", (n: number) => n);
workflow("beside", async () => {
  const child = async () => (await start(leaf.with(7))).result();
  return Promise.all([resting(1), child(), quick("a")]);
});
workflow("asking", () => {
  const decision = async () => {
    const event = await externalEvent<string>("may it");
    publish("token", event.token);
    return event.result();
  };
  return Promise.all([resting(1), decision()]);
});
workflow("renewing", async (life: number) => {
  await signal("go");
  if (life < 4) continueAsNew(life + 1);
  return life;
});
let tenant: TenantHost;
let world: World;

async function open(limits: Partial<PartitionLimits> = {}): Promise<void> {
  world = new World({ seed: 5, partitions: 1, limits, storeMs: 1 });
  await serve();
}

async function serve(): Promise<void> {
  const host = world.startHost();
  await world.runUntil(() => host.isReady, world.nowMs + 60_000);
  if (host.host === undefined) throw new Error("the host is ready");
  tenant = host.host.tenant("t");
}

beforeEach(async () => {
  await open();
  await during(tenant.deploy({ kind: "javascript", code: "export {};" }));
});

function during<T>(work: Promise<T>): Promise<T> {
  return world.finished(work, 600_000);
}

function replacing(n: number, ifExists: "start" | "terminate"): Promise<StartResult> {
  const signal = { name: "first", value: encode(n), messageId: `m${n}` };
  return tenant.startRun({ id: "r", workflow: "replaced", args: encode([n]), ifExists, signal });
}

test("a start with a message that comes twice at once replaces what is there once", async () => {
  await during(replacing(0, "terminate"));
  const delaysMs = Array.from({ length: 12 }, (_, i) => i / 2);
  for (const [n, delayMs] of [...delaysMs, ...delaysMs].entries()) {
    const ifExists = n < delaysMs.length ? "terminate" : "start";
    await during(tenant.signalRun("r", "last", encode(true)));
    await during(tenant.output("r", { waitMs: 10_000 }));
    const again = world.sleep(delayMs).then(() => replacing(n + 1, ifExists));
    const starts = await during(Promise.all([replacing(n + 1, ifExists), again]));
    expect(starts.map(({ created }) => created).toSorted()).toEqual([false, true]);
    expect(starts.map(({ duplicate }) => duplicate).toSorted()).toEqual([false, true]);
  }
});

test("of two starts that replace what is there, each in its turn, the last one stays", async () => {
  await during(replacing(1, "terminate"));
  const [one, other] = [replacing(2, "terminate"), replacing(3, "terminate")];
  const starts = await during(Promise.all([one, other]));
  expect(starts.map(({ created }) => created)).toEqual([true, true]);
  const { kind } = await during(tenant.output("r"));
  expect(kind).toBe("pending");
});

test("an update that is at work when its run is terminated is answered", async () => {
  await during(tenant.startRun({ id: "u", workflow: "slowUpdates", args: encode([]) }));
  await during(world.sleep(100));
  const until = { updateId: "one", until: "accepted" } as const;
  const { kind } = await during(tenant.updateRun("u", "work", encode([]), until));
  expect(kind).toBe("accepted");
  const waiting = tenant.updateRun("u", "work", encode([]), { updateId: "one", waitMs: 60_000 });
  await during(tenant.terminateRun("u", "enough"));
  for (const answer of [
    await during(waiting),
    await during(tenant.updateRun("u", "work", encode([]), { updateId: "one" })),
  ]) {
    expect(answer).toMatchObject({
      kind: "done",
      outcome: { kind: "error", error: { code: "run-closed" } },
    });
  }
});

test("what a run failed of is no answer any more once it was resumed", async () => {
  world.ledger.off.add("a switch");
  const start = { id: "s", workflow: "various", args: encode(["a switch"]) };
  await during(tenant.startRun(start));
  await during(tenant.output("s", { waitMs: 10_000 }));
  const before = await during(tenant.output("s", { step: "guarded" }));
  expect(before).toMatchObject({ kind: "ready", outcome: { kind: "error" } });
  world.ledger.off.delete("a switch");
  await during(tenant.resumeRun("s"));
  const after = await during(tenant.output("s", { step: "guarded", waitMs: 10_000 }));
  const value = after.kind === "ready" && after.outcome.kind === "ok" && after.outcome.value;
  expect(value && decode(value)).toBe("a switch");
  const events = await during(tenant.history("s"));
  const resumed = events.findIndex(({ type }) => type === "run.resumed");
  const steps = new Map<string, StepView>();
  for (const event of events.slice(0, resumed + 1)) foldStep(steps, event);
  expect(steps.get("guarded")?.status).toBe("RETRYING");
});

test("a run that was resumed has no steps of what was taken back", async () => {
  await during(tenant.startRun({ id: "g", workflow: "givingUp" }));
  await during(tenant.output("g", { waitMs: 10_000 }));
  const stepsNow = async (id = "g"): Promise<string[]> => {
    const steps = await during(tenant.steps(id, { after: 0, limit: 10 }));
    return steps.map((each) => `${each.step} ${each.status} ${each.attempt}`);
  };
  expect(await stepsNow()).toEqual([
    "breaking FAILED 1",
    "lasting RUNNING 1",
    "shrug SUCCESSFUL 1",
  ]);
  for (const attempt of [2, 3]) {
    await during(tenant.resumeRun("g"));
    await during(tenant.output("g", { waitMs: 10_000 }));
    expect(await stepsNow()).toEqual([
      `breaking FAILED ${attempt}`,
      "lasting RUNNING 1",
      "shrug SUCCESSFUL 1",
    ]);
  }
  await during(tenant.resumeRun("g"));
  const output = await during(tenant.output("g", { waitMs: 10_000 }));
  expect(output).toMatchObject({ kind: "ready", outcome: { kind: "ok" } });
  expect(await stepsNow()).toEqual(["breaking SUCCESSFUL 4", "quick SUCCESSFUL 1"]);
  await during(tenant.forkRun("g", { step: "quick", id: "f" }));
  await during(tenant.output("f", { waitMs: 10_000 }));
  expect(await stepsNow("f")).toEqual(["breaking SUCCESSFUL 4", "quick SUCCESSFUL 1"]);
  await expect(during(tenant.output("g", { step: "shrug" }))).rejects.toThrow(
    "without a step shrug",
  );
});

test("a fork tells of all that has ended where it parted", async () => {
  await during(tenant.startRun({ id: "l", workflow: "lanes" }));
  await during(tenant.output("l", { waitMs: 10_000 }));
  for (const step of ["quick", "quick_1", "quick_2"]) {
    const id = `l.${step}`;
    await during(tenant.forkRun("l", { step, id }));
    await during(tenant.output(id, { waitMs: 10_000 }));
    const steps = await during(tenant.steps(id, { after: 0, limit: 10 }));
    expect(steps.map(({ step: name, status }) => `${name} ${status}`).toSorted()).toEqual([
      "quick SUCCESSFUL",
      "quick_1 SUCCESSFUL",
      "quick_2 SUCCESSFUL",
      "resting SUCCESSFUL",
      "resting_1 SUCCESSFUL",
      "resting_2 SUCCESSFUL",
    ]);
  }
});

test("a run that is continued as new while it is moved has its own memory", async () => {
  const { id: other } = await during(
    tenant.deploy({ kind: "javascript", code: "export {}; // other" }),
  );
  const { id: first } = await during(tenant.deploy({ kind: "javascript", code: "export {};" }));
  for (let delayMs = 0; delayMs < 60; delayMs += 1) {
    const id = `w${delayMs}`;
    const start = { id, workflow: "renewing", args: encode([1]), component: first };
    await during(tenant.startRun(start));
    const moving = tenant.moveRun(id, { component: other });
    const going = (async () => {
      await world.sleep(delayMs);
      for (let n = 1; n <= 3; n += 1) await tenant.signalRun(id, "go", encode(n));
    })();
    const [{ kind }] = await during(Promise.all([moving, going]));
    expect(kind).toBe("moved");
    await during(tenant.signalRun(id, "go", encode(4)));
    const output = await during(tenant.output(id, { waitMs: 10_000 }));
    expect(output).toMatchObject({ kind: "ready", outcome: { kind: "ok", value: encode(4) } });
  }
});

test("a fork asks for what is beside its step, and gets its own answers", async () => {
  await during(tenant.startRun({ id: "b", workflow: "beside" }));
  await during(tenant.output("b", { waitMs: 10_000 }));
  for (const step of ["resting", "quick"]) {
    const id = `b.${step}`;
    await during(tenant.forkRun("b", { step, id }));
    const output = await during(tenant.output(id, { waitMs: 10_000 }));
    expect(output).toMatchObject({ outcome: { kind: "ok", value: encode([1, 7, "a"]) } });
  }
});

test("what is begun under an id while another is deleted there stays, also after a crash", async () => {
  await open({ residentMax: 0, lingerMs: 20 });
  await during(tenant.deploy({ kind: "javascript", code: "export {};" }));
  for (let n = 0; n < 5; n += 1) {
    await during(tenant.startRun({ id: "d", workflow: "leaf", args: encode([n]) }));
    await during(tenant.output("d", { waitMs: 10_000 }));
    await during(world.sleep(1000));
    const start = { id: "d", workflow: "replaced", args: encode([n]) };
    const [, started] = await during(Promise.all([tenant.deleteRun("d"), tenant.startRun(start)]));
    expect(started.created).toBe(true);
    await during(world.sleep(1000));
    for (const host of world.liveHosts) host.crash();
    await serve();
    expect((await during(tenant.getRun("d"))).status).toBe("RUNNING");
    await during(tenant.terminateRun("d", "over"));
    await during(tenant.deleteRun("d"));
  }
});

test("a fork that parts beside an event asks for its own decision", async () => {
  const decided = async (id: string, value: string): Promise<string> => {
    const found = await during(tenant.published(id, "token", { waitMs: 10_000 }));
    const token = found.kind === "ready" ? (decode(found.value) as string) : "";
    const [host] = world.liveHosts;
    await during(host?.host?.decideEvent(token, ok(value)) ?? Promise.reject());
    const output = await during(tenant.output(id, { waitMs: 10_000 }));
    expect(output).toMatchObject({ outcome: { kind: "ok", value: encode([1, value]) } });
    return token;
  };
  await during(tenant.startRun({ id: "e", workflow: "asking" }));
  const token = await decided("e", "yes");
  await during(tenant.forkRun("e", { step: "resting", id: "e.f" }));
  expect(await decided("e.f", "no")).not.toBe(token);
});
