/**
 * What a call of a run or of an actor came to: its result, an error of the user's, or word
 * that it is accepted.
 */
import { z } from "@hono/zod-openapi";
import type { Encoded, ErrorValue, Outcome } from "../../guest/protocol.ts";
import type { SporeError } from "../../runtime/errors.ts";
import type { CallResult } from "../../runtime/index.ts";
import { ProblemError } from "../problems.ts";
import { encodeCbor } from "../values.ts";
import { explainedIn, send, valueIn } from "./answers.ts";
import type { Exchange } from "./exchange.ts";
import { value } from "./fields.ts";
import * as views from "./views.ts";

const called = z.object({ callId: z.string(), result: value.optional() }).openapi("Called");

export function callAnswers() {
  return {
    200: { description: "Done", schema: called },
    202: { description: "Accepted; ask for the result later", schema: called },
  } as const;
}

const emptyArgs = encodeCbor([]);

export function encodedArgs(args: unknown): Encoded {
  return args === undefined ? emptyArgs : encodeCbor(args);
}

/** Of what was called: its component, and where its result will be. */
export interface Callee {
  readonly componentOf: () => Promise<string>;
  readonly location?: string | undefined;
}

export async function callAnswer(
  exchange: Exchange,
  result: CallResult,
  { componentOf, location }: Callee,
): Promise<Response> {
  const headers: Record<string, string> = {};
  if (result.kind === "accepted") {
    if (location !== undefined) headers.location = location;
    return send(exchange, 202, { callId: result.callId }, { headers });
  }
  const members = { callId: result.callId };
  const value = await resultValue(exchange, result.outcome, { members, componentOf });
  return send(exchange, 200, { callId: result.callId, result: value });
}

export async function resultValue(
  exchange: Exchange,
  outcome: Outcome,
  how: {
    readonly members: Readonly<Record<string, unknown>>;
    readonly componentOf: Callee["componentOf"];
  },
): Promise<unknown> {
  if (outcome.kind === "ok") return valueIn(exchange, outcome.value, how.componentOf);
  const shower = await explainedIn(exchange, how.componentOf);
  throw callFailed(outcome.error, how.members, shower);
}

/** What the SDK, or the host for a run that is over, answers for the user's code: not its failure. */
const ownCodes = ["query-not-found", "update-not-found", "run-closed"] as const;

function callFailed(error: ErrorValue, members: object, shower: views.Shower): SporeError {
  const isOurs = error.name === "GuestError" || error.class === "host";
  const code = isOurs ? ownCodes.find((each) => each === error.code) : undefined;
  if (code !== undefined) return new ProblemError(code, error.message, { members: { ...members } });
  const shown = views.errorView(error, shower);
  return new ProblemError("call-failed", `${error.name}: ${error.message}`, {
    members: { ...members, error: shown },
  });
}
