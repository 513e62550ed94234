/**
 * A tenant's components: what was deployed, and which is current. The pointer is a register
 * of its own, so deploying is atomic.
 */
import { decode, encode } from "../guest/cbor.ts";
import type { Manifest } from "../guest/protocol.ts";
import type { Components } from "./components.ts";
import { SporeError } from "./errors.ts";
import { printable } from "./ids.ts";
import type { ComponentView, DeploymentView } from "./index.ts";
import type { ComponentSource, Ports } from "./ports.ts";
import type { Register, RegisterVersion } from "./register.ts";
import type { Deployed } from "./wire.ts";

/** How old the answer to "which component is current" may be on a host that didn't deploy. */
const deploymentAgeMs = 2000;

/** Deployments that one read answers. */
const deploymentsPerRead = 100;
/** How far back a rollback looks. */
const rollbackMax = 1000;

export interface DeploymentsParts {
  readonly ports: Ports;
  readonly components: Components;
  readonly register: Register;
  readonly manifest: (componentId: string) => Promise<Manifest>;
  readonly know: (componentId: string, manifest: Manifest) => void;
  /** Told what actors move to whenever the current component is looked up. */
  readonly onCurrent: (componentId: string | undefined) => void;
  /** Makes the queues that its workflows declare. */
  readonly declare: (manifest: Manifest) => Promise<void>;
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
    const { ports, components } = this.#parts;
    const { id, bytes } = await ports.sandbox.prepare(source);
    // The code first, then the pointer to it: a crash between leaves an unused object.
    const stored = await components.store(id, bytes);
    const manifest = await ports.sandbox.load(id, stored.bytes);
    this.#parts.know(id, manifest);
    // A run of it must find its queue.
    await this.#parts.declare(manifest);
    await this.#point(id);
    await components.keep(stored);
    return { id, manifest };
  }

  /** Makes it the current one. */
  async #point(id: string): Promise<void> {
    const { ports, register } = this.#parts;
    const value = encode({ component: id, atMs: ports.clock.nowMs() });
    let latest = await register.readLatest();
    for (;;) {
      if (latest !== undefined) {
        const present = deployedOf(latest);
        if (present.component === id && present.isRollback !== true) {
          this.#remember(present);
          return;
        }
      }
      const result = await register.append(value, latest?.seq ?? 0);
      if (result.kind === "written") {
        this.#remember({ seq: result.seq, component: id });
        return;
      }
      latest = result.found;
    }
  }

  /** What was deployed, newest first; each version of the pointer is one. */
  async list(request: {
    limit?: number | undefined;
    before?: number | undefined;
  }): Promise<DeploymentView[]> {
    const { register } = this.#parts;
    const latest = await register.readLatest();
    if (latest === undefined) return [];
    const { limit = deploymentsPerRead, before = latest.seq + 1 } = request;
    const last = Math.min(latest.seq, before - 1);
    const count = Math.max(0, Math.min(limit, deploymentsPerRead, last));
    const versions = await Promise.all(
      Array.from({ length: count }, (_, at) => register.readVersion(last - at)),
    );
    return versions.map((version) => viewOf(version, latest.seq));
  }

  /**
   * Points back to what was current before the present deployment, or to `to` (an id that was
   * deployed, or how it begins). Nothing is deployed anew: new runs take that component again.
   */
  async rollBack(to: string | undefined): Promise<DeploymentView> {
    const { register, ports, components } = this.#parts;
    const latest = await register.readLatest();
    if (latest === undefined) throw nothingBefore();
    const target = await this.#rollbackTarget(latest, to);
    if (target.component === deploymentOf(latest.value).component)
      return viewOf(latest, latest.seq);
    const stored = await components.load(target.component);
    await this.#parts.declare(await this.#parts.manifest(target.component));
    const value = { component: target.component, atMs: ports.clock.nowMs(), of: target.seq };
    const result = await register.append(encode(value), latest.seq);
    if (result.kind === "lost") {
      throw new SporeError("deployment-changed", "something was deployed meanwhile", {
        hint: "Look at what is current now, and decide again.",
      });
    }
    this.#remember({ seq: result.seq, component: target.component, isRollback: true });
    await components.keep(stored);
    return viewOf({ seq: result.seq, value: encode(value) }, result.seq);
  }

  async #rollbackTarget(
    latest: RegisterVersion,
    to: string | undefined,
  ): Promise<{ readonly seq: number; readonly component: string }> {
    const present = deploymentOf(latest.value);
    const from = to === undefined ? (present.of ?? latest.seq) - 1 : latest.seq;
    for (let seq = from; seq > Math.max(0, from - rollbackMax); seq--) {
      const { component, of = seq } = deploymentOf(
        (await this.#parts.register.readVersion(seq)).value,
      );
      const isIt = to === undefined ? component !== present.component : component.startsWith(to);
      if (isIt) return { seq: of, component };
    }
    if (to === undefined) throw nothingBefore();
    throw new SporeError("component-not-found", `${printable(to)} was not deployed lately`, {
      hint: "`spore deployments` lists what was.",
    });
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
    if (latest !== undefined) return this.#remember(deployedOf(latest));
    return known === undefined ? undefined : this.#remember(known);
  }

  /** What this host knows; undefined if it hasn't looked yet. */
  get known(): Deployed | undefined {
    if (this.#latest === undefined) return undefined;
    const { readAtMs: _own, ...deployed } = this.#latest;
    return deployed;
  }

  /** What another host knows. */
  learn(deployed: Deployed): void {
    if (this.#latest === undefined || deployed.seq > this.#latest.seq) this.#remember(deployed);
  }

  #remember({ seq, component, isRollback }: Deployed): string {
    const readAtMs = this.#parts.ports.clock.nowMs();
    if (this.#latest === undefined || seq >= this.#latest.seq) {
      this.#latest = { seq, component, readAtMs, ...(isRollback === true ? { isRollback } : {}) };
      this.#parts.onCurrent(this.actorsMoveTo);
    }
    return this.#latest.component;
  }

  /**
   * What actors of other components move to by themselves, by what is known; not to what a
   * rollback went back to: its migration is for the state of an earlier component.
   */
  get actorsMoveTo(): string | undefined {
    return this.#latest?.isRollback === true ? undefined : this.#latest?.component;
  }

  /** The component that was asked for, else the current one. Throws no-component. */
  async resolve(requested: string | undefined): Promise<{ id: string; manifest: Manifest }> {
    const current = await this.currentId();
    const id = requested ?? current;
    // This host may know one that was collected.
    if (id !== undefined && id !== current) await this.#parts.components.check(id);
    if (id === undefined) {
      throw new SporeError("no-component", "nothing is deployed yet", {
        hint: "Deploy with `spore deploy`, or PUT /v1/components.",
      });
    }
    return { id, manifest: await this.#parts.manifest(id) };
  }
}

/** A version of the pointer; `of` is the deployment that a rollback went back to. */
interface Pointer {
  readonly component: string;
  readonly atMs: number;
  readonly of?: number | undefined;
}

function deploymentOf(value: Uint8Array): Pointer {
  return decode(value) as Pointer; // written by deploy and rollBack
}

function deployedOf({ seq, value }: RegisterVersion): Deployed {
  const { component, of } = deploymentOf(value);
  return of === undefined ? { seq, component } : { seq, component, isRollback: true };
}

function viewOf({ seq, value }: RegisterVersion, latest: number): DeploymentView {
  const { component, atMs, of } = deploymentOf(value);
  return { seq, component, atMs, isCurrent: seq === latest, rollbackTo: of };
}

function nothingBefore(): SporeError {
  return new SporeError("no-component", "there is no deployment before this one");
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
    hint: `Defined: ${listed(names)}.`,
  });
}

function listed(names: readonly string[]): string {
  const shown = names.slice(0, 20).join(", ") || "none";
  return names.length > 20 ? `${shown} and ${names.length - 20} more` : shown;
}
