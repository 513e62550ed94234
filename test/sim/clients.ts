/**
 * A client of the cluster: asks a random live host, and asks again (same ids, maybe another
 * host) when it got no answer or one that says "retry". What it was told is judged by the
 * laws at the moment of the answer.
 */
import { decode, encode } from "../../guest/cbor.ts";
import type { Outcome } from "../../guest/protocol.ts";
import { SporeError } from "../../runtime/errors.ts";
import type { CallRequest, HistoryEvent, Host, RunView, TenantHost } from "../../runtime/index.ts";
import type { SimRandom } from "./random.ts";
import { NoAnswer, type World } from "./world.ts";

/** A wait that the client gives up after; then it asks again. */
const timeoutMs = 40_000;
const pauseMs = 60;

export class Client {
  readonly world: World;
  readonly name: string;
  readonly tenant: string;
  readonly random: SimRandom;
  /** What it is doing now, for a report of stuck clients. */
  doing = "nothing";
  /** A request of its present job was sent again: what was sent before may be heard late. */
  hasRepeated = false;

  constructor(world: World, name: string, tenant: string) {
    this.world = world;
    this.name = name;
    this.tenant = tenant;
    this.random = world.random.fork();
  }

  /**
   * One request until it is answered for good. `isRepeated` says whether an earlier attempt
   * may have taken effect. `atAnswer` runs when the host answers, before the network, unless nobody
   * waits any more: an answer as late as that says what was true while the client went on to change it.
   */
  async ask<T>(
    what: string,
    work: (tenant: TenantHost, attempt: number, host: Host) => Promise<T>,
    atAnswer?: (value: T) => void,
  ): Promise<T> {
    const { world } = this;
    this.doing = what;
    for (let attempt = 1; ; attempt += 1) {
      const hosts = world.liveHosts.filter((host) => host.host !== undefined);
      if (hosts.length === 0) {
        await world.sleep(this.random.latency(pauseMs));
        continue;
      }
      const host = this.random.pick(hosts);
      world.trace(`${this.name} ${what} → ${host.id} (${attempt})`);
      let isAwaited = true;
      try {
        const value = await host.call(async (engine) => {
          const answer = await work(engine.tenant(this.tenant), attempt, engine);
          if (isAwaited) atAnswer?.(answer);
          return answer;
        }, timeoutMs);
        world.trace(`${this.name} ${what} ok`);
        world.count("answers");
        return value;
      } catch (error) {
        isAwaited = false;
        if (!isRetryable(error)) {
          world.trace(`${this.name} ${what} error ${codeOf(error)}`);
          throw error;
        }
        this.hasRepeated = true;
        world.count("retried requests");
        world.trace(`${this.name} ${what} again after ${codeOf(error)}`);
      }
      await world.sleep(this.random.latency(pauseMs));
    }
  }

  /**
   * Asks for what takes until it is done. "Not yet" is said when the time is up, or soon by a host
   * that leaves (PROTOCOL 2.7): by no other.
   */
  async askUntilDone<T, Done>(
    what: { readonly name: string; readonly waitMs: number },
    work: (tenant: TenantHost) => Promise<T>,
    doneOf: (answer: T) => Done | undefined,
  ): Promise<Done> {
    const { world } = this;
    for (;;) {
      const done = await this.ask(what.name, async (tenant, _attempt, engine) => {
        const askedAtMs = world.nowMs;
        const found = doneOf(await work(tenant));
        const host = world.hosts.find((each) => each.host === engine);
        // As long as a clock that runs fast makes of it.
        const isLate = world.nowMs - askedAtMs >= what.waitMs / 1.1 - 1;
        const isAllowed = found !== undefined || isLate || host?.isLeaving === true;
        world.laws.check(isAllowed, "J-not yet", `${what.name} was told it by ${host?.id}`);
        return found;
      });
      if (done !== undefined) return done;
      world.count("told not yet");
    }
  }

  /** Starts a run; a repetition attaches to it. */
  async start(id: string, workflow: string, args: readonly unknown[]): Promise<void> {
    const key = `e/${this.tenant}/r/${id}/!`;
    await this.ask(
      `start ${id} ${workflow}`,
      (tenant) => tenant.startRun({ id, workflow, args: encode(args) }),
      () => this.#told(key, `run ${id} was accepted`),
    );
  }

  /** Waits until the run is closed. */
  async outcome(id: string): Promise<Outcome> {
    for (;;) {
      const result = await this.ask(
        `output ${id}`,
        (tenant) => tenant.output(id, { waitMs: 20_000 }),
        (answer) => {
          if (answer.kind === "ready") this.#toldClosed(id);
        },
      );
      if (result.kind === "ready") return result.outcome;
    }
  }

  async value(id: string): Promise<unknown> {
    const outcome = await this.outcome(id);
    if (outcome.kind === "ok") return decode(outcome.value);
    this.world.laws.violate(
      "L-outcome",
      `run ${id} of ${this.tenant} failed: ${outcome.error.name}: ${outcome.error.message} ${outcome.error.code ?? ""}`,
    );
    return undefined;
  }

  /** All of it, page by page. */
  async history(id: string): Promise<HistoryEvent[]> {
    const events: HistoryEvent[] = [];
    for (;;) {
      const from = events.length;
      const page = await this.ask(`history ${id}`, (tenant) => tenant.history(id, { from }));
      if (page.length === 0) return events;
      events.push(...page);
    }
  }

  view(id: string): Promise<RunView> {
    return this.ask(`get ${id}`, (tenant) => tenant.getRun(id));
  }

  /** Asks until the view fits; less and less often, as clocks that were set may take hours. */
  async viewUntil(id: string, fits: (view: RunView) => boolean): Promise<RunView> {
    for (let pauseMs = 200; ; pauseMs = Math.min(pauseMs * 1.1, 60_000)) {
      const view = await this.view(id);
      if (fits(view)) return view;
      await this.world.sleep(this.random.latency(pauseMs));
    }
  }

  async signal(id: string, name: string, value: unknown, messageId: string): Promise<void> {
    await this.ask(`signal ${id} ${String(value)}`, (tenant) =>
      tenant.signalRun(id, name, encode(value), { messageId }),
    );
  }

  async call(
    type: string,
    key: string,
    method: string,
    args: readonly unknown[],
    options: Partial<Pick<CallRequest, "session" | "isAsync" | "ifMissing">> & {
      callId?: string;
    } = {},
  ): Promise<unknown> {
    const entity = `${this.tenant}/a/${type}/${key}`;
    const { callId } = options;
    const result = await this.ask(
      `call ${type}/${key}.${method} ${callId ?? ""}`,
      (tenant) => tenant.callActor({ type, key, method, args: encode(args), ...options }),
      () => {
        if (callId !== undefined) this.toldCall(entity, callId);
      },
    );
    if (result.kind === "accepted") return this.#result(type, key, result.callId);
    return this.#unwrap(result.outcome, `${type}/${key}.${method}`);
  }

  async #result(type: string, key: string, callId: string): Promise<unknown> {
    for (;;) {
      const result = await this.ask(`result ${callId}`, (tenant) =>
        tenant.callResult(type, key, callId, { waitMs: 10_000 }),
      );
      if (result.kind === "done") return this.#unwrap(result.outcome, `${type}/${key}`);
    }
  }

  /** One collection on one host, of which nobody is told how it ends. */
  async collect(): Promise<void> {
    const { world } = this;
    const hosts = world.liveHosts.filter((host) => host.host !== undefined);
    if (hosts.length === 0) return;
    const host = this.random.pick(hosts);
    world.trace(`${this.name} collects on ${host.id}`);
    try {
      const report = await host.call((engine) => engine.collect({}), timeoutMs);
      world.count("collections");
      world.count("objects collected", report.objects.count);
    } catch (error) {
      world.trace(`${this.name} collect: ${codeOf(error)}`);
      if (!isRetryable(error)) throw error;
    }
  }

  #unwrap(outcome: Outcome, what: string): unknown {
    if (outcome.kind === "ok") return decode(outcome.value);
    throw Object.assign(new Error(`${what}: ${outcome.error.message}`), {
      code: outcome.error.code,
    });
  }

  /** L-told: the row that a recovery needs to stand by the answer is durable now. */
  #told(rowKey: string, what: string): void {
    const entity = rowKey.slice(2, rowKey.lastIndexOf("/")) as Parameters<
      World["laws"]["truthOf"]
    >[0];
    const { rows } = this.world.laws.truthOf(entity);
    this.world.laws.check(rows.has(rowKey), "L-told", `${this.name} was told that ${what}`);
  }

  #toldClosed(id: string): void {
    const entity = `${this.tenant}/r/${id}` as Parameters<World["laws"]["truthOf"]>[0];
    const { rows } = this.world.laws.truthOf(entity);
    const head = rows.get(`e/${entity}/!`);
    const status = head === undefined ? "missing" : (decode(head) as { status: string }).status;
    const isClosed = status === "SUCCESSFUL" || status === "FAILED" || status === "CANCELED";
    this.world.laws.check(isClosed, "L-told", `${this.name}: ${id} is told closed, is ${status}`);
  }

  toldCall(entityKey: string, callId: string): void {
    const entity = entityKey as Parameters<World["laws"]["truthOf"]>[0];
    const { rows } = this.world.laws.truthOf(entity);
    for (const [rowKey, bytes] of rows) {
      if (!rowKey.startsWith(`e/${entity}/d/`)) continue;
      if ((decode(bytes) as { callId: string }).callId === callId) return;
    }
    this.world.laws.violate("L-told", `${this.name}: call ${callId} of ${entity} isn't durable`);
  }
}

export function isRetryable(error: unknown): boolean {
  if (error instanceof NoAnswer) return true;
  if (!(error instanceof SporeError)) return false;
  // A mailbox that is full says 429: later there is room.
  if (error.code === "too-many-messages") return true;
  return error.kind === "unavailable" || error.kind === "moved";
}

export function codeOf(error: unknown): string {
  if (error instanceof SporeError) return error.code;
  if (error instanceof NoAnswer) return "no answer";
  const code = (error as { code?: unknown }).code;
  return typeof code === "string" ? code : String(error);
}

/** A story that a client goes through, on ids that begin with `id`. */
export type Job = (client: Client, id: string) => Promise<void>;

export function same(
  client: Client,
  law: string,
  found: unknown,
  wanted: unknown,
  what: string,
): void {
  const [left, right] = [JSON.stringify(found), JSON.stringify(wanted)];
  client.world.laws.check(left === right, law, `${what}: ${left} instead of ${right}`);
}

/** The sandbox had a bad moment; to ask again is right. */
export function isFault(code: string): boolean {
  return code.startsWith("guest-") && code !== "guest-diverged";
}

/** An error that a repetition of a request may meet, because the first one was heard. */
export async function forgiving<T>(work: Promise<T>, code: string): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (codeOf(error) === code) return undefined;
    throw error;
  }
}
