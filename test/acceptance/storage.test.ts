/**
 * A storage over its life, with real processes: large values, retention, collections beside a
 * server, damage, and a copy that is made while the server works and then served.
 */
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { folderOfTest, putAway, spore, startProject, startServer, until } from "./kit.ts";
import { brief, keeping, reading } from "./storage-project.ts";

const project = "test/acceptance/storage-project.ts";
const size = 24 * 1024 * 1024;

afterAll(putAway);

it("bytes larger than a message are uploaded, read in parts through a kill, and collected", async () => {
  const first = await startProject({ folder: await folderOfTest() }, project);
  const { client } = first;
  const bytes = Uint8Array.from({ length: size }, (_, index) => (index * 31) >> 7);
  const ref = await client.put(bytes);
  expect(Buffer.compare(await client.get(ref), bytes)).toBe(0);
  const part = await client.get(ref, { offset: size - 5, length: 100 });
  expect([...part]).toEqual([...bytes.subarray(-5)]);

  const partBytes = 2 * 1024 * 1024;
  await client.start(reading.with(ref, size, partBytes), { id: "reader" });
  await until("half of it is read", async () => {
    return (await client.getMetadata("reader")).waiting?.for.includes("go") === true;
  });
  await first.kill();
  const second = await startServer({ folder: first.folder, port: first.port });
  await client.handle("reader").signal("go");
  let sum = 0;
  for (let at = 0; at < size; at += partBytes) {
    sum += partBytes + (bytes[at] ?? 0) + (bytes[at + partBytes - 1] ?? 0);
  }
  expect(await client.getOutput("reader")).toBe(sum);
  // The log has the bytes by name only: what came from the object is nowhere else.
  const report = JSON.parse(
    (await spore(["verify", "--json", "--storage", `file:${first.folder}`])).out,
  );
  expect(report).toMatchObject({ isSound: true, runs: 1, objects: 1, objectBytes: ref.size });
  let logged = 0;
  for (const partition of await readdir(join(first.folder, "p"))) {
    for (const name of await readdir(join(first.folder, "p", partition, "log"))) {
      logged += (await readFile(join(first.folder, "p", partition, "log", name))).length;
    }
  }
  expect(logged).toBeLessThan(size / 2);
  await second.stop();
});

it("closed runs go after their retention, and what they stored with the next collection", async () => {
  const server = await startProject({ folder: await folderOfTest() }, project);
  const { client } = server;
  const env = { SPORE_URL: server.url };
  await client.collectGarbage(); // so that the server has no reason to do so by itself
  await client.start(keeping.with(300_000), { id: "kept", retentionMs: 1 });
  await client.start(keeping.with(200_000), { id: "stays" });
  await until("both are stored", async () => {
    const waits = await Promise.all(["kept", "stays"].map((id) => client.getMetadata(id)));
    return waits.every(({ waiting }) => waiting?.for.includes("read") === true);
  });
  const before = JSON.parse((await spore(["gc", "--dry-run", "--json"], { env })).out);
  expect(before).toMatchObject({ isDryRun: true, objects: { count: 0 } });
  await client.handle("kept").signal("read");
  await until("its retention is over", async () => {
    return (await client.listAll({})).every(({ id }) => id !== "kept");
  });
  const dry = JSON.parse((await spore(["gc", "--dry-run", "--json"], { env })).out);
  expect(dry).toMatchObject({ isDryRun: true, objects: { count: 1 } });
  expect(await client.collectGarbage()).toMatchObject({ objects: dry.objects });
  expect(await client.collectGarbage()).toMatchObject({ objects: { count: 0, bytes: 0 } });
  await client.handle("stays").signal("read");
  expect(await client.getOutput("stays")).toBe(200_000);
  await server.stop();
});

it("a server collects by itself if nobody has", async () => {
  const first = await startProject({ folder: await folderOfTest() }, project);
  const { client, folder } = first;
  await client.start(keeping.with(300_000), { id: "kept", retentionMs: 1 });
  await client.handle("kept").signal("read");
  const stored = async (): Promise<number> => {
    const names = await readdir(join(folder, "objects"), { recursive: true });
    return names.filter((name) => /[0-9a-f]{64}/.test(name)).length;
  };
  await until("its value is stored", async () => (await stored()) === 1);
  await until("its retention is over", async () => (await client.listAll({})).length === 0);
  await first.stop();
  await rm(join(folder, "collections"), { recursive: true, force: true });
  const second = await startServer({ folder });
  await until("a collection has ended", async () => {
    const metrics = await (await fetch(`${second.url}/metrics`)).text();
    return metrics.includes('spore_collections_total{outcome="done"} 1');
  });
  expect(await stored()).toBe(0);
  expect(second.printed()).toContain('"msg":"collected what nothing refers to"');
  expect(await second.stop()).toEqual({ code: 0, signal: null });
});

it("a copy that is made while a server works is checked, and served like the original", async () => {
  const server = await startProject({ folder: await folderOfTest() }, project);
  const { client } = server;
  await client.start(keeping.with(100_000), { id: "kept" });
  let isOver = false;
  const working = (async () => {
    for (let n = 0; !isOver; n += 1) await client.run(brief.with(n), { id: `brief${n}` });
  })();
  const target = await folderOfTest();
  const exported = await spore(
    ["export", `file:${target}/copy`, "--storage", `file:${server.folder}`, "--json"],
    {},
  );
  isOver = true;
  await working;
  expect([exported.code, exported.err]).toEqual([0, ""]);
  const twice = await spore([
    "import",
    `file:${server.folder}`,
    "--storage",
    `file:${target}/copy`,
  ]);
  expect(twice.code).toBe(4);
  expect(twice.err).toContain("there are objects in the target already");

  const copy = await startServer({ folder: `${target}/copy` });
  await copy.client.handle("kept").signal("read");
  expect(await copy.client.getOutput("kept")).toBe(100_000);
  expect(await copy.client.run(brief.with(4), { id: "new" })).toBe(8);
  await copy.stop();
  // The original knows nothing of it.
  expect((await client.handle("kept").info()).status).toBe("RUNNING");
  await server.stop();

  const verified = await spore(["verify", "--storage", `file:${target}/copy`]);
  expect([verified.code, verified.err]).toEqual([0, ""]);

  // A damaged entry that a checkpoint stands for is told; one that the copy would lack ends it.
  const [partition = ""] = await readdir(join(target, "copy/p"));
  const log = join(target, "copy/p", partition, "log");
  const [first = ""] = (await readdir(log)).toSorted();
  const whole = await readFile(join(log, first));
  await writeFile(join(log, first), whole.subarray(0, 50));
  const warned = await spore([
    "export",
    `file:${target}/second`,
    "--storage",
    `file:${target}/copy`,
  ]);
  expect(warned.code).toBe(0);
  expect(warned.out).toContain(`p/${partition}/log/${first}: `);
  expect(warned.out).toContain("The copy is whole without these");
  await writeFile(join(log, first), whole);
  const later = join(log, (10 ** 9).toString(16).padStart(first.length, "0"));
  await writeFile(later, whole);
  const refused = await spore([
    "export",
    `file:${target}/third`,
    "--storage",
    `file:${target}/copy`,
  ]);
  expect(refused.code).toBe(5);
  expect(refused.err).toContain("which the search for the end misses");
  await rm(later);
  const folder = join(target, "copy/components");
  const [component = ""] = await readdir(folder);
  const bytes = await readFile(join(folder, component));
  bytes[1000] = (bytes[1000] ?? 0) ^ 1;
  await writeFile(join(folder, component), bytes);
  const damaged = await spore(["verify", "--json", "--storage", `file:${target}/copy`]);
  expect(damaged.code).toBe(1);
  const { isSound, damages } = JSON.parse(damaged.out);
  expect([isSound, damages[0].key]).toEqual([false, `components/${component}`]);
});
