/**
 * The one error class, its kinds and the table of codes. A kind says what the caller
 * should do next; a code says what happened and has an entry in docs/ERRORS.md (a test
 * holds the two together). Imports nothing.
 */

/** By the caller's next move. */
export type ErrorKind =
  | "invalid" // change the request
  | "denied" // get permission
  | "missing" // it isn't there
  | "conflict" // read, then decide
  | "limit" // wait, or ask for more
  | "unavailable" // retry
  | "moved" // another host owns it
  | "corrupt" // an operator must look
  | "internal"; // report it

/** Every code and its kind. Codes are stable; adding one means adding it to docs/ERRORS.md. */
export const errorCodes = {
  "invalid-request": "invalid",
  "invalid-json": "invalid",
  "invalid-cbor": "invalid",
  "invalid-id": "invalid",
  "invalid-component": "invalid",
  "invalid-graph": "invalid",
  "build-failed": "invalid",
  "not-serialisable": "invalid",
  "unsupported-media-type": "invalid",
  "store-unsafe": "invalid",
  unauthorised: "denied",
  forbidden: "denied",
  "origin-denied": "denied",
  "egress-denied": "denied",
  "run-not-found": "missing",
  "workflow-not-found": "missing",
  "step-not-found": "missing",
  "actor-type-not-found": "missing",
  "actor-not-found": "missing",
  "method-not-found": "missing",
  "query-not-found": "missing",
  "update-not-found": "missing",
  "value-not-published": "missing",
  "event-not-found": "missing",
  "schedule-not-found": "missing",
  "object-not-found": "missing",
  "queue-not-found": "missing",
  "component-not-found": "missing",
  "route-not-found": "missing",
  "no-component": "missing",
  "schedule-exists": "conflict",
  "queue-active": "conflict",
  "storage-in-use": "conflict",
  "storage-incomplete": "conflict",
  "run-exists": "conflict",
  "input-mismatch": "conflict",
  "run-closed": "conflict",
  "run-active": "conflict",
  "run-paused": "conflict",
  "not-resumable": "conflict",
  "not-replayable": "conflict",
  "move-diverged": "conflict",
  "deployment-changed": "conflict",
  "run-failed": "conflict",
  "run-canceled": "conflict",
  "call-failed": "conflict",
  "event-decided": "conflict",
  "event-revoked": "conflict",
  "actor-exists": "conflict",
  "actor-init-failed": "conflict",
  "actor-busy": "conflict",
  "state-changed": "conflict",
  "upgrade-failed": "conflict",
  "call-deadlock": "conflict",
  "idempotency-mismatch": "conflict",
  "body-too-large": "limit",
  "value-too-large": "limit",
  "too-many-messages": "limit",
  "queue-full": "limit",
  "guest-limit": "limit",
  "host-busy": "unavailable",
  "layout-changing": "unavailable",
  "store-unavailable": "unavailable",
  "host-stopping": "unavailable",
  "peer-refused": "unavailable",
  "peer-unavailable": "unavailable",
  "partition-moved": "moved",
  "corrupt-log": "corrupt",
  "storage-damaged": "corrupt",
  "corrupt-image": "corrupt",
  "corrupt-segment": "corrupt",
  "guest-diverged": "corrupt",
  "guest-timeout": "limit",
  "guest-trap": "conflict",
  "guest-memory": "limit",
  "memory-too-large": "limit",
  "guest-output": "limit",
  internal: "internal",
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof errorCodes;

/** The only error that Spore throws on purpose. Nobody should ever look into `message`. */
export class SporeError extends Error {
  readonly code: ErrorCode;
  readonly kind: ErrorKind;
  /** What the person can do about it. */
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "SporeError";
    this.code = code;
    this.kind = errorCodes[code];
    this.hint = options.hint;
  }
}

/** For our own bugs only; input from outside is decoded and answered. */
export function assert(condition: unknown, mustHold: string): asserts condition {
  if (!condition) throw new SporeError("internal", `broken invariant: ${mustHold}`);
}

export function unreachable(value: never): never {
  throw new SporeError("internal", `unreachable: ${JSON.stringify(value)}`);
}
