/**
 * Performs what the gate has released: a guest's fetch, and reads and writes of objects by
 * content. Each ends in exactly one outcome, never in a rejection.
 */
import type { Outcome } from "../guest/protocol.ts";
import { SporeError } from "./errors.ts";
import type { Pending } from "./format.ts";
import { type EntityKey, nameOf, tenantOf, toHex } from "./ids.ts";
import { failed, hostError, ok, okEncoded } from "./machine.ts";
import type { AbortSignalLike, Ports } from "./ports.ts";
import { hashOfName, isObjectName, objectKey, objectName } from "./refs.ts";
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
      await retrying(ports, signal, "object put", () =>
        ports.store.put(objectKey(prefix, tenantOf(key), name), pending.value, { ifAbsent: true }),
      );
      return ok({ hash: name, size: pending.value.length });
    }
    case "get": {
      if (!isObjectName(pending.hash)) return missing(pending.hash);
      const place = objectKey(prefix, tenantOf(key), pending.hash);
      const bytes = await retrying(ports, signal, "object get", () => ports.store.get(place));
      if (bytes === undefined) return missing(pending.hash);
      if (toHex(ports.digest.sha256(bytes)) !== hashOfName(pending.hash)) {
        return failed(hostError("corrupt-segment", `object ${pending.hash} is damaged`));
      }
      return okEncoded(bytes);
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
function retrying<T>(
  ports: Ports,
  signal: Abort,
  what: string,
  work: () => Promise<T>,
): Promise<T> {
  const retrier = new Retrier(ports.clock, ports.observer);
  signal.addEventListener("abort", () => retrier.close());
  return retrier.run(what, work);
}

function missing(hash: string): Outcome {
  return failed(hostError("object-not-found", `there is no object ${hash}`));
}

function outcomeOfError(error: unknown): Outcome {
  if (error instanceof SporeError) {
    const isFinal = error.kind === "denied" || error.kind === "limit" || error.kind === "invalid";
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
