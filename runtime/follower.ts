/**
 * A partition's rows on a host that doesn't own it, for reads that see everything acknowledged
 * before they began. Needs the log and nobody who serves it.
 *
 * F1 A read is of rows as of an entry that was the last one at some moment after the read
 *    began (replica.ts R4), or of a later entry, which was created after that moment: either
 *    way it is a state that the partition was in while the read went on. What was acknowledged
 *    before is in the log (I3), so it is seen. No clock is involved.
 * F2 All rows of one read are of one entry: they are asked for in one turn, in which each is
 *    found in memory, or else in segments, which nothing changes.
 * F3 A log whose last entry is a seal (layout.ts Y1) may go on in another layout: nothing is
 *    answered from it, unless the seal is for the layout of whoever follows, or an earlier one.
 */
import { SporeError } from "./errors.ts";
import { rowKeys } from "./format.ts";
import type { EntityKey } from "./ids.ts";
import { sealOf } from "./layout.ts";
import type { Replica } from "./replica.ts";
import { type Entity, readEntity } from "./state.ts";

export class Follower {
  readonly #replica: Replica;
  /** Version of the layout that the partition is of. */
  readonly #layout: number;
  #current: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  constructor(replica: Replica, layout: number) {
    this.#replica = replica;
    this.#layout = layout;
  }

  get memoryBytes(): number {
    return this.#replica.memoryBytes;
  }

  /**
   * An entity as of now, of which no more than the head and an actor's state are read; undefined
   * if there is none. Throws layout-changing, what reading throws, and host-stopping after
   * `close`.
   */
  async look(key: EntityKey, nowMs: number): Promise<Entity | undefined> {
    for (;;) {
      await this.catchUp();
      const { base } = this.#replica;
      try {
        const rows = await this.#rows([rowKeys.head(key), rowKeys.state(key)]);
        return readEntity(key, rows, nowMs);
      } catch (error) {
        const isDamage = error instanceof SporeError && error.code === "corrupt-segment";
        if (!isDamage) throw error;
        // Segments go when there is a checkpoint without them (table.ts B3).
        await this.catchUp();
        if (this.#replica.base === base) throw error;
      }
    }
  }

  close(): void {
    this.#replica.close();
  }

  /**
   * Resolves when the rows are as of now (F1). Who comes while that is being done waits for the
   * next time, together with all who come meanwhile: what is under way may have asked too early.
   */
  catchUp(): Promise<void> {
    if (this.#next !== undefined) return this.#next;
    if (this.#current === undefined) return this.#begin();
    const next = this.#current
      .catch(() => undefined) // told to those who waited for it
      .then(() => {
        this.#next = undefined;
        return this.#begin();
      });
    this.#next = next;
    return next;
  }

  #begin(): Promise<void> {
    const advancing = this.#advance().finally(() => {
      this.#current = undefined;
    });
    this.#current = advancing;
    return advancing;
  }

  async #advance(): Promise<void> {
    await this.#replica.advance();
    const { claim, partition } = this.#replica;
    if (claim === undefined || sealOf(claim) <= this.#layout) return;
    throw new SporeError("layout-changing", `partition ${partition} is being moved`, {
      hint: "Try again in a moment.",
    });
  }

  /** F2: those of the keys that there are. */
  async #rows(keys: readonly string[]): Promise<(readonly [string, Uint8Array])[]> {
    const values = await Promise.all(keys.map((key) => this.#replica.get(key)));
    return keys.flatMap((key, index) => {
      const value = values[index];
      return value === undefined ? [] : [[key, value] as const];
    });
  }
}
