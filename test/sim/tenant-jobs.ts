/**
 * Stories in tenants of their own: all that is there is the story's, so what lists, counts and
 * bulk actions say of it can be told exactly, whatever comes and goes meanwhile.
 */
import { encode } from "../../guest/cbor.ts";
import type {
  BulkAction,
  BulkRequest,
  BulkResult,
  ListRequest,
  RunSummary,
  StartRequest,
} from "../../runtime/index.ts";
import { Client, codeOf, forgiving, type Job, same } from "./clients.ts";

/** A client in a tenant that nobody else knows. */
export async function settler(
  client: Client,
  id: string,
): Promise<{ own: Client; component: string }> {
  const tenant = id.toLowerCase().replace(/[^a-z0-9]/g, "-");
  const own = new Client(client.world, `${client.name}.own`, tenant);
  const code = `export {}; // ${id}`;
  const { id: component } = await own.ask(`deploy ${id}`, (host) =>
    host.deploy({ kind: "javascript", code }),
  );
  return { own, component };
}

// ---------------------------------------------------------------- lists

const colors = ["red", "green", "blue"];
const workflows = ["idler", "chameleon", "chain"] as const;

/** What is known of a run by what was asked and answered. */
interface Known {
  readonly id: string;
  readonly workflow: string;
  isTold: boolean;
  /** Its deletion was asked for; and answered. */
  isGoing: boolean;
  isGone: boolean;
  /** Undefined while it changes. */
  color: string | undefined;
  createdAtMs: number | undefined;
  /** How often it was painted. */
  coats: number;
  isPaused: boolean;
  isClosed: boolean;
}

/** The runs of one tenant, which come, change and go while others look at them. */
class Shelf {
  readonly #client: Client;
  readonly #id: string;
  readonly #known = new Map<string, Known>();

  constructor(client: Client, id: string) {
    this.#client = client;
    this.#id = id;
  }

  async change(): Promise<void> {
    const { random } = this.#client;
    const there = [...this.#known.values()].filter((run) => run.isTold && !run.isGoing);
    if (there.length === 0 || random.chance(0.5)) return this.#add();
    const run = random.pick(there);
    if (run.isClosed) return this.#remove(run);
    if (run.workflow === "chameleon" && random.chance(0.4)) return this.#paint(run);
    if (run.workflow === "idler" && random.chance(0.6)) return this.#pause(run);
    return this.#remove(run);
  }

  async #add(): Promise<void> {
    const client = this.#client;
    const { random } = client;
    const run: Known = {
      id: `${this.#id}-${random.pick(["x", "y"])}${this.#known.size}`,
      workflow: random.pick(workflows),
      isTold: false,
      isGoing: false,
      isGone: false,
      color: random.pick(colors),
      createdAtMs: undefined,
      coats: 0,
      isPaused: false,
      isClosed: false,
    };
    this.#known.set(run.id, run);
    const { id, workflow, color = "" } = run;
    const args = encode(workflow === "chain" ? [random.below(3)] : []);
    await client.ask(`start ${id}`, (tenant) =>
      tenant.startRun({ id, workflow, args, tags: { color } }),
    );
    run.isTold = true;
  }

  async #paint(run: Known): Promise<void> {
    const client = this.#client;
    const color = client.random.pick(colors);
    const messageId = `${run.id}-${client.random.word()}`;
    run.color = undefined;
    run.coats += 1;
    await client.signal(run.id, "color", color, messageId);
    const isPublished = async (): Promise<boolean> => {
      const { tags } = await client.view(run.id);
      return tags["color"] === color;
    };
    while (!(await isPublished())) await client.world.sleep(client.random.latency(100));
    run.color = color;
  }

  async #pause(run: Known): Promise<void> {
    const isPaused = !run.isPaused;
    await this.#client.ask(`${isPaused ? "pause" : "resume"} ${run.id}`, (tenant) =>
      isPaused ? tenant.pauseRun(run.id) : tenant.resumeRun(run.id),
    );
    run.isPaused = isPaused;
  }

  async #remove(run: Known): Promise<void> {
    const client = this.#client;
    const { id } = run;
    run.isClosed = true;
    await client.ask(`terminate ${id}`, (tenant) =>
      forgiving(tenant.terminateRun(id, "over"), "run-closed"),
    );
    if (client.random.chance(0.4)) return;
    run.isGoing = true;
    await client.ask(`delete ${id}`, (tenant) => forgiving(tenant.deleteRun(id), "run-not-found"));
    run.isGone = true;
  }

  /** All pages of one list, as one reader gets them one after the other. */
  async look(reader: Client): Promise<void> {
    const filter = this.#filter(reader);
    const before = [...this.#known.values()].map((run) => ({ run, was: { ...run } }));
    const shown = await pagesOf(reader, filter);
    const isMeant = (run: Known): boolean =>
      run.isTold && !run.isGoing && isShown(run, filter) === true;
    const what = `${reader.name}: ${JSON.stringify(filter)}`;
    const law = "J-list: what is there all the time is shown once";
    const count = Map.groupBy(shown, ({ id }) => id);
    for (const { run, was } of before) {
      const times = count.get(run.id)?.length ?? 0;
      const isStable = isMeant(was) && isMeant(run) && was.coats === run.coats;
      if (isStable) same(reader, law, times, 1, `${run.id} in ${what}`);
      else reader.world.laws.check(times <= 1, law, `${run.id} ${times} times in ${what}`);
      if (was.isGone)
        same(reader, "J-list: what is gone isn't shown", times, 0, `${run.id}: ${what}`);
      const isUnchanged = was.coats === run.coats;
      const isOther =
        isUnchanged && isShown(was, filter) === false && isShown(run, filter) === false;
      if (isOther) same(reader, "J-list: only what is asked for", times, 0, `${run.id}: ${what}`);
    }
    for (const { id, createdAtMs } of shown) {
      const run = this.#known.get(id);
      if (run === undefined) reader.world.laws.violate(law, `${id} was never asked for: ${what}`);
      else run.createdAtMs = createdAtMs;
    }
    const sorted = shown.toSorted((one, other) => (positionOf(one) < positionOf(other) ? -1 : 1));
    same(
      reader,
      "J-list: newest first",
      shown.map(({ id }) => id),
      sorted.map(({ id }) => id),
      what,
    );
  }

  #filter(reader: Client): ListRequest {
    const { random } = reader;
    const times = [...this.#known.values()].flatMap(({ createdAtMs }) => createdAtMs ?? []);
    const limit = random.pick([1, 2, 3, 5, 1000]);
    switch (random.below(6)) {
      case 0:
        return { limit, names: [random.pick(workflows), random.pick([...workflows, "nobody"])] };
      case 1:
        return { limit, tag: { key: "color", value: random.pick(colors) } };
      case 2:
        return { limit, idPrefix: `${this.#id}-x` };
      case 3:
        if (times.length === 0) return { limit };
        return random.chance(0.5)
          ? { limit, createdAfterMs: random.pick(times) }
          : { limit, createdBeforeMs: random.pick(times) };
      default:
        return { limit };
    }
  }
}

function positionOf({ id, createdAtMs }: RunSummary): string {
  return `${String(1e15 - createdAtMs)}/${id}`;
}

/** Undefined: it isn't known. */
function isShown(run: Known, filter: ListRequest): boolean | undefined {
  const { names, tag, idPrefix, createdAfterMs, createdBeforeMs } = filter;
  if (names !== undefined) return names.includes(run.workflow);
  if (tag !== undefined) return run.color === undefined ? undefined : run.color === tag.value;
  if (idPrefix !== undefined) return run.id.startsWith(idPrefix);
  if (createdAfterMs === undefined && createdBeforeMs === undefined) return true;
  const { createdAtMs } = run;
  if (createdAtMs === undefined) return undefined;
  return createdAtMs >= (createdAfterMs ?? 0) && createdAtMs < (createdBeforeMs ?? Infinity);
}

async function pagesOf(reader: Client, filter: ListRequest): Promise<RunSummary[]> {
  const shown: RunSummary[] = [];
  let cursor: string | undefined;
  do {
    const page = await reader.ask(`list ${JSON.stringify(filter)}`, (tenant) =>
      tenant.listRuns({ ...filter, cursor }),
    );
    shown.push(...page.runs);
    ({ cursor } = page);
    if (reader.random.chance(0.2)) await reader.world.sleep(reader.random.latency(50));
  } while (cursor !== undefined);
  return shown;
}

export const browsing: Job = async (client, id) => {
  const { own } = await settler(client, id);
  const { random, world } = own;
  const shelf = new Shelf(own, id);
  let isOver = false;
  const work = async (): Promise<void> => {
    for (let left = random.between(5, 30); left > 0; left -= 1) {
      await shelf.change();
      if (random.chance(0.3)) await world.sleep(random.latency(random.pick([5, 100])));
    }
    isOver = true;
  };
  const watch = async (name: string): Promise<void> => {
    const reader = new Client(world, `${own.name}.${name}`, own.tenant);
    while (!isOver) {
      await shelf.look(reader);
      await world.sleep(reader.random.latency(random.pick([1, 30, 300])));
    }
  };
  await Promise.all([work(), watch("w1"), watch("w2")]);
  await shelf.look(own);
  await clear(own, id);
};

// ---------------------------------------------------------------- many at once

const finalOf = {
  cancel: "CANCELED",
  terminate: "CANCELED",
  pause: "PAUSED",
  resume: "RUNNING",
} as const;

/** All pages of a bulk action. */
async function bulkAll(client: Client, request: BulkRequest): Promise<BulkResult["runs"]> {
  const runs: BulkResult["runs"][number][] = [];
  let cursor: string | undefined;
  do {
    const page = await client.ask(`bulk ${request.action}`, (tenant) =>
      tenant.bulk({ ...request, cursor }),
    );
    runs.push(...page.runs);
    ({ cursor } = page);
  } while (cursor !== undefined);
  return runs;
}

/** Ends and deletes all that the tenant has; nothing is left of it. */
async function clear(client: Client, id: string): Promise<void> {
  const law = "J-bulk: all are acted upon";
  for (const action of ["terminate", "delete"] as const) {
    await bulkAll(client, { action, filter: {}, limit: client.random.pick([1, 3, 1000]) });
  }
  const left = await pagesOf(client, {});
  same(
    client,
    law,
    left.map((run) => run.id),
    [],
    `${id} is cleared`,
  );
}

/** What was there before the action is as it says; what comes meanwhile is so, or untouched. */
export const bulking: Job = async (client, id) => {
  const { own } = await settler(client, id);
  const { random, world } = own;
  const ids: string[] = [];
  const add = async (): Promise<void> => {
    const run = `${id}-${ids.length}`;
    ids.push(run);
    await own.ask(`start ${run}`, (tenant) =>
      tenant.startRun({ id: run, workflow: "idler", args: encode([]) }),
    );
  };
  for (let n = random.between(1, 8); n > 0; n -= 1) await add();
  for (let rounds = random.between(1, 4); rounds > 0; rounds -= 1) {
    const action: BulkAction = random.pick([
      "pause",
      "resume",
      "pause",
      "resume",
      "cancel",
      "delete",
    ]);
    const before = [...ids];
    const isBeside = random.chance(0.4) && action !== "cancel";
    const beside = isBeside ? add() : undefined;
    const isDryRun = random.chance(0.2);
    const limit = random.pick([1, 2, 1000]);
    const runs = await bulkAll(own, { action, filter: {}, limit, isDryRun });
    await beside;
    const law = "J-bulk: all are acted upon";
    const errors = runs.flatMap(({ error }) => (error === undefined ? [] : [codeOf(error)]));
    // A repetition may meet what the first request did.
    const isFine = errors.every((code) => code === "run-closed" || code === "run-not-found");
    world.laws.check(isFine, law, `${id} ${action}: ${errors}`);
    const shown = await pagesOf(own, {});
    if (isDryRun) continue;
    const kept = shown.filter((run) => before.includes(run.id));
    if (action === "delete") {
      const closed = kept.filter(({ status }) => status === "CANCELED").map((run) => run.id);
      same(own, law, closed, [], `${id} ${action}`);
      continue;
    }
    await Promise.all(kept.map((run) => settled(own, run, action)));
  }
  await clear(own, id);
};

/** A cancellation takes the run's code a moment; all else is so when it is answered. */
async function settled(
  client: Client,
  run: RunSummary,
  action: Exclude<BulkAction, "delete">,
): Promise<void> {
  const law = "J-bulk: all are acted upon";
  if (action === "cancel") {
    if (run.status === "PAUSED") return; // it is canceled once it is resumed
    await client.outcome(run.id).catch((error: unknown) => {
      if (codeOf(error) !== "run-not-found") throw error;
    });
    return;
  }
  if (run.status === "CANCELED") return; // by an earlier round, maybe as it was resumed
  same(client, law, run.status, finalOf[action], `${run.id} after ${action}`);
}

/** What failed of a step goes on, each once; what can't, or is paused, is left alone. */
export const resumingAll: Job = async (client, id) => {
  const { own } = await settler(client, id);
  const { random, world } = own;
  const { ledger } = world;
  const failing = Array.from({ length: random.between(1, 5) }, (_, n) => `${id}-${n}`);
  for (const run of failing) {
    ledger.off.add(run);
    await own.start(run, "failing", [run]);
  }
  const paused = `${id}-paused`;
  await own.start(paused, "idler", []);
  await own.ask(`pause ${paused}`, (tenant) => tenant.pauseRun(paused));
  const lost = `${id}-lost`;
  await own.start(lost, "undoable", [1, false]);
  await Promise.all([...failing, lost].map((run) => own.viewUntil(run, isFailed)));
  for (const run of failing) ledger.off.delete(run);
  await own.ask("resume all, of them none", (tenant) => tenant.resumeAll({ includeFailed: false }));
  const law = "J-resume all: what can go on does";
  const attempts = new Map<string, number>();
  for (const run of failing) {
    const { status, attempt } = await own.view(run);
    same(own, law, status, "FAILED", run);
    attempts.set(run, attempt);
  }
  const resumed = await own.ask("resume all", (tenant) =>
    tenant.resumeAll({ includeFailed: true }),
  );
  const others = resumed.filter((run) => !failing.includes(run.id)).map((run) => run.id);
  same(own, law, others, [], id);
  for (const run of failing) {
    const { attempt } = await own.view(run);
    const before = attempts.get(run) ?? 0;
    world.laws.check(attempt > before, law, `${run} is in attempt ${attempt}, after ${before}`);
    const wanted = [`${run}/1/effect`, run, `${run}/1/effect_2`];
    same(own, "J-output", await own.value(run), wanted, run);
  }
  same(own, law, (await own.view(paused)).status, "PAUSED", paused);
  same(own, law, (await own.view(lost)).status, "FAILED", lost);
  await clear(own, id);
};

function isFailed({ status }: { readonly status: string }): boolean {
  return status === "FAILED";
}

// ---------------------------------------------------------------- who needs what

/** Runs that go on and actors count for their component, each once, whatever status they go to. */
export const counting: Job = async (client, id) => {
  const { own, component } = await settler(client, id);
  const { random, world } = own;
  const other = await own.ask(`deploy ${id}`, (tenant) =>
    tenant.deploy({ kind: "javascript", code: `export {}; // ${id} again` }),
  );
  const runs: (StartRequest & { readonly id: string })[] = Array.from(
    { length: random.between(1, 6) },
    (_, n) => ({
      id: `${id}-${n}`,
      workflow: "idler",
      args: encode([]),
      component: random.pick([component, other.id]),
    }),
  );
  for (const run of runs) await own.ask(`start ${run.id}`, (tenant) => tenant.startRun(run));
  await own.call("Counter", `${id}-actor`, "add", ["", 0], { callId: id });
  let isOver = false;
  const change = async (): Promise<void> => {
    for (let left = random.between(2, 12); left > 0; left -= 1) {
      const run = random.pick(runs).id;
      if (random.chance(0.5)) await own.ask(`pause ${run}`, (tenant) => tenant.pauseRun(run));
      else await own.ask(`resume ${run}`, (tenant) => tenant.resumeRun(run));
    }
    isOver = true;
  };
  const look = async (): Promise<void> => {
    const asker = new Client(world, `${own.name}.w`, own.tenant);
    while (!isOver) {
      await countOnce(asker, { id, ids: [component, other.id], runs });
      await world.sleep(asker.random.latency(30));
    }
  };
  await Promise.all([change(), look()]);
  for (const run of runs) {
    await own.ask(`terminate ${run.id}`, (tenant) =>
      forgiving(tenant.terminateRun(run.id, "over"), "run-closed"),
    );
  }
  await countOnce(own, { id, ids: [component, other.id], runs: [] });
};

async function countOnce(
  client: Client,
  of: {
    readonly id: string;
    readonly ids: readonly string[];
    readonly runs: readonly StartRequest[];
  },
): Promise<void> {
  const use = await client.ask("components", (tenant) => tenant.componentUse());
  const law = "J-use: each counts once";
  for (const component of of.ids) {
    const found = use.components.find((each) => component.startsWith(each.component));
    const sum = Object.values(found?.runs ?? {}).reduce((all, count) => all + count, 0);
    const wanted = of.runs.filter((run) => run.component === component).length;
    same(
      client,
      law,
      sum,
      wanted,
      `${of.id}: ${component.slice(0, 8)} has ${JSON.stringify(found)}`,
    );
  }
  const actors = use.components.reduce((all, each) => all + each.actors, 0);
  same(client, law, actors, 1, `actors of ${of.id}`);
}
