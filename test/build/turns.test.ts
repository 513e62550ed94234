/** Turns in QuickJS: that a message knows who awaits it rests on details of its promises. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import type { Command, Drained, Input, TurnInput } from "../../guest/protocol.ts";
import { build } from "../../host/build.ts";
import { createThreadSandbox } from "../../host/sandbox/threads.ts";
import type { Sandbox } from "../../runtime/ports.ts";
import { resolved, runInfo } from "../guest/host.ts";

let outDir = "";
let sandbox: Sandbox;
let component = "";

beforeAll(async () => {
  outDir = await mkdtemp(join(tmpdir(), "spore-turns-"));
  sandbox = await createThreadSandbox({ threads: 1 });
  const { prepared } = await build({
    entry: "test/guests/turns.ts",
    cwd: fileURLToPath(new URL("../..", import.meta.url)),
    outDir,
    prepare: sandbox.prepare.bind(sandbox),
  });
  component = prepared.id;
}, 60_000);

afterAll(async () => {
  await sandbox.close();
  await rm(outDir, { recursive: true });
});

/** Delivers one activation after the other to a machine of its own. */
function machineOf(name: string): (...inputs: Input[]) => Promise<Drained> {
  let version = 0;
  return async (...inputs) => {
    const result = await sandbox.activate({
      component,
      machine: name,
      from: version === 0 ? { kind: "pristine" } : { kind: "resident", version },
      activation: encode({ nowMs: 1000, stepsMax: 100, inputs }),
      after: "keep",
      imageAfterMs: 1_000_000,
    });
    if (result.kind !== "ok") throw new Error(JSON.stringify(result));
    version += 1;
    return decode(result.drained) as Drained;
  };
}

function turn(method: string, args: readonly unknown[], more: Partial<TurnInput> = {}): TurnInput {
  return {
    kind: "turn",
    run: runInfo("Speaker"),
    actor: { type: "Speaker", key: "k" },
    method,
    args: encode(args),
    id: "outer",
    readonly: false,
    ...more,
  };
}

const silent = encode({ log: [] });

function kinds(drained: Drained): string {
  return drained.commands.map(({ kind }) => kind).join(" ");
}

function idOf(drained: Drained, kind: Command["kind"]): number {
  const found = drained.commands.find((command) => command.kind === kind);
  if (found === undefined || !("id" in found) || typeof found.id !== "number") {
    throw new Error(`no ${kind} among ${kinds(drained)}`);
  }
  return found.id;
}

test.each([
  ["well", "state call remind reply turned"],
  ["badly", "reply turned"],
])(
  "a message that nobody awaits waits for the end of a turn that goes %s",
  async (how, end) => {
    const deliver = machineOf(`speak ${how}`);
    const first = await deliver(turn("speak", [how], { state: silent }));
    expect(first.commands).toMatchObject([{ kind: "call", actor: { key: "awaited" } }]);
    const second = await deliver(resolved(idOf(first, "call")));
    expect(kinds(second)).toBe("timer");
    const third = await deliver(resolved(idOf(second, "timer")));
    expect(kinds(third)).toBe(end);
    expect(third.state).toBe("done");
  },
  60_000,
);

test("a call within a turn runs on the same object", async () => {
  const deliver = machineOf("nested");
  const first = await deliver(turn("speak", ["well"], { state: silent }));
  const nested = turn("within", ["hi"], { id: "inner", caller: "Listener/awaited" });
  const second = await deliver(nested);
  const reply = second.commands.find(({ kind }) => kind === "reply");
  expect(reply).toMatchObject({
    id: "inner",
    outcome: { kind: "ok", value: encode("hi for Listener/awaited") },
  });
  const third = await deliver(resolved(idOf(first, "call")));
  const fourth = await deliver(resolved(idOf(third, "timer")));
  const state = fourth.commands.find(({ kind }) => kind === "state");
  expect(state).toEqual({ kind: "state", value: encode({ log: ["hi", "spoke"] }) });
}, 60_000);

test("an upgrade gives its state", async () => {
  const drained = await machineOf("upgrade")(turn("", [], { state: encode({ text: "a b" }) }));
  expect(kinds(drained)).toBe("state reply turned");
  expect(drained.commands[0]).toEqual({ kind: "state", value: encode({ log: ["a", "b"] }) });
}, 60_000);
