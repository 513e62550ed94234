/**
 * Performs what the gate has released: a guest's fetch, and reads and writes of objects by
 * content. Each ends in exactly one outcome, never in a rejection.
 */
import { encode } from "../guest/cbor.ts";
import type { Outcome } from "../guest/protocol.ts";
import { SporeError } from "./errors.ts";
import type { Pending } from "./format.ts";
import { type EntityKey, nameOf, tenantOf, toHex } from "./ids.ts";
import type { Objects } from "./objects.ts";
import { failed, hostError, ok, okEncoded } from "./outcomes.ts";
import type { AbortSignalLike, ByteRange, Ports } from "./ports.ts";
import { objectKey, objectName } from "./refs.ts";
import { Retrier } from "./retry.ts";
import { storedOf, storedPiece, storedValue } from "./stored.ts";
import type { TokenClaims } from "./tokens.ts";

export interface Effect {
  readonly outcome: Promise<Outcome>;
  readonly abort: () => void;
  readonly isAborted: () => boolean;
}

/** Where effects are performed, and by whom. */
export interface EffectPlace {
  readonly ports: Ports;
  readonly prefix: string;
  readonly objects: Objects;
  /** Larger values that were read are answered by reference (stored.ts). */
  readonly referBytes: number;
  /** Larger values aren't put together: a host has to have room for one. */
  readonly assembleBytes: number;
  readonly issueToken: (claims: TokenClaims) => Promise<Outcome>;
  /** Of whoever asks. */
  readonly trace: string | undefined;
  /** In which generation a value is stored that is put now (collector.ts C1). */
  readonly generation: () => Promise<number>;
  /** Makes a row durable that keeps the objects of this hash. */
  readonly hold: (hash: string) => Promise<void>;
}

export function performEffect(place: EffectPlace, key: EntityKey, pending: Pending): Effect {
  const signal = new Abort();
  return {
    outcome: perform(place, key, pending, signal).catch(outcomeOfError),
    abort: () => signal.abort(),
    isAborted: () => signal.aborted,
  };
}

async function perform(
  place: EffectPlace,
  key: EntityKey,
  pending: Pending,
  signal: Abort,
): Promise<Outcome> {
  const { ports, prefix, objects, referBytes } = place;
  switch (pending.kind) {
    case "fetch": {
      const context = { tenant: tenantOf(key), runId: nameOf(key), signal, trace: place.trace };
      return ok(await ports.outbound.fetch(pending.request, context));
    }
    case "put": {
      const stored = storedOf(pending.value);
      // It was stored before it was committed (partition.ts).
      if (stored?.size !== undefined) return ok({ hash: stored.name, size: stored.size });
      // The command is durable by now, and stands for the value until the answer is: only then
      // may it be asked which generation is the current one (collector.ts C1).
      const hash = toHex(ports.digest.sha256(pending.value));
      const name = objectName(hash, await place.generation());
      await retrierOf(ports, signal).run("object put", () =>
        ports.store.put(objectKey(prefix, tenantOf(key), name), pending.value, { ifAbsent: true }),
      );
      return ok({ hash: name, size: pending.value.length });
    }
    case "assemble":
      return objects.inTurn(() => assemble(place, key, pending, signal));
    case "get": {
      const { hash: name, range, isEncoded } = pending;
      const tenant = tenantOf(key);
      const retrier = retrierOf(ports, signal);
      // Read all the same: whether it is there and whole is the answer.
      if (isEncoded === true && range !== undefined) {
        const part = checkedRange(range);
        await objects.readEncoded(retrier, { tenant, name }, part);
        return okEncoded(storedPiece(name, part));
      }
      const value =
        range === undefined
          ? await objects.read(retrier, tenant, name)
          : encode(await objects.readPart(retrier, { tenant, name }, checkedRange(range)));
      return okEncoded(value.length > referBytes ? storedValue(name, range) : value);
    }
    case "token":
      return place.issueToken({ key, ...pending.claims });
    case "timer":
    case "wait":
    case "event":
    case "message":
      return failed(hostError("internal", `${pending.kind} is not an effect`));
  }
}

/**
 * The value of pieces, stored under its own hash like any: no reader needs to know of pieces. As
 * the command's row has the hash of none but the pieces, one that does is durable before it is
 * asked which generation is the current one (collector.ts C1).
 */
async function assemble(
  place: EffectPlace,
  key: EntityKey,
  pending: Extract<Pending, { kind: "assemble" }>,
  signal: Abort,
): Promise<Outcome> {
  const { ports, prefix, objects } = place;
  const retrier = retrierOf(ports, signal);
  if (!(pending.size <= place.assembleBytes)) {
    const most = `${place.assembleBytes} on this host`;
    throw new SporeError("value-too-large", `a value of ${pending.size} bytes; at most ${most}`);
  }
  const value = await objects.join(retrier, tenantOf(key), pending);
  const hash = toHex(ports.digest.sha256(value));
  await place.hold(hash);
  const name = objectName(hash, await place.generation());
  await retrier.run("object put", () =>
    ports.store.put(objectKey(prefix, tenantOf(key), name), value, { ifAbsent: true }),
  );
  return ok({ hash: name, size: value.length });
}

/** A store that doesn't answer is no business of the guest's. */
function retrierOf(ports: Ports, signal: Abort): Retrier {
  const retrier = new Retrier(ports.clock, ports.observer);
  signal.addEventListener("abort", () => retrier.close());
  return retrier;
}

/** What a guest can ask for at once; it has to fit into its memory. */
const partBytesMax = 32 * 1024 * 1024;

/** A guest can ask for anything. */
function checkedRange({ offset, length }: ByteRange): ByteRange {
  const isSound = [offset, length].every((value) => Number.isSafeInteger(value) && value >= 0);
  if (isSound && length <= partBytesMax) return { offset, length };
  const most = `up to ${partBytesMax}`;
  throw new SporeError("invalid-request", `offset and length of a part are whole, ${most}`);
}

function outcomeOfError(error: unknown): Outcome {
  if (error instanceof SporeError) {
    const isFinal = ["denied", "limit", "invalid", "missing", "corrupt"].includes(error.kind);
    return failed(hostError(error.code, error.message, !isFinal));
  }
  const message = error instanceof Error ? error.message : String(error);
  return failed({ name: "TypeError", message: `fetch failed: ${message}`, class: "user" });
}

/** Just enough of an AbortController: the engine has no platform. */
class Abort implements AbortSignalLike {
  aborted = false;
  readonly #listeners: (() => void)[] = [];

  addEventListener(_type: "abort", listener: () => void): void {
    this.#listeners.push(listener);
  }

  abort(): void {
    if (this.aborted) return;
    this.aborted = true;
    for (const listener of this.#listeners) listener();
  }
}
