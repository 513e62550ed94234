/**
 * structuredClone, as the HTML standard has it for values without a document: class
 * instances become plain objects, shared references and cycles are kept, functions and
 * symbols are refused.
 */
import { DOMException } from "./engine.ts";

const errorNames: ReadonlySet<string> = new Set([
  "Error",
  "EvalError",
  "RangeError",
  "ReferenceError",
  "SyntaxError",
  "TypeError",
  "URIError",
]);

export function structuredClone<Value>(
  value: Value,
  options: { transfer?: readonly unknown[] } = {},
): Value {
  if (options.transfer && options.transfer.length > 0) {
    throw new DOMException("structuredClone can't transfer in a guest", "DataCloneError");
  }
  return cloneOf(value, new Map()) as Value; // The clone has its original's shape.
}

function cloneOf(value: unknown, seen: Map<object, unknown>): unknown {
  if (typeof value === "function" || typeof value === "symbol") throw refusal(value);
  if (typeof value !== "object" || value === null) return value;
  if (seen.has(value)) return seen.get(value);
  const leaf = cloneLeaf(value, seen);
  if (leaf !== undefined) {
    seen.set(value, leaf);
    return leaf;
  }
  if (value instanceof Map) return cloneMap(value, seen);
  if (value instanceof Set) return cloneSet(value, seen);
  if (value instanceof Error) return cloneError(value, seen);
  return cloneProperties(value, seen);
}

/** Values that contain no others, and buffers with their views. */
function cloneLeaf(value: object, seen: Map<object, unknown>): object | undefined {
  if (value instanceof Date) return new Date(value.getTime());
  if (value instanceof RegExp) return new RegExp(value.source, value.flags);
  if (value instanceof ArrayBuffer) return value.slice(0);
  if (ArrayBuffer.isView(value)) return cloneView(value, seen);
  if (value instanceof Boolean || value instanceof Number || value instanceof String) {
    return Object(value.valueOf());
  }
  if (isUncloneable(value)) throw refusal(value);
  return undefined;
}

function isUncloneable(value: object): boolean {
  return [Promise, WeakMap, WeakSet, WeakRef].some((kind) => value instanceof kind);
}

function cloneView(view: ArrayBufferView, seen: Map<object, unknown>): object {
  const buffer = cloneOf(view.buffer, seen) as ArrayBuffer;
  if (view instanceof DataView) return new DataView(buffer, view.byteOffset, view.byteLength);
  const name = Object.prototype.toString.call(view).slice("[object ".length, -1);
  const kind: unknown = Reflect.get(globalThis, name);
  if (typeof kind !== "function") throw refusal(view);
  // Every view that is not a DataView is a typed array, and has a length.
  const { length } = view as Uint8Array;
  return Reflect.construct(kind, [buffer, view.byteOffset, length]);
}

function cloneMap(source: Map<unknown, unknown>, seen: Map<object, unknown>): unknown {
  const target = new Map<unknown, unknown>();
  seen.set(source, target);
  for (const [key, value] of [...source]) target.set(cloneOf(key, seen), cloneOf(value, seen));
  return target;
}

function cloneSet(source: Set<unknown>, seen: Map<object, unknown>): unknown {
  const target = new Set<unknown>();
  seen.set(source, target);
  for (const value of [...source]) target.add(cloneOf(value, seen));
  return target;
}

function cloneError(source: Error, seen: Map<object, unknown>): unknown {
  const name = errorNames.has(source.name) ? source.name : "Error";
  const kind: unknown = Reflect.get(globalThis, name);
  const target: object = Reflect.construct(typeof kind === "function" ? kind : Error, []);
  seen.set(source, target);
  const members: Record<string, unknown> = { message: String(source.message) };
  if (typeof source.stack === "string") members.stack = source.stack;
  if ("cause" in source) members.cause = cloneOf(source.cause, seen);
  for (const [key, value] of Object.entries(members)) {
    Object.defineProperty(target, key, { value, writable: true, configurable: true });
  }
  return target;
}

function cloneProperties(source: object, seen: Map<object, unknown>): unknown {
  const target: object = Array.isArray(source) ? new Array(source.length) : {};
  seen.set(source, target);
  for (const [key, value] of Object.entries(source)) {
    // Defined, not assigned: a key named __proto__ stays a key.
    Object.defineProperty(target, key, {
      value: cloneOf(value, seen),
      writable: true,
      enumerable: true,
      configurable: true,
    });
  }
  return target;
}

function refusal(value: unknown): Error {
  const what = typeof value === "function" ? `function ${value.name}` : shortName(value);
  return new DOMException(`${what} could not be cloned`, "DataCloneError");
}

function shortName(value: unknown): string {
  return typeof value === "symbol" ? String(value) : Object.prototype.toString.call(value);
}
