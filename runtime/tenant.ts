/**
 * One tenant's view of the namespace: components, runs, actors and schedules by their public
 * ids, whichever host serves them. The two tables say for each request who executes it: the
 * owner of its key (`ways`), or the owners of all partitions (`spreads`). What makes a
 * repetition safe, ids of runs and messages, is chosen before a request goes anywhere.
 */
import { encode } from "../guest/cbor.ts";
import type { Manifest, QueueLimits } from "../guest/protocol.ts";
import { Actors, type CallOnItsWay, type ForkOrigin } from "./actors.ts";
import type { Admissions } from "./admissions.ts";
import { callWaitMsMax, type EventPage } from "./asking.ts";
import { bulk } from "./bulk.ts";
import type { Components } from "./components.ts";
import { Deadline } from "./deadline.ts";
import { Deployments, definitionOf } from "./deployments.ts";
import { SporeError } from "./errors.ts";
import type { Followers } from "./followers.ts";
import type { ForkPlan } from "./fork.ts";
import { Forks, type RerunOrigin } from "./forks.ts";
import type { Generations } from "./generations.ts";
import {
  actorKey,
  checkId,
  checkName,
  type EntityKey,
  partitionOf,
  runKey,
  toHex,
  uploadKey,
} from "./ids.ts";
import type {
  ActorView,
  CallRequest,
  CallResult,
  ComponentUse,
  ComponentView,
  ForkRequest,
  HistoryEvent,
  ListActorsRequest,
  ListActorsResult,
  ListQueuesRequest,
  ListQueuesResult,
  ListRequest,
  ListResult,
  ListSchedulesRequest,
  ListSchedulesResult,
  OutputResult,
  RerunRequest,
  RunView,
  StartRequest,
  StartResult,
  Status,
  TenantHost,
} from "./index.ts";
import { mergePages, pageLimit, positionOfRun } from "./listing.ts";
import type { Objects } from "./objects.ts";
import type { Partition } from "./partition.ts";
import type { AbortSignalLike, ByteRange, Ports } from "./ports.ts";
import { declaredQueues, keyOfQueue, Queues } from "./queues.ts";
import type { Register } from "./register.ts";
import type { Retrier } from "./retry.ts";
import type { Routing } from "./routing.ts";
import { statuses } from "./run.ts";
import { Runs } from "./runs.ts";
import { keyOfSchedule, Schedules } from "./schedules.ts";
import type { Seats } from "./seats.ts";
import { ownStored, withValues } from "./stored.ts";
import { holdUpload, Uploads } from "./uploads.ts";
import type { Deployed, TenantRequest } from "./wire.ts";

export interface TenantParts {
  readonly name: string;
  readonly ports: Ports;
  readonly prefix: string;
  readonly seats: Seats;
  readonly routing: Routing;
  /** Absent: whoever serves a partition answers for it. */
  readonly followers: Followers | undefined;
  readonly manifest: (componentId: string) => Promise<Manifest>;
  readonly know: (componentId: string, manifest: Manifest) => void;
  readonly onCurrent: (componentId: string | undefined) => void;
  readonly deployments: Register;
  readonly components: Components;
  readonly objects: Objects;
  readonly generations: Generations;
  readonly retrier: Retrier;
  readonly admissions: Admissions;
  /** The host hands its partitions over, and will be gone: nobody begins to wait long here. */
  readonly isLeaving: () => boolean;
  /** Tells other hosts what was deployed here; resolves when they know, or can't be told. */
  readonly onDeployed: (deployed: Deployed) => Promise<void>;
}

/** What this host does by itself with what is in its partitions. */
interface Local {
  readonly runs: Runs;
  readonly forks: Forks;
  readonly actors: Actors;
  readonly schedules: Schedules;
  readonly queues: Queues;
  readonly tenant: string;
  readonly partition: (key: EntityKey) => Partition;
}

// ---------------------------------------------------------------- who executes what

/** Requests about one key. */
type Keyed = Omit<
  TenantHost,
  | "deploy"
  | "currentComponent"
  | "warmUp"
  | "events"
  | "actorEvents"
  | "bulk"
  | "callActor"
  | "forkActor"
  | "forkRun"
  | "rerunRun"
  | "deployments"
  | "rollBack"
  | "putObject"
  | "getObject"
  | "objectBytes"
  | "getObjectPart"
  | Spread
> & {
  holdObject(hash: string, expiresAtMs: number): Promise<void>;
  runOrigin(id: string, step: string, component?: string): Promise<ForkPlan>;
  plantRun(id: string, plan: ForkPlan): Promise<StartResult>;
  rerunOrigin(id: string, isReusing: boolean): Promise<RerunOrigin>;
  startAgain(request: StartRequest, origin: RerunStart): Promise<StartResult>;
  callActor(request: CallOnItsWay): Promise<CallResult>;
  eventPage(id: string, options: EventsFrom): Promise<EventPage>;
  actorEventPage(type: string, key: string, options: EventsFrom): Promise<EventPage>;
  forkOrigin(type: string, key: string): Promise<ForkOrigin>;
  plantFork(type: string, into: string, origin: ForkOrigin): Promise<ActorView>;
  upgradeActor(type: string, key: string, component: string): Promise<boolean>;
  declareQueue(name: string, limits: QueueLimits): Promise<void>;
  explainQueue(name: string, runId: string): Promise<string | undefined>;
};

type RerunStart = NonNullable<Parameters<Runs["start"]>[1]>;

type Spread =
  | "componentUse"
  | "listRuns"
  | "resumeAll"
  | "listActors"
  | "upgradeActors"
  | "listSchedules"
  | "listQueues";

interface EventsFrom {
  readonly from: number;
  readonly waitMs: number;
}

interface Way<Args extends unknown[], Result> {
  readonly key: (tenant: string, ...args: Args) => EntityKey;
  readonly act: (local: Local, ...args: Args) => Promise<Result>;
  /** Changes nothing: may be executed twice. */
  readonly isReading?: true;
  /** How long it may wait for something. */
  readonly waitMs?: (...args: Args) => number;
  /** The answer of a host that only follows the partition; undefined if its owner has to give it. */
  readonly beside?: (beside: Beside, ...args: Args) => Promise<Result | undefined>;
}

/** What this host sees of a partition that it follows. */
interface Beside {
  readonly actors: Actors;
  readonly followers: Followers;
  readonly partition: number;
  /** Whether the method only reads, as far as that is known. */
  readonly seemsToRead: (type: string, method: string) => boolean;
}

const ofRun = (tenant: string, id: string): EntityKey => runKey(tenant, checkId(id, "run id"));
const ofActor = (tenant: string, type: string, key: string): EntityKey =>
  actorKey(tenant, checkName(type, "actor type"), checkId(key, "actor key"));
const ofSchedule = (tenant: string, id: string | undefined): EntityKey =>
  keyOfSchedule(tenant, id ?? "");

const ways: {
  readonly [Name in keyof Keyed]: Way<Parameters<Keyed[Name]>, Awaited<ReturnType<Keyed[Name]>>>;
} = {
  startRun: {
    key: (tenant, { id }) => runKey(tenant, checkId(id, "run id")),
    act: ({ runs }, request) => runs.start(request),
    waitMs: ({ waitMs, update }) => waitMs ?? (update === undefined ? 0 : callWaitMsMax),
  },
  getRun: { key: ofRun, act: ({ runs }, id) => runs.get(id), isReading: true },
  output: {
    key: ofRun,
    act: ({ runs }, id, options) => runs.output(id, options),
    isReading: true,
    waitMs: (_id, options) => options?.waitMs ?? 0,
  },
  published: {
    key: ofRun,
    act: ({ runs }, id, name, options) => runs.published(id, name, options),
    isReading: true,
    waitMs: (_id, _name, options) => options?.waitMs ?? 0,
  },
  steps: { key: ofRun, act: ({ runs }, ...args) => runs.steps(...args), isReading: true },
  history: { key: ofRun, act: ({ runs }, ...args) => runs.history(...args), isReading: true },
  eventPage: {
    key: ofRun,
    act: ({ runs }, ...args) => runs.events(...args),
    isReading: true,
    waitMs: (_id, { waitMs }) => waitMs,
  },
  cancelRun: { key: ofRun, act: ({ runs }, ...args) => runs.cancel(...args) },
  terminateRun: { key: ofRun, act: ({ runs }, ...args) => runs.terminate(...args) },
  pauseRun: { key: ofRun, act: ({ runs }, id) => runs.pause(id) },
  resumeRun: { key: ofRun, act: ({ runs }, id) => runs.resume(id) },
  deleteRun: { key: ofRun, act: ({ runs }, id) => runs.delete(id) },
  runOrigin: {
    key: ofRun,
    act: ({ forks }, ...args) => forks.origin(...args),
    isReading: true,
    waitMs: () => replayMsMax,
  },
  plantRun: { key: ofRun, act: ({ forks }, ...args) => forks.plant(...args) },
  rerunOrigin: { key: ofRun, act: ({ forks }, ...args) => forks.again(...args), isReading: true },
  startAgain: {
    key: (tenant, { id }) => runKey(tenant, checkId(id, "run id")),
    act: ({ runs }, ...args) => runs.start(...args),
  },
  moveRun: {
    key: ofRun,
    act: ({ forks }, ...args) => forks.move(...args),
    waitMs: () => replayMsMax,
  },
  signalRun: { key: ofRun, act: ({ runs }, ...args) => runs.signal(...args) },
  queryRun: { key: ofRun, act: ({ runs }, ...args) => runs.query(...args), isReading: true },
  openEvents: { key: ofRun, act: ({ runs }, id) => runs.openEvents(id), isReading: true },
  revokeEvent: { key: ofRun, act: ({ runs }, ...args) => runs.revokeEvent(...args) },
  updateRun: {
    key: ofRun,
    act: ({ runs }, ...args) => runs.update(...args),
    waitMs: (_id, _name, _args, options) => options?.waitMs ?? callWaitMsMax,
  },

  ensureActor: {
    key: ofActor,
    act: ({ actors }, ...args) => actors.ensure(...args),
    waitMs: () => callWaitMsMax,
  },
  callActor: {
    key: (tenant, { type, key }) => ofActor(tenant, type, key),
    act: ({ actors }, request) => actors.call(request),
    waitMs: () => callWaitMsMax,
    // Other calls aren't worth a look into the log.
    beside: async ({ actors, followers, partition, seemsToRead }, request) =>
      seemsToRead(request.type, request.method)
        ? actors.readBeside(followers, partition, request)
        : undefined,
  },
  callResult: {
    key: ofActor,
    act: ({ actors }, ...args) => actors.callResult(...args),
    isReading: true,
    waitMs: (_type, _key, _callId, options) => options?.waitMs ?? 0,
  },
  getActor: { key: ofActor, act: ({ actors }, ...args) => actors.get(...args), isReading: true },
  actorState: {
    key: ofActor,
    act: ({ actors }, ...args) => actors.state(...args),
    isReading: true,
  },
  editActor: { key: ofActor, act: ({ actors }, ...args) => actors.edit(...args) },
  forkOrigin: {
    key: ofActor,
    act: ({ actors }, ...args) => actors.original(...args),
    isReading: true,
  },
  plantFork: { key: ofActor, act: ({ actors }, ...args) => actors.fork(...args) },
  actorHistory: {
    key: ofActor,
    act: ({ actors }, ...args) => actors.history(...args),
    isReading: true,
  },
  actorEventPage: {
    key: ofActor,
    act: ({ actors }, ...args) => actors.events(...args),
    isReading: true,
    waitMs: (_type, _key, { waitMs }) => waitMs,
  },
  signalActor: { key: ofActor, act: ({ actors }, ...args) => actors.signal(...args) },
  resumeActor: { key: ofActor, act: ({ actors }, ...args) => actors.resume(...args) },
  upgradeActor: { key: ofActor, act: ({ actors }, ...args) => actors.upgrade(...args) },
  rollBackActor: { key: ofActor, act: ({ actors }, ...args) => actors.rollBack(...args) },
  deleteActor: { key: ofActor, act: ({ actors }, ...args) => actors.delete(...args) },

  createSchedule: {
    key: ofSchedule,
    act: ({ schedules }, id, request) => schedules.create(id ?? "", request),
  },
  putSchedule: { key: ofSchedule, act: ({ schedules }, ...args) => schedules.put(...args) },
  getSchedule: { key: ofSchedule, act: ({ schedules }, id) => schedules.get(id), isReading: true },
  holdObject: {
    key: (tenant, hash, expiresAtMs) => uploadKey(tenant, hash, expiresAtMs),
    act: ({ tenant, partition }, hash, expiresAtMs) => {
      const key = uploadKey(tenant, hash, expiresAtMs);
      return holdUpload(partition(key), key, { hash, expiresAtMs });
    },
    isReading: true,
  },
  deleteSchedule: { key: ofSchedule, act: ({ schedules }, id) => schedules.delete(id) },
  pauseSchedule: { key: ofSchedule, act: ({ schedules }, id, note) => schedules.pause(id, note) },
  resumeSchedule: { key: ofSchedule, act: ({ schedules }, id, note) => schedules.resume(id, note) },
  triggerSchedule: {
    key: ofSchedule,
    act: ({ schedules }, id, options = {}) => schedules.trigger(id, options),
  },
  backfillSchedule: {
    key: ofSchedule,
    act: ({ schedules }, ...args) => schedules.backfill(...args),
  },

  putQueue: { key: keyOfQueue, act: ({ queues }, ...args) => queues.put(...args) },
  declareQueue: { key: keyOfQueue, act: ({ queues }, ...args) => queues.declare(...args) },
  getQueue: { key: keyOfQueue, act: ({ queues }, name) => queues.get(name), isReading: true },
  explainQueue: {
    key: keyOfQueue,
    act: ({ queues }, ...args) => queues.explain(...args),
    isReading: true,
  },
  deleteQueue: { key: keyOfQueue, act: ({ queues }, name) => queues.delete(name) },
};

interface SpreadWay<Args extends unknown[], Result> {
  readonly act: (local: Local, partitions: readonly Partition[], ...args: Args) => Promise<Result>;
  readonly isReading?: true;
  /** How long it may take. */
  readonly waitMs?: number;
}

/** What one host says of its partitions; the asking one makes one answer of it. */
interface Parts {
  componentUse: SpreadWay<[], ComponentUse>;
  listRuns: SpreadWay<[ListRequest], ListResult>;
  resumeAll: SpreadWay<[{ includeFailed: boolean }], readonly { id: string; status: Status }[]>;
  listActors: SpreadWay<[ListActorsRequest], ListActorsResult>;
  upgradeActors: SpreadWay<[{ type: string; keyPrefix?: string | undefined }, string], number>;
  listSchedules: SpreadWay<[ListSchedulesRequest], ListSchedulesResult>;
  listQueues: SpreadWay<[ListQueuesRequest], ListQueuesResult>;
}

/** For what another host does to many runs or actors. */
const manyMsMax = 300_000;

const spreads: { readonly [Name in Spread]: Parts[Name] } = {
  componentUse: { act: ({ runs }, ...args) => runs.componentUse(...args), isReading: true },
  listRuns: { act: ({ runs }, ...args) => runs.list(...args), isReading: true },
  resumeAll: { act: ({ runs }, ...args) => runs.resumeAll(...args), waitMs: manyMsMax },
  listActors: { act: ({ actors }, ...args) => actors.list(...args), isReading: true },
  upgradeActors: { act: ({ actors }, ...args) => actors.upgradeAll(...args), waitMs: manyMsMax },
  listSchedules: { act: ({ schedules }, ...args) => schedules.list(...args), isReading: true },
  listQueues: { act: ({ queues }, ...args) => queues.list(...args), isReading: true },
};

/** How long a request may still wait at a host that is about to stop. */
const lastWaitMs = 1000;
/** One question for events; then the next. */
const eventsWaitMs = 60_000;
/** How long a request waits for a run's machine to be made again. */
const replayMsMax = 120_000;
/** Looks for an id that belongs here, before any other will do. */
const idTriesMax = 32;

// ---------------------------------------------------------------- the tenant

export class Tenant {
  /** What clients ask. */
  readonly host: TenantHost;
  readonly #parts: TenantParts;
  readonly #deployments: Deployments;
  readonly #read: (name: string, range: ByteRange | undefined) => Promise<Uint8Array>;
  readonly #local: Local;
  /** The current component, as it was looked up last. */
  #shown: ComponentView | undefined;
  #isShowing = false;

  constructor(parts: TenantParts) {
    this.#parts = parts;
    const { name: tenant, deployments: register, seats, ...rest } = parts;
    const routed = this.#routed();
    const declare = async (manifest: Manifest): Promise<void> => {
      const declared = [...declaredQueues(manifest)];
      await Promise.all(declared.map(([queue, limits]) => routed.declareQueue(queue, limits)));
    };
    const deployments = new Deployments({ register, declare, ...rest });
    const partition = (key: EntityKey): Partition => seats.partition(partitionOf(key, seats.count));
    const local = { tenant, partition, deployments, ...rest };
    this.#deployments = deployments;
    const uploads = new Uploads(local);
    this.#local = {
      tenant,
      partition,
      runs: new Runs({ ...local, explain: (queue, runId) => routed.explainQueue(queue, runId) }),
      forks: new Forks(local),
      actors: new Actors(local),
      schedules: new Schedules({
        ...local,
        componentOf: async (workflow, component) => {
          const { id, manifest } = await deployments.resolve(component);
          definitionOf(manifest, "workflow", workflow);
          return id;
        },
      }),
      queues: new Queues(local),
    };
    this.#read = async (name, range) =>
      range === undefined ? uploads.get(name) : encode(await uploads.getPart(name, range));
    this.host = this.#withValues(this.#hostOf(routed, uploads));
  }

  /** Another host's request. Throws peer-refused before anything is done if it isn't for us. */
  async execute({ method, args, partitions, deployed }: TenantRequest): Promise<unknown> {
    const { name, seats, routing } = this.#parts;
    if (deployed !== undefined) this.learn(deployed);
    if (partitions !== undefined) {
      const spread = own<SpreadWay<unknown[], unknown>>(spreads, method);
      return routing.here(partitions, () => {
        const here = partitions.map((partition) => seats.partition(partition));
        return spread.act(this.#local, here, ...args);
      });
    }
    const way = own<Way<unknown[], unknown>>(ways, method);
    const partition = partitionOf(way.key(name, ...args), seats.count);
    return routing.here([partition], () => way.act(this.#local, ...args));
  }

  /** Another host knows what is deployed. */
  learn(deployed: Deployed): void {
    this.#deployments.learn(deployed);
  }

  /** So that runs begin with it on other hosts, too, as soon as the answer is there. */
  async #tellDeployed(): Promise<void> {
    const { known } = this.#deployments;
    if (known !== undefined) await this.#parts.onDeployed(known);
  }

  #routed(): Keyed {
    return Object.fromEntries(
      Object.keys(ways).map((method) => [
        method,
        (...args: unknown[]) => this.#route(method as keyof Keyed, args), // keys of `ways`
      ]),
    ) as unknown as Keyed; // each method as `ways` has it
  }

  /** Clients get values, also where rows have references (stored.ts). */
  #withValues(host: TenantHost): TenantHost {
    const read = this.#read;
    const filled =
      <Args extends unknown[], Result>(method: (...args: Args) => Promise<Result>) =>
      async (...args: Args): Promise<Result> =>
        withValues(await method(...args), read);
    const followed = async function* <Item>(items: AsyncIterable<Item>): AsyncGenerator<Item> {
      for await (const item of items) yield await withValues(item, read);
    };
    const ended =
      <Args extends unknown[], Result extends StartResult | OutputResult>(
        method: (...args: Args) => Promise<Result>,
      ) =>
      async (...args: Args): Promise<Result> => {
        const result = await method(...args);
        const outcome = "outcome" in result ? result.outcome : undefined;
        const isStored = outcome?.kind === "ok" && ownStored(outcome.value) !== undefined;
        const answer = await withValues(result, read);
        return isStored ? { ...answer, isStored } : answer;
      };
    return {
      ...host,
      startRun: ended(host.startRun),
      output: ended(host.output),
      steps: filled(host.steps),
      history: filled(host.history),
      events: (id, options) => followed(host.events(id, options)),
      updateRun: filled(host.updateRun),
      callActor: filled(host.callActor),
      callResult: filled(host.callResult),
      actorHistory: filled(host.actorHistory),
      actorEvents: (type, key, options) => followed(host.actorEvents(type, key, options)),
    };
  }

  #hostOf(routed: Keyed, uploads: Uploads): TenantHost {
    const host: TenantHost = {
      ...routed,
      putObject: (value) =>
        uploads.put(value, (hash, expiresAtMs) => routed.holdObject(hash, expiresAtMs)),
      getObject: (name) => uploads.get(name),
      objectBytes: (name) => uploads.bytesIn(name),
      getObjectPart: (name, range) => uploads.getPart(name, range),
      deploy: async (source) => {
        const made = await this.#deployments.deploy(source);
        await this.#tellDeployed();
        return made;
      },
      currentComponent: () => this.#deployments.current(),
      warmUp: async () => {
        await Promise.allSettled([this.#deployments.current(), this.#parts.admissions.look()]);
      },
      deployments: (options = {}) => this.#deployments.list(options),
      rollBack: async (to) => {
        const view = await this.#deployments.rollBack(to);
        await this.#tellDeployed();
        return view;
      },
      componentUse: async () => sumOfUses(await this.#spread("componentUse", [])),
      startRun: (request) => this.#start(routed, request),
      output: (id, options) =>
        this.#waiting(
          options?.waitMs,
          (waitMs) => routed.output(id, { ...options, waitMs }),
          isPending,
        ),
      published: (id, name, options) =>
        this.#waiting(
          options?.waitMs,
          (waitMs) => routed.published(id, name, { ...options, waitMs }),
          isPending,
        ),
      events: (id, { from, signal }) =>
        follow({ from, signal }, (next) =>
          routed.eventPage(id, { from: next, waitMs: eventsWaitMs }),
        ),
      updateRun: (id, name, args, options = {}) => {
        const { updateId = this.#randomId(), until, waitMs = callWaitMsMax } = options;
        return this.#waiting(
          waitMs,
          (leftMs) => routed.updateRun(id, name, args, { ...options, updateId, waitMs: leftMs }),
          (result) => result.kind === "accepted" && until !== "accepted",
        );
      },
      listRuns: async (request) => {
        const pages = await this.#spread("listRuns", [request]);
        const merged = mergePages(
          pages.map(({ runs, cursor }) => ({ items: runs, cursor })),
          { limit: pageLimit(request), positionOf: positionOfRun },
        );
        return withCursor({ runs: merged.items }, merged.cursor);
      },
      forkRun: (id, request) => this.#fork(routed, id, request),
      rerunRun: (id, request) => this.#rerun(routed, id, request),
      bulk: (request) => bulk(host, request),
      resumeAll: async (options) => (await this.#spread("resumeAll", [options])).flat(),

      callActor: (request) => this.#call(routed, request),
      callResult: (type, key, callId, options) =>
        this.#waiting(
          options?.waitMs,
          (waitMs) => routed.callResult(type, key, callId, { waitMs }),
          ({ kind }) => kind === "accepted",
        ),
      actorEvents: (type, key, { from, signal }) =>
        follow({ from, signal }, (next) =>
          routed.actorEventPage(type, key, { from: next, waitMs: eventsWaitMs }),
        ),
      listActors: async (request) => {
        const pages = await this.#spread("listActors", [request]);
        const merged = mergePages(
          pages.map(({ actors, cursor }) => ({ items: actors, cursor })),
          { limit: pageLimit(request), positionOf: ({ type, key }) => `${type}/${key}` },
        );
        return withCursor({ actors: merged.items }, merged.cursor);
      },
      forkActor: async (type, key, into) =>
        routed.plantFork(type, into, await routed.forkOrigin(type, key)),
      upgradeActors: async ({ type, key, keyPrefix, component }) => {
        const { id } = await this.#deployments.resolve(component);
        if (key !== undefined) {
          return { requested: (await routed.upgradeActor(type, key, id)) ? 1 : 0 };
        }
        const counts = await this.#spread("upgradeActors", [{ type, keyPrefix }, id]);
        return { requested: counts.reduce((sum, count) => sum + count, 0) };
      },

      createSchedule: (id, request) => routed.createSchedule(id ?? this.#randomId(), request),
      listSchedules: async (request) => {
        const pages = await this.#spread("listSchedules", [request]);
        const merged = mergePages(
          pages.map(({ schedules, cursor }) => ({ items: schedules, cursor })),
          { limit: pageLimit(request), positionOf: ({ id }) => id },
        );
        return withCursor({ schedules: merged.items }, merged.cursor);
      },
      listQueues: async (request) => {
        const pages = await this.#spread("listQueues", [request]);
        const merged = mergePages(
          pages.map(({ queues, cursor }) => ({ items: queues, cursor })),
          { limit: pageLimit(request), positionOf: ({ name }) => name },
        );
        return withCursor({ queues: merged.items }, merged.cursor);
      },
    };
    return host;
  }

  // -------------------------------------------------------------- ways

  async #route(method: keyof Keyed, args: unknown[]): Promise<unknown> {
    const { name, seats, routing } = this.#parts;
    const way = own<Way<unknown[], unknown>>(ways, method);
    const partition = partitionOf(way.key(name, ...args), seats.count);
    return routing.at(partition, {
      here: () => way.act(this.#local, ...args),
      there: () => this.#requestOf(method, args),
      beside: way.beside && (() => this.#beside(way, partition, args)),
      waitMs: way.waitMs?.(...args),
      isReading: way.isReading,
    });
  }

  async #beside(
    way: Way<unknown[], unknown>,
    partition: number,
    args: unknown[],
  ): Promise<unknown> {
    const { followers, ports } = this.#parts;
    if (followers === undefined) return undefined;
    const seemsToRead = (type: string, method: string): boolean => this.#seemsToRead(type, method);
    const { actors } = this.#local;
    const answer = await way.beside?.({ actors, followers, partition, seemsToRead }, ...args);
    if (answer !== undefined) ports.observer.count("spore_followed_reads_total", 1);
    return answer;
  }

  /** By the current component, as far as it is known: an actor's own has the last word. */
  #seemsToRead(type: string, method: string): boolean {
    const { known } = this.#deployments;
    if (known === undefined || known.component !== this.#shown?.id) void this.#show();
    const actor = this.#shown?.definitions.find(
      (definition) => definition.kind === "actor" && definition.name === type,
    );
    return actor?.methods?.some(({ name, readonly }) => name === method && readonly) === true;
  }

  /** Nobody waits for it: until it is known, the owners answer. */
  async #show(): Promise<void> {
    if (this.#isShowing) return;
    this.#isShowing = true;
    try {
      this.#shown = await this.#deployments.current();
    } catch {
      // It is looked up again when somebody asks again.
    } finally {
      this.#isShowing = false;
    }
  }

  async #spread<Name extends Spread>(
    method: Name,
    args: Parameters<Parts[Name]["act"]> extends [Local, readonly Partition[], ...infer Rest]
      ? Rest
      : never,
  ): Promise<readonly Awaited<ReturnType<Parts[Name]["act"]>>[]> {
    const { seats, routing } = this.#parts;
    const spread = own<SpreadWay<unknown[], Awaited<ReturnType<Parts[Name]["act"]>>>>(
      spreads,
      method,
    );
    return routing.all({
      here: (partitions) => {
        const here = partitions.map((partition) => seats.partition(partition));
        return spread.act(this.#local, here, ...args);
      },
      there: (partitions) => ({ ...this.#requestOf(method, args), partitions }),
      isReading: spread.isReading,
      waitMs: spread.waitMs,
    });
  }

  #requestOf(method: string, args: readonly unknown[]): TenantRequest {
    const { known: deployed } = this.#deployments;
    const request = { kind: "tenant", tenant: this.#parts.name, method, args } as const;
    return deployed === undefined ? request : { ...request, deployed };
  }

  // -------------------------------------------------------------- what needs more than one way

  async #start(routed: Keyed, request: StartRequest): Promise<StartResult> {
    const id = request.id ?? this.#idHere();
    const component = request.component ?? (await this.#deployments.currentId());
    const updateId = request.update?.updateId ?? this.#randomId();
    const signal = request.signal && { messageId: this.#randomId(), ...request.signal };
    const update = request.update && { ...request.update, updateId };
    const waitMs = request.waitMs ?? (update === undefined ? 0 : callWaitMsMax);
    const deadline = new Deadline(this.#parts.ports.clock, waitMs);
    try {
      const started = await routed.startRun({ ...request, id, component, signal, update });
      if (update !== undefined) {
        if (started.update?.kind !== "accepted" || deadline.leftMs === 0) return started;
        const { name, args } = update;
        const rest = await this.#waiting(
          deadline.leftMs,
          (waitMs) => routed.updateRun(id, name, args, { updateId, waitMs }),
          ({ kind }) => kind === "accepted",
        );
        return { ...started, update: rest };
      }
      if (started.outcome !== undefined || signal !== undefined || deadline.leftMs === 0)
        return started;
      const rest = await this.#waiting(
        deadline.leftMs,
        (waitMs) => routed.output(id, { waitMs }),
        ({ kind }) => kind === "pending",
      );
      if (rest.kind === "pending") return started;
      return { ...started, status: rest.status, outcome: rest.outcome };
    } finally {
      deadline.stop();
    }
  }

  async #fork(routed: Keyed, id: string, request: ForkRequest): Promise<StartResult> {
    const { step, id: asked, component } = request;
    const forkId = asked ?? this.#idHere();
    // A repeated request needn't make the machine again.
    const known =
      asked === undefined ? undefined : await found(routed.getRun(checkId(asked, "run id")));
    if (known?.forkedFrom?.id === id && known.forkedFrom.step === step) {
      return { id: known.id, status: known.status, created: false };
    }
    if (known !== undefined) throw new SporeError("run-exists", `run ${known.id} exists`);
    return routed.plantRun(forkId, await routed.runOrigin(id, step, component));
  }

  async #rerun(routed: Keyed, id: string, request: RerunRequest): Promise<StartResult> {
    const origin = await routed.rerunOrigin(id, request.reuse === true);
    const { name, args, root, reuse, ...kept } = origin;
    const isGraph = root !== undefined;
    if (isGraph ? request.args !== undefined : request.root !== undefined) {
      const [is, take] = isGraph ? ["graph", "a root"] : ["workflow", "args"];
      throw new SporeError("invalid-request", `run ${id} is a ${is}: it takes ${take}`);
    }
    const what = isGraph
      ? { root: request.root ?? root }
      : { workflow: name, args: request.args ?? args };
    const component = request.component ?? (await this.#deployments.currentId());
    return routed.startAgain(
      { ...what, ...kept, id: request.id ?? this.#idHere(), ifExists: "fail", component },
      {
        rerunOf: id,
        ...(reuse === undefined ? {} : { reuse: await withValues(reuse, this.#read) }),
      },
    );
  }

  #call(routed: Keyed, request: CallRequest): Promise<CallResult> {
    const asked = { ...request, quietId: `.${this.#randomId()}` };
    return this.#waiting(
      request.isAsync === true ? 0 : callWaitMsMax,
      () => routed.callActor(asked),
      ({ kind }) => kind === "accepted",
    );
  }

  /**
   * Asks again for the time that is left if the answer is "not yet": the partition is being
   * handed over, and its next owner is the one to wait at.
   */
  async #waiting<T>(
    waitMs: number | undefined,
    ask: (waitMs: number) => Promise<T>,
    isEarly: (result: T) => boolean,
  ): Promise<T> {
    const { isLeaving, ports } = this.#parts;
    const mostMs = Math.min(waitMs ?? 0, isLeaving() ? lastWaitMs : Infinity);
    const deadline = new Deadline(ports.clock, mostMs);
    try {
      for (;;) {
        const result = await ask(deadline.leftMs);
        // Who is told "not yet" asks again, and somebody else if this host is gone by then.
        if (!isEarly(result) || deadline.leftMs === 0 || isLeaving()) return result;
      }
    } finally {
      deadline.stop();
    }
  }

  #randomId(): string {
    return toHex(this.#parts.ports.random.bytes(12));
  }

  /** For a run without an id of its own: the nearest place is here. */
  #idHere(): string {
    const { name, seats } = this.#parts;
    for (let tries = 1; ; tries += 1) {
      const id = this.#randomId();
      const isHere = seats.isServed(partitionOf(runKey(name, id), seats.count));
      if (isHere || tries === idTriesMax) return id;
    }
  }
}

function own<T>(table: object, method: string): T {
  if (Object.hasOwn(table, method)) return table[method as keyof typeof table] as T; // by its type
  throw new SporeError("invalid-request", `a peer asks for a method that isn't known here`);
}

async function found(asking: Promise<RunView>): Promise<RunView | undefined> {
  try {
    return await asking;
  } catch (error) {
    if (error instanceof SporeError && error.code === "run-not-found") return undefined;
    throw error;
  }
}

function sumOfUses(uses: readonly ComponentUse[]): ComponentUse {
  const sums = new Map<string, { runs: Partial<Record<Status, number>>; actors: number }>();
  for (const { component, runs, actors } of uses.flatMap(({ components }) => components)) {
    const sum = sums.get(component) ?? { runs: {}, actors: 0 };
    sums.set(component, sum);
    sum.actors += actors;
    for (const status of statuses) {
      const count = (sum.runs[status] ?? 0) + (runs[status] ?? 0);
      if (count > 0) sum.runs[status] = count;
    }
  }
  const components = [...sums].map(([component, sum]) => ({ component, ...sum }));
  components.sort((one, other) => (one.component < other.component ? -1 : 1));
  return { components, isPartial: uses.some(({ isPartial }) => isPartial) };
}

function isPending({ kind }: { readonly kind: string }): boolean {
  return kind === "pending";
}

function withCursor<T extends object>(
  page: T,
  cursor: string | undefined,
): T & { cursor?: string } {
  return cursor === undefined ? page : { ...page, cursor };
}

/** Page after page, from whoever serves the partition by then. */
async function* follow(
  { from, signal }: { readonly from: number; readonly signal: AbortSignalLike },
  read: (from: number) => Promise<EventPage>,
): AsyncGenerator<HistoryEvent> {
  let abort: () => void = () => undefined;
  signal.addEventListener("abort", () => abort());
  for (let next = from; !signal.aborted; ) {
    // One for each page: a promise that lives as long as the stream would keep them all.
    const aborted = Promise.withResolvers<undefined>();
    abort = () => aborted.resolve(undefined);
    const reading = read(next);
    // Who has gone away doesn't hear how it ends.
    reading.catch(() => undefined);
    const page = await Promise.race([reading, aborted.promise]);
    if (page === undefined) return;
    for (const event of page.events) {
      yield event;
      next = event.index + 1;
    }
    if (page.isOver) return;
  }
}
