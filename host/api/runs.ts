/**
 * Runs: listing, looking at one, waiting for its output, and controlling one or many.
 */
import { z } from "@hono/zod-openapi";
import type { Outcome } from "../../guest/protocol.ts";
import type { RunFilter, RunView, StepView, TenantHost } from "../../runtime/index.ts";
import { ProblemError } from "../problems.ts";
import { explainedIn, noContent, send, shownIn, valueIn } from "./answers.ts";
import type { Exchange } from "./exchange.ts";
import {
  componentPrefix,
  count,
  errorValue,
  id,
  index,
  isStored,
  name,
  status,
  value,
  wait,
} from "./fields.ts";
import { event, eventsAnswer, historyAnswer } from "./history.ts";
import { type Route, route } from "./route.ts";
import { mayHoldError } from "./value-errors.ts";
import * as views from "./views.ts";

const run = z
  .object({
    id: z.string(),
    name: z.string(),
    status,
    component: z.string(),
    attempt: z.number().int(),
    createdAt: z.iso.datetime(),
    closedAt: z.iso.datetime().optional(),
    expiresAt: z.iso.datetime().optional(),
    parentId: z.string().optional(),
    rootId: z.string().optional(),
    forkedFrom: z.object({ id: z.string(), step: z.string() }).optional(),
    rerunOf: z.string().optional(),
    forks: z.array(z.string()),
    reruns: z.array(z.string()),
    tags: z.record(z.string(), z.string()),
    metadata: value.optional(),
    waiting: z
      .object({
        for: z.string(),
        since: z.iso.datetime(),
        until: z.iso.datetime().optional(),
      })
      .optional(),
    progress: z.object({ step: z.string(), at: z.iso.datetime(), value }).optional(),
    error: errorValue.optional(),
    queries: z.array(z.string()),
    updates: z.array(z.string()),
    records: z.number().int(),
    imageBytes: z.number().int(),
    journalLength: z.number().int(),
  })
  .openapi("Run");

const summary = z
  .object({
    id: z.string(),
    name: z.string(),
    component: z.string().openapi({ description: "How its component's id begins" }),
    status,
    createdAt: z.iso.datetime(),
    closedAt: z.iso.datetime().optional(),
    tags: z.record(z.string(), z.string()),
  })
  .openapi("RunSummary");

const stepView = z
  .object({
    step: z.string(),
    name: z.string(),
    status: z.enum(["RUNNING", "RETRYING", "SUCCESSFUL", "FAILED", "CONTINUED"]),
    attempt: z.number().int(),
    startedAt: z.iso.datetime(),
    endedAt: z.iso.datetime().optional(),
    value: value.optional(),
    error: errorValue.optional(),
    nextAt: z.iso.datetime().optional(),
    into: z.string().optional(),
    progress: value.optional(),
    compensates: z.string().optional(),
    reused: z.boolean().optional(),
    metadata: value.optional(),
  })
  .openapi("Step");

const time = z.iso.datetime({ offset: true }).optional();

export const runParams = z.object({ id });

const reason = z.strictObject({ reason: z.string().max(10_000).optional() });

const nothing = z.strictObject({});

export const runRoutes = {
  listRuns: route({
    method: "get",
    path: "/v1/runs",
    summary: "List runs, newest first",
    tag: "runs",
    query: z.object({
      status: z.array(status).optional(),
      name: z.array(name).optional(),
      prefix: z.string().max(200).optional(),
      component: componentPrefix.optional(),
      tag: z
        .string()
        .regex(/^[^:]{1,200}:.{0,1000}$/s, "key:value")
        .optional(),
      createdAfter: time,
      createdBefore: time,
      limit: count(1000),
      cursor: z.string().max(2000).optional(),
    }),
    answers: {
      200: {
        description: "A page; `cursor` is there when there may be more",
        schema: z.object({ runs: z.array(summary), cursor: z.string().optional() }),
      },
    },
    async handle(exchange) {
      const { tag: pair, limit, cursor } = exchange.query;
      const filter = filterOf({ ...exchange.query, tag: tagOf(pair) });
      const result = await exchange.tenant.listRuns({ ...filter, limit, cursor });
      return send(exchange, 200, {
        runs: result.runs.map(views.runSummary),
        cursor: result.cursor,
      });
    },
  }),
  getRun: route({
    method: "get",
    path: "/v1/runs/{id}",
    summary: "What is known of a run",
    tag: "runs",
    params: runParams,
    answers: { 200: { description: "Run", schema: run } },
    handle: (exchange) => runAnswer(exchange, exchange.tenant.getRun(exchange.params.id)),
  }),
  output: route({
    method: "get",
    path: "/v1/runs/{id}/output",
    summary: "A run's output, or a step's; a failed run answers 409 with its error inside",
    tag: "runs",
    params: runParams,
    query: z.object({ wait, step: z.string().min(1).max(300).optional() }),
    answers: {
      200: {
        description: "Done",
        schema: z.object({
          id: z.string(),
          status,
          output: value.optional(),
          isStored: isStored.optional(),
        }),
      },
      202: { description: "Not yet", schema: z.object({ id: z.string(), status }) },
    },
    async handle(exchange) {
      const { id } = exchange.params;
      const { wait, step } = exchange.query;
      const output = await exchange.tenant.output(id, {
        waitMs: wait ?? 0,
        ...(step === undefined ? {} : { step }),
      });
      if (output.kind === "pending") {
        const headers = { location: exchange.path };
        return send(exchange, 202, { id, status: output.status }, { headers });
      }
      const value = await outputValue(exchange, id, output, step);
      const { status, isStored } = output;
      return send(exchange, 200, { id, status, output: value, isStored });
    },
  }),
  steps: route({
    method: "get",
    path: "/v1/runs/{id}/steps",
    summary: "The run's steps in order of creation",
    tag: "runs",
    params: runParams,
    query: z.object({ after: index, limit: count(1000) }),
    answers: { 200: { description: "Steps", schema: z.object({ steps: z.array(stepView) }) } },
    async handle(exchange) {
      const { id } = exchange.params;
      const steps = await exchange.tenant.steps(id, exchange.query);
      const shower = steps.some(hasErrors)
        ? await explainedIn(exchange, componentOfRun(exchange, id))
        : { show: shownIn(exchange) };
      return send(exchange, 200, { steps: steps.map((step) => views.stepView(step, shower)) });
    },
  }),
  history: route({
    method: "get",
    path: "/v1/runs/{id}/history",
    summary: "The run's history, oldest first",
    tag: "runs",
    params: runParams,
    query: z.object({ from: index, limit: count(1000) }),
    answers: { 200: { description: "Events", schema: z.object({ events: z.array(event) }) } },
    async handle(exchange) {
      const { id } = exchange.params;
      const events = await exchange.tenant.history(id, exchange.query);
      return historyAnswer(exchange, events, componentOfRun(exchange, id));
    },
  }),
  events: route({
    method: "get",
    path: "/v1/runs/{id}/events",
    summary: "History, then live, as server-sent events; resumes by Last-Event-ID",
    tag: "runs",
    params: runParams,
    query: z.object({ from: index }),
    answers: { 200: { description: "Event stream", contentType: "text/event-stream" } },
    async handle(exchange) {
      const { id } = exchange.params;
      // Asked first, so that an unknown run is a 404 and not an empty stream.
      const { component } = await exchange.tenant.getRun(id);
      return eventsAnswer(exchange, component, (options) => exchange.tenant.events(id, options));
    },
  }),
  cancel: control("cancel", {
    summary: "Cancel in cooperation with the workflow",
    body: reason,
    act: (tenant, id, { reason = "" }) => tenant.cancelRun(id, reason),
  }),
  terminate: control("terminate", {
    summary: "End at once",
    body: reason,
    act: (tenant, id, { reason = "the run was terminated" }) => tenant.terminateRun(id, reason),
  }),
  pause: control("pause", {
    summary: "Begin nothing new until resumed",
    body: nothing,
    act: (tenant, id) => tenant.pauseRun(id),
  }),
  resume: control("resume", {
    summary: "Go on after a pause, or from the failed step",
    body: nothing,
    act: (tenant, id) => tenant.resumeRun(id),
  }),
  moveRun: route({
    method: "post",
    path: "/v1/runs/{id}/move",
    summary: "Go on with another component, if it does the same with all that the run was given",
    tag: "runs",
    params: runParams,
    body: z.strictObject({
      component: z.string().max(128).optional(),
      dryRun: z.boolean().optional(),
    }),
    answers: {
      200: {
        description: "Moved, or it could be; 409 move-diverged has the first difference",
        schema: z.object({
          id: z.string(),
          from: z.string(),
          to: z.string(),
          moved: z.boolean(),
          activations: z.number().int(),
        }),
      },
    },
    async handle(exchange) {
      const { component, dryRun } = exchange.body;
      const move = { component, isDryRun: dryRun };
      const result = await exchange.tenant.moveRun(exchange.params.id, move);
      const { id, from, to } = result;
      if (result.kind !== "diverged") {
        const { activations, kind } = result;
        return send(exchange, 200, { id, from, to, moved: kind === "moved", activations });
      }
      const { activation, what, before, after } = result;
      throw new ProblemError("move-diverged", `${what} of activation ${activation} is another`, {
        hint: "Let the run end where it is, or fork or rerun it on the other component.",
        members: { id, from, to, difference: { activation, what, before, after } },
      });
    },
  }),
  resumeAll: route({
    method: "post",
    path: "/v1/runs/resume",
    summary: "Resume all that can be resumed",
    tag: "runs",
    body: z.strictObject({ includeFailed: z.boolean().optional() }),
    answers: {
      200: {
        description: "What was resumed",
        schema: z.object({ runs: z.array(z.object({ id: z.string(), status })) }),
      },
    },
    async handle(exchange) {
      const includeFailed = exchange.body.includeFailed === true;
      return send(exchange, 200, { runs: await exchange.tenant.resumeAll({ includeFailed }) });
    },
  }),
  bulk: route({
    method: "post",
    path: "/v1/runs/bulk",
    summary: "Act on all runs that match, a page at a time, each by itself",
    tag: "runs",
    body: z.strictObject({
      action: z.enum(["cancel", "terminate", "pause", "resume", "delete"]),
      filter: z.strictObject({
        status: z.array(status).optional(),
        name: z.array(name).optional(),
        prefix: z.string().max(200).optional(),
        component: componentPrefix.optional(),
        tag: z.strictObject({ key: z.string().max(200), value: z.string().max(1000) }).optional(),
        createdAfter: time,
        createdBefore: time,
      }),
      reason: z.string().max(10_000).optional(),
      dryRun: z.boolean().optional(),
      limit: z.number().int().min(1).max(1000).optional(),
      cursor: z.string().max(2000).optional(),
    }),
    answers: {
      200: {
        description: "What became of each; `cursor` is there when there may be more",
        schema: z.object({
          runs: z.array(
            z.object({
              id: z.string(),
              status,
              error: z.object({ code: z.string(), message: z.string() }).optional(),
            }),
          ),
          cursor: z.string().optional(),
        }),
      },
    },
    async handle(exchange) {
      const { action, filter, reason, dryRun, limit, cursor } = exchange.body;
      const result = await exchange.tenant.bulk({
        action,
        filter: filterOf(filter),
        reason,
        isDryRun: dryRun,
        limit,
        cursor,
      });
      const runs = result.runs.map(({ id, status, error }) => ({
        id,
        status,
        ...(error === undefined ? {} : { error: { code: error.code, message: error.message } }),
      }));
      return send(exchange, 200, { runs, cursor: result.cursor });
    },
  }),
  deleteRun: route({
    method: "delete",
    path: "/v1/runs/{id}",
    summary: "Forget a closed run",
    tag: "runs",
    params: runParams,
    answers: { 204: { description: "Gone" } },
    async handle(exchange) {
      await exchange.tenant.deleteRun(exchange.params.id);
      return noContent(exchange);
    },
  }),
};

/** A route that does something to one run, and answers with the run afterwards. */
function control<Body extends z.ZodObject>(
  verb: string,
  given: {
    readonly summary: string;
    readonly body: Body;
    act(tenant: TenantHost, id: string, body: z.output<Body>): Promise<RunView>;
  },
): Route {
  return route({
    method: "post",
    path: `/v1/runs/{id}/${verb}`,
    summary: given.summary,
    tag: "runs",
    params: runParams,
    body: given.body,
    answers: { 200: { description: "The run afterwards", schema: run } },
    handle: (exchange) =>
      runAnswer(exchange, given.act(exchange.tenant, exchange.params.id, exchange.body)),
  });
}

/** A caught error is in the step's value. */
function hasErrors({ error, value }: StepView): boolean {
  return error !== undefined || (value !== undefined && mayHoldError(value));
}

function tagOf(pair: string | undefined): RunFilter["tag"] {
  if (pair === undefined) return undefined;
  const colon = pair.indexOf(":");
  return { key: pair.slice(0, colon), value: pair.slice(colon + 1) };
}

/** As it comes in a query or a body. */
interface GivenFilter {
  readonly status?: RunFilter["statuses"];
  readonly name?: RunFilter["names"];
  readonly prefix?: string | undefined;
  readonly component?: string | undefined;
  readonly tag?: RunFilter["tag"];
  readonly createdAfter?: string | undefined;
  readonly createdBefore?: string | undefined;
}

function filterOf(given: GivenFilter): RunFilter {
  const { status, name, prefix, component, tag, createdAfter, createdBefore } = given;
  return {
    statuses: status,
    names: name,
    idPrefix: prefix,
    component,
    tag,
    createdAfterMs: createdAfter === undefined ? undefined : Date.parse(createdAfter),
    createdBeforeMs: createdBefore === undefined ? undefined : Date.parse(createdBefore),
  };
}

export function componentOfRun(exchange: Exchange, id: string): () => Promise<string> {
  return async () => (await exchange.tenant.getRun(id)).component;
}

export async function outputValue(
  exchange: Exchange,
  id: string,
  output: { readonly outcome: Outcome; readonly status: string },
  step?: string,
): Promise<unknown> {
  if (output.outcome.kind === "ok") {
    return valueIn(exchange, output.outcome.value, componentOfRun(exchange, id));
  }
  const { error } = output.outcome;
  const code = output.status === "CANCELED" ? "run-canceled" : "run-failed";
  const verb = output.status === "CANCELED" ? "was canceled" : "failed";
  const who = step === undefined ? `run ${id}` : `step ${step} of run ${id}`;
  const shower = await explainedIn(exchange, componentOfRun(exchange, id));
  throw new ProblemError(code, `${who} ${verb}: ${error.message}`, {
    ...(output.status === "FAILED" ? { hint: failedHint(id) } : {}),
    members: {
      id,
      runStatus: output.status,
      step,
      error: views.errorView(error, shower),
    },
    headers: { location: `/v1/runs/${encodeURIComponent(id)}` },
  });
}

function failedHint(id: string): string {
  return `spore steps ${id} shows what it did; if a step failed, spore resume ${id} tries it again`;
}

async function runAnswer(exchange: Exchange, view: Promise<RunView>): Promise<Response> {
  const run = await view;
  const shower =
    run.error === undefined
      ? { show: shownIn(exchange) }
      : await explainedIn(exchange, async () => run.component);
  return send(exchange, 200, views.runView(run, shower));
}
