/**
 * Distributed traces over OpenTelemetry. The usual OTEL_ variables turn them on and say where
 * spans go (OTLP over HTTP); without them nothing of OpenTelemetry is even loaded. The engine
 * gives its spans their ids, because a run outlives the host that began it; the SDK batches
 * and sends them.
 */
import { randomBytes } from "node:crypto";
import type { Context, SpanContext } from "@opentelemetry/api";
import type * as TraceSdk from "@opentelemetry/sdk-trace";
import type { EndedSpan, Tracer } from "../runtime/ports.ts";
import { placeBelow } from "../runtime/trace.ts";

export interface Tracing extends Tracer {
  /** A place for a request: below what its `traceparent` says, or a new trace; undefined if it isn't sampled. */
  begin(traceparent: string | undefined): Place | undefined;
  /** Does some work at a place below another; reports how long it took, and how it ended. */
  around<T>(work: Work<T>): Promise<T>;
  /** Sends what there is, for at most so long. */
  close(): Promise<void>;
}

export interface Place {
  readonly self: string;
  readonly parent?: string | undefined;
}

export interface Work<T> extends Pick<EndedSpan, "name" | "kind" | "attributes"> {
  readonly parent: string;
  readonly run: (self: string) => Promise<T>;
  readonly attributesOf: (result: T) => EndedSpan["attributes"];
}

type Environment = Readonly<Record<string, string | undefined>>;

const closeMsMax = 2_000;
const sendEveryMs = 5_000;
const form = /^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})/;
const nothing = /^0+$/;

/** Undefined unless the environment asks for traces. */
export async function openTracing(env: Environment): Promise<Tracing | undefined> {
  return isAskedFor(env) ? startTracing(env) : undefined;
}

function isAskedFor(env: Environment): boolean {
  if (env.OTEL_SDK_DISABLED?.toLowerCase() === "true") return false;
  const exporters = env.OTEL_TRACES_EXPORTER;
  if (exporters !== undefined && exporters !== "") return exporters.split(",").includes("otlp");
  const endpoints = [env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, env.OTEL_EXPORTER_OTLP_ENDPOINT];
  return endpoints.some((endpoint) => endpoint !== undefined && endpoint !== "");
}

async function startTracing(env: Environment): Promise<Tracing> {
  const [api, sdk, exporter, resources] = await Promise.all([
    import("@opentelemetry/api"),
    import("@opentelemetry/sdk-trace"),
    import("@opentelemetry/exporter-trace-otlp-proto"),
    import("@opentelemetry/resources"),
  ]);
  const sampler = samplerOf(sdk, env);
  let next = { trace: "", span: "" };
  const provider = new sdk.TracerProvider({
    // What reaches it is sampled.
    sampler: new sdk.AlwaysOnSampler(),
    idGenerator: { generateTraceId: () => next.trace, generateSpanId: () => next.span },
    resource: resources
      .resourceFromAttributes({ "service.name": "spore", "process.pid": process.pid })
      .merge(resources.detectResources({ detectors: [resources.envDetector] })),
    spanProcessors: [
      new sdk.BatchSpanProcessor({
        exporter: new exporter.OTLPTraceExporter(),
        scheduledDelayMillis: Number(env.OTEL_BSP_SCHEDULE_DELAY) || sendEveryMs,
      }),
    ],
  });
  const tracer = provider.getTracer("sporeflow");
  const kinds = {
    server: api.SpanKind.SERVER,
    client: api.SpanKind.CLIENT,
    internal: api.SpanKind.INTERNAL,
  };
  const contextOf = (place: string | undefined): Context => {
    const read = place === undefined ? undefined : readPlace(place);
    return read === undefined ? api.ROOT_CONTEXT : api.trace.setSpanContext(api.ROOT_CONTEXT, read);
  };

  const ended = (span: EndedSpan): void => {
    const self = readPlace(span.self);
    if (self === undefined) return;
    next = { trace: self.traceId, span: self.spanId };
    const { startMs: startTime, attributes } = span;
    const options = { kind: kinds[span.kind], startTime, attributes };
    const reported = tracer.startSpan(span.name, options, contextOf(span.parent));
    if (span.error !== undefined) {
      reported.setStatus({ code: api.SpanStatusCode.ERROR, message: span.error });
    }
    reported.end(Math.max(span.startMs, span.endMs));
  };

  return {
    begin(traceparent) {
      const given = traceparent === undefined ? undefined : readPlace(traceparent);
      const trace = given?.traceId ?? randomBytes(16).toString("hex");
      const context = given === undefined ? api.ROOT_CONTEXT : contextOf(traceparent);
      const { decision } = sampler.shouldSample(context, trace, "", kinds.server, {}, []);
      if (decision !== sdk.SamplingDecision.RECORD_AND_SAMPLED) return undefined;
      const self = placeText(trace, randomBytes(8).toString("hex"));
      if (given === undefined) return { self };
      return { self, parent: placeText(trace, given.spanId) };
    },
    async around({ run, attributesOf, ...about }) {
      const self = placeBelow(about.parent, randomBytes(8)) ?? about.parent;
      const startMs = Date.now();
      try {
        const result = await run(self);
        const attributes = { ...about.attributes, ...attributesOf(result) };
        ended({ ...about, self, attributes, startMs, endMs: Date.now() });
        return result;
      } catch (thrown) {
        const error = thrown instanceof Error ? thrown.message : String(thrown);
        ended({ ...about, self, startMs, endMs: Date.now(), error });
        throw thrown;
      }
    },
    ended,
    async close() {
      const { promise: timeout, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, closeMsMax);
      // A collector that is gone is no reason to fail a stop.
      await Promise.race([provider.shutdown().catch(() => undefined), timeout]);
      clearTimeout(timer);
    },
  };
}

/** By OTEL_TRACES_SAMPLER; default: all, unless the caller's trace isn't sampled. */
function samplerOf(sdk: typeof TraceSdk, env: Environment): TraceSdk.Sampler {
  const name = env.OTEL_TRACES_SAMPLER ?? "";
  const asked = Number(env.OTEL_TRACES_SAMPLER_ARG ?? "1");
  const share = asked >= 0 && asked <= 1 ? asked : 1;
  const roots: Readonly<Record<string, () => TraceSdk.Sampler>> = {
    always_off: () => new sdk.AlwaysOffSampler(),
    traceidratio: () => new sdk.TraceIdRatioBasedSampler(share),
  };
  const root = roots[name.replace(/^parentbased_/, "")]?.() ?? new sdk.AlwaysOnSampler();
  const isParentBased = name === "" || name.startsWith("parentbased_");
  return isParentBased ? new sdk.ParentBasedSampler({ root }) : root;
}

function readPlace(text: string): (SpanContext & { readonly isRemote: true }) | undefined {
  const [, traceId = "", spanId = "", flags = ""] = form.exec(text) ?? [];
  if (traceId === "" || nothing.test(traceId) || nothing.test(spanId)) return undefined;
  return { traceId, spanId, traceFlags: Number.parseInt(flags, 16) & 1, isRemote: true };
}

/** Sampled: others have no place. */
function placeText(trace: string, span: string): string {
  return `00-${trace}-${span}-01`;
}
