import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MemoryStore } from "../../host/store/memory.ts";
import { decodeEntry, encodeEntry } from "../../runtime/entry.ts";
import { Log } from "../../runtime/log.ts";
import type { Clock, Digest, Observer, Store } from "../../runtime/ports.ts";
import { Register } from "../../runtime/register.ts";
import { findTail, hasLater, prefixesOf, seqText, staysBelow } from "../../runtime/tail.ts";
import { FaultyStore, SeededRandom } from "../faulty-store.ts";

const digest: Digest = {
  sha256: (bytes) => new Uint8Array(createHash("sha256").update(bytes).digest()),
};
const observer: Observer = { log() {}, count() {}, observe() {} };
/** Waiting costs nothing: a retry comes in the next turn. */
const clock: Clock = {
  nowMs: () => 0,
  after: (_delayMs, callback) => {
    const immediate = setImmediate(callback);
    return () => clearImmediate(immediate);
  },
};
const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const textOf = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
const keyOf = (seq: number): string => `p/log/${seqText(seq)}`;

function openLog(store: Store, seed = 1): Log {
  const random = new SeededRandom(seed);
  return new Log({ store, prefix: "p", partition: 7, random, digest, clock, observer });
}

async function claimed(log: Log, info = "owner"): Promise<{ state: string[]; epoch: number }> {
  const result = await log.claim(bytesOf(info));
  if (result.kind !== "claimed") throw new Error(`the claim is ${result.kind}`);
  return { state: stateOf(result), epoch: result.epoch };
}

/** In these tests a checkpoint is the list of all payloads before it. */
function stateOf(result: {
  checkpoint: Uint8Array | undefined;
  entries: readonly { payload: Uint8Array }[];
}): string[] {
  const before: string[] = result.checkpoint ? JSON.parse(textOf(result.checkpoint)) : [];
  return [...before, ...result.entries.map(({ payload }) => textOf(payload))];
}

async function appended(log: Log, ...payloads: string[]): Promise<void> {
  for (const payload of payloads) {
    expect((await log.append("batch", bytesOf(payload))).kind).toBe("written");
  }
}

async function seqsIn(store: Store): Promise<number[]> {
  const { keys } = await store.list("p/log/", { limit: 1_000_000 });
  return keys.map(({ key }) => Number.parseInt(key.slice("p/log/".length), 16));
}

describe("the tail", () => {
  /** What is left of 1 … tail after truncations at the bases, and what was litter. */
  function remains(tail: number, bases: readonly number[], extra: readonly number[]): Set<number> {
    const left = new Set(Array.from({ length: tail }, (_, index) => index + 1));
    for (const base of [...bases].filter((base) => base <= tail).sort((a, b) => a - b)) {
      for (const seq of left) if (!staysBelow(seq, base)) left.delete(seq);
    }
    const newest = Math.max(0, ...bases.filter((base) => base <= tail));
    for (const seq of extra) if (seq < newest) left.add(seq);
    return left;
  }

  test("is found after any truncations", async () => {
    const seq = fc.integer({ min: 1, max: 5000 });
    await fc.assert(
      fc.asyncProperty(fc.nat(5000), fc.array(seq), fc.array(seq), async (tail, bases, extra) => {
        const left = remains(tail, bases, extra);
        const exists = async (asked: number): Promise<boolean> => left.has(asked);
        expect(await findTail(exists)).toBe(tail);
        expect(await hasLater(exists, tail)).toBe(false);
        for (const earlier of [tail - 1, tail >> 1, ...bases, ...extra]) {
          if (earlier > 0 && earlier < tail) expect(await hasLater(exists, earlier)).toBe(true);
        }
      }),
      { numRuns: 300 },
    );
  });

  test("is found beyond 32 bits with few probes", async () => {
    const tail = 2 ** 40 + 2 ** 33 + 12345;
    let probes = 0;
    const exists = async (seq: number): Promise<boolean> => {
      probes += 1;
      return seq <= tail && (seq > tail - 100 || staysBelow(seq, tail - 100));
    };
    expect(await findTail(exists)).toBe(tail);
    expect(probes).toBeLessThan(120);
    expect(await hasLater(exists, tail - 1)).toBe(true);
    expect(await hasLater(exists, tail)).toBe(false);
  });

  test("keeps a number of early objects that grows with the logarithm only", () => {
    const base = 1_000_000;
    const kept = Array.from({ length: base - 1 }, (_, index) => index + 1).filter((seq) =>
      staysBelow(seq, base),
    );
    expect(kept.length).toBeLessThan(30);
    expect(prefixesOf(base).every((prefix) => kept.includes(prefix))).toBe(true);
  });

  test("is never missed by the question for later objects while it moves on", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 300 }),
        fc.integer({ min: 1, max: 40 }),
        fc.array(fc.nat(40), { minLength: 20, maxLength: 20 }),
        async (seq, ahead, steps) => {
          // Before each probe the log grows by a step and is truncated at its very tail.
          let tail = seq + ahead;
          const moves = steps.values();
          const exists = async (asked: number): Promise<boolean> => {
            const answer = asked <= tail && staysBelow(asked, tail);
            tail += moves.next().value ?? 0;
            return answer;
          };
          expect(await hasLater(exists, seq)).toBe(true);
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe("a log entry", () => {
  const header = {
    kind: "batch",
    partition: 7,
    seq: 2 ** 33 + 5,
    epoch: 2 ** 33,
    base: 12,
    freedTo: 3,
    nonce: new Uint8Array(16).fill(1),
    previous: new Uint8Array(32).fill(2),
  } as const;
  const place = { key: keyOf(header.seq), partition: 7, seq: header.seq };
  const { bytes, hash } = encodeEntry(header, bytesOf("payload"), digest);

  test("is read back as it was written", () => {
    const payload = bytesOf("payload");
    expect(decodeEntry(bytes, place, digest)).toEqual({ ...header, payload, hash });
  });

  test("has the layout that its head comment states", () => {
    expect(textOf(bytes.subarray(0, 4))).toBe("splg");
    expect([...bytes.subarray(4, 16)]).toEqual([1, 2, 0, 0, 7, 0, 0, 0, 7, 0, 0, 0]);
    expect([...bytes.subarray(16, 24)]).toEqual([5, 0, 0, 0, 2, 0, 0, 0]);
    expect(textOf(bytes.subarray(104, 111))).toBe("payload");
    expect(bytes.length).toBe(104 + 7 + 32);
  });

  test("is refused with any byte changed, cut, or added", () => {
    const refusal = expect.objectContaining({
      code: "corrupt-log",
      message: expect.stringContaining(place.key),
    });
    for (let at = 0; at < bytes.length; at += 1) {
      const changed = bytes.slice();
      changed[at] = (changed[at] ?? 0) ^ 0x10;
      expect(() => decodeEntry(changed, place, digest), `byte ${at}`).toThrow(refusal);
      expect(() => decodeEntry(bytes.subarray(0, at), place, digest)).toThrow(refusal);
    }
    const longer = new Uint8Array([...bytes, 0]);
    expect(() => decodeEntry(longer, place, digest)).toThrow(refusal);
  });

  test("is refused in another place", () => {
    const refusal = expect.objectContaining({ code: "corrupt-log" });
    expect(() => decodeEntry(bytes, { ...place, seq: 4 }, digest)).toThrow(refusal);
    expect(() => decodeEntry(bytes, { ...place, partition: 8 }, digest)).toThrow(refusal);
  });
});

describe("a log", () => {
  test.each([
    ["small", 100, []],
    ["large", 10_000, [keyOf(2)]],
  ])("a %s last entry is read when it is looked for or after that", async (_, length, wanted) => {
    const store = new MemoryStore();
    const first = openLog(store);
    await claimed(first);
    await appended(first, "x".repeat(length));
    const readWhole: string[] = [];
    let isClaiming = true;
    const watched: Store = {
      get: (key, range) => {
        if (range === undefined && isClaiming) readWhole.push(key);
        return store.get(key, range);
      },
      put: (key, bytes, options) => {
        isClaiming = false;
        return store.put(key, bytes, options);
      },
      delete: (key) => store.delete(key),
      list: (prefix, options) => store.list(prefix, options),
      close: () => store.close(),
    };
    const { state } = await claimed(openLog(watched, 2));
    expect(state).toEqual(["x".repeat(length)]);
    expect(readWhole).toEqual(wanted);
  });

  test("gives the next owner everything that was written, in order", async () => {
    const store = new MemoryStore();
    const first = openLog(store, 1);
    expect(await claimed(first)).toEqual({ state: [], epoch: 1 });
    await appended(first, "a", "b");
    await first.append("checkpoint", bytesOf('["a","b"]'));
    await appended(first, "c");
    expect(await claimed(openLog(store, 2))).toEqual({ state: ["a", "b", "c"], epoch: 6 });
    expect(await claimed(openLog(store, 3))).toEqual({ state: ["a", "b", "c"], epoch: 7 });
  });

  test("fences the earlier owner and tells it who came", async () => {
    const store = new MemoryStore();
    const first = openLog(store, 1);
    await claimed(first);
    await appended(first, "a");
    const second = openLog(store, 2);
    await claimed(second, "second");
    for (const _ of [1, 2]) {
      const result = await first.append("batch", bytesOf("b"));
      expect(result).toEqual({ kind: "fenced", by: bytesOf("second") });
      expect(first.isFenced).toBe(true);
    }
    await appended(second, "c");
    expect((await claimed(openLog(store, 3))).state).toEqual(["a", "c"]);
  });

  test("confirms its owner until another claims, whatever was truncated since", async () => {
    const store = new MemoryStore();
    const first = openLog(store, 1);
    await claimed(first);
    await appended(first, "a");
    expect(await first.confirm()).toBe(true);
    const second = openLog(store, 2);
    await claimed(second, "second");
    await appended(second, "b", "c", "d");
    await second.append("checkpoint", bytesOf("[]"));
    await second.truncate();
    expect(await first.confirm()).toBe(false);
    expect(first.fencedBy).toEqual(bytesOf("second"));
    expect(await second.confirm()).toBe(true);
  });

  test("keeps only what is needed after a truncation, whoever began it", async () => {
    const store = new MemoryStore();
    const state: string[] = [];
    for (let owner = 1; owner <= 6; owner += 1) {
      const log = openLog(store, owner);
      expect((await claimed(log)).state).toEqual(state);
      for (let round = 0; round < 5; round += 1) {
        for (let index = 0; index < 7; index += 1) {
          state.push(`${owner}.${round}.${index}`);
          await appended(log, state.at(-1) ?? "");
        }
        await log.append("checkpoint", bytesOf(JSON.stringify(state)));
        if (round !== owner - 1) await log.truncate();
      }
      await log.truncate();
      const left = await seqsIn(store);
      const needed = (seq: number): boolean => staysBelow(seq, log.base);
      expect(left.filter((seq) => !needed(seq)).length).toBeLessThanOrEqual(owner);
      expect(left.length).toBeLessThan(30);
    }
  });

  test("takes up a truncation that another owner left half done", async () => {
    const store = new MemoryStore();
    const faulty = new FaultyStore(store, 3);
    const first = openLog(faulty, 1);
    await claimed(first);
    await appended(first, ...Array.from({ length: 50 }, (_, index) => `${index}`));
    await first.append("checkpoint", bytesOf("[]"));
    faulty.setRates({ failBefore: 0.5 });
    await first.truncate();
    const half = (await seqsIn(store)).length;
    expect(half).toBeGreaterThan(20);
    const second = openLog(store, 2);
    await claimed(second);
    await second.truncate();
    expect((await seqsIn(store)).length).toBeLessThan(12);
    expect((await claimed(openLog(store, 3))).state).toEqual([]);
  });

  test("refuses a damaged, missing or foreign entry by its key", async () => {
    const store = new MemoryStore();
    const log = openLog(store, 1);
    await claimed(log);
    await appended(log, "a", "b", "c");
    const original = (await store.get(keyOf(3))) ?? new Uint8Array();
    const foreign = (await store.get(keyOf(2))) ?? new Uint8Array();
    for (const bytes of [original.subarray(0, 50), original.toReversed(), foreign]) {
      await store.put(keyOf(3), bytes);
      await expect(openLog(store, 2).claim(bytesOf("x"))).rejects.toMatchObject({
        code: "corrupt-log",
        message: expect.stringContaining(keyOf(3)),
      });
    }
    const other = encodeEntry(
      { ...decodeEntry(original, { key: "", partition: 7, seq: 3 }, digest), freedTo: 1 },
      bytesOf("other"),
      digest,
    );
    await store.put(keyOf(3), other.bytes);
    await expect(openLog(store, 9).claim(bytesOf("x"))).rejects.toMatchObject({
      message: expect.stringContaining("does not follow"),
    });
    await store.delete(keyOf(3));
    await expect(openLog(store, 9).claim(bytesOf("x"))).rejects.toMatchObject({
      message: expect.stringContaining("is missing"),
    });
  });

  test("stays its owner's when the reply to a PUT that happened gets lost", async () => {
    const store = new MemoryStore();
    const faulty = new FaultyStore(store, 5, { failAfter: 0.6 });
    const log = openLog(faulty, 1);
    await claimed(log);
    const payloads = Array.from({ length: 40 }, (_, index) => `${index}`);
    await appended(log, ...payloads);
    expect(faulty.faults).toBeGreaterThan(20);
    expect((await claimed(openLog(store, 2))).state).toEqual(payloads);
  });

  test("stops trying when it is closed", async () => {
    const faulty = new FaultyStore(new MemoryStore(), 1);
    const log = openLog(faulty, 1);
    await claimed(log);
    faulty.setRates({ failBefore: 1 });
    const append = log.append("batch", bytesOf("a"));
    setImmediate(() => log.close());
    await expect(append).rejects.toMatchObject({ code: "host-stopping" });
  });

  test("takes one append at a time", async () => {
    const log = openLog(new MemoryStore(), 1);
    await claimed(log);
    const first = log.append("batch", bytesOf("a"));
    await expect(log.append("batch", bytesOf("b"))).rejects.toMatchObject({ code: "internal" });
    expect((await first).kind).toBe("written");
  });
});

/** Holds every call of a store, before and after it happens, until the test lets it go. */
class Interleaver {
  readonly #random: SeededRandom;
  #held: { readonly go: () => void; frozenUntil: number }[] = [];
  #step = 0;

  constructor(seed: number) {
    this.#random = new SeededRandom(seed);
  }

  wrap(store: Store): Store {
    const held = async <T>(work: () => Promise<T>): Promise<T> => {
      await this.#hold();
      const result = await work();
      await this.#hold();
      return result;
    };
    return {
      get: (key, range) => held(() => store.get(key, range)),
      put: (key, bytes, options) => held(() => store.put(key, bytes, options)),
      delete: (key) => held(() => store.delete(key)),
      list: (prefix, options) => held(() => store.list(prefix, options)),
      close: () => store.close(),
    };
  }

  /** Lets calls go in a random order until all work is done; some calls sleep very long. */
  async run(work: Promise<unknown>): Promise<void> {
    let isDone = false;
    const finished = work.finally(() => {
      isDone = true;
    });
    finished.catch(() => {});
    while (!isDone) {
      await new Promise((resolve) => setImmediate(resolve));
      this.#step += 1;
      const awake = this.#held.filter(({ frozenUntil }) => frozenUntil <= this.#step);
      // Nothing else to do: the sleepers wake one after the other.
      const choice = awake.length > 0 ? awake : this.#held.slice(0, 1);
      const chosen = choice[this.#random.below(choice.length)];
      this.#held = this.#held.filter((held) => held !== chosen);
      chosen?.go();
    }
    await finished;
  }

  #hold(): Promise<void> {
    const isLong = this.#random.next() < 0.02;
    const frozenUntil = this.#step + (isLong ? this.#random.below(1500) : 0);
    return new Promise((go) => {
      this.#held.push({ go, frozenUntil });
    });
  }
}

describe("owners that meet in any order", () => {
  interface World {
    /** Acknowledged payloads by seq. */
    readonly acked: Map<number, string>;
    readonly lost: { count: number };
    readonly fenced: { count: number };
  }

  /** Claims again and again, writes, takes checkpoints, truncates; checks what it reads. */
  async function owner(name: string, options: { store: Store; seed: number; world: World }) {
    const { store, seed, world } = options;
    const random = new SeededRandom(seed);
    for (let life = 0; life < 3; life += 1) {
      const ackedBefore = [...world.acked];
      const log = openLog(store, random.below(2 ** 31));
      const result = await log.claim(bytesOf(name));
      if (result.kind !== "claimed") {
        world.lost.count += 1;
        continue;
      }
      const state = stateOf(result);
      expectInOrder(state, ackedBefore);
      await write(log, { name: `${name}.${life}`, random, state, world });
    }
  }

  async function write(
    log: Log,
    options: { name: string; random: SeededRandom; state: string[]; world: World },
  ): Promise<void> {
    const { name, random, state, world } = options;
    const count = random.below(30);
    for (let index = 0; index < count; index += 1) {
      const isCheckpoint = random.next() < 0.2;
      const payload = isCheckpoint ? JSON.stringify(state) : `${name}.${index}`;
      const result = await log.append(isCheckpoint ? "checkpoint" : "batch", bytesOf(payload));
      if (result.kind === "fenced") {
        world.fenced.count += 1;
        return;
      }
      // I2: nobody else was told the same position.
      expect(world.acked.has(result.seq), `entry ${result.seq} acknowledged twice`).toBe(false);
      if (isCheckpoint) await log.truncate();
      else state.push(payload);
      if (!isCheckpoint) world.acked.set(result.seq, payload);
    }
  }

  /** Everything acknowledged is there, in order, and nothing is there twice. */
  function expectInOrder(state: readonly string[], acked: readonly [number, string][]): void {
    const ordered = acked.toSorted(([left], [right]) => left - right).map(([, value]) => value);
    const known = new Set(ordered);
    expect(state.filter((payload) => known.has(payload))).toEqual(ordered);
    expect(new Set(state).size).toBe(state.length);
  }

  async function simulate(seed: number, rate: number): Promise<World> {
    const world: World = { acked: new Map(), lost: { count: 0 }, fenced: { count: 0 } };
    const memory = new MemoryStore();
    const rates = { failBefore: rate, failAfter: rate, applyLate: rate };
    const faulty = new FaultyStore(memory, seed, rates);
    const interleaver = new Interleaver(seed ^ 0x5eed);
    const owners = ["a", "b", "c", "d"].map((name, index) =>
      owner(name, { store: interleaver.wrap(faulty), seed: seed * 7 + index, world }),
    );
    await interleaver.run(Promise.all(owners));
    await faulty.landAll();
    const last = await claimed(openLog(memory, seed));
    expectInOrder(last.state, [...world.acked]);
    return world;
  }

  test.each([0, 0.05])(
    "never both commit, and lose nothing (fault rate %f)",
    async (rate) => {
      const seen = { acked: 0, lost: 0, fenced: 0 };
      await fc.assert(
        fc.asyncProperty(fc.integer(), async (seed) => {
          const world = await simulate(seed, rate);
          seen.acked += world.acked.size;
          seen.lost += world.lost.count;
          seen.fenced += world.fenced.count;
        }),
        { numRuns: Number(process.env.SPORE_TEST_RUNS ?? 60), endOnFailure: true },
      );
      // The schedules reach what they are for.
      expect(seen.acked).toBeGreaterThan(100);
      expect(seen.lost).toBeGreaterThan(5);
      expect(seen.fenced).toBeGreaterThan(20);
    },
    120_000,
  );
});

describe("a sleeper", () => {
  /** A store whose next PUT waits until it is woken. */
  function withSleepingPut(store: Store): { store: Store; asleep: Promise<void>; wake(): void } {
    const asleep = Promise.withResolvers<void>();
    const woken = Promise.withResolvers<void>();
    const put: Store["put"] = async (key, bytes, options) => {
      asleep.resolve();
      await woken.promise;
      return store.put(key, bytes, options);
    };
    const sleeping: Store = {
      get: (key, range) => store.get(key, range),
      put,
      delete: (key) => store.delete(key),
      list: (prefix, options) => store.list(prefix, options),
      close: () => store.close(),
    };
    return { store: sleeping, asleep: asleep.promise, wake: () => woken.resolve() };
  }

  async function moveOn(store: Store, seed: number): Promise<void> {
    const log = openLog(store, seed);
    const { state } = await claimed(log, "mover");
    for (let round = 0; round < 5; round += 1) {
      for (let index = 0; index < 9; index += 1) {
        state.push(`${seed}.${round}.${index}`);
        await appended(log, state.at(-1) ?? "");
      }
      await log.append("checkpoint", bytesOf(JSON.stringify(state)));
      await log.truncate();
    }
  }

  test("that owned the log is fenced, although everything else was truncated", async () => {
    const store = new MemoryStore();
    let isAwake = true;
    let sleeper: ReturnType<typeof withSleepingPut> | undefined;
    const switched: Store = {
      get: (key, range) => store.get(key, range),
      put: (key, bytes, options) => {
        return (isAwake ? store : (sleeper?.store ?? store)).put(key, bytes, options);
      },
      delete: (key) => store.delete(key),
      list: (prefix, options) => store.list(prefix, options),
      close: () => store.close(),
    };
    const log = openLog(switched, 1);
    await claimed(log);
    await appended(log, "a", "b");
    sleeper = withSleepingPut(store);
    isAwake = false;
    const append = log.append("batch", bytesOf("late"));
    await sleeper.asleep;
    await moveOn(store, 2);
    await moveOn(store, 3);
    sleeper.wake();
    expect(await append).toEqual({ kind: "fenced", by: bytesOf("mover") });
  });

  test("that claims in a place that was freed meanwhile gives up", async () => {
    const store = new MemoryStore();
    const first = openLog(store, 1);
    await claimed(first);
    await appended(first, "a", "b", "c", "d", "e");
    const { store: sleeping, asleep, wake } = withSleepingPut(store);
    const claim = openLog(sleeping, 2).claim(bytesOf("late"));
    await asleep;
    // The owner goes on, and frees entry 7, for which the claimer's PUT is under way.
    await appended(first, "f", "g", "h");
    await first.append("checkpoint", bytesOf('["a"]'));
    await first.truncate();
    expect(await store.get(keyOf(7))).toBeUndefined();
    wake();
    expect(await claim).toEqual({ kind: "lost" });
    expect(await store.get(keyOf(7))).toBeDefined();
    await appended(first, "i");
    expect((await claimed(openLog(store, 3))).state).toEqual(["a", "i"]);
  });
});

describe("a register", () => {
  function openRegister(store: Store, seed: number): Register {
    return new Register({
      store,
      prefix: "r",
      random: new SeededRandom(seed),
      digest,
      clock,
      observer,
    });
  }

  test("gives the newest version, and lets one writer make the next", async () => {
    const store = new MemoryStore();
    const [first, second] = [openRegister(store, 1), openRegister(store, 2)];
    expect(await first.readLatest()).toBeUndefined();
    for (let seq = 1; seq <= 20; seq += 1) {
      const value = bytesOf(`version ${seq}`);
      expect(await first.append(value, seq - 1)).toEqual({ kind: "written", seq });
      const late = await second.append(bytesOf("other"), seq - 1);
      expect(late).toEqual({ kind: "lost", found: { seq, value } });
      expect(await second.readLatest()).toEqual({ seq, value });
    }
  });

  test("asks once for a version after the one that is known", async () => {
    const memory = new MemoryStore();
    let reads = 0;
    const counting: Store = {
      get(key, range) {
        reads += 1;
        return memory.get(key, range);
      },
      put: (key, bytes, options) => memory.put(key, bytes, options),
      delete: (key) => memory.delete(key),
      list: (prefix, options) => memory.list(prefix, options),
      close: () => memory.close(),
    };
    const register = openRegister(counting, 1);
    for (let seq = 1; seq <= 9; seq += 1) await register.append(bytesOf(`${seq}`), seq - 1);
    reads = 0;
    expect(await register.readAfter(9)).toBeUndefined();
    expect(reads).toBe(1);
    expect(await register.readAfter(4)).toEqual({ seq: 9, value: bytesOf("9") });
  });

  test("knows its own version when the reply got lost", async () => {
    const faulty = new FaultyStore(new MemoryStore(), 2, { failAfter: 0.5, failBefore: 0.2 });
    const register = openRegister(faulty, 1);
    for (let seq = 1; seq <= 30; seq += 1) {
      const result = await register.append(bytesOf(`${seq}`), seq - 1);
      expect(result).toEqual({ kind: "written", seq });
    }
    expect(faulty.faults).toBeGreaterThan(20);
  });

  test("refuses damaged bytes by their key", async () => {
    const store = new MemoryStore();
    const register = openRegister(store, 1);
    await register.append(bytesOf("value"), 0);
    const key = `r/${seqText(1)}`;
    const bytes = (await store.get(key)) ?? new Uint8Array();
    for (let at = 0; at < bytes.length; at += 1) {
      const changed = bytes.slice();
      changed[at] = (changed[at] ?? 0) ^ 1;
      await store.put(key, changed);
      await expect(register.readLatest()).rejects.toMatchObject({
        code: "corrupt-log",
        message: expect.stringContaining(key),
      });
    }
  });
});
