/**
 * What a message from another entity does where it arrives: one transition of the entity that
 * it is for, and an answer to its sender if that waits for one.
 */
import { encode } from "../guest/cbor.ts";
import type { Outcome } from "../guest/protocol.ts";
import {
  acceptCall,
  actorHead,
  type Call,
  createActor,
  isReturning,
  onlyReads,
  takeReturning,
  waitsForTurn,
} from "./actor.ts";
import { acceptSignal } from "./commands.ts";
import { beginProbe, takeProbe } from "./deadlock.ts";
import { assert, SporeError, unreachable } from "./errors.ts";
import type { Message, ReplyTo } from "./format.ts";
import { type EntityKey, isActorKey, nameOf } from "./ids.ts";
import { answer, resolveCommand } from "./machine.ts";
import { failed, hostError, ok } from "./outcomes.ts";
import { enter, enterNowhere, leave } from "./queue.ts";
import {
  cancel,
  createRun,
  descriptionOf,
  headOf,
  hearPlace,
  isClosed,
  keepMade,
  terminate,
  watch,
} from "./run.ts";
import { hearOutcome } from "./schedule.ts";
import { addHostEvent, type Entity, type Sink } from "./state.ts";
import { spanBelow } from "./trace.ts";

/** What a message needs of the partition to bring a new entity into the world. */
export interface Place {
  add(entity: Entity): void;
  /** Takes one away that never was. */
  withdraw(entity: Entity, sink: Sink): void;
  /** Randomness for a new run. */
  seed(): Uint8Array;
  /** Identity of a run's definition and input. */
  inputHash(start: {
    readonly name: string;
    readonly args?: Uint8Array | undefined;
    readonly root?: Uint8Array | undefined;
  }): Uint8Array;
}

export function applyMessage(
  entity: Entity | undefined,
  sink: Sink,
  message: Message,
  place: Place,
): void {
  switch (message.kind) {
    case "resolve":
      if (entity === undefined || entity.head.life !== message.life) return;
      if (entity.head.kind === "schedule") {
        hearOutcome(entity, sink, message.id, message.outcome);
      } else if (entity.pending.get(message.id)?.kind === "message") {
        // Of another kind: a forged guest gave the id twice.
        resolveCommand(entity, sink, message.id, message.outcome);
      }
      return;
    case "start":
      applyStart(entity, sink, message, place);
      return;
    case "call":
      applyCall(entity, sink, message, place);
      return;
    case "signal":
      answering(sink, message, entity, (run) => {
        if (run.head.kind === "run") assertOpen(run);
        acceptSignal(run, sink, message.name, message.value);
      });
      return;
    case "cancel":
      answering(sink, message, entity, (run) => {
        if (message.isTermination) terminate(run, sink, message.reason);
        else cancel(run, sink, message.reason);
      });
      return;
    case "watch":
      if (entity === undefined) answer(sink, message.replyTo, notFound(message.to));
      else {
        watch(entity, sink, message.replyTo);
        beginProbe(entity, sink, message.replyTo);
      }
      return;
    case "describe":
      answer(
        sink,
        message.replyTo,
        entity === undefined ? notFound(message.to) : ok(descriptionOf(entity)),
      );
      return;
    case "probe":
      if (entity !== undefined) takeProbe(entity, sink, message);
      return;
    case "made":
      if (entity !== undefined) keepMade(entity, sink, message.how, message.runId);
      return;
    case "enter":
      if (entity === undefined) enterNowhere(sink, message);
      else enter(entity, sink, message);
      return;
    case "leave":
      if (entity !== undefined) leave(entity, sink, message);
      return;
    case "place":
      if (entity !== undefined && hearPlace(entity, sink, message)) place.withdraw(entity, sink);
      return;
    default:
      unreachable(message);
  }
}

/** A refusal answers who sent the message. */
function answering(
  sink: Sink,
  { to, replyTo }: { readonly to: EntityKey; readonly replyTo?: ReplyTo | undefined },
  entity: Entity | undefined,
  act: (entity: Entity) => void,
): void {
  if (entity === undefined) {
    answer(sink, replyTo, notFound(to));
    return;
  }
  try {
    act(entity);
    answer(sink, replyTo, ok(undefined));
  } catch (error) {
    if (!(error instanceof SporeError)) throw error;
    answer(sink, replyTo, failed(hostError(error.code, error.message)));
  }
}

function applyStart(
  entity: Entity | undefined,
  sink: Sink,
  message: Extract<Message, { kind: "start" }>,
  place: Place,
): void {
  const { start, to, watcher } = message;
  const runId = nameOf(to);
  if (entity !== undefined) {
    answer(sink, message.replyTo, ok({ runId, created: false }));
    if (watcher !== undefined) watch(entity, sink, watcher);
    return;
  }
  const inputHash = place.inputHash(start);
  const seed = place.seed();
  const span = spanBelow(start.trace, place);
  const run = createRun(to, { ...start, inputHash, seed, span }, sink);
  place.add(run);
  answer(sink, message.replyTo, ok({ runId, created: true }));
  if (watcher !== undefined) watch(run, sink, watcher);
}

function applyCall(
  entity: Entity | undefined,
  sink: Sink,
  message: Extract<Message, { kind: "call" }>,
  place: Place,
): void {
  if (entity === undefined && message.create === undefined) {
    answer(
      sink,
      message.replyTo,
      failed(hostError("actor-not-found", `there is no ${nameOf(message.to)}`)),
    );
    return;
  }
  const actor = entity ?? newActor(place, message.to, message.component, message.create, sink);
  if (message.method === "") {
    answer(sink, message.replyTo, ok(undefined));
    return;
  }
  const isRead = onlyReads(actor, sink, message.method);
  if (isRead && message.isOneWay) {
    answer(sink, message.replyTo, ok(undefined)); // nobody would see what it reads
    return;
  }
  const call: Call = {
    method: message.method,
    args: message.args,
    callId: `.${actorHead(actor).nextMail}`,
    isRemembered: false,
    ...(isRead ? { isRead } : {}),
    caller: message.caller,
    chain: message.chain,
    trace: message.trace,
    ...(message.isOneWay || message.replyTo === undefined ? {} : { replyTo: message.replyTo }),
  };
  if (!isRead && message.chain !== undefined && isReturning(actor, message.chain)) {
    actorHead(actor).nextMail += 1; // its call id is used up
    takeReturning(actor, sink, call, [...message.chain, nameOf(message.to)]);
    return;
  }
  try {
    const mail = acceptCall(actor, sink, call);
    if (message.isOneWay) answer(sink, message.replyTo, ok(undefined));
    else if (call.replyTo !== undefined && mail !== undefined && waitsForTurn(actor, mail)) {
      beginProbe(actor, sink, call.replyTo);
    }
  } catch (error) {
    if (!(error instanceof SporeError)) throw error;
    answer(sink, message.replyTo, failed(hostError(error.code, error.message, true)));
    if (!message.isOneWay) return;
    // Its sender may be past caring: this is where it can be seen.
    const { method, caller } = message;
    addHostEvent(actor, sink, "call.refused", { method, caller, error: error.code });
  }
}

/** A new actor whose first call is its constructor. */
export function newActor(
  place: Pick<Place, "add">,
  key: EntityKey,
  component: string,
  create: Uint8Array | undefined,
  sink: Sink,
): Entity {
  assert(isActorKey(key), `${key} is an actor's key`);
  const actor = createActor(key, component, sink);
  place.add(actor);
  acceptCall(actor, sink, {
    method: "",
    args: create ?? encode([]),
    callId: ".0",
    isRemembered: false,
  });
  return actor;
}

function assertOpen(entity: Entity): void {
  const head = headOf(entity);
  if (!isClosed(head.status)) return;
  throw new SporeError("run-closed", `run ${nameOf(entity.key)} is ${head.status}`);
}

function notFound(key: EntityKey): Outcome {
  const [code, what] = isActorKey(key) ? ["actor-not-found", "actor"] : ["run-not-found", "run"];
  return failed(hostError(code, `there is no ${what} ${nameOf(key)}`));
}
