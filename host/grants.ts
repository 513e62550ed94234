/**
 * Where the guests of a tenant may send requests: what the operator wrote beside the tenant's
 * keys. Nothing is granted that isn't written there.
 *
 *   "api.example.com"        this name, at ports 80 and 443
 *   "api.example.com:8443"   at this port
 *   "*.example.com"          every name below it, not itself
 *   "*"                      every public name and address
 *   "10.0.0.7:8080"          this address; IPv6 in brackets
 *
 * A name leads to public addresses only, and besides to those that are listed as addresses
 * themselves: who has the name's zone may point it anywhere. Names of private networks are
 * not among what `*` stands for.
 */
import { SporeError } from "../runtime/errors.ts";
import { canonicalAddress, isPublicAddress } from "./addresses.ts";

export interface Grant {
  readonly kind: "name" | "below" | "address" | "any";
  /** Canonical; empty for `any`. */
  readonly host: string;
  /** Absent: 80 and 443. */
  readonly port: number | undefined;
}

export interface Grants {
  /** Throws egress-denied. What a name leads to is not known yet. */
  checkUrl(tenant: string, url: URL): void;
  /** Throws egress-denied. One address that isn't allowed spoils them all. */
  checkAddresses(tenant: string, url: URL, addresses: readonly string[]): void;
}

/** Of all keys of a tenant together. */
export function createGrants(
  keys: readonly { readonly tenant: string; readonly fetch?: readonly string[] | undefined }[],
): Grants {
  const grants = new Map<string, Grant[]>();
  for (const { tenant, fetch = [] } of keys) {
    grants.set(tenant, [...(grants.get(tenant) ?? []), ...fetch.map(parseGrant)]);
  }
  const of = (tenant: string): readonly Grant[] => grants.get(tenant) ?? [];
  return {
    checkUrl(tenant, url) {
      if (of(tenant).some((grant) => isGranted(grant, url))) return;
      throw denied(tenant, `may not fetch ${url.host}`, entryOf(url));
    },
    checkAddresses(tenant, url, addresses) {
      const isAllowed = (address: string): boolean =>
        isPublicAddress(address) || of(tenant).some((grant) => isListed(grant, address, url));
      if (addresses.length > 0 && addresses.every(isAllowed)) return;
      // Which address is not the guest's to know: it could map a network by asking for names.
      const why = `may not fetch ${url.host}: the name leads to an address that isn't public`;
      throw denied(tenant, why, undefined);
    },
  };
}

/** Throws invalid-request. */
export function parseGrant(text: string): Grant {
  const [, written = "", digits] = /^(\[[^\]]*\]|[^:]*)(?::(\d{1,5}))?$/.exec(text) ?? [];
  const port = digits === undefined ? undefined : Number(digits);
  const isPort = port === undefined || (port > 0 && port < 65_536);
  if (written === "*" && isPort) return { kind: "any", host: "", port };
  const isBelow = written.startsWith("*.");
  const host = hostOf(isBelow ? written.slice(2) : written);
  const isAddress = host !== undefined && canonicalAddress(host) !== undefined;
  if (host === undefined || !isPort || (isBelow && isAddress)) {
    throw new SporeError("invalid-request", `${JSON.stringify(text)} is no host to grant`, {
      hint: 'such as "api.example.com", "*.example.com:8443", "10.0.0.7:8080", "[fd00::7]" or "*"',
    });
  }
  return { kind: isBelow ? "below" : isAddress ? "address" : "name", host, port };
}

/** As URLs have it, less the root's dot, and brackets; undefined for what is more than a host. */
function hostOf(written: string): string | undefined {
  if (!/^(?:\[[\da-f:.]+\]|[\p{L}\p{N}._-]+)$/iu.test(written)) return undefined;
  const url = URL.parse(`http://${written}/`);
  return url === null ? undefined : hostIn(url);
}

function hostIn(url: URL): string {
  return url.hostname.replace(/\.+$/, "").replace(/^\[(.*)\]$/, "$1");
}

function portIn(url: URL): number {
  if (url.port !== "") return Number(url.port);
  return url.protocol === "https:" ? 443 : 80;
}

function isGranted(grant: Grant, url: URL): boolean {
  if (!isPortOf(grant, url)) return false;
  const host = hostIn(url);
  const isAddress = canonicalAddress(host) !== undefined;
  switch (grant.kind) {
    case "name":
    case "address":
      return host === grant.host;
    case "below":
      return !isAddress && host.endsWith(`.${grant.host}`) && !isPrivateName(host);
    case "any":
      return isAddress ? isPublicAddress(host) : !isPrivateName(host);
  }
}

function isListed(grant: Grant, address: string, url: URL): boolean {
  const isIt = grant.kind === "address" && grant.host === canonicalAddress(address);
  return isIt && isPortOf(grant, url);
}

function isPortOf({ port }: Grant, url: URL): boolean {
  const asked = portIn(url);
  return port === undefined ? asked === 80 || asked === 443 : asked === port;
}

/** Of no use on the public internet: they are found in one's own network only. */
function isPrivateName(host: string): boolean {
  return !host.includes(".") || /\.(?:localhost|local|internal|lan|home\.arpa)$/.test(host);
}

/** What would have to be in the list. */
function entryOf(url: URL): string {
  const host = hostIn(url);
  const port = portIn(url);
  const written = host.includes(":") ? `[${host}]` : host;
  return port === 80 || port === 443 ? written : `${written}:${port}`;
}

/** All in the message: a step gets no hint. */
function denied(tenant: string, why: string, entry: string | undefined): SporeError {
  const what = entry === undefined ? "that address, with its port," : JSON.stringify(entry);
  const remedy = `its operator would have to add ${what} to "fetch" of the tenant's keys`;
  return new SporeError("egress-denied", `tenant ${tenant} ${why}; ${remedy}`);
}
