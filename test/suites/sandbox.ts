/**
 * What every sandbox does, as a function of a factory. Runs a guest of plain JavaScript
 * (test/sandbox/guest.ts), so that it also reaches what the SDK keeps users from.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type {
  ActivateRequest,
  ActivateResult,
  JournalEntry,
  PreparedComponent,
  Sandbox,
} from "../../runtime/ports.ts";
import { act, guestSource } from "../sandbox/guest.ts";

export interface SandboxSuite {
  readonly name: string;
  /** With an activation limit of one or two seconds: long enough for a busy machine. */
  readonly open: () => Promise<Sandbox>;
  /** False where only the platform stops a guest that computes for ever. Default true. */
  readonly hasWatchdog?: boolean;
}

export function testSandbox({ name, open, hasWatchdog = true }: SandboxSuite): void {
  describe(`a ${name} sandbox`, () => {
    let sandbox: Sandbox;
    let prepared: PreparedComponent;
    let counter = 0;
    beforeAll(async () => {
      sandbox = await open();
      prepared = await sandbox.prepare({ kind: "javascript", code: guestSource() });
    }, 60_000);
    afterAll(() => sandbox.close());

    const fresh = (): string => `machine-${++counter}`;
    const run = (
      machine: string,
      from: ActivateRequest["from"],
      activation: Uint8Array,
      more: Partial<ActivateRequest> = {},
    ): Promise<ActivateResult> =>
      sandbox.activate({
        component: prepared.id,
        machine,
        from,
        activation,
        after: "keep",
        imageAfterMs: Number.POSITIVE_INFINITY,
        ...more,
      });
    const ok = async (
      result: Promise<ActivateResult>,
    ): Promise<ActivateResult & { kind: "ok" }> => {
      const answer = await result;
      if (answer.kind !== "ok") throw new Error(JSON.stringify(answer));
      return answer;
    };
    const drained = async (result: Promise<ActivateResult>): Promise<number[]> => [
      ...(await ok(result)).drained,
    ];
    const pristine = { kind: "pristine" } as const;
    const resident = (version: number) => ({ kind: "resident", version }) as const;
    const text = (codes: number[]): string => String.fromCharCode(...codes);

    test("keeps a machine's memory from one activation to the next", async () => {
      const machine = fresh();
      expect(await drained(run(machine, pristine, act("add", 5)))).toEqual([5, 1]);
      expect(await drained(run(machine, resident(1), act("add", 6)))).toEqual([11, 2]);
      expect(await drained(run(machine, resident(2), act("add", 7)))).toEqual([18, 3]);
    });

    test("gives each machine a memory of its own", async () => {
      const machines = Array.from({ length: 20 }, fresh);
      await Promise.all(machines.map((machine, n) => run(machine, pristine, act("add", n))));
      const answers = machines.map((machine) => drained(run(machine, resident(1), act("add", 0))));
      expect(await Promise.all(answers)).toEqual(machines.map((_, n) => [n, 2]));
    });

    test("starts from pristine memory however often a machine is started", async () => {
      const machine = fresh();
      await run(machine, pristine, act("add", 5));
      expect(await drained(run(machine, pristine, act("add", 1)))).toEqual([1, 1]);
    });

    test("answers absent for a machine or a version that isn't resident", async () => {
      const machine = fresh();
      expect(await run(machine, resident(1), act("add", 1))).toEqual({ kind: "absent" });
      await run(machine, pristine, act("add", 1));
      expect(await run(machine, resident(7), act("add", 1))).toEqual({ kind: "absent" });
    });

    test("forgets a machine that was released", async () => {
      const machine = fresh();
      await run(machine, pristine, act("add", 1));
      sandbox.release(machine);
      expect(await run(machine, resident(1), act("add", 1))).toEqual({ kind: "absent" });
    });

    test("doesn't keep a machine that is done", async () => {
      const machine = fresh();
      await ok(run(machine, pristine, act("finish")));
      expect(await run(machine, resident(1), act("add", 1))).toEqual({ kind: "absent" });
    });

    test("leaves the resident memory as it was after a discarded activation", async () => {
      const machine = fresh();
      await run(machine, pristine, act("add", 1));
      const discard = { after: "discard" } as const;
      expect(await drained(run(machine, resident(1), act("add", 9), discard))).toEqual([10, 2]);
      expect(await drained(run(machine, pristine, act("add", 9), discard))).toEqual([9, 1]);
      expect((await run(machine, resident(1), act("fail"), discard)).kind).toBe("fault");
      expect(await drained(run(machine, resident(1), act("add", 1)))).toEqual([2, 2]);
    });

    test("rebuilds a machine in the middle of an await from its image", async () => {
      const machine = fresh();
      const first = await ok(run(machine, pristine, act("wait"), { imageAfterMs: 0 }));
      expect(first.image?.length).toBeLessThan(16_384);
      sandbox.release(machine);
      const rebuild = { kind: "rebuild", image: first.image, journal: [], version: 1 } as const;
      await ok(run(machine, rebuild, act("resume", 1)));
      expect(text(await drained(run(machine, resident(2), act("resume", 2))))).toBe("first 1 2");
    });

    test("rebuilds a machine from pristine memory and its journal", async () => {
      const machine = fresh();
      const journal: JournalEntry[] = [];
      for (const activation of [act("add", 1), act("hold", 90), act("wait"), act("resume", 3)]) {
        const from = journal.length === 0 ? pristine : resident(journal.length);
        const { drainedHash } = await ok(run(machine, from, activation));
        journal.push({ activation, drainedHash });
      }
      const other = fresh();
      const rebuild = { kind: "rebuild", image: undefined, journal, version: 4 } as const;
      expect(text(await drained(run(other, rebuild, act("resume", 4))))).toBe("first 3 4");
      // And it is resident from there on, like the first.
      await ok(run(other, resident(5), act("add", 1)));
    });

    test("refuses a journal that recomputes to something else", async () => {
      const journal = [{ activation: act("add", 1), drainedHash: 1 }];
      const rebuild = { kind: "rebuild", image: undefined, journal, version: 1 } as const;
      const answer = await run(fresh(), rebuild, act("add", 1));
      expect(answer).toMatchObject({ kind: "fault", fault: "guest-diverged" });
    });

    test("refuses a damaged image", async () => {
      const { image } = await ok(run(fresh(), pristine, act("wait"), { imageAfterMs: 0 }));
      const damaged = Uint8Array.from(image ?? []);
      damaged[100] = (damaged[100] ?? 0) ^ 1;
      const rebuild = { kind: "rebuild", image: damaged, journal: [], version: 1 } as const;
      const answer = await run(fresh(), rebuild, act("add", 1));
      expect(answer).toMatchObject({ kind: "fault", fault: "corrupt-image" });
    });

    test("takes an image only when guest time has passed", async () => {
      const machine = fresh();
      expect((await ok(run(machine, pristine, act("add", 1)))).image).toBeUndefined();
      const due = await ok(run(machine, resident(1), act("add", 1), { imageAfterMs: 0 }));
      expect(due.image).toBeDefined();
      const after = await ok(run(machine, resident(2), act("add", 1), { imageAfterMs: 10_000 }));
      expect(after.image).toBeUndefined();
    });

    test("takes the same image of the same machine", async () => {
      const images = [fresh(), fresh()].map(async (machine) => {
        await ok(run(machine, pristine, act("hold", 200)));
        await ok(run(machine, resident(1), act("random")));
        return (await ok(run(machine, resident(2), act("wait"), { imageAfterMs: 0 }))).image;
      });
      const [one, two] = await Promise.all(images);
      expect(one).toEqual(two);
    });

    test("gives no machine the larger memory of another that grew", async () => {
      const imageOf = async () =>
        (await ok(run(fresh(), pristine, act("wait"), { imageAfterMs: 0 }))).image;
      const before = await imageOf();
      const machines = Array.from({ length: 4 }, fresh);
      for (const machine of machines) {
        for (let version = 0; version < 8; version++) {
          await ok(run(machine, version === 0 ? pristine : resident(version), act("hold", 255)));
        }
        await ok(run(machine, resident(8), act("finish")));
      }
      expect(await imageOf()).toEqual(before);
    });

    test.each([
      ...(hasWatchdog
        ? ([
            ["spin", 0, "guest-timeout"],
            ["fill", 0, "guest-timeout"],
          ] as const)
        : []),
      ["bloat", 0, "guest-memory"],
      ["recurse", 0, "guest-trap"],
      ["hang", 0, "guest-trap"],
      ["fail", 0, "guest-trap"],
      ["clock", 0, "guest-trap"],
      ["log", 0, "guest-trap"],
      ["flood", 17, "guest-output"],
    ] as const)("answers a fault for a guest that does %s", async (what, argument, fault) => {
      const machine = fresh();
      const answer = await run(machine, pristine, act(what, argument));
      expect(answer).toMatchObject({ kind: "fault", fault });
      expect(await run(machine, resident(1), act("add", 1))).toEqual({ kind: "absent" });
      // The next guest finds everything as usual.
      expect(await drained(run(fresh(), pristine, act("add", 5)))).toEqual([5, 1]);
    });

    test("lets a guest handle an allocation that is too large", async () => {
      expect(await drained(run(fresh(), pristine, act("survive")))).toEqual([1]);
    });

    test("prepares the same source under the same id", async () => {
      const again = await sandbox.prepare({ kind: "javascript", code: guestSource() });
      // The component itself is there only where it was just compiled.
      const { component: _again, ...known } = again;
      const { component: _first, ...first } = prepared;
      expect(known).toEqual(first);
      expect(prepared.id).toMatch(/^[0-9a-f]{64}$/);
      expect(prepared.manifest.definitions).toEqual([{ kind: "workflow", name: "test" }]);
    });

    test("knows a stored component again in another sandbox", async () => {
      const other = await open();
      try {
        expect(other.isLoaded(prepared.id)).toBe(false);
        expect(await other.load(prepared.id, prepared.bytes)).toEqual(prepared.manifest);
        expect(other.isLoaded(prepared.id)).toBe(true);
        const { image } = await ok(run(fresh(), pristine, act("wait"), { imageAfterMs: 0 }));
        const answer = await other.activate({
          component: prepared.id,
          machine: "elsewhere",
          from: { kind: "rebuild", image, journal: [], version: 1 },
          activation: act("resume", 1),
          after: "keep",
          imageAfterMs: Number.POSITIVE_INFINITY,
        });
        expect(answer.kind).toBe("ok");
      } finally {
        await other.close();
      }
    });

    test("refuses stored bytes that are damaged or another component's", async () => {
      const damaged = prepared.bytes.slice();
      damaged[500] = (damaged[500] ?? 0) ^ 1;
      const other = "0".repeat(64);
      const corrupt = { code: "corrupt-image" };
      await expect(sandbox.load(other, damaged)).rejects.toMatchObject(corrupt);
      await expect(sandbox.load(other, prepared.bytes)).rejects.toMatchObject(corrupt);
      expect(sandbox.isLoaded(other)).toBe(false);
    });

    test("refuses a component that it doesn't know", async () => {
      const component = "f".repeat(64);
      const unknown = { code: "component-not-found" };
      await expect(run(fresh(), pristine, act("add"), { component })).rejects.toMatchObject(
        unknown,
      );
    });

    test("refuses what isn't a component", async () => {
      for (const bytes of [new Uint8Array(0), new TextEncoder().encode("hello, world")]) {
        const refused = sandbox.prepare({ kind: "component", bytes });
        await expect(refused).rejects.toMatchObject({ code: "invalid-component" });
      }
    });

    test("answers nothing more once closed", async () => {
      const other = await open();
      await other.close();
      const request = other.prepare({ kind: "component", bytes: new Uint8Array(0) });
      await expect(request).rejects.toMatchObject({ code: "host-stopping" });
    });
  });
}
