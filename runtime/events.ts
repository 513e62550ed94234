/** Events that somebody outside decides by a token: how a machine waits, and how they come. */
import type { Outcome } from "../guest/protocol.ts";
import { isSameBytes } from "./bytes.ts";
import { SporeError } from "./errors.ts";
import {
  addPending,
  failed,
  hostError,
  okEncoded,
  pushInput,
  rememberCall,
  resolveCommand,
} from "./machine.ts";
import { addHostEvent, type Entity, type Sink } from "./state.ts";
import { eventNotFound, type TokenClaims } from "./tokens.ts";

export interface EventView {
  readonly name: string;
  readonly expiresAtMs: number;
  readonly isDecided: boolean;
}

export interface Decision {
  readonly outcome: Outcome;
  /** Of the outcome: what a repetition is compared by. */
  readonly hash: Uint8Array;
}

export function awaitEvent(
  entity: Entity,
  sink: Sink,
  command: { readonly id: number; readonly name: string; readonly expiresAtMs: number },
): void {
  const { id, name, expiresAtMs } = command;
  // A place in the history is never given twice, whatever is taken back and begun anew.
  const serial = entity.head.nextHistory;
  addHostEvent(entity, sink, "event.awaited", { name });
  addPending(entity, sink, id, { kind: "event", name, serial, expiresAtMs });
}

export function askForToken(
  entity: Entity,
  sink: Sink,
  command: { readonly id: number; readonly wait: number },
): void {
  const { id, wait } = command;
  const event = entity.pending.get(wait);
  if (event?.kind !== "event") {
    const outcome = failed(hostError("invalid-request", `command ${wait} awaits no event`));
    pushInput(entity, sink, { kind: "resolve", id, outcome });
    return;
  }
  const { serial, expiresAtMs } = event;
  const { life } = entity.head;
  addPending(entity, sink, id, { kind: "token", claims: { wait, life, serial, expiresAtMs } });
  sink.perform(entity, id);
}

/** The event comes, once: the same decision again is a duplicate, another one a conflict. */
export function decideEvent(
  entity: Entity | undefined,
  sink: Sink,
  claims: TokenClaims,
  { outcome, hash }: Decision,
): { duplicate: boolean } {
  if (entity === undefined) throw eventNotFound();
  const before = decisionOf(entity, claims);
  if (before !== undefined) {
    if (isSameBytes(before, hash)) return { duplicate: true };
    throw new SporeError("event-decided", "this event was decided in another way before");
  }
  const { name } = waiting(entity, claims);
  addHostEvent(entity, sink, "event.decided", { name });
  rememberCall(entity, sink, callIdOf(claims), okEncoded(hash));
  resolveCommand(entity, sink, claims.wait, outcome);
  return { duplicate: false };
}

export function viewEvent(entity: Entity | undefined, claims: TokenClaims): EventView {
  if (entity === undefined) throw eventNotFound();
  const { expiresAtMs } = claims;
  if (decisionOf(entity, claims) !== undefined) return { name: "", expiresAtMs, isDecided: true };
  return { name: waiting(entity, claims).name, expiresAtMs, isDecided: false };
}

function waiting(entity: Entity, { wait, life, serial }: TokenClaims): { readonly name: string } {
  const { head } = entity;
  const event = entity.pending.get(wait);
  const isOver = head.life !== life || (head.kind === "run" && head.closedAtMs !== undefined);
  if (isOver || event?.kind !== "event" || event.serial !== serial) throw eventNotFound();
  return event;
}

function decisionOf(entity: Entity, claims: TokenClaims): Uint8Array | undefined {
  const outcome = entity.calls.get(callIdOf(claims))?.outcome;
  return outcome?.kind === "ok" ? outcome.value : undefined;
}

/** No client's id has such a character. */
function callIdOf({ life, serial }: TokenClaims): string {
  return `event/${life}/${serial}`;
}
