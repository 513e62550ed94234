/** Does group commit hold throughput as the store gets slower, and what does a take-over cost? */
import { encode } from "../guest/cbor.ts";
import { connectStore } from "../host/store/open.ts";
import {
  type Bench,
  type Engine,
  type Figure,
  median,
  type Question,
  quantile,
  rate,
  runWorkflow,
  timesOf,
} from "./kit.ts";
import { openBucket, untilQuiet } from "./s3.ts";
import type { S3Proxy } from "./s3-proxy.ts";

const delaysMs = [0, 10, 50] as const;
const inFlight = 1024;
/** A start and its result are two commits at most when nobody else works. */
const roundTripsMax = 3;
/** A million takes a quarter of an hour to prepare: SPORE_BENCH_SLEEPERS=10,100000,1000000. */
const sleepersCounts = (process.env.SPORE_BENCH_SLEEPERS ?? "10,100000").split(",").map(Number);
const month = 30 * 24 * 3_600_000;

export const storageLatency: Question = {
  name: "storage-latency",
  asks: "What do 0, 10 and 50 ms of store latency do to throughput, latency and recovery?",
  async run(bench: Bench): Promise<readonly Figure[]> {
    const bucket = await openBucket("latency");
    if (bucket === undefined) return [];
    try {
      return [...(await latencies(bench, bucket)), ...(await recoveries(bench, bucket))];
    } finally {
      await bucket.close();
    }
  },
};

async function latencies(bench: Bench, bucket: S3Proxy): Promise<readonly Figure[]> {
  const figures: Figure[] = [];
  const engine = await bench.open({ storage: below(bucket, "load") });
  let perSecondAtNone: number | undefined;
  for (const delayMs of delaysMs) {
    bucket.setWeather({ delayMs });
    const floorMs = await roundTripMs(bucket);
    const times = await timesOf(() => runWorkflow(engine, "chain", [10]), { count: 30 });
    const perSecond = await rate(() => runWorkflow(engine, "chain", [10]), {
      inFlight,
      ms: 5_000,
    });
    const at = `+${delayMs} ms`;
    const p50 = quantile(times, 0.5);
    figures.push(
      {
        name: `${at}: ten-step workflows, ${inFlight} in flight`,
        value: perSecond,
        unit: "/s",
        control: { name: "+0 ms", value: perSecondAtNone ?? perSecond, unit: "/s" },
      },
      {
        name: `${at}: start to result, one at a time, p50`,
        value: p50,
        unit: "ms",
        control: { name: "a PUT", value: floorMs, unit: "ms" },
      },
      {
        name: `${at}: the same in store round trips`,
        value: p50 / floorMs,
        unit: "round trips",
        target: delayMs === 0 ? undefined : { below: roundTripsMax },
      },
    );
    perSecondAtNone ??= perSecond;
  }
  bucket.setWeather({});
  await engine.stop();
  return figures;
}

/** One conditional PUT through the same proxy. */
async function roundTripMs(bucket: S3Proxy): Promise<number> {
  const store = await connectStore(below(bucket, "floor"));
  const bytes = new Uint8Array(4096).fill(7);
  const put = (index: number) =>
    store.put(`${Date.now()}-${index}`, bytes, { ifAbsent: true }).catch(() => undefined);
  const times = await timesOf(put, { count: 30, warm: 5 });
  await store.close();
  return median(times);
}

/** How long a host needs for one partition full of sleepers, until it answers for one. */
async function recoveries(bench: Bench, bucket: S3Proxy): Promise<readonly Figure[]> {
  const figures: Figure[] = [];
  for (const count of sleepersCounts) {
    const storage = below(bucket, `sleepers-${count}`);
    const before = await bench.open({ storage, partitions: 1 });
    await fill(before, count);
    await untilQuiet(bucket);
    await before.stop();
    bucket.resetTraffic();
    const startMs = performance.now();
    const after = await bench.open({ storage, partitions: 1, hostId: "bench-2", isDeployed: true });
    await after.tenant.getRun("dozer-0");
    const tookMs = performance.now() - startMs;
    const { puts, gets, lists, bytesOut } = bucket.traffic;
    const name = `recovery with ${count} sleeping runs`;
    figures.push(
      { name, value: tookMs, unit: "ms" },
      { name: `${name}: requests`, value: puts + gets + lists, unit: "requests" },
      { name: `${name}: read`, value: bytesOut, unit: "bytes" },
    );
    await after.stop();
  }
  return figures;
}

async function fill(engine: Engine, count: number): Promise<void> {
  let next = 0;
  const starter = async (): Promise<void> => {
    while (next < count) {
      const request = { workflow: "dozer", args: encode([month]), id: `dozer-${next++}` };
      await engine.tenant.startRun(request);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, starter));
}

/** A storage of its own in the bucket. */
function below(bucket: S3Proxy, name: string): string {
  const uri = new URL(bucket.storage);
  uri.pathname += `/${name}`;
  return uri.href;
}
