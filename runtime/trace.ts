/**
 * Places in a distributed trace, as text in the form of W3C's `traceparent`:
 * `00-<trace>-<span>-<flags>`. A run keeps its own for life, so whichever host goes on with
 * it adds to the same trace. Only sampled places are ever handed in.
 */
import { toHex } from "./ids.ts";

const form = /^00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})$/;
const spanBytes = 8;

/** A new place below another; undefined if that isn't one. */
export function placeBelow(parent: string, random: Uint8Array): string | undefined {
  const found = form.exec(parent);
  if (found === null) return undefined;
  return `00-${found[1]}-${toHex(random.subarray(0, spanBytes))}-${found[2]}`;
}

/** The place of a new run below its starter's, if that is traced. */
export function spanBelow(
  parent: string | undefined,
  place: { seed(): Uint8Array },
): string | undefined {
  return parent === undefined ? undefined : placeBelow(parent, place.seed());
}
