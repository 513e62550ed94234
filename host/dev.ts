/**
 * `spore dev`: builds, serves and rebuilds on change. What doesn't build is shown with
 * its place in the author's file, and the last code that did goes on serving.
 */
import { readFileSync } from "node:fs";
import { relative } from "node:path";
import pc from "picocolors";
import { defaultUrl } from "../client/index.ts";
import { SporeError } from "../runtime/errors.ts";
import type { Observer } from "../runtime/ports.ts";
import { type BuildResult, entryFile, projectMap, watch } from "./build.ts";
import { type RunningServer, type ServerOptions, startServer } from "./node.ts";
import { SourceMapper } from "./source-maps.ts";

export interface DevOptions extends Omit<ServerOptions, "log"> {
  readonly entry: string;
  /** Where to print. */
  readonly print: (line: string) => void;
}

export interface DevServer extends RunningServer {
  /** Settles when the first build was deployed or has failed. */
  readonly firstBuild: Promise<void>;
}

export async function startDev(options: DevOptions): Promise<DevServer> {
  const { entry, print, ...serverOptions } = options;
  entryFile(entry, process.cwd()); // before anything is started, or a folder made
  const startedMs = performance.now();
  let mapper: SourceMapper | undefined;
  const mapped = (text: string): string => mapper?.mapText(text) ?? text;
  const server = await startServer({ ...serverOptions, log: humanLog(print, mapped) });
  const first = Promise.withResolvers<void>();
  let deployed: string | undefined;
  const onBuild = async (result: BuildResult | SporeError): Promise<void> => {
    try {
      if (result instanceof SporeError) throw result;
      const map = projectMap(result.map, result);
      const id = await deploy(server, result, map);
      mapper = new SourceMapper(map);
      for (const warning of result.warnings) print(pc.yellow(warning));
      if (deployed === undefined) printWelcome(options, server, result, startedMs);
      else if (deployed !== id) print(`${pc.green("✓")} reloaded: new runs take the new code`);
      deployed = id;
    } catch (error) {
      printFailure(print, error, deployed !== undefined);
    } finally {
      first.resolve();
    }
  };
  const stopWatching = await watch(
    { entry, prepare: (source) => server.sandbox.prepare(source) },
    onBuild,
  );
  return {
    ...server,
    firstBuild: first.promise,
    async stop() {
      await stopWatching();
      await server.stop();
    },
  };
}

async function deploy(server: RunningServer, result: BuildResult, map: string): Promise<string> {
  const { prepared, code } = result;
  // An unchanged build was not compiled in this process: its stored bytes save that.
  await server.sandbox.load(prepared.id, prepared.bytes);
  const tenant = server.host.tenant("default");
  // Also of a component that is there: lines move when comments change.
  await server.maps.keep("default", prepared.id, map);
  const current = await tenant.currentComponent();
  if (current?.id === prepared.id) return prepared.id;
  const { id } = await tenant.deploy({ kind: "javascript", code });
  return id;
}

function printWelcome(
  options: DevOptions,
  server: RunningServer,
  result: BuildResult,
  startedMs: number,
): void {
  const { print, entry } = options;
  const { definitions } = result.prepared.manifest;
  const count = (kind: string): string => {
    const number = definitions.filter((each) => each.kind === kind).length;
    return `${number} ${kind}${number === 1 ? "" : "s"}`;
  };
  const tookMs = Math.round(performance.now() - startedMs);
  print("");
  print(`  ${pc.bold("Spore")} is ready in ${tookMs} ms`);
  print("");
  print(`  address   ${pc.cyan(server.url)}`);
  print(`  storage   ${server.storage}`);
  print(
    `  code      ${relative(process.cwd(), entry) || entry}: ` +
      `${count("workflow")}, ${count("step")}, ${count("actor")}`,
  );
  print("");
  print("  Try, in another terminal:");
  for (const line of examples(options, server, result)) print(`    ${line}`);
  print("");
  print(pc.dim("  Watching for changes. Ctrl-C stops; state stays in the storage."));
  print("");
}

const examplesMax = 3;

/**
 * Commands to try: the lines of the entry's first comment that begin with `$ `, else
 * some that fit its definitions.
 */
function examples(
  options: DevOptions,
  server: RunningServer,
  result: BuildResult,
): readonly string[] {
  const isDefault = server.url === defaultUrl;
  const spore = isDefault ? "npx spore" : `SPORE_URL=${server.url} npx spore`;
  const told = toldIn(readFileSync(options.entry, "utf8"))
    .slice(0, examplesMax)
    .map((line) => line.replace(/^npx spore\b/, spore));
  if (told.length > 0) return told;
  const { definitions } = result.prepared.manifest;
  const workflow = definitions.find((each) => each.kind === "workflow");
  const actor = definitions.find((each) => each.kind === "actor");
  const method = actor?.methods?.[0]?.name;
  return [
    ...(workflow === undefined ? [] : [`${spore} run ${workflow.name}`]),
    ...(method === undefined ? [] : [`${spore} actor create ${actor?.name} a`]),
    `${spore} list`,
    `curl ${server.url}/v1/runs`,
  ].slice(0, examplesMax);
}

export function toldIn(source: string): readonly string[] {
  const comment = /^(?:#!.*\n)?\s*(\/\*[\s\S]*?\*\/|(?:\/\/.*\n)+)/.exec(source)?.[1] ?? "";
  return [...comment.matchAll(/^\s*(?:\*|\/\/)\s*\$ (.+)$/gm)].map(
    (match) => match[1]?.trim() ?? "",
  );
}

function printFailure(print: (line: string) => void, error: unknown, isServing: boolean): void {
  const { message, hint } =
    error instanceof SporeError ? error : { message: String(error), hint: "" };
  print(`${pc.red("✗ the code does not build")}`);
  print(message);
  if (hint !== undefined && hint !== "") print(pc.dim(hint));
  print(isServing ? pc.yellow("the last code that built goes on serving") : "waiting for a change");
}

const levels = { debug: 0, info: 1, warn: 2, error: 3 };

/** What guests log has their places in the bundle: `mapped` puts the author's there. */
function humanLog(
  print: (line: string) => void,
  mapped: (text: string) => string,
): Observer["log"] {
  const least = levels[(process.env.SPORE_LOG ?? "warn") as keyof typeof levels] ?? levels.warn;
  return (level, message, fields) => {
    if (levels[level] < least) return;
    const { error, ...rest } = fields;
    const details = Object.keys(rest).length === 0 ? "" : ` ${pc.dim(JSON.stringify(rest))}`;
    const text = fields.run === undefined ? message : mapped(message);
    print(`${level === "error" ? pc.red(level) : level} ${text}${details}`);
    if (error instanceof Error) print(error.stack ?? error.message);
  };
}
