/** The testing kit itself: time, mocks, the network, crashes, and what it says when it is stuck. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { createTestHost, type TestHost, type TestHostOptions } from "sporeflow/testing";
import { expect, onTestFinished, test, vi } from "vitest";
import {
  Account,
  add,
  both,
  broken,
  charge,
  double,
  doubled,
  impatient,
  inline,
  nap,
  order,
  slow,
  sum,
  tick,
  waiting,
} from "./project.ts";

vi.setConfig({ testTimeout: 60_000 });

const entry = new URL("./project.ts", import.meta.url);

async function open(options: Partial<TestHostOptions> = {}): Promise<TestHost> {
  const spore = await createTestHost({ entry, ...options });
  onTestFinished(() => spore.stop());
  return spore;
}

async function failureOf(work: Promise<unknown>): Promise<Error> {
  try {
    await work;
  } catch (error) {
    return error as Error; // all that is thrown here is one
  }
  throw new Error("it did not fail");
}

const receipt = { receipt: "r1" };

test("a workflow that sleeps for three years answers at once, three years later", async () => {
  const spore = await open();
  const woken = await spore.client.run(nap.with(3 * 365));
  expect(woken).toEqual(new Date("2032-12-31T00:00:00Z"));
  expect(spore.now()).toEqual(woken);
});

test("time stands still between two lines of a test, so that a signal isn't late", async () => {
  const spore = await open({ now: new Date("2026-02-28T12:00:00Z") });
  spore.mock(charge, () => receipt);
  const run = await spore.client.start(order.with("Ada", 5));
  expect(await run.query("status")).toBe("waiting");
  await spore.sleep("6 days");
  expect(spore.now()).toEqual(new Date("2026-03-06T12:00:00Z"));
  await run.signal("approve", true);
  expect(await run.result()).toEqual({ status: "shipped", receipt: "r1" });
});

test("a wait that nobody ends runs into its timeout", async () => {
  const spore = await open();
  spore.mock(charge, () => receipt);
  expect(await spore.client.run(order.with("Ada", 5))).toMatchObject({ status: "refused" });
  expect(spore.now()).toEqual(new Date("2030-01-08T00:00:00Z"));
});

test("time that is moved by hand moves for nobody else", async () => {
  const spore = await open({ skipsTime: false });
  const run = await spore.client.start(nap.with(2));
  await spore.sleep("47 hours");
  expect(await run.status()).toBe("RUNNING");
  await spore.sleep("1 hour");
  expect(await run.status()).toBe("SUCCESSFUL");
});

test("a mock gets the step's arguments and its place in the run", async () => {
  const spore = await open();
  const bodies: unknown[] = [];
  spore.mock(add, function (left, right) {
    bodies.push([this.runId, this.step, this.attempt, this.idempotencyKey]);
    return left * 10 + right;
  });
  expect(await spore.client.run(sum.step(2), { id: "two" })).toBe(30);
  expect(bodies).toEqual([
    ["two", "add_1", 1, "two/1/add_1"],
    ["two", "add", 1, "two/1/add"],
  ]);
});

test("a mock that throws is tried again like the step, in the test's time", async () => {
  const spore = await open();
  const fake = vi.fn(async () => receipt).mockRejectedValueOnce(new RangeError("bank closed"));
  spore.mock(charge, fake);
  const run = await spore.client.start(order.with("Ada", 5));
  await spore.sleep("2 s");
  await run.signal("approve", true);
  expect(await run.result()).toMatchObject({ receipt: "r1" });
  expect(fake.mock.calls).toEqual([
    ["Ada", 5],
    ["Ada", 5],
  ]);
  const charged = (await run.history()).filter(({ data }) => data["step"] === "charge");
  expect(charged.map(({ type }) => type)).toContain("step.retrying");
});

test("a run that is resumed still makes the next attempt of another step that failed with it", async () => {
  const spore = await open();
  const run = await spore.client.start(both.with());
  expect((await failureOf(run.result())).message).toBe("2: not yet");
  await run.resume();
  expect(await run.result()).toEqual([1, 2]);
});

test("the error of a mock fails the run with its name, fields and place in the test", async () => {
  const spore = await open();
  spore.mock(charge, () => {
    throw Object.assign(new RangeError("no money"), { retryable: false, euros: 5 });
  });
  const failure = await failureOf(spore.client.run(order.with("Ada", 5)));
  expect(failure).toBeInstanceOf(RangeError);
  expect(failure).toMatchObject({ message: "no money", euros: 5 });
  expect(failure.stack).toContain("kit.test.ts");
});

test("a mock can take its time: the step's timeout counts it", async () => {
  const spore = await open();
  const attempts: number[] = [];
  spore.mock(slow, async function () {
    attempts.push(this.attempt);
    await spore.sleep("2 minutes");
    return 1;
  });
  await expect(spore.client.run(impatient.with())).rejects.toThrow(/timeout of 60000 ms/);
  expect(attempts).toEqual([1, 2]);
});

test("a mock can wait for the test, and time stands still meanwhile", async () => {
  const spore = await open();
  const gate = Promise.withResolvers<{ receipt: string }>();
  spore.mock(charge, () => gate.promise);
  const run = await spore.client.start(order.with("Ada", 5));
  expect(await run.query("status")).toBe("charging");
  const result = run.result();
  gate.resolve(receipt);
  expect(await result).toMatchObject({ status: "refused" });
  expect(spore.now()).toEqual(new Date("2030-01-08T00:00:00Z"));
});

test("a mock of a step that catches errors gives the bare value", async () => {
  const spore = await open();
  spore.mock(double, (n) => n + 0.5);
  expect(await spore.client.run(doubled.with(4))).toEqual([4.5, undefined]);
});

test("an inline step is mocked by its name", async () => {
  const spore = await open();
  expect(await spore.client.run(inline.with())).toBe(4);
  spore.mock("dice", () => 6);
  expect(await spore.client.run(inline.with())).toBe(6);
});

test("a step that the entry doesn't define can't be mocked", async () => {
  const spore = await open();
  const stranger = Object.assign(async () => 1, { stepName: "stranger" });
  expect(() => spore.mock(stranger as unknown as typeof slow, () => 1)).toThrow(
    'step "stranger" is not defined in what this test has deployed',
  );
});

test("an actor's turn gets mocked steps, and its state is kept", async () => {
  const spore = await open();
  spore.mock(charge, () => receipt);
  const account = await spore.client.getOrCreate(Account, "ada");
  await account.pay(5);
  expect(await account.payCard("ada", 2)).toBe(205);
  spore.crash();
  expect(await account.balance()).toBe(205);
});

test("the guest's fetch is answered by the test, and refused without an answer", async () => {
  const asked: string[] = [];
  const spore = await open({
    async fetch(request) {
      asked.push(`${request.method} ${request.url} ${await request.text()}`);
      return Response.json({ receipt: "from the bank" });
    },
  });
  expect(await spore.client.run(order.with("Ada", 5))).toMatchObject({ receipt: "from the bank" });
  expect(asked).toEqual(['POST https://bank.example/charges {"customer":"Ada","euros":5}']);
  const bare = await open();
  await expect(bare.client.run(order.with("Ada", 5))).rejects.toThrow(
    "the test answers no POST https://bank.example/charges: give createTestHost a fetch",
  );
});

test("a schedule's slots pass as time does, and one can be triggered by hand", async () => {
  const spore = await open();
  await spore.client.schedules.create("hourly", { run: tick.with(), cron: "0 * * * *" });
  await spore.sleep("3 hours");
  const runs = async () => (await spore.client.listAll({ name: "tick" })).map(({ id }) => id);
  expect(await runs()).toEqual([
    "hourly.20300101T030000Z",
    "hourly.20300101T020000Z",
    "hourly.20300101T010000Z",
  ]);
  await spore.client.schedules.trigger("hourly");
  expect(await runs()).toHaveLength(4);
});

test("events of a run can be followed while time passes", async () => {
  const spore = await open();
  const run = await spore.client.start(nap.with(1));
  const types: string[] = [];
  for await (const { type } of run.events()) types.push(type);
  expect(types.at(-1)).toBe("run.succeeded");
});

test("a test that waits in vain is told so, with the run, and the test's own line", async () => {
  const spore = await open();
  const failure = await failureOf(spore.client.run(waiting.with(), { id: "w" }));
  expect(failure.message).toContain("nothing can happen any more");
  expect(failure.message).toContain("run w (waiting): waits for signal never");
  expect(failure.stack).toMatch(/kit\.test\.ts:\d+/);
});

test("an error in a workflow points at its own line", async () => {
  const spore = await open();
  const failure = await failureOf(spore.client.run(broken.with()));
  expect(failure).toBeInstanceOf(TypeError);
  expect(failure).toMatchObject({
    frame: {
      file: "test/testing/project.ts",
      text: '  throw new TypeError("no such thing");',
    },
  });
});

test("what a host had stored is there after a crash, and nothing else is", async () => {
  const spore = await open();
  spore.mock(charge, () => receipt);
  const run = await spore.client.start(order.with("Ada", 5), { id: "o" });
  spore.crash();
  expect(await run.query("status")).toBe("waiting");
  spore.crash();
  await run.signal("approve", true);
  spore.crash();
  expect(await run.result()).toMatchObject({ status: "shipped" });
});

test("a fork goes on with the mocks of the run that it comes from", async () => {
  const spore = await open();
  spore.mock(charge, (customer) => ({ receipt: customer }));
  const run = await spore.client.start(order.with("Ada", 5), { id: "o" });
  await run.signal("approve", true);
  await run.result();
  spore.mock(charge, () => ({ receipt: "again" }));
  const fork = await run.fork("charge", { id: "f" });
  expect(await fork.result()).toMatchObject({ receipt: "again" });
});

test("other code can be deployed: new runs take it, a run that goes on keeps its own", async () => {
  const spore = await open();
  spore.mock(charge, () => receipt);
  const before = await spore.client.start(order.with("Ada", 5));
  await spore.deploy(new URL("./project-2.ts", import.meta.url));
  const after = await spore.client.start(order.with("Ada", 5));
  await before.signal("approve", true);
  expect(await before.result()).toMatchObject({ status: "shipped" });
  expect(await after.result()).toEqual({ status: "version 2", receipt: "" });
});

test("two hosts in one process know nothing of each other", async () => {
  const [left, right] = [await open(), await open()];
  left.mock(add, () => 1);
  const both = await Promise.all(
    [left, right].map((spore) => spore.client.run(sum.step(3), { id: "same" })),
  );
  expect(both).toEqual([1, 6]);
});

test("a stopped host answers nothing", async () => {
  const spore = await open();
  await spore.stop();
  await expect(spore.client.listAll()).rejects.toThrow("the test host was stopped");
});

test("a runner's fake timers don't stop it", async () => {
  const spore = await open();
  vi.useFakeTimers();
  onTestFinished(() => {
    vi.useRealTimers();
  });
  expect(await spore.client.run(nap.with(2))).toEqual(new Date("2030-01-03T00:00:00Z"));
});

test("it works under node:test too", () => {
  const file = fileURLToPath(new URL("./node-test.ts", import.meta.url));
  const { stdout, status } = spawnSync(process.execPath, ["--test", file], { encoding: "utf8" });
  expect(stdout).toMatch(/pass 1\b/);
  expect(status).toBe(0);
});
