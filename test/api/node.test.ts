import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createClient } from "../../client/index.ts";
import type { Actor, Invocation, StepNode } from "../../guest/define.ts";
import { toldIn } from "../../host/dev.ts";
import { isLoopbackHost } from "../../host/loopback.ts";
import { createMetrics } from "../../host/metrics.ts";
import { clock, type RunningServer, startServer } from "../../host/node.ts";
import { createOutbound } from "../../host/outbound.ts";
import { parseTenantKeys } from "../../host/tenants.ts";

const workflow = <Out>(name: string, ...args: unknown[]) =>
  ({ $workflow: name, args }) as unknown as Invocation<Out>;

describe("a server with the real engine", () => {
  let server: RunningServer;

  beforeAll(async () => {
    const { build } = await import("../../host/build.ts");
    server = await startServer({ storage: "memory:", port: 0, log: () => undefined });
    const built = await build({
      entry: "examples/tour/index.ts",
      outDir: ".spore/test-node",
      prepare: (source) => server.sandbox.prepare(source),
    });
    await server.sandbox.load(built.prepared.id, built.prepared.bytes);
    await createClient({ url: server.url }).deploy(built.code);
  }, 60_000);

  afterAll(async () => {
    await server?.stop();
  });

  it("runs a graph that a client sends, once for one id", async () => {
    const client = createClient({ url: server.url });
    const graph = {
      $step: "add",
      args: [100, { $step: "one", args: [] }],
    } as unknown as StepNode<number>;
    expect(await client.run(graph, { id: "graph" })).toBe(101);
    expect(await client.run(graph, { id: "graph" })).toBe(101);
    const steps = await client.handle("graph").steps();
    expect(steps.map((step) => [step.step, step.status, step.value])).toEqual([
      ["one", "SUCCESSFUL", 1],
      ["add", "SUCCESSFUL", 101],
    ]);
    expect(await client.getOutput("graph", { step: "one" })).toBe(1);
  });

  it("executes actor calls in the order in which they were made", async () => {
    const client = createClient({ url: server.url });
    const Counter = { actorName: "Counter" } as unknown as Actor<
      [number],
      { incr(by?: number): number; value(): number }
    >;
    const counter = await client.getOrCreate(Counter, "ordered", 0);
    const calls = Array.from({ length: 20 }, (_, index) => counter.incr(index + 1));
    const sums = Array.from({ length: 20 }, (_, index) => ((index + 1) * (index + 2)) / 2);
    expect(await Promise.all(calls)).toEqual(sums);
    expect(await counter.value()).toBe(210);
  });

  it("reads in order with the writes of the same client", async () => {
    const client = createClient({ url: server.url });
    const Counter = { actorName: "Counter" } as unknown as Actor<
      [number],
      { incr(by?: number): number; value(): number }
    >;
    const counter = await client.getOrCreate(Counter, "mixed", 0);
    const results = [counter.incr(1), counter.value(), counter.incr(2), counter.value()];
    expect(await Promise.all(results)).toEqual([1, 1, 3, 3]);
  });

  it("follows a run until it ends", async () => {
    const client = createClient({ url: server.url });
    const handle = await client.start(workflow("loyalty", "Ada"), { id: "followed" });
    const types: string[] = [];
    for await (const event of handle.events()) {
      types.push(event.type);
      if (event.type === "step.succeeded") await handle.cancel("enough");
    }
    expect(types[0]).toBe("run.started");
    expect((await handle.info()).closedAt).toBeDefined();
    expect(await handle.status()).toBe("CANCELED");
  });

  it("names what is not there", async () => {
    const client = createClient({ url: server.url });
    await expect(client.run(workflow("nothing"))).rejects.toMatchObject({
      code: "workflow-not-found",
      status: 404,
    });
    await expect(client.getOutput("nobody")).rejects.toMatchObject({ code: "run-not-found" });
  });

  it("answers requests of its own machine only", async () => {
    const response = await fetch(`${server.url}/v1/runs`, {
      headers: { origin: "https://evil.example" },
    });
    expect(response.status).toBe(403);
  });

  it("shows Prometheus text", async () => {
    const text = await (await fetch(`${server.url}/metrics`)).text();
    expect(text).toContain("spore_host_ready 1");
    expect(text).toMatch(/^spore_resident_memories \d+$/m);
    expect(text).toMatch(/^spore_resident_memory_bytes \d+$/m);
    expect(text).toMatch(/spore_http_request_ms_count\{route="\/v1\/graphs".*status="201"\} 1/);
  });

  it("refuses a port that is taken, and says so", async () => {
    const port = Number(new URL(server.url).port);
    await expect(startServer({ storage: "memory:", port, log: () => undefined })).rejects.toThrow(
      `port ${port} is taken`,
    );
  });

  it("cuts long polls when it stops", async () => {
    const other = await startServer({ storage: "memory:", port: 0, log: () => undefined });
    const { url } = other;
    await fetch(`${url}/healthz`);
    const startedMs = performance.now();
    await other.stop();
    expect(performance.now() - startedMs).toBeLessThan(5000);
    await expect(fetch(`${url}/healthz`)).rejects.toThrow();
  });
});

describe("where a server listens", () => {
  it("is loopback unless there are keys", async () => {
    const open = startServer({ storage: "memory:", port: 0, hostname: "0.0.0.0" });
    await expect(open).rejects.toMatchObject({ code: "invalid-request" });
  });

  it.each([
    ["localhost", true],
    ["LOCALHOST:7070", true],
    ["127.0.0.1:1", true],
    ["[::1]:7070", true],
    ["app.localhost:80", true],
    ["localhost.evil.example", false],
    ["127.0.0.1.evil.example", false],
    ["evil.example:7070", false],
    ["", false],
  ])("%j is of this machine: %s", (header, expected) => {
    expect(isLoopbackHost(header)).toBe(expected);
  });

  it("keys are hashes, never the keys themselves", () => {
    expect(() => parseTenantKeys('[{"tenant":"a","sha256":"secret"}]')).toThrow(/SHA-256/);
    expect(() => parseTenantKeys('[{"tenant":"../a","sha256":""}]')).toThrow(/tenant name/);
    expect(() => parseTenantKeys("{}")).toThrow(/array/);
  });
});

describe("outbound requests", () => {
  let target: Server;
  let url: string;
  const context = {
    tenant: "default",
    runId: "r",
    signal: { aborted: false, addEventListener: () => undefined },
  };

  beforeAll(async () => {
    target = createServer((request, response) => {
      if (request.url === "/big") response.end("x".repeat(5000));
      else if (request.url === "/moved") {
        response.writeHead(302, { location: "/elsewhere" });
        response.end();
      } else if (request.url === "/silent") response.flushHeaders();
      else response.end(JSON.stringify({ method: request.method, headers: request.headers }));
    });
    await new Promise<void>((resolve) => target.listen(0, "127.0.0.1", resolve));
    url = `http://127.0.0.1:${(target.address() as AddressInfo).port}`;
  });

  afterAll(() => {
    target.closeAllConnections();
    target.close();
  });

  const get = (path: string) => ({ method: "GET", url: url + path, headers: [] });

  it("carry the guest's headers, but none that frame the message", async () => {
    const outbound = createOutbound();
    const headers = [
      ["x-mine", "1"],
      ["host", "evil.example"],
      ["connection", "upgrade"],
    ] as const;
    const response = await outbound.fetch({ ...get("/"), headers }, context);
    const seen = JSON.parse(new TextDecoder().decode(response.body)).headers;
    expect(seen["x-mine"]).toBe("1");
    expect(seen.host).toBe(new URL(url).host);
  });

  it("leave redirects to the guest", async () => {
    const response = await createOutbound().fetch(get("/moved"), context);
    expect(response.status).toBe(302);
    expect(response.headers).toContainEqual(["location", "/elsewhere"]);
  });

  it("are bounded in size and time", async () => {
    const small = createOutbound({ responseBytesMax: 1000 });
    await expect(small.fetch(get("/big"), context)).rejects.toMatchObject({
      code: "value-too-large",
    });
    const hasty = createOutbound({ timeoutMs: 20 });
    await expect(hasty.fetch(get("/silent"), context)).rejects.toThrow(/20 ms/);
  });
});

describe("small parts", () => {
  it("metrics write counters, gauges and histograms with escaped labels", () => {
    const metrics = createMetrics();
    metrics.count("runs", 2, { name: 'a"b\n' });
    metrics.count("spore_runs_total", 1);
    metrics.gauge("up", () => 1);
    metrics.observe("took_ms", 3);
    const text = metrics.text();
    expect(text).toContain('spore_runs_total{name="a\\"b\\n"} 2\n');
    expect(text).toContain("spore_runs_total 1\n");
    expect(text).toContain("spore_up 1\n");
    expect(text).toContain('spore_took_ms_bucket{le="2.5"} 0\nspore_took_ms_bucket{le="5"} 1\n');
    expect(text).toContain('spore_took_ms_bucket{le="+Inf"} 1\nspore_took_ms_sum 3\n');
  });

  it("a timer over 31 bits does not fire at once, and can be cancelled", async () => {
    let fired = 0;
    const cancel = clock.after(2 ** 40, () => {
      fired++;
    });
    await new Promise<void>((resolve) => clock.after(1, resolve));
    cancel();
    expect(fired).toBe(0);
  });

  it("the commands to try come from the entry's first comment", () => {
    expect(
      toldIn("/**\n * A tour.\n *\n *   $ npx spore run fib 10\n */\nimport 'x';\n// $ no"),
    ).toEqual(["npx spore run fib 10"]);
    expect(toldIn("import 'x';")).toEqual([]);
  });
});
