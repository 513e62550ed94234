/**
 * Steps and graphs of one run: identities, attempts, retries, timeouts, continuations, and
 * what each graph waits for. Owns tasks and cells; asks its machine for timers and
 * records, and knows nothing of activations.
 *
 * Everything is queues and counters, never recursion: a chain of 100,000 nodes or of
 * 100,000 continuations takes no stack, and a fan-out of 100,000 takes linear time.
 *
 *   cell   where a node's value arrives. A continuation hands its cell on to the node that
 *          it continues in, so a chain of them keeps one cell, not one for each link.
 *   task   a node that hasn't got its value yet: arguments, attempts, timers.
 *   evaluation   one graph that somebody awaits. When a task of it fails, nothing more of
 *          it starts, and it is over once its running bodies are.
 */
import { decode, encode, SerialisationError } from "./cbor.ts";
import { Compensations } from "./compensations.ts";
import { type Body, functionOf, GraphNode, isPlain } from "./define.ts";
import {
  asError,
  CancelledError,
  cameOutOf,
  encodeFor,
  GuestError,
  isRetryableKind,
  TimeoutError,
  toErrorValue,
} from "./errors.ts";
import {
  matchesError,
  normaliseOptions,
  type ResolvedOptions,
  type StepOptions,
} from "./options.ts";
import { isLarge } from "./pieces.ts";
import type { ReusedStep, StepRecord } from "./protocol.ts";
import { type RecordParts, ranRecord, startedRecord, succeededRecord } from "./records.ts";
import { type AbortScope, abortScope } from "./scope.ts";
import { type Duration, durationMs } from "./time.ts";

/** What steps need of their machine. */
export interface StepPorts {
  nowMs(): number;
  random(): number;
  /** Keeps a record, given as the parts of one item. */
  record(parts: readonly unknown[]): void;
  /** Calls back at that time, unless dropped. Returns the command's id. */
  timer(atMs: number, label: string, fire: () => void): number;
  drop(id: number): void;
  /** The actor whose turn it is; `this` of own-method nodes. */
  instance(): object | undefined;
  /** An own-method node has changed the instance. */
  methodEnded(): void;
  /** Whether a failed step may be tried again later, with the run as it was (a resume point). */
  isResumable(): boolean;
  /** Stores a value that is too large for a record; what then stands for it. */
  store(value: unknown): Promise<Uint8Array> | undefined;
}

/** What a step may say of its progress: it is in every view of the run. */
const progressBytesMax = 16 * 1024;
/** A record's value over this is left out of it. */
const recordBytesMax = 1024 * 1024;
/** Levels of arrays and objects in which arguments are searched for nodes. */
const argsDepthMax = 128;

const pendingState = 0;
const okState = 1;
const failedState = 2;

interface Waiter {
  upstream(cell: Cell): void;
}

class Cell {
  readonly owner: Steps;
  state: 0 | 1 | 2 = pendingState;
  value: unknown = undefined;
  /** Identity of the step whose value this becomes. */
  id = "";
  waiters: Waiter[] | undefined = undefined;

  constructor(owner: Steps) {
    this.owner = owner;
  }

  wait(waiter: Waiter): void {
    if (this.state !== pendingState) waiter.upstream(this);
    else if (this.waiters === undefined) this.waiters = [waiter];
    else this.waiters.push(waiter);
  }
}

/** Marks a node whose arguments are being planned: meeting it again means a cycle. */
const planning = Symbol("planning");

export class Evaluation implements Waiter {
  readonly #settle: (isOk: boolean, value: unknown) => void;
  readonly #owner: Steps;
  isFailed = false;
  error: unknown = undefined;
  running = 0;
  isSettled = false;
  /** Tasks that were to begin while a failure of this graph is held back. */
  parked: Task[] | undefined = undefined;
  /** Its failure becomes a value (`catchErrors`), so the run can't fail of it. */
  readonly isCaught: boolean;

  constructor(owner: Steps, settle: (isOk: boolean, value: unknown) => void, isCaught = false) {
    this.#owner = owner;
    this.isCaught = isCaught;
    this.#settle = settle;
  }

  upstream(cell: Cell): void {
    if (cell.state === failedState) this.fail(cell.value);
    else if (!this.isFailed) this.finish(true, cell.value);
  }

  fail(error: unknown): void {
    if (!this.isFailed) {
      this.isFailed = true;
      this.error = error;
      this.#owner.endBackoffs(this);
    }
    this.finishIfQuiet();
  }

  finishIfQuiet(): void {
    if (this.isFailed && this.running === 0) this.finish(false, this.error);
  }

  finish(isOk: boolean, value: unknown): void {
    if (this.isSettled) return;
    this.isSettled = true;
    this.#owner.evaluationEnded(this);
    this.#settle(isOk, value);
  }
}

export class Task implements Waiter {
  readonly id: string;
  readonly body: Body;
  readonly options: ResolvedOptions;
  readonly evaluation: Evaluation;
  readonly cell: Cell;
  readonly #owner: Steps;
  args: readonly unknown[];
  hasNodes = false;
  /** Upstream nodes without a value. */
  pending = 0;
  attempt = 0;
  /** Attempts before the retries began to count anew. */
  attemptsBefore = 0;
  /** The attempt whose result counts; 0 when none does. */
  live = 0;
  firstAtMs = 0;
  timer = 0;
  /** Its value is that of the same step in another run. */
  isReused = false;
  /** No record says yet that it has begun; one that says that it succeeded will say both. */
  isUntold = false;
  storedArgs: Uint8Array | undefined = undefined;
  /** What an attempt said last of how far it is. */
  progress: Uint8Array | undefined = undefined;
  scope: AbortScope | undefined = undefined;

  constructor(
    owner: Steps,
    parts: {
      id: string;
      body: Body;
      args: readonly unknown[];
      options: ResolvedOptions;
      evaluation: Evaluation;
      cell: Cell;
    },
  ) {
    this.#owner = owner;
    this.id = parts.id;
    this.body = parts.body;
    this.args = parts.args;
    this.options = parts.options;
    this.evaluation = parts.evaluation;
    this.cell = parts.cell;
  }

  upstream(cell: Cell): void {
    this.#owner.upstreamSettled(this, cell);
  }
}

/** A step that was called and hasn't begun: as little as can be, as there may be 100,000. */
class Call {
  readonly id: string;
  readonly body: Body;
  readonly args: readonly unknown[];
  storedArgs: Uint8Array | undefined = undefined;
  /** What it becomes when it turns out to be more than a function that answers at once. */
  task: Task | undefined = undefined;
  settled: { readonly isOk: boolean; readonly value: unknown } | undefined = undefined;
  promise: Promise<unknown> | undefined = undefined;
  resolve: ((value: unknown) => void) | undefined = undefined;
  reject: ((error: unknown) => void) | undefined = undefined;

  constructor(id: string, body: Body, args: readonly unknown[]) {
    this.id = id;
    this.body = body;
    this.args = args;
  }

  settle(isOk: boolean, value: unknown): void {
    this.settled = { isOk, value };
    if (isOk) {
      this.resolve?.(value);
    } else if (this.reject !== undefined) {
      this.promise?.catch(ignore);
      this.reject(value);
    }
  }

  /** Of what `settle` says; already resolved if it has. */
  toPromise(): Promise<unknown> {
    if (this.settled === undefined) {
      called = this;
      this.promise = new Promise(keepResolvers);
      return this.promise;
    }
    const { isOk, value } = this.settled;
    if (isOk) return Promise.resolve(value);
    const rejected = Promise.reject(value);
    rejected.catch(ignore);
    return rejected;
  }
}

/** For `keepResolvers`, which is one function for all calls instead of a closure for each. */
let called: Call | undefined;

function keepResolvers(resolve: (value: unknown) => void, reject: (error: unknown) => void): void {
  if (called === undefined) return;
  called.resolve = resolve;
  called.reject = reject;
  called = undefined;
}

/** A step that nobody awaits may fail; its record says so. */
function ignore(): void {}

/** First in, first out, without moving what is left. */
class Queue<Item> {
  #items: Item[] = [];
  #head = 0;

  get length(): number {
    return this.#items.length - this.#head;
  }

  push(item: Item): void {
    this.#items.push(item);
  }

  peek(): Item | undefined {
    return this.#items[this.#head];
  }

  /** Takes all items out, in order. */
  takeAll(): Item[] {
    const items = this.#items.slice(this.#head);
    this.#items = [];
    this.#head = 0;
    return items;
  }

  shift(): Item | undefined {
    const item = this.#items[this.#head++];
    if (this.#head >= 1024 && this.#head * 2 >= this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    } else if (this.#head >= this.#items.length) {
      this.#items.length = 0;
      this.#head = 0;
    }
    return item;
  }
}

export class Steps {
  readonly #ports: StepPorts;
  /** How many steps of each name there were. */
  readonly #counts = new Map<string, number>();
  readonly #ready = new Queue<Task | Call>();
  readonly #settled = new Queue<Cell>();
  /** Bodies that haven't answered yet, and tasks between two attempts. */
  readonly running = new Map<string, Task>();
  readonly #backoffs = new Map<string, Task>();
  readonly #live = new Set<Evaluation>();
  /** Steps that failed for good and whose rejection nobody has got yet: a resume point. */
  #held: { readonly task: Task; readonly error: unknown }[] = [];
  #faults: Map<string, Error> | undefined = undefined;
  readonly compensations = new Compensations();
  /** Results of another run, by step. */
  #reuse: ReadonlyMap<string, ReusedStep> | undefined = undefined;
  /** Tasks whose progress is in no record yet. */
  readonly #reported = new Set<Task>();
  #progress: { step: string; value: Uint8Array } | undefined = undefined;
  #begun = 0;
  #begunMax = Number.POSITIVE_INFINITY;
  #isPumping = false;
  #executing: Task | Call | undefined = undefined;

  constructor(ports: StepPorts) {
    this.#ports = ports;
  }

  /** A new activation: `begunMax` bodies may begin in it, and `faults` fail instead of running. */
  activate(begunMax: number, faults: Map<string, Error> | undefined): void {
    this.#begun = 0;
    this.#begunMax = begunMax;
    this.#faults = faults;
    if (faults === undefined) return;
    for (const [id, error] of faults) {
      const task = this.running.get(id);
      if (task !== undefined) this.#endAttempt(task, error);
    }
  }

  /** The step whose body is executing right now, as far as can be told. */
  get current(): Task | undefined {
    const executing = this.#executing;
    return executing instanceof Call ? this.#begunTask(executing) : executing;
  }

  /** Its identity, which costs less to ask for. */
  get currentId(): string | undefined {
    return this.#executing?.id;
  }

  leaveBody(): void {
    this.#executing = undefined;
  }

  get isYielding(): boolean {
    return this.#ready.length > 0 || this.#held.length > 0 || this.#settled.length > 0;
  }

  /** The step whose body begins next, if one waits for its turn and nothing is to be done first. */
  get next(): string | undefined {
    return this.#settled.length > 0 ? undefined : this.#ready.peek()?.id;
  }

  /** The first step whose failure is held back. */
  get resumePoint(): string | undefined {
    return this.#held[0]?.task.id;
  }

  /** Lets go of the failures that were held back. */
  deliverFailures(): void {
    this.#letGo();
    this.pump();
  }

  #letGo(): void {
    const held = this.#held;
    this.#held = [];
    for (const { task, error } of held) {
      this.#settle(task.cell, failedState, error);
      task.evaluation.fail(error);
      this.#unpark(task.evaluation);
    }
  }

  /** Runs the steps again whose failures were held back, with all their attempts. */
  retryFailures(): void {
    const held = this.#held;
    this.#held = [];
    for (const { task } of held) {
      task.attemptsBefore = task.attempt;
      task.firstAtMs = this.#ports.nowMs();
      this.#ready.push(task);
      this.#unpark(task.evaluation);
    }
    this.pump();
  }

  #unpark(evaluation: Evaluation): void {
    const { parked } = evaluation;
    evaluation.parked = undefined;
    if (parked !== undefined) for (const task of parked) this.#ready.push(task);
  }

  /** Runs one step. */
  call(body: Body, args: readonly unknown[]): Promise<unknown> {
    const call = new Call(this.#identity(body.options.name ?? body.name), body, args);
    this.#ready.push(call);
    this.pump();
    return call.toPromise();
  }

  /** Runs a graph; `settle` is called once, possibly before this returns. */
  evaluate(root: GraphNode, settle: (isOk: boolean, value: unknown) => void): void {
    const evaluation = new Evaluation(this, settle);
    this.#live.add(evaluation);
    this.#planInto(root, evaluation, undefined);
    this.pump();
  }

  /** Everything that awaits a step rejects now; nothing more of it starts. */
  cancel(error: Error): void {
    this.#letGo();
    for (const evaluation of [...this.#live]) {
      evaluation.fail(error);
      evaluation.finish(false, error);
    }
    for (const item of this.#ready.takeAll()) {
      if (item instanceof Call) item.settle(false, error);
      else this.#ready.push(item);
    }
    for (const task of this.running.values()) task.scope?.abort(error);
  }

  /** Nothing that was planned begins any more; bodies that can be undone go on to their end. */
  halt(error: Error): void {
    this.#letGo();
    for (const evaluation of [...this.#live]) evaluation.fail(error);
    for (const item of this.#ready.takeAll()) {
      if (item instanceof Call) item.settle(false, error);
      else this.#ready.push(item);
    }
    for (const task of this.running.values()) {
      if (task.options.compensate === undefined) task.scope?.abort(error);
    }
  }

  /** What is called from here on begins in the next activation. */
  holdBack(): void {
    this.#begunMax = this.#begun;
  }

  /** Steps of these identities and arguments take these results instead of running. */
  takeResults(reuse: readonly ReusedStep[] | undefined): void {
    if (reuse !== undefined) this.#reuse = new Map(reuse.map((each) => [each.step, each]));
  }

  evaluationEnded(evaluation: Evaluation): void {
    this.#live.delete(evaluation);
  }

  /** Begins what may begin, and passes on what has settled, until there is nothing left. */
  pump(): void {
    if (this.#isPumping) return;
    this.#isPumping = true;
    try {
      for (;;) {
        // One body allowed means that the host looks for the one that spins: then nothing but
        // that body runs in this activation, and what follows from it in the next.
        if (this.#begunMax === 1 && this.#begun === 1) return;
        const cell = this.#settled.shift();
        if (cell !== undefined) {
          const waiters = cell.waiters;
          cell.waiters = undefined;
          if (waiters !== undefined) for (const waiter of waiters) waiter.upstream(cell);
          continue;
        }
        if (this.#begun >= this.#begunMax || this.#ready.length === 0) return;
        const next = this.#ready.shift();
        if (next instanceof Call) this.#beginCall(next);
        else if (next !== undefined) this.#begin(next);
      }
    } finally {
      this.#isPumping = false;
    }
  }

  // ---- planning

  #planInto(root: GraphNode, evaluation: Evaluation, into: Cell | undefined): void {
    const planned: GraphNode[] = [];
    const fresh: Task[] = [];
    try {
      const cell = this.#plan(root, { evaluation, into, planned, fresh });
      if (into === undefined) cell.wait(evaluation);
      else if (cell !== into) cell.wait(new Forward(this, into));
      for (const task of fresh) this.#enqueue(task);
    } catch (error) {
      // Nodes of a graph that can't be run must not look planned to another one.
      for (const node of planned) node.cell = undefined;
      if (into !== undefined) this.#settle(into, failedState, error);
      evaluation.fail(error);
    }
  }

  /** Makes tasks for a node and all upstream ones that have none, inner ones first. */
  #plan(
    root: GraphNode,
    plan: { evaluation: Evaluation; into: Cell | undefined; planned: GraphNode[]; fresh: Task[] },
  ): Cell {
    const known = this.#cellOf(root);
    if (known !== undefined) return known;
    const stack: { node: GraphNode; upstream: GraphNode[]; next: number }[] = [];
    const enter = (node: GraphNode): void => {
      const upstream: GraphNode[] = [];
      collectNodes(node.args, upstream, 0);
      node.cell = planning;
      plan.planned.push(node);
      stack.push({ node, upstream, next: 0 });
    };
    enter(root);
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const upstream = top.upstream[top.next];
      if (upstream !== undefined) {
        top.next++;
        if (upstream.cell === planning)
          throw new TypeError(`the graph contains itself at ${upstream.$step}`);
        if (this.#cellOf(upstream) === undefined) enter(upstream);
        continue;
      }
      stack.pop();
      const { node } = top;
      const cell = node === root && plan.into !== undefined ? plan.into : new Cell(this);
      const task = this.#task(node.body, node.args, nodeOptions(node), {
        evaluation: plan.evaluation,
        cell,
      });
      node.cell = cell;
      this.#connect(task, top.upstream);
      plan.fresh.push(task);
    }
    return this.#cellOf(root) ?? new Cell(this);
  }

  #cellOf(node: GraphNode): Cell | undefined {
    const cell = node.cell;
    return cell instanceof Cell && cell.owner === this ? cell : undefined;
  }

  #connect(task: Task, upstream: readonly GraphNode[]): void {
    task.hasNodes = upstream.length > 0;
    for (const node of upstream) {
      const cell = this.#cellOf(node);
      if (cell === undefined || cell.state === okState) continue;
      task.pending++;
      // Also for a failed cell: the task hears of it from the queue, like all others.
      if (cell.state === failedState) this.#settled.push(cell);
      if (cell.waiters === undefined) cell.waiters = [task];
      else cell.waiters.push(task);
    }
  }

  #enqueue(task: Task): void {
    if (task.pending === 0) this.#ready.push(task);
  }

  #task(
    body: Body,
    args: readonly unknown[],
    options: ResolvedOptions,
    place: { evaluation: Evaluation; cell: Cell },
  ): Task {
    const id = this.#identity(options.name ?? body.name);
    place.cell.id = id;
    return new Task(this, {
      id,
      body,
      args,
      options,
      evaluation: place.evaluation,
      cell: place.cell,
    });
  }

  /** The name, then name_1, name_2 …, and never one that a step of another name has. */
  #identity(name: string): string {
    let count = this.#counts.get(name) ?? 0;
    if (count === 0 && this.#isIssued(name)) count = 1;
    let id = name;
    if (count > 0) {
      id = `${name}_${count}`;
      while (this.#counts.has(id)) id = `${name}_${++count}`;
    }
    this.#counts.set(name, count + 1);
    return id;
  }

  /** Whether `fib_1` has already been given to the second `fib`. */
  #isIssued(name: string): boolean {
    const split = name.lastIndexOf("_");
    if (split < 1) return false;
    const suffix = Number(name.slice(split + 1));
    if (!(suffix >= 1) || `_${suffix}` !== name.slice(split)) return false;
    return (this.#counts.get(name.slice(0, split)) ?? 0) > suffix;
  }

  // ---- settling

  #settle(cell: Cell, state: 1 | 2, value: unknown): void {
    if (cell.state !== pendingState) return;
    cell.state = state;
    cell.value = value;
    if (cell.waiters !== undefined) this.#settled.push(cell);
  }

  forward(from: Cell, into: Cell): void {
    this.#settle(into, from.state === okState ? okState : failedState, from.value);
  }

  upstreamSettled(task: Task, cell: Cell): void {
    if (cell.state === failedState) {
      this.#settle(task.cell, failedState, cell.value);
      task.evaluation.fail(cell.value);
    } else if (--task.pending === 0) {
      this.#ready.push(task);
    }
  }

  // ---- attempts

  #beginCall(call: Call): void {
    const { isMethod, compensates, options } = call.body;
    const { catchErrors, compensate, metadata } = options;
    const isMore = isMethod || catchErrors || (compensates ?? compensate ?? metadata) !== undefined;
    // The host that allows one body looks for the one that spins: its result comes later.
    if (isMore || this.#begunMax === 1 || this.#faults !== undefined || this.#reuse !== undefined) {
      this.#begin(this.#taskOf(call));
    } else {
      this.#runCall(call);
    }
  }

  /**
   * Most steps are functions that answer at once. Those need neither task nor graph, and one
   * record tells all of them; whatever turns out to be more becomes a task that has begun.
   */
  #runCall(call: Call): void {
    const { body, args } = call;
    if (!this.#storeArgs(call)) {
      this.#begin(this.#taskOf(call)); // which fails of them
      return;
    }
    this.#begun++;
    const outer = this.#executing;
    this.#executing = call;
    let answer: unknown;
    let isThrown = false;
    try {
      answer = functionOf(body).apply(undefined, args as unknown[]);
    } catch (error) {
      isThrown = true;
      answer = error;
    }
    this.#executing = outer;
    if (!isThrown && call.task === undefined && this.#endCall(call, answer)) return;
    const task = this.#begunTask(call);
    if (isThrown) this.#endAttempt(task, answer);
    else this.#takeAnswer(task, answer);
  }

  #storeArgs(call: Call): boolean {
    if (!call.body.options.checkpoint || call.args.length === 0) return true;
    // Of large arguments no copy is kept: another attempt is given the same arrays.
    if (call.args.some((arg) => isLarge(arg))) return true;
    try {
      call.storedArgs = encode(call.args);
      return true;
    } catch {
      return false;
    }
  }

  /** Ends a call with its answer, unless that is more than a value. */
  #endCall(call: Call, answer: unknown): boolean {
    if (answer instanceof GraphNode || isThenable(answer)) return false;
    const { name, options } = call.body;
    // It is over when its value is stored.
    if (options.checkpoint && isLarge(answer)) return false;
    let value: Uint8Array | undefined;
    try {
      if (options.checkpoint) value = kept(encode(answer));
    } catch {
      return false;
    }
    const { id, storedArgs } = call;
    const head = { nowMs: this.#ports.nowMs(), name: options.name ?? name };
    this.#ports.record(ranRecord(head, { id, args: kept(storedArgs), value }));
    call.settle(true, answer);
    return true;
  }

  #taskOf(call: Call): Task {
    const { id, body, args } = call;
    const evaluation = new Evaluation(this, (isOk, value) => call.settle(isOk, value));
    this.#live.add(evaluation);
    const cell = new Cell(this);
    cell.id = id;
    cell.waiters = [evaluation];
    return new Task(this, { id, body, args, options: body.options, evaluation, cell });
  }

  /** The task of a call whose body is or was executing. */
  #begunTask(call: Call): Task {
    if (call.task !== undefined) return call.task;
    const task = this.#taskOf(call);
    call.task = task;
    task.evaluation.running++;
    task.attempt = 1;
    task.live = 1;
    task.firstAtMs = this.#ports.nowMs();
    task.storedArgs = call.storedArgs;
    task.isUntold = true;
    return task;
  }

  #begin(task: Task): void {
    const { evaluation } = task;
    if (task.cell.state !== pendingState) return;
    if (evaluation.isFailed) {
      this.#settle(task.cell, failedState, evaluation.error);
      return;
    }
    if (evaluation.parked !== undefined) {
      evaluation.parked.push(task);
      return;
    }
    this.#begun++;
    evaluation.running++;
    task.attempt++;
    task.live = task.attempt;
    task.scope = undefined;
    let args: readonly unknown[];
    try {
      if (task.options.compensate !== undefined && task.attempt === 1) this.#expectEnd(task);
      args = this.#argsOf(task);
    } catch (error) {
      task.isUntold = true;
      this.#endAttempt(task, error);
      return;
    }
    if (this.#reuse !== undefined && this.#takeResult(task, this.#reuse)) return;
    task.isUntold = true;
    const fault = this.#faults?.get(task.id);
    if (fault !== undefined) {
      this.#endAttempt(task, fault);
      return;
    }
    this.#run(task, args);
  }

  /** Whatever becomes of the step, the run hears of it when it has to undo what is done. */
  #expectEnd(task: Task): void {
    if (!this.#ports.isResumable()) {
      throw new GuestError("a step with a compensation is for workflows and graphs", {
        code: "invalid-request",
        retryable: false,
      });
    }
    this.compensations.expect();
    task.cell.wait(new Undo(this, task));
  }

  ended(task: Task, cell: Cell): void {
    const { id, args, storedArgs, options } = task;
    const { catchErrors, compensate: fn, checkpoint } = options;
    const isOk = cell.state === okState;
    // One that was given up has no pair: its error went to nobody who could catch it.
    const [value, error] = isOk && catchErrors ? (cell.value as [unknown, unknown]) : [cell.value];
    const isDone = isOk && error === undefined;
    // What a run before this one did isn't this one's to undo.
    if (fn === undefined || !isDone || task.isReused) {
      this.compensations.decide(undefined);
      return;
    }
    const name = options.name ?? task.body.name;
    this.compensations.decide({ id, name, fn, value, args, storedArgs, checkpoint });
  }

  /** Whether the step has got its value from another run. */
  #takeResult(task: Task, reuse: ReadonlyMap<string, ReusedStep>): boolean {
    const known = reuse.get(task.id);
    if (known === undefined || task.attempt > 1 || !task.options.checkpoint) return false;
    if (!isSame(known.args, task.storedArgs)) return false;
    // Of large ones nothing was kept to compare.
    if (task.storedArgs === undefined && task.args.length > 0) return false;
    const value = decode(known.value);
    task.isReused = true;
    this.#record(task, "started", { value: task.storedArgs });
    this.#close(task);
    this.#record(task, "succeeded", { value: known.value, isReused: true });
    this.#settle(task.cell, okState, value);
    task.evaluation.finishIfQuiet();
    return true;
  }

  /** The arguments with nodes replaced by their values; a fresh copy for each later attempt. */
  #argsOf(task: Task): readonly unknown[] {
    if (task.attempt > 1) {
      return task.storedArgs === undefined ? task.args : (decode(task.storedArgs) as unknown[]);
    }
    task.firstAtMs = this.#ports.nowMs();
    if (task.hasNodes) {
      task.args = task.args.map((arg) => resolveNodes(arg));
      task.hasNodes = false;
    }
    const isKept = task.options.checkpoint && task.args.length > 0;
    if (isKept && !task.args.some((arg) => isLarge(arg)))
      task.storedArgs = encodeFor(task.args, "arguments of a step");
    return task.args;
  }

  #run(task: Task, args: readonly unknown[]): void {
    const outer = this.#executing;
    this.#executing = task;
    let answer: unknown;
    try {
      const self = task.body.isMethod ? this.#ports.instance() : undefined;
      answer = functionOf(task.body).apply(self, args as unknown[]);
    } catch (error) {
      this.#executing = outer;
      this.#endAttempt(task, error);
      return;
    }
    this.#executing = outer;
    this.#takeAnswer(task, answer);
  }

  #takeAnswer(task: Task, answer: unknown): void {
    let promise: Promise<unknown> | undefined;
    try {
      if (isThenable(answer)) promise = Promise.resolve(answer);
    } catch (error) {
      this.#endAttempt(task, error);
      return;
    }
    if (promise === undefined) this.#finishAttempt(task, answer);
    else this.#await(task, promise);
  }

  #await(task: Task, promise: Promise<unknown>): void {
    this.#tell(task);
    const { attempt } = task;
    this.running.set(task.id, task);
    this.#startTimeout(task);
    promise.then(
      (value) => {
        if (task.live !== attempt) return;
        this.#executing = undefined;
        this.#finishAttempt(task, value);
        this.pump();
      },
      (error) => {
        if (task.live !== attempt) return;
        this.#executing = undefined;
        this.#endAttempt(task, error);
        this.pump();
      },
    );
  }

  #startTimeout(task: Task): void {
    const { timeoutMs, totalTimeoutMs } = task.options;
    if (timeoutMs === undefined && totalTimeoutMs === undefined) return;
    const nowMs = this.#ports.nowMs();
    const totalAtMs = totalTimeoutMs === undefined ? Infinity : task.firstAtMs + totalTimeoutMs;
    const atMs = Math.min(timeoutMs === undefined ? Infinity : nowMs + timeoutMs, totalAtMs);
    const limit = atMs === totalAtMs ? "totalTimeout" : "timeout";
    task.timer = this.#ports.timer(atMs, "", () => {
      task.timer = 0;
      const error = new TimeoutError(
        `step ${task.id} passed its ${limit} of ${limit === "timeout" ? timeoutMs : totalTimeoutMs} ms`,
      );
      task.scope?.abort(error);
      this.#endAttempt(task, error);
      this.pump();
    });
  }

  /** The attempt is over, one way or the other; a late result of it is not heard. */
  #close(task: Task): void {
    task.live = 0;
    task.evaluation.running--;
    this.running.delete(task.id);
    if (this.#reported.delete(task)) this.#recordProgress(task);
    if (task.timer !== 0) {
      this.#ports.drop(task.timer);
      task.timer = 0;
    }
  }

  #finishAttempt(task: Task, value: unknown): void {
    if (task.body.isMethod) {
      try {
        this.#ports.methodEnded();
      } catch (error) {
        this.#endAttempt(task, error);
        return;
      }
    }
    if (value instanceof GraphNode) {
      this.#continue(task, value);
      return;
    }
    let stored: Uint8Array | undefined;
    try {
      if (task.options.checkpoint) {
        const storing = this.#ports.store(value);
        if (storing !== undefined) {
          this.#finishStored(task, value, storing);
          return;
        }
        stored = encodeFor(value, "the value of a step");
      }
    } catch (error) {
      this.#endAttempt(task, error);
      return;
    }
    this.#close(task);
    this.#succeed(task, value, stored);
    task.evaluation.finishIfQuiet();
  }

  /** The attempt isn't over before its value is stored: that may fail, too. */
  #finishStored(task: Task, value: unknown, storing: Promise<Uint8Array>): void {
    this.#tell(task);
    const { attempt } = task;
    this.running.set(task.id, task);
    storing.then(
      (stored) => {
        if (task.live !== attempt) return;
        this.#executing = undefined;
        this.#close(task);
        this.#succeed(task, value, stored);
        task.evaluation.finishIfQuiet();
        this.pump();
      },
      (error) => {
        if (task.live !== attempt) return;
        this.#executing = undefined;
        this.#endAttempt(task, error);
        this.pump();
      },
    );
  }

  #succeed(task: Task, value: unknown, stored: Uint8Array | undefined): void {
    const result = task.options.catchErrors ? [value, undefined] : value;
    // What stands for a large value can't stand within another: such a pair isn't kept.
    const isKept = !task.options.catchErrors || stored === undefined || !isLarge(value);
    const pair = task.options.catchErrors && stored !== undefined && isKept;
    const kept = pair ? encode(result) : stored;
    this.#record(task, "succeeded", { value: isKept ? kept : undefined });
    this.#settle(task.cell, okState, result);
  }

  /** The step's value will be that of the returned node. */
  #continue(task: Task, node: GraphNode): void {
    this.#close(task);
    const { evaluation } = task;
    if (evaluation.isFailed) {
      this.#settle(task.cell, failedState, evaluation.error);
      evaluation.finishIfQuiet();
      return;
    }
    if (task.options.catchErrors) {
      this.#continueCaught(task, node);
      return;
    }
    // Recorded after planning, which names the node; before anything of it begins.
    const into = task.cell;
    this.#planInto(node, evaluation, into);
    const id = this.#cellOf(node)?.id;
    if (id === undefined) this.#record(task, "failed", { error: toErrorValue(evaluation.error) });
    else this.#record(task, "continued", { into: id });
  }

  #continueCaught(task: Task, node: GraphNode): void {
    // Held open: the outer graph may not end before this step has got its pair.
    task.evaluation.running++;
    const inner = new Evaluation(
      this,
      (isOk, value) => {
        task.evaluation.running--;
        if (isOk) this.#succeed(task, value, this.#storedOrNone(value));
        else if (value instanceof CancelledError) this.#failForGood(task, value);
        else this.#settleCaught(task, value);
        task.evaluation.finishIfQuiet();
        this.pump();
      },
      true,
    );
    this.#live.add(inner);
    this.#planInto(node, inner, undefined);
    const id = this.#cellOf(node)?.id;
    if (id !== undefined && task.cell.state === pendingState) {
      this.#record(task, "continued", { into: id, isOpen: true });
    }
  }

  #storedOrNone(value: unknown): Uint8Array | undefined {
    try {
      return encode(value);
    } catch {
      // A value of a step without checkpoint may be anything.
      return undefined;
    }
  }

  #endAttempt(task: Task, thrown: unknown): void {
    if (task.live === 0) return;
    this.#close(task);
    let error = asError(thrown);
    // That one is every step's, and has the run's line.
    if (!(error instanceof CancelledError)) {
      cameOutOf(error, `step ${task.body.name}`, task.body.fn);
    }
    let delayMs: number | undefined;
    try {
      delayMs = task.evaluation.isFailed ? undefined : this.#retryDelay(task, error);
    } catch (broken) {
      // retryIf, nonRetryable or backoff of the user's: the step fails by that name.
      error = asError(broken);
    }
    if (delayMs !== undefined) {
      this.#retryLater(task, error, delayMs);
      return;
    }
    if (task.options.catchErrors && !(error instanceof CancelledError)) {
      this.#settleCaught(task, error);
      task.evaluation.finishIfQuiet();
      return;
    }
    this.#failForGood(task, error);
  }

  #settleCaught(task: Task, error: unknown): void {
    const pair = [undefined, error];
    this.#record(task, "succeeded", {
      value: this.#storedOrNone(pair),
      error: toErrorValue(error),
    });
    this.#settle(task.cell, okState, pair);
  }

  #failForGood(task: Task, error: unknown): void {
    const { evaluation } = task;
    this.#record(task, "failed", { error: toErrorValue(error) });
    const canHold =
      !evaluation.isFailed && !evaluation.isCaught && !(error instanceof CancelledError);
    if (canHold && this.#ports.isResumable()) {
      // PROTOCOL, resumePoint: the host keeps the run as it is now, before it knows.
      this.#held.push({ task, error });
      evaluation.parked ??= [];
      return;
    }
    this.#settle(task.cell, failedState, error);
    evaluation.fail(error);
  }

  #retryLater(task: Task, error: Error, delayMs: number): void {
    const nextAtMs = this.#ports.nowMs() + delayMs;
    this.#record(task, "retrying", { error: toErrorValue(error), nextAtMs });
    if (delayMs === 0) {
      this.#ready.push(task);
      return;
    }
    this.#backoffs.set(task.id, task);
    task.timer = this.#ports.timer(nextAtMs, `the next attempt of step ${task.id}`, () => {
      task.timer = 0;
      this.#backoffs.delete(task.id);
      this.#ready.push(task);
      this.pump();
    });
  }

  /** Milliseconds to the next attempt, or undefined if there is none. */
  #retryDelay(task: Task, error: Error): number | undefined {
    const { options } = task;
    if (task.attempt - task.attemptsBefore > options.retries || !isRetryableKind(error))
      return undefined;
    if (options.nonRetryable.length > 0 && matchesError(options.nonRetryable, error))
      return undefined;
    if (options.retryIf !== undefined && !matchesError(options.retryIf, error)) return undefined;
    const delayMs = this.#delayOf(task, error);
    if (options.totalTimeoutMs === undefined) return delayMs;
    const endMs = task.firstAtMs + options.totalTimeoutMs;
    return this.#ports.nowMs() + delayMs >= endMs ? undefined : delayMs;
  }

  #delayOf(task: Task, error: Error): number {
    const { retryAfter } = error as { retryAfter?: unknown };
    if (typeof retryAfter === "number" || typeof retryAfter === "string") {
      return durationMs(retryAfter as Duration, "retryAfter");
    }
    const { backoff } = task.options;
    if (typeof backoff === "function") return durationMs(backoff(task.attempt, error), "backoff");
    const plain = Math.min(backoff.max, backoff.initial * backoff.factor ** (task.attempt - 1));
    const spread = plain * backoff.jitter * (2 * this.#ports.random() - 1);
    return Math.max(0, Math.round(plain + spread));
  }

  /** Tasks of a failed graph don't wait for another attempt. */
  endBackoffs(evaluation: Evaluation): void {
    for (const [id, task] of this.#backoffs) {
      if (task.evaluation !== evaluation) continue;
      this.#backoffs.delete(id);
      this.#ports.drop(task.timer);
      task.timer = 0;
      this.#record(task, "failed", { error: toErrorValue(evaluation.error) });
      this.#settle(task.cell, failedState, evaluation.error);
    }
  }

  // ---- records

  #record(task: Task, event: StepRecord["event"], more?: RecordParts): void {
    const { options, body, id, attempt } = task;
    const { compensates } = body;
    const { metadata } = options;
    const name = options.name ?? body.name;
    const nowMs = this.#ports.nowMs();
    const value = options.checkpoint ? kept(more?.value) : undefined;
    if (attempt === 1 && !task.isReused && (compensates ?? metadata ?? more?.error) === undefined) {
      if (event === "started") {
        this.#ports.record(startedRecord({ nowMs, name }, { id, args: value }));
        return;
      }
      if (event === "succeeded" && task.isUntold) {
        task.isUntold = false;
        const args = options.checkpoint ? kept(task.storedArgs) : undefined;
        this.#ports.record(ranRecord({ nowMs, name }, { id, args, value }));
        return;
      }
      if (event === "succeeded") {
        this.#ports.record(succeededRecord({ nowMs, name }, { id, value }));
        return;
      }
    }
    this.#tell(task);
    const record: { -readonly [Key in keyof StepRecord]: StepRecord[Key] } = {
      step: id,
      name,
      event,
      atMs: nowMs,
      attempt,
    };
    if (value !== undefined) record.value = value;
    if (more?.error !== undefined) record.error = more.error;
    if (more?.nextAtMs !== undefined) record.nextAtMs = more.nextAtMs;
    if (more?.into !== undefined) record.into = more.into;
    if (more?.isOpen === true) record.isOpen = true;
    if (more?.isReused === true) record.isReused = true;
    if (compensates !== undefined) record.compensates = compensates;
    if (event === "started" && metadata !== undefined) record.metadata = metadata;
    this.#ports.record([record]);
  }

  /** Records that the attempt has begun, if nothing has said so yet. */
  #tell(task: Task): void {
    if (!task.isUntold) return;
    task.isUntold = false;
    this.#record(task, "started", task.attempt === 1 ? { value: task.storedArgs } : undefined);
  }

  /** Keeps what the attempt says of how far it is; the last of an activation counts. */
  report(task: Task, attempt: number, value: unknown): void {
    const bytes = encodeFor(value, "the progress of a step");
    if (bytes.length > progressBytesMax) {
      throw new GuestError(`progress would take ${bytes.length} bytes, of ${progressBytesMax}`, {
        code: "value-too-large",
        retryable: false,
      });
    }
    // An attempt that is over (it timed out) has nothing to say any more.
    if (task.live !== attempt) return;
    task.progress = bytes;
    this.#reported.add(task);
  }

  #recordProgress(task: Task): void {
    if (task.progress === undefined) return;
    this.#record(task, "progress", { value: task.progress });
    this.#progress = { step: task.id, value: task.progress };
  }

  /** Records what is new of the steps' progress; what was said last in this activation. */
  takeProgress(): { readonly step: string; readonly value: Uint8Array } | undefined {
    for (const task of this.#reported) this.#recordProgress(task);
    this.#reported.clear();
    const last = this.#progress;
    this.#progress = undefined;
    return last;
  }

  /** The abort signal of the attempt that runs. */
  scopeOf(task: Task): AbortScope {
    task.scope ??= abortScope();
    return task.scope;
  }
}

/** Tells of the end of a step that has a compensation. */
class Undo implements Waiter {
  readonly #owner: Steps;
  readonly #task: Task;

  constructor(owner: Steps, task: Task) {
    this.#owner = owner;
    this.#task = task;
  }

  upstream(cell: Cell): void {
    this.#owner.ended(this.#task, cell);
  }
}

function isSame(left: Uint8Array | undefined, right: Uint8Array | undefined): boolean {
  if (left === undefined || right === undefined) return left === right;
  return left.length === right.length && left.every((byte, at) => byte === right[at]);
}

/** Passes the value of a node that was planned before on to a continuation. */
class Forward implements Waiter {
  readonly #owner: Steps;
  readonly #into: Cell;

  constructor(owner: Steps, into: Cell) {
    this.#owner = owner;
    this.#into = into;
  }

  upstream(cell: Cell): void {
    this.#owner.forward(cell, this.#into);
  }
}

/** A value as a record has it: not at all if it is too large. */
function kept(value: Uint8Array | undefined): Uint8Array | undefined {
  return value === undefined || value.length > recordBytesMax ? undefined : value;
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  if (typeof value !== "object" || value === null) return false;
  return typeof (value as { then?: unknown }).then === "function";
}

/** Options that came with the node lie over those of its definition. */
function nodeOptions(node: GraphNode): ResolvedOptions {
  if (node.options === undefined) return node.body.options;
  return normaliseOptions(node.options as StepOptions, `step "${node.$step}"`, node.body.options);
}

function collectNodes(value: unknown, nodes: GraphNode[], depth: number): void {
  if (typeof value !== "object" || value === null) return;
  if (value instanceof GraphNode) {
    nodes.push(value);
    return;
  }
  if (depth > argsDepthMax) {
    throw new SerialisationError("$", `arguments nested more than ${argsDepthMax} deep, or cyclic`);
  }
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) collectNodes(value[i], nodes, depth + 1);
  } else if (isPlain(value)) {
    for (const key of Object.keys(value)) collectNodes(value[key], nodes, depth + 1);
  }
}

/** A copy of the containers that hold nodes, with the nodes' values in their places. */
function resolveNodes(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (value instanceof GraphNode) return value.cell instanceof Cell ? value.cell.value : undefined;
  if (Array.isArray(value)) return value.map((each) => resolveNodes(each));
  if (!isPlain(value)) return value;
  const copy: Record<string, unknown> = {};
  for (const key of Object.keys(value)) {
    if (key === "__proto__") {
      const resolved = resolveNodes(value[key]);
      Object.defineProperty(copy, key, {
        value: resolved,
        writable: true,
        enumerable: true,
        configurable: true,
      });
    } else {
      copy[key] = resolveNodes(value[key]);
    }
  }
  return copy;
}
