/**
 * The commands that runs and actors share, applied to their entity. Every message that
 * leaves an entity is made here.
 */
import type { ActorRef, Command, Encoded, UnreadSignal } from "../guest/protocol.ts";
import { SporeError, unreachable } from "./errors.ts";
import { askForToken, awaitEvent, dropEvent } from "./events.ts";
import { encodeRow, type ReplyTo, rowKeys, type SignalRow } from "./format.ts";
import { actorKey, checkId, type EntityKey, nameOf, runKey, tenantOf } from "./ids.ts";
import { addPending, pushInput, removePending, replyTo } from "./machine.ts";
import { failed, hostError, okEncoded } from "./outcomes.ts";
import { addHostEvent, type Entity, type Sink, traceOf } from "./state.ts";

/** Unread signals that a run may hold before senders get `too-many-messages`. */
export const signalsMax = 10_000;

/** Commands that only one kind of entity may give. */
type OwnCommand =
  | "reply"
  | "accept"
  | "complete"
  | "continueAsNew"
  | "tags"
  | "state"
  | "turned"
  | "remind"
  | "forgetReminder";

export type CommonCommand = Exclude<Command, { kind: OwnCommand }>;

export function applyCommon(entity: Entity, sink: Sink, command: CommonCommand): void {
  const { head } = entity;
  // An id is given once, or two results would come for it: a forged guest.
  if ("id" in command && command.kind !== "drop" && entity.pending.has(command.id)) return;
  switch (command.kind) {
    case "timer":
      addPending(entity, sink, command.id, { kind: "timer", atMs: command.atMs });
      return;
    case "fetch":
      addPending(entity, sink, command.id, { kind: "fetch", request: command.request });
      sink.perform(entity, command.id);
      return;
    case "put":
      addPending(entity, sink, command.id, { kind: "put", value: command.value });
      sink.perform(entity, command.id);
      return;
    case "assemble":
      addPending(entity, sink, command.id, {
        kind: "assemble",
        pieces: command.pieces,
        size: command.size,
      });
      sink.perform(entity, command.id);
      return;
    case "get":
      addPending(entity, sink, command.id, {
        kind: "get",
        hash: command.hash,
        range: command.range,
        ...(command.isEncoded === true ? { isEncoded: true } : {}),
      });
      sink.perform(entity, command.id);
      return;
    case "wait": {
      const signal = takeSignal(entity, sink, command.signal);
      if (signal === undefined) {
        addPending(entity, sink, command.id, { kind: "wait", signal: command.signal });
      } else {
        resolveWait(entity, sink, command.id, signal);
      }
      return;
    }
    case "event":
      awaitEvent(entity, sink, command);
      return;
    case "token":
      askForToken(entity, sink, command);
      return;
    case "unread":
      takeBackUnread(entity, sink, command.signals);
      return;
    case "drop":
      dropEvent(entity, sink, command.id);
      if (removePending(entity, sink, command.id) === undefined) {
        returnSignals(entity, sink, (id) => id === command.id);
      }
      return;
    case "start":
      startOther(entity, sink, command);
      return;
    case "outcome":
      ask(entity, sink, command.id, `outcome of ${command.runId}`, (to) => ({
        kind: "watch",
        to: runKey(tenantOf(entity.key), checkId(command.runId, "run")),
        replyTo: to,
      }));
      return;
    case "describe":
      ask(entity, sink, command.id, `news of run ${command.runId}`, (to) => ({
        kind: "describe",
        to: runKey(tenantOf(entity.key), checkId(command.runId, "run")),
        replyTo: to,
      }));
      return;
    case "cancelRun":
      ask(entity, sink, command.id, `run ${command.runId}`, (to) => ({
        kind: "cancel",
        to: runKey(tenantOf(entity.key), checkId(command.runId, "run")),
        reason: command.reason,
        isTermination: false,
        replyTo: to,
      }));
      return;
    case "signal":
      ask(entity, sink, command.id, `signal ${command.name}`, (to) => ({
        kind: "signal",
        to:
          command.actor === undefined
            ? runKey(tenantOf(entity.key), checkId(command.runId, "run"))
            : keyOfActor(entity, command.actor),
        name: command.name,
        value: command.value,
        replyTo: to,
      }));
      return;
    case "call":
      ask(entity, sink, command.id, `actor ${command.actor.type}/${command.actor.key}`, (to) => ({
        kind: "call",
        to: keyOfActor(entity, command.actor),
        method: command.method,
        args: command.args,
        create: command.create,
        component: head.component,
        isOneWay: command.oneWay === true,
        ...(command.oneWay === true ? {} : { chain: chainOf(entity) }),
        caller: nameOf(entity.key),
        ...traced(entity),
        replyTo: to,
      }));
      return;
    case "publish":
      addHostEvent(entity, sink, "published", { key: command.key, value: command.value });
      return;
    case "log":
      addHostEvent(entity, sink, "log", {
        level: command.level,
        message: command.message,
        ...(command.step === undefined ? {} : { step: command.step }),
      });
      sink.log(entity, command.level, command.message);
      return;
    default:
      unreachable(command);
  }
}

function keyOfActor(entity: Entity, { type, key }: ActorRef): EntityKey {
  return actorKey(tenantOf(entity.key), checkId(type, "actor type"), checkId(key, "actor key"));
}

/**
 * The entities that wait for what this one asks, itself last. Of a re-entrant actor all that
 * wait for any of its calls: which of these asked can't be told.
 */
function chainOf(entity: Entity): readonly string[] {
  const { head } = entity;
  const calls = head.kind === "actor" ? [head.turn, ...(head.nested ?? [])] : [];
  const before = new Set(calls.flatMap((call) => call?.chain ?? []));
  before.delete(nameOf(entity.key));
  return [...before, nameOf(entity.key)];
}

/** Registers the command and sends its message, or answers at once if it can't be made. */
function ask(
  entity: Entity,
  sink: Sink,
  id: number,
  what: string,
  build: (to: ReplyTo) => Parameters<Sink["send"]>[0],
): void {
  try {
    const message = build(replyTo(entity, id));
    const isAwaited = message.kind === "watch" || (message.kind === "call" && !message.isOneWay);
    const awaits = isAwaited ? { awaits: message.to } : {};
    addPending(entity, sink, id, { kind: "message", what, ...awaits });
    sink.send(message);
  } catch (error) {
    if (!(error instanceof SporeError)) throw error;
    const outcome = failed(hostError(error.code, error.message));
    pushInput(entity, sink, { kind: "resolve", id, outcome });
  }
}

function startOther(
  entity: Entity,
  sink: Sink,
  command: Extract<Command, { kind: "start" }>,
): void {
  const { head } = entity;
  const self = nameOf(entity.key);
  const runId = command.runId ?? childId(self, head.life, command.id);
  ask(entity, sink, command.id, `start of ${runId}`, (to) => ({
    kind: "start",
    to: runKey(tenantOf(entity.key), checkId(runId, "run")),
    start: {
      name: command.name ?? "",
      args: command.args,
      root: command.root,
      component: head.component,
      parent: command.child === undefined ? undefined : self,
      rootRun:
        command.child === undefined
          ? undefined
          : ((head.kind === "run" ? head.root : undefined) ?? self),
      parentClose: command.child,
      options: command.options,
      ...traced(entity),
    },
    replyTo: to,
  }));
  if (head.kind === "run" && command.child !== undefined && command.child !== "abandon") {
    head.children = [...head.children, `${command.child} ${runId}`];
  }
}

function traced(entity: Entity): { readonly trace?: string } {
  const trace = traceOf(entity);
  return trace === undefined ? {} : { trace };
}

/** Derived, so that a repetition after a crash asks for the same child. */
function childId(parent: string, life: number, id: number): string {
  const suffix = `.${life.toString(36)}.${id}`;
  const name = parent.replaceAll("/", ":");
  if (name.length + suffix.length <= runIdCharsMax) return name + suffix;
  // Two long names may begin alike.
  const mark = `~${hashOf(name).toString(36)}`;
  return name.slice(0, runIdCharsMax - suffix.length - mark.length) + mark + suffix;
}

const runIdCharsMax = 200;

/** FNV-1a. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

export function acceptSignal(entity: Entity, sink: Sink, name: string, value: Encoded): void {
  const { head } = entity;
  const wait = waitFor(entity, name);
  if (wait === undefined && entity.signals.length >= signalsMax) {
    throw new SporeError(
      "too-many-messages",
      `run ${nameOf(entity.key)} has ${signalsMax} unread signals`,
      { hint: "Let the run read some, then send again." },
    );
  }
  addHostEvent(entity, sink, "signal.received", { name });
  const row: SignalRow = { index: head.nextSignal++, name, value };
  if (wait === undefined) {
    sink.notify(entity);
    entity.signals.push(row);
    sink.changes.putFresh(rowKeys.signal(entity.key, row.index), () => encodeRow(row));
    return;
  }
  removePending(entity, sink, wait);
  resolveWait(entity, sink, wait, row);
}

/** Signals that a guest held and didn't read go back to where they were (I4). */
function takeBackUnread(entity: Entity, sink: Sink, unread: readonly UnreadSignal[]): void {
  for (const { name, index, value } of unread) {
    // Only what it was given can come back.
    const isKnown = Number.isSafeInteger(index) && index > 0 && index < entity.head.nextSignal;
    if (!isKnown || entity.signals.some((signal) => signal.index === index)) continue;
    const row: SignalRow = { name, index, value };
    entity.signals.push(row);
    sink.changes.put(rowKeys.signal(entity.key, index), () => encodeRow(row));
  }
  entity.signals.sort((left, right) => left.index - right.index);
  sink.changes.touch(entity);
}

/** The oldest pending wait for a signal of that name. */
function waitFor(entity: Entity, name: string): number | undefined {
  for (const [id, pending] of entity.pending) {
    if (pending.kind === "wait" && pending.signal === name) return id;
  }
  return undefined;
}

function resolveWait(entity: Entity, sink: Sink, id: number, row: SignalRow): void {
  const signal = { name: row.name, index: row.index };
  pushInput(entity, sink, { kind: "resolve", id, outcome: okEncoded(row.value), signal });
}

function takeSignal(entity: Entity, sink: Sink, name: string): SignalRow | undefined {
  const at = entity.signals.findIndex((signal) => signal.name === name);
  const signal = entity.signals[at];
  if (signal === undefined) return undefined;
  entity.signals.splice(at, 1);
  sink.changes.delete(rowKeys.signal(entity.key, signal.index));
  return signal;
}

/**
 * Signals that were on their way to waits which were given up meanwhile: they go back to
 * where they were, before younger ones (I4).
 */
export function returnSignals(
  entity: Entity,
  sink: Sink,
  isGivenUp: (waitId: number) => boolean,
): void {
  const kept: Entity["inputs"] = [];
  const returned = new Set<string>();
  for (const item of entity.inputs) {
    const { input } = item;
    const isReturned =
      input.kind === "resolve" &&
      input.signal !== undefined &&
      input.outcome.kind === "ok" &&
      isGivenUp(input.id);
    if (!isReturned) {
      kept.push(item);
      continue;
    }
    sink.changes.delete(rowKeys.input(entity.key, item.index));
    const row: SignalRow = { ...input.signal, value: input.outcome.value };
    entity.signals.push(row);
    sink.changes.put(rowKeys.signal(entity.key, row.index), () => encodeRow(row));
    returned.add(row.name);
  }
  if (returned.size === 0) return;
  entity.inputs = kept;
  entity.signals.sort((left, right) => left.index - right.index);
  sink.changes.touch(entity);
  // A wait that began before the other was given up.
  for (const name of returned) {
    for (let id = waitFor(entity, name); id !== undefined; id = waitFor(entity, name)) {
      if (isGivenUp(id)) break;
      const signal = takeSignal(entity, sink, name);
      if (signal === undefined) break;
      removePending(entity, sink, id);
      resolveWait(entity, sink, id, signal);
    }
  }
}
