/** Source maps in the bucket: kept, found, remembered, and harmless whatever they are. */
import { build } from "esbuild";
import { describe, expect, it } from "vitest";
import { createComponentMaps } from "../../host/component-maps.ts";
import { mapLimits, SourceMapper } from "../../host/source-maps.ts";
import { MemoryStore } from "../../host/store/memory.ts";
import { createManualClock } from "./kit.ts";

const stack = "    at fail (componentize-qjs:user.js:1:1)";

/** Line 1 of the bundle is the given line of the source. */
function mapTo(source: string, line = 1): string {
  const mappings = `AA${"CEGIKMOQS"[line - 2] ?? "A"}A`;
  return JSON.stringify({ version: 3, sources: [source], sourcesContent: ["a\nb\nc"], mappings });
}

function createKit(options: { memoryBytesMax?: number } = {}) {
  const inner = new MemoryStore();
  const logged: string[] = [];
  const gets: string[] = [];
  const clock = createManualClock();
  const store = {
    get: (key: string) => {
      gets.push(key);
      return inner.get(key);
    },
    put: inner.put.bind(inner),
  };
  const log = (level: string, message: string): void => void logged.push(`${level} ${message}`);
  const open = () =>
    createComponentMaps({ store, clock, observer: { log } }, { prefix: "n/", ...options });
  const shown = async (maps: ReturnType<typeof open>, tenant: string, id = "c0") =>
    (await maps.mapper(tenant, id))?.explain(stack);
  return { inner, logged, gets, clock, open, shown };
}

describe("a map", () => {
  it("is there for another host, under the tenant that sent it", async () => {
    const { open, shown, inner } = createKit();
    await open().keep("ann", "c0", mapTo("src/a.ts", 2));
    const other = open();
    expect(await shown(other, "ann")).toEqual({
      stack: "    at fail (src/a.ts:2:1)",
      frame: { file: "src/a.ts", line: 2, column: 1, text: "b" },
    });
    expect(await shown(other, "bob")).toBeUndefined();
    expect((await inner.list("")).keys.map(({ key }) => key)).toEqual(["n/tenants/ann/maps/c0"]);
  });

  it("of the newest deployment wins, because lines move when comments change", async () => {
    const { open, shown, clock } = createKit();
    const [here, there] = [open(), open()];
    await here.keep("ann", "c0", mapTo("a.ts", 2));
    expect((await shown(there, "ann"))?.frame?.line).toBe(2);
    await here.keep("ann", "c0", mapTo("a.ts", 3));
    expect((await shown(here, "ann"))?.frame?.line).toBe(3);
    clock.advance(30_000);
    expect((await shown(there, "ann"))?.frame?.line).toBe(3);
  });

  it("is read once, also when there is none", async () => {
    const { open, shown, gets } = createKit();
    const maps = open();
    await Promise.all([shown(maps, "ann"), shown(maps, "ann")]);
    await shown(maps, "ann");
    expect(gets).toHaveLength(1);
  });

  it("is forgotten when others need the room, the one used least recently first", async () => {
    const { open, shown, gets } = createKit({ memoryBytesMax: 400 });
    const maps = open();
    for (const id of ["c0", "c1", "c2"]) await maps.keep("ann", id, mapTo("a.ts"));
    await shown(maps, "ann", "c2");
    expect(gets).toEqual([]);
    await shown(maps, "ann", "c0");
    expect(gets).toEqual(["n/tenants/ann/maps/c0"]);
  });

  it("that can't be stored or read costs a log line only", async () => {
    const logged: string[] = [];
    const fail = async (): Promise<never> => {
      throw new Error("away");
    };
    const log = (level: string, message: string): void => void logged.push(`${level} ${message}`);
    const ports = {
      store: { get: fail, put: fail },
      clock: createManualClock(),
      observer: { log },
    };
    const maps = createComponentMaps(ports);
    await maps.keep("ann", "c0", mapTo("a.ts"));
    expect(await maps.mapper("ann", "c0")).toBeUndefined();
    expect(logged).toEqual([
      "warn a source map could not be stored",
      "debug a source map could not be loaded",
    ]);
  });
});

describe("a hostile map", () => {
  const base = { version: 3, sources: ["a.ts"], mappings: "AAAA" };
  it.each([
    ["text", "not JSON"],
    ["null", "null"],
    ["another version", JSON.stringify({ ...base, version: 2 })],
    ["decoded mappings", JSON.stringify({ ...base, mappings: [[[0, 0, 0, 0]]] })],
    ["sections", JSON.stringify({ version: 3, sections: [] })],
    ["sources that are no texts", JSON.stringify({ ...base, sources: [{}] })],
    ["endless lines", JSON.stringify({ ...base, mappings: ";".repeat(mapLimits.linesMax + 1) })],
    [
      "endless segments",
      JSON.stringify({ ...base, mappings: "AAAA,".repeat(mapLimits.segmentsMax + 1) }),
    ],
    ["a path without end", JSON.stringify({ ...base, sources: ["a".repeat(5000)] })],
    ["deep nesting", "[".repeat(1_000_000)],
  ])("of %s is left out, with a debug log", async (_what, text) => {
    const { open, shown, logged, inner } = createKit();
    const maps = open();
    await maps.keep("ann", "c0", text);
    expect(await shown(maps, "ann")).toBeUndefined();
    expect(logged).toEqual(["debug a source map is left out"]);
    expect((await inner.list("")).keys).toEqual([]);
  });

  it.each([
    ["a source that isn't there", { ...base, mappings: "AEAA" }],
    ["lines before the first", { ...base, mappings: "AADA" }],
    ["numbers out of all bounds", { ...base, mappings: "AggggggggggggE,AAA+/////D" }],
    ["characters that are none of the alphabet", { ...base, mappings: "\u0000ü€AAAA" }],
    [
      "a prototype",
      JSON.parse('{"version":3,"sources":["a.ts"],"mappings":"","__proto__":{"x":1}}'),
    ],
  ])("with %s leaves the stack or maps it, and throws nothing", async (_what, map) => {
    const { open, shown } = createKit();
    const maps = open();
    await maps.keep("ann", "c0", JSON.stringify(map));
    expect((await shown(maps, "ann"))?.stack).toContain("    at fail (");
  });

  it("prints no control characters with its paths", async () => {
    const { open, shown } = createKit();
    const maps = open();
    await maps.keep("ann", "c0", mapTo("\u001b[2Ja\n.ts"));
    expect((await shown(maps, "ann"))?.frame?.file).toBe("?[2Ja?.ts");
  });

  it("of the largest size is read in bounded time", async () => {
    const { open, shown } = createKit();
    const maps = open();
    const mappings = `${"AAAA,".repeat(mapLimits.segmentsMax - mapLimits.linesMax)}${";".repeat(mapLimits.linesMax)}`;
    const startedMs = performance.now();
    await maps.keep("ann", "c0", JSON.stringify({ ...base, mappings }));
    expect((await shown(maps, "ann"))?.frame?.file).toBe("a.ts");
    expect(performance.now() - startedMs).toBeLessThan(5000);
  });
});

describe("an explained stack", () => {
  it("has the author's frames, then one line for those inside the SDK", async () => {
    const bundled = await build({
      stdin: {
        contents: 'import "./user.ts";',
        resolveDir: "/",
        sourcefile: "sporeflow:main",
      },
      plugins: [
        {
          name: "files",
          setup(bundler) {
            bundler.onResolve({ filter: /user|guest/ }, ({ path }) => ({
              path,
              namespace: "test",
            }));
            bundler.onLoad({ filter: /user/, namespace: "test" }, () => ({
              contents: 'import { inSdk } from "node_modules/sporeflow/guest/x.ts";\nuser(inSdk);',
            }));
            bundler.onLoad({ filter: /guest/, namespace: "test" }, () => ({
              contents: "export const inSdk = 1;",
            }));
          },
        },
      ],
      bundle: true,
      format: "esm",
      sourcemap: "external",
      outfile: "bundle.js",
      write: false,
    });
    const [map, code] = bundled.outputFiles.map(({ text }) => text);
    const lineOf = (text: string): number =>
      (code ?? "").split("\n").findIndex((line) => line.includes(text)) + 1;
    const frame = (name: string, line: number): string =>
      `    at ${name} (componentize-qjs:user.js:${line}:1)`;
    const mapper = new SourceMapper((map ?? "").replaceAll("test:", ""));
    const explained = mapper.explain(
      [
        frame("step", lineOf("var inSdk")),
        "    at map (native)",
        frame("charge", lineOf("user(inSdk)")),
        frame("run", lineOf("var inSdk")),
        "    at apply (native)",
        "",
      ].join("\n"),
    );
    expect(explained.stack.split("\n")).toEqual([
      "    at map (native)",
      "    at charge (./user.ts:2:1)",
      "    … 3 inside sporeflow",
    ]);
    expect(explained.frame).toMatchObject({ file: "./user.ts", line: 2, text: "user(inSdk);" });
    const inside = frame("run", lineOf("var inSdk"));
    expect(mapper.explain(inside)).toEqual({
      stack: "    at run (node_modules/sporeflow/guest/x.ts:1:8)",
    });
  });

  it("begins where the error was made, not in its own constructor", () => {
    // Line 1 is the source's first, line 2 its second.
    const mapper = new SourceMapper(mapTo("a.ts").replace("AAAA", "AAAA;AACA"));
    const frames = "    at CardError (user.js:1:1)\n    at charge (user.js:2:1)";
    const lineFor = (name: string) => mapper.explain(frames, name).frame?.line;
    expect([lineFor("CardError"), lineFor("Error"), lineFor("TypeError")]).toEqual([2, 2, 1]);
    expect(mapper.explain("    at CardError (user.js:1:1)", "CardError").frame?.line).toBe(1);
  });

  it("leaves a text without frames as it is, however long", () => {
    const text = `begin\n${"line\n".repeat(100_000)}end`;
    expect(new SourceMapper(mapTo("a.ts")).mapText(text)).toBe(text);
    expect(new SourceMapper(mapTo("a.ts", 2)).mapText(`Error: x\n${stack}\nafter`)).toBe(
      "Error: x\n    at fail (a.ts:2:1)\nafter",
    );
  });
});
