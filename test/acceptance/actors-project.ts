/** Actors for actors-more.test.ts: one small class for each thing that must be true. */
import {
  actor,
  context,
  externalEvent,
  forgetReminder,
  type Graph,
  handle,
  publish,
  type RunStatus,
  remind,
  run,
  type Self,
  signal,
  signalActor,
  sleep,
  start,
  step,
  workflow,
} from "sporeflow/guest";

const effect = step(
  "effect",
  async (url: string): Promise<string> => {
    const response = await fetch(url, { method: "POST" });
    if (!response.ok) throw new Error(`refused with ${response.status}`);
    return response.text();
  },
  { retries: 4, backoff: { initial: 20, factor: 2, jitter: 0 } },
);

// ---- plain state

/** Its constructor tells somebody: creations can be counted. */
export const Counter = actor(
  "Counter",
  class {
    n: number;
    log: string[] = [];
    padding = new Uint8Array(0);
    constructor(from = 0, births?: string) {
      this.n = from;
      if (births !== undefined) void Counter.getOrCreate(births).send.incr();
    }
    incr(by = 1): number {
      this.n += by;
      return this.n;
    }
    note(text: string): number {
      this.log.push(text);
      return this.log.length;
    }
    fail(): never {
      this.n = -1;
      throw new RangeError("no");
    }
    grow(bytes: number): number {
      this.padding = new Uint8Array(bytes);
      return bytes;
    }
    grab(): string {
      return crypto.randomUUID();
    }
    value(): number {
      return this.n;
    }
    notes(): readonly string[] {
      return this.log;
    }
    /** Says that it reads, and tries everything else. */
    async sneak(): Promise<void> {
      this.n = 666;
      void Counter.getOrCreate("victim").send.incr();
      await Counter.getOrCreate("victim").incr();
    }
    sneakNow(): number {
      this.n = 666;
      this.log.length = 0;
      return this.n;
    }
  },
  { readonly: ["value", "notes", "sneak", "sneakNow"] },
);

/** Can't begin without a name; reads fail by themselves as well. */
export const Named = actor(
  "Named",
  class {
    name: string;
    constructor(name?: string) {
      if (name === undefined) throw new RangeError("a name is needed");
      this.name = name;
    }
    title(): string {
      return this.name;
    }
  },
  { readonly: ["title"] },
);

/** A workflow that calls what says that it only reads. */
export const prying = workflow("prying", (key: string) => Counter.getOrCreate(key).sneakNow());

export const Careful = actor(
  "Careful",
  class {
    log: string[] = [];
    note(text: string): number {
      this.log.push(text);
      return this.log.length;
    }
    fail(): never {
      throw new RangeError("stop here");
    }
    notes(): readonly string[] {
      return this.log;
    }
  },
  { onError: "stop", readonly: ["notes"] },
);

// ---- turns that take long

const wait = step("wait", async (url: string, value: number): Promise<number> => {
  await fetch(url, { method: "POST" });
  return value;
});
const double = step("double", (value: number) => 2 * value);

class LongTurns {
  value = 1;
  seen: unknown[] = [];

  /** The state in between can be read. */
  double(this: Self<LongTurns>, url: string): Graph<number> {
    const kept = this.keep.step(double.step(this.value));
    return this.keep.step(double.step(wait.step(url, kept)));
  }
  keep(value: number): number {
    this.value = value;
    return value;
  }
  async travel(url: string): Promise<string> {
    const first = await effect(`${url}/first`);
    publish("on-the-way", first);
    await sleep(300);
    const word = await signal<string>("go");
    this.seen.push(word);
    const second = await effect(`${url}/second`);
    return `${first} ${word} ${second}`;
  }
  async ask(): Promise<unknown> {
    const event = await externalEvent("the boss", { timeout: "1 hour" });
    publish("token", event.token);
    this.seen.push(await event.result());
    return this.seen;
  }
  current(): number {
    return this.value;
  }
}
export const Long = actor("Long", LongTurns, { readonly: ["current"] });

// ---- messages between actors and workflows

export const spread = workflow("spread", async (keys: readonly string[], rounds: number) => {
  for (let round = 0; round < rounds; round++) {
    await Promise.all(keys.map((key) => Relay.getOrCreate(key).pass(`${key}-target`)));
  }
  return keys.length * rounds;
});

export const listen = workflow("listen", async (count: number) => {
  const heard: unknown[] = [];
  while (heard.length < count) heard.push(await signal("news"));
  return heard;
});

export const Relay = actor(
  "Relay",
  class {
    passed = 0;
    async pass(to: string): Promise<number> {
      this.passed += 1;
      void Counter.getOrCreate(to).send.incr();
      return Counter.getOrCreate(`${to}-awaited`).incr();
    }
    tell(run: string, count: number): void {
      for (let index = 0; index < count; index++) void handle(run).signal("news", index);
    }
    who(): string {
      return context().caller ?? "nobody";
    }
    async ask(other: string): Promise<string> {
      return Relay.getOrCreate(other).who();
    }
  },
);

/** Tells an actor that waits within its turn. */
export const tellActor = workflow("tellActor", async (key: string, word: string) => {
  await signalActor(Long.get(key), "go", word);
});

export const shipping = workflow("shipping", async (items: number) => {
  await signal("carrier");
  return items;
});
export const half = workflow("half", (n: number) => n / 2);

export const Shop = actor(
  "Shop",
  class {
    order(items: number): string {
      const id = `shipping_${context().actor?.key}`;
      void start(shipping.with(items), { id });
      return id;
    }
    async orderTwice(items: number): Promise<boolean[]> {
      const id = `twice_${context().actor?.key}`;
      const first = await start(shipping.with(items), { id });
      const second = await start(shipping.with(items), { id });
      return [first.created, second.created];
    }
    /** A child without an id of its own. */
    async halve(n: number): Promise<number> {
      return half(n);
    }
    result(id: string): Promise<number> {
      return handle<number>(id).result();
    }
    async news(id: string): Promise<unknown[]> {
      const { status, name, waitingFor, error } = await handle(id).info();
      return [status, name, waitingFor, error?.name];
    }
    async release(id: string): Promise<void> {
      await handle(id).signal("carrier");
    }
    async stop(id: string): Promise<RunStatus> {
      await handle(id).cancel("sold out");
      return handle(id).status();
    }
    /** Only reads, and asks all the same. */
    peek(id: string): Promise<RunStatus> {
      return handle(id).status();
    }
  },
  { readonly: ["peek"] },
);

/** Asks about another run, as a method does. */
export const inquire = workflow("inquire", (id: string) => handle(id).status());

// ---- calls that come back

export const through = workflow("through", (depth: number, key: string): Promise<number> => {
  return depth > 1 ? through(depth - 1, key) : Chain.get(key).hit();
});

class ChainOf {
  hits = 0;
  hit(): number {
    this.hits += 1;
    return this.hits;
  }
  async ask(...keys: string[]): Promise<number> {
    const [next, ...rest] = keys;
    if (next === undefined) return this.hit();
    return rest.length === 0 ? Chain.getOrCreate(next).hit() : Chain.getOrCreate(next).ask(...rest);
  }
  async askWorkflow(depth = 1): Promise<number> {
    return through(depth, context().actor?.key ?? "");
  }
  /** Waits before it asks, so that the other one can be in a turn, too. */
  async meet(other: string): Promise<number> {
    await signal("now");
    return Chain.getOrCreate(other).hit();
  }
  count(): number {
    return this.hits;
  }
}
export const Chain = actor("Chain", ChainOf, { readonly: ["count"] });

/** What its steps give to services that deduplicate. */
export const Payer = actor(
  "Payer",
  class {
    async pay(): Promise<string> {
      return run("charge", () => context().step?.idempotencyKey ?? "");
    }
  },
);

export const Friendly = actor(
  "Friendly",
  class {
    hits: string[] = [];
    hit(by: string): number {
      this.hits.push(by);
      return this.hits.length;
    }
    async visit(other: string): Promise<number> {
      this.hits.push("before");
      const count = await Friendly.getOrCreate(other).answer(context().actor?.key ?? "");
      this.hits.push("after");
      return count;
    }
    async answer(to: string): Promise<number> {
      return Friendly.get(to).hit(context().actor?.key ?? "");
    }
    list(): readonly string[] {
      return this.hits;
    }
  },
  { reentrant: true, readonly: ["list"] },
);

// ---- time

export const Clock = actor(
  "Clock",
  class {
    ticks: Record<string, number[]> = {};
    once(name: string, delayMs: number): number {
      remind(name, { after: delayMs }, this.tick, name);
      return Date.now() + delayMs;
    }
    every(name: string, delayMs: number): number {
      remind(name, { every: delayMs }, this.tick, name);
      return Date.now() + delayMs;
    }
    hourly(name: string): void {
      remind(name, { cron: "0 * * * *" }, this.tick, name);
    }
    cancel(name: string): void {
      forgetReminder(name);
    }
    failing(): never {
      remind("failing", { after: 1 }, this.tick, "failing");
      throw new RangeError("no reminder of this");
    }
    tick(name: string): void {
      const ticks = this.ticks[name] ?? [];
      this.ticks[name] = [...ticks, Date.now()];
    }
    list(name: string): readonly number[] {
      return this.ticks[name] ?? [];
    }
  },
  { readonly: ["list"] },
);

export const Session = actor(
  "Session",
  class {
    calls = 0;
    touch(): number {
      this.calls += 1;
      return this.calls;
    }
  },
  { expiresAfter: 1500 },
);

// ---- events

export const Ticker = actor(
  "Ticker",
  class {
    price = 0;
    set(price: number): void {
      this.price = price;
      publish("price", { price });
    }
  },
);
