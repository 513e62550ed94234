/**
 * Time and randomness of a run: Date, performance, Math.random, crypto and the timers.
 * The engine's own would read a clock that doesn't exist in the sandbox, or random
 * numbers that were frozen into the component when it was built.
 */
import type { Kernel } from "../kernel.ts";
import { DOMException } from "./engine.ts";

/** The Web Crypto limit of one getRandomValues call. */
const randomBytesMax = 65_536;

/** `Date` whose "now" is the activation's time. The time zone in a guest is UTC. */
export function dateClass(kernel: Kernel, native: DateConstructor): DateConstructor {
  const date = function (...args: readonly unknown[]): unknown {
    if (new.target === undefined) return new native(kernel.nowMs()).toString();
    return Reflect.construct(native, args.length === 0 ? [kernel.nowMs()] : args, new.target);
  };
  Object.defineProperty(date, "prototype", { value: native.prototype, writable: false });
  Object.defineProperty(date, "name", { value: "Date", configurable: true });
  Object.defineProperty(date, "length", { value: 7, configurable: true });
  hide(date, { now: () => kernel.nowMs(), parse: native.parse, UTC: native.UTC });
  hide(native.prototype, { constructor: date });
  // A function that is called with `new` and has the statics is what the type describes.
  return date as unknown as DateConstructor;
}

export function performanceObject(kernel: Kernel): Readonly<Record<string, unknown>> {
  return Object.freeze({ timeOrigin: 0, now: () => kernel.nowMs(), toJSON: () => ({}) });
}

export function cryptoObject(kernel: Kernel): Readonly<Record<string, unknown>> {
  function getRandomValues<View extends ArrayBufferView>(view: View): View {
    if (!ArrayBuffer.isView(view) || /^(Float|DataView)/.test(viewName(view))) {
      const message = "crypto.getRandomValues: expected an array of integers";
      throw new DOMException(message, "TypeMismatchError");
    }
    if (view.byteLength > randomBytesMax) {
      const message = `crypto.getRandomValues: at most ${randomBytesMax} bytes at once`;
      throw new DOMException(message, "QuotaExceededError");
    }
    const target = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    target.set(kernel.randomBytes(view.byteLength));
    return view;
  }
  return Object.freeze({ getRandomValues, randomUUID: () => uuid(kernel.randomBytes(16)) });
}

function viewName(view: ArrayBufferView): string {
  return Object.prototype.toString.call(view).slice("[object ".length, -1);
}

/** RFC 9562, version 4. */
function uuid(bytes: Uint8Array): string {
  const hex = Array.from(bytes, (byte, index) => {
    const fixed = index === 6 ? (byte & 0x0f) | 0x40 : index === 8 ? (byte & 0x3f) | 0x80 : byte;
    return fixed.toString(16).padStart(2, "0");
  }).join("");
  const cuts = [0, 8, 12, 16, 20, 32];
  return cuts
    .slice(1)
    .map((end, index) => hex.slice(cuts[index], end))
    .join("-");
}

export interface Timers {
  setTimeout(callback: Callback, delayMs?: number, ...args: readonly unknown[]): number;
  clearTimeout(handle?: number): void;
  setInterval(callback: Callback, delayMs?: number, ...args: readonly unknown[]): number;
  clearInterval(handle?: number): void;
  queueMicrotask(callback: () => unknown): void;
}

type Callback = (...args: readonly unknown[]) => unknown;

interface Timer {
  readonly run: () => unknown;
  readonly everyMs: number | undefined;
  command: number;
}

/** Timers that survive a crash and a year of sleep: each is a timer command of the run. */
export function timerFunctions(kernel: Kernel): Timers {
  const timers = new Map<number, Timer>();
  let lastHandle = 0;

  function arm(handle: number, timer: Timer, atMs: number): void {
    const pending = kernel.command((id) => ({ kind: "timer", id, atMs }));
    timer.command = pending.id;
    pending.then(
      () => fire(handle, timer),
      // Cancelling the run rejects pending commands, but a plain callback has nowhere to
      // see that: it keeps its time, so that code awaiting it goes on. Once only.
      () => rearm(handle, timer, atMs),
    );
  }

  function rearm(handle: number, timer: Timer, atMs: number): void {
    if (timers.get(handle) !== timer) return;
    const pending = kernel.command((id) => ({ kind: "timer", id, atMs }));
    timer.command = pending.id;
    pending.then(
      () => fire(handle, timer),
      () => timers.delete(handle),
    );
  }

  function fire(handle: number, timer: Timer): void {
    if (timers.get(handle) !== timer) return;
    if (timer.everyMs === undefined) timers.delete(handle);
    else arm(handle, timer, kernel.nowMs() + timer.everyMs);
    guarded(kernel, "a timer's callback", timer.run);
  }

  function add(timer: Timer, delayMs: number): number {
    lastHandle += 1;
    timers.set(lastHandle, timer);
    arm(lastHandle, timer, kernel.nowMs() + delayMs);
    return lastHandle;
  }

  function clear(handle?: number): void {
    const timer = handle === undefined ? undefined : timers.get(Number(handle));
    if (timer === undefined) return;
    timers.delete(Number(handle));
    kernel.drop(timer.command);
  }

  return {
    setTimeout(callback, delayMs, ...args) {
      const run = bound("setTimeout", callback, args);
      return add({ run, everyMs: undefined, command: 0 }, delayOf(delayMs));
    },
    clearTimeout: clear,
    setInterval(callback, delayMs, ...args) {
      const run = bound("setInterval", callback, args);
      // At least 1 ms: an interval of 0 would never let the run come to rest.
      const everyMs = Math.max(1, delayOf(delayMs));
      return add({ run, everyMs, command: 0 }, everyMs);
    },
    clearInterval: clear,
    queueMicrotask(callback) {
      const run = bound("queueMicrotask", callback, []);
      Promise.resolve().then(() => guarded(kernel, "a microtask", run));
    },
  };
}

function bound(name: string, callback: Callback, args: readonly unknown[]): () => unknown {
  if (typeof callback !== "function") throw new TypeError(`${name}: expected a function`);
  return () => callback(...args);
}

function delayOf(delayMs: number | undefined): number {
  const delay = Math.ceil(Number(delayMs ?? 0));
  return delay > 0 && delay < Number.MAX_SAFE_INTEGER ? delay : 0;
}

/** An error that escapes a callback is logged: uncaught it would end the whole machine. */
function guarded(kernel: Kernel, what: string, run: () => unknown): void {
  const report = (error: unknown): void => {
    kernel.log("error", `Unhandled error in ${what}: ${errorText(error)}`);
  };
  try {
    const result = run();
    if (result instanceof Promise) result.catch(report);
  } catch (error) {
    report(error);
  }
}

function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const head = `${error.name}: ${error.message}`;
  return error.stack ? `${head}\n${error.stack.trimEnd()}` : head;
}

function hide(target: object, members: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(members)) {
    Object.defineProperty(target, name, { value, writable: true, configurable: true });
  }
}
