/**
 * Large results: written once, as objects, and there wherever somebody looks for them. The
 * engine is the real one, in a world without faults (test/sim).
 */
import { createHash } from "node:crypto";
import { beforeEach, expect, test } from "vitest";
import { currentMachine } from "../../guest/activation.ts";
import { decode, encode } from "../../guest/cbor.ts";
import { actor, get, publish, put, Ref, signal, step, workflow } from "../../guest/index.ts";
import type { Outcome } from "../../guest/protocol.ts";
import type { TenantHost } from "../../runtime/index.ts";
import { World } from "../sim/world.ts";

const size = 400_000;
const largeStep = step("largeStep", (letter: string) => letter.repeat(size));
const largeOutput = workflow("largeOutput", async (letter: string) => largeStep(letter));

workflow("largeParent", async () => {
  const [first, second] = await Promise.all([largeOutput("a"), largeOutput("a")]);
  return [first.length, second === first];
});

workflow("largeRead", async (times: number) => {
  const ref = await put("r".repeat(size));
  let sum = 0;
  for (let n = 0; n < times; n++) sum += (await get(ref)).length;
  return sum;
});

const count = 1_200_000;
const numbers = step("numbers", () => Float64Array.from({ length: count }, (_, n) => n / 2));

workflow("largeNumbers", async () => {
  const array = await numbers();
  publish("ref", await put(array));
  await signal("go");
  return array;
});

workflow("largeNumbersOfChild", async () => {
  const array = (await childOf()) as Float64Array;
  return [array.length, array[count - 1]];
});
const childOf = workflow("largeNumbersAtOnce", async () => numbers());

workflow("largeMixed", async (ref: Ref<{ name: string; parts: Uint8Array[] }>) => {
  const parts = [new Uint8Array(5_000_000).fill(1), new Uint8Array(3_000_000).fill(2)];
  const own = await get(await put({ name: "x", parts }));
  const other = await get(ref);
  return [own, other].map(({ name, parts: [a, b] }) => [name, a?.[4_999_999], b?.length]);
});

/** What a guest could ask for that doesn't use the SDK. */
workflow("forged", async (pieces: string[], size: number) => {
  await currentMachine().command((id) => ({ kind: "assemble", id, pieces, size }));
});

actor(
  "Large",
  class {
    read(letter: string): string {
      return letter.repeat(size);
    }
  },
);

let world: World;
let tenant: TenantHost;

beforeEach(async () => {
  world = new World({ seed: 3, partitions: 2, limits: {}, storeMs: 1 });
  const host = world.startHost();
  await world.runUntil(() => host.isReady, 60_000);
  if (host.host === undefined) throw new Error("the host is ready");
  tenant = host.host.tenant("t");
  await during(tenant.deploy({ kind: "javascript", code: "export {};" }));
});

function during<T>(work: Promise<T>): Promise<T> {
  return world.finished(work, 600_000);
}

async function outputOf(id: string, name: string, args: unknown[]): Promise<unknown> {
  const request = { id, workflow: name, args: encode(args), waitMs: 60_000 };
  const { outcome } = await during(tenant.startRun(request));
  return decoded(outcome);
}

function decoded(outcome: Outcome | undefined): unknown {
  if (outcome?.kind !== "ok") throw new Error(`it ends well, not ${JSON.stringify(outcome)}`);
  return decode(outcome.value);
}

/** Bytes of all that was ever written to the logs, and of the objects. */
function written(): { readonly log: number; readonly objects: number; readonly count: number } {
  const sizes = [...world.bucket.objects].filter(([key]) => key.startsWith("objects/"));
  const objects = sizes.reduce((sum, [, bytes]) => sum + bytes.length, 0);
  return { log: world.counts.get("commit bytes") ?? 0, objects, count: sizes.length };
}

test("a large output is one object, and is whole in output, steps and history", async () => {
  const wanted = "x".repeat(size);
  expect(await outputOf("a", "largeOutput", ["x"])).toBe(wanted);
  const output = await during(tenant.output("a"));
  expect(decoded(output.kind === "ready" ? output.outcome : undefined)).toBe(wanted);
  const [shown] = await during(tenant.steps("a"));
  expect(shown?.value && decode(shown.value)).toBe(wanted);
  const events = await during(tenant.history("a"));
  const succeeded = events.find(({ type }) => type === "run.succeeded");
  expect(decode(succeeded?.data.output as Uint8Array)).toBe(wanted);
  const { log, objects, count } = written();
  expect([count, objects]).toEqual([1, encode(wanted).length]);
  expect(log).toBeLessThan(size / 4);
});

test("a run that waits for large outputs gets them, and no log has them", async () => {
  expect(await outputOf("p", "largeParent", [])).toEqual([size, true]);
  expect(written().count).toBe(1);
  expect(written().log).toBeLessThan(size / 4);
});

test("a value that is read many times is written once", async () => {
  expect(await outputOf("r", "largeRead", [20])).toBe(20 * size);
  // The put itself is a row until it is done.
  expect(written().log).toBeLessThan(2 * size);
  expect(written().count).toBe(1);
});

test("a method's large answer is there for who asks again by its id", async () => {
  const call = { type: "Large", key: "a", method: "read", args: encode(["m"]), callId: "once" };
  for (let n = 0; n < 2; n += 1) {
    const result = await during(tenant.callActor(call));
    expect(decoded(result.kind === "done" ? result.outcome : undefined)).toBe("m".repeat(size));
  }
  const again = await during(tenant.callResult("Large", "a", "once"));
  expect(decoded(again.kind === "done" ? again.outcome : undefined)).toBe("m".repeat(size));
});

test("a run that is run again takes a large result of its step", async () => {
  await outputOf("first", "largeOutput", ["y"]);
  await during(tenant.rerunRun("first", { id: "again", reuse: true }));
  const output = await during(tenant.output("again", { waitMs: 60_000 }));
  expect(decoded(output.kind === "ready" ? output.outcome : undefined)).toBe("y".repeat(size));
  expect((await during(tenant.steps("again")))[0]?.reused).toBe(true);
});

test("numbers larger than a piece are one object under the hash of their encoding, in no log", async () => {
  const array = Float64Array.from({ length: count }, (_, n) => n / 2);
  const request = { id: "n", workflow: "largeNumbers", args: encode([]) };
  await during(tenant.startRun(request));
  const published = await during(tenant.published("n", "ref", { waitMs: 60_000 }));
  const ref = decode(published.kind === "ready" ? published.value : encode(null)) as Ref;
  const value = encode(array);
  expect(ref).toEqual(new Ref(createHash("sha256").update(value).digest("hex"), value.length));
  expect(await during(tenant.objectBytes(ref.hash))).toEqual({
    length: 8 * count,
    type: "Float64Array",
  });
  const part = await during(tenant.getObjectPart(ref.hash, { offset: 80, length: 8 }));
  expect(new Float64Array(part.slice().buffer)[0]).toBe(5);
  // The step's value is the same object; besides it there are its three pieces.
  expect(written().count).toBe(4);
  expect(written().log).toBeLessThan(value.length / 20);
  const [shown] = await during(tenant.steps("n"));
  expect(shown?.value && decode(shown.value)).toEqual(ref);

  await during(tenant.signalRun("n", "go", encode(undefined)));
  const output = await during(tenant.output("n", { waitMs: 60_000 }));
  expect(output).toMatchObject({ kind: "ready", isStored: true });
  expect(decoded(output.kind === "ready" ? output.outcome : undefined)).toEqual(ref);
});

test("a parent reads its child's large output in pieces", async () => {
  expect(await outputOf("p", "largeNumbersOfChild", [])).toEqual([count, (count - 1) / 2]);
  expect(written().log).toBeLessThan(500_000);
});

test("what isn't one array goes in pieces as well", async () => {
  const value = { name: "y", parts: [new Uint8Array(5_000_000).fill(3), new Uint8Array(7)] };
  const { hash, size: bytes } = await during(tenant.putObject(encode(value)));
  expect(await outputOf("m", "largeMixed", [new Ref(hash, bytes)])).toEqual([
    ["x", 1, 3_000_000],
    ["y", 3, 7],
  ]);
});

test("pieces that were none, aren't there or are too many are refused", async () => {
  const stored = await during(tenant.putObject(encode("no piece")));
  const absent = "0".repeat(64);
  const cases: [string[], number, string][] = [
    [[stored.hash], 8, "invalid-request"],
    [[absent], 8, "object-not-found"],
    [Array.from({ length: 257 }, () => absent), 8, "invalid-request"],
    [[], -1, "invalid-request"],
    [[], 2 ** 40, "value-too-large"],
  ];
  for (const [index, [pieces, total, code]] of cases.entries()) {
    const args = encode([pieces, total]);
    const request = { id: `f${index}`, workflow: "forged", args, waitMs: 60_000 };
    const { outcome } = await during(tenant.startRun(request));
    expect(outcome).toMatchObject({ kind: "error", error: { code } });
  }
});

test("a host that has nothing else to do knows when an upload is to be let go", async () => {
  const timesOf = (): (number | undefined)[] =>
    world.liveHosts.flatMap(
      ({ host }) => host?.status().partitions.map((each) => each.nextTimerAtMs) ?? [],
    );
  expect(timesOf()).toEqual([undefined, undefined]);
  const { expiresAtMs } = await during(tenant.putObject(encode("kept for a day")));
  const times = timesOf().filter((atMs) => atMs !== undefined);
  expect(times).toHaveLength(1);
  expect(times[0]).toBeLessThanOrEqual(expiresAtMs);
});
