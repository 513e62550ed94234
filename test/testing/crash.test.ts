/** Crash tests: every point of the storage's use, what they find, and how they say it. */
import { crashTest } from "sporeflow/testing";
import { expect, test, vi } from "vitest";
import { Account, charge, nap, order } from "./project.ts";

vi.setConfig({ testTimeout: 120_000 });

const entry = new URL("./project.ts", import.meta.url);

test("an order is charged under one key and ends once, wherever the host crashes", async () => {
  const { points, crashes } = await crashTest({ entry }, async (spore) => {
    const keys = new Set<string>();
    spore.mock(charge, function () {
      keys.add(this.idempotencyKey);
      return { receipt: "r1" };
    });
    const run = await spore.client.start(order.with("Ada", 5), { id: "o" });
    await spore.sleep("1 day");
    await run.signal("approve", true);
    expect(await run.result()).toEqual({ status: "shipped", receipt: "r1" });
    expect([...keys]).toEqual(["o/1/charge"]);
    expect(await spore.client.run(nap.with(1))).toEqual(spore.now());
  });
  expect(points).toBeGreaterThan(5);
  expect(crashes).toBe(points);
});

test("an actor counts each call once, wherever the host crashes", async () => {
  await crashTest({ entry }, async (spore) => {
    const account = await spore.client.getOrCreate(Account, "ada");
    expect(await account.pay(1)).toBe(1);
    expect(await Promise.all([account.pay(1), account.pay(1)])).toEqual([2, 3]);
    expect(await account.balance()).toBe(3);
  });
});

test("a test that counts on a step running once fails, and says at which point", async () => {
  const once = async (at?: number): Promise<Error> => {
    try {
      await crashTest({ entry, at }, async (spore) => {
        let calls = 0;
        spore.mock(charge, () => {
          calls += 1;
          return { receipt: "r1" };
        });
        await spore.client.run(order.with("Ada", 5));
        expect(calls).toBe(1);
      });
    } catch (error) {
      return error as Error;
    }
    throw new Error("it passed");
  };
  const failure = await once();
  expect(failure.message).toMatch(/expected 2 to be 1[\s\S]*the host crashed at point \d+: /);
  expect(failure.message).toMatch(/(before|after) (PUT|GET) /);
  const at = Number(/at: (\d+)/.exec(failure.message)?.[1]);
  expect((await once(at)).message).toContain(`crashed at point ${at}: `);
});

test("a failure without a crash is the test's own, unchanged", async () => {
  const failure = new Error("mine");
  const crashing = crashTest({ entry }, () => Promise.reject(failure));
  await expect(crashing).rejects.toBe(failure);
  expect(failure.message).toBe("mine");
});

test("points can be sampled", async () => {
  const { points, crashes } = await crashTest({ entry, pointsMax: 2 }, async (spore) => {
    await spore.client.run(nap.with(1));
    await spore.client.run(nap.with(2));
  });
  expect(points).toBeGreaterThan(2);
  expect(crashes).toBe(2);
});
