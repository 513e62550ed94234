/**
 * Components as objects: `components/<id>`, and `components/<id>.<n>` for one that was stored
 * again after its name was condemned (collector.ts C4). Owns which of them is the component: the
 * first that is there, all before it being condemned and gone.
 */
import { SporeError } from "./errors.ts";
import { printable } from "./ids.ts";
import type { Store } from "./ports.ts";
import type { Retrier } from "./retry.ts";

export interface ComponentName {
  readonly id: string;
  /** 0 for the first. */
  readonly copy: number;
}

export interface StoredComponent {
  readonly name: ComponentName;
  readonly bytes: Uint8Array;
}

/** One component is collected and deployed again so often at most. */
const copiesMax = 1000;
const namePattern = /^([0-9a-f]{64})(?:\.([1-9]\d{0,3}))?$/;

export function componentNameOf(text: string): ComponentName | undefined {
  const match = namePattern.exec(text);
  if (match === null) return undefined;
  return { id: match[1] ?? "", copy: Number(match[2] ?? 0) };
}

export function componentKey(prefix: string, name: ComponentName): string {
  return `${prefix}components/${textOf(name)}`;
}

/** There from when a collector first found the component unused; never deleted. */
export function condemnationKey(prefix: string, name: ComponentName): string {
  return `${prefix}condemned/${textOf(name)}`;
}

function textOf({ id, copy }: ComponentName): string {
  return copy === 0 ? id : `${id}.${copy}`;
}

export class Components {
  readonly #store: Store;
  readonly #prefix: string;
  readonly #retrier: Retrier;

  constructor(store: Store, prefix: string, retrier: Retrier) {
    this.#store = store;
    this.#prefix = prefix;
    this.#retrier = retrier;
  }

  /** What the bucket has. Throws component-not-found. */
  async load(id: string): Promise<StoredComponent> {
    if (!isId(id)) throw notFound(id);
    for (let copy = 0; copy < copiesMax; copy += 1) {
      const name = { id, copy };
      const key = componentKey(this.#prefix, name);
      const bytes = await this.#retrier.run("component get", () => this.#store.get(key));
      if (bytes !== undefined) return { name, bytes };
      if (!(await this.#isCondemned(name))) break;
    }
    throw notFound(id);
  }

  /** Throws component-not-found for one that a host may know and the bucket has no more. */
  async check(id: string): Promise<void> {
    if (!isId(id)) throw notFound(id);
    for (let copy = 0; copy < copiesMax; copy += 1) {
      if (await this.#has(componentKey(this.#prefix, { id, copy }))) return;
      if (!(await this.#isCondemned({ id, copy }))) break;
    }
    throw notFound(id);
  }

  /**
   * Stores it under the first name that isn't condemned, unless it is there, and gives what the
   * bucket then has: two builds of one source differ in a few bytes, and images are bound to
   * the exact memory. `keep` is due when what refers to it is durable.
   */
  async store(id: string, bytes: Uint8Array): Promise<StoredComponent> {
    let wanted = bytes;
    for (let copy = 0; copy < copiesMax; copy += 1) {
      const name = { id, copy };
      const key = componentKey(this.#prefix, name);
      const isCondemned = await this.#isCondemned(name);
      if (!isCondemned) {
        await this.#retrier.run("component put", () =>
          this.#store.put(key, wanted, { ifAbsent: true }),
        );
      }
      const stored = await this.#retrier.run("component get", () => this.#store.get(key));
      if (stored !== undefined && !isCondemned) return { name, bytes: stored };
      // Images that were taken on a condemned one are differences from exactly its bytes.
      wanted = stored ?? wanted;
    }
    throw new SporeError("component-not-found", `component ${id} was deleted while it was stored`);
  }

  /** Stores it once more if it was condemned before anybody could see that it is wanted. */
  async keep({ name, bytes }: StoredComponent): Promise<void> {
    let stored: StoredComponent = { name, bytes };
    while (await this.#isCondemned(stored.name)) stored = await this.store(name.id, bytes);
  }

  #isCondemned(name: ComponentName): Promise<boolean> {
    return this.#has(condemnationKey(this.#prefix, name));
  }

  async #has(key: string): Promise<boolean> {
    const range = { offset: 0, length: 1 };
    const probe = (): Promise<Uint8Array | undefined> => this.#store.get(key, range);
    return (await this.#retrier.run("component probe", probe)) !== undefined;
  }
}

/** Callers may give anything; only this becomes a part of an object's key. */
function isId(id: string): boolean {
  return componentNameOf(id)?.id === id;
}

function notFound(id: string): SporeError {
  return new SporeError("component-not-found", `there is no component ${printable(id)}`, {
    hint: "`spore deployments` lists what was deployed, by whole ids.",
  });
}
