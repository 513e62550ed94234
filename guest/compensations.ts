/**
 * What a run has to undo if it fails: compensations of the steps that are done, in the order in
 * which they were done. Owns the list and the order; how a compensation runs is steps.ts's, as
 * it is a step like any other.
 */
import { decode, encode } from "./cbor.ts";
import { type Body, bodyOf } from "./define.ts";
import { asError } from "./errors.ts";
import { stepDefaults } from "./options.ts";

/** A compensation that has used up its attempts. */
export interface Undone {
  readonly step: string;
  readonly error: Error;
}

interface Compensation {
  readonly body: Body;
  args(): readonly unknown[];
}

export class Compensations {
  readonly #list: Compensation[] = [];
  /** Steps with a compensation that have begun and haven't got their value. */
  #undecided = 0;
  #whenDecided: (() => void)[] = [];

  get isEmpty(): boolean {
    return this.#list.length === 0 && this.#undecided === 0;
  }

  /** A compensation that no step's result calls for. */
  add(body: Body): void {
    this.#list.push({ body, args: () => [] });
  }

  /** A step with a compensation begins. */
  expect(): void {
    this.#undecided++;
  }

  /** It is over; `done` says with what, if it succeeded. */
  decide(done: Done | undefined): void {
    this.#undecided--;
    if (done !== undefined) this.#list.push(compensationOf(done));
    if (this.#undecided > 0) return;
    const waiting = this.#whenDecided;
    this.#whenDecided = [];
    for (const wake of waiting) wake();
  }

  /** Runs them all, the last first, one after the other; one that fails doesn't stop the rest. */
  async run(call: (body: Body, args: readonly unknown[]) => Promise<unknown>): Promise<Undone[]> {
    const failures: Undone[] = [];
    for (;;) {
      // What is on its way may have to be undone as well.
      while (this.#undecided > 0) await new Promise<void>((wake) => this.#whenDecided.push(wake));
      const next = this.#list.pop();
      if (next === undefined) return failures;
      try {
        await call(next.body, next.args());
      } catch (error) {
        failures.push({ step: next.body.compensates ?? next.body.name, error: asError(error) });
      }
    }
  }
}

/** A step that has succeeded. */
export interface Done {
  readonly id: string;
  readonly name: string;
  readonly fn: (...args: unknown[]) => unknown;
  readonly value: unknown;
  readonly args: readonly unknown[];
  readonly storedArgs: Uint8Array | undefined;
  readonly checkpoint: boolean;
}

function storedOrNone(value: unknown): Uint8Array | undefined {
  try {
    return encode(value);
  } catch {
    // The value of a step without checkpoint in which this one continued: may be anything.
    return undefined;
  }
}

/** Keeps value and arguments as they are now, whatever the workflow does to the objects. */
function compensationOf(done: Done): Compensation {
  const { id, fn, args, storedArgs } = done;
  const known = bodyOf(fn);
  const body: Body =
    known === undefined
      ? { name: `${done.name}.compensate`, fn, options: stepDefaults, isMethod: false }
      : known;
  const value = done.checkpoint ? storedOrNone(done.value) : undefined;
  return {
    body: { ...body, compensates: id },
    args: () => [
      value === undefined ? done.value : decode(value),
      ...(storedArgs === undefined ? args : (decode(storedArgs) as unknown[])),
    ],
  };
}
