/**
 * The world outside: a service that counts every effect by its key, and switches that
 * decide whether a step fails. Requests and answers get lost.
 */
import type { FetchRequest, FetchResponse } from "../../guest/protocol.ts";
import type { OutboundContext } from "../../runtime/ports.ts";
import type { SimHost, World } from "./world.ts";

export class Ledger {
  readonly #world: World;
  /** How often each effect (key and attempt) was performed. */
  readonly performed = new Map<string, number>();
  /** Names that are switched off fail their step. */
  readonly off = new Set<string>();

  constructor(world: World) {
    this.#world = world;
  }

  fetch(host: SimHost, request: FetchRequest, context: OutboundContext): Promise<FetchResponse> {
    const world = this.#world;
    const url = new URL(request.url);
    world.trace(`${host.id} fetch ${context.tenant} ${context.runId} ${request.url}`);
    world.count("effects");
    world.laws.effectStarts(host, request, context);
    const { random } = host;
    const isLost = random.chance(world.faults.outbound);
    const isBefore = random.chance(0.5);
    if (isLost) world.count(isBefore ? "outbound: failed before" : "outbound: lost reply");
    return new Promise((resolve, reject) => {
      const fail = (): void => reject(new Error("connection reset"));
      world.at(random.latency(8), () => {
        const body = isLost && isBefore ? undefined : this.#perform(url);
        world.at(random.latency(8), () =>
          host.enter(() => {
            if (isLost || body === undefined) fail();
            else resolve(responseOf(request.url, body));
          }),
        );
      });
    });
  }

  #perform(url: URL): { status: number; text: string } {
    const key = decodeURIComponent(url.pathname.slice(1));
    if (url.hostname === "switch") {
      return { status: this.off.has(key) ? 503 : 200, text: key };
    }
    const name = `${key}#${url.searchParams.get("attempt") ?? ""}`;
    const times = (this.performed.get(name) ?? 0) + 1;
    this.performed.set(name, times);
    return { status: 200, text: key };
  }
}

function responseOf(url: string, body: { status: number; text: string }): FetchResponse {
  return {
    status: body.status,
    statusText: "",
    url,
    headers: [],
    body: new TextEncoder().encode(body.text),
  };
}
