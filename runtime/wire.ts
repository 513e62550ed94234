/**
 * What hosts say to each other, and its encoding: one request, one answer, each one CBOR
 * item. Errors cross with what a caller needs to act on them; a request that wasn't executed
 * is told apart from one that failed.
 */
import { decode, encode } from "../guest/cbor.ts";
import type { Outcome } from "../guest/protocol.ts";
import { type ErrorCode, errorCodes, SporeError } from "./errors.ts";

/** A tenant's request, for the owner of its key, or of all these partitions. */
export interface TenantRequest {
  readonly kind: "tenant";
  readonly tenant: string;
  readonly method: string;
  readonly args: readonly unknown[];
  /** Absent: the key in the arguments decides. */
  readonly partitions?: readonly number[] | undefined;
  /** What the asking host knows to be deployed, so that the other isn't behind it. */
  readonly deployed?: Deployed | undefined;
}

export interface Deployed {
  readonly seq: number;
  readonly component: string;
  /** It was deployed before, and what came after it was taken back. */
  readonly isRollback?: boolean | undefined;
}

/** A host, as others reach it. */
export interface Peer {
  readonly id: string;
  readonly address: string;
}

/** What a host says of itself. */
export interface HostNews extends Peer {
  readonly isDraining: boolean;
  /** It has stopped: don't look for it any more. */
  readonly isGone: boolean;
  /** Version of the layout whose partitions it means. */
  readonly layout: number;
  /** Partitions that it serves, each with the epoch of its claim. */
  readonly owned: readonly (readonly [partition: number, epoch: number])[];
  /** Partitions that it is taking, and hasn't yet. */
  readonly taking?: readonly number[] | undefined;
}

export type PeerRequest =
  | TenantRequest
  | {
      readonly kind: "event";
      readonly token: string;
      /** Absent: it is only looked at. */
      readonly outcome?: Outcome | undefined;
    }
  | {
      readonly kind: "deliver";
      readonly target: number;
      readonly source: number;
      readonly messages: readonly { readonly index: number; readonly message: Uint8Array }[];
    }
  /** Asks for news, and brings some, unless it comes from somebody who only looks. */
  | { readonly kind: "hello"; readonly news?: HostNews | undefined }
  | { readonly kind: "handOver"; readonly partition: number; readonly to: string }
  /** Not to be served for a moment: its log is being sealed. */
  | { readonly kind: "pause"; readonly partition: number }
  | { readonly kind: "deployed"; readonly tenant: string; readonly deployed: Deployed };

export type PeerAnswer =
  | { readonly kind: "ok"; readonly value: unknown }
  /** Not executed: what is asked for isn't served here. */
  | { readonly kind: "refused"; readonly why: string }
  | {
      readonly kind: "error";
      readonly code: string;
      readonly message: string;
      readonly hint?: string | undefined;
      readonly cause?: unknown;
    };

/** `layout`: version of the layout in which the asker counts partitions. */
export function encodeRequest(request: PeerRequest, layout: number): Uint8Array {
  return encode({ layout, request });
}

const kinds: ReadonlySet<string> = new Set<PeerRequest["kind"]>([
  "tenant",
  "event",
  "deliver",
  "hello",
  "handOver",
  "pause",
  "deployed",
]);

/** Of a peer that was let in: its shape is trusted, once its kind is known. */
export function decodeRequest(bytes: Uint8Array): {
  readonly layout: number;
  readonly request: PeerRequest;
} {
  let value: unknown;
  try {
    value = decode(bytes);
  } catch (cause) {
    throw new SporeError("invalid-cbor", "a peer's request can't be read", { cause });
  }
  const { layout, request } = (value ?? {}) as { layout?: unknown; request?: unknown };
  const kind = (request as { kind?: unknown } | null | undefined)?.kind;
  if (typeof layout === "number" && typeof kind === "string" && kinds.has(kind)) {
    return { layout, request: request as PeerRequest };
  }
  throw new SporeError("invalid-request", "a peer asks for something that isn't known here");
}

export function answerOf(error: unknown): PeerAnswer {
  if (!(error instanceof SporeError)) {
    const message = error instanceof Error ? error.message : String(error);
    return { kind: "error", code: "internal", message };
  }
  const { code, message, hint, cause } = error;
  if (code === "peer-refused") return { kind: "refused", why: message };
  // An error object is for the log of the host that met it; a guest's error is plain data.
  const told = cause === undefined || cause instanceof Error ? {} : { cause };
  return { kind: "error", code, message, ...(hint === undefined ? {} : { hint }), ...told };
}

export function encodeAnswer(answer: PeerAnswer): Uint8Array {
  return encode(answer);
}

/** The value, or the error that the other host has met. */
export function valueOfAnswer(bytes: Uint8Array): unknown {
  const answer = decodeAnswer(bytes);
  if (answer.kind === "ok") return answer.value;
  if (answer.kind === "refused") throw new SporeError("peer-refused", answer.why);
  const { message, hint, cause } = answer;
  throw new SporeError(codeOf(answer.code), message, {
    ...(hint === undefined ? {} : { hint }),
    ...(cause === undefined ? {} : { cause }),
  });
}

function decodeAnswer(bytes: Uint8Array): PeerAnswer {
  try {
    return decode(bytes) as PeerAnswer; // written by `encodeAnswer` on a host that was let in
  } catch (cause) {
    throw new SporeError("peer-unavailable", "a peer's answer can't be read", { cause });
  }
}

/** A later version may know more codes. */
function codeOf(code: string): ErrorCode {
  return Object.hasOwn(errorCodes, code) ? (code as ErrorCode) : "internal";
}
