/** A server process for bench/http.ts: the real one with the guest deployed, and a control. */
import type { AddressInfo } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import { Hono } from "hono";
import { build } from "../host/build.ts";
import { startServer } from "../host/node.ts";

const [folder = "", entry = "", outDir = ""] = process.argv.slice(2);
const server = await startServer({ storage: `file:${folder}`, port: 0, log: () => undefined });
const built = await build({
  entry,
  outDir,
  prepare: (source) => server.sandbox.prepare(source),
});
await server.sandbox.load(built.prepared.id, built.prepared.bytes);
await server.host.tenant("default").deploy({ kind: "javascript", code: built.code });

const empty = new Hono();
empty.post("/", async (context) => context.body(await context.req.arrayBuffer()));
const control = createAdaptorServer({ fetch: empty.fetch });
control.listen(0, "127.0.0.1", () => {
  const { port } = control.address() as AddressInfo;
  process.send?.({ url: server.url, control: `http://127.0.0.1:${port}` });
});
process.on("disconnect", () => {
  control.close();
  void server.stop().then(() => process.exit(0));
});
