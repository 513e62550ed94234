/** What the acceptance tests deploy: one small definition for each thing that must be true. */
import {
  actor,
  CancelledError,
  context,
  externalEvent,
  type Graph,
  get,
  NonRetryableError,
  publish,
  put,
  query,
  run,
  type Self,
  signal,
  sleep,
  start,
  step,
  TimeoutError,
  update,
  workflow,
} from "sporeflow/guest";

// ---- graphs

export const one = step("one", () => 1);
export const add = step("add", (left: number, right: number) => left + right);
export const fib = step(
  "fib",
  (n: number): Graph<number> => (n <= 1 ? n : add.step(fib.step(n - 1), fib.step(n - 2))),
);
export const countdown = step(
  "countdown",
  (n: number): Graph<string> => (n === 0 ? "lift-off" : countdown.step(n - 1)),
);
export const echo = workflow("echo", (value: unknown) => value);

/** Which graph runs depends on a value that is known only then. */
export const dynamic = workflow("dynamic", async (n: number) => {
  const sum = await run(add.step(n, one.step()));
  return sum % 2 === 0 ? run(fib.step(sum)) : run(countdown.step(sum));
});

// ---- globals

export const globals = workflow("globals", async (url: string) => {
  const controller = new AbortController();
  controller.abort(new Error("enough"));
  const cloned = structuredClone(new Map([["epoch", new Date(0)]]));
  const beganMs = Date.now();
  await new Promise((resolve) => setTimeout(resolve, 30));
  console.log("hello from", "globals", { n: 1 });
  const fetched = await run("ask", async () => {
    const response = await fetch(new URL("/echo?q=1", url), {
      method: "POST",
      headers: { "x-test": "yes" },
      body: JSON.stringify({ a: 1 }),
    });
    return { status: response.status, body: await response.json() };
  });
  return {
    href: new URL("../b?c=1#d", "http://a.test/x/y").href,
    search: new URLSearchParams({ q: "a b" }).toString(),
    text: new TextDecoder().decode(new TextEncoder().encode("grüße 🌱")),
    base64: atob(btoa("spore")),
    isAborted: controller.signal.aborted,
    cloned,
    uuid: crypto.randomUUID(),
    waitedMs: Date.now() - beganMs,
    fetched,
  };
});

export const random = workflow("random", async () => {
  const draw = () => [Math.random(), crypto.randomUUID(), Date.now()];
  const before = draw();
  query("draws", () => before);
  await signal("go");
  return before;
});

// ---- imperative workflows

const later = async <Value>(ms: number, value: Value): Promise<Value> => {
  await sleep(ms);
  return value;
};
const fail = async (ms: number, message: string): Promise<never> => {
  await sleep(ms);
  throw new RangeError(message);
};

export const combinators = workflow("combinators", async () => ({
  all: await Promise.all([later(20, 1), add(1, 1), later(1, 3)]),
  race: await Promise.race([later(60_000, "slow"), later(10, "fast")]),
  any: await Promise.any([fail(1, "a"), later(20, "b")]),
  settled: (await Promise.allSettled([add(2, 2), fail(1, "c")])).map((each) =>
    each.status === "fulfilled" ? each.value : String(each.reason),
  ),
}));

export const nap = workflow("nap", async (ms: number) => {
  const beganMs = Date.now();
  await sleep(ms);
  return Date.now() - beganMs;
});

export const waiter = workflow("waiter", async (name: string, timeout?: number) => {
  try {
    return await signal(name, timeout === undefined ? {} : { timeout });
  } catch (error) {
    if (error instanceof TimeoutError) return "nobody came";
    throw error;
  }
});

export const collector = workflow("collector", async (count: number) => {
  const values: unknown[] = [];
  query("values", () => values);
  while (values.length < count) values.push(await signal("item"));
  return values;
});

export const account = workflow("account", async (balance: number) => {
  query("balance", () => balance);
  query("vandal", () => {
    balance = 1_000_000;
    return balance;
  });
  update(
    "deposit",
    async (amount: number) => {
      await sleep(1);
      balance += amount;
      return balance;
    },
    {
      validate: (amount) => {
        if (!(amount > 0)) throw new RangeError("a deposit is more than nothing");
      },
    },
  );
  await signal("close");
  return balance;
});

/** Publishes its progress, then too much, and ends with its signal. */
export const publisher = workflow("publisher", async () => {
  await signal("begin");
  publish("progress", { done: 1 });
  await signal("more");
  publish("progress", { done: 2, at: new Date(5) });
  for (let index = 0; index < 70; index++) publish(`name ${index}`, index);
  publish("large", "x".repeat(300_000));
  await signal("end");
});

/** Takes one update at a time, which ends when its signal comes. */
export const slow = workflow("slow", async () => {
  const done: string[] = [];
  query("done", () => done);
  update(
    "work",
    async (name: string) => {
      await signal(`end_${name}`);
      done.push(name);
      return done.length;
    },
    {
      validate: (name) => {
        if (name === "") throw new RangeError("work needs a name");
      },
    },
  );
  await signal("close");
});

/** Publishes the token of an event, and ends with what was decided. */
export const approval = workflow("approval", async (timeout: number, after?: string) => {
  const event = await externalEvent<unknown>("ship <order> 7", { timeout });
  publish("event", { token: event.token, url: event.url });
  const decided = await event.result().catch((error: Error) => `${error.name}: ${error.message}`);
  if (after !== undefined) await signal(after);
  return decided;
});

export const child = workflow("child", async (n: number) => {
  await sleep(1);
  if (n < 0) throw new RangeError("n is negative");
  return n * 2;
});
export const parent = workflow("parent", async (n: number) => {
  const started = await start(child.with(n), { id: `child_of_${context().run.runId}` });
  const [awaited, other] = await Promise.all([child(n + 1), started.result()]);
  return [awaited, other];
});

export const stored = workflow("stored", async (length: number) => {
  const ref = await put("x".repeat(length));
  await sleep(1);
  return (await get(ref)).length;
});

// ---- effects, retries, failures

/** POSTs to the test's own server, which counts and may refuse. */
const call = async (url: string): Promise<string> => {
  const response = await fetch(url, { method: "POST" });
  if (!response.ok) throw new Error(`refused with ${response.status}`);
  return response.text();
};
export const effect = step("effect", call, {
  retries: 4,
  backoff: { initial: 20, factor: 2, jitter: 0 },
});
export const once = step("once", call, { retries: 0 });
export const hopeless = step("hopeless", (): never => {
  throw new NonRetryableError("it will not get better", { code: "hopeless" });
});

export const retried = workflow("retried", (url: string) => effect(url));
export const given = workflow("given", () => hopeless());
export const chain = workflow("chain", async (url: string, count: number) => {
  const answers: string[] = [];
  for (let index = 0; index < count; index++) answers.push(await effect(`${url}/${index}`));
  return answers.length;
});
export const fragile = workflow("fragile", async (url: string) => {
  const first = await once(`${url}/first`);
  const second = await once(`${url}/second`);
  return [first, second];
});
export const polite = workflow("polite", async (url: string) => {
  try {
    await signal("never");
  } catch (error) {
    if (!(error instanceof CancelledError)) throw error;
    await effect(`${url}/cleanup`);
    throw error;
  }
  return undefined;
});

// ---- code that misbehaves

export const spin = workflow("spin", () => {
  for (;;);
});
export const spinningStep = step(
  "spinningStep",
  () => {
    for (;;);
  },
  { retries: 0 },
);
export const spinInStep = workflow("spinInStep", async () => {
  await one();
  await spinningStep();
});
export const hoard = workflow("hoard", () => {
  const hoarded: Uint8Array[] = [];
  for (;;) hoarded.push(new Uint8Array(1 << 20).fill(1));
});
export const flood = workflow("flood", () => "x".repeat(48 * 1024 * 1024));
export const chatter = workflow("chatter", () => {
  for (;;) console.log("x".repeat(10_000));
});
export const recurse = workflow("recurse", () => {
  const deeper = (n: number): number => deeper(n + 1) + 1;
  return deeper(0);
});
export const unserialisable = workflow("unserialisable", () => ({
  deep: [{ fn: () => 1 }],
}));

// ---- actors

export const Counter = actor(
  "Counter",
  class {
    n: number;
    constructor(n = 0) {
      this.n = n;
    }
    incr(by = 1): number {
      this.n += by;
      return this.n;
    }
    value(): number {
      return this.n;
    }
    /** Says that it reads, and does not. */
    sneak(): number {
      this.n = 666;
      return this.n;
    }
    explode(): never {
      this.n = -1;
      throw new RangeError("boom");
    }
    async visit(url: string): Promise<string> {
      const answer = await effect(url);
      this.n += 1;
      return answer;
    }
  },
  { readonly: ["value", "sneak"] },
);

export const double = step("double", (value: number) => 2 * value);

class Doubler {
  value = 1;
  double(this: Self<Doubler>, isStored: boolean): Graph<number> {
    const node = double.step(this.value);
    return isStored ? this.update.step(node) : node;
  }
  update(value: number): number {
    this.value = value;
    return this.value;
  }
}
export const Actor = actor("Actor", Doubler);

export const Ledger = actor(
  "Ledger",
  class {
    entries: string[] = [];
    note(text: string): number {
      this.entries.push(text);
      return this.entries.length;
    }
    all(): readonly string[] {
      return this.entries;
    }
  },
);

/** A workflow that uses an actor, in order. */
export const tally = workflow("tally", async (key: string, count: number) => {
  const ledger = Ledger.getOrCreate(key);
  for (let index = 0; index < count; index++) void ledger.send.note(`n${index}`);
  return ledger.note("last");
});
