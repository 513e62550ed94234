/**
 * One simulation from one seed: a world with random settings, clients with random jobs,
 * faults for a while; then quiet, in which everything must end; then an audit.
 */
import { rowKeys, systemTimers, timerOfRow } from "../../runtime/format.ts";
import { partitionOf, runKey } from "../../runtime/ids.ts";
import type { PartitionLimits } from "../../runtime/partition.ts";
import { audit, openRows } from "./audit.ts";
import { Client, type Job } from "./clients.ts";
import { flat } from "./flat.ts";
import { allShared, jobs, jobsOfMany, jobsOfPrograms, jobsOfSome } from "./jobs.ts";
import type { Violation } from "./laws.ts";
import type { Mutant } from "./mutants.ts";
import { disturb } from "./network.ts";
import { SimRandom } from "./random.ts";
import { noFaults, World } from "./world.ts";

export interface SimOptions {
  readonly seed: number;
  readonly isVerbose?: boolean;
  readonly mutant?: Mutant | undefined;
  /** Only this job. */
  readonly job?: string | undefined;
  readonly crashAtOp?: number | undefined;
  /** Whether hosts share the partitions, or each new one takes them all; by the seed. */
  readonly isShared?: boolean | undefined;
  /** The number of partitions is changed now and then. */
  readonly isMoving?: boolean | undefined;
}

export interface SimResult {
  readonly seed: number;
  readonly violations: readonly Violation[];
  readonly traceHash: string;
  readonly lines: readonly string[];
  readonly counts: ReadonlyMap<string, number>;
  /** What the runs were that the violations speak of. */
  readonly stories: readonly string[];
  readonly events: number;
  readonly ops: number;
  readonly virtualMs: number;
}

/** Virtual time after which something is stuck, where no clock is ahead. */
const quietMs = 6 * 3_600_000;

/** So small that the rows of a few runs reach every level, and commits wait for segments. */
const manyLevels: Partial<PartitionLimits> = {
  checkpointBytes: 12_000,
  table: {
    blockBytes: 500,
    segmentBytesMax: 4000,
    levelZeroMax: 2,
    levelOneBytesMax: 12_000,
    cacheBytesMax: 4000,
    footerBytesMax: 2000,
  },
};

export async function simulate(options: SimOptions): Promise<SimResult> {
  const { seed } = options;
  const random = new SimRandom(seed, 7);
  // Of its own, so that a seed's other choices stay what they are.
  const isSharedBySeed = new SimRandom(seed, 11).chance(0.5);
  const isShared = options.isShared ?? (isPlain(options) && isSharedBySeed);
  const world = new World({
    seed,
    isShared,
    partitions: random.pick([1, 2, 2, 3]),
    limits: {
      lingerMs: random.pick([0, 5, 25, 100]),
      checkpointEntries: random.pick([2, 5, 10, 20, 50]),
      residentMax: random.pick([0, 1, 3, 100]),
      imageAfterMs: random.pick([0, 0.5, 2, 10, Number.POSITIVE_INFINITY]),
      imageAfterBytes: random.pick([500, 2000, 64 * 1024]),
      referBytes: random.pick([0, 100, 16 * 1024]),
      storeBytes: random.pick([0, 20, 256 * 1024]),
      ...(new SimRandom(seed, 17).chance(0.5) && manyLevels),
    },
    storeMs: random.pick([0.5, 5, 20]),
    isVerbose: options.isVerbose === true,
    mutant: options.mutant,
    crashAtOp: options.crashAtOp,
    isCollecting: isPlain(options) && new SimRandom(seed, 13).chance(0.3),
  });
  const undo = options.mutant?.patch?.();
  const calm = disturb(world);
  try {
    await live(world, random, options);
  } finally {
    calm();
    undo?.();
  }
  return {
    seed,
    violations: world.laws.violations,
    traceHash: world.traceHash,
    lines: world.lines,
    counts: world.counts,
    stories: storiesOf(world),
    events: world.events,
    ops: world.opCount,
    virtualMs: world.nowMs,
  };
}

function storiesOf({ stories, laws }: World): string[] {
  return [...stories]
    .filter(([id]) => laws.violations.some(({ message }) => message.includes(id)))
    .map(([id, story]) => `${id}: ${story}`);
}

function isPlain({ crashAtOp, mutant }: SimOptions): boolean {
  return crashAtOp === undefined && mutant === undefined;
}

/** The first simulation that finds the mutant. */
export async function hunt(
  mutant: Mutant,
): Promise<Pick<SimResult, "seed" | "violations"> | undefined> {
  for (let seed = 1; seed <= mutant.seedsMax; seed += 1) {
    const { law, job } = mutant;
    const { isShared = false, isMoving = false } = mutant;
    const { violations } =
      mutant.isMeasured === true
        ? await flat({ seed, mutant })
        : await simulate({ seed, mutant, job, isShared, isMoving });
    const found = violations.filter((each) => law === undefined || each.law === law);
    if (found.length > 0) return { seed, violations: found };
  }
  return undefined;
}

async function live(world: World, random: SimRandom, options: SimOptions): Promise<void> {
  world.startHost();
  const chaos = new Chaos(world, random.fork());
  chaos.tend();
  const tenants = random.chance(0.3) ? ["a", "b"] : ["a"];
  const isServed = (): boolean => world.liveHosts.some((host) => host.isReady);
  if (!(await world.runUntil(isServed, 60_000))) {
    world.laws.violate("liveness", "the first host does not get ready");
    return;
  }
  const clients: Client[] = [];
  for (const tenant of tenants) {
    const client = new Client(world, `deployer-${tenant}`, tenant);
    let isDeployed = false;
    const code = "export {};";
    void client
      .ask("deploy", (host) => host.deploy({ kind: "javascript", code }))
      .catch((error: unknown) => world.laws.violate("J-no surprise", `deploy: ${String(error)}`))
      .then(() => {
        isDeployed = true;
      });
    await world.runUntil(() => isDeployed, 120_000);
  }
  let busy = 0;
  const isDrawn = ({ stream, share }: (typeof jobsOfSome)[number]): boolean =>
    new SimRandom(options.seed, stream).chance(share);
  const all = Object.assign(
    { ...jobs },
    world.isShared && jobsOfMany,
    ...jobsOfSome.filter(isDrawn).map((each) => each.jobs),
  );
  const names = options.job === undefined ? Object.keys(all) : [options.job];
  const employ = (name: string, from: readonly string[]): void => {
    const client = new Client(world, name, name.slice(0, name.indexOf(".")));
    clients.push(client);
    busy += 1;
    const work = async (): Promise<void> => {
      for (let j = 1, n = random.between(1, 4); j <= n; j += 1) {
        const job = client.random.pick(from);
        await runJob(client, job, `${client.name}.${job}${j}`);
      }
      client.doing = "done";
      busy -= 1;
    };
    void work();
  };
  const clientCount = random.between(1, 4);
  for (let c = 1; c <= clientCount; c += 1) employ(`${random.pick(tenants)}.c${c}`, names);
  // A client of their own: among all the others' they would hardly ever be drawn.
  const hasPrograms = options.job === undefined && new SimRandom(options.seed, 28).chance(0.2);
  if (isPlain(options) && hasPrograms) employ("a.p", Object.keys(jobsOfPrograms));
  chaos.begin(options.crashAtOp === undefined);
  const isMovingBySeed = isPlain(options) && new SimRandom(options.seed, 12).chance(0.2);
  if (options.isMoving ?? isMovingBySeed) chaos.move(options.seed);
  const faultMs = world.nowMs + random.pick([2_000, 10_000, 60_000]);
  await world.runUntil(() => busy === 0 || world.laws.violations.length > 0, faultMs);
  if (world.laws.violations.length > 0) return;

  chaos.end();
  const limitMs = world.nowMs + quietMs + 1.2 * world.aheadMs; // clocks may run slowly
  const isOver = await world.runUntil(
    () => busy === 0 || world.laws.violations.length > 0,
    limitMs,
  );
  if (world.laws.violations.length > 0) return;
  if (!isOver) {
    const stuck = clients.filter((client) => client.doing !== "done");
    world.laws.violate(
      "liveness",
      stuck.map((client) => `${client.name}: ${client.doing}`).join("; "),
    );
    return;
  }
  let isAudited = false;
  void counters(world)
    .then(() => sleepers(world))
    .then(() => passivation(world))
    .then(() => lastWork(world))
    .then(() => audit(world))
    .catch((error: unknown) => {
      world.laws.violate("audit", error instanceof Error ? (error.stack ?? "") : String(error));
    })
    .then(() => {
      isAudited = true;
    });
  if (!(await world.runUntil(() => isAudited, world.nowMs + quietMs))) {
    world.laws.violate("liveness", "the audit does not end");
  }
}

const everyJob: Readonly<Record<string, Job>> = Object.assign(
  { ...jobs, ...jobsOfMany, ...jobsOfPrograms },
  ...jobsOfSome.map((each) => each.jobs),
);

async function runJob(client: Client, name: string, id: string): Promise<void> {
  const job: Job | undefined = everyJob[name];
  if (job === undefined) throw new Error(`there is no job ${name}`);
  client.hasRepeated = false;
  try {
    await job(client, id);
    client.world.count("jobs");
  } catch (error) {
    const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
    client.world.laws.violate("J-no surprise", `${name} ${id} (${client.doing}): ${message}`);
  }
}

/** I4: what was called exactly once counts exactly once. */
async function counters(world: World): Promise<void> {
  // One-way calls and answers of finished workflows may still be on their way.
  await world.sleep(10_000);
  for (const [tenant, shared] of allShared(world)) {
    const client = new Client(world, `auditor-${tenant}`, tenant);
    for (const [counter, expected] of shared.expected) {
      const value = await client.call("Counter", counter, "value", []);
      const faults = (await client.call("Counter", counter, "faults", [])) as string[];
      world.laws.check(
        value === expected && faults.length === 0,
        "I4 calls once and in order",
        `counter ${counter} of ${tenant} is ${String(value)}, not ${expected}; ${faults.join(", ")}`,
      );
    }
  }
}

/**
 * What a host had begun whose clock was ahead sleeps until the others' clocks are there: it isn't
 * forgotten, as nothing is before its time. What is due and left all the same, the audit finds.
 */
async function sleepers(world: World): Promise<void> {
  for (;;) {
    const restMs = Math.max(0, ...world.laws.partitions.map((index) => sleepMs(world, index)));
    if (restMs === 0) return;
    world.count("sleepers waited for");
    await world.sleep(restMs + 10_000);
  }
}

/** Until the last sleep of an entity that has something to do is over, at the slowest clock. */
function sleepMs(world: World, partition: number): number {
  const { rows } = world.laws.truth(partition);
  const clocksMs = world.liveHosts.map((host) => host.clockMs());
  const nowMs = Math.min(...clocksMs);
  const timers = [...rows.keys()].filter((row) => row.startsWith(rowKeys.timers)).map(timerOfRow);
  const sleeps = timers.filter(
    ({ key, id }) => id < systemTimers.min && rows.has(rowKeys.attention(key)),
  );
  return Math.max(0, ...sleeps.map(({ atMs }) => atMs - nowMs));
}

/** What a canceled program left to itself may still be at work; half a minute ends all of that. */
async function lastWork(world: World): Promise<void> {
  for (
    let n = 0;
    n < 30 && world.laws.partitions.some((at) => openRows(world, at).length > 0);
    n += 1
  ) {
    world.count("seconds of last work");
    await world.sleep(1000);
  }
}

/** I8: what nobody waits for leaves memory, but for as many as may stay. */
async function passivation(world: World): Promise<void> {
  const { residentMax = 0 } = world.options.limits;
  await world.sleep(10_000);
  // It is after a commit that they leave: the one that was just waited for stays until the next.
  const client = new Client(world, "idler", "a");
  for (const partition of world.laws.partitions) {
    let n = 0;
    while (partitionOf(runKey("a", `idle-${n}`), world.laws.layout.partitions) !== partition)
      n += 1;
    await client.start(`idle-${n}`, "chain", [0]);
    await client.value(`idle-${n}`);
  }
  await world.sleep(1000);
  for (const host of world.liveHosts) {
    for (const { partition, state, residentEntities } of host.host?.status().partitions ?? []) {
      world.laws.check(
        state !== "owned" || residentEntities <= residentMax + 1,
        "I8 the idle leave memory",
        `${host.id} keeps ${residentEntities} of partition ${partition}, of ${residentMax}`,
      );
    }
  }
}

// ---------------------------------------------------------------- faults

/** What goes wrong, at random moments, until the quiet begins. */
class Chaos {
  readonly #world: World;
  readonly #random: SimRandom;
  #isOver = false;

  constructor(world: World, random: SimRandom) {
    this.#world = world;
    this.#random = random;
  }

  begin(withHostFaults: boolean): void {
    const random = this.#random;
    const level = random.pick([0, 0.01, 0.05, 0.15]);
    const share = (): number => (random.chance(0.7) ? level * random.next() : 0);
    this.#world.faults = {
      failBefore: share(),
      failAfter: share(),
      applyLate: share(),
      slow: share() / 5,
      staleList: random.chance(0.5) ? 0.5 : 0,
      outbound: share() * 3,
      evict: random.pick([0, 0.05, 0.5]),
      messages: random.pick([0, 0.05, 0.5]),
      guest: random.pick([0, 0, 0.02, 0.2]),
      peers: this.#world.isShared ? share() : 0,
    };
    const everyMs = random.pick([50, 300, 1500, 10_000, Number.POSITIVE_INFINITY]);
    if (withHostFaults && Number.isFinite(everyMs)) this.#next(everyMs);
  }

  end(): void {
    this.#isOver = true;
    const world = this.#world;
    world.trace("quiet");
    world.faults = noFaults;
    world.endCrashes();
    for (const host of world.liveHosts) {
      if (this.#random.chance(0.3)) host.crash();
      else host.wake();
    }
    if (world.isShared) {
      const isMore = this.#random.chance(0.5);
      if (isMore || world.liveHosts.every((host) => host.isLeaving)) world.startHost();
      return;
    }
    for (const host of world.liveHosts) host.crash();
    world.startHost();
  }

  #next(everyMs: number): void {
    this.#world.at(this.#random.latency(everyMs), () => {
      if (this.#isOver) return;
      this.#strike();
      this.#next(everyMs);
    });
  }

  #strike(): void {
    const world = this.#world;
    const random = this.#random;
    const live = world.liveHosts;
    if (live.length === 0) return;
    const host = random.pick(live);
    switch (random.below(world.isShared ? 11 : 8)) {
      case 0:
      case 1:
        host.crash();
        return;
      case 2:
        host.pause();
        world.at(random.latency(random.pick([5, 200, 3000, 30_000])), () => host.wake());
        return;
      case 3:
        if (live.length < 4) world.startHost();
        return;
      case 4:
        host.jump(random.pick([-600_000, -5000, -50, 50, 5000, 600_000, 8_000_000]));
        return;
      case 5:
        host.drift(random.pick([0.9, 1, 1.1]));
        return;
      case 6:
        // A takeover while the owner stands still: it wakes as a zombie.
        host.pause();
        world.startHost();
        world.at(random.latency(random.pick([50, 500, 5000])), () => host.wake());
        return;
      case 8:
      case 9:
        host.leave();
        return;
      case 10:
        // Longer than it takes to be thought dead.
        host.pause();
        world.at(random.latency(30_000), () => host.wake());
        return;
      default:
        this.#burst();
        return;
    }
  }

  /** Changes the number of partitions now and then, from a stream of chance of its own. */
  move(seed: number): void {
    const world = this.#world;
    const random = new SimRandom(seed, 13);
    const next = (): void => {
      world.at(random.latency(random.pick([300, 3000, 20_000])), () => {
        if (this.#isOver) return;
        const ready = world.liveHosts.filter((host) => host.isReady && !host.isLeaving);
        const host = ready.length === 0 ? undefined : random.pick(ready);
        const count = random.between(1, 4);
        world.trace(`to ${count} partitions, by ${host?.id}`);
        const moving = host?.call((each) => each.repartition(count), 600_000);
        // One that fails is given up by the hosts.
        moving?.then(
          () => world.count("layouts"),
          () => world.count("layouts given up"),
        );
        next();
      });
    };
    next();
  }

  #burst(): void {
    const world = this.#world;
    const before = world.faults;
    world.count("bursts");
    world.faults = { ...before, failBefore: 0.5, failAfter: 0.2 };
    world.at(this.#random.latency(500), () => {
      if (!this.#isOver) world.faults = before;
    });
  }

  /** The operator: hosts that lost a partition are ended after a while, and one is kept up. */
  tend(): void {
    const world = this.#world;
    world.at(this.#random.latency(300), () => {
      for (const host of world.liveHosts) {
        if (host.hasMoved && this.#random.chance(0.5)) host.crash();
      }
      const isServed = world.liveHosts.some(
        (host) => !host.hasMoved && !host.isPaused && !host.isLeaving,
      );
      if (!isServed && !this.#isOver) world.startHost();
      if (!this.#isOver || world.liveHosts.length === 0) this.tend();
      else this.#watch();
    });
  }

  /** In the quiet: a host that can't go on is replaced, as an operator would. */
  #watch(): void {
    const world = this.#world;
    world.at(1000, () => {
      if (world.liveHosts.every((host) => host.hasMoved)) {
        for (const host of world.liveHosts) host.crash();
        world.startHost();
      }
      this.#watch();
    });
  }
}
