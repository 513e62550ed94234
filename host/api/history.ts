/**
 * What happened to a run or an actor: as a page of events, and as server-sent events that go
 * on where the client's last one was.
 */
import { z } from "@hono/zod-openapi";
import type { HistoryEvent } from "../../runtime/index.ts";
import type { AbortSignalLike } from "../../runtime/ports.ts";
import { problemOf, sporeErrorOf } from "../problems.ts";
import { explainedIn, securityHeaders, send, shownIn, showTagged } from "./answers.ts";
import { eventStream } from "./event-stream.ts";
import type { Exchange } from "./exchange.ts";
import * as views from "./views.ts";

export const event = z
  .object({
    index: z.number().int(),
    at: z.iso.datetime(),
    type: z.string(),
    data: z.record(z.string(), z.unknown()),
  })
  .openapi("HistoryEvent");

/** A page of it, in which errors have their places in the author's code. */
export async function historyAnswer(
  exchange: Exchange,
  events: readonly HistoryEvent[],
  componentOf: () => Promise<string>,
): Promise<Response> {
  const shower = events.some(views.hasStack)
    ? await explainedIn(exchange, componentOf)
    : { show: shownIn(exchange) };
  return send(exchange, 200, { events: events.map((event) => views.eventView(event, shower)) });
}

/** Server-sent events that resume where the client's last one was. */
export async function eventsAnswer(
  exchange: Exchange<unknown, { readonly from?: number | undefined }>,
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
