/**
 * Names: which ids are allowed, how an entity (a run or an actor) is keyed, and which
 * partition it belongs to. Ids become parts of row keys as they are, so the alphabet
 * holds no separator, no control character and nothing that a URL would change.
 */
import { SporeError } from "./errors.ts";

/** `<tenant>/r/<run id>`, `<tenant>/a/<type>/<key>`, `<tenant>/s/<schedule id>` or `<tenant>/q/<queue>`. */
export type EntityKey = string & { readonly brand: "EntityKey" };

export const idCharactersMax = 200;

const idPattern = /^[A-Za-z0-9._:~@+=,-]{1,200}$/;
const namePattern = /^[A-Za-z_$][A-Za-z0-9_$.-]{0,127}$/;
const tenantPattern = /^[a-z0-9][a-z0-9-]{0,62}$/;

export function checkId(id: unknown, what: string): string {
  if (typeof id !== "string" || !idPattern.test(id) || /^\.+$/.test(id)) {
    throw new SporeError("invalid-id", `${what} ${printable(id)} is not a valid id`, {
      hint: `Use 1 to ${idCharactersMax} characters of A-Z a-z 0-9 . _ : ~ @ + = , - and not only dots.`,
    });
  }
  return id;
}

export function checkName(name: unknown, what: string): string {
  if (typeof name !== "string" || !namePattern.test(name)) {
    throw new SporeError("invalid-id", `${what} ${printable(name)} is not a valid name`, {
      hint: "Use a letter, then up to 127 letters, digits, _ $ . or -.",
    });
  }
  return name;
}

export function checkTenant(tenant: string): string {
  if (!tenantPattern.test(tenant)) {
    throw new SporeError("invalid-id", `tenant ${printable(tenant)} is not a valid name`, {
      hint: "Use 1 to 63 lower-case letters, digits and hyphens.",
    });
  }
  return tenant;
}

export function runKey(tenant: string, id: string): EntityKey {
  return `${tenant}/r/${id}` as EntityKey; // branded in these only
}

export function actorKey(tenant: string, type: string, key: string): EntityKey {
  return `${tenant}/a/${type}/${key}` as EntityKey;
}

export function scheduleKey(tenant: string, id: string): EntityKey {
  return `${tenant}/s/${id}` as EntityKey;
}

export function queueKey(tenant: string, name: string): EntityKey {
  return `${tenant}/q/${name}` as EntityKey;
}

/** Of a value that a client has stored: it has no entity, but a partition. */
export function uploadKey(tenant: string, hash: string, expiresAtMs: number): EntityKey {
  return `${tenant}/u/${hash}.${expiresAtMs.toString(16)}` as EntityKey;
}

/** The hash of such a key; undefined for one of an entity. */
export function hashOfUpload(key: EntityKey): string | undefined {
  return key[key.indexOf("/") + 1] === "u" ? nameOf(key).slice(0, 64) : undefined;
}

export function tenantOf(key: EntityKey): string {
  return key.slice(0, key.indexOf("/"));
}

/** The id that people use: of a run, a schedule or a queue, or `type/key` of an actor. */
export function nameOf(key: EntityKey): string {
  return key.slice(key.indexOf("/") + 3);
}

export function isActorKey(key: EntityKey): boolean {
  return key[key.indexOf("/") + 1] === "a";
}

export function isScheduleKey(key: EntityKey): boolean {
  return key[key.indexOf("/") + 1] === "s";
}

/** FNV-1a with a final mix: every host must map a key to the same partition, for ever. */
export function partitionOf(key: string, partitions: number): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < key.length; i++) {
    hash = Math.imul(hash ^ key.charCodeAt(i), 0x01000193);
  }
  hash ^= hash >>> 16;
  hash = Math.imul(hash, 0x85ebca6b);
  hash ^= hash >>> 13;
  return (hash >>> 0) % partitions;
}

export function toHex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

/** What came from outside, as it may stand in a message. */
export function printable(value: unknown): string {
  if (typeof value !== "string") return shortened(JSON.stringify(value) ?? String(value));
  return JSON.stringify(shortened(value));
}

function shortened(text: string): string {
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
