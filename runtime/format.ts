/**
 * Row keys of a partition's table, and what the rows hold. docs/FORMAT.md is the prose.
 * All rows of one entity but its history share the prefix `e/<entity>/`, so that waking
 * it is one ranged read. Numbers in keys are fixed-width hex: code-unit order is number
 * order.
 */
import { decode, encode } from "../guest/cbor.ts";
import type {
  Encoded,
  ErrorValue,
  FetchRequest,
  Outcome,
  QueueLimits,
  QueueOptions,
  ReusedStep,
  StartOptions,
} from "../guest/protocol.ts";
import { SporeError } from "./errors.ts";
import type { EntityKey } from "./ids.ts";
import type { Status } from "./index.ts";
import type { ByteRange } from "./ports.ts";
import type { TokenClaims } from "./tokens.ts";

export const formatVersion = 1;

// ---------------------------------------------------------------- keys

export const rowKeys = {
  entity: (key: EntityKey) => `e/${key}/`,
  head: (key: EntityKey) => `e/${key}/!`,
  command: (key: EntityKey, id: number) => `e/${key}/c/${hex(id, 8)}`,
  call: (key: EntityKey, index: number) => `e/${key}/d/${hex(index, 10)}`,
  image: (key: EntityKey) => `e/${key}/i`,
  event: (key: EntityKey, serial: number) => `e/${key}/k/${hex(serial, 10)}`,
  journal: (key: EntityKey, index: number) => `e/${key}/j/${hex(index, 10)}`,
  mail: (key: EntityKey, index: number) => `e/${key}/m/${hex(index, 10)}`,
  input: (key: EntityKey, index: number) => `e/${key}/n/${hex(index, 10)}`,
  state: (key: EntityKey) => `e/${key}/o`,
  member: (key: EntityKey, place: number) => `e/${key}/q/${hex(place, 8)}`,
  reminder: (key: EntityKey, name: string) => `e/${key}/r/${name}`,
  signal: (key: EntityKey, index: number) => `e/${key}/s/${hex(index, 10)}`,
  session: (key: EntityKey, session: string) => `e/${key}/u/${session}`,
  previous: (key: EntityKey) => `e/${key}/v`,
  watcher: (key: EntityKey, index: number) => `e/${key}/w/${hex(index, 10)}`,
  /** Named by the hash of an object that the entity's memory may refer to. */
  hold: (key: EntityKey, hash: string) => `b/${key}/${hash}`,
  heldBy: (key: EntityKey) => `b/${key}/`,
  held: "b/",
  history: (key: EntityKey, index: number) => `h/${key}/${hex(index, 10)}`,
  historyOf: (key: EntityKey) => `h/${key}/`,
  published: (key: EntityKey, name: string) => `g/${key}/${latin1Of(name)}`,
  publishedOf: (key: EntityKey) => `g/${key}/`,
  past: (key: EntityKey, index: number) => `k/${key}/${hex(index, 10)}`,
  pastOf: (key: EntityKey) => `k/${key}/`,
  /** Newest first within a status. */
  listed: (tenant: string, kind: string, status: string, createdAtMs: number, name: string) =>
    `x/${tenant}/${kind}/${status}/${hex(timeMax - createdAtMs, 12)}/${name}`,
  listedIn: (tenant: string, kind: string, status: string) => `x/${tenant}/${kind}/${status}/`,
  listedRuns: (tenant: string) => `x/${tenant}/r/`,
  /** The same among those of a name or a tag: `indexOfName`, `indexOfTag`. */
  indexed: (tenant: string, index: string, listed: string) => `y/${tenant}/${index}/${listed}`,
  /** From which time of creation on a partition's runs are indexed. */
  indexedFrom: "i/",
  listedActors: (tenant: string) => `x/${tenant}/a/`,
  listedQueues: (tenant: string) => `x/${tenant}/q/`,
  listedSchedules: (tenant: string) => `x/${tenant}/s/`,
  timer: (atMs: number, key: EntityKey, id: number) =>
    `t/${hex(Math.min(atMs, timeMax), 12)}/${hex(id, 8)}/${key}`,
  timers: "t/",
  attention: (key: EntityKey) => `a/${key}`,
  attentions: "a/",
  /** An entity that is deleted and whose other rows may still be there. */
  removal: (key: EntityKey) => `z/${key}`,
  removals: "z/",
  outbox: (partition: number, index: number) => `o/${hex(partition, 4)}/${hex(index, 12)}`,
  outboxes: "o/",
  outboxCounter: (partition: number) => `p/${hex(partition, 4)}`,
  outboxCounters: "p/",
  inbox: (partition: number) => `q/${hex(partition, 4)}`,
  inboxes: "q/",
} as const;

/** Lists are newest first: their keys have the time taken from this. */
export const timeMax = 0xffff_ffff_ffff;

export function hex(value: number, width: number): string {
  return Math.max(0, Math.floor(value)).toString(16).padStart(width, "0");
}

/** The entity that a row belongs to; undefined for those of the partition itself. */
export function entityOfRow(rowKey: string): EntityKey | undefined {
  switch (rowKey.slice(0, 2)) {
    case "e/":
    case "h/":
    case "g/":
    case "k/":
    case "b/": {
      const parts = rowKey.slice(2).split("/");
      return parts.slice(0, parts[1] === "a" ? 4 : 3).join("/") as EntityKey; // written by rowKeys
    }
    case "a/":
    case "z/":
      return rowKey.slice(2) as EntityKey;
    case "t/":
      return timerOfRow(rowKey).key;
    case "y/": {
      const [tenant = "", , , , ...name] = rowKey.slice(2).split("/");
      return `${tenant}/r/${name.join("/")}` as EntityKey;
    }
    case "x/": {
      const [tenant = "", kind = "", ...rest] = rowKey.slice(2).split("/");
      // A run's name stands behind its status and time.
      return `${tenant}/${kind}/${(kind === "r" ? rest.slice(2) : rest).join("/")}` as EntityKey;
    }
    default:
      return undefined;
  }
}

export function indexOfName(name: string): string {
  return `n.${keyText(name)}`;
}

export function indexOfTag(key: string, value: string): string {
  return `t.${keyText(key)}=${keyText(value)}`;
}

/** Characters of an indexed text: what is longer shares its place with what begins like it. */
const indexedCharsMax = 100;
const loneSurrogate = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** Any text as part of a key; the same before it was stored and after. */
function keyText(text: string): string {
  return text
    .replaceAll(loneSurrogate, "\ufffd")
    .slice(0, indexedCharsMax)
    .replaceAll(/[^A-Za-z0-9_.-]/g, (unit) => `~${hex(unit.charCodeAt(0), 4)}`);
}

/** Any name without a backslash as Latin-1, one to one. */
function latin1Of(name: string): string {
  return name.replaceAll(/[\u0100-\uffff]/g, (unit) => `\\${hex(unit.charCodeAt(0), 4)}`);
}

export function timerOfRow(rowKey: string): { atMs: number; id: number; key: EntityKey } {
  return {
    atMs: Number.parseInt(rowKey.slice(2, 14), 16),
    id: Number.parseInt(rowKey.slice(15, 23), 16),
    key: rowKey.slice(24) as EntityKey, // written by rowKeys.timer
  };
}

// ---------------------------------------------------------------- rows

/** Common part of both heads: the machine whose memory is (image, journal since). */
export interface MachineHead {
  /** A run keeps its own for ever; an actor moves on by upgrades. */
  component: string;
  /** Activations journaled so far in this life of the machine. */
  version: number;
  /** Activations whose commands are applied: `version` or `version - 1`. */
  applied: number;
  /** Version that the image row holds; 0 without one. */
  imageVersion: number;
  imageBytes: number;
  lastNowMs: number;
  /** Counts lives of the machine (turns, retries, continue-as-new): names resident memories apart. */
  life: number;
  nextInput: number;
  nextHistory: number;
  nextSignal: number;
}

export interface RunHead extends MachineHead {
  readonly kind: "run";
  readonly name: string;
  readonly createdAtMs: number;
  readonly inputHash: Uint8Array;
  readonly parent?: string | undefined;
  readonly root?: string | undefined;
  readonly parentClose?: "terminate" | "cancel" | "abandon" | undefined;
  readonly metadata?: Encoded | undefined;
  /** Its place in a trace, and its parent's (trace.ts). */
  readonly trace?: { readonly self: string; readonly parent: string } | undefined;
  tags: Readonly<Record<string, string>>;
  status: Status;
  attempt: number;
  closedAtMs?: number | undefined;
  outcome?: Outcome | undefined;
  waitingFor?: string | undefined;
  waitingSinceMs: number;
  queries: readonly string[];
  updates: readonly string[];
  children: readonly string[];
  nextWatcher: number;
  nextCall: number;
  records: number;
  /** Version after which the memory stands right before the failed step's rejection. */
  resumeVersion?: number | undefined;
  resumeStep?: string | undefined;
  /** Where in the history the activation begins that a resume takes back. */
  resumeHistory?: number | undefined;
  /**
   * After a fault, while its step is looked for: `find` lets no step begin, `one` lets one
   * begin in each activation, `nextStep`.
   */
  careful?: "find" | "one" | undefined;
  nextStep?: string | undefined;
  /** PENDING until then. */
  startAtMs?: number | undefined;
  /** Canceled then, and FAILED of it. */
  deadlineMs?: number | undefined;
  isOverdue?: boolean | undefined;
  /** What a step has said last of how far it is. */
  progress?: { readonly step: string; readonly atMs: number; readonly value: Encoded } | undefined;
  /** Deleted this long after it has closed; absent: what the host does by default. */
  readonly retentionMs?: number | undefined;
  /** Closed, and deleted then. */
  expiresAtMs?: number | undefined;
  /** Names of the values that it has published. */
  published?: readonly string[] | undefined;
  /** How often it was continued as new; activations and bytes of its past in this life. */
  pastLife?: number | undefined;
  pastItems?: number | undefined;
  pastBytes?: number | undefined;
  /** This life has had more than is kept: it can't be replayed. */
  isPastCut?: boolean | undefined;
  /** Activations before this had the code before a move: their check values are that code's. */
  movedAt?: number | undefined;
  /** Another run's prefix is its own: that run, and the step before which they part. */
  readonly forkedFrom?: { readonly id: string; readonly step: string } | undefined;
  /** It does again what that run did. */
  readonly rerunOf?: string | undefined;
  /** The last runs that were made of this one. */
  forks?: readonly string[] | undefined;
  reruns?: readonly string[] | undefined;
  /** The queues that it passes before it runs. */
  gate?: Gate | undefined;
  /** Highest command id given so far, and at the resume point. */
  lastCommand: number;
  resumeCommand: number;
}

/** The queues that a new run passes, and how. */
export interface Admission extends Pick<Gate, "queues" | "priority"> {
  /** A client waits for the answer, and is told if there is no room. */
  readonly mayRefuse: boolean;
}

/** A run's way through its queues: one after the other, and it holds its place in each. */
export interface Gate {
  readonly queues: readonly { readonly name: string; readonly key?: string | undefined }[];
  readonly priority: number;
  /** The one that it waits for; their number once it runs. */
  readonly at: number;
  /** Names this passage; 0 before it has asked. */
  readonly ticket: number;
  /** Somebody was told that it waits: it can't be refused any more. */
  readonly isKept: boolean;
}

export interface ActorHead extends MachineHead {
  readonly kind: "actor";
  readonly createdAtMs: number;
  /** Completed mutating calls. */
  turns: number;
  nextMail: number;
  nextCall: number;
  stateBytes: number;
  /** The call whose turn is going on. */
  turn?: Mail | undefined;
  /** Whether that call has its answer; calls within it may still go on. */
  isAnswered?: boolean | undefined;
  /** Calls that came back to this actor while it waits for them, by call id. */
  nested?: readonly Mail[] | undefined;
  /** Stopped by its policy after a method threw; waits for `resume`. */
  isStopped?: boolean | undefined;
  lastTurnAtMs?: number | undefined;
  nextReminder?: number | undefined;
  /** Component whose upgrade failed: not tried again by itself. */
  failedUpgrade?: string | undefined;
  /** What its code said, if it wasn't a rollback. */
  upgradeError?: { readonly name: string; readonly message: string } | undefined;
  /** Component before the last upgrade; its state is in the row `v`. */
  previousComponent?: string | undefined;
  /** Objects held for the turn that is going on. */
  holds?: readonly string[] | undefined;
}

/** What becomes of a slot whose predecessor's run still goes on. */
export type Overlap =
  | "skip"
  | "buffer-one"
  | "buffer-all"
  | "cancel-other"
  | "terminate-other"
  | "allow-all";

/** A recurrence (one of `cron` and `everyMs`) and what is run then. */
export interface ScheduleSpec {
  readonly workflow: string;
  readonly cron?: string | undefined;
  readonly zone?: string | undefined;
  readonly everyMs?: number | undefined;
  /** Of an interval: slots are at this time after a multiple of it since the epoch. */
  readonly offsetMs?: number | undefined;
  /** First and last time that may be a slot. */
  readonly startMs?: number | undefined;
  readonly endMs?: number | undefined;
  /** A slot is run up to this much later. */
  readonly jitterMs?: number | undefined;
  readonly overlap: Overlap;
  /** Slots that passed while no host was there are run if they are no older. */
  readonly catchUpMs: number;
  readonly pauseOnFailure?: boolean | undefined;
  readonly tags?: Readonly<Record<string, string>> | undefined;
  /** Absent: the tenant's current one at each start. */
  readonly component?: string | undefined;
  /** What else a start may give; of each run. */
  readonly queue?: QueueOptions | undefined;
  readonly metadata?: Encoded | undefined;
  /** Its deadline is so long after its start. */
  readonly timeLimitMs?: number | undefined;
  readonly retentionMs?: number | undefined;
}

export interface ScheduledItem {
  readonly slotMs: number;
  readonly cause: "slot" | "trigger" | "backfill";
  readonly overlap: Overlap;
}

/** Slots from `nextMs` to `toMs` that are still to be taken. */
export interface Backfill {
  readonly nextMs: number;
  readonly toMs: number;
  readonly overlap: Overlap;
}

export interface ScheduledRun {
  readonly runId: string;
  readonly slotMs: number;
  readonly cause: ScheduledItem["cause"];
  readonly startedAtMs: number;
  readonly closedAtMs?: number | undefined;
  readonly result?: "succeeded" | "failed" | "canceled" | undefined;
}

/** Has no machine; its arguments are in the row `o`. */
export interface ScheduleHead extends MachineHead {
  readonly kind: "schedule";
  readonly createdAtMs: number;
  updatedAtMs: number;
  spec: ScheduleSpec;
  /** Every slot up to here is taken, skipped or missed. */
  cursorMs: number;
  /** Of its one timer. */
  timerMs?: number | undefined;
  isPaused: boolean;
  note?: string | undefined;
  /** Slots that may still start a run. */
  remaining?: number | undefined;
  running: readonly (Pick<ScheduledRun, "runId" | "slotMs" | "cause"> & {
    /** Id of the answer that says that it has closed. */
    readonly watch: number;
    readonly isEnding?: boolean | undefined;
  })[];
  /** Taken, to be started when they may. */
  waiting: readonly ScheduledItem[];
  backfills: readonly Backfill[];
  /** The last runs, oldest first. */
  recent: readonly ScheduledRun[];
  started: number;
  skipped: number;
  /** At least so many: after a long absence slots are not counted one by one. */
  missed: number;
  lastTriggerMs: number;
  nextWatch: number;
  nextCall: number;
}

/** Has no machine; who waits and who runs are the rows `q`. */
export interface QueueHead extends MachineHead {
  readonly kind: "queue";
  readonly createdAtMs: number;
  updatedAtMs: number;
  /** By the deployed code, and by a client: this one holds if it is there. */
  declared?: QueueLimits | undefined;
  given?: QueueLimits | undefined;
  /** Order of arrival of the next one. */
  nextOrder: number;
  /** When the rate would be used up exactly (GCRA's theoretical arrival time). */
  rateAtMs: number;
  /** Of its one timer. */
  timerMs?: number | undefined;
  /** Runs that it has let through. */
  admitted: number;
  nextCall: number;
}

/** A run in a queue: waits, or holds its place until it has ended. */
export interface MemberRow {
  readonly run: EntityKey;
  readonly ticket: number;
  readonly order: number;
  readonly priority: number;
  readonly key?: string | undefined;
  readonly sinceMs: number;
  readonly isRunning: boolean;
}

export type Head = RunHead | ActorHead | ScheduleHead | QueueHead;

export type Pending =
  | { readonly kind: "timer"; readonly atMs: number }
  | { readonly kind: "fetch"; readonly request: FetchRequest }
  | { readonly kind: "wait"; readonly signal: string }
  | { readonly kind: "put"; readonly value: Encoded }
  /** Of pieces that are stored; the row names them. */
  | { readonly kind: "assemble"; readonly pieces: readonly string[]; readonly size: number }
  | {
      readonly kind: "get";
      readonly hash: string;
      readonly range?: ByteRange | undefined;
      /** The range is one of the encoded value. */
      readonly isEncoded?: true | undefined;
    }
  /** Somebody outside decides it; `serial` tells it from all others of the entity. */
  | ({ readonly kind: "event" } & EventOrigin)
  | { readonly kind: "token"; readonly claims: Omit<TokenClaims, "key"> }
  /** The answer comes as a `resolve` message; with `awaits`, when that entity is done with it. */
  | {
      readonly kind: "message";
      readonly what: string;
      readonly awaits?: EntityKey | undefined;
    };

export interface Mail {
  readonly index: number;
  readonly method: string;
  readonly args: Encoded;
  readonly callId: string;
  /** Keep the outcome to answer a repetition, or a later question for it. */
  readonly isRemembered: boolean;
  readonly create?: Encoded | undefined;
  readonly replyTo?: ReplyTo | undefined;
  /** The client session that it came in. */
  readonly session?: string | undefined;
  /** An upgrade to this component instead of a call. */
  readonly upgradeTo?: string | undefined;
  /** It only reads: it runs beside the turns, not as one of them. */
  readonly isRead?: true | undefined;
  /** Entities that wait for this call, outermost first. */
  readonly chain?: readonly string[] | undefined;
  /** Who called, if an entity did. */
  readonly caller?: string | undefined;
  /** The caller's place in a trace. */
  readonly trace?: string | undefined;
}

export interface ReplyTo {
  readonly key: EntityKey;
  readonly id: number;
  /** Life of the machine that asked: an answer to an earlier life is dropped. */
  readonly life: number;
}

/** A durable reminder of an actor. */
export interface ReminderRow {
  readonly name: string;
  readonly index: number;
  readonly method: string;
  readonly args: Encoded;
  readonly atMs: number;
  readonly everyMs?: number | undefined;
  readonly cron?: string | undefined;
  readonly zone?: string | undefined;
}

/** What an actor was before its last upgrade. */
export interface PreviousRow {
  readonly component: string;
  readonly state: Encoded;
}

export interface SignalRow {
  readonly index: number;
  readonly name: string;
  readonly value: Encoded;
}

/** A finished call or update, or a seen message id, kept to answer a repetition. */
export interface CallRow {
  readonly index: number;
  readonly callId: string;
  /** Absent while it is going on, and for signals. */
  readonly outcome?: Outcome | undefined;
  /** An update that is going on; it is answered when its run is over, at the latest. */
  readonly isUpdate?: boolean | undefined;
  /** An update that is going on passed its validator. */
  readonly isAccepted?: boolean | undefined;
}

/** An event that an earlier life of the run has awaited, for the next one that asks by its name. */
export interface EventRow extends EventOrigin {
  /** Decided since. */
  readonly outcome?: Outcome | undefined;
  /** The command that it was the result of, in this life; nobody has looked at it yet. */
  readonly heardBy?: number | undefined;
}

/** An event that somebody outside decides: what its token names, and until when it is good. */
export interface EventOrigin {
  /** Never the same again in one run. */
  readonly serial: number;
  readonly name: string;
  readonly expiresAtMs: number;
  /** The command that awaited it first, and the life of that. */
  readonly wait: number;
  readonly life: number;
}

export interface WatcherRow {
  readonly index: number;
  readonly replyTo: ReplyTo;
}

export interface JournalRow {
  readonly activation: Uint8Array;
  readonly drainedHash?: number | undefined;
}

/** Performed after the commit, and again by the next owner after a crash. */
export function isEffect({ kind }: Pending): boolean {
  return (
    kind === "fetch" || kind === "put" || kind === "assemble" || kind === "get" || kind === "token"
  );
}

/** What a run may ask of another entity; travels through the outbox across partitions. */
export type Message =
  | {
      readonly kind: "resolve";
      readonly to: EntityKey;
      readonly id: number;
      readonly life: number;
      readonly outcome: Outcome;
    }
  | {
      readonly kind: "start";
      readonly to: EntityKey;
      readonly start: StartMessage;
      readonly replyTo?: ReplyTo | undefined;
      /** Is told the run's end: asked for later, it may be closed and deleted by then. */
      readonly watcher?: ReplyTo | undefined;
    }
  | {
      readonly kind: "signal";
      readonly to: EntityKey;
      readonly name: string;
      readonly value: Encoded;
      readonly replyTo?: ReplyTo | undefined;
    }
  | { readonly kind: "watch"; readonly to: EntityKey; readonly replyTo: ReplyTo }
  | { readonly kind: "describe"; readonly to: EntityKey; readonly replyTo: ReplyTo }
  | Probe
  /** A run was made of this one. */
  | {
      readonly kind: "made";
      readonly to: EntityKey;
      readonly how: "fork" | "rerun";
      readonly runId: string;
    }
  /** A run wants a place in a queue. */
  | {
      readonly kind: "enter";
      readonly to: EntityKey;
      readonly run: EntityKey;
      readonly ticket: number;
      readonly key?: string | undefined;
      readonly priority: number;
      /** A client waits to hear whether there is room. */
      readonly mayRefuse: boolean;
    }
  /** It has ended, or doesn't wait any more. */
  | {
      readonly kind: "leave";
      readonly to: EntityKey;
      readonly run: EntityKey;
      readonly ticket: number;
    }
  /** A queue's answer to `enter`; `waits` only to those whom it may refuse. */
  | {
      readonly kind: "place";
      readonly to: EntityKey;
      readonly queue: string;
      readonly ticket: number;
      readonly place: "given" | "waits";
    }
  | {
      readonly kind: "place";
      readonly to: EntityKey;
      readonly queue: string;
      readonly ticket: number;
      readonly place: "refused";
      readonly error: ErrorValue;
    }
  | {
      readonly kind: "cancel";
      readonly to: EntityKey;
      readonly reason: string;
      readonly isTermination: boolean;
      readonly replyTo?: ReplyTo | undefined;
    }
  | {
      readonly kind: "call";
      readonly to: EntityKey;
      readonly method: string;
      readonly args: Encoded;
      readonly create?: Encoded | undefined;
      readonly component: string;
      readonly isOneWay: boolean;
      /** Entities that wait for the answer, outermost first. */
      readonly chain?: readonly string[] | undefined;
      readonly caller?: string | undefined;
      readonly trace?: string | undefined;
      readonly replyTo?: ReplyTo | undefined;
    };

/** Somebody who waits for an entity: the asker's command `asker`, at the entity `to`. */
export interface Wait {
  readonly to: EntityKey;
  readonly asker: ReplyTo;
}

/** Goes along what an entity waits for, to see whether it comes back (deadlock.ts). */
export interface Probe extends Wait {
  readonly kind: "probe";
  /** The wait that it was sent for. Absent: it is to begin at this one. */
  readonly origin?: Wait | undefined;
  /** Of the waits on its way that can be ended, the one that is to be, and by which rank. */
  readonly victim?: (Wait & { readonly rank: string }) | undefined;
  /** Names of the entities that it has passed. */
  readonly path: readonly string[];
  /** How many further probes may come of it. */
  readonly branches: number;
}

export interface StartMessage {
  readonly name: string;
  readonly args?: Encoded | undefined;
  readonly root?: Encoded | undefined;
  readonly component: string;
  readonly parent?: string | undefined;
  readonly rootRun?: string | undefined;
  readonly parentClose?: "terminate" | "cancel" | "abandon" | undefined;
  readonly options?: StartOptions | undefined;
  /** The starter's place in a trace. */
  readonly trace?: string | undefined;
  /** Found out where the run begins. */
  readonly admission?: Admission | undefined;
  /** The run that this one does again, and results of its steps that it takes. */
  readonly rerunOf?: string | undefined;
  readonly reuse?: readonly ReusedStep[] | undefined;
}

/**
 * What a machine was given, from the beginning of its life on: with it the machine can be made
 * again, up to any moment, on the same or on other code.
 */
export interface PastRow {
  /** Which life of the run it is of: rows of an earlier one lie where this one hasn't got to. */
  readonly life: number;
  readonly activation: Uint8Array;
  readonly drainedHash: number;
  /** Events in the history before those of this activation. */
  readonly history: number;
}

/** The latest value that a run has published under a name. */
export interface PublishedRow {
  readonly atMs: number;
  readonly value: Encoded;
}

/** Timer ids from here on are the engine's own; a guest's are below. */
export const systemTimers = {
  min: 0xf000_0000,
  reminder: (index: number) => 0xf000_0000 + (index % 0x0fff_0000),
  queue: 0xffff_fffa,
  retention: 0xffff_fffb,
  schedule: 0xffff_fffc,
  expiry: 0xffff_fffd,
  start: 0xffff_fffe,
  deadline: 0xffff_ffff,
} as const;

/** Events kept of an actor: each has its place in a ring, the oldest is overwritten. */
export const actorEventsMax = 1024;

/** One history row: events that were appended in one commit, `index` of the first in the key. */
export interface HistoryRow {
  readonly atMs: number;
  /** Encoded StepRecord items and HostEvent items, in order. */
  readonly events: readonly HistoryItem[];
  /** Index of the first event; actors' rows are named by their place in a ring instead. */
  readonly index?: number | undefined;
}

export type HistoryItem =
  | { readonly kind: "record"; readonly record: Encoded }
  | {
      readonly kind: "host";
      readonly type: string;
      readonly atMs: number;
      readonly data: Readonly<Record<string, unknown>>;
    };

export interface ListedRow {
  readonly name: string;
  /** How the component's id begins. */
  readonly component?: string | undefined;
  readonly closedAtMs?: number | undefined;
  readonly tags?: Readonly<Record<string, string>> | undefined;
}

export function encodeRow(value: unknown): Uint8Array {
  return encode(value);
}

/** Rows were written by us and are covered by checksums; a shape error is corruption. */
export function decodeRow<T>(rowKey: string, bytes: Uint8Array): T {
  try {
    return decode(bytes) as T; // the key decides the row's type
  } catch (error) {
    throw new SporeError("corrupt-segment", `row ${rowKey} can't be decoded`, { cause: error });
  }
}

export type { ErrorValue };
