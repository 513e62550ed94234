/**
 * Who is in a queue, in memory: who runs, who waits, and whose turn is next. What is next is
 * found without a look at all who wait, also where a key's own limit holds many of them back.
 *
 * Invariants:
 * - Q1 A lane (those who wait with one key) that is not empty and not held back by its key
 *   has its first member in `#ready`. What is offered there twice, or doesn't wait any more,
 *   is passed over.
 * - Q2 A row's name is the lowest free place, so rows leave no trail of deleted ones behind.
 */
import { assert } from "./errors.ts";
import type { MemberRow } from "./format.ts";
import { Heap } from "./heap.ts";
import type { EntityKey } from "./ids.ts";

export interface Member extends Omit<MemberRow, "isRunning"> {
  readonly place: number;
  isRunning: boolean;
  isGone: boolean;
}

type Lane = Heap<Member>;

/** Members that are gone, or offered twice, and still lie in heaps: before all are made anew. */
const litterMax = 1000;

export class QueueMembers {
  readonly #byRun = new Map<EntityKey, Member>();
  readonly #runningWith = new Map<string, number>();
  #lanes = new Map<string | undefined, Lane>();
  #ready: Heap<Member> = new Heap(isBefore);
  readonly #free: Heap<number> = new Heap((left, right) => left < right);
  #nextPlace = 1;
  #running = 0;
  #litter = 0;

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#byRun.size - this.#running;
  }

  runningWith(key: string): number {
    return this.#runningWith.get(key) ?? 0;
  }

  find(run: EntityKey): Member | undefined {
    return this.#byRun.get(run);
  }

  /** A row, when the queue is read; in the order of places. */
  load(place: number, row: MemberRow): void {
    for (; this.#nextPlace < place; this.#nextPlace++) this.#free.push(this.#nextPlace);
    this.#nextPlace = place + 1;
    this.#insert({ ...row, place, isGone: false });
  }

  /** One more that waits. */
  add(row: MemberRow): Member {
    assert(!this.#byRun.has(row.run), `${row.run} is in a queue once`);
    const place = this.#free.pop() ?? this.#nextPlace++;
    const member = { ...row, place, isGone: false };
    this.#insert(member);
    return member;
  }

  #insert(member: Member): void {
    this.#byRun.set(member.run, member);
    if (member.isRunning) {
      this.#count(member, 1);
      return;
    }
    this.#lane(member);
    if (this.#first(member.key) === member) this.#offer(member.key);
  }

  #lane(member: Member): void {
    const lane = this.#lanes.get(member.key) ?? new Heap(isBefore);
    this.#lanes.set(member.key, lane);
    lane.push(member);
  }

  remove(member: Member): void {
    assert(this.#byRun.get(member.run) === member, `${member.run} is in the queue`);
    this.#byRun.delete(member.run);
    this.#free.push(member.place);
    member.isGone = true;
    if (member.isRunning) this.#count(member, -1);
    else this.#litter += 1;
    this.#offer(member.key);
    if (this.#litter > this.#byRun.size + litterMax) this.offerAll();
  }

  /** The one whose turn it is, by priority and then by order; undefined if all are held back. */
  next(keyConcurrency: number | undefined): Member | undefined {
    for (let member = this.#ready.peek(); member !== undefined; member = this.#ready.peek()) {
      const isHeldBack =
        member.key !== undefined &&
        keyConcurrency !== undefined &&
        this.runningWith(member.key) >= keyConcurrency;
      if (!member.isGone && !member.isRunning && !isHeldBack) return member;
      this.#ready.pop();
    }
    return undefined;
  }

  /** It runs from now on. */
  take(member: Member): void {
    assert(!member.isRunning && !member.isGone, `${member.run} waits`);
    member.isRunning = true;
    this.#count(member, 1);
    this.#offer(member.key);
  }

  /** Makes the heaps anew: after a change of limits all lanes may have a turn. */
  offerAll(): void {
    this.#litter = 0;
    this.#lanes = new Map();
    this.#ready = new Heap(isBefore);
    for (const member of this.#byRun.values()) if (!member.isRunning) this.#lane(member);
    for (const key of this.#lanes.keys()) this.#offer(key);
  }

  /** How many that wait come before this one. */
  before(member: Member): number {
    let count = 0;
    for (const other of this.#byRun.values()) {
      if (!other.isRunning && isBefore(other, member)) count += 1;
    }
    return count;
  }

  /** The first of those who wait, in the order of their turns. */
  first(count: number): readonly Member[] {
    const last: Heap<Member> = new Heap((left, right) => isBefore(right, left));
    for (const member of this.#byRun.values()) {
      if (member.isRunning) continue;
      const worst = last.peek();
      if (last.size >= count && worst !== undefined && isBefore(worst, member)) continue;
      last.push(member);
      if (last.size > count) last.pop();
    }
    const found: Member[] = [];
    for (let member = last.pop(); member !== undefined; member = last.pop()) found.unshift(member);
    return found;
  }

  #first(key: string | undefined): Member | undefined {
    const lane = this.#lanes.get(key);
    if (lane === undefined) return undefined;
    for (let member = lane.peek(); member !== undefined; member = lane.peek()) {
      if (!member.isGone && !member.isRunning) return member;
      lane.pop();
    }
    this.#lanes.delete(key);
    return undefined;
  }

  /** Q1 */
  #offer(key: string | undefined): void {
    const first = this.#first(key);
    if (first === undefined) return;
    this.#ready.push(first);
    if (this.#ready.size > 2 * this.#byRun.size + litterMax) this.#litter += this.#ready.size;
  }

  #count(member: Member, by: number): void {
    this.#running += by;
    if (member.key === undefined) return;
    const count = this.runningWith(member.key) + by;
    if (count === 0) this.#runningWith.delete(member.key);
    else this.#runningWith.set(member.key, count);
  }
}

function isBefore(left: Member, right: Member): boolean {
  if (left.priority !== right.priority) return left.priority > right.priority;
  return left.order < right.order;
}
