/**
 * Performs what the gate has released: a guest's fetch, and reads and writes of objects by
 * content. Each ends in exactly one outcome, never in a rejection.
 */
import type { Outcome } from "../guest/protocol.ts";
import { SporeError } from "./errors.ts";
import type { Pending } from "./format.ts";
import { type EntityKey, nameOf, tenantOf, toHex } from "./ids.ts";
import { failed, hostError, ok, okEncoded } from "./machine.ts";
import { Objects } from "./objects.ts";
import type { AbortSignalLike, ByteRange, Ports } from "./ports.ts";
import { objectKey, objectName } from "./refs.ts";
import { Retrier } from "./retry.ts";
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
  readonly issueToken: (claims: TokenClaims) => Promise<Outcome>;
  /** Of whoever asks. */
  readonly trace: string | undefined;
  /** In which generation a value is stored that is put now (collector.ts C1). */
  readonly generation: () => Promise<number>;
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
  { ports, prefix, issueToken, trace, generation }: EffectPlace,
  key: EntityKey,
  pending: Pending,
  signal: Abort,
): Promise<Outcome> {
  switch (pending.kind) {
    case "fetch": {
      const context = { tenant: tenantOf(key), runId: nameOf(key), signal, trace };
      return ok(await ports.outbound.fetch(pending.request, context));
    }
    case "put": {
      // The command is durable by now, and stands for the value until the answer is: only then
      // may it be asked which generation is the current one (collector.ts C1).
      const hash = toHex(ports.digest.sha256(pending.value));
      const name = objectName(hash, await generation());
      await retrierOf(ports, signal).run("object put", () =>
        ports.store.put(objectKey(prefix, tenantOf(key), name), pending.value, { ifAbsent: true }),
      );
      return ok({ hash: name, size: pending.value.length });
    }
    case "get": {
      const { hash: name, range } = pending;
      const tenant = tenantOf(key);
      const objects = new Objects({ store: ports.store, prefix, digest: ports.digest });
      const retrier = retrierOf(ports, signal);
      if (range === undefined) return okEncoded(await objects.read(retrier, tenant, name));
      return ok(await objects.readPart(retrier, { tenant, name }, checkedRange(range)));
    }
    case "token":
      return issueToken({ key, ...pending.claims });
    case "timer":
    case "wait":
    case "event":
    case "message":
      return failed(hostError("internal", `${pending.kind} is not an effect`));
  }
}

/** A store that doesn't answer is no business of the guest's. */
function retrierOf(ports: Ports, signal: Abort): Retrier {
  const retrier = new Retrier(ports.clock, ports.observer);
  signal.addEventListener("abort", () => retrier.close());
  return retrier;
}

/** A guest can ask for anything. */
function checkedRange({ offset, length }: ByteRange): ByteRange {
  const isSound = [offset, length].every((value) => Number.isSafeInteger(value) && value >= 0);
  if (isSound) return { offset, length };
  throw new SporeError("invalid-request", "offset and length of a part are whole numbers");
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
