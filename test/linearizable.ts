/**
 * Decides whether a history of concurrent operations on one object is linearizable: whether
 * each operation can be given one moment between its call and its answer so that, in that
 * order, every answer is the one that the model gives. The search is that of Wing and Gong
 * with Lowe's memory of places that were tried: (operations done, state).
 */

/** What the object is, as a pure function. */
export interface Model<State, Action, Answer> {
  readonly initial: State;
  /** The state after the action; undefined if it could not have answered that. */
  step(state: State, action: Action, answer: Answer | undefined): State | undefined;
  /** Equal texts for equal states. */
  textOf(state: State): string;
}

export interface Operation<Action, Answer> {
  readonly action: Action;
  readonly calledAt: number;
  /** Absent if no answer came: it may have happened at any time since, or not at all. */
  readonly answeredAt?: number | undefined;
  readonly answer?: Answer | undefined;
}

export type Verdict<Action, Answer> =
  | { readonly kind: "linearizable" }
  /** No order explains it; `stuckAt` is the answer that the longest attempt could not give. */
  | { readonly kind: "violation"; readonly stuckAt: Operation<Action, Answer> };

/** A call or an answer in the order of time; a doubly linked list that operations leave. */
interface Event<Action, Answer> {
  readonly index: number;
  readonly operation: Operation<Action, Answer>;
  readonly isCall: boolean;
  answerEvent: Event<Action, Answer> | undefined;
  before: Event<Action, Answer> | undefined;
  next: Event<Action, Answer> | undefined;
}

export function checkLinearizable<State, Action, Answer>(
  model: Model<State, Action, Answer>,
  history: readonly Operation<Action, Answer>[],
): Verdict<Action, Answer> {
  const head = listOf(history);
  const done = new Done(history.length);
  const tried = new Set<string>();
  const path: { readonly call: Event<Action, Answer>; readonly state: State }[] = [];
  let state = model.initial;
  let answersLeft = history.filter(({ answeredAt }) => answeredAt !== undefined).length;
  let best = -1;
  let stuckAt: Operation<Action, Answer> | undefined;
  let at = head.next;
  while (answersLeft > 0) {
    if (at?.isCall === true) {
      const { action, answer } = at.operation;
      const after = model.step(state, action, answer);
      if (after !== undefined && isNew(tried, done, at.index, model.textOf(after))) {
        path.push({ call: at, state });
        state = after;
        done.add(at.index);
        if (at.operation.answeredAt !== undefined) answersLeft -= 1;
        lift(at);
        at = head.next;
      } else {
        at = at.next;
      }
      continue;
    }
    // An answer whose call has no place yet: some earlier choice was wrong.
    if (path.length > best && at !== undefined) {
      best = path.length;
      stuckAt = at.operation;
    }
    const last = path.pop();
    if (last === undefined) {
      if (stuckAt === undefined) throw new Error("an answer is what the search is stuck at");
      return { kind: "violation", stuckAt };
    }
    state = last.state;
    done.delete(last.call.index);
    if (last.call.operation.answeredAt !== undefined) answersLeft += 1;
    putBack(last.call);
    at = last.call.next;
  }
  return { kind: "linearizable" };
}

function isNew(tried: Set<string>, done: Done, index: number, stateText: string): boolean {
  const place = `${done.textWith(index)} ${stateText}`;
  if (tried.has(place)) return false;
  tried.add(place);
  return true;
}

function listOf<Action, Answer>(
  history: readonly Operation<Action, Answer>[],
): Event<Action, Answer> {
  const events: { readonly at: number; readonly event: Event<Action, Answer> }[] = [];
  for (const [index, operation] of history.entries()) {
    const base = { index, operation, before: undefined, next: undefined };
    const answerEvent = { ...base, isCall: false, answerEvent: undefined };
    const { calledAt, answeredAt = Number.POSITIVE_INFINITY } = operation;
    if (answeredAt < calledAt) throw new Error("an answer comes after its call");
    events.push({ at: calledAt, event: { ...base, isCall: true, answerEvent } });
    events.push({ at: answeredAt, event: answerEvent });
  }
  // What happened at one moment is concurrent: calls first.
  events.sort((one, other) => {
    if (one.at !== other.at) return one.at < other.at ? -1 : 1;
    return Number(other.event.isCall) - Number(one.event.isCall);
  });
  const first = events[0]?.event;
  // Stands before everything and is nobody's operation.
  const head: Event<Action, Answer> = {
    index: -1,
    operation: first?.operation as Operation<Action, Answer>, // never read
    isCall: false,
    answerEvent: undefined,
    before: undefined,
    next: undefined,
  };
  let before = head;
  for (const { event } of events) {
    event.before = before;
    before.next = event;
    before = event;
  }
  return head;
}

function lift<Action, Answer>(call: Event<Action, Answer>): void {
  for (const event of [call, call.answerEvent]) {
    if (event?.before !== undefined) event.before.next = event.next;
    if (event?.next !== undefined) event.next.before = event.before;
  }
}

function putBack<Action, Answer>(call: Event<Action, Answer>): void {
  for (const event of [call.answerEvent, call]) {
    if (event?.before !== undefined) event.before.next = event;
    if (event?.next !== undefined) event.next.before = event;
  }
}

/** Which operations have their place; nearly always all up to some and few beyond. */
class Done {
  readonly #flags: Uint8Array;
  readonly #beyond = new Set<number>();
  #from = 0;

  constructor(count: number) {
    this.#flags = new Uint8Array(count);
  }

  add(index: number): void {
    this.#flags[index] = 1;
    this.#beyond.add(index);
    while (this.#flags[this.#from] === 1) this.#beyond.delete(this.#from++);
  }

  delete(index: number): void {
    this.#flags[index] = 0;
    this.#beyond.delete(index);
    while (this.#from > index) {
      this.#from -= 1;
      if (this.#from !== index) this.#beyond.add(this.#from);
    }
  }

  textWith(index: number): string {
    return `${this.#from}:${[...this.#beyond, index].sort((one, other) => one - other).join()}`;
  }
}

// ---------------------------------------------------------------- a register that counts

export type RegisterAction =
  | { readonly kind: "read" }
  | { readonly kind: "write"; readonly value: number }
  | { readonly kind: "add"; readonly by: number }
  | { readonly kind: "swap"; readonly from: number; readonly to: number };

/** read → value, write → value before, add → value after, swap → value before. */
export const register: Model<number, RegisterAction, number> = {
  initial: 0,
  step(state, action, answer) {
    const [after, given] = outcomeOf(state, action);
    return answer === undefined || answer === given ? after : undefined;
  },
  textOf: String,
};

function outcomeOf(state: number, action: RegisterAction): readonly [number, number] {
  switch (action.kind) {
    case "read":
      return [state, state];
    case "write":
      return [action.value, state];
    case "add":
      return [state + action.by, state + action.by];
    case "swap":
      return [state === action.from ? action.to : state, state];
  }
}
