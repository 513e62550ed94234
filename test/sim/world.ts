/**
 * The simulated world: virtual time, one queue of events, one bucket, hosts that crash,
 * sleep and wake, a network that loses what it likes. Everything in one thread and from one
 * seed: between two events all promise jobs run, nothing else moves.
 *
 * W1 A host's code runs only inside `SimHost.enter`: a crashed host never runs again, a
 *    paused one runs everything that came meanwhile when it wakes (a zombie).
 * W2 What was on its way to the bucket when its host crashed may still be done.
 * W3 The bucket never lies: an answer is always true; only LIST may be stale.
 */

import { createHash } from "node:crypto";
import { calendar } from "../../host/calendar.ts";
import { SporeError } from "../../runtime/errors.ts";
import { Collecting, createHost, type Host, type HostOptions } from "../../runtime/index.ts";
import type { PartitionLimits } from "../../runtime/partition.ts";
import type { ByteRange, ListResult, Ports, PutResult, Store } from "../../runtime/ports.ts";
import { Laws } from "./laws.ts";
import { Ledger } from "./ledger.ts";
import type { Mutant } from "./mutants.ts";
import { ask } from "./network.ts";
import { SimRandom } from "./random.ts";
import { SimSandbox } from "./sandbox.ts";

export const epochMs = 1_800_000_000_000;

export interface FaultRates {
  /** Share of store calls that fail without having been done. */
  readonly failBefore: number;
  /** … that are done, and whose answer is lost. */
  readonly failAfter: number;
  /** … writes that are reported as failed and done later. */
  readonly applyLate: number;
  /** … that take a hundred times as long. */
  readonly slow: number;
  /** LIST answers that miss the newest keys. */
  readonly staleList: number;
  /** Outbound requests that fail before or after they were performed. */
  readonly outbound: number;
  /** Resident memories that the sandbox forgets, per activation. */
  readonly evict: number;
  /** Deliveries to another partition that go wrong in one way or another. */
  readonly messages: number;
  /** Requests between hosts that get lost, come twice or late, or whose answer does. */
  readonly peers: number;
  /** First attempts at an activation that bring their instance down. */
  readonly guest: number;
}

/** More than any simulation needs: something turns in circles. */
const eventsMax = 400_000;
/** Hosts that share talk all the time. */
const sharedEventsMax = 4_000_000;

export const noFaults: FaultRates = {
  failBefore: 0,
  failAfter: 0,
  applyLate: 0,
  slow: 0,
  staleList: 0,
  outbound: 0,
  evict: 0,
  messages: 0,
  peers: 0,
  guest: 0,
};

export interface WorldOptions {
  readonly seed: number;
  readonly partitions: number;
  readonly limits: Partial<PartitionLimits>;
  readonly storeMs: number;
  readonly isVerbose?: boolean;
  readonly mutant?: Mutant | undefined;
  /** Crash the host that makes the store call with this number. */
  readonly crashAtOp?: number | undefined;
  /** Hosts share the partitions; else each new one takes them all. */
  readonly isShared?: boolean;
  /** Hosts collect by themselves. */
  readonly isCollecting?: boolean;
  /** What is special about the host of that number, from 1. */
  readonly hostOptions?: (number: number) => Partial<HostOptions>;
}

interface Event {
  readonly atMs: number;
  readonly tie: number;
  readonly run: () => void | Promise<void>;
  isCancelled: boolean;
}

export class NoAnswer extends Error {
  readonly kind = "no-answer";
}

export class World {
  readonly options: WorldOptions;
  readonly random: SimRandom;
  readonly bucket: Bucket;
  readonly laws: Laws;
  readonly ledger: Ledger;
  readonly hosts: SimHost[] = [];
  readonly lines: string[] = [];
  readonly counts = new Map<string, number>();
  /** What clients had runs do, by their ids: shown with what went wrong with them. */
  readonly stories = new Map<string, string>();
  faults: FaultRates = noFaults;
  /** No host reaches another; all reach the bucket. */
  isCut = false;
  nowMs = 0;
  /** How far jumps have put any host's clock ahead: a run that it woke sleeps so much longer. */
  aheadMs = 0;
  /** What the images stand for, by number. */
  readonly images: Uint8Array[][] = [];
  /** The host whose code runs now (W1), or ran last. */
  running: SimHost | undefined;
  opCount = 0;
  events = 0;
  #crashAtOp: number | undefined;
  #hash = 0x811c9dc5;
  #hostCount = 0;
  readonly #queue: Event[] = [];

  constructor(options: WorldOptions) {
    this.options = options;
    this.random = new SimRandom(options.seed);
    this.laws = new Laws(this);
    this.bucket = new Bucket(this);
    this.ledger = new Ledger(this);
    this.#crashAtOp = options.crashAtOp;
  }

  /** Hash of everything that happened: the same for the same seed. */
  get traceHash(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, "0");
  }

  trace(line: string): void {
    const text = `${this.nowMs.toFixed(2)} ${line}`;
    for (let index = 0; index < text.length; index += 1) {
      this.#hash = Math.imul(this.#hash ^ text.charCodeAt(index), 0x01000193);
    }
    if (this.options.isVerbose === true) this.lines.push(text);
  }

  count(name: string, by = 1): void {
    this.counts.set(name, (this.counts.get(name) ?? 0) + by);
  }

  // ---------------------------------------------------------------- time

  at(delayMs: number, run: () => void | Promise<void>): () => void {
    const event: Event = {
      atMs: this.nowMs + Math.max(0, delayMs),
      tie: this.random.word(),
      run,
      isCancelled: false,
    };
    push(this.#queue, event);
    return () => {
      event.isCancelled = true;
    };
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.at(ms, resolve);
    });
  }

  /** Runs events until `isOver`, or until nothing is left or the time is up: then false. */
  async runUntil(isOver: () => boolean, limitMs: number): Promise<boolean> {
    await settle();
    while (!isOver()) {
      const event = pop(this.#queue);
      if (event === undefined || event.atMs > limitMs) {
        if (event !== undefined) push(this.#queue, event);
        return false;
      }
      if (event.isCancelled) continue;
      if (this.events >= (this.isShared ? sharedEventsMax : eventsMax)) {
        this.laws.violate("liveness", `${this.events} events, and no end`);
        return false;
      }
      this.nowMs = event.atMs;
      this.events += 1;
      const work = event.run();
      if (work !== undefined) await work;
      await settle();
    }
    return true;
  }

  /** Lets the world go on until the work is done. Throws for a broken law, or if it never is. */
  async finished<T>(work: Promise<T>, limitMs = 3_600_000): Promise<T> {
    let isSettled = false;
    const settled = work.finally(() => {
      isSettled = true;
    });
    settled.catch(() => undefined);
    const isOver = await this.runUntil(() => isSettled, this.nowMs + limitMs);
    const [violation] = this.laws.violations;
    if (violation !== undefined) throw new Error(`${violation.law}: ${violation.message}`);
    if (!isOver) throw new Error("nobody answers");
    return settled;
  }

  // ---------------------------------------------------------------- hosts

  /** Brings up one more host, which takes all partitions that it can. */
  startHost(): SimHost {
    this.#hostCount += 1;
    const id = `h${this.#hostCount}`;
    const options = this.options.hostOptions?.(this.#hostCount) ?? {};
    const host = new SimHost(this, id, { ...(this.isShared ? { address: id } : {}), ...options });
    this.hosts.push(host);
    this.trace(`host ${host.id} starts`);
    this.count("hosts");
    host.boot();
    return host;
  }

  get isShared(): boolean {
    return this.options.isShared === true;
  }

  get liveHosts(): SimHost[] {
    return this.hosts.filter((host) => !host.isCrashed);
  }

  /** Counts a store call; true if the host has to crash at this one. */
  storeCall(): boolean {
    this.opCount += 1;
    if (this.opCount !== this.#crashAtOp) return false;
    this.#crashAtOp = undefined;
    return true;
  }

  endCrashes(): void {
    this.#crashAtOp = undefined;
  }
}

/** Everything that promise jobs can do is done when this resolves. */
export function settle(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

function before(left: Event, right: Event): boolean {
  return left.atMs !== right.atMs ? left.atMs < right.atMs : left.tie < right.tie;
}

function push(heap: Event[], event: Event): void {
  let at = heap.length;
  heap.push(event);
  while (at > 0) {
    const parent = (at - 1) >> 1;
    const above = heap[parent];
    if (above === undefined || !before(event, above)) break;
    heap[at] = above;
    at = parent;
  }
  heap[at] = event;
}

function pop(heap: Event[]): Event | undefined {
  const first = heap[0];
  const last = heap.pop();
  if (first === undefined || last === undefined || heap.length === 0) return first;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    let below = heap[child];
    if (below === undefined) break;
    const right = heap[child + 1];
    if (right !== undefined && before(right, below)) {
      child += 1;
      below = right;
    }
    if (!before(below, last)) break;
    heap[at] = below;
    at = child;
  }
  heap[at] = last;
  return first;
}

// ---------------------------------------------------------------- one host's life

export class SimHost {
  readonly id: string;
  readonly world: World;
  readonly random: SimRandom;
  readonly sandbox: SimSandbox;
  host: Host | undefined;
  isCrashed = false;
  isPaused = false;
  isReady = false;
  /** Lost a partition: to be dropped or replaced. */
  hasMoved = false;
  isLeaving = false;
  offsetMs = 0;
  rate = 1;
  readonly #options: Partial<HostOptions>;
  #rateSinceMs: number;
  readonly #backlog: (() => void)[] = [];
  readonly #outstanding = new Set<() => void>();
  #collecting: Collecting | undefined;

  constructor(world: World, id: string, options: Partial<HostOptions>) {
    this.world = world;
    this.id = id;
    this.#options = options;
    this.random = world.random.fork();
    this.sandbox = new SimSandbox(world, this);
    this.#rateSinceMs = world.nowMs;
    this.offsetMs = this.random.between(-3000, 3000);
  }

  /** W1. */
  enter(run: () => void): void {
    if (this.isCrashed) return;
    if (this.isPaused) {
      this.#backlog.push(run);
      return;
    }
    this.world.running = this;
    run();
  }

  clockMs(): number {
    const { nowMs } = this.world;
    return Math.floor(
      epochMs + nowMs + this.offsetMs + (nowMs - this.#rateSinceMs) * (this.rate - 1),
    );
  }

  boot(): void {
    this.world.at(0, () =>
      this.enter(() => {
        void this.#boot().catch((error: unknown) => {
          if (!(error instanceof SporeError) || error.kind === "internal") {
            this.world.laws.violate("no-fault", `host ${this.id} can't start: ${String(error)}`);
          }
          this.world.trace(`host ${this.id} can't start: ${String(error)}`);
          this.hasMoved = true;
        });
      }),
    );
  }

  async #boot(): Promise<void> {
    const { world } = this;
    const ports = this.#ports();
    const host = await createHost(ports, {
      hostId: this.id,
      partitions: world.options.partitions,
      limits: world.options.limits,
      ...this.#options,
      onMoved: (partition) => {
        world.trace(`host ${this.id} lost partition ${partition}`);
        world.count("moved");
        this.hasMoved = true;
      },
    });
    this.host = host;
    await host.start();
    if (world.options.isCollecting === true) this.#collectByItself(host, ports);
    world.trace(`host ${this.id} is ready`);
    this.isReady = true;
  }

  #collectByItself(host: Host, ports: Ports): void {
    const isServed = (index: number): boolean =>
      host.status().partitions.some((each) => each.partition === index && each.state === "owned");
    this.#collecting = new Collecting({ ports, prefix: "", isServed });
    this.#collecting.start();
  }

  /** Hands over and ends, as on SIGTERM. */
  leave(): void {
    const { world, host } = this;
    if (host === undefined || this.isLeaving) return;
    world.trace(`host ${this.id} leaves`);
    world.count("leaves");
    this.isLeaving = true;
    this.enter(() => {
      this.#collecting?.stop();
      void host
        .drain(7000)
        .then(() => host.stop())
        .then(() => this.crash());
    });
  }

  crash(): void {
    if (this.isCrashed) return;
    this.world.trace(`host ${this.id} crashes`);
    this.world.count("crashes");
    this.isCrashed = true;
    this.isReady = false;
    for (const fail of [...this.#outstanding]) fail();
    this.#outstanding.clear();
    this.#backlog.length = 0;
  }

  pause(): void {
    if (this.isCrashed || this.isPaused) return;
    this.world.trace(`host ${this.id} stands still`);
    this.world.count("pauses");
    this.isPaused = true;
  }

  wake(): void {
    if (this.isCrashed || !this.isPaused) return;
    this.world.trace(`host ${this.id} goes on`);
    this.isPaused = false;
    for (const run of this.#backlog.splice(0)) this.world.at(0, () => this.enter(run));
  }

  jump(byMs: number): void {
    this.world.trace(`clock of ${this.id} jumps by ${byMs}`);
    this.world.count("clock jumps");
    this.offsetMs += byMs;
    this.world.aheadMs = Math.max(this.world.aheadMs, this.offsetMs);
  }

  drift(rate: number): void {
    const { nowMs } = this.world;
    this.world.count("clock drifts");
    this.offsetMs += (nowMs - this.#rateSinceMs) * (this.rate - 1);
    this.#rateSinceMs = nowMs;
    this.rate = rate;
  }

  /** A client's request: rejects with NoAnswer if the host crashes or doesn't answer in time. */
  call<T>(work: (host: Host) => Promise<T>, timeoutMs: number): Promise<T> {
    const { world } = this;
    return new Promise((resolve, reject) => {
      const lost = (): void => {
        world.at(this.random.latency(1), () => reject(new NoAnswer("no answer")));
        stop();
      };
      const cancel = world.at(timeoutMs, lost);
      const stop = (): void => {
        cancel();
        this.#outstanding.delete(lost);
      };
      this.#outstanding.add(lost);
      if (this.isCrashed) {
        lost();
        return;
      }
      world.at(this.random.latency(1), () =>
        this.enter(() => {
          if (this.host === undefined) return lost();
          work(this.host).then(
            (value) => {
              stop();
              world.at(this.random.latency(1), () => resolve(value));
            },
            (error: unknown) => {
              stop();
              world.at(this.random.latency(1), () => reject(error));
            },
          );
        }),
      );
    });
  }

  #ports(): Ports {
    const { world } = this;
    const random = this.random.fork();
    return {
      store: new SimStore(world, this),
      sandbox: this.sandbox,
      clock: {
        nowMs: () => this.clockMs(),
        after: (delayMs, callback) => {
          let isCancelled = false;
          const cancel = world.at(Math.max(0, delayMs) / this.rate, () =>
            this.enter(() => {
              if (!isCancelled) callback();
            }),
          );
          return () => {
            isCancelled = true;
            cancel();
          };
        },
      },
      calendar,
      random: { bytes: (count) => random.bytes(count) },
      digest: { sha256: (bytes) => new Uint8Array(createHash("sha256").update(bytes).digest()) },
      outbound: { fetch: (request, context) => world.ledger.fetch(this, request, context) },
      observer: {
        log: (level, message, fields) => {
          world.trace(`${this.id} ${level} ${message}`);
          if (level === "error") world.laws.hostError(this, message, fields);
        },
        count: (name, value) => world.count(name, value),
        observe: () => undefined,
      },
      peers: { call: (address, request, options) => ask(this, { address, request, ...options }) },
    };
  }
}

// ---------------------------------------------------------------- the bucket

export class Bucket {
  readonly objects = new Map<string, Uint8Array>();
  readonly #world: World;
  readonly #createdAtMs = new Map<string, number>();
  gets = 0;
  lists = 0;
  puts = 0;
  putBytes = 0;

  constructor(world: World) {
    this.#world = world;
  }

  ageMs(key: string): number {
    return this.#world.nowMs - (this.#createdAtMs.get(key) ?? 0);
  }

  get(key: string, range?: ByteRange): Uint8Array | undefined {
    const bytes = this.objects.get(key);
    this.gets += 1;
    if (bytes === undefined || range === undefined) return bytes?.slice();
    return bytes.slice(range.offset, range.offset + range.length);
  }

  put(host: SimHost, key: string, bytes: Uint8Array, isIfAbsent: boolean): PutResult {
    const mutant = this.#world.options.mutant?.bucket;
    if (isIfAbsent && this.objects.has(key) && mutant?.overwrites !== true) {
      return mutant?.claimsCreated === true ? "created" : "exists";
    }
    if (!this.objects.has(key)) this.#createdAtMs.set(key, this.#world.nowMs);
    this.objects.set(key, bytes);
    this.puts += 1;
    this.putBytes += bytes.length;
    this.#world.laws.written(host, key, bytes);
    return "created";
  }

  delete(host: SimHost, key: string): void {
    this.objects.delete(key);
    this.#world.laws.deleted(host, key);
  }

  list(prefix: string, after: string, limit: number): ListResult {
    this.lists += 1;
    const keys = [...this.objects.keys()].filter((key) => key.startsWith(prefix) && key > after);
    keys.sort();
    return {
      keys: keys.slice(0, limit).map((key) => ({ key, size: this.objects.get(key)?.length ?? 0 })),
      isTruncated: keys.length > limit,
    };
  }
}

/** One host's way to the bucket. */
class SimStore implements Store {
  readonly #world: World;
  readonly #host: SimHost;

  constructor(world: World, host: SimHost) {
    this.#world = world;
    this.#host = host;
  }

  get(key: string, range?: ByteRange): Promise<Uint8Array | undefined> {
    return this.#call(`GET ${key}`, false, () => this.#world.bucket.get(key, range));
  }

  async put(key: string, bytes: Uint8Array, options?: { ifAbsent?: boolean }): Promise<PutResult> {
    const mine = bytes.slice();
    const result = await this.#call(`PUT ${key}`, true, () =>
      this.#world.bucket.put(this.#host, key, mine, options?.ifAbsent === true),
    );
    this.#world.laws.putAnswered(this.#host, key, mine, result);
    return result;
  }

  delete(key: string): Promise<void> {
    return this.#call(`DELETE ${key}`, true, () => this.#world.bucket.delete(this.#host, key));
  }

  list(prefix: string, options: { after?: string; limit?: number } = {}): Promise<ListResult> {
    const limit = options.limit ?? 1000;
    return this.#call(`LIST ${prefix}`, false, () => {
      const found = this.#world.bucket.list(prefix, options.after ?? "", limit);
      if (!this.#host.random.chance(this.#world.faults.staleList)) return found;
      const shown = this.#host.random.below(found.keys.length + 1);
      // Tenants' are shown after a while: a collection goes by that (collector.ts C5).
      const isOld = (key: string): boolean =>
        key.startsWith("tenants/") && this.#world.bucket.ageMs(key) > 1000;
      const keys = found.keys.filter(({ key }, index) => index < shown || isOld(key));
      return { keys, isTruncated: false };
    });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #call<T>(what: string, isWrite: boolean, work: () => T): Promise<T> {
    const world = this.#world;
    const host = this.#host;
    const { random } = host;
    const { faults } = world;
    const isSlow = random.chance(faults.slow);
    const typical = world.options.storeMs * (isSlow ? 100 : 1);
    const thereMs = random.latency(typical);
    const backMs = random.latency(typical);
    const isLateDelete =
      world.options.mutant?.bucket?.deletesLate === true &&
      what.startsWith("DELETE objects/") &&
      random.chance(0.5);
    const fault = isLateDelete ? "applied late" : faultOf(random, faults, isWrite);
    if (isSlow) world.count("slow calls");
    return new Promise((resolve, reject) => {
      const fail = (): void =>
        reject(new SporeError("store-unavailable", `injected fault: ${fault}`));
      if (fault !== undefined) world.count(`store: ${fault}`);
      const apply = (): T | undefined => {
        // W2: what a crashed host had sent arrives, or not.
        if (host.isCrashed && random.chance(0.5)) return undefined;
        const result = work();
        world.trace(
          `${host.id} ${what} ${fault ?? ""} ${typeof result === "string" ? result : ""}`,
        );
        return result;
      };
      if (world.storeCall()) {
        const isSent = random.chance(0.5);
        if (isSent) world.at(thereMs, () => void work());
        host.crash();
        return;
      }
      if (fault === "applied late") {
        world.at(thereMs, () => host.enter(fail));
        world.at(thereMs + random.latency(random.pick([5, 100, 3000, 30_000])), () => void apply());
        return;
      }
      world.at(thereMs, () => {
        if (fault === "failed before") {
          world.at(backMs, () => host.enter(fail));
          return;
        }
        if (isWrite && world.options.mutant?.bucket?.answersEarly === true) {
          host.enter(() => resolve("created" as T));
          world.at(10 * backMs, () => {
            if (!host.isCrashed) work();
          });
          return;
        }
        const result = apply();
        world.at(backMs, () =>
          host.enter(() => (fault === "lost reply" ? fail() : resolve(result as T))),
        );
      });
    });
  }
}

function faultOf(
  random: SimRandom,
  faults: FaultRates,
  isWrite: boolean,
): "failed before" | "lost reply" | "applied late" | undefined {
  if (random.chance(faults.failBefore)) return "failed before";
  if (random.chance(faults.failAfter)) return "lost reply";
  if (isWrite && random.chance(faults.applyLate)) return "applied late";
  return undefined;
}
