/**
 * Stories of what comes to runs from outside: values that they publish, events by token over
 * several lives, signals and updates that come with the start.
 */
import { decode, encode } from "../../guest/cbor.ts";
import { type Client, codeOf, type Job, same } from "./clients.ts";

/** The latest value under a name, once there is one. */
async function published(client: Client, id: string, name: string): Promise<unknown> {
  for (;;) {
    const found = await client.ask(`published ${id} ${name}`, (tenant) =>
      tenant.published(id, name, { waitMs: 20_000 }),
    );
    if (found.kind === "ready") return decode(found.value);
  }
}

/** An event is decided once, whichever life awaits it; the first decision stays. */
export const approving: Job = async (client, id) => {
  const { random, world } = client;
  const lives = random.between(1, 3);
  await client.start(id, "approving", [lives, 1]);
  const token = String(await published(client, id, "token"));
  const law = "I4 events once, over all lives";
  const decide = async (value: string): Promise<string> => {
    try {
      const outcome = { kind: "ok", value: encode(value) } as const;
      const answer = await client.ask(`decide ${id} ${value}`, (_tenant, _attempt, host) =>
        host.decideEvent(token, outcome),
      );
      return answer.duplicate ? "again" : "decided";
    } catch (error) {
      return codeOf(error);
    }
  };
  const onward = async (): Promise<void> => {
    for (let life = 1; life < lives; life += 1) {
      await client.signal(id, "next", life, `${id}-n${life}`);
      await world.sleep(random.latency(200));
    }
  };
  const pauseMs = random.pick([0, 0, 50, 400, 3000]);
  const first = world.sleep(pauseMs).then(() => decide("yes"));
  if (random.chance(0.5)) await first;
  await onward();
  const answer = await first;
  world.laws.check(answer === "decided" || answer === "again", law, `${id}: ${answer}`);
  same(client, law, await client.value(id), "yes", id);
  same(client, law, await decide("yes"), "again", id);
  same(client, law, await decide("no"), "event-decided", id);
  const shown = "I3 the last published value stays";
  same(client, shown, await published(client, id, "said"), "yes", id);
  same(client, shown, await published(client, id, "life"), lives, id);
  same(client, law, String(await published(client, id, "token")), token, `${id} has one token`);
};

/** Whoever comes first starts the run; every message counts once, in its order. */
export const startingWith: Job = async (client, id) => {
  const count = client.random.between(1, 6);
  for (let i = 1; i <= count; i += 1) {
    const signal = { name: "item", value: encode(`me:${i}`), messageId: `${id}-m${i}` };
    const request = { id, workflow: "collector", args: encode([count]), signal };
    await client.ask(`start ${id} with ${i}`, (tenant) => tenant.startRun(request));
  }
  const wanted = Array.from({ length: count }, (_, i) => `me:${i + 1}`);
  const law = "I4 signals once and in order";
  same(client, law, await client.value(id), wanted, id);
  await updatingWith(client, `${id}-u`);
};

async function updatingWith(client: Client, id: string): Promise<void> {
  const count = client.random.between(1, 4);
  const lengths: unknown[] = [];
  for (let i = 1; i <= count; i += 1) {
    const update = { name: "push", args: encode([`item${i}`]), updateId: `${id}-u${i}` };
    const request = { id, workflow: "updatable", args: encode([]), update, waitMs: 20_000 };
    const outcome = await client.askUntilDone(
      { name: `start ${id} with update ${i}`, waitMs: request.waitMs },
      (tenant) => tenant.startRun(request),
      ({ update: told }) => (told?.kind === "done" ? told.outcome : undefined),
    );
    lengths.push(outcome.kind === "ok" ? decode(outcome.value) : outcome.error.message);
  }
  const wanted = Array.from({ length: count }, (_, i) => i + 1);
  same(client, "I4 updates once and in order", lengths, wanted, id);
  await client.signal(id, "close", true, `${id}-close`);
  const items = wanted.map((i) => `item${i}`);
  same(client, "I4 updates once and in order", await client.value(id), items, id);
}

/** Of a run that has to end by itself; what it is when it had far more time than that takes. */
async function statusAfter(client: Client, id: string): Promise<string> {
  const { world } = client;
  const endMs = world.nowMs + reachMs;
  for (;;) {
    const { status } = await client.view(id);
    if (status !== "RUNNING" || world.nowMs > endMs) return status;
    await world.sleep(client.random.latency(1000));
  }
}

/** Longer than the faults of a simulation last, and shorter than it waits for its clients. */
const reachMs = 120_000;

/** A cancellation reaches the children that go with their parent, and what they wait for. */
export const reaching: Job = async (client, id) => {
  const count = client.random.between(1, 4);
  await client.start(id, "ancestor", [count]);
  if (client.random.chance(0.7)) await client.world.sleep(client.random.latency(300));
  await client.ask(`cancel ${id}`, async (tenant) => {
    try {
      await tenant.cancelRun(id, "enough");
    } catch (error) {
      if (codeOf(error) !== "run-closed") throw error;
    }
  });
  const outcome = await client.outcome(id);
  same(client, "J-status", outcome.kind, "error", `${id} is cancelled`);
  for (let i = 0; i < count; i += 1) {
    const child = `${id}-c${i}`;
    const known = await client.ask(`child ${child}?`, (tenant) =>
      tenant.getRun(child).catch((error: unknown) => {
        if (codeOf(error) === "run-not-found") return undefined;
        throw error;
      }),
    );
    if (known === undefined) continue; // it was cancelled before it began any
    same(
      client,
      "J-cancel reaches everything",
      await statusAfter(client, child),
      "CANCELED",
      child,
    );
  }
};
