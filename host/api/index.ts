/**
 * The HTTP API as a Hono app over a `Host`. Knows neither Node nor Workers. Each file beside
 * this one is a resource: its schemas, its routes, and what they do. Here is what every
 * request passes: origin, key, schemas, then its handler; and problems, metrics and spans of
 * whatever came of it. Everything about status codes is in problems.ts.
 */
import { type Handler, Hono } from "hono";
import { SporeError } from "../../runtime/errors.ts";
import { ProblemError, problemHeaders, problemOf, sporeErrorOf } from "../problems.ts";
import { actorRoutes } from "./actors.ts";
import { securityHeaders, send, textResponse } from "./answers.ts";
import { componentRoutes } from "./components.ts";
import { eventRoutes } from "./events.ts";
import {
  type ApiLimits,
  type ApiOptions,
  apiLimits,
  type Exchange,
  openExchange,
} from "./exchange.ts";
import { hostRoutes } from "./host.ts";
import { messageRoutes } from "./messages.ts";
import { objectRoutes } from "./objects.ts";
import { queueRoutes } from "./queues.ts";
import { readBody, readParams, readQuery } from "./requests.ts";
import { openApiDocument, type Route } from "./route.ts";
import { runRoutes } from "./runs.ts";
import { scheduleRoutes } from "./schedules.ts";
import { startRoutes } from "./starts.ts";

const routes: readonly Route[] = [
  hostRoutes,
  objectRoutes,
  componentRoutes,
  startRoutes,
  runRoutes,
  messageRoutes,
  eventRoutes,
  actorRoutes,
  queueRoutes,
  scheduleRoutes,
].flatMap((table) => Object.values<Route>(table));

/** Makes the app; `app.fetch` is what Node's server and a Worker call. */
export function createApi(options: ApiOptions): Hono {
  const limits = { ...apiLimits, ...options.limits };
  const app = new Hono();
  const served = routes.filter(
    (route) => route !== hostRoutes.metrics || options.metrics !== undefined,
  );
  for (const route of served) {
    const path = route.path.replaceAll(/\{(\w+)\}/g, ":$1");
    app.on(route.method.toUpperCase(), path, endpoint(route, options, limits));
  }
  let document: string | undefined;
  app.get("/openapi.json", (context) =>
    guarded(openExchange(context, options, limits), async (exchange) => {
      document ??= JSON.stringify(openApiDocument(served));
      return textResponse(exchange, document, "application/json");
    }),
  );
  app.options("*", (context) =>
    guarded(openExchange(context, options, limits), async (exchange) => {
      const allow = allowedMethods(exchange.path);
      if (allow.length === 0) throw routeNotFound(exchange);
      const ids = { "x-request-id": exchange.requestId, allow: allow.join(", ") };
      const headers = { ...securityHeaders, ...ids };
      return new Response(null, { status: 204, headers });
    }),
  );
  app.notFound((context) =>
    guarded(openExchange(context, options, limits), async (exchange) => {
      throw routeNotFound(exchange);
    }),
  );
  app.onError((error, context) => fail(openExchange(context, options, limits), error));
  return app;
}

function endpoint(route: Route, options: ApiOptions, limits: ApiLimits): Handler {
  return (context) => {
    const exchange = openExchange(context, options, limits);
    const startedMs = options.clock.nowMs();
    return guarded(exchange, async () => {
      if (route.isPublic !== true) authenticate(exchange);
      if (route.params !== undefined) exchange.params = readParams(exchange, route.params);
      if (route.query !== undefined) exchange.query = readQuery(exchange, route.query);
      if (route.body !== undefined) exchange.body = await readBody(exchange, route.body);
      return route.handle(exchange);
    }).then((response) => {
      const labels = { route: route.path, method: route.method, status: String(response.status) };
      options.observer.observe("http_request_ms", options.clock.nowMs() - startedMs, labels);
      endSpan(exchange, route, { startedMs, response });
      return response;
    });
  };
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

function routeNotFound(exchange: Exchange): SporeError {
  const allow = allowedMethods(exchange.path);
  const method = exchange.context.req.method;
  return new ProblemError("route-not-found", `there is no ${method} ${exchange.path}`, {
    hint: allow.length === 0 ? "see /openapi.json" : `this path takes ${allow.join(", ")}`,
    headers: allow.length === 0 ? {} : { allow: allow.join(", ") },
  });
}

const patterns = routes.map((route) => ({
  method: route.method.toUpperCase(),
  pattern: new RegExp(`^${route.path.replaceAll(/\{\w+\}/g, "[^/]+")}$`),
}));

function allowedMethods(path: string): readonly string[] {
  const methods = patterns.filter((entry) => entry.pattern.test(path)).map((entry) => entry.method);
  if (path === "/openapi.json") methods.push("GET");
  if (methods.length === 0) return [];
  return [...new Set([...methods, ...(methods.includes("GET") ? ["HEAD"] : []), "OPTIONS"])];
}
