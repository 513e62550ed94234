/** The build with the real compiler, and the guest's globals inside QuickJS. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import type { Activation, Drained, RunInfo } from "../../guest/protocol.ts";
import { build, bundleMapper } from "../../host/build.ts";
import { createThreadSandbox } from "../../host/sandbox/threads.ts";
import { SporeError } from "../../runtime/errors.ts";
import type { PreparedComponent, Sandbox } from "../../runtime/ports.ts";

let cwd = "";
let sandbox: Sandbox;

beforeAll(async () => {
  cwd = await mkdtemp(join(tmpdir(), "spore-quickjs-"));
  sandbox = await createThreadSandbox({ threads: 1 });
}, 60_000);

afterAll(async () => {
  await sandbox.close();
  await rm(cwd, { recursive: true });
});

async function built(source: string): Promise<PreparedComponent> {
  await writeFile(join(cwd, "index.ts"), source);
  const options = { entry: "index.ts", cwd, prepare: sandbox.prepare.bind(sandbox) };
  return (await build(options)).prepared;
}

async function failureOf(source: string): Promise<SporeError> {
  const error: unknown = await built(source).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof SporeError)) throw new Error(`expected a SporeError, got ${error}`);
  expect(error.code).toBe("build-failed");
  return error;
}

let runs = 0;

/** Runs the workflow "probe" in pristine memory until it is quiet. */
async function probe(component: PreparedComponent, nowMs = 1_700_000_000_000): Promise<Drained> {
  runs += 1;
  const run: RunInfo = {
    runId: "run",
    tenant: "default",
    name: "probe",
    component: component.id,
    attempt: 1,
    startedAtMs: nowMs,
    seed: new Uint8Array(16).fill(7),
  };
  const activation: Activation = {
    nowMs,
    stepsMax: 10,
    inputs: [{ kind: "start", run, args: encode([]) }],
  };
  const result = await sandbox.activate({
    component: component.id,
    machine: `probe ${runs}`,
    from: { kind: "pristine" },
    activation: encode(activation),
    after: "keep",
    imageAfterMs: 1_000_000,
  });
  if (result.kind !== "ok") throw new Error(JSON.stringify(result));
  return decode(result.drained) as Drained;
}

function completedValue(drained: Drained): unknown {
  const command = drained.commands.find(({ kind }) => kind === "complete");
  if (command?.kind !== "complete") throw new Error(`not complete: ${drained.waitingFor}`);
  if (command.outcome.kind !== "ok") throw new Error(JSON.stringify(command.outcome.error));
  return decode(command.outcome.value);
}

describe("in QuickJS", () => {
  test("the globals are there while modules load, and deterministic in a run", async () => {
    const component = await built(`
      import { workflow } from "sporeflow/guest";
      const early = [Date.now(), typeof fetch, new URL("../b", "https://ü.example/a/").href];
      export const probe = workflow("probe", async () => {
        const text = await new Response("grün").text();
        console.log("seen %s", text, { depth: [1] });
        return {
          early, text, now: Date.now(), year: new Date().getUTCFullYear(),
          date: new Date(2020, 0, 2).toISOString(), uuid: crypto.randomUUID(),
          random: Math.random(), at: performance.now(),
          utf8: [...new TextEncoder().encode("é😀")],
          clone: structuredClone(new Map([["k", new Date(5)]])).get("k").getTime(),
          names: [URL.name, Response.name, fetch.name],
        };
      });`);
    const first = await probe(component);
    const value = completedValue(first) as Record<string, unknown>;
    expect(value).toMatchObject({
      early: [0, "function", "https://xn--tda.example/b"],
      text: "grün",
      now: 1_700_000_000_000,
      at: 1_700_000_000_000,
      year: 2023,
      date: "2020-01-02T00:00:00.000Z",
      utf8: [0xc3, 0xa9, 0xf0, 0x9f, 0x98, 0x80],
      clone: 5,
      names: ["URL", "Response", "fetch"],
    });
    const log = first.commands.find(({ kind }) => kind === "log");
    expect(log).toMatchObject({ level: "info", message: "seen grün { depth: [ 1 ] }" });
    expect(completedValue(await probe(component))).toEqual(value);
  }, 60_000);

  test("a fetch is a command, and a timeout a timer", async () => {
    const component = await built(`
      import { workflow } from "sporeflow/guest";
      export const probe = workflow("probe", () => Promise.race([
        fetch("https://example.com/x", { method: "PUT", body: "text" }),
        new Promise((resolve) => setTimeout(resolve, 50)),
      ]));`);
    const { commands } = await probe(component, 1_000);
    expect(commands).toMatchObject([
      { kind: "fetch", request: { method: "PUT", url: "https://example.com/x" } },
      { kind: "timer", atMs: 1_050 },
    ]);
  }, 60_000);

  test("an error at the top level is the author's line", async () => {
    const error = await failureOf(
      'import { step } from "sporeflow/guest";\nstep("one", () => 1);\n\nthrow new TypeError("no");\n',
    );
    expect(error.message).toMatch(/^index\.ts:4:\d+: \w*Error: no\n {2}4 \| throw new TypeError/);
  }, 60_000);

  test("a global that only Node has is named with what to use instead", async () => {
    const error = await failureOf('export const home = process.env["HOME"];\n');
    expect(error.message).toMatch(/^index\.ts:1:\d+: .*process/);
    expect(error.hint).toMatch(/no process: pass settings/);
  }, 60_000);

  test("the stack of an error in a run leads to the author's lines", async () => {
    const component = await built(`import { workflow } from "sporeflow/guest";
function inner(): never {
  throw new RangeError("deep");
}
export const probe = workflow("probe", async () => inner());
`);
    const { commands } = await probe(component);
    const end = commands.find(({ kind }) => kind === "complete");
    const stack =
      end?.kind === "complete" && end.outcome.kind === "error" && end.outcome.error.stack;
    const map = await readFile(join(cwd, ".spore", "bundle.js.map"), "utf8");
    const mapper = bundleMapper(map, { cwd, outDir: join(cwd, ".spore") });
    const lines = mapper.positions(String(stack)).filter(({ file }) => file === "index.ts");
    // The workflow's twice: as what called, and as what the error came out of.
    expect(lines.map(({ line }) => line)).toEqual([3, 5, 5]);
  }, 60_000);

  test("a name that is defined twice is the second definition's line", async () => {
    const error = await failureOf(`import { step } from "sporeflow/guest";
export const one = step("one", () => 1);
export const other = step("one", () => 2);
`);
    expect(error.message).toMatch(/^index\.ts:3:\d+: \w*Error: .*"one" is defined twice/);
    expect(error.message).toContain('3 | export const other = step("one", () => 2);');
  }, 60_000);

  test("a module that defines nothing is refused", async () => {
    const error = await failureOf('import "sporeflow/guest";\n');
    expect(error.message).toMatch(/^nothing is defined/);
  }, 60_000);

  test("the tour's definitions are all there", async () => {
    const { prepared } = await build({
      entry: "examples/tour/index.ts",
      cwd: new URL("../..", import.meta.url).pathname,
      outDir: join(cwd, "tour"),
      prepare: sandbox.prepare.bind(sandbox),
    });
    const names = prepared.manifest.definitions.map(({ kind, name }) => `${kind} ${name}`);
    expect(names).toEqual(expect.arrayContaining(["step fib", "workflow order", "actor Counter"]));
    const counter = prepared.manifest.definitions.find(({ name }) => name === "Counter");
    expect(counter?.methods).toEqual([
      { name: "incr", readonly: false },
      { name: "value", readonly: true },
    ]);
  }, 60_000);
});
