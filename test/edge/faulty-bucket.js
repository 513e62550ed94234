/**
 * A bucket that fails on demand, as a Worker before the real one: calls are refused, carried
 * out with the answer lost, or held back, by a seeded generator. `disturb` says how often.
 */
import { WorkerEntrypoint } from "cloudflare:workers";

/** Of one in a thousand: failing before, failing after, and how long a call is held back. */
let plan = { before: 0, after: 0, delayMs: 0 };
let state = 1;
let failures = 0;
let calls = { head: 0, get: 0, put: 0, delete: 0, list: 0 };
/** How often a call began while no other was under way: about what a host waits for in a row. */
let rounds = 0;
let underWay = 0;
/** Invocations of objects, and the most that one of them asked for until the next began. */
let invocations = 0;
let most = { calls: 0, bytes: 0 };
let now = { calls: 0, bytes: 0 };
/** From the PUT of a key that begins so, it is no longer looked for the most. */
let until;

function chance() {
  state = (state * 1664525 + 1013904223) >>> 0;
  return state / 2 ** 32;
}

async function faulty(kind, work) {
  calls[kind] += 1;
  moved(1, 0);
  if (underWay === 0) rounds += 1;
  underWay += 1;
  try {
    return await disturbed(work);
  } finally {
    underWay -= 1;
  }
}

function moved(calls, bytes) {
  if (until === "") return;
  now = { calls: now.calls + calls, bytes: now.bytes + bytes };
  most = { calls: Math.max(most.calls, now.calls), bytes: Math.max(most.bytes, now.bytes) };
}

async function disturbed(work) {
  if (plan.delayMs > 0) await scheduler.wait(chance() * plan.delayMs);
  if (chance() * 1000 < plan.before) {
    failures += 1;
    throw new Error("we encountered an internal error (10001)");
  }
  const result = await work();
  if (chance() * 1000 < plan.after) {
    failures += 1;
    throw new Error("network connection lost");
  }
  return result;
}

export class FaultyBucket extends WorkerEntrypoint {
  disturb(asked) {
    plan = { ...plan, ...asked };
    if (asked.seed !== undefined) state = asked.seed;
    const seen = { failures, calls, rounds, invocations, most };
    invocations = 0;
    now = { calls: 0, bytes: 0 };
    most = now;
    until = asked.until;
    failures = 0;
    rounds = 0;
    calls = { head: 0, get: 0, put: 0, delete: 0, list: 0 };
    return seen;
  }
  /** Makes small objects that nobody asked for. */
  async strew(keys) {
    await Promise.all(keys.map((key) => this.env.REAL.put(key, "litter")));
  }
  invoked() {
    invocations += 1;
    now = { calls: 0, bytes: 0 };
  }
  head(key) {
    return faulty("head", async () => plain(await this.env.REAL.head(key)));
  }
  get(key, options) {
    return faulty("get", async () => {
      const object = await this.env.REAL.get(key, options);
      if (object === null) return null;
      const bytes = await object.arrayBuffer();
      moved(0, bytes.byteLength);
      return { ...plain(object), arrayBuffer: async () => bytes };
    });
  }
  put(key, value, options) {
    moved(0, value.byteLength);
    if (until !== undefined && key.startsWith(until)) until = "";
    return faulty("put", async () => plain(await this.env.REAL.put(key, value, options)));
  }
  delete(key) {
    return faulty("delete", () => this.env.REAL.delete(key));
  }
  list(options) {
    return faulty("list", async () => {
      const { objects, truncated } = await this.env.REAL.list(options);
      return { objects: objects.map(plain), truncated };
    });
  }
}

function plain(object) {
  return object === null ? null : { key: object.key, size: object.size };
}

export default {};
