/** The object `namespace`: that there is one, and in how many partitions it was made. */
import { decode, encode } from "../guest/cbor.ts";
import { assert, SporeError } from "./errors.ts";
import { Layouts, type LayoutsOptions, partitionsMax } from "./layout.ts";
import type { Store } from "./ports.ts";
import { Retrier } from "./retry.ts";

interface Namespace {
  readonly version: 1;
  readonly partitions: number;
}

export type NamespaceOptions = Omit<LayoutsOptions, "partitions">;

/** Its layouts; makes it with so many partitions if there is none. Throws corrupt-log. */
export async function openNamespace(
  options: NamespaceOptions,
  partitions: number,
): Promise<Layouts> {
  assert(partitions >= 1 && partitions <= partitionsMax, `1 to ${partitionsMax} partitions`);
  const fresh: Namespace = { version: 1, partitions };
  const { store, prefix } = options;
  await refuseIncomplete(options);
  const key = `${prefix}namespace`;
  const retrier = retrierOf(options);
  // Looked for first: writes are dear, and R2 takes one a second for a key, where the objects
  // of a Worker all start at once.
  if ((await retrier.run("namespace get", () => store.get(key))) === undefined) {
    await retrier.run("namespace put", () => store.put(key, encode(fresh), { ifAbsent: true }));
  }
  return findNamespace(options);
}

/** There while a copy of another namespace is being made here. */
export const incompleteKey = "incomplete";

/** Marks a store as the target of a copy. Throws storage-in-use if it is more than that. */
export async function openCopy(store: Store, what: { readonly atMs: number }): Promise<void> {
  if ((await store.put(incompleteKey, encode(what), { ifAbsent: true })) === "exists") return;
  const { keys } = await store.list("", { limit: 2 });
  if (keys.every(({ key }) => key === incompleteKey)) return;
  await store.delete(incompleteKey);
  throw new SporeError("storage-in-use", "there are objects in the target already", {
    hint: "Copy into an empty folder, bucket or prefix.",
  });
}

/** Its layouts. Throws corrupt-log if there is none, storage-incomplete if it is being copied. */
export async function findNamespace(
  options: NamespaceOptions,
  { isCopy = false }: { readonly isCopy?: boolean } = {},
): Promise<Layouts> {
  const { store, prefix } = options;
  if (!isCopy) await refuseIncomplete(options);
  const key = `${prefix}namespace`;
  const bytes = await retrierOf(options).run("namespace get", () => store.get(key));
  const found = bytes === undefined ? undefined : readNamespace(bytes);
  if (found !== undefined) return new Layouts({ ...options, partitions: found.partitions });
  const what = bytes === undefined ? "is not there: the storage is empty" : "is not one of ours";
  throw new SporeError("corrupt-log", `the object ${key} ${what}`, {
    hint: "Is the storage URI right? Was it written by a later version?",
  });
}

async function refuseIncomplete(options: NamespaceOptions): Promise<void> {
  const { store, prefix } = options;
  const mark = await retrierOf(options).run("namespace get", () =>
    store.get(`${prefix}${incompleteKey}`),
  );
  if (mark === undefined) return;
  throw new SporeError("storage-incomplete", "a copy into this storage has begun and not ended", {
    hint: "Let it end, or begin it again: it goes on with what is there.",
  });
}

function retrierOf({ clock, observer }: NamespaceOptions): Retrier {
  return new Retrier(clock, observer);
}

function readNamespace(bytes: Uint8Array): Namespace | undefined {
  try {
    const value = decode(bytes) as Partial<Namespace>; // checked below
    const { version, partitions } = value;
    if (version !== 1 || typeof partitions !== "number" || !Number.isInteger(partitions)) {
      return undefined;
    }
    return partitions >= 1 && partitions <= partitionsMax ? { version, partitions } : undefined;
  } catch {
    return undefined; // not CBOR at all: the caller says so
  }
}
