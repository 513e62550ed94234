#!/usr/bin/env node
/**
 * The command line: a table of verbs, one file for each noun beside this one in cli/. A verb
 * is a client call and a printer: a table for people, one JSON document a line with `--json`.
 */
import { readFileSync } from "node:fs";
import { Command } from "commander";
import { addActorVerbs } from "./cli/actors.ts";
import { addComponentVerbs } from "./cli/components.ts";
import { exitCodes, failed } from "./cli/failures.ts";
import { addMessageVerbs } from "./cli/messages.ts";
import { addNamespaceVerbs } from "./cli/namespace.ts";
import { addProjectVerbs } from "./cli/project.ts";
import { addQueueVerbs } from "./cli/queues.ts";
import { addOriginVerbs, addRunVerbs } from "./cli/runs.ts";
import { addScheduleVerbs } from "./cli/schedules.ts";
import { addServeVerb } from "./cli/server.ts";
import { addTokenVerbs } from "./cli/tokens.ts";
import { type CliPorts, verbsOf } from "./cli/verb.ts";
import { packageVersion } from "./own-files.ts";

/** Runs one command line and gives its exit code. */
export async function runCli(argv: readonly string[], ports: CliPorts): Promise<number> {
  try {
    await programOf(ports).parseAsync([...argv], { from: "user" });
    return exitCodes.done;
  } catch (error) {
    return failed(error, ports, argv.includes("--json"));
  }
}

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
  const verb = verbsOf(program);
  addProjectVerbs(verb, ports);
  addServeVerb(verb, ports);
  addNamespaceVerbs(verb, ports);
  addRunVerbs(verb, ports);
  addOriginVerbs(verb, ports);
  addComponentVerbs(verb, ports);
  addMessageVerbs(verb, ports);
  addTokenVerbs(verb, ports);
  addActorVerbs(verb, ports);
  addScheduleVerbs(verb, ports);
  addQueueVerbs(verb, ports);
  return program;
}

if (import.meta.main) {
  // `spore actor events … | head` closes the pipe when it has seen enough.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(exitCodes.done);
    throw error;
  });
  // bin/spore.mjs, whose process id people know, was killed: that was meant for this one.
  process.on("disconnect", () => process.kill(process.pid, "SIGKILL"));
  process.channel?.unref();
  process.exitCode = await runCli(process.argv.slice(2), {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    env: process.env,
    isTty: process.stdout.isTTY === true,
    stdin: () => readFileSync(0, "utf8"),
  });
}
