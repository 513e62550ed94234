/**
 * What the questions share: an engine in this process on real ports (files with fsync,
 * sandbox threads), the controls that figures are compared with, and the load loops.
 */
import { closeSync, fsyncSync, mkdirSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { decode, encode } from "../guest/cbor.ts";
import type { Drained, Outcome } from "../guest/protocol.ts";
import { build } from "../host/build.ts";
import { calendar } from "../host/calendar.ts";
import { clock, digest, random } from "../host/node.ts";
import { createThreadSandbox } from "../host/sandbox/threads.ts";
import { openStore } from "../host/store/open.ts";
import { createHost, type Host, type HostOptions, type TenantHost } from "../runtime/index.ts";
import type { PreparedComponent, Sandbox, Store } from "../runtime/ports.ts";

/** One measured number, with what it has to be compared with from the same run. */
export interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly target?: Target | undefined;
  readonly control?: Control | undefined;
}

export interface Control {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
}

export type Target = { readonly atLeast: number } | { readonly below: number };

export interface Question {
  readonly name: string;
  /** The question itself, in one line. */
  readonly asks: string;
  run(bench: Bench): Promise<readonly Figure[]>;
}

export interface Bench {
  readonly sandbox: Sandbox;
  readonly component: PreparedComponent;
  readonly code: string;
  /** Those of the sizes that aren't more than was asked for; the first in any case. */
  sizes(all: readonly number[]): readonly number[];
  /** A new folder on the project's disk, removed at the end. */
  folder(): string;
  open(options?: OpenOptions): Promise<Engine>;
  close(): Promise<void>;
}

export interface OpenOptions {
  /** Default: a new one. */
  readonly folder?: string;
  /** A storage URI instead of a folder. */
  readonly storage?: string;
  /** Default: `bench`. */
  readonly hostId?: string;
  /** Of a new storage. Default: the engine's. */
  readonly partitions?: number;
  /** The storage has the component already. */
  readonly isDeployed?: boolean;
  readonly limits?: HostOptions["limits"];
}

export interface Engine {
  readonly tenant: TenantHost;
  readonly host: Host;
  readonly folder: string;
  readonly traffic: Traffic;
  stop(): Promise<void>;
}

/** What went to the store since the last `reset`. */
export interface Traffic {
  puts: number;
  gets: number;
  others: number;
  bytesPut: number;
  reset(): void;
}

export const resultsDir = fileURLToPath(new URL("./results", import.meta.url));
const guestEntry = fileURLToPath(new URL("./guest/index.ts", import.meta.url));

export async function openBench(sizeMax = Number.POSITIVE_INFINITY): Promise<Bench> {
  mkdirSync(resultsDir, { recursive: true });
  const root = mkdtempSync(join(resultsDir, "run-"));
  const sandbox = await createThreadSandbox();
  const built = await build({
    entry: guestEntry,
    outDir: join(resultsDir, ".spore"),
    prepare: (source) => sandbox.prepare(source),
  });
  await sandbox.load(built.prepared.id, built.prepared.bytes);
  let folders = 0;
  const folder = (): string => join(root, String(++folders));
  return {
    sandbox,
    component: built.prepared,
    code: built.code,
    sizes: (all) => all.filter((size, at) => at === 0 || size <= sizeMax),
    folder,
    open: (options = {}) =>
      openEngine({ sandbox, code: built.code }, { folder: folder(), ...options }),
    async close() {
      await sandbox.close();
      rmSync(root, { recursive: true, force: true });
    },
  };
}

async function openEngine(
  { sandbox, code }: { readonly sandbox: Sandbox; readonly code: string },
  options: OpenOptions & { readonly folder: string },
): Promise<Engine> {
  const { folder, storage, hostId = "bench", partitions, limits, isDeployed } = options;
  const inner = await openStore(storage ?? `file:${folder}`);
  const { store, traffic } = counted(inner);
  const outbound = {
    async fetch() {
      return { status: 200, statusText: "OK", url: "", headers: [], body: new Uint8Array(0) };
    },
  };
  const observer = {
    log(level: string, message: string, fields: Readonly<Record<string, unknown>>) {
      if (level !== "error" && level !== "warn") return;
      process.stderr.write(`${level}: ${message} ${JSON.stringify(fields)}\n`);
    },
    count() {},
    observe() {},
  };
  const host = await createHost(
    { store, sandbox, clock, calendar, random, digest, outbound, observer },
    {
      hostId,
      ...(partitions === undefined ? {} : { partitions }),
      ...(limits === undefined ? {} : { limits }),
    },
  );
  await host.start();
  const tenant = host.tenant("default");
  if (isDeployed !== true) await tenant.deploy({ kind: "javascript", code });
  return {
    tenant,
    host,
    folder,
    traffic,
    async stop() {
      await host.stop();
      await inner.close();
    },
  };
}

function counted(store: Store): { readonly store: Store; readonly traffic: Traffic } {
  const traffic: Traffic = {
    puts: 0,
    gets: 0,
    others: 0,
    bytesPut: 0,
    reset() {
      Object.assign(traffic, { puts: 0, gets: 0, others: 0, bytesPut: 0 });
    },
  };
  return {
    traffic,
    store: {
      get(key, range) {
        traffic.gets += 1;
        return store.get(key, range);
      },
      put(key, bytes, options) {
        traffic.puts += 1;
        traffic.bytesPut += bytes.length;
        return store.put(key, bytes, options);
      },
      delete(key) {
        traffic.others += 1;
        return store.delete(key);
      },
      list(prefix, options) {
        traffic.others += 1;
        return store.list(prefix, options);
      },
      close: () => store.close(),
    },
  };
}

// ---------------------------------------------------------------- load

export interface Load {
  readonly inFlight: number;
  readonly ms?: number;
  readonly warmMs?: number;
}

/** How often a second `call` completes with so many of them under way, after a warm-up. */
export async function rate(call: (index: number) => Promise<unknown>, load: Load): Promise<number> {
  return (await rateAndCost(call, load)).perSecond;
}

/** The rate, and the processor time of this process for each call: what other work disturbs less. */
export async function rateAndCost(
  call: (index: number) => Promise<unknown>,
  load: Load,
): Promise<{ readonly perSecond: number; readonly cpuUs: number }> {
  const { inFlight, ms = 3000, warmMs = 1000 } = load;
  const startMs = performance.now();
  const fromMs = startMs + warmMs;
  const endMs = fromMs + ms;
  let index = 0;
  let done = 0;
  let lastMs = fromMs;
  let cpu = process.cpuUsage();
  let isWarm = false;
  await Promise.all(
    Array.from({ length: inFlight }, async () => {
      while (performance.now() < endMs) {
        await call(index++);
        const nowMs = performance.now();
        if (nowMs < fromMs) continue;
        if (!isWarm) cpu = process.cpuUsage();
        isWarm = true;
        done += 1;
        lastMs = nowMs;
      }
    }),
  );
  const { user, system } = process.cpuUsage(cpu);
  return { perSecond: (done * 1000) / (lastMs - fromMs), cpuUs: (user + system) / done };
}

/** How long each of so many calls takes, one after the other; sorted. */
export async function timesOf(
  call: (index: number) => Promise<unknown>,
  load: { readonly count: number; readonly warm?: number },
): Promise<number[]> {
  const { count, warm = 10 } = load;
  const times: number[] = [];
  for (let index = -warm; index < count; index++) {
    const startMs = performance.now();
    await call(index);
    if (index >= 0) times.push(performance.now() - startMs);
  }
  return times.sort((left, right) => left - right);
}

/** Of sorted numbers. */
export function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

export function median(numbers: readonly number[]): number {
  return quantile(
    [...numbers].sort((left, right) => left - right),
    0.5,
  );
}

// ---------------------------------------------------------------- calls

/** Starts a workflow and waits for its result, which must be a success. */
export async function runWorkflow(
  engine: Engine,
  workflow: string,
  args: readonly unknown[],
): Promise<unknown> {
  const started = await engine.tenant.startRun({ workflow, args: encode(args), waitMs: 120_000 });
  return valueIn(started.outcome, workflow);
}

export function callCounter(
  engine: Engine,
  key: string,
  method: string,
  args: readonly unknown[] = [],
): Promise<unknown> {
  return callActor(engine, { type: "Counter", key, method }, args);
}

export async function callActor(
  engine: Engine,
  target: { readonly type: string; readonly key: string; readonly method: string },
  args: readonly unknown[],
): Promise<unknown> {
  const { type, key, method } = target;
  const called = await engine.tenant.callActor({ ...target, args: encode(args) });
  if (called.kind !== "done") throw new Error(`${type}/${key}.${method} did not answer`);
  return valueIn(called.outcome, method);
}

export function valueIn(outcome: Outcome | undefined, what: string): unknown {
  if (outcome?.kind === "ok") return decode(outcome.value);
  throw new Error(`${what} failed: ${outcome?.error.message ?? "it did not end in time"}`);
}

// ---------------------------------------------------------------- controls

/** Writing 4 KiB to a new file and flushing it, on the same disk: sorted times in ms. */
export function fsyncTimes(folder: string, count = 200): number[] {
  mkdirSync(folder, { recursive: true });
  const bytes = new Uint8Array(4096).fill(7);
  const times: number[] = [];
  for (let index = 0; index < count; index++) {
    const startMs = performance.now();
    const fd = openSync(join(folder, String(index)), "wx");
    writeSync(fd, bytes);
    fsyncSync(fd);
    closeSync(fd);
    times.push(performance.now() - startMs);
  }
  return times.sort((left, right) => left - right);
}

export interface Bare {
  /** Round trips a second. */
  readonly rate: number;
  /** Processor time of this process for each. */
  readonly cpuUs: number;
  /** Time in the guest for each, by the clock. */
  readonly guestMs: number;
}

/** The same guest work through the sandbox alone: no engine, no storage. */
export async function bare(
  bench: Bench,
  input: unknown,
  load: { readonly inFlight: number; readonly ms?: number },
): Promise<Bare> {
  const activation = encode({ nowMs: 1_700_000_000_000, stepsMax: 256, inputs: [input] });
  let guestMs = 0;
  let count = 0;
  const activate = async (index: number): Promise<void> => {
    const result = await bench.sandbox.activate({
      component: bench.component.id,
      machine: `bare ${index}`,
      from: { kind: "pristine" },
      activation,
      after: "keep",
      imageAfterMs: Number.POSITIVE_INFINITY,
    });
    if (result.kind !== "ok") throw new Error(`the sandbox answered ${result.kind}`);
    if ((decode(result.drained) as Drained).state !== "done") throw new Error("it isn't done");
    guestMs += result.guestMs;
    count += 1;
  };
  const { perSecond, cpuUs } = await rateAndCost(activate, { ms: 1500, warmMs: 500, ...load });
  return { rate: perSecond, cpuUs, guestMs: guestMs / count };
}

export function startInput(name: string, args: readonly unknown[]): unknown {
  return { kind: "start", run: runInfoOf(name), args: encode(args) };
}

export function turnInput(method: string, state: unknown): unknown {
  return {
    kind: "turn",
    run: runInfoOf("Counter"),
    actor: { type: "Counter", key: "k" },
    method,
    args: encode([]),
    state: encode(state),
    id: "call",
    readonly: false,
  };
}

function runInfoOf(name: string): unknown {
  return {
    runId: "bare",
    tenant: "default",
    name,
    component: "bench",
    attempt: 1,
    startedAtMs: 1_700_000_000_000,
    seed: new Uint8Array(16),
  };
}
