/** Changing the number of partitions while two server processes serve them. */
import { afterAll, expect, it } from "vitest";
import { createClient } from "../../client/index.ts";
import { ask, folderOfTest, putAway, startProject, startServer, until } from "./kit.ts";
import { collector, Ledger } from "./project.ts";

afterAll(putAway);

it("two servers go over to more partitions, and then to one, under load, and lose nothing", async () => {
  const first = await startProject({ folder: await folderOfTest() });
  const second = await startServer({ folder: first.folder });
  const clients = [first, second].map(({ url }) => createClient({ url, attemptsMax: 20 }));
  const [one, other] = clients;
  if (one === undefined || other === undefined) throw new Error("there are two");
  for (let n = 0; n < 10; n += 1) await one.start(collector.with(2), { id: `before-${n}` });

  let isOver = false;
  let done = 0;
  const traffic = clients.map(async (client, index) => {
    for (let n = 0; !isOver; n += 1) {
      const id = `t${index}-${n}`;
      const run = await client.start(collector.with(2), { id });
      await run.signal("item", n);
      await run.signal("item", n + 1);
      expect(await client.getOutput(id)).toEqual([n, n + 1]);
      expect(await client.actor(Ledger, `t${index}`).note(id)).toBe(n + 1);
      done += 1;
    }
  });

  const wider = await one.setPartitions(7);
  expect(wider.partitions).toBe(7);
  await until("the other has gone over, too", async () => (await other.cluster()).partitions === 7);
  const before = done;
  await until("work goes on", async () => done > before + 2);
  await other.setPartitions(1);
  await until("both have one", async () => (await one.cluster()).partitions === 1);
  const narrow = done;
  await until("work goes on", async () => done > narrow + 2);
  isOver = true;
  await Promise.all(traffic);

  for (let n = 0; n < 10; n += 1) {
    const run = other.handle(`before-${n}`);
    await run.signal("item", 1);
    await run.signal("item", 2);
    expect(await one.getOutput(`before-${n}`)).toEqual([1, 2]);
  }
  const refused = await ask(first, "PUT", "/v1/cluster", { json: { partitions: 0 } });
  expect(refused.status).toBe(400);
}, 120_000);
