/**
 * Hosts that share a namespace: who joins gets a share, who leaves gives it away, who is gone
 * is replaced. The engine is the real one, in the simulated world (test/sim).
 */
import { beforeEach, expect, test, vi } from "vitest";
import { decode, encode } from "../../guest/cbor.ts";
import { actor, signal, sleep, update, workflow } from "../../guest/index.ts";
import { partitionOf, runKey } from "../../runtime/ids.ts";
import type { TenantHost } from "../../runtime/index.ts";
import { sharesOf } from "../../runtime/shares.ts";
import { type SimHost, World } from "../sim/world.ts";

workflow("membersWait", async () => signal<string>("go"));
workflow("membersUpdate", async () => {
  update("push", async () => signal<string>("go"));
  return signal<string>("end");
});
workflow("membersQuick", (n: number) => n);

const Slow = actor(
  "MembersSlow",
  class {
    total = 0;
    async add(n: number): Promise<number> {
      await sleep(2000);
      this.total += n;
      return this.total;
    }
  },
);
void Slow;

vi.setConfig({ testTimeout: 60_000 });

const partitions = 6;
let world: World;

beforeEach(() => {
  world = new World({
    seed: 3,
    partitions,
    limits: { lingerMs: 5 },
    storeMs: 2,
    isShared: true,
  });
});

async function started(count: number): Promise<SimHost[]> {
  const hosts: SimHost[] = [];
  for (let n = 0; n < count; n += 1) {
    const host = world.startHost();
    hosts.push(host);
    await until(() => host.isReady, 30_000);
  }
  return hosts;
}

async function until(isSo: () => boolean, limitMs: number): Promise<number> {
  const startMs = world.nowMs;
  const isOver = await world.runUntil(isSo, world.nowMs + limitMs);
  expect(world.laws.violations).toEqual([]);
  if (!isOver) throw new Error(`not within ${limitMs} ms`);
  return world.nowMs - startMs;
}

async function finished<T>(work: Promise<T>): Promise<T> {
  let isSettled = false;
  const settled = work.finally(() => {
    isSettled = true;
  });
  settled.catch(() => undefined);
  await until(() => isSettled, 600_000);
  return settled;
}

function ownedBy(host: SimHost | undefined): number[] {
  const owned = host?.host?.status().partitions.filter(({ state }) => state === "owned") ?? [];
  return owned.map(({ partition }) => partition);
}

function tenantOf(host: SimHost | undefined): TenantHost {
  if (host?.host === undefined) throw new Error("the host is up");
  return host.host.tenant("t");
}

/** Every partition has exactly one of these hosts, and none has more than its share. */
function isShared(hosts: readonly SimHost[]): boolean {
  const all = hosts.flatMap((host) => ownedBy(host));
  const most = Math.ceil(partitions / hosts.length);
  const isComplete = new Set(all).size === partitions && all.length === partitions;
  return isComplete && hosts.every((host) => ownedBy(host).length <= most);
}

test("shares differ by one at most, and all hosts agree on them", () => {
  for (const count of [1, 2, 3, 5, 7]) {
    const ids = Array.from({ length: count }, (_, n) => `host-${n}`);
    for (const size of [1, 4, 16, 61]) {
      const shares = sharesOf(ids, size);
      expect(sharesOf(ids.toReversed(), size)).toEqual(shares);
      const loads = ids.map((id) => shares.filter((share) => share === id).length);
      expect(Math.max(...loads) - Math.min(...loads)).toBeLessThanOrEqual(1);
    }
  }
});

test("a host alone has everything at once", async () => {
  const [host] = await started(1);
  expect(ownedBy(host)).toEqual([0, 1, 2, 3, 4, 5]);
  expect(world.nowMs).toBeLessThan(500);
});

test("an idle host costs one small write every five seconds, and a LIST every thirty", async () => {
  await started(1);
  await finished(world.sleep(60_000));
  const before = { puts: world.bucket.puts, gets: world.bucket.gets, lists: world.bucket.lists };
  await world.runUntil(() => false, world.nowMs + 3_600_000);
  expect(world.bucket.puts - before.puts).toBe(720);
  expect(world.bucket.lists - before.lists).toBe(120);
  expect(world.bucket.gets - before.gets).toBeLessThan(10); // timers, once an hour
});

test("a host that joins gets its share within two seconds, by hand-over", async () => {
  const [first] = await started(1);
  const moved = world.counts.get("moved") ?? 0;
  const second = world.startHost();
  expect(await until(() => isShared([first, second] as SimHost[]), 10_000)).toBeLessThan(2000);
  const third = world.startHost();
  await until(() => isShared([first, second, third] as SimHost[]), 10_000);
  expect(world.counts.get("moved") ?? 0).toBe(moved);
});

test("a host that joins while another takes its partitions gets its share by hand-over, too", async () => {
  const count = (line: RegExp): number => world.lines.filter((each) => line.test(each)).length;
  for (const seed of [1, 4, 7]) {
    for (let afterMs = 0; afterMs < 500; afterMs += 50) {
      world = new World({ ...world.options, seed, storeMs: 20, isVerbose: true });
      const first = world.startHost();
      await world.runUntil(() => false, afterMs);
      const second = world.startHost();
      await until(() => isShared([first, second]), 10_000);
      const again = count(/ PUT p\/\d+\/log\/\S+ {2}created/) - partitions;
      const handedOver = count(/ partition \d goes to /);
      expect({ seed, afterMs, again }).toEqual({ seed, afterMs, again: handedOver });
    }
  }
});

test("requests to any host work while hosts join and leave, and none fails", async () => {
  const [first] = await started(1);
  await finished(tenantOf(first).deploy({ kind: "javascript", code: "export {};" }));
  let answered = 0;
  let isOver = false;
  const failures: unknown[] = [];
  const client = async (name: string): Promise<void> => {
    for (let n = 0; !isOver; n += 1) {
      const hosts = world.hosts.filter((host) => host.isReady && !host.isCrashed);
      const tenant = tenantOf(world.random.pick(hosts));
      const id = `${name}.${n}`;
      try {
        await tenant.startRun({ id, workflow: "membersWait" });
        const waiting = tenantOf(world.random.pick(hosts)).output(id, { waitMs: 60_000 });
        await world.sleep(100);
        await tenantOf(world.random.pick(hosts)).signalRun(id, "go", encode(id), {});
        let output = await waiting;
        // A host that leaves says "not yet" at once: another one is asked.
        while (output.kind === "pending") {
          const others = world.hosts.filter((host) => host.isReady && !host.isCrashed);
          output = await tenantOf(world.random.pick(others)).output(id, { waitMs: 60_000 });
        }
        if (output.outcome.kind !== "ok") throw new Error("it ended well");
        expect(decode(output.outcome.value)).toBe(id);
        answered += 1;
      } catch (error) {
        failures.push(error);
      }
    }
  };
  const clients = ["a", "b", "c", "d"].map((name) => client(name));
  await finished(world.sleep(1000));
  const second = world.startHost();
  await finished(world.sleep(4000));
  const third = world.startHost();
  await finished(world.sleep(4000));
  expect(isShared([first, second, third] as SimHost[])).toBe(true);
  await finished(second.host?.drain(8000) ?? Promise.reject());
  expect(ownedBy(second)).toEqual([]);
  second.isReady = false;
  await finished(world.sleep(2000));
  await finished(second.host?.stop() ?? Promise.reject());
  second.crash();
  await finished(world.sleep(2000));
  expect(isShared([first, third] as SimHost[])).toBe(true);
  isOver = true;
  await finished(Promise.all(clients));
  expect(failures).toEqual([]);
  expect(answered).toBeGreaterThan(40);
});

test("when a host is drained no other one believes that it has something", async () => {
  for (const seed of [3, 4, 5, 6]) {
    world = new World({ ...world.options, seed, storeMs: 20 });
    const [first, second, third] = (await started(3)) as [SimHost, SimHost, SimHost];
    await until(() => isShared([first, second, third]), 10_000);
    await finished(second.host?.drain(8000) ?? Promise.reject());
    for (const other of [first, third]) {
      const { hosts = [] } = other.host?.cluster() ?? {};
      const seen = hosts.find(({ hostId }) => hostId === second.id);
      expect({ seed, state: seen?.state, partitions: seen?.partitions }).toEqual({
        seed,
        state: "draining",
        partitions: [],
      });
    }
  }
});

test("calls that wait for their actor are answered across a hand-over, each executed once", async () => {
  const [first] = await started(1);
  await finished(tenantOf(first).deploy({ kind: "javascript", code: "export {};" }));
  const calls = Array.from({ length: 12 }, (_, n) =>
    tenantOf(first).callActor({
      type: "MembersSlow",
      key: `k${n}`,
      method: "add",
      args: encode([n]),
    }),
  );
  await finished(world.sleep(500));
  const second = world.startHost();
  await until(() => isShared([first, second] as SimHost[]), 10_000);
  const results = await finished(Promise.all(calls));
  expect(results.map((result) => result.kind === "done" && result.outcome)).toEqual(
    calls.map((_, n) => ({ kind: "ok", value: encode(n) })),
  );
  await finished(world.sleep(10_000)); // a second turn would have its time
  for (const n of calls.keys()) {
    const view = await finished(tenantOf(second).getActor("MembersSlow", `k${n}`));
    expect(view.turns).toBe(2); // the constructor's, and one
  }
});

test("a start that waits, and one that waits for its update, are answered across two hand-overs", async () => {
  const [first] = await started(1);
  await finished(tenantOf(first).deploy({ kind: "javascript", code: "export {};" }));
  // From the first host to the second, and then to the third.
  const isTravelling = (id: string): boolean => {
    const partition = partitionOf(runKey("t", id), partitions);
    const ownerAmong = (...hosts: string[]): string | undefined =>
      sharesOf(hosts, partitions)[partition];
    return ownerAmong("h1", "h2") === "h2" && ownerAmong("h1", "h2", "h3") === "h3";
  };
  const [run = "", updated = ""] = Array.from({ length: 100 }, (_, n) => `r${n}`).filter(
    isTravelling,
  );
  const request = { args: encode([]), waitMs: 60_000 };
  const waiting = [
    tenantOf(first).startRun({ ...request, id: run, workflow: "membersWait" }),
    tenantOf(first).startRun({
      ...request,
      id: updated,
      workflow: "membersUpdate",
      update: { name: "push", args: encode([]) },
    }),
  ];
  const hosts = [first];
  for (let n = 0; n < 2; n += 1) {
    await finished(world.sleep(500));
    hosts.push(world.startHost());
    await until(() => isShared(hosts as SimHost[]), 10_000);
  }
  await finished(world.sleep(500));
  for (const id of [run, updated])
    await finished(tenantOf(first).signalRun(id, "go", encode("go")));
  const [ran, told] = await finished(Promise.all(waiting));
  const outcome = { kind: "ok", value: encode("go") };
  expect(ran?.outcome).toEqual(outcome);
  expect(told?.update).toMatchObject({ kind: "done", outcome });
});

test("a killed host's partitions are taken over within two seconds", async () => {
  const [first, second] = await started(2);
  await until(() => isShared([first, second] as SimHost[]), 10_000);
  await finished(world.sleep(1000));
  first?.crash();
  expect(await until(() => isShared([second] as SimHost[]), 30_000)).toBeLessThan(2000);
});

test("a host that stands still is replaced within twenty seconds, wakes up, answers nothing stale and rejoins", async () => {
  const [first, second] = await started(2);
  await finished(tenantOf(first).deploy({ kind: "javascript", code: "export {};" }));
  await until(() => isShared([first, second] as SimHost[]), 10_000);
  await finished(world.sleep(1000));
  first?.pause();
  expect(await until(() => isShared([second] as SimHost[]), 60_000)).toBeLessThan(20_000);
  for (let n = 0; n < 6; n += 1) {
    await finished(
      tenantOf(second).startRun({
        id: `r${n}`,
        workflow: "membersQuick",
        args: encode([n]),
        waitMs: 9000,
      }),
    );
  }
  await finished(world.sleep(100_000));
  first?.wake();
  for (let n = 0; n < 6; n += 1) {
    const view = await finished(tenantOf(first).getRun(`r${n}`));
    expect(view.status).toBe("SUCCESSFUL");
  }
  await until(() => isShared([first, second] as SimHost[]), 60_000);
});

test("hosts that can't reach each other, but the bucket, settle on who serves what", async () => {
  const [first, second] = await started(2);
  await until(() => isShared([first, second] as SimHost[]), 10_000);
  await finished(world.sleep(1000));
  world.isCut = true;
  await finished(world.sleep(60_000));
  const claims = world.counts.get("claims") ?? 0;
  await finished(world.sleep(300_000));
  expect((world.counts.get("claims") ?? 0) - claims).toBe(0);
  expect(ownedBy(first).length + ownedBy(second).length).toBeGreaterThanOrEqual(partitions);
  world.isCut = false;
  await until(() => isShared([first, second] as SimHost[]), 60_000);
});

test("what is deployed on one host runs on another at once", async () => {
  const [first, second] = await started(2);
  await finished(tenantOf(second).currentComponent());
  await finished(tenantOf(first).deploy({ kind: "javascript", code: "export {};" }));
  const current = await finished(tenantOf(second).currentComponent());
  expect(current?.isCurrent).toBe(true);
});

test("what one host goes back to begins on another at once", async () => {
  const [first, second] = await started(2);
  const deploy = (code: string) =>
    finished(tenantOf(first).deploy({ kind: "javascript", code: `export {}; // ${code}` }));
  const { id: good } = await deploy("good");
  const { id: bad } = await deploy("bad");
  expect((await finished(tenantOf(second).currentComponent()))?.id).toBe(bad);
  await finished(tenantOf(first).rollBack());
  expect((await finished(tenantOf(second).currentComponent()))?.id).toBe(good);
});
