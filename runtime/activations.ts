/**
 * The activations of one partition's entities: on which memory a guest runs (as it stands in
 * the sandbox, pristine, computed ahead, rebuilt), and what of its answer is stored first.
 *
 * Owns nothing durable: what the answer means is a transition (machine.ts), and whether it
 * counts the partition decides.
 *
 * Border: `run` and `peek` give what the guest answered and reject only if the sandbox or the
 * store does; `release` when an entity leaves memory; `atWork` for who waits for results.
 *
 * Invariants:
 * - V1 A machine is named by its entity and its life, and its memory is taken only at the version
 *   that the activation follows; absent, it is rebuilt from image and journal, which gives the
 *   same (I5).
 * - V2 What was computed ahead counts only for an activation of the same bytes.
 * - V3 A throw-away activation leaves the machine's memory as it was (I6).
 * - V4 A large result, and a large value that is put, has its durable row before it is stored, and its name before it is committed.
 */
import { encode } from "../guest/cbor.ts";
import type { Input, TurnInput } from "../guest/protocol.ts";
import { activationsAhead, componentOf } from "./actor.ts";
import { isSameBytes } from "./bytes.ts";
import { decodeDrained } from "./drained.ts";
import { assert } from "./errors.ts";
import { tenantOf, toHex } from "./ids.ts";
import type { Begun } from "./machine.ts";
import type { ActivateRequest, ActivateResult, JournalEntry, Ports } from "./ports.ts";
import { peekTurn } from "./reading.ts";
import { objectKey, objectName } from "./refs.ts";
import { Retrier } from "./retry.ts";
import type { Ahead, Entity } from "./state.ts";
import { mapResults, storedPut, storedValue } from "./stored.ts";

export interface ActivationLimits {
  /** Guest time after which a sleeping machine's memory is saved rather than recomputed. */
  readonly imageAfterMs: number;
  /** Journal bytes after which the same. */
  readonly imageAfterBytes: number;
  /** An output, a step's result or a method's answer that is larger becomes an object. */
  readonly storeBytes: number;
}

export interface ActivationsParts {
  readonly ports: Pick<Ports, "sandbox" | "store" | "clock" | "digest" | "observer">;
  /** Of the namespace. */
  readonly prefix: string;
  readonly limits: ActivationLimits;
  readonly isOwned: () => boolean;
  /** Makes sure that the sandbox knows the component. Throws component-not-found. */
  readonly loadComponent: (id: string) => Promise<void>;
  /** Resolves when rows that stand for these objects are durable (V4). */
  readonly hold: (entity: Entity, hashes: Iterable<string>) => Promise<void>;
  /** Current generation of the namespace's objects, asked for after the call. */
  readonly generation: () => Promise<number>;
}

type Ran = ActivateResult & { readonly kind: "ok" };

/** Turns that take longer aren't computed ahead: others wait for the sandbox, too. */
const aheadTurnMsMax = 2;

export class Activations {
  readonly #parts: ActivationsParts;
  #atWork = 0;

  constructor(parts: ActivationsParts) {
    this.#parts = parts;
  }

  /** Guests at work now. */
  get atWork(): number {
    return this.#atWork;
  }

  /** Its memory isn't needed any more: the next activation rebuilds it. */
  release(entity: Entity): void {
    this.#parts.ports.sandbox.release(machineOf(entity));
  }

  /** One activation of the entity, which is active until its result is applied. */
  async run(entity: Entity, begun: Begun, ahead: Ahead | undefined): Promise<ActivateResult> {
    this.#atWork += 1;
    let ran: ActivateResult;
    try {
      ran = await (ahead === undefined
        ? this.#runGuest(entity, begun)
        : this.#ranAhead(entity, begun, ahead));
    } finally {
      this.#atWork -= 1;
    }
    if (ran.kind !== "ok" || ran.drained.length <= this.#parts.limits.storeBytes) return ran;
    return this.#parts.isOwned() ? this.#storeResults(entity, ran) : ran;
  }

  /**
   * Large results become objects, and so does what is put: what is committed has their names. A
   * row stands for each before it is stored (collector.ts C1); after a crash in between the
   * activation is computed again, and stores the same.
   */
  async #storeResults(entity: Entity, ran: Ran): Promise<ActivateResult> {
    const { storeBytes } = this.#parts.limits;
    const drained = decodeDrained(ran.drained);
    const values = new Map<string, Uint8Array>();
    const hashes = new Map<Uint8Array, string>();
    const hashOf = (value: Uint8Array): string => {
      const hash = hashes.get(value) ?? toHex(this.#parts.ports.digest.sha256(value));
      hashes.set(value, hash);
      return hash;
    };
    mapResults(drained, (value) => {
      if (value.length > storeBytes) values.set(hashOf(value), value);
      return value;
    });
    if (values.size === 0) return ran;
    await this.#parts.hold(entity, values.keys());
    const generation = await this.#parts.generation();
    const { store, observer, clock } = this.#parts.ports;
    const retrier = new Retrier(clock, observer);
    for (const [hash, value] of values) {
      const place = objectKey(
        this.#parts.prefix,
        tenantOf(entity.key),
        objectName(hash, generation),
      );
      await retrier.run("object put", () => {
        if (!this.#parts.isOwned()) retrier.close();
        return store.put(place, value, { ifAbsent: true });
      });
    }
    const stored = mapResults(drained, (value, isPut) => {
      if (value.length <= storeBytes) return value;
      const name = objectName(hashOf(value), generation);
      return isPut ? storedPut(name, value.length) : storedValue(name, undefined);
    });
    return { ...ran, drained: encode(stored) };
  }

  /** What was computed ahead counts only for exactly this activation: then it is the same. */
  async #ranAhead(entity: Entity, begun: Begun, ahead: Ahead): Promise<ActivateResult> {
    const result = await ahead.result;
    const isIt =
      result?.kind === "ok" &&
      result.activation !== undefined &&
      isSameBytes(result.activation, begun.activation);
    if (isIt) {
      this.#parts.ports.observer.count("spore_activations_total", 1, { from: "ahead" });
      return result;
    }
    entity.ahead = undefined;
    return this.#runGuest(entity, begun);
  }

  /**
   * A hot actor's next turns go to the sandbox together with the one that begins: each needs
   * only the state that the one before leaves, so none has to come back in between.
   */
  #runAhead(entity: Entity, request: ActivateRequest): void {
    const { sandbox } = this.#parts.ports;
    if (entity.head.kind !== "actor" || entity.mail.length === 0) return;
    if (sandbox.runsAhead !== true || (entity.turnMs ?? aheadTurnMsMax) >= aheadTurnMsMax) return;
    const nowMs = entity.head.lastNowMs;
    const from = { kind: "ahead", behind: request.machine } as const;
    const machine = `${request.machine}+`;
    entity.ahead = activationsAhead(entity).map((activation) => {
      const running = sandbox.activate({ ...request, from, machine, activation, after: "discard" });
      // What went wrong will be found when the turn is run in its time.
      return { nowMs, result: running.catch(() => undefined) };
    });
  }

  async #runGuest(entity: Entity, begun: Begun): Promise<ActivateResult> {
    // As of now: a run that is terminated meanwhile has another life, and no memory.
    const component = componentOf(entity);
    const machine = machineOf(entity);
    const { image } = entity;
    try {
      await this.#parts.loadComponent(component);
    } catch (error) {
      return { kind: "fault", fault: "component-not-found", message: messageOf(error) };
    }
    const { limits } = this.#parts;
    const request = {
      component,
      machine,
      activation: begun.activation,
      after: "keep",
      imageAfterMs: entity.journalBytes > limits.imageAfterBytes ? 0 : limits.imageAfterMs,
    } as const;
    const { sandbox, observer } = this.#parts.ports;
    const isFirst = begun.version === 0;
    const from = isFirst
      ? ({ kind: "pristine" } as const)
      : ({ kind: "resident", version: begun.version } as const);
    const running = sandbox.activate({ ...request, from });
    if (isFirst) this.#runAhead(entity, { ...request, from });
    const first = await running;
    const isRebuilt = first.kind === "absent";
    observer.count("spore_activations_total", 1, { from: isRebuilt ? "rebuild" : from.kind });
    return isRebuilt ? sandbox.activate({ ...request, from: rebuildOf(image, begun) }) : first;
  }

  /**
   * One throw-away activation (query, read-only method) on the entity's memory as it stands;
   * whatever the code does to that memory is gone afterwards (I6).
   */
  async peek(entity: Entity, input: Input): Promise<ActivateResult> {
    const { loadComponent, ports } = this.#parts;
    if (input.kind === "turn") return peekTurn({ ...ports, loadComponent }, entity, input);
    const { head } = entity;
    const { component } = head;
    await loadComponent(component);
    const nowMs = Math.max(head.lastNowMs, ports.clock.nowMs());
    const activation = encode({ nowMs, stepsMax: 0, inputs: [input] });
    await this.#quiet(entity);
    const request = {
      component,
      machine: machineOf(entity),
      activation,
      after: "discard",
      imageAfterMs: Number.POSITIVE_INFINITY,
    } as const;
    const journal = entity.journal.filter((row) => row.drainedHash !== undefined);
    const version = head.applied;
    const rebuild = rebuildOf(entity.image, { activation, journal, version });
    const first = await ports.sandbox.activate({ ...request, from: { kind: "resident", version } });
    return first.kind === "absent" ? ports.sandbox.activate({ ...request, from: rebuild }) : first;
  }

  /** The same for a run or an actor that asks: what it is answered may become an object (V4). */
  async read(entity: Entity, input: TurnInput): Promise<ActivateResult> {
    try {
      await this.#parts.loadComponent(entity.head.component);
    } catch (error) {
      return { kind: "fault", fault: "component-not-found", message: messageOf(error) };
    }
    const ran = await this.peek(entity, input);
    if (ran.kind !== "ok" || ran.drained.length <= this.#parts.limits.storeBytes) return ran;
    return this.#parts.isOwned() ? this.#storeResults(entity, ran) : ran;
  }

  #quiet(entity: Entity): Promise<void> {
    if (!entity.isActive) return Promise.resolve();
    return new Promise((resolve) => entity.whenQuiet.push(resolve));
  }
}

/** Name of the machine's memory in the sandbox. */
export function machineOf(entity: Entity): string {
  return `${entity.key}#${entity.head.life}`;
}

function rebuildOf(
  image: Uint8Array | undefined,
  begun: Begun,
): { kind: "rebuild"; image: Uint8Array | undefined; journal: JournalEntry[]; version: number } {
  const journal = begun.journal.map((row) => {
    assert(row.drainedHash !== undefined, "a past activation has its check value");
    return { activation: row.activation, drainedHash: row.drainedHash };
  });
  return { kind: "rebuild", image, journal, version: begun.version };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
