/** The cart as a whole, with `sporeflow/testing`: three days pass while you blink. */
import { crashTest, createTestHost } from "sporeflow/testing";
import { expect, test } from "vitest";
import { Cart, packItem, SlowCart, ship } from "./index.ts";

const entry = new URL("./index.ts", import.meta.url);
const book = { name: "book", price: 12 };
const pen = { name: "pen", price: 3 };

test("an order is shipped after three days, and the cart serves meanwhile", async () => {
  await using spore = await createTestHost({ entry });
  const cart = await spore.client.getOrCreate(Cart, "order_1");
  await cart.addItem(book);
  expect(await cart.checkout()).toBe("ship_order_1");
  expect(await cart.addItem(pen)).toBe(2);
  expect(await cart.status()).toBe("ordered");
  await spore.sleep("3 days");
  expect(await cart.status()).toBe("shipped");
}, 60_000);

test("a slow cart makes others wait for as long as the shipment takes", async () => {
  await using spore = await createTestHost({ entry });
  const cart = await spore.client.getOrCreate(SlowCart, "order_2");
  await cart.addItem(book);
  void cart.checkout().catch(() => undefined); // it tells a cart that isn't there
  const before = spore.now().getTime();
  await cart.addItem(pen);
  expect(spore.now().getTime() - before).toBe(3 * 86_400_000);
}, 60_000);

test("items that can't be packed at once are tried again", async () => {
  await using spore = await createTestHost({ entry });
  let failures = 2;
  spore.mock(packItem, (item) => {
    if (failures-- > 0) throw new Error("no tape");
    return item.name;
  });
  await spore.client.getOrCreate(Cart, "order_3");
  expect(await spore.client.run(ship.with("order_3", [book]))).toEqual({ shipped: 1 });
}, 60_000);

test("a checkout ships once, whenever the host dies", async () => {
  const { crashes } = await crashTest({ entry }, async (spore) => {
    const cart = await spore.client.getOrCreate(Cart, "order_4");
    await cart.addItem(book);
    await cart.checkout();
    await cart.checkout();
    await spore.sleep("3 days");
    expect(await cart.status()).toBe("shipped");
    expect(await spore.client.listAll({ name: "ship" })).toHaveLength(1);
  });
  expect(crashes).toBeGreaterThan(5);
}, 120_000);
