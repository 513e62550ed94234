/** The object `namespace`: that there is one, and in how many partitions it was made. */
import { decode, encode } from "../guest/cbor.ts";
import { assert, SporeError } from "./errors.ts";
import {
  type Layout,
  Layouts,
  type LayoutsOptions,
  layoutRegister,
  partitionsMax,
} from "./layout.ts";
import type { Store } from "./ports.ts";
import { Retrier } from "./retry.ts";

interface Namespace {
  readonly version: 1;
  readonly partitions: number;
}

export type NamespaceOptions = LayoutsOptions;

/** Its layouts, and the one that held when it was opened. */
export interface OpenedNamespace {
  readonly layouts: Layouts;
  readonly layout: Layout;
}

/** Makes it with so many partitions if there is none. Throws corrupt-log and storage-incomplete. */
export async function openNamespace(
  options: NamespaceOptions,
  partitions: number,
): Promise<OpenedNamespace> {
  assert(partitions >= 1 && partitions <= partitionsMax, `1 to ${partitionsMax} partitions`);
  // Looked for first: writes are dear, and R2 takes one a second for a key, where the objects
  // of a Worker all start at once.
  const found = await readOpen(options, { isCopy: false });
  if (found !== undefined) return found;
  const { store, prefix } = options;
  const fresh: Namespace = { version: 1, partitions };
  await retrierOf(options).run("namespace put", () =>
    store.put(namespaceKey(prefix), encode(fresh), { ifAbsent: true }),
  );
  return (await readOpen(options, { isCopy: false })) ?? refuseMissing(options);
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
  const { layouts } = (await readOpen(options, { isCopy })) ?? refuseMissing(options);
  return layouts;
}

/** What there is, all asked for at once: whoever starts waits for one answer of the store. */
async function readOpen(
  options: NamespaceOptions,
  { isCopy }: { readonly isCopy: boolean },
): Promise<OpenedNamespace | undefined> {
  const { store, prefix } = options;
  const retrier = retrierOf(options);
  const get = (key: string): Promise<Uint8Array | undefined> =>
    retrier.run("namespace get", () => store.get(key));
  const register = layoutRegister(options);
  const [mark, bytes, latest] = await Promise.all([
    isCopy ? undefined : get(`${prefix}${incompleteKey}`),
    get(namespaceKey(prefix)),
    register.readLatest(),
  ]);
  if (mark !== undefined) throw incomplete();
  if (bytes === undefined) return undefined;
  const found = readNamespace(bytes);
  if (found === undefined) throw unusable(prefix, "is not one of ours");
  const layouts = new Layouts(register, found.partitions);
  return { layouts, layout: layouts.at(latest) };
}

function namespaceKey(prefix: string): string {
  return `${prefix}namespace`;
}

function refuseMissing({ prefix }: NamespaceOptions): never {
  throw unusable(prefix, "is not there: the storage is empty");
}

function unusable(prefix: string, why: string): SporeError {
  return new SporeError("corrupt-log", `the object ${namespaceKey(prefix)} ${why}`, {
    hint: "Is the storage URI right? Was it written by a later version?",
  });
}

function incomplete(): SporeError {
  return new SporeError("storage-incomplete", "a copy into this storage has begun and not ended", {
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
