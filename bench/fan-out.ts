/** Does a step cost the same in a small fan-out and in a large one? */
import {
  type Bench,
  bare,
  type Engine,
  type Figure,
  type Question,
  quantile,
  runWorkflow,
  startInput,
  timesOf,
} from "./kit.ts";

const widths = [
  [10, 300],
  [100, 100],
  [1000, 20],
  [10_000, 5],
  [100_000, 3],
] as const;

const reference = 1000;

export const fanOut: Question = {
  name: "fan-out",
  asks: "What does a step cost in a fan-out of 10 to 100,000 in one workflow?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const engine = await bench.open();
    const alone = await bare(bench, startInput("fanOut", [200]), { inFlight: 1 });
    const costs = new Map<number, number>();
    for (const [width, count] of widths) costs.set(width, await costOfStep(engine, width, count));
    await engine.stop();
    const limit = (costs.get(reference) ?? Number.NaN) * 1.2;
    return [...costs].map(([width, value]) => ({
      name: `${width} steps`,
      value,
      unit: "us/step",
      target: width === reference ? undefined : { below: limit },
      control: { name: "guest alone", value: (alone.guestMs / 200) * 1000, unit: "us/step" },
    }));
  },
};

/** What the steps add to an empty workflow, which is run in turn; of the quicker half. */
async function costOfStep(engine: Engine, width: number, count: number): Promise<number> {
  const empty: number[] = [];
  const full: number[] = [];
  const time = async (size: number): Promise<number> => {
    const [took = Number.NaN] = await timesOf(() => runWorkflow(engine, "fanOut", [size]), {
      count: 1,
      warm: 0,
    });
    return took;
  };
  if (width <= reference) await time(width);
  for (let index = 0; index < count; index++) {
    empty.push(await time(0));
    full.push(await time(width));
  }
  const quick = (times: number[]): number =>
    quantile(
      times.sort((left, right) => left - right),
      0.25,
    );
  return ((quick(full) - quick(empty)) / width) * 1000;
}
