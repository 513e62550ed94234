/**
 * The Node entry: makes the ports, opens store and sandbox, serves the API, and puts
 * everything away in the opposite order.
 */
import { hash, randomFillSync } from "node:crypto";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { hostname as machineName, networkInterfaces } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { createAdaptorServer } from "@hono/node-server";
import { pino } from "pino";
import { hexOf } from "../runtime/bytes.ts";
import { SporeError } from "../runtime/errors.ts";
import { Collecting, createHost, type Host, type HostOptions } from "../runtime/index.ts";
import type { Clock, Digest, Observer, Random, Sandbox } from "../runtime/ports.ts";
import type { ApiLimits } from "./api/exchange.ts";
import { createApi } from "./api/index.ts";
import { calendar } from "./calendar.ts";
import { type ComponentMaps, createComponentMaps } from "./component-maps.ts";
import { createGrants } from "./grants.ts";
import { isLoopback, isLoopbackHost } from "./loopback.ts";
import { createMetrics, type Metrics } from "./metrics.ts";
import { createOutbound, type OutboundOptions } from "./outbound.ts";
import { createPeers, peerAnswers } from "./peers.ts";
import {
  createThreadSandbox,
  type ThreadSandbox,
  type ThreadSandboxOptions,
} from "./sandbox/threads.ts";
import { observedStore } from "./store/observed.ts";
import { openStore } from "./store/open.ts";
import { redactStorageUri } from "./store/uri.ts";
import { createTenants, type TenantKey } from "./tenants.ts";
import { openTracing } from "./tracing.ts";

export interface ServerOptions {
  /** A storage URI: `file:./data`, `s3://bucket/prefix?…`, `memory:`. */
  readonly storage: string;
  /** Default 7070; 0 takes any free one. */
  readonly port?: number | undefined;
  /** Default 127.0.0.1. Others need keys. */
  readonly hostname?: string | undefined;
  /**
   * Where other hosts on the storage reach this one: `http://10.0.0.7:7070`. Default: the
   * address that it listens on; of all addresses, the first of this machine.
   */
  readonly advertise?: string | undefined;
  readonly keys?: readonly TenantKey[] | undefined;
  readonly engine?: Partial<Omit<HostOptions, "hostId" | "address">> | undefined;
  readonly sandbox?: ThreadSandboxOptions | undefined;
  readonly limits?: Partial<ApiLimits> | undefined;
  /** Default: JSON lines on standard error. */
  readonly log?: Observer["log"] | undefined;
  /** Bound of a clean stop; then connections are cut. Default 10 s. */
  readonly stopMsMax?: number | undefined;
}

export interface RunningServer {
  readonly url: string;
  /** Without secrets. */
  readonly storage: string;
  readonly host: Host;
  readonly sandbox: Sandbox;
  readonly maps: ComponentMaps;
  stop(): Promise<void>;
}

export const serverDefaults = Object.freeze({
  port: 7070,
  hostname: "127.0.0.1",
  stopMsMax: 10_000,
});

export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const keys = options.keys ?? [];
  const hostname = options.hostname ?? serverDefaults.hostname;
  if (keys.length === 0 && !isLoopback(hostname)) {
    throw new SporeError(
      "invalid-request",
      `without API keys Spore does not listen on ${hostname}`,
      {
        hint: "give keys (--keys keys.json), or listen on 127.0.0.1",
      },
    );
  }
  const metrics = createMetrics();
  const observer = observerOf(metrics, options.log ?? jsonLog());
  await using opened = new AsyncDisposableStack();
  const store = observedStore(await openStore(options.storage), observer);
  opened.defer(() => store.close());
  const sandbox = await createThreadSandbox(options.sandbox, observer);
  opened.defer(() => sandbox.close());
  const tracing = await openTracing(process.env);
  opened.defer(async () => tracing?.close());
  const peers = createPeers();
  opened.defer(async () => peers.close());
  const outbound = createOutbound({ tracing, ...(await egressOf(keys, opened)) });
  const ports = {
    store,
    sandbox,
    clock,
    calendar,
    random,
    digest,
    outbound,
    observer,
    tracer: tracing,
    peers,
  };
  // Listens before it has a host: other hosts have to know the port.
  let answer: Answering = () => starting();
  const server = createAdaptorServer({ fetch: (request, env) => answer(request, env) }) as Server;
  const port = await listen(server, options.port ?? serverDefaults.port, hostname);
  opened.defer(async () => {
    server.close();
    server.closeAllConnections();
  });
  const url = urlOf(hostname, port);
  const advertised = checkAddress(options.advertise ?? urlOf(reachable(hostname), port));
  const host = await createHost(ports, {
    // Without keys nobody is elsewhere: links of events lead here.
    ...(keys.length === 0 ? { publicUrl: url } : {}),
    ...options.engine,
    hostId: hostIdOf(),
    // What lies in this process' memory can't be shared.
    address: options.storage.startsWith("memory:") ? undefined : advertised,
  });
  addGauges(metrics, host, sandbox);
  const maps = createComponentMaps(ports, { prefix: options.engine?.prefix });
  const app = createApi({
    host,
    maps,
    clock,
    random,
    digest,
    observer,
    tenants: createTenants(keys, digest),
    metrics: metrics.text,
    tracing,
    limits: options.limits,
    ...(keys.length === 0 ? { isHostAllowed: isLoopbackHost } : {}),
  });
  const answerPeer = peerAnswers(host);
  answer = async (request, env) => (await answerPeer(request)) ?? app.fetch(request, env);
  try {
    await host.start();
  } catch (error) {
    await host.stop();
    throw error;
  }
  const collecting = new Collecting({
    ports,
    prefix: options.engine?.prefix ?? "",
    isServed: (partition) => isServedBy(host, partition),
  });
  collecting.start();
  const resources = opened.move();
  const stopMsMax = options.stopMsMax ?? serverDefaults.stopMsMax;
  let stopping: Promise<void> | undefined;
  return {
    url,
    storage: redactStorageUri(options.storage),
    host,
    sandbox,
    maps,
    stop() {
      collecting.stop();
      stopping ??= stopWithin({ server, host, resources, stopMsMax });
      return stopping;
    },
  };
}

/** Calls `stop` on the first SIGINT or SIGTERM; a second one ends the process at once. */
export function stopOnSignals(stop: () => Promise<void>): void {
  let isStopping = false;
  const onSignal = (): void => {
    if (isStopping) process.exit(130);
    isStopping = true;
    stop().then(
      () => process.exit(0),
      (error: unknown) => {
        process.stderr.write(`spore: ${String(error)}\n`);
        process.exit(1);
      },
    );
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
}

// ---------------------------------------------------------------- ports

/** Node's timers hold 31 bits; a longer one would fire at once. */
const timerMsMax = 2 ** 31 - 1;

export const clock: Clock = {
  nowMs: () => Date.now(),
  after(delayMs, callback) {
    let leftMs = Math.max(0, delayMs);
    let timer: NodeJS.Timeout;
    const arm = (): void => {
      const partMs = Math.min(leftMs, timerMsMax);
      leftMs -= partMs;
      timer = setTimeout(() => (leftMs > 0 ? arm() : callback()), partMs);
    };
    arm();
    return () => clearTimeout(timer);
  },
};

/** Drawn from the system many at a time: asking it for sixteen costs as much as for thousands. */
const randomPool = new Uint8Array(4096);
let randomLeft = 0;

export const random: Random = {
  bytes(count) {
    if (count > randomPool.length) return randomFillSync(new Uint8Array(count));
    if (count > randomLeft) {
      randomFillSync(randomPool);
      randomLeft = randomPool.length;
    }
    const from = randomLeft - count;
    const bytes = randomPool.slice(from, randomLeft);
    randomPool.fill(0, from, randomLeft);
    randomLeft = from;
    return bytes;
  },
};

export const digest: Digest = {
  sha256: (bytes) => new Uint8Array(hash("sha256", bytes, "buffer")),
};

function jsonLog(): Observer["log"] {
  const logger = pino(
    { base: null, level: process.env.SPORE_LOG ?? "info", redact: ["authorization"] },
    pino.destination({ dest: 2, sync: true }),
  );
  return (level, message, fields) => {
    const { error, ...rest } = fields;
    logger[level](error === undefined ? rest : { ...rest, err: error }, message);
  };
}

function observerOf(metrics: Metrics, log: Observer["log"]): Observer {
  return {
    log,
    count: (name, value, labels) => metrics.count(name, value, labels),
    observe: (name, value, labels) => metrics.observe(name, value, labels),
  };
}

const partitionStates = ["claiming", "owned", "moved", "stopped"] as const;

function addGauges(metrics: Metrics, host: Host, sandbox: ThreadSandbox): void {
  for (const state of partitionStates) {
    const count = (): number =>
      host.status().partitions.filter((partition) => partition.state === state).length;
    metrics.gauge("partitions", count, { state });
  }
  type Part = ReturnType<Host["status"]>["partitions"][number];
  const sum = (of: (partition: Part) => number): number =>
    host.status().partitions.reduce((total, partition) => total + of(partition), 0);
  metrics.gauge("process_resident_memory_bytes", () => process.memoryUsage.rss());
  metrics.gauge("process_uptime_seconds", () => process.uptime());
  metrics.gauge("host_ready", () => (host.isReady ? 1 : 0));
  metrics.gauge("resident_entities", () => sum(({ residentEntities }) => residentEntities));
  metrics.gauge("resident_memories", () => sandbox.residentMachines);
  metrics.gauge("resident_memory_bytes", () => sandbox.residentBytes);
  metrics.gauge("memtable_bytes", () => sum(({ memtableBytes }) => memtableBytes));
  metrics.gauge("log_lag_entries", () => sum(({ logLag }) => logLag.entries));
  metrics.gauge("log_lag_bytes", () => sum(({ logLag }) => logLag.bytes));
}

function isServedBy(host: Host, index: number): boolean {
  const { partitions } = host.status();
  return partitions.some(({ partition, state }) => partition === index && state === "owned");
}

function hostIdOf(): string {
  const name = machineName()
    .replaceAll(/[^A-Za-z0-9-]/g, "-")
    .slice(0, 40);
  return `${name}-${process.pid}-${hexOf(random.bytes(4))}`;
}

// ---------------------------------------------------------------- network

/** Tenants' guests go where they were granted to; without keys they are their owner's. */
async function egressOf(
  keys: readonly TenantKey[],
  opened: AsyncDisposableStack,
): Promise<Pick<OutboundOptions, "grants" | "fetch">> {
  if (keys.length === 0) return {};
  const { createCheckedFetch } = await import("./checked-fetch.ts");
  const grants = createGrants(keys);
  const { send, close } = createCheckedFetch(grants);
  opened.defer(close);
  return { grants, fetch: send };
}

type Answering = (request: Request, env: object) => Response | Promise<Response>;

function starting(): Response {
  return new Response(null, { status: 503, headers: { "retry-after": "1" } });
}

function urlOf(hostname: string, port: number): string {
  return `http://${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}

/** Of a server that listens on all addresses, one that others can use. */
function reachable(hostname: string): string {
  if (hostname !== "0.0.0.0" && hostname !== "::") return hostname;
  const addresses = Object.values(networkInterfaces()).flatMap((each) => each ?? []);
  const outer = addresses.find(({ family, internal }) => family === "IPv4" && !internal);
  return outer?.address ?? machineName();
}

function checkAddress(address: string): string {
  const { protocol, origin, pathname } = URL.parse(address) ?? {};
  const isHttp = protocol === "http:" || protocol === "https:";
  if (isHttp && origin !== undefined && pathname === "/") return origin;
  throw new SporeError("invalid-request", `${address} is no address of a host`, {
    hint: "an origin, such as http://10.0.0.7:7070",
  });
}

function listen(server: Server, port: number, hostname: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once("error", (cause: NodeJS.ErrnoException) => {
      const taken = cause.code === "EADDRINUSE";
      const why = taken ? `port ${port} is taken` : `can't listen on ${hostname}:${port}`;
      const hint = taken ? "give another one: --port" : cause.message;
      reject(new SporeError("invalid-request", why, { hint, cause }));
    });
    server.listen(port, hostname, () => resolve((server.address() as AddressInfo).port));
  });
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeIdleConnections();
  });
}

/** Longest wait for replies that the engine has already given. */
const flushMsMax = 500;
/** So long a request may be on its way that another host sent before it knew who has what. */
const wayMsMax = 100;
/** Of the time for a stop: what other hosts have to take the partitions over … */
const drainShare = 0.7;
/** … and what requests under way to them have to be answered. */
const answerShare = 0.1;

/**
 * Partitions go to other hosts while requests are still answered; then no new connections,
 * then the engine (whose last commits are answered meanwhile), then the rest. Requests that
 * hang, long polls and event streams, are cut.
 */
async function stopWithin(parts: StopParts): Promise<void> {
  const { server, host, resources, stopMsMax } = parts;
  const hasOthers = host.cluster().hosts.some(({ isSelf, state }) => !isSelf && state === "live");
  await host.drain(stopMsMax * drainShare);
  // One that meets a closed connection may have been executed, for all its sender knows.
  if (hasOthers) await sleep(wayMsMax);
  const closed = closeServer(server);
  try {
    if (hasOthers) await within(stopMsMax * answerShare, closed);
    await within(stopMsMax * (1 - drainShare - answerShare), host.stop());
    await within(flushMsMax, closed);
  } finally {
    server.closeAllConnections();
    await resources.disposeAsync();
  }
}

interface StopParts {
  readonly server: Server;
  readonly host: Host;
  readonly resources: AsyncDisposableStack;
  readonly stopMsMax: number;
}

async function within(timeoutMs: number, work: Promise<void>): Promise<void> {
  const timeout = Promise.withResolvers<void>();
  const timer = setTimeout(timeout.resolve, timeoutMs);
  try {
    await Promise.race([work, timeout.promise]);
  } finally {
    clearTimeout(timer);
  }
}
