/** What does a host pay for a million runs that sleep: memory, waking one, taking them over? */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { encode } from "../guest/cbor.ts";
import { makeCopies } from "./copies.ts";
import { type Bench, type Engine, type Figure, median, type Question, valueIn } from "./kit.ts";

const sizes = [10_000, 100_000, 1_000_000] as const;
const wakes = 300;
const dayMs = 86_400_000;

export const sleeping: Question = {
  name: "sleeping",
  asks: "What do 1,000,000 sleeping runs cost: memory, waking one, recovering the host?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const template = "template";
    // A young run on a quiet machine has no image: its start is its memory.
    const first = await bench.open({ limits: { imageAfterMs: Number.POSITIVE_INFINITY } });
    const args = encode([30 * dayMs]);
    await first.tenant.startRun({ id: template, workflow: "napper", args });
    await untilAsleep(first, template);
    const { folder } = first;
    const partitions = first.host.status().partitions.length;
    await first.stop();
    const figures: Figure[] = [];
    let made = 0;
    let base: Found | undefined;
    for (const size of bench.sizes(sizes)) {
      const idOf = (index: number): string => `s${index}`;
      // All over a month, as sleepers are.
      const atMs = (index: number): number => Date.now() + dayMs + ((index * 7919) % (30 * dayMs));
      const makeMs = await timed(() =>
        makeCopies({ folder, partitions, template, from: made, to: size, idOf, atMs }),
      );
      made = size;
      const found = await look(bench, folder, size);
      base ??= found;
      const smallest = sizes[0];
      const flat = (value: number, unit: string) => ({
        unit,
        target: size === smallest ? undefined : { below: value * 1.2 },
        control: { name: `with ${smallest}`, value, unit },
      });
      figures.push(
        { name: `to wake one of ${size}`, value: found.wakeUs, ...flat(base.wakeUs, "us") },
        {
          name: `to take over, for each of ${size}`,
          value: found.recoverUs / size,
          ...flat(base.recoverUs / smallest, "us"),
        },
        {
          name: `memory of the host, for each of ${size}`,
          value: found.heap / size,
          ...flat(base.heap / smallest, "bytes"),
        },
        { name: `to take ${size} over`, value: found.recoverUs / 1000, unit: "ms" },
        { name: `memory of the host with ${size}`, value: found.heap, unit: "bytes" },
        { name: `to write ${size} for this`, value: makeMs, unit: "ms" },
      );
    }
    return figures;
  },
};

interface Found {
  /** Processor time, which other work on the machine disturbs less than the clock. */
  readonly recoverUs: number;
  readonly wakeUs: number;
  /** Of this process, once it serves. */
  readonly heap: number;
}

async function look(bench: Bench, folder: string, size: number): Promise<Found> {
  const limits = { residentMax: 100 };
  const open = (): Promise<Engine> => bench.open({ folder, isDeployed: true, limits });
  const taken: number[] = [];
  for (let round = 0; round < 3; round++) {
    const cpu = process.cpuUsage();
    const engine = await open();
    taken.push(sum(process.cpuUsage(cpu)));
    await engine.stop();
  }
  const before = heapBytes();
  const engine = await open();
  const heap = heapBytes() - before;
  const wake = async (at: number): Promise<void> => {
    const id = `s${(at * 7919 + 13) % size}`;
    const called = await engine.tenant.updateRun(id, "poke", encode([]));
    if (called.kind !== "done") throw new Error(`${id} did not wake`);
    valueIn(called.outcome, id);
  };
  for (let at = 0; at < 50; at++) await wake(at);
  const cpu = process.cpuUsage();
  for (let at = 50; at < 50 + wakes; at++) await wake(at);
  const wakeUs = sum(process.cpuUsage(cpu)) / wakes;
  await engine.stop();
  return { recoverUs: median(taken), wakeUs, heap };
}

function sum({ user, system }: NodeJS.CpuUsage): number {
  return user + system;
}

export async function untilAsleep(engine: Engine, id: string): Promise<void> {
  for (;;) {
    const { waiting, status } = await engine.tenant.getRun(id);
    if (status !== "RUNNING") throw new Error(`${id} is ${status}`);
    if (waiting?.untilMs !== undefined) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function timed(work: () => Promise<void>): Promise<number> {
  const startMs = performance.now();
  await work();
  return performance.now() - startMs;
}

function heapBytes(): number {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}
