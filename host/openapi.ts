/**
 * The HTTP surface as data: one schema per shape and one entry per route. The same
 * entries validate requests (api.ts) and make the OpenAPI 3.1 document, so the two
 * can't drift apart.
 */
import { createRoute, type RouteConfig, z } from "@hono/zod-openapi";
import { errorCodes } from "../runtime/errors.ts";
import { type Overlap, partitionsMax, type Status } from "../runtime/index.ts";
import { parseWait } from "./waits.ts";

// ---------------------------------------------------------------- parameters

/** As in runtime/ids.ts: what a guest may start, a client must be able to name. */
const idPattern = /^(?!\.+$)[A-Za-z0-9._:~@+=,-]{1,200}$/;
/** Names of definitions, methods, signals: free, but never a path, a control character or dots only. */
const namePattern = /^(?!\.+$)[^\u0000-\u001f\u007f-\u009f/\\\ud800-\udfff\ufffd]{1,200}$/u;

export function isId(text: string): boolean {
  return idPattern.test(text);
}

const id = z.string().regex(idPattern, "1 to 200 of A-Z a-z 0-9 . _ : ~ @ + = , -, not only dots");
const name = z.string().regex(namePattern, "1 to 200 characters, no / \\ or control characters");

const wait = z
  .string()
  .transform((text, context) => {
    const waitMs = parseWait(text);
    if (waitMs !== undefined) return waitMs;
    context.addIssue({ code: "custom", message: "a duration such as 500ms, 30s or 2m" });
    return z.NEVER;
  })
  .optional()
  .openapi({
    type: "string",
    example: "30s",
    description: "Long-poll up to this long (at most 300s).",
  });

function count(max: number) {
  return z
    .string()
    .regex(/^\d{1,9}$/, "a whole number")
    .transform(Number)
    .refine((value) => value >= 1 && value <= max, `1 to ${max}`)
    .optional()
    .openapi({ type: "integer" });
}

const index = z
  .string()
  .regex(/^\d{1,12}$/, "a whole number")
  .transform(Number)
  .optional()
  .openapi({ type: "integer" });

const flag = z
  .enum(["1", "true", "0", "false", ""])
  .transform((text) => text !== "0" && text !== "false")
  .optional()
  .openapi({ type: "boolean" });

// ---------------------------------------------------------------- shapes

const value = z.unknown().openapi({
  description:
    'Any value. In JSON, what JSON lacks is tagged: {"$date": iso}, {"$bigint": text}, {"$bytes": base64}, {"$map": [[k, v]]}, {"$set": [v]}, {"$undefined": true}, {"$number": "NaN"}, {"$error": {…}}; a key that looks like a tag gets one more $.',
});
const args = z
  .array(value)
  .optional()
  .openapi({ description: "Arguments in order; default none." });
const tags = z.record(z.string().max(200), z.string().max(1000)).optional();
const status = z
  .enum([
    "PENDING",
    "RUNNING",
    "PAUSED",
    "SUCCESSFUL",
    "FAILED",
    "CANCELED",
    "RESUMABLE",
  ] satisfies Status[])
  .openapi("Status");

const errorValue = z
  .looseObject({
    name: z.string(),
    message: z.string(),
    code: z.string().optional(),
    class: z.string().optional(),
    retryable: z.boolean().optional(),
    stack: z.string().optional(),
    frame: z
      .looseObject({
        file: z.string(),
        line: z.number().int(),
        column: z.number().int(),
        text: z.string().optional(),
      })
      .optional()
      .openapi({ description: "The author's own place, and its line, if a source map is known" }),
  })
  .openapi("ErrorValue");

const problem = z
  .looseObject({
    type: z.string(),
    title: z.string(),
    status: z.number().int(),
    detail: z.string(),
    code: z.enum(Object.keys(errorCodes) as [string, ...string[]]),
    hint: z.string().optional(),
    instance: z.string(),
    requestId: z.string(),
    error: errorValue.optional(),
  })
  .openapi("Problem");

const started = z
  .object({
    id: z.string(),
    status,
    created: z.boolean(),
    output: value.optional(),
    duplicate: z.boolean().optional(),
    callId: z.string().optional(),
    result: value.optional(),
  })
  .openapi("Started");

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

const event = z
  .object({
    index: z.number().int(),
    at: z.iso.datetime(),
    type: z.string(),
    data: z.record(z.string(), z.unknown()),
  })
  .openapi("HistoryEvent");

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
  })
  .openapi("Actor");

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

const called = z.object({ callId: z.string(), result: value.optional() }).openapi("Called");

const componentPrefix = z.string().regex(/^[0-9a-f]{4,64}$/, "4 to 64 hex digits");
const garbage = z.object({ count: z.number().int(), bytes: z.number().int() }).openapi("Garbage");

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
};

const queueOptions = z
  .strictObject({
    name: id.optional(),
    key: z.string().min(1).max(200).optional(),
    priority: z.number().int().min(-1000).max(1000).optional(),
  })
  .optional()
  .openapi({ description: "The queue that it passes; default as its definition says" });

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

// ---------------------------------------------------------------- routes

interface Shape {
  readonly method: "get" | "post" | "put" | "delete";
  readonly path: string;
  readonly summary: string;
  readonly tag: string;
  readonly params?: z.ZodObject;
  readonly query?: z.ZodObject;
  readonly body?: z.ZodObject;
  /** Body that is neither JSON nor CBOR: its content types. */
  readonly rawBody?: readonly string[];
  readonly answers: Readonly<
    Record<
      number,
      { readonly description: string; readonly schema?: z.ZodType; readonly contentType?: string }
    >
  >;
  readonly isPublic?: boolean;
}

const time = z.iso.datetime({ offset: true }).optional();
const runParams = z.object({ id });
const queueParams = z.object({ name: id });
const scheduleParams = z.object({ id });
const messageParams = z.object({ id, name });
const actorParams = z.object({ type: name, key: id });
const reason = z.strictObject({ reason: z.string().max(10_000).optional() });
const nothing = z.strictObject({});

function control(verb: string, text: string, body: z.ZodObject) {
  return {
    method: "post",
    path: `/v1/runs/{id}/${verb}`,
    summary: text,
    tag: "runs",
    params: runParams,
    body,
    answers: { 200: { description: "The run afterwards", schema: run } },
  } as const;
}

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

export const routes = {
  health: {
    method: "get",
    path: "/healthz",
    summary: "The process answers",
    tag: "host",
    answers: { 200: { description: "Alive", contentType: "text/plain" } },
    isPublic: true,
  },
  ready: {
    method: "get",
    path: "/readyz",
    summary: "The host takes work: every partition is served, here or by another host",
    tag: "host",
    answers: {
      200: { description: "Ready", contentType: "text/plain" },
    },
    isPublic: true,
  },
  metrics: {
    method: "get",
    path: "/metrics",
    summary: "Prometheus text",
    tag: "host",
    answers: { 200: { description: "Metrics", contentType: "text/plain" } },
  },
  hostStatus: {
    method: "get",
    path: "/v1/status",
    summary: "The host's partitions (operators)",
    tag: "host",
    answers: { 200: { description: "Status", schema: z.looseObject({ hostId: z.string() }) } },
  },
  collect: {
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
  },
  cluster: {
    method: "get",
    path: "/v1/cluster",
    summary: "The hosts of the namespace, and who serves what (operators)",
    tag: "host",
    answers: { 200: { description: "As this host sees it", schema: cluster } },
  },
  putObject: {
    method: "post",
    path: "/v1/objects",
    summary: "Store a value for runs; a body that is no JSON or CBOR is stored as its bytes",
    tag: "objects",
    rawBody: ["application/octet-stream", "application/cbor", "application/json"],
    answers: {
      201: {
        description: "Stored; `ref` stands for it in arguments",
        schema: z.object({
          hash: z.string(),
          size: z.number().int(),
          expiresAt: z.iso.datetime(),
          ref: value,
        }),
      },
    },
  },
  getObject: {
    method: "get",
    path: "/v1/objects/{object}",
    summary: "A stored value: bytes as they are, also in ranges; another as `{ value }`",
    tag: "objects",
    params: z.object({ object: z.string().regex(/^[0-9a-f]{64}(\.[0-9a-f]{1,12})?$/) }),
    answers: {
      200: { description: "The value", contentType: "application/octet-stream" },
      206: { description: "The range", contentType: "application/octet-stream" },
    },
  },
  repartition: {
    method: "put",
    path: "/v1/cluster",
    summary: "Put the namespace into another number of partitions, while it serves (operators)",
    tag: "host",
    body: z.object({ partitions: z.number().int().min(1).max(partitionsMax) }).strict(),
    answers: { 200: { description: "As it is then", schema: cluster } },
  },
  deploy: {
    method: "put",
    path: "/v1/components",
    summary: "Deploy a component, or a bundled JS module that the host compiles",
    tag: "components",
    rawBody: ["application/wasm", "text/javascript", "application/javascript"],
    answers: { 200: { description: "Known under its id, and current", schema: component } },
  },
  currentComponent: {
    method: "get",
    path: "/v1/components/current",
    summary: "The component that new runs take",
    tag: "components",
    answers: { 200: { description: "Component", schema: component } },
  },
  deployments: {
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
  },
  componentUse: {
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
  },
  rollback: {
    method: "post",
    path: "/v1/components/rollback",
    summary: "Make current again what was before, or `to`",
    tag: "components",
    body: z.strictObject({ to: componentPrefix.optional() }),
    answers: { 200: { description: "What is current now", schema: deployment } },
  },
  startWorkflow: {
    method: "post",
    path: "/v1/workflows/{name}",
    summary: "Start a workflow; with ?wait, wait for its output",
    tag: "runs",
    params: z.object({ name }),
    query: z.object({ wait }),
    body: z.strictObject({
      args,
      ...startFields,
      queue: queueOptions,
      signal: z
        .strictObject({ name, value: value.optional(), messageId: id.optional() })
        .optional()
        .openapi({ description: "Delivered in the transition that starts or finds the run" }),
      update: z
        .strictObject({ name, args, updateId: id.optional() })
        .optional()
        .openapi({ description: "The same; ?wait is how long to wait for its result" }),
    }),
    answers: startAnswers(),
  },
  startGraph: {
    method: "post",
    path: "/v1/graphs",
    summary: "Start a graph of steps",
    tag: "runs",
    query: z.object({ wait }),
    body: z.strictObject({
      root: z.unknown().openapi({
        example: { $step: "add", args: [100, { $step: "one", args: [] }] },
      }),
      ...startFields,
      queue: queueOptions,
    }),
    answers: startAnswers(),
  },
  listRuns: {
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
  },
  getRun: {
    method: "get",
    path: "/v1/runs/{id}",
    summary: "What is known of a run",
    tag: "runs",
    params: runParams,
    answers: { 200: { description: "Run", schema: run } },
  },
  output: {
    method: "get",
    path: "/v1/runs/{id}/output",
    summary: "A run's output, or a step's; a failed run answers 409 with its error inside",
    tag: "runs",
    params: runParams,
    query: z.object({ wait, step: z.string().min(1).max(300).optional() }),
    answers: {
      200: {
        description: "Done",
        schema: z.object({ id: z.string(), status, output: value.optional() }),
      },
      202: { description: "Not yet", schema: z.object({ id: z.string(), status }) },
    },
  },
  published: {
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
  },
  steps: {
    method: "get",
    path: "/v1/runs/{id}/steps",
    summary: "The run's steps in order of creation",
    tag: "runs",
    params: runParams,
    query: z.object({ after: index, limit: count(1000) }),
    answers: { 200: { description: "Steps", schema: z.object({ steps: z.array(stepView) }) } },
  },
  history: {
    method: "get",
    path: "/v1/runs/{id}/history",
    summary: "The run's history, oldest first",
    tag: "runs",
    params: runParams,
    query: z.object({ from: index, limit: count(1000) }),
    answers: { 200: { description: "Events", schema: z.object({ events: z.array(event) }) } },
  },
  events: {
    method: "get",
    path: "/v1/runs/{id}/events",
    summary: "History, then live, as server-sent events; resumes by Last-Event-ID",
    tag: "runs",
    params: runParams,
    query: z.object({ from: index }),
    answers: { 200: { description: "Event stream", contentType: "text/event-stream" } },
  },
  cancel: control("cancel", "Cancel in cooperation with the workflow", reason),
  terminate: control("terminate", "End at once", reason),
  pause: control("pause", "Begin nothing new until resumed", nothing),
  resume: control("resume", "Go on after a pause, or from the failed step", nothing),
  forkRun: {
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
  },
  rerunRun: {
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
  },
  moveRun: {
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
  },
  resumeAll: {
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
  },
  bulk: {
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
  },
  deleteRun: {
    method: "delete",
    path: "/v1/runs/{id}",
    summary: "Forget a closed run",
    tag: "runs",
    params: runParams,
    answers: { 204: { description: "Gone" } },
  },
  signal: {
    method: "post",
    path: "/v1/runs/{id}/signals/{name}",
    summary: "Send a signal",
    tag: "messages",
    params: messageParams,
    body: z.strictObject({ value: value.optional(), args, messageId: id.optional() }),
    answers: {
      202: { description: "Durable", schema: z.object({ duplicate: z.boolean() }) },
    },
  },
  openEvents: {
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
  },
  revokeEvent: {
    method: "delete",
    path: "/v1/runs/{id}/open-events/{event}",
    summary: "Make an event's token worthless; who waits for it gets `event-revoked`",
    tag: "messages",
    params: z.object({ id, event: z.string().regex(/^\d{1,12}$/, "a whole number") }),
    answers: { 204: { description: "Revoked" } },
  },
  rotateEventKeys: {
    method: "post",
    path: "/v1/event-keys",
    summary: "Sign tokens with a new key from now on (operators); old tokens stay good",
    tag: "messages",
    body: z.strictObject({}),
    answers: { 200: { description: "Its number", schema: z.object({ key: z.number().int() }) } },
  },
  query: {
    method: "post",
    path: "/v1/runs/{id}/queries/{name}",
    summary: "Ask; never changes anything",
    tag: "messages",
    params: messageParams,
    body: z.strictObject({ args }),
    answers: { 200: { description: "Answer", schema: z.object({ result: value.optional() }) } },
  },
  update: {
    method: "post",
    path: "/v1/runs/{id}/updates/{name}",
    summary: "Change, and wait for the handler's result",
    tag: "messages",
    params: messageParams,
    query: z.object({ wait: z.union([z.enum(["accepted", "completed"]), wait]) }),
    body: z.strictObject({ args, updateId: id.optional() }),
    answers: callAnswers(),
  },
  eventPage: {
    method: "get",
    path: "/v1/events/{token}",
    summary: "A page that asks a person to decide an event; decides nothing itself",
    tag: "messages",
    answers: { 200: { description: "The page", contentType: "text/html" } },
    isPublic: true,
  },
  decideEvent: {
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
  },
  ensureActor: {
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
  },
  getActor: {
    method: "get",
    path: "/v1/actors/{type}/{key}",
    summary: "What is known of an actor",
    tag: "actors",
    params: actorParams,
    answers: { 200: { description: "Actor", schema: actorView } },
  },
  deleteActor: {
    method: "delete",
    path: "/v1/actors/{type}/{key}",
    summary: "Forget an actor",
    tag: "actors",
    params: actorParams,
    answers: { 204: { description: "Gone" } },
  },
  listActors: {
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
  },
  actorState: {
    method: "get",
    path: "/v1/actors/{type}/{key}/state",
    summary: "The actor's state as it is kept, and after how many turns",
    tag: "actors",
    params: actorParams,
    answers: {
      200: { description: "State", schema: z.object({ state: value.optional(), turns: index }) },
    },
  },
  editActor: {
    method: "put",
    path: "/v1/actors/{type}/{key}/state",
    summary: "Replace the state of an idle actor, if it has had no turn since it was read",
    tag: "actors",
    params: actorParams,
    body: z.strictObject({ state: value, turns: z.number().int().min(0) }),
    answers: { 200: { description: "The actor afterwards", schema: actorView } },
  },
  actorHistory: {
    method: "get",
    path: "/v1/actors/{type}/{key}/history",
    summary: "The actor's last turns and events, oldest first, with the state after each turn",
    tag: "actors",
    params: actorParams,
    query: z.object({ from: index, limit: count(1000) }),
    answers: { 200: { description: "Events", schema: z.object({ events: z.array(event) }) } },
  },
  actorEvents: {
    method: "get",
    path: "/v1/actors/{type}/{key}/events",
    summary: "The actor's events, then live, as server-sent events; resumes by Last-Event-ID",
    tag: "actors",
    params: actorParams,
    query: z.object({ from: index }),
    answers: { 200: { description: "Events", contentType: "text/event-stream" } },
  },
  signalActor: {
    method: "post",
    path: "/v1/actors/{type}/{key}/signals/{name}",
    summary: "Send a signal to an actor; durable when answered",
    tag: "actors",
    params: z.object({ type: name, key: id, name }),
    body: z.strictObject({ value: value.optional(), args, messageId: id.optional() }),
    answers: {
      202: { description: "Accepted", schema: z.object({ duplicate: z.boolean() }) },
    },
  },
  controlActor: {
    method: "post",
    path: "/v1/actors/{type}/{key}/control/{verb}",
    summary: "`resume` a stopped actor, `rollback` its upgrade, `fork` it `into` another key",
    tag: "actors",
    params: z.object({ type: name, key: id, verb: z.enum(["resume", "rollback", "fork"]) }),
    body: z.strictObject({ into: id.optional() }),
    answers: { 200: { description: "The actor (the new one of a fork)", schema: actorView } },
  },
  upgradeActors: {
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
  },
  callActor: {
    method: "post",
    path: "/v1/actors/{type}/{key}/{method}",
    summary: "Call a method; with ?async=1 answer when the call is durable",
    tag: "actors",
    params: z.object({ type: name, key: id, method: name }),
    query: z.object({ async: flag, wait }),
    body: z.strictObject({ args, callId: id.optional() }),
    answers: callAnswers(),
  },
  callResult: {
    method: "get",
    path: "/v1/actors/{type}/{key}/calls/{callId}",
    summary: "The result of an earlier call",
    tag: "actors",
    params: z.object({ type: name, key: id, callId: id }),
    query: z.object({ wait }),
    answers: callAnswers(),
  },
  listQueues: {
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
  },
  getQueue: {
    method: "get",
    path: "/v1/queues/{name}",
    summary: "A queue: its limits, who runs, and who waits",
    tag: "queues",
    params: queueParams,
    answers: { 200: { description: "Queue", schema: queueView } },
  },
  putQueue: {
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
  },
  deleteQueue: {
    method: "delete",
    path: "/v1/queues/{name}",
    summary: "Take back what was set: what the code declares holds again, or the queue is gone",
    tag: "queues",
    params: queueParams,
    answers: { 204: { description: "Done" } },
  },
  createSchedule: {
    method: "post",
    path: "/v1/schedules",
    summary: "Run a workflow again and again: by cron or at an interval",
    tag: "schedules",
    body: z.strictObject({ id: id.optional(), ...scheduleFields }),
    answers: {
      200: { description: "Was made by the same Idempotency-Key", schema: scheduleView },
      201: { description: "Created", schema: scheduleView },
    },
  },
  listSchedules: {
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
  },
  getSchedule: {
    method: "get",
    path: "/v1/schedules/{id}",
    summary: "A schedule, its next times and its last runs",
    tag: "schedules",
    params: scheduleParams,
    answers: { 200: { description: "Schedule", schema: scheduleView } },
  },
  putSchedule: {
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
  },
  deleteSchedule: {
    method: "delete",
    path: "/v1/schedules/{id}",
    summary: "Forget a schedule; its runs go on",
    tag: "schedules",
    params: scheduleParams,
    answers: { 204: { description: "Gone" } },
  },
  backfillSchedule: {
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
  },
  controlSchedule: {
    method: "post",
    path: "/v1/schedules/{id}/control/{verb}",
    summary: "`pause` and `resume` with a `note`; `trigger` one run now",
    tag: "schedules",
    params: z.object({ id, verb: z.enum(["pause", "resume", "trigger"]) }),
    body: z.strictObject({ note, overlap: overlap.optional(), triggerId: id.optional() }),
    answers: { 200: { description: "The schedule afterwards", schema: scheduleView } },
  },
} as const satisfies Record<string, Shape>;

export type RouteName = keyof typeof routes;

function startAnswers() {
  return {
    200: { description: "Was there", schema: started },
    201: { description: "Created", schema: started },
    202: { description: "Waited in vain; ask /output later", schema: started },
  } as const;
}

function callAnswers() {
  return {
    200: { description: "Done", schema: called },
    202: { description: "Accepted; ask for the result later", schema: called },
  } as const;
}

// ---------------------------------------------------------------- document

/** One entry as @hono/zod-openapi wants it. */
export function routeConfig(shape: Shape): RouteConfig {
  const responses: RouteConfig["responses"] = {};
  for (const [code, answer] of Object.entries(shape.answers)) {
    responses[code] = {
      description: answer.description,
      ...(answer.schema === undefined
        ? answer.contentType === undefined
          ? {}
          : { content: { [answer.contentType]: { schema: z.string() } } }
        : { content: bothContents(answer.schema) }),
    };
  }
  responses.default = {
    description: "Problem (RFC 9457)",
    content: { "application/problem+json": { schema: problem } },
  };
  return createRoute({
    method: shape.method,
    path: shape.path,
    summary: shape.summary,
    tags: [shape.tag],
    security: shape.isPublic === true ? [] : [{ bearer: [] }],
    request: {
      ...(shape.params === undefined ? {} : { params: shape.params as never }),
      ...(shape.query === undefined ? {} : { query: shape.query as never }),
      ...(shape.method === "post" ? { headers: postHeaders as never } : {}),
      ...(shape.body === undefined ? {} : { body: { content: bothContents(shape.body) } }),
      ...(shape.rawBody === undefined ? {} : { body: { content: rawContents(shape.rawBody) } }),
    },
    responses,
  }) as RouteConfig;
}

const postHeaders = z.object({
  "Idempotency-Key": z.string().max(255).optional().openapi({
    description: "Makes the request safe to repeat.",
  }),
});

function bothContents(schema: z.ZodType) {
  return { "application/json": { schema }, "application/cbor": { schema } };
}

function rawContents(types: readonly string[]) {
  const schema = z.string().openapi({ format: "binary" });
  return Object.fromEntries(types.map((type) => [type, { schema }]));
}
