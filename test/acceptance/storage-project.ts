/** Workflows of test/acceptance/storage.test.ts. */
import { get, put, type Ref, signal, workflow } from "sporeflow/guest";

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

export const keeping = workflow("keeping", async (length: number) => {
  const ref = await put("x".repeat(length));
  await signal("read");
  return (await get(ref)).length;
});

export const brief = workflow("brief", async (n: number) => n * 2);
