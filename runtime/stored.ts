/**
 * Large values in what a machine was given, by reference. The answer to a `get` would be in an
 * input, then in a journal, then in a run's past, each time whole; instead these rows say which
 * object it is, and the value is put in its place when the activation is handed to the sandbox.
 * So it is written once, as an object, and what a machine gets is the same each time it is
 * rebuilt: objects never change, and no collection deletes what a row names (collector.ts).
 *
 * What a machine gives is treated alike: a large output, result of a step or answer of a method
 * becomes an object before it is committed (partition.ts), and whoever is told of it, a run that
 * waits for it or a client, gets the value.
 *
 * The reference takes the place of an encoded value as a whole: 27(["Stored", [name, offset,
 * length]]), which no guest's or client's value can be. Whose objects are read, the machine's
 * name says and never the value.
 */
import { decode, encode } from "../guest/cbor.ts";
import type {
  Activation,
  Drained,
  Encoded,
  Input,
  Outcome,
  StepRecord,
} from "../guest/protocol.ts";
import { isSameBytes } from "./bytes.ts";
import { SporeError } from "./errors.ts";
import { type EntityKey, tenantOf } from "./ids.ts";
import type { Objects } from "./objects.ts";
import type { ActivateRequest, ActivateResult, ByteRange, JournalEntry, Sandbox } from "./ports.ts";
import type { Retrier } from "./retry.ts";

const mark = Uint8Array.of(0xd8, 0x1b, 0x82, 0x66, 0x53, 0x74, 0x6f, 0x72, 0x65, 0x64);

interface Stored {
  readonly name: string;
  readonly range: ByteRange | undefined;
}

/** Stands for the value of an object, or for a part of its bytes. */
export function storedValue(name: string, range: ByteRange | undefined): Encoded {
  const place = encode([name, range?.offset ?? 0, range?.length ?? -1]);
  const value = new Uint8Array(mark.length + place.length);
  value.set(mark);
  value.set(place, mark.length);
  return value;
}

function storedOf(value: Encoded): Stored | undefined {
  if (!isSameBytes(value.subarray(0, mark.length), mark)) return undefined;
  const [name, offset, length] = decode(value.subarray(mark.length)) as [string, number, number];
  return { name, range: length < 0 ? undefined : { offset, length } };
}

/** A sandbox that is given values where its host keeps references. */
export function withStoredValues(sandbox: Sandbox, objects: Objects, retrier: Retrier): Sandbox {
  const filled = async (activation: Uint8Array, tenant: string): Promise<Uint8Array> => {
    if (!hasMark(activation)) return activation;
    const value = decode(activation) as Activation; // encoded by beginActivation
    const inputs: Input[] = [];
    for (const input of value.inputs) {
      const stored =
        input.kind === "resolve" && input.outcome.kind === "ok"
          ? storedOf(input.outcome.value)
          : undefined;
      if (stored === undefined || input.kind !== "resolve") {
        inputs.push(input);
        continue;
      }
      const { name, range } = stored;
      const bytes =
        range === undefined
          ? await objects.read(retrier, tenant, name)
          : encode(await objects.readPart(retrier, { tenant, name }, range));
      inputs.push({ ...input, outcome: { kind: "ok", value: bytes } });
    }
    return encode({ ...value, inputs });
  };
  const filledRequest = async (request: ActivateRequest): Promise<ActivateRequest> => {
    const tenant = tenantOf(request.machine as EntityKey); // it begins with its entity's key
    const activation = await filled(request.activation, tenant);
    const { from } = request;
    if (from.kind !== "rebuild") return { ...request, activation };
    const journal: JournalEntry[] = [];
    for (const entry of from.journal) {
      journal.push({ ...entry, activation: await filled(entry.activation, tenant) });
    }
    return { ...request, activation, from: { ...from, journal } };
  };
  const activateFilled = async (request: ActivateRequest): Promise<ActivateResult> => {
    try {
      return await sandbox.activate(await filledRequest(request));
    } catch (error) {
      const isLost = error instanceof SporeError && ["missing", "corrupt"].includes(error.kind);
      if (!isLost) throw error;
      // What a row names is never collected: somebody deleted or changed the object by hand.
      return { kind: "fault", fault: "object-not-found", message: error.message };
    }
  };
  return {
    prepare: (source) => sandbox.prepare(source),
    load: (id, bytes) => sandbox.load(id, bytes),
    isLoaded: (id) => sandbox.isLoaded(id),
    activate: (request) =>
      isFilled(request) ? sandbox.activate(request) : activateFilled(request),
    ...(sandbox.runsAhead === undefined ? {} : { runsAhead: sandbox.runsAhead }),
    release: (machine) => sandbox.release(machine),
    close: () => sandbox.close(),
  };
}

/** What a run or a method has answered, and what became of its steps, with other values. */
export function mapResults(drained: Drained, map: (value: Encoded) => Encoded): Drained {
  const outcomeOf = (outcome: Outcome): Outcome =>
    outcome.kind === "ok" ? { kind: "ok", value: map(outcome.value) } : outcome;
  const commands = drained.commands.map((command) =>
    command.kind === "complete" || command.kind === "reply"
      ? { ...command, outcome: outcomeOf(command.outcome) }
      : command,
  );
  const records = drained.records.map((record) => {
    const step = decode(record) as StepRecord; // written by the SDK; a forged one harms its own run
    if (step?.event !== "succeeded" || !(step.value instanceof Uint8Array)) return record;
    const value = map(step.value);
    return value === step.value ? record : encode({ ...step, value });
  });
  return { ...drained, commands, records };
}

/**
 * An answer for a client, with values where its parts have references. Looks at plain data of
 * any shape; answers without a reference are given back as they are.
 */
export async function withValues<T>(
  answer: T,
  read: (name: string, range: ByteRange | undefined) => Promise<Encoded>,
): Promise<T> {
  const fill = async (part: unknown): Promise<unknown> => {
    if (typeof part !== "object" || part === null) return part;
    if (part instanceof Uint8Array) {
      const stored = storedOf(part);
      return stored === undefined ? part : read(stored.name, stored.range);
    }
    if (!hasReference(part)) return part;
    if (Array.isArray(part)) return Promise.all(part.map(fill));
    const entries = Object.entries(part).map(async ([key, value]) => [key, await fill(value)]);
    return Object.fromEntries(await Promise.all(entries));
  };
  return (await fill(answer)) as T; // of the same shape
}

function hasReference(part: unknown): boolean {
  if (typeof part !== "object" || part === null) return false;
  if (part instanceof Uint8Array) return storedOf(part) !== undefined;
  return Object.values(part).some(hasReference);
}

/** Nearly always: then nothing is decoded, and nothing waits. */
function isFilled({ activation, from }: ActivateRequest): boolean {
  if (hasMark(activation)) return false;
  return from.kind !== "rebuild" || !from.journal.some((entry) => hasMark(entry.activation));
}

function hasMark(bytes: Uint8Array): boolean {
  const [first = 0, second] = mark;
  for (let at = bytes.indexOf(first); at >= 0; at = bytes.indexOf(first, at + 1)) {
    if (bytes[at + 1] !== second) continue;
    if (isSameBytes(bytes.subarray(at, at + mark.length), mark)) return true;
  }
  return false;
}
