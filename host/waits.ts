/** Durations as people write them in `?wait=` and on the command line. */

export const waitMsMax = 300_000;

const unitMs: Readonly<Record<string, number>> = {
  ms: 1,
  "": 1000,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** Milliseconds; undefined if it is no duration. A bare number is seconds. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d|)$/.exec(text.trim());
  const unit = unitMs[match?.[2] ?? "?"];
  if (match === null || unit === undefined) return undefined;
  return Math.round(Number(match[1]) * unit);
}

/** A `?wait=`: longer ones are cut to what a request may hang, callers ask again. */
export function parseWait(text: string): number | undefined {
  const durationMs = parseDuration(text);
  return durationMs === undefined ? undefined : Math.min(durationMs, waitMsMax);
}
