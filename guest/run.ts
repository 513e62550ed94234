/**
 * What code in a run can ask for: time, messages, other runs, stored values. Everything
 * here is a command to the host, and works only in a run.
 */
import { currentMachine, isInRun, type Machine } from "./activation.ts";
import { decode, encode, Ref } from "./cbor.ts";
import type { Caught, Resolved } from "./define.ts";
import {
  checkName,
  checkQueue,
  checkSignal,
  GraphNode,
  type Invocation,
  runOutside,
  type StepNode,
} from "./define.ts";
import { GuestError, TimeoutError } from "./errors.ts";
import { type CompensateOption, normaliseOptions, type StepOptions } from "./options.ts";
import type {
  ActorRef,
  Encoded,
  StartOptions as HostStartOptions,
  RunDescription,
  RunInfo,
} from "./protocol.ts";
import type { Signal } from "./scope.ts";
import type { Task } from "./steps.ts";
import { type Duration, durationMs, instantMsMax } from "./time.ts";

// ---- time

/** Waits durably: the run takes no memory meanwhile. `await sleep("30 days")` */
export async function sleep(duration: Duration): Promise<void> {
  const machine = currentMachine();
  await timer(machine.nowMs() + durationMs(duration));
}

/** Waits until a date, or a number of milliseconds since 1970. Ends at once if it is past. */
export async function sleepUntil(instant: Date | number): Promise<void> {
  const atMs = Math.ceil(typeof instant === "number" ? instant : instant.getTime());
  if (!(Math.abs(atMs) <= instantMsMax)) throw new RangeError("sleepUntil needs a valid date");
  await timer(atMs);
}

async function timer(atMs: number): Promise<void> {
  const clippedMs = Math.min(atMs, instantMsMax);
  await currentMachine().command((id) => ({ kind: "timer", id, atMs: clippedMs }), "timer");
}

// ---- messages

export interface SignalOptions {
  /** How long to wait; TimeoutError after that. Default: for ever. */
  readonly timeout?: Duration;
}

/** One of several signals that were waited for. */
export interface ReceivedSignal<Name extends string = string, Value = unknown> {
  readonly name: Name;
  readonly value: Value;
}

/**
 * The next signal of that name: the oldest that nobody has taken yet, or one to come. With several
 * names whichever comes first (of those that are there, the one named first); the others are for
 * later waits. In a `Promise.race` of waits the losers would go on waiting, and take them.
 */
export function signal<Value = unknown>(name: string, options?: SignalOptions): Promise<Value>;
export function signal<Value = unknown, const Name extends string = string>(
  names: readonly Name[],
  options?: SignalOptions,
): Promise<ReceivedSignal<Name, Value>>;
export async function signal(
  what: string | readonly string[],
  options: SignalOptions = {},
): Promise<unknown> {
  const names = typeof what === "string" ? [what] : [...new Set(what)];
  if (names.length === 0) throw new TypeError("a wait for signals needs the name of one");
  for (const name of names) checkSignal(name);
  const { name, value } = await receive(currentMachine(), names, options);
  const decoded = decode(value);
  return typeof what === "string" ? decoded : { name, value: decoded };
}

async function receive(
  machine: Machine,
  names: readonly string[],
  { timeout }: SignalOptions,
): Promise<ReceivedSignal<string, Encoded>> {
  const timeoutMs = timeout === undefined ? undefined : durationMs(timeout, "timeout");
  for (const name of names) {
    const value = machine.takeBuffered(name);
    if (value !== undefined) return { name, value };
  }
  const label = `signal ${names.join(" or ")}`;
  return new Promise((resolve, reject) => {
    const asked: number[] = [];
    const settled = (id: number): void => {
      for (const each of asked) if (each !== id) machine.drop(each);
    };
    for (const name of names) {
      const id = machine.ask((id) => ({ kind: "wait", id, signal: name }), {
        // Once for all of them: it is for people.
        label: asked.length === 0 ? label : "",
        signal: name,
        resolve: (value) => {
          settled(id);
          resolve({ name, value });
        },
        reject,
      });
      asked.push(id);
    }
    if (timeoutMs === undefined) return;
    const timerId = machine.ask(
      (id) => ({ kind: "timer", id, atMs: machine.nowMs() + timeoutMs }),
      {
        label: "",
        resolve: () => {
          settled(timerId);
          reject(new TimeoutError(`no ${label} came within ${timeoutMs} ms`));
        },
        reject,
      },
    );
    asked.push(timerId);
  });
}

export interface ExternalEvent<Value = unknown> {
  /** Who has it may decide the event, once, until it expires. Give it to nobody else. */
  readonly token: string;
  /** Where to decide it: POST `{ "value": … }` or `{ "error": … }`; in a browser a page asks. */
  readonly url: string;
  /** What was decided; rejects with the error that was given, or a TimeoutError. */
  result(): Promise<Value>;
}

/**
 * Something that happens outside, told by whoever has the token:
 * `const approval = await externalEvent<boolean>("approve order 7", { timeout: "3 days" });`
 * Expires after `timeout`, which is 30 days if it isn't given. In an actor's method it can be
 * decided as long as the turn goes on.
 */
export async function externalEvent<Value = unknown>(
  name = "event",
  options: SignalOptions = {},
): Promise<ExternalEvent<Value>> {
  checkName("event", name);
  const machine = currentMachine();
  const timeoutMs = durationMs(options.timeout ?? "30 days", "timeout");
  const expiresAtMs = Math.min(machine.nowMs() + timeoutMs, instantMsMax);
  let timerId = 0;
  let waitId = 0;
  let isLookedAt = false;
  let isSettled = false;
  let isTold = false;
  // What nobody looked at in this life belongs to the next one that asks for it.
  const forget = (): void => {
    if (isTold || !isLookedAt || !isSettled) return;
    isTold = true;
    machine.emit({ kind: "drop", id: waitId });
  };
  const result = new Promise<Value>((resolve, reject) => {
    const settle = (act: () => void): void => {
      machine.drop(timerId);
      isSettled = true;
      forget();
      act();
    };
    waitId = machine.ask((id) => ({ kind: "event", id, name, expiresAtMs }), {
      label: `event ${name}`,
      resolve: (encoded) => settle(() => resolve(decode(encoded) as Value)),
      reject: (error) => settle(() => reject(error)),
    });
    timerId = machine.ask((id) => ({ kind: "timer", id, atMs: expiresAtMs }), {
      label: "",
      resolve: () => {
        machine.drop(waitId);
        reject(new TimeoutError(`nobody decided event ${name} within ${timeoutMs} ms`));
      },
      reject,
    });
  });
  // Nobody has to wait for it, and who does may begin later.
  result.catch(() => undefined);
  const answer = await machine.command((id) => ({ kind: "token", id, wait: waitId }), "a token");
  const { token, url } = decode(answer) as { token: string; url: string };
  return {
    token,
    url,
    result: () => {
      isLookedAt = true;
      forget();
      return result;
    },
  };
}

/** Answers `client.query(run, name, ...args)`: reads, and never changes anything. */
export function query<Args extends unknown[]>(name: string, fn: (...args: Args) => unknown): void {
  checkName("query", name);
  currentMachine().addQuery(name, fn as (...args: unknown[]) => unknown);
}

export interface UpdateOptions<Args extends unknown[]> {
  /** Throws to reject the update; then nothing of it is kept. Must not wait. */
  readonly validate?: (...args: Args) => void;
}

/** Answers `client.update(run, name, ...args)`; may change the run, and may wait. */
export function update<Args extends unknown[]>(
  name: string,
  fn: (...args: Args) => unknown,
  options: UpdateOptions<Args> = {},
): void {
  checkName("update", name);
  currentMachine().addUpdate(name, {
    fn: fn as (...args: unknown[]) => unknown,
    validate: options.validate as ((...args: unknown[]) => unknown) | undefined,
  });
}

// ---- other runs

export interface StartOptions {
  /** The new run's id; a run that already has it is attached to. Default: made by the host. */
  readonly id?: string;
  /** What becomes of it when this run ends. Default: it goes on by itself. */
  readonly child?: "terminate" | "cancel" | "abandon";
  readonly tags?: Readonly<Record<string, string>>;
  readonly metadata?: Readonly<Record<string, unknown>>;
  /** The run is cancelled if it takes longer. */
  readonly deadline?: Date | Duration;
  /** The run begins later. */
  readonly startAt?: Date | Duration;
  /** The run is deleted this long after it has closed. Default: the host's. */
  readonly retention?: Duration;
  /** Which queue it passes; default: what its definition says. */
  readonly queue?: {
    readonly name?: string;
    /** Runs with the same key share the queue's `keyConcurrency`. */
    readonly key?: string;
    /** -1000 to 1000, higher first; default 0. */
    readonly priority?: number;
  };
}

/**
 * Another run, seen from this one. In an actor's method, signals and cancellations that
 * nobody awaits are part of the turn: they leave when the method ends, unless it throws.
 */
export interface Handle<Out = unknown> {
  readonly id: string;
  /** Its value when it ends; rejects with a ChildError if it fails. */
  result(): Promise<Out>;
  /** Its status now; rejects with `run-not-found` if there is no such run (yet). */
  status(): Promise<RunStatus>;
  /** The same with what else there is to say of it. */
  info(): Promise<OtherRun>;
  signal(name: string, value?: unknown): Promise<void>;
  cancel(reason?: string): Promise<void>;
}

export type RunStatus = RunDescription["status"];

/** Another run as it is when it is asked about. */
export interface OtherRun {
  readonly id: string;
  /** Definition's name; "" for a bare graph. */
  readonly name: string;
  readonly status: RunStatus;
  readonly createdAt: Date;
  readonly closedAt: Date | undefined;
  readonly tags: Readonly<Record<string, string>>;
  /** What it waits for, for people. */
  readonly waitingFor: string | undefined;
  /** Why it failed, was canceled or can't go on. */
  readonly error: { readonly name: string; readonly message: string } | undefined;
}

export interface Started<Out = unknown> extends Handle<Out> {
  /** False if a run with this id was there before. */
  readonly created: boolean;
}

/**
 * Starts a run that goes on by itself: `await start(ship.with(items), { id: `ship_${order}` })`.
 * In an actor's method without `await` it is part of the turn: it starts when the method
 * ends, and not at all if that throws.
 */
export function start<Out>(
  what: Invocation<Out> | StepNode<Out>,
  options: StartOptions = {},
): Promise<Started<Out>> {
  const machine = currentMachine();
  const target = targetOf(what);
  const hostOptions = hostStartOptions(options, machine.nowMs());
  const { id: runId, child } = options;
  return machine.message(
    (id) => ({
      kind: "start",
      id,
      ...target,
      ...(runId === undefined ? undefined : { runId }),
      ...(child === undefined ? undefined : { child }),
      ...(hostOptions === undefined ? undefined : { options: hostOptions }),
    }),
    `the start of ${target.name ?? "a graph"}`,
    (answer) => {
      const started = decode(answer) as { runId: string; created: boolean };
      return { ...handle<Out>(started.runId), created: started.created };
    },
  );
}

function targetOf(
  what: unknown,
): { name: string; args: Encoded } | { name?: undefined; root: Encoded } {
  if (what instanceof GraphNode) return { root: encode(what, { graphs: true }) };
  const { $workflow: name, args } = (what ?? {}) as { $workflow?: unknown; args?: unknown };
  if (typeof name === "string") return { name, args: encode(args) };
  throw new TypeError("start needs workflow.with(...) or step.step(...)");
}

function hostStartOptions(options: StartOptions, nowMs: number): HostStartOptions | undefined {
  const { tags, metadata, deadline, startAt, retention, queue } = options;
  const instantMs = (given: Date | Duration, what: string): number => {
    const atMs = given instanceof Date ? given.getTime() : nowMs + durationMs(given, what);
    if (Number.isNaN(atMs)) throw new RangeError(`${what} is not a valid date`);
    return atMs;
  };
  const host: { -readonly [Key in keyof HostStartOptions]: HostStartOptions[Key] } = {};
  if (tags !== undefined) {
    checkTags(tags);
    host.tags = Object.fromEntries(Object.entries(tags).filter(([, tag]) => tag !== undefined));
  }
  if (queue !== undefined) {
    checkPlace(queue);
    host.queue = queue;
  }
  if (metadata !== undefined) host.metadata = encode(metadata);
  if (deadline !== undefined) host.deadlineMs = instantMs(deadline, "deadline");
  if (startAt !== undefined) host.startAtMs = instantMs(startAt, "startAt");
  if (retention !== undefined) host.retentionMs = durationMs(retention, "retention");
  return Object.keys(host).length === 0 ? undefined : host;
}

function checkPlace({ name, key, priority }: NonNullable<StartOptions["queue"]>): void {
  if (name !== undefined) checkQueue("start", name);
  if (key !== undefined && typeof key !== "string") {
    throw new TypeError("the key in a queue must be a text");
  }
  if (priority !== undefined && !Number.isFinite(priority)) {
    throw new TypeError("the priority in a queue must be a number");
  }
}

/** A handle of a run by its id. */
export function handle<Out = unknown>(runId: string): Handle<Out> {
  return {
    id: runId,
    result: () => currentMachine().outcome(runId, "the run", `run ${runId}`) as Promise<Out>,
    status: async () => (await describe(runId)).status,
    info: async () => {
      const { createdAtMs, closedAtMs, waitingFor, error, ...rest } = await describe(runId);
      return {
        ...rest,
        id: runId,
        createdAt: new Date(createdAtMs),
        closedAt: closedAtMs === undefined ? undefined : new Date(closedAtMs),
        waitingFor,
        error,
      };
    },
    signal: (name, value) => {
      checkSignal(name);
      const encoded = encode(value);
      return currentMachine().message(
        (id) => ({ kind: "signal", id, runId, name, value: encoded }),
        `the signal ${name} to run ${runId}`,
        ignoreAnswer,
      );
    },
    cancel: (reason) => cancelRun(runId, reason),
  };
}

/**
 * Sends a signal to an actor, for a method that waits for it or will wait:
 * `await signalActor(Cart.get("7"), "paid", 12)`. In a method, as a run's `signal`.
 */
export function signalActor(
  actor: { readonly ref: ActorRef },
  name: string,
  value?: unknown,
): Promise<void> {
  checkSignal(name);
  const { type, key } = actor.ref;
  const encoded = encode(value);
  return currentMachine().message(
    (id) => ({ kind: "signal", id, actor: { type, key }, name, value: encoded }),
    `the signal ${name} to actor ${type}/${key}`,
    ignoreAnswer,
  );
}

async function describe(runId: string): Promise<RunDescription> {
  const machine = currentMachine();
  const answer = machine.command((id) => ({ kind: "describe", id, runId }), `news of run ${runId}`);
  return decode(await answer) as RunDescription;
}

/** Asks another run to cancel; resolves when that is accepted. */
export function cancelRun(runId: string, reason = ""): Promise<void> {
  return currentMachine().message(
    (id) => ({ kind: "cancelRun", id, runId, reason }),
    `the cancellation of run ${runId}`,
    ignoreAnswer,
  );
}

function ignoreAnswer(): void {
  // That the message was accepted is all there is to say.
}

/** Ends this run and begins it anew, under the same id, with other arguments. */
export function continueAsNew(...args: readonly unknown[]): never {
  return currentMachine().continueAsNew(args);
}

// ---- stored values

/**
 * Stores a large value by its content; the Ref is small and can go anywhere. Up to 256 MiB, of
 * which arrays of numbers and bytes take no second copy; don't change them until it is stored.
 */
export async function put<Value>(value: Value): Promise<Ref<Value>> {
  const { hash, size } = await currentMachine().pieces.put(value);
  return new Ref<Value>(hash, size);
}

/** Bytes of a stored Uint8Array: from `offset`, and as many as there are up to `length`. */
export interface Part {
  /** Default 0. */
  readonly offset?: number;
  readonly length: number;
}

/**
 * The value that `put` stored, or a part of it if it is a Uint8Array: so it may be larger than
 * the memory of a run (`await get(ref, { offset: 0, length: 1 << 20 })`).
 */
export function get<Value>(ref: Ref<Value>): Promise<Value>;
export function get(ref: Ref<Uint8Array>, part: Part): Promise<Uint8Array>;
export async function get(ref: Ref, part?: Part): Promise<unknown> {
  if (!(ref instanceof Ref)) throw new TypeError("get needs a Ref that put has given");
  const { hash, size } = ref;
  const machine = currentMachine();
  if (part === undefined) return machine.pieces.get(hash, size);
  const range = { offset: part.offset ?? 0, length: part.length };
  return decode(await machine.command((id) => ({ kind: "get", id, hash, range }), "get"));
}

// ---- steps

type RunOut<Result, Options> = Options extends { readonly catchErrors: true }
  ? Caught<Resolved<Result>>
  : Resolved<Result>;

/** Runs a graph, or an inline step: `await run("charge", () => fetch(…), { retries: 2 })`. */
export function run<Out>(graph: StepNode<Out>): Promise<Out>;
export function run<Result, const Options extends StepOptions = StepOptions>(
  name: string,
  fn: () => Result,
  options?: Options & CompensateOption<[], Resolved<Result>>,
): Promise<RunOut<Result, Options>>;
export function run(
  what: StepNode<unknown> | string,
  fn?: () => unknown,
  options?: StepOptions,
): Promise<unknown> {
  if (what instanceof GraphNode)
    return isInRun() ? currentMachine().evaluate(what) : runOutside(what);
  checkName("step", what);
  if (typeof fn !== "function") throw new TypeError(`run("${what}") needs a function`);
  const resolved = normaliseOptions(options, `step "${what}"`);
  const body = { name: what, fn, options: resolved, isMethod: false };
  return isInRun() ? currentMachine().step(body, []) : runOutside(new GraphNode(body, []));
}

/**
 * Undoes what this run has done so far: the compensations of the steps that succeeded, the last
 * step first, each a step of its own. Rejects with a CompensationError when all were tried and
 * some failed for good. A run that fails or is cancelled does it by itself.
 */
export function compensate(): Promise<void> {
  return currentMachine().compensate();
}

/**
 * Registers a compensation by hand, for what no single step stands for, or before something that
 * may do half of its work: `addCompensation("release", () => release.all(order))`.
 */
export function addCompensation(name: string, fn: () => unknown, options?: StepOptions): void {
  checkName("step", name);
  if (typeof fn !== "function") throw new TypeError(`addCompensation("${name}") needs a function`);
  const resolved = normaliseOptions(options, `step "${name}"`);
  currentMachine().addCompensation({
    name,
    fn,
    options: resolved,
    isMethod: false,
    compensates: name,
  });
}

export interface MapOptions {
  /** Calls of `fn` that may be under way at once. Default: all. */
  readonly concurrency?: number;
}

/** Calls `fn` for each item and gives the results in the items' order; stops at the first failure. */
export async function map<Item, Out>(
  items: Iterable<Item>,
  fn: (item: Item, index: number) => Out | PromiseLike<Out>,
  options: MapOptions = {},
): Promise<Awaited<Out>[]> {
  const list = [...items];
  const { concurrency = Number.POSITIVE_INFINITY } = options;
  if (!(concurrency >= 1)) throw new RangeError("concurrency needs at least 1");
  const results: Awaited<Out>[] = new Array(list.length);
  let next = 0;
  let hasFailed = false;
  const work = async (): Promise<void> => {
    while (next < list.length && !hasFailed) {
      const index = next++;
      try {
        results[index] = await fn(list[index] as Item, index);
      } catch (error) {
        hasFailed = true;
        throw error;
      }
    }
  };
  const workers: Promise<void>[] = [];
  for (let i = Math.min(concurrency, list.length); i >= 1; i--) workers.push(work());
  await Promise.all(workers);
  return results;
}

// ---- the run itself

export interface Context {
  /** The run, or the actor's turn: ids of the run itself, its parent and its root. */
  readonly run: RunInfo;
  /** The actor whose method this is; undefined in a workflow. */
  readonly actor: ActorRef | undefined;
  /**
   * In an actor's method, who called it: a run's id or an actor's `type/key`; undefined for
   * clients and reminders. In a re-entrant call, ask before the first await.
   */
  readonly caller: string | undefined;
  /** In a step's body, before its first await. */
  readonly step: StepContext | undefined;
  /** Aborts when the run is cancelled; in a step also when its attempt times out. */
  readonly signal: Signal;
}

export interface StepContext {
  readonly id: string;
  readonly name: string;
  /** 1 for the first. */
  readonly attempt: number;
  /** The same for all attempts of this step: give it to services that deduplicate. */
  readonly idempotencyKey: string;
  /** What an attempt of this step has given to `progress` last; undefined if none has. */
  readonly lastProgress: unknown;
  /**
   * Says how far this attempt is: kept durably, shown with the run and its steps, and given to
   * the next attempt. At most 16 KiB. Of several in a row the last counts.
   */
  progress(value: unknown): void;
}

/** Where the calling code is. In a step, ask before the first await. */
export function context(): Context {
  const machine = currentMachine();
  const info = machine.info();
  const task = machine.steps.current;
  const scope = machine.scope();
  const turn = machine.turn();
  return {
    run: info,
    actor: turn?.actor,
    caller: turn?.caller,
    step:
      task === undefined
        ? undefined
        : {
            id: task.id,
            name: task.body.name,
            attempt: task.attempt,
            idempotencyKey: `${idempotencyScope(info, turn !== undefined)}/${task.id}`,
            lastProgress: task.progress === undefined ? undefined : decode(task.progress),
            progress: reporter(machine, task),
          },
    get signal() {
      return scope.signal();
    },
  };
}

function reporter(machine: Machine, task: Task): (value: unknown) => void {
  const { attempt } = task;
  return (value) => machine.steps.report(task, attempt, value);
}

/**
 * Turns are counted from the actor's creation, so one that is deleted and made again under
 * its key would give the keys of the first one's effects.
 */
function idempotencyScope({ runId, startedAtMs, attempt }: RunInfo, isTurn: boolean): string {
  return isTurn ? `${runId}/${startedAtMs}/${attempt}` : `${runId}/${attempt}`;
}

/**
 * Makes a value readable from outside under a key, at once. An actor's method that throws
 * before it has waited for anything publishes nothing.
 */
export function publish(key: string, value: unknown): void {
  checkName("published value", key);
  currentMachine().emit({ kind: "publish", key, value: encode(value) }, { isEager: true });
}

/** Sets tags of this run; undefined takes one away. */
export function setTags(tags: Readonly<Record<string, string | undefined>>): void {
  currentMachine().requireWorkflow("setTags");
  checkTags(tags);
  currentMachine().queue({ kind: "tags", tags });
}

function checkTags(tags: Readonly<Record<string, string | undefined>>): void {
  for (const key of Object.keys(tags)) {
    const value = tags[key];
    if (value !== undefined && typeof value !== "string") {
      throw new GuestError(`tag ${key} must be a text`, {
        code: "invalid-request",
        retryable: false,
      });
    }
  }
}
