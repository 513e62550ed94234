/** How a command, a call or a run ends, as a value: made in one way wherever the engine says so. */
import { encode } from "../guest/cbor.ts";
import type { Encoded, ErrorValue, Outcome } from "../guest/protocol.ts";

export function ok(value: unknown): Outcome {
  return { kind: "ok", value: encode(value) };
}

export function okEncoded(value: Encoded): Outcome {
  return { kind: "ok", value };
}

export function failed(error: ErrorValue): Outcome {
  return { kind: "error", error };
}

export function hostError(code: string, message: string, retryable = false): ErrorValue {
  return { name: "SporeError", message, code, class: "host", retryable };
}
