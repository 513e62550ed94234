/**
 * Components: deploying, what is and was deployed, and going back.
 */
import { z } from "@hono/zod-openapi";
import { SporeError } from "../../runtime/errors.ts";
import type { ComponentSource } from "../../runtime/ports.ts";
import { detachFromBundle, mapOfComponent } from "../attached-map.ts";
import { send } from "./answers.ts";
import { mediaType } from "./exchange.ts";
import { componentPrefix, count, index } from "./fields.ts";
import { readBytes } from "./requests.ts";
import { route } from "./route.ts";
import * as views from "./views.ts";

const component = z
  .object({
    id: z.string(),
    definitions: z.array(
      z.looseObject({ kind: z.enum(["step", "workflow", "actor"]), name: z.string() }),
    ),
    isCurrent: z.boolean().optional(),
  })
  .openapi("Component");

const deployment = z
  .object({
    seq: z.number().int(),
    component: z.string(),
    at: z.iso.datetime(),
    isCurrent: z.boolean(),
    rollbackTo: z.number().int().optional(),
  })
  .openapi("Deployment");

export const componentRoutes = {
  deploy: route({
    method: "put",
    path: "/v1/components",
    summary: "Deploy a component, or a bundled JS module that the host compiles",
    tag: "components",
    rawBody: ["application/wasm", "text/javascript", "application/javascript"],
    answers: { 200: { description: "Known under its id, and current", schema: component } },
    async handle(exchange) {
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
  }),
  currentComponent: route({
    method: "get",
    path: "/v1/components/current",
    summary: "The component that new runs take",
    tag: "components",
    answers: { 200: { description: "Component", schema: component } },
    async handle(exchange) {
      const component = await exchange.tenant.currentComponent();
      if (component === undefined) {
        throw new SporeError("no-component", "nothing is deployed yet", {
          hint: "spore deploy, or PUT /v1/components",
        });
      }
      return send(exchange, 200, component);
    },
  }),
  deployments: route({
    method: "get",
    path: "/v1/components",
    summary: "What was deployed, newest first",
    tag: "components",
    query: z.object({ limit: count(100), before: index }),
    answers: {
      200: {
        description: "Deployments and rollbacks",
        schema: z.object({ deployments: z.array(deployment) }),
      },
    },
    async handle(exchange) {
      const deployments = await exchange.tenant.deployments(exchange.query);
      return send(exchange, 200, { deployments: deployments.map(views.deploymentView) });
    },
  }),
  componentUse: route({
    method: "get",
    path: "/v1/components/use",
    summary: "Open runs and actors by component",
    tag: "components",
    answers: {
      200: {
        description: "By how the components' ids begin",
        schema: z.object({
          components: z.array(
            z.object({
              component: z.string(),
              runs: z.record(z.string(), z.number().int()),
              actors: z.number().int(),
            }),
          ),
          isPartial: z.boolean(),
        }),
      },
    },
    async handle(exchange) {
      return send(exchange, 200, await exchange.tenant.componentUse());
    },
  }),
  rollback: route({
    method: "post",
    path: "/v1/components/rollback",
    summary: "Make current again what was before, or `to`",
    tag: "components",
    body: z.strictObject({ to: componentPrefix.optional() }),
    answers: { 200: { description: "What is current now", schema: deployment } },
    async handle(exchange) {
      const deployment = await exchange.tenant.rollBack(exchange.body.to);
      return send(exchange, 200, views.deploymentView(deployment));
    },
  }),
};

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
