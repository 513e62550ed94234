/**
 * The simulated cluster (test/sim) as part of every test run: a few hundred seeds, the seeds
 * that found bugs, a crash at each store call of a run, and the mutants that must be found.
 * More seeds: `npm run sim -- --seeds 10000`.
 */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { flat } from "./sim/flat.ts";
import { mutants } from "./sim/mutants.ts";
import { hunt, type SimOptions, simulate } from "./sim/run.ts";

const seedsFrom = 1000;
const seedCount = 320;
const seedsPerTest = 40;
const crashStride = 7;

async function run(options: SimOptions): Promise<{ hash: string; ops: number }> {
  const { violations, traceHash, ops } = await simulate(options);
  const crash = options.crashAtOp === undefined ? "" : ` --crash-at ${options.crashAtOp}`;
  const job = options.job === undefined ? "" : ` --job ${options.job}`;
  const { isShared, isMoving } = options;
  const shared = isShared === true ? " --shared" : "";
  const alone = isShared === false ? " --alone" : "";
  const flags = `${shared}${alone}${isMoving === true ? " --moving" : ""}`;
  const replay = `npm run sim -- --seed ${options.seed}${job}${flags}${crash} --verbose`;
  expect(violations.map(({ law, message }) => `${law}: ${message} (${replay})`)).toEqual([]);
  return { hash: traceHash, ops };
}

/** Of a line of seeds.txt; as `npm run sim` takes its flags. */
function optionsOf(line: string): SimOptions {
  const [, seed, flags = ""] =
    /^(\d+)((?: --(?:shared|alone|moving|job \w+))*) \S/.exec(line) ?? [];
  expect(seed, `a seed, flags and its story: ${line}`).toBeDefined();
  const isShared = flags.includes("--shared") || (flags.includes("--alone") ? false : undefined);
  const job = /--job (\w+)/.exec(flags)?.[1];
  return { seed: Number(seed), job, isShared, isMoving: flags.includes("--moving") || undefined };
}

for (let from = seedsFrom; from < seedsFrom + seedCount; from += seedsPerTest) {
  test(`no law is broken by seeds ${from} to ${from + seedsPerTest - 1}`, async () => {
    for (let seed = from; seed < from + seedsPerTest; seed += 1) await run({ seed });
  }, 120_000);
}

test("no seed that ever found a bug finds one again", async () => {
  const text = readFileSync(new URL("./sim/seeds.txt", import.meta.url), "utf8");
  const seeds = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  expect(seeds.length).toBeGreaterThan(5);
  for (const line of seeds) await run(optionsOf(line));
}, 120_000);

test("no law is broken where pages, batches and windows hold a few rows only", async () => {
  const args = ["test/sim/main.ts", "--small", "--seeds", "60", "--from", `${seedsFrom}`];
  const { stdout } = await promisify(execFile)(process.execPath, args).catch((error) => error);
  expect(stdout).toContain("60 seeds in");
  expect(stdout.split("\n").filter((line: string) => line.startsWith("seed "))).toEqual([]);
}, 240_000);

test("the same seed gives the same trace", async () => {
  for (const seed of [21, 22, 23]) {
    const first = await run({ seed });
    const second = await run({ seed });
    expect(second.hash).toBe(first.hash);
  }
}, 60_000);

test("a host may crash at any store call", async () => {
  for (const [seed, job] of [
    [2, "failing"],
    [3, "banking"],
    [5, "reused"],
    [6, "continuing"],
    [7, "spinning"],
  ] as const) {
    const { ops } = await run({ seed, job, crashAtOp: 0 });
    for (let op = (seed % crashStride) + 1; op <= ops; op += crashStride) {
      await run({ seed, job, crashAtOp: op });
    }
  }
}, 120_000);

test("a host may crash at any store call of programs", async () => {
  const { ops } = await run({ seed: 14, job: "programs", crashAtOp: 0 });
  for (let op = 1; op <= ops; op += 3) await run({ seed: 14, job: "programs", crashAtOp: op });
}, 120_000);

test("a wake-up costs the same late in a long run and beside many sleeping ones", async () => {
  const { violations, early } = await flat({ seed: 1 });
  expect(violations).toEqual([]);
  expect(early.commits).toBeGreaterThan(1);
  expect(early.commits).toBeLessThan(4);
  expect(early.rowsRead).toBeLessThan(10);
}, 60_000);

for (const mutant of mutants) {
  test(`it is found within ${mutant.seedsMax} seeds that ${mutant.name}`, async () => {
    const found = await hunt(mutant);
    expect(found?.violations[0]?.law).toBeTypeOf("string");
  }, 300_000);
}
