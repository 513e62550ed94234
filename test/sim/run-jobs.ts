/**
 * What clients do with runs that are made of other runs, that move to other code, and that undo
 * what they have done.
 */
import type { HistoryEvent } from "../../runtime/index.ts";
import { type Client, codeOf, forgiving, isFault, type Job, same } from "./clients.ts";

const forked = "J-fork: a fork does nothing of its past again";

/** Steps in the order in which they began. */
function begun(events: readonly HistoryEvent[]): string[] {
  const steps = events
    .filter(({ type, data }) => type === "step.started" && data["attempt"] === 1)
    .map(({ data }) => String(data["step"]));
  return [...new Set(steps)];
}

async function fork(client: Client, id: string, step: string, forkId: string): Promise<boolean> {
  try {
    await client.ask(`fork ${id} before ${step}`, (tenant) =>
      tenant.forkRun(id, { step, id: forkId }),
    );
    return true;
  } catch (error) {
    if (codeOf(error) === "step-not-found" || isFault(codeOf(error))) return false;
    throw error;
  }
}

/** Clocks that were set may take hours: asked less and less often, but in time for the quiet. */
const forkPauseMsMax = 60_000;

/** Asks until the step has begun. */
async function forkOnceBegun(
  client: Client,
  id: string,
  step: string,
  forkId: string,
): Promise<void> {
  for (let pauseMs = 50; !(await fork(client, id, step, forkId)); ) {
    await client.world.sleep(client.random.latency(pauseMs));
    pauseMs = Math.min(pauseMs * 1.5, forkPauseMsMax);
  }
}

/** Effects before the step are those of the run, the others those of the fork. */
export const forking: Job = async (client, id) => {
  const { random, world } = client;
  const n = random.between(1, 3);
  await client.start(id, "mixed", [n]);
  const isEarly = random.chance(0.5);
  if (!isEarly) await client.value(id);
  // The one behind these begins while the last of them may still be tried again.
  const at = random.below(n + 1);
  const step = at === 0 ? "effect" : `effect_${at}`;
  const forkId = `${id}-f`;
  await forkOnceBegun(client, id, step, forkId);
  const output = (await client.value(forkId)) as unknown[] | undefined;
  const owners = Array.from({ length: n + 2 }, (_, i) => (i < at ? id : forkId));
  const wanted = owners.map((owner, i) => `${owner}/1/effect${i === 0 ? "" : `_${i}`}`);
  same(client, forked, output, [...wanted, 2, 5], `${forkId} before ${step}`);
  for (const key of world.ledger.performed.keys()) {
    const [, name] = key.match(new RegExp(`^${forkId}/1/(effect[_\\d]*)#`)) ?? [];
    if (name === undefined) continue;
    const index = name === "effect" ? 0 : Number(name.slice(7));
    world.laws.check(index >= at, forked, `${forkId} performed ${name}, it parted at ${step}`);
  }
  await client.value(id);
  const [own, past] = [await client.history(forkId), await client.history(id)];
  same(
    client,
    "J-fork: indices are dense",
    own.map(({ index }) => index),
    own.map((_, i) => i),
    id,
  );
  // Beside each other, steps that fail in between may come in another order.
  same(client, "J-fork: the same steps", begun(own).toSorted(), begun(past).toSorted(), forkId);
  const view = await client.view(forkId);
  same(client, "J-fork: linked", view.forkedFrom, { id, step }, forkId);
  const linked = await client.viewUntil(id, ({ forks }) => forks.length > 0);
  same(client, "J-fork: linked", linked.forks, [forkId], id);
  if (random.chance(0.3)) await forkAgain(client, { id: forkId, n, owners, at });
};

/** A fork of a fork shares the past of both. */
async function forkAgain(
  client: Client,
  of: { readonly id: string; readonly n: number; readonly owners: string[]; readonly at: number },
): Promise<void> {
  const { id, n, owners } = of;
  const at = client.random.below(n + 1);
  const forkId = `${id}f`;
  const step = at === 0 ? "effect" : `effect_${at}`;
  await forkOnceBegun(client, id, step, forkId);
  const wanted = owners.map((owner, i) => {
    return `${i < at ? owner : forkId}/1/effect${i === 0 ? "" : `_${i}`}`;
  });
  same(client, forked, await client.value(forkId), [...wanted, 2, 5], forkId);
}

/** Signals of the past are the fork's, and those that came since lie in it, each once. */
export const branching: Job = async (client, id) => {
  const { random, world } = client;
  const count = random.between(2, 4);
  await client.start(id, "forkable", [count]);
  for (let i = 1; i <= count; i += 1) await client.signal(id, "item", `i${i}`, `${id}-m${i}`);
  const wanted = Array.from({ length: count }, (_, i) => `i${i + 1}`);
  const at = random.below(count);
  const step = at === 0 ? "add" : `add_${at}`;
  const forkId = `${id}-f`;
  await forkOnceBegun(client, id, step, forkId);
  // What the fork hasn't had yet is sent to it again; its own come behind those.
  for (let i = 1; i <= count; i += 1) {
    await forgiving(client.signal(forkId, "item", `f${i}`, `${id}-f${i}`), "run-closed");
  }
  same(client, "J-output", await client.value(id), wanted, id);
  const got = (await client.value(forkId)) as string[] | undefined;
  const known = got?.filter((item) => item.startsWith("i"));
  const law = "I4 signals once and in order";
  same(client, law, known, wanted.slice(0, known?.length), `${forkId} from ${id}`);
  world.laws.check((known?.length ?? 0) > at, law, `${forkId} lost what its past had: ${got}`);
  const own = got?.slice(known?.length);
  same(
    client,
    law,
    own,
    own?.map((_, i) => `f${i + 1}`),
    `${forkId} of its own`,
  );
  same(client, law, got?.length, count, forkId);
};

/** A run that moves while it works ends as it would have; another one does it once more. */
export const moving: Job = async (client, id) => {
  const { random, world } = client;
  const n = random.between(1, 3);
  await client.start(id, "mixed", [n]);
  if (random.chance(0.7)) await world.sleep(random.latency(60));
  const code = `export {}; // ${id}`;
  const { id: component } = await client.ask(`deploy ${id}`, (tenant) =>
    tenant.deploy({ kind: "javascript", code }),
  );
  try {
    const moved = await client.ask(`move ${id}`, (tenant) => tenant.moveRun(id, { component }));
    const isThere = moved.kind === "moved" || moved.kind === "same";
    world.laws.check(isThere, "J-move: the same code does the same", JSON.stringify(moved));
    same(client, "J-move: it has the component", (await client.view(id)).component, component, id);
  } catch (error) {
    // It was faster, or had no quiet moment.
    const isFine = codeOf(error) === "run-closed" || codeOf(error) === "run-active";
    if (!isFine && !isFault(codeOf(error))) throw error;
  }
  const names = ["effect", "effect_1", "effect_2", "effect_3", "effect_4"].slice(0, n + 2);
  const wanted = [...names.map((name) => `${id}/1/${name}`), 2, 5];
  same(client, "J-output", await client.value(id), wanted, id);
  const rerunId = `${id}-r`;
  const isReusing = random.chance(0.5);
  await client.ask(`rerun ${id}`, (tenant) =>
    tenant.rerunRun(id, { id: rerunId, reuse: isReusing }),
  );
  const owner = isReusing ? id : rerunId;
  const again = [...names.map((name) => `${owner}/1/${name}`), 2, 5];
  same(client, "J-rerun: reuses what it may", await client.value(rerunId), again, rerunId);
};

/** What is done is undone once, the last first, before the run is told to be over. */
export const undoing: Job = async (client, id) => {
  const { random, world } = client;
  const n = random.between(1, 4);
  const isCancelled = random.chance(0.5);
  await client.start(id, "undoable", [n, isCancelled]);
  if (isCancelled) {
    await world.sleep(random.latency(random.pick([1, 100, 400])));
    await client.ask(`cancel ${id}`, async (tenant) => {
      const { status } = await tenant.getRun(id);
      if (status === "RUNNING") await forgiving(tenant.cancelRun(id, "enough"), "run-closed");
    });
  }
  const outcome = await client.outcome(id);
  same(client, "J-outcome", outcome.kind, "error", id);
  const { status } = await client.view(id);
  same(client, "J-status", status, isCancelled ? "CANCELED" : "FAILED", id);
  const law = "J-undo: all that is done, once, the last first";
  const done: string[] = [];
  const undone: string[] = [];
  for (const { type, data } of await client.history(id)) {
    if (type !== "step.succeeded") continue;
    const { step, compensates } = data;
    if (compensates === undefined) done.push(String(step));
    else undone.push(String(compensates));
  }
  same(client, law, undone, done.toReversed(), id);
  if (!isCancelled) same(client, law, done.length, n, id);
  const performed = [...world.ledger.performed.keys()].filter((key) =>
    key.startsWith(`${id}/1/undo`),
  );
  world.laws.check(performed.length >= undone.length, law, `${id}: ${performed}, ${undone}`);
};
