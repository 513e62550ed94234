/**
 * Read-only methods of actors that were never made: what they answer, and that nothing is left of
 * them. Two hosts that share one partition, in the simulated world.
 */
import { beforeEach, expect, test } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import { actor, publish, remind, signal, start, workflow } from "../../guest/index.ts";
import { SporeError } from "../../runtime/errors.ts";
import type { CallRequest, TenantHost } from "../../runtime/index.ts";
import { type SimHost, World } from "../sim/world.ts";

const shout = workflow("shout", () => "!");

class NoteState {
  readonly lines: string[];
  constructor(first = "new") {
    this.lines = [first];
    if (first === "!") throw new RangeError("nothing to say");
    remind("again", { after: "1 second" }, this.add, "reminded");
    void start(shout.with(), { id: "shouted" });
    void Note.getOrCreate("other").send.add("sent");
    publish("line", first);
  }
  add(line: string): number {
    return this.lines.push(line);
  }
  list(): readonly string[] {
    return this.lines;
  }
  sneak(): number {
    return this.lines.push("sneaked");
  }
}
const Note = actor("ReadNote", NoteState, { readonly: ["list", "sneak"] });

const Hub = actor(
  "ReadHub",
  class {
    n = 0;
    /** In one turn, which waits for somebody who reads this actor meanwhile. */
    async visited(by: string, key: string): Promise<unknown> {
      this.n += 1;
      return by === "actor" ? Guest.getOrCreate(key).look(key) : looks(key);
    }
    async held(): Promise<number> {
      this.n += 10;
      await signal("go");
      return this.n;
    }
    /** A circle: the run reads only after what it sent before, which waits for this turn. */
    async knotted(key: string): Promise<unknown> {
      return tells(key);
    }
    add(): number {
      this.n += 1;
      return this.n;
    }
    value(): number {
      this.n += 1000;
      return this.n - 1000;
    }
  },
  { readonly: ["value"] },
);

const Guest = actor(
  "ReadGuest",
  class {
    look(key: string): Promise<number> {
      return Hub.get(key).value();
    }
  },
);

const looks = workflow("looks", (key: string) => Hub.get(key).value());
const tells = workflow("tells", (key: string) => {
  void Hub.get(key).send.add();
  return Hub.get(key).value();
});
workflow("sneaks", async (key: string) => {
  const note = Note.getOrCreate(key);
  await note.add("x");
  return [await note.sneak(), await note.list()];
});
workflow("sends", async (key: string, n: number) => {
  const hub = Hub.getOrCreate(key);
  const seen: number[] = [];
  for (let i = 0; i < n; i += 1) {
    void hub.send.add();
    void hub.send.value();
    seen.push(await hub.value());
  }
  return seen;
});

class BrokenState {
  constructor() {
    throw new RangeError("not today");
  }
  value(): number {
    return 1;
  }
}
actor("ReadBroken", BrokenState, { readonly: ["value"] });

let world: World;
let first: SimHost;
let second: SimHost;

beforeEach(async () => {
  world = new World({
    seed: 7,
    partitions: 1,
    limits: { lingerMs: 5 },
    storeMs: 2,
    isShared: true,
  });
  first = world.startHost();
  await world.runUntil(() => first.isReady, 30_000);
  second = world.startHost();
  await world.runUntil(() => second.isReady, world.nowMs + 30_000);
  await finished(at(first).deploy({ kind: "javascript", code: "export {};" }));
});

function finished<T>(work: Promise<T>): Promise<T> {
  return world.finished(work);
}

function at({ host }: SimHost): TenantHost {
  if (host === undefined) throw new Error("the host is up");
  return host.tenant("t");
}

function owner(): SimHost {
  const isOwner = ({ host }: SimHost): boolean =>
    host?.status().partitions.some(({ state }) => state === "owned") === true;
  return isOwner(first) ? first : second;
}

async function call(
  host: SimHost,
  method: string,
  args: readonly unknown[] = [],
  more: Partial<CallRequest> = {},
): Promise<unknown> {
  const request = { type: "ReadNote", key: "a", method, args: encode(args), ...more };
  const result = await finished(at(host).callActor(request));
  if (result.kind !== "done" || result.outcome.kind !== "ok") throw new Error("no answer");
  return decode(result.outcome.value);
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return finished(
    work.then(
      () => "none",
      (error: unknown) => (error instanceof SporeError ? error.code : String(error)),
    ),
  );
}

/** Rows of runs and actors that are durable. */
function rows(): readonly string[] {
  const { partitions } = world.laws;
  const keys = partitions.flatMap((partition) => [...world.laws.truth(partition).rows.keys()]);
  return keys.filter((key) => /^e\/t\/[ar]\//.test(key));
}

/** With time for whatever would come of it. */
async function expectNothing(): Promise<void> {
  await finished(world.sleep(5000));
  expect(rows()).toEqual([]);
  expect(await finished(at(first).listActors({}))).toEqual({ actors: [] });
  expect(await codeOf(at(first).getActor("ReadNote", "a"))).toBe("actor-not-found");
  expect(await codeOf(at(first).getRun("shouted"))).toBe("run-not-found");
}

test("a read of an actor that was never made is of a new one, and leaves nothing", async () => {
  for (const host of [first, second]) {
    expect(await call(host, "list")).toEqual(["new"]);
    expect(await call(host, "sneak")).toBe(2);
    expect(await call(host, "list", [], { isAsync: true })).toEqual(["new"]);
  }
  await expectNothing();
});

test("a host that follows the partition answers it, too, and sees at once when it is made", async () => {
  const reader = owner() === first ? second : first;
  const reads = (): number => world.counts.get("spore_followed_reads_total") ?? 0;
  for (let n = 0; n < 20 && reads() === 0; n += 1) await call(reader, "list");
  const before = reads();
  expect(await call(reader, "list")).toEqual(["new"]);
  expect(await call(reader, "sneak")).toBe(2);
  expect(reads()).toBe(before + 2);
  await expectNothing();
  expect(await call(owner(), "add", ["x"])).toBe(2);
  expect(await call(reader, "list")).toEqual(["new", "x"]);
});

test("what is made later begins with its own arguments, and anew when it was deleted", async () => {
  expect(await call(first, "list")).toEqual(["new"]);
  const { created } = await finished(at(first).ensureActor("ReadNote", "a", encode(["given"])));
  expect(created).toBe(true);
  expect(await call(second, "list")).toEqual(["given"]);
  await finished(at(first).deleteActor("ReadNote", "a"));
  expect(await call(second, "list")).toEqual(["new"]);
  expect(await codeOf(at(first).getActor("ReadNote", "a"))).toBe("actor-not-found");
});

test("a read while the constructor's turn goes on waits for it", async () => {
  const made = at(first).ensureActor("ReadNote", "a", encode(["given"]));
  const read = at(owner()).callActor({
    type: "ReadNote",
    key: "a",
    method: "list",
    args: encode([]),
  });
  const [, result] = await finished(Promise.all([made, read]));
  expect(result.kind === "done" && result.outcome).toEqual({
    kind: "ok",
    value: encode(["given"]),
  });
});

test("a session goes on after a read of what wasn't there, one by one and all at once", async () => {
  const say = (method: string, key: string, seq: number): Promise<unknown> =>
    call(first, method, method === "add" ? ["x"] : [], { key, session: { id: `s-${key}`, seq } });
  expect(await say("list", "one", 1)).toEqual(["new"]);
  expect(await say("list", "one", 2)).toEqual(["new"]);
  expect(rows()).toEqual([]);
  expect(await say("add", "one", 3)).toBe(2);
  expect(await say("list", "one", 4)).toEqual(["new", "x"]);
  expect(await say("add", "one", 5)).toBe(3);
  const all = await Promise.all(
    [4, 2, 3, 1].map((seq) => say(seq === 2 ? "add" : "list", "all", seq)),
  );
  expect(all).toEqual([["new", "x"], 2, ["new", "x"], ["new"]]);
});

test("a constructor that throws is told, and a method that isn't there", async () => {
  const ask = (type: string, method: string): Promise<string> =>
    codeOf(at(first).callActor({ type, key: "a", method, args: encode([]) }));
  expect(await ask("ReadBroken", "value")).toBe("actor-init-failed");
  expect(await ask("ReadNote", "nothing")).toBe("method-not-found");
  expect(await ask("ReadNobody", "value")).toBe("actor-type-not-found");
  expect(rows()).toEqual([]);
});

async function ran(workflow: string, ...args: unknown[]): Promise<unknown> {
  const run = { id: workflow, workflow, args: encode(args), waitMs: 60_000 };
  const { outcome } = await finished(at(first).startRun(run));
  if (outcome === undefined) return undefined;
  return outcome.kind === "ok" ? decode(outcome.value) : outcome.error.code;
}

const hub = { type: "ReadHub", key: "h" };

test("a read-only method changes nothing when a run calls it, and is no turn", async () => {
  expect(await ran("sneaks", "a")).toEqual([3, ["new", "x"]]);
  expect(await call(first, "list")).toEqual(["new", "x"]);
  const { turns, mailbox } = await finished(at(first).getActor("ReadNote", "a"));
  expect([turns, mailbox]).toEqual([2, 0]);
  const events = await finished(at(first).actorHistory("ReadNote", "a"));
  expect(events.filter(({ type }) => type.startsWith("turn.")).length).toBe(2);
});

test("a run's reads come after what it sent before, each", async () => {
  expect(await ran("sends", "h", 20)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
  expect((await finished(at(first).getActor("ReadHub", "h"))).turns).toBe(21);
});

test("a run or an actor reads beside a turn that goes on, of the state before it", async () => {
  await finished(at(first).ensureActor("ReadHub", "h", encode([])));
  const held = { ...hub, method: "held", args: encode([]), callId: "c", isAsync: true };
  await finished(at(first).callActor(held));
  expect(await ran("looks", "h")).toBe(0);
  await finished(at(first).signalActor("ReadHub", "h", "go", encode(1)));
  const result = await finished(at(first).callResult("ReadHub", "h", "c", { waitMs: 5000 }));
  expect(result.kind === "done" && result.outcome).toEqual({ kind: "ok", value: encode(10) });
  for (const by of ["actor", "run"]) {
    expect(await call(first, "visited", [by, by], { ...hub, key: by })).toBe(0);
    expect(await call(first, "value", [], { ...hub, key: by })).toBe(1);
  }
});

test("a read that would wait for itself is refused like any call", async () => {
  const args = encode(["h"]);
  const result = await finished(at(first).callActor({ ...hub, method: "knotted", args }));
  const error = result.kind === "done" && result.outcome.kind === "error" && result.outcome.error;
  expect(JSON.stringify(error)).toContain("call-deadlock");
  expect(await call(first, "value", [], hub)).toBe(1);
});

test("who says that an actor must be there is told that it isn't, and makes none", async () => {
  expect(await ran("looks", "h")).toBe("actor-not-found");
  for (const host of [first, second]) {
    for (const method of ["value", "add", "value"]) {
      const asked = { ...hub, method, args: encode([]), ifMissing: "fail" as const };
      expect(await codeOf(at(host).callActor(asked))).toBe("actor-not-found");
    }
  }
  expect(await finished(at(first).listActors({}))).toEqual({ actors: [] });
});
