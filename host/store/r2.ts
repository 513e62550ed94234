/**
 * Objects in a Cloudflare R2 bucket, through a Worker's binding. Only the part of the
 * binding that is used is declared, so that tests hand in any bucket that behaves so.
 *
 * R2 is strongly consistent; `onlyIf: { etagDoesNotMatch: "*" }` is its create-if-absent:
 * one winner, and `null` for the others. The binding does not retry by itself.
 */
import { SporeError } from "../../runtime/errors.ts";
import type { ByteRange, ListResult, PutResult, Store } from "../../runtime/ports.ts";
import { checkKey } from "./key.ts";

/** What of a Worker's R2 binding this store calls. */
export interface R2BucketLike {
  head(key: string): Promise<R2ObjectLike | null>;
  get(
    key: string,
    options?: { range: { offset: number; length: number } },
  ): Promise<(R2ObjectLike & { arrayBuffer(): Promise<ArrayBuffer> }) | null>;
  put(
    key: string,
    value: Uint8Array,
    options?: { onlyIf: { etagDoesNotMatch: string } },
  ): Promise<R2ObjectLike | null>;
  delete(key: string): Promise<void>;
  list(options: {
    prefix: string;
    limit: number;
    startAfter?: string;
  }): Promise<{ objects: readonly R2ObjectLike[]; truncated: boolean }>;
}

export interface R2ObjectLike {
  readonly key: string;
  readonly size: number;
}

export interface R2Options {
  /** Before every key, without slashes at the ends. Default "": the whole bucket. */
  readonly prefix?: string;
}

/** What R2 gives at most in one list. */
const listKeysMax = 1000;

export class R2Store implements Store {
  readonly #bucket: R2BucketLike;
  readonly #prefix: string;

  constructor(bucket: R2BucketLike, options: R2Options = {}) {
    this.#bucket = bucket;
    this.#prefix = options.prefix ? `${options.prefix}/` : "";
  }

  async get(key: string, range?: ByteRange): Promise<Uint8Array | undefined> {
    const name = this.#nameOf(key);
    return answer(`GET ${key}`, async () => {
      // R2 refuses an empty range, and one that begins at the end.
      if (range !== undefined && range.length <= 0) return this.#nothingOf(name);
      try {
        const options = range && { range: { offset: range.offset, length: range.length } };
        const object = await this.#bucket.get(name, options);
        return object === null ? undefined : new Uint8Array(await object.arrayBuffer());
      } catch (error) {
        const isPastEnd = range !== undefined && (await this.#isPastEnd(name, range));
        if (isPastEnd) return new Uint8Array();
        throw error;
      }
    });
  }

  async put(
    key: string,
    bytes: Uint8Array,
    options: { ifAbsent?: boolean } = {},
  ): Promise<PutResult> {
    const name = this.#nameOf(key);
    return answer(`PUT ${key}`, async () => {
      if (options.ifAbsent !== true) {
        await this.#bucket.put(name, bytes);
        return "created";
      }
      const created = await this.#bucket.put(name, bytes, { onlyIf: { etagDoesNotMatch: "*" } });
      return created === null ? "exists" : "created";
    });
  }

  async delete(key: string): Promise<void> {
    const name = this.#nameOf(key);
    await answer(`DELETE ${key}`, () => this.#bucket.delete(name));
  }

  async list(
    prefix: string,
    options: { after?: string; limit?: number } = {},
  ): Promise<ListResult> {
    const { after, limit = listKeysMax } = options;
    return answer(`LIST ${prefix}`, async () => {
      const { objects, truncated } = await this.#bucket.list({
        prefix: this.#prefix + prefix,
        limit: Math.min(limit, listKeysMax),
        ...(after !== undefined && { startAfter: this.#prefix + after }),
      });
      const keys = objects.map(({ key, size }) => ({ key: key.slice(this.#prefix.length), size }));
      return { keys, isTruncated: truncated };
    });
  }

  async close(): Promise<void> {
    // A binding is the platform's: there is nothing to give back.
  }

  async #nothingOf(name: string): Promise<Uint8Array | undefined> {
    return (await this.#bucket.head(name)) === null ? undefined : new Uint8Array();
  }

  async #isPastEnd(name: string, range: ByteRange): Promise<boolean> {
    const object = await this.#bucket.head(name);
    return object !== null && range.offset >= object.size;
  }

  #nameOf(key: string): string {
    return this.#prefix + checkKey(key);
  }
}

/** Whatever the binding rejects with may have happened all the same: the caller finds out. */
async function answer<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new SporeError("store-unavailable", `r2 store, ${what}: ${reason}`, {
      cause,
      hint: "Check the bucket's name in wrangler.toml, and Cloudflare's status page.",
    });
  }
}
