/**
 * Steps that a test answers for: which ones, and their answers. A machine keeps the set that
 * it began with, so that what it drains stays the same however often it is rebuilt (I5).
 */
import { decode, encode, encodeSequence } from "../guest/cbor.ts";
import { toErrorValue } from "../guest/errors.ts";
import { type MockCall, mockScheme } from "../guest/mocks.ts";
import type { FetchRequest, FetchResponse, Outcome } from "../guest/protocol.ts";
import type { ActivateRequest } from "../runtime/ports.ts";

/** `this` in a mock: where in its run the step is. */
export interface MockContext {
  readonly runId: string;
  /** Identity of the step in its run, such as `charge_1`. */
  readonly step: string;
  /** 1 for the first. */
  readonly attempt: number;
  /** The same for all attempts of this step. */
  readonly idempotencyKey: string;
}

export type MockFunction = (this: MockContext, ...args: never[]) => unknown;

export class Mocks {
  readonly #functions = new Map<string, MockFunction>();
  /** What the machine's activations end with, by its name. */
  readonly #endings = new Map<string, Uint8Array | undefined>();
  #ending: Uint8Array | undefined;

  set(name: string, fn: MockFunction): void {
    this.#functions.set(name, fn);
    this.#ending = encodeSequence(["mocked", [...this.#functions.keys()]]);
  }

  /** The request with the names of mocked steps in its activations. */
  tell(request: ActivateRequest): ActivateRequest {
    const { machine, from } = request;
    const isNew =
      from.kind === "pristine" ||
      (from.kind === "rebuild" && from.image === undefined && from.journal.length === 0);
    // One that isn't known and isn't new has another's past: a fork.
    const isKnown = !isNew && this.#endings.has(machine);
    const ending = isKnown ? this.#endings.get(machine) : this.#ending;
    // A reader's memory is thrown away; the machine beside it keeps its own set.
    if (!isKnown && request.after === "keep") this.#endings.set(machine, ending);
    if (ending === undefined) return request;
    const activation = extended(request.activation, ending);
    if (from.kind !== "rebuild") return { ...request, activation };
    const journal = from.journal.map((entry) => ({
      ...entry,
      activation: extended(entry.activation, ending),
    }));
    return { ...request, activation, from: { ...from, journal } };
  }

  isMockCall(request: FetchRequest): boolean {
    return request.url.startsWith(mockScheme);
  }

  async answer(request: FetchRequest, runId: string): Promise<FetchResponse> {
    const call = decode(request.body ?? new Uint8Array()) as MockCall; // written by the SDK
    const outcome = await this.#outcome(call, runId);
    const body = encode(outcome);
    return { status: 200, statusText: "OK", url: request.url, headers: [], body };
  }

  async #outcome(call: MockCall, runId: string): Promise<Outcome> {
    const { name, args, step, attempt, idempotencyKey } = call;
    const fn = this.#functions.get(name);
    try {
      if (fn === undefined) throw new Error(`nothing answers for the mocked step ${name}`);
      const context: MockContext = { runId, step, attempt, idempotencyKey };
      // `mock` has checked the function against the step's type.
      const value: unknown = await fn.apply(context, args as never[]);
      return { kind: "ok", value: encode(value) };
    } catch (error) {
      const value = toErrorValue(error);
      return { kind: "error", error: { ...value, stack: framesOf(value.stack) } };
    }
  }
}

/** As guests write stacks: without the error's own name and message before the frames. */
function framesOf(stack: string | undefined): string | undefined {
  return stack?.slice(Math.max(0, stack.search(/^ {4}at /m)));
}

/** One more member of a map of a few. */
function extended(activation: Uint8Array, ending: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(activation.length + ending.length);
  bytes.set(activation);
  bytes.set(ending, activation.length);
  bytes[0] = (activation[0] ?? 0) + 1;
  return bytes;
}
