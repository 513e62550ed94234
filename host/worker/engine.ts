/**
 * The engine as a Worker has it: modules that were compiled when it was uploaded (a Worker
 * may compile nothing itself), and the ports that the platform gives.
 */
import { hash } from "node:crypto";
import { SporeError } from "../../runtime/errors.ts";
import type { Clock, Digest, Observer, Random, Sandbox, Store } from "../../runtime/ports.ts";
import { baselineCodec, nodeCodec } from "../sandbox/codec.ts";
import { type Engine, type EngineIdentity, linkable } from "../sandbox/engine.ts";
import { createInlineSandbox } from "../sandbox/inline.ts";
import type { MachinesLimits } from "../sandbox/machines.ts";
import { proveCreates } from "../store/proof.ts";
import { type R2BucketLike, R2Store } from "../store/r2.ts";
import { parseStorageUri, redactStorageUri } from "../store/uri.ts";
import type { Env } from "./platform.ts";

/** What a build puts beside the Worker's own code (host/edge-build.ts). */
export interface BundledEngine {
  readonly modules: Engine["modules"];
  readonly identity: EngineIdentity;
  readonly pagesMax: number;
  /** The loader guest, as stored. */
  readonly loader: ArrayBuffer;
  /** The code of an isolate for one component (isolate.ts), for a Worker Loader. */
  readonly isolate: string;
  /** A component that goes with the Worker: its bundle, and what was made of it. */
  readonly component?: BundledComponent | undefined;
}

export interface BundledComponent {
  readonly id: string;
  readonly code: string;
  readonly stored: ArrayBuffer;
}

/**
 * An isolate has 128 MB for everything, and may hold several objects. Memory of guests that
 * rest is dropped early: an image brings it back.
 */
export const edgeLimits: MachinesLimits = Object.freeze({
  residentBytesMax: 24 * 1024 * 1024,
  liveMax: 8,
  pooledMax: 2,
  baselineBytesMax: 8 * 1024 * 1024,
  drainedBytesMax: 8 * 1024 * 1024,
});

/** `pause` gives others a turn; default: a turn of the event loop. */
export function createEdgeSandbox(
  bundled: BundledEngine,
  pause: () => Promise<void> = () => new Promise((resolve) => setTimeout(resolve, 0)),
): Sandbox {
  const { identity, modules, pagesMax, loader, component } = bundled;
  return createInlineSandbox({
    engine: linkable(identity, modules, pagesMax),
    identity,
    codec: nodeCodec,
    baselineCodec,
    loader: new Uint8Array(loader),
    bundled: new Map(
      component === undefined ? [] : [[component.id, new Uint8Array(component.stored)]],
    ),
    limits: edgeLimits,
    pause,
  });
}

/** How long a Worker that starts waits for an S3 bucket. */
const patienceMs = 20_000;

/**
 * The bucket of SPORE_STORAGE, or the one that the Worker is bound to. Throws
 * invalid-request if there is none, and for S3 what opening it on Node throws.
 */
export async function openEdgeStore(env: Env): Promise<Store> {
  const uri = env.SPORE_STORAGE ?? "r2:BUCKET";
  const [, binding, prefix = ""] = /^r2:([A-Za-z_]\w*)(?:\/(.*))?$/.exec(uri) ?? [];
  if (binding === undefined) return openS3(uri, env);
  // What the name in the URI is bound to; R2Store finds out whether it is a bucket.
  const bucket = (env as unknown as Readonly<Record<string, R2BucketLike | undefined>>)[binding];
  if (bucket !== undefined) return new R2Store(bucket, { prefix: prefix.replace(/\/+$/, "") });
  throw new SporeError("invalid-request", `the Worker has no bucket bound as ${binding}`, {
    hint: `add [[r2_buckets]] with binding = "${binding}" to wrangler.toml, or set SPORE_STORAGE`,
  });
}

async function openS3(uri: string, env: Env): Promise<Store> {
  const parsed = parseStorageUri(uri);
  if (parsed.kind !== "s3") {
    throw new SporeError("invalid-request", `a Worker can't keep anything in ${uri}`, {
      hint: "Use r2:BINDING/prefix or s3://bucket/prefix?region=…",
    });
  }
  const { S3Store, isFinalRefusal } = await import("../store/s3.ts");
  const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } = env;
  const credentials =
    accessKeyId === undefined || secretAccessKey === undefined
      ? {}
      : { credentials: { accessKeyId, secretAccessKey } };
  // The SDK has no environment here to take a region from.
  const region = parsed.options.region ?? env.AWS_REGION ?? "us-east-1";
  const store = new S3Store({ ...credentials, ...parsed.options, region });
  await proveCreates(store, {
    name: redactStorageUri(uri),
    races: 1, // a Worker has six connections, and starts often
    patienceMs,
    isFinal: isFinalRefusal,
  });
  return store;
}

/** The platform's timers hold 31 bits; a longer one would fire at once. */
const timerMsMax = 2 ** 31 - 1;

export const clock: Clock = {
  nowMs: () => Date.now(),
  after(delayMs, callback) {
    let leftMs = Math.max(0, delayMs);
    let timer: ReturnType<typeof setTimeout>;
    const arm = (): void => {
      const partMs = Math.min(leftMs, timerMsMax);
      leftMs -= partMs;
      timer = setTimeout(() => (leftMs > 0 ? arm() : callback()), partMs);
    };
    arm();
    return () => clearTimeout(timer);
  },
};

export const random: Random = { bytes: (count) => crypto.getRandomValues(new Uint8Array(count)) };

export const digest: Digest = {
  sha256: (bytes) => new Uint8Array(hash("sha256", bytes, "buffer")),
};

const levels = ["debug", "info", "warn", "error"] as const;

/** JSON lines on the console, which is where `wrangler tail` and Workers Logs look. */
export function jsonLog(env: Env): Observer["log"] {
  const from = Math.max(0, levels.indexOf((env.SPORE_LOG ?? "info") as (typeof levels)[number]));
  return (level, message, fields) => {
    if (levels.indexOf(level) < from) return;
    const { error, ...rest } = fields;
    const shown = error instanceof Error ? { error: error.stack ?? error.message } : {};
    console[level](JSON.stringify({ level, message, ...rest, ...shown }));
  };
}
