/** How late are timers, and what does each cost, when 100,000 are due in one second? */
import { encode } from "../guest/cbor.ts";
import { makeCopies } from "./copies.ts";
import { type Bench, type Engine, type Figure, type Question, quantile } from "./kit.ts";
import { untilAsleep } from "./sleeping.ts";

const sizes = [1000, 10_000, 100_000] as const;
const aheadMs = 4000;

export const timers: Question = {
  name: "timers",
  asks: "What does a timer cost, and how late is it, when 100,000 are due in one second?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const figures: Figure[] = [];
    let base: number | undefined;
    for (const size of bench.sizes(sizes)) {
      const { eachUs, lags } = await burst(bench, size);
      base ??= eachUs;
      const first = bench.sizes(sizes)[0];
      figures.push(
        {
          name: `processor time for each of ${size}`,
          value: eachUs,
          unit: "us",
          target: size === first ? undefined : { below: base * 1.2 },
          control: { name: `for each of ${first}`, value: base, unit: "us" },
        },
        { name: `median lateness of ${size}`, value: quantile(lags, 0.5), unit: "ms" },
        { name: `lateness of the last of ${size}`, value: quantile(lags, 1), unit: "ms" },
      );
    }
    return figures;
  },
};

/** Runs that sleep in storage, woken all within a second by a host that has just come. */
async function burst(
  bench: Bench,
  size: number,
): Promise<{ readonly eachUs: number; readonly lags: readonly number[] }> {
  const template = "template";
  // A young run on a quiet machine has no image: its start is its memory.
  const first = await bench.open({ limits: { imageAfterMs: Number.POSITIVE_INFINITY } });
  const args = encode([30 * 86_400_000]);
  await first.tenant.startRun({ id: template, workflow: "napper", args });
  await untilAsleep(first, template);
  const { folder } = first;
  const partitions = first.host.status().partitions.length;
  await first.stop();
  // Writing them takes a while of its own.
  const dueMs = Date.now() + aheadMs + Math.floor(size / 3);
  const dueOf = (index: number): number => dueMs + Math.floor((index * 1000) / size);
  await makeCopies({
    folder,
    partitions,
    template,
    from: 0,
    to: size,
    idOf: (index) => `t${index}`,
    atMs: dueOf,
  });
  const engine = await bench.open({ folder, isDeployed: true });
  if (Date.now() > dueMs) throw new Error("the timers are due already: leave more time");
  await new Promise((resolve) => setTimeout(resolve, dueMs - Date.now() - 50));
  const cpu = process.cpuUsage();
  await untilDone(engine);
  const { user, system } = process.cpuUsage(cpu);
  const lags = await lateness(engine, dueOf);
  if (lags.length !== size) throw new Error(`${lags.length} of ${size} timers have fired`);
  await engine.stop();
  return { eachUs: (user + system) / size, lags };
}

async function untilDone(engine: Engine): Promise<void> {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 250));
    // The template sleeps on.
    const { runs } = await engine.tenant.listRuns({ statuses: ["RUNNING"], limit: 2 });
    if (runs.length <= 1) return;
  }
}

async function lateness(engine: Engine, dueOf: (index: number) => number): Promise<number[]> {
  const lags: number[] = [];
  let cursor: string | undefined;
  do {
    const page = await engine.tenant.listRuns({ statuses: ["SUCCESSFUL"], limit: 1000, cursor });
    for (const { id, closedAtMs = Number.NaN } of page.runs) {
      lags.push(closedAtMs - dueOf(Number(id.slice(1))));
    }
    cursor = page.cursor;
  } while (cursor !== undefined);
  return lags.sort((left, right) => left - right);
}
