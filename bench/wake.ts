/** Does a run with a long history wake as fast as one with a short one? */
import { encode } from "../guest/cbor.ts";
import { type Bench, type Engine, type Figure, median, type Question, valueIn } from "./kit.ts";

const histories = [10, 1000, 100_000] as const;
const wakes = 65;

export const wake: Question = {
  name: "wake",
  asks: "How long does a run take to wake from storage after 10, 1,000 and 100,000 steps?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    // Nothing stays in memory: each wake reads the rows and restores the image.
    const limits = { residentMax: 0 };
    const before = await bench.open({ limits });
    for (const count of histories) {
      const id = idOf(count);
      await before.tenant.startRun({ id, workflow: "sleeper", args: encode([count]) });
    }
    for (const count of histories) await untilAsleep(before, idOf(count));
    await before.stop();
    const engine = await bench.open({ folder: before.folder, limits });
    const times = new Map<number, number[]>(histories.map((count) => [count, []]));
    // Taking turns, in every order, so that a slow moment of the machine hits all alike.
    for (let index = 0; index < wakes; index++) {
      const turn = index % histories.length;
      for (const count of [...histories.slice(turn), ...histories.slice(0, turn)]) {
        const startMs = performance.now();
        await wakeUp(engine, idOf(count));
        if (index >= 5) times.get(count)?.push(performance.now() - startMs);
      }
    }
    const figures: Figure[] = [];
    const shortest = median(times.get(histories[0]) ?? []);
    for (const count of histories) {
      const { imageBytes } = await engine.tenant.getRun(idOf(count));
      const value = median(times.get(count) ?? []);
      const control = { name: "after 10 steps", value: shortest, unit: "ms" };
      figures.push(
        {
          name: `after ${count} steps`,
          value,
          unit: "ms",
          target: count === histories[0] ? undefined : { below: shortest * 1.1 },
          control,
        },
        { name: `image after ${count} steps`, value: imageBytes, unit: "bytes" },
      );
    }
    await engine.stop();
    return figures;
  },
};

function idOf(count: number): string {
  return `sleeper-${count}`;
}

async function untilAsleep(engine: Engine, id: string): Promise<void> {
  for (;;) {
    const { status, waiting } = await engine.tenant.getRun(id);
    if (status !== "RUNNING") throw new Error(`${id} is ${status}`);
    if (waiting?.for.includes("signal") === true) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function wakeUp(engine: Engine, id: string): Promise<void> {
  const called = await engine.tenant.updateRun(id, "poke", encode([]));
  if (called.kind !== "done") throw new Error(`${id} did not wake`);
  valueIn(called.outcome, id);
}
