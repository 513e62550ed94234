/**
 * A host: the partitions that it owns, the components that it knows, and the calls of
 * `Host` and `TenantHost` in terms of them. Answers only what is durable (I3).
 */
import { decode, encode } from "../guest/cbor.ts";
import type { Manifest, Outcome } from "../guest/protocol.ts";
import { assert, SporeError } from "./errors.ts";
import { decideEvent, type EventView, viewEvent } from "./events.ts";
import { encodeRow } from "./format.ts";
import { checkTenant, type EntityKey, partitionOf } from "./ids.ts";
import type { Host, HostStatus, TenantHost } from "./index.ts";
import { ok } from "./machine.ts";
import type { Envelope } from "./outbox.ts";
import { Partition, type PartitionLimits, partitionLimits } from "./partition.ts";
import type { Ports } from "./ports.ts";
import { Register } from "./register.ts";
import { Retrier } from "./retry.ts";
import type { Entity, Sink } from "./state.ts";
import { createTenant, type TenantParts } from "./tenant.ts";
import { EventTokens, type TokenClaims } from "./tokens.ts";

export interface HostOptions {
  /** Names this host in claims and logs. */
  readonly hostId: string;
  /** Object key prefix of the namespace, "" or ending in `/`. Default "". */
  readonly prefix?: string;
  /** Partitions of a namespace made by this host; an existing namespace keeps its own. Default 4. */
  readonly partitions?: number;
  /** Where other hosts reach this one. */
  readonly address?: string;
  /** Where people and webhooks reach the namespace; stands before the urls of events. */
  readonly publicUrl?: string;
  readonly limits?: Partial<PartitionLimits>;
  /** Called when another host has taken a partition over. */
  readonly onMoved?: (partition: number, error: SporeError) => void;
}

const partitionsDefault = 4;
export const partitionsMax = 1024;
/** A partition that stopped on a fault of ours is opened again after this. */
const reopenDelayMs = 250;

interface Namespace {
  readonly version: 1;
  readonly partitions: number;
}

/** Makes the namespace if there is none, and a host on it. `start()` takes the partitions. */
export async function createHost(ports: Ports, options: HostOptions): Promise<Host> {
  const prefix = options.prefix ?? "";
  const retrier = new Retrier(ports.clock, ports.observer);
  const partitions = options.partitions ?? partitionsDefault;
  const namespace = await openNamespace(ports, retrier, prefix, partitions);
  return new EngineHost(ports, options, { retrier, prefix, partitions: namespace.partitions });
}

async function openNamespace(
  ports: Ports,
  retrier: Retrier,
  prefix: string,
  partitions: number,
): Promise<Namespace> {
  assert(partitions >= 1 && partitions <= partitionsMax, `1 to ${partitionsMax} partitions`);
  const key = `${prefix}namespace`;
  const fresh: Namespace = { version: 1, partitions };
  await retrier.run("namespace put", () => ports.store.put(key, encode(fresh), { ifAbsent: true }));
  const bytes = await retrier.run("namespace get", () => ports.store.get(key));
  const found = bytes === undefined ? undefined : readNamespace(bytes);
  if (found === undefined) {
    throw new SporeError("corrupt-log", `${key} is not a namespace of this version`, {
      hint: "Is the storage URI right? Was it written by a later version?",
    });
  }
  return found;
}

function readNamespace(bytes: Uint8Array): Namespace | undefined {
  try {
    const value = decode(bytes) as Partial<Namespace>; // checked below
    const { version, partitions } = value;
    if (version !== 1 || typeof partitions !== "number" || !Number.isInteger(partitions)) {
      return undefined;
    }
    return partitions >= 1 && partitions <= partitionsMax ? { version, partitions } : undefined;
  } catch {
    return undefined; // not CBOR at all: the caller says so
  }
}

class EngineHost implements Host {
  readonly #ports: Ports;
  readonly #options: HostOptions;
  readonly #prefix: string;
  readonly #retrier: Retrier;
  readonly #tokens: EventTokens;
  readonly #partitionCount: number;
  readonly #partitions: Partition[];
  readonly #components = new Map<string, Promise<Manifest>>();
  readonly #manifests = new Map<string, Manifest>();
  readonly #tenants = new Map<string, TenantHost>();
  #isStopped = false;

  constructor(
    ports: Ports,
    options: HostOptions,
    place: { readonly retrier: Retrier; readonly prefix: string; readonly partitions: number },
  ) {
    const { partitions } = place;
    this.#ports = ports;
    this.#options = options;
    this.#prefix = place.prefix;
    this.#retrier = place.retrier;
    this.#tokens = new EventTokens(ports, place.prefix, place.retrier);
    this.#partitionCount = partitions;
    this.#partitions = Array.from({ length: partitions }, (_, index) => this.#newPartition(index));
  }

  #newPartition(index: number): Partition {
    const { hostId, address, limits } = this.#options;
    const claim = address === undefined ? { hostId } : { hostId, address };
    return new Partition(
      this.#ports,
      {
        index,
        partitions: this.#partitionCount,
        prefix: this.#prefix,
        claimInfo: encodeRow(claim),
        limits: { ...partitionLimits, ...limits },
      },
      {
        loadComponent: async (id) => {
          await this.#manifest(id);
        },
        currentComponent: (tenant) => this.#currentComponent(tenant),
        actorDefinition: (component, type) =>
          this.#manifests
            .get(component)
            ?.definitions.find((item) => item.kind === "actor" && item.name === type),
        deliver: (target, source, messages) => this.#deliver(target, source, messages),
        issueToken: (claims) => this.#issueToken(claims),
        lost: (partition, error) => this.#onLost(partition, error),
      },
    );
  }

  async #currentComponent(tenant: string): Promise<string | undefined> {
    try {
      return (await this.tenant(tenant).currentComponent())?.id;
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#ports.observer.log("warn", `what ${tenant} has deployed isn't known: ${message}`, {});
      return undefined;
    }
  }

  async start(): Promise<void> {
    await Promise.all(this.#partitions.map((partition) => this.#open(partition)));
  }

  /** A partition whose objects are damaged refuses its own requests; the others serve. */
  async #open(partition: Partition): Promise<void> {
    try {
      await partition.open();
    } catch (error) {
      if (!(error instanceof SporeError) || error.kind !== "corrupt") throw error;
      this.#ports.observer.log("error", error.message, { code: error.code });
      this.#reopenLater(partition.index);
    }
  }

  /** Somebody may put the object back, or the store may have been wrong. */
  #reopenLater(index: number): void {
    this.#ports.clock.after(reopenDelayMs * 20, () => void this.#reopen(index));
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await Promise.all(this.#partitions.map((partition) => partition.stop()));
    this.#retrier.close();
  }

  get isReady(): boolean {
    return !this.#isStopped && this.#partitions.every((partition) => partition.state === "owned");
  }

  status(): HostStatus {
    return {
      hostId: this.#options.hostId,
      partitions: this.#partitions.map((partition) => ({
        partition: partition.index,
        state: partition.state,
        seq: partition.seq,
        residentEntities: partition.residentEntities,
        memtableBytes: partition.memtableBytes,
      })),
    };
  }

  async #issueToken(claims: TokenClaims): Promise<Outcome> {
    const token = await this.#tokens.issue(claims);
    return ok({ token, url: `${this.#options.publicUrl ?? ""}/v1/events/${token}` });
  }

  event(token: string): Promise<EventView> {
    return this.#onEvent(token, (entity, _sink, claims) => viewEvent(entity, claims));
  }

  decideEvent(token: string, outcome: Outcome): Promise<{ duplicate: boolean }> {
    const hash = this.#ports.digest.sha256(encode(outcome));
    return this.#onEvent(token, (entity, sink, claims) =>
      decideEvent(entity, sink, claims, { outcome, hash }),
    );
  }

  /** A refusal is an answer too: it has to come from the owner (I2). */
  async #onEvent<T>(
    token: string,
    act: (entity: Entity | undefined, sink: Sink, claims: TokenClaims) => T,
  ): Promise<T> {
    const claims = await this.#tokens.read(token);
    const partition = this.#partitionOf(claims.key);
    let answer: () => T;
    try {
      const acted = await partition.request(claims.key, (entity, sink) =>
        act(entity, sink, claims),
      );
      answer = () => acted;
    } catch (error) {
      answer = () => {
        throw error;
      };
    }
    await partition.durable();
    return answer();
  }

  tenant(name: string): TenantHost {
    const known = this.#tenants.get(name);
    if (known !== undefined) return known;
    checkTenant(name);
    const parts: TenantParts = {
      name,
      ports: this.#ports,
      prefix: this.#prefix,
      partitions: this.#partitions,
      partition: (key) => this.#partitionOf(key),
      manifest: (id) => this.#manifest(id),
      retrier: this.#retrier,
      know: (id, manifest) => {
        this.#manifests.set(id, manifest);
        this.#components.set(id, Promise.resolve(manifest));
      },
      deployments: new Register({
        store: this.#ports.store,
        prefix: `${this.#prefix}tenants/${name}/deployments`,
        random: this.#ports.random,
        digest: this.#ports.digest,
        clock: this.#ports.clock,
        observer: this.#ports.observer,
      }),
    };
    const tenant = createTenant(parts);
    this.#tenants.set(name, tenant);
    return tenant;
  }

  #partitionOf(key: EntityKey): Partition {
    const partition = this.#partitions[partitionOf(key, this.#partitions.length)];
    assert(partition !== undefined, "every key has a partition");
    return partition;
  }

  async #deliver(target: number, source: number, messages: readonly Envelope[]): Promise<void> {
    const partition = this.#partitions[target];
    assert(partition !== undefined, `partition ${target} exists`);
    await partition.receive(source, messages);
  }

  /** The component's manifest; the sandbox knows the component when this resolves. */
  #manifest(id: string): Promise<Manifest> {
    const known = this.#components.get(id);
    if (known !== undefined) return known;
    const loading = this.#loadComponent(id);
    this.#components.set(id, loading);
    loading.then(
      (manifest) => this.#manifests.set(id, manifest),
      () => this.#components.delete(id), // the caller gets the error; try again next time
    );
    return loading;
  }

  async #loadComponent(id: string): Promise<Manifest> {
    const key = `${this.#prefix}components/${id}`;
    const bytes = await this.#retrier.run("component get", () => this.#ports.store.get(key));
    if (bytes === undefined) {
      throw new SporeError("component-not-found", `there is no component ${id}`);
    }
    try {
      return await this.#ports.sandbox.load(id, bytes);
    } catch (error) {
      if (!(error instanceof SporeError) || error.kind !== "corrupt") throw error;
      const { code, message } = error;
      throw new SporeError(code, `${key}: ${message}`, { cause: error });
    }
  }

  #onLost(partition: Partition, error: SporeError): void {
    if (this.#isStopped) return;
    if (error.kind === "moved") {
      this.#ports.observer.log("error", error.message, { code: error.code });
      this.#options.onMoved?.(partition.index, error);
      return;
    }
    this.#ports.clock.after(reopenDelayMs, () => void this.#reopen(partition.index));
  }

  /** After a fault of ours: a new partition object recovers from the log. */
  async #reopen(index: number): Promise<void> {
    if (this.#isStopped) return;
    const partition = this.#newPartition(index);
    this.#partitions[index] = partition;
    try {
      await partition.open();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#ports.observer.log("error", `partition ${index} can't be opened: ${message}`, {});
      if (error instanceof SporeError && error.kind === "moved") {
        this.#options.onMoved?.(index, error);
      } else {
        this.#reopenLater(index);
      }
    }
  }
}
