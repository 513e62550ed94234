/**
 * A tenant's queues by their names: their limits and what is known of them. What a queue does
 * is queue.ts; which of them a run passes, admissions.ts.
 */
import type { Manifest, QueueLimits } from "../guest/protocol.ts";
import type { Admissions } from "./admissions.ts";
import { ask } from "./asking.ts";
import { SporeError } from "./errors.ts";
import { rowKeys } from "./format.ts";
import { checkId, type EntityKey, nameOf, queueKey, runKey } from "./ids.ts";
import type { ListQueuesRequest, ListQueuesResult, QueueView } from "./index.ts";
import { pageLimit } from "./listing.ts";
import type { Partition } from "./partition.ts";
import {
  changeLimits,
  checkLimits,
  createQueue,
  explainWait,
  isDisposable,
  limitsOf,
  membersOf,
  queueHead,
  queueOfAll,
} from "./queue.ts";
import type { Entity, Sink } from "./state.ts";

const nextShown = 10;

export interface QueuesParts {
  readonly tenant: string;
  readonly partition: (key: EntityKey) => Partition;
  readonly admissions: Admissions;
}

export class Queues {
  readonly #parts: QueuesParts;

  constructor(parts: QueuesParts) {
    this.#parts = parts;
  }

  // -------------------------------------------------------------- limits

  /** What the code says that is deployed now; one that is only named has no limits. */
  async declare(name: string, declared: QueueLimits): Promise<void> {
    const limits = checkLimits(declared);
    await this.#change(name, (entity, sink) => {
      if (isSame(queueHead(entity).declared, limits)) return;
      changeLimits(entity, sink, { declared: limits });
    });
  }

  async put(
    name: string,
    given: QueueLimits,
  ): Promise<{ readonly created: boolean; readonly queue: QueueView }> {
    const limits = checkLimits(given);
    if (name === queueOfAll && limits.keyConcurrency !== undefined) {
      throw invalid(`runs have no key in queue ${queueOfAll}`);
    }
    const result = await this.#change(name, (entity, sink, created) => {
      changeLimits(entity, sink, { given: limits });
      return { created, queue: viewOf(entity) };
    });
    // Only now: a run that finds the switch on finds the queue.
    if (name === queueOfAll) await this.#parts.admissions.switch(true);
    return result;
  }

  async #change<T>(
    name: string,
    act: (entity: Entity, sink: Sink, created: boolean) => T,
  ): Promise<T> {
    const key = this.#key(name);
    const partition = this.#parts.partition(key);
    const result = await partition.request(key, (found, sink) => {
      const entity = found ?? createQueue(key, sink);
      if (found === undefined) partition.add(entity);
      return act(entity, sink, found === undefined);
    });
    await partition.durable();
    return result;
  }

  /** What the code declares holds again; without that, the queue is gone. */
  async delete(name: string): Promise<void> {
    const key = this.#key(name);
    const partition = this.#parts.partition(key);
    const isDeclared = await this.#on(name, (entity, sink) => {
      if (queueHead(entity).declared === undefined) return false;
      changeLimits(entity, sink, { given: undefined });
      return true;
    });
    if (isDeclared) return;
    if (name === queueOfAll) await this.#parts.admissions.switch(false);
    await partition.delete(key, (entity) => {
      if (entity === undefined) throw notFound(name);
      if (isDisposable(entity)) return;
      throw new SporeError("queue-active", `queue ${name} has runs`, {
        hint: "Take its limits off (PUT without any), and delete it when they are through.",
      });
    });
  }

  // -------------------------------------------------------------- what is known

  get(name: string): Promise<QueueView> {
    return this.#on(name, viewOf);
  }

  /** Those of some partitions. */
  async list(
    partitions: readonly Partition[],
    request: ListQueuesRequest,
  ): Promise<ListQueuesResult> {
    const limit = pageLimit(request);
    const prefix = rowKeys.listedQueues(this.#parts.tenant);
    const after =
      request.cursor === undefined ? {} : { after: prefix + checkId(request.cursor, "cursor") };
    await Promise.all(partitions.map((partition) => partition.durable()));
    const pages = await Promise.all(
      partitions.map((partition) => partition.scan(prefix, { limit, ...after })),
    );
    const names = pages
      .flatMap((page) => page.entries.map(([key]) => key.slice(prefix.length)))
      .sort();
    const shown = names.slice(0, limit);
    const views = await Promise.all(shown.map((name) => this.get(name).catch(absentIfMissing)));
    const queues = views.filter((view) => view !== undefined);
    const isMore = names.length > limit || pages.some((page) => !page.isDone);
    const cursor = shown.at(-1);
    return isMore && cursor !== undefined ? { queues, cursor } : { queues };
  }

  /** What a run that a queue holds back waits for; undefined if it is through by now. */
  async explain(name: string, runId: string): Promise<string | undefined> {
    const key = this.#key(name);
    const run = runKey(this.#parts.tenant, runId);
    const partition = this.#parts.partition(key);
    const explained = await partition.request(key, (entity) => entity && explainWait(entity, run));
    await partition.durable();
    return explained;
  }

  async #on<T>(name: string, act: (queue: Entity, sink: Sink) => T): Promise<T> {
    const key = this.#key(name);
    const partition = this.#parts.partition(key);
    const result = await ask(partition, key, (queue, sink) => {
      if (queue === undefined) throw notFound(name);
      return act(queue, sink);
    });
    await partition.durable();
    return result;
  }

  #key(name: string): EntityKey {
    return keyOfQueue(this.#parts.tenant, name);
  }
}

export function keyOfQueue(tenant: string, name: string): EntityKey {
  return queueKey(tenant, checkId(name, "queue"));
}

/** The queues that a component's workflows name, and what they let through. */
export function declaredQueues({ definitions }: Manifest): ReadonlyMap<string, QueueLimits> {
  const declared = new Map<string, QueueLimits>();
  for (const { queue } of definitions) {
    if (queue === undefined) continue;
    if (queue.name === queueOfAll) {
      throw invalid(`queue ${queueOfAll} isn't declared: its limits are set`);
    }
    const limits = queue.limits ?? declared.get(queue.name) ?? {};
    declared.set(checkId(queue.name, "queue"), checkLimits(limits));
  }
  return declared;
}

function isSame(left: QueueLimits | undefined, right: QueueLimits): boolean {
  return JSON.stringify(left) === JSON.stringify(right);
}

function viewOf(queue: Entity): QueueView {
  const head = queueHead(queue);
  const members = membersOf(queue);
  const next = members.first(nextShown);
  return {
    name: nameOf(queue.key),
    limits: limitsOf(queue),
    isDeclared: head.given === undefined,
    createdAtMs: head.createdAtMs,
    updatedAtMs: head.updatedAtMs,
    running: members.running,
    waiting: members.waiting,
    admitted: head.admitted,
    next: next.map(({ run, priority, key, sinceMs }) => ({
      runId: nameOf(run),
      priority,
      key,
      sinceMs,
    })),
  };
}

function invalid(message: string): SporeError {
  return new SporeError("invalid-request", message);
}

function notFound(name: string): SporeError {
  return new SporeError("queue-not-found", `there is no queue ${name}`);
}

/** Deleted since it was listed. */
function absentIfMissing(error: unknown): undefined {
  if (error instanceof SporeError && error.kind === "missing") return undefined;
  throw error;
}
