/**
 * What the determinism tests run in another process: takes a stored component, an image
 * or nothing, and activations; answers what was drained and the sum of the memory.
 */
import { nodeCodec } from "../../host/sandbox/codec.ts";
import { createInstance, decodeBaseline } from "../../host/sandbox/engine.ts";
import { openImage, restoreImage } from "../../runtime/image.ts";
import { baseOf, memorySum, openEngine, play, startGuest } from "./kit.ts";

export interface Question {
  readonly stored: Uint8Array;
  readonly image: Uint8Array | undefined;
  readonly activations: readonly Uint8Array[];
}

export interface Answer {
  readonly drained: readonly number[];
  readonly sum: string;
}

process.once("message", async ({ stored, image, activations }: Question) => {
  const { engine } = await openEngine();
  const baseline = decodeBaseline(stored, engine, nodeCodec);
  let instance = startGuest(engine, baseline);
  if (image !== undefined) {
    const base = baseOf(baseline);
    instance = createInstance(engine);
    instance.growTo(openImage(image, base, nodeCodec).pages);
    restoreImage(image, instance.memory(), base, nodeCodec);
  }
  const drained = play(instance, activations);
  const answer: Answer = { drained, sum: memorySum(instance) };
  process.send?.(answer);
  process.disconnect?.();
});
