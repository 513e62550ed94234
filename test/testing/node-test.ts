/** Run by kit.test.ts under Node's own test runner; the process has to end by itself. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { createTestHost } from "sporeflow/testing";
import { nap } from "./project.ts";

test("a workflow sleeps", async () => {
  await using spore = await createTestHost({ entry: new URL("./project.ts", import.meta.url) });
  assert.deepEqual(await spore.client.run(nap.with(1)), new Date("2030-01-02T00:00:00Z"));
});
