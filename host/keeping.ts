/**
 * Work on a storage itself, without a host: what `spore gc`, `verify`, `export` and `import` do
 * with a storage URI. Safe beside hosts that serve it.
 */
import {
  type CollectorPorts,
  collect,
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
export async function collectStorage(
  storage: string,
  options: { readonly isDryRun: boolean },
): Promise<GarbageReport> {
  const store = await openStore(storage);
  try {
    const ports = portsOn(store);
    const layouts = await findNamespace({ ...ports, prefix: "" });
    return await collect(ports, { prefix: "", layouts, ...options });
  } finally {
    await store.close();
  }
}
