/**
 * Schedules: workflows that run again and again.
 */
import { z } from "@hono/zod-openapi";
import { SporeError } from "../../runtime/errors.ts";
import type { Overlap, ScheduleRequest, ScheduleView } from "../../runtime/index.ts";
import { encodeCbor } from "../values.ts";
import { noContent, send, shownIn } from "./answers.ts";
import { encodedArgs } from "./calls.ts";
import type { Exchange } from "./exchange.ts";
import { args, count, id, name, queueOptions, tags, value } from "./fields.ts";
import { optionalId } from "./requests.ts";
import { route } from "./route.ts";
import * as views from "./views.ts";

const overlap = z
  .enum([
    "skip",
    "buffer-one",
    "buffer-all",
    "cancel-other",
    "terminate-other",
    "allow-all",
  ] satisfies Overlap[])
  .openapi("Overlap");

const milliseconds = z.number().int().min(0);

const moment = z.iso.datetime({ offset: true });

const note = z.string().max(500).optional();

/** What a schedule is made of, in requests and in answers. */
const scheduleFields = {
  workflow: name,
  args,
  cron: z.string().min(1).max(200).optional(),
  zone: z.string().min(1).max(64).optional(),
  everyMs: milliseconds.optional(),
  offsetMs: milliseconds.optional(),
  start: moment.optional(),
  end: moment.optional(),
  jitterMs: milliseconds.optional(),
  overlap: overlap.optional(),
  catchUpMs: milliseconds.optional(),
  pauseOnFailure: z.boolean().optional(),
  tags,
  component: z.string().max(128).optional(),
  queue: queueOptions,
  metadata: value.optional(),
  timeLimitMs: milliseconds.optional(),
  retentionMs: milliseconds.optional(),
  remaining: z.number().int().min(0).optional(),
  paused: z.boolean().optional(),
  note,
};

const scheduleView = z
  .object({
    id: z.string(),
    ...scheduleFields,
    createdAt: z.iso.datetime(),
    updatedAt: z.iso.datetime(),
    next: z.array(z.iso.datetime()),
    running: z.array(z.string()),
    waiting: z.number().int(),
    backfills: z.number().int(),
    runs: z.array(
      z.object({
        id: z.string(),
        slot: z.iso.datetime(),
        cause: z.enum(["slot", "trigger", "backfill"]),
        startedAt: z.iso.datetime(),
        closedAt: z.iso.datetime().optional(),
        result: z.enum(["succeeded", "failed", "canceled"]).optional(),
      }),
    ),
    started: z.number().int(),
    skipped: z.number().int(),
    missed: z.number().int(),
  })
  .openapi("Schedule");

const scheduleParams = z.object({ id });

export const scheduleRoutes = {
  createSchedule: route({
    method: "post",
    path: "/v1/schedules",
    summary: "Run a workflow again and again: by cron or at an interval",
    tag: "schedules",
    body: z.strictObject({ id: id.optional(), ...scheduleFields }),
    answers: {
      200: { description: "Was made by the same Idempotency-Key", schema: scheduleView },
      201: { description: "Created", schema: scheduleView },
    },
    handle: createSchedule,
  }),
  listSchedules: route({
    method: "get",
    path: "/v1/schedules",
    summary: "List schedules, by id",
    tag: "schedules",
    query: z.object({ limit: count(1000), cursor: z.string().max(200).optional() }),
    answers: {
      200: {
        description: "A page; `cursor` is there when there may be more",
        schema: z.object({ schedules: z.array(scheduleView), cursor: z.string().optional() }),
      },
    },
    async handle(exchange) {
      const { schedules, cursor } = await exchange.tenant.listSchedules(exchange.query);
      const show = shownIn(exchange);
      const shown = schedules.map((schedule) => views.scheduleView(schedule, show));
      return send(exchange, 200, { schedules: shown, cursor });
    },
  }),
  getSchedule: route({
    method: "get",
    path: "/v1/schedules/{id}",
    summary: "A schedule, its next times and its last runs",
    tag: "schedules",
    params: scheduleParams,
    answers: { 200: { description: "Schedule", schema: scheduleView } },
    handle: (exchange) => scheduleAnswer(exchange, exchange.tenant.getSchedule(exchange.params.id)),
  }),
  putSchedule: route({
    method: "put",
    path: "/v1/schedules/{id}",
    summary: "Create a schedule, or replace what it runs and when",
    tag: "schedules",
    params: scheduleParams,
    body: z.strictObject(scheduleFields),
    answers: {
      200: { description: "Replaced", schema: scheduleView },
      201: { description: "Created", schema: scheduleView },
    },
    async handle(exchange) {
      const { id } = exchange.params;
      const { created, schedule } = await exchange.tenant.putSchedule(
        id,
        scheduleRequest(exchange.body),
      );
      const body = { ...views.scheduleView(schedule, shownIn(exchange)), created };
      return send(exchange, created ? 201 : 200, body);
    },
  }),
  deleteSchedule: route({
    method: "delete",
    path: "/v1/schedules/{id}",
    summary: "Forget a schedule; its runs go on",
    tag: "schedules",
    params: scheduleParams,
    answers: { 204: { description: "Gone" } },
    async handle(exchange) {
      await exchange.tenant.deleteSchedule(exchange.params.id);
      return noContent(exchange);
    },
  }),
  backfillSchedule: route({
    method: "post",
    path: "/v1/schedules/{id}/control/backfill",
    summary: "Run the slots of a range in the past; with `preview` only count them",
    tag: "schedules",
    params: scheduleParams,
    body: z.strictObject({
      from: moment,
      to: moment,
      overlap: overlap.optional(),
      preview: z.boolean().optional(),
    }),
    answers: {
      200: {
        description: "How many slots lie there, with the first and the last",
        schema: z.object({
          slots: z.number().int(),
          first: z.iso.datetime().optional(),
          last: z.iso.datetime().optional(),
        }),
      },
    },
    async handle(exchange) {
      const { from, to, overlap, preview } = exchange.body;
      const range = { fromMs: Date.parse(from), toMs: Date.parse(to), overlap, isPreview: preview };
      const { id } = exchange.params;
      const { slots, firstMs, lastMs } = await exchange.tenant.backfillSchedule(id, range);
      const [first, last] = [firstMs, lastMs].map((atMs) => atMs && new Date(atMs).toISOString());
      return send(exchange, 200, { slots, first, last });
    },
  }),
  controlSchedule: route({
    method: "post",
    path: "/v1/schedules/{id}/control/{verb}",
    summary: "`pause` and `resume` with a `note`; `trigger` one run now",
    tag: "schedules",
    params: z.object({ id, verb: z.enum(["pause", "resume", "trigger"]) }),
    body: z.strictObject({ note, overlap: overlap.optional(), triggerId: id.optional() }),
    answers: { 200: { description: "The schedule afterwards", schema: scheduleView } },
    async handle(exchange) {
      const { id, verb } = exchange.params;
      const { note, overlap, triggerId } = exchange.body;
      if (verb === "pause")
        return scheduleAnswer(exchange, exchange.tenant.pauseSchedule(id, note));
      if (verb === "resume") {
        return scheduleAnswer(exchange, exchange.tenant.resumeSchedule(id, note));
      }
      const once = triggerId ?? optionalId(exchange, `${id}\0trigger`);
      const { schedule } = await exchange.tenant.triggerSchedule(id, {
        ...(overlap === undefined ? {} : { overlap }),
        ...(once === undefined ? {} : { triggerId: once }),
      });
      return send(exchange, 200, views.scheduleView(schedule, shownIn(exchange)));
    },
  }),
};

type GivenSchedule = z.output<z.ZodObject<typeof scheduleFields>>;

const catchUpMsDefault = 3_600_000;

function scheduleRequest(given: GivenSchedule): ScheduleRequest {
  const { args, metadata, start, end, paused, ...rest } = given;
  return {
    ...rest,
    args: encodedArgs(args),
    metadata: metadata === undefined ? undefined : encodeCbor(metadata),
    startMs: start === undefined ? undefined : Date.parse(start),
    endMs: end === undefined ? undefined : Date.parse(end),
    overlap: rest.overlap ?? "skip",
    catchUpMs: rest.catchUpMs ?? catchUpMsDefault,
    isPaused: paused === true,
  };
}

async function createSchedule(
  exchange: Exchange<unknown, unknown, GivenSchedule & { readonly id?: string | undefined }>,
): Promise<Response> {
  const { tenant } = exchange;
  const { id, ...given } = exchange.body;
  const derived = id === undefined ? optionalId(exchange, "schedule") : undefined;
  const located = (id: string) => ({
    headers: { location: `/v1/schedules/${encodeURIComponent(id)}` },
  });
  try {
    const made = await tenant.createSchedule(id ?? derived, scheduleRequest(given));
    const view = views.scheduleView(made, shownIn(exchange));
    return send(exchange, 201, view, located(made.id));
  } catch (error) {
    const isRepeated = error instanceof SporeError && error.code === "schedule-exists";
    if (!isRepeated || derived === undefined) throw error;
    const view = views.scheduleView(await tenant.getSchedule(derived), shownIn(exchange));
    return send(exchange, 200, view, located(derived));
  }
}

async function scheduleAnswer(
  exchange: Exchange,
  schedule: Promise<ScheduleView>,
): Promise<Response> {
  return send(exchange, 200, views.scheduleView(await schedule, shownIn(exchange)));
}
