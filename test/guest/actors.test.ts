import { beforeEach, expect, test } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import * as guest from "../../guest/index.ts";
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
