/**
 * Entry of the component in tests (`sporeflow/testing`), instead of component.ts: an
 * activation may name steps whose bodies don't run here. Each call of one asks the test for
 * its outcome by a fetch command with a URL of its own scheme, so that the outcome is in the
 * journal like any other. No component that is built for deployment has this module.
 */
import { currentMachine, deliver as deliverPlain, kernel } from "./activation.ts";
import { decode, encode } from "./cbor.ts";
import { setStandIns } from "./define.ts";
import { fromErrorValue } from "./errors.ts";
import { installGlobals } from "./globals.ts";
import { type MockCall, mockScheme, type TestActivation } from "./mocks.ts";
import type { FetchResponse, Outcome } from "./protocol.ts";
import { context } from "./run.ts";

export { describe, drain } from "./activation.ts";

installGlobals(kernel);

export function deliver(bytes: Uint8Array): Promise<void> {
  const { mocked = [] } = decode(bytes) as TestActivation;
  setStandIns(new Map(mocked.map((name) => [name, (...args) => askTest(name, args)])));
  return deliverPlain(bytes);
}

async function askTest(name: string, args: readonly unknown[]): Promise<unknown> {
  const { step } = context();
  const { id = name, attempt = 1, idempotencyKey = "" } = step ?? {};
  const call: MockCall = { name, args, step: id, attempt, idempotencyKey };
  const body = encode(call);
  const request = { method: "POST", url: `${mockScheme}${name}`, headers: [], body };
  const answer = await currentMachine().command(
    (id) => ({ kind: "fetch", id, request }),
    `the mock of ${name}`,
  );
  const { body: encoded } = decode(answer) as FetchResponse;
  const outcome = decode(encoded) as Outcome;
  if (outcome.kind === "error") throw fromErrorValue(outcome.error);
  return decode(outcome.value);
}
