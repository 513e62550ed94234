/**
 * Stored values: put once, read whole or in parts. An upload is in memory until it is stored;
 * an answer is read from the store a part at a time.
 */
import { z } from "@hono/zod-openapi";
import { encodedArrayTag, encodedBytes, Ref } from "../../guest/cbor.ts";
import type { Encoded } from "../../guest/protocol.ts";
import { SporeError } from "../../runtime/errors.ts";
import { printable } from "../../runtime/ids.ts";
import { decodeCbor, encodeCbor, jsonOfValue, parseJson, valueOfJson } from "../values.ts";
import { securityHeaders, send, shownIn } from "./answers.ts";
import { type Exchange, mediaType } from "./exchange.ts";
import { value } from "./fields.ts";
import { bodyTooLarge, readBytes } from "./requests.ts";
import { route } from "./route.ts";

export const objectRoutes = {
  putObject: route({
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
    async handle(exchange) {
      const stored = await exchange.tenant.putObject(await uploadedValue(exchange));
      const { hash, size, expiresAtMs } = stored;
      const ref = new Ref(hash, size);
      const body = {
        hash,
        size,
        expiresAt: new Date(expiresAtMs).toISOString(),
        ref: exchange.wantsCbor ? ref : jsonOfValue(ref),
      };
      return send(exchange, 201, body, { headers: { location: `/v1/objects/${hash}` } });
    },
  }),
  getObject: route({
    method: "get",
    path: "/v1/objects/{object}",
    summary: "A stored value: bytes as they are, also in ranges; another as `{ value }`",
    tag: "objects",
    params: z.object({ object: z.string().regex(/^[0-9a-f]{64}(\.[0-9a-f]{1,12})?$/) }),
    answers: {
      200: { description: "The value", contentType: "application/octet-stream" },
      206: { description: "The range", contentType: "application/octet-stream" },
    },
    async handle(exchange) {
      const { object } = exchange.params;
      const bytes = await exchange.tenant.objectBytes(object);
      if (bytes !== undefined) return bytesAnswer(exchange, object, bytes);
      const shown = shownIn(exchange)(await exchange.tenant.getObject(object));
      return send(exchange, 200, { value: shown });
    },
  }),
};

/** What is read from the store at once, for an answer that is as large as it likes. */
const partBytes = 4 * 1024 * 1024;
/** What the bytes of a request or an answer are to JavaScript. */
const arrayHeader = "x-spore-array";

/** The body as an encoded value. */
async function uploadedValue(exchange: Exchange): Promise<Encoded> {
  const { limits, context } = exchange;
  const type = mediaType(context.req.header("content-type"));
  if (type === "application/cbor") {
    return encodeCbor(decodeCbor(await readBytes(exchange, limits.bodyBytesMax)));
  }
  if (type === "application/json") {
    const json = parseJson(await readBytes(exchange, limits.bodyBytesMax));
    return encodeCbor(valueOfJson(json));
  }
  const array = context.req.header(arrayHeader) ?? "Uint8Array";
  const declared = context.req.header("content-length");
  if (declared !== undefined) return readBytesAsValue(exchange, Number(declared), array);
  const bytes = await readBytes(exchange, limits.objectBytesMax);
  const head = headOfBytes(bytes.length, array);
  const value = new Uint8Array(head.length + bytes.length);
  value.set(head);
  value.set(bytes, head.length);
  return value;
}

/** As `encode` writes bytes, without a second copy of what may be a hundred megabytes. */
async function readBytesAsValue(
  exchange: Exchange,
  length: number,
  array: string,
): Promise<Encoded> {
  const { objectBytesMax } = exchange.limits;
  if (!(length <= objectBytesMax)) throw bodyTooLarge(objectBytesMax);
  const head = headOfBytes(length, array);
  const value = new Uint8Array(head.length + length);
  value.set(head);
  let at = head.length;
  for await (const chunk of (exchange.context.req.raw.body ?? []) as AsyncIterable<Uint8Array>) {
    if (at + chunk.length > value.length) throw bodyTooLarge(objectBytesMax);
    value.set(chunk, at);
    at += chunk.length;
  }
  if (at === value.length) return value;
  throw new SporeError("invalid-request", `the body ended after ${at - head.length} bytes`);
}

/** What stands before the bytes of an array of that type. */
function headOfBytes(length: number, array: string): Uint8Array {
  const tag = encodedArrayTag(array);
  if (tag === undefined) {
    throw new SporeError("invalid-request", `${arrayHeader}: there are no ${printable(array)}`, {
      hint: "The name of a typed array of JavaScript, such as Float64Array.",
    });
  }
  const head = new Uint8Array([...tag, ...headOfByteString(length)]);
  if (encodedBytes(head) !== undefined) return head;
  throw new SporeError("invalid-request", `${length} bytes are no whole ${array}`);
}

/** CBOR's head of a byte string, as short as it can be. */
function headOfByteString(length: number): Uint8Array {
  if (length < 24) return Uint8Array.of(0x40 + length);
  if (length < 2 ** 8) return Uint8Array.of(0x58, length);
  if (length < 2 ** 16) return Uint8Array.of(0x59, length >> 8, length & 255);
  const head = new DataView(new ArrayBuffer(5));
  head.setUint8(0, 0x5a);
  head.setUint32(1, length);
  return new Uint8Array(head.buffer);
}

/** Bytes as they are, a part at a time, so that nobody holds them all. */
function bytesAnswer(
  exchange: Exchange,
  object: string,
  { length, type }: { readonly length: number; readonly type: string },
): Response {
  const { tenant, context, requestId } = exchange;
  const range = rangeOf(context.req.header("range"), length);
  if (range === "unsatisfiable") {
    const headers = { ...securityHeaders, "content-range": `bytes */${length}` };
    return new Response(null, { status: 416, headers });
  }
  const { offset, end } = range ?? { offset: 0, end: length };
  let at = offset;
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      if (at >= end) return controller.close();
      const part = { offset: at, length: Math.min(partBytes, end - at) };
      const bytes = await tenant.getObjectPart(object, part);
      if (bytes.length !== part.length) return controller.error(new Error("the object is cut"));
      at += bytes.length;
      controller.enqueue(bytes);
    },
  });
  const headers = {
    ...securityHeaders,
    "x-request-id": requestId,
    "content-type": "application/octet-stream",
    "content-length": String(end - offset),
    "accept-ranges": "bytes",
    [arrayHeader]: type,
    etag: `"${object}"`,
    ...(range === undefined ? {} : { "content-range": `bytes ${offset}-${end - 1}/${length}` }),
  };
  const isHead = context.req.method === "HEAD";
  return new Response(isHead ? null : body, { status: range === undefined ? 200 : 206, headers });
}

/** One range, as RFC 9110 has it; several, or another unit, are answered with the whole. */
function rangeOf(
  header: string | undefined,
  length: number,
): { readonly offset: number; readonly end: number } | "unsatisfiable" | undefined {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? "");
  if (match === null || (match[1] === "" && match[2] === "")) return undefined;
  const [first = "", last = ""] = match.slice(1);
  const offset = first === "" ? Math.max(0, length - Number(last)) : Number(first);
  const end = first === "" || last === "" ? length : Math.min(length, Number(last) + 1);
  return offset >= end ? "unsatisfiable" : { offset, end };
}
