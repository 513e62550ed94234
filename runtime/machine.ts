/**
 * What runs and actors have in common: a machine that takes inputs in activations and
 * answers with commands. Pure transitions; nothing here awaits.
 *
 * Invariants:
 * - M1 An activation's inputs leave the inbox and enter the journal in one transition, so
 *   each is delivered exactly once (I4).
 * - M2 `applied` rises in the same transition that applies the commands: after a crash an
 *   activation with `applied < version` is computed again and its commands applied once.
 * - M3 A resolve for a command that isn't pending (dropped, or of an earlier life) is
 *   ignored.
 */
import { decode, encode } from "../guest/cbor.ts";
import type {
  Activation,
  Command,
  Encoded,
  ErrorValue,
  Input,
  Outcome,
} from "../guest/protocol.ts";
import { assert } from "./errors.ts";
import {
  type CallRow,
  encodeRow,
  type JournalRow,
  type MachineHead,
  type PastRow,
  type Pending,
  type ReplyTo,
  rowKeys,
} from "./format.ts";
import { hashOfName, refsIn } from "./refs.ts";
import type { Entity, Sink } from "./state.ts";
import { ownStored } from "./stored.ts";

/**
 * Of one life of a run: bytes of activations that are kept to replay it. A run that
 * has had more goes on as ever, but can't be forked or moved any more.
 */
export const pastBytesMax = 8 * 1024 * 1024;
/** What an activation counts besides its inputs, so that they are not too many: some 20,000. */
const pastItemBytes = 384;
/** Inputs delivered in one activation. */
export const inputsMax = 1000;
/**
 * Step bodies that begin in one activation: bounds the work between two commits, and the
 * garbage in guest memory, which images contain (measured for a run parked after 10,000
 * steps: 122 KB with 256 bodies at once, 29 KB with 32).
 */
export const stepsMax = 32;
/**
 * Lives are counted on from the moment of birth: an id may be used again after a deletion,
 * and answers, children and random numbers of the former owner of the id must not be taken
 * for the new one's. Room for 256 lives in a millisecond.
 */
function firstLife(nowMs: number): number {
  return nowMs * 256 + 1;
}

/** A machine that has done nothing yet. */
export function newMachine(component: string, nowMs: number): MachineHead {
  return {
    component,
    version: 0,
    applied: 0,
    imageVersion: 0,
    imageBytes: 0,
    lastNowMs: nowMs,
    life: firstLife(nowMs),
    nextInput: 1,
    nextHistory: 0,
    nextSignal: 1,
  };
}

/** Calls and message ids remembered per entity to answer a repetition. */
export const callsRemembered = 256;

export function pushInput(entity: Entity, sink: Sink, input: Input): void {
  const index = entity.head.nextInput++;
  entity.inputs.push({ index, input });
  sink.changes.putFresh(rowKeys.input(entity.key, index), () => encodeRow(input));
  for (const value of valuesOf(input)) {
    for (const name of refsIn(value)) hold(entity, sink, name);
    const own = ownStored(value);
    if (own !== undefined) hold(entity, sink, own);
  }
  sink.changes.touch(entity);
}

/**
 * A guest's memory is the one place where nobody can look for references, so what gets into it
 * is written down beside it: a run holds that until it is deleted, an actor until its turn is
 * over (collector.ts).
 */
export function hold(entity: Entity, sink: Sink, name: string): void {
  const { head } = entity;
  const hash = hashOfName(name);
  sink.changes.put(rowKeys.hold(entity.key, hash), new Uint8Array(0));
  if (head.kind !== "actor" || head.holds?.includes(hash)) return;
  head.holds = [...(head.holds ?? []), hash];
}

function letGo(entity: Entity, sink: Sink): void {
  const { head } = entity;
  if (head.kind !== "actor") return;
  for (const hash of head.holds ?? []) sink.changes.delete(rowKeys.hold(entity.key, hash));
  head.holds = undefined;
}

/** What user code gets to see of an input, encoded. */
function valuesOf(input: Input): readonly Encoded[] {
  switch (input.kind) {
    case "start":
    case "update":
    case "query":
      return [input.args];
    case "turn":
      return input.state === undefined ? [input.args] : [input.args, input.state];
    case "graph":
      return [input.root];
    case "resolve":
      return input.outcome.kind === "ok" ? [input.outcome.value] : detailsOf(input.outcome.error);
    default:
      return [];
  }
}

function detailsOf(error: ErrorValue): readonly Encoded[] {
  const details: Encoded[] = [];
  for (let at: ErrorValue | undefined = error; at !== undefined; at = at.cause) {
    if (at.details !== undefined) details.push(at.details);
  }
  return details;
}

export interface Begun {
  readonly activation: Uint8Array;
  /** Journal before this activation. */
  readonly journal: readonly JournalRow[];
  /** Version of the memory before this activation. */
  readonly version: number;
}

/**
 * Moves the waiting inputs into the journal as the next activation (M1). `nowMs` is given for
 * one that was computed ahead: what it was told then.
 */
export function beginActivation(entity: Entity, sink: Sink, nowMs = sink.nowMs): Begun {
  const { head } = entity;
  assert(!entity.isActive, `${entity.key} has one activation at a time`);
  assert(head.applied === head.version, `${entity.key} has applied its last activation`);
  const taken = entity.inputs.splice(0, inputsNow(entity));
  assert(taken.length > 0, `${entity.key} has inputs`);
  for (const { index } of taken) sink.changes.delete(rowKeys.input(entity.key, index));
  head.lastNowMs = Math.max(head.lastNowMs, nowMs);
  const inputs = taken.map(({ input }) => input);
  const activation = encodeActivation(entity, head.lastNowMs, inputs);
  const journal = entity.journal.slice();
  const version = head.version;
  const row: JournalRow = { activation };
  entity.journal.push(row);
  entity.journalBytes += activation.length;
  head.version += 1;
  sink.changes.putFresh(journalKey(entity), () => encodeRow(row));
  entity.isActive = true;
  sink.changes.touch(entity);
  return { activation, journal, version };
}

/**
 * How many inputs the next activation takes. A cancellation comes alone: it rejects what the
 * guest waits for, and that is known only when it has come to rest after what was before.
 */
function inputsNow({ head, inputs }: Entity): number {
  if (head.kind === "run" && head.resumeVersion === head.version) return 1;
  const cancelAt = inputs.findIndex(({ input }) => input.kind === "cancel");
  return cancelAt < 0 ? inputsMax : Math.min(inputsMax, Math.max(1, cancelAt));
}

export function encodeActivation(
  entity: Entity,
  nowMs: number,
  inputs: readonly Input[],
): Uint8Array {
  const value: Activation = { nowMs, stepsMax: stepsMaxOf(entity), inputs };
  return encode(value);
}

function stepsMaxOf({ head }: Entity): number {
  if (head.kind !== "run" || head.careful === undefined) return stepsMax;
  return head.careful === "find" ? 0 : 1;
}

/**
 * Takes the last activation out of the journal, as if it had not been delivered: its memory
 * is gone or not wanted. Returns its inputs; whoever calls decides which to deliver again.
 */
export function takeBackActivation(entity: Entity, sink: Sink): readonly Input[] {
  const { head } = entity;
  const last = entity.journal.pop();
  assert(last !== undefined, `${entity.key} has a journal`);
  if (last.drainedHash !== undefined) forgetLast(entity, sink);
  sink.changes.delete(rowKeys.journal(entity.key, entity.journal.length + 1));
  entity.journalBytes -= last.activation.length;
  head.version -= 1;
  head.applied = head.version;
  sink.changes.touch(entity);
  const { inputs } = decode(last.activation) as Activation; // encoded by beginActivation
  return inputs;
}

/** Puts inputs before those that wait already. */
export function pushInputsFirst(entity: Entity, sink: Sink, inputs: readonly Input[]): void {
  const later = entity.inputs;
  entity.inputs = [];
  for (const { index } of later) sink.changes.delete(rowKeys.input(entity.key, index));
  for (const input of inputs) pushInput(entity, sink, input);
  for (const { input } of later) pushInput(entity, sink, input);
}

/** The last journaled activation once more, after a crash (M2). */
export function repeatActivation(entity: Entity, sink: Sink): Begun {
  const { head } = entity;
  assert(head.applied === head.version - 1, `${entity.key} has one activation to repeat`);
  const last = entity.journal.at(-1);
  assert(last !== undefined, `${entity.key} has a journal`);
  entity.isActive = true;
  sink.changes.touch(entity);
  return {
    activation: last.activation,
    journal: entity.journal.slice(0, -1),
    version: head.applied,
  };
}

/** Marks the activation as applied; the caller applies its commands in the same transition. */
export function finishActivation(
  entity: Entity,
  sink: Sink,
  result: { readonly drainedHash: number; readonly image: Uint8Array | undefined },
): void {
  const { head } = entity;
  assert(entity.isActive, `${entity.key} is active`);
  entity.isActive = false;
  const last = entity.journal.at(-1);
  assert(last !== undefined, `${entity.key} has a journal`);
  const row: JournalRow = { activation: last.activation, drainedHash: result.drainedHash };
  entity.journal[entity.journal.length - 1] = row;
  // Not fresh: its first form may be durable already.
  sink.changes.put(journalKey(entity), () => encodeRow(row));
  head.applied = head.version;
  sink.changes.touch(entity);
  const { activation } = last;
  const { drainedHash } = result;
  remember(entity, sink, { activation, drainedHash, history: head.nextHistory });
  if (result.image !== undefined) saveImage(entity, sink, result.image);
}

/**
 * Keeps what the machine was given, as long as that is not too much. As with the journal, names
 * of rows are used again: those of a life that is over are overwritten by the next.
 */
function remember(
  entity: Entity,
  sink: Sink,
  given: Pick<PastRow, "activation" | "drainedHash" | "history">,
): void {
  const { head, key } = entity;
  if (head.kind !== "run" || head.isPastCut === true) return;
  const bytes = (head.pastBytes ?? 0) + given.activation.length + pastItemBytes;
  if (bytes > pastBytesMax) {
    head.isPastCut = true;
    return;
  }
  const index = head.pastItems ?? 0;
  const row: PastRow = { life: head.pastLife ?? 0, ...given };
  sink.changes.put(rowKeys.past(key, index), () => encodeRow(row));
  head.pastItems = index + 1;
  head.pastBytes = bytes;
}

/** The last activation was taken back. */
function forgetLast({ head, key }: Entity, sink: Sink): void {
  if (head.kind !== "run" || head.isPastCut === true || head.pastItems === undefined) return;
  head.pastItems -= 1;
  sink.changes.delete(rowKeys.past(key, head.pastItems));
}

/** The machine of a run begins anew. */
export function beginNewPast({ head }: Entity): void {
  if (head.kind !== "run") return;
  head.pastLife = (head.pastLife ?? 0) + 1;
  head.pastItems = 0;
  head.pastBytes = 0;
  head.isPastCut = undefined;
  head.movedAt = undefined;
}

function saveImage(entity: Entity, sink: Sink, image: Uint8Array): void {
  dropJournal(entity, sink);
  entity.image = image;
  entity.head.imageVersion = entity.head.version;
  entity.head.imageBytes = image.length;
  sink.changes.put(rowKeys.image(entity.key), image);
  if (entity.head.kind === "run") {
    // The memory before the image can't be had again: nothing to go back to.
    entity.head.resumeVersion = undefined;
    entity.head.resumeStep = undefined;
    entity.head.resumeHistory = undefined;
  }
}

/**
 * Rows are named by their place since the image, so that the same few names are used again
 * and again: a run's rows leave no trail of deleted ones that its wake-up has to pass (I8).
 */
function journalKey(entity: Entity): string {
  return rowKeys.journal(entity.key, entity.journal.length);
}

function dropJournal(entity: Entity, sink: Sink): void {
  for (let index = 1; index <= entity.journal.length; index++) {
    sink.changes.delete(rowKeys.journal(entity.key, index));
  }
  entity.journal = [];
  entity.journalBytes = 0;
}

/** The memory is of no more use: the next activation starts from pristine memory. */
export function forgetMemory(entity: Entity, sink: Sink): void {
  const { head } = entity;
  dropJournal(entity, sink);
  if (head.imageVersion > 0) sink.changes.delete(rowKeys.image(entity.key));
  entity.image = undefined;
  head.version = 0;
  head.applied = 0;
  head.imageVersion = 0;
  head.imageBytes = 0;
  head.life += 1;
  for (const id of [...entity.pending.keys()]) removePending(entity, sink, id);
  for (const { index } of entity.inputs) sink.changes.delete(rowKeys.input(entity.key, index));
  entity.inputs = [];
  letGo(entity, sink);
  sink.changes.touch(entity);
}

// ---------------------------------------------------------------- pending commands

export function addPending(entity: Entity, sink: Sink, id: number, pending: Pending): void {
  entity.pending.set(id, pending);
  if (entity.head.kind === "run") entity.head.lastCommand = Math.max(entity.head.lastCommand, id);
  sink.changes.putFresh(rowKeys.command(entity.key, id), () => encodeRow(pending));
  sink.changes.touch(entity);
  if (pending.kind === "timer") {
    sink.changes.putFresh(rowKeys.timer(pending.atMs, entity.key, id), new Uint8Array(0));
    sink.setTimer(entity, id, pending.atMs);
  }
}

export function removePending(entity: Entity, sink: Sink, id: number): Pending | undefined {
  const pending = entity.pending.get(id);
  if (pending === undefined) return undefined;
  entity.pending.delete(id);
  // The id may be given again (another life, a rewound memory): nothing of this one may answer it.
  entity.inFlight.get(id)?.();
  entity.inFlight.delete(id);
  sink.changes.delete(rowKeys.command(entity.key, id));
  if (pending.kind === "timer") {
    sink.changes.delete(rowKeys.timer(pending.atMs, entity.key, id));
  }
  sink.changes.touch(entity);
  return pending;
}

/** A timer of the engine's own; `id` is one of `systemTimers`. */
export function addSystemTimer(entity: Entity, sink: Sink, id: number, atMs: number): void {
  sink.changes.putFresh(rowKeys.timer(atMs, entity.key, id), new Uint8Array(0));
  sink.setTimer(entity, id, atMs);
}

export function removeSystemTimer(entity: Entity, sink: Sink, id: number, atMs: number): void {
  sink.changes.delete(rowKeys.timer(atMs, entity.key, id));
}

/** A command's result arrives (M3). Returns whether it was still wanted. */
export function resolveCommand(entity: Entity, sink: Sink, id: number, outcome: Outcome): boolean {
  const pending = removePending(entity, sink, id);
  if (pending === undefined) return false;
  const isStored = pending.kind === "put" || pending.kind === "assemble";
  if (isStored && outcome.kind === "ok") {
    const { hash } = decode(outcome.value) as { hash: string }; // written by effects.ts
    hold(entity, sink, hash);
  }
  pushInput(entity, sink, { kind: "resolve", id, outcome });
  return true;
}

export function replyTo(entity: Entity, id: number): ReplyTo {
  return { key: entity.key, id, life: entity.head.life };
}

export function answer(sink: Sink, to: ReplyTo | undefined, outcome: Outcome): void {
  if (to === undefined) return;
  sink.send({ kind: "resolve", to: to.key, id: to.id, life: to.life, outcome });
}

// ---------------------------------------------------------------- seen calls

/** Remembers a call or message id, and forgets the oldest ones over the bound. */
export function rememberCall(
  entity: Entity,
  sink: Sink,
  callId: string,
  outcome: Outcome | undefined,
): void {
  const index = entity.calls.get(callId)?.index ?? nextCallIndex(entity);
  keepCall(entity, sink, outcome === undefined ? { index, callId } : { index, callId, outcome });
}

/** One that is to be answered, when its code is done with it or its run is over. */
export function rememberUpdate(entity: Entity, sink: Sink, callId: string): void {
  keepCall(entity, sink, { index: nextCallIndex(entity), callId, isUpdate: true });
}

function keepCall(entity: Entity, sink: Sink, row: CallRow): void {
  const { index, callId } = row;
  entity.calls.set(callId, row);
  sink.changes.put(rowKeys.call(entity.key, index), () => encodeRow(row));
  sink.changes.touch(entity);
  for (const [oldestId, oldest] of entity.calls) {
    if (entity.calls.size <= callsRemembered) break;
    entity.calls.delete(oldestId);
    sink.changes.delete(rowKeys.call(entity.key, oldest.index));
  }
}

/** Under which name a local client waits for an update's acceptance; no id has a space. */
export function acceptanceOf(updateId: string): string {
  return `${updateId} accepted`;
}

/** The validator let the update pass; the outcome comes later. */
export function markAccepted(entity: Entity, sink: Sink, updateId: string): void {
  const known = entity.calls.get(updateId);
  if (known === undefined || known.isAccepted === true) return;
  const row = { ...known, isAccepted: true };
  entity.calls.set(updateId, row);
  sink.changes.put(rowKeys.call(entity.key, row.index), () => encodeRow(row));
  sink.changes.touch(entity);
}

function nextCallIndex(entity: Entity): number {
  return entity.head.nextCall++;
}

export type CommandOf<K extends Command["kind"]> = Extract<Command, { kind: K }>;
