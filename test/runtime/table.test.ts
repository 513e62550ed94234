import { createHash } from "node:crypto";
import { deflateRawSync, inflateRawSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MemoryStore } from "../../host/store/memory.ts";
import { decodeBatch, encodeBatch } from "../../runtime/batch.ts";
import { ByteReader, ByteWriter, Truncated } from "../../runtime/bytes.ts";
import type { ByteRange, Clock, Digest, Observer, Store } from "../../runtime/ports.ts";
import {
  type Codec,
  decodeBlock,
  decodeFooter,
  type SegmentInfo,
  SegmentWriter,
} from "../../runtime/segment.ts";
import { SortedMap } from "../../runtime/sorted.ts";
import { type Range, Table, type TableLimits } from "../../runtime/table.ts";
import { FaultyStore, SeededRandom } from "../faulty-store.ts";

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
const codec: Codec = {
  id: 9,
  compress: (bytes) => new Uint8Array(deflateRawSync(bytes)),
  decompress: (bytes) => new Uint8Array(inflateRawSync(bytes)),
};
const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const textOf = (bytes: Uint8Array | undefined): string | undefined =>
  bytes && new TextDecoder().decode(bytes);
/** Small, so that a few hundred rows reach every level. */
const small: Partial<TableLimits> = {
  blockBytes: 100,
  segmentBytesMax: 400,
  levelZeroMax: 2,
  levelOneBytesMax: 900,
  cacheBytesMax: 3000,
  footerBytesMax: 4000,
};

interface Setup {
  readonly store: Store;
  readonly epoch?: number;
  readonly seed?: number;
  readonly codec?: Codec | undefined;
  readonly limits?: Partial<TableLimits>;
}

function openTable(setup: Setup, checkpoint?: Uint8Array): Table {
  const { store, epoch = 1, seed = 1, limits = small } = setup;
  const random = new SeededRandom(seed);
  return Table.open(
    { store, prefix: "p", epoch, random, digest, clock, observer, limits, codec: setup.codec },
    checkpoint,
  );
}

async function allOf(table: Table, range: Range = {}): Promise<[string, string][]> {
  const found: [string, string][] = [];
  for (let after = range.after; ; after = found.at(-1)?.[0]) {
    const page = await table.scan({ ...range, ...(after !== undefined && { after }) });
    for (const [key, value] of page.entries) found.push([key, textOf(value) ?? ""]);
    if (page.isDone) return found;
  }
}

async function compactAll(table: Table): Promise<void> {
  while (await table.compact());
}

/**
 * The table of a checkpoint as it was written before there were filters of folders: its segments
 * end behind the filter of keys.
 */
async function withoutFolders(store: Store, checkpoint: Uint8Array): Promise<Uint8Array> {
  const reader = new ByteReader(checkpoint);
  const writer = new ByteWriter();
  writer.u8(reader.u8());
  const segments = reader.count();
  writer.count(segments);
  for (let index = 0; index < segments; index += 1) {
    const key = reader.latin1();
    const [level, bytes, footerOffset] = [reader.count(), reader.count(), reader.count()];
    const [rows, deleted] = [reader.count(), reader.count()];
    reader.raw(32);
    const whole = await store.get(key);
    if (whole?.length !== bytes) throw new Error(`${key} isn't there`);
    const old = whole.subarray(
      0,
      footerOffset + lengthWithoutFolders(whole.subarray(footerOffset)),
    );
    await store.put(`${key}0`, old);
    writer.latin1(`${key}0`);
    for (const value of [level, old.length, footerOffset, rows, deleted]) writer.count(value);
    writer.raw(digest.sha256(old.subarray(footerOffset)));
    writer.latin1(reader.latin1());
    writer.latin1(reader.latin1());
  }
  writer.raw(reader.raw(reader.left));
  return writer.done();
}

/** The checkpoint with all segments in level 1, in the order of their first keys. */
function atLevelOne(checkpoint: Uint8Array): Uint8Array {
  const reader = new ByteReader(checkpoint);
  const writer = new ByteWriter();
  writer.u8(reader.u8());
  const count = reader.count();
  writer.count(count);
  const infos = Array.from({ length: count }, () => {
    const info = new ByteWriter();
    info.latin1(reader.latin1());
    reader.count();
    info.count(1);
    for (let index = 0; index < 4; index += 1) info.count(reader.count());
    info.raw(reader.raw(32));
    const firstKey = reader.latin1();
    info.latin1(firstKey);
    info.latin1(reader.latin1());
    return { firstKey, bytes: info.done() };
  });
  infos.sort((left, right) => (left.firstKey < right.firstKey ? -1 : 1));
  for (const { bytes } of infos) writer.raw(bytes);
  writer.raw(reader.raw(reader.left));
  return writer.done();
}

function lengthWithoutFolders(footer: Uint8Array): number {
  const reader = new ByteReader(footer);
  reader.raw(5);
  const [, , blocks] = [reader.count(), reader.count(), reader.count()];
  for (let index = 0; index < blocks; index += 1) {
    reader.latin1();
    for (let field = 0; field < 3; field += 1) reader.count();
    reader.raw(9);
  }
  reader.bytes();
  return footer.length - reader.left;
}

/** Counts what is read. */
class CountingStore extends MemoryStore {
  readonly reads: { readonly key: string; readonly range: ByteRange | undefined }[] = [];

  override get(key: string, range?: ByteRange): Promise<Uint8Array | undefined> {
    this.reads.push({ key, range });
    return super.get(key, range);
  }
}

function numbered(from: number, to: number, text = "value"): Map<string, Uint8Array> {
  const rows = new Map<string, Uint8Array>();
  for (let index = from; index < to; index += 1) {
    rows.set(`row/${String(index).padStart(7, "0")}`, bytesOf(`${text} ${index}`));
  }
  return rows;
}

describe("bytes", () => {
  test("come back as they were written", () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.uint8Array(), (number, bytes) => {
        const text = String.fromCharCode(...bytes);
        const writer = new ByteWriter(1);
        writer.count(number);
        writer.u64(number);
        writer.bytes(bytes);
        writer.latin1(text);
        const reader = new ByteReader(writer.done());
        expect(reader.count()).toBe(number);
        expect(reader.u64()).toBe(number);
        expect([...reader.bytes()]).toEqual([...bytes]);
        expect(reader.latin1()).toBe(text);
        expect(reader.left).toBe(0);
        expect(() => reader.u8()).toThrow(Truncated);
      }),
    );
  });

  test("that claim a number out of range are refused", () => {
    expect(() => new ByteReader(new Uint8Array(12).fill(0xff)).count()).toThrow(Truncated);
    expect(() => new ByteReader(new Uint8Array(8).fill(0xff)).u64()).toThrow(Truncated);
  });
});

describe("a sorted map", () => {
  test("is a map that gives its keys in order", () => {
    const key = fc.integer({ min: 0, max: 3000 }).map((number) => `k${number}`);
    fc.assert(
      fc.property(fc.array(key, { maxLength: 3000, size: "max" }), key, (keys, from) => {
        const sorted = new SortedMap<number>();
        const model = new Map<string, number>();
        for (const [index, each] of keys.entries()) {
          sorted.set(each, index);
          model.set(each, index);
        }
        const expected = [...model.keys()].sort();
        expect(sorted.size).toBe(model.size);
        expect(sorted.slice("", { isAfter: false, max: 1e9 }).keys).toEqual(expected);
        const part = sorted.slice(from, { isAfter: true, max: 700 });
        expect(part.keys).toEqual(expected.filter((each) => each > from).slice(0, 700));
        expect(part.values).toEqual(part.keys.map((each) => model.get(each)));
        expect(sorted.find(from)?.value).toBe(model.get(from));
      }),
      { numRuns: 30 },
    );
  });
});

describe("a batch", () => {
  test("is read back as it was written", () => {
    const key = fc.string({
      unit: fc.integer({ min: 0, max: 255 }).map((c) => String.fromCharCode(c)),
    });
    const value = fc.option(fc.uint8Array(), { nil: undefined });
    fc.assert(
      fc.property(fc.array(fc.tuple(key, value)), (rows) => {
        const batch = new Map(rows);
        const read = decodeBatch(encodeBatch(batch));
        expect([...read.keys()]).toEqual([...batch.keys()]);
        for (const [each, bytes] of batch) {
          expect(read.get(each)?.join()).toBe(bytes?.join());
        }
      }),
    );
  });

  test("is refused when it is cut or has more after it", () => {
    const bytes = encodeBatch(
      new Map([
        ["a", bytesOf("x")],
        ["b", undefined],
      ]),
    );
    const refusal = expect.objectContaining({ code: "corrupt-log" });
    for (let at = 0; at < bytes.length; at += 1) {
      expect(() => decodeBatch(bytes.subarray(0, at))).toThrow(refusal);
    }
    expect(() => decodeBatch(new Uint8Array([...bytes, 0]))).toThrow(refusal);
  });
});

describe("a table", () => {
  type Step =
    | { readonly kind: "apply"; readonly rows: readonly (readonly [string, string | undefined])[] }
    | { readonly kind: (typeof works)[number] };

  const works = [
    "flush",
    "compact",
    "commit",
    "reopen",
    "reopen as old",
    "sweep",
    "together",
    "scan",
  ] as const;
  const folder = fc.integer({ min: 0, max: 30 }).map((number) => `e/${number}/`);
  const key = fc.oneof(
    fc.integer({ min: 0, max: 300 }).map((number) => `k/${number}`),
    fc.tuple(folder, fc.constantFrom("!", "c/1", "c/2", "d")).map((parts) => parts.join("")),
    fc.constantFrom("", "\u00ff", "\u00ff\u00ff", "a", "k", "k/", "k0", "\u0000"),
  );
  const value = fc.option(fc.string({ maxLength: 20 }), { nil: undefined, freq: 4 });
  const step: fc.Arbitrary<Step> = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant("apply" as const),
        rows: fc.array(fc.tuple(key, value), { maxLength: 40 }),
      }),
    },
    ...works.map((kind) => ({
      weight: 2,
      arbitrary: fc.record({ kind: fc.constant(kind) }),
    })),
  );
  /** Flushes of neighbours only: segments that leave room for others between them. */
  const nearby: fc.Arbitrary<Step[]> = fc
    .array(
      fc.tuple(
        fc
          .tuple(fc.nat(80), fc.integer({ min: 1, max: 5 }), value)
          .map(([from, count, text]) =>
            Array.from({ length: count }, (_, index): [string, string | undefined] => [
              `n/${String(from + index).padStart(2, "0")}`,
              text,
            ]),
          ),
        fc.array(fc.constantFrom("compact" as const, "reopen" as const), { maxLength: 2 }),
      ),
      { maxLength: 40, size: "max" },
    )
    .map((rounds) =>
      rounds.flatMap(([rows, then]): Step[] => [
        { kind: "apply", rows },
        { kind: "flush" },
        ...then.map((kind) => ({ kind })),
      ]),
    );
  const prefix = fc.oneof(key, folder);
  const range: fc.Arbitrary<Range> = fc.record(
    { prefix, from: key, after: key, to: key, limit: fc.integer({ min: 1, max: 20 }) },
    { requiredKeys: [] },
  );

  function expectedIn(model: ReadonlyMap<string, string>, range: Range): [string, string][] {
    return [...model]
      .filter(([key]) => key.startsWith(range.prefix ?? ""))
      .filter(([key]) => range.from === undefined || key >= range.from)
      .filter(([key]) => range.after === undefined || key > range.after)
      .filter(([key]) => range.to === undefined || key < range.to)
      .sort(([left], [right]) => (left < right ? -1 : 1));
  }

  async function follow(steps: readonly Step[], setup: Setup): Promise<void> {
    const model = new Map<string, string>();
    let epoch = 1;
    let table = openTable({ ...setup, epoch });
    const change = (rows: readonly (readonly [string, string | undefined])[]): void => {
      const batch = new Map(
        rows.map(([key, text]) => [key, text === undefined ? text : bytesOf(text)]),
      );
      // What the log would give back.
      table.apply(decodeBatch(encodeBatch(batch)));
      for (const [key, text] of rows) {
        if (text === undefined) model.delete(key);
        else model.set(key, text);
      }
    };
    for (const each of steps) {
      if (each.kind === "apply") change(each.rows);
      else if (each.kind === "flush") await table.flush();
      else if (each.kind === "compact") await table.compact();
      else if (each.kind === "commit") await table.commit(table.checkpoint().generation);
      else if (each.kind === "sweep") await table.sweep();
      else if (each.kind === "scan") {
        for (const range of ["e/3/", "e/30/", "e/7/c/", "e/31/", "e/", "k/1"]) {
          expect(await allOf(table, { prefix: range })).toEqual(
            expectedIn(model, { prefix: range }),
          );
        }
      } else if (each.kind === "together") {
        const work = [table.flush(), table.compact(), allOf(table, { limit: 3 })];
        change([
          ["k/1", "during"],
          ["k/2", undefined],
        ]);
        expect(textOf(await table.get("k/1"))).toBe("during");
        await Promise.all(work);
      } else {
        epoch += 1;
        const { bytes } = table.checkpoint();
        const isOld = each.kind === "reopen as old" && setup.store instanceof MemoryStore;
        const checkpoint = isOld ? await withoutFolders(setup.store, bytes) : bytes;
        table = openTable({ ...setup, epoch, seed: epoch }, checkpoint);
      }
      expectDisjoint(table);
      for (const probe of ["k/1", "k/2", "a", "", "\u00ff", "k/77", "n/30", "n/31", "n/50"]) {
        expect(textOf(await table.get(probe))).toBe(model.get(probe));
        const hot = table.getHot(probe);
        if (hot !== undefined) expect(textOf(hot.value)).toBe(model.get(probe));
      }
    }
    for (const each of fc.sample(range, 20)) {
      expect(await allOf(table, each)).toEqual(expectedIn(model, each));
    }
    expect(await allOf(table)).toEqual(expectedIn(model, {}));
    for (const [key, text] of model) expect(textOf(await table.get(key))).toBe(text);
  }

  /** B2. */
  function expectDisjoint(table: Table): void {
    let before: SegmentInfo | undefined;
    for (const info of table.segments) {
      const isNext = before !== undefined && info.level > 0 && before.level === info.level;
      if (isNext) expect(info.firstKey > (before?.lastKey ?? ""), JSON.stringify(info)).toBe(true);
      before = info;
    }
  }

  test.each([
    ["plainly", undefined],
    ["with compression", codec],
  ])(
    "is a map, whatever is flushed, merged, deleted and opened again (%s)",
    async (_, codec) => {
      await fc.assert(
        fc.asyncProperty(fc.array(step, { maxLength: 40, size: "max" }), (steps) =>
          follow(steps, { store: new MemoryStore(), codec }),
        ),
        { numRuns: 100 },
      );
    },
    60_000,
  );

  test("is a map when each flush has neighbours only", async () => {
    await fc.assert(
      fc.asyncProperty(nearby, (steps) => follow(steps, { store: new MemoryStore() })),
      { numRuns: 200 },
    );
  }, 60_000);

  test("is a map over a store that fails, answers late and loses replies", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { maxLength: 30, size: "max" }),
        fc.integer(),
        (steps, seed) => {
          const rates = { failBefore: 0.1, failAfter: 0.1, applyLate: 0.1 };
          return follow(steps, { store: new FaultyStore(new MemoryStore(), seed, rates) });
        },
      ),
      { numRuns: 40 },
    );
  }, 60_000);

  test("opens from a checkpoint without reading a segment, and reads what it needs", async () => {
    const store = new CountingStore();
    const limits = {};
    const table = openTable({ store, limits });
    table.apply(numbered(0, 20_000));
    await table.flush();
    const { bytes } = table.checkpoint();
    expect(bytes.length).toBeLessThan(300);
    store.reads.length = 0;
    const again = openTable({ store, epoch: 2, limits }, bytes);
    expect(store.reads).toEqual([]);
    expect(again.getHot("row/0012345")).toBeUndefined();
    expect(textOf(await again.get("row/0012345"))).toBe("value 12345");
    // The footer, once, and one block.
    expect(store.reads).toHaveLength(2);
    expect(store.reads.every(({ range }) => (range?.length ?? 1e9) < 60_000)).toBe(true);
    expect(textOf(again.getHot("row/0012345")?.value)).toBe("value 12345");
    await again.get("row/0000001");
    expect(store.reads).toHaveLength(3);
    const absent = Array.from({ length: 200 }, (_, index) => `row/${index}x`);
    for (const key of absent) expect(await again.get(key)).toBeUndefined();
    expect(store.reads.length).toBeLessThan(3 + 12);
  });

  test("scans a page without reading the rest", async () => {
    const store = new CountingStore();
    const table = openTable({ store, limits: {} });
    table.apply(numbered(0, 20_000));
    await table.flush();
    store.reads.length = 0;
    const page = await table.scan({ prefix: "row/00123", limit: 10 });
    expect(page.entries.map(([key]) => key)).toEqual([...numbered(12300, 12310).keys()]);
    expect(page.isDone).toBe(false);
    expect(store.reads.length).toBeLessThanOrEqual(3);
  });

  test("scans large rows with a page and reads of a bounded size", async () => {
    const store = new CountingStore();
    const table = openTable({ store, limits: { cacheBytesMax: 0 } });
    const large = new Map(
      Array.from({ length: 40 }, (_, index) => [`row/${index}`, new Uint8Array(300_000)]),
    );
    table.apply(large);
    await table.flush();
    const keys: string[] = [];
    for (let isDone = false; !isDone; ) {
      const after = keys.at(-1);
      const range = { bytesMax: 1_000_000, ...(after !== undefined && { after }) };
      const page = await table.scan(range);
      expect(page.entries.length).toBeLessThanOrEqual(4);
      keys.push(...page.entries.map(([key]) => key));
      isDone = page.isDone;
    }
    expect(keys).toEqual([...large.keys()].sort());
    const most = Math.max(...store.reads.map(({ range }) => range?.length ?? 1e9));
    expect(most).toBeLessThanOrEqual(1024 * 1024);
  });

  test("asks one segment per level for a row, in a table of many segments", async () => {
    const store = new CountingStore();
    const limits = { ...small, cacheBytesMax: 0, footerBytesMax: 1e6 };
    const table = openTable({ store, limits });
    for (let round = 0; round < 30; round += 1) {
      table.apply(numbered(round * 50, round * 50 + 100, `round ${round}`));
      await table.flush();
      await compactAll(table);
    }
    const levels = new Set(table.segments.map(({ level }) => level));
    expect(table.segments.length).toBeGreaterThan(50);
    expect(levels.size).toBeGreaterThanOrEqual(3);
    await allOf(table);
    store.reads.length = 0;
    const rows = [...numbered(0, 1500).keys()];
    for (const key of rows) expect(await table.get(key)).toBeDefined();
    expect(store.reads.length / rows.length).toBeLessThan(1.05);
  });

  /** Entities of a few rows each, as a partition has them. */
  function entities(from: number, to: number): Map<string, Uint8Array> {
    const rows = new Map<string, Uint8Array>();
    for (let index = from; index < to; index += 1) {
      for (const part of ["!", "c/1", "j/1", "j/2"]) rows.set(`e/${index}/${part}`, bytesOf(part));
    }
    return rows;
  }

  /** Their order is not that of their making, so that every level has some of every range. */
  async function scattered(store: Store, limits: Partial<TableLimits>): Promise<Table> {
    const table = openTable({ store, limits });
    for (let round = 0; round < 60; round += 1) {
      const rows = Array.from({ length: 20 }, (_, at) => ((round * 20 + at) * 7919) % 1200);
      for (const index of rows) table.apply(entities(index, index + 1));
      await table.flush();
      if (round < 56) await compactAll(table);
    }
    const levels = new Set(table.segments.map(({ level }) => level));
    expect(levels.size).toBeGreaterThanOrEqual(3);
    expect(table.segments.filter(({ level }) => level === 0).length).toBeGreaterThanOrEqual(4);
    return table;
  }

  test("reads a folder with one read, and one that isn't there with none, whatever the levels", async () => {
    const store = new CountingStore();
    const limits = { ...small, blockBytes: 400, segmentBytesMax: 4000, levelOneBytesMax: 9000 };
    const table = await scattered(store, { ...limits, cacheBytesMax: 0, footerBytesMax: 1e6 });
    await allOf(table);
    store.reads.length = 0;
    for (let index = 0; index < 1200; index += 1) {
      const { entries } = await table.scan({ prefix: `e/${index}/` });
      expect(entries.map(([key]) => key)).toEqual([...entities(index, index + 1).keys()]);
    }
    expect(store.reads.length / 1200).toBeLessThan(1.1);
    expect(store.reads.length / 1200).toBeGreaterThanOrEqual(1);
    store.reads.length = 0;
    for (let index = 0; index < 1200; index += 1) {
      expect(await table.scan({ prefix: `e/${index}x/` })).toEqual({ entries: [], isDone: true });
    }
    expect(store.reads.length / 1200).toBeLessThan(0.1);
  });

  test("reads no block behind the end of a range", async () => {
    const store = new CountingStore();
    const table = openTable({
      store,
      limits: { ...small, segmentBytesMax: 1e6, footerBytesMax: 1e6 },
    });
    table.apply(entities(0, 500));
    await table.flush();
    await table.get("e/0/!"); // the footer
    store.reads.length = 0;
    for (let index = 0; index < 100; index += 1) {
      // Each is about as large as a block: those that it lies in, at once.
      await table.scan({ prefix: `e/${100 + ((index * 37) % 100)}/` });
    }
    const bytes = store.reads.reduce((sum, { range }) => sum + (range?.length ?? 1e9), 0);
    expect(store.reads.length).toBeLessThanOrEqual(100);
    expect(bytes).toBeLessThan(100 * 3 * 120);
  });

  test("keeps its footers within their bound", async () => {
    const store = new CountingStore();
    const limits = { ...small, cacheBytesMax: 1e6, footerBytesMax: 1e6 };
    const roomy = await scattered(store, limits);
    const { bytes } = roomy.checkpoint();
    const readsOf = async (table: Table): Promise<number> => {
      await allOf(table);
      store.reads.length = 0;
      await allOf(table);
      return store.reads.length;
    };
    expect(await readsOf(roomy)).toBe(0);
    const tight = openTable({ store, limits: { ...limits, footerBytesMax: 2000 } }, bytes);
    // The blocks are there, the footers are read again: but for those that still are.
    expect(await readsOf(tight)).toBeGreaterThan(tight.segments.length / 2);
  });

  test("reads segments from before there were filters of folders", async () => {
    const store = new MemoryStore();
    const table = await scattered(store, small);
    const old = await withoutFolders(store, table.checkpoint().bytes);
    const again = openTable({ store, epoch: 2 }, old);
    for (const index of [0, 7, 600, 1199]) {
      const { entries } = await again.scan({ prefix: `e/${index}/` });
      expect(entries.map(([key]) => key)).toEqual([...entities(index, index + 1).keys()]);
    }
    expect(await allOf(again)).toEqual(await allOf(table));
    again.apply(entities(1200, 1300));
    await again.flush();
    await compactAll(again);
    expect(await allOf(again)).toHaveLength(1300 * 4);
  });

  class WeighingStore extends MemoryStore {
    written = 0;

    override put(key: string, bytes: Uint8Array, options?: { ifAbsent?: boolean }) {
      this.written += bytes.length;
      return super.put(key, bytes, options);
    }
  }

  test("rewrites little for flushes of little", async () => {
    const store = new WeighingStore();
    const limits = { ...small, segmentBytesMax: 4000, levelOneBytesMax: 40_000 };
    const table = openTable({ store, limits });
    table.apply(numbered(0, 1500));
    await table.flush();
    await compactAll(table);
    const before = store.written;
    for (let round = 0; round < 100; round += 1) {
      const from = (round * 7919) % 1500;
      for (const at of [from, 1499 - from]) table.apply(numbered(at, at + 1, `${round}`));
      await table.flush();
      await compactAll(table);
    }
    expect(store.written - before).toBeLessThan(before * 5); // 20 if each merge took all of level 1
    expect(await allOf(table)).toHaveLength(1500);
    expect(textOf(await table.get("row/0000000"))).toBe("0 0");
  });

  test("moves segments that overlap nothing down as they are", async () => {
    const store = new WeighingStore();
    const table = openTable({ store });
    for (let from = 0; from < 2000; from += 20) {
      table.apply(numbered(from, from + 20));
      await table.flush();
      await compactAll(table);
    }
    expect(Math.max(...table.segments.map(({ level }) => level))).toBe(3);
    expect(store.written).toBeLessThan(100_000); // twice what there is: levels 0 and 1
    expect(await allOf(table)).toHaveLength(2000);
    table.apply(new Map([...numbered(0, 2000).keys()].map((key) => [key, undefined])));
    await table.flush();
    await compactAll(table);
    expect(await allOf(table)).toEqual([]);
  });

  // Merging segments of level 0 that left room between them made one around what was there.
  test("finds the rows of a level whose segments overlap, as earlier versions left it", async () => {
    const store = new MemoryStore();
    const table = openTable({ store, limits: { ...small, segmentBytesMax: 4000 } });
    for (const part of [0, 1]) {
      const rows = [...numbered(0, 12)].filter((_, index) => (index % 4 === 1) === (part === 1));
      table.apply(new Map(part === 0 ? rows : rows.slice(0, 1)));
      await table.flush();
    }
    table.apply(numbered(20, 24));
    const old = atLevelOne(table.checkpoint().bytes);
    const again = openTable({ store, epoch: 2 }, old);
    const all = await allOf(table);
    expect(all).toHaveLength(14);
    for (const isMerged of [false, true]) {
      if (isMerged) await compactAll(again);
      expect(await allOf(again)).toEqual(all);
      for (const [key, text] of all) expect(textOf(await again.get(key))).toBe(text);
      await again.flush();
    }
    expectDisjoint(again);
  });

  test("forgets deleted rows when they reach the last level, and their segments", async () => {
    const store = new MemoryStore();
    const table = openTable({ store });
    const rows = numbered(0, 500);
    for (let round = 0; round < 4; round += 1) {
      table.apply(rows);
      await table.flush();
      table.apply(new Map([...rows.keys()].map((key) => [key, undefined])));
      await table.flush();
      await compactAll(table);
    }
    expect(await allOf(table)).toEqual([]);
    await table.commit(table.checkpoint().generation);
    const { keys } = await store.list("p/table/");
    expect(keys.map(({ key }) => key)).toEqual(table.segments.map(({ key }) => key).sort());
    const left = table.segments.reduce((sum, { rows }) => sum + rows, 0);
    expect(left).toBeLessThanOrEqual(rows.size);
  });

  test("keeps a row deleted while a deeper level still has it", async () => {
    const table = openTable({ store: new MemoryStore() });
    const rows = numbered(0, 500);
    table.apply(rows);
    await table.flush();
    await compactAll(table);
    expect(Math.max(...table.segments.map(({ level }) => level))).toBeGreaterThanOrEqual(2);
    table.apply(new Map([...rows.keys()].map((key) => [key, undefined])));
    await table.flush();
    do expect(await allOf(table)).toEqual([]);
    while (await table.compact());
  });

  test("takes checkpoints in the middle of a flush and a merge", async () => {
    const store = new MemoryStore();
    const table = openTable({ store });
    table.apply(numbered(0, 30, "old"));
    await table.flush();
    table.apply(numbered(10, 40, "newer"));
    const work = [table.flush(), table.compact()];
    table.apply(numbered(20, 25, "newest"));
    const expected = [
      ...numbered(0, 10, "old"),
      ...numbered(10, 20, "newer"),
      ...numbered(20, 25, "newest"),
      ...numbered(25, 40, "newer"),
    ].map(([key, value]) => [key, textOf(value)]);
    const checkpoints = [table.checkpoint()];
    let isDone = false;
    const all = Promise.all(work).finally(() => {
      isDone = true;
    });
    while (!isDone) {
      checkpoints.push(table.checkpoint());
      if (checkpoints.length % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
      else await Promise.resolve();
    }
    await all;
    expect(checkpoints.length).toBeGreaterThan(5);
    for (const { bytes } of checkpoints) {
      expect(await allOf(openTable({ store, epoch: 2 }, bytes))).toEqual(expected);
    }
  });

  test("answers a read whose segment is merged and deleted under it", async () => {
    class SlowStore extends MemoryStore {
      /** What the next read waits for. */
      gate: Promise<void> | undefined;

      override async get(key: string, range?: ByteRange): Promise<Uint8Array | undefined> {
        const { gate } = this;
        this.gate = undefined;
        await gate;
        return super.get(key, range);
      }
    }
    const store = new SlowStore();
    const table = openTable({ store, limits: { ...small, levelZeroMax: 1, cacheBytesMax: 0 } });
    table.apply(numbered(0, 4));
    await table.flush();
    const others = numbered(0, 4);
    others.delete("row/0000001");
    for (const read of [() => table.get("row/0000001"), () => table.scan()]) {
      // Footers are known from here on, so that only the read itself waits.
      await allOf(table);
      const gate = Promise.withResolvers<void>();
      store.gate = gate.promise;
      const late = read();
      table.apply(others);
      await table.flush();
      await compactAll(table);
      await table.commit(table.checkpoint().generation);
      gate.resolve();
      const found = await late;
      const value = found instanceof Uint8Array ? found : found?.entries[1]?.[1];
      expect(textOf(value)).toBe("value 1");
    }
  });

  test("reads a block once for all that want it at a time", async () => {
    const reads = new Map<string, number>();
    class CountingStore extends MemoryStore {
      override get(key: string, range?: ByteRange): Promise<Uint8Array | undefined> {
        const place = `${key} ${range?.offset}`;
        reads.set(place, (reads.get(place) ?? 0) + 1);
        return super.get(key, range);
      }
    }
    const store = new CountingStore();
    const table = openTable({ store, limits: { ...small, cacheBytesMax: 0 } });
    table.apply(numbered(0, 4));
    await table.flush();
    const wanted = Array.from({ length: 50 }, () => table.get("row/0000001"));
    for (const value of await Promise.all(wanted)) expect(textOf(value)).toBe("value 1");
    expect([...reads.values()]).toEqual([1, 1]); // the footer and the block
  });

  test("deletes a merged segment only after a checkpoint without it", async () => {
    const store = new MemoryStore();
    const table = openTable({ store });
    for (const round of [1, 2]) {
      table.apply(numbered(0, 20, `${round}`));
      await table.flush();
    }
    const before = table.checkpoint();
    expect(await table.compact()).toBe(true);
    await table.commit(before.generation);
    const old = openTable({ store, epoch: 2 }, before.bytes);
    expect(textOf(await old.get("row/0000003"))).toBe("2 3");
    await table.commit(table.checkpoint().generation);
    expect(await allOf(table)).toHaveLength(20);
    const late = openTable({ store, epoch: 2 }, before.bytes);
    await expect(late.get("row/0000003")).rejects.toMatchObject({ code: "corrupt-segment" });
  });

  test("sweeps what earlier owners left and nobody names", async () => {
    const store = new MemoryStore();
    const first = openTable({ store, epoch: 5 });
    first.apply(numbered(0, 20));
    await first.flush();
    const { bytes } = first.checkpoint();
    first.apply(numbered(0, 20, "unnamed"));
    await first.flush();
    const second = openTable({ store, epoch: 9, seed: 2 }, bytes);
    second.apply(numbered(0, 2));
    await second.flush();
    const later = openTable({ store, epoch: 12, seed: 3 });
    later.apply(numbered(0, 2));
    await later.flush();
    const count = async (): Promise<number> => (await store.list("p/table/")).keys.length;
    const all = await count();
    const swept = await second.sweep();
    expect(swept).toBeGreaterThan(0);
    expect(await count()).toBe(all - swept);
    expect(await allOf(second)).toHaveLength(20);
    expect(await allOf(later)).toHaveLength(2);
  });

  test("keeps its cache within its bound", async () => {
    const store = new CountingStore();
    const table = openTable({ store, limits: { ...small, cacheBytesMax: 2000 } });
    table.apply(numbered(0, 300));
    await table.flush();
    await allOf(table);
    store.reads.length = 0;
    await allOf(table);
    // Too large for the cache: read again.
    expect(store.reads.length).toBeGreaterThan(5);
    const roomy = openTable({ store, limits: small }, table.checkpoint().bytes);
    await roomy.get("row/0000001");
    store.reads.length = 0;
    await roomy.get("row/0000001");
    expect(store.reads).toEqual([]);
  });

  test("refuses a damaged checkpoint", () => {
    const table = openTable({ store: new MemoryStore() });
    table.apply(numbered(0, 3));
    const { bytes } = table.checkpoint();
    for (const damaged of [bytes.subarray(0, 10), new Uint8Array([99]), new Uint8Array()]) {
      expect(() => openTable({ store: new MemoryStore() }, damaged)).toThrow(
        expect.objectContaining({ code: "corrupt-log" }),
      );
    }
  });

  test("refuses keys that are not Latin-1", () => {
    expect(() => encodeBatch(new Map([["\u0100", bytesOf("x")]]))).toThrow(
      expect.objectContaining({ code: "internal" }),
    );
  });

  test("stops trying when it is closed, and keeps its rows in memory", async () => {
    const faulty = new FaultyStore(new MemoryStore(), 1, { failBefore: 1 });
    const table = openTable({ store: faulty });
    table.apply(numbered(0, 3));
    const flush = table.flush();
    table.apply(numbered(2, 4, "newer"));
    setImmediate(() => table.close());
    await expect(flush).rejects.toMatchObject({ code: "host-stopping" });
    expect(textOf(await table.get("row/0000001"))).toBe("value 1");
    expect(textOf(await table.get("row/0000002"))).toBe("newer 2");
  });
});

describe("a segment", () => {
  function written(codec: Codec | undefined): ReturnType<SegmentWriter["finish"]> {
    const writer = new SegmentWriter({ digest, codec, blockBytes: 4096 });
    for (const [key, value] of numbered(0, 2000)) writer.add(key, value);
    return writer.finish({ key: "p/table/x", level: 0 });
  }

  test.each([undefined, codec])("refuses each damaged part by its key", (withCodec) => {
    const { bytes, info } = written(withCodec);
    const refusal = expect.objectContaining({
      code: "corrupt-segment",
      message: expect.stringContaining("p/table/x"),
    });
    const footerBytes = bytes.slice(info.footerOffset);
    const footer = decodeFooter(footerBytes, info, digest);
    expect(footer.blocks.length).toBeGreaterThan(2);
    for (const at of [0, 5, 20, footerBytes.length - 1]) {
      const changed = footerBytes.slice();
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(() => decodeFooter(changed, info, digest)).toThrow(refusal);
    }
    const tools = { digest, codec: withCodec, key: info.key };
    for (const place of footer.blocks) {
      const stored = bytes.slice(place.offset, place.offset + place.length);
      expect(decodeBlock(stored, place, tools).keys.length).toBeGreaterThan(10);
      expect(() => decodeBlock(stored.subarray(1), place, tools)).toThrow(refusal);
      stored[3] = (stored[3] ?? 0) ^ 1;
      expect(() => decodeBlock(stored, place, tools)).toThrow(refusal);
    }
  });

  test("has each key and each of its folders in its filters, and hardly anything else", () => {
    const writer = new SegmentWriter({ digest, codec: undefined, blockBytes: 4096 });
    const keys = ["", "/", "a", "a/", "a//b", "a/b/c", "a/b/d", "ab/c", "b/c/d/e", "b/c/e"];
    for (const key of keys) writer.add(key, key === "a/b/d" ? undefined : bytesOf(key));
    const { bytes, info } = writer.finish({ key: "p/table/x", level: 0 });
    const footer = decodeFooter(bytes.subarray(info.footerOffset), info, digest);
    for (const key of keys) expect(footer.keys.mayHave(key)).toBe(true);
    for (const folder of ["/", "a/", "a//", "a/b/", "ab/", "b/", "b/c/", "b/c/d/"]) {
      expect(footer.folders?.mayHave(folder)).toBe(true);
    }
    const others = Array.from({ length: 1000 }, (_, index) => `b/${index}/`);
    const wrong = others.filter((other) => footer.folders?.mayHave(other) !== false);
    expect(wrong.length).toBeLessThan(60);
  });

  test("that was compressed is refused without the codec", () => {
    const { bytes, info } = written(codec);
    const footer = decodeFooter(bytes.slice(info.footerOffset), info, digest);
    const place = footer.blocks[0];
    if (place === undefined) throw new Error("no block");
    const stored = bytes.slice(place.offset, place.offset + place.length);
    expect(() => decodeBlock(stored, place, { digest, codec: undefined, key: info.key })).toThrow(
      expect.objectContaining({ code: "corrupt-segment" }),
    );
  });

  test("takes rows in order only", () => {
    const writer = new SegmentWriter({ digest, codec: undefined, blockBytes: 100 });
    writer.add("b", bytesOf("1"));
    for (const key of ["a", "b"]) expect(() => writer.add(key, undefined)).toThrow(/in order/);
  });
});
