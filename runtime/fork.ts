/**
 * Pure part of forking and moving a run: what a host knows of a machine after the first part of
 * its past, a new run that goes on from there, and a run that goes on with other code.
 */
import type { Activation, Command, Drained, Encoded, Input } from "../guest/protocol.ts";
import { applyCommon } from "./commands.ts";
import { assert } from "./errors.ts";
import {
  type Admission,
  encodeRow,
  type HistoryItem,
  type HistoryRow,
  type JournalRow,
  type PastRow,
  type PublishedRow,
  rowKeys,
  type SignalRow,
} from "./format.ts";
import type { EntityKey } from "./ids.ts";
import { hold, pushInput } from "./machine.ts";
import { forEachHash } from "./refs.ts";
import { headOf, mergedTags, newRunHead, passQueues, runInfo, tellOrigin } from "./run.ts";
import { addHostEvent, type Entity, newEntity, type Sink } from "./state.ts";

/** What a machine waits for. */
export type Asked = Extract<
  Command,
  {
    readonly kind:
      | "timer"
      | "fetch"
      | "wait"
      | "event"
      | "token"
      | "start"
      | "outcome"
      | "cancelRun"
      | "signal"
      | "call"
      | "put"
      | "assemble"
      | "get";
  }
>;

/** What follows for the host from the activations so far, as plain data. */
export interface Stand {
  /** Commands that have no answer yet, in order. */
  readonly asked: readonly Asked[];
  readonly published: ReadonlyMap<string, Encoded>;
  readonly tags: Readonly<Record<string, string>>;
  readonly queries: readonly string[];
  readonly updates: readonly string[];
  readonly waitingFor?: string | undefined;
  readonly lastCommand: number;
  readonly nowMs: number;
}

/** Follows a machine's activations as a host does, but does nothing of what they ask for. */
export class Standing {
  /** Commands that have no answer yet. */
  readonly asked = new Map<number, Asked>();
  /** Indices of the signals that the machine has been given. */
  readonly taken = new Set<number>();
  readonly published = new Map<string, Encoded>();
  tags: Readonly<Record<string, string>>;
  queries: readonly string[] = [];
  updates: readonly string[] = [];
  waitingFor: string | undefined;
  lastCommand = 0;
  nowMs = 0;

  constructor(tags: Readonly<Record<string, string>>) {
    this.tags = tags;
  }

  stand(): Stand {
    const { published, tags, queries, updates, waitingFor, lastCommand, nowMs } = this;
    const asked = [...this.asked.values()];
    return { asked, published, tags, queries, updates, waitingFor, lastCommand, nowMs };
  }

  apply(activation: Activation, drained: Drained): void {
    this.nowMs = activation.nowMs;
    for (const input of activation.inputs) {
      if (input.kind !== "resolve") continue;
      this.asked.delete(input.id);
      if (input.signal !== undefined) this.taken.add(input.signal.index);
    }
    for (const command of drained.commands) this.#apply(command);
    if (drained.handlers !== undefined) {
      this.queries = drained.handlers.queries;
      this.updates = drained.handlers.updates;
    }
    this.waitingFor = drained.waitingFor;
  }

  #apply(command: Command): void {
    if ("id" in command && typeof command.id === "number") {
      this.lastCommand = Math.max(this.lastCommand, command.id);
    }
    switch (command.kind) {
      case "timer":
      case "fetch":
      case "wait":
      case "event":
      case "token":
      case "start":
      case "outcome":
      case "cancelRun":
      case "signal":
      case "call":
      case "put":
      case "assemble":
      case "get":
        this.asked.set(command.id, command);
        return;
      case "drop":
        this.asked.delete(command.id);
        return;
      case "publish":
        this.published.set(command.key, command.value);
        return;
      case "tags":
        this.tags = mergedTags(this.tags, command.tags);
        return;
      default:
        // Answers, log lines: what was said is said. The rest ends a run, or is an actor's.
        return;
    }
  }
}

/** A run that goes on from where another one was before a step. */
export interface ForkPlan {
  readonly name: string;
  readonly component: string;
  readonly inputHash: Uint8Array;
  readonly metadata: Encoded | undefined;
  readonly seed: Uint8Array;
  readonly forkedFrom: { readonly id: string; readonly step: string };
  readonly version: number;
  readonly image: Uint8Array | undefined;
  readonly journal: readonly JournalRow[];
  readonly stand: Stand;
  /** Answers that the other run has had since, by the fork's command. */
  readonly answers: ReadonlyMap<number, Input>;
  /** Signals that the other run has had, and its machine not yet, oldest first. */
  readonly signals: readonly SignalRow[];
  readonly nextSignal: number;
  /** The queues that the other run has passed: the fork is one more run. */
  readonly admission?: Admission | undefined;
  readonly retentionMs?: number | undefined;
  /** The other run's events up to here. */
  readonly history: readonly HistoryItem[];
  readonly past: readonly Omit<PastRow, "life">[];
}

const itemsPerRow = 256;

/** Makes the run. What the prefix has asked for and done isn't done again. */
export function createFork(key: EntityKey, plan: ForkPlan, sink: Sink): Entity {
  const { stand, image, journal, version } = plan;
  const head = {
    ...newRunHead(plan, sink.nowMs),
    forkedFrom: plan.forkedFrom,
    retentionMs: plan.retentionMs,
    tags: stand.tags,
    version,
    applied: version,
    imageVersion: version - journal.length,
    imageBytes: image?.length ?? 0,
    lastNowMs: Math.max(sink.nowMs, stand.nowMs),
    queries: stand.queries,
    updates: stand.updates,
    waitingFor: stand.waitingFor,
    lastCommand: stand.lastCommand,
    nextSignal: plan.nextSignal,
  };
  assert(image !== undefined || journal.length === version, `${key} has the memory that it needs`);
  const entity = newEntity(key, head, sink.nowMs);
  takeMemory(entity, sink, plan);
  takeHistory(entity, sink, plan);
  takePast(entity, sink, plan.past);
  // What it was given is in its memory, which nobody can search (collector.ts).
  for (const { activation } of plan.past) {
    forEachHash(activation, (hash) => hold(entity, sink, hash));
  }
  head.published = [...stand.published.keys()];
  for (const [name, value] of stand.published) {
    const row: PublishedRow = { atMs: head.lastNowMs, value };
    sink.changes.put(rowKeys.published(key, name), () => encodeRow(row));
  }
  for (const row of plan.signals) {
    entity.signals.push(row);
    sink.changes.put(rowKeys.signal(key, row.index), () => encodeRow(row));
  }
  tellOrigin(entity, sink, "fork", plan.forkedFrom.id);
  if (plan.admission === undefined) {
    goOn(entity, sink, plan);
  } else {
    passQueues(entity, sink, plan.admission);
    // What it asks the world for goes out when they have let it through.
    goOn(entity, { ...sink, perform: () => undefined }, plan);
  }
  return entity;
}

/** The guest learns who it is now, and what it waits for is asked for, or answered as it was. */
function goOn(entity: Entity, sink: Sink, { seed, stand, answers }: ForkPlan): void {
  pushInput(entity, sink, { kind: "run", run: runInfo(entity, seed) });
  for (const command of stand.asked) {
    const answer = answers.get(command.id);
    // A signal that was taken later lies among the unread ones, in its place.
    const isOwn = command.kind === "timer" || command.kind === "wait";
    if (answer === undefined || isOwn) applyCommon(entity, sink, command);
    else pushInput(entity, sink, answer);
  }
  pushInput(entity, sink, { kind: "continue" });
}

function takeMemory(
  entity: Entity,
  sink: Sink,
  { image, journal }: Pick<ForkPlan, "image" | "journal">,
): void {
  const { key } = entity;
  entity.image = image;
  if (image !== undefined) sink.changes.put(rowKeys.image(key), image);
  entity.journal = [...journal];
  entity.journalBytes = 0;
  for (const [at, row] of journal.entries()) {
    entity.journalBytes += row.activation.length;
    sink.changes.put(rowKeys.journal(key, at + 1), () => encodeRow(row));
  }
  sink.changes.touch(entity);
}

function takeHistory(entity: Entity, sink: Sink, plan: ForkPlan): void {
  const { name, component, forkedFrom } = plan;
  const started: HistoryItem = {
    kind: "host",
    type: "run.started",
    atMs: sink.nowMs,
    data: { name, component, forkedFrom: forkedFrom.id, step: forkedFrom.step },
  };
  const items = [started, ...plan.history];
  const head = headOf(entity);
  for (let first = 0; first < items.length; first += itemsPerRow) {
    const events = items.slice(first, first + itemsPerRow);
    const row: HistoryRow = { atMs: sink.nowMs, events };
    sink.changes.put(rowKeys.history(entity.key, first), () => encodeRow(row));
  }
  head.nextHistory = items.length;
  head.records = items.filter(({ kind }) => kind === "record").length;
}

function takePast(entity: Entity, sink: Sink, past: ForkPlan["past"]): void {
  const head = headOf(entity);
  for (const [index, given] of past.entries()) {
    const row: PastRow = { life: 0, ...given };
    sink.changes.put(rowKeys.past(entity.key, index), () => encodeRow(row));
  }
  head.pastItems = past.length;
  head.pastBytes = past.reduce((sum, { activation }) => sum + activation.length, 0);
}

export interface MovePlan {
  readonly component: string;
  readonly seed: Uint8Array;
  readonly image: Uint8Array | undefined;
  readonly journal: readonly JournalRow[];
  readonly version: number;
}

/** Goes on with other code, whose machine after the same activations is in the plan. */
export function moveRun(entity: Entity, sink: Sink, plan: MovePlan): void {
  const head = headOf(entity);
  const from = head.component;
  assert(!entity.isActive, `${entity.key} is quiet`);
  assert(head.applied === plan.version, `${entity.key} has had these activations`);
  // One that its host couldn't finish is delivered again when the run is resumed.
  const unfinished = head.applied < head.version ? entity.journal.slice(-1) : [];
  for (let at = 1; at <= entity.journal.length; at++) {
    sink.changes.delete(rowKeys.journal(entity.key, at));
  }
  if (entity.image !== undefined && plan.image === undefined) {
    sink.changes.delete(rowKeys.image(entity.key));
  }
  takeMemory(entity, sink, { image: plan.image, journal: [...plan.journal, ...unfinished] });
  head.component = plan.component;
  head.imageVersion = plan.version - plan.journal.length;
  head.imageBytes = plan.image?.length ?? 0;
  head.movedAt = head.pastItems ?? 0;
  addHostEvent(entity, sink, "run.moved", { from, to: plan.component });
  if (plan.version > 0) {
    pushInput(entity, sink, { kind: "run", run: runInfo(entity, plan.seed) });
    return;
  }
  // It hasn't begun: its first input names the code.
  for (const [at, { index, input }] of entity.inputs.entries()) {
    if (input.kind !== "start" && input.kind !== "graph") continue;
    const moved = { ...input, run: { ...input.run, component: plan.component } };
    entity.inputs[at] = { index, input: moved };
    sink.changes.put(rowKeys.input(entity.key, index), () => encodeRow(moved));
  }
}
