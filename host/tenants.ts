/**
 * Who is asking: API keys to tenants. Only hashes of keys are kept, and a presented key
 * is compared with all of them in constant time. Without keys there is one tenant,
 * `default`, and the server must not listen beyond loopback.
 */
import { SporeError } from "../runtime/errors.ts";
import type { Digest } from "../runtime/ports.ts";
import { parseGrant } from "./grants.ts";

export interface Caller {
  readonly tenant: string;
  /** May read /metrics and host status, which span tenants. */
  readonly isOperator: boolean;
}

export interface Tenants {
  readonly hasKeys: boolean;
  /** Throws unauthorised. */
  authenticate(authorization: string | undefined): Caller;
}

export interface TenantKey {
  readonly tenant: string;
  /** SHA-256 of the key, hex. */
  readonly sha256: string;
  readonly isOperator?: boolean | undefined;
  /** Where the tenant's guests may send requests (grants.ts). Default: nowhere. */
  readonly fetch?: readonly string[] | undefined;
}

/** As in runtime/ids.ts: a tenant is part of every object key and row key. */
const tenantPattern = /^[a-z0-9][a-z0-9-]{0,62}$/;
const hashPattern = /^[0-9a-f]{64}$/;
const keyLengthMax = 512;

export function createTenants(keys: readonly TenantKey[], digest: Digest): Tenants {
  for (const key of keys) checkKey(key);
  const hashes = keys.map((key) => ({ key, hash: bytesOfHex(key.sha256.toLowerCase()) }));
  const nobody = { tenant: "default", isOperator: true };
  return {
    hasKeys: keys.length > 0,
    authenticate(authorization) {
      if (keys.length === 0) return nobody;
      const presented = /^Bearer +(\S+) *$/i.exec(authorization ?? "")?.[1];
      if (presented === undefined || presented.length > keyLengthMax) throw unauthorised();
      const hash = digest.sha256(new TextEncoder().encode(presented));
      let found: TenantKey | undefined;
      for (const entry of hashes) if (isEqual(entry.hash, hash)) found = entry.key;
      if (found === undefined) throw unauthorised();
      return { tenant: found.tenant, isOperator: found.isOperator === true };
    },
  };
}

/** Reads the keys file's content, or SPORE_KEYS: a JSON array of `{ tenant, sha256, isOperator?, fetch? }`. */
export function parseTenantKeys(json: string): readonly TenantKey[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch (cause) {
    throw new SporeError("invalid-request", "the tenant keys are not JSON", { cause });
  }
  if (!Array.isArray(parsed)) {
    throw new SporeError("invalid-request", "the tenant keys must be a JSON array", {
      hint: '[{ "tenant": "acme", "sha256": "<hash of the key, hex>" }]',
    });
  }
  return parsed.map((entry: Partial<TenantKey> | null) => {
    const key = {
      tenant: String(entry?.tenant),
      sha256: String(entry?.sha256),
      isOperator: entry?.isOperator === true,
      fetch: entry?.fetch ?? [],
    };
    checkKey(key);
    return key;
  });
}

function checkKey(key: TenantKey): void {
  if (!tenantPattern.test(key.tenant)) {
    throw new SporeError(
      "invalid-request",
      `tenant name ${JSON.stringify(key.tenant)} is not valid`,
    );
  }
  if (!hashPattern.test(key.sha256.toLowerCase())) {
    throw new SporeError(
      "invalid-request",
      `the key of tenant ${key.tenant} has no SHA-256 in hex`,
      {
        hint: "keep hashes of keys in the configuration, never the keys",
      },
    );
  }
  const { fetch = [] } = key;
  if (!Array.isArray(fetch) || !fetch.every((each) => typeof each === "string")) {
    throw new SporeError("invalid-request", `"fetch" of tenant ${key.tenant}'s keys is no list`, {
      hint: '"fetch": ["api.example.com", "*.example.org:8443"]',
    });
  }
  for (const each of fetch) parseGrant(each);
}

function unauthorised(): SporeError {
  return new SporeError("unauthorised", "no valid API key was given", {
    hint: "send Authorization: Bearer <key>",
  });
}

function isEqual(left: Uint8Array, right: Uint8Array): boolean {
  let difference = left.length ^ right.length;
  for (let index = 0; index < left.length; index++) {
    difference |= (left[index] ?? 0) ^ (right[index] ?? 0);
  }
  return difference === 0;
}

function bytesOfHex(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}
