/**
 * Tokens by which somebody outside may decide one event that a run waits for. The token is
 * the whole authority: it names the entity, the wait and when it expires, and is signed
 * with a key of the namespace. It holds no payload.
 *
 * Keys are the objects `<prefix>keys/<n>`, 32 random bytes each, created if absent and never
 * changed. The newest signs; older ones stay good for what they have signed.
 */
import { decode, encode } from "../guest/cbor.ts";
import { SporeError } from "./errors.ts";
import type { EntityKey } from "./ids.ts";
import type { Digest, Ports } from "./ports.ts";
import type { Retrier } from "./retry.ts";

export interface TokenClaims {
  readonly key: EntityKey;
  /** The command that waits, the life it belongs to, and a number never used again. */
  readonly wait: number;
  readonly life: number;
  readonly serial: number;
  readonly expiresAtMs: number;
}

const version = 1;
const keyBytes = 32;
const macBytes = 32;
/** Version and key number stand before the claims. */
const headBytes = 5;
const tokenCharsMax = 1000;
/** How long a host may go on signing with a key that is no longer the newest. */
const newestAgeMs = 60_000;

export class EventTokens {
  readonly #ports: Ports;
  readonly #prefix: string;
  readonly #retrier: Retrier;
  readonly #keys = new Map<number, Uint8Array>();
  #newest = 0;
  #readAtMs = Number.NEGATIVE_INFINITY;

  constructor(ports: Ports, prefix: string, retrier: Retrier) {
    this.#ports = ports;
    this.#prefix = prefix;
    this.#retrier = retrier;
  }

  async issue(claims: TokenClaims): Promise<string> {
    await this.#refresh();
    if (this.#newest === 0) await this.#create(1);
    const { key, wait, life, serial, expiresAtMs } = claims;
    const body = encode([key, wait, life, serial, expiresAtMs]);
    const head = Uint8Array.of(version, 0, 0, 0, 0);
    new DataView(head.buffer).setUint32(1, this.#newest);
    const signed = join(head, body);
    return base64urlOf(join(signed, this.#mac(this.#newest, signed)));
  }

  /** What a token of ours says. Everything else is the same `event-not-found`. */
  async read(token: string): Promise<TokenClaims> {
    const bytes = token.length > tokenCharsMax ? undefined : bytesOf(token);
    if (bytes === undefined || bytes.length <= headBytes + macBytes) throw eventNotFound();
    const signed = bytes.subarray(0, -macBytes);
    const number = new DataView(bytes.buffer).getUint32(1);
    if (bytes[0] !== version || number === 0) throw eventNotFound();
    // A key of tomorrow may be another host's; one look a minute is enough to find it.
    if (number > this.#newest) await this.#refresh();
    if (number > this.#newest) throw eventNotFound();
    if (!isEqual(this.#mac(number, signed), bytes.subarray(-macBytes))) throw eventNotFound();
    const [key, wait, life, serial, expiresAtMs] = decode(signed.subarray(headBytes)) as [
      EntityKey,
      number,
      number,
      number,
      number,
    ]; // signed by us
    if (expiresAtMs <= this.#ports.clock.nowMs()) throw eventNotFound();
    return { key, wait, life, serial, expiresAtMs };
  }

  /** From now on this host, and soon the others, sign with a new key. */
  async rotate(): Promise<number> {
    this.#readAtMs = Number.NEGATIVE_INFINITY;
    await this.#refresh();
    await this.#create(this.#newest + 1);
    return this.#newest;
  }

  #mac(number: number, bytes: Uint8Array): Uint8Array {
    const key = this.#keys.get(number);
    if (key === undefined) throw eventNotFound();
    return hmac(this.#ports.digest, key, bytes);
  }

  /** Reads keys that are newer than those known. */
  async #refresh(): Promise<void> {
    const nowMs = this.#ports.clock.nowMs();
    if (Math.abs(nowMs - this.#readAtMs) < newestAgeMs) return;
    while (await this.#load(this.#newest + 1)) this.#newest += 1;
    this.#readAtMs = nowMs;
  }

  async #load(number: number): Promise<boolean> {
    const name = `${this.#prefix}keys/${number}`;
    const bytes = await this.#retrier.run("key get", () => this.#ports.store.get(name));
    if (bytes === undefined) return false;
    if (bytes.length !== keyBytes) {
      throw new SporeError("corrupt-log", `${name} is not a key`, {
        hint: "Was it written by something else? Tokens signed with it can't be checked.",
      });
    }
    this.#keys.set(number, bytes);
    return true;
  }

  /** Whoever writes first decides what the key is: it is read back. */
  async #create(number: number): Promise<void> {
    const name = `${this.#prefix}keys/${number}`;
    const bytes = this.#ports.random.bytes(keyBytes);
    const put = (): Promise<unknown> => this.#ports.store.put(name, bytes, { ifAbsent: true });
    await this.#retrier.run("key put", put);
    if (await this.#load(number)) this.#newest = Math.max(this.#newest, number);
  }
}

/** Tampered, foreign, expired or finished: nobody can tell which. */
export function eventNotFound(): SporeError {
  return new SporeError("event-not-found", "there is no event to decide by this token");
}

/** HMAC-SHA-256 (RFC 2104). */
export function hmac(digest: Digest, key: Uint8Array, bytes: Uint8Array): Uint8Array {
  const block = new Uint8Array(64);
  block.set(key.length > block.length ? digest.sha256(key) : key);
  const padded = (pad: number): Uint8Array => block.map((byte) => byte ^ pad);
  return digest.sha256(join(padded(0x5c), digest.sha256(join(padded(0x36), bytes))));
}

/** In a time that doesn't depend on where they differ. */
function isEqual(left: Uint8Array, right: Uint8Array): boolean {
  let difference = left.length ^ right.length;
  for (let index = 0; index < left.length; index++) {
    difference |= (left[index] ?? 0) ^ (right[index] ?? 0);
  }
  return difference === 0;
}

function join(left: Uint8Array, right: Uint8Array): Uint8Array<ArrayBuffer> {
  const joined = new Uint8Array(left.length + right.length);
  joined.set(left);
  joined.set(right, left.length);
  return joined;
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

function base64urlOf(bytes: Uint8Array): string {
  let text = "";
  let bits = 0;
  let value = 0;
  for (const byte of bytes) {
    value = ((value << 8) | byte) & 0xffff;
    bits += 8;
    for (; bits >= 6; bits -= 6) text += alphabet.charAt((value >> (bits - 6)) & 63);
  }
  return bits === 0 ? text : text + alphabet.charAt((value << (6 - bits)) & 63);
}

/** Undefined unless it is exactly what `base64urlOf` writes. */
function bytesOf(text: string): Uint8Array<ArrayBuffer> | undefined {
  const bytes = new Uint8Array(Math.floor((text.length * 6) / 8));
  let length = 0;
  let bits = 0;
  let value = 0;
  for (const character of text) {
    const digit = alphabet.indexOf(character);
    if (digit < 0) return undefined;
    value = ((value << 6) | digit) & 0xffff;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes[length++] = (value >> bits) & 255;
  }
  return base64urlOf(bytes) === text ? bytes : undefined;
}
