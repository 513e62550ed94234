/** What do 100,000 actors cost: to make, to find again when they left memory, and to keep? */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { type Bench, callCounter, type Engine, type Figure, type Question } from "./kit.ts";

const sizes = [1000, 10_000, 100_000] as const;
const inFlight = 128;
/** Calls of actors that aren't in memory, for each size. */
const wakes = 1000;
/** Of one actor's life: calls that are measured, and those between. */
const turnsMeasured = 3000;
const turnsBetween = 30_000;

export const population: Question = {
  name: "population",
  asks: "What does an actor cost as they become 100,000: to make, to wake from storage, in memory?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    return [...(await cost(bench)), ...(await life(bench)), ...(await memory(bench))];
  },
};

/** One actor that has had many turns: a call costs what its first ones did. */
async function life(bench: Bench): Promise<readonly Figure[]> {
  const engine = await bench.open();
  const add = async (): Promise<void> => void (await callCounter(engine, "old", "add"));
  await each(200, add);
  const early = await each(turnsMeasured, add);
  await each(turnsBetween, add);
  const late = await each(turnsMeasured, add);
  await engine.stop();
  return [
    {
      name: `a call of one actor after ${turnsBetween} turns`,
      value: late,
      unit: "us",
      target: { below: early * 1.2 },
      control: { name: "its first ones", value: early, unit: "us" },
    },
  ];
}

interface Cost {
  readonly madeUs: number;
  readonly wokenUs: number;
  readonly bytesPut: number;
}

/** Almost none of them fits into memory: each call finds its actor in storage. */
async function cost(bench: Bench): Promise<readonly Figure[]> {
  // Small checkpoints: a thousand are in segments too, not in the rows since the last one.
  const limits = { residentMax: 100, checkpointBytes: 256 * 1024 };
  const engine = await bench.open({ limits });
  const costs = new Map<number, Cost>();
  await grow(engine, { from: -200, to: 0 }); // a warm engine
  let made = 0;
  for (const size of sizes) {
    engine.traffic.reset();
    const madeUs = await grow(engine, { from: made, to: size });
    const bytesPut = engine.traffic.bytesPut / (size - made);
    made = size;
    // What is being merged still is a cost of making them.
    await new Promise((resolve) => setTimeout(resolve, 3000));
    costs.set(size, { madeUs, wokenUs: await wake(engine, size), bytesPut });
  }
  await engine.stop();
  const first = costs.get(sizes[0]);
  const figures: Figure[] = [];
  for (const size of sizes) {
    const found = costs.get(size);
    if (found === undefined || first === undefined) continue;
    const flat = (value: number): Pick<Figure, "target" | "control"> => ({
      target: size === sizes[0] ? undefined : { below: value * 1.2 },
      control: { name: `with ${sizes[0]}`, value, unit: "us" },
    });
    figures.push(
      {
        name: `to make one and count once, up to ${size}`,
        value: found.madeUs,
        unit: "us",
        ...flat(first.madeUs),
      },
      {
        name: `to wake one of ${size} and count`,
        value: found.wokenUs,
        unit: "us",
        ...flat(first.wokenUs),
      },
      { name: `written for each, up to ${size}`, value: found.bytesPut, unit: "bytes" },
    );
  }
  return figures;
}

/** Processor time for each: what other work disturbs less than the clock. */
async function grow(
  engine: Engine,
  { from, to }: { readonly from: number; readonly to: number },
): Promise<number> {
  let next = from;
  return each(to - from, async () => {
    await callCounter(engine, `item-${next++}`, "add");
  });
}

async function wake(engine: Engine, size: number): Promise<number> {
  // Steps of a number without a common divisor: all over the keys, none twice.
  let index = 0;
  return each(wakes, async () => {
    index = (index + 7919) % size;
    const count = await callCounter(engine, `item-${index}`, "add");
    if (typeof count !== "number" || count < 2) throw new Error("it was forgotten");
  });
}

async function each(count: number, work: () => Promise<void>): Promise<number> {
  const cpu = process.cpuUsage();
  let begun = 0;
  const worker = async (): Promise<void> => {
    while (begun < count) {
      begun += 1;
      await work();
    }
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
  const { user, system } = process.cpuUsage(cpu);
  return (user + system) / count;
}

/** Heap of this process for each actor, once as all stay in memory and once as none does. */
async function memory(bench: Bench): Promise<readonly Figure[]> {
  const count = 10_000;
  const figures: Figure[] = [];
  for (const [name, residentMax] of [
    ["resident", count * 2],
    ["idle", 0],
  ] as const) {
    const engine = await bench.open({ limits: { residentMax } });
    await grow(engine, { from: -200, to: 0 });
    const before = heapBytes();
    await grow(engine, { from: 0, to: count });
    const resident = residents(engine);
    const isAsMeant = residentMax === 0 ? resident < 200 : resident > count;
    if (!isAsMeant) throw new Error(`${resident} actors are in memory`);
    const value = (heapBytes() - before) / count;
    figures.push({ name: `memory of each ${name} actor`, value, unit: "bytes" });
    await engine.stop();
  }
  return figures;
}

function residents(engine: Engine): number {
  const { partitions } = engine.host.status();
  return partitions.reduce((sum, { residentEntities }) => sum + residentEntities, 0);
}

function heapBytes(): number {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}
