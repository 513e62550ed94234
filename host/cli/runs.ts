/**
 * Verbs of runs: starting, looking, waiting, controlling one or many, and making new runs of
 * old ones.
 */
import { type Command, Option } from "commander";
import pc from "picocolors";
import {
  type BulkAction,
  type Client,
  ClientError,
  type Handle,
  type ListFilter,
  type Runnable,
  type RunStatus,
  type StartWithOptions,
} from "../../client/index.ts";
import {
  collectTag,
  duration,
  inputOptions,
  instant,
  json,
  namedValue,
  priorityOf,
  queueOptionsOf,
  readArgs,
  wholeNumber,
} from "./arguments.ts";
import { usage } from "./failures.ts";
import { action, type CliPorts, type Verb, type VerbContext } from "./verb.ts";

export function addRunVerbs(verb: Verb, ports: CliPorts): void {
  inputOptions(
    verb("run <workflow> [args...]", "run a workflow, or a single step, and wait for its output"),
  )
    .option("--id <id>", "the run's id")
    .addOption(
      new Option("--if-exists <mode>", "if there is a run of that id").choices([
        "resume",
        "fail",
        "start",
        "terminate",
      ]),
    )
    .option("--tag <key=value>", "tag the run (repeatable)", collectTag, {})
    .option("--metadata <json>", "of the run", json)
    .option("--component <id>", "default: the current one")
    .option("--start-at <time>", "begin then: an ISO time, or a duration from now", instant)
    .option("--deadline <time>", "cancel it then if it isn't done; the same", instant)
    .option("--retention <duration>", "delete it this long after it has closed", duration)
    .option("--queue <name>", "pass this queue")
    .option("--queue-key <key>", "runs with the same key share the queue's limit per key")
    .option("--priority <number>", "higher ones come first", priorityOf)
    .option("--signal <name=value>", "deliver this signal with the start", namedValue)
    .option("--detach", "print the id and don't wait")
    .option("--timeout <duration>", "give up waiting after this", duration)
    .action(
      action(ports, async ({ options, print, client, spin }, name: string, args: string[]) => {
        const given = readArgs(args, options, ports);
        const handle = await startNamed(client(), { name, args: given }, startOptionsOf(options));
        if (options.detach === true) {
          const status = await handle.status();
          print.result({ id: handle.id, status }, () => [handle.id]);
          return;
        }
        const timeoutMs = options.timeout as number | undefined;
        const output = await spin(`${name} ${handle.id}`, () => handle.result({ timeoutMs }));
        print.value({ id: handle.id, status: "SUCCESSFUL" }, "output", output);
      }),
    );
  verb("list", "list runs, newest first")
    .option("-s, --status <status>", "one or several, with commas")
    .option("-n, --name <name>", "of this workflow")
    .option("--prefix <prefix>", "ids that begin so")
    .option("--component <id>", "on this component, or those whose ids begin so")
    .option("--tag <key=value>", "with this tag", collectTag, undefined)
    .option("-l, --limit <count>", "at most so many", wholeNumber, 50)
    .action(
      action(ports, async ({ options, print, client }) => {
        const runs = await client().listAll(filterOf(options));
        print.rows(
          runs.map((run) => ({ ...run })),
          ["id", "name", "status", "createdAt", "closedAt"],
        );
      }),
    );
  const onRun = (name: string, text: string): Command => verb(`${name} <id>`, text);
  const onRuns = (name: string, text: string): Command =>
    filterOptions(verb(`${name} [id]`, text)).option("-y, --yes", "do it to all that match");
  onRun("status", "what is known of a run").action(
    action(ports, async ({ print, client }, id: string) => {
      print.record(await client().getMetadata(id));
    }),
  );
  onRun("output", "a run's output; waits for it")
    .option("--step <step>", "of this step")
    .option("--no-wait", "don't wait")
    .option("--timeout <duration>", "give up waiting after this", duration)
    .action(
      action(ports, async ({ options, print, client, spin }, id: string) => {
        const timeoutMs = options.wait === false ? 0 : (options.timeout as number | undefined);
        const step = options.step as string | undefined;
        const wait = { timeoutMs, ...(step === undefined ? {} : { step }) };
        const output = await spin(id, () => client().getOutput(id, wait));
        print.value({ id }, "output", output);
      }),
    );
  onRun("steps", "the run's steps").action(
    action(ports, async ({ print, client }, id: string) => {
      const steps = await client().handle(id).steps();
      print.rows(
        steps.map((step) => ({ ...step })),
        ["step", "status", "attempt", "startedAt", "endedAt", "value", "error"],
      );
    }),
  );
  onRun("history", "what happened, oldest first")
    .option("--from <index>", "from this event on", wholeNumber, 0)
    .action(
      action(ports, async ({ options, print, client }, id: string) => {
        let from = options.from as number;
        for (;;) {
          const events = await client().handle(id).history({ from, limit: 1000 });
          for (const event of events) print.event(event);
          if (events.length < 1000) return;
          from += events.length;
        }
      }),
    );
  onRun("events", "what happened, and what happens until the run ends")
    .option("--from <index>", "from this event on", wholeNumber, 0)
    .action(
      action(ports, async ({ options, print, client }, id: string) => {
        const from = options.from as number;
        for await (const event of client().handle(id).events({ from })) print.event(event);
      }),
    );
  for (const name of ["cancel", "terminate"] as const) {
    onRuns(name, name === "cancel" ? "cancel in cooperation with the workflow" : "end at once")
      .option("-r, --reason <text>", "noted in the history")
      .action(
        action(ports, async (task, id?: string) => {
          const { options, print, client } = task;
          if (id === undefined) return actOnAll(task, name);
          const run = await client()
            .handle(id)
            [name](options.reason as string | undefined);
          print.result({ id, status: run.status }, () => [`${id} ${print.status(run.status)}`]);
        }),
      );
  }
  onRuns("pause", "begin nothing new until resumed").action(
    action(ports, async (task, id?: string) => {
      const { print, client } = task;
      if (id === undefined) return actOnAll(task, "pause");
      const run = await client().handle(id).pause();
      print.result({ id, status: run.status }, () => [`${id} ${print.status(run.status)}`]);
    }),
  );
  verb("resume [id]", "go on after a pause, or from the failed step")
    .option("--all", "all that can be resumed")
    .option("--include-failed", "with --all: also failed runs")
    .action(
      action(ports, async ({ options, print, client }, id?: string) => {
        if (options.all === true) {
          const includeFailed = options.includeFailed === true;
          const runs = await client().resumeAll({ includeFailed });
          print.rows(
            runs.map((run) => ({ ...run })),
            ["id", "status"],
          );
          return;
        }
        if (id === undefined) throw usage("which run? give its id, or --all");
        const run = await client().handle(id).resume();
        print.result({ id, status: run.status }, () => [`${id} ${print.status(run.status)}`]);
      }),
    );
  onRuns("delete", "forget a closed run").action(
    action(ports, async (task, id?: string) => {
      const { print, client } = task;
      if (id === undefined) return actOnAll(task, "delete");
      await client().deleteRun(id);
      print.result({ id, deleted: true }, () => [`${pc.green("✓")} ${id} is gone`]);
    }),
  );
}

/** Runs made of other runs. */
export function addOriginVerbs(verb: Verb, ports: CliPorts): void {
  verb("fork <id> <step>", "a new run with this one's past up to a step, which it runs next")
    .option("--id <id>", "the new run's id")
    .option("--component <id>", "goes on with this one, if it does the same up to the step")
    .action(
      action(ports, async ({ options, print, client }, id: string, step: string) => {
        const forkId = options.id as string | undefined;
        const component = options.component as string | undefined;
        const fork = await client().handle(id).fork(step, { id: forkId, component });
        print.result({ id: fork.id, forkedFrom: { id, step } }, () => [fork.id]);
      }),
    );
  inputOptions(verb("rerun <id> [args...]", "do a run again, with other arguments if given"))
    .option("--id <id>", "the new run's id")
    .option("--reuse", "take the results of steps with the same arguments")
    .option("--component <id>", "default: the current one")
    .action(
      action(ports, async ({ options, print, client }, id: string, words: string[]) => {
        const args = readArgs(words, options, ports);
        const rerun = await client()
          .handle(id)
          .rerun({
            id: options.id as string | undefined,
            args: args.length === 0 ? undefined : args,
            reuse: options.reuse === true,
            component: options.component as string | undefined,
          });
        print.result({ id: rerun.id, rerunOf: id }, () => [rerun.id]);
      }),
    );
  verb("move <id>", "go on with another component, if it does the same so far")
    .option("--component <id>", "default: the current one")
    .option("--dry-run", "only compare")
    .action(
      action(ports, async ({ options, print, client }, id: string) => {
        const component = options.component as string | undefined;
        const dryRun = options.dryRun === true;
        try {
          const moved = await client().handle(id).move({ component, dryRun });
          const to = moved.to.slice(0, 16);
          const done = moved.moved ? `goes on with ${to}` : `does the same with ${to}`;
          const compared = `${moved.activations} activations compared`;
          print.result(moved, () => [`${pc.green("✓")} ${id} ${done} (${compared})`]);
        } catch (error) {
          for (const line of differenceLines(error)) ports.err(`${line}\n`);
          throw error;
        }
      }),
    );
}

/** What the new code does otherwise. */
function differenceLines(error: unknown): readonly string[] {
  if (!(error instanceof ClientError) || error.code !== "move-diverged") return [];
  const { before, after } = error.problem.difference as { before: string; after: string };
  return [`${pc.red("-")} ${before}`, `${pc.green("+")} ${after}`];
}

/** A workflow of that name; if there is none, a graph of the one step. */
async function startNamed(
  client: Client,
  { name, args }: { readonly name: string; readonly args: readonly unknown[] },
  options: StartWithOptions,
): Promise<Handle> {
  // The types' brands exist in types only.
  const start = (what: object): Promise<Handle> => client.start(what as Runnable<unknown>, options);
  try {
    return await start({ $workflow: name, args });
  } catch (error) {
    if (!(error instanceof ClientError) || error.code !== "workflow-not-found") throw error;
    const { definitions } = await client.currentComponent();
    if (!definitions.some((each) => each.kind === "step" && each.name === name)) throw error;
    return start({ $step: name, args });
  }
}

function startOptionsOf(options: Readonly<Record<string, unknown>>): StartWithOptions {
  const tags = options.tag as Readonly<Record<string, string>>;
  return {
    id: options.id as string | undefined,
    ifExists: options.ifExists as StartWithOptions["ifExists"],
    startAt: options.startAt as Date | undefined,
    deadline: options.deadline as Date | undefined,
    retentionMs: options.retention as number | undefined,
    metadata: options.metadata,
    component: options.component as string | undefined,
    ...queueOptionsOf(options),
    ...(Object.keys(tags).length === 0 ? {} : { tags }),
    ...(options.signal === undefined
      ? {}
      : { signal: options.signal as StartWithOptions["signal"] }),
  };
}

function filterOf(options: Readonly<Record<string, unknown>>): ListFilter {
  const status = options.status as string | undefined;
  const tag = Object.entries((options.tag as Record<string, string> | undefined) ?? {})[0];
  return {
    // The host says which words are statuses.
    status: status?.split(",").map((word) => word.trim().toUpperCase() as RunStatus),
    name: options.name as string | undefined,
    prefix: options.prefix as string | undefined,
    component: options.component as string | undefined,
    tag: tag && { key: tag[0], value: tag[1] },
    limit: options.limit as number,
  };
}

function filterOptions(command: Command): Command {
  return command
    .option("-s, --status <status>", "one or several, with commas")
    .option("-n, --name <name>", "of this workflow")
    .option("--prefix <prefix>", "ids that begin so")
    .option("--component <id>", "on this component, or those whose ids begin so")
    .option("--tag <key=value>", "with this tag", collectTag, undefined);
}

/** Without an id: all that match, but only shown until somebody says yes. */
async function actOnAll(context: VerbContext, verb: BulkAction): Promise<void> {
  const { options, print, client } = context;
  const { reason, yes, ...filter } = options;
  const given = ["status", "name", "prefix", "component", "tag"];
  if (!given.some((name) => filter[name] !== undefined)) {
    throw usage("which runs? give an id, or --status, --name, --prefix, --component or --tag");
  }
  const runs = await client().bulk(verb, filterOf(filter), {
    reason: reason as string | undefined,
    dryRun: yes !== true,
  });
  print.rows(
    runs.map(({ error, ...run }) => ({ ...run, ...(error && { error: error.message }) })),
    ["id", "status", "error"],
  );
  if (yes !== true) throw usage(`${runs.length} runs match; ${verb} them with --yes`);
}
