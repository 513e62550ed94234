/**
 * The host itself: probes, metrics, its cluster, and collecting garbage.
 */
import { z } from "@hono/zod-openapi";
import { SporeError } from "../../runtime/errors.ts";
import { partitionsMax } from "../../runtime/index.ts";
import { send, textResponse } from "./answers.ts";
import { requireOperator } from "./exchange.ts";
import { route } from "./route.ts";

const garbage = z.object({ count: z.number().int(), bytes: z.number().int() }).openapi("Garbage");

const cluster = z.object({
  partitions: z.number().int(),
  hosts: z.array(
    z.object({
      hostId: z.string(),
      address: z.string(),
      isSelf: z.boolean(),
      state: z.enum(["live", "draining", "dead"]),
      partitions: z.array(z.number().int()),
    }),
  ),
});

export const hostRoutes = {
  health: route({
    method: "get",
    path: "/healthz",
    summary: "The process answers",
    tag: "host",
    answers: { 200: { description: "Alive", contentType: "text/plain" } },
    isPublic: true,
    handle: async (exchange) => textResponse(exchange, "ok\n", "text/plain"),
  }),
  ready: route({
    method: "get",
    path: "/readyz",
    summary: "The host takes work: every partition is served, here or by another host",
    tag: "host",
    answers: {
      200: { description: "Ready", contentType: "text/plain" },
    },
    isPublic: true,
    async handle(exchange) {
      if (exchange.options.host.isReady) return textResponse(exchange, "ready\n", "text/plain");
      throw new SporeError("host-busy", "the host is stopping, or nobody serves some partition");
    },
  }),
  metrics: route({
    method: "get",
    path: "/metrics",
    summary: "Prometheus text",
    tag: "host",
    answers: { 200: { description: "Metrics", contentType: "text/plain" } },
    async handle(exchange) {
      requireOperator(exchange);
      const text = exchange.options.metrics?.() ?? "";
      return textResponse(exchange, text, "text/plain; version=0.0.4; charset=utf-8");
    },
  }),
  hostStatus: route({
    method: "get",
    path: "/v1/status",
    summary: "The host's partitions (operators)",
    tag: "host",
    answers: { 200: { description: "Status", schema: z.looseObject({ hostId: z.string() }) } },
    async handle(exchange) {
      requireOperator(exchange);
      return send(exchange, 200, exchange.options.host.status());
    },
  }),
  collect: route({
    method: "post",
    path: "/v1/gc",
    summary: "Delete what nothing refers to, in the whole namespace (operators)",
    tag: "host",
    body: z.object({ dryRun: z.boolean().optional() }).strict(),
    answers: {
      200: {
        description: "What was deleted, or would be",
        schema: z.object({
          isDryRun: z.boolean(),
          objects: garbage,
          components: garbage,
          maps: garbage,
          segments: garbage,
          condemned: z.number().int(),
        }),
      },
    },
    async handle(exchange) {
      requireOperator(exchange);
      const { host } = exchange.options;
      return send(exchange, 200, await host.collect({ isDryRun: exchange.body.dryRun }));
    },
  }),
  cluster: route({
    method: "get",
    path: "/v1/cluster",
    summary: "The hosts of the namespace, and who serves what (operators)",
    tag: "host",
    answers: { 200: { description: "As this host sees it", schema: cluster } },
    async handle(exchange) {
      requireOperator(exchange);
      return send(exchange, 200, exchange.options.host.cluster());
    },
  }),
  repartition: route({
    method: "put",
    path: "/v1/cluster",
    summary: "Put the namespace into another number of partitions, while it serves (operators)",
    tag: "host",
    body: z.object({ partitions: z.number().int().min(1).max(partitionsMax) }).strict(),
    answers: { 200: { description: "As it is then", schema: cluster } },
    async handle(exchange) {
      requireOperator(exchange);
      const { host } = exchange.options;
      await host.repartition(exchange.body.partitions);
      return send(exchange, 200, host.cluster());
    },
  }),
};
