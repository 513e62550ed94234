/**
 * Runs that begin later, and runs that are deleted by themselves: neither early nor by a time that
 * was another run's, under the same id.
 */
import { encode } from "../../guest/cbor.ts";
import { runKey } from "../../runtime/ids.ts";
import type { StartRequest } from "../../runtime/index.ts";
import { type Client, forgiving, type Job, same } from "./clients.ts";
import { epochMs } from "./world.ts";

const dayMs = 86_400_000;
const own = "J-times are a run's own";
const early = "I9 timers are never early";

function clientMs({ world }: Client): number {
  return epochMs + Math.floor(world.nowMs);
}

function startOf(
  client: Client,
  request: StartRequest & { readonly id: string },
): Promise<unknown> {
  return client.ask(`start ${request.id}`, (tenant) => tenant.startRun(request));
}

/** Nothing of it is left: neither its rows nor what would be done at its times. */
function nothingLeft(client: Client, id: string): void {
  const { laws } = client.world;
  const key = runKey(client.tenant, id);
  same(client, "J-delete frees everything", laws.leftOf(key), [], id);
}

/** Until it has deleted itself: who reads it may hear of that before its last rows are gone. */
async function gone(client: Client, id: string): Promise<void> {
  const { laws } = client.world;
  for (let pauseMs = 500; ; pauseMs = Math.min(pauseMs * 1.5, 60_000)) {
    const view = await client.ask(`is ${id} gone?`, (tenant) =>
      forgiving(tenant.getRun(id), "run-not-found"),
    );
    if (view === undefined && laws.leftOf(runKey(client.tenant, id)).length === 0) return;
    await client.world.sleep(client.random.latency(pauseMs));
  }
}

/** A closed run stays as long as was asked for, and is gone then, with all that it had. */
export const expiring: Job = async (client, id) => {
  const { random, world } = client;
  const retentionMs = random.pick([0, 1, 700, 20_000]);
  const startAtMs = random.chance(0.3) ? clientMs(client) + random.pick([10, 2000]) : undefined;
  const args = encode([random.pick([0, 200, 3000]), random.pick(["", "fail"])]);
  await startOf(client, { id, workflow: "lasting", args, retentionMs, startAtMs });
  if (random.chance(0.3)) {
    await client.ask(`cancel ${id}`, async (tenant) => {
      const view = await forgiving(tenant.getRun(id), "run-not-found");
      if (view !== undefined && view.closedAtMs === undefined) {
        await forgiving(forgiving(tenant.cancelRun(id, "enough"), "run-closed"), "run-not-found");
      }
    });
  }
  const seen = await client.ask(`see ${id}`, (tenant) =>
    forgiving(tenant.getRun(id), "run-not-found"),
  );
  if (seen?.closedAtMs !== undefined) {
    same(client, own, seen.expiresAtMs, seen.closedAtMs + retentionMs, id);
  }
  await gone(client, id);
  world.count("expired");
  // Of the next one under the id, no time of the first is a time.
  await startOf(client, { id, workflow: "collector", args: encode([1]), retentionMs: 400 * dayMs });
  await client.signal(id, "item", "again", `${id}-again`);
  same(client, "J-reuse", await client.value(id), ["again"], id);
  await world.sleep(random.pick([1000, retentionMs + 10_000]));
  same(client, own, (await client.view(id)).status, "SUCCESSFUL", id);
};

/** The deadline and the delay of a run that is gone are not those of the next under its id. */
export const succeeding: Job = async (client, id) => {
  const { random, world } = client;
  const lengthMs = random.pick([500, 3000, 20_000]);
  const isLate = random.chance(0.5);
  const firstMs = clientMs(client) + lengthMs;
  const times = isLate ? { deadlineMs: firstMs } : { startAtMs: firstMs };
  await startOf(client, { id, workflow: "cancellable", args: encode([]), ...times });
  await world.sleep(random.latency(random.pick([10, 200])));
  if (random.chance(0.5)) {
    await client.ask(`terminate ${id}`, (tenant) =>
      forgiving(tenant.terminateRun(id, "over"), "run-closed"),
    );
    await client.ask(
      `delete ${id}`,
      (tenant) => forgiving(tenant.deleteRun(id), "run-not-found"),
      () => nothingLeft(client, id),
    );
  }
  // Far enough behind the first time to be seen apart from it by any clock that wasn't set.
  const nextMs = firstMs + random.pick([10_000, 60_000]);
  const next = isLate ? { deadlineMs: nextMs } : { startAtMs: nextMs };
  const workflow = isLate ? "cancellable" : "timed";
  await startOf(client, { id, workflow, args: encode([]), ifExists: "terminate", ...next });
  if (!isLate) {
    const begunMs = Number(await client.value(id));
    world.laws.check(begunMs >= nextMs, early, `${id} begins ${nextMs - begunMs} ms early`);
    return;
  }
  const outcome = await client.outcome(id);
  same(client, own, outcome.kind === "error" && outcome.error.name, "TimeoutError", id);
  const { closedAtMs = 0 } = await client.view(id);
  world.laws.check(closedAtMs >= nextMs, early, `${id} ends ${nextMs - closedAtMs} ms early`);
};

/** What comes to a run before its time is there when it begins, in its order, once. */
export const awaiting: Job = async (client, id) => {
  const { random, world } = client;
  const count = random.between(1, 4);
  const startAtMs = clientMs(client) + random.pick([300, 3000, 30_000]);
  const args = encode([count]);
  await startOf(client, { id, workflow: "collector", args, startAtMs });
  for (let i = 1; i <= count; i += 1) {
    await client.signal(id, "item", `me:${i}`, `${id}-m${i}`);
    if (random.chance(0.3)) {
      await client.ask(`pause ${id}`, (tenant) => forgiving(tenant.pauseRun(id), "run-closed"));
      await world.sleep(random.latency(random.pick([10, 1000])));
      await client.ask(`resume ${id}`, (tenant) => forgiving(tenant.resumeRun(id), "run-closed"));
    }
  }
  const wanted = Array.from({ length: count }, (_, i) => `me:${i + 1}`);
  same(client, "I4 signals once and in order", await client.value(id), wanted, id);
  const due = (await client.history(id)).filter(({ type }) => type === "run.due");
  world.laws.check(due.length <= 1, "J-times are a run's own", `${id} is due ${due.length} times`);
};
