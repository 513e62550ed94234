/**
 * Verbs of a namespace as a whole, with a host or on its storage: garbage, partitions, hosts,
 * checks, copies.
 */
import { type Command, Option } from "commander";
import pc from "picocolors";
import type { GarbageReport } from "../../client/index.ts";
import { SporeError } from "../../runtime/errors.ts";
import type { CheckReport } from "../../runtime/index.ts";
import { type Action, action, type CliPorts, type Verb } from "./verb.ts";

export function addNamespaceVerbs(verb: Verb, ports: CliPorts): void {
  verb("gc", "delete what nothing refers to: objects, components, source maps, segments")
    .option("--dry-run", "say what would be deleted, and delete nothing")
    .option("--storage <uri>", "work on this storage, without a host")
    .action(
      action(ports, async ({ options, print, client }) => {
        const isDryRun = options.dryRun === true;
        const storage = options.storage as string | undefined;
        const { collectStorage } = await import("../keeping.ts");
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
        const { checkStorage } = await import("../keeping.ts");
        const storage = storageOf(options, ports);
        const report = await spin("reading", (say) => checkStorage(storage, say));
        print.result({ ...report }, () => checkLines(report));
        if (report.isSound) return;
        const { damageCount: count } = report;
        const places = `${count} ${count === 1 ? "place" : "places"}`;
        throw new SporeError("storage-damaged", `the storage is damaged in ${places}`);
      }),
    );
  const copyVerb = (name: "export" | "import", text: string): Command =>
    verb(`${name} <uri>`, text).addOption(storageOption());
  const copying = (isExport: boolean): Action =>
    action(ports, async ({ options, print, spin }, uri: string) => {
      const { copyStorage } = await import("../keeping.ts");
      const own = storageOf(options, ports);
      const [from, to] = isExport ? [own, uri] : [uri, own];
      const report = await spin("copying", (say) =>
        copyStorage(from, to, ({ objects, bytes }) => say(`${objects} objects, ${bytes} bytes`)),
      );
      print.result({ ...report }, () => [
        `${pc.green("✓")} copied ${report.objects} objects, ${report.bytes} bytes; checked: ` +
          `${report.runs} runs, ${report.actors} actors, ${report.rows} rows`,
        ...report.damages.map(({ key, what }) => `${pc.yellow("!")} ${key}: ${what}`),
        ...(report.damages.length > 0 ? [notNeeded] : []),
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
        const { examine } = await import("../doctor.ts");
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

const notNeeded = "The copy is whole without these: checkpoints stand for them.";

const defaultStorage = "file:./data";

export function storageOption(): Option {
  return new Option("--storage <uri>", `file:./data, s3://bucket/prefix, memory: (SPORE_STORAGE)`);
}

export function storageOf(options: Readonly<Record<string, unknown>>, ports: CliPorts): string {
  return (options.storage as string | undefined) ?? ports.env.SPORE_STORAGE ?? defaultStorage;
}
