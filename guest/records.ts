/**
 * Step records, quickly: a run of pure steps spends most of its time on them, and all but
 * id, arguments and value is the same from one to the next.
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
  readonly nowMs: number;
  readonly name: string;
}

interface Ran {
  readonly id: string;
  readonly args: Uint8Array | undefined;
  readonly value: Uint8Array | undefined;
}

const valueKey = new Raw(encode("value"));
const argsKey = new Raw(encode("args"));
const mapsOf = Array.from({ length: 9 }, (_, entries) => new Raw(Uint8Array.of(0xa0 | entries)));

/** The part that begins each map: what it is of, and how many entries there are. */
function mapOf(entries: number): Raw {
  return mapsOf[entries] as Raw; // of at most eight entries, below
}

/** The parts of the record of a first attempt that has begun. */
export function startedRecord(head: RecordHead, step: Omit<Ran, "value">): readonly unknown[] {
  const raw = started.of(head);
  return step.args === undefined
    ? [mapOf(5), raw, step.id]
    : [mapOf(6), valueKey, step.args, raw, step.id];
}

/** Of one that had begun before, and succeeded. */
export function succeededRecord(head: RecordHead, step: Omit<Ran, "args">): readonly unknown[] {
  const raw = succeeded.of(head);
  return step.value === undefined
    ? [mapOf(5), raw, step.id]
    : [mapOf(6), valueKey, step.value, raw, step.id];
}

/** Of one that has begun and succeeded at once. */
export function ranRecord(head: RecordHead, { id, args, value }: Ran): readonly unknown[] {
  const raw = ran.of(head);
  if (args !== undefined && value !== undefined) {
    return [mapOf(8), argsKey, args, valueKey, value, raw, id];
  }
  if (value !== undefined) return [mapOf(7), valueKey, value, raw, id];
  return args === undefined ? [mapOf(6), raw, id] : [mapOf(7), argsKey, args, raw, id];
}

/** Names of steps are few; a run that makes them up doesn't fill its memory with heads. */
const headsMax = 64;

/** Everything but id, arguments and value, kept as long as the time is the same. */
class Heads {
  readonly #entries: readonly unknown[];
  readonly #heads = new Map<string, Raw>();
  #nowMs = 0;

  constructor(entries: readonly unknown[]) {
    this.#entries = entries;
  }

  of({ nowMs, name }: RecordHead): Raw {
    if (nowMs !== this.#nowMs || this.#heads.size > headsMax) {
      this.#heads.clear();
      this.#nowMs = nowMs;
    }
    let raw = this.#heads.get(name);
    if (raw === undefined) {
      const entries = [...this.#entries, "atMs", nowMs, "name", name, "attempt", 1, "step"];
      raw = new Raw(encodeSequence(entries));
      this.#heads.set(name, raw);
    }
    return raw;
  }
}

function headsOf(event: StepRecord["event"], ...more: readonly unknown[]): Heads {
  return new Heads(["event", event, ...more]);
}

const started = headsOf("started");
const succeeded = headsOf("succeeded");
const ran = headsOf("succeeded", "began", true);
