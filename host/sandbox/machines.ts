/**
 * The machines of one thread: which memory an activation starts from, and what becomes of
 * the memory afterwards. Synchronous and free of any platform, so that a thread, a child
 * process and workerd run the same code. Owns instances, resident memories and pristine
 * memories, all of them caches with a limit; threads and time limits are its caller's.
 *
 * A resident machine is live (it keeps its instance, so that its next activation copies
 * nothing) or spilled (its difference from pristine memory; the instance went back to the
 * pool). The least recently used are spilled first, then forgotten.
 *
 * M1 an instance's memory is exact before each call: pristine, an image, a difference or a
 *    live machine's copied in whole, and of exactly the page count that it had, because
 *    `memory.size` is visible to the guest.
 * M2 after a fault the instance is dropped, never pooled.
 * M3 `discard` runs in another instance than the machine's own.
 */
import { decode, encode } from "../../guest/cbor.ts";
import type { Activation, Drained } from "../../guest/protocol.ts";
import { assert, SporeError } from "../../runtime/errors.ts";
import {
  applyDifference,
  difference,
  type Extent,
  extentsOf,
  hash32,
  type ImageBase,
  type ImageCodec,
  openImage,
  resetMemory,
  takeImage,
  wasmPageBytes,
} from "../../runtime/image.ts";
import type { ActivateRequest, ActivateResult } from "../../runtime/ports.ts";
import {
  type Baseline,
  createInstance,
  decodeBaseline,
  type Engine,
  engineLimits,
  type GuestInstance,
  memoryMarginPages,
} from "./engine.ts";

export interface MachinesLimits {
  /** Resident memory of all machines of a thread, live and spilled. Default 256 MiB. */
  readonly residentBytesMax: number;
  /**
   * Machines that keep an instance, 2 MB and more each. Default 128: V8 reserves 10 GB of
   * addresses for each, of the 128 TB that a process has.
   */
  readonly liveMax: number;
  /** Idle instances; each keeps its memory. Default 8. */
  readonly pooledMax: number;
  /** Pristine memories kept uncompressed. Default 64 MiB. */
  readonly baselineBytesMax: number;
  /** What one activation may drain. Default 16 MiB. */
  readonly drainedBytesMax: number;
}

export const machinesDefaults: MachinesLimits = Object.freeze({
  residentBytesMax: 256 * 1024 * 1024,
  liveMax: 128,
  pooledMax: 8,
  baselineBytesMax: 64 * 1024 * 1024,
  drainedBytesMax: engineLimits.drainedBytesMax,
});

export interface MachinesPorts {
  readonly engine: Engine;
  readonly codec: ImageCodec;
  readonly limits: MachinesLimits;
  /** For `guestMs` only; any origin. */
  nowMs(): number;
  /** Called before each entry into a guest: a watchdog measures from here. */
  onEntry(): void;
}

interface Resident {
  readonly component: string;
  readonly version: number;
  /** Guest time since the last image. */
  readonly guestMs: number;
  /** Bytes of activations since the last image. */
  readonly givenBytes: number;
  readonly memory:
    | { readonly kind: "live"; readonly instance: GuestInstance }
    | { readonly kind: "spilled"; readonly pages: number; readonly plain: Uint8Array };
}

interface Base extends ImageBase {
  readonly extents: readonly Extent[];
}

/** An activation's own instance, and what its machine had been through before. */
interface Work {
  readonly instance: GuestInstance;
  readonly base: Base;
  readonly version: number;
  guestMs: number;
  givenBytes: number;
}

/** What a turn drained, and the actor's state before it if that is known. */
interface Left {
  readonly drained: Uint8Array;
  readonly state: Uint8Array | undefined;
}

const leftMax = 16;
const leftBytesMax = 64 * 1024;
const spilledOverheadBytes = 512;
/** Memory of an idle instance that is kept. */
const pooledBytesMax = 32 * 1024 * 1024;
/** How many times longer a yielding guest may go without an image than a quiet one. */
const yieldedPatience = 50;
/** While a guest goes on, its images cost about one part in so many of its time. */
const imageShare = 20;
/** From so many bytes grown on, a guest that waits goes longer without an image, too. */
const largeBytes = 32 * 1024 * 1024;
/** For each millisecond that the image would take: eleven seconds for 128 MiB. */
const largeShare = 8;
/** What a machine may have been given since its image: all of it is read to make it again. */
const givenBytesMax = 256 * 1024 * 1024;
/** What an image costs to take and to store: bytes by which its memory has grown, a millisecond. */
const grownPerMs = 100_000;

export class Machines {
  readonly #ports: MachinesPorts;
  readonly #stored = new Map<string, Uint8Array>();
  readonly #bases = new Map<string, Base>();
  #basesBytes = 0;
  /** Both in order of use, oldest first. A machine is in at most one of them. */
  readonly #live = new Map<string, Resident>();
  readonly #spilled = new Map<string, Resident>();
  #residentBytes = 0;
  readonly #pool: GuestInstance[] = [];
  #evicted: string[] = [];
  /** What turns left that were over at once, by machine; the last few. */
  readonly #left = new Map<string, Left>();

  constructor(ports: MachinesPorts) {
    this.#ports = ports;
  }

  /** Makes a component known. One that was known is replaced, and its machines forgotten. */
  /** `baseline`: what `stored` holds, if the caller has decoded it. */
  addComponent(component: string, stored: Uint8Array, baseline?: Baseline): void {
    if (this.#stored.has(component)) this.removeComponent(component);
    this.#stored.set(component, stored);
    if (baseline !== undefined) this.#keepBase(component, baseline);
  }

  /** Forgets a component and its machines. */
  removeComponent(component: string): void {
    this.#stored.delete(component);
    this.#dropBase(component);
    for (const residents of [this.#live, this.#spilled]) {
      for (const [machine, resident] of residents) {
        if (resident.component !== component) continue;
        this.release(machine);
        this.#evicted.push(machine);
      }
    }
  }

  /** The component's encoded manifest. Throws guest faults. */
  describe(component: string): Uint8Array {
    const base = this.#base(component);
    const instance = this.#acquire(pagesOf(base.pristine));
    resetMemory(instance.memory(), base.pristine, base.extents);
    this.#ports.onEntry();
    const bytes = instance.describe();
    this.#pool.push(instance);
    return bytes;
  }

  /** Guest faults are results; anything thrown is a fault of the host. */
  activate(request: ActivateRequest): ActivateResult {
    if (request.from.kind === "ahead") return this.#activateAhead(request, request.from.behind);
    try {
      const work = this.#begin(request);
      if (work === undefined) return { kind: "absent" };
      return this.#finish(request, work);
    } catch (error) {
      if (request.after === "keep") this.release(request.machine);
      return faultOf(error);
    }
  }

  #activateAhead(request: ActivateRequest, behind: string): ActivateResult {
    const left = this.#left.get(behind);
    this.#left.delete(behind);
    const given = left === undefined ? undefined : nextTurn(request.activation, left);
    if (given === undefined) return { kind: "absent" };
    const { activation, state } = given;
    const result = this.activate({ ...request, from: { kind: "pristine" }, activation });
    if (result.kind !== "ok") return result;
    if (stateOf(result.drained) !== "done") return { kind: "absent" };
    this.#leave(behind, { drained: result.drained, state });
    return { ...result, activation };
  }

  /** Kept for a turn that may be asked for behind this one. */
  #leave(machine: string, left: Left): void {
    if (left.drained.length > leftBytesMax) return;
    this.#left.set(machine, left);
    for (const oldest of this.#left.keys()) {
      if (this.#left.size <= leftMax) return;
      this.#left.delete(oldest);
    }
  }

  isResident(machine: string): boolean {
    return this.#live.has(machine) || this.#spilled.has(machine);
  }

  release(machine: string): void {
    const resident = this.#take(machine);
    if (resident?.memory.kind === "live") this.#giveBack(resident.memory.instance);
  }

  /** Of all memories that are kept. */
  get residentBytes(): number {
    return this.#residentBytes;
  }

  /** Machines forgotten for want of room since the last call. */
  takeEvicted(): string[] {
    const evicted = this.#evicted;
    this.#evicted = [];
    return evicted;
  }

  #begin(request: ActivateRequest): Work | undefined {
    switch (request.from.kind) {
      case "pristine":
        return this.#fromPristine(request);
      case "resident":
        return this.#fromResident(request, request.from.version);
      case "rebuild":
        return this.#rebuild(request, request.from);
      case "ahead":
        throw new SporeError("internal", "what runs ahead begins as pristine");
    }
  }

  #fromPristine(request: ActivateRequest): Work {
    if (request.after === "keep") this.release(request.machine);
    const base = this.#base(request.component);
    const instance = this.#acquire(pagesOf(base.pristine));
    resetMemory(instance.memory(), base.pristine, base.extents);
    return { instance, base, version: 0, guestMs: 0, givenBytes: 0 };
  }

  #fromResident(request: ActivateRequest, version: number): Work | undefined {
    const { machine, component } = request;
    const resident = this.#live.get(machine) ?? this.#spilled.get(machine);
    if (resident === undefined) return undefined;
    if (resident.version !== version || resident.component !== component) {
      if (request.after === "keep") this.release(machine);
      return undefined;
    }
    const base = this.#base(component);
    const { guestMs, givenBytes, memory } = resident;
    if (request.after === "keep") this.#take(machine);
    if (memory.kind === "live" && request.after === "keep") {
      return { instance: memory.instance, base, version, guestMs, givenBytes };
    }
    if (memory.kind === "live") {
      const source = memory.instance.memory();
      const instance = this.#acquire(pagesOf(source));
      instance.memory().set(source);
      return { instance, base, version, guestMs, givenBytes };
    }
    const instance = this.#acquire(memory.pages);
    resetMemory(instance.memory(), base.pristine, base.extents);
    applyDifference(memory.plain, instance.memory());
    return { instance, base, version, guestMs, givenBytes };
  }

  /** What had enough memory on another host. */
  #enterAgain(work: Work, activation: Uint8Array): { readonly drainedHash: number } {
    try {
      return this.#enter(work, activation);
    } catch (error) {
      if (!(error instanceof SporeError) || error.code !== "guest-memory") throw error;
      throw tooLarge(undefined, this.#ports.engine.pagesMax);
    }
  }

  #rebuild(request: ActivateRequest, from: ActivateRequest["from"] & { kind: "rebuild" }): Work {
    if (request.after === "keep") this.release(request.machine);
    const base = this.#base(request.component);
    const image =
      from.image === undefined ? undefined : openImage(from.image, base, this.#ports.codec);
    const { pagesMax } = this.#ports.engine;
    if (image !== undefined && image.pages > pagesMax) throw tooLarge(image.pages, pagesMax);
    const instance = this.#acquire(image?.pages ?? pagesOf(base.pristine));
    resetMemory(instance.memory(), base.pristine, base.extents);
    if (image !== undefined) applyDifference(image.difference, instance.memory());
    const work = { instance, base, version: from.version, guestMs: 0, givenBytes: 0 };
    for (const [index, entry] of from.journal.entries()) {
      const { drainedHash } = this.#enterAgain(work, entry.activation);
      if (drainedHash === entry.drainedHash) continue;
      if (this.#isFull(work.instance)) throw tooLarge(undefined, pagesMax);
      throw new SporeError(
        "guest-diverged",
        `recomputing journal entry ${index} of ${from.journal.length} gave other commands; ` +
          "a host that allows a guest less memory than the one before may cause that",
      );
    }
    return work;
  }

  #isFull(instance: GuestInstance): boolean {
    return pagesOf(instance.memory()) > this.#ports.engine.pagesMax - memoryMarginPages;
  }

  /** One activation in an instance whose memory is right. */
  #enter(work: Work, activation: Uint8Array): { drained: Uint8Array; drainedHash: number } {
    this.#ports.onEntry();
    const startMs = this.#ports.nowMs();
    work.instance.deliver(activation);
    const drained = work.instance.drain();
    work.guestMs += this.#ports.nowMs() - startMs;
    work.givenBytes += activation.length;
    return { drained, drainedHash: hash32(drained) };
  }

  #finish(request: ActivateRequest, work: Work): ActivateResult {
    const beforeMs = work.guestMs;
    const { drained, drainedHash } = this.#enter(work, request.activation);
    const guestMs = work.guestMs - beforeMs;
    const state = stateOf(drained);
    if (request.after === "discard" || state === "done") {
      this.#giveBack(work.instance);
      if (request.after === "keep") this.#leave(request.machine, { drained, state: undefined });
      return { kind: "ok", drained, drainedHash, guestMs, image: undefined };
    }
    const isImageDue = work.guestMs >= patienceOf(work, state, request.imageAfterMs);
    const image = isImageDue
      ? takeImage(work.instance.memory(), work.base, this.#ports.codec)
      : undefined;
    this.#keep(request.machine, {
      component: request.component,
      version: work.version + 1,
      guestMs: isImageDue ? 0 : work.guestMs,
      givenBytes: isImageDue ? 0 : work.givenBytes,
      memory: { kind: "live", instance: work.instance },
    });
    return { kind: "ok", drained, drainedHash, guestMs, image };
  }

  // ---------------------------------------------------------------- residents

  #keep(machine: string, resident: Resident): void {
    assert(!this.isResident(machine), "a machine has one resident memory");
    (resident.memory.kind === "live" ? this.#live : this.#spilled).set(machine, resident);
    this.#residentBytes += residentBytes(resident);
    const { liveMax, residentBytesMax } = this.#ports.limits;
    while (this.#live.size > liveMax) this.#spillOldest();
    // Not the one that was at work just now: a large one would be computed again each time.
    while (this.#residentBytes > residentBytesMax && this.#live.size + this.#spilled.size > 1) {
      this.#evictOldest();
    }
  }

  /** Removes a machine without giving its instance back. */
  #take(machine: string): Resident | undefined {
    const resident = this.#live.get(machine) ?? this.#spilled.get(machine);
    if (resident === undefined) return undefined;
    this.#live.delete(machine);
    this.#spilled.delete(machine);
    this.#residentBytes -= residentBytes(resident);
    assert(this.#residentBytes >= 0, "resident bytes are counted in pairs");
    return resident;
  }

  #spillOldest(): void {
    const machine = this.#live.keys().next().value;
    assert(machine !== undefined, "there is a live machine to spill");
    const resident = this.#take(machine);
    assert(resident?.memory.kind === "live", "a live machine has an instance");
    const { instance } = resident.memory;
    const memory = instance.memory();
    const { pristine } = this.#base(resident.component);
    const plain = difference(memory, pristine, this.#ports.codec.isSame);
    const spilled: Resident = {
      ...resident,
      memory: { kind: "spilled", pages: pagesOf(memory), plain },
    };
    this.#giveBack(instance);
    this.#spilled.set(machine, spilled);
    this.#residentBytes += residentBytes(spilled);
  }

  #evictOldest(): void {
    // Spilled machines went unused for longer than live ones, nearly always.
    const machine = this.#spilled.keys().next().value ?? this.#live.keys().next().value;
    assert(machine !== undefined, "resident bytes belong to a machine");
    this.release(machine);
    this.#evicted.push(machine);
  }

  // ---------------------------------------------------------------- instances

  /** An instance with exactly this many pages, of any contents (M1). */
  #acquire(pages: number): GuestInstance {
    const index = this.#pool.findLastIndex((instance) => pagesOf(instance.memory()) === pages);
    const [pooled] = index < 0 ? [] : this.#pool.splice(index, 1);
    if (pooled !== undefined) return pooled;
    const { engine, limits } = this.#ports;
    const instance = createInstance(engine, { drainedBytesMax: limits.drainedBytesMax });
    instance.growTo(pages);
    return instance;
  }

  #giveBack(instance: GuestInstance): void {
    // Memory of that size fits no other machine, and is much.
    if (instance.memory().length > pooledBytesMax) return;
    this.#pool.push(instance);
    if (this.#pool.length > this.#ports.limits.pooledMax) this.#pool.shift();
  }

  // ---------------------------------------------------------------- pristine memories

  #base(component: string): Base {
    const known = this.#bases.get(component);
    if (known !== undefined) {
      this.#bases.delete(component);
      this.#bases.set(component, known);
      return known;
    }
    const stored = this.#stored.get(component);
    if (stored === undefined) {
      throw new SporeError("component-not-found", `component ${component} isn't loaded`);
    }
    const { engine, codec } = this.#ports;
    return this.#keepBase(component, decodeBaseline(stored, engine, codec));
  }

  #keepBase(component: string, baseline: Baseline): Base {
    const base: Base = {
      engine: baseline.engine,
      component: baseline.component,
      pristine: baseline.memory,
      pristineHash: baseline.memoryHash,
      extents: extentsOf(baseline.memory),
    };
    this.#bases.set(component, base);
    this.#basesBytes += base.pristine.length;
    this.#trimBases(component);
    return base;
  }

  #trimBases(component: string): void {
    for (const oldest of this.#bases.keys()) {
      if (this.#basesBytes <= this.#ports.limits.baselineBytesMax) return;
      if (oldest !== component) this.#dropBase(oldest);
    }
  }

  #dropBase(component: string): void {
    this.#basesBytes -= this.#bases.get(component)?.pristine.length ?? 0;
    this.#bases.delete(component);
  }
}

/**
 * Guest time after which an image is due. A guest that yielded goes on at once: its image will
 * only be replaced, and that of a large memory takes long to take and to store. So does that of a
 * guest that moves a large value in pieces, and waits for each; until it has been given so much
 * that to give it again would be worse.
 */
function patienceOf(work: Work, state: ReturnType<typeof stateOf>, imageAfterMs: number): number {
  const grown = work.instance.memory().length - work.base.pristine.length;
  const isGiven = work.givenBytes > givenBytesMax;
  if (state !== "yielded" && (grown < largeBytes || isGiven)) return imageAfterMs;
  if (state !== "yielded") return Math.max(imageAfterMs, (grown / grownPerMs) * largeShare);
  return Math.max(imageAfterMs * yieldedPatience, (grown / grownPerMs) * imageShare);
}

function pagesOf(memory: Uint8Array): number {
  return memory.length / wasmPageBytes;
}

function residentBytes({ memory }: Resident): number {
  if (memory.kind === "live") return memory.instance.memory().length;
  return memory.plain.length + spilledOverheadBytes;
}

/** The guest's faults, as results; errors of the host go on to the caller. */
function faultOf(error: unknown): ActivateResult {
  if (!(error instanceof SporeError)) throw error;
  switch (error.code) {
    case "guest-trap":
    case "guest-memory":
    case "guest-output":
    case "memory-too-large":
    case "guest-diverged":
    case "corrupt-image":
      return { kind: "fault", fault: error.code, message: error.message };
    default:
      throw error;
  }
}

/** It grew where a guest may have more than here. */
function tooLarge(pages: number | undefined, pagesMax: number): SporeError {
  const has = pages === undefined ? `over ${mebibytes(pagesMax)}` : mebibytes(pages);
  return new SporeError(
    "memory-too-large",
    `the machine's memory has ${has}; this host gives a guest ${mebibytes(pagesMax)}`,
    { hint: "Serve it with a larger --guest-memory, and resume it." },
  );
}

function mebibytes(pages: number): string {
  return `${Math.ceil((pages * wasmPageBytes) / 2 ** 20)} MiB`;
}

/** The activation with the state that the turn before has left; undefined if it isn't a turn's. */
function nextTurn(
  activation: Uint8Array,
  left: Left,
): { readonly activation: Uint8Array; readonly state: Uint8Array } | undefined {
  const value = decode(activation) as Activation; // encoded by the engine
  const [turn] = value.inputs;
  if (turn?.kind !== "turn") return undefined;
  let state = left.state ?? turn.state;
  for (const command of commandsOf(left.drained)) {
    if (command.kind === "state" && command.value instanceof Uint8Array) state = command.value;
  }
  if (state === undefined) return undefined;
  return { activation: encode({ ...value, inputs: [{ ...turn, state }] }), state };
}

/** What a broken guest drains may be anything. */
function commandsOf(drained: Uint8Array): Drained["commands"] {
  try {
    const { commands } = decode(drained) as Drained; // written by the SDK; else checked here
    const isProper = Array.isArray(commands) && commands.every((command) => command !== null);
    return isProper ? commands : [];
  } catch {
    return []; // the engine will say so when it reads the same bytes
  }
}

/**
 * What a Drained says of its state. Looks at the map's entries without decoding them,
 * because drained bytes may be megabytes that only the engine needs to see; bytes that
 * aren't a Drained are waiting, which keeps memory that nobody asks for a while.
 */
export function stateOf(drained: Uint8Array): Drained["state"] {
  const first = readHead(drained, 0);
  if (first === undefined || first.major !== 5) return "waiting";
  let at: number | undefined = first.next;
  for (let rest = first.value; rest > 0 && at !== undefined; rest--) {
    const isState = hasText(drained, at, "state");
    const value = skipItem(drained, at);
    if (value === undefined) return "waiting";
    if (isState) {
      if (hasText(drained, value, "done")) return "done";
      return hasText(drained, value, "yielded") ? "yielded" : "waiting";
    }
    at = skipItem(drained, value);
  }
  return "waiting";
}

interface Head {
  readonly major: number;
  readonly value: number;
  readonly next: number;
}

function readHead(bytes: Uint8Array, at: number): Head | undefined {
  const first = bytes[at];
  if (first === undefined) return undefined;
  const major = first >> 5;
  const info = first & 31;
  if (info < 24) return { major, value: info, next: at + 1 };
  const length = 1 << (info - 24);
  if (info > 27 || at + 1 + length > bytes.length) return undefined;
  let value = 0;
  for (let index = 1; index <= length; index++) value = value * 256 + (bytes[at + index] ?? 0);
  return { major, value, next: at + 1 + length };
}

/** Where the item after the one at `at` begins. */
function skipItem(bytes: Uint8Array, at: number): number | undefined {
  let next = at;
  for (let items = 1; items > 0; items--) {
    const head = readHead(bytes, next);
    if (head === undefined) return undefined;
    next = head.next;
    if (head.major === 2 || head.major === 3) next += head.value;
    if (head.major === 4) items += head.value;
    if (head.major === 5) items += head.value * 2;
    if (head.major === 6) items += 1;
    // Each item has at least a byte: a count beyond the bytes can't be true.
    if (next > bytes.length || items > bytes.length + 1) return undefined;
  }
  return next;
}

function hasText(bytes: Uint8Array, at: number, text: string): boolean {
  if (bytes[at] !== 0x60 + text.length) return false;
  for (let index = 0; index < text.length; index++) {
    if (bytes[at + 1 + index] !== text.charCodeAt(index)) return false;
  }
  return true;
}
