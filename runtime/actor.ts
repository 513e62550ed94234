/**
 * Pure transitions of one virtual actor. Its state is one encoded value; a turn (one
 * mutating call) starts from pristine memory and that state, and leaves a new one.
 *
 * Invariants:
 * - A1 One turn at a time, in mailbox order; calls of one session in the order of `seq`.
 * - A2 State, reply, timers and sends of a turn's activation are staged in one transition:
 *   they commit together or not at all.
 * - A3 A turn that throws stages no state.
 * - A4 A read is no turn: it runs on the state between two of them, and stages its answer alone.
 *   It comes after what its caller called before it (I4), and waits for nothing else.
 */
import {
  type Command,
  type Definition,
  type Drained,
  type Encoded,
  type Outcome,
  type RunInfo,
  stateBytesMax,
  type TurnInput,
} from "../guest/protocol.ts";
import { applyCommon, returnSignals } from "./commands.ts";
import { assert, SporeError } from "./errors.ts";
import {
  type ActorHead,
  encodeRow,
  type Mail,
  type PreviousRow,
  type ReminderRow,
  type ReplyTo,
  rowKeys,
  systemTimers,
} from "./format.ts";
import { type EntityKey, nameOf, tenantOf } from "./ids.ts";
import {
  addSystemTimer,
  answer,
  encodeActivation,
  forgetMemory,
  newMachine,
  pushInput,
  rememberCall,
  removeSystemTimer,
} from "./machine.ts";
import { failed, hostError } from "./outcomes.ts";
import { addHostEvent, type Entity, newEntity, type Sink, sessionRowKey } from "./state.ts";

/** Calls that may wait in one mailbox before callers get `too-many-messages`. */
export const mailMax = 1000;
/** The same for calls of runs and actors: a one-way one that is refused is lost to its sender. */
export const mailFromEntitiesMax = 10_000;
export const remindersMax = 1000;
/** Client sessions remembered per actor. */
export const sessionsMax = 256;

export function createActor(key: EntityKey, component: string, sink: Sink): Entity {
  const entity = imaginedActor(key, component, sink.nowMs);
  addHostEvent(entity, sink, "actor.created", { component });
  return entity;
}

/** An actor as it would be if it were created now: no partition knows it, and it has no rows. */
export function imaginedActor(key: EntityKey, component: string, nowMs: number): Entity {
  const head: ActorHead = {
    ...newMachine(component, nowMs),
    kind: "actor",
    createdAtMs: nowMs,
    turns: 0,
    nextMail: 1,
    nextCall: 1,
    stateBytes: 0,
  };
  return newEntity(key, head, nowMs);
}

/** An actor that begins with another one's state. */
export function forkOf(
  key: EntityKey,
  origin: { readonly state: Encoded; readonly component: string; readonly from: string },
  sink: Sink,
): Entity {
  const actor = createActor(key, origin.component, sink);
  setState(actor, sink, origin.state);
  armExpiry(actor, sink);
  addHostEvent(actor, sink, "actor.forked", { from: origin.from });
  return actor;
}

export interface Call extends Pick<Mail, "upgradeTo" | "isRead" | "chain" | "caller" | "trace"> {
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
export function acceptCall(entity: Entity, sink: Sink, call: Call): Mail | undefined {
  const head = actorHead(entity);
  if (call.isRemembered && entity.calls.has(call.callId)) return undefined;
  const most = call.caller === undefined ? mailMax : mailFromEntitiesMax;
  if (entity.mail.length >= most && call.upgradeTo === undefined) {
    throw new SporeError(
      "too-many-messages",
      `actor ${nameOf(entity.key)} has ${most} waiting calls`,
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
    ...(call.upgradeTo === undefined ? {} : { upgradeTo: call.upgradeTo }),
    ...(call.isRead === undefined ? {} : { isRead: call.isRead }),
    ...(call.chain === undefined ? {} : { chain: call.chain }),
    ...(call.caller === undefined ? {} : { caller: call.caller }),
    ...(call.trace === undefined ? {} : { trace: call.trace }),
  };
  entity.mail.push(mail);
  sink.changes.putFresh(rowKeys.mail(entity.key, mail.index), () => encodeRow(mail));
  sink.changes.touch(entity);
  return mail;
}

/**
 * From here on the call's outcome is kept for whoever asks for it. False if it was answered
 * already: then the answer is on its way to who waits for it here.
 */
export function keepCall(entity: Entity, sink: Sink, callId: string): boolean {
  const head = actorHead(entity);
  if (head.turn?.callId === callId && head.isAnswered !== true) {
    head.turn = { ...head.turn, isRemembered: true };
  } else {
    const at = entity.mail.findIndex((mail) => mail.callId === callId);
    const mail = entity.mail[at];
    if (mail === undefined) return false;
    const kept: Mail = { ...mail, isRemembered: true };
    entity.mail[at] = kept;
    sink.changes.put(rowKeys.mail(entity.key, kept.index), () => encodeRow(kept));
  }
  rememberCall(entity, sink, callId, undefined);
  return true;
}

/**
 * Takes a session's turn for a read-only call; false while earlier calls of the session are
 * under way. Only the session's count is noted (I6): the next call of the session must find no
 * gap, also after a crash.
 */
export function readInSession(
  entity: Entity,
  sink: Sink,
  session: { readonly id: string; readonly seq: number },
): boolean {
  const { turn } = actorHead(entity);
  const isBusy = turn?.session === session.id;
  if (isBusy || entity.mail.some((mail) => mail.session === session.id)) return false;
  if (session.seq > (entity.sessions.get(session.id) ?? 0)) {
    rememberSession(entity, sink, session);
    sink.notify(entity);
  }
  return true;
}

function rememberSession(entity: Entity, sink: Sink, session: { id: string; seq: number }): void {
  entity.sessions.delete(session.id);
  entity.sessions.set(session.id, session.seq);
  sink.changes.put(sessionRowKey(entity, session.id), encodeRow(session.seq));
  // Who is let go of before that is durable would be read anew without it (residents.ts E2).
  sink.changes.touch(entity);
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
  if (entity.mail.length > 0) moveOn(entity, sink);
  const mail = takeMail(entity);
  if (mail === undefined) return false;
  sink.changes.delete(rowKeys.mail(entity.key, mail.index));
  head.turn = mail;
  // New code may say of a method that it only reads: a turn of it changes nothing, either.
  pushInput(
    entity,
    sink,
    turnInput(entity, mail, { isRead: onlyReads(entity, sink, mail.method) }),
  );
  return true;
}

/** Whether the actor's component says that the method only reads, as far as that is known. */
export function onlyReads(entity: Entity, sink: Sink, method: string): boolean {
  const { methods } = sink.actorDefinition(actorHead(entity).component, refOf(entity).type) ?? {};
  return methods?.some(({ name, readonly }) => readonly && name === method) === true;
}

/**
 * Reads of runs and actors that may run now (A4). One that new code takes for a change isn't a
 * read any more: it waits for its turn like any other call.
 */
export function readsNow(entity: Entity, sink: Sink): readonly Mail[] {
  if (!entity.mail.some((mail) => mail.isRead === true)) return [];
  const { component } = actorHead(entity);
  const isKnown = sink.actorDefinition(component, refOf(entity).type) !== undefined;
  for (const [at, mail] of entity.mail.entries()) {
    if (mail.isRead !== true || !isKnown || onlyReads(entity, sink, mail.method)) continue;
    const { isRead: _none, ...change } = mail;
    entity.mail[at] = change;
    sink.changes.put(rowKeys.mail(entity.key, mail.index), encodeRow(change));
    sink.changes.touch(entity);
  }
  return freeReads(entity);
}

function freeReads(entity: Entity): readonly Mail[] {
  const { turn, nested = [] } = actorHead(entity);
  if (entity.state === undefined || turn?.upgradeTo !== undefined) return [];
  const isUpgrading = entity.mail.some((mail) => mail.upgradeTo !== undefined);
  if (turn === undefined && isUpgrading) return [];
  const callers = new Set([turn, ...nested].map((call) => call?.caller));
  const free: Mail[] = [];
  for (const mail of entity.mail) {
    if (mail.isRead !== true) callers.add(mail.caller);
    else if (!callers.has(mail.caller)) free.push(mail);
  }
  return free;
}

/** Whether somebody waits with this call for the turn that goes on. */
export function waitsForTurn(entity: Entity, mail: Mail): boolean {
  return mail.isRead !== true || !freeReads(entity).includes(mail);
}

/** What a read-only method is given: the state as it is between turns. */
export function readingTurn(
  actor: Entity,
  state: Encoded,
  { method, args, caller }: Pick<Mail, "method" | "args" | "caller">,
): TurnInput {
  return {
    kind: "turn",
    run: runInfo(actor),
    actor: refOf(actor),
    method,
    args,
    state,
    id: "read",
    readonly: true,
    ...(caller === undefined ? {} : { caller }),
  };
}

/** Answers a read, unless it was answered or its actor has gone. */
export function endRead(entity: Entity, sink: Sink, read: Mail, outcome: Outcome): void {
  const mail = entity.mail.find(({ index }) => index === read.index);
  if (mail === undefined) return;
  takeBackMail(entity, sink, mail);
  answer(sink, mail.replyTo, outcome);
}

/** At a turn's boundary an actor of an older component moves to the current one by itself. */
function moveOn(entity: Entity, sink: Sink): void {
  const { component } = actorHead(entity);
  const current = sink.successorOf(tenantOf(entity.key), refOf(entity).type, component);
  if (current !== undefined) requestUpgrade(entity, sink, current, false);
}

/** Whether actors of an earlier component move to the one that says this, at their next turn. */
export function movesByItself(definition: Definition | undefined): boolean {
  return definition?.upgrades === true && definition.upgradesByHand !== true;
}

/** An upgrade goes first, also of a stopped actor: it may be what lets the calls succeed. */
function takeMail(entity: Entity): Mail | undefined {
  const at = entity.mail.findIndex((mail) => mail.upgradeTo !== undefined);
  if (at >= 0) return entity.mail.splice(at, 1)[0];
  if (actorHead(entity).isStopped === true) return undefined;
  const next = entity.mail.findIndex((mail) => mail.isRead !== true);
  return next > 0 ? entity.mail.splice(next, 1)[0] : next === 0 ? entity.mail.shift() : undefined;
}

/** Turns that are computed ahead, and how large the state may be that each is given. */
const aheadMax = 8;
const aheadStateBytesMax = 16 * 1024;

/**
 * What the turns after the one that begins will be given if it is over at once, as they wait
 * in the mailbox: all but the state that it leaves.
 */
export function activationsAhead(entity: Entity): Uint8Array[] {
  const head = actorHead(entity);
  const { state } = entity;
  if (state === undefined || state.length > aheadStateBytesMax) return [];
  if (head.turn?.upgradeTo !== undefined) return [];
  const mails = entity.mail.slice(0, aheadMax).filter((mail) => mail.isRead !== true);
  if (mails.some((mail) => mail.upgradeTo !== undefined)) return [];
  return mails.map((mail, index) =>
    encodeActivation(entity, head.lastNowMs, [turnInput(entity, mail, { turnsAhead: index + 1 })]),
  );
}

/** The input of the next turn, or of the one that comes so many turns after it. */
function turnInput(
  entity: Entity,
  mail: Mail,
  { turnsAhead = 0, isRead = false }: { turnsAhead?: number; isRead?: boolean } = {},
): TurnInput {
  return {
    kind: "turn",
    run: runInfo(entity, turnsAhead),
    actor: refOf(entity),
    method: mail.method,
    args: mail.args,
    ...(entity.state === undefined ? {} : { state: entity.state }),
    id: mail.callId,
    readonly: isRead,
    ...(mail.caller === undefined ? {} : { caller: mail.caller }),
  };
}

/**
 * Whether a call comes back to an actor that waits for it, by those who are said to wait.
 * One of them may have given up since: the actor must be waiting for the next of them still.
 * What this doesn't see, because it came by way of a run, deadlock.ts finds.
 */
export function isReturning(entity: Entity, chain: readonly string[]): boolean {
  const name = nameOf(entity.key);
  const at = chain.indexOf(name);
  if (at < 0) return false;
  const next = chain[at + 1] ?? name;
  for (const pending of entity.pending.values()) {
    if (pending.kind === "message" && pending.awaits !== undefined) {
      if (nameOf(pending.awaits) === next) return true;
    }
  }
  return false;
}

/**
 * A call that comes back to this actor while its turn waits for the caller: in the mailbox it
 * would wait for ever. A re-entrant actor runs it within its turn, any other refuses it.
 */
export function takeReturning(
  entity: Entity,
  sink: Sink,
  call: Call,
  chain: readonly string[],
): void {
  if (!canNest(entity, sink, call)) {
    const message = `a call would wait for itself: ${chain.join(" → ")}`;
    answer(sink, call.replyTo, failed(hostError("call-deadlock", message)));
    return;
  }
  const head = actorHead(entity);
  const { session: _none, ...rest } = call;
  const mail: Mail = { ...rest, index: 0 };
  head.nested = [...(head.nested ?? []), mail];
  pushInput(entity, sink, turnInput(entity, mail));
}

/** Whether a returning call runs within the turn that is going on; a read never does (A4). */
export function canNest(entity: Entity, sink: Sink, { isRead }: Pick<Call, "isRead">): boolean {
  const { component, turn } = actorHead(entity);
  if (isRead === true || turn === undefined || turn.upgradeTo !== undefined) return false;
  return sink.actorDefinition(component, refOf(entity).type)?.reentrant === true;
}

/** Takes a call out of the mailbox that was found to wait for itself. */
export function takeBackMail(entity: Entity, sink: Sink, mail: Mail): Call {
  entity.mail = entity.mail.filter((each) => each !== mail);
  sink.changes.delete(rowKeys.mail(entity.key, mail.index));
  sink.changes.touch(entity);
  const { session: _none, ...call } = mail;
  return call;
}

/** Component whose code runs in the turn that is going on. */
export function componentOf(entity: Entity): string {
  const { head } = entity;
  return head.kind === "actor" ? (head.turn?.upgradeTo ?? head.component) : head.component;
}

export function runInfo(entity: Entity, turnsAhead = 0): RunInfo {
  const { head } = entity;
  return {
    runId: nameOf(entity.key),
    tenant: tenantOf(entity.key),
    name: refOf(entity).type,
    component: head.component,
    // Each turn is a life of its own: idempotency keys of its steps must differ.
    attempt: actorHead(entity).turns + 1 + turnsAhead,
    startedAtMs: head.createdAtMs,
    seed: seedOf(`${entity.key}#${head.life + turnsAhead}`),
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

export function refOf(entity: Pick<Entity, "key">): { type: string; key: string } {
  const name = nameOf(entity.key);
  const slash = name.indexOf("/");
  return { type: name.slice(0, slash), key: name.slice(slash + 1) };
}

export function applyTurn(entity: Entity, sink: Sink, drained: Drained): void {
  const head = actorHead(entity);
  const large = drained.commands.find(
    (command) => command.kind === "state" && command.value.length > stateBytesMax,
  );
  if (large !== undefined) {
    const message = `the state would take more than ${stateBytesMax} bytes`;
    failTurn(entity, sink, hostError("value-too-large", message));
    return;
  }
  for (const command of drained.commands) {
    // Whatever a forged guest says after the end of its turn.
    if (head.turn === undefined) break;
    switch (command.kind) {
      case "state":
        keepPrevious(entity, sink);
        setState(entity, sink, command.value);
        break;
      case "reply":
        if (!replyNested(entity, sink, command.id, command.outcome)) {
          replyTurn(entity, sink, command.outcome);
        }
        break;
      case "remind":
        remind(entity, sink, command);
        break;
      case "forgetReminder":
        forgetReminder(entity, sink, command.name);
        break;
      case "turned":
        endTurn(entity, sink);
        break;
      case "complete":
      case "continueAsNew":
      case "accept":
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
  const head = actorHead(entity);
  const { turn } = head;
  assert(turn !== undefined, `${entity.key} replies within a turn`);
  if (head.isAnswered === true) return;
  head.isAnswered = true;
  if (turn.upgradeTo !== undefined) {
    endUpgrade(entity, sink, turn.upgradeTo, outcome);
    return;
  }
  if (turn.method === "") entity.constructorOutcome = outcome;
  if (turn.isRemembered) rememberCall(entity, sink, turn.callId, outcome);
  answer(sink, turn.replyTo, outcome);
  sink.replied(entity, turn.callId, outcome);
  addTurnEvent(entity, sink, turn, outcome);
  const definition = sink.actorDefinition(head.component, refOf(entity).type);
  if (outcome.kind === "error" && definition?.stopsOnError === true && turn.method !== "") {
    head.isStopped = true;
    addHostEvent(entity, sink, "actor.stopped", { method: turn.method, error: outcome.error });
  }
}

/** Values over this are left out of an actor's history. */
const eventBytesMax = 4096;

function addTurnEvent(entity: Entity, sink: Sink, turn: Mail, outcome: Outcome): void {
  const { state } = entity;
  addHostEvent(entity, sink, outcome.kind === "ok" ? "turn.succeeded" : "turn.failed", {
    method: turn.method,
    ...(turn.args.length <= eventBytesMax ? { args: turn.args } : {}),
    ...(turn.caller === undefined ? {} : { caller: turn.caller }),
    ...(outcome.kind === "ok" ? {} : { error: outcome.error }),
    ...(state !== undefined && state.length <= eventBytesMax ? { state } : {}),
  });
}

function replyNested(entity: Entity, sink: Sink, callId: string, outcome: Outcome): boolean {
  const head = actorHead(entity);
  const mail = head.nested?.find((nested) => nested.callId === callId);
  if (mail === undefined) return false;
  head.nested = head.nested?.filter((nested) => nested !== mail);
  answer(sink, mail.replyTo, outcome);
  addTurnEvent(entity, sink, mail, outcome);
  return true;
}

/** The history has it whole. */
const upgradeErrorChars = 1000;

/** The new state was staged by the turn; with it comes the new component, or neither does. */
function endUpgrade(entity: Entity, sink: Sink, component: string, outcome: Outcome): void {
  const head = actorHead(entity);
  if (outcome.kind === "error") {
    const { name, message } = outcome.error;
    head.failedUpgrade = component;
    head.upgradeError = { name: name.slice(0, 100), message: message.slice(0, upgradeErrorChars) };
    addHostEvent(entity, sink, "actor.upgrade-failed", { component, error: outcome.error });
    return;
  }
  const from = head.component;
  head.previousComponent = from;
  head.component = component;
  head.failedUpgrade = undefined;
  head.upgradeError = undefined;
  addHostEvent(entity, sink, "actor.upgraded", { component, from });
}

/** Puts an upgrade before all waiting calls, unless it is done, under way or has failed. */
export function requestUpgrade(
  entity: Entity,
  sink: Sink,
  component: string,
  isForced: boolean,
): boolean {
  const head = actorHead(entity);
  if (head.component === component || entity.state === undefined) return false;
  if (head.failedUpgrade === component && !isForced) return false;
  if ([head.turn, ...entity.mail].some((mail) => mail?.upgradeTo === component)) return false;
  // Who asks again shall see what becomes of this attempt.
  head.failedUpgrade = undefined;
  head.upgradeError = undefined;
  const args = encodeRow([]);
  const callId = `.upgrade.${head.nextMail}`;
  acceptCall(entity, sink, { method: "", args, callId, isRemembered: false, upgradeTo: component });
  return true;
}

/** Component and state as they were before the last upgrade; later changes are lost. */
export function rollBack(entity: Entity, sink: Sink, previous: PreviousRow): void {
  const head = actorHead(entity);
  assertIdle(entity);
  head.failedUpgrade = head.component;
  head.upgradeError = undefined;
  head.component = previous.component;
  head.previousComponent = undefined;
  setState(entity, sink, previous.state);
  sink.changes.delete(rowKeys.previous(entity.key));
  addHostEvent(entity, sink, "actor.rolled-back", { component: previous.component });
}

/** Replaces the state by hand, if nobody was faster. */
export function editState(entity: Entity, sink: Sink, state: Encoded, turns: number): void {
  assertIdle(entity);
  const head = actorHead(entity);
  if (head.turns !== turns) {
    throw new SporeError(
      "state-changed",
      `actor ${nameOf(entity.key)} has had ${head.turns} turns, not ${turns}`,
      { hint: "Read the state again, then decide." },
    );
  }
  checkStateSize(entity, state);
  setState(entity, sink, state);
  head.turns += 1;
  addHostEvent(entity, sink, "actor.edited", state.length <= eventBytesMax ? { state } : {});
}

function assertIdle(entity: Entity): void {
  if (actorHead(entity).turn === undefined) return;
  throw new SporeError("actor-busy", `actor ${nameOf(entity.key)} is in a turn`, {
    hint: "Try again when the turn is over.",
  });
}

function setState(entity: Entity, sink: Sink, state: Encoded): void {
  entity.state = state;
  actorHead(entity).stateBytes = state.length;
  sink.changes.put(rowKeys.state(entity.key), state);
  sink.changes.touch(entity);
}

function checkStateSize(entity: Entity, state: Encoded): void {
  if (state.length <= stateBytesMax) return;
  throw new SporeError(
    "value-too-large",
    `the state of actor ${nameOf(entity.key)} would take ${state.length} bytes`,
    { hint: `At most ${stateBytesMax}. Keep large parts as objects: put and get.` },
  );
}

/** Goes on after a stop by policy, with the call after the one that failed. */
export function resumeActor(entity: Entity, sink: Sink): void {
  actorHead(entity).isStopped = undefined;
  addHostEvent(entity, sink, "actor.resumed");
}

function endTurn(entity: Entity, sink: Sink): void {
  const head = actorHead(entity);
  const isConstructor = head.turn?.method === "" && head.turn.upgradeTo === undefined;
  // Nobody must wait for ever for what a broken guest didn't say.
  replyTurn(entity, sink, failed(hostError("guest-output", "the method gave no answer")));
  head.isAnswered = undefined;
  for (const nested of head.nested ?? []) {
    answer(sink, nested.replyTo, failed(hostError("call-failed", "the outer call has ended")));
  }
  // Signals that were on their way to this turn are for the next one (I4).
  returnSignals(entity, sink, () => true);
  head.turns += 1;
  head.turn = undefined;
  head.nested = undefined;
  forgetMemory(entity, sink);
  sink.notify(entity);
  armExpiry(entity, sink);
  if (isConstructor && entity.state === undefined) refuseMail(entity, sink);
}

/** Before an upgrade's new state replaces the old one. */
function keepPrevious(entity: Entity, sink: Sink): void {
  const { turn, component } = actorHead(entity);
  if (turn?.upgradeTo === undefined || entity.state === undefined) return;
  const previous: PreviousRow = { component, state: entity.state };
  sink.changes.put(rowKeys.previous(entity.key), encodeRow(previous));
}

// ---------------------------------------------------------------- time

/** The expiry timer is set once and moves itself on: no timer is written for each turn. */
function armExpiry(entity: Entity, sink: Sink): void {
  const head = actorHead(entity);
  const isArmed = head.lastTurnAtMs !== undefined;
  const ttlMs = sink.actorDefinition(head.component, refOf(entity).type)?.expiresAfterMs;
  if (ttlMs === undefined) return;
  head.lastTurnAtMs = sink.nowMs;
  if (!isArmed) addSystemTimer(entity, sink, systemTimers.expiry, sink.nowMs + ttlMs);
}

/** Whether the actor has been idle for its time and is to be deleted. */
export function isExpired(entity: Entity, sink: Sink): boolean {
  const head = actorHead(entity);
  const ttlMs = sink.actorDefinition(head.component, refOf(entity).type)?.expiresAfterMs;
  if (ttlMs === undefined || head.lastTurnAtMs === undefined) {
    // A rollback, or an upgrade, may bring a time to expire again: armed anew by a turn.
    head.lastTurnAtMs = undefined;
    sink.changes.touch(entity);
    return false;
  }
  const isIdle = head.turn === undefined && entity.mail.length === 0;
  const dueMs = head.lastTurnAtMs + ttlMs;
  if (isIdle && sink.nowMs >= dueMs) return true;
  addSystemTimer(entity, sink, systemTimers.expiry, Math.max(dueMs, sink.nowMs + 1000));
  return false;
}

function remind(entity: Entity, sink: Sink, command: Extract<Command, { kind: "remind" }>): void {
  const head = actorHead(entity);
  const { name, method, args, everyMs, cron, zone } = command;
  const atMs =
    command.atMs ?? (cron === undefined ? undefined : sink.nextCron(cron, zone, sink.nowMs));
  forgetReminder(entity, sink, name);
  const isNameFit = /^[A-Za-z0-9._:~@+=,-]{1,200}$/.test(name);
  if (atMs === undefined || !isNameFit || entity.reminders.size >= remindersMax) {
    const reason = isNameFit
      ? atMs === undefined
        ? "never comes"
        : "is one too many"
      : "has a bad name";
    addHostEvent(entity, sink, "reminder.refused", { name, reason });
    return;
  }
  head.nextReminder = (head.nextReminder ?? 0) + 1;
  putReminder(entity, sink, {
    name,
    index: head.nextReminder,
    method,
    args,
    atMs,
    everyMs: everyMs === undefined ? undefined : Math.max(1000, everyMs),
    cron,
    zone,
  });
}

function putReminder(entity: Entity, sink: Sink, reminder: ReminderRow): void {
  entity.reminders.set(reminder.name, reminder);
  sink.changes.put(rowKeys.reminder(entity.key, reminder.name), encodeRow(reminder));
  addSystemTimer(entity, sink, systemTimers.reminder(reminder.index), reminder.atMs);
  sink.changes.touch(entity);
}

function forgetReminder(entity: Entity, sink: Sink, name: string): void {
  const reminder = entity.reminders.get(name);
  if (reminder === undefined) return;
  entity.reminders.delete(name);
  sink.changes.delete(rowKeys.reminder(entity.key, name));
  removeSystemTimer(entity, sink, systemTimers.reminder(reminder.index), reminder.atMs);
}

/** A reminder's time has come: its call goes into the mailbox, and the next time is set. */
export function fireReminder(entity: Entity, sink: Sink, timerId: number, atMs: number): void {
  for (const reminder of [...entity.reminders.values()]) {
    if (systemTimers.reminder(reminder.index) !== timerId || reminder.atMs !== atMs) continue;
    forgetReminder(entity, sink, reminder.name);
    if (entity.mail.length >= mailMax) {
      putReminder(entity, sink, { ...reminder, atMs: sink.nowMs + 1000 });
      return;
    }
    const { method, args, name } = reminder;
    const prefix = `.reminder/${name}/`;
    // One that waits already stands for this one too: a stopped actor's mailbox stays small.
    if (!entity.mail.some(({ callId }) => callId.startsWith(prefix))) {
      const callId = `${prefix}${reminder.index}.${atMs}`;
      acceptCall(entity, sink, { method, args, callId, isRemembered: false });
    }
    const nextMs = nextReminderMs(reminder, sink);
    if (nextMs !== undefined) putReminder(entity, sink, { ...reminder, atMs: nextMs });
  }
}

/** Times that passed while nobody looked are one call, not many. */
function nextReminderMs(
  { atMs, everyMs, cron, zone }: ReminderRow,
  sink: Sink,
): number | undefined {
  if (cron !== undefined) return sink.nextCron(cron, zone, sink.nowMs);
  if (everyMs === undefined) return undefined;
  return atMs + everyMs * Math.max(1, Math.ceil((sink.nowMs - atMs + 1) / everyMs));
}

/** Removes the timers that a deleted actor leaves. */
export function dropTimers(entity: Entity, sink: Sink): void {
  for (const name of [...entity.reminders.keys()]) forgetReminder(entity, sink, name);
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

/** The actor is being deleted: whoever waits for it is told so. */
export function refuseCalls(entity: Entity, sink: Sink): void {
  const head = actorHead(entity);
  const outcome = failed(hostError("actor-not-found", `${nameOf(entity.key)} was deleted`));
  for (const call of [head.turn, ...(head.nested ?? []), ...entity.mail]) {
    if (call === undefined) continue;
    answer(sink, call.replyTo, outcome);
    sink.replied(entity, call.callId, outcome);
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
