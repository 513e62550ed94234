/** A host in miniature: delivers activations to one machine and reads what it drains. */
import { createMachine, type Machine } from "../../guest/activation.ts";
import { decode, encode } from "../../guest/cbor.ts";
import type {
  Command,
  Drained,
  ErrorValue,
  Input,
  Outcome,
  RunInfo,
  StepRecord,
} from "../../guest/protocol.ts";

export type CommandOf<Kind extends Command["kind"]> = Extract<Command, { kind: Kind }>;

export const seed = new Uint8Array(16).map((_, index) => index * 7 + 1);

export function runInfo(name: string): RunInfo {
  return {
    runId: "run_1",
    tenant: "default",
    name,
    component: "c0ffee",
    attempt: 1,
    startedAtMs: 1000,
    seed,
  };
}

function eventsOf({ began, args, ...record }: StepRecord): StepRecord[] {
  if (began !== true) return [record];
  const { value: _, ...rest } = record;
  const started = { ...rest, event: "started" as const };
  return [args === undefined ? started : { ...started, value: args }, record];
}

export class TestHost {
  readonly machine: Machine = createMachine();
  nowMs = 1000;
  stepsMax = 1_000_000;
  drained: Drained = { state: "waiting", commands: [], records: [] };
  /** Everything ever drained. */
  readonly commands: Command[] = [];
  /** What began and succeeded at once as two records. */
  readonly records: StepRecord[] = [];
  /** Activations as bytes and what each drained, to compare machines with each other. */
  readonly journal: { activation: Uint8Array; drained: Uint8Array }[] = [];

  async deliver(...inputs: Input[]): Promise<Drained> {
    return this.deliverBytes(encode({ nowMs: this.nowMs, stepsMax: this.stepsMax, inputs }));
  }

  async deliverBytes(activation: Uint8Array): Promise<Drained> {
    await this.machine.deliver(activation);
    // The component's async export runs all promise jobs before it returns; so does this.
    await new Promise((resolve) => setImmediate(resolve));
    const drained = this.machine.drain();
    this.journal.push({ activation, drained });
    this.drained = decode(drained) as Drained;
    this.commands.push(...this.drained.commands);
    for (const bytes of this.drained.records) {
      this.records.push(...eventsOf(decode(bytes) as StepRecord));
    }
    return this.drained;
  }

  start(name: string, ...args: unknown[]): Promise<Drained> {
    return this.deliver({ kind: "start", run: runInfo(name), args: encode(args) });
  }

  graph(root: unknown): Promise<Drained> {
    return this.deliver({
      kind: "graph",
      run: runInfo(""),
      root: encode(root, { graphs: true }),
    });
  }

  turn(
    type: string,
    method: string,
    args: unknown[],
    more: { state?: Uint8Array; readonly?: boolean; id?: string; caller?: string } = {},
  ): Promise<Drained> {
    return this.deliver({
      kind: "turn",
      run: runInfo(""),
      actor: { type, key: "k" },
      method,
      args: encode(args),
      id: more.id ?? "call_1",
      readonly: more.readonly === true,
      ...(more.state === undefined ? {} : { state: more.state }),
      ...(more.caller === undefined ? {} : { caller: more.caller }),
    });
  }

  ok(id: number, value?: unknown): Promise<Drained> {
    return this.deliver(resolved(id, value));
  }

  fail(id: number, error: ErrorValue): Promise<Drained> {
    return this.deliver({ kind: "resolve", id, outcome: { kind: "error", error } });
  }

  /** Goes on while the guest yields. */
  async settle(): Promise<Drained> {
    while (this.drained.state === "yielded") await this.deliver({ kind: "continue" });
    return this.drained;
  }

  last<Kind extends Command["kind"]>(kind: Kind): CommandOf<Kind> {
    const found = this.all(kind).at(-1);
    if (found === undefined) throw new Error(`no ${kind} among ${this.kinds()}`);
    return found;
  }

  all<Kind extends Command["kind"]>(kind: Kind): CommandOf<Kind>[] {
    return this.commands.filter((each): each is CommandOf<Kind> => each.kind === kind);
  }

  kinds(): string {
    return this.commands.map(({ kind }) => kind).join(" ");
  }

  /** The run's value; throws if it isn't complete or failed. */
  output(): unknown {
    const { outcome } = this.last("complete");
    if (outcome.kind === "error") throw new Error(`the run failed: ${outcome.error.message}`);
    return decode(outcome.value);
  }

  /** Records as the SDK wrote them. */
  get raw(): StepRecord[] {
    const all = this.journal.flatMap(({ drained }) => (decode(drained) as Drained).records);
    return all.map((record) => decode(record) as StepRecord);
  }

  error(): ErrorValue {
    return errorOf(this.last("complete").outcome);
  }

  /** Step events as `step:event`, in order. */
  events(): string[] {
    return this.records.map(({ step, event }) => `${step}:${event}`);
  }
}

export function resolved(id: number, value?: unknown): Input {
  return { kind: "resolve", id, outcome: { kind: "ok", value: encode(value) } };
}

export function errorOf(outcome: Outcome): ErrorValue {
  if (outcome.kind === "ok") throw new Error(`ok: ${String(decode(outcome.value))}`);
  return outcome.error;
}

export function resultOf(outcome: Outcome): unknown {
  if (outcome.kind === "error") throw new Error(`error: ${outcome.error.message}`);
  return decode(outcome.value);
}
