/**
 * The Sandbox port on Node: guests run in worker threads under a watchdog. Owns threads,
 * which machine is on which, time limits, and the stored bytes of components; what
 * happens to memory inside a thread is machines.ts.
 *
 * T1 each job is answered once: by its thread, or by the watchdog that stopped the thread
 *    in it. The others of a stopped thread run again in its successor; that is safe, as a
 *    job has no effect but on memory that died with the thread.
 * T2 a job is blamed only if the thread was in it, without progress, both when the limit
 *    passed and when the thread had stopped.
 * T3 a machine's jobs go to the thread that has its memory, in the order of the calls.
 *
 * A thread is a fence against mistakes and endless loops. It is no boundary against V8
 * bugs: a host of hostile tenants runs several processes (docs/ARCHITECTURE.md).
 */
import { availableParallelism } from "node:os";
import { setFlagsFromString } from "node:v8";
import { Worker } from "node:worker_threads";
import type { Manifest } from "../../guest/protocol.ts";
import { assert, SporeError } from "../../runtime/errors.ts";
import type {
  ActivateRequest,
  ActivateResult,
  ComponentSource,
  Observer,
  PreparedComponent,
  Sandbox,
} from "../../runtime/ports.ts";
import { baselineCodec, nodeCodec } from "./codec.ts";
import { compileJavaScript, loadEngineParts } from "./compile.ts";
import { componentIdOf } from "./component-id.ts";
import {
  compileEngine,
  decodeBaseline,
  type Engine,
  type EngineParts,
  encodeBaseline,
  engineLimits,
  readBaseline,
} from "./engine.ts";
import { type MachinesLimits, machinesDefaults } from "./machines.ts";
import { decodeManifest, undescribed } from "./manifest.ts";
import {
  type Job,
  type JobBatch,
  Packer,
  packRequest,
  progressWord,
  type Reply,
  type ReplyBatch,
  runningWord,
  unpackResult,
  viewOf,
  type WorkerStart,
} from "./messages.ts";

interface Settings extends MachinesLimits {
  /**
   * Default: all processors but one, which the engine, the store and the network need; but
   * two at least, so that a spinning guest never has all of them. On two cores a second
   * thread gives half as many activations again.
   */
  readonly threads: number;
  /** Time that a guest may take for one activation. Default 5 s. */
  readonly activationMsMax: number;
  /** Cap of each guest's memory, in 64 KiB pages. Default 8192: 512 MiB. */
  readonly memoryPagesMax: number;
  /** Time to evaluate a module at build time. Default 30 s. */
  readonly compileMsMax: number;
  /** Activations waiting or running, in all threads. Default 100,000. */
  readonly queuedMax: number;
}

export type ThreadSandboxOptions = Partial<Settings>;

export const threadSandboxDefaults: Settings = Object.freeze({
  ...machinesDefaults,
  threads: Math.max(2, availableParallelism() - 1),
  activationMsMax: 5000,
  memoryPagesMax: engineLimits.pagesMax,
  compileMsMax: 30_000,
  queuedMax: 100_000,
});

/** Threads that died in a row without finishing a job, after which their jobs are refused. */
const deathsMax = 5;
/**
 * Native stack of a thread. QuickJS counts its own depth and throws an ordinary error at a
 * depth that is the same everywhere; V8's limit varies with how code was compiled, so it
 * must be out of reach.
 */
const stackMebibytes = 16;

/** Starts the threads. The engine is compiled once per process (1.5 s the first time ever). */
export async function createThreadSandbox(
  options: ThreadSandboxOptions = {},
  observer?: Pick<Observer, "count">,
): Promise<ThreadSandbox> {
  const settings = { ...threadSandboxDefaults, ...options };
  // `terminate` can't stop a loop of large memory fills in code that V8 tiers up lazily.
  setFlagsFromString("--no-wasm-dynamic-tiering");
  const parts = await loadEngineParts(nodeCodec.digest);
  const engine = await compileEngine(parts, settings.memoryPagesMax);
  return new Threads({ parts, engine, settings, observer });
}

/** Also says what its threads keep in memory. */
export interface ThreadSandbox extends Sandbox {
  readonly residentMachines: number;
  readonly residentBytes: number;
}

interface ThreadSandboxParts {
  readonly parts: EngineParts;
  readonly engine: Engine;
  readonly settings: Settings;
  readonly observer: Pick<Observer, "count"> | undefined;
}

interface KnownComponent {
  /** In shared memory: one copy for all threads. */
  readonly stored: Uint8Array;
  manifest: Manifest | undefined;
}

class Threads implements ThreadSandbox {
  readonly runsAhead = true;
  readonly #parts: ThreadSandboxParts;
  readonly #threads: Thread[] = [];
  readonly #components = new Map<string, KnownComponent>();
  readonly #preparing = new Map<string, Promise<PreparedComponent>>();
  readonly #places = new Map<string, Thread>();
  #isClosed = false;

  constructor(parts: ThreadSandboxParts) {
    this.#parts = parts;
    const { settings, engine } = parts;
    for (let index = 0; index < settings.threads; index++) {
      const thread: Thread = new Thread({
        engine,
        limits: settings,
        activationMsMax: settings.activationMsMax,
        storedOf: (component) => this.#components.get(component)?.stored,
        onGone: (machine) => this.#forget(machine, thread),
        onEvicted: (count) => parts.observer?.count("spore_memories_evicted_total", count),
      });
      this.#threads.push(thread);
    }
  }

  get residentMachines(): number {
    return this.#threads.reduce((sum, thread) => sum + thread.residentMachines, 0);
  }

  get residentBytes(): number {
    return this.#threads.reduce((sum, thread) => sum + thread.residentBytes, 0);
  }

  async prepare(source: ComponentSource): Promise<PreparedComponent> {
    this.#checkOpen();
    const id = componentIdOf(source, this.#parts.parts.hash, nodeCodec.digest);
    // Once per id: two compilations of one source differ in memory, and the first one counts.
    const running = this.#preparing.get(id);
    if (running !== undefined) return running;
    const known = this.#components.get(id);
    if (known?.manifest !== undefined) {
      return { id, bytes: known.stored.slice(), manifest: known.manifest };
    }
    const preparing = this.#prepare(id, source).finally(() => this.#preparing.delete(id));
    this.#preparing.set(id, preparing);
    return preparing;
  }

  async load(componentId: string, bytes: Uint8Array): Promise<Manifest> {
    this.#checkOpen();
    const known = this.#components.get(componentId);
    const isSame = known !== undefined && Buffer.compare(known.stored, bytes) === 0;
    if (isSame && known.manifest !== undefined) return known.manifest;
    const { component } = decodeBaseline(bytes, this.#parts.engine, nodeCodec);
    if (component !== componentId) {
      throw new SporeError("corrupt-image", `stored component ${componentId} is ${component}`);
    }
    return this.#know(componentId, bytes);
  }

  isLoaded(componentId: string): boolean {
    return this.#components.get(componentId)?.manifest !== undefined;
  }

  async activate(request: ActivateRequest): Promise<ActivateResult> {
    this.#checkOpen();
    if (!this.isLoaded(request.component)) {
      throw new SporeError("component-not-found", `component ${request.component} isn't loaded`);
    }
    const { from } = request;
    const place = this.#places.get(from.kind === "ahead" ? from.behind : request.machine);
    if (place === undefined && (from.kind === "resident" || from.kind === "ahead")) {
      return { kind: "absent" };
    }
    const thread = place ?? this.#idlest();
    if (request.after === "keep") this.#places.set(request.machine, thread);
    return thread.activate(request);
  }

  release(machine: string): void {
    const thread = this.#places.get(machine);
    if (thread === undefined) return;
    this.#places.delete(machine);
    thread.release(machine);
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await Promise.all(this.#threads.map((thread) => thread.close()));
  }

  async #prepare(id: string, source: ComponentSource): Promise<PreparedComponent> {
    const { parts, settings } = this.#parts;
    const component =
      source.kind === "component"
        ? source.bytes
        : await compileJavaScript(source.code, { timeoutMs: settings.compileMsMax });
    const baseline = readBaseline(component, id, {
      parts,
      pagesMax: settings.memoryPagesMax,
      digest: nodeCodec.digest,
    });
    const bytes = encodeBaseline(baseline, baselineCodec);
    const prepared = { id, bytes, manifest: await this.#know(id, bytes) };
    return source.kind === "component" ? prepared : { ...prepared, component };
  }

  /** Makes a component known under these bytes once its manifest has been read. */
  async #know(id: string, bytes: Uint8Array): Promise<Manifest> {
    const before = this.#components.get(id);
    const stored = new Uint8Array(new SharedArrayBuffer(bytes.length));
    stored.set(bytes);
    const known: KnownComponent = { stored, manifest: undefined };
    this.#components.set(id, known);
    this.#dropComponent(id);
    try {
      known.manifest = decodeManifest(await this.#idlest().describe(id));
      return known.manifest;
    } catch (error) {
      if (this.#components.get(id) === known) {
        if (before === undefined) this.#components.delete(id);
        else this.#components.set(id, before);
        this.#dropComponent(id);
      }
      throw error;
    }
  }

  #dropComponent(id: string): void {
    for (const thread of this.#threads) thread.dropComponent(id);
  }

  #idlest(): Thread {
    let busy = 0;
    let idlest: Thread | undefined;
    for (const thread of this.#threads) {
      busy += thread.busy;
      if (idlest === undefined || thread.busy < idlest.busy) idlest = thread;
    }
    assert(idlest !== undefined, "a sandbox has threads");
    if (busy < this.#parts.settings.queuedMax) return idlest;
    throw new SporeError("host-busy", `${busy} activations are waiting for a sandbox thread`);
  }

  #forget(machine: string, thread: Thread): void {
    if (this.#places.get(machine) === thread) this.#places.delete(machine);
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new SporeError("host-stopping", "the sandbox is closed");
  }
}

type Call =
  | { readonly kind: "activate"; readonly id: number; readonly request: ActivateRequest }
  | { readonly kind: "describe"; readonly id: number; readonly component: string };

type Task = Call & {
  settle(answer: Answer): void;
  reject(error: SporeError): void;
};

type Outgoing = Task | (Job & { readonly kind: "release" | "forget" });

type Answer =
  | { readonly kind: "activated"; readonly result: ActivateResult }
  | { readonly kind: "described"; readonly manifest: Uint8Array };

interface ThreadPorts {
  readonly engine: Engine;
  readonly limits: MachinesLimits;
  readonly activationMsMax: number;
  storedOf(component: string): Uint8Array | undefined;
  /** The machine isn't resident in this thread any more. */
  onGone(machine: string): void;
  /** Memories were dropped because there was no room for them. */
  onEvicted(count: number): void;
}

/** One worker thread and its successors. */
class Thread {
  readonly #ports: ThreadPorts;
  /** Unanswered, in the order of the calls. */
  readonly #tasks = new Map<number, Task>();
  /** How many of them are for each machine: its place holds while there are any. */
  readonly #machines = new Map<string, number>();
  readonly #knownComponents = new Set<string>();
  readonly #resident = new Set<string>();
  #residentBytes = 0;
  #outbox: Outgoing[] = [];
  #worker: Worker | undefined;
  #control: Int32Array = new Int32Array(2);
  #lastId = 0;
  #deaths = 0;
  #isClosed = false;
  #isStopping = false;
  #watch: NodeJS.Timeout | undefined;
  #seen = { progress: 0, running: 0, sinceMs: 0 };

  constructor(ports: ThreadPorts) {
    this.#ports = ports;
    this.#start();
  }

  get residentMachines(): number {
    return this.#resident.size;
  }

  get residentBytes(): number {
    return this.#residentBytes;
  }

  /** Unanswered jobs. */
  get busy(): number {
    return this.#tasks.size;
  }

  async activate(request: ActivateRequest): Promise<ActivateResult> {
    const answer = await this.#submit((id) => ({ kind: "activate", id, request }));
    assert(answer.kind === "activated", "an activation is answered as one");
    return answer.result;
  }

  async describe(component: string): Promise<Uint8Array> {
    const answer = await this.#submit((id) => ({ kind: "describe", id, component }));
    if (answer.kind === "described") return answer.manifest;
    const { result } = answer;
    assert(result.kind === "fault", "a description is a manifest or a fault");
    throw new SporeError("invalid-component", `describing the component: ${result.message}`);
  }

  release(machine: string): void {
    this.#resident.delete(machine);
    this.#enqueue({ kind: "release", machine });
  }

  /** Forgets the component's bytes; its next job brings the present ones along. */
  dropComponent(component: string): void {
    if (this.#knownComponents.delete(component)) this.#enqueue({ kind: "forget", component });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearInterval(this.#watch);
    const worker = this.#worker;
    this.#worker = undefined;
    await worker?.terminate();
    this.#rejectAll(new SporeError("host-stopping", "the sandbox is closed"));
  }

  // ---------------------------------------------------------------- sending

  #submit(make: (id: number) => Call): Promise<Answer> {
    this.#lastId = this.#lastId === 0x7fffffff ? 1 : this.#lastId + 1;
    const call = make(this.#lastId);
    return new Promise<Answer>((settle, reject) => {
      const task: Task = { ...call, settle, reject };
      this.#tasks.set(task.id, task);
      if (task.kind === "activate") this.#count(task.request.machine, 1);
      this.#enqueue(task);
      this.#keepWatch();
    });
  }

  #count(machine: string, change: number): void {
    const count = (this.#machines.get(machine) ?? 0) + change;
    if (count === 0) this.#machines.delete(machine);
    else this.#machines.set(machine, count);
  }

  /** Everything that is called in one turn goes as one batch. */
  #enqueue(item: Outgoing): void {
    this.#outbox.push(item);
    if (this.#outbox.length === 1) queueMicrotask(() => this.#flush());
  }

  #flush(): void {
    if (this.#isClosed || this.#isStopping || this.#outbox.length === 0) return;
    const worker = this.#worker ?? this.#start();
    const packer = new Packer();
    const jobs: Job[] = [];
    for (const item of this.#outbox) this.#pack(item, jobs, packer);
    this.#outbox = [];
    const batch: JobBatch = { buffer: packer.finish(), jobs };
    worker.postMessage(batch, [batch.buffer]);
  }

  #pack(item: Outgoing, jobs: Job[], packer: Packer): void {
    if (item.kind === "release" || item.kind === "forget") {
      jobs.push(item);
      return;
    }
    const component = item.kind === "describe" ? item.component : item.request.component;
    const stored = this.#ports.storedOf(component);
    if (!this.#knownComponents.has(component) && stored !== undefined) {
      this.#knownComponents.add(component);
      jobs.push({ kind: "component", component, stored });
    }
    const { id } = item;
    if (item.kind === "describe") jobs.push({ kind: "describe", id, component });
    else jobs.push({ kind: "activate", id, request: packRequest(item.request, packer) });
  }

  // ---------------------------------------------------------------- receiving

  #receive(batch: ReplyBatch): void {
    this.#deaths = 0;
    for (const reply of batch.replies) this.#answer(reply, batch.buffer);
    for (const machine of batch.evicted) this.#lose(machine);
    this.#residentBytes = batch.residentBytes;
    if (batch.evicted.length > 0) this.#ports.onEvicted(batch.evicted.length);
    if (this.#tasks.size === 0) this.#endWatch();
  }

  #answer(reply: Reply, buffer: ArrayBuffer): void {
    const task = this.#close(reply.id);
    if (task === undefined) return;
    switch (reply.kind) {
      case "activated":
        this.#settle(task, unpackResult(reply.result, buffer), reply.isResident);
        return;
      case "described":
        task.settle({ kind: "described", manifest: viewOf(buffer, reply.manifest).slice() });
        return;
      case "threw":
        if (reply.code.startsWith("guest-") && task.kind === "describe") {
          task.reject(undescribed(reply.message));
        } else task.reject(new SporeError(reply.code, reply.message));
    }
  }

  #settle(task: Task, result: ActivateResult, isResident: boolean): void {
    if (task.kind === "activate") {
      const { machine } = task.request;
      if (isResident) this.#resident.add(machine);
      else this.#lose(machine);
    }
    task.settle({ kind: "activated", result });
  }

  /** Takes a task off the list; undefined if it was answered already (T1). */
  #close(id: number): Task | undefined {
    const task = this.#tasks.get(id);
    this.#tasks.delete(id);
    if (task?.kind === "activate") this.#count(task.request.machine, -1);
    return task;
  }

  /** Keeps the place of a machine that has more jobs here: they may make it resident (T3). */
  #lose(machine: string): void {
    this.#resident.delete(machine);
    if (!this.#machines.has(machine)) this.#ports.onGone(machine);
  }

  #rejectAll(error: SporeError): void {
    for (const id of [...this.#tasks.keys()]) this.#close(id)?.reject(error);
    this.#endWatch();
  }

  // ---------------------------------------------------------------- life and death

  #start(): Worker {
    const { engine, limits } = this.#ports;
    const control = new SharedArrayBuffer(8);
    this.#control = new Int32Array(control);
    const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
    const start: WorkerStart = { engine, limits, control };
    const worker = new Worker(new URL(`./worker.${extension}`, import.meta.url), {
      workerData: start,
      execArgv: [],
      env: {},
      resourceLimits: { stackSizeMb: stackMebibytes },
    });
    this.#worker = worker;
    worker.on("message", (batch: ReplyBatch) => {
      if (this.#worker === worker) this.#receive(batch);
    });
    worker.on("error", (error) => void this.#replace(worker, String(error)));
    worker.on("exit", () => void this.#replace(worker, "it ended"));
    // A sandbox at rest keeps no process alive; waiting for an answer does. (Listening to
    // messages takes a reference of its own, so this comes last.)
    if (this.#tasks.size === 0) worker.unref();
    return worker;
  }

  #keepWatch(): void {
    if (this.#watch !== undefined) return;
    this.#worker?.ref();
    this.#seen = { progress: 0, running: 0, sinceMs: performance.now() };
    const everyMs = Math.min(250, Math.max(5, this.#ports.activationMsMax / 20));
    this.#watch = setInterval(() => this.#look(), everyMs);
  }

  #endWatch(): void {
    clearInterval(this.#watch);
    this.#watch = undefined;
    this.#worker?.unref();
  }

  #look(): void {
    const progress = Atomics.load(this.#control, progressWord);
    const running = Atomics.load(this.#control, runningWord);
    const nowMs = performance.now();
    if (running !== this.#seen.running || progress !== this.#seen.progress || running === 0) {
      this.#seen = { progress, running, sinceMs: nowMs };
      return;
    }
    if (nowMs - this.#seen.sinceMs < this.#ports.activationMsMax || this.#isStopping) return;
    void this.#stopIn(running, progress);
  }

  async #stopIn(suspect: number, progress: number): Promise<void> {
    const worker = this.#worker;
    if (worker === undefined) return;
    this.#isStopping = true;
    const control = this.#control;
    await worker.terminate();
    if (this.#worker !== worker) return;
    const isStuck =
      Atomics.load(control, runningWord) === suspect &&
      Atomics.load(control, progressWord) === progress;
    if (isStuck) {
      const limit = this.#ports.activationMsMax;
      const message = `the guest ran for over ${limit} ms without coming to rest`;
      this.#blame(suspect, { kind: "fault", fault: "guest-timeout", message });
    }
    this.#succeed();
  }

  /** The thread died by itself: whatever it was running is to blame. */
  async #replace(worker: Worker, reason: string): Promise<void> {
    if (this.#worker !== worker || this.#isStopping || this.#isClosed) return;
    this.#isStopping = true;
    const running = Atomics.load(this.#control, runningWord);
    await worker.terminate();
    if (this.#worker !== worker) return;
    this.#deaths += 1;
    const message = `the guest's thread died: ${reason}`;
    if (running !== 0) this.#blame(running, { kind: "fault", fault: "guest-memory", message });
    if (this.#deaths >= deathsMax) {
      this.#rejectAll(new SporeError("internal", `sandbox threads keep dying: ${reason}`));
    }
    this.#succeed();
  }

  #blame(id: number, result: ActivateResult): void {
    const task = this.#close(id);
    if (task !== undefined) this.#settle(task, result, false);
  }

  /** A new thread takes over what is unanswered; resident memories are gone. */
  #succeed(): void {
    for (const machine of [...this.#resident]) this.#lose(machine);
    this.#residentBytes = 0;
    this.#knownComponents.clear();
    this.#outbox = [...this.#tasks.values()];
    this.#worker = undefined;
    this.#isStopping = false;
    // One that keeps dying waits for the next job instead of dying in a loop.
    if (!this.#isClosed && this.#deaths < deathsMax) this.#start();
    this.#flush();
    if (this.#tasks.size === 0) this.#endWatch();
  }
}
