#!/usr/bin/env node
// Runs host/cli.ts under a fit Node: this one, or the one in the `node` package, which
// brings its own binary. Plain JavaScript that old versions understand.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";

const majorMin = 26;
const here = dirname(fileURLToPath(import.meta.url));
// A published package has JavaScript beside: Node strips no types inside node_modules. In the
// repository dist/ is what is left of making one.
const isPublished = here.split(sep).includes("node_modules");
const compiled = join(here, "..", "dist", "host", "cli.js");
const cli = isPublished ? compiled : join(here, "..", "host", "cli.ts");

const binary = fitNode();
if (binary === undefined) {
  process.stderr.write(
    `spore needs Node ${majorMin} or newer; this is ${process.version}.\n` +
      `Add one to the project (npm install --save-dev node@${majorMin}), or install it: https://nodejs.org\n`,
  );
  process.exitCode = 2;
} else {
  // Who is killed with SIGKILL can pass nothing on: the child sees the channel break, and ends too.
  const stdio = ["inherit", "inherit", "inherit", "ipc"];
  const child = spawn(binary, [cli, ...process.argv.slice(2)], { stdio });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    // The terminal sends SIGINT to the whole group; a second one here would cut it short.
    process.on(signal, () => {
      if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal);
    });
  }
  child.on("error", (error) => {
    process.stderr.write(`spore: ${error.message}\n`);
    process.exitCode = 1;
  });
  child.on("exit", (code, signal) => {
    process.exitCode = code ?? (signal === "SIGINT" ? 130 : 1);
  });
}

function fitNode() {
  if (Number(process.versions.node.split(".")[0]) >= majorMin) return process.execPath;
  for (const from of [join(process.cwd(), "package.json"), fileURLToPath(import.meta.url)]) {
    try {
      const manifest = createRequire(from).resolve("node/package.json");
      const { version } = createRequire(from)("node/package.json");
      const name = process.platform === "win32" ? "node.exe" : "node";
      const found = join(dirname(manifest), "bin", name);
      if (Number(version.split(".")[0]) >= majorMin && existsSync(found)) return found;
    } catch {
      // No such package there: look at the next place.
    }
  }
  return undefined;
}
