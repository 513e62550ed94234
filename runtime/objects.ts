/**
 * Stored values as objects: whole, checked against their hash, and in parts where the value is
 * bytes. Owns no knowledge of who refers to them (collector.ts).
 */
import { type EncodedBytes, encodedBytes, encodedBytesHeadMax } from "../guest/cbor.ts";
import { pieceMark } from "../guest/protocol.ts";
import { SporeError } from "./errors.ts";
import { toHex } from "./ids.ts";
import type { ByteRange, Digest, Store } from "./ports.ts";
import { hashOfName, isObjectName, objectKey } from "./refs.ts";
import type { Retrier } from "./retry.ts";

/** Of values and parts that were read last: a run's `get` reads, and then its machine is given it. */
const cacheBytesMax = 64 * 1024 * 1024;
/** Of one value; `objectBytesMax` in pieces as the SDK makes them is 64. */
const piecesMax = 256;

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
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: ObjectsOptions) {
    this.#options = options;
  }

  /** The encoded value. Throws object-not-found, corrupt-segment. */
  async read(retrier: Retrier, tenant: string, name: string): Promise<Uint8Array> {
    const key = `${tenant}/${name}`;
    const cached = this.#cached(key);
    if (cached !== undefined) return cached;
    const bytes = await this.#checked(retrier, tenant, name);
    this.#keep(key, bytes);
    return bytes;
  }

  async #checked(retrier: Retrier, tenant: string, name: string): Promise<Uint8Array> {
    const bytes = await this.#get(retrier, tenant, name);
    if (toHex(this.#options.digest.sha256(bytes)) === hashOfName(name)) return bytes;
    throw new SporeError("corrupt-segment", `object ${name} is damaged`);
  }

  /** A part of what encodes the value. Throws object-not-found; invalid-request past its end. */
  async readEncoded(
    retrier: Retrier,
    { tenant, name }: { readonly tenant: string; readonly name: string },
    range: ByteRange,
  ): Promise<Uint8Array> {
    const key = `${tenant}/${name} encoded ${range.offset} ${range.length}`;
    const cached = this.#cached(key);
    if (cached !== undefined) return cached;
    const bytes = await this.#get(retrier, tenant, name, range);
    if (bytes.length !== range.length) {
      throw new SporeError("invalid-request", `object ${name} ends before the part that is asked`);
    }
    this.#keep(key, bytes);
    return bytes;
  }

  /**
   * Pieces one after the other, without their marks. Throws object-not-found, corrupt-segment, and
   * invalid-request for what aren't the pieces of so many bytes.
   */
  async join(
    retrier: Retrier,
    tenant: string,
    { pieces, size }: { readonly pieces: readonly string[]; readonly size: number },
  ): Promise<Uint8Array> {
    const isSound = Array.isArray(pieces) && pieces.length <= piecesMax && size >= 0;
    if (!isSound || !Number.isSafeInteger(size)) throw notPieces(size);
    const whole = new Uint8Array(size);
    let at = 0;
    for (const name of pieces) {
      const piece = await this.#checked(retrier, tenant, String(name));
      if (piece[0] !== pieceMark || at + piece.length - 1 > size) throw notPieces(size);
      whole.set(piece.subarray(1), at);
      at += piece.length - 1;
    }
    if (at !== size) throw notPieces(size);
    return whole;
  }

  /** What needs much memory waits for others of its kind. */
  async inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => undefined);
    return done;
  }

  /** What bytes the value is, if it is bytes or an array of numbers. Throws object-not-found. */
  async bytesIn(
    retrier: Retrier,
    tenant: string,
    name: string,
  ): Promise<{ readonly length: number; readonly type: string } | undefined> {
    const place = await this.#place(retrier, tenant, name);
    return place === undefined ? undefined : { length: place.length, type: place.type };
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

  async #place(retrier: Retrier, tenant: string, name: string): Promise<EncodedBytes | undefined> {
    const range = { offset: 0, length: encodedBytesHeadMax };
    return encodedBytes(await this.#get(retrier, tenant, name, range));
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

function notPieces(size: number): SporeError {
  return new SporeError("invalid-request", `these aren't the pieces of a value of ${size} bytes`);
}
