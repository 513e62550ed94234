/**
 * The audit at the end: a fresh owner recovers from the bucket alone, twice, and finds
 * exactly the rows that the log entries since the beginning add up to.
 */
import { createHash } from "node:crypto";
import { decodeBatch } from "../../runtime/batch.ts";
import { Log } from "../../runtime/log.ts";
import type { Store } from "../../runtime/ports.ts";
import { Table } from "../../runtime/table.ts";
import type { World } from "./world.ts";

export async function audit(world: World): Promise<void> {
  for (const host of world.liveHosts) host.crash();
  for (const partition of world.laws.partitions) {
    const first = await recover(world, partition);
    const second = await recover(world, partition);
    const { rows } = world.laws.truth(partition);
    compare(world, partition, first, rows);
    compare(world, partition, second, rows);
    for (const left of ["a/", "o/"]) {
      const open = [...rows.keys()].filter((key) => key.startsWith(left));
      world.laws.check(open.length === 0, "audit: nothing is left to do", `${partition}: ${open}`);
    }
  }
}

async function recover(world: World, partition: number): Promise<Map<string, Uint8Array>> {
  const { bucket } = world;
  const random = world.random.fork();
  const store: Store = {
    get: async (key, range) => bucket.get(key, range),
    put: async (key, bytes, options) => {
      if (options?.ifAbsent === true && bucket.objects.has(key)) return "exists";
      bucket.objects.set(key, bytes.slice());
      return "created";
    },
    delete: async (key) => void bucket.objects.delete(key),
    list: async (prefix, options) => bucket.list(prefix, options?.after ?? "", 1000),
    close: async () => undefined,
  };
  const parts = {
    store,
    prefix: `${world.laws.layout.folder}/${partition}`,
    random: { bytes: (count: number) => random.bytes(count) },
    digest: {
      sha256: (bytes: Uint8Array) => new Uint8Array(createHash("sha256").update(bytes).digest()),
    },
    clock: { nowMs: () => 0, after: () => () => undefined },
    observer: { log: () => undefined, count: () => undefined, observe: () => undefined },
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

function compare(
  world: World,
  partition: number,
  found: ReadonlyMap<string, Uint8Array>,
  truth: ReadonlyMap<string, Uint8Array>,
): void {
  const law = "audit: a recovery finds what was committed";
  for (const [key, value] of truth) {
    const row = found.get(key);
    const isSame = row !== undefined && Buffer.compare(row, value) === 0;
    if (!isSame) world.laws.violate(law, `${partition}: ${key} ${row ? "differs" : "is missing"}`);
  }
  for (const key of found.keys()) {
    if (!truth.has(key)) world.laws.violate(law, `${partition}: ${key} came back`);
  }
}
