/**
 * A guest for sandbox tests: plain JavaScript without the SDK, so that each test can reach
 * what the SDK guards against. The first byte of an activation says what to do, the rest
 * is its argument; what it drains is a few bytes, or text in UTF-8 codes.
 */
import { encode } from "../../guest/cbor.ts";

export const acts = {
  /** Adds its argument to a running sum; drains [sum mod 256, activations]. */
  add: 0,
  spin: 1,
  /** Keeps allocating until it can't, letting the error out. */
  bloat: 2,
  recurse: 3,
  /** Drains as many MiB as its argument says. */
  flood: 4,
  hang: 5,
  fail: 6,
  /** Fills 48 MiB over and over: one long bulk instruction after the other. */
  fill: 7,
  /** Waits for the next `resume` in the middle of an async function. */
  wait: 8,
  resume: 9,
  /** Drains a Drained whose state is "done". */
  finish: 10,
  clock: 11,
  /** Allocates as many KiB as its argument says, and keeps them. */
  hold: 12,
  /** Recurses until an error is thrown, and drains how deep it came. */
  depth: 13,
  random: 14,
  /** Fails an allocation that is too large, catches it, and drains 1. */
  survive: 15,
  log: 16,
  /** Keeps as many MiB as its argument says, and drains a Drained whose state is "yielded". */
  yield: 17,
} as const;

/** Bytes of one activation for the test guest. */
export function act(name: keyof typeof acts, ...argument: number[]): Uint8Array {
  return Uint8Array.of(acts[name], ...argument);
}

const manifest = encode({ protocol: 1, definitions: [{ kind: "workflow", name: "test" }] });
const yielded = encode({ state: "yielded", commands: [], records: [] });
const finished = encode({ state: "done", commands: [], records: [] });

/** The guest's source. `extra` comes first: another value makes another component. */
export function guestSource(extra = ""): string {
  return `${extra}
let out = new Uint8Array(0), sum = 0, count = 0, resume, held = [];
const descend = (n) => n < 0 ? 0 : 1 + descend(n + 1);
let depth = 0;
const dive = () => { depth++; dive(); };
const story = async () => {
  const words = ["first"];
  words.push(await new Promise((resolve) => { resume = resolve; }));
  words.push(await new Promise((resolve) => { resume = resolve; }));
  out = Uint8Array.from([...words.join(" ")].map((c) => c.charCodeAt(0)));
};
const acts = [
  (n) => { sum += n; out = Uint8Array.of(sum & 255, count); },
  () => { for (;;); },
  () => { for (;;) held.push(new Uint8Array(1 << 20).fill(1)); },
  () => descend(0),
  (n) => { out = new Uint8Array(n << 20); },
  () => new Promise(() => {}),
  () => { throw new Error("boom"); },
  () => { const a = new Uint8Array(48 << 20); for (let i = 0; ; i++) a.fill(i); },
  () => { story(); out = Uint8Array.of(1); },
  (n) => { out = Uint8Array.of(2); resume(String(n)); },
  () => { out = Uint8Array.from(${JSON.stringify([...finished])}); },
  () => { out = Uint8Array.of(Date.now() & 255); },
  (n) => { for (; n > 0; n--) held.push(new Uint8Array(1024).fill(n)); out = Uint8Array.of(held.length & 255); },
  () => { depth = 0; try { dive(); } catch { out = Uint8Array.of(depth & 255, depth >> 8); } },
  () => { out = Uint8Array.of(Math.floor(Math.random() * 256)); },
  () => { try { new Uint8Array(1e9); } catch { out = Uint8Array.of(1); } },
  () => { console.log("hello"); },
  (n) => { held.push(new Uint8Array(n << 20)); out = Uint8Array.from(${JSON.stringify([...yielded])}); },
];
export async function deliver(input) { count++; await null; await acts[input[0]](input[1] ?? 0); }
export function drain() { return out; }
export function describe() { return Uint8Array.from(${JSON.stringify([...manifest])}); }
`;
}
