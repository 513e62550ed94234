/** How long does an actor's call of another actor take, and how long until its sends arrive? */
import { actorKey, partitionOf } from "../runtime/ids.ts";
import {
  type Bench,
  callActor,
  callCounter,
  type Engine,
  type Figure,
  type Question,
  quantile,
  timesOf,
} from "./kit.ts";

/** Calls within one turn: what the turn itself costs is spread over them. */
const calls = 20;
const turns = 40;

export const roundTrips: Question = {
  name: "round-trips",
  asks: "How long does an actor's call of another one take, in its partition and across?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const engine = await bench.open();
    const places = placesOf(engine);
    const figures: Figure[] = [];
    await callCounter(engine, "alone", "add");
    const alone = await timesOf(() => callCounter(engine, "alone", "add"), {
      count: 200,
      warm: 30,
    });
    const control = { name: "a client's call", value: quantile(alone, 0.5), unit: "ms" };
    for (const [where, target] of places) {
      const caller = { type: "Caller", key: "caller", method: "ping" };
      const times = await timesOf(() => callActor(engine, caller, [target, calls]), {
        count: turns,
        warm: 5,
      });
      figures.push({
        name: `call and answer, ${where}`,
        value: quantile(times, 0.5) / calls,
        unit: "ms",
        control,
      });
      figures.push({
        name: `one-way call, ${where}`,
        value: await sendTime(engine, target),
        unit: "ms",
        control,
      });
    }
    await engine.stop();
    return figures;
  },
};

/** A counter in the caller's partition, and one in another. */
function placesOf(engine: Engine): readonly (readonly [where: string, key: string])[] {
  const { length: partitions } = engine.host.status().partitions;
  const partition = (type: string, key: string): number =>
    partitionOf(actorKey("default", type, key), partitions);
  const own = partition("Caller", "caller");
  const find = (isOwn: boolean): string => {
    for (let index = 0; ; index++) {
      const key = `target-${index}`;
      if ((partition("Counter", key) === own) === isOwn) return key;
    }
  };
  return [
    ["within a partition", find(true)],
    ["across partitions", find(false)],
  ];
}

/** From the call that sends many to the last of them counted, for each. */
async function sendTime(engine: Engine, key: string): Promise<number> {
  const many = 500;
  const before = Number(await callCounter(engine, key, "value"));
  const startMs = performance.now();
  await callActor(engine, { type: "Caller", key: "caller", method: "post" }, [key, many]);
  for (;;) {
    const value = Number(await callCounter(engine, key, "value"));
    if (value === before + many) return (performance.now() - startMs) / many;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
