/**
 * The Worker in the pinned workerd, for tests: bundled by wrangler as `wrangler deploy`
 * would, served by Miniflare with R2 and Durable Objects that keep their state in a folder.
 */

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  globSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from "miniflare";
import { type Client, createClient } from "../../client/index.ts";
import { type R2BucketLike, R2Store } from "../../host/store/r2.ts";
import type { Store } from "../../runtime/ports.ts";
import { until } from "../acceptance/kit.ts";

export const root = fileURLToPath(new URL("../..", import.meta.url));
export const s3Credentials = { accessKeyId: "edge-test", secretAccessKey: "edge-test-secret" };
const compatibility = {
  compatibilityDate: "2026-11-01",
  compatibilityFlags: ["nodejs_compat"],
};
const run = promisify(execFile);

export interface EdgeHost {
  readonly url: string;
  readonly folder: string;
  readonly client: Client;
  readonly miniflare: Miniflare;
  /** What the Worker printed so far, oldest first. */
  readonly logs: string[];
  /** The bucket behind the Worker, from outside. */
  store(): Promise<R2Store>;
  /**
   * Makes the bucket bound as FAULTY fail so often of a thousand calls: without having done
   * it, or with the answer lost. Answers what it was asked for since the last time.
   */
  disturb(plan: FaultPlan): Promise<BucketUse>;
  /** Makes so many small objects in the bucket. */
  strew(keys: readonly string[]): Promise<void>;
  /** Ends a partition's object in the middle of whatever it does. */
  crash(index: number): Promise<void>;
  /** The next alarms of a partition's object fail so, one after the other. */
  failAlarms(index: number, faults: readonly ("throw" | "die")[]): Promise<void>;
  /** How many of them are still to come. */
  alarmsLeft(index: number): Promise<number>;
  /** What a cron trigger does. */
  scheduled(): Promise<void>;
  stop(): Promise<void>;
}

export interface BucketUse {
  readonly failures: number;
  readonly calls: Readonly<Record<"head" | "get" | "put" | "delete" | "list", number>>;
  /** How often the host waited for it: calls that are under way at once count once. */
  readonly rounds: number;
  /** Of objects, each with CPU time and subrequests of its own. */
  readonly invocations: number;
  /** What was asked for from the beginning of an invocation to that of the next, at most. */
  readonly most: { readonly calls: number; readonly bytes: number };
}

interface ScheduledWorker {
  scheduled(event: { readonly cron: string }): Promise<unknown>;
}

export interface FaultPlan {
  readonly before?: number;
  readonly after?: number;
  readonly delayMs?: number;
  readonly seed?: number;
  /** Only what comes before the PUT of a key that begins so counts for `most`. */
  readonly until?: string;
}

export interface EdgeSetup {
  /** Where state is kept; default: a new one, removed at the stop. */
  readonly folder?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly attemptsMax?: number;
  /** Gives each component an isolate of its own. Default false. */
  readonly isIsolated?: boolean;
}

const started = new Set<EdgeHost>();

export async function startEdge(setup: EdgeSetup = {}): Promise<EdgeHost> {
  const modules = await builtWorker();
  const folder = setup.folder ?? (await mkdtemp(join(tmpdir(), "spore-edge-")));
  const logs: string[] = [];
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      host: "127.0.0.1",
      port: 0,
      log: new Log(LogLevel.NONE),
      logRequests: false,
      handleStructuredLogs: ({ message }: { message: string }) => logs.push(message),
      resourcePersistencePath: folder,
      workers: [
        {
          name: "spore",
          modules,
          modulesRoot: dirname(modules[0]?.path ?? root),
          ...compatibility,
          r2Buckets: { BUCKET: { id: "spore", s3Credentials } },
          durableObjects: { PARTITIONS: { className: "SporePartition", useSQLite: true } },
          ...(setup.isIsolated === true && { workerLoaders: { LOADER: {} } }),
          serviceBindings: { FAULTY: { name: "faulty", entrypoint: "FaultyBucket" } },
          bindings: { SPORE_PARTITIONS: "2", ...setup.env },
        },
        {
          name: "faulty",
          modules: [{ type: "ESModule", path: join(root, "test/edge/faulty-bucket.js") }],
          modulesRoot: join(root, "test/edge"),
          ...compatibility,
          r2Buckets: { REAL: { id: "spore", s3Credentials } },
        },
      ],
    }),
  );
  const url = (await miniflare.ready).href.replace(/\/$/, "");
  const host: EdgeHost = {
    url,
    folder,
    client: createClient({ url, attemptsMax: setup.attemptsMax ?? 4 }),
    miniflare,
    logs,
    async store() {
      const bucket = await miniflare.getR2Bucket("BUCKET");
      // The binding from outside is the same one, with types of its own.
      return new R2Store(bucket as unknown as R2BucketLike);
    },
    async disturb(plan) {
      const body = JSON.stringify(plan);
      const answer = await fetch(`${url}/disturb`, { method: "POST", body });
      return (await answer.json()) as BucketUse; // of our own faulty-bucket.js
    },
    async strew(keys) {
      await fetch(`${url}/strew`, { method: "POST", body: JSON.stringify(keys) });
    },
    async crash(index) {
      await (await fetch(`${url}/crash/${index}`)).text();
    },
    async failAlarms(index, faults) {
      await fetch(`${url}/alarms/${index}`, { method: "POST", body: JSON.stringify(faults) });
    },
    async alarmsLeft(index) {
      return (await (await fetch(`${url}/alarms/${index}`)).json()) as number; // crashing-entry.js
    },
    async scheduled() {
      // Its types are those of a Request's own `fetch`, which know of no events.
      const worker = (await miniflare.getWorker("spore")) as unknown as ScheduledWorker;
      await worker.scheduled({ cron: "*/5 * * * *" });
    },
    async stop() {
      if (!started.delete(host)) return;
      await miniflare.dispose();
      if (setup.folder === undefined) await rm(folder, { recursive: true, force: true });
    },
  };
  started.add(host);
  return host;
}

/** Ends what still runs; for `afterAll`. */
export async function stopEdges(): Promise<void> {
  for (const host of [...started]) await host.stop();
}

interface WorkerModule {
  readonly type: "ESModule" | "CompiledWasm" | "Data" | "Text";
  readonly path: string;
  readonly contents?: string;
}

let building: Promise<readonly WorkerModule[]> | undefined;

/** The Worker's modules, the entry first; built once for all test files. */
export async function builtWorker(): Promise<WorkerModule[]> {
  building ??= build();
  return [...(await building)];
}

async function build(): Promise<readonly WorkerModule[]> {
  const outDir = join(root, ".spore/test-edge", sourcesHash());
  mkdirSync(dirname(outDir), { recursive: true });
  // The test files run side by side: one of them bundles, the others wait for it.
  const lock = `${outDir}.lock`;
  await until(
    "the Worker is bundled",
    async () => {
      if (existsSync(outDir)) return true;
      if (!isTaken(lock)) await bundle(outDir).finally(() => rmSync(lock, { recursive: true }));
      return existsSync(outDir);
    },
    180_000,
  );
  const files = readdirSync(outDir).filter((file) => /\.(js|wasm|bin|txt)$/.test(file));
  const entry = { type: "ESModule", path: join(outDir, "entry.js") } as const;
  const contents = readFileSync(join(root, "test/edge/crashing-entry.js"), "utf8");
  return [
    { ...entry, contents },
    ...files.map((file) => ({
      type: typeOf(file),
      path: join(outDir, file),
    })),
  ];
}

/** Whether somebody else is at it; takes it if not. A lock this old is of a dead process. */
function isTaken(lock: string): boolean {
  try {
    mkdirSync(lock);
    return false;
  } catch {
    const since = statSync(lock, { throwIfNoEntry: false })?.mtimeMs;
    if (since !== undefined && since < Date.now() - 120_000) rmSync(lock, { recursive: true });
    return true;
  }
}

async function bundle(outDir: string): Promise<void> {
  if (existsSync(outDir)) return; // while we asked for the lock
  removeOld(dirname(outDir));
  const draft = `${outDir}.${process.pid}`;
  await wrangler(["deploy", "--dry-run", "--outdir", draft]);
  renameSync(draft, outDir);
}

/** Builds of earlier sources; one that is in use is younger. */
function removeOld(folder: string): void {
  const oldMs = Date.now() - 3_600_000;
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (statSync(path).mtimeMs < oldMs) rmSync(path, { recursive: true, force: true });
  }
}

function typeOf(file: string): WorkerModule["type"] {
  if (file.endsWith(".js")) return "ESModule";
  if (file.endsWith(".txt")) return "Text";
  return file.endsWith(".wasm") ? "CompiledWasm" : "Data";
}

/** Changes with everything that is bundled. */
function sourcesHash(): string {
  const hash = createHash("sha256");
  const patterns = [
    "host/**/*.ts",
    "runtime/*.ts",
    "guest/*",
    "package-lock.json",
    "wrangler.toml",
  ];
  for (const file of patterns.flatMap((pattern) => globSync(pattern, { cwd: root })).sort()) {
    if (/\.(ts|wit|json|toml)$/.test(file))
      hash.update(file).update(readFileSync(join(root, file)));
  }
  return hash.digest("hex").slice(0, 16);
}

/** Runs the pinned wrangler to its end; gives what it printed. */
export async function wrangler(args: readonly string[]): Promise<string> {
  const { stdout, stderr } = await run(process.execPath, [wranglerPath(), ...args], {
    cwd: root,
    env: wranglerEnv(),
  });
  return stdout + stderr;
}

export function wranglerPath(): string {
  return join(
    dirname(createRequire(import.meta.url).resolve("wrangler/package.json")),
    "bin/wrangler.js",
  );
}

/** The Node that runs the tests is the one that wrangler's own commands find. */
export function wranglerEnv(): NodeJS.ProcessEnv {
  const path = `${dirname(process.execPath)}:${process.env.PATH ?? ""}`;
  return { ...process.env, PATH: path, NO_COLOR: "1", CI: "1", WRANGLER_SEND_METRICS: "false" };
}

/** Everything in one bucket, into another that is empty. */
export async function copyBucket(from: Store, to: Store): Promise<number> {
  let count = 0;
  for (let after: string | undefined; ; ) {
    const { keys, isTruncated } = await from.list("", after === undefined ? {} : { after });
    for (const { key } of keys) {
      const bytes = await from.get(key);
      if (bytes !== undefined) await to.put(key, bytes);
      after = key;
      count += 1;
    }
    if (!isTruncated) return count;
  }
}
