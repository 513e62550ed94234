/**
 * Serving a storage, and what `dev` and `serve` have in common.
 */
import { readFileSync } from "node:fs";
import type { Command } from "commander";
import { duration, guestMemory, portNumber } from "./arguments.ts";
import { usage } from "./failures.ts";
import { storageOf, storageOption } from "./namespace.ts";
import { action, type CliPorts, type Verb } from "./verb.ts";

export function addServeVerb(verb: Verb, ports: CliPorts): void {
  serverOptions(verb("serve", "serve a storage"))
    .option("--keys <file>", "JSON file of API keys: [{ tenant, sha256, isOperator?, fetch? }]")
    .action(
      action(ports, async ({ options, print }) => {
        const { startServer, stopOnSignals } = await import("../node.ts");
        const { parseTenantKeys } = await import("../tenants.ts");
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
}

export function serverOptions(command: Command): Command {
  return command
    .addOption(storageOption())
    .option("-p, --port <port>", "where to listen (SPORE_PORT)", portNumber)
    .option("--host <address>", "address to listen on; others than loopback need keys")
    .option("--retention <duration>", "delete runs this long after they have closed", duration)
    .option("--guest-memory <MiB>", "cap of each guest's memory (SPORE_GUEST_MEMORY)", guestMemory)
    .option("--advertise <url>", "where other hosts reach this one (SPORE_ADVERTISE)");
}

export function serverOf(options: Readonly<Record<string, unknown>>, ports: CliPorts) {
  const { SPORE_PORT = "" } = ports.env;
  if (!/^\d{0,5}$/.test(SPORE_PORT)) throw usage(`SPORE_PORT is ${SPORE_PORT}, not a port`);
  const fromEnv = SPORE_PORT === "" ? undefined : Number(SPORE_PORT);
  const { SPORE_GUEST_MEMORY = "" } = ports.env;
  const memoryPagesMax =
    (options.guestMemory as number | undefined) ??
    (SPORE_GUEST_MEMORY === "" ? undefined : guestMemory(SPORE_GUEST_MEMORY));
  const { SPORE_PUBLIC_URL: publicUrl = "" } = ports.env;
  return {
    storage: storageOf(options, ports),
    engine: {
      ...(publicUrl === "" ? {} : { publicUrl: publicUrl.replace(/\/+$/, "") }),
      retentionMs: options.retention as number | undefined,
    },
    ...(memoryPagesMax === undefined ? {} : { sandbox: { memoryPagesMax } }),
    port: (options.port as number | undefined) ?? fromEnv,
    hostname: options.host as string | undefined,
    advertise: (options.advertise as string | undefined) ?? ports.env.SPORE_ADVERTISE,
  };
}

/** A signal ends the process. */
export function untilStopped(): Promise<never> {
  return new Promise(() => undefined);
}
