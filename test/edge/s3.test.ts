/** The Worker over a bucket that it reaches by S3's protocol: Miniflare's R2 serves that, too. */
import { afterAll, expect, it, vi } from "vitest";
import { codeOf } from "../acceptance/kit.ts";
import { leg, Purse } from "./journey.ts";
import { s3Credentials, startEdge, stopEdges } from "./kit.ts";

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });
afterAll(stopEdges);

it("a Worker keeps everything in an S3 bucket, and finds it again", async () => {
  const code = await codeOf("test/edge/journey.ts");
  const bucket = await startEdge();
  const endpoint = encodeURIComponent(`${bucket.url}/cdn-cgi/local/r2/s3`);
  const env = {
    SPORE_STORAGE: `s3://spore/from/afar?endpoint=${endpoint}&pathStyle=true&region=auto`,
    AWS_ACCESS_KEY_ID: s3Credentials.accessKeyId,
    AWS_SECRET_ACCESS_KEY: s3Credentials.secretAccessKey,
  };
  const edge = await startEdge({ env });
  await edge.client.deploy(code);
  await edge.client.start(leg.with("far"), { id: "far" });
  expect(await (await edge.client.getOrCreate(Purse, "far")).add(3, "s3")).toBe(3);
  await edge.stop();
  const again = await startEdge({ env });
  await again.client.handle("far").signal("go", "away");
  expect(await again.client.handle("far").result()).toBe("far away");
  expect(await again.client.actor(Purse, "far").notes()).toEqual(["s3"]);
  const { keys } = await (await bucket.store()).list("from/afar/");
  expect(keys.length).toBeGreaterThan(3);
  expect((await (await again.store()).list("")).keys).toEqual([]);
});
