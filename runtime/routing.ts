/**
 * Who executes a request: this host where it serves the partition, else the one that does; or
 * this one beside it, where a request only reads and this host follows the partition.
 * One hop and no more: a host that is asked by another executes or refuses. What surely wasn't
 * executed is tried again for a while; anything else is the client's to repeat.
 */
import { SporeError } from "./errors.ts";
import type { Clock } from "./ports.ts";
import type { Seats } from "./seats.ts";
import type { Peer, PeerRequest } from "./wire.ts";

export interface RoutingParts {
  readonly seats: Seats;
  readonly clock: Clock;
  /** Who serves the partition, if it isn't served here; undefined while nobody is known to. */
  readonly ownerOf: (partition: number) => Peer | undefined;
  /** Throws peer-refused and peer-unavailable. */
  readonly call: (peer: Peer, request: PeerRequest, timeoutMs: number) => Promise<unknown>;
}

export interface Operation<T> {
  readonly here: () => Promise<T>;
  readonly there: () => PeerRequest;
  /** Answers on a host that doesn't serve the partition; undefined: its owner has to. */
  readonly beside?: (() => Promise<T | undefined>) | undefined;
  /** How long the operation itself may wait for something. Default 0. */
  readonly waitMs?: number | undefined;
  /** It changes nothing: it may be executed twice. */
  readonly isReading?: boolean | undefined;
}

export interface SpreadOperation<T> {
  readonly here: (partitions: readonly number[]) => Promise<T>;
  readonly there: (partitions: readonly number[]) => PeerRequest;
  readonly isReading?: boolean | undefined;
  /** How long it may take, beyond what a read takes. Default 0. */
  readonly waitMs?: number | undefined;
}

/** Partitions that one host is asked for at once. */
interface Group {
  readonly owner: Peer | "here" | undefined;
  readonly partitions: readonly number[];
}

/** How long a request looks for somebody who serves its partition. */
export const searchMsMax = 10_000;
/** Longest that another host takes to answer what needs no waiting. */
const answerMsMax = 15_000;
const firstPauseMs = 10;
const pauseMsMax = 250;

export class Routing {
  readonly #parts: RoutingParts;
  #isStopped = false;

  constructor(parts: RoutingParts) {
    this.#parts = parts;
  }

  stop(): void {
    this.#isStopped = true;
  }

  /** Executes at the owner of one partition. */
  async at<T>(partition: number, operation: Operation<T>): Promise<T> {
    const search = this.#search();
    for (;;) {
      try {
        return await this.once(partition, operation);
      } catch (error) {
        await search.again(error, this.#mayRepeat(error, [partition], operation));
      }
    }
  }

  /** As `at`, without a second attempt. */
  async once<T>(partition: number, operation: Operation<T>): Promise<T> {
    const { seats, ownerOf, call } = this.#parts;
    if (!seats.isOpen(partition)) {
      const answer = await operation.beside?.();
      if (answer !== undefined) return answer;
    }
    if (seats.has(partition)) return this.here([partition], operation.here);
    const owner = ownerOf(partition);
    if (owner === undefined) throw nobody([partition]);
    const timeoutMs = (operation.waitMs ?? 0) + answerMsMax;
    // Written by `Host.serve` of the other host as the same method's result.
    return (await call(owner, operation.there(), timeoutMs)) as T;
  }

  /** Executes at the owners of all partitions; each host is asked once for all of its own. */
  async all<T>(operation: SpreadOperation<T>): Promise<readonly T[]> {
    const search = this.#search();
    const results: T[] = [];
    let missing = Array.from({ length: this.#parts.seats.count }, (_, index) => index);
    for (;;) {
      const failures = await Promise.all(
        this.#groups(missing).map(async (group) => {
          const { partitions } = group;
          try {
            results.push(await this.#group(group, operation));
            return undefined;
          } catch (error) {
            if (!this.#mayRepeat(error, partitions, operation)) throw error;
            return { partitions, error };
          }
        }),
      );
      const failed = failures.filter((failure) => failure !== undefined);
      if (failed.length === 0) return results;
      missing = failed.flatMap(({ partitions }) => partitions);
      await search.again(failed[0]?.error, true);
    }
  }

  /** Executes here, or throws peer-refused before anything was done. */
  async here<T>(partitions: readonly number[], work: () => Promise<T>): Promise<T> {
    const { seats } = this.#parts;
    if (!partitions.every((partition) => seats.isOpen(partition))) throw nobody(partitions);
    const leave = partitions.map((partition) => seats.enter(partition));
    try {
      return await work();
    } finally {
      for (const each of leave) each();
    }
  }

  #groups(partitions: readonly number[]): Group[] {
    const { seats, ownerOf } = this.#parts;
    const groups = new Map<string, { readonly owner: Group["owner"]; partitions: number[] }>();
    for (const partition of partitions) {
      const owner = seats.has(partition) ? "here" : ownerOf(partition);
      const name = typeof owner === "object" ? `at ${owner.id}` : (owner ?? "nowhere");
      const group = groups.get(name);
      if (group === undefined) groups.set(name, { owner, partitions: [partition] });
      else group.partitions.push(partition);
    }
    return [...groups.values()];
  }

  async #group<T>(
    { owner, partitions }: Group,
    { here, there, waitMs = 0 }: SpreadOperation<T>,
  ): Promise<T> {
    if (owner === undefined) throw nobody(partitions);
    if (owner === "here") return this.here(partitions, () => here(partitions));
    // As in `once`.
    return (await this.#parts.call(owner, there(partitions), waitMs + answerMsMax)) as T;
  }

  #mayRepeat(
    error: unknown,
    partitions: readonly number[],
    { isReading = false }: { readonly isReading?: boolean | undefined },
  ): boolean {
    if (!(error instanceof SporeError)) return false;
    if (error.code === "peer-refused") return true;
    if (!isReading) return false;
    if (error.code === "peer-unavailable") return true;
    // A partition that is here and says so will go on saying so.
    const isElsewhere = partitions.every((partition) => !this.#parts.seats.has(partition));
    return isElsewhere && (error.kind === "moved" || error.code === "host-stopping");
  }

  #search(): { readonly again: (error: unknown, mayRepeat: boolean) => Promise<void> } {
    const { clock } = this.#parts;
    let spentMs = 0;
    let pauseMs = firstPauseMs;
    return {
      again: async (error, mayRepeat) => {
        if (!mayRepeat || this.#isStopped || spentMs >= searchMsMax) throw error;
        await new Promise<void>((resolve) => clock.after(pauseMs, resolve));
        spentMs += pauseMs;
        pauseMs = Math.min(pauseMs * 2, pauseMsMax);
      },
    };
  }
}

function nobody(partitions: readonly number[]): SporeError {
  const named = partitions.length === 1 ? `partition ${partitions[0]}` : "some partitions";
  return new SporeError("peer-refused", `${named} can't be reached at the moment`, {
    hint: "A host is taking over. Try again in a moment.",
  });
}
