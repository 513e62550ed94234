/**
 * A host without an engine, to test what lies in front of it: a few workflows and one
 * actor in memory, and a record of what was asked.
 */
import { decode, encode } from "../../guest/cbor.ts";
import type { ErrorValue, Outcome } from "../../guest/protocol.ts";
import { SporeError } from "../../runtime/errors.ts";
import type {
  CallRequest,
  CallResult,
  HistoryEvent,
  Host,
  OutputResult,
  RunView,
  StartRequest,
  StartResult,
  Status,
  TenantHost,
} from "../../runtime/index.ts";

export interface FakeHost extends Host {
  readonly asked: { readonly tenant: string; readonly call: string; readonly args: unknown[] }[];
  ready: boolean;
  /** Thrown by the next call of any method. */
  failNext: unknown;
}

interface FakeRun {
  id: string;
  name: string;
  input: string;
  status: Status;
  outcome: Outcome | undefined;
  events: HistoryEvent[];
  attempt: number;
  tags: Readonly<Record<string, string>>;
  metadata: Uint8Array | undefined;
}

const startedAtMs = Date.UTC(2026, 0, 2, 3, 4, 5);

export function createFakeHost(): FakeHost {
  const asked: FakeHost["asked"] = [];
  const tenants = new Map<string, TenantHost>();
  const host: FakeHost = {
    asked,
    ready: true,
    failNext: undefined,
    async start() {},
    async stop() {},
    get isReady() {
      return host.ready;
    },
    status: () => ({ hostId: "fake", partitions: [] }) as unknown as ReturnType<Host["status"]>,
    serve: async () => new Uint8Array(0),
    async drain() {},
    cluster: () => ({ partitions: 0, hosts: [] }),
    async collect({ isDryRun = false }) {
      const none = { count: 0, bytes: 0 };
      const objects = { count: 2, bytes: 300 };
      return { isDryRun, objects, components: none, maps: none, segments: none, condemned: 0 };
    },
    repartition: () => Promise.reject(new Error("unused")),
    async event(token) {
      if (token !== "good") throw new SporeError("event-not-found", "there is no such event");
      return { name: "<b>ship</b>", expiresAtMs: 1, isDecided: false };
    },
    async decideEvent(token) {
      if (token !== "good") throw new SporeError("event-not-found", "there is no such event");
      return { duplicate: false };
    },
    rotateEventKeys: async () => ({ key: 2 }),
    tenant(name) {
      let tenant = tenants.get(name);
      if (tenant === undefined) {
        tenant = recorded(name, createFakeTenant(), host);
        tenants.set(name, tenant);
      }
      return tenant;
    },
  } as FakeHost;
  return host;
}

function recorded(name: string, tenant: TenantHost, host: FakeHost): TenantHost {
  return new Proxy(tenant, {
    get(target, call) {
      const method = Reflect.get(target, call);
      return (...args: unknown[]) => {
        host.asked.push({ tenant: name, call: String(call), args });
        const failure = host.failNext;
        host.failNext = undefined;
        if (failure !== undefined) throw failure;
        return Reflect.apply(method, target, args);
      };
    },
  });
}

function createFakeTenant(): TenantHost {
  const runs = new Map<string, FakeRun>();
  const counters = new Map<string, number>();
  const callsDone = new Map<string, CallResult>();
  let waiters: (() => void)[] = [];
  let ids = 0;
  let isDeployed = false;

  function changed(): void {
    const woken = waiters;
    waiters = [];
    for (const wake of woken) wake();
  }

  function get(id: string): FakeRun {
    const run = runs.get(id);
    if (run === undefined) throw new SporeError("run-not-found", `there is no run ${id}`);
    return run;
  }

  function note(run: FakeRun, type: string, data: Record<string, unknown> = {}): void {
    run.events.push({
      index: run.events.length,
      atMs: startedAtMs + run.events.length,
      type,
      data,
    });
    changed();
  }

  function close(run: FakeRun, status: Status, outcome: Outcome): void {
    run.status = status;
    run.outcome = outcome;
    const data = outcome.kind === "ok" ? { value: outcome.value } : { error: outcome.error };
    note(run, `run.${status.toLowerCase()}`, data);
  }

  async function begun(request: StartRequest): Promise<StartResult> {
    const id = request.id ?? `run-${++ids}`;
    const name = request.workflow ?? "";
    if (name === "missing") {
      throw new SporeError("workflow-not-found", "there is no workflow missing");
    }
    const input = String(request.args ?? request.root);
    const old = runs.get(id);
    if (old !== undefined && request.ifExists === "fail") {
      throw new SporeError("run-exists", `run ${id} exists`);
    }
    if (old !== undefined) {
      if (old.input !== input || old.name !== name) {
        throw new SporeError("input-mismatch", `run ${id} was started with another input`);
      }
      return { id, status: old.status, created: false };
    }
    const run: FakeRun = {
      id,
      name,
      input,
      status: "RUNNING",
      outcome: undefined,
      events: [],
      attempt: 1,
      tags: request.tags ?? {},
      metadata: request.metadata,
    };
    runs.set(id, run);
    note(run, "run.started", { args: request.args });
    begin(run, request);
    return { id, status: run.status, created: true };
  }

  function begin(run: FakeRun, request: StartRequest): void {
    const args = decode(request.args ?? encode([])) as unknown[];
    if (run.name === "wait") return;
    if (run.name === "boom") close(run, "FAILED", { kind: "error", error: boom });
    else close(run, "SUCCESSFUL", { kind: "ok", value: encode(args[0]) });
  }

  function view(run: FakeRun): RunView {
    return {
      id: run.id,
      name: run.name,
      status: run.status,
      component: "c0ffee",
      attempt: run.attempt,
      createdAtMs: startedAtMs,
      closedAtMs: run.outcome === undefined ? undefined : startedAtMs + 1000,
      tags: run.tags,
      metadata: run.metadata,
      waiting: run.outcome === undefined ? { for: "signal go", sinceMs: startedAtMs } : undefined,
      error: run.outcome?.kind === "error" ? run.outcome.error : undefined,
      queries: ["progress"],
      updates: ["rename"],
      forks: [],
      reruns: [],
      records: 1,
      imageBytes: 0,
      journalLength: 1,
    };
  }

  const tenant: Partial<TenantHost> = {
    async deploy() {
      isDeployed = true;
      return {
        id: "c0ffee",
        manifest: { protocol: 1, definitions: [{ kind: "workflow", name: "echo" }] },
      };
    },
    async currentComponent() {
      if (!isDeployed) return undefined;
      const methods = [
        { name: "incr", readonly: false },
        { name: "value", readonly: true },
      ];
      const definitions = [{ kind: "actor" as const, name: "Counter", methods }];
      return { id: "c0ffee", definitions, isCurrent: true };
    },
    async startRun(request) {
      const started = await begun(request);
      if (request.waitMs === undefined) return started;
      const output = await tenant.output?.(started.id, { waitMs: request.waitMs });
      return output?.kind === "ready"
        ? { ...started, status: output.status, outcome: output.outcome }
        : started;
    },
    async getRun(id) {
      return view(get(id));
    },
    async output(id, options) {
      const run = get(id);
      if (run.outcome === undefined && (options?.waitMs ?? 0) > 1000) {
        await new Promise<void>((resolve) => waiters.push(resolve));
      }
      const result: OutputResult =
        run.outcome === undefined
          ? { kind: "pending", status: run.status }
          : { kind: "ready", outcome: run.outcome, status: run.status };
      return result;
    },
    async steps(id) {
      get(id);
      return [
        {
          step: "one_0",
          name: "one",
          status: "SUCCESSFUL",
          attempt: 1,
          startedAtMs,
          endedAtMs: startedAtMs + 5,
          value: encode(new Date(0)),
        },
      ];
    },
    async history(id, options) {
      return get(id).events.slice(options?.from ?? 0);
    },
    async *events(id, options) {
      const run = get(id);
      let index = options.from;
      const { signal } = options;
      signal.addEventListener("abort", changed);
      for (;;) {
        for (; index < run.events.length; index++) yield run.events[index] as HistoryEvent;
        if (run.outcome !== undefined || signal.aborted) return;
        await new Promise<void>((resolve) => waiters.push(resolve));
      }
    },
    async listRuns(request) {
      const wanted = [...runs.values()].filter(
        (run) => request.statuses === undefined || request.statuses.includes(run.status),
      );
      return {
        runs: wanted
          .map(view)
          .reverse()
          .slice(0, request.limit ?? 100),
      };
    },
    async cancelRun(id) {
      const run = get(id);
      const error: ErrorValue = { name: "CancelledError", message: "canceled", class: "cancelled" };
      if (run.outcome === undefined) close(run, "CANCELED", { kind: "error", error });
      return view(run);
    },
    async terminateRun(id, reason) {
      return tenant.cancelRun?.(id, reason) as Promise<RunView>;
    },
    async pauseRun(id) {
      get(id).status = "PAUSED";
      return view(get(id));
    },
    async resumeRun(id) {
      const run = get(id);
      if (run.status === "SUCCESSFUL") throw new SporeError("not-resumable", `${id} is done`);
      run.status = "RUNNING";
      return view(run);
    },
    async resumeAll() {
      return [...runs.values()]
        .filter((run) => run.status === "PAUSED")
        .map(({ id }) => ({ id, status: "RUNNING" as const }));
    },
    async deleteRun(id) {
      get(id);
      runs.delete(id);
    },
    async signalRun(id, name, value) {
      const run = get(id);
      if (name === "go") close(run, "SUCCESSFUL", { kind: "ok", value });
      return { duplicate: false };
    },
    async queryRun(id, name, args) {
      get(id);
      if (name === "throws") return { kind: "error", error: boom };
      return { kind: "ok", value: args };
    },
    async updateRun(id, name, args, options) {
      get(id);
      const callId = options?.updateId ?? "u1";
      if (name === "slow") return { kind: "accepted", callId };
      return { kind: "done", callId, outcome: { kind: "ok", value: args } };
    },
    async ensureActor(type, key, args) {
      const created = !counters.has(key);
      if (created) counters.set(key, Number((decode(args) as unknown[])[0] ?? 0));
      return { created, actor: (await tenant.getActor?.(type, key)) as never };
    },
    async callActor(request: CallRequest) {
      const callId = request.callId ?? `call-${++ids}`;
      const known = callsDone.get(callId);
      if (known !== undefined) return known;
      if (request.method === "throws") {
        return { kind: "done", callId, outcome: { kind: "error", error: boom } };
      }
      const by = Number((decode(request.args) as unknown[])[0] ?? 1);
      const n = (counters.get(request.key) ?? 0) + (request.method === "incr" ? by : 0);
      counters.set(request.key, n);
      const result: CallResult = {
        kind: "done",
        callId: request.method === "value" ? "" : callId,
        outcome: { kind: "ok", value: encode(n) },
      };
      callsDone.set(callId, result);
      return request.isAsync === true ? { kind: "accepted", callId } : result;
    },
    async callResult(_type, _key, callId) {
      return callsDone.get(callId) ?? { kind: "accepted", callId };
    },
    async getActor(type, key) {
      if (!counters.has(key)) throw new SporeError("actor-not-found", `there is no ${type} ${key}`);
      return {
        type,
        key,
        component: "c0ffee",
        createdAtMs: startedAtMs,
        turns: 1,
        stateBytes: 3,
        mailbox: 0,
        busy: false,
        stopped: false,
        reminders: [],
      };
    },
    async deleteActor(_type, key) {
      counters.delete(key);
    },
  };
  return tenant as TenantHost;
}

const boom: ErrorValue = {
  name: "PaymentError",
  message: "card declined",
  code: "declined",
  class: "user",
  details: encode({ at: new Date(0) }),
};
