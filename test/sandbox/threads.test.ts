import { afterEach, describe, expect, test, vi } from "vitest";
import { compileJavaScript } from "../../host/sandbox/compile.ts";
import { createThreadSandbox, type ThreadSandboxOptions } from "../../host/sandbox/threads.ts";
import type { ActivateRequest, ActivateResult, Sandbox } from "../../runtime/ports.ts";
import { testSandbox } from "../suites/sandbox.ts";
import { act, guestSource } from "./guest.ts";

// Guests that spin are waited for, and the machine may have other work.
vi.setConfig({ testTimeout: 60_000 });

testSandbox({
  name: "thread",
  open: () => createThreadSandbox({ threads: 2, activationMsMax: 1500, memoryPagesMax: 1024 }),
});

const marker = "marker-000000";
const component = compileJavaScript(guestSource(`const marker = "${marker}";`));
const pristine = { kind: "pristine" } as const;

/** Another component: the same one with another constant in its memory. */
function variant(bytes: Uint8Array, number: number): Uint8Array {
  const copy = Buffer.from(bytes);
  const text = `marker-${String(number).padStart(6, "0")}`;
  for (let at = copy.indexOf(marker); at >= 0; at = copy.indexOf(marker, at + 1)) {
    copy.write(text, at, "latin1");
  }
  return copy;
}

describe("the thread sandbox", () => {
  const opened: Sandbox[] = [];
  afterEach(async () => {
    await Promise.all(opened.splice(0).map((sandbox) => sandbox.close()));
  });

  const open = async (options: ThreadSandboxOptions) => {
    const sandbox = await createThreadSandbox({ threads: 1, activationMsMax: 1500, ...options });
    opened.push(sandbox);
    const prepared = await sandbox.prepare({ kind: "component", bytes: await component });
    const run = (
      machine: string,
      from: ActivateRequest["from"],
      activation: Uint8Array,
      id = prepared.id,
    ): Promise<ActivateResult> =>
      sandbox.activate({
        component: id,
        machine,
        from,
        activation,
        after: "keep",
        imageAfterMs: Number.POSITIVE_INFINITY,
      });
    return { sandbox, prepared, run };
  };

  test("says what it keeps in memory, and counts what it had no room for", async () => {
    let evicted = 0;
    const count = (_name: string, value: number): void => {
      evicted += value;
    };
    const limits = { liveMax: 1, residentBytesMax: 2_500_000 };
    const sandbox = await createThreadSandbox({ threads: 1, ...limits }, { count });
    opened.push(sandbox);
    const { id } = await sandbox.prepare({ kind: "component", bytes: await component });
    expect([sandbox.residentMachines, sandbox.residentBytes]).toEqual([0, 0]);
    for (let n = 0; n < 60; n++) {
      const request = { component: id, machine: `m${n}`, from: pristine, after: "keep" } as const;
      const activation = act("add", 1);
      await sandbox.activate({ ...request, activation, imageAfterMs: Number.POSITIVE_INFINITY });
    }
    expect(evicted).toBeGreaterThan(0);
    expect(sandbox.residentMachines).toBe(60 - evicted);
    expect(sandbox.residentBytes).toBeGreaterThan(0);
    expect(sandbox.residentBytes).toBeLessThanOrEqual(limits.residentBytesMax);
    for (let n = 0; n < 60; n++) sandbox.release(`m${n}`);
    await vi.waitFor(() =>
      expect([sandbox.residentMachines, sandbox.residentBytes]).toEqual([0, 0]),
    );
  });

  test("runs what was queued behind a spinning guest in the next thread", async () => {
    const { run } = await open({});
    await run("resident", pristine, act("add", 1));
    const answers = await Promise.all([
      run("before", pristine, act("add", 1)),
      run("spinner", pristine, act("spin")),
      run("behind", pristine, act("add", 2)),
      run("resident", { kind: "resident", version: 1 }, act("add", 1)),
      run("second spinner", pristine, act("spin")),
      run("last", pristine, act("add", 3)),
    ]);
    expect(answers.map((answer) => (answer.kind === "fault" ? answer.fault : answer.kind))).toEqual(
      ["ok", "guest-timeout", "ok", "absent", "guest-timeout", "ok"],
    );
  });

  test("lets the other thread go on while one is stuck", async () => {
    const { run } = await open({ threads: 2, activationMsMax: 5000 });
    const stuck = run("spinner", pristine, act("spin"));
    let isStuck = true;
    const settled = stuck.finally(() => {
      isStuck = false;
    });
    for (let n = 0; n < 20; n++) {
      expect((await run(`m${n}`, pristine, act("add", n))).kind).toBe("ok");
    }
    expect(isStuck).toBe(true);
    expect(await settled).toMatchObject({ fault: "guest-timeout" });
  });

  test("counts the time limit for each activation of a journal by itself", async () => {
    const { run } = await open({});
    const first = await run("one", pristine, act("add", 1));
    if (first.kind !== "ok") throw new Error(first.kind);
    const journal = [{ activation: act("add", 1), drainedHash: first.drainedHash }];
    const from = { kind: "rebuild", image: undefined, journal, version: 1 } as const;
    expect(await run("two", from, act("spin"))).toMatchObject({ fault: "guest-timeout" });
  });

  test("spills machines above the live limit and brings them back exactly", async () => {
    const { run } = await open({ liveMax: 2 });
    const machines = Array.from({ length: 12 }, (_, n) => `m${n}`);
    for (const [n, machine] of machines.entries()) {
      await run(machine, pristine, act("hold", n * 20));
      await run(machine, { kind: "resident", version: 1 }, act("wait"));
    }
    for (const [n, machine] of machines.entries()) {
      await run(machine, { kind: "resident", version: 2 }, act("resume", n));
    }
    for (const machine of machines) {
      const answer = await run(machine, { kind: "resident", version: 3 }, act("resume", 7));
      if (answer.kind !== "ok") throw new Error(answer.kind);
      const story = `first ${machine.slice(1)} 7`;
      expect(new TextDecoder().decode(answer.drained)).toBe(story);
    }
  });

  test("forgets the least recently used machines above its memory limit", async () => {
    const { run } = await open({ liveMax: 1, residentBytesMax: 3_000_000 });
    for (let n = 0; n < 40; n++) await run(`m${n}`, pristine, act("hold", 250));
    const answers: string[] = [];
    for (let n = 0; n < 40; n++) {
      answers.push((await run(`m${n}`, { kind: "resident", version: 1 }, act("add", 1))).kind);
    }
    expect(answers.slice(0, 30)).toEqual(Array.from({ length: 30 }, () => "absent"));
    expect(answers.at(-1)).toBe("ok");
  });

  test("refuses work above its queue limit", async () => {
    const { run } = await open({ queuedMax: 3 });
    const answers = Array.from({ length: 5 }, (_, n) => run(`m${n}`, pristine, act("add", 1)));
    const settled = await Promise.allSettled(answers);
    expect(settled.filter((one) => one.status === "rejected")).toHaveLength(2);
    await expect(answers[4]).rejects.toMatchObject({ code: "host-busy" });
  });

  test("keeps a thousand components in one engine, each with its own constants", async () => {
    const { sandbox, run } = await open({ baselineBytesMax: 8_000_000 });
    const count = 1000;
    const residentBefore = process.memoryUsage.rss();
    const bytes = await component;
    const ids: string[] = [];
    let storedBytes = 0;
    for (let n = 1; n <= count; n++) {
      const prepared = await sandbox.prepare({ kind: "component", bytes: variant(bytes, n) });
      storedBytes += prepared.bytes.length;
      ids.push(prepared.id);
    }
    expect(new Set(ids).size).toBe(count);
    expect(storedBytes / count).toBeLessThan(250_000);
    const residentEach = (process.memoryUsage.rss() - residentBefore) / count;
    console.log(
      `${count} components: each ${Math.round(storedBytes / count / 1024)} KiB stored, ` +
        `${Math.round(residentEach / 1024)} KiB more resident memory`,
    );
    // An engine of their own would be 3 MB of code each.
    expect(residentEach).toBeLessThan(1_000_000);
    for (const [n, id] of ids.entries()) {
      if (n % 25 !== 0) continue;
      expect((await run(`m${n}`, pristine, act("add", 1), id)).kind).toBe("ok");
    }
    // A machine's memory is no other component's.
    const stranger = await run("m0", { kind: "resident", version: 1 }, act("add", 1), ids[1]);
    expect(stranger).toEqual({ kind: "absent" });
  }, 120_000);

  test("refuses a component whose description traps or is no manifest", async () => {
    const { sandbox } = await open({});
    const guest = (describe: string): string => `export async function deliver() {}
      export function drain() { return new Uint8Array(0); }
      export function describe() { ${describe} }`;
    for (const body of ["throw 1", "for (;;);", "return Uint8Array.of(1, 2, 3)"]) {
      const refused = sandbox.prepare({ kind: "javascript", code: guest(body) });
      await expect(refused).rejects.toMatchObject({ code: "invalid-component" });
    }
  }, 60_000);

  test("rejects what is waiting when it is closed", async () => {
    const { sandbox, run } = await open({ activationMsMax: 60_000 });
    const waiting = run("spinner", pristine, act("spin"));
    const rejected = expect(waiting).rejects.toMatchObject({ code: "host-stopping" });
    await sandbox.close();
    await rejected;
  });
});
