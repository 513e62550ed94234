/** Flow control against a real server process: limits, turns, refusals, and the server's death. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Client, RunStatus } from "../../client/index.ts";
import {
  ask,
  putAway,
  type ServerProcess,
  spore,
  startProject,
  startServer,
  until,
} from "./kit.ts";
import {
  breaks,
  brief,
  charge,
  family,
  free,
  full,
  held,
  nap,
  twoLives,
} from "./queues-project.ts";

const entry = "test/acceptance/queues-project.ts";
let server: ServerProcess;
let client: Client;

beforeAll(async () => {
  server = await startProject({}, entry);
  client = server.client;
});

afterAll(putAway);

async function statuses(of: Client, ids: readonly string[]): Promise<readonly RunStatus[]> {
  return Promise.all(ids.map((id) => of.getStatus(id)));
}

async function queueIs(of: Client, name: string, running: number, waiting: number): Promise<void> {
  await until(`${running} run and ${waiting} wait in ${name}`, async () => {
    const queue = await of.queues.get(name);
    return queue.running === running && queue.waiting === waiting;
  });
}

describe("a queue", () => {
  it("lets two run, keeps the others PENDING, and says what they wait for", async () => {
    const ids = ["h1", "h2", "h3", "h4"];
    for (const id of ids) await client.start(held.with(), { id });
    await queueIs(client, "pair", 2, 2);
    await until("the places are known", async () => {
      return (await statuses(client, ids)).join() === "RUNNING,RUNNING,PENDING,PENDING";
    });
    const { waiting } = await client.getMetadata("h4");
    expect(waiting?.for).toBe("a place in queue pair: 2 of 2 run, 1 wait before it");
    expect(await client.queues.get("pair")).toMatchObject({
      concurrency: 2,
      declared: true,
      running: 2,
      waiting: 2,
      next: [{ id: "h3", priority: 0 }, { id: "h4" }],
    });
    await client.handle("h2").signal("go", "two");
    expect(await client.handle("h2").result()).toBe("two");
    await until("the third begins", async () => (await client.getStatus("h3")) === "RUNNING");
    expect(await client.getStatus("h4")).toBe("PENDING");
    for (const id of ["h1", "h3", "h4"]) await client.handle(id).signal("go", id);
    expect(await client.handle("h4").result()).toBe("h4");
    await queueIs(client, "pair", 0, 0);
  });

  it("gives turns by priority, and lets others pass who wait for their key only", async () => {
    const begin = (id: string, customer: string, priority = 0) =>
      client.start(charge.with({ customer }), { id, queue: { priority } });
    await begin("c1", "ada");
    await begin("c2", "ada");
    await begin("c3", "bob");
    await begin("c4", "eve");
    await begin("c5", "ann");
    await begin("c6", "zoe", 10);
    await queueIs(client, "charges", 3, 3);
    const found = await statuses(client, ["c1", "c2", "c3", "c4", "c5", "c6"]);
    expect(found.join()).toBe("RUNNING,PENDING,RUNNING,RUNNING,PENDING,PENDING");
    const { waiting } = await client.getMetadata("c2");
    expect(waiting?.for).toContain("for key ada: 1 of 1 run");
    await client.handle("c3").signal("go");
    await until("priority begins", async () => (await client.getStatus("c6")) === "RUNNING");
    expect(await statuses(client, ["c2", "c5"])).toEqual(["PENDING", "PENDING"]);
    await client.handle("c4").signal("go");
    await until("who has a key begins", async () => (await client.getStatus("c5")) === "RUNNING");
    await client.handle("c1").signal("go");
    await until("the key is free", async () => (await client.getStatus("c2")) === "RUNNING");
    for (const id of ["c2", "c5", "c6"]) await client.handle(id).signal("go");
    await queueIs(client, "charges", 0, 0);
  });

  it("spaces starts by its rate after a burst", async () => {
    const beganMs = Date.now();
    const runs = Array.from({ length: 7 }, (_, n) => client.run(brief.with(n), { id: `b${n}` }));
    expect((await Promise.all(runs)).toSorted()).toEqual([0, 1, 2, 3, 4, 5, 6]);
    // Two at once, then five that are 100 ms apart; whoever came first is not later.
    expect(Date.now() - beganMs).toBeGreaterThanOrEqual(490);
    const events = await Promise.all(
      Array.from({ length: 7 }, async (_, n) => {
        const history = await client.handle(`b${n}`).history();
        return Date.parse(history.find(({ type }) => type === "run.admitted")?.at ?? "");
      }),
    );
    const begun = events.toSorted((left, right) => left - right);
    for (let at = 0; at + 3 < begun.length; at++) {
      expect((begun[at + 3] ?? 0) - (begun[at] ?? 0)).toBeGreaterThanOrEqual(95);
    }
  });

  it("over maxPending refuses with 429, and nothing was started", async () => {
    await client.start(full.with(), { id: "f1" });
    await client.start(full.with(), { id: "f2" });
    const refused = await ask(server, "POST", "/v1/workflows/full", { json: { id: "f3" } });
    expect(refused.status).toBe(429);
    expect(refused.headers.get("retry-after")).toBe("1");
    expect(refused.body).toMatchObject({ code: "queue-full" });
    expect(refused.body.detail).toBe("queue small is full: 1 runs wait");
    expect((await ask(server, "GET", "/v1/runs/f3")).status).toBe(404);
    await expect(client.start(full.with(), { id: "f3" })).rejects.toMatchObject({
      code: "queue-full",
    });
    await client.handle("f1").terminate();
    await client.handle("f2").terminate();
    const later = await client.start(full.with(), { id: "f3" });
    expect(await later.status()).toBe("RUNNING");
    await client.handle("f3").terminate();
    expect(await client.listAll({ prefix: "f" })).toHaveLength(3);
  });

  it("hears of every way in which a run ends, and of none in between", async () => {
    const ids = ["first", "canceled", "terminated", "late", "second", "last"];
    await client.start(twoLives.with(1), { id: "first" });
    await client.start(twoLives.with(1), { id: "canceled" });
    await client.start(twoLives.with(1), { id: "terminated" });
    const deadline = new Date(Date.now() + 300);
    await client.start(twoLives.with(1), { id: "late", deadline });
    await client.start(breaks.with(), { id: "second" });
    await client.start(twoLives.with(1), { id: "last" });
    expect(await statuses(client, ids)).toEqual(["RUNNING", ...Array(5).fill("PENDING")]);
    await client.cancel("canceled");
    await client.handle("terminated").terminate();
    await until("the deadline has passed", async () => {
      return (await client.getStatus("late")) === "FAILED";
    });
    await queueIs(client, "single", 1, 2);
    await client.handle("first").signal("go", "once");
    await until("its second life", async () => {
      return (await client.getMetadata("first")).attempt === 2;
    });
    await client.handle("first").pause();
    await queueIs(client, "single", 1, 2);
    await client.handle("first").resume();
    await client.handle("first").signal("go", "twice");
    expect(await client.handle("first").result()).toBe("twice");
    await until("the next begins", async () => (await client.getStatus("second")) === "RUNNING");
    await client.handle("second").signal("go");
    await until("it has failed", async () => (await client.getStatus("second")) === "FAILED");
    await until("the last begins", async () => (await client.getStatus("last")) === "RUNNING");
    // Resumed, it takes a place like anybody else.
    await client.resume("second");
    expect(await client.getStatus("second")).toBe("PENDING");
    await client.handle("last").terminate();
    expect(await client.handle("second").result()).toBe(2);
    await queueIs(client, "single", 0, 0);
  });

  it("lets others pass one that is paused, and takes it again behind them", async () => {
    const ids = ["p1", "p2", "p3", "p4"];
    for (const id of ids) await client.start(held.with(), { id });
    await queueIs(client, "pair", 2, 2);
    expect((await client.handle("p3").pause()).status).toBe("PAUSED");
    await queueIs(client, "pair", 2, 1);
    expect((await client.getMetadata("p3")).waiting?.for).toBe("somebody to resume it (paused)");
    await client.handle("p1").signal("go");
    await until("it is passed", async () => (await client.getStatus("p4")) === "RUNNING");
    await client.start(held.with(), { id: "p5" });
    await queueIs(client, "pair", 2, 1);
    expect((await client.handle("p3").resume()).status).toBe("PENDING");
    await until("it has a place again", async () => {
      const { waiting } = await client.getMetadata("p3");
      return waiting?.for === "a place in queue pair: 2 of 2 run, 1 wait before it";
    });
    // Nothing of it has begun, so a cancellation ends it at once.
    await client.handle("p3").pause();
    await client.cancel("p3");
    expect(await client.getStatus("p3")).toBe("CANCELED");
    for (const id of ["p2", "p4", "p5"]) await client.handle(id).signal("go");
    await queueIs(client, "pair", 0, 0);
  });

  it("is passed by children and by what a run starts", async () => {
    expect(await client.run(family.with(5), { id: "family" })).toEqual([0, 1, 2, 3, 4, 5]);
    const { admitted, running } = await client.queues.get("naps");
    expect([admitted, running]).toEqual([6, 0]);
  });

  it("takes other limits at run time, and those of the code again", async () => {
    await client.queues.put("naps", { concurrency: 1, maxPending: 0 });
    await client.start(nap.with(1), { id: "n1" });
    await client.start(free.with(), { id: "n2", queue: { name: "naps" } }).catch(() => undefined);
    const made = await client.queues.put("own", { concurrency: 1 });
    expect(made).toMatchObject({ created: true, declared: false, running: 0 });
    await client.start(free.with(), { id: "o1", queue: { name: "own", key: "any" } });
    await expect(client.queues.delete("own")).rejects.toMatchObject({ code: "queue-active" });
    await client.handle("o1").terminate();
    await queueIs(client, "own", 0, 0);
    await client.queues.delete("own");
    await expect(client.queues.get("own")).rejects.toMatchObject({ code: "queue-not-found" });
    await expect(client.start(free.with(), { queue: { name: "own" } })).rejects.toMatchObject({
      code: "queue-not-found",
    });
    await client.queues.delete("naps");
    expect(await client.queues.get("naps")).toMatchObject({ concurrency: 2, declared: true });
  });

  it("refuses limits and options that can't be", async () => {
    for (const json of [{ concurrency: 0 }, { rate: { limit: 1 } }, { slots: 3 }]) {
      expect((await ask(server, "PUT", "/v1/queues/pair", { json })).status).toBe(400);
    }
    const start = (queue: object) => ask(server, "POST", "/v1/workflows/free", { json: { queue } });
    expect((await start({ priority: 1001 })).status).toBe(400);
    expect((await start({ key: "a" })).body).toMatchObject({ code: "invalid-request" });
    expect((await ask(server, "PUT", "/v1/queues/a%2Fb", { json: {} })).status).toBe(400);
  });
});

it("the queue of all bounds what a tenant runs, as max_running and max_pending do", async () => {
  const host = await startProject({}, entry);
  await host.client.queues.put("all", { concurrency: 2, maxPending: 1 });
  for (const id of ["a1", "a2", "a3"]) await host.client.start(free.with(), { id });
  expect(await statuses(host.client, ["a1", "a2", "a3"])).toEqual([
    "RUNNING",
    "RUNNING",
    "PENDING",
  ]);
  await expect(host.client.start(free.with(), { id: "a4" })).rejects.toMatchObject({
    code: "queue-full",
  });
  // Behind its own queue it waits without a place there.
  await host.client.handle("a3").terminate();
  await host.client.start(held.with(), { id: "a5" });
  expect((await host.client.getMetadata("a5")).waiting?.for).toContain("queue all: 2 of 2 run");
  await host.client.handle("a1").terminate();
  await until("it begins", async () => (await host.client.getStatus("a5")) === "RUNNING");
  await host.kill();
});

it("nobody is lost and nobody passes when the server is killed again and again", async () => {
  let host = await startProject({}, entry);
  const { folder, port } = host;
  const ids = Array.from({ length: 8 }, (_, n) => `k${n}`);
  for (const id of ids) await host.client.start(held.with(), { id });
  for (let round = 0; round < 4; round++) {
    await host.kill();
    host = await startServer({ folder, port });
    const now = host.client;
    const wanted = ids.map((_, at) =>
      at < round * 2 ? "SUCCESSFUL" : at < round * 2 + 2 ? "RUNNING" : "PENDING",
    );
    await until("all are where they were", async () => {
      return (await statuses(now, ids)).join() === wanted.join();
    });
    for (const id of ids.slice(round * 2, round * 2 + 2)) await now.handle(id).signal("go", id);
  }
  const outputs = await Promise.all(ids.map((id) => host.client.handle(id).result()));
  expect(outputs).toEqual(ids);
  await queueIs(host.client, "pair", 0, 0);
  expect((await host.client.queues.get("pair")).admitted).toBe(8);
  await host.kill();
});

it("what is paused before it begins stays so over the server's death", async () => {
  let host = await startProject({}, entry);
  const { folder, port } = host;
  const ids = ["d1", "d2", "d3", "d4"];
  for (const id of ids) await host.client.start(held.with(), { id });
  const startAt = new Date(Date.now() + 1000);
  await host.client.start(free.with(), { id: "later", startAt });
  for (const id of ["d3", "later"]) await host.client.handle(id).pause();
  await host.kill();
  host = await startServer({ folder, port });
  const now = host.client;
  await now.handle("d1").signal("go");
  await until("it is passed", async () => (await now.getStatus("d4")) === "RUNNING");
  await until("its time is over", () => Date.now() > startAt.getTime() + 200);
  expect(await statuses(now, ["d3", "later"])).toEqual(["PAUSED", "PAUSED"]);
  expect((await now.handle("later").resume()).status).toBe("RUNNING");
  expect((await now.handle("d3").resume()).status).toBe("PENDING");
  const early = await now.start(free.with(), { startAt: new Date(Date.now() + 3_600_000) });
  await early.pause();
  for (let i = 0; i < 2; i++) expect((await early.resume()).status).toBe("PENDING");
  expect((await early.info()).waiting?.for).toBe("its time to start");
  for (const id of ["d2", "d3", "d4"]) await now.handle(id).signal("go", id);
  expect(await now.handle("d3").result()).toBe("d3");
  await queueIs(now, "pair", 0, 0);
  await host.kill();
});

it("the command line sets, shows and forgets queues, and starts runs behind them", async () => {
  const env = { SPORE_URL: server.url };
  const set = ["queue", "set", "night", "--concurrency", "1", "--rate", "100/1s", "--burst", "5"];
  expect(await spore(set, { env })).toMatchObject({ code: 0, out: "✓ night: 0 run, 0 wait\n" });
  const begin = (id: string, priority: string) =>
    spore(["run", "free", "--id", id, "--detach", "--queue", "night", "--priority", priority], {
      env,
    });
  await begin("x1", "0");
  await begin("x2", "0");
  await begin("x3", "5");
  const got = await spore(["queue", "get", "night", "--json"], { env });
  expect(JSON.parse(got.out)).toMatchObject({
    rate: { limit: 100, periodMs: 1000, burst: 5 },
    running: 1,
    next: [{ id: "x3", priority: 5 }, { id: "x2" }],
  });
  const listed = await spore(["queue", "list", "--json"], { env });
  expect(listed.out).toContain('"name":"night"');
  expect((await spore(["queue", "delete", "night"], { env })).code).toBe(4);
  expect((await spore(["queue", "set", "night", "--burst", "2"], { env })).code).toBe(2);
  for (const id of ["x1", "x2", "x3"]) await client.handle(id).terminate();
  await queueIs(client, "night", 0, 0);
  expect((await spore(["queue", "delete", "night"], { env })).code).toBe(0);
});
