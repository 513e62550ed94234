/**
 * A partition's Durable Object: the platform sees to it that there is one of them at a time
 * and wakes it by alarm; it runs the engine and the API over the bucket. The bucket alone
 * is the truth: the object's own storage holds its index and its alarm, nothing else.
 *
 * The API runs in here and not in the front Worker, because an object's requests share one
 * I/O context: whatever the engine keeps between requests (caches, commits under way,
 * timers) may be awaited by any of them.
 *
 * O1 while anything is under way there is an alarm at most `guardMs` ahead, so an object
 *    that is lost in the middle of it is started again, and recovers from the log;
 * O2 an object at rest has its alarm at the next durable timer, or none.
 */
import { DurableObject } from "cloudflare:workers";
import { createHost, type Host } from "../../runtime/index.ts";
import { createApi } from "../api.ts";
import { calendar } from "../calendar.ts";
import { createComponentMaps } from "../component-maps.ts";
import { isLoopbackHost } from "../loopback.ts";
import { createMetrics } from "../metrics.ts";
import { createOutbound } from "../outbound.ts";
import { createTenants, parseTenantKeys } from "../tenants.ts";
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
import type { Env, ObjectState, PartitionStub } from "./platform.ts";

/** How long after a loss in the middle of work an object is started again. */
const guardMs = 30_000;
/** How long an alarm stays to see the work end that it began. */
const settleMsMax = 60_000;
const settleLookMs = 250;
/** Partitions that a Worker gives a namespace that it makes. */
export const edgePartitions = 4;

interface Running {
  readonly host: Host;
  readonly fetch: (request: Request) => Response | Promise<Response>;
  readonly activity: Activity;
  readonly partitions: number;
}

export type PartitionClass = new (
  ctx: ObjectState,
  env: Env,
) => PartitionStub & { alarm(): Promise<void> };

/** The class to export from the Worker under the name that wrangler.toml gives it. */
export function partitionObject(bundled: BundledEngine): PartitionClass {
  return class SporePartition extends DurableObject<Env> {
    readonly #log = jsonLog(this.env);
    #running: Promise<Running> | undefined;
    #alarmAtMs: number | undefined;

    async fetch(request: Request): Promise<Response> {
      await this.#guard();
      const running = await this.#run();
      return running.fetch(request);
    }

    async wake(_index: number): Promise<number> {
      await this.#guard();
      return (await this.#run()).partitions;
    }

    async alarm(): Promise<void> {
      this.#alarmAtMs = undefined;
      // The next one is set before anything can fail: a lost object is always started again.
      await this.#guard();
      const { host, activity } = await this.#run();
      const seen = activity.total;
      await settled(activity);
      // Something began while we looked: look again.
      if (activity.isBusy || activity.total !== seen) return;
      const atMs = nextTimerOf(host);
      if (atMs === undefined) return;
      await this.#setAlarm(Math.max(atMs, clock.nowMs()));
    }

    /** O1. Once in `guardMs` at most: an alarm is a row written, and rows are paid for. */
    async #guard(): Promise<void> {
      const nowMs = clock.nowMs();
      if (this.#alarmAtMs !== undefined && this.#alarmAtMs > nowMs) {
        if (this.#alarmAtMs <= nowMs + guardMs) return;
      }
      await this.#setAlarm(nowMs + guardMs);
    }

    async #setAlarm(atMs: number): Promise<void> {
      this.#alarmAtMs = atMs;
      await this.ctx.storage.setAlarm(atMs);
    }

    /** A start that failed is tried again by the next that asks. */
    #run(): Promise<Running> {
      this.#running ??= this.#start().catch((error: unknown) => {
        this.#running = undefined;
        throw error;
      });
      return this.#running;
    }

    async #start(): Promise<Running> {
      const { env } = this;
      const activity = new Activity();
      const metrics = createMetrics();
      const observer = {
        log: this.#log,
        count: metrics.count,
        observe: metrics.observe,
      };
      const store = activity.store(openEdgeStore(env));
      const sandbox = activity.sandbox(createEdgeSandbox(bundled, undefined));
      const outbound = activity.outbound(createOutbound());
      const ports = { store, sandbox, clock, calendar, random, digest, outbound, observer };
      const host = await createHost(ports, {
        hostId: `worker-${this.ctx.id.toString().slice(0, 12)}`,
        partitions: Number(env.SPORE_PARTITIONS ?? edgePartitions),
        ...(env.SPORE_PUBLIC_URL === undefined ? {} : { publicUrl: env.SPORE_PUBLIC_URL }),
        onMoved: (partition, error) => {
          this.#log("warn", `partition ${partition} has another owner`, { code: error.code });
          this.#running = undefined;
          void host.stop();
        },
      });
      metrics.gauge("host_ready", () => (host.isReady ? 1 : 0));
      const keys = env.SPORE_KEYS === undefined ? [] : parseTenantKeys(env.SPORE_KEYS);
      const app = createApi({
        host,
        maps: createComponentMaps(ports),
        clock,
        random,
        digest,
        observer,
        tenants: createTenants(keys, digest),
        metrics: metrics.text,
        ...(keys.length === 0 ? { isHostAllowed: isLoopbackHost } : {}),
      });
      await host.start();
      await this.#deployBundled(host);
      return {
        host,
        activity,
        fetch: (request) => app.fetch(request),
        partitions: host.status().partitions.length,
      };
    }

    /** Once for each bundled component: what was uploaded after it stays the current one. */
    async #deployBundled(host: Host): Promise<void> {
      const { component } = bundled;
      if (component === undefined) return;
      if ((await this.ctx.storage.get<string>("bundled")) === component.id) return;
      await host.tenant("default").deploy({ kind: "javascript", code: component.code });
      await this.ctx.storage.put("bundled", component.id);
    }
  };
}

/** When the earliest durable timer of what this host serves is due. */
function nextTimerOf(host: Host): number | undefined {
  const times = host.status().partitions.map(({ nextTimerAtMs }) => nextTimerAtMs);
  const known = times.filter((atMs) => atMs !== undefined);
  return known.length === 0 ? undefined : Math.min(...known);
}

/** Resolves when nothing has been under way for a moment, or after `settleMsMax`. */
async function settled(activity: Activity): Promise<void> {
  const endMs = clock.nowMs() + settleMsMax;
  let before = -1;
  while (clock.nowMs() < endMs && (activity.isBusy || activity.total !== before)) {
    before = activity.total;
    await new Promise<void>((resolve) => clock.after(settleLookMs, resolve));
  }
}
