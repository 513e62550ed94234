/** What must compile, and what must not, of definitions and runs. Compiled by `check`, never run. */
import {
  type ActorRef,
  actor,
  type Caught,
  context,
  type Graph,
  get,
  map,
  put,
  query,
  type Ref,
  remind,
  run,
  type Self,
  type StateOf,
  type StepNode,
  self,
  signal,
  sleep,
  start,
  step,
  update,
  workflow,
} from "../../guest/index.ts";

type Same<Left, Right> =
  (<T>() => T extends Left ? 1 : 2) extends <T>() => T extends Right ? 1 : 2 ? true : false;
function same<Left, Right>(_proof: Same<Left, Right>): void {}

const one = step("one", () => 1);
const add = step("add", (a: number, b: number) => a + b, { retries: 3 });
const fib = step(
  "fib",
  (n: number): Graph<number> => (n <= 1 ? n : add.step(fib.step(n - 1), fib.step(n - 2))),
);
const later = step("later", async (text: string) => text.length);
const join = step("join", (parts: { list: number[]; title: string }) => parts.title);
const isEven = step("isEven", (n: number) => n % 2 === 0);
const negate = step("negate", (b: boolean) => !b);

const node = add.step(100, one.step());
same<typeof node, StepNode<number>>(true);
same<ReturnType<typeof fib>, Promise<number>>(true);
same<ReturnType<typeof later>, Promise<number>>(true);
const nested = join.step({ list: [1, one.step()], title: "x" });
same<typeof nested, StepNode<string>>(true);
negate.step(isEven.step(2));
negate.step(true);

// A compensation gets what the step gave, and what it was given.
step("book", (city: string) => ({ id: city.length }), {
  retries: 1,
  compensate: (booking, city) => booking.id + city.length,
});
later.options({ compensate: (length, text) => length - text.length });
run("inline", () => 5, { compensate: (five) => five + 1 });
// @ts-expect-error: the step gives a number
step("bad", () => 1, { compensate: (text: string) => text });
// @ts-expect-error: the step takes a text
later.options({ compensate: (_length, text: number) => text });

// @ts-expect-error: a text isn't a number
add.step("1", 2);
// @ts-expect-error: an argument is missing
add.step(1);
// @ts-expect-error: a node of another type
negate.step(one.step());
// @ts-expect-error: a node within the argument is of another type
join.step({ list: [later.step("x").toString()], title: "x" });
// @ts-expect-error: calls take values, not nodes
add(one.step(), 2);
// @ts-expect-error: there is no such option
step("typo", () => 1, { retires: 2 });
// @ts-expect-error: not a duration
step("soon", () => 1, { timeout: "soon" });

const caught = add.options({ catchErrors: true });
same<ReturnType<typeof caught>, Promise<Caught<number>>>(true);
const named = add.options({ name: "sum" });
same<ReturnType<typeof named>, Promise<number>>(true);
const inner = step("inner", () => 1, { catchErrors: true });
same<ReturnType<typeof inner>, Promise<Caught<number>>>(true);

interface Order {
  readonly id: string;
}

const order = workflow("order", async (o: Order) => {
  const sum = await add(1, await one());
  const ok = await signal<boolean>("approve", { timeout: "7 days" });
  const either = await signal(["pay", "drop"], { timeout: "1 day" });
  same<typeof either.name, "pay" | "drop">(true);
  const amount = await signal<number>(["pay", "drop"]);
  same<typeof amount.value, number>(true);
  await sleep("30 days");
  const [value, error] = await caught(1, 2);
  if (error === undefined) value.toFixed();
  // @ts-expect-error: not a duration
  await sleep("soon");
  query("sum", (factor: number) => sum * factor);
  update("rename", (name: string) => name, { validate: (name) => void name.length });
  // @ts-expect-error: the validator gets what the handler gets
  update("rename", (name: string) => name, { validate: (name: number) => void name });
  const text = await run("inline", async () => "x");
  same<typeof text, string>(true);
  const graph = await run(fib.step(10));
  same<typeof graph, number>(true);
  const lengths = await map(["a"], (each) => later(each), { concurrency: 2 });
  same<typeof lengths, number[]>(true);
  const ref = await put({ big: true });
  same<typeof ref, Ref<{ big: boolean }>>(true);
  const back = await get(ref);
  same<typeof back, { big: boolean }>(true);
  return { sum, ok, id: o.id };
});

interface Receipt {
  sum: number;
  ok: boolean;
  id: string;
}
same<ReturnType<typeof order>, Promise<Receipt>>(true);

workflow("parent", async () => {
  const receipt = await order({ id: "1" });
  same<typeof receipt, Receipt>(true);
  const started = await start(order.with({ id: "2" }), { id: "two" });
  const result = await started.result();
  same<typeof result, Receipt>(true);
  const fromGraph = await start(fib.step(3));
  same<Awaited<ReturnType<typeof fromGraph.result>>, number>(true);
  // @ts-expect-error: the argument has another type
  order.with({ id: 2 });
  // @ts-expect-error: a function isn't an invocation
  await start(order);
});

const Counter = actor(
  "Counter",
  class {
    n: number;
    constructor(n = 0) {
      this.n = n;
    }
    incr(by = 1) {
      this.n += by;
      return this.n;
    }
    value() {
      return this.n;
    }
    async slow(text: string) {
      return text;
    }
  },
  { readonly: ["value"] },
);

workflow("counting", async () => {
  const counter = Counter.getOrCreate("a", 5);
  const n = await counter.incr(5);
  same<typeof n, number>(true);
  same<ReturnType<typeof counter.slow>, Promise<string>>(true);
  same<ReturnType<typeof counter.send.incr>, Promise<void>>(true);
  // @ts-expect-error: a field isn't a method
  await counter.n();
  // @ts-expect-error: there is no such method
  await Counter.get("a").nothing();
  // @ts-expect-error: the argument has another type
  await counter.incr("5");
  // @ts-expect-error: the constructor's argument has another type
  Counter.getOrCreate("a", "5");
});

class Wrong {
  a = 1;
  b() {}
}
// @ts-expect-error: readonly names a field
actor("Wrong", Wrong, { readonly: ["a"] });

const Doubler = actor(
  "Doubler",
  class Doubler {
    val = 1;
    double(this: Self<Doubler>, changes: boolean): Graph<number> {
      const twice = add.step(this.val, this.val);
      // @ts-expect-error: the method takes a number
      this.update.step("x");
      return changes ? this.update.step(twice) : twice;
    }
    update(v: number) {
      this.val = v;
      return this.val;
    }
  },
);
const doubled = Doubler.get("a").double(true);
same<typeof doubled, Promise<number>>(true);

// ---- actors: options, upgrades, reminders, handles of oneself

class Account {
  balance = 0;
  readonly owner: string;
  note?: string;
  constructor(owner: string) {
    this.owner = owner;
  }
  static upgrade(old: { owner: string; cents: number }) {
    return { owner: old.owner, balance: old.cents / 100 };
  }
  pay(amount: number, text = ""): string {
    remind("interest", { every: "30 days" }, this.pay, 1, "interest");
    remind("interest", { cron: "0 0 1 * *", zone: "Europe/Berlin" }, this.pay, 1);
    remind<Account>("close", { at: new Date(0) }, "close");
    // @ts-expect-error: the method takes a number
    remind("interest", { after: "1 day" }, this.pay, "1");
    // @ts-expect-error: an argument is missing
    remind("interest", { after: "1 day" }, this.pay);
    // @ts-expect-error: a field isn't a method
    remind<Account>("interest", { after: "1 day" }, "balance");
    // @ts-expect-error: not a duration
    remind("close", { every: "monthly" }, this.close);
    // @ts-expect-error: neither at, after, every nor cron
    remind("close", { when: 5 }, this.close);
    const me = self<Account>();
    same<ReturnType<typeof me.show>, Promise<number>>(true);
    void me.send.close();
    // @ts-expect-error: there is no such method
    void me.send.open();
    const { actor: address, caller } = context();
    same<typeof caller, string | undefined>(true);
    same<typeof address, ActorRef | undefined>(true);
    this.balance += amount;
    return text;
  }
  close(): void {}
  show() {
    return this.balance;
  }
}
const Accounts = actor("Account", Account, {
  readonly: ["show"],
  reentrant: true,
  expiresAfter: "365 days",
  onError: "stop",
});
const account = Accounts.getOrCreate("a", "Ada");
same<ReturnType<typeof account.show>, Promise<number>>(true);
same<ReturnType<typeof account.pay>, Promise<string>>(true);
same<Parameters<typeof account.send.pay>, [amount: number, text?: string | undefined]>(true);
same<StateOf<Account>, { balance: number; readonly owner: string; note?: string }>(true);
// @ts-expect-error: the static upgrade isn't a method
void account.upgrade;
// @ts-expect-error: readonly names no method
actor("Account", Account, { readonly: ["upgrade"] });
// @ts-expect-error: not a duration
actor("Account", Account, { expiresAfter: "a year" });
// @ts-expect-error: no such policy
actor("Account", Account, { onError: "retry" });
// @ts-expect-error: no such option
actor("Account", Account, { readOnly: [] });

class Careless {
  balance = 0;
  static upgrade(old: { cents: number }) {
    return { cents: old.cents };
  }
}
// @ts-expect-error: the upgrade doesn't give the fields of the class
actor("Careless", Careless);

class Hidden {
  #codes: string[] = [];
  getState(): string[] {
    return this.#codes;
  }
  setState(codes: string[]): void {
    this.#codes = codes;
  }
  static upgrade(old: string): string[] {
    return old.split(" ");
  }
}
actor("Hidden", Hidden);
same<StateOf<Hidden>, string[]>(true);
// @ts-expect-error: hooks are no methods
void actor("Hidden", Hidden).get("a").getState;

// Rest parameters that are only read keep their types.
const sumOf = step("sumOf", (...numbers: readonly number[]) => numbers.length);
void sumOf(1, 2);
// @ts-expect-error: this is no number
void sumOf("1");
const joined = workflow("joined", (...words: readonly string[]) => words.join());
void joined.with("a", "b");
// @ts-expect-error: these are no texts
void joined.with(1, 2);
const Rest = actor(
  "Rest",
  class {
    take(...words: readonly string[]): number {
      return words.length;
    }
  },
);
void Rest.getOrCreate("r").take("a", "b");
// @ts-expect-error: these are no texts
void Rest.getOrCreate("r").take(1);
// @ts-expect-error: upgrades come lazily or by request
actor("Rest", class {}, { upgrades: "never" });
