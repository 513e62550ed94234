/**
 * What a test happens in: its time, its storage, its one host and those that follow it after
 * crashes, and the requests that the test has open. Decides when time moves:
 *
 *   W1 only when nothing is under way and nothing is due;
 *   W2 to the next timer, never past one;
 *   W3 only while the test waits for something, so that it stands still between two lines.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { randomSource } from "../guest/random.ts";
import { type BuildResult, projectMap } from "../host/build.ts";
import { createOutbound } from "../host/outbound.ts";
import { MemoryStore } from "../host/store/memory.ts";
import type { Observer, Outbound, Sandbox, Store } from "../runtime/ports.ts";
import { realPause } from "./activity.ts";
import { Life } from "./life.ts";
import { Mocks } from "./mocks.ts";
import { TestTime } from "./time.ts";

export interface WorldOptions {
  readonly sandbox: Sandbox;
  readonly startMs: number;
  readonly skipsTime: boolean;
  readonly fetch: ((request: Request) => Response | Promise<Response>) | undefined;
  readonly observer: Observer;
  /** Crash at this point of the storage's use, counted from 1; see `points`. */
  readonly crashAt: number | undefined;
}

/** A request of the test's, or another thing that it waits for. */
interface Waiting {
  readonly fail: (error: Error) => void;
  /** Made where the test asked: has its file and line. */
  readonly place: Error;
}

interface Poll {
  readonly resume: () => void;
  /** What had happened when it was asked; undefined if other things were under way then. */
  readonly seen: number | undefined;
}

interface Sleeper {
  readonly atMs: number;
  readonly resume: () => void;
}

/** A call of a mock or of the test's `fetch` that is under way. */
interface Answering {
  begin(): void;
  end(): void;
}

/** Nothing can happen: before a test is told so, it may still do something of itself. */
const stuckAfterMs = 1000;
/** Steps of time while one thing is waited for; then something turns in circles. */
const movesMax = 1_000_000;
/** Clients whose host crashed ask again within this. */
const reconnectMs = 10;

export class World {
  readonly time: TestTime;
  readonly mocks = new Mocks();
  readonly store: Store = new MemoryStore();
  /** Points at which a host can crash that have been passed: one for a read, two for a write. */
  points = 0;
  /** What was done at the point of the crash. */
  crashedAt: string | undefined;
  readonly #options: WorldOptions;
  readonly #outbound: Outbound;
  readonly #answering = new AsyncLocalStorage<Answering>();
  readonly #random = randomSource(new TextEncoder().encode("sporeflow/testing"));
  readonly #waiting = new Set<Waiting>();
  readonly #polls = new Set<Poll>();
  readonly #sleepers = new Set<Sleeper>();
  readonly #resting = new Set<() => void>();
  /** Calls of mocks and of the test's `fetch` that are at work, of this host's. */
  #outside = new Set<Answering>();
  #life: Life;
  #ready: Promise<void> = Promise.resolve();
  #changes = 0;
  #moves = 0;
  #isCounting = false;
  #isDriving = false;
  #isAskedToDrive = false;
  #isClosed = false;

  constructor(options: WorldOptions) {
    this.#options = options;
    this.time = new TestTime(options.startMs, () => this.#drive());
    this.#outbound = createOutbound({
      fetch: (url, init) => this.#fetchOut(new Request(url, init)),
    });
    this.#life = this.#newLife();
  }

  get life(): Life {
    return this.#life;
  }

  /** Starts the first host. */
  async start(): Promise<void> {
    this.#ready = this.#life.start();
    await this.#ready;
  }

  /** Makes it what new runs take. Repeated if a crash comes between. */
  deploy(built: BuildResult): Promise<void> {
    const { prepared, code, map, outDir, cwd } = built;
    return this.waitFor(async () => {
      for (;;) {
        const life = await this.ready();
        const { host, maps } = life;
        const deployed = host
          .tenant("default")
          .deploy({ kind: "javascript", code })
          .then(() => maps.keep("default", prepared.id, projectMap(map, { outDir, cwd })))
          .then(() => true);
        if (await life.untilOver(deployed)) return;
      }
    });
  }

  /** From here on points are counted, and the host may crash. */
  count(): void {
    this.#isCounting = true;
  }

  #newLife(): Life {
    const { sandbox, observer } = this.#options;
    const random = this.#random;
    return new Life({
      store: this.store,
      sandbox,
      clock: this.time,
      random: { bytes: (count) => random.bytes(count) },
      outbound: { fetch: (request, context) => this.#outboundFetch(request, context) },
      observer,
      mocks: this.mocks,
      beforeStore: (what) => this.#point(`before ${what}`),
      afterWrite: (what) => this.#point(`after ${what}, before the host heard of it`),
    });
  }

  #point(what: string): void {
    if (!this.#isCounting) return;
    this.points += 1;
    if (this.points !== this.#options.crashAt) return;
    this.crashedAt = what;
    this.crash();
  }

  /** The host is gone at once, and the next one takes over what is stored. */
  crash(): void {
    this.#life.crash();
    this.#outside = new Set();
    this.#life = this.#newLife();
    this.#ready = this.#recover(this.#life);
    this.#drive();
  }

  async #recover(life: Life): Promise<void> {
    const end = life.activity.begin();
    try {
      // A host may crash while it recovers.
      await life.start();
      this.#changes += 1;
      void realPause(reconnectMs).then(end);
    } catch (error) {
      end();
      this.#failAll(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** Resolves when the host of the moment serves. */
  async ready(): Promise<Life> {
    for (;;) {
      const life = this.#life;
      await this.#ready;
      if (life === this.#life) return life;
    }
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    // What a host does to stop is no part of the test.
    this.#isCounting = false;
    await (await this.ready()).stop();
    this.#isClosed = true;
    this.#failAll(new Error("the test host was stopped"));
    await this.store.close();
  }

  // ---------------------------------------------------------------- requests of the test

  /** The host's HTTP API. What would wait for long is asked again when something has happened. */
  async request(request: Request): Promise<Response> {
    const { signal } = request;
    return this.waitFor(async () => {
      const url = new URL(request.url);
      const isPatient = isPatientRequest(url);
      const askedMs = performance.now();
      if (isPatient) url.searchParams.set("wait", "0ms");
      // Read here and not by the host: until then nothing shows that something comes.
      const body = await this.#life.activity.during(request.arrayBuffer());
      const { method, headers } = request;
      let seen: number | undefined;
      for (;;) {
        const life = await this.ready();
        const init = { method, headers, ...(body.byteLength === 0 ? {} : { body }) };
        const again = new Request(url, init);
        const response = await life.answer(again);
        if (response === undefined) return crashed();
        if (!isPatient) this.#changes += 1;
        if (!isPatient || response.status !== 202) {
          await this.#rest();
          return this.#followed(response);
        }
        if (isOver(request, askedMs)) return response;
        await this.#happening(seen, signal);
        seen = this.#changes;
      }
    }, signal);
  }

  /** Resolves at a quiet moment after something has happened since `seen`. */
  #happening(seen: number | undefined, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const poll: Poll = { resume: resolve, seen };
      signal.addEventListener("abort", () => this.#polls.delete(poll));
      this.#polls.add(poll);
      this.#drive();
    });
  }

  /** Counts as something that the test waits for, and fails if it can't come. */
  waitFor<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const place = new Error();
    return new Promise<T>((resolve, reject) => {
      if (this.#isClosed) throw new Error("the test host was stopped");
      const waiting: Waiting = { fail: reject, place };
      this.#waiting.add(waiting);
      this.#moves = 0;
      const end = (): void => {
        this.#waiting.delete(waiting);
      };
      signal?.addEventListener("abort", () => {
        end();
        reject(signal.reason);
      });
      work().finally(end).then(resolve, reject);
      this.#drive();
    });
  }

  /** A stream is waited for while somebody reads from it. */
  #followed(response: Response): Response {
    if (response.headers.get("content-type")?.startsWith("text/event-stream") !== true) {
      return response;
    }
    const reader = response.body?.getReader();
    if (reader === undefined) return response;
    const life = this.#life;
    const body = new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          const read = await this.waitFor(() => life.untilOver(reader.read()));
          if (read === undefined) throw new TypeError("the host crashed");
          if (read.done) controller.close();
          else controller.enqueue(read.value);
        },
        cancel: (reason) => reader.cancel(reason),
      },
      { highWaterMark: 0 },
    );
    return new Response(body, { status: response.status, headers: response.headers });
  }

  // ---------------------------------------------------------------- what guests ask for

  #outboundFetch(
    ...[request, context]: Parameters<Outbound["fetch"]>
  ): ReturnType<Outbound["fetch"]> {
    const outside = this.#outside;
    const answering: Answering = {
      begin: () => {
        outside.add(answering);
      },
      end: () => {
        outside.delete(answering);
        this.#drive();
      },
    };
    answering.begin();
    return this.#answering
      .run(answering, async () => {
        if (this.mocks.isMockCall(request)) return this.mocks.answer(request, context.runId);
        return this.#outbound.fetch(request, context);
      })
      .finally(() => {
        this.#changes += 1;
        answering.end();
      });
  }

  async #fetchOut(request: Request): Promise<Response> {
    const { fetch } = this.#options;
    if (fetch !== undefined) return fetch(request);
    throw new Error(
      `the test answers no ${request.method} ${request.url}: give createTestHost a fetch`,
    );
  }

  // ---------------------------------------------------------------- time

  /** In a mock: its answer takes so long. Else: the test goes on when so much time has passed. */
  sleep(durationMs: number): Promise<void> {
    const answering = this.#answering.getStore();
    if (answering !== undefined) return this.#sleepInside(answering, durationMs);
    return this.waitFor(
      () =>
        new Promise((resume) => {
          this.#sleepers.add({ atMs: this.time.nowMs() + durationMs, resume });
        }),
    );
  }

  #sleepInside(answering: Answering, durationMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.time.after(durationMs, () => {
        answering.begin();
        resolve();
      });
      answering.end();
    });
  }

  /** Goes on with whatever can go on. One loop at a time. */
  #drive(): void {
    this.#isAskedToDrive = true;
    if (this.#isDriving || this.#isClosed) return;
    this.#isDriving = true;
    void this.#driveOn().finally(() => {
      this.#isDriving = false;
    });
  }

  async #driveOn(): Promise<void> {
    while (this.#isAskedToDrive && !this.#isClosed) {
      this.#isAskedToDrive = false;
      for (;;) {
        const life = this.#life;
        await life.activity.quiet();
        if (this.#isClosed) return;
        if (life !== this.#life) continue;
        if (!(await this.#goOn())) break;
      }
    }
  }

  /** One step further; false if there is none. */
  async #goOn(): Promise<boolean> {
    if (this.time.fireDue()) {
      this.#changes += 1;
      return true;
    }
    if (this.#askAgain() || this.#endRest()) return true;
    // Goes on when the test has answered.
    if (this.#outside.size > 0) return false;
    if (this.#wakeSleepers()) return true;
    const isSkipping = this.#options.skipsTime && this.#waiting.size > 0;
    if (!isSkipping && this.#sleepers.size === 0) return false;
    const sleepersMs = [...this.#sleepers].map(({ atMs }) => atMs);
    const nextMs = Math.min(this.time.nextMs ?? Number.POSITIVE_INFINITY, ...sleepersMs);
    if (!Number.isFinite(nextMs)) return this.#stick("nothing can happen any more");
    this.#moves += 1;
    if (this.#moves > movesMax) return this.#stick(`time has moved ${movesMax} times`);
    this.time.moveTo(nextMs);
    return true;
  }

  #askAgain(): boolean {
    const late = [...this.#polls].filter(({ seen }) => seen !== this.#changes);
    for (const poll of late) {
      this.#polls.delete(poll);
      poll.resume();
    }
    return late.length > 0;
  }

  /** Resolves when all that can happen without time has happened. */
  #rest(): Promise<void> {
    if (this.#isClosed) return Promise.resolve();
    return new Promise((resolve) => {
      this.#resting.add(resolve);
      this.#drive();
    });
  }

  #endRest(): boolean {
    const resting = [...this.#resting];
    this.#resting.clear();
    for (const resume of resting) resume();
    return resting.length > 0;
  }

  #wakeSleepers(): boolean {
    const due = [...this.#sleepers].filter(({ atMs }) => atMs <= this.time.nowMs());
    for (const sleeper of due) {
      this.#sleepers.delete(sleeper);
      sleeper.resume();
    }
    return due.length > 0;
  }

  /** Tells everybody who waits that it is in vain, unless the test does something meanwhile. */
  async #stick(reason: string): Promise<boolean> {
    const before = [...this.#waiting];
    const changes = this.#changes;
    if (this.#moves <= movesMax) await realPause(stuckAfterMs);
    if (changes !== this.#changes || before.some((each) => !this.#waiting.has(each))) return true;
    if (this.#isClosed) return false;
    const text = `${reason}\n${await this.#situation()}`;
    for (const waiting of before) {
      const { place } = waiting;
      const frames = place.stack?.slice(Math.max(0, place.stack.search(/^ {4}at /m)));
      place.message = text;
      place.stack = `Error: ${text}\n${frames}`;
      this.#waiting.delete(waiting);
      waiting.fail(place);
    }
    this.#polls.clear();
    return false;
  }

  /** What each open run waits for, in words. */
  async #situation(): Promise<string> {
    const tenant = this.#life.host.tenant("default");
    const lines = [`  now: ${new Date(this.time.nowMs()).toISOString()}`];
    const statuses = ["RUNNING", "PENDING", "PAUSED", "RESUMABLE"] as const;
    const { runs } = await tenant.listRuns({ statuses, limit: 10 });
    for (const { id, name, status } of runs) {
      const { waiting } = await tenant.getRun(id);
      const what = waiting === undefined ? status : `waits for ${waiting.for}`;
      lines.push(`  run ${id}${name === "" ? "" : ` (${name})`}: ${what}`);
    }
    if (runs.length === 0) lines.push("  no run is open");
    return lines.join("\n");
  }

  #failAll(error: Error): void {
    for (const { fail } of this.#waiting) fail(error);
    this.#waiting.clear();
    this.#polls.clear();
    this.#sleepers.clear();
    this.#endRest();
  }
}

/** What may be asked again without doing more than once: not a start, which resumes what failed. */
function isPatientRequest({ pathname, searchParams }: URL): boolean {
  return /^\d/.test(searchParams.get("wait") ?? "") && !/^\/v1\/(workflows|graphs)/.test(pathname);
}

/** As of a proxy whose host went away: a client sends again what may be sent again. */
function crashed(): Response {
  const problem = { code: "unreachable", status: 503, detail: "the host crashed meanwhile" };
  return Response.json(problem, { status: 503, headers: { "retry-after": "0" } });
}

/** A wait that the client has bounded counts in real time, as for any host. */
function isOver(request: Request, askedMs: number): boolean {
  const wait = new URL(request.url).searchParams.get("wait") ?? "";
  const waitMs = wait.endsWith("ms") ? Number(wait.slice(0, -2)) : Number.POSITIVE_INFINITY;
  return waitMs < 60_000 && performance.now() - askedMs >= waitMs;
}
