/**
 * Runs made of other runs: forks from a step, repetitions with other input, and runs that are
 * moved to other code. Reads the past and the history of a run, makes its machine again beside
 * it, and then changes what is durable in one transition.
 */
import { encode } from "../guest/cbor.ts";
import type {
  Command,
  Encoded,
  Input,
  QueueOptions,
  ReusedStep,
  StepRecord,
} from "../guest/protocol.ts";
import { machineOf } from "./activations.ts";
import { ask } from "./asking.ts";
import { type Deployments, definitionOf } from "./deployments.ts";
import { firstDifference } from "./difference.ts";
import { readRecord } from "./drained.ts";
import { assert, SporeError } from "./errors.ts";
import { type Asked, createFork, type ForkPlan, moveRun, Standing } from "./fork.ts";
import type { HistoryItem, PastRow, RunHead, SignalRow } from "./format.ts";
import { readItems, recordOf } from "./history.ts";
import { checkId, type EntityKey, nameOf, printable, runKey, toHex } from "./ids.ts";
import type { MoveRequest, MoveResult, StartResult } from "./index.ts";
import type { Partition } from "./partition.ts";
import { activationOf, Replay, readPast, type Traced } from "./past.ts";
import type { Digest, Ports } from "./ports.ts";
import { queueOfAll } from "./queue.ts";
import { headOf, isClosed } from "./run.ts";
import type { Entity } from "./state.ts";
import { ownStored } from "./stored.ts";

export interface ForksParts {
  readonly tenant: string;
  readonly ports: Ports;
  readonly partition: (key: EntityKey) => Partition;
  readonly deployments: Deployments;
}

/** Bytes of history that a fork takes over. */
const historyBytesMax = 32 * 1024 * 1024;
/** What a repetition takes over of the results of steps. */
const reuseBytesMax = 4 * 1024 * 1024;
const reuseMax = 10_000;
/** A run that is to be moved while it works is waited for so often, so long each time. */
const moveTriesMax = 50;
const moveDelayMs = 20;

/** What a run was begun with, and results of its steps. */
export interface RerunOrigin {
  readonly name: string;
  readonly args?: Encoded | undefined;
  readonly root?: Encoded | undefined;
  readonly tags: Readonly<Record<string, string>>;
  readonly metadata?: Encoded | undefined;
  readonly retentionMs?: number | undefined;
  /** The queue of its own that it has passed. */
  readonly queue?: QueueOptions | undefined;
  readonly reuse?: readonly ReusedStep[] | undefined;
}

/** What another run has had since its fork point was passed. */
interface Later {
  readonly answers: ReadonlyMap<number, Input>;
  readonly signals: readonly SignalRow[];
}

/** A run as it is at one moment. */
interface Snapshot {
  readonly head: RunHead;
  /** Accepted, and not in the past. */
  readonly inputs: readonly Input[];
  readonly signals: readonly SignalRow[];
  readonly isActive: boolean;
}

export class Forks {
  readonly #parts: ForksParts;

  constructor(parts: ForksParts) {
    this.#parts = parts;
  }

  // -------------------------------------------------------------- fork

  /** What a fork begins with: the run's machine as it was right before the step. */
  async origin(id: string, step: string, component?: string): Promise<ForkPlan> {
    const { key, partition, snapshot } = await this.#look(id);
    const { head } = snapshot;
    if (head.isPastCut === true) throw tooLong(id);
    const traced = await readPast(partition, key, head.pastLife ?? 0);
    const point = await findStep(partition, key, { traced, step, to: head.nextHistory });
    const own = await this.#parts.deployments.resolve(head.component);
    const other = await this.#parts.deployments.resolve(component ?? head.component);
    if (head.name !== "") definitionOf(other.manifest, "workflow", head.name);
    const replay = this.#replay(key, other.id);
    const twin = own.id === other.id ? undefined : this.#replay(key, own.id);
    try {
      const standing = new Standing({});
      const replayed = await this.#replayTo(replay, { twin, traced, point, standing, head, step });
      const { past, records, originOf } = replayed;
      const [first, last] = [traced[0], traced[point.at]];
      assert(first !== undefined && last !== undefined, "a step has begun in an activation");
      const end = traced[point.at + 1]?.history ?? head.nextHistory;
      const stored = await storedRecords(partition, key, { from: last.history, to: end });
      const history = [
        ...(await readPrefix(partition, key, first.history, last.history)),
        ...records.map((record) => stored.take(nameOfRecord(record)) ?? asItem(record)),
      ];
      // The fork's own first event takes the place of what was before.
      const shift = 1 - first.history;
      return {
        name: head.name,
        component: other.id,
        inputHash: head.inputHash,
        metadata: head.metadata,
        seed: seedOf(first),
        forkedFrom: { id, step },
        stand: standing.stand(),
        nextSignal: head.nextSignal,
        retentionMs: head.retentionMs,
        admission: head.gate && {
          queues: head.gate.queues,
          priority: head.gate.priority,
          mayRefuse: false,
        },
        history,
        past: past.map((item) => ({ ...item, history: item.history + shift })),
        ...replay.memory(),
        ...laterOf(traced.slice(point.at), snapshot, { standing, originOf }),
      };
    } finally {
      replay.close();
      twin?.close();
    }
  }

  /** Makes the fork. A repeated request finds it. */
  async plant(id: string, plan: ForkPlan): Promise<StartResult> {
    const key = runKey(this.#parts.tenant, checkId(id, "run id"));
    const partition = this.#parts.partition(key);
    await this.#parts.deployments.resolve(plan.component);
    const result = await ask(partition, key, (found, sink): StartResult => {
      if (found === undefined) {
        const fork = createFork(key, plan, sink);
        partition.add(fork);
        return { id, status: headOf(fork).status, created: true };
      }
      const { forkedFrom, status } = headOf(found);
      const isSame =
        forkedFrom?.id === plan.forkedFrom.id && forkedFrom.step === plan.forkedFrom.step;
      if (!isSame) throw new SporeError("run-exists", `run ${id} exists`);
      return { id, status, created: false };
    });
    await partition.durable();
    return result;
  }

  /**
   * Up to right before the step's body, beside the run's own code (`twin`) if this is another;
   * returns the past of the machine that stands there, and what it has told since the last whole
   * activation: other steps may end and begin there that in the run came behind this one. And so
   * may commands, which then have other ids than in the run.
   */
  async #replayTo(
    replay: Replay,
    to: {
      readonly twin: Replay | undefined;
      readonly traced: readonly Traced[];
      readonly point: ForkPoint;
      readonly standing: Standing;
      readonly head: RunHead;
      readonly step: string;
    },
  ): Promise<{
    readonly past: readonly Omit<PastRow, "life">[];
    readonly records: readonly Encoded[];
    readonly originOf: OriginOf;
  }> {
    const { twin, traced, point, standing, head, step } = to;
    const past: Omit<PastRow, "life">[] = [];
    const deliver = async (activation: Uint8Array, history: number, isLast: boolean) => {
      const delivered = await replay.deliver(activation, isLast);
      const { drainedHash } = delivered;
      standing.apply(activationOf({ activation }), delivered.drained);
      past.push({ activation, drainedHash, history });
      const own = await twin?.deliver(activation);
      if (own === undefined) return delivered;
      const difference = firstDifference(own.drained, delivered.drained);
      if (difference === undefined) return { ...delivered, drainedHash: own.drainedHash };
      const { what, before, after } = difference;
      const text = `${what} of activation ${past.length - 1} is another: ${before}; now ${after}`;
      throw new SporeError("move-diverged", text, {
        hint: "Fork from an earlier step, or rerun on the other component.",
      });
    };
    for (const [at, item] of traced.slice(0, point.at).entries()) {
      const { drainedHash } = await deliver(item.activation, item.history, false);
      if (at >= (head.movedAt ?? 0)) refuseOther(item, drainedHash, head);
    }
    const last = traced[point.at];
    assert(last !== undefined, "the step's activation is in the past");
    const before = standing.lastCommand;
    const meant = await (twin ?? replay).peek(last.activation);
    if (point.at >= (head.movedAt ?? 0)) refuseOther(last, meant.drainedHash, head);
    // With so many bodies allowed, all that began before the step begin, and it doesn't.
    const whole = activationOf(last);
    const part = encode({ ...whole, stepsMax: point.begun });
    let { drained } = await deliver(part, last.history, true);
    const records = [...drained.records];
    const more = encode({ nowMs: whole.nowMs, stepsMax: 0, inputs: [{ kind: "continue" }] });
    if (drained.nextStep !== step && drained.state === "yielded") {
      ({ drained } = await deliver(more, last.history + records.length, true));
      records.push(...drained.records);
    }
    if (drained.nextStep === step) {
      const { digest } = this.#parts.ports;
      return { past, records, originOf: matching(meant.drained.commands, { before, digest }) };
    }
    throw new SporeError(
      "not-replayable",
      `the machine of run ${head.name} can't be brought to right before step ${printable(step)}`,
      { hint: "Fork from a step near it, or rerun with the results of its steps." },
    );
  }

  // -------------------------------------------------------------- rerun

  /** What a repetition begins with. */
  async again(id: string, isReusing: boolean): Promise<RerunOrigin> {
    const { key, partition, snapshot } = await this.#look(id);
    const { name, tags, metadata, gate, retentionMs, pastLife = 0 } = snapshot.head;
    const traced = await readPast(partition, key, pastLife);
    const input = firstInput(traced[0], snapshot);
    if (input === undefined) throw tooLong(id);
    const reuse = isReusing ? await reusable(partition, key, traced) : undefined;
    const what = input.kind === "start" ? { args: input.args } : { root: input.root };
    const own = gate?.queues.find((queue) => queue.name !== queueOfAll);
    const queue = own && { ...own, priority: gate?.priority };
    return { name, tags, metadata, retentionMs, queue, reuse, ...what };
  }

  // -------------------------------------------------------------- move

  move(id: string, request: MoveRequest): Promise<MoveResult> {
    return this.#move(id, request, moveTriesMax);
  }

  async #move(id: string, request: MoveRequest, triesMax: number): Promise<MoveResult> {
    const { id: to, manifest } = await this.#parts.deployments.resolve(request.component);
    const { key, partition, snapshot } = await this.#look(id);
    const { head } = snapshot;
    const from = head.component;
    if (isClosed(head.status)) {
      throw new SporeError("run-closed", `run ${id} is ${head.status}`, {
        hint: "Rerun it on the other component.",
      });
    }
    if (head.isPastCut === true) throw tooLong(id);
    if (from === to) return { kind: "same", id, from, to, activations: 0 };
    if (head.name !== "") definitionOf(manifest, "workflow", head.name);
    await this.#parts.deployments.resolve(from);
    const replays = { old: this.#replay(key, from), young: this.#replay(key, to) };
    try {
      let compared = 0;
      for (let tries = 0; tries < triesMax; tries++) {
        const traced = await readPast(partition, key, head.pastLife ?? 0);
        for (; compared < traced.length; compared++) {
          const item = traced[compared];
          assert(item !== undefined, "compared are those of the past");
          const isLast = compared === traced.length - 1;
          const old = await replays.old.deliver(item.activation);
          if (compared >= (head.movedAt ?? 0)) refuseOther(item, old.drainedHash, head);
          const young = await replays.young.deliver(item.activation, isLast);
          const difference = firstDifference(old.drained, young.drained);
          if (difference !== undefined) {
            return { kind: "diverged", id, from, to, activation: compared, ...difference };
          }
        }
        const plan = {
          component: to,
          seed: traced[0] === undefined ? new Uint8Array(16) : seedOf(traced[0]),
          ...replays.young.memory(),
        };
        const found = await this.#switch(
          { partition, key, head },
          request.isDryRun === true ? undefined : plan,
        );
        if (found === "same" || found === "moved") {
          return { kind: found, id, from, to, activations: compared };
        }
        await new Promise<void>((resolve) => this.#parts.ports.clock.after(moveDelayMs, resolve));
        if (found === "begun anew") return await this.#move(id, request, triesMax - tries - 1);
      }
      throw new SporeError("run-active", `run ${id} is at work all the time`, {
        hint: `Pause it, move it, and resume it.`,
      });
    } finally {
      replays.old.close();
      replays.young.close();
    }
  }

  /**
   * Moves the run, if a plan is given. If it has gone on meanwhile, what it has had since must be
   * compared as well; if what was compared isn't its past any more, all of it anew.
   */
  async #switch(
    { partition, key, head }: { partition: Partition; key: EntityKey; head: RunHead },
    plan: Parameters<typeof moveRun>[2] | undefined,
  ): Promise<"same" | "moved" | "gone on" | "begun anew"> {
    const found = await ask(partition, key, (run, sink) => {
      if (run === undefined) throw runNotFound(nameOf(key));
      const now = headOf(run);
      if (isClosed(now.status)) {
        throw new SporeError("run-closed", `run ${nameOf(key)} is ${now.status}`);
      }
      // Another run of that id; continued or resumed; moved by somebody else.
      const { life, attempt, component } = head;
      if (now.life !== life || now.attempt !== attempt || now.component !== component) {
        return "begun anew";
      }
      if (plan === undefined) return "same";
      if (run.isActive || now.applied !== plan.version) return "gone on";
      this.#parts.ports.sandbox.release(machineOf(run));
      moveRun(run, sink, plan);
      sink.notify(run);
      return "moved";
    });
    await partition.durable();
    return found;
  }

  // -------------------------------------------------------------- reading

  /** The run as it is now; all that it has had until now is durable. */
  async #look(id: string): Promise<{ key: EntityKey; partition: Partition; snapshot: Snapshot }> {
    const key = runKey(this.#parts.tenant, checkId(id, "run id"));
    const partition = this.#parts.partition(key);
    const snapshot = await ask(partition, key, (run) => {
      if (run === undefined) throw runNotFound(id);
      return snapshotOf(run);
    });
    await partition.durable();
    return { key, partition, snapshot };
  }

  #replay(key: EntityKey, component: string): Replay {
    const name = `${key}#${toHex(this.#parts.ports.random.bytes(8))}`;
    return new Replay(this.#parts.ports.sandbox, component, name);
  }
}

function snapshotOf(run: Entity): Snapshot {
  const head = { ...headOf(run) };
  const last = run.journal.at(-1);
  const isUnfinished = head.applied < head.version && last !== undefined;
  const given = isUnfinished ? activationOf(last).inputs : [];
  const inputs = [...given, ...run.inputs.map(({ input }) => input)];
  return { head, inputs, signals: [...run.signals], isActive: run.isActive };
}

/** Where a step began: the activation, and how many bodies began before it there. */
interface ForkPoint {
  readonly at: number;
  readonly begun: number;
}

async function findStep(
  partition: Partition,
  key: EntityKey,
  {
    traced,
    step,
    to,
  }: { readonly traced: readonly Traced[]; readonly step: string; readonly to: number },
): Promise<ForkPoint> {
  let event: number | undefined;
  /** Indices of the events that say that a body began. */
  const begins: number[] = [];
  for await (const { index, item } of readItems(partition, key, traced[0]?.history ?? 0)) {
    // What came since isn't in the past that was read.
    if (index >= to) break;
    const record = item.kind === "record" ? recordOf(item) : undefined;
    if (record === undefined) continue;
    if (record.event !== "started" && record.began !== true) continue;
    begins.push(index);
    // The last: what an activation did that was taken back is in the history as well.
    if (record.step === step && record.attempt === 1) event = index;
  }
  if (event === undefined) {
    throw new SporeError("step-not-found", `no step ${printable(step)} of the run has begun`, {
      hint: "Its steps by name: GET /v1/runs/{id}/steps, or spore steps.",
    });
  }
  const found = event;
  const at = traced.findLastIndex(({ history }) => history <= found);
  const from = traced[at]?.history ?? found;
  const begun = begins.filter((index) => index >= from && index < found).length;
  return { at, begun };
}

async function readPrefix(
  partition: Partition,
  key: EntityKey,
  from: number,
  to: number,
): Promise<HistoryItem[]> {
  const items: HistoryItem[] = [];
  let bytes = 0;
  for await (const { index, item } of readItems(partition, key, from)) {
    if (index >= to) break;
    bytes += item.kind === "record" ? item.record.length : encode(item.data).length;
    if (bytes > historyBytesMax) {
      throw new SporeError(
        "not-replayable",
        `a fork takes over ${historyBytesMax} bytes of history`,
      );
    }
    items.push(item.kind === "host" ? withoutTakenBack(items, item, from) : item);
  }
  return items;
}

/** Records as they are in the history, where large values lie beside them. */
async function storedRecords(
  partition: Partition,
  key: EntityKey,
  { from, to }: { readonly from: number; readonly to: number },
): Promise<ByName<HistoryItem>> {
  const stored = new ByName<HistoryItem>();
  for await (const { index, item } of readItems(partition, key, from)) {
    if (index >= to) break;
    if (item.kind !== "record") continue;
    stored.add(nameOfRecord(item.record), item);
  }
  return stored;
}

/** Items by name, taken in their order: one activation has as many of a name as its guest likes. */
class ByName<Item> {
  readonly #lists = new Map<string, { readonly items: Item[]; at: number }>();

  add(name: string, item: Item): void {
    const list = this.#lists.get(name);
    if (list === undefined) this.#lists.set(name, { items: [item], at: 0 });
    else list.items.push(item);
  }

  take(name: string): Item | undefined {
    const list = this.#lists.get(name);
    return list?.items[list.at++];
  }
}

function nameOfRecord(record: Encoded): string {
  const { event, step, attempt } = readRecord(record) ?? {};
  return `${event} ${attempt} ${step}`;
}

function asItem(record: Encoded): HistoryItem {
  return { kind: "record", record };
}

/**
 * A fork has never been resumed: what was taken back for that before it parted is no step of its
 * own, and keeps its place only, as activations know theirs by number.
 */
function withoutTakenBack(
  items: HistoryItem[],
  item: Extract<HistoryItem, { kind: "host" }>,
  from: number,
): HistoryItem {
  const { backTo, ...data } = item.data;
  if (item.type !== "run.resumed" || typeof backTo !== "number") return item;
  const { atMs } = item;
  for (let at = Math.max(0, backTo - from); at < items.length; at += 1) {
    if (items[at]?.kind === "record") {
      items[at] = { kind: "host", type: "record.taken-back", atMs, data: {} };
    }
  }
  return { ...item, data };
}

/** The id in the run of what the machine of the fork has asked for; undefined if it never did. */
type OriginOf = (command: Asked) => number | undefined;

/** Commands up to `before` are the run's own; of those behind it the ones of the same content. */
function matching(
  meant: readonly Command[],
  { before, digest }: { readonly before: number; readonly digest: Digest },
): OriginOf {
  const contentOf = (command: Command): string =>
    toHex(digest.sha256(encode({ ...command, id: 0 })));
  const ids = new ByName<number>();
  for (const command of meant) {
    if (!("id" in command) || typeof command.id !== "number") continue;
    ids.add(contentOf(command), command.id);
  }
  return (command) => {
    if (command.id <= before) return command.id;
    // An event's token is worth something for its own run only.
    if (command.kind === "event" || command.kind === "token") return undefined;
    return ids.take(contentOf(command));
  };
}

/** What the run has been given since the fork point. */
function laterOf(
  traced: readonly Traced[],
  snapshot: Snapshot,
  { standing, originOf }: { readonly standing: Standing; readonly originOf: OriginOf },
): Later {
  const given = traced.flatMap((item) => activationOf(item).inputs);
  const answers = new Map<number, Input>();
  const signals = new Map<number, SignalRow>();
  for (const input of [...given, ...snapshot.inputs]) {
    if (input.kind !== "resolve") continue;
    if (!answers.has(input.id)) answers.set(input.id, input);
    if (input.signal === undefined || input.outcome.kind !== "ok") continue;
    const { name, index } = input.signal;
    signals.set(index, { name, index, value: input.outcome.value });
  }
  for (const row of snapshot.signals) signals.set(row.index, row);
  for (const index of standing.taken) signals.delete(index);
  const unread = [...signals.values()].sort((one, other) => one.index - other.index);
  const own = new Map<number, Input>();
  for (const command of standing.asked.values()) {
    const answer = answers.get(originOf(command) ?? Number.NaN);
    if (answer?.kind === "resolve") own.set(command.id, { ...answer, id: command.id });
  }
  return { answers: own, signals: unread };
}

/** A machine that does something else than the run's own did isn't the run's. */
function refuseOther(item: Traced, drainedHash: number, head: RunHead): void {
  if (item.drainedHash === drainedHash) return;
  throw new SporeError("guest-diverged", `replaying run ${head.name} gave other commands`);
}

function firstInput(
  first: Traced | undefined,
  snapshot: Snapshot,
): Extract<Input, { kind: "start" | "graph" }> | undefined {
  const inputs = first === undefined ? snapshot.inputs : activationOf(first).inputs;
  for (const input of inputs) if (input.kind === "start" || input.kind === "graph") return input;
  return undefined;
}

function seedOf(first: Traced): Uint8Array {
  const [input] = activationOf(first).inputs;
  assert(input?.kind === "start" || input?.kind === "graph", "a run begins with its start");
  return input.run.seed;
}

/** Results of steps that succeeded by themselves and weren't undone. */
async function reusable(
  partition: Partition,
  key: EntityKey,
  traced: readonly Traced[],
): Promise<ReusedStep[]> {
  const args = new Map<string, Encoded | undefined>();
  const done = new Map<string, ReusedStep>();
  const undone = new Set<string>();
  for await (const { item } of readItems(partition, key, traced[0]?.history ?? 0)) {
    const record = item.kind === "record" ? recordOf(item) : undefined;
    if (record === undefined) continue;
    const { step } = record;
    if (record.event === "started" && record.attempt === 1) args.set(step, record.value);
    if (record.began === true) args.set(step, record.args);
    if (record.event === "started" && record.compensates !== undefined) {
      undone.add(record.compensates);
    }
    if (record.event !== "started") done.delete(step);
    if (isResult(record)) done.set(step, withArgs(step, args.get(step), record.value));
  }
  const reuse: ReusedStep[] = [];
  let bytes = 0;
  for (const each of done.values()) {
    // What a guest has stored in pieces is too large to be given to another: it is made again.
    if (undone.has(each.step) || ownStored(each.value) !== undefined) continue;
    bytes += each.value.length + (each.args?.length ?? 0) + each.step.length;
    if (bytes > reuseBytesMax || reuse.length >= reuseMax) break;
    reuse.push(each);
  }
  return reuse;
}

function isResult(record: StepRecord): record is StepRecord & { readonly value: Encoded } {
  const isOwn = record.event === "succeeded" && record.error === undefined;
  return isOwn && record.value !== undefined && record.compensates === undefined;
}

function withArgs(step: string, args: Encoded | undefined, value: Encoded): ReusedStep {
  return args === undefined ? { step, value } : { step, args, value };
}

function tooLong(id: string): SporeError {
  return new SporeError(
    "not-replayable",
    `run ${id} has had more than is kept to make its machine again`,
    { hint: "Rerun it, with the results of its steps if need be." },
  );
}

function runNotFound(id: string): SporeError {
  return new SporeError("run-not-found", `there is no run ${id}`);
}
