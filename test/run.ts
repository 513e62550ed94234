/**
 * `npm test`: all checks and all tests, with one closing line that counts them. Nothing is
 * skipped silently: each skip is printed with its reason (the test's own title says it).
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numFailedTestSuites: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly assertionResults: readonly { readonly status: string; readonly fullName: string }[];
  }[];
}

const checks: readonly (readonly [string, string, readonly string[]])[] = [
  ["format and lint", "@biomejs/biome", ["check", "."]],
  ["types", "typescript", ["-p", "tsconfig.json"]],
  ["types of runtime/", "typescript", ["-p", "runtime/tsconfig.json"]],
  ["types of guest/", "typescript", ["-p", "guest/tsconfig.json"]],
];

let passed = 0;
let failed = 0;
let skipped = 0;

const filters = process.argv.slice(2);
if (filters.length === 0) {
  for (const [title, tool, args] of checks) {
    const { status } = runTool(tool, args);
    if (status === 0) passed += 1;
    else failed += 1;
    console.log(`${status === 0 ? "ok" : "FAILED"}: ${title}`);
  }
}
runTests();
console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;

function runTests(): void {
  const folder = mkdtempSync(join(tmpdir(), "spore-test-"));
  const outputFile = join(folder, "report.json");
  try {
    const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${outputFile}`];
    const { status } = runTool("vitest", ["run", ...reporters, ...filters]);
    const report = JSON.parse(readFileSync(outputFile, "utf8")) as Report; // vitest's own format
    count(report);
    // A crash of the runner itself, or an error outside of any test.
    if (status !== 0 && report.numFailedTests === 0) failed += 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function count(report: Report): void {
  passed += report.numPassedTests;
  failed += report.numFailedTests;
  for (const file of report.testResults) {
    if (file.status === "failed" && file.assertionResults.length === 0) {
      failed += 1;
      console.log(`FAILED to load: ${file.name}`);
    }
    for (const test of file.assertionResults) {
      if (test.status === "passed" || test.status === "failed") continue;
      skipped += 1;
      console.log(`skipped: ${test.fullName}`);
    }
  }
}

function runTool(name: string, args: readonly string[]): { status: number | null } {
  return spawnSync(process.execPath, [binaryOf(name), ...args], { stdio: "inherit" });
}

/** The script behind a package's command: no shell, and no second Node on the path. */
function binaryOf(name: string): string {
  const manifestPath = packagePath(name);
  const manifest = JSON.parse(readFileSync(manifestPath, "utf8")) as {
    readonly bin: string | Readonly<Record<string, string>>;
  };
  const bin = typeof manifest.bin === "string" ? manifest.bin : Object.values(manifest.bin)[0];
  return join(dirname(manifestPath), bin ?? "");
}

function packagePath(name: string): string {
  return createRequire(import.meta.url).resolve(`${name}/package.json`);
}
