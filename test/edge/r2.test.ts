/** The R2 store over Miniflare's R2, which is what `wrangler dev` serves. */
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { afterAll, beforeAll } from "vitest";
import { type R2BucketLike, R2Store } from "../../host/store/r2.ts";
import { testStore } from "../suites/store.ts";

let miniflare: Miniflare;

beforeAll(async () => {
  const script = "export default { fetch: () => new Response() }";
  const options = { modules: true, script, r2Buckets: ["BUCKET"], host: "127.0.0.1", port: 0 };
  miniflare = new Miniflare(convertV4MiniflareOptions(options));
  await miniflare.ready;
});

afterAll(() => miniflare.dispose());

async function open(prefix: string): Promise<R2Store> {
  const bucket = await miniflare.getR2Bucket("BUCKET");
  return new R2Store(bucket as unknown as R2BucketLike, { prefix });
}

testStore({ name: "r2", open: () => open("") });
testStore({ name: "r2 (below a prefix)", open: () => open("some/where") });
