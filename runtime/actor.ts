/**
 * Pure transitions of one virtual actor. Its state is one encoded value; a turn (one
 * mutating call) starts from pristine memory and that state, and leaves a new one.
 *
 * Invariants:
 * - A1 One turn at a time, in mailbox order; calls of one session in the order of `seq`.
 * - A2 State, reply, timers and sends of a turn's activation are staged in one transition:
 *   they commit together or not at all.
 * - A3 A turn that throws stages no state.
 */
import type { Drained, Encoded, Outcome, RunInfo } from "../guest/protocol.ts";
import { applyCommon } from "./commands.ts";
import { assert, SporeError } from "./errors.ts";
import { type ActorHead, encodeRow, type Mail, type ReplyTo, rowKeys } from "./format.ts";
import { type EntityKey, nameOf, tenantOf } from "./ids.ts";
import { answer, failed, forgetMemory, hostError, pushInput, rememberCall } from "./machine.ts";
import {
  addHistory,
  addHostEvent,
  type Entity,
  newEntity,
  type Sink,
  sessionRowKey,
} from "./state.ts";

/** Calls that may wait in one mailbox before callers get `too-many-messages`. */
export const mailMax = 1000;
/** Client sessions remembered per actor. */
export const sessionsMax = 256;

export function createActor(key: EntityKey, component: string, sink: Sink): Entity {
  const head: ActorHead = {
    kind: "actor",
    component,
    createdAtMs: sink.nowMs,
    turns: 0,
    nextMail: 1,
    nextCall: 1,
    stateBytes: 0,
    version: 0,
    applied: 0,
    imageVersion: 0,
    imageBytes: 0,
    lastNowMs: sink.nowMs,
    life: 1,
    nextInput: 1,
    nextHistory: 0,
    nextSignal: 1,
  };
  const entity = newEntity(key, head, sink.nowMs);
  addHostEvent(entity, sink, "actor.created", { component });
  return entity;
}

export interface Call {
  readonly method: string;
  readonly args: Encoded;
  readonly callId: string;
  readonly isRemembered: boolean;
  /** Constructor arguments, used if this is the actor's first call. */
  readonly create?: Encoded | undefined;
  readonly replyTo?: ReplyTo | undefined;
  readonly session?: { readonly id: string; readonly seq: number } | undefined;
}

/** Puts a call into the mailbox. A known call id changes nothing. */
export function acceptCall(entity: Entity, sink: Sink, call: Call): void {
  const head = actorHead(entity);
  if (call.isRemembered && entity.calls.has(call.callId)) return;
  if (entity.mail.length >= mailMax) {
    throw new SporeError(
      "too-many-messages",
      `actor ${nameOf(entity.key)} has ${mailMax} waiting calls`,
      {
        hint: "Wait for some of them, then call again.",
      },
    );
  }
  if (call.isRemembered) rememberCall(entity, sink, call.callId, undefined);
  if (call.session !== undefined) rememberSession(entity, sink, call.session);
  const mail: Mail = {
    index: head.nextMail++,
    method: call.method,
    args: call.args,
    callId: call.callId,
    isRemembered: call.isRemembered,
    ...(call.create === undefined ? {} : { create: call.create }),
    ...(call.replyTo === undefined ? {} : { replyTo: call.replyTo }),
    ...(call.session === undefined ? {} : { session: call.session.id }),
  };
  entity.mail.push(mail);
  sink.changes.putFresh(rowKeys.mail(entity.key, mail.index), () => encodeRow(mail));
  sink.changes.touch(entity);
}

/**
 * Takes a session's turn for a read-only call: undefined while earlier calls of the session
 * are under way, else the state that it reads. Only the session's count is noted (I6): the
 * next call of the session must find no gap, also after a crash.
 */
export function readInSession(
  entity: Entity,
  sink: Sink,
  session: { readonly id: string; readonly seq: number },
): { readonly state: Encoded | undefined } | undefined {
  const { turn } = actorHead(entity);
  const isBusy = turn?.session === session.id;
  if (isBusy || entity.mail.some((mail) => mail.session === session.id)) return undefined;
  if (session.seq > (entity.sessions.get(session.id) ?? 0)) {
    rememberSession(entity, sink, session);
    sink.notify(entity);
  }
  return { state: entity.state };
}

function rememberSession(entity: Entity, sink: Sink, session: { id: string; seq: number }): void {
  entity.sessions.delete(session.id);
  entity.sessions.set(session.id, session.seq);
  sink.changes.put(sessionRowKey(entity, session.id), encodeRow(session.seq));
  for (const oldest of entity.sessions.keys()) {
    if (entity.sessions.size <= sessionsMax) break;
    entity.sessions.delete(oldest);
    sink.changes.delete(sessionRowKey(entity, oldest));
  }
}

/** Starts the next turn if the actor is free. Returns whether there is one. */
export function beginTurn(entity: Entity, sink: Sink): boolean {
  const head = actorHead(entity);
  if (head.turn !== undefined) return false;
  const mail = entity.mail.shift();
  if (mail === undefined) return false;
  sink.changes.delete(rowKeys.mail(entity.key, mail.index));
  head.turn = mail;
  pushInput(entity, sink, {
    kind: "turn",
    run: runInfo(entity),
    actor: refOf(entity),
    method: mail.method,
    args: mail.args,
    ...(entity.state === undefined ? {} : { state: entity.state }),
    id: mail.callId,
    readonly: false,
  });
  return true;
}

export function runInfo(entity: Entity): RunInfo {
  const { head } = entity;
  return {
    runId: nameOf(entity.key),
    tenant: tenantOf(entity.key),
    name: refOf(entity).type,
    component: head.component,
    // Each turn is a life of its own: idempotency keys of its steps must differ.
    attempt: actorHead(entity).turns + 1,
    startedAtMs: head.createdAtMs,
    seed: seedOf(`${entity.key}#${head.life}`),
  };
}

/** Turns have no secret to keep: their random numbers follow from the actor and the turn. */
function seedOf(text: string): Uint8Array {
  const seed = new Uint8Array(16);
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length + 16; i++) {
    hash = Math.imul(hash ^ (text.charCodeAt(i % text.length) + i), 0x01000193);
    const at = i % 16;
    seed[at] = (seed[at] ?? 0) ^ (hash >>> 11);
  }
  return seed;
}

export function refOf(entity: Entity): { type: string; key: string } {
  const name = nameOf(entity.key);
  const slash = name.indexOf("/");
  return { type: name.slice(0, slash), key: name.slice(slash + 1) };
}

export function applyTurn(entity: Entity, sink: Sink, drained: Drained): void {
  const head = actorHead(entity);
  for (const record of drained.records) addHistory(entity, sink, { kind: "record", record });
  for (const command of drained.commands) {
    switch (command.kind) {
      case "state":
        entity.state = command.value;
        head.stateBytes = command.value.length;
        sink.changes.put(rowKeys.state(entity.key), command.value);
        sink.changes.touch(entity);
        break;
      case "reply":
        replyTurn(entity, sink, command.outcome);
        break;
      case "turned":
        endTurn(entity, sink);
        break;
      case "complete":
      case "continueAsNew":
      case "tags":
        failTurn(entity, sink, hostError("guest-trap", `an actor can't send ${command.kind}`));
        break;
      default:
        applyCommon(entity, sink, command);
    }
  }
  if (drained.state === "yielded" && head.turn !== undefined) {
    pushInput(entity, sink, { kind: "continue" });
  }
  sink.notify(entity);
}

function replyTurn(entity: Entity, sink: Sink, outcome: Outcome): void {
  const { turn } = actorHead(entity);
  assert(turn !== undefined, `${entity.key} replies within a turn`);
  if (turn.method === "") entity.constructorOutcome = outcome;
  if (turn.isRemembered) rememberCall(entity, sink, turn.callId, outcome);
  answer(sink, turn.replyTo, outcome);
  sink.replied(entity, turn.callId, outcome);
  addHostEvent(entity, sink, outcome.kind === "ok" ? "turn.succeeded" : "turn.failed", {
    method: turn.method,
    ...(outcome.kind === "ok" ? {} : { error: outcome.error }),
  });
}

function endTurn(entity: Entity, sink: Sink): void {
  const head = actorHead(entity);
  const isConstructor = head.turn?.method === "";
  head.turns += 1;
  head.turn = undefined;
  forgetMemory(entity, sink);
  if (isConstructor && entity.state === undefined) refuseMail(entity, sink);
}

/** The constructor failed: nobody who waits for this actor will be served. */
function refuseMail(entity: Entity, sink: Sink): void {
  const name = nameOf(entity.key);
  const outcome =
    entity.constructorOutcome ?? failed(hostError("actor-not-found", `${name} failed`));
  for (const mail of entity.mail.splice(0)) {
    sink.changes.delete(rowKeys.mail(entity.key, mail.index));
    answer(sink, mail.replyTo, outcome);
    sink.replied(entity, mail.callId, outcome);
  }
}

/** An actor whose constructor failed: to be removed, so that it can be created again. */
export function isUnborn(entity: Entity): boolean {
  const head = actorHead(entity);
  return head.turn === undefined && head.turns > 0 && entity.state === undefined;
}

/** The turn can't go on (trap, time-out): its caller gets the error, its state is untouched (A3). */
export function failTurn(entity: Entity, sink: Sink, error: ReturnType<typeof hostError>): void {
  const head = actorHead(entity);
  if (head.turn === undefined) return;
  replyTurn(entity, sink, failed(error));
  endTurn(entity, sink);
}

export function actorHead(entity: Entity): ActorHead {
  assert(entity.head.kind === "actor", `${entity.key} is an actor`);
  return entity.head;
}
