/**
 * Stories of one id: runs that replace each other under it, updates that are accepted now and
 * answered later, steps that are asked for by their names.
 */
import { decode, encode } from "../../guest/cbor.ts";
import type { Outcome } from "../../guest/protocol.ts";
import type { OutputResult } from "../../runtime/index.ts";
import { type Client, codeOf, forgiving, type Job, same } from "./clients.ts";

// ---------------------------------------------------------------- one after the other

/**
 * A start that replaces what is there, asked again and again or twice at once, replaces it once;
 * what is told afterwards is of the run that is there now.
 */
export const replacing: Job = async (client, id) => {
  const { random, world } = client;
  const generations = random.between(2, 5);
  for (let generation = 1; generation <= generations; generation += 1) {
    const how = random.pick(["terminate", "terminate", "start"] as const);
    if (how === "start" && generation > 1) await end(client, id, generation - 1);
    await replace(client, id, { generation, how });
    await told(client, id, generation);
    if (random.chance(0.3)) await world.sleep(random.latency(random.pick([20, 400])));
  }
  await end(client, id, generations);
  const wanted = [generations, `first ${generations}`, "last"];
  same(client, "J-output", await client.value(id), wanted, id);
  const events = await client.history(id);
  const counted = (type: string): number => events.filter((each) => each.type === type).length;
  same(client, "I4 signals once and in order", counted("signal.received"), 2, id);
  same(client, "I3 history begins once", counted("run.started"), 1, id);
};

const law = "J-replace: the same request replaces once";

async function replace(
  client: Client,
  id: string,
  by: { readonly generation: number; readonly how: "terminate" | "start" },
): Promise<void> {
  const { random, world } = client;
  const { generation, how: ifExists } = by;
  const value = encode(`first ${generation}`);
  const signal = { name: "item", value, messageId: `${id}-m${generation}` };
  const args = encode([generation]);
  const request = { id, workflow: "successor", args, ifExists, signal };
  const ask = (): Promise<unknown> =>
    client.ask(`${ifExists} ${id} by ${generation}`, (tenant) => tenant.startRun(request));
  await Promise.all(random.chance(0.3) ? [ask(), ask()] : [ask()]);
  const starts = world.laws.startsOf(`${client.tenant}/r/${id}`);
  same(client, law, starts, generation, `starts of ${id}`);
}

/** Nothing of those before is told any more. */
async function told(client: Client, id: string, generation: number): Promise<void> {
  const stale = "I2 no read is older than what was told";
  for (const name of ["stage", "generation"]) {
    const published = await client.ask(`published ${id}`, (tenant) =>
      tenant.published(id, name, { waitMs: client.random.pick([0, 0, 20_000]) }),
    );
    const found = published.kind === "ready" ? decode(published.value) : generation;
    same(client, stale, found, generation, `${name} of ${id}`);
  }
  const output = await client.ask(`output ${id}`, (tenant) => tenant.output(id));
  same(client, stale, output.kind, "pending", `${id}, generation ${generation}`);
  const [started] = await client.history(id);
  same(client, stale, started?.type, "run.started", id);
}

async function end(client: Client, id: string, generation: number): Promise<void> {
  await client.signal(id, "item", "last", `${id}-e${generation}`);
  await client.outcome(id);
}

// ---------------------------------------------------------------- updates

/** Whoever was told that an update is accepted is told of its end, however the run ends. */
export const accepting: Job = async (client, id) => {
  const { random, world } = client;
  await client.start(id, "clerk", []);
  const isTerminated = random.chance(0.5);
  const updates = Array.from({ length: random.between(1, 5) }, (_, i) => ({
    updateId: `${id}-u${i}`,
    item: random.chance(0.2) ? `bad${i}` : `item${i}`,
    ms: random.pick([0, 5, 300, 20_000]),
  }));
  const asked = updates.map((update) => accepted(client, id, update));
  if (random.chance(0.5)) await Promise.all(asked);
  if (isTerminated) {
    await world.sleep(random.latency(random.pick([1, 30, 500])));
    await client.ask(`terminate ${id}`, (tenant) =>
      forgiving(tenant.terminateRun(id, "enough"), "run-closed"),
    );
  } else {
    await Promise.all(asked);
    await client.signal(id, "close", true, `${id}-close`);
  }
  const outcomes = await Promise.all(asked);
  const ended = await client.outcome(id);
  same(client, "J-status", ended.kind, isTerminated ? "error" : "ok", id);
  if (ended.kind !== "ok") return;
  const done = decode(ended.value) as string[];
  const wanted = updates.filter((_, i) => outcomes[i]?.kind === "ok").map(({ item }) => item);
  same(client, "I4 updates once", done.toSorted(), wanted.toSorted(), id);
};

/** Its outcome; undefined if the run was closed before the update came to it. */
async function accepted(
  client: Client,
  id: string,
  update: { readonly updateId: string; readonly item: string; readonly ms: number },
): Promise<Outcome | undefined> {
  const { updateId, item, ms } = update;
  const args = encode([item, ms]);
  const toldOf = "J-update: what was accepted is answered";
  try {
    for (;;) {
      const first = await client.ask(`update ${updateId}`, (tenant) =>
        tenant.updateRun(id, "work", args, { updateId, waitMs: 20_000, until: "accepted" }),
      );
      const waitMs = client.random.pick([1000, 30_000]);
      const outcome =
        first.kind === "done"
          ? first.outcome
          : await client.askUntilDone(
              { name: `update ${updateId} is over`, waitMs },
              (tenant) => tenant.updateRun(id, "work", args, { updateId, waitMs }),
              (result) => (result.kind === "done" ? result.outcome : undefined),
            );
      const code = outcome.kind === "error" ? outcome.error.code : "ok";
      // Before its first activation the run has no handler yet; and remembers that it said so.
      if (code === "update-not-found" && first.kind === "done") return outcome;
      const wanted = item.startsWith("bad") ? ["update-rejected"] : ["ok"];
      const isFine = [...wanted, "run-closed"].includes(String(code));
      client.world.laws.check(isFine, toldOf, `${updateId} ${item}: ${code}`);
      return outcome;
    }
  } catch (error) {
    if (codeOf(error) === "run-closed") return undefined;
    throw error;
  }
}

// ---------------------------------------------------------------- steps by name

/** What a step ended with is what the run was told; of one that never comes nobody waits for ever. */
export const stepping: Job = async (client, id) => {
  if (client.random.chance(0.4)) return unfolding(client, id);
  const { ledger } = client.world;
  ledger.off.add(id);
  await client.start(id, "various", [id]);
  const known = "J-step: its output by its name";
  same(client, known, await stepValue(client, id, "add"), 3, `add of ${id}`);
  same(client, known, await stepValue(client, id, "caught"), "no", `caught of ${id}`);
  same(client, known, await stepValue(client, id, "guarded"), "status 503", `guarded of ${id}`);
  await client.viewUntil(id, ({ status }) => status === "FAILED");
  same(client, known, await codeOfStep(client, id, "never"), "step-not-found", id);
  ledger.off.delete(id);
  await client.ask(`resume ${id}`, (tenant) => forgiving(tenant.resumeRun(id), "run-closed"));
  // It is tried again: what it failed of is no answer any more.
  same(client, known, await stepValue(client, id, "guarded"), id, `guarded of ${id}`);
  same(client, "J-output", await client.value(id), [3, "caught", id], id);
  same(client, known, await stepValue(client, id, "guarded"), id, `guarded of ${id}`);
};

/** A step that goes on as a graph has the graph's output. */
async function unfolding(client: Client, id: string): Promise<void> {
  const n = client.random.between(1, 6);
  const root = encode({ $step: "fib", args: [n] });
  await client.ask(`start ${id}`, (tenant) => tenant.startRun({ id, root }));
  const wanted = [0, 1, 1, 2, 3, 5, 8][n];
  const known = "J-step: its output by its name";
  same(client, known, await stepValue(client, id, "fib"), wanted, `fib ${n} of ${id}`);
  same(client, "J-output", await client.value(id), wanted, id);
  const steps = await client.ask(`steps ${id}`, (tenant) => tenant.steps(id));
  for (const { step, status } of steps) {
    const isEnded = status === "SUCCESSFUL" || status === "CONTINUED";
    client.world.laws.check(isEnded, known, `${step} of ${id} is ${status}`);
    const found = await codeOfStep(client, id, step);
    same(client, known, found, "ready", `${step} of ${id}`);
  }
}

/** Its value, or the message of its error. */
async function stepValue(client: Client, id: string, step: string): Promise<unknown> {
  const waitMs = client.random.pick([200, 20_000]);
  const outcome = await client.askUntilDone(
    { name: `output ${step} of ${id}`, waitMs },
    (tenant) => tenant.output(id, { step, waitMs }),
    (result) => (result.kind === "ready" ? result.outcome : undefined),
  );
  return outcome.kind === "ok" ? decode(outcome.value) : outcome.error.message;
}

async function codeOfStep(client: Client, id: string, step: string): Promise<string> {
  try {
    const found: OutputResult = await client.ask(`output ${step} of ${id}`, (tenant) =>
      tenant.output(id, { step }),
    );
    return found.kind;
  } catch (error) {
    return codeOf(error);
  }
}
