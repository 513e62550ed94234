/**
 * User values at the HTTP border, in both formats. JSON is in client/json.ts. CBOR passes
 * the bounded scanner first, whoever sent it. What is plain (no tags, no 64-bit
 * integers) then goes to cbor-x, which is quicker than the guests' codec and the same on
 * that subset (a test compares them); all else goes to the guests' codec, so that host and
 * guest can't disagree.
 */
import { Decoder } from "cbor-x";
import { bigintBytesMax as bignumBytesMax, decode, depthMax, encode, Raw } from "../guest/cbor.ts";
import type { Encoded } from "../guest/protocol.ts";
import { SporeError } from "../runtime/errors.ts";
import { type ScanLimits, scanCbor } from "./scan.ts";

export { jsonOfValue, parseJson, valueOfJson } from "../client/json.ts";

const typedArrayTags = [64, 68, 69, 70, 71, 72, 77, 78, 79, 85, 86];

export const scanLimits: ScanLimits = Object.freeze({
  depthMax,
  bignumBytesMax,
  tags: new Set([0, 1, 2, 3, 27, 258, 259, ...typedArrayTags]),
});

/** No records, no classes, no shared structures: plain data is all that gets here. */
const plain = new Decoder({ useRecords: false, mapsAsObjects: true, copyBuffers: true });

/** A client's bytes as a value. Throws invalid-cbor. */
export function decodeCbor(bytes: Uint8Array): unknown {
  const { isPlain } = scanCbor(bytes, scanLimits);
  try {
    return isPlain ? plain.decode(bytes) : decode(bytes);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : "it can't be decoded";
    throw new SporeError("invalid-cbor", why, { cause });
  }
}

/** Throws not-serialisable. */
export function encodeCbor(value: unknown): Encoded {
  try {
    return encode(value);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : "the value can't be encoded";
    throw new SporeError("not-serialisable", why, { cause });
  }
}

/** A stored value, to be written into a CBOR answer as it is; what is no item stays bytes. */
export function rawValue(encoded: Encoded): Raw | Uint8Array {
  try {
    scanCbor(encoded, scanLimits);
    return new Raw(encoded);
  } catch {
    // A value that a guest wrote badly must not make its whole run unreadable.
    return encoded;
  }
}

/** A stored value; what is no item stays bytes. */
export function shownValue(encoded: Encoded): unknown {
  try {
    return decode(encoded);
  } catch {
    // As in rawValue.
    return encoded;
  }
}
