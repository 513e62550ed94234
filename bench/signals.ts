/** How many signals go to one run, and to many, and what does each cost as they become more? */
import { encode } from "../guest/cbor.ts";
import { SporeError } from "../runtime/errors.ts";
import type { Bench, Engine, Figure, Question } from "./kit.ts";

const sizes = [1000, 10_000, 100_000] as const;
const inFlight = 128;
const runs = 128;

export const signals: Question = {
  name: "signals",
  asks: "What does a signal to one run, or to one of many, cost as they become 100,000?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const figures: Figure[] = [];
    for (const [name, receivers] of [
      ["one run", 1],
      [`one of ${runs} runs`, runs],
    ] as const) {
      let base: number | undefined;
      for (const size of bench.sizes(sizes)) {
        const engine = await bench.open();
        await send(engine, { count: 500, receivers, prefix: "warm" });
        const { cpuUs, perSecond } = await send(engine, { count: size, receivers, prefix: "r" });
        await engine.stop();
        base ??= cpuUs;
        const first = bench.sizes(sizes)[0];
        figures.push(
          {
            name: `a signal to ${name}, ${size} of them`,
            value: cpuUs,
            unit: "us",
            target: size === first ? undefined : { below: base * 1.2 },
            control: { name: `${first} of them`, value: base, unit: "us" },
          },
          { name: `signals a second to ${name}, ${size} of them`, value: perSecond, unit: "1/s" },
        );
      }
    }
    return figures;
  },
};

/** A run may have 10,000 that it hasn't taken yet: who sends faster than it takes has to wait. */
async function signal(engine: Engine, id: string, value: Uint8Array): Promise<void> {
  for (;;) {
    try {
      await engine.tenant.signalRun(id, "item", value);
      return;
    } catch (error) {
      if (!(error instanceof SporeError) || error.code !== "too-many-messages") throw error;
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }
}

/** All are durable when they are answered, and all are taken when the runs have ended. */
async function send(
  engine: Engine,
  how: { readonly count: number; readonly receivers: number; readonly prefix: string },
): Promise<{ readonly cpuUs: number; readonly perSecond: number }> {
  const { count, receivers, prefix } = how;
  const each = Math.ceil(count / receivers);
  const ids = Array.from({ length: receivers }, (_, index) => `${prefix}${index}`);
  for (const id of ids) {
    await engine.tenant.startRun({ id, workflow: "taker", args: encode([each]) });
  }
  const cpu = process.cpuUsage();
  const startMs = performance.now();
  let sent = 0;
  const value = encode(1);
  const worker = async (): Promise<void> => {
    while (sent < each * receivers) {
      const id = ids[sent++ % receivers] ?? "";
      await signal(engine, id, value);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
  for (const id of ids) {
    const output = await engine.tenant.output(id, { waitMs: 120_000 });
    if (output.kind !== "ready") throw new Error(`${id} did not end`);
  }
  const { user, system } = process.cpuUsage(cpu);
  const total = each * receivers;
  return {
    cpuUs: (user + system) / total,
    perSecond: (total * 1000) / (performance.now() - startMs),
  };
}
