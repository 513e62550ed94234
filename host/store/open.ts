/** Opens the store that a URI names, and trusts a bucket only after a proof. */
import type { Store } from "../../runtime/ports.ts";
import { FileStore } from "./file.ts";
import { MemoryStore } from "./memory.ts";
import { proveCreates } from "./proof.ts";
import { isFinalRefusal, S3Store } from "./s3.ts";
import { parseStorageUri, redactStorageUri } from "./uri.ts";

/** How long a host that starts waits for its store. */
const patienceMs = 60_000;
/** 64 small writes at once: found an S3 server that looks before it writes each time of twenty. */
const races = 16;

/**
 * Opens what the URI names; the caller closes it. A bucket is asked to prove that it has
 * conditional writes. Throws store-unsafe if it has none, store-unavailable if it doesn't
 * answer within a minute or refuses the credentials.
 */
export async function openStore(uri: string): Promise<Store> {
  const store = await connectStore(uri);
  if (!(store instanceof S3Store)) return store;
  try {
    const name = redactStorageUri(uri);
    await proveCreates(store, { name, races, patienceMs, isFinal: isFinalRefusal });
    return store;
  } catch (error) {
    await store.close();
    throw error;
  }
}

/** As `openStore`, for whoever only reads: a folder is neither made nor prepared. */
export async function openToRead(uri: string): Promise<Store> {
  const parsed = parseStorageUri(uri);
  return parsed.kind === "file" ? new FileStore(parsed.folder) : openStore(uri);
}

/** Opens what the URI names as it is: for whoever examines a store before it is trusted. */
export async function connectStore(uri: string): Promise<Store> {
  const parsed = parseStorageUri(uri);
  if (parsed.kind === "memory") return new MemoryStore();
  if (parsed.kind === "file") return FileStore.open(parsed.folder);
  return new S3Store(parsed.options);
}
