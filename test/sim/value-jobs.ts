/** Stories of values that clients store: kept as long as was said, read in parts, and let go. */
import { encode, Ref } from "../../guest/cbor.ts";
import type { StoredObject } from "../../runtime/index.ts";
import { type Client, forgiving, type Job, same } from "./clients.ts";
import { epochMs, type World } from "./world.ts";

const law = "J-upload: it is kept as long as was said";

/** Of every kind; few, so that values come again that were collected meanwhile. */
function anyValue(client: Client): string | Uint8Array | Float64Array {
  const { random } = client;
  const n = random.below(4);
  switch (random.below(3)) {
    case 0:
      return `treasure ${n} `.repeat(20);
    case 1:
      return Uint8Array.from({ length: n * 100 }, (_, i) => (i * n) & 0xff);
    default:
      return Float64Array.from({ length: n * 10 }, (_, i) => i / (n + 1));
  }
}

export const uploading: Job = async (client, id) => {
  const { random, world } = client;
  let isOver = false;
  const collecting = async (): Promise<void> => {
    for (let left = 20; left > 0 && !isOver; left -= 1) {
      await world.sleep(random.latency(random.pick([5, 50, 500, 5000])));
      if (!isOver) await client.collect();
    }
  };
  const collected = collecting();
  collected.catch(() => undefined); // it is looked at when the story is over
  for (let round = 1, rounds = random.between(1, 3); round <= rounds; round += 1) {
    const value = anyValue(client);
    const stored = await client.ask(`put ${id} ${round}`, (tenant) =>
      tenant.putObject(encode(value)),
    );
    for (let reads = random.between(1, 5); reads > 0; reads -= 1) {
      await read(client, stored, value);
      await world.sleep(random.latency(random.pick([1, 100, 3000])));
    }
    if (typeof value === "string") await lend(client, `${id}-${round}`, { stored, value });
    await letGo(client, stored);
  }
  isOver = true;
  await collected;
};

/** Whether nobody's clock says that its time is over. */
function isHeld(world: World, { expiresAtMs }: StoredObject): boolean {
  return epochMs + 1.1 * (world.nowMs + 60_000) + world.aheadMs + 3000 < expiresAtMs;
}

async function read(
  client: Client,
  stored: StoredObject,
  value: string | Uint8Array | Float64Array,
): Promise<void> {
  const { random, world } = client;
  const { hash } = stored;
  if (!isHeld(world, stored)) return;
  const found = await client.ask(`read ${hash.slice(0, 8)}`, (tenant) => tenant.getObject(hash));
  const isSame = Buffer.compare(found, encode(value)) === 0;
  world.laws.check(isSame, law, `${hash} is another value`);
  const about = await client.ask(`bytes of ${hash.slice(0, 8)}`, (tenant) =>
    tenant.objectBytes(hash),
  );
  if (typeof value === "string") {
    same(client, law, about, undefined, hash);
    return;
  }
  same(client, law, about?.length, value.byteLength, hash);
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  const [offset, length] = [random.below(400), random.below(400)];
  const part = await client.ask(`a part of ${hash.slice(0, 8)}`, (tenant) =>
    tenant.getObjectPart(hash, { offset, length }),
  );
  const wanted = bytes.subarray(offset, offset + length);
  world.laws.check(Buffer.compare(part, wanted) === 0, law, `${hash} from ${offset} on`);
}

/** A run that was given it has it, however long it goes on. */
async function lend(
  client: Client,
  id: string,
  of: { readonly stored: StoredObject; readonly value: string },
): Promise<void> {
  const { random, world } = client;
  const { stored, value } = of;
  if (!isHeld(world, stored)) return;
  const ref = new Ref(stored.hash, stored.size);
  await client.start(id, "borrower", [ref, random.pick([0, 300, 10_000, 200_000])]);
  same(client, law, await client.value(id), value, id);
  await client.ask(`delete ${id}`, (tenant) => forgiving(tenant.deleteRun(id), "run-not-found"));
}

/** Where uploads are held for minutes (small.ts): when that is over, nothing speaks of it. */
async function letGo(client: Client, { hash, expiresAtMs }: StoredObject): Promise<void> {
  const { world, tenant } = client;
  const isLong = expiresAtMs - epochMs - world.nowMs > 3_600_000;
  if (isLong || world.counts.has("clock jumps")) return;
  const waitMs = (expiresAtMs + 3000 - epochMs) / 0.9 - world.nowMs;
  await world.sleep(Math.max(0, waitMs) + 120_000);
  if (world.counts.has("clock jumps")) return; // one that was set back is early
  const name = `${tenant}/u/${hash.slice(0, 64)}.${expiresAtMs.toString(16)}`;
  const left = world.laws.partitions.flatMap((index) =>
    [...world.laws.truth(index).rows.keys()].filter((row) => row.includes(name)),
  );
  same(client, "J-upload: it is let go when its time is over", left, [], hash);
}
