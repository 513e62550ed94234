/**
 * How far the messages of each other partition have been applied here (partition.ts P4).
 * What is durable of it, and when it rises, is the partition's business.
 */
export class Cursors {
  readonly #applied = new Map<number, number>();

  of(source: number): number {
    return this.#applied.get(source) ?? 0;
  }

  isApplied(source: number, index: number): boolean {
    return index <= this.of(source);
  }

  set(source: number, index: number): void {
    this.#applied.set(source, index);
  }
}
