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
import { R2Store } from "../store/r2.ts";
import type { Env } from "./platform.ts";

/** What a build puts beside the Worker's own code (host/edge-build.ts). */
export interface BundledEngine {
  readonly modules: Engine["modules"];
  readonly identity: EngineIdentity;
  readonly pagesMax: number;
  /** The loader guest, as stored. */
  readonly loader: ArrayBuffer;
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

export function createEdgeSandbox(bundled: BundledEngine): Sandbox {
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
    pause: () => new Promise((resolve) => setTimeout(resolve, 0)),
  });
}

/** The bucket that the Worker is bound to. Throws invalid-request if there is none. */
export function openEdgeStore(env: Env): Store {
  if (env.BUCKET !== undefined) return new R2Store(env.BUCKET);
  throw new SporeError("invalid-request", "the Worker is bound to no bucket", {
    hint: 'add [[r2_buckets]] with binding = "BUCKET" to wrangler.toml',
  });
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
