/**
 * Real server processes for tests: started on free ports and temporary folders, stopped or
 * killed by their process id, put away in the end whatever happened. Nothing here sleeps
 * for luck: `until` asks again until a condition holds or a deadline has passed.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { onTestFinished, vi } from "vitest";
import { seededNumbers } from "../../bench/seeded.ts";
import { type Client, createClient } from "../../client/index.ts";
import { build } from "../../host/build.ts";
import { createThreadSandbox } from "../../host/sandbox/threads.ts";

vi.setConfig({ testTimeout: 60_000, hookTimeout: 120_000 });

export { seededNumbers as seeded };

export const root = fileURLToPath(new URL("../..", import.meta.url));
const cli = join(root, "host/cli.ts");

/** A folder that is gone when the test, or the file's last hook, is over. */
export async function temporaryFolder(): Promise<string> {
  return mkdtemp(join(tmpdir(), "spore-acceptance-"));
}

export async function removeFolder(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true });
}

const built = new Map<string, Promise<string>>();

/** The project's bundle; built once, and kept between test files. */
export function projectCode(): Promise<string> {
  return codeOf("test/acceptance/project.ts");
}

/** The bundle of another entry, from the repository's root. */
export function codeOf(entry: string): Promise<string> {
  const code = built.get(entry) ?? buildEntry(entry);
  built.set(entry, code);
  return code;
}

async function buildEntry(entry: string): Promise<string> {
  const sandbox = await createThreadSandbox({ threads: 1 });
  try {
    const name = entry.replaceAll(/[^a-z0-9]+/g, "-");
    const { code } = await build({
      entry,
      cwd: root,
      outDir: join(root, ".spore/acceptance", name),
      prepare: (source) => sandbox.prepare(source),
    });
    return code;
  } finally {
    await sandbox.close();
  }
}

export interface ExitStatus {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface ServerProcess {
  readonly url: string;
  readonly port: number;
  readonly folder: string;
  readonly client: Client;
  /** Settles when the process has ended. */
  readonly exited: Promise<ExitStatus>;
  isRunning(): boolean;
  /** Standard output and error so far. */
  printed(): string;
  /** For what doesn't end it. */
  signal(signal: "SIGSTOP" | "SIGCONT"): void;
  kill(): Promise<ExitStatus>;
  stop(): Promise<ExitStatus>;
}

export interface ServerSetup {
  readonly folder: string;
  /** Default: the folder, as `file:`. */
  readonly storage?: string;
  /** Default: a free one. */
  readonly port?: number;
  readonly env?: Readonly<Record<string, string>>;
  /** Default: the command `serve`. */
  readonly command?: readonly string[];
  readonly cwd?: string;
  readonly attemptsMax?: number;
}

const running = new Set<ServerProcess>();
const addressPattern = /http:\/\/127\.0\.0\.1:(\d+)/;

/** Starts a server and waits until it is ready; the folder is the caller's. */
export async function startServer(setup: ServerSetup): Promise<ServerProcess> {
  const server = await launch(setup);
  await until("the server is ready", async () => {
    if (!server.isRunning()) throw new Error(`the server ended:\n${server.printed()}`);
    return (await fetch(`${server.url}/readyz`)).ok;
  });
  return server;
}

/** Starts a server and waits for its address only: it may never become ready. */
export async function launch(setup: ServerSetup): Promise<ServerProcess> {
  const storage = ["--storage", setup.storage ?? `file:${setup.folder}`];
  const command = [...(setup.command ?? ["serve"]), ...storage];
  const child = spawnCli([...command, "--port", String(setup.port ?? 0)], setup);
  let printed = "";
  // The log on standard error may name other servers.
  let told = "";
  child.stdout?.on("data", (chunk: Buffer) => {
    told += chunk;
    printed += chunk;
  });
  child.stderr?.on("data", (chunk: Buffer) => (printed += chunk));
  const exited = once(child, "exit").then(
    ([code, signal]): ExitStatus => ({ code, signal }) as ExitStatus,
  );
  const isRunning = (): boolean => child.exitCode === null && child.signalCode === null;
  const end = async (signal: NodeJS.Signals): Promise<ExitStatus> => {
    child.kill(signal);
    const status = await exited;
    running.delete(server);
    return status;
  };
  const portOf = (): number => Number(addressPattern.exec(told)?.[1]);
  const urlOf = (): string => `http://127.0.0.1:${portOf()}`;
  let client: Client | undefined;
  const server: ServerProcess = {
    get url() {
      return urlOf();
    },
    get port() {
      return portOf();
    },
    folder: setup.folder,
    get client() {
      client ??= createClient({ url: urlOf(), attemptsMax: setup.attemptsMax ?? 4 });
      return client;
    },
    exited,
    isRunning,
    printed: () => printed,
    signal: (signal) => void child.kill(signal),
    kill: () => end("SIGKILL"),
    stop: () => end("SIGTERM"),
  };
  running.add(server);
  await until("the server prints its address", () => {
    if (!isRunning()) throw new Error(`the server ended:\n${printed}`);
    return addressPattern.test(told);
  });
  return server;
}

/** A server on a new folder with the project, or another entry, deployed. */
export async function startProject(
  setup: Partial<ServerSetup> = {},
  entry = "test/acceptance/project.ts",
): Promise<ServerProcess> {
  const code = await codeOf(entry);
  const server = await startServer({ ...setup, folder: setup.folder ?? (await temporaryFolder()) });
  await server.client.deploy(code);
  return server;
}

/** Ends what still runs and removes the folders; for `afterAll`. */
export async function putAway(): Promise<void> {
  const servers = [...running];
  await Promise.all(servers.map((server) => server.kill()));
  await Promise.all(servers.map((server) => removeFolder(server.folder)));
}

function spawnCli(
  args: readonly string[],
  setup: { readonly env?: Readonly<Record<string, string>>; readonly cwd?: string } = {},
): ChildProcess {
  return spawn(process.execPath, [cli, ...args], {
    cwd: setup.cwd ?? root,
    env: { ...process.env, NO_COLOR: "1", ...setup.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
}

export interface Finished {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs one command of the command line to its end. */
export async function spore(
  args: readonly string[],
  setup: { readonly env?: Readonly<Record<string, string>>; readonly cwd?: string } = {},
): Promise<Finished> {
  const child = spawnCli(args, setup);
  let out = "";
  let err = "";
  child.stdout?.on("data", (chunk: Buffer) => (out += chunk));
  child.stderr?.on("data", (chunk: Buffer) => (err += chunk));
  const [code] = (await once(child, "close")) as [number | null];
  return { code, out, err };
}

const pollMs = 20;

/** Asks until it is so. An error of the probe counts as "not yet" until the deadline. */
export async function until(
  what: string,
  probe: () => Promise<boolean> | boolean,
  timeoutMs = 30_000,
): Promise<void> {
  const endMs = Date.now() + timeoutMs;
  for (;;) {
    let reason: unknown;
    try {
      if (await probe()) return;
    } catch (error) {
      if (error instanceof Error && error.message.startsWith("the server ended")) throw error;
      reason = error;
    }
    if (Date.now() > endMs)
      throw new Error(`not within ${timeoutMs} ms: ${what}`, { cause: reason });
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
}

/** The world outside: counts calls by path, and refuses where it is told to. */
export interface Outside {
  readonly url: string;
  readonly calls: Map<string, number>;
  /** How often the next calls of a path get a 503. */
  readonly refusals: Map<string, number>;
  /** Answers are held back this long. */
  delayMs: number;
  close(): Promise<void>;
}

export async function startOutside(): Promise<Outside> {
  const calls = new Map<string, number>();
  const refusals = new Map<string, number>();
  const server = createServer(async (request, response) => {
    const url = new URL(request.url ?? "/", "http://outside");
    const path = url.pathname;
    calls.set(path, (calls.get(path) ?? 0) + 1);
    let body = "";
    for await (const chunk of request) body += chunk;
    const answer = (): void => {
      const left = refusals.get(path) ?? 0;
      if (left > 0) {
        refusals.set(path, left - 1);
        response.writeHead(503).end("not now");
      } else if (path === "/echo") {
        response.setHeader("content-type", "application/json");
        const { method } = request;
        response.end(JSON.stringify({ method, body, header: request.headers["x-test"] }));
      } else response.end(path);
    };
    setTimeout(answer, outside.delayMs);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const outside: Outside = {
    url: `http://127.0.0.1:${port}`,
    calls,
    refusals,
    delayMs: 0,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
  return outside;
}

/** A port that nobody has now: for a server that is to come back under its address. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** A raw request: what no well-behaved client would send. */
export interface RawAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Record<string, unknown>;
}

export async function ask(
  server: { readonly url: string },
  method: string,
  path: string,
  given: { readonly json?: unknown; readonly body?: BodyInit; readonly headers?: HeadersInit } = {},
): Promise<RawAnswer> {
  const headers = new Headers(given.headers);
  if (given.json !== undefined) headers.set("content-type", "application/json");
  const body = given.json === undefined ? given.body : JSON.stringify(given.json);
  const response = await fetch(server.url + path, {
    method,
    headers,
    ...(body === undefined ? {} : { body }),
  });
  const text = await response.text();
  const parsed = text === "" ? {} : (JSON.parse(text) as Record<string, unknown>);
  return { status: response.status, headers: response.headers, body: parsed };
}

/** For a folder that one test uses. */
export async function folderOfTest(): Promise<string> {
  const folder = await temporaryFolder();
  onTestFinished(() => removeFolder(folder));
  return folder;
}
