/**
 * The contract between host and guest: what one activation carries in and what it
 * gives back. Both sides import this file; it imports nothing. PROTOCOL part 1 is
 * the prose. Every user value crosses as `Encoded` (a CBOR item inside a byte
 * string), so that the host stores and forwards it without looking inside.
 */

/** A CBOR item as bytes, written by guest/cbor.ts or by a client; opaque to the engine. */
export type Encoded = Uint8Array;

/** Version of this protocol; a host refuses a manifest with another major version. */
export const protocolVersion = 1;

/** Bytes of one actor's encoded state: well below what may be drained at once. */
export const stateBytesMax = 8 * 1024 * 1024;

/** The error shape that survives every border. `name` and `message` are always kept. */
export interface ErrorValue {
  readonly name: string;
  readonly message: string;
  /** Stable code: ours (docs/ERRORS.md) or the user's `error.code`. */
  readonly code?: string | undefined;
  /** What went wrong in kind: decides retries and the HTTP status. */
  readonly class?: "user" | "timeout" | "cancelled" | "denied" | "limit" | "host" | undefined;
  /** False where a retry can't help. Absent means true. */
  readonly retryable?: boolean | undefined;
  readonly stack?: string | undefined;
  readonly cause?: ErrorValue | undefined;
  /** User data: own enumerable fields of the error, or the thrown non-Error value. */
  readonly details?: Encoded | undefined;
}

export type Outcome =
  | { readonly kind: "ok"; readonly value: Encoded }
  | { readonly kind: "error"; readonly error: ErrorValue };

/** What a run knows about itself. Immutable for the life of the run. */
export interface RunInfo {
  readonly runId: string;
  readonly tenant: string;
  /** Definition's name; "" for a bare graph. */
  readonly name: string;
  readonly component: string;
  readonly parentId?: string | undefined;
  readonly rootId?: string | undefined;
  /** 1 for the first life under the id; counts up with retry-from-failure and continue-as-new. */
  readonly attempt: number;
  readonly startedAtMs: number;
  /** Seed of the run's random numbers: 16 bytes. */
  readonly seed: Uint8Array;
}

// ---------------------------------------------------------------- host → guest

/** One delivery. `nowMs` never goes backwards within a run. */
export interface Activation {
  readonly nowMs: number;
  /**
   * Step bodies that may begin in this activation; further ones stay queued, and the
   * guest answers `state: "yielded"`. Bounds the work between two commits. With 1, that body
   * and nothing that follows from it runs, so that the host finds the one that spins.
   */
  readonly stepsMax: number;
  readonly inputs: readonly Input[];
}

export type Input =
  /** First input of a workflow run. */
  | {
      readonly kind: "start";
      readonly run: RunInfo;
      readonly args: Encoded;
      /** Results of another run's steps: a step of this identity and arguments takes its own. */
      readonly reuse?: readonly ReusedStep[] | undefined;
    }
  /** First input of a graph run; `root` encodes a GraphValue. */
  | {
      readonly kind: "graph";
      readonly run: RunInfo;
      readonly root: Encoded;
      readonly reuse?: readonly ReusedStep[] | undefined;
    }
  /** The machine is this run from here on: a fork, or a run that was moved to other code. */
  | { readonly kind: "run"; readonly run: RunInfo }
  /** First and only input of an actor's turn, always into pristine memory. */
  | TurnInput
  /** The command `id` has its result. */
  | {
      readonly kind: "resolve";
      readonly id: number;
      readonly outcome: Outcome;
      /** Of a `wait`: which signal this is, so that it can go back to its place (`unread`). */
      readonly signal?: { readonly name: string; readonly index: number } | undefined;
    }
  /** Answered by exactly one `reply` command, in this or a later activation. */
  | { readonly kind: "update"; readonly id: string; readonly name: string; readonly args: Encoded }
  /** Into a throw-away copy of the memory; answered by one `reply` in the same activation. */
  | { readonly kind: "query"; readonly id: string; readonly name: string; readonly args: Encoded }
  /** Cooperative cancel: pending awaits reject with CancelledError; cleanup may go on. */
  | { readonly kind: "cancel"; readonly reason: string }
  /** Go on after `yielded`. */
  | { readonly kind: "continue" }
  /** Instead of `continue` at a `resumePoint`: run the step again. */
  | { readonly kind: "retry" }
  /**
   * The last activation was thrown away because the step that began last in it (`step`)
   * trapped or ran out of time: fail that attempt with `error` instead of running it.
   */
  | { readonly kind: "stepFault"; readonly step: string; readonly error: ErrorValue };

/** A step of another run that succeeded. */
export interface ReusedStep {
  readonly step: string;
  /** Absent: it had none. */
  readonly args?: Encoded | undefined;
  readonly value: Encoded;
}

export interface UnreadSignal {
  readonly name: string;
  readonly index: number;
  readonly value: Encoded;
}

export interface TurnInput {
  readonly kind: "turn";
  readonly run: RunInfo;
  readonly actor: ActorRef;
  /**
   * A method's name. "" without state runs the constructor (creation); "" with state is an
   * upgrade: the class's `upgrade` makes new state of what an earlier component left.
   */
  readonly method: string;
  readonly args: Encoded;
  /** Committed state; absent at creation. */
  readonly state?: Encoded | undefined;
  /** Id under which the method's outcome is replied. */
  readonly id: string;
  /** True: no command but `reply` and `log` is allowed, and the state is thrown away. */
  readonly readonly: boolean;
  /** Who called: a run's id or an actor's `type/key`; absent for clients and reminders. */
  readonly caller?: string | undefined;
}

export interface ActorRef {
  readonly type: string;
  readonly key: string;
}

// ---------------------------------------------------------------- guest → host

export interface Drained {
  /**
   * waiting: nothing to do until an input comes. yielded: wants `continue` (more step
   * bodies are queued). done: a `complete`, `continueAsNew` or (for a turn) `turned`
   * command is among the commands; the memory is of no more use.
   */
  readonly state: "waiting" | "yielded" | "done";
  readonly commands: readonly Command[];
  /** StepRecord items in order, each one CBOR item: stored as they are, for /steps and /history. */
  readonly records: readonly Encoded[];
  /**
   * Yielded only: this step has used up its attempts and its rejection is not yet
   * delivered. `continue` delivers it; `retry` (after the run failed of it and was
   * resumed) runs the step again with a fresh budget instead.
   */
  readonly resumePoint?: string | undefined;
  /** Yielded only: the step whose body begins next. A host that runs one at a time knows who spins. */
  readonly nextStep?: string | undefined;
  /** Waiting only: one sentence on what for (`signal approve since …`), without times. */
  readonly waitingFor?: string | undefined;
  /** What a step said last of how far it is, if one did in this activation. */
  readonly progress?: { readonly step: string; readonly value: Encoded } | undefined;
  /** Names of query and update handlers registered at this point; present when changed. */
  readonly handlers?: { readonly queries: readonly string[]; readonly updates: readonly string[] };
}

/** Commands with an `id` get exactly one `resolve`, unless dropped. Ids are unique per run and rising. */
export type Command =
  | { readonly kind: "timer"; readonly id: number; readonly atMs: number }
  | {
      readonly kind: "fetch";
      readonly id: number;
      readonly request: FetchRequest;
    }
  /** The oldest buffered, unconsumed signal of that name; resolves with its value. */
  | { readonly kind: "wait"; readonly id: number; readonly signal: string }
  /** The update passed its validator; its `reply` comes later. */
  | { readonly kind: "accept"; readonly updateId: string }
  /** Resolves when somebody outside decides it by a token, with the value or error given. */
  | {
      readonly kind: "event";
      readonly id: number;
      readonly name: string;
      readonly expiresAtMs: number;
    }
  /** Resolves with { token, url } for the pending `event` with the id `wait`. */
  | { readonly kind: "token"; readonly id: number; readonly wait: number }
  /**
   * Signals that came for waits that had been given up and that nothing took since: they go
   * back to where they were. Before the machine ends.
   */
  | { readonly kind: "unread"; readonly signals: readonly UnreadSignal[] }
  /**
   * The result of pending command `id` is no longer wanted; a waiting signal stays buffered. Of
   * an `event` that was resolved: its value was looked at.
   */
  | { readonly kind: "drop"; readonly id: number }
  /** Starts a run. Resolves with { runId, created } once accepted. */
  | {
      readonly kind: "start";
      readonly id: number;
      /** Workflow's name, or undefined when `root` is given. */
      readonly name?: string | undefined;
      readonly args?: Encoded | undefined;
      readonly root?: Encoded | undefined;
      /** Absent: the host derives one from this run's id and `id`. */
      readonly runId?: string | undefined;
      /** Set for a child: what becomes of it when this run closes. */
      readonly child?: "terminate" | "cancel" | "abandon" | undefined;
      readonly options?: StartOptions | undefined;
    }
  /** Resolves with the run's outcome, now or when it closes. */
  | { readonly kind: "outcome"; readonly id: number; readonly runId: string }
  /** Resolves with the run's RunDescription, as it is when the question gets there. */
  | { readonly kind: "describe"; readonly id: number; readonly runId: string }
  /** Asks to cancel another run. Resolves when accepted. */
  | {
      readonly kind: "cancelRun";
      readonly id: number;
      readonly runId: string;
      readonly reason: string;
    }
  /** Sends a signal to another run, or to an actor; resolves when durably accepted there. */
  | {
      readonly kind: "signal";
      readonly id: number;
      /** Absent with `actor`. */
      readonly runId?: string | undefined;
      readonly actor?: ActorRef | undefined;
      readonly name: string;
      readonly value: Encoded;
    }
  /** Calls an actor's method (or creates it, method ""); resolves with its outcome. `oneWay`: resolves when accepted. */
  | {
      readonly kind: "call";
      readonly id: number;
      readonly actor: ActorRef;
      readonly method: string;
      readonly args: Encoded;
      readonly oneWay?: boolean | undefined;
      /** Constructor arguments used if the actor doesn't exist yet. */
      readonly create?: Encoded | undefined;
    }
  /** Stores a large value by content; resolves with { hash, size }: what a Ref carries. */
  | { readonly kind: "put"; readonly id: number; readonly value: Encoded }
  /**
   * Stores the value whose encoding is these pieces one after the other: names that `put` gave
   * for each, of `pieceMark` and up to `pieceBytesMax` bytes. Resolves as `put`.
   */
  | {
      readonly kind: "assemble";
      readonly id: number;
      readonly pieces: readonly string[];
      /** Of the encoding, without marks. */
      readonly size: number;
    }
  /**
   * Reads a stored value back; resolves with the value itself, or with a part of its bytes. With
   * `isEncoded` the part is one of its encoding, whatever the value is.
   */
  | {
      readonly kind: "get";
      readonly id: number;
      readonly hash: string;
      readonly range?: { readonly offset: number; readonly length: number } | undefined;
      readonly isEncoded?: true | undefined;
    }
  /** Answer to an `update`, `query` or `turn` input. */
  | { readonly kind: "reply"; readonly id: string; readonly outcome: Outcome }
  /** An actor's state after a method (also intermediate, in a turn that returns a graph of its methods). */
  | { readonly kind: "state"; readonly value: Encoded }
  /**
   * Actors: calls `method` of this actor at a time, again every `everyMs` or at the times of
   * `cron`, until forgotten. A name has one reminder; the newer one wins. Part of the turn.
   */
  | {
      readonly kind: "remind";
      readonly name: string;
      readonly method: string;
      readonly args: Encoded;
      /** Absent with `cron`: its next time. */
      readonly atMs?: number | undefined;
      readonly everyMs?: number | undefined;
      readonly cron?: string | undefined;
      /** IANA name; default UTC. */
      readonly zone?: string | undefined;
    }
  | { readonly kind: "forgetReminder"; readonly name: string }
  /** The turn is over (its `reply` and last `state` are among the commands so far). */
  | { readonly kind: "turned" }
  | { readonly kind: "complete"; readonly outcome: Outcome }
  | { readonly kind: "continueAsNew"; readonly args: Encoded }
  /** A value that outsiders can read: the event `published` in the history. */
  | { readonly kind: "publish"; readonly key: string; readonly value: Encoded }
  | { readonly kind: "tags"; readonly tags: Readonly<Record<string, string | undefined>> }
  | {
      readonly kind: "log";
      readonly level: "debug" | "info" | "warn" | "error";
      readonly message: string;
      readonly step?: string | undefined;
    };

/** What `describe` says of a run. */
export interface RunDescription {
  readonly status:
    | "PENDING"
    | "RUNNING"
    | "PAUSED"
    | "RESUMABLE"
    | "SUCCESSFUL"
    | "FAILED"
    | "CANCELED";
  /** Definition's name; "" for a bare graph. */
  readonly name: string;
  readonly createdAtMs: number;
  readonly closedAtMs?: number | undefined;
  readonly tags: Readonly<Record<string, string>>;
  /** What it waits for, for people. */
  readonly waitingFor?: string | undefined;
  /** Why it failed, was canceled or can't go on. */
  readonly error?: { readonly name: string; readonly message: string } | undefined;
}

/** What a queue lets through. Absent: no such limit. */
export interface QueueLimits {
  /** Runs that go on at a time. */
  readonly concurrency?: number | undefined;
  /** Runs with the same key that go on at a time. */
  readonly keyConcurrency?: number | undefined;
  /** Starts are `periodMs / limit` apart; after a pause up to `burst` (default 1) at once. */
  readonly rate?:
    | {
        readonly limit: number;
        readonly periodMs: number;
        readonly burst?: number | undefined;
      }
    | undefined;
  /** Runs that may wait; a client's start beyond is refused. */
  readonly maxPending?: number | undefined;
}

/** Which queue a new run passes, and how. What is absent is as the definition says. */
export interface QueueOptions {
  readonly name?: string | undefined;
  /** Runs with the same key share `keyConcurrency`. */
  readonly key?: string | undefined;
  /** -1000 to 1000, higher first; default 0. */
  readonly priority?: number | undefined;
}

export interface StartOptions {
  readonly queue?: QueueOptions | undefined;
  readonly tags?: Readonly<Record<string, string>> | undefined;
  readonly metadata?: Encoded | undefined;
  readonly deadlineMs?: number | undefined;
  readonly startAtMs?: number | undefined;
  /** Deleted this long after it has closed. */
  readonly retentionMs?: number | undefined;
}

export interface FetchRequest {
  readonly method: string;
  readonly url: string;
  readonly headers: readonly (readonly [string, string])[];
  readonly body?: Uint8Array | undefined;
}

/** The value of a resolved `fetch` command. */
export interface FetchResponse {
  readonly status: number;
  readonly statusText: string;
  readonly url: string;
  readonly headers: readonly (readonly [string, string])[];
  readonly body: Uint8Array;
}

/** One event in the life of a step. The last record of a step id is its state. */
export interface StepRecord {
  /** Identity in the run: definition's name, then `_1`, `_2` … in order of creation. */
  readonly step: string;
  /** Definition's name. */
  readonly name: string;
  readonly event: "started" | "progress" | "succeeded" | "failed" | "retrying" | "continued";
  readonly atMs: number;
  /** 1 for the first attempt. */
  readonly attempt: number;
  /**
   * started: the arguments. succeeded: the value. progress: what the step said of it. Absent when
   * checkpoint is off or too large.
   */
  readonly value?: Encoded | undefined;
  /** succeeded: the attempt is the first and began in the same activation; no record says so before. */
  readonly began?: boolean | undefined;
  /** With `began`: the arguments. */
  readonly args?: Encoded | undefined;
  readonly error?: ErrorValue | undefined;
  /** retrying: when the next attempt begins. */
  readonly nextAtMs?: number | undefined;
  /** continued: the step id whose value becomes this step's value (a returned graph's root). */
  readonly into?: string | undefined;
  /** continued: the step catches errors, so a last record of it follows. */
  readonly isOpen?: boolean | undefined;
  /** This step undoes that one. */
  readonly compensates?: string | undefined;
  /** succeeded: nothing ran, the value is that of the same step in another run. */
  readonly isReused?: boolean | undefined;
  readonly metadata?: Encoded | undefined;
}

// ---------------------------------------------------------------- graphs and manifest

/**
 * A graph of steps as a value: what `client.run(add.step(100, one.step()))` sends. An
 * object with `$step` is a node; `$ref` stands for a node that was already written with
 * that `$id`, so a shared node stays one. Anywhere in arguments, at any depth.
 */
export type GraphValue =
  | {
      readonly $step: string;
      readonly args: readonly unknown[];
      readonly $id?: number | undefined;
      readonly options?: Readonly<Record<string, unknown>> | undefined;
    }
  | { readonly $ref: number };

export interface Manifest {
  readonly protocol: number;
  readonly definitions: readonly Definition[];
}

export interface Definition {
  readonly kind: "step" | "workflow" | "actor";
  readonly name: string;
  /** Actors: methods in order, and which of them only read. */
  readonly methods?: readonly { readonly name: string; readonly readonly: boolean }[] | undefined;
  /** Actors: the class has `static upgrade(state)`. */
  readonly upgrades?: boolean | undefined;
  /** Actors: only by request, not at their next turn. */
  readonly upgradesByHand?: boolean | undefined;
  /** Actors: a call that comes back to an actor which waits for it runs within its turn. */
  readonly reentrant?: boolean | undefined;
  /** Actors: deleted after this long without a call. */
  readonly expiresAfterMs?: number | undefined;
  /** Actors: a method that throws stops the actor until somebody resumes it. */
  readonly stopsOnError?: boolean | undefined;
  /** Workflows: the queue that their runs pass. `key` is a path into the arguments: `0.customer`. */
  readonly queue?:
    | {
        readonly name: string;
        readonly key?: string | undefined;
        readonly limits?: QueueLimits | undefined;
      }
    | undefined;
}

// ---- values larger than an activation

/** What a guest gives or takes of a large value at once. */
export const pieceBytesMax = 4 * 1024 * 1024;

/** Before each piece: so a piece is never the encoding of a value, nor has a value's hash. */
export const pieceMark = 0xff;

/** A stored value, all pieces together. */
export const objectBytesMax = 256 * 1024 * 1024;

/**
 * Stands in the place of an encoded value that is a stored object: 27(["Stored", place]) with the
 * place as an item of its own, [name, offset, length, size?]. With a size the guest itself puts
 * the value in its place, piece by piece; without, the host does.
 */
export const storedMark: Uint8Array = Uint8Array.of(
  0xd8,
  0x1b,
  0x82,
  0x66,
  0x53,
  0x74,
  0x6f,
  0x72,
  0x65,
  0x64,
);
