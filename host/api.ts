/**
 * The HTTP API as a Hono app over a `Host`: reads and checks requests, calls the engine,
 * writes answers. Knows neither Node nor Workers. Everything that can be said about a
 * route's shape is in openapi.ts; everything about status codes in problems.ts.
 */
import { OpenAPIHono, type z } from "@hono/zod-openapi";
import type { Context, Handler } from "hono";
import { Ref } from "../guest/cbor.ts";
import type { Encoded, ErrorValue, Outcome } from "../guest/protocol.ts";
import { SporeError } from "../runtime/errors.ts";
import type {
  CallResult,
  HistoryEvent,
  Host,
  RunFilter,
  RunView,
  ScheduleRequest,
  ScheduleView,
  StartRequest,
  StartResult,
  TenantHost,
} from "../runtime/index.ts";
import type {
  AbortSignalLike,
  Clock,
  ComponentSource,
  Digest,
  Observer,
  Random,
} from "../runtime/ports.ts";
import { detachFromBundle, mapOfComponent } from "./attached-map.ts";
import type { ComponentMaps } from "./component-maps.ts";
import { askingPage, decidedPage, pageHeaders } from "./event-page.ts";
import { eventStream } from "./event-stream.ts";
import { isId, type RouteName, routeConfig, routes } from "./openapi.ts";
import { ProblemError, problemHeaders, problemOf, sporeErrorOf } from "./problems.ts";
import type { Caller, Tenants } from "./tenants.ts";
import type { Place, Tracing } from "./tracing.ts";
import {
  decodeCbor,
  encodeCbor,
  jsonOfValue,
  parseJson,
  rawValue,
  shownValue,
  valueOfJson,
} from "./values.ts";
import * as views from "./views.ts";

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
interface Exchange {
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
  params: Readonly<Record<string, string>>;
  // biome-ignore lint/suspicious/noExplicitAny: typed per route by `handle`
  query: any;
  // biome-ignore lint/suspicious/noExplicitAny: typed per route by `handle`
  body: any;
}

type Handlers = { readonly [Name in RouteName]: (exchange: Exchange) => Promise<Response> };

/** Makes the app; `app.fetch` is what Node's server and a Worker call. */
export function createApi(options: ApiOptions): OpenAPIHono {
  const limits = { ...apiLimits, ...options.limits };
  const app = new OpenAPIHono();
  for (const name of Object.keys(routes) as RouteName[]) {
    if (name === "metrics" && options.metrics === undefined) continue;
    const route = routes[name];
    app.openAPIRegistry.registerPath(routeConfig(route));
    const path = route.path.replaceAll(/\{(\w+)\}/g, ":$1");
    app.on(route.method.toUpperCase(), path, endpoint(name, options, limits));
  }
  app.openAPIRegistry.registerComponent("securitySchemes", "bearer", {
    type: "http",
    scheme: "bearer",
  });
  let document: string | undefined;
  app.get("/openapi.json", (context) =>
    guarded(open(context, options, limits), async (exchange) => {
      document ??= JSON.stringify(openApiDocument(app));
      return textResponse(exchange, document, "application/json");
    }),
  );
  app.options("*", (context) =>
    guarded(open(context, options, limits), async (exchange) => {
      const allow = allowedMethods(exchange.path);
      if (allow.length === 0) throw routeNotFound(exchange);
      const ids = { "x-request-id": exchange.requestId, allow: allow.join(", ") };
      const headers = { ...securityHeaders, ...ids };
      return new Response(null, { status: 204, headers });
    }),
  );
  app.notFound((context) =>
    guarded(open(context, options, limits), async (exchange) => {
      throw routeNotFound(exchange);
    }),
  );
  app.onError((error, context) => fail(open(context, options, limits), error));
  return app;
}

function openApiDocument(app: OpenAPIHono): object {
  return app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: { title: "Spore", version: "1", description: "Durable workflows and virtual actors." },
    security: [{ bearer: [] }],
  });
}

// ---------------------------------------------------------------- one request

function endpoint(name: RouteName, options: ApiOptions, limits: ApiLimits): Handler {
  const handler = handlers[name];
  const route: Route = routes[name];
  return (context) => {
    const exchange = open(context, options, limits);
    const startedMs = options.clock.nowMs();
    return guarded(exchange, async () => {
      if (route.isPublic !== true) authenticate(exchange);
      if (route.params !== undefined) exchange.params = readParams(exchange, route.params);
      if (route.query !== undefined) exchange.query = readQuery(exchange, route.query);
      if (route.body !== undefined) exchange.body = await readBody(exchange, route.body);
      return handler(exchange);
    }).then((response) => {
      const labels = { route: route.path, method: route.method, status: String(response.status) };
      options.observer.observe("http_request_ms", options.clock.nowMs() - startedMs, labels);
      endSpan(exchange, route, { startedMs, response });
      return response;
    });
  };
}

interface Route {
  readonly path: string;
  readonly method: string;
  readonly params?: z.ZodType;
  readonly query?: z.ZodType;
  readonly body?: z.ZodType;
  readonly isPublic?: boolean;
}

function open(context: Context, options: ApiOptions, limits: ApiLimits): Exchange {
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

function endSpan(
  { options, trace, caller }: Exchange,
  { method, path }: Route,
  { startedMs, response }: { readonly startedMs: number; readonly response: Response },
): void {
  if (trace === undefined) return;
  const { status } = response;
  options.tracing?.ended({
    ...trace,
    name: `${method.toUpperCase()} ${path}`,
    kind: "server",
    startMs: startedMs,
    endMs: options.clock.nowMs(),
    attributes: {
      "http.request.method": method.toUpperCase(),
      "http.route": path,
      "http.response.status_code": status,
      "spore.tenant": caller.tenant,
    },
    ...(status >= 500 && { error: `answered ${status}` }),
  });
}

/** CBOR when the client names it; with no Accept at all, in the format that it sent. */
function prefersCbor(context: Context): boolean {
  const accept = context.req.header("accept");
  if (accept === undefined || accept === "*/*") {
    return mediaType(context.req.header("content-type")) === "application/cbor";
  }
  return accept.includes("application/cbor");
}

async function guarded(
  exchange: Exchange,
  work: (exchange: Exchange) => Promise<Response>,
): Promise<Response> {
  try {
    checkOrigin(exchange);
    return await work(exchange);
  } catch (thrown) {
    return fail(exchange, thrown);
  }
}

/**
 * A page of another site can make a browser send requests to this host: by a name that
 * resolves to loopback (the Host header shows it) or directly (Origin shows it).
 */
function checkOrigin(exchange: Exchange): void {
  const isHostAllowed = exchange.options.isHostAllowed;
  if (isHostAllowed === undefined) return;
  const host = exchange.context.req.header("host") ?? "";
  if (!isHostAllowed(host)) {
    throw new SporeError("origin-denied", "this Host header is not served", {
      hint: "without API keys the server answers to localhost only",
    });
  }
  const origin = exchange.context.req.header("origin");
  if (origin === undefined) return;
  const originHost = /^https?:\/\/([^/]+)$/.exec(origin)?.[1];
  if (originHost !== undefined && isHostAllowed(originHost)) return;
  throw new SporeError("origin-denied", "requests from pages of other sites are not served", {
    hint: "configure API keys to serve other origins",
  });
}

function authenticate(exchange: Exchange): void {
  const { options, context } = exchange;
  exchange.caller = options.tenants.authenticate(context.req.header("authorization"));
  exchange.tenant = options.host.tenant(exchange.caller.tenant);
}

function requireOperator(exchange: Exchange): void {
  if (exchange.caller.isOperator) return;
  throw new SporeError("forbidden", "only an operator's key may read this");
}

function fail(exchange: Exchange, thrown: unknown): Response {
  const error = sporeErrorOf(thrown);
  if (error.kind === "internal" || error.kind === "corrupt") {
    exchange.options.observer.log("error", "request failed", {
      requestId: exchange.requestId,
      // A token in a path is a secret.
      path: exchange.path.replace(/^(\/v1\/events\/).*/, "$1…"),
      code: error.code,
      error: error.cause ?? error,
    });
  }
  const problem = problemOf(error, exchange);
  const headers = problemHeaders(error);
  return send(exchange, problem.status, problem, { headers, isProblem: true });
}

// ---------------------------------------------------------------- reading

function readParams(exchange: Exchange, schema: z.ZodType): Record<string, string> {
  const params = exchange.context.req.param();
  const result = schema.safeParse(params);
  if (result.success) return result.data as Record<string, string>;
  throw new ProblemError("invalid-id", describeIssues(result.error), {
    members: { errors: issuesOf(result.error, "path") },
  });
}

function readQuery(exchange: Exchange, schema: z.ZodType): unknown {
  const query: Record<string, unknown> = exchange.context.req.query();
  if (query.status !== undefined) {
    const asked = exchange.context.req.queries("status") ?? [];
    query.status = asked.flatMap((text) => text.split(",")).map((text) => text.toUpperCase());
  }
  if (query.name !== undefined) query.name = exchange.context.req.queries("name");
  return checked(schema, query, "query");
}

async function readBody(exchange: Exchange, schema: z.ZodType): Promise<unknown> {
  const type = mediaType(exchange.context.req.header("content-type"));
  const isCbor = type === "application/cbor";
  // A form's content type is what `curl -d` sends when nobody says otherwise.
  if (!isCbor && !jsonTypes.has(type)) {
    throw new SporeError("unsupported-media-type", `a body of type ${type} is not understood`, {
      hint: "send application/json or application/cbor",
    });
  }
  const bytes = await readBytes(exchange, exchange.limits.bodyBytesMax);
  if (bytes.length === 0) return checked(schema, {}, "body");
  return checked(schema, isCbor ? decodeCbor(bytes) : valueOfJson(parseJson(bytes)), "body");
}

const jsonTypes = new Set(["", "application/json", "application/x-www-form-urlencoded"]);

async function readBytes(exchange: Exchange, bytesMax: number): Promise<Uint8Array> {
  const request = exchange.context.req;
  const encoding = request.header("content-encoding");
  if (encoding !== undefined && encoding !== "identity") {
    throw new SporeError("unsupported-media-type", `content encoding ${encoding} is not supported`);
  }
  const declared = request.header("content-length");
  if (declared !== undefined && Number(declared) > bytesMax) throw bodyTooLarge(bytesMax);
  // A declared length bounds what the server hands on; without one we count ourselves.
  if (declared !== undefined) {
    const bytes = new Uint8Array(await request.arrayBuffer());
    if (bytes.length > bytesMax) throw bodyTooLarge(bytesMax);
    return bytes;
  }
  return readStream(request.raw.body, bytesMax);
}

async function readStream(
  body: ReadableStream<Uint8Array> | null,
  bytesMax: number,
): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of (body ?? []) as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    // Leaving the loop cancels the stream: nothing more is read.
    if (length > bytesMax) throw bodyTooLarge(bytesMax);
    chunks.push(chunk);
  }
  const bytes = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, offset);
    offset += chunk.length;
  }
  return bytes;
}

function bodyTooLarge(bytesMax: number): SporeError {
  return new ProblemError("body-too-large", `the body is larger than ${bytesMax} bytes`, {
    headers: { connection: "close" },
  });
}

function checked(schema: z.ZodType, input: unknown, where: string): unknown {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const isIdOnly = result.error.issues.every((issue) => idFields.has(String(issue.path[0])));
  throw new ProblemError(
    isIdOnly ? "invalid-id" : "invalid-request",
    describeIssues(result.error),
    {
      members: { errors: issuesOf(result.error, where) },
    },
  );
}

const idFields = new Set(["id", "messageId", "updateId", "callId"]);

function issuesOf(error: z.ZodError, where: string): readonly object[] {
  return error.issues.slice(0, 20).map((issue) => ({
    path: [where, ...issue.path.map(String)].join("."),
    message: issue.message,
  }));
}

function describeIssues(error: z.ZodError): string {
  const issue = error.issues[0];
  if (issue === undefined) return "the request is not valid";
  const path = issue.path.map(String).join(".");
  return path === "" ? issue.message : `${path}: ${issue.message}`;
}

function mediaType(header: string | undefined): string {
  return (header ?? "").split(";", 1)[0]?.trim().toLowerCase() ?? "";
}

function optionalId(exchange: Exchange, scope: string): string | undefined {
  const key = exchange.context.req.header("idempotency-key");
  if (key === undefined) return undefined;
  if (!/^[\x21-\x7e]{1,255}$/.test(key)) {
    throw new SporeError("invalid-id", "Idempotency-Key must be 1 to 255 visible ASCII characters");
  }
  const text = `${exchange.context.req.method}\0${scope}\0${key}`;
  return `ik_${hexOf(exchange.options.digest.sha256(new TextEncoder().encode(text)).subarray(0, 16))}`;
}

function session(exchange: Exchange): { id: string; seq: number; answered?: number } | undefined {
  const id = exchange.context.req.header("spore-session");
  const seq = exchange.context.req.header("spore-seq");
  const answered = exchange.context.req.header("spore-answered");
  if (id === undefined && seq === undefined) return undefined;
  if (id === undefined || !isId(id) || seq === undefined || !/^[1-9]\d{0,14}$/.test(seq)) {
    throw new SporeError("invalid-request", "Spore-Session and Spore-Seq go together", {
      hint: "an id, and a count from 1 without gaps",
    });
  }
  if (answered === undefined || !/^\d{1,15}$/.test(answered)) return { id, seq: Number(seq) };
  return { id, seq: Number(seq), answered: Math.min(Number(answered), Number(seq) - 1) };
}

// ---------------------------------------------------------------- writing

/** Fixed on every answer: the API is for programs, a browser shall do nothing with it by itself. */
const securityHeaders = {
  "x-content-type-options": "nosniff",
  "cache-control": "no-store",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
};

interface SendOptions {
  readonly headers?: Readonly<Record<string, string>>;
  readonly isProblem?: boolean;
}

function send(exchange: Exchange, status: number, body: object, options?: SendOptions): Response {
  const headers: Record<string, string> = {
    ...securityHeaders,
    "x-request-id": exchange.requestId,
    "content-type": exchange.wantsCbor
      ? "application/cbor"
      : options?.isProblem === true
        ? "application/problem+json"
        : "application/json",
    ...options?.headers,
  };
  const payload = exchange.wantsCbor
    ? (encodeCbor(views.withoutAbsent(body)) as Uint8Array<ArrayBuffer>)
    : JSON.stringify(body);
  return new Response(payload, { status, headers });
}

// Headers are plain objects given at once: Node's adaptor then writes them as they are,
// and makes no Response and no Headers object of them.

function noContent(exchange: Exchange): Response {
  const headers = { ...securityHeaders, "x-request-id": exchange.requestId };
  return new Response(null, { status: 204, headers });
}

function textResponse(exchange: Exchange, text: string, contentType: string): Response {
  const ids = { "x-request-id": exchange.requestId, "content-type": contentType };
  return new Response(text, { headers: { ...securityHeaders, ...ids } });
}

/** How user values appear in this answer: themselves in CBOR, tagged in JSON. */
function shownIn(exchange: Exchange): views.Show {
  return exchange.wantsCbor ? rawValue : showTagged;
}

/** The same with stacks at their author's lines; the component is asked for only if need be. */
async function explainedIn(
  exchange: Exchange,
  componentOf: () => Promise<string>,
  show: views.Show = shownIn(exchange),
): Promise<views.Shower> {
  const { maps } = exchange.options;
  if (maps === undefined) return { show };
  let component: string;
  try {
    component = await componentOf();
  } catch {
    return { show }; // Deleted meanwhile: its last error is worth more than its lines.
  }
  const mapper = await maps.mapper(exchange.caller.tenant, component);
  return { show, mapper };
}

function componentOfRun(exchange: Exchange, id: string): () => Promise<string> {
  return async () => (await exchange.tenant.getRun(id)).component;
}

const showTagged: views.Show = (encoded) => {
  const value = shownValue(encoded);
  return value === undefined ? undefined : jsonOfValue(value);
};

function routeNotFound(exchange: Exchange): SporeError {
  const allow = allowedMethods(exchange.path);
  const method = exchange.context.req.method;
  return new ProblemError("route-not-found", `there is no ${method} ${exchange.path}`, {
    hint: allow.length === 0 ? "see /openapi.json" : `this path takes ${allow.join(", ")}`,
    headers: allow.length === 0 ? {} : { allow: allow.join(", ") },
  });
}

const patterns = Object.values(routes).map((route) => ({
  method: route.method.toUpperCase(),
  pattern: new RegExp(`^${route.path.replaceAll(/\{\w+\}/g, "[^/]+")}$`),
}));

function allowedMethods(path: string): readonly string[] {
  const methods = patterns.filter((entry) => entry.pattern.test(path)).map((entry) => entry.method);
  if (path === "/openapi.json") methods.push("GET");
  if (methods.length === 0) return [];
  return [...new Set([...methods, ...(methods.includes("GET") ? ["HEAD"] : []), "OPTIONS"])];
}

// ---------------------------------------------------------------- runs

const emptyArgs = encodeCbor([]);

function encodedArgs(args: unknown): Encoded {
  return args === undefined ? emptyArgs : encodeCbor(args);
}

async function start(exchange: Exchange, what: Partial<StartRequest>): Promise<Response> {
  const { id, ifExists, component, tags, metadata, startAt, deadline, retentionMs, queue } =
    exchange.body;
  const derived = id === undefined ? optionalId(exchange, "run") : undefined;
  const request: StartRequest = {
    ...what,
    id: id ?? derived,
    ifExists,
    component,
    tags,
    metadata: metadata === undefined ? undefined : encodeCbor(metadata),
    startAtMs: startAt === undefined ? undefined : Date.parse(startAt),
    deadlineMs: deadline === undefined ? undefined : Date.parse(deadline),
    retentionMs,
    queue,
    // Waiting within the start saves the commit that an answer before the end would need.
    waitMs: exchange.query.wait,
    trace: exchange.trace?.self,
    ...messageOfStart(exchange, id ?? derived),
  };
  const started =
    derived === undefined
      ? await exchange.tenant.startRun(request)
      : await startOnce(exchange.tenant, { ...request, id: derived });
  // Without the engine's outcome: that is encoded, and `?wait` shows it.
  const result = { id: started.id, status: started.status, created: started.created };
  const location = { location: `/v1/runs/${encodeURIComponent(result.id)}` };
  if (request.signal !== undefined) {
    const body = { ...result, duplicate: started.duplicate };
    return send(exchange, result.created ? 201 : 200, body, { headers: location });
  }
  if (started.update !== undefined) return updateOfStart(exchange, result, started.update);
  if (exchange.query.wait === undefined) {
    return send(exchange, result.created ? 201 : 200, { ...result }, { headers: location });
  }
  const { outcome, status } = started;
  if (outcome === undefined) {
    const headers = { location: `${location.location}/output` };
    return send(exchange, 202, { ...result, status }, { headers });
  }
  const value = await outputValue(exchange, result.id, { outcome, status });
  const body = { ...result, status, output: value };
  return send(exchange, result.created ? 201 : 200, body, { headers: location });
}

/** The signal or update that a start brings; its id is that of the request if it has one. */
function messageOfStart(
  exchange: Exchange,
  id: string | undefined,
): Pick<StartRequest, "signal" | "update" | "waitMs"> {
  const { signal, update } = exchange.body;
  const scope = `start\0${id ?? ""}`;
  if (update !== undefined) {
    const updateId = update.updateId ?? optionalId(exchange, scope);
    return {
      update: { name: update.name, args: encodedArgs(update.args), updateId },
      signal: signalOfStart(signal),
      waitMs: exchange.query.wait ?? exchange.limits.updateWaitMs,
    };
  }
  const messageId = signal?.messageId ?? optionalId(exchange, scope);
  return { signal: signalOfStart(signal, messageId) };
}

function signalOfStart(
  signal: { readonly name: string; readonly value?: unknown } | undefined,
  messageId?: string,
): StartRequest["signal"] {
  if (signal === undefined) return undefined;
  return { name: signal.name, value: encodeCbor(signal.value), messageId };
}

async function updateOfStart(
  exchange: Exchange,
  result: { readonly id: string; readonly status: string; readonly created: boolean },
  update: CallResult,
): Promise<Response> {
  const headers = { location: `/v1/runs/${encodeURIComponent(result.id)}` };
  const members = { ...result, callId: update.callId };
  if (update.kind === "accepted") return send(exchange, 202, members, { headers });
  const value = await resultValue(exchange, update.outcome, {
    members: { id: result.id, created: result.created, callId: update.callId },
    componentOf: componentOfRun(exchange, result.id),
  });
  return send(exchange, result.created ? 201 : 200, { ...members, result: value }, { headers });
}

/**
 * Repeating a request must not do more than the first did, so the default `resume` (which
 * would retry a run that failed meanwhile) is used only to compare inputs.
 */
async function startOnce(
  tenant: TenantHost,
  request: StartRequest & { readonly id: string },
): Promise<StartResult> {
  try {
    return await tenant.startRun({ ...request, ifExists: "fail" });
  } catch (error) {
    if (!(error instanceof SporeError)) throw error;
    if (error.code === "input-mismatch") throw idempotencyMismatch(error);
    if (error.code !== "run-exists") throw error;
  }
  const { status } = await tenant.getRun(request.id);
  if (status !== "RUNNING" && status !== "PENDING" && status !== "SUCCESSFUL") {
    return { id: request.id, status, created: false };
  }
  try {
    return await tenant.startRun({ ...request, ifExists: "resume" });
  } catch (error) {
    if (error instanceof SporeError && error.code === "input-mismatch") {
      throw idempotencyMismatch(error);
    }
    throw error;
  }
}

function idempotencyMismatch(cause: SporeError): SporeError {
  return new SporeError(
    "idempotency-mismatch",
    "this Idempotency-Key was used with another request",
    { hint: "use a key of its own for every request", cause },
  );
}

async function outputValue(
  exchange: Exchange,
  id: string,
  output: { readonly outcome: Outcome; readonly status: string },
  step?: string,
): Promise<unknown> {
  if (output.outcome.kind === "ok") return shownIn(exchange)(output.outcome.value);
  const { error } = output.outcome;
  const code = output.status === "CANCELED" ? "run-canceled" : "run-failed";
  const verb = output.status === "CANCELED" ? "was canceled" : "failed";
  const who = step === undefined ? `run ${id}` : `step ${step} of run ${id}`;
  const shower = await explainedIn(exchange, componentOfRun(exchange, id));
  throw new ProblemError(code, `${who} ${verb}: ${error.message}`, {
    ...(output.status === "FAILED" ? { hint: failedHint(id) } : {}),
    members: {
      id,
      runStatus: output.status,
      step,
      error: views.errorView(error, shower),
    },
    headers: { location: `/v1/runs/${encodeURIComponent(id)}` },
  });
}

function failedHint(id: string): string {
  return `spore steps ${id} shows what it did; spore resume ${id} tries the failed step again`;
}

/** A run that was made of another one. */
async function madeAnswer(exchange: Exchange, making: Promise<StartResult>): Promise<Response> {
  const { id, status, created } = await making;
  const headers = { location: `/v1/runs/${encodeURIComponent(id)}` };
  return send(exchange, created ? 201 : 200, { id, status, created }, { headers });
}

async function runAnswer(exchange: Exchange, view: Promise<RunView>): Promise<Response> {
  const run = await view;
  const shower =
    run.error === undefined
      ? { show: shownIn(exchange) }
      : await explainedIn(exchange, async () => run.component);
  return send(exchange, 200, views.runView(run, shower));
}

/** Server-sent events that resume where the client's last one was. */
async function eventsAnswer(
  exchange: Exchange,
  component: string,
  events: (options: { from: number; signal: AbortSignalLike }) => AsyncIterable<HistoryEvent>,
): Promise<Response> {
  const last = exchange.context.req.header("last-event-id");
  const from = last !== undefined && /^\d{1,12}$/.test(last) ? Number(last) + 1 : undefined;
  const shower = await explainedIn(exchange, async () => component, showTagged);
  const body = eventStream({
    events: (signal) => events({ from: from ?? exchange.query.from ?? 0, signal }),
    clock: exchange.options.clock,
    heartbeatMs: exchange.limits.heartbeatMs,
    write: (event) => JSON.stringify(views.eventView(event, shower)),
    onError: (error) => problemOf(sporeErrorOf(error), exchange),
  });
  const ids = { "x-request-id": exchange.requestId, "content-type": "text/event-stream" };
  return new Response(body, { headers: { ...securityHeaders, ...ids } });
}

// ---------------------------------------------------------------- calls

/** Of what was called: its component, and where its result will be. */
interface Callee {
  readonly componentOf: () => Promise<string>;
  readonly location?: string | undefined;
}

async function callAnswer(
  exchange: Exchange,
  result: CallResult,
  { componentOf, location }: Callee,
): Promise<Response> {
  const headers: Record<string, string> = {};
  if (result.kind === "accepted") {
    if (location !== undefined) headers.location = location;
    return send(exchange, 202, { callId: result.callId }, { headers });
  }
  const members = { callId: result.callId };
  const value = await resultValue(exchange, result.outcome, { members, componentOf });
  return send(exchange, 200, { callId: result.callId, result: value });
}

async function resultValue(
  exchange: Exchange,
  outcome: Outcome,
  how: {
    readonly members: Readonly<Record<string, unknown>>;
    readonly componentOf: Callee["componentOf"];
  },
): Promise<unknown> {
  if (outcome.kind === "ok") return shownIn(exchange)(outcome.value);
  const shower = await explainedIn(exchange, how.componentOf);
  throw callFailed(outcome.error, how.members, shower);
}

/** What the SDK itself answers for the user's code: not that code's failure. */
const codesOfGuest = ["query-not-found", "update-not-found", "run-closed"] as const;

function callFailed(error: ErrorValue, members: object, shower: views.Shower): SporeError {
  const code = codesOfGuest.find((each) => error.name === "GuestError" && each === error.code);
  if (code !== undefined) return new ProblemError(code, error.message, { members: { ...members } });
  const shown = views.errorView(error, shower);
  return new ProblemError("call-failed", `${error.name}: ${error.message}`, {
    members: { ...members, error: shown },
  });
}

function calleeOf(exchange: Exchange, callId: string): Callee {
  const { type = "", key = "" } = exchange.params;
  return {
    componentOf: async () => (await exchange.tenant.getActor(type, key)).component,
    location: callLocation(exchange.params, callId),
  };
}

/** An actor that wasn't born: its error is of the code that is current. */
async function throwInitFailure(exchange: Exchange, thrown: unknown): Promise<never> {
  const isInit = thrown instanceof SporeError && thrown.code === "actor-init-failed";
  if (!isInit || !isErrorValue(thrown.cause)) throw thrown;
  const componentOf = async (): Promise<string> =>
    (await exchange.tenant.currentComponent())?.id ?? "";
  const error = views.errorView(thrown.cause, await explainedIn(exchange, componentOf));
  throw new ProblemError(thrown.code, thrown.message, { cause: thrown, members: { error } });
}

function isErrorValue(cause: unknown): cause is ErrorValue {
  return typeof cause === "object" && cause !== null && "name" in cause && "message" in cause;
}

function callLocation(params: Readonly<Record<string, string>>, callId: string): string {
  const { type = "", key = "" } = params;
  const parts = [type, key, "calls", callId].map(encodeURIComponent);
  return `/v1/actors/${parts.join("/")}`;
}

async function callActor(exchange: Exchange): Promise<Response> {
  const { type = "", key = "", method = "" } = exchange.params;
  const { query, body, tenant } = exchange;
  const request = {
    type,
    key,
    method,
    args: encodedArgs(body.args),
    callId: body.callId ?? optionalId(exchange, `${type}\0${key}\0${method}`),
    session: session(exchange),
    trace: exchange.trace?.self,
  };
  const isAsync = query.async === true || query.wait !== undefined;
  const result = await tenant.callActor({ ...request, isAsync });
  const callee = calleeOf(exchange, result.callId);
  if (result.kind === "done" || query.async === true || query.wait === undefined) {
    return callAnswer(exchange, result, callee);
  }
  const waitMs = query.wait;
  const later = await tenant.callResult(type, key, result.callId, { waitMs });
  return callAnswer(exchange, later, callee);
}

// ---------------------------------------------------------------- schedules

const catchUpMsDefault = 3_600_000;

function scheduleRequest(exchange: Exchange): ScheduleRequest {
  const { id: _none, args, start, end, paused, ...rest } = exchange.body;
  return {
    ...rest,
    args: encodedArgs(args),
    startMs: start === undefined ? undefined : Date.parse(start),
    endMs: end === undefined ? undefined : Date.parse(end),
    overlap: rest.overlap ?? "skip",
    catchUpMs: rest.catchUpMs ?? catchUpMsDefault,
    isPaused: paused === true,
  };
}

async function createSchedule(exchange: Exchange): Promise<Response> {
  const { tenant, body } = exchange;
  const derived = body.id === undefined ? optionalId(exchange, "schedule") : undefined;
  const located = (id: string) => ({
    headers: { location: `/v1/schedules/${encodeURIComponent(id)}` },
  });
  try {
    const made = await tenant.createSchedule(body.id ?? derived, scheduleRequest(exchange));
    const view = views.scheduleView(made, shownIn(exchange));
    return send(exchange, 201, view, located(made.id));
  } catch (error) {
    const isRepeated = error instanceof SporeError && error.code === "schedule-exists";
    if (!isRepeated || derived === undefined) throw error;
    const view = views.scheduleView(await tenant.getSchedule(derived), shownIn(exchange));
    return send(exchange, 200, view, located(derived));
  }
}

async function scheduleAnswer(
  exchange: Exchange,
  schedule: Promise<ScheduleView>,
): Promise<Response> {
  return send(exchange, 200, views.scheduleView(await schedule, shownIn(exchange)));
}

// ---------------------------------------------------------------- the table of handlers

const handlers: Handlers = {
  health: async (exchange) => textResponse(exchange, "ok\n", "text/plain"),
  async ready(exchange) {
    if (exchange.options.host.isReady) return textResponse(exchange, "ready\n", "text/plain");
    throw new SporeError("host-busy", "the host is stopping, or nobody serves some partition");
  },
  async metrics(exchange) {
    requireOperator(exchange);
    const text = exchange.options.metrics?.() ?? "";
    return textResponse(exchange, text, "text/plain; version=0.0.4; charset=utf-8");
  },
  async hostStatus(exchange) {
    requireOperator(exchange);
    return send(exchange, 200, exchange.options.host.status());
  },
  async cluster(exchange) {
    requireOperator(exchange);
    return send(exchange, 200, exchange.options.host.cluster());
  },
  async repartition(exchange) {
    requireOperator(exchange);
    const { host } = exchange.options;
    await host.repartition(exchange.body.partitions);
    return send(exchange, 200, host.cluster());
  },

  async collect(exchange) {
    requireOperator(exchange);
    const { host } = exchange.options;
    return send(exchange, 200, await host.collect({ isDryRun: exchange.body.dryRun }));
  },

  async putObject(exchange) {
    const stored = await exchange.tenant.putObject(await uploadedValue(exchange));
    const { hash, size, expiresAtMs } = stored;
    const ref = new Ref(hash, size);
    const body = {
      hash,
      size,
      expiresAt: new Date(expiresAtMs).toISOString(),
      ref: exchange.wantsCbor ? ref : jsonOfValue(ref),
    };
    return send(exchange, 201, body, { headers: { location: `/v1/objects/${hash}` } });
  },
  async getObject(exchange) {
    const { object = "" } = exchange.params;
    const length = await exchange.tenant.objectBytes(object);
    if (length !== undefined) return bytesAnswer(exchange, object, length);
    const shown = shownIn(exchange)(await exchange.tenant.getObject(object));
    return send(exchange, 200, { value: shown });
  },

  async deploy(exchange) {
    const type = mediaType(exchange.context.req.header("content-type"));
    const isJavascript = type === "text/javascript" || type === "application/javascript";
    if (!isJavascript && type !== "application/wasm") {
      throw new SporeError("unsupported-media-type", `a component of type ${type} is not known`, {
        hint: "send application/wasm or text/javascript",
      });
    }
    const bytes = await readBytes(exchange, exchange.limits.componentBytesMax);
    if (bytes.length === 0) throw new SporeError("invalid-component", "the body is empty");
    const { source, map } = isJavascript ? bundleSource(textOf(bytes)) : componentSource(bytes);
    const { id, manifest } = await exchange.tenant.deploy(source);
    if (map !== undefined) await exchange.options.maps?.keep(exchange.caller.tenant, id, map);
    return send(exchange, 200, { id, definitions: manifest.definitions });
  },
  async currentComponent(exchange) {
    const component = await exchange.tenant.currentComponent();
    if (component === undefined) {
      throw new SporeError("no-component", "nothing is deployed yet", {
        hint: "spore deploy, or PUT /v1/components",
      });
    }
    return send(exchange, 200, component);
  },

  async deployments(exchange) {
    const deployments = await exchange.tenant.deployments(exchange.query);
    return send(exchange, 200, { deployments: deployments.map(views.deploymentView) });
  },
  async componentUse(exchange) {
    return send(exchange, 200, await exchange.tenant.componentUse());
  },
  async rollback(exchange) {
    const deployment = await exchange.tenant.rollBack(exchange.body.to);
    return send(exchange, 200, views.deploymentView(deployment));
  },

  startWorkflow: (exchange) =>
    start(exchange, { workflow: exchange.params.name, args: encodedArgs(exchange.body.args) }),
  startGraph(exchange) {
    if (typeof exchange.body.root !== "object" || exchange.body.root === null) {
      throw new SporeError("invalid-graph", "`root` must be a node of steps", {
        hint: '{ "root": { "$step": "add", "args": [1, 2] } }',
      });
    }
    return start(exchange, { root: encodeCbor(exchange.body.root) });
  },
  async listRuns(exchange) {
    const { tag: pair, limit, cursor } = exchange.query;
    const colon = pair?.indexOf(":") ?? 0;
    const tag = pair && { key: pair.slice(0, colon), value: pair.slice(colon + 1) };
    const filter = filterOf({ ...exchange.query, tag });
    const result = await exchange.tenant.listRuns({ ...filter, limit, cursor });
    return send(exchange, 200, { runs: result.runs.map(views.runSummary), cursor: result.cursor });
  },
  getRun: (exchange) => runAnswer(exchange, exchange.tenant.getRun(exchange.params.id ?? "")),
  async output(exchange) {
    const { id = "" } = exchange.params;
    const { wait, step } = exchange.query;
    const output = await exchange.tenant.output(id, {
      waitMs: wait ?? 0,
      ...(step === undefined ? {} : { step }),
    });
    if (output.kind === "pending") {
      const headers = { location: exchange.path };
      return send(exchange, 202, { id, status: output.status }, { headers });
    }
    const value = await outputValue(exchange, id, output, step);
    return send(exchange, 200, { id, status: output.status, output: value });
  },
  async published(exchange) {
    const { id = "", name = "" } = exchange.params;
    const waitMs = exchange.query.wait ?? 0;
    const published = await exchange.tenant.published(id, name, { waitMs });
    if (published.kind === "pending") {
      const headers = { location: exchange.path };
      return send(exchange, 202, { id, status: published.status }, { headers });
    }
    const at = new Date(published.atMs).toISOString();
    return send(exchange, 200, { value: shownIn(exchange)(published.value), at });
  },
  async steps(exchange) {
    const { id = "" } = exchange.params;
    const steps = await exchange.tenant.steps(id, exchange.query);
    const shower = steps.some((step) => step.error !== undefined)
      ? await explainedIn(exchange, componentOfRun(exchange, id))
      : { show: shownIn(exchange) };
    return send(exchange, 200, { steps: steps.map((step) => views.stepView(step, shower)) });
  },
  async history(exchange) {
    const { id = "" } = exchange.params;
    const events = await exchange.tenant.history(id, exchange.query);
    const shower = events.some(views.hasStack)
      ? await explainedIn(exchange, componentOfRun(exchange, id))
      : { show: shownIn(exchange) };
    return send(exchange, 200, { events: events.map((event) => views.eventView(event, shower)) });
  },
  async events(exchange) {
    const { id = "" } = exchange.params;
    // Asked first, so that an unknown run is a 404 and not an empty stream.
    const { component } = await exchange.tenant.getRun(id);
    return eventsAnswer(exchange, component, (options) => exchange.tenant.events(id, options));
  },

  cancel: (exchange) =>
    runAnswer(
      exchange,
      exchange.tenant.cancelRun(exchange.params.id ?? "", exchange.body.reason ?? "canceled"),
    ),
  terminate: (exchange) =>
    runAnswer(
      exchange,
      exchange.tenant.terminateRun(exchange.params.id ?? "", exchange.body.reason ?? "terminated"),
    ),
  pause: (exchange) => runAnswer(exchange, exchange.tenant.pauseRun(exchange.params.id ?? "")),
  resume: (exchange) => runAnswer(exchange, exchange.tenant.resumeRun(exchange.params.id ?? "")),
  async resumeAll(exchange) {
    const includeFailed = exchange.body.includeFailed === true;
    return send(exchange, 200, { runs: await exchange.tenant.resumeAll({ includeFailed }) });
  },
  async bulk(exchange) {
    const { action, filter, reason, dryRun, limit, cursor } = exchange.body;
    const result = await exchange.tenant.bulk({
      action,
      filter: filterOf(filter),
      reason,
      isDryRun: dryRun,
      limit,
      cursor,
    });
    const runs = result.runs.map(({ id, status, error }) => ({
      id,
      status,
      ...(error === undefined ? {} : { error: { code: error.code, message: error.message } }),
    }));
    return send(exchange, 200, { runs, cursor: result.cursor });
  },
  async forkRun(exchange) {
    const { id = "" } = exchange.params;
    const { step, id: asked, component } = exchange.body;
    const forkId = asked ?? optionalId(exchange, `${id}\0fork`);
    return madeAnswer(exchange, exchange.tenant.forkRun(id, { step, id: forkId, component }));
  },
  async rerunRun(exchange) {
    const { id = "" } = exchange.params;
    const { id: asked, args, root, reuse, component } = exchange.body;
    const request = {
      id: asked ?? optionalId(exchange, `${id}\0rerun`),
      args: args === undefined ? undefined : encodeCbor(args),
      root: root === undefined ? undefined : encodeCbor(root),
      reuse,
      component,
    };
    return madeAnswer(exchange, exchange.tenant.rerunRun(id, request));
  },
  async moveRun(exchange) {
    const { component, dryRun } = exchange.body;
    const move = { component, isDryRun: dryRun };
    const result = await exchange.tenant.moveRun(exchange.params.id ?? "", move);
    const { id, from, to } = result;
    if (result.kind !== "diverged") {
      const { activations, kind } = result;
      return send(exchange, 200, { id, from, to, moved: kind === "moved", activations });
    }
    const { activation, what, before, after } = result;
    throw new ProblemError("move-diverged", `${what} of activation ${activation} is another`, {
      hint: "Let the run end where it is, or fork or rerun it on the other component.",
      members: { id, from, to, difference: { activation, what, before, after } },
    });
  },
  async deleteRun(exchange) {
    await exchange.tenant.deleteRun(exchange.params.id ?? "");
    return noContent(exchange);
  },

  async signal(exchange) {
    const { id = "", name = "" } = exchange.params;
    const { value, args, messageId } = exchange.body;
    const sent = messageId ?? optionalId(exchange, `${id}\0${name}`);
    const encoded = encodeCbor(args === undefined ? value : args[0]);
    const options = sent === undefined ? {} : { messageId: sent };
    return send(exchange, 202, await exchange.tenant.signalRun(id, name, encoded, options));
  },
  async openEvents(exchange) {
    const events = await exchange.tenant.openEvents(exchange.params.id ?? "");
    return send(exchange, 200, { events: events.map(views.openEventView) });
  },
  async revokeEvent(exchange) {
    const { id = "", event } = exchange.params;
    await exchange.tenant.revokeEvent(id, Number(event));
    return noContent(exchange);
  },
  async rotateEventKeys(exchange) {
    requireOperator(exchange);
    return send(exchange, 200, await exchange.options.host.rotateEventKeys());
  },
  async query(exchange) {
    const { id = "", name = "" } = exchange.params;
    const args = encodedArgs(exchange.body.args);
    const outcome = await exchange.tenant.queryRun(id, name, args);
    const componentOf = componentOfRun(exchange, id);
    const result = await resultValue(exchange, outcome, { members: { id }, componentOf });
    return send(exchange, 200, { result });
  },
  async update(exchange) {
    const { id = "", name = "" } = exchange.params;
    const updateId = exchange.body.updateId ?? optionalId(exchange, `${id}\0${name}`);
    const { wait } = exchange.query;
    const result = await exchange.tenant.updateRun(id, name, encodedArgs(exchange.body.args), {
      ...(updateId === undefined ? {} : { updateId }),
      ...(wait === "accepted" ? { until: wait } : {}),
      waitMs: typeof wait === "number" ? wait : exchange.limits.updateWaitMs,
    });
    return callAnswer(exchange, result, { componentOf: componentOfRun(exchange, id) });
  },

  async eventPage(exchange) {
    const event = await exchange.options.host.event(tokenOf(exchange));
    return pageResponse(exchange, event.isDecided ? decidedPage() : askingPage(event.name));
  },
  async decideEvent(exchange) {
    const { host } = exchange.options;
    const token = tokenOf(exchange);
    const { decision } = exchange.query;
    const result = await host.decideEvent(token, decisionOf(exchange.body, decision));
    if (decision !== undefined) return pageResponse(exchange, decidedPage());
    return send(exchange, 200, result);
  },

  async ensureActor(exchange) {
    const { type = "", key = "" } = exchange.params;
    const args = encodedArgs(exchange.body.args);
    const { created, actor } = await exchange.tenant
      .ensureActor(type, key, args)
      .catch((error: unknown) => throwInitFailure(exchange, error));
    return send(exchange, created ? 201 : 200, { ...views.actorView(actor), created });
  },
  async getActor(exchange) {
    const { type = "", key = "" } = exchange.params;
    return send(exchange, 200, views.actorView(await exchange.tenant.getActor(type, key)));
  },
  async deleteActor(exchange) {
    const { type = "", key = "" } = exchange.params;
    await exchange.tenant.deleteActor(type, key);
    return noContent(exchange);
  },
  async listActors(exchange) {
    const { actors, cursor } = await exchange.tenant.listActors(exchange.query);
    return send(exchange, 200, { actors: actors.map(views.actorView), cursor });
  },
  async actorState(exchange) {
    const { type = "", key = "" } = exchange.params;
    const { state, turns } = await exchange.tenant.actorState(type, key);
    return send(exchange, 200, { state: shownIn(exchange)(state), turns });
  },
  async editActor(exchange) {
    const { type = "", key = "" } = exchange.params;
    const { state, turns } = exchange.body;
    const edit = { state: encodeCbor(state), turns };
    return send(exchange, 200, views.actorView(await exchange.tenant.editActor(type, key, edit)));
  },
  async actorHistory(exchange) {
    const { type = "", key = "" } = exchange.params;
    const events = await exchange.tenant.actorHistory(type, key, exchange.query);
    const { componentOf } = calleeOf(exchange, "");
    const shower = events.some(views.hasStack)
      ? await explainedIn(exchange, componentOf)
      : { show: shownIn(exchange) };
    return send(exchange, 200, { events: events.map((event) => views.eventView(event, shower)) });
  },
  async actorEvents(exchange) {
    const { type = "", key = "" } = exchange.params;
    const { component } = await exchange.tenant.getActor(type, key);
    return eventsAnswer(exchange, component, (options) =>
      exchange.tenant.actorEvents(type, key, options),
    );
  },
  async signalActor(exchange) {
    const { type = "", key = "", name = "" } = exchange.params;
    const { value, args, messageId } = exchange.body;
    const sent = messageId ?? optionalId(exchange, `${type}\0${key}\0${name}`);
    const encoded = encodeCbor(args === undefined ? value : args[0]);
    const options = sent === undefined ? {} : { messageId: sent };
    return send(
      exchange,
      202,
      await exchange.tenant.signalActor(type, key, name, encoded, options),
    );
  },
  async controlActor(exchange) {
    const { type = "", key = "", verb } = exchange.params;
    const { into } = exchange.body;
    if (verb === "resume") {
      return send(exchange, 200, views.actorView(await exchange.tenant.resumeActor(type, key)));
    }
    if (verb === "rollback") {
      return send(exchange, 200, views.actorView(await exchange.tenant.rollBackActor(type, key)));
    }
    if (into === undefined) {
      throw new SporeError("invalid-request", "into: a fork needs the key of the new actor");
    }
    return send(exchange, 200, views.actorView(await exchange.tenant.forkActor(type, key, into)));
  },
  async listQueues(exchange) {
    const { queues, cursor } = await exchange.tenant.listQueues(exchange.query);
    return send(exchange, 200, { queues: queues.map(views.queueView), cursor });
  },
  async getQueue(exchange) {
    const queue = await exchange.tenant.getQueue(exchange.params.name ?? "");
    return send(exchange, 200, views.queueView(queue));
  },
  async putQueue(exchange) {
    const { name = "" } = exchange.params;
    const { created, queue } = await exchange.tenant.putQueue(name, exchange.body);
    return send(exchange, created ? 201 : 200, { ...views.queueView(queue), created });
  },
  async deleteQueue(exchange) {
    await exchange.tenant.deleteQueue(exchange.params.name ?? "");
    return noContent(exchange);
  },
  createSchedule,
  async listSchedules(exchange) {
    const { schedules, cursor } = await exchange.tenant.listSchedules(exchange.query);
    const show = shownIn(exchange);
    const shown = schedules.map((schedule) => views.scheduleView(schedule, show));
    return send(exchange, 200, { schedules: shown, cursor });
  },
  getSchedule: (exchange) =>
    scheduleAnswer(exchange, exchange.tenant.getSchedule(exchange.params.id ?? "")),
  async putSchedule(exchange) {
    const { id = "" } = exchange.params;
    const { created, schedule } = await exchange.tenant.putSchedule(id, scheduleRequest(exchange));
    const body = { ...views.scheduleView(schedule, shownIn(exchange)), created };
    return send(exchange, created ? 201 : 200, body);
  },
  async deleteSchedule(exchange) {
    await exchange.tenant.deleteSchedule(exchange.params.id ?? "");
    return noContent(exchange);
  },
  async backfillSchedule(exchange) {
    const { from, to, overlap, preview } = exchange.body;
    const range = { fromMs: Date.parse(from), toMs: Date.parse(to), overlap, isPreview: preview };
    const { id = "" } = exchange.params;
    const { slots, firstMs, lastMs } = await exchange.tenant.backfillSchedule(id, range);
    const [first, last] = [firstMs, lastMs].map((atMs) => atMs && new Date(atMs).toISOString());
    return send(exchange, 200, { slots, first, last });
  },
  async controlSchedule(exchange) {
    const { id = "", verb } = exchange.params;
    const { note, overlap, triggerId } = exchange.body;
    if (verb === "pause") return scheduleAnswer(exchange, exchange.tenant.pauseSchedule(id, note));
    if (verb === "resume") {
      return scheduleAnswer(exchange, exchange.tenant.resumeSchedule(id, note));
    }
    const once = triggerId ?? optionalId(exchange, `${id}\0trigger`);
    const { schedule } = await exchange.tenant.triggerSchedule(id, {
      ...(overlap === undefined ? {} : { overlap }),
      ...(once === undefined ? {} : { triggerId: once }),
    });
    return send(exchange, 200, views.scheduleView(schedule, shownIn(exchange)));
  },
  async upgradeActors(exchange) {
    return send(exchange, 202, await exchange.tenant.upgradeActors(exchange.body));
  },
  callActor,
  async callResult(exchange) {
    const { type = "", key = "", callId = "" } = exchange.params;
    const waitMs = exchange.query.wait ?? 0;
    const result = await exchange.tenant.callResult(type, key, callId, { waitMs });
    return callAnswer(exchange, result, calleeOf(exchange, callId));
  },
};

/** As it comes in a query or a body. */
interface GivenFilter {
  readonly status?: RunFilter["statuses"];
  readonly name?: RunFilter["names"];
  readonly prefix?: string | undefined;
  readonly component?: string | undefined;
  readonly tag?: RunFilter["tag"];
  readonly createdAfter?: string | undefined;
  readonly createdBefore?: string | undefined;
}

function filterOf(given: GivenFilter): RunFilter {
  const { status, name, prefix, component, tag, createdAfter, createdBefore } = given;
  return {
    statuses: status,
    names: name,
    idPrefix: prefix,
    component,
    tag,
    createdAfterMs: createdAfter === undefined ? undefined : Date.parse(createdAfter),
    createdBeforeMs: createdBefore === undefined ? undefined : Date.parse(createdBefore),
  };
}

// ---------------------------------------------------------------- stored values

/** What is read from the store at once, for an answer that is as large as it likes. */
const partBytes = 4 * 1024 * 1024;

/** The body as an encoded value. */
async function uploadedValue(exchange: Exchange): Promise<Encoded> {
  const { limits, context } = exchange;
  const type = mediaType(context.req.header("content-type"));
  if (type === "application/cbor") {
    return encodeCbor(decodeCbor(await readBytes(exchange, limits.bodyBytesMax)));
  }
  if (type === "application/json") {
    const json = parseJson(await readBytes(exchange, limits.bodyBytesMax));
    return encodeCbor(valueOfJson(json));
  }
  const declared = context.req.header("content-length");
  if (declared === undefined) return encodeCbor(await readBytes(exchange, limits.objectBytesMax));
  return readBytesAsValue(exchange, Number(declared));
}

/** As `encode` writes bytes, without a second copy of what may be a hundred megabytes. */
async function readBytesAsValue(exchange: Exchange, length: number): Promise<Encoded> {
  const { objectBytesMax } = exchange.limits;
  if (!(length <= objectBytesMax)) throw bodyTooLarge(objectBytesMax);
  const head = headOfBytes(length);
  const value = new Uint8Array(head.length + length);
  value.set(head);
  let at = head.length;
  for await (const chunk of (exchange.context.req.raw.body ?? []) as AsyncIterable<Uint8Array>) {
    if (at + chunk.length > value.length) throw bodyTooLarge(objectBytesMax);
    value.set(chunk, at);
    at += chunk.length;
  }
  if (at === value.length) return value;
  throw new SporeError("invalid-request", `the body ended after ${at - head.length} bytes`);
}

/** CBOR's head of a byte string, as short as it can be. */
function headOfBytes(length: number): Uint8Array {
  if (length < 24) return Uint8Array.of(0x40 + length);
  if (length < 2 ** 8) return Uint8Array.of(0x58, length);
  if (length < 2 ** 16) return Uint8Array.of(0x59, length >> 8, length & 255);
  const head = new DataView(new ArrayBuffer(5));
  head.setUint8(0, 0x5a);
  head.setUint32(1, length);
  return new Uint8Array(head.buffer);
}

/** Bytes as they are, a part at a time, so that nobody holds them all. */
function bytesAnswer(exchange: Exchange, object: string, length: number): Response {
  const { tenant, context, requestId } = exchange;
  const range = rangeOf(context.req.header("range"), length);
  if (range === "unsatisfiable") {
    const headers = { ...securityHeaders, "content-range": `bytes */${length}` };
    return new Response(null, { status: 416, headers });
  }
  const { offset, end } = range ?? { offset: 0, end: length };
  let at = offset;
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      if (at >= end) return controller.close();
      const part = { offset: at, length: Math.min(partBytes, end - at) };
      const bytes = await tenant.getObjectPart(object, part);
      if (bytes.length !== part.length) return controller.error(new Error("the object is cut"));
      at += bytes.length;
      controller.enqueue(bytes);
    },
  });
  const headers = {
    ...securityHeaders,
    "x-request-id": requestId,
    "content-type": "application/octet-stream",
    "content-length": String(end - offset),
    "accept-ranges": "bytes",
    etag: `"${object}"`,
    ...(range === undefined ? {} : { "content-range": `bytes ${offset}-${end - 1}/${length}` }),
  };
  const isHead = context.req.method === "HEAD";
  return new Response(isHead ? null : body, { status: range === undefined ? 200 : 206, headers });
}

/** One range, as RFC 9110 has it; several, or another unit, are answered with the whole. */
function rangeOf(
  header: string | undefined,
  length: number,
): { readonly offset: number; readonly end: number } | "unsatisfiable" | undefined {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? "");
  if (match === null || (match[1] === "" && match[2] === "")) return undefined;
  const [first = "", last = ""] = match.slice(1);
  const offset = first === "" ? Math.max(0, length - Number(last)) : Number(first);
  const end = first === "" || last === "" ? length : Math.min(length, Number(last) + 1);
  return offset >= end ? "unsatisfiable" : { offset, end };
}

// ---------------------------------------------------------------- events by token

function tokenOf(exchange: Exchange): string {
  return exchange.context.req.param("token") ?? "";
}

/** What a form's button says is a boolean. */
function decisionOf(
  body: { readonly value?: unknown; readonly error?: string | Partial<ErrorValue> },
  decision: "approve" | "decline" | undefined,
): Outcome {
  if (decision !== undefined) return { kind: "ok", value: encodeCbor(decision === "approve") };
  const { error } = body;
  if (("value" in body ? 1 : 0) + (error === undefined ? 0 : 1) !== 1) {
    throw new SporeError("invalid-request", "give either a value or an error");
  }
  if (error === undefined) return { kind: "ok", value: encodeCbor(body.value) };
  const {
    name = "Error",
    message = "",
    code,
  } = typeof error === "string" ? { message: error } : error;
  const marked = code === undefined ? {} : { code };
  return { kind: "error", error: { name, message, ...marked, class: "user", retryable: false } };
}

function pageResponse(exchange: Exchange, page: string): Response {
  const ids = { "x-request-id": exchange.requestId };
  return new Response(page, { headers: { ...securityHeaders, ...ids, ...pageHeaders } });
}

// ---------------------------------------------------------------- small things

interface Upload {
  readonly source: ComponentSource;
  readonly map: string | undefined;
}

function bundleSource(text: string): Upload {
  const { code, map } = detachFromBundle(text);
  return { source: { kind: "javascript", code }, map };
}

function componentSource(bytes: Uint8Array): Upload {
  return { source: { kind: "component", bytes }, map: mapOfComponent(bytes) };
}

function textOf(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new SporeError("invalid-component", "the module is not UTF-8", { cause });
  }
}

function hexOf(bytes: Uint8Array): string {
  let hex = "";
  for (const byte of bytes) hex += byte.toString(16).padStart(2, "0");
  return hex;
}
