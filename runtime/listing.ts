/**
 * Lists runs newest first over all partitions: a merge of one index scan for each
 * partition and status, and each name if names are asked for; of a tag the same. Cost is in
 * proportion to what is shown, not to what exists. Other filters pass over rows of these; so do
 * names and tags among runs from before there were rows for them (Partition.indexedFromMs).
 */
import { SporeError } from "./errors.ts";
import {
  decodeRow,
  hex,
  indexOfName,
  indexOfTag,
  type ListedRow,
  rowKeys,
  timeMax,
} from "./format.ts";
import { checkName } from "./ids.ts";
import type {
  ComponentUse,
  ListActorsRequest,
  ListRequest,
  ListResult,
  RunSummary,
  Status,
} from "./index.ts";
import type { Partition } from "./partition.ts";
import { statuses } from "./run.ts";

const limitDefault = 100;
const limitMax = 1000;
/** Rows looked at for one answer when a filter drops most of them. */
const rowsMax = 20_000;
/** Names whose rows are read each by themselves; with more of them all runs are. */
const indexesMax = 20;

interface Listed {
  /** `<inverted time>/<id>`: the order, and the cursor. */
  readonly position: string;
  readonly summary: RunSummary;
}

export async function listRuns(
  tenant: string,
  partitions: readonly Partition[],
  request: ListRequest,
): Promise<ListResult> {
  const limit = pageLimit(request);
  const given = request.cursor === undefined ? "" : checkCursor(request.cursor);
  const newest = newestPosition(request.createdBeforeMs);
  let cursor = given;
  if (cursor < newest) cursor = newest;
  // What was acknowledged before the question is in the answer.
  await Promise.all(partitions.map((partition) => partition.durable()));
  const sources = (
    await Promise.all(
      partitions.map((partition) => sourcesOf(partition, { tenant, request, cursor, limit })),
    )
  ).flat();
  const runs: RunSummary[] = [];
  let last = cursor;
  for (let rows = 0; rows < rowsMax; rows++) {
    const next = await takeNewest(sources);
    if (next === undefined || isTooOld(next.summary, request)) return { runs };
    last = next.position;
    if (matches(next.summary, request)) runs.push(next.summary);
    if (runs.length >= limit) break;
  }
  return { runs, cursor: last };
}

async function sourcesOf(
  partition: Partition,
  asked: { tenant: string; request: ListRequest; cursor: string; limit: number },
): Promise<Source[]> {
  const { tenant, request, cursor, limit } = asked;
  const indexes = indexesOf(request);
  const wanted = request.statuses ?? statuses;
  const all = rowKeys.listedRuns(tenant);
  const plain = (after: string): Source[] =>
    wanted.map(
      (status) => new Source(partition, { prefix: `${all}${status}/`, status, after, limit }),
    );
  if (indexes === undefined) return plain(cursor);
  const fromMs = await partition.indexedFromMs();
  const end = fromMs <= 0 ? undefined : hex(timeMax - fromMs, 12);
  const indexed = indexes.flatMap((index) =>
    wanted.map((status) => {
      const prefix = rowKeys.indexed(tenant, index, `${status}/`);
      return new Source(partition, { prefix, status, after: cursor, limit, end });
    }),
  );
  if (end === undefined) return indexed;
  const isPast = cursor > end;
  return [...(isPast ? [] : indexed), ...plain(isPast ? cursor : end)];
}

/** The rows to look at; undefined: all. A tag is rarer than a name, as a rule. */
function indexesOf({ names, tag }: ListRequest): readonly string[] | undefined {
  if (tag !== undefined) return [indexOfTag(tag.key, tag.value)];
  const known = names?.filter((name) => name !== "");
  if (known === undefined || known.length !== names?.length || known.length > indexesMax) {
    return undefined;
  }
  return [...new Set(known.map(indexOfName))];
}

export interface ActorNames {
  readonly names: readonly { readonly type: string; readonly key: string }[];
  readonly cursor?: string | undefined;
}

/** Actors by type and key over all partitions. */
export async function listActorNames(
  tenant: string,
  partitions: readonly Partition[],
  request: ListActorsRequest,
): Promise<ActorNames> {
  const limit = pageLimit(request);
  const all = rowKeys.listedActors(tenant);
  const typed =
    request.type === undefined ? all : `${all}${checkName(request.type, "actor type")}/`;
  const prefix = typed + (request.type === undefined ? "" : (request.keyPrefix ?? ""));
  const after =
    request.cursor === undefined ? {} : { after: all + checkActorCursor(request.cursor) };
  await Promise.all(partitions.map((partition) => partition.durable()));
  const pages = await Promise.all(
    partitions.map((partition) => partition.scan(prefix, { limit, ...after })),
  );
  const found = pages.flatMap((page) => page.entries.map(([key]) => key.slice(all.length))).sort();
  const names = found.slice(0, limit).map((name) => {
    const slash = name.indexOf("/");
    return { type: name.slice(0, slash), key: name.slice(slash + 1) };
  });
  const isMore = found.length > limit || pages.some((page) => !page.isDone);
  return isMore ? { names, cursor: found[Math.min(limit, found.length) - 1] } : { names };
}

/** 1 to 1000; default 100. */
export function pageLimit({ limit }: { readonly limit?: number | undefined }): number {
  return Math.min(Math.max(1, limit ?? limitDefault), limitMax);
}

/** Its place in a list, newest first. */
export function positionOfRun({ id, createdAtMs }: RunSummary): string {
  return `${hex(timeMax - createdAtMs, 12)}/${id}`;
}

/**
 * One page of several, each in order and complete up to its cursor. What lies behind the
 * first cursor has to wait for the next page.
 */
export function mergePages<T>(
  pages: readonly { readonly items: readonly T[]; readonly cursor?: string | undefined }[],
  { limit, positionOf }: { readonly limit: number; readonly positionOf: (item: T) => string },
): { readonly items: readonly T[]; readonly cursor: string | undefined } {
  const [only] = pages;
  if (only !== undefined && pages.length === 1) return { cursor: undefined, ...only };
  const end = pages
    .map(({ cursor }) => cursor)
    .filter((cursor) => cursor !== undefined)
    .sort()[0];
  const found = pages
    .flatMap(({ items }) => items.map((item) => ({ item, position: positionOf(item) })))
    .filter(({ position }) => end === undefined || position <= end)
    .sort((left, right) => (left.position < right.position ? -1 : 1));
  const shown = found.slice(0, limit);
  const cursor = found.length > limit ? shown.at(-1)?.position : end;
  return { items: shown.map(({ item }) => item), cursor };
}

function checkActorCursor(cursor: string): string {
  if (/^[A-Za-z0-9_$.-]{1,128}\/[A-Za-z0-9._:~@+=,-]{1,200}$/.test(cursor)) return cursor;
  throw new SporeError("invalid-request", "the cursor is not one that a list gave");
}

async function takeNewest(sources: readonly Source[]): Promise<Listed | undefined> {
  // Only where something is missing: most rows of a list that is filtered are passed over.
  const empty = sources.filter((source) => source.isEmpty);
  if (empty.length > 0) await Promise.all(empty.map((source) => source.fill()));
  let first: Source | undefined;
  let best: string | undefined;
  for (const source of sources) {
    const position = source.peek();
    if (position === undefined || (best !== undefined && position >= best)) continue;
    first = source;
    best = position;
  }
  return first?.take();
}

class Source {
  readonly #partition: Partition;
  readonly #prefix: string;
  readonly #status: Status;
  #pageSize: number;
  #after: string;
  /** Not decoded before they are taken: of what all sources have at hand, most is not shown. */
  #page: readonly (readonly [string, Uint8Array])[] = [];
  #at = 0;
  #isDone = false;
  /** The first position that isn't its own to give. */
  readonly #end: string | undefined;

  constructor(
    partition: Partition,
    from: {
      prefix: string;
      status: Status;
      after: string;
      limit: number;
      end?: string | undefined;
    },
  ) {
    this.#partition = partition;
    this.#prefix = from.prefix;
    this.#status = from.status;
    this.#after = from.prefix + from.after;
    this.#pageSize = from.limit;
    this.#end = from.end;
  }

  /** Has nothing at hand, and may have more. */
  get isEmpty(): boolean {
    return this.#at >= this.#page.length && !this.#isDone;
  }

  async fill(): Promise<void> {
    const { entries, isDone } = await this.#partition.scan(this.#prefix, {
      after: this.#after,
      limit: this.#pageSize,
    });
    const end = this.#end === undefined ? undefined : this.#prefix + this.#end;
    this.#page = end === undefined ? entries : entries.filter(([key]) => key < end);
    this.#isDone = isDone || this.#page.length < entries.length;
    this.#at = 0;
    // Whoever comes back passes over most of them.
    this.#pageSize = Math.min(this.#pageSize * 2, limitMax);
    this.#after = entries.at(-1)?.[0] ?? this.#after;
  }

  /** The position of the next one. */
  peek(): string | undefined {
    return this.#page[this.#at]?.[0].slice(this.#prefix.length);
  }

  take(): Listed | undefined {
    const row = this.#page[this.#at++];
    return row && this.#listed(...row);
  }

  #listed(key: string, value: Uint8Array): Listed {
    const position = key.slice(this.#prefix.length);
    const row = decodeRow<ListedRow>(key, value);
    return {
      position,
      summary: {
        id: position.slice(13),
        name: row.name,
        component: row.component ?? "",
        status: this.#status,
        createdAtMs: timeMax - Number.parseInt(position.slice(0, 12), 16),
        ...(row.closedAtMs === undefined ? {} : { closedAtMs: row.closedAtMs }),
        tags: row.tags ?? {},
      },
    };
  }
}

/** Right before the newest run that was created earlier; "" is before all. */
function newestPosition(createdBeforeMs: number | undefined): string {
  if (createdBeforeMs === undefined) return "";
  // After all positions of that very time: "0" comes after "/".
  return `${hex(timeMax - createdBeforeMs, 12)}0`;
}

function isTooOld({ createdAtMs }: RunSummary, { createdAfterMs }: ListRequest): boolean {
  return createdAfterMs !== undefined && createdAtMs < createdAfterMs;
}

function matches(run: RunSummary, request: ListRequest): boolean {
  if (request.names !== undefined && !request.names.includes(run.name)) return false;
  if (request.idPrefix !== undefined && !run.id.startsWith(request.idPrefix)) return false;
  const { component } = request;
  if (component !== undefined && !isOfComponent(run.component, component)) return false;
  return request.tag === undefined || run.tags[request.tag.key] === request.tag.value;
}

/** Either may be only how the id begins. */
function isOfComponent(listed: string, asked: string): boolean {
  return listed !== "" && (listed.startsWith(asked) || asked.startsWith(listed));
}

/** Statuses of runs that need their component. */
const openStatuses: readonly Status[] = ["PENDING", "RUNNING", "PAUSED", "RESUMABLE"];
/** Rows that one count looks at, in each partition. */
const countedMax = 100_000;

/** How many open runs and actors each component has. */
export async function countComponents(
  tenant: string,
  partitions: readonly Partition[],
): Promise<ComponentUse> {
  await Promise.all(partitions.map((partition) => partition.durable()));
  const counts = new Map<string, { runs: Partial<Record<Status, number>>; actors: number }>();
  let isPartial = false;
  const count = async (
    partition: Partition,
    prefix: string,
    add: (use: { runs: Partial<Record<Status, number>>; actors: number }) => void,
  ): Promise<void> => {
    let after: string | undefined;
    for (let rows = 0; rows < countedMax; rows += limitMax) {
      const options = after === undefined ? { limit: limitMax } : { limit: limitMax, after };
      const page = await partition.scan(prefix, options);
      for (const [key, value] of page.entries) {
        after = key;
        const { component = "" } = decodeRow<ListedRow>(key, value);
        const use = counts.get(component) ?? { runs: {}, actors: 0 };
        counts.set(component, use);
        add(use);
      }
      if (page.isDone) return;
    }
    isPartial = true;
  };
  for (const partition of partitions) {
    for (const status of openStatuses) {
      await count(partition, rowKeys.listedIn(tenant, "r", status), ({ runs }) => {
        runs[status] = (runs[status] ?? 0) + 1;
      });
    }
    await count(partition, rowKeys.listedActors(tenant), (use) => {
      use.actors += 1;
    });
  }
  const components = [...counts].map(([component, use]) => ({ component, ...use }));
  components.sort((one, other) => (one.component < other.component ? -1 : 1));
  return { components, isPartial };
}

function checkCursor(cursor: string): string {
  if (/^[0-9a-f]{12}\/[A-Za-z0-9._:~@+=,-]{1,200}$/.test(cursor)) return cursor;
  throw new SporeError("invalid-request", "the cursor is not one that a list gave");
}
