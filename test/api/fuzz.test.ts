/**
 * Requests that the OpenAPI document describes, nearly: whatever is asked, the server answers with
 * what it promises or with a problem that has a code, never with a fault of its own. What is sent
 * comes from the document, so a new route is asked without a word here.
 */
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createClient } from "../../client/index.ts";
import { decode, encode } from "../../guest/cbor.ts";
import { build } from "../../host/build.ts";
import { type RunningServer, startServer } from "../../host/node.ts";

interface Schema {
  readonly $ref?: string;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly allOf?: readonly Schema[];
  readonly type?: string | readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: Schema | boolean;
  readonly items?: Schema;
  readonly minimum?: number;
  readonly maximum?: number;
}

interface Operation {
  readonly parameters?: readonly {
    readonly name: string;
    readonly in: string;
    readonly schema: Schema;
  }[];
  readonly requestBody?: {
    readonly content: Readonly<Record<string, { readonly schema: Schema }>>;
  };
}

interface Asked {
  readonly method: string;
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly body: string | Uint8Array<ArrayBuffer> | undefined;
}

const known = ["a", "b", "ship", "order", "Actor"];
const odd = [
  ...["", ".", "..", "../../etc", "a/b", "\u0000", "\n", " ", "é", "💥", "'\"<script>", "%", "%ff"],
  ...["__proto__", "constructor", "null", "[]", "{}", "-1", "0x10", "1e999", "a?b#c", "* * * * *"],
  ...["a".repeat(201), "a".repeat(5000), "2026-11-22T00:00:00Z", "5s", "Europe/Berlin"],
];
const text = fc.oneof(fc.constantFrom(...known), fc.constantFrom(...odd));
const number = fc.constantFrom(0, 1, -1, 1.5, 10, 1000, 2 ** 31, 2 ** 53, 1e308);
const anything = fc.oneof(
  text,
  number,
  fc.boolean(),
  fc.constant(null),
  fc.jsonValue({ maxDepth: 2 }),
);

let server: RunningServer;
let document: { readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>> };

beforeAll(async () => {
  server = await startServer({ storage: "memory:", port: 0, log: () => undefined });
  const built = await build({
    entry: "examples/tour/index.ts",
    outDir: ".spore/test-fuzz",
    prepare: (source) => server.sandbox.prepare(source),
  });
  await server.sandbox.load(built.prepared.id, built.prepared.bytes);
  await createClient({ url: server.url }).deploy(built.code);
  const answer = await fetch(`${server.url}/openapi.json`);
  document = (await answer.json()) as typeof document;
}, 60_000);

afterAll(() => server?.stop());

test("no request makes the server fail", async () => {
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods)
      // Building takes seconds; changing the partitions stops all others for a while.
      .filter(([method]) => method !== "put" || !/components|cluster/.test(path))
      .map(([method, operation]) => requestOf(method, path, operation)),
  );
  expect(operations.length).toBeGreaterThan(50);
  await fc.assert(
    fc.asyncProperty(fc.oneof(...operations), async (asked) => {
      const { status, type, body } = await answerTo(asked);
      expect(status, JSON.stringify(body)).toBeLessThan(500);
      if (status < 400 || type.startsWith("text/html")) return;
      expect(type).toMatch(/^application\/(problem\+json|cbor)/);
      expect(body).toMatchObject({ status, title: expect.any(String), code: expect.any(String) });
    }),
    { numRuns: 2000, endOnFailure: true },
  );
  expect((await fetch(`${server.url}/healthz`)).status).toBe(200);
}, 240_000);

async function answerTo({ method, path, headers, body }: Asked): Promise<{
  readonly status: number;
  readonly type: string;
  readonly body: unknown;
}> {
  const init = { method, headers, ...(body !== undefined && { body }) };
  const response = await fetch(`${server.url}${path}`, init);
  const { status } = response;
  const type = response.headers.get("content-type") ?? "";
  if (status < 400) {
    await response.body?.cancel(); // a stream of events wouldn't end
    return { status, type, body: undefined };
  }
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (type === "application/cbor") return { status, type, body: decode(bytes) };
  const isJson = type.includes("json");
  const shown = new TextDecoder().decode(bytes);
  return { status, type, body: isJson ? JSON.parse(shown) : shown };
}

function requestOf(method: string, path: string, operation: Operation): fc.Arbitrary<Asked> {
  const [literals, names] = [path.split(/\{\w+\}/), [...path.matchAll(/\{\w+\}/g)]];
  const parts = fc.tuple(...names.map(() => text.map(encodeURIComponent)));
  const filled = parts.map((values) =>
    literals.map((literal, index) => literal + (values[index] ?? "")).join(""),
  );
  const asked = (operation.parameters ?? []).filter((parameter) => parameter.in === "query");
  const query = fc.tuple(...asked.map(({ name, schema }) => fc.option(parameter(name, schema))));
  const headers = fc.record(
    {
      accept: fc.constantFrom("application/cbor", "application/json", "text/html", "x"),
      range: fc.constantFrom("bytes=0-1", "bytes=9-1", "bytes=-1", "x"),
      "last-event-id": fc.constantFrom("1", "-1", "x", "9".repeat(30)),
      "idempotency-key": fc.constantFrom("a", "x".repeat(300)),
    },
    { requiredKeys: [] },
  );
  return fc
    .tuple(filled, query, fc.option(headers, { freq: 3, nil: {} }), bodyOf(operation))
    .map(([target, values, chosen, body]) => {
      const search = new URLSearchParams();
      for (const [index, value] of values.entries()) {
        if (value !== null) search.append(asked[index]?.name ?? "", value);
      }
      const suffix = search.size > 0 ? `?${search}` : "";
      const all = { ...chosen, ...(body.type !== undefined && { "content-type": body.type }) };
      return {
        method: method.toUpperCase(),
        path: target + suffix,
        headers: all,
        body: body.bytes,
      };
    });
}

/** Waits are short: what never comes is asked for as well. */
function parameter(name: string, schema: Schema): fc.Arbitrary<string> {
  if (name === "wait") return fc.constantFrom("0", "0s", "1ms", "-1", "x");
  return valueFor(schema).map((value) =>
    typeof value === "string" ? value : JSON.stringify(value),
  );
}

function bodyOf({ requestBody }: Operation): fc.Arbitrary<{
  readonly type?: string;
  readonly bytes: Asked["body"];
}> {
  const types = Object.entries(requestBody?.content ?? {});
  if (types.length === 0) return fc.constant({ bytes: undefined });
  return fc.oneof(
    ...types.map(([type, { schema }]) => {
      const broken = fc.constantFrom("", "{", "[1,", "nul", "[".repeat(5000));
      if (type.includes("json")) {
        const json = valueFor(schema).map((value) => JSON.stringify(value));
        return fc.oneof({ weight: 9, arbitrary: json }, broken).map((bytes) => ({ type, bytes }));
      }
      const cbor = fc
        .tuple(valueFor(schema), fc.option(fc.tuple(fc.nat(400), fc.nat(7))))
        .map(spoilt);
      const bytes = type.includes("cbor") ? cbor : fc.uint8Array({ maxLength: 200 }).map(own);
      return bytes.map((value) => ({ type, bytes: value }));
    }),
  );
}

/** As CBOR, now and then with a bit that is another. */
function spoilt([value, place]: [unknown, [number, number] | null]): Uint8Array<ArrayBuffer> {
  const bytes = own(encode(value));
  const [at, bit] = place ?? [bytes.length, 0];
  if (at < bytes.length) bytes[at] = (bytes[at] ?? 0) ^ (1 << bit);
  return bytes;
}

function own(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return new Uint8Array(bytes);
}

/** Mostly as the schema has it. */
function valueFor(schema: Schema, depth = 0): fc.Arbitrary<unknown> {
  if (depth > 5) return anything;
  return fc.oneof({ weight: 12, arbitrary: fitting(schema, depth) }, anything);
}

function fitting(schema: Schema, depth: number): fc.Arbitrary<unknown> {
  if (schema.$ref !== undefined) return valueFor(resolved(schema.$ref), depth + 1);
  if ("const" in schema) return fc.constant(schema.const);
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum);
  const either = schema.anyOf ?? schema.oneOf;
  if (either !== undefined) return fc.oneof(...either.map((one) => valueFor(one, depth + 1)));
  if (schema.allOf !== undefined) {
    const all = schema.allOf.map((one) => valueFor(one, depth + 1));
    return fc.tuple(...all).map((parts) => Object.assign({}, ...parts) as unknown);
  }
  const types = schema.type === undefined ? [] : [schema.type].flat();
  if (types.length === 0) return anything;
  return fc.oneof(...types.map((type) => ofType(type, schema, depth)));
}

function ofType(type: string, schema: Schema, depth: number): fc.Arbitrary<unknown> {
  if (type === "string") return text;
  if (type === "boolean") return fc.boolean();
  if (type === "null") return fc.constant(null);
  if (type === "integer" || type === "number") {
    const { minimum = 0, maximum = 100 } = schema;
    return fc.oneof(number, fc.constantFrom(minimum, maximum, minimum - 1, maximum + 1));
  }
  if (type === "array") return fc.array(valueFor(schema.items ?? {}, depth + 1), { maxLength: 3 });
  const members = Object.entries(schema.properties ?? {}).map(
    ([name, member]) => [name, valueFor(member, depth + 1)] as const,
  );
  const record = fc.record(Object.fromEntries(members), {
    requiredKeys: [...(schema.required ?? [])],
  });
  if (typeof schema.additionalProperties !== "object") return record;
  const more = fc.dictionary(text, valueFor(schema.additionalProperties, depth + 1), {
    maxKeys: 3,
  });
  return fc.tuple(record, more).map(([own, others]) => ({ ...others, ...own }));
}

function resolved(ref: string): Schema {
  let found: unknown = document;
  for (const part of ref.split("/").slice(1)) found = (found as Record<string, unknown>)[part];
  return found as Schema;
}
