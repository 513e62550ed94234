/**
 * What clients do with queues of their own: limits that change while runs pass, refusals that leave
 * nothing, rates, deletions, and the queue that all runs of a tenant pass.
 */
import { encode } from "../../guest/cbor.ts";
import type { QueueLimits } from "../../guest/protocol.ts";
import { queueKey, runKey } from "../../runtime/ids.ts";
import type { QueueView, StartRequest } from "../../runtime/index.ts";
import { Client, codeOf, forgiving, type Job, same } from "./clients.ts";
import { epochMs } from "./world.ts";

const asTold = "I3 a queue is as was told";
const refusedLaw = "J-a refused start leaves nothing";

function clientMs({ world }: Client): number {
  return epochMs + Math.floor(world.nowMs);
}

// ---------------------------------------------------------------- starts

/** False if there was no room, and then nothing of the run is there. */
async function tryToStart(
  client: Client,
  request: StartRequest & { readonly id: string },
): Promise<boolean> {
  const { laws } = client.world;
  const key = runKey(client.tenant, request.id);
  let isFirst = true;
  const isStarted = await client.ask(
    `start ${request.id}`,
    async (tenant, attempt) => {
      isFirst = attempt === 1;
      try {
        await tenant.startRun(request);
        return true;
      } catch (error) {
        if (codeOf(error) === "queue-full") return false;
        throw error;
      }
    },
    (wasStarted) => {
      // What an earlier attempt still does is another start.
      if (!wasStarted && isFirst)
        same(client, refusedLaw, laws.rowsBelow(key, `e/${key}/!`), [], key);
    },
  );
  if (!isStarted) client.world.count("refused by a queue");
  if (!isStarted && isFirst && client.random.chance(0.5)) await nothingOf(client, request.id);
  return isStarted;
}

async function nothingOf(client: Client, id: string): Promise<void> {
  const { laws } = client.world;
  const found = await client.ask(`nothing of ${id}?`, (tenant) =>
    forgiving(tenant.getRun(id), "run-not-found"),
  );
  same(client, refusedLaw, found?.status, undefined, id);
  // Its last rows go a moment later.
  const key = runKey(client.tenant, id);
  while (laws.leftOf(key).length > 0) await client.world.sleep(client.random.latency(2000));
}

async function startInTime(
  client: Client,
  request: StartRequest & { readonly id: string },
): Promise<void> {
  for (let pauseMs = 500; !(await tryToStart(client, request)); ) {
    await client.world.sleep(client.random.latency(pauseMs));
    pauseMs = Math.min(pauseMs * 2, 600_000);
  }
}

const hows = ["", "", "", "fail", "cancel", "terminate", "late", "delayed", "pause", "again"];

/** One run that passes the queue in one way or another. */
async function pass(client: Client, id: string, queue: string): Promise<void> {
  const { random } = client;
  const how = random.pick(hows);
  const nowMs = clientMs(client);
  await startInTime(client, {
    id,
    workflow: "lasting",
    args: encode([random.pick([0, 10, 300, 5000]), how]),
    queue: {
      name: queue,
      priority: random.pick([0, 0, 5, -5]),
      ...(random.chance(0.5) ? { key: random.pick(["ada", "bob"]) } : {}),
    },
    ...(how === "late" ? { deadlineMs: nowMs + random.pick([1, 200, 3000]) } : {}),
    ...(how === "delayed" ? { startAtMs: nowMs + random.pick([5, 500, 4000]) } : {}),
  });
  if (random.chance(0.4)) await look(client, id, queue);
  if (how === "pause") await pauseAndResume(client, id);
  if (how === "cancel" || how === "terminate") await end(client, id, how);
  const outcome = await client.outcome(id);
  if (how === "fail") same(client, "J-queue", outcome.kind, "error", `${id} ${how}`);
  const mayFail = how === "fail" || how === "cancel" || how === "terminate" || how === "late";
  if (!mayFail) same(client, "J-queue", outcome.kind, "ok", `${id} ${how}`);
  if (how === "again") await passAgain(client, id);
}

/** What a run and its queue say of each other, whichever of them was asked first. */
async function look(client: Client, id: string, queue: string): Promise<void> {
  const { laws } = client.world;
  const { status, waiting } = await client.view(id);
  client.world.count(`seen while ${status}`);
  const isSaid = /queue|its time to start/.test(waiting?.for ?? "");
  laws.check(status !== "PENDING" || isSaid, asTold, `${id} waits for ${waiting?.for}`);
  const view = await queueNow(client, queue);
  if (view === undefined) return;
  const { running, waiting: count, admitted, next } = view;
  const told = `${queue}: ${running} run, ${count} wait, ${admitted} admitted, ${next.length} shown`;
  laws.check(next.length === Math.min(10, count) && admitted >= running, asTold, told);
  const turns = next.map(({ priority }) => priority);
  same(
    client,
    asTold,
    turns,
    turns.toSorted((left, right) => right - left),
    queue,
  );
}

async function end(client: Client, id: string, how: "cancel" | "terminate"): Promise<void> {
  if (client.random.chance(0.5)) await client.world.sleep(client.random.latency(400));
  await client.ask(`${how} ${id}`, (tenant) =>
    forgiving(
      how === "cancel" ? tenant.cancelRun(id, "enough") : tenant.terminateRun(id, "enough"),
      "run-closed",
    ),
  );
}

async function pauseAndResume(client: Client, id: string): Promise<void> {
  for (let i = client.random.between(1, 2); i > 0; i -= 1) {
    await client.ask(`pause ${id}`, (tenant) => forgiving(tenant.pauseRun(id), "run-closed"));
    await client.world.sleep(client.random.latency(client.random.pick([40, 2000])));
    await client.ask(`resume ${id}`, (tenant) => forgiving(tenant.resumeRun(id), "run-closed"));
  }
}

/** A rerun passes the queue that its origin passed; a deleted run's id may pass it once more. */
async function passAgain(client: Client, id: string): Promise<void> {
  const again = `${id}-r`;
  await client.ask(`rerun ${id}`, async (tenant) => {
    try {
      await tenant.rerunRun(id, { id: again });
    } catch (error) {
      if (codeOf(error) !== "queue-full") throw error;
      client.world.count("reruns refused by a queue");
    }
  });
  const view = await client.ask(`rerun ${again}?`, (tenant) =>
    forgiving(tenant.getRun(again), "run-not-found"),
  );
  if (view !== undefined) await client.outcome(again);
  await client.ask(`delete ${id}`, (tenant) => forgiving(tenant.deleteRun(id), "run-not-found"));
}

// ---------------------------------------------------------------- limits

function someLimits({ random }: Client): QueueLimits {
  return {
    ...(random.chance(0.7) ? { concurrency: random.between(1, 3) } : {}),
    ...(random.chance(0.4) ? { keyConcurrency: random.between(1, 2) } : {}),
    ...(random.chance(0.4) ? { maxPending: random.between(0, 3) } : {}),
    ...(random.chance(0.3)
      ? { rate: { limit: random.between(1, 5), periodMs: 1000, burst: random.between(1, 3) } }
      : {}),
  };
}

function queueNow(client: Client, name: string): Promise<QueueView | undefined> {
  return client.ask(`queue ${name}?`, (tenant) =>
    forgiving(tenant.getQueue(name), "queue-not-found"),
  );
}

async function listed(client: Client): Promise<string[]> {
  const names: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await client.ask("queues?", (tenant) =>
      tenant.listQueues({ limit: client.random.between(1, 3), cursor }),
    );
    names.push(...page.queues.map(({ name }) => name));
    ({ cursor } = page);
  } while (cursor !== undefined);
  same(client, asTold, names, [...new Set(names)].toSorted(), "the list of queues");
  return names;
}

/** Limits as one client sets them, whom nobody else disturbs. */
class Limited {
  /** A request that was repeated among several hosts may come once more, much later. */
  isLoose = false;
  readonly #client: Client;
  readonly #name: string;

  constructor(client: Client, name: string) {
    this.#client = client;
    this.#name = name;
  }

  async put(limits: QueueLimits): Promise<void> {
    const client = this.#client;
    const { queue } = await client.ask(
      `put ${this.#name} ${JSON.stringify(limits)}`,
      (tenant, attempt) => {
        if (attempt > 1 && client.world.isShared) this.isLoose = true;
        return tenant.putQueue(this.#name, limits);
      },
    );
    same(client, asTold, keysOf(queue.limits), keysOf(limits), `${this.#name} as it is put`);
    const found = await queueNow(client, this.#name);
    if (this.isLoose) return;
    same(
      client,
      asTold,
      [found && keysOf(found.limits), found?.isDeclared],
      [keysOf(limits), false],
      this.#name,
    );
  }
}

function keysOf(limits: QueueLimits): string {
  return JSON.stringify(Object.entries(limits).toSorted());
}

/** Limits change while runs pass; all of them end, and the queue can be deleted then. */
export const limiting: Job = async (client, id) => {
  const { random, world } = client;
  const name = `${id}-q`;
  const limited = new Limited(client, name);
  await limited.put(someLimits(client));
  let left = random.between(1, 7);
  const passing = Array.from({ length: left }, async (_, n) => {
    await world.sleep(random.latency(random.pick([1, 300, 3000])));
    await pass(client, `${id}-${n}`, name);
    left -= 1;
  });
  const changing = async (): Promise<void> => {
    for (let n = random.between(0, 5); n > 0 && left > 0; n -= 1) {
      await world.sleep(random.latency(random.pick([50, 500, 3000])));
      await limited.put(someLimits(client));
    }
  };
  await Promise.all([...passing, changing()]);
  await drained(client, name);
  if (!limited.isLoose) same(client, asTold, (await listed(client)).includes(name), true, name);
  await removed(client, name);
  if (limited.isLoose) return;
  same(
    client,
    asTold,
    [await queueNow(client, name), (await listed(client)).includes(name)],
    [undefined, false],
    name,
  );
  await nowhere(client, `${id}-x`, name);
};

/** Who has left may still be on the way out. */
async function drained(client: Client, name: string): Promise<void> {
  for (;;) {
    const view = await queueNow(client, name);
    if (view === undefined || view.running + view.waiting === 0) return;
    await client.world.sleep(client.random.latency(2000));
  }
}

async function removed(client: Client, name: string): Promise<void> {
  const { laws } = client.world;
  const key = queueKey(client.tenant, name);
  await client.ask(
    `delete ${name}`,
    (tenant) => forgiving(tenant.deleteQueue(name), "queue-not-found"),
    () => {
      same(client, "J-delete frees everything", laws.leftOf(key), [], name);
    },
  );
}

/** A start for a queue that isn't there. */
async function nowhere(client: Client, id: string, name: string): Promise<void> {
  const request = { id, workflow: "lasting", args: encode([0, ""]), queue: { name } };
  try {
    await client.ask(`start ${id}`, (tenant) => tenant.startRun(request));
    client.world.laws.violate(asTold, `${id} was started in ${name}, which is deleted`);
  } catch (error) {
    if (codeOf(error) !== "queue-not-found") throw error;
  }
  // One that a host had begun before it crashed goes beside the refusal.
  await client.world.sleep(5000);
  if (!client.world.isShared) await nothingOf(client, id);
}

// ---------------------------------------------------------------- no room

/** More starts at once than there is room: who is told that there is none has started nothing. */
export const refusing: Job = async (client, id) => {
  const { random, world } = client;
  const name = `${id}-q`;
  const maxPending = random.between(0, 2);
  await new Limited(client, name).put({ concurrency: 1, maxPending });
  const count = random.between(2, 7);
  const runs = Array.from({ length: count }, (_, n) => `${id}-${n}`);
  const starting = runs.map(async (run, n) => {
    const request = {
      id: run,
      workflow: "lasting",
      args: encode([random.pick([0, 500, 3000]), ""]),
      queue: { name, priority: random.pick([0, 0, n]) },
      deadlineMs: clientMs(client) + 3 * 3_600_000 * 24,
    };
    if (random.chance(0.3)) await world.sleep(random.latency(300));
    const heeds = random.chance(0.5) ? heed(client, run) : undefined;
    const isStarted = await tryToStart(client, request);
    await heeds;
    if (isStarted) same(client, "J-queue", (await client.outcome(run)).kind, "ok", run);
    return isStarted;
  });
  const started = (await Promise.all(starting)).filter((each) => each).length;
  world.laws.check(started > 0, refusedLaw, `${id}: all of ${count} were refused`);
  await drained(client, name);
  await removed(client, name);
};

/** Who waits for the end of a run hears of it, also if the run never was. */
async function heed(client: Client, id: string): Promise<void> {
  await client.start(`${id}-h`, "heeding", [id]);
  const heard = await client.value(`${id}-h`);
  const isSound = heard === "run-not-found" || typeof heard === "number";
  client.world.laws.check(isSound, "J-queue", `${id}-h heard ${String(heard)}`);
}

// ---------------------------------------------------------------- rates

/** So far apart that clocks which differ by seconds make little of it. */
const periodMs = 30_000;
const differMs = 7000;

/** Never more begin than the rate lets, whoever has the queue. */
export const rating: Job = async (client, id) => {
  const { random } = client;
  const name = `${id}-q`;
  const burst = random.between(1, 4);
  await new Limited(client, name).put({ rate: { limit: 1, periodMs, burst } });
  const runs = Array.from({ length: random.between(2, 8) }, (_, n) => `${id}-${n}`);
  await Promise.all(
    runs.map(async (run) => {
      const request = { id: run, workflow: "lasting", args: encode([0, ""]), queue: { name } };
      await client.ask(`start ${run}`, (tenant) => tenant.startRun(request));
      same(client, "J-queue", (await client.outcome(run)).kind, "ok", run);
    }),
  );
  judgeRate(client, name, burst);
  const view = await queueNow(client, name);
  same(client, asTold, view?.admitted, runs.length, `${name} let through`);
  await drained(client, name);
  await removed(client, name);
};

/** In any stretch of time, but where clocks are set; each owner's differs from the last one's. */
function judgeRate(client: Client, name: string, burst: number): void {
  const { world } = client;
  if (world.counts.has("clock jumps") || world.counts.has("clock drifts")) return;
  const begun = world.laws.queues.begunAt(queueKey(client.tenant, name));
  const claims = world.counts.get("claims") ?? 0;
  for (const [from, { atMs: fromMs, owners: ownersFrom }] of begun.entries()) {
    for (const [to, { atMs, owners }] of begun.entries()) {
      if (to < from) continue;
      const mayMs = atMs - fromMs + (owners - ownersFrom + 1) * differMs;
      const most = burst + Math.ceil(mayMs / periodMs);
      const told = `${name}: ${to - from + 1} of ${most} in ${atMs - fromMs} ms, ${claims} claims`;
      world.laws.check(to - from + 1 <= most, "L-queue rate", told);
    }
  }
  world.count("rates judged");
}

// ---------------------------------------------------------------- the queue of all

/** A tenant of its own, whose runs all pass one queue for a while. */
export const admitting: Job = async (client, id) => {
  const { random, world } = client;
  const tenant = `t-${id.toLowerCase().replaceAll(/[^a-z0-9]/g, "-")}`.slice(0, 63);
  const own = new Client(world, `${client.name}.own`, tenant);
  await own.ask("deploy", (host) => host.deploy({ kind: "javascript", code: "export {};" }));
  const limited = new Limited(own, "all");
  await limited.put({ concurrency: random.between(1, 3) });
  const runs = Array.from({ length: random.between(1, 5) }, (_, n) => `${id}-${n}`);
  const some = runs.map((run) => {
    return random.chance(0.5) ? pass(own, run, "narrow") : lone(own, run);
  });
  await Promise.all(some);
  // By now every host knows.
  await world.sleep(120_000);
  await lone(own, `${id}-known`);
  const types = (await own.history(`${id}-known`)).map(({ type }) => type);
  same(own, "J-all pass the queue of all", types.includes("run.admitted"), true, id);
  await drained(own, "all");
  await removedWhenEmpty(own, "all");
  if (!limited.isLoose) same(own, asTold, await queueNow(own, "all"), undefined, "all");
  await lone(own, `${id}-last`);
  await redeclared(own, id);
};

async function lone(client: Client, id: string): Promise<void> {
  const n = client.random.between(0, 4);
  await client.start(id, "chain", [n]);
  same(client, "J-output", await client.value(id), (n * (n + 1)) / 2, id);
}

/** A run that was started before another host knew may still come. */
async function removedWhenEmpty(client: Client, name: string): Promise<void> {
  for (;;) {
    try {
      await removed(client, name);
      return;
    } catch (error) {
      if (codeOf(error) !== "queue-active") throw error;
      await client.world.sleep(client.random.latency(2000));
    }
  }
}

/** What a client sets holds over deployments, until it is taken back: then what the code says. */
async function redeclared(client: Client, id: string): Promise<void> {
  const declared = { concurrency: 3, keyConcurrency: 2, maxPending: 4 };
  const before = await queueNow(client, "narrow");
  same(
    client,
    asTold,
    [before?.isDeclared, before && keysOf(before.limits)],
    [true, keysOf(declared)],
    "narrow",
  );
  const limited = new Limited(client, "narrow");
  const given = someLimits(client);
  await limited.put(given);
  const code = `export {}; // ${id}`;
  await client.ask("deploy again", (host) => host.deploy({ kind: "javascript", code }));
  const held = await queueNow(client, "narrow");
  if (!limited.isLoose) same(client, asTold, held && keysOf(held.limits), keysOf(given), "narrow");
  await client.ask("delete narrow", (host) => host.deleteQueue("narrow").catch(activeOnly));
  const after = await queueNow(client, "narrow");
  if (!limited.isLoose)
    same(
      client,
      asTold,
      [after?.isDeclared, after && keysOf(after.limits)],
      [true, keysOf(declared)],
      "narrow",
    );
}

function activeOnly(error: unknown): void {
  if (codeOf(error) !== "queue-active") throw error;
}
