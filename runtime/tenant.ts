/**
 * One tenant's view of the host: deployments, runs and actors by their public ids. Checks
 * requests, finds the partition, runs the transition there and waits until it is durable.
 */
import { decode, encode } from "../guest/cbor.ts";
import type {
  Definition,
  Drained,
  Encoded,
  ErrorValue,
  Manifest,
  Outcome,
} from "../guest/protocol.ts";
import {
  acceptCall,
  actorHead,
  editState,
  forkOf,
  readInSession,
  refOf,
  requestUpgrade,
  resumeActor,
  rollBack,
  runInfo,
} from "./actor.ts";
import { acceptSignal } from "./commands.ts";
import { assert, SporeError } from "./errors.ts";
import { decodeRow, type PreviousRow, type PublishedRow, rowKeys } from "./format.ts";
import { foldStep, readHistory } from "./history.ts";
import { actorKey, checkId, checkName, type EntityKey, nameOf, runKey, toHex } from "./ids.ts";
import type {
  ActorState,
  ActorView,
  BackfillRequest,
  BackfillResult,
  BulkAction,
  BulkRequest,
  BulkResult,
  CallRequest,
  CallResult,
  ComponentView,
  HistoryEvent,
  ListActorsRequest,
  ListActorsResult,
  ListRequest,
  ListResult,
  OutputResult,
  Overlap,
  PublishedResult,
  RunView,
  ScheduleRequest,
  ScheduleView,
  SessionCall,
  StartRequest,
  StartResult,
  Status,
  StepView,
  TenantHost,
} from "./index.ts";
import { listActorNames, listRuns } from "./listing.ts";
import { acceptanceOf, failed, hostError, pushInput, rememberCall } from "./machine.ts";
import type { Partition } from "./partition.ts";
import type { AbortSignalLike, ComponentSource, Ports } from "./ports.ts";
import type { Register } from "./register.ts";
import type { Retrier } from "./retry.ts";
import { cancel, canRetry, createRun, headOf, isClosed, pause, resume, terminate } from "./run.ts";
import { Schedules } from "./schedules.ts";
import type { Entity, Sink } from "./state.ts";
import { StepPages } from "./steps.ts";

export interface TenantParts {
  readonly name: string;
  readonly ports: Ports;
  readonly prefix: string;
  readonly partitions: readonly Partition[];
  readonly partition: (key: EntityKey) => Partition;
  readonly manifest: (componentId: string) => Promise<Manifest>;
  readonly know: (componentId: string, manifest: Manifest) => void;
  readonly deployments: Register;
  readonly retrier: Retrier;
}

/** How old the answer to "which component is current" may be on a host that didn't deploy. */
const deploymentAgeMs = 2000;
/** A caller that waits longer than this gets `accepted` and asks again. */
const callWaitMsMax = 300_000;
/** How long a call waits for the earlier ones of its session. */
const sessionWaitMs = 30_000;
const stepsPerRead = 1000;
/** Runs that one bulk request acts upon, and how many of them at a time. */
const bulkMax = 1000;
const bulkAtOnce = 100;
/** Which runs an action is for, if the filter doesn't say. */
const bulkStatuses: Readonly<Record<BulkAction, readonly Status[]>> = {
  cancel: ["PENDING", "RUNNING", "PAUSED", "RESUMABLE"],
  terminate: ["PENDING", "RUNNING", "PAUSED", "RESUMABLE"],
  pause: ["RUNNING"],
  resume: ["PAUSED", "RESUMABLE", "FAILED"],
  delete: ["SUCCESSFUL", "FAILED", "CANCELED"],
};

interface Deployment {
  readonly seq: number;
  readonly component: string;
  readonly readAtMs: number;
}

export function createTenant(parts: TenantParts): TenantHost {
  return new Tenant(parts);
}

class Tenant implements TenantHost {
  readonly #parts: TenantParts;
  readonly #schedules: Schedules;
  #deployment: Deployment | undefined;
  readonly #gates = new Map<string, Set<() => void>>();
  readonly #stepPages = new StepPages();

  constructor(parts: TenantParts) {
    this.#parts = parts;
    this.#schedules = new Schedules({
      tenant: parts.name,
      ports: parts.ports,
      partitions: parts.partitions,
      partition: parts.partition,
      ask,
      componentOf: async (workflow, component) => {
        const { id, manifest } = await this.#componentFor(component);
        definitionOf(manifest, "workflow", workflow);
        return id;
      },
    });
  }

  // -------------------------------------------------------------- components

  async deploy(source: ComponentSource): Promise<{ id: string; manifest: Manifest }> {
    const { ports, deployments } = this.#parts;
    const { id, bytes } = await ports.sandbox.prepare(source);
    // The code first, then the pointer to it: a crash between leaves an unused object.
    const manifest = await this.#storeComponent(id, bytes);
    this.#parts.know(id, manifest);
    const value = encode({ component: id, atMs: ports.clock.nowMs() });
    let latest = await deployments.readLatest();
    for (;;) {
      if (latest !== undefined && deployedComponent(latest.value) === id) {
        this.#remember(latest.seq, id);
        return { id, manifest };
      }
      const result = await deployments.append(value, latest?.seq ?? 0);
      if (result.kind === "written") {
        this.#remember(result.seq, id);
        return { id, manifest };
      }
      latest = result.found;
    }
  }

  /**
   * Two builds of one source differ in a few bytes (hash seeds), and images are bound to the
   * exact memory: what the bucket has under the id is the component, on every host.
   */
  async #storeComponent(id: string, bytes: Uint8Array): Promise<Manifest> {
    const { ports, prefix, retrier } = this.#parts;
    const key = `${prefix}components/${id}`;
    await retrier.run("component put", () => ports.store.put(key, bytes, { ifAbsent: true }));
    const stored = await retrier.run("component get", () => ports.store.get(key));
    if (stored === undefined) {
      throw new SporeError(
        "component-not-found",
        `component ${id} was deleted while it was deployed`,
      );
    }
    return ports.sandbox.load(id, stored);
  }

  async currentComponent(): Promise<ComponentView | undefined> {
    const id = await this.#currentId();
    if (id === undefined) return undefined;
    const manifest = await this.#parts.manifest(id);
    return { id, definitions: manifest.definitions, isCurrent: true };
  }

  async #currentId(): Promise<string | undefined> {
    const nowMs = this.#parts.ports.clock.nowMs();
    const known = this.#deployment;
    if (known !== undefined && Math.abs(nowMs - known.readAtMs) < deploymentAgeMs) {
      return known.component;
    }
    const latest = await this.#parts.deployments.readLatest();
    if (latest === undefined) return undefined;
    return this.#remember(latest.seq, deployedComponent(latest.value));
  }

  #remember(seq: number, component: string): string {
    const readAtMs = this.#parts.ports.clock.nowMs();
    if (this.#deployment === undefined || seq >= this.#deployment.seq) {
      this.#deployment = { seq, component, readAtMs };
    }
    return this.#deployment.component;
  }

  async #componentFor(requested: string | undefined): Promise<{ id: string; manifest: Manifest }> {
    const id = requested ?? (await this.#currentId());
    if (id === undefined) {
      throw new SporeError("no-component", "nothing is deployed yet", {
        hint: "Deploy with `spore deploy`, or PUT /v1/components.",
      });
    }
    return { id, manifest: await this.#parts.manifest(id) };
  }

  // -------------------------------------------------------------- runs

  async startRun(request: StartRequest): Promise<StartResult> {
    const id = request.id === undefined ? this.#randomId() : checkId(request.id, "run id");
    const key = runKey(this.#parts.name, id);
    const { id: component, manifest } = await this.#componentFor(request.component);
    const name = checkDefinitions(request, manifest);
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
      },
    };
    const inputHash = partition.inputHash(start);
    const ifExists = request.ifExists ?? "resume";
    const message = this.#messageOf(request);
    const create = (sink: Sink): StartResult => {
      const seed = this.#parts.ports.random.bytes(16);
      const run = createRun(key, { ...start, inputHash, seed }, sink);
      partition.add(run);
      return { id, status: headOf(run).status, created: true };
    };
    if (
      (ifExists === "start" || ifExists === "terminate") &&
      !(await takesMessage(partition, key, ifExists, message))
    ) {
      await this.#clearId(partition, key, ifExists === "terminate");
    }
    const startOrAttach = (run: Entity | undefined, sink: Sink): StartResult => {
      if (run === undefined) return create(sink);
      // It took this very request before: nothing is started, refused or resumed again.
      if (message !== undefined && run.calls.has(message.id)) return existing(run);
      return attach(run, sink, ifExists, inputHash);
    };
    if (message !== undefined) {
      return this.#startWith(partition, key, { startOrAttach, message, waitMs: request.waitMs });
    }
    const result = await ask(partition, key, startOrAttach);
    if (request.waitMs !== undefined && request.waitMs > 0) {
      const outcome = await this.#closedOutcome(partition, key, request.waitMs);
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

  /** One transition starts the run, or finds it, and delivers the message. */
  async #startWith(
    partition: Partition,
    key: EntityKey,
    how: {
      readonly startOrAttach: (run: Entity | undefined, sink: Sink) => StartResult;
      readonly message: StartMessageGiven;
      readonly waitMs: number | undefined;
    },
  ): Promise<StartResult> {
    const { startOrAttach, message } = how;
    const reply = partition.reply(key, message.id);
    try {
      const { started, taken } = await ask(partition, key, (found, sink) => {
        const result = startOrAttach(found, sink);
        const run = found ?? partition.resident(key);
        return { started: result, taken: deliverTo(run, sink, message) };
      });
      const { outcome: _closed, ...result } = started;
      if (taken.kind === "signal") {
        await partition.durable();
        return { ...result, duplicate: taken.duplicate };
      }
      const update = await this.#called(
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

  async #clearId(partition: Partition, key: EntityKey, mayTerminate: boolean): Promise<void> {
    if (mayTerminate) {
      await ask(partition, key, (run, sink) => {
        if (run !== undefined) terminate(run, sink, "replaced by a new run under the same id");
      });
    }
    await partition.delete(key, (run) => {
      if (run === undefined || isClosed(headOf(run).status)) return;
      throw new SporeError("run-active", `run ${nameOf(key)} is ${headOf(run).status}`, {
        hint: "Wait for it, or use ifExists=terminate.",
      });
    });
  }

  async getRun(id: string): Promise<RunView> {
    return this.#onRun(id, (run) => viewOf(run));
  }

  async output(
    id: string,
    options: { waitMs?: number; step?: string } = {},
  ): Promise<OutputResult> {
    const key = runKey(this.#parts.name, checkId(id, "run id"));
    const partition = this.#parts.partition(key);
    if (options.step === undefined) {
      return this.#closedOutcome(partition, key, options.waitMs ?? 0);
    }
    const step = options.step;
    return this.#waitFor(partition, key, options.waitMs ?? 0, async () => {
      const { status } = await this.getRun(id);
      const outcome = await stepOutcome(partition, key, step);
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
    const key = runKey(this.#parts.name, checkId(id, "run id"));
    const partition = this.#parts.partition(key);
    return this.#waitFor(partition, key, options.waitMs ?? 0, async () => {
      const { status } = await this.getRun(id);
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

  async steps(id: string, options: { after?: number; limit?: number } = {}): Promise<StepView[]> {
    const key = runKey(this.#parts.name, checkId(id, "run id"));
    const { createdAtMs, attempt } = await this.getRun(id);
    const partition = this.#parts.partition(key);
    const { after = 0, limit = stepsPerRead } = options;
    return this.#stepPages.read({ partition, key, createdAtMs, attempt }, { after, limit });
  }

  async history(
    id: string,
    options: { from?: number; limit?: number } = {},
  ): Promise<HistoryEvent[]> {
    const key = runKey(this.#parts.name, checkId(id, "run id"));
    await this.getRun(id);
    const events: HistoryEvent[] = [];
    const limit = options.limit ?? stepsPerRead;
    for await (const event of readHistory(this.#parts.partition(key), key, options.from ?? 0)) {
      events.push(event);
      if (events.length >= limit) break;
    }
    return events;
  }

  events(
    id: string,
    options: { from: number; signal: AbortSignalLike },
  ): AsyncIterable<HistoryEvent> {
    const key = runKey(this.#parts.name, checkId(id, "run id"));
    return this.#follow(key, options, async () => isClosed((await this.getRun(id)).status));
  }

  /** History, then what is added to it, until `isOver` said so before the last read. */
  async *#follow(
    key: EntityKey,
    options: { from: number; signal: AbortSignalLike },
    isOver: () => Promise<boolean>,
  ): AsyncGenerator<HistoryEvent> {
    const partition = this.#parts.partition(key);
    let { from } = options;
    const wakeUp = new WakeUp();
    const unwatch = partition.watchEntity(key, () => wakeUp.wake());
    options.signal.addEventListener("abort", () => wakeUp.wake());
    try {
      while (!options.signal.aborted) {
        wakeUp.reset();
        const isLast = await isOver();
        for await (const event of readHistory(partition, key, from)) {
          yield event;
          from = event.index + 1;
        }
        if (isLast) return;
        await wakeUp.wait;
      }
    } finally {
      unwatch();
    }
  }

  listRuns(request: ListRequest): Promise<ListResult> {
    return listRuns(this.#parts.name, this.#parts.partitions, request);
  }

  async bulk(request: BulkRequest): Promise<BulkResult> {
    const { action, filter, cursor, limit = bulkMax } = request;
    const statuses = filter.statuses ?? bulkStatuses[action];
    const page = await this.listRuns({ ...filter, statuses, limit, cursor });
    const runs: BulkResult["runs"][number][] = [];
    for (let first = 0; first < page.runs.length; first += bulkAtOnce) {
      const part = page.runs.slice(first, first + bulkAtOnce);
      runs.push(...(await Promise.all(part.map((run) => this.#actOn(run, request)))));
    }
    return page.cursor === undefined ? { runs } : { runs, cursor: page.cursor };
  }

  async #actOn(
    { id, status }: { readonly id: string; readonly status: Status },
    { action, reason, isDryRun }: BulkRequest,
  ): Promise<BulkResult["runs"][number]> {
    if (isDryRun === true) return { id, status };
    try {
      switch (action) {
        case "cancel":
          return { id, status: (await this.cancelRun(id, reason ?? "canceled")).status };
        case "terminate":
          return { id, status: (await this.terminateRun(id, reason ?? "terminated")).status };
        case "pause":
          return { id, status: (await this.pauseRun(id)).status };
        case "resume":
          return { id, status: (await this.resumeRun(id)).status };
        case "delete":
          await this.deleteRun(id);
          return { id, status };
      }
    } catch (error) {
      // What one run refuses is no reason to stop; a host in trouble is.
      const isRefusal =
        error instanceof SporeError && (error.kind === "missing" || error.kind === "conflict");
      if (!isRefusal) throw error;
      return { id, status, error };
    }
  }

  cancelRun(id: string, reason: string): Promise<RunView> {
    return this.#onRun(id, (run, sink) => {
      refuseClosed(run);
      // A run that isn't running has no code to clean up with.
      if (headOf(run).status === "RUNNING") cancel(run, sink, reason);
      else terminate(run, sink, reason);
      return viewOf(run);
    });
  }

  terminateRun(id: string, reason: string): Promise<RunView> {
    return this.#onRun(id, (run, sink) => {
      refuseClosed(run);
      terminate(run, sink, reason);
      return viewOf(run);
    });
  }

  pauseRun(id: string): Promise<RunView> {
    return this.#onRun(id, (run, sink) => {
      pause(run, sink);
      return viewOf(run);
    });
  }

  resumeRun(id: string): Promise<RunView> {
    return this.#onRun(id, (run, sink) => {
      resume(run, sink);
      return viewOf(run);
    });
  }

  async resumeAll(options: { includeFailed: boolean }): Promise<{ id: string; status: Status }[]> {
    const wanted: Status[] = options.includeFailed ? ["RESUMABLE", "FAILED"] : ["RESUMABLE"];
    const resumed: { id: string; status: Status }[] = [];
    let cursor: string | undefined;
    do {
      const page = await this.listRuns({ statuses: wanted, limit: 1000, cursor });
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

  async deleteRun(id: string): Promise<void> {
    const key = runKey(this.#parts.name, checkId(id, "run id"));
    await this.#parts.partition(key).delete(key, (run) => {
      if (run === undefined) throw runNotFound(id);
      if (isClosed(headOf(run).status)) return;
      throw new SporeError("run-active", `run ${id} is ${headOf(run).status}`, {
        hint: "Cancel or terminate it first.",
      });
    });
  }

  // -------------------------------------------------------------- messages to runs

  signalRun(
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

  async queryRun(id: string, name: string, args: Encoded): Promise<Outcome> {
    const key = runKey(this.#parts.name, checkId(id, "run id"));
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

  async updateRun(
    id: string,
    name: string,
    args: Encoded,
    options: { updateId?: string; waitMs?: number; until?: "accepted" | "completed" } = {},
  ): Promise<CallResult> {
    const key = runKey(this.#parts.name, checkId(id, "run id"));
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
        return await this.#called(partition, callId, known, reply.outcome, waitMs);
      }
      return await this.#accepted(callId, { reply, acceptance }, options.waitMs);
    } finally {
      reply.forget();
      acceptance.forget();
    }
  }

  /** Whichever comes first: that the update's validator let it pass, or its outcome. */
  async #accepted(
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
    const result = await this.#within(Promise.race([accepted, done]), waitMs);
    if (result !== undefined) return result;
    throw new SporeError("host-busy", `update ${callId} is stored, and not accepted yet`, {
      hint: "Ask again with the same updateId.",
    });
  }

  // -------------------------------------------------------------- actors

  async ensureActor(
    type: string,
    key: string,
    args: Encoded,
  ): Promise<{ created: boolean; actor: ActorView }> {
    const entityKey = this.#actorKey(type, key);
    const partition = this.#parts.partition(entityKey);
    const component = await this.#actorComponent(partition, entityKey, type);
    const reply = partition.reply(entityKey, ".0");
    try {
      const created = await ask(partition, entityKey, (actor, sink) => {
        if (actor === undefined) partition.newActor(entityKey, component, args, sink);
        return actor === undefined;
      });
      if (created) {
        const outcome = await reply.outcome;
        if (outcome.kind === "error") throw initFailed(type, key, outcome.error);
      }
      return { created, actor: await this.getActor(type, key) };
    } finally {
      reply.forget();
    }
  }

  async callActor(request: CallRequest): Promise<CallResult> {
    const entityKey = this.#actorKey(request.type, request.key);
    const partition = this.#parts.partition(entityKey);
    const component = await this.#actorComponent(partition, entityKey, request.type);
    const upgradeTo = await this.#upgradeFor(partition, entityKey, component);
    const method = await this.#method(upgradeTo ?? component, request.type, request.method);
    if (method.readonly) {
      if (upgradeTo !== undefined) {
        await this.#upgradeToRead(partition, entityKey, { component, upgradeTo, method });
      }
      return this.#readActor(partition, entityKey, request);
    }
    const { session } = request;
    if (session !== undefined) await this.#awaitTurnOf(partition, entityKey, session);
    const isNamed =
      request.callId !== undefined || session !== undefined || request.isAsync === true;
    const callId =
      request.callId ??
      (session === undefined ? `.${this.#randomId()}` : `${session.id}.${session.seq}`);
    const reply = partition.reply(entityKey, callId);
    try {
      const known = await ask(partition, entityKey, (found, sink) => {
        const actor = found ?? partition.newActor(entityKey, component, undefined, sink);
        const seen = actor.calls.get(callId);
        if (seen !== undefined) return seen.outcome;
        refuseOldSession(actor, session);
        if (upgradeTo !== undefined) requestUpgrade(actor, sink, upgradeTo, false);
        acceptCall(actor, sink, {
          method: request.method,
          args: request.args,
          callId,
          isRemembered: isNamed,
          session,
        });
        if (session !== undefined) {
          sink.notify(actor);
          this.#openGate(entityKey, session);
        }
        return undefined;
      });
      const waitMs = request.isAsync === true ? 0 : callWaitMsMax;
      return await this.#called(partition, callId, known, reply.outcome, waitMs);
    } finally {
      reply.forget();
    }
  }

  /** The call's outcome if it comes in time, else that it is durably accepted. */
  async #called(
    partition: Partition,
    callId: string,
    known: Outcome | undefined,
    coming: Promise<Outcome>,
    waitMs = callWaitMsMax,
  ): Promise<CallResult> {
    if (known !== undefined) {
      await partition.durable();
      return { kind: "done", callId, outcome: known };
    }
    const outcome = waitMs > 0 ? await this.#within(coming, waitMs) : undefined;
    if (outcome !== undefined) return { kind: "done", callId, outcome };
    await partition.durable();
    return { kind: "accepted", callId };
  }

  async callResult(
    type: string,
    key: string,
    callId: string,
    options: { waitMs?: number } = {},
  ): Promise<CallResult> {
    const entityKey = this.#actorKey(type, key);
    const partition = this.#parts.partition(entityKey);
    const reply = partition.reply(entityKey, callId);
    try {
      const known = await ask(partition, entityKey, (actor) => {
        const call = actor?.calls.get(callId);
        if (call === undefined) {
          throw new SporeError("actor-not-found", `actor ${type}/${key} knows no call ${callId}`);
        }
        return call.outcome;
      });
      return await this.#called(partition, callId, known, reply.outcome, options.waitMs ?? 0);
    } finally {
      reply.forget();
    }
  }

  async getActor(type: string, key: string): Promise<ActorView> {
    const entityKey = this.#actorKey(type, key);
    const partition = this.#parts.partition(entityKey);
    const view = await ask(partition, entityKey, (actor) => {
      if (actor === undefined) throw actorNotFound(type, key);
      return actorViewOf(actor);
    });
    await partition.durable();
    return view;
  }

  async listActors(request: ListActorsRequest): Promise<ListActorsResult> {
    const page = await listActorNames(this.#parts.name, this.#parts.partitions, request);
    const views = page.names.map(async ({ type, key }) => {
      try {
        return await this.getActor(type, key);
      } catch (error) {
        if (error instanceof SporeError && error.kind === "missing") return undefined; // deleted since
        throw error;
      }
    });
    const actors = (await Promise.all(views)).filter((view) => view !== undefined);
    return page.cursor === undefined ? { actors } : { actors, cursor: page.cursor };
  }

  actorState(type: string, key: string): Promise<ActorState> {
    return this.#onActor(type, key, (actor) => {
      if (actor.state === undefined) throw actorNotFound(type, key);
      return { state: actor.state, turns: actorHead(actor).turns };
    });
  }

  editActor(type: string, key: string, edit: ActorState): Promise<ActorView> {
    return this.#onActor(type, key, (actor, sink) => {
      editState(actor, sink, edit.state, edit.turns);
      return actorViewOf(actor);
    });
  }

  async forkActor(type: string, key: string, into: string): Promise<ActorView> {
    const from = await this.#onActor(type, key, (actor) => ({
      state: actor.state,
      component: actor.head.component,
    }));
    const { state, component } = from;
    if (state === undefined) throw actorNotFound(type, key);
    const entityKey = this.#actorKey(type, into);
    const partition = this.#parts.partition(entityKey);
    await ask(partition, entityKey, (actor, sink) => {
      if (actor !== undefined) {
        throw new SporeError("actor-exists", `actor ${type}/${into} exists`);
      }
      partition.add(forkOf(entityKey, { state, component, from: key }, sink));
    });
    return this.getActor(type, into);
  }

  async actorHistory(
    type: string,
    key: string,
    options: { from?: number; limit?: number } = {},
  ): Promise<HistoryEvent[]> {
    await this.getActor(type, key);
    const entityKey = this.#actorKey(type, key);
    const events: HistoryEvent[] = [];
    const limit = options.limit ?? stepsPerRead;
    const partition = this.#parts.partition(entityKey);
    for await (const event of readHistory(partition, entityKey, options.from ?? 0)) {
      events.push(event);
      if (events.length >= limit) break;
    }
    return events;
  }

  actorEvents(
    type: string,
    key: string,
    options: { from: number; signal: AbortSignalLike },
  ): AsyncIterable<HistoryEvent> {
    const entityKey = this.#actorKey(type, key);
    return this.#follow(entityKey, options, async () => {
      await this.getActor(type, key);
      return false;
    });
  }

  signalActor(
    type: string,
    key: string,
    name: string,
    value: Encoded,
    options: { messageId?: string } = {},
  ): Promise<{ duplicate: boolean }> {
    checkName(name, "signal");
    return this.#onActor(type, key, (actor, sink) =>
      takeSignal(actor, sink, { name, value, messageId: options.messageId }),
    );
  }

  resumeActor(type: string, key: string): Promise<ActorView> {
    return this.#onActor(type, key, (actor, sink) => {
      resumeActor(actor, sink);
      return actorViewOf(actor);
    });
  }

  async upgradeActors(request: {
    type: string;
    key?: string;
    keyPrefix?: string;
    component?: string;
  }): Promise<{ requested: number }> {
    const { id, manifest } = await this.#componentFor(request.component);
    const definition = definitionOf(manifest, "actor", request.type);
    if (definition.upgrades !== true) {
      throw new SporeError("invalid-request", `actor ${request.type} has no upgrade`, {
        hint: "Give the class a `static upgrade(state)` and deploy it.",
      });
    }
    const upgrade = (key: string): Promise<boolean> =>
      this.#onActor(request.type, key, (actor, sink) => requestUpgrade(actor, sink, id, true));
    if (request.key !== undefined) return { requested: (await upgrade(request.key)) ? 1 : 0 };
    let requested = 0;
    let cursor: string | undefined;
    do {
      const { type, keyPrefix } = request;
      const page = await listActorNames(this.#parts.name, this.#parts.partitions, {
        type,
        keyPrefix,
        limit: 1000,
        cursor,
      });
      for (const { key } of page.names) if (await upgrade(key)) requested += 1;
      cursor = page.cursor;
    } while (cursor !== undefined);
    return { requested };
  }

  async rollBackActor(type: string, key: string): Promise<ActorView> {
    const entityKey = this.#actorKey(type, key);
    const partition = this.#parts.partition(entityKey);
    await partition.durable();
    const prefix = rowKeys.previous(entityKey);
    const row = (await partition.scan(prefix, { limit: 1 })).entries[0];
    return this.#onActor(type, key, (actor, sink) => {
      if (row === undefined || actorHead(actor).previousComponent === undefined) {
        throw new SporeError("actor-not-found", `actor ${type}/${key} has had no upgrade`);
      }
      rollBack(actor, sink, decodeRow<PreviousRow>(row[0], row[1]));
      return actorViewOf(actor);
    });
  }

  async #onActor<T>(type: string, key: string, act: (actor: Entity, sink: Sink) => T): Promise<T> {
    const entityKey = this.#actorKey(type, key);
    const partition = this.#parts.partition(entityKey);
    const result = await ask(partition, entityKey, (actor, sink) => {
      if (actor === undefined) throw actorNotFound(type, key);
      const acted = act(actor, sink);
      sink.notify(actor); // who follows its events sees what was done by hand, too
      return acted;
    });
    await partition.durable();
    return result;
  }

  async deleteActor(type: string, key: string): Promise<void> {
    const entityKey = this.#actorKey(type, key);
    await this.#parts.partition(entityKey).delete(entityKey, (actor) => {
      if (actor === undefined) throw actorNotFound(type, key);
    });
  }

  // -------------------------------------------------------------- schedules

  createSchedule(id: string | undefined, request: ScheduleRequest): Promise<ScheduleView> {
    return this.#schedules.create(id, request);
  }

  putSchedule(
    id: string,
    request: ScheduleRequest,
  ): Promise<{ created: boolean; schedule: ScheduleView }> {
    return this.#schedules.put(id, request);
  }

  getSchedule(id: string): Promise<ScheduleView> {
    return this.#schedules.get(id);
  }

  listSchedules(request: Parameters<TenantHost["listSchedules"]>[0]) {
    return this.#schedules.list(request);
  }

  deleteSchedule(id: string): Promise<void> {
    return this.#schedules.delete(id);
  }

  pauseSchedule(id: string, note?: string): Promise<ScheduleView> {
    return this.#schedules.pause(id, note);
  }

  resumeSchedule(id: string, note?: string): Promise<ScheduleView> {
    return this.#schedules.resume(id, note);
  }

  triggerSchedule(id: string, options: { overlap?: Overlap; triggerId?: string } = {}) {
    return this.#schedules.trigger(id, options);
  }

  backfillSchedule(id: string, request: BackfillRequest): Promise<BackfillResult> {
    return this.#schedules.backfill(id, request);
  }

  #actorKey(type: string, key: string): EntityKey {
    return actorKey(this.#parts.name, checkName(type, "actor type"), checkId(key, "actor key"));
  }

  /** The component of an existing actor, else the current one if it defines the type. */
  async #actorComponent(partition: Partition, key: EntityKey, type: string): Promise<string> {
    const existing = await ask(partition, key, (actor) => actor?.head.component);
    if (existing !== undefined) return existing;
    const { id, manifest } = await this.#componentFor(undefined);
    definitionOf(manifest, "actor", type);
    return id;
  }

  /** The current component, if an actor of another one is to move there by itself. */
  async #upgradeFor(
    partition: Partition,
    key: EntityKey,
    component: string,
  ): Promise<string | undefined> {
    const current = await this.#currentId();
    if (current === undefined || current === component) return undefined;
    const definition = await this.#definition(current, key);
    if (definition?.upgrades !== true) return undefined;
    const hasFailed = await ask(
      partition,
      key,
      (actor) => actor !== undefined && actorHead(actor).failedUpgrade === current,
    );
    return hasFailed ? undefined : current;
  }

  async #definition(component: string, key: EntityKey): Promise<Definition | undefined> {
    const { definitions } = await this.#parts.manifest(component);
    const type = nameOf(key).slice(0, nameOf(key).indexOf("/"));
    return definitions.find((item) => item.kind === "actor" && item.name === type);
  }

  /**
   * A read waits for the upgrade that it causes, so that new code answers; but not for a turn
   * that is going on, if the code of that turn can answer it as well.
   */
  async #upgradeToRead(
    partition: Partition,
    key: EntityKey,
    asked: { component: string; upgradeTo: string; method: { readonly name: string } },
  ): Promise<void> {
    const { component, upgradeTo, method } = asked;
    const { methods = [] } = (await this.#definition(component, key)) ?? {};
    const canRead = methods.some(({ name, readonly }) => name === method.name && readonly);
    await this.#waitFor(partition, key, callWaitMsMax, async () => {
      const isOver = await ask(partition, key, (actor, sink) => {
        if (actor === undefined || actor.state === undefined) return true;
        const { turn, failedUpgrade, component: own } = actorHead(actor);
        if (own === upgradeTo || failedUpgrade === upgradeTo) return true;
        if (canRead && turn !== undefined && turn.upgradeTo === undefined) return true;
        requestUpgrade(actor, sink, upgradeTo, false);
        return false;
      });
      return { kind: isOver ? "ready" : "pending" };
    });
  }

  async #method(
    component: string,
    type: string,
    method: string,
  ): Promise<{ readonly name: string; readonly readonly: boolean }> {
    const manifest = await this.#parts.manifest(component);
    const { methods = [] } = definitionOf(manifest, "actor", type);
    const found = methods.find(({ name }) => name === method);
    if (found !== undefined) return found;
    throw new SporeError("method-not-found", `actor ${type} has no method ${printable(method)}`, {
      hint: `Its methods: ${methods.map(({ name }) => name).join(", ") || "none"}.`,
    });
  }

  /**
   * On the state as it is now, beside whatever turn is going on (I6); in a session after the
   * calls that the session made before.
   */
  async #readActor(
    partition: Partition,
    key: EntityKey,
    request: CallRequest,
  ): Promise<CallResult> {
    const { type, method, args, session } = request;
    let actor = await ask(partition, key, (found) => found);
    if (actor?.state === undefined) {
      await this.ensureActor(type, request.key, encode([]));
      await this.#waitFor(partition, key, callWaitMsMax, async () => {
        actor = await ask(partition, key, (found) => found);
        return actor?.state === undefined ? { kind: "pending" } : { kind: "ready" };
      });
    }
    if (actor === undefined) throw actorNotFound(type, request.key);
    const state =
      session === undefined ? actor.state : await this.#stateInTurn(partition, key, session);
    if (state === undefined) throw actorNotFound(type, request.key);
    const outcome = await peek(partition, actor, {
      kind: "turn",
      run: runInfo(actor),
      actor: refOf(actor),
      method,
      args,
      state,
      id: "read",
      readonly: true,
    });
    await partition.durable();
    return { kind: "done", callId: "", outcome };
  }

  async #stateInTurn(
    partition: Partition,
    key: EntityKey,
    session: SessionCall,
  ): Promise<Encoded | undefined> {
    await this.#awaitTurnOf(partition, key, session);
    const read = await this.#waitFor(partition, key, callWaitMsMax, async () => {
      const found = await ask(partition, key, (actor, sink) =>
        actor === undefined ? { state: undefined } : readInSession(actor, sink, session),
      );
      return found === undefined ? { kind: "pending" } : { kind: "ready", state: found.state };
    });
    this.#openGate(key, session);
    return read.kind === "ready" ? read.state : undefined;
  }

  /** Waits for the earlier calls of the session to arrive: a client sends them in one go. */
  async #awaitTurnOf(partition: Partition, key: EntityKey, session: SessionCall): Promise<void> {
    checkId(session.id, "session");
    // The gate first: the call before this one may come while the actor is read.
    const gate = Promise.withResolvers<true>();
    const forget = this.#addGate(gateName(key, session.id, session.seq), () => gate.resolve(true));
    try {
      const known = await ask(partition, key, (actor) => actor?.sessions.get(session.id) ?? 0);
      const last = Math.max(known, session.answered ?? 0);
      if (session.seq <= last + 1 || (await this.#within(gate.promise, sessionWaitMs))) return;
    } finally {
      forget();
    }
    throw new SporeError(
      "host-busy",
      `call ${session.seq - 1} of session ${session.id} is missing`,
      {
        hint: "Send the calls of a session in order, numbered from 1.",
      },
    );
  }

  /** Calls that came before their predecessors, each woken when it is its turn. */
  #addGate(name: string, open: () => void): () => void {
    const gates = this.#gates.get(name) ?? new Set();
    this.#gates.set(name, gates);
    gates.add(open);
    return () => {
      gates.delete(open);
      if (gates.size === 0) this.#gates.delete(name);
    };
  }

  #openGate(key: EntityKey, session: { readonly id: string; readonly seq: number }): void {
    const gates = this.#gates.get(gateName(key, session.id, session.seq + 1));
    if (gates !== undefined) for (const open of gates) open();
  }

  // -------------------------------------------------------------- waiting

  async #onRun<T>(id: string, act: (run: Entity, sink: Sink) => T): Promise<T> {
    const key = runKey(this.#parts.name, checkId(id, "run id"));
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
    return this.#waitFor(partition, key, waitMs, async (): Promise<OutputResult> => {
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

  /** Asks until the answer isn't `pending` or the time is up; woken by the entity's commits. */
  async #waitFor<T extends { readonly kind: string }>(
    partition: Partition,
    key: EntityKey,
    waitMs: number,
    ask: () => Promise<T>,
  ): Promise<T> {
    const { clock } = this.#parts.ports;
    const wakeUp = new WakeUp();
    const unwatch = partition.watchEntity(key, () => wakeUp.wake());
    let isLate = waitMs <= 0;
    const stopTimer = isLate
      ? undefined
      : clock.after(waitMs, () => {
          isLate = true;
          wakeUp.wake();
        });
    try {
      for (;;) {
        wakeUp.reset();
        const answer = await ask();
        if (answer.kind !== "pending" || isLate) return answer;
        await wakeUp.wait;
      }
    } finally {
      unwatch();
      stopTimer?.();
    }
  }

  async #within<T>(coming: Promise<T>, waitMs: number): Promise<T | undefined> {
    let stopTimer: () => void = () => undefined;
    const late = new Promise<undefined>((resolve) => {
      stopTimer = this.#parts.ports.clock.after(waitMs, () => resolve(undefined));
    });
    try {
      return await Promise.race([coming, late]);
    } finally {
      stopTimer();
    }
  }

  #randomId(): string {
    return toHex(this.#parts.ports.random.bytes(12));
  }
}

/** A promise that can be woken many times: `reset` before asking, then `wait`. */
class WakeUp {
  wait: Promise<void> = Promise.resolve();
  #wake: () => void = () => undefined;

  reset(): void {
    this.wait = new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  wake(): void {
    this.#wake();
  }
}

// ---------------------------------------------------------------- helpers

function deployedComponent(value: Uint8Array): string {
  const { component } = decode(value) as { component: string }; // written by deploy
  return component;
}

/** Name of what is started; throws if the request or a definition that it names is missing. */
function checkDefinitions(request: StartRequest, manifest: Manifest): string {
  if ((request.workflow === undefined) === (request.root === undefined)) {
    throw new SporeError("invalid-request", "give either a workflow or a graph");
  }
  if (request.workflow !== undefined) {
    return definitionOf(manifest, "workflow", request.workflow).name;
  }
  for (const step of stepsOf(request.root ?? encode(null))) definitionOf(manifest, "step", step);
  return "";
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

function definitionOf(
  manifest: Manifest,
  kind: "step" | "workflow" | "actor",
  name: string,
): Manifest["definitions"][number] {
  const found = manifest.definitions.find((item) => item.kind === kind && item.name === name);
  if (found !== undefined) return found;
  const code = kind === "actor" ? "actor-type-not-found" : (`${kind}-not-found` as const);
  const names = manifest.definitions.filter((item) => item.kind === kind).map((item) => item.name);
  throw new SporeError(code, `there is no ${kind} ${printable(name)}`, {
    hint: `Defined: ${names.slice(0, 20).join(", ") || "none"}.`,
  });
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
async function takesMessage(
  partition: Partition,
  key: EntityKey,
  ifExists: "start" | "terminate",
  message: StartMessageGiven | undefined,
): Promise<boolean> {
  if (message === undefined) return false;
  return ask(partition, key, (run) => {
    if (run === undefined) return false;
    return run.calls.has(message.id) || (ifExists === "start" && !isClosed(headOf(run).status));
  });
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
  if (status !== "RUNNING") {
    throw new SporeError("run-paused", `run ${nameOf(run.key)} is ${status}`);
  }
  rememberCall(run, sink, callId, undefined);
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
  partition: Partition,
  key: EntityKey,
  step: string,
): Promise<Outcome | undefined> {
  const steps = new Map<string, StepView>();
  for await (const event of readHistory(partition, key, 0)) foldStep(steps, event);
  let view = steps.get(step);
  while (view?.status === "CONTINUED" && view.into !== undefined) view = steps.get(view.into);
  if (view?.status === "FAILED" && view.error !== undefined) return failed(view.error);
  if (view?.status !== "SUCCESSFUL") return undefined;
  if (view.value === undefined) {
    throw new SporeError("step-not-found", `step ${step} keeps no output (checkpoint is off)`);
  }
  return { kind: "ok", value: view.value };
}

/**
 * A transition for a client. A refusal is an answer too: it must not come from a host that
 * lost the partition, so it waits like any other.
 */
async function ask<T>(
  partition: Partition,
  key: EntityKey,
  transition: (entity: Entity | undefined, sink: Sink) => T,
): Promise<T> {
  try {
    return await partition.request(key, transition);
  } catch (error) {
    if (error instanceof SporeError && (error.kind === "missing" || error.kind === "conflict")) {
      await partition.durable();
    }
    throw error;
  }
}

async function peek(
  partition: Partition,
  entity: Entity,
  input: Parameters<Partition["peek"]>[1] & { readonly id: string },
): Promise<Outcome> {
  const result = await partition.peek(entity, input);
  if (result.kind === "fault") return failed(hostError(result.fault, result.message));
  assert(result.kind === "ok", "a peek is answered");
  const drained = decode(result.drained) as Drained; // written by the SDK
  for (const command of drained.commands) {
    if (command.kind === "reply" && command.id === input.id) return command.outcome;
  }
  return failed(hostError("guest-output", "the guest gave no answer"));
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
    parentId: head.parent,
    rootId: head.root,
    tags: head.tags,
    metadata: head.metadata,
    waiting: isOver ? undefined : waitingOf(run),
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
  if (head.status === "PAUSED") return { for: "somebody to resume it (paused)", sinceMs };
  if (head.status === "RESUMABLE") return { for: "somebody to resume it (see its error)", sinceMs };
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

function actorViewOf(actor: Entity): ActorView {
  const head = actorHead(actor);
  return {
    ...refOf(actor),
    component: head.component,
    createdAtMs: head.createdAtMs,
    turns: head.turns,
    stateBytes: head.stateBytes,
    mailbox: actor.mail.length,
    busy: head.turn !== undefined,
    stopped: head.isStopped === true,
    reminders: [...actor.reminders.values()].map(({ name, method, atMs }) => ({
      name,
      method,
      atMs,
    })),
    ...(head.previousComponent === undefined ? {} : { previousComponent: head.previousComponent }),
  };
}

function takeSignal(
  entity: Entity,
  sink: Sink,
  signal: {
    readonly name: string;
    readonly value: Encoded;
    readonly messageId: string | undefined;
  },
): { duplicate: boolean } {
  const { name, value, messageId } = signal;
  if (messageId !== undefined && entity.calls.has(messageId)) return { duplicate: true };
  acceptSignal(entity, sink, name, value);
  if (messageId !== undefined) rememberCall(entity, sink, messageId, undefined);
  return { duplicate: false };
}

function refuseClosed(run: Entity): void {
  const head = headOf(run);
  if (!isClosed(head.status)) return;
  throw new SporeError("run-closed", `run ${nameOf(run.key)} is ${head.status}`);
}

function refuseOldSession(
  actor: Entity,
  session: { readonly id: string; readonly seq: number } | undefined,
): void {
  if (session === undefined) return;
  if (session.seq > (actor.sessions.get(session.id) ?? 0)) return;
  throw new SporeError(
    "idempotency-mismatch",
    `call ${session.seq} of its session was answered long ago`,
  );
}

function gateName(key: EntityKey, session: string, seq: number): string {
  return `${key} ${session} ${seq}`;
}

function runNotFound(id: string): SporeError {
  return new SporeError("run-not-found", `there is no run ${id}`);
}

function actorNotFound(type: string, key: string): SporeError {
  return new SporeError("actor-not-found", `there is no actor ${type}/${key}`);
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

function initFailed(type: string, key: string, error: ErrorValue): SporeError {
  return new SporeError("actor-init-failed", `${type}/${key}: ${error.name}: ${error.message}`, {
    cause: error,
  });
}

function printable(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}
