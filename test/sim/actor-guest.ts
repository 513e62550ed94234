/** Actors of the simulated tenants that stop, age, don't come to be, or wait for something. */
import { actor, GuestError, signal, sleep, workflow } from "../../guest/index.ts";
import { Counter } from "./guest.ts";

/** Does what it is told; after an error nothing more until it is resumed. */
export const Stopper = actor(
  "Stopper",
  class {
    done: string[] = [];
    work(name: string, fails: boolean): number {
      if (fails) throw new Error(`no ${name}`);
      this.done.push(name);
      return this.done.length;
    }
    list(): string[] {
      return this.done;
    }
  },
  { readonly: ["list"], onError: "stop" },
);

export const mayflyMs = 30_000;

/** Is gone when nobody has called it for a while. */
export const Mayfly = actor(
  "Mayfly",
  class {
    n = 0;
    add(): number {
      this.n += 1;
      return this.n;
    }
  },
  { expiresAfter: mayflyMs },
);

/** Comes to be only if it is welcome, which takes no time, or some. */
export const Shy = actor(
  "Shy",
  class {
    n = 0;
    constructor(isWelcome = false) {
      if (!isWelcome) throw new Error("not welcome");
    }
    add(): number {
      this.n += 1;
      return this.n;
    }
    value(): number {
      return this.n;
    }
  },
  { readonly: ["value"] },
);

/** Waits within a turn for what it is sent. */
export const Listener = actor(
  "Listener",
  class {
    got: string[] = [];
    async hear(count: number): Promise<number> {
      for (let i = 0; i < count; i++) this.got.push(await signal<string>("item"));
      return this.got.length;
    }
    list(): string[] {
      return this.got;
    }
  },
  { readonly: ["list"] },
);

/** What each turn was, with a wait in it. */
export const Slow = actor(
  "Slow",
  class {
    done: string[] = [];
    async work(name: string, ms: number): Promise<string[]> {
      await sleep(ms);
      this.done.push(name);
      return this.done;
    }
    list(): string[] {
      return this.done;
    }
  },
  { readonly: ["list"] },
);

interface Settled {
  n: number;
  moved: number;
}

/** Moves to another component only when somebody says so. */
export const Settler = actor(
  "Settler",
  class {
    n = 0;
    moved = 0;
    static upgrade(state: Settled): Settled {
      return { ...state, moved: state.moved + 1 };
    }
    add(): readonly [n: number, moved: number] {
      this.n += 1;
      return [this.n, this.moved];
    }
    value(): readonly [n: number, moved: number] {
      return [this.n, this.moved];
    }
  },
  { readonly: ["value"], upgrades: "by-request" },
);

async function codeOf(work: Promise<unknown>): Promise<unknown> {
  try {
    return await work;
  } catch (error) {
    return error instanceof GuestError ? error.code : String(error);
  }
}

/** Calls a counter only if it is there: answered, one-way, and a read. */
export const missing = workflow("missing", async (key: string) => {
  const counter = Counter.get(key);
  return [
    await codeOf(counter.add("", 0)),
    (await codeOf(counter.send.add("", 0))) ?? "sent",
    await codeOf(counter.value()),
  ];
});
