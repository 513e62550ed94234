/** What a Worker takes at run time: components of `spore build`, bundles, and nothing else. */
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { nodeCodec } from "../../host/sandbox/codec.ts";
import { compileJavaScript, loadEngineParts } from "../../host/sandbox/compile.ts";
import { parseComponent } from "../../host/sandbox/engine.ts";
import { codeOf } from "../acceptance/kit.ts";
import { twice } from "./journey.ts";
import { type EdgeHost, startEdge, stopEdges } from "./kit.ts";

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

let edge: EdgeHost;
let code: string;
let component: Uint8Array;

beforeAll(async () => {
  code = await codeOf("test/edge/journey.ts");
  [edge, component] = await Promise.all([startEdge(), compileJavaScript(code)]);
});
afterAll(stopEdges);

it("a component that was compiled elsewhere is checked by hash and runs", async () => {
  const { id, definitions } = await edge.client.deploy(component);
  expect(definitions.map(({ name }) => name)).toContain("twice");
  expect(await edge.client.run(twice.with(4), { id: "compiled" })).toBe(8);
  expect((await edge.client.getMetadata("compiled")).component).toBe(id);
});

it("a bundle is evaluated in the Worker, and runs as the compiled one does", async () => {
  const { id } = await edge.client.deploy(code);
  expect(await edge.client.run(twice.with(5), { id: "evaluated" })).toBe(10);
  expect((await edge.client.getMetadata("evaluated")).component).toBe(id);
  expect((await edge.client.deploy(code)).id).toBe(id);
});

it("a component with other modules than the engine's is refused", async () => {
  const { sizes } = await loadEngineParts(nodeCodec.digest);
  const runtime = parseComponent(component).modules.find(
    ({ bytes }) => bytes.length === sizes.runtime,
  );
  // One bit of QuickJS. (One of the heap is the author's own affair.)
  const strange = component.slice();
  const at = (runtime?.offset ?? 0) + Math.floor(sizes.runtime / 2);
  strange[at] = (strange[at] ?? 0) ^ 1;
  await expect(edge.client.deploy(strange)).rejects.toMatchObject({ code: "invalid-component" });
  const nothing = new TextEncoder().encode("\0asm, perhaps");
  await expect(edge.client.deploy(nothing)).rejects.toMatchObject({ code: "invalid-component" });
});

it.each([
  ["imports of its own", 'import { a } from "./a.js";\nexport { a };'],
  ["a top-level await", "const a = await 1;\nexport { a };"],
  ["no exports", "const a = 1;"],
  ["an error at its top level", 'throw new Error("no luck");\nexport { a };'],
])("a module with %s is refused, and the refusal says what to do", async (_, module) => {
  await expect(edge.client.deploy(module)).rejects.toMatchObject({
    code: "build-failed",
    hint: expect.stringContaining("spore deploy"),
  });
});

it("what was refused changed nothing", async () => {
  expect(await edge.client.run(twice.with(6))).toBe(12);
});
