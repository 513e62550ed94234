/**
 * Guest values as JSON. What JSON lacks is tagged, an object with one key that begins
 * with `$`; an object of the user's that looks like a tag gets one more `$`:
 *
 *   Date        {"$date": "2026-01-01T00:00:00.000Z"}   (invalid: null)
 *   bigint      {"$bigint": "123"}
 *   bytes       {"$bytes": "base64"}
 *   Map         {"$map": [[key, value], …]}
 *   Set         {"$set": [value, …]}
 *   undefined   {"$undefined": true}
 *   NaN, ±Infinity, -0   {"$number": "NaN"}
 *   RegExp      {"$regexp": ["source", "flags"]}
 *   Ref         {"$object": ["hash", size]}
 *   Error       {"$error": {"name", "message", "code"?, "stack"?, "cause"?, …own fields}}
 */
import { Ref } from "../guest/cbor.ts";
import { SporeError } from "../runtime/errors.ts";

export const jsonDepthMax = 200;

const tagNames = "date|bigint|bytes|map|set|undefined|number|regexp|error|object";
const looksLikeTag = new RegExp(`^\\$+(?:${tagNames})$`);

// ---------------------------------------------------------------- value → JSON

/** Plain JSON data for a decoded guest value. */
export function jsonOfValue(value: unknown, depth = 0): unknown {
  switch (typeof value) {
    case "string":
    case "boolean":
      return value;
    case "number":
      return Number.isFinite(value) && !Object.is(value, -0)
        ? value
        : { $number: numberText(value) };
    case "undefined":
      return { $undefined: true };
    case "bigint":
      return { $bigint: value.toString() };
    case "object":
      return value === null ? null : jsonOfObject(value, depth);
    default:
      throw new SporeError("not-serialisable", `a ${typeof value} has no JSON form`);
  }
}

function jsonOfObject(value: object, depth: number): unknown {
  // A value with a cycle has no JSON form; this ends it, too.
  if (depth >= jsonDepthMax) {
    throw new SporeError("not-serialisable", "the value is nested too deeply for JSON", {
      hint: "ask for application/cbor",
    });
  }
  const inner = (item: unknown): unknown => jsonOfValue(item, depth + 1);
  if (Array.isArray(value)) return Array.from(value, inner);
  if (value instanceof Date) {
    return { $date: Number.isNaN(value.getTime()) ? null : value.toISOString() };
  }
  if (value instanceof Map) {
    return { $map: [...value].map(([key, item]) => [inner(key), inner(item)]) };
  }
  if (value instanceof Set) return { $set: [...value].map(inner) };
  if (value instanceof RegExp) return { $regexp: [value.source, value.flags] };
  if (value instanceof Ref) return { $object: [value.hash, value.size] };
  if (value instanceof Error) return { $error: errorFields(value, inner) };
  if (value instanceof URL) return value.href;
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) {
    return { $bytes: base64Of(bytesOfView(value)) };
  }
  return plainObject(value, inner);
}

function plainObject(value: object, inner: (item: unknown) => unknown): object {
  const keys = Object.keys(value);
  const json: Record<string, unknown> = {};
  for (const key of keys) {
    const written = keys.length === 1 && looksLikeTag.test(key) ? `$${key}` : key;
    define(json, written, inner(Reflect.get(value, key)));
  }
  return json;
}

function errorFields(error: Error, inner: (item: unknown) => unknown): object {
  const fields: Record<string, unknown> = { name: error.name, message: error.message };
  if (error.stack !== undefined) fields.stack = error.stack;
  if (error.cause !== undefined) fields.cause = inner(error.cause);
  for (const key of Object.keys(error)) {
    if (!(key in fields)) define(fields, key, inner(Reflect.get(error, key)));
  }
  return fields;
}

function numberText(value: number): string {
  return Object.is(value, -0) ? "-0" : String(value);
}

function bytesOfView(value: ArrayBufferView | ArrayBuffer): Uint8Array {
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
}

// ---------------------------------------------------------------- JSON → value

/** The guest value that JSON data stands for. Throws invalid-json on a malformed tag. */
export function valueOfJson(json: unknown, depth = 0): unknown {
  if (typeof json !== "object" || json === null) return json;
  if (depth >= jsonDepthMax) throw malformed(`nested deeper than ${jsonDepthMax}`);
  const inner = (item: unknown): unknown => valueOfJson(item, depth + 1);
  if (Array.isArray(json)) return json.map(inner);
  const keys = Object.keys(json);
  const only = keys.length === 1 ? (keys[0] ?? "") : "";
  if (looksLikeTag.test(only)) {
    const payload: unknown = Reflect.get(json, only);
    if (!only.startsWith("$$")) return untagged(only, payload, inner);
    const value = {};
    define(value, only.slice(1), inner(payload));
    return value;
  }
  const value = {};
  for (const key of keys) define(value, key, inner(Reflect.get(json, key)));
  return value;
}

function untagged(tag: string, payload: unknown, inner: (item: unknown) => unknown): unknown {
  switch (tag) {
    case "$undefined":
      if (payload === true) return undefined;
      break;
    case "$date":
      if (payload === null) return new Date(Number.NaN);
      if (typeof payload === "string" && !Number.isNaN(Date.parse(payload)))
        return new Date(payload);
      break;
    case "$bigint":
      if (typeof payload === "string" && /^-?\d{1,4096}$/.test(payload)) return BigInt(payload);
      break;
    case "$bytes":
      if (typeof payload === "string") return bytesOfBase64(payload);
      break;
    case "$number":
      if (typeof payload === "string" && specialNumbers.has(payload)) return Number(payload);
      break;
    case "$map":
      if (
        Array.isArray(payload) &&
        payload.every((pair) => Array.isArray(pair) && pair.length === 2)
      ) {
        return new Map(payload.map(([key, value]) => [inner(key), inner(value)]));
      }
      break;
    case "$set":
      if (Array.isArray(payload)) return new Set(payload.map(inner));
      break;
    case "$regexp":
      if (Array.isArray(payload) && payload.length === 2) return regexpOf(payload);
      break;
    case "$object":
      if (Array.isArray(payload) && payload.length === 2) return refOf(payload);
      break;
    case "$error":
      if (typeof payload === "object" && payload !== null) return errorOf(payload, inner);
      break;
  }
  throw malformed(`${tag} has a payload that it can't have`);
}

const specialNumbers = new Set(["NaN", "Infinity", "-Infinity", "-0"]);

function refOf([hash, size]: readonly unknown[]): Ref {
  if (typeof hash === "string" && typeof size === "number") return new Ref(hash, size);
  throw malformed("$object holds no hash and size");
}

function regexpOf(payload: readonly unknown[]): RegExp {
  try {
    return new RegExp(String(payload[0]), String(payload[1]));
  } catch {
    throw malformed("$regexp holds no regular expression");
  }
}

function errorOf(payload: object, inner: (item: unknown) => unknown): Error {
  const error = new Error(String(Reflect.get(payload, "message") ?? ""));
  for (const key of Object.keys(payload)) {
    if (key === "message") continue;
    const value = inner(Reflect.get(payload, key));
    const enumerable = key !== "name" && key !== "stack" && key !== "cause";
    Object.defineProperty(error, key, { value, enumerable, writable: true, configurable: true });
  }
  return error;
}

/** Assignment to `__proto__` would change the prototype; this makes a property of it. */
function define(object: object, key: string, value: unknown): void {
  if (key === "__proto__") throw malformed("the key __proto__ is not allowed");
  Reflect.set(object, key, value);
}

function malformed(what: string): SporeError {
  return new SporeError("invalid-json", `the JSON is not a value: ${what}`, {
    hint: "an object whose only key looks like a tag is written with one more $",
  });
}

// ---------------------------------------------------------------- text

/** JSON.parse of UTF-8 bytes; throws invalid-json with the position. */
export function parseJson(bytes: Uint8Array): unknown {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch (cause) {
    throw new SporeError("invalid-json", "the body is not UTF-8", { cause });
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    const position = jsonErrorPosition(text);
    const line = text.slice(0, position).split("\n").length;
    const column = position - text.lastIndexOf("\n", position - 1);
    const what = position >= text.length ? "it ends too early" : "unexpected character";
    throw new SporeError(
      "invalid-json",
      `the body is not JSON: ${what} at position ${position} (line ${line}, column ${column})`,
      { cause },
    );
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

const space = /[ \t\n\r]*/y;
const scalar =
  /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;
const string = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;

/** Index of the first character that can't be there; the length if more was expected. */
export function jsonErrorPosition(text: string): number {
  let at = 0;
  const stack: ("[" | "{")[] = [];
  const skip = (pattern: RegExp): boolean => {
    pattern.lastIndex = at;
    if (!pattern.test(text)) return false;
    at = pattern.lastIndex;
    return true;
  };
  let expects: "value" | "valueOrEnd" | "key" | "keyOrEnd" | "after" = "value";
  for (;;) {
    skip(space);
    const character = text[at];
    const top = stack.at(-1);
    if (expects === "value" || expects === "valueOrEnd") {
      if (character === "]" && expects === "valueOrEnd") {
        stack.pop();
        expects = "after";
        at++;
      } else if (character === "[" || character === "{") {
        stack.push(character);
        expects = character === "[" ? "valueOrEnd" : "keyOrEnd";
        at++;
      } else if (skip(scalar)) expects = "after";
      else return at;
    } else if (expects === "after") {
      if (top === undefined) return at;
      if (character === ",") expects = top === "[" ? "value" : "key";
      else if (character === (top === "[" ? "]" : "}")) stack.pop();
      else return at;
      at++;
    } else if (character === "}" && expects === "keyOrEnd") {
      stack.pop();
      expects = "after";
      at++;
    } else {
      if (!skip(string)) return at;
      skip(space);
      if (text[at] !== ":") return at;
      expects = "value";
      at++;
    }
  }
}

function base64Of(bytes: Uint8Array): string {
  let binary = "";
  for (let offset = 0; offset < bytes.length; offset += 0x2000) {
    binary += String.fromCharCode(...bytes.subarray(offset, offset + 0x2000));
  }
  return btoa(binary);
}

function bytesOfBase64(text: string): Uint8Array {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    throw malformed("$bytes is not base64");
  }
}
