/**
 * A tenant's component is its own, and needn't have the SDK in it: what its activations give back
 * may be anything. Whatever it is, the partition goes on, also after a crash, and the runs of others
 * with it. The sandbox of one run and one actor is replaced by one that forges; mostly its answers
 * have the protocol's types, or nothing behind the first check would be reached.
 */
import { createHash } from "node:crypto";
import fc from "fast-check";
import { afterEach, expect, test, vi } from "vitest";
import { encode } from "../../guest/cbor.ts";
import { actor, publish, signal, workflow } from "../../guest/index.ts";
import { decodeDrained } from "../../runtime/drained.ts";
import { SporeError } from "../../runtime/errors.ts";
import type { TenantHost } from "../../runtime/index.ts";
import type { ActivateResult } from "../../runtime/ports.ts";
import { SimSandbox } from "../sim/sandbox.ts";
import { World } from "../sim/world.ts";

workflow("honest", async () => {
  await signal("go");
  return "done";
});

workflow("telling", async (name: string) => {
  publish(name, "told");
  await signal("go");
});

workflow("forging", async () => undefined);

class Forger {
  count(): number {
    return 1;
  }
}
actor("Forger", Forger);

afterEach(() => vi.restoreAllMocks());

// ---------------------------------------------------------------- what a forger says

const odd = fc.anything({ maxDepth: 1 });
const mostly = (arbitrary: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> =>
  fc.oneof({ weight: 200, arbitrary }, odd);

const storedMark = [0xd8, 0x1b, 0x82, 0x66, 0x53, 0x74, 0x6f, 0x72, 0x65, 0x64];
const name = (character: string): string => character.repeat(64);
const id = mostly(fc.constantFrom(0, 1, 2, 3, 4, 5, 0xefff_ffff));
const text = mostly(
  fc.constantFrom(
    ...["", "a", "go", "forger", "honest", "nobody", "x/y", "..", "\u0000", "é", "进度", "💥"],
    ...["a".repeat(300), "__proto__", "GET", "https://example.com/", "http://127.0.0.1/", "Forger"],
  ),
);
const time = mostly(fc.constantFrom(0, -1, 1.5, 1e15, 1e300, -1e300, 1_800_000_000_000));
const bytes = mostly(
  fc.constantFrom(
    ...[encode(1), encode("x"), encode([1]), encode({ a: 1 }), encode(undefined)],
    ...[new Uint8Array(0), Uint8Array.of(0xff), Uint8Array.of(0x5b, 0xff, 0xff, 0xff, 0xff)],
    ...[Uint8Array.from(storedMark), Uint8Array.of(...storedMark, ...encode([name("a"), 0, -1]))],
    Uint8Array.of(...storedMark, ...encode([name("b"), 0, -1, 5])),
    encode({ $step: "x", args: [{ $ref: 7 }] }),
  ),
);
const error = fc.record(
  { name: text, message: text, code: text, stack: text, details: bytes },
  { requiredKeys: ["name", "message"] },
);
const outcome = mostly(
  fc.oneof(
    fc.record({ kind: fc.constant("ok"), value: bytes }),
    fc.record({ kind: fc.constant("error"), error }),
  ),
);
const target = fc.record({ type: text, key: text });
const headers = fc.array(fc.tuple(text, text), { maxLength: 2 });
const options = fc.record(
  {
    queue: fc.record({ name: text, key: text, priority: time }, { requiredKeys: [] }),
    tags: fc.dictionary(fc.constantFrom("a", "__proto__", "é"), text),
    metadata: bytes,
    deadlineMs: time,
    startAtMs: time,
    retentionMs: time,
  },
  { requiredKeys: [] },
);
const unread = fc.array(fc.record({ name: text, index: fc.nat(4), value: bytes }), {
  maxLength: 3,
});
const range = fc.record({ offset: fc.nat(), length: fc.nat() });
const child = fc.constantFrom("terminate", "cancel", "abandon");

type Members = Readonly<Record<string, fc.Arbitrary<unknown>>>;
const command = (kind: string, members: Members, more: Members = {}): fc.Arbitrary<unknown> => {
  const all: Members = { kind: fc.constant(kind), ...members, ...more };
  return fc.record(all, { requiredKeys: ["kind", ...Object.keys(members)] });
};
const commands = fc.oneof(
  command("timer", { id, atMs: time }),
  command("fetch", { id, request: fc.record({ method: text, url: text, headers, body: bytes }) }),
  command("wait", { id, signal: text }),
  command("accept", { updateId: text }),
  command("event", { id, name: text, expiresAtMs: time }),
  command("token", { id, wait: id }),
  command("unread", { signals: unread }),
  command("drop", { id }),
  command("start", { id, name: text, args: bytes }, { root: bytes, runId: text, child, options }),
  command("outcome", { id, runId: text }),
  command("describe", { id, runId: text }),
  command("cancelRun", { id, runId: text, reason: text }),
  command("signal", { id, name: text, value: bytes }, { runId: text, actor: target }),
  command("call", { id, actor: target, method: text, args: bytes }, { create: bytes }),
  command("put", { id, value: bytes }),
  command("assemble", { id, pieces: fc.array(text), size: fc.nat() }),
  command("get", { id, hash: text }, { range, isEncoded: fc.constant(true) }),
  command("reply", { id: text, outcome }),
  command("state", { value: bytes }),
  command("remind", { name: text, method: text, args: bytes }, { atMs: time, everyMs: time }),
  command("remind", { name: text, method: text, args: bytes, cron: text }, { zone: text }),
  command("forgetReminder", { name: text }),
  command("turned", {}),
  command("complete", { outcome }),
  command("continueAsNew", { args: bytes }),
  command("publish", { key: text, value: bytes }),
  command("tags", { tags: fc.dictionary(fc.constantFrom("a", "__proto__", "é"), text) }),
  command("log", { level: fc.constant("info"), message: text }),
);
const records = fc.oneof(
  bytes,
  fc.record({ event: text, step: text, name: text, attempt: time, value: bytes }).map(encoded),
  fc
    .record({
      event: fc.constantFrom("started", "succeeded", "failed", "retrying", "continued"),
      step: fc.constantFrom("a", "b"),
      name: fc.constant("a"),
      atMs: fc.constant(1_800_000_000_000),
      attempt: fc.constant(1),
      value: bytes,
      error,
    })
    .map(encoded),
);
const answers = fc
  .record(
    {
      state: mostly(fc.constantFrom("waiting", "waiting", "yielded", "done")),
      commands: mostly(fc.array(commands, { maxLength: 5 })),
      records: mostly(fc.array(records, { maxLength: 3 })),
      resumePoint: text,
      nextStep: text,
      waitingFor: text,
      progress: fc.record({ step: text, value: bytes }),
      handlers: fc.record({ queries: fc.array(text), updates: fc.array(text) }),
    },
    { requiredKeys: ["state", "commands", "records"] },
  )
  .map(encoded);

function encoded(value: unknown): Uint8Array {
  try {
    return encode(value);
  } catch {
    return Uint8Array.of(0xff); // a symbol, say
  }
}

// ---------------------------------------------------------------- what others see of it

const activationsMax = 30;

/** Machines of forgers say these things in turn, the last again and again, for a while. */
function forging(said: readonly Uint8Array[]): void {
  const honest = SimSandbox.prototype.activate;
  let count = 0;
  vi.spyOn(SimSandbox.prototype, "activate").mockImplementation(async function (
    this: SimSandbox,
    request,
  ): Promise<ActivateResult> {
    if (!request.machine.includes("orger")) return honest.call(this, request);
    count += 1;
    const drained = said[Math.min(count, said.length) - 1];
    if (drained === undefined || count > activationsMax) {
      return { kind: "fault", fault: "guest-trap", message: "enough" };
    }
    const drainedHash = createHash("sha256").update(drained).digest().readUInt32LE();
    return { kind: "ok", drained, drainedHash, guestMs: 1, image: undefined };
  });
}

/** Of tenants: one that forges, and another. */
async function living(world: World): Promise<readonly [TenantHost, TenantHost]> {
  const host = world.startHost();
  await world.runUntil(() => host.isReady, world.nowMs + 120_000);
  if (host.host === undefined) throw new Error("the host is ready");
  return [host.host.tenant("forging"), host.host.tenant("other")];
}

test("whatever a guest answers, its partition goes on and others are served", async () => {
  const property = fc.asyncProperty(fc.array(answers, { minLength: 1, maxLength: 3 }), survive);
  await fc.assert(property, { numRuns: 100, endOnFailure: true });
}, 240_000);

async function survive(said: readonly Uint8Array[]): Promise<void> {
  vi.restoreAllMocks();
  forging(said);
  // The forger's memory has no images.
  const limits = { imageAfterBytes: Number.POSITIVE_INFINITY };
  const world = new World({ seed: 5, partitions: 1, limits, storeMs: 1 });
  const during = <T>(work: Promise<T>): Promise<T> => world.finished(work, 600_000);
  let [tenant, other] = await living(world);
  await during(tenant.deploy({ kind: "javascript", code: "export {};" }));
  await during(other.deploy({ kind: "javascript", code: "export {};" }));
  await during(other.startRun({ id: "honest", workflow: "honest", args: encode([]) }));
  await during(tenant.startRun({ id: "forger", workflow: "forging", args: encode([]) }));
  const call = { type: "Forger", key: "forger", method: "count", args: encode([]), waitMs: 1000 };
  await refusedOr(() => during(tenant.callActor(call)));
  await during(world.sleep(2000));
  for (const look of looks) await refusedOr(() => during(look(tenant)));
  // What it left in the rows is read by who takes over.
  world.hosts[0]?.crash();
  [tenant, other] = await living(world);
  for (const look of looks) await refusedOr(() => during(look(tenant)));
  await during(other.signalRun("honest", "go", encode(1)));
  const { outcome } = (await during(other.output("honest", { waitMs: 30_000 }))) as {
    outcome?: unknown;
  };
  expect(outcome).toEqual({ kind: "ok", value: encode("done") });
  expect(world.laws.violations).toEqual([]);
}

const looks: readonly ((tenant: TenantHost) => Promise<unknown>)[] = [
  (tenant) => tenant.getRun("forger"),
  (tenant) => tenant.history("forger"),
  (tenant) => tenant.steps("forger"),
  (tenant) => tenant.openEvents("forger"),
  (tenant) => tenant.listRuns({}),
  (tenant) => tenant.signalRun("forger", "go", encode(1)),
  (tenant) => tenant.getActor("Forger", "forger"),
  (tenant) => tenant.actorHistory("Forger", "forger"),
];

/** A refusal with a code is an answer; a fault of ours isn't. */
async function refusedOr(work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const isRefusal = error instanceof SporeError && error.kind !== "internal";
    if (!isRefusal) throw error;
    expect(error.kind).not.toBe("corrupt");
  }
}

test("what isn't of the protocol fails its run by name", () => {
  const wrong = [
    [
      encode({
        state: "waiting",
        commands: [{ kind: "timer", id: 1, atMs: Number.NaN }],
        records: [],
      }),
      "timer.atMs",
    ],
    [
      encode({
        state: "waiting",
        commands: [{ kind: "timer", id: 0xffff_fffc, atMs: 1 }],
        records: [],
      }),
      "timer.id",
    ],
    [
      encode({ state: "waiting", commands: [{ kind: "toString" }], records: [] }),
      "a command of no kind",
    ],
    [encode({ state: "waiting", commands: [], records: [1] }), "records"],
    [encode([]), "no map"],
    [Uint8Array.of(0xff), "can't be read"],
  ] as const;
  for (const [drained, why] of wrong) {
    const [command] = decodeDrained(drained).commands;
    if (command?.kind !== "complete" || command.outcome.kind !== "error") throw new Error(why);
    expect(command.outcome.error).toMatchObject({ code: "guest-output", class: "host" });
    expect(command.outcome.error.message).toContain(why);
  }
});

test.each(["进度", "straße €", "💥", "a~b"])("a value is published as %s", async (name) => {
  const world = new World({ seed: 5, partitions: 1, limits: {}, storeMs: 1 });
  const during = <T>(work: Promise<T>): Promise<T> => world.finished(work, 600_000);
  let [, tenant] = await living(world);
  await during(tenant.deploy({ kind: "javascript", code: "export {};" }));
  await during(tenant.startRun({ id: "telling", workflow: "telling", args: encode([name]) }));
  for (const isAfterCrash of [false, true]) {
    if (isAfterCrash) {
      world.hosts[0]?.crash();
      [, tenant] = await living(world);
    }
    const { value } = (await during(tenant.published("telling", name, { waitMs: 5000 }))) as {
      value?: unknown;
    };
    expect(value).toEqual(encode("told"));
  }
  expect(world.laws.violations).toEqual([]);
});
