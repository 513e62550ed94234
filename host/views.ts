/** What the engine answers, in the shapes of the HTTP API: times as ISO text, values shown. */
import type { Encoded, ErrorValue } from "../guest/protocol.ts";
import type { ActorView, HistoryEvent, RunSummary, RunView, StepView } from "../runtime/index.ts";

/** Makes a user value of its bytes, in the answer's format. */
export type Show = (encoded: Encoded) => unknown;

export function runView(run: RunView, show: Show): object {
  return {
    id: run.id,
    name: run.name,
    status: run.status,
    component: run.component,
    attempt: run.attempt,
    createdAt: isoOf(run.createdAtMs),
    closedAt: isoOf(run.closedAtMs),
    parentId: run.parentId,
    rootId: run.rootId,
    tags: run.tags,
    metadata: optional(run.metadata, show),
    waiting:
      run.waiting === undefined
        ? undefined
        : {
            for: run.waiting.for,
            since: isoOf(run.waiting.sinceMs),
            until: isoOf(run.waiting.untilMs),
          },
    error: run.error === undefined ? undefined : errorView(run.error, show),
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
    status: run.status,
    createdAt: isoOf(run.createdAtMs),
    closedAt: isoOf(run.closedAtMs),
    tags: run.tags,
  };
}

export function stepView(step: StepView, show: Show): object {
  return {
    step: step.step,
    name: step.name,
    status: step.status,
    attempt: step.attempt,
    startedAt: isoOf(step.startedAtMs),
    endedAt: isoOf(step.endedAtMs),
    value: optional(step.value, show),
    error: step.error === undefined ? undefined : errorView(step.error, show),
    nextAt: isoOf(step.nextAtMs),
    into: step.into,
    metadata: optional(step.metadata, show),
  };
}

export function eventView(event: HistoryEvent, show: Show): object {
  return {
    index: event.index,
    at: isoOf(event.atMs),
    type: event.type,
    data: shownData(event.data, show),
  };
}

export function actorView(actor: ActorView): object {
  const { createdAtMs, ...rest } = actor;
  return { ...rest, createdAt: isoOf(createdAtMs) };
}

const causesMax = 10;

export function errorView(error: ErrorValue, show: Show, depth = 0): object {
  return {
    name: error.name,
    message: error.message,
    code: error.code,
    class: error.class,
    retryable: error.retryable,
    stack: error.stack,
    cause:
      error.cause === undefined || depth >= causesMax
        ? undefined
        : errorView(error.cause, show, depth + 1),
    details: optional(error.details, show),
  };
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

const userValues = new Set(["output", "result", "value", "metadata", "details", "data"]);

function withoutAbsentItem(item: unknown): unknown {
  return isEnvelope(item) && !Array.isArray(item) ? withoutAbsent(item) : item;
}

function isEnvelope(value: unknown): value is object {
  if (typeof value !== "object" || value === null) return false;
  return Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype;
}

/** Bytes in a history event are encoded values: an engine event has no other bytes. */
function shownData(data: Readonly<Record<string, unknown>>, show: Show): object {
  const shown: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(data)) {
    if (value instanceof Uint8Array) shown[key] = show(value);
    else if (isErrorValue(key, value)) shown[key] = errorView(value, show);
    else if (value !== undefined) shown[key] = value;
  }
  return shown;
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
