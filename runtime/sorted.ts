/**
 * An ordered map from strings to values in memory: the table's newest rows. Sorted chunks
 * of a few hundred keys; finding, inserting and stepping cost a binary search over chunks
 * and one within, and memory is two flat arrays per chunk.
 */

/** Rows in order; `undefined` as a value is a deleted row. */
export interface Rows<Value> {
  readonly keys: readonly string[];
  readonly values: readonly (Value | undefined)[];
}

interface Chunk<Value> {
  readonly keys: string[];
  readonly values: (Value | undefined)[];
}

const chunkKeysMax = 512;

export class SortedMap<Value> {
  readonly #chunks: Chunk<Value>[] = [];
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** The row, which may hold `undefined`; undefined if there is none. */
  find(key: string): { readonly value: Value | undefined } | undefined {
    const chunk = this.#chunks[this.#chunkOf(key)];
    if (chunk === undefined) return undefined;
    const at = lowerBound(chunk.keys, key);
    return chunk.keys[at] === key ? { value: chunk.values[at] } : undefined;
  }

  set(key: string, value: Value | undefined): void {
    const index = Math.max(0, this.#chunkOf(key));
    const chunk = this.#chunks[index] ?? this.#addChunk(index, { keys: [], values: [] });
    const at = lowerBound(chunk.keys, key);
    if (chunk.keys[at] === key) {
      chunk.values[at] = value;
      return;
    }
    chunk.keys.splice(at, 0, key);
    chunk.values.splice(at, 0, value);
    this.#size += 1;
    if (chunk.keys.length > chunkKeysMax) this.#split(index, chunk);
  }

  /** Copies of at most `max` rows from `from` on (inclusive), or after it. */
  slice(from: string, options: { isAfter: boolean; max: number }): Rows<Value> {
    const keys: string[] = [];
    const values: (Value | undefined)[] = [];
    let index = Math.max(0, this.#chunkOf(from));
    let at = lowerBound(this.#chunks[index]?.keys ?? [], from);
    if (options.isAfter && this.#chunks[index]?.keys[at] === from) at += 1;
    for (; keys.length < options.max; index += 1, at = 0) {
      const chunk = this.#chunks[index];
      if (chunk === undefined) break;
      const end = Math.min(chunk.keys.length, at + options.max - keys.length);
      for (; at < end; at += 1) {
        keys.push(chunk.keys[at] ?? "");
        values.push(chunk.values[at]);
      }
    }
    return { keys, values };
  }

  /** Index of the last chunk that begins at or before the key, -1 if none does. */
  #chunkOf(key: string): number {
    let low = 0;
    let high = this.#chunks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#chunks[middle]?.keys[0] ?? "") <= key) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  #addChunk(index: number, chunk: Chunk<Value>): Chunk<Value> {
    this.#chunks.splice(index, 0, chunk);
    return chunk;
  }

  /** In the middle; at the end if keys come in order, which leaves the chunk full. */
  #split(index: number, chunk: Chunk<Value>): void {
    const isLast = index === this.#chunks.length - 1;
    const at = isLast ? chunkKeysMax : chunkKeysMax >>> 1;
    this.#addChunk(index + 1, { keys: chunk.keys.splice(at), values: chunk.values.splice(at) });
  }
}

/** Index of the first key that is not before `key`. */
export function lowerBound(keys: readonly string[], key: string): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((keys[middle] ?? "") < key) low = middle + 1;
    else high = middle;
  }
  return low;
}
