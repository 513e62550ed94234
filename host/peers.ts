/**
 * The way between hosts on Node: one POST of sealed bytes to `/internal/peer` of the server
 * that clients talk to as well. What is sealed, and for whom, is the engine's business; this
 * file only tells a request that nobody took from one whose fate isn't known.
 */
import { type IncomingMessage, Agent as PlainAgent, request as plainRequest } from "node:http";
import { Agent as TlsAgent, request as tlsRequest } from "node:https";
import { SporeError } from "../runtime/errors.ts";
import type { Host } from "../runtime/index.ts";
import type { Peers } from "../runtime/ports.ts";

export const peerPath = "/internal/peer";

/** A request with all that it carries; a value has at most 64 MiB (PROTOCOL 1.3). */
const peerBytesMax = 66 * 1024 * 1024;
/** All that strangers, too, can make this host read at a time before it looks at the seal. */
const readingBytesMax = 4 * peerBytesMax;
/** Hosts talk all the time: connections stay open, and this many of them for each host. */
const socketsMax = 256;
/** What another server, or one that doesn't know us, answers: nothing was executed. */
const refusals: ReadonlySet<number> = new Set([401, 403, 404, 405]);

export interface NodePeers extends Peers {
  close(): void;
}

export function createPeers(): NodePeers {
  const options = { keepAlive: true, maxSockets: socketsMax };
  const agents = { "http:": new PlainAgent(options), "https:": new TlsAgent(options) };
  return {
    async call(address, request, { timeoutMs }) {
      const url = new URL(peerPath, address);
      const isTls = url.protocol === "https:";
      const { status, body } = await exchange(timeoutMs, (answer) => {
        const agent = isTls ? agents["https:"] : agents["http:"];
        const headers = {
          "content-type": "application/octet-stream",
          "content-length": request.length,
        };
        const send = isTls ? tlsRequest : plainRequest;
        const sent = send(url, { method: "POST", agent, headers }, answer);
        sent.end(request);
        return sent;
      });
      if (status === 200) return body;
      const code = refusals.has(status) ? "peer-refused" : "peer-unavailable";
      throw new SporeError(code, `${address} answers ${status}`);
    },
    close() {
      for (const agent of Object.values(agents)) agent.destroy();
    },
  };
}

interface Answer {
  readonly status: number;
  readonly body: Uint8Array;
}

function exchange(
  timeoutMs: number,
  send: (answer: (response: IncomingMessage) => void) => ReturnType<typeof plainRequest>,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const fail = (cause: NodeJS.ErrnoException): void => {
      clearTimeout(timer);
      // Only this one says that nobody listens there; whatever else may have got through.
      const code = cause.code === "ECONNREFUSED" ? "peer-refused" : "peer-unavailable";
      reject(new SporeError(code, `a host can't be asked: ${cause.message}`, { cause }));
    };
    const sent = send((response) => {
      const parts: Buffer[] = [];
      response.on("data", (part: Buffer) => parts.push(part));
      response.on("error", fail);
      response.on("end", () => {
        clearTimeout(timer);
        resolve({ status: response.statusCode ?? 0, body: new Uint8Array(Buffer.concat(parts)) });
      });
    });
    sent.on("error", fail);
    const timer = setTimeout(
      () => sent.destroy(new Error(`no answer within ${timeoutMs} ms`)),
      timeoutMs,
    );
  });
}

/** Answers requests to `peerPath`; undefined for any other. */
export function peerAnswers(host: Host): (request: Request) => Promise<Response | undefined> {
  let readingBytes = 0;
  return async (request) => {
    if (!request.url.endsWith(peerPath) || new URL(request.url).pathname !== peerPath) {
      return undefined;
    }
    if (request.method !== "POST") return plain(405);
    const length = Number(request.headers.get("content-length") ?? Number.NaN);
    if (!(length <= peerBytesMax)) return plain(413);
    if (readingBytes + length > readingBytesMax) return plain(503);
    readingBytes += length;
    let bytes: Uint8Array;
    try {
      bytes = new Uint8Array(await request.arrayBuffer());
    } finally {
      readingBytes -= length;
    }
    return answerTo(host, bytes);
  };
}

async function answerTo(host: Host, request: Uint8Array): Promise<Response> {
  try {
    const answer = await host.serve(request);
    return new Response(answer as Uint8Array<ArrayBuffer>, {
      headers: { "content-type": "application/octet-stream" },
    });
  } catch (error) {
    // Whoever it was has no key of this namespace, or meant another host.
    const isStranger = error instanceof SporeError && error.code === "unauthorised";
    return plain(isStranger ? 401 : 500);
  }
}

function plain(status: number): Response {
  return new Response(null, { status });
}
