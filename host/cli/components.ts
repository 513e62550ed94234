/**
 * Verbs of what is deployed, and who runs what.
 */
import pc from "picocolors";
import { wholeNumber } from "./arguments.ts";
import { action, type CliPorts, type Verb } from "./verb.ts";

export function addComponentVerbs(verb: Verb, ports: CliPorts): void {
  verb("deployments", "what was deployed, newest first")
    .option("-l, --limit <count>", "at most so many", wholeNumber, 20)
    .action(
      action(ports, async ({ options, print, client }) => {
        const deployments = await client().deployments({ limit: options.limit as number });
        print.rows(
          deployments.map((each) => ({ ...each })),
          ["seq", "component", "at", "isCurrent", "rollbackTo"],
        );
      }),
    );
  verb("rollback [component]", "back to what was deployed before, or to a component").action(
    action(ports, async ({ print, client }, component?: string) => {
      const deployment = await client().rollBack(component);
      const text = `new runs take ${deployment.component}`;
      print.result(deployment, () => [`${pc.green("✓")} ${text}`]);
    }),
  );
  verb("components", "who runs what: open runs and actors by component").action(
    action(ports, async ({ print, client }) => {
      const { components, isPartial } = await client().componentUse();
      const rows = components.map(({ component, runs, actors }) => ({
        component,
        ...runs,
        actors,
      }));
      print.rows(rows, ["component", "RUNNING", "PENDING", "PAUSED", "RESUMABLE", "actors"]);
      if (isPartial) ports.err("there are more than were counted\n");
    }),
  );
}
