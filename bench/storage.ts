/** What does a workflow cost in storage, and a saved memory in bytes and time? */
import { encode } from "../guest/cbor.ts";
import {
  type Bench,
  callCounter,
  type Figure,
  median,
  type Question,
  rate,
  runWorkflow,
} from "./kit.ts";

export const storage: Question = {
  name: "storage",
  asks: "How many bytes and store operations for each workflow, and how large is an image?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const figures: Figure[] = [];
    const engine = await bench.open();
    for (const inFlight of [1, 128]) {
      await measure(`ten-step workflow, ${inFlight} at a time`, inFlight, () =>
        runWorkflow(engine, "chain", [10]),
      );
    }
    await measure("actor call, 128 at a time", 128, (index) =>
      callCounter(engine, `many-${index % 1000}`, "add"),
    );
    await engine.stop();
    return [...figures, ...(await images(bench))];

    async function measure(
      name: string,
      inFlight: number,
      call: (index: number) => Promise<unknown>,
    ): Promise<void> {
      const { traffic } = engine;
      traffic.reset();
      let calls = 0;
      const counted = (index: number): Promise<unknown> => {
        calls += 1;
        return call(index);
      };
      await rate(counted, { inFlight, ms: 1500, warmMs: 0 });
      const operations = traffic.puts + traffic.gets + traffic.others;
      figures.push(
        { name: `${name}: puts`, value: traffic.puts / calls, unit: "puts" },
        { name: `${name}: all operations`, value: operations / calls, unit: "operations" },
        { name: `${name}: written`, value: traffic.bytesPut / calls, unit: "bytes" },
      );
    }
  },
};

/** A run that sleeps, through the sandbox alone: with its image, and without as the control. */
async function images(bench: Bench): Promise<readonly Figure[]> {
  const run = {
    runId: "image",
    tenant: "default",
    name: "sleeper",
    component: "bench",
    attempt: 1,
    startedAtMs: 1_700_000_000_000,
    seed: new Uint8Array(16),
  };
  const inputs = [{ kind: "start", run, args: encode([10]) }];
  const activation = encode({ nowMs: 1_700_000_000_000, stepsMax: 256, inputs });
  let bytes = 0;
  const time = async (imageAfterMs: number): Promise<number> => {
    const times: number[] = [];
    for (let index = 0; index < 60; index++) {
      const machine = `image ${imageAfterMs} ${index}`;
      const startMs = performance.now();
      const result = await bench.sandbox.activate({
        component: bench.component.id,
        machine,
        from: { kind: "pristine" },
        activation,
        after: "keep",
        imageAfterMs,
      });
      times.push(performance.now() - startMs);
      if (result.kind !== "ok") throw new Error(`the sandbox answered ${result.kind}`);
      bytes = result.image?.length ?? bytes;
      bench.sandbox.release(machine);
    }
    return median(times);
  };
  const without = await time(Number.POSITIVE_INFINITY);
  const withImage = await time(0);
  return [
    { name: "image of a sleeping ten-step run", value: bytes, unit: "bytes" },
    {
      name: "activation that takes an image",
      value: withImage,
      unit: "ms",
      control: { name: "without", value: without, unit: "ms" },
    },
  ];
}
