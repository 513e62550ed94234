/**
 * Verbs of a project's folder: making one, serving it while one writes it, building its
 * component, deploying it.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import pc from "picocolors";
import type { Sandbox } from "../../runtime/ports.ts";
import type { EdgeBuildResult } from "../edge-build.ts";
import { serverOf, serverOptions, untilStopped } from "./server.ts";
import { action, type CliPorts, type Verb } from "./verb.ts";

export function addProjectVerbs(verb: Verb, ports: CliPorts): void {
  verb("init [folder]", "write a small project that works").action(
    action(ports, async ({ print }, folder?: string) => {
      const { init } = await import("../init.ts");
      print.result(init(folder ?? "."), (made) => [
        ...made.files.map((file) => `${pc.green("+")} ${file}`),
        "",
        `Next: ${made.next}`,
      ]);
    }),
  );
  serverOptions(verb("dev [entry]", "build, serve and reload on change")).action(
    action(ports, async ({ options }, entry?: string) => {
      const { startDev } = await import("../dev.ts");
      const { stopOnSignals } = await import("../node.ts");
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
}

function entryOf(entry: string | undefined): string {
  return entry ?? "index.ts";
}

async function withBuild<Result>(
  entry: string,
  ports: CliPorts,
  use: (result: import("../build.ts").BuildResult) => Promise<Result>,
): Promise<Result> {
  const { build } = await import("../build.ts");
  const { createThreadSandbox } = await import("../sandbox/threads.ts");
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
  const { buildEdge } = await import("../edge-build.ts");
  if (entry === undefined) return buildEdge();
  return withBuild(entry, ports, ({ prepared, code }) =>
    buildEdge({ component: { id: prepared.id, code, stored: prepared.bytes } }),
  );
}

/** A component has its source map in it; a bundle gets the one that lies beside it. */
async function deployable(entry: string, ports: CliPorts): Promise<Uint8Array | string> {
  if (entry.endsWith(".wasm")) return new Uint8Array(readFileSync(entry));
  if (!entry.endsWith("bundle.js")) {
    const { deployableBundle } = await import("../build.ts");
    return withBuild(entry, ports, async (built) => deployableBundle(built.code, built.map, built));
  }
  const code = readFileSync(entry, "utf8");
  const mapFile = `${entry}.map`;
  if (!existsSync(mapFile)) return code;
  const { deployableBundle } = await import("../build.ts");
  const folders = { outDir: resolve(dirname(entry)), cwd: process.cwd() };
  try {
    return deployableBundle(code, readFileSync(mapFile, "utf8"), folders);
  } catch {
    ports.err(`${pc.yellow(`${mapFile} is no source map; the bundle goes without it`)}\n`);
    return code;
  }
}
