/**
 * The same work on a peer: Restate, one server process on loopback with its TypeScript SDK
 * in this process, storage with fsync as it comes. Installed from npm into a temporary
 * folder when asked for; never a dependency of the project.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer as createHttp2 } from "node:http2";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { createClient } from "../client/index.ts";
import { chain } from "./guest/index.ts";
import { startOwnServer } from "./http.ts";
import { type Bench, type Figure, median, type Question, rate, timesOf } from "./kit.ts";

const packages = ["@restatedev/restate-server@1.7.12", "@restatedev/restate-sdk@1.17.2"];

export const peer: Question = {
  name: "peer",
  asks: "How does the same ten-step workflow do on Restate, in this same run?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const folder = bench.folder();
    const failure = install(folder);
    if (failure !== undefined) {
      process.stdout.write(`no peer: Restate can't be installed here (${failure})\n`);
      return [];
    }
    const restate = await startRestate(folder);
    const theirs = await measure((name) => restate.call(name)).finally(() => restate.stop());
    const server = await startOwnServer(bench);
    const client = createClient({ url: server.url });
    const ours = await measure((name) => client.run(chain.with(name === "ten" ? 10 : 0))).finally(
      () => server.stop(),
    );
    return ours.map((figure, index) => {
      const { value = Number.NaN, unit = "" } = theirs[index] ?? {};
      return { ...figure, control: { name: "Restate", value, unit } };
    });
  },
};

async function measure(call: (name: "ten" | "empty") => Promise<unknown>): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const name of ["ten", "empty"] as const) {
    const what = name === "ten" ? "ten-step workflow" : "empty workflow";
    const perSecond = await rate(() => call(name), { inFlight: 128, warmMs: 2000 });
    const times = await timesOf(() => call(name), { count: 100 });
    figures.push(
      { name: `${what}, 128 in flight, over HTTP`, value: perSecond, unit: "runs/s" },
      { name: `${what}, one at a time, p50`, value: median(times), unit: "ms" },
    );
  }
  return figures;
}

/** Undefined, or why it can't be done. */
function install(folder: string): string | undefined {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), '{ "private": true, "type": "module" }');
  const flags = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
  const done = spawnSync("npm", [...flags, ...packages], {
    cwd: folder,
    encoding: "utf8",
    timeout: 120_000,
  });
  if (done.status === 0) return undefined;
  return done.error?.message ?? done.stderr.trim().split("\n").at(0) ?? "npm failed";
}

interface Restate {
  call(name: "ten" | "empty"): Promise<unknown>;
  stop(): Promise<void>;
}

async function startRestate(folder: string): Promise<Restate> {
  const [ingress, admin, node] = [await freePort(), await freePort(), await freePort()];
  const address = (port: number): string => `127.0.0.1:${port}`;
  const child = spawn(join(folder, "node_modules", ".bin", "restate-server"), ["--no-logo"], {
    cwd: folder,
    stdio: "ignore",
    env: {
      PATH: process.env.PATH ?? "",
      RESTATE_BASE_DIR: join(folder, "data"),
      RESTATE_LISTEN_MODE: "tcp",
      RESTATE_BIND_ADDRESS: address(node),
      RESTATE_ADVERTISED_ADDRESS: `http://${address(node)}`,
      RESTATE_INGRESS__BIND_ADDRESS: address(ingress),
      RESTATE_ADMIN__BIND_ADDRESS: address(admin),
      RESTATE_DISABLE_TELEMETRY: "true",
      RESTATE_LOG_FILTER: "error",
      DO_NOT_TRACK: "1",
    },
  });
  const endpoint = await serveHandlers(folder);
  const stop = async (): Promise<void> => {
    endpoint.close();
    await endChild(child);
  };
  try {
    await untilOk(`http://${address(admin)}/health`, child);
    await post(`http://${address(admin)}/deployments`, { uri: endpoint.url });
    await untilOk(`http://${address(ingress)}/restate/health`, child);
  } catch (error) {
    await stop();
    throw error;
  }
  return { call: (name) => post(`http://${address(ingress)}/bench/${name}`, 0), stop };
}

/** What is used of `@restatedev/restate-sdk`. */
interface RestateSdk {
  service(definition: object): object;
  createEndpointHandler(options: {
    services: object[];
  }): (request: object, response: object) => void;
}

interface RestateContext {
  run<Value>(name: string, action: () => Value): Promise<Value>;
}

async function serveHandlers(folder: string): Promise<{ url: string; close(): void }> {
  process.env.RESTATE_LOGGING = "ERROR"; // two lines for each invocation would be measured too
  const entry = join(folder, "node_modules", "@restatedev", "restate-sdk", "dist", "index.js");
  const sdk = (await import(entry)) as RestateSdk;
  const bench = sdk.service({
    name: "bench",
    handlers: {
      async ten(context: RestateContext) {
        let value = 0;
        for (let i = 0; i < 10; i++) value = await context.run("increment", () => value + 1);
        return value;
      },
      empty: async () => 0,
    },
  });
  const server = createHttp2(sdk.createEndpointHandler({ services: [bench] }));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, close: () => server.close() };
}

async function post(url: string, body: unknown): Promise<unknown> {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${url}: ${response.status} ${text.slice(0, 200)}`);
  return text;
}

async function untilOk(url: string, child: ChildProcess): Promise<void> {
  const endMs = performance.now() + 30_000;
  for (;;) {
    const isOk = await fetch(url).then(
      (response) => response.ok,
      () => false,
    );
    if (isOk) return;
    if (child.exitCode !== null) throw new Error(`Restate ended with ${child.exitCode}`);
    if (performance.now() > endMs) throw new Error(`${url} did not answer in 30 s`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

async function endChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  const exited = once(child, "exit");
  child.kill("SIGTERM");
  const late = setTimeout(() => child.kill("SIGKILL"), 5000);
  await exited;
  clearTimeout(late);
}
