/** `spore doctor`: does a storage do what the engine relies on? Leaves nothing behind. */
import { randomUUID } from "node:crypto";
import { SporeError } from "../runtime/errors.ts";
import type { Store } from "../runtime/ports.ts";
import { openStore, redactStorageUri } from "./store/uri.ts";

export interface Check {
  readonly check: string;
  readonly result: "ok" | "warning" | "failed";
  readonly details: string;
}

const racersCount = 20;
const latencySamples = 10;
const slowPutMs = 500;

export async function examine(storage: string): Promise<readonly Check[]> {
  const store = await openStore(storage);
  const probe = new Probe(store, `doctor/${randomUUID()}/`);
  const checks: Check[] = [{ check: "storage", result: "ok", details: redactStorageUri(storage) }];
  try {
    checks.push(await probe.run("write, read, list, delete", () => probe.permissions()));
    checks.push(await probe.run("conditional create", () => probe.conditionalCreate()));
    checks.push(await probe.run("concurrent creators", () => probe.race()));
    checks.push(await probe.run("latency of a create", () => probe.latency()));
    checks.push(await probe.run("clock", async () => clockCheck()));
  } finally {
    await probe.clean();
    await store.close();
  }
  return checks;
}

class Probe {
  readonly #store: Store;
  readonly #prefix: string;
  readonly #keys = new Set<string>();

  constructor(store: Store, prefix: string) {
    this.#store = store;
    this.#prefix = prefix;
  }

  async run(check: string, work: () => Promise<Omit<Check, "check">>): Promise<Check> {
    try {
      return { check, ...(await work()) };
    } catch (error) {
      const hint =
        error instanceof SporeError && error.hint !== undefined ? ` (${error.hint})` : "";
      const message = error instanceof Error ? error.message : String(error);
      return { check, result: "failed", details: message + hint };
    }
  }

  async permissions(): Promise<Omit<Check, "check">> {
    const key = this.#key("plain");
    const bytes = new Uint8Array([1, 2, 3, 4]);
    await this.#store.put(key, bytes);
    const part = await this.#store.get(key, { offset: 1, length: 2 });
    if (part?.join() !== "2,3") return failed(`a range read gave ${part?.join() ?? "nothing"}`);
    const { keys } = await this.#store.list(this.#prefix);
    await this.#store.delete(key);
    if ((await this.#store.get(key)) !== undefined)
      return failed("a deleted object is still there");
    if (!keys.some((entry) => entry.key === key)) {
      return { result: "warning", details: "LIST did not show an object that was just written" };
    }
    return { result: "ok", details: "all allowed" };
  }

  async conditionalCreate(): Promise<Omit<Check, "check">> {
    const key = this.#key("conditional");
    const first = await this.#store.put(key, new Uint8Array([1]), { ifAbsent: true });
    const second = await this.#store.put(key, new Uint8Array([2]), { ifAbsent: true });
    const kept = (await this.#store.get(key))?.[0];
    if (first === "created" && second === "exists" && kept === 1) {
      return { result: "ok", details: "an existing object is never overwritten" };
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
    return { result: "ok", details: `exactly one of ${racersCount} won` };
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

/** Only grossly wrong clocks matter, and only for people: safety never rests on them. */
function clockCheck(): Omit<Check, "check"> {
  const now = new Date();
  const isOdd = now.getUTCFullYear() < 2026 || now.getUTCFullYear() > 2100;
  return { result: isOdd ? "warning" : "ok", details: `${now.toISOString()} on this machine` };
}

function failed(details: string): Omit<Check, "check"> {
  return { result: "failed", details };
}
