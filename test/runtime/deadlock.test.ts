/**
 * Circles of calls, over actors, runs and partitions: one wait of each is ended, and nothing
 * that would have come to an end by itself. The engine is the real one, in test/sim's world.
 */
import { expect, test } from "vitest";
import { encode } from "../../guest/cbor.ts";
import { actor, handle, run, sleep, workflow } from "../../guest/index.ts";
import type { Outcome } from "../../guest/protocol.ts";
import type { TenantHost } from "../../runtime/index.ts";
import { World } from "../sim/world.ts";

class Ropes {
  passed = 0;
  /** Waits a moment, so that all of a circle are in turns before they ask. */
  async ask(...path: string[]): Promise<string> {
    await sleep(20);
    const answer = await follow(path);
    this.passed += 1;
    return answer;
  }
  async impatient(key: string): Promise<string> {
    const work = (): Promise<string> => Rope.getOrCreate(key).slow(5000);
    return run("impatient", work, { timeout: 100, retries: 0 }).catch(() => "gave up");
  }
  async slow(ms: number): Promise<string> {
    await sleep(ms);
    return Rope.getOrCreate("first").touch();
  }
  touch(): string {
    this.passed += 1;
    return "touched";
  }
}
const Rope = actor("Rope", Ropes);
const SoftRope = actor("SoftRope", class extends Ropes {}, { reentrant: true });

/** A path of actors, `*key` for re-entrant ones, and `/n` for n runs within each other. */
function follow([next, ...rest]: readonly string[]): Promise<string> {
  if (next === undefined) return Promise.resolve("end");
  if (next.startsWith("/")) return pass(Number(next.slice(1)), rest);
  const type = next.startsWith("*") ? SoftRope : Rope;
  const called = type.getOrCreate(next.replace("*", ""));
  return rest.length === 0 ? called.touch() : called.ask(...rest);
}
const pass = workflow("pass", (runs: number, path: readonly string[]): Promise<string> => {
  return runs > 1 ? pass(runs - 1, path) : follow(path);
});
workflow("await", async (id: string) => {
  await sleep(1000); // until all of them are there
  return handle(id).result();
});

interface Scene {
  readonly world: World;
  readonly tenant: TenantHost;
}

async function begin(seed: number, partitions: number): Promise<Scene> {
  const world = new World({ seed, partitions, limits: { lingerMs: 5 }, storeMs: 1 });
  const host = world.startHost();
  await world.runUntil(() => host.isReady, 10_000);
  if (host.host === undefined) throw new Error("the host is ready");
  const tenant = host.host.tenant("t");
  await finished(world, tenant.deploy({ kind: "javascript", code: "export {};" }));
  return { world, tenant };
}

function finished<T>(world: World, work: Promise<T>): Promise<T> {
  return world.finished(work, 60_000);
}

/** Calls all at once; what became of each: its result, or its error. */
async function callAll(
  { world, tenant }: Scene,
  calls: readonly (readonly [type: string, key: string, method: string, ...args: unknown[]])[],
): Promise<string[]> {
  const outcomes = calls.map(async ([type, key, method, ...args]) => {
    const result = await tenant.callActor({ type, key, method, args: encode(args) });
    if (result.kind !== "done") throw new Error("answered in time");
    return textOf(result.outcome);
  });
  return finished(world, Promise.all(outcomes));
}

function textOf(outcome: Outcome): string {
  if (outcome.kind === "ok") return "ok";
  const { cause, code, message } = outcome.error;
  const isWrapped = cause !== undefined && code === "child-failed";
  return isWrapped ? textOf({ kind: "error", error: cause as never }) : `${code}: ${message}`;
}

const places = [1, 2, 3, 4].map((seed) => ({ seed, partitions: seed }));

test.each(places)(
  "of two actors that ask each other one is refused ($partitions)",
  async (place) => {
    const scene = await begin(place.seed, place.partitions);
    const results = await callAll(scene, [
      ["Rope", "a", "ask", "b"],
      ["Rope", "b", "ask", "a"],
    ]);
    const [refused = "", ...others] = results.filter((text) => text !== "ok");
    expect(others).toEqual([]);
    expect(refused).toMatch(/^call-deadlock: a call would wait for itself: (.+) → .+ → \1$/);
  },
);

test.each(places)("of a ring of five actors one is refused ($partitions)", async (place) => {
  const scene = await begin(place.seed, place.partitions);
  const ring = ["a", "b", "c", "d", "e"];
  const results = await callAll(
    scene,
    ring.map((key, i) => ["Rope", key, "ask", ring[(i + 1) % 5] ?? ""] as const),
  );
  const refused = results.filter((text) => text !== "ok");
  expect(refused).toHaveLength(1);
  expect(refused[0]?.split(" → ")).toHaveLength(6);
});

test.each(places)(
  "a call that comes back through four runs is refused ($partitions)",
  async (place) => {
    const scene = await begin(place.seed, place.partitions);
    const [result] = await callAll(scene, [["Rope", "a", "ask", "/4", "a"]]);
    expect(result).toContain("call-deadlock: a call would wait for itself: Rope/a → Rope:a.");
    expect(result).toMatch(/ → Rope\/a$/);
    expect(result?.split(" → ")).toHaveLength(6);
  },
);

test.each(places)(
  "a re-entrant actor serves what comes back through runs ($partitions)",
  async (place) => {
    const scene = await begin(place.seed, place.partitions);
    const results = await callAll(scene, [
      ["SoftRope", "f", "ask", "/3", "*f"],
      ["SoftRope", "g", "ask", "b", "/2", "*g", "c"],
    ]);
    expect(results).toEqual(["ok", "ok"]);
  },
);

test.each(places)(
  "a re-entrant actor in a ring takes the call that closes it ($partitions)",
  async (place) => {
    const scene = await begin(place.seed, place.partitions);
    const results = await callAll(scene, [
      ["Rope", "a", "ask", "b"],
      ["Rope", "b", "ask", "*f"],
      ["SoftRope", "f", "ask", "a"],
    ]);
    expect(results).toEqual(["ok", "ok", "ok"]);
  },
);

test.each(places)(
  "of runs that wait for each other's end one is told so ($partitions)",
  async (place) => {
    const { world, tenant } = await begin(place.seed, place.partitions);
    for (const [id, other] of [
      ["x", "y"],
      ["y", "z"],
      ["z", "x"],
    ] as const) {
      await finished(world, tenant.startRun({ id, workflow: "await", args: encode([other]) }));
    }
    const output = async (id: string): Promise<string> => {
      const result = await tenant.output(id, { waitMs: 50_000 });
      return result.kind === "ready" ? textOf(result.outcome) : "pending";
    };
    const texts = await finished(world, Promise.all(["x", "y", "z"].map(output)));
    expect(texts.every((text) => text.includes("call-deadlock"))).toBe(true);
    expect(texts[0]).toMatch(/a wait for a run would wait for itself: (.) → . → . → \1/);
  },
);

test("many that wait for one that waits for another are all served", async () => {
  const scene = await begin(5, 3);
  const calls = Array.from(
    { length: 12 },
    (_, i) => ["Rope", `c${i}`, "ask", "hub", "end"] as const,
  );
  const results = await callAll(scene, [...calls, ["Rope", "hub", "ask", "/2", "end"]]);
  expect(new Set(results)).toEqual(new Set(["ok"]));
});

test("a call to one who has given up waiting is served in its turn", async () => {
  const scene = await begin(6, 2);
  const results = await callAll(scene, [["Rope", "first", "impatient", "second"]]);
  expect(results).toEqual(["ok"]);
  await finished(scene.world, scene.world.sleep(10_000));
  const state = await finished(scene.world, scene.tenant.actorState("Rope", "first"));
  expect(state.turns).toBe(3);
});
