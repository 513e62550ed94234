/** Does a run behind a queue cost the same beside 100,000 that wait there? */
import { encode } from "../guest/cbor.ts";
import type { Bench, Engine, Figure, Question } from "./kit.ts";

const sizes = [1000, 10_000, 100_000] as const;
const inFlight = 128;

export const queues: Question = {
  name: "queues",
  asks: "What does a run behind a queue cost, beside 100,000 that wait there?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const figures: Figure[] = [];
    const bases: number[] = [];
    for (const size of bench.sizes(sizes)) {
      const engine = await bench.open();
      await pass(engine, "warm", 300);
      // A gate that is shut: none goes until all wait.
      await engine.tenant.putQueue("narrow", { concurrency: 1 });
      const gate = { id: "gate", workflow: "dozer", queue: { name: "narrow" } } as const;
      await engine.tenant.startRun({ ...gate, args: encode([86_400_000]) });
      const waitUs = await cost(size, () => start(engine, "q", size));
      const passUs = await cost(size, async () => {
        await engine.tenant.putQueue("narrow", { concurrency: 16 });
        await untilEmpty(engine);
      });
      await engine.stop();
      for (const [at, [name, value]] of (
        [
          ["to wait", waitUs],
          ["to pass and end", passUs],
        ] as const
      ).entries()) {
        const control = bases[at] ?? value;
        bases[at] = control;
        const first = bench.sizes(sizes)[0];
        figures.push({
          name: `${name}, for each of ${size}`,
          value,
          unit: "us",
          target: size === first ? undefined : { below: control * 1.2 },
          control: { name: `for each of ${first}`, value: control, unit: "us" },
        });
      }
    }
    return figures;
  },
};

async function pass(engine: Engine, prefix: string, count: number): Promise<void> {
  await start(engine, prefix, count);
  await untilEmpty(engine, 0);
}

async function start(engine: Engine, prefix: string, count: number): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) {
      const id = `${prefix}${next++}`;
      await engine.tenant.startRun({ id, workflow: "passer", args: encode([1]) });
    }
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
}

/** But for the gate. */
async function untilEmpty(engine: Engine, left = 1): Promise<void> {
  for (;;) {
    const { running, waiting } = await engine.tenant.getQueue("narrow");
    if (running + waiting <= left) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function cost(count: number, work: () => Promise<void>): Promise<number> {
  const cpu = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(cpu);
  return (user + system) / count;
}
