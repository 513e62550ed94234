/**
 * Collects by itself, once a day: a host looks every hour whether it serves partition 0 and a
 * collection is due (generations.ts), and then makes one beside everything else. Partition 0,
 * because it is always there and hosts have agreed already on who serves it.
 *
 * Needed for nothing but space. Two hosts that collect at once do no harm (collector.ts), nor does
 * one that is stopped or killed in the middle, or goes on after the partition has moved.
 */
import { type CollectorPorts, collect } from "./collector.ts";
import { SporeError } from "./errors.ts";
import { collectionDue } from "./generations.ts";
import type { GarbageReport } from "./index.ts";
import { findNamespace } from "./namespace.ts";
import type { Cancel, Store } from "./ports.ts";

export interface CollectingParts {
  readonly ports: CollectorPorts;
  /** Of the namespace. */
  readonly prefix: string;
  /** Whether this host serves a partition now. */
  readonly isServed: (partition: number) => boolean;
}

/** A start has enough to do at first. */
const firstLookMs = 10_000;
const lookMs = 3_600_000;

export class Collecting {
  readonly #parts: CollectingParts;
  readonly #ports: CollectorPorts;
  #cancel: Cancel | undefined;
  #isStopped = false;

  constructor(parts: CollectingParts) {
    this.#parts = parts;
    const store = storeUntil(parts.ports.store, () => this.#isStopped);
    this.#ports = { ...parts.ports, store };
  }

  start(): void {
    this.#lookAfter(firstLookMs);
  }

  /** One that is under way ends with its next call of the store; nobody has to wait for it. */
  stop(): void {
    this.#isStopped = true;
    this.#cancel?.();
  }

  #lookAfter(delayMs: number): void {
    if (this.#isStopped) return;
    this.#cancel = this.#ports.clock.after(delayMs, () => {
      void this.look().finally(() => this.#lookAfter(lookMs));
    });
  }

  /** Looks now, and makes a collection if one is due: for who has a clock of its own. Never throws. */
  async look(): Promise<void> {
    const { clock, observer } = this.#ports;
    const beganMs = clock.nowMs();
    try {
      const report = await this.#collectIfDue();
      if (report === undefined) return;
      observer.count("spore_collections_total", 1, { outcome: "done" });
      const tookMs = clock.nowMs() - beganMs;
      observer.log("info", "collected what nothing refers to", { ...report, tookMs });
    } catch (error) {
      if (this.#isStopped) return;
      observer.count("spore_collections_total", 1, { outcome: "failed" });
      const message = error instanceof Error ? error.message : String(error);
      // Another host collects, or there is too much to do just now.
      const isBusy = error instanceof SporeError && error.code === "host-busy";
      observer.log(isBusy ? "warn" : "error", `a collection failed: ${message}`, { error });
    }
  }

  async #collectIfDue(): Promise<GarbageReport | undefined> {
    const { prefix, isServed } = this.#parts;
    if (!isServed(0) || !(await collectionDue({ ...this.#ports, prefix }))) return undefined;
    const layouts = await findNamespace({ ...this.#ports, prefix });
    return collect(this.#ports, { prefix, layouts });
  }
}

/** The store as long as somebody wants it: then its calls are refused, and not tried again. */
function storeUntil(store: Store, isOver: () => boolean): Store {
  const call = async <T>(work: () => Promise<T>): Promise<T> => {
    if (isOver()) throw new SporeError("host-stopping", "the host is stopping");
    return work();
  };
  return {
    get: (key, range) => call(() => store.get(key, range)),
    put: (key, bytes, options) => call(() => store.put(key, bytes, options)),
    delete: (key) => call(() => store.delete(key)),
    list: (prefix, options) => call(() => store.list(prefix, options)),
    close: () => Promise.resolve(), // its owner's
  };
}
