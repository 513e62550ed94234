/**
 * Performs guests' HTTP requests: only http and https, answers bounded in time and size,
 * redirects left to the guest (each hop is a request of its own), and where there are
 * tenants only what they were granted.
 */
import type { FetchRequest, FetchResponse } from "../guest/protocol.ts";
import { SporeError } from "../runtime/errors.ts";
import type { Outbound, OutboundContext } from "../runtime/ports.ts";
import type { Grants } from "./grants.ts";
import type { Tracing } from "./tracing.ts";

/** `fetch`, for a tenant. */
export type SendRequest = (url: URL, init: RequestInit, tenant: string) => Promise<Response>;

export interface OutboundOptions {
  /** Absent: everything is allowed, as for somebody's own code on their own machine. */
  readonly grants?: Grants | undefined;
  /** For one request, headers and body together. Default 60 s. */
  readonly timeoutMs?: number | undefined;
  /** Default 16 MiB. */
  readonly responseBytesMax?: number | undefined;
  /** Default: the platform's fetch. */
  readonly fetch?: SendRequest | undefined;
  /** Absent: requests carry no `traceparent` but a guest's own. */
  readonly tracing?: Tracing | undefined;
}

export const outboundDefaults = Object.freeze({
  timeoutMs: 60_000,
  responseBytesMax: 16 * 1024 * 1024,
});

/** Names and values of a request's headers together; servers take less. */
export const requestHeaderBytesMax = 65_536;

/** A guest has no business with these: they frame the message or name the connection. */
const refusedHeaders = new Set([
  "connection",
  "content-length",
  "expect",
  "host",
  "keep-alive",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);

export function createOutbound(options: OutboundOptions = {}): Outbound {
  const timeoutMs = options.timeoutMs ?? outboundDefaults.timeoutMs;
  const bytesMax = options.responseBytesMax ?? outboundDefaults.responseBytesMax;
  const send = options.fetch ?? ((url, init) => globalThis.fetch(url, init));
  return {
    fetch(request, context) {
      const { tracing } = options;
      const { trace: parent } = context;
      if (tracing === undefined || parent === undefined) return perform(request, context);
      const { method } = request;
      const attributes = {
        "http.request.method": method,
        "server.address": URL.parse(request.url)?.host ?? "",
        "spore.tenant": context.tenant,
        "spore.run": context.runId,
      };
      return tracing.around({
        parent,
        name: method,
        kind: "client",
        attributes,
        run: (self) => perform(withHeader(request, "traceparent", self), context),
        attributesOf: ({ status }) => ({ "http.response.status_code": status }),
      });
    },
  };

  async function perform(request: FetchRequest, context: OutboundContext): Promise<FetchResponse> {
    const url = checkedUrl(request, context, options);
    const abort = new AbortController();
    const onAbort = (): void => abort.abort(new Error("the run no longer waits for this"));
    if (context.signal.aborted) onAbort();
    context.signal.addEventListener("abort", onAbort);
    const timer = setTimeout(
      () => abort.abort(new Error(`no answer from ${url.host} within ${timeoutMs} ms`)),
      timeoutMs,
    );
    try {
      const init: RequestInit = {
        method: request.method,
        headers: checkedHeaders(request, url),
        redirect: "manual",
        signal: abort.signal,
        ...(request.body === undefined ? {} : { body: new Uint8Array(request.body) }),
      };
      const response = await send(url, init, context.tenant);
      return await bounded(response, url, bytesMax);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Unless the guest has one of its own. */
function withHeader(request: FetchRequest, name: string, value: string): FetchRequest {
  const isThere = request.headers.some(([each]) => each.toLowerCase() === name);
  return isThere ? request : { ...request, headers: [...request.headers, [name, value]] };
}

function checkedUrl(
  request: FetchRequest,
  context: OutboundContext,
  options: OutboundOptions,
): URL {
  const url = URL.parse(request.url);
  if (url === null || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw new SporeError("egress-denied", "a guest may fetch http and https URLs only");
  }
  options.grants?.checkUrl(context.tenant, url);
  return url;
}

function checkedHeaders(request: FetchRequest, url: URL): [string, string][] {
  let length = 0;
  for (const [name, value] of request.headers) length += name.length + value.length;
  if (length > requestHeaderBytesMax) {
    const what = `the headers of a request to ${url.host} are over ${requestHeaderBytesMax} bytes`;
    throw new SporeError("value-too-large", what);
  }
  return request.headers
    .filter(([name]) => !refusedHeaders.has(name.toLowerCase()))
    .map(([name, value]) => [name, value]);
}

async function bounded(response: Response, url: URL, bytesMax: number): Promise<FetchResponse> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    if (length > bytesMax) {
      throw new SporeError(
        "value-too-large",
        `the answer of ${url.host} is over ${bytesMax} bytes`,
      );
    }
    chunks.push(chunk);
  }
  return {
    status: response.status,
    statusText: response.statusText,
    url: response.url === "" ? url.href : response.url,
    headers: [...response.headers],
    body: new Uint8Array(Buffer.concat(chunks)),
  };
}
