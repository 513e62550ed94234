/**
 * The hosts of a namespace: who lives, who serves what, and which partitions this host takes
 * or gives. Nothing here is needed for safety, the logs fence whoever is wrong (log.ts L2); it
 * keeps partitions where they belong, and moves them fast when a host comes or goes.
 *
 * - Each host has one object, `hosts/<id>`, with a counter that rises with every beat. A host
 *   is dead whose counter stands still for `looksMax` looks, counted by the looker; nobody's
 *   clock is compared.
 * - Between beats hosts greet each other directly. A refused greeting (nobody listens there,
 *   or another host) is death at once, unless the counter goes on rising after it.
 * - Who should have a partition (shares.ts) asks its living owner for it; what nobody living
 *   has, it claims. What another one is just taking, it asks for when that has it. Who has lost
 *   one to a claim waits before it wants it back.
 */
import { decode, encode } from "../guest/cbor.ts";
import { SporeError } from "./errors.ts";
import type { ClusterView } from "./index.ts";
import type { Cancel, Clock, Observer, Store } from "./ports.ts";
import type { Retrier } from "./retry.ts";
import type { Seats } from "./seats.ts";
import { sharesOf } from "./shares.ts";
import type { HostNews, Peer, PeerRequest } from "./wire.ts";

export interface MembersParts {
  readonly hostId: string;
  readonly address: string;
  readonly prefix: string;
  readonly store: Store;
  readonly clock: Clock;
  readonly observer: Observer;
  readonly retrier: Retrier;
  readonly seats: Seats;
  /** Version of the layout whose partitions these are. */
  readonly layout: number;
  readonly onNewerLayout: () => void;
  /** Throws peer-refused, peer-unavailable, or what was answered. */
  readonly ask: (member: Peer, request: PeerRequest, timeoutMs: number) => Promise<unknown>;
}

const beatMs = 5000;
const lookMs = 3000;
/** Looks that find the counter where it was, until a host is dead: 15 seconds. */
const looksMax = 5;
/** Looks after which the object of a dead host goes: two minutes. */
const looksKept = 40;
/** A host announces itself to all it knows; LIST finds those that it didn't know. */
const looksPerList = 10;
const greetMs = 1000;
const greetingMsMax = 3000;
/** How long a host that lost a partition to a claim doesn't want it back. */
const patienceMs = 10_000;
/** A hand-over ends what is going on, and commits. */
const handOverMsMax = 20_000;
/** So long others leave a partition to a host that is taking it. */
const takeMsMax = 30_000;
/** A start waits so long for everything to be served by somebody. */
const startMsMax = 20_000;
const membersMax = 1000;

interface Member {
  readonly id: string;
  address: string;
  beat: number;
  isDraining: boolean;
  /** Looks since the counter rose. */
  looks: number;
  /** Set by a refused greeting: how often the counter has risen since. */
  risesSinceRefusal: number | undefined;
  /** By partition: the epoch in which it has it. Undefined until it was heard. */
  owned: Map<number, number> | undefined;
  /** Partitions that it is taking just now. */
  taking: ReadonlySet<number>;
  /** The first greeting has been answered, or wasn't in time. */
  isSettled: boolean;
  /** Resolves when what is so by now has been told, or couldn't be. Undefined: nothing is to tell. */
  greeting: Promise<void> | undefined;
  isGreetedAgain: boolean;
  /** What ends requests to it that are under way. */
  readonly underway: Set<(error: SporeError) => void>;
}

export class Members {
  readonly #parts: MembersParts;
  readonly #members = new Map<string, Member>();
  /** Partitions that are being taken over or given away. */
  readonly #moving = new Set<number>();
  /** Of those, what others are told to leave to this host. */
  readonly #taking = new Set<number>();
  readonly #unwanted = new Set<number>();
  readonly #timers = new Set<Cancel>();
  #beat = 0;
  #lookCount = 0;
  #isDraining = false;
  #isStopped = false;
  #isStarted = false;
  #isBeating = false;
  #isLooking = false;

  constructor(parts: MembersParts) {
    this.#parts = parts;
  }

  // -------------------------------------------------------------- life

  /** Announces this host and takes its share. Resolves when every partition is served by somebody. */
  async start(): Promise<void> {
    const { retrier } = this.#parts;
    await retrier.run("host put", () => this.#announce());
    await retrier.run("host list", () => this.#list());
    await Promise.all([...this.#members.values()].map((member) => this.#greet(member)));
    this.#isStarted = true;
    this.#every(beatMs, () => this.#beatOnce());
    this.#every(lookMs, () => this.#look());
    this.#every(greetMs, async () => {
      this.greetAll();
      this.#settle();
    });
    this.#settle();
    for (let spentMs = 0; !this.isServed && spentMs < startMsMax && !this.#isStopped; ) {
      await this.#sleep(20);
      spentMs += 20;
    }
  }

  /** Gives everything away that somebody takes within the time. Then others know, if they listen. */
  async drain(timeoutMs: number): Promise<void> {
    if (!this.#isStarted || this.#isStopped) return;
    this.#isDraining = true;
    this.greetAll();
    const isTaken = (): boolean => this.#parts.seats.indexes.length === 0 || !this.#hasHeir();
    let spentMs = 0;
    for (; !isTaken() && spentMs < timeoutMs; spentMs += 20) await this.#sleep(20);
    // Who still believes that this host has something goes on asking it.
    const told = Promise.all(this.#live().map((member) => this.#greet(member)));
    await Promise.race([told, this.#sleep(Math.min(greetMs, timeoutMs - spentMs))]);
  }

  async stop(): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    this.#isDraining = true;
    for (const cancel of this.#timers) cancel();
    this.#timers.clear();
    const { store } = this.#parts;
    // Nobody has to hear it: they find out.
    await Promise.allSettled([
      store.delete(this.#key(this.#parts.hostId)),
      ...this.#live().map((member) => this.#ask(member, this.#greeting(), greetingMsMax)),
    ]);
    for (const member of this.#members.values()) this.#kill(member);
  }

  // -------------------------------------------------------------- what others ask

  /** Where a partition is served, as far as is known. */
  ownerOf(partition: number): Peer | undefined {
    let owner: Member | undefined;
    let epoch = -1;
    for (const member of this.#live()) {
      const owned = member.owned?.get(partition);
      if (owned === undefined || owned <= epoch) continue;
      owner = member;
      epoch = owned;
    }
    return owner;
  }

  /** Every partition is served by somebody that lives. */
  get isServed(): boolean {
    const { seats } = this.#parts;
    const all = Array.from({ length: seats.count }, (_, index) => index);
    return all.every((index) => seats.isServed(index) || this.ownerOf(index) !== undefined);
  }

  get isDraining(): boolean {
    return this.#isDraining;
  }

  get peers(): readonly Peer[] {
    return this.#live();
  }

  /** A request to a member fails when that is found dead, rather than wait for its time-out. */
  withLife<T>(peer: Peer, work: Promise<T>): Promise<T> {
    const underway = this.#members.get(peer.id)?.underway;
    if (underway === undefined) return work;
    return new Promise((resolve, reject) => {
      underway.add(reject);
      work.then(resolve, reject).finally(() => underway.delete(reject));
    });
  }

  /** Nobody listens at its address, or somebody else. */
  refused(peer: Peer): void {
    const member = this.#members.get(peer.id);
    if (member === undefined || member.risesSinceRefusal !== undefined) return;
    this.#parts.observer.log("warn", `host ${peer.id} is gone`, { address: peer.address });
    member.risesSinceRefusal = 0;
    this.#kill(member);
    this.#settle();
  }

  /** What another host says of itself; the answer says the same of this one. */
  greeted(news: HostNews | undefined): HostNews {
    if (news !== undefined) this.#hear(news);
    return this.#news();
  }

  /** Another host wants a partition that is its own by right. Throws peer-refused. */
  async handOver(partition: number, to: string): Promise<void> {
    const { seats, hostId } = this.#parts;
    const isOwn = !this.#isDraining && this.#shares()[partition] === hostId;
    if (!seats.isOpen(partition) || isOwn || this.#moving.has(partition)) {
      throw new SporeError("peer-refused", `${hostId} keeps partition ${partition}`);
    }
    this.#parts.observer.log("info", `partition ${partition} goes to ${to}`, { partition });
    this.#moving.add(partition);
    try {
      await seats.close(partition);
    } finally {
      this.#moving.delete(partition);
    }
  }

  /** A claim has taken it: whoever made that claim has a reason. */
  lost(partition: number): void {
    this.#unwanted.add(partition);
    this.#after(patienceMs, () => this.#unwanted.delete(partition));
    this.greetAll();
  }

  view(): ClusterView {
    const { hostId, address, seats } = this.#parts;
    const own = { hostId, address, isSelf: true, partitions: seats.indexes };
    const others = [...this.#members.values()].map((member) => ({
      hostId: member.id,
      address: member.address,
      isSelf: false,
      state: stateOf(member),
      partitions: [...(member.owned?.keys() ?? [])].sort((left, right) => left - right),
    }));
    const state = this.#isDraining ? ("draining" as const) : ("live" as const);
    return { partitions: seats.count, hosts: [{ ...own, state }, ...others] };
  }

  // -------------------------------------------------------------- who should have what

  #shares(): readonly string[] {
    const ids = this.#live().filter(({ isDraining }) => !isDraining);
    const own = this.#isDraining ? [] : [this.#parts.hostId];
    return sharesOf([...own, ...ids.map(({ id }) => id)], this.#parts.seats.count);
  }

  #hasHeir(): boolean {
    return this.#live().some(({ isDraining }) => !isDraining);
  }

  /** Takes what should be here and isn't. */
  #settle(): void {
    const { seats, hostId } = this.#parts;
    if (!this.#isStarted || this.#isDraining) return;
    // Who hasn't been heard may have what nobody else says to have.
    if (this.#live().some(({ isSettled }) => !isSettled)) return;
    for (const [partition, id] of this.#shares().entries()) {
      if (id !== hostId || seats.has(partition) || this.#moving.has(partition)) continue;
      if (this.#unwanted.has(partition)) continue;
      if (this.#live().some(({ taking }) => taking.has(partition))) continue;
      this.#moving.add(partition);
      this.#taking.add(partition);
      const cancel = this.#after(takeMsMax, () => this.#taking.delete(partition));
      void this.#take(partition).finally(() => {
        cancel();
        this.#moving.delete(partition);
        this.#taking.delete(partition);
      });
    }
  }

  async #take(partition: number): Promise<void> {
    const { hostId, seats, observer } = this.#parts;
    const owner = this.ownerOf(partition);
    try {
      if (owner !== undefined) {
        const request = { kind: "handOver", partition, to: hostId } as const;
        await this.#ask(owner, request, handOverMsMax);
        this.#members.get(owner.id)?.owned?.delete(partition);
      }
      if (this.#isDraining) return;
      await seats.open(partition);
      this.#taking.delete(partition);
      this.greetAll();
    } catch (error) {
      // The next look at things decides anew.
      seats.forget(partition);
      const message = error instanceof Error ? error.message : String(error);
      const isOurs = !(error instanceof SporeError) || error.kind === "internal";
      observer.log(
        isOurs ? "error" : "debug",
        `partition ${partition} isn't taken: ${message}`,
        {},
      );
      if (error instanceof SporeError && error.kind === "moved") this.lost(partition);
    }
  }

  // -------------------------------------------------------------- beats and looks

  #key(id: string): string {
    return `${this.#parts.prefix}hosts/${id}`;
  }

  async #announce(): Promise<void> {
    const { store, hostId, address } = this.#parts;
    this.#beat += 1;
    const said = { version: 1, address, beat: this.#beat, isDraining: this.#isDraining };
    await store.put(this.#key(hostId), encode(said));
  }

  async #beatOnce(): Promise<void> {
    if (this.#isBeating) return;
    this.#isBeating = true;
    try {
      await this.#announce();
    } catch {
      // The store does not answer: no beat, and the others are right to wonder.
    } finally {
      this.#isBeating = false;
    }
  }

  async #look(): Promise<void> {
    if (this.#isLooking) return;
    this.#isLooking = true;
    try {
      this.#lookCount += 1;
      if (this.#lookCount % looksPerList === 0) await this.#list();
      await Promise.all([...this.#members.values()].map((member) => this.#lookAt(member)));
    } catch {
      // Who doesn't see the store can't judge others by it.
    } finally {
      this.#isLooking = false;
    }
    this.#settle();
  }

  async #list(): Promise<void> {
    const { store, hostId, prefix } = this.#parts;
    const { keys } = await store.list(`${prefix}hosts/`, { limit: membersMax });
    const ids = keys.map(({ key }) => key.slice(prefix.length + "hosts/".length));
    const news = ids.filter((id) => id !== hostId && !this.#members.has(id));
    await Promise.all(
      news.map(async (id) => {
        const said = readHost(await store.get(this.#key(id)));
        if (said !== undefined) this.#meet(id, said);
      }),
    );
  }

  async #lookAt(member: Member): Promise<void> {
    const { store } = this.#parts;
    const said = readHost(await store.get(this.#key(member.id)));
    if (said !== undefined && said.beat !== member.beat) {
      member.beat = said.beat;
      member.address = said.address;
      member.isDraining = said.isDraining;
      member.looks = 0;
      if (member.risesSinceRefusal !== undefined) member.risesSinceRefusal += 1;
      // One beat may have been on its way when it died.
      if ((member.risesSinceRefusal ?? 0) >= 2) member.risesSinceRefusal = undefined;
      return;
    }
    const wasLive = isLive(member);
    member.looks += 1;
    if (wasLive && !isLive(member)) {
      this.#parts.observer.log("warn", `host ${member.id} gives no sign of life`, {});
      this.#kill(member);
    }
    if (said === undefined && !isLive(member)) this.#members.delete(member.id);
    else if (member.looks >= looksKept) await store.delete(this.#key(member.id));
  }

  #meet(id: string, said: { address: string; beat: number; isDraining: boolean }): Member {
    const member: Member = {
      id,
      ...said,
      looks: 0,
      risesSinceRefusal: undefined,
      owned: undefined,
      taking: new Set(),
      isSettled: false,
      greeting: undefined,
      isGreetedAgain: false,
      underway: new Set(),
    };
    this.#members.set(id, member);
    return member;
  }

  #kill(member: Member): void {
    member.owned = undefined;
    const error = new SporeError("peer-unavailable", `host ${member.id} is gone`);
    for (const end of [...member.underway]) end(error);
  }

  #live(): Member[] {
    return [...this.#members.values()].filter(isLive);
  }

  // -------------------------------------------------------------- greetings

  #news(): HostNews {
    const { hostId, address, seats } = this.#parts;
    return {
      id: hostId,
      address,
      isDraining: this.#isDraining,
      isGone: this.#isStopped,
      layout: this.#parts.layout,
      owned: this.#isStopped ? [] : seats.owned,
      taking: [...this.#taking],
    };
  }

  #greeting(): PeerRequest {
    return { kind: "hello", news: this.#news() };
  }

  /** Tells all what has changed here, and hears what has changed there. */
  greetAll(): void {
    if (this.#isStopped) return;
    for (const member of this.#members.values()) void this.#greet(member);
  }

  #greet(member: Member): Promise<void> {
    if (member.greeting !== undefined) {
      member.isGreetedAgain = true;
      return member.greeting;
    }
    member.greeting = this.#greetUntilTold(member);
    return member.greeting;
  }

  async #greetUntilTold(member: Member): Promise<void> {
    do {
      member.isGreetedAgain = false;
      try {
        // Written by `greeted` on a host that was let in.
        this.#hear((await this.#ask(member, this.#greeting(), greetingMsMax)) as HostNews);
      } catch {
        // A refusal has been noted; who doesn't answer is judged by its counter, and isn't waited for.
        member.taking = new Set();
      }
      member.isSettled = true;
      // What has changed meanwhile has to be told, too.
    } while (member.isGreetedAgain && isLive(member) && !this.#isStopped);
    member.greeting = undefined;
  }

  #hear(news: HostNews): void {
    const { id, address, isDraining, isGone, owned, taking = [] } = news;
    const { seats } = this.#parts;
    if (id === this.#parts.hostId || this.#isStopped) return;
    if (isGone) {
      const member = this.#members.get(id);
      if (member !== undefined) this.#kill(member);
      this.#members.delete(id);
      this.#settle();
      return;
    }
    if (!this.#members.has(id) && this.#members.size >= membersMax) return;
    const member = this.#members.get(id) ?? this.#meet(id, { address, beat: 0, isDraining });
    const wasDraining = member.isDraining;
    member.address = address;
    member.isDraining = isDraining;
    member.isSettled = true;
    member.risesSinceRefusal = undefined; // it does listen, after all
    const isOfLayout = news.layout === this.#parts.layout;
    if (news.layout > this.#parts.layout) this.#parts.onNewerLayout();
    member.owned = new Map(isOfLayout ? owned : []);
    member.taking = new Set(isOfLayout ? taking : []);
    for (const [partition, epoch] of member.owned) {
      // A later claim than ours: this host has slept, and doesn't know yet.
      if (epoch > (seats.epochOf(partition) ?? epoch)) seats.verify(partition);
    }
    if (isDraining && !wasDraining) this.#settle();
  }

  #ask(member: Peer, request: PeerRequest, timeoutMs: number): Promise<unknown> {
    return this.#parts.ask(member, request, timeoutMs);
  }

  // -------------------------------------------------------------- time

  #every(ms: number, work: () => Promise<void>): void {
    this.#after(ms, () => {
      void work();
      this.#every(ms, work);
    });
  }

  #after(ms: number, work: () => void): Cancel {
    if (this.#isStopped) return () => undefined;
    const cancel = this.#parts.clock.after(ms, () => {
      this.#timers.delete(cancel);
      if (!this.#isStopped) work();
    });
    this.#timers.add(cancel);
    return () => {
      cancel();
      this.#timers.delete(cancel);
    };
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.#parts.clock.after(ms, resolve));
  }
}

function isLive(member: Member): boolean {
  return member.looks < looksMax && member.risesSinceRefusal === undefined;
}

function stateOf(member: Member): "live" | "draining" | "dead" {
  if (!isLive(member)) return "dead";
  return member.isDraining ? "draining" : "live";
}

/** A host's object in the bucket; undefined if there is none that can be read. */
export function readHost(
  bytes: Uint8Array | undefined,
): { address: string; beat: number; isDraining: boolean } | undefined {
  if (bytes === undefined) return undefined;
  try {
    const { version, address, beat, isDraining } = decode(bytes) as Record<string, unknown>; // checked
    if (version !== 1 || typeof address !== "string" || typeof beat !== "number") return undefined;
    return { address, beat, isDraining: isDraining === true };
  } catch {
    return undefined; // not of this version
  }
}
