/** How the author's functions end, as outcomes; their errors lead to the author's own lines. */
import type { ActorEntry } from "./define.ts";
import { asError, ChildError, cameOutOf, encodeFor, toErrorValue } from "./errors.ts";
import type { ErrorValue, Outcome } from "./protocol.ts";

export interface Settled {
  readonly isOk: boolean;
  readonly value: unknown;
}

export function failure(error: unknown): Outcome {
  return { kind: "error", error: toErrorValue(error) };
}

/** The author's function that something is the outcome of. */
export interface Origin {
  readonly what: string;
  readonly fn: object;
}

export function outcomeOf(settled: Settled, origin?: Origin): Outcome {
  let error = settled.value;
  if (settled.isOk) {
    try {
      return {
        kind: "ok",
        value: encodeFor(settled.value, `the value of ${origin?.what ?? "a step"}`),
      };
    } catch (unstorable) {
      error = unstorable;
    }
  }
  const thrown = asError(error);
  if (origin !== undefined) cameOutOf(thrown, origin.what, origin.fn);
  return failure(thrown);
}

/** A method, or without a name the constructor. */
export function originOf({ name, maker, methods }: ActorEntry, method: string): Origin {
  const fn = methods.get(method)?.fn;
  if (fn === undefined) return { what: `constructor of ${name}`, fn: maker };
  return { what: `method ${name}.${method}`, fn };
}

/** `told`: what the host says of the other run's end, or of why it can't. */
export function childError(title: string, runId: string, told: Error): ChildError {
  const loose = told as { code?: unknown; class?: ErrorValue["class"]; retryable?: unknown };
  // It names the run and wraps the run's error, as this one does.
  const isWrapped = loose.code === "child-failed" && told.cause instanceof Error;
  const cause = isWrapped ? (told.cause as Error) : told;
  return new ChildError(`${title} (run ${runId}) failed: ${cause.message}`, {
    runId,
    cause,
    class: loose.class,
    code: typeof loose.code === "string" ? loose.code : undefined,
    retryable: loose.retryable !== false,
  });
}
