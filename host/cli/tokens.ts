/**
 * Verbs of events that somebody outside decides by a token.
 */
import pc from "picocolors";
import { wholeNumber } from "./arguments.ts";
import { action, type CliPorts, noun, type Verb } from "./verb.ts";

export function addTokenVerbs(verb: Verb, ports: CliPorts): void {
  const sub = noun(verb, "tokens", "events that somebody outside decides by a token");
  sub("list <id>", "events of a run that may still be decided").action(
    action(ports, async ({ print, client }, id: string) => {
      const events = await client().handle(id).openEvents();
      print.rows(
        events.map((event) => ({ ...event })),
        ["event", "name", "expiresAt"],
      );
    }),
  );
  sub("revoke <id> <event>", "make the token of one worthless").action(
    action(ports, async ({ print, client }, id: string, event: string) => {
      await client().handle(id).revokeEvent(wholeNumber(event));
      print.result({ id, event, revoked: true }, () => [`${pc.green("✓")} ${event} is revoked`]);
    }),
  );
  sub("rotate", "sign with a new key from now on; old tokens stay good").action(
    action(ports, async ({ print, client }) => {
      const made = await client().rotateEventKeys();
      print.result(made, () => [`${pc.green("✓")} key ${made.key} signs from now on`]);
    }),
  );
}
