/** How many ten-step workflows a second, with many in flight? */
import {
  type Bench,
  bare,
  type Figure,
  type Question,
  rateAndCost,
  runWorkflow,
  startInput,
} from "./kit.ts";

export const workflows: Question = {
  name: "workflows",
  asks: "How many ten-step workflows a second with many in flight, started and awaited?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const engine = await bench.open();
    const figures: Figure[] = [];
    for (const inFlight of [128, 1000]) {
      const { perSecond, cpuUs } = await rateAndCost(() => runWorkflow(engine, "chain", [10]), {
        inFlight,
        ms: 4000,
      });
      const alone = await bare(bench, startInput("chain", [10]), { inFlight });
      figures.push({
        name: `${inFlight} in flight`,
        value: perSecond,
        unit: "workflows/s",
        target: { atLeast: 1500 },
        control: { name: "sandbox alone", value: alone.rate, unit: "workflows/s" },
      });
      figures.push({
        name: `${inFlight} in flight, processor time`,
        value: cpuUs,
        unit: "us/workflow",
        control: { name: "sandbox alone", value: alone.cpuUs, unit: "us" },
      });
    }
    await engine.stop();
    return figures;
  },
};
