/**
 * Node's fetch for tenants. A name is resolved once for each connection, all of its addresses are
 * checked, and the connection goes to one of those: a name that leads elsewhere a moment later
 * leads nowhere. (Workers' platform reaches public addresses only.)
 */
import { lookup } from "node:dns";
import type { LookupFunction } from "node:net";
import { Agent, fetch, Pool, type RequestInit } from "undici";
import { SporeError } from "../runtime/errors.ts";
import type { Grants } from "./grants.ts";
import type { SendRequest } from "./outbound.ts";

export interface CheckedFetch {
  readonly send: SendRequest;
  close(): Promise<void>;
}

/** `resolve`: default the system's. */
export function createCheckedFetch(grants: Grants, resolve: typeof lookup = lookup): CheckedFetch {
  // One each: a connection that one tenant may have is not for others. As many as have grants.
  const agents = new Map<string, Agent>();
  const agentOf = (tenant: string): Agent => {
    const agent = agents.get(tenant) ?? newAgent(tenant);
    agents.set(tenant, agent);
    return agent;
  };
  const newAgent = (tenant: string): Agent =>
    new Agent({
      factory: (origin, options) =>
        new Pool(origin, { ...options, connect: { lookup: lookupFor(tenant, new URL(origin)) } }),
    });
  const lookupFor =
    (tenant: string, origin: URL): LookupFunction =>
    (hostname, options, callback) => {
      resolve(hostname, { ...options, all: true }, (error, found) => {
        if (error !== null) return callback(error, []);
        try {
          grants.checkAddresses(
            tenant,
            origin,
            found.map(({ address }) => address),
          );
        } catch (refusal) {
          return callback(refusal as Error, []);
        }
        // Whoever connects asks for one or for all.
        const [first] = found;
        if (options.all === true) callback(null, found);
        else callback(null, first?.address ?? "", first?.family);
      });
    };
  return {
    async send(url, init, tenant) {
      try {
        const dispatcher = agentOf(tenant);
        const response = await fetch(url, { ...(init as RequestInit), dispatcher });
        return response as unknown as Response; // the same standard, other declarations
      } catch (error) {
        const cause = error instanceof Error ? error.cause : undefined;
        throw cause instanceof SporeError ? cause : error;
      }
    },
    async close() {
      await Promise.all([...agents.values()].map((agent) => agent.destroy()));
    },
  };
}
