/**
 * `npm run sim -- --seeds N [--from S] [--seed S] [--job name] [--shared | --alone] [--moving] [--small] [--crash-at OP] [--crash-all] [--verbose]`
 * or `--mutants`.
 * Prints each violation with the one command that replays it; exit code 1 if there is any.
 */
import { parseArgs } from "node:util";
import type { SimResult } from "./run.ts";

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "300" },
    from: { type: "string", default: "1" },
    seed: { type: "string" },
    job: { type: "string" },
    "crash-at": { type: "string" },
    "crash-all": { type: "boolean", default: false },
    "keep-going": { type: "boolean", default: false },
    mutants: { type: "boolean", default: false },
    shared: { type: "boolean", default: false },
    alone: { type: "boolean", default: false },
    moving: { type: "boolean" },
    small: { type: "boolean", default: false },
    verbose: { type: "boolean", default: false },
  },
});
if (values.small) await import("./small.ts"); // before what it changes
const { hunt, simulate } = await import("./run.ts");
const { mutants } = await import("./mutants.ts");

if (values.mutants) await findMutants();
const first = Number(values.seed ?? values.from);
const count = values.seed === undefined ? Number(values.seeds) : 1;
const crashAtOp = values["crash-at"] === undefined ? undefined : Number(values["crash-at"]);
const isShared = values.shared ? true : values.alone ? false : undefined;
const total = new Map<string, number>();
const startMs = performance.now();
let bad = 0;
for (let seed = first; seed < first + count; seed += 1) {
  const options = {
    seed,
    isVerbose: values.verbose,
    job: values.job,
    crashAtOp,
    isShared,
    isMoving: values.moving,
  };
  const result = await simulate(options);
  for (const [name, value] of result.counts) total.set(name, (total.get(name) ?? 0) + value);
  total.set("events", (total.get("events") ?? 0) + result.events);
  total.set("virtual seconds", (total.get("virtual seconds") ?? 0) + result.virtualMs / 1000);
  if (values.verbose) for (const line of result.lines) console.log(line);
  if (result.violations.length > 0) {
    bad += 1;
    report(result, crashAtOp);
    if (!values["keep-going"] && bad >= 5) break;
  }
  if (values["crash-all"]) bad += await crashAll(seed);
}
const seconds = (performance.now() - startMs) / 1000;
console.log(`${count} seeds in ${seconds.toFixed(1)} s, ${bad} with violations`);
for (const [name, value] of [...total].sort()) {
  if (!name.startsWith("spore_")) console.log(`  ${name}: ${Math.round(value)}`);
}
process.exitCode = bad > 0 ? 1 : 0;

/** The scenario of a seed, with a crash at each of its store calls in turn. */
async function crashAll(seed: number): Promise<number> {
  const { ops } = await simulate({ seed, job: values.job, crashAtOp: 0 });
  let failures = 0;
  for (let op = 1; op <= ops; op += 1) {
    const result = await simulate({ seed, job: values.job, crashAtOp: op });
    if (result.violations.length === 0) continue;
    failures += 1;
    report(result, op);
  }
  return failures;
}

/** The table of mutants: which seed and law found each. */
async function findMutants(): Promise<never> {
  let missed = 0;
  for (const mutant of mutants) {
    const found = await hunt(mutant);
    if (found === undefined) missed += 1;
    const where =
      found === undefined
        ? `NOT FOUND within ${mutant.seedsMax} seeds`
        : `seed ${found.seed}: ${found.violations[0]?.law}`;
    console.log(`${mutant.name}: ${where}`);
  }
  process.exit(missed > 0 ? 1 : 0);
}

function report(result: SimResult, crashAt: number | undefined): void {
  for (const { law, message, atMs } of result.violations.slice(0, 3)) {
    console.log(`seed ${result.seed} at ${atMs.toFixed(1)} ms: ${law}: ${message.slice(0, 1500)}`);
  }
  for (const story of result.stories) console.log(`  ${story}`);
  const job = values.job === undefined ? "" : ` --job ${values.job}`;
  const crash = crashAt === undefined ? "" : ` --crash-at ${crashAt}`;
  const hosts = values.shared ? " --shared" : values.alone ? " --alone" : "";
  const flags = `${values.moving ? " --moving" : ""}${values.small ? " --small" : ""}`;
  console.log(
    `  replay: npm run sim -- --seed ${result.seed}${job}${hosts}${flags}${crash} --verbose`,
  );
}
