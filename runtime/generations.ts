/**
 * The current generation of a namespace's objects: the newest version of a register that only
 * the collector writes (collector.ts has what it is for). 0 before the first collection.
 */
import { encode } from "../guest/cbor.ts";
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
    this.#register = new Register({ ...options, prefix: `${options.prefix}collections` });
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
