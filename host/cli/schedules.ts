/**
 * Verbs of schedules: workflows that run again and again.
 */
import { Option } from "commander";
import pc from "picocolors";
import type { Overlap, Schedule, ScheduleInfo } from "../../client/index.ts";
import {
  collectTag,
  duration,
  inputOptions,
  instant,
  json,
  priorityOf,
  queueOptionsOf,
  readArgs,
  wholeNumber,
} from "./arguments.ts";
import { action, type CliPorts, noun, type Verb } from "./verb.ts";

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

export function addScheduleVerbs(verb: Verb, ports: CliPorts): void {
  const sub = noun(verb, "schedule", "run workflows again and again");
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
    .option("--metadata <json>", "metadata of the runs", json)
    .option("--queue <name>", "the runs pass this queue")
    .option("--queue-key <key>", "runs with the same key share the queue's limit per key")
    .option("--priority <number>", "higher ones come first", priorityOf)
    .option("--time-limit <duration>", "cancel a run that takes longer", duration)
    .option("--retention <duration>", "delete a run this long after it has closed", duration)
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
    metadata: options.metadata,
    timeLimitMs: options.timeLimit as number | undefined,
    retentionMs: options.retention as number | undefined,
    ...queueOptionsOf(options),
    note: options.note as string | undefined,
    paused: options.paused as boolean | undefined,
  };
}

function nextOf({ paused, next }: ScheduleInfo): string {
  if (paused) return "paused";
  return next[0] === undefined ? "no more slots" : `next at ${next[0]}`;
}
