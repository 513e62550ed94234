/**
 * Goes over the listed runs of a tenant, newest first, each once. A run lies in the index below its
 * status, and the parts of the index are read at different moments: one whose status changes
 * meanwhile could be met twice, or in neither place. So a walk hears of every batch that is
 * committed while it goes on, and what has changed is shown as it is when the walk passes it.
 */
import type { Batch } from "./batch.ts";
import { decodeRow, type ListedRow, rowKeys, timeMax } from "./format.ts";
import { Heap } from "./heap.ts";
import type { RunSummary, Status } from "./index.ts";
import type { Partition } from "./partition.ts";

/** Rows that one read takes at most. */
const pageRowsMax = 1000;

/** A part of an index, all of whose runs have one status. */
export interface Part {
  readonly prefix: string;
  readonly status: Status;
  /** Where it begins; the first position that isn't its own to give. */
  readonly from?: string | undefined;
  readonly end?: string | undefined;
}

export interface Listed {
  /** `<inverted time>/<id>`: the order, and the cursor. */
  readonly position: string;
  readonly summary: RunSummary;
}

export interface WalkOptions {
  readonly tenant: string;
  readonly statuses: readonly Status[];
  /** Begins behind this position. */
  readonly after: string;
  /** Rows of the first reads. */
  readonly limit: number;
}

/** A row of the tenant's, wherever it was when it was read. */
interface Found {
  readonly status: Status;
  readonly key: string;
  readonly value: Uint8Array;
}

export class Walk {
  readonly #options: WalkOptions;
  readonly #sources: Source[] = [];
  readonly #changed: Changed;
  readonly #stops: (() => void)[] = [];
  #last: string;

  constructor(options: WalkOptions) {
    this.#options = options;
    this.#last = options.after;
    this.#changed = new Changed(rowKeys.listedRuns(options.tenant));
  }

  /** `partsOf` is asked when nothing can be missed any more. Nobody forgets to `stop`. */
  async add(
    partitions: readonly Partition[],
    partsOf: (partition: Partition) => readonly Part[] | Promise<readonly Part[]>,
  ): Promise<void> {
    for (const partition of partitions) {
      this.#stops.push(partition.watchRows((rows) => this.#changed.note(rows, this.#last)));
    }
    const added = await Promise.all(
      partitions.map(async (partition) =>
        (await partsOf(partition)).map((part) => new Source(partition, part, this.#options)),
      ),
    );
    this.#sources.push(...added.flat());
  }

  stop(): void {
    for (const stop of this.#stops) stop();
  }

  /** Rows of other statuses than those that are wanted are passed over. */
  async next(): Promise<Listed | undefined> {
    for (;;) {
      // Only where something is missing: most rows of a list that is filtered are passed over.
      const empty = this.#sources.filter((source) => source.isEmpty);
      if (empty.length > 0) {
        await Promise.all(empty.map((source) => source.fill()));
        continue; // a page may have nothing that is its source's own to give
      }
      const position = this.#first();
      if (position === undefined) return undefined;
      const found = this.#take(position);
      this.#last = position;
      if (found !== undefined && this.#options.statuses.includes(found.status)) {
        return { position, summary: summaryOf(position, found) };
      }
    }
  }

  #first(): string | undefined {
    let first = this.#changed.first(this.#last);
    for (const source of this.#sources) {
      const position = source.peek();
      if (position !== undefined && (first === undefined || position < first)) first = position;
    }
    return first;
  }

  #take(position: string): Found | undefined {
    let found: Found | undefined;
    for (const source of this.#sources) {
      if (source.peek() === position) found = source.take();
    }
    return this.#changed.has(position) ? this.#changed.take(position) : found;
  }
}

/** What has become of runs since the walk began, as far as it hasn't passed them. */
class Changed {
  readonly #prefix: string;
  /** Undefined: it is gone. */
  readonly #rows = new Map<string, Found | undefined>();
  readonly #order = new Heap<string>((left, right) => left < right);

  constructor(prefix: string) {
    this.#prefix = prefix;
  }

  note(rows: Batch, passed: string): void {
    for (const [key, value] of rows) {
      if (!key.startsWith(this.#prefix)) continue;
      const slash = key.indexOf("/", this.#prefix.length);
      const status = key.slice(this.#prefix.length, slash) as Status; // as listedKeyOf writes it
      const position = key.slice(slash + 1);
      if (position <= passed) continue;
      // In a batch it may come to its new place before it leaves the one before.
      const known = this.#rows.get(position);
      if (value === undefined && known !== undefined && known.status !== status) continue;
      if (!this.#rows.has(position)) this.#order.push(position);
      this.#rows.set(position, value && { status, key, value });
    }
  }

  /** The first one behind that position. */
  first(passed: string): string | undefined {
    for (let first = this.#order.peek(); first !== undefined; first = this.#order.peek()) {
      if (first > passed) return first;
      this.#order.pop();
    }
    return undefined;
  }

  has(position: string): boolean {
    return this.#rows.has(position);
  }

  take(position: string): Found | undefined {
    const found = this.#rows.get(position);
    this.#rows.delete(position);
    return found;
  }
}

class Source {
  readonly #partition: Partition;
  readonly #part: Part;
  #pageSize: number;
  #after: string;
  /** Not decoded before they are taken: of what all sources have at hand, most is not shown. */
  #page: readonly (readonly [string, Uint8Array])[] = [];
  #at = 0;
  #isDone = false;

  constructor(partition: Partition, part: Part, { after, limit }: WalkOptions) {
    this.#partition = partition;
    this.#part = part;
    const { prefix, from = "" } = part;
    this.#after = prefix + (from > after ? from : after);
    this.#pageSize = limit;
  }

  /** Has nothing at hand, and may have more. */
  get isEmpty(): boolean {
    return this.#at >= this.#page.length && !this.#isDone;
  }

  async fill(): Promise<void> {
    const { prefix, end } = this.#part;
    const { entries, isDone } = await this.#partition.scan(prefix, {
      after: this.#after,
      limit: this.#pageSize,
    });
    this.#page = end === undefined ? entries : entries.filter(([key]) => key < prefix + end);
    this.#isDone = isDone || this.#page.length < entries.length;
    this.#at = 0;
    // Whoever comes back passes over most of them.
    this.#pageSize = Math.min(this.#pageSize * 2, pageRowsMax);
    this.#after = entries.at(-1)?.[0] ?? this.#after;
  }

  /** The position of the next one. */
  peek(): string | undefined {
    return this.#page[this.#at]?.[0].slice(this.#part.prefix.length);
  }

  take(): Found | undefined {
    const row = this.#page[this.#at++];
    return row && { status: this.#part.status, key: row[0], value: row[1] };
  }
}

function summaryOf(position: string, { status, key, value }: Found): RunSummary {
  const row = decodeRow<ListedRow>(key, value);
  return {
    id: position.slice(13),
    name: row.name,
    component: row.component ?? "",
    status,
    createdAtMs: timeMax - Number.parseInt(position.slice(0, 12), 16),
    ...(row.closedAtMs === undefined ? {} : { closedAtMs: row.closedAtMs }),
    tags: row.tags ?? {},
  };
}
