/** The client's part for flow control: `client.queues`. */

/** What a queue lets through; what is absent is not limited. */
export interface QueueLimits {
  /** Runs that go on at a time. */
  readonly concurrency?: number | undefined;
  /** Runs with the same key that go on at a time. */
  readonly keyConcurrency?: number | undefined;
  /** At most `limit` begin in each `periodMs`, evenly; after a pause up to `burst` (default 1) at once. */
  readonly rate?:
    | { readonly limit: number; readonly periodMs: number; readonly burst?: number | undefined }
    | undefined;
  /** Runs that may wait; who starts one more gets `queue-full`. */
  readonly maxPending?: number | undefined;
}

/** How a run passes its queue; what is absent is as its definition says. */
export interface QueueOptions {
  readonly name?: string | undefined;
  /** Runs with the same key share `keyConcurrency`. */
  readonly key?: string | undefined;
  /** -1000 to 1000, higher first; default 0. */
  readonly priority?: number | undefined;
}

export interface QueueInfo extends QueueLimits {
  readonly name: string;
  /** The limits are those of the deployed code; else somebody has set them. */
  readonly declared: boolean;
  readonly createdAt: string;
  readonly updatedAt: string;
  readonly running: number;
  readonly waiting: number;
  /** Runs let through so far. */
  readonly admitted: number;
  /** The first ten who wait, in order. */
  readonly next: readonly {
    readonly id: string;
    readonly priority: number;
    readonly key?: string;
    readonly since: string;
  }[];
}

export interface QueuePage {
  readonly queues: readonly QueueInfo[];
  /** Present when there may be more. */
  readonly cursor?: string;
}

export interface Queues {
  /**
   * Sets what a queue lets through, from now on: `await client.queues.put("mail", { concurrency: 5 })`.
   * The queue `all` is passed by every run that is started from then on and is no child.
   */
  put(name: string, limits: QueueLimits): Promise<QueueInfo & { readonly created: boolean }>;
  get(name: string): Promise<QueueInfo>;
  /** By name. */
  list(): AsyncIterable<QueueInfo>;
  /** Takes back what was put: what the code declares holds again, or else the queue is gone. */
  delete(name: string): Promise<void>;
}

type Ask = <Result>(
  method: string,
  path: string,
  asked?: { readonly body?: object },
) => Promise<Result>;

export function queuesOver(ask: Ask): Queues {
  const pathOf = (name: string): string => `/v1/queues/${encodeURIComponent(name)}`;
  return {
    put: (name, { concurrency, keyConcurrency, rate, maxPending }) =>
      ask("PUT", pathOf(name), {
        body: {
          ...(concurrency === undefined ? {} : { concurrency }),
          ...(keyConcurrency === undefined ? {} : { keyConcurrency }),
          ...(rate === undefined ? {} : { rate }),
          ...(maxPending === undefined ? {} : { maxPending }),
        },
      }),
    get: (name) => ask("GET", pathOf(name)),
    async *list() {
      let query = "?limit=1000";
      for (;;) {
        const page = await ask<QueuePage>("GET", `/v1/queues${query}`);
        yield* page.queues;
        if (page.cursor === undefined) return;
        query = `?limit=1000&cursor=${encodeURIComponent(page.cursor)}`;
      }
    },
    delete: (name) => ask("DELETE", pathOf(name)),
  };
}
