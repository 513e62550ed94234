/**
 * What runs in an isolate of its own, for one tenant's component: the sandbox and nothing
 * else. It is loaded by isolates.ts into a dynamic Worker without network and bindings;
 * everything that it is told comes as one call, and errors go back as data, because only
 * data crosses whole.
 */
import { WorkerEntrypoint } from "cloudflare:workers";
import { SporeError } from "../../runtime/errors.ts";
import type { Sandbox } from "../../runtime/ports.ts";
import { type BundledEngine, createEdgeSandbox } from "./engine.ts";
import type { IsolateAnswer, IsolateJob } from "./isolates.ts";

export type IsolateClass = new (
  ...given: never[]
) => { call(job: IsolateJob): Promise<IsolateAnswer> };

/** The entry of the dynamic Worker. */
export function isolateEntry(bundled: BundledEngine): IsolateClass {
  // The isolate's whole life: memories stay from one call to the next, until it is dropped.
  let sandbox: Sandbox | undefined;
  return class extends WorkerEntrypoint<unknown> {
    async call(job: IsolateJob): Promise<IsolateAnswer> {
      // Nobody else has work here; and no call may wait for another one's timer.
      sandbox ??= createEdgeSandbox(bundled, () => Promise.resolve());
      try {
        return await answerOf(job, sandbox);
      } catch (error) {
        if (!(error instanceof SporeError)) throw error;
        const { code, message, hint } = error;
        return { kind: "threw", code, message, hint };
      }
    }
  };
}

async function answerOf(job: IsolateJob, sandbox: Sandbox): Promise<IsolateAnswer> {
  switch (job.kind) {
    case "prepare":
      return { kind: "prepared", prepared: await sandbox.prepare(job.source) };
    case "load":
      return { kind: "loaded", manifest: await sandbox.load(job.component, job.bytes) };
    case "activate":
      if (!sandbox.isLoaded(job.request.component)) return { kind: "unknown" };
      return { kind: "activated", result: await sandbox.activate(job.request) };
    case "release":
      sandbox.release(job.machine);
      return { kind: "released" };
  }
}
