/** How long from start to result, one at a time? */
import {
  type Bench,
  callCounter,
  type Figure,
  fsyncTimes,
  type Question,
  quantile,
  runWorkflow,
  timesOf,
} from "./kit.ts";

export const latency: Question = {
  name: "latency",
  asks: "How long from start to durable result, one at a time?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const engine = await bench.open();
    const flushes = fsyncTimes(bench.folder());
    const cases = [
      ["empty workflow", () => runWorkflow(engine, "chain", [0])],
      ["ten-step workflow", () => runWorkflow(engine, "chain", [10])],
      ["actor call", () => callCounter(engine, "one", "add")],
    ] as const;
    const figures: Figure[] = [];
    for (const [name, call] of cases) {
      const times = await timesOf(call, { count: 300, warm: 50 });
      for (const [label, share] of [
        ["p50", 0.5],
        ["p95", 0.95],
        ["p99", 0.99],
      ] as const) {
        figures.push({
          name: `${name}, ${label}`,
          value: quantile(times, share),
          unit: "ms",
          target: label === "p50" ? { below: 5 } : undefined,
          control: {
            name: `4 KiB and fsync, ${label}`,
            value: quantile(flushes, share),
            unit: "ms",
          },
        });
      }
    }
    await engine.stop();
    return figures;
  },
};
