/** Compensations and the progress of steps, in a guest by itself. */
import { beforeEach, expect, test } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import * as guest from "../../guest/index.ts";
import { TestHost } from "./host.ts";

let host: TestHost;
let done: string[];
beforeEach(() => {
  host = new TestHost();
  done = [];
});

let uniqueNumber = 0;
function unique(name: string): string {
  uniqueNumber++;
  return `${name}.${uniqueNumber}`;
}

/** A step that notes what it does, and undoes it. */
function booked(name: string) {
  return guest.step(
    unique(name),
    (city: string) => {
      done.push(`+${name} ${city}`);
      return { id: `${name}/${city}` };
    },
    {
      compensate: (booking, city) => {
        done.push(`-${booking.id} ${city}`);
      },
    },
  );
}

test("a run that fails undoes its steps, the last first, with their results and arguments", async () => {
  const flight = booked("flight");
  const hotel = booked("hotel");
  const name = unique("trip");
  guest.workflow(name, async () => {
    const booking = await flight("Rome");
    booking.id = "changed afterwards";
    await hotel("Rome");
    throw new Error("no car");
  });
  await host.start(name);
  await host.settle();
  expect(done).toEqual(["+flight Rome", "+hotel Rome", "-hotel/Rome Rome", "-flight/Rome Rome"]);
  expect(host.error().message).toBe("no car");
  const undone = host.records.filter(({ compensates }) => compensates !== undefined);
  expect(undone.map(({ compensates, event }) => `${compensates} ${event}`)).toEqual([
    `${hotel.stepName} started`,
    `${hotel.stepName} succeeded`,
    `${flight.stepName} started`,
    `${flight.stepName} succeeded`,
  ]);
});

test("a run that succeeds undoes nothing", async () => {
  const flight = booked("flight");
  const name = unique("trip");
  guest.workflow(name, () => flight("Rome"));
  await host.start(name);
  await host.settle();
  expect(done).toEqual(["+flight Rome"]);
  expect(host.output()).toEqual({ id: "flight/Rome" });
});

test("a compensation may be a step of its own, with its options, and is retried", async () => {
  let failures = 2;
  const release = guest.step(
    unique("release"),
    (n: number) => {
      if (failures-- > 0) throw new Error("busy");
      done.push(`released ${n}`);
    },
    { retries: 5, backoff: { initial: "1 min", jitter: 0 } },
  );
  const take = guest.step(unique("take"), () => 7, { compensate: release });
  const name = unique("take7");
  guest.workflow(name, async () => {
    await take();
    throw new Error("after it");
  });
  await host.start(name);
  await host.settle();
  await host.ok(host.last("timer").id);
  await host.ok(host.last("timer").id);
  await host.settle();
  expect(done).toEqual(["released 7"]);
  expect(host.error().message).toBe("after it");
  expect(host.events().filter((event) => event.startsWith(release.stepName))).toEqual(
    ["started", "retrying", "started", "retrying", "started", "succeeded"].map(
      (event) => `${release.stepName}:${event}`,
    ),
  );
});

test("a compensation that fails for good doesn't stop the others, and is told of", async () => {
  const flight = booked("flight");
  const hotel = guest.step(unique("hotel"), () => "h", {
    compensate: () => {
      throw new guest.NonRetryableError("the hotel doesn't answer");
    },
  });
  const name = unique("trip");
  guest.workflow(name, async () => {
    await flight("Rome");
    await hotel();
    throw new Error("no car");
  });
  await host.start(name);
  await host.settle();
  expect(done).toEqual(["+flight Rome", "-flight/Rome Rome"]);
  const error = host.error();
  expect(error.code).toBe("compensation-failed");
  expect(error.message).toContain(hotel.stepName);
  expect(error.cause?.message).toBe("no car");
  expect(decode(error.details ?? encode(0))).toMatchObject({ failed: [hotel.stepName] });
});

test("a cancelled run undoes what it did, and another cancellation doesn't stop that", async () => {
  const undo = guest.step(unique("undo"), async () => {
    await guest.signal("answer");
    done.push("undone");
  });
  const take = guest.step(unique("take"), () => 1, { compensate: undo });
  const name = unique("waits");
  guest.workflow(name, async () => {
    await take();
    await guest.sleep("1 day");
  });
  await host.start(name);
  await host.deliver({ kind: "cancel", reason: "enough" });
  await host.settle();
  await host.deliver({ kind: "cancel", reason: "at once" });
  expect(done).toEqual([]);
  await host.ok(host.last("wait").id);
  expect(done).toEqual(["undone"]);
  expect(host.error()).toMatchObject({
    class: "cancelled",
    message: "the run was canceled: enough",
  });
});

test("a step under way when the run fails is undone when it ends", async () => {
  const slow = guest.step(unique("slow"), () => guest.signal<string>("end"), {
    compensate: (value) => {
      done.push(`-${value}`);
    },
  });
  const bad = guest.step(
    unique("bad"),
    () => {
      throw new Error("bad");
    },
    { retries: 0 },
  );
  const name = unique("both");
  guest.workflow(name, () => Promise.all([slow(), bad()]));
  await host.start(name);
  await host.settle();
  expect(host.all("complete")).toEqual([]);
  await host.ok(host.last("wait").id, "late");
  await host.settle();
  expect(done).toEqual(["-late"]);
  expect(host.error().message).toBe("bad");
});

test("a run fails of its own error when a step that catches errors was to be tried again", async () => {
  const flight = booked("flight");
  const seat = guest.step(
    unique("seat"),
    () => {
      throw new Error("busy");
    },
    { compensate: () => done.push("-seat"), catchErrors: true, backoff: { initial: "1 min" } },
  );
  const name = unique("trip");
  guest.workflow(name, async () => {
    void seat();
    await flight("Rome");
    throw new Error("no car");
  });
  await host.start(name);
  await host.settle();
  expect(host.error().message).toBe("no car");
  expect(done).toEqual(["+flight Rome", "-flight/Rome Rome"]);
});

test("compensate() undoes on demand, and what was registered by hand", async () => {
  const flight = booked("flight");
  const name = unique("demand");
  guest.workflow(name, async () => {
    guest.addCompensation(`${name}.letter`, () => {
      done.push("-letter");
    });
    await flight("Rome");
    await guest.compensate();
    await guest.compensate();
    await flight("Oslo");
    return "kept";
  });
  await host.start(name);
  await host.settle();
  expect(done).toEqual(["+flight Rome", "-flight/Rome Rome", "-letter", "+flight Oslo"]);
  expect(host.output()).toBe("kept");
});

test("compensate() is not for the body of a step", async () => {
  const name = unique("within");
  guest.workflow(name, async () => {
    await guest.run(`${name}.step`, () => guest.compensate(), { retries: 0 });
  });
  await host.start(name);
  await host.settle();
  expect(host.error().code).toBe("invalid-request");
});

test("a step that continues in a graph is undone with the graph's value", async () => {
  const inner = guest.step(unique("inner"), (n: number) => n + 1);
  const outer = guest.step(unique("outer"), (n: number): guest.Graph<number> => inner.step(n), {
    compensate: (value, n) => {
      done.push(`${value} of ${n}`);
    },
  });
  const name = unique("graph");
  guest.workflow(name, async () => {
    await outer(1);
    throw new Error("no");
  });
  await host.start(name);
  await host.settle();
  expect(done).toEqual(["2 of 1"]);
});

test("what is undone begins after the activation in which the run fails", async () => {
  const flight = booked("flight");
  const name = unique("apart");
  guest.workflow(name, async () => {
    await flight("Rome");
    throw new Error("no");
  });
  const drained = await host.start(name);
  expect(drained.state).toBe("yielded");
  expect(done).toEqual(["+flight Rome"]);
});

test("an actor's method refuses a step with a compensation before it runs", async () => {
  const flight = booked("flight");
  const type = unique("Desk");
  guest.actor(
    type,
    class {
      book() {
        return flight("Rome");
      }
    },
  );
  await host.turn(type, "book", [], { state: encode({}) });
  expect(done).toEqual([]);
  const { outcome } = host.last("reply");
  expect(outcome).toMatchObject({ kind: "error", error: { code: "invalid-request" } });
});

test("the next attempt is given what the one before has said of its progress", async () => {
  const seen: unknown[] = [];
  const copy = guest.step(
    unique("copy"),
    async () => {
      const { step } = guest.context();
      seen.push(step?.lastProgress);
      step?.progress({ row: 1 });
      step?.progress({ row: 2 });
      await guest.signal("more");
      step?.progress({ row: 3 });
      throw new Error("lost");
    },
    { retries: 1, backoff: { initial: "1 s" } },
  );
  const name = unique("copies");
  guest.workflow(name, () => copy());
  const drained = await host.start(name);
  expect(drained.progress).toEqual({ step: copy.stepName, value: encode({ row: 2 }) });
  await host.ok(host.last("wait").id);
  await host.ok(host.last("timer").id);
  expect(seen).toEqual([undefined, { row: 3 }]);
  expect(host.events().slice(0, 5)).toEqual(
    ["started", "progress", "progress", "retrying", "started"].map(
      (event) => `${copy.stepName}:${event}`,
    ),
  );
});

test("progress over its size is refused, and a late attempt has nothing to say", async () => {
  let late: ((value: unknown) => void) | undefined;
  const big = guest.step(
    unique("big"),
    async () => {
      const { step } = guest.context();
      late = step?.progress;
      step?.progress("x".repeat(17_000));
    },
    { retries: 0 },
  );
  const name = unique("bigs");
  guest.workflow(name, async () => {
    await big().catch(() => undefined);
    late?.("after the end");
    return "ok";
  });
  await host.start(name);
  await host.settle();
  expect(host.output()).toBe("ok");
  expect(host.events()).toEqual([`${big.stepName}:started`, `${big.stepName}:failed`]);
  expect(host.records[1]?.error?.code).toBe("value-too-large");
});

test("a step of the same identity and arguments takes another run's result", async () => {
  const effect = guest.step(unique("effect"), (n: number) => {
    done.push(`ran ${n}`);
    return n;
  });
  const name = unique("again");
  guest.workflow(name, async (a: number, b: number) => [await effect(a), await effect(b)]);
  const id = effect.stepName;
  await host.deliver({
    kind: "start",
    run: { ...(await import("./host.ts")).runInfo(name) },
    args: encode([1, 3]),
    reuse: [
      { step: id, args: encode([1]), value: encode(10) },
      { step: `${id}_1`, args: encode([2]), value: encode(20) },
    ],
  });
  expect(host.output()).toEqual([10, 3]);
  expect(done).toEqual(["ran 3"]);
  expect(host.records[1]).toMatchObject({ event: "succeeded", isReused: true });
});
