/** How many calls of an actor's methods a second? */
import {
  type Bench,
  bare,
  callCounter,
  type Figure,
  type Question,
  rate,
  turnInput,
} from "./kit.ts";

const keys = 1000;

export const actors: Question = {
  name: "actors",
  asks: "How many actor calls a second, over many keys, on one key and read-only?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const engine = await bench.open();
    const inFlight = 128;
    const warmMs = 2000; // each actor is made in this time
    const many = await rate((index) => callCounter(engine, `many-${index % keys}`, "add"), {
      inFlight,
      warmMs,
    });
    const one = await rate(() => callCounter(engine, "one", "add"), { inFlight });
    const counted = await callCounter(engine, "one", "value");
    if (typeof counted !== "number" || counted < one) throw new Error("calls were lost");
    const read = await rate((index) => callCounter(engine, `many-${index % keys}`, "value"), {
      inFlight,
    });
    await engine.stop();
    const alone = await bare(bench, turnInput("add", { n: 1 }), { inFlight });
    const control = { name: "sandbox alone", value: alone.rate, unit: "calls/s" };
    const unit = "calls/s";
    return [
      { name: `over ${keys} keys`, value: many, unit, target: { atLeast: 4000 }, control },
      { name: "on one key", value: one, unit, target: { atLeast: 2000 }, control },
      { name: "read-only", value: read, unit, control },
    ];
  },
};
