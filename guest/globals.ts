/**
 * The globals that guest code expects and the engine lacks, or that must be
 * deterministic. Nothing happens on import; `installGlobals` puts them in place, and
 * component.ts calls it before any user module is evaluated.
 *
 * Left as the engine has them: atob, btoa, DOMException, eval, Function, and WeakRef
 * (garbage collection is part of the recomputed machine). Absent on purpose: Intl, crypto.subtle, FormData, Blob,
 * streams. Time stands at 0 while the component is built.
 */
import { structuredClone } from "./globals/clone.ts";
import { consoleObject } from "./globals/console.ts";
import {
  AbortController,
  AbortSignal,
  Event,
  EventTarget,
  signalTimeout,
} from "./globals/events.ts";
import { fetchFunction, Headers, Request, Response } from "./globals/fetch.ts";
import { TextDecoder, TextEncoder } from "./globals/text.ts";
import { cryptoObject, dateClass, performanceObject, timerFunctions } from "./globals/time.ts";
import { URL, URLSearchParams } from "./globals/url.ts";
import type { Kernel } from "./kernel.ts";

/** Defines the globals, always in the same order, so that the same code makes the same memory. */
export function installGlobals(kernel: Kernel): void {
  define(AbortSignal, { timeout: signalTimeout(kernel) });
  define(Math, { random: () => kernel.random() });
  define(globalThis, {
    Date: dateClass(kernel, Date),
    performance: performanceObject(kernel),
    crypto: cryptoObject(kernel),
    console: consoleObject(kernel),
    ...timerFunctions(kernel),
    Event,
    EventTarget,
    AbortController,
    AbortSignal,
    TextEncoder,
    TextDecoder,
    structuredClone,
    URL,
    URLSearchParams,
    Headers,
    Request,
    Response,
    fetch: fetchFunction(kernel),
  });
}

function define(target: object, members: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(members)) {
    // A bundler may have renamed a class that has the name of a global.
    if (typeof value === "function") Object.defineProperty(value, "name", { value: name });
    Object.defineProperty(target, name, {
      value,
      writable: true,
      enumerable: false,
      configurable: true,
    });
  }
}
