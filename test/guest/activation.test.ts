import { expect, test } from "vitest";
import * as guest from "../../guest/index.ts";
import { TestHost } from "./host.ts";

const one = guest.step("a.one", () => 1);
const add = guest.step("a.add", (a: number, b: number) => a + b);
const fib = guest.step(
  "a.fib",
  (n: number): guest.Graph<number> => (n <= 1 ? n : add.step(fib.step(n - 1), fib.step(n - 2))),
);
guest.workflow("a.sum", async (n: number) => {
  let sum = 0;
  for (let i = 0; i < n; i++) sum = await add(sum, await one());
  return sum;
});

test("a workflow of pure steps completes in one activation", async () => {
  const host = new TestHost();
  await host.start("a.sum", 3);
  expect(host.output()).toBe(3);
  expect(host.drained.state).toBe("done");
  expect(host.events()).toEqual([
    "a.one:started",
    "a.one:succeeded",
    "a.add:started",
    "a.add:succeeded",
    "a.one_1:started",
    "a.one_1:succeeded",
    "a.add_1:started",
    "a.add_1:succeeded",
    "a.one_2:started",
    "a.one_2:succeeded",
    "a.add_2:started",
    "a.add_2:succeeded",
  ]);
});

test("a step that returns a graph continues there", async () => {
  const host = new TestHost();
  await host.graph(fib.step(10));
  expect(host.output()).toBe(55);
});
