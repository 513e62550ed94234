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
import { type Part, Walk } from "./walk.ts";

const limitDefault = 100;
const limitMax = 1000;
/** Rows looked at for one answer when a filter drops most of them. */
const rowsMax = 20_000;
/** Names whose rows are read each by themselves; with more of them all runs are. */
const indexesMax = 20;

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
  const walk = new Walk({ tenant, statuses: request.statuses ?? statuses, after: cursor, limit });
  try {
    await walk.add(partitions, (partition) => partsOf(partition, { tenant, request, cursor }));
    const runs: RunSummary[] = [];
    let last = cursor;
    for (let rows = 0; rows < rowsMax; rows++) {
      const next = await walk.next();
      if (next === undefined || isTooOld(next.summary, request)) return { runs };
      last = next.position;
      if (matches(next.summary, request)) runs.push(next.summary);
      if (runs.length >= limit) break;
    }
    return { runs, cursor: last };
  } finally {
    walk.stop();
  }
}

async function partsOf(
  partition: Partition,
  asked: { tenant: string; request: ListRequest; cursor: string },
): Promise<readonly Part[]> {
  const { tenant, request, cursor } = asked;
  const indexes = indexesOf(request);
  const wanted = request.statuses ?? statuses;
  const plain = plainParts(tenant, wanted);
  if (indexes === undefined) return plain;
  const fromMs = await partition.indexedFromMs();
  const end = fromMs <= 0 ? undefined : hex(timeMax - fromMs, 12);
  const indexed = indexes.flatMap((index) =>
    wanted.map((status) => ({ prefix: rowKeys.indexed(tenant, index, `${status}/`), status, end })),
  );
  if (end === undefined) return indexed;
  return cursor > end ? plain : [...indexed, ...plain.map((part) => ({ ...part, from: end }))];
}

function plainParts(tenant: string, wanted: readonly Status[]): readonly Part[] {
  return wanted.map((status) => ({ prefix: rowKeys.listedIn(tenant, "r", status), status }));
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
/** Runs, and actors, that one count looks at in each partition. */
const countedMax = 100_000;

/** How many open runs and actors each component has. */
export async function countComponents(
  tenant: string,
  partitions: readonly Partition[],
): Promise<ComponentUse> {
  await Promise.all(partitions.map((partition) => partition.durable()));
  const counts = new Map<string, { runs: Partial<Record<Status, number>>; actors: number }>();
  const useOf = (component: string): { runs: Partial<Record<Status, number>>; actors: number } => {
    const use = counts.get(component) ?? { runs: {}, actors: 0 };
    counts.set(component, use);
    return use;
  };
  let isPartial = false;
  for (const partition of partitions) {
    const hasAllRuns = await countRuns(tenant, partition, ({ component, status }) => {
      const { runs } = useOf(component);
      runs[status] = (runs[status] ?? 0) + 1;
    });
    const hasAllActors = await countActors(tenant, partition, (component) => {
      useOf(component).actors += 1;
    });
    if (!hasAllRuns || !hasAllActors) isPartial = true;
  }
  const components = [...counts].map(([component, use]) => ({ component, ...use }));
  components.sort((one, other) => (one.component < other.component ? -1 : 1));
  return { components, isPartial };
}

/** False if there are too many. */
async function countRuns(
  tenant: string,
  partition: Partition,
  count: (run: RunSummary) => void,
): Promise<boolean> {
  const walk = new Walk({ tenant, statuses: openStatuses, after: "", limit: limitMax });
  try {
    await walk.add([partition], () => plainParts(tenant, openStatuses));
    for (let rows = 0; rows < countedMax; rows += 1) {
      const next = await walk.next();
      if (next === undefined) return true;
      count(next.summary);
    }
    return false;
  } finally {
    walk.stop();
  }
}

async function countActors(
  tenant: string,
  partition: Partition,
  count: (component: string) => void,
): Promise<boolean> {
  let after: string | undefined;
  for (let rows = 0; rows < countedMax; rows += limitMax) {
    const options = after === undefined ? { limit: limitMax } : { limit: limitMax, after };
    const page = await partition.scan(rowKeys.listedActors(tenant), options);
    for (const [key, value] of page.entries) {
      after = key;
      count(decodeRow<ListedRow>(key, value).component ?? "");
    }
    if (page.isDone) return true;
  }
  return false;
}

function checkCursor(cursor: string): string {
  if (/^[0-9a-f]{12}\/[A-Za-z0-9._:~@+=,-]{1,200}$/.test(cursor)) return cursor;
  throw new SporeError("invalid-request", "the cursor is not one that a list gave");
}
