/** The way between hosts on Node: which failure says that nothing was executed. */
import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, it } from "vitest";
import { createPeers, peerAnswers, peerPath } from "../../host/peers.ts";
import { SporeError } from "../../runtime/errors.ts";
import type { Host } from "../../runtime/index.ts";

const peers = createPeers();
const servers: Server[] = [];
const request = new Uint8Array([1, 2, 3]);

afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  }
});

async function listen(handler: RequestListener): Promise<string> {
  const server = createServer(handler);
  servers.push(server);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function codeOf(address: string, timeoutMs = 5000): Promise<string> {
  try {
    await peers.call(address, request, { timeoutMs });
    return "none";
  } catch (error) {
    return error instanceof SporeError ? error.code : String(error);
  }
}

it("bytes go there and come back", async () => {
  const address = await listen(async (incoming, response) => {
    expect([incoming.method, incoming.url]).toEqual(["POST", peerPath]);
    const parts: Buffer[] = [];
    for await (const part of incoming) parts.push(part as Buffer);
    response.end(Buffer.concat(parts).map((byte) => byte * 2));
  });
  for (let n = 0; n < 3; n += 1) {
    expect([...(await peers.call(address, request, { timeoutMs: 5000 }))]).toEqual([2, 4, 6]);
  }
});

it("nobody listening, and a server that isn't ours, are refusals", async () => {
  const address = await listen((_incoming, response) => response.end());
  const [server] = servers.splice(0);
  server?.close();
  expect(await codeOf(address)).toBe("peer-refused");
  for (const status of [401, 403, 404, 405]) {
    const other = await listen((_incoming, response) => response.writeHead(status).end());
    expect(await codeOf(other)).toBe("peer-refused");
  }
});

it("a connection that breaks, silence, and a host in trouble leave it open", async () => {
  const broken = await listen((incoming) => void incoming.socket.destroy());
  expect(await codeOf(broken)).toBe("peer-unavailable");
  const half = await listen((_incoming, response) => {
    response.writeHead(200, { "content-length": 100 });
    response.write("half", () => response.destroy());
  });
  expect(await codeOf(half)).toBe("peer-unavailable");
  const silent = await listen(() => undefined);
  expect(await codeOf(silent, 50)).toBe("peer-unavailable");
  const troubled = await listen((_incoming, response) => response.writeHead(503).end());
  expect(await codeOf(troubled)).toBe("peer-unavailable");
});

it("takes POSTs of a bounded length, and tells strangers nothing", async () => {
  const host: Partial<Host> = {
    serve: async (bytes) => {
      if (bytes.length === 3) return bytes;
      throw new SporeError("unauthorised", "secret details");
    },
  };
  const answer = peerAnswers(host as Host);
  const post = (length: number, declared = length): Promise<Response | undefined> =>
    answer(
      new Request(`http://host${peerPath}`, {
        method: "POST",
        body: new Uint8Array(length),
        headers: { "content-length": String(declared) },
      }),
    );
  expect((await post(3))?.status).toBe(200);
  const stranger = await post(4);
  expect([stranger?.status, await stranger?.text()]).toEqual([401, ""]);
  expect((await post(3, 10 ** 9))?.status).toBe(413);
  const undeclared = new Request(`http://host${peerPath}`, { method: "POST", body: "abc" });
  expect((await answer(undeclared))?.status).toBe(413);
  expect((await answer(new Request(`http://host${peerPath}`)))?.status).toBe(405);
  expect(await answer(new Request("http://host/v1/runs"))).toBeUndefined();
});
