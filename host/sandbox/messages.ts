/**
 * What threads.ts and worker.ts say to each other. All bytes of a batch travel in one
 * transferred buffer: cloning each array by itself costs more than most activations, and
 * cloning a view of a large buffer would copy the buffer.
 */
import type { SporeError } from "../../runtime/errors.ts";
import type { ActivateRequest, ActivateResult } from "../../runtime/ports.ts";
import type { Engine } from "./engine.ts";
import type { MachinesLimits } from "./machines.ts";

export interface WorkerStart {
  readonly engine: Engine;
  readonly limits: MachinesLimits;
  /** Int32 words: `progressWord` and `runningWord`. */
  readonly control: SharedArrayBuffer;
}

/** Counts entries into guests; the watchdog measures the time since it moved. */
export const progressWord = 0;
/** Id of the job that is running; 0 between jobs. */
export const runningWord = 1;

/** Offset and length in the batch's buffer. */
export type Slice = readonly [offset: number, length: number];

export type Job =
  | { readonly kind: "component"; readonly component: string; readonly stored: Uint8Array }
  | { readonly kind: "forget"; readonly component: string }
  | { readonly kind: "release"; readonly machine: string }
  | { readonly kind: "describe"; readonly id: number; readonly component: string }
  | { readonly kind: "activate"; readonly id: number; readonly request: PackedRequest };

export interface PackedRequest extends Omit<ActivateRequest, "from" | "activation"> {
  readonly activation: Slice;
  readonly from:
    | { readonly kind: "pristine" }
    | { readonly kind: "resident"; readonly version: number }
    | { readonly kind: "ahead"; readonly behind: string }
    | {
        readonly kind: "rebuild";
        readonly image: Slice | undefined;
        readonly journal: readonly (readonly [activation: Slice, drainedHash: number])[];
        readonly version: number;
      };
}

export interface JobBatch {
  readonly buffer: ArrayBuffer;
  readonly jobs: readonly Job[];
}

type OkResult = ActivateResult & { readonly kind: "ok" };

export type PackedResult =
  | Exclude<ActivateResult, { readonly kind: "ok" }>
  | (Omit<OkResult, "drained" | "image" | "activation"> & {
      readonly drained: Slice;
      readonly image: Slice | undefined;
      readonly activation: Slice | undefined;
    });

export type Reply =
  | {
      readonly kind: "activated";
      readonly id: number;
      readonly result: PackedResult;
      /** Whether the machine is resident now. */
      readonly isResident: boolean;
    }
  | { readonly kind: "described"; readonly id: number; readonly manifest: Slice }
  | {
      readonly kind: "threw";
      readonly id: number;
      readonly code: SporeError["code"];
      readonly message: string;
    };

export interface ReplyBatch {
  readonly buffer: ArrayBuffer;
  readonly replies: readonly Reply[];
  readonly evicted: readonly string[];
  /** Of the memories that the thread keeps now. */
  readonly residentBytes: number;
}

/** Collects the byte arrays of a batch. */
export class Packer {
  #parts: Uint8Array[] = [];
  #length = 0;

  add(bytes: Uint8Array): Slice {
    const offset = this.#length;
    this.#parts.push(bytes);
    this.#length += bytes.length;
    return [offset, bytes.length];
  }

  /** Bytes collected so far. */
  get length(): number {
    return this.#length;
  }

  finish(): ArrayBuffer {
    const whole = new Uint8Array(this.#length);
    let at = 0;
    for (const part of this.#parts) {
      whole.set(part, at);
      at += part.length;
    }
    this.#parts = [];
    this.#length = 0;
    return whole.buffer;
  }
}

export function packRequest(request: ActivateRequest, packer: Packer): PackedRequest {
  const { from } = request;
  const activation = packer.add(request.activation);
  if (from.kind !== "rebuild") return { ...request, from, activation };
  const image = from.image === undefined ? undefined : packer.add(from.image);
  const journal = from.journal.map(
    (entry) => [packer.add(entry.activation), entry.drainedHash] as const,
  );
  return {
    ...request,
    activation,
    from: { kind: "rebuild", image, journal, version: from.version },
  };
}

/** The arrays are views of the batch: use them before the next batch. */
export function unpackRequest(request: PackedRequest, buffer: ArrayBuffer): ActivateRequest {
  const { from } = request;
  const activation = viewOf(buffer, request.activation);
  if (from.kind !== "rebuild") return { ...request, from, activation };
  const image = from.image === undefined ? undefined : viewOf(buffer, from.image);
  const journal = from.journal.map(([entry, drainedHash]) => ({
    activation: viewOf(buffer, entry),
    drainedHash,
  }));
  return {
    ...request,
    activation,
    from: { kind: "rebuild", image, journal, version: from.version },
  };
}

export function packResult(result: ActivateResult, packer: Packer): PackedResult {
  if (result.kind !== "ok") return result;
  const { drained, image, activation } = result;
  return {
    ...result,
    drained: packer.add(drained),
    image: image === undefined ? undefined : packer.add(image),
    activation: activation === undefined ? undefined : packer.add(activation),
  };
}

/** The arrays are copies: the engine may keep one for long, and a batch may be large. */
export function unpackResult(result: PackedResult, buffer: ArrayBuffer): ActivateResult {
  if (result.kind !== "ok") return result;
  const copyOf = (slice: Slice | undefined): Uint8Array | undefined =>
    slice === undefined ? undefined : viewOf(buffer, slice).slice();
  const image = copyOf(result.image);
  const activation = copyOf(result.activation);
  return { ...result, drained: viewOf(buffer, result.drained).slice(), image, activation };
}

export function viewOf(buffer: ArrayBuffer, [offset, length]: Slice): Uint8Array {
  return new Uint8Array(buffer, offset, length);
}
