/**
 * A partition's entities in memory and the row changes that make them durable.
 *
 * Owns: the shape of a resident entity, how it is read from its rows, and `Changes`, the
 * batch that the next commit writes. Doesn't own: what an entity does (run.ts, actor.ts)
 * or when a batch is committed (partition.ts).
 *
 * Invariants:
 * - S1 A transition changes the entity and stages its rows synchronously, in one piece:
 *   no commit can hold half of it.
 * - S2 Heads, history and markers are encoded when the batch is frozen, so an entity that
 *   changes ten times between two commits is written once.
 */
import type { Definition, Encoded, Input, Outcome } from "../guest/protocol.ts";
import { assert } from "./errors.ts";
import {
  actorEventsMax,
  type CallRow,
  decodeRow,
  type EventRow,
  encodeRow,
  type Head,
  type HistoryItem,
  type HistoryRow,
  hex,
  indexOfName,
  indexOfTag,
  isEffect,
  type JournalRow,
  type ListedRow,
  type Mail,
  type MemberRow,
  type Message,
  type Pending,
  type ReminderRow,
  rowKeys,
  type SignalRow,
  type WatcherRow,
} from "./format.ts";
import { type EntityKey, isActorKey, nameOf, tenantOf } from "./ids.ts";
import type { ActivateResult, EndedSpan } from "./ports.ts";
import { QueueMembers } from "./queue-members.ts";

/** A turn that is computed before its time; it counts only if it is given just that. */
export interface Ahead {
  readonly nowMs: number;
  readonly result: Promise<ActivateResult | undefined>;
}

export interface Entity {
  readonly key: EntityKey;
  head: Head;
  /** Actors: the last state that a turn left. */
  state: Encoded | undefined;
  readonly pending: Map<number, Pending>;
  /** Accepted, not yet journaled. */
  inputs: { readonly index: number; readonly input: Input }[];
  signals: SignalRow[];
  mail: Mail[];
  /** Calls, updates and message ids already seen, oldest first. */
  readonly calls: Map<string, CallRow>;
  watchers: WatcherRow[];
  readonly reminders: Map<string, ReminderRow>;
  /** Queues: who waits and who runs. */
  members: QueueMembers | undefined;
  /** Open events of earlier lives, by serial, oldest first. */
  readonly events: Map<number, EventRow>;
  /** Last executed `seq` of each client session. */
  readonly sessions: Map<string, number>;
  image: Uint8Array | undefined;
  /** Activations since the image, oldest first. */
  journal: JournalRow[];

  // Volatile from here on.
  /** Of the activations in the journal, together. */
  journalBytes: number;
  isActive: boolean;
  isDeleted: boolean;
  /** History that the next commit writes. */
  history: HistoryItem[];
  /** Key of the listing row as last staged. */
  listedKey: string | undefined;
  /** A run's rows among those of its name and its tags. */
  indexKeys: readonly string[];
  /** What they say, as far as it was staged or read. */
  listedText: string;
  /** Component in that row. */
  listedComponent: string | undefined;
  hasAttention: boolean;
  /** Number of the last batch that holds changes of this entity. */
  dirtyIn: number;
  usedAtMs: number;
  constructorOutcome?: Outcome;
  /** Actors: the next turns, computed ahead by what the mailbox had; oldest first. */
  ahead?: Ahead[] | undefined;
  /** Actors: guest time of the last turn that was over at once. */
  turnMs?: number | undefined;
  /** Actors: reads in the mailbox that are being answered now, by their index. */
  readonly reading: Set<number>;
  /** Effects that are being performed now, each with its abort. */
  readonly inFlight: Map<number, () => void>;
  /** Run when the current activation is over (queries on a quiet memory). */
  whenQuiet: (() => void)[];
}

export function newEntity(key: EntityKey, head: Head, nowMs: number): Entity {
  return {
    key,
    head,
    state: undefined,
    pending: new Map(),
    inputs: [],
    signals: [],
    mail: [],
    calls: new Map(),
    watchers: [],
    reminders: new Map(),
    events: new Map(),
    sessions: new Map(),
    members: head.kind === "queue" ? new QueueMembers() : undefined,
    image: undefined,
    journal: [],
    journalBytes: 0,
    isActive: false,
    isDeleted: false,
    history: [],
    listedKey: undefined,
    indexKeys: [],
    listedText: "",
    listedComponent: undefined,
    hasAttention: false,
    dirtyIn: 0,
    usedAtMs: nowMs,
    reading: new Set(),
    inFlight: new Map(),
    whenQuiet: [],
  };
}

/** Reads an entity from the rows below `e/<key>/`, in key order; undefined without a head. */
export function readEntity(
  key: EntityKey,
  rows: readonly (readonly [string, Uint8Array])[],
  nowMs: number,
): Entity | undefined {
  const prefix = rowKeys.entity(key);
  const headBytes = rows.find(([rowKey]) => rowKey === rowKeys.head(key))?.[1];
  if (headBytes === undefined) return undefined;
  const entity = newEntity(key, decodeRow<Head>(rowKeys.head(key), headBytes), nowMs);
  for (const [rowKey, bytes] of rows) readRow(entity, rowKey, rowKey.slice(prefix.length), bytes);
  entity.listedKey = listedKeyOf(entity);
  entity.indexKeys = indexKeysOf(entity);
  entity.listedText = JSON.stringify(listedRowOf(entity.head));
  entity.listedComponent = entity.head.component;
  entity.hasAttention = needsAttention(entity);
  return entity;
}

function readRow(entity: Entity, rowKey: string, part: string, bytes: Uint8Array): void {
  switch (part[0]) {
    case "c":
      entity.pending.set(Number.parseInt(part.slice(2), 16), decodeRow<Pending>(rowKey, bytes));
      break;
    case "d": {
      const call = decodeRow<CallRow>(rowKey, bytes);
      entity.calls.set(call.callId, call);
      break;
    }
    case "i":
      entity.image = bytes;
      break;
    case "j": {
      const row = decodeRow<JournalRow>(rowKey, bytes);
      entity.journal.push(row);
      entity.journalBytes += row.activation.length;
      break;
    }
    case "k": {
      const event = decodeRow<EventRow>(rowKey, bytes);
      entity.events.set(event.serial, event);
      break;
    }
    case "m":
      entity.mail.push(decodeRow<Mail>(rowKey, bytes));
      break;
    case "n":
      entity.inputs.push({
        index: Number.parseInt(part.slice(2), 16),
        input: decodeRow<Input>(rowKey, bytes),
      });
      break;
    case "o":
      entity.state = bytes;
      break;
    case "q":
      entity.members?.load(Number.parseInt(part.slice(2), 16), decodeRow<MemberRow>(rowKey, bytes));
      break;
    case "r": {
      const reminder = decodeRow<ReminderRow>(rowKey, bytes);
      entity.reminders.set(reminder.name, reminder);
      break;
    }
    case "s":
      entity.signals.push(decodeRow<SignalRow>(rowKey, bytes));
      break;
    case "u":
      entity.sessions.set(part.slice(2), decodeRow<number>(rowKey, bytes));
      break;
    case "v":
      break; // what the actor was before its upgrade; read when somebody asks for it
    case "w":
      entity.watchers.push(decodeRow<WatcherRow>(rowKey, bytes));
      break;
    default:
      assert(part === "!", `row ${rowKey} is of a known kind`);
  }
}

/** Must a host look at this entity after a crash, though no input comes? */
export function needsAttention(entity: Entity): boolean {
  const { head } = entity;
  if (head.kind === "run" && head.status !== "RUNNING") return false;
  // Its timer and its messages in the outbox are all that it needs.
  if (head.kind === "schedule" || head.kind === "queue") return false;
  if (head.applied < head.version || entity.inputs.length > 0 || entity.mail.length > 0)
    return true;
  for (const pending of entity.pending.values()) {
    if (isEffect(pending)) return true;
  }
  return false;
}

function listedKeyOf(entity: Entity): string {
  const { head, key } = entity;
  const tenant = tenantOf(key);
  switch (head.kind) {
    case "run":
      return rowKeys.listed(tenant, "r", head.status, head.createdAtMs, nameOf(key));
    case "actor":
      return rowKeys.listedActors(tenant) + nameOf(key);
    case "schedule":
      return rowKeys.listedSchedules(tenant) + nameOf(key);
    case "queue":
      return rowKeys.listedQueues(tenant) + nameOf(key);
  }
}

/** One row for the name and one for each tag, in the order of the list (listing.ts). */
function indexKeysOf({ head, key }: Entity): readonly string[] {
  if (head.kind !== "run") return [];
  const tenant = tenantOf(key);
  const { status, createdAtMs, name, tags } = head;
  const listed = rowKeys
    .listed(tenant, "r", status, createdAtMs, nameOf(key))
    .slice(rowKeys.listedRuns(tenant).length);
  const indexes = Object.entries(tags).map(([tag, value]) => indexOfTag(tag, value));
  if (name !== "") indexes.push(indexOfName(name));
  return [...new Set(indexes)].map((index) => rowKeys.indexed(tenant, index, listed));
}

function listedRowOf(head: Head): ListedRow {
  return head.kind === "run"
    ? {
        name: head.name,
        component: shortComponent(head.component),
        ...(head.closedAtMs === undefined ? {} : { closedAtMs: head.closedAtMs }),
        ...(Object.keys(head.tags).length === 0 ? {} : { tags: head.tags }),
      }
    : { name: "", ...(head.kind === "actor" ? { component: shortComponent(head.component) } : {}) };
}

/** Digits of a component's id that tell it from all others of a tenant. */
const shortComponentChars = 16;

export function shortComponent(component: string): string {
  return component.slice(0, shortComponentChars);
}

// ---------------------------------------------------------------- changes

type RowValue = Uint8Array | (() => Uint8Array);

/** Everything that one commit makes durable, and what may happen once it is. */
export class Changes {
  readonly number: number;
  readonly #rows = new Map<string, RowValue | undefined>();
  readonly #fresh = new Set<string>();
  readonly #dirty = new Set<Entity>();
  /** Entities that changed in this batch. */
  readonly entities = new Set<Entity>();
  /** Called in order once the batch is durable (I3, I4: the output gate). */
  readonly releases: (() => void)[] = [];
  /** Called instead when the partition is lost before that. */
  readonly failures: ((error: unknown) => void)[] = [];

  constructor(number: number) {
    this.number = number;
  }

  get isEmpty(): boolean {
    return this.#rows.size === 0 && this.#dirty.size === 0;
  }

  get rowCount(): number {
    return this.#rows.size + this.#dirty.size;
  }

  put(rowKey: string, value: RowValue): void {
    this.#rows.set(rowKey, value);
  }

  /** For a key that never existed: deleting it again in the same batch leaves nothing. */
  putFresh(rowKey: string, value: RowValue): void {
    if (!this.#rows.has(rowKey)) this.#fresh.add(rowKey);
    this.#rows.set(rowKey, value);
  }

  delete(rowKey: string): void {
    if (this.#fresh.delete(rowKey)) this.#rows.delete(rowKey);
    else this.#rows.set(rowKey, undefined);
  }

  touch(entity: Entity): void {
    entity.dirtyIn = this.number;
    this.#dirty.add(entity);
    this.entities.add(entity);
  }

  /** Encodes everything as it is now (S2). */
  freeze(): Map<string, Uint8Array | undefined> {
    for (const entity of this.#dirty) this.#stageEntity(entity);
    this.#dirty.clear();
    const frozen = new Map<string, Uint8Array | undefined>();
    for (const [rowKey, value] of this.#rows) {
      frozen.set(rowKey, typeof value === "function" ? value() : value);
    }
    return frozen;
  }

  #stageEntity(entity: Entity): void {
    if (entity.isDeleted) return;
    this.#stageHistory(entity);
    this.put(rowKeys.head(entity.key), encodeRow(entity.head));
    const listedKey = listedKeyOf(entity);
    const isNew = entity.listedKey === undefined;
    if (entity.listedKey !== undefined && entity.listedKey !== listedKey) {
      this.delete(entity.listedKey);
    }
    const isMoved = entity.listedComponent !== entity.head.component;
    entity.listedComponent = entity.head.component;
    const isRelisted = this.#isRelisted(entity);
    if (isNew || isMoved || entity.listedKey !== listedKey || isRelisted) {
      const row = encodeRow(listedRowOf(entity.head));
      this.put(listedKey, row);
      this.#index(entity, row);
    }
    entity.listedKey = listedKey;
    const needs = needsAttention(entity);
    if (needs && !entity.hasAttention) this.put(rowKeys.attention(entity.key), new Uint8Array(0));
    if (!needs && entity.hasAttention) this.delete(rowKeys.attention(entity.key));
    entity.hasAttention = needs;
  }

  #isRelisted(entity: Entity): boolean {
    if (entity.head.kind !== "run") return false;
    const text = JSON.stringify(listedRowOf(entity.head));
    const isChanged = text !== entity.listedText;
    entity.listedText = text;
    return isChanged;
  }

  #index(entity: Entity, row: Uint8Array): void {
    const keys = indexKeysOf(entity);
    for (const key of entity.indexKeys) if (!keys.includes(key)) this.delete(key);
    for (const key of keys) this.put(key, row);
    entity.indexKeys = keys;
  }

  #stageHistory(entity: Entity): void {
    if (entity.history.length === 0) return;
    if (entity.head.kind === "actor") {
      this.#stageRing(entity);
      return;
    }
    const row: HistoryRow = { atMs: entity.head.lastNowMs, events: entity.history };
    const first = entity.head.nextHistory - entity.history.length;
    this.put(rowKeys.history(entity.key, first), encodeRow(row));
    entity.history = [];
  }

  /** An actor may live for ever, so its events overwrite each other in a ring. */
  #stageRing(entity: Entity): void {
    const atMs = entity.head.lastNowMs;
    let index = entity.head.nextHistory - entity.history.length;
    for (const event of entity.history) {
      const row: HistoryRow = { atMs, events: [event], index };
      this.put(rowKeys.history(entity.key, index % actorEventsMax), encodeRow(row));
      index += 1;
    }
    entity.history = [];
  }
}

/**
 * What a transition may do besides changing its entity: all of it happens only once the
 * batch is durable.
 */
export interface Sink {
  readonly changes: Changes;
  readonly nowMs: number;
  /** Closed runs are deleted after this long if their start said nothing; undefined: never. */
  readonly retentionMs: number | undefined;
  /** Puts a message into the outbox; it leaves after the commit. */
  send(message: Message): void;
  /** Performs a pending fetch, put or get after the commit. */
  perform(entity: Entity, id: number): void;
  setTimer(of: Pick<Entity, "key">, id: number, atMs: number): void;
  /** Wakes local waiters (`?wait=`, SSE) after the commit. */
  notify(entity: Entity): void;
  /** Answers the local client that waits for this call, after the commit. */
  replied(entity: Entity, callId: string, outcome: Outcome): void;
  /** What the component says of an actor type; undefined if it isn't loaded yet. */
  actorDefinition(component: string, type: string): Definition | undefined;
  /** The tenant's current component, if it isn't this one and actors of the type move to it. */
  successorOf(tenant: string, type: string, component: string): string | undefined;
  /** The next time of a cron expression after `afterMs`; undefined if there is none. */
  nextCron(cron: string, zone: string | undefined, afterMs: number): number | undefined;
  log(entity: Entity, level: "debug" | "info" | "warn" | "error", message: string): void;
  /** Reports a span after the commit. */
  traced(span: EndedSpan): void;
}

/** Where in a trace is what the entity does now; undefined if nobody traces it. */
export function traceOf({ head }: Entity): string | undefined {
  if (head.kind === "run") return head.trace?.self;
  return head.kind === "actor" ? head.turn?.trace : undefined;
}

export function addHostEvent(
  entity: Entity,
  sink: Sink,
  type: string,
  data: Readonly<Record<string, unknown>> = {},
): void {
  addHistory(entity, sink, { kind: "host", type, atMs: sink.nowMs, data });
}

export function addHistory(entity: Entity, sink: Sink, item: HistoryItem): void {
  entity.history.push(item);
  entity.head.nextHistory += 1;
  sink.changes.touch(entity);
}

/** Session ids become part of a row key. */
export function sessionRowKey(entity: Entity, session: string): string {
  return rowKeys.session(entity.key, session);
}

export function isActor(entity: Entity): boolean {
  return isActorKey(entity.key);
}

export { hex };
