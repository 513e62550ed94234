/**
 * A value that changes rarely and is never lost: each version is an object
 * `<prefix>/<seq>`, created if absent and never deleted, so the newest is found like the
 * tail of a log (tail.ts) and two writers never both write the same version.
 *
 * Reading is linearizable: an append that was reported before `readLatest` was called is
 * seen. (With nothing deleted, every probe at or below the tail of that moment finds its
 * object, and the descent takes the greater branch.)
 */
import { ByteReader, ByteWriter, isSameBytes, Truncated } from "./bytes.ts";
import { SporeError } from "./errors.ts";
import type { Clock, Digest, Observer, Random, Store } from "./ports.ts";
import { Retrier } from "./retry.ts";
import { findTail, seqText } from "./tail.ts";

export interface RegisterOptions {
  readonly store: Store;
  readonly prefix: string;
  readonly random: Random;
  readonly digest: Digest;
  readonly clock: Clock;
  readonly observer: Observer;
}

export interface RegisterVersion {
  /** Counts up from 1. */
  readonly seq: number;
  readonly value: Uint8Array;
}

export type RegisterAppendResult =
  | { readonly kind: "written"; readonly seq: number }
  /** Another writer made the version after the expected one. */
  | { readonly kind: "lost"; readonly found: RegisterVersion };

const magic = 0x67727073;
const version = 1;
const nonceBytes = 16;
const hashBytes = 32;
/** Few registers have more than fifteen versions, and a Worker has six calls under way at once. */
const probesAtOnce = 4;

export class Register {
  readonly #options: RegisterOptions;
  readonly #retrier: Retrier;

  constructor(options: RegisterOptions) {
    this.#options = options;
    this.#retrier = new Retrier(options.clock, options.observer);
  }

  async readLatest(): Promise<RegisterVersion | undefined> {
    // Versions are small, so each probe reads one whole: the newest is there when it is found.
    const found = new Map<number, Uint8Array>();
    const tail = await findTail(async (seq) => {
      const bytes = await this.#get(seq);
      if (bytes !== undefined) found.set(seq, bytes);
      return bytes !== undefined;
    }, probesAtOnce);
    const bytes = found.get(tail);
    return bytes === undefined ? undefined : { seq: tail, value: this.#decode(bytes, tail) };
  }

  /** The newest version if there is one after `seq`, which is one that there is: versions are dense. */
  async readAfter(seq: number): Promise<RegisterVersion | undefined> {
    return (await this.#exists(seq + 1)) ? this.readLatest() : undefined;
  }

  /** A version that is there: 1 to that of `readLatest`. */
  readVersion(seq: number): Promise<RegisterVersion> {
    return this.#read(seq);
  }

  /** Writes the version after `after` (0 for the first), unless somebody else did. */
  async append(value: Uint8Array, after: number): Promise<RegisterAppendResult> {
    const seq = after + 1;
    const bytes = this.#encode(value, this.#options.random.bytes(nonceBytes));
    const put = (): Promise<string> =>
      this.#options.store.put(this.#key(seq), bytes, { ifAbsent: true });
    const result = await this.#retrier.run("register put", put);
    if (result === "created") return { kind: "written", seq };
    const found = await this.#readBytes(seq);
    // `exists` may be the answer to our own PUT whose first reply got lost.
    if (isSameBytes(found, bytes)) return { kind: "written", seq };
    return { kind: "lost", found: { seq, value: this.#decode(found, seq) } };
  }

  /** Ends waiting: calls under way throw host-stopping instead of trying again. */
  close(): void {
    this.#retrier.close();
  }

  readonly #exists = async (seq: number): Promise<boolean> => {
    const probe = (): Promise<Uint8Array | undefined> =>
      this.#options.store.get(this.#key(seq), { offset: 0, length: 1 });
    return (await this.#retrier.run("register probe", probe)) !== undefined;
  };

  async #read(seq: number): Promise<RegisterVersion> {
    return { seq, value: this.#decode(await this.#readBytes(seq), seq) };
  }

  #get(seq: number): Promise<Uint8Array | undefined> {
    return this.#retrier.run("register get", () => this.#options.store.get(this.#key(seq)));
  }

  async #readBytes(seq: number): Promise<Uint8Array> {
    const bytes = await this.#get(seq);
    if (bytes === undefined) throw this.#damaged(seq, "it was deleted");
    return bytes;
  }

  #encode(value: Uint8Array, nonce: Uint8Array): Uint8Array {
    const writer = new ByteWriter(value.length + nonceBytes + hashBytes + 16);
    writer.u32(magic);
    writer.u8(version);
    writer.raw(nonce);
    writer.bytes(value);
    writer.raw(this.#options.digest.sha256(writer.done()));
    return writer.done();
  }

  #decode(bytes: Uint8Array, seq: number): Uint8Array {
    const hashAt = bytes.length - hashBytes;
    const content = bytes.subarray(0, Math.max(0, hashAt));
    if (!isSameBytes(bytes.subarray(hashAt), this.#options.digest.sha256(content))) {
      throw this.#damaged(seq, "its hash does not fit");
    }
    try {
      const reader = new ByteReader(content);
      if (reader.u32() !== magic) throw new Truncated("it is no register version");
      const found = reader.u8();
      if (found !== version) throw new Truncated(`its format is version ${found}`);
      reader.raw(nonceBytes);
      return reader.bytes().slice();
    } catch (error) {
      if (error instanceof Truncated) throw this.#damaged(seq, error.message);
      throw error;
    }
  }

  #damaged(seq: number, why: string): SporeError {
    return new SporeError("corrupt-log", `register ${this.#key(seq)} is damaged: ${why}`);
  }

  #key(seq: number): string {
    return `${this.#options.prefix}/${seqText(seq)}`;
  }
}
