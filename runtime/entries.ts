/** Reads the entries of one log: who owns it, and who only follows it, the same way. */
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

  readonly exists: Exists = async (seq) => {
    const { key } = this.place(seq);
    const probe = (): Promise<Uint8Array | undefined> =>
      this.#options.store.get(key, { offset: 0, length: 1 });
    return (await this.#retrier.run("log probe", probe)) !== undefined;
  };
}
