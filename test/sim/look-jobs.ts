/**
 * What clients see of actors and runs from outside: in sessions, in lists, in streams of events,
 * and in a copy of the whole bucket that is made while hosts serve it.
 */
import { decode, encode } from "../../guest/cbor.ts";
import { SporeError } from "../../runtime/errors.ts";
import { rowKeys } from "../../runtime/format.ts";
import { actorKey, runKey } from "../../runtime/ids.ts";
import type { HistoryEvent, TenantHost } from "../../runtime/index.ts";
import { Client, forgiving, type Job, same } from "./clients.ts";
import { copied, damagesOf, plainStore, rowsIn, verify } from "./verify.ts";

// ---------------------------------------------------------------- sessions

/** Calls to one counter, numbered in the order in which they are made. */
class Session {
  readonly #client: Client;
  readonly #id: string;
  readonly #key: string;
  readonly #open = new Set<number>();
  #seq = 0;

  constructor(client: Client, id: string, key: string) {
    this.#client = client;
    this.#id = id;
    this.#key = key;
  }

  async say(method: "add" | "value"): Promise<number> {
    this.#seq += 1;
    const seq = this.#seq;
    this.#open.add(seq);
    for (;;) {
      const args = encode(method === "add" ? ["", 0] : []);
      const result = await this.#client.ask(`${method} ${this.#key} ${seq}`, (tenant) => {
        // As of each attempt, as a client has to (PROTOCOL 2.10.10).
        const session = { id: this.#id, seq, answered: Math.min(...this.#open) - 1 };
        const call = { type: "Counter", key: this.#key, method, args, session };
        return this.#notMissing(seq, tenant.callActor(call));
      });
      if (result.kind === "accepted") continue;
      this.#open.delete(seq);
      return result.outcome.kind === "ok" ? Number(decode(result.outcome.value)) : Number.NaN;
    }
  }

  /** An owner that has answered the call before this one doesn't wait for it in vain. */
  async #notMissing<T>(seq: number, calling: Promise<T>): Promise<T> {
    const { world } = this.#client;
    const claims = world.counts.get("claims");
    try {
      return await calling;
    } catch (error) {
      const isAnswered = seq > 1 && !this.#open.has(seq - 1);
      const isSameOwner = claims === world.counts.get("claims") && !this.#client.hasRepeated;
      const isMissed = error instanceof SporeError && error.message.endsWith("is missing");
      const what = `${this.#key}: ${String(error)}, which was answered`;
      world.laws.check(!(isMissed && isAnswered && isSameOwner), "I4 a session in order", what);
      throw error;
    }
  }
}

/**
 * Calls and reads of one session, some of them all at once: each sees those before it and none
 * behind it, also of an actor that isn't there yet, or is deleted in between.
 */
export const conversing: Job = async (client, id) => {
  const { random } = client;
  const law = "I4 a session in order";
  const key = `${id}-talk`;
  const session = new Session(client, id, key);
  let n = 0;
  for (let round = random.between(1, 4); round > 0; round -= 1) {
    const methods = Array.from({ length: random.between(1, 4) }, () =>
      random.pick(["add", "value", "value"] as const),
    );
    const wanted = methods.map((method) => (method === "add" ? ++n : n));
    const told = await Promise.all(methods.map((method) => session.say(method)));
    for (const [i, method] of methods.entries()) {
      // A read that is asked again may come behind calls that came behind it.
      const most = method === "value" && client.hasRepeated ? n : wanted[i];
      const isIt = Number(told[i]) >= Number(wanted[i]) && Number(told[i]) <= Number(most);
      client.world.laws.check(isIt, law, `${key} ${methods}: ${told}, not ${wanted}`);
    }
    // A call that is heard late would count in the next actor.
    if (client.hasRepeated || random.chance(0.6)) continue;
    await client.ask(`delete ${key}`, (tenant) =>
      forgiving(tenant.deleteActor("Counter", key), "actor-not-found"),
    );
    n = 0;
  }
};

// ---------------------------------------------------------------- lists

/** Page by page, each page from any host. */
async function listed(client: Client, keyPrefix: string): Promise<string[]> {
  const keys: string[] = [];
  let cursor: string | undefined;
  do {
    const limit = client.random.between(1, 4);
    const page = await client.ask(`actors ${keyPrefix}`, (tenant) =>
      tenant.listActors({ type: "Counter", keyPrefix, limit, cursor }),
    );
    keys.push(...page.actors.map(({ key }) => key));
    ({ cursor } = page);
  } while (cursor !== undefined);
  return keys;
}

/** A list has what was there all the time, in order and once, and nothing that was gone before. */
export const surveying: Job = async (client, id) => {
  const { random } = client;
  const law = "I3 a list of actors shows what was told";
  const keyOf = (i: number): string => `${id}-k${i}`;
  const make = (i: number): Promise<unknown> =>
    client.ask(`ensure ${keyOf(i)}`, (tenant) =>
      tenant.ensureActor("Counter", keyOf(i), encode([])),
    );
  const drop = (i: number): Promise<unknown> =>
    client.ask(`delete ${keyOf(i)}`, (tenant) =>
      forgiving(tenant.deleteActor("Counter", keyOf(i)), "actor-not-found"),
    );
  const count = random.between(1, 8);
  for (let i = 0; i < count; i += 1) await make(i);
  const gone = random.below(count);
  for (let i = 0; i < gone; i += 1) await drop(i);
  // One more comes and one goes while the list is made.
  const isLast = gone < count - 1 && random.chance(0.5);
  const [keys] = await Promise.all([
    listed(client, `${id}-k`),
    make(count),
    isLast ? drop(gone) : undefined,
  ]);
  const unsure = new Set([keyOf(count), ...(isLast ? [keyOf(gone)] : [])]);
  const all = Array.from({ length: count - gone }, (_, i) => keyOf(gone + i));
  const isSure = (key: string): boolean => !unsure.has(key);
  same(client, law, keys.filter(isSure), all.filter(isSure), id);
  same(client, law, new Set(keys).size, keys.length, `${id}: ${keys}`);
  same(client, law, keys, keys.toSorted(), id);
  const rest = [...all, keyOf(count)].slice(isLast ? 1 : 0);
  same(client, law, await listed(client, `${id}-k`), rest, `${id} in the end`);
  const { components } = await client.ask("component use", (tenant) => tenant.componentUse());
  const actors = components.reduce((sum, each) => sum + each.actors, 0);
  client.world.laws.check(actors >= rest.length, law, `${actors} actors have a component`);
};

// ---------------------------------------------------------------- streams

type Stream = (
  tenant: TenantHost,
  options: { from: number; signal: AbortSignal },
) => AsyncIterable<HistoryEvent>;

/** Follows events over as many hosts as it takes, until it has seen so many of them or all. */
async function follow(
  client: Client,
  what: string,
  { streamOf, isEnough }: { streamOf: Stream; isEnough: (seen: HistoryEvent[]) => boolean },
): Promise<HistoryEvent[]> {
  const seen: HistoryEvent[] = [];
  while (!isEnough(seen)) {
    const turn = new AbortController();
    const found = await client.ask(what, async (tenant) => {
      const from = seen.length;
      const events: HistoryEvent[] = [];
      const stop = client.world.at(client.random.latency(5000), () => turn.abort());
      for await (const event of streamOf(tenant, { from, signal: turn.signal })) {
        events.push(event);
        if (isEnough([...seen, ...events])) break;
      }
      stop();
      return events;
    });
    seen.push(...found);
  }
  return seen;
}

/** A stream has every event once, in order, as the history has it, whichever hosts it comes from. */
export const following: Job = async (client, id) => {
  const { random, world } = client;
  const law = "I3 a stream has the history";
  const count = random.between(1, 4);
  const key = `${id}-f`;
  await client.ask(`ensure ${key}`, (tenant) => tenant.ensureActor("Counter", key, encode([])));
  const reader = new Client(world, `${client.name}.f`, client.tenant);
  const turns = (seen: readonly HistoryEvent[]): number =>
    seen.filter(({ type }) => type === "turn.succeeded").length;
  const following = follow(reader, `events of ${key}`, {
    streamOf: (tenant, options) => tenant.actorEvents("Counter", key, options),
    isEnough: (seen) => turns(seen) > count, // the constructor's, too
  });
  for (let i = 1; i <= count; i += 1) {
    await world.sleep(random.latency(random.pick([1, 300, 6000])));
    await client.call("Counter", key, "add", ["", 0], { callId: `${id}-${i}` });
  }
  const seen = await following;
  const told = await actorHistory(client, key);
  isSame(client, law, seen, told.slice(0, seen.length));
  await followRun(client, reader, id);
};

/** All of it, page by page. */
async function actorHistory(client: Client, key: string): Promise<HistoryEvent[]> {
  const events: HistoryEvent[] = [];
  for (;;) {
    const from = events.length;
    const page = await client.ask(`history ${key}`, (tenant) =>
      tenant.actorHistory("Counter", key, { from }),
    );
    if (page.length === 0) return events;
    events.push(...page);
  }
}

async function followRun(client: Client, reader: Client, id: string): Promise<void> {
  await client.start(id, "mixed", [client.random.below(3)]);
  const seen = await follow(reader, `events of ${id}`, {
    streamOf: (tenant, options) => tenant.events(id, options),
    isEnough: (events) => events.at(-1)?.type === "run.succeeded",
  });
  isSame(client, "I3 a stream has the history", seen, await client.history(id));
}

function isSame(
  client: Client,
  law: string,
  seen: readonly HistoryEvent[],
  told: readonly HistoryEvent[],
): void {
  const brief = ({ index, type, atMs }: HistoryEvent): string => `${index} ${type} ${atMs}`;
  same(client, law, seen.map(brief), told.map(brief), "events");
  const indexes = seen.map(({ index }) => index);
  same(client, law, indexes, Array.from(indexes.keys()), "indexes");
}

// ---------------------------------------------------------------- the bucket as a whole

/**
 * Beside hosts that serve, crash and collect, `spore verify` finds nothing wrong, and a copy has what
 * was told before it was begun.
 */
export const exporting: Job = async (client, id) => {
  const { random, world } = client;
  const law = "J-export: a copy has what was told";
  const counter = `${id}-c`;
  const pause = (): Promise<void> => world.sleep(random.latency(0.3));
  const store = plainStore(world.bucket.objects, pause);
  for (let round = 1, rounds = random.between(1, 3); round <= rounds; round += 1) {
    const run = `${id}-${round}`;
    await client.start(run, "bank", [counter, random.between(1, 3)]);
    const seen = (await client.value(run)) as number[];
    const later = client.start(`${run}-l`, "bank", [counter, 3]);
    client.doing = `look at the bucket, round ${round}`;
    if (random.chance(0.5)) {
      const report = await verify(world, store);
      world.laws.check(report.isSound, "J-verify: the bucket is sound", damagesOf(report));
    } else {
      const copy = await copied(world, store);
      if (copy !== undefined) {
        const rows = await rowsIn(world, copy);
        world.count("copies");
        const head = rows.get(rowKeys.head(runKey(client.tenant, run)));
        same(client, law, head && (decode(head) as { status: string }).status, "SUCCESSFUL", run);
        const state = rows.get(rowKeys.state(actorKey(client.tenant, "Counter", counter)));
        const n = state === undefined ? 0 : (decode(state) as { n: number }).n;
        world.laws.check(n >= (seen.at(-1) ?? 0), law, `${counter} is ${n}, ${seen} was told`);
      }
    }
    await later;
    await client.value(`${run}-l`);
  }
};
