/**
 * What a guest's activation gives back, read and checked. A tenant's component is its own: nothing
 * says that the SDK wrote these bytes, and what a partition stores and acts on has to be what the
 * protocol says, or one tenant could stop a partition of all. The one place where a Drained is made
 * from bytes; everything behind it may believe the types.
 *
 * Checked are kinds, types, and ranges that become parts of keys. What a value means, and whether an
 * id, name or hash is known, is for who applies the command. Members that the protocol doesn't have
 * are ignored. Whether encoded values can be read is for who reads them: mostly another guest.
 */
import { decode } from "../guest/cbor.ts";
import type {
  ActorRef,
  Command,
  Drained,
  Encoded,
  ErrorValue,
  FetchRequest,
  Outcome,
  QueueOptions,
  StartOptions,
  StepRecord,
} from "../guest/protocol.ts";
import { assert } from "./errors.ts";
import { systemTimers } from "./format.ts";
import { failed, hostError } from "./outcomes.ts";
import type { ActivateResult } from "./ports.ts";

type Check = (value: unknown) => boolean;
/** One for each member that the type has: a new one without a check doesn't compile. */
type Checks<T> = { readonly [Member in keyof T]-?: Check };

/** A forged one ends its run, or its turn, with the error guest-output. */
export function decodeDrained(bytes: Uint8Array): Drained {
  let value: unknown;
  try {
    value = decode(bytes);
  } catch (error) {
    return refused(`can't be read: ${error instanceof Error ? error.message : String(error)}`);
  }
  const wrong = wrongIn(value);
  return wrong === undefined ? (value as Drained) : refused(`isn't of the protocol: ${wrong}`);
}

/** What a throw-away activation answered, and all else that it asked for: nobody is to do it. */
export function peeked(
  result: ActivateResult,
  id: string,
): { readonly outcome: Outcome; readonly commands: readonly Command[] } {
  if (result.kind === "fault") {
    return { outcome: failed(hostError(result.fault, result.message)), commands: [] };
  }
  assert(result.kind === "ok", "a peek is answered");
  const { commands } = decodeDrained(result.drained);
  for (const command of commands) {
    if (command.kind === "reply" && command.id === id)
      return { outcome: command.outcome, commands };
  }
  return { outcome: failed(hostError("guest-output", "the guest gave no answer")), commands };
}

/** One of `Drained.records`, which are stored unread; undefined if it is forged. */
export function readRecord(bytes: Encoded): StepRecord | undefined {
  try {
    const value = decode(bytes);
    return isRecord(value) ? (value as StepRecord) : undefined;
  } catch {
    return undefined;
  }
}

function refused(why: string): Drained {
  const outcome = failed(hostError("guest-output", `the guest's answer ${why}`));
  return { state: "done", commands: [{ kind: "complete", outcome }], records: [] };
}

/** Where it isn't what it should be. */
function wrongIn(value: unknown): string | undefined {
  if (!isMap(value)) return "no map";
  const member = wrongMember(value, drainedChecks);
  if (member !== undefined) return member;
  const commands = value["commands"] as readonly unknown[]; // checked just now
  for (const command of commands) {
    const wrong = wrongCommand(command);
    if (wrong !== undefined) return wrong;
  }
  return undefined;
}

function wrongCommand(command: unknown): string | undefined {
  const kind = isMap(command) ? command["kind"] : undefined;
  if (!isMap(command) || typeof kind !== "string" || !Object.hasOwn(commandChecks, kind)) {
    return "a command of no kind";
  }
  const wrong = wrongMember(command, commandChecks[kind as Command["kind"]]);
  return wrong === undefined ? undefined : `${kind}.${wrong}`;
}

function wrongMember(
  value: Readonly<Record<string, unknown>>,
  checks: Readonly<Record<string, Check>>,
): string | undefined {
  for (const member in checks) if (checks[member]?.(value[member]) === false) return member;
  return undefined;
}

// ---------------------------------------------------------------- checks

const isText: Check = (value) => typeof value === "string";
const isFlag: Check = (value) => typeof value === "boolean";
const isBytes: Check = (value) => value instanceof Uint8Array;
const isNumber: Check = (value) => typeof value === "number" && Number.isFinite(value);
/** Of a command: above are the host's own timers. */
const isId: Check = (value) =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) < systemTimers.min;
const isCount: Check = (value) => Number.isSafeInteger(value) && (value as number) >= 0;

function isMap(value: unknown): value is Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function optional(check: Check): Check {
  return (value) => value === undefined || check(value);
}

function listOf(check: Check): Check {
  return (value) => Array.isArray(value) && value.every(check);
}

function mapOf(check: Check): Check {
  return (value) => isMap(value) && Object.values(value).every(check);
}

function oneOf(...texts: readonly string[]): Check {
  return (value) => typeof value === "string" && texts.includes(value);
}

function shape<T>(checks: Checks<T>): Check {
  return (value) => isMap(value) && wrongMember(value, checks) === undefined;
}

function exactly(expected: unknown): Check {
  return (value) => value === expected;
}

const isError: Check = (value) => isErrorValue(value);
const isErrorValue = shape<ErrorValue>({
  name: isText,
  message: isText,
  code: optional(isText),
  class: optional(oneOf("user", "timeout", "cancelled", "denied", "limit", "host")),
  retryable: optional(isFlag),
  stack: optional(isText),
  cause: optional(isError),
  details: optional(isBytes),
});

type OutcomeOf<Kind extends Outcome["kind"]> = Extract<Outcome, { kind: Kind }>;
const isOk = shape<OutcomeOf<"ok">>({ kind: exactly("ok"), value: isBytes });
const isFailed = shape<OutcomeOf<"error">>({ kind: exactly("error"), error: isError });
const isOutcome: Check = (value) => isOk(value) || isFailed(value);

const isActor = shape<ActorRef>({ type: isText, key: isText });

const isHeader: Check = (value) => listOf(isText)(value) && (value as unknown[]).length === 2;
const isRequest = shape<FetchRequest>({
  method: isText,
  url: isText,
  headers: listOf(isHeader),
  body: optional(isBytes),
});

const isQueue = shape<QueueOptions>({
  name: optional(isText),
  key: optional(isText),
  priority: optional(isNumber),
});
const isOptions = shape<StartOptions>({
  queue: optional(isQueue),
  tags: optional(mapOf(isText)),
  metadata: optional(isBytes),
  deadlineMs: optional(isNumber),
  startAtMs: optional(isNumber),
  retentionMs: optional(isNumber),
});

const isRecord = shape<StepRecord>({
  step: isText,
  name: isText,
  event: oneOf("started", "progress", "succeeded", "failed", "retrying", "continued"),
  atMs: isNumber,
  attempt: isNumber,
  value: optional(isBytes),
  began: optional(isFlag),
  args: optional(isBytes),
  error: optional(isError),
  nextAtMs: optional(isNumber),
  into: optional(isText),
  isOpen: optional(isFlag),
  compensates: optional(isText),
  isReused: optional(isFlag),
  metadata: optional(isBytes),
});

const drainedChecks: Checks<Drained> = {
  state: oneOf("waiting", "yielded", "done"),
  commands: Array.isArray,
  records: listOf(isBytes),
  resumePoint: optional(isText),
  nextStep: optional(isText),
  waitingFor: optional(isText),
  progress: optional(shape<NonNullable<Drained["progress"]>>({ step: isText, value: isBytes })),
  handlers: optional(
    shape<NonNullable<Drained["handlers"]>>({ queries: listOf(isText), updates: listOf(isText) }),
  ),
};

type CommandOf<Kind extends Command["kind"]> = Extract<Command, { kind: Kind }>;
type Unread = CommandOf<"unread">["signals"][number];
type Range = NonNullable<CommandOf<"get">["range"]>;

const commandChecks: {
  readonly [Kind in Command["kind"]]: Checks<Omit<CommandOf<Kind>, "kind">>;
} = {
  timer: { id: isId, atMs: isNumber },
  fetch: { id: isId, request: isRequest },
  wait: { id: isId, signal: isText },
  accept: { updateId: isText },
  event: { id: isId, name: isText, expiresAtMs: isNumber },
  token: { id: isId, wait: isId },
  unread: { signals: listOf(shape<Unread>({ name: isText, index: isCount, value: isBytes })) },
  drop: { id: isId },
  start: {
    id: isId,
    name: optional(isText),
    args: optional(isBytes),
    root: optional(isBytes),
    runId: optional(isText),
    child: optional(oneOf("terminate", "cancel", "abandon")),
    options: optional(isOptions),
  },
  outcome: { id: isId, runId: isText },
  describe: { id: isId, runId: isText },
  cancelRun: { id: isId, runId: isText, reason: isText },
  signal: {
    id: isId,
    runId: optional(isText),
    actor: optional(isActor),
    name: isText,
    value: isBytes,
  },
  call: {
    id: isId,
    actor: isActor,
    method: isText,
    args: isBytes,
    oneWay: optional(isFlag),
    create: optional(isBytes),
  },
  put: { id: isId, value: isBytes },
  assemble: { id: isId, pieces: listOf(isText), size: isNumber },
  get: {
    id: isId,
    hash: isText,
    range: optional(shape<Range>({ offset: isCount, length: isCount })),
    isEncoded: optional(exactly(true)),
  },
  reply: { id: isText, outcome: isOutcome },
  state: { value: isBytes },
  remind: {
    name: isText,
    method: isText,
    args: isBytes,
    atMs: optional(isNumber),
    everyMs: optional(isNumber),
    cron: optional(isText),
    zone: optional(isText),
  },
  forgetReminder: { name: isText },
  turned: {},
  complete: { outcome: isOutcome },
  continueAsNew: { args: isBytes },
  publish: { key: isText, value: isBytes },
  tags: { tags: mapOf(optional(isText)) },
  log: {
    level: oneOf("debug", "info", "warn", "error"),
    message: isText,
    step: optional(isText),
  },
};
