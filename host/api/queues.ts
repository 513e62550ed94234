/**
 * Queues: what they let through, who runs and who waits.
 */
import { z } from "@hono/zod-openapi";
import { noContent, send } from "./answers.ts";
import { count, id } from "./fields.ts";
import { route } from "./route.ts";
import * as views from "./views.ts";

const queueCount = (min: number) => z.number().int().min(min).max(1_000_000_000).optional();

/** What a queue lets through, in requests and in answers. */
const queueLimits = {
  concurrency: queueCount(1),
  keyConcurrency: queueCount(1),
  rate: z
    .strictObject({
      limit: z.number().int().min(1).max(1_000_000_000),
      periodMs: z.number().int().min(1),
      burst: queueCount(1),
    })
    .optional(),
  maxPending: queueCount(0),
};

const queueView = z
  .object({
    name: z.string(),
    ...queueLimits,
    declared: z.boolean(),
    createdAt: z.iso.datetime(),
    updatedAt: z.iso.datetime(),
    running: z.number().int(),
    waiting: z.number().int(),
    admitted: z.number().int(),
    next: z.array(
      z.object({
        id: z.string(),
        priority: z.number().int(),
        key: z.string().optional(),
        since: z.iso.datetime(),
      }),
    ),
  })
  .openapi("Queue");

const queueParams = z.object({ name: id });

export const queueRoutes = {
  listQueues: route({
    method: "get",
    path: "/v1/queues",
    summary: "List queues, by name",
    tag: "queues",
    query: z.object({ limit: count(1000), cursor: z.string().max(200).optional() }),
    answers: {
      200: {
        description: "A page; `cursor` is there when there may be more",
        schema: z.object({ queues: z.array(queueView), cursor: z.string().optional() }),
      },
    },
    async handle(exchange) {
      const { queues, cursor } = await exchange.tenant.listQueues(exchange.query);
      return send(exchange, 200, { queues: queues.map(views.queueView), cursor });
    },
  }),
  getQueue: route({
    method: "get",
    path: "/v1/queues/{name}",
    summary: "A queue: its limits, who runs, and who waits",
    tag: "queues",
    params: queueParams,
    answers: { 200: { description: "Queue", schema: queueView } },
    async handle(exchange) {
      const queue = await exchange.tenant.getQueue(exchange.params.name);
      return send(exchange, 200, views.queueView(queue));
    },
  }),
  putQueue: route({
    method: "put",
    path: "/v1/queues/{name}",
    summary: "Set what a queue lets through; `all` is passed by every run that is no child",
    tag: "queues",
    params: queueParams,
    body: z.strictObject(queueLimits),
    answers: {
      200: { description: "Changed", schema: queueView },
      201: { description: "Created", schema: queueView },
    },
    async handle(exchange) {
      const { name } = exchange.params;
      const { created, queue } = await exchange.tenant.putQueue(name, exchange.body);
      return send(exchange, created ? 201 : 200, { ...views.queueView(queue), created });
    },
  }),
  deleteQueue: route({
    method: "delete",
    path: "/v1/queues/{name}",
    summary: "Take back what was set: what the code declares holds again, or the queue is gone",
    tag: "queues",
    params: queueParams,
    answers: { 204: { description: "Done" } },
    async handle(exchange) {
      await exchange.tenant.deleteQueue(exchange.params.name);
      return noContent(exchange);
    },
  }),
};
