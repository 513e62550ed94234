/** `spore doctor`: does a storage do what the engine relies on? Leaves nothing behind. */
import { randomUUID } from "node:crypto";
import { SporeError } from "../runtime/errors.ts";
import { type FoundHost, surveyHosts } from "../runtime/index.ts";
import type { Store } from "../runtime/ports.ts";
import { clock, digest, random } from "./node.ts";
import { createPeers } from "./peers.ts";
import { connectStore } from "./store/open.ts";
import { S3Store } from "./store/s3.ts";
import { redactStorageUri } from "./store/uri.ts";

export interface Check {
  readonly check: string;
  readonly result: "ok" | "warning" | "failed";
  readonly details: string;
}

const racersCount = 20;
const latencySamples = 10;
const slowPutMs = 500;
/** More than one part of an upload. */
const largeBytes = 9 * 1024 * 1024;
/** Servers refuse signatures that are off by a quarter of an hour. */
const skewMsMax = 60_000;

export async function examine(storage: string): Promise<readonly Check[]> {
  const store = await connectStore(storage);
  const probe = new Probe(store, `probe/${randomUUID()}/`);
  const checks: Check[] = [{ check: "storage", result: "ok", details: redactStorageUri(storage) }];
  const check = async (name: string, work: () => Promise<Omit<Check, "check">>): Promise<void> => {
    checks.push(await attempt(name, work));
  };
  try {
    if (store instanceof S3Store) await check("bucket", () => bucketCheck(store));
    await check("permission to write", () => probe.write());
    await check("permission to read", () => probe.read());
    await check("permission to list", () => probe.list());
    await check("permission to delete", () => probe.delete());
    await check("conditional create", () => probe.conditionalCreate());
    await check("concurrent creators", () => probe.race());
    if (store instanceof S3Store) await check("large objects", () => probe.large());
    await check("latency of a create", () => probe.latency());
    await check("clock", () => clockCheck(store));
    await check("hosts", () => hostsCheck(store));
  } finally {
    await probe.clean();
    await store.close();
  }
  return checks;
}

async function attempt(check: string, work: () => Promise<Omit<Check, "check">>): Promise<Check> {
  try {
    return { check, ...(await work()) };
  } catch (error) {
    const hint = error instanceof SporeError && error.hint !== undefined ? ` (${error.hint})` : "";
    const message = error instanceof Error ? error.message : String(error);
    return { check, result: "failed", details: message + hint };
  }
}

/** Who serves the storage now; nobody has to. */
async function hostsCheck(store: Store): Promise<Omit<Check, "check">> {
  const peers = createPeers();
  const observer = { log() {}, count() {}, observe() {} };
  try {
    const asked = { clock, random, digest, store, peers, observer };
    const hosts = await surveyHosts(asked, { prefix: "", hostId: `doctor-${randomUUID()}` });
    if (hosts.length === 0) return { result: "ok", details: "none serves this storage now" };
    const silent = hosts.some(({ news }) => news === undefined);
    return { result: silent ? "warning" : "ok", details: hosts.map(hostLine).join("; ") };
  } finally {
    peers.close();
  }
}

function hostLine({ hostId, address, news }: FoundHost): string {
  if (news === undefined) return `${hostId} at ${address} does not answer`;
  const served = news.owned.map(([partition]) => partition).join(", ") || "none";
  return `${hostId} at ${address}${news.isDraining ? " (draining)" : ""}: partitions ${served}`;
}

async function bucketCheck(store: S3Store): Promise<Omit<Check, "check">> {
  const { name } = await store.examine();
  return { result: "ok", details: name === undefined ? "it answers" : `${name} answers` };
}

class Probe {
  readonly #store: Store;
  readonly #prefix: string;
  readonly #keys = new Set<string>();

  constructor(store: Store, prefix: string) {
    this.#store = store;
    this.#prefix = prefix;
  }

  async write(): Promise<Omit<Check, "check">> {
    await this.#store.put(this.#key("plain"), new Uint8Array([1, 2, 3, 4]));
    return ok("PUT");
  }

  async read(): Promise<Omit<Check, "check">> {
    const part = await this.#store.get(this.#key("plain"), { offset: 1, length: 2 });
    if (part?.join() !== "2,3") return failed(`a range read gave ${part?.join() ?? "nothing"}`);
    // S3 answers 403 instead of 404 to who may not list: nobody would know an empty log.
    const missing = await this.#store.get(this.#key("absent"));
    return missing === undefined ? ok("GET, also of a part") : failed("an absent object was read");
  }

  async list(): Promise<Omit<Check, "check">> {
    const { keys } = await this.#store.list(this.#prefix);
    if (keys.some(({ key }) => key === `${this.#prefix}plain`)) return ok("LIST");
    return { result: "warning", details: "LIST did not show an object that was just written" };
  }

  async delete(): Promise<Omit<Check, "check">> {
    const key = this.#key("plain");
    await this.#store.delete(key);
    const isThere = (await this.#store.get(key)) !== undefined;
    return isThere ? failed("a deleted object is still there") : ok("DELETE");
  }

  /** More than one part, under the condition that there is nothing yet. */
  async large(): Promise<Omit<Check, "check">> {
    const key = this.#key("large");
    const bytes = new Uint8Array(largeBytes).map((_, index) => index >> 10);
    const put = (): Promise<string> => this.#store.put(key, bytes, { ifAbsent: true });
    const first = await put();
    const second = await put();
    if (first !== "created" || second !== "exists") {
      return failed(`a multipart create-if-absent does not hold (${first}, ${second})`);
    }
    const found = await this.#store.get(key);
    const isSame = found !== undefined && Buffer.compare(found, bytes) === 0;
    return isSame ? ok("up and down in parts") : failed("other bytes came back");
  }

  async conditionalCreate(): Promise<Omit<Check, "check">> {
    const key = this.#key("conditional");
    const first = await this.#store.put(key, new Uint8Array([1]), { ifAbsent: true });
    const second = await this.#store.put(key, new Uint8Array([2]), { ifAbsent: true });
    const kept = (await this.#store.get(key))?.[0];
    if (first === "created" && second === "exists" && kept === 1) {
      return ok("an existing object is never overwritten");
    }
    return failed(
      `create-if-absent does not hold (${first}, ${second}, kept ${kept}): not usable with Spore`,
    );
  }

  async race(): Promise<Omit<Check, "check">> {
    const key = this.#key("race");
    const racers = Array.from({ length: racersCount }, (_, index) =>
      this.#store.put(key, new Uint8Array([index]), { ifAbsent: true }),
    );
    const results = await Promise.all(racers);
    const winners = results.filter((result) => result === "created").length;
    const winner = (await this.#store.get(key))?.[0] ?? -1;
    if (winners !== 1)
      return failed(`${winners} of ${racersCount} creators won: not usable with Spore`);
    if (results[winner] !== "created") return failed("a loser's bytes were kept");
    return ok(`exactly one of ${racersCount} won`);
  }

  async latency(): Promise<Omit<Check, "check">> {
    const took: number[] = [];
    for (let index = 0; index < latencySamples; index++) {
      const startedMs = performance.now();
      await this.#store.put(this.#key(`latency-${index}`), new Uint8Array(1000), {
        ifAbsent: true,
      });
      took.push(performance.now() - startedMs);
    }
    took.sort((left, right) => left - right);
    const median = took[latencySamples >> 1] ?? 0;
    const worst = took.at(-1) ?? 0;
    const details = `median ${median.toFixed(1)} ms, worst ${worst.toFixed(1)} ms`;
    return { result: median > slowPutMs ? "warning" : "ok", details };
  }

  async clean(): Promise<void> {
    // What can't be deleted was reported by the checks; nothing more can be done here.
    await Promise.allSettled([...this.#keys].map((key) => this.#store.delete(key)));
  }

  #key(name: string): string {
    const key = this.#prefix + name;
    this.#keys.add(key);
    return key;
  }
}

/** Safety never rests on clocks; people and signatures do. */
async function clockCheck(store: Store): Promise<Omit<Check, "check">> {
  const now = new Date();
  const isOdd = now.getUTCFullYear() < 2026 || now.getUTCFullYear() > 2100;
  const here = `${now.toISOString()} on this machine`;
  const skewMs = store instanceof S3Store ? (await store.examine()).skewMs : undefined;
  if (skewMs === undefined) return { result: isOdd ? "warning" : "ok", details: here };
  const seconds = Math.round(Math.abs(skewMs) / 1000);
  const details = `${here}, the store ${skewMs < 0 ? "behind" : "ahead"} by ${seconds} s`;
  return { result: isOdd || Math.abs(skewMs) > skewMsMax ? "warning" : "ok", details };
}

function ok(details: string): Omit<Check, "check"> {
  return { result: "ok", details };
}

function failed(details: string): Omit<Check, "check"> {
  return { result: "failed", details };
}
