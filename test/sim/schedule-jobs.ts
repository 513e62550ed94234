/**
 * What clients do with schedules: every policy of overlap, changes, pauses, triggers, backfills and
 * deletions while hosts crash and clocks jump, and what must come of each slot.
 */
import { encode } from "../../guest/cbor.ts";
import type { Overlap } from "../../runtime/format.ts";
import { type EntityKey, scheduleKey } from "../../runtime/ids.ts";
import type { ScheduleRequest, ScheduleView, TenantHost } from "../../runtime/index.ts";
import { type Client, codeOf, forgiving, type Job, same } from "./clients.ts";
import { epochMs } from "./world.ts";

const dayMs = 86_400_000;
const everySlot = "C1 each slot is started, skipped or missed";
const oneRun = "C1 each slot has one run";
const asTold = "I3 a schedule is as was told";

const oneByOne: readonly Overlap[] = [
  "skip",
  "buffer-one",
  "buffer-all",
  "cancel-other",
  "terminate-other",
];

function clientMs({ world }: Client): number {
  return epochMs + Math.floor(world.nowMs);
}

/** All ids that begin so, sorted. */
export async function runsWithPrefix(client: Client, prefix: string): Promise<string[]> {
  const ids: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await client.ask(`runs ${prefix}`, (tenant) =>
      tenant.listRuns({ idPrefix: prefix, limit: 100, cursor }),
    );
    ids.push(...page.runs.map(({ id }) => id));
    ({ cursor } = page);
  } while (cursor !== undefined);
  return ids.toSorted();
}

export function scheduleNow(client: Client, id: string): Promise<ScheduleView> {
  return client.ask(`schedule ${id}?`, (tenant) => tenant.getSchedule(id));
}

/** Asks until the view fits, less and less often: a clock that was ahead may have set it. */
export async function scheduleUntil(
  client: Client,
  id: string,
  fits: (view: ScheduleView) => boolean,
): Promise<ScheduleView> {
  for (let pauseMs = 4000; ; pauseMs = Math.min(pauseMs * 1.2, 60_000)) {
    const view = await scheduleNow(client, id);
    if (fits(view)) return view;
    await client.world.sleep(client.random.latency(pauseMs));
  }
}

function isIdle({ nextAtMs, running, waiting, backfills }: ScheduleView): boolean {
  return nextAtMs.length + running.length + waiting + backfills === 0;
}

/** Gone with all its rows, and from the list. */
export async function forgetSchedule(client: Client, id: string): Promise<void> {
  const { laws } = client.world;
  await client.ask(
    `delete ${id}`,
    (tenant) => forgiving(tenant.deleteSchedule(id), "schedule-not-found"),
    () => {
      const key = scheduleKey(client.tenant, id);
      same(client, "J-delete frees everything", laws.leftOf(key), [], id);
    },
  );
}

// ---------------------------------------------------------------- one after the other

/** A recurrence of so many milliseconds, said in one way or another. */
function recurrence(
  { random }: Client,
  everyMs: number,
): Pick<ScheduleRequest, "cron" | "zone" | "everyMs"> {
  if (everyMs >= 60_000 || random.chance(0.5)) return { everyMs };
  const cron = `*/${everyMs / 1000} * * * * *`;
  return random.chance(0.5) ? { cron } : { cron, zone: "Asia/Kathmandu" };
}

/** Whatever the policy, no two go on at a time, and of the slots up to the end none is lost. */
export const overlapping: Job = async (client, id) => {
  const { random, world } = client;
  const everyMs = random.pick([1000, 2000, 5000]);
  const how = random.pick(["", "", "stay", "fail"]);
  const endMs = clientMs(client) + random.between(1, 12) * everyMs;
  const startMs = random.chance(0.3) ? endMs - random.between(0, 6) * everyMs : undefined;
  const request: ScheduleRequest = {
    workflow: "lasting",
    args: encode([random.pick([0, 300, 4000, 15_000]), how]),
    ...recurrence(client, everyMs),
    startMs,
    endMs,
    jitterMs: random.pick([0, 0, 900, 4000]),
    overlap: random.pick(oneByOne),
    catchUpMs: random.pick([0, 3_600_000, 100 * dayMs]),
    tags: { mine: id },
    metadata: encode([id]),
    ...(random.chance(0.2) ? { queue: { name: "narrow", key: id, priority: 3 } } : {}),
    ...(random.chance(0.2) ? { timeLimitMs: random.pick([200, 3000]) } : {}),
    ...(random.chance(0.3) ? { retentionMs: random.pick([0, 2000]) } : {}),
  };
  world.laws.schedules.alone.add(scheduleKey(client.tenant, id));
  await client.ask(`schedule ${id} ${request.overlap}`, (tenant) =>
    forgiving(tenant.createSchedule(id, request), "schedule-exists"),
  );
  const view = await scheduleUntil(client, id, isIdle);
  const { createdAtMs, started, skipped, missed } = view;
  const fromMs = Math.max(createdAtMs, (startMs ?? 0) - 1);
  const slots = Math.max(0, Math.floor(endMs / everyMs) - Math.floor(fromMs / everyMs));
  const sum = started + skipped + missed;
  const told = `${id}: ${started} + ${skipped} + ${missed} of ${slots} slots`;
  // Of very many missed ones not each is counted.
  const isExact = request.everyMs !== undefined && request.jitterMs === 0;
  world.laws.check(
    isExact ? sum === slots : sum <= slots && sum > 0 === slots > 0,
    everySlot,
    told,
  );
  if (request.retentionMs === undefined) await allEnded(client, id, view);
  judgeResults(client, request, { how, view });
  await forgetSchedule(client, id);
};

/** What the schedule says of them is what they are. */
async function allEnded(client: Client, id: string, view: ScheduleView): Promise<void> {
  const all = await runsWithPrefix(client, `${id}.`);
  same(client, oneRun, all.length, view.started, id);
  for (const { runId, cause, result } of view.runs) {
    const run = await client.view(runId);
    const wanted = { succeeded: "SUCCESSFUL", failed: "FAILED", canceled: "CANCELED" };
    same(client, asTold, run.status, result && wanted[result], runId);
    same(client, asTold, run.tags, { mine: id, schedule: id, cause }, runId);
    same(client, asTold, [...(run.metadata ?? [])], [...encode([id])], runId);
  }
}

/** Nobody but the schedule ends them. */
function judgeResults(
  client: Client,
  { overlap, timeLimitMs }: ScheduleRequest,
  { how, view }: { readonly how: string; readonly view: ScheduleView },
): void {
  const mayEnd = overlap === "cancel-other" || overlap === "terminate-other";
  for (const { runId, result } of view.runs) {
    const isEnded = mayEnd && (result === "canceled" || how === "stay");
    const isLate = timeLimitMs !== undefined && result === "failed";
    const wanted = how === "fail" ? "failed" : "succeeded";
    if (!isEnded && !isLate) same(client, asTold, result, wanted, `${runId} ${overlap}`);
  }
}

/** A run that fails pauses it before the next begins, until somebody resumes it. */
export const pausingOnFailure: Job = async (client, id) => {
  const { random, world } = client;
  const law = "J-schedule pauses on a failure";
  const isLate = random.chance(0.3);
  const request = (args: readonly unknown[]): ScheduleRequest => ({
    workflow: "lasting",
    args: encode(args),
    ...recurrence(client, random.pick([1000, 5000])),
    overlap: random.pick(["skip", "buffer-one", "buffer-all"]),
    catchUpMs: random.pick([0, 3_600_000]),
    pauseOnFailure: true,
    ...(isLate ? { timeLimitMs: 300 } : {}),
  });
  const failing = request(isLate ? [30 * dayMs, ""] : [random.pick([0, 500]), "fail"]);
  world.laws.schedules.alone.add(scheduleKey(client.tenant, id));
  await client.ask(`schedule ${id}`, (tenant) =>
    forgiving(tenant.createSchedule(id, failing), "schedule-exists"),
  );
  let isRepeated = false;
  for (let round = 1, rounds = random.between(1, 3); ; round += 1) {
    const view = await scheduleUntil(client, id, (each) => each.isPaused);
    const isWhy = view.note?.startsWith(`paused because run ${view.runs[0]?.runId} failed`);
    world.laws.check(isWhy === true, law, `${id}: ${view.note}`);
    same(client, law, view.runs[0]?.result, "failed", id);
    same(client, law, view.nextAtMs, [], id);
    // A resumption that comes late lets one more begin.
    if (!isRepeated) same(client, law, view.started, round, id);
    if (round === rounds) break;
    await client.ask(`resume ${id}`, (tenant, attempt) => {
      if (attempt > 1) isRepeated = true;
      return tenant.resumeSchedule(id, undefined);
    });
  }
  await forgetSchedule(client, id);
};

// ---------------------------------------------------------------- the past

/** Days in which clocks are put back and forward: 02:30 comes once on each. */
const autumnMs = Date.UTC(2026, 9, 20);
const springMs = Date.UTC(2026, 2, 24);

/** Each slot of a range has its run, once, by the policy that the backfill has. */
export const backfilling: Job = async (client, id) => {
  const { random, world } = client;
  const isDaily = random.chance(0.4);
  const everyMs = isDaily ? dayMs : random.pick([1000, 60_000, 3_600_000]);
  const request: ScheduleRequest = {
    workflow: "lasting",
    args: encode([random.pick([0, 0, 300, 4000]), random.pick(["", "", "fail"])]),
    ...(isDaily ? { cron: "30 2 * * *", zone: "Europe/Berlin" } : { everyMs }),
    overlap: "skip",
    catchUpMs: 0,
    isPaused: true,
  };
  await client.ask(`schedule ${id}`, (tenant) =>
    forgiving(tenant.createSchedule(id, request), "schedule-exists"),
  );
  const overlap = random.pick([...oneByOne, "allow-all", "allow-all"] as const);
  if (overlap !== "allow-all") world.laws.schedules.alone.add(scheduleKey(client.tenant, id));
  const slots = random.between(1, 9);
  const fromMs = random.pick([autumnMs, springMs]) + random.below(4) * dayMs;
  const range = { fromMs, toMs: fromMs + slots * everyMs - 1 };
  const preview = await client.ask(`preview ${id}`, (tenant) =>
    tenant.backfillSchedule(id, { ...range, isPreview: true }),
  );
  same(client, oneRun, preview.slots, slots, `preview of ${id}`);
  same(client, oneRun, (await scheduleNow(client, id)).started, 0, `${id} previewed`);
  let attempts = 0;
  const made = await client.ask(`backfill ${id} ${overlap}`, (tenant, attempt) => {
    attempts = attempt;
    return tenant.backfillSchedule(id, { ...range, overlap });
  });
  same(client, oneRun, made, preview, `backfill of ${id}`);
  const view = await scheduleUntil(client, id, isIdle);
  const all = await runsWithPrefix(client, `${id}.`);
  const isWhole = overlap === "allow-all" || overlap === "buffer-all";
  if (isWhole) same(client, oneRun, all.length, slots, id);
  // Slots of a backfill that is made twice are taken twice, and have the run that they have.
  if (attempts === 1) same(client, everySlot, view.started + view.skipped, slots, id);
  if (attempts === 1) same(client, oneRun, all.length, view.started, id);
  world.laws.check(all.length <= slots && all.length > 0, oneRun, `${id}: ${all} of ${slots}`);
  for (const run of all) {
    const { cause, schedule } = (await client.view(run)).tags;
    same(client, asTold, [cause, schedule], ["backfill", id], run);
  }
  await forgetSchedule(client, id);
};

// ---------------------------------------------------------------- changes

/** What one client knows of its own schedule, which nobody else changes. */
class Steered {
  readonly client: Client;
  readonly id: string;
  /** A request that was repeated among several hosts may come once more, much later. */
  isLoose = false;
  isThere = false;
  isPaused = false;
  note: string | undefined;
  everyMs = 0;
  /** Asked for in this life and in all. */
  triggers = 0;
  triggersEver = 0;
  /** Slots that had begun when it was paused. */
  begun: readonly string[] | undefined;
  #count = 0;

  constructor(client: Client, id: string) {
    this.client = client;
    this.id = id;
  }

  async ask<T>(what: string, work: (tenant: TenantHost) => Promise<T>): Promise<T> {
    return this.client.ask(`${what} ${this.id}`, (tenant, attempt) => {
      if (attempt > 1 && this.client.world.isShared) this.isLoose = true;
      return work(tenant);
    });
  }

  nextName(): string {
    this.#count += 1;
    return `${this.id} ${this.#count}`;
  }

  async put(endMs?: number): Promise<void> {
    const { random } = this.client;
    this.everyMs = random.pick([1000, 3000, 60_000, 2 * dayMs]);
    this.isPaused = endMs === undefined && random.chance(0.2);
    this.note = this.nextName();
    const request: ScheduleRequest = {
      workflow: "lasting",
      args: encode([random.pick([0, 500, 5000]), ""]),
      everyMs: this.everyMs,
      overlap: random.pick(["skip", "buffer-all", "allow-all", "terminate-other"]),
      catchUpMs: random.pick([0, 60_000]), // a clock that is set makes many slots of an hour
      note: this.note,
      isPaused: this.isPaused,
      endMs,
    };
    const { schedule } = await this.ask("put", (tenant) => tenant.putSchedule(this.id, request));
    this.isThere = true;
    this.begun = undefined;
    this.#paused(schedule);
  }

  async switch(isPaused: boolean): Promise<void> {
    const note = this.nextName();
    const view = await this.ask(isPaused ? "pause" : "resume", (tenant) =>
      isPaused ? tenant.pauseSchedule(this.id, note) : tenant.resumeSchedule(this.id, note),
    );
    this.note = note;
    this.isPaused = isPaused;
    this.#paused(view);
  }

  #paused(view: ScheduleView): void {
    if (!view.isPaused) this.begun = undefined;
    else this.begun ??= slotsOf(view);
  }

  async trigger(): Promise<void> {
    const triggerId = this.nextName();
    await this.ask("trigger", (tenant) =>
      tenant.triggerSchedule(this.id, { triggerId, overlap: "allow-all" }),
    );
    this.triggers += 1;
    this.triggersEver += 1;
  }

  async delete(): Promise<void> {
    await this.ask("delete", (tenant) =>
      forgiving(tenant.deleteSchedule(this.id), "schedule-not-found"),
    );
    this.isThere = false;
    this.triggers = 0;
  }

  /** Whoever is asked says what was told last. */
  async look(): Promise<void> {
    const { client, id } = this;
    const found = await client.ask(`look at ${id}`, (tenant) =>
      forgiving(tenant.getSchedule(id), "schedule-not-found"),
    );
    const isListed = (await listed(client)).includes(id);
    if (this.isLoose) return;
    same(client, asTold, [found !== undefined, isListed], [this.isThere, this.isThere], id);
    if (found === undefined) return;
    const wanted = [this.everyMs, this.isPaused, this.note];
    same(client, asTold, [found.spec.everyMs, found.isPaused, found.note], wanted, id);
    const fresh = slotsOf(found).filter((run) => this.begun?.includes(run) === false);
    same(client, "C2 no slot begins in a pause", fresh, [], id);
    if (found.isPaused) same(client, asTold, found.nextAtMs, [], id);
  }
}

function slotsOf({ runs }: ScheduleView): string[] {
  return runs.filter(({ cause }) => cause === "slot").map(({ runId }) => runId);
}

async function listed(client: Client): Promise<string[]> {
  const ids: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await client.ask("schedules?", (tenant) =>
      tenant.listSchedules({ limit: client.random.between(1, 3), cursor }),
    );
    ids.push(...page.schedules.map(({ id }) => id));
    ({ cursor } = page);
  } while (cursor !== undefined);
  const { laws } = client.world;
  laws.check(new Set(ids).size === ids.length, asTold, `listed twice: ${ids}`);
  return ids;
}

/** Changed, paused, resumed, triggered, deleted and made anew: each is so at once, and stays. */
export const steering: Job = async (client, id) => {
  const { random, world } = client;
  const steered = new Steered(client, id);
  await steered.put();
  for (let n = random.between(2, 9); n > 0; n -= 1) {
    if (random.chance(0.5)) await world.sleep(random.latency(random.pick([100, 2000, 20_000])));
    const what = random.pick(["put", "pause", "resume", "trigger", "trigger", "delete"]);
    try {
      if (what === "put" || !steered.isThere) await steered.put();
      else if (what === "trigger") await steered.trigger();
      else if (what === "delete") await steered.delete();
      else await steered.switch(what === "pause");
    } catch (error) {
      if (!steered.isLoose || codeOf(error) !== "schedule-not-found") throw error;
      return; // a deletion came once more
    }
    await steered.look();
  }
  await ending(steered);
};

/** Once no slot is left, all that was asked for ends, and each trigger had its run. */
async function ending(steered: Steered): Promise<void> {
  const { client, id } = steered;
  const { laws } = client.world;
  await steered.put(epochMs - dayMs);
  await steered.look();
  if (steered.isLoose) return;
  await scheduleUntil(client, id, isIdle);
  const all = await runsWithPrefix(client, `${id}.`);
  const triggered = all.filter((run) => run.endsWith(".trigger")).length;
  const { triggers, triggersEver } = steered;
  const told = `${id}: ${triggered} runs of ${triggers} to ${triggersEver} triggers`;
  laws.check(
    triggered >= triggers && triggered <= triggersEver,
    "C1 each trigger has one run",
    told,
  );
  const open = `${client.tenant}/s/${id}` as EntityKey;
  await forgetSchedule(client, id);
  same(client, asTold, (await listed(client)).includes(id), false, `${open} in the list`);
}
