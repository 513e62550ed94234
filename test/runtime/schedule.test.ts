/** The transitions of one schedule, without a partition: slots in, messages out. */
import { describe, expect, it } from "vitest";
import { calendar } from "../../host/calendar.ts";
import type { Message, Overlap, ScheduleSpec } from "../../runtime/format.ts";
import { scheduleKey } from "../../runtime/ids.ts";
import { failed, hostError, ok } from "../../runtime/outcomes.ts";
import {
  backfillSchedule,
  changeSchedule,
  createSchedule,
  dueOf,
  hearOutcome,
  isArmedFor,
  nextDue,
  nextSlot,
  pauseSchedule,
  resumeSchedule,
  scheduleHead,
  slotName,
  slotsPerTick,
  tick,
  triggerSchedule,
  waitingMax,
} from "../../runtime/schedule.ts";
import { Changes, type Entity, type Sink } from "../../runtime/state.ts";

const minute = 60_000;
const begin = Date.parse("2026-11-21T09:00:00Z");
const key = scheduleKey("acme", "s1");

/** A schedule in a world that consists of a clock and an outbox. */
function bench(given: Partial<ScheduleSpec> = {}, extra: { remaining?: number } = {}) {
  let nowMs = begin;
  const sent: Message[] = [];
  const sink = (): Sink => ({
    changes: new Changes(1),
    nowMs,
    retentionMs: undefined,
    send: (message) => void sent.push(message),
    perform: () => undefined,
    setTimer: () => undefined,
    notify: () => undefined,
    replied: () => undefined,
    actorDefinition: () => undefined,
    successorOf: () => undefined,
    nextCron: (cron, zone, afterMs) => calendar.next(cron, zone, afterMs),
    log: () => undefined,
    traced: () => undefined,
  });
  const recurrence = given.cron === undefined ? { everyMs: minute } : {};
  const spec: ScheduleSpec = {
    workflow: "report",
    overlap: "skip",
    catchUpMs: 60 * minute,
    ...recurrence,
    ...given,
  };
  const schedule: Entity = createSchedule(key, { spec, component: "c1", ...extra }, sink());
  const head = scheduleHead(schedule);
  return {
    schedule,
    head,
    spec,
    sent,
    sink,
    /** Lets time pass, firing the timer whenever it is due. */
    advance(ms: number): void {
      const untilMs = nowMs + ms;
      while (head.timerMs !== undefined && head.timerMs <= untilMs) {
        nowMs = Math.max(nowMs, head.timerMs);
        tick(schedule, sink(), "c1");
      }
      nowMs = untilMs;
    },
    /** Time passes and no host is there. */
    sleep(ms: number): void {
      nowMs += ms;
    },
    starts: () => sent.flatMap((each) => (each.kind === "start" ? [each.to.slice(7)] : [])),
    cancels: () => sent.flatMap((each) => (each.kind === "cancel" ? [each] : [])),
    close(outcome = ok(null)): void {
      const [run] = head.running;
      if (run === undefined) throw new Error("nothing is running");
      hearOutcome(schedule, sink(), run.watch, outcome);
    },
  };
}

const slot = (minutes: number): string => `s1.${slotName(begin + minutes * minute)}`;

describe("slots", () => {
  it("of an interval are multiples since the epoch plus the offset, within start and end", () => {
    const spec = bench({ everyMs: 7000, offsetMs: 500 }).spec;
    const never = () => undefined;
    expect(nextSlot(spec, 0, never)).toBe(500);
    expect(nextSlot(spec, 500, never)).toBe(7500);
    expect(nextSlot({ ...spec, startMs: 7500 }, 0, never)).toBe(7500);
    expect(nextSlot({ ...spec, endMs: 7499 }, 500, never)).toBeUndefined();
  });

  it("give the run its id", () => {
    expect(slotName(begin)).toBe("20261121T090000Z");
    expect(slotName(begin + 7)).toBe("20261121T090000007Z");
  });

  it("have a jitter that is always the same and never too large", () => {
    const { spec } = bench({ jitterMs: 5000 });
    const jitters = Array.from({ length: 50 }, (_, at) => dueOf(key, spec, at * 1000) - at * 1000);
    expect(jitters).toEqual(jitters.map((_, at) => dueOf(key, spec, at * 1000) - at * 1000));
    expect(Math.min(...jitters)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...jitters)).toBeLessThanOrEqual(5000);
    expect(new Set(jitters).size).toBeGreaterThan(40);
  });

  it("are run at their time, each once, each start with its watcher", () => {
    const { advance, close, sent, starts, head } = bench();
    for (let at = 0; at < 3; at++) {
      advance(minute);
      close();
    }
    expect(starts()).toEqual([slot(1), slot(2), slot(3)]);
    expect(sent.map(({ kind }) => kind)).toEqual(Array(3).fill("start"));
    expect(head).toMatchObject({ started: 3, skipped: 0, missed: 0 });
    expect(head.recent.map(({ result }) => result)).toEqual(Array(3).fill("succeeded"));
  });

  it("that were missed by the thousand are each counted once at most, and not run", () => {
    const { sleep, advance, close, starts, head } = bench({
      cron: "* * * * * *",
      jitterMs: 600_000,
      catchUpMs: 0,
      overlap: "skip",
      endMs: begin + 2_000_000,
    });
    sleep(2_300_000);
    advance(400_000);
    const taken = head.started + head.skipped;
    // One by one: 500, and the last 310 in whose jitter the window may begin.
    expect(head.missed + taken).toBeLessThan(820);
    expect(taken).toBeLessThan(600); // their jitter brings those into the window
    expect(starts().length).toBeGreaterThan(0);
    close();
  });

  it("are no more than may remain", () => {
    const { advance, starts, head } = bench({ overlap: "allow-all" }, { remaining: 2 });
    advance(10 * minute);
    expect(starts()).toEqual([slot(1), slot(2)]);
    expect([head.remaining, head.timerMs]).toEqual([0, undefined]);
  });

  it("that wait count as those that remain", () => {
    const { advance, close, starts, head } = bench({ overlap: "buffer-all" }, { remaining: 3 });
    advance(10 * minute);
    expect([starts().length, head.waiting.length, head.timerMs]).toEqual([1, 2, undefined]);
    for (let at = 0; at < 3; at++) {
      close();
      advance(0);
    }
    expect([starts().length, head.waiting.length, head.skipped]).toEqual([3, 0, 0]);
  });

  it("are shown with their jitter", () => {
    const { schedule, spec, sink } = bench({
      cron: "0 9 * * *",
      zone: "Europe/Berlin",
      jitterMs: 9,
    });
    const first = Date.parse("2026-11-22T08:00:00Z");
    expect(nextDue(schedule, 2, sink().nextCron)).toEqual([
      dueOf(key, spec, first),
      dueOf(key, spec, first + 86_400_000),
    ]);
  });
});

describe("an earlier run that goes on", () => {
  function overlapped(overlap: Overlap) {
    const made = bench({ overlap });
    made.advance(4 * minute);
    return made;
  }

  it("makes slots be skipped", () => {
    const { starts, head, close, advance } = overlapped("skip");
    expect([starts(), head.skipped]).toEqual([[slot(1)], 3]);
    close();
    advance(minute);
    expect(starts()).toEqual([slot(1), slot(5)]);
  });

  it("keeps one slot waiting with buffer-one", () => {
    const { starts, head, close, advance } = overlapped("buffer-one");
    expect([starts(), head.waiting.length, head.skipped]).toEqual([[slot(1)], 1, 2]);
    close();
    advance(0);
    expect(starts()).toEqual([slot(1), slot(2)]);
  });

  it("keeps all slots waiting, in order, with buffer-all", () => {
    const { starts, close, advance } = overlapped("buffer-all");
    for (let at = 0; at < 3; at++) {
      close();
      advance(0);
    }
    expect(starts()).toEqual([slot(1), slot(2), slot(3), slot(4)]);
  });

  it("keeps no more than so many waiting", () => {
    const { head, advance } = bench({ overlap: "buffer-all", everyMs: 1000 });
    advance((waitingMax + 11) * 1000);
    expect([head.waiting.length, head.skipped]).toEqual([waitingMax, 10]);
  });

  it("is canceled, or terminated, and the newest slot follows when it has ended", () => {
    for (const [overlap, isTermination] of [
      ["cancel-other", false],
      ["terminate-other", true],
    ] as const) {
      const { starts, cancels, head, close, advance } = overlapped(overlap);
      expect(cancels().map((each) => [each.to, each.isTermination])).toEqual([
        [`acme/r/${slot(1)}`, isTermination],
      ]);
      expect([starts(), head.skipped]).toEqual([[slot(1)], 2]);
      close(failed({ ...hostError("child-failed", "canceled"), class: "cancelled" }));
      advance(0);
      expect(starts()).toEqual([slot(1), slot(4)]);
      expect(head.recent.map(({ result }) => result)).toEqual(["canceled", undefined]);
    }
  });

  it("doesn't matter with allow-all", () => {
    const { starts, head } = overlapped("allow-all");
    expect(starts()).toEqual([slot(1), slot(2), slot(3), slot(4)]);
    expect(head.running).toHaveLength(4);
  });
});

describe("after an absence", () => {
  it("slots within the window are run and older ones are counted", () => {
    const given = { overlap: "allow-all", catchUpMs: 5 * minute } as const;
    for (const recurrence of [{ everyMs: minute }, { cron: "* * * * *", zone: "UTC" }]) {
      const { starts, head, sleep, advance } = bench({ ...given, ...recurrence });
      sleep(20 * minute);
      advance(0);
      expect(starts()).toEqual([15, 16, 17, 18, 19, 20].map(slot));
      expect(head.missed).toBe(14);
    }
  });

  it("without a window a timer that is a little late misses nothing", () => {
    const given = { overlap: "allow-all", everyMs: minute, catchUpMs: 0 } as const;
    const { starts, head, sleep, advance } = bench(given);
    sleep(minute + 9000);
    advance(0);
    expect([starts(), head.missed]).toEqual([[slot(1)], 0]);
    sleep(2 * minute + 2000);
    advance(0);
    expect([starts(), head.missed]).toEqual([[slot(1)], 2]);
  });

  it("of a year it doesn't count for a year", () => {
    const { starts, head, sleep, advance } = bench({ cron: "* * * * * *", catchUpMs: 3000 });
    sleep(365 * 86_400_000);
    advance(0);
    expect(head.missed).toBeGreaterThanOrEqual(500);
    expect(starts()).toHaveLength(1);
    expect(head.cursorMs).toBe(begin + 365 * 86_400_000);
  });

  it("many slots are taken in many transitions", () => {
    const { starts, schedule, head, sink, sleep, advance } = bench({
      overlap: "allow-all",
      everyMs: 1000,
    });
    sleep(250_000);
    tick(schedule, sink(), "c1");
    expect(starts()).toHaveLength(slotsPerTick);
    expect(isArmedFor(schedule, begin + 250_000)).toBe(true);
    advance(0);
    expect(starts()).toHaveLength(250);
    expect(new Set(starts()).size).toBe(250);
    expect(head.missed).toBe(0);
  });
});

describe("a pause", () => {
  it("lets no slot begin, and what passes in it is not caught up", () => {
    const { schedule, starts, head, sink, advance } = bench();
    pauseSchedule(schedule, sink(), "lunch");
    advance(10 * minute);
    expect([starts(), head.note]).toEqual([[], "lunch"]);
    resumeSchedule(schedule, sink(), undefined);
    advance(minute);
    expect([starts(), head.missed, head.note]).toEqual([[slot(11)], 0, undefined]);
  });

  it("holds a slot that waited for a run that has ended meanwhile", () => {
    const { schedule, starts, sink, advance, close } = bench({ overlap: "buffer-one" });
    advance(2 * minute);
    pauseSchedule(schedule, sink(), undefined);
    close();
    advance(5 * minute);
    expect(starts()).toEqual([slot(1)]);
    resumeSchedule(schedule, sink(), undefined);
    advance(0);
    expect(starts()).toEqual([slot(1), slot(2)]);
  });

  it("doesn't hold triggers up", () => {
    const { schedule, starts, sink, advance } = bench();
    pauseSchedule(schedule, sink(), undefined);
    triggerSchedule(schedule, sink(), {});
    advance(0);
    expect(starts()).toEqual([`${slot(0)}.trigger`]);
  });

  it("follows a failure if that is wished, and says why", () => {
    const { starts, head, close, advance } = bench({ pauseOnFailure: true });
    advance(minute);
    close(failed(hostError("child-failed", "run s1.x failed: no paper")));
    expect([head.isPaused, head.note]).toEqual([true, "paused because run s1.x failed: no paper"]);
    advance(5 * minute);
    expect(starts()).toHaveLength(1);
    const patient = bench();
    patient.advance(minute);
    patient.close(failed(hostError("child-failed", "no paper")));
    expect(patient.head.isPaused).toBe(false);
  });
});

it("a trigger with one id happens once; two at one moment are two runs", () => {
  const { schedule, starts, sink, advance } = bench({ overlap: "allow-all" });
  expect(triggerSchedule(schedule, sink(), { triggerId: "t1" }).duplicate).toBe(false);
  expect(triggerSchedule(schedule, sink(), { triggerId: "t1" }).duplicate).toBe(true);
  triggerSchedule(schedule, sink(), {});
  advance(0);
  expect(starts()).toEqual([`${slot(0)}.trigger`, "s1.20261121T090000001Z.trigger"]);
});

it("a backfill runs the slots of the past by its own policy", () => {
  const { schedule, starts, head, sink, advance, close } = bench();
  const nextMs = begin - 3 * minute;
  backfillSchedule(schedule, sink(), { nextMs, toMs: begin, overlap: "buffer-all" });
  advance(0);
  expect(starts()).toEqual([slot(-3)]);
  for (let at = 0; at < 3; at++) {
    close();
    advance(0);
  }
  expect(starts()).toEqual([slot(-3), slot(-2), slot(-1), slot(0)]);
  close();
  advance(0);
  expect(head.backfills).toEqual([]);
  backfillSchedule(schedule, sink(), { nextMs, toMs: begin, overlap: "allow-all" });
  advance(0);
  expect(head.running).toHaveLength(4);
  // Each of them has the run that it had.
  const shown = head.recent.map(({ runId }) => runId);
  expect(shown).toEqual([slot(-3), slot(-2), slot(-1), slot(0)]);
});

it("a change holds from now on, and an old timer has no effect", () => {
  const { schedule, spec, starts, head, sink, advance } = bench();
  const before = head.timerMs ?? 0;
  changeSchedule(
    schedule,
    { ...sink(), nowMs: begin + 1 },
    { spec: { ...spec, everyMs: 5 * minute, workflow: "other" }, component: "c2" },
  );
  expect(isArmedFor(schedule, before)).toBe(false);
  advance(6 * minute);
  expect(starts()).toEqual([slot(5)]);
});

it("an answer that it doesn't wait for changes nothing", () => {
  const { schedule, head, sink, advance } = bench();
  advance(minute);
  hearOutcome(schedule, sink(), 77, ok(1));
  expect(head.running).toHaveLength(1);
});
