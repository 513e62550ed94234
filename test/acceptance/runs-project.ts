/**
 * What the tests of forks, repetitions, moves and compensations deploy. `VERSION` and `CHARGE` are
 * replaced in its bundle, so that there are other components that do the same, or something else.
 */
import {
  actor,
  context,
  continueAsNew,
  externalEvent,
  NonRetryableError,
  publish,
  query,
  setTags,
  signal,
  sleep,
  start,
  step,
  update,
  workflow,
} from "sporeflow/guest";

const version = "VERSION";
const euros: string = "CHARGE";

/** Tells the world outside, so that a second time can be seen. */
const tell = async (url: string, what: string): Promise<string> => {
  const response = await fetch(`${url}/${what}`);
  if (!response.ok) throw new NonRetryableError(`${what}: ${response.status}`);
  return response.text();
};

export const note = step("note", (url: string, what: string) => tell(url, what));
export const sum = step("sum", (...numbers: number[]) => numbers.reduce((a, b) => a + b, 0));

/** An effect of each kind, a wait of each kind, and something that can be told from outside. */
export const journey = workflow("journey", async (url: string, id: string) => {
  const seen: string[] = [];
  query("seen", () => seen);
  setTags({ place: "start" });
  seen.push(await note(url, `${id}-first`));
  publish("place", "first");
  seen.push(await signal<string>("go"));
  await sleep(30);
  const beside = note(url, `${id}-beside`);
  const sums = [await sum(1), await sum(1, 2), await sum(1, 2, 3)];
  setTags({ place: "middle" });
  seen.push(await note(url, `${id}-second`), await beside, sums.join("+"));
  seen.push(await signal<string>("go"));
  seen.push(await note(url, `${id}-third`));
  return { seen, run: context().run.runId };
});

/** Runs on with either version until it is told to say which one it is. */
export const which = workflow("which", async (url: string) => {
  const before = await note(url, "which");
  await signal("tell");
  return { before, version };
});

/** Asks for something else in each version. */
export const differs = workflow("differs", async (url: string) => {
  await note(url, `charge-${euros}`);
  await sum(1);
  await signal("tell");
  return version;
});

export const book = step("book", (url: string, what: string) => tell(url, `book-${what}`), {
  retries: 0,
  compensate: (_booking, url, what) => tell(url, `cancel-${what}`),
});

export const bookings = workflow("bookings", async (url: string, whats: readonly string[]) => {
  for (const what of whats) {
    if (what === "wait") await signal("on");
    else if (what === "boom") throw new Error("boom");
    else await book(url, what);
  }
  return whats.length;
});

export const copy = step(
  "copy",
  async (url: string) => {
    const { step: self } = context();
    const from = (self?.lastProgress as number | undefined) ?? 0;
    for (let row = from + 1; row <= 4; row++) {
      await tell(url, `row-${row}`);
      self?.progress(row);
      if (row === 2 && self?.attempt === 1) throw new Error("lost");
    }
    return from;
  },
  { retries: 1, backoff: { initial: 300, jitter: 0 } },
);

export const copies = workflow("copies", (url: string) => copy(url));

export const decided = workflow("decided", async (url: string) => {
  const { token, result } = await externalEvent<string>("decision");
  publish("token", token);
  const decision = await result();
  return [decision, await note(url, `after-${decision}`)];
});

export const child = workflow("child", async (url: string) => note(url, "child"));

export const family = workflow("family", async (url: string, key: string) => {
  const started = await start(child.with(url), { child: "abandon" });
  const value = await started.result();
  const count = await Tally.getOrCreate(key).add(1);
  await note(url, "family");
  return { child: started.id, value, count };
});

export const Tally = actor(
  "Tally",
  class {
    n = 0;
    add(by: number): number {
      this.n += by;
      return this.n;
    }
    value(): number {
      return this.n;
    }
  },
  { readonly: ["value"] },
);

export const shaky = step("shaky", (url: string) => tell(url, "shaky"), { retries: 0 });

/** Fails of a step until the world outside lets it pass. */
export const resumed = workflow("resumed", async (url: string) => {
  await note(url, "resumed-before");
  const value = await shaky(url);
  await note(url, "resumed-after");
  return value;
});

const leaf = workflow("leaf", (url: string, what: string) => note(url, what));

/** A child, a step and an inline one that begin at once. */
export const together = workflow("together", async (url: string) => {
  const child = async (): Promise<string> => (await start(leaf.with(url, "leaf"))).result();
  return Promise.all([note(url, "together"), child(), sum(1, 2)]);
});

/** Two lives: what the second was begun with comes from the first. */
export const lives = workflow("lives", async (url: string, life: number): Promise<string> => {
  await note(url, `life-${life}`);
  if (life === 1) return continueAsNew(url, 2);
  await note(url, "life-end");
  return `lived ${life}`;
});

/** Keeps nothing of what it is sent, so that only its past grows. */
export const swallower = workflow("swallower", async (count: number) => {
  let bytes = 0;
  await sum(1);
  for (let i = 0; i < count; i++) bytes += (await signal<string>("bytes")).length;
  return bytes;
});

/** Is in the middle of an update. */
export const updated = workflow("updated", async (url: string) => {
  const names: string[] = [];
  update("add", async (name: string) => {
    names.push(await note(url, `update-${name}`));
    return names.length;
  });
  await signal("close");
  await note(url, "closing");
  return names;
});

/** One at a time. */
export const narrow = workflow(
  "narrow",
  async (url: string, id: string) => {
    await note(url, `narrow-${id}`);
    await signal("pass");
    return note(url, `narrow-${id}-end`);
  },
  { queue: { name: "narrow", concurrency: 1 } },
);

/** Has a fault in the first version. */
export const mended = step("mended", () => {
  if (euros === "1") throw new NonRetryableError("a fault");
  return `mended in ${version}`;
});

export const mendable = workflow("mendable", async (url: string) => {
  await note(url, "mendable");
  return mended();
});
