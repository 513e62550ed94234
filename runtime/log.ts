/**
 * One partition's log: claim, append, truncate. Owns invariant I2, for which it needs
 * nothing but create-if-absent; it never lists, never overwrites, and no clock decides
 * anything but how long to wait before trying again.
 *
 * Entries are the objects `<prefix>/log/<seq>`, dense from 1 (layout: entry.ts). Whoever
 * claims appends a claim entry; its seq is the owner's epoch. An owner has one PUT in
 * flight, to exactly the entry after its last. How the tail is found: tail.ts (T1, T2).
 *
 * L1 Entry n is created once. The loser of a race sees `exists`, reads the entry and knows
 *    by its bytes whether it lost or only its reply did. A PUT without reply is repeated,
 *    same bytes to the same key, until the answer is known: it may still land later, so
 *    another key, or other bytes, could commit twice.
 * L2 Claim entries are never deleted. When B claims, the only PUT that owner A may have in
 *    flight goes to the entry after A's last. Either it landed before, then B's claim is
 *    the entry after it; or B's claim took its place. Both ways the next entry that A has
 *    to create is, or is before, B's claim, and nothing ever frees it: A gets `exists` for
 *    ever, however long it slept and whatever was truncated meanwhile. (A may repeat a PUT
 *    that did land and whose entry was freed since; then `created` is right, because B
 *    read that entry, and the object below the base is litter that nobody reads.)
 * L3 A claimer that sleeps between its search and its PUT may create its claim in a place
 *    that was freed meanwhile. So after the PUT it asks `hasLater`; if there is any entry
 *    after its own, it was late, or was fenced again, and gives up: `lost`. If there is
 *    none, then its claim was the tail when it was created (T1), and L2 holds from there.
 * L4 What landed before the claim is valid, whoever wrote it: the claimer reads the newest
 *    checkpoint (the tail's header says where it is) and every entry after it up to its
 *    own, and applies them. The chain of hashes proves that it read the right ones, and
 *    that each was written by the owner of its time.
 * L5 Entries are deleted only below a durable checkpoint b, except claims and what T2
 *    keeps. What A deletes by that rule, however late, no later owner needs either: it is
 *    below every later base, and a later base needs nothing below b that b didn't.
 * L6 A checkpoint is appended only when the base before it is marked as passed (T3): followers
 *    know by that mark's absence that nothing after what they have read can have been deleted.
 *
 * An owner that appends without a pause may keep winning against a claimer (each `exists`
 * costs the claimer a read): a takeover is for owners that stopped or are gone.
 *
 * Beyond its border: Store.get, put, delete; Clock.after; Random.bytes; Digest.sha256.
 */
import { isSameBytes } from "./bytes.ts";
import { Entries } from "./entries.ts";
import {
  damaged,
  decodeHeader,
  type Entry,
  type EntryHeader,
  encodeEntry,
  hashBytes,
  headerBytes,
  nonceBytes,
} from "./entry.ts";
import { assert, type SporeError } from "./errors.ts";
import type { Clock, Digest, Observer, Random, Store } from "./ports.ts";
import { Retrier } from "./retry.ts";
import { findTail, hasLater, prefixesOf, staysBelow } from "./tail.ts";

export interface LogOptions {
  readonly store: Store;
  /** Before `/log/…`; a folder of the partition. */
  readonly prefix: string;
  readonly partition: number;
  readonly random: Random;
  readonly digest: Digest;
  readonly clock: Clock;
  readonly observer: Observer;
}

export type ClaimResult =
  | {
      readonly kind: "claimed";
      readonly epoch: number;
      /** Payload of the newest checkpoint entry. */
      readonly checkpoint: Uint8Array | undefined;
      /** The batches after it, in order. */
      readonly entries: readonly { readonly seq: number; readonly payload: Uint8Array }[];
    }
  /** Another claimed later, or this claim came too late. Whether to try again is policy. */
  | { readonly kind: "lost" }
  /** Nobody may follow the last claim now; nothing was written. */
  | { readonly kind: "sealed"; readonly by: Uint8Array };

export type AppendResult =
  | { readonly kind: "written"; readonly seq: number }
  /** The partition has another owner; `by`: what it said in its claim, where that is known. */
  | { readonly kind: "fenced"; readonly by: Uint8Array | undefined };

/** Reads and deletes at once. */
const parallelMax = 16;

/** An owner's position. */
interface Position {
  readonly epoch: number;
  /** The last entry that is known to be there, and its hash. */
  readonly seq: number;
  readonly hash: Uint8Array;
  readonly base: number;
}

export class Log {
  readonly #options: LogOptions;
  readonly #retrier: Retrier;
  readonly #entries: Entries;
  #position: Position | undefined;
  #fence: { readonly by: Uint8Array | undefined } | undefined;
  #isAppending = false;
  /** The last base that was marked. */
  #passed: number | undefined;
  #truncation: Promise<void> | undefined;
  /** Everything that may go below this is gone. */
  #freedTo = 0;
  /** Of what may go from `#freedTo` on, what is gone already. */
  readonly #freed = new Set<number>();
  /** From here on, `#claims` is complete. */
  #knownFrom = 0;
  readonly #claims = new Set<number>();

  constructor(options: LogOptions) {
    this.#options = options;
    this.#retrier = new Retrier(options.clock, options.observer);
    this.#entries = new Entries(options, this.#retrier);
  }

  get isFenced(): boolean {
    return this.#fence !== undefined;
  }

  /** The owner's last entry, 0 before the claim. */
  get seq(): number {
    return this.#position?.seq ?? 0;
  }

  /** The newest checkpoint entry, 0 if there is none. */
  get base(): number {
    return this.#position?.base ?? 0;
  }

  get epoch(): number {
    return this.#position?.epoch ?? 0;
  }

  /**
   * Makes the caller the owner. `info` is what a fenced owner learns about its successor.
   * `mayFollow` is asked about a claim that is the last entry: if it says no, the log stays as
   * it is. Once per Log, unless that was sealed. Tries until it knows; throws corrupt-log, and
   * host-stopping after `close`.
   */
  async claim(
    info: Uint8Array,
    mayFollow: (info: Uint8Array) => boolean = () => true,
  ): Promise<ClaimResult> {
    assert(this.#position === undefined, "a log is claimed once");
    const claim = await this.#appendClaim(info, mayFollow);
    if (claim.kind === "sealed") return claim;
    const { header, hash } = claim;
    // L3 and L4 at once; neither depends on the other.
    const [isLate, history] = await Promise.all([
      hasLater(this.#entries.exists, header.seq),
      this.#readHistory(header),
    ]);
    if (isLate) return { kind: "lost" };
    const damage = this.#damageOf(history, header);
    if (damage !== undefined) {
      // We were the tail a moment ago. Since then a later owner may have freed what we were
      // reading, and a late claimer may even have left its litter there. If not, the log is
      // broken. (A history without damage is the right one: the hashes lead from our claim,
      // which follows the true tail, to the base.)
      if (await hasLater(this.#entries.exists, header.seq)) return { kind: "lost" };
      throw damage;
    }
    this.#position = { epoch: header.seq, seq: header.seq, hash, base: header.base };
    this.#freedTo = header.freedTo;
    this.#knownFrom = Math.max(1, header.base);
    for (const entry of history) if (entry.kind === "claim") this.#claims.add(entry.seq);
    this.#claims.add(header.seq);
    return { kind: "claimed", epoch: header.seq, ...contentsOf(history) };
  }

  /**
   * Appends one entry. One call at a time. `written`: it is durable and every later owner
   * reads it. `fenced`: it isn't ours to say whether it is. Throws host-stopping after
   * `close`; then, too, it may be there or not.
   */
  async append(kind: "batch" | "checkpoint", payload: Uint8Array): Promise<AppendResult> {
    const at = this.#position;
    assert(at !== undefined, "only the owner appends");
    assert(!this.#isAppending, "an owner has one entry in flight");
    if (this.#fence !== undefined) return { kind: "fenced", by: this.#fence.by };
    this.#isAppending = true;
    try {
      if (kind === "checkpoint") await this.pass(); // L6
      return await this.#appendAt(at, kind, payload);
    } finally {
      this.#isAppending = false;
    }
  }

  /**
   * Whether the caller is still the owner at some moment during the call: by L2 a new owner's
   * claim stands right after our last entry. For answers that need no entry of their own.
   * Not beside an append.
   */
  async confirm(): Promise<boolean> {
    const at = this.#position;
    assert(at !== undefined, "only the owner confirms");
    assert(!this.#isAppending, "nothing is appended while the owner looks");
    if (this.#fence !== undefined) return false;
    if (!(await this.#entries.exists(at.seq + 1))) return true;
    this.#fenceBy(await this.#entries.read(at.seq + 1), at.seq + 1);
    return false;
  }

  /** What the owner that fenced us said in its claim. */
  get fencedBy(): Uint8Array | undefined {
    return this.#fence?.by;
  }

  /**
   * Deletes what a checkpoint made superfluous (L5): the newest, or the earlier one that is
   * given. May run beside appends. What could not be deleted is tried again by the next call;
   * never throws for that.
   */
  truncate(base: number = this.base): Promise<void> {
    assert(this.#position !== undefined, "only the owner truncates");
    assert(base <= this.base, "only what a checkpoint stands for is deleted");
    this.#truncation ??= this.#truncateTo(base).finally(() => {
      this.#truncation = undefined;
    });
    return this.#truncation;
  }

  /**
   * L6: says to followers that the newest checkpoint may have a successor. Before a checkpoint it
   * is done anyway; beforehand, beside appends, nobody waits for it.
   */
  async pass(): Promise<void> {
    const { base } = this;
    if (this.#passed === base) return;
    await this.#entries.pass(base);
    this.#passed = base;
  }

  /** Ends waiting: calls under way throw host-stopping instead of trying again. */
  close(): void {
    this.#retrier.close();
  }

  async #appendClaim(
    info: Uint8Array,
    mayFollow: (info: Uint8Array) => boolean,
  ): Promise<
    | { readonly kind: "claimed"; readonly header: EntryHeader; readonly hash: Uint8Array }
    | { readonly kind: "sealed"; readonly by: Uint8Array }
  > {
    for (;;) {
      const seen = new Map<number, Entry>();
      const tail = await findTail(async (seq) => {
        const found = await this.#entries.probe(seq);
        if (found?.entry !== undefined) seen.set(seq, found.entry);
        return found !== undefined;
      });
      let before = tail === 0 ? undefined : (seen.get(tail) ?? (await this.#entries.read(tail)));
      // Deleted between search and read: the log moved on a lot. Search again.
      while (tail === 0 || before !== undefined) {
        if (before?.kind === "claim" && !mayFollow(before.payload)) {
          return { kind: "sealed", by: before.payload.slice() };
        }
        const header = this.#claimHeader(before);
        const { bytes, hash } = encodeEntry(header, info, this.#options.digest);
        const created = await this.#create(header, bytes);
        if (created.kind === "created") return { kind: "claimed", header, hash };
        if (created.found === undefined) break;
        before = created.found;
      }
    }
  }

  #claimHeader(before: Entry | undefined): EntryHeader {
    const seq = (before?.seq ?? 0) + 1;
    return {
      kind: "claim",
      partition: this.#options.partition,
      seq,
      epoch: seq,
      base: before?.base ?? 0,
      freedTo: before?.freedTo ?? 0,
      nonce: this.#options.random.bytes(nonceBytes),
      previous: before?.hash ?? new Uint8Array(hashBytes),
    };
  }

  async #appendAt(
    at: Position,
    kind: "batch" | "checkpoint",
    payload: Uint8Array,
  ): Promise<AppendResult> {
    const seq = at.seq + 1;
    const header: EntryHeader = {
      kind,
      partition: this.#options.partition,
      seq,
      epoch: at.epoch,
      base: kind === "checkpoint" ? seq : at.base,
      freedTo: this.#freedTo,
      nonce: this.#options.random.bytes(nonceBytes),
      previous: at.hash,
    };
    const { bytes, hash } = encodeEntry(header, payload, this.#options.digest);
    const created = await this.#create(header, bytes);
    if (created.kind === "exists") return this.#fenceBy(created.found, seq);
    assert(this.#position === at, "nothing else moved the owner's position");
    this.#position = { ...at, seq, hash, base: header.base };
    return { kind: "written", seq };
  }

  #fenceBy(found: Entry | undefined, seq: number): AppendResult {
    // L2: what stands where our entry should is a claim. Anything else means that another
    // writer broke the protocol, or that the store let two create the same object.
    if (found !== undefined && found.kind !== "claim") {
      throw damaged(this.#entries.place(seq), "it is neither ours nor a claim");
    }
    this.#fence = { by: found?.payload.slice() };
    return { kind: "fenced", by: this.#fence.by };
  }

  /** L1: until it is known whether the entry is ours. */
  async #create(
    header: EntryHeader,
    bytes: Uint8Array,
  ): Promise<{ kind: "created" } | { kind: "exists"; found: Entry | undefined }> {
    const { key } = this.#entries.place(header.seq);
    const put = (): Promise<string> => this.#options.store.put(key, bytes, { ifAbsent: true });
    if ((await this.#retrier.run("log put", put)) === "created") return { kind: "created" };
    const found = await this.#entries.read(header.seq);
    if (found !== undefined && isSameBytes(found.nonce, header.nonce)) {
      return { kind: "created" };
    }
    return { kind: "exists", found };
  }

  /** The base and everything after it up to the claim, as far as it is there. */
  async #readHistory(claim: EntryHeader): Promise<Entry[]> {
    const from = Math.max(1, claim.base);
    const seqs = Array.from({ length: claim.seq - from }, (_, index) => from + index);
    const entries: Entry[] = [];
    for (let at = 0; at < seqs.length; at += parallelMax) {
      const part = seqs.slice(at, at + parallelMax);
      const found = await Promise.all(part.map((seq) => this.#entries.read(seq)));
      entries.push(...found.filter((entry) => entry !== undefined));
      if (entries.length < at + part.length) break;
    }
    return entries;
  }

  /** L4: one chain from the base to the claim, each entry by the owner of its time. */
  #damageOf(entries: readonly Entry[], claim: EntryHeader): SporeError | undefined {
    let seq = Math.max(1, claim.base);
    let previous: Uint8Array = new Uint8Array(hashBytes);
    let epoch = 0;
    for (const entry of [...entries, { ...claim, hash: claim.previous }]) {
      const place = this.#entries.place(seq);
      if (entry.seq !== seq) return damaged(place, "it is missing");
      const isBase = seq === claim.base;
      if (isBase && entry.kind !== "checkpoint") return damaged(place, "it is no checkpoint");
      if (entry.base !== claim.base) return damaged(place, "it has another base");
      // Nothing is known about what was before the base.
      if (isBase) epoch = entry.epoch;
      else if (!isSameBytes(entry.previous, previous)) {
        return damaged(place, "it does not follow the entry before it");
      }
      if (entry.kind === "claim") epoch = seq;
      if (entry.epoch !== epoch) return damaged(place, "its writer was not the owner");
      previous = entry.hash;
      seq += 1;
    }
    return undefined;
  }

  async #truncateTo(base: number): Promise<void> {
    if (base <= this.#freedTo) return;
    const superfluous = this.#superfluousBelow(base);
    let failures = 0;
    for (let at = 0; at < superfluous.length; at += parallelMax) {
      const part = superfluous.slice(at, at + parallelMax);
      const results = await Promise.all(part.map((seq) => this.#free(seq)));
      failures += results.filter((isFree) => !isFree).length;
      if (this.#retrier.isClosed) return;
    }
    if (failures > 0) return;
    this.#freedTo = base;
    this.#freed.clear();
  }

  /**
   * Below `#freedTo` only powers of two, claims and prefixes of `#freedTo` are left; of the
   * prefixes those that `base` doesn't share may go now.
   */
  #superfluousBelow(base: number): number[] {
    const seqs = prefixesOf(this.#freedTo);
    for (let seq = Math.max(1, this.#freedTo); seq < base; seq += 1) seqs.push(seq);
    return seqs.filter(
      (seq) => !staysBelow(seq, base) && !this.#claims.has(seq) && !this.#freed.has(seq),
    );
  }

  /** Deletes one entry unless it is a claim (L2); whether it needs no further attention. */
  async #free(seq: number): Promise<boolean> {
    const { store, digest } = this.#options;
    const place = this.#entries.place(seq);
    try {
      if (seq < this.#knownFrom) {
        const bytes = await store.get(place.key, { offset: 0, length: headerBytes });
        const isClaim = bytes !== undefined && decodeHeader(bytes, place, digest).kind === "claim";
        if (bytes === undefined || isClaim) return true;
      }
      await store.delete(place.key);
      this.#freed.add(seq);
      return true;
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#options.observer.log("warn", "a log entry could not be freed", { seq, message });
      return false;
    }
  }
}

function contentsOf(history: readonly Entry[]): {
  readonly checkpoint: Uint8Array | undefined;
  readonly entries: { seq: number; payload: Uint8Array }[];
} {
  const checkpoint = history[0]?.kind === "checkpoint" ? history[0].payload : undefined;
  const entries = history
    .filter((entry) => entry.kind === "batch")
    .map(({ seq, payload }) => ({ seq, payload }));
  return { checkpoint, entries };
}
