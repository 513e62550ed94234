/**
 * What must be true of queues in what is durable, whoever wrote it: never more runs at a time
 * than the limits say, turns in order of priority and arrival, and nobody goes on without a place.
 */
import {
  decodeRow,
  type MemberRow,
  type QueueHead,
  type RunHead,
  rowKeys,
} from "../../runtime/format.ts";
import type { EntityKey } from "../../runtime/ids.ts";
import { nameOf, queueKey, tenantOf } from "../../runtime/ids.ts";
import { queueOfAll } from "../../runtime/queue.ts";
import type { Laws } from "./laws.ts";

/** Whether a run holds its places. One that was paused while it was PENDING has none. */
function isHolding({ status, gate }: RunHead): boolean {
  if (status === "RUNNING") return gate !== undefined;
  const isThrough = gate !== undefined && gate.at === gate.queues.length;
  return isThrough && (status === "PAUSED" || status === "RESUMABLE");
}

export class QueueLaws {
  readonly #laws: Laws;
  /** By queue, and by queue and key: the runs that go on. */
  readonly #running = new Map<string, Set<string>>();
  readonly #placesOf = new Map<string, readonly string[]>();
  readonly #grown = new Set<string>();
  /** Members that began to run in the batch that is looked at. */
  #begun: { readonly key: EntityKey; readonly member: MemberRow }[] = [];
  /** When members began, by queue, and how many had had the logs by then. */
  readonly #begunAt = new Map<EntityKey, { readonly atMs: number; readonly owners: number }[]>();
  /** Runs that began to go on in the batch that is looked at. */
  #going: { readonly run: EntityKey; readonly head: RunHead }[] = [];
  /** Queues whose limits have changed: in this batch, and ever. */
  readonly #changed = new Set<EntityKey>();
  readonly #changedEver = new Set<EntityKey>();

  constructor(laws: Laws) {
    this.#laws = laws;
  }

  begunAt(queue: EntityKey): readonly { readonly atMs: number; readonly owners: number }[] {
    return this.#begunAt.get(queue) ?? [];
  }

  /** Before the row is set. */
  row(before: Uint8Array | undefined, rowKey: string, value: Uint8Array | undefined): void {
    const run = /^e\/([^/]+\/r\/[^/]+)\/!$/.exec(rowKey)?.[1];
    if (run !== undefined) {
      this.#run(run as EntityKey, value && decodeRow<RunHead>(rowKey, value));
      return;
    }
    const limited = /^e\/([^/]+\/q\/[^/]+)\/!$/.exec(rowKey)?.[1];
    if (limited !== undefined) this.#head(limited as EntityKey, { rowKey, before, value });
    const queue = /^e\/([^/]+\/q\/[^/]+)\/q\//.exec(rowKey)?.[1];
    if (queue === undefined || value === undefined) return;
    const member = decodeRow<MemberRow>(rowKey, value);
    const old = before && decodeRow<MemberRow>(rowKey, before);
    const isNew = old?.run !== member.run || old.ticket !== member.ticket || !old.isRunning;
    if (member.isRunning && isNew) this.#begun.push({ key: queue as EntityKey, member });
  }

  #head(
    queue: EntityKey,
    row: {
      readonly rowKey: string;
      readonly before: Uint8Array | undefined;
      readonly value: Uint8Array | undefined;
    },
  ): void {
    const { rowKey, before, value } = row;
    if (before === undefined || value === undefined) return;
    const [old, now] = [before, value].map((bytes) => decodeRow<QueueHead>(rowKey, bytes));
    const isSame =
      JSON.stringify(old?.given ?? old?.declared) === JSON.stringify(now?.given ?? now?.declared);
    if (isSame) return;
    this.#changed.add(queue);
    this.#changedEver.add(queue);
  }

  #run(run: EntityKey, head: RunHead | undefined): void {
    const places =
      head !== undefined && isHolding(head)
        ? (head.gate?.queues ?? []).flatMap(({ name, key }) => {
            const queue = queueKey(tenantOf(run), name);
            return key === undefined ? [queue] : [queue, `${queue} ${key}`];
          })
        : [];
    const had = this.#placesOf.get(run) ?? [];
    for (const place of had) if (!places.includes(place)) this.#running.get(place)?.delete(run);
    this.#placesOf.set(run, places);
    if (head !== undefined && places.length > 0 && had.length === 0)
      this.#going.push({ run, head });
    for (const place of places) {
      if (had.includes(place)) continue;
      const set = this.#running.get(place) ?? new Set();
      this.#running.set(place, set.add(run));
      this.#grown.add(place);
    }
  }

  #limitsOf(queue: EntityKey): QueueHead["given"] {
    const rowKey = rowKeys.head(queue);
    const bytes = this.#laws.truthOf(queue).rows.get(rowKey);
    if (bytes === undefined) return undefined;
    const { given, declared } = decodeRow<QueueHead>(rowKey, bytes);
    return given ?? declared;
  }

  /** Everything of a batch is set: in it, a place may be given before its last one is back. */
  batch(): void {
    for (const place of this.#grown) {
      const set = this.#running.get(place) ?? new Set();
      const [queue = "", key] = place.split(" ");
      // Who had its place before is on its way.
      if (this.#changedEver.has(queue as EntityKey)) continue;
      const limits = this.#limitsOf(queue as EntityKey);
      const most = (key === undefined ? limits?.concurrency : limits?.keyConcurrency) ?? Infinity;
      this.#laws.check(set.size <= most, "L-queue", `${place}: ${[...set]} run at a time`);
    }
    this.#grown.clear();
    const going = this.#going;
    this.#going = [];
    for (const { run, head } of going) this.#checkPlaces(run, head);
    const begun = this.#begun;
    this.#begun = [];
    for (const { key, member } of begun) {
      const times = this.#begunAt.get(key) ?? [];
      this.#begunAt.set(key, times);
      times.push(this.#laws.moment);
      const limits = this.#limitsOf(key);
      const members = this.#membersOf(key);
      if (!this.#changed.has(key)) this.#checkRoom(key, limits, { members, member });
      for (const other of members) {
        const isHeldBack = other.key !== undefined && limits?.keyConcurrency !== undefined;
        const isEarlier = other.order < member.order && other.priority >= member.priority;
        this.#laws.check(
          other.isRunning || isHeldBack || !isEarlier,
          "L-queue order",
          `${nameOf(member.run)} passes ${nameOf(other.run)} in ${nameOf(key)}`,
        );
      }
    }
    this.#changed.clear();
  }

  #membersOf(queue: EntityKey): readonly MemberRow[] {
    const { rows } = this.#laws.truthOf(queue);
    return this.#laws.rowsBelow(queue, `${rowKeys.entity(queue)}q/`).flatMap((rowKey) => {
      const bytes = rows.get(rowKey);
      return bytes === undefined ? [] : [decodeRow<MemberRow>(rowKey, bytes)];
    });
  }

  /** Also where limits change: by those that hold when it begins. */
  #checkRoom(
    queue: EntityKey,
    limits: QueueHead["given"],
    { members, member }: { readonly members: readonly MemberRow[]; readonly member: MemberRow },
  ): void {
    const running = members.filter(({ isRunning }) => isRunning);
    const { concurrency = Infinity, keyConcurrency = Infinity } = limits ?? {};
    const told = `${nameOf(member.run)} begins in ${queue} as one of ${running.length}`;
    this.#laws.check(running.length <= concurrency, "L-queue", told);
    if (member.key === undefined) return;
    const beside = running.filter(({ key }) => key === member.key);
    this.#laws.check(beside.length <= keyConcurrency, "L-queue", `${told}, key ${member.key}`);
  }

  /** Q3: the place was durable before the run heard of it. */
  #checkPlaces(run: EntityKey, { gate }: RunHead): void {
    for (const { name } of gate?.queues ?? []) {
      const queue = queueKey(tenantOf(run), name);
      const isThere = this.#laws.truthOf(queue).rows.has(rowKeys.head(queue));
      const has = this.#membersOf(queue).some(
        (member) => member.run === run && member.isRunning && member.ticket === gate?.ticket,
      );
      // Nobody has a place in a queue of all that is gone.
      const isFree = name === queueOfAll && !isThere;
      this.#laws.check(has || isFree, "L-queue place", `${run} goes on, ${queue} doesn't know it`);
    }
  }
}
