import { expect, test } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import { get, put, Ref, step, workflow } from "../../guest/index.ts";
import { type Command, pieceBytesMax } from "../../guest/protocol.ts";
import { TestHost } from "./host.ts";

const size = 2 * pieceBytesMax + 5;
const made = step("made", (length: number) => new Uint8Array(length).fill(7));

workflow("putTwo", async () => {
  const refs = await Promise.all([
    put(new Uint8Array(size).fill(1)),
    put(new Uint8Array(size).fill(2)),
  ]);
  return refs.map(({ size: each }) => each);
});
workflow("getTwo", async (ref: Ref<Uint8Array>) => {
  const [one, two] = await Promise.all([get(ref), get(ref)]);
  return [one.length, two.at(-1)];
});
workflow("madeLarge", async () => (await made(size)).length);
workflow("tooLarge", async () => put(new Array(5).fill(new Uint8Array(60 * 1024 * 1024))));

/** Answers what is asked as a host does, until nothing is; gives the commands in their order. */
async function served(host: TestHost, answer: (command: Command) => unknown): Promise<Command[]> {
  const seen: Command[] = [];
  for (let { commands } = host.drained; commands.length > 0; commands = host.drained.commands) {
    const bytes = encode(host.drained).length;
    expect(bytes).toBeLessThan(pieceBytesMax + 2048);
    seen.push(...commands);
    const asked = commands.filter((command) => "id" in command && command.kind !== "drop");
    if (asked.length === 0) return seen;
    await host.deliver(
      ...asked.map((command) => ({
        kind: "resolve" as const,
        id: (command as { id: number }).id,
        outcome: { kind: "ok" as const, value: encode(answer(command)) },
      })),
    );
  }
  return seen;
}

test("a large value leaves a piece at a time, however many are put at once", async () => {
  const host = new TestHost();
  await host.start("putTwo");
  let next = 0;
  const seen = await served(host, (command) => {
    next += 1;
    return { hash: `h${next}`, size: command.kind === "assemble" ? command.size : 1 };
  });
  const kinds = seen.map(({ kind }) => kind);
  expect(kinds).toEqual([...kinds.slice(0, 4), ...kinds.slice(0, 4), "complete"]);
  expect(kinds.slice(0, 4)).toEqual(["put", "put", "put", "assemble"]);
  const pieces = seen.flatMap((command) => (command.kind === "put" ? [command.value] : []));
  expect(pieces.map((piece) => piece[0])).toEqual([255, 255, 255, 255, 255, 255]);
  const whole = Buffer.concat(pieces.slice(0, 3).map((piece) => piece.subarray(1)));
  expect(decode(whole)).toEqual(new Uint8Array(size).fill(1));
  expect(seen[3]).toMatchObject({ pieces: ["h1", "h2", "h3"], size: whole.length });
});

test("a large value is asked for a piece at a time", async () => {
  const host = new TestHost();
  const encoded = encode(new Uint8Array(size).fill(9));
  await host.start("getTwo", new Ref("a".repeat(64), encoded.length));
  const seen = await served(host, (command) => {
    if (command.kind !== "get" || command.range === undefined) throw new Error(command.kind);
    expect(command.isEncoded).toBe(true);
    const { offset, length } = command.range;
    return encoded.slice(offset, offset + length);
  });
  expect(seen.map(({ kind }) => kind)).toEqual([...new Array(6).fill("get"), "complete"]);
  expect(host.drained.state).toBe("done");
});

test("a step whose value is large has succeeded when the value is stored, and is named by it", async () => {
  const host = new TestHost();
  await host.start("madeLarge");
  expect(host.records.map(({ event }) => event)).toEqual(["started"]);
  await served(host, (command) => {
    expect(host.records.map(({ event }) => event)).toEqual(["started"]);
    return { hash: "b".repeat(64), size: command.kind === "assemble" ? command.size : 1 };
  });
  const [, succeeded] = host.records;
  expect(succeeded?.event).toBe("succeeded");
  expect(Buffer.from(succeeded?.value ?? []).toString("latin1")).toContain("b".repeat(64));
});

test("more than an object may have fails before any of it leaves", async () => {
  const host = new TestHost();
  await host.start("tooLarge");
  expect(host.drained.commands).toMatchObject([
    { kind: "complete", outcome: { kind: "error", error: { code: "value-too-large" } } },
  ]);
});
