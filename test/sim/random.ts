/** Seeded randomness for the simulation: sfc32, fast and good enough, the same everywhere. */

export class SimRandom {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number, stream = 0) {
    this.#a = seed >>> 0;
    this.#b = (Math.floor(seed / 2 ** 32) ^ Math.imul(stream, 0x9e3779b1)) >>> 0;
    this.#c = stream >>> 0;
    for (let round = 0; round < 15; round += 1) this.word();
  }

  /** 32 random bits. */
  word(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum;
    this.#c |= 0;
    return sum >>> 0;
  }

  /** From 0, below 1. */
  next(): number {
    return this.word() / 2 ** 32;
  }

  /** A whole number from 0, below `bound`. */
  below(bound: number): number {
    return Math.floor(this.next() * bound);
  }

  /** A whole number, both ends included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  chance(share: number): boolean {
    return share > 0 && this.next() < share;
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new Error("pick needs items");
    return item;
  }

  /** Mostly near `typical`, now and then many times that. */
  latency(typical: number): number {
    const spread = this.next();
    const base = typical * (0.3 + 1.4 * spread);
    return this.chance(0.02) ? base * (2 + 20 * this.next()) : base;
  }

  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.word() & 0xff);
  }

  /** An independent generator. */
  fork(): SimRandom {
    return new SimRandom(this.word(), this.word());
  }
}
