/** Traces of real server processes, as an OpenTelemetry collector receives them. */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, expect, it } from "vitest";
import { ask, folderOfTest, putAway, startProject, startServer, until } from "./kit.ts";

afterAll(putAway);

interface Span {
  /** Path that it was sent to, without the usual end. */
  readonly sender: string;
  readonly trace: string;
  readonly id: string;
  readonly parent: string;
  readonly name: string;
}

/** The fields of a protobuf message by their numbers; only what spans need of the format. */
function fieldsOf(bytes: Buffer): Map<number, Buffer[]> {
  const fields = new Map<number, Buffer[]>();
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes[at++] ?? 0;
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const wire = tag & 7;
    if (wire === 0) varint();
    else {
      const length = wire === 2 ? varint() : wire === 1 ? 8 : 4;
      const found = fields.get(tag >> 3) ?? [];
      fields.set(tag >> 3, [...found, bytes.subarray(at, at + length)]);
      at += length;
    }
  }
  return fields;
}

const below = (messages: readonly Buffer[], field: number): Buffer[] =>
  messages.flatMap((message) => fieldsOf(message).get(field) ?? []);

function spansIn(request: Buffer, sender: string): Span[] {
  // resource_spans (1) → scope_spans (2) → spans (2)
  return below(below(below([request], 1), 2), 2).map((span) => {
    const fields = fieldsOf(span);
    const text = (field: number, encoding: "hex" | "utf8"): string =>
      fields.get(field)?.[0]?.toString(encoding) ?? "";
    return {
      sender,
      trace: text(1, "hex"),
      id: text(2, "hex"),
      parent: text(4, "hex"),
      name: text(5, "utf8"),
    };
  });
}

/** A collector, and a place for effects that notes their `traceparent`. */
async function startReceiver() {
  const spans: Span[] = [];
  const effects: (string | undefined)[] = [];
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    const sender = /^(.*)\/v1\/traces$/.exec(request.url ?? "")?.[1];
    if (sender !== undefined) spans.push(...spansIn(Buffer.concat(chunks), sender));
    else effects.push(request.headers.traceparent as string | undefined);
    response.end("ok");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    spans,
    effects,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

const trace = "0af7651916cd43dd8448eb211c80319c";
const traceparent = `00-${trace}-b7ad6b7169203331-01`;

it("one trace goes from the client's request over kill -9 to the run's end and its fetches", async () => {
  const receiver = await startReceiver();
  try {
    const env = {
      OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url,
      OTEL_SERVICE_NAME: "spore-test",
      OTEL_BSP_SCHEDULE_DELAY: "100",
    };
    const first = await startProject({ folder: await folderOfTest(), env });
    const started = await ask(first, "POST", "/v1/workflows/waiter", {
      headers: { traceparent },
      json: { id: "traced", args: ["go"] },
    });
    expect(started.status).toBe(201);
    const effects = await ask(first, "POST", "/v1/workflows/chain?wait=30s", {
      headers: { traceparent },
      json: { id: "effects", args: [`${receiver.url}/effect`, 2] },
    });
    expect(effects.status).toBeLessThan(300);
    const sent = (): readonly string[] => receiver.spans.map(({ name }) => name);
    await until("the first host has sent its spans", () => sent().includes("run chain"));
    await first.kill();

    const second = await startServer({ folder: first.folder, env });
    await second.client.handle("traced").signal("go", 1);
    expect(await second.client.getOutput("traced")).toBe(1);
    await second.stop(); // sends what it has

    const { spans } = receiver;
    const of = (name: string): Span[] =>
      spans.filter((span) => span.trace === trace && span.name === name);
    const starts = of("POST /v1/workflows/{name}");
    expect(starts.map(({ parent }) => parent)).toEqual(Array(2).fill("b7ad6b7169203331"));
    const [chain] = of("run chain");
    const [waiter] = of("run waiter");
    const startIds = starts.map(({ id }) => id);
    expect(startIds).toContain(chain?.parent);
    expect(startIds).toContain(waiter?.parent);
    const fetches = of("POST").filter(({ parent }) => parent === chain?.id);
    expect(fetches).toHaveLength(2);
    expect(receiver.effects.toSorted()).toEqual(
      fetches.map(({ id }) => `00-${trace}-${id}-01`).toSorted(),
    );
    // Requests that came without a trace began traces of their own.
    expect(spans.some((span) => span.trace !== trace && span.parent === "")).toBe(true);
  } finally {
    await receiver.close();
  }
});

it("a run that another host owns than the one that was asked is in the same trace", async () => {
  const receiver = await startReceiver();
  try {
    const envOf = (name: string) => ({ OTEL_EXPORTER_OTLP_ENDPOINT: `${receiver.url}/${name}` });
    const first = await startProject({ folder: await folderOfTest(), env: envOf("first") });
    const second = await startServer({ folder: first.folder, env: envOf("second") });
    await until("both serve partitions", async () => {
      const { body } = await ask(second, "GET", "/v1/cluster");
      const hosts = body.hosts as readonly { readonly partitions: readonly number[] }[];
      return hosts.length === 2 && hosts.every(({ partitions }) => partitions.length === 2);
    });
    for (let index = 0; index < 12; index++) {
      const started = await ask(second, "POST", "/v1/workflows/echo?wait=30s", {
        headers: { traceparent },
        json: { id: `echo-${index}`, args: [1] },
      });
      expect(started.status).toBeLessThan(300);
    }
    await first.stop();
    await second.stop();
    const spans = receiver.spans.filter(({ trace: id }) => id === trace);
    const asked = new Set(
      spans.filter(({ sender, name }) => sender === "/second" && name.startsWith("POST")).map(idOf),
    );
    expect(asked.size).toBe(12);
    const runs = spans.filter(({ name }) => name === "run echo");
    expect(runs).toHaveLength(12);
    for (const { parent } of runs) expect(asked).toContain(parent);
    expect(new Set(runs.map(({ sender }) => sender))).toEqual(new Set(["/first", "/second"]));
  } finally {
    await receiver.close();
  }
});

const idOf = ({ id }: Span): string => id;

it("without OTEL_ variables nothing is sent, and effects carry no traceparent", async () => {
  const receiver = await startReceiver();
  try {
    const server = await startProject({ folder: await folderOfTest() });
    const effects = await ask(server, "POST", "/v1/workflows/chain?wait=30s", {
      headers: { traceparent },
      json: { id: "effects", args: [`${receiver.url}/effect`, 1] },
    });
    expect(effects.status).toBeLessThan(300);
    await server.stop();
    expect(receiver.effects).toEqual([undefined]);
    expect(receiver.spans).toEqual([]);
  } finally {
    await receiver.close();
  }
});
