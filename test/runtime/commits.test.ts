/** When staged changes become durable, by the invariants of runtime/commits.ts. */
import { createHash } from "node:crypto";
import { beforeEach, expect, test } from "vitest";
import { MemoryStore } from "../../host/store/memory.ts";
import { Commits } from "../../runtime/commits.ts";
import { SporeError } from "../../runtime/errors.ts";
import { Log } from "../../runtime/log.ts";
import type { Clock } from "../../runtime/ports.ts";
import { Table } from "../../runtime/table.ts";
import { SeededRandom } from "../faulty-store.ts";

let isOwned: boolean;
/** Alarms that are set. */
let alarms: Set<() => void>;
let commits: Commits;
let store: MemoryStore;
let log: Log;
let committed: () => void;

const observer = { log: () => undefined, count: () => undefined, observe: () => undefined };
const error = new SporeError("host-stopping", "the host is stopping");
const clock: Clock = {
  nowMs: () => 0,
  after: (_delayMs, callback) => {
    alarms.add(callback);
    return () => alarms.delete(callback);
  },
};

beforeEach(() => {
  isOwned = true;
  committed = () => undefined;
  alarms = new Set();
  store = new MemoryStore();
  log = newLog(1);
  commits = newCommits();
});

function newCommits(): Commits {
  return new Commits({
    log,
    clock,
    observer,
    limits: { lingerMs: 0, gatherMs: 0, checkpointBytes: 1000, checkpointEntries: 10 },
    isOwned: () => isOwned,
    isResultComing: () => false,
    background: (work) => void work,
    moved: () => undefined,
    committed: () => committed(),
    rested: () => undefined,
  });
}

const digest = {
  sha256: (bytes: Uint8Array) => new Uint8Array(createHash("sha256").update(bytes).digest()),
};

function newLog(seed: number): Log {
  const random = new SeededRandom(seed);
  return new Log({ store, prefix: "p", partition: 0, random, digest, clock, observer });
}

function close(): void {
  isOwned = false;
  log.close();
  commits.close(error);
}

// Simulation seed 104705: a delete whose rows had been read when its host stopped staged them. With
// no pause between commits that was a loop without end; with one, an alarm for ever.
test("what is staged after the end sets no alarm", async () => {
  close();
  commits.changes.delete("e/a");
  commits.linger();
  for (let turn = 0; turn < 3; turn += 1) {
    expect(alarms.size).toBe(0);
    commits.demand();
    await new Promise((resolve) => setImmediate(resolve));
  }
});

test("what was staged before the end sets no alarm after it", async () => {
  commits.changes.put("e/a", new Uint8Array(1));
  commits.demand();
  close();
  commits.changes.delete("e/a"); // by what was under way
  await new Promise((resolve) => setImmediate(resolve));
  expect(alarms.size).toBe(0);
});

test("who waits for a commit after the end is told of it", () => {
  close();
  const told: unknown[] = [];
  commits.afterCommit(
    () => told.push("released"),
    (reason) => told.push(reason),
  );
  expect(told).toEqual([error]);
});

// Simulation seed 620905: a segment that the successor had freed was called damaged by a host that
// stopped while it read the successor's claim.
test("who is let go of while it looks for a successor calls nothing damaged", async () => {
  await log.claim(new Uint8Array());
  await newLog(2).claim(new Uint8Array());
  store.get = () => {
    close();
    return Promise.reject(new SporeError("store-unavailable", "the store doesn't answer"));
  };
  expect(await commits.isFenced()).toBe(true);
});

// Under work without a pause nothing was checkpointed, until a checkpoint was larger than an entry may be.
test("commits without a pause wait for segments when much is only in memory", async () => {
  await log.claim(new Uint8Array());
  const slow = Promise.withResolvers<void>();
  const put = store.put.bind(store);
  let entries = 0;
  store.put = async (key, bytes, options) => {
    if (key.includes("/table/")) await slow.promise;
    else if (key.includes("/log/")) entries += 1;
    return put(key, bytes, options);
  };
  const random = new SeededRandom(3);
  const place = { store, prefix: "p", epoch: 1, random, digest, clock, observer };
  commits.recover(Table.open({ ...place, limits: {} }), []);
  let left = 200;
  committed = () => {
    if (left === 0) return;
    left -= 1;
    commits.changes.put(`e/${left}`, new Uint8Array(200));
    commits.demand();
  };
  committed();
  const turns = async (): Promise<void> => {
    for (let turn = 0; turn < 1000; turn += 1) await new Promise((next) => setImmediate(next));
  };
  await turns();
  expect(entries).toBeGreaterThan(20); // four checkpoints of 1,000 bytes, and as much again
  expect(entries).toBeLessThan(50);
  slow.resolve();
  await turns();
  expect(left).toBe(0);
  expect(commits.lag.bytes).toBeLessThan(8000);
});

// Four merges for a checkpoint of four checkpoints' rows were too few: level 1 grew, and each rewrote it.
test("what is rewritten of segments grows no faster than the rows, without a pause", async () => {
  const rewritten = async (rows: number): Promise<number> => {
    let segments = 0;
    store = new MemoryStore();
    const put = store.put.bind(store);
    store.put = async (key, bytes, options) => {
      if (key.includes("/table/")) {
        segments += bytes.length;
        for (let turn = 0; turn < 10; turn += 1) await new Promise((next) => setImmediate(next));
      }
      return put(key, bytes, options);
    };
    log = newLog(1);
    commits = newCommits();
    await log.claim(new Uint8Array());
    const limits = { blockBytes: 200, segmentBytesMax: 1000, levelOneBytesMax: 4000 };
    const random = new SeededRandom(3);
    const breathing: Clock = {
      ...clock,
      after: (_, next) => {
        setImmediate(next);
        return () => undefined;
      },
    };
    const parts = { store, prefix: "p", epoch: 1, random, digest, clock: breathing, observer };
    commits.recover(Table.open({ ...parts, limits }), []);
    const { promise, resolve } = Promise.withResolvers<void>();
    let left = rows;
    committed = () => {
      if (left === 0) return resolve();
      left -= 1;
      commits.changes.put(`e/${(left * 7919) % rows}`, new Uint8Array(100));
      commits.demand();
    };
    committed();
    await promise;
    return segments / rows;
  };
  const few = await rewritten(1000);
  expect(await rewritten(8000)).toBeLessThan(few * 2.5); // two levels more
});
