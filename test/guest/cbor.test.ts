import fc from "fast-check";
import { expect, test } from "vitest";
import { CborError, decode, encode, makeError, Ref, SerialisationError } from "../../guest/cbor.ts";
import * as guest from "../../guest/index.ts";

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function bytes(text: string): Uint8Array {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

test.each<[string, unknown]>([
  ["00", 0],
  ["17", 23],
  ["1818", 24],
  ["18ff", 255],
  ["190100", 256],
  ["1a00010000", 65536],
  ["1affffffff", 0xffffffff],
  ["1b0000000100000000", 0x100000000],
  ["1b001fffffffffffff", Number.MAX_SAFE_INTEGER],
  ["20", -1],
  ["3863", -100],
  ["3b001ffffffffffffe", Number.MIN_SAFE_INTEGER],
  ["fb8000000000000000", -0],
  ["fb3ff8000000000000", 1.5],
  ["fb4340000000000000", 2 ** 53],
  ["fb7ff8000000000000", Number.NaN],
  ["fb7ff0000000000000", Number.POSITIVE_INFINITY],
  ["f4", false],
  ["f5", true],
  ["f6", null],
  ["f7", undefined],
  ["60", ""],
  ["6161", "a"],
  ["62c3bc", "ü"],
  ["63e6b0b4", "水"],
  ["64f0908591", "𐅑"],
  ["43010203", Uint8Array.of(1, 2, 3)],
  ["83010203", [1, 2, 3]],
  ["a26161016162820203", { a: 1, b: [2, 3] }],
  ["c11a514b67b0", new Date(1363896240000)],
  ["c1fb41d452d9ec200000", new Date(1363896240500)],
  ["c1fb7ff8000000000000", new Date(Number.NaN)],
  ["c240", 0n],
  ["c249010000000000000000", 2n ** 64n],
  ["c349010000000000000000", -(2n ** 64n) - 1n],
  ["d9010282016161", new Set([1, "a"])],
  ["d90103a1016161", new Map([[1, "a"]])],
  ["d8554400000040", Float32Array.of(2)],
  ["d81b826b4172726179427566666572420102", Uint8Array.of(1, 2).buffer],
  ["d81b8363526566616807", new Ref("h", 7)],
])("%s is read and written", (text, value) => {
  expect(hex(encode(value))).toBe(text);
  expect(decode(bytes(text))).toEqual(value);
});

test.each<[string, unknown]>([
  ["f93c00", 1],
  ["f90001", 2 ** -24],
  ["f9fc00", Number.NEGATIVE_INFINITY],
  ["f97e00", Number.NaN],
  ["fa47c35000", 100000],
  ["1bffffffffffffffff", 18446744073709551615n],
  ["3bffffffffffffffff", -18446744073709551616n],
  ["b90001616101", { a: 1 }],
  ["c074323031332d30332d32315432303a30343a30305a", new Date(1363896240000)],
  ["d84043010203", Uint8Array.of(1, 2, 3)],
])("%s is read", (text, value) => {
  expect(decode(bytes(text))).toEqual(value);
});

test.each<[string, string]>([
  ["", "nothing"],
  ["0000", "bytes after the end"],
  ["18", "an integer cut off"],
  ["1c", "a reserved length"],
  ["5f42010243030405ff", "an indefinite length"],
  ["9f01ff", "an indefinite array"],
  ["ff", "a break"],
  ["e0", "a simple value"],
  ["f820", "a simple value of two bytes"],
  ["61ff", "text that isn't UTF-8"],
  ["62c080", "an overlong form"],
  ["63eda080", "a surrogate"],
  ["64f4908080", "a code point over 10ffff"],
  ["61c3", "text cut off within a character"],
  ["9b001fffffffffffff", "a length of 2^53"],
  ["9bffffffffffffffff", "a length of 2^64"],
  ["7a7fffffff61", "a text longer than the bytes"],
  ["ba10000000", "a map longer than the bytes"],
  ["a2616101616102", "a key twice"],
  ["a1010a", "a key that isn't text"],
  ["d9010282 0101".replace(" ", ""), "a member of a set twice"],
  ["d90103a201010102", "a key of a Map twice"],
  ["d90103820101", "a Map of an array"],
  ["c401", "an unknown tag"],
  ["dbffffffffffffffff01", "a tag of 64 bits"],
  ["d81c8101", "a shared reference"],
  ["d823626162", "a regular expression"],
  ["d81b8163466f6f", "tag 27 of an unknown type"],
  ["d81b8468486967684c65616b0102", "tag 27 cut off"],
  ["d8454101", "a Uint16Array of odd length"],
  ["c16161", "a date of text"],
  ["c06161", "a date that isn't ISO"],
  [`c2591001${"ff".repeat(4097)}`, "a bigint over the limit"],
  ["81".repeat(129), "arrays nested too deep"],
  ["c1".repeat(129), "tags nested too deep"],
])("%s is refused: %s", (text) => {
  expect(() => decode(bytes(text))).toThrow(CborError);
});

test("hostile bytes of a megabyte are refused or read in linear time", () => {
  const megabyte = 1 << 20;
  const hostile = [
    new Uint8Array(megabyte).fill(0x81),
    new Uint8Array(megabyte).fill(0x9a),
    new Uint8Array(megabyte).fill(0xc2),
    new Uint8Array(megabyte).fill(0xff),
  ];
  hostile[3]?.set([0xc2, 0x5a, 0, 0x0f, 0xff, 0xfa]);
  for (const input of hostile) {
    const before = performance.now();
    expect(() => decode(input)).toThrow(CborError);
    expect(performance.now() - before).toBeLessThan(5000);
  }
});

test("a __proto__ key is a key like any other", () => {
  const value = JSON.parse('{"__proto__":{"isAdmin":true},"constructor":1}');
  const copy = decode(encode(value)) as Record<string, unknown>;
  expect(Object.getPrototypeOf(copy)).toBe(Object.prototype);
  expect(Object.keys(copy)).toEqual(["__proto__", "constructor"]);
  expect(({} as { isAdmin?: boolean }).isAdmin).toBeUndefined();
});

test.each<[string, unknown, string]>([
  ["a function", { items: [0, { callback: () => 1 }] }, "$.items[1].callback: a function"],
  ["a symbol", [Symbol("s")], "$[0]: a symbol"],
  ["a promise", { a: Promise.resolve(1) }, "$.a: a promise (await it first)"],
  ["a class's instance", { "odd key": new (class Cart {})() }, '$["odd key"]: an instance of Cart'],
  ["a member of a Set", { s: new Set([() => 1]) }, "$.s[0]: a function"],
  ["a value of a Map", { m: new Map([["k", () => 1]]) }, "$.m.k: a function"],
  ["the cause of an error", new Error("e", { cause: () => 1 }), "$.cause: a function"],
  ["a graph node", [guest.step("c.node", () => 1).step()], "$[0]: a graph node (c.node)"],
  ["a huge bigint", { n: 2n ** 40000n }, "$.n: a bigint over 4096 bytes"],
  ["a DataView", { v: new DataView(new ArrayBuffer(1)) }, "$.v: an instance of DataView"],
])("%s is refused with its path", (_, value, message) => {
  expect(() => encode(value)).toThrow(SerialisationError);
  expect(() => encode(value)).toThrow(message);
});

test("a cycle is refused with both of its ends", () => {
  const tree: Record<string, unknown> = { name: "root" };
  tree["children"] = [{ parent: tree }];
  expect(() => encode(tree)).toThrow("$.children[0].parent: the value contains itself (as $)");
  const set = new Set<unknown>();
  set.add(set);
  const list: unknown[] = [];
  list.push(list);
  expect(() => encode(list)).toThrow("$[0]: the value contains itself (as $)");
  expect(() => encode(set)).toThrow("the value contains itself");
});

test("values nested too deep are refused, and what is accepted can be read", () => {
  const nest = (depth: number, wrap: (inner: unknown) => unknown): unknown => {
    let value: unknown = 1;
    for (let i = 0; i < depth; i++) value = wrap(value);
    return value;
  };
  const wraps = [
    (inner: unknown) => [inner],
    (inner: unknown) => ({ inner }),
    (inner: unknown) => new Set([inner]),
    (inner: unknown) => new Map([[inner, inner]]),
    (inner: unknown) => new Error("e", { cause: inner }),
  ];
  for (const wrap of wraps) {
    let accepted = 0;
    for (let depth = 1; depth < 20; depth++)
      expect(decode(encode(nest(depth % 8, wrap)))).toBeDefined();
    for (let depth = 30; depth <= 130; depth++) {
      if (wrap === wraps[3]) break;
      try {
        const encoded = encode(nest(depth, wrap));
        accepted = depth;
        decode(encoded);
      } catch (error) {
        expect(error).toBeInstanceOf(SerialisationError);
      }
    }
    expect(accepted).toBeLessThanOrEqual(128);
  }
});

test("a lone surrogate becomes the replacement character", () => {
  expect(decode(encode("a\ud800b\udfff"))).toBe("a\ufffdb\ufffd");
});

test("errors of the SDK keep their code, their class and whether to try again, as values too", () => {
  const errors = [
    new guest.GuestError("declined", { code: "card-declined", class: "user", retryable: false }),
    new guest.TimeoutError("late"),
    new guest.NonRetryableError("no", { code: "final" }),
    new guest.ChildError("no child", { runId: "r1", code: "child-failed" }),
  ];
  for (const error of errors) {
    const copy = decode(encode([undefined, error])) as [undefined, guest.GuestError];
    const { name, message, code, class: kind, retryable } = error;
    expect(copy[1]).toMatchObject({ name, message, code, retryable });
    expect(copy[1].class).toBe(kind);
    expect(Object.keys(copy[1])).toEqual(Object.keys(error));
  }
});

test("errors come back with class, name, fields, causes and stack", () => {
  class PaymentError extends Error {
    override readonly name = "PaymentError";
    readonly code = "declined";
    readonly amount = 12;
  }
  const error = new PaymentError("no", { cause: new RangeError("r") });
  const copy = decode(encode(error)) as PaymentError;
  expect(copy).toBeInstanceOf(Error);
  expect(copy).toMatchObject({ name: "PaymentError", message: "no", code: "declined", amount: 12 });
  expect(copy.stack).toBe(error.stack);
  expect(copy.cause).toBeInstanceOf(RangeError);
  const many = decode(encode(new AggregateError([new TypeError("t")], "all"))) as AggregateError;
  expect(many).toBeInstanceOf(AggregateError);
  expect(many.errors[0]).toBeInstanceOf(TypeError);
  expect(decode(encode(new guest.TimeoutError("late")))).toBeInstanceOf(guest.TimeoutError);
  const forged = makeError("__proto__", "m");
  expect(forged.name).toBe("__proto__");
});

test("every instant survives to the millisecond", () => {
  fc.assert(
    fc.property(fc.integer({ min: -8.64e15, max: 8.64e15 }), (ms) => {
      expect((decode(encode(new Date(ms))) as Date).getTime()).toBe(ms);
    }),
    { numRuns: 2000 },
  );
});

/** Anything that can be stored. */
const storable: fc.Arbitrary<unknown> = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.constantFrom<unknown>(undefined, null, true, false, -0, Number.NaN),
    fc.integer(),
    fc.maxSafeInteger(),
    fc.double(),
    fc.bigInt(),
    fc.string({ unit: "grapheme" }),
    fc.string({ unit: "binary", maxLength: 100 }),
    fc.uint8Array(),
    fc.date({ noInvalidDate: false }),
    fc.float64Array(),
    fc.int16Array(),
    fc.array(tie("value")),
    fc.dictionary(
      fc.oneof(fc.string(), fc.constantFrom("__proto__", "constructor", "$step")),
      tie("value"),
    ),
    fc.uniqueArray(fc.string()).map((keys) => new Set(keys)),
    fc
      .uniqueArray(fc.tuple(fc.integer(), tie("value")), { selector: ([key]) => key })
      .map((entries) => new Map(entries)),
  ),
})).value;

test("what is encoded is decoded to an equal value, and encodes to the same bytes", () => {
  fc.assert(
    fc.property(storable, (value) => {
      const encoded = encode(value);
      const copy = decode(encoded);
      expect(copy).toEqual(value);
      expect(hex(encode(copy))).toBe(hex(encoded));
    }),
    { numRuns: 2000 },
  );
});

test("any bytes are decoded or refused, and what is decoded can be encoded", () => {
  const items = fc.oneof(
    fc.uint8Array({ maxLength: 64 }),
    fc
      .array(
        fc.constantFrom(
          "81",
          "a1",
          "6161",
          "c1",
          "c2",
          "41ff",
          "d90102",
          "d90103",
          "d81b",
          "00",
          "f6",
          "fb",
          "82",
          "1903e8",
        ),
      )
      .map((parts) => bytes(parts.join(""))),
  );
  fc.assert(
    fc.property(items, (input) => {
      let value: unknown;
      try {
        value = decode(input);
      } catch (error) {
        expect(error).toBeInstanceOf(CborError);
        return;
      }
      expect(decode(encode(value))).toEqual(value);
    }),
    { numRuns: 5000 },
  );
});

test("a getter that encodes doesn't disturb the encoding around it", () => {
  const value = {
    before: 1,
    get inner() {
      return encode({ a: "nested" });
    },
    after: "x",
  };
  expect(decode(encode(value))).toEqual({ before: 1, inner: encode({ a: "nested" }), after: "x" });
});

test("long texts and large values take linear time", () => {
  const text = "abcdefgh".repeat(200_000);
  expect(decode(encode(text))).toBe(text);
  const wide = "水ü𐅑".repeat(100_000);
  expect(decode(encode(wide))).toBe(wide);
  const list = Array.from({ length: 100_000 }, (_, i) => ({ i, name: `item ${i}` }));
  expect(decode(encode(list))).toEqual(list);
});
