/**
 * What of Cloudflare's platform the Worker uses, declared by structure: no types package,
 * whose globals would not go together with Node's and the DOM's.
 */
import type { R2BucketLike } from "../store/r2.ts";

export interface ObjectState {
  readonly id: { toString(): string };
  readonly storage: {
    get<T>(key: string): Promise<T | undefined>;
    put(key: string, value: unknown): Promise<void>;
    delete(key: string): Promise<boolean>;
    setAlarm(atMs: number): Promise<void>;
    getAlarm(): Promise<number | null>;
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
  /** The bucket; absent if SPORE_STORAGE names an S3 bucket. */
  readonly BUCKET?: R2BucketLike;
  readonly PARTITIONS: ObjectNamespace<PartitionStub>;
  /** Secret: JSON of API key hashes, as `spore serve --keys` takes it. */
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
  /** Opens the partition if it isn't, so that its timers run. Answers how many there are. */
  wake(index: number): Promise<number>;
}
