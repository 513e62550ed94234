import { beforeAll, expect, test } from "vitest";
import { encode } from "../../guest/cbor.ts";
import { nodeCodec } from "../../host/sandbox/codec.ts";
import { compileJavaScript } from "../../host/sandbox/compile.ts";
import { compileEngine, encodeBaseline, readBaseline } from "../../host/sandbox/engine.ts";
import { Machines, machinesDefaults, stateOf } from "../../host/sandbox/machines.ts";
import type { ActivateRequest } from "../../runtime/ports.ts";
import { act, guestSource } from "./guest.ts";
import { openEngine } from "./kit.ts";

const id = "1".repeat(64);
let opened: Awaited<ReturnType<typeof openEngine>>;
let stored: Uint8Array;
beforeAll(async () => {
  const [component, engine] = await Promise.all([compileJavaScript(guestSource()), openEngine()]);
  opened = engine;
  stored = encodeBaseline(readBaseline(component, id, engine.host), nodeCodec);
}, 60_000);

/** Machines with a clock on which each activation takes 5 ms. */
function machinesWith(limits: Partial<typeof machinesDefaults> = {}, engine = opened.engine) {
  let nowMs = 0;
  let entries = 0;
  const machines = new Machines({
    engine,
    codec: nodeCodec,
    limits: { ...machinesDefaults, ...limits },
    nowMs: () => {
      nowMs += 5;
      return nowMs;
    },
    onEntry: () => {
      entries += 1;
    },
  });
  machines.addComponent(id, stored);
  const run = (
    machine: string,
    from: ActivateRequest["from"],
    imageAfterMs: number,
    activation = act("add", 1),
  ) => {
    const request = { component: id, machine, from, activation, after: "keep", imageAfterMs };
    const result = machines.activate(request as ActivateRequest);
    if (result.kind !== "ok") throw new Error(JSON.stringify(result));
    return result;
  };
  return { machines, run, entriesSoFar: () => entries };
}

test("an image is due when guest time since the last one has passed", () => {
  const { run } = machinesWith();
  const taken = [0, 1, 2, 3, 4, 5].map((version) => {
    const from =
      version === 0 ? ({ kind: "pristine" } as const) : ({ kind: "resident", version } as const);
    return run("m", from, 15).image !== undefined;
  });
  expect(taken).toEqual([false, false, true, false, false, true]);
});

test("a guest that goes on at once waits longer for its image, the longer the larger its memory", () => {
  const { run } = machinesWith();
  const firstImage = (machine: string, megabytes: number): number => {
    for (let version = 0; version < 200; version++) {
      const activation = act("yield", version === 0 ? megabytes : 0);
      const from =
        version === 0 ? ({ kind: "pristine" } as const) : ({ kind: "resident", version } as const);
      if (run(machine, from, 1, activation).image !== undefined) return (version + 1) * 5;
    }
    throw new Error("no image at all");
  };
  expect(firstImage("small", 0)).toBe(50);
  expect(firstImage("large", 4)).toBeGreaterThan(700);
});

test("guest time of a rebuilt journal counts towards the next image, and each entry is announced", () => {
  const { run, entriesSoFar } = machinesWith();
  const first = run("m", { kind: "pristine" }, 15);
  const journal = [{ activation: act("add", 1), drainedHash: first.drainedHash }];
  const from = { kind: "rebuild", image: undefined, journal, version: 1 } as const;
  const rebuilt = run("n", from, 10);
  expect(rebuilt.guestMs).toBe(5);
  expect(rebuilt.image).toBeDefined();
  expect(entriesSoFar()).toBe(3);
});

test("a machine whose memory is more than a host allows is refused", async () => {
  const large = machinesWith();
  const activation = act("yield", 3);
  const journal = [0, 1, 2, 3].map((version) => {
    const from =
      version === 0 ? { kind: "pristine" as const } : { kind: "resident" as const, version };
    return { activation, drainedHash: large.run("m", from, 1e9, activation).drainedHash };
  });
  const { image } = large.run("m", { kind: "resident", version: 4 }, 0);
  const small = machinesWith({}, await compileEngine(opened.parts, 200));
  const rebuilt = (from: object) =>
    small.machines.activate({
      component: id,
      machine: "m",
      from: { kind: "rebuild", image: undefined, journal: [], version: 1, ...from },
      activation: act("add", 1),
      after: "keep",
      imageAfterMs: 1e9,
    });
  const refused = {
    kind: "fault",
    fault: "memory-too-large",
    message: expect.stringContaining("this host gives a guest 13 MiB"),
  };
  expect(rebuilt({ image })).toMatchObject(refused);
  expect(rebuilt({ journal })).toMatchObject(refused);
  expect(rebuilt({ journal: journal.slice(0, 2) })).toMatchObject({ kind: "ok" });
});

test("a machine that is larger than all that may be resident stays until the next one comes", () => {
  const { machines, run } = machinesWith({ residentBytesMax: 1 });
  run("a", { kind: "pristine" }, 1e9);
  expect(machines.isResident("a")).toBe(true);
  run("b", { kind: "pristine" }, 1e9);
  expect([machines.isResident("a"), machines.isResident("b")]).toEqual([false, true]);
});

test("a large memory waits longer for its image, unless the machine was given much", () => {
  const { run } = machinesWith();
  run("m", { kind: "pristine" }, 1e9, act("yield", 40));
  const next = (version: number, activation: Uint8Array = act("add", 1)) =>
    run("m", { kind: "resident", version }, 0, activation).image !== undefined;
  expect([next(1), next(2)]).toEqual([false, false]);
  const much = new Uint8Array(8 * 1024 * 1024);
  let given = 0;
  while (!next(3 + given, much)) given += 1;
  expect(given).toBe(31);
});

test("machines that were forgotten for want of room are named once", () => {
  const { machines, run } = machinesWith({ liveMax: 1, residentBytesMax: 2_500_000 });
  for (let n = 0; n < 60; n++) run(`m${n}`, { kind: "pristine" }, 1e9);
  const evicted = machines.takeEvicted();
  expect(evicted.slice(0, 3)).toEqual(["m0", "m1", "m2"]);
  expect(machines.isResident("m0")).toBe(false);
  expect(machines.isResident("m59")).toBe(true);
  expect(machines.takeEvicted()).toEqual([]);
});

test("a component that is replaced takes its machines with it", () => {
  const { machines, run } = machinesWith();
  run("m", { kind: "pristine" }, 1e9);
  machines.addComponent(id, stored);
  expect(machines.isResident("m")).toBe(false);
  expect(machines.takeEvicted()).toEqual(["m"]);
});

test.each([
  ["done at once", { state: "done", commands: [] }, "done"],
  [
    "done after much else",
    { commands: [{ a: [1, "x", { b: new Uint8Array(300) }] }], state: "done" },
    "done",
  ],
  ["yielded", { state: "yielded", nextStep: "done" }, "yielded"],
  ["waiting", { state: "waiting", commands: [{ state: "done" }] }, "waiting"],
  ["a list", ["state", "done"], "waiting"],
])("a Drained that is %s is seen as such", (_what, value, expected) => {
  expect(stateOf(encode(value))).toBe(expected);
});

test.each([
  ["nothing", []],
  ["a cut-off key", [0xa1, 0x65, 0x73]],
  ["a map that claims four billion entries", [0xba, 255, 255, 255, 255, 0x61]],
  ["nested claims", Array.from({ length: 1000 }, () => 0x9f)],
  ["a list that claims 2^60 items", [0xa1, 0x61, 0x61, 0x9b, 16, 0, 0, 0, 0, 0, 0, 0]],
])("drained bytes that are %s are waiting", (_what, bytes) => {
  expect(stateOf(Uint8Array.from(bytes))).toBe("waiting");
});
