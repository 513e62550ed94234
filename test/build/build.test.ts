/** The build without the compiler: bundling, its errors, what is kept, watching. */
import { mkdir, mkdtemp, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Definition } from "../../guest/protocol.ts";
import { mapOfComponent } from "../../host/attached-map.ts";
import { type BuildOptions, type BuildResult, build, watch } from "../../host/build.ts";
import { SporeError } from "../../runtime/errors.ts";
import type { ComponentSource, PreparedComponent } from "../../runtime/ports.ts";

let cwd = "";

beforeEach(async () => {
  cwd = await mkdtemp(join(tmpdir(), "spore-build-"));
});

afterEach(() => rm(cwd, { recursive: true }));

async function write(files: Readonly<Record<string, string>>): Promise<void> {
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(cwd, name)), { recursive: true });
    await writeFile(join(cwd, name), text);
  }
}

interface Compiler {
  readonly codes: string[];
  readonly options: BuildOptions;
}

/** Stands for the sandbox: takes any bundle, or fails with the given message. */
function compiler(answer: { definitions?: Definition[]; failure?: string } = {}): Compiler {
  const codes: string[] = [];
  const prepare = async (source: ComponentSource): Promise<PreparedComponent> => {
    if (source.kind !== "javascript") throw new Error("expected JavaScript");
    codes.push(source.code);
    if (answer.failure !== undefined) throw new SporeError("build-failed", answer.failure);
    const definitions = answer.definitions ?? [{ kind: "step", name: "one" }];
    const manifest = { protocol: 1, definitions };
    return { id: `id${codes.length}`, bytes: new Uint8Array([1, 2, 3]), manifest };
  };
  return { codes, options: { entry: "src/index.ts", cwd, prepare } };
}

async function failureOf(running: Promise<unknown>): Promise<SporeError> {
  const error: unknown = await running.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof SporeError)) throw new Error(`expected a SporeError, got ${error}`);
  expect(error.code).toBe("build-failed");
  return error;
}

const oneStep =
  'import { step } from "sporeflow/guest";\nexport const one = step("one", () => 1);\n';

describe("a bundle", () => {
  test("has the SDK once, before the user's modules, and npm packages in it", async () => {
    await write({
      "src/index.ts": `import { helper } from "helper";\n${oneStep}export const h = helper;\n`,
      "node_modules/helper/package.json": '{"name":"helper","main":"index.js"}',
      "node_modules/helper/index.js": `import { step } from "sporeflow/guest";
export const helper = step("helped", () => "helped-by-package");`,
    });
    const { codes, options } = compiler();
    const result = await build(options);
    const code = codes[0] ?? "";
    expect(result.code).toBe(code);
    expect(code.split("function installGlobals").length).toBe(2);
    expect(code.indexOf("installGlobals(kernel)")).toBeLessThan(code.indexOf("helped-by-package"));
    expect(code).toMatch(/export \{[^}]*\bdeliver\b[^}]*\}/s);
    expect(code).not.toMatch(/^import /m);
    expect(JSON.parse(result.map).sources).toContain("../src/index.ts");
  });

  test("keeps definitions of a package that claims to have no side effects", async () => {
    await write({
      "package.json": '{"name":"mine","sideEffects":false}',
      "src/index.ts": 'export * from "./orders.ts";',
      "src/orders.ts": oneStep.replaceAll("one", "kept"),
    });
    const { codes, options } = compiler();
    await build(options);
    expect(codes[0]).toContain('"kept"');
  });

  test("is written beside its map and manifest", async () => {
    await write({ "src/index.ts": oneStep });
    const { options } = compiler();
    const result = await build({ ...options, outDir: "out" });
    const read = (name: string): Promise<Buffer> => readFile(join(cwd, "out", name));
    expect([...(await read("component.bin"))]).toEqual([1, 2, 3]);
    expect(JSON.parse(String(await read("manifest.json")))).toEqual(result.prepared.manifest);
    expect(String(await read("bundle.js"))).toBe(result.code);
    expect(String(await read("bundle.js.map"))).toBe(result.map);
  });
});

describe("an unchanged project", () => {
  test("is not built again", async () => {
    await write({ "src/index.ts": oneStep });
    const { codes, options } = compiler();
    const first = await build(options);
    const again = await build(options);
    expect(codes).toHaveLength(1);
    expect([first.isUnchanged, again.isUnchanged]).toEqual([false, true]);
    expect(again.prepared).toEqual(first.prepared);
    expect(again.code).toBe(first.code);
  });

  test("is one whose files were touched but not changed", async () => {
    await write({ "src/index.ts": oneStep });
    const { codes, options } = compiler();
    await build(options);
    await utimes(join(cwd, "src/index.ts"), 1, 1);
    expect((await build(options)).isUnchanged).toBe(true);
    expect(codes).toHaveLength(1);
  });

  test.each([
    ["the entry", { "src/index.ts": `${oneStep}export const more = 1;\n` }],
    ["an imported file", { "src/other.ts": "export const other = 2;" }],
    ["a package.json that was not there", { "src/dep/package.json": '{"main":"b.js"}' }],
    [
      "a tsconfig.json",
      {
        "tsconfig.json":
          '{"compilerOptions":{"experimentalDecorators":true,"useDefineForClassFields":false}}',
      },
    ],
    ["an output", { ".spore/bundle.js": "spoilt" }],
    ["the record of the build", { ".spore/build.json": '{"entry":' }],
  ])("is built again after a change of %s", async (_title, change) => {
    await write({
      "src/index.ts": `export * from "./other.ts";\nexport * from "./dep";\n${oneStep}`,
      "src/other.ts": "export const other = 1; export class Kept { field = 1; }",
      "src/dep/index.js": "export const dep = 1;",
      "src/dep/b.js": "export const dep = 2;",
    });
    const { codes, options } = compiler();
    await build(options);
    await write(change);
    expect((await build(options)).isUnchanged).toBe(false);
    expect(codes).toHaveLength(2);
    expect((await build(options)).isUnchanged).toBe(true);
  });

  test("keeps its component, with another map, if only a comment changed", async () => {
    await write({ "src/index.ts": oneStep });
    const { codes, options } = compiler();
    const first = await build(options);
    await write({ "src/index.ts": `// A comment.\n${oneStep}` });
    const second = await build(options);
    expect(codes).toHaveLength(1);
    expect(second.prepared).toEqual(first.prepared);
    expect(second.map).not.toBe(first.map);
    expect((await build(options)).map).toBe(second.map);
  });

  test("has its component with the source map of the last build in it", async () => {
    await write({ "src/index.ts": oneStep });
    const { codes, options } = compiler();
    const header = [0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0];
    const prepare: BuildOptions["prepare"] = async (source) => ({
      ...(await options.prepare(source)),
      component: new Uint8Array(header),
    });
    const file = (): Promise<Buffer> => readFile(join(cwd, ".spore/component.wasm"));
    const mapIn = (bytes: Uint8Array) => JSON.parse(mapOfComponent(bytes) ?? "null");
    const first = await build({ ...options, prepare, needsComponent: true });
    expect([...(await file()).subarray(0, 8)]).toEqual(header);
    expect(first.prepared.component).toEqual(new Uint8Array(await file()));
    expect(mapIn(await file()).sources).toContain("src/index.ts");
    expect(mapIn(await file()).sources).toContain("sporeflow:guest/cbor.ts");
    await write({ "src/index.ts": `// A comment.\n${oneStep}` });
    const second = await build({ ...options, prepare, needsComponent: true });
    expect(codes).toHaveLength(1);
    expect(mapIn(await file()).sourcesContent.join()).toContain("// A comment.");
    const again = await build({ ...options, prepare, needsComponent: true });
    expect(again.prepared).toEqual(second.prepared);
  });

  test("is compiled again where a component is needed and the last build has none", async () => {
    await write({ "src/index.ts": oneStep });
    const { codes, options } = compiler();
    const component = Uint8Array.of(0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0);
    const withComponent: BuildOptions["prepare"] = async (source) => ({
      ...(await options.prepare(source)),
      component,
    });
    await build({ ...options, prepare: withComponent });
    // A sandbox that knows the code has no component to give: no old one may stay.
    await write({ "src/index.ts": oneStep.replaceAll("one", "two") });
    await build(options);
    await expect(readFile(join(cwd, ".spore/component.wasm"))).rejects.toThrow("ENOENT");
    expect((await build(options)).isUnchanged).toBe(true);
    const needed = { ...options, prepare: withComponent, needsComponent: true };
    expect((await build(needed)).isUnchanged).toBe(false);
    expect((await build(needed)).isUnchanged).toBe(true);
    expect(codes).toHaveLength(3);
    await write({ ".spore/component.wasm": "spoilt" });
    expect((await build(needed)).isUnchanged).toBe(false);
  });

  test("is not one whose input changed while it was compiled", async () => {
    await write({ "src/index.ts": oneStep });
    const { codes, options } = compiler();
    const edited = `${oneStep}export const late = "late";\n`;
    const prepare: BuildOptions["prepare"] = async (source) => {
      await write({ "src/index.ts": edited });
      return options.prepare(source);
    };
    await build({ ...options, prepare });
    expect((await build(options)).code).toContain('"late"');
    expect(codes).toHaveLength(2);
  });
});

describe("a failed build", () => {
  test("names the file, line and column of a syntax error, with the code", async () => {
    await write({ "src/index.ts": "export const a = 1;\nexport const b: = 2;\n" });
    const error = await failureOf(build(compiler().options));
    expect(error.message).toBe(
      'src/index.ts:2:17: Unexpected "="\n  2 | export const b: = 2;\n    |                 ^',
    );
  });

  test("names an import that can't be resolved and how to get it", async () => {
    await write({
      "src/index.ts": 'import { z } from "@scope/missing/deep";\nexport const a = z;',
    });
    const error = await failureOf(build(compiler().options));
    expect(error.message).toContain('src/index.ts:1:19: Could not resolve "@scope/missing/deep"');
    expect(error.hint).toBe("Install the package: npm install @scope/missing");
  });

  test("shows at most five errors", async () => {
    const lines = Array.from({ length: 9 }, (_, index) => `import "./gone${index}.ts";`);
    await write({ "src/index.ts": lines.join("\n") });
    const error = await failureOf(build(compiler().options));
    expect(error.message.match(/Could not resolve/g)).toHaveLength(5);
    expect(error.message).toContain("… and 4 more errors");
  });

  test("names the chain of imports to a module of Node, and what to use instead", async () => {
    await write({
      "src/index.ts": 'import { load } from "./load.ts";\nexport const l = load;',
      "src/load.ts": 'import files from "files";\nexport const load = () => files();',
      "node_modules/files/package.json": '{"name":"files","main":"index.js"}',
      "node_modules/files/index.js": 'import fs from "node:fs";\nexport default () => fs;',
    });
    const error = await failureOf(build(compiler().options));
    expect(error.message).toBe(
      [
        "node_modules/files/index.js: node:fs does not exist in the sandbox",
        "  src/index.ts",
        "  → src/load.ts",
        "  → node_modules/files/index.js",
        "  → node:fs",
      ].join("\n"),
    );
    expect(error.hint).toMatch(/sandbox.*use fetch/);
  });

  test("is not caused by an import of Node that is left out, replaced or guarded", async () => {
    await write({
      "src/index.ts": `import { used } from "mixed"; import EventEmitter from "events";
${oneStep}export const u = [used, EventEmitter];
export const later = () => import("node:os");`,
      "node_modules/mixed/package.json": '{"name":"mixed","main":"i.js","sideEffects":false}',
      "node_modules/mixed/i.js": 'export * from "./used.js"; export * from "./unused.js";',
      "node_modules/mixed/used.js": "export const used = 1;",
      "node_modules/mixed/unused.js": 'import fs from "fs"; export const unused = () => fs;',
      "node_modules/events/package.json": '{"name":"events","main":"events.js"}',
      "node_modules/events/events.js": 'module.exports = "the package events";',
    });
    const { codes, options } = compiler();
    await build(options);
    expect(codes[0]).toContain("the package events");
    expect(codes[0]).toContain("node:os does not exist in the sandbox");
  });

  test("says when nothing is defined", async () => {
    await write({ "src/index.ts": "export const nothing = 1;" });
    const error = await failureOf(build(compiler({ definitions: [] }).options));
    expect(error.message).toMatch(/^nothing is defined: src\/index\.ts/);
  });

  test("says which definition is there twice", async () => {
    await write({ "src/index.ts": oneStep });
    const definitions: Definition[] = [
      { kind: "step", name: "one" },
      { kind: "workflow", name: "one" },
      { kind: "step", name: "one" },
    ];
    const error = await failureOf(build(compiler({ definitions }).options));
    expect(error.message).toBe("src/index.ts: the step one is defined twice");
  });

  test("says when there is no entry", async () => {
    const error = await failureOf(build(compiler().options));
    expect(error.message).toBe("there is no file src/index.ts");
  });

  test("points an error of top-level code at the user's line, with the code", async () => {
    const source = `${oneStep}\nfunction load(): number {\n  throw new Error("not yet");\n}\nload();\n`;
    await write({ "src/index.ts": source });
    const probe = compiler();
    await build(probe.options);
    const lines = (probe.codes[0] ?? "").split("\n");
    const line = lines.findIndex((text) => text.includes('"not yet"')) + 1;
    const column = (lines[line - 1] ?? "").indexOf("new Error") + 1;
    const failure = `Error: not yet\n    at load (module:${line}:${column})\n    at native`;
    await write({ "src/index.ts": `${source}\n` });
    const error = await failureOf(build({ ...compiler({ failure }).options, outDir: "other" }));
    expect(error.message).toBe(
      [
        "src/index.ts:5:9: Error: not yet",
        '  5 |   throw new Error("not yet");',
        "    |         ^",
        "    at load (src/index.ts:5:9)",
        "    at native",
      ].join("\n"),
    );
  });
});

describe("watching", () => {
  interface Watching {
    readonly seen: (BuildResult | SporeError)[];
    readonly codes: readonly string[];
    reports(count: number): Promise<void>;
    stop(): Promise<void>;
  }

  async function watching(): Promise<Watching> {
    const { codes, options } = compiler();
    const seen: (BuildResult | SporeError)[] = [];
    let wake = (): void => {};
    const stop = await watch(options, (result) => {
      seen.push(result);
      wake();
    });
    const reports = async (count: number): Promise<void> => {
      while (seen.length < count) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    };
    return { seen, codes, reports, stop };
  }

  test("reports each change, errors and the way out of them", async () => {
    await write({ "src/index.ts": oneStep });
    const { seen, codes, reports, stop } = await watching();
    try {
      await reports(1);
      await write({ "src/index.ts": `${oneStep}let broken = ;` });
      await reports(2);
      await write({ "src/index.ts": `${oneStep}export const mended = "mended";` });
      await reports(3);
      await write({ "src/index.ts": `${oneStep}export const mended = "mended"; // Again.` });
      await reports(4);
    } finally {
      await stop();
    }
    expect(seen[0]).not.toBeInstanceOf(SporeError);
    expect((seen[1] as SporeError).message).toMatch(/^src\/index\.ts:3:14: Unexpected ";"/);
    expect((seen[2] as BuildResult).code).toContain("mended");
    expect((seen[3] as BuildResult).isUnchanged).toBe(true);
    expect(codes).toHaveLength(2);
  }, 20_000);
});
