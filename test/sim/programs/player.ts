/** Runs programs (program.ts) as a guest does, with the real SDK. */
import { currentMachine } from "../../../guest/activation.ts";
import { decode } from "../../../guest/cbor.ts";
import {
  actor,
  CancelledError,
  ChildError,
  compensate,
  context,
  continueAsNew,
  externalEvent,
  type Graph,
  GuestError,
  get,
  handle,
  map,
  NonRetryableError,
  publish,
  put,
  query,
  type Ref,
  run,
  type StepNode,
  type StepOptions,
  signal,
  sleep,
  start,
  step,
  TimeoutError,
  update,
  workflow,
} from "../../../guest/index.ts";
import type { FetchResponse } from "../../../guest/protocol.ts";
import {
  type Choices,
  codeOfFailure,
  type Failure,
  type Join,
  longSleep,
  mix,
  numberOf,
  type Plan,
  type Program,
  tokenNameOf,
  type Value,
  type Vertex,
  type Work,
} from "./program.ts";

// ---------------------------------------------------------------- steps

async function perform(key: string, attempt: number): Promise<void> {
  const url = `https://ledger/${encodeURIComponent(key)}?attempt=${attempt}`;
  const answer = await currentMachine().command(
    (id) => ({ kind: "fetch", id, request: { method: "POST", url, headers: [] } }),
    "fetch",
  );
  const { status } = decode(answer) as FetchResponse;
  if (status !== 200) throw new Error(`status ${status}`);
}

function throwFailure(failure: Failure, id: string): never {
  const code = codeOfFailure(failure, id);
  if (failure === "text") throw `${id} is no error`;
  if (failure === "abort") throw Object.assign(new Error(id), { name: "AbortError" });
  if (failure === "final") throw new NonRetryableError(id, { code });
  throw new GuestError(id, { code, class: "user" });
}

/** One attempt. What `value` gives is its value if it succeeds. */
function attempt<Out>(plan: Plan, id: string, value: (seen: number) => Out): Out | Promise<Out> {
  const here = context().step;
  if (here === undefined) throw new Error("an attempt belongs to a step");
  const { attempt: number, idempotencyKey } = here;
  const seen = plan.tellsProgress ? Number(here.lastProgress ?? 0) : 0;
  if (plan.tellsProgress) here.progress(number);
  const failure = plan.fails[number - 1];
  if (failure === "stuck") return sleep(longSleep).then(() => value(seen));
  if (plan.waitMs === undefined && !plan.isEffect) {
    return failure === undefined ? value(seen) : throwFailure(failure, id);
  }
  const { isEffect, waitMs } = plan;
  return (async () => {
    if (waitMs !== undefined) await sleep(waitMs);
    if (failure !== undefined) throwFailure(failure, id);
    if (isEffect) await perform(idempotencyKey, number);
    return value(seen);
  })();
}

function optionsOf(plan: Plan, id: string): StepOptions {
  const { retryIf, nonRetryable } = plan;
  return {
    name: id,
    retries: plan.retries,
    backoff: plan.fails.length % 2 === 0 ? { initial: 20, max: 500 } : (attempt) => 7 * attempt,
    catchErrors: plan.isCaught,
    checkpoint: !plan.isUnkept,
    ...(plan.fails.includes("stuck") && { timeout: 40 }),
    ...(retryIf !== undefined && {
      retryIf: (error: Error) => retryIf.some((kind) => codeOf(error).startsWith(kind)),
    }),
    ...(nonRetryable !== undefined && {
      nonRetryable: nonRetryable.map((kind) => (kind.length === 1 ? `${kind}:${id}` : kind)),
    }),
  };
}

const unact = step(
  "unact",
  async (result: unknown, _plan: Plan, id: string) => {
    const { step: here } = context();
    if (here !== undefined) await perform(here.idempotencyKey, here.attempt);
    return [id, result];
  },
  { retries: 30, backoff: { initial: 20, max: 500 } },
);

const act = step("act", (plan: Plan, id: string, input: number) =>
  attempt(plan, id, (seen) => mix(id, input, seen)),
);
/** Undone by a step, or by a function that goes on in one. */
const undos = (...args: [unknown, Plan, string]): unknown => unact.step(...args);

const read = step("read", async (id: string, ref: Ref<readonly Value[]>) =>
  mix(id, numberOf(await get(ref))),
);

/** A node of a graph. */
const knit = step(
  "knit",
  (plan: Plan, ids: readonly [string, string], inputs: unknown, grows: readonly Vertex[]) => {
    const [id, path] = ids;
    return attempt<Graph<number>>(plan, id, (seen) => {
      const value = mix(id, numberOf(plain(inputs)), seen);
      return grows.length === 0 ? value : graphOf(grows, value, path);
    });
  },
);

/** Pairs of steps that catch their errors, with codes in the place of errors. */
function plain(value: unknown): Value {
  if (Array.isArray(value)) return value.map((each) => plain(each));
  if (value instanceof Error) return codeOf(value);
  if (typeof value === "number" || typeof value === "string") return value;
  if (value === null || value === undefined) return null;
  return Object.values(value).map((each) => plain(each));
}

function graphOf(vertices: readonly Vertex[], input: number, path: string): StepNode<number> {
  const nodes: StepNode<number>[] = [];
  for (const { label, plan, from, shape, grows = [] } of vertices) {
    const id = label + path;
    const inputs = from.map((index) => nodes[index]);
    const arg = shaped(shape, inputs.length === 0 ? [input] : inputs);
    const use = knit.options(optionsOf(plan, id) as { retries: number });
    nodes.push(use.step(plan, [id, path], arg, grows as never) as StepNode<number>);
  }
  const root = nodes.at(-1);
  if (root === undefined) throw new Error("a graph has a root");
  return root;
}

function shaped(shape: Vertex["shape"], inputs: readonly unknown[]): unknown {
  if (shape === "array") return inputs;
  if (shape === "deep") return inputs.map((each) => [{ deep: each }]);
  return Object.fromEntries(inputs.map((each, index) => [`n${index}`, each]));
}

// ---------------------------------------------------------------- errors

export function codeOf(error: unknown): string {
  if (error instanceof ChildError && error.cause !== undefined) return codeOf(error.cause);
  if (error instanceof AggregateError) return "aggregate";
  if (!(error instanceof Error)) return "no error";
  const { code } = error as { code?: unknown };
  return typeof code === "string" ? code : error.name;
}

/** Of this run: what another one's caller gets is a ChildError. */
function isCancellation(error: unknown): boolean {
  return error instanceof CancelledError;
}

/** What came to nothing because the run was cancelled is cancelled. */
function throwCancellation(error: unknown): never {
  const errors = error instanceof AggregateError ? error.errors : [];
  throw errors.find((each) => isCancellation(each)) ?? error;
}

function choicesOf(error: unknown): Choices {
  const told = error instanceof ChildError ? error.cause : error;
  const { choices } = (told ?? {}) as { choices?: Choices };
  return choices ?? {};
}

// ---------------------------------------------------------------- the player

type Of<Kind extends Work["kind"]> = Extract<Work, { kind: Kind }>;

/** What a program says when it is over. */
export interface Played {
  readonly value: Value;
  readonly choices: Choices;
}

class Player {
  readonly choices: Choices;
  readonly #tally: string;
  /** Parts that are done. */
  done = 0;

  constructor(tally: string, choices: Choices) {
    this.#tally = tally;
    this.choices = { ...choices };
  }

  /** All of what it is asked, with what it chose. */
  async play(work: Work, input: number, path: string): Promise<Played> {
    try {
      return { value: await this.go(work, input, path), choices: this.choices };
    } catch (error) {
      if (error instanceof Error) Object.assign(error, { choices: this.choices });
      throw error;
    }
  }

  async go(work: Work, input: number, path: string): Promise<Value> {
    const value = await this.#part(work, input, path);
    this.done += 1;
    return value;
  }

  #part(work: Work, input: number, path: string): Value | Promise<Value> {
    const id = work.label + path;
    switch (work.kind) {
      case "value":
        return mix(id, input);
      case "step":
        return this.#step(work, input, id);
      case "sleep":
        return this.#sleep(work.ms);
      case "throw":
        throw new GuestError(id, { code: `thrown:${id}`, class: "user" });
      case "series":
        return this.#series(work.parts, input, path);
      case "all":
      case "settled":
      case "race":
      case "any":
        return this.#join(work, input, path);
      case "try":
        return this.#try(work, input, path);
      case "branch":
        return this.go(input % 2 === 0 ? work.even : work.odd, input, path);
      case "loop":
        return this.#loop(work, input, path);
      case "map":
        return this.#map(work, input, path);
      case "graph":
        return this.#graph(work, input, path);
      default:
        return this.#outward(work, input, path);
    }
  }

  /** Parts that have to do with others. */
  #outward(work: Work, input: number, path: string): Value | Promise<Value> {
    const id = work.label + path;
    switch (work.kind) {
      case "signal":
        return this.#signal(work, id);
      case "either":
        return this.#either(id);
      case "event":
        return this.#event(work, id);
      case "publish":
        publish(id, mix(id, input));
        return mix(id, input);
      case "store":
        return this.#store(work.size, input, id);
      case "count":
        return this.#count(work.how, id);
      case "turn":
        return this.#follow(stageOf(this.#tally, id).play(work.body, input, [path, this.#tally]));
      case "child":
        return this.#child(work, input, path);
      case "told":
        return this.#told(work, input, path);
      case "tell":
        return handle(work.to)
          .signal(work.name, mix(work.name, input))
          .then(() => mix(id, input));
      case "stopped":
        return this.#stopped(work, input, path);
      case "undo":
        return compensate().then(() => 0);
      default:
        throw new Error(`there is no ${work.kind}`);
    }
  }

  async #step({ plan }: Of<"step">, input: number, id: string): Promise<Value> {
    const options = optionsOf(plan, id) as { retries: number };
    const undo = plan.retries % 2 === 0 ? unact : undos;
    const use = plan.isUndone ? { ...options, compensate: undo } : options;
    const value: unknown = plan.isInline
      ? await run(id, () => attempt(plan, id, (seen) => mix(id, input, seen)), options)
      : await act.options(use)(plan, id, input);
    return plain(value);
  }

  async #sleep(ms: number): Promise<Value> {
    const before = currentMachine().nowMs();
    await sleep(ms);
    const late = currentMachine().nowMs() - before - ms;
    if (late < 0) throw new Error(`woken ${-late} ms early`);
    return 0;
  }

  async #series(parts: readonly Work[], input: number, path: string): Promise<Value> {
    const values: Value[] = [];
    let last = input;
    for (const part of parts) {
      const value = await this.go(part, last, path);
      values.push(value);
      last = numberOf(value);
    }
    return values;
  }

  async #loop({ times, body }: Of<"loop">, input: number, path: string): Promise<Value> {
    let value: Value = input;
    for (let i = 0; i < times; i += 1) value = await this.go(body, numberOf(value), `${path}.${i}`);
    return value;
  }

  async #map(work: Of<"map">, input: number, path: string): Promise<Value> {
    const { label, times, atOnce, body } = work;
    const items = Array.from({ length: times }, (_, i) => i);
    const one = (i: number): Promise<Value> =>
      this.#first(label + path, i, "failed", this.go(body, input + i, `${path}.${i}`));
    return map(items, one, { concurrency: atOnce });
  }

  /** Tells which of several ended so first. */
  async #first(
    id: string,
    index: number,
    what: "failed" | "succeeded" | "ended",
    work: Promise<Value>,
  ): Promise<Value> {
    try {
      const value = await work;
      if (what !== "failed") this.choices[id] ??= index;
      return value;
    } catch (error) {
      if (what !== "succeeded") this.choices[id] ??= index;
      throw error;
    }
  }

  async #join(work: Join, input: number, path: string): Promise<Value> {
    const { kind, label, parts } = work;
    const id = label + path;
    const what = joins[kind];
    const works = parts.map((part, i) => this.#first(id, i, what, this.go(part, input, path)));
    if (kind === "all") return Promise.all(works);
    if (kind === "race") return Promise.race(works);
    if (kind === "any") return Promise.any(works).catch(throwCancellation);
    const settled = await Promise.allSettled(works);
    return settled.map((each): Value => {
      if (each.status === "fulfilled") return ["ok", each.value];
      if (isCancellation(each.reason)) throw each.reason;
      return ["no", codeOf(each.reason)];
    });
  }

  async #try(work: Of<"try">, input: number, path: string): Promise<Value> {
    const { body, rescue, last } = work;
    try {
      return await this.go(body, input, path);
    } catch (error) {
      if (isCancellation(error) || rescue === undefined) throw error;
      const code = codeOf(error);
      return [code, await this.go(rescue, numberOf(code), path)];
    } finally {
      if (last !== undefined) await this.go(last, input, path);
    }
  }

  async #graph(work: Of<"graph">, input: number, path: string): Promise<Value> {
    const graph = graphOf(work.vertices, input, path);
    try {
      const value = plain(await run(graph));
      return work.isTwice ? [value, plain(await run(graph))] : value;
    } catch (error) {
      this.choices[work.label + path] = numberOf(codeOf(error));
      throw error;
    }
  }

  async #signal({ timeoutMs }: Of<"signal">, id: string): Promise<Value> {
    if (timeoutMs === undefined) return signal<number>(id);
    try {
      const value = await signal<number>(id, { timeout: timeoutMs });
      this.choices[id] = 0;
      return value;
    } catch (error) {
      if (!(error instanceof TimeoutError)) throw error;
      this.choices[id] = 1;
      return "late";
    }
  }

  async #event({ timeoutMs }: Of<"event">, id: string): Promise<Value> {
    const options = timeoutMs === undefined ? {} : { timeout: timeoutMs };
    const event = await externalEvent<number>(id, options);
    publish(tokenNameOf(id), event.token);
    try {
      const value = await event.result();
      this.choices[id] = 0;
      return value;
    } catch (error) {
      if (timeoutMs === undefined || !(error instanceof TimeoutError)) throw error;
      this.choices[id] = 1;
      return "late";
    }
  }

  async #either(id: string): Promise<Value> {
    const names = [`${id}a`, `${id}b`] as const;
    const first = await signal<number>(names);
    const index = first.name === names[0] ? 0 : 1;
    this.choices[id] = index;
    const other = await signal<number>(names[1 - index] ?? "");
    return [first.value, other];
  }

  async #store(size: number, input: number, id: string): Promise<Value> {
    const text = "stored ".repeat(size);
    const ref = await put<readonly Value[]>([input, text]);
    return read.options({ name: id })(id, ref);
  }

  async #count(how: Of<"count">["how"], id: string): Promise<Value> {
    const tally = Tally.getOrCreate(this.#tally);
    if (how === "fail") return tally.fail(id);
    if (how === "call") return tally.add(id);
    await tally.send.add(id);
    return 1;
  }

  // ---- other runs

  async #follow(work: Promise<Played>): Promise<Value> {
    try {
      const { value, choices } = await work;
      Object.assign(this.choices, choices);
      return value;
    } catch (error) {
      Object.assign(this.choices, choicesOf(error));
      throw error;
    }
  }

  #child(work: Of<"child">, input: number, path: string): Promise<Value> | Value {
    const { how, label, lives } = work;
    const program = { lives, tally: this.#tally, path };
    if (how === "call") return this.#follow(programmed(program, 1, input, {}));
    const what = programmed.with(program, 1, input, {});
    const id = `${context().run.runId}.${label}${path}`;
    const child = how === "abandon" ? "abandon" : "cancel";
    const started = start(what, { id, child });
    if (how === "abandon") return started.then(({ created }) => (created ? 1 : 0));
    return this.#follow(started.then((each) => each.result()));
  }

  async #told(work: Of<"told">, input: number, path: string): Promise<Value> {
    const name = work.label + path;
    const to = context().run.runId;
    const tell: Work = { kind: "tell", label: `${work.label}t`, to, name };
    const body: Work = { kind: "series", label: `${work.label}s`, parts: [work.body, tell] };
    const program = { lives: [body], tally: this.#tally, path };
    return Promise.all([this.#follow(programmed(program, 1, input, {})), signal<number>(name)]);
  }

  async #stopped(work: Of<"stopped">, input: number, path: string): Promise<Value> {
    const { label, last } = work;
    const wait: Work = { kind: "sleep", label: `${label}w`, ms: 20 * 24 * 3_600_000 };
    const body: Work = { kind: "try", label: `${label}s`, body: wait, last };
    const program = { lives: [body], tally: this.#tally, path };
    const id = `${context().run.runId}.${label}${path}`;
    const child = await start(programmed.with(program, 1, input, {}), { id, child: "cancel" });
    await child.cancel("enough");
    return this.#follow(child.result());
  }
}

const joins = { all: "failed", settled: "failed", race: "ended", any: "succeeded" } as const;

// ---------------------------------------------------------------- definitions

export const programmed = workflow(
  "programmed",
  async (program: Program, life: number, input: number, before: Choices): Promise<Played> => {
    const { lives, handler, closing, tally, path } = program;
    const player = new Player(tally, before);
    query("progress", () => [life, player.done]);
    if (handler !== undefined) {
      update("handle", (n: number) => new Player(tally, {}).play(handler, n, `${path}u${n}`));
    }
    try {
      const work = lives[life - 1];
      if (work === undefined) throw new Error(`there is no life ${life}`);
      const value = await player.go(work, input, path);
      if (closing !== undefined && life === lives.length) await signal(closing);
      if (life < lives.length) {
        continueAsNew(program, life + 1, numberOf(value), player.choices);
      }
      publish("choices", player.choices);
      return { value, choices: player.choices };
    } catch (error) {
      if (error instanceof Error && !error.message.startsWith("continue-as-new")) {
        Object.assign(error, { choices: player.choices });
      }
      throw error;
    }
  },
);

/** Counts, each part on its own. */
export const Tally = actor(
  "Tallies",
  class {
    counts: Record<string, number> = {};
    add(id: string): number {
      this.counts[id] = (this.counts[id] ?? 0) + 1;
      return 1; // also to forks
    }
    fail(id: string): number {
      this.counts[id] = 1_000_000;
      throw new GuestError(id, { code: `denied:${id}`, class: "user" });
    }
    list(): Record<string, number> {
      return this.counts;
    }
  },
  { readonly: ["list"] },
);

/** Whose turn is a part of a program. */
export const Stage = actor(
  "Stage",
  class {
    plays = 0;
    async play(work: Work, input: number, place: readonly [string, string]): Promise<Played> {
      const [path, tally] = place;
      this.plays += 1;
      return new Player(tally, {}).play(work, input, path);
    }
  },
);

function stageOf(tally: string, id: string): ReturnType<typeof Stage.getOrCreate> {
  return Stage.getOrCreate(`${tally}-${id}`);
}
