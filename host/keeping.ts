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
import { openStore } from "./store/open.ts";

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
export function collectStorage(
  storage: string,
  options: { readonly isDryRun: boolean },
): Promise<GarbageReport> {
  return withStore(storage, async (store) => {
    const ports = portsOn(store);
    const layouts = await findNamespace({ ...ports, prefix: "" });
    return collect(ports, { prefix: "", layouts, ...options });
  });
}

/** Reads all of it and says what is damaged. Throws corrupt-log if there is no namespace. */
export function checkStorage(
  storage: string,
  onProgress: (what: string) => void,
): Promise<CheckReport> {
  return withStore(storage, async (store) => {
    const ports = portsOn(store);
    const layouts = await findNamespace({ ...ports, prefix: "" });
    return check(ports, { prefix: "", layouts, onProgress });
  });
}

/** Copies a namespace into an empty storage. Throws storage-in-use, corrupt-log. */
export function copyStorage(
  from: string,
  to: string,
  onProgress: (copied: { objects: number; bytes: number }) => void,
): Promise<CopyReport> {
  return withStore(from, (source) =>
    withStore(to, (target) => copyNamespace(portsOn(source), { source, target, onProgress })),
  );
}

async function withStore<T>(storage: string, work: (store: Store) => Promise<T>): Promise<T> {
  const store = await openStore(storage);
  try {
    return await work(store);
  } finally {
    await store.close();
  }
}
