/**
 * Verbs that say something to a run, or ask it.
 */
import pc from "picocolors";
import { inputOptions, readArgs } from "./arguments.ts";
import { action, type CliPorts, type Verb } from "./verb.ts";

export function addMessageVerbs(verb: Verb, ports: CliPorts): void {
  inputOptions(verb("signal <id> <name> [value...]", "send a signal")).action(
    action(ports, async ({ options, print, client }, id: string, name: string, value: string[]) => {
      const [first] = readArgs(value, options, ports);
      await client().handle(id).signal(name, first);
      print.result({ id, signal: name }, () => [`${pc.green("✓")} ${name} sent to ${id}`]);
    }),
  );
  inputOptions(verb("query <id> <name> [args...]", "ask a run")).action(
    action(ports, async ({ options, print, client }, id: string, name: string, args: string[]) => {
      const result = await client()
        .handle(id)
        .query(name, ...readArgs(args, options, ports));
      print.value({ id }, "result", result);
    }),
  );
  inputOptions(verb("update <id> <name> [args...]", "change a run, and get the result")).action(
    action(ports, async ({ options, print, client }, id: string, name: string, args: string[]) => {
      const result = await client()
        .handle(id)
        .update(name, ...readArgs(args, options, ports));
      print.value({ id }, "result", result);
    }),
  );
}
