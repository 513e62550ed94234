/**
 * Source maps of deployed components: kept in the bucket beside the deployments of the
 * tenant that sent them, read when an error is shown, remembered up to a number of bytes.
 *
 * A map is for people only. Nothing that the engine does depends on it, so it is the one
 * object that is overwritten: a bundle in which only comments changed is the same
 * component, with lines elsewhere. It is the tenant's own and not the component's, because
 * two tenants may have the same component, and a map has sources in it (I7). What can't be
 * stored, found or read leaves stacks as they are.
 */
import type { Clock, Observer, Store } from "../runtime/ports.ts";
import { attachedMapLimits } from "./attached-map.ts";
import { readSourceMap, SourceMapper } from "./source-maps.ts";

export interface ComponentMaps {
  /** Keeps a map from outside for the tenant's component. Never rejects. */
  keep(tenant: string, component: string, map: string): Promise<void>;
  /** Undefined if there is none. Never rejects. */
  mapper(tenant: string, component: string): Promise<SourceMapper | undefined>;
}

export interface ComponentMapsPorts {
  readonly store: Pick<Store, "get" | "put">;
  readonly clock: Pick<Clock, "nowMs">;
  readonly observer: Pick<Observer, "log">;
}

export interface ComponentMapsOptions {
  /** The namespace's key prefix. Default "". */
  readonly prefix?: string | undefined;
  /** Memory for maps in use; the one used last stays whatever its size. Default 128 MiB. */
  readonly memoryBytesMax?: number | undefined;
  /** Another host may have stored another map; asked again after this. Default 30 s. */
  readonly ageMsMax?: number | undefined;
}

interface Settings {
  readonly prefix: string;
  readonly memoryBytesMax: number;
  readonly ageMsMax: number;
}

const defaults: Settings = Object.freeze({
  prefix: "",
  memoryBytesMax: 128 * 1024 * 1024,
  ageMsMax: 30_000,
});
/** What remembering that there is no map counts for. */
const absentBytes = 256;

interface Known {
  readonly mapper: SourceMapper | undefined;
  readonly memoryBytes: number;
  readonly readAtMs: number;
}

export function createComponentMaps(
  ports: ComponentMapsPorts,
  options: ComponentMapsOptions = {},
): ComponentMaps {
  return new BucketMaps(ports, {
    prefix: options.prefix ?? defaults.prefix,
    memoryBytesMax: options.memoryBytesMax ?? defaults.memoryBytesMax,
    ageMsMax: options.ageMsMax ?? defaults.ageMsMax,
  });
}

class BucketMaps implements ComponentMaps {
  readonly #ports: ComponentMapsPorts;
  readonly #options: Settings;
  /** The one used last is the last. */
  readonly #known = new Map<string, Known>();
  readonly #loading = new Map<string, Promise<SourceMapper | undefined>>();
  #memoryBytes = 0;

  constructor(ports: ComponentMapsPorts, options: Settings) {
    this.#ports = ports;
    this.#options = options;
  }

  async keep(tenant: string, component: string, map: string): Promise<void> {
    const key = this.#keyOf(tenant, component);
    const known = this.#read(key, map);
    if (known.mapper === undefined) return;
    try {
      await this.#ports.store.put(key, new TextEncoder().encode(map));
      this.#remember(key, known);
    } catch (error) {
      this.#log("warn", "a source map could not be stored", key, error);
    }
  }

  async mapper(tenant: string, component: string): Promise<SourceMapper | undefined> {
    const key = this.#keyOf(tenant, component);
    const known = this.#known.get(key);
    const ageMs = this.#ports.clock.nowMs() - (known?.readAtMs ?? 0);
    if (known !== undefined && Math.abs(ageMs) < this.#options.ageMsMax) {
      this.#remember(key, known);
      return known.mapper;
    }
    const loading = this.#loading.get(key) ?? this.#load(key);
    this.#loading.set(key, loading);
    return loading.finally(() => this.#loading.delete(key));
  }

  async #load(key: string): Promise<SourceMapper | undefined> {
    try {
      const bytes = await this.#ports.store.get(key);
      const known =
        bytes === undefined || bytes.length > attachedMapLimits.mapBytesMax
          ? { mapper: undefined, memoryBytes: absentBytes, readAtMs: this.#ports.clock.nowMs() }
          : this.#read(key, new TextDecoder().decode(bytes));
      this.#remember(key, known);
      return known.mapper;
    } catch (error) {
      this.#log("debug", "a source map could not be loaded", key, error);
      return undefined;
    }
  }

  #read(key: string, text: string): Known {
    const readAtMs = this.#ports.clock.nowMs();
    try {
      if (text.length > attachedMapLimits.mapBytesMax) throw new Error("it is too large");
      const { map, memoryBytes } = readSourceMap(text);
      const mapper = new SourceMapper(map, { showPath: printable });
      return { mapper, memoryBytes, readAtMs };
    } catch (error) {
      this.#log("debug", "a source map is left out", key, error);
      return { mapper: undefined, memoryBytes: absentBytes, readAtMs };
    }
  }

  #remember(key: string, known: Known): void {
    this.#forget(key);
    this.#known.set(key, known);
    this.#memoryBytes += known.memoryBytes;
    for (const oldest of this.#known.keys()) {
      if (this.#memoryBytes <= this.#options.memoryBytesMax || oldest === key) return;
      this.#forget(oldest);
    }
  }

  #forget(key: string): void {
    this.#memoryBytes -= this.#known.get(key)?.memoryBytes ?? 0;
    this.#known.delete(key);
  }

  #keyOf(tenant: string, component: string): string {
    return `${this.#options.prefix}tenants/${tenant}/maps/${component}`;
  }

  #log(level: "debug" | "warn", message: string, key: string, error: unknown): void {
    const reason = error instanceof Error ? error.message.slice(0, 200) : String(error);
    this.#ports.observer.log(level, message, { key, reason });
  }
}

/** A path that a map gives, safe to print. */
function printable(source: string): string {
  return source.replaceAll(/\p{Cc}/gu, "?");
}
