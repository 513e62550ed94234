/**
 * What the pinned workerd makes of the isolates that we ask its Worker Loader for: the code of
 * isolates.ts with a stranger's module in the place of ours.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as esbuild from "esbuild";
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from "miniflare";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { root } from "./kit.ts";

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

/** Runs inside of the isolate, and tells what it found through the one way out that it has. */
const stranger = `
import { WorkerEntrypoint } from "cloudflare:workers";
const tried = async (work) => {
  try { return String(await work()); } catch (error) { return "refused: " + error.message; }
};
export default class extends WorkerEntrypoint {
  async call({ source }) {
    const { what, url } = JSON.parse(source.code);
    const tell = async () => {
      if (what === "fetch") return tried(async () => (await fetch(url)).status);
      if (what === "socket") return tried(async () => {
        const { connect } = await import("cloudflare:sockets");
        await connect(url).opened;
      });
      if (what === "compile") return tried(async () => {
        await WebAssembly.compile(Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0));
        return "compiled";
      });
      if (what === "names") return Object.keys(this.env).join();
      for (let n = 0, x = 0; n < 3e9; n++) x ^= n;
      return "spun";
    };
    return { kind: "threw", code: "internal", message: await tell() };
  }
}`;

/** The sandbox in a Worker of its own, asked by the test. */
const outside = `
import { createIsolateSandbox } from "./host/worker/isolates.ts";
const bundled = {
  modules: {}, loader: new ArrayBuffer(0), isolate: ${JSON.stringify(stranger)},
  identity: { hash: "e".repeat(64) },
};
export default {
  async fetch(request, env) {
    const sandbox = createIsolateSandbox(bundled, env.LOADER);
    const source = { kind: "javascript", code: await request.text() };
    return sandbox.prepare(source).then(() => new Response("nothing"), (error) => new Response(error.message));
  },
};`;

const folder = mkdtempSync(join(tmpdir(), "spore-loader-"));
let workerd: Miniflare;
let calls = 0;
const server = createServer((_, response) => {
  calls += 1;
  response.end("reached");
});

beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { outputFiles } = await esbuild.build({
    stdin: { contents: outside, resolveDir: root, sourcefile: "outside.js" },
    bundle: true,
    write: false,
    format: "esm",
    external: ["node:*", "cloudflare:*"],
  });
  const path = join(folder, "outside.js");
  writeFileSync(path, outputFiles[0]?.text ?? "");
  workerd = new Miniflare(
    convertV4MiniflareOptions({
      host: "127.0.0.1",
      port: 0,
      log: new Log(LogLevel.NONE),
      workers: [
        {
          name: "outside",
          modules: [{ type: "ESModule", path }],
          modulesRoot: folder,
          compatibilityDate: "2026-11-01",
          compatibilityFlags: ["nodejs_compat"],
          workerLoaders: { LOADER: {} },
        },
      ],
    }),
  );
});
afterAll(async () => {
  await workerd.dispose();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

async function told(what: string, url = ""): Promise<string> {
  const body = JSON.stringify({ what, url });
  return (await fetch(await workerd.ready, { method: "POST", body })).text();
}

const port = (): number => (server.address() as AddressInfo).port;

it("an isolate reaches no network, neither by fetch nor by a socket", async () => {
  expect(await told("fetch", `http://127.0.0.1:${port()}/`)).toMatch(/^refused/);
  expect(await told("socket", `127.0.0.1:${port()}`)).toMatch(/^refused/);
  expect(calls).toBe(0);
  // The same server answers whoever has a network.
  expect(await (await fetch(`http://127.0.0.1:${port()}/`)).text()).toBe("reached");
});

it("an isolate has no bindings, and compiles no code", async () => {
  expect(await told("names")).toBe("");
  expect(await told("compile")).toMatch(/^refused/);
});
