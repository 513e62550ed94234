/**
 * What clients do with actors that wait for each other, that are reminded over and over, and
 * that move from one component to the next.
 */
import { decode } from "../../guest/cbor.ts";
import type { ActorView } from "../../runtime/index.ts";
import { type Client, codeOf, forgiving, type Job, same } from "./clients.ts";

// ---------------------------------------------------------------- calls in circles

const oneOfACircle = "J-knots: one of a circle is refused";
const noneWithout = "J-knots: none is refused without a circle";

/** Of calls that wait for each other one is refused, and none of those that don't. */
export const knotting: Job = async (client, id) => {
  const { random } = client;
  const key = (name: string): string => `${id}-${name}`;
  const runs = `/${random.between(1, 4)}`;
  const asked = async (type: string, name: string, ...path: string[]): Promise<string> => {
    const options = { callId: `${id}-${name}` };
    try {
      await client.call(type, key(name), "ask", path, options);
      return "ok";
    } catch (error) {
      return codeOf(error);
    }
  };
  switch (random.below(4)) {
    case 0: {
      const names = ["a", "b", "c", "d"].slice(0, random.between(2, 4));
      const next = (i: number): string => key(names[(i + 1) % names.length] ?? "");
      const results = await Promise.all(
        names.map((name, i) =>
          random.chance(0.3) ? asked("Knot", name, "/1", next(i)) : asked("Knot", name, next(i)),
        ),
      );
      const refused = results.filter((each) => each !== "ok");
      client.world.laws.check(refused.length <= 1, oneOfACircle, `${id}: ${results}`);
      return;
    }
    case 1:
      // A run's failure is the error of who waits for it, with the deadlock as its cause.
      same(client, oneOfACircle, await asked("Knot", "a", runs, key("a")), "child-failed", id);
      return;
    case 2: {
      const results = await Promise.all([
        asked("FriendlyKnot", "f", runs, `*${key("f")}`),
        asked("FriendlyKnot", "g", key("h"), runs, `*${key("g")}`, key("i")),
      ]);
      same(client, noneWithout, results, ["ok", "ok"], id);
      return;
    }
    default: {
      const callers = ["a", "b", "c"].map((name) => asked("Knot", name, key("hub"), key("end")));
      const results = await Promise.all([...callers, asked("Knot", "hub", runs, key("end"))]);
      same(client, noneWithout, new Set(results).size, 1, `${id}: ${results}`);
      same(client, noneWithout, results[0], "ok", id);
    }
  }
};

// ---------------------------------------------------------------- reminders

/** Each time comes at most once, in order, never early; what is left out was late already. */
export const ringing: Job = async (client, id) => {
  const { random, world } = client;
  const key = `${id}-tower`;
  const everyMs = random.pick([1000, 1700, 20_000]);
  const wanted = random.between(2, 5);
  const begunMs = Number(
    await client.call("Tower", key, "begin", [everyMs], { callId: `${id}-b` }),
  );
  let rings: (readonly [number, number])[] = [];
  for (let pauseMs = everyMs; rings.length < wanted; pauseMs = Math.min(pauseMs * 2, 60_000)) {
    await world.sleep(random.latency(pauseMs));
    rings = (await client.call("Tower", key, "list", [])) as typeof rings;
  }
  await client.call("Tower", key, "end", [], { callId: `${id}-e` });
  const law = "J-reminders: each time once, in order";
  let before = begunMs;
  for (const [dueMs, atMs] of rings) {
    world.laws.check(dueMs > before, law, `${key}: ${dueMs} after ${before}`);
    same(client, law, (dueMs - begunMs) % everyMs, 0, `${key}: ${dueMs} is in its rhythm`);
    world.laws.check(atMs >= dueMs, "I9 timers are never early", `${key}: ${dueMs - atMs} ms`);
    before = dueMs;
  }
  if (world.counts.has("clock jumps") || world.counts.has("clock drifts")) return;
  rings.forEach(([dueMs], i) => {
    const [earlierMs, cameMs] = rings[i - 1] ?? [begunMs, begunMs];
    // Times that are left out had passed before the call for the earlier one was begun.
    const leftOut = dueMs - earlierMs > everyMs;
    const wasLate = cameMs >= dueMs - everyMs;
    world.laws.check(!leftOut || wasLate, law, `${key}: nothing between ${earlierMs} and ${dueMs}`);
  });
};

// ---------------------------------------------------------------- upgrades

const law = "J-upgrades: state and component move together";
/** Longer than a host goes by what it knows of deployments. */
const knownMs = 6000;

type Cause = "call" | "run" | "reminder" | "bulk";

/** State and component change together, whatever causes it; a failed upgrade changes neither. */
export const upgrading: Job = async (client, id) => {
  const { random, world } = client;
  const nomad = new NomadStory(client, id);
  await nomad.add();
  for (let round = 1, rounds = random.between(1, 3); round <= rounds; round += 1) {
    const isStuck = random.chance(0.3);
    await nomad.stick(isStuck);
    const { component: from } = await nomad.view();
    const component = await nomad.deploy(round);
    const current = await nomad.current();
    await world.sleep(knownMs);
    const cause = random.pick<Cause>(["call", "run", "reminder", "bulk"]);
    await nomad.cause(cause, component);
    await nomad.add();
    const { component: to } = await nomad.view();
    const isStable = current === (await nomad.current()) && !world.counts.has("clock jumps");
    if (isStuck) same(client, law, to, from, `${id} is stuck`);
    else if (isStable) same(client, law, to, current, `${id} after a ${cause}`);
    if (!isStuck && cause === "call" && random.chance(0.5)) await nomad.rollBack();
  }
  await nomad.audit();
};

/** One nomad, and what must be true of it by what was answered. */
class NomadStory {
  readonly #client: Client;
  readonly #id: string;
  readonly #key: string;
  #n = 0;
  #moved = 0;
  /** Count before the call that found it moved. */
  #nBeforeMove = 0;
  #calls = 0;

  constructor(client: Client, id: string) {
    this.#client = client;
    this.#id = id;
    this.#key = `${id}-nomad`;
  }

  #call(method: string, ...args: unknown[]): Promise<unknown> {
    this.#calls += 1;
    const callId = `${this.#id}-${this.#calls}`;
    return this.#client.call("Nomad", this.#key, method, args, { callId });
  }

  async add(): Promise<void> {
    this.#counted((await this.#call("add")) as [number, number]);
  }

  #counted([n, moved]: readonly [n: number, moved: number]): void {
    same(this.#client, "I4 calls once and in order", n, this.#n + 1, this.#key);
    if (moved !== this.#moved) this.#nBeforeMove = this.#n;
    this.#n = n;
    this.#moved = moved;
  }

  async stick(isStuck: boolean): Promise<void> {
    await this.#call("stick", isStuck);
  }

  view(): Promise<ActorView> {
    return this.#client.ask(`view ${this.#key}`, (tenant) => tenant.getActor("Nomad", this.#key));
  }

  async deploy(round: number): Promise<string> {
    const code = `export {}; // ${this.#id} ${round}`;
    const { id } = await this.#client.ask(`deploy ${code}`, (tenant) =>
      tenant.deploy({ kind: "javascript", code }),
    );
    return id;
  }

  async current(): Promise<string | undefined> {
    return (await this.#client.ask("current?", (tenant) => tenant.currentComponent()))?.id;
  }

  /** Something that begins a turn after a deployment. */
  async cause(cause: Cause, component: string): Promise<void> {
    const client = this.#client;
    const key = this.#key;
    if (cause === "run") {
      const runId = `${this.#id}-v${this.#calls}`;
      await client.start(runId, "visit", [key]);
      this.#counted((await client.value(runId)) as [number, number]);
    } else if (cause === "reminder") {
      await this.#call("remember", client.random.pick([1, 300]));
      await this.#until(({ reminders, busy, mailbox }) => {
        return reminders.length === 0 && !busy && mailbox === 0;
      });
      this.#n += 1;
      this.#moved = await this.#movedNow();
    } else if (cause === "bulk") {
      await client.ask(`upgrade ${key}`, (tenant) =>
        tenant.upgradeActors({ type: "Nomad", keyPrefix: key, component }),
      );
      await this.#until(({ busy, mailbox }) => !busy && mailbox === 0);
      this.#moved = await this.#movedNow();
    }
  }

  async #until(fits: (view: ActorView) => boolean): Promise<void> {
    // A host whose clock was hours ahead may have set the time.
    for (let pauseMs = 100; !fits(await this.view()); pauseMs = Math.min(pauseMs * 2, 60_000)) {
      await this.#client.world.sleep(pauseMs);
    }
  }

  async #movedNow(): Promise<number> {
    const { state } = await this.#client.ask(`state ${this.#key}`, (tenant) =>
      tenant.actorState("Nomad", this.#key),
    );
    return (decode(state) as { moved: number }).moved;
  }

  /** Back to what it was before it moved, with what was counted until then. */
  async rollBack(): Promise<void> {
    const client = this.#client;
    const before = await this.view();
    if (before.previousComponent === undefined) return;
    const after = await client.ask(`roll back ${this.#key}`, async (tenant, attempt) => {
      const code = attempt === 1 ? "none" : "actor-not-found";
      return forgiving(tenant.rollBackActor("Nomad", this.#key), code);
    });
    same(
      client,
      law,
      after?.component ?? before.previousComponent,
      before.previousComponent,
      this.#key,
    );
    this.#n = this.#nBeforeMove;
    this.#moved -= 1;
    same(client, law, await this.#movedNow(), this.#moved, `${this.#key} is back`);
  }

  async audit(): Promise<void> {
    const client = this.#client;
    const key = this.#key;
    same(client, law, await client.call("Nomad", key, "value", []), this.#n, key);
    const moved = await this.#movedNow();
    const events = await client.ask(`history ${key}`, (tenant) =>
      tenant.actorHistory("Nomad", key, { limit: 1000 }),
    );
    const count = (type: string): number => events.filter((each) => each.type === type).length;
    same(client, law, count("actor.upgraded") - count("actor.rolled-back"), moved, key);
  }
}
