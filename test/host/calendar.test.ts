/** Cron around the days on which clocks change. */
import { describe, expect, it } from "vitest";
import { calendar } from "../../host/calendar.ts";

function times(cron: string, zone: string | undefined, after: string, count: number): string[] {
  const found: string[] = [];
  let atMs: number | undefined = Date.parse(after);
  for (let at = 0; at < count; at++) {
    atMs = calendar.next(cron, zone, atMs);
    if (atMs === undefined) break;
    found.push(new Date(atMs).toISOString().replace(":00.000Z", "Z"));
  }
  return found;
}

const berlin = "Europe/Berlin";
const newYork = "America/New_York";

describe("a time that is skipped when clocks go forward", () => {
  it("comes once, right after the gap", () => {
    expect(times("30 2 * * *", berlin, "2026-03-28T00:00:00Z", 3)).toEqual([
      "2026-03-28T01:30Z",
      "2026-03-29T01:00Z",
      "2026-03-30T00:30Z",
    ]);
    expect(times("30 2 * * *", newYork, "2026-03-07T00:00:00Z", 3)).toEqual([
      "2026-03-07T07:30Z",
      "2026-03-08T07:00Z",
      "2026-03-09T06:30Z",
    ]);
  });

  it("comes once also if several times are in the gap, or right after it", () => {
    expect(times("0,30 2 * * *", berlin, "2026-03-28T12:00:00Z", 2)).toEqual([
      "2026-03-29T01:00Z",
      "2026-03-30T00:00Z",
    ]);
    expect(times("0 2,3 * * *", newYork, "2026-03-07T12:00:00Z", 3)).toEqual([
      "2026-03-08T07:00Z",
      "2026-03-09T06:00Z",
      "2026-03-09T07:00Z",
    ]);
  });
});

describe("a time that is doubled when clocks go back", () => {
  it("comes once, in the first pass", () => {
    expect(times("30 2 * * *", berlin, "2026-10-24T00:00:00Z", 3)).toEqual([
      "2026-10-24T00:30Z",
      "2026-10-25T00:30Z",
      "2026-10-26T01:30Z",
    ]);
    expect(times("0,30 1 * * *", newYork, "2026-10-31T12:00:00Z", 3)).toEqual([
      "2026-11-01T05:00Z",
      "2026-11-01T05:30Z",
      "2026-11-02T06:00Z",
    ]);
  });

  it("doesn't come again for who asks in the second pass", () => {
    expect(times("*/20 2 * * *", berlin, "2026-10-25T01:10:00Z", 1)).toEqual(["2026-10-26T01:00Z"]);
    expect(times("*/20 2 * * *", berlin, "2026-10-25T00:30:00Z", 1)).toEqual(["2026-10-25T00:40Z"]);
  });
});

it("every real hour counts where the hour is *", () => {
  expect(times("0 * * * *", berlin, "2026-10-24T23:30:00Z", 4)).toEqual([
    "2026-10-25T00:00Z",
    "2026-10-25T01:00Z",
    "2026-10-25T02:00Z",
    "2026-10-25T03:00Z",
  ]);
  expect(times("*/30 * * * *", newYork, "2026-03-08T06:15:00Z", 3)).toEqual([
    "2026-03-08T06:30Z",
    "2026-03-08T07:00Z",
    "2026-03-08T07:30Z",
  ]);
});

it("without a zone times are UTC, and what never comes has none", () => {
  expect(times("@daily", undefined, "2026-03-29T00:00:00Z", 1)).toEqual(["2026-03-30T00:00Z"]);
  expect(times("0 0 30 2 *", berlin, "2026-03-29T00:00:00Z", 1)).toEqual([]);
});

it("a bad expression and an unknown zone are refused", () => {
  expect(() => calendar.next("every day", berlin, 0)).toThrowError(/cron "every day"/);
  expect(() => calendar.next("0 * * * *", "Nowhere/X", 0)).toThrowError(/Nowhere/);
});
