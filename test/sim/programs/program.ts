/**
 * Random workflow programs as data: what a client draws (maker.ts), a simulated guest runs with the
 * real SDK (player.ts), and a plain evaluator knows the outcome of (model.ts).
 *
 *   Every part has a label of its own, and behind it the path of the loops it is in: so a step, a
 *   signal and a count has the same name in the run and in the model, whatever came first.
 *   Values are numbers made of the label and of what came before: a step that ran twice, too early
 *   or with another's result gives the wrong ones.
 *   Where time decides (which branch of a race), the run tells what it saw in `choices`, and the
 *   model follows it: it may be any that JavaScript allows.
 */

/** What an attempt of a step fails of. */
export type Failure =
  /** An error with a code. */
  | "x"
  | "y"
  /** One that says that another attempt can't help. */
  | "final"
  | "abort"
  /** A value that is no error. */
  | "text"
  /** Nothing comes: the attempt passes its timeout. */
  | "stuck";

export interface Plan {
  /** Of the first attempt, the second …; those behind the last one succeed. */
  readonly fails: readonly Failure[];
  readonly retries: number;
  readonly retryIf?: readonly string[];
  readonly nonRetryable?: readonly string[];
  /** Performs an effect that the ledger counts. */
  readonly isEffect: boolean;
  /** Answers by a promise, after that time. */
  readonly waitMs?: number;
  readonly isCaught: boolean;
  readonly isUnkept: boolean;
  readonly tellsProgress: boolean;
  readonly isUndone: boolean;
  readonly isInline: boolean;
}

/** A node of a graph: its arguments are the values of earlier ones, in one of several shapes. */
export interface Vertex {
  readonly label: string;
  readonly plan: Plan;
  readonly from: readonly number[];
  readonly shape: "array" | "object" | "deep";
  /** What the step returns instead of a value: a graph, whose last vertex is its root. */
  readonly grows?: readonly Vertex[];
}

export type Work =
  | { readonly kind: "value"; readonly label: string }
  | { readonly kind: "step"; readonly label: string; readonly plan: Plan }
  | { readonly kind: "sleep"; readonly label: string; readonly ms: number }
  | { readonly kind: "throw"; readonly label: string }
  | { readonly kind: "series"; readonly label: string; readonly parts: readonly Work[] }
  | Join
  | {
      readonly kind: "try";
      readonly label: string;
      readonly body: Work;
      readonly rescue?: Work;
      readonly last?: Work;
    }
  | { readonly kind: "branch"; readonly label: string; readonly even: Work; readonly odd: Work }
  | { readonly kind: "loop"; readonly label: string; readonly times: number; readonly body: Work }
  | {
      readonly kind: "map";
      readonly label: string;
      readonly times: number;
      readonly atOnce: number;
      readonly body: Work;
    }
  | {
      readonly kind: "graph";
      readonly label: string;
      readonly vertices: readonly Vertex[];
      /** The same graph is run once more: nothing of it runs again. */
      readonly isTwice: boolean;
    }
  | { readonly kind: "signal"; readonly label: string; readonly timeoutMs?: number }
  /** Whichever of two signals comes first, then the other. */
  | { readonly kind: "either"; readonly label: string }
  /** Decided by the client, once it has the token. */
  | { readonly kind: "event"; readonly label: string; readonly timeoutMs?: number }
  | { readonly kind: "publish"; readonly label: string }
  | { readonly kind: "store"; readonly label: string; readonly size: number }
  /** A call of an actor that all of the program shares. */
  | { readonly kind: "count"; readonly label: string; readonly how: "call" | "send" | "fail" }
  /** The body runs within a turn of an actor. */
  | { readonly kind: "turn"; readonly label: string; readonly body: Work }
  | {
      readonly kind: "child";
      readonly label: string;
      readonly how: "call" | "start" | "abandon";
      readonly lives: readonly Work[];
    }
  /** A child that signals its parent when it is through, which waits for that. */
  | { readonly kind: "told"; readonly label: string; readonly body: Work }
  | { readonly kind: "tell"; readonly label: string; readonly to: string; readonly name: string }
  /** A child that waits until it is cancelled, and cleans up. */
  | { readonly kind: "stopped"; readonly label: string; readonly last: Work }
  /** Undoes on demand what is done. */
  | { readonly kind: "undo"; readonly label: string };

export type Joining = "all" | "settled" | "race" | "any";

export interface Join {
  readonly kind: Joining;
  readonly label: string;
  readonly parts: readonly Work[];
}

export interface Program {
  /** One after the other, by continueAsNew. */
  readonly lives: readonly Work[];
  /** What an update does. */
  readonly handler?: Work;
  /** Waits for this signal before it is over. */
  readonly closing?: string;
  /** Key of the actor that counts. */
  readonly tally: string;
  /** Where it is within the program around it. */
  readonly path: string;
}

export type Value = number | string | null | readonly Value[];

/** By the part's id: the index of the branch that was first, and the like. */
export type Choices = Record<string, number>;

export const longSleep = "20 days";

// ---------------------------------------------------------------- values

export function numberOf(value: Value): number {
  const text = typeof value === "number" ? String(value) : JSON.stringify(value);
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i += 1) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return (hash >>> 0) % 100_000;
}

export function mix(id: string, input: number, seen = 0): number {
  return numberOf([id, input, seen]);
}

/** What a failed attempt's error is known by. */
export function codeOfFailure(failure: Failure, id: string): string {
  if (failure === "text") return "ThrownValue";
  if (failure === "stuck") return "timeout";
  return failure === "abort" ? "AbortError" : `${failure}:${id}`;
}

// ---------------------------------------------------------------- what may be there

export interface Visitor {
  /** `run` is the run that it is in, undefined for one whose id nobody knows. */
  readonly work?: (work: Work, id: string) => void;
  readonly step?: (id: string, plan: Plan, isRunKnown: boolean) => void;
}

interface Place {
  readonly path: string;
  /** In the run of the program itself, whose history is looked at. */
  readonly isHere: boolean;
}

/** Every part that may run, with its id, in loops once for each time. */
export function visit(work: Work, place: Place, visitor: Visitor): void {
  const { path } = place;
  const id = work.label + path;
  visitor.work?.(work, id);
  const go = (inner: Work, more = ""): void => {
    visit(inner, { ...place, path: path + more }, visitor);
  };
  const away = (inner: Work): void => visit(inner, { path, isHere: false }, visitor);
  switch (work.kind) {
    case "step":
      visitor.step?.(id, work.plan, place.isHere);
      return;
    case "store":
      visitor.step?.(id, plainPlan, place.isHere);
      return;
    case "graph":
      visitVertices(work.vertices, place, visitor);
      return;
    case "series":
    case "all":
    case "settled":
    case "race":
    case "any":
      for (const part of work.parts) go(part);
      return;
    case "try":
      go(work.body);
      if (work.rescue !== undefined) go(work.rescue);
      if (work.last !== undefined) go(work.last);
      return;
    case "branch":
      go(work.even);
      go(work.odd);
      return;
    case "loop":
    case "map":
      for (let i = 0; i < work.times; i += 1) go(work.body, `.${i}`);
      return;
    case "turn":
    case "told":
      away(work.body);
      return;
    case "stopped":
      away(work.last);
      return;
    case "child":
      for (const life of work.lives) away(life);
      return;
    default:
      return;
  }
}

function visitVertices(vertices: readonly Vertex[], place: Place, visitor: Visitor): void {
  for (const { label, plan, grows } of vertices) {
    visitor.step?.(label + place.path, plan, place.isHere);
    if (grows !== undefined) visitVertices(grows, place, visitor);
  }
}

export const plainPlan: Plan = {
  fails: [],
  retries: 0,
  isEffect: false,
  isCaught: false,
  isUnkept: false,
  tellsProgress: false,
  isUndone: false,
  isInline: false,
};

/** The signals that a program may wait for, which the client sends. */
export function signalsOf(work: Work, path: string): string[] {
  return collected(work, path, (each, id) => {
    if (each.kind === "either") return [`${id}a`, `${id}b`];
    return each.kind === "signal" ? [id] : [];
  });
}

/** The events that it may wait for, which the client decides. */
export function eventsOf(work: Work, path: string): string[] {
  return collected(work, path, (each, id) => (each.kind === "event" ? [id] : []));
}

function collected(
  root: Work,
  path: string,
  namesOf: (work: Work, id: string) => readonly string[],
): string[] {
  const names: string[] = [];
  visit(root, { path, isHere: true }, { work: (work, id) => names.push(...namesOf(work, id)) });
  return names;
}

/** Under what name its token is published. */
export function tokenNameOf(event: string): string {
  return `${event}-token`;
}

/** What is decided is an error now and then. */
export function isDenied(event: string): boolean {
  return numberOf(event) % 6 === 0;
}
