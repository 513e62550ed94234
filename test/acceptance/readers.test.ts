/** Read-only methods on a server process that doesn't own their actor: fresh, and without an owner. */
import { afterAll, expect, it, vi } from "vitest";
import {
  ask,
  folderOfTest,
  putAway,
  type ServerProcess,
  startProject,
  startServer,
  until,
} from "./kit.ts";
import { Counter } from "./project.ts";

vi.setConfig({ testTimeout: 120_000 });

afterAll(putAway);

const partitions = 4;
/** The first are passed on, while the log is read; later ones if this takes a second. */
const readsMax = 100;

async function servedBy(server: ServerProcess): Promise<readonly number[]> {
  const { body } = await ask(server, "GET", "/v1/cluster");
  const hosts = body["hosts"] as readonly { isSelf: boolean; partitions: readonly number[] }[];
  return hosts.find(({ isSelf }) => isSelf)?.partitions ?? [];
}

/** Read-only calls that the server has answered for partitions of the other. */
async function followedReads(server: ServerProcess): Promise<number> {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  return Number(/^spore_followed_reads_total (\d+)/m.exec(text)?.[1] ?? 0);
}

async function read(server: ServerProcess, key: string, method = "value"): Promise<unknown> {
  const path = `/v1/actors/Counter/${key}/${method}`;
  const { status, body } = await ask(server, "POST", path, { json: { args: [] } });
  if (status !== 200) throw new Error(`${status}: ${JSON.stringify(body)}`);
  return body["result"];
}

async function follows(server: ServerProcess, key: string): Promise<boolean> {
  for (let n = 0; n < readsMax; n += 1) {
    await read(server, key);
    if ((await followedReads(server)) > 0) return true;
  }
  return false;
}

/** Two servers, and an actor of the first that the second follows. */
async function startReader(): Promise<{
  owner: ServerProcess;
  reader: ServerProcess;
  key: string;
}> {
  const owner = await startProject({ folder: await folderOfTest() });
  const reader = await startServer({ folder: owner.folder });
  await until("the partitions are shared", async () => {
    const served = await Promise.all([owner, reader].map(servedBy));
    return served.every((each) => each.length === partitions / 2);
  });
  for (let n = 0; n < 20; n += 1) {
    const key = `read-${n}`;
    await owner.client.actor(Counter, key).incr();
    if (await follows(reader, key)) return { owner, reader, key };
  }
  throw new Error("the first has none of twenty actors");
}

it("a server that doesn't own an actor answers reads itself, right after each write", async () => {
  const { owner, reader, key } = await startReader();
  const before = await followedReads(reader);
  const rounds = 200;
  const counter = owner.client.actor(Counter, key);
  for (let n = 1; n <= rounds; n += 1) {
    expect(await counter.incr()).toBe(n + 1);
    expect(await read(reader, key)).toBe(n + 1);
    if (n % 20 === 0) expect(await read(reader, key, "sneak")).toBe(666);
  }
  // Not each: on a machine that has much else to do one may take too long here.
  expect((await followedReads(reader)) - before).toBeGreaterThan(rounds / 2);
  expect(await followedReads(owner)).toBe(0);
  expect(await read(owner, key)).toBe(rounds + 1);
});

it("reads go on without an owner, after it was killed and before anybody takes over", async () => {
  for (let tries = 1; ; tries += 1) {
    const { owner, reader, key } = await startReader();
    const told = await reader.client.actor(Counter, key).incr(40);
    const before = await followedReads(reader);
    const served = await servedBy(reader);
    await owner.kill();
    expect(await read(reader, key)).toBe(told);
    expect(await read(reader, key)).toBe(told);
    const isUnowned = (await servedBy(reader)).join() === served.join();
    const followed = (await followedReads(reader)) - before;
    await until("it has all", async () => (await servedBy(reader)).length === partitions);
    expect(await reader.client.actor(Counter, key).incr()).toBe(told + 1);
    expect(await read(reader, key)).toBe(told + 1);
    if (isUnowned) {
      expect(followed).toBe(2);
      return;
    }
    // It was seen to be dead at once, and taken over before it could be read from.
    expect(tries).toBeLessThan(4);
  }
});

it("reads go on while the owner stands still, and see what it does when it wakes up", async () => {
  const { owner, reader, key } = await startReader();
  const told = await owner.client.actor(Counter, key).incr(7);
  owner.signal("SIGSTOP");
  const before = await followedReads(reader);
  for (let n = 0; n < 20; n += 1) expect(await read(reader, key)).toBe(told);
  expect((await followedReads(reader)) - before).toBe(20);
  owner.signal("SIGCONT");
  expect(await owner.client.actor(Counter, key).incr()).toBe(told + 1);
  expect(await read(reader, key)).toBe(told + 1);
});
