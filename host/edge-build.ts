/**
 * What a Worker can't make itself: the engine's modules to be compiled at upload, the loader
 * guest, and on demand a component that goes along. Owns the folder `.spore/edge`, whose
 * worker.js is the whole Worker, bundled; wrangler adds what the platform lacks.
 *
 * The modules are the ones that this host runs, taken from the same parts; only main's
 * memory cap is smaller, because an isolate has 128 MB for everything.
 */
import {
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { join, relative, resolve, sep } from "node:path";
import * as esbuild from "esbuild";
import { ownModule } from "./own-files.ts";
import { baselineCodec, nodeCodec } from "./sandbox/codec.ts";
import { compileJavaScript, loadEngineParts } from "./sandbox/compile.ts";
import { componentIdOf } from "./sandbox/component-id.ts";
import {
  decodeBaseline,
  type EngineParts,
  encodeBaseline,
  engineModules,
  readBaseline,
} from "./sandbox/engine.ts";
import { loaderSource } from "./sandbox/loader.ts";

export interface EdgeBuildOptions {
  /** Default: `.spore/edge` in the process's folder. */
  readonly outDir?: string;
  /** A built component that goes with the Worker, and is deployed at its first start. */
  readonly component?:
    | { readonly id: string; readonly code: string; readonly stored: Uint8Array }
    | undefined;
}

export interface EdgeBuildResult {
  readonly outDir: string;
  /** Hex; the engine hash of every component that this Worker runs. */
  readonly engine: string;
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
}

/** Cap of a guest's memory in a Worker: 32 MiB. */
export const edgePagesMax = 512;

/** Writes the folder. The same inputs give the same files. */
export async function buildEdge(options: EdgeBuildOptions = {}): Promise<EdgeBuildResult> {
  const outDir = resolve(options.outDir ?? ".spore/edge");
  mkdirSync(outDir, { recursive: true });
  const parts = await loadEngineParts(nodeCodec.digest);
  const { component } = options;
  const contents: Record<string, Uint8Array | string> = {
    ...wasmFiles(parts),
    "loader.bin": await loaderOf(parts, outDir),
    "isolate.txt": await isolateOf(outDir, parts),
    "worker.js": await bundled(entryOf(outDir, parts, component?.id), outDir),
    ...(component && { "bundle.txt": component.code, "component.bin": component.stored }),
  };
  const files = Object.entries(contents).map(([name, content]) => {
    // At once, or not at all: wrangler may be reading what another build wrote.
    const draft = join(outDir, `${name}.${process.pid}.draft`);
    writeFileSync(draft, content);
    renameSync(draft, join(outDir, name));
    return { name, bytes: Buffer.byteLength(content) };
  });
  return { outDir, engine: parts.hash, files };
}

function wasmFiles(parts: EngineParts): Record<string, Uint8Array> {
  const modules = Object.entries(engineModules(parts, edgePagesMax));
  return Object.fromEntries(modules.map(([role, bytes]) => [`${role}.wasm`, bytes]));
}

/** Its id is its source's and the engine's, so a build finds the last one's and keeps it. */
async function loaderOf(parts: EngineParts, outDir: string): Promise<Uint8Array> {
  const { digest } = nodeCodec;
  const id = componentIdOf({ kind: "javascript", code: loaderSource }, parts.hash, digest);
  const host = { parts, pagesMax: edgePagesMax, digest };
  const kept = keptLoader(join(outDir, "loader.bin"), id, parts);
  if (kept !== undefined) return kept;
  const baseline = readBaseline(await compileJavaScript(loaderSource), id, host);
  return encodeBaseline(baseline, baselineCodec);
}

function keptLoader(file: string, id: string, parts: EngineParts): Uint8Array | undefined {
  if (!existsSync(file)) return undefined;
  const bytes = new Uint8Array(readFileSync(file));
  try {
    const engine = { hash: parts.hash, pagesMin: parts.pagesMin, pagesMax: edgePagesMax };
    return decodeBaseline(bytes, engine, nodeCodec).component === id ? bytes : undefined;
  } catch {
    return undefined; // another engine's, or damaged: it is made again
  }
}

/** What a Worker Loader is given: nothing bundles it at run time. */
async function isolateOf(outDir: string, parts: EngineParts): Promise<string> {
  const contents = `import { isolateEntry } from ${moduleOf(outDir, "isolate")};
${engineImports}
export default isolateEntry({
  modules: { main, runtime, glue, init },
  identity: ${identityOf(parts)},
  pagesMax: ${edgePagesMax},
  loader,
  isolate: "",
});
`;
  return bundled(contents, outDir);
}

/** In one file, as small as it gets: all of it is read before a Worker's first request. */
async function bundled(contents: string, outDir: string): Promise<string> {
  const { outputFiles } = await esbuild.build({
    stdin: { contents, resolveDir: realpathSync(outDir), sourcefile: "entry.js" },
    bundle: true,
    write: false,
    format: "esm",
    target: "es2024",
    conditions: ["workerd", "worker", "browser"],
    minify: true,
    external: ["*.wasm", "*.bin", "*.txt", "cloudflare:*", "node:*"],
    define: { "process.env.NODE_ENV": '"production"' },
    plugins: [withoutLocales],
    logLevel: "silent",
  });
  return outputFiles[0]?.text ?? "";
}

/** zod says what is wrong in fifty languages, of which its own default is all we ask for. */
const withoutLocales: esbuild.Plugin = {
  name: "without-locales",
  setup({ onLoad }) {
    onLoad({ filter: /[\\/]zod[\\/]v4[\\/]locales[\\/]index\.js$/ }, () => ({
      contents: 'export { default as en } from "./en.js";',
    }));
  },
};

const engineImports = `import glue from "./glue.wasm";
import init from "./init.wasm";
import loader from "./loader.bin";
import main from "./main.wasm";
import runtime from "./runtime.wasm";`;

/** A module of host/worker as one in the folder imports it: in quotes. */
function moduleOf(outDir: string, name: string): string {
  const file = ownModule(`host/worker/${name}`);
  const path = relative(realpathSync(outDir), file).split(sep).join("/");
  return JSON.stringify(path.startsWith(".") ? path : `./${path}`);
}

function identityOf(parts: EngineParts): string {
  const { hash, sums, sizes, pagesMin, tableSize } = parts;
  return JSON.stringify({ hash, sums, sizes, pagesMin, tableSize });
}

function entryOf(outDir: string, parts: EngineParts, component: string | undefined): string {
  const bundled =
    component === undefined
      ? { imports: "", member: "" }
      : {
          imports: 'import code from "./bundle.txt";\nimport stored from "./component.bin";\n',
          member: `  component: { id: "${component}", code, stored },\n`,
        };
  return `import { defineWorker } from ${moduleOf(outDir, "index")};
import isolate from "./isolate.txt";
${engineImports}
${bundled.imports}
const worker = defineWorker({
  modules: { main, runtime, glue, init },
  identity: ${identityOf(parts)},
  pagesMax: ${edgePagesMax},
  loader,
  isolate,
${bundled.member}});

export const SporePartition = worker.SporePartition;
export default worker.handler;
`;
}
