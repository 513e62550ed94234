/**
 * Requests between hosts, sealed with a key of the namespace (keyring.ts): only who can read
 * the bucket gets through, each request counts once and for the one host that it names, and
 * an answer belongs to its request. No clocks: a host that starts anew has another id, so what
 * was sealed for its predecessor is worth nothing. Seals, and hides nothing: the way between
 * hosts has to be private or TLS.
 */
import { decode, encode } from "../guest/cbor.ts";
import { SporeError } from "./errors.ts";
import { isSameMac, joinBytes, type Keyring } from "./keyring.ts";

/** Version and key number, then the MAC, then the sealed bytes. */
const headBytes = 5;
const macBytes = 32;
const version = 1;
/** Requests of one host that may overtake each other. */
const serialWindow = 4096;
/** Hosts whose serials are remembered. */
const sendersMax = 1024;

interface Envelope {
  readonly from: string;
  readonly to: string;
  readonly serial: number;
  readonly body: Uint8Array;
}

export interface SealedRequest {
  readonly bytes: Uint8Array;
  readonly mac: Uint8Array;
}

export class Seals {
  readonly #keys: Keyring;
  readonly #hostId: string;
  readonly #senders = new Map<string, Serials>();
  #serial = 0;

  constructor(keys: Keyring, hostId: string) {
    this.#keys = keys;
    this.#hostId = hostId;
  }

  /** A request for the host of that id. */
  async seal(to: string, body: Uint8Array): Promise<SealedRequest> {
    const number = await this.#keys.newest();
    this.#serial += 1;
    const envelope: Envelope = { from: this.#hostId, to, serial: this.#serial, body };
    const bytes = encode(envelope);
    const mac = this.#mac(number, bytes);
    return { bytes: joinBytes(joinBytes(headOf(number), mac), bytes), mac };
  }

  /** What a request says that was sealed for this host. Throws unauthorised, peer-refused. */
  async open(sealed: Uint8Array): Promise<{ readonly body: Uint8Array; readonly mac: Uint8Array }> {
    const { mac, bytes } = await this.#checked(sealed);
    const { from, to, serial, body } = decode(bytes) as Envelope; // sealed by one of us
    if (to !== this.#hostId) throw unauthorised(`it is for ${to}, this is ${this.#hostId}`);
    if (!this.#isNew(from, serial)) throw unauthorised("it came before");
    return { body, mac };
  }

  /** The answer to the request with that MAC. */
  async sealAnswer(mac: Uint8Array, answer: Uint8Array): Promise<Uint8Array> {
    const number = await this.#keys.newest();
    const proof = this.#mac(number, joinBytes(mac, answer));
    return joinBytes(joinBytes(headOf(number), proof), answer);
  }

  /** Throws peer-unavailable if it isn't the answer to that request. */
  async openAnswer(mac: Uint8Array, sealed: Uint8Array): Promise<Uint8Array> {
    const parts = partsOf(sealed);
    if (parts !== undefined && (await this.#keys.knows(parts.number))) {
      const proof = this.#mac(parts.number, joinBytes(mac, parts.bytes));
      if (isSameMac(proof, parts.mac)) return parts.bytes;
    }
    throw new SporeError("peer-unavailable", "what answers there is no host of this namespace");
  }

  async #checked(sealed: Uint8Array): Promise<{ mac: Uint8Array; bytes: Uint8Array }> {
    const parts = partsOf(sealed);
    if (parts === undefined) throw unauthorised("it isn't sealed");
    const { number, mac, bytes } = parts;
    // Nobody waits: what strangers send may be large.
    if (!(await this.#keys.knows(number))) throw unauthorised("its key isn't known");
    if (!isSameMac(this.#mac(number, bytes), mac)) throw unauthorised("its seal is broken");
    return { mac, bytes };
  }

  /** Never the same as of any token: those begin with a version and a key number. */
  #mac(number: number, bytes: Uint8Array): Uint8Array {
    return this.#keys.mac(number, joinBytes(purpose, bytes));
  }

  #isNew(from: string, serial: number): boolean {
    const known = this.#senders.get(from);
    const serials = known ?? { highest: 0, seen: new Set<number>() };
    // The last that was heard of is kept longest.
    this.#senders.delete(from);
    this.#senders.set(from, serials);
    for (const oldest of this.#senders.keys()) {
      if (this.#senders.size <= sendersMax) break;
      this.#senders.delete(oldest);
    }
    return take(serials, serial);
  }
}

// "peers" and a zero byte.
const purpose = Uint8Array.of(0x70, 0x65, 0x65, 0x72, 0x73, 0);

interface Serials {
  highest: number;
  readonly seen: Set<number>;
}

/** Once each, in any order within the window. */
function take(serials: Serials, serial: number): boolean {
  if (serial <= serials.highest - serialWindow || serials.seen.has(serial)) return false;
  serials.seen.add(serial);
  if (serial > serials.highest) {
    serials.highest = serial;
    for (const old of serials.seen) {
      if (serials.seen.size <= serialWindow) break;
      if (old <= serial - serialWindow) serials.seen.delete(old);
    }
  }
  return true;
}

function headOf(number: number): Uint8Array {
  const head = Uint8Array.of(version, 0, 0, 0, 0);
  new DataView(head.buffer).setUint32(1, number);
  return head;
}

function partsOf(
  sealed: Uint8Array,
): { readonly number: number; readonly mac: Uint8Array; readonly bytes: Uint8Array } | undefined {
  const start = headBytes + macBytes;
  if (sealed.length < start || sealed[0] !== version) return undefined;
  const number = new DataView(sealed.buffer, sealed.byteOffset).getUint32(1);
  return { number, mac: sealed.subarray(headBytes, start), bytes: sealed.subarray(start) };
}

function unauthorised(why: string): SporeError {
  return new SporeError("unauthorised", `a peer's request is refused: ${why}`);
}
