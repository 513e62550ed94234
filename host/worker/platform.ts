/**
 * What of Cloudflare's platform the Worker uses, declared by structure: no types package,
 * whose globals would not go together with Node's and the DOM's.
 */

import type { WorkerLoaderLike } from "./isolates.ts";

export interface ObjectState {
  /** `name`: what it was addressed by; an alarm of long ago may come without. */
  readonly id: { readonly name?: string | undefined; toString(): string };
  readonly storage: {
    get<T>(key: string): Promise<T | undefined>;
    put(key: string, value: unknown): Promise<void>;
    delete(key: string): Promise<boolean>;
    setAlarm(atMs: number): Promise<void>;
    deleteAlarm(): Promise<void>;
    /** Resolves when all that was written is durable. */
    sync(): Promise<void>;
  };
  blockConcurrencyWhile<T>(work: () => Promise<T>): Promise<T>;
  waitUntil(work: Promise<unknown>): void;
}

export interface ObjectNamespace<Stub> {
  idFromName(name: string): unknown;
  get(id: unknown): Stub;
}

export interface HandlerContext {
  waitUntil(work: Promise<unknown>): void;
}

/** What the names in wrangler.toml become. */
export interface Env {
  /** Default: `r2:BUCKET`. Or `r2:BINDING/prefix`, or `s3://bucket/prefix?region=…`. */
  readonly SPORE_STORAGE?: string;
  /** Secrets for an S3 bucket. */
  readonly AWS_ACCESS_KEY_ID?: string;
  readonly AWS_SECRET_ACCESS_KEY?: string;
  readonly AWS_REGION?: string;
  readonly PARTITIONS: ObjectNamespace<PartitionStub>;
  /** A Worker Loader: then each tenant's component runs in an isolate of its own. */
  readonly LOADER?: WorkerLoaderLike;
  /** Secret: JSON of API key hashes and grants, as `spore serve --keys` takes it. */
  readonly SPORE_KEYS?: string;
  /** Partitions of a namespace that this Worker makes; an existing one keeps its own. */
  readonly SPORE_PARTITIONS?: string;
  /** Where people and webhooks reach the Worker: stands before the urls of events. */
  readonly SPORE_PUBLIC_URL?: string;
  /** `debug`, `info` (default), `warn` or `error`. */
  readonly SPORE_LOG?: string;
}

/** What the front Worker and other objects call on a partition's object. */
export interface PartitionStub {
  fetch(request: Request): Promise<Response>;
  /** One encoded request of another object, and its encoded answer (`Host.serve`). */
  serve(request: Uint8Array): Promise<Uint8Array>;
  /**
   * Opens the partition if it isn't, so that its timers run; one that another host has taken
   * over only if `takesOver`.
   */
  wake(takesOver: boolean): Promise<Awake>;
  /** Begins what is to be done once for a namespace now and then, and doesn't wait for it. */
  upkeep(): Promise<void>;
}

export interface Awake {
  /** Of the namespace. */
  readonly partitions: number;
  readonly isServed: boolean;
}

/** The name of a partition's object: its address, too. */
export function objectName(index: number): string {
  return `partition-${index}`;
}

/** The inverse; undefined for any other name. */
export function indexOfName(name: string | undefined): number | undefined {
  const digits = /^partition-(\d{1,4})$/.exec(name ?? "")?.[1];
  return digits === undefined ? undefined : Number(digits);
}

export function stubOf(env: Env, name: string): PartitionStub {
  return env.PARTITIONS.get(env.PARTITIONS.idFromName(name));
}
