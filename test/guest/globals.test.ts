/** The guest's globals: against Node's own where there is one, and installed in a bare realm. */
import { createContext, runInContext } from "node:vm";
import { build } from "esbuild";
import { describe, expect, test } from "vitest";
import { structuredClone as cloneOf } from "../../guest/globals/clone.ts";
import { consoleObject, format, inspect } from "../../guest/globals/console.ts";
import {
  AbortController,
  AbortSignal,
  Event,
  EventTarget,
  signalTimeout,
} from "../../guest/globals/events.ts";
import { fetchFunction, Headers, Request, Response } from "../../guest/globals/fetch.ts";
import { TextDecoder, TextEncoder } from "../../guest/globals/text.ts";
import { cryptoObject, timerFunctions } from "../../guest/globals/time.ts";
import { URL, URLSearchParams } from "../../guest/globals/url.ts";
import type { Kernel, LogLevel } from "../../guest/kernel.ts";
import type { Command, Encoded } from "../../guest/protocol.ts";

/** A kernel whose commands the test answers by hand; `encode` keeps values as they are. */
class FakeKernel implements Kernel {
  time = 1_000;
  readonly commands: Command[] = [];
  readonly dropped: number[] = [];
  readonly logs: { level: LogLevel; message: string }[] = [];
  readonly #pending = new Map<number, PromiseWithResolvers<Encoded>>();
  #lastId = 0;

  nowMs = (): number => this.time;
  random = (): number => 0.25;
  randomBytes = (count: number): Uint8Array => Uint8Array.from({ length: count }, (_, i) => i);
  encode = (value: unknown): Encoded => value as Encoded;
  decode = (bytes: Encoded): unknown => bytes;
  emit = (command: Command): void => void this.commands.push(command);
  drop = (id: number): void => void this.dropped.push(id);
  log = (level: LogLevel, message: string): void => void this.logs.push({ level, message });

  command(build: (id: number) => Command): Promise<Encoded> & { readonly id: number } {
    this.#lastId += 1;
    const id = this.#lastId;
    this.commands.push(build(id));
    const pending = Promise.withResolvers<Encoded>();
    pending.promise.catch(() => {});
    this.#pending.set(id, pending);
    return Object.assign(pending.promise, { id });
  }

  async resolve(id: number, value: unknown = undefined): Promise<void> {
    this.#pending.get(id)?.resolve(value as Encoded);
    await turns();
  }

  async reject(id: number, error: Error): Promise<void> {
    this.#pending.get(id)?.reject(error);
    await turns();
  }
}

/** Lets the promise jobs that are queued, and those they queue, run. */
async function turns(): Promise<void> {
  for (let index = 0; index < 20; index += 1) await Promise.resolve();
}

function answer(text: string, options: { status?: number; url?: string } = {}): unknown {
  return {
    status: options.status ?? 200,
    statusText: "",
    url: options.url ?? "https://example.com/",
    headers: [["Content-Type", "text/plain"]],
    body: new globalThis.TextEncoder().encode(text),
  };
}

describe("URL", () => {
  const inputs: readonly (readonly [string, string?])[] = [
    ["https://user:pa%20ss@EXAMPLE.com:443/a/./b/../c?x=1#f"],
    ["http://example.com:8080"],
    ["../d?q", "https://example.com/a/b/c?x#y"],
    ["//other.example/p", "https://example.com/a"],
    ["?only=query", "https://example.com/a/b"],
    ["#only", "https://example.com/a/b?c"],
    ["\\\\host\\path", "https://example.com"],
    ["http://192.168.0.1.:80/"],
    ["http://0x7f.1/"],
    ["http://4294967295"],
    ["http://4294967296"],
    ["http://256.1.1.1"],
    ["http://[::1]:3000/x"],
    ["http://[2001:db8:0:0:1:0:0:1]/"],
    ["http://[::ffff:1.2.3.4]/"],
    ["http://[::1"],
    ["http://a b/"],
    ["http://exa%6dple.com/%zz%41"],
    ["http://exam<ple.com"],
    ["file:///C|/dir/../x"],
    ["file://host/share"],
    ["mailto:a@b.c"],
    ["data:text/plain,hello world"],
    ["  https://example.com/\ttab\n  "],
    ["https://example.com/ü?ü=é b'\"#ü "],
    ["https://bücher.example/straße"],
    ["https://xn--bcher-kva.example/"],
    ["https://ｅｘａｍｐｌｅ.com"],
    ["https://example.com:99999/"],
    ["https://example.com:/"],
    ["https:example.com"],
    ["https:///example.com//x"],
    ["nothing"],
    [""],
    ["ws://h:80/"],
    ["custom://h:80/a/../b"],
    ["https://example.com/%2e%2e/a"],
  ];

  test.each(inputs)("parses %j against %j as Node does", (input = "", base) => {
    const parts = (kind: typeof URL | typeof globalThis.URL): unknown => {
      try {
        const url = new kind(input, base);
        const { href, origin, protocol, username, password, host, pathname, search, hash } = url;
        return { href, origin, protocol, username, password, host, pathname, search, hash };
      } catch (error) {
        return (error as Error).name;
      }
    };
    expect(parts(URL)).toEqual(parts(globalThis.URL));
  });

  test("setters and searchParams change the URL together", () => {
    const url = new URL("https://example.com/a?x=1");
    url.searchParams.append("y", "ä b&");
    url.port = "444";
    url.hash = "h";
    expect(url.href).toBe("https://example.com:444/a?x=1&y=%C3%A4+b%26#h");
    url.search = "?z=2";
    expect([...url.searchParams]).toEqual([["z", "2"]]);
    expect(URL.canParse("::")).toBe(false);
  });

  test("search parameters are read and written as forms are", () => {
    const params = new URLSearchParams("a=1&b=%zz+c&a=2&&=x");
    expect(params.getAll("a")).toEqual(["1", "2"]);
    params.sort();
    expect(String(params)).toBe(String(new globalThis.URLSearchParams("=x&a=1&a=2&b=%zz+c")));
  });
});

describe("text", () => {
  const texts = ["", "plain", "é€😀", "\ud800x", "x\udc00", "a".repeat(10_000), "\ufeffmark"];

  test.each(texts.map((text) => [text]))("encodes and decodes %j as Node does", (text) => {
    const bytes = new TextEncoder().encode(text);
    expect([...bytes]).toEqual([...new globalThis.TextEncoder().encode(text)]);
    expect(new TextDecoder().decode(bytes)).toBe(new globalThis.TextDecoder().decode(bytes));
    const options = { ignoreBOM: true };
    const expected = new globalThis.TextDecoder("utf-8", options).decode(bytes);
    expect(new TextDecoder("utf8", options).decode(bytes)).toBe(expected);
  });

  test("ill-formed bytes become the same replacements as in Node, or fail when fatal", () => {
    let state = 1;
    const next = (): number => {
      state = (state * 48_271) % 2_147_483_647;
      return state;
    };
    const leads = [0xc0, 0xc2, 0xe0, 0xe2, 0xed, 0xf0, 0xf1, 0xf4, 0xf5, 0x80, 0x9f, 0xa0, 0x41];
    for (let round = 0; round < 3_000; round += 1) {
      const bytes = Uint8Array.from({ length: 6 }, () => leads[next() % leads.length] ?? 0);
      const expected = new globalThis.TextDecoder().decode(bytes);
      expect(new TextDecoder().decode(bytes)).toBe(expected);
      const fatal = (): string => new TextDecoder("utf-8", { fatal: true }).decode(bytes);
      if (expected.includes("\ufffd")) expect(fatal).toThrow(TypeError);
      else expect(fatal()).toBe(expected);
    }
  });

  test("encodeInto stops before a character that doesn't fit", () => {
    const target = new Uint8Array(4);
    expect(new TextEncoder().encodeInto("a€€", target)).toEqual({ read: 2, written: 4 });
  });

  test("other encodings and streaming are refused", () => {
    expect(() => new TextDecoder("latin1")).toThrow(/knows only utf-8/);
    expect(() => new TextDecoder().decode(new Uint8Array(1), { stream: true })).toThrow(/stream/);
  });
});

describe("events", () => {
  test("listeners run in order, once where asked, and not after removal", () => {
    const seen: string[] = [];
    const target = new EventTarget();
    const removed = (): void => void seen.push("removed");
    target.addEventListener("x", () => seen.push("first"), { once: true });
    target.addEventListener("x", removed);
    target.addEventListener("x", { handleEvent: (event) => seen.push(event.type) });
    target.removeEventListener("x", removed);
    target.dispatchEvent(new Event("x"));
    target.dispatchEvent(new Event("x"));
    expect(seen).toEqual(["first", "x", "x"]);
  });

  test("abort carries its reason to listeners and to signals made by any", () => {
    const controller = new AbortController();
    const combined = AbortSignal.any([new AbortController().signal, controller.signal]);
    const reasons: unknown[] = [];
    combined.addEventListener("abort", () => reasons.push(combined.reason));
    controller.abort("because");
    controller.abort("again");
    expect(reasons).toEqual(["because"]);
    expect(() => combined.throwIfAborted()).toThrow("because");
    expect(AbortSignal.abort().reason).toMatchObject({ name: "AbortError", code: 20 });
    expect(() => new AbortSignal()).toThrow(TypeError);
  });

  test("a timeout signal is a durable timer", async () => {
    const kernel = new FakeKernel();
    const signal = signalTimeout(kernel)(500);
    expect(kernel.commands).toEqual([{ kind: "timer", id: 1, atMs: 1_500 }]);
    expect(signal.aborted).toBe(false);
    await kernel.resolve(1);
    expect(signal.reason).toMatchObject({ name: "TimeoutError" });
  });
});

describe("timers", () => {
  test("a timeout is one timer command and passes its arguments", async () => {
    const kernel = new FakeKernel();
    const seen: unknown[] = [];
    timerFunctions(kernel).setTimeout((...args) => seen.push(args), 20, "a", 1);
    expect(kernel.commands).toEqual([{ kind: "timer", id: 1, atMs: 1_020 }]);
    await kernel.resolve(1);
    expect(seen).toEqual([["a", 1]]);
  });

  test("clearing drops the command, and a late resolution calls nothing", async () => {
    const kernel = new FakeKernel();
    const timers = timerFunctions(kernel);
    const seen: unknown[] = [];
    timers.clearTimeout(timers.setTimeout(() => seen.push("called"), 5));
    await kernel.resolve(1);
    expect(kernel.dropped).toEqual([1]);
    expect(seen).toEqual([]);
  });

  test("an interval arms itself from the time it fired until it is cleared", async () => {
    const kernel = new FakeKernel();
    const timers = timerFunctions(kernel);
    let count = 0;
    const handle = timers.setInterval(() => {
      count += 1;
      if (count === 2) timers.clearInterval(handle);
    }, 10);
    kernel.time = 5_000;
    await kernel.resolve(1);
    expect(kernel.commands.at(-1)).toEqual({ kind: "timer", id: 2, atMs: 5_010 });
    await kernel.resolve(2);
    await kernel.resolve(3);
    expect(count).toBe(2);
    expect(kernel.dropped).toEqual([3]);
  });

  test("an interval of nothing waits a millisecond, a timeout of nothing doesn't", () => {
    const kernel = new FakeKernel();
    timerFunctions(kernel).setInterval(() => {}, 0);
    timerFunctions(kernel).setTimeout(() => {}, -5);
    expect(kernel.commands).toMatchObject([{ atMs: 1_001 }, { atMs: 1_000 }]);
  });

  test("errors of callbacks and microtasks are logged, not thrown", async () => {
    const kernel = new FakeKernel();
    const timers = timerFunctions(kernel);
    timers.setTimeout(() => {
      throw new RangeError("first");
    });
    timers.setTimeout(async () => {
      throw new RangeError("second");
    });
    timers.queueMicrotask(() => {
      throw new RangeError("third");
    });
    await kernel.resolve(1);
    await kernel.resolve(2);
    expect(kernel.logs.map(({ level }) => level)).toEqual(["error", "error", "error"]);
    expect(kernel.logs.map(({ message }) => /RangeError: (\w+)/.exec(message)?.[1])).toEqual([
      "third",
      "first",
      "second",
    ]);
  });

  test("a timer that cancellation rejects keeps its time, once", async () => {
    const kernel = new FakeKernel();
    const seen: string[] = [];
    timerFunctions(kernel).setTimeout(() => seen.push("fired"), 50);
    await kernel.reject(1, new Error("cancelled"));
    expect(kernel.commands.at(-1)).toEqual({ kind: "timer", id: 2, atMs: 1_050 });
    await kernel.resolve(2);
    expect(seen).toEqual(["fired"]);
  });
});

describe("fetch", () => {
  test("a request becomes one command, and its answer a response", async () => {
    const kernel = new FakeKernel();
    const fetched = fetchFunction(kernel)("https://example.com/a b", {
      method: "post",
      headers: { "X-B": " 1 ", "x-a": "2" },
      body: new URLSearchParams({ q: "ä" }),
    });
    await turns();
    expect(kernel.commands).toEqual([
      {
        kind: "fetch",
        id: 1,
        request: {
          method: "POST",
          url: "https://example.com/a%20b",
          headers: [
            ["content-type", "application/x-www-form-urlencoded;charset=UTF-8"],
            ["x-a", "2"],
            ["x-b", "1"],
          ],
          body: new globalThis.TextEncoder().encode("q=%C3%A4"),
        },
      },
    ]);
    await kernel.resolve(1, answer('{"n":1}', { status: 201 }));
    const response = await fetched;
    expect([response.ok, response.status, response.redirected]).toEqual([true, 201, true]);
    expect(response.headers.get("content-TYPE")).toBe("text/plain");
    expect(await response.clone().text()).toBe('{"n":1}');
    expect(await response.json()).toEqual({ n: 1 });
    expect(response.bodyUsed).toBe(true);
    await expect(response.text()).rejects.toThrow(/already been read/);
  });

  test("a body can be read as a stream", async () => {
    const response = new Response("hello");
    const chunks: Uint8Array[] = [];
    for await (const chunk of response.body ?? []) chunks.push(chunk);
    expect(chunks.map((chunk) => new TextDecoder().decode(chunk))).toEqual(["hello"]);
    const reader = new Response(new Uint8Array([7])).body?.getReader();
    expect(await reader?.read()).toEqual({ done: false, value: new Uint8Array([7]) });
    expect(await reader?.read()).toEqual({ done: true, value: undefined });
  });

  test("aborting rejects with the reason and drops the command", async () => {
    const kernel = new FakeKernel();
    const controller = new AbortController();
    const fetched = fetchFunction(kernel)("https://example.com", { signal: controller.signal });
    await turns();
    controller.abort(new Error("enough"));
    await expect(fetched).rejects.toThrow("enough");
    expect(kernel.dropped).toEqual([1]);
    await expect(
      fetchFunction(kernel)("https://example.com", { signal: controller.signal }),
    ).rejects.toThrow("enough");
    expect(kernel.commands).toHaveLength(1);
  });

  test("a host's refusal is a TypeError with the cause and its code", async () => {
    const kernel = new FakeKernel();
    const fetched = fetchFunction(kernel)("https://example.com");
    const cause = Object.assign(new Error("not on the list"), { code: "egress-denied" });
    await turns();
    const expected = expect(fetched).rejects.toMatchObject({
      name: "TypeError",
      code: "egress-denied",
      message: "GET https://example.com/ failed: not on the list",
      cause,
    });
    await kernel.reject(1, cause);
    await expected;
  });

  test.each([
    ["a relative URL", "/x", {}],
    ["another scheme", "ftp://example.com", {}],
    ["credentials in the URL", "https://a:b@example.com", {}],
    ["a body of GET", "https://example.com", { body: "x" }],
    ["an object as body", "https://example.com", { method: "PUT", body: {} as string }],
    ["a line break in a header", "https://example.com", { headers: { a: "b\r\nc: d" } }],
    ["a space in a header's name", "https://example.com", { headers: { "a b": "c" } }],
    ["the method TRACE", "https://example.com", { method: "trace" }],
    ["a manual redirect", "https://example.com", { redirect: "manual" }],
  ])("%s is refused before any command", async (_title, url, init) => {
    const kernel = new FakeKernel();
    await expect(fetchFunction(kernel)(url, init)).rejects.toThrow(TypeError);
    expect(kernel.commands).toEqual([]);
  });

  test("headers are joined, sorted and case-insensitive, cookies apart", () => {
    const headers = new Headers([
      ["b", "2"],
      ["Set-Cookie", "x=1"],
      ["A", "1"],
      ["a", "3"],
      ["set-cookie", "y=2"],
    ]);
    expect([...headers]).toEqual([
      ["a", "1, 3"],
      ["b", "2"],
      ["set-cookie", "x=1"],
      ["set-cookie", "y=2"],
    ]);
    expect(headers.getSetCookie()).toEqual(["x=1", "y=2"]);
  });

  test("a request can be made from a request", async () => {
    const first = new Request("https://example.com", { method: "PUT", body: "text" });
    const second = new Request(first, { headers: { a: "b" } });
    expect([second.method, await second.text(), first.bodyUsed]).toEqual(["PUT", "text", true]);
  });

  test("responses are made like on the web", async () => {
    expect(await Response.json({ a: 1 }).json()).toEqual({ a: 1 });
    expect(Response.redirect("https://example.com/x").headers.get("location")).toBe(
      "https://example.com/x",
    );
    expect(() => new Response("x", { status: 204 })).toThrow(TypeError);
    expect(() => new Response("x", { status: 99 })).toThrow(RangeError);
  });
});

describe("structuredClone", () => {
  test("copies what Node's copies", () => {
    const buffer = new Uint8Array([1, 2, 3, 4]).buffer;
    const value = {
      date: new Date(5),
      pattern: /a/gi,
      map: new Map<unknown, unknown>([[{ k: 1 }, new Set([1, "x"])]]),
      view: new Uint16Array(buffer, 2, 1),
      data: new DataView(buffer, 1),
      holes: Object.assign(new Array<number | undefined>(4), { 0: 1, 1: undefined, 3: 2 }),
      boxed: [Object(1), Object("s"), Object(false)],
      big: 12n,
      nothing: null,
      "with space": 1,
    };
    expect(cloneOf(value)).toEqual(globalThis.structuredClone(value));
    expect(2 in cloneOf(value).holes).toBe(false);
    const copy = cloneOf({ view: new Uint8Array(buffer), same: buffer });
    expect(copy.view.buffer).toBe(copy.same);
    expect(copy.same).not.toBe(buffer);
  });

  test("keeps cycles and the kind of errors", () => {
    const error: Error & { self?: unknown } = new RangeError("no", { cause: [1] });
    const value: Record<string, unknown> = { error };
    value.self = value;
    const copy = cloneOf(value);
    expect(copy.self).toBe(copy);
    expect(copy.error).toBeInstanceOf(RangeError);
    expect(copy.error).toMatchObject({ message: "no", cause: [1], stack: error.stack });
  });

  test.each([
    ["a function", () => 1],
    ["a nested symbol", { a: [Symbol("s")] }],
    ["a promise", Promise.resolve()],
    ["a weak map", new WeakMap()],
  ])("refuses %s", (_title, value) => {
    expect(() => cloneOf(value)).toThrow(
      expect.objectContaining({ name: "DataCloneError", code: 25 }),
    );
  });
});

describe("console", () => {
  test.each<readonly [readonly unknown[], string]>([
    [["a %s b %d %i %f", "x", "4.5", "4.5", "1.5z"], "a x b 4.5 4 1.5"],
    [["%o %j %% %c|", { a: [1] }, { b: 2 }, "css"], '{ a: [ 1 ] } {"b":2} % |'],
    [["%s and %s", "one"], "one and %s"],
    [["text", { n: 1 }, ["x"]], "text { n: 1 } [ 'x' ]"],
    [[{ a: { b: { c: { d: { e: 1 } } } } }], "{ a: { b: { c: { d: [Object] } } } }"],
    [[new Map([["k", new Set([1])]])], "Map(1) { 'k' => Set(1) { 1 } }"],
    [[new Uint8Array([1, 2])], "Uint8Array(2) [ 1, 2 ]"],
    [
      [
        new (class Point {
          x = -0;
        })(),
      ],
      "Point { x: -0 }",
    ],
    [
      [undefined, null, 1n, Symbol("s"), () => 1],
      "undefined null 1n Symbol(s) [Function: (anonymous)]",
    ],
    [["it's"], "it's"],
    [[["it's", 'q"']], `[ "it's", 'q"' ]`],
    [[new Date(0), /x/g], "1970-01-01T00:00:00.000Z /x/g"],
  ])("formats example %#", (args, expected) => {
    expect(format(...args).replace(/\s+/g, " ")).toBe(expected);
  });

  test("shows errors with their stack, fields and cause", () => {
    const error = Object.assign(new TypeError("bad", { cause: new Error("root") }), { code: 7 });
    const text = inspect(error);
    expect(text).toMatch(/^TypeError: bad\n\s+at /);
    expect(text).toContain("code: 7");
    expect(text).toContain("[cause]: Error: root");
  });

  test("cycles, getters that throw and broken proxies are shown, not followed", () => {
    const value: Record<string, unknown> = {
      get boom() {
        throw new Error("x");
      },
    };
    value.self = value;
    expect(inspect(value)).toBe("{ boom: [Getter], self: [Circular] }");
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    expect(inspect(proxy)).toBe("[could not be shown]");
  });

  test("output is bounded for wide, long and shared values", () => {
    const kernel = new FakeKernel();
    const log = consoleObject(kernel).log;
    const row = Array.from({ length: 1_000 }, () => "x".repeat(50));
    log?.("y".repeat(1_000_000));
    log?.(Array.from({ length: 1_000 }, () => row));
    expect(inspect(Array.from({ length: 1_000 }, () => row)).length).toBeLessThan(20_000);
    for (const { message } of kernel.logs) expect(message.length).toBeLessThan(10_100);
    expect(inspect(Array.from({ length: 150 }, (_, i) => i))).toContain("... 50 more items");
  });

  test("groups indent, and time is the run's", () => {
    const kernel = new FakeKernel();
    const { group, groupEnd, time, timeEnd, warn, assert: check } = consoleObject(kernel);
    group?.("head");
    warn?.("a\nb");
    groupEnd?.();
    time?.("t");
    kernel.time += 30;
    timeEnd?.("t");
    check?.(true, "silent");
    check?.(false, "wrong");
    expect(kernel.logs).toEqual([
      { level: "info", message: "head" },
      { level: "warn", message: "  a\n  b" },
      { level: "info", message: "t: 30ms" },
      { level: "error", message: "Assertion failed: wrong" },
    ]);
  });
});

describe("crypto", () => {
  test("random values and ids come from the kernel", () => {
    const crypto = cryptoObject(new FakeKernel()) as unknown as typeof globalThis.crypto;
    expect(crypto.getRandomValues(new Uint16Array(2))).toEqual(new Uint16Array([0x0100, 0x0302]));
    expect(crypto.randomUUID()).toBe("00010203-0405-4607-8809-0a0b0c0d0e0f");
    expect(() => crypto.getRandomValues(new Uint8Array(65_537))).toThrow(/at most 65536/);
    expect(() => crypto.getRandomValues(new Float64Array(1) as never)).toThrow(/integers/);
  });
});

describe("installGlobals", () => {
  /** Evaluates `body` where only the language exists, with the globals installed. */
  async function evaluate(body: string): Promise<unknown> {
    const bundle = await build({
      stdin: {
        contents: `
          import { installGlobals } from "./guest/globals.ts";
          const kernel = {
            nowMs: () => 86_400_000, random: () => 0.5,
            randomBytes: (count) => new Uint8Array(count),
            command: () => Object.assign(new Promise(() => {}), { id: 1 }),
            drop() {}, log() {}, encode: (value) => value, decode: (value) => value, emit() {},
          };
          installGlobals(kernel);
          globalThis.answer = (() => { ${body} })();`,
        resolveDir: new globalThis.URL("../..", import.meta.url).pathname,
      },
      bundle: true,
      write: false,
      format: "iife",
    });
    // What QuickJS brings of the web by itself.
    const { atob, btoa, DOMException } = globalThis;
    const context = createContext({ atob, btoa, DOMException });
    runInContext(bundle.outputFiles[0]?.text ?? "", context);
    return JSON.parse(JSON.stringify(context.answer) ?? "null");
  }

  test("now is the activation's time in every form, and dates stay dates", async () => {
    const seen = await evaluate(`
      class Own extends Date { twice() { return this.getTime() * 2; } }
      return [
        Date.now(), new Date().getTime(), new Date(5).getTime(), new Date(2020, 0).getFullYear(),
        Date() === new Date().toString(), new Own().twice(), new Date() instanceof Date,
        new Date().constructor === Date, Date.UTC(1970, 0, 2), Date.name, Date.length,
        performance.now(), Math.random(), structuredClone(new Date(3)) instanceof Date,
      ];`);
    const day = 86_400_000;
    const dates = [day, day, 5, 2020, true, 2 * day, true, true, day, "Date", 7];
    expect(seen).toEqual([...dates, day, 0.5, true]);
  });

  test("everything that is promised is there and hidden from enumeration", async () => {
    const names = `fetch Request Response Headers URL URLSearchParams TextEncoder TextDecoder atob
      btoa AbortController AbortSignal structuredClone crypto console setTimeout clearTimeout
      setInterval clearInterval queueMicrotask performance EventTarget Event DOMException eval
      Function`.split(/\s+/);
    const missing = await evaluate(
      `return ${JSON.stringify(names)}.filter((name) => globalThis[name] === undefined);`,
    );
    expect(missing).toEqual([]);
    const engine = ["atob", "btoa", "DOMException"];
    expect(await evaluate("return Object.keys(globalThis);")).toEqual(engine);
  });
});
