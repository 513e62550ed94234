/** Long work in pieces: so much in an invocation, the rest when the next one begins. */
import { expect, it } from "vitest";
import { MemoryStore } from "../../host/store/memory.ts";
import { Pieces } from "../../host/worker/pieces.ts";
import { SporeError } from "../../runtime/errors.ts";

const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 1));

it("calls are held at the end of a piece, and go on with the next", async () => {
  let held = 0;
  const onHeld = (): void => {
    held += 1;
  };
  const pieces = new Pieces(onHeld, { calls: 3, bytes: 1000 });
  const store = pieces.store(new MemoryStore());
  let done = 0;
  const work = Promise.all(
    Array.from({ length: 8 }, async (_, index) => {
      await store.put(`k${index}`, new Uint8Array(1));
      done += 1;
    }),
  );
  const seen: number[] = [];
  for (let piece = 0; piece < 3; piece += 1) {
    await turn();
    seen.push(done);
    pieces.begin();
  }
  await work;
  expect([seen, done, held]).toEqual([[3, 6, 8], 8, 2]);
  expect(pieces.isHeld).toBe(false);
});

it("a piece ends by its bytes as well, read or written", async () => {
  const pieces = new Pieces(() => undefined, { calls: 100, bytes: 1000 });
  const inner = new MemoryStore();
  await inner.put("large", new Uint8Array(900));
  const store = pieces.store(inner);
  await store.put("small", new Uint8Array(200));
  expect(await store.get("large")).toHaveLength(900);
  const next = store.get("small");
  await turn();
  expect(pieces.isHeld).toBe(true);
  pieces.begin();
  expect(await next).toHaveLength(200);
});

it("what is being read counts before it is there, in the piece that begins meanwhile too", async () => {
  const pieces = new Pieces(() => undefined, { calls: 100, bytes: 1000 });
  const inner = new MemoryStore();
  await inner.put("k", new Uint8Array(2000));
  const arrived = Promise.withResolvers<void>();
  const get = async (key: string, range?: { offset: number; length: number }) => {
    await arrived.promise;
    return inner.get(key, range);
  };
  const store = pieces.store({
    get,
    put: (key, bytes) => inner.put(key, bytes),
    delete: (key) => inner.delete(key),
    list: (prefix) => inner.list(prefix),
    close: () => inner.close(),
  });
  const reads = Array.from({ length: 6 }, () => store.get("k", { offset: 0, length: 400 }));
  let done = 0;
  for (const read of reads) void read.then(() => (done += 1));
  await turn();
  expect(pieces.isHeld).toBe(true); // three are under way
  pieces.begin();
  arrived.resolve();
  await turn();
  expect([done, pieces.isHeld]).toEqual([3, true]);
  pieces.begin();
  await turn();
  expect([done, pieces.isHeld]).toEqual([6, false]);
});

it("what is held when the host lets go fails, and so does what comes", async () => {
  const pieces = new Pieces(() => undefined, { calls: 1, bytes: 1000 });
  const store = pieces.store(new MemoryStore());
  await store.delete("a");
  const held = store.list("");
  const refused = expect(held).rejects.toMatchObject({ code: "host-stopping" });
  pieces.close(new SporeError("host-stopping", "another host has this partition"));
  await refused;
  pieces.begin();
  await expect(store.get("a")).rejects.toMatchObject({ code: "host-stopping" });
});
