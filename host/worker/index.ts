/**
 * The Worker: a front that passes each request to the Durable Object of a partition, and
 * the objects' class. Any object can answer any request; the front looks for the one that
 * serves what the path names, which saves a hop.
 */
import { SporeError } from "../../runtime/errors.ts";
import { actorKey, type EntityKey, partitionOf, runKey, scheduleKey } from "../../runtime/ids.ts";
import { problemResponse } from "../problems.ts";
import { createTenants, parseTenantKeys, type Tenants } from "../tenants.ts";
import { type BundledEngine, digest } from "./engine.ts";
import { type PartitionClass, partitionObject, partitionsOf } from "./partition-object.ts";
import { type Env, type HandlerContext, objectName, stubOf } from "./platform.ts";

export interface EdgeWorker {
  /** The Worker's default export. */
  readonly handler: {
    fetch(request: Request, env: Env, context: HandlerContext): Promise<Response>;
    scheduled(event: unknown, env: Env): Promise<void>;
  };
  /** To be exported as SporePartition. */
  readonly SporePartition: PartitionClass;
}

/** An isolate of the front sees to all partitions this often, if it lives that long. */
const roundMs = 300_000;
/** What comes first isn't held up by it: the other objects may have to start in this very isolate. */
const roundDelayMs = 1000;

export function defineWorker(bundled: BundledEngine): EdgeWorker {
  // True of the namespace whoever asks, so it may be kept between requests.
  let partitions: number | undefined;
  let roundAtMs = Number.NEGATIVE_INFINITY;
  /**
   * Starts every partition's object: one that nobody asks for has sleepers of its own. Says
   * whether all are served.
   */
  const round = async (env: Env, takesOver: boolean): Promise<boolean> => {
    roundAtMs = Date.now();
    const first = await stubOf(env, objectName(0)).wake(takesOver);
    partitions = first.partitions;
    const names = Array.from({ length: partitions - 1 }, (_, index) => objectName(index + 1));
    const others = await Promise.all(names.map((name) => stubOf(env, name).wake(takesOver)));
    return [first, ...others].every(({ isServed }) => isServed);
  };
  const answer = async (request: Request, env: Env, context: HandlerContext): Promise<Response> => {
    const { pathname } = new URL(request.url);
    if (pathname === "/readyz") {
      // A host is ready when all of it is; asking so is what hands a bucket over, too.
      if (!(await round(env, true))) {
        throw new SporeError("partition-moved", "another host serves a partition", {
          hint: "docs/EDGE.md says how a bucket is handed over",
        });
      }
    } else if (Date.now() - roundAtMs > roundMs) {
      roundAtMs = Date.now();
      const later = new Promise<void>((resolve) => setTimeout(resolve, roundDelayMs));
      // What fails is in the objects' own logs, and the next round asks again.
      context.waitUntil(later.then(() => round(env, false)).catch(() => undefined));
    }
    const index = partitionFor(request, env, partitions ?? partitionsOf(env));
    const { method } = request;
    const response = await stubOf(env, objectName(index)).fetch(request);
    // The objects hear of their new number by being asked, and new ones start.
    if (method === "PUT" && pathname === "/v1/cluster" && response.ok) await round(env, false);
    return response;
  };
  return {
    handler: {
      async fetch(request, env, context) {
        try {
          return await answer(request, env, context);
        } catch (cause) {
          if (cause instanceof SporeError) return problemResponse(cause, request);
          // The object was lost with the request in it: perhaps it was carried out.
          const message = "the partition's object went away";
          return problemResponse(new SporeError("peer-unavailable", message, { cause }), request);
        }
      },
      /** Brings back objects that lost their alarm, and has garbage collected. */
      async scheduled(_event, env) {
        await round(env, false);
        await stubOf(env, objectName(0)).upkeep();
      },
    },
    SporePartition: partitionObject(bundled),
  };
}

/** The partition of what the path names; for any other path, one by chance. */
function partitionFor(request: Request, env: Env, partitions: number): number {
  const key = entityOf(request, env);
  if (key !== undefined) return partitionOf(key, partitions);
  const [number = 0] = crypto.getRandomValues(new Uint32Array(1));
  return number % partitions;
}

const named = /^\/v1\/(?:(runs|schedules)\/([^/]+)|actors\/([^/]+)\/([^/]+))/;

/** Only a guess at who knows best: the object checks everything itself. */
function entityOf(request: Request, env: Env): EntityKey | undefined {
  const [, kind, id, type, key] = named.exec(new URL(request.url).pathname) ?? [];
  try {
    const { tenant } = tenantsOf(env).authenticate(
      request.headers.get("authorization") ?? undefined,
    );
    if (type !== undefined && key !== undefined) {
      return actorKey(tenant, decodeURIComponent(type), decodeURIComponent(key));
    }
    if (id === undefined) return undefined;
    const name = decodeURIComponent(id);
    return kind === "runs" ? runKey(tenant, name) : scheduleKey(tenant, name);
  } catch {
    return undefined; // the object says what is wrong with it
  }
}

let known: { readonly json: string | undefined; readonly tenants: Tenants } | undefined;

function tenantsOf(env: Env): Tenants {
  if (known?.json === env.SPORE_KEYS && known !== undefined) return known.tenants;
  const keys = env.SPORE_KEYS === undefined ? [] : parseTenantKeys(env.SPORE_KEYS);
  known = { json: env.SPORE_KEYS, tenants: createTenants(keys, digest) };
  return known.tenants;
}
