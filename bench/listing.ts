/**
 * Does a page of a list take the same time beside a million finished runs? Asked of both in turns,
 * beside the many and beside 10,000.
 */
import { cpSync } from "node:fs";
import { makeCopies } from "./copies.ts";
import { type Bench, type Engine, type Figure, median, type Question, runWorkflow } from "./kit.ts";

const sizes = [10_000, 100_000, 1_000_000] as const;
const pages = 100;
/** Until the code is compiled. */
const pagesBefore = 100;

export const listing: Question = {
  name: "listing",
  asks: "How long does a page of 100 runs take beside 1,000,000 finished ones?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const template = "template";
    const first = await bench.open();
    await first.tenant.startRun({ id: template, workflow: "chain", waitMs: 10_000 });
    await runWorkflow(first, "napper", [1]);
    const { folder } = first;
    const partitions = first.host.status().partitions.length;
    await first.stop();
    const figures: Figure[] = [];
    const smallest = sizes[0];
    const smallFolder = bench.folder();
    let made = 0;
    for (const size of bench.sizes(sizes)) {
      const idOf = (index: number): string => `r${String(index).padStart(8, "0")}`;
      await makeCopies({ folder, partitions, template, from: made, to: size, idOf });
      made = size;
      if (size === smallest) cpSync(folder, smallFolder, { recursive: true });
      const many = await bench.open({ folder, isDeployed: true });
      const few = await bench.open({ folder: smallFolder, isDeployed: true });
      for (const [, look] of looks) await pageMs([many, few], look, pagesBefore);
      for (const [name, look] of looks) {
        const [value, control] = await pageMs([many, few], look, pages);
        figures.push({
          name: `${name} of ${size}`,
          value,
          unit: "ms",
          target: size === smallest ? undefined : { below: control * 1.2 },
          control: { name: `of ${smallest}`, value: control, unit: "ms" },
        });
      }
      await many.stop();
      await few.stop();
    }
    return figures;
  },
};

type Look = Parameters<Engine["tenant"]["listRuns"]>[0];

/** Each goes on from page to page. */
const looks: readonly (readonly [string, Look])[] = [
  ["a page of all", {}],
  ["a page by status", { statuses: ["SUCCESSFUL"] }],
  ["a page by name", { names: ["chain"] }],
  ["a page of a rare name", { names: ["napper"] }],
];

async function pageMs(
  engines: readonly [Engine, Engine],
  look: Look,
  count: number,
): Promise<readonly [number, number]> {
  const sides = engines.map((engine) => ({
    engine,
    times: [] as number[],
    cursor: undefined as string | undefined,
  }));
  for (let at = 0; at < count; at++) {
    for (const side of sides) {
      const startMs = performance.now();
      const page = await side.engine.tenant.listRuns({ ...look, limit: 100, cursor: side.cursor });
      side.times.push(performance.now() - startMs);
      side.cursor = page.cursor;
    }
  }
  const [many = Number.NaN, few = Number.NaN] = sides.map(({ times }) => median(times));
  return [many, few];
}
