/**
 * Errors as people meet them over HTTP: RFC 9457 problem documents. The status is a
 * function of the kind, decided here and nowhere else; `code` is what programs read.
 */
import { type ErrorCode, type ErrorKind, SporeError } from "../runtime/errors.ts";

export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly code: ErrorCode;
  readonly hint?: string | undefined;
  readonly instance: string;
  readonly requestId: string;
  /** Further members: `error` of a failed run, `errors` of an invalid request, `id` … */
  readonly [member: string]: unknown;
}

/** A SporeError with what only the HTTP answer carries. */
export class ProblemError extends SporeError {
  readonly members: Readonly<Record<string, unknown>>;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    code: ErrorCode,
    message: string,
    options: {
      hint?: string;
      cause?: unknown;
      members?: Readonly<Record<string, unknown>>;
      headers?: Readonly<Record<string, string>>;
    } = {},
  ) {
    super(code, message, options);
    this.members = options.members ?? {};
    this.headers = options.headers ?? {};
  }
}

const statusOfKind: Readonly<Record<ErrorKind, number>> = {
  invalid: 400,
  denied: 403,
  missing: 404,
  conflict: 409,
  limit: 429,
  unavailable: 503,
  moved: 503,
  corrupt: 500,
  internal: 500,
};

/** Where the kind alone is too coarse for what HTTP has a number for. */
const statusOfCode: Partial<Readonly<Record<ErrorCode, number>>> = {
  unauthorised: 401,
  "body-too-large": 413,
  "value-too-large": 413,
  "unsupported-media-type": 415,
};

export function statusOf(error: SporeError): number {
  return statusOfCode[error.code] ?? statusOfKind[error.kind];
}

const retryAfterSeconds = 1;

/** Anything thrown, as a SporeError; what we did not throw on purpose is `internal`. */
export function sporeErrorOf(thrown: unknown): SporeError {
  if (thrown instanceof SporeError) return thrown;
  return new SporeError("internal", "unexpected failure in the host", { cause: thrown });
}

export function problemOf(
  error: SporeError,
  request: { readonly path: string; readonly requestId: string },
): Problem {
  const members = error instanceof ProblemError ? error.members : {};
  // Internals of the host are for its log, never for a client.
  const isInternal = error.kind === "internal";
  return {
    type: `/errors/${error.code}`,
    title: titleOf(error.code),
    status: statusOf(error),
    detail: isInternal ? "The host failed unexpectedly; its log has the details." : error.message,
    code: error.code,
    ...(error.hint === undefined || isInternal ? {} : { hint: error.hint }),
    instance: request.path,
    requestId: request.requestId,
    ...members,
  };
}

export function problemHeaders(error: SporeError): Record<string, string> {
  const headers: Record<string, string> = {};
  if (error.kind === "unavailable" || error.kind === "moved" || statusOf(error) === 429) {
    headers["retry-after"] = String(retryAfterSeconds);
  }
  if (error.code === "unauthorised") headers["www-authenticate"] = 'Bearer realm="spore"';
  if (error instanceof ProblemError) Object.assign(headers, error.headers);
  return headers;
}

/** For whoever answers before a route is known. */
export function problemResponse(error: SporeError, request: Request): Response {
  const path = new URL(request.url).pathname;
  const requestId = request.headers.get("x-request-id") ?? globalThis.crypto.randomUUID();
  const problem = problemOf(error, { path, requestId });
  const headers = { "content-type": "application/problem+json", ...problemHeaders(error) };
  return new Response(JSON.stringify(problem), { status: problem.status, headers });
}

/** `run-not-found` is "Run not found". */
function titleOf(code: ErrorCode): string {
  const words = code.replaceAll("-", " ").replace(/^(.)/, (first) => first.toUpperCase());
  return words.replace(/\b(json|cbor|id)\b/gi, (word) => word.toUpperCase());
}
