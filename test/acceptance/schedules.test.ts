/** Recurring workflows against a real server process, and over its death. */
import { afterAll, beforeAll, expect, it } from "vitest";
import {
  ask,
  putAway,
  type ServerProcess,
  spore,
  startProject,
  startServer,
  until,
} from "./kit.ts";
import { nap, waiter } from "./project.ts";

let server: ServerProcess;
let client: ServerProcess["client"];

beforeAll(async () => {
  server = await startProject();
  client = server.client;
});

afterAll(putAway);

/** Far from any slot, so that only what a test asks for happens. */
const yearly = { cron: "0 0 1 1 *" } as const;

it("a schedule runs its workflow at each slot, under an id that follows from the slot", async () => {
  const made = await client.schedules.create("ticks", {
    run: nap.with(1),
    everyMs: 1000,
    tags: { team: "red" },
  });
  expect(made).toMatchObject({ workflow: "nap", args: [1], overlap: "skip", paused: false });
  expect(made.next).toHaveLength(5);
  await until("three slots have passed", async () => {
    const { runs } = await client.schedules.get("ticks");
    return runs.filter(({ result }) => result === "succeeded").length >= 3;
  });
  const { runs, note } = await client.schedules.pause("ticks", "enough");
  expect(note).toBe("enough");
  for (const { id, slot, cause, startedAt } of runs) {
    expect([id, cause]).toEqual([`ticks.${slot.replaceAll(/[-:]|\.000/g, "")}`, "slot"]);
    expect(Date.parse(startedAt)).toBeGreaterThanOrEqual(Date.parse(slot));
    expect(Date.parse(slot) % 1000).toBe(0);
  }
  const [newest] = runs;
  const info = await client.getMetadata(newest?.id ?? "");
  expect(info.tags).toEqual({ team: "red", schedule: "ticks", cause: "slot" });
});

it("no slot is lost and none is run twice when the server is killed and comes back", async () => {
  let host = await startProject();
  const { folder, port } = host;
  const run = nap.with(1);
  const made = await host.client.schedules.create("hard", {
    run,
    everyMs: 1000,
    overlap: "allow-all",
  });
  for (let round = 1; round <= 3; round++) {
    await until("more slots have passed", async () => {
      return (await host.client.schedules.get("hard")).started >= round * 2;
    });
    await host.kill();
    host = await startServer({ folder, port });
  }
  const { started } = await host.client.schedules.get("hard");
  await until("slots have passed since", async () => {
    return (await host.client.schedules.get("hard")).started > started;
  });
  await host.client.schedules.pause("hard");
  await until("all have ended", async () => {
    return (await host.client.schedules.get("hard")).running.length === 0;
  });
  const last = await host.client.schedules.get("hard");
  const ids = (await host.client.listAll({ prefix: "hard." })).map(({ id }) => id).toSorted();
  const firstMs = Date.parse(made.next[0] ?? "");
  const wanted = Array.from({ length: last.started }, (_, index) => {
    const slot = new Date(firstMs + index * 1000).toISOString();
    return `hard.${slot.replaceAll(/[-:]|\.000/g, "")}`;
  });
  expect(ids).toEqual(wanted);
  expect(last).toMatchObject({ missed: 0, skipped: 0, waiting: 0 });
  await host.stop();
});

it("a run that goes on holds the next one up, until it ends", async () => {
  const run = waiter.with("go");
  await client.schedules.create("busy", { run, ...yearly, overlap: "buffer-one" });
  const first = (await client.schedules.trigger("busy")).running;
  await until("the first run goes on", async () => {
    return (await client.schedules.get("busy")).running.length === 1;
  });
  expect(first.length).toBeLessThanOrEqual(1);
  const [running = ""] = (await client.schedules.get("busy")).running;
  expect(running).toMatch(/^busy\.\d{8}T\d+Z\.trigger$/);
  expect((await client.schedules.trigger("busy")).waiting).toBe(1);
  expect((await client.schedules.trigger("busy")).skipped).toBe(1);
  await client.handle(running).signal("go", 1);
  await until("the second run goes on", async () => {
    const { running: now } = await client.schedules.get("busy");
    return now.length === 1 && now[0] !== running;
  });
  await client.schedules.trigger("busy", { overlap: "terminate-other" });
  await until("the second run was terminated, and the third goes on", async () => {
    const { runs } = await client.schedules.get("busy");
    return runs.length === 3 && runs[1]?.result === "canceled" && runs[0]?.result === undefined;
  });
});

it("a failure pauses, if that is wished, and says why", async () => {
  await client.schedules.create("fragile", {
    run: { workflow: "nap", args: ["no", "number", 3n] },
    ...yearly,
    pauseOnFailure: true,
  });
  await client.schedules.trigger("fragile");
  await until("the run has ended", async () => {
    return (await client.schedules.get("fragile")).runs[0]?.result !== undefined;
  });
  const { runs, paused, note } = await client.schedules.get("fragile");
  expect([runs[0]?.result, paused]).toEqual(["failed", true]);
  expect(note).toContain("failed");
});

it("a backfill is previewed and then runs each slot of the past once", async () => {
  await client.schedules.create("past", { run: nap.with(1), ...yearly, overlap: "allow-all" });
  const range = { from: new Date("2021-01-01T00:00:00Z"), to: new Date("2023-06-01T00:00:00Z") };
  const found = { slots: 3, first: "2021-01-01T00:00:00.000Z", last: "2023-01-01T00:00:00.000Z" };
  expect(await client.schedules.backfill("past", { ...range, preview: true })).toEqual(found);
  expect((await client.schedules.get("past")).started).toBe(0);
  expect(await client.schedules.backfill("past", range)).toEqual(found);
  await client.schedules.backfill("past", range);
  await until("both backfills are through", async () => {
    const { backfills, runs, started } = await client.schedules.get("past");
    const isShown = runs.length === 3 && runs.every(({ result }) => result !== undefined);
    return backfills === 0 && started === 6 && isShown;
  });
  const ids = (await client.listAll({ prefix: "past." })).map(({ id }) => id).toSorted();
  expect(ids).toEqual([2021, 2022, 2023].map((year) => `past.${year}0101T000000Z`));
});

it("what can't be a schedule is refused, with the reason", async () => {
  const refused = async (body: object) => {
    const { status, body: problem } = await ask(server, "POST", "/v1/schedules", { json: body });
    return [status, problem.code, problem.detail];
  };
  const nap1 = { workflow: "nap", args: [1] };
  expect(await refused({ ...nap1 })).toEqual([
    400,
    "invalid-request",
    "give either cron or everyMs",
  ]);
  expect((await refused({ ...nap1, cron: "every day" }))[1]).toBe("invalid-request");
  expect((await refused({ ...nap1, ...yearly, zone: "Nowhere/X" }))[1]).toBe("invalid-request");
  expect((await refused({ ...nap1, everyMs: 10 }))[2]).toContain("everyMs is 1000");
  expect((await refused({ workflow: "nope", ...yearly }))[1]).toBe("workflow-not-found");
  await client.schedules.create("taken", { run: nap.with(1), ...yearly });
  const again = client.schedules.create("taken", { run: nap.with(1), ...yearly });
  await expect(again).rejects.toMatchObject({ code: "schedule-exists", status: 409 });
  await client.schedules.delete("taken");
  await expect(client.schedules.get("taken")).rejects.toMatchObject({
    code: "schedule-not-found",
    status: 404,
  });
});

it("POST with one Idempotency-Key makes one schedule", async () => {
  const headers = { "idempotency-key": "once" };
  const json = { workflow: "nap", args: [1], ...yearly };
  const first = await ask(server, "POST", "/v1/schedules", { json, headers });
  const second = await ask(server, "POST", "/v1/schedules", { json, headers });
  expect([first.status, second.status]).toEqual([201, 200]);
  expect(second.body.id).toBe(first.body.id);
  expect(second.headers.get("location")).toBe(`/v1/schedules/${first.body.id}`);
});

it("the command line makes, shows, pauses, triggers, backfills and deletes schedules", async () => {
  const cli = async (...argv: string[]) => {
    const done = await spore([...argv, "--json"], { env: { SPORE_URL: server.url } });
    expect(done.err, argv.join(" ")).toBe("");
    return done.out
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line));
  };
  const [made] = await cli(
    ...["schedule", "create", "typed", "nap", "5", "--cron", "30 2 * * *"],
    ...["--zone", "Europe/Berlin", "--overlap", "buffer-all", "--jitter", "10s"],
  );
  expect(made).toMatchObject({ id: "typed", args: [5], zone: "Europe/Berlin", jitterMs: 10_000 });
  const listed = await cli("schedule", "list");
  expect(listed.map(({ id }) => id)).toContain("typed");
  const [paused] = await cli("schedule", "pause", "typed", "--note", "audit");
  expect([paused.paused, paused.note, paused.next]).toEqual([true, "audit", []]);
  const [resumed] = await cli("schedule", "resume", "typed");
  expect([resumed.paused, resumed.next.length]).toEqual([false, 5]);
  await cli("schedule", "trigger", "typed");
  const [from, to] = ["2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z"];
  const [counted] = await cli("schedule", "backfill", "typed", from, to, "--preview");
  expect(counted).toMatchObject({ slots: 3, first: "2026-03-28T01:30:00.000Z" });
  const [got] = await cli("schedule", "get", "typed");
  expect(got).toMatchObject({ id: "typed", overlap: "buffer-all" });
  expect(await cli("schedule", "delete", "typed")).toEqual([{ id: "typed", deleted: true }]);
});

it("a schedule gives its runs a queue with key and priority, metadata, a time limit and a retention", async () => {
  await client.queues.put("lanes", { concurrency: 1, keyConcurrency: 1 });
  const given = {
    queue: { name: "lanes", key: "ada", priority: 5 },
    metadata: { team: "red" },
    timeLimitMs: 6_000,
    retentionMs: 60_000,
  };
  const run = waiter.with("go");
  const made = await client.schedules.create("given", { run, ...yearly, ...given });
  expect(made).toMatchObject(given);
  const blocking = await client.start(run, { id: "blocking", queue: { name: "lanes" } });
  const words = ["schedule", "create", "given-too", "waiter", "go", "--cron", yearly.cron];
  const more = ["--queue", "lanes", "--queue-key", "bob", "--priority", "9", "--time-limit", "30s"];
  const spare = ["--retention", "1m", "--metadata", '{"team":"blue"}', "--json"];
  const env = { SPORE_URL: server.url };
  const { code, out, err } = await spore([...words, ...more, ...spare], { env });
  expect([code, err]).toEqual([0, ""]);
  expect(JSON.parse(out)).toMatchObject({
    queue: { name: "lanes", key: "bob", priority: 9 },
    metadata: { team: "blue" },
    timeLimitMs: 30_000,
    retentionMs: 60_000,
  });
  await client.schedules.trigger("given");
  await client.schedules.trigger("given-too");
  // The one of higher priority is the first of those that wait.
  await until("both wait", async () => (await client.queues.get("lanes")).next.length === 2);
  const { next } = await client.queues.get("lanes");
  expect(next.map(({ key, priority }) => [key, priority])).toEqual([
    ["bob", 9],
    ["ada", 5],
  ]);
  const [first] = (await client.schedules.get("given")).runs;
  const info = await client.getMetadata(first?.id ?? "");
  expect(info.metadata).toEqual(given.metadata);
  await until("its time limit ends it", async () => {
    return (await client.getMetadata(first?.id ?? "")).status === "FAILED";
  });
  expect((await client.getMetadata(first?.id ?? "")).expiresAt).toBeTypeOf("string");
  await blocking.terminate("done");
  for (const id of ["given", "given-too"]) await client.schedules.delete(id);
});
