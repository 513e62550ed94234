/** What is left of it end to end: the client, HTTP, a server process of its own? */
import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createClient } from "../client/index.ts";
import { Counter, chain } from "./guest/index.ts";
import {
  type Bench,
  type Figure,
  type Question,
  quantile,
  rate,
  resultsDir,
  timesOf,
} from "./kit.ts";

export const http: Question = {
  name: "http",
  asks: "What is left end to end: client and server in two processes, over HTTP?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const server = await startOwnServer(bench);
    try {
      const client = createClient({ url: server.url });
      const echo = async (): Promise<void> => {
        const response = await fetch(server.control, { method: "POST", body: "{}" });
        await response.arrayBuffer();
      };
      const inFlight = 128;
      const figures: Figure[] = [];
      const empty = await rate(echo, { inFlight, ms: 1500, warmMs: 500 });
      const control = { name: "empty Hono route", value: empty, unit: "requests/s" };
      const workflows = await rate(() => client.run(chain.with(10)), { inFlight });
      figures.push({ name: "ten-step workflows", value: workflows, unit: "workflows/s", control });
      const calls = await rate((index) => client.actor(Counter, `many-${index % 1000}`).add(1), {
        inFlight,
        warmMs: 2000,
      });
      figures.push({ name: "actor calls over 1000 keys", value: calls, unit: "calls/s", control });
      const echoes = await timesOf(echo, { count: 200 });
      const times = await timesOf(() => client.run(chain.with(10)), { count: 200 });
      for (const [label, share] of [
        ["p50", 0.5],
        ["p95", 0.95],
        ["p99", 0.99],
      ] as const) {
        figures.push({
          name: `ten-step workflow one at a time, ${label}`,
          value: quantile(times, share),
          unit: "ms",
          target: label === "p50" ? { below: 5 } : undefined,
          control: {
            name: `empty Hono route, ${label}`,
            value: quantile(echoes, share),
            unit: "ms",
          },
        });
      }
      return figures;
    } finally {
      await server.stop();
    }
  },
};

export interface OwnServer {
  readonly url: string;
  readonly control: string;
  stop(): Promise<void>;
}

export async function startOwnServer(bench: Bench): Promise<OwnServer> {
  const file = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
  const args = [bench.folder(), file("./guest/index.ts"), join(resultsDir, ".spore")];
  const child = fork(file("./server.ts"), args, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const exited = once(child, "exit");
  const told = await Promise.race([once(child, "message"), exited]);
  const [addresses] = told as readonly unknown[];
  if (typeof addresses !== "object" || addresses === null) {
    throw new Error(`the server process ended with ${String(addresses)}`);
  }
  return {
    ...(addresses as { url: string; control: string }), // sent by server.ts
    async stop() {
      child.disconnect();
      await exited;
    },
  };
}
