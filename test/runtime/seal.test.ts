/** Seals between hosts: who gets through, how often, and to whom. */
import { createHash } from "node:crypto";
import { expect, it } from "vitest";
import { MemoryStore } from "../../host/store/memory.ts";
import { Keyring } from "../../runtime/keyring.ts";
import type { Clock, Digest } from "../../runtime/ports.ts";
import { Retrier } from "../../runtime/retry.ts";
import { Seals } from "../../runtime/seal.ts";
import { SeededRandom } from "../faulty-store.ts";

const digest: Digest = {
  sha256: (bytes) => new Uint8Array(createHash("sha256").update(bytes).digest()),
};
const observer = { log() {}, count() {}, observe() {} };
let nowMs = 1000;
const clock: Clock = { nowMs: () => nowMs, after: () => () => undefined };

function keysOn(store: MemoryStore, seed: number): Keyring {
  const ports = { store, digest, clock, random: new SeededRandom(seed) };
  return new Keyring(ports, "", new Retrier(clock, observer));
}

function hostsOn(store: MemoryStore): readonly [Seals, Seals, Seals] {
  const host = (n: number): Seals => new Seals(keysOn(store, n), `h${n}`);
  return [host(1), host(2), host(3)];
}

const body = new TextEncoder().encode("do it");
const refused = { code: "unauthorised" };

it("a sealed request is opened by the host that it is for, once", async () => {
  const [one, two, three] = hostsOn(new MemoryStore());
  const { bytes } = await one.seal("h2", body);
  await expect(three.open(bytes)).rejects.toMatchObject(refused);
  expect(Buffer.from((await two.open(bytes)).body).toString()).toBe("do it");
  await expect(two.open(bytes)).rejects.toMatchObject(refused);
});

it("requests may overtake each other, and each counts once", async () => {
  const [one, two] = hostsOn(new MemoryStore());
  const sealed = await Promise.all(Array.from({ length: 50 }, () => one.seal("h2", body)));
  for (const { bytes } of sealed.toReversed()) await two.open(bytes);
  for (const { bytes } of sealed) await expect(two.open(bytes)).rejects.toMatchObject(refused);
});

it("a request that is older than the window is refused, though it never came", async () => {
  const [one, two] = hostsOn(new MemoryStore());
  const { bytes: old } = await one.seal("h2", body);
  for (let n = 0; n < 4096; n += 1) await two.open((await one.seal("h2", body)).bytes);
  await expect(two.open(old)).rejects.toMatchObject(refused);
});

it("no byte of a request or an answer can be changed, and no other answer be given", async () => {
  const [one, two] = hostsOn(new MemoryStore());
  const request = await one.seal("h2", body);
  for (let at = 0; at < request.bytes.length; at += 1) {
    const changed = request.bytes.slice();
    changed[at] = (changed[at] ?? 0) ^ 1;
    nowMs += 2000;
    await expect(two.open(changed), `byte ${at}`).rejects.toMatchObject(refused);
  }
  const { mac } = await two.open(request.bytes);
  const answer = await two.sealAnswer(mac, body);
  expect(Buffer.from(await one.openAnswer(request.mac, answer)).toString()).toBe("do it");
  const other = await one.seal("h2", body);
  const lost = { code: "peer-unavailable" };
  await expect(one.openAnswer(other.mac, answer)).rejects.toMatchObject(lost);
  for (let at = 0; at < answer.length; at += 1) {
    const changed = answer.slice();
    changed[at] = (changed[at] ?? 0) ^ 1;
    nowMs += 2000;
    await expect(one.openAnswer(request.mac, changed), `byte ${at}`).rejects.toMatchObject(lost);
  }
});

it("what is sealed in another namespace is refused, and so is junk", async () => {
  const [one] = hostsOn(new MemoryStore());
  const [, two] = hostsOn(new MemoryStore());
  const other = new Seals(keysOn(new MemoryStore(), 9), "h1");
  await expect(two.open((await other.seal("h2", body)).bytes)).rejects.toMatchObject(refused);
  for (const junk of [new Uint8Array(0), new Uint8Array(36), new Uint8Array(500).fill(1)]) {
    await expect(one.open(junk)).rejects.toMatchObject(refused);
  }
});

it("goes on when the key is changed", async () => {
  const store = new MemoryStore();
  const keys = keysOn(store, 1);
  const [one, two] = [new Seals(keys, "h1"), new Seals(keysOn(store, 2), "h2")];
  await two.open((await one.seal("h2", body)).bytes);
  expect(await keys.rotate()).toBe(2);
  nowMs += 2000;
  expect((await two.open((await one.seal("h2", body)).bytes)).body).toEqual(body);
});
