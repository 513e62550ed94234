/**
 * Secret keys of the namespace: the objects `<prefix>keys/<n>`, 32 random bytes each, created
 * if absent and never changed. The newest signs; older ones stay good for what they have
 * signed.
 */
import { SporeError } from "./errors.ts";
import type { Digest, Ports } from "./ports.ts";
import type { Retrier } from "./retry.ts";

const keyBytes = 32;
/** How long a host may go on signing with a key that is no longer the newest. */
const newestAgeMs = 60_000;
/** How often it looks for one that somebody else seems to have: who forges costs no more. */
const unknownPauseMs = 1000;

type KeyringPorts = Pick<Ports, "store" | "random" | "digest" | "clock">;

export class Keyring {
  readonly #ports: KeyringPorts;
  readonly #prefix: string;
  readonly #retrier: Retrier;
  readonly #keys = new Map<number, Uint8Array>();
  #newest = 0;
  #readAtMs = Number.NEGATIVE_INFINITY;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  /** Of those who wait for a look that hasn't begun. */
  #nextLook: Promise<void> | undefined;

  constructor(ports: KeyringPorts, prefix: string, retrier: Retrier) {
    this.#ports = ports;
    this.#prefix = prefix;
    this.#retrier = retrier;
  }

  /** Number of the key to sign with; made if there is none. */
  async newest(): Promise<number> {
    await this.#refresh(newestAgeMs);
    if (this.#newest === 0) await this.#create(1);
    return this.#newest;
  }

  /**
   * Whether a key of that number is known. One of tomorrow may be another host's: then it is looked
   * for, but not more often than once a second.
   */
  async knows(number: number): Promise<boolean> {
    if (number > this.#newest) await this.#refresh(unknownPauseMs);
    return number >= 1 && number <= this.#newest;
  }

  /** Whether there is a key of that number; who asks for one of tomorrow waits for the next look. */
  async has(number: number): Promise<boolean> {
    if (number > this.#newest) await this.#lookAgain();
    return number >= 1 && number <= this.#newest;
  }

  /** Resolves after a look that begins from now on, together with whoever else wants one. */
  #lookAgain(): Promise<void> {
    if (this.#nextLook !== undefined) return this.#nextLook;
    const { clock } = this.#ports;
    const sinceMs = Math.abs(clock.nowMs() - this.#lookedAtMs);
    const begin = new Promise<void>((resolve) =>
      clock.after(Math.max(0, unknownPauseMs - sinceMs), resolve),
    );
    this.#nextLook = begin.then(() => {
      this.#nextLook = undefined;
      this.#lookedAtMs = clock.nowMs();
      return this.#refresh(0);
    });
    return this.#nextLook;
  }

  /** HMAC with a key that is there, after `newest`, `knows` or `has`. */
  mac(number: number, bytes: Uint8Array): Uint8Array {
    const key = this.#keys.get(number);
    if (key === undefined) throw new SporeError("internal", `key ${number} isn't known`);
    return hmac(this.#ports.digest, key, bytes);
  }

  /** From now on this host, and soon the others, sign with a new key. */
  async rotate(): Promise<number> {
    await this.#refresh(0);
    await this.#create(this.#newest + 1);
    return this.#newest;
  }

  /** Reads keys that are newer than those known, if the last look is that long ago. */
  async #refresh(ageMs: number): Promise<void> {
    const nowMs = this.#ports.clock.nowMs();
    if (Math.abs(nowMs - this.#readAtMs) < ageMs) return;
    // Two may look at the same time.
    for (let next = this.#newest + 1; await this.#load(next); next += 1) {
      this.#newest = Math.max(this.#newest, next);
    }
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

/** HMAC-SHA-256 (RFC 2104). */
export function hmac(digest: Digest, key: Uint8Array, bytes: Uint8Array): Uint8Array {
  const block = new Uint8Array(64);
  block.set(key.length > block.length ? digest.sha256(key) : key);
  const padded = (pad: number): Uint8Array => block.map((byte) => byte ^ pad);
  return digest.sha256(joinBytes(padded(0x5c), digest.sha256(joinBytes(padded(0x36), bytes))));
}

/** In a time that doesn't depend on where they differ. */
export function isSameMac(left: Uint8Array, right: Uint8Array): boolean {
  let difference = left.length ^ right.length;
  for (let index = 0; index < left.length; index++) {
    difference |= (left[index] ?? 0) ^ (right[index] ?? 0);
  }
  return difference === 0;
}

export function joinBytes(left: Uint8Array, right: Uint8Array): Uint8Array<ArrayBuffer> {
  const joined = new Uint8Array(left.length + right.length);
  joined.set(left);
  joined.set(right, left.length);
  return joined;
}
