/**
 * What must come of a program, told by a plain evaluator that knows no run: its value or error, the
 * steps with their attempts, and which comes before which.
 */
import {
  type Choices,
  codeOfFailure,
  type Failure,
  isDenied,
  type Join,
  mix,
  numberOf,
  type Plan,
  type Program,
  plainPlan,
  type Value,
  type Vertex,
  visit,
  type Work,
} from "./program.ts";

/** Which steps there are, and in what order. */
export type Trace =
  | { readonly kind: "none" }
  | { readonly kind: "step"; readonly step: WantedStep }
  | { readonly kind: "series"; readonly parts: readonly Trace[] }
  /** Beside each other; all of them are over when it is. */
  | { readonly kind: "beside"; readonly parts: readonly Trace[] }
  /** Each begins when those that it comes from are over. */
  | { readonly kind: "graph"; readonly parts: readonly Trace[]; readonly from: Sources }
  /** What may be under way, or begin later, or not at all. */
  | { readonly kind: "loose"; readonly ids: readonly string[] };

type Sources = readonly (readonly number[])[];

export interface WantedStep {
  readonly id: string;
  readonly plan: Plan;
  readonly attempts: number;
  readonly end: "succeeded" | "failed" | "continued";
}

export interface Told {
  readonly value: Value;
  /** Set if it fails. */
  readonly code: string | undefined;
  readonly trace: Trace;
}

/** A run that must be there, or may. */
export interface ChildRun {
  readonly id: string;
  readonly program: Program;
  readonly input: number;
  /** Its choices are its own. */
  readonly isAbandoned: boolean;
  readonly told: Told | undefined;
}

export type Rounds = ReadonlyMap<string, number>;

interface ModelParts {
  readonly tally: string;
  readonly choices: Choices;
  readonly rounds: Rounds;
}

const none: Trace = { kind: "none" };

/** What a run says can't be. */
export class Impossible extends Error {}

type Of<Kind extends Work["kind"]> = Extract<Work, { kind: Kind }>;

export class Model {
  readonly #choices: Choices;
  /** Counted for sure. */
  counted = new Set<string>();
  published = new Map<string, number>();
  children: ChildRun[] = [];
  readonly #tally: string;
  /** The run that is looked at; undefined where nobody knows its id. */
  #run: string | undefined;
  /** How often a step was begun with all its attempts, if more than once: its run was resumed. */
  readonly #rounds: Rounds;

  constructor(run: string, { tally, choices, rounds }: ModelParts) {
    this.#run = run;
    this.#tally = tally;
    this.#choices = choices;
    this.#rounds = rounds;
  }

  /** Of a part that tells its choices by itself; what must be there is this one's too. */
  with(choices: Choices, rounds: Rounds): Model {
    const parts = { tally: this.#tally, choices, rounds };
    const other = new Model(this.#run ?? "", parts);
    const { counted, published, children } = this;
    return Object.assign(other, { counted, published, children });
  }

  program({ lives, path }: Program, input: number): Told {
    let last = input;
    const parts: Trace[] = [];
    let value: Value = 0;
    for (const life of lives) {
      const told = this.part(life, last, path);
      parts.push(told.trace);
      const trace: Trace = { kind: "series", parts };
      if (told.code !== undefined) return { ...told, trace };
      value = told.value;
      last = numberOf(value);
    }
    return { value, code: undefined, trace: { kind: "series", parts } };
  }

  part(work: Work, input: number, path: string): Told {
    const id = work.label + path;
    switch (work.kind) {
      case "value":
        return ok(mix(id, input));
      case "step":
        return stepTold({ id, plan: work.plan, rounds: this.#rounds }, (seen) =>
          mix(id, input, seen),
        );
      case "sleep":
        return ok(0);
      case "throw":
        return failed(`thrown:${id}`);
      case "series":
        return this.#series(work.parts, input, path);
      case "all":
        return this.#all(work, input, path);
      case "settled":
        return this.#settled(work, input, path);
      case "race":
        return this.#race(work, input, path);
      case "any":
        return this.#any(work, input, path);
      case "try":
        return this.#try(work, input, path);
      case "branch":
        return this.part(input % 2 === 0 ? work.even : work.odd, input, path);
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

  #outward(work: Work, input: number, path: string): Told {
    const id = work.label + path;
    switch (work.kind) {
      case "signal":
        if (work.timeoutMs !== undefined && this.#choices[id] === 1) return ok("late");
        return ok(signalValue(id));
      case "event":
        if (work.timeoutMs !== undefined && this.#choices[id] === 1) return ok("late");
        return isDenied(id) ? failed(`denied:${id}`) : ok(signalValue(id));
      case "either": {
        const values = [signalValue(`${id}a`), signalValue(`${id}b`)];
        return ok(this.#choices[id] === 1 ? values.toReversed() : values);
      }
      case "publish":
        // What a program within another publishes is that run's.
        if (this.#run !== undefined) this.published.set(`${this.#run} ${id}`, mix(id, input));
        return ok(mix(id, input));
      case "store": {
        const value = mix(id, numberOf([input, "stored ".repeat(work.size)]));
        return stepTold({ id, plan: plainPlan, rounds: this.#rounds }, () => value);
      }
      case "count":
        if (work.how === "fail") return failed(`denied:${id}`);
        this.counted.add(id);
        return ok(1);
      case "turn":
        return this.#within(undefined, () => this.part(work.body, input, path));
      case "child":
        return this.#child(work, input, path);
      case "told":
        return this.#told(work, input, path);
      case "stopped":
        return this.#stopped(work, input, path);
      case "undo":
        return ok(0);
      default:
        throw new Error(`there is no ${work.kind}`);
    }
  }

  #series(works: readonly Work[], input: number, path: string): Told {
    const values: Value[] = [];
    const parts: Trace[] = [];
    let last = input;
    for (const part of works) {
      const told = this.part(part, last, path);
      parts.push(told.trace);
      if (told.code !== undefined) return { ...told, trace: { kind: "series", parts } };
      values.push(told.value);
      last = numberOf(told.value);
    }
    return { value: values, code: undefined, trace: { kind: "series", parts } };
  }

  #loop({ times, body }: Of<"loop">, input: number, path: string): Told {
    const parts: Trace[] = [];
    let value: Value = input;
    for (let i = 0; i < times; i += 1) {
      const told = this.part(body, numberOf(value), `${path}.${i}`);
      parts.push(told.trace);
      if (told.code !== undefined) return { ...told, trace: { kind: "series", parts } };
      value = told.value;
    }
    return { value, code: undefined, trace: { kind: "series", parts } };
  }

  #try({ body, rescue, last }: Of<"try">, input: number, path: string): Told {
    const first = this.part(body, input, path);
    const parts = [first.trace];
    let told = first;
    if (first.code !== undefined && rescue !== undefined) {
      told = this.part(rescue, numberOf(first.code), path);
      parts.push(told.trace);
      if (told.code === undefined) told = { ...told, value: [first.code, told.value] };
    }
    if (last !== undefined) {
      const final = this.part(last, input, path);
      parts.push(final.trace);
      if (final.code !== undefined) told = final;
    }
    return { ...told, trace: { kind: "series", parts } };
  }

  // ---- beside each other

  /** That branch decides, the others go on or don't. */
  #decided(works: readonly Among[], index: number): Told {
    const parts = works.map(({ work, path }, i) => (i === index ? none : looseOf(work, path)));
    const chosen = works[index];
    if (chosen === undefined) throw new Impossible(`there is no branch ${index}`);
    const told = this.part(chosen.work, chosen.input, chosen.path);
    return { ...told, trace: { kind: "beside", parts: [told.trace, ...parts] } };
  }

  /** Those that must all succeed, unless the run says which one failed first. */
  #together(id: string, works: readonly Among[]): Told {
    const index = this.#choices[id];
    if (index !== undefined) {
      const told = this.#decided(works, index);
      if (told.code === undefined) throw new Impossible(`${id}: branch ${index} can't fail`);
      return told;
    }
    const all = works.map(({ work, input, path }) => this.part(work, input, path));
    const wrong = all.find(({ code }) => code !== undefined);
    if (wrong !== undefined) throw new Impossible(`${id}: ${wrong.code} should have been met`);
    return besides(
      all,
      all.map(({ value }) => value),
    );
  }

  #all({ label, parts }: Join, input: number, path: string): Told {
    return this.#together(
      label + path,
      parts.map((work) => ({ work, input, path })),
    );
  }

  #map({ label, times, body }: Of<"map">, input: number, path: string): Told {
    const works = Array.from({ length: times }, (_, i) => {
      return { work: body, input: input + i, path: `${path}.${i}` };
    });
    return this.#together(label + path, works);
  }

  #settled({ parts }: Join, input: number, path: string): Told {
    const all = parts.map((part) => this.part(part, input, path));
    return besides(
      all,
      all.map(({ value, code }) => (code === undefined ? ["ok", value] : ["no", code])),
    );
  }

  #race({ label, parts }: Join, input: number, path: string): Told {
    const id = label + path;
    const index = this.#choices[id];
    if (index === undefined) throw new Impossible(`${id}: nobody won`);
    const soonest = soonestOf(parts);
    if (soonest !== undefined && index !== soonest) {
      throw new Impossible(`${id}: sleep ${index} was over before sleep ${soonest}`);
    }
    return this.#decided(
      parts.map((work) => ({ work, input, path })),
      index,
    );
  }

  #any({ label, parts }: Join, input: number, path: string): Told {
    const id = label + path;
    const index = this.#choices[id];
    const works = parts.map((work) => ({ work, input, path }));
    if (index !== undefined) {
      const told = this.#decided(works, index);
      if (told.code !== undefined) throw new Impossible(`${id}: branch ${index} can't succeed`);
      return told;
    }
    const all = parts.map((part) => this.part(part, input, path));
    const fine = all.findIndex(({ code }) => code === undefined);
    if (fine >= 0) throw new Impossible(`${id}: branch ${fine} should have succeeded`);
    return { ...besides(all, 0), code: "aggregate" };
  }

  // ---- graphs

  #graph(work: Of<"graph">, input: number, path: string): Told {
    const id = work.label + path;
    const { value, failures, trace } = graphTold(work.vertices, input, {
      path,
      rounds: this.#rounds,
    });
    const [first] = failures;
    if (first === undefined) {
      return { value: work.isTwice ? [value, value] : value, code: undefined, trace };
    }
    const code = failures.find((each) => numberOf(each) === this.#choices[id]);
    if (code === undefined) throw new Impossible(`${id}: it must fail of ${failures.join(" or ")}`);
    return { value: 0, code, trace };
  }

  // ---- other runs

  #within<Result>(run: string | undefined, work: () => Result): Result & { readonly trace: Trace } {
    const outer = this.#run;
    this.#run = run;
    const result = work();
    this.#run = outer;
    return { ...result, trace: none };
  }

  #child(work: Of<"child">, input: number, path: string): Told {
    const { how, lives, label } = work;
    const program = { lives, tally: this.#tally, path };
    if (how === "call") return this.#within(undefined, () => this.program(program, input));
    return this.#started(label + path, { program, input, isAbandoned: how === "abandon" });
  }

  #started(
    id: string,
    { program, input, isAbandoned }: Omit<ChildRun, "id" | "told">,
    evaluate = (): Told => this.program(program, input),
  ): Told {
    const run = this.#run === undefined ? undefined : `${this.#run}.${id}`;
    if (isAbandoned) {
      if (run !== undefined)
        this.children.push({ id: run, program, input, isAbandoned, told: undefined });
      return ok(1);
    }
    let told: Told | undefined;
    const outer = this.#within(run, () => {
      told = evaluate();
      return told;
    });
    if (run !== undefined) this.children.push({ id: run, program, input, isAbandoned, told });
    return outer;
  }

  #told(work: Of<"told">, input: number, path: string): Told {
    const { label, body } = work;
    const told = this.#within(undefined, () => this.part(body, input, path));
    if (told.code !== undefined) return told;
    const last = numberOf(told.value);
    const child = [told.value, mix(`${label}t${path}`, last)];
    return ok([child, mix(label + path, last)]);
  }

  #stopped(work: Of<"stopped">, input: number, path: string): Told {
    const { label, last } = work;
    const program = { lives: [last], tally: this.#tally, path };
    return this.#started(label + path, { program, input, isAbandoned: false }, () => {
      const told = this.part(last, input, path);
      return { ...told, code: told.code ?? "cancelled" };
    });
  }
}

interface Among {
  readonly work: Work;
  readonly input: number;
  readonly path: string;
}

function ok(value: Value): Told {
  return { value, code: undefined, trace: none };
}

function failed(code: string): Told {
  return { value: 0, code, trace: none };
}

function besides(all: readonly Told[], value: Value): Told {
  return {
    value,
    code: undefined,
    trace: { kind: "beside", parts: all.map(({ trace }) => trace) },
  };
}

export function signalValue(name: string): number {
  return numberOf(name);
}

function looseOf(work: Work, path: string): Trace {
  const ids: string[] = [];
  visit(work, { path, isHere: true }, { step: (id, _plan, isHere) => isHere && ids.push(id) });
  return { kind: "loose", ids };
}

/** Of sleeps that begin together the shortest is over first. */
function soonestOf(parts: readonly Work[]): number | undefined {
  const times = parts.map((part) => (part.kind === "sleep" ? part.ms : Number.NaN));
  if (times.some((ms) => Number.isNaN(ms))) return undefined;
  return times.indexOf(Math.min(...times));
}

// ---------------------------------------------------------------- steps

/** How often it is tried, and what it fails of in the end. */
export function attemptsOf(
  plan: Plan,
  rounds = 1,
): { readonly attempts: number; readonly failure?: Failure } {
  let [round, before] = [1, 0];
  for (let attempts = 1; ; attempts += 1) {
    const failure = plan.fails[attempts - 1];
    if (failure === undefined) return { attempts };
    if (attempts - before <= plan.retries && isRetried(failure, plan)) continue;
    if (round >= rounds) return { attempts, failure };
    round += 1;
    before = attempts;
  }
}

function isRetried(failure: Failure, { retryIf, nonRetryable }: Plan): boolean {
  if (failure === "final" || failure === "abort") return false;
  const kind = kindOf(failure);
  if (nonRetryable?.includes(kind) === true) return false;
  return retryIf === undefined || retryIf.includes(kind);
}

export function kindOf(failure: Failure): string {
  if (failure === "text") return "ThrownValue";
  return failure === "stuck" ? "timeout" : failure;
}

interface StepParts {
  readonly id: string;
  readonly plan: Plan;
  readonly rounds: Rounds;
}

function stepTold({ id, plan, rounds }: StepParts, madeOf: (seen: number) => number): Told {
  const { attempts, failure } = attemptsOf(plan, rounds.get(id));
  const code = failure === undefined ? undefined : codeOfFailure(failure, id);
  const seen = plan.tellsProgress ? attempts - 1 : 0;
  const value = code === undefined ? madeOf(seen) : 0;
  return endOf({ id, plan, attempts, end: "succeeded" }, value, code);
}

function endOf(step: WantedStep, value: Value, code: string | undefined): Told {
  const isFailed = code !== undefined && !step.plan.isCaught;
  const trace: Trace = { kind: "step", step: { ...step, end: isFailed ? "failed" : step.end } };
  if (!step.plan.isCaught) return { value, code, trace };
  return { value: code === undefined ? [value, null] : [null, code], code: undefined, trace };
}

interface GraphTold {
  readonly value: Value;
  /** What it may fail of: whichever comes first. */
  readonly failures: readonly string[];
  readonly trace: Trace;
}

interface GraphPlace {
  readonly path: string;
  readonly rounds: Rounds;
}

function graphTold(vertices: readonly Vertex[], input: number, place: GraphPlace): GraphTold {
  const { path } = place;
  const used = usedBy(vertices);
  const told: (GraphTold | undefined)[] = [];
  for (const [index, vertex] of vertices.entries()) {
    const inputs = vertex.from.map((each) => told[each]);
    const isBlocked = inputs.some((each) => each === undefined || each.failures.length > 0);
    if (!used.has(index) || isBlocked) {
      told.push(undefined);
      continue;
    }
    const values = inputs.map((each) => each?.value ?? 0);
    told.push(
      vertexTold(vertex, shapedValue(vertex, values.length === 0 ? [input] : values), place),
    );
  }
  const failures = told.flatMap((each) => each?.failures ?? []);
  const parts = told.map((each, index) => {
    // Of a graph that fails the others may never begin.
    if (each !== undefined && failures.length === 0) return each.trace;
    const vertex = vertices[index];
    return vertex === undefined ? none : { kind: "loose" as const, ids: vertexIds(vertex, path) };
  });
  const trace: Trace = { kind: "graph", parts, from: vertices.map(({ from }) => from) };
  return { value: told.at(-1)?.value ?? 0, failures, trace };
}

function usedBy(vertices: readonly Vertex[]): Set<number> {
  const used = new Set<number>([vertices.length - 1]);
  for (let index = vertices.length - 1; index >= 0; index -= 1) {
    if (used.has(index)) for (const each of vertices[index]?.from ?? []) used.add(each);
  }
  return used;
}

function shapedValue({ shape }: Vertex, values: readonly Value[]): Value {
  return shape === "deep" ? values.map((each) => [[each]]) : values;
}

function vertexIds({ label, grows = [] }: Vertex, path: string): string[] {
  return [label + path, ...grows.flatMap((each) => vertexIds(each, path))];
}

function vertexTold(vertex: Vertex, inputs: Value, place: GraphPlace): GraphTold {
  const { path, rounds } = place;
  const { label, plan, grows = [] } = vertex;
  const id = label + path;
  const bare = stepTold({ id, plan: { ...plan, isCaught: false }, rounds }, (seen) =>
    mix(id, numberOf(inputs), seen),
  );
  const { attempts } = attemptsOf(plan, rounds.get(id));
  if (bare.code !== undefined || grows.length === 0) {
    const { value, code, trace } = endOf(
      { id, plan, attempts, end: "succeeded" },
      bare.value,
      bare.code,
    );
    return { value, failures: code === undefined ? [] : [code], trace };
  }
  const inner = graphTold(grows, Number(bare.value), place);
  const end = plan.isCaught ? "succeeded" : "continued";
  const own: Trace = { kind: "step", step: { id, plan, attempts, end } };
  // What it goes on in begins behind it; one that catches errors is over behind that.
  const trace: Trace = plan.isCaught
    ? { kind: "beside", parts: [own, inner.trace] }
    : { kind: "series", parts: [own, inner.trace] };
  if (!plan.isCaught) return { ...inner, trace };
  const [code] = inner.failures;
  return { value: code === undefined ? [inner.value, null] : [null, code], failures: [], trace };
}
