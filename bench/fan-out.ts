/** Does a step cost the same in a small fan-out and in a large one? */
import {
  type Bench,
  bare,
  type Figure,
  median,
  type Question,
  runWorkflow,
  startInput,
  timesOf,
} from "./kit.ts";

const widths = [
  [10, 60],
  [100, 30],
  [1000, 10],
  [10_000, 3],
  [100_000, 1],
] as const;

export const fanOut: Question = {
  name: "fan-out",
  asks: "What does a step cost in a fan-out of 10 to 100,000 in one workflow?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const engine = await bench.open();
    const empty = median(await timesOf(() => runWorkflow(engine, "fanOut", [0]), { count: 60 }));
    const alone = await bare(bench, startInput("fanOut", [200]), { inFlight: 1 });
    const figures: Figure[] = [];
    let hundred = Number.NaN;
    for (const [width, count] of widths) {
      const times = await timesOf(() => runWorkflow(engine, "fanOut", [width]), {
        count,
        warm: width > 10_000 ? 0 : 1,
      });
      const value = ((median(times) - empty) / width) * 1000;
      if (width === 100) hundred = value;
      figures.push({
        name: `${width} steps`,
        value,
        unit: "us/step",
        target: width > 100 ? { below: hundred * 1.2 } : undefined,
        control: { name: "guest alone", value: (alone.guestMs / 200) * 1000, unit: "us/step" },
      });
    }
    await engine.stop();
    return figures;
  },
};
