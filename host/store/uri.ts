/**
 * Storage as a URI: `memory:`, `file:./data`,
 * `s3://bucket/prefix?endpoint=…&region=…&pathStyle=true`. Credentials of S3 come from the
 * environment; those that stand in a URI all the same are used and never printed.
 */
import { fileURLToPath } from "node:url";
import { SporeError } from "../../runtime/errors.ts";
import type { S3Options } from "./s3.ts";

export type StorageUri =
  | { readonly kind: "memory" }
  | { readonly kind: "file"; readonly folder: string }
  | { readonly kind: "s3"; readonly options: S3Options };

const examples = "Use memory:, file:./data or s3://bucket/prefix?region=…";
const s3Parameters = new Set(["endpoint", "region", "pathStyle", "timeoutMs"]);

/** Throws invalid-request for a URI that names no storage. */
export function parseStorageUri(uri: string): StorageUri {
  const scheme = /^([a-z0-9]+):/.exec(uri)?.[1];
  if (uri === "memory:" || uri === "memory://") return { kind: "memory" };
  if (scheme === "file") return { kind: "file", folder: folderOf(uri) };
  if (scheme === "s3") return { kind: "s3", options: s3OptionsOf(uri) };
  throw refusal(uri, `unknown storage`);
}

/** The URI without passwords, for logs and messages. */
export function redactStorageUri(uri: string): string {
  return uri
    .replace(/\/\/[^/?#@]*@/g, "//***@")
    .replace(/([?&][^=&#]*(?:key|secret|token|password|signature)[^=&#]*=)[^&#]*/gi, "$1***");
}

function folderOf(uri: string): string {
  const folder = uri.startsWith("file://") ? fromFileUrl(uri) : uri.slice("file:".length);
  if (folder === "") throw refusal(uri, "no folder in the storage URI");
  return folder;
}

function fromFileUrl(uri: string): string {
  try {
    return fileURLToPath(uri);
  } catch {
    // `file://data` names a host called data; a relative folder was meant.
    throw refusal(uri, "not a file URL");
  }
}

function s3OptionsOf(uri: string): S3Options {
  const url = URL.parse(uri);
  if (url === null || url.hostname === "") throw refusal(uri, "no bucket in the storage URI");
  for (const name of url.searchParams.keys()) {
    if (!s3Parameters.has(name)) throw refusal(uri, `unknown parameter "${name}"`);
  }
  const { username, password, searchParams } = url;
  const timeoutMs = searchParams.get("timeoutMs");
  return {
    bucket: url.hostname,
    prefix: url.pathname.replace(/^\/+|\/+$/g, ""),
    ...optional("endpoint", searchParams.get("endpoint")),
    ...optional("region", searchParams.get("region")),
    ...(searchParams.has("pathStyle") && { pathStyle: searchParams.get("pathStyle") !== "false" }),
    ...(timeoutMs !== null && { timeoutMs: timeoutOf(uri, timeoutMs) }),
    ...(username !== "" && {
      credentials: {
        accessKeyId: decodeURIComponent(username),
        secretAccessKey: decodeURIComponent(password),
      },
    }),
  };
}

function timeoutOf(uri: string, text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw refusal(uri, "timeoutMs is a whole number of milliseconds");
}

function optional<Name extends string>(
  name: Name,
  value: string | null,
): { [key in Name]?: string } {
  return value === null ? {} : ({ [name]: value } as { [key in Name]: string });
}

function refusal(uri: string, why: string): SporeError {
  return new SporeError("invalid-request", `${why}: ${redactStorageUri(uri)}`, { hint: examples });
}
