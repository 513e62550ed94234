/**
 * Runs that begin: of a workflow or a graph, with the message that comes with the start, and
 * made of another run. An Idempotency-Key names the run, so a repeated request finds it.
 */
import { z } from "@hono/zod-openapi";
import { SporeError } from "../../runtime/errors.ts";
import type { CallResult, StartRequest, StartResult, TenantHost } from "../../runtime/index.ts";
import { encodeCbor } from "../values.ts";
import { send } from "./answers.ts";
import { encodedArgs, resultValue } from "./calls.ts";
import type { Exchange } from "./exchange.ts";
import { args, id, isStored, name, queueOptions, status, tags, value, wait } from "./fields.ts";
import { optionalId } from "./requests.ts";
import { route } from "./route.ts";
import { componentOfRun, outputValue, runParams } from "./runs.ts";

const started = z
  .object({
    id: z.string(),
    status,
    created: z.boolean(),
    output: value.optional(),
    isStored: isStored.optional(),
    duplicate: z.boolean().optional(),
    callId: z.string().optional(),
    result: value.optional(),
  })
  .openapi("Started");

const startFields = {
  id: id.optional(),
  ifExists: z.enum(["resume", "fail", "start", "terminate"]).optional(),
  component: z.string().max(128).optional(),
  tags,
  metadata: value.optional(),
  startAt: z.iso.datetime({ offset: true }).optional(),
  deadline: z.iso.datetime({ offset: true }).optional(),
  retentionMs: z
    .number()
    .int()
    .min(0)
    .max(100 * 366 * 86_400_000)
    .optional(),
  queue: queueOptions,
};

/** Of a workflow, which can be told something with its start. */
const messageFields = {
  signal: z
    .strictObject({ name, value: value.optional(), messageId: id.optional() })
    .optional()
    .openapi({ description: "Delivered in the transition that starts or finds the run" }),
  update: z
    .strictObject({ name, args, updateId: id.optional() })
    .optional()
    .openapi({ description: "The same; ?wait is how long to wait for its result" }),
};

const startQuery = z.object({ wait });

type StartExchange = Exchange<
  unknown,
  z.output<typeof startQuery>,
  z.output<z.ZodObject<typeof startFields>> & z.output<z.ZodObject<typeof messageFields>>
>;

function startAnswers() {
  return {
    200: { description: "Was there", schema: started },
    201: { description: "Created", schema: started },
    202: { description: "Waited in vain; ask /output later", schema: started },
  } as const;
}

export const startRoutes = {
  startWorkflow: route({
    method: "post",
    path: "/v1/workflows/{name}",
    summary: "Start a workflow; with ?wait, wait for its output",
    tag: "runs",
    params: z.object({ name }),
    query: startQuery,
    body: z.strictObject({
      args,
      ...startFields,
      ...messageFields,
    }),
    answers: startAnswers(),
    handle: (exchange) =>
      start(exchange, { workflow: exchange.params.name, args: encodedArgs(exchange.body.args) }),
  }),
  startGraph: route({
    method: "post",
    path: "/v1/graphs",
    summary: "Start a graph of steps",
    tag: "runs",
    query: startQuery,
    body: z.strictObject({
      root: z.unknown().openapi({
        example: { $step: "add", args: [100, { $step: "one", args: [] }] },
      }),
      ...startFields,
    }),
    answers: startAnswers(),
    handle(exchange) {
      if (typeof exchange.body.root !== "object" || exchange.body.root === null) {
        throw new SporeError("invalid-graph", "`root` must be a node of steps", {
          hint: '{ "root": { "$step": "add", "args": [1, 2] } }',
        });
      }
      return start(exchange, { root: encodeCbor(exchange.body.root) });
    },
  }),
  forkRun: route({
    method: "post",
    path: "/v1/runs/{id}/fork",
    summary: "A new run with this one's past up to a step, which it runs next",
    tag: "runs",
    params: runParams,
    body: z.strictObject({
      step: z.string().min(1).max(300),
      id: id.optional(),
      component: z.string().max(128).optional(),
    }),
    answers: {
      200: { description: "It was there", schema: started },
      201: { description: "Made", schema: started },
    },
    async handle(exchange) {
      const { id } = exchange.params;
      const { step, id: asked, component } = exchange.body;
      const forkId = asked ?? optionalId(exchange, `${id}\0fork`);
      return madeAnswer(exchange, exchange.tenant.forkRun(id, { step, id: forkId, component }));
    },
  }),
  rerunRun: route({
    method: "post",
    path: "/v1/runs/{id}/rerun",
    summary: "A new run that does again what this one did, with other input if it is given",
    tag: "runs",
    params: runParams,
    body: z.strictObject({
      id: id.optional(),
      args,
      root: z.unknown().optional(),
      reuse: z
        .boolean()
        .optional()
        .openapi({ description: "Steps of the same identity and arguments take its results" }),
      component: z.string().max(128).optional(),
    }),
    answers: {
      200: { description: "It was there", schema: started },
      201: { description: "Started", schema: started },
    },
    async handle(exchange) {
      const { id } = exchange.params;
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
  }),
};

async function start(exchange: StartExchange, what: Partial<StartRequest>): Promise<Response> {
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
  const body = { ...result, status, output: value, isStored: started.isStored };
  return send(exchange, result.created ? 201 : 200, body, { headers: location });
}

/** The signal or update that a start brings; its id is that of the request if it has one. */
function messageOfStart(
  exchange: StartExchange,
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

/** A run that was made of another one. */
async function madeAnswer(exchange: Exchange, making: Promise<StartResult>): Promise<Response> {
  const { id, status, created } = await making;
  const headers = { location: `/v1/runs/${encodeURIComponent(id)}` };
  return send(exchange, created ? 201 : 200, { id, status, created }, { headers });
}
