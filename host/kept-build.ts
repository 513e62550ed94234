/**
 * The last build, kept in its folder: build.json names every input by content, the
 * compiler's own files among them, and every output by its hash (B3 of build.ts). The
 * record is written last and believed only if everything it names is as it says.
 */
import { createHash, randomUUID } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { PreparedComponent } from "../runtime/ports.ts";

/** Where a build is kept, and of what. */
export interface KeptPlace {
  /** Absolute path of the user's entry module. */
  readonly entry: string;
  readonly outDir: string;
}

export interface KeptOutputs {
  readonly prepared: PreparedComponent;
  readonly code: string;
  readonly map: string;
  readonly warnings: readonly string[];
}

export interface KeptInput {
  readonly path: string;
  readonly mtimeMs: number;
  readonly size: number;
  /** "" for a file that was looked for and was not there. */
  readonly hash: string;
}

interface KeptBuild {
  readonly entry: string;
  readonly inputs: readonly KeptInput[];
  readonly outputs: Readonly<Record<string, string>>;
  readonly id: string;
  readonly warnings: readonly string[];
}

const outputs = ["component.bin", "manifest.json", "bundle.js", "bundle.js.map"] as const;
/** Absent where the sandbox knew the bundle already and compiled nothing. */
const componentFile = "component.wasm";

/** The last result, if every input and output is still as it was. */
export function readKept(place: KeptPlace): Promise<KeptOutputs | undefined> {
  return readOutputs(place, (record) => record.inputs.every(isSame));
}

/** The last component, if it was made from the same bundle by the same compiler. */
export async function readComponent(
  place: KeptPlace,
  code: string,
): Promise<PreparedComponent | undefined> {
  const compiler = new Set(compilerFiles());
  const hash = hashOf(code);
  const isSameBundle = ({ inputs, outputs }: KeptBuild): boolean =>
    outputs["bundle.js"] === hash &&
    inputs.every((each) => !compiler.has(each.path) || isSame(each));
  return (await readOutputs(place, isSameBundle))?.prepared;
}

async function readOutputs(
  place: KeptPlace,
  isWanted: (record: KeptBuild) => boolean,
): Promise<KeptOutputs | undefined> {
  try {
    const text = await readFile(join(place.outDir, "build.json"), "utf8");
    const record: KeptBuild = JSON.parse(text);
    if (record.entry !== place.entry || !isWanted(record)) return undefined;
    const files = await Promise.all(outputs.map((name) => readFile(join(place.outDir, name))));
    if (!outputs.every((name, index) => record.outputs[name] === hashOf(files[index] ?? ""))) {
      return undefined;
    }
    const [stored = Buffer.of(), manifest, code, map] = files;
    const component = await readComponentFile(place, record.outputs[componentFile]);
    const prepared: PreparedComponent = {
      id: record.id,
      bytes: bytesOf(stored),
      manifest: JSON.parse(String(manifest)),
      ...(component === undefined ? {} : { component }),
    };
    const { warnings } = record;
    return { prepared, code: String(code), map: String(map), warnings };
  } catch {
    return undefined; // Not there, cut off or of another version: it is built again.
  }
}

/** Throws if the file isn't what the record says. */
async function readComponentFile(
  place: KeptPlace,
  hash: string | undefined,
): Promise<Uint8Array | undefined> {
  if (hash === undefined) return undefined;
  const bytes = await readFile(join(place.outDir, componentFile));
  if (hashOf(bytes) !== hash) throw new Error(`${componentFile} was changed`);
  return bytesOf(bytes);
}

function bytesOf({ buffer, byteOffset, length }: Buffer): Uint8Array {
  return new Uint8Array(buffer, byteOffset, length);
}

/** Writes the outputs, then the record of what they were made from. */
export async function keep(
  place: KeptPlace,
  inputs: readonly KeptInput[],
  result: KeptOutputs,
): Promise<void> {
  const { id, bytes, manifest, component } = result.prepared;
  const files: Readonly<Record<(typeof outputs)[number], Uint8Array | string>> = {
    "component.bin": bytes,
    "manifest.json": `${JSON.stringify(manifest, null, 2)}\n`,
    "bundle.js": result.code,
    "bundle.js.map": result.map,
  };
  const kept: KeptBuild = {
    entry: place.entry,
    inputs,
    outputs: {
      ...Object.fromEntries(outputs.map((name) => [name, hashOf(files[name])])),
      ...(component === undefined ? {} : { [componentFile]: hashOf(component) }),
    },
    id,
    warnings: result.warnings,
  };
  await mkdir(place.outDir, { recursive: true });
  for (const name of outputs) await writeWhole(join(place.outDir, name), files[name]);
  // One of an earlier build would be of other code.
  if (component === undefined) await rm(join(place.outDir, componentFile), { force: true });
  else await writeWhole(join(place.outDir, componentFile), component);
  // Last: it vouches for the others.
  await writeWhole(join(place.outDir, "build.json"), JSON.stringify(kept));
}

/**
 * The state of every file that the result depends on, to be taken right after bundling.
 * `map` is the bundle's source map: it has the contents that were bundled.
 */
export function keptInputs(
  place: KeptPlace,
  bundled: readonly string[],
  map: string,
): readonly KeptInput[] {
  const paths = new Set([...bundled, ...settingsFiles(bundled), ...compilerFiles()]);
  const contents = bundledContents(place, map);
  return [...paths].sort().map((path) => inputOf(path, contents.get(path)));
}

/** package.json and tsconfig.json of every folder that an input is in: they steer esbuild. */
function settingsFiles(inputs: readonly string[]): string[] {
  const folders = new Set<string>();
  for (const input of inputs) {
    for (let folder = dirname(input); !folders.has(folder); folder = dirname(folder)) {
      folders.add(folder);
    }
  }
  return [...folders].flatMap((folder) => [
    join(folder, "package.json"),
    join(folder, "tsconfig.json"),
  ]);
}

/** What the result depends on besides the inputs: the tools and the code that uses them. */
function compilerFiles(): string[] {
  const require = createRequire(import.meta.url);
  const host = fileURLToPath(new URL(".", import.meta.url));
  const sandbox = join(host, "sandbox");
  return [
    require.resolve("esbuild/package.json"),
    require.resolve("componentize-qjs/package.json"),
    join(host, "..", "guest", "spore.wit"),
    ...readdirSync(host)
      .filter((name) => /^((kept-)?build|attached-map)\.\w+$/.test(name))
      .map((name) => join(host, name)),
    ...readdirSync(sandbox).map((name) => join(sandbox, name)),
  ];
}

/** What was bundled, by path: a file may have changed since it was read. */
function bundledContents(place: KeptPlace, map: string): ReadonlyMap<string, string> {
  // The map is esbuild's own, made a moment ago.
  const parsed = JSON.parse(map) as { sources: string[]; sourcesContent: (string | null)[] };
  return new Map(
    parsed.sources.map((source, index) => [
      resolve(place.outDir, source),
      parsed.sourcesContent[index] ?? "",
    ]),
  );
}

function inputOf(path: string, bundled: string | undefined): KeptInput {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined || !stat.isFile()) return { path, mtimeMs: 0, size: 0, hash: "" };
  const bytes = readFileSync(path);
  const hash = hashOf(bytes);
  const isBundled = bundled === undefined || bundled === String(bytes).replace(/^\ufeff/, "");
  // Not what was bundled: no later state of the file may match.
  return isBundled
    ? { path, mtimeMs: stat.mtimeMs, size: stat.size, hash }
    : { path, mtimeMs: -1, size: -1, hash: "changed" };
}

function isSame(kept: KeptInput): boolean {
  const stat = statSync(kept.path, { throwIfNoEntry: false });
  if (stat === undefined || !stat.isFile()) return kept.hash === "";
  if (stat.size !== kept.size) return false;
  return stat.mtimeMs === kept.mtimeMs || hashOf(readFileSync(kept.path)) === kept.hash;
}

function hashOf(bytes: Uint8Array | string): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function writeWhole(path: string, content: Uint8Array | string): Promise<void> {
  const draft = `${path}.${randomUUID()}.draft`;
  await writeFile(draft, content);
  await rename(draft, path);
}
