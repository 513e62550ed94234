/** What does Spore cost at an object store, by request and by byte? */
import { encode } from "../guest/cbor.ts";
import { serverDefaults, startServer } from "../host/node.ts";
import { connectStore } from "../host/store/open.ts";
import { type Bench, type Engine, type Figure, type Question, rate, runWorkflow } from "./kit.ts";
import { costOf, openBucket, prices, untilQuiet } from "./s3.ts";
import type { S3Proxy, Traffic } from "./s3-proxy.ts";

const sleepersCount = 2_000;
const idleMs = 30_000;
const month = 30 * 24 * 3_600_000;

export const economy: Question = {
  name: "economy",
  asks: "What does a workflow, a step, a sleeping run and an idle host cost at list prices?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const bucket = await openBucket("economy");
    if (bucket === undefined) return [];
    try {
      const engine = await bench.open({ storage: bucket.storage });
      const figures = [
        ...(await atLoad(bucket, engine)),
        ...(await inLongRuns(bucket, engine)),
        ...(await asleep(bucket, engine)),
      ];
      await engine.stop();
      return [...figures, ...(await idle(bucket))];
    } finally {
      await bucket.close();
    }
  },
};

async function atLoad(bucket: S3Proxy, engine: Engine): Promise<readonly Figure[]> {
  const figures: Figure[] = [];
  for (const inFlight of [1, 128]) {
    const { traffic, count } = await measured(bucket, inFlight, () =>
      runWorkflow(engine, "chain", [10]),
    );
    const name = `ten-step workflow, ${inFlight} in flight`;
    figures.push(...perEach(name, traffic, count, inFlight === 1 ? {} : { putsBelow: 1 }));
  }
  return figures;
}

async function inLongRuns(bucket: S3Proxy, engine: Engine): Promise<readonly Figure[]> {
  const steps = 1_000;
  const { traffic, count } = await measured(bucket, 8, () => runWorkflow(engine, "chain", [steps]));
  const { traffic: effects, count: runs } = await measured(bucket, 128, () =>
    runWorkflow(engine, "effects", [10, "http://nowhere.test/"]),
  );
  return [
    ...perEach("pure step, 8 runs of 1,000 at a time", traffic, count * steps),
    ...perEach("step with an effect, 128 runs of 10 at a time", effects, runs * 10),
  ];
}

/** Starts many that sleep for a month: what each has cost to start, and what it keeps. */
async function asleep(bucket: S3Proxy, engine: Engine): Promise<readonly Figure[]> {
  const before = await storedBytes(bucket.storage);
  bucket.resetTraffic();
  let next = 0;
  const starter = async (): Promise<void> => {
    while (next < sleepersCount) {
      const request = { workflow: "dozer", args: encode([month]), id: `dozer-${next++}` };
      await engine.tenant.startRun(request);
    }
  };
  await Promise.all(Array.from({ length: 128 }, starter));
  const traffic = { ...bucket.traffic };
  await untilQuiet(bucket);
  const bytes = ((await storedBytes(bucket.storage)) - before) / sleepersCount;
  const kept = Object.entries(prices).map(([store, { gigabyteMonth }]) => ({
    name: `a million sleeping runs for a month, ${store}`,
    value: (bytes * 1e6 * gigabyteMonth) / 1e9,
    unit: "$",
  }));
  return [
    ...perEach("start of a run that sleeps", traffic, sleepersCount),
    { name: "sleeping run: stored, with its log", value: bytes, unit: "bytes" },
    ...kept,
  ];
}

/** A server process's whole machinery, in this one, with those sleepers and nothing to do. */
async function idle(bucket: S3Proxy): Promise<readonly Figure[]> {
  const server = await startServer({
    storage: bucket.storage,
    port: 0,
    hostname: serverDefaults.hostname,
    log: () => undefined,
  });
  // What taking over has left to do is no idling.
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  bucket.resetTraffic();
  await new Promise((resolve) => setTimeout(resolve, idleMs));
  const hours = idleMs / 3_600_000;
  const figures = perEach("idle host, an hour", { ...bucket.traffic }, hours, { many: 1 });
  await server.stop();
  return figures;
}

async function measured(
  bucket: S3Proxy,
  inFlight: number,
  call: () => Promise<unknown>,
): Promise<{ readonly traffic: Traffic; readonly count: number }> {
  bucket.resetTraffic();
  let count = 0;
  const counted = (): Promise<unknown> => {
    count += 1;
    return call();
  };
  await rate(counted, { inFlight, ms: 4_000, warmMs: 0 });
  return { traffic: { ...bucket.traffic }, count };
}

function perEach(
  name: string,
  traffic: Traffic,
  count: number,
  { putsBelow, many = 1e6 }: { readonly putsBelow?: number; readonly many?: number } = {},
): Figure[] {
  const each = (total: number): number => total / count;
  const { puts, gets, lists, deletes, bytesIn } = traffic;
  return [
    {
      name: `${name}: PUT`,
      value: each(puts),
      unit: "requests",
      target: putsBelow === undefined ? undefined : { below: putsBelow },
    },
    { name: `${name}: GET`, value: each(gets), unit: "requests" },
    { name: `${name}: LIST`, value: each(lists), unit: "requests" },
    { name: `${name}: DELETE`, value: each(deletes), unit: "requests" },
    { name: `${name}: written`, value: each(bytesIn), unit: "bytes" },
    ...Object.entries(prices).map(([store, price]) => ({
      name: `${many === 1 ? "" : "a million of "}"${name}", ${store}`,
      value: each(costOf(traffic, price)) * many,
      unit: "$",
    })),
  ];
}

async function storedBytes(storage: string): Promise<number> {
  const store = await connectStore(storage);
  let bytes = 0;
  for (let after: string | undefined; ; ) {
    const page = await store.list("", after === undefined ? {} : { after });
    for (const { key, size } of page.keys) {
      bytes += size;
      after = key;
    }
    if (!page.isTruncated) break;
  }
  await store.close();
  return bytes;
}
