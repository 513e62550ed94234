/**
 * What every store does, as a function of a factory. Each test works below a prefix of
 * its own, so that the suite can also run against a bucket that is not empty.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Store } from "../../runtime/ports.ts";

export interface StoreSuite {
  readonly name: string;
  readonly open: () => Promise<Store>;
  /** Unique per run where objects outlive it. */
  readonly prefix?: string;
}

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const textOf = (bytes: Uint8Array | undefined): string | undefined =>
  bytes && new TextDecoder().decode(bytes);

export function testStore({ name, open, prefix = "suite" }: StoreSuite): void {
  describe(`a ${name} store`, () => {
    let store: Store;
    let counter = 0;
    /** A fresh prefix for each test. */
    const fresh = (): string => {
      counter += 1;
      return `${prefix}/${counter}`;
    };
    beforeAll(async () => {
      store = await open();
    });
    afterAll(() => store.close());

    test("gives back what was put, and nothing where nothing is", async () => {
      const at = fresh();
      expect(await store.get(`${at}/a`)).toBeUndefined();
      expect(await store.put(`${at}/a`, bytesOf("one"))).toBe("created");
      expect(textOf(await store.get(`${at}/a`))).toBe("one");
      expect(await store.get(`${at}`)).toBeUndefined();
      expect(await store.get(`${at}/a/b`)).toBeUndefined();
    });

    test("overwrites without ifAbsent", async () => {
      const key = `${fresh()}/a`;
      await store.put(key, bytesOf("a long first value"));
      expect(await store.put(key, bytesOf("two"))).toBe("created");
      expect(textOf(await store.get(key))).toBe("two");
    });

    test("keeps the first object with ifAbsent", async () => {
      const key = `${fresh()}/a`;
      expect(await store.put(key, bytesOf("one"), { ifAbsent: true })).toBe("created");
      expect(await store.put(key, bytesOf("two"), { ifAbsent: true })).toBe("exists");
      expect(textOf(await store.get(key))).toBe("one");
    });

    test("lets exactly one of many concurrent creators win", async () => {
      const at = fresh();
      for (let round = 0; round < 10; round += 1) {
        const key = `${at}/deep/er/${round}`;
        const results = await Promise.all(
          Array.from({ length: 16 }, (_, index) =>
            store.put(key, bytesOf(`writer ${index}`), { ifAbsent: true }),
          ),
        );
        const winners = results.flatMap((result, index) => (result === "created" ? [index] : []));
        expect(winners).toHaveLength(1);
        expect(textOf(await store.get(key))).toBe(`writer ${winners[0]}`);
      }
    });

    test("creates again after a delete, and deletes what isn't there", async () => {
      const key = `${fresh()}/a`;
      await store.delete(key);
      await store.put(key, bytesOf("one"), { ifAbsent: true });
      await store.delete(key);
      expect(await store.get(key)).toBeUndefined();
      await store.delete(key);
      expect(await store.put(key, bytesOf("two"), { ifAbsent: true })).toBe("created");
      expect(textOf(await store.get(key))).toBe("two");
    });

    test("gives the asked part, clipped at the end", async () => {
      const key = `${fresh()}/a`;
      await store.put(key, bytesOf("0123456789"));
      const part = async (offset: number, length: number) =>
        textOf(await store.get(key, { offset, length }));
      expect(await part(0, 4)).toBe("0123");
      expect(await part(4, 3)).toBe("456");
      expect(await part(8, 100)).toBe("89");
      expect(await part(10, 5)).toBe("");
      expect(await part(11, 5)).toBe("");
      expect(await part(3, 0)).toBe("");
      expect(await store.get(`${key}-no`, { offset: 0, length: 1 })).toBeUndefined();
      expect(await store.get(`${key}-no`, { offset: 0, length: 0 })).toBeUndefined();
    });

    test("keeps empty objects and objects of several megabytes", async () => {
      const at = fresh();
      const large = new Uint8Array(3_000_001).map((_, index) => index * 31 + (index >> 8));
      await store.put(`${at}/empty`, new Uint8Array());
      await store.put(`${at}/large`, large);
      expect(await store.get(`${at}/empty`)).toEqual(new Uint8Array());
      const read = await store.get(`${at}/large`);
      expect(read && Buffer.compare(read, large)).toBe(0);
    });

    test("is not changed by what callers do with their bytes", async () => {
      const key = `${fresh()}/a`;
      const mine = bytesOf("one");
      await store.put(key, mine);
      mine.fill(0);
      (await store.get(key))?.fill(0);
      (await store.get(key, { offset: 0, length: 2 }))?.fill(0);
      expect(textOf(await store.get(key))).toBe("one");
    });

    test("keeps keys apart that a file system or a URL might mix up", async () => {
      const at = fresh();
      const keys = [
        "a%2Fb",
        "a%",
        "a b".replace(" ", "+"),
        "a:b",
        "a?b",
        "a#b",
        ".a",
        "~",
        "a.",
        "a=&",
      ];
      for (const key of keys) await store.put(`${at}/${key}`, bytesOf(key));
      for (const key of keys) expect(textOf(await store.get(`${at}/${key}`))).toBe(key);
      const listed = (await store.list(`${at}/`)).keys.map(({ key }) => key);
      expect(listed).toEqual(keys.map((key) => `${at}/${key}`).sort());
    });

    test.each(["", "/a", "a/", "a//b", "a/../b", "..", "./a", "a/.", "a b", "ä", "a\\b", "a\nb"])(
      "refuses the key %j",
      async (key) => {
        await expect(store.get(key)).rejects.toMatchObject({ code: "internal" });
        await expect(store.put(key, bytesOf("x"))).rejects.toMatchObject({ code: "internal" });
        await expect(store.delete(key)).rejects.toMatchObject({ code: "internal" });
      },
    );

    test("lists keys with their sizes in code-unit order, page by page", async () => {
      const at = fresh();
      const keys = ["a-b/1", "a-c", "a/1", "a/10", "a/2/z", "a/20", "a0", "b/c/d", "b/c0"];
      for (const key of keys) await store.put(`${at}/${key}`, bytesOf(key));
      const all = (await store.list(`${at}/`)).keys;
      expect(all).toEqual(keys.sort().map((key) => ({ key: `${at}/${key}`, size: key.length })));
      const found: string[] = [];
      for (let after: string | undefined; ; after = found.at(-1)) {
        const page = await store.list(`${at}/`, { limit: 2, ...(after && { after }) });
        found.push(...page.keys.map(({ key }) => key));
        if (!page.isTruncated) break;
        expect(page.keys).toHaveLength(2);
      }
      expect(found).toEqual(all.map(({ key }) => key));
    });

    test("lists by prefix, also one that ends inside a name", async () => {
      const at = fresh();
      for (const key of ["ab/1", "ab/2", "abc", "b"]) await store.put(`${at}/${key}`, bytesOf("x"));
      const list = async (below: string) =>
        (await store.list(`${at}/${below}`)).keys.map(({ key }) => key.slice(at.length + 1));
      expect(await list("ab")).toEqual(["ab/1", "ab/2", "abc"]);
      expect(await list("ab/")).toEqual(["ab/1", "ab/2"]);
      expect(await list("ab/2")).toEqual(["ab/2"]);
      expect(await list("nothing/")).toEqual([]);
      const exact = await store.list(`${at}/ab/`, { limit: 2 });
      expect(exact.isTruncated).toBe(false);
      await store.delete(`${at}/ab/1`);
      expect(await list("ab/")).toEqual(["ab/2"]);
    });
  });
}
