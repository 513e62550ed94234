/**
 * Step records, quickly: a run of pure steps spends most of its time on them, and all but
 * id and value is the same from one to the next.
 */
import { encode, encodeSequence, Raw } from "./cbor.ts";
import type { ErrorValue, StepRecord } from "./protocol.ts";

/** What a record has besides step, name, event, time and attempt. */
export interface RecordParts {
  readonly value?: Uint8Array | undefined;
  readonly error?: ErrorValue;
  readonly nextAtMs?: number;
  readonly into?: string;
  readonly isOpen?: boolean;
  readonly isReused?: boolean;
}

export interface RecordHead {
  readonly event: StepRecord["event"];
  readonly nowMs: number;
  readonly name: string;
}

const valueKey = new Raw(encode("value"));
/** Maps of five and six entries: without and with a value. */
const mapOfFive = new Raw(Uint8Array.of(0xa5));
const mapOfSix = new Raw(Uint8Array.of(0xa6));

/** Names of steps are few; a run that makes them up doesn't fill its memory with heads. */
const headsMax = 64;
const started = new Map<string, Raw>();
const ended = new Map<string, Raw>();
let headsMs = 0;

/** The parts of the record of a first attempt that began or succeeded, with no more than a value. */
export function plainRecord(
  head: RecordHead,
  id: string,
  value: Uint8Array | undefined,
): readonly unknown[] {
  return value === undefined
    ? [mapOfFive, headOf(head), id]
    : [mapOfSix, valueKey, value, headOf(head), id];
}

/** Everything but value and id, kept as long as the time is the same. */
function headOf(head: RecordHead): Raw {
  const heads = head.event === "started" ? started : ended;
  if (head.nowMs !== headsMs || heads.size > headsMax) {
    started.clear();
    ended.clear();
    headsMs = head.nowMs;
  }
  let raw = heads.get(head.name);
  if (raw === undefined) {
    const entries = ["event", head.event, "atMs", head.nowMs, "name", head.name, "attempt", 1];
    raw = new Raw(encodeSequence([...entries, "step"]));
    heads.set(head.name, raw);
  }
  return raw;
}
