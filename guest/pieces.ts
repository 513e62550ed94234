/**
 * Values that are too large for one activation leave and enter the guest in pieces. A piece is
 * stored, and only then the next one is made: so an array needs little more memory than its own,
 * and a crash leaves pieces that the run holds, to be asked for again by the same commands.
 *
 *   One value at a time moves, in either direction: what an activation drains or is given stays
 *   about a piece, whatever the code does at once.
 */
import {
  decode,
  type EncodedBytes,
  encode,
  encodedBytes,
  encodedBytesHeadMax,
  encodeSpans,
} from "./cbor.ts";
import { GuestError } from "./errors.ts";
import type { CommandPromise } from "./kernel.ts";
import {
  type Command,
  type Encoded,
  objectBytesMax,
  pieceBytesMax,
  pieceMark,
  storedMark,
} from "./protocol.ts";

/** What `put` is answered with. */
export interface StoredValue {
  readonly hash: string;
  readonly size: number;
}

type Ask = (build: (id: number) => Command, label: string) => CommandPromise;

export class Pieces {
  readonly #ask: Ask;
  /** Ends when the value that moves has been moved. */
  #moving: Promise<unknown> = Promise.resolve();

  constructor(ask: Ask) {
    this.#ask = ask;
  }

  /** Stores a value of any size. A large one must not be changed until it is stored. */
  async put(value: unknown): Promise<StoredValue> {
    const spans = encodeSpans(value);
    const size = spans.reduce((sum, span) => sum + span.length, 0);
    if (size > objectBytesMax) {
      throw new GuestError(`the value would take ${size} bytes, of at most ${objectBytesMax}`, {
        code: "value-too-large",
        retryable: false,
      });
    }
    if (size <= pieceBytesMax) return this.#store(joined(spans, size));
    return this.#inTurn(() => this.#putPieces(spans, size));
  }

  /** The value of an object whose encoding takes `size` bytes. */
  async get(hash: string, size: number): Promise<unknown> {
    if (size <= pieceBytesMax) {
      return decode(await this.#ask((id) => ({ kind: "get", id, hash }), "get"));
    }
    return this.#inTurn(() => this.#getPieces(hash, size));
  }

  /** What stands for a stored value in the place of its encoding. */
  static reference({ hash, size }: StoredValue): Encoded {
    const place = encode([hash, 0, -1, size]);
    const value = new Uint8Array(storedMark.length + place.length);
    value.set(storedMark);
    value.set(place, storedMark.length);
    return value;
  }

  /** The value of what the host gave, which may be such a reference. */
  async valueOf(value: Encoded): Promise<unknown> {
    if (!storedMark.every((byte, index) => value[index] === byte)) return decode(value);
    const [hash, , , size] = decode(value.subarray(storedMark.length)) as [string, 0, -1, number];
    return this.get(hash, size);
  }

  async #inTurn<Value>(move: () => Promise<Value>): Promise<Value> {
    const moved = this.#moving.then(move);
    // The next one's turn comes whatever became of this one.
    this.#moving = moved.catch(() => undefined);
    return moved;
  }

  async #store(value: Uint8Array): Promise<StoredValue> {
    const answer = await this.#ask((id) => ({ kind: "put", id, value }), "put");
    return decode(answer) as StoredValue;
  }

  async #putPieces(spans: readonly Uint8Array[], size: number): Promise<StoredValue> {
    const pieces: string[] = [];
    const reader = new SpanReader(spans);
    for (let at = 0; at < size; at += pieceBytesMax) {
      const piece = new Uint8Array(1 + Math.min(pieceBytesMax, size - at));
      piece[0] = pieceMark;
      reader.read(piece.subarray(1));
      pieces.push((await this.#store(piece)).hash);
    }
    const answer = await this.#ask((id) => ({ kind: "assemble", id, pieces, size }), "put");
    return decode(answer) as StoredValue;
  }

  async #getPieces(hash: string, size: number): Promise<unknown> {
    let bytes: Uint8Array<ArrayBuffer> | undefined;
    let place: EncodedBytes | undefined;
    for (let at = 0; at < size; at += pieceBytesMax) {
      const piece = await this.#piece(hash, at, Math.min(pieceBytesMax, size - at));
      if (bytes === undefined) {
        // An array of numbers is read to where it will be: it is there once.
        place = encodedBytes(piece.subarray(0, encodedBytesHeadMax));
        if (place !== undefined && place.at + place.length !== size) place = undefined;
        bytes = new Uint8Array(place?.length ?? size);
      }
      const before = place?.at ?? 0;
      if (at === 0) bytes.set(piece.subarray(before));
      else bytes.set(piece, at - before);
    }
    if (bytes === undefined) throw new GuestError(`object ${hash} is empty`);
    return place === undefined ? decode(bytes) : place.make(bytes);
  }

  async #piece(hash: string, offset: number, length: number): Promise<Uint8Array> {
    const range = { offset, length };
    const answer = await this.#ask(
      (id) => ({ kind: "get", id, hash, range, isEncoded: true }),
      "get",
    );
    const piece = decode(answer);
    if (piece instanceof Uint8Array && piece.length === length) return piece;
    throw new GuestError(`object ${hash} doesn't have the ${offset + length} bytes that it should`);
  }
}

/**
 * Whether a value goes in pieces when nobody asked for that: it is an array of numbers or bytes of
 * more than a piece, or has such a one among its first fields or items. Cheap, as it is asked of
 * each result; what it doesn't find is encoded as a whole.
 */
export function isLarge(value: unknown): boolean {
  if (bytesOf(value) > pieceBytesMax) return true;
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return false;
  const parts: readonly unknown[] = Array.isArray(value)
    ? value.slice(0, partsLookedAt)
    : Object.keys(value)
        .slice(0, partsLookedAt)
        .map((key) => (value as Record<string, unknown>)[key]);
  return parts.reduce((sum: number, part) => sum + bytesOf(part), 0) > pieceBytesMax;
}

const partsLookedAt = 16;

function bytesOf(value: unknown): number {
  return ArrayBuffer.isView(value) || value instanceof ArrayBuffer ? value.byteLength : 0;
}

function joined(spans: readonly Uint8Array[], size: number): Uint8Array {
  const whole = new Uint8Array(size);
  new SpanReader(spans).read(whole);
  return whole;
}

/** Spans as one sequence of bytes, from the beginning on. */
class SpanReader {
  readonly #spans: readonly Uint8Array[];
  #span = 0;
  #at = 0;

  constructor(spans: readonly Uint8Array[]) {
    this.#spans = spans;
  }

  /** Fills `into`; there must be as many bytes. */
  read(into: Uint8Array): void {
    let filled = 0;
    while (filled < into.length) {
      const span = this.#spans[this.#span];
      if (span === undefined) throw new GuestError("a value ended before its pieces did");
      const part = span.subarray(this.#at, this.#at + into.length - filled);
      into.set(part, filled);
      filled += part.length;
      this.#at += part.length;
      if (this.#at < span.length) continue;
      this.#span += 1;
      this.#at = 0;
    }
  }
}
