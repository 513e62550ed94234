/** An API over the fake host, and short ways to ask it. */
import { createHash } from "node:crypto";
import type { ApiOptions } from "../../host/api/exchange.ts";
import { createApi } from "../../host/api/index.ts";
import { createTenants, type TenantKey } from "../../host/tenants.ts";
import type { Clock, Digest } from "../../runtime/ports.ts";
import { createFakeHost, type FakeHost } from "./fake-host.ts";

export const digest: Digest = {
  sha256: (bytes) => new Uint8Array(createHash("sha256").update(bytes).digest()),
};

/** A clock that moves only when told. */
export function createManualClock(): Clock & { advance(ms: number): void } {
  let nowMs = 0;
  let timers: { atMs: number; callback: () => void }[] = [];
  return {
    nowMs: () => nowMs,
    after(delayMs, callback) {
      const timer = { atMs: nowMs + delayMs, callback };
      timers.push(timer);
      return () => {
        timers = timers.filter((other) => other !== timer);
      };
    },
    advance(ms) {
      nowMs += ms;
      const due = timers.filter((timer) => timer.atMs <= nowMs);
      timers = timers.filter((timer) => timer.atMs > nowMs);
      for (const timer of due) timer.callback();
    },
  };
}

export interface Kit {
  readonly host: FakeHost;
  readonly clock: ReturnType<typeof createManualClock>;
  readonly logged: { readonly message: string; readonly fields: object }[];
  fetch(path: string, init?: RequestInit): Promise<Response>;
  post(path: string, body?: unknown, headers?: Record<string, string>): Promise<Response>;
}

export function createKit(
  options: Partial<ApiOptions> & { keys?: readonly TenantKey[] } = {},
): Kit {
  const host = createFakeHost();
  const clock = createManualClock();
  const logged: { message: string; fields: object }[] = [];
  let ids = 0;
  const app = createApi({
    host,
    clock,
    digest,
    tenants: createTenants(options.keys ?? [], digest),
    random: { bytes: (count) => new Uint8Array(count).fill(++ids) },
    observer: {
      log: (_level, message, fields) => void logged.push({ message, fields }),
      count: () => undefined,
      observe: () => undefined,
    },
    ...options,
  });
  const send = async (path: string, init?: RequestInit): Promise<Response> =>
    app.fetch(new Request(`http://localhost${path}`, init));
  return {
    host,
    clock,
    logged,
    fetch: send,
    post: (path, body = {}, headers = {}) =>
      send(path, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: typeof body === "string" ? body : JSON.stringify(body),
      }),
  };
}
