/**
 * The patterns that other engines show in their documentation, each in a few lines: those of
 * Argo, Cadence, Metaflow, Google Workflows, Prefect and Airflow that Ray Workflows compared
 * itself with. Graphs where the shape is data, workflows where it is code.
 *
 *     $ npx spore run coinFlip
 *     $ npx spore run trip Ada
 *     $ npx spore run etl
 */
import {
  context,
  type Graph,
  get,
  map,
  NonRetryableError,
  put,
  run,
  type StepNode,
  step,
  workflow,
} from "sporeflow/guest";

// Several steps, one after the other and side by side (Argo: steps, DAG).

export const say = step("say", (text: string) => text);
export const both = step("both", (left: string, right: string) => `${left} and ${right}`);

/** A diamond: `say` begins once, two steps follow from it, and they meet. */
export const diamond = step("diamond", (): Graph<string> => {
  const top = say.step("top");
  return both.step(say.step(top), say.step(top));
});

// Branches that depend on data (Argo: conditionals; Google: data conditionals).

export const flip = step("flip", () => (Math.random() < 0.5 ? "heads" : "tails"));

/** Flips until it is heads: recursion, without a stack. */
export const coinFlip = step("coinFlip", (): Graph<string> => judge.step(flip.step()));
export const judge = step(
  "judge",
  (side: string): Graph<string> => (side === "heads" ? "it was heads" : coinFlip.step()),
);

export const sizeOf = workflow("sizeOf", async (megabytes: number) => {
  if (megabytes < 10) return "small";
  return megabytes < 100 ? "medium" : "large";
});

// Loops over data (Argo: loops; Metaflow: foreach; Google: concat array).

export const shout = step("shout", (word: string) => word.toUpperCase());
export const concat = step("concat", (words: readonly string[]) => words.join(" "));

/** As many steps as there are words; they meet in one. */
export const shoutAll = step(
  "shoutAll",
  (words: readonly string[]): Graph<string> => concat.step(words.map((word) => shout.step(word))),
);

// A loop with a state (Prefect: Fibonacci).

export const fibonacci = workflow("fibonacci", (count: number) => {
  const numbers = [1, 1];
  while (numbers.length < count) numbers.push((numbers.at(-1) ?? 0) + (numbers.at(-2) ?? 0));
  return numbers;
});

export const factorial = step(
  "factorial",
  (n: number, product: number): Graph<number> =>
    n <= 1 ? product : factorial.step(n - 1, product * n),
);

// Attempts, and what comes in the end whatever happened (Argo: retry, exit handlers).

export const unsteady = step(
  "unsteady",
  () => {
    const attempt = context().step?.attempt ?? 1;
    if (attempt < 3) throw new Error(`attempt ${attempt} fails`);
    return attempt;
  },
  { retries: 5, backoff: { initial: "1 minute", factor: 1, jitter: 0 } },
);

export const notify = step("notify", (text: string) => text);

/** The handler runs after success, failure and cancellation. */
export const withExitHandler = workflow("withExitHandler", async (isGood: boolean) => {
  try {
    if (!isGood) throw new NonRetryableError("the job failed");
    return await say("the job is done");
  } finally {
    await notify(isGood ? "celebrate" : "send a mail");
  }
});

// A workflow that calls others (Cadence, Google: sub-workflows).

export const child = workflow("child", (name: string) => say(`hello ${name}`));
export const parent = workflow("parent", async () => [await child("Ada"), await child("Bob")]);

// A file that steps hand on without copying it (Cadence: file processing).

export const processFile = workflow("processFile", async (url: string) => {
  const file = await run("download", async () => put(await (await fetch(url)).text()));
  const lines = await run("count", async () => (await get(file)).split("\n").length);
  return { lines, bytes: file.size };
});

// A trip that is booked as a whole or not at all (Cadence: saga).

export const cancel = step("cancel", (booking: string) => `${booking} canceled`);
export const book = step(
  "book",
  (what: string, who: string) => {
    if (what === "hotel" && who === "Eve") throw new NonRetryableError("the hotel is full");
    return `${what} for ${who}`;
  },
  { compensate: cancel },
);

export const trip = workflow("trip", async (who: string) => {
  const bookings: string[] = [];
  for (const what of ["car", "flight", "hotel"]) bookings.push(await book(what, who));
  return bookings;
});

// Extract, transform, load (Airflow).

export const extract = step("extract", () => [301.27, 433.21, 502.22]);
export const transform = step("transform", (amounts: readonly number[]) =>
  Math.round(amounts.reduce((sum, amount) => sum + amount, 0) * 100),
);
export const load = step("load", (cents: number) => `the total is ${cents / 100}`);
export const etl = step("etl", (): StepNode<string> => load.step(transform.step(extract.step())));

// Many at once, but not all at once.

export const crawl = workflow("crawl", (urls: readonly string[]) =>
  map(urls, (url) => run("get", async () => (await fetch(url)).status), { concurrency: 3 }),
);
