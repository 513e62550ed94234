import * as fs from "node:fs";
import * as http from "node:http";
import * as os from "node:os";
import * as path from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { FileStore } from "../host/store/file.ts";
import { MemoryStore } from "../host/store/memory.ts";
import { S3Store } from "../host/store/s3.ts";
import { openStore, parseStorageUri, redactStorageUri } from "../host/store/uri.ts";
import { testStore } from "./suites/store.ts";

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "spore-store-"));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

testStore({ name: "memory", open: async () => new MemoryStore() });
testStore({ name: "file", open: () => FileStore.open(path.join(folder, "suite", "deep")) });

// SPORE_TEST_S3 is a storage URI of a bucket that tests may fill.
const s3Uri = process.env.SPORE_TEST_S3;
if (s3Uri === undefined) {
  test.skip("a s3 store: skipped, because SPORE_TEST_S3 names no bucket", () => {});
} else {
  testStore({ name: "s3", open: () => openStore(s3Uri), prefix: `suite-${Date.now()}` });
}

describe("the file store", () => {
  test("finds everything again after it was opened anew", async () => {
    const root = path.join(folder, "again");
    const first = await FileStore.open(root);
    await first.put("a/b", new Uint8Array([1, 2]));
    await first.close();
    const second = await FileStore.open(root);
    expect(await second.get("a/b")).toEqual(new Uint8Array([1, 2]));
    expect(await second.put("a/b", new Uint8Array([3]), { ifAbsent: true })).toBe("exists");
  });

  test("leaves no temporary files, and removes those of dead processes at open", async () => {
    const root = path.join(folder, "leftovers");
    const store = await FileStore.open(root);
    await store.put("a", new Uint8Array(10));
    await store.put("a", new Uint8Array(10), { ifAbsent: true });
    await Promise.all(
      [1, 2, 3].map((n) => store.put("b", new Uint8Array([n]), { ifAbsent: true })),
    );
    await store.close();
    const temporary = path.join(root, ".temporary");
    expect(fs.readdirSync(temporary)).toEqual([]);
    fs.writeFileSync(path.join(temporary, "dead"), "half an obj");
    fs.utimesSync(path.join(temporary, "dead"), 1, 1);
    fs.writeFileSync(path.join(temporary, "alive"), "half an obj");
    const again = await FileStore.open(root);
    expect(fs.readdirSync(temporary)).toEqual(["alive"]);
    expect((await again.list("")).keys.map(({ key }) => key)).toEqual(["a", "b"]);
  });

  test("lets one of two stores over the same folder win", async () => {
    const root = path.join(folder, "shared");
    const stores = [await FileStore.open(root), await FileStore.open(root)];
    for (let round = 0; round < 20; round += 1) {
      const results = await Promise.all(
        stores.map((store, index) =>
          store.put(`log/${round}`, new Uint8Array([index]), { ifAbsent: true }),
        ),
      );
      expect(results.toSorted()).toEqual(["created", "exists"]);
      const winner = await stores[0]?.get(`log/${round}`);
      expect(winner).toEqual(new Uint8Array([results.indexOf("created")]));
    }
  });

  test("refuses a key that is a folder of another key", async () => {
    const store = await FileStore.open(path.join(folder, "conflict"));
    await store.put("a/b", new Uint8Array(1));
    await store.put("c", new Uint8Array(1));
    for (const key of ["a", "c/d", "c/d/e"]) {
      for (const ifAbsent of [true, false]) {
        const attempt = store.put(key, new Uint8Array(1), { ifAbsent });
        await expect(attempt).rejects.toMatchObject({ code: "internal" });
      }
    }
    await store.delete("a");
    expect(await store.get("a/b")).toEqual(new Uint8Array(1));
  });

  test("reports a folder that it can't use as unavailable", async () => {
    const blocked = path.join(folder, "blocked");
    fs.writeFileSync(blocked, "a file, not a folder");
    await expect(FileStore.open(blocked)).rejects.toMatchObject({ code: "store-unavailable" });
  });
});

describe("the s3 store", () => {
  /** A server that answers each request with the next of the given statuses. */
  async function withReplies(
    replies: readonly { status: number; body?: string }[],
    work: (store: S3Store, requests: http.IncomingMessage[]) => Promise<void>,
  ): Promise<void> {
    const requests: http.IncomingMessage[] = [];
    const server = http.createServer((request, response) => {
      const reply = replies[requests.push(request) - 1] ?? { status: 500 };
      request.resume();
      request.on("end", () => {
        response.writeHead(reply.status, { "content-type": "application/xml" });
        response.end(request.method === "HEAD" ? undefined : reply.body);
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    const port = typeof address === "object" ? address?.port : undefined;
    const store = new S3Store({
      bucket: "bucket",
      prefix: "in/side",
      endpoint: `http://127.0.0.1:${port}`,
      pathStyle: true,
      credentials: { accessKeyId: "id", secretAccessKey: "secret" },
    });
    try {
      await work(store, requests);
    } finally {
      await store.close();
      await new Promise((resolve) => server.close(resolve));
    }
  }
  const problem = (code: string): string => `<Error><Code>${code}</Code></Error>`;
  const some = new Uint8Array([1]);

  test("asks for create-if-absent under its prefix and takes 412 as a lost race", async () => {
    const replies = [{ status: 200 }, { status: 412, body: problem("PreconditionFailed") }];
    await withReplies(replies, async (store, requests) => {
      expect(await store.put("a/b", some, { ifAbsent: true })).toBe("created");
      expect(await store.put("a/b", some, { ifAbsent: true })).toBe("exists");
      expect(requests.map(({ url }) => url?.split("?")[0])).toEqual(
        Array(2).fill("/bucket/in/side/a/b"),
      );
      expect(requests[0]?.headers["if-none-match"]).toBe("*");
    });
  });

  test("sends a refused PUT with 409 once more, then leaves it to the caller", async () => {
    const conflict = { status: 409, body: problem("ConditionalRequestConflict") };
    await withReplies([conflict, { status: 200 }], async (store, requests) => {
      expect(await store.put("a", some, { ifAbsent: true })).toBe("created");
      expect(requests).toHaveLength(2);
    });
    await withReplies([conflict, conflict], async (store, requests) => {
      const put = store.put("a", some, { ifAbsent: true });
      await expect(put).rejects.toMatchObject({ code: "store-unavailable" });
      expect(requests).toHaveLength(2);
    });
  });

  test.each([500, 503, 429, 403, 400])("does not retry a %i by itself", async (status) => {
    await withReplies([{ status }, { status }, { status }], async (store, requests) => {
      const put = store.put("a", some, { ifAbsent: true });
      await expect(put).rejects.toMatchObject({ code: "store-unavailable" });
      await expect(store.get("a")).rejects.toMatchObject({ code: "store-unavailable" });
      expect(requests).toHaveLength(2);
    });
  });

  test("tells a missing object from a missing bucket", async () => {
    const replies = [
      { status: 404, body: problem("NoSuchKey") },
      { status: 404, body: problem("NoSuchBucket") },
    ];
    await withReplies(replies, async (store) => {
      expect(await store.get("a")).toBeUndefined();
      await expect(store.get("a")).rejects.toMatchObject({ code: "store-unavailable" });
    });
  });

  test("cuts the part itself where a server ignores the range", async () => {
    await withReplies([{ status: 200, body: "0123456789" }], async (store, requests) => {
      const part = await store.get("a", { offset: 3, length: 4 });
      expect(new TextDecoder().decode(part)).toBe("3456");
      expect(requests[0]?.headers.range).toBe("bytes=3-6");
    });
  });
});

describe("a storage URI", () => {
  test("names the store and its options", () => {
    expect(parseStorageUri("memory:")).toEqual({ kind: "memory" });
    expect(parseStorageUri("file:./data")).toEqual({ kind: "file", folder: "./data" });
    expect(parseStorageUri("file:///var/spore%20x")).toEqual({
      kind: "file",
      folder: "/var/spore x",
    });
    const uri = "s3://bucket/pre/fix/?endpoint=http://localhost:9000&region=eu&pathStyle=true";
    expect(parseStorageUri(uri)).toEqual({
      kind: "s3",
      options: {
        bucket: "bucket",
        prefix: "pre/fix",
        endpoint: "http://localhost:9000",
        region: "eu",
        pathStyle: true,
      },
    });
  });

  test.each(["", "data", "ftp://x", "s3://", "s3://b?pathstyle=1", "file:", "file://data"])(
    "is refused as %j",
    (uri) => {
      expect(() => parseStorageUri(uri)).toThrow(
        expect.objectContaining({ code: "invalid-request" }),
      );
    },
  );

  test("is printed without what is secret", () => {
    const uri = "s3://key:secret@bucket/p?endpoint=http://u:pw@h&secretAccessKey=abc&region=eu";
    expect(redactStorageUri(uri)).toBe(
      "s3://***@bucket/p?endpoint=http://***@h&secretAccessKey=***&region=eu",
    );
    expect(() => parseStorageUri(uri)).toThrow(/secretAccessKey=\*\*\*/);
  });

  test("opens a store that works", async () => {
    const store = await openStore(`file:${path.join(folder, "by-uri")}`);
    await store.put("a", new Uint8Array([7]));
    expect(await store.get("a")).toEqual(new Uint8Array([7]));
    await store.close();
  });
});
