/**
 * What must be true of queues in what is durable, whoever wrote it: never more runs at a time
 * than the limits say, and turns in order of priority and arrival.
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

  constructor(laws: Laws) {
    this.#laws = laws;
  }

  /** Before the row is set. */
  row(before: Uint8Array | undefined, rowKey: string, value: Uint8Array | undefined): void {
    const run = /^e\/([^/]+\/r\/[^/]+)\/!$/.exec(rowKey)?.[1];
    if (run !== undefined) {
      this.#run(run as EntityKey, value && decodeRow<RunHead>(rowKey, value));
      return;
    }
    const queue = /^e\/([^/]+\/q\/[^/]+)\/q\//.exec(rowKey)?.[1];
    if (queue === undefined || value === undefined) return;
    const member = decodeRow<MemberRow>(rowKey, value);
    const old = before && decodeRow<MemberRow>(rowKey, before);
    const isNew = old?.run !== member.run || old.ticket !== member.ticket || !old.isRunning;
    if (member.isRunning && isNew) this.#begun.push({ key: queue as EntityKey, member });
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
      const limits = this.#limitsOf(queue as EntityKey);
      const most = (key === undefined ? limits?.concurrency : limits?.keyConcurrency) ?? Infinity;
      this.#laws.check(set.size <= most, "L-queue", `${place}: ${[...set]} run at a time`);
    }
    this.#grown.clear();
    const begun = this.#begun;
    this.#begun = [];
    for (const { key, member } of begun) {
      const limits = this.#limitsOf(key);
      for (const rowKey of this.#laws.rowsBelow(key, `${rowKeys.entity(key)}q/`)) {
        const bytes = this.#laws.truthOf(key).rows.get(rowKey);
        if (bytes === undefined) continue;
        const other = decodeRow<MemberRow>(rowKey, bytes);
        const isHeldBack = other.key !== undefined && limits?.keyConcurrency !== undefined;
        const isEarlier = other.order < member.order && other.priority >= member.priority;
        this.#laws.check(
          other.isRunning || isHeldBack || !isEarlier,
          "L-queue order",
          `${nameOf(member.run)} passes ${nameOf(other.run)} in ${nameOf(key)}`,
        );
      }
    }
  }
}
