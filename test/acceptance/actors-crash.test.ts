/** Virtual actors over kill -9, and over upgrades, against real server processes. */
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { createClient } from "../../client/index.ts";
import { actorKey, partitionOf } from "../../runtime/ids.ts";
import { Chain, Clock, Counter, Friendly, Long, Session, spread } from "./actors-project.ts";
import {
  ask,
  codeOf,
  type Outside,
  putAway,
  type ServerProcess,
  spore,
  startOutside,
  startProject,
  startServer,
  temporaryFolder,
  until,
} from "./kit.ts";
import { Profiles as First, interview } from "./profile-1.ts";

// Some of them compile twice.
vi.setConfig({ testTimeout: 180_000 });

const project = "test/acceptance/actors-project.ts";
let outside: Outside;

beforeAll(async () => {
  outside = await startOutside();
});

afterAll(async () => {
  await putAway();
  await outside?.close();
});

async function crash(server: ServerProcess): Promise<ServerProcess> {
  await server.kill();
  return startServer({ folder: server.folder, port: server.port });
}

it("calls of one client are executed in their order and once each, awaited and not, over kill -9", async () => {
  let server = await startProject({ folder: await temporaryFolder() }, project);
  const client = createClient({ url: server.url, attemptsMax: 60 });
  const counter = await client.getOrCreate(Counter, "ordered", 0);
  const calls: Promise<unknown>[] = [];
  for (let index = 0; index < 300; index++) {
    const text = `n${index}`;
    calls.push(index % 3 === 0 ? counter.send.note(text) : counter.note(text));
    if (index % 10 === 9) await calls.at(-1);
    if (index === 99 || index === 205) server = await crash(server);
  }
  await Promise.all(calls);
  expect(await counter.notes()).toEqual(Array.from({ length: 300 }, (_, index) => `n${index}`));
  await server.stop();
});

it("messages between actors and workflows of all partitions take effect once each over kill -9", async () => {
  let server = await startProject({ folder: await temporaryFolder() }, project);
  const client = createClient({ url: server.url, attemptsMax: 60 });
  const keys = Array.from({ length: 8 }, (_, index) => `k${index}`);
  const rounds = 40;
  const run = await client.start(spread.with(keys, rounds), { id: "spread" });
  const count = (key: string) => client.actor(Counter, key).value();
  for (const part of [5, 15, 25]) {
    await until("it is at its place", async () => (await count("k0-target-awaited")) >= part);
    server = await crash(server);
  }
  expect(await run.result()).toBe(keys.length * rounds);
  for (const key of keys) {
    expect(await count(`${key}-target-awaited`)).toBe(rounds);
    await until("sends arrive", async () => (await count(`${key}-target`)) >= rounds);
    expect(await count(`${key}-target`)).toBe(rounds);
  }
  await server.stop();
});

it("a method that fetches, sleeps and waits for a signal goes on where it was after kill -9", async () => {
  let server = await startProject({ folder: await temporaryFolder() }, project);
  const client = createClient({ url: server.url, attemptsMax: 60 });
  const long = await client.getOrCreate(Long, "traveller");
  const travel = long.travel(`${outside.url}/travel`);
  await until("the first step is done, and durable", async () => {
    const events = await client.actorHistory("Long", "traveller");
    return events.some(({ type }) => type === "published");
  });
  server = await crash(server);
  server = await crash(server);
  expect((await client.getActor("Long", "traveller")).busy).toBe(true);
  await client.signalActor("Long", "traveller", "go", "on");
  expect(await travel).toBe("/travel/first on /travel/second");
  expect(outside.calls.get("/travel/first")).toBe(1);
  await server.stop();
});

it("actors of two hosts that ask each other don't wait for ever, and any host takes a read", async () => {
  const folder = await temporaryFolder();
  const servers = [await startProject({ folder }, project), await startServer({ folder })];
  const served = (server: ServerProcess) => async (): Promise<readonly number[]> => {
    const { body } = await ask(server, "GET", "/v1/cluster");
    const hosts = body.hosts as { isSelf: boolean; partitions: readonly number[] }[];
    return hosts.find(({ isSelf }) => isSelf)?.partitions ?? [];
  };
  const keys: string[] = [];
  for (const server of servers) {
    const own = served(server);
    await until("it has its share", async () => (await own()).length === 2);
    const partitions = await own();
    const isHere = (key: string): boolean =>
      partitions.includes(partitionOf(actorKey("default", "Chain", key), 4));
    keys.push(Array.from({ length: 100 }, (_, n) => `k${n}`).find(isHere) ?? "");
  }
  const [left = "", right = ""] = keys;
  const [one, other] = servers.map(({ client }) => client);
  if (one === undefined || other === undefined) throw new Error("there are two");
  const calls = [
    (await one.getOrCreate(Chain, left)).meet(right),
    (await one.getOrCreate(Chain, right)).meet(left),
  ];
  for (const key of keys) {
    await until("it is in its turn", async () => (await other.getActor("Chain", key)).busy);
    await other.signalActor("Chain", key, "now");
  }
  const errors = (await Promise.allSettled(calls)).filter(({ status }) => status === "rejected");
  expect(errors).toMatchObject([{ reason: { code: "call-deadlock" } }]);
  for (const client of [one, other]) {
    const counts = await Promise.all(keys.map((key) => client.actor(Chain, key).count()));
    expect(counts.toSorted()).toEqual([0, 1]);
  }
  await Promise.all(servers.map((server) => server.stop()));
});

it("reminders, times to expire and re-entrancy are known to the next process", async () => {
  let server = await startProject({ folder: await temporaryFolder() }, project);
  const client = createClient({ url: server.url, attemptsMax: 60 });
  const clock = await client.getOrCreate(Clock, "wall");
  const dueMs = await clock.once("once", 1500);
  await clock.every("every", 1000);
  const session = await client.getOrCreate(Session, "brief");
  await session.touch();
  await client.getOrCreate(Friendly, "ada");
  server = await crash(server);
  expect(await client.actor(Friendly, "ada").visit("bob")).toBe(2);
  await until("it came", async () => (await clock.list("once")).length > 0);
  await until("they came", async () => (await clock.list("every")).length > 1);
  const [once = 0, ...more] = await clock.list("once");
  expect(once).toBeGreaterThanOrEqual(dueMs);
  expect(more).toEqual([]);
  await until("it expired", async () => {
    const error = await client.getActor("Session", "brief").catch((thrown) => thrown);
    return error.code === "actor-not-found";
  });
  await server.stop();
});

it("actors move to a new component by a call, by a read, in bulk and on a canary, and back", async () => {
  const server = await startProject({}, "test/acceptance/profile-1.ts");
  const { client } = server;
  const names = {
    ada: "Ada Lovelace",
    bob: "Bob Marley",
    c1: "Cy Young",
    c2: "Di Jones",
    eve: "Eve",
  };
  for (const [key, name] of Object.entries(names)) await client.getOrCreate(First, key, name);
  const { component: before } = await client.getActor("Profile", "ada");
  const call = (key: string, method: string, ...args: unknown[]) =>
    client.call({ type: "Profile", key, method }, args);
  const { id: after } = await client.deploy(await codeOf("test/acceptance/profile-2.ts"));

  // A turn that goes on ends with the code that it began with.
  expect(await call("ada", "marry", "Byron")).toBe("v2 Byron, Ada");
  expect(await client.getActor("Profile", "ada")).toMatchObject({
    component: after,
    previousComponent: before,
  });
  expect(await call("bob", "initials")).toBe("BM");
  expect(await client.upgradeActors({ type: "Profile", key: "c1" })).toEqual({ requested: 1 });
  await until("the canary is there", async () => {
    return (await client.getActor("Profile", "c1")).component === after;
  });
  expect((await client.getActor("Profile", "c2")).component).toBe(before);
  expect(await client.upgradeActors({ type: "Profile", prefix: "c" })).toEqual({ requested: 1 });
  expect(await call("c2", "title")).toBe("v2 Jones, Di");

  // What can't be migrated stays as it was, with the code that it had.
  expect(await client.upgradeActors({ type: "Profile" })).toEqual({ requested: 1 });
  await until("its upgrade failed", async () => {
    const events = await client.actorHistory("Profile", "eve");
    return events.some(({ type }) => type === "actor.upgrade-failed");
  });
  const eve = await client.getActor("Profile", "eve");
  expect([eve.component, eve.failedUpgrade?.component]).toEqual([before, after]);
  expect(eve.failedUpgrade?.error.message).not.toBe("");
  const shown = await spore(["actor", "get", "Profile", "eve", "--url", server.url]);
  expect(shown.out).toContain(eve.failedUpgrade?.error.message);
  const tried = await spore(["actor", "upgrade", "Profile", "eve", "--url", server.url]);
  expect([tried.code, tried.out]).toEqual([1, expect.stringContaining("eve: ")]);
  expect(tried.out).toContain(eve.failedUpgrade?.error.message);
  const bulk = await spore(["actor", "upgrade", "Profile", "--json", "--url", server.url]);
  expect([bulk.code, JSON.parse(bulk.out)]).toMatchObject([
    1,
    { requested: 1, counts: { moved: 4, failed: 1, waiting: 0 }, failed: [{ key: "eve" }] },
  ]);
  expect(await call("eve", "title")).toBe("v1 Eve");
  expect(await call("eve", "old")).toBe("v1 Eve");
  await call("eve", "rename", "Eve Adams");
  await client.upgradeActors({ type: "Profile", key: "eve" });
  await until("it went well now", async () => (await call("eve", "title")) === "v2 Adams, Eve");
  expect((await client.getActor("Profile", "eve")).failedUpgrade).toBeUndefined();

  const back = await client.rollBackActor("Profile", "ada");
  expect(back.component).toBe(before);
  expect(await call("ada", "title")).toBe("v1 Ada Lovelace");
  const next = await startServer({ folder: server.folder, port: (await stopped(server)).port });
  expect(await next.client.call({ type: "Profile", key: "ada", method: "old" }, [])).toBe(
    "v1 Ada Lovelace",
  );
  await next.stop();
});

/** Stops the server; its port can be used again. */
async function stopped(server: ServerProcess): Promise<{ port: number }> {
  const { port } = server;
  await server.stop();
  return { port };
}

it("a reminder or another run moves an actor to a new component as well as a call", async () => {
  const server = await startProject({}, "test/acceptance/profile-1.ts");
  const { client } = server;
  await client.getOrCreate(First, "rita", "Rita Hayworth");
  await client.getOrCreate(First, "mae", "Mae West");
  const run = await client.start(interview.with("mae"), { id: "interview" });
  await client.call({ type: "Profile", key: "rita", method: "renameEverySecond" }, ["Rita Welles"]);
  const { id: after } = await client.deploy(await codeOf("test/acceptance/profile-2.ts"));
  const componentOf = async (key: string) => (await client.getActor("Profile", key)).component;
  await until("the reminder moved it", async () => (await componentOf("rita")) === after);
  const { state } = await client.actorState("Profile", "rita");
  expect(state).toEqual({ first: "Rita", last: "Welles" });
  await run.signal("go");
  expect(await run.result()).toBe("v2 West, Mae");
  expect(await componentOf("mae")).toBe(after);
  await server.stop();
});

it("actors that move by request stay until somebody names them: the canary first", async () => {
  const server = await startProject({}, "test/acceptance/profile-1.ts");
  const { client } = server;
  const read = (key: string) => client.call({ type: "Contract", key, method: "read" }, []);
  for (const key of ["canary", "other"]) await client.createActor("Contract", key, []);
  await client.deploy(await codeOf("test/acceptance/profile-2.ts"));
  expect([await read("canary"), await read("other")]).toEqual(["first terms", "first terms"]);
  expect(await client.upgradeActors({ type: "Contract", key: "canary" })).toEqual({ requested: 1 });
  await until("it moved", async () => (await read("canary")) === "second terms");
  expect(await read("other")).toBe("first terms");
  expect(await client.upgradeActors({ type: "Contract" })).toEqual({ requested: 1 });
  await until("all moved", async () => (await read("other")) === "second terms");
  await client.rollBackActor("Contract", "canary");
  expect([await read("canary"), await read("other")]).toEqual(["first terms", "second terms"]);
  await server.stop();
});

it("a call that waits for a signal while its actor is upgraded ends with the code that it began with", async () => {
  const server = await startProject({}, "test/acceptance/profile-1.ts");
  const { client } = server;
  const waiting = (await client.getOrCreate(First, "w", "Wim Wenders")).wait();
  await until("it waits", async () => (await client.getActor("Profile", "w")).busy);
  await client.deploy(await codeOf("test/acceptance/profile-2.ts"));
  await client.upgradeActors({ type: "Profile", key: "w" });
  expect(await client.call({ type: "Profile", key: "w", method: "title" }, [])).toBe(
    "v1 Wim Wenders",
  );
  await client.signalActor("Profile", "w", "done");
  expect(await waiting).toBe("Wim Wenders");
  expect(await client.call({ type: "Profile", key: "w", method: "title" }, [])).toBe(
    "v2 Wenders, Wim",
  );
  await server.stop();
});

it("the loyalty programme and the cart do over HTTP what their files say", async () => {
  const loyalty = await startProject({}, "examples/loyalty/index.ts");
  const customer = (key: string, method: string, ...args: unknown[]) =>
    loyalty.client.call({ type: "Customer", key, method }, args);
  await loyalty.client.createActor("Customer", "ada", []);
  await customer("ada", "invite", "bob");
  expect(await customer("bob", "addPoints", 600)).toMatch(/^Silver, 600 points/);
  await until("the friend's level is told", async () => {
    return String(await customer("ada", "message")).startsWith("Member, 100 points");
  });
  const reward = await loyalty.client.handle("reward_bob_Silver_1").info();
  expect(reward).toMatchObject({ status: "RUNNING", name: "reward" });
  const [year] = (await loyalty.client.getActor("Customer", "bob")).reminders;
  expect(year).toMatchObject({ name: "year", method: "beginYear" });
  expect(year?.at).toMatch(/-01-01T00:00:00.000Z$/);
  await loyalty.stop();

  const shop = await startProject({}, "examples/cart/index.ts");
  const cart = (method: string, ...args: unknown[]) =>
    shop.client.call({ type: "Cart", key: "o1", method }, args);
  await cart("addItem", { name: "book", price: 12 });
  expect(await cart("checkout")).toBe("ship_o1");
  expect(await cart("checkout")).toBe("ship_o1");
  expect([await cart("total"), await cart("status")]).toEqual([12, "ordered"]);
  await until("it ships", async () => (await shop.client.getStatus("ship_o1")) === "RUNNING");
  await shop.stop();
});
