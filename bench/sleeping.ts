/**
 * What does a host pay for a million runs that sleep: memory, waking one, taking them over?
 * Waking is asked of both in turns, the many and the 10,000: what the machine, the heap and the
 * compiler do in the minutes that the many take to make is the same for both.
 */
import { cpSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { encode } from "../guest/cbor.ts";
import { makeCopies } from "./copies.ts";
import { type Bench, type Engine, type Figure, median, type Question, valueIn } from "./kit.ts";

const sizes = [10_000, 100_000, 1_000_000] as const;
const wakes = 600;
/** In one turn. */
const wakesInTurn = 25;
/** Until the code is compiled, and the footers of all segments have been read. */
const wakesBefore = 600;
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
    const smallest = sizes[0];
    const smallFolder = bench.folder();
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
      if (size === smallest) cpSync(folder, smallFolder, { recursive: true });
      const found = await look(bench, folder);
      base ??= found;
      const [many, few] = await inTurns(bench, [
        { folder, size },
        { folder: smallFolder, size: smallest },
      ]);
      const flat = (value: number, unit: string) => ({
        unit,
        target: size === smallest ? undefined : { below: value * 1.2 },
        control: { name: `with ${smallest}`, value, unit },
      });
      figures.push(
        { name: `to wake one of ${size}`, value: many.wakeUs, ...flat(few.wakeUs, "us") },
        {
          name: `reads of the store to wake one of ${size}`,
          value: many.reads,
          unit: "",
          control: { name: `with ${smallest}`, value: few.reads, unit: "" },
        },
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
  /** Of this process, once it serves. */
  readonly heap: number;
}

const limits = { residentMax: 100 };

async function look(bench: Bench, folder: string): Promise<Found> {
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
  await engine.stop();
  return { recoverUs: median(taken), heap };
}

interface Sleepers {
  readonly folder: string;
  readonly size: number;
}

interface Woken {
  readonly wakeUs: number;
  readonly reads: number;
}

/** Wakes some of the one, some of the other, and so on. */
async function inTurns(
  bench: Bench,
  both: readonly [Sleepers, Sleepers],
): Promise<readonly [Woken, Woken]> {
  const open = async ({ folder, size }: Sleepers) => {
    const engine = await bench.open({ folder, isDeployed: true, limits });
    return { engine, size, next: 0, us: 0, reads: 0 };
  };
  const sides = [await open(both[0]), await open(both[1])] as const;
  const turn = async (side: (typeof sides)[number]): Promise<void> => {
    const { gets } = side.engine.traffic;
    const cpu = process.cpuUsage();
    for (let at = 0; at < wakesInTurn; at++) await wake(side, side.next++);
    side.us += sum(process.cpuUsage(cpu)) / wakes;
    side.reads += (side.engine.traffic.gets - gets) / wakes;
  };
  for (let at = 0; at < wakesBefore; at += wakesInTurn) for (const side of sides) await turn(side);
  for (const side of sides) Object.assign(side, { us: 0, reads: 0 });
  for (let at = 0; at < wakes; at += wakesInTurn) for (const side of sides) await turn(side);
  const found = (side: (typeof sides)[number]) => ({ wakeUs: side.us, reads: side.reads });
  for (const { engine } of sides) await engine.stop();
  return [found(sides[0]), found(sides[1])];
}

async function wake(side: { readonly engine: Engine; size: number }, at: number): Promise<void> {
  const id = `s${(at * 7919 + 13) % side.size}`;
  const called = await side.engine.tenant.updateRun(id, "poke", encode([]));
  if (called.kind !== "done") throw new Error(`${id} did not wake`);
  valueIn(called.outcome, id);
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
