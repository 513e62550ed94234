/**
 * The one door to the engine. A host (Node, Workers, a test) hands in the ports and
 * gets a `Host`; every call names a tenant. Values cross as `Encoded` (CBOR), errors as
 * SporeError. What a call answers is durable when it answers (I3).
 */
import type {
  Definition,
  Encoded,
  ErrorValue,
  Manifest,
  Outcome,
  QueueLimits,
  QueueOptions,
} from "../guest/protocol.ts";
import type { SporeError } from "./errors.ts";
import type { EventView, OpenEvent } from "./events.ts";
import type { Overlap, ScheduledRun, ScheduleSpec } from "./format.ts";
import type { AbortSignalLike, ByteRange, ComponentSource } from "./ports.ts";

export type { QueueLimits, QueueOptions } from "../guest/protocol.ts";
export { check } from "./check.ts";
export { Collecting } from "./collecting.ts";
export { type CollectorPorts, collect } from "./collector.ts";
export { copyNamespace } from "./copy.ts";
export type { OpenEvent } from "./events.ts";
export type { Overlap, ScheduledRun, ScheduleSpec } from "./format.ts";
export type { HostOptions, Placement } from "./host.ts";
export { partitionsMax } from "./layout.ts";
export { createHost } from "./moving.ts";
export { findNamespace } from "./namespace.ts";
export { statuses } from "./run.ts";
export { type FoundHost, surveyHosts } from "./survey.ts";

export type Status =
  | "PENDING"
  | "RUNNING"
  | "PAUSED"
  | "SUCCESSFUL"
  | "FAILED"
  | "CANCELED"
  | "RESUMABLE";

/** What a client may do with the id of an existing run (PROTOCOL part 2). */
export type IfExists = "resume" | "fail" | "start" | "terminate";

export interface StartRequest {
  /** The asker's place in a trace (trace.ts). */
  readonly trace?: string | undefined;
  /** Absent: a random id. 1 to 200 characters of `A-Z a-z 0-9 . _ : ~ @ + = , -`, not only dots. */
  readonly id?: string | undefined;
  /** Exactly one of `workflow` and `root`. */
  readonly workflow?: string | undefined;
  /** Encoded array of arguments; default: none. */
  readonly args?: Encoded | undefined;
  /** Encoded GraphValue. */
  readonly root?: Encoded | undefined;
  readonly ifExists?: IfExists | undefined;
  /** Default: the tenant's current component. */
  readonly component?: string | undefined;
  readonly tags?: Readonly<Record<string, string>> | undefined;
  readonly metadata?: Encoded | undefined;
  /** PENDING until then. */
  readonly startAtMs?: number | undefined;
  /** Canceled then if it isn't closed, and FAILED with a TimeoutError. */
  readonly deadlineMs?: number | undefined;
  /** Deleted this long after it has closed. Default: the host's. */
  readonly retentionMs?: number | undefined;
  /** Which queue it passes; default: what the workflow's definition says. */
  readonly queue?: QueueOptions | undefined;
  /**
   * Answer when the run has closed, or after this long. Saves the commit that an answer
   * before the end would need.
   */
  readonly waitMs?: number | undefined;
  /** Delivered in the transition that starts the run, or to the one that is there. */
  readonly signal?:
    | { readonly name: string; readonly value: Encoded; readonly messageId?: string | undefined }
    | undefined;
  /** As `signal`; then `waitMs` is how long to wait for the update (default: until it is done). */
  readonly update?:
    | { readonly name: string; readonly args: Encoded; readonly updateId?: string | undefined }
    | undefined;
}

export interface StartResult {
  readonly id: string;
  readonly status: Status;
  readonly created: boolean;
  /** Present when the run is closed. */
  readonly outcome?: Outcome | undefined;
  /** The outcome's value is too large for an answer: a Ref of it is given. */
  readonly isStored?: true | undefined;
  /** Of a start with a signal: whether the run had it before. */
  readonly duplicate?: boolean | undefined;
  /** Of a start with an update. */
  readonly update?: CallResult | undefined;
}

export interface ForkRequest {
  /** The step before which the fork parts: that step and what follows run in it. */
  readonly step: string;
  /** The new run's. Absent: a random one. A repeated request with it finds the fork. */
  readonly id?: string | undefined;
  /** What it goes on with, if that does the same up to the step. Default: the run's own. */
  readonly component?: string | undefined;
}

export interface RerunRequest {
  readonly id?: string | undefined;
  /** Encoded array; absent: those of the run. */
  readonly args?: Encoded | undefined;
  /** Of a graph run; absent: its own. */
  readonly root?: Encoded | undefined;
  /** Steps of the same identity and arguments take the run's results. Default false. */
  readonly reuse?: boolean | undefined;
  /** Default: the tenant's current one. */
  readonly component?: string | undefined;
}

export interface MoveRequest {
  /** Default: the tenant's current one. */
  readonly component?: string | undefined;
  /** Only compare. */
  readonly isDryRun?: boolean | undefined;
}

/** `same`: it could be moved, or is there. `diverged`: the new code does something else. */
export type MoveResult = { readonly id: string; readonly from: string; readonly to: string } & (
  | { readonly kind: "moved" | "same"; readonly activations: number }
  | {
      readonly kind: "diverged";
      /** Number of the activation in the run's life, from 0. */
      readonly activation: number;
      readonly what: string;
      readonly before: string;
      readonly after: string;
    }
);

export interface RunView {
  readonly id: string;
  readonly name: string;
  readonly status: Status;
  readonly component: string;
  readonly attempt: number;
  readonly createdAtMs: number;
  readonly closedAtMs?: number | undefined;
  /** Closed, and deleted then. */
  readonly expiresAtMs?: number | undefined;
  readonly parentId?: string | undefined;
  readonly rootId?: string | undefined;
  /** It has that run's past up to the step. */
  readonly forkedFrom?: { readonly id: string; readonly step: string } | undefined;
  /** The run that it does again. */
  readonly rerunOf?: string | undefined;
  /** The last 100 runs that were made of it. */
  readonly forks: readonly string[];
  readonly reruns: readonly string[];
  readonly tags: Readonly<Record<string, string>>;
  readonly metadata?: Encoded | undefined;
  /** Present while not closed: one sentence on what it waits for, since and until when. */
  readonly waiting?:
    | { readonly for: string; readonly sinceMs: number; readonly untilMs?: number | undefined }
    | undefined;
  /** What a step has said last of how far it is. */
  readonly progress?:
    | { readonly step: string; readonly atMs: number; readonly value: Encoded }
    | undefined;
  /** Present when FAILED, CANCELED or RESUMABLE. */
  readonly error?: ErrorValue | undefined;
  readonly queries: readonly string[];
  readonly updates: readonly string[];
  /** Step records so far. */
  readonly records: number;
  /** Size of the saved memory image; 0 if the run needs none. */
  readonly imageBytes: number;
  /** Activations since that image: what a wake-up has to recompute. */
  readonly journalLength: number;
}

export type OutputResult =
  | {
      readonly kind: "ready";
      readonly outcome: Outcome;
      readonly status: Status;
      readonly isStored?: true | undefined;
    }
  | { readonly kind: "pending"; readonly status: Status };

/** The latest value that a run has published under a name. */
export type PublishedResult =
  | { readonly kind: "ready"; readonly value: Encoded; readonly atMs: number }
  | { readonly kind: "pending"; readonly status: Status };

export interface StepView {
  readonly step: string;
  readonly name: string;
  readonly status: "RUNNING" | "RETRYING" | "SUCCESSFUL" | "FAILED" | "CONTINUED";
  readonly attempt: number;
  readonly startedAtMs: number;
  readonly endedAtMs?: number | undefined;
  readonly value?: Encoded | undefined;
  readonly error?: ErrorValue | undefined;
  readonly nextAtMs?: number | undefined;
  readonly into?: string | undefined;
  /** What an attempt has said last of how far it is. */
  readonly progress?: Encoded | undefined;
  /** This step undoes that one. */
  readonly compensates?: string | undefined;
  /** Nothing ran: the value is that of the same step in the run that this one repeats. */
  readonly reused?: boolean | undefined;
  readonly metadata?: Encoded | undefined;
}

/** One line of a run's history, oldest first; `index` is dense from 0 and never changes. */
export interface HistoryEvent {
  readonly index: number;
  readonly atMs: number;
  /** `run.started`, `run.succeeded`, `step.succeeded`, `signal.received`, `log` … */
  readonly type: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface RunFilter {
  readonly statuses?: readonly Status[] | undefined;
  /** Of one of these workflows. */
  readonly names?: readonly string[] | undefined;
  readonly idPrefix?: string | undefined;
  /** Id of their component, or how it begins. */
  readonly component?: string | undefined;
  readonly tag?: { readonly key: string; readonly value: string } | undefined;
  /** Created then or later. */
  readonly createdAfterMs?: number | undefined;
  /** Created earlier than this. */
  readonly createdBeforeMs?: number | undefined;
}

export type BulkAction = "cancel" | "terminate" | "pause" | "resume" | "delete";

export interface BulkRequest {
  readonly action: BulkAction;
  /** Without statuses: those in which a run can take the action. */
  readonly filter: RunFilter;
  readonly reason?: string | undefined;
  /** Say only which runs it would be. */
  readonly isDryRun?: boolean | undefined;
  /** 1 to 1000; default 1000. */
  readonly limit?: number | undefined;
  readonly cursor?: string | undefined;
}

export interface BulkResult {
  /** Newest first; with an error where the action was refused. */
  readonly runs: readonly {
    readonly id: string;
    readonly status: Status;
    readonly error?: SporeError | undefined;
  }[];
  readonly cursor?: string | undefined;
}

export interface ListRequest extends RunFilter {
  /** 1 to 1000; default 100. */
  readonly limit?: number | undefined;
  readonly cursor?: string | undefined;
}

export interface ListResult {
  /** Newest first. */
  readonly runs: readonly RunSummary[];
  /** Present when there may be more. */
  readonly cursor?: string | undefined;
}

export interface RunSummary {
  readonly id: string;
  readonly name: string;
  /** The first 16 digits of its component's id. */
  readonly component: string;
  readonly status: Status;
  readonly createdAtMs: number;
  readonly closedAtMs?: number | undefined;
  readonly tags: Readonly<Record<string, string>>;
}

export interface ActorView {
  readonly type: string;
  readonly key: string;
  readonly component: string;
  readonly createdAtMs: number;
  /** Completed mutating calls. */
  readonly turns: number;
  readonly stateBytes: number;
  readonly mailbox: number;
  readonly busy: boolean;
  /** Stopped by its policy (`onError: "stop"`) until resumed. */
  readonly stopped: boolean;
  readonly reminders: readonly {
    readonly name: string;
    readonly method: string;
    readonly atMs: number;
  }[];
  /** Component before the last upgrade: what a rollback goes back to. */
  readonly previousComponent?: string | undefined;
  /** The last upgrade, if it failed: to which component, and why. */
  readonly failedUpgrade?:
    | {
        readonly component: string;
        readonly error: { readonly name: string; readonly message: string };
      }
    | undefined;
}

export interface ListActorsRequest {
  readonly type?: string | undefined;
  /** Only with `type`. */
  readonly keyPrefix?: string | undefined;
  /** 1 to 1000; default 100. */
  readonly limit?: number | undefined;
  readonly cursor?: string | undefined;
}

export interface ListActorsResult {
  /** By type and key. */
  readonly actors: readonly ActorView[];
  readonly cursor?: string | undefined;
}

export interface ActorState {
  readonly state: Encoded;
  /** For `editActor`: the state is that after this many turns. */
  readonly turns: number;
}

export interface ScheduleRequest extends ScheduleSpec {
  /** Encoded array of arguments; default: none. */
  readonly args?: Encoded | undefined;
  /** Slots that may start a run; absent: all. */
  readonly remaining?: number | undefined;
  readonly isPaused?: boolean | undefined;
  readonly note?: string | undefined;
}

export interface ScheduleView {
  readonly id: string;
  readonly spec: ScheduleSpec;
  readonly args: Encoded;
  readonly isPaused: boolean;
  readonly note?: string | undefined;
  readonly remaining?: number | undefined;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  /** When the next five slots are run, jitter included; none while it is paused. */
  readonly nextAtMs: readonly number[];
  /** Ids of runs that go on. */
  readonly running: readonly string[];
  /** Slots that wait for an earlier run to end. */
  readonly waiting: number;
  readonly backfills: number;
  /** The last ten runs, newest first. */
  readonly runs: readonly ScheduledRun[];
  readonly started: number;
  readonly skipped: number;
  readonly missed: number;
}

export interface ListSchedulesRequest {
  /** 1 to 1000; default 100. */
  readonly limit?: number | undefined;
  readonly cursor?: string | undefined;
}

export interface ListSchedulesResult {
  /** By id. */
  readonly schedules: readonly ScheduleView[];
  readonly cursor?: string | undefined;
}

export interface BackfillRequest {
  readonly fromMs: number;
  readonly toMs: number;
  /** Default: buffer-all, one after the other. */
  readonly overlap?: Overlap | undefined;
  /** Only say what would be done. */
  readonly isPreview?: boolean | undefined;
}

export interface BackfillResult {
  readonly slots: number;
  readonly firstMs?: number | undefined;
  readonly lastMs?: number | undefined;
}

export interface QueueView {
  readonly name: string;
  /** Those that hold. */
  readonly limits: QueueLimits;
  /** By the code that was deployed last; else by a client. */
  readonly isDeclared: boolean;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  readonly running: number;
  readonly waiting: number;
  /** Runs let through in all its life. */
  readonly admitted: number;
  /** The first ten who wait, in order. */
  readonly next: readonly {
    readonly runId: string;
    readonly priority: number;
    readonly key?: string | undefined;
    readonly sinceMs: number;
  }[];
}

export interface ListQueuesRequest {
  /** 1 to 1000; default 100. */
  readonly limit?: number | undefined;
  readonly cursor?: string | undefined;
}

export interface ListQueuesResult {
  readonly queues: readonly QueueView[];
  readonly cursor?: string | undefined;
}

export interface CallRequest {
  /** The asker's place in a trace (trace.ts). */
  readonly trace?: string | undefined;
  readonly type: string;
  readonly key: string;
  readonly method: string;
  /** Encoded array of arguments. */
  readonly args: Encoded;
  /** Answer as soon as the call is durably accepted. */
  readonly isAsync?: boolean | undefined;
  /** Makes the call safe to repeat. */
  readonly callId?: string | undefined;
  /** What to do about an actor that isn't there. Default: create, unless the method only reads. */
  readonly ifMissing?: "create" | "fail" | undefined;
  /** Calls with one session id to one actor are executed in the order of `seq` (dense from 1). */
  readonly session?: SessionCall | undefined;
}

export interface SessionCall {
  readonly id: string;
  readonly seq: number;
  /**
   * The caller has had answers to all calls up to this one: they aren't waited for, though an
   * actor that was deleted and made anew knows nothing of them.
   */
  readonly answered?: number | undefined;
}

export type CallResult =
  | { readonly kind: "accepted"; readonly callId: string }
  | { readonly kind: "done"; readonly callId: string; readonly outcome: Outcome };

export interface ComponentView {
  readonly id: string;
  readonly definitions: readonly Definition[];
  readonly isCurrent: boolean;
}

/** One version of which component is current. */
export interface DeploymentView {
  /** Counts up from 1. */
  readonly seq: number;
  readonly component: string;
  readonly atMs: number;
  readonly isCurrent: boolean;
  /** Of a rollback: the deployment that it went back to. */
  readonly rollbackTo?: number | undefined;
}

/** Who still needs which component, by the first 16 digits of its id. */
export interface ComponentUse {
  readonly components: readonly {
    readonly component: string;
    /** Runs that aren't closed, by status. */
    readonly runs: Readonly<Partial<Record<Status, number>>>;
    readonly actors: number;
  }[];
  /** There are more than were counted. */
  readonly isPartial: boolean;
}

export interface RepartitionProgress {
  /** `sealed`: the old partitions have ended, the new ones don't serve yet. */
  readonly phase: "copying" | "following" | "sealed" | "done";
  /** Rows written to new partitions so far. */
  readonly rows: number;
}

export interface Host {
  /** Takes the partitions that it can and serves them. Resolves when ready. */
  start(): Promise<void>;
  /** Stops cleanly: no new work, pending commits finish. */
  stop(): Promise<void>;
  readonly isReady: boolean;
  tenant(name: string): TenantHost;
  /** The event that a token is for; the token is all the authority that it takes. */
  event(token: string): Promise<EventView>;
  /** Decides it, once. Throws event-not-found and event-decided. */
  decideEvent(token: string, outcome: Outcome): Promise<{ readonly duplicate: boolean }>;
  /** Signs tokens with a new key from now on; what older ones have signed stays good. */
  rotateEventKeys(): Promise<{ readonly key: number }>;
  status(): HostStatus;
  /** The hosts of the namespace as this one sees them, and who serves what. */
  cluster(): ClusterView;
  /**
   * Gives its partitions to other hosts, as many as take them in that time. Requests go on
   * being answered, by whoever serves them then.
   */
  drain(timeoutMs: number): Promise<void>;
  /**
   * Answers another host of the namespace (`Peers.call`). With an address of its own the host
   * answers only what is sealed by one of them, and rejects with unauthorised; else it trusts
   * whoever asks, and never rejects.
   */
  serve(request: Uint8Array): Promise<Uint8Array>;
  /**
   * Deletes what nothing refers to, in the whole namespace; may run beside anything. Throws
   * host-busy if another collection has just begun.
   */
  collect(options: { readonly isDryRun?: boolean | undefined }): Promise<GarbageReport>;
  /**
   * Puts the namespace into another number of partitions while hosts serve it, and resolves
   * when the new layout holds. Requests wait or are refused for the moment in which the logs
   * end. Throws layout-changing if another change is under way or this one took too long.
   */
  repartition(
    partitions: number,
    onProgress?: (progress: RepartitionProgress) => void,
  ): Promise<{ readonly partitions: number }>;
}

/** A stored value: `hash` and `size` are what a Ref to it carries. */
export interface StoredObject {
  readonly hash: string;
  /** Of the encoded value. */
  readonly size: number;
  /** Kept until then even if nothing refers to it. */
  readonly expiresAtMs: number;
}

export interface Garbage {
  readonly count: number;
  readonly bytes: number;
}

export interface GarbageReport {
  readonly isDryRun: boolean;
  readonly objects: Garbage;
  readonly components: Garbage;
  /** Source maps. */
  readonly maps: Garbage;
  readonly segments: Garbage;
  /** Components that nobody uses, and that a later collection deletes. */
  readonly condemned: number;
}

export interface Damage {
  /** Of an object, or of a row. */
  readonly key: string;
  readonly what: string;
  /** Runs and actors that it is about; of a block of rows, the first and the last. */
  readonly touches?: readonly string[] | undefined;
}

/** What a check of a whole namespace has read, and found. */
export interface CheckReport {
  readonly isSound: boolean;
  /** The first 1,000. */
  readonly damages: readonly Damage[];
  readonly damageCount: number;
  readonly partitions: number;
  readonly entries: number;
  readonly segments: number;
  readonly rows: number;
  readonly runs: number;
  readonly actors: number;
  readonly images: number;
  readonly components: number;
  readonly objects: number;
  readonly objectBytes: number;
}

export interface CopyReport {
  readonly objects: number;
  readonly bytes: number;
  /** Objects that an earlier attempt had copied. */
  readonly alreadyThere: number;
  /** What is damaged in the source's logs; the copy is whole without it. */
  readonly damages: readonly Damage[];
  readonly partitions: number;
  readonly runs: number;
  readonly actors: number;
  readonly rows: number;
}

export interface HostStatus {
  readonly hostId: string;
  /** Of the namespace: the ones that this host serves and all others. */
  readonly partitionCount: number;
  readonly partitions: readonly {
    readonly partition: number;
    readonly state: "claiming" | "owned" | "moved" | "stopped";
    readonly seq: number;
    readonly residentEntities: number;
    readonly memtableBytes: number;
    /** Of the log, what a new owner would have to read: what came after the checkpoint. */
    readonly logLag: { readonly entries: number; readonly bytes: number };
    /** When the next durable timer is due, or is to be looked for; undefined: there is none. */
    readonly nextTimerAtMs: number | undefined;
  }[];
}

export interface ClusterView {
  /** Of the namespace. */
  readonly partitions: number;
  /** This one first. */
  readonly hosts: readonly {
    readonly hostId: string;
    readonly address: string;
    readonly isSelf: boolean;
    readonly state: "live" | "draining" | "dead";
    /** That it serves. */
    readonly partitions: readonly number[];
  }[];
}

export interface TenantHost {
  /** Stores a component and makes it the tenant's current one. Same bytes, same id. */
  deploy(source: ComponentSource): Promise<{ readonly id: string; readonly manifest: Manifest }>;
  currentComponent(): Promise<ComponentView | undefined>;
  /**
   * Looks up and loads what starting a run needs: for a host that starts because of a request,
   * beside opening its partitions. What fails is looked up again when it is needed.
   */
  warmUp(): Promise<void>;
  /** Newest first, at most 100 and `limit`, those before version `before`. */
  deployments(options?: {
    limit?: number | undefined;
    before?: number | undefined;
  }): Promise<readonly DeploymentView[]>;
  /**
   * Makes current again what was before the present deployment, or the component `to` (its id, or
   * how that begins). Throws deployment-changed if somebody else deploys at the same time.
   */
  rollBack(to?: string): Promise<DeploymentView>;
  /** Open runs and actors by component. */
  componentUse(): Promise<ComponentUse>;

  /** Stores a value for a day, and from then on as long as something refers to it. */
  putObject(value: Encoded): Promise<StoredObject>;
  /** A stored value by the name in its Ref. Throws object-not-found. */
  getObject(name: string): Promise<Encoded>;
  /**
   * How many bytes the value is, if it is bytes or an array of numbers ("Float64Array", in
   * little-endian order); undefined for another. Throws object-not-found.
   */
  objectBytes(
    name: string,
  ): Promise<{ readonly length: number; readonly type: string } | undefined>;
  /** A part of the bytes of such a value. Throws object-not-found, invalid-request. */
  getObjectPart(name: string, range: ByteRange): Promise<Uint8Array>;

  startRun(request: StartRequest): Promise<StartResult>;
  getRun(id: string): Promise<RunView>;
  /** Waits up to `waitMs` (default 0) for the run, or for the named step, to end. */
  output(id: string, options?: { waitMs?: number; step?: string }): Promise<OutputResult>;
  /** Waits up to `waitMs` (default 0) for a value of that name. */
  published(id: string, name: string, options?: { waitMs?: number }): Promise<PublishedResult>;
  steps(
    id: string,
    options?: { after?: number | undefined; limit?: number | undefined },
  ): Promise<readonly StepView[]>;
  history(
    id: string,
    options?: { from?: number | undefined; limit?: number | undefined },
  ): Promise<readonly HistoryEvent[]>;
  /** History from `from`, then live, until the run is closed or `signal` aborts. */
  events(
    id: string,
    options: { from: number; signal: AbortSignalLike },
  ): AsyncIterable<HistoryEvent>;
  listRuns(request: ListRequest): Promise<ListResult>;
  /** One page of runs that match, each acted upon by itself. */
  bulk(request: BulkRequest): Promise<BulkResult>;

  cancelRun(id: string, reason: string): Promise<RunView>;
  terminateRun(id: string, reason: string): Promise<RunView>;
  pauseRun(id: string): Promise<RunView>;
  /** Goes on with a PAUSED run, retries a FAILED one from its failed step, repairs a RESUMABLE one. */
  resumeRun(id: string): Promise<RunView>;
  resumeAll(options: {
    includeFailed: boolean;
  }): Promise<readonly { id: string; status: Status }[]>;
  deleteRun(id: string): Promise<void>;
  /** A new run with this one's past up to a step. Throws step-not-found, not-replayable. */
  forkRun(id: string, request: ForkRequest): Promise<StartResult>;
  /** A new run that does again what this one did, with other input if that is given. */
  rerunRun(id: string, request: RerunRequest): Promise<StartResult>;
  /**
   * Goes on with another component, if that does the same with all that the run has been given
   * in this life. Throws run-closed, not-replayable.
   */
  moveRun(id: string, request: MoveRequest): Promise<MoveResult>;

  signalRun(
    id: string,
    name: string,
    value: Encoded,
    options?: { messageId?: string },
  ): Promise<{ duplicate: boolean }>;
  /** Events of a run that somebody with a token may still decide, oldest first. */
  openEvents(id: string): Promise<readonly OpenEvent[]>;
  /** Makes the token of one worthless. Throws event-not-found. */
  revokeEvent(id: string, event: number): Promise<void>;
  queryRun(id: string, name: string, args: Encoded): Promise<Outcome>;
  updateRun(
    id: string,
    name: string,
    args: Encoded,
    options?: { updateId?: string; waitMs?: number; until?: "accepted" | "completed" },
  ): Promise<CallResult>;

  /** Gets or creates; arguments are ignored if it exists. */
  ensureActor(
    type: string,
    key: string,
    args: Encoded,
  ): Promise<{ created: boolean; actor: ActorView }>;
  callActor(request: CallRequest): Promise<CallResult>;
  /** Result of an earlier call, by its id. */
  callResult(
    type: string,
    key: string,
    callId: string,
    options?: { waitMs?: number },
  ): Promise<CallResult>;
  getActor(type: string, key: string): Promise<ActorView>;
  listActors(request: ListActorsRequest): Promise<ListActorsResult>;
  actorState(type: string, key: string): Promise<ActorState>;
  /** Replaces the state if the actor is idle and has had exactly `turns` turns. */
  editActor(type: string, key: string, edit: ActorState): Promise<ActorView>;
  /** A new actor under another key with the state as it is now. Throws actor-exists. */
  forkActor(type: string, key: string, into: string): Promise<ActorView>;
  /** The last events, oldest first; see `HistoryEvent`. */
  actorHistory(
    type: string,
    key: string,
    options?: { from?: number | undefined; limit?: number | undefined },
  ): Promise<readonly HistoryEvent[]>;
  /** The last events from `from` on, then live until `signal` aborts or the actor is deleted. */
  actorEvents(
    type: string,
    key: string,
    options: { from: number; signal: AbortSignalLike },
  ): AsyncIterable<HistoryEvent>;
  signalActor(
    type: string,
    key: string,
    name: string,
    value: Encoded,
    options?: { messageId?: string },
  ): Promise<{ duplicate: boolean }>;
  /** Goes on after a stop by policy. */
  resumeActor(type: string, key: string): Promise<ActorView>;
  /**
   * Moves actors to a component at their next turn boundary through the class's `upgrade`:
   * one key, keys with a prefix, or all of a type. Calls do so by themselves.
   */
  upgradeActors(request: {
    readonly type: string;
    readonly key?: string | undefined;
    readonly keyPrefix?: string | undefined;
    /** Default: the current one. */
    readonly component?: string | undefined;
  }): Promise<{ readonly requested: number }>;
  /** Back to component and state before the last upgrade; what happened since is lost. */
  rollBackActor(type: string, key: string): Promise<ActorView>;
  deleteActor(type: string, key: string): Promise<void>;

  /** Throws schedule-exists. */
  createSchedule(id: string | undefined, request: ScheduleRequest): Promise<ScheduleView>;
  /** Creates, or replaces what is to be run and when; runs that go on are left alone. */
  putSchedule(
    id: string,
    request: ScheduleRequest,
  ): Promise<{ readonly created: boolean; readonly schedule: ScheduleView }>;
  getSchedule(id: string): Promise<ScheduleView>;
  /** By id. */
  listSchedules(request: ListSchedulesRequest): Promise<ListSchedulesResult>;
  /** Its runs go on. */
  deleteSchedule(id: string): Promise<void>;
  pauseSchedule(id: string, note?: string): Promise<ScheduleView>;
  resumeSchedule(id: string, note?: string): Promise<ScheduleView>;
  /** One run now; repeating a trigger id changes nothing. */
  triggerSchedule(
    id: string,
    options?: { overlap?: Overlap; triggerId?: string },
  ): Promise<{ readonly duplicate: boolean; readonly schedule: ScheduleView }>;
  backfillSchedule(id: string, request: BackfillRequest): Promise<BackfillResult>;

  /**
   * Sets what a queue lets through, from now on; makes it if there is none. The queue `all`
   * is passed by every run that is started from now on and is no child.
   */
  putQueue(
    name: string,
    limits: QueueLimits,
  ): Promise<{ readonly created: boolean; readonly queue: QueueView }>;
  getQueue(name: string): Promise<QueueView>;
  /** By name. */
  listQueues(request: ListQueuesRequest): Promise<ListQueuesResult>;
  /** Takes back what was set: what the code declares holds again, or else the queue is gone. */
  deleteQueue(name: string): Promise<void>;
}
