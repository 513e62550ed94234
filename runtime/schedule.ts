/**
 * Pure transitions of one schedule: which slots are due, which of them become runs now,
 * later or never, and what is known of the runs that it started.
 *
 * A slot is a nominal time of the recurrence. The id of its run follows from schedule and
 * slot, so a slot has at most one run whatever happens in between.
 *
 * Invariants:
 * - C1 The cursor passes a slot in the same transition that starts it, queues it or counts
 *   it as skipped or missed: none is lost, none is taken twice.
 * - C2 Runs are started in `tick` only, which is given the component; whatever else makes
 *   one possible arms the timer.
 * - C3 A run counts as running until its watcher was told of its own end.
 */
import { encode } from "../guest/cbor.ts";
import type { Outcome } from "../guest/protocol.ts";
import { assert, SporeError } from "./errors.ts";
import {
  type Backfill,
  type Overlap,
  rowKeys,
  type ScheduledItem,
  type ScheduleHead,
  type ScheduleSpec,
  systemTimers,
} from "./format.ts";
import { type EntityKey, nameOf, runKey, tenantOf } from "./ids.ts";
import { addSystemTimer, newMachine, rememberCall, removeSystemTimer, replyTo } from "./machine.ts";
import { type Entity, newEntity, type Sink } from "./state.ts";

/** Slots that wait for an earlier run, at most; later ones are skipped. */
export const waitingMax = 1000;
/** Runs of one schedule that go on at a time. */
export const runningMax = 1000;
/** No timer is on time to the millisecond: by so much a slot is late and not missed. */
const lateMsMax = 10_000;
/** Slots taken in one transition; more are taken in the next. */
export const slotsPerTick = 100;
/** Missed slots of a cron expression that are counted one by one. */
const missedCountMax = 500;
const recentMax = 10;
const noteMax = 500;

type NextCron = Sink["nextCron"];

// ---------------------------------------------------------------- the recurrence

/** The first slot after a time; undefined if there is none. */
export function nextSlot(
  spec: ScheduleSpec,
  afterMs: number,
  nextCron: NextCron,
): number | undefined {
  const fromMs = spec.startMs === undefined ? afterMs : Math.max(afterMs, spec.startMs - 1);
  const slotMs =
    spec.cron !== undefined ? nextCron(spec.cron, spec.zone, fromMs) : nextInterval(spec, fromMs);
  if (slotMs === undefined || (spec.endMs !== undefined && slotMs > spec.endMs)) return undefined;
  return slotMs;
}

function nextInterval({ everyMs, offsetMs = 0 }: ScheduleSpec, afterMs: number): number {
  assert(everyMs !== undefined && everyMs > 0, "a schedule has a cron expression or an interval");
  return (Math.floor((afterMs - offsetMs) / everyMs) + 1) * everyMs + offsetMs;
}

/** When a slot is run: the same on every host, however often it is asked. */
export function dueOf(key: EntityKey, spec: ScheduleSpec, slotMs: number): number {
  const jitterMs = spec.jitterMs ?? 0;
  if (jitterMs <= 0) return slotMs;
  let hash = 0x811c9dc5;
  for (const character of `${key}|${slotMs}`) {
    hash = Math.imul(hash ^ character.charCodeAt(0), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  return slotMs + (((hash ^ (hash >>> 13)) >>> 0) % (jitterMs + 1));
}

/** `20261121T090000Z`, with thousandths where there are some. */
export function slotName(slotMs: number): string {
  return new Date(slotMs)
    .toISOString()
    .replaceAll(/[-:]|\.000/g, "")
    .replace(".", "");
}

/** Slots from a time on, both ends included, at most `max`. */
export function slotsBetween(
  spec: ScheduleSpec,
  range: { readonly fromMs: number; readonly toMs: number; readonly max: number },
  nextCron: NextCron,
): number[] {
  const slots: number[] = [];
  let slotMs = nextSlot(spec, range.fromMs - 1, nextCron);
  while (slotMs !== undefined && slotMs <= range.toMs && slots.length < range.max) {
    slots.push(slotMs);
    slotMs = nextSlot(spec, slotMs, nextCron);
  }
  return slots;
}

/** The next times at which a schedule that isn't paused will run. */
export function nextDue(entity: Entity, count: number, nextCron: NextCron): number[] {
  const head = scheduleHead(entity);
  const due: number[] = [];
  let slotMs = nextSlot(head.spec, head.cursorMs, nextCron);
  const left = Math.min(count, slotsLeft(head));
  while (slotMs !== undefined && due.length < left) {
    due.push(dueOf(entity.key, head.spec, slotMs));
    slotMs = nextSlot(head.spec, slotMs, nextCron);
  }
  return due;
}

// ---------------------------------------------------------------- made and changed

export interface NewSchedule {
  readonly spec: ScheduleSpec;
  /** Encoded array of the workflow's arguments. */
  readonly args?: Uint8Array | undefined;
  /** What runs take until a newer component is known. */
  readonly component: string;
  readonly remaining?: number | undefined;
  readonly isPaused?: boolean | undefined;
  readonly note?: string | undefined;
}

export function createSchedule(key: EntityKey, made: NewSchedule, sink: Sink): Entity {
  const head: ScheduleHead = {
    ...newMachine(made.component, sink.nowMs),
    kind: "schedule",
    createdAtMs: sink.nowMs,
    updatedAtMs: sink.nowMs,
    spec: made.spec,
    cursorMs: sink.nowMs,
    isPaused: made.isPaused === true,
    note: made.note,
    remaining: made.remaining,
    running: [],
    waiting: [],
    backfills: [],
    recent: [],
    started: 0,
    skipped: 0,
    missed: 0,
    lastTriggerMs: 0,
    nextWatch: 1,
    nextCall: 1,
  };
  const entity = newEntity(key, head, sink.nowMs);
  setArgs(entity, sink, made.args);
  arm(entity, sink);
  return entity;
}

/** Another recurrence from now on; what was begun under the old one goes on. */
export function changeSchedule(entity: Entity, sink: Sink, made: NewSchedule): void {
  const head = scheduleHead(entity);
  head.spec = made.spec;
  head.component = made.component;
  head.remaining = made.remaining;
  head.isPaused = made.isPaused === true;
  head.note = made.note;
  head.updatedAtMs = sink.nowMs;
  head.cursorMs = Math.max(head.cursorMs, sink.nowMs);
  setArgs(entity, sink, made.args);
  arm(entity, sink);
}

function setArgs(entity: Entity, sink: Sink, args: Uint8Array | undefined): void {
  entity.state = args ?? encode([]);
  sink.changes.put(rowKeys.state(entity.key), entity.state);
}

/** No slot begins until resumed; triggers and backfills do. */
export function pauseSchedule(entity: Entity, sink: Sink, note: string | undefined): void {
  const head = scheduleHead(entity);
  head.isPaused = true;
  head.note = note?.slice(0, noteMax);
  arm(entity, sink);
}

/** Slots that passed in the pause are none of its business any more. */
export function resumeSchedule(entity: Entity, sink: Sink, note: string | undefined): void {
  const head = scheduleHead(entity);
  if (head.isPaused) head.cursorMs = Math.max(head.cursorMs, sink.nowMs);
  head.isPaused = false;
  head.note = note?.slice(0, noteMax);
  arm(entity, sink);
}

/** One run now, beside the slots. The same trigger id does nothing the second time. */
export function triggerSchedule(
  entity: Entity,
  sink: Sink,
  asked: { readonly overlap?: Overlap | undefined; readonly triggerId?: string | undefined },
): { readonly duplicate: boolean } {
  const head = scheduleHead(entity);
  const { triggerId, overlap = head.spec.overlap } = asked;
  if (triggerId !== undefined) {
    if (entity.calls.has(triggerId)) return { duplicate: true };
    rememberCall(entity, sink, triggerId, undefined);
  }
  head.lastTriggerMs = Math.max(sink.nowMs, head.lastTriggerMs + 1);
  take(entity, sink, { slotMs: head.lastTriggerMs, cause: "trigger", overlap });
  arm(entity, sink);
  return { duplicate: false };
}

/** Slots of the past, oldest first; those that had their run already have none again. */
export function backfillSchedule(entity: Entity, sink: Sink, backfill: Backfill): void {
  const head = scheduleHead(entity);
  if (head.backfills.length >= backfillsMax) {
    throw new SporeError(
      "too-many-messages",
      `schedule ${nameOf(entity.key)} has ${backfillsMax} backfills under way`,
      { hint: "Wait for one of them." },
    );
  }
  head.backfills = [...head.backfills, backfill];
  arm(entity, sink);
}

const backfillsMax = 10;

// ---------------------------------------------------------------- time

/** Whether a timer of the partition's heap is the one that the schedule waits for. */
export function isArmedFor(entity: Entity, atMs: number): boolean {
  return scheduleHead(entity).timerMs === atMs;
}

/** Takes what is due, starts what may start, and sets the next timer (C1, C2). */
export function tick(entity: Entity, sink: Sink, component: string | undefined): void {
  const head = scheduleHead(entity);
  head.component = head.spec.component ?? component ?? head.component;
  // What waits comes before what is due only now.
  startWaiting(entity, sink);
  let left = slotsPerTick;
  if (takesSlots(head)) {
    if (!skipMissed(entity, sink)) left = 0;
    for (; left > 0 && takesSlots(head); left--) {
      const slotMs = nextSlot(head.spec, head.cursorMs, sink.nextCron);
      if (slotMs === undefined || dueOf(entity.key, head.spec, slotMs) > sink.nowMs) break;
      head.cursorMs = slotMs;
      take(entity, sink, { slotMs, cause: "slot", overlap: head.spec.overlap });
      startWaiting(entity, sink);
    }
  }
  takeBackfills(entity, sink, left);
  arm(entity, sink);
  sink.notify(entity);
}

function takesSlots(head: ScheduleHead): boolean {
  return !head.isPaused && slotsLeft(head) > 0;
}

/** Slots that may still be taken: those that wait are as good as started. */
function slotsLeft({ remaining, waiting }: ScheduleHead): number {
  if (remaining === undefined) return Number.POSITIVE_INFINITY;
  return remaining - waiting.filter(({ cause }) => cause === "slot").length;
}

/**
 * Slots that nobody was there for, longer ago than the window: counted, not run. False if there may
 * be more of them, for the next tick.
 */
function skipMissed(entity: Entity, sink: Sink): boolean {
  const head = scheduleHead(entity);
  const { spec } = head;
  const untilMs = sink.nowMs - Math.max(spec.catchUpMs, lateMsMax);
  if (spec.everyMs !== undefined) {
    const first = nextSlot(spec, head.cursorMs, sink.nextCron);
    // Up to here no jitter brings a slot into the window.
    const surelyMs = Math.min(untilMs - (spec.jitterMs ?? 0), spec.endMs ?? untilMs);
    if (first !== undefined && first < surelyMs) {
      const count = Math.floor((surelyMs - 1 - first) / spec.everyMs);
      head.missed += count;
      if (count > 0) head.cursorMs = first + (count - 1) * spec.everyMs;
    }
  }
  for (let count = 0; count <= missedCountMax * 2; count++) {
    const slotMs = nextSlot(spec, head.cursorMs, sink.nextCron);
    if (slotMs === undefined || dueOf(entity.key, spec, slotMs) >= untilMs) return true;
    // Never back over slots that were counted: within the jitter they come one by one.
    const surelyMs = count < missedCountMax ? slotMs : untilMs - (spec.jitterMs ?? 0) - 1;
    head.cursorMs = Math.max(slotMs, surelyMs);
    head.missed += 1;
  }
  return false;
}

function takeBackfills(entity: Entity, sink: Sink, budget: number): void {
  const head = scheduleHead(entity);
  let left = budget;
  while (left > 0) {
    const [backfill] = head.backfills;
    if (backfill === undefined || !hasRoom(head, backfill)) return;
    const slotMs = nextSlot(head.spec, backfill.nextMs - 1, sink.nextCron);
    if (slotMs === undefined || slotMs > backfill.toMs) {
      head.backfills = head.backfills.slice(1);
      continue;
    }
    head.backfills = [{ ...backfill, nextMs: slotMs + 1 }, ...head.backfills.slice(1)];
    take(entity, sink, { slotMs, cause: "backfill", overlap: backfill.overlap });
    startWaiting(entity, sink);
    left -= 1;
  }
}

/** What would only wait is left in the range, however long that is. */
function hasRoom(head: ScheduleHead, { overlap }: Backfill): boolean {
  if (overlap === "allow-all") return head.running.length < runningMax;
  if (overlap === "buffer-all") return head.running.length === 0 && head.waiting.length === 0;
  return true;
}

/** Sets the one timer: now if something can begin, else when the next slot is due. */
function arm(entity: Entity, sink: Sink): void {
  const head = scheduleHead(entity);
  disarm(entity, sink);
  sink.changes.touch(entity);
  const [backfill] = head.backfills;
  const canBegin =
    head.waiting.some((item) => mayStart(head, item)) ||
    (backfill !== undefined && hasRoom(head, backfill));
  let atMs = canBegin ? sink.nowMs : undefined;
  if (atMs === undefined && takesSlots(head)) {
    const slotMs = nextSlot(head.spec, head.cursorMs, sink.nextCron);
    // One that is due already was left over by a full tick.
    if (slotMs !== undefined) atMs = Math.max(sink.nowMs, dueOf(entity.key, head.spec, slotMs));
  }
  if (atMs === undefined) return;
  head.timerMs = Math.floor(atMs);
  addSystemTimer(entity, sink, systemTimers.schedule, head.timerMs);
}

export function disarm(entity: Entity, sink: Sink): void {
  const head = scheduleHead(entity);
  if (head.timerMs === undefined) return;
  removeSystemTimer(entity, sink, systemTimers.schedule, head.timerMs);
  head.timerMs = undefined;
}

// ---------------------------------------------------------------- overlap

/** Decides what becomes of a slot: it waits for its start, or is skipped. */
function take(entity: Entity, sink: Sink, item: ScheduledItem): void {
  const head = scheduleHead(entity);
  const isBusy = head.running.length > 0 || head.waiting.length > 0;
  switch (item.overlap) {
    case "skip":
      if (isBusy) head.skipped += 1;
      else wait(head, item);
      return;
    case "buffer-one":
      if (head.waiting.length > 0) head.skipped += 1;
      else wait(head, item);
      return;
    case "cancel-other":
    case "terminate-other": {
      const kept = head.waiting.filter((other) => other.overlap !== item.overlap);
      head.skipped += head.waiting.length - kept.length;
      head.waiting = kept;
      endRunning(entity, sink, item.overlap === "terminate-other");
      wait(head, item);
      return;
    }
    default:
      wait(head, item);
  }
}

function wait(head: ScheduleHead, item: ScheduledItem): void {
  if (head.waiting.length >= waitingMax) head.skipped += 1;
  else head.waiting = [...head.waiting, item];
}

function endRunning(entity: Entity, sink: Sink, isTermination: boolean): void {
  const head = scheduleHead(entity);
  const id = nameOf(entity.key);
  head.running = head.running.map((run) => {
    if (run.isEnding === true) return run;
    sink.send({
      kind: "cancel",
      to: runKey(tenantOf(entity.key), run.runId),
      reason: `the next run of schedule ${id} is due`,
      isTermination,
    });
    return { ...run, isEnding: true };
  });
}

function mayStart(head: ScheduleHead, item: ScheduledItem): boolean {
  if (item.cause === "slot" && (head.isPaused || head.remaining === 0)) return false;
  if (item.overlap === "allow-all") return head.running.length < runningMax;
  return head.running.length === 0;
}

function startWaiting(entity: Entity, sink: Sink): void {
  const head = scheduleHead(entity);
  if (head.remaining === 0) {
    const kept = head.waiting.filter((item) => item.cause !== "slot");
    head.skipped += head.waiting.length - kept.length;
    head.waiting = kept;
  }
  for (;;) {
    const at = head.waiting.findIndex((item) => mayStart(head, item));
    const item = head.waiting[at];
    if (item === undefined) return;
    head.waiting = head.waiting.toSpliced(at, 1);
    start(entity, sink, item);
  }
}

// ---------------------------------------------------------------- runs

const marks = { slot: "", trigger: ".trigger", backfill: "" } as const;

export function scheduledRunId(schedule: string, item: ScheduledItem): string {
  return `${schedule}.${slotName(item.slotMs)}${marks[item.cause]}`;
}

/** The start leaves by the outbox, and with it the wish to know the end. */
function start(entity: Entity, sink: Sink, item: ScheduledItem): void {
  const head = scheduleHead(entity);
  const schedule = nameOf(entity.key);
  const runId = scheduledRunId(schedule, item);
  const to = runKey(tenantOf(entity.key), runId);
  const { slotMs, cause } = item;
  const { queue, metadata, timeLimitMs, retentionMs } = head.spec;
  if (cause === "slot" && head.remaining !== undefined) head.remaining -= 1;
  const watch = head.nextWatch++;
  head.started += 1;
  head.running = [...head.running, { runId, watch, slotMs, cause }];
  // A slot that is run once more has the run that it has.
  const others = head.recent.filter((each) => each.runId !== runId);
  head.recent = [...others.slice(1 - recentMax), { runId, slotMs, cause, startedAtMs: sink.nowMs }];
  sink.send({
    kind: "start",
    to,
    watcher: replyTo(entity, watch),
    start: {
      name: head.spec.workflow,
      args: entity.state,
      component: head.component,
      options: {
        tags: { ...head.spec.tags, schedule, cause },
        queue,
        metadata,
        retentionMs,
        ...(timeLimitMs === undefined ? {} : { deadlineMs: sink.nowMs + timeLimitMs }),
      },
    },
  });
  sink.changes.touch(entity);
}

/** What the run's watcher is told: a run of this schedule has closed (C3). */
export function hearOutcome(entity: Entity, sink: Sink, watch: number, outcome: Outcome): void {
  const head = scheduleHead(entity);
  const run = head.running.find((each) => each.watch === watch);
  if (run === undefined) return;
  head.running = head.running.filter((each) => each !== run);
  const result = resultOf(outcome);
  head.recent = head.recent.map((each) =>
    each.runId === run.runId ? { ...each, result, closedAtMs: sink.nowMs } : each,
  );
  if (result === "failed" && head.spec.pauseOnFailure === true && !head.isPaused) {
    const message = outcome.kind === "error" ? outcome.error.message : "";
    pauseSchedule(entity, sink, `paused because ${message}`);
  }
  arm(entity, sink);
  sink.notify(entity);
}

function resultOf(outcome: Outcome): "succeeded" | "failed" | "canceled" {
  if (outcome.kind === "ok") return "succeeded";
  // One that isn't there any more was deleted: nothing that it did speaks against the next.
  const { class: cause, code } = outcome.error;
  return cause === "cancelled" || code === "run-not-found" ? "canceled" : "failed";
}

export function scheduleHead(entity: Entity): ScheduleHead {
  assert(entity.head.kind === "schedule", `${entity.key} is a schedule`);
  return entity.head;
}
