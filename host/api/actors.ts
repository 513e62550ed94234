/**
 * Actors: their life, their state and history, and calls of their methods.
 */
import { z } from "@hono/zod-openapi";
import type { ErrorValue } from "../../guest/protocol.ts";
import { SporeError } from "../../runtime/errors.ts";
import { ProblemError } from "../problems.ts";
import { encodeCbor } from "../values.ts";
import { explainedIn, noContent, send, shownIn } from "./answers.ts";
import { type Callee, callAnswer, callAnswers, encodedArgs } from "./calls.ts";
import type { Exchange } from "./exchange.ts";
import { args, count, id, index, name, value, wait } from "./fields.ts";
import { event, eventsAnswer, historyAnswer } from "./history.ts";
import { optionalId, session } from "./requests.ts";
import { route } from "./route.ts";
import * as views from "./views.ts";

const actorView = z
  .object({
    type: z.string(),
    key: z.string(),
    component: z.string(),
    createdAt: z.iso.datetime(),
    turns: z.number().int(),
    stateBytes: z.number().int(),
    mailbox: z.number().int(),
    busy: z.boolean(),
    stopped: z.boolean(),
    reminders: z.array(z.object({ name: z.string(), method: z.string(), at: z.iso.datetime() })),
    previousComponent: z.string().optional(),
    failedUpgrade: z
      .object({
        component: z.string(),
        error: z.object({ name: z.string(), message: z.string() }),
      })
      .optional(),
  })
  .openapi("Actor");

const actorParams = z.object({ type: name, key: id });
type ActorParams = z.output<typeof actorParams>;

const flag = z
  .enum(["1", "true", "0", "false", ""])
  .transform((text) => text !== "0" && text !== "false")
  .optional()
  .openapi({ type: "boolean" });

export const actorRoutes = {
  ensureActor: route({
    method: "put",
    path: "/v1/actors/{type}/{key}",
    summary: "Get or create",
    tag: "actors",
    params: actorParams,
    body: z.strictObject({ args }),
    answers: {
      200: { description: "Was there", schema: actorView },
      201: { description: "Created", schema: actorView },
    },
    async handle(exchange) {
      const { type, key } = exchange.params;
      const args = encodedArgs(exchange.body.args);
      const { created, actor } = await exchange.tenant
        .ensureActor(type, key, args)
        .catch((error: unknown) => throwInitFailure(exchange, error));
      return send(exchange, created ? 201 : 200, { ...views.actorView(actor), created });
    },
  }),
  getActor: route({
    method: "get",
    path: "/v1/actors/{type}/{key}",
    summary: "What is known of an actor",
    tag: "actors",
    params: actorParams,
    answers: { 200: { description: "Actor", schema: actorView } },
    async handle(exchange) {
      const { type, key } = exchange.params;
      return send(exchange, 200, views.actorView(await exchange.tenant.getActor(type, key)));
    },
  }),
  deleteActor: route({
    method: "delete",
    path: "/v1/actors/{type}/{key}",
    summary: "Forget an actor",
    tag: "actors",
    params: actorParams,
    answers: { 204: { description: "Gone" } },
    async handle(exchange) {
      const { type, key } = exchange.params;
      await exchange.tenant.deleteActor(type, key);
      return noContent(exchange);
    },
  }),
  listActors: route({
    method: "get",
    path: "/v1/actors",
    summary: "List actors, by type and key",
    tag: "actors",
    query: z.object({
      type: name.optional(),
      keyPrefix: id.optional(),
      limit: count(1000),
      cursor: z.string().max(2000).optional(),
    }),
    answers: {
      200: {
        description: "A page; `cursor` is there when there may be more",
        schema: z.object({ actors: z.array(actorView), cursor: z.string().optional() }),
      },
    },
    async handle(exchange) {
      const { actors, cursor } = await exchange.tenant.listActors(exchange.query);
      return send(exchange, 200, { actors: actors.map(views.actorView), cursor });
    },
  }),
  actorState: route({
    method: "get",
    path: "/v1/actors/{type}/{key}/state",
    summary: "The actor's state as it is kept, and after how many turns",
    tag: "actors",
    params: actorParams,
    answers: {
      200: { description: "State", schema: z.object({ state: value.optional(), turns: index }) },
    },
    async handle(exchange) {
      const { type, key } = exchange.params;
      const { state, turns } = await exchange.tenant.actorState(type, key);
      return send(exchange, 200, { state: shownIn(exchange)(state), turns });
    },
  }),
  editActor: route({
    method: "put",
    path: "/v1/actors/{type}/{key}/state",
    summary: "Replace the state of an idle actor, if it has had no turn since it was read",
    tag: "actors",
    params: actorParams,
    body: z.strictObject({ state: value, turns: z.number().int().min(0) }),
    answers: { 200: { description: "The actor afterwards", schema: actorView } },
    async handle(exchange) {
      const { type, key } = exchange.params;
      const { state, turns } = exchange.body;
      const edit = { state: encodeCbor(state), turns };
      return send(exchange, 200, views.actorView(await exchange.tenant.editActor(type, key, edit)));
    },
  }),
  actorHistory: route({
    method: "get",
    path: "/v1/actors/{type}/{key}/history",
    summary: "The actor's last turns and events, oldest first, with the state after each turn",
    tag: "actors",
    params: actorParams,
    query: z.object({ from: index, limit: count(1000) }),
    answers: { 200: { description: "Events", schema: z.object({ events: z.array(event) }) } },
    async handle(exchange) {
      const { type, key } = exchange.params;
      const events = await exchange.tenant.actorHistory(type, key, exchange.query);
      return historyAnswer(exchange, events, calleeOf(exchange, "").componentOf);
    },
  }),
  actorEvents: route({
    method: "get",
    path: "/v1/actors/{type}/{key}/events",
    summary: "The actor's events, then live, as server-sent events; resumes by Last-Event-ID",
    tag: "actors",
    params: actorParams,
    query: z.object({ from: index }),
    answers: { 200: { description: "Events", contentType: "text/event-stream" } },
    async handle(exchange) {
      const { type, key } = exchange.params;
      const { component } = await exchange.tenant.getActor(type, key);
      return eventsAnswer(exchange, component, (options) =>
        exchange.tenant.actorEvents(type, key, options),
      );
    },
  }),
  signalActor: route({
    method: "post",
    path: "/v1/actors/{type}/{key}/signals/{name}",
    summary: "Send a signal to an actor; durable when answered",
    tag: "actors",
    params: z.object({ type: name, key: id, name }),
    body: z.strictObject({ value: value.optional(), args, messageId: id.optional() }),
    answers: {
      202: { description: "Accepted", schema: z.object({ duplicate: z.boolean() }) },
    },
    async handle(exchange) {
      const { type, key, name } = exchange.params;
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
  }),
  controlActor: route({
    method: "post",
    path: "/v1/actors/{type}/{key}/control/{verb}",
    summary: "`resume` a stopped actor, `rollback` its upgrade, `fork` it `into` another key",
    tag: "actors",
    params: z.object({ type: name, key: id, verb: z.enum(["resume", "rollback", "fork"]) }),
    body: z.strictObject({ into: id.optional() }),
    answers: { 200: { description: "The actor (the new one of a fork)", schema: actorView } },
    async handle(exchange) {
      const { type, key, verb } = exchange.params;
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
  }),
  upgradeActors: route({
    method: "post",
    path: "/v1/actor-upgrades",
    summary: "Move actors of a type to a component: one, those with a prefix, or all",
    tag: "actors",
    body: z.strictObject({
      type: name,
      key: id.optional(),
      keyPrefix: id.optional(),
      component: z.string().max(128).optional(),
    }),
    answers: {
      202: { description: "Asked for", schema: z.object({ requested: z.number().int() }) },
    },
    async handle(exchange) {
      return send(exchange, 202, await exchange.tenant.upgradeActors(exchange.body));
    },
  }),
  callActor: route({
    method: "post",
    path: "/v1/actors/{type}/{key}/{method}",
    summary: "Call a method; with ?async=1 answer when the call is durable",
    tag: "actors",
    params: z.object({ type: name, key: id, method: name }),
    query: z.object({ async: flag, wait }),
    body: z.strictObject({
      args,
      callId: id.optional(),
      ifMissing: z.enum(["create", "fail"]).optional(),
    }),
    answers: callAnswers(),
    handle: callActor,
  }),
  callResult: route({
    method: "get",
    path: "/v1/actors/{type}/{key}/calls/{callId}",
    summary: "The result of an earlier call",
    tag: "actors",
    params: z.object({ type: name, key: id, callId: id }),
    query: z.object({ wait }),
    answers: callAnswers(),
    async handle(exchange) {
      const { type, key, callId } = exchange.params;
      const waitMs = exchange.query.wait ?? 0;
      const result = await exchange.tenant.callResult(type, key, callId, { waitMs });
      return callAnswer(exchange, result, calleeOf(exchange, callId));
    },
  }),
};

function calleeOf(exchange: Exchange<ActorParams>, callId: string): Callee {
  const { type, key } = exchange.params;
  return {
    componentOf: async () => {
      try {
        return (await exchange.tenant.getActor(type, key)).component;
      } catch (error) {
        // A read of what isn't there, or a call of what was deleted since.
        if (error instanceof SporeError && error.kind === "missing") return currentOf(exchange);
        throw error;
      }
    },
    location: callLocation(exchange.params, callId),
  };
}

async function currentOf(exchange: Exchange): Promise<string> {
  return (await exchange.tenant.currentComponent())?.id ?? "";
}

/** An actor that wasn't born: its error is of the code that is current. */
async function throwInitFailure(exchange: Exchange, thrown: unknown): Promise<never> {
  const isInit = thrown instanceof SporeError && thrown.code === "actor-init-failed";
  if (!isInit || !isErrorValue(thrown.cause)) throw thrown;
  const explained = await explainedIn(exchange, () => currentOf(exchange));
  const error = views.errorView(thrown.cause, explained);
  throw new ProblemError(thrown.code, thrown.message, { cause: thrown, members: { error } });
}

function isErrorValue(cause: unknown): cause is ErrorValue {
  return typeof cause === "object" && cause !== null && "name" in cause && "message" in cause;
}

function callLocation({ type, key }: ActorParams, callId: string): string {
  const parts = [type, key, "calls", callId].map(encodeURIComponent);
  return `/v1/actors/${parts.join("/")}`;
}

async function callActor(
  exchange: Exchange<
    ActorParams & { readonly method: string },
    { readonly async?: boolean | undefined; readonly wait?: number | undefined },
    {
      readonly args?: unknown;
      readonly callId?: string | undefined;
      readonly ifMissing?: "create" | "fail" | undefined;
    }
  >,
): Promise<Response> {
  const { type, key, method } = exchange.params;
  const { query, body, tenant } = exchange;
  const request = {
    type,
    key,
    method,
    args: encodedArgs(body.args),
    callId: body.callId ?? optionalId(exchange, `${type}\0${key}\0${method}`),
    ifMissing: body.ifMissing,
    session: session(exchange),
    trace: exchange.trace?.self,
  };
  const isAsync = query.async === true || query.wait !== undefined;
  const result = await tenant
    .callActor({ ...request, isAsync })
    .catch((error: unknown) => throwInitFailure(exchange, error));
  const callee = calleeOf(exchange, result.callId);
  if (result.kind === "done" || query.async === true || query.wait === undefined) {
    return callAnswer(exchange, result, callee);
  }
  const waitMs = query.wait;
  const later = await tenant.callResult(type, key, result.callId, { waitMs });
  return callAnswer(exchange, later, callee);
}
