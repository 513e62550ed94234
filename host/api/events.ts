/**
 * Events that somebody outside decides by a token: in the address, where it is all the
 * permission that there is. For people there is a page.
 */
import { z } from "@hono/zod-openapi";
import type { Outcome } from "../../guest/protocol.ts";
import { SporeError } from "../../runtime/errors.ts";
import { statusOf } from "../problems.ts";
import { encodeCbor } from "../values.ts";
import { noContent, securityHeaders, send } from "./answers.ts";
import { askingPage, decidedPage, pageHeaders, refusalPage } from "./event-page.ts";
import { type Exchange, requireOperator } from "./exchange.ts";
import { id, name, value } from "./fields.ts";
import { route } from "./route.ts";
import { runParams } from "./runs.ts";
import * as views from "./views.ts";

export const eventRoutes = {
  openEvents: route({
    method: "get",
    path: "/v1/runs/{id}/open-events",
    summary: "Events of a run that somebody with a token may still decide; without the tokens",
    tag: "messages",
    params: runParams,
    answers: {
      200: {
        description: "Oldest first",
        schema: z.object({
          events: z.array(
            z.object({
              event: z.number().int(),
              name: z.string(),
              expiresAt: z.iso.datetime(),
            }),
          ),
        }),
      },
    },
    async handle(exchange) {
      const events = await exchange.tenant.openEvents(exchange.params.id);
      return send(exchange, 200, { events: events.map(views.openEventView) });
    },
  }),
  revokeEvent: route({
    method: "delete",
    path: "/v1/runs/{id}/open-events/{event}",
    summary: "Make an event's token worthless; who waits for it gets `event-revoked`",
    tag: "messages",
    params: z.object({ id, event: z.string().regex(/^\d{1,12}$/, "a whole number") }),
    answers: { 204: { description: "Revoked" } },
    async handle(exchange) {
      const { id, event } = exchange.params;
      await exchange.tenant.revokeEvent(id, Number(event));
      return noContent(exchange);
    },
  }),
  rotateEventKeys: route({
    method: "post",
    path: "/v1/event-keys",
    summary: "Sign tokens with a new key from now on (operators); old tokens stay good",
    tag: "messages",
    body: z.strictObject({}),
    answers: { 200: { description: "Its number", schema: z.object({ key: z.number().int() }) } },
    async handle(exchange) {
      requireOperator(exchange);
      return send(exchange, 200, await exchange.options.host.rotateEventKeys());
    },
  }),
  eventPage: route({
    method: "get",
    path: "/v1/events/{token}",
    summary: "A page that asks a person to decide an event; decides nothing itself",
    tag: "messages",
    answers: { 200: { description: "The page", contentType: "text/html" } },
    isPublic: true,
    async handle(exchange) {
      return forPeople(exchange, async () => {
        const event = await exchange.options.host.event(tokenOf(exchange));
        return event.isDecided ? decidedPage() : askingPage(event.name);
      });
    },
  }),
  decideEvent: route({
    method: "post",
    path: "/v1/events/{token}",
    summary: "Decide an event, once: with a value, or an error",
    tag: "messages",
    query: z.object({ decision: z.enum(["approve", "decline"]).optional() }),
    body: z.strictObject({
      value: value.optional(),
      error: z
        .union([
          z.string().max(10_000),
          z.strictObject({
            name: name.optional(),
            message: z.string().max(10_000),
            code: name.optional(),
          }),
        ])
        .optional(),
    }),
    answers: { 200: { description: "Durable", schema: z.object({ duplicate: z.boolean() }) } },
    isPublic: true,
    async handle(exchange) {
      const { host } = exchange.options;
      const token = tokenOf(exchange);
      const { decision } = exchange.query;
      const decide = () => host.decideEvent(token, decisionOf(exchange.body, decision));
      if (decision === undefined) return send(exchange, 200, await decide());
      return forPeople(exchange, async () => {
        await decide();
        return decidedPage();
      });
    },
  }),
};

function tokenOf(exchange: Exchange): string {
  return exchange.context.req.param("token") ?? "";
}

type GivenError =
  | string
  | {
      readonly name?: string | undefined;
      readonly message: string;
      readonly code?: string | undefined;
    };

/** What a form's button says is a boolean. */
function decisionOf(
  body: { readonly value?: unknown; readonly error?: GivenError | undefined },
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

/** Who followed a link in a mail reads a page also when it's too late; programs get a problem. */
async function forPeople(exchange: Exchange, page: () => Promise<string>): Promise<Response> {
  const accept = exchange.context.req.header("accept") ?? "";
  try {
    return pageResponse(exchange, 200, await page());
  } catch (error) {
    const isForPeople = error instanceof SporeError && accept.includes("text/html");
    const refusal = isForPeople ? refusalPage(error.code) : undefined;
    if (!isForPeople || refusal === undefined) throw error;
    return pageResponse(exchange, statusOf(error), refusal);
  }
}

function pageResponse(exchange: Exchange, status: number, page: string): Response {
  const ids = { "x-request-id": exchange.requestId };
  return new Response(page, { status, headers: { ...securityHeaders, ...ids, ...pageHeaders } });
}
