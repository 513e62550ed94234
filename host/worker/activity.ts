/**
 * Counts what is under way through the ports of an object: then the platform must not take
 * it for idle for ever, and an alarm has to bring it back if it is lost in the middle.
 */
import type { Outbound, Sandbox, Store } from "../../runtime/ports.ts";

export class Activity {
  #underWay = 0;
  #total = 0;

  get isBusy(): boolean {
    return this.#underWay > 0;
  }

  /** Rises with everything that begins. */
  get total(): number {
    return this.#total;
  }

  async during<T>(work: () => Promise<T>): Promise<T> {
    this.#underWay += 1;
    this.#total += 1;
    try {
      return await work();
    } finally {
      this.#underWay -= 1;
    }
  }

  /** The same store, counted. */
  store(store: Store): Store {
    return {
      get: (key, range) => this.during(() => store.get(key, range)),
      put: (key, bytes, options) => this.during(() => store.put(key, bytes, options)),
      delete: (key) => this.during(() => store.delete(key)),
      list: (prefix, options) => this.during(() => store.list(prefix, options)),
      close: () => store.close(),
    };
  }

  outbound(outbound: Outbound): Outbound {
    return { fetch: (request, context) => this.during(() => outbound.fetch(request, context)) };
  }

  sandbox(sandbox: Sandbox): Sandbox {
    return {
      prepare: (source) => this.during(() => sandbox.prepare(source)),
      load: (id, bytes) => this.during(() => sandbox.load(id, bytes)),
      isLoaded: (id) => sandbox.isLoaded(id),
      activate: (request) => this.during(() => sandbox.activate(request)),
      release: (machine) => sandbox.release(machine),
      close: () => sandbox.close(),
    };
  }
}
