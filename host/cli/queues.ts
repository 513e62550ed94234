/**
 * Verbs of queues: how many runs go on at a time, and how fast they begin.
 */
import { InvalidArgumentError } from "commander";
import pc from "picocolors";
import type { QueueInfo } from "../../client/index.ts";
import { parseDuration } from "../waits.ts";
import { wholeNumber } from "./arguments.ts";
import { usage } from "./failures.ts";
import { action, type CliPorts, noun, type Verb } from "./verb.ts";

export function addQueueVerbs(verb: Verb, ports: CliPorts): void {
  const sub = noun(verb, "queue", "how many runs go on at a time, and how fast they begin");
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
