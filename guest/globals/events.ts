/**
 * Event, EventTarget, AbortController and AbortSignal, as far as code
 * without a document needs them. Deadlines are durable timers of the kernel.
 */
import type { Kernel } from "../kernel.ts";
import { DOMException } from "./engine.ts";

export class Event {
  readonly type: string;
  readonly bubbles: boolean;
  readonly cancelable: boolean;
  /** Always 0: an event's age would differ between a run and its recomputation elsewhere. */
  readonly timeStamp = 0;
  target: EventTarget | null = null;
  #isPrevented = false;
  #isStopped = false;

  constructor(type: string, options: { bubbles?: boolean; cancelable?: boolean } = {}) {
    this.type = String(type);
    this.bubbles = Boolean(options.bubbles);
    this.cancelable = Boolean(options.cancelable);
  }

  get currentTarget(): EventTarget | null {
    return this.target;
  }

  get defaultPrevented(): boolean {
    return this.#isPrevented;
  }

  get isImmediatelyStopped(): boolean {
    return this.#isStopped;
  }

  preventDefault(): void {
    if (this.cancelable) this.#isPrevented = true;
  }

  stopPropagation(): void {}

  stopImmediatePropagation(): void {
    this.#isStopped = true;
  }
}

type Listener = ((event: Event) => void) | { handleEvent(event: Event): void };

interface ListenerOptions {
  readonly once?: boolean;
  readonly capture?: boolean;
  readonly signal?: AbortSignal;
}

interface Registration {
  readonly type: string;
  readonly listener: Listener;
  readonly once: boolean;
  readonly capture: boolean;
}

export class EventTarget {
  #registrations: readonly Registration[] = [];

  addEventListener(
    type: string,
    listener: Listener | null,
    options: boolean | ListenerOptions = {},
  ): void {
    const settings = typeof options === "boolean" ? { capture: options } : options;
    if (listener === null || settings.signal?.aborted) return;
    const registration = {
      type: String(type),
      listener,
      once: Boolean(settings.once),
      capture: Boolean(settings.capture),
    };
    if (this.#registrations.some((known) => isSame(known, registration))) return;
    this.#registrations = [...this.#registrations, registration];
    settings.signal?.addEventListener("abort", () => this.#remove(registration), { once: true });
  }

  removeEventListener(
    type: string,
    listener: Listener | null,
    options: boolean | { capture?: boolean } = {},
  ): void {
    if (listener === null) return;
    const capture = typeof options === "boolean" ? options : Boolean(options.capture);
    this.#remove({ type: String(type), listener, capture, once: false });
  }

  /** Listeners run in order of registration; the first error is thrown after all have run. */
  dispatchEvent(event: Event): boolean {
    const errors: unknown[] = [];
    event.target = this;
    for (const registration of this.#registrations) {
      const isLive = this.#registrations.includes(registration);
      if (registration.type !== event.type || !isLive) continue;
      if (registration.once) this.#remove(registration);
      try {
        callListener(registration.listener, this, event);
      } catch (error) {
        errors.push(error);
      }
      if (event.isImmediatelyStopped) break;
    }
    if (errors.length > 0) throw errors[0];
    return !event.defaultPrevented;
  }

  #remove(registration: Registration): void {
    this.#registrations = this.#registrations.filter((known) => !isSame(known, registration));
  }
}

function isSame(one: Registration, other: Registration): boolean {
  return (
    one.type === other.type && one.listener === other.listener && one.capture === other.capture
  );
}

function callListener(listener: Listener, target: EventTarget, event: Event): void {
  if (typeof listener === "function") listener.call(target, event);
  else listener.handleEvent(event);
}

/** Only this module can make and abort signals. */
const birth = Symbol("birth");
const abort = Symbol("abort");

export class AbortSignal extends EventTarget {
  #reason: unknown;
  #isAborted = false;
  /** Signals made by `any` from this one: aborted before this one's own listeners run. */
  #dependents: AbortSignal[] = [];
  onabort: ((event: Event) => void) | null = null;

  constructor(key?: symbol) {
    super();
    if (key !== birth) throw new TypeError("Illegal constructor: use an AbortController");
  }

  static create(): AbortSignal {
    return new AbortSignal(birth);
  }

  static abort(reason?: unknown): AbortSignal {
    const signal = AbortSignal.create();
    signal[abort](reason);
    return signal;
  }

  static any(signals: Iterable<AbortSignal>): AbortSignal {
    const sources = [...signals];
    const aborted = sources.find((source) => source.aborted);
    if (aborted !== undefined) return AbortSignal.abort(aborted.reason);
    const result = AbortSignal.create();
    for (const source of sources) source.#dependents.push(result);
    return result;
  }

  get aborted(): boolean {
    return this.#isAborted;
  }

  get reason(): unknown {
    return this.#reason;
  }

  throwIfAborted(): void {
    if (this.#isAborted) throw this.#reason;
  }

  [abort](reason: unknown): void {
    if (this.#isAborted) return;
    this.#isAborted = true;
    this.#reason = reason ?? new DOMException("This operation was aborted", "AbortError");
    for (const dependent of this.#dependents) dependent[abort](this.#reason);
    this.#dependents = [];
    const event = new Event("abort");
    this.onabort?.call(this, event);
    this.dispatchEvent(event);
  }
}

export class AbortController {
  readonly signal: AbortSignal = AbortSignal.create();

  abort(reason?: unknown): void {
    this.signal[abort](reason);
  }
}

/** `AbortSignal.timeout`, which alone needs the kernel. */
export function signalTimeout(kernel: Kernel): (delayMs: number) => AbortSignal {
  return function timeout(delayMs: number): AbortSignal {
    if (!(delayMs >= 0)) throw new RangeError("AbortSignal.timeout: expected milliseconds >= 0");
    const signal = AbortSignal.create();
    const atMs = kernel.nowMs() + Math.ceil(delayMs);
    const timer = kernel.command((id) => ({ kind: "timer", id, atMs }));
    const expire = (): void =>
      signal[abort](new DOMException("The operation timed out", "TimeoutError"));
    // A timer that the run's cancellation rejects never fires.
    timer.then(expire, () => {});
    return signal;
  };
}
