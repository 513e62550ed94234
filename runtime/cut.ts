/**
 * One moment of a whole namespace, though each partition was read at its own: a consistent cut.
 *
 * Partitions speak to each other by messages: the sender keeps one in its outbox until the
 * receiver has it, and the receiver counts what it has. A cut is consistent if nobody has
 * received what wasn't sent, and nobody has forgotten what wasn't received. Where that fails,
 * one of the two was read too early, and is moved on by one entry. What it lacks happened before
 * something that the cut has, so it is in the log already: moving on ends.
 */
import type { Batch } from "./batch.ts";
import { SporeError } from "./errors.ts";
import { decodeRow, rowKeys } from "./format.ts";
import type { Replica } from "./replica.ts";

export interface Imbalance {
  /** The partition that lacks something, and has no entry that says it. */
  readonly partition: number;
  readonly what: string;
}

const rowsPerPage = 10_000;
/** Owners that merge without a pause are chased so many times. */
const attemptsMax = 20;

/** Moves replicas on until they are of one moment; what is left over is damage. */
export async function align(replicas: readonly Replica[]): Promise<readonly Imbalance[]> {
  for (;;) {
    const found = await imbalancesOf(replicas);
    let hasMoved = false;
    for (const partition of new Set(found.map((each) => each.partition))) {
      const replica = replicas[partition];
      if (replica !== undefined && (await moveOn(replica))) hasMoved = true;
    }
    if (!hasMoved) return found;
  }
}

/** One entry further; if the owner has freed that, as far as it has come. */
async function moveOn(replica: Replica): Promise<boolean> {
  const before = replica.seq;
  const apply = (batch: Batch): void => replica.apply(batch);
  if (!(await replica.follow(apply, 1))) await replica.reopen();
  return replica.seq > before;
}

interface Counters {
  /** Last message to each partition. */
  readonly sent: ReadonlyMap<number, number>;
  /** Last message from each partition. */
  readonly received: ReadonlyMap<number, number>;
  /** Messages that are kept, by target. */
  readonly kept: ReadonlyMap<number, ReadonlySet<number>>;
}

async function imbalancesOf(replicas: readonly Replica[]): Promise<Imbalance[]> {
  const counters = await Promise.all(replicas.map(countersOf));
  const found: Imbalance[] = [];
  for (const [source, { sent, kept }] of counters.entries()) {
    for (const [target, { received }] of counters.entries()) {
      if (source === target) continue;
      const last = sent.get(target) ?? 0;
      const applied = received.get(source) ?? 0;
      if (applied > last) {
        const what = `partition ${target} has message ${applied} of ${source}, which sent ${last}`;
        found.push({ partition: source, what });
      }
      for (let index = applied + 1; index <= last; index += 1) {
        if (kept.get(target)?.has(index) === true) continue;
        const what = `message ${index} of partition ${source} to ${target} is lost`;
        found.push({ partition: target, what });
        break;
      }
    }
  }
  return found;
}

/** What its owner has merged away under the reading is read anew, as of then (replica.ts R3). */
async function countersOf(replica: Replica): Promise<Counters> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await readCounters(replica);
    } catch (error) {
      const isDamage = error instanceof SporeError && error.kind === "corrupt";
      if (!isDamage || attempt === attemptsMax || !(await replica.isStale())) throw error;
      await replica.reopen();
    }
  }
}

async function readCounters(replica: Replica): Promise<Counters> {
  const sent = new Map<number, number>();
  const received = new Map<number, number>();
  const kept = new Map<number, Set<number>>();
  await eachRow(replica, rowKeys.outboxCounters, (key, value) => {
    sent.set(Number.parseInt(key.slice(2), 16), decodeRow<number>(key, value));
  });
  await eachRow(replica, rowKeys.inboxes, (key, value) => {
    received.set(Number.parseInt(key.slice(2), 16), decodeRow<number>(key, value));
  });
  await eachRow(replica, rowKeys.outboxes, (key) => {
    const target = Number.parseInt(key.slice(2, 6), 16);
    const indices = kept.get(target) ?? new Set();
    kept.set(target, indices.add(Number.parseInt(key.slice(7), 16)));
  });
  return { sent, received, kept };
}

/** Rows as of what the replica has read; `refresh` would take it further. */
export async function eachRow(
  replica: Replica,
  prefix: string,
  found: (key: string, value: Uint8Array) => void,
): Promise<void> {
  for (let after: string | undefined; ; ) {
    const range = { prefix, limit: rowsPerPage, ...(after === undefined ? {} : { after }) };
    const page = await replica.scan(range);
    for (const [key, value] of page.entries) found(key, value);
    after = page.entries.at(-1)?.[0];
    if (page.isDone) return;
  }
}
