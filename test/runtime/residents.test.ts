/** Who is in memory, by the invariants of runtime/residents.ts. */
import { beforeEach, expect, test } from "vitest";
import { type ActorHead, encodeRow, rowKeys } from "../../runtime/format.ts";
import { actorKey, type EntityKey } from "../../runtime/ids.ts";
import { Residents } from "../../runtime/residents.ts";
import { Changes, type Entity, newEntity } from "../../runtime/state.ts";

const key = actorKey("t", "Counter", "a");
const max = 2;

let residents: Residents;
let readings: EntityKey[];
let released: EntityKey[];
let durableNumber: number;

beforeEach(() => {
  readings = [];
  released = [];
  durableNumber = 1;
  residents = new Residents({
    max,
    nowMs: () => 0,
    isOwned: () => true,
    read: async (asked) => {
      readings.push(asked);
      return asked === key ? [[rowKeys.head(key), encodeRow(headOf())]] : undefined;
    },
    durableNumber: () => durableNumber,
    release: (entity) => void released.push(entity.key),
  });
});

/** What of a head is looked at here. */
function headOf(): ActorHead {
  return { kind: "actor", component: "c", version: 0, applied: 0, life: 0 } as ActorHead;
}

function added(name: string): Entity {
  const entity = newEntity(actorKey("t", "Counter", name), headOf(), 0);
  residents.add(entity);
  return entity;
}

test("all who ask for a key at a time get the entity of one reading", async () => {
  await Promise.all([residents.load(key), residents.load(key)]);
  const first = residents.get(key);
  expect(first?.key).toBe(key);
  expect(readings).toEqual([key]);
});

test("who isn't there is nobody after it was asked for", async () => {
  const other = actorKey("t", "Counter", "other");
  await residents.load(other);
  expect(residents.get(other)).toBeUndefined();
});

test("an entity that was made while it was read is kept", async () => {
  const loading = residents.load(key);
  const made = newEntity(key, headOf(), 0);
  residents.add(made);
  await loading;
  expect(residents.get(key)).toBe(made);
});

test("who asks for a key that is being cleared waits until nothing is left of it", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const clearing = residents.hold(key, promise);
  let isLoaded = false;
  const loading = residents.load(key).then(() => {
    isLoaded = true;
  });
  await new Promise((done) => setImmediate(done));
  expect([isLoaded, readings.length]).toEqual([false, 0]);
  resolve();
  await Promise.all([clearing, loading]);
  await residents.load(key);
  expect(readings).toEqual([key]);
});

const needs: Readonly<Record<string, (entity: Entity) => void>> = {
  "is at work": (entity) => {
    entity.isActive = true;
  },
  "has changes that aren't durable": (entity) => {
    entity.dirtyIn = durableNumber + 1;
  },
  "has an effect under way": (entity) => void entity.inFlight.set(1, () => undefined),
  "has a read under way": (entity) => void entity.reading.add(1),
  "is waited for": (entity) => void entity.whenQuiet.push(() => undefined),
  "is watched": (entity) => void residents.watch(entity.key, () => undefined),
};

test.each(Object.keys(needs))("of too many, one that %s stays", (why) => {
  const needed = added("needed");
  needs[why]?.(needed);
  const others = ["b", "c"].map(added);
  residents.trim();
  expect(residents.get(needed.key)).toBe(needed);
  expect(released).toEqual([others[0]?.key]);
  expect(residents.size).toBe(max);
});

test("when the last one who watched goes, it is let go of, if there are too many", () => {
  const watched = added("watched");
  const stop = residents.watch(watched.key, () => undefined);
  for (const name of ["b", "c"]) added(name).isActive = true;
  residents.trim();
  expect(residents.size).toBe(3);
  stop();
  expect(released).toEqual([watched.key]);
});

test("a closed run is let go of by the commit that made it durable, an actor isn't", () => {
  const actor = added("actor");
  const run = newEntity(key, { ...headOf(), kind: "run", status: "FAILED" } as never, 0);
  residents.add(run);
  const batch = new Changes(1);
  batch.touch(actor);
  batch.touch(run);
  residents.committed(batch);
  expect(released).toEqual([run.key]);
});

test("in the end all are let go of, their effects are given up, and who watches looks again", () => {
  const seen: string[] = [];
  const entity = added("a");
  entity.inFlight.set(1, () => void seen.push("aborted"));
  residents.watch(entity.key, () => void seen.push("woken"));
  residents.close();
  expect(seen).toEqual(["aborted", "woken"]);
  expect([released, residents.size]).toEqual([[entity.key], 0]);
});
