/** The tour's definitions in QuickJS, with a host of a few lines that answers at once. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import type { Command, Drained, Input, Outcome, RunInfo } from "../../guest/protocol.ts";
import { build } from "../../host/build.ts";
import { createThreadSandbox } from "../../host/sandbox/threads.ts";
import type { Sandbox } from "../../runtime/ports.ts";

let outDir = "";
let sandbox: Sandbox;
let component = "";

beforeAll(async () => {
  outDir = await mkdtemp(join(tmpdir(), "spore-tour-"));
  sandbox = await createThreadSandbox({ threads: 1 });
  const { prepared } = await build({
    entry: "examples/tour/index.ts",
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

type Answer = (command: Command) => unknown;

/** Delivers inputs to one run until it is done or nothing is answered; the memory stays. */
class Run {
  readonly seen: Command[] = [];
  readonly #machine: string;
  readonly #answer: Answer;
  #version = -1;
  #nowMs = 1_000;

  constructor(machine: string, answer: Answer = () => undefined) {
    this.#machine = machine;
    this.#answer = answer;
  }

  async start(name: string, ...args: readonly unknown[]): Promise<unknown> {
    const seed = new Uint8Array(16);
    const about = { runId: this.#machine, tenant: "default", attempt: 1, startedAtMs: 1_000 };
    const run: RunInfo = { ...about, name, component, seed };
    return this.deliver({ kind: "start", run, args: encode(args) });
  }

  /** The value of a completed run or of the reply, undefined while it waits. */
  async deliver(...first: readonly Input[]): Promise<unknown> {
    let inputs = first;
    while (inputs.length > 0) {
      const drained = await this.#activate(inputs);
      this.seen.push(...drained.commands);
      const end = drained.commands.find(({ kind }) => kind === "complete" || kind === "reply");
      if (end?.kind === "complete" || end?.kind === "reply") return endValue(end.outcome);
      inputs = drained.commands.flatMap((command) => this.#resolve(command));
      if (drained.state === "yielded") inputs = [...inputs, { kind: "continue" }];
    }
    return undefined;
  }

  #resolve(command: Command): readonly Input[] {
    if (!("id" in command) || typeof command.id !== "number") return [];
    const value = this.#answer(command);
    if (value === undefined) return [];
    return [{ kind: "resolve", id: command.id, outcome: { kind: "ok", value: encode(value) } }];
  }

  async #activate(inputs: readonly Input[]): Promise<Drained> {
    this.#nowMs += 1;
    const result = await sandbox.activate({
      component,
      machine: this.#machine,
      from: this.#version < 0 ? { kind: "pristine" } : { kind: "resident", version: this.#version },
      activation: encode({ nowMs: this.#nowMs, stepsMax: 100, inputs }),
      after: "keep",
      imageAfterMs: 1_000_000,
    });
    if (result.kind !== "ok") throw new Error(JSON.stringify(result));
    this.#version = this.#version < 0 ? 1 : this.#version + 1;
    return decode(result.drained) as Drained;
  }
}

function endValue(outcome: Outcome): unknown {
  if (outcome.kind === "ok") return decode(outcome.value);
  throw Object.assign(new Error(outcome.error.message), { name: outcome.error.name });
}

const items = [
  { name: "pen", price: 2 },
  { name: "ink", price: 5 },
];

test("an order charges once, runs its steps, waits for approval and ships", async () => {
  const run = new Run("order", (command) => {
    switch (command.kind) {
      case "fetch":
        return { status: 200, statusText: "OK", url: "", headers: [], body: new Uint8Array() };
      case "start":
        return { runId: "child", created: true };
      case "outcome":
        return { shipped: 2 };
      case "timer":
        return command.atMs < 100_000_000 ? null : undefined;
      default:
        return undefined;
    }
  });
  const order = { items, steps: 1_000, counterUrl: "https://counter.example/" };
  expect(await run.start("order", order)).toBeUndefined();
  const fetches = run.seen.filter(({ kind }) => kind === "fetch");
  expect(fetches).toMatchObject([{ request: { method: "POST", url: "https://counter.example/" } }]);
  const wait = run.seen.find(({ kind }) => kind === "wait");
  if (wait?.kind !== "wait") throw new Error("the order doesn't wait");
  expect(wait.signal).toBe("approve");
  const approved = { kind: "ok", value: encode(true) } as const;
  const value = await run.deliver({ kind: "resolve", id: wait.id, outcome: approved });
  expect(value).toEqual({ status: "shipped", receipt: { amount: 7 }, checked: 1_000, shipped: 2 });
}, 60_000);

test("an order that nobody approves in time is refused", async () => {
  const run = new Run("expired", (command) => (command.kind === "timer" ? null : undefined));
  expect(await run.start("order", { items })).toMatchObject({ status: "refused", checked: 0 });
}, 60_000);

test("a thousand loyalty points make gold, one update at a time", async () => {
  const run = new Run("loyalty");
  await run.start("loyalty", "Ada", 998);
  const add = (id: string): Promise<unknown> =>
    run.deliver({ kind: "update", id, name: "addLoyaltyPoint", args: encode([]) });
  expect(await add("a")).toBe("Thanks for being a loyal customer!");
  expect(await add("b")).toBe("Welcome to Gold Status!");
}, 60_000);
