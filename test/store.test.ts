import * as fs from "node:fs";
import * as http from "node:http";
import type { AddressInfo } from "node:net";
import * as os from "node:os";
import * as path from "node:path";
import { afterAll, describe, expect, test, vi } from "vitest";
import { examine } from "../host/doctor.ts";
import { FileStore } from "../host/store/file.ts";
import { MemoryStore } from "../host/store/memory.ts";
import { openStore } from "../host/store/open.ts";
import { type S3Options, S3Store } from "../host/store/s3.ts";
import { parseStorageUri, redactStorageUri } from "../host/store/uri.ts";
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

/** A server that answers each request with the next of the given statuses. */
async function withReplies(
  replies: readonly { status: number; body?: string; headers?: http.OutgoingHttpHeaders }[],
  work: (store: S3Store, requests: http.IncomingMessage[]) => Promise<void>,
  options: Partial<S3Options> = {},
): Promise<void> {
  const requests: http.IncomingMessage[] = [];
  const server = http.createServer((request, response) => {
    const reply = replies[requests.push(request) - 1] ?? { status: 500 };
    request.resume();
    request.on("end", () => {
      response.writeHead(reply.status, { "content-type": "application/xml", ...reply.headers });
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
    ...options,
  });
  try {
    await work(store, requests);
  } finally {
    await store.close();
    await new Promise((resolve) => server.close(resolve));
  }
}

function problem(code: string): string {
  return `<Error><Code>${code}</Code></Error>`;
}

describe("the s3 store", () => {
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

test("the s3 store begins a request's time when the request has its turn", async () => {
  const server = http.createServer((_request, response) => {
    setTimeout(() => response.end("1"), 1000);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const store = new S3Store({
    bucket: "bucket",
    endpoint: `http://127.0.0.1:${port}`,
    pathStyle: true,
    timeoutMs: 5000,
    credentials: { accessKeyId: "id", secretAccessKey: "secret" },
  });
  try {
    // So many that the last ones wait for longer than a request may take.
    const startMs = performance.now();
    const work = Array.from({ length: 800 }, (_, index) => store.get(`a/${index}`));
    await Promise.all(work);
    expect(performance.now() - startMs).toBeGreaterThan(5000);
  } finally {
    await store.close();
    server.closeAllConnections();
    server.close();
  }
}, 60_000);

test("the s3 store says how to give credentials where there are none", async () => {
  const nowhere = path.join(folder, "no-such-file");
  for (const name of ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"]) {
    vi.stubEnv(name, undefined);
  }
  vi.stubEnv("AWS_EC2_METADATA_DISABLED", "true");
  vi.stubEnv("AWS_CONFIG_FILE", nowhere);
  vi.stubEnv("AWS_SHARED_CREDENTIALS_FILE", nowhere);
  const store = new S3Store({ bucket: "b", endpoint: "http://127.0.0.1:1", region: "us-east-1" });
  try {
    const refused = expect.objectContaining({ hint: expect.stringContaining("AWS_PROFILE") });
    await expect(store.get("a")).rejects.toEqual(refused);
  } finally {
    vi.unstubAllEnvs();
    await store.close();
  }
});

describe("the s3 store, with large objects", () => {
  const large = new Uint8Array(25).map((_, index) => index);
  const begun = { status: 200, body: "<R><UploadId>u1</UploadId></R>" };
  const part = { status: 200, headers: { etag: '"e"' } };
  const parts = Array<typeof part>(3).fill(part);

  test("puts the condition on the request that completes an upload", async () => {
    const replies = [begun, ...parts, { status: 200, body: "<R><ETag>x</ETag></R>" }];
    const work = async (store: S3Store, requests: http.IncomingMessage[]): Promise<void> => {
      expect(await store.put("a", large, { ifAbsent: true })).toBe("created");
      expect(requests.map(({ method }) => method)).toEqual(["POST", "PUT", "PUT", "PUT", "POST"]);
      expect(requests.map(({ headers }) => headers["if-none-match"])).toEqual([
        ...Array(4).fill(undefined),
        "*",
      ]);
    };
    await withReplies(replies, work, { partBytes: 10 });
  });

  test("tells a lost race from the end of an upload, and leaves no parts behind", async () => {
    const lost = { status: 412, body: problem("PreconditionFailed") };
    const work = async (store: S3Store, requests: http.IncomingMessage[]): Promise<void> => {
      expect(await store.put("a", large, { ifAbsent: true })).toBe("exists");
      expect(requests.at(-1)).toMatchObject({ method: "DELETE" });
      expect(requests.at(-1)?.url).toContain("uploadId=u1");
    };
    await withReplies([begun, ...parts, lost, { status: 204 }], work, { partBytes: 10 });
  });

  test("reads an object that is overwritten between two parts from its beginning", async () => {
    const page = (text: string, range: string, etag: string) => {
      return { status: 206, body: text, headers: { "content-range": `bytes ${range}`, etag } };
    };
    const replies = [
      page("aaaaa", "0-4/7", '"1"'),
      { status: 412, body: problem("PreconditionFailed") },
      page("bbbbb", "0-4/6", '"2"'),
      page("b", "5-5/6", '"2"'),
    ];
    const work = async (store: S3Store, requests: http.IncomingMessage[]): Promise<void> => {
      expect(new TextDecoder().decode(await store.get("a"))).toBe("bbbbbb");
      expect(requests.map(({ headers }) => headers["if-match"])).toEqual([
        undefined,
        '"1"',
        undefined,
        '"2"',
      ]);
    };
    await withReplies(replies, work, { partBytes: 5 });
  });

  test.skipIf(s3Uri === undefined)(
    "creates once and reads back in parts on a real server (skipped without SPORE_TEST_S3)",
    async () => {
      const parsed = parseStorageUri(s3Uri ?? "");
      if (parsed.kind !== "s3") throw new Error("SPORE_TEST_S3 is no s3 URI");
      const store = new S3Store({ ...parsed.options, partBytes: 5 * 1024 * 1024 });
      const key = `parts-${Date.now()}`;
      const bytes = new Uint8Array(12 * 1024 * 1024 + 1).map((_, index) => index ^ (index >> 9));
      expect(await store.put(key, bytes, { ifAbsent: true })).toBe("created");
      expect(await store.put(key, bytes.slice().fill(0), { ifAbsent: true })).toBe("exists");
      const read = await store.get(key);
      expect(read && Buffer.compare(read, bytes)).toBe(0);
      expect(await store.get(key, { offset: 12 * 1024 * 1024, length: 9 })).toHaveLength(1);
      await store.delete(key);
      await store.close();
    },
  );
});

describe("a bucket without conditional writes", () => {
  /** What some test servers and older gateways do: If-None-Match is nothing to them. */
  async function withCareless(work: (uri: string) => Promise<void>): Promise<void> {
    const objects = new Map<string, Buffer>();
    const server = http.createServer(async (request, response) => {
      const path = (request.url ?? "").split("?")[0] ?? "";
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk);
      if (request.method === "PUT") objects.set(path, Buffer.concat(chunks));
      if (request.method === "DELETE") objects.delete(path);
      const found = objects.get(path);
      if (request.method === "GET" && found === undefined) response.writeHead(404);
      response.end(request.method === "GET" ? (found ?? problem("NoSuchKey")) : undefined);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    try {
      await work(`s3://id:secret@careless/x?endpoint=http://127.0.0.1:${port}&pathStyle=true`);
      expect([...objects.keys()]).toEqual([]);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  }

  test("is refused by name when a host starts", async () => {
    await withCareless(async (uri) => {
      const opening = openStore(uri);
      await expect(opening).rejects.toMatchObject({ code: "store-unsafe" });
      await expect(opening).rejects.toThrow(/s3:\/\/\*\*\*@careless\/x.*If-None-Match/);
    });
  });

  test("fails the doctor's checks, and only those", async () => {
    await withCareless(async (uri) => {
      const checks = await examine(uri);
      const bad = checks.filter(({ result }) => result === "failed").map(({ check }) => check);
      // It knows neither LIST nor uploads in parts.
      const unknown = new Set(["permission to list", "large objects", "hosts"]);
      expect(bad.filter((check) => !unknown.has(check))).toEqual([
        "conditional create",
        "concurrent creators",
      ]);
    });
  });
});

test.skipIf(s3Uri === undefined)(
  "the doctor finds nothing wrong with the tests' bucket (skipped without SPORE_TEST_S3)",
  async () => {
    const checks = await examine(s3Uri ?? "");
    expect(checks.filter(({ result }) => result === "failed")).toEqual([]);
    expect(checks.find(({ check }) => check === "clock")?.details).toContain("the store");
  },
);

test("a bucket that looks first and then writes is refused, though most races have one winner", async () => {
  const there = new Set<string>();
  const server = http.createServer(async (request, response) => {
    const path = (request.url ?? "").split("?")[0] ?? "";
    request.resume();
    const isThere = there.has(path);
    // Slow where it matters, and fast elsewhere.
    if (request.method === "PUT" && path.endsWith("-race-9"))
      await new Promise((resolve) => setTimeout(resolve, 50));
    if (request.method === "PUT" && !isThere) there.add(path);
    if (request.method === "DELETE") there.delete(path);
    if (request.method === "PUT" && isThere) response.writeHead(412);
    response.end(request.method === "GET" ? Buffer.from([1]) : undefined);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  try {
    const uri = `s3://id:secret@hasty/x?endpoint=http://127.0.0.1:${port}&pathStyle=true`;
    await expect(openStore(uri)).rejects.toThrow(/If-None-Match.*: [234] of 4 creators won/);
    expect([...there]).toEqual([]);
  } finally {
    server.closeAllConnections();
    server.close();
  }
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

  test.each([
    "",
    "data",
    "ftp://x",
    "s3://",
    "s3://b?pathstyle=1",
    "s3://b?timeoutMs=soon",
    "file:",
    "file://data",
  ])("is refused as %j", (uri) => {
    expect(() => parseStorageUri(uri)).toThrow(
      expect.objectContaining({ code: "invalid-request" }),
    );
  });

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
