import { expect, test } from "vitest";
import { describe as manifest } from "../../guest/activation.ts";
import { decode } from "../../guest/cbor.ts";
import * as guest from "../../guest/index.ts";
import type { Manifest } from "../../guest/protocol.ts";
import { durationMs } from "../../guest/time.ts";

test("the manifest lists what was defined, actors with their methods", () => {
  guest.step("m.step", () => 1);
  guest.workflow("m.flow", () => 1);
  guest.actor(
    "m.Actor",
    class {
      read() {}
      write() {}
    },
    { readonly: ["read"] },
  );
  const { protocol, definitions } = decode(manifest()) as Manifest;
  expect(protocol).toBe(1);
  expect(definitions).toEqual([
    {
      kind: "actor",
      name: "m.Actor",
      methods: [
        { name: "read", readonly: true },
        { name: "write", readonly: false },
      ],
    },
    { kind: "step", name: "m.step" },
    { kind: "workflow", name: "m.flow" },
  ]);
});

test("one name for two functions is refused, and both are named", () => {
  function first(): number {
    return 1;
  }
  function second(): number {
    return 2;
  }
  guest.step("d.twice", first);
  guest.step("d.twice", first);
  expect(() => guest.step("d.twice", second)).toThrow("function first and as function second");
  guest.workflow("d.twice", second);
});

test.each(["", " a", "a\n", "a/b", "$a", "x".repeat(129), 5])("the name %j is refused", (name) => {
  expect(() => guest.step(name as string, () => 1)).toThrow(TypeError);
});

test.each<[Record<string, unknown>, string]>([
  [{ retires: 1 }, "there is no option retires"],
  [{ retries: -1 }, "retries"],
  [{ retries: 1.5 }, "retries"],
  [{ timeout: "soon" }, "timeout"],
  [{ timeout: 0 }, "more than 0"],
  [{ backoff: { initial: "x" } }, "backoff.initial"],
  [{ backoff: { jitter: 2 } }, "jitter"],
  [{ backoff: { first: 2 } }, "there is no first"],
  [{ backoff: 5 }, "backoff"],
  [{ catchErrors: 1 }, "true or false"],
  [{ metadata: [] }, "needs an object"],
  [{ nonRetryable: [5] }, "nonRetryable"],
  [{ constructor: 1 }, "there is no option constructor"],
])("options %j are refused by name", (options, message) => {
  expect(() => guest.step("o.bad", () => 1, options as guest.StepOptions)).toThrow(message);
});

test.each<[guest.Duration, number]>([
  [250, 250],
  ["250 ms", 250],
  ["1.5 s", 1500],
  ["1.1s", 1100],
  ["2h", 7_200_000],
  ["10 min", 600_000],
  ["30 days", 2_592_000_000],
  ["1 week", 604_800_000],
  [0.2, 1],
])("the duration %j is %d ms", (duration, ms) => {
  expect(durationMs(duration)).toBe(ms);
});

test.each(["", "5", "5 years", "-1 s", "1 s 2", "toString", -1, Number.NaN, Infinity, null, {}])(
  "%j is no duration",
  (duration) => {
    expect(() => durationMs(duration as guest.Duration)).toThrow("is not a duration");
  },
);

test("a node is a GraphValue to JSON", () => {
  const item = guest.step("j.item", (...all: unknown[]) => all);
  expect(JSON.parse(JSON.stringify(item.step(1, item.options({ retries: 2 }).step())))).toEqual({
    $step: "j.item",
    args: [1, { $step: "j.item", args: [], options: { retries: 2 } }],
  });
});
