/**
 * What clients do, and what must come of it: each job is a small story on ids of its own
 * (actors may be shared), with its laws inside.
 */
import { decode, encode } from "../../guest/cbor.ts";
import type { Outcome } from "../../guest/protocol.ts";
import type { HistoryEvent, StartRequest } from "../../runtime/index.ts";
import { knotting, ringing, upgrading } from "./actor-jobs.ts";
import { Client, codeOf, forgiving, type Job, same } from "./clients.ts";
import { recoding, releasing, settling } from "./deploy-jobs.ts";
import { judging, streaming } from "./event-jobs.ts";
import { accepting, replacing, stepping } from "./id-jobs.ts";
import { aging, bearing, copying, felling, listening, missing, stopping } from "./life-jobs.ts";
import { conversing, exporting, following, surveying } from "./look-jobs.ts";
import { approving, reaching, startingWith } from "./message-jobs.ts";
import { programs } from "./programs/job.ts";
import { admitting, limiting, rating, refusing } from "./queue-jobs.ts";
import { awaiting, expiring, succeeding } from "./retention-jobs.ts";
import { branching, forking, moving, undoing } from "./run-jobs.ts";
import {
  backfilling,
  forgetSchedule,
  overlapping,
  pausingOnFailure,
  runsWithPrefix,
  scheduleUntil,
  steering,
} from "./schedule-jobs.ts";
import { browsing, bulking, resumingAll, counting as using } from "./tenant-jobs.ts";
import { uploading } from "./value-jobs.ts";
import { epochMs } from "./world.ts";

/** What clients know together about the shared counters of a tenant. */
export class Shared {
  /** Calls that will be, or were, made: each counts once. */
  readonly expected = new Map<string, number>();
  /** The greatest value that anybody was told. */
  readonly told = new Map<string, number>();

  expect(counter: string, by = 1): void {
    this.expected.set(counter, (this.expected.get(counter) ?? 0) + by);
  }

  tell(counter: string, value: number): void {
    this.told.set(counter, Math.max(this.told.get(counter) ?? 0, value));
  }
}

const shares = new WeakMap<object, Map<string, Shared>>();

export function sharedOf(client: Client): Shared {
  const all = shares.get(client.world) ?? new Map<string, Shared>();
  shares.set(client.world, all);
  const shared = all.get(client.tenant) ?? new Shared();
  all.set(client.tenant, shared);
  return shared;
}

export function allShared(world: object): ReadonlyMap<string, Shared> {
  return shares.get(world) ?? new Map();
}

// ---------------------------------------------------------------- runs

const chain: Job = async (client, id) => {
  const n = client.random.between(1, 12);
  await client.start(id, "chain", [n]);
  same(client, "J-output", await client.value(id), (n * (n + 1)) / 2, id);
  await history(client, id, "SUCCESSFUL");
};

const graph: Job = async (client, id) => {
  const n = client.random.between(1, 6);
  const root = encode({ $step: "fib", args: [n] });
  await client.ask(`start graph ${id}`, (tenant) =>
    tenant.startRun({ id, root, waitMs: client.random.pick([0, 0, 500, 20_000]) }),
  );
  same(client, "J-output", await client.value(id), [1, 1, 1, 2, 3, 5, 8, 13][n + 0] ?? n, id);
};

const mixed: Job = async (client, id) => {
  const n = client.random.between(0, 3);
  await client.start(id, "mixed", [n]);
  const names = ["effect", "effect_1", "effect_2", "effect_3", "effect_4"].slice(0, n + 2);
  const wanted = [...names.map((name) => `${id}/1/${name}`), 2, 5];
  same(client, "J-output", await client.value(id), wanted, id);
  await history(client, id, "SUCCESSFUL");
  await stepsStay(client, id);
};

/** Only the step that brings the instance down fails; nothing else is lost or comes twice. */
const spinning: Job = async (client, id) => {
  const { random } = client;
  const plan = Array.from({ length: random.between(1, 4) }, () =>
    random.pick(["effect", "spin", "sleep", "beside"]),
  );
  await client.start(id, "spinner", [plan]);
  let effects = 0;
  const effectKey = (): string => {
    const name = effects === 0 ? "effect" : `effect_${effects}`;
    effects += 1;
    return `${id}/1/${name}`;
  };
  const wanted = plan.flatMap((part) => {
    if (part === "sleep") return [];
    if (part === "effect") return [effectKey()];
    return part === "spin" ? ["guest-timeout"] : [effectKey(), "guest-timeout", "2", effectKey()];
  });
  same(client, "J-fault", await client.value(id), wanted, id);
  const events = await history(client, id, "SUCCESSFUL");
  const failed = new Set(
    events.filter(({ type }) => type === "step.failed").map(({ data }) => String(data["step"])),
  );
  const isOnlySpin = [...failed].every((step) => step.startsWith("spin"));
  client.world.laws.check(isOnlySpin, "J-fault", `${id}: ${[...failed]} failed`);
};

const sleeper: Job = async (client, id) => {
  const times = Array.from({ length: client.random.between(1, 4) }, () =>
    client.random.pick([0, 1, 30, 900, 20_000, 200_000]),
  );
  if (client.random.chance(0.1)) times.push(2 * 3_600_000);
  await client.start(id, "sleeper", [times]);
  same(client, "I9 timers are never early", await client.value(id), times.length, id);
};

/** Signals of several senders: each once, each sender's in its order. */
function collecting(workflow: string, extra: (client: Client) => readonly unknown[]): Job {
  return async (client, id) => {
    const mine = client.random.between(1, 8);
    const senders = client.random.between(0, 2);
    const each = client.random.between(1, 4);
    const count = mine + senders * each;
    await client.start(id, workflow, [count, ...extra(client)]);
    for (let i = 1; i <= senders; i += 1) {
      const kind = client.random.pick(["sender", "burstSender"]);
      await client.start(`${id}-s${i}`, kind, [id, `s${i}`, each]);
    }
    for (let i = 1; i <= mine; i += 1) {
      await client.signal(id, "item", `me:${i}`, `${id}-m${i}`);
      if (client.random.chance(0.3)) await client.world.sleep(client.random.latency(60));
      if (client.random.chance(0.2)) await queryItems(client, id, workflow);
    }
    const got = (await client.value(id)) as string[] | undefined;
    const law = "I4 signals once and in order";
    for (const [name, number] of [
      ["me", mine],
      ...Array.from({ length: senders }, (_, i) => [`s${i + 1}`, each] as const),
    ] as const) {
      const found = got?.filter((item) => item.startsWith(`${name}:`));
      const wanted = Array.from({ length: number }, (_, i) => `${name}:${i + 1}`);
      same(client, law, found, wanted, `${id} from ${name}`);
    }
    same(client, law, got?.length, count, id);
    for (let i = 1; i <= senders; i += 1) {
      same(client, "J-output", await client.value(`${id}-s${i}`), each, `${id}-s${i}`);
    }
  };
}

async function queryItems(client: Client, id: string, workflow: string): Promise<void> {
  if (workflow !== "collector") return;
  const name = client.random.pick(["items", "cheat", "cheats"]);
  const outcome = await client.ask(`query ${id} ${name}`, (tenant) =>
    tenant.queryRun(id, name, encode([])),
  );
  if (outcome.kind === "error") {
    const isEarly = outcome.error.code === "query-not-found";
    client.world.laws.check(isEarly, "J-query", `${id} ${name}: ${outcome.error.message}`);
    return;
  }
  const value = decode(outcome.value);
  const law = "I6 a query changes nothing";
  if (name === "items") {
    client.world.laws.check(!(value as string[]).includes("forged"), law, `${id}: forged`);
  } else same(client, law, value, name === "cheat" ? 1 : 0, `${id} ${name}`);
}

const parent: Job = async (client, id) => {
  const n = client.random.between(1, 3);
  await client.start(id, "parent", [n]);
  const found = (await client.value(id)) as { values: number[]; last: number } | undefined;
  const values = Array.from({ length: n }, (_, i) => i * 10);
  same(client, "J-output", [found?.values, found?.last], [values, 1000], id);
};

const failing: Job = async (client, id) => {
  const { ledger } = client.world;
  ledger.off.add(id);
  await client.start(id, "failing", [id]);
  const rounds = client.random.between(1, 3);
  for (let round = 1; round <= rounds; round += 1) {
    const view = await client.viewUntil(id, (each) => each.status !== "RUNNING");
    same(client, "J-status", view.status, "FAILED", `${id} fails while its switch is off`);
    if (round === rounds) ledger.off.delete(id);
    const { attempt } = view;
    await client.ask(`resume ${id}`, async (tenant) => {
      // A repetition: the first request may have been heard.
      const now = await tenant.getRun(id);
      return now.attempt > attempt ? now : tenant.resumeRun(id);
    });
    await client.viewUntil(id, (each) => each.attempt > attempt);
  }
  const wanted = [`${id}/1/effect`, id, `${id}/1/effect_2`];
  same(client, "J-output", await client.value(id), wanted, id);
  await history(client, id, "SUCCESSFUL");
};

/** A run begins at its time and not before; one that is late fails then, and not before. */
const timed: Job = async (client, id) => {
  const { random, world } = client;
  const nowMs = epochMs + Math.floor(world.nowMs);
  const startAtMs = nowMs + random.pick([-1000, 1, 500, 30_000, 400_000]);
  const start = { id, workflow: "timed", args: encode([]), startAtMs };
  await client.ask(`start ${id}`, (tenant) => tenant.startRun(start));
  const begunMs = Number(await client.value(id));
  const law = "I9 timers are never early";
  world.laws.check(begunMs >= startAtMs, law, `${id} begins ${startAtMs - begunMs} ms early`);
  // A run's own time is never before its timer's: what it could have been by any host's clock.
  const latestMs = epochMs + 1.1 * world.nowMs + world.aheadMs + 3000;
  world.laws.check(latestMs >= startAtMs, law, `${id} begins ${startAtMs - latestMs} ms early`);
  const lateId = `${id}-late`;
  const deadlineMs = epochMs + Math.floor(world.nowMs) + random.pick([1, 300, 20_000]);
  const late = { id: lateId, workflow: "cancellable", args: encode([]), deadlineMs };
  await client.ask(`start ${lateId}`, (tenant) => tenant.startRun(late));
  const outcome = await client.outcome(lateId);
  const name = outcome.kind === "error" ? outcome.error.name : "no error";
  same(client, "J-deadline", name, "TimeoutError", lateId);
  const { status, closedAtMs = 0 } = await client.view(lateId);
  same(client, "J-deadline", status, "FAILED", lateId);
  world.laws.check(
    closedAtMs >= deadlineMs,
    law,
    `${lateId} ends ${deadlineMs - closedAtMs} ms early`,
  );
};

const cancelled: Job = async (client, id) => {
  await client.start(id, "cancellable", []);
  if (client.random.chance(0.5)) await client.world.sleep(client.random.latency(100));
  await client.ask(`cancel ${id}`, (tenant) =>
    forgiving(tenant.cancelRun(id, "enough"), "run-closed"),
  );
  const outcome = await client.outcome(id);
  same(client, "J-status", outcome.kind, "error", `${id} is cancelled`);
  const { status } = await client.view(id);
  same(client, "J-status", status, "CANCELED", id);
};

const paused: Job = async (client, id) => {
  await client.start(id, "mixed", [3]);
  for (let i = client.random.between(1, 3); i > 0; i -= 1) {
    await client.world.sleep(client.random.latency(40));
    await client.ask(`pause ${id}`, (tenant) => forgiving(tenant.pauseRun(id), "run-closed"));
    await client.world.sleep(client.random.latency(300));
    await client.ask(`resume ${id}`, (tenant) => forgiving(tenant.resumeRun(id), "run-closed"));
  }
  await client.value(id);
  const { status } = await client.view(id);
  same(client, "J-status", status, "SUCCESSFUL", id);
};

/** An id whose run was deleted is as if it had never been. */
const reused: Job = async (client, id) => {
  const isLong = client.random.chance(0.5);
  if (isLong) {
    await client.start(id, "collector", [50]);
    for (let i = 1; i <= 3; i += 1) await client.signal(id, "item", `old:${i}`, `${id}-m${i}`);
    await client.ask(`terminate ${id}`, (tenant) =>
      forgiving(tenant.terminateRun(id, "over"), "run-closed"),
    );
  } else {
    await client.start(id, "mixed", [1]);
    await client.outcome(id);
  }
  await client.ask(
    `delete ${id}`,
    (tenant) => forgiving(tenant.deleteRun(id), "run-not-found"),
    () => {
      const key = `${client.tenant}/r/${id}` as Parameters<typeof client.world.laws.truthOf>[0];
      const left = [`e/${key}/`, `h/${key}/`, `k/${key}/`, `a/${key}`].flatMap((prefix) =>
        client.world.laws.rowsBelow(key, prefix),
      );
      same(client, "J-delete frees everything", left, [], id);
    },
  );
  const n = client.random.between(1, 4);
  await client.start(id, "collector", [n]);
  for (let i = 1; i <= n; i += 1) await client.signal(id, "item", `me:${i}`, `${id}-m${i}`);
  const wanted = Array.from({ length: n }, (_, i) => `me:${i + 1}`);
  same(client, "J-reuse", await client.value(id), wanted, id);
  const events = await history(client, id, "SUCCESSFUL");
  same(client, "J-reuse", events.filter((each) => each.type === "run.started").length, 1, id);
};

/** Asks with the same id until the update is answered. */
async function updateOutcome(
  client: Client,
  id: string,
  { updateId, item }: { readonly updateId: string; readonly item: string },
): Promise<Outcome> {
  const waitMs = 30_000;
  return client.askUntilDone(
    { name: `update ${id} ${item}`, waitMs },
    (tenant) => tenant.updateRun(id, "push", encode([item]), { updateId, waitMs }),
    (result) => (result.kind === "done" ? result.outcome : undefined),
  );
}

const updated: Job = async (client, id) => {
  await client.start(id, "updatable", []);
  const n = client.random.between(1, 5);
  const lengths: number[] = [];
  for (let i = 1; i <= n; i += 1) {
    for (;;) {
      const updateId = `${id}-u${i}-${lengths.length}-${client.random.word()}`;
      const outcome = await updateOutcome(client, id, { updateId, item: `item${i}` });
      if (outcome.kind === "ok") {
        lengths.push(Number(decode(outcome.value)));
        break;
      }
      // Before its first activation the run has no handler yet.
      if (outcome.error.code !== "update-not-found") {
        client.world.laws.violate("J-update", `${id}: ${outcome.error.message}`);
        return;
      }
      await client.world.sleep(50);
    }
  }
  const wanted = Array.from({ length: n }, (_, i) => i + 1);
  same(client, "I4 updates once and in order", lengths, wanted, id);
  await client.signal(id, "close", true, `${id}-close`);
  const items = wanted.map((i) => `item${i}`);
  same(client, "I4 updates once and in order", await client.value(id), items, id);
};

const stored: Job = async (client, id) => {
  const n = client.random.between(1, 300);
  await client.start(id, "stored", [n]);
  same(client, "J-output", await client.value(id), n, id);
};

/**
 * Values whose only reference is in a memory, in a message, in a state, while collections begin
 * anywhere and stop anywhere: whatever can be read is there.
 */
const keeping: Job = async (client, id) => {
  const { random, world } = client;
  let isOver = false;
  const collecting = async (): Promise<void> => {
    for (let left = 25; left > 0 && !isOver; left -= 1) {
      await world.sleep(random.latency(random.pick([5, 50, 500, 5000])));
      if (!isOver) await client.collect();
    }
  };
  const begun = collecting();
  const drop = (run: string): Promise<unknown> =>
    client.ask(`delete ${run}`, (tenant) => forgiving(tenant.deleteRun(run), "run-not-found"));
  const vault = `v${random.below(2)}`;
  for (let round = 1, rounds = random.between(1, 3); round <= rounds; round += 1) {
    const [keeper, heir] = [`${id}.${round}`, `${id}.${round}h`];
    const picks = Array.from({ length: random.between(1, 4) }, () => random.below(6));
    const wanted = picks.map(() => true);
    const waitMs = random.pick([0, 20, 400, 3000]);
    await client.start(heir, "heir", [picks, random.pick([0, 50, 2000])]);
    let target = heir;
    for (let link = random.below(5); link > 0; link -= 1) {
      // Hands the Refs on, and is gone at once.
      const [passer, next] = [`${id}.${round}p${link}`, target];
      const args = encode([next, picks.length]);
      await client.ask(`start ${passer}`, (tenant) =>
        tenant.startRun({ id: passer, workflow: "passer", args, retentionMs: 0 }),
      );
      target = passer;
    }
    await client.start(keeper, "keeper", [target, picks, waitMs]);
    for (let n = random.below(8); n > 0; n -= 1) {
      const brief = `${keeper}b${n}`;
      await client.start(brief, "keeper", ["", [random.below(2)], random.pick([0, 10])]);
      same(client, "J-kept", await client.value(brief), [true], brief);
      await drop(brief);
    }
    const callId = `${keeper}-store`;
    await client.call("Vault", vault, "store", [random.below(6)], { callId });
    same(client, "J-kept", await client.value(keeper), wanted, keeper);
    await drop(keeper);
    same(client, "J-kept", await client.value(heir), wanted, heir);
    await drop(heir);
    same(
      client,
      "J-kept",
      await client.call("Vault", vault, "check", [], { callId: `${keeper}-check` }),
      true,
      vault,
    );
  }
  isOver = true;
  await begun;
};

// ---------------------------------------------------------------- actors

function counterOf(client: Client): string {
  return `c${client.random.below(3)}`;
}

/** Calls one after the other, each repeated until it is answered: each counts once. */
const counting: Job = async (client, id) => {
  const shared = sharedOf(client);
  const counter = counterOf(client);
  const isSession = client.random.chance(0.5);
  let last = 0;
  for (let i = 1, n = client.random.between(1, 8); i <= n; i += 1) {
    shared.expect(counter);
    const options = isSession
      ? { session: { id, seq: i }, callId: `${id}-${i}` }
      : { callId: `${id}-${i}`, isAsync: client.random.chance(0.3) };
    const args = isSession ? [id, i] : ["", 0];
    const value = (await client.call("Counter", counter, "add", args, options)) as number;
    const law = "I4 calls once and in order";
    client.world.laws.check(value > last, law, `${id}: ${value} after ${last}`);
    shared.tell(counter, value);
    last = value;
    if (client.random.chance(0.3)) await reading(client, id);
  }
};

/** Calls of one session all at once. */
const bursting: Job = async (client, id) => {
  const shared = sharedOf(client);
  const counter = counterOf(client);
  const n = client.random.between(2, 6);
  shared.expect(counter, n);
  const values = await Promise.all(
    Array.from({ length: n }, (_, i) =>
      client.call("Counter", counter, "add", [id, i + 1], {
        session: { id, seq: i + 1 },
        callId: `${id}.${i + 1}`,
      }),
    ),
  );
  const sorted = [...values].sort((a, b) => Number(a) - Number(b));
  same(client, "I4 calls once and in order", values, sorted, id);
  for (const value of values) shared.tell(counter, Number(value));
};

/** What was told stays (I3), a reader sees it (I2), and changes nothing (I6). */
const reading: Job = async (client) => {
  const shared = sharedOf(client);
  const counter = counterOf(client);
  const told = shared.told.get(counter) ?? 0;
  if (told === 0) return;
  const method = client.random.pick(["value", "cheat", "faults"]);
  const found = await client.call("Counter", counter, method, []);
  if (method === "faults") {
    same(client, "I4 calls once and in order", found, [], `faults of ${counter}`);
    return;
  }
  const value = Number(found) - (method === "cheat" ? 1000 : 0);
  const law = "I2 no answer is older than what was told";
  client.world.laws.check(value >= told, law, `${counter} is ${value}, ${told} was told`);
  const most = shared.expected.get(counter) ?? 0;
  client.world.laws.check(
    value <= most,
    "I6 readers change nothing",
    `${counter}: ${value} of ${most}`,
  );
};

/**
 * Reads on any host, one after the other and beside each other, while a counter counts: each
 * sees what was told before it, and what a read before it saw, whoever owns the counter.
 */
const watching: Job = async (client, id) => {
  const { random, world } = client;
  let asked = 0;
  let told = 0;
  const count = async (): Promise<void> => {
    for (let n = random.between(5, 40); n > 0; n -= 1) {
      // Now and then long enough to lie behind by more than one checkpoint.
      if (random.chance(0.2)) await world.sleep(random.latency(random.pick([5, 200, 3000])));
      asked += 1;
      const args = ["", 0];
      told = Number(await client.call("Counter", id, "add", args, { callId: `${id}-${asked}` }));
      same(client, "I4 calls once and in order", told, asked, id);
    }
  };
  let isOver = false;
  const watch = async (name: string): Promise<void> => {
    const law = "I2 no read is older than what was told";
    const reader = new Client(world, `${client.name}.${name}`, client.tenant);
    for (let seen = 0; !isOver; ) {
      await world.sleep(random.latency(random.pick([1, 1, 20, 300])));
      if (told === 0) continue;
      const least = Math.max(seen, told);
      const method = random.pick(["value", "cheat"]);
      const value = Number(await reader.call("Counter", id, method, []));
      seen = method === "cheat" ? value - 1000 : value;
      world.laws.check(seen >= least, law, `${id} is ${seen}, ${least} was told`);
      world.laws.check(seen <= asked, "I6 readers change nothing", `${id}: ${seen} of ${asked}`);
    }
  };
  const readers = [watch("w1"), watch("w2")];
  await count();
  isOver = true;
  await Promise.all(readers);
};

/** A run's reads come after what it sent, and change nothing, whatever their code does (I6). */
const spying: Job = async (client, id) => {
  const n = client.random.between(1, 8);
  await client.start(id, "spy", [id, n]);
  const wanted = Array.from({ length: n }, (_, i) => [i + 1, i + 1001]).flat();
  same(client, "I6 a run's reads change nothing", await client.value(id), wanted, id);
  same(
    client,
    "I6 a run's reads change nothing",
    await client.call("Counter", id, "value", []),
    n,
    id,
  );
};

/**
 * An actor that was never made reads as a new one, and nothing of that gets into the log (L-ghost),
 * until somebody makes it: who reads after that sees it.
 */
const haunting: Job = async (client, id) => {
  const { random, world } = client;
  const { ghosts } = world.laws;
  const law = "I6 a read makes no actor";
  const own = [`a/Ghost/${id}`, `a/Counter/${id}-haunted`, `r/${id}-started`];
  for (const name of own) ghosts.add(`${client.tenant}/${name}`);
  const look = async (reader: Client, least: number, most: number): Promise<void> => {
    const [method, lie] = random.pick([["value", 0] as const, ["cheat", 1000] as const]);
    const n = Number(await reader.call("Ghost", id, method, [])) - lie;
    world.laws.check(n >= least && n <= most, law, `${id}.${method} is ${n} of ${least}..${most}`);
  };
  for (let reads = random.between(1, 6); reads > 0; reads -= 1) {
    await look(client, 0, 0);
    if (random.chance(0.3)) await world.sleep(random.latency(random.pick([5, 200, 3000])));
  }
  const view = client.ask(`view ${id}`, (tenant) => tenant.getActor("Ghost", id));
  same(client, law, await forgiving(view, "actor-not-found"), undefined, id);
  if (random.chance(0.5)) return;
  for (const name of own) ghosts.delete(`${client.tenant}/${name}`);
  let told = 0;
  const watch = async (name: string): Promise<void> => {
    const reader = new Client(world, `${client.name}.${name}`, client.tenant);
    for (let reads = random.between(2, 10); reads > 0; reads -= 1) {
      await look(reader, told, 2); // its reminder calls it once
      await world.sleep(random.latency(random.pick([1, 20])));
    }
  };
  const make = async (): Promise<void> => {
    await world.sleep(random.latency(20));
    await client.call("Ghost", id, "haunt", [], { callId: id });
    told = 1;
  };
  await Promise.all([watch("w1"), watch("w2"), make()]);
};

const banking: Job = async (client, id) => {
  const shared = sharedOf(client);
  const counter = counterOf(client);
  const n = client.random.between(1, 4);
  shared.expect(counter, n % 2 === 0 ? n + 1 : n);
  await client.start(id, "bank", [counter, n]);
  const seen = (await client.value(id)) as number[] | undefined;
  if (seen === undefined) return;
  const isRising = seen.every((value, i) => i === 0 || value > (seen[i - 1] ?? 0));
  client.world.laws.check(
    isRising && seen.length === n,
    "I4 calls once and in order",
    `${id}: ${seen}`,
  );
  shared.tell(counter, seen.at(-1) ?? 0);
};

const relaying: Job = async (client, id) => {
  const shared = sharedOf(client);
  const counter = counterOf(client);
  const n = client.random.between(1, 3);
  shared.expect(counter, n);
  const seen = await client.call("Relay", `r${client.random.below(2)}`, "pass", [counter, n], {
    callId: id,
  });
  for (const value of seen as number[]) shared.tell(counter, value);
};

const failingHalfway: Job = async (client, id) => {
  const counter = counterOf(client);
  try {
    await client.call("Counter", counter, "failHalfway", [], { callId: id });
    client.world.laws.violate("J-outcome", `${id} should have failed`);
  } catch (error) {
    const message = String(error);
    client.world.laws.check(message.includes("changed its mind"), "J-outcome", `${id}: ${message}`);
  }
};

/** A reminder comes once and never early; of a deleted actor it doesn't come to the next one. */
const reminding: Job = async (client, id) => {
  const { random, world } = client;
  const key = `${id}-bell`;
  const set = (name: string, delayMs: number): Promise<unknown> =>
    client.call("Bell", key, "set", [name, delayMs], { callId: `${id}-${name}` });
  const isDeleted = random.below(2) === 0;
  const delayMs = random.between(1, 30_000);
  await set("first", delayMs);
  if (isDeleted) {
    await client.ask(`delete ${key}`, (tenant) =>
      forgiving(tenant.deleteActor("Bell", key), "actor-not-found"),
    );
  }
  const dueMs = (await set("last", delayMs + 1)) as number;
  for (;;) {
    const rings = (await client.call("Bell", key, "list", [])) as Record<string, number[]>;
    if (rings["last"] === undefined) {
      await world.sleep(random.latency(4000));
      continue;
    }
    same(client, "J-reminders", rings["last"].length, 1, key);
    world.laws.check((rings["last"][0] ?? 0) >= dueMs, "I9 timers are never early", key);
    const first = rings["first"]?.length ?? 0;
    // One that came before the deletion is gone with its actor.
    if (isDeleted) same(client, "J-reminders", first, 0, key);
    else world.laws.check(first <= 1, "J-reminders", `${key}: ${first} times`);
    return;
  }
};

/** Calls that come back to an actor that waits for them run within its turn, each once. */
const nesting: Job = async (client, id) => {
  const key = `${id}-n`;
  let total = 0;
  for (let i = 1, n = client.random.between(1, 3); i <= n; i += 1) {
    const depth = client.random.below(4);
    total += depth + 1;
    const value = await client.call("Nest", key, "deep", [depth], { callId: `${id}-${i}` });
    same(client, "I4 calls once and in order", value, total, `${id} ${i}`);
  }
  same(
    client,
    "I4 calls once and in order",
    await client.call("Nest", key, "total", []),
    total,
    id,
  );
};

const working: Job = async (client, id) => {
  const key = `${id}-w`;
  const n = client.random.between(1, 3);
  const wanted: string[] = [];
  for (let i = 1; i <= n; i += 1) {
    const isChain = client.random.chance(0.3);
    const method = isChain ? "chained" : "work";
    const args = isChain ? [] : [`job${i}`];
    const length = await client.call("Worker", key, method, args, { callId: `${id}-${i}` });
    same(client, "J-output", length, i, `${id} ${i}`);
    wanted.push(isChain ? "mark 1" : `job${i}`);
  }
  const done = (await client.call("Worker", key, "list", [])) as string[];
  same(
    client,
    "J-output",
    done.map((each) => (each.startsWith("mark") ? each : each.split(" ")[0])),
    wanted,
    id,
  );
  const keys = done.filter((each) => !each.startsWith("mark")).map((each) => each.split(" ")[1]);
  same(client, "J-effect keys differ", new Set(keys).size, keys.length, `${id}: ${keys}`);
};

/** Calls that nobody named are executed once each at most, whoever hands over what meanwhile. */
const nameless: Job = async (client, id) => {
  const key = `${id}-n`;
  const calls = Array.from({ length: client.random.between(2, 6) }, (_, n) => {
    const isSlow = client.random.chance(0.6);
    return { n, method: isSlow ? "work" : "mark", asked: 0, answered: 0 };
  });
  const make = async (call: (typeof calls)[number]): Promise<void> => {
    const { n, method } = call;
    const args = encode([method === "work" ? `call${n}` : n]);
    const result = await client.ask(`${method} ${key} ${n}`, (tenant) => {
      call.asked += 1;
      return tenant.callActor({ type: "Worker", key, method, args });
    });
    if (result.kind === "done" && result.outcome.kind === "ok") call.answered += 1;
  };
  await Promise.all(calls.map((call) => make(call)));
  const list = (await client.call("Worker", key, "list", [])) as string[];
  for (const { n, method, asked, answered } of calls) {
    const isThis = (line: string): boolean =>
      method === "mark" ? line === `mark ${n}` : line.startsWith(`call${n} `);
    const done = list.filter(isThis).length;
    const told = `${key} ${method} ${n}: ${answered} answered, ${done} done, ${asked} asked`;
    const isSound = answered <= done && done <= asked;
    client.world.laws.check(isSound, "I4 a call without a name is executed once", told);
  }
};

const deletingActors: Job = async (client, id) => {
  const key = `${id}-d`;
  await client.ask(`ensure ${key}`, (tenant) => tenant.ensureActor("Counter", key, encode([])));
  same(
    client,
    "J-output",
    await client.call("Counter", key, "add", ["", 0], { callId: `${id}-1` }),
    1,
    id,
  );
  await client.ask(`delete ${key}`, (tenant) =>
    forgiving(tenant.deleteActor("Counter", key), "actor-not-found"),
  );
  same(
    client,
    "J-reuse",
    await client.call("Counter", key, "add", ["", 0], { callId: `${id}-1` }),
    1,
    id,
  );
};

/** A list shows the tenant's own runs and all that were told, whatever the page size. */
const listing: Job = async (client, id) => {
  await client.start(id, "chain", [1]);
  await client.value(id);
  const ids = await client.ask("list", async (tenant) => {
    const found: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await tenant.listRuns({
        limit: client.random.between(1, 5),
        ...(cursor === undefined ? {} : { cursor }),
      });
      for (const run of page.runs) found.push(run.id);
      ({ cursor } = page);
    } while (cursor !== undefined);
    return found;
  });
  client.world.laws.check(ids.includes(id), "I3 a list shows what was told", `${id} in ${ids}`);
  const foreign = ids.filter(
    (each) =>
      !each.startsWith(`${client.tenant}.`) &&
      !each.includes(`.${client.tenant}.`) &&
      !each.includes(`:${client.tenant}.`),
  );
  same(client, "I7 only one's own", foreign, [], `list of ${client.tenant}`);
};

// ---------------------------------------------------------------- schedules

/** No slot is lost, none has two runs, none is early; a trigger that is repeated happens once. */
const scheduled: Job = async (client, id) => {
  const { random, world } = client;
  const slots = random.between(1, 5);
  const triggers = random.between(0, 2);
  const everyMs = random.pick([1000, 3000, 20_000]);
  const overlap = random.pick(["allow-all", "buffer-all"] as const);
  const request = {
    workflow: "chain",
    args: encode([2]),
    everyMs,
    jitterMs: random.pick([0, 0, 700, 5000]),
    overlap,
    catchUpMs: 100 * 86_400_000,
    remaining: slots,
  };
  await client.ask(`schedule ${id}`, (tenant) =>
    forgiving(tenant.createSchedule(id, request), "schedule-exists"),
  );
  for (let i = 1; i <= triggers; i += 1) {
    await client.ask(`trigger ${id} ${i}`, (tenant) =>
      tenant.triggerSchedule(id, { triggerId: `t${i}` }),
    );
  }
  const view = await scheduleUntil(client, id, (each) => {
    return each.started >= slots + triggers && each.running.length === 0;
  });
  const law = "C1 each slot has one run";
  const counts = [view.started, view.missed, view.skipped, view.waiting, view.remaining];
  same(client, law, counts, [slots + triggers, 0, 0, 0, 0], id);
  const taken = view.runs.filter(({ cause }) => cause === "slot").toReversed();
  const firstMs = taken[0]?.slotMs ?? 0;
  same(
    client,
    law,
    taken.map(({ slotMs }) => slotMs),
    Array.from({ length: slots }, (_, i) => firstMs + i * everyMs),
    id,
  );
  same(client, law, firstMs % everyMs, 0, id);
  for (const { slotMs, startedAtMs, runId, cause } of view.runs) {
    // What has waited may be started by a host whose clock is behind.
    const isSameClock = cause === "slot" && overlap === "allow-all";
    const isEarly = isSameClock && startedAtMs < slotMs;
    world.laws.check(!isEarly, "I9 timers are never early", runId);
    same(client, "J-output", await client.value(runId), 3, runId);
    await history(client, runId, "SUCCESSFUL");
  }
  same(client, law, new Set(view.runs.map(({ runId }) => runId)).size, slots + triggers, id);
  // Also such as the schedule itself knows nothing of.
  const all = await runsWithPrefix(client, `${id}.`);
  same(client, law, all, view.runs.map(({ runId }) => runId).toSorted(), id);
  await forgetSchedule(client, id);
};

// ---------------------------------------------------------------- queues

/** Runs that pass a narrow queue: all of them end, whatever becomes of those before them. */
const queueing: Job = async (client, id) => {
  const { random, world } = client;
  const runs = Array.from({ length: random.between(1, 6) }, (_, i) => ({
    id: `${id}-${i}`,
    key: random.pick(["ada", "bob", ""]),
    how: random.pick([
      "",
      "",
      "",
      "anew",
      "fail",
      "cancel",
      "terminate",
      "late",
      "delayed",
      "pause",
      "pause",
    ]),
    priority: random.pick([0, 0, 0, 5, -5]),
  }));
  await Promise.all(runs.map((run) => passQueue(client, run, random.pick([0, 10, 300, 5000]))));
  if (random.chance(0.3)) {
    const n = random.between(1, 4);
    await client.start(`${id}-p`, "queuing", [n]);
    const found = (await client.value(`${id}-p`)) as unknown[] | undefined;
    same(client, "J-output", found?.length, n, `${id}-p`);
  }
  if (random.chance(0.3)) await passTwice(client, `${id}-twice`);
  if (random.chance(0.2)) {
    const view = await client.ask("the queue", (tenant) => tenant.getQueue("narrow"));
    world.laws.check(view.running <= 3, "L-queue", `${view.running} run, says the queue`);
  }
};

async function passQueue(
  client: Client,
  run: { readonly id: string; readonly key: string; readonly how: string; priority: number },
  ms: number,
): Promise<void> {
  const { id, key, how, priority } = run;
  const { world, random } = client;
  const nowMs = epochMs + Math.floor(world.nowMs);
  const startAtMs =
    how === "delayed" || (how === "pause" && random.chance(0.3))
      ? nowMs + random.pick([5, 500, 4000])
      : undefined;
  const request = {
    id,
    workflow: "queued",
    args: encode([key, ms, how, 1]),
    queue: { priority },
    ...(how === "late" ? { deadlineMs: nowMs + random.pick([1, 200, 3000]) } : {}),
    ...(startAtMs === undefined ? {} : { startAtMs }),
  };
  await startWhenThereIsRoom(client, request);
  if (how === "pause") await pauseAndResume(client, id);
  if (how === "cancel" || how === "terminate") {
    if (random.chance(0.5)) await world.sleep(random.latency(400));
    await client.ask(`${how} ${id}`, (tenant) =>
      forgiving(
        how === "cancel" ? tenant.cancelRun(id, "enough") : tenant.terminateRun(id, "enough"),
        "run-closed",
      ),
    );
  }
  const outcome = await client.outcome(id);
  const mayFail = how === "cancel" || how === "terminate" || how === "late";
  if (!mayFail)
    same(client, "J-queue", outcome.kind, how === "fail" ? "error" : "ok", `${id} ${how}`);
}

/** Wherever it is: before its time, in its queue, at work or over. */
async function pauseAndResume(client: Client, id: string): Promise<void> {
  const { random, world } = client;
  for (let i = random.between(1, 3); i > 0; i -= 1) {
    const { status } = await client.view(id);
    world.count(`paused while ${status}`);
    await client.ask(`pause ${id}`, (tenant) => forgiving(tenant.pauseRun(id), "run-closed"));
    await world.sleep(random.latency(random.pick([40, 3000])));
    await client.ask(`resume ${id}`, (tenant) => forgiving(tenant.resumeRun(id), "run-closed"));
  }
}

async function startWhenThereIsRoom(
  client: Client,
  request: StartRequest & { readonly id: string },
): Promise<void> {
  for (let pauseMs = 500; ; pauseMs = Math.min(pauseMs * 2, 600_000)) {
    const started = await client.ask(`start ${request.id}`, async (tenant) => {
      try {
        return await tenant.startRun(request);
      } catch (error) {
        if (codeOf(error) === "queue-full") return undefined;
        throw error;
      }
    });
    if (started !== undefined) return;
    client.world.count("refused by a queue");
    await client.world.sleep(client.random.latency(pauseMs));
  }
}

/** A run that failed gives its place back, and takes another one when it is resumed. */
async function passTwice(client: Client, id: string): Promise<void> {
  const { ledger } = client.world;
  ledger.off.add(id);
  await startWhenThereIsRoom(client, { id, workflow: "queuedSwitch", args: encode([id]) });
  await client.viewUntil(id, (each) => each.status === "FAILED");
  ledger.off.delete(id);
  // A repetition of the request may come when it is through.
  await client.ask(`resume ${id}`, (tenant) => forgiving(tenant.resumeRun(id), "run-closed"));
  same(client, "J-output", await client.value(id), id, id);
}

// ---------------------------------------------------------------- shared pieces

/** Dense from 0, begun once, ended as told. */
async function history(client: Client, id: string, status: string): Promise<HistoryEvent[]> {
  const events = await client.history(id);
  const indexes = events.map(({ index }) => index);
  same(
    client,
    "I3 history is dense",
    indexes,
    events.map((_, i) => i),
    id,
  );
  same(client, "I3 history begins once", events[0]?.type, "run.started", id);
  const wanted = status === "SUCCESSFUL" ? "run.succeeded" : "run.failed";
  same(client, "I3 history ends as told", events.at(-1)?.type, wanted, id);
  const once = new Set<string>();
  for (const { type, data } of events) {
    if (type !== "step.succeeded") continue;
    const step = String(data["step"]);
    client.world.laws.check(!once.has(step), "I1 a step succeeds once", `${id} ${step}`);
    once.add(step);
  }
  return events;
}

async function stepsStay(client: Client, id: string): Promise<void> {
  const steps = await client.ask(`steps ${id}`, (tenant) => tenant.steps(id));
  const open = steps.filter(({ status }) => status !== "SUCCESSFUL").map(({ step }) => step);
  same(client, "I3 steps of a finished run", open, [], id);
}

export const jobs: Readonly<Record<string, Job>> = {
  chain,
  graph,
  mixed,
  sleeper,
  spinning,
  collecting: collecting("collector", () => []),
  continuing: collecting("collectorAnew", () => [[]]),
  racing: collecting("racer", ({ random }) => [
    random.pick([1, 5, 20, 60]),
    [],
    random.pick([1, 1, 3, 8]),
  ]),
  parent,
  failing,
  timed,
  cancelled,
  paused,
  reused,
  updated,
  stored,
  keeping,
  counting,
  bursting,
  reading,
  banking,
  relaying,
  reminding,
  ringing,
  knotting,
  upgrading,
  failingHalfway,
  nesting,
  working,
  deletingActors,
  listing,
  scheduled,
  forking,
  branching,
  moving,
  undoing,
  queueing,
  approving,
  startingWith,
  reaching,
};

/** For some of the seeds, which have one more client for them. */
export const jobsOfPrograms: Readonly<Record<string, Job>> = { programs };

/** Only where hosts share the partitions, so that the others keep their seeds. */
export const jobsOfMany: Readonly<Record<string, Job>> = {
  nameless,
  watching,
  spying,
  haunting,
};

/** Of runs and values. */
const jobsOfRuns: Readonly<Record<string, Job>> = {
  browsing,
  bulking,
  resumingAll,
  using,
  replacing,
  accepting,
  stepping,
  judging,
  streaming,
  uploading,
};

/** Of actors, their lives and what is seen of them. */
const jobsOfActors: Readonly<Record<string, Job>> = {
  stopping,
  aging,
  bearing,
  copying,
  felling,
  missing,
  listening,
  conversing,
  surveying,
  following,
  exporting,
};

/** Of schedules, queues and times. */
const jobsOfTime: Readonly<Record<string, Job>> = {
  overlapping,
  pausingOnFailure,
  backfilling,
  steering,
  expiring,
  succeeding,
  awaiting,
  limiting,
  refusing,
  rating,
  admitting,
};

/** Of versions of code. */
const jobsOfCode: Readonly<Record<string, Job>> = {
  recoding,
  releasing,
  settling,
};

/** Each by a stream of chance of its own, so that seeds without them stay what they are. */
export const jobsOfSome: readonly {
  readonly stream: number;
  readonly share: number;
  readonly jobs: Readonly<Record<string, Job>>;
}[] = [
  { stream: 19, share: 0.3, jobs: jobsOfRuns },
  { stream: 21, share: 0.3, jobs: jobsOfActors },
  { stream: 23, share: 0.3, jobs: jobsOfTime },
  { stream: 22, share: 0.3, jobs: jobsOfCode },
];
