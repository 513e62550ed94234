/** Tokens of external events over lives, lists, revocations and new keys: a real server process. */
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Client } from "../../client/index.ts";
import {
  ask,
  putAway,
  type ServerProcess,
  spore,
  startProject,
  startServer,
  until,
} from "./kit.ts";
import { patient, revocable } from "./tokens-project.ts";

let server: ServerProcess;
let client: Client;

beforeAll(async () => {
  server = await startProject({}, "test/acceptance/tokens-project.ts");
  client = server.client;
});

afterAll(putAway);

const decide = (token: string, value: unknown) =>
  ask(server, "POST", `/v1/events/${token}`, { json: { value } });

async function lifeIs(id: string, attempt: number): Promise<void> {
  await until(`life ${attempt}`, async () => (await client.getMetadata(id)).attempt === attempt);
}

it("a token of the first life decides the event in the third", async () => {
  const run = await client.start(patient.with(1), { id: "third" });
  const token = await run.published<string>("token 1");
  await run.signal("next");
  expect(await run.published<string>("token 2")).toBe(token);
  await run.signal("next");
  expect(await run.published<string>("token 3")).toBe(token);
  expect(await run.openEvents()).toMatchObject([{ name: "approval" }]);
  expect((await decide(token, "yes")).body).toEqual({ duplicate: false });
  expect(await run.result()).toEqual({ life: 3, said: "yes" });
  expect((await decide(token, "yes")).body).toEqual({ duplicate: true });
  expect((await decide(token, "no")).body).toMatchObject({ code: "event-decided" });
  expect(await run.openEvents()).toEqual([]);
});

it("a decision of an earlier life is there when a later one asks, over the server's death", async () => {
  const run = await client.start(patient.with(1), { id: "early" });
  const token = await run.published<string>("token 1");
  expect((await decide(token, 7)).status).toBe(200);
  const { folder, port } = server;
  await server.kill();
  server = await startServer({ folder, port });
  client = server.client;
  await client.handle("early").signal("next");
  await lifeIs("early", 2);
  await client.handle("early").signal("next");
  expect(await client.handle("early").result()).toEqual({ life: 3, said: 7 });
});

it("open events are listed without their tokens, and one is revoked", async () => {
  const run = await client.start(revocable.with(), { id: "revocable" });
  const [first = "", second = ""] = await run.published<string[]>("tokens");
  const open = await run.openEvents();
  expect(open.map(({ name }) => name)).toEqual(["first", "second"]);
  const raw = await ask(server, "GET", "/v1/runs/revocable/open-events");
  expect(JSON.stringify(raw.body)).not.toContain(first);
  await run.revokeEvent(open[0]?.event ?? -1);
  expect((await decide(first, 1)).body).toMatchObject({ code: "event-not-found" });
  expect((await ask(server, "DELETE", "/v1/runs/revocable/open-events/99")).status).toBe(404);
  expect((await run.openEvents()).map(({ name }) => name)).toEqual(["second"]);
  await decide(second, 2);
  expect(await run.result()).toEqual(["event-revoked", 2]);
});

it("a new key signs from now on, and what the old one signed is good", async () => {
  const env = { SPORE_URL: server.url };
  const before = await client.start(revocable.with(), { id: "before" });
  const [old = ""] = await before.published<string[]>("tokens");
  const rotated = await spore(["tokens", "rotate", "--json"], { env });
  const { key } = JSON.parse(rotated.out) as { key: number };
  const after = await client.start(revocable.with(), { id: "after" });
  const [fresh = ""] = await after.published<string[]>("tokens");
  const keyOf = (token: string) => Buffer.from(token, "base64url").readUInt32BE(1);
  expect([keyOf(old), keyOf(fresh)]).toEqual([key - 1, key]);
  expect((await decide(old, "old")).status).toBe(200);
  expect((await decide(fresh, "new")).status).toBe(200);
  const listed = await spore(["tokens", "list", "after", "--json"], { env });
  const [event] = listed.out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { event: number });
  const revoked = await spore(["tokens", "revoke", "after", String(event?.event)], { env });
  expect(revoked.code).toBe(0);
  const failed = await after.result().catch((error: Error & { code?: string }) => error.code);
  expect(failed).toBe("event-revoked");
});
