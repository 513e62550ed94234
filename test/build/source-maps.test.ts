/** Guest stacks back to the author's files. */
import { build } from "esbuild";
import { expect, test } from "vitest";
import { codeFrame, SourceMapper, stackLimits } from "../../host/source-maps.ts";

const source = `const name: string = "guest";
export function fail(): never {
  throw new Error(name);
}
`;

async function mapped(): Promise<{ mapper: SourceMapper; line: number; column: number }> {
  const { outputFiles } = await build({
    stdin: { contents: source, loader: "ts", sourcefile: "src/fail.ts" },
    bundle: true,
    format: "esm",
    sourcemap: "external",
    outfile: "bundle.js",
    write: false,
  });
  const text = (end: string): string =>
    outputFiles?.find(({ path }) => path.endsWith(end))?.text ?? "";
  const lines = text("bundle.js").split("\n");
  const line = lines.findIndex((content) => content.includes("new Error")) + 1;
  const column = (lines[line - 1] ?? "").indexOf("new Error") + 1;
  return { mapper: new SourceMapper(text(".map")), line, column };
}

test("frames of the bundle become the author's, and all else stays", async () => {
  const { mapper, line, column } = await mapped();
  const stack = [
    "Error: guest",
    `    at fail (componentize-qjs:user.js:${line}:${column})`,
    `    at module:${line}:${column}`,
    "    at map (native)",
    "    at far (componentize-qjs:user.js:99999:1)",
    "    at other (elsewhere.js:1:1)",
  ].join("\n");
  expect(mapper.mapStack(stack).split("\n")).toEqual([
    "Error: guest",
    "    at fail (src/fail.ts:3:9)",
    "    at src/fail.ts:3:9",
    "    at map (native)",
    "    at far (componentize-qjs:user.js:99999:1)",
    "    at other (elsewhere.js:1:1)",
  ]);
  expect(mapper.positions(stack)).toEqual([
    { file: "src/fail.ts", line: 3, column: 9 },
    { file: "src/fail.ts", line: 3, column: 9 },
  ]);
});

test("a column counts from 1 on both sides", async () => {
  const { mapper, line, column } = await mapped();
  expect(mapper.position(line, column - 1)).toEqual({ file: "src/fail.ts", line: 3, column: 3 });
  expect(mapper.position(line, 0)).toBeUndefined();
  expect(mapper.position(0, 1)).toBeUndefined();
});

test("a code frame shows the wanted position's line", async () => {
  const { mapper, line, column } = await mapped();
  const stack = `    at fail (user.js:${line}:${column})`;
  expect(mapper.codeFrame(stack, () => true)).toBe(
    "  3 |   throw new Error(name);\n    |         ^",
  );
  expect(mapper.codeFrame(stack, () => false)).toBeUndefined();
});

test("a stack without end is cut", async () => {
  const { mapper, line, column } = await mapped();
  const frame = `    at fail (user.js:${line}:${column})\n`;
  const lines = mapper.mapStack(frame.repeat(100_000)).split("\n");
  expect(lines.length).toBe(stackLimits.framesMax + 1);
  expect(lines.at(-1)).toBe("    … more frames");
});

test("a long line is cut in its code frame", () => {
  expect(codeFrame("x".repeat(5_000), { line: 7, column: 2 }).length).toBeLessThan(200);
});
