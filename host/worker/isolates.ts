/**
 * The Sandbox port with an isolate for each tenant and component, through a Worker Loader: a
 * second wall around the Wasm one. An isolate has no network and no bindings, and the
 * platform ends it, not us, when it computes for too long. It may be dropped at any time;
 * then its machines are absent and are rebuilt, as the port allows.
 */
import type { Manifest } from "../../guest/protocol.ts";
import { type ErrorCode, SporeError } from "../../runtime/errors.ts";
import { isEqual } from "../../runtime/image.ts";
import type {
  ActivateRequest,
  ActivateResult,
  ComponentSource,
  PreparedComponent,
  Sandbox,
} from "../../runtime/ports.ts";
import { componentIdOf } from "../sandbox/component-id.ts";
import { type BundledEngine, digest } from "./engine.ts";

/** The part of a `worker_loaders` binding that is used. */
export interface WorkerLoaderLike {
  get(
    name: string,
    code: () => Promise<object>,
  ): { getEntrypoint(): { call(job: IsolateJob): Promise<IsolateAnswer> } };
}

export type IsolateJob =
  | { readonly kind: "prepare"; readonly source: ComponentSource }
  | { readonly kind: "load"; readonly component: string; readonly bytes: Uint8Array }
  | { readonly kind: "activate"; readonly request: ActivateRequest }
  | { readonly kind: "release"; readonly machine: string };

export type IsolateAnswer =
  | { readonly kind: "prepared"; readonly prepared: PreparedComponent }
  | { readonly kind: "loaded"; readonly manifest: Manifest }
  | { readonly kind: "activated"; readonly result: ActivateResult }
  | { readonly kind: "released" }
  /** The isolate is another one than it was: it doesn't know the component. */
  | { readonly kind: "unknown" }
  | {
      readonly kind: "threw";
      readonly code: ErrorCode;
      readonly message: string;
      readonly hint: string | undefined;
    };

/** What an activation may compute: as the watchdog's limit on Node. */
const cpuMs = 5_000;
/** A Durable Object may have ten dynamic Workers at work. */
const parallelMax = 8;
/** A lost isolate isn't the guest's fault until several in a row are. */
const attemptsMax = 3;

export function createIsolateSandbox(bundled: BundledEngine, loader: WorkerLoaderLike): Sandbox {
  return new IsolateSandbox(bundled, loader);
}

class IsolateSandbox implements Sandbox {
  readonly #bundled: BundledEngine;
  readonly #loader: WorkerLoaderLike;
  readonly #components = new Map<string, { bytes: Uint8Array; manifest: Manifest }>();
  /** The isolate in which a machine may be resident. */
  readonly #places = new Map<string, string>();
  readonly #waiting: (() => void)[] = [];
  #atWork = 0;
  #isClosed = false;

  constructor(bundled: BundledEngine, loader: WorkerLoaderLike) {
    this.#bundled = bundled;
    this.#loader = loader;
  }

  async prepare(source: ComponentSource): Promise<PreparedComponent> {
    const { identity, component } = this.#bundled;
    const id = componentIdOf(source, identity.hash, digest);
    const stored = component?.id === id ? new Uint8Array(component.stored) : undefined;
    const known = stored ?? this.#components.get(id)?.bytes;
    if (known !== undefined) return { id, bytes: known, manifest: await this.load(id, known) };
    // The module's top level is a stranger's code, too.
    const answer = await this.#call(`prepare-${id}`, { kind: "prepare", source });
    if (answer.kind !== "prepared") throw unexpected(answer);
    const { bytes, manifest } = answer.prepared;
    this.#components.set(id, { bytes, manifest });
    return answer.prepared;
  }

  async load(componentId: string, bytes: Uint8Array): Promise<Manifest> {
    const known = this.#components.get(componentId);
    if (known !== undefined && isEqual(known.bytes, bytes)) return known.manifest;
    const job = { kind: "load", component: componentId, bytes } as const;
    const answer = await this.#call(`prepare-${componentId}`, job);
    if (answer.kind !== "loaded") throw unexpected(answer);
    this.#components.set(componentId, { bytes: bytes.slice(), manifest: answer.manifest });
    return answer.manifest;
  }

  isLoaded(componentId: string): boolean {
    return this.#components.has(componentId);
  }

  async activate(request: ActivateRequest): Promise<ActivateResult> {
    const { component, machine, from } = request;
    const known = this.#components.get(component);
    if (known === undefined) {
      throw new SporeError("component-not-found", `component ${component} isn't loaded`);
    }
    // A machine's name begins with its tenant (runtime/ids.ts).
    const isolate = `${machine.slice(0, machine.indexOf("/"))}-${component}`;
    for (let attempt = 1; ; attempt++) {
      try {
        const result = await this.#activateIn(isolate, request, known.bytes);
        if (request.after === "keep") this.#places.set(machine, isolate);
        return result;
      } catch (error) {
        if (error instanceof SporeError) throw error;
        const message = error instanceof Error ? error.message : String(error);
        const fault = faultOf(message);
        if (fault !== undefined) return fault;
        // The isolate was dropped with the call in it: nothing of it is left.
        if (from.kind === "resident") return { kind: "absent" };
        if (attempt < attemptsMax) continue;
        throw new SporeError("internal", `isolates keep being lost: ${message}`, { cause: error });
      }
    }
  }

  async #activateIn(
    isolate: string,
    request: ActivateRequest,
    bytes: Uint8Array,
  ): Promise<ActivateResult> {
    let answer = await this.#call(isolate, { kind: "activate", request });
    if (answer.kind === "unknown") {
      if (request.from.kind === "resident") return { kind: "absent" };
      await this.#call(isolate, { kind: "load", component: request.component, bytes });
      answer = await this.#call(isolate, { kind: "activate", request });
    }
    if (answer.kind === "activated") return answer.result;
    throw unexpected(answer);
  }

  release(machine: string): void {
    const isolate = this.#places.get(machine);
    if (isolate === undefined) return;
    this.#places.delete(machine);
    // An isolate that is gone has forgotten it already.
    void this.#call(isolate, { kind: "release", machine }).catch(() => undefined);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const proceed of this.#waiting.splice(0)) proceed();
  }

  async #call(name: string, job: IsolateJob): Promise<IsolateAnswer> {
    while (this.#atWork >= parallelMax && !this.#isClosed) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    if (this.#isClosed) throw new SporeError("host-stopping", "the sandbox is closed");
    this.#atWork += 1;
    try {
      const stub = this.#loader.get(this.#nameOf(name), async () => this.#code());
      const answer = await stub.getEntrypoint().call(job);
      if (answer.kind !== "threw") return answer;
      throw new SporeError(answer.code, answer.message, hinted(answer.hint));
    } finally {
      this.#atWork -= 1;
      this.#waiting.shift()?.();
    }
  }

  /** Another engine is another isolate, whatever the Worker's version. */
  #nameOf(name: string): string {
    return `${this.#bundled.identity.hash.slice(0, 16)}-${name}`;
  }

  #code(): object {
    const { modules, loader, isolate } = this.#bundled;
    const wasm = Object.entries(modules).map(([role, module]) => [`${role}.wasm`, module]);
    return {
      compatibilityDate: "2026-11-01",
      compatibilityFlags: ["nodejs_compat"],
      mainModule: "isolate.js",
      modules: {
        "isolate.js": isolate,
        "loader.bin": { data: loader },
        ...Object.fromEntries(wasm),
      },
      env: {},
      globalOutbound: null,
      limits: { cpuMs, subRequests: 0 },
    };
  }
}

function hinted(hint: string | undefined): { hint?: string } {
  return hint === undefined ? {} : { hint };
}

function unexpected(answer: IsolateAnswer): SporeError {
  return new SporeError("internal", `an isolate answered ${answer.kind}`);
}

/** Why the platform ended an isolate, if it was the guest's doing: its words are all we get. */
function faultOf(words: string): ActivateResult | undefined {
  const message = `the guest's isolate was ended: ${words}`;
  if (/\bcpu\b/i.test(words)) return { kind: "fault", fault: "guest-timeout", message };
  if (/\bmemory\b/i.test(words)) return { kind: "fault", fault: "guest-memory", message };
  return undefined;
}
