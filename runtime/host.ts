/**
 * A host: the partitions that it serves, the components that it knows, what it says to other
 * hosts, and the calls of `Host` in terms of them. Answers only what is durable (I3).
 */
import { encode } from "../guest/cbor.ts";
import type { Definition, Manifest, Outcome } from "../guest/protocol.ts";
import { movesByItself } from "./actor.ts";
import { Admissions } from "./admissions.ts";
import { collect } from "./collector.ts";
import { Components, componentKey } from "./components.ts";
import { assert, SporeError, unreachable } from "./errors.ts";
import { decideEvent, type EventView, viewEvent } from "./events.ts";
import { Followers } from "./followers.ts";
import { type Admission, encodeRow, type StartMessage } from "./format.ts";
import { Generations } from "./generations.ts";
import { checkTenant, partitionOf } from "./ids.ts";
import type { ClusterView, GarbageReport, HostStatus, TenantHost } from "./index.ts";
import { Keyring } from "./keyring.ts";
import type { Layout, Layouts } from "./layout.ts";
import { Members } from "./members.ts";
import { Objects } from "./objects.ts";
import type { Envelope } from "./outbox.ts";
import { ok } from "./outcomes.ts";
import { Partition, type PartitionLimits, partitionLimits } from "./partition.ts";
import type { Ports } from "./ports.ts";
import { Register } from "./register.ts";
import { Retrier } from "./retry.ts";
import { Routing } from "./routing.ts";
import { Seals } from "./seal.ts";
import { Seats } from "./seats.ts";
import type { Entity, Sink } from "./state.ts";
import { withStoredValues } from "./stored.ts";
import { Tenant } from "./tenant.ts";
import { EventTokens, type TokenClaims } from "./tokens.ts";
import {
  answerOf,
  type Deployed,
  decodeRequest,
  encodeAnswer,
  encodeRequest,
  type Peer,
  type PeerRequest,
  valueOfAnswer,
} from "./wire.ts";

export interface HostOptions {
  /** Names this host in claims and logs. */
  readonly hostId: string;
  /** Object key prefix of the namespace, "" or ending in `/`. Default "". */
  readonly prefix?: string;
  /** Partitions of a namespace made by this host; an existing namespace keeps its own. Default 4. */
  readonly partitions?: number;
  /**
   * Where other hosts reach this one. With it, and with `Ports.peers`, all hosts on the
   * namespace share its partitions; without it this host takes them all.
   */
  readonly address?: string | undefined;
  /** Where people and webhooks reach the namespace; stands before the urls of events. */
  readonly publicUrl?: string;
  readonly limits?: Partial<PartitionLimits>;
  /** Which host serves which partition, if that never changes. Default: this one serves all. */
  readonly placement?: Placement | undefined;
  /** Closed runs are deleted after this long, if their start says nothing else. Default: never. */
  readonly retentionMs?: number | undefined;
  /** Called when another host has taken a partition over, unless hosts share them. */
  readonly onMoved?: (partition: number, error: SporeError) => void;
}

export interface Placement {
  /** Served by this host, from its start. */
  readonly here: readonly number[];
  /** For `Peers.call`: the host that serves a partition which isn't here. */
  readonly addressOf: (partition: number) => string;
}

/** How long a deployment waits for other hosts to hear of it. */
const tellMsMax = 1000;
/** As long as a hand-over may take. */
const pauseMsMax = 20_000;

export interface EnginePlace {
  readonly prefix: string;
  readonly layout: Layout;
  readonly layouts: Layouts;
  /** A log of the layout is sealed: there will be a newer version of it. */
  readonly onSealed: () => void;
  /** Another host is on a newer version. */
  readonly onNewerLayout: () => void;
}

/** A host on one layout of its namespace (moving.ts makes it). */
export class EngineHost {
  readonly #ports: Ports;
  readonly #options: HostOptions;
  readonly #prefix: string;
  readonly #layout: Layout;
  readonly #layouts: Layouts;
  readonly #onNewerLayout: () => void;
  readonly #retrier: Retrier;
  readonly #keys: Keyring;
  readonly #tokens: EventTokens;
  readonly #generations: Generations;
  readonly #stored: Components;
  readonly #objects: Objects;
  readonly #seats: Seats;
  readonly #here: readonly number[];
  readonly #routing: Routing;
  /** Absent where who serves what never changes: the platform keeps owners alive. */
  readonly #followers: Followers | undefined;
  readonly #seals: Seals;
  /** Absent: who serves what never changes. */
  readonly #members: Members | undefined;
  readonly #components = new Map<string, Promise<Manifest>>();
  readonly #manifests = new Map<string, Manifest>();
  readonly #tenants = new Map<string, Tenant>();
  /** What each tenant's actors move to, as last looked up. */
  readonly #currents = new Map<string, string | undefined>();
  readonly #admissions = new Map<string, Admissions>();
  #isStopped = false;

  constructor(ports: Ports, options: HostOptions, place: EnginePlace) {
    const { partitions } = place.layout;
    this.#layout = place.layout;
    this.#layouts = place.layouts;
    this.#onNewerLayout = place.onNewerLayout;
    const { store, digest } = ports;
    this.#objects = new Objects({ store, prefix: place.prefix, digest });
    this.#retrier = new Retrier(ports.clock, ports.observer);
    const sandbox = withStoredValues(ports.sandbox, this.#objects, this.#retrier);
    this.#ports = { ...ports, sandbox };
    this.#options = options;
    this.#prefix = place.prefix;
    this.#keys = new Keyring(ports, place.prefix, this.#retrier);
    this.#tokens = new EventTokens(this.#keys, ports.clock);
    this.#stored = new Components(ports.store, place.prefix, this.#retrier);
    this.#generations = new Generations({ ...ports, prefix: place.prefix });
    const { clock, observer } = ports;
    const { placement } = options;
    const all = Array.from({ length: partitions }, (_, index) => index);
    this.#here = all.filter((index) => placement === undefined || placement.here.includes(index));
    this.#seats = new Seats({
      partitions,
      create: (index) => this.#newPartition(index),
      clock,
      observer,
      onMoved: (index, error) => this.#onMoved(index, error),
      onSealed: place.onSealed,
    });
    this.#seals = new Seals(this.#keys, options.hostId);
    const isShared = options.address !== undefined && ports.peers !== undefined;
    if (isShared && placement === undefined) {
      this.#members = new Members({
        hostId: options.hostId,
        address: options.address,
        prefix: place.prefix,
        store: ports.store,
        clock,
        observer,
        retrier: this.#retrier,
        seats: this.#seats,
        layout: place.layout.number,
        onNewerLayout: place.onNewerLayout,
        ask: (peer, request, timeoutMs) => this.#call(peer, request, timeoutMs),
      });
      this.#followers = new Followers({
        ports: this.#ports,
        prefix: place.prefix,
        layout: place.layout,
        loadComponent: async (id) => {
          await this.#manifest(id);
        },
        onSealed: place.onNewerLayout,
      });
    }
    this.#routing = new Routing({
      seats: this.#seats,
      clock,
      ownerOf: (index) => this.#ownerOf(index),
      call: (peer, request, timeoutMs) => this.#call(peer, request, timeoutMs),
    });
  }

  #newPartition(index: number): Partition {
    const { hostId, address, limits, retentionMs } = this.#options;
    const claim = address === undefined ? { hostId } : { hostId, address };
    return new Partition(
      this.#ports,
      {
        index,
        prefix: this.#prefix,
        layout: this.#layout,
        claimInfo: encodeRow(claim),
        limits: { ...partitionLimits, ...limits },
        retentionMs,
      },
      {
        loadComponent: async (id) => {
          await this.#manifest(id);
        },
        currentComponent: (tenant) => this.#currentComponent(tenant),
        actorDefinition: (component, type) => this.#actorDefinition(component, type),
        successorOf: (tenant, type, component) => {
          const current = this.#currents.get(tenant);
          if (current === undefined || current === component) return undefined;
          return movesByItself(this.#actorDefinition(current, type)) ? current : undefined;
        },
        admissionOf: (tenant, start) => this.#admissionOf(tenant, start),
        deliver: (target, source, messages) => this.#deliver(target, source, messages),
        issueToken: (claims) => this.#issueToken(claims),
        objects: this.#objects,
        generation: () => this.#generations.current(),
        lost: (partition, error) => this.#seats.lost(partition, error),
      },
    );
  }

  #actorDefinition(component: string, type: string): Definition | undefined {
    const { definitions = [] } = this.#manifests.get(component) ?? {};
    return definitions.find((item) => item.kind === "actor" && item.name === type);
  }

  async #currentComponent(tenant: string): Promise<string | undefined> {
    try {
      return (await this.#tenant(tenant).host.currentComponent())?.id;
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#ports.observer.log("warn", `what ${tenant} has deployed isn't known: ${message}`, {});
      return undefined;
    }
  }

  async #admissionOf(tenant: string, start: StartMessage): Promise<Admission | undefined> {
    const { args, options, parent } = start;
    // One that can't be loaded declares nothing; its run says so itself.
    const manifest = await this.#manifest(start.component).catch(() => undefined);
    const definition = manifest?.definitions.find(
      ({ kind, name }) => kind === "workflow" && name === start.name,
    );
    const isChild = parent !== undefined;
    const asked = { definition, options: options?.queue, args, isChild, mayRefuse: false };
    return this.#admissionsOf(tenant).admissionOf(asked);
  }

  #admissionsOf(tenant: string): Admissions {
    const known = this.#admissions.get(tenant);
    if (known !== undefined) return known;
    const made = new Admissions(this.#ports.clock, this.#register(tenant, "queues"));
    this.#admissions.set(tenant, made);
    return made;
  }

  #register(tenant: string, name: string): Register {
    const { store, random, digest, clock, observer } = this.#ports;
    const prefix = `${this.#prefix}tenants/${tenant}/${name}`;
    return new Register({ store, prefix, random, digest, clock, observer });
  }

  async start(): Promise<void> {
    if (this.#members !== undefined) await this.#members.start();
    else await Promise.all(this.#here.map((index) => this.#seats.open(index)));
  }

  /** As `start`, of a host that goes over from another layout: nobody waits who could start it again. */
  async goOn(): Promise<void> {
    if (this.#members !== undefined) await this.#members.start();
    else await Promise.all(this.#here.map((index) => this.#seats.openAgain(index)));
  }

  async drain(timeoutMs: number): Promise<void> {
    // Also of partitions that nobody takes, or not in time.
    await Promise.all([this.#seats.settleEffects(timeoutMs), this.#members?.drain(timeoutMs)]);
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#routing.stop();
    this.#followers?.close();
    await this.#seats.stop();
    await this.#members?.stop();
    this.#retrier.close();
  }

  get isReady(): boolean {
    if (this.#isStopped) return false;
    if (this.#members !== undefined) return !this.#members.isDraining && this.#members.isServed;
    return this.#here.every((index) => this.#seats.isServed(index));
  }

  cluster(): ClusterView {
    if (this.#members !== undefined) return this.#members.view();
    const { hostId, address = "" } = this.#options;
    const partitions = this.#seats.indexes;
    return {
      partitions: this.#seats.count,
      hosts: [{ hostId, address, isSelf: true, state: "live", partitions }],
    };
  }

  #onMoved(index: number, error: SporeError): void {
    if (this.#members === undefined) {
      this.#options.onMoved?.(index, error);
      return;
    }
    this.#seats.forget(index);
    this.#members.lost(index);
  }

  #ownerOf(index: number): Peer | undefined {
    if (this.#members !== undefined) return this.#members.ownerOf(index);
    const address = this.#options.placement?.addressOf(index);
    return address === undefined ? undefined : { id: address, address };
  }

  status(): HostStatus {
    return {
      hostId: this.#options.hostId,
      partitionCount: this.#seats.count,
      partitions: this.#seats.status(),
    };
  }

  async #issueToken(claims: TokenClaims): Promise<Outcome> {
    const token = await this.#tokens.issue(claims);
    return ok({ token, url: `${this.#options.publicUrl ?? ""}/v1/events/${token}` });
  }

  collect(options: { readonly isDryRun?: boolean | undefined }): Promise<GarbageReport> {
    const ports = { ...this.#ports, store: this.#ports.upkeepStore ?? this.#ports.store };
    return collect(ports, {
      prefix: this.#prefix,
      layouts: this.#layouts,
      isDryRun: options.isDryRun,
    });
  }

  event(token: string): Promise<EventView> {
    return this.#atEvent({ kind: "event", token }, (claims) => this.#view(claims));
  }

  decideEvent(token: string, outcome: Outcome): Promise<{ duplicate: boolean }> {
    return this.#atEvent({ kind: "event", token, outcome }, (claims) =>
      this.#decide(claims, outcome),
    );
  }

  async rotateEventKeys(): Promise<{ key: number }> {
    return { key: await this.#keys.rotate() };
  }

  async #atEvent<T>(
    request: Extract<PeerRequest, { kind: "event" }>,
    here: (claims: TokenClaims) => Promise<T>,
  ): Promise<T> {
    const claims = await this.#tokens.read(request.token);
    // Deciding once more says the same: it is safe to repeat, like looking.
    return this.#routing.at(partitionOf(claims.key, this.#seats.count), {
      here: () => here(claims),
      there: () => request,
      isReading: true,
    });
  }

  #view(claims: TokenClaims): Promise<EventView> {
    return this.#onEvent(claims, (entity) => viewEvent(entity, claims));
  }

  #decide(claims: TokenClaims, outcome: Outcome): Promise<{ duplicate: boolean }> {
    const hash = this.#ports.digest.sha256(encode(outcome));
    return this.#onEvent(claims, (entity, sink) =>
      decideEvent(entity, sink, claims, { outcome, hash }),
    );
  }

  /** A refusal is an answer too: it has to come from the owner (I2). */
  async #onEvent<T>(
    { key }: TokenClaims,
    act: (entity: Entity | undefined, sink: Sink) => T,
  ): Promise<T> {
    const partition = this.#seats.partition(partitionOf(key, this.#seats.count));
    let answer: () => T;
    try {
      const acted = await partition.request(key, act);
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
    return this.#tenant(name).host;
  }

  #tenant(name: string): Tenant {
    const known = this.#tenants.get(name);
    if (known !== undefined) return known;
    checkTenant(name);
    const tenant = new Tenant({
      name,
      ports: this.#ports,
      prefix: this.#prefix,
      seats: this.#seats,
      routing: this.#routing,
      followers: this.#followers,
      manifest: (id) => this.#manifest(id),
      components: this.#stored,
      objects: this.#objects,
      generations: this.#generations,
      retrier: this.#retrier,
      isLeaving: () => this.#members?.isDraining === true,
      onDeployed: (deployed) => this.#tellDeployed(name, deployed),
      know: (id, manifest) => {
        this.#manifests.set(id, manifest);
        this.#components.set(id, Promise.resolve(manifest));
      },
      onCurrent: (id) => this.#currents.set(name, id),
      deployments: this.#register(name, "deployments"),
      admissions: this.#admissionsOf(name),
    });
    this.#tenants.set(name, tenant);
    return tenant;
  }

  // -------------------------------------------------------------- other hosts

  async #call(peer: Peer, request: PeerRequest, timeoutMs: number): Promise<unknown> {
    const { peers } = this.#ports;
    if (peers === undefined) throw new SporeError("peer-refused", "this host knows no other");
    const body = encodeRequest(request, this.#layout.number);
    if (this.#members === undefined) {
      return valueOfAnswer(await peers.call(peer.address, body, { timeoutMs }));
    }
    return this.#callMember(this.#members, { peer, body, timeoutMs });
  }

  async #callMember(
    members: Members,
    asked: { readonly peer: Peer; readonly body: Uint8Array; readonly timeoutMs: number },
  ): Promise<unknown> {
    const { peer, body, timeoutMs } = asked;
    const { bytes, mac } = await this.#seals.seal(peer.id, body);
    let sealed: Uint8Array;
    try {
      const answering = this.#ports.peers?.call(peer.address, bytes, { timeoutMs });
      assert(answering !== undefined, "who has members can ask them");
      sealed = await members.withLife(peer, answering);
    } catch (error) {
      if (error instanceof SporeError && error.code === "peer-refused") members.refused(peer);
      throw error;
    }
    try {
      return valueOfAnswer(await this.#seals.openAnswer(mac, sealed));
    } catch (error) {
      // Something has changed that wasn't heard of yet.
      if (error instanceof SporeError && error.code === "peer-refused") members.greetAll();
      throw error;
    }
  }

  async serve(request: Uint8Array): Promise<Uint8Array> {
    if (this.#members === undefined) return this.#answer(request);
    const { body, mac } = await this.#seals.open(request);
    return this.#seals.sealAnswer(mac, await this.#answer(body));
  }

  async #answer(request: Uint8Array): Promise<Uint8Array> {
    try {
      const { layout, request: asked } = decodeRequest(request);
      this.#checkLayout(asked, layout);
      return encodeAnswer({ kind: "ok", value: await this.#execute(asked) });
    } catch (error) {
      return encodeAnswer(answerOf(error));
    }
  }

  /** Partitions of one layout are others than those of another, though they share their numbers. */
  #checkLayout({ kind }: PeerRequest, layout: number): void {
    const own = this.#layout.number;
    if (layout > own) this.#onNewerLayout();
    if (layout === own || kind === "hello" || kind === "deployed") return;
    throw new SporeError("peer-refused", `layout ${own} is served here, not ${layout}`);
  }

  async #execute(request: PeerRequest): Promise<unknown> {
    if (this.#isStopped) throw new SporeError("peer-refused", "this host is stopping");
    switch (request.kind) {
      case "tenant":
        return this.#tenant(request.tenant).execute(request);
      case "event": {
        const { token, outcome } = request;
        const claims = await this.#tokens.read(token);
        const partition = partitionOf(claims.key, this.#seats.count);
        return this.#routing.here<unknown>([partition], () =>
          outcome === undefined ? this.#view(claims) : this.#decide(claims, outcome),
        );
      }
      case "deliver": {
        const { target, source, messages } = request;
        return this.#routing.here([target], () =>
          this.#seats.partition(target).receive(source, messages),
        );
      }
      case "hello":
        return this.#membersNow().greeted(request.news);
      case "handOver":
        return this.#membersNow().handOver(request.partition, request.to);
      case "pause":
        return this.#pause(request.partition);
      case "deployed":
        return this.#tenant(request.tenant).learn(request.deployed);
      default:
        return unreachable(request);
    }
  }

  /** Whoever serves the partition stops for a moment, so that its log can be sealed. */
  async pause(partition: number): Promise<void> {
    if (this.#seats.has(partition)) return this.#pause(partition);
    const owner = this.#ownerOf(partition);
    if (owner !== undefined) await this.#call(owner, { kind: "pause", partition }, pauseMsMax);
  }

  async #pause(partition: number): Promise<void> {
    if (!this.#seats.has(partition)) return;
    this.#members?.lost(partition);
    await this.#seats.close(partition);
    if (this.#members === undefined) this.#seats.openLater(partition);
  }

  #membersNow(): Members {
    if (this.#members !== undefined) return this.#members;
    throw new SporeError("peer-refused", "this host has its partitions for good");
  }

  /** Without it another host would start what was deployed here up to two seconds late. */
  async #tellDeployed(tenant: string, deployed: Deployed): Promise<void> {
    const peers = this.#members?.peers ?? this.#placed();
    const request = { kind: "deployed", tenant, deployed } as const;
    await Promise.allSettled(peers.map((peer) => this.#call(peer, request, tellMsMax)));
  }

  /** The other hosts, where a platform places each partition. */
  #placed(): readonly Peer[] {
    const owners = Array.from({ length: this.#seats.count }, (_, index) => index)
      .filter((index) => !this.#here.includes(index))
      .map((index) => this.#ownerOf(index));
    return owners.filter((owner) => owner !== undefined);
  }

  async #deliver(target: number, source: number, messages: readonly Envelope[]): Promise<void> {
    await this.#routing.once(target, {
      here: () => this.#seats.partition(target).receive(source, messages),
      there: () => ({ kind: "deliver", target, source, messages }),
    });
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
    const { name, bytes } = await this.#stored.load(id);
    try {
      return await this.#ports.sandbox.load(id, bytes);
    } catch (error) {
      if (!(error instanceof SporeError) || error.kind !== "corrupt") throw error;
      const { code, message } = error;
      throw new SporeError(code, `${componentKey(this.#prefix, name)}: ${message}`, {
        cause: error,
      });
    }
  }
}
