/** Transitions of one actor: reminders, expiry, upgrades, stops, returning calls. */
import { describe, expect, it } from "vitest";
import { encode } from "../../guest/cbor.ts";
import type { Command, Definition, Drained } from "../../guest/protocol.ts";
import {
  acceptCall,
  actorHead,
  applyTurn,
  beginTurn,
  createActor,
  fireReminder,
  isExpired,
  isReturning,
  mailMax,
  requestUpgrade,
  resumeActor,
  rollBack,
  takeReturning,
} from "../../runtime/actor.ts";
import type { Message } from "../../runtime/format.ts";
import { actorKey, runKey } from "../../runtime/ids.ts";
import { Changes, type Entity, type Sink } from "../../runtime/state.ts";

const key = actorKey("t", "Bell", "b");
const nothing = encode([]);

interface World {
  nowMs: number;
  definition: Partial<Definition>;
  successor: string | undefined;
  readonly sent: Message[];
  sink(): Sink;
}

function createWorld(definition: Partial<Definition> = {}): World {
  const world: World = {
    nowMs: 1_000_000,
    definition,
    successor: undefined,
    sent: [],
    sink: () => ({
      changes: new Changes(1),
      nowMs: world.nowMs,
      retentionMs: undefined,
      send: (message) => void world.sent.push(message),
      perform: () => undefined,
      setTimer: () => undefined,
      notify: () => undefined,
      replied: () => undefined,
      actorDefinition: () => ({ kind: "actor", name: "Bell", ...world.definition }),
      successorOf: () => world.successor,
      nextCron: (_cron, _zone, afterMs) => (Math.floor(afterMs / 60_000) + 1) * 60_000,
      log: () => undefined,
      traced: () => undefined,
    }),
  };
  return world;
}

function drained(...commands: Command[]): Drained {
  return { state: "done", commands, records: [] };
}

const ok = { kind: "ok", value: encode(null) } as const;
const failure = { kind: "error", error: { name: "Error", message: "no" } } as const;

function call(entity: Entity, world: World, method: string): void {
  const callId = `c${actorHead(entity).nextMail}`;
  acceptCall(entity, world.sink(), { method, args: nothing, callId, isRemembered: false });
}

/** One whole turn that gives these commands before it ends. */
function turn(entity: Entity, world: World, ...commands: Command[]): string | undefined {
  expect(beginTurn(entity, world.sink())).toBe(true);
  const mail = actorHead(entity).turn;
  const id = mail?.callId ?? "";
  const hasReply = commands.some(({ kind }) => kind === "reply");
  const reply: Command[] = hasReply ? [] : [{ kind: "reply", id, outcome: ok }];
  applyTurn(entity, world.sink(), drained(...commands, ...reply, { kind: "turned" }));
  return mail?.method;
}

function createBell(world: World): Entity {
  const entity = createActor(key, "one", world.sink());
  call(entity, world, "");
  turn(entity, world, { kind: "state", value: encode({ n: 0 }) });
  return entity;
}

function remind(times: { atMs?: number; everyMs?: number; cron?: string }): Command {
  return { kind: "remind", name: "ring", method: "ring", args: nothing, ...times };
}

/** Lets the one reminder come, as its timer does. */
function fire(entity: Entity, world: World): void {
  const [reminder] = entity.reminders.values();
  if (reminder === undefined) throw new Error("there is no reminder");
  fireReminder(entity, world.sink(), 0xf000_0000 + reminder.index, reminder.atMs);
}

describe("reminders", () => {
  it("that missed many of their times come once, and go on in their rhythm", () => {
    const world = createWorld();
    const bell = createBell(world);
    call(bell, world, "set");
    turn(bell, world, remind({ atMs: world.nowMs + 1000, everyMs: 1000 }));
    world.nowMs += 10_500;
    fire(bell, world);
    expect(bell.mail.map(({ method }) => method)).toEqual(["ring"]);
    expect([...bell.reminders.values()].map(({ atMs }) => atMs)).toEqual([1_011_000]);
  });

  it("by cron are set again for the time after now, and once means once", () => {
    const world = createWorld();
    const bell = createBell(world);
    call(bell, world, "set");
    turn(bell, world, remind({ cron: "* * * * *" }));
    expect([...bell.reminders.values()][0]?.atMs).toBe(1_020_000);
    world.nowMs = 1_200_001;
    fire(bell, world);
    expect([...bell.reminders.values()][0]?.atMs).toBe(1_260_000);
    turn(bell, world, remind({ atMs: 1_300_000 }));
    world.nowMs = 1_300_000;
    fire(bell, world);
    expect([bell.reminders.size, bell.mail.length]).toEqual([0, 1]);
  });

  it("don't pile up in the mailbox of an actor that doesn't get to them", () => {
    const world = createWorld();
    const bell = createBell(world);
    call(bell, world, "set");
    turn(bell, world, remind({ atMs: world.nowMs + 1000, everyMs: 1000 }));
    for (let times = 0; times < 5; times++) {
      world.nowMs += 1000;
      fire(bell, world);
    }
    expect(bell.mail).toHaveLength(1);
    turn(bell, world);
    world.nowMs += 1000;
    fire(bell, world);
    expect(bell.mail).toHaveLength(1);
  });

  it("that are not the one of the timer, or of another time, stay", () => {
    const world = createWorld();
    const bell = createBell(world);
    call(bell, world, "set");
    turn(bell, world, remind({ atMs: 2_000_000 }));
    fireReminder(bell, world.sink(), 0xf000_0001, 1_500_000);
    fireReminder(bell, world.sink(), 0xf000_0002, 2_000_000);
    expect([bell.reminders.size, bell.mail.length]).toEqual([1, 0]);
  });
});

describe("expiry", () => {
  it("comes only after the whole time without a call", () => {
    const world = createWorld({ expiresAfterMs: 5000 });
    const bell = createBell(world);
    world.nowMs += 4000;
    call(bell, world, "ring");
    expect(isExpired(bell, world.sink())).toBe(false);
    turn(bell, world);
    world.nowMs += 4999;
    expect(isExpired(bell, world.sink())).toBe(false);
    world.nowMs += 1;
    expect(isExpired(bell, world.sink())).toBe(true);
  });
});

describe("upgrades", () => {
  it("go before waiting calls, also of a stopped actor, and are asked for once", () => {
    const world = createWorld({ stopsOnError: true });
    const bell = createBell(world);
    call(bell, world, "fail");
    call(bell, world, "next");
    expect(turn(bell, world, { kind: "reply", id: "c2", outcome: failure })).toBe("fail");
    expect(beginTurn(bell, world.sink())).toBe(false);
    expect(requestUpgrade(bell, world.sink(), "two", false)).toBe(true);
    expect(requestUpgrade(bell, world.sink(), "two", true)).toBe(false);
    turn(bell, world, { kind: "state", value: encode({ m: 0 }) });
    expect(actorHead(bell)).toMatchObject({ component: "two", previousComponent: "one" });
    expect(beginTurn(bell, world.sink())).toBe(false);
    resumeActor(bell, world.sink());
    expect(turn(bell, world)).toBe("next");
  });

  it("that fail leave component and state, and are tried again only by hand", () => {
    const world = createWorld();
    const bell = createBell(world);
    const { state } = bell;
    requestUpgrade(bell, world.sink(), "two", false);
    const id = bell.mail[0]?.callId ?? "";
    turn(bell, world, { kind: "reply", id, outcome: failure });
    expect(actorHead(bell)).toMatchObject({ component: "one", failedUpgrade: "two" });
    const { name, message } = failure.error;
    expect(actorHead(bell).upgradeError).toEqual({ name, message });
    expect(bell.state).toBe(state);
    expect(requestUpgrade(bell, world.sink(), "two", false)).toBe(false);
    expect(requestUpgrade(bell, world.sink(), "two", true)).toBe(true);
  });

  it("are rolled back with the state from before, and don't come again by themselves", () => {
    const world = createWorld();
    const bell = createBell(world);
    const before = { component: "one", state: encode({ n: 0 }) };
    requestUpgrade(bell, world.sink(), "two", false);
    turn(bell, world, { kind: "state", value: encode({ m: 0 }) });
    rollBack(bell, world.sink(), before);
    expect(bell.state).toEqual(before.state);
    expect(actorHead(bell).component).toBe("one");
    expect(requestUpgrade(bell, world.sink(), "two", false)).toBe(false);
  });

  it("come by themselves at the next turn, whatever causes it, but not again after a failure", () => {
    const world = createWorld();
    const bell = createBell(world);
    call(bell, world, "set");
    turn(bell, world, remind({ atMs: world.nowMs + 1000 }));
    world.successor = "two";
    world.nowMs += 1000;
    fire(bell, world);
    beginTurn(bell, world.sink());
    expect(actorHead(bell).turn).toMatchObject({ upgradeTo: "two" });
    const id = actorHead(bell).turn?.callId ?? "";
    const refusal: Command = { kind: "reply", id, outcome: failure };
    applyTurn(bell, world.sink(), drained(refusal, { kind: "turned" }));
    expect(turn(bell, world)).toBe("ring");
    expect(actorHead(bell)).toMatchObject({ component: "one", failedUpgrade: "two" });
  });

  it("find place in a full mailbox", () => {
    const world = createWorld();
    const bell = createBell(world);
    for (let calls = 0; calls < mailMax; calls++) call(bell, world, "ring");
    expect(() => call(bell, world, "ring")).toThrow(/1000 waiting calls/);
    expect(requestUpgrade(bell, world.sink(), "two", false)).toBe(true);
  });
});

describe("calls that come back", () => {
  const returning = { method: "ring", args: nothing, callId: "x", isRemembered: false };

  /** A turn that calls Bell/c and waits for it. */
  function asking(world: World): Entity {
    const bell = createBell(world);
    call(bell, world, "ask");
    beginTurn(bell, world.sink());
    const actor = { type: "Bell", key: "c" };
    applyTurn(bell, world.sink(), {
      state: "waiting",
      commands: [{ kind: "call", id: 1, actor, method: "ring", args: nothing }],
      records: [],
    });
    return bell;
  }

  it("are known by their chain, as long as the actor waits for the next of it", () => {
    const world = createWorld();
    const bell = asking(world);
    expect(isReturning(bell, ["w", "Bell/b", "Bell/c"])).toBe(true);
    expect(isReturning(bell, ["Bell/c"])).toBe(false);
    expect(isReturning(bell, ["Bell/b", "Bell/d"])).toBe(false);
    applyTurn(bell, world.sink(), {
      state: "waiting",
      commands: [{ kind: "drop", id: 1 }],
      records: [],
    });
    expect(isReturning(bell, ["w", "Bell/b", "Bell/c"])).toBe(false);
  });

  it("are refused with the whole chain", () => {
    const world = createWorld();
    const bell = asking(world);
    const replyTo = { key: actorKey("t", "Bell", "c"), id: 3, life: 1 };
    const chain = ["Bell/b", "Bell/c", "Bell/b"];
    takeReturning(bell, world.sink(), { ...returning, replyTo }, chain);
    expect(world.sent.at(-1)).toMatchObject({
      kind: "resolve",
      to: replyTo.key,
      outcome: {
        error: {
          code: "call-deadlock",
          message: "a call would wait for itself: Bell/b → Bell/c → Bell/b",
        },
      },
    });
  });

  it("run within the turn of a re-entrant actor, whose later calls name all that wait", () => {
    const world = createWorld({ reentrant: true });
    const bell = asking(world);
    const chain = ["Bell/b", "Bell/c"];
    takeReturning(bell, world.sink(), { ...returning, chain }, [...chain, "Bell/b"]);
    expect(actorHead(bell).nested).toHaveLength(1);
    const actor = { type: "Bell", key: "c" };
    applyTurn(bell, world.sink(), {
      state: "waiting",
      commands: [{ kind: "call", id: 2, actor, method: "ring", args: nothing }],
      records: [],
    });
    expect(world.sent.at(-1)).toMatchObject({ kind: "call", chain: ["Bell/c", "Bell/b"] });
  });
});

describe("a broken guest", () => {
  it("that ends a turn without an answer is answered for, and what follows is ignored", () => {
    const world = createWorld();
    const bell = createBell(world);
    const replyTo = { key: runKey("t", "r"), id: 7, life: 1 };
    const args = nothing;
    acceptCall(bell, world.sink(), {
      method: "x",
      args,
      callId: "c",
      isRemembered: false,
      replyTo,
    });
    beginTurn(bell, world.sink());
    const late: Command = { kind: "reply", id: "c", outcome: ok };
    applyTurn(bell, world.sink(), drained({ kind: "turned" }, late, { kind: "turned" }));
    expect(world.sent).toHaveLength(1);
    expect(world.sent[0]).toMatchObject({
      kind: "resolve",
      id: 7,
      outcome: { kind: "error", error: { code: "guest-output" } },
    });
    expect(actorHead(bell).turns).toBe(2);
  });
});
