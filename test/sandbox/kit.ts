/** An engine and the test guest's baseline in this process, for tests below the threads. */
import { createHash } from "node:crypto";
import { nodeCodec } from "../../host/sandbox/codec.ts";
import { loadEngineParts } from "../../host/sandbox/compile.ts";
import {
  type Baseline,
  compileEngine,
  createInstance,
  type Engine,
  type GuestInstance,
} from "../../host/sandbox/engine.ts";
import { type ImageBase, resetMemory, wasmPageBytes } from "../../runtime/image.ts";

const { digest } = nodeCodec;

export async function openEngine() {
  const parts = await loadEngineParts(digest);
  const engine = await compileEngine(parts);
  return { parts, engine, host: { parts, pagesMax: engine.pagesMax, digest } };
}

/** An instance with the baseline's memory. */
export function startGuest(engine: Engine, baseline: Baseline): GuestInstance {
  const instance = createInstance(engine);
  instance.growTo(baseline.memory.length / wasmPageBytes);
  resetMemory(instance.memory(), baseline.memory);
  return instance;
}

/** Delivers each activation; the last drained bytes as text codes. */
export function play(instance: GuestInstance, activations: readonly Uint8Array[]): number[] {
  let drained = new Uint8Array(0);
  for (const activation of activations) {
    instance.deliver(activation);
    drained = instance.drain().slice();
  }
  return [...drained];
}

export function memorySum(instance: GuestInstance): string {
  return createHash("sha256").update(instance.memory()).digest("hex");
}

export function baseOf(baseline: Baseline): ImageBase {
  const { engine, component, memory, memoryHash } = baseline;
  return { engine, component, pristine: memory, pristineHash: memoryHash };
}
