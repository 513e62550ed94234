/**
 * Stored values as objects: whole, checked against their hash, and in parts where the value is
 * bytes. Owns no knowledge of who refers to them (collector.ts).
 */
import { SporeError } from "./errors.ts";
import { toHex } from "./ids.ts";
import type { ByteRange, Digest, Store } from "./ports.ts";
import { hashOfName, isObjectName, objectKey } from "./refs.ts";
import type { Retrier } from "./retry.ts";

/** Of values and parts that were read last: a run's `get` reads, and then its machine is given it. */
const cacheBytesMax = 64 * 1024 * 1024;
/** The largest head of an encoded byte string. */
const headBytesMax = 11;

export interface ObjectsOptions {
  readonly store: Store;
  readonly prefix: string;
  readonly digest: Digest;
}

export class Objects {
  readonly #options: ObjectsOptions;
  /** Oldest first, by object and range. */
  readonly #cache = new Map<string, Uint8Array>();
  #cacheBytes = 0;

  constructor(options: ObjectsOptions) {
    this.#options = options;
  }

  /** The encoded value. Throws object-not-found, corrupt-segment. */
  async read(retrier: Retrier, tenant: string, name: string): Promise<Uint8Array> {
    const key = `${tenant}/${name}`;
    const cached = this.#cached(key);
    if (cached !== undefined) return cached;
    const bytes = await this.#get(retrier, tenant, name);
    if (toHex(this.#options.digest.sha256(bytes)) !== hashOfName(name)) {
      throw new SporeError("corrupt-segment", `object ${name} is damaged`);
    }
    this.#keep(key, bytes);
    return bytes;
  }

  /** How many bytes the value is, if it is bytes; else undefined. Throws object-not-found. */
  async bytesIn(retrier: Retrier, tenant: string, name: string): Promise<number | undefined> {
    return (await this.#place(retrier, tenant, name))?.length;
  }

  /**
   * A part of a value that is bytes, clipped at its end; a part can't be checked by itself.
   * Throws object-not-found, and invalid-request for a value of another kind.
   */
  async readPart(
    retrier: Retrier,
    object: { readonly tenant: string; readonly name: string },
    { offset, length }: ByteRange,
  ): Promise<Uint8Array> {
    const { tenant, name } = object;
    const key = `${tenant}/${name} ${offset} ${length}`;
    const cached = this.#cached(key);
    if (cached !== undefined) return cached;
    const place = await this.#place(retrier, tenant, name);
    if (place === undefined) {
      throw new SporeError("invalid-request", `object ${name} holds no bytes to read a part of`);
    }
    const end = Math.min(offset + length, place.length);
    if (offset >= end) return new Uint8Array(0);
    const range = { offset: place.at + offset, length: end - offset };
    const bytes = await this.#get(retrier, tenant, name, range);
    this.#keep(key, bytes);
    return bytes;
  }

  #cached(key: string): Uint8Array | undefined {
    const bytes = this.#cache.get(key);
    if (bytes === undefined) return undefined;
    this.#cache.delete(key);
    this.#cache.set(key, bytes);
    return bytes;
  }

  #keep(key: string, bytes: Uint8Array): void {
    if (bytes.length > cacheBytesMax / 4 || this.#cache.has(key)) return;
    this.#cache.set(key, bytes);
    this.#cacheBytes += bytes.length;
    for (const [oldest, { length }] of this.#cache) {
      if (this.#cacheBytes <= cacheBytesMax) return;
      this.#cache.delete(oldest);
      this.#cacheBytes -= length;
    }
  }

  async #place(
    retrier: Retrier,
    tenant: string,
    name: string,
  ): Promise<{ readonly at: number; readonly length: number } | undefined> {
    const range = { offset: 0, length: headBytesMax };
    return placeOfBytes(await this.#get(retrier, tenant, name, range));
  }

  async #get(
    retrier: Retrier,
    tenant: string,
    name: string,
    range?: ByteRange,
  ): Promise<Uint8Array> {
    const { store, prefix } = this.#options;
    const key = objectKey(prefix, tenant, name);
    const bytes = isObjectName(name)
      ? await retrier.run("object get", () => store.get(key, range))
      : undefined;
    if (bytes !== undefined) return bytes;
    throw new SporeError("object-not-found", `there is no object ${name.slice(0, 100)}`);
  }
}

/** Where the bytes begin in an encoded Uint8Array, and how many they are. */
function placeOfBytes(
  head: Uint8Array,
): { readonly at: number; readonly length: number } | undefined {
  const start = head[0] === 0xd8 && head[1] === 0x40 ? 2 : 0;
  const first = head[start];
  if (first === undefined || first >> 5 !== 2) return undefined;
  const info = first & 31;
  if (info < 24) return { at: start + 1, length: info };
  const size = 2 ** (info - 24);
  if (size > 8 || head.length < start + 1 + size) return undefined;
  let length = 0;
  for (let index = 0; index < size; index += 1) {
    length = length * 256 + (head[start + 1 + index] ?? 0);
  }
  return { at: start + 1 + size, length };
}
