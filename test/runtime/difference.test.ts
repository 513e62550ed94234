/** What counts as the same when a run is to be moved to other code. */
import { expect, test } from "vitest";
import { encode } from "../../guest/cbor.ts";
import type { Command, Drained, StepRecord } from "../../guest/protocol.ts";
import { firstDifference } from "../../runtime/difference.ts";

const record: StepRecord = {
  step: "charge",
  name: "charge",
  event: "succeeded",
  atMs: 1,
  attempt: 1,
  value: encode(20),
};
const timer: Command = { kind: "timer", id: 1, atMs: 5 };

function drained(more: Partial<Drained> = {}): Drained {
  return { state: "waiting", commands: [timer], records: [encode(record)], ...more };
}

test("the same is no difference", () => {
  expect(firstDifference(drained(), drained())).toBeUndefined();
});

test("log lines, stacks and what is waited for in words are no difference", () => {
  const log: Command = { kind: "log", level: "info", message: "new code" };
  const failed = (stack: string): Drained =>
    drained({
      records: [
        encode({ ...record, event: "failed", error: { name: "Error", message: "no", stack } }),
      ],
      commands: [
        timer,
        {
          kind: "reply",
          id: "u",
          outcome: {
            kind: "error",
            error: { name: "E", message: "m", stack, cause: { name: "C", message: "c", stack } },
          },
        },
      ],
    });
  const after = failed("at new.ts:9");
  const [one, ...rest] = after.commands;
  const logged = { ...after, commands: [one ?? timer, log, ...rest], waitingFor: "something" };
  expect(firstDifference(failed("at old.ts:1"), logged)).toBeUndefined();
});

test.each<[string, Partial<Drained>, string]>([
  ["another command", { commands: [{ ...timer, atMs: 6 }] }, "command 0"],
  ["a command less", { commands: [] }, "command 0"],
  ["a command more", { commands: [timer, { ...timer, id: 2 }] }, "command 1"],
  ["another result", { records: [encode({ ...record, value: encode(30) })] }, "step record 0"],
  ["another step", { records: [encode({ ...record, step: "pay" })] }, "step record 0"],
  ["another end", { state: "done" }, "state 0"],
  ["another handler", { handlers: { queries: ["q"], updates: [] } }, "state 0"],
])("%s is a difference", (_what, more, where) => {
  expect(firstDifference(drained(), drained(more))?.what).toBe(where);
});

test("both sides are shown in words, however large they are", () => {
  const after = drained({ records: [encode({ ...record, value: encode("x".repeat(5000)) })] });
  const difference = firstDifference(drained(), after);
  expect(difference?.before).toContain('"value":20');
  expect(difference?.after.length).toBeLessThan(500);
});
