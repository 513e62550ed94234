/** What virtual actors promise beyond calls (actors.test.ts), against a real server process. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Client, createClient, type RunEvent } from "../../client/index.ts";
import {
  Careful,
  Chain,
  Clock,
  Counter,
  Friendly,
  inquire,
  Long,
  listen,
  Named,
  Payer,
  prying,
  Relay,
  Session,
  Shop,
  Ticker,
  tellActor,
} from "./actors-project.ts";
import {
  ask,
  type Outside,
  putAway,
  type ServerProcess,
  startOutside,
  startProject,
  until,
} from "./kit.ts";

let server: ServerProcess;
let outside: Outside;
let client: Client;

beforeAll(async () => {
  const entry = "test/acceptance/actors-project.ts";
  [server, outside] = await Promise.all([startProject({}, entry), startOutside()]);
  client = server.client;
});

afterAll(async () => {
  await putAway();
  await outside?.close();
});

/** Error of a promise that must reject. */
async function errorOf(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  return promise.then(
    () => Promise.reject(new Error("it went well")),
    (error: Error) => error,
  );
}

describe("addressing", () => {
  it("fifty clients that get or create one actor at once make one", async () => {
    const clients = Array.from({ length: 50 }, () => createClient({ url: server.url }));
    const made = clients.map((each, index) =>
      each.createActor("Counter", "many", [index, "births"]),
    );
    const created = (await Promise.all(made)).filter((each) => each.created);
    expect(created).toHaveLength(1);
    const values = await Promise.all(clients.map((each) => each.actor(Counter, "many").value()));
    expect(new Set(values).size).toBe(1);
    await until("its birth is told", async () => {
      return (await client.actor(Counter, "births").value()) === 1;
    });
    expect((await client.actorHistory("Counter", "births")).map(({ type }) => type)).toEqual([
      "actor.created",
      "turn.succeeded",
      "turn.succeeded",
    ]);
  });

  it("what is deleted and made anew is another actor: nothing of the first comes to it", async () => {
    const clock = await client.getOrCreate(Clock, "again");
    const dueMs = await clock.once("ring", 700);
    const before = await client.actor(Counter, "drawn").grab();
    await client.deleteActor("Clock", "again");
    await client.deleteActor("Counter", "drawn");
    const second = await client.getOrCreate(Clock, "again");
    const nextMs = await second.once("other", dueMs - Date.now() + 300);
    await until("the new one's reminder came", async () => (await second.list("other")).length > 0);
    expect(Date.now()).toBeGreaterThanOrEqual(nextMs);
    expect(await second.list("ring")).toEqual([]);
    expect(await client.actor(Counter, "drawn").grab()).not.toBe(before);
    expect((await client.getActor("Clock", "again")).turns).toBe(3);
  });
});

describe("reading", () => {
  it("goes on beside a turn that takes long, and sees its states in between", async () => {
    const long = await client.getOrCreate(Long, "doubled");
    outside.refusals.delete("/held");
    outside.delayMs = 400;
    try {
      const result = long.double(`${outside.url}/held`);
      const reader = createClient({ url: server.url }).actor(Long, "doubled");
      await until("the state in between is there", async () => (await reader.current()) === 2);
      expect((await client.getActor("Long", "doubled")).busy).toBe(true);
      expect(await result).toBe(4);
      expect(await reader.current()).toBe(4);
    } finally {
      outside.delayMs = 0;
    }
  });

  it("can't change anything and send nothing, whatever the code tries", async () => {
    const counter = await client.getOrCreate(Counter, "watched", 3);
    await counter.note("kept");
    expect(await counter.sneakNow()).toBe(666);
    await expect(counter.sneak()).rejects.toThrow(/readonly|read-only/);
    expect([await counter.value(), await counter.notes()]).toEqual([3, ["kept"]]);
    expect(await errorOf(client.getActor("Counter", "victim"))).toMatchObject({
      code: "actor-not-found",
    });
    expect((await client.getActor("Counter", "watched")).turns).toBe(2);
  });
});

describe("an actor that was never made", () => {
  const read = (method: string, json: object = {}) =>
    ask(server, "POST", `/v1/actors/Counter/nobody/${method}`, { json: { args: [], ...json } });

  it("reads as a new one, and isn't there afterwards", async () => {
    expect((await read("value")).body).toEqual({ callId: "", result: 0 });
    expect((await read("sneakNow")).body.result).toBe(666);
    expect(await client.actor(Counter, "nobody").notes()).toEqual([]);
    const failing = await read("sneak");
    expect([failing.status, failing.body.code]).toEqual([409, "call-failed"]);
    expect(failing.body.error).toMatchObject({ message: expect.stringMatching(/read-only/) });
    const page = await client.listActorsPage({ type: "Counter", prefix: "nobody" });
    expect(page.actors).toEqual([]);
    for (const path of ["", "/state", "/history"]) {
      expect((await ask(server, "GET", `/v1/actors/Counter/nobody${path}`)).status).toBe(404);
    }
  });

  it("is refused by who says that it must be there, to read and to change", async () => {
    const missing = { status: 404, body: { code: "actor-not-found" } };
    for (const method of ["value", "incr"]) {
      expect(await read(method, { ifMissing: "fail" })).toMatchObject(missing);
    }
    const known = client.actor(Counter, "nobody", { ifMissing: "fail" });
    await expect(known.value()).rejects.toMatchObject({ code: "actor-not-found" });
    await expect(known.incr()).rejects.toMatchObject({ code: "actor-not-found" });
    await client.actor(Counter, "nobody").incr(2);
    expect([await known.incr(), await known.value()]).toEqual([3, 3]);
    await client.deleteActor("Counter", "nobody");
    expect(await client.actor(Counter, "nobody").value()).toBe(0);
  });

  it("whose constructor throws says so, with the author's line", async () => {
    const answer = await ask(server, "POST", "/v1/actors/Named/x/title", { json: { args: [] } });
    expect([answer.status, answer.body.code]).toEqual([409, "actor-init-failed"]);
    expect(answer.body.error).toMatchObject({ message: "a name is needed" });
    const named = await client.getOrCreate(Named, "x", "Ada");
    expect(await named.title()).toBe("Ada");
  });

  it("and a read-only method that a workflow calls changes nothing, either", async () => {
    expect(await client.run(prying.with("pried"))).toBe(666);
    const { state, turns } = await client.actorState<{ n: number }>("Counter", "pried");
    expect([state.n, turns]).toEqual([0, 1]);
  });
});

describe("errors and limits", () => {
  it("a call that fails leaves the state alone and does not block the queue", async () => {
    const counter = await client.getOrCreate(Counter, "failing", 1);
    const calls = [counter.incr(), counter.fail(), counter.incr()];
    const settled = await Promise.allSettled(calls);
    expect(settled.map((each) => (each.status === "fulfilled" ? each.value : "failed"))).toEqual([
      2,
      "failed",
      3,
    ]);
  });

  it("with onError stop the calls behind a failure wait until somebody resumes", async () => {
    const careful = await client.getOrCreate(Careful, "stopped");
    await careful.note("one");
    const failed = errorOf(careful.fail());
    const second = careful.note("two");
    expect(await failed).toMatchObject({ name: "RangeError", message: "stop here" });
    await until("the next call waits", async () => {
      const { stopped, mailbox, busy } = await client.getActor("Careful", "stopped");
      return stopped && mailbox === 1 && !busy;
    });
    expect(await createClient({ url: server.url }).actor(Careful, "stopped").notes()).toEqual([
      "one",
    ]);
    expect((await client.resumeActor("Careful", "stopped")).stopped).toBe(false);
    expect(await second).toBe(2);
    const types = (await client.actorHistory("Careful", "stopped")).map(({ type }) => type);
    expect(types).toContain("actor.stopped");
    expect(types.indexOf("actor.resumed")).toBeGreaterThan(types.indexOf("actor.stopped"));
  });

  it("a full mailbox refuses with 429 and says so", async () => {
    const path = "/v1/actors/Long/full";
    await client.getOrCreate(Long, "full");
    const travel = await ask(server, "POST", `${path}/travel?async=1`, {
      json: { args: [outside.url] },
    });
    expect(travel.status).toBe(202);
    await until("the turn goes on", async () => (await client.getActor("Long", "full")).busy);
    const statuses = new Map<number, number>();
    let refusal: Record<string, unknown> = {};
    for (let sent = 0; sent < 1010; sent += 101) {
      const answers = Array.from({ length: 101 }, () =>
        ask(server, "POST", `${path}/keep?async=1`, { json: { args: [1] } }),
      );
      for (const { status, body } of await Promise.all(answers)) {
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
        if (status === 429) refusal = body;
      }
    }
    expect([...statuses]).toEqual([
      [202, 1000],
      [429, 10],
    ]);
    expect(refusal).toMatchObject({ code: "too-many-messages" });
    expect((await client.getActor("Long", "full")).mailbox).toBe(1000);
    await client.signalActor("Long", "full", "go", "on");
    await until("all are served", async () => {
      const { mailbox, busy } = await client.getActor("Long", "full");
      return mailbox === 0 && !busy;
    });
  });

  it("a state over the limit is an error of the call, and the state stays", async () => {
    const counter = await client.getOrCreate(Counter, "large", 5);
    const error = await errorOf(counter.grow(17_000_000));
    expect(error.message).toMatch(/state|bytes/);
    expect(error.code).toBe("value-too-large");
    expect(await counter.value()).toBe(5);
    expect(await counter.grow(1_000_000)).toBe(1_000_000);
    expect((await client.getActor("Counter", "large")).stateBytes).toBeGreaterThan(1_000_000);
  });
});

describe("workflows and other actors", () => {
  it("a separate workflow starts once, however often it is asked for", async () => {
    const shop = await client.getOrCreate(Shop, "books");
    expect(await shop.orderTwice(3)).toEqual([true, false]);
    const id = await shop.order(7);
    expect(await shop.order(9)).toBe(id);
    await until("it waits", async () => (await client.getStatus(id)) === "RUNNING");
    await client.handle(id).signal("carrier");
    expect(await client.getOutput(id)).toBe(7);
    expect(await shop.result(id)).toBe(7);
  });

  it("a method asks what becomes of a workflow that it started, and has it end", async () => {
    const shop = await client.getOrCreate(Shop, "flowers");
    const id = await shop.order(2);
    await until("it waits", async () => (await client.getStatus(id)) === "RUNNING");
    expect(await shop.news(id)).toEqual(["RUNNING", "shipping", "signal carrier", undefined]);
    expect(await client.run(inquire.with(id))).toBe("RUNNING");
    await shop.release(id);
    expect(await shop.result(id)).toBe(2);
    expect(await shop.news(id)).toEqual(["SUCCESSFUL", "shipping", undefined, undefined]);
    const other = await client.getOrCreate(Shop, "gifts");
    const otherId = await other.order(1);
    await other.stop(otherId);
    await expect(client.getOutput(otherId)).rejects.toThrow(/sold out/);
    expect(await other.news(otherId)).toEqual([
      "CANCELED",
      "shipping",
      undefined,
      "CancelledError",
    ]);
    expect((await errorOf(shop.news("nobody"))).code).toBe("run-not-found");
    const error = await errorOf(shop.peek(id));
    expect(error.message).toContain("asking for a run's status is not allowed in a read-only");
  });

  it("an actor that is deleted and made again gives its services new idempotency keys", async () => {
    const first = await (await client.getOrCreate(Payer, "p")).pay();
    await client.deleteActor("Payer", "p");
    const second = await (await client.getOrCreate(Payer, "p")).pay();
    expect(first).toMatch(/^Payer\/p\/\d+\/2\/charge$/);
    expect(second).not.toBe(first);
  });

  it("a method may await a child workflow that has no id of its own", async () => {
    const shop = await client.getOrCreate(Shop, "halves");
    expect([await shop.halve(8), await shop.halve(3)]).toEqual([4, 1.5]);
    await client.deleteActor("Shop", "halves");
    const again = await client.getOrCreate(Shop, "halves");
    expect(await again.halve(100)).toBe(50);
  });

  it("a workflow signals an actor that waits within its turn", async () => {
    const long = await client.getOrCreate(Long, "told");
    const travel = long.travel(outside.url);
    expect(await client.run(tellActor.with("told", "west"))).toBeUndefined();
    expect(await travel).toMatch(/ west /);
    const error = await errorOf(client.run(tellActor.with("nowhere", "west")));
    expect(error.code).toBe("actor-not-found");
  });

  it("an actor waits for an event that somebody outside decides by its token", async () => {
    const asking = (await client.getOrCreate(Long, "asking")).ask();
    const tokenOf = async (): Promise<unknown> => {
      const events = await client.actorHistory("Long", "asking");
      return events.find(({ type }) => type === "published")?.data["value"];
    };
    await until("it has a token", async () => (await tokenOf()) !== undefined);
    const decide = async () =>
      ask(server, "POST", `/v1/events/${await tokenOf()}`, { json: { value: "go on" } });
    expect((await decide()).body).toEqual({ duplicate: false });
    expect(await asking).toEqual(["go on"]);
    expect((await decide()).body).toEqual({ duplicate: true });
  });

  it("an actor signals a workflow in order, and a callee knows its caller", async () => {
    const heard = await client.start(listen.with(20), { id: "listener" });
    const relay = await client.getOrCreate(Relay, "teller");
    await relay.tell("listener", 20);
    expect(await heard.result()).toEqual(Array.from({ length: 20 }, (_, index) => index));
    expect(await relay.ask("other")).toBe("Relay/teller");
    expect(await relay.who()).toBe("nobody");
  });

  it("a chain of calls that comes back is refused at once, and the error names the chain", async () => {
    const first = await client.getOrCreate(Chain, "first");
    const error = await errorOf(first.ask("second", "third", "first"));
    expect(error.code).toBe("call-deadlock");
    expect(error.message).toContain("Chain/first → Chain/second → Chain/third → Chain/first");
    const self = await errorOf(first.ask("first"));
    expect(self.message).toContain("Chain/first → Chain/first");
    expect(await first.hit()).toBe(1);
  });

  it("a chain that comes back through a workflow is refused as well", async () => {
    const actor = await client.getOrCreate(Chain, "workflow");
    const error = await errorOf(actor.askWorkflow());
    expect(JSON.stringify([error.message, String(error.cause)])).toMatch(/wait for itself/);
    expect(await actor.count()).toBe(0);
  });

  it("a chain through workflows within workflows is refused, and named in full", async () => {
    const actor = await client.getOrCreate(Chain, "deep");
    const error = await errorOf(actor.askWorkflow(3));
    const text = JSON.stringify([error.message, String((error.cause as Error).message)]);
    expect(text).toMatch(/Chain\/deep → Chain:deep\.[^ ]+ → [^ ]+ → [^ ]+ → Chain\/deep/);
    expect(await actor.count()).toBe(0);
  });

  it("of two actors that ask each other within their turns one is refused", async () => {
    const [left, right] = [
      await client.getOrCreate(Chain, "left"),
      await client.getOrCreate(Chain, "right"),
    ];
    const calls = [left.meet("right"), right.meet("left")];
    for (const key of ["left", "right"]) {
      await until("it is in its turn", async () => (await client.getActor("Chain", key)).busy);
      await client.signalActor("Chain", key, "now");
    }
    const results = await Promise.allSettled(calls);
    const errors = results.filter((result) => result.status === "rejected");
    expect(errors).toHaveLength(1);
    expect(errors[0]?.reason).toMatchObject({ code: "call-deadlock" });
    expect(String(errors[0]?.reason)).toMatch(/Chain\/(left|right) → Chain\/\w+ → Chain\/\1$/);
  });

  it("a re-entrant actor serves the call that comes back within its turn", async () => {
    const ada = await client.getOrCreate(Friendly, "ada");
    expect(await ada.visit("bob")).toBe(2);
    expect(await ada.list()).toEqual(["before", "bob", "after"]);
  });
});

describe("time", () => {
  it("reminders come once or again and again, never early, and can be forgotten", async () => {
    const clock = await client.getOrCreate(Clock, "wall");
    const onceMs = await clock.once("once", 1000);
    const everyMs = await clock.every("every", 1000);
    await clock.once("forgotten", 1100);
    await clock.hourly("hourly");
    await expect(clock.failing()).rejects.toThrow("no reminder of this");
    await clock.cancel("forgotten");
    const { reminders } = await client.getActor("Clock", "wall");
    expect(reminders.map(({ name }) => name).toSorted()).toEqual(["every", "hourly", "once"]);
    const hourly = reminders.find(({ name }) => name === "hourly")?.at ?? "";
    expect(new Date(hourly).getUTCMinutes()).toBe(0);
    expect(Date.parse(hourly)).toBeGreaterThan(Date.now());
    await until("they come", async () => (await clock.list("every")).length >= 2);
    expect(await clock.list("forgotten")).toEqual([]);
    expect(await clock.list("failing")).toEqual([]);
    const [once = 0, ...more] = await clock.list("once");
    expect(once).toBeGreaterThanOrEqual(onceMs);
    expect(more).toEqual([]);
    // A second apart, whatever the delay of the first.
    const [first = 0, second = 0] = await clock.list("every");
    expect(first).toBeGreaterThanOrEqual(everyMs);
    expect(second).toBeGreaterThanOrEqual(everyMs + 1000);
    await clock.cancel("every");
    expect((await client.getActor("Clock", "wall")).reminders).toHaveLength(1);
  });

  it("an actor that expires is gone after its time without calls, and begins anew", async () => {
    const session = await client.getOrCreate(Session, "brief");
    expect(await session.touch()).toBe(1);
    const touchedMs = Date.now();
    expect(await session.touch()).toBe(2);
    await until("it is gone", async () => {
      const error = await client.getActor("Session", "brief").catch((thrown) => thrown);
      return error.code === "actor-not-found";
    });
    expect(Date.now() - touchedMs).toBeGreaterThanOrEqual(1500);
    expect(await client.actor(Session, "brief").touch()).toBe(1);
  });

  it("a run may start later, and must be done by its deadline", async () => {
    const startAt = new Date(Date.now() + 400);
    const later = await client.start(listen.with(0), { id: "later", startAt });
    expect(await later.status()).toBe("PENDING");
    expect(await later.result()).toEqual([]);
    expect(Date.now()).toBeGreaterThanOrEqual(startAt.getTime());
    const deadline = new Date(Date.now() + 300);
    const late = await client.start(listen.with(1), { id: "late", deadline });
    await expect(late.result()).rejects.toMatchObject({ name: "TimeoutError" });
    expect(Date.now()).toBeGreaterThanOrEqual(deadline.getTime());
    expect(await late.status()).toBe("FAILED");
  });
});

describe("management", () => {
  it("lists actors by type and prefix, with sizes and mailboxes", async () => {
    const keys = ["p1", "p2", "p3", "q1"];
    for (const key of keys) await (await client.getOrCreate(Ticker, key)).set(1);
    const listed = [];
    for await (const each of client.listActors({ type: "Ticker", prefix: "p" })) listed.push(each);
    expect(listed.map(({ key }) => key)).toEqual(["p1", "p2", "p3"]);
    for (const each of listed) {
      expect(each).toMatchObject({ type: "Ticker", turns: 2, mailbox: 0, busy: false });
      expect(each.stateBytes).toBeGreaterThan(0);
    }
    const page = await client.listActorsPage({ type: "Ticker", limit: 3 });
    expect(page.actors.map(({ key }) => key)).toEqual(["p1", "p2", "p3"]);
    const rest = await client.listActorsPage({ type: "Ticker", cursor: page.cursor ?? "" });
    expect(rest.actors.map(({ key }) => key)).toEqual(["q1"]);
    const some = [];
    for await (const each of client.listActors({ limit: 2 })) some.push(each.type);
    expect(some).toHaveLength(2);
  });

  it("edits a state only if the actor had no turn since it was read", async () => {
    const counter = await client.getOrCreate(Counter, "edited", 1);
    const read = await client.actorState<{ n: number }>("Counter", "edited");
    expect(read).toMatchObject({ state: { n: 1, log: [], padding: new Uint8Array(0) }, turns: 1 });
    await counter.incr();
    const edit = { state: { ...read.state, n: 50 }, turns: read.turns };
    expect(await errorOf(client.editActor("Counter", "edited", edit))).toMatchObject({
      code: "state-changed",
      status: 409,
    });
    await client.editActor("Counter", "edited", { ...edit, turns: 2 });
    expect(await counter.value()).toBe(50);
    expect(await counter.incr()).toBe(51);
  });

  it("shows each turn with its arguments and the state after it", async () => {
    const counter = await client.getOrCreate(Counter, "told", 1);
    await counter.incr(4);
    await counter.fail().catch(() => undefined);
    const events = await client.actorHistory("Counter", "told", { from: 1 });
    expect(events.map(({ index, type }) => [index, type])).toEqual([
      [1, "turn.succeeded"],
      [2, "turn.succeeded"],
      [3, "turn.failed"],
    ]);
    expect(events.map(({ data }) => data)).toMatchObject([
      { method: "", args: [1], state: { n: 1 } },
      { method: "incr", args: [4], state: { n: 5 } },
      { method: "fail", args: [], state: { n: 5 }, error: { name: "RangeError" } },
    ]);
  });

  it("keeps the last 1,024 events, in order", async () => {
    const counter = client.actor(Counter, "long-lived");
    await Promise.all(Array.from({ length: 1100 }, () => counter.incr()));
    const events = await client.actorHistory("Counter", "long-lived", { limit: 1000 });
    const next = (events.at(-1)?.index ?? 0) + 1;
    const all = [
      ...events,
      ...(await client.actorHistory("Counter", "long-lived", { from: next })),
    ];
    expect(all).toHaveLength(1024);
    const first = all[0]?.index ?? 0;
    expect(all.map(({ index }) => index)).toEqual(all.map((_, at) => first + at));
    expect(all.at(-1)?.data).toMatchObject({ state: { n: 1100 } });
  });

  it("a fork begins with the state of its origin and goes its own way", async () => {
    const origin = await client.getOrCreate(Counter, "origin", 10);
    await client.forkActor("Counter", "origin", "forked");
    const forked = client.actor(Counter, "forked");
    expect([await forked.incr(), await origin.incr(5)]).toEqual([11, 15]);
    expect(await errorOf(client.forkActor("Counter", "origin", "forked"))).toMatchObject({
      code: "actor-exists",
    });
    expect(await errorOf(client.forkActor("Counter", "nobody", "x"))).toMatchObject({
      code: "actor-not-found",
    });
  });

  it("publishes events that clients follow, and resume after the last one that they saw", async () => {
    const ticker = await client.getOrCreate(Ticker, "spore");
    await ticker.set(1);
    const prices: unknown[] = [];
    let lastIndex = 0;
    for await (const event of client.actorEvents("Ticker", "spore")) {
      if (event.type !== "published") continue;
      prices.push((event.data.value as { price: number }).price);
      lastIndex = event.index;
      if (prices.length === 3) break;
      void ticker.send.set(prices.length + 1);
    }
    expect(prices).toEqual([1, 2, 3]);
    await ticker.set(4);
    const abort = new AbortController();
    const response = await fetch(`${server.url}/v1/actors/Ticker/spore/events`, {
      headers: { "last-event-id": String(lastIndex), accept: "text/event-stream" },
      signal: abort.signal,
    });
    const seen: RunEvent[] = [];
    for await (const chunk of response.body ?? []) {
      for (const [, data = ""] of new TextDecoder().decode(chunk).matchAll(/^data: (.*)$/gm)) {
        seen.push(JSON.parse(data));
      }
      if (seen.some(({ type }) => type === "published")) break;
    }
    abort.abort();
    expect(seen[0]?.index).toBe(lastIndex + 1);
    expect(seen.find(({ type }) => type === "published")?.data).toMatchObject({
      key: "price",
      value: { price: 4 },
    });
  });

  it("the stream of events ends when its actor is deleted", async () => {
    await (await client.getOrCreate(Ticker, "ending")).set(1);
    const types: string[] = [];
    for await (const { type } of client.actorEvents("Ticker", "ending")) {
      types.push(type);
      if (types.length === 4) await client.deleteActor("Ticker", "ending");
    }
    expect(types).toEqual(["actor.created", "turn.succeeded", "published", "turn.succeeded"]);
  });
});
