/**
 * What `spore verify` and `spore export` make of a simulated bucket: whatever became of its hosts, it
 * is sound, and a copy has exactly its rows.
 */
import { createHash } from "node:crypto";
import { decodeBatch } from "../../runtime/batch.ts";
import { check } from "../../runtime/check.ts";
import { type CopyPorts, copyNamespace } from "../../runtime/copy.ts";
import { SporeError } from "../../runtime/errors.ts";
import type { CheckReport } from "../../runtime/index.ts";
import { Log } from "../../runtime/log.ts";
import { findNamespace } from "../../runtime/namespace.ts";
import type { Store } from "../../runtime/ports.ts";
import { Table } from "../../runtime/table.ts";
import type { World } from "./world.ts";

export type Objects = Map<string, Uint8Array>;

const keysPerList = 1000;

/** Reads and writes objects as they are; `pause` is between a request and what it does. */
export function plainStore(objects: Objects, pause?: () => Promise<void>): Store {
  return {
    get: async (key, range) => {
      await pause?.();
      const bytes = objects.get(key);
      if (bytes === undefined || range === undefined) return bytes?.slice();
      return bytes.slice(range.offset, range.offset + range.length);
    },
    put: async (key, bytes, options) => {
      const mine = bytes.slice();
      await pause?.();
      if (options?.ifAbsent === true && objects.has(key)) return "exists";
      objects.set(key, mine);
      return "created";
    },
    delete: async (key) => {
      await pause?.();
      objects.delete(key);
    },
    list: async (prefix, { after = "", limit = keysPerList } = {}) => {
      await pause?.();
      const keys = [...objects.keys()].filter((key) => key.startsWith(prefix) && key > after);
      keys.sort();
      return {
        keys: keys.slice(0, limit).map((key) => ({ key, size: objects.get(key)?.length ?? 0 })),
        isTruncated: keys.length > limit,
      };
    },
    close: async () => undefined,
  };
}

/** An operator's tool beside the hosts: its clock is right, and its store doesn't fail. */
export function toolPorts(world: World): CopyPorts {
  const random = world.random.fork();
  return {
    random: { bytes: (count) => random.bytes(count) },
    digest: { sha256: (bytes) => new Uint8Array(createHash("sha256").update(bytes).digest()) },
    clock: {
      nowMs: () => Math.floor(world.nowMs),
      after: (delayMs, callback) => world.at(delayMs, callback),
    },
    observer: { log: () => undefined, count: () => undefined, observe: () => undefined },
  };
}

export async function verify(world: World, store: Store): Promise<CheckReport> {
  const ports = { ...toolPorts(world), store };
  const layouts = await findNamespace({ ...ports, prefix: "" });
  return check(ports, { prefix: "", layouts });
}

/** What is damaged, as a law's message says it. */
export function damagesOf({ damages }: Pick<CheckReport, "damages">): string {
  return damages.map(({ key, what }) => `${key} ${what}`).join("; ");
}

/** A copy; undefined if it has to be begun again, because too much happened under it. */
export async function copied(world: World, source: Store): Promise<Objects | undefined> {
  const target: Objects = new Map();
  try {
    await copyNamespace(toolPorts(world), { source, target: plainStore(target) });
    return target;
  } catch (error) {
    if (error instanceof SporeError && error.code === "host-busy") return undefined;
    throw error;
  }
}

/** What an owner of the partition finds that begins with the objects alone. */
export async function recover(
  world: World,
  objects: Objects,
  { folder, partition }: { readonly folder: string; readonly partition: number },
): Promise<Map<string, Uint8Array>> {
  const parts = {
    ...toolPorts(world),
    store: plainStore(objects),
    prefix: `${folder}/${partition}`,
  };
  const claim = await new Log({ ...parts, partition }).claim(new Uint8Array(0));
  if (claim.kind !== "claimed") throw new Error(`the audit lost partition ${partition}`);
  const table = Table.open({ ...parts, epoch: claim.epoch }, claim.checkpoint);
  for (const { payload } of claim.entries) table.apply(decodeBatch(payload));
  const rows = new Map<string, Uint8Array>();
  for (let after: string | undefined; ; ) {
    const page = await table.scan({ ...(after === undefined ? {} : { after }), limit: 1000 });
    for (const [key, value] of page.entries) rows.set(key, value);
    after = page.entries.at(-1)?.[0];
    if (page.isDone) return rows;
  }
}

/** All rows of a bucket that nobody serves. */
export async function rowsIn(world: World, objects: Objects): Promise<Map<string, Uint8Array>> {
  const store = plainStore(objects);
  const layouts = await findNamespace({ ...toolPorts(world), store, prefix: "" });
  const { folder, partitions } = await layouts.current();
  const rows = new Map<string, Uint8Array>();
  for (let partition = 0; partition < partitions; partition += 1) {
    for (const [key, value] of await recover(world, objects, { folder, partition })) {
      rows.set(key, value);
    }
  }
  return rows;
}
