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
  const { atMs } = begunOf(latest.value);
  // Also one of a day ahead: who began it had a wrong clock, and that must not last.
  return Math.abs(options.clock.nowMs() - atMs) >= collectionEveryMs;
}

/** What a collection says when it begins. */
interface Begun {
  readonly atMs: number;
  /** Below the namespace's prefix: it judges objects up to this key; absent: all that are left. */
  readonly upTo?: string | undefined;
}

function begunOf(value: Uint8Array): Begun {
  return decode(value) as Begun; // written by `advance`
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

  /** The newest one, and where the objects begin that the collection which began it left out. */
  async newest(): Promise<{ readonly generation: number; readonly upTo: string | undefined }> {
    const latest = await this.#register.readLatest();
    if (latest === undefined) return { generation: 0, upTo: undefined };
    return { generation: latest.seq, upTo: begunOf(latest.value).upTo };
  }

  /** Begins the generation after `before`; false if another collector did so first. */
  async advance(before: number, upTo: string | undefined): Promise<boolean> {
    const begun: Begun = { atMs: this.#options.clock.nowMs(), ...(upTo !== undefined && { upTo }) };
    const result = await this.#register.append(encode(begun), before);
    if (result.kind === "lost") return false;
    this.#known = result.seq;
    return true;
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
