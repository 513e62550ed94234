/**
 * What does it take in a Worker? In the pinned workerd with Miniflare's R2, beside Cloudflare's
 * own Workflows engine in the same runtime, and beside a Node server over HTTP. Says nothing
 * about Cloudflare's network, its R2, or other tenants.
 */
import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from "miniflare";
import { type Client, createClient } from "../client/index.ts";
import { Counter, chain, sleeper } from "./guest/index.ts";
import { startOwnServer } from "./http.ts";
import { type Bench, type Figure, median, type Question, quantile, rate, timesOf } from "./kit.ts";

const coldStarts = 5;
const parked = 24;
const inFlight = 16;

export const edge: Question = {
  name: "edge",
  asks: "What does it take in a Worker, beside Cloudflare's own Workflows and beside Node?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const modules = await bundled(bench);
    const state = bench.folder();
    const cold: number[] = [];
    const peerCold: number[] = [];
    const before = await start(modules, state);
    await before.client.deploy(bench.code);
    for (let index = 0; index < parked; index++) {
      await before.client.start(sleeper.with(50), { id: `parked-${index}` });
    }
    await before.stop();
    for (let index = 0; index < coldStarts; index++) {
      const host = await start(modules, state);
      cold.push(await timeOf(() => host.client.run(chain.with(1))));
      peerCold.push(await timeOf(() => host.peer()));
      await host.stop();
    }
    const host = await start(modules, state);
    const server = await startOwnServer(bench);
    try {
      const node = createClient({ url: server.url });
      await host.client.run(chain.with(1));
      const wakes = await timesOf((index) => wakeUp(host.client, index), {
        count: parked - 4,
        warm: 4,
      });
      return [
        ...compared("runtime at hand to first step done", median(cold), {
          name: "Cloudflare Workflows",
          value: median(peerCold),
        }),
        ...(await steps(host, node)),
        ...(await calls(host.client, node)),
        { name: "wake-up from storage, p50", value: quantile(wakes, 0.5), unit: "ms" },
        { name: "Worker, compressed", value: sizeOf(modules) / 1024, unit: "KB" },
      ];
    } finally {
      await server.stop();
      await host.stop();
    }
  },
};

async function steps(host: EdgeHost, node: Client): Promise<readonly Figure[]> {
  const ten = (client: Client) => () => client.run(chain.with(10));
  const p50 = async (call: () => Promise<unknown>): Promise<number> =>
    quantile(await timesOf(call, { count: 60 }), 0.5);
  const [mine, theirs, nodes] = [
    await p50(ten(host.client)),
    await p50(host.peer),
    await p50(ten(node)),
  ];
  const [rateMine, rateTheirs, rateNode] = [
    await rate(ten(host.client), { inFlight }),
    await rate(host.peer, { inFlight }),
    await rate(ten(node), { inFlight }),
  ];
  const name = "ten-step workflow";
  const perSecond = `${name}s, ${inFlight} in flight`;
  return [
    ...compared(`${name}, p50`, mine, { name: "Cloudflare Workflows", value: theirs }),
    ...compared(`${name}, p50`, mine, { name: "Node", value: nodes }),
    ...compared(perSecond, rateMine, { name: "Cloudflare Workflows", value: rateTheirs }, "1/s"),
    ...compared(perSecond, rateMine, { name: "Node", value: rateNode }, "1/s"),
  ];
}

async function calls(client: Client, node: Client): Promise<readonly Figure[]> {
  const p50 = async (of: Client): Promise<number> => {
    const counter = of.actor(Counter, "edge");
    return quantile(await timesOf(() => counter.add(1), { count: 100 }), 0.5);
  };
  const value = await p50(client);
  return compared("actor call, p50", value, { name: "Node", value: await p50(node) });
}

function compared(
  name: string,
  value: number,
  control: { readonly name: string; readonly value: number },
  unit = "ms",
): readonly Figure[] {
  return [{ name, value, unit, control: { ...control, unit } }];
}

async function wakeUp(client: Client, index: number): Promise<void> {
  await client.handle(`parked-${index + 4}`).update("poke");
}

async function timeOf(call: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await call();
  return performance.now() - startMs;
}

// ---------------------------------------------------------------- the Worker

interface EdgeHost {
  readonly client: Client;
  /** Ten steps on Cloudflare's engine, awaited. */
  readonly peer: () => Promise<void>;
  stop(): Promise<void>;
}

interface Module {
  readonly type: "ESModule" | "CompiledWasm" | "Data" | "Text";
  readonly path: string;
}

async function start(modules: readonly Module[], state: string): Promise<EdgeHost> {
  const compatibility = {
    compatibilityDate: "2026-11-01",
    compatibilityFlags: ["nodejs_compat"],
  };
  const script = fileURLToPath(new URL("./cloudflare-workflows.js", import.meta.url));
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      host: "127.0.0.1",
      port: 0,
      log: new Log(LogLevel.NONE),
      logRequests: false,
      resourcePersistencePath: state,
      workers: [
        {
          name: "spore",
          modules: [...modules],
          modulesRoot: dirname(modules[0]?.path ?? state),
          ...compatibility,
          r2Buckets: ["BUCKET"],
          durableObjects: { PARTITIONS: { className: "SporePartition", useSQLite: true } },
        },
        {
          name: "peer",
          modules: [{ type: "ESModule", path: script }],
          modulesRoot: dirname(script),
          ...compatibility,
          workflows: { TEN: { name: "ten", className: "Ten" } },
          unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }],
        },
      ],
    }),
  );
  const url = (await miniflare.ready).href.replace(/\/$/, "");
  const peer = (await miniflare.unsafeGetDirectURL("peer")).href;
  return {
    client: createClient({ url }),
    async peer() {
      const response = await fetch(peer);
      const output = await response.text();
      if (output !== "10") throw new Error(`Cloudflare Workflows answered ${output}`);
    },
    stop: () => miniflare.dispose(),
  };
}

/** As `wrangler deploy` would upload it. */
async function bundled(bench: Bench): Promise<readonly Module[]> {
  const outDir = bench.folder();
  const manifest = createRequire(import.meta.url).resolve("wrangler/package.json");
  const wrangler = join(dirname(manifest), "bin/wrangler.js");
  const path = `${dirname(process.execPath)}:${process.env.PATH ?? ""}`;
  await promisify(execFile)(
    process.execPath,
    [wrangler, "deploy", "--dry-run", "--outdir", outDir],
    {
      cwd: fileURLToPath(new URL("..", import.meta.url)),
      env: { ...process.env, PATH: path, CI: "1", WRANGLER_SEND_METRICS: "false" },
    },
  );
  const files = readdirSync(outDir).filter((file) => /\.(js|wasm|bin|txt)$/.test(file));
  files.sort((left, right) => Number(right === "worker.js") - Number(left === "worker.js"));
  return files.map((file) => ({ type: typeOf(file), path: join(outDir, file) }));
}

function typeOf(file: string): Module["type"] {
  if (file.endsWith(".js")) return "ESModule";
  if (file.endsWith(".txt")) return "Text";
  return file.endsWith(".wasm") ? "CompiledWasm" : "Data";
}

function sizeOf(modules: readonly Module[]): number {
  const sizes = modules.map(({ path }) => gzipSync(readFileSync(path)).length);
  return sizes.reduce((sum, size) => sum + size, 0);
}
