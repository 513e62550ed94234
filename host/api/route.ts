/**
 * What a route is: its place, the schemas of what it reads and answers, and its handler. The
 * same entry validates requests and makes the OpenAPI 3.1 document, so the two can't drift
 * apart.
 */
import { createRoute, OpenAPIHono, type RouteConfig, z } from "@hono/zod-openapi";
import type { Exchange } from "./exchange.ts";
import { problem } from "./fields.ts";

interface Shape {
  readonly method: "get" | "post" | "put" | "delete";
  readonly path: string;
  readonly summary: string;
  readonly tag: string;
  readonly params?: z.ZodObject;
  readonly query?: z.ZodObject;
  readonly body?: z.ZodObject;
  /** Body that is neither JSON nor CBOR: its content types. */
  readonly rawBody?: readonly string[];
  readonly answers: Readonly<
    Record<
      number,
      { readonly description: string; readonly schema?: z.ZodType; readonly contentType?: string }
    >
  >;
  readonly isPublic?: boolean;
}

/** A route as the app serves it, whatever its schemas are. */
export interface Route extends Shape {
  handle(exchange: Exchange): Promise<Response>;
}

interface Handled<Params extends z.ZodObject, Query extends z.ZodObject, Body extends z.ZodObject>
  extends Shape {
  readonly params?: Params;
  readonly query?: Query;
  readonly body?: Body;
  handle(exchange: Exchange<z.output<Params>, z.output<Query>, z.output<Body>>): Promise<Response>;
}

/** Its handler is given what its schemas make of a request. */
export function route<
  Params extends z.ZodObject = z.ZodObject<Record<never, never>>,
  Query extends z.ZodObject = z.ZodObject<Record<never, never>>,
  Body extends z.ZodObject = z.ZodObject<Record<never, never>>,
>(handled: Handled<Params, Query, Body>): Route {
  // The app has read all three by these very schemas when it calls `handle`.
  return handled as unknown as Route;
}

/** Made when somebody asks: a Worker that starts has no time for it. */
export function openApiDocument(routes: readonly Route[]): object {
  const app = new OpenAPIHono();
  for (const route of routes) app.openAPIRegistry.registerPath(routeConfig(route));
  app.openAPIRegistry.registerComponent("securitySchemes", "bearer", {
    type: "http",
    scheme: "bearer",
  });
  return app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: { title: "Spore", version: "1", description: "Durable workflows and virtual actors." },
    security: [{ bearer: [] }],
  });
}

/** One entry as @hono/zod-openapi wants it. */
function routeConfig(shape: Shape): RouteConfig {
  const responses: RouteConfig["responses"] = {};
  for (const [code, answer] of Object.entries(shape.answers)) {
    responses[code] = {
      description: answer.description,
      ...(answer.schema === undefined
        ? answer.contentType === undefined
          ? {}
          : { content: { [answer.contentType]: { schema: z.string() } } }
        : { content: bothContents(answer.schema) }),
    };
  }
  responses.default = {
    description: "Problem (RFC 9457)",
    content: { "application/problem+json": { schema: problem } },
  };
  return createRoute({
    method: shape.method,
    path: shape.path,
    summary: shape.summary,
    tags: [shape.tag],
    security: shape.isPublic === true ? [] : [{ bearer: [] }],
    request: {
      ...(shape.params === undefined ? {} : { params: shape.params as never }),
      ...(shape.query === undefined ? {} : { query: shape.query as never }),
      ...(shape.method === "post" ? { headers: postHeaders as never } : {}),
      ...(shape.body === undefined ? {} : { body: { content: bothContents(shape.body) } }),
      ...(shape.rawBody === undefined ? {} : { body: { content: rawContents(shape.rawBody) } }),
    },
    responses,
  }) as RouteConfig;
}

const postHeaders = z.object({
  "Idempotency-Key": z.string().max(255).optional().openapi({
    description: "Makes the request safe to repeat.",
  }),
});

function bothContents(schema: z.ZodType) {
  return { "application/json": { schema }, "application/cbor": { schema } };
}

function rawContents(types: readonly string[]) {
  const schema = z.string().openapi({ format: "binary" });
  return Object.fromEntries(types.map((type) => [type, { schema }]));
}
