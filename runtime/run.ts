/**
 * Pure transitions of one workflow run: start, messages, commands, cancel, close. The
 * table of statuses is `transitions` below; every change of status goes through
 * `setStatus`.
 */
import { decode, encode } from "../guest/cbor.ts";
import type { Command, Drained, Encoded, ErrorValue, Outcome, RunInfo } from "../guest/protocol.ts";
import { assert, SporeError, unreachable } from "./errors.ts";
import { encodeRow, type ReplyTo, type RunHead, rowKeys, type StartMessage } from "./format.ts";
import { actorKey, checkId, type EntityKey, nameOf, runKey, tenantOf } from "./ids.ts";
import type { Status } from "./index.ts";
import {
  addPending,
  answer,
  failed,
  forgetMemory,
  hostError,
  ok,
  okEncoded,
  pushInput,
  rememberCall,
  removePending,
  replyTo,
} from "./machine.ts";
import { addHistory, addHostEvent, type Entity, newEntity, type Sink } from "./state.ts";

/** Unread signals that a run may hold before senders get `too-many-messages`. */
export const signalsMax = 10_000;

/** Which status may follow which. docs/ARCHITECTURE.md shows the same table. */
const transitions: Readonly<Record<Status, readonly Status[]>> = {
  PENDING: ["RUNNING", "CANCELED"],
  RUNNING: ["SUCCESSFUL", "FAILED", "CANCELED", "PAUSED", "RESUMABLE"],
  PAUSED: ["RUNNING", "CANCELED"],
  RESUMABLE: ["RUNNING", "CANCELED"],
  FAILED: ["RUNNING"],
  SUCCESSFUL: [],
  CANCELED: [],
};

export function isClosed(status: Status): boolean {
  return status === "SUCCESSFUL" || status === "FAILED" || status === "CANCELED";
}

function setStatus(head: RunHead, status: Status): void {
  assert(transitions[head.status].includes(status), `${head.status} may become ${status}`);
  head.status = status;
}

// ---------------------------------------------------------------- start

export interface NewRun extends StartMessage {
  readonly inputHash: Uint8Array;
  readonly seed: Uint8Array;
  readonly metadata?: Encoded | undefined;
}

export function createRun(key: EntityKey, start: NewRun, sink: Sink): Entity {
  const head: RunHead = {
    kind: "run",
    name: start.name,
    component: start.component,
    createdAtMs: sink.nowMs,
    inputHash: start.inputHash,
    parent: start.parent,
    root: start.rootRun,
    parentClose: start.parentClose,
    metadata: start.metadata ?? start.options?.metadata,
    tags: start.options?.tags ?? {},
    status: "RUNNING",
    attempt: 1,
    waitingSinceMs: sink.nowMs,
    queries: [],
    updates: [],
    children: [],
    version: 0,
    applied: 0,
    imageVersion: 0,
    imageBytes: 0,
    lastNowMs: sink.nowMs,
    life: 1,
    nextInput: 1,
    nextHistory: 0,
    nextSignal: 1,
    nextWatcher: 1,
    nextCall: 1,
    records: 0,
  };
  const entity = newEntity(key, head, sink.nowMs);
  addHostEvent(entity, sink, "run.started", {
    name: start.name,
    component: start.component,
    ...(start.parent === undefined ? {} : { parent: start.parent }),
  });
  beginLife(entity, sink, start.seed, start);
  return entity;
}

function beginLife(
  entity: Entity,
  sink: Sink,
  seed: Uint8Array,
  input: { readonly args?: Encoded | undefined; readonly root?: Encoded | undefined },
): void {
  const head = headOf(entity);
  const run: RunInfo = {
    runId: nameOf(entity.key),
    tenant: tenantOf(entity.key),
    name: head.name,
    component: head.component,
    attempt: head.attempt,
    startedAtMs: head.createdAtMs,
    seed,
    ...(head.parent === undefined ? {} : { parentId: head.parent }),
    ...(head.root === undefined ? {} : { rootId: head.root }),
  };
  if (input.root === undefined) {
    pushInput(entity, sink, { kind: "start", run, args: input.args ?? encode([]) });
  } else {
    pushInput(entity, sink, { kind: "graph", run, root: input.root });
  }
}

// ---------------------------------------------------------------- messages

export function acceptSignal(entity: Entity, sink: Sink, name: string, value: Encoded): void {
  const head = headOf(entity);
  addHostEvent(entity, sink, "signal.received", { name });
  for (const [id, pending] of entity.pending) {
    if (pending.kind === "wait" && pending.signal === name) {
      removePending(entity, sink, id);
      pushInput(entity, sink, { kind: "resolve", id, outcome: okEncoded(value) });
      return;
    }
  }
  if (entity.signals.length >= signalsMax) {
    throw new SporeError(
      "too-many-messages",
      `run ${nameOf(entity.key)} has ${signalsMax} unread signals`,
      { hint: "Let the run read some, then send again." },
    );
  }
  const row = { index: head.nextSignal++, name, value };
  entity.signals.push(row);
  sink.changes.putFresh(rowKeys.signal(entity.key, row.index), () => encodeRow(row));
}

function takeSignal(entity: Entity, sink: Sink, name: string): Encoded | undefined {
  const at = entity.signals.findIndex((signal) => signal.name === name);
  const signal = entity.signals[at];
  if (signal === undefined) return undefined;
  entity.signals.splice(at, 1);
  sink.changes.delete(rowKeys.signal(entity.key, signal.index));
  return signal.value;
}

/** Answers at once when the run is closed, else when it closes. */
export function watch(entity: Entity, sink: Sink, to: ReplyTo): void {
  const head = headOf(entity);
  if (isClosed(head.status)) {
    answer(sink, to, outcomeForOthers(entity));
    return;
  }
  const row = { index: head.nextWatcher++, replyTo: to };
  entity.watchers.push(row);
  sink.changes.putFresh(rowKeys.watcher(entity.key, row.index), () => encodeRow(row));
  sink.changes.touch(entity);
}

function outcomeForOthers(entity: Entity): Outcome {
  const { outcome } = headOf(entity);
  assert(outcome !== undefined, `${entity.key} is closed with an outcome`);
  if (outcome.kind === "ok") return outcome;
  return failed({
    name: "ChildError",
    message: `run ${nameOf(entity.key)} failed: ${outcome.error.message}`,
    code: "child-failed",
    class: outcome.error.class ?? "user",
    retryable: false,
    cause: outcome.error,
  });
}

// ---------------------------------------------------------------- control

/** Cooperative: the guest gets the request and may clean up. */
export function cancel(entity: Entity, sink: Sink, reason: string): void {
  const head = headOf(entity);
  if (isClosed(head.status)) return;
  addHostEvent(entity, sink, "run.cancel-requested", { reason });
  pushInput(entity, sink, { kind: "cancel", reason });
}

/** Immediate: no guest code runs any more. */
export function terminate(entity: Entity, sink: Sink, reason: string): void {
  if (isClosed(headOf(entity).status)) return;
  const error: ErrorValue = {
    name: "TerminatedError",
    message: reason,
    code: "terminated",
    class: "cancelled",
    retryable: false,
  };
  close(entity, sink, "CANCELED", failed(error));
}

export function pause(entity: Entity, sink: Sink): void {
  const head = headOf(entity);
  if (head.status === "PAUSED") return;
  if (head.status !== "RUNNING") throw closedError(entity);
  setStatus(head, "PAUSED");
  addHostEvent(entity, sink, "run.paused");
  sink.notify(entity);
}

/** PAUSED and RESUMABLE go on; FAILED goes back to right before its failed step gave up. */
export function resume(entity: Entity, sink: Sink): void {
  const head = headOf(entity);
  if (head.status === "RUNNING") return;
  if (head.status === "SUCCESSFUL" || head.status === "CANCELED") throw closedError(entity);
  if (head.status === "FAILED") {
    rewindToFailure(entity, sink);
    head.attempt += 1;
    head.closedAtMs = undefined;
    head.outcome = undefined;
    pushInput(entity, sink, { kind: "retry" });
  }
  setStatus(head, "RUNNING");
  addHostEvent(entity, sink, "run.resumed", { attempt: head.attempt });
  sink.notify(entity);
}

export function canRetry(entity: Entity): boolean {
  return headOf(entity).resumeVersion !== undefined;
}

/** Drops what the run did after the step gave up: the memory before it is in the journal. */
function rewindToFailure(entity: Entity, sink: Sink): void {
  const head = headOf(entity);
  if (head.resumeVersion === undefined) {
    throw new SporeError(
      "not-resumable",
      `run ${nameOf(entity.key)} failed in its own code, not in a step: there is no step to retry`,
      { hint: "Start it again under another id, or with ifExists=start." },
    );
  }
  while (head.version > head.resumeVersion) {
    entity.journal.pop();
    sink.changes.delete(rowKeys.journal(entity.key, head.version));
    head.version -= 1;
  }
  head.applied = head.version;
  head.life += 1;
  sink.changes.touch(entity);
}

function closedError(entity: Entity): SporeError {
  const head = headOf(entity);
  return new SporeError("run-closed", `run ${nameOf(entity.key)} is ${head.status}`, {
    hint: head.status === "CANCELED" ? "A canceled run can't be resumed; start or fork it." : "",
  });
}

/** Closes the run: tells waiters and children, and drops what it doesn't need any more. */
export function close(entity: Entity, sink: Sink, status: Status, outcome: Outcome): void {
  const head = headOf(entity);
  setStatus(head, status);
  head.outcome = outcome;
  head.closedAtMs = Math.max(sink.nowMs, head.lastNowMs);
  head.waitingFor = undefined;
  addHostEvent(entity, sink, closeEvents[status] ?? "run.closed", eventData(outcome));
  const keepsMemory =
    (status === "FAILED" && head.resumeVersion !== undefined) || head.queries.length > 0;
  if (!keepsMemory) forgetMemory(entity, sink);
  else for (const id of [...entity.pending.keys()]) removePending(entity, sink, id);
  for (const { index, replyTo: to } of entity.watchers) {
    sink.changes.delete(rowKeys.watcher(entity.key, index));
    answer(sink, to, outcomeForOthers(entity));
  }
  entity.watchers = [];
  closeChildren(entity, sink);
  sink.changes.touch(entity);
  sink.notify(entity);
}

const closeEvents: Partial<Record<Status, string>> = {
  SUCCESSFUL: "run.succeeded",
  FAILED: "run.failed",
  CANCELED: "run.canceled",
};

function eventData(outcome: Outcome): Readonly<Record<string, unknown>> {
  return outcome.kind === "ok" ? { output: outcome.value } : { error: outcome.error };
}

function closeChildren(entity: Entity, sink: Sink): void {
  const head = headOf(entity);
  const tenant = tenantOf(entity.key);
  for (const child of head.children) {
    const at = child.indexOf(" ");
    sink.send({
      kind: "cancel",
      to: runKey(tenant, child.slice(at + 1)),
      reason: `parent run ${nameOf(entity.key)} is closed`,
      isTermination: child.slice(0, at) === "terminate",
    });
  }
  head.children = [];
}

/** The host can't go on with this run (not the run's own fault); an operator or a resume can. */
export function suspend(entity: Entity, sink: Sink, error: ErrorValue): void {
  const head = headOf(entity);
  if (head.status !== "RUNNING") return;
  setStatus(head, "RESUMABLE");
  head.outcome = failed(error);
  addHostEvent(entity, sink, "run.suspended", { error });
  sink.notify(entity);
}

// ---------------------------------------------------------------- commands

/** Applies everything that an activation asked for. */
export function applyDrained(entity: Entity, sink: Sink, drained: Drained): void {
  const head = headOf(entity);
  for (const record of drained.records) addHistory(entity, sink, { kind: "record", record });
  head.records += drained.records.length;
  if (drained.handlers !== undefined) {
    head.queries = drained.handlers.queries;
    head.updates = drained.handlers.updates;
  }
  if (drained.resumePoint !== undefined) {
    head.resumeVersion = head.version;
    head.resumeStep = drained.resumePoint;
  }
  if (drained.waitingFor !== head.waitingFor) {
    head.waitingFor = drained.waitingFor;
    head.waitingSinceMs = head.lastNowMs;
  }
  for (const command of drained.commands) {
    if (isClosed(head.status)) break;
    applyCommand(entity, sink, command);
  }
  if (drained.state === "yielded" && !isClosed(head.status)) {
    pushInput(entity, sink, { kind: "continue" });
  }
  if (drained.records.length > 0 || drained.commands.length > 0) sink.notify(entity);
}

function applyCommand(entity: Entity, sink: Sink, command: Command): void {
  const head = headOf(entity);
  switch (command.kind) {
    case "timer":
      addPending(entity, sink, command.id, { kind: "timer", atMs: command.atMs });
      return;
    case "fetch":
      addPending(entity, sink, command.id, { kind: "fetch", request: command.request });
      sink.perform(entity, command.id);
      return;
    case "put":
      addPending(entity, sink, command.id, { kind: "put", value: command.value });
      sink.perform(entity, command.id);
      return;
    case "get":
      addPending(entity, sink, command.id, { kind: "get", hash: command.hash });
      sink.perform(entity, command.id);
      return;
    case "wait": {
      const value = takeSignal(entity, sink, command.signal);
      if (value === undefined) {
        addPending(entity, sink, command.id, { kind: "wait", signal: command.signal });
      } else {
        pushInput(entity, sink, { kind: "resolve", id: command.id, outcome: okEncoded(value) });
      }
      return;
    }
    case "drop":
      removePending(entity, sink, command.id);
      return;
    case "start":
      startOther(entity, sink, command);
      return;
    case "outcome":
      ask(entity, sink, command.id, `run ${command.runId}`, (to) => ({
        kind: "watch",
        to: runKey(tenantOf(entity.key), checkId(command.runId, "run")),
        replyTo: to,
      }));
      return;
    case "cancelRun":
      ask(entity, sink, command.id, `run ${command.runId}`, (to) => ({
        kind: "cancel",
        to: runKey(tenantOf(entity.key), checkId(command.runId, "run")),
        reason: command.reason,
        isTermination: false,
        replyTo: to,
      }));
      return;
    case "signal":
      ask(entity, sink, command.id, `run ${command.runId}`, (to) => ({
        kind: "signal",
        to: runKey(tenantOf(entity.key), checkId(command.runId, "run")),
        name: command.name,
        value: command.value,
        replyTo: to,
      }));
      return;
    case "call":
      ask(entity, sink, command.id, `actor ${command.actor.type}/${command.actor.key}`, (to) => ({
        kind: "call",
        to: actorKey(
          tenantOf(entity.key),
          checkId(command.actor.type, "actor type"),
          checkId(command.actor.key, "actor key"),
        ),
        method: command.method,
        args: command.args,
        create: command.create,
        component: head.component,
        isOneWay: command.oneWay === true,
        replyTo: to,
      }));
      return;
    case "reply":
      rememberCall(entity, sink, command.id, command.outcome);
      sink.notify(entity);
      return;
    case "complete":
      complete(entity, sink, command.outcome);
      return;
    case "continueAsNew":
      continueAsNew(entity, sink, command.args);
      return;
    case "publish":
      addHostEvent(entity, sink, "published", { key: command.key, value: command.value });
      return;
    case "tags":
      head.tags = mergeTags(head.tags, command.tags);
      sink.changes.touch(entity);
      return;
    case "log":
      addHostEvent(entity, sink, "log", {
        level: command.level,
        message: command.message,
        ...(command.step === undefined ? {} : { step: command.step }),
      });
      sink.log(entity, command.level, command.message);
      return;
    case "state":
    case "turned":
      complete(entity, sink, failed(hostError("guest-trap", `a run can't send ${command.kind}`)));
      return;
    default:
      unreachable(command);
  }
}

/** Registers the command and sends its message, or answers at once if it can't be made. */
function ask(
  entity: Entity,
  sink: Sink,
  id: number,
  what: string,
  build: (to: ReplyTo) => Parameters<Sink["send"]>[0],
): void {
  try {
    const message = build(replyTo(entity, id));
    addPending(entity, sink, id, { kind: "message", what });
    sink.send(message);
  } catch (error) {
    if (!(error instanceof SporeError)) throw error;
    const outcome = failed(hostError(error.code, error.message));
    pushInput(entity, sink, { kind: "resolve", id, outcome });
  }
}

function startOther(entity: Entity, sink: Sink, command: Extract<Command, { kind: "start" }>): void {
  const head = headOf(entity);
  const self = nameOf(entity.key);
  const runId = command.runId ?? childId(self, head.life, command.id);
  ask(entity, sink, command.id, `start of ${runId}`, (to) => ({
    kind: "start",
    to: runKey(tenantOf(entity.key), checkId(runId, "run")),
    start: {
      name: command.name ?? "",
      args: command.args,
      root: command.root,
      component: head.component,
      parent: command.child === undefined ? undefined : self,
      rootRun: command.child === undefined ? undefined : (head.root ?? self),
      parentClose: command.child,
      options: command.options,
    },
    replyTo: to,
  }));
  if (command.child !== undefined && command.child !== "abandon") {
    head.children = [...head.children, `${command.child} ${runId}`];
  }
}

/** Derived, so that a repetition after a crash asks for the same child. */
function childId(parent: string, life: number, id: number): string {
  const suffix = `.${life}.${id}`;
  return parent.slice(0, 200 - suffix.length) + suffix;
}

function complete(entity: Entity, sink: Sink, outcome: Outcome): void {
  if (outcome.kind === "ok") close(entity, sink, "SUCCESSFUL", outcome);
  else if (outcome.error.class === "cancelled") close(entity, sink, "CANCELED", outcome);
  else close(entity, sink, "FAILED", outcome);
}

function continueAsNew(entity: Entity, sink: Sink, args: Encoded): void {
  const head = headOf(entity);
  const seed = head.inputHash.slice(0, 16);
  forgetMemory(entity, sink);
  head.attempt += 1;
  head.queries = [];
  head.updates = [];
  addHostEvent(entity, sink, "run.continued", { attempt: head.attempt });
  seed[0] = (seed[0] ?? 0) ^ (head.attempt & 0xff);
  beginLife(entity, sink, seed, { args });
}

function mergeTags(
  tags: Readonly<Record<string, string>>,
  change: Readonly<Record<string, string | undefined>>,
): Readonly<Record<string, string>> {
  const merged = new Map(Object.entries(tags));
  for (const [key, value] of Object.entries(change)) {
    if (value === undefined) merged.delete(key);
    else merged.set(key, value);
  }
  return Object.fromEntries(merged);
}

export function headOf(entity: Entity): RunHead {
  assert(entity.head.kind === "run", `${entity.key} is a run`);
  return entity.head;
}

/** The value of an outcome, for tests and messages. */
export function valueOf(outcome: Outcome): unknown {
  return outcome.kind === "ok" ? decode(outcome.value) : outcome.error;
}

export { ok };
