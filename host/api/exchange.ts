/**
 * One request while it is served: what was checked of it, who asks, and what the API was
 * given. Every handler works on this and on nothing else.
 */
import type { Context } from "hono";
import { SporeError } from "../../runtime/errors.ts";
import type { Host, TenantHost } from "../../runtime/index.ts";
import type { Clock, Digest, Observer, Random } from "../../runtime/ports.ts";
import type { ComponentMaps } from "../component-maps.ts";
import type { Caller, Tenants } from "../tenants.ts";
import type { Place, Tracing } from "../tracing.ts";
import { isId } from "./fields.ts";

export interface ApiOptions {
  readonly host: Host;
  readonly tenants: Tenants;
  readonly clock: Clock;
  readonly random: Random;
  readonly digest: Digest;
  readonly observer: Observer;
  /** Source maps of what is deployed; absent: stacks stay as the guest made them. */
  readonly maps?: ComponentMaps | undefined;
  /** Prometheus text; absent: /metrics is no route. */
  readonly metrics?: (() => string) | undefined;
  /** Absent: requests leave no spans, and their `traceparent` is nothing. */
  readonly tracing?: Tracing | undefined;
  /** Which `Host` headers are answered; absent: all. Guards loopback against DNS rebinding. */
  readonly isHostAllowed?: ((host: string) => boolean) | undefined;
  readonly limits?: Partial<ApiLimits> | undefined;
}

export interface ApiLimits {
  readonly bodyBytesMax: number;
  readonly componentBytesMax: number;
  /** Of a value that is uploaded. It is in memory until it is stored. */
  readonly objectBytesMax: number;
  readonly heartbeatMs: number;
  /** How long an update or a call with `?wait` absent from an update waits. */
  readonly updateWaitMs: number;
}

export const apiLimits: ApiLimits = Object.freeze({
  bodyBytesMax: 1024 * 1024,
  componentBytesMax: 16 * 1024 * 1024,
  objectBytesMax: 256 * 1024 * 1024,
  heartbeatMs: 15_000,
  updateWaitMs: 60_000,
});

/** What a handler works on: the checked request, and who asks. */
export interface Exchange<Params = unknown, Query = unknown, Body = unknown> {
  readonly context: Context;
  readonly options: ApiOptions;
  readonly limits: ApiLimits;
  readonly requestId: string;
  readonly path: string;
  readonly wantsCbor: boolean;
  /** The request's place in a trace. */
  readonly trace: Place | undefined;
  caller: Caller;
  tenant: TenantHost;
  params: Params;
  query: Query;
  body: Body;
}

export function openExchange(context: Context, options: ApiOptions, limits: ApiLimits): Exchange {
  const asked = context.req.header("x-request-id");
  return {
    context,
    options,
    limits,
    requestId: asked !== undefined && isId(asked) ? asked : hexOf(options.random.bytes(8)),
    path: context.req.path,
    wantsCbor: prefersCbor(context),
    trace: isApi(context) ? options.tracing?.begin(context.req.header("traceparent")) : undefined,
    caller: { tenant: "", isOperator: false },
    // Set by `authenticate`; public routes never look at it.
    tenant: undefined as unknown as TenantHost,
    params: {},
    query: {},
    body: {},
  };
}

/** Probes and scrapes would drown what people look for. */
function isApi(context: Context): boolean {
  return context.req.path.startsWith("/v1/");
}

/** CBOR when the client names it; with no Accept at all, in the format that it sent. */
function prefersCbor(context: Context): boolean {
  const accept = context.req.header("accept");
  if (accept === undefined || accept === "*/*") {
    return mediaType(context.req.header("content-type")) === "application/cbor";
  }
  return accept.includes("application/cbor");
}

export function mediaType(header: string | undefined): string {
  return (header ?? "").split(";", 1)[0]?.trim().toLowerCase() ?? "";
}

export function requireOperator(exchange: Exchange): void {
  if (exchange.caller.isOperator) return;
  throw new SporeError("forbidden", "only an operator's key may read this");
}

export function hexOf(bytes: Uint8Array): string {
  let hex = "";
  for (const byte of bytes) hex += byte.toString(16).padStart(2, "0");
  return hex;
}
