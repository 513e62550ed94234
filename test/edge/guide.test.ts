/** The steps of docs/EDGE.md that need no account: keys, grants, and a component sent at run time. */
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { createClient } from "../../client/index.ts";
import { ask, codeOf, type Outside, spore, startOutside } from "../acceptance/kit.ts";
import { sleeper, twice } from "./journey.ts";
import { type EdgeHost, root, startEdge, stopEdges, wrangler } from "./kit.ts";

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

const keys = { acme: "acme-key", other: "other-key", operator: "operator-key" };
const hashed = (fetch: Readonly<Record<string, readonly string[]>> = {}) =>
  Object.entries(keys).map(([tenant, key]) => ({
    tenant,
    sha256: createHash("sha256").update(key).digest("hex"),
    isOperator: tenant === "operator",
    fetch: fetch[tenant],
  }));
let edge: EdgeHost;
let outside: Outside;

beforeAll(async () => {
  outside = await startOutside();
  const fetch = { acme: [new URL(outside.url).host], other: ["*"] };
  const env = {
    SPORE_KEYS: JSON.stringify(hashed(fetch)),
    SPORE_PUBLIC_URL: "https://spore.example.com",
  };
  edge = await startEdge({ env });
});
afterAll(async () => {
  await stopEdges();
  await outside.close();
});

const clientOf = (key: string) => createClient({ url: edge.url, apiKey: key });

/** The status that a request for another name gets; `fetch` would not send that name. */
function statusAs(host: string, { url }: EdgeHost): Promise<number> {
  return new Promise((resolve, reject) => {
    const asked = request(`${url}/v1/runs/x`, { headers: { host } }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
    asked.on("error", reject).end();
  });
}

it("`spore deploy` with a key sends a component to its tenant, and to no other", async () => {
  const folder = mkdtempSync(join(tmpdir(), "spore-guide-"));
  try {
    const entry = join(root, "test/edge/journey.ts");
    const { code, out, err } = await spore(
      ["deploy", entry, "--url", edge.url, "--key", keys.acme],
      {
        cwd: folder,
      },
    );
    expect({ code, shown: out + err }).toMatchObject({
      code: 0,
      shown: expect.stringContaining("twice"),
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  expect(await clientOf(keys.acme).run(twice.with(21), { id: "mine" })).toBe(42);
  await expect(clientOf(keys.other).run(twice.with(1))).rejects.toMatchObject({
    code: "no-component",
  });
  await expect(clientOf(keys.other).getStatus("mine")).rejects.toMatchObject({
    code: "run-not-found",
  });
});

it("guests fetch what is granted to their tenant, and nothing private by any other grant", async () => {
  const { port } = new URL(outside.url);
  const code = await codeOf("test/edge/journey.ts");
  await clientOf(keys.acme).deploy(code);
  await clientOf(keys.other).deploy(code);
  expect(await clientOf(keys.acme).run(sleeper.with(outside.url, 1))).toBe("/woke");
  const denied = [
    [keys.acme, "http://api.example.com"],
    [keys.acme, `http://localhost:${port}`],
    [keys.other, outside.url],
    [keys.other, "http://169.254.169.254"],
    [keys.other, "http://[::ffff:169.254.169.254]"],
    [keys.other, "http://2130706433"],
    [keys.other, "http://localhost."],
    [keys.other, "http://metadata.google.internal"],
  ] as const;
  for (const [key, url] of denied) {
    const run = clientOf(key).run(sleeper.with(url, 1));
    await expect(run, url).rejects.toMatchObject({ code: "egress-denied" });
  }
  expect(outside.calls).toEqual(new Map([["/woke", 1]]));
});

it("without a key nothing but probes is answered, and a tenant's key is no operator's", async () => {
  expect((await fetch(`${edge.url}/healthz`)).status).toBe(200);
  expect((await ask(edge, "GET", "/v1/runs/mine")).status).toBe(401);
  expect((await ask(edge, "GET", "/metrics")).status).toBe(401);
  const headers = { authorization: `Bearer ${keys.acme}` };
  expect((await ask(edge, "GET", "/v1/status", { headers })).status).toBe(403);
  const operator = { authorization: `Bearer ${keys.operator}` };
  expect((await ask(edge, "GET", "/v1/status", { headers: operator })).status).toBe(200);
});

it("without keys only localhost is answered", async () => {
  const open = await startEdge();
  expect(await statusAs("spore.example.com", open)).toBe(403);
  expect((await ask(open, "GET", "/v1/runs/x")).status).toBe(404);
});

it("wrangler finds nothing wrong with what would be deployed, and every binding by its name", async () => {
  const folder = mkdtempSync(join(tmpdir(), "spore-guide-"));
  try {
    const printed = await wrangler(["deploy", "--dry-run", "--outdir", folder]);
    for (const name of ["env.PARTITIONS", "env.BUCKET", "env.SPORE_PARTITIONS"]) {
      expect(printed).toContain(name);
    }
    expect(printed).not.toMatch(/WARNING|ERROR/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
