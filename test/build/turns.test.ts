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

test("turns that run ahead do what they do one by one, each with the state before it", async () => {
  const words = ["one", "two", "three"];
  const activationOf = (word: string, state: Uint8Array): Uint8Array => {
    const input = turn("within", [word], { id: word, state });
    return encode({ nowMs: 1000, stepsMax: 100, inputs: [input] });
  };
  const once = { component, after: "keep", imageAfterMs: 1_000_000 } as const;
  const pristine = { kind: "pristine" } as const;
  const [first = "", ...others] = words;
  const machine = "chain";
  const running = [
    sandbox.activate({ ...once, machine, from: pristine, activation: activationOf(first, silent) }),
    ...others.map((word) =>
      sandbox.activate({
        ...once,
        machine: "chain+",
        after: "discard",
        from: { kind: "ahead", behind: machine },
        activation: activationOf(word, silent),
      }),
    ),
  ];
  let state = silent;
  for (const [index, result] of (await Promise.all(running)).entries()) {
    const activation = activationOf(words[index] ?? "", state);
    const alone = await sandbox.activate({ ...once, machine: "alone", from: pristine, activation });
    if (result.kind !== "ok" || alone.kind !== "ok") throw new Error(result.kind);
    expect(result.drained).toEqual(alone.drained);
    if (index > 0) expect(result.activation).toEqual(activation);
    const { commands } = decode(result.drained) as Drained;
    for (const command of commands) if (command.kind === "state") state = command.value;
  }
  expect(decode(state)).toEqual({ log: words });
}, 60_000);

test("nothing runs ahead of a turn that waits, or of one that nobody knows", async () => {
  const once = { component, imageAfterMs: 1_000_000 } as const;
  const waiting = turn("speak", ["well"], { state: silent });
  const ahead = (behind: string): Parameters<Sandbox["activate"]>[0] => ({
    ...once,
    machine: `${behind}+`,
    from: { kind: "ahead", behind },
    after: "discard",
    activation: encode({
      nowMs: 1000,
      stepsMax: 100,
      inputs: [turn("within", ["x"], { state: silent })],
    }),
  });
  const running = [
    sandbox.activate({
      ...once,
      machine: "long",
      from: { kind: "pristine" },
      after: "keep",
      activation: encode({ nowMs: 1000, stepsMax: 100, inputs: [waiting] }),
    }),
    sandbox.activate(ahead("long")),
    sandbox.activate(ahead("nobody")),
  ];
  expect((await Promise.all(running)).map(({ kind }) => kind)).toEqual(["ok", "absent", "absent"]);
}, 60_000);
