/**
 * Pure transitions of one workflow run: start, messages, commands, cancel, close. The
 * table of statuses is `transitions` below; every change of status goes through
 * `setStatus`.
 */
import { encode } from "../guest/cbor.ts";
import type {
  Command,
  Drained,
  Encoded,
  ErrorValue,
  Input,
  Outcome,
  RunDescription,
  RunInfo,
} from "../guest/protocol.ts";
import { applyCommon, returnSignals } from "./commands.ts";
import { assert, SporeError } from "./errors.ts";
import { forgetEvents, returnEvents } from "./events.ts";
import {
  type Admission,
  encodeRow,
  type Gate,
  isEffect,
  type Message,
  type ReplyTo,
  type RunHead,
  rowKeys,
  type StartMessage,
  systemTimers,
} from "./format.ts";
import { type EntityKey, nameOf, queueKey, runKey, tenantOf } from "./ids.ts";
import type { Status } from "./index.ts";
import {
  acceptanceOf,
  addSystemTimer,
  answer,
  beginNewPast,
  forgetMemory,
  markAccepted,
  newMachine,
  pushInput,
  pushInputsFirst,
  rememberCall,
  removePending,
  removeSystemTimer,
  takeBackActivation,
} from "./machine.ts";
import { failed, hostError, ok } from "./outcomes.ts";
import { keepPublished } from "./published.ts";
import { addHistory, addHostEvent, type Entity, newEntity, type Sink } from "./state.ts";

/** Which status may follow which. docs/ARCHITECTURE.md shows the same table. */
const transitions: Readonly<Record<Status, readonly Status[]>> = {
  PENDING: ["RUNNING", "PAUSED", "FAILED", "CANCELED"],
  RUNNING: ["SUCCESSFUL", "FAILED", "CANCELED", "PAUSED", "RESUMABLE"],
  PAUSED: ["RUNNING", "PENDING", "SUCCESSFUL", "FAILED", "CANCELED", "RESUMABLE"],
  RESUMABLE: ["RUNNING", "PENDING", "FAILED", "CANCELED"],
  FAILED: ["RUNNING", "PENDING"],
  SUCCESSFUL: [],
  CANCELED: [],
};

/** Every status there is. */
export const statuses = Object.keys(transitions) as readonly Status[]; // the table's own keys

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
  /** Its own place in the trace that `trace` is of. */
  readonly span?: string | undefined;
}

/** The head of a run that has done nothing yet. */
export function newRunHead(
  start: Pick<NewRun, "component" | "name" | "inputHash"> & Partial<NewRun>,
  nowMs: number,
): RunHead {
  return {
    ...newMachine(start.component, nowMs),
    kind: "run",
    name: start.name,
    createdAtMs: nowMs,
    inputHash: start.inputHash,
    parent: start.parent,
    root: start.rootRun,
    parentClose: start.parentClose,
    metadata: start.metadata ?? start.options?.metadata,
    ...(start.trace === undefined || start.span === undefined
      ? {}
      : { trace: { self: start.span, parent: start.trace } }),
    rerunOf: start.rerunOf,
    ...retentionOf(start),
    tags: start.options?.tags ?? {},
    status: "RUNNING",
    attempt: 1,
    waitingSinceMs: nowMs,
    queries: [],
    updates: [],
    children: [],
    nextWatcher: 1,
    nextCall: 1,
    records: 0,
    lastCommand: 0,
    resumeCommand: 0,
  };
}

export function createRun(key: EntityKey, start: NewRun, sink: Sink): Entity {
  const entity = newEntity(key, newRunHead(start, sink.nowMs), sink.nowMs);
  setTimes(entity, sink, start);
  addHostEvent(entity, sink, "run.started", {
    name: start.name,
    component: start.component,
    ...(start.parent === undefined ? {} : { parent: start.parent }),
    ...(start.rerunOf === undefined ? {} : { rerunOf: start.rerunOf }),
  });
  beginLife(entity, sink, start.seed, start);
  if (start.admission !== undefined) passQueues(entity, sink, start.admission);
  if (start.rerunOf !== undefined && headOf(entity).gate?.isKept !== false) {
    tellOrigin(entity, sink, "rerun", start.rerunOf);
  }
  return entity;
}

/** The run that this one was made of shows it. */
export function tellOrigin(
  entity: Entity,
  sink: Sink,
  how: "fork" | "rerun",
  origin: string,
): void {
  const to = runKey(tenantOf(entity.key), origin);
  sink.send({ kind: "made", to, how, runId: nameOf(entity.key) });
}

/** Runs made of this one that its view names. */
const madeMax = 100;

/** A run was made of this one. */
export function keepMade(entity: Entity, sink: Sink, how: "fork" | "rerun", runId: string): void {
  const head = headOf(entity);
  const field = how === "fork" ? "forks" : "reruns";
  const known = head[field] ?? [];
  if (known.includes(runId)) return;
  head[field] = [...known, runId].slice(-madeMax);
  addHostEvent(entity, sink, how === "fork" ? "run.forked" : "run.rerun", { id: runId });
}

// ---------------------------------------------------------------- queues

/** Under which name a local client waits for what the queues say; no id has a space. */
export const admissionCall = "the queues";

/** A new run waits until its queues let it through. */
export function passQueues(
  entity: Entity,
  sink: Sink,
  { queues, priority, mayRefuse }: Admission,
): void {
  const head = headOf(entity);
  const isKept = !mayRefuse || head.status === "PENDING";
  head.gate = { queues, priority, at: 0, ticket: 0, isKept };
  if (head.status === "PENDING") return; // it asks when its time has come
  head.status = "PENDING";
  askForPlace(entity, sink);
}

/** Whether it has no place, or not all of them, in the queues that it passes. */
function isHeldBack({ gate }: RunHead): boolean {
  return gate !== undefined && gate.at < gate.queues.length;
}

/** Through the queues that it has to pass, or at once if there are none. */
function goOn(entity: Entity, sink: Sink): void {
  const head = headOf(entity);
  if (isHeldBack(head)) {
    if (head.status !== "PENDING") setStatus(head, "PENDING");
    askForPlace(entity, sink);
    return;
  }
  setStatus(head, "RUNNING");
  performPending(entity, sink);
}

/** Begins a passage through its queues. */
function askForPlace(entity: Entity, sink: Sink): void {
  const head = headOf(entity);
  assert(head.gate !== undefined, `${entity.key} has queues to pass`);
  // Answers to an earlier passage, or to the former owner of the id, are none of its business.
  head.gate = { ...head.gate, at: 0, ticket: Math.max(head.life, head.gate.ticket + 1) };
  head.waitingSinceMs = sink.nowMs;
  enterQueue(entity, sink, head.gate);
}

function enterQueue(entity: Entity, sink: Sink, gate: Gate): void {
  const queue = gate.queues[gate.at];
  assert(queue !== undefined, `${entity.key} has one more queue to pass`);
  const { ticket, priority } = gate;
  const to = queueKey(tenantOf(entity.key), queue.name);
  const { key } = queue;
  sink.send({
    kind: "enter",
    to,
    run: entity.key,
    ticket,
    priority,
    mayRefuse: !gate.isKept,
    ...(key === undefined ? {} : { key }),
  });
  sink.changes.touch(entity);
}

/** What a queue says. True if the run was refused and never was: it is to be removed. */
export function hearPlace(
  entity: Entity,
  sink: Sink,
  said: Extract<Message, { kind: "place" }>,
): boolean {
  const head = headOf(entity);
  const { gate } = head;
  if (gate === undefined || gate.ticket !== said.ticket) return false;
  if (head.status !== "PENDING" || gate.queues[gate.at]?.name !== said.queue) return false;
  if (said.place === "refused") {
    sink.replied(entity, admissionCall, failed(said.error));
    if (gate.isKept) close(entity, sink, "FAILED", failed(said.error));
    else neverWas(entity, sink);
    return !gate.isKept;
  }
  if (said.place === "waits") {
    keep(entity, sink);
  } else {
    head.gate = { ...gate, at: gate.at + 1 };
    if (head.gate.at < gate.queues.length) {
      enterQueue(entity, sink, head.gate);
      return false;
    }
    keep(entity, sink);
    setStatus(head, "RUNNING");
    performPending(entity, sink);
    addHostEvent(entity, sink, "run.admitted");
  }
  sink.replied(entity, admissionCall, ok(undefined));
  sink.changes.touch(entity);
  sink.notify(entity);
  return false;
}

/** No queue refuses it any more: from now on it is a run to others, too. */
function keep(entity: Entity, sink: Sink): void {
  const head = headOf(entity);
  if (head.gate === undefined || head.gate.isKept) return;
  head.gate = { ...head.gate, isKept: true };
  if (head.rerunOf !== undefined) tellOrigin(entity, sink, "rerun", head.rerunOf);
}

/** Refused while its client waited: who waits for its end hears that there is none. */
function neverWas(entity: Entity, sink: Sink): void {
  leaveQueues(entity, sink);
  const error = hostError("run-not-found", `there is no run ${nameOf(entity.key)}`);
  for (const { replyTo: to } of entity.watchers) answer(sink, to, failed(error));
}

/** The queue that it waits for. */
export function queueAwaited(entity: Entity): string | undefined {
  const { status, gate } = headOf(entity);
  if (status !== "PENDING" || gate === undefined || gate.ticket === 0) return undefined;
  return gate.queues[gate.at]?.name;
}

/** Whether a queue may still say that there is no room for it. */
export function isRefusable(entity: Entity): boolean {
  return queueAwaited(entity) !== undefined && headOf(entity).gate?.isKept === false;
}

/** Gives back every place that it has or waits for. */
function leaveQueues(entity: Entity, sink: Sink): void {
  const head = headOf(entity);
  const { gate } = head;
  if (gate === undefined || gate.ticket === 0) return;
  for (const { name } of gate.queues.slice(0, gate.at + 1)) {
    const to = queueKey(tenantOf(entity.key), name);
    sink.send({ kind: "leave", to, run: entity.key, ticket: gate.ticket });
  }
  // Only a new passage has a ticket that is good for an answer.
  head.gate = { ...gate, at: 0, isKept: true };
}

/** Start delay and deadline are timers of the engine's own. */
function setTimes(entity: Entity, sink: Sink, { options }: NewRun): void {
  const head = headOf(entity);
  if (options?.startAtMs !== undefined && options.startAtMs > sink.nowMs) {
    head.status = "PENDING";
    head.startAtMs = options.startAtMs;
    addSystemTimer(entity, sink, systemTimers.start, options.startAtMs);
  }
  if (options?.deadlineMs !== undefined) {
    head.deadlineMs = options.deadlineMs;
    addSystemTimer(entity, sink, systemTimers.deadline, options.deadlineMs);
  }
}

/** Neither is to come any more. */
export function forgetTimes(entity: Entity, sink: Sink): void {
  const { deadlineMs, startAtMs } = headOf(entity);
  if (deadlineMs !== undefined) {
    removeSystemTimer(entity, sink, systemTimers.deadline, deadlineMs);
  }
  if (startAtMs !== undefined) removeSystemTimer(entity, sink, systemTimers.start, startAtMs);
}

/** Whether a timer is the one of that time, and not of a run that had the id before. */
function isTimerOf(timeMs: number | undefined, atMs: number): boolean {
  return timeMs !== undefined && Math.max(0, Math.floor(timeMs)) === atMs;
}

/** A timer of the engine's own has come for this run. */
export function fireRunTimer(
  entity: Entity,
  sink: Sink,
  { id, atMs }: { readonly id: number; readonly atMs: number },
): void {
  const head = headOf(entity);
  if (id === systemTimers.start && isTimerOf(head.startAtMs, atMs)) {
    head.startAtMs = undefined;
    sink.changes.touch(entity);
    if (head.status === "PENDING") {
      addHostEvent(entity, sink, "run.due");
      goOn(entity, sink);
      sink.notify(entity);
    }
  }
  if (id === systemTimers.deadline && isTimerOf(head.deadlineMs, atMs) && !isClosed(head.status)) {
    addHostEvent(entity, sink, "run.deadline");
    head.isOverdue = true;
    if (head.status === "RUNNING") pushInput(entity, sink, { kind: "cancel", reason: overdue });
    else terminate(entity, sink, overdue);
  }
}

const overdue = "the deadline has passed";
/** A hundred years. */
const retentionMsMax = 100 * 366 * 86_400_000;

function beginLife(
  entity: Entity,
  sink: Sink,
  seed: Uint8Array,
  input: Pick<StartMessage, "args" | "root" | "reuse">,
): void {
  const run = runInfo(entity, seed);
  const reuse = input.reuse === undefined ? {} : { reuse: input.reuse };
  if (input.root === undefined) {
    pushInput(entity, sink, { kind: "start", run, args: input.args ?? encode([]), ...reuse });
  } else {
    pushInput(entity, sink, { kind: "graph", run, root: input.root, ...reuse });
  }
}

/** What the guest is told of its run. */
export function runInfo(entity: Entity, seed: Uint8Array): RunInfo {
  const head = headOf(entity);
  return {
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
}

// ---------------------------------------------------------------- messages

/** A guest can ask for anything; what is no length of time is the host's default. */
function retentionOf({ options }: Partial<NewRun>): Pick<RunHead, "retentionMs"> {
  const { retentionMs } = options ?? {};
  return retentionMs !== undefined && retentionMs >= 0 && retentionMs <= retentionMsMax
    ? { retentionMs }
    : {};
}

/** A closed run is deleted when nobody has wanted it for so long. */
function retain(entity: Entity, sink: Sink, closedAtMs: number): void {
  const head = headOf(entity);
  const retentionMs = head.retentionMs ?? sink.retentionMs;
  if (retentionMs === undefined) return;
  head.expiresAtMs = Math.ceil(closedAtMs + retentionMs);
  addSystemTimer(entity, sink, systemTimers.retention, head.expiresAtMs);
}

/** It goes on, or is deleted already. */
export function forgetExpiry(entity: Entity, sink: Sink): void {
  const head = headOf(entity);
  if (head.expiresAtMs === undefined) return;
  removeSystemTimer(entity, sink, systemTimers.retention, head.expiresAtMs);
  head.expiresAtMs = undefined;
}

/** Whether this timer ends the run's retention. */
export function isRetentionOver(entity: Entity, atMs: number): boolean {
  const head = headOf(entity);
  return isClosed(head.status) && head.expiresAtMs === atMs;
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

/** What another run or an actor is told of this one. */
export function descriptionOf(entity: Entity): RunDescription {
  const head = headOf(entity);
  const { status, name, createdAtMs, closedAtMs, tags, outcome, waitingFor } = head;
  return {
    status,
    name,
    createdAtMs,
    tags,
    ...(closedAtMs === undefined ? {} : { closedAtMs }),
    ...(waitingFor === undefined ? {} : { waitingFor }),
    // A run that was suspended and goes on still has what it was suspended for.
    ...(status === "RUNNING" || status === "PAUSED" || outcome?.kind !== "error"
      ? {}
      : { error: { name: outcome.error.name, message: outcome.error.message } }),
  };
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

/** Cooperative: the guest gets the request and may clean up, a PAUSED run's once it goes on. */
export function cancel(entity: Entity, sink: Sink, reason: string): void {
  const head = headOf(entity);
  if (isClosed(head.status)) return;
  // Nothing has begun, so there is nothing to clean up; or there is nobody to do it.
  const hasNotBegun = head.status === "PAUSED" && head.version === 0;
  if (head.status === "PENDING" || head.status === "RESUMABLE" || hasNotBegun) {
    terminate(entity, sink, reason === "" ? "the run was canceled" : reason);
    return;
  }
  if (head.status === "PAUSED" && isToBeCanceled(entity)) return;
  addHostEvent(entity, sink, "run.cancel-requested", { reason });
  pushInput(entity, sink, { kind: "cancel", reason });
}

/** A cancellation waits until it goes on. */
export function isToBeCanceled(entity: Entity): boolean {
  return entity.inputs.some(({ input }) => input.kind === "cancel");
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

/** One that is PENDING gives up its place in its queue, or begins no sooner than it is resumed. */
export function pause(entity: Entity, sink: Sink): void {
  const head = headOf(entity);
  if (head.status === "PAUSED") return;
  if (head.status === "RESUMABLE") {
    throw new SporeError(
      "run-active",
      `run ${nameOf(entity.key)} is ${head.status}: it doesn't go on now`,
      { hint: "One that isn't wanted can be canceled." },
    );
  }
  if (isClosed(head.status)) throw closedError(entity);
  if (head.status === "PENDING") {
    sink.replied(entity, admissionCall, ok(undefined)); // who started it hears no more of a queue
    keep(entity, sink);
    leaveQueues(entity, sink);
  }
  setStatus(head, "PAUSED");
  addHostEvent(entity, sink, "run.paused");
  sink.notify(entity);
}

/**
 * PAUSED and RESUMABLE go on, or are PENDING again; FAILED goes back to right before its failed
 * step gave up.
 */
export function resume(entity: Entity, sink: Sink): void {
  const head = headOf(entity);
  // What is PENDING goes on by itself, and a repeated request must not hasten it.
  if (head.status === "RUNNING" || head.status === "PENDING") return;
  if (head.status === "SUCCESSFUL" || head.status === "CANCELED") throw closedError(entity);
  let again: object = {};
  if (head.status === "FAILED") {
    // Runs that failed before this was kept don't know it.
    const { resumeStep, resumeHistory: backTo } = head;
    again = { step: resumeStep, ...(backTo === undefined ? {} : { backTo }) };
    rewindToFailure(entity, sink);
    head.attempt += 1;
    head.closedAtMs = undefined;
    head.outcome = undefined;
    forgetExpiry(entity, sink);
    const { deadlineMs = 0 } = head;
    // One that has passed while the run was closed has nothing to end.
    if (deadlineMs > sink.nowMs) addSystemTimer(entity, sink, systemTimers.deadline, deadlineMs);
  }
  // As long as its timer hasn't come, its time is still to come.
  const isDelayed = head.startAtMs !== undefined && head.version === 0;
  if (head.status === "PAUSED" && isDelayed) setStatus(head, "PENDING");
  else goOn(entity, sink);
  addHostEvent(entity, sink, "run.resumed", { attempt: head.attempt, ...again });
  sink.notify(entity);
}

export function canRetry(entity: Entity): boolean {
  return headOf(entity).resumeVersion !== undefined;
}

function forgetResumePoint(head: RunHead): void {
  head.resumeVersion = undefined;
  head.resumeStep = undefined;
  head.resumeHistory = undefined;
}

/**
 * Takes back the one activation that delivered the step's rejection: the memory before it
 * is in image and journal, what else it was given goes to the memory again, and commands
 * that it gave are forgotten.
 */
function rewindToFailure(entity: Entity, sink: Sink): void {
  const head = headOf(entity);
  if (head.resumeVersion === undefined) {
    throw new SporeError(
      "not-resumable",
      `run ${nameOf(entity.key)} failed in its own code, not in a step: there is no step to retry`,
      { hint: "Start it again under another id, or with ifExists=start." },
    );
  }
  assert(head.version === head.resumeVersion + 1, `${entity.key} failed right after its step`);
  const inputs = takeBackActivation(entity, sink);
  const resumeCommand = head.resumeCommand;
  returnEvents(entity, sink, (id) => id > resumeCommand);
  for (const id of [...entity.pending.keys()]) {
    if (id > resumeCommand) removePending(entity, sink, id);
  }
  returnSignals(entity, sink, (id) => id > resumeCommand);
  const waiting = entity.inputs.map(({ input }) => input);
  for (const { index } of entity.inputs) sink.changes.delete(rowKeys.input(entity.key, index));
  entity.inputs = [];
  pushInput(entity, sink, { kind: "retry" });
  for (const input of [...inputs, ...waiting]) {
    if (input.kind === "continue") continue;
    if (input.kind === "resolve" && input.id > resumeCommand) continue;
    pushInput(entity, sink, input);
  }
  forgetResumePoint(head);
}

/** Nobody performs them if their host has crashed. */
export function performPending(entity: Entity, sink: Sink): void {
  for (const [id, pending] of entity.pending) {
    if (isEffect(pending)) {
      sink.perform(entity, id);
    }
  }
}

function closedError(entity: Entity): SporeError {
  const head = headOf(entity);
  return new SporeError("run-closed", `run ${nameOf(entity.key)} is ${head.status}`, {
    hint:
      head.status === "CANCELED"
        ? "A canceled run can't be resumed; fork or rerun it."
        : "It is over; fork or rerun it to have another.",
  });
}

function endSpan(entity: Entity, sink: Sink): void {
  const { trace, name, createdAtMs, closedAtMs, outcome, status, attempt } = headOf(entity);
  if (trace === undefined) return;
  const attributes = {
    "spore.tenant": tenantOf(entity.key),
    "spore.run": nameOf(entity.key),
    "spore.status": status,
    "spore.attempt": attempt,
  };
  const error = outcome?.kind === "error" ? { error: outcome.error.message } : {};
  const times = { startMs: createdAtMs, endMs: closedAtMs ?? sink.nowMs };
  sink.traced({ ...trace, ...times, ...error, name: `run ${name}`, kind: "internal", attributes });
}

/** Closes the run: tells waiters and children, and drops what it doesn't need any more. */
export function close(entity: Entity, sink: Sink, asked: Status, given: Outcome): void {
  const head = headOf(entity);
  // A run that is canceled by its deadline has failed of it.
  const isLate = head.isOverdue === true && asked === "CANCELED";
  const status = isLate ? "FAILED" : asked;
  const outcome = isLate ? failed(timeoutError()) : given;
  setStatus(head, status);
  forgetTimes(entity, sink);
  head.startAtMs = undefined;
  head.outcome = outcome;
  head.closedAtMs = Math.max(sink.nowMs, head.lastNowMs);
  retain(entity, sink, head.closedAtMs);
  head.waitingFor = undefined;
  addHostEvent(entity, sink, closeEvents[status] ?? "run.closed", eventData(outcome));
  endSpan(entity, sink);
  if (status === "FAILED" && outcome.kind === "error") {
    const { name, message, stack = "" } = outcome.error;
    sink.log(entity, "warn", `run failed: ${name}: ${message}\n${stack}`.trimEnd());
  }
  keep(entity, sink);
  leaveQueues(entity, sink);
  refuseUpdates(entity, sink);
  if (status !== "FAILED") forgetResumePoint(head);
  if (head.resumeVersion === undefined) forgetEvents(entity, sink);
  if (head.resumeVersion !== undefined) {
    // Memory, pending commands and their results stay, for `resume`.
  } else if (head.queries.length > 0) {
    for (const id of [...entity.pending.keys()]) removePending(entity, sink, id);
  } else {
    forgetMemory(entity, sink);
  }
  for (const { index, replyTo: to } of entity.watchers) {
    sink.changes.delete(rowKeys.watcher(entity.key, index));
    answer(sink, to, outcomeForOthers(entity));
  }
  entity.watchers = [];
  closeChildren(entity, sink);
  sink.changes.touch(entity);
  sink.notify(entity);
}

/** Updates that no code will see or bring to an end any more get their answer. */
function refuseUpdates(entity: Entity, sink: Sink): void {
  const refused = entity.inputs.filter(({ input }) => input.kind === "update");
  entity.inputs = entity.inputs.filter(({ input }) => input.kind !== "update");
  for (const { index } of refused) sink.changes.delete(rowKeys.input(entity.key, index));
  const outcome = failed(
    hostError("run-closed", `run ${nameOf(entity.key)} ended before the update was handled`),
  );
  for (const { callId, isUpdate, isAccepted } of [...entity.calls.values()]) {
    if (isUpdate === true || isAccepted === true) answerUpdate(entity, sink, callId, outcome);
  }
}

/** Once: whoever asks again gets the first outcome. */
function answerUpdate(entity: Entity, sink: Sink, callId: string, outcome: Outcome): void {
  if (entity.calls.get(callId)?.outcome !== undefined) return;
  rememberCall(entity, sink, callId, outcome);
  sink.replied(entity, callId, outcome);
}

function timeoutError(): ErrorValue {
  return {
    name: "TimeoutError",
    message: overdue,
    code: "timeout",
    class: "timeout",
    retryable: false,
  };
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

/**
 * The guest brought its instance down. Its memory before that is in the journal, so the
 * activation is taken back and delivered again with one step at a time; the step that does
 * it again is told that it failed (PROTOCOL part 1, `stepFault`). Any other code that does it
 * ends the run.
 */
export function survive(entity: Entity, sink: Sink, error: ErrorValue): void {
  const head = headOf(entity);
  const { careful, nextStep } = head;
  const inputs = takeBackActivation(entity, sink);
  head.nextStep = undefined;
  if (careful === "find" || (careful === "one" && nextStep === undefined)) {
    forgetResumePoint(head);
    close(entity, sink, "FAILED", failed(error));
    return;
  }
  head.careful = "find";
  const fault =
    careful === "one" && nextStep !== undefined
      ? [{ kind: "stepFault", step: nextStep, error } as const]
      : [];
  // The step that failed must be the one that begins: it may, and fails at once.
  if (fault.length > 0) head.careful = "one";
  pushInputsFirst(entity, sink, [...fault, ...inputs]);
  addHostEvent(entity, sink, "run.fault", {
    error,
    ...(nextStep === undefined ? {} : { step: nextStep }),
  });
}

/** The host can't go on with this run (not the run's own fault); an operator or a resume can. */
export function suspend(entity: Entity, sink: Sink, error: ErrorValue): void {
  const head = headOf(entity);
  if (head.status !== "RUNNING" && head.status !== "PAUSED") return;
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
  head.nextStep = drained.nextStep;
  if (head.careful !== undefined) head.careful = nextCare(drained);
  // The one activation after a resume point either fails the run of that step, or the run
  // has handled the failure and goes on: then there is nothing to go back to.
  const failsOfStep = head.resumeVersion === head.version - 1 && isFailure(drained);
  if (!failsOfStep) forgetResumePoint(head);
  if (drained.progress !== undefined) keepProgress(head, drained.progress);
  if (drained.waitingFor !== head.waitingFor) {
    head.waitingFor = drained.waitingFor;
    head.waitingSinceMs = head.lastNowMs;
  }
  for (const command of drained.commands) {
    // What the run is no longer there to do; who waits for an update is still answered.
    if (isClosed(head.status) && command.kind !== "reply") continue;
    if (failsOfStep && command.kind === "drop") continue;
    applyCommand(entity, sink, command);
  }
  if (drained.resumePoint !== undefined) {
    head.resumeVersion = head.version;
    head.resumeStep = drained.resumePoint;
    head.resumeHistory = head.nextHistory;
    // Behind its own commands: a rewind takes back those of the activation after it only.
    head.resumeCommand = head.lastCommand;
  }
  if (drained.state === "yielded" && !isClosed(head.status)) {
    // At a resume point nothing else may be in the activation that a rewind takes back: what
    // it would record would be recorded twice.
    if (drained.resumePoint !== undefined) pushInputsFirst(entity, sink, [{ kind: "continue" }]);
    else pushInput(entity, sink, { kind: "continue" });
  }
  if (drained.records.length > 0 || drained.commands.length > 0) sink.notify(entity);
}

/** In every view of the run, so it has to be small; the SDK refuses what is larger. */
const progressBytesMax = 16 * 1024;

function keepProgress(head: RunHead, progress: NonNullable<Drained["progress"]>): void {
  const { step, value } = progress;
  if (value.length > progressBytesMax) return;
  head.progress = { step, atMs: head.lastNowMs, value };
}

/** What follows from a step runs apart from the step after it. */
function nextCare(drained: Drained): RunHead["careful"] {
  if (drained.state !== "yielded") return undefined;
  return drained.nextStep === undefined ? "find" : "one";
}

function isFailure(drained: Drained): boolean {
  return drained.commands.some(
    (command) => command.kind === "complete" && command.outcome.kind === "error",
  );
}

function applyCommand(entity: Entity, sink: Sink, command: Command): void {
  switch (command.kind) {
    case "reply":
      answerUpdate(entity, sink, command.id, command.outcome);
      return;
    case "accept":
      markAccepted(entity, sink, command.updateId);
      sink.replied(entity, acceptanceOf(command.updateId), ok(undefined));
      return;
    case "complete":
      complete(entity, sink, command.outcome);
      return;
    case "continueAsNew":
      continueAsNew(entity, sink, command.args);
      return;
    case "publish": {
      const { key: name, value } = command;
      keepPublished(entity, sink, { head: headOf(entity), name, value });
      return;
    }
    case "tags":
      mergeTags(entity, sink, command.tags);
      return;
    case "state":
    case "turned":
    case "remind":
    case "forgetReminder":
      complete(entity, sink, failed(hostError("guest-trap", `a run can't send ${command.kind}`)));
      return;
    default:
      applyCommon(entity, sink, command);
  }
}

function complete(entity: Entity, sink: Sink, outcome: Outcome): void {
  if (outcome.kind === "ok") close(entity, sink, "SUCCESSFUL", outcome);
  else if (outcome.error.class === "cancelled") close(entity, sink, "CANCELED", outcome);
  else close(entity, sink, "FAILED", outcome);
}

function continueAsNew(entity: Entity, sink: Sink, args: Encoded): void {
  const head = headOf(entity);
  const seed = head.inputHash.slice(0, 16);
  // What this life has accepted and not seen belongs to the next one (I4).
  returnSignals(entity, sink, () => true);
  const inherited = entity.inputs.map(({ input }) => input).filter(isInherited);
  returnEvents(entity, sink, () => true);
  forgetMemory(entity, sink);
  beginNewPast(entity);
  head.progress = undefined;
  head.attempt += 1;
  head.queries = [];
  head.updates = [];
  addHostEvent(entity, sink, "run.continued", { attempt: head.attempt });
  seed[0] = (seed[0] ?? 0) ^ (head.attempt & 0xff);
  beginLife(entity, sink, seed, { args });
  for (const input of inherited) pushInput(entity, sink, input);
}

function isInherited(input: Input): boolean {
  return input.kind === "update" || input.kind === "cancel";
}

function mergeTags(
  entity: Entity,
  sink: Sink,
  change: Readonly<Record<string, string | undefined>>,
): void {
  const head = headOf(entity);
  head.tags = mergedTags(head.tags, change);
  sink.changes.touch(entity);
}

export function mergedTags(
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
