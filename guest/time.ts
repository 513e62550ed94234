/** Durations as people write them: `"30 days"`, `"2h"`, `"1.5 s"`, or a number of milliseconds. */

const unitMs: Readonly<Record<string, number>> = {
  ms: 1,
  millisecond: 1,
  milliseconds: 1,
  s: 1000,
  sec: 1000,
  second: 1000,
  seconds: 1000,
  m: 60_000,
  min: 60_000,
  minute: 60_000,
  minutes: 60_000,
  h: 3_600_000,
  hour: 3_600_000,
  hours: 3_600_000,
  d: 86_400_000,
  day: 86_400_000,
  days: 86_400_000,
  w: 604_800_000,
  week: 604_800_000,
  weeks: 604_800_000,
};

export type DurationUnit =
  | "ms"
  | "millisecond"
  | "milliseconds"
  | "s"
  | "sec"
  | "second"
  | "seconds"
  | "m"
  | "min"
  | "minute"
  | "minutes"
  | "h"
  | "hour"
  | "hours"
  | "d"
  | "day"
  | "days"
  | "w"
  | "week"
  | "weeks";

/** Milliseconds, or a number and a unit. */
export type Duration = number | `${number}${DurationUnit}` | `${number} ${DurationUnit}`;

/** The last instant that a date can express. */
export const instantMsMax = 8.64e15;

const pattern = /^(\d+(?:\.\d+)?|\.\d+) ?([a-z]+)$/;

/** Whole milliseconds, rounded up so that nothing comes early. Throws RangeError. */
export function durationMs(duration: Duration, what = "duration"): number {
  const ms = typeof duration === "string" ? parse(duration) : duration;
  if (typeof ms !== "number" || !(ms >= 0 && ms <= instantMsMax)) {
    throw new RangeError(
      `${what} ${JSON.stringify(duration) ?? typeof duration} is not a duration: give ` +
        'milliseconds, or a number and a unit such as "250 ms", "1.5 s", "10 min", "2h" or "30 days"',
    );
  }
  return Math.ceil(ms);
}

function parse(text: string): number {
  const match = pattern.exec(text.trim().toLowerCase());
  if (match === null) return Number.NaN;
  const unit = match[2] ?? "";
  const ms = Object.hasOwn(unitMs, unit) ? (unitMs[unit] ?? Number.NaN) : Number.NaN;
  // Not Math.ceil of a product like 1.1 * 1000 = 1100.0000000000002.
  return Math.round(Number(match[1]) * ms * 1e6) / 1e6;
}
