/** Runs made of other runs, versions, compensations: against a real server process. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  ask,
  codeOf,
  type Outside,
  putAway,
  type ServerProcess,
  spore,
  startOutside,
  startServer,
  temporaryFolder,
  until,
} from "./kit.ts";
import type * as Project from "./runs-project.ts";

let server: ServerProcess;
let outside: Outside;
let client: ServerProcess["client"];
let first: string;
let code: string;

/** The project as another component: `charge` is what it does otherwise. */
const bundle = (version: string, charge = "1"): string =>
  code.replaceAll("VERSION", version).replaceAll("CHARGE", charge);

beforeAll(async () => {
  [code, outside] = await Promise.all([codeOf("test/acceptance/runs-project.ts"), startOutside()]);
  server = await startServer({ folder: await temporaryFolder() });
  client = server.client;
  first = (await client.deploy(bundle("v1"))).id;
});

afterAll(async () => {
  await putAway();
  await outside?.close();
});

const project = (name: keyof typeof Project, ...args: readonly unknown[]) =>
  ({ $workflow: name, args }) as unknown as Parameters<typeof client.start>[0];
const calls = (path: string): number => outside.calls.get(`/${path}`) ?? 0;
const waitingFor = (id: string, what: string): Promise<void> =>
  until(`${id} waits for ${what}`, async () =>
    ((await client.handle(id).info()).waiting?.for ?? "").includes(what),
  );

/** A journey that has come to its end. */
async function journeyOf(id: string): Promise<unknown> {
  const run = await client.start(project("journey", outside.url, id), { id });
  await run.signal("go", "one");
  await waitingFor(id, "signal go");
  await until("the second", () => calls(`${id}-second`) === 1);
  await run.signal("go", "two");
  return run.result();
}

describe("a fork", () => {
  it("goes on from a step, and does nothing of its past again", async () => {
    const whole = await journeyOf("j1");
    const answer = await ask(server, "POST", "/v1/runs/j1/fork", {
      json: { step: "note_2", id: "j1-fork" },
    });
    expect([answer.status, answer.body]).toEqual([
      201,
      { id: "j1-fork", status: "RUNNING", created: true },
    ]);
    const { seen } = whole as { seen: string[] };
    expect(await client.getOutput("j1-fork")).toEqual({ seen, run: "j1-fork" });
    expect([calls("j1-first"), calls("j1-beside"), calls("j1-second")]).toEqual([1, 1, 2]);
    expect(calls("j1-third")).toBe(2);
  });

  it("shows the steps and the values of its past, and both runs name each other", async () => {
    const fork = await client.handle("j1-fork").info();
    expect(fork).toMatchObject({
      forkedFrom: { id: "j1", step: "note_2" },
      tags: { place: "middle" },
    });
    await until("the link", async () => (await client.handle("j1").info()).forks.length > 0);
    expect((await client.handle("j1").info()).forks).toEqual(["j1-fork"]);
    const named = async (id: string) =>
      (await client.handle(id).steps()).map(({ step, status }) => `${step} ${status}`);
    expect(await named("j1-fork")).toEqual(await named("j1"));
    expect(await client.handle("j1-fork").published("place")).toBe("first");
    const events = await client.handle("j1-fork").history();
    expect(events.map(({ index }) => index)).toEqual(events.map((_, at) => at));
    expect(await client.handle("j1-fork").query("seen")).toEqual(
      (await client.getOutput<{ seen: string[] }>("j1")).seen,
    );
  });

  it("can part before any step, of an open run too, and again from a fork", async () => {
    const run = await client.start(project("journey", outside.url, "j2"), { id: "j2" });
    await run.signal("go", "one");
    await until("the second", () => calls("j2-second") === 1);
    await waitingFor("j2", "signal go");
    for (const step of ["note", "note_1", "sum", "sum_1", "sum_2", "note_2"]) {
      const fork = await run.fork(step, { id: `j2-${step}` });
      await waitingFor(fork.id, "signal go").catch(async (error) => {
        throw new Error(JSON.stringify(await fork.info()), { cause: error });
      });
    }
    expect(calls("j2-first")).toBe(2);
    const again = await client.handle("j2-note_2").fork("sum_1", { id: "j2-again" });
    await waitingFor(again.id, "signal go");
    await again.signal("go", "other");
    expect(await again.result()).toMatchObject({ run: "j2-again" });
    expect(calls("j2-first")).toBe(2);
    expect((await run.info()).status).toBe("RUNNING");
    await run.signal("go", "own");
    const { seen } = (await run.result()) as { seen: string[] };
    expect(seen).toContain("own");
  });

  it("is found by a repeated request, and refuses an id that is taken", async () => {
    const repeat = { json: { step: "note_2", id: "j1-fork" } };
    const again = await ask(server, "POST", "/v1/runs/j1/fork", repeat);
    expect([again.status, again.body.created]).toEqual([200, false]);
    const keyed = { json: { step: "note_2" }, headers: { "idempotency-key": "k1" } };
    const one = await ask(server, "POST", "/v1/runs/j1/fork", keyed);
    const two = await ask(server, "POST", "/v1/runs/j1/fork", keyed);
    expect([one.status, two.status, two.body.id]).toEqual([201, 200, one.body.id]);
    const taken = await ask(server, "POST", "/v1/runs/j1/fork", {
      json: { step: "sum", id: "j1-fork" },
    });
    expect([taken.status, taken.body.code]).toEqual([409, "run-exists"]);
    const unknown = await ask(server, "POST", "/v1/runs/j1/fork", { json: { step: "nothing" } });
    expect([unknown.status, unknown.body.code]).toEqual([404, "step-not-found"]);
    const nobody = await ask(server, "POST", "/v1/runs/nobody/fork", { json: { step: "sum" } });
    expect([nobody.status, nobody.body.code]).toEqual([404, "run-not-found"]);
  });

  it("repeats neither the child nor the actor's call of its past", async () => {
    const run = await client.start(project("family", outside.url, "fork"), { id: "family" });
    const whole = (await run.result()) as { child: string };
    const fork = await run.fork("note");
    expect(await fork.result()).toEqual(whole);
    expect([calls("child"), calls("family")]).toEqual([1, 2]);
    const tally = await client.call({ type: "Tally", key: "fork", method: "value" }, []);
    expect(tally).toBe(1);
  });

  it("gets what is beside its step in the very first activation, and what ended there", async () => {
    const run = await client.start(project("together", outside.url), { id: "together" });
    const whole = ["/together", "/leaf", 3];
    expect(await run.result()).toEqual(whole);
    for (const step of ["note", "sum"]) {
      const fork = await run.fork(step);
      expect(await fork.result()).toEqual(whole);
      const steps = await fork.steps();
      expect(steps.map(({ status }) => status)).toEqual(["SUCCESSFUL", "SUCCESSFUL"]);
    }
  });

  it("has the decision of an event that its past had", async () => {
    const run = await client.start(project("decided", outside.url), { id: "decided" });
    const token = await run.published<string>("token");
    await ask(server, "POST", `/v1/events/${token}`, { json: { value: "yes" } });
    expect(await run.result()).toEqual(["yes", "/after-yes"]);
    expect(await (await run.fork("note")).result()).toEqual(["yes", "/after-yes"]);
    expect(calls("after-yes")).toBe(2);
  });

  it("parts where a resumed run went on, and in the life that a continued run is in", async () => {
    outside.refusals.set("/shaky", 1);
    const run = await client.start(project("resumed", outside.url), { id: "resumed" });
    await expect(run.result()).rejects.toThrow("shaky: 503");
    await run.resume();
    expect(await run.result()).toBe("/shaky");
    expect(await (await run.fork("note_1")).result()).toBe("/shaky");
    expect([calls("resumed-before"), calls("shaky"), calls("resumed-after")]).toEqual([1, 2, 2]);
    expect(await (await run.fork("shaky")).result()).toBe("/shaky");
    expect([calls("resumed-before"), calls("shaky"), calls("resumed-after")]).toEqual([1, 3, 3]);
    const lived = await client.start(project("lives", outside.url, 1), { id: "lives" });
    expect(await lived.result()).toBe("lived 2");
    expect(await (await lived.fork("note_1")).result()).toBe("lived 2");
    expect([calls("life-1"), calls("life-2"), calls("life-end")]).toEqual([1, 1, 2]);
    expect(await (await lived.rerun()).result()).toBe("lived 2");
    expect([calls("life-1"), calls("life-2")]).toEqual([1, 2]);
  });

  it("has the updates of its past, and the signals that came since", async () => {
    const run = await client.start(project("updated", outside.url), { id: "updated" });
    expect(await run.update("add", "one")).toBe(1);
    await run.signal("close");
    expect(await run.result()).toEqual(["/update-one"]);
    const fork = await run.fork("note_1");
    expect(await fork.result()).toEqual(["/update-one"]);
    const again = await run.fork("note");
    await until("its update ran again", () => calls("update-one") === 2);
    // The signal that came since lies in the fork, which ends of it.
    expect(await again.result()).toEqual(["/update-one"]);
  });

  it("is refused when the run has had more than is kept, which it goes on without", async () => {
    const run = await client.start(project("swallower", 11), { id: "swallower" });
    for (let i = 0; i < 10; i++) await run.signal("bytes", "x".repeat(900_000));
    await until("all are read", async () => (await run.info()).waiting?.for === "signal bytes");
    await run.signal("bytes", "end");
    expect(await run.result()).toBe(9_000_003);
    const refused = await ask(server, "POST", "/v1/runs/swallower/fork", { json: { step: "sum" } });
    expect([refused.status, refused.body.code]).toEqual([409, "not-replayable"]);
    const rerun = await run.rerun({ args: [0], reuse: true });
    expect(await rerun.result()).toBe(0);
    expect((await rerun.steps())[0]).toMatchObject({ step: "sum", reused: true });
  });

  it("passes the queue that its run has passed, and asks for nothing before", async () => {
    const one = await client.start(project("narrow", outside.url, "1"), { id: "narrow-1" });
    await one.signal("pass");
    await one.result();
    const two = await client.start(project("narrow", outside.url, "2"), { id: "narrow-2" });
    await waitingFor("narrow-2", "signal pass");
    const fork = await one.fork("note");
    const rerun = await one.rerun();
    for (const run of [fork, rerun]) {
      const { status, waiting } = await run.info();
      expect([status, waiting?.for]).toEqual(["PENDING", expect.stringContaining("narrow")]);
    }
    expect([calls("narrow-1"), calls("narrow-1-end")]).toEqual([1, 1]);
    await two.signal("pass");
    expect(await fork.result()).toBe("/narrow-1-end");
    await rerun.signal("pass");
    expect(await rerun.result()).toBe("/narrow-1-end");
    expect(calls("narrow-1")).toBe(3);
  });

  it("survives the death of its host like any run", async () => {
    await journeyOf("j3");
    const fork = await client.handle("j3").fork("note", { id: "j3-fork" });
    await until("its first", () => calls("j3-first") === 2);
    await server.kill();
    server = await startServer({ folder: server.folder, port: server.port });
    expect(await fork.result()).toMatchObject({ run: "j3-fork" });
    expect(calls("j3-third")).toBe(2);
  });
});

describe("a rerun", () => {
  it("does it again, as a run of its own", async () => {
    const answer = await ask(server, "POST", "/v1/runs/j1/rerun", { json: { id: "j1-rerun" } });
    expect([answer.status, answer.body.created]).toEqual([201, true]);
    await until("its first", () => calls("j1-first") === 2);
    expect(await client.handle("j1-rerun").info()).toMatchObject({ rerunOf: "j1" });
    await until("the link", async () => (await client.handle("j1").info()).reruns.length > 0);
    const again = await ask(server, "POST", "/v1/runs/j1/rerun", { json: { id: "j1-rerun" } });
    expect([again.status, again.body.created]).toEqual([200, false]);
    await client.cancel("j1-rerun");
  });

  it("takes other arguments, and the results of steps whose arguments are the same", async () => {
    await client.run(project("bookings", outside.url, ["a", "b"]), { id: "ab" });
    const args = [outside.url, ["a", "c"]];
    const rerun = await client.handle("ab").rerun({ args, reuse: true });
    expect(await rerun.result()).toBe(2);
    expect([calls("book-a"), calls("book-b"), calls("book-c")]).toEqual([1, 1, 1]);
    const steps = await rerun.steps();
    expect(steps.map(({ step, reused }) => [step, reused])).toEqual([
      ["book", true],
      ["book_1", undefined],
    ]);
    await (await client.handle("ab").rerun()).result();
    expect([calls("book-a"), calls("book-b")]).toEqual([2, 2]);
  });

  it("of a graph takes a root, and of a workflow arguments", async () => {
    const root = { $step: "sum", args: [1, 2] };
    await ask(server, "POST", "/v1/graphs?wait=30s", { json: { root, id: "graph" } });
    const other = { root: { $step: "sum", args: [5, 6] }, id: "graph-2" };
    await ask(server, "POST", "/v1/runs/graph/rerun", { json: other });
    expect(await client.getOutput("graph-2")).toBe(11);
    const args = await ask(server, "POST", "/v1/runs/graph/rerun", { json: { args: [1] } });
    expect([args.status, args.body.code]).toEqual([400, "invalid-request"]);
    const wrong = await ask(server, "POST", "/v1/runs/ab/rerun", { json: { root } });
    expect([wrong.status, wrong.body.code]).toEqual([400, "invalid-request"]);
  });
});

describe("versions", () => {
  it("are listed with who runs what, and a rollback goes back one by one", async () => {
    const v1 = await client.start(project("which", outside.url), { id: "which-v1" });
    await waitingFor("which-v1", "signal tell");
    await client.createActor("Tally", "versions", []);
    const second = (await client.deploy(bundle("v2"))).id;
    const v2 = await client.start(project("which", outside.url), { id: "which-v2" });
    await waitingFor("which-v2", "signal tell");
    const third = (await client.deploy(bundle("v3", "3"))).id;
    const use = await client.componentUse();
    const of = (id: string) => use.components.find(({ component }) => id.startsWith(component));
    expect(of(second)?.runs).toEqual({ RUNNING: 1 });
    expect(of(first)?.runs.RUNNING).toBeGreaterThanOrEqual(1);
    expect(of(first)?.actors).toBeGreaterThanOrEqual(1);
    expect(of(second)?.actors).toBe(0);
    const listed = await client.listAll({ component: second.slice(0, 8) });
    expect(listed.map(({ id }) => id)).toEqual(["which-v2"]);
    expect(await client.rollBack()).toMatchObject({ component: second, rollbackTo: 2 });
    expect((await client.currentComponent()).id).toBe(second);
    expect(await client.rollBack()).toMatchObject({ component: first, rollbackTo: 1 });
    const none = await ask(server, "POST", "/v1/components/rollback", { json: {} });
    expect([none.status, none.body.code]).toEqual([404, "no-component"]);
    expect((await client.rollBack(third.slice(0, 12))).component).toBe(third);
    const shown = await client.deployments();
    expect(shown.map(({ component }) => component)).toEqual([
      third,
      first,
      second,
      third,
      second,
      first,
    ]);
    expect(shown.map(({ isCurrent }) => isCurrent)).toEqual([true, ...Array(5).fill(false)]);
    await client.rollBack(second);
    const seq = (await client.deployments())[0]?.seq;
    expect(await client.rollBack(second)).toMatchObject({ seq, component: second });
    await v1.signal("tell");
    await v2.signal("tell");
    expect([await v1.result(), await v2.result()]).toMatchObject([
      { version: "v1" },
      { version: "v2" },
    ]);
  });

  it("let a run move if the new code does the same, and it goes on with that", async () => {
    const run = await client.start(
      { ...project("which", outside.url) },
      { id: "moves", component: first },
    );
    await waitingFor("moves", "signal tell");
    const before = calls("which");
    const dry = await ask(server, "POST", "/v1/runs/moves/move", { json: { dryRun: true } });
    expect([dry.status, dry.body]).toMatchObject([200, { moved: false, from: first }]);
    expect((await run.info()).component).toBe(first);
    const moved = await run.move();
    expect(moved).toMatchObject({ moved: true, from: first });
    expect((await run.info()).component).toBe(moved.to);
    const fork = await run.fork("note");
    await waitingFor(fork.id, "signal tell");
    await server.kill();
    server = await startServer({ folder: server.folder, port: server.port });
    await run.signal("tell");
    expect(await run.result()).toEqual({ before: "/which", version: "v2" });
    await fork.signal("tell");
    expect(await fork.result()).toMatchObject({ version: "v2" });
    expect(calls("which")).toBe(before + 1);
  });

  it("let a step that failed be run again by mended code, in a fork", async () => {
    const mended = (await client.deploy(bundle("v3", "3"))).id;
    const run = await client.start(
      { ...project("mendable", outside.url) },
      { id: "mendable", component: first },
    );
    await expect(run.result()).rejects.toThrow("a fault");
    const fork = await run.fork("mended", { component: mended });
    expect(await fork.result()).toBe("mended in v3");
    expect((await fork.info()).component).toBe(mended);
    expect(calls("mendable")).toBe(1);
    const other = await client.start(project("differs", outside.url), { component: first });
    await waitingFor(other.id, "signal tell");
    await expect(other.fork("sum", { component: mended })).rejects.toMatchObject({
      code: "move-diverged",
      message: expect.stringContaining("charge-3"),
    });
    const before = await other.fork("note", { component: mended });
    await before.signal("tell");
    expect(await before.result()).toBe("v3");
  });

  it("refuse to move a run whose new code does something else, with the first difference", async () => {
    const third = (await client.deployments()).find(({ seq }) => seq === 3)?.component;
    const run = await client.start(project("differs", outside.url), {
      id: "stays",
      component: first,
    });
    await waitingFor("stays", "signal tell");
    const answer = await ask(server, "POST", "/v1/runs/stays/move", { json: { component: third } });
    expect([answer.status, answer.body.code]).toEqual([409, "move-diverged"]);
    const difference = answer.body.difference as Record<string, string>;
    expect(difference.before).toContain("charge-1");
    expect(difference.after).toContain("charge-3");
    expect((await run.info()).component).toBe(first);
    await run.signal("tell");
    expect(await run.result()).toBe("v1");
    const closed = await ask(server, "POST", "/v1/runs/stays/move", { json: {} });
    expect([closed.status, closed.body.code]).toEqual([409, "run-closed"]);
  });
});

describe("compensations", () => {
  it("undo what is done in reverse order when the run fails", async () => {
    const run = await client.start(project("bookings", outside.url, ["x", "y", "boom"]));
    await expect(run.result()).rejects.toThrow("boom");
    expect([calls("cancel-x"), calls("cancel-y")]).toEqual([1, 1]);
    const undone = (await run.steps()).filter(({ compensates }) => compensates !== undefined);
    expect(undone.map(({ compensates, status }) => [compensates, status])).toEqual([
      ["book_1", "SUCCESSFUL"],
      ["book", "SUCCESSFUL"],
    ]);
    const resumed = await ask(server, "POST", `/v1/runs/${run.id}/resume`, { json: {} });
    expect(resumed.body.code).toBe("not-resumable");
  });

  it("run when a run is canceled, also across the death of its host, each once", async () => {
    const run = await client.start(project("bookings", outside.url, ["m", "n", "wait"]));
    await waitingFor(run.id, "signal on");
    outside.delayMs = 300;
    await run.cancel("enough");
    await until("the first of them", () => calls("cancel-n") === 1);
    await server.kill();
    outside.delayMs = 0;
    server = await startServer({ folder: server.folder, port: server.port });
    await until("it is canceled", async () => (await run.status()) === "CANCELED");
    // The one that was under way when the host died is performed again.
    expect(calls("cancel-m")).toBe(1);
    const undone = (await run.steps()).filter(({ compensates }) => compensates !== undefined);
    expect(undone.map(({ status }) => status)).toEqual(["SUCCESSFUL", "SUCCESSFUL"]);
  });

  it("that fail are told of with the run's error, and a resume tries the last again", async () => {
    outside.refusals.set("/cancel-p", 1);
    const run = await client.start(project("bookings", outside.url, ["p", "boom"]), { id: "p" });
    await expect(run.result()).rejects.toMatchObject({ code: "compensation-failed" });
    const info = await run.info();
    expect(info.error?.cause?.message).toBe("boom");
    await run.resume();
    await expect(run.result()).rejects.toThrow("boom");
    expect(calls("cancel-p")).toBe(2);
  });
});

describe("progress", () => {
  it("is shown while a step runs, and given to its next attempt", async () => {
    const run = await client.start(project("copies", outside.url));
    await until("the second attempt waits", async () => {
      const [step] = await run.steps();
      return step?.status === "RETRYING" && step.progress === 2;
    });
    expect((await run.info()).progress).toMatchObject({ step: "copy", value: 2 });
    expect(await run.result()).toBe(2);
    expect([1, 2, 3, 4].map((row) => calls(`row-${row}`))).toEqual([1, 1, 1, 1]);
  });
});

describe("the command line", () => {
  it("forks, reruns, moves, lists by component and rolls back", async () => {
    const url = ["--url", server.url];
    await journeyOf("j4");
    const fork = await spore(["fork", "j4", "note_2", "--id", "cli-fork", ...url]);
    expect([fork.code, fork.out.trim()]).toEqual([0, "cli-fork"]);
    expect(await client.getOutput("cli-fork")).toMatchObject({ run: "cli-fork" });
    const rerun = await spore(["rerun", "j4", "--reuse", "--id", "cli-rerun", ...url]);
    expect([rerun.code, rerun.out.trim()]).toEqual([0, "cli-rerun"]);
    await client.cancel("cli-rerun");
    const third = (await client.deploy(bundle("v3", "3"))).id;
    const other = (await client.deploy(bundle("v4"))).id;
    const run = await client.start(project("differs", outside.url), { component: first });
    await waitingFor(run.id, "signal tell");
    const refused = await spore(["move", run.id, "--component", third, ...url]);
    expect(refused.code).toBe(4);
    expect(refused.err).toContain("charge-3");
    const moved = await spore(["move", run.id, ...url]);
    expect([moved.code, moved.err]).toEqual([0, ""]);
    const listed = await spore(["list", "--component", first.slice(0, 8), "--json", ...url]);
    expect(listed.out).not.toContain(run.id);
    const there = await spore(["list", "--component", other.slice(0, 8), "--json", ...url]);
    expect(there.out).toContain(run.id);
    expect((await spore(["components", ...url])).out).toContain("RUNNING");
    const back = await spore(["rollback", first.slice(0, 12), "--json", ...url]);
    expect(JSON.parse(back.out)).toMatchObject({ component: first });
    expect((await spore(["deployments", ...url])).out.split("\n").length).toBeGreaterThan(5);
  });
});
