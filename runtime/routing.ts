/**
 * Who executes a request: this host where it serves the partition, else the one that does.
 * One hop and no more: a host that is asked by another executes or refuses. What surely wasn't
 * executed is tried again for a while; anything else is the client's to repeat.
 */
import { SporeError } from "./errors.ts";
import type { Clock } from "./ports.ts";
import type { Seats } from "./seats.ts";
import type { PeerRequest } from "./wire.ts";

export interface RoutingParts {
  readonly seats: Seats;
  readonly clock: Clock;
  /** Where the partition is served, if not here; undefined while nobody is known to serve it. */
  readonly addressOf: (partition: number) => string | undefined;
  /** Throws peer-refused and peer-unavailable. */
  readonly call: (address: string, request: PeerRequest, timeoutMs: number) => Promise<unknown>;
}

export interface Operation<T> {
  readonly here: () => Promise<T>;
  readonly there: () => PeerRequest;
  /** How long the operation itself may wait for something. Default 0. */
  readonly waitMs?: number | undefined;
  /** It changes nothing: it may be executed twice. */
  readonly isReading?: boolean | undefined;
}

export interface SpreadOperation<T> {
  readonly here: (partitions: readonly number[]) => Promise<T>;
  readonly there: (partitions: readonly number[]) => PeerRequest;
  readonly isReading?: boolean | undefined;
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
    const { seats, addressOf, call } = this.#parts;
    if (seats.has(partition)) return this.here([partition], operation.here);
    const address = addressOf(partition);
    if (address === undefined) throw nobody([partition]);
    const timeoutMs = (operation.waitMs ?? 0) + answerMsMax;
    // Written by `Host.serve` of the other host as the same method's result.
    return (await call(address, operation.there(), timeoutMs)) as T;
  }

  /** Executes at the owners of all partitions; each host is asked once for all of its own. */
  async all<T>(operation: SpreadOperation<T>): Promise<readonly T[]> {
    const search = this.#search();
    const results: T[] = [];
    let missing = Array.from({ length: this.#parts.seats.count }, (_, index) => index);
    for (;;) {
      const failures = await Promise.all(
        this.#groups(missing).map(async ({ address, partitions }) => {
          try {
            results.push(await this.#group(address, partitions, operation));
            return undefined;
          } catch (error) {
            const mayRepeat = this.#mayRepeat(error, partitions, operation);
            if (!mayRepeat) throw error;
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

  #groups(
    partitions: readonly number[],
  ): { readonly address: string | undefined; readonly partitions: readonly number[] }[] {
    const { seats, addressOf } = this.#parts;
    const groups = new Map<string | undefined, number[]>();
    for (const partition of partitions) {
      // What is served here is asked for as one; what nobody serves, too: it fails as one.
      const address = seats.has(partition) ? "" : addressOf(partition);
      const group = groups.get(address);
      if (group === undefined) groups.set(address, [partition]);
      else group.push(partition);
    }
    return [...groups].map(([address, group]) => ({ address, partitions: group }));
  }

  async #group<T>(
    address: string | undefined,
    partitions: readonly number[],
    { here, there }: SpreadOperation<T>,
  ): Promise<T> {
    if (address === undefined) throw nobody(partitions);
    if (address === "") return this.here(partitions, () => here(partitions));
    // As in `once`.
    return (await this.#parts.call(address, there(partitions), answerMsMax)) as T;
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
