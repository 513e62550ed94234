/** The number of partitions is changed from a Worker, with work under way. */
import { afterAll, expect, it, vi } from "vitest";
import { ask, codeOf, until } from "../acceptance/kit.ts";
import { leg, Purse, twice } from "./journey.ts";
import { startEdge, stopEdges } from "./kit.ts";

vi.setConfig({ testTimeout: 240_000, hookTimeout: 120_000 });
afterAll(stopEdges);

it.each([
  ["more", 5],
  ["fewer", 1],
])("%s partitions hold what was there, and what comes", async (_, partitions) => {
  const edge = await startEdge({ attemptsMax: 30 });
  await edge.client.deploy(await codeOf("test/edge/journey.ts"));
  const names = Array.from({ length: 6 }, (_none, n) => `leg_${n}`);
  for (const id of names) await edge.client.start(leg.with(id), { id });
  expect(await (await edge.client.getOrCreate(Purse, "kept")).add(3, "before")).toBe(3);
  const answer = await ask(edge, "PUT", "/v1/cluster", { json: { partitions } });
  expect([answer.status, answer.body.partitions]).toEqual([200, partitions]);
  for (const id of names) {
    await edge.client.handle(id).signal("go", "after");
    expect(await edge.client.handle(id).result()).toBe(`${id} after`);
  }
  expect(await edge.client.actor(Purse, "kept").add(4, "after")).toBe(7);
  expect(await edge.client.run(twice.with(3))).toBe(6);
  await until(
    "every partition is served",
    async () => (await fetch(`${edge.url}/readyz`)).ok,
    60_000,
  );
  // An object that starts anew finds the layout that holds.
  for (const index of [0, 1]) await edge.crash(index);
  expect(await edge.client.actor(Purse, "kept").notes()).toEqual(["before", "after"]);
  const { body } = await ask(edge, "GET", "/v1/cluster");
  expect(body.partitions).toBe(partitions);
});
