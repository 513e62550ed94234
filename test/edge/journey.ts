/** What travels from one kind of host to the other: one definition for each state at rest. */
import { actor, context, query, signal, sleep, start, step, workflow } from "sporeflow/guest";

const visit = step("visit", async (url: string): Promise<string> => {
  const response = await fetch(url, { method: "POST" });
  return response.text();
});

/** Long enough that its memory is worth an image. */
function work(): number {
  let sum = 0;
  for (let index = 0; index < 200_000; index++) sum = (sum * 31 + index) % 1_000_003;
  return sum;
}

/** Stops in the middle of an await, with live data, a closure and a random number behind it. */
export const journey = workflow("journey", async (url: string, stops: number) => {
  const sum = work();
  const luck = Math.random();
  const seen = new Map<string, unknown>([["began", await visit(`${url}/began`)]]);
  query("seen", () => [...seen.keys()]);
  query("luck", () => luck);
  for (let stop = 1; stop <= stops; stop++) {
    seen.set(`stop ${stop}`, await signal("stop"));
  }
  seen.set("ended", await visit(`${url}/ended`));
  return { sum, luck, seen };
});

export const leg = workflow("leg", async (name: string) => `${name} ${await signal("go")}`);

/** Has two children that wait; one of them ends on another host than the other. */
export const tree = workflow("tree", async () => {
  const of = (name: string) => `${name}_of_${context().run.runId}`;
  const [left, right] = [
    await start(leg.with("left"), { id: of("left") }),
    await start(leg.with("right"), { id: of("right") }),
  ];
  return Promise.all([left.result(), right.result()]);
});

export const sleeper = workflow("sleeper", async (url: string, ms: number) => {
  await sleep(ms);
  return visit(`${url}/woke`);
});

export const Purse = actor(
  "Purse",
  class {
    coins = 0;
    log: string[] = [];
    add(coins: number, where: string): number {
      this.coins += coins;
      this.log.push(where);
      return this.coins;
    }
    notes(): readonly string[] {
      return this.log;
    }
  },
  { readonly: ["notes"] },
);

/** Rests, so that it is known everywhere, and then computes for ever. */
export const spinner = workflow("spinner", async (ms: number) => {
  await sleep(ms);
  for (;;);
});

export const twice = workflow("twice", (n: number) => 2 * n);

/** Keeps so many MiB in its memory, and waits. */
export const hoarder = workflow("hoarder", async (mebibytes: number) => {
  const hoard = Array.from({ length: mebibytes }, (_, n) => new Uint8Array(2 ** 20).fill(n + 1));
  await signal("go");
  return hoard.reduce((sum, bytes) => sum + (bytes.at(-1) ?? 0), 0);
});
