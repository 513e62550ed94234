/** The client's part for recurring workflows: `client.schedules`. */
import type { Invocation } from "../guest/define.ts";
import type { QueueOptions } from "./queues.ts";

/** What becomes of a slot whose predecessor's run still goes on. */
export type Overlap =
  | "skip"
  | "buffer-one"
  | "buffer-all"
  | "cancel-other"
  | "terminate-other"
  | "allow-all";

/** What is run, and when: one of `cron` and `everyMs`. */
export interface Schedule {
  /** `report.with("daily")`, or names only. */
  readonly run:
    | Invocation<unknown>
    | { readonly workflow: string; readonly args?: readonly unknown[] | undefined };
  /** `"0 9 * * MON-FRI"`; with a sixth field in front seconds. */
  readonly cron?: string | undefined;
  /** IANA name; default UTC. */
  readonly zone?: string | undefined;
  /** At least 1,000. Slots are multiples of it since 1970, plus `offsetMs`. */
  readonly everyMs?: number | undefined;
  readonly offsetMs?: number | undefined;
  /** No slot before this, none after the end. */
  readonly start?: Date | undefined;
  readonly end?: Date | undefined;
  /** Run each slot up to so much later; how much follows from the slot. */
  readonly jitterMs?: number | undefined;
  /** Default `skip`. */
  readonly overlap?: Overlap | undefined;
  /** Slots that passed while no host was there are run if they are no older. Default 1 h. */
  readonly catchUpMs?: number | undefined;
  readonly pauseOnFailure?: boolean | undefined;
  readonly tags?: Readonly<Record<string, string>> | undefined;
  /** Default: the current one at each start. */
  readonly component?: string | undefined;
  /** Which queue each run passes, and how; default: what the workflow's definition says. */
  readonly queue?: QueueOptions | undefined;
  readonly metadata?: unknown;
  /** A run that isn't closed so long after its start is canceled, and FAILED with a TimeoutError. */
  readonly timeLimitMs?: number | undefined;
  /** Runs are deleted so long after they have closed. Default: the host's. */
  readonly retentionMs?: number | undefined;
  /** Slots that may start a run; default all. */
  readonly remaining?: number | undefined;
  readonly paused?: boolean | undefined;
  readonly note?: string | undefined;
}

export interface ScheduledRunInfo {
  readonly id: string;
  readonly slot: string;
  readonly cause: "slot" | "trigger" | "backfill";
  readonly startedAt: string;
  readonly closedAt?: string;
  readonly result?: "succeeded" | "failed" | "canceled";
}

export interface ScheduleInfo {
  readonly id: string;
  readonly workflow: string;
  readonly args: readonly unknown[];
  readonly cron?: string;
  readonly zone?: string;
  readonly everyMs?: number;
  readonly offsetMs?: number;
  readonly start?: string;
  readonly end?: string;
  readonly jitterMs?: number;
  readonly overlap: Overlap;
  readonly catchUpMs: number;
  readonly pauseOnFailure?: boolean;
  readonly tags?: Readonly<Record<string, string>>;
  readonly component?: string;
  readonly queue?: QueueOptions;
  readonly metadata?: unknown;
  readonly timeLimitMs?: number;
  readonly retentionMs?: number;
  readonly paused: boolean;
  readonly note?: string;
  readonly remaining?: number;
  readonly createdAt: string;
  readonly updatedAt: string;
  /** When the next five slots are run; none while it is paused. */
  readonly next: readonly string[];
  /** Ids of runs that go on. */
  readonly running: readonly string[];
  /** Slots that wait for an earlier run to end. */
  readonly waiting: number;
  readonly backfills: number;
  /** The last ten, newest first. */
  readonly runs: readonly ScheduledRunInfo[];
  /** Slots and triggers that were begun, a slot that a backfill repeats each time. */
  readonly started: number;
  /** Given up because of an earlier run. */
  readonly skipped: number;
  /** Passed while no host was there, too long ago to catch up; at least so many. */
  readonly missed: number;
}

export interface SchedulePage {
  readonly schedules: readonly ScheduleInfo[];
  /** Present when there may be more. */
  readonly cursor?: string;
}

export interface BackfillRange {
  readonly from: Date;
  readonly to: Date;
  /** Default `buffer-all`: one after the other. */
  readonly overlap?: Overlap | undefined;
  /** Only say how many slots lie there. */
  readonly preview?: boolean | undefined;
}

export interface BackfillInfo {
  readonly slots: number;
  readonly first?: string;
  readonly last?: string;
}

export interface Schedules {
  /** Rejects with `schedule-exists`. */
  create(id: string, schedule: Schedule): Promise<ScheduleInfo>;
  /** Creates, or replaces what is run and when; runs that go on are left alone. */
  put(id: string, schedule: Schedule): Promise<ScheduleInfo & { readonly created: boolean }>;
  get(id: string): Promise<ScheduleInfo>;
  /** By id. */
  list(): AsyncIterable<ScheduleInfo>;
  /** Its runs go on. */
  delete(id: string): Promise<void>;
  /** No slot begins until resumed; triggers and backfills do. */
  pause(id: string, note?: string): Promise<ScheduleInfo>;
  /** Goes on with the next slot; those that passed in the pause are not run. */
  resume(id: string, note?: string): Promise<ScheduleInfo>;
  /** One run now. */
  trigger(id: string, options?: { readonly overlap?: Overlap }): Promise<ScheduleInfo>;
  /** Slots of the past, oldest first; those that had their run have none again. */
  backfill(id: string, range: BackfillRange): Promise<BackfillInfo>;
}

type Ask = <Result>(
  method: string,
  path: string,
  asked?: { readonly body?: object; readonly isRepeatable?: boolean },
) => Promise<Result>;

export function schedulesOver(ask: Ask, randomId: () => string): Schedules {
  const pathOf = (id: string): string => `/v1/schedules/${encodeURIComponent(id)}`;
  const control = <Result>(id: string, verb: string, body: object): Promise<Result> =>
    ask("POST", `${pathOf(id)}/control/${verb}`, { body });
  return {
    // Sent again, it would meet itself.
    create: (id, schedule) =>
      ask("POST", "/v1/schedules", { body: { id, ...bodyOf(schedule) }, isRepeatable: false }),
    put: (id, schedule) => ask("PUT", pathOf(id), { body: bodyOf(schedule) }),
    get: (id) => ask("GET", pathOf(id)),
    async *list() {
      let query = "?limit=1000";
      for (;;) {
        const page = await ask<SchedulePage>("GET", `/v1/schedules${query}`);
        yield* page.schedules;
        if (page.cursor === undefined) return;
        query = `?limit=1000&cursor=${encodeURIComponent(page.cursor)}`;
      }
    },
    delete: (id) => ask("DELETE", pathOf(id)),
    pause: (id, note) => control(id, "pause", present({ note })),
    resume: (id, note) => control(id, "resume", present({ note })),
    trigger: (id, { overlap } = {}) =>
      control(id, "trigger", present({ overlap, triggerId: randomId() })),
    backfill: (id, { from, to, overlap, preview }) =>
      control(
        id,
        "backfill",
        present({ from: from.toISOString(), to: to.toISOString(), overlap, preview }),
      ),
  };
}

function bodyOf({ run, start, end, ...rest }: Schedule): object {
  const what =
    "$workflow" in run
      ? { workflow: run.$workflow, args: run.args }
      : { workflow: run.workflow, args: run.args };
  return present({ ...what, start: start?.toISOString(), end: end?.toISOString(), ...rest });
}

function present(members: object): object {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
}
