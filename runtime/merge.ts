/**
 * Several ordered sources of rows as one. Owns which row counts where keys are the same;
 * reads nothing by itself.
 */
import type { Rows } from "./sorted.ts";

/** Rows in order, a piece at a time; empty at the end. */
export type Source = () => Promise<Rows<Uint8Array>>;

export interface Row {
  readonly key: string;
  readonly value: Uint8Array | undefined;
}

/** Several sources as one; of rows with the same key the first source's counts. */
export class Merge {
  readonly #cursors: { readonly next: Source; rows: Rows<Uint8Array>; at: number }[];

  constructor(sources: readonly Source[]) {
    this.#cursors = sources.map((next) => ({ next, rows: { keys: [], values: [] }, at: 0 }));
  }

  /** Reads on where a source ran out of rows in memory; false if there are no more rows. */
  async fill(): Promise<boolean> {
    for (let index = this.#cursors.length - 1; index >= 0; index -= 1) {
      const cursor = this.#cursors[index];
      if (cursor === undefined || cursor.at < cursor.rows.keys.length) continue;
      cursor.rows = await cursor.next();
      cursor.at = 0;
      if (cursor.rows.keys.length === 0) this.#cursors.splice(index, 1);
    }
    return this.#cursors.length > 0;
  }

  /** The next row if no source has to be read first. */
  takeIfFilled(): Row | undefined {
    const isFilled = this.#cursors.every(({ at, rows }) => at < rows.keys.length);
    return isFilled ? this.take() : undefined;
  }

  /** The next row; only after `fill` was true. */
  take(): Row | undefined {
    let key: string | undefined;
    let value: Uint8Array | undefined;
    for (const { rows, at } of this.#cursors) {
      const candidate = rows.keys[at];
      if (candidate === undefined || (key !== undefined && candidate >= key)) continue;
      key = candidate;
      value = rows.values[at];
    }
    if (key === undefined) return undefined;
    for (const cursor of this.#cursors) if (cursor.rows.keys[cursor.at] === key) cursor.at += 1;
    return { key, value };
  }
}
