/**
 * console and the formatter behind it. Messages go to the run's log through the
 * kernel. Output is bounded in depth, items and length, so that logging a large value
 * costs little and can't fill the log.
 */
import type { Kernel } from "../kernel.ts";

export const formatLimits = Object.freeze({
  depthMax: 3,
  itemsMax: 100,
  charactersMax: 10_000,
  /** A longer one-line form is broken into lines. */
  lineMax: 76,
});

type Level = "debug" | "info" | "warn" | "error";
type ConsoleFunction = (...args: readonly unknown[]) => void;

export function consoleObject(kernel: Kernel): Readonly<Record<string, ConsoleFunction>> {
  const counts = new Map<string, number>();
  const begins = new Map<string, number>();
  let indent = "";

  const at =
    (level: Level): ConsoleFunction =>
    (...args) =>
      kernel.log(level, bounded(indent + format(...args).replaceAll("\n", `\n${indent}`)));
  const [debug, info, warn, error] = [at("debug"), at("info"), at("warn"), at("error")];

  return {
    log: info,
    info,
    warn,
    error,
    debug,
    trace: (...args) => debug(`Trace: ${format(...args)}`),
    dir: (value) => info(inspect(value)),
    table: (value) => info(inspect(value)),
    assert: (condition, ...args) => {
      if (!condition) error(`Assertion failed${args.length > 0 ? `: ${format(...args)}` : ""}`);
    },
    count: (label = "default") => {
      const count = (counts.get(String(label)) ?? 0) + 1;
      counts.set(String(label), count);
      info(`${label}: ${count}`);
    },
    countReset: (label = "default") => void counts.delete(String(label)),
    time: (label = "default") => void begins.set(String(label), kernel.nowMs()),
    timeLog: (label = "default", ...args) => info(elapsed(label), ...args),
    timeEnd: (label = "default") => {
      info(elapsed(label));
      begins.delete(String(label));
    },
    group: (...args) => {
      if (args.length > 0) info(...args);
      indent += "  ";
    },
    groupCollapsed: (...args) => {
      if (args.length > 0) info(...args);
      indent += "  ";
    },
    groupEnd: () => {
      indent = indent.slice(2);
    },
  };

  function elapsed(label: unknown): string {
    const began = begins.get(String(label)) ?? kernel.nowMs();
    return `${label}: ${kernel.nowMs() - began}ms`;
  }
}

/** Joins the arguments like console.log: `%s %d %i %f %j %o %O %c %%` in the first one. */
export function format(...args: readonly unknown[]): string {
  const [first, ...rest] = args;
  if (typeof first !== "string") return args.map(shown).join(" ");
  let next = 0;
  const text = first.replace(/%[sdifjoOc%]/g, (mark) => {
    if (mark === "%%") return "%";
    if (next >= rest.length) return mark;
    next += 1;
    return substituted(mark, rest[next - 1]);
  });
  return [text, ...rest.slice(next).map(shown)].join(" ");
}

function substituted(mark: string, value: unknown): string {
  switch (mark) {
    case "%s":
      return typeof value === "object" ? inspect(value) : shown(value);
    case "%d":
      return typeof value === "bigint" ? `${value}n` : String(numberOf(value));
    case "%i":
      return typeof value === "bigint" ? `${value}n` : String(Math.trunc(numberOf(value)));
    case "%f":
      return String(Number.parseFloat(String(value)));
    case "%j":
      return jsonOf(value);
    case "%c":
      return "";
    default:
      return inspect(value);
  }
}

function numberOf(value: unknown): number {
  return typeof value === "symbol" || typeof value === "object" ? Number.NaN : Number(value);
}

function jsonOf(value: unknown): string {
  try {
    return JSON.stringify(value) ?? "undefined";
  } catch {
    return "[Circular]"; // Or a throwing toJSON: logging never fails.
  }
}

function shown(value: unknown): string {
  return typeof value === "string" ? value : inspect(value);
}

function bounded(text: string): string {
  if (text.length <= formatLimits.charactersMax) return text;
  const more = text.length - formatLimits.charactersMax;
  return `${text.slice(0, formatLimits.charactersMax)}… ${more} more characters`;
}

/** A value as a person would write it, like Node's util.inspect. Never throws. */
export function inspect(value: unknown): string {
  try {
    return inspected(value, {
      depth: 0,
      parents: [],
      budget: { left: formatLimits.charactersMax },
    });
  } catch {
    return "[could not be shown]"; // A getter, proxy or toString of the value threw.
  }
}

interface Place {
  readonly depth: number;
  readonly parents: readonly object[];
  /** Shared by the whole value: when used up, the rest is left out. */
  readonly budget: { left: number };
}

function inspected(value: unknown, place: Place): string {
  const text =
    typeof value === "object" && value !== null
      ? inspectedObject(value, place)
      : inspectedPrimitive(value);
  place.budget.left -= text.length;
  return text;
}

function inspectedPrimitive(value: unknown): string {
  switch (typeof value) {
    case "string":
      return quoted(bounded(value));
    case "bigint":
      return `${value}n`;
    case "number":
      return Object.is(value, -0) ? "-0" : String(value);
    case "function":
      return functionText(value);
    default:
      return String(value);
  }
}

function functionText(value: { readonly name: string }): string {
  const isClass = /^class\b/.test(Function.prototype.toString.call(value));
  const name = value.name || "(anonymous)";
  return isClass ? `[class ${name}]` : `[Function: ${name}]`;
}

function quoted(text: string): string {
  const quote = !text.includes("'") ? "'" : !text.includes('"') ? '"' : "'";
  const escaped = JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"');
  return quote + escaped.replaceAll(quote, `\\${quote}`) + quote;
}

function inspectedObject(value: object, place: Place): string {
  if (place.parents.includes(value)) return "[Circular]";
  const plain = inspectedAtom(value);
  if (plain !== undefined) return withFields(plain, value, place);
  const name = className(value);
  if (place.depth > formatLimits.depthMax) return Array.isArray(value) ? "[Array]" : `[${name}]`;
  const inner: Place = {
    depth: place.depth + 1,
    parents: [...place.parents, value],
    budget: place.budget,
  };
  const list = listItems(value);
  if (list !== undefined) {
    const items = limited(list, (item) => inspected(item, inner), inner);
    const prefix = listPrefix(value, name, list.length);
    return laid(prefix, ["[", "]"], items);
  }
  if (value instanceof Map) {
    const entry = ([key, item]: readonly [unknown, unknown]): string =>
      `${inspected(key, inner)} => ${inspected(item, inner)}`;
    return laid(`${name}(${value.size})`, ["{", "}"], limited([...value], entry, inner));
  }
  if (value instanceof Set) {
    const items = limited([...value], (item) => inspected(item, inner), inner);
    return laid(`${name}(${value.size})`, ["{", "}"], items);
  }
  const prefix = name === "Object" ? "" : name;
  return laid(prefix, ["{", "}"], fields(value, inner));
}

function inspectedAtom(value: object): string | undefined {
  if (value instanceof Error) return errorText(value);
  if (value instanceof Date)
    return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp) return String(value);
  if (value instanceof Promise) return "Promise { … }";
  const boxed = value instanceof String || value instanceof Number || value instanceof Boolean;
  return boxed ? `[${className(value)}: ${inspectedPrimitive(value.valueOf())}]` : undefined;
}

function errorText(error: Error): string {
  const head = error.message ? `${error.name}: ${error.message}` : String(error.name);
  const frames = typeof error.stack === "string" ? error.stack.trimEnd() : "";
  if (frames === "") return `[${head}]`;
  return frames.startsWith(head) ? frames : `${head}\n${frames}`;
}

/** An error's own fields, its cause among them, behind its text. */
function withFields(text: string, value: object, place: Place): string {
  if (!(value instanceof Error) || place.depth > formatLimits.depthMax) return text;
  const inner = { ...place, depth: place.depth + 1, parents: [...place.parents, value] };
  const own = fields(value, inner);
  if (value.cause !== undefined && !Object.hasOwn(Object(own), "cause")) {
    own.push(`[cause]: ${inspected(value.cause, inner)}`);
  }
  return own.length === 0 ? text : laid(text, ["{", "}"], own);
}

function className(value: object): string {
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype === null) return "[Object: null prototype]";
  const maker: unknown = Reflect.get(Object(prototype), "constructor");
  return typeof maker === "function" && maker.name !== "" ? maker.name : "Object";
}

function listItems(value: object): readonly unknown[] | undefined {
  if (Array.isArray(value)) return value;
  if (value instanceof ArrayBuffer) return [...new Uint8Array(value, 0, shownBytes(value))];
  if (!ArrayBuffer.isView(value) || value instanceof DataView) return undefined;
  // What is a view and not a DataView is a typed array: indexed and with a length.
  return value as unknown as readonly unknown[];
}

function shownBytes(buffer: ArrayBuffer): number {
  return Math.min(buffer.byteLength, formatLimits.itemsMax + 1);
}

function listPrefix(value: object, name: string, length: number): string {
  return name === "Array" ? "" : value instanceof ArrayBuffer ? name : `${name}(${length})`;
}

function fields(value: object, place: Place): string[] {
  const keys = Reflect.ownKeys(value).filter((key) =>
    Object.prototype.propertyIsEnumerable.call(value, key),
  );
  return limited(keys, (key) => `${keyText(key)}: ${fieldText(value, key, place)}`, place);
}

function fieldText(value: object, key: PropertyKey, place: Place): string {
  const property = Object.getOwnPropertyDescriptor(value, key);
  // A getter is not called: it may have effects.
  if (property?.get !== undefined) return property.set ? "[Getter/Setter]" : "[Getter]";
  return inspected(property?.value, place);
}

function keyText(key: PropertyKey): string {
  if (typeof key === "symbol") return `[${String(key)}]`;
  const text = String(key);
  return /^[A-Za-z_$][\w$]*$/.test(text) ? text : quoted(text);
}

function limited<Item>(
  items: ArrayLike<Item>,
  show: (item: Item) => string,
  place: Place,
): string[] {
  const output: string[] = [];
  for (let index = 0; index < items.length; index += 1) {
    if (index >= formatLimits.itemsMax || place.budget.left <= 0) {
      output.push(`... ${items.length - index} more item${items.length - index === 1 ? "" : "s"}`);
      break;
    }
    output.push(show(items[index] as Item)); // In range by the loop's condition.
  }
  return output;
}

function laid(
  prefix: string,
  [open, close]: readonly [string, string],
  items: readonly string[],
): string {
  const head = prefix === "" ? open : `${prefix} ${open}`;
  if (items.length === 0) return head + close;
  const line = `${head} ${items.join(", ")} ${close}`;
  if (line.length <= formatLimits.lineMax && !line.includes("\n")) return line;
  const indented = items.map((item) => `  ${item.replaceAll("\n", "\n  ")}`);
  return `${head}\n${indented.join(",\n")}\n${close}`;
}
