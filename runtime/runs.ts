/**
 * A tenant's runs by their ids: checks what is asked, runs the transition in the run's
 * partition and waits until it is durable.
 */
import { decode, encode } from "../guest/cbor.ts";
import type { Definition, Encoded, ErrorValue, Manifest, Outcome } from "../guest/protocol.ts";
import { type Admissions, checkAsked } from "./admissions.ts";
import {
  ask,
  callWaitMsMax,
  type EventPage,
  eventsPerRead,
  peek,
  readEvents,
  refuseInterrupted,
  takeSignal,
  Waits,
} from "./asking.ts";
import { type Deployments, definitionOf } from "./deployments.ts";
import { assert, SporeError } from "./errors.ts";
import { type OpenEvent, openEvents, revokeEvent } from "./events.ts";
import { decodeRow, type PublishedRow, rowKeys, type StartMessage } from "./format.ts";
import { foldStep, readStanding } from "./history.ts";
import { checkId, checkName, type EntityKey, nameOf, printable, runKey, toHex } from "./ids.ts";
import type {
  CallResult,
  ComponentUse,
  HistoryEvent,
  ListRequest,
  ListResult,
  OutputResult,
  PublishedResult,
  RunView,
  StartRequest,
  StartResult,
  Status,
  StepView,
} from "./index.ts";
import { countComponents, listRuns } from "./listing.ts";
import { acceptanceOf, pushInput, rememberUpdate } from "./machine.ts";
import { failed } from "./outcomes.ts";
import type { Partition } from "./partition.ts";
import type { Ports } from "./ports.ts";
import {
  admissionCall,
  cancel,
  canRetry,
  createRun,
  headOf,
  isClosed,
  isRefusable,
  isToBeCanceled,
  pause,
  queueAwaited,
  resume,
  terminate,
} from "./run.ts";
import type { Entity, Sink } from "./state.ts";
import { StepPages, type StepsOf } from "./steps.ts";
import { spanBelow } from "./trace.ts";

export interface RunsParts {
  readonly tenant: string;
  readonly ports: Ports;
  readonly partition: (key: EntityKey) => Partition;
  readonly deployments: Deployments;
  readonly admissions: Admissions;
  /** What a run that a queue holds back waits for. */
  readonly explain: (queue: string, runId: string) => Promise<string | undefined>;
}

/** How long a start waits to hear from its queues. */
const admissionWaitMs = 10_000;

export class Runs {
  readonly #parts: RunsParts;
  readonly #waits: Waits;
  readonly #stepPages = new StepPages();

  constructor(parts: RunsParts) {
    this.#parts = parts;
    this.#waits = new Waits(parts.ports.clock);
  }

  /** `origin`: the run that this one does again, and what it takes of it. */
  async start(
    request: StartRequest,
    origin: Pick<StartMessage, "rerunOf" | "reuse"> = {},
  ): Promise<StartResult> {
    const id = request.id === undefined ? this.#randomId() : checkId(request.id, "run id");
    const key = runKey(this.#parts.tenant, id);
    const { id: component, manifest } = await this.#parts.deployments.resolve(request.component);
    const definition = checkDefinitions(request, manifest);
    const name = definition?.name ?? "";
    checkAsked(request.queue, definition);
    const partition = this.#parts.partition(key);
    const start = {
      name,
      component,
      args: request.root === undefined ? (request.args ?? encode([])) : undefined,
      root: request.root,
      metadata: request.metadata,
      options: {
        tags: request.tags,
        startAtMs: request.startAtMs,
        deadlineMs: request.deadlineMs,
        retentionMs: request.retentionMs,
      },
      ...(request.trace === undefined ? {} : { trace: request.trace }),
    };
    const admission = await this.#parts.admissions.admissionOf({
      definition,
      options: request.queue,
      args: start.args,
      isChild: false,
      mayRefuse: true,
    });
    const inputHash = partition.inputHash(start);
    const ifExists = request.ifExists ?? "resume";
    const message = this.#messageOf(request);
    const create = (sink: Sink): StartResult => {
      const seed = this.#parts.ports.random.bytes(16);
      const span = spanBelow(request.trace, partition);
      const run = createRun(key, { ...start, ...origin, admission, inputHash, seed, span }, sink);
      partition.add(run);
      return { id, status: headOf(run).status, created: true };
    };
    const replaces = ifExists === "start" || ifExists === "terminate";
    const isKept = (run: Entity): boolean => !replaces || takesMessage(run, ifExists, message);
    const startOrAttach = (run: Entity | undefined, sink: Sink): StartResult | undefined => {
      if (run === undefined) return create(sink);
      // Somebody else was faster: that one has to make place, too.
      if (!isKept(run)) return undefined;
      // It took this very request before: nothing is started, refused or resumed again.
      if (message !== undefined && run.calls.has(message.id)) return existing(run);
      if (origin.rerunOf !== undefined && origin.rerunOf === headOf(run).rerunOf) {
        return existing(run);
      }
      return attach(run, sink, ifExists, inputHash);
    };
    const reply = admission === undefined ? undefined : partition.reply(key, admissionCall);
    try {
      const admitted = (): Promise<Status | undefined> => this.#admitted(partition, key, reply);
      const { waitMs } = request;
      const how = { startOrAttach, message, waitMs, admitted };
      for (;;) {
        if (replaces) await this.#clearId(partition, key, { ifExists, isKept });
        const started = await (message === undefined
          ? this.#startAlone(partition, key, how)
          : this.#startWith(partition, key, { ...how, message }));
        if (started !== undefined) return started;
      }
    } finally {
      reply?.forget();
    }
  }

  /**
   * Waits until the queues have said whether the run may wait or run, and gives its status
   * then; undefined if it passes none. Throws queue-full and queue-not-found: then there is
   * no run.
   */
  async #admitted(
    partition: Partition,
    key: EntityKey,
    reply: { readonly outcome: Promise<Outcome> } | undefined,
  ): Promise<Status | undefined> {
    if (reply === undefined) return undefined;
    // One that was refused already is gone.
    const isOpen = await ask(partition, key, (run) => run === undefined || isRefusable(run));
    if (isOpen) {
      const outcome = await this.#waits.within(partition, reply.outcome, admissionWaitMs);
      if (outcome === undefined) {
        throw new SporeError("host-busy", `run ${nameOf(key)} is stored, its queue is silent`, {
          hint: "Ask again with the same id.",
        });
      }
      if (outcome.kind === "error") throw refusal(outcome.error);
    }
    return ask(partition, key, (run) => run && headOf(run).status);
  }

  async #startAlone(
    partition: Partition,
    key: EntityKey,
    how: {
      readonly startOrAttach: (run: Entity | undefined, sink: Sink) => StartResult | undefined;
      readonly admitted: () => Promise<Status | undefined>;
      readonly waitMs: number | undefined;
    },
  ): Promise<StartResult | undefined> {
    const started = await ask(partition, key, how.startOrAttach);
    if (started === undefined) return undefined;
    const result = { ...started, status: (await how.admitted()) ?? started.status };
    if (how.waitMs !== undefined && how.waitMs > 0) {
      const outcome = await this.#closedOutcome(partition, key, how.waitMs);
      if (outcome.kind === "ready") {
        return { ...result, status: outcome.status, outcome: outcome.outcome };
      }
    }
    await partition.durable();
    return result;
  }

  #messageOf({ signal, update, startAtMs }: StartRequest): StartMessageGiven | undefined {
    if (signal !== undefined && update !== undefined) {
      throw new SporeError("invalid-request", "give either a signal or an update");
    }
    if (signal !== undefined) {
      const { value, messageId = this.#randomId() } = signal;
      const name = checkName(signal.name, "signal");
      return { kind: "signal", id: messageId, name, value };
    }
    if (update === undefined) return undefined;
    if (startAtMs !== undefined && startAtMs > this.#parts.ports.clock.nowMs()) {
      throw new SporeError("invalid-request", "a run that begins later takes no update before", {
        hint: "Send a signal with the start, or the update once the run has begun.",
      });
    }
    const { name, args, updateId = this.#randomId() } = update;
    return { kind: "update", id: updateId, name, args };
  }

  openEvents(id: string): Promise<readonly OpenEvent[]> {
    return this.#onRun(id, (run, sink) => openEvents(run, sink.nowMs));
  }

  revokeEvent(id: string, event: number): Promise<void> {
    return this.#onRun(id, (run, sink) => revokeEvent(run, sink, event));
  }

  /** One transition starts the run, or finds it, and delivers the message. */
  async #startWith(
    partition: Partition,
    key: EntityKey,
    how: {
      readonly startOrAttach: (run: Entity | undefined, sink: Sink) => StartResult | undefined;
      readonly admitted: () => Promise<Status | undefined>;
      readonly message: StartMessageGiven;
      readonly waitMs: number | undefined;
    },
  ): Promise<StartResult | undefined> {
    const { startOrAttach, message } = how;
    const reply = partition.reply(key, message.id);
    try {
      const begun = await ask(partition, key, (found, sink) => {
        const result = startOrAttach(found, sink);
        if (result === undefined) return undefined;
        const run = found ?? partition.resident(key);
        return { started: result, taken: deliverTo(run, sink, message) };
      });
      if (begun === undefined) return undefined;
      const { started, taken } = begun;
      const status = (await how.admitted()) ?? started.status;
      const { outcome: _closed, ...rest } = started;
      const result = { ...rest, status };
      if (taken.kind === "signal") {
        await partition.durable();
        return { ...result, duplicate: taken.duplicate };
      }
      const update = await this.#waits.called(
        partition,
        message.id,
        taken.known,
        reply.outcome,
        how.waitMs,
      );
      return { ...result, update };
    } finally {
      reply.forget();
    }
  }

  /** Deletes what has the id, unless that is to be kept; a run that goes on is ended for `terminate`. */
  async #clearId(
    partition: Partition,
    key: EntityKey,
    how: {
      readonly ifExists: StartRequest["ifExists"];
      readonly isKept: (run: Entity) => boolean;
    },
  ): Promise<void> {
    const { ifExists, isKept } = how;
    await ask(partition, key, (run, sink) => {
      if (run === undefined || isKept(run) || isClosed(headOf(run).status)) return;
      if (ifExists === "terminate") {
        terminate(run, sink, "replaced by a new run under the same id");
        return;
      }
      throw new SporeError("run-active", `run ${nameOf(key)} is ${headOf(run).status}`, {
        hint: "Wait for it, or use ifExists=terminate.",
      });
    });
    await partition.delete(key, (run) => {
      const isOver = run !== undefined && !isKept(run) && isClosed(headOf(run).status);
      return isOver ? undefined : "keep";
    });
  }

  async get(id: string): Promise<RunView> {
    const { view, queue } = await this.#onRun(id, (run) => ({
      view: viewOf(run),
      queue: queueAwaited(run),
    }));
    if (queue === undefined || view.waiting === undefined) return view;
    // While its queue can't be asked, the view says only which one it is.
    const explained = await this.#parts.explain(queue, id).catch(() => undefined);
    if (explained === undefined) return view;
    return { ...view, waiting: { ...view.waiting, for: explained } };
  }

  #view(id: string): Promise<RunView> {
    return this.#onRun(id, viewOf);
  }

  async output(
    id: string,
    options: { waitMs?: number; step?: string } = {},
  ): Promise<OutputResult> {
    const key = runKey(this.#parts.tenant, checkId(id, "run id"));
    const partition = this.#parts.partition(key);
    if (options.step === undefined) {
      return this.#closedOutcome(partition, key, options.waitMs ?? 0);
    }
    const step = options.step;
    return this.#waits.until(partition, key, options.waitMs ?? 0, async () => {
      const { status, attempt } = await this.#view(id);
      const outcome = await stepOutcome({ partition, key, attempt }, step);
      if (outcome !== undefined) return { kind: "ready", outcome, status };
      if (!isClosed(status)) return { kind: "pending", status };
      throw new SporeError("step-not-found", `run ${id} ended without a step ${step}`);
    });
  }

  async published(
    id: string,
    name: string,
    options: { waitMs?: number } = {},
  ): Promise<PublishedResult> {
    const key = runKey(this.#parts.tenant, checkId(id, "run id"));
    const partition = this.#parts.partition(key);
    return this.#waits.until(partition, key, options.waitMs ?? 0, async () => {
      const { status } = await this.#view(id);
      const rowKey = rowKeys.published(key, name);
      const { entries } = await partition.scan(rowKey, { limit: 1 });
      const row = entries.find(([found]) => found === rowKey);
      if (row !== undefined) {
        return { kind: "ready", ...decodeRow<PublishedRow>(row[0], row[1]) };
      }
      if (!isClosed(status)) return { kind: "pending", status };
      throw new SporeError("value-not-published", `run ${id} ended and published no ${name}`);
    });
  }

  async steps(
    id: string,
    options: { after?: number | undefined; limit?: number | undefined } = {},
  ): Promise<StepView[]> {
    const key = runKey(this.#parts.tenant, checkId(id, "run id"));
    const { createdAtMs, attempt } = await this.#view(id);
    const partition = this.#parts.partition(key);
    const { after = 0, limit = eventsPerRead } = options;
    return this.#stepPages.read({ partition, key, createdAtMs, attempt }, { after, limit });
  }

  async history(
    id: string,
    options: { from?: number | undefined; limit?: number | undefined } = {},
  ): Promise<HistoryEvent[]> {
    const key = runKey(this.#parts.tenant, checkId(id, "run id"));
    await this.#view(id);
    return readEvents(this.#parts.partition(key), key, options);
  }

  events(
    id: string,
    options: { readonly from: number; readonly waitMs: number },
  ): Promise<EventPage> {
    const key = runKey(this.#parts.tenant, checkId(id, "run id"));
    return this.#waits.events(this.#parts.partition(key), key, options, async () =>
      isClosed((await this.#view(id)).status),
    );
  }

  componentUse(partitions: readonly Partition[]): Promise<ComponentUse> {
    return countComponents(this.#parts.tenant, partitions);
  }

  list(partitions: readonly Partition[], request: ListRequest): Promise<ListResult> {
    return listRuns(this.#parts.tenant, partitions, request);
  }

  cancel(id: string, reason: string): Promise<RunView> {
    return this.#onRun(id, (run, sink) => {
      refuseClosed(run);
      cancel(run, sink, reason);
      return viewOf(run);
    });
  }

  terminate(id: string, reason: string): Promise<RunView> {
    return this.#onRun(id, (run, sink) => {
      refuseClosed(run);
      terminate(run, sink, reason);
      return viewOf(run);
    });
  }

  pause(id: string): Promise<RunView> {
    return this.#onRun(id, (run, sink) => {
      pause(run, sink);
      return viewOf(run);
    });
  }

  resume(id: string): Promise<RunView> {
    return this.#onRun(id, (run, sink) => {
      resume(run, sink);
      return viewOf(run);
    });
  }

  async resumeAll(
    partitions: readonly Partition[],
    options: { includeFailed: boolean },
  ): Promise<{ id: string; status: Status }[]> {
    const wanted: Status[] = options.includeFailed ? ["RESUMABLE", "FAILED"] : ["RESUMABLE"];
    const resumed: { id: string; status: Status }[] = [];
    let cursor: string | undefined;
    do {
      const page = await this.list(partitions, { statuses: wanted, limit: 1000, cursor });
      for (const { id } of page.runs) {
        const status = await this.#onRun(id, (run, sink) => {
          const head = headOf(run);
          if (head.status === "RESUMABLE" || (head.status === "FAILED" && canRetry(run))) {
            resume(run, sink);
            return head.status;
          }
          return undefined;
        });
        if (status !== undefined) resumed.push({ id, status });
      }
      cursor = page.cursor;
    } while (cursor !== undefined);
    return resumed;
  }

  async delete(id: string): Promise<void> {
    const key = runKey(this.#parts.tenant, checkId(id, "run id"));
    await this.#parts.partition(key).delete(key, (run) => {
      if (run === undefined) throw runNotFound(id);
      if (isClosed(headOf(run).status)) return;
      throw new SporeError("run-active", `run ${id} is ${headOf(run).status}`, {
        hint: "Cancel or terminate it first.",
      });
    });
  }

  signal(
    id: string,
    name: string,
    value: Encoded,
    options: { messageId?: string } = {},
  ): Promise<{ duplicate: boolean }> {
    checkName(name, "signal");
    return this.#onRun(id, (run, sink) => {
      const { messageId } = options;
      if (messageId === undefined || !run.calls.has(messageId)) refuseClosed(run);
      return takeSignal(run, sink, { name, value, messageId });
    });
  }

  async query(id: string, name: string, args: Encoded): Promise<Outcome> {
    const key = runKey(this.#parts.tenant, checkId(id, "run id"));
    const partition = this.#parts.partition(key);
    const entity = await ask(partition, key, (run) => {
      if (run === undefined) throw runNotFound(id);
      const head = headOf(run);
      if (isClosed(head.status) && !head.queries.includes(name)) {
        throw queryNotFound(run, name);
      }
      return run;
    });
    const outcome = await peek(partition, entity, { kind: "query", id: "query", name, args });
    await partition.durable();
    return outcome;
  }

  async update(
    id: string,
    name: string,
    args: Encoded,
    options: { updateId?: string; waitMs?: number; until?: "accepted" | "completed" } = {},
  ): Promise<CallResult> {
    const key = runKey(this.#parts.tenant, checkId(id, "run id"));
    const partition = this.#parts.partition(key);
    const callId = options.updateId ?? this.#randomId();
    const reply = partition.reply(key, callId);
    const acceptance = partition.reply(key, acceptanceOf(callId));
    try {
      const { known, isAccepted } = await ask(partition, key, (run, sink) => {
        if (run === undefined) throw runNotFound(id);
        const outcome = takeUpdate(run, sink, { callId, name, args });
        return { known: outcome, isAccepted: run.calls.get(callId)?.isAccepted === true };
      });
      if (options.until !== "accepted" || known !== undefined || isAccepted) {
        const waitMs = options.until === "accepted" ? 0 : options.waitMs;
        return await this.#waits.called(partition, callId, known, reply.outcome, waitMs);
      }
      return await this.#accepted(partition, callId, { reply, acceptance }, options.waitMs);
    } finally {
      reply.forget();
      acceptance.forget();
    }
  }

  /** Whichever comes first: that the update's validator let it pass, or its outcome. */
  async #accepted(
    partition: Partition,
    callId: string,
    coming: {
      readonly reply: { readonly outcome: Promise<Outcome> };
      readonly acceptance: { readonly outcome: Promise<Outcome> };
    },
    waitMs = callWaitMsMax,
  ): Promise<CallResult> {
    const accepted = coming.acceptance.outcome.then(
      (): CallResult => ({ kind: "accepted", callId }),
    );
    const done = coming.reply.outcome.then(
      (outcome): CallResult => ({ kind: "done", callId, outcome }),
    );
    const either = Promise.race([accepted, done]);
    const result = await this.#waits.within(partition, either, waitMs);
    if (result !== undefined) return result;
    refuseInterrupted(partition);
    throw new SporeError("host-busy", `update ${callId} is stored, and not accepted yet`, {
      hint: "Ask again with the same updateId.",
    });
  }

  async #onRun<T>(id: string, act: (run: Entity, sink: Sink) => T): Promise<T> {
    const key = runKey(this.#parts.tenant, checkId(id, "run id"));
    const partition = this.#parts.partition(key);
    const result = await ask(partition, key, (run, sink) => {
      if (run === undefined) throw runNotFound(id);
      return act(run, sink);
    });
    await partition.durable();
    return result;
  }

  #closedOutcome(partition: Partition, key: EntityKey, waitMs: number): Promise<OutputResult> {
    let wasPending = false;
    return this.#waits.until(partition, key, waitMs, async (): Promise<OutputResult> => {
      const run = await ask(partition, key, (found) => {
        if (found === undefined) throw runNotFound(nameOf(key));
        return found;
      });
      const { status, outcome } = headOf(run);
      if (!isClosed(status)) {
        wasPending = true;
        if (waitMs === 0) await partition.durable();
        return { kind: "pending", status };
      }
      assert(outcome !== undefined, `${key} is closed with an outcome`);
      // What closed during this call was committed by the owner, and just needs to be durable.
      // Else it may be stale: its id may have been used again, or a resume gone on with it.
      if (wasPending) await partition.settled(run);
      else await partition.durable();
      return { kind: "ready", outcome, status };
    });
  }

  #randomId(): string {
    return toHex(this.#parts.ports.random.bytes(12));
  }
}

/** Of the workflow, none of a graph; throws if the request or a definition that it names is missing. */
function checkDefinitions(request: StartRequest, manifest: Manifest): Definition | undefined {
  if ((request.workflow === undefined) === (request.root === undefined)) {
    throw new SporeError("invalid-request", "give either a workflow or a graph");
  }
  if (request.workflow !== undefined) {
    return definitionOf(manifest, "workflow", request.workflow);
  }
  for (const step of stepsOf(request.root ?? encode(null))) definitionOf(manifest, "step", step);
  return undefined;
}

/** Names of the steps in an encoded graph. */
function stepsOf(root: Encoded): Set<string> {
  const names = new Set<string>();
  const values: unknown[] = [decode(root)];
  for (let value = values.pop(); value !== undefined; value = values.pop()) {
    if (value === null || typeof value !== "object") continue;
    if (Array.isArray(value)) {
      for (const item of value) if (item !== undefined) values.push(item);
      continue;
    }
    const step = (value as { $step?: unknown }).$step;
    if (typeof step === "string") names.add(step);
    for (const item of Object.values(value)) if (item !== undefined) values.push(item);
  }
  if (names.size === 0) throw new SporeError("invalid-graph", "the root of a graph is a step");
  return names;
}

/** A signal or an update that comes with a start. */
type StartMessageGiven =
  | {
      readonly kind: "signal";
      readonly id: string;
      readonly name: string;
      readonly value: Encoded;
    }
  | { readonly kind: "update"; readonly id: string; readonly name: string; readonly args: Encoded };

/** Whether the run of that id stays and takes the message, whatever `ifExists` replaces. */
function takesMessage(
  run: Entity,
  ifExists: StartRequest["ifExists"],
  message: StartMessageGiven | undefined,
): boolean {
  if (message === undefined) return false;
  return run.calls.has(message.id) || (ifExists === "start" && !isClosed(headOf(run).status));
}

function deliverTo(
  run: Entity,
  sink: Sink,
  message: StartMessageGiven,
):
  | { readonly kind: "signal"; readonly duplicate: boolean }
  | { readonly kind: "update"; readonly known: Outcome | undefined } {
  if (message.kind === "update") {
    const { id: callId, name, args } = message;
    return { kind: "update", known: takeUpdate(run, sink, { callId, name, args }) };
  }
  const { id: messageId, name, value } = message;
  if (!run.calls.has(messageId)) refuseClosed(run);
  return { kind: "signal", ...takeSignal(run, sink, { name, value, messageId }) };
}

/** The outcome if the update was there before and is done. */
function takeUpdate(
  run: Entity,
  sink: Sink,
  update: { readonly callId: string; readonly name: string; readonly args: Encoded },
): Outcome | undefined {
  const { callId, name, args } = update;
  const seen = run.calls.get(callId);
  if (seen !== undefined) return seen.outcome;
  refuseClosed(run);
  const { status } = headOf(run);
  if (status !== "RUNNING" && queueAwaited(run) === undefined) {
    throw new SporeError("run-paused", `run ${nameOf(run.key)} is ${status}`);
  }
  rememberUpdate(run, sink, callId);
  pushInput(run, sink, { kind: "update", id: callId, name, args });
  return undefined;
}

function existing(run: Entity): StartResult {
  return { id: nameOf(run.key), status: headOf(run).status, created: false };
}

function attach(
  run: Entity,
  sink: Sink,
  ifExists: StartRequest["ifExists"],
  inputHash: Uint8Array,
): StartResult {
  const head = headOf(run);
  const id = nameOf(run.key);
  if (ifExists === "fail") {
    throw new SporeError("run-exists", `run ${id} exists and is ${head.status}`);
  }
  if (toHex(head.inputHash) !== toHex(inputHash)) {
    throw new SporeError(
      "input-mismatch",
      `run ${id} was started with another definition or input`,
      {
        hint: "Use another id, or ifExists=start to replace a closed run.",
      },
    );
  }
  const canGoOn = head.status === "RESUMABLE" || (head.status === "FAILED" && canRetry(run));
  if (canGoOn) resume(run, sink);
  const outcome = isClosed(head.status) ? head.outcome : undefined;
  return { id, status: head.status, created: false, ...(outcome === undefined ? {} : { outcome }) };
}

/** The step's outcome; of a step that continued, the outcome of what it continued into. */
async function stepOutcome(
  { partition, key, attempt }: Omit<StepsOf, "createdAtMs">,
  step: string,
): Promise<Outcome | undefined> {
  const steps = new Map<string, StepView>();
  for await (const event of readStanding(partition, key, attempt)) foldStep(steps, event);
  let view = steps.get(step);
  while (view?.status === "CONTINUED" && view.into !== undefined) view = steps.get(view.into);
  if (view?.status === "FAILED" && view.error !== undefined) return failed(view.error);
  if (view?.status !== "SUCCESSFUL") return undefined;
  if (view.value === undefined) {
    throw new SporeError("step-not-found", `step ${step} keeps no output (checkpoint is off)`);
  }
  return { kind: "ok", value: view.value };
}

function viewOf(run: Entity): RunView {
  const head = headOf(run);
  const isOver = isClosed(head.status);
  const error = head.outcome?.kind === "error" ? head.outcome.error : undefined;
  return {
    id: nameOf(run.key),
    name: head.name,
    status: head.status,
    component: head.component,
    attempt: head.attempt,
    createdAtMs: head.createdAtMs,
    closedAtMs: head.closedAtMs,
    expiresAtMs: head.expiresAtMs,
    parentId: head.parent,
    rootId: head.root,
    forkedFrom: head.forkedFrom,
    rerunOf: head.rerunOf,
    forks: head.forks ?? [],
    reruns: head.reruns ?? [],
    tags: head.tags,
    metadata: head.metadata,
    waiting: isOver ? undefined : waitingOf(run),
    progress: isOver ? undefined : head.progress,
    error,
    queries: head.queries,
    updates: head.updates,
    records: head.records,
    imageBytes: head.imageBytes,
    journalLength: run.journal.length,
  };
}

function waitingOf(run: Entity): RunView["waiting"] {
  const head = headOf(run);
  const sinceMs = head.waitingSinceMs;
  if (head.status === "PAUSED") {
    const why = isToBeCanceled(run) ? "paused, and canceled then" : "paused";
    return { for: `somebody to resume it (${why})`, sinceMs };
  }
  if (head.status === "RESUMABLE") return { for: "somebody to resume it (see its error)", sinceMs };
  const queue = queueAwaited(run);
  if (queue !== undefined) return { for: `a place in queue ${queue}`, sinceMs };
  if (head.status === "PENDING") {
    const { startAtMs } = head;
    return { for: "its time to start", sinceMs, ...(startAtMs && { untilMs: startAtMs }) };
  }
  if (run.isActive || run.inputs.length > 0) return { for: "its turn to run", sinceMs };
  let untilMs = Number.POSITIVE_INFINITY;
  for (const pending of run.pending.values()) {
    if (pending.kind === "timer") untilMs = Math.min(untilMs, pending.atMs);
  }
  return {
    for: head.waitingFor ?? "its turn to run",
    sinceMs,
    ...(Number.isFinite(untilMs) ? { untilMs } : {}),
  };
}

function refuseClosed(run: Entity): void {
  const head = headOf(run);
  if (!isClosed(head.status)) return;
  throw new SporeError("run-closed", `run ${nameOf(run.key)} is ${head.status}`);
}

/** What a queue said to a run, as its client hears it. */
function refusal({ code, message }: ErrorValue): SporeError {
  return code === "queue-not-found"
    ? new SporeError(code, message, { hint: "Declare it, or PUT /v1/queues/{name}." })
    : new SporeError("queue-full", message, { hint: "Try again when some of them are through." });
}

function runNotFound(id: string): SporeError {
  return new SporeError("run-not-found", `there is no run ${id}`);
}

function queryNotFound(run: Entity, name: string): SporeError {
  return new SporeError(
    "query-not-found",
    `run ${nameOf(run.key)} has no query ${printable(name)}`,
    {
      hint: `It has: ${headOf(run).queries.join(", ") || "none"}.`,
    },
  );
}
