/** Pages of steps, against folding the whole history. */
import { describe, expect, it } from "vitest";
import { encode } from "../../guest/cbor.ts";
import type { StepRecord } from "../../guest/protocol.ts";
import { encodeRow, type HistoryRow, rowKeys } from "../../runtime/format.ts";
import { foldStep, readHistory } from "../../runtime/history.ts";
import { runKey } from "../../runtime/ids.ts";
import type { StepView } from "../../runtime/index.ts";
import type { Partition } from "../../runtime/partition.ts";
import { StepPages } from "../../runtime/steps.ts";

const key = runKey("acme", "long");

/** A partition that has this history only, a row for every ten records; counts rows read. */
function partitionOf(records: readonly Partial<StepRecord>[]) {
  const rows: (readonly [string, Uint8Array])[] = [];
  for (let first = 0; first < records.length; first += 10) {
    const events = records
      .slice(first, first + 10)
      .map((record) => ({ kind: "record" as const, record: encode(record) }));
    const row: HistoryRow = { atMs: 0, events };
    rows.push([rowKeys.history(key, first), encodeRow(row)]);
  }
  const read = { rows: 0 };
  const scan = async (_prefix: string, options: { after?: string; limit: number }) => {
    const { after = "" } = options;
    const rest = rows.filter(([rowKey]) => rowKey > after);
    const entries = rest.slice(0, options.limit);
    read.rows += entries.length;
    return { entries, isDone: entries.length === rest.length };
  };
  return { partition: { scan } as Partial<Partition> as Partition, read };
}

function record(step: number, event: StepRecord["event"], more: object = {}): Partial<StepRecord> {
  return { step: `s_${step}`, name: "s", event, atMs: step, attempt: 1, ...more };
}

const count = 5000;
const simple = Array.from({ length: count }, (_, step) => [
  record(step, "started"),
  record(step, "succeeded"),
]).flat();

async function folded(partition: Partition): Promise<StepView[]> {
  const steps = new Map<string, StepView>();
  for await (const event of readHistory(partition, key, 0)) foldStep(steps, event);
  return [...steps.values()];
}

describe("a page of steps", () => {
  it("is what folding all of the history gives, whatever the page", async () => {
    const told = (step: number) => [
      record(step, "started"),
      ...(step % 3 === 0
        ? [record(step, "retrying"), record(step, "started", { attempt: 2 })]
        : []),
      ...(step % 5 === 0 ? [record(step, "continued", { into: "x", isOpen: true })] : []),
    ];
    const isBrief = (step: number) => step % 4 === 1;
    const records = Array.from({ length: 300 }, (_, step) => [
      ...(isBrief(step) ? [record(step, "succeeded", { began: true })] : told(step)),
      ...(step > 10 && !isBrief(step - 10)
        ? [record(step - 10, step % 7 === 0 ? "failed" : "succeeded")]
        : []),
    ]).flat();
    const { partition } = partitionOf(records);
    const all = await folded(partition);
    const pages = new StepPages();
    const run = { partition, key, createdAtMs: 1, attempt: 1 };
    for (const limit of [1, 7, 100, 1000]) {
      for (let after = 0; after < 320; after += 13) {
        const page = await pages.read(run, { after, limit });
        expect(page).toEqual(all.slice(after, after + limit));
      }
    }
    const resumed = await pages.read({ ...run, attempt: 2 }, { after: 20, limit: 5 });
    expect(resumed).toEqual(all.slice(20, 25));
  });

  it("reads what it needs: pages in order read the history about once", async () => {
    const { partition, read } = partitionOf(simple);
    const pages = new StepPages();
    const run = { partition, key, createdAtMs: 1, attempt: 1 };
    await pages.read(run, { after: 0, limit: 10 });
    expect(read.rows).toBeLessThanOrEqual(256);
    read.rows = 0;
    const seen: StepView[] = [];
    for (let after = 0; after < count; after += 1000) {
      seen.push(...(await pages.read(run, { after, limit: 1000 })));
    }
    expect(seen.map(({ step }) => step)).toEqual(
      Array.from({ length: count }, (_, step) => `s_${step}`),
    );
    // 1,000 rows hold the history; each page begins and ends within a read of 256.
    expect(read.rows).toBeLessThan(1000 + 5 * 2 * 256);
    read.rows = 0;
    await pages.read(run, { after: 4000, limit: 10 });
    expect(read.rows).toBeLessThanOrEqual(256 + 10);
  });

  it("of a run under the same id begins anew", async () => {
    const pages = new StepPages();
    const one = { key, createdAtMs: 1, attempt: 1, partition: partitionOf(simple).partition };
    await pages.read(one, { after: 2000, limit: 1 });
    const shifted = [record(-1, "started"), record(-1, "succeeded"), ...simple];
    const other = { ...one, createdAtMs: 2, partition: partitionOf(shifted).partition };
    const [step] = await pages.read(other, { after: 2000, limit: 1 });
    expect(step?.step).toBe("s_1999");
  });
});
