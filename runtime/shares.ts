/**
 * Which host should serve which partition: rendezvous hashing, with shares that differ by one
 * at most. Hosts that see the same members come to the same answer.
 */
import { partitionOf } from "./ids.ts";

/** The host for each partition; none without hosts. */
export function sharesOf(hostIds: readonly string[], partitions: number): readonly string[] {
  const ids = hostIds.toSorted();
  if (ids.length === 0) return [];
  const least = Math.floor(partitions / ids.length);
  let larger = partitions % ids.length;
  const loads = new Map(ids.map((id) => [id, 0]));
  return Array.from({ length: partitions }, (_, partition) => {
    const open = ids.filter((id) => {
      const load = loads.get(id) ?? 0;
      return load < least || (load === least && larger > 0);
    });
    const [best = ""] = open.toSorted(
      (left, right) => weight(right, partition) - weight(left, partition),
    );
    const load = loads.get(best) ?? 0;
    if (load === least) larger -= 1;
    loads.set(best, load + 1);
    return best;
  });
}

function weight(hostId: string, partition: number): number {
  return partitionOf(`${partition}/${hostId}/${partition}`, 2 ** 32);
}
