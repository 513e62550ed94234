/**
 * A tenant's components: what was deployed, and which is current. The pointer is a register
 * of its own, so deploying is atomic.
 */
import { decode, encode } from "../guest/cbor.ts";
import type { Manifest } from "../guest/protocol.ts";
import { SporeError } from "./errors.ts";
import type { ComponentView } from "./index.ts";
import type { ComponentSource, Ports } from "./ports.ts";
import type { Register } from "./register.ts";
import type { Retrier } from "./retry.ts";
import type { Deployed } from "./wire.ts";

/** How old the answer to "which component is current" may be on a host that didn't deploy. */
const deploymentAgeMs = 2000;

export interface DeploymentsParts {
  readonly ports: Ports;
  readonly prefix: string;
  readonly register: Register;
  readonly retrier: Retrier;
  readonly manifest: (componentId: string) => Promise<Manifest>;
  readonly know: (componentId: string, manifest: Manifest) => void;
  /** Told whenever the current component is looked up. */
  readonly onCurrent: (componentId: string) => void;
}

interface Deployment extends Deployed {
  readonly readAtMs: number;
}

export class Deployments {
  readonly #parts: DeploymentsParts;
  #latest: Deployment | undefined;
  #looking: Promise<string | undefined> | undefined;

  constructor(parts: DeploymentsParts) {
    this.#parts = parts;
  }

  async deploy(source: ComponentSource): Promise<{ id: string; manifest: Manifest }> {
    const { ports, register } = this.#parts;
    const { id, bytes } = await ports.sandbox.prepare(source);
    // The code first, then the pointer to it: a crash between leaves an unused object.
    const manifest = await this.#storeComponent(id, bytes);
    this.#parts.know(id, manifest);
    const value = encode({ component: id, atMs: ports.clock.nowMs() });
    let latest = await register.readLatest();
    for (;;) {
      if (latest !== undefined && deployedComponent(latest.value) === id) {
        this.#remember(latest.seq, id);
        return { id, manifest };
      }
      const result = await register.append(value, latest?.seq ?? 0);
      if (result.kind === "written") {
        this.#remember(result.seq, id);
        return { id, manifest };
      }
      latest = result.found;
    }
  }

  /**
   * Two builds of one source differ in a few bytes (hash seeds), and images are bound to the
   * exact memory: what the bucket has under the id is the component, on every host.
   */
  async #storeComponent(id: string, bytes: Uint8Array): Promise<Manifest> {
    const { ports, prefix, retrier } = this.#parts;
    const key = `${prefix}components/${id}`;
    await retrier.run("component put", () => ports.store.put(key, bytes, { ifAbsent: true }));
    const stored = await retrier.run("component get", () => ports.store.get(key));
    if (stored === undefined) {
      throw new SporeError(
        "component-not-found",
        `component ${id} was deleted while it was deployed`,
      );
    }
    return ports.sandbox.load(id, stored);
  }

  async current(): Promise<ComponentView | undefined> {
    const id = await this.currentId();
    if (id === undefined) return undefined;
    const manifest = await this.#parts.manifest(id);
    return { id, definitions: manifest.definitions, isCurrent: true };
  }

  /** Id of the current component; undefined if nothing is deployed. */
  async currentId(): Promise<string | undefined> {
    const nowMs = this.#parts.ports.clock.nowMs();
    const known = this.#latest;
    if (known !== undefined && Math.abs(nowMs - known.readAtMs) < deploymentAgeMs) {
      return known.component;
    }
    // A thousand starts at once ask the store once.
    this.#looking ??= this.#look(known).finally(() => {
      this.#looking = undefined;
    });
    return this.#looking;
  }

  async #look(known: Deployed | undefined): Promise<string | undefined> {
    const { register } = this.#parts;
    const latest = await (known === undefined
      ? register.readLatest()
      : register.readAfter(known.seq));
    if (latest !== undefined) return this.#remember(latest.seq, deployedComponent(latest.value));
    return known === undefined ? undefined : this.#remember(known.seq, known.component);
  }

  /** What this host knows; undefined if it hasn't looked yet. */
  get known(): Deployed | undefined {
    if (this.#latest === undefined) return undefined;
    const { seq, component } = this.#latest;
    return { seq, component };
  }

  /** What another host knows. */
  learn({ seq, component }: Deployed): void {
    if (this.#latest === undefined || seq > this.#latest.seq) this.#remember(seq, component);
  }

  #remember(seq: number, component: string): string {
    const readAtMs = this.#parts.ports.clock.nowMs();
    if (this.#latest === undefined || seq >= this.#latest.seq) {
      this.#latest = { seq, component, readAtMs };
      this.#parts.onCurrent(component);
    }
    return this.#latest.component;
  }

  /** The component that was asked for, else the current one. Throws no-component. */
  async resolve(requested: string | undefined): Promise<{ id: string; manifest: Manifest }> {
    const id = requested ?? (await this.currentId());
    if (id === undefined) {
      throw new SporeError("no-component", "nothing is deployed yet", {
        hint: "Deploy with `spore deploy`, or PUT /v1/components.",
      });
    }
    return { id, manifest: await this.#parts.manifest(id) };
  }
}

function deployedComponent(value: Uint8Array): string {
  const { component } = decode(value) as { component: string }; // written by deploy
  return component;
}

/** Throws workflow-not-found, step-not-found, actor-type-not-found. */
export function definitionOf(
  manifest: Manifest,
  kind: "step" | "workflow" | "actor",
  name: string,
): Manifest["definitions"][number] {
  const found = manifest.definitions.find((item) => item.kind === kind && item.name === name);
  if (found !== undefined) return found;
  const code = kind === "actor" ? "actor-type-not-found" : (`${kind}-not-found` as const);
  const names = manifest.definitions.filter((item) => item.kind === kind).map((item) => item.name);
  throw new SporeError(code, `there is no ${kind} ${printable(name)}`, {
    hint: `Defined: ${names.slice(0, 20).join(", ") || "none"}.`,
  });
}

/** A name from outside, as it may stand in a message. */
export function printable(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}
