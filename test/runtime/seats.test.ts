/** What becomes of a partition that is opened when nobody waits for it (seats.ts, `openAgain`). */
import { expect, test } from "vitest";
import { SporeError } from "../../runtime/errors.ts";
import type { Partition } from "../../runtime/partition.ts";
import { Seats } from "../../runtime/seats.ts";

/** Seats whose partitions open as is said, one after the other. */
function seatsOf(...openings: (() => Promise<void>)[]) {
  const timers: { readonly ms: number; readonly run: () => void }[] = [];
  const moved: string[] = [];
  const errors: [string, unknown][] = [];
  const levels: string[] = [];
  const seats = new Seats({
    partitions: 1,
    create: (index) => {
      const open = openings.shift() ?? (() => Promise.resolve());
      const stop = (): Promise<void> => Promise.resolve();
      // As much of a partition as seats ask for here.
      const settleEffects = (): Promise<void> => Promise.resolve();
      const interrupt = (): void => undefined;
      return { index, open, stop, settleEffects, interrupt } as unknown as Partition;
    },
    clock: {
      nowMs: () => 0,
      after: (ms, run) => {
        const timer = { ms, run };
        timers.push(timer);
        return () => void timers.splice(timers.indexOf(timer), 1);
      },
    },
    observer: {
      log: (level, message, fields) => {
        if (level === "error") errors.push([message, fields["code"]]);
        else levels.push(`${level}: ${message}`);
      },
      count: () => undefined,
      observe: () => undefined,
    },
    onMoved: (index, error) => moved.push(`${index}: ${error.code}`),
    onSealed: () => undefined,
  });
  return { seats, timers, moved, errors, levels };
}

const isMoved = new SporeError("partition-moved", "partition 0 was claimed by another host");

test("a partition that another host took first is lost, and not tried again", async () => {
  const { seats, timers, moved, errors, levels } = seatsOf(() => Promise.reject(isMoved));
  await seats.openAgain(0);
  expect(moved).toEqual(["0: partition-moved"]);
  expect([errors, levels]).toEqual([[], [`info: ${isMoved.message}`]]);
  expect(timers).toEqual([]);
});

test("a partition that is taken from this host is worth a warning, unless it was leaving", async () => {
  const { seats, moved, errors, levels } = seatsOf();
  await seats.open(0);
  seats.lost(seats.partition(0), isMoved);
  const closing = seats.close(0);
  seats.lost(seats.partition(0), isMoved);
  await closing;
  expect(moved).toEqual(["0: partition-moved", "0: partition-moved"]);
  expect(levels).toEqual([`warn: ${isMoved.message}`, `info: ${isMoved.message}`]);
  expect(errors).toEqual([]);
});

test("a fault of ours is tried again until it opens", async () => {
  let opened = 0;
  const fails = (): Promise<void> => Promise.reject(new Error("a fault"));
  const opens = (): Promise<void> => {
    opened += 1;
    return Promise.resolve();
  };
  const { seats, timers, moved } = seatsOf(fails, fails, opens);
  await seats.openAgain(0);
  for (let tries = 0; tries < 2; tries += 1) {
    timers.shift()?.run();
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  expect([opened, timers.length, moved]).toEqual([1, 0, []]);
});

test("a partition that is let go while it opens is nobody's loss", async () => {
  const opening = Promise.withResolvers<void>();
  const { seats, timers, moved, errors } = seatsOf(() => opening.promise);
  const opened = seats.openAgain(0);
  await seats.close(0);
  opening.reject(new SporeError("host-stopping", "the host is stopping"));
  await opened;
  expect([moved, errors, timers]).toEqual([[], [], []]);
  expect(seats.has(0)).toBe(false);
});
