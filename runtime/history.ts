/**
 * What happened in a run, read from its history rows: events by index, steps folded from
 * their records. Rows are durable, so everything here is (I3).
 */
import type { StepRecord } from "../guest/protocol.ts";
import { readRecord } from "./drained.ts";
import {
  actorEventsMax,
  decodeRow,
  type HistoryItem,
  type HistoryRow,
  hex,
  rowKeys,
} from "./format.ts";
import { type EntityKey, isActorKey } from "./ids.ts";
import type { HistoryEvent, StepView } from "./index.ts";
import type { Partition } from "./partition.ts";

const rowsPerRead = 256;

/** Events from index `from` on, oldest first. */
export async function* readHistory(
  partition: Partition,
  key: EntityKey,
  from: number,
): AsyncGenerator<HistoryEvent> {
  if (isActorKey(key)) {
    yield* readRing(partition, key, from);
    return;
  }
  for await (const { index, item } of readItems(partition, key, from)) yield eventOf(index, item);
}

/** All events of a run, without the steps of what was taken back when it was resumed. */
export async function* readStanding(
  partition: Partition,
  key: EntityKey,
  attempt: number,
): AsyncGenerator<HistoryEvent> {
  const takenBack: { readonly from: number; readonly to: number }[] = [];
  if (attempt > 1) {
    for await (const { index, item } of readItems(partition, key, 0)) {
      if (item.kind !== "host" || item.type !== "run.resumed") continue;
      const { backTo } = item.data;
      if (typeof backTo === "number") takenBack.push({ from: backTo, to: index });
    }
  }
  for await (const { index, item } of readItems(partition, key, 0)) {
    const isStep = item.kind === "record";
    if (isStep && takenBack.some(({ from, to }) => from <= index && index < to)) continue;
    yield eventOf(index, item);
  }
}

/** A run's events as they are stored. */
export async function* readItems(
  partition: Partition,
  key: EntityKey,
  from: number,
): AsyncGenerator<{ readonly index: number; readonly item: HistoryItem }> {
  const prefix = rowKeys.historyOf(key);
  let after = await startBefore(partition, key, from);
  for (;;) {
    const options = after === undefined ? { limit: rowsPerRead } : { limit: rowsPerRead, after };
    const page = await partition.scan(prefix, options);
    for (const [rowKey, bytes] of page.entries) {
      after = rowKey;
      let index = Number.parseInt(rowKey.slice(prefix.length), 16);
      for (const item of decodeRow<HistoryRow>(rowKey, bytes).events) {
        if (index >= from) yield { index, item };
        index += 1;
      }
    }
    if (page.isDone) return;
  }
}

/** An actor's events lie in a ring (state.ts): the last ones only, in no order of keys. */
async function* readRing(
  partition: Partition,
  key: EntityKey,
  from: number,
): AsyncGenerator<HistoryEvent> {
  const limit = actorEventsMax;
  const { entries } = await partition.scan(rowKeys.historyOf(key), { limit });
  const rows = entries.map(([rowKey, bytes]) => decodeRow<HistoryRow>(rowKey, bytes));
  rows.sort((one, other) => (one.index ?? 0) - (other.index ?? 0));
  for (const { index = 0, events } of rows) {
    const [item] = events;
    if (item !== undefined && index >= from) yield eventOf(index, item);
  }
}

/**
 * A row holds many events and is named after its first, so reading from `from` begins at
 * the row before. Found by looking back over growing distances: O(log n) reads.
 */
async function startBefore(
  partition: Partition,
  key: EntityKey,
  from: number,
): Promise<string | undefined> {
  const prefix = rowKeys.historyOf(key);
  for (let distance = 1; distance <= from; distance *= 4) {
    const after = `${prefix}${hex(from - distance, 10)}`;
    const page = await partition.scan(prefix, { after, limit: 1 });
    const first = page.entries[0]?.[0];
    if (first === undefined) continue;
    if (Number.parseInt(first.slice(prefix.length), 16) <= from) return after;
  }
  return undefined;
}

export function eventOf(index: number, item: HistoryItem): HistoryEvent {
  if (item.kind === "host") return { index, atMs: item.atMs, type: item.type, data: item.data };
  const record = recordOf(item);
  if (record === undefined) return { index, atMs: 0, type: "record.unreadable", data: {} };
  const { event, atMs, ...data } = record;
  return { index, atMs, type: `step.${event}`, data };
}

export function recordOf(item: Extract<HistoryItem, { kind: "record" }>): StepRecord | undefined {
  return readRecord(item.record);
}

const stepStatus = {
  started: "RUNNING",
  progress: "RUNNING",
  retrying: "RETRYING",
  succeeded: "SUCCESSFUL",
  failed: "FAILED",
  continued: "CONTINUED",
} as const;

/** Folds records into one view per step, in order of first appearance. */
export function foldStep(steps: Map<string, StepView>, event: HistoryEvent): void {
  if (event.type === "run.resumed") retryStep(steps, String(event.data["step"]));
  if (!event.type.startsWith("step.")) return;
  const kind = event.type.slice(5) as StepRecord["event"]; // made by eventOf
  const record = event.data as Partial<StepRecord>;
  const step = String(record.step);
  const known = steps.get(step);
  const progress = kind === "progress" ? record.value : known?.progress;
  const isEnd = kind === "succeeded" || kind === "failed" || kind === "continued";
  steps.set(step, {
    step,
    name: String(record.name),
    status: stepStatus[kind] ?? "RUNNING",
    attempt: record.attempt ?? 1,
    startedAtMs: known?.startedAtMs ?? event.atMs,
    ...(isEnd ? { endedAtMs: event.atMs } : {}),
    ...(isEnd && record.value !== undefined ? { value: record.value } : {}),
    ...(record.error === undefined ? {} : { error: record.error }),
    ...(record.nextAtMs === undefined ? {} : { nextAtMs: record.nextAtMs }),
    ...(record.into === undefined ? {} : { into: record.into }),
    ...(progress === undefined ? {} : { progress }),
    ...(record.compensates === undefined ? {} : { compensates: record.compensates }),
    ...(record.isReused === true ? { reused: true } : {}),
    ...((record.metadata ?? known?.metadata) === undefined
      ? {}
      : { metadata: record.metadata ?? known?.metadata }),
  });
}

/** The run has failed of it and goes on: it is tried again. */
function retryStep(steps: Map<string, StepView>, step: string): void {
  const known = steps.get(step);
  if (known?.status !== "FAILED") return;
  const { endedAtMs: _ended, ...rest } = known;
  steps.set(step, { ...rest, status: "RETRYING" });
}
