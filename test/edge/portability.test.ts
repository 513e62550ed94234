/**
 * Runs and actors that begin on one kind of host go on on the other and come back, over the
 * same bucket contents: nothing is replayed, lost or done twice.
 */
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import type { Client } from "../../client/index.ts";
import { FileStore } from "../../host/store/file.ts";
import {
  codeOf,
  type Outside,
  putAway,
  startOutside,
  startServer,
  temporaryFolder,
  until,
} from "../acceptance/kit.ts";
import { hoarder, journey, leg, Purse, sleeper, tree } from "./journey.ts";
import { copyBucket, startEdge, stopEdges } from "./kit.ts";

interface Stage {
  readonly client: Client;
  /** Stops the host and gives what is in its bucket. */
  leave(): Promise<FileStore>;
}

/** Long enough to be carried over in. */
const napMs = 10_000;

type Open = (before?: FileStore) => Promise<Stage>;

let code: string;
let outside: Outside;

beforeAll(async () => {
  [code, outside] = await Promise.all([codeOf("test/edge/journey.ts"), startOutside()]);
});

afterEach(() => outside.calls.clear());

afterAll(async () => {
  await stopEdges();
  await putAway();
  await outside?.close();
});

const onNode: Open = async (before) => {
  const folder = await temporaryFolder();
  if (before !== undefined) await copyBucket(before, await FileStore.open(folder));
  const server = await startServer({ folder });
  return {
    client: server.client,
    async leave() {
      await server.kill();
      return FileStore.open(folder);
    },
  };
};

const onWorker: Open = async (before) => {
  const edge = await startEdge();
  if (before !== undefined) await copyBucket(before, await edge.store());
  return {
    client: edge.client,
    async leave() {
      const copy = await FileStore.open(await temporaryFolder());
      await copyBucket(await edge.store(), copy);
      await edge.stop();
      return copy;
    },
  };
};

it.each([
  ["from Node to workerd and back", onNode, onWorker],
  ["from workerd to Node and back", onWorker, onNode],
] as const)("what is at rest goes on elsewhere: %s", async (_, here, there) => {
  const url = outside.url;
  const waits = (client: Client, id: string, what: string): Promise<void> =>
    until(`${id} waits for ${what}`, async () =>
      ((await client.handle(id).info()).waiting?.for ?? "").includes(what),
    );

  const first = await here();
  const { id: component } = await first.client.deploy(code);
  await first.client.start(journey.with(url, 2), { id: "journey" });
  await first.client.start(tree.with(), { id: "tree" });
  await first.client.start(sleeper.with(url, 3_600_000), { id: "long_sleeper" });
  const purse = await first.client.getOrCreate(Purse, "mine");
  expect(await purse.add(5, "first")).toBe(5);
  await waits(first.client, "journey", "stop");
  await waits(first.client, "right_of_tree", "go");
  const luck = await first.client.handle("journey").query("luck");
  expect((await first.client.handle("journey").info()).imageBytes).toBeGreaterThan(0);
  await first.client.start(sleeper.with(url, napMs), { id: "sleeper" });
  const sleepsUntilMs = Date.now() + napMs;

  const second = await there(await first.leave());
  expect(await second.client.handle("journey").query("luck")).toBe(luck);
  expect(await second.client.handle("journey").query("seen")).toEqual(["began"]);
  await second.client.handle("journey").signal("stop", "over there");
  await second.client.handle("left_of_tree").signal("go", "went there");
  expect(await second.client.handle("left_of_tree").result()).toBe("left went there");
  expect(await second.client.actor(Purse, "mine").add(6, "second")).toBe(11);
  expect(await second.client.getStatus("tree")).toBe("RUNNING");
  // It slept while it was carried over.
  expect(await second.client.handle("sleeper").result()).toBe("/woke");
  expect(Date.now()).toBeGreaterThanOrEqual(sleepsUntilMs);
  await waits(second.client, "journey", "stop");
  // The component is the same one, whoever made its memory: nothing is compiled again.
  expect((await second.client.deploy(code)).id).toBe(component);

  const third = await here(await second.leave());
  expect(await third.client.handle("journey").query("luck")).toBe(luck);
  await third.client.handle("journey").signal("stop", "home again");
  const result = await third.client.handle<Record<string, unknown>>("journey").result();
  expect(result).toEqual({
    sum: expect.any(Number),
    luck,
    seen: new Map([
      ["began", "/began"],
      ["stop 1", "over there"],
      ["stop 2", "home again"],
      ["ended", "/ended"],
    ]),
  });
  await third.client.handle("right_of_tree").signal("go", "came back");
  expect(await third.client.handle("tree").result()).toEqual([
    "left went there",
    "right came back",
  ]);
  const carried = third.client.actor(Purse, "mine");
  expect(await carried.add(1, "third")).toBe(12);
  expect(await carried.notes()).toEqual(["first", "second", "third"]);
  const fresh = await third.client.start(leg.with("new"), { id: "new" });
  await fresh.signal("go", "!");
  expect(await fresh.result()).toBe("new !");
  expect((await third.client.handle("long_sleeper").info()).waiting?.for).toMatch(/timer|sleep/);
  expect(Object.fromEntries(outside.calls)).toEqual({ "/began": 1, "/ended": 1, "/woke": 1 });
  await (await third.leave()).close();
});

it("a run that outgrew a Worker's memory on Node waits there unharmed, and goes on on Node", async () => {
  const first = await onNode();
  await first.client.deploy(code);
  await first.client.start(hoarder.with(40), { id: "hoarder" });
  await until("it waits", async () => {
    const { waiting } = await first.client.handle("hoarder").info();
    return (waiting?.for ?? "").includes("go");
  });
  const second = await onWorker(await first.leave());
  await second.client.handle("hoarder").signal("go");
  await until("the Worker gave up", async () => {
    return (await second.client.getStatus("hoarder")) === "RESUMABLE";
  });
  const { error } = await second.client.handle("hoarder").info();
  expect(error).toMatchObject({ code: "memory-too-large" });
  const third = await onNode(await second.leave());
  await third.client.handle("hoarder").resume();
  expect(await third.client.handle("hoarder").result()).toBe((40 * 41) / 2);
  await (await third.leave()).close();
});
