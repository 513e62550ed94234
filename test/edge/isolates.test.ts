/** An isolate for each tenant and component, over a Worker Loader that does as it is told. */
import { describe, expect, it } from "vitest";
import type { BundledEngine } from "../../host/worker/engine.ts";
import {
  createIsolateSandbox,
  type IsolateAnswer,
  type IsolateJob,
} from "../../host/worker/isolates.ts";
import type { ActivateRequest, ActivateResult } from "../../runtime/ports.ts";

const component = "a".repeat(64);
const ok: ActivateResult = {
  kind: "ok",
  drained: new Uint8Array(0),
  drainedHash: 0,
  guestMs: 1,
  image: undefined,
};
const sums = { main: "", runtime: "", glue: "", init: "", shim: "" };
const sizes = { main: 0, runtime: 0, glue: 0, init: 0, shim: 0 };
const bundled: BundledEngine = {
  // The fake loader never compiles what it is given.
  modules: {} as BundledEngine["modules"],
  identity: { hash: "e".repeat(64), sums, sizes, pagesMin: 1, tableSize: 1 },
  pagesMax: 512,
  loader: new ArrayBuffer(0),
  isolate: "the code",
};

type Play = (job: IsolateJob, name: string) => IsolateAnswer | Promise<IsolateAnswer>;

/** Answers as `play` says; keeps what the isolates were called and made of. */
async function open(play: Play) {
  const names: string[] = [];
  const codes: Record<string, unknown>[] = [];
  const sandbox = createIsolateSandbox(bundled, {
    get: (name, code) => ({
      getEntrypoint: () => ({
        async call(job) {
          names.push(name);
          codes.push((await code()) as Record<string, unknown>);
          return play(job, name);
        },
      }),
    }),
  });
  await sandbox.load(component, new Uint8Array(1));
  return { sandbox, names, codes };
}

const manifest = { protocol: 1, definitions: [] } as const;

/** An isolate that does what it is asked, unless `activated` says otherwise. */
function willing(activated: () => IsolateAnswer): Play {
  return (job) => {
    if (job.kind === "load") return { kind: "loaded", manifest };
    return job.kind === "activate" ? activated() : { kind: "released" };
  };
}

function request(machine: string, kind: "pristine" | "resident" = "pristine"): ActivateRequest {
  const from = kind === "pristine" ? { kind } : { kind, version: 1 };
  const activation = new Uint8Array(0);
  return { component, machine, from, activation, after: "keep", imageAfterMs: 2 };
}

describe("isolates", () => {
  it("are one for each tenant and component, without network and with a CPU limit", async () => {
    const { sandbox, names, codes } = await open(
      willing(() => ({ kind: "activated", result: ok })),
    );
    for (const machine of ["acme/r/1#1", "acme/r/2#1", "other/r/1#1"]) {
      expect(await sandbox.activate(request(machine))).toEqual(ok);
    }
    const engine = "e".repeat(16);
    expect([...new Set(names)]).toEqual([
      `${engine}-prepare-${component}`,
      `${engine}-acme-${component}`,
      `${engine}-other-${component}`,
    ]);
    for (const code of codes) {
      expect(code).toMatchObject({ globalOutbound: null, env: {} });
      expect(code.limits).toEqual({ cpuMs: 5000, subRequests: 0 });
    }
  });

  it.each([
    ["Worker exceeded CPU time limit.", "guest-timeout"],
    ["Worker exceeded memory limit.", "guest-memory"],
  ])("that end with %j are their guest's fault", async (words, fault) => {
    const { sandbox } = await open(
      willing(() => {
        throw new Error(words);
      }),
    );
    const result = await sandbox.activate(request("acme/r/1#1"));
    expect(result).toMatchObject({ kind: "fault", fault });
  });

  it("that are lost for another reason are started again, and their machines are absent", async () => {
    let losses = 2;
    const { sandbox } = await open(
      willing(() => {
        if (losses-- > 0) throw new Error("Network connection lost.");
        return { kind: "activated", result: ok };
      }),
    );
    expect(await sandbox.activate(request("acme/r/1#1", "resident"))).toEqual({ kind: "absent" });
    expect(await sandbox.activate(request("acme/r/1#1"))).toEqual(ok);
  });

  it("that are new are given the component first, and know no resident machine", async () => {
    let isKnown = false;
    const { sandbox } = await open((job) => {
      if (job.kind === "load") {
        isKnown = job.component === component;
        return { kind: "loaded", manifest };
      }
      return isKnown ? { kind: "activated", result: ok } : { kind: "unknown" };
    });
    isKnown = false;
    expect(await sandbox.activate(request("acme/r/1#1", "resident"))).toEqual({ kind: "absent" });
    expect(await sandbox.activate(request("acme/r/1#1"))).toEqual(ok);
  });

  it("are at most eight at work at once", async () => {
    let atWork = 0;
    let most = 0;
    const { sandbox } = await open(async (job) => {
      if (job.kind === "load") return { kind: "loaded", manifest };
      most = Math.max(most, ++atWork);
      await new Promise((resolve) => setImmediate(resolve));
      atWork -= 1;
      return { kind: "activated", result: ok };
    });
    const machines = Array.from({ length: 40 }, (_, index) => `t${index}/r/1#1`);
    await Promise.all(machines.map((machine) => sandbox.activate(request(machine))));
    expect(most).toBe(8);
  });

  it("say what went wrong in them with its code", async () => {
    const message = "the module has no luck";
    const { sandbox } = await open((job) => {
      if (job.kind === "load") return { kind: "loaded", manifest };
      return { kind: "threw", code: "build-failed", message, hint: "try" };
    });
    const refused = sandbox.prepare({ kind: "javascript", code: "no" });
    await expect(refused).rejects.toMatchObject({ code: "build-failed", message, hint: "try" });
  });
});
