/**
 * The run's machine: takes activations in (`deliver`), lets guest code run until it is
 * quiet, and gives commands and records out (`drain`). One machine is one run, or one turn
 * of an actor. It owns pending commands, message handlers, time and randomness; steps and
 * graphs are steps.ts's.
 *
 *   G1 Neither `deliver` nor `drain` throws: a throw would trap the instance.
 *   G2 What happens depends on the activations alone; ties go by the order of inputs.
 *   G3 A result that arrives for a wait that was given up goes to the next wait, not away.
 *   G4 A read-only turn or query queues nothing but its reply and log lines.
 *   G5 Messages of a turn (reminders, sends, signals, starts, cancellations) that nobody
 *      awaits leave together with the state, when a method ends. They are like fields of
 *      the object: a turn that throws loses them.
 */
import { CborError, decode, encode, encodeSequence, ItemList, Raw } from "./cbor.ts";
import type { Undone } from "./compensations.ts";
import {
  type ActorEntry,
  type Body,
  definitions,
  findActor,
  findWorkflow,
  GraphNode,
  type MethodCall,
  setCalls,
} from "./define.ts";
import {
  asError,
  CancelledError,
  CompensationError,
  fromErrorValue,
  GuestError,
  middleOut,
  toErrorValue,
} from "./errors.ts";
import { graphFromValue } from "./graph.ts";
import type { CommandPromise, Kernel, LogLevel } from "./kernel.ts";
import { Message } from "./message.ts";
import { childError, failure, type Origin, originOf, outcomeOf, type Settled } from "./outcome.ts";
import { isLarge, Pieces } from "./pieces.ts";
import {
  type Activation,
  type Command,
  type Drained,
  type Encoded,
  type ErrorValue,
  type Input,
  type Outcome,
  protocolVersion,
  type ReusedStep,
  type RunInfo,
  stateBytesMax,
  type TurnInput,
  type UnreadSignal,
} from "./protocol.ts";
import { randomSource } from "./random.ts";
import { type AbortScope, abortScope } from "./scope.ts";
import { Steps } from "./steps.ts";

export type { CommandPromise, Kernel, LogLevel } from "./kernel.ts";

const logLinesMax = 256;
const logCharsMax = 8 * 1024;

interface Pending {
  resolve(value: Encoded): void;
  reject(error: Error): void;
  /** What is waited for, for people; empty if it isn't worth a word. */
  readonly label: string;
  /** Name of the signal, for a wait. */
  readonly signal: string | undefined;
}

/** How a command's result is taken; `signal` for waits (G3). */
export interface Ask {
  /** What is waited for, for people; empty if it isn't worth a word. Default: the kind. */
  readonly label: string | undefined;
  readonly signal?: string;
  resolve(value: Encoded): void;
  reject(error: Error): void;
}

export interface UpdateHandler {
  readonly fn: (...args: unknown[]) => unknown;
  readonly validate: ((...args: unknown[]) => unknown) | undefined;
}

interface Turn {
  readonly input: TurnInput;
  readonly actor: ActorEntry;
  instance: object | undefined;
  /** The state as the host has it. */
  known: Uint8Array | undefined;
  /** Messages that leave with the next state (G5), in the order in which they were made. */
  held: Held[];
  /** Calls that run within this turn because the actor is re-entrant, by their ids. */
  readonly nested: Set<string>;
  /** The turn's own method has ended, and calls within it haven't. */
  isEnded: boolean;
}

interface Held {
  /** The call that made it, as far as can be told. */
  readonly frame: TurnInput;
  /** True: leaves with the activation, although the turn goes on. */
  readonly isEager: boolean;
  leave(): void;
}

/** `continueAsNew` leaves the workflow with this; it isn't an error that a run fails with. */
class ContinueAsNew extends Error {
  readonly args: Encoded;

  constructor(args: Encoded) {
    super("continue-as-new: let this pass");
    this.args = args;
  }
}

const emptySeed = new Uint8Array(16);

export class Machine {
  #nowMs = 0;
  #random = randomSource(emptySeed);
  #nextId = 1;
  readonly #commands = new ItemList();
  readonly #records = new ItemList();
  readonly #pending = new Map<number, Pending>();
  /** Waits given up in this activation: a result may be on its way in the same one (G3). */
  readonly #dropped = new Map<number, string>();
  /** Signals that came for a wait that had been given up, by name. */
  readonly #buffered = new Map<string, UnreadSignal[]>();
  readonly #queries = new Map<string, (...args: unknown[]) => unknown>();
  readonly #updates = new Map<string, UpdateHandler>();
  #handlersChanged = false;
  /** Updates whose handlers haven't answered yet, by the ids of their inputs. */
  readonly #updating = new Set<string>();
  #abandonsHandlers = false;
  #closing: (() => void) | undefined;
  /** Compensations are running; a cancellation waits for them. */
  #undoing = 0;
  #waitingCancel: string | undefined;
  #info: RunInfo | undefined;
  #scope: AbortScope = abortScope();
  #cancellation: Error | undefined;
  #turn: Turn | undefined;
  /** The call within the turn whose method is executing right now, as far as can be told. */
  #nested: TurnInput | undefined;
  #isReadonly = false;
  #isDone = false;
  /** The turn's own answer is among the commands of this activation. */
  #hasAnswered = false;
  #logLines = 0;
  readonly steps: Steps;
  /** Stored values, and what of results is too large for one activation. */
  readonly pieces = new Pieces((build, label) => this.command(build, label));

  constructor() {
    this.steps = new Steps({
      nowMs: () => this.#nowMs,
      random: () => this.#random.next(),
      record: (parts) => {
        if (!this.#isDone && !this.#isReadonly) this.#records.pushWrapped(parts);
      },
      timer: (atMs, label, fire) => this.#timer(atMs, label, fire),
      drop: (id) => this.drop(id),
      instance: () => this.#turn?.instance,
      methodEnded: () => this.#save(),
      isResumable: () => this.#turn === undefined,
      store: (value) => (isLarge(value) ? this.#store(value) : undefined),
    });
  }

  // ---- the border

  async deliver(bytes: Uint8Array): Promise<void> {
    // G1: whatever goes wrong ends the run, not the instance.
    try {
      this.#enter();
      this.#accept(decode(bytes) as Activation);
    } catch (error) {
      this.#break(error);
    }
  }

  drain(): Uint8Array {
    try {
      this.#endReadonlyTurn();
      this.#releaseEager();
      return this.#drained();
    } catch (error) {
      this.#break(error);
      return this.#drained();
    } finally {
      this.#leave();
    }
  }

  #enter(): void {
    active = this;
    isActive = true;
    setCalls(this);
  }

  #leave(): void {
    isActive = false;
    setCalls(undefined);
    this.steps.leaveBody();
    this.#nested = undefined;
  }

  #accept(activation: Activation): void {
    this.#nowMs = Math.max(this.#nowMs, activation.nowMs);
    this.#logLines = 0;
    this.#hasAnswered = false;
    this.#dropped.clear();
    this.steps.activate(activation.stepsMax, faultsOf(activation.inputs));
    for (const input of activation.inputs) this.#input(input);
    this.steps.pump();
  }

  #input(input: Input): void {
    switch (input.kind) {
      case "start":
        this.#start(input.run, input.args, input.reuse);
        return;
      case "graph":
        this.#startGraph(input.run, input.root, input.reuse);
        return;
      case "run":
        this.#info = input.run;
        return;
      case "turn":
        if (this.#turn === undefined) this.#startTurn(input);
        else this.#nestTurn(this.#turn, input);
        return;
      case "resolve":
        this.#resolve(input);
        return;
      case "update":
        this.#update(input.id, input.name, input.args);
        return;
      case "query":
        this.#query(input.id, input.name, input.args);
        return;
      case "cancel":
        this.#cancel(input.reason);
        return;
      case "continue":
        this.steps.deliverFailures();
        return;
      case "retry":
        this.steps.retryFailures();
        return;
      case "stepFault":
        // Taken out beforehand: it concerns steps that begin anywhere in this activation.
        return;
      default:
        unknownInput(input);
        return;
    }
  }

  #drained(): Uint8Array {
    const state = this.#state();
    const progress = this.steps.takeProgress();
    const entries: unknown[] = ["state", state];
    entries.push("commands", ...this.#commands.parts(), "records", ...this.#records.parts());
    if (progress !== undefined) entries.push("progress", progress);
    if (state === "waiting") entries.push("waitingFor", this.#waitingFor());
    if (state === "yielded") {
      const { resumePoint, next } = this.steps;
      if (resumePoint !== undefined) entries.push("resumePoint", resumePoint);
      if (next !== undefined) entries.push("nextStep", next);
    }
    if (this.#handlersChanged) {
      const handlers = { queries: [...this.#queries.keys()], updates: [...this.#updates.keys()] };
      entries.push("handlers", handlers);
    }
    // The two lists have a head and items each, which makes six parts of two entries.
    const head = new Raw(Uint8Array.of(0xa0 | ((entries.length - 2) / 2)));
    const bytes = encodeSequence([head, ...entries]);
    this.#commands.clear();
    this.#records.clear();
    this.#handlersChanged = false;
    return bytes;
  }

  #state(): Drained["state"] {
    if (this.#isDone) return "done";
    return this.steps.isYielding ? "yielded" : "waiting";
  }

  #waitingFor(): string {
    const labels = new Map<string, number>();
    let seen = 0;
    for (const pending of this.#pending.values()) {
      if (pending.label !== "") labels.set(pending.label, (labels.get(pending.label) ?? 0) + 1);
      if (++seen === 50) break;
    }
    const parts = [...labels]
      .slice(0, 3)
      .map(([label, count]) => (count === 1 ? label : `${count} × ${label}`));
    const others = this.#pending.size - seen + Math.max(0, labels.size - 3);
    if (others > 0) parts.push(`${others} more`);
    const held = this.#turn?.held.length ?? 0;
    // It may be just that message whose answer is waited for.
    const note = held > 0 ? ` (held until the method ends: ${held} messages)` : "";
    if (parts.length > 0) return `${parts.join(", ")}${note}`;
    if (this.steps.running.size > 0)
      return `step ${[...this.steps.running.keys()].slice(0, 3).join(", ")}`;
    return this.#updating.size > 0 ? "update handlers" : "nothing that can come";
  }

  /** The machine itself failed: the run ends with that, and says so. */
  #break(error: unknown): void {
    this.#commands.clear();
    this.#records.clear();
    this.#isDone = false;
    this.#isReadonly = false;
    const value: ErrorValue = { ...toErrorValue(error), class: "host" };
    // What was answered in this activation is lost with it.
    if (this.#turn !== undefined && this.#hasAnswered) this.#turn.isEnded = false;
    if (error instanceof CborError || this.#turn === undefined) {
      this.#finish({ kind: "complete", outcome: { kind: "error", error: value } });
    } else {
      this.#endTurn({ kind: "error", error: value });
    }
  }

  // ---- commands

  /** Queues a command; encoded at once, so that one that can't be fails where it was made. */
  queue(command: Command): void {
    // A run that is over still answers queries.
    if (this.#isDone && command.kind !== "reply") return;
    if (this.#isReadonly) {
      const { kind } = command;
      if (kind !== "reply" && kind !== "log" && kind !== "turned") throw notReadonly(titles[kind]);
    }
    this.#commands.push(command);
  }

  /** Queues a command without an answer; in a turn, as a part of the turn (G5). */
  emit(command: Command, options: { readonly isEager?: boolean } = {}): void {
    requireRun();
    const { isEager = false } = options;
    const turn = this.#turn;
    if (turn === undefined || this.#isDone || this.#isReadonly) {
      this.queue(command);
      return;
    }
    turn.held.push({ frame: this.#frame(turn), isEager, leave: () => this.queue(command) });
  }

  /**
   * A message to somebody else, and what `read` makes of its answer. In a turn it is a part
   * of the turn, unless somebody awaits it (G5). What `build` needs must be encoded already.
   */
  message<Value>(
    build: (id: number) => Command,
    label: string,
    read: (answer: Encoded) => Value,
  ): Promise<Value> {
    requireRun();
    const turn = this.#turn;
    if (turn === undefined || this.#isDone || this.#isReadonly) {
      return this.command(build, label).then(read);
    }
    const held = { frame: this.#frame(turn), isEager: false, leave: () => {} };
    const leaveNow = (): void => {
      const at = turn.held.indexOf(held);
      if (at === -1) return;
      turn.held.splice(at, 1);
      held.leave();
    };
    turn.held.push(held);
    return Message.held<Value>((resolve, reject) => {
      held.leave = () => {
        try {
          this.ask(build, {
            label,
            resolve: (answer) => resolve(read(answer)),
            reject,
          });
        } catch (error) {
          reject(error);
        }
      };
    }, leaveNow);
  }

  #frame(turn: Turn): TurnInput {
    return this.#nested ?? turn.input;
  }

  #releaseHeld(): void {
    const turn = this.#turn;
    if (turn === undefined) return;
    const { held } = turn;
    turn.held = [];
    for (const each of held) each.leave();
  }

  #releaseEager(): void {
    const turn = this.#turn;
    if (turn === undefined || this.#isDone || turn.held.length === 0) return;
    const eager = turn.held.filter(({ isEager }) => isEager);
    if (eager.length === 0) return;
    turn.held = turn.held.filter(({ isEager }) => !isEager);
    for (const each of eager) each.leave();
  }

  /** Queues a command with an id; `ask` gets its result. Throws if the command can't be made. */
  ask(build: (id: number) => Command, ask: Ask): number {
    requireRun();
    const id = this.#nextId;
    const command = build(id);
    this.queue(command);
    this.#nextId++;
    this.#pending.set(id, {
      resolve: ask.resolve,
      reject: ask.reject,
      label: this.#labelOf(ask.label ?? command.kind),
      signal: ask.signal,
    });
    return id;
  }

  command(build: (id: number) => Command, label?: string): CommandPromise {
    let id = 0;
    const promise = new Promise<Encoded>((resolve, reject) => {
      id = this.ask(build, { label, resolve, reject });
    });
    // Nobody has to be listening: a cancelled timer of a race that is over is no fault.
    promise.catch(ignore);
    return Object.assign(promise, { id });
  }

  #labelOf(label: string): string {
    const step = this.steps.currentId;
    return step === undefined || label === "" ? label : `step ${step} (${label})`;
  }

  #timer(atMs: number, label: string, fire: () => void): number {
    return this.ask((id) => ({ kind: "timer", id, atMs }), {
      label,
      resolve: fire,
      reject: ignore,
    });
  }

  drop(id: number): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    this.#pending.delete(id);
    if (pending.signal !== undefined) this.#dropped.set(id, pending.signal);
    this.queue({ kind: "drop", id });
  }

  /** The oldest signal of that name that came too late for the wait it was meant for (G3). */
  takeBuffered(name: string): Encoded | undefined {
    const values = this.#buffered.get(name);
    const taken = values?.shift();
    if (values?.length === 0) this.#buffered.delete(name);
    return taken?.value;
  }

  #resolve({ id, outcome, signal }: Extract<Input, { kind: "resolve" }>): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) {
      const name = this.#dropped.get(id);
      if (name === undefined || outcome.kind !== "ok") return;
      const unread: UnreadSignal = { name, index: signal?.index ?? 0, value: outcome.value };
      const values = this.#buffered.get(name);
      if (values === undefined) this.#buffered.set(name, [unread]);
      else values.push(unread);
      return;
    }
    this.#pending.delete(id);
    if (outcome.kind === "ok") pending.resolve(outcome.value);
    else pending.reject(fromErrorValue(outcome.error));
  }

  // ---- workflow and graph runs

  #begin(run: RunInfo): void {
    this.#info = run;
    this.#random = randomSource(run.seed);
  }

  #start(run: RunInfo, args: Encoded, reuse: readonly ReusedStep[] | undefined): void {
    this.#begin(run);
    this.steps.takeResults(reuse);
    const entry = findWorkflow(run.name);
    if (entry === undefined) {
      const error = new GuestError(`there is no workflow "${run.name}" in this component`, {
        code: "workflow-not-found",
        retryable: false,
      });
      this.#complete(failure(error));
      return;
    }
    this.#abandonsHandlers = entry.options.handlers === "abandon";
    this.#follow(
      () => entry.fn(...argsFrom(args)),
      (outcome) => this.#close(outcome, { what: `workflow ${run.name}`, fn: entry.fn }),
    );
  }

  #startGraph(run: RunInfo, root: Encoded, reuse: readonly ReusedStep[] | undefined): void {
    this.#begin(run);
    this.steps.takeResults(reuse);
    this.#follow(
      () => graphFromValue(decode(root)),
      (outcome) => this.#close(outcome),
    );
  }

  /** Calls and follows what comes back, promise or graph, to its outcome. */
  #follow(call: () => unknown, settle: (outcome: Settled) => void): void {
    let result: unknown;
    try {
      result = call();
      if (isThenable(result)) {
        Promise.resolve(result).then(
          (value) => this.#followGraph(value, settle),
          (error) => settle({ isOk: false, value: error }),
        );
        return;
      }
    } catch (error) {
      settle({ isOk: false, value: error });
      return;
    }
    this.#followGraph(result, settle);
  }

  #followGraph(value: unknown, settle: (outcome: Settled) => void): void {
    if (!(value instanceof GraphNode)) {
      settle({ isOk: true, value });
      return;
    }
    if (this.#isReadonly) {
      settle({ isOk: false, value: notReadonly("a graph") });
      return;
    }
    this.steps.evaluate(value, (isOk, result) => settle({ isOk, value: result }));
  }

  /** The workflow's function is over: waits for update handlers, then ends the run. */
  #close(settled: Settled, origin?: Origin): void {
    this.steps.leaveBody();
    this.#closing = () => {
      this.#closing = undefined;
      if (settled.value instanceof ContinueAsNew && !settled.isOk) {
        this.#continueAsNew(settled.value.args);
        return;
      }
      if (settled.isOk && isLarge(settled.value)) {
        this.#store(settled.value).then(
          (value) => this.#complete({ kind: "ok", value }),
          (error) => this.#undo(toErrorValue(error)),
        );
        return;
      }
      const outcome = outcomeOf(settled, origin);
      if (outcome.kind === "ok") this.#complete(outcome);
      else this.#undo(outcome.error);
    };
    if (this.#updating.size === 0 || this.#abandonsHandlers) this.#closing();
  }

  /** Stores a result, and gives what stands in its place. */
  async #store(value: unknown): Promise<Encoded> {
    return Pieces.reference(await this.pieces.put(value));
  }

  /** The run fails of this: first what it has done is undone. */
  #undo(reason: ErrorValue): void {
    const { steps } = this;
    if (steps.compensations.isEmpty) {
      this.#complete({ kind: "error", error: reason });
      return;
    }
    steps.halt(fromErrorValue(reason));
    // A resume point takes back the activation that fails the run: this one doesn't, and what
    // is undone can't be gone on with.
    steps.holdBack();
    this.#compensate().then(
      (failures) => {
        const error = failures.length === 0 ? reason : notUndone(failures, reason);
        this.#complete({ kind: "error", error });
      },
      (error) => this.#break(error),
    );
  }

  async #compensate(): Promise<Undone[]> {
    this.#undoing++;
    try {
      return await this.steps.compensations.run((body, args) => this.steps.call(body, args));
    } finally {
      this.#undoing--;
    }
  }

  /** Undoes what the run has done so far, on demand of its code. */
  async compensate(): Promise<void> {
    this.requireWorkflow("compensate");
    // It would wait for the step that calls it.
    if (this.steps.currentId !== undefined) {
      throw new GuestError("compensate is for a workflow's own code, not for a step's", {
        code: "invalid-request",
        retryable: false,
      });
    }
    const failures = await this.#compensate();
    const reason = this.#waitingCancel;
    this.#waitingCancel = undefined;
    if (reason !== undefined) this.#cancel(reason);
    if (failures.length > 0) throw fromErrorValue(notUndone(failures, undefined));
  }

  addCompensation(body: Body): void {
    this.requireWorkflow("addCompensation");
    this.steps.compensations.add(body);
  }

  #complete(outcome: Outcome): void {
    for (const id of this.#updating) this.#reply(id, failure(runClosed()));
    this.#updating.clear();
    this.#finish({ kind: "complete", outcome });
  }

  #continueAsNew(args: Encoded): void {
    this.#finish({ kind: "continueAsNew", args });
  }

  #finish(command: Command): void {
    // The host carries over what it holds; what only this memory holds goes back to it (G3).
    const signals = [...this.#buffered.values()].flat();
    if (signals.length > 0) this.queue({ kind: "unread", signals });
    this.queue(command);
    this.#isDone = true;
    this.#pending.clear();
  }

  continueAsNew(args: readonly unknown[]): never {
    this.requireWorkflow("continueAsNew");
    throw new ContinueAsNew(encode(args));
  }

  #cancel(reason: string): void {
    if (this.#isDone) return;
    if (this.#undoing > 0) {
      this.#waitingCancel ??= reason;
      return;
    }
    const error = new CancelledError(reason === "" ? undefined : `the run was canceled: ${reason}`);
    this.#cancellation = error;
    this.#scope.abort(error);
    const waiting = [...this.#pending];
    this.steps.cancel(error);
    for (const [id, pending] of waiting) {
      if (!this.#pending.has(id)) continue;
      this.drop(id);
      pending.reject(error);
    }
  }

  // ---- messages

  addQuery(name: string, fn: (...args: unknown[]) => unknown): void {
    this.requireWorkflow("query");
    if (!this.#queries.has(name)) this.#handlersChanged = true;
    this.#queries.set(name, fn);
  }

  addUpdate(name: string, handler: UpdateHandler): void {
    this.requireWorkflow("update");
    if (!this.#updates.has(name)) this.#handlersChanged = true;
    this.#updates.set(name, handler);
  }

  #reply(id: string, outcome: Outcome): void {
    this.queue({ kind: "reply", id, outcome });
  }

  #query(id: string, name: string, args: Encoded): void {
    const fn = this.#queries.get(name);
    if (fn === undefined) {
      this.#reply(id, failure(missing("query", name)));
      return;
    }
    this.#isReadonly = true;
    let settled: Settled;
    try {
      const value = fn(...argsFrom(args));
      if (isThenable(value) || value instanceof GraphNode) {
        if (isThenable(value)) Promise.resolve(value).catch(ignore);
        throw notAtOnce(`query ${name}`);
      }
      settled = { isOk: true, value };
    } catch (error) {
      settled = { isOk: false, value: error };
    }
    this.#reply(id, outcomeOf(settled, { what: `query ${name}`, fn }));
    this.#isReadonly = false;
  }

  #update(id: string, name: string, encodedArgs: Encoded): void {
    if (this.#isDone) {
      this.#reply(id, failure(runClosed()));
      return;
    }
    const handler = this.#updates.get(name);
    if (handler === undefined) {
      this.#reply(id, failure(missing("update", name)));
      return;
    }
    let args: readonly unknown[];
    try {
      args = argsFrom(encodedArgs);
      if (handler.validate !== undefined) this.#validate(name, handler.validate, args);
    } catch (error) {
      const value = toErrorValue(error);
      this.#reply(id, {
        kind: "error",
        error: { ...value, code: "update-rejected", retryable: false },
      });
      return;
    }
    this.#updating.add(id);
    this.queue({ kind: "accept", updateId: id });
    this.#follow(
      () => handler.fn(...args),
      (settled) => {
        if (!this.#updating.delete(id)) return;
        this.#reply(id, outcomeOf(settled, { what: `update ${name}`, fn: handler.fn }));
        if (this.#updating.size === 0) this.#closing?.();
      },
    );
  }

  #validate(
    name: string,
    validate: (...args: unknown[]) => unknown,
    args: readonly unknown[],
  ): void {
    // A validator decides and does nothing else: nothing is recorded of a rejected update.
    const outer = this.#isReadonly;
    this.#isReadonly = true;
    try {
      const result = validate(...args);
      if (!isThenable(result)) return;
      Promise.resolve(result).catch(ignore);
      throw notAtOnce(`the validator of update ${name}`);
    } finally {
      this.#isReadonly = outer;
    }
  }

  // ---- turns

  #startTurn(input: TurnInput): void {
    this.#begin(input.run);
    this.#isReadonly = input.readonly;
    const { type } = input.actor;
    const entry = findActor(type);
    if (entry === undefined) {
      this.#refuseTurn(
        input,
        "actor-type-not-found",
        `there is no actor ${type} in this component`,
      );
      return;
    }
    const method = input.method === "" ? undefined : entry.methods.get(input.method);
    if (input.method !== "" && method === undefined) {
      this.#refuseTurn(input, "method-not-found", `actor ${type} has no method ${input.method}`);
      return;
    }
    const turn: Turn = {
      input,
      actor: entry,
      instance: undefined,
      known: input.state,
      held: [],
      nested: new Set(),
      isEnded: false,
    };
    this.#turn = turn;
    if (method === undefined && input.state !== undefined) {
      this.#upgrade(turn, input.state);
      return;
    }
    this.#follow(
      () => {
        const args = argsFrom(input.args);
        if (method === undefined) {
          turn.instance = new entry.maker(...args);
          return undefined;
        }
        turn.instance = restore(entry, input.state);
        return method.fn.apply(turn.instance, args as unknown[]);
      },
      (settled) => this.#closeTurn(settled, originOf(entry, input.method)),
    );
  }

  #refuseTurn(input: TurnInput, code: string, message: string): void {
    this.#reply(input.id, failure(new GuestError(message, { code, retryable: false })));
    this.#finish({ kind: "turned" });
  }

  #closeTurn(settled: Settled, origin: Origin): void {
    if (this.#isDone) return;
    let outcome = outcomeOf(settled, origin);
    try {
      // A method that throws leaves no trace in the state.
      if (outcome.kind === "ok") this.#save();
    } catch (error) {
      outcome = failure(error);
    }
    this.#endTurn(outcome);
  }

  #endTurn(outcome: Outcome): void {
    const turn = this.#turn;
    if (turn !== undefined && !turn.isEnded) {
      turn.isEnded = true;
      this.#hasAnswered = true;
      this.#reply(turn.input.id, outcome);
      // Their state can be kept only together with that of the method around them.
      if (outcome.kind === "error") this.#failNested(turn);
      if (turn.nested.size > 0) return;
    }
    this.#finish({ kind: "turned" });
  }

  /** Makes new state of an earlier component's; nothing but the state comes of it. */
  #upgrade(turn: Turn, state: Encoded): void {
    const { actor, input } = turn;
    const wasReadonly = this.#isReadonly;
    let upgraded: Encoded | undefined;
    let outcome: Outcome = { kind: "ok", value: encode(undefined) };
    this.#isReadonly = true;
    try {
      if (actor.upgrade !== undefined)
        upgraded = upgradedState(actor, actor.upgrade(decode(state)));
    } catch (error) {
      outcome = failure(error);
    }
    this.#isReadonly = wasReadonly;
    if (upgraded !== undefined && !input.readonly) this.queue({ kind: "state", value: upgraded });
    this.#endTurn(outcome);
  }

  // ---- calls within a turn, of re-entrant actors

  #nestTurn(turn: Turn, input: TurnInput): void {
    if (this.#isDone) return;
    const method = turn.actor.methods.get(input.method);
    const { instance } = turn;
    if (method === undefined || instance === undefined) {
      const message = `actor ${turn.actor.name} has no method ${input.method}`;
      const error = new GuestError(message, { code: "method-not-found", retryable: false });
      this.#reply(input.id, failure(error));
      return;
    }
    turn.nested.add(input.id);
    this.#nested = input;
    this.#follow(
      () => method.fn.apply(instance, argsFrom(input.args) as unknown[]),
      (settled) => this.#closeNested(turn, input, settled),
    );
    this.#nested = undefined;
  }

  #closeNested(turn: Turn, input: TurnInput, settled: Settled): void {
    if (this.#isDone || !turn.nested.delete(input.id)) return;
    let outcome = outcomeOf(settled, originOf(turn.actor, input.method));
    try {
      if (outcome.kind === "ok") this.#save();
    } catch (error) {
      outcome = failure(error);
    }
    if (outcome.kind === "error") turn.held = turn.held.filter(({ frame }) => frame !== input);
    this.#reply(input.id, outcome);
    if (turn.isEnded && turn.nested.size === 0) this.#finish({ kind: "turned" });
  }

  #failNested(turn: Turn): void {
    for (const id of turn.nested) this.#reply(id, failure(turnFailed()));
    turn.nested.clear();
  }

  /** What a method leaves when it ends: the state, and the messages that go with it (G5). */
  #save(): void {
    this.#saveState();
    this.#releaseHeld();
  }

  /** Queues the actor's state if it isn't what the host has. */
  #saveState(): void {
    const turn = this.#turn;
    if (turn?.instance === undefined || this.#isReadonly) return;
    const state = encode(stateOf(turn.actor, turn.instance));
    if (state.length > stateBytesMax) throw tooLarge(turn.actor.name, state.length);
    if (turn.known !== undefined && isSame(state, turn.known)) return;
    turn.known = state;
    this.queue({ kind: "state", value: state });
  }

  #endReadonlyTurn(): void {
    if (this.#turn?.input.readonly !== true || this.#isDone) return;
    const { type } = this.#turn.input.actor;
    this.#endTurn(failure(notAtOnce(`${type}.${this.#turn.input.method}, which is readonly,`)));
  }

  // ---- what definitions call

  step(body: GraphNode["body"], args: readonly unknown[]): Promise<unknown> {
    if (!this.#isReadonly) return this.steps.call(body, args);
    return settledPromise((settle) => settle(false, notReadonly("a step")));
  }

  evaluate(node: GraphNode): Promise<unknown> {
    return settledPromise((settle) => {
      if (this.#isReadonly) return settle(false, notReadonly("a graph"));
      this.steps.evaluate(node, settle);
    });
  }

  async child(name: string, args: readonly unknown[]): Promise<unknown> {
    const label = `child ${name}`;
    const started = this.command(
      (id) => ({ kind: "start", id, name, args: encode(args), child: "cancel" }),
      label,
    );
    const { runId } = decode(await started) as { runId: string };
    return this.outcome(runId, `workflow ${name}`, label);
  }

  /** The value of another run, or a ChildError with its error as cause. */
  async outcome(runId: string, title: string, label: string): Promise<unknown> {
    let value: Encoded;
    try {
      value = await this.command((id) => ({ kind: "outcome", id, runId }), label);
    } catch (error) {
      const cause = asError(error);
      // This run's own cancellation, as against that of the other run.
      if (cause === this.#cancellation) {
        this.command(
          (id) => ({ kind: "cancelRun", id, runId, reason: "its parent was canceled" }),
          "",
        );
        throw cause;
      }
      throw childError(title, runId, cause);
    }
    return this.pieces.valueOf(value);
  }

  method(call: MethodCall): Promise<unknown> {
    const { actor, method, oneWay } = call;
    const args = encode(call.args);
    const create = call.create === undefined ? undefined : { create: encode(call.create) };
    const build = (id: number): Command => {
      return {
        kind: "call",
        id,
        actor,
        method,
        args,
        ...(oneWay ? { oneWay } : undefined),
        ...create,
      };
    };
    const label = `actor ${actor.type}.${method}`;
    if (oneWay) return this.message(build, label, () => undefined);
    return this.command(build, label).then(decode);
  }

  /** The call that is being handled, for `context`; undefined in a workflow. */
  turn(): TurnInput | undefined {
    return this.#turn === undefined ? undefined : this.#frame(this.#turn);
  }

  /** The class of the actor whose turn it is. */
  actor(): ActorEntry | undefined {
    return this.#turn?.actor;
  }

  /** Refuses what only workflows can do. */
  requireWorkflow(what: string): void {
    requireRun();
    if (this.#turn === undefined) return;
    throw new GuestError(`${what} is for workflows: an actor's method can't use it`, {
      code: "invalid-request",
      retryable: false,
    });
  }

  // ---- what the kernel and the run's API need

  nowMs(): number {
    return this.#nowMs;
  }

  random(): number {
    return this.#random.next();
  }

  randomBytes(count: number): Uint8Array {
    return this.#random.bytes(count);
  }

  info(): RunInfo {
    if (this.#info === undefined || !isActive) throw outsideRun();
    return this.#info;
  }

  scope(): AbortScope {
    const task = this.steps.current;
    return task === undefined ? this.#scope : this.steps.scopeOf(task);
  }

  log(level: LogLevel, message: string): void {
    if (this.#isDone || !isActive) return;
    this.#logLines++;
    if (this.#logLines > logLinesMax + 1) return;
    const isLast = this.#logLines > logLinesMax;
    const step = this.steps.currentId;
    this.queue({
      kind: "log",
      level: isLast ? "warn" : level,
      message: isLast
        ? `more than ${logLinesMax} lines in one activation: the rest is dropped`
        : middleOut(message, logCharsMax),
      ...(step === undefined ? undefined : { step }),
    });
  }
}

/** A promise of what `begin` settles; already resolved if that happens at once. */
function settledPromise(
  begin: (settle: (isOk: boolean, value: unknown) => void) => void,
): Promise<unknown> {
  let settled: Settled | undefined;
  let resolve: ((value: unknown) => void) | undefined;
  let reject: ((error: unknown) => void) | undefined;
  begin((isOk, value) => {
    settled = { isOk, value };
    if (isOk) resolve?.(value);
    else reject?.(value);
  });
  let promise: Promise<unknown>;
  if (settled === undefined) {
    promise = new Promise((onValue, onError) => {
      resolve = onValue;
      reject = onError;
    });
  } else {
    const { isOk, value } = settled as Settled;
    if (isOk) return Promise.resolve(value);
    promise = Promise.reject(value);
  }
  // A step that nobody awaits may fail; its record says so.
  promise.catch(ignore);
  return promise;
}

function ignore(): void {
  // On purpose: see where it is used.
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  if (typeof value !== "object" || value === null) return false;
  return typeof (value as { then?: unknown }).then === "function";
}

function argsFrom(encoded: Encoded): readonly unknown[] {
  const args = decode(encoded);
  return Array.isArray(args) ? args : [args];
}

function faultsOf(inputs: readonly Input[]): Map<string, Error> | undefined {
  let faults: Map<string, Error> | undefined;
  for (const input of inputs) {
    if (input.kind !== "stepFault") continue;
    faults ??= new Map();
    faults.set(input.step, fromErrorValue(input.error));
  }
  return faults;
}

function unknownInput(input: never): never {
  throw new GuestError(`this guest doesn't know the input ${(input as Input).kind}`);
}

function missing(kind: "query" | "update", name: string): GuestError {
  const message = `the run has no ${kind} handler "${name}" at this point`;
  return new GuestError(message, { code: `${kind}-not-found`, retryable: false });
}

/** The run's error if not everything could be undone; what it is of in kind stays. */
function notUndone(failures: readonly Undone[], reason: ErrorValue | undefined): ErrorValue {
  const failed = failures.map(({ step }) => step);
  const first = failures[0]?.error;
  const names = failed.slice(0, 10).join(", ");
  const value = toErrorValue(
    new CompensationError(
      `${failed.length} compensations failed (${names}): ${first?.message ?? ""}`,
      {
        failed: failed.slice(0, 100),
        cause: reason === undefined ? first : fromErrorValue(reason),
        class: reason?.class ?? "user",
      },
    ),
  );
  return value;
}

function runClosed(): GuestError {
  return new GuestError("the run ended before the update was handled", {
    code: "run-closed",
    retryable: false,
  });
}

function notAtOnce(what: string): GuestError {
  return new GuestError(`${what} must answer at once, without promises or graphs`, {
    code: "invalid-request",
    retryable: false,
  });
}

/** What commands are called by those who caused them. */
const titles: Readonly<Record<Command["kind"], string>> = {
  timer: "waiting for a time",
  fetch: "a fetch",
  wait: "waiting for a signal",
  event: "waiting for an event",
  token: "making a token",
  drop: "a timeout",
  start: "starting a run",
  outcome: "waiting for a run",
  describe: "asking for a run's status",
  cancelRun: "cancelling a run",
  signal: "sending a signal",
  call: "calling an actor",
  put: "put",
  assemble: "put",
  get: "get",
  accept: "accepting an update",
  unread: "giving signals back",
  reply: "a reply",
  state: "changing the state",
  remind: "setting a reminder",
  forgetReminder: "forgetting a reminder",
  turned: "ending the turn",
  complete: "ending the run",
  continueAsNew: "continueAsNew",
  publish: "publishing",
  tags: "setting tags",
  log: "logging",
};

function notReadonly(what: string): GuestError {
  const message = `${what} is not allowed in a read-only method or a query, nor in an upgrade`;
  return new GuestError(message, { code: "invalid-request", retryable: false });
}

function tooLarge(type: string, bytes: number): GuestError {
  const message = `the state of actor ${type} would take ${bytes} bytes, of at most ${stateBytesMax}`;
  return new GuestError(message, { code: "value-too-large", retryable: false });
}

function turnFailed(): GuestError {
  return new GuestError("the turn that this call was a part of failed", {
    code: "run-closed",
    retryable: false,
  });
}

function restore(entry: ActorEntry, state: Encoded | undefined): object {
  const fields = state === undefined ? {} : decode(state);
  if (entry.hasHooks) {
    // Private fields come into being in a constructor only.
    const made = new entry.maker() as { setState(state: unknown): void };
    made.setState(fields);
    return made;
  }
  const instance = Object.create(entry.maker.prototype as object) as object;
  for (const key of Object.keys(fields as object)) {
    Object.defineProperty(instance, key, {
      value: (fields as Record<string, unknown>)[key],
      writable: true,
      enumerable: true,
      configurable: true,
    });
  }
  return instance;
}

/** Encodes what an upgrade gave, after a look at whether a turn could begin with it. */
function upgradedState(entry: ActorEntry, value: unknown): Encoded {
  if (isThenable(value)) {
    Promise.resolve(value).catch(ignore);
    throw notAtOnce(`${entry.name}.upgrade`);
  }
  if (!entry.hasHooks && (typeof value !== "object" || value === null || Array.isArray(value))) {
    throw new GuestError(`${entry.name}.upgrade must give an object with the actor's fields`, {
      code: "invalid-request",
      retryable: false,
    });
  }
  const fields = entry.hasHooks ? value : Object.fromEntries(Object.entries(value as object));
  const state = encode(fields);
  restore(entry, state);
  return state;
}

function stateOf(entry: ActorEntry, instance: object): unknown {
  if (entry.hasHooks) return (instance as { getState(): unknown }).getState();
  return Object.fromEntries(Object.entries(instance));
}

function isSame(left: Uint8Array, right: Uint8Array): boolean {
  if (left.length !== right.length) return false;
  for (let i = 0; i < left.length; i++) if (left[i] !== right[i]) return false;
  return true;
}

// ---- the machine of this component

/** The machine whose activation is handled, or was last. */
let active = new Machine();
let isActive = false;

function outsideRun(): GuestError {
  return new GuestError("this works only in a run: in a workflow, a step or an actor's method");
}

function requireRun(): void {
  if (!isActive) throw outsideRun();
}

/** The machine of the run that the calling code is part of. Throws outside of one. */
export function currentMachine(): Machine {
  requireRun();
  return active;
}

/** Whether the calling code is part of a run. */
export function isInRun(): boolean {
  return isActive;
}

/** An isolated machine, as every run has one. A component has one only; tests have many. */
export function createMachine(): Machine {
  return new Machine();
}

export const kernel: Kernel = {
  nowMs: () => active.nowMs(),
  random: () => active.random(),
  randomBytes: (count) => active.randomBytes(count),
  command: (build) => active.command(build),
  drop: (id) => active.drop(id),
  emit: (command) => active.queue(command),
  log: (level, message) => active.log(level, message),
  encode: (value) => encode(value),
  decode,
};

const own = active;

/** Hands one encoded Activation to the machine. Never throws. */
export function deliver(bytes: Uint8Array): Promise<void> {
  return own.deliver(bytes);
}

/** The encoded Drained of everything since the last drain. Never throws. */
export function drain(): Uint8Array {
  return own.drain();
}

/** The encoded Manifest of everything that was defined. Never throws. */
export function describe(): Uint8Array {
  return encode({ protocol: protocolVersion, definitions: definitions() });
}
