/** Does a page of a list take the same time beside a million finished runs? */
import { makeCopies } from "./copies.ts";
import { type Bench, type Engine, type Figure, median, type Question, runWorkflow } from "./kit.ts";

const sizes = [10_000, 100_000, 1_000_000] as const;

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
    const base = new Map<string, number>();
    let made = 0;
    for (const size of bench.sizes(sizes)) {
      const idOf = (index: number): string => `r${String(index).padStart(8, "0")}`;
      await makeCopies({ folder, partitions, template, from: made, to: size, idOf });
      made = size;
      const engine = await bench.open({ folder, isDeployed: true });
      for (const [, look] of looks) await pageMs(engine, look, 5);
      for (const [name, look] of looks) {
        const value = await pageMs(engine, look);
        if (!base.has(name)) base.set(name, value);
        const control = base.get(name) ?? value;
        const first = bench.sizes(sizes)[0];
        figures.push({
          name: `${name} of ${size}`,
          value,
          unit: "ms",
          target: size === first ? undefined : { below: control * 1.2 },
          control: { name: `of ${first}`, value: control, unit: "ms" },
        });
      }
      await engine.stop();
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

async function pageMs(engine: Engine, look: Look, pages = 60): Promise<number> {
  const times: number[] = [];
  let cursor: string | undefined;
  for (let at = 0; at < pages; at++) {
    const startMs = performance.now();
    const page = await engine.tenant.listRuns({ ...look, limit: 100, cursor });
    times.push(performance.now() - startMs);
    cursor = page.cursor;
  }
  return median(times);
}
