/**
 * What clients do with actors over their lives: they are made, or can't be, are copied and edited,
 * stop and go on, grow old, and are deleted while they work.
 */
import { decode, encode } from "../../guest/cbor.ts";
import type { Outcome } from "../../guest/protocol.ts";
import { actorKey } from "../../runtime/ids.ts";
import type { ActorView, CallResult } from "../../runtime/index.ts";
import { mayflyMs } from "./actor-guest.ts";
import { type Client, codeOf, forgiving, type Job, same } from "./clients.ts";

/** Its value, or the code of what it failed with. */
async function codeOrValue(work: Promise<unknown>): Promise<unknown> {
  try {
    return await work;
  } catch (error) {
    return codeOf(error);
  }
}

function viewOf(client: Client, type: string, key: string): Promise<ActorView | undefined> {
  return client.ask(`view ${type}/${key}`, (tenant) =>
    forgiving(tenant.getActor(type, key), "actor-not-found"),
  );
}

async function deleted(client: Client, type: string, key: string): Promise<void> {
  await client.ask(`delete ${type}/${key}`, (tenant) =>
    forgiving(tenant.deleteActor(type, key), "actor-not-found"),
  );
}

interface AsyncCall {
  readonly type: string;
  readonly key: string;
  readonly method: string;
  readonly args: readonly unknown[];
  readonly callId: string;
}

/** Puts a call into the mailbox, and waits for no more than that. */
async function post(client: Client, call: AsyncCall): Promise<void> {
  const request = { ...call, args: encode(call.args), isAsync: true };
  await client.ask(
    `post ${call.callId}`,
    (tenant) => tenant.callActor(request),
    () => client.toldCall(`${client.tenant}/a/${call.type}/${call.key}`, call.callId),
  );
}

async function resultOf(client: Client, call: AsyncCall): Promise<Outcome> {
  const { type, key, callId } = call;
  const waitMs = 20_000;
  return client.askUntilDone<CallResult, Outcome>(
    { name: `result ${callId}`, waitMs },
    (tenant) => tenant.callResult(type, key, callId, { waitMs }),
    (result) => (result.kind === "done" ? result.outcome : undefined),
  );
}

/** A call whose actor may be gone meanwhile, and its outcome with it. */
async function callUnsure(client: Client, call: AsyncCall): Promise<unknown> {
  const { key, callId } = call;
  const request = { ...call, args: encode(call.args) };
  try {
    for (;;) {
      const result = await client.ask(`call ${key} ${callId}`, (tenant) =>
        tenant.callActor(request),
      );
      if (result.kind === "accepted") continue;
      const { outcome } = result;
      return outcome.kind === "ok" ? decode(outcome.value) : (outcome.error.code ?? "failed");
    }
  } catch (error) {
    return codeOf(error);
  }
}

// ---------------------------------------------------------------- stops

/** Nothing behind a call that failed is done before somebody resumes the actor, and then all of it. */
export const stopping: Job = async (client, id) => {
  const { random, world } = client;
  const law = "J-stop: what is behind an error waits for a resume";
  const key = `${id}-stop`;
  const fails = Array.from({ length: random.between(2, 6) }, () => random.chance(0.4));
  const calls = fails.map((isFailing, i) => ({
    type: "Stopper",
    key,
    method: "work",
    args: [`w${i}`, isFailing],
    callId: `${id}-${i}`,
  }));
  for (const call of calls) await post(client, call);
  const look = async (until: number, isStopped: boolean): Promise<void> => {
    // A resume that is heard late goes on after another error than the one that it was meant for.
    const isSure = !client.hasRepeated;
    const done = fails.flatMap((isFailing, i) => (isFailing || i >= until ? [] : [`w${i}`]));
    const found = (await client.call("Stopper", key, "list", [])) as string[];
    same(client, law, isSure ? found : found.slice(0, done.length), done, key);
    if (!isSure) return;
    const view = await viewOf(client, "Stopper", key);
    const left = isStopped ? fails.length - until - 1 : 0;
    same(client, law, [view?.stopped, view?.mailbox], [isStopped, left], key);
  };
  for (const [i, isFailing] of fails.entries()) {
    const call = calls[i];
    if (!isFailing || call === undefined) continue;
    same(client, law, (await resultOf(client, call)).kind, "error", call.callId);
    await world.sleep(random.latency(random.pick([1, 50, 3000])));
    await look(i, true);
    await client.ask(`resume ${key}`, (tenant) => tenant.resumeActor("Stopper", key));
  }
  for (const call of calls) await resultOf(client, call);
  await look(fails.length, false);
};

// ---------------------------------------------------------------- age

/** Calls keep an actor alive; when none has come for its time, it is gone, and begins anew. */
export const aging: Job = async (client, id) => {
  const { random, world } = client;
  const key = `${id}-fly`;
  const law = "J-age: gone after its time and not before";
  let n = 0;
  let askedAtMs = world.nowMs;
  for (let round = random.between(1, 6); round > 0; round -= 1) {
    const found = await client.call("Mayfly", key, "add", [], { callId: `${id}-${round}` });
    // Hosts' clocks differ by seconds, and by hours when they jump.
    const isYoung = world.nowMs - askedAtMs < mayflyMs / 2;
    const isByTheClock = !world.counts.has("clock jumps") && !world.counts.has("clock drifts");
    const isRight = found === n + 1 || (found === 1 && !(isYoung && isByTheClock));
    world.laws.check(isRight, law, `${key} is ${found} after ${n}`);
    n = Number(found);
    askedAtMs = world.nowMs;
    await world.sleep(random.latency(random.pick([10, mayflyMs / 4, mayflyMs / 4, mayflyMs])));
  }
  for (let pauseMs = mayflyMs; (await viewOf(client, "Mayfly", key)) !== undefined; ) {
    await world.sleep(pauseMs);
    pauseMs = Math.min(pauseMs * 2, 10 * mayflyMs);
  }
  isFreed(client, "Mayfly", key, n);
  same(client, law, await client.call("Mayfly", key, "add", [], { callId: `${id}-new` }), 1, key);
};

/** Its history begins with it, so of an earlier actor of that name there is nothing. */
async function bornOnce(client: Client, type: string, key: string): Promise<void> {
  const events = await client.ask(`history ${type}/${key}`, (tenant) =>
    tenant.actorHistory(type, key, { limit: 1000 }),
  );
  const born = events.filter((event) => event.type === "actor.created").length;
  const law = "J-reuse";
  same(client, law, [events[0]?.type, events[0]?.index, born], ["actor.created", 0, 1], key);
}

// ---------------------------------------------------------------- births

/** Who isn't welcome is refused and leaves nothing; who is comes to be, once. */
export const bearing: Job = async (client, id) => {
  const { random } = client;
  const key = `${id}-shy`;
  const law = "J-birth: a failed constructor makes no actor";
  const ensure = (isWelcome: boolean): Promise<unknown> =>
    client.ask(`ensure ${key} ${isWelcome}`, (tenant) =>
      tenant.ensureActor("Shy", key, encode([isWelcome])),
    );
  for (let round = random.below(4); round > 0; round -= 1) {
    const isCalled = random.chance(0.5);
    if (isCalled) {
      const names = Array.from({ length: random.between(1, 3) }, (_, i) => `${id}-${round}.${i}`);
      const calls = names.map((callId) =>
        callUnsure(client, { type: "Shy", key, method: "add", args: [], callId }),
      );
      for (const result of await Promise.all(calls)) {
        client.world.laws.check(typeof result === "string", law, `${key} counts: ${result}`);
      }
    } else {
      same(client, law, await codeOrValue(ensure(false)), "actor-init-failed", key);
    }
    const read = client.call("Shy", key, "value", []);
    same(client, law, await codeOrValue(read), "actor-init-failed", key);
  }
  // Somebody else's constructor may be under way, who isn't welcome.
  const other = { type: "Shy", key, method: "add", args: [], callId: `${id}-other` };
  const [added] = await Promise.all([
    random.chance(0.5) ? callUnsure(client, other) : "nobody",
    ensure(true),
  ]);
  const n = added === 1 ? 1 : 0;
  same(client, law, await client.call("Shy", key, "value", []), n, key);
  same(client, law, await client.call("Shy", key, "add", [], { callId: `${id}-end` }), n + 1, key);
  await bornOnce(client, "Shy", key);
};

// ---------------------------------------------------------------- copies, edits

/** A fork has the state of its moment, an edit the one that was given; each goes its own way. */
export const copying: Job = async (client, id) => {
  const { random } = client;
  const law = "J-actor fork: the state of its moment, then its own";
  const key = `${id}-one`;
  const into = `${id}-two`;
  let calls = 0;
  const add = (at: string): Promise<unknown> => {
    calls += 1;
    return client.call("Counter", at, "add", ["", 0], { callId: `${id}-${calls}` });
  };
  const before = random.between(1, 4);
  for (let i = 0; i < before; i += 1) await add(key);
  const during = random.below(3);
  const [forked] = await Promise.all([
    client.ask(`fork ${key}`, (tenant, attempt) =>
      forgiving(tenant.forkActor("Counter", key, into), attempt === 1 ? "none" : "actor-exists"),
    ),
    ...Array.from({ length: during }, () => add(key)),
  ]);
  const value = Number(await client.call("Counter", into, "value", []));
  const isOfIts = value >= before && value <= before + during;
  client.world.laws.check(isOfIts, law, `${into}: ${value} of ${before} to ${before + during}`);
  same(client, law, forked?.key ?? into, into, into);
  const mine = random.between(0, 3);
  for (let i = 1; i <= mine; i += 1) same(client, law, await add(into), value + i, into);
  same(client, law, await client.call("Counter", key, "value", []), before + during, key);
  await edit(client, into, value + mine);
  same(client, law, await add(into), 501, into);
};

async function edit(client: Client, key: string, value: number): Promise<void> {
  const law = "J-edit: all of it, if nobody was faster";
  const { state, turns } = await client.ask(`state ${key}`, (tenant) =>
    tenant.actorState("Counter", key),
  );
  const found = decode(state) as { n: number };
  same(client, law, found.n, value, key);
  const other = { state: encode({ ...found, n: 500 }), turns };
  await client.ask(`edit ${key}`, (tenant, attempt) =>
    forgiving(tenant.editActor("Counter", key, other), attempt === 1 ? "none" : "state-changed"),
  );
  same(client, law, await client.call("Counter", key, "value", []), 500, key);
  const late = client.ask(`edit ${key} again`, (tenant) =>
    tenant.editActor("Counter", key, { state, turns }),
  );
  same(client, law, await codeOrValue(late), "state-changed", key);
}

// ---------------------------------------------------------------- deletions

/** Calls that meet the deletion are done or refused; what begins after it knows nothing of it. */
export const felling: Job = async (client, id) => {
  const { random, world } = client;
  const law = "J-felled: a new actor knows nothing of the old one";
  const key = `${id}-slow`;
  const name = (round: number, i: number): string => `${id}-${round}.${i}`;
  for (let round = 1, rounds = random.between(1, 3); round <= rounds; round += 1) {
    const call = (i: number): Promise<unknown> => {
      const args = [name(round, i), random.pick([0, 5, 200, 3000])];
      return callUnsure(client, {
        type: "Slow",
        key,
        method: "work",
        args,
        callId: name(round, i),
      });
    };
    const calls = Array.from({ length: random.between(1, 4) }, (_, i) => call(i));
    if (random.chance(0.7)) await world.sleep(random.latency(random.pick([1, 20, 500])));
    await deleted(client, "Slow", key);
    for (const result of await Promise.all(calls)) {
      const isOld =
        Array.isArray(result) && !result.every((each) => each.startsWith(`${id}-${round}.`));
      world.laws.check(!isOld, law, `${key} in round ${round}: ${result}`);
      const isKnown = Array.isArray(result) || result === "actor-not-found";
      world.laws.check(isKnown, law, `${key}: ${result}`);
    }
    // What was asked again since has made another one.
    await deleted(client, "Slow", key);
    const known = await codeOrValue(
      client.ask(`result ${key}`, (tenant) => tenant.callResult("Slow", key, name(round, 0))),
    );
    if (client.hasRepeated) continue;
    same(client, law, known, "actor-not-found", key);
  }
  const done = await client.call("Slow", key, "work", ["last", 5], { callId: `${id}-last` });
  // A call that was heard late has made this one.
  if (!client.hasRepeated) same(client, law, done, ["last"], key);
  await bornOnce(client, "Slow", key);
  await client.ask(
    `delete ${key}`,
    (tenant) => forgiving(tenant.deleteActor("Slow", key), "actor-not-found"),
    () => isFreed(client, "Slow", key, 1),
  );
};

function isFreed(client: Client, type: string, key: string, n: number): void {
  const entity = actorKey(client.tenant, type, key);
  const left = [`e/${entity}/`, `h/${entity}/`, `k/${entity}/`].flatMap((prefix) =>
    client.world.laws.rowsBelow(entity, prefix),
  );
  same(client, "J-delete frees everything", left, [], `${entity} after ${n}`);
}

// ---------------------------------------------------------------- absent

/** Nobody is made for calls that don't make: not by clients, not by runs; and then they count. */
export const missing: Job = async (client, id) => {
  const { random } = client;
  const law = "J-missing: who isn't there is not made";
  const key = `${id}-nobody`;
  const call = (callId: string): Promise<unknown> =>
    client.call("Counter", key, "add", ["", 0], { callId, ifMissing: "fail" });
  const isBefore = random.chance(0.5);
  if (isBefore) same(client, law, await codeOrValue(call(`${id}-1`)), "actor-not-found", key);
  await client.start(id, "missing", [key]);
  const none = ["actor-not-found", "actor-not-found", "actor-not-found"];
  same(client, law, await client.value(id), none, id);
  same(client, law, await codeOrValue(call(`${id}-2`)), "actor-not-found", key);
  same(client, law, await viewOf(client, "Counter", key), undefined, key);
  await client.ask(`ensure ${key}`, (tenant) => tenant.ensureActor("Counter", key, encode([])));
  same(client, law, await call(`${id}-3`), 1, key);
  await client.start(`${id}-r`, "missing", [key]);
  same(client, law, await client.value(`${id}-r`), [2, "sent", 3], `${id}-r`);
};

// ---------------------------------------------------------------- signals

/** What an actor is sent comes to its turns in order and once, before them and within. */
export const listening: Job = async (client, id) => {
  const { random, world } = client;
  const law = "I4 signals once and in order";
  const key = `${id}-ear`;
  await client.ask(`ensure ${key}`, (tenant) => tenant.ensureActor("Listener", key, encode([])));
  const counts = Array.from({ length: random.between(1, 3) }, () => random.between(1, 3));
  const sum = counts.reduce((all, count) => all + count, 0);
  const send = async (): Promise<void> => {
    for (let i = 1; i <= sum; i += 1) {
      await client.ask(`signal ${key} ${i}`, (tenant) =>
        tenant.signalActor("Listener", key, "item", encode(`i${i}`), { messageId: `${id}-m${i}` }),
      );
      if (random.chance(0.3)) await world.sleep(random.latency(60));
    }
  };
  const sending = random.chance(0.5) ? send() : world.sleep(50).then(send);
  let heard = 0;
  for (const [i, count] of counts.entries()) {
    heard += count;
    const callId = `${id}-${i}`;
    same(client, law, await client.call("Listener", key, "hear", [count], { callId }), heard, key);
  }
  await sending;
  const wanted = Array.from({ length: sum }, (_, i) => `i${i + 1}`);
  same(client, law, await client.call("Listener", key, "list", []), wanted, key);
};
