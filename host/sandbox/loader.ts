/**
 * JavaScript to a component without a compiler: a guest that evaluates a bundle in its own
 * memory, which then is the component's pristine memory. For hosts that can start no
 * process (Workers); the engine, the component's id and everything after are the same.
 *
 * The bundle runs as a script in strict mode inside of a function, so its one export list
 * becomes what the function returns. It can spin: whoever calls this bounds the time.
 */
import { SporeError } from "../../runtime/errors.ts";
import { resetMemory, wasmPageBytes } from "../../runtime/image.ts";
import type { Digest } from "../../runtime/ports.ts";
import { type Baseline, createInstance, type Engine, engineLimits } from "./engine.ts";

/**
 * The guest that is compiled once, where there is a compiler. Its first activation is a
 * script in UTF-16; every later call goes to what the script returned.
 */
export const loaderSource = `let guest;
let verdict;
function textOf(bytes) {
  const units = new Uint16Array(bytes.length >> 1);
  for (let i = 0; i < units.length; i++) units[i] = bytes[2 * i] | (bytes[2 * i + 1] << 8);
  let text = "";
  for (let i = 0; i < units.length; i += 4096) {
    text += String.fromCharCode.apply(null, units.subarray(i, i + 4096));
  }
  return text;
}
function evaluate(bytes) {
  try {
    const made = (0, eval)(textOf(bytes));
    for (const name of ["deliver", "drain", "describe"]) {
      if (typeof made[name] !== "function") throw new TypeError("the module exports no " + name);
    }
    new Uint8Array(524288);
    guest = made;
    verdict = new Uint8Array(0);
  } catch (error) {
    const text = String(error) + "\\n" + String((error && error.stack) || "");
    verdict = Uint8Array.from(text.slice(0, 4000), (unit) => unit.charCodeAt(0) & 127);
  }
}
export async function deliver(bytes) {
  if (guest === undefined) evaluate(bytes);
  else await guest.deliver(bytes);
}
export function drain() {
  if (verdict === undefined) return guest.drain();
  const bytes = verdict;
  verdict = undefined;
  return bytes;
}
export function describe() { return guest.describe(); }
`;

const codeCharsMax = 8 * 1024 * 1024;

/** Evaluates a bundled ES module. `id` is the id that it gets. Throws build-failed. */
export function evaluateJavaScript(
  code: string,
  id: string,
  host: { readonly engine: Engine; readonly loader: Baseline; readonly digest: Digest },
): Baseline {
  const { engine, loader, digest } = host;
  const script = scriptOf(code);
  const instance = createInstance(engine);
  instance.growTo(loader.memory.length / wasmPageBytes);
  resetMemory(instance.memory(), loader.memory);
  let problem: Uint8Array;
  try {
    instance.deliver(utf16(script));
    problem = instance.drain();
  } catch (error) {
    if (!(error instanceof SporeError)) throw error;
    throw new SporeError("build-failed", `evaluating the module: ${error.message}`, {
      cause: error,
    });
  }
  if (problem.length > 0) throw failed(new TextDecoder().decode(problem));
  const memory = instance.memory().slice();
  if (memory.length > engineLimits.componentBytesMax) {
    throw new SporeError("build-failed", `the component has ${memory.length} bytes`, {
      hint: "Compute large tables when they are first needed, not at the top level.",
    });
  }
  return { component: id, engine: loader.engine, memory, memoryHash: digest.sha256(memory) };
}

/** The export list that a bundler writes at a module's end. */
const exportList = /(?:^|[;\n}])\s*export\s*\{([^{}]*)\}\s*;?\s*(?:\/\/[^\n]*\s*)*$/;
/** What people write who have no bundler: a declaration at the start of a line. */
const exportedDeclaration =
  /^export(?=\s+(?:(?:async\s+)?function\s*\*?|class|const|let|var)\s+([\w$]+))/gm;

/** The module as a script that returns its exports; its lines stay where they are. */
function scriptOf(code: string): string {
  if (code.length > codeCharsMax) {
    throw new SporeError("build-failed", `the module has ${code.length} characters, too many`, {
      hint: `Keep the bundle under ${codeCharsMax} characters.`,
    });
  }
  const list = exportList.exec(code);
  if (list === null) return scriptOfDeclarations(code);
  const names = (list[1] ?? "").split(",").map((entry) => entry.trim());
  const members = names.filter((entry) => entry !== "").map(memberOf);
  return wrapped(code.slice(0, list.index + list[0].indexOf("export")), members);
}

function scriptOfDeclarations(code: string): string {
  const members: string[] = [];
  const body = code.replaceAll(exportedDeclaration, (_, name: string) => {
    members.push(`${JSON.stringify(name)}: ${name}`);
    return "";
  });
  if (members.length > 0) return wrapped(body, members);
  throw failed("SyntaxError: the module exports nothing");
}

function wrapped(body: string, members: readonly string[]): string {
  return `"use strict";(() => {${body}\nreturn {${members.join(", ")}};})()`;
}

function memberOf(entry: string): string {
  const parts = /^([\w$]+)(?:\s+as\s+(?:([\w$]+)|"([^"\\]*)"))?$/.exec(entry);
  const local = parts?.[1];
  if (local === undefined) throw failed(`SyntaxError: can't read the export \`${entry}\``);
  return `${JSON.stringify(parts?.[2] ?? parts?.[3] ?? local)}: ${local}`;
}

function utf16(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length * 2);
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index);
    bytes[index * 2] = unit & 0xff;
    bytes[index * 2 + 1] = unit >> 8;
  }
  return bytes;
}

function failed(text: string): SporeError {
  return new SporeError("build-failed", text.trim(), {
    hint: "A host on Workers evaluates one bundle as `spore deploy` and esbuild make it: no import, no top-level await, one export list at its end.",
  });
}
