/**
 * Stories of what is told as it happens: events that are decided or revoked while a run awaits
 * them, and histories that are followed from host to host.
 */
import { decode, encode } from "../../guest/cbor.ts";
import type { HistoryEvent, TenantHost } from "../../runtime/index.ts";
import { type Client, codeOf, type Job, same } from "./clients.ts";
import type { World } from "./world.ts";

// ---------------------------------------------------------------- decided, or revoked

const law = "J-event: it is decided or revoked, once";

/** Each event comes out as whoever was answered first said, and only that. */
export const judging: Job = async (client, id) => {
  const { random } = client;
  const count = random.between(1, 4);
  await client.start(id, "jury", [count, random.chance(0.5), []]);
  const said: string[] = [];
  const tokens: string[] = [];
  for (let n = 0; n < count; n += 1) {
    const token = await tokenOf(client, id, n);
    tokens.push(token);
    said.push(await oneVerdict(client, id, { token, n }));
  }
  same(client, law, await client.value(id), said, id);
  same(client, law, await openNames(client, id), [], `${id} is over`);
  for (const [n, token] of tokens.entries()) {
    const seen = said[n] === "revoked" ? "event-not-found" : "true";
    same(client, law, await isDecided(client, token), seen, `${id}, event ${n}`);
    if (seen !== "true") continue;
    same(client, law, await decide(client, token, said[n] ?? ""), "told", `${id}, event ${n}`);
    same(client, law, await decide(client, token, "other"), "event-decided", `${id}, event ${n}`);
  }
};

/** The token of its event number `n`, once it awaits that. */
async function tokenOf(client: Client, id: string, n: number): Promise<string> {
  for (;;) {
    const found = await client.ask(`token ${n} of ${id}`, (tenant) =>
      tenant.published(id, "token", { waitMs: 1000 }),
    );
    if (found.kind === "ready") {
      const [number, token] = decode(found.value) as [number, string];
      if (number === n) return token;
    }
    await client.world.sleep(client.random.latency(50));
  }
}

async function oneVerdict(
  client: Client,
  id: string,
  of: { readonly token: string; readonly n: number },
): Promise<string> {
  const { token, n } = of;
  const { random } = client;
  same(client, law, await isDecided(client, token), "false", `${id}, event ${n}`);
  const event = await eventOf(client, id);
  const doing = random.pick([["yes"], ["yes", "no"], ["yes", "revoked"], ["revoked"]]);
  const answers = await Promise.all(
    doing.map((how) =>
      how === "revoked" ? revoke(client, id, event) : decide(client, token, how),
    ),
  );
  const told = doing.filter((_, i) => answers[i] === "told");
  client.world.laws.check(told.length <= 1, law, `${id}, event ${n}: ${doing} is told ${answers}`);
  // Whose first request was heard, and its answer lost, finds the event gone.
  const isRevoked = doing.includes("revoked") && answers.includes("event-not-found");
  const [winner] = told.length > 0 || !isRevoked ? told : ["revoked"];
  if (winner === undefined) client.world.laws.violate(law, `${id}: ${doing} is told ${answers}`);
  const after = winner === "revoked" ? "event-not-found" : "true";
  same(client, law, await isDecided(client, token), after, `${id}, event ${n} is ${winner}`);
  return String(winner);
}

async function openNames(client: Client, id: string): Promise<string[]> {
  const open = await client.ask(`open events of ${id}`, (tenant) => tenant.openEvents(id));
  return open.map(({ name }) => name);
}

async function eventOf(client: Client, id: string): Promise<number> {
  const open = await client.ask(`open events of ${id}`, (tenant) => tenant.openEvents(id));
  same(
    client,
    law,
    open.map(({ name }) => name),
    ["verdict"],
    `${id} awaits one`,
  );
  return open[0]?.event ?? -1;
}

async function decide(client: Client, token: string, value: string): Promise<string> {
  const outcome = { kind: "ok", value: encode(value) } as const;
  try {
    await client.ask(`decide ${value}`, (_tenant, _attempt, host) =>
      host.decideEvent(token, outcome),
    );
    return "told";
  } catch (error) {
    return codeOf(error);
  }
}

async function revoke(client: Client, id: string, event: number): Promise<string> {
  try {
    await client.ask(`revoke ${event} of ${id}`, (tenant) => tenant.revokeEvent(id, event));
    return "told";
  } catch (error) {
    return codeOf(error);
  }
}

async function isDecided(client: Client, token: string): Promise<string> {
  try {
    const view = await client.ask("event?", (_tenant, _attempt, host) => host.event(token));
    return String(view.isDecided);
  } catch (error) {
    return codeOf(error);
  }
}

// ---------------------------------------------------------------- followed

interface Stream {
  readonly events: readonly HistoryEvent[];
  readonly isOver: boolean;
}

/** Who follows a run gets each event once, in order, up to its end, from whatever host is there. */
export const streaming: Job = async (client, id) => {
  const { random, world } = client;
  const n = random.between(1, 3);
  const isStarted = client.start(id, "mixed", [n]);
  if (random.chance(0.5)) await isStarted;
  const events: HistoryEvent[] = [];
  for (;;) {
    const stream = await followed(client, id, events.length);
    events.push(...(stream?.events ?? []));
    if (stream?.isOver === true) break;
    await world.sleep(random.latency(20));
  }
  await isStarted;
  same(client, "J-follow: the stream ends with the run", events.at(-1)?.type, "run.succeeded", id);
  const told = events.map(({ index, type }) => [index, type]);
  const kept = (await client.history(id)).map(({ index, type }) => [index, type]);
  same(client, "J-follow: each event once, in order", told, kept, id);
};

/** Undefined before the run is there. */
async function followed(client: Client, id: string, from: number): Promise<Stream | undefined> {
  const { random, world } = client;
  const most = random.pick([1, 3, 1000]);
  const waitMs = random.pick([5, 500, 15_000]);
  try {
    return await client.ask(`follow ${id} from ${from}`, (tenant) =>
      streamed(world, tenant, { id, from, most, waitMs }),
    );
  } catch (error) {
    if (codeOf(error) === "run-not-found") return undefined;
    throw error;
  }
}

async function streamed(
  world: World,
  tenant: TenantHost,
  of: {
    readonly id: string;
    readonly from: number;
    readonly most: number;
    readonly waitMs: number;
  },
): Promise<Stream> {
  const abort = new AbortController();
  const cancel = world.at(of.waitMs, () => abort.abort());
  const events: HistoryEvent[] = [];
  try {
    for await (const event of tenant.events(of.id, { from: of.from, signal: abort.signal })) {
      events.push(event);
      if (events.length === of.most) return { events, isOver: false };
    }
    return { events, isOver: !abort.signal.aborted };
  } finally {
    cancel();
  }
}
