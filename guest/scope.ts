/**
 * Abort signals of runs and steps. The signal is the platform's own (globals.ts brings
 * one into components), made only when somebody asks for it.
 */

/** The platform's AbortSignal where its types are there; otherwise what one needs of it. */
export type Signal = typeof globalThis extends { AbortSignal: { prototype: infer Platform } }
  ? Platform
  : SignalLike;

export interface SignalLike {
  readonly aborted: boolean;
  readonly reason: unknown;
  throwIfAborted(): void;
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

interface Controller {
  readonly signal: Signal;
  abort(reason: unknown): void;
}

export interface AbortScope {
  signal(): Signal;
  abort(reason: Error): void;
}

export function abortScope(): AbortScope {
  let controller: Controller | undefined;
  let aborted: Error | undefined;
  return {
    signal: () => {
      if (controller === undefined) {
        const platform = globalThis as unknown as { AbortController?: new () => Controller };
        if (platform.AbortController === undefined)
          throw new Error("there is no AbortController here");
        controller = new platform.AbortController();
        if (aborted !== undefined) controller.abort(aborted);
      }
      return controller.signal;
    },
    abort: (reason) => {
      aborted ??= reason;
      controller?.abort(reason);
    },
  };
}
