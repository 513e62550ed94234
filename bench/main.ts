/**
 * `npm run bench`, or `npm run bench -- actors wake` for some questions only, with
 * `--size 10000` up to that many of what grows: prints each figure beside its control, and writes all of them as JSON lines to bench/results/.
 */
import { appendFileSync, readFileSync } from "node:fs";
import { availableParallelism, cpus, totalmem } from "node:os";
import { join } from "node:path";
import Table from "cli-table3";
import { actors } from "./actors.ts";
import { economy } from "./economy.ts";
import { edge } from "./edge.ts";
import { fanOut } from "./fan-out.ts";
import { hosts } from "./hosts.ts";
import { http } from "./http.ts";
import { type Figure, openBench, type Question, resultsDir } from "./kit.ts";
import { latency } from "./latency.ts";
import { listing } from "./listing.ts";
import { peer } from "./peer.ts";
import { population } from "./population.ts";
import { queues } from "./queues.ts";
import { roundTrips } from "./round-trips.ts";
import { signals } from "./signals.ts";
import { sleeping } from "./sleeping.ts";
import { steps } from "./steps.ts";
import { storage } from "./storage.ts";
import { storageLatency } from "./storage-latency.ts";
import { timers } from "./timers.ts";
import { wake } from "./wake.ts";
import { workflows } from "./workflows.ts";

const questions: readonly Question[] = [
  latency,
  workflows,
  steps,
  actors,
  roundTrips,
  population,
  fanOut,
  wake,
  signals,
  timers,
  sleeping,
  listing,
  queues,
  storage,
  economy,
  storageLatency,
  hosts,
  http,
  edge,
  peer,
];

const started = new Date();
const file = join(resultsDir, `${started.toISOString().replaceAll(":", "-")}.jsonl`);
const about = {
  date: started.toISOString(),
  spore: versionOf("../package.json"),
  node: process.version,
  machine: `${cpus()[0]?.model ?? "unknown"} × ${availableParallelism()}`,
  memoryBytes: totalmem(),
  platform: `${process.platform} ${process.arch}`,
};

await main(process.argv.slice(2));

async function main(args: readonly string[]): Promise<void> {
  const flag = args.indexOf("--size");
  const sizeMax = flag < 0 ? Number.POSITIVE_INFINITY : Number(args[flag + 1]);
  const names = flag < 0 ? args : args.toSpliced(flag, 2);
  const unknown = names.filter((name) => !questions.some((question) => question.name === name));
  if (unknown.length > 0) {
    const known = questions.map(({ name }) => name).join(", ");
    process.stderr.write(`no question ${unknown.join(", ")}; there are ${known}\n`);
    process.exitCode = 2;
    return;
  }
  process.stdout.write(`${about.machine}, Node ${about.node}, ${about.date}\n`);
  const bench = await openBench(sizeMax);
  try {
    for (const question of questions) {
      if (names.length > 0 && !names.includes(question.name)) continue;
      const startMs = performance.now();
      process.stdout.write(`\n${question.asks}\n`);
      const figures = await question.run(bench);
      report(question, figures, performance.now() - startMs);
    }
  } finally {
    await bench.close();
  }
  process.stdout.write(`\n${file}\n`);
}

function report(question: Question, figures: readonly Figure[], tookMs: number): void {
  const table = new Table({
    head: ["", "measured", "target", "control", "ratio"],
    style: { head: [], border: [], compact: true },
    colAligns: ["left", "right", "right", "right", "right"],
  });
  for (const figure of figures) {
    const { name, value, unit, control } = figure;
    const ratio = control === undefined ? undefined : value / control.value;
    const isMet = isTargetMet(figure);
    table.push([
      name,
      `${shown(value)} ${unit}`,
      targetText(figure) + (isMet === undefined ? "" : isMet ? " met" : " MISSED"),
      control === undefined ? "" : `${control.name}: ${shown(control.value)} ${control.unit}`,
      ratio === undefined ? "" : ratio.toFixed(2),
    ]);
    const line = { ...about, question: question.name, ...figure, isMet, ratio };
    appendFileSync(file, `${JSON.stringify(line)}\n`);
  }
  process.stdout.write(`${table.toString()}\n(${(tookMs / 1000).toFixed(1)} s)\n`);
}

function isTargetMet({ target, value }: Figure): boolean | undefined {
  if (target === undefined) return undefined;
  return "below" in target ? value < target.below : value >= target.atLeast;
}

function targetText({ target }: Figure): string {
  if (target === undefined) return "";
  return "below" in target ? `< ${shown(target.below)}` : `≥ ${shown(target.atLeast)}`;
}

function shown(value: number): string {
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString("en");
  return value.toPrecision(3);
}

function versionOf(path: string): string {
  const { version } = JSON.parse(readFileSync(new URL(path, import.meta.url), "utf8")) as {
    version: string;
  };
  return version;
}
