/** How many calls of an actor's methods a second? */
import {
  type Bench,
  bare,
  callCounter,
  type Figure,
  type Question,
  rateAndCost,
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
    const many = await rateAndCost((index) => callCounter(engine, `many-${index % keys}`, "add"), {
      inFlight,
      warmMs,
    });
    const one = await rateAndCost(() => callCounter(engine, "one", "add"), { inFlight });
    const counted = await callCounter(engine, "one", "value");
    if (typeof counted !== "number" || counted < one.perSecond) throw new Error("calls were lost");
    const read = await rateAndCost(
      (index) => callCounter(engine, `many-${index % keys}`, "value"),
      {
        inFlight,
      },
    );
    await engine.stop();
    const alone = await bare(bench, turnInput("add", { n: 1 }), { inFlight });
    const control = { name: "sandbox alone", value: alone.rate, unit: "calls/s" };
    const guest = { name: "sandbox alone", value: alone.cpuUs, unit: "us" };
    const figures: Figure[] = [];
    for (const [name, measured, atLeast] of [
      [`over ${keys} keys`, many, 4000],
      ["on one key", one, 2000],
      ["read-only", read, undefined],
    ] as const) {
      const { perSecond, cpuUs } = measured;
      const target = atLeast === undefined ? undefined : { atLeast };
      figures.push(
        { name, value: perSecond, unit: "calls/s", target, control },
        { name: `${name}, processor time`, value: cpuUs, unit: "us/call", control: guest },
      );
    }
    return figures;
  },
};
