/**
 * The engine's Calendar: cron expressions with time zones, by croner. An expression with
 * fixed hours is read on the zone's wall clock: an hour that is skipped when clocks go
 * forward comes once, right after the gap, and one that is doubled when they go back comes
 * in its first pass only. With `*` for the hour every real hour counts.
 */
import { Cron } from "croner";
import { SporeError } from "../runtime/errors.ts";
import type { Calendar } from "../runtime/ports.ts";

export const calendar: Calendar = {
  next(cron, zone, afterMs) {
    try {
      if (zone === undefined || zone === "UTC") return nextOf(cron, "UTC", afterMs);
      wallClockOf(zone); // a bad zone is refused also where it isn't needed
      return isHourly(cron) ? nextOf(cron, zone, afterMs) : nextOnWall(cron, zone, afterMs);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      throw new SporeError("invalid-request", `cron ${JSON.stringify(cron)}: ${message}`, {
        hint: "Five or six fields: [second] minute hour day month weekday; zone is an IANA name.",
      });
    }
  },
};

function nextOf(cron: string, timezone: string, afterMs: number): number | undefined {
  return new Cron(cron, { timezone, paused: true }).nextRun(new Date(afterMs))?.getTime();
}

function isHourly(cron: string): boolean {
  const fields = cron.trim().split(/\s+/);
  if (fields.length === 1) return fields[0] === "@hourly";
  return fields[fields.length === 5 ? 1 : 2] === "*";
}

/** Wall-clock times are written as if they were UTC. */
function nextOnWall(cron: string, zone: string, afterMs: number): number | undefined {
  let wallMs = wallOf(zone, afterMs);
  for (;;) {
    const next = nextOf(cron, "UTC", wallMs);
    if (next === undefined) return undefined;
    const atMs = instantOf(zone, next);
    if (atMs > afterMs) return atMs;
    wallMs = next; // its first pass is over: this is the second
  }
}

const dayMs = 86_400_000;

/** The first moment that shows this time; for a time in a gap the moment after the gap. */
function instantOf(zone: string, wallMs: number): number {
  const offsets = [wallMs - dayMs, wallMs + dayMs].map((atMs) => wallOf(zone, atMs) - atMs);
  const moments = offsets.map((offset) => wallMs - offset).toSorted((one, other) => one - other);
  const shown = moments.find((atMs) => wallOf(zone, atMs) === wallMs);
  if (shown !== undefined) return shown;
  let [low = wallMs, high = wallMs] = moments;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (wallOf(zone, middle) >= wallMs) high = middle;
    else low = middle;
  }
  return high;
}

function wallOf(zone: string, atMs: number): number {
  const parts = wallClockOf(zone).formatToParts(atMs);
  const fields = new Map(parts.map(({ type, value }) => [type, Number(value)]));
  const [year = 0, month = 1, day = 1] = ["year", "month", "day"].map((name) =>
    fields.get(name as Intl.DateTimeFormatPartTypes),
  );
  const [hour, minute, second] = ["hour", "minute", "second"].map((name) =>
    fields.get(name as Intl.DateTimeFormatPartTypes),
  );
  const thousandths = ((atMs % 1000) + 1000) % 1000;
  return Date.UTC(year, month - 1, day, hour, minute, second, thousandths);
}

/** Zones come from tenants: names are few, but not what somebody may send. */
const wallClocksMax = 600;
const wallClocks = new Map<string, Intl.DateTimeFormat>();

function wallClockOf(timeZone: string): Intl.DateTimeFormat {
  const known = wallClocks.get(timeZone);
  if (known !== undefined) return known;
  const made = new Intl.DateTimeFormat("en-US", {
    timeZone,
    hourCycle: "h23",
    year: "numeric",
    month: "numeric",
    day: "numeric",
    hour: "numeric",
    minute: "numeric",
    second: "numeric",
  });
  if (wallClocks.size >= wallClocksMax) wallClocks.clear();
  wallClocks.set(timeZone, made);
  return made;
}
