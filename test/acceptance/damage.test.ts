/**
 * Damaged and truncated objects in the storage folder: whoever needs them gets an error
 * with a code and the object's key, everybody else is served as ever.
 */
import { cp, readdir, readFile, truncate, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createClient } from "../../client/index.ts";
import {
  ask,
  folderOfTest,
  launch,
  putAway,
  removeFolder,
  type ServerProcess,
  spore,
  startProject,
  startServer,
  temporaryFolder,
  until,
} from "./kit.ts";
import { account, echo } from "./project.ts";

/** A folder with something in every partition, left by a server that was killed. */
let template = "";
const ids = Array.from({ length: 16 }, (_, index) => `run_${index}`);

beforeAll(async () => {
  template = await temporaryFolder();
  const server = await startProject({ folder: template });
  for (const id of ids) await server.client.run(echo.with(id), { id });
  const run = await server.client.start(account.with(0), { id: "imaged" });
  for (let index = 0; index < 60; index++) await run.update("deposit", 1);
  await server.kill();
});

afterAll(async () => {
  await putAway();
  await removeFolder(template);
});

async function copied(): Promise<string> {
  const folder = await folderOfTest();
  await cp(template, folder, { recursive: true });
  return folder;
}

async function objectsOf(folder: string, pattern: RegExp): Promise<readonly string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
    .filter((key) => pattern.test(key))
    .sort();
}

async function flipBit(file: string): Promise<void> {
  const bytes = await readFile(file);
  const at = Math.floor(bytes.length / 2);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  await writeFile(file, bytes);
}

async function cutInHalf(file: string): Promise<void> {
  await truncate(file, Math.floor((await readFile(file)).length / 2));
}

/** Which of the runs a server still answers for, and the codes of those it refuses. */
async function census(server: ServerProcess): Promise<{ served: number; codes: Set<unknown> }> {
  const answers = await Promise.all(ids.map((id) => ask(server, "GET", `/v1/runs/${id}/output`)));
  const served = answers.filter(({ status }) => status === 200);
  const refused = answers.filter(({ status }) => status !== 200);
  return { served: served.length, codes: new Set(refused.map(({ body }) => body.code)) };
}

it.each([
  ["a flipped bit", flipBit],
  ["half of it missing", cutInHalf],
])("a log entry with %s stops its partition and no other", async (_what, harm) => {
  const folder = await copied();
  const [key] = (await objectsOf(folder, /^p\/\d+\/log\//)).slice(-1);
  expect(key).toBeDefined();
  await harm(join(folder, key ?? ""));
  const server = await launch({ folder, attemptsMax: 1 });
  await until("the other partitions serve", async () => (await census(server)).served > 0);
  const { served, codes } = await census(server);
  expect(served).toBeLessThan(ids.length);
  expect([...codes]).toEqual(["corrupt-log"]);
  await until("the log names the object", () => server.printed().includes(key ?? "?"));
  expect(server.isRunning()).toBe(true);
  await server.kill();
});

it("a damaged component is refused by name; what needs none of it is served", async () => {
  const folder = await copied();
  const [key] = await objectsOf(folder, /^components\//);
  await flipBit(join(folder, key ?? ""));
  const server = await startServer({ folder, attemptsMax: 1 });
  expect((await census(server)).served).toBe(ids.length);
  const start = await ask(server, "POST", "/v1/workflows/echo?wait=5s", { json: { args: [1] } });
  expect([start.status, start.body.code]).toEqual([500, "corrupt-image"]);
  expect(start.body.detail).toContain(key);
  await server.kill();
});

it("a damaged namespace object is refused at the start, with its key", async () => {
  const folder = await copied();
  await writeFile(join(folder, "namespace"), "not a namespace");
  const { code, err } = await spore(["serve", "--storage", `file:${folder}`, "--port", "0"]);
  expect(code).toBe(5);
  expect(err).toContain("namespace");
  const json = await spore(["serve", "--json", "--storage", `file:${folder}`, "--port", "0"]);
  expect(JSON.parse(json.err.trim().split("\n").at(-1) ?? "")).toMatchObject({
    error: { code: "corrupt-log" },
  });
});

it("a folder of another program is left as it is", async () => {
  const folder = await folderOfTest();
  await writeFile(join(folder, "precious.txt"), "mine");
  const server = await startServer({ folder });
  await server.kill();
  expect(await readFile(join(folder, "precious.txt"), "utf8")).toBe("mine");
});

it("after the damage is undone, all is well again without a restart of anything else", async () => {
  const folder = await copied();
  const [key] = (await objectsOf(folder, /^p\/\d+\/log\//)).slice(-1);
  const file = join(folder, key ?? "");
  const sound = await readFile(file);
  await flipBit(file);
  const server = await launch({ folder, attemptsMax: 1 });
  await until("a partition refuses", async () => (await census(server)).codes.has("corrupt-log"));
  await writeFile(file, sound);
  await until("all runs are served", async () => (await census(server)).served === ids.length);
  const client = createClient({ url: server.url });
  expect(await client.handle("imaged").query("balance")).toBe(60);
  await server.kill();
});
