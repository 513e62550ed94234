/**
 * Messages of a partition's entities to those of others: each leaves after the commit that
 * sent it, again and again until its target has it durably (partition.ts P4 has the other
 * end). Owns what is under way; which rows hold it, format.ts says.
 */
import { decodeRow, encodeRow, type Message, rowKeys } from "./format.ts";
import { partitionOf } from "./ids.ts";
import type { Clock, Observer } from "./ports.ts";
import type { Changes } from "./state.ts";

/** Messages sent to one partition at once. */
const envelopesMax = 500;
const retryMs = 5;
const retryMsMax = 1000;

export interface Envelope {
  readonly index: number;
  readonly message: Uint8Array;
}

interface Item {
  readonly index: number;
  readonly message: Message;
}

export interface OutboxParts {
  /** The partition that sends. */
  readonly index: number;
  readonly partitions: number;
  readonly clock: Clock;
  readonly observer: Observer;
  readonly isOwned: () => boolean;
  /** What the next commit takes. */
  readonly changes: () => Changes;
  readonly demand: () => void;
  readonly linger: () => void;
  /** Applies a message to an entity of the same partition; its row goes in the same transition. */
  readonly applyHere: (message: Message, row: string) => Promise<void>;
  /** Resolves when the messages are durable at their target. */
  readonly deliver: (
    target: number,
    source: number,
    messages: readonly Envelope[],
  ) => Promise<void>;
  readonly background: (work: Promise<unknown>) => void;
}

export class Outbox {
  readonly #parts: OutboxParts;
  /** Index of the last message to each partition. */
  readonly #last = new Map<number, number>();
  readonly #queues = new Map<number, Item[]>();
  readonly #sending = new Set<number>();
  #recovered: Promise<void> = Promise.resolve();
  #toRecover = 0;
  #isRecovered: () => void = () => undefined;

  constructor(parts: OutboxParts) {
    this.#parts = parts;
  }

  /**
   * Messages within the partition that the last owner left are applied: they are older than
   * any that another partition may send now.
   */
  get recovered(): Promise<void> {
    return this.#recovered;
  }

  /** What the last owner left: counters, and messages that nobody has confirmed. */
  recover(
    counters: readonly (readonly [string, Uint8Array])[],
    messages: readonly (readonly [string, Uint8Array])[],
  ): void {
    for (const [key, value] of counters) {
      this.#last.set(Number.parseInt(key.slice(2), 16), decodeRow<number>(key, value));
    }
    for (const [key, value] of messages) {
      const target = Number.parseInt(key.slice(2, 6), 16);
      const index = Number.parseInt(key.slice(7), 16);
      this.#enqueue(target, { index, message: decodeRow<Message>(key, value) });
      if (target === this.#parts.index) this.#toRecover += 1;
    }
    if (this.#toRecover === 0) return;
    this.#recovered = new Promise((resolve) => {
      this.#isRecovered = resolve;
    });
  }

  /** Within a transition. */
  send(message: Message): void {
    const { partitions, changes, demand, index: own } = this.#parts;
    const target = partitionOf(message.to, partitions);
    const index = (this.#last.get(target) ?? 0) + 1;
    this.#last.set(target, index);
    changes().put(rowKeys.outboxCounter(target), () => encodeRow(this.#last.get(target)));
    changes().putFresh(rowKeys.outbox(target, index), () => encodeRow(message));
    if (target === own) {
      // Within the partition a message may be applied ahead of the commit: both are in the
      // same log, in this order.
      this.#enqueue(target, { index, message });
      return;
    }
    changes().releases.push(() => this.#enqueue(target, { index, message }));
    demand();
  }

  #enqueue(target: number, item: Item): void {
    const queue = this.#queues.get(target) ?? [];
    this.#queues.set(target, queue);
    queue.push(item);
    if (this.#sending.has(target)) return;
    this.#sending.add(target);
    this.#parts.background(
      target === this.#parts.index ? this.#sendHere(queue) : this.#sendOut(target, queue),
    );
  }

  async #sendHere(queue: Item[]): Promise<void> {
    const { index: own, applyHere } = this.#parts;
    await undefined; // after the transition that sent it
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) {
      await applyHere(item.message, rowKeys.outbox(own, item.index));
      this.#toRecover -= 1;
      if (this.#toRecover === 0) this.#isRecovered();
    }
    this.#sending.delete(own);
  }

  async #sendOut(target: number, queue: Item[]): Promise<void> {
    const { index: own, clock, observer, isOwned, changes, linger, deliver } = this.#parts;
    let delayMs = retryMs;
    while (queue.length > 0 && isOwned()) {
      const part = queue.slice(0, envelopesMax);
      const envelopes = part.map(({ index, message }) => ({ index, message: encodeRow(message) }));
      try {
        await deliver(target, own, envelopes);
      } catch (error) {
        observer.log("debug", "messages will be sent again", {
          target,
          reason: error instanceof Error ? error.message : String(error),
        });
        await new Promise<void>((resolve) => clock.after(delayMs, resolve));
        delayMs = Math.min(delayMs * 2, retryMsMax);
        continue;
      }
      if (!isOwned()) return;
      delayMs = retryMs;
      queue.splice(0, part.length);
      for (const { index } of part) changes().delete(rowKeys.outbox(target, index));
      linger();
    }
    this.#sending.delete(target);
  }
}
