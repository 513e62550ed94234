/**
 * Long work in pieces. What reads or copies a whole namespace (a collection, a change of the
 * number of partitions) does so through a store of its own. That passes on so many calls and
 * bytes in one invocation of the object and holds back what comes then, until the next one
 * begins, which has CPU time and subrequests of its own. Every call of the store is a place to
 * cut at, so the engine's loops know nothing of it.
 *
 * Calls and bytes are counted and no time is: clocks stand still while a Worker computes.
 */
import type { SporeError } from "../../runtime/errors.ts";
import type { Store } from "../../runtime/ports.ts";

export interface PieceLimits {
  readonly calls: number;
  /** Read and written. */
  readonly bytes: number;
}

/** What a whole object counts as until it is there. */
const wholeBytes = 1024 * 1024;

/** A twentieth of the subrequests that an invocation may make: the object has other work, too. */
export const pieceLimits: PieceLimits = Object.freeze({ calls: 500, bytes: 16 * 1024 * 1024 });

export class Pieces {
  readonly #limits: PieceLimits;
  readonly #onHeld: () => void;
  readonly #held: (() => void)[] = [];
  #calls = 0;
  #bytes = 0;
  /** Of `#bytes`: what is being read, and only expected. */
  #expected = 0;
  #closed: SporeError | undefined;

  /** `onHeld`: a piece is at its end and there is more to do; `begin` is wanted. */
  constructor(onHeld: () => void, limits: PieceLimits = pieceLimits) {
    this.#onHeld = onHeld;
    this.#limits = limits;
  }

  get isHeld(): boolean {
    return this.#held.length > 0;
  }

  /** An invocation begins, and a piece with it. */
  begin(): void {
    this.#calls = 0;
    this.#bytes = this.#expected;
    this.#release();
  }

  /** Calls that are held, and all that come, throw this. */
  close(error: SporeError): void {
    this.#closed = error;
    this.#release();
  }

  /** The same store, for long work. */
  store(store: Store): Store {
    return {
      get: async (key, range) => {
        const expected = range?.length ?? wholeBytes;
        await this.#pass(expected);
        this.#expected += expected;
        let found = expected;
        try {
          const bytes = await store.get(key, range);
          found = bytes?.length ?? 0;
          return bytes;
        } finally {
          this.#expected -= expected;
          this.#bytes += found - expected;
        }
      },
      put: async (key, bytes, options) => {
        await this.#pass(bytes.length);
        return store.put(key, bytes, options);
      },
      delete: async (key) => {
        await this.#pass(0);
        await store.delete(key);
      },
      list: async (prefix, options) => {
        await this.#pass(0);
        return store.list(prefix, options);
      },
      close: () => store.close(),
    };
  }

  /** One call of this piece, or of a later one. */
  async #pass(bytes: number): Promise<void> {
    while (this.#closed === undefined) {
      if (this.#calls < this.#limits.calls && this.#bytes < this.#limits.bytes) {
        this.#calls += 1;
        this.#bytes += bytes;
        return;
      }
      await new Promise<void>((resolve) => {
        if (this.#held.push(resolve) === 1) this.#onHeld();
      });
    }
    throw this.#closed;
  }

  #release(): void {
    for (const go of this.#held.splice(0)) go();
  }
}
