/**
 * One partition: takes inputs to its entities, lets guests answer them, and lets outputs go.
 * Long, because it is where the parts meet: transitions, guests, effects, messages, timers.
 *
 * Owns whether the partition is ours, and the output-commit rule (Strom and Yemini 1985):
 * transitions run ahead of the log, but nothing leaves the partition (a reply, a message, a
 * fetch) before the batch that it follows from is durable. When that is, commits.ts says.
 * Doesn't own what entities do (run.ts, actor.ts), which of them are in memory (residents.ts),
 * how a guest is run (activations.ts), when timers fire (alarms.ts) or messages leave
 * (outbox.ts), or how rows are kept (table.ts).
 *
 * Invariants:
 * - P1 The table holds durable rows only; entities in memory may be ahead of it, and one with
 *   changes that aren't durable stays there (residents.ts E2).
 * - P2 A transition is synchronous: what it changes and what it lets out are of one batch.
 * - P3 Once the log says `fenced`, the partition is closed: requests and waiters get
 *   `partition-moved`, and machines are released (I2).
 * - P4 Messages from another partition are applied in the order of their index, each once:
 *   the cursor rises in the same batch as the effect (I4).
 */
import { encode } from "../guest/cbor.ts";
import {
  type Definition,
  type Input,
  type Outcome,
  objectBytesMax,
  type TurnInput,
} from "../guest/protocol.ts";
import { type ActivationLimits, Activations } from "./activations.ts";
import {
  applyTurn,
  beginTurn,
  componentOf,
  dropTimers,
  endRead,
  failTurn,
  fireReminder,
  isExpired,
  isUnborn,
  readingTurn,
  readsNow,
  refOf,
  refuseCalls,
} from "./actor.ts";
import { Alarms } from "./alarms.ts";
import type { Batch } from "./batch.ts";
import { type CommitLimits, Commits } from "./commits.ts";
import { Cursors } from "./cursors.ts";
import { decodeDrained, peeked } from "./drained.ts";
import { type Effect, performEffect } from "./effects.ts";
import { assert, SporeError } from "./errors.ts";
import {
  type Admission,
  decodeRow,
  encodeRow,
  type Mail,
  type Message,
  rowKeys,
  type StartMessage,
  systemTimers,
} from "./format.ts";
import {
  type EntityKey,
  hashOfUpload,
  isActorKey,
  isScheduleKey,
  nameOf,
  partitionOf,
  tenantOf,
} from "./ids.ts";
import { type Layout, sealOf } from "./layout.ts";
import { Log } from "./log.ts";
import {
  type Begun,
  beginActivation,
  finishActivation,
  hold,
  repeatActivation,
  resolveCommand,
} from "./machine.ts";
import { applyMessage } from "./messages.ts";
import type { Objects } from "./objects.ts";
import { type Envelope, Outbox } from "./outbox.ts";
import { hostError, ok } from "./outcomes.ts";
import type { ActivateResult, Ports } from "./ports.ts";
import { disarmQueue, tickQueue } from "./queue.ts";
import { isOver, Residents } from "./residents.ts";
import {
  applyDrained,
  fireRunTimer,
  forgetExpiry,
  forgetTimes,
  isClosed,
  isRetentionOver,
  performPending,
  survive,
  suspend,
} from "./run.ts";
import { disarm, isArmedFor, tick } from "./schedule.ts";
import { type Ahead, type Entity, type Sink, traceOf } from "./state.ts";
import { Table, type TableLimits } from "./table.ts";
import type { Timer } from "./timers.ts";
import type { TokenClaims } from "./tokens.ts";

/** What a partition needs from the host around it. */
export interface Neighbours {
  /** Makes sure that the sandbox knows the component. Throws component-not-found. */
  loadComponent(id: string): Promise<void>;
  /** Resolves when the messages are durable at their target. */
  deliver(target: number, source: number, messages: readonly Envelope[]): Promise<void>;
  /** What new runs of a tenant take; undefined if that can't be said now. Never rejects. */
  currentComponent(tenant: string): Promise<string | undefined>;
  /** What a loaded component says of an actor type. */
  actorDefinition(component: string, type: string): Definition | undefined;
  /** As Sink's, by what `currentComponent` has said last. */
  successorOf(tenant: string, type: string, component: string): string | undefined;
  /** The queues that a new run passes. Waits until that can be said. */
  admissionOf(tenant: string, start: StartMessage): Promise<Admission | undefined>;
  /** The answer to a guest that wants a token for an event. */
  issueToken(claims: TokenClaims): Promise<Outcome>;
  readonly objects: Objects;
  /** Current generation of the namespace's objects, asked for after the call. */
  generation(): Promise<number>;
  /** The partition can't go on: moved to another owner, or a fault of ours. */
  lost(partition: Partition, error: SporeError): void;
}

/** Somebody who waits for a call's outcome. */
interface Reply {
  readonly resolve: (outcome: Outcome) => void;
  readonly reject: (error: SporeError) => void;
}

export interface PartitionOptions {
  readonly index: number;
  /** Of the namespace. */
  readonly prefix: string;
  readonly layout: Layout;
  readonly claimInfo: Uint8Array;
  readonly limits: PartitionLimits;
  /** Closed runs are deleted after this long; undefined: never, unless their start says so. */
  readonly retentionMs?: number | undefined;
}

export interface PartitionLimits extends CommitLimits, ActivationLimits {
  /** How far ahead timers are kept in memory; later ones wait in the table. */
  readonly timerWindowMs: number;
  /** The clock may be set: nobody sleeps longer than this without a look at it. */
  readonly timerLookMs: number;
  /** Entities kept in memory beyond those that are busy. */
  readonly residentMax: number;
  /** A stored value that is larger is kept by reference where a machine was given it. */
  readonly referBytes: number;
  /** The largest value that a guest may give in pieces: the host puts it together in memory. */
  readonly assembleBytes: number;
  /** Sizes of segments and their levels, where they aren't the table's own. */
  readonly table: Partial<TableLimits>;
}

export const partitionLimits: PartitionLimits = {
  lingerMs: 25,
  gatherMs: 2,
  timerWindowMs: 3_600_000,
  timerLookMs: 60_000,
  checkpointBytes: 8 * 1024 * 1024,
  checkpointEntries: 2000,
  residentMax: 10_000,
  imageAfterMs: 2,
  imageAfterBytes: 64 * 1024,
  referBytes: 16 * 1024,
  storeBytes: 256 * 1024,
  assembleBytes: objectBytesMax,
  table: {},
};

/** Rows that are deleted with one look into the table. */
const rowsPerDelete = 1000;
/** Entities that go on after a crash are read so many at a time. */
const revivedAtOnce = 64;
/** Garbage that crashed owners left is looked for this long after taking over. */
const sweepDelayMs = 60_000;
/** Runs whose retention is over that are being deleted at once. */
const expiringMax = 100;
/** See indexedFromMs. */
const indexMarginMs = 86_400_000;

export class Partition {
  readonly index: number;
  readonly #ports: Ports;
  readonly #options: PartitionOptions;
  readonly #neighbours: Neighbours;
  readonly #log: Log;
  #table: Table | undefined;
  #state: "claiming" | "owned" | "moved" | "stopped" = "claiming";
  #lostError: SporeError | undefined;
  #indexedFromMs: number | undefined;
  /** Nothing was ever written to it, or nothing but uploads since. */
  #isEmpty = false;

  readonly #residents: Residents;
  readonly #commits: Commits;
  readonly #activations: Activations;

  readonly #alarms: Alarms;
  #sweepCancel: (() => void) | undefined;

  readonly #outbox: Outbox;
  readonly #cursors = new Cursors();
  readonly #receiving = new Map<number, Promise<void>>();

  #isSettling = false;
  readonly #effects = new Set<Effect>();
  #whenSettled: () => void = () => undefined;
  #isInterrupted = false;
  readonly #interrupted = new Set<() => void>();
  readonly #expiring = new Set<Promise<void>>();
  readonly #replies = new Map<string, Set<Reply>>();

  constructor(ports: Ports, options: PartitionOptions, neighbours: Neighbours) {
    this.index = options.index;
    this.#ports = ports;
    this.#options = options;
    this.#neighbours = neighbours;
    const { store, random, digest, clock, observer } = ports;
    this.#log = new Log({
      store,
      prefix: this.#prefix,
      partition: options.index,
      random,
      digest,
      clock,
      observer,
    });
    const isOwned = (): boolean => this.#state === "owned";
    const background = (work: Promise<unknown>): void => void this.#background(work);
    this.#alarms = new Alarms({
      windowMs: options.limits.timerWindowMs,
      lookMs: options.limits.timerLookMs,
      clock,
      isOwned,
      scan: (limit) => this.#tableNow().scan({ prefix: rowKeys.timers, limit }),
      durable: () => this.durable(),
      fire: (timer) => this.#fireTimer(timer),
      background,
    });
    this.#residents = new Residents({
      max: options.limits.residentMax,
      nowMs: () => clock.nowMs(),
      isOwned,
      read: (key) => this.#rowsOf(key),
      durableNumber: () => this.#commits.durableNumber,
      release: (entity) => this.#activations.release(entity),
    });
    this.#commits = new Commits({
      log: this.#log,
      clock,
      observer,
      limits: options.limits,
      isOwned,
      isResultComing: () => this.#activations.atWork > 0,
      background,
      moved: (by) => this.#moved(by),
      committed: (batch) => this.#residents.committed(batch),
      rested: () => this.#residents.trim(),
    });
    this.#activations = new Activations({
      ports,
      prefix: options.prefix,
      limits: options.limits,
      isOwned,
      loadComponent: (id) => neighbours.loadComponent(id),
      hold: (entity, hashes) => this.#hold(entity, hashes),
      generation: () => neighbours.generation(),
    });
    this.#outbox = new Outbox({
      index: options.index,
      partitions: options.layout.partitions,
      clock,
      observer,
      isOwned,
      changes: () => this.#commits.changes,
      demand: () => this.#commits.demand(),
      linger: () => this.#commits.linger(),
      applyHere: (message, row) => this.#applyHere(message, row),
      deliver: (target, source, envelopes) => neighbours.deliver(target, source, envelopes),
      background,
    });
  }

  get state(): "claiming" | "owned" | "moved" | "stopped" {
    return this.#state;
  }

  get residentEntities(): number {
    return this.#residents.size;
  }

  get seq(): number {
    return this.#log.seq;
  }

  /** When its next timer is due: a host that is started only on demand sets its alarm to it. */
  get nextTimerAtMs(): number | undefined {
    return this.#alarms.nextAtMs;
  }

  /** Of the log, what a new owner would have to read: entries and bytes since the checkpoint. */
  get logLag(): { readonly entries: number; readonly bytes: number } {
    return this.#commits.lag;
  }

  /** Position of this owner's claim; 0 before. */
  get epoch(): number {
    return this.#log.epoch;
  }

  get memtableBytes(): number {
    return this.#table?.memtableBytes ?? 0;
  }

  get #prefix(): string {
    const { prefix, layout, index } = this.#options;
    return `${prefix}${layout.folder}/${index}`;
  }

  // -------------------------------------------------------------- open and close

  /** Takes the partition over and goes on where its last owner stopped. */
  async open(): Promise<void> {
    try {
      await this.#takeOver();
    } catch (error) {
      // Until it is opened again, requests are refused with what is wrong.
      if (error instanceof SporeError) this.#lostError = error;
      throw error;
    }
  }

  async #takeOver(): Promise<void> {
    const { claimInfo, layout } = this.#options;
    const claim = await this.#log.claim(claimInfo, (last) => sealOf(last) <= layout.number);
    if (claim.kind === "sealed") {
      throw this.#sealed();
    }
    if (claim.kind === "lost") {
      throw new SporeError(
        "partition-moved",
        `partition ${this.index} was claimed by another host`,
      );
    }
    const { store, random, digest, clock, observer } = this.#ports;
    const parts = {
      store,
      prefix: this.#prefix,
      epoch: claim.epoch,
      random,
      digest,
      clock,
      observer,
    };
    const table = Table.open({ ...parts, limits: this.#options.limits.table }, claim.checkpoint);
    this.#commits.recover(table, claim.entries);
    this.#isEmpty = claim.checkpoint === undefined && claim.entries.length === 0;
    this.#table = table;
    try {
      await this.#recover(table);
    } catch (error) {
      const isDamage = error instanceof SporeError && error.kind === "corrupt";
      // A host that slept while it recovered: a successor has freed what seems to be missing.
      if (!isDamage || (await this.#log.confirm())) throw error;
      throw new SporeError("partition-moved", `partition ${this.index} was taken over`, {
        cause: error,
      });
    }
  }

  /** Counters first, then timers, messages and whatever was going on when the last owner stopped. */
  async #recover(table: Table): Promise<void> {
    const counters = await table.all(rowKeys.outboxCounters);
    for (const [key, value] of await table.all(rowKeys.inboxes)) {
      this.#cursors.set(Number.parseInt(key.slice(2), 16), decodeRow<number>(key, value));
    }
    const messages = await table.all(rowKeys.outboxes);
    const attentions = await table.all(rowKeys.attentions);
    const removals = await table.all(rowKeys.removals);
    await this.#alarms.refill();
    this.#state = "owned";
    for (const [key] of removals) {
      // First, so that requests for the key wait for it. Written by rowKeys.
      void this.#background(this.#clear(key.slice(rowKeys.removals.length) as EntityKey));
    }
    this.#sweepCancel = this.#ports.clock.after(sweepDelayMs, () => {
      if (this.#state === "owned") void this.#background(this.#sweep());
    });
    this.#outbox.recover(counters, messages);
    // Written by rowKeys.
    const revived = attentions.map(([key]) => key.slice(rowKeys.attentions.length) as EntityKey);
    for (let worker = 0; worker < revivedAtOnce; worker += 1) {
      void this.#background(this.#reviveAll(revived));
    }
  }

  /** What was going on everywhere is read a part at a time: requests have to be read as well. */
  async #reviveAll(keys: EntityKey[]): Promise<void> {
    for (let key = keys.pop(); key !== undefined; key = keys.pop()) {
      if (this.#state !== "owned") return;
      await this.request(key, (entity, sink) => {
        if (entity !== undefined) performPending(entity, sink);
      });
    }
  }

  /**
   * Begins no effect any more, and resolves when those under way have been answered: a hand-over
   * is near. What is held back is pending in the log, and the next owner is the first to do it.
   */
  async settleEffects(): Promise<void> {
    this.#isSettling = true;
    if (this.#effects.size === 0) return;
    const settled = Promise.withResolvers<void>();
    const before = this.#whenSettled;
    this.#whenSettled = () => {
      before();
      settled.resolve();
    };
    await settled.promise;
  }

  #effectOver(effect: Effect): void {
    this.#effects.delete(effect);
    if (this.#effects.size === 0) this.#whenSettled();
  }

  /** Stops taking work; what is staged is committed before it resolves. */
  async stop(): Promise<void> {
    if (this.#state === "owned") {
      await this.durable().catch(() => undefined); // lost meanwhile: nothing more to do
      await this.#commits.checkpoint?.catch(() => undefined);
    }
    this.#fail("stopped", new SporeError("host-stopping", "the host is stopping"));
  }

  #fail(state: "moved" | "stopped", error: SporeError): void {
    if (this.#state === "moved" || this.#state === "stopped") return;
    this.#state = state;
    this.#lostError = error;
    this.#log.close();
    this.#table?.close();
    this.#alarms.close();
    this.#sweepCancel?.();
    this.#commits.close(error);
    this.#residents.close();
    this.#effects.clear();
    this.#whenSettled();
    for (const replies of this.#replies.values()) for (const reply of replies) reply.reject(error);
    if (state === "moved") this.#neighbours.lost(this, error);
  }

  #assertOwned(): void {
    if (this.#state === "owned") return;
    throw (
      this.#lostError ??
      new SporeError("host-busy", `partition ${this.index} is being recovered`, {
        hint: "Try again in a moment.",
      })
    );
  }

  // -------------------------------------------------------------- requests

  /**
   * Runs one transition on an entity (undefined if there is none) and then whatever follows
   * from it. Resolves at once with the transition's result; `durable()` waits for the commit.
   */
  async request<T>(
    key: EntityKey,
    transition: (entity: Entity | undefined, sink: Sink) => T,
  ): Promise<T> {
    this.#assertOwned();
    assert(partitionOf(key, this.#options.layout.partitions) === this.index, `${key} belongs here`);
    while (this.#residents.get(key) === undefined) {
      await this.#residents.load(key);
      this.#assertOwned();
      // Of several who waited for one reading the first may have removed what was read (E3).
      if (!this.#residents.isHeld(key)) break;
    }
    return this.#transition(key, transition);
  }

  /**
   * Resolves when everything that was staged until now is durable, and this host was the
   * owner at some moment after the call: what was read before it isn't stale (I2).
   */
  durable(): Promise<void> {
    return new Promise((resolve, reject) => {
      try {
        this.#assertOwned();
      } catch (error) {
        reject(error);
        return;
      }
      this.#commits.afterCommit(resolve, reject);
    });
  }

  /** As `durable`, at once for an entity whose changes are; for what can't become stale. */
  async settled(entity: Entity): Promise<void> {
    if (entity.dirtyIn > this.#commits.durableNumber) await this.durable();
  }

  /** Whoever waits for something that isn't there yet shall stop waiting: a hand-over is near. */
  interrupt(): void {
    this.#isInterrupted = true;
    for (const end of [...this.#interrupted]) end();
  }

  get isInterrupted(): boolean {
    return this.#isInterrupted;
  }

  onInterrupt(end: () => void): () => void {
    if (this.#isInterrupted) end();
    this.#interrupted.add(end);
    return () => this.#interrupted.delete(end);
  }

  /** Calls back after each commit that changed the entity. */
  watchEntity(key: EntityKey, wake: () => void): () => void {
    return this.#residents.watch(key, wake);
  }

  /** Calls back with the rows of each batch at the moment from which on scans see them. */
  watchRows(changed: (rows: Batch) => void): () => void {
    return this.#commits.watchRows(changed);
  }

  /** The outcome of a call that is going on here, once it is durable. */
  reply(key: EntityKey, callId: string): { outcome: Promise<Outcome>; forget: () => void } {
    const name = `${key} ${callId}`;
    const waiting = this.#replies.get(name) ?? new Set();
    this.#replies.set(name, waiting);
    let reply: Reply = { resolve: () => undefined, reject: () => undefined };
    const outcome = new Promise<Outcome>((resolve, reject) => {
      reply = { resolve, reject };
    });
    // Who gives up waiting doesn't look at it any more.
    outcome.catch(() => undefined);
    waiting.add(reply);
    const forget = (): void => {
      waiting.delete(reply);
      if (waiting.size === 0) this.#replies.delete(name);
    };
    return { outcome, forget };
  }

  /**
   * Runs that were created from then on have their rows by name and tag. In a partition that is
   * older than these rows that is from a day after somebody first asked for them: no clock of a
   * host is as wrong as that.
   */
  async indexedFromMs(): Promise<number> {
    if (this.#isEmpty) return 0;
    if (this.#indexedFromMs !== undefined) return this.#indexedFromMs;
    const [row] = (await this.scan(rowKeys.indexedFrom, { limit: 1 })).entries;
    if (row === undefined) {
      const fromMs = this.#ports.clock.nowMs() + indexMarginMs;
      this.#commits.changes.put(rowKeys.indexedFrom, encodeRow(fromMs));
      this.#commits.linger();
      this.#indexedFromMs = fromMs;
      return fromMs;
    }
    this.#indexedFromMs = decodeRow<number>(...row);
    return this.#indexedFromMs;
  }

  /** Durable rows below a prefix, in key order. */
  async scan(
    prefix: string,
    options: { after?: string; limit: number },
  ): Promise<{
    readonly entries: readonly (readonly [string, Uint8Array])[];
    readonly isDone: boolean;
  }> {
    this.#assertOwned();
    return this.#sound(this.#tableNow().scan({ prefix, ...options }));
  }

  /** A successor may have freed what seems to be missing: then nothing is corrupt. */
  async #sound<T>(reading: Promise<T>): Promise<T> {
    try {
      return await reading;
    } catch (error) {
      const isDamage = error instanceof SporeError && error.kind === "corrupt";
      if (isDamage && (await this.#commits.isFenced())) this.#assertOwned();
      throw error;
    }
  }

  /** Deletes all rows below a prefix that are durable now. */
  async #deleteRows(prefix: string): Promise<void> {
    let after: string | undefined;
    for (;;) {
      const page = await this.scan(prefix, {
        limit: rowsPerDelete,
        ...(after === undefined ? {} : { after }),
      });
      for (const [key] of page.entries) {
        this.#commits.changes.delete(key);
        after = key;
      }
      this.#commits.linger();
      if (page.isDone) return;
    }
  }

  #tableNow(): Table {
    assert(this.#table !== undefined, `partition ${this.index} is open`);
    return this.#table;
  }

  // -------------------------------------------------------------- entities

  async #rowsOf(key: EntityKey): Promise<(readonly [string, Uint8Array])[] | undefined> {
    // Most ids that aren't in memory are new: the segments' filters know that without a read.
    const rows = await this.#sound(this.#tableNow().all(rowKeys.entity(key)));
    return rows[0]?.[0] === rowKeys.head(key) ? rows : undefined;
  }

  #transition<T>(key: EntityKey, transition: (entity: Entity | undefined, sink: Sink) => T): T {
    const sink = this.#sink();
    const existing = this.#residents.get(key);
    const result = transition(existing, sink);
    const entity = this.#residents.get(key);
    if (entity !== undefined) {
      entity.usedAtMs = sink.nowMs;
      this.#kick(entity, sink);
    }
    this.#commits.linger();
    return result;
  }

  /** The entity that this transition works on. */
  resident(key: EntityKey): Entity {
    const entity = this.#residents.get(key);
    assert(entity !== undefined, `${key} is in memory`);
    return entity;
  }

  /** Makes a new entity known; within a transition. */
  add(entity: Entity): void {
    this.#residents.add(entity);
    if (!this.#isEmpty) return;
    this.#isEmpty = false;
    this.#indexedFromMs = 0;
    this.#commits.changes.put(rowKeys.indexedFrom, encodeRow(0));
  }

  /**
   * Deletes an entity and all its rows, after `check` allowed it. Requests for the key wait
   * until nothing is left, so that the id can be used again.
   */
  async delete(
    key: EntityKey,
    check: (entity: Entity | undefined) => "keep" | undefined,
  ): Promise<void> {
    let removal: Promise<void> | undefined;
    try {
      await this.request(key, (entity, sink) => {
        const isKept = check(entity) === "keep";
        if (entity !== undefined && !isKept) removal = this.#remove(entity, sink);
      });
    } catch (error) {
      // A refusal is an answer too: it has to come from the owner (I2).
      await this.durable();
      throw error;
    }
    await removal;
  }

  #remove(entity: Entity, sink: Sink): Promise<void> {
    this.#unlist(entity, sink);
    return this.#clear(entity.key);
  }

  /** Deletes what a removed entity has left; goes on after a crash, so that nothing stays. */
  #clear(key: EntityKey): Promise<void> {
    const clearing = async (): Promise<void> => {
      await this.durable();
      await this.#deleteRows(rowKeys.entity(key));
      await this.#deleteRows(rowKeys.historyOf(key));
      await this.#deleteRows(rowKeys.publishedOf(key));
      await this.#deleteRows(rowKeys.pastOf(key));
      await this.#deleteRows(rowKeys.heldBy(key));
      this.#commits.changes.delete(rowKeys.removal(key));
      this.#commits.linger();
      await this.durable();
    };
    return this.#residents.hold(key, clearing());
  }

  #unlist(entity: Entity, sink: Sink): void {
    entity.isDeleted = true;
    for (const abort of entity.inFlight.values()) abort();
    sink.changes.put(rowKeys.removal(entity.key), new Uint8Array(0));
    sink.changes.delete(rowKeys.head(entity.key));
    if (entity.listedKey !== undefined) sink.changes.delete(entity.listedKey);
    for (const key of entity.indexKeys) sink.changes.delete(key);
    if (entity.hasAttention) sink.changes.delete(rowKeys.attention(entity.key));
    if (entity.head.kind === "actor") {
      dropTimers(entity, sink);
      refuseCalls(entity, sink);
    }
    if (entity.head.kind === "schedule") disarm(entity, sink);
    if (entity.head.kind === "run") {
      forgetExpiry(entity, sink);
      if (!isClosed(entity.head.status)) forgetTimes(entity, sink);
    }
    if (entity.head.kind === "queue") disarmQueue(entity, sink);
    for (const [id, pending] of entity.pending) {
      if (pending.kind === "timer")
        sink.changes.delete(rowKeys.timer(pending.atMs, entity.key, id));
    }
    this.#residents.remove(entity);
    this.#notifyAfterCommit(entity.key, true);
  }

  #sink(): Sink {
    const changes = this.#commits.changes;
    return {
      changes,
      nowMs: this.#ports.clock.nowMs(),
      retentionMs: this.#options.retentionMs,
      send: (message) => this.#outbox.send(message),
      perform: (entity, id) => this.#perform(entity, id),
      setTimer: ({ key }, id, atMs) => this.#alarms.set({ atMs, key, id }),
      notify: (entity) => this.#notifyAfterCommit(entity.key, isOver(entity)),
      replied: (entity, callId, outcome) => this.#repliedAfterCommit(entity.key, callId, outcome),
      actorDefinition: (component, type) => this.#neighbours.actorDefinition(component, type),
      successorOf: (tenant, type, component) =>
        this.#neighbours.successorOf(tenant, type, component),
      nextCron: (cron, zone, afterMs) => this.#nextCron(cron, zone, afterMs),
      log: (entity, level, message) => {
        const fields = { tenant: tenantOf(entity.key), run: nameOf(entity.key) };
        changes.releases.push(() => this.#ports.observer.log(level, message, fields));
      },
      traced: (span) => changes.releases.push(() => this.#ports.tracer?.ended(span)),
    };
  }

  /** A guest's bad expression is the guest's business: it never comes. */
  #nextCron(cron: string, zone: string | undefined, afterMs: number): number | undefined {
    try {
      return this.#ports.calendar.next(cron, zone, afterMs);
    } catch (error) {
      if (error instanceof SporeError && error.kind === "invalid") return undefined;
      throw error;
    }
  }

  /**
   * Wakes who watches the entity. Only an end is worth a commit of its own: a run at work
   * changes all the time, and its watchers hear of that with the next commit.
   */
  #notifyAfterCommit(key: EntityKey, isUrgent: boolean): void {
    const watchers = this.#residents.watchersOf(key);
    if (watchers === undefined) return;
    this.#commits.changes.releases.push(() => {
      for (const wake of [...watchers]) wake();
    });
    if (isUrgent) this.#commits.demand();
    else this.#commits.linger();
  }

  #repliedAfterCommit(key: EntityKey, callId: string, outcome: Outcome): void {
    const waiting = this.#replies.get(`${key} ${callId}`);
    if (waiting === undefined) return;
    this.#commits.changes.releases.push(() => {
      for (const reply of [...waiting]) reply.resolve(outcome);
    });
    this.#commits.demand();
  }

  // -------------------------------------------------------------- activations

  /** Starts the entity's next activation if it has something to do and may. */
  #kick(entity: Entity, sink: Sink): void {
    if (!entity.isActive && !entity.isDeleted) this.#activateNext(entity, sink);
    if (entity.head.kind === "actor" && !entity.isDeleted) this.#startReads(entity, sink);
  }

  #activateNext(entity: Entity, sink: Sink): void {
    const { head } = entity;
    const isIdle = head.kind === "run" && head.status !== "RUNNING";
    if (head.kind === "schedule" || head.kind === "queue" || isIdle) {
      this.#becameQuiet(entity);
      return;
    }
    if (head.kind === "actor") beginTurn(entity, sink);
    if (head.applied < head.version) {
      void this.#background(this.#activate(entity, repeatActivation(entity, sink)));
    } else if (entity.inputs.length > 0) {
      // Only a turn's first activation can have been computed ahead.
      const ahead = head.version === 0 ? entity.ahead?.shift() : undefined;
      const begun = beginActivation(entity, sink, ahead?.nowMs);
      void this.#background(this.#activate(entity, begun, ahead));
    } else {
      this.#becameQuiet(entity);
    }
  }

  #becameQuiet(entity: Entity): void {
    for (const run of entity.whenQuiet.splice(0)) run();
  }

  async #activate(entity: Entity, begun: Begun, ahead?: Ahead): Promise<void> {
    const { life } = entity.head;
    const result = await this.#activations.run(entity, begun, ahead);
    if (this.#state !== "owned") return;
    this.#transition(entity.key, (resident, sink) => {
      if (resident !== entity || entity.isDeleted) return;
      const isStale = entity.head.life !== life;
      if (isStale || (entity.head.kind === "run" && isClosed(entity.head.status))) {
        entity.isActive = false;
        sink.changes.touch(entity);
        return;
      }
      this.#applyResult(entity, sink, result);
    });
    if (this.#activations.atWork === 0) this.#commits.gathered();
  }

  /** Reads of runs and actors go on beside a turn; each stays in the mailbox until it is answered. */
  #startReads(entity: Entity, sink: Sink): void {
    for (const mail of readsNow(entity, sink)) {
      const { state } = entity;
      if (state === undefined || entity.reading.has(mail.index)) continue;
      entity.reading.add(mail.index);
      const turn = readingTurn(entity, state, mail);
      void this.#background(this.#read(entity, mail, turn));
    }
  }

  async #read(entity: Entity, mail: Mail, turn: TurnInput): Promise<void> {
    const result = await this.#activations.read(entity, turn);
    if (this.#state !== "owned") return;
    const { outcome } = peeked(result, turn.id);
    this.#transition(entity.key, (resident, sink) => {
      entity.reading.delete(mail.index);
      if (resident === entity && !entity.isDeleted) endRead(entity, sink, mail, outcome);
    });
  }

  /** Resolves when the rows that stand for the objects are durable, if the entity is still there. */
  async #hold(entity: Entity, hashes: Iterable<string>): Promise<void> {
    await this.request(entity.key, (found, sink) => {
      for (const hash of hashes) if (found === entity) hold(entity, sink, hash);
    });
    await this.durable();
  }

  #applyResult(entity: Entity, sink: Sink, result: ActivateResult): void {
    if (result.kind === "ok") {
      const { observer } = this.#ports;
      observer.observe("spore_guest_ms", result.guestMs);
      if (result.image !== undefined) observer.observe("spore_image_bytes", result.image.length);
      finishActivation(entity, sink, result);
      const drained = decodeDrained(result.drained);
      if (entity.head.kind === "run") applyDrained(entity, sink, drained);
      else {
        entity.turnMs = result.guestMs;
        applyTurn(entity, sink, drained);
      }
      this.#abortDropped(entity);
      if (entity.head.kind === "actor") this.#dropUnborn(entity, sink);
      return;
    }
    assert(result.kind === "fault", "a rebuilt machine is never absent");
    entity.isActive = false;
    this.#ports.observer.count("spore_faults_total", 1, { fault: result.fault });
    const error = { ...hostError(result.fault, result.message), class: "limit" as const };
    if (entity.head.kind === "actor") {
      failTurn(entity, sink, error);
      this.#dropUnborn(entity, sink);
    } else if (hostFaults.has(result.fault)) {
      suspend(entity, sink, hostError(result.fault, result.message));
    } else {
      survive(entity, sink, error);
    }
    sink.changes.touch(entity);
  }

  /**
   * One throw-away activation (query, read-only method) on the entity's memory as it stands;
   * whatever the code does to that memory is gone afterwards (I6).
   */
  peek(entity: Entity, input: Input): Promise<ActivateResult> {
    return this.#activations.peek(entity, input);
  }

  /** A run that a queue refused, while its client waited, never was. */
  withdraw(entity: Entity, sink: Sink): void {
    void this.#background(this.#remove(entity, sink));
  }

  /** An actor whose constructor failed never was. */
  #dropUnborn(entity: Entity, sink: Sink): void {
    if (isUnborn(entity)) void this.#background(this.#remove(entity, sink));
  }

  // -------------------------------------------------------------- effects

  #perform(entity: Entity, id: number): void {
    const { key } = entity;
    const pending = entity.pending.get(id);
    if (pending === undefined) return;
    // Let go of before that, nobody would perform it until the next owner (E2).
    entity.dirtyIn = this.#commits.changes.number;
    this.#commits.changes.releases.push(() => {
      if (this.#isSettling) return;
      const resident = this.#residents.get(key);
      // Meanwhile the id may have been given to another command, which isn't durable yet.
      if (resident === undefined || resident.pending.get(id) !== pending) return;
      if (resident.inFlight.has(id)) return;
      const { prefix } = this.#options;
      const { issueToken, generation, objects } = this.#neighbours;
      const { referBytes, assembleBytes } = this.#options.limits;
      const trace = traceOf(resident);
      const parts = { ports: this.#ports, prefix, objects, referBytes, assembleBytes };
      const holdNow = (hash: string): Promise<void> => this.#hold(resident, [hash]);
      const place = { ...parts, issueToken, generation, trace, hold: holdNow };
      const effect = performEffect(place, key, pending);
      resident.inFlight.set(id, effect.abort);
      this.#effects.add(effect);
      const answering = effect.outcome.then(async (outcome) => {
        if (this.#state !== "owned" || effect.isAborted()) return;
        resident.inFlight.delete(id);
        await this.request(key, (current, sink) => {
          if (current !== undefined) resolveCommand(current, sink, id, outcome);
        });
      });
      void this.#background(answering.finally(() => this.#effectOver(effect)));
    });
    this.#commits.demand();
  }

  #abortDropped(entity: Entity): void {
    for (const [id, abort] of entity.inFlight) {
      if (entity.pending.has(id)) continue;
      entity.inFlight.delete(id);
      abort();
    }
  }

  // -------------------------------------------------------------- messages

  async #applyHere(sent: Message, row: string): Promise<void> {
    const message = await this.#prepared(sent);
    await this.request(message.to, (entity, sink) => {
      applyMessage(entity, sink, message, this);
      sink.changes.delete(row);
    });
  }

  /** Takes messages from another partition; resolves when they are durable here (P4). */
  async receive(source: number, envelopes: readonly Envelope[]): Promise<void> {
    this.#assertOwned();
    await this.#outbox.recovered;
    const before = this.#receiving.get(source) ?? Promise.resolve();
    const receiving = before.catch(() => undefined).then(() => this.#receive(source, envelopes));
    this.#receiving.set(source, receiving);
    await receiving;
    await this.durable();
  }

  async #receive(source: number, envelopes: readonly Envelope[]): Promise<void> {
    for (const { index, message: bytes } of envelopes) {
      if (this.#cursors.isApplied(source, index)) continue;
      const cursor = this.#cursors.of(source);
      if (index !== cursor + 1) {
        throw new SporeError(
          "host-busy",
          `message ${cursor + 1} of partition ${source} is missing`,
        );
      }
      const message = await this.#prepared(decodeRow<Message>("message", bytes));
      await this.request(message.to, (entity, sink) => {
        if (this.#cursors.of(source) !== cursor) return;
        applyMessage(entity, sink, message, this);
        this.#cursors.set(source, index);
        sink.changes.put(rowKeys.inbox(source), () => encodeRow(this.#cursors.of(source)));
      });
    }
  }

  /** Identity of a run's definition and input: another one under the same id is a conflict. */
  inputHash(start: {
    name: string;
    args?: Uint8Array | undefined;
    root?: Uint8Array | undefined;
  }): Uint8Array {
    return this.#ports.digest.sha256(
      encode([start.name, start.args ?? encode([]), start.root ?? null]),
    );
  }

  seed(): Uint8Array {
    return this.#ports.random.bytes(16);
  }

  // -------------------------------------------------------------- timers

  async #fireTimer(timer: Timer): Promise<void> {
    if (isScheduleKey(timer.key)) {
      // Asks what is deployed: no other timer waits for that.
      void this.#background(this.#fireSchedule(timer));
      return;
    }
    if (isActorKey(timer.key) && timer.id >= systemTimers.min) {
      // Asks what is deployed, too: a reminder's turn may be the actor's first of a new component.
      void this.#background(this.#fireForActor(timer));
      return;
    }
    await this.#fireNow(timer);
  }

  async #fireForActor(timer: Timer): Promise<void> {
    if (timer.id === systemTimers.expiry) await this.#knowComponent(timer.key);
    else await this.#neighbours.currentComponent(tenantOf(timer.key));
    // A million runs may expire in one second.
    if (this.#expiring.size >= expiringMax) await Promise.race(this.#expiring);
    if (this.#state === "owned") await this.#fireNow(timer);
  }

  async #fireNow(timer: Timer): Promise<void> {
    await this.request(timer.key, (entity, sink) => {
      if (entity !== undefined) this.#fire(entity, sink, timer);
      // Of an actor that was deleted: nobody else would ever remove it.
      else sink.changes.delete(rowKeys.timer(timer.atMs, timer.key, timer.id));
      const upload = hashOfUpload(timer.key);
      if (upload !== undefined) sink.changes.delete(rowKeys.hold(timer.key, upload));
    });
    this.#residents.dismiss(timer.key); // a timer of what has ended since has woken it in vain
  }

  /**
   * What the transition has to know: which queues a new run passes; for a call, which component
   * is current, whether the method only reads, and whether the actor that it finds waiting takes
   * calls within its turn.
   */
  async #prepared(message: Message): Promise<Message> {
    if (message.kind === "start") {
      const { start } = message;
      const admission = await this.#neighbours.admissionOf(tenantOf(message.to), start);
      return admission === undefined ? message : { ...message, start: { ...start, admission } };
    }
    if (message.kind !== "call" && message.kind !== "probe") return message;
    if (!isActorKey(message.to)) return message;
    if (message.kind === "call") await this.#neighbours.currentComponent(tenantOf(message.to));
    const resident = this.#residents.get(message.to);
    if (message.kind === "call") await this.#load(message.component, message.to);
    const isKnown = resident !== undefined && this.#isKnown(resident.head.component, message.to);
    if (!isKnown || resident.pending.size > 0) await this.#knowComponent(message.to);
    return message;
  }

  #isKnown(component: string, actor: EntityKey): boolean {
    return this.#neighbours.actorDefinition(component, refOf({ key: actor }).type) !== undefined;
  }

  /** So that the next transition knows what the entity's component says of it. */
  async #knowComponent(key: EntityKey): Promise<void> {
    const component = await this.request(key, (entity) => entity && componentOf(entity));
    if (component !== undefined) await this.#load(component, key);
  }

  async #load(component: string, key: EntityKey): Promise<void> {
    if (isActorKey(key) && this.#isKnown(component, key)) return;
    try {
      await this.#neighbours.loadComponent(component);
    } catch (error) {
      this.#ports.observer.log("warn", `component of ${key}: ${messageOf(error)}`, { component });
    }
  }

  async #fireSchedule({ key, id, atMs }: Timer): Promise<void> {
    const component = await this.#neighbours.currentComponent(tenantOf(key));
    if (this.#state !== "owned") return;
    await this.request(key, (entity, sink) => {
      if (entity === undefined) sink.changes.delete(rowKeys.timer(atMs, key, id));
      else if (isArmedFor(entity, atMs)) tick(entity, sink, component);
    });
  }

  #fire(entity: Entity, sink: Sink, { id, atMs }: Timer): void {
    // A host whose clock is behind may tell the guest: it must not be told an earlier time.
    entity.head.lastNowMs = Math.max(entity.head.lastNowMs, atMs);
    if (id < systemTimers.min) {
      const pending = entity.pending.get(id);
      // Judged by the timer that was due: the clock may have been set back since.
      if (pending?.kind === "timer" && pending.atMs <= atMs) {
        resolveCommand(entity, sink, id, ok(undefined));
      }
      return;
    }
    sink.changes.delete(rowKeys.timer(atMs, entity.key, id));
    if (id === systemTimers.retention) {
      if (isRetentionOver(entity, atMs)) this.#expire(entity, sink);
    } else if (entity.head.kind === "run") fireRunTimer(entity, sink, { id, atMs });
    else if (entity.head.kind === "queue") tickQueue(entity, sink, atMs);
    else if (id !== systemTimers.expiry) fireReminder(entity, sink, id, atMs);
    else if (isExpired(entity, sink)) void this.#background(this.#remove(entity, sink));
  }

  #expire(entity: Entity, sink: Sink): void {
    this.#ports.observer.count("spore_runs_expired_total", 1);
    const removal = this.#background(this.#remove(entity, sink)).finally(() =>
      this.#expiring.delete(removal),
    );
    this.#expiring.add(removal);
  }

  // -------------------------------------------------------------- the log's word

  #moved(by: Uint8Array | undefined): void {
    if (by !== undefined && sealOf(by) > this.#options.layout.number) {
      this.#fail("moved", this.#sealed());
      return;
    }
    const owner = by === undefined ? "" : ` by ${claimName(by)}`;
    this.#fail(
      "moved",
      new SporeError("partition-moved", `partition ${this.index} was taken over${owner}`, {
        hint: "Send the request to the new owner.",
      }),
    );
  }

  #sealed(): SporeError {
    return new SporeError("layout-changing", `partition ${this.index} is being moved`, {
      hint: "Try again in a moment.",
    });
  }

  async #sweep(): Promise<void> {
    this.#ports.observer.count("spore_segments_swept_total", await this.#tableNow().sweep());
  }

  // -------------------------------------------------------------- faults

  /** A fault of ours stops the partition; the host opens it again from its log. */
  async #background(work: Promise<unknown>): Promise<void> {
    try {
      await work;
    } catch (error) {
      if (this.#state === "moved" || this.#state === "stopped") return;
      if (error instanceof SporeError && error.kind !== "internal" && error.kind !== "corrupt") {
        this.#ports.observer.log("warn", error.message, { code: error.code });
        return;
      }
      // A successor may have deleted what seems to be missing: then nothing is corrupt.
      if (
        error instanceof SporeError &&
        error.kind === "corrupt" &&
        (await this.#commits.isFenced())
      )
        return;
      this.#ports.observer.log("error", `partition ${this.index} stops: ${messageOf(error)}`, {
        stack: error instanceof Error ? error.stack : undefined,
      });
      const spore =
        error instanceof SporeError
          ? error
          : new SporeError("internal", messageOf(error), { cause: error });
      this.#fail("moved", spore);
    }
  }
}

// ---------------------------------------------------------------- helpers

/** Faults that aren't the run's own: it waits, untouched, until somebody resumes it. */
const hostFaults: ReadonlySet<string> = new Set([
  "memory-too-large",
  "guest-diverged",
  "corrupt-image",
  "component-not-found",
  "object-not-found",
]);

function claimName(info: Uint8Array): string {
  const claim = decodeRow<{ hostId: string; address?: string }>("claim", info);
  return claim.address ?? claim.hostId;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
