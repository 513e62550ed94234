/**
 * One host in a test, from its start to its stop or crash: the engine and the HTTP API over
 * ports that are cut when it is over. What it has asked for then never answers, and nothing
 * of its code runs again.
 */
import { createApi } from "../host/api/index.ts";
import { calendar } from "../host/calendar.ts";
import { type ComponentMaps, createComponentMaps } from "../host/component-maps.ts";
import { digest } from "../host/node.ts";
import { createTenants } from "../host/tenants.ts";
import { createHost, type Host } from "../runtime/index.ts";
import type {
  ActivateRequest,
  Clock,
  Observer,
  Outbound,
  Ports,
  Random,
  Sandbox,
  Store,
} from "../runtime/ports.ts";
import { Activity } from "./activity.ts";
import type { Mocks } from "./mocks.ts";

/** What outlives a host. */
export interface Surroundings {
  readonly store: Store;
  readonly sandbox: Sandbox;
  readonly clock: Clock;
  readonly random: Random;
  readonly outbound: Outbound;
  readonly observer: Observer;
  readonly mocks: Mocks;
  /** Before each call of the store; the host is gone if this ends its life. */
  beforeStore(what: string): void;
  /** After a write, before the host hears of it. */
  afterWrite(what: string): void;
}

/** Where people would reach the host. */
export const testUrl = "http://spore.test";

/** Longer than any date: a wait that only its own end ends. */
const foreverMs = Number.MAX_SAFE_INTEGER;

/** Of this process. */
let lives = 0;

export class Life {
  readonly #number = ++lives;
  readonly activity = new Activity();
  /** Resolves when it is over. */
  readonly over: Promise<undefined>;
  isOver = false;
  #host: Host | undefined;
  #maps: ComponentMaps | undefined;
  #answer: ((request: Request) => Promise<Response>) | undefined;
  readonly #surroundings: Surroundings;
  readonly #machines = new Set<string>();
  readonly #timers = new Set<() => void>();
  readonly #end: () => void;

  constructor(surroundings: Surroundings) {
    this.#surroundings = surroundings;
    const over = Promise.withResolvers<undefined>();
    this.over = over.promise;
    this.#end = () => over.resolve(undefined);
  }

  /** Resolves when it serves, or when it is over. */
  async start(): Promise<void> {
    await this.untilOver(this.#start());
  }

  async #start(): Promise<void> {
    const ports = this.#ports();
    const { clock, random, observer } = ports;
    this.#host = await createHost(ports, {
      hostId: `test-${this.#number}`,
      partitions: 1,
      publicUrl: testUrl,
      // Nothing else goes on that a commit could wait for, and time stands still.
      limits: { lingerMs: 0, gatherMs: 0, timerWindowMs: foreverMs, timerLookMs: foreverMs },
    });
    this.#maps = createComponentMaps(ports);
    const app = createApi({
      host: this.#host,
      maps: this.#maps,
      clock,
      random,
      digest,
      observer,
      tenants: createTenants([], digest),
      limits: { heartbeatMs: foreverMs, updateWaitMs: foreverMs },
    });
    this.#answer = async (request) => app.fetch(request);
    await this.#host.start();
  }

  get host(): Host {
    if (this.#host === undefined) throw new Error("the host hasn't started");
    return this.#host;
  }

  get maps(): ComponentMaps {
    if (this.#maps === undefined) throw new Error("the host hasn't started");
    return this.#maps;
  }

  /** Answers a request; undefined if it is over before. */
  async answer(request: Request): Promise<Response | undefined> {
    if (this.#answer === undefined) throw new Error("the host hasn't started");
    return this.untilOver(this.#answer(request));
  }

  untilOver<T>(work: Promise<T>): Promise<T | undefined> {
    return Promise.race([work, this.over]);
  }

  /** Stops as on a signal: what is under way is finished. */
  async stop(): Promise<void> {
    await this.#host?.stop();
    this.crash();
  }

  /** Is gone, in the middle of whatever it does. */
  crash(): void {
    if (this.isOver) return;
    this.isOver = true;
    for (const cancel of this.#timers) cancel();
    this.#timers.clear();
    for (const machine of this.#machines) this.#surroundings.sandbox.release(machine);
    this.activity.abandon();
    this.#end();
  }

  #while<T>(work: () => Promise<T>): Promise<T> {
    return this.isOver ? never() : this.#unlessOver(this.activity.during(work()));
  }

  /** What has been asked for by a host that is gone never answers. */
  async #unlessOver<T>(work: Promise<T>): Promise<T> {
    try {
      const result = await work;
      return this.isOver ? never() : result;
    } catch (error) {
      if (this.isOver) return never();
      throw error;
    }
  }

  #ports(): Ports {
    const { random, observer, outbound } = this.#surroundings;
    return {
      store: this.#store(),
      sandbox: this.#sandbox(),
      clock: this.#clock(),
      calendar,
      random,
      digest,
      outbound: {
        fetch: (request, context) => this.#unlessOver(outbound.fetch(request, context)),
      },
      observer,
    };
  }

  #clock(): Clock {
    const { clock } = this.#surroundings;
    return {
      nowMs: () => clock.nowMs(),
      after: (delayMs, callback) => {
        if (this.isOver) return () => undefined;
        const stop = (): void => {
          cancel();
          this.#timers.delete(stop);
        };
        const cancel = clock.after(delayMs, () => {
          this.#timers.delete(stop);
          callback();
        });
        this.#timers.add(stop);
        return stop;
      },
    };
  }

  #store(): Store {
    const { store, beforeStore, afterWrite } = this.#surroundings;
    const call = <T>(what: string, work: () => Promise<T>, isWrite: boolean): Promise<T> =>
      this.#while(async () => {
        beforeStore(what);
        if (this.isOver) return never();
        const result = await work();
        if (isWrite && !this.isOver) afterWrite(what);
        return result;
      });
    return {
      get: (key, range) => call(`GET ${key}`, () => store.get(key, range), false),
      put: (key, bytes, options) => call(`PUT ${key}`, () => store.put(key, bytes, options), true),
      delete: (key) => call(`DELETE ${key}`, () => store.delete(key), true),
      list: (prefix, options) => call(`LIST ${prefix}`, () => store.list(prefix, options), false),
      close: () => store.close(),
    };
  }

  /** Hosts share threads: a machine's name has to be the host's own. */
  #sandbox(): Sandbox {
    const { sandbox, mocks } = this.#surroundings;
    const nameOf = (machine: string): string => `${this.#number}/${machine}`;
    const activate = (request: ActivateRequest) => {
      const machine = nameOf(request.machine);
      this.#machines.add(machine);
      return sandbox.activate({ ...mocks.tell(request), machine });
    };
    return {
      prepare: (source) => this.#while(() => sandbox.prepare(source)),
      load: (id, bytes) => this.#while(() => sandbox.load(id, bytes)),
      isLoaded: (id) => sandbox.isLoaded(id),
      activate: (request) => this.#while(() => activate(request)),
      release: (machine) => {
        this.#machines.delete(nameOf(machine));
        sandbox.release(nameOf(machine));
      },
      close: async () => undefined,
    };
  }
}

function never<T>(): Promise<T> {
  return new Promise(() => undefined);
}
