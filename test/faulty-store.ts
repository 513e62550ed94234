/**
 * A store that misbehaves as real ones do, from a seed: a call fails before it reached the
 * store; or it was done and the reply got lost; or it fails now and is done later, after
 * other calls. Wraps any store. What it never does is lie: an answer is always true.
 */
import { SporeError } from "../runtime/errors.ts";
import type { ByteRange, ListResult, PutResult, Random, Store } from "../runtime/ports.ts";

export interface FaultRates {
  /** Each 0 to 1, share of the calls. */
  readonly failBefore?: number;
  readonly failAfter?: number;
  /** Writes only. */
  readonly applyLate?: number;
}

/** A small seeded generator (mulberry32), also usable as the engine's Random port. */
export class SeededRandom implements Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** From 0, below 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number from 0, below `bound`. */
  below(bound: number): number {
    return Math.floor(this.next() * bound);
  }

  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.below(256));
  }
}

export class FaultyStore implements Store {
  readonly #inner: Store;
  readonly #random: SeededRandom;
  #rates: FaultRates;
  readonly #late: (() => Promise<unknown>)[] = [];
  #faults = 0;

  constructor(inner: Store, seed: number, rates: FaultRates = {}) {
    this.#inner = inner;
    this.#random = new SeededRandom(seed);
    this.#rates = rates;
  }

  /** Faults injected so far. */
  get faults(): number {
    return this.#faults;
  }

  /** Writes that failed and are still to be done. */
  get lateCount(): number {
    return this.#late.length;
  }

  setRates(rates: FaultRates): void {
    this.#rates = rates;
  }

  /** Does all writes that are still under way, in the order of a bad network. */
  async landAll(): Promise<void> {
    while (this.#late.length > 0) await this.#landOne();
  }

  get(key: string, range?: ByteRange): Promise<Uint8Array | undefined> {
    return this.#read("GET", () => this.#inner.get(key, range));
  }

  list(prefix: string, options?: { after?: string; limit?: number }): Promise<ListResult> {
    return this.#read("LIST", () => this.#inner.list(prefix, options));
  }

  put(key: string, bytes: Uint8Array, options?: { ifAbsent?: boolean }): Promise<PutResult> {
    const mine = bytes.slice();
    return this.#write(`PUT ${key}`, () => this.#inner.put(key, mine, options));
  }

  delete(key: string): Promise<void> {
    return this.#write(`DELETE ${key}`, () => this.#inner.delete(key));
  }

  close(): Promise<void> {
    return this.#inner.close();
  }

  async #read<T>(what: string, work: () => Promise<T>): Promise<T> {
    await this.#landSome();
    if (this.#happens(this.#rates.failBefore)) throw this.#fault(what);
    const result = await work();
    if (this.#happens(this.#rates.failAfter)) throw this.#fault(what);
    return result;
  }

  async #write<T>(what: string, work: () => Promise<T>): Promise<T> {
    if (this.#happens(this.#rates.applyLate)) {
      this.#late.push(work);
      throw this.#fault(what);
    }
    return this.#read(what, work);
  }

  async #landSome(): Promise<void> {
    if (this.#late.length > 0 && this.#random.next() < 0.2) await this.#landOne();
  }

  async #landOne(): Promise<void> {
    const [work] = this.#late.splice(this.#random.below(this.#late.length), 1);
    await work?.();
  }

  #happens(rate = 0): boolean {
    return rate > 0 && this.#random.next() < rate;
  }

  #fault(what: string): SporeError {
    this.#faults += 1;
    return new SporeError("store-unavailable", `injected fault: ${what}`);
  }
}
