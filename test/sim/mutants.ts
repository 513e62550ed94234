/**
 * Defects put in on purpose: the simulation has to find each of them, which shows that its
 * laws have teeth. A mutant changes the store, the sandbox, or the engine through methods
 * that are public between its modules; the product has no switch for any of it.
 */
import { Compensations, type Done } from "../../guest/compensations.ts";
import { Steps } from "../../guest/steps.ts";
import { Activations } from "../../runtime/activations.ts";
import { Actors } from "../../runtime/actors.ts";
import { Waits } from "../../runtime/asking.ts";
import { Components } from "../../runtime/components.ts";
import { Cursors } from "../../runtime/cursors.ts";
import { Deployments } from "../../runtime/deployments.ts";
import { peeked } from "../../runtime/drained.ts";
import { Entries } from "../../runtime/entries.ts";
import { SporeError } from "../../runtime/errors.ts";
import { Follower } from "../../runtime/follower.ts";
import { Standing } from "../../runtime/fork.ts";
import { Forks } from "../../runtime/forks.ts";
import { type ActorHead, type Message, type Probe, rowKeys } from "../../runtime/format.ts";
import { Generations } from "../../runtime/generations.ts";
import { type EntityKey, nameOf } from "../../runtime/ids.ts";
import { Log } from "../../runtime/log.ts";
import { newActor } from "../../runtime/messages.ts";
import { Outbox } from "../../runtime/outbox.ts";
import { ok } from "../../runtime/outcomes.ts";
import { Partition } from "../../runtime/partition.ts";
import { QueueMembers } from "../../runtime/queue-members.ts";
import { Replica } from "../../runtime/replica.ts";
import { Residents } from "../../runtime/residents.ts";
import { Routing } from "../../runtime/routing.ts";
import { Runs } from "../../runtime/runs.ts";
import { SegmentWriter } from "../../runtime/segment.ts";
import { Changes } from "../../runtime/state.ts";
import { TimerHeap } from "../../runtime/timers.ts";
import { SimSandbox } from "./sandbox.ts";

export interface Mutant {
  readonly name: string;
  /** Seeds, from 1, within which it has to be found. */
  readonly seedsMax: number;
  /** The law that has to find it; any one if left out. */
  readonly law?: string;
  /** Looked for by measuring (flat.ts), where nothing else goes wrong. */
  readonly isMeasured?: boolean;
  /** Looked for with this job alone. */
  readonly job?: string;
  /** Looked for among hosts that share the partitions. */
  readonly isShared?: boolean;
  /** Looked for while the number of partitions is changed now and then. */
  readonly isMoving?: boolean;
  readonly bucket?: {
    /** `ifAbsent` is ignored. */
    readonly overwrites?: boolean;
    /** The loser of a race is told `created`. */
    readonly claimsCreated?: boolean;
    /** A write is answered before it is done; a crash loses it. */
    readonly answersEarly?: boolean;
    /** Half of the deletions of objects are done late: no defect, but it brings some to light. */
    readonly deletesLate?: boolean;
  };
  readonly sandbox?: {
    readonly keepsDiscarded?: boolean;
    readonly staleImages?: boolean;
    readonly skipsLastEntry?: boolean;
    /** A rebuilt memory is given the inputs of each activation in another order. */
    readonly reversesInputs?: boolean;
    readonly takesNoImages?: boolean;
    /** Half of the queries see the memory as it was before its last activation. */
    readonly asksOldMemory?: boolean;
    /** A turn that runs ahead is given the state from before the turn before it. */
    readonly runsAheadOnOldState?: boolean;
  };
  /** Puts the defect into the engine; the result takes it out again. */
  readonly patch?: () => () => void;
}

function replace<T extends object, K extends keyof T>(
  target: T,
  name: K,
  make: (original: T[K]) => T[K],
): () => void {
  const original = target[name];
  target[name] = make(original);
  return () => {
    target[name] = original;
  };
}

/** Rows of that kind never reach the log. */
function withoutRows(kind: RegExp): () => () => void {
  return () => {
    const undo = (["put", "putFresh"] as const).map((name) =>
      replace(
        Changes.prototype,
        name,
        (original) =>
          function (this: Changes, rowKey, value) {
            if (!kind.test(rowKey)) original.call(this, rowKey, value);
          },
      ),
    );
    return () => {
      for (const each of undo) each();
    };
  };
}

/** Of rows of that kind, only the first value is kept. */
function withFirstRows(kind: RegExp): () => () => void {
  return () => {
    const seen = new Set<string>();
    return replace(
      Changes.prototype,
      "put",
      (original) =>
        function (this: Changes, rowKey, value) {
          if (kind.test(rowKey) && seen.has(rowKey)) return;
          seen.add(rowKey);
          original.call(this, rowKey, value);
        },
    );
  };
}

/** Rows of that kind are never deleted. */
function withOldRows(kind: RegExp): () => () => void {
  return () =>
    replace(
      Changes.prototype,
      "delete",
      (original) =>
        function (this: Changes, rowKey) {
          if (!kind.test(rowKey)) original.call(this, rowKey);
        },
    );
}

/** Outputs leave at once, as if everything were durable. */
function withoutGate(): () => void {
  return replace(
    Changes.prototype,
    "touch",
    (original) =>
      function (this: Changes, entity) {
        this.releases.push = (...releases: (() => void)[]): number => {
          for (const release of releases) queueMicrotask(release);
          return 0;
        };
        original.call(this, entity);
      },
  );
}

/** Whoever asks for an actor finds its head so. */
function withHeads(change: (head: ActorHead) => void): () => () => void {
  return () =>
    replace(
      Residents.prototype,
      "get",
      (original) =>
        function (this: Residents, key) {
          const entity = original.call(this, key);
          if (entity?.head.kind === "actor") change(entity.head);
          return entity;
        },
    );
}

/** Every message that `isTaken` lets through is taken for the next one. */
function withoutCursors(
  isTaken: (cursors: Cursors, source: number, index: number) => boolean,
): () => () => void {
  return () =>
    replace(
      Cursors.prototype,
      "isApplied",
      () =>
        function (this: Cursors, source, index) {
          if (!isTaken(this, source, index)) return true;
          this.set(source, index - 1);
          return false;
        },
    );
}

/** Changes the probes that go round circles of calls; undefined loses one. */
function withProbes(change: (probe: Probe) => Probe | undefined): () => () => void {
  return withMessages((message) => {
    const sent = message.kind === "probe" ? change(message) : message;
    return sent === undefined ? [] : [sent];
  });
}

function losingRows(): () => void {
  let count = 0;
  return replace(
    SegmentWriter.prototype,
    "add",
    (original) =>
      function (this: SegmentWriter, key, value) {
        count += 1;
        if (count % 20 !== 0) original.call(this, key, value);
      },
  );
}

/** Changes the messages that leave entities for others; none loses one. */
function withMessages(change: (message: Message) => readonly Message[]): () => () => void {
  return () =>
    replace(
      Outbox.prototype,
      "send",
      (original) =>
        function (this: Outbox, message) {
          for (const sent of change(message)) original.call(this, sent);
        },
    );
}

/** A queue's count of those who run is one too low. */
function withoutOnePlace(): () => void {
  const original = Object.getOwnPropertyDescriptor(QueueMembers.prototype, "running");
  if (original?.get === undefined) throw new Error("a queue counts who runs");
  const { get } = original;
  Object.defineProperty(QueueMembers.prototype, "running", {
    ...original,
    get(this: QueueMembers) {
      return Math.max(0, Number(get.call(this)) - 1);
    },
  });
  return () => Object.defineProperty(QueueMembers.prototype, "running", original);
}

/** Once somebody has left a queue, nobody is next in it any more. */
function withoutNext(): () => void {
  const left = new WeakSet<QueueMembers>();
  const undo = [
    replace(
      QueueMembers.prototype,
      "remove",
      (original) =>
        function (this: QueueMembers, member) {
          left.add(this);
          original.call(this, member);
        },
    ),
    replace(
      QueueMembers.prototype,
      "next",
      (original) =>
        function (this: QueueMembers, limit) {
          return left.has(this) ? undefined : original.call(this, limit);
        },
    ),
  ];
  return () => {
    for (const each of undo) each();
  };
}

export const mutants: readonly Mutant[] = [
  { name: "the store overwrites", seedsMax: 20, bucket: { overwrites: true } },
  { name: "the loser is told created", seedsMax: 20, bucket: { claimsCreated: true } },
  { name: "a write is answered before it is done", seedsMax: 20, bucket: { answersEarly: true } },
  { name: "nothing waits for its commit", seedsMax: 20, patch: withoutGate },
  {
    name: "ownership is not confirmed before an answer",
    seedsMax: 300,
    patch: () => replace(Log.prototype, "confirm", () => () => Promise.resolve(true)),
  },
  { name: "call ids are forgotten", seedsMax: 20, patch: withoutRows(/^e\/.*\/d\//) },
  { name: "inbox cursors are forgotten", seedsMax: 100, patch: withoutRows(/^q\//) },
  {
    name: "messages that came already are applied again",
    seedsMax: 100,
    job: "banking",
    law: "I4 calls once and in order",
    patch: withoutCursors((_cursors, _source, _index) => true),
  },
  {
    name: "a batch that came already sets the cursor back",
    seedsMax: 100,
    law: "L-cursor",
    patch: withoutCursors((_cursors, _source, _index) => true),
  },
  {
    name: "messages may be missing before one",
    seedsMax: 300,
    job: "collecting",
    patch: withoutCursors((cursors, source, index) => index > cursors.of(source)),
  },
  { name: "the outbox is not kept", seedsMax: 100, patch: withoutRows(/^o\//) },
  { name: "timers are not kept", seedsMax: 50, patch: withoutRows(/^t\//) },
  { name: "unfinished work is not marked", seedsMax: 50, patch: withoutRows(/^a\//) },
  { name: "inputs are not kept", seedsMax: 100, patch: withoutRows(/^e\/.*\/n\//) },
  {
    name: "signals are not kept",
    seedsMax: 200,
    job: "continuing",
    patch: withoutRows(/^e\/.*\/s\//),
  },
  {
    name: "unread signals are read in another order after a crash",
    seedsMax: 200,
    law: "I4 signals once and in order",
    job: "continuing",
    patch: () =>
      replace(
        rowKeys as { signal: typeof rowKeys.signal },
        "signal",
        (original) => (key, index) => original(key, 0xffff - index),
      ),
  },
  {
    name: "a race is decided again when a memory is rebuilt",
    seedsMax: 50,
    law: "I5 rebuilt memory answers the same",
    job: "racing",
    sandbox: { reversesInputs: true },
  },
  {
    name: "timers fire early",
    seedsMax: 20,
    law: "I9 timers are never early",
    job: "timed",
    patch: () =>
      replace(
        TimerHeap.prototype,
        "peek",
        (original) =>
          function (this: TimerHeap) {
            const timer = original.call(this);
            if (timer === undefined) return undefined;
            // To who asks whether it is due, and not to who asks then whose it is.
            let earlyMs = 30_000;
            return {
              ...timer,
              get atMs() {
                const atMs = timer.atMs - earlyMs;
                earlyMs = 0;
                return atMs;
              },
            };
          },
      ),
  },
  {
    name: "a slot has two runs",
    seedsMax: 20,
    law: "C1 each slot has one run",
    job: "scheduled",
    patch: withMessages((message) => {
      const isSlot = message.kind === "start" && message.start.options?.tags?.cause === "slot";
      return isSlot ? [message, { ...message, to: `${message.to}-again` as EntityKey }] : [message];
    }),
  },
  {
    name: "a schedule takes its runs for closed when they begin",
    seedsMax: 20,
    law: "L-schedule",
    job: "overlapping",
    patch: withMessages((message) => {
      if (message.kind !== "start" || message.watcher === undefined) return [message];
      const { key: to, ...watch } = message.watcher;
      return [message, { kind: "resolve", to, ...watch, outcome: ok(undefined) }];
    }),
  },
  {
    name: "what becomes of a schedule is not kept",
    seedsMax: 20,
    job: "steering",
    patch: withFirstRows(/^e\/[^/]+\/s\/[^/]+\/!$/),
  },
  {
    name: "the times of a run that is deleted stay",
    seedsMax: 20,
    law: "J-delete frees everything",
    job: "succeeding",
    patch: withOldRows(/^t\/[0-9a-f]{12}\/ffffff(fe|ff)\//),
  },
  {
    name: "when a run is to be deleted isn't kept",
    seedsMax: 20,
    law: "liveness",
    job: "expiring",
    patch: withoutRows(/^t\/[0-9a-f]{12}\/fffffffb\//),
  },
  {
    name: "a run that a queue refused stays",
    seedsMax: 20,
    law: "J-a refused start leaves nothing",
    job: "refusing",
    patch: () => replace(Partition.prototype, "withdraw", () => () => undefined),
  },
  {
    name: "a run goes on before its queue has a place for it",
    seedsMax: 20,
    law: "L-queue place",
    job: "limiting",
    patch: withMessages((message) => {
      if (message.kind !== "enter") return [message];
      const { run: to, ticket } = message;
      return [{ kind: "place", to, queue: nameOf(message.to), ticket, place: "given" }, message];
    }),
  },
  {
    name: "what a queue has let through isn't kept",
    seedsMax: 60,
    law: "L-queue rate",
    job: "rating",
    patch: withFirstRows(/^e\/[^/]+\/q\/[^/]+\/!$/),
  },
  {
    name: "a cancellation doesn't reach children",
    seedsMax: 20,
    law: "J-cancel reaches everything",
    job: "reaching",
    patch: withMessages((message) => (message.kind === "cancel" ? [] : [message])),
  },
  {
    name: "published values are not kept",
    seedsMax: 50,
    job: "approving",
    patch: withoutRows(/^g\//),
  },
  {
    name: "only the first value under a name is kept",
    seedsMax: 50,
    law: "I3 the last published value stays",
    job: "approving",
    patch: withFirstRows(/^g\//),
  },
  {
    name: "an update that comes with a start is another one each time it is sent",
    seedsMax: 50,
    law: "I4 updates once and in order",
    job: "startingWith",
    patch: () => {
      let count = 0;
      return replace(
        Runs.prototype,
        "start",
        (original) =>
          function (this: Runs, request, origin) {
            count += 1;
            const { update } = request;
            const other = update && { ...update, updateId: `${update.updateId}-${count}` };
            return original.call(this, { ...request, update: other }, origin);
          },
      );
    },
  },
  {
    name: "a signal that comes with a start is lost if the run is there",
    seedsMax: 20,
    job: "startingWith",
    patch: () => {
      const seen = new Set<string>();
      return replace(
        Runs.prototype,
        "start",
        (original) =>
          function (this: Runs, request, origin) {
            const id = String(request.id);
            const isKnown = seen.has(id);
            seen.add(id);
            const given = isKnown ? { ...request, signal: undefined } : request;
            return original.call(this, given, origin);
          },
      );
    },
  },
  { name: "mail is not kept", seedsMax: 200, job: "bursting", patch: withoutRows(/^e\/.*\/m\//) },
  { name: "journals are not kept", seedsMax: 50, patch: withoutRows(/^e\/.*\/j\//) },
  {
    name: "deletions are not finished after a crash",
    seedsMax: 400,
    job: "reused",
    patch: withoutRows(/^z\//),
  },
  { name: "segments lose rows", seedsMax: 20, patch: losingRows },
  { name: "a rebuild skips an entry", seedsMax: 50, sandbox: { skipsLastEntry: true } },
  { name: "images are one activation old", seedsMax: 50, sandbox: { staleImages: true } },
  {
    name: "images are never taken",
    seedsMax: 100,
    job: "collecting",
    law: "L-journal",
    sandbox: { takesNoImages: true },
  },
  {
    name: "a long run computes all of itself again",
    seedsMax: 1,
    isMeasured: true,
    law: "L-flat",
    sandbox: { takesNoImages: true },
  },
  {
    name: "a schedule's timer is not durable",
    seedsMax: 40,
    law: "liveness",
    job: "scheduled",
    patch: withoutRows(/^t\/[0-9a-f]{12}\/fffffffc\//),
  },
  {
    name: "a reminder's timer is not durable",
    seedsMax: 40,
    law: "liveness",
    job: "ringing",
    patch: withoutRows(/^t\/[0-9a-f]{12}\/f0/),
  },
  {
    name: "reminders are not kept",
    seedsMax: 40,
    law: "liveness",
    job: "ringing",
    patch: withoutRows(/^e\/.*\/r\//),
  },
  {
    name: "what an actor was before its upgrade is not kept",
    seedsMax: 40,
    job: "upgrading",
    patch: withoutRows(/^e\/.*\/v$/),
  },
  {
    name: "an actor's state is not kept",
    seedsMax: 40,
    job: "upgrading",
    patch: withoutRows(/^e\/.*\/o$/),
  },
  { name: "a run's past is not kept", seedsMax: 20, job: "forking", patch: withoutRows(/^k\//) },
  {
    name: "a step that is done isn't undone",
    seedsMax: 20,
    job: "undoing",
    patch: () => {
      let count = 0;
      return replace(
        Compensations.prototype,
        "decide",
        (original) =>
          function (this: Compensations, done) {
            count += 1;
            original.call(this, count % 3 === 0 ? undefined : done);
          },
      );
    },
  },
  {
    name: "what is done is undone in another order",
    seedsMax: 20,
    law: "J-program: all that is done is undone, the last first",
    job: "programs",
    patch: () => {
      const kept = new WeakMap<Compensations, Done>();
      return replace(
        Compensations.prototype,
        "decide",
        (original) =>
          function (this: Compensations, done) {
            const before = kept.get(this);
            if (done !== undefined && before === undefined) {
              kept.set(this, done);
              return original.call(this, undefined);
            }
            original.call(this, done);
            if (done === undefined || before === undefined) return;
            kept.delete(this);
            this.expect();
            original.call(this, before);
          },
      );
    },
  },
  {
    name: "a node of a graph begins when the first of those that it needs is done",
    seedsMax: 20,
    law: "J-program: its end is the model's",
    job: "programs",
    patch: () =>
      replace(
        Steps.prototype,
        "upstreamSettled",
        (original) =>
          function (this: Steps, task, cell) {
            task.pending = Math.min(task.pending, 1);
            original.call(this, task, cell);
          },
      ),
  },
  {
    name: "a query is answered by an older memory",
    seedsMax: 40,
    law: "J-program: no answer goes back",
    job: "programs",
    sandbox: { asksOldMemory: true },
  },
  {
    name: "a fork asks again for what its past was given",
    seedsMax: 40,
    job: "forking",
    patch: () =>
      replace(
        Standing.prototype,
        "apply",
        (original) =>
          function (this: Standing, activation, drained) {
            original.call(this, { ...activation, inputs: [] }, drained);
          },
      ),
  },
  {
    name: "probes get lost",
    seedsMax: 20,
    law: "liveness",
    job: "knotting",
    patch: withProbes(() => undefined),
  },
  {
    name: "every wait of a circle is ended",
    seedsMax: 100,
    law: "J-knots: one of a circle is refused",
    job: "knotting",
    patch: withProbes((probe) => {
      const { origin } = probe;
      return origin === undefined ? probe : { ...probe, victim: { ...origin, rank: "z" } };
    }),
  },
  {
    name: "who has waited for an entity is never forgotten",
    seedsMax: 20,
    law: "I8 the idle leave memory",
    patch: () =>
      replace(
        Partition.prototype,
        "watchEntity",
        (original) =>
          function (this: Partition, key, wake) {
            original.call(this, key, wake);
            return () => undefined;
          },
      ),
  },
  {
    name: "a value is stored under a name that was there before",
    seedsMax: 30,
    job: "keeping",
    law: "L-kept",
    bucket: { deletesLate: true },
    patch: () => {
      const undo = [
        replace(Generations.prototype, "current", () => () => Promise.resolve(0)),
        replace(Generations.prototype, "advance", () => () => Promise.resolve(true)),
      ];
      return () => {
        for (const each of undo) each();
      };
    },
  },
  {
    // Nor what a run was given: its past says the same until that is cut.
    name: "it isn't written down what a memory may refer to",
    seedsMax: 50,
    job: "keeping",
    patch: withoutRows(/^[bk]\//),
  },
  {
    name: "turns run ahead on an old state",
    seedsMax: 50,
    job: "bursting",
    sandbox: { runsAheadOnOldState: true },
  },
  {
    name: "events of earlier lives are not kept",
    seedsMax: 100,
    job: "approving",
    patch: withoutRows(/^e\/.*\/k\//),
  },
  {
    name: "a queue lets one more run",
    seedsMax: 30,
    law: "L-queue",
    job: "queueing",
    patch: withoutOnePlace,
  },
  {
    name: "who waits in a queue is not kept",
    seedsMax: 30,
    job: "queueing",
    patch: withoutRows(/^e\/[^/]+\/q\/[^/]+\/q\//),
  },
  {
    name: "the last one in a queue comes first",
    seedsMax: 100,
    law: "L-queue order",
    job: "queueing",
    patch: () =>
      replace(
        QueueMembers.prototype,
        "next",
        (original) =>
          function (this: QueueMembers, limit) {
            const keyed = this.first(1000).filter(
              ({ key }) =>
                key === undefined || limit === undefined || this.runningWith(key) < limit,
            );
            return original.call(this, limit) && keyed.at(-1);
          },
      ),
  },
  {
    name: "a place that was given back is given to nobody",
    seedsMax: 20,
    law: "liveness",
    job: "queueing",
    patch: withoutNext,
  },
  {
    name: "what is appended while a namespace is copied is lost",
    seedsMax: 30,
    isMoving: true,
    patch: () =>
      replace(
        Replica.prototype,
        "follow",
        (original) =>
          function (this: Replica) {
            return original.call(this, () => undefined);
          },
      ),
  },
  {
    name: "queries run on the live memory",
    seedsMax: 100,
    job: "collecting",
    sandbox: { keepsDiscarded: true },
  },
  {
    name: "who follows a partition doesn't ask for what is new",
    seedsMax: 20,
    law: "I2 no read is older than what was told",
    job: "watching",
    isShared: true,
    patch: () => replace(Follower.prototype, "catchUp", () => () => Promise.resolve()),
  },
  {
    name: "who follows a partition is content when the next entry is missing",
    seedsMax: 30,
    law: "I2 no read is older than what was told",
    job: "watching",
    isShared: true,
    patch: () => replace(Entries.prototype, "isPassed", () => () => Promise.resolve(false)),
  },
  {
    name: "a start that comes again replaces what it started",
    seedsMax: 40,
    law: "J-replace: the same request replaces once",
    job: "replacing",
    patch: () => {
      let count = 0;
      return replace(
        Runs.prototype,
        "start",
        (original) =>
          function (this: Runs, request, origin) {
            count += 1;
            const { signal } = request;
            const other = signal && { ...signal, messageId: `${signal.messageId}-${count}` };
            return original.call(this, { ...request, signal: other }, origin);
          },
      );
    },
  },
  {
    name: "what a run has published outlives it",
    seedsMax: 20,
    law: "I2 no read is older than what was told",
    job: "replacing",
    patch: () =>
      replace(
        Changes.prototype,
        "delete",
        (original) =>
          function (this: Changes, rowKey) {
            if (!rowKey.startsWith("g/")) original.call(this, rowKey);
          },
      ),
  },
  {
    name: "updates that were accepted are forgotten",
    seedsMax: 20,
    job: "accepting",
    patch: withoutRows(/^e\/.*\/d\//),
  },
  {
    name: "a step's output is what was told of it first",
    seedsMax: 20,
    law: "J-step: its output by its name",
    job: "stepping",
    patch: () => {
      const told = new Map<string, Awaited<ReturnType<Runs["output"]>>>();
      return replace(
        Runs.prototype,
        "output",
        (original) =>
          async function (this: Runs, id, options) {
            const name = `${id} ${options?.step}`;
            const answer = told.get(name) ?? (await original.call(this, id, options));
            if (options?.step !== undefined && answer.kind === "ready") told.set(name, answer);
            return answer;
          },
      );
    },
  },
  {
    name: "a token stays good though its event is revoked",
    seedsMax: 20,
    law: "J-event: it is decided or revoked, once",
    job: "judging",
    patch: () => replace(Runs.prototype, "revokeEvent", () => () => Promise.resolve()),
  },
  {
    name: "a stream of events ends early",
    seedsMax: 20,
    law: "J-follow: the stream ends with the run",
    job: "streaming",
    patch: () =>
      replace(
        Runs.prototype,
        "events",
        (original) =>
          async function (this: Runs, id, options) {
            const page = await original.call(this, id, options);
            return { ...page, isOver: page.isOver || page.events.length > 3 };
          },
      ),
  },
  {
    name: "what a client has stored isn't held",
    seedsMax: 20,
    job: "uploading",
    patch: withoutRows(/^b\/[^/]+\/u\//),
  },
  {
    name: "a list doesn't hear of what changes while it is read",
    seedsMax: 60,
    law: "J-list: what is there all the time is shown once",
    job: "browsing",
    patch: () => replace(Partition.prototype, "watchRows", () => () => () => undefined),
  },
  {
    name: "a count of what components are needed for doesn't hear of what changes meanwhile",
    seedsMax: 30,
    law: "J-use: each counts once",
    job: "using",
    patch: () => replace(Partition.prototype, "watchRows", () => () => () => undefined),
  },
  {
    name: "an index by tag keeps what a run was once",
    seedsMax: 40,
    law: "J-list: only what is asked for",
    job: "browsing",
    patch: () =>
      replace(
        Changes.prototype,
        "delete",
        (original) =>
          function (this: Changes, rowKey) {
            if (!/^y\/[^/]+\/t/.test(rowKey)) original.call(this, rowKey);
          },
      ),
  },
  {
    name: "a bulk action passes over a run",
    seedsMax: 20,
    law: "J-bulk: all are acted upon",
    job: "bulking",
    patch: () => {
      let count = 0;
      return replace(
        Runs.prototype,
        "pause",
        (original) =>
          function (this: Runs, id) {
            count += 1;
            return count % 5 === 0 ? this.get(id) : original.call(this, id);
          },
      );
    },
  },
  {
    name: "resuming all resumes half of them",
    seedsMax: 20,
    law: "J-resume all: what can go on does",
    job: "resumingAll",
    patch: () =>
      replace(
        Runs.prototype,
        "resumeAll",
        (original) =>
          function (this: Runs, partitions, options) {
            return original.call(this, partitions.slice(1), options);
          },
      ),
  },
  {
    name: "a read makes the actor that it doesn't find",
    seedsMax: 5,
    law: "L-ghost",
    job: "haunting",
    patch: () =>
      replace(
        Partition.prototype,
        "peek",
        (original) =>
          function (this: Partition, entity, input) {
            const { key, head } = entity;
            const making = this.request(key, (found, sink) => {
              if (found === undefined) newActor(this, key, head.component, undefined, sink);
            });
            making.catch(() => undefined);
            return original.call(this, entity, input);
          },
      ),
  },
  {
    name: "what a run's read does to the actor's state stays",
    seedsMax: 5,
    law: "I6 a run's reads change nothing",
    job: "spying",
    patch: () =>
      replace(
        Activations.prototype,
        "read",
        (original) =>
          async function (this: Activations, entity, input) {
            const result = await original.call(this, entity, { ...input, readonly: false });
            for (const command of peeked(result, input.id).commands) {
              if (command.kind === "state") entity.state = command.value;
            }
            return result;
          },
      ),
  },
  {
    name: "a session's place is not kept",
    seedsMax: 20,
    law: "liveness",
    job: "counting",
    patch: withoutRows(/^e\/.*\/u\//),
  },
  {
    name: "an actor is not in the list",
    seedsMax: 5,
    law: "I3 a list of actors shows what was told",
    job: "surveying",
    patch: withoutRows(/^x\/[^/]+\/a\//),
  },
  {
    name: "a stream leaves out the first event of a page",
    seedsMax: 20,
    law: "I3 a stream has the history",
    job: "following",
    patch: () =>
      replace(
        Waits.prototype,
        "events",
        (original) =>
          async function (this: Waits, partition, key, options, isOver) {
            const page = await original.call(this, partition, key, options, isOver);
            return options.from === 0 ? page : { ...page, events: page.events.slice(1) };
          },
      ),
  },
  {
    name: "an actor that stopped goes on",
    seedsMax: 10,
    law: "J-stop: what is behind an error waits for a resume",
    job: "stopping",
    patch: withHeads((head) => {
      head.isStopped = undefined;
    }),
  },
  {
    name: "an actor's age begins with it",
    seedsMax: 60,
    law: "J-age: gone after its time and not before",
    job: "aging",
    patch: withHeads((head) => {
      if (head.lastTurnAtMs !== undefined) head.lastTurnAtMs = head.createdAtMs;
    }),
  },
  {
    name: "an edit doesn't look whether there was a turn since",
    seedsMax: 5,
    law: "J-edit: all of it, if nobody was faster",
    job: "copying",
    patch: () =>
      replace(
        Actors.prototype,
        "edit",
        (original) =>
          async function (this: Actors, type, key, { state }) {
            const { turns } = await this.state(type, key);
            return original.call(this, type, key, { state, turns });
          },
      ),
  },
  {
    name: "a host never looks again what is deployed",
    seedsMax: 20,
    law: "J-deploy: a run begins with what is current",
    job: "releasing",
    isShared: true,
    patch: () => {
      const undo = replace(Deployments.prototype, "learn", () => () => undefined);
      const undoLook = replace(
        Deployments.prototype,
        "currentId",
        (original) =>
          function (this: Deployments) {
            const { known } = this;
            return known === undefined ? original.call(this) : Promise.resolve(known.component);
          },
      );
      return () => {
        undo();
        undoLook();
      };
    },
  },
  {
    name: "a rollback goes back to the first deployment",
    seedsMax: 20,
    law: "J-deploy: what was current stays written, in its order",
    job: "releasing",
    patch: () =>
      replace(
        Deployments.prototype,
        "rollBack",
        (original) =>
          async function (this: Deployments) {
            return original.call(this, (await this.list({ before: 2 }))[0]?.component);
          },
      ),
  },
  {
    name: "a move that is only tried is done",
    seedsMax: 20,
    law: "J-move: all of it or nothing",
    job: "recoding",
    patch: () =>
      replace(
        Forks.prototype,
        "move",
        (original) =>
          function (this: Forks, id, request) {
            return original.call(this, id, { ...request, isDryRun: false });
          },
      ),
  },
  {
    name: "a fork goes on with the code of its run",
    seedsMax: 20,
    law: "J-fork: mended code goes on with the same past",
    job: "recoding",
    patch: () =>
      replace(
        Forks.prototype,
        "origin",
        (original) =>
          function (this: Forks, id, step) {
            return original.call(this, id, step);
          },
      ),
  },
  {
    name: "actors that move by request move by themselves",
    seedsMax: 10,
    law: "J-upgrades by request: nobody moves before",
    job: "settling",
    patch: () =>
      replace(
        SimSandbox.prototype,
        "load",
        (original) =>
          async function (this: SimSandbox, id, bytes) {
            const manifest = await original.call(this, id, bytes);
            const definitions = manifest.definitions.map((each) => ({
              ...each,
              upgradesByHand: false,
            }));
            return { ...manifest, definitions };
          },
      ),
  },
  {
    name: "a component is stored with another byte",
    seedsMax: 1,
    law: "audit: the bucket is sound",
    patch: () =>
      replace(
        Components.prototype,
        "store",
        (original) =>
          function (this: Components, id, bytes) {
            return original.call(this, id, bytes.with(0, 1));
          },
      ),
  },
  {
    name: "a copy leaves out what partitions are moved on by",
    seedsMax: 60,
    job: "exporting",
    patch: () => replace(Replica.prototype, "apply", () => () => undefined),
  },
  {
    name: "no base is marked as passed",
    seedsMax: 20,
    law: "L-passed",
    patch: () => replace(Entries.prototype, "pass", () => () => Promise.resolve()),
  },
  {
    name: "another host is asked again for what it may have done",
    seedsMax: 30,
    law: "I4 a call without a name is executed once",
    job: "nameless",
    isShared: true,
    patch: () =>
      replace(
        Routing.prototype,
        "at",
        (original) =>
          async function (this: Routing, partition, operation) {
            try {
              return (await original.call(this, partition, operation)) as never;
            } catch (error) {
              const kind = error instanceof SporeError ? error.kind : "";
              if (kind !== "unavailable" && kind !== "moved") throw error;
              return (await original.call(this, partition, operation)) as never;
            }
          },
      ),
  },
];
