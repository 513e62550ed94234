/**
 * Verbs of actors: creating, calling, looking and changing.
 */
import pc from "picocolors";
import type { ActorInfo, Client, UpgradeRequest } from "../../client/index.ts";
import { SporeError } from "../../runtime/errors.ts";
import { inputOptions, readArgs, wholeNumber } from "./arguments.ts";
import { usage } from "./failures.ts";
import { action, type CliPorts, noun, type Verb } from "./verb.ts";

export function addActorVerbs(verb: Verb, ports: CliPorts): void {
  const sub = noun(verb, "actor", "create, call, look at and delete actors");
  inputOptions(sub("create <type> <key> [args...]", "get or create")).action(
    action(ports, async ({ options, print, client }, type: string, key: string, args: string[]) => {
      const made = await client().createActor(type, key, readArgs(args, options, ports));
      print.result(made, () => [`${type} ${key} ${made.created ? "created" : "was there"}`]);
    }),
  );
  inputOptions(sub("call <type> <key> <method> [args...]", "call a method"))
    .option("--async", "don't wait for the result")
    .action(
      action(
        ports,
        async (
          { options, print, client },
          type: string,
          key: string,
          method: string,
          args: string[],
        ) => {
          const isAsync = options.async === true;
          const given = readArgs(args, options, ports);
          const result = await client().call({ type, key, method }, given, { async: isAsync });
          print.value({ type, key, method }, isAsync ? "callId" : "result", result);
        },
      ),
    );
  sub("get <type> <key>", "what is known of an actor").action(
    action(ports, async ({ print, client }, type: string, key: string) => {
      print.record(await client().getActor(type, key));
    }),
  );
  sub("delete <type> <key>", "forget an actor").action(
    action(ports, async ({ print, client }, type: string, key: string) => {
      await client().deleteActor(type, key);
      print.result({ type, key, deleted: true }, () => [`${pc.green("✓")} ${type} ${key} is gone`]);
    }),
  );
  addActorLookVerbs(sub, ports);
  addActorChangeVerbs(sub, ports);
}

function addActorLookVerbs(sub: Verb, ports: CliPorts): void {
  sub("list [type]", "list actors, by type and key")
    .option("--prefix <prefix>", "keys that begin so; with a type")
    .option("-l, --limit <count>", "at most so many", wholeNumber, 50)
    .action(
      action(ports, async ({ options, print, client }, type?: string) => {
        const prefix = options.prefix as string | undefined;
        if (prefix !== undefined && type === undefined) throw usage("a prefix needs a type");
        const limit = options.limit as number;
        const actors: ActorInfo[] = [];
        for await (const each of client().listActors({ type, prefix, limit })) actors.push(each);
        const columns = ["type", "key", "turns", "stateBytes", "mailbox", "busy", "stopped"];
        print.rows(actors, columns);
      }),
    );
  sub("state <type> <key>", "an actor's state as it is kept").action(
    action(ports, async ({ print, client }, type: string, key: string) => {
      const { state, turns } = await client().actorState(type, key);
      print.value({ type, key, turns }, "state", state);
    }),
  );
  sub("history <type> <key>", "its last turns, oldest first, with the state after each")
    .option("--from <index>", "from this event on", wholeNumber, 0)
    .action(
      action(ports, async ({ options, print, client }, type: string, key: string) => {
        let from = options.from as number;
        for (;;) {
          const events = await client().actorHistory(type, key, { from, limit: 1000 });
          for (const event of events) print.event(event);
          if (events.length < 1000) return;
          from = (events.at(-1)?.index ?? from) + 1;
        }
      }),
    );
  sub("events <type> <key>", "its last turns, and what happens until it is deleted")
    .option("--from <index>", "from this event on", wholeNumber, 0)
    .action(
      action(ports, async ({ options, print, client }, type: string, key: string) => {
        const from = options.from as number;
        for await (const event of client().actorEvents(type, key, { from })) print.event(event);
      }),
    );
}

function addActorChangeVerbs(sub: Verb, ports: CliPorts): void {
  inputOptions(sub("edit <type> <key> [state...]", "replace the state of an idle actor"))
    .option(
      "--turns <count>",
      "only if it has had so many turns; default: as it is now",
      wholeNumber,
    )
    .action(
      action(
        ports,
        async ({ options, print, client }, type: string, key: string, words: string[]) => {
          const given = readArgs(words, options, ports);
          if (given.length !== 1) throw usage("give one value: the whole state");
          const asked = options.turns as number | undefined;
          const turns = asked ?? (await client().actorState(type, key)).turns;
          const edited = await client().editActor(type, key, { state: given[0], turns });
          print.result(edited, () => [`${pc.green("✓")} ${type} ${key} edited`]);
        },
      ),
    );
  sub("fork <type> <key> <into>", "a new actor with the state of this one").action(
    action(ports, async ({ print, client }, type: string, key: string, into: string) => {
      const forked = await client().forkActor(type, key, into);
      print.result(forked, () => [`${pc.green("✓")} ${type} ${into} begins as ${key} is now`]);
    }),
  );
  inputOptions(sub("signal <type> <key> <name> [value...]", "send a signal")).action(
    action(
      ports,
      async (
        { options, print, client },
        type: string,
        key: string,
        name: string,
        value: string[],
      ) => {
        const [first] = readArgs(value, options, ports);
        await client().signalActor(type, key, name, first);
        const sent = `${pc.green("✓")} ${name} sent to ${type} ${key}`;
        print.result({ type, key, signal: name }, () => [sent]);
      },
    ),
  );
  sub("resume <type> <key>", "go on after a stop because of an error").action(
    action(ports, async ({ print, client }, type: string, key: string) => {
      const resumed = await client().resumeActor(type, key);
      print.result(resumed, () => [`${pc.green("✓")} ${type} ${key} goes on`]);
    }),
  );
  sub("upgrade <type> [key]", "move an actor, or all of a type, to another component")
    .option("--prefix <prefix>", "those whose keys begin so")
    .option("--component <id>", "default: the current one")
    .action(
      action(ports, async ({ options, print, client, spin }, type: string, key?: string) => {
        const prefix = options.prefix as string | undefined;
        if (prefix !== undefined && key !== undefined) throw usage("a key or a prefix, not both");
        const given = options.component as string | undefined;
        const component = given ?? (await client().currentComponent()).id;
        const { requested } = await client().upgradeActors({ type, key, prefix, component });
        const upgrades = await spin(`${requested} asked to upgrade`, (say) =>
          awaitUpgrades(client(), { type, key, prefix, component }, say),
        );
        print.result({ requested, component, ...upgrades }, () => linesOf(upgrades, component));
        const { failed } = upgrades.counts;
        if (failed === 0) return;
        throw new SporeError("upgrade-failed", `${failed} stayed as they were`, {
          hint: "mend `static upgrade`, deploy and ask again",
        });
      }),
    );
  sub("rollback <type> <key>", "back to what it was before its last upgrade").action(
    action(ports, async ({ print, client }, type: string, key: string) => {
      const actor = await client().rollBackActor(type, key);
      const back = `${type} ${key} is back on ${actor.component.slice(0, 16)}`;
      print.result(actor, () => [`${pc.green("✓")} ${back}`]);
    }),
  );
}

interface Upgrades {
  readonly counts: { readonly moved: number; readonly failed: number; readonly waiting: number };
  /** The first of those that couldn't be moved, and of those that are in a turn. */
  readonly failed: readonly { readonly key: string; readonly error: string }[];
  readonly waiting: readonly string[];
}

/** A turn that waits for somebody may take for ever: then it is said how many wait. */
const upgradesWaitMs = 30_000;
const shownMax = 20;

async function awaitUpgrades(
  client: Client,
  asked: UpgradeRequest & { readonly component: string },
  say: (detail: string) => void,
): Promise<Upgrades> {
  const endMs = Date.now() + upgradesWaitMs;
  for (let pauseMs = 50; ; pauseMs = Math.min(pauseMs * 2, 2000)) {
    const upgrades = await upgradesOf(client, asked);
    const { moved, failed, waiting } = upgrades.counts;
    if (waiting === 0 || Date.now() + pauseMs > endMs) return upgrades;
    say(`${moved} moved, ${failed} failed, ${waiting} to go`);
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

async function upgradesOf(
  client: Client,
  { type, key, prefix, component }: UpgradeRequest & { readonly component: string },
): Promise<Upgrades> {
  const counts = { moved: 0, failed: 0, waiting: 0 };
  const failed: { key: string; error: string }[] = [];
  const waiting: string[] = [];
  const look = (actor: ActorInfo): void => {
    const { failedUpgrade } = actor;
    if (actor.component === component) counts.moved += 1;
    else if (failedUpgrade?.component === component) {
      const { name, message } = failedUpgrade.error;
      counts.failed += 1;
      if (failed.length < shownMax) failed.push({ key: actor.key, error: `${name}: ${message}` });
    } else {
      counts.waiting += 1;
      if (waiting.length < shownMax) waiting.push(actor.key);
    }
  };
  if (key === undefined) for await (const each of client.listActors({ type, prefix })) look(each);
  else look(await client.getActor(type, key));
  return { counts, failed, waiting };
}

function linesOf({ counts, failed, waiting }: Upgrades, component: string): string[] {
  const isOver = counts.moved > 0 || counts.waiting + counts.failed === 0;
  const lines = isOver ? [`${pc.green("✓")} ${counts.moved} on ${component.slice(0, 16)}`] : [];
  if (counts.waiting > 0) {
    const some = waiting.slice(0, 3).join(", ");
    lines.push(`${counts.waiting} move when their turn is over: ${some} (see spore actor get)`);
  }
  for (const { key, error } of failed) lines.push(`${pc.red("✗")} ${key}: ${error}`);
  if (failed.length < counts.failed) lines.push(`and ${counts.failed - failed.length} more`);
  return lines;
}
