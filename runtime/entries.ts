/**
 * The entries of one log, for who owns it and who only follows it: how they are read, and the
 * marks that say which bases may have a later one (tail.ts T3).
 */
import { decodeEntry, type Entry, type EntryPlace } from "./entry.ts";
import { SporeError } from "./errors.ts";
import type { Digest, Store } from "./ports.ts";
import type { Retrier } from "./retry.ts";
import { type Exists, seqText } from "./tail.ts";

export interface EntriesOptions {
  readonly store: Store;
  /** Before `/log/…`; a folder of the partition. */
  readonly prefix: string;
  readonly partition: number;
  readonly digest: Digest;
}

/** Not empty: of nothing no part can be read. */
const mark = new Uint8Array(1);
/** Most commits of a partition with little to do are smaller. */
const probeBytes = 8 * 1024;

export class Entries {
  readonly #options: EntriesOptions;
  readonly #retrier: Retrier;

  constructor(options: EntriesOptions, retrier: Retrier) {
    this.#options = options;
    this.#retrier = retrier;
  }

  place(seq: number): EntryPlace {
    const { prefix, partition } = this.#options;
    return { key: `${prefix}/log/${seqText(seq)}`, partition, seq };
  }

  /** An entry; bytes that look damaged are read a second time before that is believed. */
  async read(seq: number): Promise<Entry | undefined> {
    const { store, digest } = this.#options;
    const place = this.place(seq);
    for (let attempt = 1; ; attempt += 1) {
      const bytes = await this.#retrier.run("log get", () => store.get(place.key));
      if (bytes === undefined) return undefined;
      try {
        return decodeEntry(bytes, place, digest);
      } catch (error) {
        if (attempt === 2 || !(error instanceof SporeError)) throw error;
      }
    }
  }

  /**
   * Whether there is an entry, and the entry if it is a small one: who looks for the last entry
   * nearly always has it with the answer. One that looks damaged is left to `read`.
   */
  async probe(seq: number): Promise<{ readonly entry: Entry | undefined } | undefined> {
    const place = this.place(seq);
    const range = { offset: 0, length: probeBytes };
    const bytes = await this.#retrier.run("log probe", () =>
      this.#options.store.get(place.key, range),
    );
    if (bytes === undefined) return undefined;
    if (bytes.length === probeBytes) return { entry: undefined };
    try {
      return { entry: decodeEntry(bytes, place, this.#options.digest) };
    } catch (error) {
      if (error instanceof SporeError) return { entry: undefined };
      throw error;
    }
  }

  readonly exists: Exists = (seq) => this.#isThere(this.place(seq).key);

  /** T3: whether there may be a base after this one. */
  isPassed(base: number): Promise<boolean> {
    return this.#isThere(this.#markOf(base));
  }

  /** T3: from when this resolves there may be a base after this one. */
  async pass(base: number): Promise<void> {
    const put = (): Promise<string> =>
      this.#options.store.put(this.#markOf(base), mark, { ifAbsent: true });
    await this.#retrier.run("log mark", put);
  }

  #markOf(base: number): string {
    return `${this.#options.prefix}/passed/${seqText(base)}`;
  }

  async #isThere(key: string): Promise<boolean> {
    const probe = (): Promise<Uint8Array | undefined> =>
      this.#options.store.get(key, { offset: 0, length: 1 });
    return (await this.#retrier.run("log probe", probe)) !== undefined;
  }
}
