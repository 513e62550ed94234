/** Several server processes on one bucket: what a second and a fourth one add, and a death costs. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { type Client, createClient } from "../client/index.ts";
import { chain } from "./guest/index.ts";
import { type Bench, type Figure, type Question, rate } from "./kit.ts";
import { openBucket } from "./s3.ts";

const counts = [1, 2, 4] as const;
const inFlight = 256;
/** Runs that are started in the moment in which a host goes: enough for every partition. */
const runsAtOnce = 64;
const readyMsMax = 60_000;
const cli = fileURLToPath(new URL("../host/cli.ts", import.meta.url));

export const hosts: Question = {
  name: "hosts",
  asks: "What do one, two and four hosts on one bucket do, and how long is nobody there?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const bucket = await openBucket("hosts");
    if (bucket === undefined) return [];
    const servers: Server[] = [];
    const figures: Figure[] = [];
    let one: number | undefined;
    try {
      for (const count of counts) {
        while (servers.length < count) servers.push(await startServer(bucket.storage));
        const clients = servers.map(({ url }) => createClient({ url, attemptsMax: 60 }));
        if (count === 1) await clients[0]?.deploy(bench.code);
        await untilShared(servers);
        const value = await rate(
          async (index) => clients[index % clients.length]?.run(chain.with(10)),
          { inFlight },
        );
        one ??= value;
        figures.push({
          name: `ten-step workflows, ${count} host${count === 1 ? "" : "s"}`,
          value,
          unit: "workflows/s",
          control: { name: "1 host", value: one, unit: "workflows/s" },
        });
      }
      for (const [signal, name] of [
        ["SIGTERM", "hand-over after SIGTERM"],
        ["SIGKILL", "take-over after kill -9"],
      ] as const) {
        const [gone] = servers.splice(1, 1);
        const client = createClient({ url: servers[0]?.url ?? "", attemptsMax: 200 });
        const value = await timeWithout(gone, signal, client);
        figures.push({ name: `${name}: until ${runsAtOnce} runs are done`, value, unit: "ms" });
        await untilShared(servers);
      }
      return figures;
    } finally {
      for (const server of servers) await stop(server, "SIGTERM");
      await bucket.close();
    }
  },
};

interface Server {
  readonly url: string;
  readonly process: ChildProcess;
}

async function startServer(storage: string): Promise<Server> {
  const child = spawn(process.execPath, [cli, "serve", "--storage", storage, "--port", "0"], {
    stdio: ["ignore", "pipe", "ignore"],
    env: { ...process.env, SPORE_LOG: "error" },
  });
  let printed = "";
  for await (const chunk of child.stdout) {
    printed += chunk;
    const url = /http:\/\/127\.0\.0\.1:\d+/.exec(printed)?.[0];
    if (url !== undefined) return { url, process: child };
  }
  throw new Error(`a server ended: ${printed}`);
}

async function stop(server: Server | undefined, signal: NodeJS.Signals): Promise<void> {
  if (server === undefined) return;
  const exited = once(server.process, "exit");
  server.process.kill(signal);
  await exited;
}

/** Every partition is served, each host has some, and nothing moves any more. */
async function untilShared(servers: readonly Server[]): Promise<void> {
  const endMs = performance.now() + readyMsMax;
  for (;;) {
    const response = await fetch(`${servers[0]?.url}/v1/cluster`);
    const { partitions, hosts: known } = (await response.json()) as {
      readonly partitions: number;
      readonly hosts: readonly { readonly state: string; readonly partitions: readonly number[] }[];
    };
    const rows = known.filter(({ state }) => state === "live");
    const served = rows.flatMap((row) => row.partitions);
    const isFair = rows.every(
      (row) => row.partitions.length <= Math.ceil(partitions / rows.length),
    );
    if (rows.length === servers.length && served.length === partitions && isFair) return;
    if (performance.now() > endMs) throw new Error(`not shared: ${JSON.stringify(rows)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** From the signal until runs in all partitions, started at that moment, are done. */
async function timeWithout(
  server: Server | undefined,
  signal: NodeJS.Signals,
  client: Client,
): Promise<number> {
  const startMs = performance.now();
  const gone = stop(server, signal);
  await Promise.all(Array.from({ length: runsAtOnce }, () => client.run(chain.with(1))));
  const tookMs = performance.now() - startMs;
  await gone;
  return tookMs;
}
