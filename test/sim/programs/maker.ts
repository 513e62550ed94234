/** Draws programs (program.ts): small ones, of everything that workflows are made of. */
import type { SimRandom } from "../random.ts";
import { attemptsOf, kindOf } from "./model.ts";
import type { Failure, Joining, Plan, Program, Vertex, Work } from "./program.ts";

/** What may stand in a place. */
interface Place {
  readonly depth: number;
  /** In the code of the run that the client knows, to which it sends signals. */
  readonly isRoot: boolean;
  /** In an actor's turn, which can do less. */
  readonly isTurn: boolean;
}

type Maker = (place: Place) => Work;

const depthMax = 4;

export function makeProgram(random: SimRandom, id: string): Program {
  const maker = new ProgramMaker(random);
  const root = { depth: 0, isRoot: true, isTurn: false };
  const lives = random.pick([1, 1, 1, 2, 3]);
  const handler = random.chance(0.3) ? maker.part({ ...root, depth: 2, isRoot: false }) : undefined;
  return {
    lives: Array.from({ length: lives }, () => maker.body(root)),
    ...(handler !== undefined && { handler }),
    ...((handler !== undefined || random.chance(0.2)) && { closing: "closing" }),
    tally: id,
    path: "",
  };
}

class ProgramMaker {
  readonly #random: SimRandom;
  #labels = 0;
  /** Parts that may still be drawn, so that a program stays small. */
  #left: number;

  constructor(random: SimRandom) {
    this.#random = random;
    this.#left = random.pick([6, 12, 20, 30]);
  }

  #label(letter: string): string {
    this.#labels += 1;
    return `${letter}${this.#labels}`;
  }

  /** A series, so that the order of parts counts. */
  body(place: Place): Work {
    const count = this.#random.between(1, 4);
    return {
      kind: "series",
      label: this.#label("q"),
      parts: Array.from({ length: count }, () => this.part(place)),
    };
  }

  part(place: Place): Work {
    this.#left -= 1;
    const isLeaf = this.#left <= 0 || place.depth >= depthMax;
    const makers = isLeaf || this.#random.chance(0.35) ? this.#leaves(place) : this.#forks(place);
    return this.#random.pick(makers)({ ...place, depth: place.depth + 1 });
  }

  #leaves({ isRoot, isTurn }: Place): readonly Maker[] {
    const step: Maker = (place) => this.#step(place);
    const makers: Maker[] = [step, step, step, step, () => this.#sleep(), () => this.#graph()];
    makers.push(
      () => ({ kind: "value", label: this.#label("v") }),
      () => ({ kind: "count", label: this.#label("n"), how: this.#random.pick(["call", "send"]) }),
      () => ({ kind: "store", label: this.#label("o"), size: this.#random.pick([1, 40, 800]) }),
      () => this.#failing(),
    );
    if (isRoot) {
      makers.push(
        () => ({ kind: "publish", label: this.#label("p") }),
        () => this.#signal(),
        () => this.#signal(),
        () => ({ kind: "either", label: this.#label("e") }),
        () => this.#event(),
      );
    }
    if (!isTurn) makers.push(() => ({ kind: "undo", label: this.#label("w") }));
    return makers;
  }

  #forks(place: Place): readonly Maker[] {
    const join: Maker = (inner) => this.#join(inner);
    const makers: Maker[] = [
      (inner) => this.body(inner),
      join,
      join,
      join,
      (inner) => this.#try(inner),
      (inner) => this.#try(inner),
      (inner) => this.#loop(inner),
      (inner) => this.#map(inner),
      (inner) => this.#branch(inner),
      () => this.#graph(),
      (inner) => this.#turn(inner),
    ];
    if (!place.isTurn) {
      makers.push(
        (inner) => this.#child(inner),
        (inner) => this.#child(inner),
        (inner) => this.#told(inner),
        (inner) => this.#stopped(inner),
      );
    }
    return makers;
  }

  // ---- leaves

  #step({ isTurn }: Place): Work {
    const isUndone = !isTurn && this.#random.chance(0.25);
    const isInline = !isUndone && this.#random.chance(0.2);
    return {
      kind: "step",
      label: this.#label("s"),
      plan: { ...this.#plan(0.08), isUndone, isInline },
    };
  }

  /** A plan that fails for good with that chance. */
  #plan(failing: number): Plan {
    const random = this.#random;
    const isEffect = random.chance(0.4);
    const plan = isEffect ? this.#effectPlan() : this.#purePlan();
    const isMeant = random.chance(failing);
    const isFailing = attemptsOf(plan).failure !== undefined;
    return isFailing === isMeant ? plan : { ...plan, ...this.#certain(isMeant) };
  }

  #certain(isFailing: boolean): Partial<Plan> {
    if (!isFailing) return { fails: [] };
    return { fails: [this.#random.pick(["final", "abort"])] };
  }

  /** Its requests get lost: it is tried often. */
  #effectPlan(): Plan {
    const random = this.#random;
    const fails = Array.from({ length: random.pick([0, 0, 1, 2]) }, () => {
      return random.pick<Failure>(["x", "y", "text"]);
    });
    return { ...this.#flags(), fails, retries: 30, isEffect: true, tellsProgress: false };
  }

  #purePlan(): Plan {
    const random = this.#random;
    const kinds: Failure[] = ["x", "x", "y", "y", "final", "abort", "text", "stuck"];
    const fails = Array.from({ length: random.pick([0, 0, 0, 1, 2, 3]) }, () => random.pick(kinds));
    const filters = ["x", "y", "timeout", "ThrownValue"];
    const filter = (): string[] => filters.filter(() => random.chance(0.6));
    const how = fails.length === 0 ? 0 : random.below(5);
    const waits = !fails.includes("stuck") && random.chance(0.4);
    return {
      ...this.#flags(),
      fails,
      retries: random.pick([0, 1, 2, 4]),
      isEffect: false,
      ...(how === 1 && { retryIf: filter() }),
      ...(how === 2 && { nonRetryable: filter() }),
      ...(waits && { waitMs: random.pick([0, 3, 30, 400]) }),
    };
  }

  #flags(): Pick<Plan, "isCaught" | "isUnkept" | "tellsProgress" | "isUndone" | "isInline"> {
    const { chance } = { chance: (share: number) => this.#random.chance(share) };
    return {
      isCaught: chance(0.12),
      isUnkept: chance(0.08),
      tellsProgress: chance(0.15),
      isUndone: false,
      isInline: false,
    };
  }

  #sleep(): Work {
    const ms = this.#random.pick([0, 1, 10, 60, 700, 5000, 60_000]);
    return { kind: "sleep", label: this.#label("z"), ms };
  }

  #signal(): Work {
    const timeoutMs = this.#random.pick([0, 0, 5, 200, 20_000]);
    const label = this.#label("i");
    return { kind: "signal", label, ...(timeoutMs > 0 && { timeoutMs }) };
  }

  #event(): Work {
    const timeoutMs = this.#random.pick([0, 0, 200, 20_000]);
    const label = this.#label("h");
    return { kind: "event", label, ...(timeoutMs > 0 && { timeoutMs }) };
  }

  /** Not too often: what fails leaves nothing to look at behind it. */
  #failing(): Work {
    const random = this.#random;
    const label = this.#label("f");
    if (random.chance(0.6)) return { kind: "value", label };
    if (random.chance(0.3)) return { kind: "count", label, how: "fail" };
    if (random.chance(0.5)) return { kind: "throw", label };
    return { kind: "step", label, plan: this.#plan(1) };
  }

  #graph(): Work {
    const vertices = this.#vertices({ depth: 0, failing: this.#random.pick([0, 0.02, 0.15]) });
    return {
      kind: "graph",
      label: this.#label("g"),
      vertices,
      isTwice: this.#random.chance(0.2),
    };
  }

  #vertices({ depth, failing }: { depth: number; failing: number }): Vertex[] {
    const random = this.#random;
    const count = random.between(1, depth === 0 ? 6 : 3);
    const culprit = random.chance(failing) ? random.below(count) : -1;
    return Array.from({ length: count }, (_, index): Vertex => {
      const before = Array.from({ length: index }, (_, i) => i);
      const from = before.filter(
        (each) => random.chance(0.5) || (index === count - 1 && each === index - 1),
      );
      // Two that fail for the same reason by name could not be told apart.
      const share = depth === 0 ? failing : Number(index === culprit);
      const plan = this.#plan(share);
      return {
        label: this.#label("k"),
        plan: isNamed(plan) ? plan : { ...plan, fails: plan.fails.map(() => "x") },
        from: index > 0 && random.chance(0.1) ? [...from, index - 1] : from,
        shape: random.pick(["array", "object", "deep"]),
        ...(depth === 0 && random.chance(0.2) && { grows: this.#vertices({ depth: 1, failing }) }),
      };
    });
  }

  // ---- what holds others

  #join(place: Place): Work {
    const random = this.#random;
    const kind = random.pick<Joining>(["all", "all", "settled", "race", "any"]);
    const label = this.#label("j");
    const count = random.between(kind === "race" || kind === "any" ? 1 : 0, 3);
    if (kind === "race" && random.chance(0.3)) {
      return { kind, label, parts: Array.from({ length: count }, () => this.#sleep()) };
    }
    return { kind, label, parts: Array.from({ length: count }, () => this.part(place)) };
  }

  #try(place: Place): Work {
    const random = this.#random;
    const body = this.body(place);
    const how = random.below(3);
    const failing: Work = { kind: "throw", label: this.#label("t") };
    const isFailing = random.chance(0.4);
    return {
      kind: "try",
      label: this.#label("t"),
      body: isFailing ? { kind: "series", label: this.#label("q"), parts: [body, failing] } : body,
      ...((how !== 0 || isFailing) && { rescue: this.part(place) }),
      ...(how !== 1 && { last: this.part(place) }),
    };
  }

  #loop(place: Place): Work {
    const times = this.#random.between(0, 3);
    return { kind: "loop", label: this.#label("l"), times, body: this.part(place) };
  }

  #map(place: Place): Work {
    const random = this.#random;
    const [times, atOnce] = [random.between(0, 4), random.between(1, 3)];
    return { kind: "map", label: this.#label("m"), times, atOnce, body: this.part(place) };
  }

  #branch(place: Place): Work {
    const [even, odd] = [this.part(place), this.part(place)];
    return { kind: "branch", label: this.#label("b"), even, odd };
  }

  #turn(place: Place): Work {
    const body = this.part({ ...place, isRoot: false, isTurn: true });
    return { kind: "turn", label: this.#label("a"), body };
  }

  #child(place: Place): Work {
    const how = this.#random.pick(["call", "start", "start", "abandon"] as const);
    const lives = Array.from({ length: this.#random.pick([1, 1, 2]) }, () => {
      return this.part({ ...place, isRoot: false });
    });
    return { kind: "child", label: this.#label("c"), how, lives };
  }

  #told(place: Place): Work {
    return { kind: "told", label: this.#label("d"), body: this.part({ ...place, isRoot: false }) };
  }

  /** It always fails: caught, in most places. */
  #stopped(place: Place): Work {
    const last = this.part({ ...place, isRoot: false, depth: depthMax });
    const stopped: Work = { kind: "stopped", label: this.#label("x"), last };
    if (this.#random.chance(0.1)) return stopped;
    const rescue: Work = { kind: "value", label: this.#label("v") };
    return { kind: "try", label: this.#label("t"), body: stopped, rescue };
  }
}

/** Whether its error names the step. */
function isNamed(plan: Plan): boolean {
  const { failure } = attemptsOf(plan);
  return failure === undefined || ["x", "y", "final"].includes(kindOf(failure));
}
