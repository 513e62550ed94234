/**
 * A read-only method of an actor, on whichever host: pristine memory, the actor's state, one
 * activation, and everything but the answer is thrown away (I6). Where the state comes from,
 * and that it isn't stale, is the caller's.
 */
import { encode } from "../guest/cbor.ts";
import type { Input } from "../guest/protocol.ts";
import type { ActivateResult, Clock, Sandbox } from "./ports.ts";
import type { Entity } from "./state.ts";

export interface ReadingParts {
  readonly sandbox: Sandbox;
  readonly clock: Clock;
  /** Makes sure that the sandbox knows the component. Throws component-not-found. */
  readonly loadComponent: (id: string) => Promise<void>;
}

export async function peekTurn(
  { sandbox, clock, loadComponent }: ReadingParts,
  { key, head }: Pick<Entity, "key" | "head">,
  input: Extract<Input, { kind: "turn" }>,
): Promise<ActivateResult> {
  // The state in the input is of this component: an upgrade may come in between.
  const { component, lastNowMs } = head;
  await loadComponent(component);
  const nowMs = Math.max(lastNowMs, clock.nowMs());
  return sandbox.activate({
    component,
    machine: `${key}?`,
    activation: encode({ nowMs, stepsMax: 0, inputs: [input] }),
    after: "discard",
    imageAfterMs: Number.POSITIVE_INFINITY,
    from: { kind: "pristine" },
  });
}
