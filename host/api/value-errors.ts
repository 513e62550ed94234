/** Errors within users' values (an output, a step's pair, an answer): their stacks, for people. */
import { hide } from "../../guest/cbor.ts";
import type { Encoded } from "../../guest/protocol.ts";
import type { SourceMapper } from "../source-maps.ts";
import { encodeCbor, shownValue } from "../values.ts";

/** How every error begins in CBOR (PROTOCOL 1.3): the text "Error". */
const mark = [0x65, 0x45, 0x72, 0x72, 0x6f, 0x72] as const;

/** False where there surely is none: most values need no second look. */
export function mayHoldError(encoded: Encoded): boolean {
  for (let at = encoded.indexOf(mark[0]); at >= 0; at = encoded.indexOf(mark[0], at + 1)) {
    if (mark.every((byte, index) => encoded[at + index] === byte)) return true;
  }
  return false;
}

/** The value with the stacks of all errors in it at their author's lines. */
export function explainErrors(encoded: Encoded, mapper: SourceMapper): Encoded {
  if (!mayHoldError(encoded)) return encoded;
  const value = shownValue(encoded);
  if (value === encoded) return encoded; // it is no item
  explain(value, mapper);
  return encodeCbor(value);
}

/** The value is a decoder's: a tree, not deeper than that allows. */
function explain(value: unknown, mapper: SourceMapper): void {
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return;
  if (value instanceof Error) {
    if (typeof value.stack === "string") {
      hide(value, "stack", mapper.explain(value.stack, value.name).stack);
    }
    explain(value.cause, mapper);
    explain((value as Partial<AggregateError>).errors, mapper);
  }
  const parts = value instanceof Map ? [...value].flat() : value instanceof Set ? [...value] : [];
  for (const part of [...parts, ...Object.values(value)]) explain(part, mapper);
}
