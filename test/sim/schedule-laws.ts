/**
 * What must be true of the runs of schedules in what is durable: of one that lets no two of its runs
 * go on beside each other there are never two, in whichever partitions they are.
 */
import { decodeRow, type RunHead } from "../../runtime/format.ts";
import { type EntityKey, scheduleKey, tenantOf } from "../../runtime/ids.ts";
import { isClosed } from "../../runtime/run.ts";
import type { Laws } from "./laws.ts";

export class ScheduleLaws {
  /** Schedules none of whose slots, triggers and backfills may start a run beside another. */
  readonly alone = new Set<EntityKey>();
  readonly #laws: Laws;
  readonly #open = new Map<EntityKey, Set<string>>();

  constructor(laws: Laws) {
    this.#laws = laws;
  }

  row(rowKey: string, value: Uint8Array | undefined): void {
    const run = /^e\/([^/]+\/r\/[^/]+)\/!$/.exec(rowKey)?.[1];
    if (run === undefined) return;
    if (value === undefined) {
      for (const set of this.#open.values()) set.delete(run);
      return;
    }
    const { tags, status } = decodeRow<RunHead>(rowKey, value);
    if (tags["schedule"] === undefined) return;
    const schedule = scheduleKey(tenantOf(run as EntityKey), tags["schedule"]);
    const set = this.#open.get(schedule) ?? new Set();
    this.#open.set(schedule, set);
    if (isClosed(status)) set.delete(run);
    else set.add(run);
    const isSound = set.size <= 1 || !this.alone.has(schedule);
    this.#laws.check(isSound, "L-schedule", `${schedule}: ${[...set]} go on at a time`);
  }
}
