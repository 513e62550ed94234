/**
 * Fields that several resources have in their requests and answers, as schemas.
 */
import { z } from "@hono/zod-openapi";
import { errorCodes } from "../../runtime/errors.ts";
import type { Status } from "../../runtime/index.ts";
import { parseWait } from "../waits.ts";

/** As in runtime/ids.ts: what a guest may start, a client must be able to name. */
const idPattern = /^(?!\.+$)[A-Za-z0-9._:~@+=,-]{1,200}$/;

/** Names of definitions, methods, signals: free, but never a path, a control character or dots only. */
const namePattern = /^(?!\.+$)[^\u0000-\u001f\u007f-\u009f/\\\ud800-\udfff\ufffd]{1,200}$/u;

export function isId(text: string): boolean {
  return idPattern.test(text);
}

export const id = z
  .string()
  .regex(idPattern, "1 to 200 of A-Z a-z 0-9 . _ : ~ @ + = , -, not only dots");

export const name = z
  .string()
  .regex(namePattern, "1 to 200 characters, no / \\ or control characters");

export const wait = z
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

export function count(max: number) {
  return z
    .string()
    .regex(/^\d{1,9}$/, "a whole number")
    .transform(Number)
    .refine((value) => value >= 1 && value <= max, `1 to ${max}`)
    .optional()
    .openapi({ type: "integer" });
}

export const index = z
  .string()
  .regex(/^\d{1,12}$/, "a whole number")
  .transform(Number)
  .optional()
  .openapi({ type: "integer" });

export const value = z.unknown().openapi({
  description:
    'Any value. In JSON, what JSON lacks is tagged: {"$date": iso}, {"$bigint": text}, {"$bytes": base64}, {"$map": [[k, v]]}, {"$set": [v]}, {"$undefined": true}, {"$number": "NaN"}, {"$error": {…}}; a key that looks like a tag gets one more $.',
});

export const args = z
  .array(value)
  .optional()
  .openapi({ description: "Arguments in order; default none." });

export const tags = z.record(z.string().max(200), z.string().max(1000)).optional();

export const status = z
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

export const errorValue = z
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

export const problem = z
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

export const componentPrefix = z.string().regex(/^[0-9a-f]{4,64}$/, "4 to 64 hex digits");

export const isStored = z.literal(true).openapi({
  description: "The output is too large for an answer: it is a reference to the stored value",
});

export const queueOptions = z
  .strictObject({
    name: id.optional(),
    key: z.string().min(1).max(200).optional(),
    priority: z.number().int().min(-1000).max(1000).optional(),
  })
  .optional()
  .openapi({ description: "The queue that it passes; default as its definition says" });
