import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { jsonErrorPosition, jsonOfValue, parseJson, valueOfJson } from "../../client/json.ts";
import { decode, encode } from "../../guest/cbor.ts";
import { decodeCbor, rawValue } from "../../host/values.ts";
import { SporeError } from "../../runtime/errors.ts";

const scalar = fc.oneof(
  fc.string({ unit: "grapheme" }),
  fc.double(),
  fc.integer(),
  fc.maxSafeInteger(),
  fc.boolean(),
  fc.constant(null),
);
const plain = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: "small" },
    scalar,
    fc.constant(undefined),
    fc.uint8Array().map((bytes) => new Uint8Array(bytes)),
    fc.array(tie("value")),
    fc.dictionary(
      fc
        .oneof(fc.string(), fc.constantFrom("$date", "$$date", "$map", "constructor"))
        .filter((key) => key !== "__proto__"),
      tie("value"),
    ),
  ),
})).value;
const rich = fc.oneof(
  plain,
  fc.date(),
  fc.bigInt(),
  fc.array(fc.tuple(scalar, plain)).map((pairs) => new Map(pairs)),
  fc.uniqueArray(scalar).map((items) => new Set(items)),
);

const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex.replaceAll(" ", ""), "hex"));

const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return error instanceof SporeError ? error.code : String(error);
  }
  return "nothing thrown";
}

describe("CBOR", () => {
  it("means the same to the fast decoder and to the guests' codec", () => {
    fc.assert(
      fc.property(plain, (value) => {
        const bytes = encode(value);
        expect(hexOf(encode(decodeCbor(bytes)))).toBe(hexOf(bytes));
        expect(hexOf(encode(decode(bytes)))).toBe(hexOf(bytes));
      }),
      { numRuns: 500 },
    );
  });

  it("keeps rich values", () => {
    fc.assert(
      fc.property(rich, (value) => {
        const bytes = encode(value);
        expect(hexOf(encode(decodeCbor(bytes)))).toBe(hexOf(bytes));
      }),
    );
  });

  it.each([
    ["3b001fffffffffffff", -(2n ** 53n)],
    ["1bffffffffffffffff", 2n ** 64n - 1n],
    ["3bffffffffffffffff", -(2n ** 64n)],
    ["3affffffff", -(2 ** 32)],
    ["3a80000000", -(2 ** 31) - 1],
    ["f93c00", 1],
    ["fa7f800000", Number.POSITIVE_INFINITY],
    ["1b0000000000000001", 1],
    ["f7", undefined],
  ])("reads %s as the guests' codec does", (hex, value) => {
    expect(decodeCbor(bytesOf(hex))).toBe(value);
    expect(decode(bytesOf(hex))).toBe(value);
  });

  it.each([
    ["nothing at all", ""],
    ["a length beyond the end", "5bffffffffffffffff"],
    ["an array of 2^53 items", "9b0020000000000000"],
    ["a map of 2^53 pairs", "bb0020000000000000"],
    ["an indefinite array", "9fff"],
    ["a break alone", "ff"],
    ["bytes after the item", "0101"],
    ["a duplicate key", "a2616101616102"],
    ["__proto__", "a1695f5f70726f746f5f5f01"],
    ["a key that is no text", "a10102"],
    ["text that is not UTF-8", "62c328"],
    ["a surrogate in UTF-8", "63eda080"],
    ["a RegExp tag", "d82361 61"],
    ["a cyclic reference", "d81c80"],
    ["a class name", "d81b82646576616c6161"],
    ["a reserved simple value", "f0"],
    ["a truncated float", "fb00"],
  ])("refuses %s", (_name, hex) => {
    expect(codeOf(() => decodeCbor(bytesOf(hex)))).toBe("invalid-cbor");
  });

  it("refuses a key that is there twice among many", () => {
    const pairs = Array.from({ length: 20 }, (_, index) => [`k${index}`, index] as const);
    const bytes = encode(Object.fromEntries(pairs));
    expect(decodeCbor(bytes)).toEqual(Object.fromEntries(pairs));
    // k19 becomes a second k10.
    const at = Buffer.from(bytes).indexOf("k19");
    bytes.set(Buffer.from("k10"), at);
    expect(codeOf(() => decodeCbor(bytes))).toBe("invalid-cbor");
  });

  it("refuses deep nesting and big numbers quickly", () => {
    const deep = new Uint8Array(100_000).fill(0x81);
    const bignum = new Uint8Array(1_000_006);
    bignum.set([0xc2, 0x5a, 0x00, 0x0f, 0x42, 0x40]);
    const startedMs = performance.now();
    for (const bytes of [deep, bignum]) {
      expect(codeOf(() => decodeCbor(bytes))).toBe("invalid-cbor");
    }
    expect(performance.now() - startedMs).toBeLessThan(5000);
  });

  it("never does anything but refuse with random bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        const code = codeOf(() => decodeCbor(bytes));
        expect(["invalid-cbor", "nothing thrown"]).toContain(code);
      }),
      { numRuns: 2000 },
    );
  });

  it("shows what is no item as bytes, so that it can't break an answer's frame", () => {
    expect(rawValue(bytesOf("0101"))).toEqual(bytesOf("0101"));
  });
});

describe("JSON", () => {
  it("keeps every value, also those that look like tags", () => {
    fc.assert(
      fc.property(rich, (value) => {
        const text = JSON.stringify(jsonOfValue(value));
        const back = valueOfJson(parseJson(new TextEncoder().encode(text)));
        expect(hexOf(encode(back))).toBe(hexOf(encode(value)));
      }),
      { numRuns: 500 },
    );
  });

  it("keeps an error with its name, cause and own fields", () => {
    const error = Object.assign(new RangeError("far"), { code: "e1", cause: new Error("deep") });
    const back = valueOfJson(jsonOfValue(error)) as Error & { code: string };
    expect(back).toBeInstanceOf(Error);
    expect([back.name, back.message, back.code]).toEqual(["RangeError", "far", "e1"]);
    expect((back.cause as Error).message).toBe("deep");
  });

  it.each([
    '{"$date":"x"}',
    '{"$date":1}',
    '{"$bigint":"1x"}',
    '{"$bytes":"%"}',
    '{"$map":[[1]]}',
    '{"$set":{}}',
    '{"$undefined":false}',
    '{"$number":"1"}',
    '{"$error":null}',
    '{"__proto__":1}',
    '{"a":1,"__proto__":1}',
    '{"$$date":{"__proto__":1}}',
  ])("refuses %s", (text) => {
    expect(codeOf(() => valueOfJson(JSON.parse(text)))).toBe("invalid-json");
  });

  it.each([
    ["", 0],
    ["{", 1],
    ["[1,]", 3],
    ["[1 2]", 3],
    ['{"a":1,}', 7],
    ['{"a" 1}', 5],
    ["[01]", 2],
    ["tru", 0],
    ["1 x", 2],
    ['["a\u0001"]', 1],
    ["nul]", 0],
  ])("points into %j at %i", (text, position) => {
    expect(() => JSON.parse(text)).toThrow();
    expect(jsonErrorPosition(text)).toBe(position);
  });

  it("finds no error in what JSON.parse takes", () => {
    fc.assert(
      fc.property(fc.json(), (text) => {
        expect(jsonErrorPosition(text)).toBe(text.length);
      }),
    );
  });
});
