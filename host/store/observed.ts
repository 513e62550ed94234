/** Counts and times what a store is asked, by kind and outcome; changes nothing of it. */
import type { Observer, Store } from "../../runtime/ports.ts";

type Operation = "get" | "put" | "delete" | "list";

export function observedStore(store: Store, observer: Observer): Store {
  async function observed<T>(
    operation: Operation,
    work: Promise<T>,
    outcomeOf: (result: T) => { readonly outcome: string; readonly bytes?: number },
  ): Promise<T> {
    const startMs = performance.now();
    const end = (outcome: string, bytes = 0): void => {
      observer.count("store_operations", 1, { operation, outcome });
      observer.observe("store_ms", performance.now() - startMs, { operation });
      if (bytes > 0) observer.count("store_bytes", bytes, { operation });
    };
    try {
      const result = await work;
      const { outcome, bytes } = outcomeOf(result);
      end(outcome, bytes);
      return result;
    } catch (error) {
      end("failed");
      throw error;
    }
  }
  return {
    get: (key, range) =>
      observed("get", store.get(key, range), (found) =>
        found === undefined ? { outcome: "missing" } : { outcome: "found", bytes: found.length },
      ),
    put: (key, bytes, options) =>
      observed("put", store.put(key, bytes, options), (outcome) => ({
        outcome,
        ...(outcome === "created" && { bytes: bytes.length }),
      })),
    delete: (key) => observed("delete", store.delete(key), () => ({ outcome: "done" })),
    list: (prefix, options) =>
      observed("list", store.list(prefix, options), () => ({ outcome: "done" })),
    close: () => store.close(),
  };
}
