/**
 * The typed client: runs workflows and graphs, talks to runs and actors. Over fetch only,
 * so it works in Node, browsers and Workers. Values travel as CBOR and arrive as what
 * they were. Requests are repeated when that is safe: each carries its own key.
 */
import { assignErrorFields, decode, encode, hide, makeError, Ref } from "../guest/cbor.ts";
import type { Actor, ActorHandle, Invocation, StepNode } from "../guest/define.ts";
import type { Definition } from "../guest/protocol.ts";
import { type ErrorKind, errorCodes } from "../runtime/errors.ts";
import { valueOfJson } from "./json.ts";
import { type QueueOptions, type Queues, queuesOver } from "./queues.ts";
import { type Schedules, schedulesOver } from "./schedules.ts";
import { readEvents } from "./sse.ts";

export { Ref } from "../guest/cbor.ts";
export type { QueueInfo, QueueLimits, QueueOptions, QueuePage, Queues } from "./queues.ts";
export type {
  BackfillInfo,
  BackfillRange,
  Overlap,
  Schedule,
  ScheduledRunInfo,
  ScheduleInfo,
  SchedulePage,
  Schedules,
} from "./schedules.ts";

export const defaultUrl = "http://127.0.0.1:7070";

export interface ClientOptions {
  /** Where a host listens. Default `http://127.0.0.1:7070`. */
  readonly url?: string | undefined;
  readonly apiKey?: string | undefined;
  /** Default: the platform's fetch. */
  readonly fetch?: ((request: Request) => Promise<Response>) | undefined;
  /** How often one request is tried while the host can't be reached. Default 6. */
  readonly attemptsMax?: number | undefined;
  /** The wait before the second try is a random part of this; it doubles. Default 100 ms. */
  readonly backoffMs?: number | undefined;
}

export type RunStatus =
  | "PENDING"
  | "RUNNING"
  | "PAUSED"
  | "SUCCESSFUL"
  | "FAILED"
  | "CANCELED"
  | "RESUMABLE";

export interface StartOptions {
  /** Default: one that the host makes. */
  readonly id?: string | undefined;
  /** What to do if there is a run of that id. Default `resume`. */
  readonly ifExists?: "resume" | "fail" | "start" | "terminate" | undefined;
  readonly component?: string | undefined;
  readonly tags?: Readonly<Record<string, string>> | undefined;
  readonly metadata?: unknown;
  /** PENDING until then; never begins earlier. */
  readonly startAt?: Date | undefined;
  /** If it isn't closed by then, it is canceled and ends FAILED with a TimeoutError. */
  readonly deadline?: Date | undefined;
  /** Deleted this long after it has closed. Default: the host's (`spore serve --retention`). */
  readonly retentionMs?: number | undefined;
  /** Which queue it passes, and how. Over the queue's `maxPending` it rejects with `queue-full`. */
  readonly queue?: QueueOptions | undefined;
}

export interface WaitOptions {
  /** Give up waiting after this; the run goes on. Default: never. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface RunSummary {
  readonly id: string;
  readonly name: string;
  /** Its component's id; in a list the first 16 digits of it. */
  readonly component: string;
  readonly status: RunStatus;
  readonly createdAt: string;
  readonly closedAt?: string;
  readonly tags: Readonly<Record<string, string>>;
}

export interface RunInfo extends RunSummary {
  /** Closed, and deleted then. */
  readonly expiresAt?: string;
  readonly attempt: number;
  readonly parentId?: string;
  readonly rootId?: string;
  /** It has that run's past up to the step. */
  readonly forkedFrom?: { readonly id: string; readonly step: string };
  /** The run that it does again. */
  readonly rerunOf?: string;
  /** The last 100 runs that were made of it. */
  readonly forks: readonly string[];
  readonly reruns: readonly string[];
  readonly metadata?: unknown;
  readonly waiting?: { readonly for: string; readonly since: string; readonly until?: string };
  /** What a step has said last of how far it is. */
  readonly progress?: { readonly step: string; readonly at: string; readonly value: unknown };
  readonly error?: RemoteError;
  readonly queries: readonly string[];
  readonly updates: readonly string[];
  readonly records: number;
  readonly imageBytes: number;
  readonly journalLength: number;
}

/** An event of a run that somebody outside may still decide by its token. */
export interface OpenEventInfo {
  /** Its number in the run: what `revokeEvent` takes. */
  readonly event: number;
  readonly name: string;
  readonly expiresAt: string;
}

export interface RemoteError {
  readonly name: string;
  readonly message: string;
  readonly code?: string;
  readonly class?: string;
  readonly retryable?: boolean;
  /** Frames only, at the author's own lines where the host has a source map. */
  readonly stack?: string;
  readonly frame?: ErrorFrame;
  readonly cause?: RemoteError;
  readonly details?: unknown;
}

/** Where an error came from in its author's code; `text` is that line. */
export interface ErrorFrame {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly text?: string;
}

export interface StepInfo {
  readonly step: string;
  readonly name: string;
  readonly status: "RUNNING" | "RETRYING" | "SUCCESSFUL" | "FAILED" | "CONTINUED";
  readonly attempt: number;
  readonly startedAt: string;
  readonly endedAt?: string;
  readonly value?: unknown;
  readonly error?: RemoteError;
  readonly nextAt?: string;
  readonly into?: string;
  /** What an attempt has said last of how far it is. */
  readonly progress?: unknown;
  /** This step undoes that one. */
  readonly compensates?: string;
  /** Nothing ran: the value is that of the same step in the run that this one repeats. */
  readonly reused?: boolean;
  readonly metadata?: unknown;
}

export interface RunEvent {
  readonly index: number;
  readonly at: string;
  readonly type: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface ActorInfo {
  readonly type: string;
  readonly key: string;
  readonly component: string;
  readonly createdAt: string;
  readonly turns: number;
  readonly stateBytes: number;
  readonly mailbox: number;
  readonly busy: boolean;
  /** Stopped by its policy (`onError: "stop"`) until resumed. */
  readonly stopped: boolean;
  readonly reminders: readonly ReminderInfo[];
  /** Component before the last upgrade: what `rollBackActor` goes back to. */
  readonly previousComponent?: string;
  /** The last upgrade, if it failed: to which component, and why. */
  readonly failedUpgrade?: {
    readonly component: string;
    readonly error: { readonly name: string; readonly message: string };
  };
}

export interface ReminderInfo {
  readonly name: string;
  readonly method: string;
  /** When it comes next. */
  readonly at: string;
}

export interface ActorFilter {
  readonly type?: string | undefined;
  /** Keys that begin so; only with `type`. */
  readonly prefix?: string | undefined;
  /** At most so many; default all. */
  readonly limit?: number | undefined;
}

export interface ActorPage {
  /** By type and key. */
  readonly actors: readonly ActorInfo[];
  /** Present when there may be more. */
  readonly cursor?: string;
}

/** An actor's state as it is kept: its fields, or what its `getState` gave. */
export interface ActorState<State = unknown> {
  readonly state: State;
  /** How many turns it has had: the version that `editActor` checks. */
  readonly turns: number;
}

/** Which actors of a type to upgrade; without key and prefix all of them. */
export interface UpgradeRequest {
  readonly type: string;
  readonly key?: string | undefined;
  readonly prefix?: string | undefined;
  /** Default: the current one. */
  readonly component?: string | undefined;
}

export interface ComponentInfo {
  readonly id: string;
  readonly definitions: readonly Definition[];
}

export interface ListFilter {
  readonly status?: RunStatus | readonly RunStatus[] | undefined;
  readonly name?: string | readonly string[] | undefined;
  readonly prefix?: string | undefined;
  /** Id of their component, or how it begins: at least 4 digits. */
  readonly component?: string | undefined;
  readonly tag?: { readonly key: string; readonly value: string } | undefined;
  /** Created then or later. */
  readonly createdAfter?: Date | undefined;
  /** Created earlier than this. */
  readonly createdBefore?: Date | undefined;
  /** At most so many; default all. */
  readonly limit?: number | undefined;
}

export type BulkAction = "cancel" | "terminate" | "pause" | "resume" | "delete";

export interface BulkOptions {
  readonly reason?: string | undefined;
  /** Only say which runs it would be. */
  readonly dryRun?: boolean | undefined;
}

/** What became of one run; `error` says why the action was refused. */
export interface BulkItem {
  readonly id: string;
  readonly status: RunStatus;
  readonly error?: { readonly code: string; readonly message: string };
}

/** What `run` and `start` take: a graph of steps, or a workflow with its arguments. */
export type Runnable<Out> = StepNode<Out> | Invocation<Out>;

export interface StartWithOptions extends StartOptions {
  /** Delivered in one step with the start; to the run that is there, if there is one. */
  readonly signal?: { readonly name: string; readonly value?: unknown } | undefined;
}

/** An update that starts its run if there is none. */
export interface UpdateWithStart {
  readonly name: string;
  readonly args?: readonly unknown[] | undefined;
}

export interface Handle<Out = unknown> {
  readonly id: string;
  /** Waits for the output; a failed run rejects with its own error. */
  result(options?: WaitOptions): Promise<Out>;
  status(): Promise<RunStatus>;
  info(): Promise<RunInfo>;
  steps(): Promise<readonly StepInfo[]>;
  history(options?: { from?: number; limit?: number }): Promise<readonly RunEvent[]>;
  /** History from `from`, then live, until the run ends. */
  events(options?: { from?: number; signal?: AbortSignal }): AsyncIterable<RunEvent>;
  /** The latest value published under that name, or the first one when it comes. */
  published<Value = unknown>(name: string, options?: WaitOptions): Promise<Value>;
  signal(name: string, value?: unknown): Promise<void>;
  /** Events that somebody with a token may still decide, oldest first. */
  openEvents(): Promise<readonly OpenEventInfo[]>;
  /** Makes the token of one worthless; who waits for it gets an error. */
  revokeEvent(event: number): Promise<void>;
  query<Result = unknown>(name: string, ...args: readonly unknown[]): Promise<Result>;
  update<Result = unknown>(name: string, ...args: readonly unknown[]): Promise<Result>;
  /** Resolves when the update's validator let it pass; rejects if it did not. */
  startUpdate<Result = unknown>(
    name: string,
    ...args: readonly unknown[]
  ): Promise<{ readonly id: string; result(): Promise<Result> }>;
  cancel(reason?: string): Promise<RunInfo>;
  terminate(reason?: string): Promise<RunInfo>;
  pause(): Promise<RunInfo>;
  resume(): Promise<RunInfo>;
  /**
   * A new run with this one's past up to a step, which it runs next; nothing of the past is done
   * again. `await run.fork("charge", { id: "order_7_again" })`
   */
  fork(step: string, options?: ForkOptions): Promise<Handle<Out>>;
  /** A new run that does again what this one did, with other arguments if they are given. */
  rerun(options?: RerunOptions): Promise<Handle<Out>>;
  /**
   * Goes on with another component (default: the current one), if that does the same with all
   * that the run has been given; else rejects with `move-diverged` and the first difference.
   */
  move(options?: MoveOptions): Promise<Moved>;
  delete(): Promise<void>;
}

export interface ForkOptions {
  readonly id?: string | undefined;
  /** What it goes on with, if that does the same up to the step. Default: the run's own. */
  readonly component?: string | undefined;
}

export interface RerunOptions {
  readonly id?: string | undefined;
  /** Default: those of the run. */
  readonly args?: readonly unknown[] | undefined;
  /** Steps of the same identity and arguments take the run's results. Default false. */
  readonly reuse?: boolean | undefined;
  /** Default: the current one. */
  readonly component?: string | undefined;
}

export interface MoveOptions {
  /** Default: the current one. */
  readonly component?: string | undefined;
  /** Only compare. */
  readonly dryRun?: boolean | undefined;
}

export interface Moved {
  readonly id: string;
  readonly from: string;
  readonly to: string;
  /** False for a dry run, and if it was there. */
  readonly moved: boolean;
  /** How many were compared. */
  readonly activations: number;
}

/** One version of which component is current. */
export interface Deployment {
  /** Counts up from 1. */
  readonly seq: number;
  readonly component: string;
  readonly at: string;
  readonly isCurrent: boolean;
  /** Of a rollback: the deployment that it went back to. */
  readonly rollbackTo?: number;
}

/** Who still needs which component, by the first 16 digits of its id. */
export interface ComponentUse {
  readonly components: readonly {
    readonly component: string;
    /** Runs that aren't closed, by status. */
    readonly runs: Readonly<Partial<Record<RunStatus, number>>>;
    readonly actors: number;
  }[];
  /** There are more than were counted. */
  readonly isPartial: boolean;
}

export interface Client {
  /** Starts and waits for the output. `await client.run(add.step(1, 2), { id: "sum" })` */
  run<Out>(what: Runnable<Out>, options?: StartOptions & WaitOptions): Promise<Out>;
  /** `await client.start(cart.with(), { id: "ada", signal: { name: "add", value: "tea" } })` */
  start<Out>(what: Runnable<Out>, options?: StartWithOptions): Promise<Handle<Out>>;
  /**
   * Starts the run, or finds it, and sends it an update, in one step:
   * `const { result } = await client.updateWithStart(cart.with(), { name: "add", args: ["tea"] }, { id: "ada" })`.
   */
  updateWithStart<Out, Result = unknown>(
    what: Runnable<Out>,
    update: UpdateWithStart,
    options?: StartOptions,
  ): Promise<{ readonly handle: Handle<Out>; readonly result: Result }>;
  handle<Out = unknown>(id: string): Handle<Out>;

  /**
   * Calls are executed in the order in which they are made, also when they are not awaited. The
   * first one that doesn't only read creates the actor, without arguments, if it isn't there:
   * `getOrCreate` gives some. With `{ ifMissing: "fail" }` calls of one that isn't there, reads as
   * well, reject with actor-not-found, as they do by `Counter.get(key)` in a guest.
   */
  actor<Args extends readonly unknown[], Instance>(
    actor: Actor<Args, Instance>,
    key: string,
    options?: { readonly ifMissing?: "create" | "fail" },
  ): ActorHandle<Instance>;
  /** The actor as it is now, made with these arguments if it wasn't there: then it is durable. */
  getOrCreate<Args extends readonly unknown[], Instance>(
    actor: Actor<Args, Instance>,
    key: string,
    ...args: Args
  ): Promise<ActorHandle<Instance>>;
  getActor(type: string, key: string): Promise<ActorInfo>;
  deleteActor(type: string, key: string): Promise<void>;
  /** The untyped way: for tools that know names only. */
  call(
    ref: MethodRef,
    args: readonly unknown[],
    options?: { readonly async?: boolean },
  ): Promise<unknown>;
  createActor(
    type: string,
    key: string,
    args: readonly unknown[],
  ): Promise<ActorInfo & { readonly created: boolean }>;

  /** By type and key. */
  listActors(filter?: ActorFilter): AsyncIterable<ActorInfo>;
  /** One page of the list: at most `limit` (default 100), after `cursor`. */
  listActorsPage(filter?: ActorFilter & { readonly cursor?: string }): Promise<ActorPage>;
  actorState<State = unknown>(type: string, key: string): Promise<ActorState<State>>;
  /**
   * Replaces the state of an idle actor that has had exactly `turns` turns; else it rejects
   * with `state-changed`. `const { state, turns } = await client.actorState("Cart", "ada");`
   */
  editActor(type: string, key: string, edit: ActorState): Promise<ActorInfo>;
  /** A new actor under the key `into`, with the state as it is now; rejects with actor-exists. */
  forkActor(type: string, key: string, into: string): Promise<ActorInfo>;
  /** The last 1,024 events, oldest first: turns with arguments and the state after each. */
  actorHistory(
    type: string,
    key: string,
    options?: { from?: number; limit?: number },
  ): Promise<readonly RunEvent[]>;
  /** History from `from`, then live, until the actor is deleted or `signal` aborts. */
  actorEvents(
    type: string,
    key: string,
    options?: { from?: number; signal?: AbortSignal },
  ): AsyncIterable<RunEvent>;
  signalActor(type: string, key: string, name: string, value?: unknown): Promise<void>;
  /** Goes on after a stop by policy, with the call after the one that failed. */
  resumeActor(type: string, key: string): Promise<ActorInfo>;
  /** Asks actors to move to a component at their next turn boundary; says how many it asked. */
  upgradeActors(request: UpgradeRequest): Promise<{ readonly requested: number }>;
  /** Back to component and state before the last upgrade; what happened since is lost. */
  rollBackActor(type: string, key: string): Promise<ActorInfo>;

  /** Recurring workflows. */
  readonly schedules: Schedules;
  /** Flow control: how many runs go on at a time, and how fast they begin. */
  readonly queues: Queues;
  /** Signs tokens with a new key from now on; for operators. Old tokens stay good. */
  rotateEventKeys(): Promise<{ readonly key: number }>;

  getStatus(id: string): Promise<RunStatus>;
  /** Waits while the run, or the named step, is not done. */
  getOutput<Out = unknown>(id: string, options?: WaitOptions & { step?: string }): Promise<Out>;
  /** Of a run, or of one of its steps. */
  getMetadata(id: string): Promise<RunInfo>;
  getMetadata(id: string, step: string): Promise<StepInfo>;
  list(filter?: ListFilter): AsyncIterable<RunSummary>;
  listAll(filter?: ListFilter): Promise<readonly RunSummary[]>;
  /**
   * Acts on all runs that match, each by itself:
   * `await client.bulk("cancel", { name: "import", status: "RUNNING" })`. Without a status
   * it takes those that can be acted upon.
   */
  bulk(action: BulkAction, filter: ListFilter, options?: BulkOptions): Promise<readonly BulkItem[]>;
  resume<Out = unknown>(id: string): Promise<Handle<Out>>;
  resumeAll(options?: {
    includeFailed?: boolean;
  }): Promise<readonly { readonly id: string; readonly status: RunStatus }[]>;
  cancel(id: string, reason?: string): Promise<RunInfo>;
  deleteRun(id: string): Promise<void>;

  /**
   * Stores a value, so that runs can be given its Ref: `client.put(new Uint8Array(1e8))`. It is
   * kept for a day, and from then on as long as something refers to it.
   */
  put<Value>(value: Value): Promise<Ref<Value>>;
  /** A stored value; of bytes also a part. */
  get<Value>(ref: Ref<Value>): Promise<Value>;
  get(
    ref: Ref<Uint8Array>,
    part: { readonly offset?: number; readonly length: number },
  ): Promise<Uint8Array>;
  /** The bytes of a stored array, as they come: of numbers in little-endian order. */
  stream(ref: Ref<ArrayBufferView>): Promise<ReadableStream<Uint8Array>>;

  /** A component's bytes, or a bundled JavaScript module's text. */
  deploy(source: Uint8Array | string): Promise<ComponentInfo>;
  currentComponent(): Promise<ComponentInfo>;
  /** Newest first, at most 100, those before version `before`. */
  deployments(options?: { limit?: number; before?: number }): Promise<readonly Deployment[]>;
  /** Makes current again what was before the present deployment, or the component `to`. */
  rollBack(to?: string): Promise<Deployment>;
  /** Who runs what: open runs and actors by component. */
  componentUse(): Promise<ComponentUse>;

  /**
   * Deletes what nothing refers to (objects, components, source maps, segments) in the whole
   * namespace, or only says what would be deleted. For operators.
   */
  collectGarbage(options?: { readonly dryRun?: boolean }): Promise<GarbageReport>;
  /** The hosts of the namespace, and who serves what. For operators. */
  cluster(): Promise<Cluster>;
  /**
   * Puts the namespace into another number of partitions (1 to 1024) while hosts serve it.
   * Resolves when that is done; takes as long as reading and writing all rows once. For
   * operators. Throws layout-changing if another change is under way.
   */
  setPartitions(partitions: number): Promise<Cluster>;
}

export interface Cluster {
  readonly partitions: number;
  readonly hosts: readonly {
    readonly hostId: string;
    readonly address: string;
    /** The host that answers. */
    readonly isSelf: boolean;
    readonly state: "live" | "draining" | "dead";
    readonly partitions: readonly number[];
  }[];
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
  /** Components that nobody uses any more; a later collection deletes them. */
  readonly condemned: number;
}

/** What the host answered, or that it could not be reached. */
export class ClientError extends Error {
  /** Stable; see docs/ERRORS.md. `unreachable` and `timeout` are the client's own. */
  readonly code: string;
  readonly kind: ErrorKind;
  readonly status: number | undefined;
  readonly hint: string | undefined;
  readonly requestId: string | undefined;
  /** The members of the problem document. */
  readonly problem: Readonly<Record<string, unknown>>;

  constructor(
    message: string,
    problem: Readonly<Record<string, unknown>>,
    options: { readonly cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "ClientError";
    this.code = textOr(problem.code, "internal");
    this.kind = kindOf(this.code);
    this.status = typeof problem.status === "number" ? problem.status : undefined;
    this.hint = typeof problem.hint === "string" ? problem.hint : undefined;
    this.requestId = typeof problem.requestId === "string" ? problem.requestId : undefined;
    this.problem = problem;
  }
}

function kindOf(code: string): ErrorKind {
  if (code === "unreachable" || code === "timeout") return "unavailable";
  return (errorCodes as Readonly<Record<string, ErrorKind>>)[code] ?? "internal";
}

function textOr(value: unknown, fallback: string): string {
  return typeof value === "string" ? value : fallback;
}

/** How long one request hangs in wait of an output; longer waits are several requests. */
const pollSeconds = 60;
const backoffDefaults = { firstMs: 100, maxMs: 5_000 };

export function createClient(options: ClientOptions = {}): Client {
  const ask = requester(options);
  const sessions = new Map<string, Session>();
  /** Read-only methods that the definitions did not name. */
  const learned = new Set<string>();
  let definitions: Promise<readonly Definition[]> | undefined;

  function handle<Out>(id: string): Handle<Out> {
    const path = `/v1/runs/${encodeURIComponent(id)}`;
    const control = (verb: string, body: object = {}): Promise<RunInfo> =>
      ask<RunInfo>("POST", `${path}/${verb}`, { body });
    return {
      id,
      result: (wait = {}) => waitForOutput<Out>(path, wait),
      status: async () => (await ask<RunInfo>("GET", path)).status,
      info: () => ask<RunInfo>("GET", path),
      steps: () => allSteps(path),
      history: async (range = {}) => {
        const { events } = await ask<{ events: RunEvent[] }>(
          "GET",
          `${path}/history${queryOf(range)}`,
        );
        return events;
      },
      events: (range = {}) => followEvents(path, range),
      published: async <Value>(name: string, wait: WaitOptions = {}) => {
        const answer = await poll(`${path}/published/${encodeURIComponent(name)}`, wait);
        return answer.value as Value;
      },
      signal: async (name, value) => {
        const body = { value, messageId: randomId() };
        await ask("POST", `${path}/signals/${encodeURIComponent(name)}`, { body });
      },
      openEvents: async () =>
        (await ask<{ events: readonly OpenEventInfo[] }>("GET", `${path}/open-events`)).events,
      revokeEvent: (event: number) => ask("DELETE", `${path}/open-events/${event}`),
      query: async <Result>(name: string, ...args: readonly unknown[]) => {
        const url = `${path}/queries/${encodeURIComponent(name)}`;
        const { result } = await ask<{ result?: unknown }>("POST", url, { body: { args } });
        return result as Result;
      },
      update: <Result>(name: string, ...args: readonly unknown[]) =>
        updateResult<Result>(path, name, { args, updateId: randomId() }),
      startUpdate: async <Result>(name: string, ...args: readonly unknown[]) => {
        const body = { args, updateId: randomId() };
        const url = `${path}/updates/${encodeURIComponent(name)}?wait=accepted`;
        await ask("POST", url, { body });
        return { id: body.updateId, result: () => updateResult<Result>(path, name, body) };
      },
      cancel: (reason) => control("cancel", present({ reason })),
      terminate: (reason) => control("terminate", present({ reason })),
      pause: () => control("pause"),
      resume: () => control("resume"),
      fork: async (step, { id: forkId = randomId(), component } = {}) => {
        // With an id of its own the request may be repeated.
        await ask("POST", `${path}/fork`, { body: present({ step, id: forkId, component }) });
        return handle<Out>(forkId);
      },
      rerun: async ({ id: rerunId = randomId(), ...options } = {}) => {
        await ask("POST", `${path}/rerun`, { body: { ...present(options), id: rerunId } });
        return handle<Out>(rerunId);
      },
      move: (options = {}) => ask<Moved>("POST", `${path}/move`, { body: present(options) }),
      delete: () => ask<void>("DELETE", path),
    };
  }

  async function updateResult<Result>(path: string, name: string, body: object): Promise<Result> {
    const url = `${path}/updates/${encodeURIComponent(name)}?wait=${pollSeconds}s`;
    for (;;) {
      // The same id again attaches to the update that is under way.
      const answer = await ask<Answer>("POST", url, { body });
      if (answer[statusKey] !== 202) return answer.result as Result;
    }
  }

  async function waitForOutput<Out>(
    path: string,
    wait: WaitOptions & { step?: string },
  ): Promise<Out> {
    const { step } = wait;
    return outputIn<Out>(await poll(`${path}/output`, wait, { step }));
  }

  /** A large output comes as a reference, and is read from where it is stored. */
  async function outputIn<Out>({ output, isStored }: Answer): Promise<Out> {
    return isStored === true ? get(output as Ref<Out>) : (output as Out);
  }

  /** Asks again and again until it is there. */
  async function poll(path: string, wait: WaitOptions, members: object = {}): Promise<Answer> {
    const endMs = wait.timeoutMs === undefined ? undefined : Date.now() + wait.timeoutMs;
    for (;;) {
      const leftMs = endMs === undefined ? pollSeconds * 1000 : endMs - Date.now();
      const pollMs = Math.max(0, Math.min(pollSeconds * 1000, leftMs));
      const query = queryOf({ wait: `${Math.ceil(pollMs)}ms`, ...members });
      const answer = await ask<Answer>("GET", `${path}${query}`, { signal: wait.signal });
      if (answer[statusKey] !== 202) return answer;
      if (endMs !== undefined && Date.now() >= endMs) throw timedOut(path, wait.timeoutMs);
    }
  }

  async function updateWithStart<Out, Result>(
    what: Runnable<Out>,
    { name, args = [] }: UpdateWithStart,
    start: StartOptions = {},
  ): Promise<{ handle: Handle<Out>; result: Result }> {
    const update = { name, args, updateId: randomId() };
    // The run's id is the update's scope: a repetition has to name the same run.
    const options = { ...start, id: start.id ?? randomId() };
    for (;;) {
      const wait = { timeoutMs: pollSeconds * 1000 };
      const answer = await begin(what, options, { wait, update });
      if (answer[statusKey] === 202) continue;
      return { handle: handle<Out>(options.id), result: answer.result as Result };
    }
  }

  async function begin(
    what: Runnable<unknown>,
    start: StartOptions,
    how: {
      readonly wait?: WaitOptions | undefined;
      readonly signal?: object | undefined;
      readonly update?: object | undefined;
    } = {},
  ) {
    checkRunnable(what);
    const { wait, signal, update } = how;
    const { id, ifExists, component, tags, metadata, retentionMs, queue } = start;
    const startAt = start.startAt?.toISOString();
    const deadline = start.deadline?.toISOString();
    const common = present({
      id,
      ifExists,
      component,
      tags,
      metadata,
      startAt,
      deadline,
      retentionMs,
      queue: queue && present(queue),
      signal,
      update,
    });
    const query = wait === undefined ? "" : queryOf({ wait: `${firstWaitMs(wait)}ms` });
    // These modes do something each time; only the host can tell whether it did already.
    const isMarked = signal !== undefined || update !== undefined;
    const isRepeatable = isMarked || ifExists === undefined || ifExists === "resume";
    const settings = { signal: wait?.signal, isRepeatable, isKeyed: id === undefined };
    if ("$workflow" in what) {
      const path = `/v1/workflows/${encodeURIComponent(what.$workflow)}${query}`;
      return ask<Answer>("POST", path, { ...settings, body: { ...common, args: what.args } });
    }
    return ask<Answer>("POST", `/v1/graphs${query}`, {
      ...settings,
      body: { ...common, root: what },
    });
  }

  async function allSteps(path: string): Promise<readonly StepInfo[]> {
    const all: StepInfo[] = [];
    const limit = 1000;
    for (;;) {
      const query = queryOf({ after: all.length === 0 ? undefined : all.length, limit });
      const { steps } = await ask<{ steps: StepInfo[] }>("GET", `${path}/steps${query}`);
      all.push(...steps);
      if (steps.length < limit) return all;
    }
  }

  async function* followEvents(
    path: string,
    range: { from?: number; signal?: AbortSignal },
    isEndless = false,
  ): AsyncIterable<RunEvent> {
    let from = range.from ?? 0;
    let isOpen = false;
    for (let attempt = 0; ; attempt++) {
      try {
        const response = await ask.raw("GET", `${path}/events${queryOf({ from })}`, {
          accept: "text/event-stream",
          signal: range.signal,
        });
        isOpen = true;
        for await (const message of readEvents(response)) {
          if (message.event === "problem") throw problemError(JSON.parse(message.data));
          const event = eventOf(message.data);
          from = event.index + 1;
          attempt = 0;
          yield event;
        }
        // A run's events end; an actor's don't: that host went away.
        if (!isEndless) return;
        await pause(backoffOf(attempt, options), range.signal);
      } catch (error) {
        if (isEndless && isOpen && isGone(error)) return;
        if (error instanceof ClientError || range.signal?.aborted === true) throw error;
        // The connection broke: go on after the last event that was seen.
        if (attempt >= (options.attemptsMax ?? attemptsDefault)) throw error;
        await pause(backoffOf(attempt, options), range.signal);
      }
    }
  }

  async function* list(filter: ListFilter = {}): AsyncIterable<RunSummary> {
    const statuses = filter.status === undefined ? [] : [filter.status].flat();
    let left = filter.limit ?? Number.POSITIVE_INFINITY;
    let cursor: string | undefined;
    do {
      const query = queryOf({
        status: statuses.length === 0 ? undefined : statuses.join(","),
        prefix: filter.prefix,
        component: filter.component,
        tag: filter.tag && `${filter.tag.key}:${filter.tag.value}`,
        createdAfter: filter.createdAfter?.toISOString(),
        createdBefore: filter.createdBefore?.toISOString(),
        limit: Math.min(left, 1000),
        cursor,
      });
      const names = [filter.name ?? []].flat().map((name) => `&name=${encodeURIComponent(name)}`);
      const page = await ask<{ runs: RunSummary[]; cursor?: string }>(
        "GET",
        `/v1/runs${query}${names.join("")}`,
      );
      for (const run of page.runs) {
        if (left-- <= 0) return;
        yield run;
      }
      cursor = page.cursor;
    } while (cursor !== undefined && left > 0);
  }

  async function bulk(
    action: BulkAction,
    given: ListFilter,
    { reason, dryRun }: BulkOptions = {},
  ): Promise<readonly BulkItem[]> {
    const { prefix, component, tag } = given;
    const filter = present({
      status: given.status && [given.status].flat(),
      name: given.name && [given.name].flat(),
      prefix,
      component,
      tag,
      createdAfter: given.createdAfter?.toISOString(),
      createdBefore: given.createdBefore?.toISOString(),
    });
    const items: BulkItem[] = [];
    let cursor: string | undefined;
    do {
      const left = (given.limit ?? Number.POSITIVE_INFINITY) - items.length;
      const body = present({ action, filter, reason, dryRun, limit: Math.min(left, 1000), cursor });
      const page: { runs: BulkItem[]; cursor?: string } = await ask("POST", "/v1/runs/bulk", {
        body,
      });
      items.push(...page.runs);
      cursor = page.cursor;
    } while (cursor !== undefined && items.length < (given.limit ?? Number.POSITIVE_INFINITY));
    return items;
  }

  async function listActorsPage(
    filter: ActorFilter & { readonly cursor?: string | undefined } = {},
  ): Promise<ActorPage> {
    const { type, prefix: keyPrefix, limit, cursor } = filter;
    return ask<ActorPage>("GET", `/v1/actors${queryOf({ type, keyPrefix, limit, cursor })}`);
  }

  async function* listActors(filter: ActorFilter = {}): AsyncIterable<ActorInfo> {
    let left = filter.limit ?? Number.POSITIVE_INFINITY;
    let cursor: string | undefined;
    while (left > 0) {
      const page = await listActorsPage({ ...filter, limit: Math.min(left, 1000), cursor });
      for (const actor of page.actors) {
        if (left-- <= 0) return;
        yield actor;
      }
      cursor = page.cursor;
      if (cursor === undefined) return;
    }
  }

  /** What can't be done twice is not sent again by itself. */
  function controlActor(
    [type, key]: readonly [type: string, key: string],
    verb: "resume" | "rollback" | "fork",
    body: object = {},
  ): Promise<ActorInfo> {
    const isRepeatable = verb === "resume";
    return ask("POST", `${actorPath(type, key)}/control/${verb}`, { body, isRepeatable });
  }

  function sessionOf(type: string, key: string): Session {
    const name = `${type}\0${key}`;
    let session = sessions.get(name);
    if (session === undefined) {
      const turn = Promise.resolve();
      const none = { seq: 0, untaken: new Set<Write>(), writes: new Set<Promise<unknown>>() };
      session = { id: randomId(), before: turn, turn, ...none };
      sessions.set(name, session);
    }
    return session;
  }

  /** What the deployed component says: read-only calls have no place in a session. */
  async function isReadonly(type: string, method: string): Promise<boolean> {
    if (learned.has(`${type}\0${method}`)) return true;
    definitions ??= ask<ComponentInfo>("GET", "/v1/components/current").then(
      (component) => component.definitions,
      // Without it all calls count as writing; an answer corrects that (see `ordered`).
      () => [],
    );
    const known = (await definitions).find((each) => each.kind === "actor" && each.name === type);
    return known?.methods?.some((each) => each.name === method && each.readonly) === true;
  }

  /**
   * Calls of one handle: writes are numbered and may be on their way together; a read
   * waits for the writes before it, and what comes after it waits for the read.
   */
  function ordered(ref: MethodRef, args: readonly unknown[], isAsync: boolean): Promise<unknown> {
    const session = sessionOf(ref.type, ref.key);
    const work = session.turn.then(() => isReadonly(ref.type, ref.method));
    const started = work.then((isRead) => {
      if (!isRead) return { result: write(session, ref, args, isAsync), isRead };
      const result = Promise.allSettled(session.writes).then(() =>
        call(ref, args, { async: isAsync }),
      );
      return { result, isRead };
    });
    session.turn = started.then(
      ({ result, isRead }) => (isRead ? result.then(ignore, ignore) : undefined),
      ignore,
    );
    return started.then(({ result }) => result);
  }

  function write(
    session: Session,
    ref: MethodRef,
    args: readonly unknown[],
    isAsync: boolean,
  ): Promise<unknown> {
    const taken = Promise.withResolvers<void>();
    const { id, before } = session;
    const restart = (): void => undefined;
    const own: Write = { id, seq: ++session.seq, before, taken: taken.promise, restart };
    session.untaken.add(own);
    const take = (): void => {
      session.untaken.delete(own);
      taken.resolve();
    };
    // One that is repeated after a crash must not be older than what the host remembers.
    const oldest = [...session.writes].at(-writesMax);
    const sent = (): Promise<Answer> =>
      send(ref, args, { isAsync, attempt: () => attemptOf(session, own), take });
    const isFull = session.writes.size >= writesMax && oldest !== undefined;
    const result = (isFull ? oldest.then(sent, sent) : sent()).then(
      (answer) => {
        // The host knew better: it was a read, and its number is still free.
        if (answer.callId === "") {
          learned.add(`${ref.type}\0${ref.method}`);
          leaveOut(session, own);
        }
        return isAsync ? answer.callId : answer.result;
      },
      (error: unknown) => {
        if (error instanceof ClientError) leaveOut(session, own);
        throw error;
      },
    );
    session.writes.add(result);
    const forget = (): void => {
      take();
      session.writes.delete(result);
    };
    result.then(forget, forget);
    return result;
  }

  async function send(
    ref: MethodRef,
    args: readonly unknown[],
    how: { readonly isAsync: boolean } & Pick<Asked, "attempt"> & { readonly take?: () => void },
  ): Promise<Answer> {
    const actor = actorPath(ref.type, ref.key);
    const path = `${actor}/${encodeURIComponent(ref.method)}${how.isAsync ? "?async=1" : ""}`;
    const body = present({ args, callId: randomId(), ifMissing: ref.ifMissing });
    let answer = await ask<Answer>("POST", path, { body, attempt: how.attempt });
    if (answer.callId !== "") how.take?.();
    while (!how.isAsync && answer[statusKey] === 202) {
      const callId = encodeURIComponent(String(answer.callId));
      answer = await ask<Answer>("GET", `${actor}/calls/${callId}?wait=${pollSeconds}s`);
    }
    return answer;
  }

  const call: Client["call"] = async (ref, args, { async: isAsync = false } = {}) => {
    const answer = await send(ref, args, { isAsync });
    return isAsync ? answer.callId : answer.result;
  };

  function actorHandle<Instance>(
    type: string,
    key: string,
    ifMissing?: MethodRef["ifMissing"],
  ): ActorHandle<Instance> {
    const methods = (isAsync: boolean, own: object): object =>
      new Proxy(own, {
        get(target, method) {
          if (typeof method !== "string" || method === "then") return undefined;
          const known: unknown = Reflect.get(target, method);
          if (known !== undefined || Object.hasOwn(target, method)) return known;
          return async (...args: unknown[]) => {
            const result = await ordered({ type, key, method, ifMissing }, args, isAsync);
            return isAsync ? undefined : result;
          };
        },
      });
    const bare = (): object => Object.create(null);
    const own = Object.assign(bare(), { ref: { type, key }, send: methods(true, bare()) });
    // The proxy makes methods of whatever names the type has.
    return methods(false, own) as ActorHandle<Instance>;
  }

  const createActor: Client["createActor"] = (type, key, args) =>
    ask("PUT", actorPath(type, key), { body: { args } });

  const client: Client = {
    async run<Out>(what: Runnable<Out>, run: StartOptions & WaitOptions = {}) {
      const startedMs = Date.now();
      const answer = await begin(what, run, { wait: run });
      if (answer[statusKey] !== 202) return outputIn<Out>(answer);
      const path = `/v1/runs/${encodeURIComponent(String(answer.id))}`;
      const { timeoutMs, signal } = run;
      // Awaited here: errors keep the caller's line.
      if (timeoutMs === undefined) return await waitForOutput<Out>(path, { signal });
      const leftMs = timeoutMs - (Date.now() - startedMs);
      if (leftMs <= 0) throw timedOut(path, timeoutMs);
      return await waitForOutput<Out>(path, { signal, timeoutMs: leftMs });
    },
    async start(what, start = {}) {
      const signal = start.signal && { ...start.signal, messageId: randomId() };
      const answer = await begin(what, start, { signal });
      return handle(String(answer.id));
    },
    updateWithStart,
    handle,
    actor: (actor, key, { ifMissing } = {}) => actorHandle(actor.actorName, key, ifMissing),
    async getOrCreate(actor, key, ...args) {
      await createActor(actor.actorName, key, args);
      return actorHandle(actor.actorName, key);
    },
    getActor: (type, key) => ask<ActorInfo>("GET", actorPath(type, key)),
    deleteActor: (type, key) => ask<void>("DELETE", actorPath(type, key)),
    call,
    createActor,
    listActors,
    listActorsPage,
    actorState: (type, key) => ask("GET", `${actorPath(type, key)}/state`),
    editActor: (type, key, { state, turns }) =>
      ask("PUT", `${actorPath(type, key)}/state`, { body: { state, turns }, isRepeatable: false }),
    forkActor: (type, key, into) => controlActor([type, key], "fork", { into }),
    async actorHistory(type, key, range = {}) {
      const path = `${actorPath(type, key)}/history${queryOf(range)}`;
      return (await ask<{ events: RunEvent[] }>("GET", path)).events;
    },
    actorEvents: (type, key, range = {}) => followEvents(actorPath(type, key), range, true),
    async signalActor(type, key, name, value) {
      const path = `${actorPath(type, key)}/signals/${encodeURIComponent(name)}`;
      await ask("POST", path, { body: { value, messageId: randomId() } });
    },
    resumeActor: (type, key) => controlActor([type, key], "resume"),
    upgradeActors({ type, key, prefix: keyPrefix, component }) {
      const body = present({ type, key, keyPrefix, component });
      return ask("POST", "/v1/actor-upgrades", { body });
    },
    schedules: schedulesOver(ask, randomId),
    queues: queuesOver(ask),
    rotateEventKeys: () => ask("POST", "/v1/event-keys", { body: {}, isRepeatable: false }),
    rollBackActor: (type, key) => controlActor([type, key], "rollback"),
    getStatus: (id) => handle(id).status(),
    getOutput: (id, wait = {}) => waitForOutput(`/v1/runs/${encodeURIComponent(id)}`, wait),
    getMetadata: getMetadata as Client["getMetadata"],
    list,
    bulk,
    async listAll(filter) {
      const runs: RunSummary[] = [];
      for await (const run of list(filter)) runs.push(run);
      return runs;
    },
    async resume(id) {
      await handle(id).resume();
      return handle(id);
    },
    async resumeAll({ includeFailed = false } = {}) {
      const body = { includeFailed };
      type Resumed = { runs: { id: string; status: RunStatus }[] };
      return (await ask<Resumed>("POST", "/v1/runs/resume", { body })).runs;
    },
    cancel: (id, reason) => handle(id).cancel(reason),
    deleteRun: (id) => handle(id).delete(),
    async put<Value>(value: Value) {
      const { hash, size } = await ask<{ hash: string; size: number }>(
        "POST",
        "/v1/objects",
        uploadOf(value),
      );
      return new Ref<Value>(hash, size);
    },
    get,
    stream,
    deploy: (source) =>
      ask<ComponentInfo>("PUT", "/v1/components", {
        bytes: typeof source === "string" ? new TextEncoder().encode(source) : source,
        contentType: typeof source === "string" ? "text/javascript" : "application/wasm",
      }),
    currentComponent: () => ask<ComponentInfo>("GET", "/v1/components/current"),
    deployments: async (range = {}) => {
      const path = `/v1/components${queryOf(range)}`;
      return (await ask<{ deployments: Deployment[] }>("GET", path)).deployments;
    },
    // A second one would go back further: it is not sent again.
    rollBack: (to) =>
      ask<Deployment>("POST", "/v1/components/rollback", {
        body: present({ to }),
        isRepeatable: to !== undefined,
      }),
    componentUse: () => ask<ComponentUse>("GET", "/v1/components/use"),
    collectGarbage: (given = {}) => ask<GarbageReport>("POST", "/v1/gc", { body: given }),
    cluster: () => ask<Cluster>("GET", "/v1/cluster"),
    setPartitions: (partitions) => ask<Cluster>("PUT", "/v1/cluster", { body: { partitions } }),
  };

  async function get<Value>(
    { hash }: Ref<Value>,
    part?: { readonly offset?: number; readonly length: number },
  ): Promise<Value> {
    const { offset = 0, length } = part ?? { length: 0 };
    const headers =
      part === undefined ? undefined : { range: `bytes=${offset}-${offset + length - 1}` };
    const response = await ask.raw("GET", `/v1/objects/${hash}`, { headers });
    const bytes = new Uint8Array(await response.arrayBuffer());
    if (response.headers.get("content-type") !== "application/octet-stream") {
      return (decode(bytes) as { value: Value }).value;
    }
    const maker = arrayMakers.get(response.headers.get("x-spore-array") ?? "");
    // A part is bytes, whatever it is a part of.
    if (maker === undefined || part !== undefined) return bytes as Value;
    return new maker(bytes.buffer) as Value;
  }

  async function stream({ hash }: Ref<ArrayBufferView>): Promise<ReadableStream<Uint8Array>> {
    const { body } = await ask.raw("GET", `/v1/objects/${hash}`, { accept: "*/*" });
    return body ?? new ReadableStream({ start: (controller) => controller.close() });
  }

  async function getMetadata(id: string, step?: string): Promise<RunInfo | StepInfo> {
    if (step === undefined) return handle(id).info();
    const found = (await handle(id).steps()).find((each) => each.step === step);
    if (found !== undefined) return found;
    const problem = { code: "step-not-found", status: 404 };
    throw new ClientError(`run ${id} has no step ${step}`, problem);
  }
  return client;
}

/** Arrays go as their bytes, of which there may be many more than of other values. */
function uploadOf(value: unknown): Asked {
  const array = arrayTypeOf(value);
  if (array === undefined) return { bytes: encode(value), contentType: "application/cbor" };
  const { buffer, byteOffset, byteLength } = value as ArrayBufferView;
  return {
    bytes: new Uint8Array(buffer, byteOffset, byteLength),
    contentType: "application/octet-stream",
    headers: { "x-spore-array": array },
  };
}

function arrayTypeOf(value: unknown): string | undefined {
  if (value instanceof Uint8Array) return "Uint8Array";
  for (const [name, maker] of arrayMakers) if (value instanceof maker) return name;
  return undefined;
}

/** Arrays of numbers that are sent as their bytes. */
const arrayMakers: ReadonlyMap<string, new (buffer: ArrayBuffer) => ArrayBufferView> = new Map(
  [
    Uint8ClampedArray,
    Uint16Array,
    Uint32Array,
    BigUint64Array,
    Int8Array,
    Int16Array,
    Int32Array,
    BigInt64Array,
    Float32Array,
    Float64Array,
  ].map((maker) => [maker.name, maker]),
);

/** Calls of one session on their way; well below the calls that an actor remembers, 256. */
const writesMax = 100;

/** The calls of this client to one actor. */
interface Session {
  id: string;
  /** Of the last write. */
  seq: number;
  /** Writes that the host isn't known to have taken, in the order in which they were made. */
  readonly untaken: Set<Write>;
  /** What has to be taken before this session begins: writes of the one before it. */
  before: Promise<unknown>;
  /** When the next call may begin. */
  turn: Promise<unknown>;
  /** Under way. */
  readonly writes: Set<Promise<unknown>>;
}

/** A numbered call on its way: its place in a session, until that has a gap before it. */
interface Write {
  id: string;
  seq: number;
  before: Promise<unknown>;
  /** Settled when the host has it or it was given up. */
  readonly taken: Promise<void>;
  /** Ends the attempt under way, which begins again with the present place. */
  restart: () => void;
}

async function attemptOf(session: Session, own: Write): Promise<Attempt> {
  for (let before: unknown; before !== own.before; ) {
    before = own.before;
    await own.before;
  }
  const attempt = new AbortController();
  own.restart = () => attempt.abort();
  // What is taken isn't waited for, also by an actor that was made anew since.
  let first = own.seq;
  for (const { id, seq } of session.untaken) {
    if (id !== own.id) continue;
    first = seq;
    break;
  }
  const headers = {
    "spore-session": own.id,
    "spore-seq": String(own.seq),
    "spore-answered": String(first - 1),
  };
  const received = (): void => {
    own.restart = () => undefined;
  };
  return { headers, signal: attempt.signal, received };
}

/**
 * The host may never have taken `lost`: its number is a gap, for which it would let those after it
 * wait in vain. They go on in another session, in their order and with their call ids, so that
 * none is executed twice; and not before those ahead of the gap.
 */
function leaveOut(session: Session, lost: Write): void {
  if (!session.untaken.has(lost)) return;
  const id = randomId();
  const ahead: Promise<void>[] = [];
  const behind: Write[] = [];
  let isBehind = false;
  for (const write of session.untaken) {
    if (write === lost) isBehind = true;
    else if (!isBehind) ahead.push(write.taken);
    else if (write.id === lost.id) behind.push(write);
  }
  const before = Promise.all(ahead);
  if (session.id === lost.id) Object.assign(session, { id, seq: behind.length, before });
  for (const [index, write] of behind.entries()) {
    Object.assign(write, { id, seq: index + 1, before });
    write.restart();
  }
}

interface MethodRef {
  readonly type: string;
  readonly key: string;
  readonly method: string;
  readonly ifMissing?: "create" | "fail" | undefined;
}

function ignore(): undefined {
  return undefined;
}

// ---------------------------------------------------------------- requests

interface Asked {
  readonly body?: object | undefined;
  readonly bytes?: Uint8Array | undefined;
  readonly contentType?: string | undefined;
  readonly accept?: string | undefined;
  readonly headers?: Readonly<Record<string, string>> | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Asked for what an attempt carries; one that its signal ends begins again. */
  readonly attempt?: (() => Promise<Attempt>) | undefined;
  /** False: not sent again when it is unknown whether it happened. Default true. */
  readonly isRepeatable?: boolean | undefined;
  /** Whether to send a key of its own. */
  readonly isKeyed?: boolean | undefined;
}

interface Attempt {
  readonly headers: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
  /** Told when an answer begins to come: the attempt isn't ended any more. */
  received(): void;
}

/** Where an answer keeps its HTTP status, out of the way of its members. */
const statusKey: unique symbol = Symbol("status");

interface Answer {
  readonly [statusKey]?: number;
  readonly [member: string]: unknown;
}

interface Requester {
  <Result>(method: string, path: string, asked?: Asked): Promise<Result>;
  raw(method: string, path: string, asked?: Asked): Promise<Response>;
}

const attemptsDefault = 6;

function requester(options: ClientOptions): Requester {
  const base = (options.url ?? defaultUrl).replace(/\/+$/, "");
  const attemptsMax = options.attemptsMax ?? attemptsDefault;
  const send = options.fetch ?? ((request: Request) => globalThis.fetch(request));

  function requestOf(
    method: string,
    path: string,
    asked: Asked,
    { key, attempt }: { readonly key?: string | undefined; readonly attempt?: Attempt | undefined },
  ): Request {
    const headers = new Headers(attempt?.headers ?? asked.headers ?? {});
    headers.set("accept", asked.accept ?? "application/cbor");
    if (options.apiKey !== undefined) headers.set("authorization", `Bearer ${options.apiKey}`);
    if (key !== undefined) headers.set("idempotency-key", key);
    const bytes = asked.bytes ?? (asked.body && encode(asked.body, { graphs: true }));
    if (bytes !== undefined) headers.set("content-type", asked.contentType ?? "application/cbor");
    const signal = attempt?.signal ?? asked.signal;
    return new Request(base + path, {
      method,
      headers,
      ...(bytes === undefined ? {} : { body: new Uint8Array(bytes) }),
      ...(signal === undefined ? {} : { signal }),
    });
  }

  async function raw(method: string, path: string, asked: Asked = {}): Promise<Response> {
    const key = asked.isKeyed === true ? randomId() : undefined;
    for (let count = 1; ; count++) {
      const isLast = count >= attemptsMax || asked.isRepeatable === false;
      const attempt = await asked.attempt?.();
      let response: Response;
      try {
        response = await send(requestOf(method, path, asked, { key, attempt }));
        attempt?.received();
      } catch (error) {
        if (attempt?.signal.aborted === true) {
          count--;
          continue;
        }
        // fetch rejects with a TypeError when there is no connection; all else is final.
        if (!(error instanceof TypeError) || asked.signal?.aborted === true) throw error;
        if (isLast) throw unreachableHost(base, error);
        await pause(backoffOf(count, options), asked.signal);
        continue;
      }
      if (response.ok) return response;
      const isBusy = response.status === 503 || response.status === 429;
      if (!isBusy || count >= attemptsMax) throw await failureOf(response);
      if (isLast) {
        // Not to be sent twice, unless it surely wasn't executed.
        const failure = await failureOf(response);
        if ((failure as { code?: unknown }).code !== "peer-refused") throw failure;
      } else {
        await response.body?.cancel();
      }
      const askedMs = Number(response.headers.get("retry-after") ?? 0) * 1000;
      const firstMs = backoffOf(count, options);
      const waitMs = Math.max(firstMs, Math.min(askedMs, backoffDefaults.maxMs) || 0);
      await pause(waitMs, asked.signal);
    }
  }

  async function ask<Result>(method: string, path: string, asked: Asked = {}): Promise<Result> {
    const response = await raw(method, path, asked);
    if (response.status === 204) return undefined as Result;
    const answer = decode(new Uint8Array(await response.arrayBuffer())) as Result & Answer;
    Object.defineProperty(answer, statusKey, { value: response.status });
    return answer;
  }
  return Object.assign(ask, { raw });
}

function unreachableHost(base: string, cause: unknown): ClientError {
  const problem = { code: "unreachable", hint: "is it running? try: npx spore dev" };
  return new ClientError(`no host answers at ${base}`, problem, { cause });
}

function timedOut(path: string, timeoutMs: number | undefined): ClientError {
  const problem = { code: "timeout", hint: "the run goes on; ask for its result later" };
  const [, id, what = "output"] = /^\/v1\/runs\/([^/?]+)(?:\/(\w+))?/.exec(path) ?? [];
  const from = id === undefined ? path : `run ${decodeURIComponent(id)}`;
  const sought = what === "published" ? "published value" : what;
  return new ClientError(`no ${sought} of ${from} within ${timeoutMs} ms`, problem);
}

async function failureOf(response: Response): Promise<Error> {
  const bytes = new Uint8Array(await response.arrayBuffer());
  const type = response.headers.get("content-type") ?? "";
  let problem: Record<string, unknown>;
  try {
    if (type.includes("cbor")) problem = decode(bytes) as Record<string, unknown>;
    else problem = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    // Not a Spore host's answer: a proxy's page, for example.
    const code = response.status === 503 ? "host-busy" : "internal";
    problem = { code, status: response.status };
  }
  return problemError(problem, response.status);
}

/** The user's own error where user code failed; else a ClientError. */
function problemError(problem: Record<string, unknown>, status?: number): Error {
  const remote = problem.error as RemoteError | undefined;
  const cause = remote === undefined ? undefined : errorOf(remote);
  const isUserFailure = problem.code === "run-failed" || problem.code === "call-failed";
  if (isUserFailure && cause !== undefined) {
    if (typeof problem.hint === "string" && !Object.hasOwn(cause, "hint")) {
      hide(cause, "hint", problem.hint);
    }
    return cause;
  }
  const message = textOr(problem.detail, `the host answered ${status ?? "with a failure"}`);
  return new ClientError(message, problem, { cause });
}

function errorOf(remote: RemoteError): Error {
  const error = makeError(remote.name, remote.message);
  // The guest's engine writes frames only; in this one a stack begins with the error itself.
  // Without any, this client's own frames would only mislead.
  hide(error, "stack", `${remote.name}: ${remote.message}\n${remote.stack ?? ""}`.trimEnd());
  if (remote.cause !== undefined) hide(error, "cause", errorOf(remote.cause));
  assignErrorFields(error, remote.details);
  if (remote.frame !== undefined && !Object.hasOwn(error, "frame")) {
    hide(error, "frame", remote.frame);
  }
  for (const key of ["code", "class", "retryable"] as const) {
    // Where the guest's own classes are known, an error is made with these, as undefined.
    const isSet = Reflect.get(error, key) !== undefined && Object.keys(error).includes(key);
    if (remote[key] !== undefined && !isSet) hide(error, key, remote[key]);
  }
  return error;
}

function eventOf(data: string): RunEvent {
  const event = JSON.parse(data) as RunEvent;
  return { ...event, data: valueOfJson(event.data) as RunEvent["data"] };
}

/** A stream that was open says so when its actor has been deleted. */
function isGone(error: unknown): boolean {
  return error instanceof ClientError && error.code === "actor-not-found";
}

function actorPath(type: string, key: string): string {
  return `/v1/actors/${encodeURIComponent(type)}/${encodeURIComponent(key)}`;
}

function firstWaitMs(wait: WaitOptions): number {
  return Math.max(1, Math.min(pollSeconds * 1000, Math.ceil(wait.timeoutMs ?? pollSeconds * 1000)));
}

function queryOf(members: Readonly<Record<string, unknown>>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(members)) {
    if (typeof value === "string" || typeof value === "number") search.set(name, String(value));
  }
  const text = search.toString();
  return text === "" ? "" : `?${text}`;
}

function present<Members extends object>(members: Members): Partial<Members> {
  const entries = Object.entries(members).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as Partial<Members>;
}

function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Full jitter: many clients of one host that was away must not come back at once. */
function backoffOf(attempt: number, options: ClientOptions): number {
  const { firstMs, maxMs } = backoffDefaults;
  return Math.random() * Math.min(maxMs, (options.backoffMs ?? firstMs) * 2 ** attempt);
}

function pause(delayMs: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, delayMs);
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/** What comes from code that isn't typed: an error of ours would say less. */
function checkRunnable(what: unknown): void {
  const isObject = (typeof what === "object" || typeof what === "function") && what !== null;
  if (isObject && ("$workflow" in what || "$step" in what)) return;
  const { workflowName, stepName } = (isObject ? what : {}) as Record<string, unknown>;
  const remedy =
    typeof workflowName === "string"
      ? `of workflow ${workflowName} the arguments are missing: give .with(…)`
      : typeof stepName === "string"
        ? `of step ${stepName} the arguments are missing: give .step(…)`
        : "give a workflow with its arguments, order.with(…), or a node, add.step(…)";
  const given = isObject ? "" : `${String(what)} can't be run: `;
  throw new TypeError(`${given}${remedy}`);
}
