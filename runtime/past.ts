/**
 * A run's machine made again from what it was given: its past is read, and delivered to a
 * machine beside the run's own, in the sandbox only. Nothing of it is durable or leaves.
 */
import { decode } from "../guest/cbor.ts";
import type { Activation, Drained } from "../guest/protocol.ts";
import { decodeDrained } from "./drained.ts";
import { assert, SporeError } from "./errors.ts";
import { decodeRow, type JournalRow, type PastRow, rowKeys } from "./format.ts";
import type { EntityKey } from "./ids.ts";
import type { Partition } from "./partition.ts";
import type { ActivateRequest, ActivateResult, JournalEntry, Sandbox } from "./ports.ts";

/** One activation of the run's present life. */
export interface Traced {
  readonly activation: Uint8Array;
  readonly drainedHash: number;
  /** Events in the run's history before those of this activation. */
  readonly history: number;
}

const rowsPerRead = 256;

/** The activations of a life that were durable when this was called, oldest first. */
export async function readPast(
  partition: Partition,
  key: EntityKey,
  life: number,
): Promise<Traced[]> {
  const prefix = rowKeys.pastOf(key);
  const traced: Traced[] = [];
  let after: string | undefined;
  for (;;) {
    const options = after === undefined ? { limit: rowsPerRead } : { limit: rowsPerRead, after };
    const page = await partition.scan(prefix, options);
    for (const [rowKey, bytes] of page.entries) {
      after = rowKey;
      const row = decodeRow<PastRow>(rowKey, bytes);
      const index = Number.parseInt(rowKey.slice(prefix.length), 16);
      // What lies behind is of an earlier life.
      if (row.life !== life || index !== traced.length) return traced;
      traced.push(row);
    }
    if (page.isDone) return traced;
  }
}

export function activationOf(traced: Pick<Traced, "activation">): Activation {
  return decode(traced.activation) as Activation; // encoded by beginActivation
}

/** Guest time that one replay may take. */
const guestMsMax = 60_000;

export interface Delivered {
  readonly drained: Drained;
  readonly drainedHash: number;
}

/** A machine's memory as it may be stored: an image, if there is one, and the journal since. */
export interface ReplayedMemory {
  readonly version: number;
  readonly image: Uint8Array | undefined;
  readonly journal: readonly JournalRow[];
}

/** A machine that exists for a while, and only in the sandbox. */
export class Replay {
  readonly #sandbox: Sandbox;
  readonly #component: string;
  readonly #machine: string;
  readonly #past: JournalEntry[] = [];
  #image: { readonly bytes: Uint8Array; readonly version: number } | undefined;
  #guestMs = 0;

  /** The component has to be loaded; `machine` is a name that no other machine has. */
  constructor(sandbox: Sandbox, component: string, machine: string) {
    this.#sandbox = sandbox;
    this.#component = component;
    this.#machine = machine;
  }

  /** Delivers one activation; with `isLast` an image is taken of the memory after it. */
  async deliver(activation: Uint8Array, isLast = false): Promise<Delivered> {
    const result = await this.#activate(activation, {
      after: "keep",
      imageAfterMs: isLast ? 0 : Number.POSITIVE_INFINITY,
    });
    const { drainedHash, image } = result;
    this.#past.push({ activation, drainedHash });
    if (image !== undefined) this.#image = { bytes: image, version: this.#past.length };
    return { drained: decodeDrained(result.drained), drainedHash };
  }

  /** What the activation would come to; the machine stands where it stood. */
  async peek(activation: Uint8Array): Promise<Delivered> {
    const how = { after: "discard", imageAfterMs: Number.POSITIVE_INFINITY } as const;
    const { drained, drainedHash } = await this.#activate(activation, how);
    return { drained: decodeDrained(drained), drainedHash };
  }

  async #activate(
    activation: Uint8Array,
    how: Pick<ActivateRequest, "after" | "imageAfterMs">,
  ): Promise<Extract<ActivateResult, { kind: "ok" }>> {
    const version = this.#past.length;
    const request = { component: this.#component, machine: this.#machine, activation, ...how };
    let result = await this.#sandbox.activate({
      ...request,
      from: version === 0 ? { kind: "pristine" } : { kind: "resident", version },
    });
    // What the run survived may have met a slow moment here: it is tried once more.
    if (result.kind !== "ok") {
      const journal = this.#past.slice();
      const from = { kind: "rebuild", image: undefined, journal, version } as const;
      result = await this.#sandbox.activate({ ...request, from });
    }
    if (result.kind === "fault") throw new SporeError(result.fault, `replay: ${result.message}`);
    assert(result.kind === "ok", "a rebuilt machine is never absent");
    this.#guestMs += result.guestMs;
    if (this.#guestMs > guestMsMax) {
      throw new SporeError("not-replayable", `a replay took over ${guestMsMax} ms of guest time`);
    }
    return result;
  }

  memory(): ReplayedMemory {
    const since = this.#image?.version ?? 0;
    return {
      version: this.#past.length,
      image: this.#image?.bytes,
      journal: this.#past.slice(since),
    };
  }

  close(): void {
    this.#sandbox.release(this.#machine);
  }
}
