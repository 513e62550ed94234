import { beforeEach, expect, test, vi } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import type { StepNode } from "../../guest/index.ts";
import * as guest from "../../guest/index.ts";
import { resolved, TestHost } from "./host.ts";

let host: TestHost;
beforeEach(() => {
  host = new TestHost();
});

let uniqueNumber = 0;
/** Definitions are global; each test makes its own. */
function unique(name: string): string {
  uniqueNumber++;
  return `${name}.${uniqueNumber}`;
}

function identity<Value>(name: string, more?: guest.StepOptions) {
  return guest.step(unique(name), (value: Value) => value, more);
}

const wait = (name: string) => guest.step(unique(name), () => guest.signal<number>(name));

test("a shared node runs once", async () => {
  const body = vi.fn((n: number) => n + 1);
  const next = guest.step(unique("next"), body);
  const pair = guest.step(unique("pair"), (a: number, b: { deep: number[] }) => [a, b.deep]);
  const shared = next.step(1);
  await host.graph(pair.step(shared, { deep: [shared, shared] }));
  expect(host.output()).toEqual([2, [2, 2]]);
  expect(body).toHaveBeenCalledTimes(1);
});

test("nodes are named in order of creation, inner ones first", async () => {
  const name = unique("join");
  const join = guest.step(name, (...parts: string[]) => `(${parts.join("")})`);
  guest.workflow(`${name}.w`, () => join.step(join.step("a"), join.step("b")));
  await host.start(`${name}.w`);
  expect(host.output()).toBe("((a)(b))");
  const started = host.records.filter(({ event }) => event === "started");
  expect(started.map(({ step, value }) => [step, decode(value ?? new Uint8Array())])).toEqual([
    [name, ["a"]],
    [`${name}_1`, ["b"]],
    [`${name}_2`, ["(a)", "(b)"]],
  ]);
});

test("a step's name never equals that of another step's repetition", async () => {
  const name = unique("n");
  const body = () => guest.context().step?.id;
  const plain = guest.step(name, body);
  const suffixed = guest.step(`${name}_1`, () => guest.context().step?.id);
  guest.workflow(`${name}.w`, async () => {
    const ids = [await suffixed(), await plain(), await plain(), await plain(), await suffixed()];
    return ids;
  });
  guest.workflow(`${name}.v`, async () => [await plain(), await plain(), await suffixed()]);
  await host.start(`${name}.w`);
  expect(host.output()).toEqual([`${name}_1`, name, `${name}_2`, `${name}_3`, `${name}_1_1`]);
  host = new TestHost();
  await host.start(`${name}.v`);
  expect(host.output()).toEqual([name, `${name}_1`, `${name}_1_1`]);
});

test("a chain of 100,000 nodes runs without stack or delay", async () => {
  const next = guest.step(unique("next"), (n: number) => n + 1);
  guest.workflow(unique("chain"), () => {
    let node: StepNode<number> = next.step(0);
    for (let i = 1; i < 100_000; i++) node = next.step(node);
    return node;
  });
  await host.start(`chain.${uniqueNumber}`);
  expect(host.output()).toBe(100_000);
});

test("a tail continuation of 100,000 links keeps only the last", async () => {
  const name = unique("loop");
  const loop = guest.step(name, (n: number): guest.Graph<string> => {
    return n === 0 ? "end" : loop.step(n - 1);
  });
  await host.graph(loop.step(100_000));
  expect(host.output()).toBe("end");
  const continued = host.records.filter(({ event }) => event === "continued");
  expect(continued).toHaveLength(100_000);
  expect(continued[0]).toMatchObject({ step: name, into: `${name}_1` });
});

test("a fan-out of 100,000 nodes meets in one", async () => {
  const next = guest.step(unique("next"), (n: number) => n + 1, { checkpoint: false });
  const sum = guest.step(unique("sum"), (all: number[]) => all.reduce((a, b) => a + b, 0), {
    checkpoint: false,
  });
  guest.workflow(unique("fan"), () =>
    sum.step(Array.from({ length: 100_000 }, (_, i) => next.step(i))),
  );
  await host.start(`fan.${uniqueNumber}`);
  expect(host.output()).toBe((100_000 * 100_001) / 2);
});

test("only stepsMax bodies begin in one activation", async () => {
  const item = identity<number>("item");
  guest.workflow(unique("w"), () => Promise.all([1, 2, 3, 4, 5].map((n) => item(n))));
  host.stepsMax = 2;
  await host.start(`w.${uniqueNumber}`);
  expect(host.drained.state).toBe("yielded");
  expect(host.records).toHaveLength(4);
  await host.deliver({ kind: "continue" });
  expect(host.records).toHaveLength(8);
  expect(host.drained.state).toBe("yielded");
  await host.deliver({ kind: "continue" });
  expect(host.output()).toEqual([1, 2, 3, 4, 5]);
});

test("an attempt that fails is tried again after a growing wait", async () => {
  let calls = 0;
  const flaky = guest.step(
    unique("flaky"),
    () => {
      calls++;
      if (calls < 3) throw new Error(`no ${calls}`);
      return "yes";
    },
    { backoff: { jitter: 0 } },
  );
  guest.workflow(unique("w"), () => flaky());
  await host.start(`w.${uniqueNumber}`);
  expect(host.last("timer").atMs).toBe(2000);
  expect(host.records.at(-1)).toMatchObject({ event: "retrying", attempt: 1, nextAtMs: 2000 });
  expect(host.drained.waitingFor).toContain("the next attempt of step flaky");
  host.nowMs = 2000;
  await host.ok(host.last("timer").id);
  expect(host.last("timer").atMs).toBe(4000);
  host.nowMs = 4000;
  await host.ok(host.last("timer").id);
  expect(host.output()).toBe("yes");
  expect(host.records.at(-1)).toMatchObject({ event: "succeeded", attempt: 3 });
});

test("jitter stays within its part of the wait", async () => {
  const broken = guest.step(unique("broken"), () => {
    throw new Error("no");
  });
  guest.workflow(unique("w"), () => Promise.all(Array.from({ length: 50 }, () => broken())));
  await host.start(`w.${uniqueNumber}`);
  const waits = host.all("timer").map(({ atMs }) => atMs - 1000);
  expect(Math.min(...waits)).toBeGreaterThanOrEqual(800);
  expect(Math.max(...waits)).toBeLessThanOrEqual(1200);
  expect(new Set(waits).size).toBeGreaterThan(30);
});

test("a later attempt gets the arguments as they were", async () => {
  const seen: number[][] = [];
  const eater = guest.step(
    unique("eater"),
    (list: number[]) => {
      seen.push([...list]);
      list.pop();
      if (seen.length < 3) throw new Error("again");
      return "done";
    },
    { backoff: { initial: 0 } },
  );
  guest.workflow(unique("w"), () => eater([1, 2]));
  await host.start(`w.${uniqueNumber}`);
  expect(seen).toEqual([
    [1, 2],
    [1, 2],
    [1, 2],
  ]);
});

test.each<[string, guest.StepOptions, () => Error, number]>([
  ["NonRetryableError", {}, () => new guest.NonRetryableError("stop"), 1],
  ["an AbortError", {}, () => AbortSignal.abort().reason as Error, 1],
  [
    "an error that is no AbortError",
    {},
    () => new DOMException("late", "TimeoutError") as Error,
    5,
  ],
  ["a class", { nonRetryable: RangeError }, () => new RangeError("r"), 1],
  ["a name", { nonRetryable: ["TypeError"] }, () => new TypeError("t"), 1],
  ["a code", { nonRetryable: "E1" }, () => new guest.GuestError("c", { code: "E1" }), 1],
  ["a predicate", { nonRetryable: (error) => error.message === "p" }, () => new Error("p"), 1],
  ["a retryIf that fits", { retryIf: RangeError, retries: 2 }, () => new RangeError("r"), 3],
  ["a retryIf that doesn't fit", { retryIf: RangeError }, () => new TypeError("t"), 1],
  ["retries: 0", { retries: 0 }, () => new Error("e"), 1],
  ["the default of four retries", {}, () => new Error("e"), 5],
])("%s decides how often a step is tried", async (_, options, make, attempts) => {
  const body = vi.fn(() => {
    throw make();
  });
  const broken = guest.step(unique("broken"), body, { backoff: { initial: 0 }, ...options });
  guest.workflow(unique("w"), () => broken());
  await host.start(`w.${uniqueNumber}`);
  await host.settle();
  expect(body).toHaveBeenCalledTimes(attempts);
  expect(host.error().message).toBe(make().message);
});

test("a retryIf that throws fails the step with its own error", async () => {
  const broken = guest.step(
    unique("broken"),
    () => {
      throw new Error("first");
    },
    {
      retryIf: () => {
        throw new TypeError("the predicate is broken");
      },
    },
  );
  guest.workflow(unique("w"), () => broken());
  await host.start(`w.${uniqueNumber}`);
  await host.settle();
  expect(host.error()).toMatchObject({ name: "TypeError", message: "the predicate is broken" });
});

test("retryAfter of the error decides the wait", async () => {
  const broken = guest.step(unique("broken"), () => {
    throw new guest.RetryableError("busy", { retryAfter: "3 min" });
  });
  guest.workflow(unique("w"), () => broken());
  await host.start(`w.${uniqueNumber}`);
  expect(host.last("timer").atMs).toBe(1000 + 180_000);
});

test("a backoff function gets attempt and error", async () => {
  const broken = guest.step(
    unique("broken"),
    () => {
      throw new Error("abc");
    },
    { backoff: (attempt, error) => attempt * 100 + error.message.length },
  );
  guest.workflow(unique("w"), () => broken());
  await host.start(`w.${uniqueNumber}`);
  expect(host.last("timer").atMs).toBe(1103);
});

test("a timeout aborts the attempt's signal and fences its late result", async () => {
  const aborted: unknown[] = [];
  let calls = 0;
  const slow = guest.step(
    unique("slow"),
    async () => {
      const { signal } = guest.context();
      signal.addEventListener("abort", () => aborted.push(signal.reason));
      calls++;
      return guest.signal<string>(`go${calls}`);
    },
    { timeout: "1 s", retries: 1, backoff: { initial: 0 } },
  );
  guest.workflow(unique("w"), () => slow());
  await host.start(`w.${uniqueNumber}`);
  const [firstWait] = host.all("wait");
  expect(host.last("timer").atMs).toBe(2000);
  host.nowMs = 2000;
  await host.ok(host.last("timer").id);
  expect(aborted).toHaveLength(1);
  expect(aborted[0]).toBeInstanceOf(guest.TimeoutError);
  expect(calls).toBe(2);
  await host.ok(firstWait?.id ?? 0, "late");
  expect(host.all("complete")).toHaveLength(0);
  await host.ok(host.last("wait").id, "in time");
  expect(host.output()).toBe("in time");
  expect(host.last("drop").id).toBe(host.last("timer").id);
});

test("totalTimeout ends attempts and waits together", async () => {
  const slow = guest.step(unique("slow"), () => guest.signal("never"), {
    totalTimeout: "5 s",
    timeout: "4 s",
    backoff: { initial: 0 },
  });
  guest.workflow(unique("w"), () => slow());
  await host.start(`w.${uniqueNumber}`);
  host.nowMs = 5000;
  await host.ok(host.last("timer").id);
  expect(host.last("timer").atMs).toBe(6000);
  host.nowMs = 6000;
  await host.ok(host.last("timer").id);
  await host.settle();
  expect(host.error()).toMatchObject({ name: "TimeoutError", class: "timeout", code: "timeout" });
  expect(host.error().message).toContain("totalTimeout of 5000 ms");
});

test("catchErrors gives a pair", async () => {
  const maybe = guest.step(
    unique("maybe"),
    (isFine: boolean) => {
      if (!isFine) throw new RangeError("not fine");
      return 7;
    },
    { catchErrors: true, retries: 0 },
  );
  guest.workflow(unique("w"), async () => {
    const [value] = await maybe(true);
    const [nothing, error] = await maybe(false);
    return [value, nothing, error];
  });
  await host.start(`w.${uniqueNumber}`);
  const output = host.output() as unknown[];
  expect(output.slice(0, 2)).toEqual([7, undefined]);
  expect(output[2]).toBeInstanceOf(RangeError);
});

test("catchErrors reaches through continuations and leaves the graph around it alone", async () => {
  const broken = guest.step(
    unique("broken"),
    (_n: number): number => {
      throw new RangeError("deep");
    },
    { retries: 0 },
  );
  const middle = guest.step(unique("middle"), (n: number): guest.Graph<number> => broken.step(n));
  const outer = guest.step(unique("outer"), () => middle.step(1), { catchErrors: true });
  const name = guest.step(
    unique("name"),
    (pair: readonly [unknown, unknown]) => (pair[1] as Error).name,
  );
  await host.graph(name.step(outer.step()));
  await host.settle();
  expect(host.output()).toBe("RangeError");
  // Only of the outer one more is told after that.
  const continued = host.records.filter(({ event }) => event === "continued");
  expect(continued.map(({ isOpen }) => isOpen)).toEqual([true, undefined]);
  const outermost = host.records.filter(({ step }) => step === continued[0]?.step);
  expect(outermost.map(({ event }) => event)).toEqual(["started", "continued", "succeeded"]);
});

test("when a node fails, running siblings finish and nothing new starts", async () => {
  const slow = wait("slow");
  const after = vi.fn((n: number) => n);
  const next = guest.step(unique("next"), after);
  const broken = guest.step(
    unique("broken"),
    async () => {
      await guest.signal("fail");
      throw new Error("broken");
    },
    { retries: 0 },
  );
  const all = guest.step(unique("all"), (list: number[]) => list);
  await host.graph(all.step([next.step(slow.step()), broken.step()]));
  const [slowWait, failWait] = host.all("wait");
  await host.ok(failWait?.id ?? 0);
  await host.settle();
  expect(host.all("complete")).toHaveLength(0);
  await host.ok(slowWait?.id ?? 0, 5);
  expect(host.error().message).toBe("broken");
  expect(after).not.toHaveBeenCalled();
  expect(host.records.filter(({ event }) => event === "succeeded")).toHaveLength(1);
});

test("a step that fails for good makes a resume point, and retry runs it again", async () => {
  let isFine = false;
  const name = unique("charge");
  const charge = guest.step(
    name,
    () => {
      if (!isFine) throw new Error("declined");
      return "paid";
    },
    { retries: 0 },
  );
  guest.workflow(`${name}.w`, () => charge());
  await host.start(`${name}.w`);
  expect(host.drained).toMatchObject({ state: "yielded", resumePoint: name });
  expect(host.events()).toEqual([`${name}:started`, `${name}:failed`]);
  isFine = true;
  await host.deliver({ kind: "retry" });
  expect(host.output()).toBe("paid");
  expect(host.records.at(-1)).toMatchObject({ event: "succeeded", attempt: 2 });
});

test("continue at a resume point delivers the rejection", async () => {
  const broken = guest.step(
    unique("broken"),
    () => {
      throw new Error("no");
    },
    { retries: 0 },
  );
  guest.workflow(unique("w"), async () => {
    try {
      return await broken();
    } catch (error) {
      return `caught ${(error as Error).message}`;
    }
  });
  await host.start(`w.${uniqueNumber}`);
  expect(host.drained.resumePoint).toBeDefined();
  await host.deliver({ kind: "continue" });
  expect(host.output()).toBe("caught no");
});

test("retry runs the whole rest of a graph after a failure", async () => {
  let isFine = false;
  const item = guest.step(
    unique("item"),
    (n: number) => {
      if (n === 2 && !isFine) throw new Error("two");
      return n;
    },
    { retries: 0 },
  );
  const sum = guest.step(unique("sum"), (list: number[]) => list.reduce((a, b) => a + b, 0));
  await host.graph(sum.step([item.step(1), item.step(2), item.step(3)]));
  expect(host.drained.state).toBe("yielded");
  isFine = true;
  await host.deliver({ kind: "retry" });
  expect(host.output()).toBe(6);
});

test("a step fault fails the attempt instead of running it", async () => {
  const body = vi.fn(() => "ran");
  const name = unique("spin");
  const spin = guest.step(name, body, { backoff: { initial: "1 s", jitter: 0 } });
  guest.workflow(`${name}.w`, () => spin());
  const error = {
    name: "Error",
    message: "out of time",
    code: "guest-timeout",
    class: "limit",
  } as const;
  const start = {
    kind: "start",
    run: { ...hostRun, name: `${name}.w` },
    args: encode([]),
  } as const;
  await host.deliver(start, { kind: "stepFault", step: name, error });
  expect(body).not.toHaveBeenCalled();
  expect(host.records.at(-1)).toMatchObject({
    event: "retrying",
    error: { code: "guest-timeout" },
  });
  await host.ok(host.last("timer").id);
  expect(host.output()).toBe("ran");
});

const hostRun = {
  runId: "run_1",
  tenant: "default",
  component: "c",
  attempt: 1,
  startedAtMs: 0,
  seed: new Uint8Array(16),
};

test("a step fault that isn't retryable ends the step", async () => {
  const name = unique("spin");
  const spin = guest.step(name, () => "ran");
  guest.workflow(`${name}.w`, () => spin());
  const error = { name: "Error", message: "trapped", class: "limit", retryable: false } as const;
  await host.deliver(
    { kind: "start", run: { ...hostRun, name: `${name}.w` }, args: encode([]) },
    { kind: "stepFault", step: name, error },
  );
  await host.settle();
  expect(host.error()).toMatchObject({ message: "trapped", class: "limit", retryable: false });
});

test("a step fault also ends an attempt that is under way", async () => {
  const name = unique("spin");
  const spin = guest.step(name, () => guest.signal("go"), { retries: 0 });
  guest.workflow(`${name}.w`, () => spin());
  await host.start(`${name}.w`);
  await host.deliver({ kind: "stepFault", step: name, error: { name: "Error", message: "spun" } });
  await host.settle();
  expect(host.error().message).toBe("spun");
});

test("a value that can't be stored fails the step with its path, at once", async () => {
  const broken = guest.step(unique("broken"), () => ({ items: [1, { callback: () => 1 }] }));
  guest.workflow(unique("w"), () => broken());
  await host.start(`w.${uniqueNumber}`);
  await host.settle();
  expect(host.error()).toMatchObject({ name: "SerialisationError", code: "not-serialisable" });
  expect(host.error().message).toContain("$.items[1].callback: a function can't be stored");
  expect(host.records.filter(({ event }) => event === "started")).toHaveLength(1);
});

test("one record tells of a step that begins and succeeds at once, if nothing else happens to it", async () => {
  const attempt = () => guest.context().step?.attempt;
  const cases: readonly [string, guest.StepOptions, (value: string) => unknown][] = [
    ["began succeeded", {}, (value) => value],
    ["began succeeded", {}, (value) => `${value}${attempt()}`],
    ["began succeeded", { checkpoint: false }, (value) => value],
    ["started succeeded", {}, async (value) => value],
    ["started succeeded", { metadata: { a: 1 } }, (value) => value],
    ["started failed", { retries: 0 }, () => () => "not a value"],
    [
      "started progress succeeded",
      {},
      (value) => {
        guest.context().step?.progress("half");
        return value;
      },
    ],
    [
      "started retrying started succeeded",
      { backoff: () => 0 },
      (value) => {
        if (attempt() === 1) throw new Error("once");
        return value;
      },
    ],
  ];
  for (const [told, options, body] of cases) {
    for (const isNode of [false, true]) {
      const own = new TestHost();
      const one = guest.step(unique("one"), body, options);
      guest.workflow(unique("w"), () => (isNode ? one.step("x") : one("x")));
      await own.start(`w.${uniqueNumber}`);
      await own.settle();
      const records = own.raw.map(({ began, event }) =>
        began === true ? `began ${event}` : event,
      );
      expect(records.join(" "), `${told}, ${isNode ? "as a node" : "called"}`).toBe(told);
      const [first] = own.raw;
      const isKept = options.checkpoint !== false;
      const args = first?.began === true ? first.args : first?.value;
      expect(args).toEqual(isKept ? encode(["x"]) : undefined);
    }
  }
});

test("without checkpoint neither arguments nor value are recorded", async () => {
  const secret = identity<string>("secret", { checkpoint: false });
  guest.workflow(unique("w"), () => secret("x"));
  await host.start(`w.${uniqueNumber}`);
  expect(host.output()).toBe("x");
  expect(host.records.map(({ value }) => value)).toEqual([undefined, undefined]);
});

test("options that came with a node lie over those of the definition", async () => {
  const name = unique("item");
  const item = guest.step(name, (n: number) => n, { metadata: { a: 1 } });
  await host.graph(item.options({ name: "renamed", metadata: { b: 2 } }).step(4));
  expect(host.output()).toBe(4);
  expect(host.records[0]).toMatchObject({ step: "renamed", name: "renamed" });
  expect(decode(host.records[0]?.metadata ?? new Uint8Array())).toEqual({ b: 2 });
});

test.each<[string, unknown, string]>([
  ["an unknown step", { $step: "nobody", args: [] }, 'there is no step "nobody"'],
  ["a $ref to nothing", { $ref: 3 }, "there is no node 3"],
  ["a plain value", 5, "the root of a graph must be a node"],
  ["unknown options", { $step: "known", args: [], options: { x: 1 } }, "there is no option x"],
  ["arguments that aren't a list", { $step: "known", args: 1 }, "must be an array"],
  [
    "a node in itself",
    { $step: "known", args: [{ $ref: 1 }], $id: 1 },
    "there is no node 1 before its $ref",
  ],
  [
    "a node in a Map",
    { $step: "known", args: [new Map([["key", { $step: "known", args: [] }]])] },
    "can't be in a Map",
  ],
  [
    "a node in a Set",
    { $step: "known", args: [{ in: new Set([{ $step: "known", args: [] }]) }] },
    "can't be in a Set",
  ],
])("a graph with %s fails the run with a clear error", async (_, root, message) => {
  guest.step("known", knownBody);
  await host.graph(root);
  expect(host.error().message).toContain(message);
});

function knownBody(): number {
  return 1;
}

test("a graph whose arguments contain the node itself fails instead of hanging", async () => {
  const list: unknown[] = [];
  const item = guest.step(unique("item"), (all: unknown[]) => all);
  const node = item.step(list);
  list.push(node);
  guest.workflow(unique("w"), () => node);
  await host.start(`w.${uniqueNumber}`);
  expect(host.error().message).toContain("the graph contains itself");
});

test("a step may run a step", async () => {
  const inner = identity<number>("inner");
  const outer = guest.step(unique("outer"), async (n: number) => (await inner(n)) + 1);
  guest.workflow(unique("w"), () => outer(1));
  await host.start(`w.${uniqueNumber}`);
  expect(host.output()).toBe(2);
});

test("results that come in one delivery are taken in its order", async () => {
  guest.workflow(unique("w"), () => Promise.race([guest.signal("a"), guest.signal("b")]));
  await host.start(`w.${uniqueNumber}`);
  const [a, b] = host.all("wait");
  await host.deliver(resolved(b?.id ?? 0, "b"), resolved(a?.id ?? 0, "a"));
  expect(host.output()).toBe("b");
});

test("two machines that get the same activations drain the same bytes", async () => {
  const broken = guest.step(
    unique("broken"),
    () => {
      throw new Error(String(guest.context().step?.attempt));
    },
    { retries: 2 },
  );
  guest.workflow(unique("w"), async () => {
    await guest.sleep("1 s");
    return broken().catch((error: Error) => error.message);
  });
  await host.start(`w.${uniqueNumber}`);
  while (host.drained.state !== "done") {
    host.nowMs += 100_000;
    if (host.drained.state === "yielded") await host.settle();
    else await host.ok(host.last("timer").id);
  }
  expect(host.output()).toBe("3");
  const again = new TestHost();
  for (const { activation } of host.journal) await again.deliverBytes(activation);
  expect(again.journal.map(({ drained }) => drained)).toEqual(
    host.journal.map(({ drained }) => drained),
  );
});

test("a guest that may begin no step, or one, says which begins next", async () => {
  // What a host relies on that looks for a step that spins (PROTOCOL 1.9).
  const name = unique("each");
  const each = guest.step(name, (n: number) => n);
  guest.workflow(`${name}.w`, () => Promise.all([each(1), each(2)]));
  host.stepsMax = 0;
  expect(await host.start(`${name}.w`)).toMatchObject({ state: "yielded", nextStep: name });
  host.stepsMax = 1;
  expect((await host.deliver({ kind: "continue" })).nextStep).toBeUndefined();
  host.stepsMax = 0;
  expect(await host.deliver({ kind: "continue" })).toMatchObject({ nextStep: `${name}_1` });
  expect(host.events()).toEqual([`${name}:started`, `${name}:succeeded`]);
});
