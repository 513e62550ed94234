/**
 * `npm run chaos -- --minutes 10 --seed 7 --hosts 3`: the chaos test for longer, on a folder
 * and, where SPORE_TEST_S3 names a bucket (`.ci/with-s3 npm run chaos`), on that as well.
 */
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "2" },
    seed: { type: "string", default: String(Date.now() % 1_000_000) },
    hosts: { type: "string", default: "" },
  },
});

const manifest = createRequire(import.meta.url).resolve("vitest/package.json");
const vitest = join(dirname(manifest), "vitest.mjs");
const { status } = spawnSync(process.execPath, [vitest, "run", "test/acceptance/chaos.test.ts"], {
  stdio: "inherit",
  env: {
    ...process.env,
    SPORE_CHAOS_MS: String(Number(values.minutes) * 60_000),
    SPORE_SEED: values.seed,
    ...(values.hosts === "" ? {} : { SPORE_CHAOS_HOSTS: values.hosts }),
  },
});
process.exitCode = status ?? 1;
