/**
 * What the simulated tenants run, written against the SDK as users do. Every workflow
 * returns enough to check from outside that nothing was lost, doubled or reordered.
 */
import { currentMachine } from "../../guest/activation.ts";
import { decode, type Ref } from "../../guest/cbor.ts";
import {
  actor,
  CancelledError,
  context,
  continueAsNew,
  externalEvent,
  forgetReminder,
  type Graph,
  GuestError,
  get,
  handle,
  publish,
  put,
  query,
  remind,
  run,
  type Self,
  self,
  signal,
  sleep,
  start,
  step,
  TimeoutError,
  update,
  workflow,
} from "../../guest/index.ts";
import type { FetchResponse } from "../../guest/protocol.ts";

async function fetchText(url: string): Promise<string> {
  const answer = await currentMachine().command(
    (id) => ({ kind: "fetch", id, request: { method: "POST", url, headers: [] } }),
    "fetch",
  );
  const response = decode(answer) as FetchResponse;
  if (response.status !== 200) {
    throw new GuestError(`status ${response.status}`, { code: "switched-off", retryable: false });
  }
  return String.fromCharCode(...response.body);
}

/** Performs an effect that the ledger counts, under this step's own key. */
async function perform(): Promise<string> {
  const { step: self } = context();
  if (self === undefined) throw new Error("an effect belongs to a step");
  const key = encodeURIComponent(self.idempotencyKey);
  return fetchText(`https://ledger/${key}?attempt=${self.attempt}`);
}

export const one = step("one", () => 1);
export const add = step("add", (a: number, b: number) => a + b);
export const fib = step(
  "fib",
  (n: number): Graph<number> => (n <= 1 ? n : add.step(fib.step(n - 1), fib.step(n - 2))),
);
export const effect = step("effect", (_name: string) => perform(), {
  retries: 30,
  backoff: { initial: 20, max: 500 },
});
export const flaky = step(
  "flaky",
  (attempts: number) => {
    const { step: self } = context();
    if ((self?.attempt ?? 0) < attempts) throw new Error("not yet");
    return self?.attempt;
  },
  { retries: 10, backoff: { initial: 30, max: 300 } },
);
/** Fails for good while its switch is off; requests that get lost are tried again. */
export const guarded = step("guarded", (name: string) => fetchText(`https://switch/${name}`), {
  retries: 30,
  backoff: { initial: 20, max: 500 },
});

/** What a step sets that never comes to an end: the sandbox takes it for one that spins. */
export const watchdog = { isDue: false };

export const spin = step("spin", (_name: string): Promise<string> => {
  watchdog.isDue = true;
  return new Promise(() => undefined);
});

/** Steps that bring the instance down, before, after and beside others that don't. */
export const spinner = workflow("spinner", async (plan: readonly string[]) => {
  const got: string[] = [];
  const isolate = async (work: Promise<string>): Promise<string> => {
    try {
      return await work;
    } catch (error) {
      return error instanceof GuestError ? String(error.code) : String(error);
    }
  };
  for (const part of plan) {
    if (part === "effect") got.push(await effect(part));
    else if (part === "sleep") await sleep(20);
    else if (part === "spin") got.push(await isolate(spin(part)));
    else {
      const beside = [effect(part), isolate(spin(part)), flaky(2).then(String), effect(part)];
      got.push(...(await Promise.all(beside)));
    }
  }
  return got;
});

export const chain = workflow("chain", async (n: number) => {
  let sum = 0;
  for (let i = 1; i <= n; i++) sum = await add(sum, i);
  return sum;
});

export const mixed = workflow("mixed", async (n: number) => {
  const keys: string[] = [];
  for (let i = 0; i < n; i++) {
    keys.push(await effect(`a${i}`));
    await sleep(7);
    await add(i, i);
  }
  const rest = await Promise.all([effect("x"), effect("y"), flaky(2), run("inline", () => 5)]);
  return [...keys, ...rest];
});

export const sleeper = workflow("sleeper", async (times: number[]) => {
  for (const ms of times) {
    const before = currentMachine().nowMs();
    await sleep(ms);
    const late = currentMachine().nowMs() - before - ms;
    if (late < 0) throw new Error(`woken ${-late} ms early`);
  }
  return times.length;
});

/** Sleeps between a signal and a step, over and over. */
export const ticker = workflow("ticker", async (count: number) => {
  let ticks = 0;
  while (ticks < count) {
    await signal("tick");
    await sleep(700);
    ticks = await add(ticks, 1);
  }
  return ticks;
});

export const collector = workflow("collector", async (count: number) => {
  const got: string[] = [];
  let cheats = 0;
  query("items", () => got);
  query("cheats", () => cheats);
  query("cheat", () => {
    cheats += 1;
    got.push("forged");
    return cheats;
  });
  while (got.length < count) got.push(await signal<string>("item"));
  return got;
});

/** The same over many lives: nothing of what came between two lives may be lost. */
export const collectorAnew = workflow("collectorAnew", async (count: number, got: string[]) => {
  const mine = [...got];
  for (let i = 0; i < 3 && mine.length < count; i++) mine.push(await signal<string>("item"));
  if (mine.length < count) continueAsNew(count, mine);
  return mine;
});

/** Each wait is raced by a timer; what comes too late for one wait belongs to the next. */
export const racer = workflow(
  "racer",
  async (count: number, timeoutMs: number, before: string[], lives: number) => {
    const got = [...before];
    let misses = 0;
    while (got.length < count) {
      try {
        const timeout = timeoutMs * 2 ** Math.min(misses, 10);
        got.push(await signal<string>("item", { timeout }));
      } catch (error) {
        if (!(error instanceof TimeoutError)) throw error;
        misses += 1;
        await add(got.length, 1);
        // What came too late for this wait goes over into the next life.
        if (lives > 1) continueAsNew(count, timeoutMs, got, lives - 1);
      }
    }
    return got;
  },
);

export const sender = workflow("sender", async (target: string, name: string, count: number) => {
  for (let i = 1; i <= count; i++) await handle(target).signal("item", `${name}:${i}`);
  return count;
});

/** Sends without waiting for each to be accepted: the order is kept all the same. */
export const burstSender = workflow(
  "burstSender",
  async (target: string, name: string, count: number) => {
    const sent = Array.from({ length: count }, (_, i) =>
      handle(target).signal("item", `${name}:${i + 1}`),
    );
    await Promise.all(sent);
    return count;
  },
);

export const child = workflow("child", async (n: number) => {
  await effect(`child${n}`);
  if (n % 3 === 2) await sleep(40);
  return n * 10;
});

export const parent = workflow("parent", async (n: number) => {
  const values = await Promise.all(Array.from({ length: n }, (_, i) => child(i)));
  const other = await start(child.with(100), { child: "abandon" });
  return { values, other: other.id, last: await other.result() };
});

export const Counter = actor(
  "Counter",
  class {
    n = 0;
    last: Record<string, number> = {};
    errors: string[] = [];
    /** Counts; within a session the numbers must come in order, without a gap. */
    add(session: string, seq: number): number {
      const before = this.last[session] ?? 0;
      if (seq !== 0 && seq !== before + 1) this.errors.push(`${session}: ${seq} after ${before}`);
      if (seq !== 0) this.last[session] = seq;
      this.n += 1;
      return this.n;
    }
    value(): number {
      return this.n;
    }
    faults(): string[] {
      return this.errors;
    }
    cheat(): number {
      this.n += 1000;
      this.errors.push("cheated");
      return this.n;
    }
    failHalfway(): never {
      this.n += 1_000_000;
      throw new Error("changed its mind");
    }
  },
  { readonly: ["value", "faults", "cheat"] },
);

/** Of a counter that nobody else knows: reads after what it sent, and tries to change it. */
export const spy = workflow("spy", async (key: string, n: number) => {
  const counter = Counter.getOrCreate(key);
  const seen: number[] = [];
  for (let i = 0; i < n; i++) {
    void counter.send.add("", 0);
    seen.push(...(await Promise.all([counter.value(), counter.cheat()])));
  }
  return seen;
});

/** Whose constructor does all that a constructor can; `ghosts` reads it before it is made. */
export const Ghost = actor(
  "Ghost",
  class {
    n = 0;
    constructor() {
      const { key } = self().ref;
      remind("haunt", { after: 1000 }, this.haunt);
      void Counter.getOrCreate(`${key}-haunted`).send.add("", 0);
      void start(timed.with(), { id: `${key}-started` });
    }
    haunt(): number {
      this.n += 1;
      return this.n;
    }
    value(): number {
      return this.n;
    }
    cheat(): number {
      this.n += 1000;
      return this.n;
    }
  },
  { readonly: ["value", "cheat"] },
);

/** Calls another actor within its turn. */
export const Relay = actor(
  "Relay",
  class {
    relayed = 0;
    async pass(counter: string, times: number): Promise<number[]> {
      const seen: number[] = [];
      for (let i = 0; i < times; i++) seen.push(await Counter.getOrCreate(counter).add("", 0));
      this.relayed += times;
      return seen;
    }
    total(): number {
      return this.relayed;
    }
  },
  { readonly: ["total"] },
);

/** Is reminded; says when. */
export const Bell = actor(
  "Bell",
  class {
    rings: Record<string, number[]> = {};
    set(name: string, delayMs: number): number {
      remind(name, { after: delayMs }, this.ring, name);
      return currentMachine().nowMs() + delayMs;
    }
    ring(name: string): void {
      this.rings[name] = [...(this.rings[name] ?? []), currentMachine().nowMs()];
    }
    list(): Record<string, number[]> {
      return this.rings;
    }
  },
  { readonly: ["list"] },
);

/** Calls itself within its own turn, directly or through a workflow. */
class NestedCalls {
  calls = 0;
  async deep(depth: number): Promise<number> {
    if (depth > 0) {
      const own = self<NestedCalls>();
      if (depth % 2 === 1) await own.deep(depth - 1);
      else await nestedThrough(own.ref.key, depth - 1);
    }
    this.calls += 1;
    return this.calls;
  }
  total(): number {
    return this.calls;
  }
}
export const Nest = actor("Nest", NestedCalls, { readonly: ["total"], reentrant: true });
export const nestedThrough = workflow("nestedThrough", async (key: string, depth: number) => {
  await Nest.getOrCreate(key).deep(depth);
});

/** Asks along a path: actors, `*key` for re-entrant ones, `/n` for n runs within each other. */
class KnotOf {
  passed = 0;
  async ask(...path: string[]): Promise<number> {
    await sleep(20);
    await follow(path);
    this.passed += 1;
    return this.passed;
  }
  touch(): number {
    this.passed += 1;
    return this.passed;
  }
}
export const Knot = actor("Knot", KnotOf);
export const FriendlyKnot = actor("FriendlyKnot", class extends KnotOf {}, { reentrant: true });
function follow([next = "", ...rest]: readonly string[]): Promise<number> {
  if (next.startsWith("/")) return passing(Number(next.slice(1)), rest);
  const type = next.startsWith("*") ? FriendlyKnot : Knot;
  const called = type.getOrCreate(next.replace("*", ""));
  return rest.length === 0 ? called.touch() : called.ask(...rest);
}
export const passing = workflow("passing", (runs: number, path: string[]): Promise<number> => {
  return runs > 1 ? passing(runs - 1, path) : follow(path);
});

/** Is reminded over and over; each ring says for which time it was due, and when it came. */
export const Tower = actor(
  "Tower",
  class {
    rings: (readonly [dueMs: number, atMs: number])[] = [];
    begin(everyMs: number): number {
      remind("ring", { every: everyMs }, this.ring);
      return currentMachine().nowMs();
    }
    ring(): void {
      const callId = currentMachine().turn()?.id ?? "";
      const dueMs = Number(callId.slice(callId.lastIndexOf(".") + 1));
      this.rings.push([dueMs, currentMachine().nowMs()]);
    }
    end(): void {
      forgetReminder("ring");
    }
    list(): (readonly [dueMs: number, atMs: number])[] {
      return this.rings;
    }
  },
  { readonly: ["list"] },
);

interface Moving {
  n: number;
  moved: number;
  isStuck: boolean;
}

/** Counts its calls, and how often it has moved to another component. */
export const Nomad = actor(
  "Nomad",
  class {
    n = 0;
    moved = 0;
    isStuck = false;
    static upgrade(state: Moving): Moving {
      if (state.isStuck) throw new Error("it is stuck");
      return { ...state, moved: state.moved + 1 };
    }
    add(): readonly [n: number, moved: number] {
      this.n += 1;
      return [this.n, this.moved];
    }
    stick(isStuck: boolean): void {
      this.isStuck = isStuck;
    }
    remember(delayMs: number): void {
      remind("add", { after: delayMs }, this.add);
    }
    value(): number {
      return this.n;
    }
  },
  { readonly: ["value"] },
);
export const visit = workflow("visit", (key: string) => Nomad.getOrCreate(key).add());

/** When it was begun, by its own clock. */
export const timed = workflow("timed", () => currentMachine().nowMs());

/** A turn with effects and waits, and one that is a graph of the actor's own methods. */
export const Worker = actor(
  "Worker",
  class {
    done: string[] = [];
    async work(name: string): Promise<number> {
      const key = await effect(name);
      await sleep(5);
      this.done.push(`${name} ${key}`);
      return this.done.length;
    }
    mark(n: number): number {
      this.done.push(`mark ${n}`);
      return this.done.length;
    }
    chained(this: Self<{ done: string[]; mark(n: number): number }>): Graph<number> {
      return this.mark.step(one.step());
    }
    list(): string[] {
      return this.done;
    }
  },
  { readonly: ["list"] },
);

export const bank = workflow("bank", async (counter: string, count: number) => {
  const seen: number[] = [];
  for (let i = 0; i < count; i++) seen.push(await Counter.getOrCreate(counter).add("", 0));
  const isOneWay = count % 2 === 0;
  if (isOneWay) await Counter.getOrCreate(counter).send.add("", 0);
  return seen;
});

/** An effect, then a step that fails while its switch is off, beside a slow one. */
export const failing = workflow("failing", async (name: string) => {
  const before = await effect("before");
  const [, value] = await Promise.all([effect("beside"), guarded(name)]);
  const after = await effect("after");
  return [before, value, after];
});

/** A signal, a pause and a step, over and over. */
export const forkable = workflow("forkable", async (count: number) => {
  const got: string[] = [];
  while (got.length < count) {
    got.push(await signal<string>("item"));
    await sleep(20);
    await add(got.length, 0);
  }
  return got;
});

const undo = step("undo", (_key: string) => perform(), {
  retries: 30,
  backoff: { initial: 20, max: 500 },
});
const doable = step("doable", (_n: number) => perform(), {
  retries: 30,
  backoff: { initial: 20, max: 500 },
  compensate: undo,
});

/** Does so much, and then fails, or waits until it is cancelled. */
export const undoable = workflow("undoable", async (n: number, waits: boolean) => {
  for (let i = 0; i < n; i++) {
    await doable(i);
    await sleep(15);
  }
  if (waits) await sleep("30 days");
  throw new Error("all is to be undone");
});

export const cancellable = workflow("cancellable", async () => {
  try {
    await sleep("30 days");
    return "slept";
  } catch (error) {
    if (!(error instanceof CancelledError)) throw error;
    await add(1, 1);
    throw error;
  }
});

export const updatable = workflow("updatable", async () => {
  const items: string[] = [];
  query("items", () => items);
  update("push", async (item: string) => {
    items.push(item);
    const length = items.length;
    await add(length, 0);
    return length;
  });
  await signal("close");
  return items;
});

export const stored = workflow("stored", async (n: number) => {
  const ref = await put(Array.from({ length: n }, (_, i) => i));
  const back = await get(ref);
  return back.length;
});

/** Few values, so that runs store the same ones, and store again what was collected. */
function treasure(n: number): string {
  return `treasure ${n} `.repeat(20);
}

/** Stores values, keeps nothing but Refs in memory, hands each on, and reads them at the end. */
export const keeper = workflow(
  "keeper",
  async (target: string, picks: number[], waitMs: number) => {
    const refs: Ref<string>[] = [];
    for (const pick of picks) {
      const ref = await put(treasure(pick));
      refs.push(ref);
      await sleep(waitMs);
      if (target !== "") await handle(target).signal("ref", ref);
    }
    await sleep(waitMs);
    const read: boolean[] = [];
    for (const [index, ref] of refs.entries()) {
      read.push((await get(ref)) === treasure(picks[index] ?? 0));
    }
    return read;
  },
);

export const passer = workflow("passer", async (target: string, count: number) => {
  for (let i = 0; i < count; i++) {
    await handle(target).signal("ref", await signal<Ref<string>>("ref"));
  }
});

/** Gets Refs from a run that may be gone when it reads them. */
export const heir = workflow("heir", async (picks: number[], waitMs: number) => {
  const read: boolean[] = [];
  const refs: Ref<string>[] = [];
  for (const _pick of picks) refs.push(await signal<Ref<string>>("ref"));
  await sleep(waitMs);
  for (const [index, ref] of refs.entries()) {
    read.push((await get(ref)) === treasure(picks[index] ?? 0));
    await sleep(waitMs / 10);
  }
  return read;
});

/** Has a Ref in its state, and nothing else for a long time. */
export const Vault = actor(
  "Vault",
  class {
    ref: Ref<string> | undefined;
    pick = 0;
    async store(pick: number): Promise<void> {
      const ref = await put(treasure(pick));
      await sleep(5);
      this.ref = ref;
      this.pick = pick;
    }
    async check(): Promise<boolean> {
      return this.ref === undefined || (await get(this.ref)) === treasure(this.pick);
    }
  },
);

/** Holds a place of a queue for a while, some of them over two lives, some until they fail. */
export const queued = workflow(
  "queued",
  async (key: string, ms: number, how: string, life: number) => {
    const held = await effect("held");
    await sleep(ms);
    if (how === "anew" && life === 1) continueAsNew(key, ms, how, 2);
    if (how === "fail") throw new GuestError("as asked", { code: "asked", retryable: false });
    return [key, held];
  },
  { queue: { name: "narrow", key: "0", concurrency: 3, keyConcurrency: 2, maxPending: 4 } },
);

/** Children that wait in the queue, which their parent isn't in. */
export const queuing = workflow("queuing", (n: number) =>
  Promise.all(Array.from({ length: n }, (_, i) => queued(`child${i % 2}`, 20, "", 1))),
);

/** Its first run of a step fails while its switch is off: resumed, it passes the queue again. */
export const queuedSwitch = workflow("queuedSwitch", (name: string) => guarded(name), {
  queue: "narrow",
});

/** Awaits one event over several lives; whoever has its token decides it, in any of them. */
export const approving = workflow("approving", async (lives: number, life: number) => {
  const event = await externalEvent<string>("approval");
  publish("token", event.token);
  publish("life", life);
  if (life < lives) {
    await signal("next");
    continueAsNew(lives, life + 1);
  }
  const said = await event.result();
  publish("said", said);
  return said;
});

/** Waits, as its children do, until it is cancelled; then they are too. */
export const ancestor = workflow("ancestor", async (count: number) => {
  const { runId } = context().run;
  for (let i = 0; i < count; i++) {
    await start(cancellable.with(), { id: `${runId}-c${i}`, child: "cancel" });
  }
  await sleep("30 days");
});

/** Takes so long; then it fails, or, if it is cancelled, it ends as if nothing had been. */
export const lasting = workflow("lasting", async (ms: number, how: string) => {
  try {
    await sleep(ms);
  } catch (error) {
    if (how !== "stay") throw error;
    await add(1, 1);
  }
  if (how === "fail") throw new GuestError("as asked", { code: "asked", retryable: false });
  return ms;
});

/** Waits for the end of another run, if there is one. */
export const heeding = workflow("heeding", async (id: string) => {
  try {
    return await handle<number>(id).result();
  } catch (error) {
    return error instanceof GuestError ? String(error.code) : String(error);
  }
});
