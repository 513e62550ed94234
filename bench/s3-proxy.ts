/**
 * A bad network between hosts and an S3 server, from a seed: requests that never arrive,
 * answers that get lost, requests that arrive twice or long after their sender gave up, and
 * latency. It also counts what passes, by the kinds that a bill knows. It never lies: every
 * answer that comes through is the server's own.
 */
import { once } from "node:events";
import {
  Agent,
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type ServerResponse,
  request as send,
} from "node:http";
import type { AddressInfo } from "node:net";
import { seededNumbers } from "./seeded.ts";

/** Shares are from 0 to 1, of the requests. */
export interface Weather {
  /** Added to every request. */
  readonly delayMs?: number;
  /** Added to some: up to so much more. */
  readonly jitterMs?: number;
  /** The request never arrives; its connection is cut. */
  readonly dropped?: number;
  /** The request is performed; its answer never arrives. */
  readonly replyLost?: number;
  /** Writes only: performed twice, the second time somewhat later. */
  readonly duplicated?: number;
  /** Writes only: the sender's connection is cut, and the write is performed after that. */
  readonly late?: number;
}

export interface Traffic {
  /** PUT and POST: what S3 bills as class A, without LIST. */
  puts: number;
  gets: number;
  lists: number;
  deletes: number;
  bytesIn: number;
  bytesOut: number;
}

export interface S3Proxy {
  /** The storage URI with this proxy as its endpoint. */
  readonly storage: string;
  readonly traffic: Traffic;
  /** Requests that the weather has harmed. */
  readonly faults: number;
  setWeather(weather: Weather): void;
  resetTraffic(): void;
  close(): Promise<void>;
}

/** How much later than its sender knows a write may be performed. */
const lateMsMax = 3_000;

/** Before the endpoint of a storage URI `s3://…?endpoint=http://…`. */
export async function startS3Proxy(storage: string, seed = 1): Promise<S3Proxy> {
  const uri = new URL(storage);
  const endpoint = new URL(uri.searchParams.get("endpoint") ?? "");
  const random = seededNumbers(seed);
  const agent = new Agent({ keepAlive: true });
  const traffic = noTraffic();
  const late = new Set<NodeJS.Timeout>();
  let weather: Weather = {};
  let faults = 0;

  const happens = (share = 0): boolean => {
    const isSo = random() < share;
    if (isSo) faults += 1;
    return isSo;
  };

  function later(work: () => Promise<unknown>): void {
    const timer = setTimeout(() => {
      late.delete(timer);
      // Nobody waits for it, and a server that is gone performs nothing.
      work().catch(() => undefined);
    }, random() * lateMsMax);
    late.add(timer);
  }

  function perform(call: Call): Promise<Answer> {
    count(traffic, call);
    const { method, path, headers, body } = call;
    return new Promise((resolve, reject) => {
      const { hostname: host, port } = endpoint;
      // The signature covers the Host header, so it stays the proxy's own.
      const outgoing = send({ agent, host, port, method, path, headers }, (incoming) => {
        read(incoming).then((bytes) => {
          traffic.bytesOut += bytes.length;
          const { statusCode: status = 502, headers: given } = incoming;
          resolve({ status, headers: given, body: bytes });
        }, reject);
      });
      outgoing.once("error", reject);
      outgoing.end(body);
    });
  }

  async function pass(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "GET", url: path = "/", headers } = request;
    const call = { method, path, headers, body: await read(request) };
    const isWrite = method !== "GET" && method !== "HEAD";
    const { delayMs = 0, jitterMs = 0 } = weather;
    const waitMs = delayMs + random() * jitterMs;
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    if (happens(weather.dropped)) return cut(request);
    if (isWrite && happens(weather.late)) {
      later(() => perform(call));
      return cut(request);
    }
    const answer = await perform(call);
    if (isWrite && happens(weather.duplicated)) later(() => perform(call));
    if (happens(weather.replyLost)) return cut(request);
    response.writeHead(answer.status, answer.headers);
    response.end(answer.body);
  }

  const server = createServer((request, response) => {
    pass(request, response).catch(() => cut(request));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  uri.searchParams.set("endpoint", `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  return {
    storage: uri.href,
    traffic,
    get faults() {
      return faults;
    },
    setWeather(next) {
      weather = next;
    },
    resetTraffic() {
      Object.assign(traffic, noTraffic());
    },
    async close() {
      for (const timer of late) clearTimeout(timer);
      server.closeAllConnections();
      server.close();
      await once(server, "close");
      agent.destroy();
    },
  };
}

interface Call {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

function noTraffic(): Traffic {
  return { puts: 0, gets: 0, lists: 0, deletes: 0, bytesIn: 0, bytesOut: 0 };
}

function count(traffic: Traffic, { method, path, body }: Call): void {
  traffic.bytesIn += body.length;
  if (method === "DELETE") traffic.deletes += 1;
  else if (method === "PUT" || method === "POST") traffic.puts += 1;
  else if (path.includes("list-type=2")) traffic.lists += 1;
  else traffic.gets += 1;
}

async function read(stream: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function cut(request: IncomingMessage): void {
  request.socket.destroy();
}
