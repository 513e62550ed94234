/**
 * Pure transitions of one queue: who may run now, who waits, and what its limits are. A
 * queue is an entity without a machine; runs enter and leave it by messages, which come
 * exactly once, so its limits hold over all partitions and across crashes.
 *
 * Invariants:
 * - Q3 A run that goes on behind this queue is a running member: it becomes one in the
 *   transition that sends it its place, and stays one until its own `leave` came.
 * - Q4 Whoever may go is let go in the transition that made it possible, or the timer is set:
 *   nobody waits while there is room.
 */
import type { QueueLimits } from "../guest/protocol.ts";
import { assert, SporeError } from "./errors.ts";
import {
  encodeRow,
  type MemberRow,
  type Message,
  type QueueHead,
  rowKeys,
  systemTimers,
} from "./format.ts";
import { type EntityKey, nameOf } from "./ids.ts";
import { addSystemTimer, newMachine, removeSystemTimer } from "./machine.ts";
import { hostError } from "./outcomes.ts";
import type { Member, QueueMembers } from "./queue-members.ts";
import { type Entity, newEntity, type Sink } from "./state.ts";

/** The queue that every run of a tenant passes, children excepted, once it has limits. */
export const queueOfAll = "all";
/** Who waits and who runs, together: a bound on memory. */
export const membersMax = 1_000_000;
export const priorityMax = 1000;
export const queueKeyCharsMax = 200;
/** Let through in one transition; more follow in the next. */
const placesPerTransition = 500;
const countMax = 1_000_000_000;
const periodMsMax = 366 * 86_400_000;

type Enter = Extract<Message, { kind: "enter" }>;

// ---------------------------------------------------------------- limits

/** The limits if they are sound; throws what is wrong with them. They come from outside. */
export function checkLimits(given: QueueLimits): QueueLimits {
  const { concurrency, keyConcurrency, rate, maxPending } = given;
  checkCount("concurrency", concurrency, 1);
  checkCount("keyConcurrency", keyConcurrency, 1);
  checkCount("maxPending", maxPending, 0);
  checkCount("rate.limit", rate?.limit, 1);
  checkCount("rate.burst", rate?.burst, 1);
  if (rate !== undefined && !isWithin(rate.periodMs, 1, periodMsMax)) {
    throw new SporeError("invalid-request", `rate.periodMs is 1 to ${periodMsMax}`);
  }
  return {
    ...(concurrency === undefined ? {} : { concurrency }),
    ...(keyConcurrency === undefined ? {} : { keyConcurrency }),
    ...(maxPending === undefined ? {} : { maxPending }),
    ...(rate === undefined
      ? {}
      : { rate: { limit: rate.limit, periodMs: rate.periodMs, burst: rate.burst ?? 1 } }),
  };
}

function checkCount(what: string, value: number | undefined, min: number): void {
  if (value === undefined || isWithin(value, min, countMax)) return;
  throw new SporeError("invalid-request", `${what} is a whole number from ${min} on`);
}

function isWithin(value: unknown, min: number, max: number): boolean {
  return Number.isInteger(value) && Number(value) >= min && Number(value) <= max;
}

/** The limits that hold: a client's come before those of the code. */
export function limitsOf(entity: Entity): QueueLimits {
  const { given, declared } = queueHead(entity);
  return given ?? declared ?? {};
}

// ---------------------------------------------------------------- made and changed

export function createQueue(key: EntityKey, sink: Sink): Entity {
  const head: QueueHead = {
    ...newMachine("", sink.nowMs),
    kind: "queue",
    createdAtMs: sink.nowMs,
    updatedAtMs: sink.nowMs,
    nextOrder: 1,
    rateAtMs: 0,
    admitted: 0,
    nextCall: 1,
  };
  const entity = newEntity(key, head, sink.nowMs);
  sink.changes.touch(entity);
  return entity;
}

/** Who has a place keeps it; who may go now does. */
export function changeLimits(
  entity: Entity,
  sink: Sink,
  change: Pick<QueueHead, "declared"> | Pick<QueueHead, "given">,
): void {
  const head = queueHead(entity);
  Object.assign(head, change);
  head.updatedAtMs = sink.nowMs;
  membersOf(entity).offerAll();
  letThrough(entity, sink);
  sink.notify(entity);
}

/** Whether nothing would be lost with it. */
export function isDisposable(entity: Entity): boolean {
  const { running, waiting } = membersOf(entity);
  return queueHead(entity).declared === undefined && running + waiting === 0;
}

// ---------------------------------------------------------------- runs come and go

export function enter(entity: Entity, sink: Sink, message: Enter): void {
  const head = queueHead(entity);
  const members = membersOf(entity);
  const name = nameOf(entity.key);
  if (members.running + members.waiting >= membersMax) {
    refuse(sink, message, new SporeError("queue-full", `queue ${name} has ${membersMax} runs`));
    return;
  }
  const { run, ticket, priority, key } = message;
  const member = members.add({
    run,
    ticket,
    priority,
    order: head.nextOrder++,
    sinceMs: sink.nowMs,
    isRunning: false,
    ...(key === undefined ? {} : { key }),
  });
  stage(entity, sink, member);
  letThrough(entity, sink);
  if (member.isRunning || !message.mayRefuse) return;
  const { maxPending = Number.POSITIVE_INFINITY } = limitsOf(entity);
  if (members.waiting <= maxPending) {
    sink.send({ kind: "place", to: run, queue: name, ticket, place: "waits" });
    return;
  }
  drop(entity, sink, member);
  refuse(
    sink,
    message,
    new SporeError("queue-full", `queue ${name} is full: ${members.waiting} runs wait`),
  );
}

function drop(entity: Entity, sink: Sink, member: Member): void {
  membersOf(entity).remove(member);
  sink.changes.delete(rowKeys.member(entity.key, member.place));
  sink.changes.touch(entity);
}

/** A message of a run to a queue that isn't there. */
export function enterNowhere(sink: Sink, message: Enter): void {
  const queue = nameOf(message.to);
  if (queue === queueOfAll) {
    const { run, ticket } = message;
    sink.send({ kind: "place", to: run, queue, ticket, place: "given" });
    return;
  }
  refuse(
    sink,
    message,
    new SporeError("queue-not-found", `there is no queue ${queue}`, {
      hint: "Declare it in a workflow's options, or PUT /v1/queues/{name}.",
    }),
  );
}

function refuse(sink: Sink, { run, ticket, to }: Enter, { code, message }: SporeError): void {
  const error = { ...hostError(code, message), class: "limit" as const };
  sink.send({ kind: "place", to: run, queue: nameOf(to), ticket, place: "refused", error });
}

/** Of what this queue has never heard, or not any more, nothing is to be done. */
export function leave(
  entity: Entity,
  sink: Sink,
  { run, ticket }: { readonly run: EntityKey; readonly ticket: number },
): void {
  const members = membersOf(entity);
  const member = members.find(run);
  if (member === undefined || member.ticket !== ticket) return;
  drop(entity, sink, member);
  letThrough(entity, sink);
}

/** Its timer has come. */
export function tickQueue(entity: Entity, sink: Sink, atMs: number): void {
  const head = queueHead(entity);
  if (head.timerMs === atMs) head.timerMs = undefined;
  letThrough(entity, sink);
}

// ---------------------------------------------------------------- who may go

/** Q3, Q4 */
function letThrough(entity: Entity, sink: Sink): void {
  const head = queueHead(entity);
  const members = membersOf(entity);
  const { keyConcurrency, rate } = limitsOf(entity);
  head.lastNowMs = sink.nowMs;
  // Kept, or what it is cut down to would move with the time.
  if (rate !== undefined) head.rateAtMs = rateAt(head, rate, sink.nowMs);
  sink.changes.touch(entity);
  let wakeMs: number | undefined;
  for (let count = 0; ; count++) {
    const member = members.next(keyConcurrency);
    if (member === undefined) break;
    const room = roomOf(entity, sink.nowMs);
    if (room === 0) {
      wakeMs = rateWakeMs(entity, sink.nowMs);
      break;
    }
    if (count === placesPerTransition) {
      wakeMs = sink.nowMs;
      break;
    }
    members.take(member);
    head.admitted += 1;
    if (rate !== undefined) {
      const { limit, periodMs } = rate;
      head.rateAtMs = Math.max(sink.nowMs, head.rateAtMs) + periodMs / limit;
    }
    stage(entity, sink, member);
    const { run: to, ticket } = member;
    sink.send({ kind: "place", to, queue: nameOf(entity.key), ticket, place: "given" });
  }
  arm(entity, sink, wakeMs);
}

/** How many more may go now, as far as the whole queue's limits say. */
function roomOf(entity: Entity, nowMs: number): number {
  const { concurrency = Number.POSITIVE_INFINITY } = limitsOf(entity);
  if (membersOf(entity).running >= concurrency) return 0;
  const wakeMs = rateWakeMs(entity, nowMs);
  return wakeMs === undefined || wakeMs <= nowMs ? 1 : 0;
}

/** When the rate lets the next one go; undefined without a rate or without room for it. */
function rateWakeMs(entity: Entity, nowMs: number): number | undefined {
  const { rate, concurrency = Number.POSITIVE_INFINITY } = limitsOf(entity);
  if (rate === undefined || membersOf(entity).running >= concurrency) return undefined;
  const { limit, periodMs, burst = 1 } = rate;
  return Math.ceil(rateAt(queueHead(entity), rate, nowMs) - ((burst - 1) * periodMs) / limit);
}

/** A clock that was set back, or another rate, must not make everybody wait for long. */
function rateAt(
  { rateAtMs }: QueueHead,
  { limit, periodMs, burst = 1 }: NonNullable<QueueLimits["rate"]>,
  nowMs: number,
): number {
  return Math.min(rateAtMs, nowMs + (burst * periodMs) / limit);
}

function arm(entity: Entity, sink: Sink, atMs: number | undefined): void {
  const head = queueHead(entity);
  if (head.timerMs === atMs) return;
  disarmQueue(entity, sink);
  if (atMs === undefined) return;
  head.timerMs = atMs;
  addSystemTimer(entity, sink, systemTimers.queue, atMs);
}

export function disarmQueue(entity: Entity, sink: Sink): void {
  const head = queueHead(entity);
  if (head.timerMs === undefined) return;
  removeSystemTimer(entity, sink, systemTimers.queue, head.timerMs);
  head.timerMs = undefined;
}

function stage(entity: Entity, sink: Sink, member: Member): void {
  const { place, isGone: _volatile, ...row } = member;
  sink.changes.put(rowKeys.member(entity.key, place), () =>
    encodeRow({ ...row, isRunning: member.isRunning } satisfies MemberRow),
  );
  sink.changes.touch(entity);
}

// ---------------------------------------------------------------- what is said of it

/** What a run that isn't let through waits for, in one sentence; undefined if it isn't here. */
export function explainWait(entity: Entity, run: EntityKey): string | undefined {
  const members = membersOf(entity);
  const member = members.find(run);
  if (member === undefined || member.isRunning) return undefined;
  const { concurrency, keyConcurrency, rate } = limitsOf(entity);
  const { running } = members;
  const ahead = members.before(member);
  const place = ahead === 0 ? "it is next" : `${ahead} wait before it`;
  const { key } = member;
  if (key !== undefined && keyConcurrency !== undefined) {
    const busy = members.runningWith(key);
    if (busy >= keyConcurrency) {
      return `a place in queue ${nameOf(entity.key)} for key ${key}: ${busy} of ${keyConcurrency} run, ${place}`;
    }
  }
  const name = `a place in queue ${nameOf(entity.key)}`;
  if (concurrency !== undefined && running >= concurrency) {
    return `${name}: ${running} of ${concurrency} run, ${place}`;
  }
  if (rate !== undefined) {
    return `${name}: ${rate.limit} may begin in ${rate.periodMs} ms, ${place}`;
  }
  return `${name}: ${place}`;
}

export function queueHead(entity: Entity): QueueHead {
  assert(entity.head.kind === "queue", `${entity.key} is a queue`);
  return entity.head;
}

export function membersOf(entity: Entity): QueueMembers {
  assert(entity.members !== undefined, `${entity.key} has members`);
  return entity.members;
}
