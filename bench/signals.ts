/**
 * What does a signal cost as they become more: to one run, to one of many, and to one run that is
 * sent more than it takes? Such a one refuses some, and they are sent again: what a refusal costs
 * is measured by itself, and taken off.
 */
import { encode } from "../guest/cbor.ts";
import { SporeError } from "../runtime/errors.ts";
import { type Bench, type Engine, type Figure, type Question, valueIn } from "./kit.ts";

const sizes = [1000, 10_000, 100_000] as const;
const inFlight = 128;
const runs = 128;
/** Sent to one run before the next are: each thousand is as the first. */
const atATime = 1000;
/** Signals that a run may have and not have taken. */
const untakenMax = 10_000;
const retryMs = 250;

export const signals: Question = {
  name: "signals",
  asks: "What does a signal to one run, or to one of many, cost as they become 100,000?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const figures: Figure[] = [];
    const refusalUs = await costOfRefusal(bench);
    figures.push({ name: "a signal that is refused", value: refusalUs, unit: "us" });
    for (const { name, ...how } of ways) {
      let base: number | undefined;
      for (const size of bench.sizes(sizes)) {
        const engine = await bench.open();
        await send(engine, { count: 500, ...how, prefix: "warm" });
        const sent = await send(engine, { count: size, ...how, prefix: "r" });
        await engine.stop();
        const takenUs = (sent.cpuUs - sent.refused * refusalUs) / sent.taken;
        base ??= takenUs;
        const first = bench.sizes(sizes)[0];
        const of = `${name}, ${size} of them`;
        figures.push(
          {
            name: `a signal to ${of}`,
            value: takenUs,
            unit: "us",
            target: size === first ? undefined : { below: base * 1.2 },
            control: { name: `${first} of them`, value: base, unit: "us" },
          },
          { name: `signals a second to ${of}`, value: sent.perSecond, unit: "1/s" },
        );
        if (sent.refused === 0) continue;
        const requests = sent.taken + sent.refused;
        figures.push(
          { name: `a request to ${of}`, value: sent.cpuUs / requests, unit: "us" },
          {
            name: `a signal with its refusals to ${of}`,
            value: sent.cpuUs / sent.taken,
            unit: "us",
          },
          { name: `refusals for each signal to ${of}`, value: sent.refused / sent.taken, unit: "" },
        );
      }
    }
    return figures;
  },
};

interface Way {
  readonly receivers: number;
  /** Default: all of them. */
  readonly atATime?: number;
}

const ways: readonly (Way & { readonly name: string })[] = [
  { name: "one run that keeps up", receivers: 1, atATime },
  { name: "one run, at once", receivers: 1 },
  { name: `one of ${runs} runs`, receivers: runs },
];

/** Of a signal to a run that has as many as it may have. */
async function costOfRefusal(bench: Bench): Promise<number> {
  const engine = await bench.open();
  const id = "full";
  const value = encode(1);
  await engine.tenant.startRun({ id, workflow: "dozer", args: encode([86_400_000]) });
  await atOnce(untakenMax, () => engine.tenant.signalRun(id, "item", value));
  let refused = 0;
  const count = async (): Promise<void> => {
    if (!(await isAccepted(engine, id, value))) refused += 1;
  };
  await atOnce(500, count);
  refused = 0;
  const cpu = process.cpuUsage();
  await atOnce(5000, count);
  const { user, system } = process.cpuUsage(cpu);
  await engine.stop();
  if (refused !== 5000) throw new Error(`only ${refused} were refused`);
  return (user + system) / refused;
}

async function isAccepted(engine: Engine, id: string, value: Uint8Array): Promise<boolean> {
  try {
    await engine.tenant.signalRun(id, "item", value);
    return true;
  } catch (error) {
    if (error instanceof SporeError && error.code === "too-many-messages") return false;
    throw error;
  }
}

async function atOnce(count: number, work: () => Promise<unknown>): Promise<void> {
  let begun = 0;
  const worker = async (): Promise<void> => {
    while (begun++ < count) await work();
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
}

interface Sent {
  readonly taken: number;
  readonly refused: number;
  /** For all of them together. */
  readonly cpuUs: number;
  readonly perSecond: number;
}

/** All are durable when they are answered, and all are taken when the runs have ended. */
async function send(
  engine: Engine,
  how: Way & { readonly count: number; readonly prefix: string },
): Promise<Sent> {
  const { count, receivers, prefix, atATime = Number.POSITIVE_INFINITY } = how;
  const each = Math.ceil(count / receivers);
  const ids = Array.from({ length: receivers }, (_, index) => `${prefix}${index}`);
  for (const id of ids) {
    await engine.tenant.startRun({ id, workflow: "taker", args: encode([each]) });
  }
  const cpu = process.cpuUsage();
  const startMs = performance.now();
  const taken = each * receivers;
  let sent = 0;
  let refused = 0;
  const value = encode(1);
  const sendOne = async (): Promise<void> => {
    const id = ids[sent++ % receivers] ?? "";
    while (!(await isAccepted(engine, id, value))) {
      refused += 1;
      await new Promise((resolve) => setTimeout(resolve, retryMs));
    }
  };
  while (sent < taken) {
    await atOnce(Math.min(atATime, taken - sent), sendOne);
    if (sent < taken) await untilTaken(engine, ids[0] ?? "", sent);
  }
  for (const id of ids) {
    const output = await engine.tenant.output(id, { waitMs: 120_000 });
    if (output.kind !== "ready") throw new Error(`${id} did not end`);
  }
  const { user, system } = process.cpuUsage(cpu);
  const perSecond = (taken * 1000) / (performance.now() - startMs);
  return { taken, refused, cpuUs: user + system, perSecond };
}

async function untilTaken(engine: Engine, id: string, count: number): Promise<void> {
  while (Number(valueIn(await engine.tenant.queryRun(id, "taken", encode([])), id)) < count) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
