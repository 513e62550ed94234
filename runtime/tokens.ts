/**
 * Tokens by which somebody outside may decide one event that a run waits for. The token is
 * the whole authority: it names the entity, the wait and when it expires, and is signed
 * with a key of the namespace (keyring.ts). It holds no payload.
 */
import { decode, encode } from "../guest/cbor.ts";
import { SporeError } from "./errors.ts";
import type { EntityKey } from "./ids.ts";
import { isSameMac, joinBytes, type Keyring } from "./keyring.ts";
import type { Clock } from "./ports.ts";

export interface TokenClaims {
  readonly key: EntityKey;
  /** The command that waits, the life it belongs to, and a number never used again. */
  readonly wait: number;
  readonly life: number;
  readonly serial: number;
  readonly expiresAtMs: number;
}

const version = 1;
const macBytes = 32;
/** Version and key number stand before the claims. */
const headBytes = 5;
const tokenCharsMax = 1000;

export class EventTokens {
  readonly #keys: Keyring;
  readonly #clock: Clock;

  constructor(keys: Keyring, clock: Clock) {
    this.#keys = keys;
    this.#clock = clock;
  }

  async issue(claims: TokenClaims): Promise<string> {
    const newest = await this.#keys.newest();
    const { key, wait, life, serial, expiresAtMs } = claims;
    const body = encode([key, wait, life, serial, expiresAtMs]);
    const head = Uint8Array.of(version, 0, 0, 0, 0);
    new DataView(head.buffer).setUint32(1, newest);
    const signed = joinBytes(head, body);
    return base64urlOf(joinBytes(signed, this.#keys.mac(newest, signed)));
  }

  /** What a token of ours says. Everything else is the same `event-not-found`. */
  async read(token: string): Promise<TokenClaims> {
    const bytes = token.length > tokenCharsMax ? undefined : bytesOf(token);
    if (bytes === undefined || bytes.length <= headBytes + macBytes) throw eventNotFound();
    const signed = bytes.subarray(0, -macBytes);
    const number = new DataView(bytes.buffer).getUint32(1);
    if (bytes[0] !== version || !(await this.#keys.has(number))) throw eventNotFound();
    const mac = this.#keys.mac(number, signed);
    if (!isSameMac(mac, bytes.subarray(-macBytes))) throw eventNotFound();
    const [key, wait, life, serial, expiresAtMs] = decode(signed.subarray(headBytes)) as [
      EntityKey,
      number,
      number,
      number,
      number,
    ]; // signed by us
    if (expiresAtMs <= this.#clock.nowMs()) throw eventNotFound();
    return { key, wait, life, serial, expiresAtMs };
  }
}

/** Tampered, foreign, expired or finished: nobody can tell which. */
export function eventNotFound(): SporeError {
  return new SporeError("event-not-found", "there is no event to decide by this token");
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
