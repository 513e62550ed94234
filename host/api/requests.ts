/**
 * Reading requests: parameters, query and body against their schemas, bytes up to a bound,
 * and the headers that make a request safe to repeat.
 */
import type { z } from "@hono/zod-openapi";
import { SporeError } from "../../runtime/errors.ts";
import { ProblemError } from "../problems.ts";
import { decodeCbor, parseJson, valueOfJson } from "../values.ts";
import { type Exchange, hexOf, mediaType } from "./exchange.ts";
import { isId } from "./fields.ts";

export function readParams(exchange: Exchange, schema: z.ZodType): Record<string, string> {
  const params = exchange.context.req.param();
  const result = schema.safeParse(params);
  if (result.success) return result.data as Record<string, string>;
  throw new ProblemError("invalid-id", describeIssues(result.error), {
    members: { errors: issuesOf(result.error, "path") },
  });
}

export function readQuery(exchange: Exchange, schema: z.ZodType): unknown {
  const query: Record<string, unknown> = exchange.context.req.query();
  if (query.status !== undefined) {
    const asked = exchange.context.req.queries("status") ?? [];
    query.status = asked.flatMap((text) => text.split(",")).map((text) => text.toUpperCase());
  }
  if (query.name !== undefined) query.name = exchange.context.req.queries("name");
  return checked(schema, query, "query");
}

export async function readBody(exchange: Exchange, schema: z.ZodType): Promise<unknown> {
  const type = mediaType(exchange.context.req.header("content-type"));
  const isCbor = type === "application/cbor";
  // A form's content type is what `curl -d` sends when nobody says otherwise.
  if (!isCbor && !jsonTypes.has(type)) {
    throw new SporeError("unsupported-media-type", `a body of type ${type} is not understood`, {
      hint: "send application/json or application/cbor",
    });
  }
  const bytes = await readBytes(exchange, exchange.limits.bodyBytesMax);
  if (bytes.length === 0) return checked(schema, {}, "body");
  return checked(schema, isCbor ? decodeCbor(bytes) : valueOfJson(parseJson(bytes)), "body");
}

const jsonTypes = new Set(["", "application/json", "application/x-www-form-urlencoded"]);

export async function readBytes(exchange: Exchange, bytesMax: number): Promise<Uint8Array> {
  const request = exchange.context.req;
  const encoding = request.header("content-encoding");
  if (encoding !== undefined && encoding !== "identity") {
    throw new SporeError("unsupported-media-type", `content encoding ${encoding} is not supported`);
  }
  const declared = request.header("content-length");
  if (declared !== undefined && Number(declared) > bytesMax) throw bodyTooLarge(bytesMax);
  // A declared length bounds what the server hands on; without one we count ourselves.
  if (declared !== undefined) {
    const bytes = new Uint8Array(await request.arrayBuffer());
    if (bytes.length > bytesMax) throw bodyTooLarge(bytesMax);
    return bytes;
  }
  return readStream(request.raw.body, bytesMax);
}

async function readStream(
  body: ReadableStream<Uint8Array> | null,
  bytesMax: number,
): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of (body ?? []) as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    // Leaving the loop cancels the stream: nothing more is read.
    if (length > bytesMax) throw bodyTooLarge(bytesMax);
    chunks.push(chunk);
  }
  const bytes = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, offset);
    offset += chunk.length;
  }
  return bytes;
}

export function bodyTooLarge(bytesMax: number): SporeError {
  return new ProblemError("body-too-large", `the body is larger than ${bytesMax} bytes`, {
    headers: { connection: "close" },
  });
}

function checked(schema: z.ZodType, input: unknown, where: string): unknown {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const isIdOnly = result.error.issues.every((issue) => idFields.has(String(issue.path[0])));
  throw new ProblemError(
    isIdOnly ? "invalid-id" : "invalid-request",
    describeIssues(result.error),
    {
      members: { errors: issuesOf(result.error, where) },
    },
  );
}

const idFields = new Set(["id", "messageId", "updateId", "callId"]);

function issuesOf(error: z.ZodError, where: string): readonly object[] {
  return error.issues.slice(0, 20).map((issue) => ({
    path: [where, ...issue.path.map(String)].join("."),
    message: issue.message,
  }));
}

function describeIssues(error: z.ZodError): string {
  const issue = error.issues[0];
  if (issue === undefined) return "the request is not valid";
  const path = issue.path.map(String).join(".");
  return path === "" ? issue.message : `${path}: ${issue.message}`;
}

export function optionalId(exchange: Exchange, scope: string): string | undefined {
  const key = exchange.context.req.header("idempotency-key");
  if (key === undefined) return undefined;
  if (!/^[\x21-\x7e]{1,255}$/.test(key)) {
    throw new SporeError("invalid-id", "Idempotency-Key must be 1 to 255 visible ASCII characters");
  }
  const text = `${exchange.context.req.method}\0${scope}\0${key}`;
  return `ik_${hexOf(exchange.options.digest.sha256(new TextEncoder().encode(text)).subarray(0, 16))}`;
}

export function session(
  exchange: Exchange,
): { id: string; seq: number; answered?: number } | undefined {
  const id = exchange.context.req.header("spore-session");
  const seq = exchange.context.req.header("spore-seq");
  const answered = exchange.context.req.header("spore-answered");
  if (id === undefined && seq === undefined) return undefined;
  if (id === undefined || !isId(id) || seq === undefined || !/^[1-9]\d{0,14}$/.test(seq)) {
    throw new SporeError("invalid-request", "Spore-Session and Spore-Seq go together", {
      hint: "an id, and a count from 1 without gaps",
    });
  }
  if (answered === undefined || !/^\d{1,15}$/.test(answered)) return { id, seq: Number(seq) };
  return { id, seq: Number(seq), answered: Math.min(Number(answered), Number(seq) - 1) };
}
