/**
 * Arrays of 128 MiB that guests make, by a real server process: stored in pieces, read by another
 * step after the process was killed, and by a client as a stream.
 */
import { createHash } from "node:crypto";
import { afterAll, expect, it } from "vitest";
import type { Ref } from "../../client/index.ts";
import { ask, folderOfTest, putAway, startProject, startServer, until } from "./kit.ts";
import { looking, manyByRef, manyOfChild } from "./storage-project.ts";

const project = "test/acceptance/storage-project.ts";
const numbers = 16 * 1024 * 1024;

afterAll(putAway);

function expected(seed: number): Float64Array {
  const array = new Float64Array(numbers);
  for (let index = 0; index < 4096; index += 1) array[index] = (seed + index) / 7;
  for (let length = 4096; length < numbers; length *= 2) array.copyWithin(length, 0, length);
  for (let index = 0; index < numbers; index += 4096) array[index] = index;
  return array;
}

function hashOf(array: Float64Array): string {
  return createHash("sha256").update(new Uint8Array(array.buffer)).digest("hex");
}

function sumOf(array: Float64Array): number {
  let sum = 0;
  for (let index = 0; index < numbers; index += 1024) sum += array[index] ?? 0;
  return sum;
}

it("128 MiB that a step makes are put, read by a step after a kill, and streamed", async () => {
  const first = await startProject({ folder: await folderOfTest() }, project);
  await first.client.start(manyByRef.with(1), { id: "many" });
  await until("they are stored", async () => {
    const { waiting } = await first.client.getMetadata("many");
    return waiting?.for.includes("sum") === true;
  });
  await first.kill();
  const second = await startServer({ folder: first.folder, port: first.port });
  const { client } = second;
  await client.handle("many").signal("sum");
  const array = expected(1);
  const output = (await client.getOutput("many")) as { ref: Ref<Float64Array>; sum: number };
  expect(output.sum).toBe(sumOf(array));
  const hash = createHash("sha256");
  for await (const part of await client.stream(output.ref)) hash.update(part);
  expect(hash.digest("hex")).toBe(hashOf(array));
  const again = await client.get(output.ref);
  expect(again).toBeInstanceOf(Float64Array);
  expect(hashOf(again)).toBe(hashOf(array));
  await second.stop();
}, 60_000);

it("an array of numbers that a client puts is one to a guest and to clients", async () => {
  const server = await startProject({ folder: await folderOfTest() }, project);
  const { client } = server;
  // A view of a part of its buffer, larger than other bodies may be.
  const array = new Float64Array(400_001).fill(0.5).subarray(1);
  array[399_999] = 7;
  const ref = await client.put(array);
  expect(await client.run(looking.with(ref))).toEqual(["Float64Array", 400_000, 7]);
  expect(await client.get(ref)).toEqual(array);
  expect(await client.get(await client.put(new Int16Array([1, -2])))).toEqual(
    new Int16Array([1, -2]),
  );
  for (const type of ["Float64Array", "Strings"]) {
    const headers = { "content-type": "application/octet-stream", "x-spore-array": type };
    const given = { headers, body: new Uint8Array(12) };
    const { status, body } = await ask(server, "POST", "/v1/objects", given);
    expect([status, body.code]).toEqual([400, "invalid-request"]);
  }
  await server.stop();
}, 60_000);

it("128 MiB are a step's value, a run's output and what a parent has of its child", async () => {
  const server = await startProject({ folder: await folderOfTest() }, project);
  const { client } = server;
  const array = expected(2);
  await client.start(manyOfChild.with(2), { id: "parent" });
  expect(await client.getOutput("parent")).toBe(sumOf(array));
  const [child] = await client.listAll({ name: "manyByValue" });
  const output = await client.getOutput(child?.id ?? "");
  expect(hashOf(output as Float64Array)).toBe(hashOf(array));
  await server.stop();
}, 60_000);
