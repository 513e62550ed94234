/** Where the guests of a tenant may send requests, and that no spelling, name or hop leads elsewhere. */
import type { LookupAddress, lookup } from "node:dns";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { isPublicAddress } from "../../host/addresses.ts";
import { createCheckedFetch } from "../../host/checked-fetch.ts";
import { createGrants, parseGrant } from "../../host/grants.ts";
import { createOutbound, type SendRequest } from "../../host/outbound.ts";
import { parseTenantKeys } from "../../host/tenants.ts";
import { SporeError } from "../../runtime/errors.ts";

const never = { aborted: false, addEventListener: () => undefined };
const contextOf = (tenant: string) => ({ tenant, runId: "r", signal: never });
const get = (url: string) => ({ method: "GET", url, headers: [] });

/** What the checks before the connection say: every request that passes them is answered. */
async function verdict(fetch: readonly string[], url: string): Promise<string> {
  const grants = createGrants([{ tenant: "acme", fetch }]);
  const send: SendRequest = async () => new Response("sent");
  const outbound = createOutbound({ grants, fetch: send });
  const asked = outbound.fetch(get(url), contextOf("acme"));
  return asked.then(
    () => "sent",
    (error: unknown) => (error instanceof SporeError ? error.code : String(error)),
  );
}

describe("what is granted", () => {
  it.each([
    ["api.example.com", "https://api.example.com/v1?x=1", true],
    ["api.example.com", "http://api.example.com/", true],
    ["api.example.com", "https://API.Example.COM/", true],
    ["API.example.com.", "https://api.example.com./", true],
    ["bücher.example", "https://xn--bcher-kva.example/", true],
    ["api.example.com", "https://api.example.com:8443/", false],
    ["api.example.com", "https://example.com/", false],
    ["api.example.com", "https://api.example.com.evil.example/", false],
    ["api.example.com", "https://evil.example/#api.example.com", false],
    ["api.example.com", "https://api.example.com@evil.example/", false],
    ["api.example.com", "https://evilapi.example.com/", false],
    ["api.example.com:8443", "https://api.example.com:8443/", true],
    ["api.example.com:8443", "https://api.example.com/", false],
    ["api.example.com:443", "https://api.example.com/", true],
    ["api.example.com:443", "http://api.example.com/", false],
    ["*.example.com", "https://a.example.com/", true],
    ["*.example.com", "https://a.b.example.com/", true],
    ["*.example.com", "https://example.com/", false],
    ["*.example.com", "https://evilexample.com/", false],
    ["*.example.com:8443", "https://a.example.com:8443/", true],
    ["*.example.com:8443", "https://a.example.com/", false],
    ["*", "https://anything.example/", true],
    ["*", "http://93.184.216.34/", true],
    ["*", "http://[2606:2800:220:1::1]/", true],
    ["*", "https://anything.example:8443/", false],
    ["*:8443", "https://anything.example:8443/", true],
    ["10.0.0.7:8080", "http://10.0.0.7:8080/", true],
    ["10.0.0.7:8080", "http://10.0.0.7/", false],
    ["10.0.0.7", "http://10.0.0.8/", false],
    ["10.0.0.7", "http://0xa.7/", true],
    ["[::1]:8080", "http://[0:0::1]:8080/", true],
    ["localhost:8080", "http://localhost:8080/", true],
    ["billing.internal", "http://billing.internal/", true],
  ])("%j lets %s pass: %s", async (grant, url, isSent) => {
    expect(await verdict([grant], url)).toBe(isSent ? "sent" : "egress-denied");
  });

  it("is of one tenant, and of all its keys together", async () => {
    const send: SendRequest = async () => new Response("sent");
    const grants = createGrants([
      { tenant: "acme", fetch: ["a.example"] },
      { tenant: "other", fetch: ["c.example"] },
      { tenant: "acme", fetch: ["b.example"] },
    ]);
    const outbound = createOutbound({ grants, fetch: send });
    const reached: string[] = [];
    for (const tenant of ["acme", "other", "nobody"]) {
      for (const name of ["a", "b", "c"]) {
        const asked = outbound.fetch(get(`https://${name}.example/`), contextOf(tenant));
        await asked.then(
          () => reached.push(`${tenant} ${name}`),
          () => undefined,
        );
      }
    }
    expect(reached).toEqual(["acme a", "acme b", "other c"]);
  });

  it.each([
    ["https://api.example.com/", '"api.example.com"'],
    ["https://api.example.com:8443/x", '"api.example.com:8443"'],
    ["http://10.0.0.7:8080/", '"10.0.0.7:8080"'],
    ["http://[::1]/", '"[::1]"'],
  ])("is named where it is missing: %s", async (url, entry) => {
    const outbound = createOutbound({ grants: createGrants([]) });
    const asked = outbound.fetch(get(url), contextOf("acme"));
    const remedy = `add ${entry} to "fetch" of the tenant's keys`;
    await expect(asked).rejects.toThrow(/^tenant acme may not fetch /);
    await expect(outbound.fetch(get(url), contextOf("acme"))).rejects.toThrow(remedy);
    // What the message tells to add is what is missing.
    expect(await verdict([JSON.parse(entry) as string], url)).toBe("sent");
  });

  it.each([
    "",
    "https://api.example.com",
    "api.example.com/v1",
    "api.example.com:0",
    "api.example.com:65536",
    "api.example.com:*",
    "a.*.example.com",
    "*example.com",
    "*.10.0.0.7",
    "10.0.0.0/8",
    "::1",
    "[::1",
    "user@api.example.com",
    "api example.com",
  ])("can't be %j, and says how it is written", (grant) => {
    expect(() => parseGrant(grant)).toThrow(/is no host to grant/);
    const key = { tenant: "acme", sha256: "0".repeat(64), fetch: [grant] };
    expect(() => parseTenantKeys(JSON.stringify([key]))).toThrow(/is no host to grant/);
  });

  it("is a list beside a key", () => {
    const key = { tenant: "acme", sha256: "0".repeat(64) };
    const parsed = parseTenantKeys(JSON.stringify([key, { ...key, fetch: ["*"] }]));
    expect(parsed.map(({ fetch }) => fetch)).toEqual([[], ["*"]]);
    for (const fetch of ["*", { host: "*" }, [7]]) {
      expect(() => parseTenantKeys(JSON.stringify([{ ...key, fetch }]))).toThrow(/is no list/);
    }
  });
});

describe("what nobody has listed by its address", () => {
  // Every spelling of what isn't public, with all that can be granted but itself.
  it.each([
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.255.255.254/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:8.8.8.8]/",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/",
    "http://168.63.129.16/",
    "http://100.100.100.200/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://[ff02::1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "http://0.0.0.0/",
    "http://0/",
    "http://2130706433/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://１２７.0.0.1/",
    "http://127.0.0.1./",
    "http://10.0.0.1/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://localhost../",
    "http://%6cocalhost/",
    "http://app.localhost/",
    "http://metadata/",
    "http://metadata.google.internal/",
    "http://metadata.google.internal./",
    "http://instance-data.ec2.internal/",
    "http://printer.local/",
    "file:///etc/passwd",
    "ftp://api.example.com/",
    "data:text/plain,x",
    "not a url",
  ])("is denied: %s", async (url) => {
    const everything = ["*", "*:8080", "*.internal", "*.localhost", "*.local", "api.example.com"];
    expect(await verdict(everything, url)).toBe("egress-denied");
  });

  it.each([
    ["8.8.8.8", true],
    ["172.15.255.255", true],
    ["172.32.0.0", true],
    ["100.63.255.255", true],
    ["100.128.0.0", true],
    ["223.255.255.255", true],
    ["2606:4700::1111", true],
    ["2001:200::1", true],
    ["64:ff9b::808:808", true],
    ["fe80::1%eth0", false],
    ["3fff:fff::1", false],
    ["2001:db8::1", false],
    ["4000::1", false],
    ["example.com", false],
    ["", false],
  ])("%j is a public address: %s", (address, isPublic) => {
    expect(isPublicAddress(address)).toBe(isPublic);
  });

  it("is denied as one among public addresses of a name", () => {
    const grants = createGrants([{ tenant: "acme", fetch: ["api.example.com", "10.0.0.7:8080"] }]);
    const check = (url: string, ...addresses: string[]) =>
      grants.checkAddresses("acme", new URL(url), addresses);
    check("https://api.example.com/", "8.8.8.8", "2606:4700::1111");
    check("https://api.example.com:8080/", "8.8.8.8", "10.0.0.7");
    expect(() => check("https://api.example.com/", "8.8.8.8", "10.0.0.7")).toThrow(/isn't public/);
    expect(() => check("https://api.example.com/", "8.8.8.8", "::1")).toThrow(/isn't public/);
    expect(() => check("https://api.example.com:8080/", "::ffff:10.0.0.7")).toThrow();
    expect(() => check("https://api.example.com/")).toThrow();
  });
});

describe("connections on Node", () => {
  let target: Server;
  let port: number;
  let seen: string[] = [];

  beforeAll(async () => {
    target = createServer((request, response) => {
      seen.push(request.headers.host ?? "");
      if (request.url === "/kept") return void response.end("kept");
      response.setHeader("connection", "close");
      if (request.url === "/bomb") {
        response.setHeader("content-encoding", "gzip");
        return void response.end(gzipSync(Buffer.alloc(20_000_000)));
      }
      if (request.url === "/drip") {
        const drip = setInterval(() => response.write("x"), 5);
        return void response.on("close", () => clearInterval(drip));
      }
      response.end("reached");
    });
    target.listen(0, "127.0.0.1");
    await once(target, "listening");
    port = (target.address() as AddressInfo).port;
  });

  afterAll(async () => {
    target.closeAllConnections();
    target.close();
    await once(target, "close");
  });

  /** Names lead to these in turn, and `asked` counts. */
  function hostWith(
    fetch: Readonly<Record<string, readonly string[]>>,
    ...answers: readonly (readonly string[])[]
  ) {
    seen = [];
    const names: string[] = [];
    const resolve = ((name: string, _options: object, callback: Resolved) => {
      const found = answers[Math.min(names.push(name), answers.length) - 1] ?? [];
      callback(
        null,
        found.map((address) => ({ address, family: address.includes(":") ? 6 : 4 })),
      );
    }) as typeof lookup;
    const keys = Object.entries(fetch).map(([tenant, list]) => ({ tenant, fetch: list }));
    const grants = createGrants(keys);
    const checked = createCheckedFetch(grants, resolve);
    onTestFinished(() => checked.close());
    const limits = { timeoutMs: 1000, responseBytesMax: 1_000_000 };
    const outbound = createOutbound({ grants, fetch: checked.send, ...limits });
    const ask = async (tenant: string, url: string): Promise<string> => {
      const { body } = await outbound.fetch(get(url), contextOf(tenant));
      return new TextDecoder().decode(body);
    };
    return { ask, names };
  }
  type Resolved = (error: null, found: LookupAddress[]) => void;

  it("go to the address that was checked, by the name that was asked for", async () => {
    const fetch = { acme: [`rebound.example:${port}`, `127.0.0.1:${port}`] };
    const { ask, names } = hostWith(fetch, ["127.0.0.1"], ["127.0.0.2"]);
    const url = `http://rebound.example:${port}/`;
    expect(await ask("acme", url)).toBe("reached");
    expect([names, seen]).toEqual([["rebound.example"], [`rebound.example:${port}`]]);
    // The next connection is checked again: the name has moved to where it may not lead.
    await expect(ask("acme", url)).rejects.toMatchObject({ code: "egress-denied" });
    expect(names.length).toBe(2);
  });

  it("are not made to a mixed set of addresses", async () => {
    const fetch = { acme: [`mixed.example:${port}`, `127.0.0.1:${port}`] };
    const { ask } = hostWith(fetch, ["127.0.0.1", "127.0.0.2"]);
    const asked = ask("acme", `http://mixed.example:${port}/`);
    await expect(asked).rejects.toMatchObject({ code: "egress-denied" });
    expect(seen).toEqual([]);
  });

  it("of a granted name lead to nothing private, whatever it is called", async () => {
    const fetch = { acme: [`localhost:${port}`, `127.0.0.1:${port + 1}`, "127.0.0.1"] };
    const { ask } = hostWith(fetch, ["127.0.0.1"]);
    const asked = ask("acme", `http://localhost:${port}/`);
    await expect(asked).rejects.toThrow(/leads to an address that isn't public/);
    await expect(ask("acme", `http://localhost:${port}/`)).rejects.not.toThrow("127.0.0.1");
    expect(seen).toEqual([]);
  });

  it("of one tenant are not used by another", async () => {
    const name = `shared.example:${port}`;
    const fetch = { acme: [name, `127.0.0.1:${port}`], other: [name] };
    const { ask } = hostWith(fetch, ["127.0.0.1"]);
    expect(await ask("acme", `http://${name}/kept`)).toBe("kept");
    const asked = ask("other", `http://${name}/kept`);
    await expect(asked).rejects.toMatchObject({ code: "egress-denied" });
  });

  it("end at the limits of size, unpacked, and of time, drop by drop", async () => {
    const { ask } = hostWith({ acme: [`127.0.0.1:${port}`] });
    const asked = ask("acme", `http://127.0.0.1:${port}/bomb`);
    await expect(asked).rejects.toMatchObject({ code: "value-too-large" });
    await expect(ask("acme", `http://127.0.0.1:${port}/drip`)).rejects.toThrow(/within 1000 ms/);
  });

  it("carry no header that would be another, and not more than servers take", async () => {
    hostWith({});
    const outbound = createOutbound();
    const ask = (...headers: [string, string][]) =>
      outbound.fetch({ ...get(`http://127.0.0.1:${port}/`), headers }, contextOf("default"));
    await expect(ask(["x-a", "1\r\nx-b: 2"])).rejects.toThrow();
    await expect(ask(["x-a\r\nx-b", "2"])).rejects.toThrow();
    const large = { code: "value-too-large" };
    await expect(ask(["x-a", "x".repeat(1_000_000)])).rejects.toMatchObject(large);
    const many = Array.from({ length: 40_000 }, (_, index): [string, string] => [`x-${index}`, ""]);
    await expect(ask(...many)).rejects.toMatchObject(large);
    expect(seen).toEqual([]);
  });
});
