/** Processes that die, processes that come after them, and two at once on one folder. */
import { afterAll, beforeAll, expect, it } from "vitest";
import { createClient } from "../../client/index.ts";
import {
  folderOfTest,
  type Outside,
  putAway,
  type ServerProcess,
  seeded,
  startOutside,
  startProject,
  startServer,
  until,
} from "./kit.ts";
import { account, add, Counter, chain, Ledger, nap, one, waiter } from "./project.ts";

let outside: Outside;

beforeAll(async () => {
  outside = await startOutside();
});

afterAll(async () => {
  await putAway();
  await outside?.close();
});

/** The next server on the folder and port of the last one: clients find it by themselves. */
function restart(server: ServerProcess): Promise<ServerProcess> {
  return startServer({ folder: server.folder, port: server.port });
}

it("everything is there after a clean stop: runs, actors, sleepers, code", async () => {
  const first = await startProject({ folder: await folderOfTest() });
  expect(await first.client.run(add.step(100, one.step()), { id: "sum" })).toBe(101);
  const counter = await first.client.getOrCreate(Counter, "kept", 1);
  await counter.incr(41);
  const sleeper = await first.client.start(account.with(7), { id: "sleeper" });
  await sleeper.update("deposit", 3);
  const napper = await first.client.start(nap.with(1500), { id: "napper" });
  expect(await first.stop()).toEqual({ code: 0, signal: null });

  const second = await restart(first);
  const { client } = second;
  expect(await client.getOutput("sum")).toBe(101);
  expect(await client.actor(Counter, "kept").value()).toBe(42);
  expect(await client.handle("sleeper").query("balance")).toBe(10);
  await client.handle("sleeper").signal("close");
  expect(await client.getOutput("sleeper")).toBe(10);
  expect(await client.getOutput<number>(napper.id)).toBeGreaterThanOrEqual(1500);
  await second.stop();
});

it("a run's image is restored in another process, with everything that it had in memory", async () => {
  const first = await startProject({ folder: await folderOfTest() });
  const run = await first.client.start(account.with(0), { id: "imaged" });
  for (let index = 0; index < 60; index++) await run.update("deposit", 1);
  const info = await run.info();
  expect(info.imageBytes).toBeGreaterThan(0);
  await first.kill();
  const second = await restart(first);
  expect(await second.client.handle("imaged").query("balance")).toBe(60);
  expect(await second.client.handle("imaged").update("deposit", 2)).toBe(62);
  await second.kill();
});

it("kill -9 again and again under load: what was acknowledged is true, nothing is done twice", async () => {
  const seed = Number(process.env.SPORE_SEED ?? 20261);
  const random = seeded(seed);
  const rounds = 4;
  outside.delayMs = 4;
  let server = await startProject({ folder: await folderOfTest() });
  const client = createClient({ url: server.url, attemptsMax: 60 });
  const counter = await client.getOrCreate(Counter, "survivor", 0);
  const calls: Promise<number>[] = [];
  const finished = new Set<string>();
  const chains: string[] = [];
  const acknowledged: string[] = [];
  const timer = setInterval(() => calls.push(counter.incr()), 5);
  try {
    for (let round = 0; round < rounds; round++) {
      const id = `chain_${round}`;
      const run = await client.start(chain.with(`${outside.url}/c${round}`, 40), { id });
      chains.push(run.id);
      const waiting = await client.start(waiter.with("go"), { id: `waiter_${round}` });
      await waiting.signal("go", round);
      acknowledged.push(waiting.id);
      const target = Math.floor(random() * 30) + 1;
      await until("the chain is at its place", () => outside.calls.has(`/c${round}/${target}`));
      for (const step of await run.steps()) {
        if (step.status === "SUCCESSFUL") finished.add(String(step.value));
      }
      await server.kill();
      server = await restart(server);
    }
  } finally {
    clearInterval(timer);
    outside.delayMs = 0;
  }
  const values = await Promise.all(calls);
  expect(values, `seed ${seed}`).toEqual(values.map((_, index) => index + 1));
  expect(await counter.value()).toBe(values.length);
  for (const id of chains) expect(await client.getOutput(id)).toBe(40);
  for (const [round, id] of acknowledged.entries()) expect(await client.getOutput(id)).toBe(round);
  const effects = [...outside.calls].filter(([path]) => path.startsWith("/c"));
  expect(effects).toHaveLength(rounds * 40);
  const repeated = effects.filter(([, count]) => count > 1).map(([path]) => path);
  expect(repeated.filter((path) => finished.has(path))).toEqual([]);
  // Each kill may have caught one call of each chain that was under way.
  expect(repeated.length).toBeLessThanOrEqual(rounds * rounds);
  await server.stop();
});

it("a second server on the folder serves it with the first one, and loses nothing", async () => {
  const first = await startProject({ folder: await folderOfTest() });
  const ledger = await first.client.getOrCreate(Ledger, "log");
  for (let index = 0; index < 10; index++) await ledger.note(`a${index}`);
  await first.client.start(waiter.with("go"), { id: "between" });

  const second = await startServer({ folder: first.folder });
  expect(await ledger.note("b")).toBe(11);
  expect(await second.client.actor(Ledger, "log").note("c")).toBe(12);
  expect(await ledger.all()).toEqual([
    ...Array.from({ length: 10 }, (_, index) => `a${index}`),
    "b",
    "c",
  ]);
  expect(await first.stop()).toEqual({ code: 0, signal: null });
  await second.client.handle("between").signal("go", "second");
  expect(await second.client.getOutput("between")).toBe("second");
  await second.stop();
});
