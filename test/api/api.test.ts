import { describe, expect, it } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import { createTenants } from "../../host/tenants.ts";
import { SporeError } from "../../runtime/errors.ts";
import { createKit, digest } from "./kit.ts";

const cbor = { "content-type": "application/cbor", accept: "application/cbor" };

describe("starting runs", () => {
  it("answers 201 with the run's id, and 200 for the same input again", async () => {
    const { post } = createKit();
    const first = await post("/v1/workflows/wait", { id: "a", args: [1] });
    expect(first.status).toBe(201);
    expect(first.headers.get("location")).toBe("/v1/runs/a");
    expect(await first.json()).toEqual({ id: "a", status: "RUNNING", created: true });
    const second = await post("/v1/workflows/wait", { id: "a", args: [1] });
    expect(second.status).toBe(200);
    expect(await second.json()).toEqual({ id: "a", status: "RUNNING", created: false });
  });

  it("answers 409 to another input under the same id", async () => {
    const { post } = createKit();
    await post("/v1/workflows/wait", { id: "a", args: [1] });
    const other = await post("/v1/workflows/wait", { id: "a", args: [2] });
    expect(other.status).toBe(409);
    expect((await other.json()).code).toBe("input-mismatch");
  });

  it("waits for the output when asked to", async () => {
    const { post } = createKit();
    const done = await post("/v1/workflows/echo?wait=30s", { id: "a", args: [{ x: 1 }] });
    expect(done.status).toBe(201);
    expect(await done.json()).toEqual({
      id: "a",
      status: "SUCCESSFUL",
      created: true,
      output: { x: 1 },
    });
  });

  it("answers 202 with a Location when the wait was in vain", async () => {
    const { post } = createKit();
    const pending = await post("/v1/workflows/wait?wait=500ms", { id: "a" });
    expect(pending.status).toBe(202);
    expect(pending.headers.get("location")).toBe("/v1/runs/a/output");
  });

  it("starts a body that has no content at all", async () => {
    const { fetch } = createKit();
    expect((await fetch("/v1/workflows/wait", { method: "POST" })).status).toBe(201);
  });

  it("starts a graph, and hands its root on as it is", async () => {
    const { post, host } = createKit();
    const root = { $step: "add", args: [100, { $step: "one", args: [] }] };
    expect((await post("/v1/graphs", { root })).status).toBe(201);
    const request = host.asked[0]?.args[0] as { root: Uint8Array };
    expect(decode(request.root)).toEqual(root);
  });

  it("gives one run to requests that share an Idempotency-Key", async () => {
    const { post } = createKit();
    const key = { "idempotency-key": "order-1" };
    const first = await (await post("/v1/workflows/wait", { args: [1] }, key)).json();
    const again = await (await post("/v1/workflows/wait", { args: [1] }, key)).json();
    expect(again).toEqual({ ...first, created: false });
    const other = await post("/v1/workflows/wait", { args: [2] }, key);
    expect(other.status).toBe(409);
    expect((await other.json()).code).toBe("idempotency-mismatch");
  });

  it("does not retry a failed run because its start was repeated", async () => {
    const { post, host } = createKit();
    const key = { "idempotency-key": "order-1" };
    await post("/v1/workflows/boom", {}, key);
    const again = await post("/v1/workflows/boom", {}, key);
    expect((await again.json()).status).toBe("FAILED");
    const modes = host.asked
      .filter((entry) => entry.call === "startRun")
      .map((entry) => (entry.args[0] as { ifExists: string }).ifExists);
    expect(modes).toEqual(["fail", "fail"]);
  });
});

describe("outputs", () => {
  it("is 409 run-failed with the run's own error inside", async () => {
    const { post, fetch } = createKit();
    await post("/v1/workflows/boom", { id: "a" });
    const failed = await fetch("/v1/runs/a/output");
    expect(failed.status).toBe(409);
    expect(failed.headers.get("content-type")).toBe("application/problem+json");
    const problem = await failed.json();
    expect(problem).toMatchObject({
      type: "/errors/run-failed",
      title: "Run failed",
      status: 409,
      code: "run-failed",
      instance: "/v1/runs/a/output",
      id: "a",
      error: {
        name: "PaymentError",
        message: "card declined",
        code: "declined",
        details: { at: { $date: "1970-01-01T00:00:00.000Z" } },
      },
    });
    expect(problem.requestId).toBe(failed.headers.get("x-request-id"));
  });

  it("is 409 run-canceled for a canceled run", async () => {
    const { post, fetch } = createKit();
    await post("/v1/workflows/wait", { id: "a" });
    await post("/v1/runs/a/cancel", { reason: "no more" });
    expect((await (await fetch("/v1/runs/a/output")).json()).code).toBe("run-canceled");
  });

  it("long-polls until the run ends", async () => {
    const { post, fetch } = createKit();
    await post("/v1/workflows/wait", { id: "a" });
    const waiting = fetch("/v1/runs/a/output?wait=30s");
    await post("/v1/runs/a/signals/go", { value: 7 });
    const done = await waiting;
    expect(done.status).toBe(200);
    expect(await done.json()).toEqual({ id: "a", status: "SUCCESSFUL", output: 7 });
  });

  it("cuts a wait to 300 seconds and passes the step on", async () => {
    const { post, fetch, host } = createKit();
    await post("/v1/workflows/echo", { id: "a", args: [1] });
    await fetch("/v1/runs/a/output?wait=2h&step=one_3");
    expect(host.asked.at(-1)?.args).toEqual(["a", { waitMs: 300_000, step: "one_3" }]);
  });

  it("leaves `output` out of JSON when it is undefined", async () => {
    const { post } = createKit();
    const done = await post("/v1/workflows/echo?wait=1s", { id: "a" });
    expect(await done.json()).toEqual({ id: "a", status: "SUCCESSFUL", created: true });
  });
});

describe("formats", () => {
  it("takes and gives rich values as CBOR", async () => {
    const { fetch } = createKit();
    const value = { at: new Date(5), big: 2n ** 80n, set: new Set([1]), map: new Map([[1, "x"]]) };
    const response = await fetch("/v1/workflows/echo?wait=1s", {
      method: "POST",
      headers: cbor,
      body: encode({ args: [value] }) as BodyInit,
    });
    expect(response.headers.get("content-type")).toBe("application/cbor");
    const answer = decode(new Uint8Array(await response.arrayBuffer()));
    expect(answer).toMatchObject({ created: true, output: value });
  });

  it("takes and gives rich values as tagged JSON", async () => {
    const { post } = createKit();
    const args = [{ at: { $date: "1970-01-01T00:00:00.005Z" }, big: { $bigint: "12" } }];
    const response = await post("/v1/workflows/echo?wait=1s", { args });
    expect((await response.json()).output).toEqual(args[0]);
  });

  it("gives problems as CBOR to those who ask for CBOR", async () => {
    const { fetch } = createKit();
    const response = await fetch("/v1/runs/nobody", { headers: { accept: "application/cbor" } });
    expect(response.status).toBe(404);
    const problem = decode(new Uint8Array(await response.arrayBuffer()));
    expect(problem).toMatchObject({ code: "run-not-found", status: 404 });
  });

  it("shows times as ISO text and leaves absent members out of CBOR", async () => {
    const { fetch, post } = createKit();
    await post("/v1/workflows/wait", { id: "a", metadata: { by: "me" } });
    const response = await fetch("/v1/runs/a", { headers: { accept: "application/cbor" } });
    const run = decode(new Uint8Array(await response.arrayBuffer())) as object;
    expect(run).toMatchObject({ createdAt: "2026-01-02T03:04:05.000Z", metadata: { by: "me" } });
    expect(Object.hasOwn(run, "closedAt")).toBe(false);
  });
});

describe("refusals", () => {
  it.each([
    ["POST", "/v1/workflows/echo", "{", 400, "invalid-json"],
    ["POST", "/v1/workflows/echo", '{"args":[1,]}', 400, "invalid-json"],
    ["POST", "/v1/workflows/echo", '{"args":[{"$date":"never"}]}', 400, "invalid-json"],
    ["POST", "/v1/workflows/echo", '{"args":[{"__proto__":{"x":1}}]}', 400, "invalid-json"],
    [
      "POST",
      "/v1/workflows/echo",
      `{"args":${"[".repeat(5000)}${"]".repeat(5000)}}`,
      400,
      "invalid-json",
    ],
    ["POST", "/v1/workflows/echo", '{"args":{}}', 400, "invalid-request"],
    ["POST", "/v1/workflows/echo", '{"arguments":[]}', 400, "invalid-request"],
    ["POST", "/v1/workflows/echo", "[]", 400, "invalid-request"],
    ["POST", "/v1/workflows/echo", '{"ifExists":"maybe"}', 400, "invalid-request"],
    ["POST", "/v1/workflows/echo?wait=soon", "{}", 400, "invalid-request"],
    ["POST", "/v1/graphs", '{"root":1}', 400, "invalid-graph"],
    ["POST", "/v1/workflows/echo", '{"id":".."}', 400, "invalid-id"],
    ["POST", "/v1/workflows/echo", '{"id":"a/b"}', 400, "invalid-id"],
    ["POST", "/v1/workflows/echo", '{"id":""}', 400, "invalid-id"],
    ["POST", "/v1/workflows/echo", `{"id":"${"x".repeat(201)}"}`, 400, "invalid-id"],
    ["GET", "/v1/runs/a%2Fb", undefined, 400, "invalid-id"],
    ["GET", "/v1/runs/a%00b", undefined, 400, "invalid-id"],
    ["GET", "/v1/runs/%252e%252e", undefined, 400, "invalid-id"],
    ["GET", "/v1/runs/%ff", undefined, 400, "invalid-id"],
    ["GET", "/v1/runs/...", undefined, 400, "invalid-id"],
    ["GET", "/v1/runs?status=DONE", undefined, 400, "invalid-request"],
    ["GET", "/v1/runs?limit=0", undefined, 400, "invalid-request"],
    ["GET", "/v1/runs?limit=1001", undefined, 400, "invalid-request"],
    ["GET", "/v1/runs/nobody", undefined, 404, "run-not-found"],
    ["POST", "/v1/workflows/missing", "{}", 404, "workflow-not-found"],
    ["GET", "/v1/nothing", undefined, 404, "route-not-found"],
    ["PATCH", "/v1/runs/a", "{}", 404, "route-not-found"],
    ["GET", "/v1/components/current", undefined, 404, "no-component"],
  ])("%s %s %s is %i %s", async (method, path, body, status, code) => {
    const { fetch } = createKit();
    const headers = { "content-type": "application/json" };
    const response = await fetch(path, {
      method,
      headers,
      ...(body === undefined ? {} : { body }),
    });
    const problem = await response.json();
    expect([response.status, problem.status, problem.code]).toEqual([status, status, code]);
    expect(problem.type).toBe(`/errors/${code}`);
    expect(({} as { x?: number }).x).toBeUndefined();
  });

  it("names the position of bad JSON and the path of a bad member", async () => {
    const { post } = createKit();
    const json = await (await post("/v1/workflows/echo", '{\n "args": [1,]}')).json();
    expect(json.detail).toContain("position 14 (line 2, column 13)");
    const schema = await (await post("/v1/workflows/echo", { tags: { a: 1 } })).json();
    expect(schema.errors[0].path).toBe("body.tags.a");
  });

  it("refuses a body over the limit, declared or streamed", async () => {
    const { fetch } = createKit({ limits: { bodyBytesMax: 1000 } });
    const init = { method: "POST", headers: { "content-type": "application/json" } };
    const declared = await fetch("/v1/workflows/echo", {
      ...init,
      headers: { ...init.headers, "content-length": "5000" },
      body: " ".repeat(5000),
    });
    expect([declared.status, (await declared.json()).code]).toEqual([413, "body-too-large"]);
    let pulled = 0;
    const endless = new ReadableStream({
      pull(controller) {
        pulled++;
        controller.enqueue(new Uint8Array(600));
      },
    });
    const streamed = await fetch("/v1/workflows/echo", {
      ...init,
      body: endless,
      duplex: "half",
    } as RequestInit);
    expect(streamed.status).toBe(413);
    expect(pulled).toBeLessThan(5);
  });

  it("refuses content types and encodings that it does not know", async () => {
    const { post } = createKit();
    const xml = await post("/v1/workflows/echo", "<a/>", { "content-type": "text/xml" });
    expect([xml.status, (await xml.json()).code]).toEqual([415, "unsupported-media-type"]);
    const zipped = await post("/v1/workflows/echo", "{}", { "content-encoding": "gzip" });
    expect(zipped.status).toBe(415);
  });

  it("keeps internals out of the answer and in the log", async () => {
    const { fetch, host, logged } = createKit();
    host.failNext = new TypeError("secret path /etc/x");
    const response = await fetch("/v1/runs/a");
    expect(response.status).toBe(500);
    const text = await response.text();
    expect(text).not.toContain("secret");
    expect(logged[0]?.fields).toMatchObject({ code: "internal", path: "/v1/runs/a" });
  });

  it("asks to retry when the host can't serve now", async () => {
    const { fetch, host } = createKit();
    for (const code of ["store-unavailable", "partition-moved"] as const) {
      host.failNext = new SporeError(code, "not now");
      const response = await fetch("/v1/runs/a");
      expect([response.status, response.headers.get("retry-after")]).toEqual([503, "1"]);
    }
  });
});

describe("messages and actors", () => {
  it("derives the id of a signal, an update and a call from the Idempotency-Key", async () => {
    const { post, host } = createKit();
    const key = { "idempotency-key": "k" };
    await post("/v1/workflows/wait", { id: "a" });
    await post("/v1/runs/a/signals/hello", { value: 1 }, key);
    await post("/v1/runs/a/updates/rename", { args: [1] }, key);
    const first = await (await post("/v1/actors/Counter/c/incr", { args: [5] }, key)).json();
    const again = await (await post("/v1/actors/Counter/c/incr", { args: [5] }, key)).json();
    expect(again).toEqual(first);
    expect(first.result).toBe(5);
    const ids = host.asked.map(({ call, args }) => {
      if (call === "signalRun") return (args[3] as { messageId: string }).messageId;
      if (call === "updateRun") return (args[3] as { updateId: string }).updateId;
      return undefined;
    });
    const derived = ids.filter((id) => id !== undefined);
    expect(derived).toHaveLength(2);
    for (const id of derived) expect(id).toMatch(/^ik_[0-9a-f]{32}$/);
    expect(derived[0]).not.toBe(derived[1]);
  });

  it("passes session and position of a call on, and refuses half of them", async () => {
    const { post, host } = createKit();
    const headers = { "spore-session": "s1", "spore-seq": "3" };
    await post("/v1/actors/Counter/c/incr", {}, headers);
    expect(host.asked.at(-1)?.args[0]).toMatchObject({ session: { id: "s1", seq: 3 } });
    const half = await post("/v1/actors/Counter/c/incr", {}, { "spore-seq": "3" });
    expect(half.status).toBe(400);
  });

  it("answers an asynchronous call with 202 and where its result will be", async () => {
    const { post, fetch } = createKit();
    const accepted = await post("/v1/actors/Counter/c/incr?async=1", { args: [2] });
    expect(accepted.status).toBe(202);
    const { callId } = await accepted.json();
    const location = accepted.headers.get("location") ?? "";
    expect(location).toBe(`/v1/actors/Counter/c/calls/${callId}`);
    expect(await (await fetch(`${location}?wait=1s`)).json()).toEqual({ callId, result: 2 });
  });

  it("answers 409 call-failed with the guest's error when a method throws", async () => {
    const { post } = createKit();
    const response = await post("/v1/actors/Counter/c/throws");
    expect(response.status).toBe(409);
    expect(await response.json()).toMatchObject({
      code: "call-failed",
      error: { name: "PaymentError", message: "card declined" },
    });
  });

  it("creates an actor once", async () => {
    const { fetch } = createKit();
    const put = { method: "PUT", headers: { "content-type": "application/json" }, body: "{}" };
    expect((await fetch("/v1/actors/Counter/c", put)).status).toBe(201);
    expect((await fetch("/v1/actors/Counter/c", put)).status).toBe(200);
    expect(await (await fetch("/v1/actors/Counter/c")).json()).toMatchObject({
      key: "c",
      turns: 1,
    });
    expect((await fetch("/v1/actors/Counter/c", { method: "DELETE" })).status).toBe(204);
    expect((await fetch("/v1/actors/Counter/c")).status).toBe(404);
  });
});

describe("events by token", () => {
  it("need no key, and show nothing that a page could run", async () => {
    const { fetch, post } = createKit({ keys: [{ tenant: "acme", sha256: "0".repeat(64) }] });
    const page = await fetch("/v1/events/good");
    expect([page.status, page.headers.get("referrer-policy")]).toEqual([200, "same-origin"]);
    expect(await page.text()).toContain("&#60;b&#62;ship&#60;/b&#62;");
    const decided = await post("/v1/events/good", { value: 1 });
    expect([decided.status, await decided.json()]).toEqual([200, { duplicate: false }]);
    expect((await post("/v1/events/bad", { value: 1 })).status).toBe(404);
    expect((await fetch("/v1/events/bad")).status).toBe(404);
    expect((await post("/v1/runs/bulk", { action: "cancel", filter: {} })).status).toBe(401);
  });
});

describe("listing", () => {
  it("takes several statuses, repeated or with commas", async () => {
    const { fetch, host } = createKit();
    await fetch("/v1/runs?status=RUNNING,failed&status=PAUSED&name=x&limit=5&tag=a:b:c");
    expect(host.asked.at(-1)?.args[0]).toMatchObject({
      statuses: ["RUNNING", "FAILED", "PAUSED"],
      names: ["x"],
      limit: 5,
      tag: { key: "a", value: "b:c" },
    });
  });
});

describe("event stream", () => {
  it("sends history, then what happens, and ends with the closing event", async () => {
    const { fetch, post } = createKit();
    await post("/v1/workflows/wait", { id: "a" });
    const response = await fetch("/v1/runs/a/events");
    expect(response.headers.get("content-type")).toBe("text/event-stream");
    await post("/v1/runs/a/signals/go", { value: 7 });
    const text = await response.text();
    expect(text).toMatch(/id: 0\nevent: run.started\n[\s\S]*id: 1\nevent: run.successful\n/);
    expect(text).toContain('"data":{"value":7}');
  });

  it("goes on after Last-Event-ID", async () => {
    const { fetch, post } = createKit();
    await post("/v1/workflows/echo", { id: "a", args: [1] });
    const response = await fetch("/v1/runs/a/events", { headers: { "last-event-id": "0" } });
    const text = await response.text();
    expect(text).not.toContain("id: 0");
    expect(text).toContain("id: 1");
  });

  it("sends a comment when nothing happens for a while", async () => {
    const { fetch, post, clock } = createKit();
    await post("/v1/workflows/wait", { id: "a" });
    const reader = (await fetch("/v1/runs/a/events?from=1")).body?.getReader();
    expect(new TextDecoder().decode((await reader?.read())?.value)).toBe("retry: 1000\n\n");
    const next = reader?.read();
    clock.advance(15_000);
    expect(new TextDecoder().decode((await next)?.value)).toBe(": alive\n\n");
    await reader?.cancel();
  });

  it("is 404 for a run that is not there", async () => {
    expect((await createKit().fetch("/v1/runs/a/events")).status).toBe(404);
  });
});

describe("ids", () => {
  it("may be whatever a guest may give a run", async () => {
    const { fetch, post } = createKit();
    const id = "a+b=c,d.e:f~g@h-i_j";
    expect((await post("/v1/workflows/echo", { id })).status).toBe(201);
    expect((await fetch(`/v1/runs/${encodeURIComponent(id)}`)).status).toBe(200);
  });
});

describe("who may ask", () => {
  const hash = (key: string) =>
    Buffer.from(digest.sha256(new TextEncoder().encode(key))).toString("hex");
  const keys = [
    { tenant: "acme", sha256: hash("key-a") },
    { tenant: "ops", sha256: hash("key-o"), isOperator: true },
  ];

  it("chooses the tenant by the key and refuses all others", async () => {
    const { fetch, host } = createKit({ keys });
    const none = await fetch("/v1/runs");
    expect([none.status, none.headers.get("www-authenticate")]).toEqual([
      401,
      'Bearer realm="spore"',
    ]);
    const wrong = await fetch("/v1/runs", { headers: { authorization: "Bearer key-b" } });
    expect(wrong.status).toBe(401);
    const right = await fetch("/v1/runs", { headers: { authorization: "Bearer key-a" } });
    expect(right.status).toBe(200);
    expect(host.asked.map((entry) => entry.tenant)).toEqual(["acme"]);
  });

  it("refuses keys of tenants that the engine can't name", () => {
    for (const tenant of ["Acme", "acme_1", "-acme", ""]) {
      const make = () => createTenants([{ tenant, sha256: hash("key-a") }], digest);
      expect(make, tenant).toThrowError("is not valid");
    }
  });

  it("shows metrics to operators only, and health to all", async () => {
    const { fetch } = createKit({ keys, metrics: () => "spore_up 1\n" });
    const asAcme = { headers: { authorization: "Bearer key-a" } };
    expect((await fetch("/metrics", asAcme)).status).toBe(403);
    const asOps = await fetch("/metrics", { headers: { authorization: "Bearer key-o" } });
    expect(await asOps.text()).toBe("spore_up 1\n");
    expect((await fetch("/healthz")).status).toBe(200);
  });

  it("answers neither to foreign Host headers nor to pages of other sites", async () => {
    const { fetch } = createKit({ isHostAllowed: (host) => /^localhost(:\d+)?$/.test(host) });
    const at = async (headers: Record<string, string>) =>
      (await fetch("/v1/runs", { headers })).status;
    expect(await at({ host: "localhost:80" })).toBe(200);
    expect(await at({ host: "evil.example" })).toBe(403);
    expect(await at({ host: "localhost", origin: "https://evil.example" })).toBe(403);
    expect(await at({ host: "localhost", origin: "null" })).toBe(403);
    expect(await at({ host: "localhost", origin: "http://localhost:3000" })).toBe(200);
  });
});

describe("the rest", () => {
  it("is ready only when the host is", async () => {
    const { fetch, host } = createKit();
    expect((await fetch("/readyz")).status).toBe(200);
    host.ready = false;
    expect((await fetch("/readyz")).status).toBe(503);
  });

  it("answers OPTIONS with the methods and HEAD without a body", async () => {
    const { fetch, post } = createKit();
    const options = await fetch("/v1/runs/a", { method: "OPTIONS" });
    expect([options.status, options.headers.get("allow")]).toEqual([
      204,
      "GET, DELETE, HEAD, OPTIONS",
    ]);
    await post("/v1/workflows/wait", { id: "a" });
    const head = await fetch("/v1/runs/a", { method: "HEAD" });
    expect([head.status, await head.text()]).toEqual([200, ""]);
  });

  it("describes every route in an OpenAPI 3.1 document", async () => {
    const { fetch } = createKit({ metrics: () => "" });
    const document = await (await fetch("/openapi.json")).json();
    expect(document.openapi).toBe("3.1.0");
    expect(Object.keys(document.paths)).toContain("/v1/actors/{type}/{key}/{method}");
    const start = document.paths["/v1/workflows/{name}"].post;
    expect(start.requestBody.content["application/cbor"].schema.properties.ifExists.enum).toEqual([
      "resume",
      "fail",
      "start",
      "terminate",
    ]);
    expect(start.parameters.map((parameter: { name: string }) => parameter.name)).toEqual([
      "name",
      "wait",
      "Idempotency-Key",
    ]);
  });

  it("echoes a request id and sets the headers that browsers heed", async () => {
    const { fetch } = createKit();
    const response = await fetch("/v1/runs", { headers: { "x-request-id": "abc" } });
    expect(response.headers.get("x-request-id")).toBe("abc");
    expect(response.headers.get("x-content-type-options")).toBe("nosniff");
  });

  it("deploys JavaScript as text and components as bytes", async () => {
    const { fetch, host } = createKit();
    const put = (type: string, body: BodyInit) =>
      fetch("/v1/components", { method: "PUT", headers: { "content-type": type }, body });
    expect(await (await put("text/javascript; charset=utf-8", "1")).json()).toEqual({
      id: "c0ffee",
      definitions: [{ kind: "workflow", name: "echo" }],
    });
    await put("application/wasm", new Uint8Array([0, 97]));
    expect(host.asked.map((entry) => entry.args[0])).toEqual([
      { kind: "javascript", code: "1" },
      { kind: "component", bytes: new Uint8Array([0, 97]) },
    ]);
    expect((await put("application/wasm", "")).status).toBe(400);
    expect((await put("application/json", "{}")).status).toBe(415);
  });
});
