/**
 * Entry of a sandbox thread: takes batches of jobs from threads.ts, runs them one after
 * the other on its machines, and answers in batches. It tells through shared memory which
 * job it is in and when it last entered a guest, so that the main thread can stop it.
 */
import { parentPort, workerData } from "node:worker_threads";
import { assert, SporeError } from "../../runtime/errors.ts";
import { nodeCodec } from "./codec.ts";
import { Machines } from "./machines.ts";
import {
  type Job,
  type JobBatch,
  Packer,
  packResult,
  progressWord,
  type Reply,
  type ReplyBatch,
  runningWord,
  unpackRequest,
  type WorkerStart,
} from "./messages.ts";

/** Finished work is sent at least this often: what a stopped thread had not sent is redone. */
const holdMsMax = 1;
const holdBytesMax = 4 * 1024 * 1024;

const port = parentPort;
assert(port !== null, "the sandbox worker runs in a worker thread");
const start = workerData as WorkerStart; // from threads.ts, the only one that starts us
const control = new Int32Array(start.control);
const packer = new Packer();
const machines = new Machines({
  engine: start.engine,
  codec: nodeCodec,
  limits: start.limits,
  nowMs: () => performance.now(),
  onEntry: () => Atomics.add(control, progressWord, 1),
});
let replies: Reply[] = [];

port.on("message", ({ buffer, jobs }: JobBatch) => {
  let sentMs = performance.now();
  for (const job of jobs) {
    const reply = run(job, buffer);
    if (reply === undefined) continue;
    replies.push(reply);
    const nowMs = performance.now();
    if (nowMs - sentMs < holdMsMax && packer.length < holdBytesMax) continue;
    send();
    sentMs = nowMs;
  }
  send();
});

function run(job: Job, buffer: ArrayBuffer): Reply | undefined {
  switch (job.kind) {
    case "component":
      machines.addComponent(job.component, job.stored);
      return undefined;
    case "forget":
      machines.removeComponent(job.component);
      return undefined;
    case "release":
      machines.release(job.machine);
      return undefined;
    case "describe":
    case "activate":
      Atomics.store(control, runningWord, job.id);
      try {
        return answer(job, buffer);
      } catch (error) {
        return threw(job.id, error);
      } finally {
        Atomics.store(control, runningWord, 0);
      }
  }
}

function answer(job: Job & { kind: "describe" | "activate" }, buffer: ArrayBuffer): Reply {
  const { id } = job;
  if (job.kind === "describe") {
    return { kind: "described", id, manifest: packer.add(machines.describe(job.component)) };
  }
  const request = unpackRequest(job.request, buffer);
  const result = packResult(machines.activate(request), packer);
  return { kind: "activated", id, result, isResident: machines.isResident(request.machine) };
}

function threw(id: number, error: unknown): Reply {
  if (error instanceof SporeError) {
    return { kind: "threw", id, code: error.code, message: error.message };
  }
  return { kind: "threw", id, code: "internal", message: `sandbox thread: ${String(error)}` };
}

let sentBytes = 0;

function send(): void {
  const evicted = machines.takeEvicted();
  const { residentBytes } = machines;
  if (replies.length === 0 && evicted.length === 0 && residentBytes === sentBytes) return;
  const batch: ReplyBatch = { buffer: packer.finish(), replies, evicted, residentBytes };
  replies = [];
  sentBytes = residentBytes;
  port?.postMessage(batch, [batch.buffer]);
}
