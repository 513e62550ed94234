/**
 * The partitions that this host follows to answer read-only methods itself. It follows one once
 * it was asked to read from it, and no longer than it is asked again now and then. Whatever can't
 * be answered here is the owner's: then `look` says undefined, and never waits long to say so.
 */
import type { Input } from "../guest/protocol.ts";
import { SporeError } from "./errors.ts";
import { Follower } from "./follower.ts";
import type { EntityKey } from "./ids.ts";
import type { Layout } from "./layout.ts";
import type { ActivateResult, Cancel, Ports } from "./ports.ts";
import { peekTurn } from "./reading.ts";
import { Replica } from "./replica.ts";
import type { Entity } from "./state.ts";

export interface FollowersParts {
  readonly ports: Ports;
  /** Of the namespace. */
  readonly prefix: string;
  readonly layout: Layout;
  readonly loadComponent: (id: string) => Promise<void>;
  /** A log says that there is, or will be, another layout. */
  readonly onSealed: () => void;
}

/** Partitions followed at once; further ones have to wait until one isn't asked for any more. */
const followersMax = 64;
/** Logs that are being read at once. */
const openingMax = 4;
/** Rows in memory, of all partitions together; what wasn't read for longest is let go first. */
const memoryBytesMax = 64 * 1024 * 1024;
/** Blocks of rows that were read, of each partition. */
const cacheBytesMax = 1024 * 1024;
/** Who wasn't asked for so long, or up to twice that, is let go. */
const idleMs = 60_000;
/** What went wrong isn't tried again at once. */
const restMs = 1000;
/** Longer than this a read doesn't wait here: its owner may be nearer to the store. */
const lookMsMax = 2000;

/** A partition that is being opened, followed, or left alone for a moment. */
interface Place {
  readonly replica: Replica;
  follower: Follower | undefined;
  isUsed: boolean;
}

/** What was found under a key; `entity` is undefined if nothing is there. */
export interface Looked {
  readonly entity: Entity | undefined;
}

export class Followers {
  readonly #parts: FollowersParts;
  /** In the order of their last use. */
  readonly #places = new Map<number, Place>();
  readonly #resting = new Map<number, Cancel>();
  #sweep: Cancel | undefined;
  #isClosed = false;

  constructor(parts: FollowersParts) {
    this.#parts = parts;
  }

  /** Partitions that are followed now. */
  get count(): number {
    return this.#places.size;
  }

  /**
   * An actor's head and state, or that there is none, as it is at some moment of the call
   * (follower.ts F1); undefined if that can't be said here and now.
   */
  async look(partition: number, key: EntityKey): Promise<Looked | undefined> {
    const place = this.#places.get(partition);
    if (place?.follower === undefined) {
      if (place === undefined && !this.#resting.has(partition)) this.#open(partition);
      return undefined;
    }
    place.isUsed = true;
    this.#places.delete(partition);
    this.#places.set(partition, place);
    try {
      const looking = place.follower.look(key, this.#parts.ports.clock.nowMs());
      const looked = await this.#inTime(looking.then((entity) => ({ entity })));
      this.#trim();
      return looked;
    } catch (error) {
      this.#failed(partition, place, error);
      return undefined;
    }
  }

  /** A read-only method on what `look` found. */
  peek(entity: Entity, input: Extract<Input, { kind: "turn" }>): Promise<ActivateResult> {
    const { ports, loadComponent } = this.#parts;
    return peekTurn({ ...ports, loadComponent }, entity, input);
  }

  close(): void {
    this.#isClosed = true;
    this.#sweep?.();
    for (const cancel of this.#resting.values()) cancel();
    for (const partition of [...this.#places.keys()]) this.#drop(partition);
  }

  #open(partition: number): void {
    if (this.#isClosed || this.#places.size >= followersMax) return;
    const opening = [...this.#places.values()].filter(({ follower }) => follower === undefined);
    if (opening.length >= openingMax) return;
    const { ports, prefix, layout } = this.#parts;
    const replica = new Replica({
      ...ports,
      prefix: `${prefix}${layout.folder}/${partition}`,
      partition,
      cacheBytesMax,
    });
    const place: Place = { replica, follower: undefined, isUsed: true };
    this.#places.set(partition, place);
    this.#sweepLater();
    replica.reopen().then(
      () => {
        place.follower = new Follower(replica, layout.number);
        this.#trim();
      },
      (error: unknown) => this.#failed(partition, place, error),
    );
  }

  /** A read is never refused for what went wrong here, but it is told, and not tried at once. */
  #failed(partition: number, place: Place, error: unknown): void {
    if (this.#places.get(partition) !== place) return; // let go meanwhile
    this.#drop(partition);
    const { ports, onSealed } = this.#parts;
    const { code, kind } =
      error instanceof SporeError ? error : new SporeError("internal", String(error));
    const message = error instanceof Error ? error.message : String(error);
    ports.observer.log("info", `partition ${partition} isn't followed: ${message}`, { code });
    this.#rest(partition, restMs);
    // Of a layout that was left long ago, not even the seal's history may be there.
    if (code === "layout-changing" || kind === "corrupt") onSealed();
  }

  #rest(partition: number, forMs: number): void {
    const wake = this.#parts.ports.clock.after(forMs, () => this.#resting.delete(partition));
    this.#resting.set(partition, wake);
  }

  #drop(partition: number): void {
    const place = this.#places.get(partition);
    this.#places.delete(partition);
    place?.replica.close();
  }

  #trim(): void {
    const bytes = (): number =>
      [...this.#places.values()].reduce((sum, { replica }) => sum + replica.memoryBytes, 0);
    for (const partition of [...this.#places.keys()]) {
      if (bytes() <= memoryBytesMax) return;
      this.#drop(partition);
      this.#rest(partition, idleMs);
    }
  }

  #sweepLater(): void {
    this.#sweep ??= this.#parts.ports.clock.after(idleMs, () => {
      this.#sweep = undefined;
      for (const [partition, place] of [...this.#places]) {
        if (!place.isUsed) this.#drop(partition);
        place.isUsed = false;
      }
      if (this.#places.size > 0) this.#sweepLater();
    });
  }

  /** Undefined if it takes too long; it goes on all the same, for those who come later. */
  async #inTime<T>(looking: Promise<T>): Promise<T | undefined> {
    looking.catch(() => undefined); // nobody may be there to hear it
    const late = Promise.withResolvers<undefined>();
    const cancel = this.#parts.ports.clock.after(lookMsMax, () => late.resolve(undefined));
    try {
      return await Promise.race([looking, late.promise]);
    } finally {
      cancel();
    }
  }
}
