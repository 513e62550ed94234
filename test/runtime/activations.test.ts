/** How a guest is run, by the invariants of runtime/activations.ts. */
import { createHash } from "node:crypto";
import { beforeEach, expect, test } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import type { Command, Drained } from "../../guest/protocol.ts";
import { MemoryStore } from "../../host/store/memory.ts";
import { Activations } from "../../runtime/activations.ts";
import type { ActorHead } from "../../runtime/format.ts";
import { actorKey } from "../../runtime/ids.ts";
import type { Begun } from "../../runtime/machine.ts";
import type { ActivateRequest, ActivateResult, Sandbox } from "../../runtime/ports.ts";
import { type Entity, newEntity } from "../../runtime/state.ts";

const storeBytes = 1000;
const digest = {
  sha256: (bytes: Uint8Array) => new Uint8Array(createHash("sha256").update(bytes).digest()),
};

/** What happened, in order. */
let trail: string[];
let asked: ActivateRequest[];
let answer: (request: ActivateRequest) => ActivateResult;
let activations: Activations;
let entity: Entity;

beforeEach(() => {
  trail = [];
  asked = [];
  answer = () => done("small");
  const store = new MemoryStore();
  const put = store.put.bind(store);
  store.put = (...given) => {
    trail.push("stored");
    return put(...given);
  };
  const sandbox = {
    activate: async (request: ActivateRequest) => {
      asked.push(request);
      return answer(request);
    },
    release: () => undefined,
  } as unknown as Sandbox; // the two calls that are made here
  activations = new Activations({
    ports: {
      sandbox,
      store,
      digest,
      clock: { nowMs: () => 0, after: () => () => undefined },
      observer: { log: () => undefined, count: () => undefined, observe: () => undefined },
    },
    prefix: "",
    limits: { imageAfterMs: 1, imageAfterBytes: 1000, storeBytes },
    isOwned: () => true,
    loadComponent: async () => undefined,
    hold: async (_entity, hashes) => void trail.push(...[...hashes].map(() => "held")),
    generation: async () => 1,
  });
  // What of a head is looked at when a guest is run.
  const head = { kind: "actor", component: "c", life: 0, applied: 1, lastNowMs: 0 } as ActorHead;
  entity = newEntity(actorKey("t", "Counter", "a"), head, 0);
});

function done(value: string): ActivateResult & { kind: "ok" } {
  const outcome = { kind: "ok", value: encode(value) } as const;
  const drained: Drained = {
    state: "done",
    commands: [{ kind: "complete", outcome }],
    records: [],
  };
  return { kind: "ok", drained: encode(drained), drainedHash: 1, guestMs: 1, image: undefined };
}

function commandsOf(result: ActivateResult): readonly Command[] {
  if (result.kind !== "ok") throw new Error(`the guest answers, not ${result.kind}`);
  return (decode(result.drained) as Drained).commands;
}

const begun: Begun = { activation: encode("now"), journal: [], version: 1 };

test("a large result is held by a durable row before it is stored, and then has only its name", async () => {
  answer = () => done("x".repeat(storeBytes + 1));
  const result = await activations.run(entity, begun, undefined);
  expect(trail).toEqual(["held", "stored"]);
  expect(encode(commandsOf(result)).length).toBeLessThan(storeBytes);
});

test("a small result is what the guest answered, and nothing is stored", async () => {
  expect(await activations.run(entity, begun, undefined)).toEqual(done("small"));
  expect(trail).toEqual([]);
});

test("a turn computed ahead counts if it was given the very same", async () => {
  const ahead = {
    nowMs: 0,
    result: Promise.resolve({ ...done("ahead"), activation: encode("now") }),
  };
  const result = await activations.run(entity, begun, ahead);
  expect(commandsOf(result)).toEqual(commandsOf(done("ahead")));
  expect(asked).toEqual([]);
});

test("a turn computed ahead of something else is run again", async () => {
  const ahead = {
    nowMs: 0,
    result: Promise.resolve({ ...done("ahead"), activation: encode("other") }),
  };
  const result = await activations.run(entity, begun, ahead);
  expect(commandsOf(result)).toEqual(commandsOf(done("small")));
});

test("a memory that isn't there is rebuilt as of the version that the activation follows", async () => {
  entity.image = Uint8Array.of(1);
  answer = ({ from }) => (from.kind === "resident" ? { kind: "absent" } : done("rebuilt"));
  const result = await activations.run(entity, begun, undefined);
  expect(commandsOf(result)).toEqual(commandsOf(done("rebuilt")));
  const rebuilt = { kind: "rebuild", image: entity.image, journal: [], version: 1 };
  expect(asked.map(({ from }) => from)).toEqual([{ kind: "resident", version: 1 }, rebuilt]);
});

test("a look at an entity waits for its activation, and leaves its memory as it was", async () => {
  entity.isActive = true;
  const looking = activations.peek(entity, { kind: "query", id: "q", name: "n", args: encode([]) });
  await new Promise((resolve) => setImmediate(resolve));
  expect(asked).toEqual([]);
  for (const run of entity.whenQuiet) run();
  await looking;
  expect(asked.map(({ after, machine }) => [after, machine])).toEqual([
    ["discard", `${entity.key}#0`],
  ]);
});

test("a guest is at work until it has answered, also with a throw", async () => {
  answer = () => {
    throw new Error("the process is gone");
  };
  const running = activations.run(entity, begun, undefined);
  expect(activations.atWork).toBe(1);
  await expect(running).rejects.toThrow("the process is gone");
  expect(activations.atWork).toBe(0);
});
