/** Placeholder until the engine lands in the next commits. */
import type { Host } from "./index.ts";
import type { Ports } from "./ports.ts";

export interface HostOptions {
  readonly hostId: string;
  /** Object key prefix of the namespace; default "". */
  readonly prefix?: string;
  /** Partitions of a namespace made by this host; an existing namespace keeps its own. Default 4. */
  readonly partitions?: number;
  /** Where other hosts reach this one. */
  readonly address?: string;
}

export async function createHost(ports: Ports, options: HostOptions): Promise<Host> {
  throw new Error(`not yet: ${options.hostId} ${String(ports)}`);
}
