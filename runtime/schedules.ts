/**
 * A tenant's schedules by their ids: checks what is asked, runs the transition in the
 * schedule's partition and shows what is known of it.
 */
import { encode } from "../guest/cbor.ts";
import { ask } from "./asking.ts";
import { SporeError } from "./errors.ts";
import { type Overlap, rowKeys } from "./format.ts";
import { checkId, type EntityKey, nameOf, scheduleKey } from "./ids.ts";
import type {
  BackfillRequest,
  BackfillResult,
  ListSchedulesRequest,
  ListSchedulesResult,
  ScheduleRequest,
  ScheduleView,
} from "./index.ts";
import { pageLimit } from "./listing.ts";
import type { Partition } from "./partition.ts";
import type { Ports } from "./ports.ts";
import {
  backfillSchedule,
  changeSchedule,
  createSchedule,
  type NewSchedule,
  nextDue,
  pauseSchedule,
  resumeSchedule,
  scheduleHead,
  slotsBetween,
  triggerSchedule,
} from "./schedule.ts";
import type { Entity, Sink } from "./state.ts";

/** Slots of one backfill. */
export const backfillSlotsMax = 1000;
/** A run's id is that of its schedule and the time: there has to be room. */
export const scheduleIdMax = 160;
const everyMsMin = 1000;
const spanMsMax = 366 * 86_400_000;
const nextShown = 5;

export interface SchedulesParts {
  readonly tenant: string;
  readonly ports: Ports;
  readonly partition: (key: EntityKey) => Partition;
  /** Id of the component that has the workflow. Throws workflow-not-found. */
  readonly componentOf: (workflow: string, component: string | undefined) => Promise<string>;
}

export class Schedules {
  readonly #parts: SchedulesParts;

  constructor(parts: SchedulesParts) {
    this.#parts = parts;
  }

  async create(id: string, request: ScheduleRequest): Promise<ScheduleView> {
    const { created, schedule } = await this.#put(id, request, (found) => {
      if (found === undefined) return;
      throw new SporeError("schedule-exists", `schedule ${nameOf(found.key)} exists`, {
        hint: "Replace it: PUT, or spore schedule create --replace.",
      });
    });
    return created ? schedule : this.get(schedule.id);
  }

  put(
    id: string,
    request: ScheduleRequest,
  ): Promise<{ readonly created: boolean; readonly schedule: ScheduleView }> {
    return this.#put(id, request, () => undefined);
  }

  async #put(
    id: string,
    request: ScheduleRequest,
    check: (found: Entity | undefined) => void,
  ): Promise<{ readonly created: boolean; readonly schedule: ScheduleView }> {
    const key = this.#key(id);
    const made = await this.#checked(request);
    const partition = this.#parts.partition(key);
    const result = await ask(partition, key, (found, sink) => {
      check(found);
      if (found !== undefined) {
        changeSchedule(found, sink, made);
        return { created: false, schedule: viewOf(found, sink) };
      }
      const entity = createSchedule(key, made, sink);
      partition.add(entity);
      return { created: true, schedule: viewOf(entity, sink) };
    });
    await partition.durable();
    return result;
  }

  async #checked(request: ScheduleRequest): Promise<NewSchedule> {
    const { args, remaining, isPaused, note, ...spec } = request;
    const { calendar, clock } = this.#parts.ports;
    const problem = problemOf(request);
    if (problem !== undefined) throw new SporeError("invalid-request", problem);
    // Throws what is wrong with the expression or the zone.
    if (spec.cron !== undefined) calendar.next(spec.cron, spec.zone, clock.nowMs());
    const component = await this.#parts.componentOf(spec.workflow, spec.component);
    return { spec, args, remaining, isPaused, note, component };
  }

  get(id: string): Promise<ScheduleView> {
    return this.#on(id, viewOf);
  }

  async list(
    partitions: readonly Partition[],
    request: ListSchedulesRequest,
  ): Promise<ListSchedulesResult> {
    const { tenant } = this.#parts;
    const limit = pageLimit(request);
    const prefix = rowKeys.listedSchedules(tenant);
    const after =
      request.cursor === undefined ? {} : { after: prefix + checkId(request.cursor, "cursor") };
    await Promise.all(partitions.map((partition) => partition.durable()));
    const pages = await Promise.all(
      partitions.map((partition) => partition.scan(prefix, { limit, ...after })),
    );
    const ids = pages
      .flatMap((page) => page.entries.map(([key]) => key.slice(prefix.length)))
      .sort();
    const shown = ids.slice(0, limit);
    const views = await Promise.all(shown.map((id) => this.get(id).catch(absentIfMissing)));
    const schedules = views.filter((view) => view !== undefined);
    const isMore = ids.length > limit || pages.some((page) => !page.isDone);
    const cursor = shown.at(-1);
    return isMore && cursor !== undefined ? { schedules, cursor } : { schedules };
  }

  async delete(id: string): Promise<void> {
    const key = this.#key(id);
    await this.#parts.partition(key).delete(key, (schedule) => {
      if (schedule === undefined) throw notFound(id);
    });
  }

  pause(id: string, note: string | undefined): Promise<ScheduleView> {
    return this.#on(id, (schedule, sink) => {
      pauseSchedule(schedule, sink, note);
      return viewOf(schedule, sink);
    });
  }

  resume(id: string, note: string | undefined): Promise<ScheduleView> {
    return this.#on(id, (schedule, sink) => {
      resumeSchedule(schedule, sink, note);
      return viewOf(schedule, sink);
    });
  }

  trigger(
    id: string,
    options: { readonly overlap?: Overlap; readonly triggerId?: string },
  ): Promise<{ readonly duplicate: boolean; readonly schedule: ScheduleView }> {
    return this.#on(id, (schedule, sink) => {
      const { duplicate } = triggerSchedule(schedule, sink, options);
      return { duplicate, schedule: viewOf(schedule, sink) };
    });
  }

  backfill(id: string, request: BackfillRequest): Promise<BackfillResult> {
    const { fromMs, toMs, overlap = "buffer-all", isPreview } = request;
    return this.#on(id, (schedule, sink) => {
      if (fromMs > toMs || toMs > sink.nowMs) {
        throw new SporeError("invalid-request", "a backfill is of times from the past, in order");
      }
      const range = { fromMs, toMs, max: backfillSlotsMax + 1 };
      const slots = slotsBetween(scheduleHead(schedule).spec, range, sink.nextCron);
      if (slots.length > backfillSlotsMax) {
        throw new SporeError("invalid-request", `more than ${backfillSlotsMax} slots lie there`, {
          hint: "Backfill shorter ranges, one after the other.",
        });
      }
      if (isPreview !== true && slots.length > 0) {
        backfillSchedule(schedule, sink, { nextMs: fromMs, toMs, overlap });
      }
      return { slots: slots.length, firstMs: slots[0], lastMs: slots.at(-1) };
    });
  }

  async #on<T>(id: string, act: (schedule: Entity, sink: Sink) => T): Promise<T> {
    const key = this.#key(id);
    const partition = this.#parts.partition(key);
    const result = await ask(partition, key, (schedule, sink) => {
      if (schedule === undefined) throw notFound(id);
      return act(schedule, sink);
    });
    await partition.durable();
    return result;
  }

  #key(id: string): EntityKey {
    return keyOfSchedule(this.#parts.tenant, id);
  }
}

/** Throws invalid-id. */
export function keyOfSchedule(tenant: string, id: string): EntityKey {
  if (checkId(id, "schedule id").length > scheduleIdMax) {
    throw new SporeError("invalid-id", `a schedule id has at most ${scheduleIdMax} characters`);
  }
  return scheduleKey(tenant, id);
}

/** What is wrong with a request, in one sentence. */
function problemOf(request: ScheduleRequest): string | undefined {
  const { cron, zone, everyMs, offsetMs, startMs, endMs, jitterMs = 0, catchUpMs } = request;
  if ((cron === undefined) === (everyMs === undefined)) return "give either cron or everyMs";
  if (zone !== undefined && cron === undefined) return "a zone belongs to a cron expression";
  if (offsetMs !== undefined && everyMs === undefined) return "an offset belongs to everyMs";
  if (everyMs !== undefined && !isWithin(everyMs, everyMsMin, spanMsMax)) {
    return `everyMs is ${everyMsMin} to ${spanMsMax}`;
  }
  if (offsetMs !== undefined && !isWithin(offsetMs, 0, (everyMs ?? 0) - 1)) {
    return "an offset is less than everyMs";
  }
  if (startMs !== undefined && endMs !== undefined && startMs > endMs) {
    return "the end comes before the start";
  }
  if (!isWithin(jitterMs, 0, spanMsMax)) return `jitterMs is 0 to ${spanMsMax}`;
  if (!isWithin(catchUpMs, 0, spanMsMax)) return `catchUpMs is 0 to ${spanMsMax}`;
  const { timeLimitMs = 1, retentionMs = 0 } = request;
  if (!isWithin(timeLimitMs, 1, spanMsMax)) return `timeLimitMs is 1 to ${spanMsMax}`;
  if (!isWithin(retentionMs, 0, spanMsMax)) return `retentionMs is 0 to ${spanMsMax}`;
  return undefined;
}

function isWithin(value: number, min: number, max: number): boolean {
  return Number.isInteger(value) && value >= min && value <= max;
}

function viewOf(schedule: Entity, sink: Sink): ScheduleView {
  const head = scheduleHead(schedule);
  return {
    id: nameOf(schedule.key),
    spec: head.spec,
    args: schedule.state ?? encode([]),
    isPaused: head.isPaused,
    note: head.note,
    remaining: head.remaining,
    createdAtMs: head.createdAtMs,
    updatedAtMs: head.updatedAtMs,
    nextAtMs: head.isPaused ? [] : nextDue(schedule, nextShown, sink.nextCron),
    running: head.running.map(({ runId }) => runId),
    waiting: head.waiting.length,
    backfills: head.backfills.length,
    runs: head.recent.toReversed(),
    started: head.started,
    skipped: head.skipped,
    missed: head.missed,
  };
}

function notFound(id: string): SporeError {
  return new SporeError("schedule-not-found", `there is no schedule ${id}`);
}

/** Deleted since it was listed. */
function absentIfMissing(error: unknown): undefined {
  if (error instanceof SporeError && error.kind === "missing") return undefined;
  throw error;
}
