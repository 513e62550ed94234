/**
 * A test run again and again, each time with a crash of the host at another point of its use
 * of the storage: what holds at each of them holds for every crash.
 */
import { openTest, type TestHost, type TestHostOptions } from "./host.ts";

export interface CrashTestOptions extends TestHostOptions {
  /** Crash at this point only: what a failure says, to look at it again. */
  readonly at?: number | undefined;
  /** More points than this: that many of them, evenly spread. Default 200. */
  readonly pointsMax?: number | undefined;
}

export interface CrashTestResult {
  /** Points at which the host could have crashed, in the pass without a crash. */
  readonly points: number;
  /** Passes with a crash. */
  readonly crashes: number;
}

const pointsMaxDefault = 200;

/**
 * Runs `test` once as it is, and then with a crash at each point: before each operation on
 * the storage, and after each write before the host hears that it is done. Another host takes
 * over at once, and the client goes on with it. A step whose result wasn't stored yet runs
 * again, so a mock may be called twice. Rejects with the test's own error and says where the
 * crash was.
 */
export async function crashTest(
  options: CrashTestOptions,
  test: (spore: TestHost) => Promise<void>,
): Promise<CrashTestResult> {
  const { at, pointsMax = pointsMaxDefault, ...rest } = options;
  if (at !== undefined) return { points: 0, crashes: await pass(rest, test, at) };
  const points = await pass(rest, test, undefined);
  let crashes = 0;
  for (const point of spread(points, pointsMax)) crashes += await pass(rest, test, point);
  return { points, crashes };
}

/** Without a crash: how many points it passed. With one: 1 if it came to it. */
async function pass(
  options: TestHostOptions,
  test: (spore: TestHost) => Promise<void>,
  crashAt: number | undefined,
): Promise<number> {
  const { host, world } = await openTest(options, crashAt);
  try {
    await test(host);
  } catch (error) {
    throw located(error, crashAt, world.crashedAt);
  } finally {
    await host.stop();
  }
  if (crashAt === undefined) return world.points;
  return world.crashedAt === undefined ? 0 : 1;
}

/** The error itself, so that a runner shows its values and its place. */
function located(error: unknown, at: number | undefined, what: string | undefined): unknown {
  if (at === undefined || !(error instanceof Error)) return error;
  const where =
    what === undefined
      ? `the host was to crash at point ${at} and did not come to it`
      : `the host crashed at point ${at}: ${what}`;
  const text = `${where}; to see it again: crashTest({ …, at: ${at} })`;
  const { message } = error;
  error.message = `${message}\n${text}`;
  if (typeof error.stack === "string") error.stack = error.stack.replace(message, error.message);
  return error;
}

function spread(points: number, pointsMax: number): number[] {
  const count = Math.min(points, pointsMax);
  return Array.from({ length: count }, (_, index) => 1 + Math.floor((index * points) / count));
}
