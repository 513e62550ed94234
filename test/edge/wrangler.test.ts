/** What wrangler makes of the Worker: its size, its modules, and `wrangler dev` as people run it. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { expect, it, onTestFinished, vi } from "vitest";
import { createClient } from "../../client/index.ts";
import { edgePagesMax } from "../../host/edge-build.ts";
import { nodeCodec } from "../../host/sandbox/codec.ts";
import { loadEngineParts } from "../../host/sandbox/compile.ts";
import { engineModules } from "../../host/sandbox/engine.ts";
import { until } from "../acceptance/kit.ts";
import { journey, twice } from "./journey.ts";
import { builtWorker, root, wranglerEnv, wranglerPath } from "./kit.ts";

vi.setConfig({ testTimeout: 180_000, hookTimeout: 120_000 });

it("the Worker fits into the free plan's 3 MB, compressed", async () => {
  const modules = (await builtWorker()).filter(({ contents }) => contents === undefined);
  const sizes = modules.map(({ path }) => gzipSync(readFileSync(path)).length);
  const bytes = sizes.reduce((sum, size) => sum + size, 0);
  expect(bytes).toBeGreaterThan(500_000);
  expect(bytes).toBeLessThan(1_000_000);
});

it("its WebAssembly is the engine of this package, byte for byte", async () => {
  const wanted = engineModules(await loadEngineParts(nodeCodec.digest), edgePagesMax);
  const found = (await builtWorker()).filter(({ type }) => type === "CompiledWasm");
  const hexOf = (bytes: Uint8Array): string =>
    Buffer.from(nodeCodec.digest.sha256(bytes)).toString("hex");
  expect(found.map(({ path }) => hexOf(readFileSync(path))).toSorted()).toEqual(
    Object.values(wanted).map(hexOf).toSorted(),
  );
});

it("wrangler dev serves the whole system, with a component that was built into it", async () => {
  const folder = mkdtempSync(join(tmpdir(), "spore-wrangler-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const spore = `${process.execPath} ${join(root, "host/cli.ts")}`;
  const build = `${spore} build --edge ${join(root, "test/edge/journey.ts")}`;
  const config = join(folder, "wrangler.toml");
  const toml = readFileSync(join(root, "wrangler.toml"), "utf8");
  writeFileSync(config, toml.replace(/^command = .*$/m, `command = "${build}"`));
  const state = join(folder, "state");
  const args = [
    "dev",
    "--config",
    config,
    "--port",
    "0",
    "--ip",
    "127.0.0.1",
    "--persist-to",
    state,
  ];
  const child = spawn(process.execPath, [wranglerPath(), ...args, "--inspector-port", "0"], {
    cwd: folder,
    env: wranglerEnv(),
    stdio: ["ignore", "pipe", "pipe"],
  });
  let printed = "";
  child.stdout.on("data", (chunk: Buffer) => (printed += chunk));
  child.stderr.on("data", (chunk: Buffer) => (printed += chunk));
  const exited = once(child, "exit");
  onTestFinished(async () => {
    child.kill("SIGTERM");
    await exited;
  });
  const urlOf = (): string | undefined => /http:\/\/127\.0\.0\.1:\d+/.exec(printed)?.[0];
  await until(
    "wrangler dev is ready",
    async () => {
      if (child.exitCode !== null) throw new Error(`the server ended:\n${printed}`);
      return (await fetch(`${urlOf()}/readyz`)).ok;
    },
    90_000,
  );
  const url = urlOf() ?? "";
  const client = createClient({ url, attemptsMax: 4 });
  expect(await client.run(twice.with(21))).toBe(42);
  const info = await client.start(journey.with(url, 0), { id: "seen" });
  expect(await info.status()).toMatch(/RUNNING|SUCCESSFUL/);
  const metrics = await (await fetch(`${url}/metrics`)).text();
  expect(metrics).toContain("spore_host_ready 1");
  // What is built into the Worker and what is uploaded are the same component.
  const { component } = await client.getMetadata("seen");
  const code = readFileSync(join(folder, ".spore/bundle.js"), "utf8");
  expect((await client.deploy(code)).id).toBe(component);
});
