/**
 * Whether two components did the same in an activation, as far as it matters: what they asked
 * for, and what became of their steps. Where an error was thrown and what was logged doesn't.
 */
import { decode, encode } from "../guest/cbor.ts";
import type { Drained } from "../guest/protocol.ts";
import { readRecord } from "./drained.ts";

/** The first thing that isn't the same, in words for people. */
export interface Difference {
  readonly what: string;
  readonly before: string;
  readonly after: string;
}

const textCharsMax = 400;

export function firstDifference(before: Drained, after: Drained): Difference | undefined {
  const parts: readonly (readonly [string, readonly unknown[], readonly unknown[]])[] = [
    ["step record", recordsOf(before), recordsOf(after)],
    ["command", commandsOf(before), commandsOf(after)],
    ["state", [stateOf(before)], [stateOf(after)]],
  ];
  for (const [what, left, right] of parts) {
    for (let at = 0; at < Math.max(left.length, right.length); at++) {
      if (isSame(left[at], right[at])) continue;
      return { what: `${what} ${at}`, before: textOf(left[at]), after: textOf(right[at]) };
    }
  }
  return undefined;
}

function recordsOf({ records }: Drained): readonly unknown[] {
  return records.flatMap((bytes) => {
    const read = readRecord(bytes);
    if (read === undefined) return [undefined]; // forged: as good as any other
    const { value, began, args, ...record } = read;
    // The value of a caught error holds its stack.
    const kept = record.error === undefined && value !== undefined ? { value } : {};
    const last = withoutStacks({ ...record, ...kept });
    if (began !== true) return [last];
    // Other versions of the SDK tell a step's beginning in a record of its own.
    const first = { ...record, event: "started", ...(args === undefined ? {} : { value: args }) };
    return [first, last];
  });
}

function commandsOf({ commands }: Drained): readonly unknown[] {
  return commands.filter(({ kind }) => kind !== "log").map(withoutStacks);
}

function stateOf({ state, resumePoint, nextStep, handlers }: Drained): unknown {
  return { state, resumePoint, nextStep, handlers };
}

/** Errors by name, message and code; all else as it is. */
function withoutStacks(value: unknown): unknown {
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return value.map(withoutStacks);
  const fields = value as Readonly<Record<string, unknown>>;
  const { name, message, code, class: kind } = fields;
  if (typeof name === "string" && typeof message === "string") return { name, message, code, kind };
  return Object.fromEntries(
    Object.entries(fields).map(([key, each]) => [key, withoutStacks(each)]),
  );
}

function isSame(left: unknown, right: unknown): boolean {
  const [one, other] = [encode(left), encode(right)];
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

function textOf(value: unknown): string {
  if (value === undefined) return "nothing";
  const text = JSON.stringify(value, (_key, each: unknown) => {
    if (typeof each === "bigint") return String(each);
    return each instanceof Uint8Array ? shown(each) : each;
  });
  return text.length > textCharsMax ? `${text.slice(0, textCharsMax)}…` : text;
}

/** An encoded value, if it is one. */
function shown(bytes: Uint8Array): unknown {
  try {
    return decode(bytes);
  } catch {
    return `${bytes.length} bytes`;
  }
}
