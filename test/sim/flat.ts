/**
 * I8, measured: what one wake-up costs late in a long run, and beside many sleeping ones,
 * against what it costs early and alone. No faults; nothing stays in memory between two
 * wake-ups, so each is what a host pays that has just taken over.
 *
 * Counted per wake-up: commits and their bytes, rows that waking reads, activations that
 * are computed again, GETs. Checkpoints and compaction come to a wake-up as their share.
 */
import { encode } from "../../guest/cbor.ts";
import { runKey } from "../../runtime/ids.ts";
import { Client } from "./clients.ts";
import type { Violation } from "./laws.ts";
import type { Mutant } from "./mutants.ts";
import { disturb } from "./network.ts";
import { World } from "./world.ts";

export interface Cost {
  readonly commits: number;
  readonly commitBytes: number;
  readonly rowsRead: number;
  readonly replayed: number;
  readonly gets: number;
}

export interface FlatResult {
  readonly violations: readonly Violation[];
  readonly early: Cost;
  readonly late: Cost;
  readonly beside: Cost;
}

const wakes = 300;
const windowWakes = 50;
const sleepers = 300;
/** How much dearer, in proportion. Caches and levels of the table make for some of it. */
const factorMax = 1.5;

/** Per wake-up of a run: at its beginning, after its history, and beside sleeping runs. */
export async function flat(options: { seed: number; mutant?: Mutant }): Promise<FlatResult> {
  const alone = await measure(options, 0, wakes);
  const crowded = await measure(options, sleepers, 2 * windowWakes);
  const violations = [...alone.world.laws.violations, ...crowded.world.laws.violations];
  const [, early] = alone.costs;
  const late = alone.costs.at(-1);
  const beside = crowded.costs.at(-1);
  if (early === undefined || late === undefined || beside === undefined) {
    return { violations, early: nothing, late: nothing, beside: nothing };
  }
  const { laws } = alone.world;
  for (const [what, cost] of [
    [`after ${wakes} wake-ups`, late],
    [`beside ${sleepers} sleeping runs`, beside],
  ] as const) {
    for (const name of names) {
      const isFlat = cost[name] <= early[name] * factorMax + 1;
      laws.check(isFlat, "L-flat", `${name} ${what}: ${cost[name]} instead of ${early[name]}`);
    }
  }
  return {
    violations: [...laws.violations, ...crowded.world.laws.violations],
    early,
    late,
    beside,
  };
}

const names = ["commits", "commitBytes", "rowsRead", "replayed", "gets"] as const;
const nothing: Cost = {
  commits: 0,
  commitBytes: 0,
  rowsRead: 0,
  replayed: 0,
  gets: 0,
};

async function measure(
  { seed, mutant }: { seed: number; mutant?: Mutant },
  asleep: number,
  count: number,
): Promise<{ world: World; costs: Cost[] }> {
  const world = new World({
    seed,
    partitions: 1,
    limits: { lingerMs: 5, checkpointEntries: 50, residentMax: 0, imageAfterMs: 2 },
    storeMs: 2,
    mutant,
  });
  const undo = mutant?.patch?.();
  const calm = disturb(world);
  const costs: Cost[] = [];
  try {
    world.startHost();
    let isOver = false;
    void story(world, asleep, count, costs)
      .catch((error: unknown) => world.laws.violate("J-no surprise", String(error)))
      .then(() => {
        isOver = true;
      });
    const isDone = (): boolean => isOver || world.laws.violations.length > 0;
    if (!(await world.runUntil(isDone, 24 * 3_600_000))) {
      world.laws.violate("liveness", `a long run does not end: ${world.nowMs} ms`);
    }
  } finally {
    calm();
    undo?.();
  }
  return { world, costs };
}

async function story(world: World, asleep: number, count: number, costs: Cost[]): Promise<void> {
  const client = new Client(world, "measurer", "a");
  await client.ask("deploy", (host) => host.deploy({ kind: "javascript", code: "export {};" }));
  for (let i = 0; i < asleep; i += 1) await client.start(`asleep${i}`, "cancellable", []);
  await client.start("long", "ticker", [count]);
  const key = runKey("a", "long");
  let before = snapshot(world);
  let rows = 0;
  for (let i = 1; i <= count; i += 1) {
    // Twice asleep: until the signal, and until the timer that follows it.
    await client.ask("tick", (tenant) => tenant.signalRun("long", "tick", encode(i), {}));
    await world.sleep(2000);
    rows += world.laws.rowsBelow(key, `e/${key}/`).length;
    if (i % windowWakes !== 0) continue;
    const now = snapshot(world);
    costs.push({
      commits: (now.commits - before.commits) / windowWakes,
      commitBytes: (now.commitBytes - before.commitBytes) / windowWakes,
      rowsRead: rows / windowWakes,
      replayed: (now.replayed - before.replayed) / windowWakes,
      gets: (now.gets - before.gets) / windowWakes,
    });
    before = now;
    rows = 0;
  }
  const law = "J-output";
  world.laws.check((await client.value("long")) === count, law, "the long run counts its ticks");
}

function snapshot(world: World): Omit<Cost, "rowsRead"> {
  const of = (name: string): number => world.counts.get(name) ?? 0;
  return {
    commits: of("commits"),
    commitBytes: of("commit bytes"),
    replayed: of("replayed activations"),
    gets: world.bucket.gets,
  };
}
