/** What nobody should send and code that misbehaves: a clear code each, and no harm to others. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  ask,
  type Outside,
  putAway,
  type RawAnswer,
  type ServerProcess,
  startOutside,
  startProject,
} from "./kit.ts";
import {
  account,
  Counter,
  chatter,
  echo,
  flood,
  hoard,
  recurse,
  spin,
  spinInStep,
  unserialisable,
  waiter,
} from "./project.ts";

let server: ServerProcess;
let outside: Outside;
let client: ServerProcess["client"];

beforeAll(async () => {
  [server, outside] = await Promise.all([startProject(), startOutside()]);
  client = server.client;
  await client.getOrCreate(Counter, "here", 0);
  await client.start(account.with(1), { id: "here" });
  await client.run(echo.with(1), { id: "closed" });
});

afterAll(async () => {
  await putAway();
  await outside?.close();
});

function expectProblem(answer: RawAnswer, status: number, code: string): void {
  expect([answer.status, answer.body.code]).toEqual([status, code]);
  expect(answer.headers.get("content-type")).toContain("application/problem+json");
  expect(answer.body).toMatchObject({
    type: `/errors/${code}`,
    status,
    title: expect.any(String),
    detail: expect.any(String),
    requestId: expect.any(String),
  });
}

describe("requests", () => {
  it.each([
    ["POST", "/v1/workflows/nobody", { args: [] }, 404, "workflow-not-found"],
    ["POST", "/v1/graphs", { root: { $step: "nobody", args: [] } }, 404, "step-not-found"],
    ["POST", "/v1/graphs", { root: { args: [] } }, 400, "invalid-graph"],
    ["POST", "/v1/graphs", { root: 5 }, 400, "invalid-graph"],
    ["GET", "/v1/runs/nobody", undefined, 404, "run-not-found"],
    ["GET", "/v1/runs/nobody/events", undefined, 404, "run-not-found"],
    ["POST", "/v1/runs/nobody/signals/go", { value: 1 }, 404, "run-not-found"],
    ["POST", "/v1/runs/here/queries/nobody", {}, 404, "query-not-found"],
    ["POST", "/v1/runs/here/updates/nobody", {}, 404, "update-not-found"],
    ["PUT", "/v1/actors/Nobody/a", {}, 404, "actor-type-not-found"],
    ["GET", "/v1/actors/Counter/nobody", undefined, 404, "actor-not-found"],
    ["POST", "/v1/actors/Counter/here/nobody", {}, 404, "method-not-found"],
    ["POST", "/v1/actors/Counter/here/constructor", {}, 404, "method-not-found"],
    ["GET", "/v1/nothing", undefined, 404, "route-not-found"],
    ["PATCH", "/v1/runs/here", undefined, 404, "route-not-found"],
    ["POST", "/v1/workflows/echo", { args: 5 }, 400, "invalid-request"],
    ["POST", "/v1/workflows/echo", { argz: [] }, 400, "invalid-request"],
    ["POST", "/v1/workflows/echo", { ifExists: "maybe" }, 400, "invalid-request"],
    ["POST", "/v1/workflows/echo", { id: "a/b" }, 400, "invalid-id"],
    ["POST", "/v1/workflows/echo", { id: ".." }, 400, "invalid-id"],
    ["POST", "/v1/workflows/echo", { id: "a\u0000b" }, 400, "invalid-id"],
    ["POST", "/v1/workflows/echo", { id: "a\nb" }, 400, "invalid-id"],
    ["POST", "/v1/workflows/echo", { id: "" }, 400, "invalid-id"],
    ["POST", "/v1/workflows/echo", { id: "x".repeat(201) }, 400, "invalid-id"],
    ["GET", "/v1/runs/a%2Fb", undefined, 400, "invalid-id"],
    ["GET", "/v1/runs/a%00b", undefined, 400, "invalid-id"],
    ["GET", "/v1/runs/a%0Ab/output", undefined, 400, "invalid-id"],
    ["PUT", "/v1/actors/Counter/%2e%2e%2f%2e%2e", {}, 400, "invalid-id"],
    ["PUT", "/v1/actors/Counter/a%5Cb", {}, 400, "invalid-id"],
    ["GET", "/v1/runs?status=ODD", undefined, 400, "invalid-request"],
    ["GET", "/v1/runs?limit=0", undefined, 400, "invalid-request"],
    ["GET", "/v1/runs?cursor=!!", undefined, 400, "invalid-request"],
    ["GET", "/v1/runs/here/output?wait=soon", undefined, 400, "invalid-request"],
    ["POST", "/v1/runs/closed/resume", {}, 409, "run-closed"],
    ["POST", "/v1/runs/closed/updates/deposit", { args: [1] }, 409, "run-closed"],
    ["POST", "/v1/runs/closed/signals/go", { value: 1 }, 409, "run-closed"],
    ["GET", "/v1/runs/closed/output?step=nobody", undefined, 404, "step-not-found"],
    ["DELETE", "/v1/runs/here", undefined, 409, "run-active"],
  ])("%s %s %j is %i %s", async (method, path, json, status, code) => {
    const given = json === undefined ? {} : { json };
    expectProblem(await ask(server, method, path, given), status, code);
  });

  it("a body that isn't what its type says is named as such", async () => {
    const post = (body: BodyInit, type: string): Promise<RawAnswer> =>
      ask(server, "POST", "/v1/workflows/echo", {
        body,
        headers: { "content-type": type, accept: "application/json" },
      });
    expectProblem(await post("{", "application/json"), 400, "invalid-json");
    expectProblem(await post('{"args":[1]} x', "application/json"), 400, "invalid-json");
    expectProblem(
      await post(new Uint8Array([0xff, 0xfe]), "application/json"),
      400,
      "invalid-json",
    );
    expectProblem(await post("[".repeat(100_000), "application/json"), 400, "invalid-json");
    const broken = [[0x82, 1], [0xbf], [0x5b, 255, 255, 255, 255, 255, 255, 255, 255], [0x1c]];
    for (const bytes of broken) {
      expectProblem(await post(new Uint8Array(bytes), "application/cbor"), 400, "invalid-cbor");
    }
    expectProblem(await post("<a/>", "text/xml"), 415, "unsupported-media-type");
  });

  it("a body over the limit is refused, with and without a declared length", async () => {
    const big = JSON.stringify({ args: ["x".repeat(1_100_000)] });
    const headers = { "content-type": "application/json" };
    const declared = await ask(server, "POST", "/v1/workflows/echo", { body: big, headers });
    expectProblem(declared, 413, "body-too-large");
    const stream = new Blob([big]).stream();
    const response = await fetch(`${server.url}/v1/workflows/echo`, {
      method: "POST",
      body: stream,
      headers,
      duplex: "half",
    } as RequestInit);
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([
      413,
      "body-too-large",
    ]);
  });

  it("a value that can't be serialised is named by its path, before it is sent", async () => {
    const bad = { list: [1, { fn: () => 1 }] };
    await expect(client.run(echo.with(bad))).rejects.toThrow(/list\[1\]\.fn/);
    const loop: Record<string, unknown> = {};
    loop.self = loop;
    await expect(client.run(echo.with(loop))).rejects.toThrow(/self/);
  });

  it("a component that is none, or lacks the world, is refused and changes nothing", async () => {
    const before = await client.currentComponent();
    const deploy = (body: BodyInit, type: string): Promise<RawAnswer> =>
      ask(server, "PUT", "/v1/components", { body, headers: { "content-type": type } });
    expectProblem(await deploy("no wasm", "application/wasm"), 400, "invalid-component");
    expectProblem(await deploy(new Uint8Array(), "application/wasm"), 400, "invalid-component");
    const module = new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
    expectProblem(await deploy(module, "application/wasm"), 400, "invalid-component");
    const component = new Uint8Array([0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0]);
    expectProblem(await deploy(component, "application/wasm"), 400, "invalid-component");
    expectProblem(await deploy("export const a = 1;", "text/javascript"), 400, "invalid-component");
    expectProblem(await deploy("export const = ;", "text/javascript"), 400, "build-failed");
    expectProblem(
      await deploy(new Uint8Array([0xff]), "text/javascript"),
      400,
      "invalid-component",
    );
    expectProblem(await deploy("x", "text/plain"), 415, "unsupported-media-type");
    expect((await client.currentComponent()).id).toBe(before.id);
  });

  it("a page of another site is not answered", async () => {
    const headers = { origin: "https://evil.example" };
    expectProblem(await ask(server, "GET", "/v1/runs", { headers }), 403, "origin-denied");
  });
});

describe("code that misbehaves", () => {
  // Side by side, as on a host with several tenants; a spinning guest takes its time to be found.
  it.concurrent.each([
    ["spins", spin, /guest-timeout/],
    ["spins in a step", spinInStep, /guest-timeout/],
    ["takes all memory", hoard, /guest-memory|guest-trap|out of memory|InternalError/],
    ["floods its output", flood, /guest-output|not-serialisable .* takes more than/],
    ["talks without end", chatter, /guest-timeout|guest-output|guest-memory/],
    ["recurses without end", recurse, /guest-trap|overflow|stack/],
    ["returns what can't be serialised", unserialisable, /deep\[0\]\.fn/],
  ])("a workflow that %s fails alone, with a clear error", async (title, what, expected) => {
    const id = title.replaceAll(/\W/g, "_");
    const other = client.run(echo.with(title));
    const run = await client.start(what.with() as ReturnType<typeof echo.with>, { id });
    const failure = await run.result({ timeoutMs: 45_000 }).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(failure).toBeInstanceOf(Error);
    const info = await run.info();
    expect(info.status).toBe("FAILED");
    const { name, code, message } = info.error ?? {};
    expect(`${name} ${code} ${message}`).toMatch(expected);
    expect(await other).toBe(title);
    expect(server.isRunning()).toBe(true);
  });

  it("has left everybody else as they were", async () => {
    expect(await client.handle("here").query("balance")).toBe(1);
    expect(await client.actor(Counter, "here").incr()).toBe(1);
    expect(await client.run(waiter.with("go", 1))).toBe("nobody came");
    expect((await fetch(`${server.url}/readyz`)).status).toBe(200);
  });
});
