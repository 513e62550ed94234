/** Tokens of events: what they say, and that nobody else can write one. */
import { createHash, createHmac } from "node:crypto";
import { describe, expect, it } from "vitest";
import { MemoryStore } from "../../host/store/memory.ts";
import type { EntityKey } from "../../runtime/ids.ts";
import { hmac, Keyring } from "../../runtime/keyring.ts";
import type { Clock, Digest, Ports } from "../../runtime/ports.ts";
import { Retrier } from "../../runtime/retry.ts";
import { EventTokens, type TokenClaims } from "../../runtime/tokens.ts";
import { SeededRandom } from "../faulty-store.ts";

const digest: Digest = {
  sha256: (bytes) => new Uint8Array(createHash("sha256").update(bytes).digest()),
};
const observer = { log() {}, count() {}, observe() {} };
let nowMs = 1000;
const waits: number[] = [];
/** What waits is called at once; for how long it meant to is noted. */
const clock: Clock = {
  nowMs: () => nowMs,
  after(delayMs, callback) {
    waits.push(delayMs);
    queueMicrotask(callback);
    return () => undefined;
  },
};

function keysOn(store: MemoryStore, seed: number): Keyring {
  const ports: Partial<Ports> = { store, digest, clock, observer, random: new SeededRandom(seed) };
  return new Keyring(ports as Ports, "", new Retrier(clock, observer));
}

function tokensOn(store: MemoryStore, seed: number): EventTokens {
  return new EventTokens(keysOn(store, seed), clock);
}

const claims: TokenClaims = {
  key: "acme/r/order_7" as EntityKey,
  wait: 3,
  life: 1_700_000_000_000,
  serial: 12,
  expiresAtMs: 5000,
};
const notFound = { code: "event-not-found" };

describe("a token", () => {
  it("says what it was issued for, on every host, until it expires", async () => {
    const store = new MemoryStore();
    const token = await tokensOn(store, 1).issue(claims);
    expect(token).toMatch(/^[A-Za-z0-9_-]+$/);
    const other = tokensOn(store, 2);
    expect(await other.read(token)).toEqual(claims);
    nowMs = 5000;
    await expect(other.read(token)).rejects.toMatchObject(notFound);
    nowMs = 1000;
  });

  it("is refused when any character is another one, is missing or is added", async () => {
    const tokens = tokensOn(new MemoryStore(), 1);
    const token = await tokens.issue(claims);
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for (let at = 0; at < token.length; at++) {
      const digit = alphabet.indexOf(token.charAt(at));
      for (const by of [1, 2, 4, 8, 16, 32]) {
        const changed = token.slice(0, at) + alphabet.charAt(digit ^ by) + token.slice(at + 1);
        await expect(tokens.read(changed), changed).rejects.toMatchObject(notFound);
      }
      const shorter = token.slice(0, at) + token.slice(at + 1);
      await expect(tokens.read(shorter), shorter).rejects.toMatchObject(notFound);
    }
    for (const junk of ["", "A", `${token}A`, `${token}=`, "ü".repeat(80), "A".repeat(5000)]) {
      await expect(tokens.read(junk), junk).rejects.toMatchObject(notFound);
    }
    expect(await tokens.read(token)).toEqual(claims);
  });

  it("of another namespace is refused", async () => {
    const token = await tokensOn(new MemoryStore(), 1).issue(claims);
    await expect(tokensOn(new MemoryStore(), 2).read(token)).rejects.toMatchObject(notFound);
  });

  it("stays good when the key is rotated, and new ones are good on hosts that didn't know", async () => {
    const store = new MemoryStore();
    const keys = keysOn(store, 1);
    const [one, two] = [new EventTokens(keys, clock), tokensOn(store, 2)];
    const before = await one.issue(claims);
    expect(await two.read(before)).toEqual(claims);
    expect(await keys.rotate()).toBe(2);
    const after = await one.issue(claims);
    expect(after).not.toBe(before);
    expect(await one.read(before)).toEqual(claims);
    nowMs += 60_000;
    const late = { ...claims, expiresAtMs: nowMs + 1000 };
    expect(await two.read(await one.issue(late))).toEqual(late);
    nowMs = 1000;
  });

  it("is good on a host that has just looked for its key, and a look serves all who wait", async () => {
    const store = new MemoryStore();
    const other = tokensOn(store, 2);
    const forged = await tokensOn(new MemoryStore(), 3).issue(claims);
    await expect(other.read(forged)).rejects.toMatchObject(notFound);
    const token = await tokensOn(store, 1).issue(claims);
    const reads: string[] = [];
    const { get } = store;
    store.get = (key, ...rest) => {
      reads.push(key);
      return get.call(store, key, ...rest);
    };
    waits.length = 0;
    const later = await tokensOn(new MemoryStore(), 4).issue(claims);
    reads.length = 0;
    waits.length = 0;
    const [good, ...bad] = await Promise.allSettled([
      other.read(token),
      ...Array.from({ length: 50 }, () => other.read(later)),
    ]);
    expect(good).toEqual({ status: "fulfilled", value: claims });
    expect(bad.every(({ status }) => status === "rejected")).toBe(true);
    expect(reads).toEqual(["keys/1", "keys/2"]);
    expect(waits).toEqual([1000]);
  });

  it("has one first key, whoever makes it", async () => {
    const store = new MemoryStore();
    const hosts = [1, 2, 3].map((seed) => tokensOn(store, seed));
    const issued = await Promise.all(hosts.map((host) => host.issue(claims)));
    expect(new Set(issued).size).toBe(1);
  });
});

it("hmac is what others compute", () => {
  for (const length of [0, 20, 64, 65, 131]) {
    const key = new Uint8Array(length).fill(0xaa);
    const bytes = new TextEncoder().encode(`of ${length}`);
    const expected = createHmac("sha256", key).update(bytes).digest("hex");
    expect(Buffer.from(hmac(digest, key, bytes)).toString("hex")).toBe(expected);
  }
});
