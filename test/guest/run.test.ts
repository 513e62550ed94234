import { beforeEach, expect, test, vi } from "vitest";
import { encode } from "../../guest/cbor.ts";
import * as guest from "../../guest/index.ts";
import { errorOf, resolved, resultOf, TestHost } from "./host.ts";

let host: TestHost;
let uniqueNumber = 0;
beforeEach(() => {
  host = new TestHost();
});

/** Defines a workflow under a fresh name and starts it. */
async function begin(
  fn: (...args: never[]) => unknown,
  ...args: unknown[]
): Promise<guest.Workflow> {
  const name = `run.${++uniqueNumber}`;
  const defined = guest.workflow(name, fn);
  await host.start(name, ...args);
  return defined as unknown as guest.Workflow;
}

test("sleep is a timer at now plus the duration", async () => {
  await begin(() => guest.sleep("30 days"));
  expect(host.last("timer").atMs).toBe(1000 + 30 * 86_400_000);
  expect(host.drained).toMatchObject({ state: "waiting", waitingFor: "timer" });
  await host.ok(host.last("timer").id);
  expect(host.output()).toBeUndefined();
});

test("sleepUntil takes a date", async () => {
  await begin(() => guest.sleepUntil(new Date(5000)));
  expect(host.last("timer").atMs).toBe(5000);
});

test("a bad duration fails with an example of a good one", async () => {
  await begin(() => guest.sleep("soon" as guest.Duration));
  expect(host.error()).toMatchObject({ name: "RangeError" });
  expect(host.error().message).toContain('"30 days"');
});

test("time never goes backwards", async () => {
  await begin(async () => {
    await guest.signal("a");
    await guest.sleep(10);
  });
  host.nowMs = 500;
  await host.ok(host.last("wait").id);
  expect(host.last("timer").atMs).toBe(1010);
});

test("a signal comes with its value, and the wait names it", async () => {
  await begin(() => guest.signal<{ ok: boolean }>("approve"));
  expect(host.drained.waitingFor).toBe("signal approve");
  await host.ok(host.last("wait").id, { ok: true });
  expect(host.output()).toEqual({ ok: true });
});

test("a signal that comes in time drops the timer", async () => {
  await begin(() => guest.signal("approve", { timeout: "1 h" }));
  await host.ok(host.last("wait").id, 1);
  expect(host.last("drop").id).toBe(host.last("timer").id);
  expect(host.output()).toBe(1);
});

test("a signal that doesn't come in time throws TimeoutError and drops the wait", async () => {
  await begin(() => guest.signal("approve", { timeout: "1 h" }));
  await host.ok(host.last("timer").id);
  expect(host.last("drop").id).toBe(host.last("wait").id);
  expect(host.error()).toMatchObject({ name: "TimeoutError", code: "timeout", class: "timeout" });
});

test("an external event gives its token and then its value, and drops its timer", async () => {
  await begin(async () => {
    const { token, url, result } = await guest.externalEvent("approve", { timeout: "1 h" });
    return [token, url, await result(), await result()];
  });
  const { id, expiresAtMs } = host.last("event");
  expect([expiresAtMs, host.last("token").wait]).toEqual([1000 + 3_600_000, id]);
  await host.ok(host.last("token").id, { token: "t", url: "/v1/events/t" });
  await host.ok(id, true);
  // The timer isn't wanted any more; and the value was looked at.
  expect(host.all("drop").map((drop) => drop.id)).toEqual([host.last("timer").id, id]);
  expect(host.output()).toEqual(["t", "/v1/events/t", true, true]);
});

test("an external event that nobody decides throws TimeoutError and drops the wait", async () => {
  await begin(async () => (await guest.externalEvent("approve", { timeout: "1 h" })).result());
  await host.ok(host.last("token").id, { token: "t", url: "/v1/events/t" });
  await host.ok(host.last("timer").id);
  expect(host.last("drop").id).toBe(host.last("event").id);
  expect(host.error()).toMatchObject({ name: "TimeoutError", code: "timeout" });
});

test("a signal that arrives together with its wait's timeout goes to the next wait", async () => {
  await begin(async () => {
    const first = await guest.signal("a", { timeout: 1 }).catch((error: Error) => error.name);
    return [first, await guest.signal("a")];
  });
  await host.deliver(resolved(host.last("timer").id), resolved(host.last("wait").id, "not lost"));
  expect(host.output()).toEqual(["TimeoutError", "not lost"]);
});

test("of several signals the first is taken, and the waits for the others are given up", async () => {
  await begin(async () => {
    const first = await guest.signal(["a", "b"], { timeout: "1 h" });
    return [first, await guest.signal("a")];
  });
  expect(host.drained.waitingFor).toBe("signal a or b");
  const [a, b] = host.all("wait");
  const timer = host.last("timer");
  await host.ok(b?.id ?? 0, 2);
  expect(host.all("drop").map((drop) => drop.id)).toEqual([a?.id, timer.id]);
  await host.ok(host.last("wait").id, 1);
  expect(host.output()).toEqual([{ name: "b", value: 2 }, 1]);
});

test("of several signals that are there at once the others go to later waits", async () => {
  await begin(async () => {
    const seen: unknown[] = [];
    for (let i = 0; i < 3; i++) seen.push(await guest.signal(["a", "b", "c"]));
    return seen;
  });
  const [a, b, c] = host.all("wait").map((wait) => resolved(wait.id, wait.signal));
  if (a === undefined || b === undefined || c === undefined) throw new Error("three waits");
  await host.deliver(c, a, b);
  const names = (host.output() as guest.ReceivedSignal[]).map(({ name }) => name);
  expect(names).toEqual(["c", "a", "b"]);
});

test("several signals that don't come in time throw, and all waits are given up", async () => {
  await begin(() => guest.signal(["a", "b"], { timeout: "1 s" }));
  await host.ok(host.last("timer").id);
  expect(host.all("drop").map((drop) => drop.id)).toEqual(host.all("wait").map(({ id }) => id));
  expect(host.error().message).toBe("no signal a or b came within 1000 ms");
});

test("a wait for a signal that nobody could send is refused", async () => {
  await begin(() => guest.signal("a b"));
  expect(host.error().message).toContain('signal "a b": a signal\'s name is a letter');
});

test("a wait for no signal at all is refused", async () => {
  await begin(() => guest.signal([]));
  expect(host.error().message).toContain("needs the name of one");
});

test("continueAsNew gives a signal that only the memory holds back to the run", async () => {
  await begin(async () => {
    await guest.signal("a", { timeout: 1 }).catch(() => undefined);
    guest.continueAsNew("next", 2);
  });
  const late = { ...resolved(host.last("wait").id, "kept"), signal: { name: "a", index: 7 } };
  await host.deliver(resolved(host.last("timer").id), late);
  const kept = { name: "a", index: 7, value: encode("kept") };
  expect(host.last("unread").signals).toEqual([kept]);
  expect(host.last("continueAsNew").args).toEqual(encode(["next", 2]));
  expect(host.drained.state).toBe("done");
});

test("an unhandled error keeps name, message, code, details and causes", async () => {
  class PaymentError extends Error {
    override readonly name = "PaymentError";
    readonly code = "declined";
    readonly amount = 12;
  }
  await begin(() => {
    throw new PaymentError("no money", { cause: new TypeError("inner") });
  });
  expect(host.error()).toMatchObject({
    name: "PaymentError",
    message: "no money",
    code: "declined",
    class: "user",
    cause: { name: "TypeError", message: "inner" },
    details: encode({ amount: 12 }),
  });
});

test("a thrown value that isn't an Error is wrapped and kept", async () => {
  await begin(() => {
    throw { reason: 4 };
  });
  expect(host.error()).toMatchObject({
    name: "ThrownValue",
    details: encode({ value: { reason: 4 } }),
  });
});

test("an error of any size fits", async () => {
  await begin(() => {
    let error = new Error("x".repeat(1_000_000));
    for (let i = 0; i < 50; i++) error = new Error(`${i}${"y".repeat(100_000)}`, { cause: error });
    throw error;
  });
  const error = host.error();
  expect(encode(error).length).toBeLessThan(100_000);
  expect(error.message.startsWith("49y")).toBe(true);
  expect(error.message).toContain("characters left out");
  let depth = 0;
  for (let each: typeof error | undefined = error; each !== undefined; each = each.cause) depth++;
  expect(depth).toBe(10);
});

test("an output that can't be stored fails the run with its path", async () => {
  await begin(() => ({ a: [new WeakMap()] }));
  expect(host.error().message).toMatch(
    /^\$\.a\[0\]: an instance of WeakMap can't be stored \(in the value of workflow run\.\d+\)$/,
  );
});

test("an unknown workflow fails the run", async () => {
  await host.start("nobody");
  expect(host.error().code).toBe("workflow-not-found");
});

test("bytes that are no activation end the run and don't throw", async () => {
  await host.deliverBytes(new Uint8Array([0xff, 1, 2]));
  expect(host.drained.state).toBe("done");
  expect(host.error()).toMatchObject({ class: "host", code: "invalid-cbor" });
});

// ---- queries and updates

test("a query reads the run, and handlers are announced once", async () => {
  await begin(async () => {
    let count = 1;
    guest.query("count", (factor: number) => count * factor);
    guest.update("add", (by: number) => {
      count += by;
      return count;
    });
    await guest.signal("end");
  });
  expect(host.drained.handlers).toEqual({ queries: ["count"], updates: ["add"] });
  await host.deliver({ kind: "update", id: "u1", name: "add", args: encode([4]) });
  expect(resultOf(host.last("reply").outcome)).toBe(5);
  await host.deliver({ kind: "query", id: "q1", name: "count", args: encode([2]) });
  expect(host.last("reply")).toMatchObject({ id: "q1", outcome: { kind: "ok" } });
  expect(resultOf(host.last("reply").outcome)).toBe(10);
  expect(host.drained.handlers).toBeUndefined();
});

test.each<[string, () => unknown, string]>([
  ["waits", async () => 1, "must answer at once"],
  ["starts a timer", () => guest.sleep(1), "must answer at once"],
  ["publishes", () => guest.publish("a", 1), "not allowed in a read-only method or a query"],
  [
    "throws",
    () => {
      throw new Error("mine");
    },
    "mine",
  ],
])("a query that %s gets an error and commands nothing", async (_, fn, message) => {
  await begin(async () => {
    guest.query("q", fn);
    await guest.signal("end");
  });
  const before = host.commands.length;
  await host.deliver({ kind: "query", id: "q1", name: "q", args: encode([]) });
  expect(errorOf(host.last("reply").outcome).message).toContain(message);
  expect(host.commands.length).toBe(before + 1);
});

test("messages without a handler are answered with a code", async () => {
  await begin(() => guest.signal("end"));
  await host.deliver({ kind: "query", id: "q1", name: "q", args: encode([]) });
  expect(errorOf(host.last("reply").outcome).code).toBe("query-not-found");
  await host.deliver({ kind: "update", id: "u1", name: "u", args: encode([]) });
  expect(errorOf(host.last("reply").outcome).code).toBe("update-not-found");
});

test("a rejected update runs nothing and says why", async () => {
  const ran = vi.fn();
  await begin(async () => {
    guest.update("add", ran, {
      validate: (n: number) => {
        if (n < 0) throw new RangeError("negative");
      },
    });
    await guest.signal("end");
  });
  await host.deliver({ kind: "update", id: "u1", name: "add", args: encode([-1]) });
  expect(errorOf(host.last("reply").outcome)).toMatchObject({
    code: "update-rejected",
    message: "negative",
  });
  expect(ran).not.toHaveBeenCalled();
});

test("a run ends only after its update handlers have answered", async () => {
  await begin(async () => {
    guest.update("slow", async () => guest.signal("u"));
    return guest.signal("end");
  });
  const end = host.last("wait").id;
  await host.deliver({ kind: "update", id: "u1", name: "slow", args: encode([]) });
  const inner = host.last("wait").id;
  await host.ok(end, "over");
  expect(host.all("complete")).toHaveLength(0);
  await host.ok(inner, "answer");
  expect(host.kinds()).toMatch(/reply complete$/);
  expect(resultOf(host.last("reply").outcome)).toBe("answer");
  expect(host.output()).toBe("over");
});

test("with handlers: abandon, callers of unfinished updates get run-closed", async () => {
  const name = `run.${++uniqueNumber}`;
  guest.workflow(
    name,
    async () => {
      guest.update("slow", () => guest.signal("u"));
      return guest.signal("end");
    },
    { handlers: "abandon" },
  );
  await host.start(name);
  const end = host.last("wait").id;
  await host.deliver({ kind: "update", id: "u1", name: "slow", args: encode([]) });
  await host.ok(end);
  expect(errorOf(host.last("reply").outcome).code).toBe("run-closed");
  expect(host.drained.state).toBe("done");
});

// ---- cancellation

test("cancel rejects what is awaited, and the run ends as cancelled", async () => {
  await begin(() => guest.sleep("1 h"));
  await host.deliver({ kind: "cancel", reason: "enough" });
  expect(host.last("drop").id).toBe(host.last("timer").id);
  expect(host.error()).toMatchObject({ name: "CancelledError", class: "cancelled" });
  expect(host.error().message).toContain("enough");
});

test("cleanup after a cancellation may wait and run steps", async () => {
  const refund = guest.step(`refund.${++uniqueNumber}`, () => "refunded");
  await begin(async () => {
    try {
      await guest.signal("never");
    } finally {
      await guest.sleep(5);
      guest.publish("cleanup", await refund());
    }
  });
  await host.deliver({ kind: "cancel", reason: "" });
  expect(host.all("complete")).toHaveLength(0);
  await host.ok(host.last("timer").id);
  expect(host.last("publish").value).toEqual(encode("refunded"));
  expect(host.error().class).toBe("cancelled");
});

test("a run that swallows its cancellation completes normally", async () => {
  await begin(() => guest.sleep("1 h").catch(() => "fine"));
  await host.deliver({ kind: "cancel", reason: "" });
  expect(host.output()).toBe("fine");
});

test("cancel aborts the signals of run and step, and ends backoffs and queued steps", async () => {
  const reasons: unknown[] = [];
  const slow = guest.step(`slow.${++uniqueNumber}`, () => {
    const { signal } = guest.context();
    signal.addEventListener("abort", () => reasons.push(signal.reason));
    return guest.signal("x");
  });
  const flaky = guest.step(`flaky.${uniqueNumber}`, () => {
    throw new Error("again");
  });
  const late = vi.fn();
  const queued = guest.step(`queued.${uniqueNumber}`, late);
  host.stepsMax = 2;
  await begin(async () => {
    const { signal } = guest.context();
    signal.addEventListener("abort", () => reasons.push(signal.reason));
    const settled = await Promise.allSettled([slow(), flaky(), queued()]);
    return settled.map((each) => (each.status === "rejected" ? each.reason.name : each.value));
  });
  expect(host.drained.state).toBe("yielded");
  await host.deliver({ kind: "cancel", reason: "" });
  await host.settle();
  expect(host.output()).toEqual(["CancelledError", "CancelledError", "CancelledError"]);
  expect(late).not.toHaveBeenCalled();
  expect(reasons).toHaveLength(2);
  expect(reasons[0]).toBeInstanceOf(guest.CancelledError);
});

// ---- other runs

test("a child that is awaited is started, then its outcome is waited for", async () => {
  const child = guest.workflow(`child.${++uniqueNumber}`, (n: number) => n * 2);
  await begin(async () => (await child(4)) + 1);
  expect(host.last("start")).toMatchObject({
    name: `child.${uniqueNumber - 1}`,
    args: encode([4]),
    child: "cancel",
  });
  await host.ok(host.last("start").id, { runId: "c1", created: true });
  expect(host.last("outcome").runId).toBe("c1");
  await host.ok(host.last("outcome").id, 8);
  expect(host.output()).toBe(9);
});

test("a child's failure names the child and keeps its error as cause", async () => {
  const child = guest.workflow(`child.${++uniqueNumber}`, () => 1);
  await begin(() => child());
  await host.ok(host.last("start").id, { runId: "c1", created: true });
  await host.fail(host.last("outcome").id, {
    name: "PaymentError",
    message: "declined",
    code: "card",
    class: "user",
  });
  expect(host.error()).toMatchObject({
    name: "ChildError",
    code: "card",
    cause: { name: "PaymentError", message: "declined", code: "card" },
  });
  expect(host.error().message).toContain("c1");
});

test("a cancelled parent asks its awaited child to cancel", async () => {
  const child = guest.workflow(`child.${++uniqueNumber}`, () => 1);
  await begin(async () => {
    try {
      await child();
    } finally {
      await guest.sleep(1);
    }
  });
  await host.ok(host.last("start").id, { runId: "c1", created: true });
  await host.deliver({ kind: "cancel", reason: "" });
  expect(host.last("cancelRun").runId).toBe("c1");
});

test("a cancelled child is a ChildError, not a cancellation of the parent", async () => {
  const child = guest.workflow(`child.${++uniqueNumber}`, () => 1);
  await begin(() => child().catch((error: Error) => error.name));
  await host.ok(host.last("start").id, { runId: "c1", created: true });
  await host.fail(host.last("outcome").id, {
    name: "CancelledError",
    message: "stopped",
    class: "cancelled",
  });
  expect(host.all("cancelRun")).toHaveLength(0);
  expect(host.output()).toBe("ChildError");
});

test("start gives a handle to signal, cancel and await", async () => {
  const other = guest.workflow(`other.${++uniqueNumber}`, (n: number) => n);
  await begin(async () => {
    const run = await guest.start(other.with(1), { id: "mine", tags: { a: "b" }, deadline: "1 s" });
    await run.signal("go", 5);
    await run.cancel("why not");
    return [run.id, run.created, await run.result()];
  });
  expect(host.last("start")).toMatchObject({
    runId: "mine",
    options: { tags: { a: "b" }, deadlineMs: 2000 },
  });
  expect(host.last("start").child).toBeUndefined();
  await host.ok(host.last("start").id, { runId: "mine", created: false });
  expect(host.last("signal")).toMatchObject({ runId: "mine", name: "go", value: encode(5) });
  await host.ok(host.last("signal").id);
  expect(host.last("cancelRun")).toMatchObject({ runId: "mine", reason: "why not" });
  await host.ok(host.last("cancelRun").id);
  await host.ok(host.last("outcome").id, 3);
  expect(host.output()).toEqual(["mine", false, 3]);
});

test.each([
  ["a tag that is no text", { tags: { a: 5 } }, "tag a must be a text"],
  ["a queue's key that is none", { queue: { key: 5 } }, "the key in a queue must be a text"],
  ["a priority that is none", { queue: { priority: "high" } }, "must be a number"],
  ["a date that is none", { startAt: new Date(Number.NaN) }, "startAt is not a valid date"],
])("start refuses %s before its host has to", async (_, options, message) => {
  const other = guest.workflow(`other.${++uniqueNumber}`, () => undefined);
  await begin(async () => {
    try {
      await guest.start(other.with(), options as guest.StartOptions);
    } catch (error) {
      return String(error);
    }
  });
  expect(host.output()).toContain(message);
  expect(host.all("start")).toHaveLength(0);
});

test("start leaves out a tag that is undefined", async () => {
  const other = guest.workflow(`other.${++uniqueNumber}`, () => undefined);
  const tags: Record<string, unknown> = { a: "b", c: undefined };
  await begin(() => guest.start(other.with(), { tags } as guest.StartOptions));
  expect(host.last("start").options?.tags).toEqual({ a: "b" });
  expect(Object.keys(host.last("start").options?.tags ?? {})).toEqual(["a"]);
});

test("a handle tells what becomes of its run", async () => {
  await begin(async () => {
    const other = guest.handle("other");
    return [await other.status(), await other.info()];
  });
  const said = { status: "RUNNING", name: "ship", createdAtMs: 5, tags: { a: "b" } } as const;
  expect(host.drained.waitingFor).toBe("news of run other");
  await host.ok(host.last("describe").id, said);
  const error = { name: "Error", message: "no" };
  await host.ok(host.last("describe").id, { ...said, status: "FAILED", closedAtMs: 9, error });
  expect(host.output()).toEqual([
    "RUNNING",
    {
      id: "other",
      name: "ship",
      status: "FAILED",
      createdAt: new Date(5),
      closedAt: new Date(9),
      tags: { a: "b" },
      waitingFor: undefined,
      error,
    },
  ]);
});

test("start takes a graph, with shared nodes written once", async () => {
  const item = guest.step(`item.${++uniqueNumber}`, (...all: unknown[]) => all);
  const shared = item.step();
  await begin(() => guest.start(item.step(shared, [shared])));
  const { root } = host.last("start");
  expect(root).toBeDefined();
  const other = new TestHost();
  await other.deliver({
    kind: "graph",
    run: {
      runId: "g",
      tenant: "t",
      name: "",
      component: "c",
      attempt: 1,
      startedAtMs: 0,
      seed: new Uint8Array(16),
    },
    root: root ?? new Uint8Array(),
  });
  expect(other.output()).toEqual([[], [[]]]);
  expect(other.records.filter(({ event }) => event === "started")).toHaveLength(2);
});

// ---- the rest

test("put gives a small Ref and get takes it", async () => {
  await begin(async () => {
    const ref = await guest.put({ big: 1 });
    return [ref, await guest.get(ref)];
  });
  expect(host.last("put").value).toEqual(encode({ big: 1 }));
  await host.ok(host.last("put").id, { hash: "abc", size: 9 });
  expect(host.last("get").hash).toBe("abc");
  await host.ok(host.last("get").id, { big: 1 });
  expect(host.output()).toEqual([new guest.Ref("abc", 9), { big: 1 }]);
});

test("an inline step is a step", async () => {
  await begin(() => guest.run("charge card", () => guest.signal<number>("paid"), { retries: 1 }));
  expect(host.drained.waitingFor).toBe("step charge card (signal paid)");
  await host.ok(host.last("wait").id, 3);
  expect(host.output()).toBe(3);
  expect(host.events()).toEqual(["charge card:started", "charge card:succeeded"]);
});

test("map keeps order and bounds how many are under way", async () => {
  let running = 0;
  let most = 0;
  await begin(() =>
    guest.map(
      [1, 2, 3, 4, 5],
      async (n) => {
        running++;
        most = Math.max(most, running);
        await guest.sleep(n);
        running--;
        return n * 2;
      },
      { concurrency: 2 },
    ),
  );
  const done = new Set<number>();
  while (host.drained.state !== "done") {
    const open = host.all("timer").filter(({ id }) => !done.has(id));
    const next = open.at(-1);
    done.add(next?.id ?? 0);
    await host.ok(next?.id ?? 0);
  }
  expect(most).toBe(2);
  expect(host.output()).toEqual([2, 4, 6, 8, 10]);
});

test("publish and setTags are commands", async () => {
  await begin(() => {
    guest.publish("progress", 0.5);
    guest.setTags({ a: "x", b: undefined });
  });
  expect(host.last("publish")).toMatchObject({ key: "progress", value: encode(0.5) });
  expect(host.last("tags").tags).toEqual({ a: "x", b: undefined });
});

test("context tells run and step, with one idempotency key for all attempts", async () => {
  const keys: unknown[] = [];
  await begin(async () => {
    await guest.run(
      "s",
      () => {
        const { step } = guest.context();
        keys.push([step?.idempotencyKey, step?.attempt]);
        if (keys.length < 2) throw new Error("again");
      },
      { backoff: { initial: 0 } },
    );
    return [guest.context().run.runId, guest.context().step];
  });
  expect(keys).toEqual([
    ["run_1/1/s", 1],
    ["run_1/1/s", 2],
  ]);
  expect(host.output()).toEqual(["run_1", undefined]);
});

test("log lines are bounded in length and number", async () => {
  await begin(() => {
    const { machine } = host;
    machine.log("info", "x".repeat(100_000));
    for (let i = 0; i < 1000; i++) machine.log("info", String(i));
  });
  const lines = host.all("log");
  expect(lines).toHaveLength(257);
  expect(lines[0]?.message.length).toBeLessThanOrEqual(8192);
  expect(lines.at(-1)?.message).toContain("the rest is dropped");
});

test("a log line of a step's body names the step", async () => {
  await begin(() => guest.run("s", () => host.machine.log("info", "hello")));
  expect(host.last("log")).toMatchObject({ message: "hello", step: "s" });
});

test("outside of a run, definitions are plain functions and the rest says so", async () => {
  const add = guest.step(`add.${++uniqueNumber}`, (a: number, b: number) => a + b);
  const twice = guest.step(`twice.${uniqueNumber}`, (n: number) => add.step(n, add.step(n, 0)));
  const flow = guest.workflow(`flow.${uniqueNumber}`, async (n: number) => (await add(n, 1)) * 2);
  expect(await add(1, 2)).toBe(3);
  expect(await twice(4)).toBe(8);
  expect(await flow(2)).toBe(6);
  expect(await guest.run(add.step(1, 1))).toBe(2);
  await expect(guest.sleep(1)).rejects.toThrow("only in a run");
  await expect(guest.signal("a")).rejects.toThrow("only in a run");
  expect(() => guest.context()).toThrow("only in a run");
});

test("random numbers come from the run's seed alone", async () => {
  const draw = async (seedByte: number): Promise<unknown> => {
    const other = new TestHost();
    const name = `random.${++uniqueNumber}`;
    guest.workflow(name, () => [other.machine.random(), [...other.machine.randomBytes(4)]]);
    const seed = new Uint8Array(16).fill(seedByte);
    await other.deliver({
      kind: "start",
      run: {
        runId: "r",
        tenant: "t",
        name,
        component: "c",
        attempt: 1,
        startedAtMs: 0,
        seed,
      },
      args: encode([]),
    });
    return other.output();
  };
  expect(await draw(1)).toEqual(await draw(1));
  expect(await draw(1)).not.toEqual(await draw(2));
});
