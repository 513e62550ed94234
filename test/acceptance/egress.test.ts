/** What guests of tenants may fetch, on a real server with keys and on one without. */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createClient } from "../../client/index.ts";
import { follow, refused } from "./egress-project.ts";
import {
  codeOf,
  putAway,
  type ServerProcess,
  startProject,
  startServer,
  temporaryFolder,
} from "./kit.ts";

const entry = "test/acceptance/egress-project.ts";
const paths: string[] = [];
let granted: Server;
let other: Server;
let server: ServerProcess;

/** `/to?url` sends on to that url. */
async function startTarget(name: string): Promise<Server> {
  const target = createServer((request, response) => {
    const { pathname, search } = new URL(request.url ?? "/", "http://target");
    paths.push(`${name} ${pathname}`);
    if (pathname !== "/to") return void response.end(`${name} answers`);
    response.writeHead(302, { location: decodeURIComponent(search.slice(1)) }).end();
  });
  target.listen(0, "127.0.0.1");
  await once(target, "listening");
  return target;
}

const portOf = (target: Server) => (target.address() as AddressInfo).port;
const urlOf = (target: Server) => `http://127.0.0.1:${portOf(target)}`;
const keyOf = (tenant: string) => `${tenant}-key`;
const clientOf = (tenant: string) => createClient({ url: server.url, apiKey: keyOf(tenant) });

beforeAll(async () => {
  [granted, other] = await Promise.all([startTarget("granted"), startTarget("other")]);
  const fetch: Readonly<Record<string, readonly string[] | undefined>> = {
    // Where this machine's own name leads to both, both have to be listed.
    acme: ["127.0.0.1", "[::1]", "localhost"].map((host) => `${host}:${portOf(granted)}`),
    // By name, but not the address that the name leads to.
    named: [`localhost:${portOf(granted)}`, "*"],
    nobody: undefined,
  };
  const keys = Object.entries(fetch).map(([tenant, list]) => ({
    tenant,
    sha256: createHash("sha256").update(keyOf(tenant)).digest("hex"),
    fetch: list,
  }));
  const folder = await temporaryFolder();
  const file = join(folder, "keys.json");
  await writeFile(file, JSON.stringify(keys));
  server = await startServer({ folder, command: ["serve", "--keys", file] });
  const code = await codeOf(entry);
  for (const tenant of Object.keys(fetch)) await clientOf(tenant).deploy(code);
});

afterAll(async () => {
  await putAway();
  for (const target of [granted, other]) {
    target.closeAllConnections();
    target.close();
  }
});

it("a tenant's guest reaches what is listed beside the tenant's keys, by address and by name", async () => {
  expect(await clientOf("acme").run(follow.with(`${urlOf(granted)}/`))).toBe("granted answers");
  const named = `http://localhost:${portOf(granted)}/`;
  expect(await clientOf("acme").run(follow.with(named))).toBe("granted answers");
});

it("it reaches nothing else; the step fails at once, and says what is to be added", async () => {
  const url = `${urlOf(other)}/secret`;
  const address = `127.0.0.1:${portOf(other)}`;
  expect(await clientOf("acme").run(refused.with(url))).toEqual({
    answer: undefined,
    code: "egress-denied",
    message:
      `GET ${url} failed: tenant acme may not fetch ${address}; its operator would have to add "${address}" ` +
      `to "fetch" of the tenant's keys`,
    attempts: 1,
  });
  expect(paths).not.toContain("other /secret");
});

it("one tenant's grants are not another's, and without any nothing is reached", async () => {
  const before = paths.length;
  for (const url of [`${urlOf(granted)}/`, "https://api.example.com/"]) {
    const { code } = await clientOf("nobody").run(refused.with(url));
    expect(code).toBe("egress-denied");
  }
  expect(paths.length).toBe(before);
});

it("a granted name leads to no private address that isn't listed itself", async () => {
  const before = paths.length;
  const url = `http://localhost:${portOf(granted)}/`;
  const { code, message, attempts } = await clientOf("named").run(refused.with(url));
  expect({ code, attempts }).toEqual({ code: "egress-denied", attempts: 1 });
  expect(message).toContain("the name leads to an address that isn't public");
  expect(paths.length).toBe(before);
});

it("a redirect is a request of its own", async () => {
  const to = (url: string) => `${urlOf(granted)}/to?${encodeURIComponent(url)}`;
  expect(await clientOf("acme").run(follow.with(to(`${urlOf(granted)}/`)))).toBe("granted answers");
  for (const url of [`${urlOf(other)}/hop`, "http://169.254.169.254/"]) {
    const run = clientOf("acme").run(follow.with(to(url)));
    await expect(run).rejects.toMatchObject({ code: "egress-denied" });
  }
  expect(paths).not.toContain("other /hop");
});

it("without keys guests reach their owner's own services", async () => {
  const open = await startProject({}, entry);
  expect(await open.client.run(follow.with(`${urlOf(other)}/`))).toBe("other answers");
});

it("a server doesn't start with a grant that it can't read", async () => {
  const folder = await temporaryFolder();
  const sha256 = "0".repeat(64);
  const SPORE_KEYS = JSON.stringify([{ tenant: "acme", sha256, fetch: ["https://a.example"] }]);
  const starting = startServer({ folder, env: { SPORE_KEYS } });
  await expect(starting).rejects.toThrow(/"https:\/\/a.example" is no host to grant/);
});
