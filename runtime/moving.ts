/**
 * A host that moves with its namespace: runs an engine on the layout that holds, and goes over
 * to another when there is one (layout.ts).
 */
import type { Outcome } from "../guest/protocol.ts";
import type { EventView } from "./events.ts";
import { EngineHost, type HostOptions } from "./host.ts";
import type {
  ClusterView,
  GarbageReport,
  Host,
  HostStatus,
  RepartitionProgress,
  TenantHost,
} from "./index.ts";
import type { Layout, Layouts } from "./layout.ts";
import { openNamespace } from "./namespace.ts";
import type { Ports } from "./ports.ts";
import { reshard } from "./reshard.ts";

const partitionsDefault = 4;
/** Behind a seal: how often it is looked, and after how many looks the change is given up. */
const sealLookMs = 500;
const sealLooksMax = 60;

/** Makes the namespace if there is none, and a host on it. `start()` takes the partitions. */
export async function createHost(ports: Ports, options: HostOptions): Promise<Host> {
  const prefix = options.prefix ?? "";
  const partitions = options.partitions ?? partitionsDefault;
  const { layouts, layout } = await openNamespace({ ...ports, prefix }, partitions);
  return new MovingHost({ ports, options, prefix, layouts }, layout);
}

interface Place {
  readonly ports: Ports;
  readonly options: HostOptions;
  readonly prefix: string;
  readonly layouts: Layouts;
}

class MovingHost implements Host {
  readonly #place: Place;
  #layout: Layout;
  #engine: EngineHost;
  #settling: Promise<void> | undefined;
  /** Number of the newest layout in which a seal was met. */
  #sealedIn = -1;
  #isStopped = false;

  constructor(place: Place, layout: Layout) {
    this.#place = place;
    this.#layout = layout;
    this.#engine = this.#newEngine(layout);
  }

  #newEngine(layout: Layout): EngineHost {
    const { ports, options, prefix, layouts } = this.#place;
    return new EngineHost(ports, options, {
      prefix,
      layout,
      layouts,
      onSealed: () => {
        this.#sealedIn = Math.max(this.#sealedIn, layout.number);
        this.#background(this.#settle());
      },
      onNewerLayout: () => this.#background(this.#settle()),
    });
  }

  start(): Promise<void> {
    return this.#engine.start();
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#engine.stop();
    this.#place.layouts.close();
  }

  get isReady(): boolean {
    return !this.#isStopped && this.#settling === undefined && this.#engine.isReady;
  }

  tenant(name: string): TenantHost {
    return this.#engine.tenant(name);
  }

  event(token: string): Promise<EventView> {
    return this.#engine.event(token);
  }

  decideEvent(token: string, outcome: Outcome): Promise<{ readonly duplicate: boolean }> {
    return this.#engine.decideEvent(token, outcome);
  }

  rotateEventKeys(): Promise<{ readonly key: number }> {
    return this.#engine.rotateEventKeys();
  }

  cluster(): ClusterView {
    return this.#engine.cluster();
  }

  drain(timeoutMs: number): Promise<void> {
    return this.#engine.drain(timeoutMs);
  }

  status(): HostStatus {
    return this.#engine.status();
  }

  serve(request: Uint8Array): Promise<Uint8Array> {
    return this.#engine.serve(request);
  }

  collect(options: { readonly isDryRun?: boolean | undefined }): Promise<GarbageReport> {
    return this.#engine.collect(options);
  }

  async repartition(
    partitions: number,
    onProgress?: (progress: RepartitionProgress) => void,
  ): Promise<Layout> {
    const { ports, prefix, layouts, options } = this.#place;
    // Of the layout that is being left: another engine may be at work when it comes to that.
    const engine = this.#engine;
    const layout = await reshard({
      ...ports,
      store: ports.upkeepStore ?? ports.store,
      prefix,
      layouts,
      partitions,
      hostId: options.hostId,
      pause: (partition) => engine.pause(partition),
      ...(onProgress === undefined ? {} : { onProgress }),
    });
    await this.#settle();
    return layout;
  }

  #settle(): Promise<void> {
    this.#settling ??= this.#goOver().finally(() => {
      this.#settling = undefined;
      // The layout that it went over to may have been sealed while its partitions were opened.
      if (this.#isSealed && !this.#isStopped) this.#background(this.#settle());
    });
    return this.#settling;
  }

  get #isSealed(): boolean {
    return this.#sealedIn >= this.#layout.number;
  }

  /** Goes over to the layout that holds; behind a seal after that is decided (layout.ts Y2). */
  async #goOver(): Promise<void> {
    const { layouts, ports } = this.#place;
    const before = this.#layout;
    const isSealed = this.#isSealed;
    let layout = await layouts.current();
    for (let looks = 0; isSealed && layout.number === before.number; looks += 1) {
      if (this.#isStopped) return;
      if (looks === sealLooksMax) {
        layout = await layouts.change(before, before);
        break;
      }
      await new Promise<void>((resolve) => ports.clock.after(sealLookMs, resolve));
      layout = await layouts.current();
    }
    if (layout.number === before.number || this.#isStopped) return;
    const { partitions, folder } = layout;
    ports.observer.log("info", `layout ${layout.number} holds`, { partitions, folder });
    await this.#engine.stop();
    this.#layout = layout;
    this.#engine = this.#newEngine(layout);
    if (this.#isStopped) return;
    await this.#engine.goOn();
  }

  #background(work: Promise<unknown>): void {
    work.catch((error: unknown) => {
      if (this.#isStopped) return;
      const message = error instanceof Error ? error.message : String(error);
      this.#place.ports.observer.log("error", `going over to another layout: ${message}`, {});
    });
  }
}
