/** Messages to and from runs, against a real server process. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  ask,
  putAway,
  type ServerProcess,
  spore,
  startProject,
  startServer,
  until,
} from "./kit.ts";
import { account, approval, collector, countdown, publisher, slow } from "./project.ts";

let server: ServerProcess;
let client: ServerProcess["client"];

beforeAll(async () => {
  server = await startProject();
  client = server.client;
});

afterAll(putAway);

describe("a message that comes with a start", () => {
  const start = (name: string, json: object, query = "") =>
    ask(server, "POST", `/v1/workflows/${name}${query}`, { json });

  it("a signal starts the run that it is for, or finds it", async () => {
    const item = (value: string) => ({ id: "with_signal", signal: { name: "item", value } });
    const first = await client.start(collector.with(2), item("a"));
    await client.start(collector.with(2), item("b"));
    expect(await first.result()).toEqual(["a", "b"]);
    await expect(client.start(collector.with(2), item("c"))).rejects.toMatchObject({
      code: "run-closed",
    });
  });

  it("a repeated signal is delivered once, and starts nothing again", async () => {
    const send = (messageId: string, ifExists?: string) =>
      start("collector", {
        id: "repeated",
        args: [2],
        signal: { name: "item", value: messageId, messageId },
        ...(ifExists === undefined ? {} : { ifExists }),
      });
    const created = await send("m1");
    expect([created.status, created.body]).toMatchObject([
      201,
      { created: true, duplicate: false },
    ]);
    for (const ifExists of ["resume", "fail", "start", "terminate"]) {
      const again = await send("m1", ifExists);
      expect([again.status, again.body]).toMatchObject([200, { created: false, duplicate: true }]);
    }
    expect((await send("m2", "fail")).body.code).toBe("run-exists");
    expect((await send("m2", "start")).body).toMatchObject({ created: false, duplicate: false });
    expect(await client.getOutput("repeated")).toEqual(["m1", "m2"]);
    expect((await send("m3", "start")).body).toMatchObject({ created: true, duplicate: false });
  });

  it("the command line sends a signal with a run", async () => {
    const line = ["run", "waiter", "go", "--id", "by_cli", "--signal", 'go={"a":1}', "--json"];
    const { code, out } = await spore([...line, "--url", server.url]);
    expect([code, JSON.parse(out)]).toMatchObject([0, { output: { a: 1 } }]);
  });

  it("an update starts its run and answers with its result", async () => {
    const { handle, result } = await client.updateWithStart(
      account.with(100),
      { name: "deposit", args: [20] },
      { id: "with_update" },
    );
    expect(result).toBe(120);
    const deposit = (json: object, query = "") =>
      start("account", { id: "with_update", args: [100], ...json }, query);
    const update = { name: "deposit", args: [5], updateId: "u1" };
    const five = {
      id: "with_update",
      status: "RUNNING",
      created: false,
      callId: "u1",
      result: 125,
    };
    expect((await deposit({ update })).body).toEqual(five);
    expect((await deposit({ update }, "?wait=5s")).body).toEqual(five);
    const refused = await deposit({ update: { name: "deposit", args: [-1] } });
    expect(refused.body).toMatchObject({ code: "call-failed", created: false });
    expect(await handle.query("balance")).toBe(125);
  });

  it("an update to a workflow that ends at once is answered", async () => {
    const refused = await start("echo", { id: "gone", args: [1], update: { name: "deposit" } });
    expect(refused.body).toMatchObject({ code: "run-closed" });
    expect(await client.getOutput("gone")).toBe(1);
  });

  it("refuses two messages, an update before the beginning, and another input", async () => {
    const signal = { name: "item" };
    const update = { name: "deposit" };
    const both = await start("account", { args: [1], signal, update });
    expect(both.body.code).toBe("invalid-request");
    const startAt = new Date(Date.now() + 60_000).toISOString();
    const early = await start("account", { args: [1], startAt, update });
    expect(early.body.code).toBe("invalid-request");
    await client.start(account.with(1), { id: "with_input" });
    const other = await start("account", { id: "with_input", args: [7], update });
    expect(other.body.code).toBe("input-mismatch");
  });
});

describe("published values", () => {
  it("are there for who asks, now or when they come, also after the end", async () => {
    const run = await client.start(publisher.with(), { id: "publisher" });
    const path = "/v1/runs/publisher/published";
    const pending = await ask(server, "GET", `${path}/progress`);
    expect([pending.status, pending.body]).toEqual([202, { id: "publisher", status: "RUNNING" }]);
    await expect(run.published("progress", { timeoutMs: 20 })).rejects.toMatchObject({
      code: "timeout",
    });
    const coming = run.published("progress", { timeoutMs: 30_000 });
    await run.signal("begin");
    expect(await coming).toEqual({ done: 1 });
    await run.signal("more");
    expect(await run.published("name 0")).toBe(0);
    expect(await run.published("progress")).toEqual({ done: 2, at: new Date(5) });
    const missing = run.published("nobody").catch((error: unknown) => error);
    await run.signal("end");
    expect(await missing).toMatchObject({ code: "value-not-published" });
    await run.result();
    const after = await ask(server, "GET", `${path}/progress?wait=1s`);
    expect([after.status, after.body]).toEqual([
      200,
      { value: { done: 2, at: { $date: "1970-01-01T00:00:00.005Z" } }, at: expect.any(String) },
    ]);
  });

  it("are bounded in number and size; what is refused is in the history", async () => {
    const run = client.handle("publisher");
    const events = await run.history({ limit: 1000 });
    const refused = events.filter(({ type }) => type === "publish.refused");
    expect(refused.map(({ data }) => data.key)).toEqual([
      ...Array.from({ length: 7 }, (_, index) => `name ${63 + index}`),
      "large",
    ]);
    expect(await run.published("name 62")).toBe(62);
    await expect(run.published("name 63")).rejects.toMatchObject({ code: "value-not-published" });
  });

  it("go with their run", async () => {
    await client.deleteRun("publisher");
    const gone = await ask(server, "GET", "/v1/runs/publisher/published/progress");
    expect(gone.body.code).toBe("run-not-found");
    await client.start(publisher.with(), { id: "publisher" });
    const fresh = await ask(server, "GET", "/v1/runs/publisher/published/progress");
    expect(fresh.status).toBe(202);
  });

  it("survive a crash", async () => {
    const run = await client.start(publisher.with(), { id: "durable" });
    await run.signal("begin");
    await run.published("progress");
    const { folder } = server;
    await server.kill();
    server = await startServer({ folder });
    client = server.client;
    expect(await client.handle("durable").published("progress")).toEqual({ done: 1 });
  });
});

describe("events by token", () => {
  const hour = 3_600_000;
  const decide = (token: string, json: object) =>
    ask(server, "POST", `/v1/events/${token}`, { json });
  async function awaited(id: string, timeout = hour, after?: string): Promise<string> {
    const run = await client.start(approval.with(timeout, after), { id });
    const event = await run.published<{ token: string; url: string }>("event");
    expect(event.url).toBe(`${server.url}/v1/events/${event.token}`);
    return event.token;
  }

  it("resolve or reject once; the same again is a duplicate, another a conflict", async () => {
    const token = await awaited("resolved", hour, "end");
    const first = await decide(token, { value: { ok: 1 } });
    expect([first.status, first.body]).toEqual([200, { duplicate: false }]);
    expect((await decide(token, { value: { ok: 1 } })).body).toEqual({ duplicate: true });
    const other = await decide(token, { value: { ok: 2 } });
    expect([other.status, other.body.code]).toEqual([409, "event-decided"]);
    expect((await decide(token, { error: "no" })).status).toBe(409);
    await client.handle("resolved").signal("end");
    expect(await client.getOutput("resolved")).toEqual({ ok: 1 });
    expect((await decide(token, { value: { ok: 1 } })).body).toEqual({ duplicate: true });

    const refusing = await awaited("rejected");
    await decide(refusing, { error: { name: "Refused", message: "not today" } });
    expect(await client.getOutput("rejected")).toBe("Refused: not today");
    for (const json of [{}, { value: 1, error: "both" }, { surprise: 1 }]) {
      expect((await decide(refusing, json)).body.code).toBe("invalid-request");
    }
  });

  it("are decided by a person on a page whose GET decides nothing", async () => {
    const token = await awaited("page");
    const url = `${server.url}/v1/events/${token}`;
    expect((await client.handle("page").published<{ url: string }>("event")).url).toBe(url);
    for (let visit = 0; visit < 3; visit++) {
      const page = await fetch(url);
      expect(page.headers.get("content-type")).toBe("text/html; charset=utf-8");
      expect(page.headers.get("content-security-policy")).toMatch(/^default-src 'none';/);
      const html = await page.text();
      expect(html).toContain("ship &#60;order&#62; 7");
      expect(html).not.toMatch(/<script|<order>|page"/);
    }
    expect(await client.getStatus("page")).toBe("RUNNING");
    const headers = { "content-type": "application/x-www-form-urlencoded", origin: server.url };
    const answer = await fetch(`${url}?decision=approve`, { method: "POST", headers });
    expect([answer.status, await answer.text()]).toEqual([200, expect.stringContaining("Decided")]);
    expect(await client.getOutput("page")).toBe(true);
    expect(await (await fetch(url)).text()).toContain("has been decided");
  });

  it("say on a page that it is too late, to whoever can read one", async () => {
    const token = await awaited("late");
    const url = `${server.url}/v1/events/${token}`;
    await decide(token, { value: true });
    const seen: unknown[] = [];
    for (const [method, path] of [
      ["GET", `${url}x`],
      ["POST", `${url}x?decision=approve`],
      ["POST", `${url}?decision=decline`],
    ] as const) {
      const page = await fetch(path, { method, headers: { accept: "text/html,*/*;q=0.8" } });
      expect(page.headers.get("content-type")).toBe("text/html; charset=utf-8");
      seen.push([page.status, /<h1>(.*)<\/h1>/.exec(await page.text())?.[1]]);
    }
    const gone = [404, "Nothing to decide"];
    expect(seen).toEqual([gone, gone, [409, "Decided before"]]);
    expect((await ask(server, "GET", `/v1/events/${token}x`)).body.code).toBe("event-not-found");
  });

  it("that were tampered with, have expired or are over are the same 404", async () => {
    const token = await awaited("canceled");
    const expiring = await awaited("expired", 30);
    expect(await client.getOutput("expired")).toMatch(/^TimeoutError: nobody decided/);
    await client.handle("canceled").terminate();
    const deleted = await awaited("deleted");
    await client.handle("deleted").terminate();
    await client.deleteRun("deleted");
    await awaited("deleted");
    const tampered = `${token.slice(0, 20)}${token[20] === "A" ? "B" : "A"}${token.slice(21)}`;
    const seen = new Set<string>();
    for (const each of [token, expiring, deleted, tampered, "x", "%ff"]) {
      for (const method of ["GET", "POST"]) {
        const path = `/v1/events/${each}`;
        const given = method === "POST" ? { json: { value: 1 } } : {};
        const { status, body } = await ask(server, method, path, given);
        const { instance: _, requestId: __, ...rest } = body;
        seen.add(JSON.stringify([status, rest]));
      }
    }
    expect([...seen]).toEqual([expect.stringContaining("event-not-found")]);
  });

  it("outlive the host that issued them", async () => {
    const token = await awaited("crashed");
    const { folder } = server;
    await server.kill();
    server = await startServer({ folder, env: { SPORE_PUBLIC_URL: "https://spore.test/" } });
    client = server.client;
    expect((await decide(token, { value: 7 })).body).toEqual({ duplicate: false });
    await server.kill();
    server = await startServer({ folder, env: { SPORE_PUBLIC_URL: "https://spore.test/" } });
    client = server.client;
    expect((await decide(token, { value: 7 })).body).toEqual({ duplicate: true });
    expect(await client.getOutput("crashed")).toBe(7);
    const run = await client.start(approval.with(hour), { id: "public" });
    const { url } = await run.published<{ url: string }>("event");
    expect(url).toMatch(/^https:\/\/spore\.test\/v1\/events\//);
  });
});

describe("updates", () => {
  it("are accepted when their validator let them pass, and completed later", async () => {
    const run = await client.start(slow.with(), { id: "slow" });
    const update = await run.startUpdate("work", "a");
    expect(await run.query("done")).toEqual([]);
    const again = await ask(server, "POST", "/v1/runs/slow/updates/work?wait=accepted", {
      json: { args: ["a"], updateId: update.id },
    });
    expect([again.status, again.body]).toEqual([202, { callId: update.id }]);
    const result = update.result();
    await run.signal("end_a");
    expect(await result).toBe(1);
    const done = await ask(server, "POST", "/v1/runs/slow/updates/work?wait=accepted", {
      json: { args: ["a"], updateId: update.id },
    });
    expect([done.status, done.body]).toEqual([200, { callId: update.id, result: 1 }]);
  });

  it("that are rejected leave nothing behind", async () => {
    const run = client.handle("slow");
    const [before, info] = [await run.history(), await run.info()];
    await expect(run.startUpdate("work", "")).rejects.toThrow("work needs a name");
    await expect(run.update("work", "")).rejects.toThrow("work needs a name");
    expect(await run.history()).toEqual(before);
    expect(await run.query("done")).toEqual(["a"]);
    expect((await run.info()).waiting?.for).toBe(info.waiting?.for);
  });

  it("that were accepted survive a crash", async () => {
    const run = client.handle("slow");
    const { id } = await run.startUpdate("work", "b");
    const { folder } = server;
    await server.kill();
    server = await startServer({ folder });
    client = server.client;
    await client.handle("slow").signal("end_b");
    const done = await ask(server, "POST", "/v1/runs/slow/updates/work", {
      json: { args: ["b"], updateId: id },
    });
    expect(done.body).toEqual({ callId: id, result: 2 });
  });
});

describe("many runs at once", () => {
  const ids = (runs: readonly { readonly id: string }[]): string[] => runs.map(({ id }) => id);

  it("are listed by names and by when they were created", async () => {
    const before = new Date();
    for (const id of ["many_a", "many_b"]) await client.start(collector.with(1), { id });
    await until("the clock has moved", () => Date.now() > before.getTime() + 50);
    const middle = new Date();
    await client.start(slow.with(), { id: "many_c" });
    const all = { prefix: "many_", createdAfter: before };
    expect(ids(await client.listAll(all))).toEqual(["many_c", "many_b", "many_a"]);
    const older = await client.listAll({ ...all, createdBefore: middle });
    expect(ids(older)).toEqual(["many_b", "many_a"]);
    const page = await ask(
      server,
      "GET",
      `/v1/runs?limit=1&createdBefore=${middle.toISOString()}&createdAfter=${before.toISOString()}`,
    );
    expect(ids(page.body.runs as { id: string }[])).toEqual(["many_b"]);
    const next = await client.listAll({ createdAfter: middle, prefix: "many_" });
    expect(ids(next)).toEqual(["many_c"]);
    const exact = new Date((await client.handle("many_c").info()).createdAt);
    expect(ids(await client.listAll({ createdAfter: exact, prefix: "many_" }))).toEqual(["many_c"]);
    expect(await client.listAll({ createdAfter: exact, createdBefore: exact })).toEqual([]);
    const named = await client.listAll({ name: ["slow", "collector"], prefix: "many_" });
    expect(named).toHaveLength(3);
    expect(ids(await client.listAll({ name: ["slow"], prefix: "many_" }))).toEqual(["many_c"]);
  });

  it("are acted upon one by one, with what became of each", async () => {
    const filter = { prefix: "many_", name: "collector" };
    const dry = await client.bulk("pause", filter, { dryRun: true });
    expect(ids(dry)).toEqual(["many_b", "many_a"]);
    expect(await client.getStatus("many_a")).toBe("RUNNING");
    const paused = await client.bulk("pause", filter);
    expect(paused.map(({ status }) => status)).toEqual(["PAUSED", "PAUSED"]);
    await client.handle("many_a").terminate();
    const resumed = await client.bulk("resume", { ...filter, status: ["PAUSED", "CANCELED"] });
    expect(resumed).toMatchObject([
      { id: "many_b", status: "RUNNING" },
      { id: "many_a", status: "CANCELED", error: { code: "run-closed" } },
    ]);
    expect(ids(await client.bulk("delete", { prefix: "many_" }))).toEqual(["many_a"]);
    await expect(client.getStatus("many_a")).rejects.toMatchObject({ code: "run-not-found" });
  });

  it("are taken page by page", async () => {
    for (let index = 0; index < 5; index++) {
      await client.start(collector.with(1), { id: `page_${index}` });
    }
    const seen: string[] = [];
    let cursor: unknown;
    do {
      const { body } = await ask(server, "POST", "/v1/runs/bulk", {
        json: { action: "terminate", filter: { prefix: "page_" }, limit: 2, cursor },
      });
      seen.push(...ids(body.runs as { id: string }[]));
      cursor = body.cursor;
    } while (cursor !== undefined);
    expect(seen).toEqual(["page_4", "page_3", "page_2", "page_1", "page_0"]);
  });

  it("are canceled on the command line only after a yes", async () => {
    const line = ["cancel", "--prefix", "many_", "--status", "running", "--url", server.url];
    const shown = await spore([...line, "--json"]);
    expect([shown.code, shown.out]).toEqual([2, expect.stringContaining('"many_c"')]);
    expect(await client.getStatus("many_c")).toBe("RUNNING");
    expect((await spore(["cancel", "--url", server.url])).code).toBe(2);
    expect((await spore([...line, "--yes"])).code).toBe(0);
    await until("they are canceled", async () => (await client.getStatus("many_c")) === "CANCELED");
    expect(await client.getStatus("many_b")).toBe("CANCELED");
  });
});

describe("the steps of a long run", () => {
  it("are all there, each once, page by page", async () => {
    await client.run(countdown.step(2100), { id: "long" });
    const steps = await client.handle("long").steps();
    expect(steps).toHaveLength(2101);
    expect(new Set(steps.map(({ step }) => step)).size).toBe(2101);
    expect(steps.slice(0, 2100).every(({ status }) => status === "CONTINUED")).toBe(true);
    const page = await ask(server, "GET", "/v1/runs/long/steps?after=2099&limit=5");
    const names = (page.body.steps as { step: string; status: string }[]).map(
      ({ step, status }) => [step, status],
    );
    expect(names).toEqual(steps.slice(2099).map(({ step, status }) => [step, status]));
  });
});
