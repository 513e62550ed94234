/**
 * Everything that the engine may not have by itself, as interfaces that the host hands
 * in: storage, sandbox, time, randomness, hashing, the network, other hosts. Because of
 * that a whole cluster runs in one process under a seeded scheduler (test/sim).
 */
import type { FetchRequest, FetchResponse, Manifest } from "../guest/protocol.ts";

// ---------------------------------------------------------------- store

export type PutResult = "created" | "exists";

/**
 * Object storage: five calls and nothing else. Keys are `/`-separated, ASCII. An
 * implementation MUST make `put` with `ifAbsent` atomic (one winner), and MUST NOT retry
 * by itself in a way that hides whether a write happened. Any call may throw
 * SporeError("store-unavailable"): the write may or may not have happened, and may
 * even happen later.
 */
export interface Store {
  /** The object's bytes, or the given part of them; undefined if there is no such object. */
  get(key: string, range?: ByteRange): Promise<Uint8Array | undefined>;
  /** Durable when it resolves. Without `ifAbsent` always "created" (overwrites). */
  put(key: string, bytes: Uint8Array, options?: { ifAbsent?: boolean }): Promise<PutResult>;
  /** Succeeds also if there was nothing. */
  delete(key: string): Promise<void>;
  /** Keys in code-unit order, exclusive `after`. May be stale: nothing relies on it for safety. */
  list(prefix: string, options?: { after?: string; limit?: number }): Promise<ListResult>;
  close(): Promise<void>;
}

export interface ByteRange {
  readonly offset: number;
  /** Clipped at the object's end. */
  readonly length: number;
}

export interface ListResult {
  readonly keys: readonly { readonly key: string; readonly size: number }[];
  readonly isTruncated: boolean;
}

// ---------------------------------------------------------------- sandbox

/**
 * Runs guests. It keeps the memory of recently used machines resident as a cache; the
 * engine can always rebuild one from (image, journal), so the sandbox may forget any
 * machine at any time.
 */
export interface Sandbox {
  /**
   * Validates a component (or compiles a JS module) and makes it known under its id.
   * MUST give the same id for the same bytes. Throws invalid-component, build-failed.
   */
  prepare(source: ComponentSource): Promise<PreparedComponent>;
  /** Makes stored bytes (`PreparedComponent.bytes`) known again, on this or another host. */
  load(componentId: string, bytes: Uint8Array): Promise<Manifest>;
  isLoaded(componentId: string): boolean;
  activate(request: ActivateRequest): Promise<ActivateResult>;
  /** Whether turns that will probably follow may as well be asked for now (`ahead`). */
  readonly runsAhead?: boolean;
  /** Forget the machine's resident memory, if any. */
  release(machine: string): void;
  close(): Promise<void>;
}

export type ComponentSource =
  | { readonly kind: "component"; readonly bytes: Uint8Array }
  | { readonly kind: "javascript"; readonly code: string };

export interface PreparedComponent {
  /** Hash of the component: hex. */
  readonly id: string;
  /** What to store, and later to give to `load`. */
  readonly bytes: Uint8Array;
  readonly manifest: Manifest;
  /** Of JavaScript that was compiled just now: the component, to be kept or sent elsewhere. */
  readonly component?: Uint8Array | undefined;
}

export interface ActivateRequest {
  readonly component: string;
  /** Name of the machine whose memory this is; unique in the host. */
  readonly machine: string;
  /**
   * The memory the activation starts from. `pristine`: the component's own. `resident`:
   * the machine's memory after activation number `version`; answered `absent` if it isn't
   * here. `rebuild`: image (if any; else pristine), then each journal entry delivered.
   */
  readonly from:
    | { readonly kind: "pristine" }
    | { readonly kind: "resident"; readonly version: number }
    | {
        readonly kind: "rebuild";
        readonly image: Uint8Array | undefined;
        readonly journal: readonly JournalEntry[];
        /** Version of the memory after the journal. */
        readonly version: number;
      }
    /**
     * As `pristine`, for a turn that comes after that of the machine `behind`, which was asked
     * for right before: with the state that it leaves instead of the one in `activation`, or
     * that one if it leaves none. After it may come the next one behind the same machine.
     * Answered `absent` if one of them isn't over with its first activation.
     */
    | { readonly kind: "ahead"; readonly behind: string };
  /** One encoded Activation. */
  readonly activation: Uint8Array;
  /**
   * keep: the resulting memory stays resident as `version + 1` unless the guest is done.
   * discard: the machine's resident memory is afterwards as before (queries, read-only
   * methods: I6 by construction).
   */
  readonly after: "keep" | "discard";
  /**
   * Take an image when kept and guest time since the last image passes this. A guest that
   * yielded goes on at once, so it may go longer without.
   */
  readonly imageAfterMs: number;
}

/** One past activation and the check value of what it drained: rebuilding compares them (I5). */
export interface JournalEntry {
  readonly activation: Uint8Array;
  readonly drainedHash: number;
}

export type ActivateResult =
  | {
      readonly kind: "ok";
      /** One encoded Drained. */
      readonly drained: Uint8Array;
      readonly drainedHash: number;
      readonly guestMs: number;
      /** Of the memory after this activation. */
      readonly image: Uint8Array | undefined;
      /** Of one that was run ahead: the activation with the state that it was given. */
      readonly activation?: Uint8Array | undefined;
    }
  | { readonly kind: "absent" }
  /** The guest harmed itself; its memory is gone, nothing else is. */
  | {
      readonly kind: "fault";
      readonly fault:
        | "guest-timeout"
        | "guest-trap"
        | "guest-memory"
        | "guest-output"
        | "memory-too-large"
        | "guest-diverged"
        | "corrupt-image"
        | "component-not-found"
        | "object-not-found";
      readonly message: string;
    };

// ---------------------------------------------------------------- the rest of the world

export interface Clock {
  /** Milliseconds since the epoch; may jump. */
  nowMs(): number;
  /** Calls back once after at least `delayMs`. */
  after(delayMs: number, callback: () => void): Cancel;
}

export type Cancel = () => void;

/** Calendar arithmetic with time zones. */
export interface Calendar {
  /** The next time of a cron expression after `afterMs`; throws invalid-request for a bad one. */
  next(cron: string, zone: string | undefined, afterMs: number): number | undefined;
}

export interface Random {
  bytes(count: number): Uint8Array;
}

export interface Digest {
  sha256(bytes: Uint8Array): Uint8Array;
}

/** Performs a guest's HTTP request. Network failures reject; any HTTP status resolves. */
export interface Outbound {
  fetch(request: FetchRequest, context: OutboundContext): Promise<FetchResponse>;
}

export interface OutboundContext {
  readonly tenant: string;
  readonly runId: string;
  readonly signal: AbortSignalLike;
  /** Place in a trace of whoever asks (trace.ts). */
  readonly trace?: string | undefined;
}

/** The part of AbortSignal that the engine needs; the platform's own fits. */
export interface AbortSignalLike {
  readonly aborted: boolean;
  addEventListener(type: "abort", listener: () => void): void;
}

/** The way to other hosts of the namespace. */
export interface Peers {
  /**
   * Hands one request (`Host.serve` there takes it) to the host at an address and resolves
   * with its answer. MUST throw SporeError("peer-refused") only if it surely wasn't executed
   * there, because nobody took it, and SporeError("peer-unavailable") if that isn't known: no
   * answer within `timeoutMs`, a connection that broke. Doesn't repeat by itself.
   */
  call(
    address: string,
    request: Uint8Array,
    options: { readonly timeoutMs: number },
  ): Promise<Uint8Array>;
}

/** Structured events for logs and metrics. Never throws, never blocks. */
export interface Observer {
  log(
    level: "debug" | "info" | "warn" | "error",
    message: string,
    fields: Readonly<Record<string, unknown>>,
  ): void;
  count(name: string, value: number, labels?: Readonly<Record<string, string>>): void;
  observe(name: string, value: number, labels?: Readonly<Record<string, string>>): void;
}

/** Spans of distributed traces, for somebody outside to look at. Never throws, never blocks. */
export interface Tracer {
  ended(span: EndedSpan): void;
}

export interface EndedSpan {
  /** Its own place and that of its parent, as `traceparent` (trace.ts). */
  readonly self: string;
  readonly parent?: string | undefined;
  readonly name: string;
  readonly kind: "server" | "client" | "internal";
  readonly startMs: number;
  readonly endMs: number;
  readonly attributes: Readonly<Record<string, string | number>>;
  /** Why it failed. */
  readonly error?: string | undefined;
}

export interface Ports {
  readonly store: Store;
  /**
   * The same, for what reads or copies a whole namespace: its calls MAY wait as long as the host
   * likes, which is how a platform with limits gets such work in pieces. Default: `store`.
   */
  readonly upkeepStore?: Store | undefined;
  readonly sandbox: Sandbox;
  readonly clock: Clock;
  readonly calendar: Calendar;
  readonly random: Random;
  readonly digest: Digest;
  readonly outbound: Outbound;
  readonly observer: Observer;
  /** Absent: no other host can be asked. */
  readonly peers?: Peers | undefined;
  /** Absent: nothing is traced. */
  readonly tracer?: Tracer | undefined;
}
