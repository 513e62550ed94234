/**
 * A partition's Durable Object: the platform sees to it that there is one of them at a time
 * and wakes it by alarm; it runs the engine and the API over the bucket. The bucket alone
 * is the truth: the object's own storage holds its index, its alarm and what it was about
 * when it was lost.
 *
 * The API runs in here and not in the front Worker, because an object's requests share one
 * I/O context: whatever the engine keeps between requests (caches, commits under way,
 * timers) may be awaited by any of them.
 *
 * O1 while anything is under way there is an alarm at most `guardMs` ahead, so an object
 *    that is lost in the middle of it is started again, and recovers from the log;
 * O2 an object at rest has its alarm at the next durable timer, or none;
 * O3 work that is too long for one invocation has an alarm at once for its next piece
 *    (pieces.ts). If the object is lost, so is the work: nothing rests on half of it;
 * O4 a partition that another host has taken over isn't taken back by alarms and rounds,
 *    only by requests, and not before `heldMs` have passed.
 */
import { DurableObject } from "cloudflare:workers";
import { assert, SporeError } from "../../runtime/errors.ts";
import { Collecting, createHost, type Host, partitionsMax } from "../../runtime/index.ts";
import type { Peers, Sandbox } from "../../runtime/ports.ts";
import { createApi } from "../api/index.ts";
import { calendar } from "../calendar.ts";
import { createComponentMaps } from "../component-maps.ts";
import { createGrants } from "../grants.ts";
import { isLoopbackHost } from "../loopback.ts";
import { createMetrics } from "../metrics.ts";
import { createOutbound } from "../outbound.ts";
import { problemResponse, sporeErrorOf } from "../problems.ts";
import { createTenants, parseTenantKeys, type Tenants } from "../tenants.ts";
import { Activity } from "./activity.ts";
import {
  type BundledEngine,
  clock,
  createEdgeSandbox,
  digest,
  jsonLog,
  openEdgeStore,
  random,
} from "./engine.ts";
import { createIsolateSandbox } from "./isolates.ts";
import { Pieces } from "./pieces.ts";
import {
  type Awake,
  type Env,
  indexOfName,
  type ObjectState,
  objectName,
  type PartitionStub,
  stubOf,
} from "./platform.ts";
import { Suspects } from "./suspects.ts";

/** How long after a loss in the middle of work an object is started again. */
const guardMs = 30_000;
/** How long an alarm stays to see the work end that it began. */
const settleMsMax = 60_000;
const settleLookMs = 250;
/** How long another owner is left alone whatever is asked. */
const heldMs = 30_000;
const partitionsDefault = 4;

/**
 * Objects come and go: each start reads what was committed since the last checkpoint, one
 * call for each commit. And what is held in memory has to fit beside the guests.
 */
const engineLimits = Object.freeze({
  checkpointEntries: 100,
  checkpointBytes: 2 * 1024 * 1024,
  residentMax: 1_000,
  // What guests have here is less; an isolate has 128 MB for everything.
  assembleBytes: 32 * 1024 * 1024,
});

interface Running {
  readonly host: Host;
  readonly collecting: Collecting;
  readonly fetch: (request: Request) => Response | Promise<Response>;
  readonly activity: Activity;
}

export type PartitionClass = new (
  ctx: ObjectState,
  env: Env,
) => PartitionStub & { alarm(): Promise<void> };

/** Names in the object's own storage. */
const stored = Object.freeze({
  index: "index",
  partitions: "partitions",
  bundled: "bundled",
  /** Set while it isn't at rest. */
  busy: "busy",
  /** When another host was seen to have taken over. */
  movedAtMs: "moved",
});

/** Partitions of a namespace that this Worker makes. Throws invalid-request. */
export function partitionsOf(env: Env): number {
  const count = Number(env.SPORE_PARTITIONS ?? partitionsDefault);
  if (Number.isInteger(count) && count >= 1 && count <= partitionsMax) return count;
  throw new SporeError("invalid-request", `SPORE_PARTITIONS is no number of partitions`, {
    hint: `1 to ${partitionsMax}, in wrangler.toml`,
  });
}

/** The class to export from the Worker under the name that wrangler.toml gives it. */
export function partitionObject(bundled: BundledEngine): PartitionClass {
  return class SporePartition extends DurableObject<Env> {
    readonly #log = jsonLog(this.env);
    readonly #suspects = new Suspects(this.ctx.storage);
    #running: Promise<Running> | undefined;
    /** Of the host that runs. */
    #pieces: Pieces | undefined;
    #alarmAtMs: number | undefined;
    #isBusy = false;
    #movedAtMs: number | undefined;

    constructor(ctx: ObjectState, env: Env) {
      super(ctx, env);
      void ctx.blockConcurrencyWhile(() => this.#open());
    }

    async #open(): Promise<void> {
      const { storage } = this.ctx;
      this.#movedAtMs = await storage.get<number>(stored.movedAtMs);
      const wasLost = (await storage.get<boolean>(stored.busy)) === true;
      const suspect = await this.#suspects.open(wasLost);
      if (suspect === undefined) return;
      this.#log("warn", "the object was lost while a guest was at work", { ...suspect });
    }

    async fetch(request: Request): Promise<Response> {
      const held = this.#heldBy();
      if (held !== undefined) return problemResponse(held, request);
      let running: Running;
      try {
        await this.#guard();
        running = await this.#run(request.headers.get("authorization") ?? undefined);
      } catch (error) {
        const problem = sporeErrorOf(error);
        this.#log("error", `the object can't start: ${problem.message}`, { error });
        return problemResponse(problem, request);
      }
      return running.fetch(request);
    }

    async serve(request: Uint8Array): Promise<Uint8Array> {
      const held = this.#heldBy();
      if (held !== undefined) throw held;
      await this.#guard();
      return (await this.#run()).host.serve(request);
    }

    async wake(takesOver: boolean): Promise<Awake> {
      const isLeft = this.#movedAtMs !== undefined && !takesOver;
      if (!isLeft && this.#heldBy() === undefined) {
        await this.#guard();
        await this.#run();
      }
      const running = await this.#running;
      const known = await this.ctx.storage.get<number>(stored.partitions);
      // Their number may have been changed since the start.
      const partitions = running?.host.status().partitionCount ?? known ?? partitionsOf(this.env);
      if (partitions !== known) await this.ctx.storage.put(stored.partitions, partitions);
      return { partitions, isServed: running?.host.isReady === true };
    }

    async upkeep(): Promise<void> {
      if (this.#movedAtMs !== undefined) return;
      await this.#guard();
      const { collecting } = await this.#run();
      // Not awaited: it may take longer than a cron trigger may wait, and alarms carry it on.
      void collecting.look();
    }

    async alarm(): Promise<void> {
      this.#alarmAtMs = undefined;
      if (this.#movedAtMs !== undefined) return;
      // The next one is set before anything can fail: a lost object is always started again.
      await this.#guard();
      const running = await this.#run().catch((error: unknown) => {
        // Not thrown: the platform gives an alarm up that fails too often, and ours is set.
        this.#log("error", "the object can't start", { error });
        return undefined;
      });
      if (running === undefined || !(await this.#settled(running.activity))) return;
      await this.#rest();
      const atMs = nextTimerOf(running.host);
      if (atMs === undefined) await this.ctx.storage.deleteAlarm();
      else await this.#setAlarm(Math.max(atMs, clock.nowMs()));
    }

    /** True when nothing has been under way for a moment; false if that took too long, or for O3. */
    async #settled(activity: Activity): Promise<boolean> {
      const endMs = clock.nowMs() + settleMsMax;
      let before = -1;
      for (;;) {
        if (this.#pieces?.isHeld === true || clock.nowMs() >= endMs) return false;
        if (!activity.isBusy && activity.total === before) return true;
        before = activity.total;
        await new Promise<void>((resolve) => clock.after(settleLookMs, resolve));
      }
    }

    /**
     * An invocation begins. O1: its alarm is set rarely more than once in `guardMs`, as what is
     * written here is paid for by the row.
     */
    async #guard(): Promise<void> {
      this.#pieces?.begin();
      const nowMs = clock.nowMs();
      const isSet = this.#alarmAtMs !== undefined && this.#alarmAtMs > nowMs;
      if (isSet && this.#isBusy && (this.#alarmAtMs ?? 0) <= nowMs + guardMs) return;
      await this.#setAlarm(nowMs + guardMs);
      if (this.#isBusy) return;
      this.#isBusy = true;
      await this.ctx.storage.put(stored.busy, true);
    }

    async #rest(): Promise<void> {
      this.#isBusy = false;
      await this.ctx.storage.delete(stored.busy);
      await this.#suspects.rest();
    }

    async #setAlarm(atMs: number): Promise<void> {
      this.#alarmAtMs = atMs;
      await this.ctx.storage.setAlarm(atMs);
    }

    /** O4. Why nothing is done here for now, if so. */
    #heldBy(): SporeError | undefined {
      if (this.#movedAtMs === undefined) return undefined;
      if (clock.nowMs() - this.#movedAtMs >= heldMs) return undefined;
      return new SporeError("partition-moved", "another host serves this partition", {
        hint: "docs/EDGE.md says how a bucket is handed over",
      });
    }

    /** A start that failed is tried again by the next that asks. */
    #run(authorization?: string): Promise<Running> {
      this.#running ??= this.#start(authorization).catch((error: unknown) => {
        this.#running = undefined;
        throw error;
      });
      return this.#running;
    }

    /** `authorization`: of the request that it is started for. */
    async #start(authorization: string | undefined): Promise<Running> {
      const { env } = this;
      const index = await this.#index();
      const activity = new Activity();
      const metrics = createMetrics();
      const observer = { log: this.#log, count: metrics.count, observe: metrics.observe };
      const store = activity.store(await openEdgeStore(env));
      const pieces = new Pieces(() => void this.#setAlarm(clock.nowMs()));
      this.#pieces = pieces;
      const sandbox = activity.sandbox(this.#suspects.sandbox(sandboxOf(bundled, env)));
      const keys = env.SPORE_KEYS === undefined ? [] : parseTenantKeys(env.SPORE_KEYS);
      const grants = keys.length === 0 ? undefined : createGrants(keys);
      const outbound = activity.outbound(createOutbound({ grants }));
      const peers = peersOf(env);
      const own = { clock, calendar, random, digest, observer };
      const upkeepStore = pieces.store(store);
      const ports = { ...own, store, upkeepStore, sandbox, outbound, peers };
      const host = await createHost(ports, {
        hostId: `worker-${this.ctx.id.toString().slice(0, 12)}`,
        address: objectName(index),
        partitions: partitionsOf(env),
        limits: engineLimits,
        placement: { here: [index], addressOf: objectName },
        ...(env.SPORE_PUBLIC_URL === undefined ? {} : { publicUrl: env.SPORE_PUBLIC_URL }),
        onMoved: () => void this.#leave(host),
      });
      metrics.gauge("host_ready", () => (host.isReady ? 1 : 0));
      const tenants = createTenants(keys, digest);
      const app = createApi({
        host,
        maps: createComponentMaps(ports),
        clock,
        random,
        digest,
        observer,
        tenants,
        metrics: metrics.text,
        ...(tenants.hasKeys ? {} : { isHostAllowed: isLoopbackHost }),
      });
      void warmUp(host, tenants, authorization);
      await host.start();
      await this.#keep(host);
      if (index === 0) await this.#deployBundled(host);
      const collecting = new Collecting({
        ports: { ...own, store: upkeepStore },
        prefix: "",
        isServed: () => host.isReady,
      });
      return { host, collecting, activity, fetch: (request) => app.fetch(request) };
    }

    /** An alarm may come without the name that the object was addressed by. */
    async #index(): Promise<number> {
      const { storage } = this.ctx;
      const index = indexOfName(this.ctx.id.name) ?? (await storage.get<number>(stored.index));
      assert(index !== undefined, "a partition's object is addressed by name first");
      return index;
    }

    async #keep(host: Host): Promise<void> {
      const { storage } = this.ctx;
      await storage.put(stored.index, await this.#index());
      await storage.put(stored.partitions, host.status().partitionCount);
      this.#movedAtMs = undefined;
      await storage.delete(stored.movedAtMs);
    }

    /** Another host has the partition: nothing more is answered from here. */
    async #leave(host: Host): Promise<void> {
      this.#movedAtMs = clock.nowMs();
      this.#running = undefined;
      this.#pieces?.close(new SporeError("host-stopping", "another host has this partition"));
      await this.ctx.storage.put(stored.movedAtMs, this.#movedAtMs);
      await host.stop();
    }

    /** Once for each bundled component: what is uploaded after it stays the current one. */
    async #deployBundled(host: Host): Promise<void> {
      const { component } = bundled;
      if (component === undefined) return;
      if ((await this.ctx.storage.get<string>(stored.bundled)) === component.id) return;
      await host.tenant("default").deploy({ kind: "javascript", code: component.code });
      await this.ctx.storage.put(stored.bundled, component.id);
    }
  };
}

/** Reads the asker's component while the partition is opened; what fails is the request's to say. */
async function warmUp(
  host: Host,
  tenants: Tenants,
  authorization: string | undefined,
): Promise<void> {
  try {
    await host.tenant(tenants.authenticate(authorization).tenant).warmUp();
  } catch {
    // Nobody with a key asks: then there is nothing to warm up.
  }
}

function sandboxOf(bundled: BundledEngine, env: Env): Sandbox {
  if (env.LOADER === undefined) return createEdgeSandbox(bundled);
  return createIsolateSandbox(bundled, env.LOADER);
}

function peersOf(env: Env): Peers {
  return {
    async call(address, request, { timeoutMs }) {
      const late = new SporeError("peer-unavailable", `${address}: no answer in ${timeoutMs} ms`);
      const timeout = Promise.withResolvers<never>();
      const cancel = clock.after(timeoutMs, () => timeout.reject(late));
      try {
        return await Promise.race([stubOf(env, address).serve(request), timeout.promise]);
      } catch (cause) {
        if (cause === late) throw late;
        // An error of the object's own or of the platform's: it may have been executed.
        throw new SporeError("peer-unavailable", `${address}: ${String(cause)}`, { cause });
      } finally {
        cancel();
      }
    },
  };
}

/** When the earliest durable timer of what this host serves is due. */
function nextTimerOf(host: Host): number | undefined {
  const times = host.status().partitions.map(({ nextTimerAtMs }) => nextTimerAtMs);
  const known = times.filter((atMs) => atMs !== undefined);
  return known.length === 0 ? undefined : Math.min(...known);
}
