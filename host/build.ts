/**
 * TypeScript to a component: one bundle (esbuild), compiled by the sandbox, kept in
 * `.spore` with its source map and manifest. Owns what a build may say to its author:
 * every error points at a line of the author's own files.
 *
 * B1 The bundle has one instance of the SDK: every `sporeflow/guest` is this package's.
 * B2 component.ts comes first, so the globals exist when user modules are evaluated.
 * B3 An unchanged build does nothing: build.json names every input by content, the
 *    compiler's own files among them, and every output by its hash. An unchanged bundle
 *    (a comment was edited) keeps its component, and so its id.
 */
import { realpathSync, statSync } from "node:fs";
import { builtinModules } from "node:module";
import { join, relative, resolve, sep } from "node:path";
import * as esbuild from "esbuild";
import { SporeError } from "../runtime/errors.ts";
import type { PreparedComponent, Sandbox } from "../runtime/ports.ts";
import { attachToBundle, attachToComponent } from "./attached-map.ts";
import { type KeptInput, keep, keptInputs, readComponent, readKept } from "./kept-build.ts";
import { ownFolder, ownModule } from "./own-files.ts";
import { codeFrame, SourceMapper, sdkSource } from "./source-maps.ts";

export interface BuildOptions {
  /** The user's entry module, relative to `cwd`. */
  readonly entry: string;
  /** Default: the process's. */
  readonly cwd?: string;
  /** Default: `.spore` in `cwd`. */
  readonly outDir?: string;
  /** Compiles the bundle: the sandbox's own `prepare`. */
  readonly prepare: Sandbox["prepare"];
  /**
   * Whether a last build without component.wasm is compiled again. `prepare` gives none for
   * a bundle that its sandbox knows, and a server doesn't need it. Default false.
   */
  readonly needsComponent?: boolean;
  /**
   * Lets a test answer for steps (`sporeflow/testing`): not to be deployed, and to be kept in
   * a folder of its own. Default false.
   */
  readonly isForTests?: boolean;
}

export interface BuildResult {
  /** Its `component`, if there is one, has the source map in it. */
  readonly prepared: PreparedComponent;
  /** The bundle: one ES module. */
  readonly code: string;
  /** Source map of `code`. */
  readonly map: string;
  /** True if the component is the last build's: then `prepare` was not called. */
  readonly isUnchanged: boolean;
  /** What esbuild noticed, each with its place. */
  readonly warnings: readonly string[];
  /** The folder with component.wasm, component.bin, manifest.json, bundle.js and its map. */
  readonly outDir: string;
  /** What the paths that people see are relative to. */
  readonly cwd: string;
  readonly bundleMs: number;
  readonly compileMs: number;
}

export const buildDefaults = Object.freeze({
  outDir: ".spore",
  /** Changes that follow each other faster are one build. */
  debounceMs: 50,
  errorsShownMax: 5,
});

const guestIndex = ownModule("guest/index");
const guestComponent = ownModule("guest/component");
const guestTesting = ownModule("guest/testing");
const builtinNamespace = "node-builtin";

/** Builds, or answers the last result if no input changed. Throws SporeError build-failed. */
export async function build(options: BuildOptions): Promise<BuildResult> {
  const project = projectOf(options);
  const startedAt = performance.now();
  const kept = await unchanged(project, startedAt);
  if (kept !== undefined) return kept;
  const bundled = await esbuild
    .build(bundleOptions(project))
    .catch((error: unknown) => throwFailure(error));
  return finish(project, readBundle(project, bundled, startedAt));
}

/** Ends watching; resolves when nothing runs any more. */
export type StopWatching = () => Promise<void>;

/**
 * Builds now and after every change of an input. `onBuild` gets each result or error, one
 * at a time and only the newest.
 */
export async function watch(
  options: BuildOptions,
  onBuild: (result: BuildResult | SporeError) => void | Promise<void>,
): Promise<StopWatching> {
  const project = projectOf(options);
  const queue = newestOnly(async (next: { result: esbuild.BuildResult; startedAt: number }) => {
    await onBuild(await rebuild(project, next.result, next.startedAt));
  });
  let startedAt = performance.now();
  const notify: esbuild.Plugin = {
    name: "spore-watch",
    setup(bundler) {
      bundler.onStart(() => {
        startedAt = performance.now();
      });
      bundler.onEnd((result) => {
        queue.add({ result, startedAt });
      });
    },
  };
  const context = await esbuild.context(bundleOptions(project, [notify]));
  await context.watch();
  return async () => {
    await context.dispose();
    await queue.close();
  };
}

async function rebuild(
  project: Project,
  result: esbuild.BuildResult,
  startedAt: number,
): Promise<BuildResult | SporeError> {
  try {
    if (result.errors.length > 0) throwFailure(result);
    const kept = await unchanged(project, startedAt);
    return kept ?? (await finish(project, readBundle(project, result, startedAt)));
  } catch (error) {
    if (error instanceof SporeError) return error;
    const cause = { cause: error };
    return new SporeError("internal", `the build broke off: ${String(error)}`, cause);
  }
}

/** Runs one job at a time, after a moment of quiet, and only for the newest item. */
function newestOnly<Item>(run: (item: Item) => Promise<void>): {
  add(item: Item): void;
  close(): Promise<void>;
} {
  let waiting: { item: Item } | undefined;
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> = Promise.resolve();
  const start = (): void => {
    running = running.then(async () => {
      const next = waiting;
      waiting = undefined;
      if (next !== undefined) await run(next.item);
    });
  };
  return {
    add(item) {
      waiting = { item };
      clearTimeout(timer);
      timer = setTimeout(start, buildDefaults.debounceMs);
    },
    async close() {
      clearTimeout(timer);
      waiting = undefined;
      await running;
    },
  };
}

interface Project {
  readonly entry: string;
  readonly cwd: string;
  readonly outDir: string;
  readonly prepare: Sandbox["prepare"];
  readonly needsComponent: boolean;
  readonly isForTests: boolean;
}

interface Bundle {
  readonly code: string;
  readonly map: string;
  readonly inputs: readonly KeptInput[];
  readonly warnings: readonly string[];
  readonly bundleMs: number;
}

/** The entry's real path. Throws build-failed if there is no such file. */
export function entryFile(entry: string, cwd: string): string {
  const path = resolve(cwd, entry);
  if (statSync(path, { throwIfNoEntry: false })?.isFile() === true) return realpathSync(path);
  throw new SporeError("build-failed", `there is no file ${relative(cwd, path)}`, {
    hint: "Name the module that defines your steps, workflows and actors.",
  });
}

function projectOf(options: BuildOptions): Project {
  const cwd = realpathSync(options.cwd ?? process.cwd());
  const entry = entryFile(options.entry, cwd);
  const outDir = resolve(cwd, options.outDir ?? buildDefaults.outDir);
  const { prepare, needsComponent = false, isForTests = false } = options;
  return { entry, cwd, outDir, prepare, needsComponent, isForTests };
}

function bundleOptions(project: Project, plugins: esbuild.Plugin[] = []): esbuild.BuildOptions {
  return {
    stdin: {
      // B2. The entry's exports are kept, so that `"sideEffects": false` drops no definition.
      contents: `export { deliver, describe, drain } from "sporeflow:component";
export * as definitions from "sporeflow:entry";`,
      sourcefile: "sporeflow:main",
      resolveDir: project.cwd,
    },
    absWorkingDir: project.cwd,
    outfile: join(project.outDir, "bundle.js"),
    bundle: true,
    write: false,
    metafile: true,
    format: "esm",
    platform: "neutral",
    target: "es2023",
    // A guest is nearest to a worker: web APIs, no document, no Node.
    conditions: ["sporeflow", "workerd", "worker", "browser", "module"],
    mainFields: ["browser", "module", "main"],
    define: { "process.env.NODE_ENV": '"production"', global: "globalThis" },
    sourcemap: "external",
    minifyWhitespace: false,
    legalComments: "none",
    charset: "utf8",
    logLevel: "silent",
    plugins: [sdkPlugin(project), builtinPlugin(), ...plugins],
  };
}

function sdkPlugin(project: Project): esbuild.Plugin {
  return {
    name: "spore-sdk",
    setup(bundler) {
      const entries: Readonly<Record<string, string>> = {
        "sporeflow:component": project.isForTests ? guestTesting : guestComponent,
        "sporeflow:entry": project.entry,
        "sporeflow/guest": guestIndex, // B1
      };
      bundler.onResolve({ filter: /^sporeflow(:component|:entry|\/guest)$/ }, ({ path }) => ({
        path: entries[path] ?? path,
        sideEffects: true,
      }));
    },
  };
}

/**
 * Node's own modules don't exist in a guest. An import of one is an error (found after
 * bundling, when what is not used has been left out); a `require` or dynamic import may
 * be guarded by the code around it, so it throws when it is reached.
 */
function builtinPlugin(): esbuild.Plugin {
  const names = builtinModules.filter((name) => !name.startsWith("_")).join("|");
  return {
    name: "spore-builtins",
    setup(bundler) {
      const filter = new RegExp(`^(?:node:.*|(?:${names})/?)$`);
      bundler.onResolve({ filter }, async (args) => {
        if (args.pluginData === builtinNamespace) return undefined;
        const { importer, kind, resolveDir, namespace } = args;
        const search = { importer, kind, resolveDir, namespace, pluginData: builtinNamespace };
        // A package of that name, or a package's own replacement, is as good as any.
        const found = await bundler.resolve(args.path, search);
        if (found.errors.length === 0) return found;
        return { path: args.path, namespace: builtinNamespace, warnings: [] };
      });
      bundler.onLoad({ filter: /.*/, namespace: builtinNamespace }, ({ path }) => ({
        contents: `throw new Error(${JSON.stringify(`${path} does not exist in the sandbox`)});`,
        loader: "js",
      }));
    },
  };
}

function readBundle(project: Project, result: esbuild.BuildResult, startedAt: number): Bundle {
  const file = (end: string): string =>
    result.outputFiles?.find(({ path }) => path.endsWith(end))?.text ?? "";
  const metafile = result.metafile ?? { inputs: {}, outputs: {} };
  refuseBuiltins(metafile);
  const map = file("bundle.js.map");
  return {
    code: file("bundle.js"),
    map,
    inputs: keptInputs(project, inputPaths(project, metafile), map),
    warnings: result.warnings.map(messageText),
    bundleMs: performance.now() - startedAt,
  };
}

function inputPaths(project: Project, metafile: esbuild.Metafile): string[] {
  return Object.keys(metafile.inputs)
    .filter((path) => path !== "sporeflow:main" && !path.startsWith(`${builtinNamespace}:`))
    .map((path) => resolve(project.cwd, path.replace(/^\(disabled\):/, "")));
}

/** B3 */
async function unchanged(project: Project, startedAt: number): Promise<BuildResult | undefined> {
  const kept = await readKept(project);
  if (kept === undefined || !hasWhatIsNeeded(project, kept.prepared)) return undefined;
  const { outDir, cwd } = project;
  const bundleMs = performance.now() - startedAt;
  return { ...kept, isUnchanged: true, outDir, cwd, bundleMs, compileMs: 0 };
}

function hasWhatIsNeeded(project: Project, { component }: PreparedComponent): boolean {
  return component !== undefined || !project.needsComponent;
}

async function finish(project: Project, bundle: Bundle): Promise<BuildResult> {
  const bundledAt = performance.now();
  const { cwd, outDir } = project;
  const found = await readComponent(project, bundle.code);
  const kept = found !== undefined && hasWhatIsNeeded(project, found) ? found : undefined;
  const prepared = kept ?? (await compile(project, bundle));
  const result: BuildResult = {
    prepared: withMap(prepared, projectMap(bundle.map, { cwd, outDir })),
    code: bundle.code,
    map: bundle.map,
    isUnchanged: kept !== undefined,
    warnings: bundle.warnings,
    outDir,
    cwd,
    bundleMs: bundle.bundleMs,
    compileMs: performance.now() - bundledAt,
  };
  await keep(project, bundle.inputs, result);
  return result;
}

async function compile(project: Project, bundle: Bundle): Promise<PreparedComponent> {
  const prepared = await project
    .prepare({ kind: "javascript", code: bundle.code })
    .catch((error: unknown) => throwMapped(project, bundle, error));
  checkDefinitions(project, prepared);
  return prepared;
}

function checkDefinitions(project: Project, { manifest }: PreparedComponent): void {
  const file = relative(project.cwd, project.entry);
  if (manifest.definitions.length === 0) {
    throw new SporeError(
      "build-failed",
      `nothing is defined: ${file} and what it imports define no step, workflow or actor`,
      { hint: 'Call step(), workflow() or actor() of "sporeflow/guest" at the top level.' },
    );
  }
  const seen = new Set<string>();
  for (const { kind, name } of manifest.definitions) {
    const key = `${kind} ${name}`;
    if (!seen.has(key)) seen.add(key);
    else throw new SporeError("build-failed", `${file}: the ${key} is defined twice`);
  }
}

function withMap(prepared: PreparedComponent, map: string): PreparedComponent {
  const { component } = prepared;
  if (component === undefined) return prepared;
  return { ...prepared, component: attachToComponent(component, map) };
}

/** What a body with the map may have; with more, the map goes without sources, or not at all. */
const sentBytesMax = 16 * 1024 * 1024;

/** A bundle as a host takes it: with its source map at the end. */
export function deployableBundle(
  code: string,
  map: string,
  folders: { readonly outDir: string; readonly cwd: string },
): string {
  const whole = projectMap(map, folders);
  const bare = (): string => JSON.stringify({ ...JSON.parse(whole), sourcesContent: [] });
  for (const candidate of [() => whole, bare]) {
    const sent = attachToBundle(code, candidate());
    if (Buffer.byteLength(sent) <= sentBytesMax) return sent;
  }
  return code;
}

/**
 * The bundle's map as a host shows it: paths relative to the project, the SDK's own marked
 * as such, and sources of the author's files only.
 */
export function projectMap(
  map: string,
  folders: { readonly outDir: string; readonly cwd: string },
): string {
  // The map is esbuild's own.
  const { version, mappings, sources, sourcesContent } = JSON.parse(map) as {
    readonly version: number;
    readonly mappings: string;
    readonly sources: readonly string[];
    readonly sourcesContent?: readonly (string | null)[];
  };
  const paths = sources.map((source) => resolve(folders.outDir, source));
  return JSON.stringify({
    version,
    sources: paths.map((path) => projectPath(path, folders.cwd)),
    sourcesContent: paths.map((path, index) =>
      isUserFile(folders, path) ? (sourcesContent?.[index] ?? null) : null,
    ),
    names: [],
    mappings,
  });
}

function projectPath(path: string, cwd: string): string {
  const inGuest = relative(join(ownFolder, "guest"), path);
  if (!inGuest.startsWith("..")) return `${sdkSource}guest/${slashed(inGuest)}`;
  // esbuild's own modules, and ours, are no files.
  const module = /(?:^|[\\/])(?:sporeflow|node-builtin):(.*)$/.exec(path)?.[1];
  return module === undefined ? slashed(relative(cwd, path)) : `${sdkSource}${module}`;
}

function slashed(path: string): string {
  return path.replaceAll(sep, "/");
}

/** A mapper for a bundle that was written to `outDir`; paths are shown relative to `cwd`. */
export function bundleMapper(map: string, folders: { outDir: string; cwd: string }): SourceMapper {
  return new SourceMapper(map, {
    showPath: (source) => relative(folders.cwd, resolve(folders.outDir, source)),
  });
}

/** What the module threw when it was evaluated, at the author's own line. */
function throwMapped(project: Project, bundle: Bundle, error: unknown): never {
  if (!(error instanceof SporeError) || error.code !== "build-failed") throw error;
  const mapper = bundleMapper(bundle.map, project);
  const isOwn = ({ file }: { file: string }): boolean => isUserFile(project, file);
  const position = mapper.positions(error.message).find(isOwn);
  if (position === undefined) {
    const options = { ...(error.hint && { hint: error.hint }), cause: error };
    throw new SporeError("build-failed", mapper.mapStack(error.message), options);
  }
  const place = `${position.file}:${position.line}:${position.column}`;
  const [head = "", ...frames] = mapper.mapStack(error.message).split("\n");
  const lines = [`${place}: ${head}`, mapper.codeFrame(error.message, isOwn), ...frames];
  throw new SporeError("build-failed", lines.filter((line) => line !== undefined).join("\n"), {
    hint: error.hint ?? absenceHint(head) ?? "This code runs when the module is loaded.",
    cause: error,
  });
}

const absentGlobals: Readonly<Record<string, string>> = {
  process: "pass settings as arguments of a workflow",
  Buffer: "use Uint8Array, TextEncoder, atob and btoa",
  Intl: "format dates and numbers outside, or with plain code",
  require: "use import",
  window: "there is no document either",
  document: "there is no window either",
};

function absenceHint(message: string): string | undefined {
  const name = /(\w+)'? is not defined/.exec(message)?.[1] ?? "";
  if (!Object.hasOwn(absentGlobals, name)) return undefined;
  return `The sandbox has no ${name}: ${absentGlobals[name]}.`;
}

function isUserFile(project: { readonly cwd: string }, file: string): boolean {
  const path = resolve(project.cwd, file);
  const isSdk = path.startsWith(join(ownFolder, "guest") + sep);
  return !isSdk && !path.split(sep).includes("node_modules");
}

/** esbuild's own errors, each with its place and code frame. */
function throwFailure(error: unknown): never {
  const messages: unknown = Reflect.get(Object(error), "errors");
  if (!Array.isArray(messages) || messages.length === 0) throw error;
  const shown: string[] = messages.slice(0, buildDefaults.errorsShownMax).map(messageText);
  const more = messages.length - shown.length;
  if (more > 0) shown.push(`… and ${more} more error${more === 1 ? "" : "s"}`);
  const hint = hintFor(String(messages[0]?.text));
  throw new SporeError("build-failed", shown.join("\n"), hint === undefined ? {} : { hint });
}

function messageText({ text, location }: esbuild.Message): string {
  if (location === null) return text;
  const at = { line: location.line, column: location.column + 1 };
  const place = `${location.file}:${at.line}:${at.column}`;
  return `${place}: ${text}\n${codeFrame(location.lineText, at)}`;
}

function hintFor(text: string): string | undefined {
  const missing = /^Could not resolve "([^"]+)"/.exec(text)?.[1];
  if (missing === undefined) return undefined;
  if (/^[./]/.test(missing)) return "Check the path: it is relative to the importing file.";
  const name = missing.split("/", missing.startsWith("@") ? 2 : 1).join("/");
  return `Install the package: npm install ${name}`;
}

const replacements: Readonly<Record<string, string>> = {
  http: "use fetch",
  https: "use fetch",
  net: "use fetch",
  fs: "steps have no disk: use fetch, put and get, or an actor's state",
  crypto: "use crypto.randomUUID and crypto.getRandomValues",
  timers: 'use sleep of "sporeflow/guest", or setTimeout',
  child_process: "call a service with fetch",
  worker_threads: "start steps or child workflows",
  process: "pass settings as arguments",
  buffer: "use Uint8Array and TextEncoder",
  url: "use the global URL",
  util: "use the globals: TextEncoder, structuredClone",
  events: "use EventTarget, or install the npm package events",
};

/** Fails if the bundle imports a module of Node, naming who imports it. */
function refuseBuiltins(metafile: esbuild.Metafile): void {
  for (const [importer, input] of Object.entries(metafile.inputs)) {
    if (!isInOutput(metafile, importer)) continue;
    for (const { path, kind } of input.imports) {
      if (kind !== "import-statement" || !path.startsWith(`${builtinNamespace}:`)) continue;
      const name = path.slice(builtinNamespace.length + 1);
      const chain = [...importChain(metafile, importer), name];
      const short = name.replace(/^node:/, "").split("/")[0] ?? "";
      const message = `${importer}: ${name} does not exist in the sandbox`;
      throw new SporeError("build-failed", `${message}\n  ${chain.join("\n  → ")}`, {
        hint: `Steps run in a sandbox without Node: ${replacements[short] ?? "use fetch"}.`,
      });
    }
  }
}

function isInOutput(metafile: esbuild.Metafile, input: string): boolean {
  return Object.values(metafile.outputs).some(({ inputs }) => inputs[input] !== undefined);
}

/** The shortest way from the user's entry to a module. */
function importChain(metafile: esbuild.Metafile, target: string): string[] {
  const importers = new Map<string, string>();
  const queue = ["sporeflow:main"];
  for (const path of queue) {
    for (const next of metafile.inputs[path]?.imports ?? []) {
      if (importers.has(next.path)) continue;
      importers.set(next.path, path);
      queue.push(next.path);
    }
  }
  const chain: string[] = [];
  let path: string | undefined = target;
  while (path !== undefined && path !== "sporeflow:main") {
    chain.unshift(path);
    path = importers.get(path);
  }
  return chain;
}
