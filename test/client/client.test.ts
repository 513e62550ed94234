import { describe, expect, expectTypeOf, it } from "vitest";
import { ClientError, createClient } from "../../client/index.ts";
import { decode, encode } from "../../guest/cbor.ts";
import { actor, step, workflow } from "../../guest/define.ts";
import { SporeError } from "../../runtime/errors.ts";
import { createKit, type Kit } from "../api/kit.ts";

const echo = workflow("echo", async (value: unknown) => value);
const wait = workflow("wait", async (): Promise<number> => 0);
const boom = workflow("boom", async (): Promise<number> => 0);
const one = step("one", () => 1);
const add = step("add", (a: number, b: number) => a + b);
const Counter = actor(
  "Counter",
  class {
    n: number;
    constructor(n = 0) {
      this.n = n;
    }
    incr(by = 1) {
      this.n += by;
      return this.n;
    }
    throws() {}
    value() {
      return this.n;
    }
  },
  { readonly: ["value"] },
);

/** A client whose requests go straight into an API over the fake host. */
function connect(kit: Kit = createKit(), through: (request: Request) => void = () => undefined) {
  const requests: Request[] = [];
  const client = createClient({
    url: "http://localhost",
    fetch: async (request) => {
      requests.push(request);
      through(request);
      const path = request.url.slice("http://localhost".length);
      const body = request.body === null ? {} : { body: await request.arrayBuffer() };
      const { method, headers, signal } = request;
      return kit.fetch(path, { method, headers, signal, ...body });
    },
  });
  return { client, requests, kit };
}

function refusal(): Response {
  return Response.json({ code: "body-too-large", detail: "too large" }, { status: 413 });
}

/**
 * A counter at a host that keeps the order of sessions: a call waits for those before it until
 * its request is ended, for ever. `meet` answers or loses calls before the host sees them.
 */
function ordering(meet: (by: number) => Response | undefined) {
  const executed: number[] = [];
  const sessions = new Map<string, { last: number; next: PromiseWithResolvers<void> }>();
  const client = createClient({
    url: "http://localhost",
    fetch: async (request) => {
      if (request.method !== "POST") return new Response("{}", { status: 404 });
      const { args } = decode(new Uint8Array(await request.arrayBuffer())) as { args: [number] };
      const met = meet(args[0]);
      if (met !== undefined) return met;
      request.signal.throwIfAborted();
      const ended = new Promise<never>((_, reject) => {
        request.signal.addEventListener("abort", () => reject(request.signal.reason));
      });
      const name = request.headers.get("spore-session") ?? "";
      const seq = Number(request.headers.get("spore-seq"));
      const session = sessions.get(name) ?? { last: 0, next: Promise.withResolvers<void>() };
      sessions.set(name, session);
      session.last = Math.max(session.last, Number(request.headers.get("spore-answered")));
      while (session.last < seq - 1) await Promise.race([session.next.promise, ended]);
      executed.push(args[0]);
      session.last = seq;
      session.next.resolve();
      session.next = Promise.withResolvers<void>();
      return new Response(new Uint8Array(encode({ callId: String(seq), result: args[0] })));
    },
  });
  return { counter: client.actor(Counter, "c"), executed };
}

describe("running", () => {
  it("gives the output of a workflow with its rich values", async () => {
    const { client } = connect();
    const value = { at: new Date(7), parts: new Map([[1, new Set(["x"])]]), big: 2n ** 70n };
    const output = await client.run(echo.with(value), { id: "a" });
    expect(output).toEqual(value);
  });

  it("sends a graph with its nodes, and a shared node as one", async () => {
    const { client, kit } = connect();
    const shared = one.step();
    await client.start(add.step(shared, shared), { id: "g" });
    const request = kit.host.asked[0]?.args[0] as { root: Uint8Array };
    expect(decode(request.root)).toMatchObject({
      $step: "add",
      args: [{ $step: "one", args: [] }, { $ref: expect.any(Number) }],
    });
  });

  it.each([
    [
      0,
      "0 can't be run: give a workflow with its arguments, order.with(…), or a node, add.step(…)",
    ],
    [undefined, "undefined can't be run: give a workflow"],
    [{}, "give a workflow with its arguments"],
    [boom, "of workflow boom the arguments are missing: give .with(…)"],
    [add, "of step add the arguments are missing: give .step(…)"],
  ])("says what to give instead of %s", async (what, message) => {
    const { client, requests } = connect();
    const error = await client.run(what as never).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(TypeError);
    expect((error as Error).message).toContain(message);
    await expect(client.start(what as never)).rejects.toThrow(message);
    expect(requests).toEqual([]);
  });

  it("rejects with the user's own error when the run failed", async () => {
    const { client } = connect();
    const error: unknown = await client.run(boom.with()).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(Error);
    expect(error).not.toBeInstanceOf(ClientError);
    expect(error).toMatchObject({
      name: "PaymentError",
      message: "card declined",
      code: "declined",
      at: new Date(0),
    });
  });

  it("rejects with code and cause when the run was canceled", async () => {
    const { client } = connect();
    const handle = await client.start(wait.with(), { id: "a" });
    expect((await handle.cancel("enough")).status).toBe("CANCELED");
    const error: unknown = await handle.result().catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "run-canceled", kind: "conflict", status: 409 });
    expect((error as Error).cause).toMatchObject({ name: "CancelledError" });
  });

  it("waits until a signal ends the run", async () => {
    const { client } = connect();
    const handle = await client.start(wait.with());
    const result = handle.result();
    await handle.signal("go", 42);
    expect(await result).toBe(42);
    expect(await client.getStatus(handle.id)).toBe("SUCCESSFUL");
    expect(await client.getOutput(handle.id)).toBe(42);
  });

  it("gives up waiting after its timeout, while the run goes on", async () => {
    const { client } = connect();
    const handle = await client.start(wait.with(), { id: "a" });
    await expect(handle.result({ timeoutMs: 1 })).rejects.toMatchObject({
      code: "timeout",
      message: "no output of run a within 1 ms",
    });
    expect(await handle.status()).toBe("RUNNING");
  });

  it("makes one run of a start that had to be sent twice", async () => {
    let isFirst = true;
    const { client, kit, requests } = connect(createKit(), () => {
      if (!isFirst) return;
      isFirst = false;
      throw new TypeError("fetch failed");
    });
    await client.start(wait.with());
    const keys = requests.map((request) => request.headers.get("idempotency-key"));
    expect(keys).toHaveLength(2);
    expect(keys[0]).toBe(keys[1]);
    expect(await client.listAll()).toHaveLength(1);
    expect(kit.host.asked.filter((entry) => entry.call === "startRun")).toHaveLength(1);
  });

  it("tries again when the host is busy, but not when the start would act twice", async () => {
    const { client, kit } = connect();
    kit.host.failNext = new SporeError("host-stopping", "moving");
    await client.start(wait.with(), { id: "a" });
    kit.host.failNext = new SporeError("host-stopping", "moving");
    const error = await client
      .start(wait.with(), { id: "a", ifExists: "terminate" })
      .catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "host-stopping", kind: "unavailable" });
    kit.host.failNext = new SporeError("peer-refused", "nobody took it");
    await client.start(wait.with(), { id: "b", ifExists: "terminate" });
  }, 10_000);

  it("says what to do when no host answers", async () => {
    const client = createClient({
      attemptsMax: 1,
      fetch: async () => {
        throw new TypeError("fetch failed");
      },
    });
    await expect(client.listAll()).rejects.toMatchObject({
      code: "unreachable",
      kind: "unavailable",
      hint: expect.stringContaining("spore dev"),
    });
  });
});

describe("looking", () => {
  it("shows steps, history and events with rich values", async () => {
    const { client } = connect();
    const handle = await client.start(echo.with(new Date(3)), { id: "a", metadata: { by: "me" } });
    expect((await handle.steps())[0]).toMatchObject({ step: "one_0", value: new Date(0) });
    expect((await client.getMetadata("a", "one_0")).attempt).toBe(1);
    expect((await client.getMetadata("a")).metadata).toEqual({ by: "me" });
    const history = await handle.history();
    const events = [];
    for await (const event of handle.events()) events.push(event);
    expect(events).toEqual(history);
    expect(events[1]?.data.value).toEqual(new Date(3));
  });

  it("asks queries and updates", async () => {
    const { client } = connect();
    const handle = await client.start(wait.with(), { id: "a" });
    expect(await handle.query("progress", 1, "x")).toEqual([1, "x"]);
    expect(await handle.update("rename", new Date(1))).toEqual([new Date(1)]);
    await expect(handle.query("throws")).rejects.toMatchObject({ name: "PaymentError" });
  });

  it("names what is missing", async () => {
    const { client } = connect();
    const error: unknown = await client.getStatus("nobody").catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ClientError);
    expect(error).toMatchObject({ code: "run-not-found", kind: "missing", status: 404 });
    expect((error as ClientError).requestId).toMatch(/^[0-9a-f]{16}$/);
  });
});

describe("actors", () => {
  it("numbers writes in the order in which they were made, and reads between them", async () => {
    const { client, requests } = connect();
    await client.deploy("1");
    requests.length = 0;
    const counter = client.actor(Counter, "c");
    const calls = [
      counter.incr(5),
      counter.incr(),
      counter.value(),
      counter.incr(),
      counter.value(),
    ];
    expect(await Promise.all(calls)).toEqual([5, 6, 6, 7, 7]);
    const posts = requests.filter((request) => request.method === "POST");
    expect(
      posts.map(({ url, headers }) => [url.split("/").at(-1), headers.get("spore-seq")]),
    ).toEqual([
      ["incr", "1"],
      ["incr", "2"],
      ["value", null],
      ["incr", "3"],
      ["value", null],
    ]);
    const sessions = new Set(posts.map(({ headers }) => headers.get("spore-session")));
    sessions.delete(null);
    expect(sessions.size).toBe(1);
  });

  it("learns from an answer that a call only read, and leaves no gap", async () => {
    const { client, requests } = connect();
    const counter = client.actor(Counter, "c");
    await counter.value();
    await counter.incr();
    await counter.value();
    const posts = requests.filter((request) => request.method === "POST");
    expect(posts.map(({ headers }) => headers.get("spore-seq"))).toEqual(["1", "1", null]);
    const [first, second] = posts.map(({ headers }) => headers.get("spore-session"));
    expect(first).not.toBe(second);
  });

  it("begins another session after a call that the host did not take", async () => {
    const { client, kit, requests } = connect();
    await client.deploy("1");
    const counter = client.actor(Counter, "c");
    await counter.value();
    requests.length = 0;
    kit.host.failNext = new SporeError("actor-not-found", "there is no Counter c");
    await expect(counter.incr()).rejects.toMatchObject({ code: "actor-not-found" });
    await counter.incr();
    const [first, second] = requests.map(({ headers }) => headers);
    expect(second?.get("spore-session")).not.toBe(first?.get("spore-session"));
    expect(second?.get("spore-seq")).toBe("1");
  });

  it("says which of its calls are answered, so that none is waited for in vain", async () => {
    const { client, requests } = connect();
    await client.deploy("1");
    const counter = client.actor(Counter, "c");
    await counter.incr();
    requests.length = 0;
    await Promise.all([counter.incr(), counter.incr()]);
    await counter.incr();
    const sent = requests.map(({ headers }) => [
      headers.get("spore-seq"),
      headers.get("spore-answered"),
    ]);
    expect(sent).toEqual([
      ["2", "1"],
      ["3", "1"],
      ["4", "3"],
    ]);
  });

  it("lets calls go on behind one that the host refused, in their order", async () => {
    const { counter, executed } = ordering((by) => (by === 400 ? refusal() : undefined));
    const calls = [counter.incr(1), counter.incr(400), counter.incr(3), counter.incr(4)];
    await expect(calls[1]).rejects.toMatchObject({ code: "body-too-large" });
    await Promise.all([counter.incr(5), calls[0], calls[2], calls[3]]);
    expect(executed).toEqual([1, 3, 4, 5]);
  });

  it("lets no call overtake one that is repeated, when one between them was refused", async () => {
    let losses = 0;
    const { counter, executed } = ordering((by) => {
      if (by === 1 && losses++ < 3) throw new TypeError("no connection");
      return by === 400 ? refusal() : undefined;
    });
    const first = counter.incr(1);
    await expect(counter.incr(400)).rejects.toMatchObject({ code: "body-too-large" });
    await Promise.all([counter.incr(3), first]);
    expect(executed).toEqual([1, 3]);
  });

  it("asks for times of a run as instants, and for management by type and key", async () => {
    const asked: string[] = [];
    const client = createClient({
      url: "http://localhost",
      attemptsMax: 1,
      fetch: async (request) => {
        const body = request.body === null ? undefined : decode(await request.bytes());
        asked.push(`${request.method} ${request.url.slice(16)} ${JSON.stringify(body) ?? ""}`);
        return Response.json({}, { status: 501 });
      },
    });
    const times = { startAt: new Date(1000), deadline: new Date(2000) };
    const work = [
      () => client.start(wait.with(), { id: "a", ...times }),
      () => client.listActorsPage({ type: "Cart", prefix: "a", limit: 5 }),
      () => client.actorState("Cart", "a b"),
      () => client.editActor("Cart", "a", { state: { n: 1 }, turns: 2 }),
      () => client.forkActor("Cart", "a", "b"),
      () => client.actorHistory("Cart", "a", { from: 3 }),
      () => client.resumeActor("Cart", "a"),
      () => client.upgradeActors({ type: "Cart", prefix: "a" }),
      () => client.rollBackActor("Cart", "a"),
    ];
    for (const ask of work) await expect(ask()).rejects.toThrow();
    expect(asked).toEqual([
      'POST /v1/workflows/wait {"id":"a","startAt":"1970-01-01T00:00:01.000Z","deadline":"1970-01-01T00:00:02.000Z","args":[]}',
      "GET /v1/actors?type=Cart&keyPrefix=a&limit=5 ",
      "GET /v1/actors/Cart/a%20b/state ",
      'PUT /v1/actors/Cart/a/state {"state":{"n":1},"turns":2}',
      'POST /v1/actors/Cart/a/control/fork {"into":"b"}',
      "GET /v1/actors/Cart/a/history?from=3 ",
      "POST /v1/actors/Cart/a/control/resume {}",
      'POST /v1/actor-upgrades {"type":"Cart","keyPrefix":"a"}',
      "POST /v1/actors/Cart/a/control/rollback {}",
    ]);
  });

  it("rejects with the error that the method threw", async () => {
    const { client } = connect();
    await expect(client.actor(Counter, "c").throws()).rejects.toMatchObject({
      name: "PaymentError",
      message: "card declined",
    });
  });

  it("sends without waiting for the result, and creates with arguments", async () => {
    const { client } = connect();
    const counter = await client.getOrCreate(Counter, "c", 10);
    expect(await counter.send.incr(1)).toBeUndefined();
    expect(await counter.value()).toBe(11);
    expect(counter.ref).toEqual({ type: "Counter", key: "c" });
    expect((await client.getActor("Counter", "c")).turns).toBe(1);
  });
});

describe("types", () => {
  it("flow from the definitions to what the client gives", () => {
    const { client } = connect();
    expectTypeOf(client.run<number>).returns.resolves.toBeNumber();
    const runs = () => [client.run(wait.with()), client.run(add.step(100, one.step()))] as const;
    expectTypeOf(runs).returns.toEqualTypeOf<readonly [Promise<number>, Promise<number>]>();
    const calls = () => client.actor(Counter, "c").incr(5);
    expectTypeOf(calls).returns.toEqualTypeOf<Promise<number>>();
    // @ts-expect-error: incr takes a number
    const wrong = () => client.actor(Counter, "c").incr("5");
    expect(wrong).toBeTypeOf("function");
  });
});
