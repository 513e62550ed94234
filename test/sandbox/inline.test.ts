import { beforeAll, describe, expect, test, vi } from "vitest";
import { baselineCodec, nodeCodec } from "../../host/sandbox/codec.ts";
import { compileJavaScript } from "../../host/sandbox/compile.ts";
import { componentIdOf } from "../../host/sandbox/component-id.ts";
import { type Engine, encodeBaseline, readBaseline } from "../../host/sandbox/engine.ts";
import { createInlineSandbox } from "../../host/sandbox/inline.ts";
import { loaderSource } from "../../host/sandbox/loader.ts";
import { machinesDefaults } from "../../host/sandbox/machines.ts";
import type { Sandbox } from "../../runtime/ports.ts";
import { testSandbox } from "../suites/sandbox.ts";
import { act, guestSource } from "./guest.ts";
import { openEngine } from "./kit.ts";

// Compiling takes seconds on a busy machine.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

let engine: Engine;
let host: Awaited<ReturnType<typeof openEngine>>["host"];
let loader: Uint8Array;

async function prepareEngine(): Promise<void> {
  if (loader !== undefined) return;
  ({ engine, host } = await openEngine());
  const baseline = readBaseline(await compileJavaScript(loaderSource), "0".repeat(64), host);
  loader = encodeBaseline(baseline, baselineCodec);
}

interface Setup {
  readonly bundled?: ReadonlyMap<string, Uint8Array>;
  readonly pause?: () => Promise<void>;
}

async function open(setup: Setup = {}): Promise<Sandbox> {
  await prepareEngine();
  return createInlineSandbox({
    engine,
    identity: host.parts,
    codec: nodeCodec,
    baselineCodec,
    loader,
    bundled: new Map(),
    limits: machinesDefaults,
    pause: () => new Promise((resolve) => setTimeout(resolve)),
    ...setup,
  });
}

testSandbox({ name: "inline", open, hasWatchdog: false });

describe("the inline sandbox", () => {
  beforeAll(prepareEngine, 60_000);

  const request = (component: string, machine: string, activation: Uint8Array) => ({
    component,
    machine,
    from: { kind: "pristine" } as const,
    activation,
    after: "keep" as const,
    imageAfterMs: Number.POSITIVE_INFINITY,
  });

  test("gives a module the id that every host gives it, and takes a compiled one", async () => {
    const sandbox = await open();
    const code = guestSource();
    const evaluated = await sandbox.prepare({ kind: "javascript", code });
    const id = componentIdOf({ kind: "javascript", code }, engine.hash, nodeCodec.digest);
    expect(evaluated.id).toBe(id);
    const bytes = await compileJavaScript(code);
    const compiled = await sandbox.prepare({ kind: "component", bytes });
    const answers = await Promise.all(
      [evaluated, compiled].map(({ id: component }) =>
        sandbox.activate(request(component, component, act("add", 7))),
      ),
    );
    const drained = answers.map((answer) => answer.kind === "ok" && [...answer.drained]);
    expect(drained).toEqual([
      [7, 1],
      [7, 1],
    ]);
  });

  test("takes a bundle's export list, with new names for what it exports", async () => {
    const sandbox = await open();
    const code = `${guestSource().replaceAll(/^export /gm, "")}\nexport {\n  deliver,\n  drain,\n  describe, sum as total\n};\n`;
    const { id } = await sandbox.prepare({ kind: "javascript", code });
    const answer = await sandbox.activate(request(id, "m", act("add", 3)));
    expect(answer.kind === "ok" && [...answer.drained]).toEqual([3, 1]);
  });

  test.each([
    ["that exports nothing", "const a = 1;", "exports nothing"],
    ["with an error of syntax", `const = 1;\nexport { deliver };`, "SyntaxError"],
    ["that throws", `throw new Error("no luck");\nexport { deliver };`, "no luck"],
    ["without deliver", `const drain = 1;\nexport { drain };`, "the module exports no deliver"],
    ["that imports", `import "./other.js";\nexport { deliver };`, "SyntaxError"],
    ["with strange exports", `export { "a b" as deliver };`, "can't read the export"],
  ])("refuses a module %s", async (_, code, message) => {
    const sandbox = await open();
    const refused = sandbox.prepare({ kind: "javascript", code });
    await expect(refused).rejects.toMatchObject({
      code: "build-failed",
      message: expect.stringContaining(message),
    });
  });

  test("evaluates nothing that was bundled", async () => {
    const code = guestSource();
    const prepared = await (await open()).prepare({ kind: "javascript", code });
    const id = componentIdOf({ kind: "javascript", code }, engine.hash, nodeCodec.digest);
    const bytes = encodeBaseline(
      readBaseline(await compileJavaScript(code), id, host),
      baselineCodec,
    );
    const sandbox = await open({ bundled: new Map([[id, bytes]]) });
    const again = await sandbox.prepare({ kind: "javascript", code });
    expect(again.id).toBe(prepared.id);
    expect(Buffer.compare(again.bytes, bytes)).toBe(0);
  });

  test("gives the event loop a turn after every 16 activations", async () => {
    let turns = 0;
    const sandbox = await open({
      pause: async () => {
        turns += 1;
      },
    });
    const { id } = await sandbox.prepare({ kind: "javascript", code: guestSource() });
    for (let index = 0; index < 64; index++) {
      await sandbox.activate(request(id, `m${index}`, act("add", 1)));
    }
    expect(turns).toBe(3);
  });
});
