/**
 * A Node server and a Worker on one bucket: Miniflare serves the Worker's R2 bucket by S3's
 * protocol as well, so both see the same objects at the same time.
 */
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import type { Client } from "../../client/index.ts";
import {
  ask,
  codeOf,
  putAway,
  type ServerProcess,
  startServer,
  temporaryFolder,
  until,
} from "../acceptance/kit.ts";
import { leg, Purse } from "./journey.ts";
import { type EdgeHost, s3Credentials, startEdge, stopEdges } from "./kit.ts";

vi.setConfig({ testTimeout: 240_000, hookTimeout: 120_000 });

let code: string;
beforeAll(async () => {
  code = await codeOf("test/edge/journey.ts");
});
afterAll(async () => {
  await putAway();
  await stopEdges();
});

async function startNodeOn(edge: EdgeHost): Promise<ServerProcess> {
  const endpoint = encodeURIComponent(`${edge.url}/cdn-cgi/local/r2/s3`);
  return startServer({
    folder: await temporaryFolder(),
    storage: `s3://spore?endpoint=${endpoint}&pathStyle=true&region=auto`,
    env: {
      AWS_ACCESS_KEY_ID: s3Credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: s3Credentials.secretAccessKey,
    },
    attemptsMax: 60,
  });
}

it("a bucket is handed over from a Worker to Node, and back when Node has stopped", async () => {
  const edge = await startEdge();
  await edge.client.deploy(code);
  await edge.client.start(leg.with("one"), { id: "one" });
  await edge.client.start(leg.with("two"), { id: "two" });
  const node = await startNodeOn(edge);
  await node.client.handle("one").signal("go", "by Node");
  expect(await node.client.handle("one").result()).toBe("one by Node");
  // The Worker hears of it when it asks the bucket; from then on it refuses and claims nothing.
  await until("the Worker knows", async () => {
    const { status, body } = await ask(edge, "GET", "/v1/runs/two");
    return status === 503 && body.code === "partition-moved";
  });
  const refused = await ask(edge, "POST", "/v1/runs/two/signals/go", { json: { value: "no" } });
  expect([refused.status, refused.body.code]).toEqual([503, "partition-moved"]);
  expect(await node.client.getStatus("two")).toBe("RUNNING");
  await node.stop();
  // Asking whether it is ready is what makes the Worker take over (docs/EDGE.md).
  await until("the Worker serves", async () => (await fetch(`${edge.url}/readyz`)).ok, 90_000);
  await edge.client.handle("two").signal("go", "by the Worker");
  expect(await edge.client.handle("two").result()).toBe("two by the Worker");
  expect(await edge.client.handle("one").result()).toBe("one by Node");
});

it("both at once take from each other, and nothing that one acknowledged is lost or doubled", async () => {
  const edge = await startEdge({ attemptsMax: 60 });
  await edge.client.deploy(code);
  await edge.client.getOrCreate(Purse, "shared");
  const node = await startNodeOn(edge);
  const acknowledged: number[] = [];
  const owners = new Set<string>();
  const endMs = Date.now() + 40_000;
  const add = async (name: string, client: Client): Promise<void> => {
    const purse = client.actor(Purse, "shared");
    for (let turn = 0; Date.now() < endMs; turn++) {
      try {
        acknowledged.push(await purse.add(1, `${name} ${turn}`));
        owners.add(name);
      } catch {
        // Not acknowledged: it may have happened all the same, which the notes will show.
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
  await Promise.all([add("node", node.client), add("worker", edge.client)]);
  await node.stop();
  await until("the Worker serves", async () => (await fetch(`${edge.url}/readyz`)).ok, 90_000);
  const notes = await edge.client.actor(Purse, "shared").notes();
  expect([...owners].toSorted()).toEqual(["node", "worker"]);
  expect(new Set(notes).size).toBe(notes.length);
  expect(new Set(acknowledged).size).toBe(acknowledged.length);
  expect(notes.length).toBeGreaterThanOrEqual(acknowledged.length);
  expect(await edge.client.actor(Purse, "shared").add(0, "last")).toBe(notes.length);
});
