/** Workflows that wait for somebody outside, for tokens.test.ts. */
import { continueAsNew, externalEvent, publish, signal, workflow } from "sporeflow/guest";

/** Awaits the same event in each of its lives, and takes a break before it looks. */
export const patient = workflow("patient", async (life: number): Promise<unknown> => {
  const event = await externalEvent("approval");
  publish(`token ${life}`, event.token);
  if (life < 3) {
    await signal("next");
    continueAsNew(life + 1);
  }
  return { life, said: await event.result() };
});

export const revocable = workflow("revocable", async () => {
  const [first, second] = [await externalEvent("first"), await externalEvent("second")];
  publish("tokens", [first.token, second.token]);
  const said = await first.result().catch((error: Error & { code?: string }) => error.code);
  return [said, await second.result()];
});
