import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { nodeCodec } from "../../host/sandbox/codec.ts";
import { compileJavaScript, loadEngineParts } from "../../host/sandbox/compile.ts";

test.each([
  ["a syntax error with its place", "const a = 1;\nconst = 2;", /module:2:7/],
  ["an error thrown at the top level", 'throw new Error("top-level boom");', /top-level boom/],
  ["an await that never ends", "await new Promise(() => {});", /./],
  ["an import from the disk", 'import x from "/etc/passwd";', /not found/],
])("compiling reports %s", async (_what, code, message) => {
  const failed = compileJavaScript(code);
  await expect(failed).rejects.toMatchObject({ code: "build-failed" });
  await expect(failed).rejects.toThrow(message);
});

test("compiling ends a module that spins at the top level", async () => {
  const failed = compileJavaScript("for (;;);", { timeoutMs: 3000 });
  await expect(failed).rejects.toThrow("longer than 3000 ms");
});

test("compiling ends a module that eats memory at the top level", async () => {
  const code = "const a = []; for (;;) a.push(new Uint8Array(1 << 20).fill(1));";
  const failed = compileJavaScript(code, { memoryBytesMax: 400 * 1024 * 1024 });
  await expect(failed).rejects.toThrow("memory");
}, 30_000);

test("a compiler whose host died ends, even in a module that spins", async () => {
  const file = fileURLToPath(new URL("../../host/sandbox/compile-child.ts", import.meta.url));
  const child = fork(file, [], { execArgv: [], serialization: "advanced" });
  const witPath = fileURLToPath(new URL("../../guest/spore.wit", import.meta.url));
  child.send({ witPath, code: "for (;;);", memoryBytesMax: 2 ** 31 }, () => child.disconnect());
  const [code] = await once(child, "exit");
  expect(code).toBe(1);
});

test("compiling refuses a module over its size limit at once", async () => {
  const failed = compileJavaScript(" ".repeat(9 * 1024 * 1024));
  await expect(failed).rejects.toMatchObject({ code: "build-failed" });
});

test("the engine is the same whether it was just made, kept or kept badly", async () => {
  const folder = await mkdtemp(join(tmpdir(), "spore-engine-"));
  const load = async () =>
    (await loadEngineParts(nodeCodec.digest, pathToFileURL(`${folder}/`))).hash;
  try {
    const made = await load();
    expect(await load()).toBe(made);
    const [name = ""] = await readdir(folder);
    const bytes = await readFile(join(folder, name));
    bytes[100_000] = (bytes[100_000] ?? 0) ^ 1;
    await writeFile(join(folder, name), bytes);
    expect(await load()).toBe(made);
  } finally {
    await rm(folder, { recursive: true });
  }
}, 30_000);
