/** What the engine answers, in the shapes of the HTTP API: times as ISO text, values shown. */
import type { Encoded, ErrorValue } from "../../guest/protocol.ts";
import type {
  ActorView,
  DeploymentView,
  HistoryEvent,
  OpenEvent,
  QueueView,
  RunSummary,
  RunView,
  ScheduleView,
  StepView,
} from "../../runtime/index.ts";
import type { ExplainedStack, SourceMapper } from "../source-maps.ts";
import { encodeCbor, shownValue } from "../values.ts";
import { mayHoldError } from "./value-errors.ts";

/** Makes a user value of its bytes, in the answer's format. */
export type Show = (encoded: Encoded) => unknown;

/** How what is the guest's own appears in an answer. */
export interface Shower {
  readonly show: Show;
  /** From places in the bundle to the author's files; absent where there is no map. */
  readonly mapper?: SourceMapper | undefined;
}

export function runView(run: RunView, shower: Shower): object {
  return {
    id: run.id,
    name: run.name,
    status: run.status,
    component: run.component,
    attempt: run.attempt,
    createdAt: isoOf(run.createdAtMs),
    closedAt: isoOf(run.closedAtMs),
    expiresAt: isoOf(run.expiresAtMs),
    parentId: run.parentId,
    rootId: run.rootId,
    forkedFrom: run.forkedFrom,
    rerunOf: run.rerunOf,
    forks: run.forks,
    reruns: run.reruns,
    tags: run.tags,
    metadata: optional(run.metadata, shower.show),
    waiting:
      run.waiting === undefined
        ? undefined
        : {
            for: run.waiting.for,
            since: isoOf(run.waiting.sinceMs),
            until: isoOf(run.waiting.untilMs),
          },
    progress:
      run.progress === undefined
        ? undefined
        : {
            step: run.progress.step,
            at: isoOf(run.progress.atMs),
            value: shower.show(run.progress.value),
          },
    error: run.error === undefined ? undefined : errorView(run.error, shower),
    queries: run.queries,
    updates: run.updates,
    records: run.records,
    imageBytes: run.imageBytes,
    journalLength: run.journalLength,
  };
}

export function runSummary(run: RunSummary): object {
  return {
    id: run.id,
    name: run.name,
    component: run.component,
    status: run.status,
    createdAt: isoOf(run.createdAtMs),
    closedAt: isoOf(run.closedAtMs),
    tags: run.tags,
  };
}

export function deploymentView(deployment: DeploymentView): object {
  const { seq, component, atMs, isCurrent, rollbackTo } = deployment;
  return { seq, component, at: isoOf(atMs), isCurrent, rollbackTo };
}

export function stepView(step: StepView, shower: Shower): object {
  return {
    step: step.step,
    name: step.name,
    status: step.status,
    attempt: step.attempt,
    startedAt: isoOf(step.startedAtMs),
    endedAt: isoOf(step.endedAtMs),
    value: optional(step.value, shower.show),
    error: step.error === undefined ? undefined : errorView(step.error, shower),
    nextAt: isoOf(step.nextAtMs),
    into: step.into,
    progress: optional(step.progress, shower.show),
    compensates: step.compensates,
    reused: step.reused,
    metadata: optional(step.metadata, shower.show),
  };
}

export function eventView(event: HistoryEvent, shower: Shower): object {
  return {
    index: event.index,
    at: isoOf(event.atMs),
    type: event.type,
    data: shownData(event, shower),
  };
}

export function actorView(actor: ActorView): object {
  const { createdAtMs, reminders, ...rest } = actor;
  return {
    ...rest,
    createdAt: isoOf(createdAtMs),
    reminders: reminders.map(({ atMs, ...reminder }) => ({ ...reminder, at: isoOf(atMs) })),
  };
}

export function scheduleView(schedule: ScheduleView, show: Show): object {
  const { startMs, endMs, metadata, ...spec } = schedule.spec;
  return {
    id: schedule.id,
    ...spec,
    args: show(schedule.args),
    metadata: metadata === undefined ? undefined : show(metadata),
    start: isoOf(startMs),
    end: isoOf(endMs),
    paused: schedule.isPaused,
    note: schedule.note,
    remaining: schedule.remaining,
    createdAt: isoOf(schedule.createdAtMs),
    updatedAt: isoOf(schedule.updatedAtMs),
    next: schedule.nextAtMs.map((atMs) => isoOf(atMs)),
    running: schedule.running,
    waiting: schedule.waiting,
    backfills: schedule.backfills,
    runs: schedule.runs.map(({ runId, slotMs, cause, startedAtMs, closedAtMs, result }) => ({
      id: runId,
      slot: isoOf(slotMs),
      cause,
      startedAt: isoOf(startedAtMs),
      closedAt: isoOf(closedAtMs),
      result,
    })),
    started: schedule.started,
    skipped: schedule.skipped,
    missed: schedule.missed,
  };
}

export function openEventView({ expiresAtMs, ...event }: OpenEvent): object {
  return { ...event, expiresAt: isoOf(expiresAtMs) };
}

export function queueView(queue: QueueView): object {
  const { name, limits, isDeclared, createdAtMs, updatedAtMs, next, ...counts } = queue;
  return {
    name,
    ...limits,
    declared: isDeclared,
    createdAt: isoOf(createdAtMs),
    updatedAt: isoOf(updatedAtMs),
    ...counts,
    next: next.map(({ runId, sinceMs, ...rest }) => ({
      id: runId,
      ...rest,
      since: isoOf(sinceMs),
    })),
  };
}

const causesMax = 10;

/** The one place where an error leaves the host: its stack, and its causes', are the author's. */
export function errorView(error: ErrorValue, shower: Shower, depth = 0): object {
  const explained = explainedStack(error, shower);
  return {
    name: error.name,
    message: error.message,
    code: error.code,
    class: error.class,
    retryable: error.retryable,
    stack: explained?.stack,
    frame: explained?.frame,
    cause:
      error.cause === undefined || depth >= causesMax
        ? undefined
        : errorView(error.cause, shower, depth + 1),
    details: optional(explainedDetails(error.details, shower), shower.show),
  };
}

function explainedStack(
  { stack, name }: { readonly stack?: unknown; readonly name?: unknown },
  { mapper }: Shower,
): ExplainedStack | undefined {
  if (typeof stack !== "string") return undefined;
  return mapper?.explain(stack, String(name)) ?? { stack };
}

/** An AggregateError's own errors are in its details, each with a stack. */
function explainedDetails(details: Encoded | undefined, shower: Shower): Encoded | undefined {
  if (details === undefined || shower.mapper === undefined) return details;
  const fields = shownValue(details);
  if (!isFields(fields) || !Array.isArray(fields.errors)) return details;
  const errors = fields.errors.map((each: unknown) => withStack(each, shower));
  return encodeCbor({ ...fields, errors });
}

function withStack(error: unknown, shower: Shower): unknown {
  return isFields(error) ? { ...error, ...explainedStack(error, shower) } : error;
}

function isFields(value: unknown): value is Readonly<Record<string, unknown>> {
  return isEnvelope(value) && !Array.isArray(value);
}

/** Leaves out what is undefined, as JSON does by itself; for CBOR. User values are left alone. */
export function withoutAbsent(body: object): object {
  const present: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(body)) {
    if (value === undefined) continue;
    if (userValues.has(key) || !isEnvelope(value)) present[key] = value;
    else if (Array.isArray(value)) present[key] = value.map(withoutAbsentItem);
    else present[key] = withoutAbsent(value);
  }
  return present;
}

const userValues = new Set([
  "args",
  "output",
  "result",
  "value",
  "metadata",
  "details",
  "data",
  "state",
  "progress",
]);

function withoutAbsentItem(item: unknown): unknown {
  return isEnvelope(item) && !Array.isArray(item) ? withoutAbsent(item) : item;
}

function isEnvelope(value: unknown): value is object {
  if (typeof value !== "object" || value === null) return false;
  return Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype;
}

/** Bytes in a history event are encoded values: an engine event has no other bytes. */
function shownData({ type, data }: HistoryEvent, shower: Shower): object {
  const shown: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(data)) {
    if (value instanceof Uint8Array) shown[key] = shower.show(value);
    else if (isErrorValue(key, value)) shown[key] = errorView(value, shower);
    else if (value !== undefined) shown[key] = value;
  }
  // What was logged may be an error, and is text by then.
  if (type === "log" && typeof shown.message === "string" && shower.mapper !== undefined) {
    shown.message = shower.mapper.mapText(shown.message);
  }
  return shown;
}

/** Whether showing it takes a source map. */
export function hasStack({ type, data }: HistoryEvent): boolean {
  if (type === "log" || isErrorValue("error", data.error)) return true;
  return Object.values(data).some((value) => value instanceof Uint8Array && mayHoldError(value));
}

function isErrorValue(key: string, value: unknown): value is ErrorValue {
  return key === "error" && typeof value === "object" && value !== null && "message" in value;
}

function optional(encoded: Encoded | undefined, show: Show): unknown {
  return encoded === undefined ? undefined : show(encoded);
}

function isoOf(atMs: number): string;
function isoOf(atMs: number | undefined): string | undefined;
function isoOf(atMs: number | undefined): string | undefined {
  return atMs === undefined ? undefined : new Date(atMs).toISOString();
}
