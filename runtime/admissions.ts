/**
 * Which queues a new run passes: its own, by its definition or by who starts it, and the queue
 * of all once that has limits. Owns the switch of the latter: a register, because every start
 * has to know, in whichever partition it is.
 */
import { decode, encode } from "../guest/cbor.ts";
import type { Definition, Encoded, QueueOptions } from "../guest/protocol.ts";
import { SporeError } from "./errors.ts";
import type { Admission } from "./format.ts";
import { checkId, idCharactersMax, partitionOf } from "./ids.ts";
import type { Clock } from "./ports.ts";
import { priorityMax, queueKeyCharsMax, queueOfAll } from "./queue.ts";
import type { Register } from "./register.ts";

/** How long a host may not know that there is a queue of all. */
const switchAgeMs = 2000;

/** What is asked for when a run is started. */
export interface QueueAsked {
  readonly definition: Definition | undefined;
  readonly options: QueueOptions | undefined;
  readonly args: Encoded | undefined;
  /** A child has the place of its root's. */
  readonly isChild: boolean;
  readonly mayRefuse: boolean;
}

export class Admissions {
  readonly #clock: Clock;
  readonly #register: Register;
  #ofAll: { readonly isOn: boolean; readonly readAtMs: number } | undefined;
  #reading: Promise<boolean> | undefined;

  constructor(clock: Clock, register: Register) {
    this.#clock = clock;
    this.#register = register;
  }

  /** Undefined if a run passes none. What a guest asks for may be unsound: see `checkAsked`. */
  async admissionOf(asked: QueueAsked): Promise<Admission | undefined> {
    const { definition, options = {}, args, isChild, mayRefuse } = asked;
    const name = options.name ?? definition?.queue?.name;
    const isOwn = name !== undefined && name !== queueOfAll;
    const queues: { name: string; key?: string }[] = [];
    if (isOwn) {
      const key = options.key ?? keyIn(args, definition?.queue?.key);
      queues.push({ name: soundName(name), ...(key === undefined ? {} : { key: shortKey(key) }) });
    }
    if (!isChild && (await this.#isForAll())) queues.push({ name: queueOfAll });
    if (queues.length === 0) return undefined;
    return { queues, priority: soundPriority(options.priority), mayRefuse };
  }

  /** Reads the switch, so that the next start doesn't wait for it. */
  async look(): Promise<void> {
    await this.#isForAll();
  }

  async #isForAll(): Promise<boolean> {
    const nowMs = this.#clock.nowMs();
    const known = this.#ofAll;
    if (known !== undefined && Math.abs(nowMs - known.readAtMs) < switchAgeMs) return known.isOn;
    this.#reading ??= this.#readSwitch().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #readSwitch(): Promise<boolean> {
    const latest = await this.#register.readLatest();
    const isOn = latest !== undefined && isOnIn(latest.value);
    this.#ofAll = { isOn, readAtMs: this.#clock.nowMs() };
    return isOn;
  }

  /** From now on every run passes the queue of all, or none does. */
  async switch(isOn: boolean): Promise<void> {
    let latest = await this.#register.readLatest();
    while (latest === undefined || isOnIn(latest.value) !== isOn) {
      if (latest === undefined && !isOn) break;
      const result = await this.#register.append(encode({ isOn }), latest?.seq ?? 0);
      if (result.kind === "written") break;
      latest = result.found;
    }
    this.#ofAll = { isOn, readAtMs: this.#clock.nowMs() };
  }
}

/** What a client asks for; throws what is wrong with it. */
export function checkAsked(
  options: QueueOptions | undefined,
  definition: Definition | undefined,
): void {
  if (options === undefined) return;
  const { name = definition?.queue?.name, key, priority } = options;
  if (name !== undefined) checkId(name, "queue");
  if (key !== undefined && (name === undefined || name === queueOfAll)) {
    throw invalid("a key belongs to a queue: name one");
  }
  if (key !== undefined && (key.length === 0 || key.length > queueKeyCharsMax)) {
    throw invalid(`a queue's key has 1 to ${queueKeyCharsMax} characters`);
  }
  if (priority !== undefined && soundPriority(priority) !== priority) {
    throw invalid(`a priority is a whole number from -${priorityMax} to ${priorityMax}`);
  }
}

function soundPriority(priority = 0): number {
  if (!Number.isFinite(priority)) return 0;
  return Math.trunc(Math.min(Math.max(priority, -priorityMax), priorityMax));
}

/** A name that no queue can have names none. */
function soundName(name: string): string {
  return name.slice(0, idCharactersMax).replaceAll(/[^A-Za-z0-9._:~@+=,-]/g, "?");
}

/** Two long keys may begin alike. */
function shortKey(key: string): string {
  if (key.length <= queueKeyCharsMax) return key;
  const mark = `~${partitionOf(key, 0xffff_ffff).toString(36)}`;
  return key.slice(0, queueKeyCharsMax - mark.length) + mark;
}

/** The text, number or boolean that lies at a path in the arguments. */
function keyIn(args: Encoded | undefined, path: string | undefined): string | undefined {
  if (args === undefined || path === undefined) return undefined;
  let value: unknown = decode(args);
  for (const part of path.split(".")) {
    const isInside = typeof value === "object" && value !== null && Object.hasOwn(value, part);
    if (!isInside) return undefined;
    value = Reflect.get(value as object, part);
  }
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  return typeof value === "string" && value !== "" ? value : undefined;
}

function isOnIn(value: Uint8Array): boolean {
  return (decode(value) as { isOn: boolean }).isOn; // written by #switch
}

function invalid(message: string): SporeError {
  return new SporeError("invalid-request", message);
}
