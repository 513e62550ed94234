/**
 * A page of a run's steps, folded from the part of its history that tells of them. Where
 * pages begin is remembered, so the next page doesn't read what the one before did.
 */

import { foldStep, readHistory, readStanding } from "./history.ts";
import type { EntityKey } from "./ids.ts";
import type { HistoryEvent, StepView } from "./index.ts";
import type { Partition } from "./partition.ts";

/** Steps between two places that are remembered. */
const stride = 1000;
/** Runs whose places are remembered. */
const runsMax = 100;

/** What tells one run from a later one of the same id, and from its own later attempts. */
export interface StepsOf {
  readonly partition: Partition;
  readonly key: EntityKey;
  readonly createdAtMs: number;
  readonly attempt: number;
}

export class StepPages {
  /** By run: index of the event with which step 0, 1000, 2000 … begins. */
  readonly #places = new Map<string, number[]>();

  async read(
    run: StepsOf,
    page: { readonly after: number; readonly limit: number },
  ): Promise<StepView[]> {
    // A run that was resumed or continued may tell of any step again: only all of it will do.
    if (run.attempt > 1) return allSteps(run, page);
    const { after, limit } = page;
    const places = this.#placesOf(run);
    const nearest = Math.min(Math.floor(after / stride), places.length - 1);
    let count = nearest * stride;
    const steps = new Map<string, StepView>();
    let unsettled = 0;
    for await (const event of readHistory(run.partition, run.key, places[nearest] ?? 0)) {
      const isNew = isBeginning(event);
      if (isNew) {
        if (count % stride === 0) places[count / stride] = event.index;
        count += 1;
      }
      const isOfPage = isNew && count > after && count <= after + limit;
      if (isOfPage) unsettled += 1;
      if (isOfPage || steps.has(String(event.data.step))) {
        foldStep(steps, event);
        if (isLast(event)) unsettled -= 1;
      }
      if (count >= after + limit && unsettled === 0) break;
    }
    return [...steps.values()];
  }

  #placesOf({ key, createdAtMs }: StepsOf): number[] {
    const name = `${key} ${createdAtMs}`;
    const places = this.#places.get(name) ?? [0];
    this.#places.delete(name);
    this.#places.set(name, places);
    for (const oldest of this.#places.keys()) {
      if (this.#places.size <= runsMax) break;
      this.#places.delete(oldest);
    }
    return places;
  }
}

async function allSteps(
  { partition, key, attempt }: StepsOf,
  { after, limit }: { readonly after: number; readonly limit: number },
): Promise<StepView[]> {
  const steps = new Map<string, StepView>();
  for await (const event of readStanding(partition, key, attempt)) foldStep(steps, event);
  return [...steps.values()].slice(after, after + limit);
}

/** Every step begins with its first attempt, and does so once. */
function isBeginning({ type, data }: HistoryEvent): boolean {
  return data.began === true || (type === "step.started" && data.attempt === 1);
}

/** In a first attempt of a run nothing is told of a step after this. */
function isLast({ type, data }: HistoryEvent): boolean {
  return (
    type === "step.succeeded" ||
    type === "step.failed" ||
    (type === "step.continued" && data.isOpen !== true)
  );
}
