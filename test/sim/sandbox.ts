/**
 * The Sandbox port with the real guest SDK in this process, without Wasm: a machine is a
 * `createMachine()`, its memory image the number of a list of activations since the beginning. One
 * activation at a time in the whole world, each an event of its own.
 *
 * Faithful to the contract, and unkind where it allows it: forgets resident memories at
 * random, takes images at random. A rebuilt memory whose answers differ from the journal's
 * is a violation of I5.
 */
import { createHash } from "node:crypto";
import { createMachine, describe } from "../../guest/activation.ts";
import { decode, encode } from "../../guest/cbor.ts";
import type { Activation, Drained, Manifest } from "../../guest/protocol.ts";
import { SporeError } from "../../runtime/errors.ts";
import type {
  ActivateRequest,
  ActivateResult,
  ComponentSource,
  PreparedComponent,
  Sandbox,
} from "../../runtime/ports.ts";
import "./actor-guest.ts";
import { code, type Variant, variantOf } from "./code-guest.ts";
import { watchdog } from "./guest.ts";
import "./programs/player.ts";
import "./run-guests.ts";
import { type SimHost, settle, type World } from "./world.ts";

type Machine = ReturnType<typeof createMachine>;

interface Memory {
  readonly machine: Machine;
  /** Every activation since pristine. */
  readonly activations: Uint8Array[];
  /** Since the last image. */
  guestMs: number;
}

interface Resident {
  readonly memory: Memory;
  readonly version: number;
}

export class SimSandbox implements Sandbox {
  readonly #world: World;
  readonly #host: SimHost;
  readonly #loaded = new Map<string, Manifest>();
  readonly #variants = new Map<string, Variant>();
  readonly #residents = new Map<string, Resident>();
  readonly runsAhead = true;
  /** What the last turn behind a machine left, if it was over at once. */
  readonly #left = new Map<string, Promise<Left | undefined>>();
  /** The end of what is under way on each machine: one activation after the other. */
  readonly #busyUntilMs = new Map<string, number>();

  constructor(world: World, host: SimHost) {
    this.#world = world;
    this.#host = host;
  }

  async prepare(source: ComponentSource): Promise<PreparedComponent> {
    const script = source.kind === "javascript" ? source.code : "component";
    const text = new TextEncoder().encode(script);
    const hash = createHash("sha256").update(text).digest();
    const bytes = new Uint8Array(Buffer.concat([text, hash]));
    const id = hash.toString("hex");
    return { id, bytes, manifest: await this.load(id, bytes) };
  }

  async load(componentId: string, bytes: Uint8Array): Promise<Manifest> {
    this.#variants.set(componentId, variantOf(new TextDecoder().decode(bytes)));
    const manifest = decode(describe()) as Manifest; // written by the SDK
    this.#loaded.set(componentId, manifest);
    return manifest;
  }

  isLoaded(componentId: string): boolean {
    return this.#loaded.has(componentId);
  }

  activate(request: ActivateRequest): Promise<ActivateResult> {
    if (request.from.kind === "ahead") return this.#activateAhead(request, request.from.behind);
    const running = this.#activateLater(request);
    if (request.from.kind === "pristine" && request.after === "keep") {
      const left = running.then((result) => leftBy(result, undefined));
      left.catch(() => undefined);
      this.#left.set(request.machine, left);
    }
    return running;
  }

  /** Like the real one, but it often can't say. */
  async #activateAhead(request: ActivateRequest, behind: string): Promise<ActivateResult> {
    const before = this.#left.get(behind) ?? Promise.resolve(undefined);
    const work = before.then(async (left) => {
      if (left === undefined || this.#host.random.chance(0.1)) return undefined;
      const value = decode(request.activation) as Activation;
      const [turn] = value.inputs;
      if (turn?.kind !== "turn") throw new Error("only turns run ahead");
      const isStale = this.#world.options.mutant?.sandbox?.runsAheadOnOldState === true;
      const state = (isStale ? undefined : left.state) ?? turn.state;
      if (state === undefined) return undefined;
      const given = { ...value, inputs: [{ ...turn, state: left.state ?? state }] };
      const activation = encode({ ...value, inputs: [{ ...turn, state }] });
      const from = { kind: "pristine" } as const;
      const result = await this.#activateLater({ ...request, from, activation });
      this.#world.count("turns ahead");
      return { result, activation: encode(given), next: leftBy(result, state) };
    });
    this.#left.set(
      behind,
      work.then((done) => done?.next),
    );
    const done = await work;
    if (done?.result.kind !== "ok" || done.next === undefined) return { kind: "absent" };
    return { ...done.result, activation: done.activation };
  }

  #activateLater(request: ActivateRequest): Promise<ActivateResult> {
    const world = this.#world;
    const { random } = this.#host;
    return new Promise((resolve, reject) => {
      if (!this.#loaded.has(request.component)) {
        reject(new SporeError("component-not-found", `${request.component} is not loaded`));
        return;
      }
      const from = Math.max(world.nowMs, this.#busyUntilMs.get(request.machine) ?? 0);
      const atMs = from + random.latency(0.3);
      this.#busyUntilMs.set(request.machine, atMs);
      world.at(atMs - world.nowMs, async () => {
        if (this.#host.isCrashed) return;
        const result = await this.#activate(request);
        world.at(random.latency(0.1), () => this.#host.enter(() => resolve(result)));
      });
    });
  }

  release(machine: string): void {
    this.#residents.delete(machine);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  async #activate(request: ActivateRequest): Promise<ActivateResult> {
    const world = this.#world;
    const { random } = this.#host;
    const { machine: name, from } = request;
    world.count("activations");
    if (random.chance(world.faults.evict)) this.#residents.delete(name);
    const variant = this.#variants.get(request.component);
    if (variant !== undefined) code.variant = variant;
    let memory: Memory;
    if (from.kind === "resident") {
      const resident = this.#residents.get(name);
      if (resident === undefined || resident.version !== from.version) return { kind: "absent" };
      memory = resident.memory;
    } else if (from.kind === "pristine") {
      memory = newMemory();
    } else {
      const rebuilt = await this.#rebuild(request);
      if (rebuilt === undefined) {
        return { kind: "fault", fault: "guest-diverged", message: "the machine diverged" };
      }
      memory = rebuilt;
    }
    const isKept = request.after === "keep";
    // The throw-away copy: the same memory made once more.
    const { keepsDiscarded, asksOldMemory } = world.options.mutant?.sandbox ?? {};
    if (!isKept && keepsDiscarded !== true) {
      memory = await copyOf(memory, asksOldMemory === true && random.chance(0.5) ? 1 : 0);
    }
    const activation = request.activation.slice();
    const isHit = this.#isHit(request);
    const drained = await deliver(memory, activation);
    if (watchdog.isDue || isHit) {
      const fault = watchdog.isDue ? "guest-timeout" : "guest-trap";
      watchdog.isDue = false;
      this.#residents.delete(name);
      world.count(`guests: ${fault}`);
      world.trace(`${this.#host.id} activation ${name} ${fault}`);
      return { kind: "fault", fault, message: "injected fault" };
    }
    world.trace(`${this.#host.id} activation ${name} ${drained.length} ${hashOf(drained)}`);
    const version = "version" in from ? from.version + 1 : 1;
    const { state } = decode(drained) as Drained; // written by the SDK
    const guestMs = random.latency(0.5);
    memory.guestMs += guestMs;
    let image: Uint8Array | undefined;
    if (isKept) {
      if (state === "done") this.#residents.delete(name);
      else this.#residents.set(name, { memory, version });
      const isDue = memory.guestMs > request.imageAfterMs;
      if (state !== "done" && isDue && world.options.mutant?.sandbox?.takesNoImages !== true) {
        memory.guestMs = 0;
        const kept = world.options.mutant?.sandbox?.staleImages
          ? memory.activations.slice(0, -1)
          : memory.activations;
        image = sealedImage(world.images.push([...kept]) - 1);
        world.count("images");
      }
    }
    return { kind: "ok", drained, drainedHash: hashOf(drained), guestMs, image };
  }

  /**
   * A fault that is nobody's: of a run that isn't careful yet, and never of a query. With
   * care the same activation succeeds.
   */
  #isHit({ machine, activation, after }: ActivateRequest): boolean {
    if (after !== "keep" || !machine.includes("/r/")) return false;
    const { stepsMax } = decode(activation) as Activation; // encoded by the engine
    return stepsMax > 1 && this.#host.random.chance(this.#world.faults.guest);
  }

  async #rebuild(request: ActivateRequest): Promise<Memory | undefined> {
    const { from } = request;
    if (from.kind !== "rebuild") return undefined;
    this.#world.count("rebuilds");
    this.#world.count("replayed activations", from.journal.length);
    const memory = newMemory();
    const past = from.image === undefined ? [] : this.#world.images[numberOf(from.image)];
    if (past === undefined) throw new Error("an image is one that was taken");
    for (const activation of past) await deliver(memory, activation);
    const { skipsLastEntry, reversesInputs } = this.#world.options.mutant?.sandbox ?? {};
    const skipped = skipsLastEntry === true ? -1 : undefined;
    for (const entry of from.journal.slice(0, skipped)) {
      const { activation } = entry;
      const drained = await deliver(memory, reversesInputs ? reversed(activation) : activation);
      memory.guestMs += this.#host.random.latency(0.5);
      if (hashOf(drained) === entry.drainedHash) continue;
      this.#world.laws.violate(
        "I5 rebuilt memory answers the same",
        `${request.machine}: ${JSON.stringify(decode(entry.activation))} gave ${hashOf(drained)}, not ${entry.drainedHash}`,
      );
      return undefined;
    }
    return memory;
  }
}

const imageHeadBytes = 72;
const imageSumBytes = 16;

/** A number in an image's clothes (image.ts), so that `spore verify` finds nothing wrong with it. */
function sealedImage(number: number): Uint8Array {
  const image = new Uint8Array(imageHeadBytes + 4 + imageSumBytes);
  const view = new DataView(image.buffer);
  image.set(new TextEncoder().encode("SPIM"));
  view.setUint8(4, 1);
  view.setUint32(68, 4, true);
  view.setUint32(imageHeadBytes, number, true);
  const end = image.length - imageSumBytes;
  const sum = createHash("sha256").update(image.subarray(0, end)).digest();
  image.set(sum.subarray(0, imageSumBytes), end);
  return image;
}

function numberOf(image: Uint8Array): number {
  return new DataView(image.buffer, image.byteOffset).getUint32(imageHeadBytes, true);
}

interface Left {
  readonly state: Uint8Array | undefined;
}

function leftBy(result: ActivateResult, before: Uint8Array | undefined): Left | undefined {
  if (result.kind !== "ok") return undefined;
  const { state, commands } = decode(result.drained) as Drained; // written by the SDK
  if (state !== "done") return undefined;
  const last = commands.findLast((command) => command.kind === "state");
  return { state: last?.kind === "state" ? last.value : before };
}

function newMemory(): Memory {
  return { machine: createMachine(), activations: [], guestMs: 0 };
}

/** The same inputs, the last one first. */
function reversed(activation: Uint8Array): Uint8Array {
  const value = decode(activation) as Activation; // encoded by the engine
  return encode({ ...value, inputs: value.inputs.toReversed() });
}

/** The same memory made once more, or as it was so many activations ago. */
async function copyOf({ activations }: Memory, ago: number): Promise<Memory> {
  const copy = newMemory();
  const past = activations.slice(0, activations.length - ago);
  for (const activation of past) await deliver(copy, activation);
  return copy;
}

/** One activation: everything that promise jobs do belongs to it. */
async function deliver(memory: Memory, activation: Uint8Array): Promise<Uint8Array> {
  // V8's stacks show the simulator's own frames, which differ; a real sandbox's don't.
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  try {
    void memory.machine.deliver(activation);
    await settle();
    memory.activations.push(activation);
    return memory.machine.drain();
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}

export function hashOf(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}
