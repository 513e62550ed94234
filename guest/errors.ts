/**
 * The errors that guest code throws and catches, and their way across the border
 * (ErrorValue) and back. Name and message always survive; `instanceof` holds for the
 * classes here and for JavaScript's own.
 */
import {
  assignErrorFields,
  decode,
  encode,
  errorFields,
  hide,
  makeError,
  registerError,
  SerialisationError,
} from "./cbor.ts";
import type { ErrorValue } from "./protocol.ts";
import { type Duration, durationMs } from "./time.ts";

export interface GuestErrorOptions {
  readonly code?: string | undefined;
  readonly cause?: unknown;
  readonly class?: ErrorValue["class"];
  readonly retryable?: boolean | undefined;
}

/** An error with a stable code; also what an unknown error from outside becomes. */
export class GuestError extends Error {
  // Declared only, and set hidden: they have places of their own in an ErrorValue.
  declare readonly code: string | undefined;
  declare readonly class: ErrorValue["class"];
  /** False where a retry can't help. */
  declare readonly retryable: boolean;

  constructor(message: string, options: GuestErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    hide(this, "name", "GuestError");
    hide(this, "code", options.code);
    hide(this, "class", options.class);
    hide(this, "retryable", options.retryable !== false);
  }
}

/** A step, signal or wait took longer than its timeout. */
export class TimeoutError extends GuestError {
  constructor(message: string, options: GuestErrorOptions = {}) {
    super(message, { code: "timeout", class: "timeout", ...options });
    hide(this, "name", "TimeoutError");
  }
}

/** The run was canceled. Never retried. */
export class CancelledError extends GuestError {
  constructor(message = "the run was canceled", options: GuestErrorOptions = {}) {
    super(message, { code: "cancelled", class: "cancelled", retryable: false, ...options });
    hide(this, "name", "CancelledError");
  }
}

/** Thrown in a step: don't try again. */
export class NonRetryableError extends GuestError {
  constructor(message: string, options: GuestErrorOptions = {}) {
    super(message, { class: "user", ...options, retryable: false });
    hide(this, "name", "NonRetryableError");
  }
}

/** Thrown in a step: try again, after `retryAfter` if that is given. */
export class RetryableError extends GuestError {
  readonly retryAfter: Duration | undefined;

  constructor(
    message: string,
    options: GuestErrorOptions & { readonly retryAfter?: Duration } = {},
  ) {
    super(message, { class: "user", ...options });
    hide(this, "name", "RetryableError");
    if (options.retryAfter !== undefined) durationMs(options.retryAfter, "retryAfter");
    this.retryAfter = options.retryAfter;
  }
}

/** A child run that was awaited ended without a value; `cause` is its error. */
export class ChildError extends GuestError {
  readonly runId: string;

  constructor(message: string, options: GuestErrorOptions & { readonly runId: string }) {
    super(message, options);
    hide(this, "name", "ChildError");
    this.runId = options.runId;
  }
}

/**
 * Not everything that a run had done could be undone: `failed` names the steps that stay, `cause`
 * is why the run failed.
 */
export class CompensationError extends GuestError {
  readonly failed: readonly string[];

  constructor(
    message: string,
    options: GuestErrorOptions & { readonly failed: readonly string[] },
  ) {
    super(message, { code: "compensation-failed", retryable: false, ...options });
    hide(this, "name", "CompensationError");
    this.failed = options.failed;
  }
}

/** Stands for a thrown value that isn't an Error; `value` is what was thrown. */
export class ThrownValue extends GuestError {
  readonly value: unknown;

  constructor(value: unknown) {
    super(`a value that is not an Error was thrown: ${preview(value)}`, { class: "user" });
    hide(this, "name", "ThrownValue");
    this.value = value;
  }
}

registerError("GuestError", (message) => new GuestError(message));
registerError("TimeoutError", (message) => new TimeoutError(message));
registerError("CancelledError", (message) => new CancelledError(message));
registerError("NonRetryableError", (message) => new NonRetryableError(message));
registerError("RetryableError", (message) => new RetryableError(message));
registerError("ChildError", (message) => new ChildError(message, { runId: "" }));
registerError("CompensationError", (message) => new CompensationError(message, { failed: [] }));
registerError("ThrownValue", (message) => {
  const error = new ThrownValue(undefined);
  hide(error, "message", message);
  return error;
});
registerError("SerialisationError", (message) => {
  const split = message.indexOf(": ");
  return new SerialisationError(
    split < 0 ? "$" : message.slice(0, split),
    split < 0 ? message : message.slice(split + 2),
  );
});

/** Characters of message, stack and causes together; the rest is cut out of the middle. */
const errorCharsMax = 64 * 1024;
const messageCharsMax = 16 * 1024;
const stackCharsMax = 6 * 1024;
const detailBytesMax = 32 * 1024;
const causesMax = 10;

function preview(value: unknown): string {
  try {
    const text = typeof value === "object" ? JSON.stringify(value) : String(value);
    return middleOut(text ?? typeof value, 200);
  } catch {
    // A hostile toString or toJSON; the type is all that can be said.
    return typeof value;
  }
}

/** Keeps head and tail of a text that is too long. */
export function middleOut(text: string, charsMax: number): string {
  if (text.length <= charsMax) return text;
  const half = Math.floor((charsMax - 40) / 2);
  const cut = text.length - 2 * half;
  return `${text.slice(0, half)} …[${cut} characters left out]… ${text.slice(text.length - half)}`;
}

/** Encodes what the author's code gives; an error says what it is of. */
export function encodeFor(value: unknown, what: string): Uint8Array {
  try {
    return encode(value);
  } catch (error) {
    if (!(error instanceof SerialisationError)) throw error;
    const reason = error.message.slice(error.path.length + 2);
    throw new SerialisationError(error.path, `${reason} (in ${what})`);
  }
}

/** Whatever was thrown, as an Error. */
export function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new ThrownValue(thrown);
}

/** Where the engine says that a function begins. Others don't say it. */
interface Placed {
  readonly fileName?: unknown;
  readonly lineNumber?: unknown;
  readonly columnNumber?: unknown;
}

/**
 * Puts what an error came out of below its stack. An error that is made for the author's code while
 * none of it is on the stack (a wait that ends, a value that can't be stored) would have no line of
 * the author's else.
 */
export function cameOutOf(error: Error, what: string, fn: object): void {
  const { fileName, lineNumber, columnNumber } = fn as Placed;
  if (typeof fileName !== "string") return;
  const frame = `    at ${what} (${fileName}:${lineNumber}:${columnNumber})`;
  const stack = typeof error.stack === "string" ? error.stack.trimEnd() : "";
  // An error may be thrown again and again, and come through many hands.
  if (stack.length > stackCharsMax || stack.includes(frame)) return;
  try {
    hide(error, "stack", stack === "" ? frame : `${stack}\n${frame}`);
  } catch {
    // A frozen error stays as it is.
  }
}

/** The shape that survives every border. Never throws. */
export function toErrorValue(thrown: unknown): ErrorValue {
  try {
    return errorValue(asError(thrown), { depth: 0, charsLeft: errorCharsMax });
  } catch {
    // A getter or proxy of the guest's own threw while it was read.
    return { name: "Error", message: "an error that can't be read", class: "user" };
  }
}

interface Budget {
  readonly depth: number;
  readonly charsLeft: number;
}

function errorValue(error: Error, budget: Budget): ErrorValue {
  const message = middleOut(String(error.message), Math.min(messageCharsMax, budget.charsLeft));
  const loose = error as { code?: unknown; class?: unknown; retryable?: unknown };
  const value: { -readonly [Key in keyof ErrorValue]: ErrorValue[Key] } = {
    name: middleOut(String(error.name), 200),
    message,
    class: isClass(loose.class) ? loose.class : "user",
  };
  if (typeof loose.code === "string") value.code = middleOut(loose.code, 200);
  if (!isRetryableKind(error)) value.retryable = false;
  if (typeof error.stack === "string" && error.stack !== "") {
    value.stack = middleOut(error.stack, Math.min(stackCharsMax, budget.charsLeft));
  }
  const spent = message.length + (value.stack?.length ?? 0);
  const next = { depth: budget.depth + 1, charsLeft: Math.max(256, budget.charsLeft - spent) };
  if (error.cause !== undefined && next.depth < causesMax) {
    value.cause = errorValue(asError(error.cause), next);
  }
  const details = detailsOf(error, budget.depth);
  if (details !== undefined) value.details = details;
  return value;
}

function isClass(value: unknown): value is NonNullable<ErrorValue["class"]> {
  return (
    value === "user" ||
    value === "timeout" ||
    value === "cancelled" ||
    value === "denied" ||
    value === "limit" ||
    value === "host"
  );
}

/** Own fields of the error as far as they can be stored; the error matters more than they. */
function detailsOf(error: Error, depth: number): Uint8Array | undefined {
  const fields = errorFields(error) ?? {};
  delete fields["code"];
  const errors: unknown = (error as { errors?: unknown }).errors;
  if (Array.isArray(errors) && depth === 0) {
    fields["errors"] = errors
      .slice(0, 100)
      .map((each) => ({ ...toErrorValue(each), details: undefined }));
  }
  if (Object.keys(fields).length === 0) return undefined;
  for (const candidate of [fields, storableFields(fields)]) {
    try {
      const bytes = encode(candidate);
      if (bytes.length <= detailBytesMax) return bytes;
    } catch {
      // Tried again with the storable fields only.
    }
  }
  return undefined;
}

function storableFields(fields: Record<string, unknown>): Record<string, unknown> {
  const storable: Record<string, unknown> = {};
  for (const key of Object.keys(fields)) {
    const value = fields[key];
    if (value === null || (typeof value !== "object" && typeof value !== "function")) {
      if (typeof value !== "symbol") storable[key] = value;
    }
  }
  return storable;
}

/** An error that came from outside, as an Error of the right class. */
export function fromErrorValue(value: ErrorValue): Error {
  const known = makeError(value.name, value.message);
  const isPlain = Object.getPrototypeOf(known) === Error.prototype;
  const error = isPlain ? named(value) : known;
  const loose = error as unknown as Record<string, unknown>;
  if (value.code !== undefined && loose["code"] !== value.code) hide(error, "code", value.code);
  if (value.class !== undefined) hide(error, "class", value.class);
  if (value.retryable !== undefined) hide(error, "retryable", value.retryable);
  if (value.stack !== undefined) hide(error, "stack", value.stack);
  if (value.cause !== undefined) hide(error, "cause", fromErrorValue(value.cause));
  if (value.details !== undefined) assignDetails(error, value.details);
  return error;
}

function named(value: ErrorValue): Error {
  const error = new GuestError(value.message, { code: value.code });
  hide(error, "name", value.name);
  return error;
}

function assignDetails(error: Error, details: Uint8Array): void {
  try {
    const fields = decode(details);
    assignErrorFields(error, fields);
    const errors: unknown = (fields as { errors?: unknown } | null)?.errors;
    if (error instanceof AggregateError && Array.isArray(errors)) {
      hide(
        error,
        "errors",
        errors.map((each) => fromErrorValue(each as ErrorValue)),
      );
    }
  } catch {
    // Details of another guest's making that can't be read: the error is more than they.
  }
}

/** False for errors that say themselves that a retry can't help. */
export function isRetryableKind(error: unknown): boolean {
  if (error instanceof SerialisationError) return false;
  // Its own code gave it up. A limit of time (AbortSignal.timeout) is a TimeoutError.
  if ((error as { name?: unknown } | null | undefined)?.name === "AbortError") return false;
  return (error as { retryable?: unknown } | null | undefined)?.retryable !== false;
}
