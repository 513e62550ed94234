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
 * length, size]]), which no value of user code can be. Whose objects are read, the machine's
 * name says and never the value.
 *
 * A guest stores what is too large for an activation itself, in pieces, and gives the reference
 * in the place of the result, with its size. Such a one is handed to other guests as it is: they
 * read it in pieces (guest/pieces.ts). A client is given a Ref.
 */
import { decode, encode, Ref } from "../guest/cbor.ts";
import {
  type Activation,
  type Drained,
  type Encoded,
  type Input,
  type Outcome,
  storedMark,
} from "../guest/protocol.ts";
import { isSameBytes } from "./bytes.ts";
import { readRecord } from "./drained.ts";
import { SporeError } from "./errors.ts";
import { type EntityKey, tenantOf } from "./ids.ts";
import type { Objects } from "./objects.ts";
import type { ActivateRequest, ActivateResult, ByteRange, JournalEntry, Sandbox } from "./ports.ts";
import { isObjectName } from "./refs.ts";
import type { Retrier } from "./retry.ts";

const mark = storedMark;

interface Stored {
  readonly name: string;
  /** Of its bytes; with `isEncoded` of its encoding. */
  readonly range: ByteRange | undefined;
  readonly isEncoded: boolean;
  /** Of what a guest has stored itself, and puts in its place itself. */
  readonly size: number | undefined;
}

/** Stands for the value of an object, or for a part of its bytes. */
export function storedValue(name: string, range: ByteRange | undefined): Encoded {
  return reference([name, range?.offset ?? 0, range?.length ?? -1]);
}

/** Stands for a value that is put and that is stored by now. */
export function storedPut(name: string, size: number): Encoded {
  return reference([name, 0, -1, size]);
}

/** Stands for a part of an object's encoding. */
export function storedPiece(name: string, { offset, length }: ByteRange): Encoded {
  return reference([name, offset, length, -1]);
}

function reference(parts: readonly (string | number)[]): Encoded {
  const place = encode(parts);
  const value = new Uint8Array(mark.length + place.length);
  value.set(mark);
  value.set(place, mark.length);
  return value;
}

export function storedOf(value: Encoded): Stored | undefined {
  if (!isSameBytes(value.subarray(0, mark.length), mark)) return undefined;
  const place = placeOf(value.subarray(mark.length));
  // A guest's own is anything: what isn't a reference is a value that can't be read.
  if (!Array.isArray(place)) return undefined;
  const [name, offset, length, size = -1] = place as readonly unknown[];
  const isSound = [offset, length, size].every((part) => Number.isSafeInteger(part));
  if (typeof name !== "string" || !isSound) return undefined;
  const range = { offset: offset as number, length: length as number };
  const isWhole = range.length < 0;
  return {
    name,
    range: isWhole ? undefined : range,
    isEncoded: !isWhole && place.length === 4,
    size: isWhole && (size as number) >= 0 ? (size as number) : undefined,
  };
}

function placeOf(bytes: Uint8Array): unknown {
  try {
    return decode(bytes);
  } catch {
    return undefined; // forged
  }
}

/** The object in whose place a guest gave the reference, if it did. */
export function ownStored(value: Encoded): string | undefined {
  const stored = storedOf(value);
  return stored?.size === undefined || !isObjectName(stored.name) ? undefined : stored.name;
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
      if (stored === undefined || stored.size !== undefined || input.kind !== "resolve") {
        inputs.push(input);
        continue;
      }
      const { name, range, isEncoded } = stored;
      const bytes =
        range === undefined
          ? await objects.read(retrier, tenant, name)
          : encode(
              isEncoded
                ? await objects.readEncoded(retrier, { tenant, name }, range)
                : await objects.readPart(retrier, { tenant, name }, range),
            );
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

/**
 * What a run or a method has answered, what became of its steps and what is put, with other
 * values.
 */
export function mapResults(
  drained: Drained,
  map: (value: Encoded, isPut: boolean) => Encoded,
): Drained {
  const outcomeOf = (outcome: Outcome): Outcome =>
    outcome.kind === "ok" ? { kind: "ok", value: map(outcome.value, false) } : outcome;
  const commands = drained.commands.map((command) => {
    if (command.kind === "put") return { ...command, value: map(command.value, true) };
    return command.kind === "complete" || command.kind === "reply"
      ? { ...command, outcome: outcomeOf(command.outcome) }
      : command;
  });
  const records = drained.records.map((record) => {
    const step = readRecord(record);
    if (step?.event !== "succeeded" || step.value === undefined) return record;
    const value = map(step.value, false);
    return value === step.value ? record : encode({ ...step, value });
  });
  return { ...drained, commands, records };
}

/**
 * An answer for a client, with values where its parts have references. Looks at plain data of
 * any shape; answers without a reference are given back as they are. What a guest has stored
 * itself is too large for an answer: that is a Ref in it.
 */
export async function withValues<T>(
  answer: T,
  read: (name: string, range: ByteRange | undefined) => Promise<Encoded>,
): Promise<T> {
  const fill = async (part: unknown): Promise<unknown> => {
    if (typeof part !== "object" || part === null) return part;
    if (part instanceof Uint8Array) {
      const stored = storedOf(part);
      if (stored === undefined) return part;
      if (stored.size !== undefined) return encode(new Ref(stored.name, stored.size));
      return read(stored.name, stored.range);
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
