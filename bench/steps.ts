/** How many steps a second, in one run and over many? */
import {
  type Bench,
  bare,
  type Figure,
  type Question,
  rate,
  runWorkflow,
  startInput,
} from "./kit.ts";

export const steps: Question = {
  name: "steps",
  asks: "How many pure steps a second, in one chain and over many runs?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const engine = await bench.open();
    const chained = 200;
    const one = await rate(() => runWorkflow(engine, "chain", [chained]), { inFlight: 1 });
    const many = await rate(() => runWorkflow(engine, "chain", [chained]), { inFlight: 64 });
    await engine.stop();
    const input = startInput("chain", [chained]);
    const bareOne = await bare(bench, input, { inFlight: 1 });
    const bareMany = await bare(bench, input, { inFlight: 64 });
    const control = (perSecond: number) => ({
      name: "sandbox alone",
      value: perSecond * chained,
      unit: "steps/s",
    });
    return [
      { name: "one chain", value: one * chained, unit: "steps/s", control: control(bareOne.rate) },
      {
        name: "64 chains",
        value: many * chained,
        unit: "steps/s",
        control: control(bareMany.rate),
      },
    ];
  },
};
