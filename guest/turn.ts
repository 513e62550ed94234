/**
 * What an actor's method can ask for beyond what every run can: reminders, and a handle of
 * the actor itself.
 */
import { currentMachine, type Machine } from "./activation.ts";
import { encode } from "./cbor.ts";
import {
  type ActorEntry,
  type ActorHandle,
  checkName,
  handleOf,
  type MethodArgs,
  type MethodName,
} from "./define.ts";
import { GuestError } from "./errors.ts";
import { type Duration, durationMs, instantMsMax } from "./time.ts";

/** When a reminder comes: once, at an interval, or at the times of a cron expression. */
export type ReminderTime =
  | { readonly at: Date | number }
  | { readonly after: Duration }
  /** At least 1 s; first after one interval. */
  | { readonly every: Duration }
  /** Five fields: minute, hour, day of month, month, day of week. `zone`: IANA; default UTC. */
  | { readonly cron: string; readonly zone?: string };

/**
 * Calls a method of this actor later, durably: `remind("reset", { after: "1 day" }, this.reset)`.
 * A name has one reminder: setting it again replaces it. Part of the turn: a method that
 * throws sets none. The method is one that may change the state, given as such or by name.
 */
export function remind<Args extends readonly unknown[]>(
  name: string,
  when: ReminderTime,
  method: (...args: Args) => unknown,
  ...args: NoInfer<Args>
): void;
/** The same by the method's name: `remind<Account>("reset", { cron: "0 0 1 1 *" }, "reset")`. */
export function remind<Instance>(
  name: string,
  when: ReminderTime,
  method: MethodName<Instance>,
  ...args: MethodArgs<Instance[MethodName<Instance>]>
): void;
export function remind(
  name: string,
  when: ReminderTime,
  method: unknown,
  ...args: readonly unknown[]
): void {
  checkName("reminder", name);
  const { machine, entry } = turnFor("remind");
  machine.emit({
    kind: "remind",
    name,
    method: methodFor(entry, method),
    args: encode(args),
    ...timeOf(when, machine.nowMs()),
  });
}

/** Takes a reminder back; one that isn't there is none to forget. Part of the turn. */
export function forgetReminder(name: string): void {
  checkName("reminder", name);
  turnFor("forgetReminder").machine.emit({ kind: "forgetReminder", name });
}

/**
 * A handle of the actor whose method this is: `self<Account>().send.close()`. To pass the
 * address on, give `self().ref`. An awaited call of oneself needs a re-entrant actor.
 */
export function self<Instance>(): ActorHandle<Instance> {
  const { entry, key } = turnFor("self");
  return handleOf(entry, key, undefined) as ActorHandle<Instance>;
}

function turnFor(what: string): { machine: Machine; entry: ActorEntry; key: string } {
  const machine = currentMachine();
  const entry = machine.actor();
  const turn = machine.turn();
  if (entry === undefined || turn === undefined) {
    throw invalid(`${what} works only in an actor's method`);
  }
  return { machine, entry, key: turn.actor.key };
}

function methodFor(entry: ActorEntry, method: unknown): string {
  for (const [name, known] of entry.methods) {
    if (name !== method && known.fn !== method) continue;
    if (!known.readonly) return name;
    throw invalid(`${entry.name}.${name} is read-only: a reminder of it would do nothing`);
  }
  const title = typeof method === "function" ? method.name : String(method);
  throw invalid(`remind needs a method of ${entry.name}, which ${title} is not`);
}

const everyMsMin = 1000;

interface Times {
  atMs?: number;
  everyMs?: number;
  cron?: string;
  zone?: string;
}

function timeOf(when: ReminderTime, nowMs: number): Times {
  const keys = Object.keys(when ?? {}).filter((key) => key !== "zone");
  if (keys.length !== 1) throw invalid("a reminder needs one of at, after, every and cron");
  if ("at" in when) return { atMs: instantOf(when.at) };
  if ("after" in when) return { atMs: clipped(nowMs + durationMs(when.after, "after")) };
  if ("every" in when) {
    const everyMs = durationMs(when.every, "every");
    if (everyMs < everyMsMin) throw invalid(`every is at least ${everyMsMin} ms`);
    return { atMs: clipped(nowMs + everyMs), everyMs };
  }
  if (!("cron" in when)) throw invalid(`a reminder has no ${keys.join()}`);
  const { cron, zone } = when;
  checkCron(cron);
  if (zone === undefined) return { cron };
  if (typeof zone !== "string" || !/^[A-Za-z][\w+-]*(?:\/[\w+-]+)*$/.test(zone)) {
    throw invalid(`zone ${JSON.stringify(zone)} is not a name such as "Europe/Berlin"`);
  }
  return { cron, zone };
}

function instantOf(at: Date | number): number {
  const ms = typeof at === "number" ? at : at.getTime();
  if (!(Math.abs(ms) <= instantMsMax)) throw invalid("at needs a valid date");
  return Math.ceil(ms);
}

function clipped(atMs: number): number {
  return Math.min(atMs, instantMsMax);
}

/** Only the shape: what the fields mean is the host's to say. */
function checkCron(cron: unknown): void {
  const field = /^[\d*,/\-A-Za-z]+$/;
  const fields = typeof cron === "string" ? cron.trim().split(/\s+/) : [];
  if (fields.length === 5 && fields.every((each) => field.test(each))) return;
  throw invalid(
    `cron ${JSON.stringify(cron)} needs five fields: minute, hour, day of month, month, day of week`,
  );
}

function invalid(message: string): GuestError {
  return new GuestError(message, { code: "invalid-request", retryable: false });
}
