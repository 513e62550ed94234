/** The loyalty example, one turn at a time. */
import { beforeEach, expect, test } from "vitest";
import { type LoyalCustomer, levelOf } from "../../examples/loyalty/index.ts";
import { decode, encode } from "../../guest/cbor.ts";
import { resultOf, TestHost } from "../guest/host.ts";

let host: TestHost;
let state: Uint8Array | undefined;

beforeEach(() => {
  state = undefined;
});

/** One call of the customer "k", or its creation, on the state that the last one left. */
async function call(method: string, ...args: unknown[]): Promise<unknown> {
  host = new TestHost();
  await host.turn("Customer", method, args, state === undefined ? {} : { state });
  expect(host.drained.state).toBe("done");
  state = host.all("state").at(-1)?.value ?? state;
  return resultOf(host.last("reply").outcome);
}

function customer(): LoyalCustomer {
  return decode(state ?? encode(undefined)) as LoyalCustomer;
}

test.each([
  [0, "Member"],
  [499, "Member"],
  [500, "Silver"],
  [1000, "Gold"],
  [1_000_000, "Platinum"],
])("%i points make a %s", (points, level) => {
  expect(levelOf(points)).toBe(level);
});

test("a customer begins with a reminder of the new year", async () => {
  await call("");
  expect(host.last("remind")).toMatchObject({ name: "year", method: "beginYear" });
  expect(host.last("remind").cron).toBe("0 0 1 1 *");
  expect(customer()).toMatchObject({ points: 0, level: "Member", rewards: [] });
});

test("points add up, and the message says how many are missing", async () => {
  await call("");
  expect(await call("addPoints", 300)).toBe("Member, 300 points. 200 more for Silver.");
  expect(await call("addPoints", 150)).toBe("Member, 450 points. 50 more for Silver.");
  expect(await call("message")).toBe("Member, 450 points. 50 more for Silver.");
  expect(host.kinds()).toBe("reply turned");
});

test("a level starts its reward and tells who invited, in the turn that reaches it", async () => {
  await call("", "grace");
  await call("addPoints", 499);
  expect(host.kinds()).toBe("state reply turned");
  await call("addPoints", 1);
  expect(host.kinds()).toBe("state start call reply turned");
  expect(host.last("start")).toMatchObject({ name: "reward", runId: "reward_k_Silver_1" });
  expect(host.last("call")).toMatchObject({
    actor: { type: "Customer", key: "grace" },
    method: "friendRose",
    args: encode(["k", "Silver"]),
    oneWay: true,
  });
});

test("points that can't be are refused and leave nothing", async () => {
  await call("");
  await expect(call("addPoints", -5)).rejects.toThrow("more than 0");
  expect(host.kinds()).toBe("reply turned");
});

test("an invitation creates the friend with the inviting customer's key", async () => {
  await call("");
  await call("invite", "grace");
  expect(host.last("call")).toMatchObject({
    actor: { type: "Customer", key: "grace" },
    method: "hello",
    create: encode(["k"]),
  });
});

test("a friend's rise brings points", async () => {
  await call("");
  expect(await call("friendRose", "grace", "Gold")).toBe(
    "Member, 100 points. 400 more for Silver. grace has reached Gold.",
  );
});

test("the new year takes points and level, and leaves the rewards", async () => {
  await call("");
  await call("addPoints", 5000);
  await call("rewarded", "a gift");
  await call("beginYear");
  expect(customer()).toMatchObject({ year: 2, points: 0, level: "Member" });
  const account = { points: 0, level: "Member", invitedBy: undefined, rewards: ["a gift"] };
  expect(await call("account")).toEqual(account);
});

test("a reward is chosen, sent after two days and noted with the customer", async () => {
  host = new TestHost();
  await host.start("reward", "ada", "Gold");
  expect(host.last("timer").atMs).toBe(host.nowMs + 2 * 86_400_000);
  await host.ok(host.last("timer").id);
  expect(host.last("call")).toMatchObject({ method: "rewarded", actor: { key: "ada" } });
  await host.ok(host.last("call").id);
  expect(host.output()).toBe("a gift of the Gold kind");
});
