/**
 * Writing answers: JSON or CBOR as the client asked, the same headers on all, and how users'
 * values and errors appear in them.
 */
import type { Encoded } from "../../guest/protocol.ts";
import { encodeCbor, jsonOfValue, rawValue, shownValue } from "../values.ts";
import type { Exchange } from "./exchange.ts";
import { explainErrors, mayHoldError } from "./value-errors.ts";
import * as views from "./views.ts";

/** Fixed on every answer: the API is for programs, a browser shall do nothing with it by itself. */
export const securityHeaders = {
  "x-content-type-options": "nosniff",
  "cache-control": "no-store",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
};

interface SendOptions {
  readonly headers?: Readonly<Record<string, string>>;
  readonly isProblem?: boolean;
}

export function send(
  exchange: Exchange,
  status: number,
  body: object,
  options?: SendOptions,
): Response {
  const headers: Record<string, string> = {
    ...securityHeaders,
    "x-request-id": exchange.requestId,
    "content-type": exchange.wantsCbor
      ? "application/cbor"
      : options?.isProblem === true
        ? "application/problem+json"
        : "application/json",
    ...options?.headers,
  };
  const payload = exchange.wantsCbor
    ? (encodeCbor(views.withoutAbsent(body)) as Uint8Array<ArrayBuffer>)
    : JSON.stringify(body);
  return new Response(payload, { status, headers });
}

// Headers are plain objects given at once: Node's adaptor then writes them as they are,
// and makes no Response and no Headers object of them.

export function noContent(exchange: Exchange): Response {
  const headers = { ...securityHeaders, "x-request-id": exchange.requestId };
  return new Response(null, { status: 204, headers });
}

export function textResponse(exchange: Exchange, text: string, contentType: string): Response {
  const ids = { "x-request-id": exchange.requestId, "content-type": contentType };
  return new Response(text, { headers: { ...securityHeaders, ...ids } });
}

/** How user values appear in this answer: themselves in CBOR, tagged in JSON. */
export function shownIn(exchange: Exchange): views.Show {
  return exchange.wantsCbor ? rawValue : showTagged;
}

/** The same with stacks at their author's lines; the component is asked for only if need be. */
export async function explainedIn(
  exchange: Exchange,
  componentOf: () => Promise<string>,
  show: views.Show = shownIn(exchange),
): Promise<views.Shower> {
  const { maps } = exchange.options;
  if (maps === undefined) return { show };
  let component: string;
  try {
    component = await componentOf();
  } catch {
    return { show }; // Deleted meanwhile: its last error is worth more than its lines.
  }
  const mapper = await maps.mapper(exchange.caller.tenant, component);
  if (mapper === undefined) return { show };
  return { show: (encoded) => show(explainErrors(encoded, mapper)), mapper };
}

/** A user's value; errors in it have their author's lines. */
export async function valueIn(
  exchange: Exchange,
  encoded: Encoded,
  componentOf: () => Promise<string>,
): Promise<unknown> {
  if (!mayHoldError(encoded)) return shownIn(exchange)(encoded);
  return (await explainedIn(exchange, componentOf)).show(encoded);
}

export const showTagged: views.Show = (encoded) => {
  const value = shownValue(encoded);
  return value === undefined ? undefined : jsonOfValue(value);
};
