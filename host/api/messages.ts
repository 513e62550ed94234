/**
 * What is said to a run and what it says: signals, queries, updates, published values.
 */
import { z } from "@hono/zod-openapi";
import { encodeCbor } from "../values.ts";
import { send, valueIn } from "./answers.ts";
import { callAnswer, callAnswers, encodedArgs, resultValue } from "./calls.ts";
import { args, id, name, status, value, wait } from "./fields.ts";
import { optionalId } from "./requests.ts";
import { route } from "./route.ts";
import { componentOfRun } from "./runs.ts";

const messageParams = z.object({ id, name });

export const messageRoutes = {
  published: route({
    method: "get",
    path: "/v1/runs/{id}/published/{name}",
    summary: "The latest value that a run has published under a name, now or when it comes",
    tag: "messages",
    params: messageParams,
    query: z.object({ wait }),
    answers: {
      200: {
        description: "The value",
        schema: z.object({ value: value.optional(), at: z.iso.datetime() }),
      },
      202: { description: "Not yet", schema: z.object({ id: z.string(), status }) },
    },
    async handle(exchange) {
      const { id, name } = exchange.params;
      const waitMs = exchange.query.wait ?? 0;
      const published = await exchange.tenant.published(id, name, { waitMs });
      if (published.kind === "pending") {
        const headers = { location: exchange.path };
        return send(exchange, 202, { id, status: published.status }, { headers });
      }
      const at = new Date(published.atMs).toISOString();
      const value = await valueIn(exchange, published.value, componentOfRun(exchange, id));
      return send(exchange, 200, { value, at });
    },
  }),
  signal: route({
    method: "post",
    path: "/v1/runs/{id}/signals/{name}",
    summary: "Send a signal",
    tag: "messages",
    params: messageParams,
    body: z.strictObject({ value: value.optional(), args, messageId: id.optional() }),
    answers: {
      202: { description: "Durable", schema: z.object({ duplicate: z.boolean() }) },
    },
    async handle(exchange) {
      const { id, name } = exchange.params;
      const { value, args, messageId } = exchange.body;
      const sent = messageId ?? optionalId(exchange, `${id}\0${name}`);
      const encoded = encodeCbor(args === undefined ? value : args[0]);
      const options = sent === undefined ? {} : { messageId: sent };
      return send(exchange, 202, await exchange.tenant.signalRun(id, name, encoded, options));
    },
  }),
  query: route({
    method: "post",
    path: "/v1/runs/{id}/queries/{name}",
    summary: "Ask; never changes anything",
    tag: "messages",
    params: messageParams,
    body: z.strictObject({ args }),
    answers: { 200: { description: "Answer", schema: z.object({ result: value.optional() }) } },
    async handle(exchange) {
      const { id, name } = exchange.params;
      const args = encodedArgs(exchange.body.args);
      const outcome = await exchange.tenant.queryRun(id, name, args);
      const componentOf = componentOfRun(exchange, id);
      const result = await resultValue(exchange, outcome, { members: { id }, componentOf });
      return send(exchange, 200, { result });
    },
  }),
  update: route({
    method: "post",
    path: "/v1/runs/{id}/updates/{name}",
    summary: "Change, and wait for the handler's result",
    tag: "messages",
    params: messageParams,
    query: z.object({ wait: z.union([z.enum(["accepted", "completed"]), wait]) }),
    body: z.strictObject({ args, updateId: id.optional() }),
    answers: callAnswers(),
    async handle(exchange) {
      const { id, name } = exchange.params;
      const updateId = exchange.body.updateId ?? optionalId(exchange, `${id}\0${name}`);
      const { wait } = exchange.query;
      const result = await exchange.tenant.updateRun(id, name, encodedArgs(exchange.body.args), {
        ...(updateId === undefined ? {} : { updateId }),
        ...(wait === "accepted" ? { until: wait } : {}),
        waitMs: typeof wait === "number" ? wait : exchange.limits.updateWaitMs,
      });
      return callAnswer(exchange, result, { componentOf: componentOfRun(exchange, id) });
    },
  }),
};
