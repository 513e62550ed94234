/**
 * Objects in a Map: the readable specification of a store, for tests and `memory:`.
 * Bytes are copied on the way in and out, so that nobody changes an object by accident.
 */
import type { ByteRange, ListResult, PutResult, Store } from "../../runtime/ports.ts";
import { checkKey } from "./key.ts";

export class MemoryStore implements Store {
  readonly #objects = new Map<string, Uint8Array>();
  /** Keys in order, made when a list needs them. */
  #sorted: string[] | undefined;

  async get(key: string, range?: ByteRange): Promise<Uint8Array | undefined> {
    const bytes = this.#objects.get(checkKey(key));
    if (bytes === undefined || range === undefined) return bytes?.slice();
    return bytes.slice(range.offset, range.offset + range.length);
  }

  async put(
    key: string,
    bytes: Uint8Array,
    options: { ifAbsent?: boolean } = {},
  ): Promise<PutResult> {
    const isNew = !this.#objects.has(checkKey(key));
    if (options.ifAbsent === true && !isNew) return "exists";
    this.#objects.set(key, bytes.slice());
    if (isNew) this.#sorted = undefined;
    return "created";
  }

  async delete(key: string): Promise<void> {
    if (this.#objects.delete(checkKey(key))) this.#sorted = undefined;
  }

  async list(
    prefix: string,
    options: { after?: string; limit?: number } = {},
  ): Promise<ListResult> {
    this.#sorted ??= [...this.#objects.keys()].sort();
    const { after = "", limit = 1000 } = options;
    const keys: { key: string; size: number }[] = [];
    for (const key of this.#sorted) {
      if (key <= after || !key.startsWith(prefix)) continue;
      if (keys.length === limit) return { keys, isTruncated: true };
      keys.push({ key, size: this.#objects.get(key)?.length ?? 0 });
    }
    return { keys, isTruncated: false };
  }

  async close(): Promise<void> {}
}
