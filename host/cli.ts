#!/usr/bin/env node
/**
 * The command line: a table of verbs. A verb is a client call and a printer: a table for
 * people, one JSON document a line with `--json`. Exit codes: 0 done, 1 the run failed,
 * 2 wrong usage or no permission, 3 not found, 4 conflict, 5 the host can't do it.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import ora from "ora";
import pc from "picocolors";
import {
  type ActorInfo,
  type BulkAction,
  type Client,
  ClientError,
  createClient,
  type GarbageReport,
  type Handle,
  type ListFilter,
  type Overlap,
  type QueueInfo,
  type Runnable,
  type RunStatus,
  type Schedule,
  type ScheduleInfo,
  type StartWithOptions,
} from "../client/index.ts";
import { parseJson, valueOfJson } from "../client/json.ts";
import { SporeError } from "../runtime/errors.ts";
import type { CheckReport } from "../runtime/index.ts";
import type { Sandbox } from "../runtime/ports.ts";
import type { EdgeBuildResult } from "./edge-build.ts";
import { packageVersion } from "./own-files.ts";
import { errorLines, printer } from "./print.ts";
import { parseDuration } from "./waits.ts";

export const exitCodes = Object.freeze({
  done: 0,
  runFailed: 1,
  usage: 2,
  notFound: 3,
  conflict: 4,
  unavailable: 5,
});

export interface CliPorts {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly isTty: boolean;
  /** Whole standard input. */
  readonly stdin: () => string;
  /** Default: a client over fetch. */
  readonly connect?:
    | ((options: { url: string; apiKey?: string; attemptsMax: number }) => Client)
    | undefined;
}

/** A person waits: a host that is away is reported after a second or so. */
const attemptsMax = 3;

interface GlobalOptions {
  readonly json?: boolean;
  readonly url?: string;
  readonly key?: string;
}

/** Runs one command line and gives its exit code. */
export async function runCli(argv: readonly string[], ports: CliPorts): Promise<number> {
  try {
    await programOf(ports).parseAsync([...argv], { from: "user" });
    return exitCodes.done;
  } catch (error) {
    return failed(error, ports, argv.includes("--json"));
  }
}

function failed(error: unknown, ports: CliPorts, isJson: boolean): number {
  if (error instanceof CommanderError) {
    const isHelp = error.exitCode === 0;
    return isHelp ? exitCodes.done : exitCodes.usage;
  }
  const code = exitCodeOf(error);
  const shown = error instanceof Error ? error : new Error(String(error));
  const details = describe(shown);
  if (isJson) {
    ports.err(`${JSON.stringify({ error: details, exitCode: code })}\n`);
    return code;
  }
  const lines = isUserError(shown)
    ? errorLines(shown)
    : [`${pc.red("✗")} ${details.message}`, ...causeLines(shown)];
  for (const line of lines) ports.err(`${line}\n`);
  if (details.hint !== undefined && details.hint !== "") ports.err(`  ${pc.dim(details.hint)}\n`);
  return code;
}

/** A run's or a method's own error, as the client rejects with it. */
function isUserError(error: Error): boolean {
  return !(error instanceof ClientError || error instanceof SporeError || isSystemError(error));
}

/** What the host's refusal was caused by, where that is the user's own error. */
function causeLines(error: Error): readonly string[] {
  const { cause } = error;
  const isOwn = error instanceof ClientError && cause instanceof Error && "frame" in cause;
  return isOwn ? errorLines(cause) : [];
}

interface Described {
  readonly name: string;
  readonly message: string;
  readonly code?: string;
  readonly hint?: string;
  readonly stack?: string;
  readonly frame?: unknown;
  readonly cause?: Described;
}

/** Everything, for `--json`; stacks of user errors only. */
function describe(error: Error): Described {
  const text = (key: string): object => {
    const value: unknown = Reflect.get(error, key);
    return typeof value === "string" ? { [key]: value } : {};
  };
  const { name, message, cause } = error;
  const frame: unknown = Reflect.get(error, "frame");
  const own = isUserError(error)
    ? { ...text("stack"), ...(frame === undefined ? {} : { frame }) }
    : {};
  const isShown = cause instanceof Error && isUserError(cause);
  const caused = isShown ? { cause: describe(cause) } : {};
  return { name, message, ...text("code"), ...text("hint"), ...own, ...caused };
}

/** A file that isn't there or may not be written: what was asked for can't be. */
function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && "syscall" in error && "code" in error;
}

export function exitCodeOf(error: unknown): number {
  if (isSystemError(error)) return exitCodes.usage;
  if (!(error instanceof ClientError) && !(error instanceof SporeError)) return exitCodes.runFailed;
  const failures = ["run-canceled", "build-failed", "storage-damaged"];
  if (failures.includes(error.code)) return exitCodes.runFailed;
  switch (error.kind) {
    case "invalid":
    case "denied":
      return exitCodes.usage;
    case "missing":
      return exitCodes.notFound;
    case "conflict":
      return exitCodes.conflict;
    // The host couldn't do it: nothing is said about the run.
    default:
      return exitCodes.unavailable;
  }
}

// ---------------------------------------------------------------- the table of verbs

const defaultStorage = "file:./data";

function programOf(ports: CliPorts): Command {
  const program = new Command("spore");
  program
    .description("Durable workflows and virtual actors, with a bucket as the only dependency.")
    .version(packageVersion())
    .exitOverride()
    .configureOutput({ writeOut: ports.out, writeErr: ports.err })
    .showHelpAfterError("(spore help lists the commands)")
    .option("--json", "one JSON document a line")
    .option("--url <url>", "the host to talk to (SPORE_URL)")
    .option("--key <key>", "API key (SPORE_API_KEY)");
  const verb = (usage: string, description: string): Command =>
    program
      .command(usage)
      .description(description)
      .exitOverride()
      .addOption(new Option("--json").hideHelp())
      .addOption(new Option("--url <url>").hideHelp())
      .addOption(new Option("--key <key>").hideHelp());
  addProjectVerbs(verb, ports);
  addRunVerbs(verb, ports);
  addOriginVerbs(verb, ports);
  addVersionVerbs(verb, ports);
  addMessageVerbs(verb, ports);
  addTokenVerbs(verb, ports);
  addActorVerbs(verb, ports);
  addScheduleVerbs(verb, ports);
  addQueueVerbs(verb, ports);
  return program;
}

type Verb = (usage: string, description: string) => Command;

function addProjectVerbs(verb: Verb, ports: CliPorts): void {
  verb("init [folder]", "write a small project that works").action(
    action(ports, async ({ print }, folder?: string) => {
      const { init } = await import("./init.ts");
      print.result(init(folder ?? "."), (made) => [
        ...made.files.map((file) => `${pc.green("+")} ${file}`),
        "",
        `Next: ${made.next}`,
      ]);
    }),
  );
  serverOptions(verb("dev [entry]", "build, serve and reload on change")).action(
    action(ports, async ({ options }, entry?: string) => {
      const { startDev } = await import("./dev.ts");
      const { stopOnSignals } = await import("./node.ts");
      const print = (line: string): void => ports.out(`${line}\n`);
      const given = serverOf(options, ports);
      const server = await startDev({ ...given, entry: entryOf(entry), print });
      stopOnSignals(server.stop);
      await untilStopped();
    }),
  );
  verb("build [entry]", "build the component into .spore")
    .option("--edge", "build a Worker into .spore/edge, with the component if an entry is given")
    .action(
      action(ports, async ({ print, options }, entry?: string) => {
        if (options.edge === true) {
          const worker = await buildWorker(entry, ports);
          print.result(worker, () => [
            `${pc.green("✓")} a Worker with engine ${worker.engine.slice(0, 16)} in ${relative(process.cwd(), worker.outDir)}`,
            ...worker.files.map(({ name, bytes }) => fileLine(name, bytes)),
          ]);
          return;
        }
        const built = await withBuild(entryOf(entry), ports, async (result) => result);
        const { prepared, outDir, bundleMs, compileMs, isUnchanged } = built;
        const { definitions } = prepared.manifest;
        const files = builtFiles(outDir);
        print.result({ id: prepared.id, outDir, isUnchanged, files, definitions }, () => [
          `${pc.green("✓")} ${prepared.id.slice(0, 16)}  ${definitions.length} definitions` +
            (isUnchanged ? " (unchanged)" : ` (${Math.round(bundleMs + compileMs)} ms)`),
          ...files.map(
            ({ name, bytes, what }) =>
              `${fileLine(join(relative(process.cwd(), outDir), name), bytes)}  ${pc.dim(what)}`,
          ),
        ]);
      }),
    );
  verb("deploy [entry]", "build and deploy; a .wasm or .js bundle is sent as it is").action(
    action(ports, async ({ print, client }, entry?: string) => {
      const deployed = await client().deploy(await deployable(entryOf(entry), ports));
      print.result(deployed, () => [
        `${pc.green("✓")} deployed ${deployed.id}`,
        ...deployed.definitions.map((each) => `  ${each.kind.padEnd(9)} ${each.name}`),
      ]);
    }),
  );
  serverOptions(verb("serve", "serve a storage"))
    .option("--keys <file>", "JSON file of API keys: [{ tenant, sha256, isOperator? }]")
    .action(
      action(ports, async ({ options, print }) => {
        const { startServer, stopOnSignals } = await import("./node.ts");
        const { parseTenantKeys } = await import("./tenants.ts");
        const file = options.keys;
        const json = typeof file === "string" ? readFileSync(file, "utf8") : ports.env.SPORE_KEYS;
        const keys = json === undefined ? [] : parseTenantKeys(json);
        const server = await startServer({ ...serverOf(options, ports), keys });
        stopOnSignals(server.stop);
        print.result({ url: server.url, storage: server.storage }, () => [
          `Spore serves ${server.storage} at ${server.url}`,
        ]);
        await untilStopped();
      }),
    );
  verb("gc", "delete what nothing refers to: objects, components, source maps, segments")
    .option("--dry-run", "say what would be deleted, and delete nothing")
    .option("--storage <uri>", "work on this storage, without a host")
    .action(
      action(ports, async ({ options, print, client }) => {
        const isDryRun = options.dryRun === true;
        const storage = options.storage as string | undefined;
        const { collectStorage } = await import("./keeping.ts");
        const report =
          storage === undefined
            ? await client().collectGarbage({ dryRun: isDryRun })
            : await collectStorage(storage, { isDryRun });
        print.result({ ...report }, () => garbageLines(report));
      }),
    );
  verb("partitions <count>", "put the namespace into so many partitions, while it serves").action(
    action(ports, async ({ print, client, spin }, text: string) => {
      const count = Number(text);
      const cluster = await spin("copying", () => client().setPartitions(count));
      print.result({ ...cluster }, () => [`${cluster.partitions} partitions`]);
    }),
  );
  verb("verify", "read all of a storage and say what is damaged; exit code 1 if something is")
    .addOption(storageOption())
    .action(
      action(ports, async ({ options, print, spin }) => {
        const { checkStorage } = await import("./keeping.ts");
        const storage = storageOf(options, ports);
        const report = await spin("reading", (say) => checkStorage(storage, say));
        print.result({ ...report }, () => checkLines(report));
        if (report.isSound) return;
        throw new SporeError("storage-damaged", `${report.damageCount} damages were found`);
      }),
    );
  const copyVerb = (name: "export" | "import", text: string): Command =>
    verb(`${name} <uri>`, text).addOption(storageOption());
  const copying = (isExport: boolean): Action =>
    action(ports, async ({ options, print, spin }, uri: string) => {
      const { copyStorage } = await import("./keeping.ts");
      const own = storageOf(options, ports);
      const [from, to] = isExport ? [own, uri] : [uri, own];
      const report = await spin("copying", (say) =>
        copyStorage(from, to, ({ objects, bytes }) => say(`${objects} objects, ${bytes} bytes`)),
      );
      print.result({ ...report }, () => [
        `${pc.green("✓")} copied ${report.objects} objects, ${report.bytes} bytes; checked: ` +
          `${report.runs} runs, ${report.actors} actors, ${report.rows} rows`,
      ]);
    });
  copyVerb("export", "copy a whole namespace into another, empty storage").action(copying(true));
  copyVerb("import", "copy the namespace of another storage into this, empty one").action(
    copying(false),
  );
  verb("hosts", "the hosts of a namespace, and which partitions each serves").action(
    action(ports, async ({ print, client }) => {
      const { hosts } = await client().cluster();
      const rows = hosts.map(({ hostId, address, state, partitions }) => ({
        host: hostId,
        address,
        state,
        partitions: partitions.join(" "),
      }));
      print.rows(rows, ["host", "address", "state", "partitions"]);
    }),
  );
  verb("doctor", "check a storage: conditional creates, races, latency, permissions, clock")
    .addOption(storageOption())
    .action(
      action(ports, async ({ options, print }) => {
        const { examine } = await import("./doctor.ts");
        const checks = await examine(storageOf(options, ports));
        print.rows(checks, ["check", "result", "details"]);
        const bad = checks.find((check) => check.result === "failed");
        if (bad !== undefined)
          throw new SporeError("store-unavailable", `${bad.check}: ${bad.details}`);
      }),
    );
}

function checkLines(report: CheckReport): readonly string[] {
  const { partitions, entries, segments, rows, runs, actors, images, components, objects } = report;
  const read =
    `${partitions} partitions, ${entries} log entries, ${segments} segments, ${rows} rows, ` +
    `${runs} runs, ${actors} actors, ${images} images, ${components} components, ${objects} objects`;
  const damages = report.damages.map(({ key, what, touches }) => {
    const who = touches === undefined ? "" : ` (${touches.join(" … ")})`;
    return `${pc.red("✗")} ${key}: ${what}${who}`;
  });
  return [report.isSound ? `${pc.green("✓")} sound: ${read}` : read, ...damages];
}

function garbageLines(report: GarbageReport): readonly string[] {
  const kinds = ["objects", "components", "maps", "segments"] as const;
  const lines = kinds.map((kind) => {
    const { count, bytes } = report[kind];
    return `  ${kind.padEnd(10)} ${String(count).padStart(8)}  ${bytes} bytes`;
  });
  const verbText = report.isDryRun ? "would be deleted" : "deleted";
  const later = report.condemned === 0 ? [] : [`  ${report.condemned} components to go next time`];
  return [`${verbText}:`, ...lines, ...later];
}

function addRunVerbs(verb: Verb, ports: CliPorts): void {
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
function addOriginVerbs(verb: Verb, ports: CliPorts): void {
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

/** What is deployed, and who runs what. */
function addVersionVerbs(verb: Verb, ports: CliPorts): void {
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

function addMessageVerbs(verb: Verb, ports: CliPorts): void {
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

function addActorVerbs(verb: Verb, ports: CliPorts): void {
  const actor = verb("actor", "create, call, look at and delete actors");
  const sub = (usage: string, text: string): Command =>
    actor
      .command(usage)
      .description(text)
      .exitOverride()
      .addOption(new Option("--json").hideHelp())
      .addOption(new Option("--url <url>").hideHelp())
      .addOption(new Option("--key <key>").hideHelp());
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
      action(ports, async ({ options, print, client }, type: string, key?: string) => {
        const prefix = options.prefix as string | undefined;
        if (prefix !== undefined && key !== undefined) throw usage("a key or a prefix, not both");
        const component = options.component as string | undefined;
        const asked = await client().upgradeActors({ type, key, prefix, component });
        print.result(asked, () => [`${pc.green("✓")} ${asked.requested} asked to upgrade`]);
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

const overlaps = [
  "skip",
  "buffer-one",
  "buffer-all",
  "cancel-other",
  "terminate-other",
  "allow-all",
] as const satisfies readonly Overlap[];

function overlapOption(): Option {
  return new Option("--overlap <policy>", "if an earlier run goes on").choices(overlaps);
}

function addScheduleVerbs(verb: Verb, ports: CliPorts): void {
  const schedule = verb("schedule", "run workflows again and again");
  const sub = (usage: string, text: string): Command =>
    schedule
      .command(usage)
      .description(text)
      .exitOverride()
      .addOption(new Option("--json").hideHelp())
      .addOption(new Option("--url <url>").hideHelp())
      .addOption(new Option("--key <key>").hideHelp());
  inputOptions(sub("create <id> <workflow> [args...]", "run a workflow by cron or at an interval"))
    .option("--cron <expression>", '"0 9 * * MON-FRI"')
    .option("--zone <zone>", "of the expression, such as Europe/Berlin; default UTC")
    .option("--every <duration>", "instead of cron: such as 30s or 1h", duration)
    .option("--offset <duration>", "with --every: so much later", duration)
    .option("--start <time>", "not before; an ISO time, or a duration from now", instant)
    .option("--end <time>", "not after; the same", instant)
    .option("--jitter <duration>", "up to so much later", duration)
    .addOption(overlapOption())
    .option("--catch-up <duration>", "how old a slot may be that nobody was there for", duration)
    .option("--pause-on-failure", "until resumed")
    .option("--remaining <count>", "so many runs, then no more", wholeNumber)
    .option("--tag <key=value>", "tag the runs (repeatable)", collectTag, undefined)
    .option("--note <text>", "for people")
    .option("--paused", "begin paused")
    .option("--replace", "if there is one of that id")
    .action(
      action(
        ports,
        async ({ options, print, client }, id: string, workflow: string, words: string[]) => {
          const given = scheduleOf(options, { workflow, args: readArgs(words, options, ports) });
          const { schedules } = client();
          const made = await (options.replace === true
            ? schedules.put(id, given)
            : schedules.create(id, given));
          print.result(made, () => [`${pc.green("✓")} ${id}, ${nextOf(made)}`]);
        },
      ),
    );
  sub("list", "list schedules, by id").action(
    action(ports, async ({ print, client }) => {
      const all: object[] = [];
      for await (const each of client().schedules.list()) {
        const when = each.cron ?? `${each.everyMs} ms`;
        all.push({ ...each, when, next: each.next[0], last: each.runs[0]?.result });
      }
      print.rows(all, ["id", "workflow", "when", "paused", "next", "last", "started", "missed"]);
    }),
  );
  sub("get <id>", "a schedule, its next times and its last runs").action(
    action(ports, async ({ print, client }, id: string) => {
      print.record(await client().schedules.get(id));
    }),
  );
  for (const name of ["pause", "resume"] as const) {
    sub(`${name} <id>`, name === "pause" ? "let no slot begin" : "go on with the next slot")
      .option("--note <text>", "why")
      .action(
        action(ports, async ({ options, print, client }, id: string) => {
          const changed = await client().schedules[name](id, options.note as string | undefined);
          print.result(changed, () => [`${pc.green("✓")} ${id}, ${nextOf(changed)}`]);
        }),
      );
  }
  sub("trigger <id>", "one run now")
    .addOption(overlapOption())
    .action(
      action(ports, async ({ options, print, client }, id: string) => {
        const overlap = options.overlap as Overlap | undefined;
        const changed = await client().schedules.trigger(id, overlap && { overlap });
        print.result(changed, () => [`${pc.green("✓")} ${id} triggered`]);
      }),
    );
  sub("backfill <id> <from> <to>", "run the slots of a range in the past")
    .addOption(overlapOption())
    .option("--preview", "only count them")
    .action(
      action(ports, async ({ options, print, client }, id: string, from: string, to: string) => {
        const preview = options.preview === true;
        const overlap = options.overlap as Overlap | undefined;
        const range = { from: instant(from), to: instant(to), overlap, preview };
        const found = await client().schedules.backfill(id, range);
        const text = `${found.slots} slots of ${id} ${preview ? "lie there" : "will be run"}`;
        print.result(found, () => [`${pc.green("✓")} ${text}`]);
      }),
    );
  sub("delete <id>", "forget a schedule; its runs go on").action(
    action(ports, async ({ print, client }, id: string) => {
      await client().schedules.delete(id);
      print.result({ id, deleted: true }, () => [`${pc.green("✓")} ${id} is gone`]);
    }),
  );
}

function addTokenVerbs(verb: Verb, ports: CliPorts): void {
  const tokens = verb("tokens", "events that somebody outside decides by a token");
  const sub = (usage: string, text: string): Command =>
    tokens
      .command(usage)
      .description(text)
      .exitOverride()
      .addOption(new Option("--json").hideHelp())
      .addOption(new Option("--url <url>").hideHelp())
      .addOption(new Option("--key <key>").hideHelp());
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

function addQueueVerbs(verb: Verb, ports: CliPorts): void {
  const queue = verb("queue", "how many runs go on at a time, and how fast they begin");
  const sub = (usage: string, text: string): Command =>
    queue
      .command(usage)
      .description(text)
      .exitOverride()
      .addOption(new Option("--json").hideHelp())
      .addOption(new Option("--url <url>").hideHelp())
      .addOption(new Option("--key <key>").hideHelp());
  sub("list", "list queues, by name").action(
    action(ports, async ({ print, client }) => {
      const all: object[] = [];
      for await (const each of client().queues.list()) all.push({ ...each, rate: rateOf(each) });
      const columns = ["name", "running", "concurrency", "keyConcurrency", "rate", "waiting"];
      print.rows(all, [...columns, "maxPending", "admitted"]);
    }),
  );
  sub("get <name>", "a queue: its limits, who runs, and who waits").action(
    action(ports, async ({ print, client }, name: string) => {
      print.record(await client().queues.get(name));
    }),
  );
  sub("set <name>", "set all its limits; those that aren't given are off")
    .option("--concurrency <count>", "runs at a time", wholeNumber)
    .option("--key-concurrency <count>", "runs with the same key at a time", wholeNumber)
    .option("--rate <limit/duration>", "that many begin in each such time: 10/1s", rate)
    .option("--burst <count>", "with --rate: at once after a pause", wholeNumber)
    .option("--max-pending <count>", "runs that may wait", wholeNumber)
    .action(
      action(ports, async ({ options, print, client }, name: string) => {
        const given = options.rate as { limit: number; periodMs: number } | undefined;
        const burst = options.burst as number | undefined;
        if (burst !== undefined && given === undefined) throw usage("--burst goes with --rate");
        const changed = await client().queues.put(name, {
          concurrency: options.concurrency as number | undefined,
          keyConcurrency: options.keyConcurrency as number | undefined,
          rate: given && { ...given, ...(burst === undefined ? {} : { burst }) },
          maxPending: options.maxPending as number | undefined,
        });
        const text = `${changed.running} run, ${changed.waiting} wait`;
        print.result(changed, () => [`${pc.green("✓")} ${name}: ${text}`]);
      }),
    );
  sub("delete <name>", "back to what the code declares, or forget it").action(
    action(ports, async ({ print, client }, name: string) => {
      await client().queues.delete(name);
      print.result({ name, deleted: true }, () => [`${pc.green("✓")} ${name} is as declared`]);
    }),
  );
}

function rateOf({ rate: given }: QueueInfo): string | undefined {
  return given && `${given.limit}/${given.periodMs}ms`;
}

function rate(text: string): { limit: number; periodMs: number } {
  const [, limit, per = ""] = /^(\d{1,9})\/(.+)$/.exec(text) ?? [];
  const periodMs = parseDuration(per);
  if (limit !== undefined && periodMs !== undefined && periodMs >= 1) {
    return { limit: Number(limit), periodMs };
  }
  throw new InvalidArgumentError("a rate such as 10/1s or 100/1m");
}

function priorityOf(text: string): number {
  if (/^-?\d{1,4}$/.test(text)) return Number(text);
  throw new InvalidArgumentError("a whole number from -1000 to 1000");
}

function scheduleOf(options: Readonly<Record<string, unknown>>, run: Schedule["run"]): Schedule {
  return {
    run,
    cron: options.cron as string | undefined,
    zone: options.zone as string | undefined,
    everyMs: options.every as number | undefined,
    offsetMs: options.offset as number | undefined,
    start: options.start as Date | undefined,
    end: options.end as Date | undefined,
    jitterMs: options.jitter as number | undefined,
    overlap: options.overlap as Overlap | undefined,
    catchUpMs: options.catchUp as number | undefined,
    pauseOnFailure: options.pauseOnFailure as boolean | undefined,
    remaining: options.remaining as number | undefined,
    tags: options.tag as Readonly<Record<string, string>> | undefined,
    note: options.note as string | undefined,
    paused: options.paused as boolean | undefined,
  };
}

function nextOf({ paused, next }: ScheduleInfo): string {
  if (paused) return "paused";
  return next[0] === undefined ? "no more slots" : `next at ${next[0]}`;
}

// ---------------------------------------------------------------- what verbs share

interface VerbContext {
  readonly options: Readonly<Record<string, unknown>>;
  readonly print: ReturnType<typeof printer>;
  client(): Client;
  /** Progress on standard error, for people only. */
  /** Shows that something is going on, and what, if `work` says so. */
  spin<Result>(
    text: string,
    work: (say: (detail: string) => void) => Promise<Result>,
  ): Promise<Result>;
}

type Action = (...args: unknown[]) => Promise<void>;

/** Commander's actions get the arguments, the options and the command; ours get a context first. */
function action<Args extends readonly (string | string[] | undefined)[]>(
  ports: CliPorts,
  run: (context: VerbContext, ...args: Args) => Promise<void>,
): Action {
  return async (...given) => {
    const command = given.at(-1) as Command;
    const options = command.optsWithGlobals<GlobalOptions & Record<string, unknown>>();
    const isJson = options.json === true;
    // Commander checked their number and made strings of them.
    const args = given.slice(0, -2) as unknown as Args;
    const connect = ports.connect ?? createClient;
    const context: VerbContext = {
      options,
      print: printer({ out: ports.out, isJson, isTty: ports.isTty }),
      client: () => {
        const apiKey = options.key ?? ports.env.SPORE_API_KEY;
        const url = options.url ?? ports.env.SPORE_URL ?? "http://127.0.0.1:7070";
        if (!/^https?:$/.test(URL.parse(url)?.protocol ?? "")) {
          throw usage(`${url} is not a URL that begins with http:// or https://`);
        }
        return connect({ url, attemptsMax, ...(apiKey === undefined ? {} : { apiKey }) });
      },
      async spin(text, work) {
        const spinner =
          ports.isTty && !isJson ? ora({ text, stream: process.stderr }).start() : undefined;
        try {
          return await work((detail) => {
            if (spinner !== undefined) spinner.text = `${text}: ${detail}`;
          });
        } finally {
          spinner?.stop();
        }
      },
    };
    await run(context, ...args);
  };
}

function inputOptions(command: Command): Command {
  return command.option("-i, --input <file>", "JSON arguments from a file; - is standard input");
}

/**
 * Arguments as people type them: JSON where it is JSON, else text; `key=value` words make
 * one object of them.
 */
export function readArgs(
  words: readonly string[],
  options: Readonly<Record<string, unknown>>,
  ports: Pick<CliPorts, "stdin">,
): readonly unknown[] {
  const file = options.input;
  if (typeof file === "string") {
    const bytes = file === "-" ? new TextEncoder().encode(ports.stdin()) : readFileSync(file);
    const value = valueOfJson(parseJson(bytes));
    const list = Array.isArray(value) ? value : [value];
    return [...list, ...readWords(words)];
  }
  return readWords(words);
}

function readWords(words: readonly string[]): readonly unknown[] {
  const pairs = words.map((word) => /^([A-Za-z_][\w.-]*)=([\s\S]*)$/.exec(word));
  if (words.length > 0 && pairs.every((pair) => pair !== null)) {
    const entries = pairs.map((pair) => [pair?.[1] ?? "", readWord(pair?.[2] ?? "")]);
    return [Object.fromEntries(entries)];
  }
  return words.map(readWord);
}

function readWord(word: string): unknown {
  let json: unknown;
  try {
    json = JSON.parse(word);
  } catch (error) {
    // Not JSON: it is text, as in `spore run greet Ada`. What begins like an object or an array
    // was meant as one.
    if (!/^\s*[{[]/.test(word)) return word;
    throw new SporeError("invalid-request", `${word} is not JSON: ${(error as Error).message}`, {
      hint: "put it in single quotes for the shell; text goes as JSON: '\"[draft]\"'",
    });
  }
  return valueOfJson(json);
}

/** `name=value` as a signal; without a value it is undefined. */
function namedValue(word: string): { readonly name: string; readonly value?: unknown } {
  const at = word.indexOf("=");
  return at < 0 ? { name: word } : { name: word.slice(0, at), value: readWord(word.slice(at + 1)) };
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
    ...queueOptionsOf(options),
    ...(Object.keys(tags).length === 0 ? {} : { tags }),
    ...(options.signal === undefined
      ? {}
      : { signal: options.signal as StartWithOptions["signal"] }),
  };
}

function queueOptionsOf(
  options: Readonly<Record<string, unknown>>,
): Pick<StartWithOptions, "queue"> {
  const name = options.queue as string | undefined;
  const key = options.queueKey as string | undefined;
  const priority = options.priority as number | undefined;
  const isGiven = name !== undefined || key !== undefined || priority !== undefined;
  return isGiven ? { queue: { name, key, priority } } : {};
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

function collectTag(pair: string, tags: Record<string, string> = {}): Record<string, string> {
  const at = pair.indexOf("=");
  if (at <= 0) throw new InvalidArgumentError("write key=value");
  return { ...tags, [pair.slice(0, at)]: pair.slice(at + 1) };
}

function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError("a whole number");
  return Number(text);
}

function portNumber(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) > 65_535) {
    throw new InvalidArgumentError("a number from 0 to 65535");
  }
  return Number(text);
}

function duration(text: string): number {
  const durationMs = parseDuration(text);
  if (durationMs === undefined)
    throw new InvalidArgumentError("a duration such as 500ms, 30s or 2m");
  return durationMs;
}

function instant(text: string): Date {
  const durationMs = parseDuration(text);
  const at = new Date(durationMs === undefined ? text : Date.now() + durationMs);
  // A date without a time, or without a zone, would mean another moment elsewhere.
  const isExact = durationMs !== undefined || /T.*(?:Z|[+-]\d\d:?\d\d)$/.test(text);
  if (isExact && !Number.isNaN(at.getTime())) return at;
  throw new InvalidArgumentError("a time such as 2030-01-31T12:00:00Z, or a duration such as 30s");
}

function storageOption(): Option {
  return new Option("--storage <uri>", `file:./data, s3://bucket/prefix, memory: (SPORE_STORAGE)`);
}

function storageOf(options: Readonly<Record<string, unknown>>, ports: CliPorts): string {
  return (options.storage as string | undefined) ?? ports.env.SPORE_STORAGE ?? defaultStorage;
}

function serverOptions(command: Command): Command {
  return command
    .addOption(storageOption())
    .option("-p, --port <port>", "where to listen (SPORE_PORT)", portNumber)
    .option("--host <address>", "address to listen on; others than loopback need keys")
    .option("--retention <duration>", "delete runs this long after they have closed", duration)
    .option("--advertise <url>", "where other hosts reach this one (SPORE_ADVERTISE)");
}

function serverOf(options: Readonly<Record<string, unknown>>, ports: CliPorts) {
  const { SPORE_PORT = "" } = ports.env;
  if (!/^\d{0,5}$/.test(SPORE_PORT)) throw usage(`SPORE_PORT is ${SPORE_PORT}, not a port`);
  const fromEnv = SPORE_PORT === "" ? undefined : Number(SPORE_PORT);
  const { SPORE_PUBLIC_URL: publicUrl = "" } = ports.env;
  return {
    storage: storageOf(options, ports),
    engine: {
      ...(publicUrl === "" ? {} : { publicUrl: publicUrl.replace(/\/+$/, "") }),
      retentionMs: options.retention as number | undefined,
    },
    port: (options.port as number | undefined) ?? fromEnv,
    hostname: options.host as string | undefined,
    advertise: (options.advertise as string | undefined) ?? ports.env.SPORE_ADVERTISE,
  };
}

function entryOf(entry: string | undefined): string {
  return entry ?? "index.ts";
}

async function withBuild<Result>(
  entry: string,
  ports: CliPorts,
  use: (result: import("./build.ts").BuildResult) => Promise<Result>,
): Promise<Result> {
  const { build } = await import("./build.ts");
  const { createThreadSandbox } = await import("./sandbox/threads.ts");
  const sandbox = await createThreadSandbox({ threads: 1 });
  try {
    const prepare: Sandbox["prepare"] = (source) => sandbox.prepare(source);
    const result = await build({ entry, prepare, needsComponent: true });
    for (const warning of result.warnings) ports.err(`${pc.yellow(warning)}\n`);
    return await use(result);
  } finally {
    await sandbox.close();
  }
}

const fileUses: Readonly<Record<string, string>> = {
  "component.wasm": "WebAssembly component, for any host (spore deploy, PUT /v1/components)",
  "bundle.js": "the same as one ES module",
  "bundle.js.map": "its source map",
  "component.bin": "compiled memory, for this machine's next start",
  "manifest.json": "definitions",
};

function builtFiles(outDir: string): { name: string; bytes: number; what: string }[] {
  return Object.entries(fileUses).map(([name, what]) => {
    const { size } = statSync(join(outDir, name));
    return { name, bytes: size, what };
  });
}

function fileLine(name: string, bytes: number): string {
  return `  ${name.padEnd(24)} ${`${Math.ceil(bytes / 1024)} KB`.padStart(8)}`;
}

/** The Worker's folder; with a component in it if an entry is given. */
async function buildWorker(entry: string | undefined, ports: CliPorts): Promise<EdgeBuildResult> {
  const { buildEdge } = await import("./edge-build.ts");
  if (entry === undefined) return buildEdge();
  return withBuild(entry, ports, ({ prepared, code }) =>
    buildEdge({ component: { id: prepared.id, code, stored: prepared.bytes } }),
  );
}

/** A component has its source map in it; a bundle gets the one that lies beside it. */
async function deployable(entry: string, ports: CliPorts): Promise<Uint8Array | string> {
  if (entry.endsWith(".wasm")) return new Uint8Array(readFileSync(entry));
  if (!entry.endsWith("bundle.js")) {
    const { deployableBundle } = await import("./build.ts");
    return withBuild(entry, ports, async (built) => deployableBundle(built.code, built.map, built));
  }
  const code = readFileSync(entry, "utf8");
  const mapFile = `${entry}.map`;
  if (!existsSync(mapFile)) return code;
  const { deployableBundle } = await import("./build.ts");
  const folders = { outDir: resolve(dirname(entry)), cwd: process.cwd() };
  try {
    return deployableBundle(code, readFileSync(mapFile, "utf8"), folders);
  } catch {
    ports.err(`${pc.yellow(`${mapFile} is no source map; the bundle goes without it`)}\n`);
    return code;
  }
}

function usage(message: string): SporeError {
  return new SporeError("invalid-request", message);
}

/** A signal ends the process. */
function untilStopped(): Promise<never> {
  return new Promise(() => undefined);
}

if (import.meta.main) {
  // `spore actor events … | head` closes the pipe when it has seen enough.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(exitCodes.done);
    throw error;
  });
  process.exitCode = await runCli(process.argv.slice(2), {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    env: process.env,
    isTty: process.stdout.isTTY === true,
    stdin: () => readFileSync(0, "utf8"),
  });
}
