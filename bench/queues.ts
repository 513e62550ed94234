/**
 * Does a run behind a queue cost the same beside 100,000 that wait there? Compared with 1,000 on the
 * same host, before and after: one that has just begun writes no checkpoint and deletes no log.
 */
import { encode } from "../guest/cbor.ts";
import type { Bench, Engine, Figure, Question } from "./kit.ts";

const sizes = [1000, 10_000, 100_000] as const;
const inFlight = 128;
/** Until the first checkpoints, and the code is compiled. */
const runsBefore = 5000;
const lookMs = 250;

export const queues: Question = {
  name: "queues",
  asks: "What does a run behind a queue cost, beside 100,000 that wait there?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const figures: Figure[] = [];
    const smallest = sizes[0];
    for (const size of bench.sizes(sizes)) {
      const engine = await bench.open();
      await start(engine, "warm", runsBefore);
      await untilEmpty(engine, 0);
      const before = await costs(engine, "before", smallest);
      const many = await costs(engine, "many", size);
      const after = await costs(engine, "after", smallest);
      await engine.stop();
      for (const [name, of] of [
        ["to wait", (found: Costs) => found.waitUs],
        ["to pass and end", (found: Costs) => found.passUs],
      ] as const) {
        const control = (of(before) + of(after)) / 2;
        figures.push({
          name: `${name}, for each of ${size}`,
          value: of(many),
          unit: "us",
          target: size === smallest ? undefined : { below: control * 1.2 },
          control: { name: `for each of ${smallest}`, value: control, unit: "us" },
        });
      }
    }
    return figures;
  },
};

interface Costs {
  readonly waitUs: number;
  readonly passUs: number;
}

/** Of so many runs that all wait before the first of them goes. */
async function costs(engine: Engine, prefix: string, size: number): Promise<Costs> {
  // A gate that is shut.
  const id = `${prefix}-gate`;
  await engine.tenant.putQueue("narrow", { concurrency: 1 });
  const gate = { id, workflow: "dozer", queue: { name: "narrow" } } as const;
  await engine.tenant.startRun({ ...gate, args: encode([86_400_000]) });
  const waitUs = await cost(size, () => start(engine, prefix, size));
  const passUs = await cost(size, async () => {
    await engine.tenant.putQueue("narrow", { concurrency: 16 });
    await untilEmpty(engine, 1);
  });
  await engine.tenant.terminateRun(id, "the next runs need a gate of their own");
  await untilEmpty(engine, 0);
  return { waitUs, passUs };
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

async function untilEmpty(engine: Engine, left: number): Promise<void> {
  for (;;) {
    const { running, waiting } = await engine.tenant.getQueue("narrow");
    if (running + waiting <= left) return;
    await new Promise((resolve) => setTimeout(resolve, lookMs));
  }
}

async function cost(count: number, work: () => Promise<void>): Promise<number> {
  const cpu = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(cpu);
  return (user + system) / count;
}
