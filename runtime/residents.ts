/**
 * The entities of a partition that are in memory: read when somebody asks for one, kept while
 * it is needed, let go when there are too many.
 *
 * Owns who is in memory and who watches whom. Doesn't own what an entity's rows are (state.ts),
 * nor what happens to it (partition.ts).
 *
 * Border: `load` before a transition, then `get`; `add` and `remove` within one. `committed` and
 * `trim` after commits let go of who isn't needed; `close` of all.
 *
 * Invariants:
 * - E1 An entity is in memory once: all who ask for a key at a time wait for one reading.
 * - E2 Nobody is let go who is at work, waited for, watched, or has changes that aren't durable;
 *   so the table has all of whom is not in memory (partition.ts P1).
 * - E3 While a key is being cleared, who asks for it waits until nothing is left of it.
 */
import { assert } from "./errors.ts";
import type { EntityKey } from "./ids.ts";
import { isClosed } from "./run.ts";
import { type Changes, type Entity, readEntity } from "./state.ts";

export interface ResidentsParts {
  /** Entities kept in memory beyond those that are busy. */
  readonly max: number;
  readonly nowMs: () => number;
  readonly isOwned: () => boolean;
  /** The rows of an entity; undefined if there is none. */
  readonly read: (
    key: EntityKey,
  ) => Promise<readonly (readonly [string, Uint8Array])[] | undefined>;
  /** Number of the last batch that is durable. */
  readonly durableNumber: () => number;
  /** It leaves memory: its machine isn't needed. */
  readonly release: (entity: Entity) => void;
}

export class Residents {
  readonly #parts: ResidentsParts;
  readonly #entities = new Map<EntityKey, Entity>();
  readonly #loading = new Map<EntityKey, Promise<void>>();
  readonly #watchers = new Map<EntityKey, Set<() => void>>();

  constructor(parts: ResidentsParts) {
    this.#parts = parts;
  }

  get size(): number {
    return this.#entities.size;
  }

  get(key: EntityKey): Entity | undefined {
    return this.#entities.get(key);
  }

  /** Reads an entity into memory, if there is one. Who asks for the same key waits in order. */
  load(key: EntityKey): Promise<void> {
    return this.#loading.get(key) ?? this.hold(key, this.#read(key));
  }

  /** Until the work is done, who asks for the key waits (E3). */
  hold(key: EntityKey, work: Promise<void>): Promise<void> {
    const held = work.finally(() => this.#loading.delete(key));
    this.#loading.set(key, held);
    return held;
  }

  /** Whether who asks for the key has to wait. */
  isHeld(key: EntityKey): boolean {
    return this.#loading.has(key);
  }

  async #read(key: EntityKey): Promise<void> {
    const rows = await this.#parts.read(key);
    if (rows === undefined || this.#entities.has(key) || !this.#parts.isOwned()) return;
    const entity = readEntity(key, rows, this.#parts.nowMs());
    if (entity !== undefined) this.#entities.set(key, entity);
  }

  /** Makes a new entity known; within a transition. */
  add(entity: Entity): void {
    assert(!this.#entities.has(entity.key), `${entity.key} is new`);
    this.#entities.set(entity.key, entity);
  }

  /** The entity is no more; within a transition. */
  remove(entity: Entity): void {
    this.#parts.release(entity);
    this.#entities.delete(entity.key);
  }

  watch(key: EntityKey, wake: () => void): () => void {
    const watchers = this.#watchers.get(key) ?? new Set();
    this.#watchers.set(key, watchers);
    watchers.add(wake);
    return () => {
      watchers.delete(wake);
      if (watchers.size > 0) return;
      this.#watchers.delete(key);
      this.dismiss(key);
    };
  }

  watchersOf(key: EntityKey): ReadonlySet<() => void> | undefined {
    return this.#watchers.get(key);
  }

  /** Nobody comes back to a closed run so soon that it would be kept. */
  committed(batch: Changes): void {
    for (const entity of batch.entities) {
      if (isOver(entity) && this.#entities.get(entity.key) === entity && this.#isQuiet(entity)) {
        this.#forget(entity);
      }
    }
  }

  /** Lets go of who is longest in memory, if there are too many. */
  trim(): void {
    let excess = this.#entities.size - this.#parts.max;
    if (excess <= 0) return;
    for (const entity of this.#entities.values()) {
      if (excess <= 0) return;
      if (!this.#isQuiet(entity)) continue;
      this.#forget(entity);
      excess -= 1;
    }
  }

  /** As `trim`, for one whom no commit follows that would look. */
  dismiss(key: EntityKey): void {
    if (this.#entities.size <= this.#parts.max) return;
    const entity = this.#entities.get(key);
    if (entity !== undefined && this.#isQuiet(entity)) this.#forget(entity);
  }

  /** The partition is lost or stopped: all are let go, and whoever watches looks again. */
  close(): void {
    for (const entity of this.#entities.values()) {
      for (const abort of entity.inFlight.values()) abort();
      this.#parts.release(entity);
    }
    this.#entities.clear();
    for (const watchers of this.#watchers.values()) for (const wake of watchers) wake();
  }

  #isQuiet(entity: Entity): boolean {
    return (
      !entity.isActive &&
      entity.dirtyIn <= this.#parts.durableNumber() &&
      entity.inFlight.size === 0 &&
      entity.reading.size === 0 &&
      entity.whenQuiet.length === 0 &&
      // Read anew with all who wait, it would be slow where many do.
      (entity.members?.waiting ?? 0) === 0 &&
      !this.#watchers.has(entity.key)
    );
  }

  #forget(entity: Entity): void {
    this.#entities.delete(entity.key);
    this.#parts.release(entity);
  }
}

export function isOver({ head }: Entity): boolean {
  return head.kind === "run" && isClosed(head.status);
}
