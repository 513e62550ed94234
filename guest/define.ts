/**
 * Definitions: steps, workflows and actors, the registry of them, graph nodes, and the
 * types that flow from here to the client. Importing a file of definitions does nothing
 * but fill the registry, in a component as well as in plain Node. What a definition does
 * when it is called in a run is the machine's business (`Calls`, set by activation.ts);
 * outside of a run the plain function runs, so that it can be tested as such.
 */

import {
  type CompensateOption,
  normaliseOptions,
  type ResolvedOptions,
  type StepOptions,
} from "./options.ts";
import type { ActorRef, Definition, QueueLimits } from "./protocol.ts";
import { type Duration, durationMs } from "./time.ts";

// ---- types

declare const output: unique symbol;
declare const instance: unique symbol;
declare const parameters: unique symbol;

/** A lazy step of a graph: `add.step(1, 2)`. Nothing runs until the graph is run or returned. */
export interface StepNode<Out> {
  readonly $step: string;
  readonly args: readonly unknown[];
  readonly options?: Readonly<Record<string, unknown>> | undefined;
  readonly [output]: Out;
}

/** A value, or a graph of steps that ends in it: what a step may return. */
export type Graph<Out> = Out | StepNode<Out>;

/** What a graph, a promise or a plain value comes to. */
export type Resolved<Value> =
  Value extends StepNode<infer Out>
    ? Resolved<Out>
    : Value extends PromiseLike<infer Out>
      ? Resolved<Out>
      : Value;

type Leaf =
  | string
  | number
  | boolean
  | bigint
  | symbol
  | null
  | undefined
  | Date
  | Error
  | Uint8Array
  | ArrayBuffer
  | ReadonlyMap<unknown, unknown>
  | ReadonlySet<unknown>
  | ((...args: never[]) => unknown);

/** A value, or a node of it, also at any depth of arrays and plain objects. */
export type Lifted<Value> = StepNode<Value> | LiftedInside<Value>;

type LiftedInside<Value> = Value extends Leaf
  ? Value
  : Value extends object
    ? { [Key in keyof Value]: Lifted<Value[Key]> }
    : Value;

export type LiftedArgs<Args extends readonly unknown[]> = {
  [Index in keyof Args]: Lifted<Args[Index]>;
};

/** With `catchErrors`, a step gives a pair instead of throwing. */
export type Caught<Out> =
  | readonly [value: Out, error: undefined]
  | readonly [value: undefined, error: Error];

type WithOptions<Out, Options> = Options extends { readonly catchErrors: true } ? Caught<Out> : Out;

export interface Step<Args extends readonly unknown[] = readonly unknown[], Out = unknown> {
  /** In a run: runs the step durably. Outside: just calls the function. */
  (...args: Args): Promise<Out>;
  /** A lazy node of a graph; arguments may be nodes themselves. */
  step(...args: LiftedArgs<Args>): StepNode<Out>;
  /** The same step with other options; those given earlier stay unless given again. */
  options<const Options extends StepOptions>(
    options: Options & CompensateOption<Args, Out>,
  ): Step<Args, WithOptions<Out, Options>>;
  readonly kind: "step";
  readonly stepName: string;
}

/** A workflow and its arguments: what `start` and `client.run` take. */
export interface Invocation<Out> {
  readonly $workflow: string;
  readonly args: readonly unknown[];
  readonly [output]: Out;
}

export interface Workflow<Args extends readonly unknown[] = readonly unknown[], Out = unknown> {
  /** In a run: starts a child and awaits it. Outside: just calls the function. */
  (...args: Args): Promise<Out>;
  with(...args: Args): Invocation<Out>;
  readonly kind: "workflow";
  readonly workflowName: string;
}

export interface WorkflowOptions {
  /**
   * What becomes of update handlers that still run when the workflow is done: `drain`
   * (default) waits for them, `abandon` doesn't, and their callers get an error.
   */
  readonly handlers?: "drain" | "abandon";
  /** The queue that its runs pass before they begin: its name, or also its limits. */
  readonly queue?: string | Queue;
}

/**
 * A queue and what it lets through. Several workflows may name the same queue; one of them
 * gives the limits. A client may set others at run time.
 */
export interface Queue {
  /** 1 to 200 characters of `A-Z a-z 0-9 . _ : ~ @ + = , -`. */
  readonly name: string;
  /** Runs that go on at a time. */
  readonly concurrency?: number;
  /** Runs with the same key that go on at a time. */
  readonly keyConcurrency?: number;
  /** Where in the arguments the key lies: `"0.customer"` is `customer` of the first one. */
  readonly key?: string;
  /** At most `limit` begin in each `per`, evenly; after a pause up to `burst` (default 1) at once. */
  readonly rate?: { readonly limit: number; readonly per: Duration; readonly burst?: number };
  /** Runs that may wait; a client that starts one more gets `queue-full`. */
  readonly maxPending?: number;
}

type Method = (...args: never[]) => unknown;

/** Names of an instance's public methods. */
export type MethodName<Instance> = {
  [Key in keyof Instance]-?: Key extends string
    ? Instance[Key] extends Method
      ? Key extends "getState" | "setState" | `_${string}`
        ? never
        : Key
      : never
    : never;
}[keyof Instance];

export type MethodArgs<Fn> = Fn extends (...args: infer Args extends readonly unknown[]) => unknown
  ? Args
  : never;
type MethodOut<Fn> = Fn extends (...args: never[]) => infer Out ? Resolved<Out> : never;

export type ActorHandle<Instance> = {
  readonly [Name in MethodName<Instance>]: (
    ...args: MethodArgs<Instance[Name]>
  ) => Promise<MethodOut<Instance[Name]>>;
} & {
  /**
   * One-way: resolves when the call is accepted, and gives no result. In an actor's method
   * without `await` it is part of the turn: it leaves with the state when the method ends,
   * and not at all if that throws. With `await` it leaves at once.
   */
  readonly send: {
    readonly [Name in MethodName<Instance>]: (...args: MethodArgs<Instance[Name]>) => Promise<void>;
  };
  readonly ref: ActorRef;
};

export interface Actor<Args extends readonly unknown[] = readonly unknown[], Instance = unknown> {
  /** A handle; a call fails with actor-not-found if the actor was never created. */
  get(key: string): ActorHandle<Instance>;
  /** A handle; the first call creates the actor with these arguments if it doesn't exist. */
  getOrCreate(key: string, ...args: Args): ActorHandle<Instance>;
  readonly kind: "actor";
  readonly actorName: string;
  readonly [instance]: Instance;
  readonly [parameters]: Args;
}

/**
 * The type of `this` in a method that makes graph nodes of its own actor's methods:
 * `double(this: Self<Cart>): Graph<number> { return this.update.step(one.step()); }`.
 */
export type Self<Instance> = Omit<Instance, MethodName<Instance>> & {
  [Name in MethodName<Instance>]: Instance[Name] & {
    step(...args: LiftedArgs<MethodArgs<Instance[Name]>>): StepNode<MethodOut<Instance[Name]>>;
  };
};

export interface ActorOptions<Instance> {
  /** Methods that never change the state: they run beside others and leave no trace. */
  readonly readonly?: readonly MethodName<Instance>[];
  /**
   * A call that comes back to an actor which waits for it runs within the waiting turn, on
   * the same object. When it ends, the state is kept as it is then, with what the waiting
   * method has changed so far; when it throws, its changes to the object aren't undone.
   * Default false: such a call fails, and its error names the chain.
   */
  readonly reentrant?: boolean;
  /** The actor is deleted after this long without a call; at least 1 s. Default: never. */
  readonly expiresAfter?: Duration;
  /**
   * What a method that throws means for the calls behind it: `continue` (default) serves
   * them, `stop` keeps them waiting until somebody resumes the actor.
   */
  readonly onError?: "continue" | "stop";
  /**
   * When actors of an earlier component move to this one, if the class has `static upgrade`:
   * each at its next turn (`lazily`, the default), or only those that somebody names
   * (`by-request`): first one, then the others.
   */
  readonly upgrades?: "lazily" | "by-request";
}

type Fields<Instance> = {
  [Key in keyof Instance as Instance[Key] extends Method ? never : Key]: Instance[Key];
};

/** What the state of an actor is made of: what `setState` takes, or else its fields. */
export type StateOf<Instance> = Instance extends { setState(state: infer State): unknown }
  ? State
  : Fields<Instance>;

/**
 * The class of an actor. `static upgrade(state)` makes new state of what an earlier
 * component left; it answers at once and has no effects. Without it the state stays.
 */
export interface ActorClass<Args extends readonly unknown[], Instance> {
  new (...args: Args): Instance;
  upgrade?(state: never): StateOf<Instance>;
}

// ---- graph nodes

type Callable = (...args: unknown[]) => unknown;

/** What runs when a node's turn comes: a registered step, an inline one or an own method. */
export interface Body {
  readonly name: string;
  readonly fn: Callable;
  readonly options: ResolvedOptions;
  /** A method of the actor whose turn it is. */
  readonly isMethod: boolean;
  /** Identity of the step that this one undoes. */
  readonly compensates?: string | undefined;
}

/** A node as the machine sees it. Public fields are those of a GraphValue. */
export class GraphNode {
  readonly $step: string;
  readonly args: readonly unknown[];
  readonly options: Readonly<Record<string, unknown>> | undefined;
  readonly body: Body;
  /** Where the machine keeps its result; a node that is used twice runs once. */
  cell: unknown;

  constructor(body: Body, args: readonly unknown[], options?: Readonly<Record<string, unknown>>) {
    this.$step = body.name;
    this.args = args;
    this.options = options;
    this.body = body;
    this.cell = undefined;
  }

  toJSON(): unknown {
    const { $step, args, options } = this;
    return options === undefined ? { $step, args } : { $step, args, options };
  }
}

// ---- what calls need of the run

export interface Calls {
  step(body: Body, args: readonly unknown[]): Promise<unknown>;
  child(name: string, args: readonly unknown[]): Promise<unknown>;
  method(call: MethodCall): Promise<unknown>;
}

export interface MethodCall {
  readonly actor: ActorRef;
  readonly method: string;
  readonly args: readonly unknown[];
  readonly oneWay: boolean;
  /** Constructor arguments for an actor that doesn't exist yet. */
  readonly create: readonly unknown[] | undefined;
}

let calls: Calls | undefined;

/** The machine says whose run it is; undefined outside of one. */
export function setCalls(next: Calls | undefined): void {
  calls = next;
}

// ---- registry

export interface WorkflowEntry {
  readonly name: string;
  readonly fn: Callable;
  readonly options: WorkflowOptions;
  readonly queue: Definition["queue"];
}

export interface ActorEntry {
  readonly name: string;
  readonly maker: new (...args: unknown[]) => object;
  readonly methods: ReadonlyMap<string, { readonly fn: Callable; readonly readonly: boolean }>;
  readonly hasHooks: boolean;
  /** Makes state of an earlier component's. */
  readonly upgrade: ((state: unknown) => unknown) | undefined;
  /** What the host is told beside name and methods. */
  readonly traits: ActorTraits;
}

type ActorTraits = Pick<
  Definition,
  "upgrades" | "upgradesByHand" | "reentrant" | "expiresAfterMs" | "stopsOnError"
>;

const steps = new Map<string, Body>();
const workflows = new Map<string, WorkflowEntry>();
const actors = new Map<string, ActorEntry>();

export function findStep(name: string): Body | undefined {
  return steps.get(name);
}

export function findWorkflow(name: string): WorkflowEntry | undefined {
  return workflows.get(name);
}

export function findActor(name: string): ActorEntry | undefined {
  return actors.get(name);
}

/** What runs instead of steps' bodies, by name; empty but in tests (testing.ts). */
let standIns: ReadonlyMap<string, Callable> = new Map();

export function setStandIns(next: ReadonlyMap<string, Callable>): void {
  standIns = next;
}

/** The function that a step's attempt calls. */
export function functionOf(body: Body): Callable {
  if (standIns.size === 0 || body.isMethod) return body.fn;
  return standIns.get(body.name) ?? body.fn;
}

/** Everything that was defined, in order of name. */
export function definitions(): Definition[] {
  const all: Definition[] = [];
  for (const name of steps.keys()) all.push({ kind: "step", name });
  for (const { name, queue } of workflows.values()) {
    all.push({ kind: "workflow", name, ...(queue === undefined ? undefined : { queue }) });
  }
  for (const entry of actors.values()) {
    const methods = [];
    for (const [name, method] of entry.methods) methods.push({ name, readonly: method.readonly });
    all.push({ kind: "actor", name: entry.name, methods, ...entry.traits });
  }
  const key = (each: Definition): string => `${each.kind} ${each.name}`;
  return all.sort((a, b) => (key(a) < key(b) ? -1 : 1));
}

const nameCharsMax = 128;

/** Names appear in URLs, keys and records. */
export function checkName(kind: string, name: unknown): asserts name is string {
  if (typeof name !== "string" || name === "" || name.trim() !== name) {
    throw new TypeError(`a ${kind} needs a name that is a text without spaces around it`);
  }
  if (name.length > nameCharsMax) {
    throw new TypeError(
      `the name of ${kind} "${name.slice(0, 40)}…" is over ${nameCharsMax} characters`,
    );
  }
  if (name.startsWith("$") || /[\0-\x1f\x7f/\\]|[\ud800-\udfff]/u.test(name)) {
    throw new TypeError(
      `the name of ${kind} ${JSON.stringify(name)} must not begin with $, nor have a slash, ` +
        "a backslash or a control character in it",
    );
  }
}

/** As the host has it (PROTOCOL 2.4): a wait for any other name would be for ever. */
const signalNamePattern = /^[A-Za-z_$][A-Za-z0-9_$.-]{0,127}$/;

export function checkSignal(name: unknown): asserts name is string {
  if (typeof name === "string" && signalNamePattern.test(name)) return;
  throw new TypeError(
    `signal ${JSON.stringify(name)}: a signal's name is a letter, _ or $, then up to 127 letters, ` +
      "digits, _ $ . or -",
  );
}

function checkFree(kind: string, name: string, parts: { known: unknown; fn: Callable }): void {
  if (parts.known === undefined || parts.known === parts.fn) return;
  const title = (fn: unknown): string => {
    const text = typeof fn === "function" ? fn.name : "";
    return text === "" ? "an unnamed function" : `function ${text}`;
  };
  throw new TypeError(
    `${kind} "${name}" is defined twice: as ${title(parts.known)} and as ${title(parts.fn)}; ` +
      `give one of them another name`,
  );
}

function checkFunction(kind: string, name: string, fn: unknown): asserts fn is Callable {
  if (typeof fn !== "function") throw new TypeError(`${kind} "${name}" needs a function`);
}

// ---- step

/**
 * Defines a step: a function that runs at least once and, once its result is recorded,
 * never again. `export const add = step("add", (a: number, b: number) => a + b);`
 */
export function step<
  Args extends readonly unknown[],
  Result,
  const Options extends StepOptions = StepOptions,
>(
  name: string,
  fn: (...args: Args) => Result,
  options?: Options & CompensateOption<Args, Resolved<Result>>,
): Step<Args, WithOptions<Resolved<Result>, Options>> {
  checkName("step", name);
  checkFunction("step", name, fn);
  checkFree("step", name, { known: steps.get(name)?.fn, fn: fn as Callable });
  const body: Body = {
    name,
    fn: fn as Callable,
    options: normaliseOptions(options, `step "${name}"`),
    isMethod: false,
  };
  steps.set(name, body);
  return stepOf(body, undefined) as Step<Args, WithOptions<Resolved<Result>, Options>>;
}

/** Bodies of steps by what they are called with. */
const bodies = new WeakMap<object, Body>();

/** The step that a function is, or undefined if it is just a function. */
export function bodyOf(fn: object): Body | undefined {
  return bodies.get(fn);
}

/** `given` are the options that differ from the definition's: they travel with the node. */
function stepOf(body: Body, given: StepOptions | undefined): Step {
  const callable = (...args: unknown[]): Promise<unknown> =>
    calls === undefined ? runPlain(new GraphNode(body, args)) : calls.step(body, args);
  const sent = given as Readonly<Record<string, unknown>> | undefined;
  bodies.set(callable, body);
  return Object.assign(callable, {
    kind: "step" as const,
    stepName: body.name,
    step: (...args: unknown[]) => new GraphNode(body, args, sent) as unknown as StepNode<unknown>,
    options: (more: StepOptions) => {
      const merged = { ...given, ...more };
      const options = normaliseOptions(more, `step "${body.name}"`, body.options);
      return stepOf({ ...body, options }, merged);
    },
  }) as unknown as Step;
}

/** Runs a graph without a run: just the functions, each node once. */
async function runPlain(
  node: GraphNode,
  seen = new Map<GraphNode, Promise<unknown>>(),
): Promise<unknown> {
  const known = seen.get(node);
  if (known !== undefined) return known;
  const result = (async () => {
    const args = await Promise.all(node.args.map((arg) => plainArg(arg, seen)));
    const value: unknown = await node.body.fn(...args);
    return value instanceof GraphNode ? runPlain(value, seen) : value;
  })();
  seen.set(node, result);
  return result;
}

async function plainArg(arg: unknown, seen: Map<GraphNode, Promise<unknown>>): Promise<unknown> {
  if (arg instanceof GraphNode) return runPlain(arg, seen);
  if (Array.isArray(arg)) return Promise.all(arg.map((each) => plainArg(each, seen)));
  if (!isPlain(arg)) return arg;
  const record: Record<string, unknown> = {};
  for (const key of Object.keys(arg)) {
    const value = await plainArg(arg[key], seen);
    Object.defineProperty(record, key, {
      value,
      writable: true,
      enumerable: true,
      configurable: true,
    });
  }
  return record;
}

export function isPlain(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** Runs a graph outside of a run. */
export function runOutside(node: GraphNode): Promise<unknown> {
  return runPlain(node);
}

// ---- workflow

/** Defines a workflow: code that survives crashes and waits for as long as it takes. */
export function workflow<Args extends readonly unknown[], Result>(
  name: string,
  fn: (...args: Args) => Result,
  options: WorkflowOptions = {},
): Workflow<Args, Resolved<Result>> {
  checkName("workflow", name);
  checkFunction("workflow", name, fn);
  checkFree("workflow", name, { known: workflows.get(name)?.fn, fn: fn as Callable });
  for (const key of Object.keys(options)) {
    if (key !== "handlers" && key !== "queue") {
      throw new TypeError(`workflow "${name}": there is no option ${key}`);
    }
  }
  if (
    options.handlers !== undefined &&
    options.handlers !== "drain" &&
    options.handlers !== "abandon"
  ) {
    throw new TypeError(`workflow "${name}": handlers is "drain" or "abandon"`);
  }
  workflows.set(name, {
    name,
    fn: fn as Callable,
    options,
    queue: queueOf(`workflow "${name}"`, options.queue),
  });
  const callable = async (...args: Args): Promise<unknown> => {
    if (calls !== undefined) return calls.child(name, args);
    const value: unknown = await fn(...args);
    return value instanceof GraphNode ? runPlain(value) : value;
  };
  return Object.assign(callable, {
    kind: "workflow" as const,
    workflowName: name,
    with: (...args: Args) => ({ $workflow: name, args }),
  }) as unknown as Workflow<Args, Resolved<Result>>;
}

const queueNamePattern = /^(?!\.+$)[A-Za-z0-9._:~@+=,-]{1,200}$/;

function queueOf(who: string, given: string | Queue | undefined): Definition["queue"] {
  if (given === undefined) return undefined;
  if (typeof given === "string") return { name: checkQueue(who, given) };
  const { name, key, rate, ...counts } = given;
  for (const [what, count] of Object.entries(counts)) {
    if (!queueCounts.has(what)) throw new TypeError(`${who}: a queue has no option ${what}`);
    checkCount(`${who}: ${what}`, count, what === "maxPending" ? 0 : 1);
  }
  if (key !== undefined && (typeof key !== "string" || !/^\d+(\.[^.]+)*$/.test(key))) {
    throw new TypeError(`${who}: a queue's key is a path such as "0.customer"`);
  }
  const limits = { ...counts, ...(rate === undefined ? undefined : { rate: rateOf(who, rate) }) };
  return {
    name: checkQueue(who, name),
    ...(key === undefined ? undefined : { key }),
    ...(Object.keys(limits).length === 0 ? undefined : { limits }),
  };
}

const queueCounts = new Set(["concurrency", "keyConcurrency", "maxPending"]);

/** Throws unless a queue can have that name. */
export function checkQueue(who: string, name: unknown): string {
  if (typeof name !== "string" || !queueNamePattern.test(name)) {
    throw new TypeError(`${who}: a queue needs a name of letters, digits and . _ : ~ @ + = , -`);
  }
  if (name === "all") throw new TypeError(`${who}: the queue "all" is passed by every run anyway`);
  return name;
}

function rateOf(who: string, rate: NonNullable<Queue["rate"]>): QueueRate {
  const { limit, per, burst, ...rest } = rate;
  for (const what of Object.keys(rest)) throw new TypeError(`${who}: a rate has no option ${what}`);
  checkCount(`${who}: rate.limit`, limit, 1);
  if (burst !== undefined) checkCount(`${who}: rate.burst`, burst, 1);
  const periodMs = durationMs(per, "per");
  checkCount(`${who}: rate.per in milliseconds`, periodMs, 1);
  return { limit, periodMs, ...(burst === undefined ? undefined : { burst }) };
}

type QueueRate = NonNullable<QueueLimits["rate"]>;

function checkCount(what: string, value: unknown, min: number): void {
  if (Number.isSafeInteger(value) && Number(value) >= min && Number(value) <= 1e9) return;
  throw new RangeError(`${what} is a whole number from ${min} on`);
}

// ---- actor

/** Names that a handle or an instance has for itself. */
const reservedMethods = new Set(["send", "ref", "then", "step"]);

/** Defines an actor: an object with a key whose state is kept, and whose calls come one by one. */
export function actor<Args extends readonly unknown[], Instance extends object>(
  name: string,
  maker: ActorClass<Args, Instance>,
  options: ActorOptions<Instance> = {},
): Actor<Args, Instance> {
  checkName("actor", name);
  checkFunction("actor", name, maker);
  checkFree("actor", name, { known: actors.get(name)?.maker, fn: maker as unknown as Callable });
  const readonly: readonly string[] = options.readonly ?? [];
  const methods = methodsOf(name, maker.prototype as object, readonly);
  for (const each of readonly) {
    if (methods.has(each)) continue;
    throw new TypeError(
      `actor "${name}": readonly names "${each}", which is not one of its methods`,
    );
  }
  const entry: ActorEntry = {
    name,
    maker: maker as unknown as ActorEntry["maker"],
    methods,
    hasHooks: checkHooks(name, maker.prototype as Record<string, unknown>),
    upgrade: upgradeOf(name, maker as unknown as ActorEntry["maker"]),
    traits: traitsOf(name, maker as unknown as ActorEntry["maker"], options),
  };
  actors.set(name, entry);
  return {
    kind: "actor",
    actorName: name,
    get: (key: string) => handleOf(entry, key, undefined),
    getOrCreate: (key: string, ...args: Args) => handleOf(entry, key, args),
  } as unknown as Actor<Args, Instance>;
}

const expiresAfterMsMin = 1000;

function traitsOf<Instance>(
  name: string,
  maker: ActorEntry["maker"],
  options: ActorOptions<Instance>,
): ActorTraits {
  for (const key of Object.keys(options)) {
    if (!actorOptions.has(key)) throw new TypeError(`actor "${name}": there is no option ${key}`);
  }
  const { reentrant = false, expiresAfter, onError = "continue", upgrades = "lazily" } = options;
  if (typeof reentrant !== "boolean") {
    throw new TypeError(`actor "${name}": reentrant is true or false`);
  }
  if (onError !== "continue" && onError !== "stop") {
    throw new TypeError(`actor "${name}": onError is "continue" or "stop"`);
  }
  if (upgrades !== "lazily" && upgrades !== "by-request") {
    throw new TypeError(`actor "${name}": upgrades is "lazily" or "by-request"`);
  }
  const expiresAfterMs =
    expiresAfter === undefined ? undefined : durationMs(expiresAfter, "expiresAfter");
  if (expiresAfterMs !== undefined && expiresAfterMs < expiresAfterMsMin) {
    throw new RangeError(`actor "${name}": expiresAfter is at least ${expiresAfterMsMin} ms`);
  }
  return {
    ...(upgradeOf(name, maker) === undefined ? undefined : { upgrades: true }),
    ...(upgrades === "by-request" ? { upgradesByHand: true } : undefined),
    ...(reentrant ? { reentrant } : undefined),
    ...(expiresAfterMs === undefined ? undefined : { expiresAfterMs }),
    ...(onError === "stop" ? { stopsOnError: true } : undefined),
  };
}

const actorOptions = new Set(["readonly", "reentrant", "expiresAfter", "onError", "upgrades"]);

function upgradeOf(name: string, maker: ActorEntry["maker"]): ActorEntry["upgrade"] {
  const { upgrade } = maker as { upgrade?: unknown };
  if (upgrade === undefined) return undefined;
  if (typeof upgrade !== "function") {
    throw new TypeError(`actor "${name}": static upgrade must be a function`);
  }
  return (state) => (upgrade as Callable).call(maker, state);
}

function checkHooks(name: string, prototype: Record<string, unknown>): boolean {
  const hasGet = typeof prototype["getState"] === "function";
  const hasSet = typeof prototype["setState"] === "function";
  if (hasGet !== hasSet) {
    const [has, lacks] = hasGet ? ["getState", "setState"] : ["setState", "getState"];
    throw new TypeError(`actor "${name}" has ${has} but no ${lacks}: it needs both or neither`);
  }
  return hasGet;
}

/** Public methods in order of definition, base classes after, Object's own never. */
function methodsOf(
  name: string,
  prototype: object,
  readonly: readonly string[],
): Map<string, { fn: Callable; readonly: boolean }> {
  const methods = new Map<string, { fn: Callable; readonly: boolean }>();
  let level: object | null = prototype;
  while (level !== null && level !== Object.prototype) {
    for (const key of Object.getOwnPropertyNames(level)) {
      const fn: unknown = Object.getOwnPropertyDescriptor(level, key)?.value;
      if (typeof fn !== "function" || methods.has(key) || isInternal(key)) continue;
      if (reservedMethods.has(key)) {
        throw new TypeError(`actor "${name}": a method can't be called "${key}"`);
      }
      checkName("method", key);
      addNodeMaker(key, fn as Callable);
      methods.set(key, { fn: fn as Callable, readonly: readonly.includes(key) });
    }
    level = Object.getPrototypeOf(level) as object | null;
  }
  return methods;
}

function isInternal(key: string): boolean {
  return (
    key === "constructor" ||
    key === "getState" ||
    key === "setState" ||
    key.startsWith("_") ||
    Object.hasOwn(Object.prototype, key)
  );
}

/** `this.update.step(node)`: a node that calls the method of the actor whose turn it is. */
function addNodeMaker(name: string, fn: Callable): void {
  if (Object.hasOwn(fn, "step")) return;
  // A method that failed half-way may have changed the state: not tried again by itself.
  const options = normaliseOptions({ retries: 0 }, `method "${name}"`);
  const body: Body = { name, fn, options, isMethod: true };
  Object.defineProperty(fn, "step", { value: (...args: unknown[]) => new GraphNode(body, args) });
}

const keyCharsMax = 512;

/** A handle of an actor whose entry is known. */
export function handleOf(
  entry: ActorEntry,
  key: string,
  create: readonly unknown[] | undefined,
): object {
  if (typeof key !== "string" || key === "" || key.length > keyCharsMax) {
    throw new TypeError(`actor "${entry.name}" needs a key of 1 to ${keyCharsMax} characters`);
  }
  const ref: ActorRef = { type: entry.name, key };
  const handle: Record<string, unknown> = { ref };
  const send: Record<string, unknown> = {};
  const call = (method: string, args: readonly unknown[], oneWay: boolean): Promise<unknown> => {
    if (calls !== undefined) return calls.method({ actor: ref, method, args, oneWay, create });
    const place = `${entry.name}.${method}`;
    return Promise.reject(
      new Error(`${place} was called outside of a run: use the client, or test the class itself`),
    );
  };
  for (const method of entry.methods.keys()) {
    handle[method] = (...args: unknown[]) => call(method, args, false);
    send[method] = (...args: unknown[]) => call(method, args, true);
  }
  handle["send"] = send;
  return handle;
}
