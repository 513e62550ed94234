/** What a component that is built for tests (testing.ts) and the test itself agree upon. */
import type { Activation } from "./protocol.ts";

/** Scheme of the URLs under which a test is asked for a step's outcome; no guest's `fetch` takes it. */
export const mockScheme = "spore-mock:";

/** The body of such a request. */
export interface MockCall {
  /** Name of the step's definition. */
  readonly name: string;
  readonly args: readonly unknown[];
  /** Identity of the step in its run. */
  readonly step: string;
  readonly attempt: number;
  readonly idempotencyKey: string;
}

/** An activation in a test: with the names of the steps that the test answers. */
export type TestActivation = Activation & { readonly mocked?: readonly string[] };
