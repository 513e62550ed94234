/**
 * The bytes of one log entry. Owns their layout and everything that can be checked about
 * one entry by itself; how entries follow each other is log.ts.
 *
 *     0  magic "splg"          40  freedTo, u64
 *     4  version, u8           48  nonce, 16 bytes
 *     5  kind, u8              64  hash of the entry before, 32 bytes
 *     6  zero, u16             96  check of 0–95: 8 bytes of their SHA-256
 *     8  partition, u32       104  payload
 *    12  payload length, u32    …  SHA-256 of everything before it, 32 bytes
 *    16  seq, u64
 *    24  epoch, u64           Little-endian. The last 32 bytes are the entry's hash,
 *    32  base, u64            to which the next entry refers.
 *
 * The header has a check of its own so that a reader of the first 104 bytes can trust them.
 */
import { ByteReader, ByteWriter, isSameBytes } from "./bytes.ts";
import { assert, SporeError } from "./errors.ts";
import type { Digest } from "./ports.ts";

export type EntryKind = "claim" | "batch" | "checkpoint";

export interface EntryHeader {
  readonly kind: EntryKind;
  readonly partition: number;
  readonly seq: number;
  /** Seq of the claim of the owner that wrote this; a claim's own. */
  readonly epoch: number;
  /** Seq of the newest checkpoint up to here, a checkpoint's own; 0 if there is none. */
  readonly base: number;
  /** Everything below that may be deleted had been when this was written. */
  readonly freedTo: number;
  /** Random, so that a writer knows its own entry from any other. */
  readonly nonce: Uint8Array;
  /** Hash of the entry `seq - 1`; zeros for the first. */
  readonly previous: Uint8Array;
}

export interface Entry extends EntryHeader {
  readonly payload: Uint8Array;
  readonly hash: Uint8Array;
}

export const headerBytes = 104;
export const nonceBytes = 16;
export const hashBytes = 32;
export const payloadBytesMax = 256 * 1024 * 1024;

const magic = 0x676c7073;
const version = 1;
const checkBytes = 8;
const kinds: readonly EntryKind[] = ["claim", "batch", "checkpoint"];

export function encodeEntry(
  header: EntryHeader,
  payload: Uint8Array,
  digest: Digest,
): { readonly bytes: Uint8Array; readonly hash: Uint8Array } {
  assert(payload.length <= payloadBytesMax, "a log entry's payload is within its limit");
  assert(header.nonce.length === nonceBytes, "a nonce has its length");
  assert(header.previous.length === hashBytes, "a hash has its length");
  const writer = new ByteWriter(headerBytes + payload.length + hashBytes);
  writer.u32(magic);
  writer.u8(version);
  writer.u8(kinds.indexOf(header.kind) + 1);
  writer.u8(0);
  writer.u8(0);
  writer.u32(header.partition);
  writer.u32(payload.length);
  for (const value of [header.seq, header.epoch, header.base, header.freedTo]) writer.u64(value);
  writer.raw(header.nonce);
  writer.raw(header.previous);
  writer.raw(digest.sha256(writer.done()).subarray(0, checkBytes));
  assert(writer.length === headerBytes, "a header has its length");
  writer.raw(payload);
  const hash = digest.sha256(writer.done());
  writer.raw(hash);
  return { bytes: writer.done(), hash };
}

/** What the entry must be, and the key that an error names. */
export interface EntryPlace {
  readonly key: string;
  readonly partition: number;
  readonly seq: number;
}

/** Throws corrupt-log unless the bytes are exactly the whole entry of this place. */
export function decodeEntry(bytes: Uint8Array, place: EntryPlace, digest: Digest): Entry {
  const header = decodeHeader(bytes, place, digest);
  const length = new ByteReader(bytes.subarray(12)).u32();
  const hashAt = headerBytes + length;
  if (bytes.length !== hashAt + hashBytes) {
    throw damaged(place, `it has ${bytes.length} bytes, not ${hashAt + hashBytes}`);
  }
  const hash = bytes.slice(hashAt);
  if (!isSameBytes(hash, digest.sha256(bytes.subarray(0, hashAt)))) {
    throw damaged(place, "its hash does not fit");
  }
  return { ...header, payload: bytes.subarray(headerBytes, hashAt), hash };
}

/** The same for an entry of which at least the first `headerBytes` bytes were read. */
export function decodeHeader(bytes: Uint8Array, place: EntryPlace, digest: Digest): EntryHeader {
  if (bytes.length < headerBytes) throw damaged(place, "it is truncated");
  const reader = new ByteReader(bytes.subarray(0, headerBytes));
  if (reader.u32() !== magic) throw damaged(place, "it is not a log entry");
  const found = reader.u8();
  if (found !== version) throw damaged(place, `its format is version ${found}, not ${version}`);
  const checkAt = headerBytes - checkBytes;
  const check = digest.sha256(bytes.subarray(0, checkAt)).subarray(0, checkBytes);
  if (!isSameBytes(check, bytes.subarray(checkAt, headerBytes))) {
    throw damaged(place, "its header does not fit its check");
  }
  const kind = kinds[reader.u8() - 1];
  if (kind === undefined) throw damaged(place, "its kind is unknown");
  reader.raw(2);
  const partition = reader.u32();
  reader.raw(4);
  const [seq, epoch, base, freedTo] = [reader.u64(), reader.u64(), reader.u64(), reader.u64()];
  if (partition !== place.partition) throw damaged(place, `it is of partition ${partition}`);
  if (seq !== place.seq) throw damaged(place, `it is entry ${seq}`);
  const nonce = reader.raw(nonceBytes).slice();
  const previous = reader.raw(hashBytes).slice();
  return { kind, partition, seq, epoch, base, freedTo, nonce, previous };
}

export function damaged(place: EntryPlace, why: string): SporeError {
  return new SporeError("corrupt-log", `log entry ${place.key} is damaged: ${why}`, {
    hint: "Restore this object from a backup or another version; nothing else repairs it.",
  });
}
