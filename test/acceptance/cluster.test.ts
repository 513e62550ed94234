/** Several server processes on one folder: who joins, leaves, dies or stands still. */
import { afterAll, expect, it, onTestFinished, vi } from "vitest";
import { type Client, createClient } from "../../client/index.ts";
import {
  ask,
  folderOfTest,
  putAway,
  type ServerProcess,
  spore,
  startOutside,
  startProject,
  startServer,
  until,
} from "./kit.ts";
import { account, approval, collector, echo, Ledger, nap, retried, waiter } from "./project.ts";

vi.setConfig({ testTimeout: 180_000 });

afterAll(putAway);

interface HostRow {
  readonly hostId: string;
  readonly address: string;
  readonly isSelf: boolean;
  readonly state: string;
  readonly partitions: readonly number[];
}

async function hostsSeenBy(server: ServerProcess): Promise<readonly HostRow[]> {
  return (await ask(server, "GET", "/v1/cluster")).body.hosts as readonly HostRow[];
}

async function servedBy(server: ServerProcess): Promise<readonly number[]> {
  return (await hostsSeenBy(server)).find(({ isSelf }) => isSelf)?.partitions ?? [];
}

/** All four partitions, each on one of them, as evenly as can be. */
async function areShared(servers: readonly ServerProcess[]): Promise<boolean> {
  const served = await Promise.all(servers.map((server) => servedBy(server)));
  const most = Math.ceil(4 / servers.length);
  const isComplete = served.flat().toSorted().join() === "0,1,2,3";
  return isComplete && served.every((each) => each.length <= most);
}

async function startCluster(count: number): Promise<ServerProcess[]> {
  const first = await startProject({ folder: await folderOfTest() });
  const servers = [first];
  while (servers.length < count) servers.push(await startServer({ folder: first.folder }));
  await until("the partitions are shared", () => areShared(servers));
  return servers;
}

/** Tries the servers in turn when one has no answer, as a load balancer does. */
function clientOfAll(servers: readonly ServerProcess[]): Client {
  let turn = 0;
  return createClient({
    url: servers[0]?.url ?? "",
    attemptsMax: 20,
    fetch: (request) => {
      turn += 1;
      const url = new URL(request.url);
      const server = new URL(servers[turn % servers.length]?.url ?? "");
      url.port = server.port;
      return fetch(new Request(url, request));
    },
  });
}

/** Starts runs, tells them something and waits for them, until it is told to stop. */
function traffic(clients: readonly Client[]): {
  stop(): Promise<{ done: number; failed: unknown[] }>;
} {
  let isOver = false;
  const failed: unknown[] = [];
  let done = 0;
  const one = async (name: string, client: Client): Promise<void> => {
    for (let n = 0; !isOver; n += 1) {
      const id = `${name}-${n}`;
      try {
        const run = await client.start(collector.with(2), { id });
        await run.signal("item", n);
        await run.signal("item", n + 1);
        expect(await client.getOutput(id)).toEqual([n, n + 1]);
        expect(await client.actor(Ledger, name).note(id)).toBe(n + 1);
        done += 1;
      } catch (error) {
        failed.push(error);
      }
    }
  };
  const all = clients.map((client, index) => one(`t${index}`, client));
  return {
    async stop() {
      isOver = true;
      await Promise.all(all);
      return { done, failed };
    },
  };
}

it("a second server gets its share, and both answer for everything", async () => {
  const [first, second] = (await startCluster(2)) as [ServerProcess, ServerProcess];
  expect((await servedBy(first)).length).toBe(2);
  const ids = Array.from({ length: 12 }, (_, n) => `r${n}`);
  const clients = [first.client, second.client];
  for (const [n, id] of ids.entries()) {
    const [one, other] = n % 2 === 0 ? clients : clients.toReversed();
    if (one === undefined || other === undefined) throw new Error("there are two");
    await one.start(account.with(n), { id });
    expect(await other.handle(id).update("deposit", 5)).toBe(n + 5);
    expect(await one.handle(id).query("balance")).toBe(n + 5);
    await other.handle(id).signal("close");
    expect(await one.getOutput(id)).toBe(n + 5);
    expect((await other.handle(id).info()).status).toBe("SUCCESSFUL");
    const types: string[] = [];
    for await (const event of other.handle(id).events()) types.push(event.type);
    expect(types[0]).toBe("run.started");
    expect(types.at(-1)).toBe("run.succeeded");
  }
  const listed: string[][] = [];
  for (const server of [first, second]) {
    const { body } = await ask(server, "GET", "/v1/runs?limit=100");
    listed.push((body.runs as { id: string }[]).map(({ id }) => id));
  }
  expect(listed[0]?.toSorted()).toEqual(ids.toSorted());
  expect(listed[1]).toEqual(listed[0]);
  for (const server of [first, second]) {
    const seen = await hostsSeenBy(server);
    expect(seen.map(({ state }) => state)).toEqual(["live", "live"]);
  }
  const shown = await spore(["hosts", "--url", second.url, "--json"]);
  const told = shown.out
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(told.map(({ state }: { state: string }) => state)).toEqual(["live", "live"]);
  const doctor = await spore(["doctor", "--storage", `file:${first.folder}`, "--json"]);
  const rows = doctor.out
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  const { details, result } = rows.find(({ check }: { check: string }) => check === "hosts");
  expect(result).toBe("ok");
  for (const { port } of [first, second])
    expect(details).toContain(`127.0.0.1:${port}: partitions`);
});

it("actors keep the order of a session, and bulk actions, schedules and events reach all hosts", async () => {
  const servers = await startCluster(3);
  const [first, second, third] = servers as [ServerProcess, ServerProcess, ServerProcess];
  const ledger = second.client.actor(Ledger, "ordered");
  const counts = await Promise.all(Array.from({ length: 30 }, (_, n) => ledger.note(`n${n}`)));
  expect(counts).toEqual(counts.map((_, n) => n + 1));
  expect(await third.client.actor(Ledger, "ordered").all()).toEqual(counts.map((_, n) => `n${n}`));

  for (let n = 0; n < 9; n += 1) {
    await servers[n % 3]?.client.start(waiter.with("never"), { id: `w${n}` });
  }
  const { body } = await ask(first, "POST", "/v1/runs/bulk", {
    json: { action: "terminate", filter: { name: ["waiter"] } },
  });
  expect((body.runs as { status: string }[]).map(({ status }) => status)).toEqual(
    Array.from({ length: 9 }, () => "CANCELED"),
  );

  for (let n = 0; n < 4; n += 1) {
    const made = await ask(servers[n % 3] as ServerProcess, "POST", "/v1/schedules", {
      json: { id: `s${n}`, workflow: "echo", args: [n], everyMs: 1000 },
    });
    expect(made.status).toBe(201);
  }
  for (let n = 0; n < 4; n += 1) {
    await until("the schedule has started two runs", async () => {
      const view = await ask(third, "GET", `/v1/schedules/s${n}`);
      return (view.body.started as number) >= 2;
    });
  }
  const schedules = await ask(second, "GET", "/v1/schedules");
  expect((schedules.body.schedules as { id: string }[]).map(({ id }) => id)).toEqual([
    "s0",
    "s1",
    "s2",
    "s3",
  ]);

  for (let n = 0; n < 4; n += 1) {
    const run = await servers[n % 3]?.client.start(approval.with(60_000), { id: `a${n}` });
    if (run === undefined) throw new Error("it has started");
    const { token } = await second.client.handle(`a${n}`).published<{ token: string }>("event");
    const decided = await ask(third, "POST", `/v1/events/${token}`, { json: { value: n } });
    expect(decided.status).toBe(200);
    expect(await first.client.getOutput(`a${n}`)).toBe(n);
  }
});

it("a server that is stopped hands over, and no request through the others is lost or fails", async () => {
  const servers = await startCluster(3);
  const [first, second, third] = servers as [ServerProcess, ServerProcess, ServerProcess];
  const patient = [second, third].map(({ url }) => createClient({ url, attemptsMax: 1 }));
  const patients = Array.from({ length: 10 }, () => patient).flat();
  const work = traffic([...patients, clientOfAll(servers)]);
  const sleeping = await first.client.start(nap.with(3000), { id: "sleeper" });
  await until(
    "there is traffic",
    async () => (await ask(second, "GET", "/v1/runs")).status === 200,
  );
  expect(await first.stop()).toEqual({ code: 0, signal: null });
  await until("the others share", () => areShared([second, third]));
  expect(await third.client.getOutput<number>(sleeping.id)).toBeGreaterThanOrEqual(3000);
  const { done, failed } = await work.stop();
  expect(failed).toEqual([]);
  expect(done).toBeGreaterThan(4);
  expect((await hostsSeenBy(second)).length).toBe(2);
});

it("whoever hands over in order lets fetches under way end: none is done again", async () => {
  const outside = await startOutside();
  onTestFinished(() => outside.close());
  outside.delayMs = 2500;
  const first = await startProject({ folder: await folderOfTest() });
  const { folder, port } = first;
  /** Six fetches are under way when it happens. */
  const during = async (name: string, server: ServerProcess, happens: () => Promise<unknown>) => {
    const paths = Array.from({ length: 6 }, (_, n) => `/${name}${n}`);
    for (const path of paths) {
      await server.client.start(retried.with(outside.url + path), { id: path.slice(1) });
    }
    await until("all are called", async () => paths.every((path) => outside.calls.has(path)));
    await happens();
    return paths;
  };
  const join = (): Promise<ServerProcess> => startServer({ folder });
  let second = first;
  const paths = await during("joined", first, async () => {
    second = await join();
    await until("the partitions are shared", () => areShared([first, second]));
  });
  paths.push(...(await during("stopped", first, () => second.stop())));
  paths.push(...(await during("split", first, () => first.client.setPartitions(8))));
  paths.push(...(await during("alone", first, () => first.stop())));
  const last = await startServer({ folder, port });
  for (const path of paths) expect(await last.client.getOutput(path.slice(1))).toBe(path);
  const calls = paths.map((path) => `${path} ${outside.calls.get(path)}`);
  expect(calls).toEqual(paths.map((path) => `${path} 1`));
});

it("a killed server is replaced within three seconds, and nothing that was acknowledged is lost", async () => {
  const servers = await startCluster(2);
  const [first, second] = servers as [ServerProcess, ServerProcess];
  const client = clientOfAll(servers);
  const ids = Array.from({ length: 20 }, (_, n) => `k${n}`);
  for (const id of ids) await client.start(waiter.with("go"), { id });
  const work = traffic([client, client]);
  await first.kill();
  const killedMs = Date.now();
  await until("the other has all", async () => (await servedBy(second)).length === 4);
  expect(Date.now() - killedMs).toBeLessThan(3000);
  const { failed } = await work.stop();
  expect(failed).toEqual([]);
  for (const id of ids) {
    await second.client.handle(id).signal("go", id);
    expect(await second.client.getOutput(id)).toBe(id);
  }
  expect((await fetch(`${second.url}/readyz`)).status).toBe(200);
});

it("a server that stands still for longer than its death wakes up, answers nothing stale, and joins again", async () => {
  const servers = await startCluster(2);
  const [first, second] = servers as [ServerProcess, ServerProcess];
  const ledger = second.client.actor(Ledger, "book");
  await ledger.note("before");
  first.signal("SIGSTOP");
  const stoppedMs = Date.now();
  await until("the other has all", async () => (await servedBy(second)).length === 4, 40_000);
  expect(Date.now() - stoppedMs).toBeLessThan(25_000);
  for (let n = 0; n < 8; n += 1) {
    await second.client.actor(Ledger, `book${n}`).note("meanwhile");
    await second.client.run(echo.with(n), { id: `e${n}` });
  }
  first.signal("SIGCONT");
  for (let n = 0; n < 8; n += 1) {
    expect(await first.client.actor(Ledger, `book${n}`).all()).toEqual(["meanwhile"]);
    expect(await first.client.getOutput(`e${n}`)).toBe(n);
  }
  await until("both share again", () => areShared(servers), 40_000);
  expect(await first.client.actor(Ledger, "book").note("after")).toBe(2);
  expect(first.isRunning()).toBe(true);
});

it("a request to another host's way in is refused without the namespace's key", async () => {
  const [first] = (await startCluster(1)) as [ServerProcess];
  const body = new Uint8Array(200).fill(1);
  const answer = await fetch(`${first.url}/internal/peer`, { method: "POST", body });
  expect(answer.status).toBe(401);
  expect((await fetch(`${first.url}/internal/peer`)).status).toBe(405);
});
