/** Where the questions about object storage are asked: a bucket behind a proxy of our own. */
import { type S3Proxy, startS3Proxy } from "./s3-proxy.ts";

/** Undefined, with its reason printed, where SPORE_TEST_S3 names no bucket. */
export async function openBucket(name: string): Promise<S3Proxy | undefined> {
  const uri = process.env.SPORE_TEST_S3;
  if (uri === undefined || uri === "") {
    process.stdout.write("skipped: SPORE_TEST_S3 names no bucket (.ci/with-s3 npm run bench)\n");
    return undefined;
  }
  const own = new URL(uri);
  own.pathname += `/bench-${name}-${Date.now()}`;
  return startS3Proxy(own.href);
}

const quietMs = 3_000;

/** All that was started sleeps: nothing is written any more. */
export async function untilQuiet(bucket: S3Proxy): Promise<void> {
  for (let puts = -1; puts !== bucket.traffic.puts; ) {
    puts = bucket.traffic.puts;
    await new Promise((resolve) => setTimeout(resolve, quietMs));
  }
}

/** Dollars in US regions, as the providers' public price lists had them in November 2026. */
export const prices = {
  "S3 Standard": { writeMillion: 5, readMillion: 0.4, gigabyteMonth: 0.023 },
  "R2 Standard": { writeMillion: 4.5, readMillion: 0.36, gigabyteMonth: 0.015 },
} as const;

export interface Requests {
  readonly puts: number;
  readonly gets: number;
  readonly lists: number;
}

/** Dollars for so many requests. PUT, POST and LIST are of one class; DELETE is free. */
export function costOf(
  { puts, gets, lists }: Requests,
  { writeMillion, readMillion }: (typeof prices)[keyof typeof prices],
): number {
  return ((puts + lists) * writeMillion + gets * readMillion) / 1e6;
}
