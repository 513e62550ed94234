/**
 * Reads on a host that doesn't own the partition: what a follower's rows are worth (replica.ts
 * R4, tail.ts T3, follower.ts F1 to F3), and when a host follows at all.
 */
import { createHash } from "node:crypto";
import fc from "fast-check";
import { beforeEach, describe, expect, test } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import { actor } from "../../guest/index.ts";
import { MemoryStore } from "../../host/store/memory.ts";
import { decodeBatch, encodeBatch } from "../../runtime/batch.ts";
import { Follower } from "../../runtime/follower.ts";
import { Followers } from "../../runtime/followers.ts";
import { encodeRow, rowKeys } from "../../runtime/format.ts";
import { actorKey } from "../../runtime/ids.ts";
import { Log } from "../../runtime/log.ts";
import type { Clock, Digest, Observer, Ports, Store } from "../../runtime/ports.ts";
import { Replica } from "../../runtime/replica.ts";
import { Table } from "../../runtime/table.ts";
import { seqText, staysBelow } from "../../runtime/tail.ts";
import { SeededRandom } from "../faulty-store.ts";
import { type SimHost, World } from "../sim/world.ts";

const digest: Digest = {
  sha256: (bytes) => new Uint8Array(createHash("sha256").update(bytes).digest()),
};
const observer: Observer = { log() {}, count() {}, observe() {} };
const clock: Clock = {
  nowMs: () => 0,
  after: (_delayMs, callback) => {
    const immediate = setImmediate(callback);
    return () => clearImmediate(immediate);
  },
};
const key = actorKey("t", "FollowerTally", "a");
const markOf = (base: number): string => `p/passed/${seqText(base)}`;

/** Remembers what was asked, and whatever was written. */
class WatchedStore extends MemoryStore {
  asked: string[] = [];
  readonly written = new Map<string, Uint8Array>();
  beforeGet: (() => Promise<void>) | undefined;
  /** Done once, before the next segment is read. */
  beforeSegment: (() => Promise<void>) | undefined;

  override async get(...args: Parameters<Store["get"]>): Promise<Uint8Array | undefined> {
    this.asked.push(args[0]);
    await this.beforeGet?.();
    if (args[0].startsWith("p/table/")) {
      const work = this.beforeSegment;
      this.beforeSegment = undefined;
      await work?.();
    }
    return super.get(...args);
  }

  override put(...args: Parameters<Store["put"]>): ReturnType<Store["put"]> {
    this.written.set(args[0], args[1].slice());
    return super.put(...args);
  }
}

/** Owners of one partition, as partition.ts has them: one count in one actor's state. */
class Owners {
  readonly store: WatchedStore;
  readonly #random: SeededRandom;
  #log: Log | undefined;
  #table: Table | undefined;
  #owners = 0;
  #bases: number[] = [];
  count = 0;

  constructor(store: WatchedStore, seed: number) {
    this.store = store;
    this.#random = new SeededRandom(seed);
  }

  get #parts() {
    return { store: this.store, prefix: "p", random: this.#random, digest, clock, observer };
  }

  get log(): Log {
    if (this.#log === undefined) throw new Error("there is an owner");
    return this.#log;
  }

  async change(claim: object = {}): Promise<void> {
    this.#owners += 1;
    this.#log = new Log({ ...this.#parts, partition: 7 });
    const info = encodeRow({ hostId: `h${this.#owners}`, ...claim });
    const claimed = await this.#log.claim(info);
    if (claimed.kind !== "claimed") throw new Error(`the claim is ${claimed.kind}`);
    this.#table = Table.open(
      { ...this.#parts, epoch: claimed.epoch, limits: { levelZeroMax: 2 } },
      claimed.checkpoint,
    );
    for (const { payload } of claimed.entries) this.#table.apply(decodeBatch(payload));
    // A later owner doesn't know of bases before: it frees from what the header says.
    this.#bases = [this.#log.base];
  }

  /** One more, acknowledged when it resolves. */
  async write(): Promise<void> {
    this.count += 1;
    const head = { kind: "actor", component: "c", lastNowMs: 0, count: this.count };
    const rows = new Map<string, Uint8Array>([
      [rowKeys.head(key), encodeRow(head)],
      [rowKeys.state(key), encode(this.count)],
    ]);
    expect((await this.log.append("batch", encodeBatch(rows))).kind).toBe("written");
    this.#table?.apply(rows);
  }

  async checkpoint(isFlushed: boolean): Promise<void> {
    if (this.#table === undefined) throw new Error("there is an owner");
    if (isFlushed) await this.#table.flush();
    await this.#table.compact();
    const { bytes, generation } = this.#table.checkpoint();
    expect((await this.log.append("checkpoint", bytes)).kind).toBe("written");
    this.#bases.push(this.log.base);
    await this.#table.commit(generation);
  }

  /** Up to the newest checkpoint, or the one before it. */
  async truncate(isNewest: boolean): Promise<void> {
    await this.log.truncate(this.#bases.at(isNewest ? -1 : -2) ?? this.log.base);
  }

  /** A PUT that was on its way all the time arrives (log.ts L2): litter. */
  async haunt(pick: number): Promise<void> {
    const gone = [...this.store.written].filter(([name]) => name.startsWith("p/log/"));
    const [name, bytes] = gone[pick % gone.length] ?? [];
    if (name !== undefined && bytes !== undefined) {
      await MemoryStore.prototype.put.call(this.store, name, bytes, { ifAbsent: true });
    }
  }

  replica(): Promise<Replica> {
    return Replica.open({ ...this.#parts, partition: 7 });
  }
}

async function followed(store: WatchedStore, seed = 1): Promise<[Owners, Follower]> {
  const owners = new Owners(store, seed);
  await owners.change();
  await owners.write();
  return [owners, new Follower(await owners.replica(), 0)];
}

async function seen(follower: Follower): Promise<unknown> {
  const entity = await follower.look(key, 0);
  const head = entity?.head as unknown as { count: number };
  const state = entity?.state === undefined ? undefined : decode(entity.state);
  // F2: both rows are of one entry.
  expect(head.count).toBe(state);
  return state;
}

describe("a follower", () => {
  test("sees what was acknowledged, whatever owners free and whatever comes back", async () => {
    const step = fc.constantFrom("write", "write", "checkpoint", "flush", "truncate", "change");
    const more = fc.constantFrom("truncate now", "haunt", "read", "late", "along", "along");
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.oneof(step, more), fc.nat(1000)), { minLength: 10, maxLength: 80 }),
        fc.nat(1000),
        async (steps, seed) => {
          const store = new WatchedStore();
          const [owners, follower] = await followed(store, seed);
          const late = new Follower(await owners.replica(), 0);
          const along: Promise<void>[] = [];
          for (const [kind, pick] of steps) {
            if (kind === "along") {
              // Beside whatever comes next.
              const least = owners.count;
              const read = seen(follower).then((value) => {
                expect(value).toBeGreaterThanOrEqual(least);
                expect(value).toBeLessThanOrEqual(owners.count);
              });
              along.push(read);
            } else if (kind === "write") await owners.write();
            else if (kind === "checkpoint" || kind === "flush") {
              await owners.checkpoint(kind === "flush");
            } else if (kind === "truncate") await owners.truncate(false);
            else if (kind === "truncate now") await owners.truncate(true);
            else if (kind === "change") await owners.change();
            else if (kind === "haunt") await owners.haunt(pick);
            else expect(await seen(kind === "late" ? late : follower)).toBe(owners.count);
          }
          expect(await seen(follower)).toBe(owners.count);
          expect(await seen(late)).toBe(owners.count);
          await Promise.all(along);
        },
      ),
      { numRuns: 300 },
    );
  }, 60_000);

  test("asks two questions if nothing is new, in that order, however long the log is", async () => {
    const store = new WatchedStore();
    const [owners, follower] = await followed(store);
    for (let round = 0; round < 5; round += 1) {
      for (let n = 0; n < 200; n += 1) await owners.write();
      await owners.checkpoint(true);
      await owners.truncate(true);
    }
    await owners.write();
    expect(await seen(follower)).toBe(owners.count);
    store.asked = [];
    await follower.catchUp();
    const { seq, base } = owners.log;
    expect(store.asked).toEqual([`p/log/${seqText(seq + 1)}`, markOf(base)]);
  });

  test("is not fooled by its last entry, which was freed and came back", async () => {
    const store = new WatchedStore();
    const [owners, follower] = await followed(store);
    await owners.write();
    expect(await seen(follower)).toBe(2);
    const name = `p/log/${seqText(owners.log.seq)}`;
    for (let n = 0; n < 4; n += 1) await owners.write();
    await owners.checkpoint(true);
    await owners.truncate(true);
    await store.put(name, store.written.get(name) ?? new Uint8Array(), { ifAbsent: true });
    expect(await seen(follower)).toBe(6);
  });

  test("reads for all who wait at once, and never for who came after it asked", async () => {
    const store = new WatchedStore();
    const [owners, follower] = await followed(store);
    const first = follower.catchUp();
    // It has asked; what is written now it may miss.
    await owners.write();
    store.asked = [];
    const late = [follower.look(key, 0), follower.look(key, 0), follower.look(key, 0)];
    const values = (await Promise.all(late)).map((found) => decode(found?.state ?? encode(0)));
    expect(values).toEqual([2, 2, 2]);
    await first;
    const marks = store.asked.filter((name) => name.startsWith("p/passed/"));
    expect(marks.length).toBeLessThanOrEqual(2);
  });

  test("reads again if the segments go under it, and says what is really damaged", async () => {
    const store = new WatchedStore();
    const [owners, follower] = await followed(store);
    await owners.checkpoint(true);
    const [segment] = (await store.list("p/table/")).keys;
    store.beforeSegment = async () => {
      for (let n = 0; n < 3; n += 1) {
        await owners.write();
        await owners.checkpoint(true);
      }
    };
    expect(await seen(follower)).toBe(4);
    expect((await store.list("p/table/")).keys).not.toContainEqual(segment);
    await owners.write();
    await owners.checkpoint(true);
    for (const { key: name } of (await store.list("p/table/")).keys) await store.delete(name);
    await expect(seen(follower)).rejects.toMatchObject({ code: "corrupt-segment" });
  });

  test("answers nothing from a log that is sealed for a later layout than its own", async () => {
    const store = new WatchedStore();
    const [owners, follower] = await followed(store);
    await owners.change({ seal: 1 });
    await expect(follower.look(key, 0)).rejects.toMatchObject({ code: "layout-changing" });
    // For who is on the layout that the seal was for, the change was given up.
    const later = new Follower(await owners.replica(), 1);
    expect(await seen(later)).toBe(1);
    await owners.change();
    await owners.write();
    expect(await seen(follower)).toBe(2);
  });

  test("answers nothing from a layout that was left, also when its entries are gone", async () => {
    const store = new WatchedStore();
    const [owners, follower] = await followed(store);
    for (let n = 0; n < 20; n += 1) await owners.write();
    await owners.change({ seal: 1 });
    await owners.log.pass(); // as reshard.ts does before anybody may delete them
    const { seq } = owners.log;
    for (let n = 3; n < seq; n += 1) {
      if (!staysBelow(n, seq)) await store.delete(`p/log/${seqText(n)}`);
    }
    await expect(follower.look(key, 0)).rejects.toMatchObject({ code: "corrupt-log" });
  });
});

describe("an owner", () => {
  test("marks a base as passed before there is a later one, and before anything is freed", async () => {
    const store = new WatchedStore();
    const owners = new Owners(store, 1);
    await owners.change();
    for (let round = 0; round < 3; round += 1) {
      const { base } = owners.log;
      await owners.write();
      expect(store.written.has(markOf(base))).toBe(false);
      await owners.checkpoint(false);
      const names = [...store.written.keys()];
      const later = names.indexOf(`p/log/${seqText(owners.log.seq)}`);
      expect(names.indexOf(markOf(base))).toBeGreaterThanOrEqual(0);
      expect(names.indexOf(markOf(base))).toBeLessThan(later);
      await owners.truncate(true);
    }
    expect((await store.list("p/passed/")).keys.length).toBe(3);
  });
});

// ---------------------------------------------------------------- hosts

const Tally = actor(
  "FollowerTally",
  class {
    total = 0;
    add(n: number): number {
      this.total += n;
      return this.total;
    }
    value(): number {
      return this.total;
    }
    cheat(): number {
      this.total += 1000;
      return this.total;
    }
  },
  { readonly: ["value", "cheat"] },
);
void Tally;

describe("hosts that share", () => {
  let world: World;
  let first: SimHost;
  let second: SimHost;

  beforeEach(async () => {
    world = new World({
      seed: 5,
      partitions: 1,
      limits: { lingerMs: 5, checkpointEntries: 5 },
      storeMs: 2,
      isShared: true,
    });
    first = world.startHost();
    await world.runUntil(() => first.isReady, 30_000);
    second = world.startHost();
    await world.runUntil(() => second.isReady, world.nowMs + 30_000);
    await call(first, "add", 1);
  });

  async function call(at: SimHost, method: string, ...args: unknown[]): Promise<unknown> {
    const tenant = at.host?.tenant("t");
    if (tenant === undefined) throw new Error("the host is up");
    if ((await world.finished(tenant.currentComponent())) === undefined) {
      await world.finished(tenant.deploy({ kind: "javascript", code: "export {};" }));
    }
    const request = { type: "FollowerTally", key: "a", method, args: encode(args) };
    const result = await world.finished(tenant.callActor(request));
    if (result.kind !== "done" || result.outcome.kind !== "ok") throw new Error("no answer");
    return decode(result.outcome.value);
  }

  function followedReads(): number {
    return world.counts.get("spore_followed_reads_total") ?? 0;
  }

  function owner(): SimHost {
    return [first, second].find(({ host }) =>
      host?.status().partitions.some(({ state }) => state === "owned"),
    ) as SimHost;
  }

  function other(): SimHost {
    return owner() === first ? second : first;
  }

  /** The first reads are passed on, while the log is being read. */
  async function follow(): Promise<void> {
    for (let n = 0; n < 20 && followedReads() === 0; n += 1) await call(other(), "value");
    expect(followedReads()).toBe(1);
  }

  test("a read by a host that doesn't own the actor asks no other host, and sees every write", async () => {
    await follow();
    const reader = other();
    for (let n = 2; n < 30; n += 1) {
      await call(owner(), "add", 1);
      const before = followedReads();
      expect(await call(reader, "value")).toBe(n);
      expect(await call(reader, "cheat")).toBe(n + 1000);
      expect(followedReads()).toBe(before + 2);
    }
    // Whatever its code tried.
    expect(await call(owner(), "value")).toBe(29);
  });

  test("reads go on without an owner, before anybody takes over", async () => {
    await follow();
    const [gone, reader] = [owner(), other()];
    await call(reader, "add", 1);
    const claims = world.counts.get("claims");
    gone.crash();
    const before = followedReads();
    expect(await call(reader, "value")).toBe(2);
    expect(followedReads()).toBe(before + 1);
    expect(world.counts.get("claims")).toBe(claims);
  });

  test("nobody is followed whom nobody asks, and calls that change something don't ask", async () => {
    await call(other(), "value");
    await call(other(), "add", 1);
    const gets = (): number => world.bucket.gets;
    await world.finished(world.sleep(200_000));
    const before = gets();
    await call(other(), "add", 1);
    await call(other(), "add", 1);
    // Its own commits and what is deployed; nothing of a log.
    expect(gets() - before).toBeLessThan(10);
    expect(followedReads()).toBe(0);
  });
});

describe("the partitions that a host follows", () => {
  /** Time that stands still until it is told. */
  class Hours implements Clock {
    #now = 0;
    readonly #timers = new Set<{ readonly atMs: number; readonly run: () => void }>();

    nowMs(): number {
      return this.#now;
    }

    after(delayMs: number, run: () => void): () => void {
      const timer = { atMs: this.#now + delayMs, run };
      this.#timers.add(timer);
      return () => void this.#timers.delete(timer);
    }

    async pass(ms: number): Promise<void> {
      this.#now += ms;
      for (const timer of [...this.#timers]) {
        if (timer.atMs <= this.#now && this.#timers.delete(timer)) timer.run();
      }
      await settled();
    }
  }

  const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 10));

  function following(store: Store, hours: Clock): Followers {
    const ports = { store, random: new SeededRandom(1), digest, clock: hours, observer };
    return new Followers({
      ports: ports as unknown as Ports, // of which reading needs no other
      prefix: "",
      layout: { number: 0, partitions: 100, folder: "p" },
      loadComponent: () => Promise.resolve(),
      onSealed: () => undefined,
    });
  }

  /** A log whose rows nobody has put into segments yet. */
  async function logWith(store: Store, partition: number, bytes: number): Promise<void> {
    const random = new SeededRandom(partition);
    const prefix = `p/${partition}`;
    const log = new Log({ store, prefix, partition, random, digest, clock, observer });
    await log.claim(encodeRow({ hostId: "h" }));
    const head = { kind: "actor", component: "c", lastNowMs: 0 };
    const rows = new Map([
      [rowKeys.head(key), encodeRow(head)],
      [rowKeys.state(key), new Uint8Array(bytes)],
    ]);
    await log.append("batch", encodeBatch(rows));
  }

  test("are so many at most, and those that nobody asks for are let go", async () => {
    const hours = new Hours();
    const followers = following(new MemoryStore(), hours);
    for (let partition = 0; partition < 8; partition += 1) {
      expect(await followers.look(partition, key)).toBeUndefined();
    }
    // So many at once, too.
    expect(followers.count).toBe(4);
    for (let partition = 4; partition < 100; partition += 1) {
      await settled();
      expect(await followers.look(partition, key)).toBeUndefined();
    }
    expect(followers.count).toBe(64);
    await hours.pass(60_000);
    await followers.look(3, key);
    await hours.pass(60_000);
    expect(followers.count).toBe(1);
    await hours.pass(60_000);
    expect(followers.count).toBe(0);
    followers.close();
    expect(await followers.look(1, key)).toBeUndefined();
    expect(followers.count).toBe(0);
  });

  test("keep so much in memory at most: what wasn't read for longest is let go for a while", async () => {
    const store = new MemoryStore();
    const hours = new Hours();
    const followers = following(store, hours);
    for (const partition of [1, 2, 3]) {
      await logWith(store, partition, 25 * 1024 * 1024);
      await followers.look(partition, key);
      await settled();
    }
    for (let n = 0; n < 3; n += 1) {
      expect(await followers.look(1, key)).toBeUndefined();
      expect((await followers.look(2, key))?.entity?.key).toBe(key);
      expect((await followers.look(3, key))?.entity?.key).toBe(key);
      await settled();
      expect(followers.count).toBe(2);
    }
    await hours.pass(60_000);
    await followers.look(1, key);
    await settled();
    expect((await followers.look(1, key))?.entity?.key).toBe(key);
    expect(followers.count).toBe(2);
    followers.close();
  });

  test("don't keep a read waiting, nor are they asked again at once after a failure", async () => {
    const store = new WatchedStore();
    const hours = new Hours();
    const followers = following(store, hours);
    await logWith(store, 1, 10);
    await followers.look(1, key);
    await settled();
    const { promise, resolve } = Promise.withResolvers<void>();
    store.beforeGet = () => promise;
    const slow = followers.look(1, key);
    await hours.pass(2000);
    expect(await slow).toBeUndefined();
    store.beforeGet = undefined;
    resolve();
    expect((await followers.look(1, key))?.entity?.key).toBe(key);

    store.beforeGet = () => Promise.reject(new Error("out of order"));
    expect(await followers.look(1, key)).toBeUndefined();
    store.beforeGet = undefined;
    expect(await followers.look(1, key)).toBeUndefined();
    expect(followers.count).toBe(0);
    await hours.pass(1000);
    await followers.look(1, key);
    await settled();
    expect((await followers.look(1, key))?.entity?.key).toBe(key);
    followers.close();
  });
});
