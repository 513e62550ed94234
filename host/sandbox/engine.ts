/**
 * The Wasm engine that every TypeScript component shares, and components as data for it.
 * Pure WebAssembly API: no node:, no compile on the way of a guest (Workers forbid it),
 * so Node's threads and workerd use the same file.
 *
 * A component made by the QuickJS backend is 13 core modules. Five do the work: `main`
 * (memory, tables, globals, and the guest's frozen heap as data segments), `runtime`
 * (QuickJS), `glue` (lifts and lowers our world), `init` (fills the tables) and `shim`
 * (declares a table). The others serve WASI, which a guest may not have. Components
 * made from different sources differ only in main's data and its memory minimum. So:
 *
 * E1 only the five modules that this host made itself are ever given to V8;
 * E2 of an uploaded component only the bytes of its memory are kept, after its other
 *    modules were found equal to ours. A hostile one is at worst a corrupt heap;
 * E3 every import but the three that an activation needs traps by name: there is no
 *    clock, no randomness, no output to reach, and nothing to deny;
 * E4 at quiescence linear memory is all there is: the stack pointer is back at its base
 *    and the task's context word is 0, checked after each call.
 *
 * We link the modules ourselves and don't use jco's generated glue: it instantiates all
 * 13 modules, keeps an event loop of tasks for a call that never blocks, and takes about
 * 20 µs on each of two calls, where calling the lifted exports directly takes 5.
 *
 * Border: parseComponent, readEngineParts, engineModules, compileEngine, linkable,
 * readBaseline, encodeBaseline, decodeBaseline, createInstance. Faults of a guest are SporeErrors with code guest-trap,
 * guest-memory or guest-output; after one the instance must be thrown away.
 */

import { assert, SporeError } from "../../runtime/errors.ts";
import { type ImageCodec, isEqual, wasmPageBytes } from "../../runtime/image.ts";
import type { Digest } from "../../runtime/ports.ts";

// ---------------------------------------------------------------- types

/** A core module somewhere in a component. */
export interface CoreModule {
  readonly bytes: Uint8Array;
  /** Of its first byte in the component. */
  readonly offset: number;
}

export interface ParsedComponent {
  /** In order of appearance, nested components included. */
  readonly modules: readonly CoreModule[];
  /** Names of the top-level exports. */
  readonly exports: readonly string[];
}

const roles = ["main", "runtime", "glue", "init", "shim"] as const;
type Role = (typeof roles)[number];

/** What tells whether a component was made for this engine. Plain data: it can be bundled. */
export interface EngineIdentity {
  /** Hex sha256 of all five. Same hash: memory of one component runs in the other's modules. */
  readonly hash: string;
  /** Hex sha256 of each; of main everything but memory, data and custom sections. */
  readonly sums: Readonly<Record<Role, string>>;
  /** Bytes of each. */
  readonly sizes: Readonly<Record<Role, number>>;
  /** Pages of the smallest component; no component may have fewer. */
  readonly pagesMin: number;
  /** Places in the table that links the modules. */
  readonly tableSize: number;
}

/** The trusted modules themselves; of main everything but memory, data and custom sections. */
export interface EngineParts extends EngineIdentity {
  readonly bytes: Readonly<Record<Role, Uint8Array>>;
}

/** Compiled modules and what it takes to link them. Can be posted to a thread. */
export interface Engine {
  readonly hash: string;
  readonly pagesMin: number;
  /** Memory cap, written into main: growing past it fails, on every host alike. */
  readonly pagesMax: number;
  readonly tableSize: number;
  readonly modules: Readonly<Record<Exclude<Role, "shim">, WebAssembly.Module>>;
}

/** A component as data: what its memory holds before the first activation. */
export interface Baseline {
  /** Hex. */
  readonly component: string;
  /** Hex. */
  readonly engine: string;
  /** Whole pages. */
  readonly memory: Uint8Array;
  /** sha256 of `memory`. */
  readonly memoryHash: Uint8Array;
}

/** One instance of the engine. Any call may throw a guest fault; then drop it. */
export interface GuestInstance {
  /** All of linear memory. Take it anew after each call: growing detaches it. */
  memory(): Uint8Array;
  /** Grows to exactly this many pages; it must not have more. */
  growTo(pages: number): void;
  /** Runs the guest until it is quiet. */
  deliver(activation: Uint8Array): void;
  /** A copy of what the guest drained. */
  drain(): Uint8Array;
  describe(): Uint8Array;
}

/** Limits of what is accepted, in one place. */
export const engineLimits = Object.freeze({
  componentBytesMax: 16 * 1024 * 1024,
  nestingMax: 8,
  modulesMax: 64,
  sectionsMax: 10_000,
  segmentsMax: 100_000,
  /**
   * Default cap of a guest's memory: 512 MiB. An array of 128 MB, a second one that is made of
   * it, and what is on its way; a fan-out of 100,000 steps takes nearly 128 MiB.
   */
  pagesMax: 8192,
  /** Default cap of what one activation drains: 16 MiB. */
  drainedBytesMax: 16 * 1024 * 1024,
});

// ---------------------------------------------------------------- parsing

const magic = 0x6d736100;
const coreVersion = 0x00000001;
const componentVersion = 0x0001000d;
const customSection = 0;
/** Order in which the core specification wants a module's sections. */
const coreSectionOrder = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 10, 11];

interface Section {
  readonly id: number;
  /** Of the contents. */
  readonly start: number;
  readonly end: number;
}

/** Bounded reads with the absolute offset in every complaint. */
class Reader {
  readonly bytes: Uint8Array;
  readonly end: number;
  at: number;

  constructor(bytes: Uint8Array, at: number, end: number) {
    this.bytes = bytes;
    this.at = at;
    this.end = end;
  }

  byte(): number {
    if (this.at >= this.end) throw refused(this.at, "is truncated");
    return this.bytes[this.at++] ?? 0;
  }

  word(): number {
    return (this.byte() | (this.byte() << 8) | (this.byte() << 16) | (this.byte() << 24)) >>> 0;
  }

  /** Unsigned LEB128 of at most 32 bits. */
  count(): number {
    const from = this.at;
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.byte();
      if (shift === 28 && byte > 0x0f) throw refused(from, "has a number over 32 bits");
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw refused(from, "has an over-long number");
  }

  /** Signed LEB128 of 32 bits, as `i32.const` has it. */
  signed(): number {
    const from = this.at;
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.byte();
      value |= (byte & 0x7f) << shift;
      if (byte >= 0x80) continue;
      const used = shift + 7;
      return used < 32 && (byte & 0x40) !== 0 ? value | (-1 << used) : value;
    }
    throw refused(from, "has an over-long number");
  }

  take(length: number): Uint8Array {
    if (length > this.end - this.at) throw refused(this.at, "is truncated");
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }
}

/**
 * The core modules and export names of a component. Reads structure only, in one pass
 * without recursion into types; throws invalid-component with the offset of the trouble.
 */
export function parseComponent(bytes: Uint8Array): ParsedComponent {
  if (bytes.length === 0) throw refused(0, "is empty");
  if (bytes.length > engineLimits.componentBytesMax) {
    throw refused(0, `has ${bytes.length} bytes, over ${engineLimits.componentBytesMax}`);
  }
  const state: ParseState = { bytes, modules: [], exports: [], sections: 0 };
  walkComponent(state, 0, bytes.length, 0);
  return { modules: state.modules, exports: state.exports };
}

interface ParseState {
  readonly bytes: Uint8Array;
  readonly modules: CoreModule[];
  readonly exports: string[];
  sections: number;
}

function walkComponent(state: ParseState, start: number, end: number, depth: number): void {
  if (depth > engineLimits.nestingMax) throw refused(start, "nests components too deep");
  const reader = new Reader(state.bytes, start, end);
  if (reader.word() !== magic) throw refused(start, "isn't WebAssembly");
  const version = reader.word();
  if (version === coreVersion) throw refused(start, "is a core module, not a component");
  if (version !== componentVersion) throw refused(start, "has an unknown version");
  while (reader.at < end) {
    const section = nextSection(state, reader);
    if (section.id === 1) keepModule(state, section);
    if (section.id === 4) walkComponent(state, section.start, section.end, depth + 1);
    if (section.id === 11 && depth === 0) readExports(state, section);
  }
}

function nextSection(state: { sections: number }, reader: Reader): Section {
  state.sections += 1;
  const from = reader.at;
  if (state.sections > engineLimits.sectionsMax) throw refused(from, "has too many sections");
  const id = reader.byte();
  if (id > 12) throw refused(from, `has a section of unknown kind ${id}`);
  const length = reader.count();
  const start = reader.at;
  if (length > reader.end - start) throw refused(from, "has a section that runs past its end");
  reader.at = start + length;
  return { id, start, end: start + length };
}

function keepModule(state: ParseState, section: Section): void {
  const reader = new Reader(state.bytes, section.start, section.end);
  if (reader.word() !== magic || reader.word() !== coreVersion) {
    throw refused(section.start, "has a core module without a core module's header");
  }
  if (state.modules.length === engineLimits.modulesMax) {
    throw refused(section.start, "has too many core modules");
  }
  const bytes = state.bytes.subarray(section.start, section.end);
  state.modules.push({ bytes, offset: section.start });
}

/** Function exports are what we look for; anything else ends the section's reading. */
function readExports(state: ParseState, section: Section): void {
  const reader = new Reader(state.bytes, section.start, section.end);
  for (let rest = reader.count(); rest > 0; rest--) {
    if (reader.byte() > 1) return;
    state.exports.push(new TextDecoder().decode(reader.take(reader.count())));
    if (reader.byte() !== 1) return;
    reader.count();
    if (reader.byte() === 0) continue;
    reader.byte();
    reader.count();
  }
}

/** A core module's sections in order, which is checked. */
function coreSections(module: CoreModule): Section[] {
  const reader = new Reader(module.bytes, 8, module.bytes.length);
  const sections: Section[] = [];
  const state = { sections: 0 };
  let before = -1;
  while (reader.at < reader.end) {
    const section = nextSection(state, reader);
    sections.push(section);
    if (section.id === customSection) continue;
    const place = coreSectionOrder.indexOf(section.id);
    if (place <= before) {
      throw refused(module.offset + section.start, "has sections out of order");
    }
    before = place;
  }
  return sections;
}

/** Main without what differs between components: memory, data, data count, custom sections. */
function skeleton(module: CoreModule): Uint8Array {
  const kept = coreSections(module).filter(({ id }) => ![0, 5, 11, 12].includes(id));
  return concat(kept.map((section) => sectionBytes(module.bytes, section)));
}

function sectionBytes(bytes: Uint8Array, { id, start, end }: Section): Uint8Array {
  return concat([Uint8Array.of(id), lebBytes(end - start), bytes.subarray(start, end)]);
}

// ---------------------------------------------------------------- the engine

/**
 * Finds the engine in a component that this host made from its own source. It compiles
 * every module to see its imports and exports: never call it with a stranger's bytes (E1).
 */
export function readEngineParts(component: Uint8Array, digest: Digest): EngineParts {
  const found = new Map<Role, CoreModule>();
  for (const module of parseComponent(component).modules) {
    const role = roleOf(new WebAssembly.Module(bufferSource(module.bytes)));
    if (role === undefined) continue;
    assert(!found.has(role), `the engine has one ${role} module`);
    found.set(role, module);
  }
  const main = found.get("main");
  assert(main !== undefined, "the engine has a main module");
  const parts = roles.map((role) => {
    const module = found.get(role);
    assert(module !== undefined, `the engine has a ${role} module`);
    const bytes = role === "main" ? skeleton(module) : module.bytes.slice();
    return { role, bytes, sum: hex(digest.sha256(bytes)) };
  });
  const record = <T>(value: (part: (typeof parts)[number]) => T): Record<Role, T> =>
    Object.fromEntries(parts.map((part) => [part.role, value(part)])) as Record<Role, T>;
  const listing = parts.map(({ role, sum }) => `${role} ${sum}\n`).join("");
  const bytes = record((part) => part.bytes);
  return {
    hash: hex(digest.sha256(new TextEncoder().encode(listing))),
    bytes,
    sums: record((part) => part.sum),
    sizes: record((part) => part.bytes.length),
    pagesMin: memoryPages(main),
    tableSize: tableSize(bytes.shim),
  };
}

function roleOf(module: WebAssembly.Module): Role | undefined {
  const exports = new Set(WebAssembly.Module.exports(module).map(({ name }) => name));
  const imports = WebAssembly.Module.imports(module);
  if (exports.has("__indirect_function_table")) return "main";
  if (exports.has("wit_dylib_export_call")) return "runtime";
  if (exports.has("[async-lift]deliver")) return "glue";
  if (imports.some((entry) => entry.module === "wit-dylib.wasm")) return "init";
  // Two modules declare a `$imports` table; the smaller one serves a WASI adapter.
  if (exports.has("$imports") && exports.has("21")) return "shim";
  return undefined;
}

/** The modules that a host must have compiled: as bytes, for a build or for `compileEngine`. */
export function engineModules(
  parts: EngineParts,
  pagesMax: number = engineLimits.pagesMax,
): Readonly<Record<Exclude<Role, "shim">, Uint8Array>> {
  const { runtime, glue, init } = parts.bytes;
  return { main: withMemory(parts, pagesMax), runtime, glue, init };
}

/** Compiles the engine once for a whole process. */
export async function compileEngine(
  parts: EngineParts,
  pagesMax: number = engineLimits.pagesMax,
): Promise<Engine> {
  assert(pagesMax >= parts.pagesMin && pagesMax <= 65536, "the memory cap holds the engine");
  const bytes = engineModules(parts, pagesMax);
  const [main, runtime, glue, init] = await Promise.all(
    [bytes.main, bytes.runtime, bytes.glue, bytes.init].map((module) =>
      WebAssembly.compile(bufferSource(module)),
    ),
  );
  assert(main && runtime && glue && init, "each module is compiled");
  return linkable(parts, { main, runtime, glue, init }, pagesMax);
}

/** An engine of modules that were compiled elsewhere, from what `engineModules` gave. */
export function linkable(
  identity: EngineIdentity,
  modules: Engine["modules"],
  pagesMax: number,
): Engine {
  const { hash, pagesMin, tableSize } = identity;
  return { hash, pagesMin, pagesMax, tableSize, modules };
}

/** Main's skeleton with a memory of our size, in its place between tables and globals. */
function withMemory(parts: EngineParts, pagesMax: number): Uint8Array {
  const contents = concat([Uint8Array.of(1, 1), lebBytes(parts.pagesMin), lebBytes(pagesMax)]);
  const memory = concat([Uint8Array.of(5), lebBytes(contents.length), contents]);
  const header = Uint8Array.of(0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0);
  const whole = concat([header, parts.bytes.main]);
  const after = coreSections({ bytes: whole, offset: 0 }).find(({ id }) => id > 5);
  assert(after !== undefined, "main has sections after its memory");
  // `start` is past the section's id and length; step back over both.
  const at = after.start - 1 - lebBytes(after.end - after.start).length;
  return concat([whole.subarray(0, at), memory, whole.subarray(at)]);
}

function tableSize(shim: Uint8Array): number {
  const section = coreSections({ bytes: shim, offset: 0 }).find(({ id }) => id === 4);
  assert(section !== undefined, "the shim declares a table");
  const reader = new Reader(shim, section.start, section.end);
  assert(reader.count() === 1 && reader.byte() === 0x70, "it is one table of functions");
  reader.byte();
  return reader.count();
}

function memoryPages(main: CoreModule): number {
  const section = coreSections(main).find(({ id }) => id === 5);
  if (section === undefined) throw refused(main.offset, "has a main module without memory");
  const reader = new Reader(main.bytes, section.start, section.end);
  if (reader.count() !== 1 || reader.byte() > 1) {
    throw refused(main.offset + section.start, "declares an unusual memory");
  }
  return reader.count();
}

// ---------------------------------------------------------------- components as data

/**
 * Checks that a component is our engine with other memory contents, and takes these (E2).
 * `component` is the id that it gets. Throws invalid-component.
 */
export function readBaseline(
  bytes: Uint8Array,
  component: string,
  engine: { readonly parts: EngineIdentity; readonly pagesMax: number; readonly digest: Digest },
): Baseline {
  const parsed = parseComponent(bytes);
  for (const name of ["deliver", "drain", "describe"]) {
    if (parsed.exports.includes(name)) continue;
    throw refused(0, `doesn't export \`${name}\` of world spore:guest`);
  }
  const main = findMain(parsed, engine.parts, engine.digest);
  const pages = memoryPages(main);
  if (pages < engine.parts.pagesMin || pages > engine.pagesMax) {
    throw refused(main.offset, `needs ${pages} memory pages; ${engine.pagesMax} are allowed`);
  }
  const memory = readSegments(main, pages);
  const memoryHash = engine.digest.sha256(memory);
  return { component, engine: engine.parts.hash, memory, memoryHash };
}

function findMain(parsed: ParsedComponent, parts: EngineIdentity, digest: Digest): CoreModule {
  const missing = new Set<Role>(roles);
  let main: CoreModule | undefined;
  for (const module of parsed.modules) {
    const role = roles.find(
      (name) =>
        name !== "main" &&
        module.bytes.length === parts.sizes[name] &&
        hex(digest.sha256(module.bytes)) === parts.sums[name],
    );
    if (role !== undefined) missing.delete(role);
    else if (main === undefined && isSkeleton(skeleton(module), parts, digest)) main = module;
  }
  if (main !== undefined) missing.delete("main");
  if (main !== undefined && missing.size === 0) return main;
  throw new SporeError(
    "invalid-component",
    `the component's engine isn't this host's: its ${[...missing].join(", ")} differs`,
    { hint: "Build it with the same version of sporeflow that the host runs." },
  );
}

function isSkeleton(bytes: Uint8Array, parts: EngineIdentity, digest: Digest): boolean {
  return bytes.length === parts.sizes.main && hex(digest.sha256(bytes)) === parts.sums.main;
}

/** Main's data segments, put where instantiating would put them. */
function readSegments(main: CoreModule, pages: number): Uint8Array {
  const memory = new Uint8Array(pages * wasmPageBytes);
  const section = coreSections(main).find(({ id }) => id === 11);
  if (section === undefined) return memory;
  const reader = new Reader(main.bytes, section.start, section.end);
  const count = reader.count();
  if (count > engineLimits.segmentsMax) throw refused(main.offset, "has too many data segments");
  for (let rest = count; rest > 0; rest--) {
    const from = main.offset + reader.at;
    if (reader.byte() !== 0 || reader.byte() !== 0x41) {
      throw refused(from, "has a data segment without a constant place");
    }
    const offset = reader.signed();
    if (reader.byte() !== 0x0b) throw refused(from, "has a data segment without a constant place");
    const data = reader.take(reader.count());
    if (offset < 0 || offset + data.length > memory.length) {
      throw refused(from, "has a data segment outside its memory");
    }
    memory.set(data, offset);
  }
  if (reader.at !== section.end) throw refused(main.offset + reader.at, "has stray data bytes");
  return memory;
}

const baselineMagic = 0x4c425053;
const baselineVersion = 1;
const baselineHeaderBytes = 112;
const baselineTrailerBytes = 32;

/**
 * What is stored of a component, integers little-endian: u32 magic "SPBL", u8 version 1,
 * u8 compression (as in an image), u16 zero, 32 bytes engine hash, 32 bytes component id,
 * 32 bytes sha256 of the memory, u32 pages, u32 length of what follows, the memory
 * compressed, then the sha256 of everything before.
 */
export function encodeBaseline(baseline: Baseline, codec: ImageCodec): Uint8Array {
  const packed = codec.compressor.compress(baseline.memory);
  const bytes = new Uint8Array(baselineHeaderBytes + packed.length + baselineTrailerBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, baselineMagic, true);
  view.setUint8(4, baselineVersion);
  view.setUint8(5, codec.compressor.id);
  bytes.set(unhex(baseline.engine), 8);
  bytes.set(unhex(baseline.component), 40);
  bytes.set(baseline.memoryHash, 72);
  view.setUint32(104, baseline.memory.length / wasmPageBytes, true);
  view.setUint32(108, packed.length, true);
  bytes.set(packed, baselineHeaderBytes);
  const end = bytes.length - baselineTrailerBytes;
  bytes.set(codec.digest.sha256(bytes.subarray(0, end)), end);
  return bytes;
}

/**
 * The inverse. Throws corrupt-image for damage, invalid-component for a component of
 * another engine.
 */
export function decodeBaseline(
  bytes: Uint8Array,
  engine: Pick<Engine, "hash" | "pagesMin" | "pagesMax">,
  codec: ImageCodec,
): Baseline {
  const end = bytes.length - baselineTrailerBytes;
  if (end < baselineHeaderBytes) throw damaged("is truncated");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== baselineMagic) throw damaged("doesn't begin with its magic");
  if (view.getUint8(4) !== baselineVersion) throw damaged(`has version ${view.getUint8(4)}`);
  if (!isEqual(codec.digest.sha256(bytes.subarray(0, end)), bytes.subarray(end))) {
    throw damaged("fails its checksum");
  }
  if (view.getUint8(5) !== codec.compressor.id) throw damaged("is compressed in an unknown way");
  const engineHash = hex(bytes.subarray(8, 40));
  if (engineHash !== engine.hash) {
    throw new SporeError("invalid-component", `the component was made for engine ${engineHash}`, {
      hint: "Build it with the same version of sporeflow that the host runs.",
    });
  }
  const pages = view.getUint32(104, true);
  if (pages < engine.pagesMin || pages > engine.pagesMax) throw damaged(`has ${pages} pages`);
  const packed = bytes.subarray(baselineHeaderBytes, end);
  if (packed.length !== view.getUint32(108, true)) throw damaged("has a wrong length");
  const memory = unpackMemory(packed, pages * wasmPageBytes, codec);
  const memoryHash = bytes.slice(72, 104);
  if (!isEqual(codec.digest.sha256(memory), memoryHash)) throw damaged("has other contents");
  return { component: hex(bytes.subarray(40, 72)), engine: engineHash, memory, memoryHash };
}

function unpackMemory(packed: Uint8Array, length: number, codec: ImageCodec): Uint8Array {
  let memory: Uint8Array;
  try {
    memory = codec.compressor.decompress(packed, length);
  } catch (cause) {
    throw damaged("can't be decompressed", cause);
  }
  if (memory.length !== length) throw damaged("has another size than it declares");
  return memory;
}

// ---------------------------------------------------------------- instances

type Imports = Record<string, Record<string, WebAssembly.ImportValue>>;

/** What the host keeps for a call in progress. */
interface Task {
  context: number;
  hasReturned: boolean;
}

/** Links the modules. Its memory holds zeros: write a baseline into it before any call. */
export function createInstance(
  engine: Engine,
  options: { readonly drainedBytesMax?: number } = {},
): GuestInstance {
  const task: Task = { context: 0, hasReturned: false };
  const main = instantiate(engine.modules.main, {
    wasi_snapshot_preview1: { reset_adapter_state: nothing },
  });
  const shared = {
    __indirect_function_table: need(main, "__indirect_function_table"),
    __stack_pointer: need(main, "__stack_pointer"),
    memory: need(main, "memory"),
  };
  const runtime = instantiate(engine.modules.runtime, {
    $root: {
      "[context-get-0]": () => task.context,
      "[context-set-0]": (value: number) => {
        task.context = value;
      },
    },
    "GOT.func": { cabi_realloc: need(main, "componentize_qjs_runtime.wasm:cabi_realloc") },
    "GOT.mem": { __heap_base: need(main, "__heap_base"), __heap_end: need(main, "__heap_end") },
    wasi_snapshot_preview1: { reset_adapter_state: nothing },
    env: { ...shared, ...bases(main, "componentize_qjs_runtime.wasm") },
  });
  const glue = instantiate(engine.modules.glue, {
    "[export]$root": {
      "[task-return]deliver": () => {
        task.hasReturned = true;
      },
    },
    env: { ...runtime, ...shared, ...bases(main, "wit-dylib.wasm") },
  });
  const table = new WebAssembly.Table({
    initial: engine.tableSize,
    maximum: engine.tableSize,
    element: "anyfunc",
  });
  instantiate(engine.modules.init, {
    main,
    "componentize_qjs_runtime.wasm": runtime,
    "wit-dylib.wasm": glue,
    shim: { $imports: table },
  });
  const drainedBytesMax = options.drainedBytesMax ?? engineLimits.drainedBytesMax;
  return new LinkedInstance(engine, { main, glue, task, drainedBytesMax });
}

type Exports = Readonly<Record<string, WebAssembly.ExportValue>>;

/** Instantiates with a trap for every function import that isn't given (E3). */
function instantiate(module: WebAssembly.Module, given: Imports): Exports {
  const imports: Imports = Object.create(null);
  for (const entry of WebAssembly.Module.imports(module)) {
    const group: Record<string, WebAssembly.ImportValue> =
      imports[entry.module] ?? Object.create(null);
    imports[entry.module] = group;
    const value = given[entry.module]?.[entry.name];
    assert(value !== undefined || entry.kind === "function", `${entry.name} can be linked`);
    group[entry.name] = value ?? trap(entry.module, entry.name);
  }
  return new WebAssembly.Instance(module, imports).exports;
}

function bases(main: Exports, library: string): Record<string, WebAssembly.ImportValue> {
  return {
    __memory_base: need(main, `${library}:memory_base`),
    __table_base: need(main, `${library}:table_base`),
  };
}

function nothing(): void {
  // The WASI adapter's allocator state, which nothing uses without the adapter.
}

function need(exports: Exports, name: string): WebAssembly.ExportValue {
  const value = exports[name];
  assert(value !== undefined, `the engine exports ${name}`);
  return value;
}

/** Capabilities that guests reach for by habit, in words that help. */
const explanations: Readonly<Record<string, string>> = {
  "wasi:clocks/wall-clock": "the system clock",
  "wasi:clocks/monotonic-clock": "the system clock",
  "wasi:random/insecure-seed": "system randomness",
  "wasi:cli/stdout": "the console",
  "wasi:cli/stderr": "the console",
  "wasi:filesystem/preopens": "the file system",
};

function trap(module: string, name: string): () => never {
  return () => {
    // What a panicking runtime asks for first, and so does a console.
    if (name === "get-environment") {
      throw new SporeError("guest-trap", "the guest let an error out, or wrote to a console");
    }
    const what = explanations[module.split("@")[0] ?? ""] ?? `the host function ${name}`;
    throw new SporeError("guest-trap", `the guest reached for ${what}, which it doesn't have`);
  };
}

type Call = (...numbers: number[]) => number;

class LinkedInstance implements GuestInstance {
  readonly #memory: WebAssembly.Memory;
  readonly #stackPointer: WebAssembly.Global<"i32">;
  readonly #stackBase: number;
  readonly #task: Task;
  readonly #pagesMax: number;
  readonly #drainedBytesMax: number;
  readonly #realloc: Call;
  readonly #deliver: Call;
  readonly #drain: Call;
  readonly #postDrain: Call;
  readonly #describe: Call;
  readonly #postDescribe: Call;

  constructor(
    engine: Engine,
    linked: { main: Exports; glue: Exports; task: Task; drainedBytesMax: number },
  ) {
    const { main, glue } = linked;
    // The engine's own modules have these exports with these types: readEngineParts saw them.
    this.#memory = need(main, "memory") as WebAssembly.Memory;
    this.#stackPointer = need(main, "__stack_pointer") as WebAssembly.Global<"i32">;
    this.#stackBase = this.#stackPointer.value;
    this.#task = linked.task;
    this.#pagesMax = engine.pagesMax;
    this.#drainedBytesMax = linked.drainedBytesMax;
    this.#realloc = need(glue, "cabi_realloc") as Call;
    this.#deliver = need(glue, "[async-lift]deliver") as Call;
    this.#drain = need(glue, "drain") as Call;
    this.#postDrain = need(glue, "cabi_post_drain") as Call;
    this.#describe = need(glue, "describe") as Call;
    this.#postDescribe = need(glue, "cabi_post_describe") as Call;
  }

  memory(): Uint8Array {
    return new Uint8Array(this.#memory.buffer);
  }

  growTo(pages: number): void {
    const missing = pages - this.#memory.buffer.byteLength / wasmPageBytes;
    assert(missing >= 0, "an instance's memory can't shrink");
    if (missing > 0) this.#memory.grow(missing);
  }

  deliver(activation: Uint8Array): void {
    this.#task.hasReturned = false;
    const status = this.#guarded(() => {
      const pointer = this.#realloc(0, 0, 1, activation.length) >>> 0;
      this.#view(pointer, activation.length).set(activation);
      return this.#deliver(pointer, activation.length);
    });
    if (status !== 0 || !this.#task.hasReturned) {
      throw new SporeError("guest-trap", "the guest's deliver never settled");
    }
    this.#checkQuiet();
  }

  drain(): Uint8Array {
    return this.#collect(this.#drain, this.#postDrain);
  }

  describe(): Uint8Array {
    return this.#collect(this.#describe, this.#postDescribe);
  }

  /** Calls an export that returns a list, copies the list out, and lets the guest free it. */
  #collect(call: Call, post: Call): Uint8Array {
    const result = this.#guarded(() => {
      const pointer = call() >>> 0;
      const area = this.#view(pointer, 8);
      const view = new DataView(area.buffer, area.byteOffset, 8);
      const length = view.getUint32(4, true);
      if (length > this.#drainedBytesMax) {
        throw new SporeError(
          "guest-output",
          `the guest drained ${length} bytes; ${this.#drainedBytesMax} are allowed`,
        );
      }
      const copy = this.#view(view.getUint32(0, true), length).slice();
      post(pointer);
      return copy;
    });
    this.#checkQuiet();
    return result;
  }

  /** A view of guest memory at a place that the guest named: checked, as it may be any. */
  #view(pointer: number, length: number): Uint8Array {
    const bytes = this.memory();
    if (pointer > bytes.length || length > bytes.length - pointer) {
      throw new SporeError("guest-trap", "the guest named a place outside its memory");
    }
    return bytes.subarray(pointer, pointer + length);
  }

  /** E4: otherwise an image of the memory would not be the whole machine. */
  #checkQuiet(): void {
    if (this.#stackPointer.value !== this.#stackBase) {
      throw new SporeError("guest-trap", "the guest's stack isn't empty between calls");
    }
    if (this.#task.context !== 0) {
      throw new SporeError("guest-trap", "the guest left a task behind");
    }
  }

  #guarded<T>(call: () => T): T {
    try {
      return call();
    } catch (error) {
      throw this.#faultOf(error);
    }
  }

  /** Memory at its cap tells exhaustion from other traps; QuickJS aborts where it can't throw. */
  #faultOf(error: unknown): SporeError {
    if (error instanceof SporeError && error.code !== "guest-trap") return error;
    const pages = this.#memory.buffer.byteLength / wasmPageBytes;
    if (pages > this.#pagesMax - memoryMarginPages) {
      const mebibytes = (this.#pagesMax * wasmPageBytes) / 2 ** 20;
      return new SporeError("guest-memory", `the guest used up its ${mebibytes} MiB of memory`, {
        cause: error,
      });
    }
    if (error instanceof SporeError) return error;
    // QuickJS's stack is in linear memory, below everything else: it ends by running past 0.
    const isPastStack = this.#stackPointer.value < stackMarginBytes;
    if (error instanceof RangeError || isPastStack) {
      return new SporeError("guest-trap", "the guest's recursion overflowed the stack", {
        cause: error,
      });
    }
    const reason = error instanceof Error ? error.message : String(error);
    return new SporeError("guest-trap", `the guest trapped: ${reason}`, { cause: error });
  }
}

/** Larger than a stack frame of QuickJS's interpreter. */
const stackMarginBytes = 8192;
/** A growth that failed left at most this much unused: 4 MiB. */
export const memoryMarginPages = 64;

// ---------------------------------------------------------------- bytes

/** Lower-case hex. */
export function hex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

function unhex(text: string): Uint8Array {
  assert(/^[0-9a-f]{64}$/.test(text), "ids of engines and components are hex sha256");
  return Uint8Array.from({ length: 32 }, (_, index) =>
    Number.parseInt(text.slice(index * 2, index * 2 + 2), 16),
  );
}

function lebBytes(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 0x80) {
    bytes.push((rest & 0x7f) | 0x80);
    rest = Math.floor(rest / 128);
  }
  bytes.push(rest);
  return Uint8Array.from(bytes);
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** The WebAssembly API's types want an ArrayBuffer that isn't shared; ours never is. */
function bufferSource(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return new Uint8Array(bytes);
}

function refused(offset: number, what: string): SporeError {
  return new SporeError("invalid-component", `at byte ${offset}: the component ${what}`);
}

function damaged(what: string, cause?: unknown): SporeError {
  return new SporeError("corrupt-image", `the stored component ${what}`, { cause });
}
