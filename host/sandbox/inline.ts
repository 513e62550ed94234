/**
 * The Sandbox port without threads: guests run in the caller's own, inside of its isolate
 * (Workers). Owns the order of things that must not starve the event loop, and what is
 * known of components; what happens to memory is machines.ts.
 *
 * There is no watchdog here, because nothing else runs while a guest does: it is the
 * platform that stops an isolate which computes for too long (worker/suspects.ts).
 */
import type { Manifest } from "../../guest/protocol.ts";
import { SporeError } from "../../runtime/errors.ts";
import { type ImageCodec, isEqual } from "../../runtime/image.ts";
import type {
  ActivateRequest,
  ActivateResult,
  ComponentSource,
  PreparedComponent,
  Sandbox,
} from "../../runtime/ports.ts";
import { componentIdOf } from "./component-id.ts";
import {
  decodeBaseline,
  type Engine,
  type EngineIdentity,
  encodeBaseline,
  readBaseline,
} from "./engine.ts";
import { evaluateJavaScript } from "./loader.ts";
import { Machines, type MachinesLimits } from "./machines.ts";
import { decodeManifest, undescribed } from "./manifest.ts";

export interface InlineSandboxParts {
  readonly engine: Engine;
  readonly identity: EngineIdentity;
  /** For images, and for baselines, which are made once. */
  readonly codec: ImageCodec;
  readonly baselineCodec: ImageCodec;
  /** The loader guest (loader.ts), as stored. */
  readonly loader: Uint8Array;
  /** Components that were prepared at build time, as stored, by id. */
  readonly bundled: ReadonlyMap<string, Uint8Array>;
  readonly limits: MachinesLimits;
  /** Gives the event loop a turn. */
  readonly pause: () => Promise<void>;
}

/** So many activations in a row run before others get a turn. */
const activationsPerTurn = 16;
/**
 * A Worker's clock stands still while it computes. Each look at it counts for this much, so
 * that guests' time passes all the same and images are taken.
 */
const lookMs = 0.1;

export function createInlineSandbox(parts: InlineSandboxParts): Sandbox {
  return new InlineSandbox(parts);
}

class InlineSandbox implements Sandbox {
  readonly #parts: InlineSandboxParts;
  readonly #machines: Machines;
  readonly #manifests = new Map<string, { stored: Uint8Array; manifest: Manifest }>();
  #looks = 0;
  #sinceTurn = 0;
  #turn: Promise<void> | undefined;
  #isClosed = false;

  constructor(parts: InlineSandboxParts) {
    this.#parts = parts;
    this.#machines = new Machines({
      engine: parts.engine,
      codec: parts.codec,
      limits: parts.limits,
      nowMs: () => performance.now() + lookMs * ++this.#looks,
      onEntry: () => undefined,
    });
  }

  async prepare(source: ComponentSource): Promise<PreparedComponent> {
    this.#checkOpen();
    const { codec, baselineCodec, bundled, identity } = this.#parts;
    const id = componentIdOf(source, identity.hash, codec.digest);
    const known = bundled.get(id) ?? this.#manifests.get(id)?.stored;
    const bytes = known ?? encodeBaseline(this.#baselineOf(source, id), baselineCodec);
    return { id, bytes, manifest: await this.load(id, bytes) };
  }

  #baselineOf(source: ComponentSource, id: string): ReturnType<typeof readBaseline> {
    const { engine, identity, codec, loader } = this.#parts;
    if (source.kind === "component") {
      const { pagesMax } = engine;
      return readBaseline(source.bytes, id, { parts: identity, pagesMax, digest: codec.digest });
    }
    const loaderBaseline = decodeBaseline(loader, engine, codec);
    return evaluateJavaScript(source.code, id, {
      engine,
      loader: loaderBaseline,
      digest: codec.digest,
    });
  }

  async load(componentId: string, bytes: Uint8Array): Promise<Manifest> {
    this.#checkOpen();
    const known = this.#manifests.get(componentId);
    if (known !== undefined && isEqual(known.stored, bytes)) return known.manifest;
    const baseline = decodeBaseline(bytes, this.#parts.engine, this.#parts.codec);
    const { component } = baseline;
    if (component !== componentId) {
      throw new SporeError("corrupt-image", `stored component ${componentId} is ${component}`);
    }
    const stored = bytes.slice();
    this.#machines.addComponent(componentId, stored, baseline);
    try {
      const manifest = decodeManifest(this.#describe(componentId));
      this.#manifests.set(componentId, { stored, manifest });
      return manifest;
    } catch (error) {
      this.#machines.removeComponent(componentId);
      if (known !== undefined) this.#machines.addComponent(componentId, known.stored);
      throw error;
    }
  }

  #describe(component: string): Uint8Array {
    try {
      return this.#machines.describe(component);
    } catch (error) {
      if (!(error instanceof SporeError) || !error.code.startsWith("guest-")) throw error;
      throw undescribed(error.message);
    }
  }

  isLoaded(componentId: string): boolean {
    return this.#manifests.has(componentId);
  }

  async activate(request: ActivateRequest): Promise<ActivateResult> {
    this.#checkOpen();
    if (!this.isLoaded(request.component)) {
      throw new SporeError("component-not-found", `component ${request.component} isn't loaded`);
    }
    await this.#ownTurn();
    this.#checkOpen();
    const result = this.#machines.activate(request);
    this.#machines.takeEvicted();
    return result;
  }

  /** Others get the event loop between rows of activations: replies, commits, timers. */
  async #ownTurn(): Promise<void> {
    while (this.#sinceTurn >= activationsPerTurn) {
      this.#turn ??= this.#parts.pause().then(() => {
        this.#turn = undefined;
        this.#sinceTurn = 0;
      });
      await this.#turn;
    }
    this.#sinceTurn += 1;
  }

  release(machine: string): void {
    this.#machines.release(machine);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new SporeError("host-stopping", "the sandbox is closed");
  }
}
