/** Does a step cost the same in a small fan-out and in a large one? */
import {
  type Bench,
  bare,
  type Engine,
  type Figure,
  median,
  type Question,
  runWorkflow,
  startInput,
  timesOf,
} from "./kit.ts";

/** Width, and how many of it in a round. */
const widths = [
  [10, 100],
  [100, 30],
  [1000, 10],
  [10_000, 2],
  [100_000, 1],
] as const;
/** All widths in turn, so that a machine that gets slower or quicker does so for all. */
const rounds = 5;

const reference = 1000;

export const fanOut: Question = {
  name: "fan-out",
  asks: "What does a step cost in a fan-out of 10 to 100,000 in one workflow?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const engine = await bench.open();
    const alone = await bare(bench, startInput("fanOut", [200]), { inFlight: 1 });
    const costs = new Map<number, number[]>(widths.map(([width]) => [width, []]));
    for (let warm = 0; warm < 10; warm++) await runWorkflow(engine, "fanOut", [reference]);
    for (let round = 0; round < rounds; round++) {
      for (const [width, count] of widths) {
        costs.get(width)?.push(await costOfStep(engine, width, count));
      }
    }
    await engine.stop();
    const limit = median(costs.get(reference) ?? []) * 1.2;
    return [...costs].map(([width, values]) => ({
      name: `${width} steps`,
      value: median(values),
      unit: "us/step",
      target: width === reference ? undefined : { below: limit },
      control: { name: "guest alone", value: (alone.guestMs / 200) * 1000, unit: "us/step" },
    }));
  },
};

/** What the steps add to an empty workflow, which is run in turn. */
async function costOfStep(engine: Engine, width: number, count: number): Promise<number> {
  const added: number[] = [];
  for (let index = 0; index < count; index++) {
    const [empty = Number.NaN] = await timesOf(() => runWorkflow(engine, "fanOut", [0]), once);
    const [full = Number.NaN] = await timesOf(() => runWorkflow(engine, "fanOut", [width]), once);
    added.push(full - empty);
  }
  return (median(added) / width) * 1000;
}

const once = { count: 1, warm: 0 };
