import { beforeEach, expect, test } from "vitest";
import { describe, kernel } from "../../guest/activation.ts";
import { decode, encode } from "../../guest/cbor.ts";
import * as guest from "../../guest/index.ts";
import type { Manifest } from "../../guest/protocol.ts";
import { errorOf, resultOf, runInfo, TestHost } from "./host.ts";

const double = guest.step("actors.double", (n: number) => 2 * n);

const Doubler = guest.actor(
  "Doubler",
  class Doubler {
    val = 1;
    double(this: guest.Self<Doubler>, update: boolean): guest.Graph<number> {
      const node = double.step(this.val);
      return update ? this.update.step(node) : node;
    }
    update(v: number): number {
      this.val = v;
      return this.val;
    }
  },
);

const Counter = guest.actor(
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
      this.n += 1000;
      return this.n - 1000;
    }
    late(): Promise<number> {
      return guest.signal<number>("x");
    }
    break(): void {
      this.n = -1;
      throw new RangeError("broken");
    }
    _hidden(): string {
      return "no";
    }
  },
  { readonly: ["value", "late"] },
);

class Vault {
  #secret: string;
  opened = 0;
  constructor(secret = "") {
    this.#secret = secret;
  }
  reveal(): string {
    this.opened++;
    return this.#secret;
  }
  getState(): unknown {
    return [this.#secret, this.opened];
  }
  setState(state: [string, number]): void {
    [this.#secret, this.opened] = state;
  }
}
guest.actor("Vault", Vault);

let host: TestHost;
beforeEach(() => {
  host = new TestHost();
});

test("creation runs the constructor and gives the first state", async () => {
  await host.turn("Counter", "", [5]);
  expect(host.kinds()).toBe("state reply turned");
  expect(host.last("state").value).toEqual(encode({ n: 5 }));
  expect(host.drained.state).toBe("done");
});

test("a method changes the state and replies", async () => {
  await host.turn("Counter", "incr", [2], { state: encode({ n: 5 }) });
  expect(host.last("state").value).toEqual(encode({ n: 7 }));
  expect(resultOf(host.last("reply").outcome)).toBe(7);
});

test("a method that changes nothing gives no state", async () => {
  await host.turn("Counter", "incr", [0], { state: encode({ n: 5 }) });
  expect(host.kinds()).toBe("reply turned");
});

test("a method that throws leaves no trace", async () => {
  await host.turn("Counter", "break", [], { state: encode({ n: 5 }) });
  expect(host.kinds()).toBe("reply turned");
  expect(errorOf(host.last("reply").outcome)).toMatchObject({ name: "RangeError" });
});

test("a readonly method never gives a state, whatever it does", async () => {
  await host.turn("Counter", "value", [], { state: encode({ n: 5 }), readonly: true });
  expect(host.kinds()).toBe("reply turned");
  expect(resultOf(host.last("reply").outcome)).toBe(5);
});

test("a readonly method that waits gets an error and commands nothing", async () => {
  await host.turn("Counter", "late", [], { state: encode({ n: 5 }), readonly: true });
  expect(host.kinds()).toBe("reply turned");
  expect(errorOf(host.last("reply").outcome).message).toContain("read-only");
});

test.each([
  "constructor",
  "toString",
  "hasOwnProperty",
  "__proto__",
  "_hidden",
  "n",
  "nothing",
  "__defineGetter__",
])("%s is not a method", async (method) => {
  await host.turn("Counter", method, [], { state: encode({ n: 5 }) });
  expect(errorOf(host.last("reply").outcome).code).toBe("method-not-found");
});

test("an unknown type has its own code", async () => {
  await host.turn("Nobody", "incr", []);
  expect(errorOf(host.last("reply").outcome).code).toBe("actor-type-not-found");
});

test("a method may return a graph of steps and of the actor's own methods", async () => {
  let state: Uint8Array | undefined;
  const call = async (update: boolean): Promise<unknown> => {
    host = new TestHost();
    await host.turn("Doubler", "double", [update], state === undefined ? {} : { state });
    state = host.all("state").at(-1)?.value ?? state;
    return resultOf(host.last("reply").outcome);
  };
  await host.turn("Doubler", "", []);
  state = host.last("state").value;
  expect(await call(false)).toBe(2);
  expect(await call(false)).toBe(2);
  expect(await call(true)).toBe(2);
  expect(await call(true)).toBe(4);
  expect(decode(state)).toEqual({ val: 4 });
});

test("private fields survive through getState and setState", async () => {
  await host.turn("Vault", "", ["sesame"]);
  const { value } = host.last("state");
  expect(decode(value)).toEqual(["sesame", 0]);
  host = new TestHost();
  await host.turn("Vault", "reveal", [], { state: value });
  expect(resultOf(host.last("reply").outcome)).toBe("sesame");
  expect(decode(host.last("state").value)).toEqual(["sesame", 1]);
});

test("an actor's state can't be poisoned by its keys", async () => {
  const state = encode(JSON.parse('{"n":1,"__proto__":{"incr":1}}'));
  await host.turn("Counter", "incr", [1], { state });
  expect(resultOf(host.last("reply").outcome)).toBe(2);
  expect(decode(host.last("state").value)).toEqual(JSON.parse('{"n":2,"__proto__":{"incr":1}}'));
});

test("a call from a run is a command, with creation if asked for", async () => {
  guest.workflow("actors.caller", async () => {
    await Counter.get("a").send.incr(1);
    return Counter.getOrCreate("b", 10).incr(5);
  });
  await host.start("actors.caller");
  expect(host.last("call")).toEqual({
    kind: "call",
    id: 1,
    actor: { type: "Counter", key: "a" },
    method: "incr",
    args: encode([1]),
    oneWay: true,
  });
  await host.ok(1);
  expect(host.last("call")).toEqual({
    kind: "call",
    id: 2,
    actor: { type: "Counter", key: "b" },
    method: "incr",
    args: encode([5]),
    create: encode([10]),
  });
  await host.ok(2, 15);
  expect(host.output()).toBe(15);
});

test("outside of a run a handle's methods point to the client", async () => {
  await expect(Doubler.get("a").double(true)).rejects.toThrow("use the client");
});

test.each<[string, () => unknown, string]>([
  [
    "one hook alone",
    () =>
      guest.actor(
        "x.1",
        class {
          getState() {}
        },
      ),
    "both or neither",
  ],
  [
    "an unknown readonly name",
    () =>
      guest.actor(
        "x.2",
        class {
          a() {}
        },
        { readonly: ["b" as "a"] },
      ),
    'readonly names "b"',
  ],
  [
    "a method called send",
    () =>
      guest.actor(
        "x.3",
        class {
          send() {}
        },
      ),
    'can\'t be called "send"',
  ],
  ["an empty key", () => Counter.get(""), "key of 1 to 512"],
  ["no class", () => guest.actor("x.4", 5 as never), "needs a function"],
])("%s is refused with a clear error", (_, define, message) => {
  expect(define).toThrow(message);
});

test("an input that can't be read ends a readonly turn with an answer", async () => {
  await host.deliver(
    {
      kind: "turn",
      run: runInfo(""),
      actor: { type: "Counter", key: "k" },
      method: "late",
      args: encode([]),
      state: encode({ n: 1 }),
      id: "call_1",
      readonly: true,
    },
    { kind: "nonsense" } as never,
  );
  expect(host.kinds()).toBe("reply turned");
  expect(errorOf(host.last("reply").outcome).class).toBe("host");
});

test("a turn may wait, and its state is saved at the end", async () => {
  guest.actor(
    "Waiter",
    class {
      seen: number[] = [];
      async take(): Promise<number> {
        const value = await guest.signal<number>("x");
        this.seen.push(value);
        return value;
      }
    },
  );
  await host.turn("Waiter", "take", [], { state: encode({ seen: [] }) });
  expect(host.drained.state).toBe("waiting");
  await host.ok(host.last("wait").id, 3);
  expect(host.last("state").value).toEqual(encode({ seen: [3] }));
  expect(host.kinds()).toBe("wait state reply turned");
});

// ---- what the host is told of an actor

test("options become fields of the definition, and defaults don't", () => {
  class Plain {}
  class Full {
    ready = true;
    static upgrade(): { ready: boolean } {
      return { ready: true };
    }
  }
  guest.actor("told.plain", Plain, { reentrant: false, onError: "continue" });
  guest.actor("told.full", Full, { reentrant: true, expiresAfter: "30 days", onError: "stop" });
  const { definitions } = decode(describe()) as Manifest;
  const told = (name: string): unknown => definitions.find((each) => each.name === name);
  expect(told("told.plain")).toEqual({ kind: "actor", name: "told.plain", methods: [] });
  expect(told("told.full")).toEqual({
    kind: "actor",
    name: "told.full",
    methods: [],
    upgrades: true,
    reentrant: true,
    expiresAfterMs: 2_592_000_000,
    stopsOnError: true,
  });
});

test.each<[string, object, string]>([
  ["an unknown option", { readOnly: [] }, "no option readOnly"],
  ["reentrant that isn't a boolean", { reentrant: 1 }, "true or false"],
  ["a short expiry", { expiresAfter: "10 ms" }, "at least 1000 ms"],
  ["an expiry that isn't a duration", { expiresAfter: "soon" }, "not a duration"],
  ["another onError", { onError: "retry" }, '"continue" or "stop"'],
])("%s is refused with a clear error", (_, options, message) => {
  expect(() => guest.actor("x.5", class {}, options)).toThrow(message);
});

test("an upgrade that isn't a function is refused", () => {
  class Wrong {
    static upgrade = 5;
    n = 1;
  }
  expect(() => guest.actor("x.6", Wrong as never)).toThrow("static upgrade must be a function");
});

// ---- upgrades

const calm = guest.step("actors.calm", () => 1);

class Profile {
  name: string;
  points: number;
  constructor(name: string) {
    this.name = name;
    this.points = 0;
  }
  rename(name: string): void {
    this.name = name;
  }
  static upgrade(old: { name?: string; score: number; how?: string }): {
    name: string;
    points: number;
  } {
    if (old.how === "throw") throw new RangeError("no way from there");
    if (old.how === "remind") guest.remind("x", { after: 1 }, Profile.prototype.rename, "y");
    if (old.how === "wait") return Promise.resolve() as never;
    if (old.how === "text") return "points" as never;
    return { name: old.name ?? "nobody", points: Profile.#rounded(old.score) };
  }
  static #rounded(score: number): number {
    return Math.round(score);
  }
}
guest.actor("Profile", Profile);

test("an upgrade makes new state of the old one", async () => {
  await host.turn("Profile", "", [], { state: encode({ name: "Ada", score: 2.4 }) });
  expect(host.kinds()).toBe("state reply turned");
  expect(decode(host.last("state").value)).toEqual({ name: "Ada", points: 2 });
  expect(resultOf(host.last("reply").outcome)).toBeUndefined();
  expect(host.drained.state).toBe("done");
});

test.each<[string, string]>([
  ["throw", "no way from there"],
  ["remind", "not allowed in a read-only method or a query, nor in an upgrade"],
  ["wait", "Profile.upgrade must answer at once"],
  ["text", "must give an object"],
])("an upgrade that fails leaves the state alone (%s)", async (how, message) => {
  await host.turn("Profile", "", [], { state: encode({ score: 1, how }) });
  expect(host.kinds()).toBe("reply turned");
  expect(errorOf(host.last("reply").outcome).message).toContain(message);
});

test("an upgrade of a class with hooks gives what setState takes, and is tried out", async () => {
  class Safe {
    #codes: string[] = [];
    codes(): string[] {
      return this.#codes;
    }
    getState(): string[] {
      return this.#codes;
    }
    setState(state: string[]): void {
      if (state.length > 2) throw new RangeError("too many codes");
      this.#codes = state;
    }
    static upgrade(old: string): string[] {
      return old.split(" ");
    }
  }
  guest.actor("Safe", Safe);
  await host.turn("Safe", "", [], { state: encode("a b") });
  expect(decode(host.last("state").value)).toEqual(["a", "b"]);
  host = new TestHost();
  await host.turn("Safe", "", [], { state: encode("a b c") });
  expect(host.kinds()).toBe("reply turned");
  expect(errorOf(host.last("reply").outcome).message).toBe("too many codes");
});

test("without an upgrade the state stays as it is", async () => {
  await host.turn("Counter", "", [], { state: encode({ n: 5 }) });
  expect(host.kinds()).toBe("reply turned");
  expect(host.last("reply").outcome.kind).toBe("ok");
});

// ---- messages and reminders are part of the turn

const ship = guest.workflow("actors.ship", () => 1);

class Outgoing {
  sent = 0;
  /** Everything that can leave without an answer, in this order. */
  all(how = "fine"): number {
    this.sent++;
    void Counter.get("a").send.incr(1);
    void guest.start(ship.with(), { id: "ship_1" });
    void guest.handle("run_2").signal("go", 5);
    void guest.cancelRun("run_3", "late");
    guest.remind("again", { after: "1 h" }, this.all, "fine");
    guest.forgetReminder("old");
    guest.publish("sent", this.sent);
    if (how === "throw") throw new RangeError("after all");
    return this.sent;
  }
  async awaiting(): Promise<boolean> {
    void Counter.get("a").send.incr(1);
    const { created } = await guest.start(ship.with(), { id: "ship_2" });
    await guest.sleep("1 s");
    if (!created) throw new RangeError("it was there");
    return created;
  }
  async both(): Promise<void> {
    await Promise.all([Counter.get("a").send.incr(1), Counter.get("b").send.incr(2)]);
  }
  returned(): Promise<void> {
    return Counter.get("a").send.incr(1);
  }
  async progress(): Promise<void> {
    guest.publish("progress", 0.5);
    void Counter.get("a").send.incr(1);
    await guest.sleep("1 s");
  }
  mutating(): number {
    const list = [1];
    void Counter.get("a").send.incr(list as never);
    list.push(2);
    return 1;
  }
  unencodable(): void {
    void Counter.get("a").send.incr((() => 1) as never);
  }
  note(value: number): number {
    void Counter.get("a").send.incr(value);
    this.sent = value;
    return value;
  }
  viaNodes(this: guest.Self<Outgoing>): guest.Graph<number> {
    return failing.step(this.note.step(7));
  }
  reads(): number {
    return this.sent;
  }
}
const failing = guest.step("actors.failing", (_: number): number => {
  throw new guest.NonRetryableError("no");
});
guest.actor("Outgoing", Outgoing, { readonly: ["reads"] });
const fresh = encode({ sent: 0 });

test("what a turn sends without awaiting it leaves with the state, in order", async () => {
  await host.turn("Outgoing", "all", [], { state: fresh });
  expect(host.kinds()).toBe(
    "state call start signal cancelRun remind forgetReminder publish reply turned",
  );
  const ids = [host.last("call"), host.last("start"), host.last("signal"), host.last("cancelRun")];
  expect(ids.map(({ id }) => id)).toEqual([1, 2, 3, 4]);
  expect(host.last("remind")).toEqual({
    kind: "remind",
    name: "again",
    method: "all",
    args: encode(["fine"]),
    atMs: 1000 + 3_600_000,
  });
  expect(host.last("forgetReminder")).toEqual({ kind: "forgetReminder", name: "old" });
  expect(host.drained.state).toBe("done");
});

test("a turn that throws sends nothing and sets no reminder", async () => {
  await host.turn("Outgoing", "all", ["throw"], { state: fresh });
  expect(host.kinds()).toBe("reply turned");
});

test("a constructor's messages leave with the first state", async () => {
  guest.actor(
    "Born",
    class Born {
      constructor(how = "") {
        guest.remind<Born>("cry", { every: "1 s" }, "cry");
        if (how === "throw") throw new RangeError("not born");
      }
      cry(): void {}
    },
  );
  await host.turn("Born", "", []);
  expect(host.kinds()).toBe("state remind reply turned");
  host = new TestHost();
  await host.turn("Born", "", ["throw"]);
  expect(host.kinds()).toBe("reply turned");
});

test("what is awaited leaves at once, and the rest when the method ends", async () => {
  await host.turn("Outgoing", "awaiting", [], { state: fresh });
  expect(host.kinds()).toBe("start");
  expect(host.drained.waitingFor).toBe(
    "the start of actors.ship (held until the method ends: 1 messages)",
  );
  await host.ok(host.last("start").id, { runId: "ship_2", created: true });
  expect(host.kinds()).toBe("start timer");
  await host.ok(host.last("timer").id);
  expect(host.kinds()).toBe("start timer call reply turned");
  expect(resultOf(host.last("reply").outcome)).toBe(true);
});

test("a turn that throws after a wait still sends nothing of what nobody awaited", async () => {
  await host.turn("Outgoing", "awaiting", [], { state: fresh });
  await host.ok(host.last("start").id, { runId: "ship_2", created: false });
  await host.ok(host.last("timer").id);
  expect(host.kinds()).toBe("start timer reply turned");
  expect(errorOf(host.last("reply").outcome).message).toBe("it was there");
});

test.each(["both", "returned"])("messages in promises count as awaited (%s)", async (method) => {
  await host.turn("Outgoing", method, [], { state: fresh });
  expect(host.drained.state).toBe("waiting");
  for (const { id } of host.all("call")) await host.ok(id);
  expect(host.drained.state).toBe("done");
  expect(host.last("reply").outcome.kind).toBe("ok");
});

test("an awaited message that is refused rejects where it is awaited", async () => {
  await host.turn("Outgoing", "returned", [], { state: fresh });
  await host.fail(host.last("call").id, { name: "Error", message: "no such actor" });
  expect(errorOf(host.last("reply").outcome).message).toBe("no such actor");
});

test("what a method publishes before a wait is out before its end", async () => {
  await host.turn("Outgoing", "progress", [], { state: fresh });
  expect(host.kinds()).toBe("timer publish");
});

test("a message's arguments are those of the moment when it was made", async () => {
  await host.turn("Outgoing", "mutating", [], { state: fresh });
  expect(host.last("call").args).toEqual(encode([[1]]));
});

test("a message that can't be encoded fails the turn that made it", async () => {
  await host.turn("Outgoing", "unencodable", [], { state: fresh });
  expect(host.kinds()).toBe("reply turned");
  expect(errorOf(host.last("reply").outcome).name).toBe("SerialisationError");
});

test("messages of an own-method node leave with the state that the node leaves", async () => {
  await host.turn("Outgoing", "viaNodes", [], { state: fresh });
  await host.settle();
  expect(host.kinds()).toBe("state call reply turned");
  expect(decode(host.last("state").value)).toEqual({ sent: 7 });
  expect(errorOf(host.last("reply").outcome).message).toBe("no");
});

// ---- reminders

type When = guest.ReminderTime;

class Sleeper {
  set(when: When, method = "wake"): void {
    guest.remind("r", when, method as never);
  }
  wake(): void {}
  look(): void {}
  foreign(): void {
    guest.remind("r", { after: 1 }, Outgoing.prototype.note, 1);
  }
}
guest.actor("Sleeper", Sleeper, { readonly: ["look"] });
const asleep = encode({});

test.each<[When, object]>([
  [{ at: 5000 }, { atMs: 5000 }],
  [{ at: new Date(10) }, { atMs: 10 }],
  [{ after: "2 s" }, { atMs: 3000 }],
  [{ every: "1 s" }, { atMs: 2000, everyMs: 1000 }],
  [{ cron: "0 0 1 1 *" }, { cron: "0 0 1 1 *" }],
  [
    { cron: "*/5 8-18 * * MON-FRI", zone: "America/Argentina/Buenos_Aires" },
    { cron: "*/5 8-18 * * MON-FRI", zone: "America/Argentina/Buenos_Aires" },
  ],
])("a reminder %j is a command", async (when, times) => {
  await host.turn("Sleeper", "set", [when], { state: asleep });
  expect(host.kinds()).toBe("remind reply turned");
  const { kind, name, method, args, ...rest } = host.last("remind");
  expect([kind, name, method, decode(args)]).toEqual(["remind", "r", "wake", []]);
  expect(rest).toEqual(times);
});

test.each<[unknown, string]>([
  [{ every: 999 }, "at least 1000 ms"],
  [{ every: "soon" }, "not a duration"],
  [{ at: Number.NaN }, "valid date"],
  [{ at: 1, after: 1 }, "one of at, after, every and cron"],
  [{}, "one of at, after, every and cron"],
  [null, "one of at, after, every and cron"],
  [{ when: 1 }, "no when"],
  [{ cron: "* * * *" }, "five fields"],
  [{ cron: 5 }, "five fields"],
  [{ cron: "* * * * ;" }, "five fields"],
  [{ cron: "* * * * *", zone: "not a zone" }, "Europe/Berlin"],
])("a reminder %j is refused with a clear error", async (when, message) => {
  await host.turn("Sleeper", "set", [when], { state: asleep });
  expect(host.kinds()).toBe("reply turned");
  expect(errorOf(host.last("reply").outcome).message).toContain(message);
});

test.each([
  ["set", [{ after: 1 }, "look"], "Sleeper.look is read-only"],
  ["set", [{ after: 1 }, "nothing"], "method of Sleeper, which nothing is not"],
  ["foreign", [], "method of Sleeper, which note is not"],
])("a reminder of something else than an own mutating method is refused (%s)", async (...given) => {
  const [method, args, message] = given;
  await host.turn("Sleeper", method, args, { state: asleep });
  expect(errorOf(host.last("reply").outcome).message).toContain(message);
});

test("reminders are for actors only", async () => {
  guest.workflow("actors.reminding", () => guest.forgetReminder("x"));
  await host.start("actors.reminding");
  expect(host.error().message).toContain("only in an actor's method");
  expect(() => guest.self()).toThrow("only in a run");
});

// ---- re-entrant calls

class Talker {
  log: string[] = [];
  async ask(): Promise<string> {
    this.log.push("ask");
    const answer = await Counter.get("other").incr(1);
    this.log.push(`answer ${answer}`);
    if (answer === 13) throw new RangeError("unlucky");
    return "asked";
  }
  note(text: string): string {
    this.log.push(text);
    void Counter.get("a").send.incr(1);
    if (text === "throw") throw new RangeError("within");
    return `${text} for ${guest.context().caller}`;
  }
  async slow(): Promise<string> {
    await guest.sleep("1 s");
    this.log.push("slow");
    return "slow";
  }
}
guest.actor("Talker", Talker, { reentrant: true });
const silent = encode({ log: [] });
const replies = (): unknown[] =>
  host
    .all("reply")
    .map(({ id, outcome }) => [id, outcome.kind === "ok" ? decode(outcome.value) : outcome.error]);

test("a call within a turn runs at once on the same object, and the turn goes on", async () => {
  await host.turn("Talker", "ask", [], { state: silent, id: "outer" });
  const call = host.last("call");
  await host.turn("Talker", "note", ["hi"], { id: "inner", caller: "Counter/other" });
  expect(host.kinds()).toBe("call state call reply");
  expect(decode(host.last("state").value)).toEqual({ log: ["ask", "hi"] });
  expect(replies()).toEqual([["inner", "hi for Counter/other"]]);
  expect(host.drained.state).toBe("waiting");
  await host.ok(call.id, 1);
  expect(host.kinds()).toBe("call state call reply state reply turned");
  expect(decode(host.last("state").value)).toEqual({ log: ["ask", "hi", "answer 1"] });
  expect(replies().at(-1)).toEqual(["outer", "asked"]);
});

test("a call within a turn that throws saves and sends nothing, and the turn goes on", async () => {
  await host.turn("Talker", "ask", [], { state: silent, id: "outer" });
  const call = host.last("call");
  await host.turn("Talker", "note", ["throw"], { id: "inner" });
  expect(host.kinds()).toBe("call reply");
  expect(replies()).toMatchObject([["inner", { message: "within" }]]);
  await host.ok(call.id, 1);
  expect(host.kinds()).toBe("call reply state reply turned");
});

test("a call of an unknown method within a turn fails alone", async () => {
  await host.turn("Talker", "ask", [], { state: silent });
  await host.turn("Talker", "nothing", [], { id: "inner" });
  expect(replies()).toMatchObject([["inner", { code: "method-not-found" }]]);
  expect(host.drained.state).toBe("waiting");
});

test("a turn is over when the calls within it are", async () => {
  await host.turn("Talker", "ask", [], { state: silent, id: "outer" });
  const call = host.last("call");
  await host.turn("Talker", "slow", [], { id: "inner" });
  await host.ok(call.id, 1);
  expect(host.kinds()).toBe("call timer state reply");
  expect(host.drained.state).toBe("waiting");
  await host.ok(host.last("timer").id);
  expect(host.kinds()).toBe("call timer state reply state reply turned");
  expect(replies()).toEqual([
    ["outer", "asked"],
    ["inner", "slow"],
  ]);
});

test("a turn waits for all calls within it, not only for the first", async () => {
  await host.turn("Talker", "ask", [], { state: silent, id: "outer" });
  const call = host.last("call");
  await host.turn("Talker", "slow", [], { id: "first" });
  await host.turn("Talker", "slow", [], { id: "second" });
  await host.ok(call.id, 1);
  const [first, second] = host.all("timer");
  await host.ok(first?.id ?? 0);
  expect(host.drained.state).toBe("waiting");
  await host.ok(second?.id ?? 0);
  expect(host.drained.state).toBe("done");
  expect(replies().map((each) => (each as unknown[])[0])).toEqual(["outer", "first", "second"]);
});

test("a turn that fails takes the calls with it that go on within it", async () => {
  await host.turn("Talker", "ask", [], { state: silent, id: "outer" });
  const call = host.last("call");
  await host.turn("Talker", "slow", [], { id: "inner" });
  await host.ok(call.id, 13);
  expect(host.kinds()).toBe("call timer reply reply turned");
  expect(replies()).toMatchObject([
    ["outer", { message: "unlucky" }],
    ["inner", { code: "run-closed" }],
  ]);
});

// ---- who and where

test("a method knows its actor, its caller and the ids of its run", async () => {
  guest.actor(
    "Curious",
    class Curious {
      who(): unknown {
        const { actor, caller, run, step } = guest.context();
        const own = guest.self<Curious>();
        return { actor, caller, runId: run.runId, rootId: run.rootId, step, own: own.ref };
      }
      tell(): void {
        void guest.self<Curious>().send.who();
      }
    },
  );
  await host.turn("Curious", "who", [], { state: encode({}), caller: "run_9" });
  expect(resultOf(host.last("reply").outcome)).toEqual({
    actor: { type: "Curious", key: "k" },
    caller: "run_9",
    runId: "run_1",
    rootId: undefined,
    step: undefined,
    own: { type: "Curious", key: "k" },
  });
  host = new TestHost();
  await host.turn("Curious", "tell", [], { state: encode({}) });
  expect(host.last("call")).toMatchObject({
    actor: { type: "Curious", key: "k" },
    method: "who",
    oneWay: true,
  });
});

test("a workflow has no actor and no caller", async () => {
  guest.workflow("actors.context", () => {
    const { actor, caller } = guest.context();
    return [actor, caller];
  });
  await host.start("actors.context");
  expect(host.output()).toEqual([undefined, undefined]);
});

// ---- what methods may wait for

const fetchDirectly = (): Promise<Uint8Array> =>
  kernel.command((id) => ({
    kind: "fetch",
    id,
    request: { method: "GET", url: "https://example.com/", headers: [] },
  }));

const effects: Record<string, () => unknown> = {
  signal: () => guest.signal("x"),
  sleep: () => guest.sleep("1 s"),
  fetch: fetchDirectly,
  call: () => Counter.get("a").incr(1),
  child: () => ship(),
  step: () => calm(),
  graph: () => guest.run(calm.step()),
  put: () => guest.put(1),
  start: () => guest.start(ship.with()),
  send: () => Counter.get("a").send.incr(1),
  tell: () => guest.handle("run_1").signal("x"),
  cancelRun: () => guest.cancelRun("run_1"),
  publish: () => guest.publish("x", 1),
  remind: () => guest.remind("x", { after: 1 }, Effects.prototype.change, "sleep"),
  forgetReminder: () => guest.forgetReminder("x"),
};

class Effects {
  log: unknown[] = [];
  async change(effect: string): Promise<void> {
    this.log.push("before");
    this.log.push(await effects[effect]?.());
  }
  async read(effect: string): Promise<void> {
    await effects[effect]?.();
  }
  readSilently(effect: string): void {
    void effects[effect]?.();
  }
  readGraph(): guest.Graph<number> {
    return calm.step();
  }
}
guest.actor("Effects", Effects, { readonly: ["read", "readSilently", "readGraph"] });

type Asking = "wait" | "timer" | "call" | "put" | "signal" | "cancelRun";

test.each<[string, Asking, unknown, unknown]>([
  ["signal", "wait", 5, 5],
  ["sleep", "timer", undefined, undefined],
  ["call", "call", 7, 7],
  ["put", "put", { hash: "ab", size: 1 }, expect.objectContaining({ hash: "ab" })],
  ["send", "call", undefined, undefined],
  ["tell", "signal", undefined, undefined],
  ["cancelRun", "cancelRun", undefined, undefined],
])("an async method may await %s, and goes on with the object", async (...given) => {
  const [effect, kind, answer, value] = given;
  await host.turn("Effects", "change", [effect], { state: encode({ log: [] }) });
  expect([host.kinds(), host.drained.state]).toEqual([kind, "waiting"]);
  await host.ok(host.last(kind).id, answer);
  expect(host.kinds()).toBe(`${kind} state reply turned`);
  expect(decode(host.last("state").value)).toEqual({ log: ["before", value] });
});

test("an async method may await a child workflow", async () => {
  await host.turn("Effects", "change", ["child"], { state: encode({ log: [] }) });
  await host.ok(host.last("start").id, { runId: "c", created: true });
  await host.ok(host.last("outcome").id, 3);
  expect(decode(host.last("state").value)).toEqual({ log: ["before", 3] });
});

test("an async method may await a step that fetches", async () => {
  const page = guest.step("actors.page", async () => (await fetchDirectly()).length);
  guest.actor(
    "Fetcher",
    class {
      bytes = 0;
      async load(): Promise<number> {
        this.bytes = await page();
        return this.bytes;
      }
    },
  );
  await host.turn("Fetcher", "load", [], { state: encode({ bytes: 0 }) });
  await host.ok(host.last("fetch").id, "abc");
  expect(host.kinds()).toBe("fetch state reply turned");
  expect(host.events()).toEqual(["actors.page:started", "actors.page:succeeded"]);
  expect(decode(host.last("state").value)).toEqual({ bytes: 4 });
});

test.each(Object.keys(effects))("a readonly method can't use %s", async (effect) => {
  await host.turn("Effects", "read", [effect], { state: encode({ log: [] }), readonly: true });
  expect(host.kinds()).toBe("reply turned");
  const { message, code } = errorOf(host.last("reply").outcome);
  expect(message).toContain("not allowed in a read-only method");
  expect(code).toBe("invalid-request");
});

test.each(Object.keys(effects))("a readonly method that hides %s sends nothing", async (effect) => {
  const readonly = { state: encode({ log: [] }), readonly: true };
  const ignored = (): void => {};
  process.on("unhandledRejection", ignored);
  await host.turn("Effects", "readSilently", [effect], readonly);
  process.off("unhandledRejection", ignored);
  expect(host.kinds()).toBe("reply turned");
});

test("a readonly method can't return a graph", async () => {
  await host.turn("Effects", "readGraph", [], { state: encode({ log: [] }), readonly: true });
  expect(host.kinds()).toBe("reply turned");
  expect(errorOf(host.last("reply").outcome).message).toContain("a graph is not allowed");
});

test.each<[string, () => unknown]>([
  ["continueAsNew", () => guest.continueAsNew()],
  ["setTags", () => guest.setTags({ a: "1" })],
  ["query", () => guest.query("q", () => 1)],
  ["update", () => guest.update("u", () => 1)],
])("%s is for workflows, and says so in a method", async (what, use) => {
  effects.workflowOnly = use;
  await host.turn("Effects", "change", ["workflowOnly"], { state: encode({ log: [] }) });
  expect(errorOf(host.last("reply").outcome).message).toBe(
    `${what} is for workflows: an actor's method can't use it`,
  );
});
