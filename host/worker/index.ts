/**
 * The Worker: a front that passes each request to the Durable Object of a partition, and
 * the objects' class. The front keeps nothing; whichever object it asks can answer.
 */
import type { BundledEngine } from "./engine.ts";
import { type PartitionClass, partitionObject } from "./partition-object.ts";
import type { Env, HandlerContext, PartitionStub } from "./platform.ts";

export interface EdgeWorker {
  /** The Worker's default export. */
  readonly handler: {
    fetch(request: Request, env: Env, context: HandlerContext): Promise<Response>;
    scheduled(event: unknown, env: Env): Promise<void>;
  };
  /** To be exported as SporePartition. */
  readonly SporePartition: PartitionClass;
}

export function defineWorker(bundled: BundledEngine): EdgeWorker {
  return {
    handler: {
      async fetch(request, env) {
        return stubOf(env, 0).fetch(request);
      },
      /** Brings back what lost its alarm, and what another kind of host left behind. */
      async scheduled(_event, env) {
        await stubOf(env, 0).wake(0);
      },
    },
    SporePartition: partitionObject(bundled),
  };
}

function stubOf(env: Env, index: number): PartitionStub {
  return env.PARTITIONS.get(env.PARTITIONS.idFromName(`partition-${index}`));
}
