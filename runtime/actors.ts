/**
 * A tenant's actors by type and key: checks what is asked, runs the transition in the
 * actor's partition and waits until it is durable. Keeps the calls of a session in order.
 */
import { encode } from "../guest/cbor.ts";
import type {
  Definition,
  Encoded,
  ErrorValue,
  Manifest,
  Outcome,
  TurnInput,
} from "../guest/protocol.ts";
import {
  acceptCall,
  actorHead,
  editState,
  forkOf,
  imaginedActor,
  keepCall,
  movesByItself,
  readInSession,
  readingTurn,
  refOf,
  requestUpgrade,
  resumeActor,
  rollBack,
  runInfo,
} from "./actor.ts";
import {
  ask,
  callWaitMsMax,
  type EventPage,
  type PeekPlace,
  peek,
  readEvents,
  refuseInterrupted,
  standing,
  takeSignal,
  Waits,
} from "./asking.ts";
import { type Deployments, definitionOf } from "./deployments.ts";
import { peeked } from "./drained.ts";
import { SporeError } from "./errors.ts";
import type { Followers } from "./followers.ts";
import { decodeRow, type PreviousRow, rowKeys } from "./format.ts";
import { actorKey, checkId, checkName, type EntityKey, nameOf, printable } from "./ids.ts";
import type {
  ActorState,
  ActorView,
  CallRequest,
  CallResult,
  HistoryEvent,
  ListActorsRequest,
  ListActorsResult,
  SessionCall,
} from "./index.ts";
import { listActorNames } from "./listing.ts";
import { newActor } from "./messages.ts";
import type { Partition } from "./partition.ts";
import type { Ports } from "./ports.ts";
import type { Entity, Sink } from "./state.ts";

export interface ActorsParts {
  readonly tenant: string;
  readonly ports: Ports;
  readonly partition: (key: EntityKey) => Partition;
  readonly deployments: Deployments;
  readonly manifest: (componentId: string) => Promise<Manifest>;
}

/** An actor's state and code, as another one gets them. */
export interface ForkOrigin {
  readonly state: Encoded;
  readonly component: string;
  readonly from: string;
}

/** A call, with a name that nobody else knows if the client gave it none. */
export interface CallOnItsWay extends CallRequest {
  readonly quietId: string;
}

/** How long a call waits for the earlier ones of its session. */
const sessionWaitMs = 30_000;
/** Sessions of which it is known how far they have read actors that weren't there. */
const readsOfAbsentMax = 10_000;

export class Actors {
  readonly #parts: ActorsParts;
  readonly #waits: Waits;
  readonly #gates = new Map<string, Set<() => void>>();
  /** How far sessions have read actors that weren't there; the latest last. */
  readonly #readsOfAbsent = new Map<string, number>();

  constructor(parts: ActorsParts) {
    this.#parts = parts;
    this.#waits = new Waits(parts.ports.clock);
  }

  async ensure(
    type: string,
    key: string,
    args: Encoded,
  ): Promise<{ created: boolean; actor: ActorView }> {
    const entityKey = this.#actorKey(type, key);
    const partition = this.#parts.partition(entityKey);
    return standing(partition, async () => {
      for (;;) {
        const born = await this.#bear(partition, entityKey, args);
        if (born !== "again") return { created: born === "here", actor: await this.get(type, key) };
      }
    });
  }

  /** Whose constructor is under way is there if it succeeds, and is to be made again if not. */
  async #bear(
    partition: Partition,
    entityKey: EntityKey,
    args: Encoded,
  ): Promise<"here" | "before" | "again"> {
    const { type, key } = refOf({ key: entityKey });
    const component = await this.#actorComponent(partition, entityKey, type);
    const reply = partition.reply(entityKey, ".0");
    try {
      const found = await ask(partition, entityKey, (actor, sink) => {
        if (actor === undefined) newActor(partition, entityKey, component, args, sink);
        if (actor?.state !== undefined) return "there";
        return actor === undefined ? "made" : "unborn";
      });
      if (found === "there") return "before";
      const outcome = await this.#waits.within(partition, reply.outcome, callWaitMsMax);
      if (outcome === undefined) refuseInterrupted(partition);
      if (outcome?.kind !== "error") return found === "made" ? "here" : "before";
      if (found === "unborn") return "again";
      throw initFailed(type, key, outcome.error);
    } finally {
      reply.forget();
    }
  }

  async call(request: CallOnItsWay): Promise<CallResult> {
    const entityKey = this.#actorKey(request.type, request.key);
    const partition = this.#parts.partition(entityKey);
    return standing(partition, () => this.#call(partition, entityKey, request));
  }

  async #call(
    partition: Partition,
    entityKey: EntityKey,
    request: CallOnItsWay,
  ): Promise<CallResult> {
    const component = await this.#actorComponent(partition, entityKey, request.type);
    const upgradeTo = await this.#upgradeFor(entityKey, component, (current) =>
      ask(
        partition,
        entityKey,
        (actor) => actor !== undefined && actorHead(actor).failedUpgrade === current,
      ),
    );
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
    const { callId = session === undefined ? request.quietId : `${session.id}.${session.seq}` } =
      request;
    const reply = partition.reply(entityKey, callId);
    try {
      const known = await ask(partition, entityKey, (found, sink) => {
        if (found === undefined && request.ifMissing === "fail") {
          throw actorNotFound(request.type, request.key);
        }
        const actor = found ?? newActor(partition, entityKey, component, undefined, sink);
        const seen = actor.calls.get(callId);
        if (seen !== undefined) return seen.outcome;
        refuseOldSession(actor, session);
        acceptCall(actor, sink, {
          method: request.method,
          args: request.args,
          callId,
          isRemembered: isNamed,
          session,
          trace: request.trace,
        });
        if (session !== undefined) {
          sink.notify(actor);
          this.#openGate(entityKey, session);
        }
        return undefined;
      });
      const waitMs = request.isAsync === true ? 0 : callWaitMsMax;
      const result = await this.#waits.called(partition, callId, known, reply.outcome, waitMs);
      if (result.kind === "done" || isNamed) return result;
      // Nobody keeps the outcome of a call without a name, and nobody can wait for it here.
      const isKept = await ask(
        partition,
        entityKey,
        (actor, sink) => actor !== undefined && keepCall(actor, sink, callId),
      );
      if (!isKept) return { kind: "done", callId, outcome: await reply.outcome };
      await partition.durable();
      return result;
    } finally {
      reply.forget();
    }
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
      return await this.#waits.called(partition, callId, known, reply.outcome, options.waitMs ?? 0);
    } finally {
      reply.forget();
    }
  }

  async get(type: string, key: string): Promise<ActorView> {
    const entityKey = this.#actorKey(type, key);
    const partition = this.#parts.partition(entityKey);
    const view = await ask(partition, entityKey, (actor) => {
      if (actor === undefined) throw actorNotFound(type, key);
      return actorViewOf(actor);
    });
    await partition.durable();
    return view;
  }

  async list(
    partitions: readonly Partition[],
    request: ListActorsRequest,
  ): Promise<ListActorsResult> {
    const page = await listActorNames(this.#parts.tenant, partitions, request);
    const views = page.names.map(async ({ type, key }) => {
      try {
        return await this.get(type, key);
      } catch (error) {
        if (error instanceof SporeError && error.kind === "missing") return undefined; // deleted since
        throw error;
      }
    });
    const actors = (await Promise.all(views)).filter((view) => view !== undefined);
    return page.cursor === undefined ? { actors } : { actors, cursor: page.cursor };
  }

  state(type: string, key: string): Promise<ActorState> {
    return this.#onActor(type, key, (actor) => {
      if (actor.state === undefined) throw actorNotFound(type, key);
      return { state: actor.state, turns: actorHead(actor).turns };
    });
  }

  edit(type: string, key: string, edit: ActorState): Promise<ActorView> {
    return this.#onActor(type, key, (actor, sink) => {
      editState(actor, sink, edit.state, edit.turns);
      return actorViewOf(actor);
    });
  }

  /** What a fork begins with. */
  async original(type: string, key: string): Promise<ForkOrigin> {
    const { state, component } = await this.#onActor(type, key, (actor) => ({
      state: actor.state,
      component: actor.head.component,
    }));
    if (state === undefined) throw actorNotFound(type, key);
    return { state, component, from: key };
  }

  async fork(type: string, into: string, origin: ForkOrigin): Promise<ActorView> {
    const entityKey = this.#actorKey(type, into);
    const partition = this.#parts.partition(entityKey);
    await ask(partition, entityKey, (actor, sink) => {
      if (actor !== undefined) {
        throw new SporeError("actor-exists", `actor ${type}/${into} exists`);
      }
      partition.add(forkOf(entityKey, origin, sink));
    });
    return this.get(type, into);
  }

  async history(
    type: string,
    key: string,
    options: { from?: number | undefined; limit?: number | undefined } = {},
  ): Promise<HistoryEvent[]> {
    await this.get(type, key);
    const entityKey = this.#actorKey(type, key);
    return readEvents(this.#parts.partition(entityKey), entityKey, options);
  }

  events(
    type: string,
    key: string,
    options: { readonly from: number; readonly waitMs: number },
  ): Promise<EventPage> {
    const entityKey = this.#actorKey(type, key);
    return this.#waits.events(this.#parts.partition(entityKey), entityKey, options, async () => {
      await this.get(type, key);
      return false;
    });
  }

  signal(
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

  resume(type: string, key: string): Promise<ActorView> {
    return this.#onActor(type, key, (actor, sink) => {
      resumeActor(actor, sink);
      return actorViewOf(actor);
    });
  }

  /** Whether the actor isn't of that component yet. */
  async upgrade(type: string, key: string, component: string): Promise<boolean> {
    await this.#upgradable(type, component);
    return this.#onActor(type, key, (actor, sink) => requestUpgrade(actor, sink, component, true));
  }

  /** How many of those with the prefix aren't of that component yet. */
  async upgradeAll(
    partitions: readonly Partition[],
    request: { readonly type: string; readonly keyPrefix?: string | undefined },
    component: string,
  ): Promise<number> {
    await this.#upgradable(request.type, component);
    let requested = 0;
    let cursor: string | undefined;
    do {
      const asked = { type: request.type, keyPrefix: request.keyPrefix, limit: 1000, cursor };
      const page = await listActorNames(this.#parts.tenant, partitions, asked);
      for (const { type, key } of page.names) {
        if (await this.upgrade(type, key, component)) requested += 1;
      }
      cursor = page.cursor;
    } while (cursor !== undefined);
    return requested;
  }

  async #upgradable(type: string, component: string): Promise<void> {
    const definition = definitionOf(await this.#parts.manifest(component), "actor", type);
    if (definition.upgrades === true) return;
    throw new SporeError("invalid-request", `actor ${type} has no upgrade`, {
      hint: "Give the class a `static upgrade(state)` and deploy it.",
    });
  }

  async rollBack(type: string, key: string): Promise<ActorView> {
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

  async delete(type: string, key: string): Promise<void> {
    const entityKey = this.#actorKey(type, key);
    await this.#parts.partition(entityKey).delete(entityKey, (actor) => {
      if (actor === undefined) throw actorNotFound(type, key);
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

  #actorKey(type: string, key: string): EntityKey {
    return actorKey(this.#parts.tenant, checkName(type, "actor type"), checkId(key, "actor key"));
  }

  /** The component of an existing actor, else the current one if it defines the type. */
  async #actorComponent(partition: Partition, key: EntityKey, type: string): Promise<string> {
    return (await ask(partition, key, (actor) => actor?.head.component)) ?? this.#currentOf(type);
  }

  async #currentOf(type: string): Promise<string> {
    const { id, manifest } = await this.#parts.deployments.resolve(undefined);
    definitionOf(manifest, "actor", type);
    return id;
  }

  /** The current component, if an actor of another one is to move there by itself. */
  async #upgradeFor(
    key: EntityKey,
    component: string,
    hasFailedTo: (current: string) => boolean | Promise<boolean>,
  ): Promise<string | undefined> {
    const { deployments } = this.#parts;
    await deployments.currentId();
    const current = deployments.actorsMoveTo;
    if (current === undefined || current === component) return undefined;
    const definition = await this.#definition(current, key);
    if (!movesByItself(definition)) return undefined;
    return (await hasFailedTo(current)) ? undefined : current;
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
    await this.#waits.until(partition, key, callWaitMsMax, async () => {
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
    refuseInterrupted(partition);
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
    const { session } = request;
    if (session !== undefined) await this.#awaitTurnOf(partition, key, session);
    const found = await this.#waits.until(partition, key, callWaitMsMax, () =>
      ask(partition, key, (actor, sink) => readable(actor, sink, session)),
    );
    if (found.kind === "pending") {
      refuseInterrupted(partition);
      throw new SporeError("host-busy", `what was called before on ${nameOf(key)} isn't over`);
    }
    if (session !== undefined) {
      if (found.kind === "absent") this.#noteRead(key, session);
      this.#openGate(key, session);
    }
    const outcome =
      found.kind === "absent"
        ? await this.#readAbsent(partition, key, request)
        : await peek(partition, found.actor, readingTurn(found.actor, found.state, request));
    await partition.durable();
    return { kind: "done", callId: "", outcome };
  }

  /**
   * An actor that isn't there reads as one that is made now, without arguments. Nothing of it is
   * kept, and nothing that its constructor asks for is done (I6).
   */
  async #readAbsent(
    place: PeekPlace<TurnInput>,
    key: EntityKey,
    request: CallRequest,
  ): Promise<Outcome> {
    const { type } = request;
    if (request.ifMissing === "fail") throw actorNotFound(type, request.key);
    const component = await this.#currentOf(type);
    // It was there when its own component was asked whether the method only reads.
    const method = await this.#method(component, type, request.method);
    if (!method.readonly) throw actorNotFound(type, request.key);
    const actor = imaginedActor(key, component, this.#parts.ports.clock.nowMs());
    const made = peeked(await place.peek(actor, constructorTurn(actor)), newId);
    if (made.outcome.kind === "error") throw initFailed(type, request.key, made.outcome.error);
    const state = made.commands.find((command) => command.kind === "state")?.value;
    if (state === undefined) throw actorNotFound(type, request.key);
    return peek(place, actor, readingTurn(actor, state, request));
  }

  /**
   * A call on a host that doesn't own the actor's partition but follows it. Undefined: it is
   * the owner's to answer, because it changes something, now or first.
   */
  async readBeside(
    followers: Followers,
    partition: number,
    request: CallRequest,
  ): Promise<CallResult | undefined> {
    // Its turn is after calls that only the owner knows of.
    if (request.session !== undefined) return undefined;
    const key = this.#actorKey(request.type, request.key);
    const looked = await followers.look(partition, key);
    if (looked === undefined) return undefined;
    const actor = looked.entity;
    if (actor === undefined) {
      const component = await this.#currentOf(request.type);
      const method = await this.#method(component, request.type, request.method);
      if (!method.readonly) return undefined;
      const outcome = await this.#readAbsent(followers, key, request);
      return { kind: "done", callId: "", outcome };
    }
    if (actor.state === undefined) return undefined;
    const { component } = actor.head;
    const { failedUpgrade } = actorHead(actor);
    const upgradeTo = await this.#upgradeFor(key, component, (to) => to === failedUpgrade);
    if (upgradeTo !== undefined) return undefined;
    const method = await this.#method(component, request.type, request.method);
    if (!method.readonly) return undefined;
    const outcome = await peek(followers, actor, readingTurn(actor, actor.state, request));
    return { kind: "done", callId: "", outcome };
  }

  /** Waits for the earlier calls of the session to arrive: a client sends them in one go. */
  async #awaitTurnOf(partition: Partition, key: EntityKey, session: SessionCall): Promise<void> {
    checkId(session.id, "session");
    // The gate first: the call before this one may come while the actor is read.
    const gate = Promise.withResolvers<true>();
    const forget = this.#addGate(gateName(key, session.id, session.seq), () => gate.resolve(true));
    try {
      const known = await ask(partition, key, (actor) => actor?.sessions.get(session.id) ?? 0);
      const read = this.#readsOfAbsent.get(placeName(key, session.id)) ?? 0;
      const last = Math.max(known, read, session.answered ?? 0);
      if (session.seq <= last + 1) return;
      if (await this.#waits.within(partition, gate.promise, sessionWaitMs)) return;
      refuseInterrupted(partition);
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

  /**
   * An actor that isn't there has no row for how far a session is. Who crashes in between knows
   * it from `answered`, or gets the read again.
   */
  #noteRead(key: EntityKey, session: SessionCall): void {
    const name = placeName(key, session.id);
    const seq = Math.max(this.#readsOfAbsent.get(name) ?? 0, session.seq);
    this.#readsOfAbsent.delete(name);
    this.#readsOfAbsent.set(name, seq);
    for (const oldest of this.#readsOfAbsent.keys()) {
      if (this.#readsOfAbsent.size <= readsOfAbsentMax) break;
      this.#readsOfAbsent.delete(oldest);
    }
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
}

type Readable =
  | { readonly kind: "ready"; readonly actor: Entity; readonly state: Encoded }
  | { readonly kind: "pending" }
  | { readonly kind: "absent" };

/** What a read-only method is to run on: no actor before its constructor's turn is over. */
function readable(
  actor: Entity | undefined,
  sink: Sink,
  session: SessionCall | undefined,
): Readable {
  if (actor === undefined) return { kind: "absent" };
  const { state } = actor;
  if (state === undefined) return { kind: "pending" };
  const isItsTurn = session === undefined || readInSession(actor, sink, session);
  return isItsTurn ? { kind: "ready", actor, state } : { kind: "pending" };
}

const newId = "new";

function constructorTurn(actor: Entity): TurnInput {
  return {
    kind: "turn",
    run: runInfo(actor),
    actor: refOf(actor),
    method: "",
    args: encode([]),
    id: newId,
    readonly: false,
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
    ...(head.failedUpgrade === undefined || head.upgradeError === undefined
      ? {}
      : { failedUpgrade: { component: head.failedUpgrade, error: head.upgradeError } }),
  };
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
  return `${placeName(key, session)} ${seq}`;
}

function placeName(key: EntityKey, session: string): string {
  return `${key} ${session}`;
}

function actorNotFound(type: string, key: string): SporeError {
  return new SporeError("actor-not-found", `there is no actor ${type}/${key}`);
}

function initFailed(type: string, key: string, error: ErrorValue): SporeError {
  return new SporeError("actor-init-failed", `${type}/${key}: ${error.name}: ${error.message}`, {
    cause: error,
  });
}
