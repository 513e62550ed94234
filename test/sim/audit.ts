/**
 * The audit at the end: a fresh owner recovers from the bucket alone, twice, and finds
 * exactly the rows that the log entries since the beginning add up to; so does one that recovers
 * from a copy of it.
 */
import { copied, damagesOf, type Objects, plainStore, recover, verify } from "./verify.ts";
import type { World } from "./world.ts";

export async function audit(world: World): Promise<void> {
  for (const host of world.liveHosts) host.crash();
  const copy = await verified(world);
  for (const partition of world.laws.partitions) {
    const { rows } = world.laws.truth(partition);
    for (const objects of [world.bucket.objects, world.bucket.objects, copy]) {
      const place = { folder: world.laws.layout.folder, partition };
      compare(world, partition, await recover(world, objects, place), rows);
    }
    const open = openRows(world, partition);
    world.laws.check(open.length === 0, "audit: nothing is left to do", `${partition}: ${open}`);
  }
}

/** Entities that have something to do, and messages that aren't delivered. */
export function openRows(world: World, partition: number): readonly string[] {
  const { rows } = world.laws.truth(partition);
  return [...rows.keys()].filter((key) => key.startsWith("a/") || key.startsWith("o/"));
}

/** Nothing is damaged, and what is copied is all of it. */
async function verified(world: World): Promise<Objects> {
  const source = plainStore(world.bucket.objects);
  const report = await verify(world, source);
  world.laws.check(report.isSound, "audit: the bucket is sound", damagesOf(report));
  return (await copied(world, source)) ?? new Map();
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
