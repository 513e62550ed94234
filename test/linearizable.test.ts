import { expect, test } from "vitest";
import { seededNumbers } from "../bench/seeded.ts";
import {
  checkLinearizable,
  type Operation,
  type RegisterAction,
  register,
} from "./linearizable.ts";

type Given = Operation<RegisterAction, number>;

const read = (calledAt: number, answeredAt: number, answer: number): Given => {
  return { action: { kind: "read" }, calledAt, answeredAt, answer };
};
const write = (calledAt: number, answeredAt: number | undefined, value: number, answer: number) => {
  return { action: { kind: "write", value }, calledAt, answeredAt, answer } satisfies Given;
};
const lostWrite = (calledAt: number, value: number): Given => {
  return { action: { kind: "write", value }, calledAt };
};

test.each<[string, boolean, readonly Given[]]>([
  ["nothing", true, []],
  ["a read of what was written", true, [write(1, 2, 7, 0), read(3, 4, 7)]],
  ["a stale read", false, [write(1, 2, 7, 0), read(3, 4, 0)]],
  ["a read beside a write, before it", true, [write(1, 4, 7, 0), read(2, 3, 0)]],
  ["a read beside a write, after it", true, [write(1, 4, 7, 0), read(2, 3, 7)]],
  [
    "two reads beside a write that go back in time",
    false,
    [write(1, 8, 7, 0), read(2, 3, 7), read(4, 5, 0)],
  ],
  ["a lost answer whose write is seen", true, [lostWrite(1, 7), read(5, 6, 7)]],
  ["a lost answer whose write never was", true, [lostWrite(1, 7), read(5, 6, 0)]],
  ["a lost answer that is undone", false, [lostWrite(1, 7), read(5, 6, 7), read(7, 8, 0)]],
  ["an acknowledged write that is lost", false, [write(1, 2, 7, 0), write(3, 4, 8, 0)]],
  [
    "an addition that is done twice",
    false,
    [
      { action: { kind: "add", by: 1 }, calledAt: 1, answeredAt: 2, answer: 1 },
      { action: { kind: "add", by: 1 }, calledAt: 3, answeredAt: 4, answer: 3 },
    ],
  ],
  [
    "a swap that fails, beside the write that made it fail",
    true,
    [
      write(1, 9, 5, 0),
      { action: { kind: "swap", from: 0, to: 3 }, calledAt: 2, answeredAt: 3, answer: 5 },
      read(4, 5, 5),
    ],
  ],
])("%s: %j", (_name, isLinearizable, history) => {
  expect(checkLinearizable(register, history).kind).toBe(
    isLinearizable ? "linearizable" : "violation",
  );
});

/** Operations whose true moment is known; answers and times around it are made to fit. */
function madeUp(seed: number, count: number): Given[] {
  const random = seededNumbers(seed);
  let state = 0;
  const history: Given[] = [];
  for (let moment = 0; moment < count; moment++) {
    const kinds: RegisterAction[] = [
      { kind: "read" },
      { kind: "write", value: moment },
      { kind: "add", by: 1 },
      { kind: "swap", from: state, to: -moment },
    ];
    const action = kinds[Math.floor(random() * kinds.length)] ?? { kind: "read" };
    const before = state;
    state = register.step(state, action, undefined) ?? state;
    const answer = action.kind === "read" || action.kind === "add" ? state : before;
    const calledAt = moment - random() * 6;
    const isLost = action.kind !== "read" && random() < 0.02;
    const answeredAt = moment + random() * 6;
    history.push(isLost ? { action, calledAt } : { action, calledAt, answeredAt, answer });
  }
  return history;
}

test("long histories that happened are accepted, and one wrong answer in them is found", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const history = madeUp(seed, 1500);
    expect(checkLinearizable(register, history).kind, `seed ${seed}`).toBe("linearizable");
    const place = history.findIndex(
      ({ action, answer }, index) => index > 700 && action.kind === "read" && answer !== undefined,
    );
    const wrong = history.map((operation, index) =>
      index === place ? { ...operation, answer: -0.5 } : operation,
    );
    const verdict = checkLinearizable(register, wrong);
    expect(verdict).toMatchObject({ kind: "violation", stuckAt: { answer: -0.5 } });
  }
});
