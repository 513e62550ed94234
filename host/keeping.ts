/**
 * Work on a storage itself, without a host: what `spore gc`, `verify`, `export` and `import` do
 * with a storage URI. Safe beside hosts that serve it.
 */
import {
  type CheckReport,
  type CollectorPorts,
  type CopyReport,
  check,
  collect,
  copyNamespace,
  findNamespace,
  type GarbageReport,
} from "../runtime/index.ts";
import type { Observer, Store } from "../runtime/ports.ts";
import { clock, digest, random } from "./node.ts";
import { openStore, openToRead } from "./store/open.ts";

const silent: Observer = {
  log: () => undefined,
  count: () => undefined,
  observe: () => undefined,
};

/** Everything but the store comes from this process. */
function portsOn(store: Store): CollectorPorts {
  return { store, clock, random, digest, observer: silent };
}

/** Throws corrupt-log if there is no namespace, or damage is in the way of judging. */
export async function collectStorage(
  storage: string,
  options: { readonly isDryRun: boolean },
): Promise<GarbageReport> {
  await withStore(openToRead(storage), layoutsOf); // where there is nothing, nothing is made
  return withStore(openStore(storage), async (store) => {
    const ports = portsOn(store);
    const layouts = await layoutsOf(store);
    return collect(ports, { prefix: "", layouts, ...options });
  });
}

/** Reads all of it and says what is damaged. Throws corrupt-log if there is no namespace. */
export function checkStorage(
  storage: string,
  onProgress: (what: string) => void,
): Promise<CheckReport> {
  return withStore(openToRead(storage), async (store) => {
    const ports = portsOn(store);
    const layouts = await layoutsOf(store);
    return check(ports, { prefix: "", layouts, onProgress });
  });
}

/** Copies a namespace into an empty storage. Throws storage-in-use, corrupt-log. */
export function copyStorage(
  from: string,
  to: string,
  onProgress: (copied: { objects: number; bytes: number }) => void,
): Promise<CopyReport> {
  return withStore(openToRead(from), async (source) => {
    await layoutsOf(source); // where there is nothing to copy, no target is made
    const copyTo = (target: Store): Promise<CopyReport> =>
      copyNamespace(portsOn(source), { source, target, onProgress });
    return withStore(openStore(to), copyTo);
  });
}

function layoutsOf(store: Store): ReturnType<typeof findNamespace> {
  return findNamespace({ ...portsOn(store), prefix: "" });
}

async function withStore<T>(
  opening: Promise<Store>,
  work: (store: Store) => Promise<T>,
): Promise<T> {
  const store = await opening;
  try {
    return await work(store);
  } finally {
    await store.close();
  }
}
