/**
 * What every host does over HTTP, as a function of a factory: the same for a Node process
 * and for the Worker. Deploys test/acceptance/project.ts and uses it as a person would.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Client } from "../../client/index.ts";
import { ask, type Outside, projectCode, startOutside, until } from "../acceptance/kit.ts";
import {
  Actor,
  account,
  add,
  Counter,
  chain,
  child,
  collector,
  combinators,
  countdown,
  dynamic,
  echo,
  fib,
  fragile,
  given,
  globals,
  Ledger,
  nap,
  one,
  parent,
  polite,
  random,
  retried,
  stored,
  tally,
  waiter,
} from "../acceptance/project.ts";

export interface HostUnderTest {
  readonly url: string;
  readonly client: Client;
}

export interface HostSuite {
  readonly name: string;
  /** With empty storage. The file puts it away. */
  readonly open: () => Promise<HostUnderTest>;
}

export function testHost({ name, open }: HostSuite): void {
  describe(name, () => {
    let server: HostUnderTest;
    let outside: Outside;
    let client: Client;

    beforeAll(async () => {
      const code = await projectCode();
      [server, outside] = await Promise.all([open(), startOutside()]);
      client = server.client;
      await client.deploy(code);
    });
    afterAll(() => outside?.close());

    const waitingFor = (id: string, what: string): Promise<void> =>
      until(`${id} waits for ${what}`, async () =>
        ((await client.handle(id).info()).waiting?.for ?? "").includes(what),
      );

    describe("values and graphs", () => {
      it("runs the graphs of Ray's documentation", async () => {
        expect(await client.run(add.step(100, one.step()), { id: "run_1" })).toBe(101);
        expect(await client.run(fib.step(10))).toBe(55);
        const steps = await client.handle("run_1").steps();
        expect(steps.map(({ name, status, value }) => [name, status, value])).toEqual([
          ["one", "SUCCESSFUL", 1],
          ["add", "SUCCESSFUL", 101],
        ]);
      });

      it("recurses through 3,000 steps without growing", async () => {
        expect(await client.run(countdown.step(3000), { id: "countdown" })).toBe("lift-off");
      });

      it("chooses graphs by values that are known only then", async () => {
        expect(await client.run(dynamic.with(9))).toBe(55);
        expect(await client.run(dynamic.with(10))).toBe("lift-off");
      });

      it("brings values back as what they were", async () => {
        const value = {
          date: new Date(1e12),
          map: new Map<unknown, unknown>([[{ a: 1 }, new Set([1n, "x"])]]),
          big: -(2n ** 80n),
          bytes: new Uint8Array([0, 255]),
          none: undefined,
          nan: Number.NaN,
          nothing: null,
          "": "empty key",
          __proto__x: 1,
        };
        expect(await client.run(echo.with(value))).toEqual(value);
        const error = await client.run(echo.with(new RangeError("kept")));
        expect(error).toBeInstanceOf(RangeError);
        expect(error).toHaveProperty("message", "kept");
      });

      it("gives guest code the globals that it expects", async () => {
        const output = await client.run(globals.with(outside.url), { id: "globals" });
        expect(output).toEqual({
          href: "http://a.test/b?c=1#d",
          search: "q=a+b",
          text: "grüße 🌱",
          base64: "spore",
          isAborted: true,
          cloned: new Map([["epoch", new Date(0)]]),
          uuid: expect.stringMatching(
            /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
          ),
          waitedMs: expect.any(Number),
          fetched: { status: 200, body: { method: "POST", body: '{"a":1}', header: "yes" } },
        });
        expect((output as { waitedMs: number }).waitedMs).toBeGreaterThanOrEqual(30);
        const events = await client.handle("globals").history();
        expect(JSON.stringify(events.filter(({ type }) => type === "log"))).toContain(
          "hello from globals",
        );
      });

      it("gives each run random numbers of its own", async () => {
        await client.start(random.with(), { id: "random_a" });
        await client.start(random.with(), { id: "random_b" });
        await waitingFor("random_a", "go");
        await waitingFor("random_b", "go");
        const a = await client.handle("random_a").query("draws");
        expect(await client.handle("random_a").query("draws")).toEqual(a);
        expect(await client.handle("random_b").query("draws")).not.toEqual(a);
      });

      it("stores a large value by reference", async () => {
        expect(await client.run(stored.with(500_000))).toBe(500_000);
      });
    });

    describe("imperative workflows", () => {
      it("combine promises as JavaScript does", async () => {
        expect(await client.run(combinators.with())).toEqual({
          all: [1, 2, 3],
          race: "fast",
          any: "b",
          settled: [4, "RangeError: c"],
        });
      });

      it("sleep at least as long as they say", async () => {
        const sleptMs = await client.run(nap.with(250));
        expect(sleptMs).toBeGreaterThanOrEqual(250);
      });

      it("start children, await them, and see their failures", async () => {
        expect(await client.run(parent.with(4), { id: "family" })).toEqual([10, 8]);
        expect(await client.getStatus("child_of_family")).toBe("SUCCESSFUL");
        await expect(client.run(parent.with(-5))).rejects.toThrow(/n is negative/);
        await expect(client.run(child.with(-1))).rejects.toThrow(new RangeError("n is negative"));
      });
    });

    describe("messages", () => {
      it("a signal that came before the wait is taken, as one that comes after", async () => {
        const early = await client.start(waiter.with("go"), { id: "waiter_early" });
        await early.signal("go", { by: "early" });
        expect(await early.result()).toEqual({ by: "early" });
        const late = await client.start(waiter.with("go"), { id: "waiter_late" });
        await waitingFor("waiter_late", "go");
        await late.signal("other", 1);
        await late.signal("go", new Date(5));
        expect(await late.result()).toEqual(new Date(5));
      });

      it("a wait ends with its timeout", async () => {
        expect(await client.run(waiter.with("go", 60))).toBe("nobody came");
      });

      it("signals arrive once and in the order in which one client sent them", async () => {
        const run = await client.start(collector.with(50), { id: "collector" });
        for (let index = 0; index < 50; index++) await run.signal("item", index);
        expect(await run.result()).toEqual(Array.from({ length: 50 }, (_, index) => index));
      });

      it("a signal with one message id counts once", async () => {
        const run = await client.start(collector.with(2), { id: "collector_twice" });
        const send = (value: number, messageId: string) =>
          ask(server, "POST", "/v1/runs/collector_twice/signals/item", {
            json: { value, messageId },
          });
        expect((await send(1, "m1")).body).toEqual({ duplicate: false });
        expect((await send(1, "m1")).body).toEqual({ duplicate: true });
        await send(2, "m2");
        expect(await run.result()).toEqual([1, 2]);
      });

      it("queries read a run while it runs and after it; updates change it", async () => {
        const run = await client.start(account.with(100), { id: "account" });
        expect(await run.update("deposit", 20)).toBe(120);
        expect(await run.query("balance")).toBe(120);
        const deposits = [1, 2, 3].map((amount) => run.update("deposit", amount));
        expect(await Promise.all(deposits)).toHaveLength(3);
        expect(await run.query("balance")).toBe(126);
        await expect(run.update("deposit", -1)).rejects.toThrow(/more than nothing/);
        expect((await run.info()).queries).toContain("balance");
        await run.signal("close");
        expect(await run.result()).toBe(126);
        expect(await run.query("balance")).toBe(126);
      });

      it("a query that writes changes nothing", async () => {
        const run = await client.start(account.with(5), { id: "vandal" });
        expect(await run.query("vandal")).toBe(1_000_000);
        expect(await run.query("balance")).toBe(5);
        await run.signal("close");
        expect(await run.result()).toBe(5);
      });
    });

    describe("failures", () => {
      it("a step is tried again after growing waits, and counts its attempts", async () => {
        outside.refusals.set("/retried", 2);
        expect(await client.run(retried.with(`${outside.url}/retried`), { id: "retried" })).toBe(
          "/retried",
        );
        expect(outside.calls.get("/retried")).toBe(3);
        const [step] = await client.handle("retried").steps();
        expect(step).toMatchObject({ name: "effect", status: "SUCCESSFUL", attempt: 3 });
        const events = await client.handle("retried").history();
        expect(events.filter(({ type }) => type === "step.retrying")).toHaveLength(2);
      });

      it("an error that can't get better is not tried again, and keeps its code", async () => {
        const failure: unknown = await client
          .run(given.with(), { id: "given" })
          .catch((error) => error);
        expect(failure).toHaveProperty("message", "it will not get better");
        expect(failure).toHaveProperty("code", "hopeless");
        const info = await client.handle("given").info();
        expect(info).toMatchObject({ status: "FAILED", error: { code: "hopeless" } });
      });

      it("a failed run goes on from the step that failed", async () => {
        outside.refusals.set("/f/second", 1);
        const run = await client.start(fragile.with(`${outside.url}/f`), { id: "fragile" });
        await expect(run.result()).rejects.toThrow("refused with 503");
        expect(await run.status()).toBe("FAILED");
        await run.resume();
        expect(await run.result()).toEqual(["/f/first", "/f/second"]);
        expect(outside.calls.get("/f/first")).toBe(1);
        expect(outside.calls.get("/f/second")).toBe(2);
      });

      it("starting a failed run again resumes it, and resume-all takes those that are left", async () => {
        outside.refusals.set("/g/second", 1);
        outside.refusals.set("/h/second", 1);
        const what = fragile.with(`${outside.url}/g`);
        await expect(client.run(what, { id: "again" })).rejects.toThrow("refused");
        expect(await client.run(what, { id: "again" })).toHaveLength(2);
        await expect(
          client.run(fragile.with(`${outside.url}/h`), { id: "left" }),
        ).rejects.toThrow();
        const resumed = await client.resumeAll({ includeFailed: true });
        expect(resumed.map(({ id }) => id)).toContain("left");
        expect(await client.getOutput("left")).toHaveLength(2);
      });
    });

    describe("one id, one run", () => {
      const start = (body: object, headers: Record<string, string> = {}) =>
        ask(server, "POST", "/v1/workflows/echo?wait=10s", { json: body, headers });

      it("the same start again gets the same run, another input is refused", async () => {
        const first = await start({ id: "once", args: [1] });
        expect([first.status, first.body]).toEqual([
          201,
          { id: "once", status: "SUCCESSFUL", created: true, output: 1 },
        ]);
        const second = await start({ id: "once", args: [1] });
        expect([second.status, second.body]).toEqual([
          200,
          { id: "once", status: "SUCCESSFUL", created: false, output: 1 },
        ]);
        const other = await start({ id: "once", args: [2] });
        expect([other.status, other.body.code]).toEqual([409, "input-mismatch"]);
      });

      it("ifExists fail, start and terminate do what they say", async () => {
        await start({ id: "exists", args: [1] });
        const fail = await start({ id: "exists", args: [1], ifExists: "fail" });
        expect([fail.status, fail.body.code]).toEqual([409, "run-exists"]);
        const fresh = await start({ id: "exists", args: [2], ifExists: "start" });
        expect([fresh.status, fresh.body.output]).toEqual([201, 2]);
        await client.start(waiter.with("go"), { id: "busy" });
        const busy = await start({ id: "busy", args: [3], ifExists: "start" });
        expect([busy.status, busy.body.code]).toEqual([409, "run-active"]);
        const ended = await start({ id: "busy", args: [3], ifExists: "terminate" });
        expect([ended.status, ended.body.output]).toEqual([201, 3]);
      });

      it("an Idempotency-Key makes a start without an id safe to repeat", async () => {
        const headers = { "idempotency-key": "key-1" };
        const first = await start({ args: ["a"] }, headers);
        const second = await start({ args: ["a"] }, headers);
        expect(second.body).toEqual({ ...first.body, created: false });
        const other = await start({ args: ["b"] }, headers);
        expect([other.status, other.body.code]).toEqual([409, "idempotency-mismatch"]);
      });
    });

    describe("a run's life from outside", () => {
      it("?wait answers 202 while it runs and the output when it is there", async () => {
        await client.start(waiter.with("go"), { id: "polled" });
        const pending = await ask(server, "GET", "/v1/runs/polled/output?wait=50ms");
        expect([pending.status, pending.body]).toEqual([202, { id: "polled", status: "RUNNING" }]);
        const waiting = ask(server, "GET", "/v1/runs/polled/output?wait=30s");
        await client.handle("polled").signal("go", "done");
        expect((await waiting).body).toEqual({
          id: "polled",
          status: "SUCCESSFUL",
          output: "done",
        });
      });

      it("output?step gives one step's value", async () => {
        await client.run(add.step(40, one.step()), { id: "stepwise" });
        expect(await client.getOutput("stepwise", { step: "one" })).toBe(1);
        const missing = await ask(server, "GET", "/v1/runs/stepwise/output?step=two&wait=0s");
        expect(missing.body.code).toBe("step-not-found");
      });

      it("events stream live, and go on after Last-Event-ID", async () => {
        const run = await client.start(collector.with(2), { id: "streamed" });
        const seen: string[] = [];
        const following = (async () => {
          for await (const event of run.events()) seen.push(`${event.index} ${event.type}`);
        })();
        await run.signal("item", 1);
        await run.signal("item", 2);
        await following;
        const history = await run.history();
        expect(seen).toEqual(history.map(({ index, type }) => `${index} ${type}`));
        expect(seen.at(-1)).toMatch(/run\.succe/);
        const response = await fetch(`${server.url}/v1/runs/streamed/events`, {
          headers: { accept: "text/event-stream", "last-event-id": "1" },
        });
        const ids = [...(await response.text()).matchAll(/^id: ?(\d+)$/gm)].map(([, id]) =>
          Number(id),
        );
        expect(ids).toEqual(history.slice(2).map(({ index }) => index));
      });

      it("runs are listed newest first, page by page, by status, name and tag", async () => {
        for (let index = 0; index < 7; index++) {
          await client.run(echo.with(index), {
            id: `page_${index}`,
            tags: { book: index < 2 ? "a" : "b" },
          });
        }
        const first = await ask(server, "GET", "/v1/runs?prefix=page_&limit=3");
        const ids = (answer: { body: Record<string, unknown> }): string[] =>
          (answer.body.runs as { id: string }[]).map(({ id }) => id);
        expect(ids(first)).toEqual(["page_6", "page_5", "page_4"]);
        const second = await ask(
          server,
          "GET",
          `/v1/runs?prefix=page_&limit=3&cursor=${first.body.cursor}`,
        );
        expect(ids(second)).toEqual(["page_3", "page_2", "page_1"]);
        const all = await client.listAll({ prefix: "page_", tag: { key: "book", value: "a" } });
        expect(all.map(({ id }) => id)).toEqual(["page_1", "page_0"]);
        const failed = await client.listAll({ status: ["FAILED", "CANCELED"], name: "given" });
        expect(failed.map(({ id, status }) => [id, status])).toEqual([["given", "FAILED"]]);
      });

      it("cancel lets the workflow clean up, terminate does not", async () => {
        const cancelled = await client.start(polite.with(`${outside.url}/p1`), { id: "polite_1" });
        await waitingFor("polite_1", "never");
        await cancelled.cancel("enough");
        await expect(cancelled.result()).rejects.toMatchObject({ code: "run-canceled" });
        expect(await cancelled.status()).toBe("CANCELED");
        expect(outside.calls.get("/p1/cleanup")).toBe(1);
        const ended = await client.start(polite.with(`${outside.url}/p2`), { id: "polite_2" });
        await waitingFor("polite_2", "never");
        expect((await ended.terminate("now")).status).toBe("CANCELED");
        expect(outside.calls.get("/p2/cleanup")).toBeUndefined();
      });

      it("a paused run begins nothing, keeps its messages, and goes on", async () => {
        const run = await client.start(waiter.with("go"), { id: "paused" });
        await waitingFor("paused", "go");
        expect((await run.pause()).status).toBe("PAUSED");
        await run.signal("go", "kept");
        const pending = await ask(server, "GET", "/v1/runs/paused/output?wait=100ms");
        expect(pending.body).toEqual({ id: "paused", status: "PAUSED" });
        await run.resume();
        expect(await run.result()).toBe("kept");
      });

      it("a paused run that is canceled cleans up, once it is resumed", async () => {
        const run = await client.start(polite.with(`${outside.url}/p3`), { id: "polite_3" });
        await waitingFor("polite_3", "never");
        await run.pause();
        expect((await run.cancel("enough")).status).toBe("PAUSED");
        expect((await run.cancel("really")).status).toBe("PAUSED");
        const { waiting } = await run.info();
        expect(waiting?.for).toBe("somebody to resume it (paused, and canceled then)");
        expect(outside.calls.get("/p3/cleanup")).toBeUndefined();
        await run.resume();
        const error = await run.result().catch((thrown: unknown) => thrown);
        expect(error).toMatchObject({
          code: "run-canceled",
          cause: { message: "the run was canceled: enough" },
        });
        expect(outside.calls.get("/p3/cleanup")).toBe(1);
      });

      it("a deleted run is gone, and its id is free", async () => {
        await client.run(echo.with("old"), { id: "reused" });
        await client.deleteRun("reused");
        await expect(client.getStatus("reused")).rejects.toMatchObject({ code: "run-not-found" });
        expect(await client.run(echo.with("new"), { id: "reused" })).toBe("new");
        await client.start(waiter.with("go"), { id: "undeletable" });
        await expect(client.deleteRun("undeletable")).rejects.toMatchObject({ code: "run-active" });
      });

      it("a hundred runs go side by side", async () => {
        const outputs = await Promise.all(
          Array.from({ length: 100 }, (_, n) =>
            client.run(chain.with(`${outside.url}/many/${n}`, 3)),
          ),
        );
        expect(outputs).toEqual(new Array(100).fill(3));
      });
    });

    describe("actors", () => {
      it("calls take effect in order, also when nobody awaits them", async () => {
        const counter = await client.getOrCreate(Counter, "ordered", 0);
        expect(await counter.incr(10)).toBe(10);
        const sends = [counter.send.incr(10), counter.send.incr(10)];
        expect(await counter.value()).toBe(30);
        await Promise.all(sends);
        const calls = Array.from({ length: 100 }, () => counter.incr());
        expect(await Promise.all(calls)).toEqual(
          Array.from({ length: 100 }, (_, index) => 31 + index),
        );
      });

      it("a read sees what its client did before, and the calls after it go on at once", async () => {
        const counter = await client.getOrCreate(Counter, "read", 0);
        const values = [];
        for (let round = 0; round < 5; round++) {
          values.push(counter.incr(), counter.value());
        }
        expect(await Promise.all(values)).toEqual([1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
      });

      it("a method that says it only reads can't change anything", async () => {
        const counter = await client.getOrCreate(Counter, "sneaky", 3);
        expect(await counter.sneak()).toBe(666);
        expect(await counter.value()).toBe(3);
        expect(await counter.incr()).toBe(4);
      });

      it("a method may return a graph of steps and of its own methods", async () => {
        const actor = await client.getOrCreate(Actor, "doubler");
        const values = [];
        for (const isStored of [false, false, true, false])
          values.push(await actor.double(isStored));
        expect(values).toEqual([2, 2, 2, 4]);
      });

      it("a method that throws leaves the state as it was, and its caller gets the error", async () => {
        const counter = await client.getOrCreate(Counter, "boom", 7);
        await expect(counter.explode()).rejects.toThrow(new RangeError("boom"));
        expect(await counter.value()).toBe(7);
        expect(await counter.incr()).toBe(8);
      });

      it("a method may do steps with effects, one turn at a time", async () => {
        outside.refusals.set("/visit", 1);
        const counter = await client.getOrCreate(Counter, "visitor", 0);
        const visits = [
          counter.visit(`${outside.url}/visit`),
          counter.visit(`${outside.url}/visit2`),
        ];
        expect(await Promise.all(visits)).toEqual(["/visit", "/visit2"]);
        expect(await counter.value()).toBe(2);
        expect(outside.calls.get("/visit")).toBe(2);
      });

      it("is created once, whoever asks, and keeps to its first arguments", async () => {
        const first = await ask(server, "PUT", "/v1/actors/Counter/shared", {
          json: { args: [5] },
        });
        expect([first.status, first.body.created]).toEqual([201, true]);
        const second = await ask(server, "PUT", "/v1/actors/Counter/shared", {
          json: { args: [9] },
        });
        expect([second.status, second.body.created]).toEqual([200, false]);
        expect(await client.actor(Counter, "shared").value()).toBe(5);
      });

      it("a call with one call id happens once", async () => {
        const call = () =>
          ask(server, "POST", "/v1/actors/Counter/idempotent/incr", {
            json: { args: [2], callId: "c1" },
          });
        expect((await call()).body).toEqual({ callId: "c1", result: 2 });
        expect((await call()).body).toEqual({ callId: "c1", result: 2 });
        const keyed = () =>
          ask(server, "POST", "/v1/actors/Counter/idempotent/incr", {
            json: { args: [1] },
            headers: { "idempotency-key": "k1" },
          });
        const answers = [await keyed(), await keyed()];
        expect(answers.map(({ body }) => body.result)).toEqual([3, 3]);
      });

      it("?async=1 gives a call id at once, and the result later under it", async () => {
        const accepted = await ask(server, "POST", "/v1/actors/Counter/async/incr?async=1", {
          json: { args: [4] },
        });
        expect(accepted.status).toBe(202);
        const location = accepted.headers.get("location") ?? "";
        expect((await ask(server, "GET", `${location}?wait=10s`)).body.result).toBe(4);
      });

      it("calls of a session are put into their order, whatever order they arrive in", async () => {
        const send = (seq: number) =>
          ask(server, "POST", "/v1/actors/Ledger/session/note", {
            json: { args: [`call ${seq}`] },
            headers: { "spore-session": "s1", "spore-seq": String(seq) },
          });
        const answers = await Promise.all([send(3), send(2), send(1)]);
        expect(answers.map(({ body }) => body.result)).toEqual([3, 2, 1]);
        expect(await client.actor(Ledger, "session").all()).toEqual(["call 1", "call 2", "call 3"]);
      });

      it("a workflow's calls to an actor arrive in its order", async () => {
        expect(await client.run(tally.with("tallied", 20))).toBe(21);
        const entries = await client.actor(Ledger, "tallied").all();
        expect(entries).toEqual([...Array.from({ length: 20 }, (_, index) => `n${index}`), "last"]);
      });

      it("a deleted actor begins anew", async () => {
        const counter = await client.getOrCreate(Counter, "deleted", 40);
        await counter.incr();
        await client.deleteActor("Counter", "deleted");
        await expect(client.getActor("Counter", "deleted")).rejects.toMatchObject({
          code: "actor-not-found",
        });
        const again = await client.getOrCreate(Counter, "deleted", 1);
        expect(await again.value()).toBe(1);
      });
    });
  });
}
