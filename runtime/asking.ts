/**
 * How a client's request meets an entity: a transition is asked for, a guest's read-only
 * answer is peeked at, and commits are waited for.
 */
import type { Encoded, Input, Outcome } from "../guest/protocol.ts";
import { acceptSignal } from "./commands.ts";
import { peeked } from "./drained.ts";
import { SporeError } from "./errors.ts";
import { readHistory } from "./history.ts";
import type { EntityKey } from "./ids.ts";
import type { CallResult, HistoryEvent } from "./index.ts";
import { rememberCall } from "./machine.ts";
import type { Partition } from "./partition.ts";
import type { ActivateResult, Clock } from "./ports.ts";
import type { Entity, Sink } from "./state.ts";

/** A caller that waits longer than this gets `accepted` and asks again. */
export const callWaitMsMax = 300_000;
/** Events of a history that one read answers, if the caller doesn't say. */
export const eventsPerRead = 1000;

/**
 * A refusal is an answer too: it must not come from a host that lost the partition, so it waits
 * like any other.
 */
export async function standing<T>(partition: Partition, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof SporeError && (error.kind === "missing" || error.kind === "conflict")) {
      await partition.durable();
    }
    throw error;
  }
}

/** A transition for a client. */
export function ask<T>(
  partition: Partition,
  key: EntityKey,
  transition: (entity: Entity | undefined, sink: Sink) => T,
): Promise<T> {
  return standing(partition, () => partition.request(key, transition));
}

/** What a query or a read-only method answers; the guest's memory is as before. */
export async function peek<Asked extends Input & { readonly id: string }>(
  place: PeekPlace<Asked>,
  entity: Entity,
  input: Asked,
): Promise<Outcome> {
  return peeked(await place.peek(entity, input), input.id).outcome;
}

export interface PeekPlace<Asked> {
  readonly peek: (entity: Entity, input: Asked) => Promise<ActivateResult>;
}

/** Delivers the signal unless a message of that id was there before. */
export function takeSignal(
  entity: Entity,
  sink: Sink,
  signal: {
    readonly name: string;
    readonly value: Encoded;
    readonly messageId: string | undefined;
  },
): { duplicate: boolean } {
  const { name, value, messageId } = signal;
  if (messageId !== undefined && entity.calls.has(messageId)) return { duplicate: true };
  acceptSignal(entity, sink, name, value);
  if (messageId !== undefined) rememberCall(entity, sink, messageId, undefined);
  return { duplicate: false };
}

/** Reads at most `limit` events from `from` on. */
export async function readEvents(
  partition: Partition,
  key: EntityKey,
  options: { readonly from?: number | undefined; readonly limit?: number | undefined },
): Promise<HistoryEvent[]> {
  const { from = 0, limit = eventsPerRead } = options;
  const events: HistoryEvent[] = [];
  for await (const event of readHistory(partition, key, from)) {
    events.push(event);
    if (events.length >= limit) break;
  }
  return events;
}

/** A wait ended early, and the request hasn't done anything that can't be done again. */
export function refuseInterrupted(partition: Partition): void {
  if (!partition.isInterrupted) return;
  throw new SporeError("peer-refused", `partition ${partition.index} is being handed over`);
}

export interface EventPage {
  readonly events: readonly HistoryEvent[];
  /** No more will come. */
  readonly isOver: boolean;
}

export class Waits {
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * Asks until the answer isn't `pending` or the time is up; woken by the entity's commits.
   * Ends early, with what there is, if the partition is to be handed over.
   */
  async until<T extends { readonly kind: string }>(
    partition: Partition,
    key: EntityKey,
    waitMs: number,
    ask: () => Promise<T>,
  ): Promise<T> {
    const wakeUp = new WakeUp();
    const unwatch = partition.watchEntity(key, () => wakeUp.wake());
    let isLate = waitMs <= 0;
    const end = (): void => {
      isLate = true;
      wakeUp.wake();
    };
    const stopTimer = isLate ? undefined : this.#clock.after(waitMs, end);
    const forget = isLate ? undefined : partition.onInterrupt(end);
    try {
      for (;;) {
        wakeUp.reset();
        const answer = await ask();
        if (answer.kind !== "pending" || isLate) return answer;
        await wakeUp.wait;
      }
    } finally {
      unwatch();
      stopTimer?.();
      forget?.();
    }
  }

  /** What comes, unless the time is up, or the partition is to be handed over, before. */
  async within<T>(
    partition: Partition,
    coming: Promise<T>,
    waitMs: number,
  ): Promise<T | undefined> {
    const late = Promise.withResolvers<undefined>();
    const end = (): void => late.resolve(undefined);
    const stopTimer = this.#clock.after(waitMs, end);
    const forget = partition.onInterrupt(end);
    try {
      return await Promise.race([coming, late.promise]);
    } finally {
      stopTimer();
      forget();
    }
  }

  /** The call's outcome if it comes in time, else that it is durably accepted. */
  async called(
    partition: Partition,
    callId: string,
    known: Outcome | undefined,
    coming: Promise<Outcome>,
    waitMs = callWaitMsMax,
  ): Promise<CallResult> {
    if (known !== undefined) {
      await partition.durable();
      return { kind: "done", callId, outcome: known };
    }
    const outcome = waitMs > 0 ? await this.within(partition, coming, waitMs) : undefined;
    if (outcome !== undefined) return { kind: "done", callId, outcome };
    await partition.durable();
    return { kind: "accepted", callId };
  }

  /** Events from `from` on; waits for the first until there is one, or `isOver` says no more come. */
  async events(
    partition: Partition,
    key: EntityKey,
    options: { readonly from: number; readonly waitMs: number },
    isOver: () => Promise<boolean>,
  ): Promise<EventPage> {
    const { from, waitMs } = options;
    const { page } = await this.until(partition, key, waitMs, async () => {
      // First whether that was all: what is added in between comes with the next page.
      const isLast = await isOver();
      const events = await readEvents(partition, key, { from });
      const isOverNow = isLast && events.length < eventsPerRead;
      const kind = events.length > 0 || isOverNow ? ("ready" as const) : ("pending" as const);
      return { kind, page: { events, isOver: isOverNow } };
    });
    return page;
  }
}

/** A promise that can be woken many times: `reset` before asking, then `wait`. */
class WakeUp {
  wait: Promise<void> = Promise.resolve();
  #wake: () => void = () => undefined;

  reset(): void {
    this.wait = new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  wake(): void {
    this.#wake();
  }
}
