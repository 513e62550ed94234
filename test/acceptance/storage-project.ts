/** Workflows of test/acceptance/storage.test.ts. */
import { get, publish, put, type Ref, signal, step, workflow } from "sporeflow/guest";

/** Reads all of it, a part at a time, with a pause in the middle; returns a sum over the parts. */
export const reading = workflow(
  "reading",
  async (ref: Ref<Uint8Array>, size: number, partBytes: number) => {
    let sum = 0;
    for (let offset = 0; offset < size; offset += partBytes) {
      if (offset * 2 === size) await signal("go");
      const part = await get(ref, { offset, length: partBytes });
      sum += part.length + (part[0] ?? 0) + (part.at(-1) ?? 0);
    }
    return sum;
  },
);

/** What an array that came from outside is to a guest. */
export const looking = workflow("looking", async (ref: Ref<Float64Array>) => {
  const array = await get(ref);
  return [array.constructor.name, array.length, array.at(-1)];
});

export const keeping = workflow("keeping", async (length: number) => {
  const ref = await put("x".repeat(length));
  await signal("read");
  return (await get(ref)).length;
});

export const brief = workflow("brief", async (n: number) => n * 2);

const numbers = 16 * 1024 * 1024;

/** 128 MiB of numbers that are no two alike. */
function manyNumbers(seed: number): Float64Array {
  const array = new Float64Array(numbers);
  const block = 4096;
  for (let index = 0; index < block; index += 1) array[index] = (seed + index) / 7;
  for (let length = block; length < numbers; length *= 2) array.copyWithin(length, 0, length);
  for (let index = 0; index < numbers; index += block) array[index] = index;
  return array;
}

function sumOf(array: Float64Array): number {
  let sum = 0;
  for (let index = 0; index < array.length; index += 1024) sum += array[index] ?? 0;
  return sum;
}

const make = step("make", async (seed: number) => put(manyNumbers(seed)));
const sum = step("sum", async (ref: Ref<Float64Array>) => sumOf(await get(ref)));

/** A step makes them, and after a pause another one reads them. */
export const manyByRef = workflow("manyByRef", async (seed: number) => {
  const ref = await make(seed);
  await signal("sum");
  return { ref, sum: await sum(ref) };
});

const makeWhole = step("makeWhole", (seed: number) => manyNumbers(seed));
const sumWhole = step("sumWhole", (array: Float64Array) => sumOf(array));

/** They go from step to step by themselves, and are what the run results in. */
export const manyByValue = workflow("manyByValue", async (seed: number) => {
  const array = await makeWhole(seed);
  publish("sum", await sumWhole(array));
  return array;
});

/** A child's result is read by its parent. */
export const manyOfChild = workflow("manyOfChild", async (seed: number) =>
  sumOf(await manyByValue(seed)),
);
