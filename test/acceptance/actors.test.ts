/** Virtual actors against a real server process. */
import { afterAll, beforeAll, expect, it } from "vitest";
import {
  ask,
  type Outside,
  putAway,
  type ServerProcess,
  startOutside,
  startProject,
} from "./kit.ts";
import { Actor, Counter, Ledger, tally } from "./project.ts";

let server: ServerProcess;
let outside: Outside;
let client: ServerProcess["client"];

beforeAll(async () => {
  [server, outside] = await Promise.all([startProject(), startOutside()]);
  client = server.client;
});

afterAll(async () => {
  await putAway();
  await outside?.close();
});

it("calls take effect in order, also when nobody awaits them", async () => {
  const counter = await client.getOrCreate(Counter, "ordered", 0);
  expect(await counter.incr(10)).toBe(10);
  const sends = [counter.send.incr(10), counter.send.incr(10)];
  expect(await counter.value()).toBe(30);
  await Promise.all(sends);
  const calls = Array.from({ length: 100 }, () => counter.incr());
  expect(await Promise.all(calls)).toEqual(Array.from({ length: 100 }, (_, index) => 31 + index));
});

it("a read sees what its client did before, and the calls after it go on at once", async () => {
  const counter = await client.getOrCreate(Counter, "read", 0);
  const values = [];
  for (let round = 0; round < 5; round++) {
    values.push(counter.incr(), counter.value());
  }
  expect(await Promise.all(values)).toEqual([1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
});

it("a method that says it only reads can't change anything", async () => {
  const counter = await client.getOrCreate(Counter, "sneaky", 3);
  expect(await counter.sneak()).toBe(666);
  expect(await counter.value()).toBe(3);
  expect(await counter.incr()).toBe(4);
});

it("a method may return a graph of steps and of its own methods", async () => {
  const actor = await client.getOrCreate(Actor, "doubler");
  const values = [];
  for (const isStored of [false, false, true, false]) values.push(await actor.double(isStored));
  expect(values).toEqual([2, 2, 2, 4]);
});

it("a method that throws leaves the state as it was, and its caller gets the error", async () => {
  const counter = await client.getOrCreate(Counter, "boom", 7);
  await expect(counter.explode()).rejects.toThrow(new RangeError("boom"));
  expect(await counter.value()).toBe(7);
  expect(await counter.incr()).toBe(8);
});

it("a method may do steps with effects, one turn at a time", async () => {
  outside.refusals.set("/visit", 1);
  const counter = await client.getOrCreate(Counter, "visitor", 0);
  const visits = [counter.visit(`${outside.url}/visit`), counter.visit(`${outside.url}/visit2`)];
  expect(await Promise.all(visits)).toEqual(["/visit", "/visit2"]);
  expect(await counter.value()).toBe(2);
  expect(outside.calls.get("/visit")).toBe(2);
});

it("is created once, whoever asks, and keeps to its first arguments", async () => {
  const first = await ask(server, "PUT", "/v1/actors/Counter/shared", { json: { args: [5] } });
  expect([first.status, first.body.created]).toEqual([201, true]);
  const second = await ask(server, "PUT", "/v1/actors/Counter/shared", { json: { args: [9] } });
  expect([second.status, second.body.created]).toEqual([200, false]);
  expect(await client.actor(Counter, "shared").value()).toBe(5);
});

it("a call with one call id happens once", async () => {
  const call = () =>
    ask(server, "POST", "/v1/actors/Counter/idempotent/incr", {
      json: { args: [2], callId: "c1" },
    });
  expect((await call()).body).toEqual({ callId: "c1", result: 2 });
  expect((await call()).body).toEqual({ callId: "c1", result: 2 });
  const keyed = () =>
    ask(server, "POST", "/v1/actors/Counter/idempotent/incr", {
      json: { args: [1] },
      headers: { "idempotency-key": "k1" },
    });
  const answers = [await keyed(), await keyed()];
  expect(answers.map(({ body }) => body.result)).toEqual([3, 3]);
});

it("?async=1 gives a call id at once, and the result later under it", async () => {
  const accepted = await ask(server, "POST", "/v1/actors/Counter/async/incr?async=1", {
    json: { args: [4] },
  });
  expect(accepted.status).toBe(202);
  const location = accepted.headers.get("location") ?? "";
  expect((await ask(server, "GET", `${location}?wait=10s`)).body.result).toBe(4);
});

it("calls of a session are put into their order, whatever order they arrive in", async () => {
  const send = (seq: number) =>
    ask(server, "POST", "/v1/actors/Ledger/session/note", {
      json: { args: [`call ${seq}`] },
      headers: { "spore-session": "s1", "spore-seq": String(seq) },
    });
  const answers = await Promise.all([send(3), send(2), send(1)]);
  expect(answers.map(({ body }) => body.result)).toEqual([3, 2, 1]);
  expect(await client.actor(Ledger, "session").all()).toEqual(["call 1", "call 2", "call 3"]);
});

it("a workflow's calls to an actor arrive in its order", async () => {
  expect(await client.run(tally.with("tallied", 20))).toBe(21);
  const entries = await client.actor(Ledger, "tallied").all();
  expect(entries).toEqual([...Array.from({ length: 20 }, (_, index) => `n${index}`), "last"]);
});

it("a deleted actor begins anew", async () => {
  const counter = await client.getOrCreate(Counter, "deleted", 40);
  await counter.incr();
  await client.deleteActor("Counter", "deleted");
  await expect(client.getActor("Counter", "deleted")).rejects.toMatchObject({
    code: "actor-not-found",
  });
  const again = await client.getOrCreate(Counter, "deleted", 1);
  expect(await again.value()).toBe(1);
});
