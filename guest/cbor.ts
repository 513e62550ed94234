/**
 * The codec for user values and protocol messages: a subset of CBOR (RFC 8949), lean
 * enough for an interpreter, strict enough for hostile bytes. Imports nothing.
 *
 *   JavaScript                     CBOR
 *   undefined null true false      f7 f6 f5 f4
 *   safe integers                  major types 0 and 1
 *   other numbers, -0, NaN         float64 (NaN as fb 7ff8000000000000)
 *   string                         text; a lone surrogate becomes U+FFFD
 *   Uint8Array                     byte string
 *   array, plain object            array, map with text keys
 *   Date                           1(seconds), integer or float64; NaN for an invalid date;
 *                                  0(ISO text) where float64 seconds would lose the millisecond
 *   bigint                         2(bytes), 3(bytes); up to 4096 bytes
 *   Set, Map                       258([...]), 259({...}) with keys of any kind
 *   typed arrays (RFC 8746, LE)    64 Uint8 (read only) 68 Uint8Clamped 69 Uint16 70 Uint32
 *                                  71 BigUint64 72 Int8 77 Int16 78 Int32 79 BigInt64
 *                                  85 Float32 86 Float64, each of a byte string
 *   ArrayBuffer                    27(["ArrayBuffer", bytes])
 *   Error                          27(["Error", name, message, {stack?, cause?, errors?, fields?}])
 *   Ref                            27(["Ref", hash, size])
 *
 * Read but never written: float16, float32, integers of any width (64-bit ones outside the
 * safe range become bigint), 64(bytes) as Uint8Array. Refused: indefinite lengths, other
 * tags and simple values, text that isn't UTF-8, duplicate keys, nesting over 128,
 * trailing bytes. Both directions take linear time.
 */

/** Levels of arrays, maps and tags inside each other. */
export const depthMax = 128;
/** Bytes of one encoded value; stops values that share a part too often. */
export const encodedBytesMax = 64 * 1024 * 1024;
export const bigintBytesMax = 4096;
/** A scratch buffer over this is given back: it would stay in the run's memory image. */
const scratchBytesMax = 64 * 1024;

/** A value can't be stored; `path` says which part, such as `$.items[3].callback`. */
export class SerialisationError extends Error {
  readonly code = "not-serialisable";
  readonly path: string;

  constructor(path: string, reason: string) {
    // The engine's ten frames are all ours if the value is deep; its author's line is behind them.
    const engine = Error as { stackTraceLimit?: number };
    const { stackTraceLimit } = engine;
    engine.stackTraceLimit = 60;
    super(`${path}: ${reason}`);
    engine.stackTraceLimit = stackTraceLimit ?? 10;
    Object.defineProperty(this, "name", { value: "SerialisationError", configurable: true });
    this.path = path;
  }
}

/** Bytes that aren't an item of the subset above. */
export class CborError extends Error {
  readonly code = "invalid-cbor";

  constructor(reason: string, offset: number) {
    super(`invalid CBOR at byte ${offset}: ${reason}`);
    Object.defineProperty(this, "name", { value: "CborError", configurable: true });
  }
}

/** A value that is stored by its content: what `put` gives and `get` takes. */
export class Ref<Value = unknown> {
  readonly hash: string;
  readonly size: number;
  /** Never present: carries the type. */
  declare readonly value?: Value;

  constructor(hash: string, size: number) {
    this.hash = hash;
    this.size = size;
  }
}

/** An item that is already encoded, written as it is. */
export class Raw {
  readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }
}

export interface EncodeOptions {
  /** Write graph nodes (`add.step(…)`) as GraphValue; without it they are refused. */
  readonly graphs?: boolean;
}

type ErrorMaker = (message: string) => Error;

const errorMakers = new Map<string, ErrorMaker>([
  ["Error", (message) => new Error(message)],
  ["TypeError", (message) => new TypeError(message)],
  ["RangeError", (message) => new RangeError(message)],
  ["SyntaxError", (message) => new SyntaxError(message)],
  ["ReferenceError", (message) => new ReferenceError(message)],
  ["EvalError", (message) => new EvalError(message)],
  ["URIError", (message) => new URIError(message)],
  ["AggregateError", (message) => new AggregateError([], message)],
]);

/** Errors of this name are decoded to what `make` makes, so that `instanceof` holds. */
export function registerError(name: string, make: ErrorMaker): void {
  errorMakers.set(name, make);
}

/** An empty error of the class registered for `name`, else an Error that carries the name. */
export function makeError(name: string, message: string): Error {
  const make = errorMakers.get(name);
  const error = make === undefined ? new Error(message) : make(message);
  if (error.name !== name) hide(error, "name", name);
  return error;
}

/** Sets a property that enumeration doesn't show, as the engine itself does for errors. */
export function hide(target: object, key: string, value: unknown): void {
  Object.defineProperty(target, key, { value, writable: true, configurable: true });
}

/** Names that an error keeps outside of its user fields. */
const errorKeys = new Set(["name", "message", "stack", "cause", "errors"]);

/** Own enumerable fields of an error, other than the standard ones. */
export function errorFields(error: Error): Record<string, unknown> | undefined {
  let fields: Record<string, unknown> | undefined;
  for (const key of Object.keys(error)) {
    if (errorKeys.has(key)) continue;
    fields ??= {};
    define(fields, key, (error as unknown as Record<string, unknown>)[key]);
  }
  return fields;
}

/** Puts user fields back on an error; a field never replaces what a class made read-only. */
export function assignErrorFields(error: Error, fields: unknown): void {
  if (typeof fields !== "object" || fields === null) return;
  for (const key of Object.keys(fields)) {
    if (errorKeys.has(key)) continue;
    const value = (fields as Record<string, unknown>)[key];
    Object.defineProperty(error, key, {
      value,
      writable: true,
      configurable: true,
      enumerable: true,
    });
  }
}

// The writer's state is module-level because closure variables are the fastest an
// interpreter has.

let target: Uint8Array = new Uint8Array(1024);
let at = 0;
/** Large byte strings aren't copied but kept as they are, between what is written before them. */
let spans: Uint8Array[] | undefined;
let isWriting = false;
let hasGraphs = false;
let nodeIds: Map<object, number> | undefined;
/** Where the writer is: the key inside each container, and the containers themselves. */
let keys: (string | number | undefined)[] = [];
let containers: (object | undefined)[] = [];

const floatView = new DataView(new ArrayBuffer(8));
const floatBytes = new Uint8Array(floatView.buffer);

/** The value as one CBOR item. Throws SerialisationError. */
export function encode(value: unknown, options?: EncodeOptions): Uint8Array {
  if (isWriting) return encodeWithin(() => encode(value, options));
  isWriting = true;
  hasGraphs = options?.graphs === true;
  try {
    write(value, 0);
    return target.slice(0, at);
  } finally {
    endWriting();
  }
}

/**
 * As `encode`, in parts that follow each other: large byte strings are views of the value's own
 * memory, so a value that is nearly all of what there is needs no room for a copy.
 */
export function encodeSpans(value: unknown): readonly Uint8Array[] {
  if (isWriting) throw new SerialisationError("$", "spans are made while something is encoded");
  const made: Uint8Array[] = [];
  spans = made;
  isWriting = true;
  hasGraphs = false;
  try {
    write(value, 0);
    endSpan(made);
    return made;
  } finally {
    endWriting();
  }
}

function endSpan(made: Uint8Array[]): void {
  if (at > 0) made.push(target.slice(0, at));
  target.fill(0, 0, at);
  at = 0;
}

/** Items one after the other, `Raw` ones as they are: for maps most of which is known before. */
export function encodeSequence(items: readonly unknown[]): Uint8Array {
  if (isWriting) return encodeWithin(() => encodeSequence(items));
  isWriting = true;
  hasGraphs = false;
  try {
    writeSequence(items);
    return target.slice(0, at);
  } finally {
    endWriting();
  }
}

function writeSequence(items: readonly unknown[]): void {
  for (let i = 0; i < items.length; i++) {
    const item = items[i];
    if (item instanceof Raw) writeRaw(item.bytes);
    else if (typeof item === "string") writeText(item);
    else if (item instanceof Uint8Array) writeBytes(item);
    else write(item, 0);
  }
}

/**
 * An array that is encoded as it grows. One buffer, not one for each item: what is freed
 * stays in the memory image as it was, so little is left behind, and only zeros.
 */
export class ItemList {
  #bytes: Uint8Array = new Uint8Array(1024);
  #length = 0;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  push(value: unknown): void {
    const bytes = encode(value);
    this.#append(bytes, bytes.length);
    this.#count++;
  }

  /** Adds a byte string of the items. */
  pushWrapped(items: readonly unknown[]): void {
    if (isWriting) throw new SerialisationError("$", "a list grows while something is encoded");
    isWriting = true;
    hasGraphs = false;
    try {
      writeSequence(items);
      const end = at;
      writeHead(0x40, end);
      // The head was written behind what it belongs in front of.
      this.#append(target.subarray(end, at), at - end);
      this.#append(target.subarray(0, end), end);
      this.#count++;
    } finally {
      endWriting();
    }
  }

  #append(bytes: Uint8Array, count: number): void {
    const needed = this.#length + count;
    if (needed > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(needed, this.#bytes.length * 2));
      larger.set(this.#bytes);
      this.#bytes.fill(0);
      this.#bytes = larger;
    }
    this.#bytes.set(bytes, this.#length);
    this.#length = needed;
  }

  /** The array's head and its items, for `encodeSequence`. */
  parts(): readonly [Raw, Raw] {
    const count = this.#count;
    const head = Uint8Array.of(0x9a, count >>> 24, count >>> 16, count >>> 8, count);
    return [new Raw(head), new Raw(this.#bytes.subarray(0, this.#length))];
  }

  clear(): void {
    this.#bytes.fill(0, 0, this.#length);
    if (this.#bytes.length > scratchBytesMax) this.#bytes = new Uint8Array(1024);
    this.#length = 0;
    this.#count = 0;
  }
}

function endWriting(): void {
  // Zeros again: leftovers would only make the memory image larger.
  target.fill(0, 0, at);
  if (target.length > scratchBytesMax) target = new Uint8Array(1024);
  at = 0;
  spans = undefined;
  isWriting = false;
  containers.length = 0;
  nodeIds = undefined;
}

/** For a getter of a user's object that encodes while the object itself is encoded. */
function encodeWithin(inner: () => Uint8Array): Uint8Array {
  const outer = { target, at, spans, hasGraphs, nodeIds, keys, containers };
  target = new Uint8Array(1024);
  at = 0;
  spans = undefined;
  isWriting = false;
  keys = [];
  containers = [];
  try {
    return inner();
  } finally {
    ({ target, at, spans, hasGraphs, nodeIds, keys, containers } = outer);
    isWriting = true;
  }
}

function fail(depth: number, reason: string): never {
  throw new SerialisationError(pathAt(depth), reason);
}

function pathAt(depth: number): string {
  let path = "$";
  for (let level = 0; level < depth; level++) {
    const key = keys[level];
    if (key === undefined) continue;
    if (typeof key === "number") path += `[${key}]`;
    else if (/^[A-Za-z_$][\w$]*$/.test(key)) path += `.${key}`;
    else path += `[${JSON.stringify(key)}]`;
  }
  return path;
}

/** Makes room for `count` more bytes. */
function reserve(count: number): void {
  const needed = at + count;
  if (needed <= target.length) return;
  if (needed > encodedBytesMax) {
    throw new SerialisationError("$", `the value takes more than ${encodedBytesMax} bytes`);
  }
  const larger = new Uint8Array(Math.max(needed, target.length * 2));
  larger.set(target.subarray(0, at));
  target.fill(0, 0, at);
  target = larger;
}

function writeHead(major: number, count: number): void {
  reserve(9);
  if (count < 24) {
    target[at++] = major | count;
  } else if (count < 0x100) {
    target[at++] = major | 24;
    target[at++] = count;
  } else if (count < 0x10000) {
    target[at++] = major | 25;
    target[at++] = count >> 8;
    target[at++] = count & 0xff;
  } else {
    writeLongHead(major, count);
  }
}

function writeLongHead(major: number, count: number): void {
  const high = Math.floor(count / 0x100000000);
  if (high === 0) {
    target[at++] = major | 26;
  } else {
    target[at++] = major | 27;
    writeUint32(high);
  }
  writeUint32(count >>> 0);
}

function writeUint32(value: number): void {
  target[at++] = value >>> 24;
  target[at++] = (value >>> 16) & 0xff;
  target[at++] = (value >>> 8) & 0xff;
  target[at++] = value & 0xff;
}

function write(value: unknown, depth: number): void {
  switch (typeof value) {
    case "string":
      writeText(value);
      return;
    case "number":
      writeNumber(value);
      return;
    case "boolean":
      writeByte(value ? 0xf5 : 0xf4);
      return;
    case "undefined":
      writeByte(0xf7);
      return;
    case "bigint":
      writeBigint(value, depth);
      return;
    case "object":
      if (value === null) writeByte(0xf6);
      else writeObject(value, depth);
      return;
    default:
      fail(depth, `a ${typeof value} can't be stored`);
  }
}

function writeByte(byte: number): void {
  reserve(1);
  target[at++] = byte;
}

function writeNumber(value: number): void {
  if (Number.isSafeInteger(value) && !Object.is(value, -0)) {
    if (value >= 0) writeHead(0x00, value);
    else writeHead(0x20, -1 - value);
    return;
  }
  reserve(9);
  target[at++] = 0xfb;
  // One NaN only: its payload could tell machines apart.
  if (Number.isNaN(value)) {
    floatView.setUint32(0, 0x7ff80000);
    floatView.setUint32(4, 0);
  } else {
    floatView.setFloat64(0, value);
  }
  target.set(floatBytes, at);
  at += 8;
}

function writeText(text: string): void {
  const length = text.length;
  // Room for the worst case: three bytes for each code unit, and the head.
  reserve(length * 3 + 9);
  const start = at;
  const headBytes = headSize(length);
  let position = start + headBytes;
  const bytes = target;
  let index = 0;
  for (; index < length; index++) {
    const unit = text.charCodeAt(index);
    if (unit > 127) break;
    bytes[position++] = unit;
  }
  if (index < length) position = writeWide(text, index, position);
  const count = position - start - headBytes;
  if (headSize(count) !== headBytes) {
    // The text grew past what the head was reserved for: move it up.
    bytes.copyWithin(start + headSize(count), start + headBytes, position);
  }
  at = start;
  writeHead(0x60, count);
  at += count;
}

function headSize(count: number): number {
  if (count < 24) return 1;
  if (count < 0x100) return 2;
  return count < 0x10000 ? 3 : 5;
}

/** UTF-8 from `index` on; returns the position after it. */
function writeWide(text: string, index: number, position: number): number {
  const bytes = target;
  for (let i = index; i < text.length; i++) {
    let unit = text.charCodeAt(i);
    if (unit < 0x80) {
      bytes[position++] = unit;
      continue;
    }
    if (unit < 0x800) {
      bytes[position++] = 0xc0 | (unit >> 6);
      bytes[position++] = 0x80 | (unit & 0x3f);
      continue;
    }
    if (unit >= 0xd800 && unit < 0xe000) {
      const next = i + 1 < text.length ? text.charCodeAt(i + 1) : 0;
      if (unit < 0xdc00 && next >= 0xdc00 && next < 0xe000) {
        const point = 0x10000 + ((unit & 0x3ff) << 10) + (next & 0x3ff);
        bytes[position++] = 0xf0 | (point >> 18);
        bytes[position++] = 0x80 | ((point >> 12) & 0x3f);
        bytes[position++] = 0x80 | ((point >> 6) & 0x3f);
        bytes[position++] = 0x80 | (point & 0x3f);
        i++;
        continue;
      }
      unit = 0xfffd;
    }
    bytes[position++] = 0xe0 | (unit >> 12);
    bytes[position++] = 0x80 | ((unit >> 6) & 0x3f);
    bytes[position++] = 0x80 | (unit & 0x3f);
  }
  return position;
}

function writeBytes(bytes: Uint8Array): void {
  writeHead(0x40, bytes.length);
  writeRaw(bytes);
}

function writeRaw(bytes: Uint8Array): void {
  if (spans !== undefined && bytes.length > scratchBytesMax) {
    endSpan(spans);
    spans.push(bytes);
    return;
  }
  reserve(bytes.length);
  target.set(bytes, at);
  at += bytes.length;
}

function writeBigint(value: bigint, depth: number): void {
  if (depth >= depthMax) fail(depth, `nested more than ${depthMax} deep`);
  const isNegative = value < 0n;
  const digits = (isNegative ? -1n - value : value).toString(16);
  const even = digits.length % 2 === 0 ? digits : `0${digits}`;
  const count = even === "00" ? 0 : even.length / 2;
  if (count > bigintBytesMax) fail(depth, `a bigint over ${bigintBytesMax} bytes can't be stored`);
  writeByte(isNegative ? 0xc3 : 0xc2);
  writeHead(0x40, count);
  reserve(count);
  for (let i = 0; i < count; i++) {
    target[at++] = Number.parseInt(even.slice(i * 2, i * 2 + 2), 16);
  }
}

function writeObject(value: object, depth: number): void {
  if (depth >= depthMax) failDeep(value, depth);
  containers[depth] = value;
  if (Array.isArray(value)) {
    writeArray(value, depth);
    return;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype === Object.prototype || prototype === null) {
    writePlain(value, depth);
    return;
  }
  if (prototype === Raw.prototype) {
    writeRaw((value as Raw).bytes);
    return;
  }
  if (value instanceof Uint8Array && !(value instanceof Uint8ClampedArray)) {
    writeBytes(value);
    return;
  }
  if (value instanceof Error) {
    writeError(value, depth);
    return;
  }
  if (value instanceof Date) {
    writeDate(value);
    return;
  }
  if (value instanceof Map) {
    writeMap(value, depth);
    return;
  }
  if (value instanceof Set) {
    writeSet(value, depth);
    return;
  }
  if (ArrayBuffer.isView(value)) {
    writeTyped(value, depth);
    return;
  }
  if (value instanceof ArrayBuffer) {
    writeBuffer(value, depth);
    return;
  }
  if (value instanceof Ref) {
    writeRef(value, depth);
    return;
  }
  if (isNode(value)) {
    writeNode(value, depth);
    return;
  }
  // An object of another realm has another Object.prototype, but it is plain as well.
  if (isForeignPlain(prototype)) {
    writePlain(value, depth);
    return;
  }
  fail(depth, `${describeInstance(value)} can't be stored`);
}

function failDeep(value: object, depth: number): never {
  const chain = [...containers.slice(0, depth), value];
  for (let i = 0; i < depth; i++) {
    // Tags are levels without an object of their own.
    if (chain[i] === undefined) continue;
    const again = chain.indexOf(chain[i], i + 1);
    if (again > 0) fail(again, `the value contains itself (as ${pathAt(i)})`);
  }
  fail(depth, `nested more than ${depthMax} deep`);
}

function isForeignPlain(prototype: unknown): boolean {
  return (
    typeof prototype === "object" &&
    prototype !== null &&
    Object.getPrototypeOf(prototype) === null &&
    Object.hasOwn(prototype, "hasOwnProperty")
  );
}

function describeInstance(value: object): string {
  const maker: unknown = (value as { constructor?: unknown }).constructor;
  const name = typeof maker === "function" ? maker.name : "";
  if (value instanceof Promise) return "a promise (await it first)";
  return name === "" ? "an instance of a class" : `an instance of ${name}`;
}

function writeArray(items: readonly unknown[], depth: number): void {
  const length = items.length;
  writeHead(0x80, length);
  for (let i = 0; i < length; i++) {
    keys[depth] = i;
    write(items[i], depth + 1);
  }
}

function writePlain(value: object, depth: number): void {
  const names = Object.keys(value);
  writeHead(0xa0, names.length);
  for (let i = 0; i < names.length; i++) {
    const name = names[i] as string;
    keys[depth] = name;
    writeText(name);
    write((value as Record<string, unknown>)[name], depth + 1);
  }
}

function writeDate(date: Date): void {
  const ms = date.getTime();
  const seconds = ms / 1000;
  if (!Number.isNaN(ms) && Math.round(seconds * 1000) !== ms) {
    writeByte(0xc0);
    writeText(date.toISOString());
    return;
  }
  writeByte(0xc1);
  writeNumber(seconds === 0 ? 0 : seconds);
}

function writeTag(tag: number): void {
  writeHead(0xc0, tag);
}

function writeMap(map: ReadonlyMap<unknown, unknown>, depth: number): void {
  enterTag(map, depth);
  writeTag(259);
  writeHead(0xa0, map.size);
  let i = 0;
  for (const [key, value] of map) {
    keys[depth] = `key ${i}`;
    write(key, depth + 2);
    keys[depth] = typeof key === "string" || typeof key === "number" ? key : `value ${i}`;
    write(value, depth + 2);
    i++;
  }
}

function writeSet(set: ReadonlySet<unknown>, depth: number): void {
  enterTag(set, depth);
  writeTag(258);
  writeHead(0x80, set.size);
  let i = 0;
  for (const value of set) {
    keys[depth] = i++;
    write(value, depth + 2);
  }
}

/** A tag and what is in it are two levels for a reader, and one key for a person. */
function enterTag(value: object, depth: number): void {
  if (depth + 1 >= depthMax) failDeep(value, depth + 1);
  containers[depth + 1] = undefined;
  keys[depth + 1] = undefined;
}

type TypedArray =
  | Uint8ClampedArray
  | Uint16Array
  | Uint32Array
  | BigUint64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Float32Array
  | Float64Array;

type TypedArrayMaker = {
  readonly BYTES_PER_ELEMENT: number;
  readonly name: string;
  new (buffer: ArrayBuffer): TypedArray;
};

const typedArrays: ReadonlyMap<number, TypedArrayMaker> = new Map<number, TypedArrayMaker>([
  [68, Uint8ClampedArray],
  [69, Uint16Array],
  [70, Uint32Array],
  [71, BigUint64Array],
  [72, Int8Array],
  [77, Int16Array],
  [78, Int32Array],
  [79, BigInt64Array],
  [85, Float32Array],
  [86, Float64Array],
]);

function writeTyped(view: ArrayBufferView, depth: number): void {
  for (const [tag, maker] of typedArrays) {
    if (!(view instanceof (maker as unknown as new () => object))) continue;
    writeTag(tag);
    writeBytes(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
    return;
  }
  fail(depth, `${describeInstance(view)} can't be stored`);
}

function writeBuffer(buffer: ArrayBuffer, depth: number): void {
  enterTag(buffer, depth);
  writeTag(27);
  writeHead(0x80, 2);
  writeText("ArrayBuffer");
  writeBytes(new Uint8Array(buffer));
}

function writeRef(ref: Ref, depth: number): void {
  enterTag(ref, depth);
  writeTag(27);
  writeHead(0x80, 3);
  writeText("Ref");
  writeText(ref.hash);
  writeNumber(ref.size);
}

function writeError(error: Error, depth: number): void {
  enterTag(error, depth);
  if (depth + 2 >= depthMax) failDeep(error, depth + 2);
  containers[depth + 2] = undefined;
  writeTag(27);
  writeHead(0x80, 4);
  writeText("Error");
  writeText(String(error.name));
  writeText(String(error.message));
  const details: Record<string, unknown> = {};
  if (typeof error.stack === "string") details["stack"] = error.stack;
  if (error.cause !== undefined) details["cause"] = error.cause;
  const errors: unknown = (error as { errors?: unknown }).errors;
  if (Array.isArray(errors)) details["errors"] = errors;
  const fields = errorFields(error);
  if (fields !== undefined) details["fields"] = fields;
  Object.assign(details, hiddenParts(error));
  keys[depth] = undefined;
  writePlain(details, depth + 2);
}

/** What an error of the SDK keeps out of its fields: to be known by, and whether to try again. */
function hiddenParts(error: Error): Record<string, unknown> {
  const parts: Record<string, unknown> = {};
  for (const key of ["code", "class", "retryable"] as const) {
    const own = Object.getOwnPropertyDescriptor(error, key);
    if (own === undefined || own.enumerable === true) continue;
    // Only what says something: an error that may be tried again is like any other.
    const isTelling = key === "retryable" ? own.value === false : typeof own.value === "string";
    if (isTelling) parts[key] = own.value;
  }
  return parts;
}

interface Node {
  readonly $step: string;
  readonly args: readonly unknown[];
  readonly options?: unknown;
}

/** A lazy node of a graph: guest/define.ts makes them; by shape, as this file imports nothing. */
function isNode(value: object): value is Node {
  return typeof (value as { $step?: unknown }).$step === "string";
}

function writeNode(node: Node, depth: number): void {
  if (!hasGraphs) {
    fail(
      depth,
      `a graph node (${node.$step}) can't be stored: return it, run it or pass it to .step`,
    );
  }
  nodeIds ??= new Map();
  const known = nodeIds.get(node);
  if (known !== undefined) {
    writePlain({ $ref: known }, depth);
    return;
  }
  // Written only after its arguments, so that a node can't refer to itself.
  const id = nodeIds.size + 1;
  nodeIds.set(node, id);
  const graphValue: Record<string, unknown> = { $step: node.$step, args: node.args, $id: id };
  if (node.options !== undefined) graphValue["options"] = node.options;
  writePlain(graphValue, depth);
}

// The reader. No user code runs inside it, so its state needs no saving.

let source: Uint8Array = new Uint8Array(0);
let offset = 0;

/** The one item that `bytes` are. Throws CborError. */
export function decode(bytes: Uint8Array): unknown {
  source = bytes;
  offset = 0;
  try {
    const value = read(0);
    if (offset !== bytes.length) refuse("bytes after the end");
    return value;
  } finally {
    source = new Uint8Array(0);
  }
}

/** What an encoded value is made of, if it is one byte string or an array of numbers. */
export interface EncodedBytes {
  /** Where its bytes begin, and how many they are. */
  readonly at: number;
  readonly length: number;
  /** "Uint8Array", "Float64Array" …: what its bytes are to JavaScript. */
  readonly type: string;
  /** The value of these bytes, in their memory. */
  make(bytes: Uint8Array<ArrayBuffer>): unknown;
}

/** Looks at the first bytes of an encoded value only; `encodedBytesHeadMax` of them are enough. */
export function encodedBytes(head: Uint8Array): EncodedBytes | undefined {
  const tag = head[0] === 0xd8 ? head[1] : undefined;
  const maker = tag === undefined ? undefined : typedArrays.get(tag);
  if (tag !== undefined && tag !== 64 && maker === undefined) return undefined;
  const start = tag === undefined ? 0 : 2;
  const first = head[start];
  if (first === undefined || first >> 5 !== 2) return undefined;
  const info = first & 31;
  const size = info < 24 ? 0 : 2 ** (info - 24);
  if (size > 8 || head.length < start + 1 + size) return undefined;
  let length = info < 24 ? info : 0;
  for (let index = 0; index < size; index += 1) {
    length = length * 256 + (head[start + 1 + index] ?? 0);
  }
  if (length % (maker?.BYTES_PER_ELEMENT ?? 1) !== 0) return undefined;
  return {
    at: start + 1 + size,
    length,
    type: maker?.name ?? "Uint8Array",
    make: (bytes) => (maker === undefined ? bytes : new maker(bytes.buffer)),
  };
}

/** The first bytes of an encoded array, before the head of its bytes; undefined if it is none. */
export function encodedArrayTag(type: string): Uint8Array | undefined {
  if (type === "Uint8Array") return new Uint8Array(0);
  for (const [tag, maker] of typedArrays) {
    if (maker.name === type) return Uint8Array.of(0xd8, tag);
  }
  return undefined;
}

/** The largest head of an encoded byte string. */
export const encodedBytesHeadMax = 11;

function refuse(reason: string): never {
  throw new CborError(reason, offset);
}

function readByte(): number {
  const byte = source[offset];
  if (byte === undefined) refuse("the bytes end too early");
  offset++;
  return byte;
}

function read(depth: number): unknown {
  const first = source[offset];
  if (first === undefined) refuse("the bytes end too early");
  offset++;
  const major = first >> 5;
  if (major === 7) return readSimple(first & 31);
  const info = first & 31;
  const count = info < 24 ? info : readCount(info);
  if (major === 3) return readText(checkLength(count, 1));
  if (major === 2) return readBytes(checkLength(count, 1));
  if (major === 0) return count;
  if (major === 1) return negative(count);
  if (depth >= depthMax) refuse(`nested more than ${depthMax} deep`);
  if (major === 4) return readArray(checkLength(count, 1), depth);
  if (major === 5) return readPlain(checkLength(count, 2), depth);
  return readTagged(count, depth);
}

/** A number, or a bigint where a number would lose digits. */
function readCount(info: number): number | bigint {
  if (info === 24) return readByte();
  if (info === 25) return readByte() * 0x100 + readByte();
  if (info === 26) return readUint32();
  if (info !== 27) refuse("indefinite or reserved length");
  const high = readUint32();
  const low = readUint32();
  if (high < 0x200000) return high * 0x100000000 + low;
  return (BigInt(high) << 32n) | BigInt(low);
}

function readUint32(): number {
  return readByte() * 0x1000000 + readByte() * 0x10000 + readByte() * 0x100 + readByte();
}

function negative(count: number | bigint): number | bigint {
  if (typeof count === "bigint") return -1n - count;
  const value = -1 - count;
  return Number.isSafeInteger(value) ? value : -1n - BigInt(count);
}

/** A length MUST fit into the bytes that are left before anything is allocated for it. */
function checkLength(count: number | bigint, bytesEach: number): number {
  if (typeof count === "bigint" || count * bytesEach > source.length - offset) {
    refuse("a length is larger than the bytes that are left");
  }
  return count;
}

function readSimple(info: number): unknown {
  switch (info) {
    case 20:
      return false;
    case 21:
      return true;
    case 22:
      return null;
    case 23:
      return undefined;
    case 25:
      return readFloat16();
    case 26:
      return readFloat(4);
    case 27:
      return readFloat(8);
    default:
      refuse("reserved simple value");
  }
}

function readFloat(size: 4 | 8): number {
  for (let i = 0; i < size; i++) floatBytes[i] = readByte();
  return size === 4 ? floatView.getFloat32(0) : floatView.getFloat64(0);
}

function readFloat16(): number {
  const half = readByte() * 0x100 + readByte();
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

function readBytes(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  bytes.set(source.subarray(offset, offset + length));
  offset += length;
  return bytes;
}

/** Arguments that `apply` takes at once. */
const chunkUnits = 4096;

function fromCodes(codes: Uint8Array | Uint16Array, start: number, end: number): string {
  const fromCharCode = String.fromCharCode as (...units: number[]) => string;
  // `apply` takes anything array-like; its type says array.
  const part = (from: number, to: number): number[] =>
    codes.subarray(from, to) as unknown as number[];
  if (end - start <= chunkUnits) return fromCharCode.apply(null, part(start, end));
  let text = "";
  for (let from = start; from < end; from += chunkUnits) {
    text += fromCharCode.apply(null, part(from, Math.min(from + chunkUnits, end)));
  }
  return text;
}

/** Bytes below this are checked one by one; above, one regular expression is quicker. */
const shortText = 32;
const wide = /[^\0-\x7f]/;

function readText(length: number): string {
  const end = offset + length;
  const bytes = source;
  if (length === 0) return "";
  if (length <= shortText) {
    let bits = 0;
    for (let i = offset; i < end; i++) bits |= bytes[i] as number;
    if (bits > 127) return readWide(end);
    const text = fromCodes(bytes, offset, end);
    offset = end;
    return text;
  }
  const text = fromCodes(bytes, offset, end);
  if (wide.test(text)) return readWide(end);
  offset = end;
  return text;
}

function readWide(end: number): string {
  const bytes = source;
  const units = new Uint16Array(end - offset);
  let count = 0;
  while (offset < end) {
    const first = bytes[offset++] as number;
    if (first < 0x80) {
      units[count++] = first;
      continue;
    }
    const point = readPoint(first, end);
    if (point < 0x10000) {
      units[count++] = point;
      continue;
    }
    units[count++] = 0xd7c0 + (point >> 10);
    units[count++] = 0xdc00 + (point & 0x3ff);
  }
  return fromCodes(units, 0, count);
}

/** The rest of a code point of several bytes; refuses overlong forms and surrogates. */
function readPoint(first: number, end: number): number {
  const size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (first < 0xc2 || first > 0xf4 || offset + size - 1 > end) refuse("text that isn't UTF-8");
  let point = first & (0xff >> (size + 1));
  for (let i = 1; i < size; i++) {
    const next = source[offset++] as number;
    if ((next & 0xc0) !== 0x80) refuse("text that isn't UTF-8");
    point = (point << 6) | (next & 0x3f);
  }
  const isOverlong = (size === 3 && point < 0x800) || (size === 4 && point < 0x10000);
  if (isOverlong || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) {
    refuse("text that isn't UTF-8");
  }
  return point;
}

function readArray(length: number, depth: number): unknown[] {
  // Not `new Array(length)`: nested lengths could each claim all the bytes that are left.
  const items: unknown[] = [];
  for (let i = 0; i < length; i++) items.push(read(depth + 1));
  return items;
}

function define(record: Record<string, unknown>, key: string, value: unknown): void {
  if (key === "__proto__") {
    Object.defineProperty(record, key, {
      value,
      writable: true,
      enumerable: true,
      configurable: true,
    });
  } else {
    record[key] = value;
  }
}

function readPlain(length: number, depth: number): Record<string, unknown> {
  const record: Record<string, unknown> = {};
  for (let i = 0; i < length; i++) {
    const key = read(depth + 1);
    if (typeof key !== "string") refuse("a key that isn't text");
    define(record, key, read(depth + 1));
  }
  if (length > 1 && Object.keys(record).length !== length) refuse("a key occurs twice");
  return record;
}

function readTagged(tag: number | bigint, depth: number): unknown {
  switch (tag) {
    case 0:
      return readDateText(depth);
    case 1:
      return readDate(depth);
    case 2:
      return readBigint(depth);
    case 3:
      return -1n - readBigint(depth);
    case 27:
      return readTyped27(depth);
    case 64:
      return readTaggedBytes(depth);
    case 258:
      return readSet(depth);
    case 259:
      return readMap(depth);
    default: {
      const maker = typeof tag === "number" ? typedArrays.get(tag) : undefined;
      if (maker === undefined) refuse(`tag ${tag} is not known`);
      const bytes = readTaggedBytes(depth);
      if (bytes.length % maker.BYTES_PER_ELEMENT !== 0) refuse(`${maker.name} of odd length`);
      return new maker(bytes.buffer as ArrayBuffer);
    }
  }
}

function readTaggedBytes(depth: number): Uint8Array {
  const bytes = read(depth + 1);
  if (!(bytes instanceof Uint8Array)) refuse("a tag needs a byte string");
  return bytes;
}

function readDate(depth: number): Date {
  const seconds = read(depth + 1);
  if (typeof seconds !== "number") refuse("a date needs a number");
  return new Date(Math.round(seconds * 1000));
}

const isoDate = /^(\d{4}|[+-]\d{6})-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/;

function readDateText(depth: number): Date {
  const text = read(depth + 1);
  if (typeof text !== "string" || !isoDate.test(text)) refuse("a date needs ISO text");
  return new Date(text);
}

function readBigint(depth: number): bigint {
  const bytes = readTaggedBytes(depth);
  if (bytes.length > bigintBytesMax) refuse(`a bigint over ${bigintBytesMax} bytes`);
  let digits = "0x0";
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i] as number;
    digits += byte < 16 ? `0${byte.toString(16)}` : byte.toString(16);
  }
  return BigInt(digits);
}

function readSet(depth: number): Set<unknown> {
  const items = read(depth + 1);
  if (!Array.isArray(items)) refuse("a set needs an array");
  const set = new Set<unknown>(items);
  if (set.size !== items.length) refuse("a member of a set occurs twice");
  return set;
}

function readMap(depth: number): Map<unknown, unknown> {
  if (depth + 1 >= depthMax) refuse(`nested more than ${depthMax} deep`);
  const first = readByte();
  if (first >> 5 !== 5) refuse("a Map needs a map");
  const info = first & 31;
  const length = checkLength(info < 24 ? info : readCount(info), 2);
  const map = new Map<unknown, unknown>();
  for (let i = 0; i < length; i++) {
    const key = read(depth + 2);
    map.set(key, read(depth + 2));
  }
  if (map.size !== length) refuse("a key occurs twice");
  return map;
}

/** Tag 27: an object by its type's name. A fixed list; nothing is looked up by name. */
function readTyped27(depth: number): unknown {
  const parts = read(depth + 1);
  if (!Array.isArray(parts)) refuse("tag 27 needs an array");
  const [type, first, second, third] = parts as readonly unknown[];
  if (type === "ArrayBuffer" && parts.length === 2 && first instanceof Uint8Array) {
    return first.buffer;
  }
  if (type === "Ref" && parts.length === 3) {
    if (typeof first === "string" && typeof second === "number") return new Ref(first, second);
  }
  if (type === "Error" && parts.length === 4) {
    if (typeof first === "string" && typeof second === "string") {
      return readError(first, second, third);
    }
  }
  refuse("tag 27 with an unknown type");
}

function readError(name: string, message: string, details: unknown): Error {
  if (typeof details !== "object" || details === null) refuse("an error needs its details");
  const { stack, cause, errors, fields } = details as Record<string, unknown>;
  const error = makeError(name, message);
  if (typeof stack === "string") hide(error, "stack", stack);
  if (Object.hasOwn(details, "cause")) hide(error, "cause", cause);
  if (Array.isArray(errors)) hide(error, "errors", errors);
  const { code, class: kind, retryable } = details as Record<string, unknown>;
  if (typeof code === "string") hide(error, "code", code);
  if (typeof kind === "string") hide(error, "class", kind);
  if (retryable === false) hide(error, "retryable", false);
  assignErrorFields(error, fields);
  return error;
}
