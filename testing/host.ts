/**
 * A host for one test: your TypeScript built as for deployment and run in the real sandbox,
 * on a storage in memory, in the test's own process and without ports. Only time, the steps
 * that you mock and the network are the test's.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Client, createClient } from "../client/index.ts";
import type { Caught, Step } from "../guest/define.ts";
import { type Duration, durationMs } from "../guest/time.ts";
import { type BuildResult, build } from "../host/build.ts";
import { createThreadSandbox } from "../host/sandbox/threads.ts";
import type { Observer, Sandbox } from "../runtime/ports.ts";
import { testUrl } from "./life.ts";
import type { MockContext } from "./mocks.ts";
import { World } from "./world.ts";

export interface TestHostOptions {
  /** The module with your definitions: a file URL, or a path from the working directory. */
  readonly entry: string | URL;
  /** When the test begins. Default 2030-01-01T00:00:00Z. */
  readonly now?: Date | undefined;
  /**
   * Whether time moves by itself, to the next timer, while the test waits for something and
   * nothing else can happen. Default true; false: only `sleep` moves it.
   */
  readonly skipsTime?: boolean | undefined;
  /** Answers what guests `fetch`. Default: each request fails, and its error says which. */
  readonly fetch?: ((request: Request) => Response | Promise<Response>) | undefined;
  /** Gets what guests and host log. Default: nothing is shown. */
  readonly log?: Observer["log"] | undefined;
}

/** What a step with that type gives before `catchErrors` makes a pair of it. */
export type BodyOut<Out> = [Out] extends [Caught<infer Value>] ? Value : Out;

export interface TestHost extends AsyncDisposable {
  /**
   * Runs, signals, updates, actors, schedules: all that a client can do with a host. A call
   * returns when what it set off has come to rest: what is left waits for time, for a mock
   * that is at work, or for the test.
   */
  readonly client: Client;
  /** The HTTP API, for what isn't the client's: `await spore.fetch(event.url, { method: "POST" })`. */
  fetch(path: string | URL, init?: RequestInit): Promise<Response>;
  now(): Date;
  /**
   * Goes on when that much of the test's time has passed, and everything due until then has
   * been done. In a mock or in `fetch`: its answer takes so long.
   */
  sleep(duration: Duration): Promise<void>;
  /**
   * From now on the test answers for a step, in runs and turns that begin later. The body
   * isn't run; retries, timeouts and records are those of the step. An inline step goes by
   * its name: `spore.mock("charge", () => 1)`.
   */
  mock<Args extends readonly unknown[], Out>(
    step: Step<Args, Out>,
    answer: (this: MockContext, ...args: Args) => BodyOut<Out> | Promise<BodyOut<Out>>,
  ): void;
  mock(step: string, answer: (this: MockContext, ...args: never[]) => unknown): void;
  /** Deploys another entry: new runs take it, those that go on keep theirs, actors upgrade. */
  deploy(entry: string | URL): Promise<void>;
  /** The host is gone, in the middle of whatever it does, and another one takes over. */
  crash(): void;
  stop(): Promise<void>;
}

/**
 * Builds `entry` (a build is kept until something changes) and starts a host for one test:
 * `await using spore = await createTestHost({ entry: new URL("./index.ts", import.meta.url) })`.
 * Throws build-failed with the place in your file.
 */
export async function createTestHost(options: TestHostOptions): Promise<TestHost> {
  return (await openTest(options, undefined)).host;
}

/** A host, and the world that it is in. */
export interface OpenTest {
  readonly host: TestHost;
  readonly world: World;
}

/** `crashAt`: see `World.points`. */
export async function openTest(
  options: TestHostOptions,
  crashAt: number | undefined,
): Promise<OpenTest> {
  const sandbox = await sharedSandbox();
  const built = await builtOnce(options.entry, sandbox);
  const world = new World({
    sandbox,
    crashAt,
    startMs: (options.now ?? new Date("2030-01-01T00:00:00Z")).getTime(),
    skipsTime: options.skipsTime ?? true,
    fetch: options.fetch,
    observer: {
      log: options.log ?? (() => undefined),
      count: () => undefined,
      observe: () => undefined,
    },
  });
  await world.start();
  const steps = new Set<string>();
  const deploy = async (next: BuildResult): Promise<void> => {
    for (const { kind, name } of next.prepared.manifest.definitions) {
      if (kind === "step") steps.add(name);
    }
    await world.deploy(next);
  };
  await deploy(built);
  world.count();
  const deployEntry = async (entry: string | URL): Promise<void> =>
    deploy(await builtOnce(entry, sandbox));
  return { host: hostOf(world, steps, deployEntry), world };
}

function hostOf(world: World, steps: ReadonlySet<string>, deploy: TestHost["deploy"]): TestHost {
  const client = createClient({
    url: testUrl,
    fetch: (request) => world.request(request),
    backoffMs: 0,
  });
  const mock = (
    step: Step | string,
    answer: (this: MockContext, ...args: never[]) => unknown,
  ): void => {
    const name = typeof step === "string" ? step : step.stepName;
    if (typeof step !== "string" && !steps.has(name)) {
      throw new Error(`step "${name}" is not defined in what this test has deployed`);
    }
    world.mocks.set(name, answer);
  };
  return {
    client,
    fetch: (path, init) => world.request(new Request(new URL(path, testUrl), init)),
    now: () => new Date(world.time.nowMs()),
    sleep: (duration) => world.sleep(durationMs(duration, "sleep")),
    mock,
    deploy,
    crash: () => world.crash(),
    stop: () => world.close(),
    [Symbol.asyncDispose]: () => world.close(),
  };
}

// ---------------------------------------------------------------- once per process

let sandbox: Promise<Sandbox> | undefined;
const builds = new Map<string, Promise<BuildResult>>();

/** Its threads keep no process alive while they have nothing to do. */
function sharedSandbox(): Promise<Sandbox> {
  sandbox ??= createThreadSandbox({ threads: 1 });
  return sandbox;
}

function builtOnce(entry: string | URL, sandbox: Sandbox): Promise<BuildResult> {
  const isUrl = entry instanceof URL || entry.startsWith("file:");
  const path = isUrl ? fileURLToPath(entry) : entry;
  const known = builds.get(path);
  if (known !== undefined) return known;
  const building = buildFor(path, sandbox);
  builds.set(path, building);
  building.catch(() => builds.delete(path));
  return building;
}

async function buildFor(entry: string, sandbox: Sandbox): Promise<BuildResult> {
  const name = createHash("sha256").update(entry).digest("hex").slice(0, 16);
  const result = await build({
    entry,
    outDir: join(".spore", "testing", name),
    isForTests: true,
    prepare: (source) => sandbox.prepare(source),
  });
  await sandbox.load(result.prepared.id, result.prepared.bytes);
  return result;
}
