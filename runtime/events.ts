/** Events that somebody outside decides by a token: how a machine waits, and how they come. */
import type { Outcome } from "../guest/protocol.ts";
import { isSameBytes } from "./bytes.ts";
import { SporeError } from "./errors.ts";
import { type EventOrigin, type EventRow, encodeRow, rowKeys } from "./format.ts";
import { addPending, pushInput, rememberCall, resolveCommand } from "./machine.ts";
import { failed, hostError, okEncoded } from "./outcomes.ts";
import { addHostEvent, type Entity, type Sink } from "./state.ts";
import { eventNotFound, type TokenClaims } from "./tokens.ts";

export interface EventView {
  readonly name: string;
  readonly expiresAtMs: number;
  readonly isDecided: boolean;
}

/** One that may still be decided. */
export interface OpenEvent {
  /** Its number in the run. */
  readonly event: number;
  readonly name: string;
  readonly expiresAtMs: number;
}

export interface Decision {
  readonly outcome: Outcome;
  /** Of the outcome: what a repetition is compared by. */
  readonly hash: Uint8Array;
}

/** Events that a run keeps for a next life, or until its code looks; the oldest go first. */
export const keptEventsMax = 1000;

/** An event of that name that an earlier life has awaited is taken up again: its token holds. */
export function awaitEvent(
  entity: Entity,
  sink: Sink,
  command: { readonly id: number; readonly name: string; readonly expiresAtMs: number },
): void {
  const { id, name, expiresAtMs } = command;
  const kept = keptEvent(entity, name);
  if (kept !== undefined) {
    addHostEvent(entity, sink, "event.awaited", { name, again: true });
    addPending(entity, sink, id, { kind: "event", ...originOf(kept) });
    return;
  }
  // A place in the history is never given twice, whatever is taken back and begun anew.
  const serial = entity.head.nextHistory;
  const { life } = entity.head;
  addHostEvent(entity, sink, "event.awaited", { name });
  addPending(entity, sink, id, { kind: "event", name, serial, expiresAtMs, wait: id, life });
}

/** The oldest one that is not taken up already. */
function keptEvent(entity: Entity, name: string): EventRow | undefined {
  if (entity.events.size === 0) return undefined;
  const taken = new Set<number>();
  for (const pending of entity.pending.values()) {
    if (pending.kind === "event") taken.add(pending.serial);
  }
  for (const event of entity.events.values()) {
    const isExpired = event.outcome === undefined && event.expiresAtMs <= entity.head.lastNowMs;
    const isFree = event.heardBy === undefined && !taken.has(event.serial);
    if (event.name === name && !isExpired && isFree) return event;
  }
  return undefined;
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
  const { serial, expiresAtMs, life } = event;
  const claims = { wait: event.wait, life, serial, expiresAtMs };
  addPending(entity, sink, id, { kind: "token", claims });
  sink.perform(entity, id);
  // Decided between two lives: it comes once its token is on the way.
  const decided = entity.events.get(serial)?.outcome;
  if (decided !== undefined) come(entity, sink, wait, decided);
}

/** The machine that waits hears of it. Kept until its code has looked: a life may end before. */
function come(entity: Entity, sink: Sink, id: number, outcome: Outcome): void {
  const event = entity.pending.get(id);
  if (event?.kind !== "event") return;
  keep(entity, sink, { ...originOf(event), outcome, heardBy: id });
  forgetOldest(entity, sink);
  resolveCommand(entity, sink, id, outcome);
}

function forgetOldest(entity: Entity, sink: Sink): void {
  for (const serial of entity.events.keys()) {
    if (entity.events.size <= keptEventsMax) return;
    forgetEvent(entity, sink, serial);
  }
}

function originOf({ serial, name, expiresAtMs, wait, life }: EventOrigin): EventOrigin {
  return { serial, name, expiresAtMs, wait, life };
}

function keep(entity: Entity, sink: Sink, event: EventRow): void {
  entity.events.set(event.serial, event);
  sink.changes.put(rowKeys.event(entity.key, event.serial), () => encodeRow(event));
  sink.changes.touch(entity);
}

function forgetEvent(entity: Entity, sink: Sink, serial: number): void {
  if (!entity.events.delete(serial)) return;
  sink.changes.delete(rowKeys.event(entity.key, serial));
  sink.changes.touch(entity);
}

/** Nobody will ask for them any more. */
export function forgetEvents(entity: Entity, sink: Sink): void {
  for (const serial of [...entity.events.keys()]) forgetEvent(entity, sink, serial);
}

/** The guest waits no longer for what command `id` awaits, or has looked at what came. */
export function dropEvent(entity: Entity, sink: Sink, id: number): void {
  const pending = entity.pending.get(id);
  if (pending?.kind === "event") forgetEvent(entity, sink, pending.serial);
  for (const { serial, heardBy } of entity.events.values()) {
    if (heardBy === id) forgetEvent(entity, sink, serial);
  }
}

/**
 * Before commands are forgotten, because a life ends or is gone back in: events that they
 * await, or that came for them and nobody looked at, stay for who asks for them again.
 */
export function returnEvents(
  entity: Entity,
  sink: Sink,
  isGivenUp: (waitId: number) => boolean,
): void {
  for (const [id, pending] of entity.pending) {
    if (pending.kind !== "event" || !isGivenUp(id)) continue;
    if (!entity.events.has(pending.serial)) keep(entity, sink, originOf(pending));
  }
  for (const event of [...entity.events.values()]) {
    const { serial, expiresAtMs, outcome, heardBy } = event;
    if (outcome === undefined && expiresAtMs <= entity.head.lastNowMs) {
      forgetEvent(entity, sink, serial);
    } else if (outcome !== undefined && heardBy !== undefined && isGivenUp(heardBy)) {
      keep(entity, sink, { ...originOf(event), outcome });
    }
  }
  forgetOldest(entity, sink);
}

/** Those that may still be decided, oldest first. */
export function openEvents(entity: Entity, nowMs: number): readonly OpenEvent[] {
  const { head } = entity;
  if (head.kind === "run" && head.closedAtMs !== undefined) return [];
  const open = new Map<number, EventRow>(entity.events);
  for (const pending of entity.pending.values()) {
    if (pending.kind === "event") open.set(pending.serial, pending);
  }
  return [...open.values()]
    .filter(({ outcome, expiresAtMs }) => outcome === undefined && expiresAtMs > nowMs)
    .sort((left, right) => left.serial - right.serial)
    .map(({ serial, name, expiresAtMs }) => ({ event: serial, name, expiresAtMs }));
}

/** Its token is worth nothing any more; who waits for it gets an error. */
export function revokeEvent(entity: Entity, sink: Sink, serial: number): void {
  const event = openEvents(entity, Number.NEGATIVE_INFINITY).find((each) => each.event === serial);
  if (event === undefined) {
    throw new SporeError("event-not-found", `no event ${serial} is open`);
  }
  addHostEvent(entity, sink, "event.revoked", { name: event.name });
  forgetEvent(entity, sink, serial);
  for (const [id, pending] of entity.pending) {
    if (pending.kind !== "event" || pending.serial !== serial) continue;
    const error = hostError("event-revoked", `event ${event.name} was revoked`);
    resolveCommand(entity, sink, id, failed(error));
    return;
  }
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
  const { id, event } = waiting(entity, claims);
  addHostEvent(entity, sink, "event.decided", { name: event.name });
  rememberCall(entity, sink, callIdOf(claims), okEncoded(hash));
  if (id === undefined) keep(entity, sink, { ...event, outcome });
  else come(entity, sink, id, outcome);
  return { duplicate: false };
}

export function viewEvent(entity: Entity | undefined, claims: TokenClaims): EventView {
  if (entity === undefined) throw eventNotFound();
  const { expiresAtMs } = claims;
  if (decisionOf(entity, claims) !== undefined) return { name: "", expiresAtMs, isDecided: true };
  return { name: waiting(entity, claims).event.name, expiresAtMs, isDecided: false };
}

/** The event of a token, and which command awaits it in this life. */
function waiting(
  entity: Entity,
  { life, serial }: TokenClaims,
): { readonly id: number | undefined; readonly event: EventRow } {
  const { head } = entity;
  if (head.kind === "run" && head.closedAtMs !== undefined) throw eventNotFound();
  for (const [id, pending] of entity.pending) {
    if (pending.kind !== "event" || pending.serial !== serial) continue;
    if (pending.life === life) return { id, event: originOf(pending) };
  }
  const kept = entity.events.get(serial);
  if (kept?.life !== life || kept.outcome !== undefined) throw eventNotFound();
  return { id: undefined, event: kept };
}

function decisionOf(entity: Entity, claims: TokenClaims): Uint8Array | undefined {
  const outcome = entity.calls.get(callIdOf(claims))?.outcome;
  return outcome?.kind === "ok" ? outcome.value : undefined;
}

/** No client's id has such a character. */
function callIdOf({ life, serial }: TokenClaims): string {
  return `event/${life}/${serial}`;
}
