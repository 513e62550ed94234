/** A step's options: what people write, checked once and turned into numbers. */
import { encode } from "./cbor.ts";
import { type Duration, durationMs } from "./time.ts";

type ErrorClass = new (...args: never[]) => Error;

/** An error class, an error's name or code, or a function that decides. */
export type ErrorMatcher = string | ErrorClass | ((error: Error) => boolean);

export interface Backoff {
  /** Before the second attempt. Default 1 s. */
  readonly initial?: Duration;
  /** Each wait is the one before times this. Default 2. */
  readonly factor?: number;
  /** Default 60 s. */
  readonly max?: Duration;
  /** Each wait is changed by up to this part of it, up or down. Default 0.2. */
  readonly jitter?: number;
}

export interface StepOptions {
  /** Name of this step in the run's records, instead of the definition's. */
  readonly name?: string;
  /** Attempts after the first. Default 4; `Infinity` for ever. */
  readonly retries?: number;
  /** The waits between attempts; a function gets the attempt that failed (from 1) and its error. */
  readonly backoff?: Backoff | ((attempt: number, error: Error) => Duration);
  /** Only these errors are tried again. */
  readonly retryIf?: ErrorMatcher | readonly ErrorMatcher[];
  /** These errors are never tried again. */
  readonly nonRetryable?: ErrorMatcher | readonly ErrorMatcher[];
  /** Of one attempt. */
  readonly timeout?: Duration;
  /** Of all attempts and waits, from the beginning of the first. */
  readonly totalTimeout?: Duration;
  /** Gives `[value, undefined]` or `[undefined, error]` instead of throwing. */
  readonly catchErrors?: boolean;
  /** False: arguments and value stay out of the records. Default true. */
  readonly checkpoint?: boolean;
  /** Stored with the step's records. */
  readonly metadata?: Readonly<Record<string, unknown>>;
}

/** What a step's definition may have besides: how to undo it. */
export interface CompensateOption<Args extends readonly unknown[], Out> {
  /**
   * Undoes the step, given its result and its arguments; a step of its own, with the options of
   * that step if it is one. Runs if the step succeeded and the run fails or is cancelled, or
   * when `compensate()` is called; the last step first. For workflows and graphs.
   */
  readonly compensate?: (result: Out, ...args: Args) => unknown;
}

/** Options as the machine uses them; times in milliseconds. */
export interface ResolvedOptions {
  readonly name: string | undefined;
  readonly retries: number;
  readonly backoff: Required<{ [Key in keyof Backoff]: number }> | BackoffFunction;
  readonly retryIf: readonly ErrorMatcher[] | undefined;
  readonly nonRetryable: readonly ErrorMatcher[];
  readonly timeoutMs: number | undefined;
  readonly totalTimeoutMs: number | undefined;
  readonly catchErrors: boolean;
  readonly checkpoint: boolean;
  readonly metadata: Uint8Array | undefined;
  readonly compensate: ((...args: unknown[]) => unknown) | undefined;
}

type BackoffFunction = (attempt: number, error: Error) => Duration;

export const stepDefaults: ResolvedOptions = Object.freeze({
  name: undefined,
  retries: 4,
  backoff: Object.freeze({ initial: 1000, factor: 2, max: 60_000, jitter: 0.2 }),
  retryIf: undefined,
  nonRetryable: Object.freeze([]),
  timeoutMs: undefined,
  totalTimeoutMs: undefined,
  catchErrors: false,
  checkpoint: true,
  metadata: undefined,
  compensate: undefined,
});

/** Checks options and lays them over `base`. Throws a TypeError or RangeError that names `what`. */
export function normaliseOptions(
  given: StepOptions | undefined,
  what: string,
  base: ResolvedOptions = stepDefaults,
): ResolvedOptions {
  if (given === undefined) return base;
  const resolved: { -readonly [Key in keyof ResolvedOptions]: ResolvedOptions[Key] } = { ...base };
  const loose = given as Readonly<Record<string, unknown>>;
  for (const key of Object.keys(loose)) {
    const value = loose[key];
    const apply = appliers[key];
    if (apply === undefined || !Object.hasOwn(appliers, key)) {
      throw new TypeError(`${what}: there is no option ${key}`);
    }
    if (value !== undefined) apply(resolved, value, `${what}, option ${key}`);
  }
  return resolved;
}

type Resolving = { -readonly [Key in keyof ResolvedOptions]: ResolvedOptions[Key] };

const appliers: Readonly<Record<string, (to: Resolving, value: unknown, what: string) => void>> = {
  name: (to, value, what) => {
    if (
      typeof value !== "string" ||
      value === "" ||
      value.length > 128 ||
      /[\0-\x1f\x7f/\\]/.test(value)
    ) {
      throw new TypeError(`${what}: needs a text of 1 to 128 characters`);
    }
    to.name = value;
  },
  retries: (to, value, what) => {
    const isCount = typeof value === "number" && value >= 0 && Math.floor(value) === value;
    if (!isCount) throw new RangeError(`${what}: needs a whole number from 0, or Infinity`);
    to.retries = value;
  },
  backoff: (to, value, what) => {
    to.backoff =
      typeof value === "function" ? (value as BackoffFunction) : resolveBackoff(value, what);
  },
  retryIf: (to, value, what) => {
    to.retryIf = matchers(value, what);
  },
  nonRetryable: (to, value, what) => {
    to.nonRetryable = matchers(value, what);
  },
  timeout: (to, value, what) => {
    to.timeoutMs = positiveMs(value, what);
  },
  totalTimeout: (to, value, what) => {
    to.totalTimeoutMs = positiveMs(value, what);
  },
  catchErrors: (to, value, what) => {
    to.catchErrors = flag(value, what);
  },
  checkpoint: (to, value, what) => {
    to.checkpoint = flag(value, what);
  },
  metadata: (to, value, what) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new TypeError(`${what}: needs an object`);
    }
    to.metadata = encode(value);
  },
  compensate: (to, value, what) => {
    if (typeof value !== "function") throw new TypeError(`${what}: needs a function or a step`);
    to.compensate = value as (...args: unknown[]) => unknown;
  },
};

function flag(value: unknown, what: string): boolean {
  if (typeof value !== "boolean") throw new TypeError(`${what}: needs true or false`);
  return value;
}

function positiveMs(value: unknown, what: string): number {
  const ms = durationMs(value as Duration, what);
  if (ms === 0) throw new RangeError(`${what}: needs more than 0`);
  return ms;
}

function resolveBackoff(
  value: unknown,
  what: string,
): Required<{ [Key in keyof Backoff]: number }> {
  if (typeof value !== "object" || value === null) {
    throw new TypeError(`${what}: needs { initial, factor, max, jitter } or a function`);
  }
  const { initial = 1000, factor = 2, max = 60_000, jitter = 0.2, ...rest } = value as Backoff;
  for (const key of Object.keys(rest)) throw new TypeError(`${what}: there is no ${key}`);
  if (!(factor >= 1 && factor <= 1000)) throw new RangeError(`${what}.factor: needs 1 to 1000`);
  if (!(jitter >= 0 && jitter <= 1)) throw new RangeError(`${what}.jitter: needs 0 to 1`);
  return {
    initial: durationMs(initial, `${what}.initial`),
    factor,
    max: durationMs(max, `${what}.max`),
    jitter,
  };
}

function matchers(value: unknown, what: string): readonly ErrorMatcher[] {
  const list: readonly unknown[] = Array.isArray(value) ? value : [value];
  for (const each of list) {
    if (typeof each === "string" || typeof each === "function") continue;
    throw new TypeError(`${what}: needs error classes, names or functions`);
  }
  return list as readonly ErrorMatcher[];
}

/** Whether one of them fits. Lets what a function of the user's throws pass. */
export function matchesError(list: readonly ErrorMatcher[], error: Error): boolean {
  for (const matcher of list) {
    if (typeof matcher === "string") {
      if (error.name === matcher || (error as { code?: unknown }).code === matcher) return true;
    } else if (isErrorClass(matcher)) {
      if (error instanceof matcher) return true;
    } else if (matcher(error)) {
      return true;
    }
  }
  return false;
}

function isErrorClass(matcher: unknown): matcher is ErrorClass {
  if (typeof matcher !== "function") return false;
  const prototype: unknown = matcher.prototype;
  return matcher === Error || prototype instanceof Error;
}
