/** The cart example: what its good form does better than its bad ones. */
import { beforeEach, expect, test } from "vitest";
import type { Item } from "../../examples/cart/index.ts";
import "../../examples/cart/index.ts";
import { decode, encode } from "../../guest/cbor.ts";
import { resultOf, TestHost } from "../guest/host.ts";

const book: Item = { name: "book", price: 12 };
const pen: Item = { name: "pen", price: 3 };
const filled = encode({ items: [book, pen] });

let host: TestHost;
beforeEach(() => {
  host = new TestHost();
});

test("a cart takes items and adds up their prices", async () => {
  await host.turn("Cart", "addItem", [pen], { state: encode({ items: [book] }) });
  expect(resultOf(host.last("reply").outcome)).toBe(2);
  const { value } = host.last("state");
  host = new TestHost();
  await host.turn("Cart", "total", [], { state: value, readonly: true });
  expect(resultOf(host.last("reply").outcome)).toBe(15);
});

test("the good checkout is over at once, and starts the shipment with its commit", async () => {
  await host.turn("Cart", "checkout", [], { state: filled });
  expect(host.kinds()).toBe("state start reply turned");
  expect(host.drained.state).toBe("done");
  expect(host.last("start")).toMatchObject({ name: "ship", runId: "ship_k" });
  expect(decode(host.last("state").value)).toMatchObject({ shipmentId: "ship_k" });
});

test.each([
  [{}, "open"],
  [{ shipmentId: "ship_k" }, "ordered"],
  [{ shipmentId: "ship_k", shipment: { shipped: 2 } }, "shipped"],
])("a cart of %j is %s", async (fields, status) => {
  const state = encode({ items: [], ...fields });
  await host.turn("Cart", "status", [], { state, readonly: true });
  expect(resultOf(host.last("reply").outcome)).toBe(status);
});

test("the shipment takes three days and tells the cart", async () => {
  await host.start("ship", "order_1", [book, pen]);
  expect(host.last("timer").atMs).toBe(host.nowMs + 3 * 86_400_000);
  await host.ok(host.last("timer").id);
  expect(host.last("call")).toMatchObject({
    actor: { type: "Cart", key: "order_1" },
    method: "shipped",
    args: encode([{ shipped: 2 }]),
  });
  await host.ok(host.last("call").id);
  expect(host.output()).toEqual({ shipped: 2 });
});

test("the bad checkout holds the cart for as long as the shipment takes", async () => {
  await host.turn("SlowCart", "checkout", [], { state: filled });
  expect(host.kinds()).toBe("start");
  await host.ok(host.last("start").id, { runId: "child", created: true });
  expect([host.kinds(), host.drained.state]).toEqual(["start outcome", "waiting"]);
  await host.ok(host.last("outcome").id, { shipped: 2 });
  expect(host.kinds()).toBe("start outcome state reply turned");
});

test("steps of a method are a part of its call", async () => {
  await host.turn("SlowCart", "checkoutInSteps", [], { state: filled });
  expect(resultOf(host.last("reply").outcome)).toEqual({ shipped: 2 });
  expect(host.events().filter((event) => event.endsWith("succeeded"))).toEqual([
    "packItem:succeeded",
    "packItem_1:succeeded",
    "countPacked:succeeded",
  ]);
});
