/**
 * JavaScript to a component, and the host's own engine from a component of its own.
 * Owns the child process in which a tenant's module is evaluated at build time: its
 * top-level code runs there (in QuickJS, in Wasm), so it may spin, bloat or throw. The
 * child is killed after a time, ends itself above a size, and inherits no environment.
 *
 * We call componentize-qjs, the QuickJS backend that jco itself calls: jco's API exports
 * no componentize, and its command line takes half a second longer to start.
 *
 * Two compilations of one source differ in a few bytes of memory (hash seeds and the
 * time of the build), which is why a baseline is stored and never made again.
 */
import { fork } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { SporeError } from "../../runtime/errors.ts";
import type { Digest } from "../../runtime/ports.ts";
import { type EngineParts, engineLimits, readEngineParts } from "./engine.ts";

export interface CompileOptions {
  /** Default 30 s: a usual module takes 1 to 2 s, on a busy machine several times that. */
  readonly timeoutMs?: number;
  /** Resident memory of the child, most of it for compiling QuickJS itself. Default 1 GiB. */
  readonly memoryBytesMax?: number;
}

const defaults: Required<CompileOptions> = Object.freeze({
  timeoutMs: 30_000,
  memoryBytesMax: 1024 * 1024 * 1024,
});
const codeCharsMax = 8 * 1024 * 1024;
const messageCharsMax = 4000;

/** To the child. */
export interface CompileRequest {
  readonly witPath: string;
  readonly code: string;
  readonly memoryBytesMax: number;
}

/** From the child. */
export type CompileReply =
  | { readonly kind: "ok"; readonly component: Uint8Array }
  | { readonly kind: "failed"; readonly message: string };

/**
 * Taken and freed once at the end of the module, so that the baseline has half a
 * megabyte of free heap: a guest that grows its memory leaves the page count that pooled
 * instances have, and needs a fresh instance whenever it wakes.
 */
const warmUp = "\n;new Uint8Array(524288);";

/** Compiles a bundled ES module. Throws build-failed. */
export async function compileJavaScript(
  code: string,
  options: CompileOptions = {},
): Promise<Uint8Array> {
  if (code.length > codeCharsMax) {
    throw new SporeError("build-failed", `the module has ${code.length} characters, too many`, {
      hint: `Keep the bundle under ${codeCharsMax} characters.`,
    });
  }
  const reply = await runChild(code + warmUp, { ...defaults, ...options });
  if (reply.kind === "failed") throw failed(reply.message);
  if (reply.component.length > engineLimits.componentBytesMax) {
    throw new SporeError("build-failed", `the component has ${reply.component.length} bytes`, {
      hint: "Compute large tables when they are first needed, not at the top level.",
    });
  }
  return reply.component;
}

function runChild(code: string, options: Required<CompileOptions>): Promise<CompileReply> {
  const child = fork(siblingUrl("compile-child"), [], {
    execArgv: [],
    env: {},
    serialization: "advanced",
    stdio: ["ignore", "ignore", "ignore", "ipc"],
  });
  return new Promise<CompileReply>((resolve) => {
    const settle = (reply: CompileReply): void => {
      clearTimeout(timer);
      child.kill("SIGKILL");
      resolve(reply);
    };
    const fail = (message: string): void => settle({ kind: "failed", message });
    const timer = setTimeout(
      () => fail(`evaluating the module took longer than ${options.timeoutMs} ms`),
      options.timeoutMs,
    );
    child.on("message", (reply) => settle(reply as CompileReply)); // our own child's words
    child.on("error", (error) => fail(`the compiler can't be started: ${error.message}`));
    child.on("exit", () => fail("the compiler ended early; the module may need too much memory"));
    const request: CompileRequest = {
      witPath: fileURLToPath(new URL("../../guest/spore.wit", import.meta.url)),
      code,
      memoryBytesMax: options.memoryBytesMax,
    };
    // A failed send is followed by "error" or "exit".
    child.send(request, () => undefined);
  });
}

/** The tool prefixes its own stages; what the author wrote comes after "Error: ". */
function failed(message: string): SporeError {
  const text = message
    .replace(/^[: ]*(Failed to [^:]*: )*/, "")
    .replaceAll("componentize-qjs:user.js", "module")
    .trim()
    .slice(0, messageCharsMax);
  return new SporeError("build-failed", text === "" ? "the module can't be compiled" : text);
}

const engineSource = `let out = new Uint8Array(0);
export async function deliver() {}
export function drain() { return out; }
export function describe() { return out; }`;

/**
 * This host's trusted engine, from a component of a few lines that it compiles itself.
 * The component is kept in `folder` (default: .spore beside the package's sources), which
 * must be as trustworthy as the code; where it can't be written, each process compiles anew.
 */
export async function loadEngineParts(
  digest: Digest,
  folder: URL = new URL("../../.spore/", import.meta.url),
): Promise<EngineParts> {
  const file = new URL(`engine-${await engineKey()}.wasm`, folder);
  const kept = await readKept(file);
  if (kept !== undefined) return readEngineParts(kept, digest);
  const reply = await runChild(engineSource, defaults);
  if (reply.kind === "failed") throw failed(reply.message);
  await keep(file, folder, reply.component);
  return readEngineParts(reply.component, digest);
}

/** Changes with everything that the engine is made from. */
async function engineKey(): Promise<string> {
  const require = createRequire(import.meta.url);
  const tool: unknown = JSON.parse(
    await readFile(require.resolve("componentize-qjs/package.json"), "utf8"),
  );
  const wit = await readFile(new URL("../../guest/spore.wit", import.meta.url));
  const version = (tool as { version?: string }).version ?? "";
  return createHash("sha256").update(`${version}\n`).update(wit).digest("hex").slice(0, 16);
}

async function readKept(file: URL): Promise<Uint8Array | undefined> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch {
    return undefined; // not kept yet: it is made again
  }
  const component = bytes.subarray(0, Math.max(0, bytes.length - 32));
  const sum = createHash("sha256").update(component).digest();
  return sum.equals(bytes.subarray(component.length)) ? component : undefined;
}

async function keep(file: URL, folder: URL, component: Uint8Array): Promise<void> {
  const draft = new URL(`${randomUUID()}.draft`, folder);
  try {
    await mkdir(folder, { recursive: true });
    await writeFile(draft, [component, createHash("sha256").update(component).digest()]);
    await rename(draft, file);
  } catch {
    // Only speed is lost: the next process compiles its engine again.
  }
}

/** A file beside this one, as TypeScript or as what a build made of it. */
function siblingUrl(name: string): URL {
  const extension = import.meta.url.endsWith(".ts") ? ".ts" : ".js";
  return new URL(`./${name}${extension}`, import.meta.url);
}
