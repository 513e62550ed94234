/**
 * One tenant's view of the host: components, runs, actors and schedules by their public ids.
 */
import type { Encoded, Manifest, Outcome } from "../guest/protocol.ts";
import { Actors } from "./actors.ts";
import { Deployments, definitionOf } from "./deployments.ts";
import type { EntityKey } from "./ids.ts";
import type {
  ActorState,
  ActorView,
  BackfillRequest,
  BackfillResult,
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
  StartRequest,
  StartResult,
  Status,
  StepView,
  TenantHost,
} from "./index.ts";
import type { Partition } from "./partition.ts";
import type { AbortSignalLike, ComponentSource, Ports } from "./ports.ts";
import type { Register } from "./register.ts";
import type { Retrier } from "./retry.ts";
import { Runs } from "./runs.ts";
import { Schedules } from "./schedules.ts";

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

export function createTenant(parts: TenantParts): TenantHost {
  return new Tenant(parts);
}

class Tenant implements TenantHost {
  readonly #deployments: Deployments;
  readonly #runs: Runs;
  readonly #actors: Actors;
  readonly #schedules: Schedules;

  constructor({ name: tenant, deployments: register, ...host }: TenantParts) {
    const deployments = new Deployments({ register, ...host });
    const parts = { tenant, ...host, deployments };
    this.#deployments = deployments;
    this.#runs = new Runs(parts);
    this.#actors = new Actors(parts);
    this.#schedules = new Schedules({
      ...parts,
      componentOf: async (workflow, component) => {
        const { id, manifest } = await deployments.resolve(component);
        definitionOf(manifest, "workflow", workflow);
        return id;
      },
    });
  }

  // -------------------------------------------------------------- components

  deploy(source: ComponentSource): Promise<{ id: string; manifest: Manifest }> {
    return this.#deployments.deploy(source);
  }

  currentComponent(): Promise<ComponentView | undefined> {
    return this.#deployments.current();
  }

  // -------------------------------------------------------------- runs

  startRun(request: StartRequest): Promise<StartResult> {
    return this.#runs.start(request);
  }

  getRun(id: string): Promise<RunView> {
    return this.#runs.get(id);
  }

  output(id: string, options: { waitMs?: number; step?: string } = {}): Promise<OutputResult> {
    return this.#runs.output(id, options);
  }

  published(id: string, name: string, options: { waitMs?: number } = {}): Promise<PublishedResult> {
    return this.#runs.published(id, name, options);
  }

  steps(id: string, options: { after?: number; limit?: number } = {}): Promise<StepView[]> {
    return this.#runs.steps(id, options);
  }

  history(id: string, options: { from?: number; limit?: number } = {}): Promise<HistoryEvent[]> {
    return this.#runs.history(id, options);
  }

  events(
    id: string,
    options: { from: number; signal: AbortSignalLike },
  ): AsyncIterable<HistoryEvent> {
    return this.#runs.events(id, options);
  }

  listRuns(request: ListRequest): Promise<ListResult> {
    return this.#runs.list(request);
  }

  bulk(request: BulkRequest): Promise<BulkResult> {
    return this.#runs.bulk(request);
  }

  cancelRun(id: string, reason: string): Promise<RunView> {
    return this.#runs.cancel(id, reason);
  }

  terminateRun(id: string, reason: string): Promise<RunView> {
    return this.#runs.terminate(id, reason);
  }

  pauseRun(id: string): Promise<RunView> {
    return this.#runs.pause(id);
  }

  resumeRun(id: string): Promise<RunView> {
    return this.#runs.resume(id);
  }

  resumeAll(options: { includeFailed: boolean }): Promise<{ id: string; status: Status }[]> {
    return this.#runs.resumeAll(options);
  }

  deleteRun(id: string): Promise<void> {
    return this.#runs.delete(id);
  }

  signalRun(
    id: string,
    name: string,
    value: Encoded,
    options: { messageId?: string } = {},
  ): Promise<{ duplicate: boolean }> {
    return this.#runs.signal(id, name, value, options);
  }

  queryRun(id: string, name: string, args: Encoded): Promise<Outcome> {
    return this.#runs.query(id, name, args);
  }

  updateRun(
    id: string,
    name: string,
    args: Encoded,
    options: { updateId?: string; waitMs?: number; until?: "accepted" | "completed" } = {},
  ): Promise<CallResult> {
    return this.#runs.update(id, name, args, options);
  }

  // -------------------------------------------------------------- actors

  ensureActor(
    type: string,
    key: string,
    args: Encoded,
  ): Promise<{ created: boolean; actor: ActorView }> {
    return this.#actors.ensure(type, key, args);
  }

  callActor(request: CallRequest): Promise<CallResult> {
    return this.#actors.call(request);
  }

  callResult(
    type: string,
    key: string,
    callId: string,
    options: { waitMs?: number } = {},
  ): Promise<CallResult> {
    return this.#actors.callResult(type, key, callId, options);
  }

  getActor(type: string, key: string): Promise<ActorView> {
    return this.#actors.get(type, key);
  }

  listActors(request: ListActorsRequest): Promise<ListActorsResult> {
    return this.#actors.list(request);
  }

  actorState(type: string, key: string): Promise<ActorState> {
    return this.#actors.state(type, key);
  }

  editActor(type: string, key: string, edit: ActorState): Promise<ActorView> {
    return this.#actors.edit(type, key, edit);
  }

  forkActor(type: string, key: string, into: string): Promise<ActorView> {
    return this.#actors.fork(type, key, into);
  }

  actorHistory(
    type: string,
    key: string,
    options: { from?: number; limit?: number } = {},
  ): Promise<HistoryEvent[]> {
    return this.#actors.history(type, key, options);
  }

  actorEvents(
    type: string,
    key: string,
    options: { from: number; signal: AbortSignalLike },
  ): AsyncIterable<HistoryEvent> {
    return this.#actors.events(type, key, options);
  }

  signalActor(
    type: string,
    key: string,
    name: string,
    value: Encoded,
    options: { messageId?: string } = {},
  ): Promise<{ duplicate: boolean }> {
    return this.#actors.signal(type, key, name, value, options);
  }

  resumeActor(type: string, key: string): Promise<ActorView> {
    return this.#actors.resume(type, key);
  }

  upgradeActors(request: {
    type: string;
    key?: string;
    keyPrefix?: string;
    component?: string;
  }): Promise<{ requested: number }> {
    return this.#actors.upgrade(request);
  }

  rollBackActor(type: string, key: string): Promise<ActorView> {
    return this.#actors.rollBack(type, key);
  }

  deleteActor(type: string, key: string): Promise<void> {
    return this.#actors.delete(type, key);
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
}
