/** The transitions of one queue, without a partition: runs come and go, places are given. */
import { describe, expect, it } from "vitest";
import type { QueueLimits } from "../../guest/protocol.ts";
import { encodeRow, type Message, rowKeys } from "../../runtime/format.ts";
import { nameOf, queueKey, runKey } from "../../runtime/ids.ts";
import {
  changeLimits,
  checkLimits,
  createQueue,
  enter,
  enterNowhere,
  explainWait,
  leave,
  limitsOf,
  membersOf,
  queueHead,
  tickQueue,
} from "../../runtime/queue.ts";
import { Changes, readEntity, type Sink } from "../../runtime/state.ts";

const key = queueKey("acme", "mail");

interface Coming {
  readonly key?: string;
  readonly priority?: number;
  readonly mayRefuse?: boolean;
}

/** A queue in a world that consists of a clock, rows and an outbox. */
function bench(limits: QueueLimits) {
  let nowMs = 1_000_000;
  const sent: Message[] = [];
  let changes = new Changes(1);
  const rows = new Map<string, Uint8Array>();
  const sink = (): Sink => ({
    changes,
    nowMs,
    send: (message) => void sent.push(message),
    perform: () => undefined,
    setTimer: () => undefined,
    notify: () => undefined,
    replied: () => undefined,
    actorDefinition: () => undefined,
    successorOf: () => undefined,
    retentionMs: undefined,
    traced: () => undefined,
    nextCron: () => undefined,
    log: () => undefined,
  });
  const queue = createQueue(key, sink());
  changeLimits(queue, sink(), { given: limits });
  const message = (id: string, { priority = 0, mayRefuse = false, key: lane }: Coming = {}) => ({
    kind: "enter" as const,
    to: key,
    run: runKey("acme", id),
    ticket: 7,
    priority,
    mayRefuse,
    ...(lane === undefined ? {} : { key: lane }),
  });
  const commit = (): void => {
    for (const [rowKey, value] of changes.freeze()) {
      if (value === undefined) rows.delete(rowKey);
      else rows.set(rowKey, value);
    }
    changes = new Changes(1);
  };
  return {
    queue,
    sink,
    sent,
    rows,
    commit,
    enter: (id: string, coming?: Coming) => enter(queue, sink(), message(id, coming)),
    leave: (id: string, ticket = 7) => leave(queue, sink(), { run: runKey("acme", id), ticket }),
    limit: (given: QueueLimits) => changeLimits(queue, sink(), { given }),
    /** Lets time pass, firing the timer whenever it is due. */
    advance(ms: number): void {
      const untilMs = nowMs + ms;
      for (;;) {
        const { timerMs } = queueHead(queue);
        if (timerMs === undefined || timerMs > untilMs) break;
        nowMs = Math.max(nowMs, timerMs);
        tickQueue(queue, sink(), timerMs);
      }
      nowMs = untilMs;
    },
    setClockBack(ms: number): void {
      nowMs -= ms;
    },
    /** Ids that were let through, in order. */
    given: () =>
      sent.flatMap((each) =>
        each.kind === "place" && each.place === "given" ? [nameOf(each.to)] : [],
      ),
    refused: () =>
      sent.flatMap((each) =>
        each.kind === "place" && each.place === "refused" ? [each.error.code] : [],
      ),
    /** The queue as another host reads it. */
    again: () => {
      commit();
      const sorted = [...rows].sort(([left], [right]) => (left < right ? -1 : 1));
      return readEntity(
        key,
        sorted.filter(([rowKey]) => rowKey.startsWith(rowKeys.entity(key))),
        nowMs,
      );
    },
    explain: (id: string) => explainWait(queue, runKey("acme", id)),
  };
}

describe("a queue", () => {
  it("lets no more than its limit go, and the next one as soon as one has left", () => {
    const { enter: come, leave: go, given, queue } = bench({ concurrency: 2 });
    for (const id of ["a", "b", "c", "d"]) come(id);
    expect(given()).toEqual(["a", "b"]);
    go("b");
    expect(given()).toEqual(["a", "b", "c"]);
    go("b");
    expect(given()).toHaveLength(3);
    expect(membersOf(queue)).toMatchObject({ running: 2, waiting: 1 });
  });

  it("gives turns by priority, then in order of arrival", () => {
    const { enter: come, leave: go, given } = bench({ concurrency: 1 });
    come("first");
    come("low", { priority: -1 });
    come("a");
    come("b");
    come("high", { priority: 10 });
    for (const id of ["first", "high", "a", "b"]) go(id);
    expect(given()).toEqual(["first", "high", "a", "b", "low"]);
  });

  it("lets others pass one whose key is at its limit", () => {
    const { enter: come, leave: go, given } = bench({ concurrency: 3, keyConcurrency: 1 });
    come("ada1", { key: "ada" });
    come("ada2", { key: "ada" });
    come("ada3", { key: "ada", priority: 5 });
    come("bob1", { key: "bob" });
    come("none");
    expect(given()).toEqual(["ada1", "bob1", "none"]);
    go("ada1");
    expect(given().at(-1)).toBe("ada3");
  });

  it("spaces starts by its rate, lets a burst go after a pause, and sets one timer", () => {
    const rate = { limit: 10, periodMs: 1000, burst: 3 };
    const { enter: come, given, advance, queue } = bench({ rate });
    for (let at = 0; at < 10; at++) come(`r${at}`);
    expect(given()).toHaveLength(3);
    expect(queueHead(queue).timerMs).toBe(1_000_100);
    advance(99);
    expect(given()).toHaveLength(3);
    advance(1);
    expect(given()).toHaveLength(4);
    advance(600);
    expect(given()).toHaveLength(10);
    expect(queueHead(queue).timerMs).toBeUndefined();
  });

  it("makes nobody wait for long where a clock was set back", () => {
    const rate = { limit: 1, periodMs: 1000 };
    const { enter: come, leave: go, given, advance, setClockBack } = bench({ rate });
    come("a");
    setClockBack(3_600_000);
    come("b");
    go("a");
    advance(2000);
    expect(given()).toEqual(["a", "b"]);
  });

  it("refuses only who would have to wait, and only whom it may", () => {
    const { enter: come, refused, given, sent } = bench({ concurrency: 1, maxPending: 1 });
    come("a", { mayRefuse: true });
    come("b", { mayRefuse: true });
    expect(sent.at(-1)).toMatchObject({ kind: "place", place: "waits" });
    come("c", { mayRefuse: true });
    expect(refused()).toEqual(["queue-full"]);
    come("child");
    expect(refused()).toHaveLength(1);
    expect(given()).toEqual(["a"]);
  });

  it("refuses one that waits for its key even if others could go", () => {
    const limits = { keyConcurrency: 1, maxPending: 0 };
    const { enter: come, refused, given } = bench(limits);
    come("a", { key: "ada", mayRefuse: true });
    come("b", { key: "ada", mayRefuse: true });
    come("c", { key: "bob", mayRefuse: true });
    expect([given(), refused()]).toEqual([["a", "c"], ["queue-full"]]);
  });

  it("lets go who may when limits change, and takes no place away", () => {
    const { enter: come, limit, given, leave: go } = bench({ concurrency: 1 });
    for (const id of ["a", "b", "c", "d"]) come(id);
    limit({ concurrency: 3 });
    expect(given()).toEqual(["a", "b", "c"]);
    limit({ concurrency: 1 });
    go("a");
    go("b");
    expect(given()).toHaveLength(3);
    go("c");
    expect(given()).toEqual(["a", "b", "c", "d"]);
  });

  it("goes on as it was on another host, and uses the names of its rows again", () => {
    const { enter: come, leave: go, again, rows, sink, sent } = bench({ concurrency: 1 });
    come("a");
    come("low", { priority: -3 });
    come("b", { key: "bob" });
    go("a");
    come("c");
    const found = again();
    if (found === undefined) throw new Error("the queue is there");
    const places = [...rows.keys()].filter((rowKey) => rowKey.includes("/q/mail/q/"));
    expect(places.map((rowKey) => rowKey.slice(-1)).toSorted()).toEqual(["1", "2", "3"]);
    expect(membersOf(found)).toMatchObject({ running: 1, waiting: 2 });
    sent.length = 0;
    leave(found, sink(), { run: runKey("acme", "b"), ticket: 7 });
    expect(sent).toMatchObject([{ kind: "place", place: "given", to: runKey("acme", "c") }]);
  });

  it("tells what a run waits for, and its place", () => {
    const { enter: come, explain } = bench({ concurrency: 2, keyConcurrency: 1 });
    come("a", { key: "ada" });
    come("b", { key: "ada" });
    come("c", { key: "bob" });
    come("d", { key: "eve" });
    expect(explain("b")).toBe("a place in queue mail for key ada: 1 of 1 run, it is next");
    expect(explain("d")).toBe("a place in queue mail: 2 of 2 run, 1 wait before it");
    expect(explain("a")).toBeUndefined();
    const spaced = bench({ rate: { limit: 2, periodMs: 1000 } });
    spaced.enter("a");
    spaced.enter("b");
    expect(spaced.explain("b")).toBe("a place in queue mail: 2 may begin in 1000 ms, it is next");
  });

  it("lets at most 500 go in one transition, and the rest right after", () => {
    const { enter: come, limit, given, advance } = bench({ concurrency: 1 });
    for (let at = 0; at < 1200; at++) come(`r${at}`);
    limit({});
    expect(given()).toHaveLength(501);
    advance(0);
    expect(given()).toHaveLength(1200);
  });

  it("that isn't there refuses; the one of all lets everybody through", () => {
    const { sink, sent } = bench({});
    const message = { kind: "enter", run: runKey("acme", "a"), ticket: 1, priority: 0 } as const;
    enterNowhere(sink(), { ...message, to: queueKey("acme", "none"), mayRefuse: true });
    enterNowhere(sink(), { ...message, to: queueKey("acme", "all"), mayRefuse: true });
    expect(sent).toMatchObject([
      { place: "refused", error: { code: "queue-not-found" } },
      { place: "given" },
    ]);
  });

  it("takes a client's limits before those of the code", () => {
    const { queue, sink } = bench({ concurrency: 1 });
    changeLimits(queue, sink(), { declared: { concurrency: 9 } });
    expect(limitsOf(queue)).toEqual({ concurrency: 1 });
    changeLimits(queue, sink(), { given: undefined });
    expect(limitsOf(queue)).toEqual({ concurrency: 9 });
  });
});

describe("limits", () => {
  it.each([
    { concurrency: 0 },
    { concurrency: 1.5 },
    { keyConcurrency: -1 },
    { maxPending: Number.NaN },
    { rate: { limit: 0, periodMs: 1000 } },
    { rate: { limit: 1, periodMs: 0 } },
    { rate: { limit: 1, periodMs: 1000, burst: 0 } },
  ])("are checked: %j", (limits) => {
    expect(() => checkLimits(limits)).toThrowError(/whole number|periodMs/);
  });

  it("keep nothing that isn't one", () => {
    const given = { concurrency: 2, more: encodeRow("text") } as QueueLimits;
    expect(checkLimits(given)).toEqual({ concurrency: 2 });
  });
});
