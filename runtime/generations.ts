/**
 * The current generation of a namespace's objects: the newest version of a register that only
 * the collector writes (collector.ts has what it is for). 0 before the first collection.
 */
import { decode, encode } from "../guest/cbor.ts";
import type { Clock, Digest, Observer, Random, Store } from "./ports.ts";
import { Register } from "./register.ts";
import { Retrier } from "./retry.ts";
import { seqText } from "./tail.ts";

export interface GenerationsOptions {
  readonly store: Store;
  /** Of the namespace. */
  readonly prefix: string;
  readonly random: Random;
  readonly digest: Digest;
  readonly clock: Clock;
  readonly observer: Observer;
}

/** How old the newest collection is when the next one is due. */
const collectionEveryMs = 86_400_000;

/**
 * Whether somebody should collect: the newest collection began a day ago, or there was none.
 * One that was interrupted counts: the next makes up for it.
 */
export async function collectionDue(options: GenerationsOptions): Promise<boolean> {
  const latest = await registerOf(options).readLatest();
  if (latest === undefined) return true;
  const { atMs } = decode(latest.value) as { atMs: number }; // written by `advance`
  // Also one of a day ahead: who began it had a wrong clock, and that must not last.
  return Math.abs(options.clock.nowMs() - atMs) >= collectionEveryMs;
}

function registerOf(options: GenerationsOptions): Register {
  return new Register({ ...options, prefix: `${options.prefix}collections` });
}

export class Generations {
  readonly #options: GenerationsOptions;
  readonly #register: Register;
  readonly #retrier: Retrier;
  /** Versions are dense: so many there are at least. */
  #known: number | undefined;
  #asking: Promise<number> | undefined;
  #next: Promise<number> | undefined;

  constructor(options: GenerationsOptions) {
    this.#options = options;
    this.#register = registerOf(options);
    this.#retrier = new Retrier(options.clock, options.observer);
  }

  /**
   * The current generation at some moment after the call. One small GET, shared by all who ask
   * while another question is under way.
   */
  current(): Promise<number> {
    if (this.#asking === undefined) return this.#begin();
    const begin = (): Promise<number> => this.#begin();
    // The question that is under way may have been answered before this call.
    this.#next ??= this.#asking.then(begin, begin);
    return this.#next;
  }

  /** Begins a generation; undefined if another collector did so first. */
  async advance(): Promise<number | undefined> {
    const before = await this.current();
    const value = encode({ atMs: this.#options.clock.nowMs() });
    const result = await this.#register.append(value, before);
    if (result.kind === "lost") return undefined;
    this.#known = result.seq;
    return result.seq;
  }

  #begin(): Promise<number> {
    this.#next = undefined;
    const asking = this.#ask().finally(() => {
      if (this.#asking === asking) this.#asking = undefined;
    });
    this.#asking = asking;
    return asking;
  }

  async #ask(): Promise<number> {
    this.#known ??= (await this.#register.readLatest())?.seq ?? 0;
    for (;;) {
      const known: number = this.#known;
      if (!(await this.#exists(known + 1))) return known;
      this.#known = known + 1;
    }
  }

  async #exists(seq: number): Promise<boolean> {
    const key = `${this.#options.prefix}collections/${seqText(seq)}`;
    const probe = (): Promise<Uint8Array | undefined> =>
      this.#options.store.get(key, { offset: 0, length: 1 });
    return (await this.#retrier.run("generation probe", probe)) !== undefined;
  }
}
