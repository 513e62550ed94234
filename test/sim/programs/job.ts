/**
 * A client runs a random program, sends what it waits for, looks at it in between, and compares what
 * came of it with the model: result, history, effects, counts, published values, children.
 */
import { decode, encode } from "../../../guest/cbor.ts";
import type { ErrorValue, Outcome } from "../../../guest/protocol.ts";
import type { HistoryEvent, StartRequest } from "../../../runtime/index.ts";
import { type Client, codeOf, forgiving, isFault, type Job, same } from "../clients.ts";
import { settler } from "../tenant-jobs.ts";
import { makeProgram } from "./maker.ts";
import {
  type ChildRun,
  Impossible,
  Model,
  type Rounds,
  signalValue,
  type Told,
  type Trace,
} from "./model.ts";
import {
  type Choices,
  eventsOf,
  isDenied,
  type Plan,
  type Program,
  signalsOf,
  tokenNameOf,
  type Value,
  visit,
} from "./program.ts";

const law = {
  outcome: "J-program: its end is the model's",
  steps: "J-program: each step as often as it must",
  order: "J-program: steps in the program's order",
  effects: "J-program: what is done has its effect",
  counts: "J-program: counts once",
  moves: "J-program: the same code does the same",
  queries: "J-program: no answer goes back",
  undone: "J-program: all that is done is undone, the last first",
} as const;

/** How a run ended. */
interface Ended {
  readonly value: Value;
  readonly code: string | undefined;
  readonly choices: Choices;
  readonly text: string;
}

export const programs: Job = async (tenantClient, id) => {
  const { random, world } = tenantClient;
  const program = makeProgram(random.fork(), id);
  const input = random.below(1000);
  const isMoving = random.chance(0.2);
  const client = isMoving ? (await settler(tenantClient, id)).own : tenantClient;
  world.stories.set(id, `input ${input}, ${JSON.stringify(program)}`);
  if (isMoving && random.chance(0.4)) await enqueued(client, id, [program, 1, input, {}]);
  else await client.start(id, "programmed", [program, 1, input, {}]);
  const run = { id, program, isMoving };
  const decider = decideAll(client, run);
  const { updates, isCancelled } = await accompany(client, run);
  const ended = await endOf(client, run);
  await decider.stop();
  world.count(ended.code === undefined ? "programs succeeded" : `programs ${statusOf(ended)}`);
  const rounds = roundsOf(await standing(client, id));
  const model = new Model(id, { tally: id, choices: ended.choices, rounds });
  // How far it came before it was cancelled is nobody's to say, nor what its code made of that.
  const told = isCancelled
    ? undefined
    : judged(client, id, ended, () => model.program(program, input));
  if (told !== undefined) judgeUpdates(client, { ...run, model, updates });
  await judgeRun(client, { ...run, told, isFailed: ended.code !== undefined });
  if (told !== undefined) {
    await judgeChildren(client, model);
    await judgePublished(client, model);
  }
  await judgeCounts(client, { ...run, model });
  if (told === undefined || !canFork(program, ended)) return;
  if (random.chance(0.4)) await forked(client, run, input);
  if (random.chance(0.3)) await repeated(client, run, input);
};

function statusOf({ code }: Ended): string {
  return code === "cancelled" ? "cancelled" : "failed";
}

/** Starts it behind others in a queue. */
async function enqueued(client: Client, id: string, args: readonly unknown[]): Promise<void> {
  const { random } = client;
  const limits = { concurrency: random.between(1, 2) };
  await client.ask(`queue of ${id}`, (tenant) => tenant.putQueue("line", limits));
  const start = (request: StartRequest): Promise<unknown> =>
    client.ask(`start ${request.id}`, (tenant) => tenant.startRun(request));
  const queue = { name: "line" };
  for (let n = random.below(4); n > 0; n -= 1) {
    const waitMs = random.pick([0, 30, 2000]);
    await start({ id: `${id}w${n}`, workflow: "lasting", args: encode([waitMs, ""]), queue });
  }
  await start({ id, workflow: "programmed", args: encode(args), queue });
  client.world.count("programs in queues");
}

// ---------------------------------------------------------------- while it runs

interface Run {
  readonly id: string;
  readonly program: Program;
  /** Goes on with other components now and then, which do the same. */
  readonly isMoving?: boolean;
}

interface Accompanied {
  readonly updates: readonly Updated[];
  readonly isCancelled: boolean;
}

interface Updated {
  readonly n: number;
  readonly outcome: Outcome;
  /** As they were: an answer stays, even if its steps are begun again when the run is resumed. */
  readonly rounds: Rounds;
}

/** Sends, in any order, what the program may wait for; updates, queries and pauses in between. */
async function accompany(client: Client, run: Run): Promise<Accompanied> {
  const { id, program } = run;
  const { random, world } = client;
  const updates: Updated[] = [];
  let isCancelled = false;
  const send = namesOf(program).map((name) => async () => sendSignal(client, id, name));
  const update = [1, 2, 3].slice(random.below(3)).map((n) => async () => {
    const outcome = await updated(client, id, n);
    updates.push({ n, outcome, rounds: roundsOf(await standing(client, id)) });
  });
  const actions: (() => Promise<void>)[] = [...send];
  if (program.handler !== undefined) actions.push(...update);
  const seen = { life: 0, done: 0 };
  for (let n = random.pick([0, 0, 2]); n > 0; n -= 1) actions.push(() => looked(client, id, seen));
  if (canResume(program) && random.chance(0.2)) actions.push(() => pauseAndResume(client, id));
  if (random.chance(0.15)) {
    actions.push(async () => {
      const view = await client.ask(`cancel ${id}`, (tenant) =>
        forgiving(tenant.cancelRun(id, "enough"), "run-closed"),
      );
      isCancelled = view !== undefined || client.hasRepeated;
    });
  }
  const moves: Promise<void>[] = [];
  if (run.isMoving === true) {
    for (let n = random.between(1, 2); n > 0; n -= 1) {
      const isBeside = random.chance(0.5);
      actions.push(async () => {
        const move = moved(client, id, n);
        moves.push(move);
        if (!isBeside) await move;
      });
    }
  }
  const pauseMs = random.pick([1, 50, 1000]);
  for (const act of shuffled(actions, client)) {
    if (random.chance(0.3)) await world.sleep(random.latency(pauseMs));
    await act();
  }
  await Promise.all(moves);
  // One that failed before it was paused is resumed: what came in between was refused.
  await sendAll(client, { id, program });
  return { updates: updates.toSorted((one, other) => one.n - other.n), isCancelled };
}

async function sendAll(client: Client, { id, program }: Run): Promise<void> {
  for (const name of namesOf(program)) await sendSignal(client, id, name);
  if (program.closing !== undefined) await sendSignal(client, id, program.closing);
}

/** Decides each event as soon as its token is known; one that was begun anew has another. */
function decideAll(client: Client, { id, program }: Run): { stop(): Promise<void> } {
  const { lives, path } = program;
  const events = lives.flatMap((life) => eventsOf(life, path));
  let isOver = events.length === 0;
  const decided = new Set<string>();
  const look = async (event: string): Promise<boolean> => {
    const found = await client.ask(`token of ${event} in ${id}`, (tenant) =>
      forgiving(tenant.published(id, tokenNameOf(event), {}), "value-not-published"),
    );
    const token = found?.kind === "ready" ? (decode(found.value) as string) : undefined;
    if (token === undefined || decided.has(token)) return false;
    decided.add(token);
    await decide(client, event, token);
    return true;
  };
  const work = async (): Promise<void> => {
    for (let pauseMs = 20; !isOver; pauseMs = Math.min(pauseMs * 1.5, 60_000)) {
      for (const event of events) if (await look(event)) pauseMs = 20;
      await client.world.sleep(client.random.latency(pauseMs));
    }
  };
  const working = work();
  return {
    async stop() {
      isOver = true;
      await working;
    },
  };
}

async function decide(client: Client, event: string, token: string): Promise<void> {
  const code = `denied:${event}`;
  const error = { name: "GuestError", message: event, code, class: "user" } as const;
  const outcome: Outcome = isDenied(event)
    ? { kind: "error", error }
    : { kind: "ok", value: encode(signalValue(event)) };
  try {
    await client.ask(`decide ${event}`, (_tenant, _attempt, host) =>
      host.decideEvent(token, outcome),
    );
    client.world.count("events of programs");
  } catch (error) {
    // Nobody waits for it any more.
    if (!["event-not-found", "event-decided", "run-closed"].includes(codeOf(error))) throw error;
  }
}

function namesOf({ lives, path }: Program): string[] {
  return lives.flatMap((life) => signalsOf(life, path));
}

function shuffled<Item>(items: readonly Item[], { random }: Client): Item[] {
  const all = items.map((item) => ({ item, at: random.next() }));
  return all.sort((one, other) => one.at - other.at).map(({ item }) => item);
}

async function sendSignal(client: Client, id: string, name: string): Promise<void> {
  const value = signalValue(name);
  await forgiving(client.signal(id, name, value, `${id}-${name}`), "run-closed");
}

async function updated(client: Client, id: string, n: number): Promise<Outcome> {
  const waitMs = 30_000;
  const options = { updateId: `${id}-u${n}`, waitMs };
  try {
    return await client.askUntilDone(
      { name: `update ${id} ${n}`, waitMs },
      (tenant) => tenant.updateRun(id, "handle", encode([n]), options),
      (result) => (result.kind === "done" ? result.outcome : undefined),
    );
  } catch (error) {
    if (codeOf(error) !== "run-closed") throw error;
    return { kind: "error", error: { name: "", message: "", code: "run-closed", class: "host" } };
  }
}

/** What a client was shown of a run isn't taken back. */
async function looked(
  client: Client,
  id: string,
  seen: { life: number; done: number },
): Promise<void> {
  const outcome = await client
    .ask(`query ${id}`, (tenant) => tenant.queryRun(id, "progress", encode([])))
    .catch((error: unknown) => {
      if (["run-closed", "query-not-found"].includes(codeOf(error))) return undefined;
      throw error;
    });
  if (outcome?.kind !== "ok") return; // between two lives it has none
  const [life, done] = decode(outcome.value) as [number, number];
  const isOn = life > seen.life || (life === seen.life && done >= seen.done);
  const shown = `${seen.life}/${seen.done}, then ${life}/${done}`;
  client.world.laws.check(isOn, law.queries, `${id}: ${shown}`);
  Object.assign(seen, { life, done });
}

async function pauseAndResume(client: Client, id: string): Promise<void> {
  const { random, world } = client;
  await client.ask(`pause ${id}`, (tenant) => forgiving(tenant.pauseRun(id), "run-closed"));
  await world.sleep(random.latency(300));
  await resumed(client, id);
}

async function deployed(client: Client, id: string, n: number): Promise<string> {
  const code = `export {}; // ${id}, ${n}`;
  const view = await client.ask(`deploy ${id} ${n}`, (tenant) =>
    tenant.deploy({ kind: "javascript", code }),
  );
  return view.id;
}

async function moved(client: Client, id: string, n: number): Promise<void> {
  const component = await deployed(client, id, n);
  try {
    const move = await client.ask(`move ${id}`, (tenant) => tenant.moveRun(id, { component }));
    client.world.laws.check(move.kind !== "diverged", law.moves, `${id}: ${JSON.stringify(move)}`);
    client.world.count(`programs ${move.kind}`);
  } catch (error) {
    const code = codeOf(error);
    if (!["run-closed", "run-active"].includes(code) && !isFault(code)) throw error;
  }
}

/** False if there is nothing to go on with. */
async function resumed(client: Client, id: string): Promise<boolean> {
  try {
    await client.ask(`resume ${id}`, (tenant) => tenant.resumeRun(id));
    return true;
  } catch (error) {
    if (["run-closed", "not-resumable"].includes(codeOf(error))) return false;
    throw error;
  }
}

// ---------------------------------------------------------------- its forks

/** Children that it had beside what it ended of were canceled with it, also for its forks. */
function canFork(program: Program, { code }: Ended): boolean {
  const isWhole = code === undefined && !hasPart(program, ["race", "any", "try"]);
  return isWhole || canResume(program);
}

/** A fork from any step ends as the program may end. */
async function forked(
  client: Client,
  { id, program, isMoving }: Run,
  input: number,
): Promise<void> {
  const { random, world } = client;
  const begun = (await standing(client, id)).filter(
    ({ type, data }) => type === "step.started" && data["attempt"] === 1 && !isUndoing(data),
  );
  if (begun.length === 0) return;
  const step = String(random.pick(begun).data["step"]);
  const forkId = `${id}k`;
  const component = isMoving === true ? await deployed(client, id, 3) : undefined;
  try {
    await client.ask(`fork ${id} before ${step}`, (tenant) =>
      tenant.forkRun(id, { step, id: forkId, component }),
    );
  } catch (error) {
    // Of a life that is over; the sandbox had a bad moment.
    if (["step-not-found", "not-replayable"].includes(codeOf(error))) return;
    if (isFault(codeOf(error))) return;
    throw error;
  }
  world.count("forks of programs");
  const fork = { id: forkId, program };
  const decider = decideAll(client, fork);
  await sendAll(client, fork);
  const ended = endedOf(await client.outcome(forkId));
  await decider.stop();
  const events = await standing(client, forkId);
  // What it has no events of was in an earlier life.
  const isOwn = (name: string): boolean => events.some(({ data }) => data["step"] === name);
  const before = [...roundsOf(await standing(client, id))].filter(([name]) => !isOwn(name));
  const rounds = new Map([...before, ...roundsOf(events)]);
  const model = new Model(forkId, { tally: id, choices: ended.choices, rounds });
  const what = `${forkId} before ${step}`;
  const told = judged(client, what, ended, () => model.program(program, input));
  const isFailed = ended.code !== undefined;
  // Of earlier lives a fork has nothing.
  const judgedAs = program.lives.length === 1 ? told : undefined;
  await judgeRun(client, { ...fork, told: judgedAs, isFailed, origin: id });
}

/** Done again, with the results of its steps or without them, it ends as the program may end. */
async function repeated(client: Client, run: Run, input: number): Promise<void> {
  const { id, program } = run;
  // It begins as the last life did.
  if (program.lives.length > 1) return;
  const again = { id: `${id}r`, program };
  // Of a function that is given no arguments nobody knows whether it would do the same.
  const hasInline = [...knownSteps(program).values()].some(({ isInline }) => isInline);
  const reuse = !hasInline && client.random.chance(0.6);
  await client.ask(`rerun ${id}`, (tenant) => tenant.rerunRun(id, { id: again.id, reuse }));
  client.world.count("programs repeated");
  const decider = decideAll(client, again);
  await sendAll(client, again);
  const ended = endedOf(await client.outcome(again.id));
  await decider.stop();
  const [before, events] = [await standing(client, id), await standing(client, again.id)];
  const rounds = new Map(roundsOf(events));
  for (const { data } of events) {
    const step = String(data["step"]);
    if (data["isReused"] === true) rounds.set(step, roundsOf(before).get(step) ?? 1);
  }
  const model = new Model(again.id, { tally: id, choices: ended.choices, rounds });
  judged(client, again.id, ended, () => model.program(program, input));
}

// ---------------------------------------------------------------- how it ended

/** One that failed is resumed, as its operator might: the failed step has all its attempts again. */
async function endOf(client: Client, run: Run): Promise<Ended> {
  const { id, program } = run;
  for (let resumes = canResume(program) ? client.random.pick([0, 0, 1, 3]) : 0; ; resumes -= 1) {
    const ended = endedOf(await client.outcome(id));
    if (ended.code === undefined || resumes <= 0 || !(await resumed(client, id))) return ended;
    client.world.count("programs resumed");
    await sendAll(client, run);
  }
}

/** Children are cancelled when a run fails: those that it awaited beside a step that failed, too. */
function canResume(program: Program): boolean {
  return !hasConcurrency(program) || !hasPart(program, ["child", "told", "stopped"]);
}

/** Without the steps of what was taken back when the run was resumed. */
async function standing(client: Client, id: string): Promise<readonly HistoryEvent[]> {
  const events = await client.history(id);
  const gaps = events.flatMap(({ index, data: { backTo } }) =>
    typeof backTo === "number" ? [{ from: backTo, to: index }] : [],
  );
  const isGone = (at: number): boolean => gaps.some(({ from, to }) => from <= at && at < to);
  return events.filter(({ index, type }) => !type.startsWith("step.") || !isGone(index));
}

/** How often each step was begun with all its attempts: all but the last of them came to nothing. */
function roundsOf(events: readonly HistoryEvent[]): Rounds {
  const rounds = new Map<string, number>();
  for (const { index, type, data } of events) {
    const step = String(data["step"]);
    const isLast = !events.some((later) => later.index > index && later.data["step"] === step);
    if (type === "step.failed" && !isLast) rounds.set(step, (rounds.get(step) ?? 1) + 1);
  }
  return rounds;
}

function endedOf(outcome: Outcome): Ended {
  if (outcome.kind === "ok") {
    const { value, choices } = decode(outcome.value) as { value: Value; choices: Choices };
    return { value, code: undefined, choices, text: "" };
  }
  const { error } = outcome;
  const cause = causeOf(error);
  const choices = fieldsOf(error)["choices"] ?? {};
  const text = `${error.name}: ${error.message} ${error.stack ?? ""}`;
  return { value: 0, code: cause, choices: choices as Choices, text };
}

/** As the guest has it (player.ts). */
function causeOf(error: ErrorValue): string {
  if (error.name === "ChildError" && error.cause !== undefined) return causeOf(error.cause);
  if (error.name === "AggregateError") return "aggregate";
  return error.code ?? error.name;
}

function fieldsOf({ details }: ErrorValue): Record<string, unknown> {
  return details === undefined ? {} : (decode(details) as Record<string, unknown>);
}

function judged(client: Client, id: string, ended: Ended, tell: () => Told): Told | undefined {
  try {
    const told = tell();
    const found = [ended.code ?? null, ended.code === undefined ? ended.value : 0];
    const wanted = [told.code ?? null, told.code === undefined ? told.value : 0];
    same(
      client,
      law.outcome,
      found,
      wanted,
      `${id} ${JSON.stringify(ended.choices)} ${ended.text}`,
    );
    return told;
  } catch (error) {
    if (!(error instanceof Impossible)) throw error;
    const choices = JSON.stringify(ended.choices);
    client.world.laws.violate(law.outcome, `${id}: ${error.message}; ${choices} ${ended.text}`);
    return undefined;
  }
}

function judgeUpdates(
  client: Client,
  run: Run & { readonly model: Model; readonly updates: readonly Updated[] },
): void {
  const { id, program, model, updates } = run;
  const { handler, path } = program;
  for (const { n, outcome, rounds } of updates) {
    const ended = endedOf(outcome);
    // It came when the run had failed.
    if (handler === undefined || ended.code === "run-closed") continue;
    const update = model.with(ended.choices, rounds);
    judged(client, `${id} update ${n}`, ended, () => update.part(handler, n, `${path}u${n}`));
  }
}

async function judgeChildren(client: Client, model: Model): Promise<void> {
  for (const child of model.children) {
    client.world.count("children of programs");
    await judgeChild(client, child);
  }
}

async function judgeChild(
  client: Client,
  { id, program, input, ...child }: ChildRun,
): Promise<void> {
  if (child.told !== undefined) {
    await judgeRun(client, {
      id,
      program,
      told: child.told,
      isFailed: child.told.code !== undefined,
    });
    return;
  }
  const ended = endedOf(await client.outcome(id));
  const model = new Model(id, {
    tally: program.tally,
    choices: ended.choices,
    rounds: new Map(),
  });
  const told = judged(client, id, ended, () => model.program(program, input));
  if (told === undefined) return;
  await judgeRun(client, { id, program, told, isFailed: told.code !== undefined });
  await judgeChildren(client, model);
}

async function judgePublished(client: Client, { published }: Model): Promise<void> {
  for (const [place, value] of published) {
    const [id = "", name = ""] = place.split(" ");
    const found = await client.ask(`published ${id} ${name}`, (tenant) =>
      tenant.published(id, name, {}),
    );
    const shown = found.kind === "ready" ? decode(found.value) : found.kind;
    same(client, law.outcome, shown, value, `published ${name} of ${id}`);
  }
}

/** What was sent may still be on its way. */
async function judgeCounts(
  client: Client,
  { id, program, model }: Run & { readonly model: Model },
): Promise<void> {
  const may = new Set<string>();
  const note = (work: { kind: string; how?: string }, each: string): void => {
    if (work.kind === "count" && work.how !== "fail") may.add(each);
  };
  for (const life of program.lives) {
    visit(life, { path: program.path, isHere: true }, { work: note });
  }
  const { handler } = program;
  for (const n of handler === undefined ? [] : [1, 2, 3]) {
    if (handler) visit(handler, { path: `${program.path}u${n}`, isHere: true }, { work: note });
  }
  if (may.size === 0) return;
  for (;;) {
    const counts = (await client.call("Tallies", id, "list", [])) as Record<string, number>;
    const wrong = Object.entries(counts).filter(([each, n]) => n !== 1 || !may.has(each));
    same(client, law.counts, wrong, [], id);
    if ([...model.counted].every((each) => counts[each] === 1)) return;
    await client.world.sleep(client.random.latency(200));
  }
}

// ---------------------------------------------------------------- its history

interface JudgedRun extends Run {
  readonly told: Told | undefined;
  readonly isFailed: boolean;
  /** Of a fork: the run whose past it has. */
  readonly origin?: string;
}

async function judgeRun(client: Client, run: JudgedRun): Promise<void> {
  const { id, program, told } = run;
  const events = await standing(client, id);
  const known = knownSteps(program);
  const steps = stepsOf(events);
  const strangers = [...steps.keys()].filter((step) => !known.has(step));
  same(client, law.steps, strangers, [], `${id} knows no other steps`);
  for (const [step, found] of steps) {
    const { succeeded, began } = found;
    client.world.laws.check(
      succeeded <= 1,
      law.steps,
      `${id}: ${step} succeeded ${succeeded} times`,
    );
    const inOrder = began.every((attempt, index) => attempt === index + 1);
    client.world.laws.check(inOrder, law.steps, `${id}: attempts ${began} of ${step}`);
  }
  if (told !== undefined) judgeTrace(client, run, { trace: told.trace, steps });
  judgeUndone(client, run, events);
}

/** Steps that the run itself may have. */
function knownSteps({ lives, handler, path }: Program): Map<string, Plan> {
  const known = new Map<string, Plan>();
  const note = (id: string, plan: Plan, isHere: boolean): void => {
    if (isHere) known.set(id, plan);
  };
  for (const life of lives) visit(life, { path, isHere: true }, { step: note });
  for (const n of handler === undefined ? [] : [1, 2, 3]) {
    if (handler) visit(handler, { path: `${path}u${n}`, isHere: true }, { step: note });
  }
  return known;
}

interface FoundStep {
  readonly name: string;
  readonly began: number[];
  first: number;
  last: number;
  succeeded: number;
  end: string;
}

/** By their ids, without those that undo. */
function stepsOf(events: readonly HistoryEvent[]): Map<string, FoundStep> {
  const steps = new Map<string, FoundStep>();
  for (const { index, type, data } of events) {
    if (!type.startsWith("step.") || isUndoing(data)) continue;
    const id = String(data["step"]);
    const found = steps.get(id) ?? {
      name: String(data["name"]),
      began: [],
      first: index,
      last: index,
      succeeded: 0,
      end: "",
    };
    steps.set(id, found);
    found.last = index;
    if (type === "step.started" || data["began"] === true)
      found.began.push(Number(data["attempt"]));
    if (type === "step.succeeded") found.succeeded += 1;
    if (type !== "step.started") found.end = type.slice(5);
  }
  return steps;
}

/** A step that undoes another, or in which one goes on that does. */
function isUndoing(data: Readonly<Record<string, unknown>>): boolean {
  return data["compensates"] !== undefined || data["name"] === "unact";
}

interface Span {
  /** Of the first event. */
  readonly from: number;
  readonly to: number;
}

const nowhere: Span = { from: Number.POSITIVE_INFINITY, to: Number.NEGATIVE_INFINITY };

function around(spans: readonly Span[]): Span {
  return {
    from: Math.min(nowhere.from, ...spans.map(({ from }) => from)),
    to: Math.max(nowhere.to, ...spans.map(({ to }) => to)),
  };
}

function judgeTrace(
  client: Client,
  run: JudgedRun,
  { trace, steps }: { readonly trace: Trace; readonly steps: ReadonlyMap<string, FoundStep> },
): void {
  const { id } = run;
  const { laws } = client.world;
  const walk = (part: Trace): Span => {
    switch (part.kind) {
      case "none":
        return nowhere;
      case "step":
        return judgeStep(client, run, { wanted: part.step, found: steps.get(part.step.id) });
      case "loose": {
        const found = part.ids.flatMap((each) => steps.get(each) ?? []);
        return {
          from: around(found.map(({ first: from, last: to }) => ({ from, to }))).from,
          to: nowhere.to,
        };
      }
      case "beside":
        return around(part.parts.map(walk));
      case "graph": {
        const spans = part.parts.map(walk);
        for (const [index, from] of part.from.entries()) {
          const before = around(from.map((each) => spans[each] ?? nowhere));
          const begins = spans[index]?.from ?? nowhere.from;
          laws.check(
            before.to < begins,
            law.order,
            `${id}: vertex ${index} of ${JSON.stringify(part)}`,
          );
        }
        return around(spans);
      }
      case "series": {
        let all = nowhere;
        for (const each of part.parts) {
          const span = walk(each);
          const isAfter = span.from > all.to;
          laws.check(isAfter, law.order, `${id}: ${JSON.stringify(each)} began too early`);
          all = around([all, span]);
        }
        return all;
      }
    }
  };
  walk(trace);
}

function judgeStep(
  client: Client,
  { id: run, origin = run }: JudgedRun,
  step: {
    readonly wanted: Extract<Trace, { kind: "step" }>["step"];
    readonly found: FoundStep | undefined;
  },
): Span {
  const { wanted, found } = step;
  const { laws, ledger } = client.world;
  const { id, plan, attempts, end } = wanted;
  client.world.count("steps of programs");
  if (found === undefined) {
    laws.violate(law.steps, `${run}: there was no ${id}`);
    return nowhere;
  }
  same(client, law.steps, found.end, end, `${run}: the end of ${id}`);
  const began = found.began.length;
  const isOften = plan.isEffect ? began >= attempts : began === attempts;
  laws.check(isOften, law.steps, `${run}: ${id} was tried ${began} times, not ${attempts}`);
  if (plan.isEffect && end !== "failed" && plan.fails.length < attempts) {
    const isDone = [...ledger.performed.keys()].some((key) => {
      const isOwn = key.startsWith(`${run}/`) || key.startsWith(`${origin}/`);
      return isOwn && key.replace(/^\d+\//, "").includes(`/${id}#`);
    });
    laws.check(isDone, law.effects, `${run}: ${id} has had no effect`);
  }
  return { from: found.first, to: found.last };
}

/**
 * Undoing takes what was done last and isn't undone. Of parts beside each other one may be done
 * between the choice of what is undone and its beginning, so only programs without any are strict.
 */
function judgeUndone(
  client: Client,
  { id, program, isFailed }: JudgedRun,
  events: readonly HistoryEvent[],
): void {
  const { laws } = client.world;
  const known = knownSteps(program);
  const isStrict = !hasConcurrency(program);
  const undone = new Set<string>();
  let done: string[] = [];
  for (const { type, data } of events) {
    const step = String(data["step"]);
    // The next life doesn't know what the one before it has done.
    if (type === "run.continued") done = [];
    if (data["compensates"] !== undefined) {
      const target = String(data["compensates"]);
      if (undone.has(target)) continue;
      undone.add(target);
      client.world.count("steps of programs undone");
      const isNext = isStrict ? done.at(-1) === target : done.includes(target);
      laws.check(isNext, law.undone, `${id}: ${target} is undone, of ${done}`);
      done = done.filter((each) => each !== target);
    } else if (type === "step.succeeded" && data["error"] === undefined) {
      if (known.get(step)?.isUndone === true) done.push(step);
    }
  }
  if (isFailed) same(client, law.undone, done, [], `${id} left undone`);
}

function hasConcurrency(program: Program): boolean {
  return program.handler !== undefined || hasPart(program, joins);
}

const joins = ["all", "settled", "race", "any", "map", "told"];

function hasPart({ lives, handler = lives[0] }: Program, kinds: readonly string[]): boolean {
  let isFound = false;
  const work = ({ kind }: { kind: string }): void => {
    if (kinds.includes(kind)) isFound = true;
  };
  for (const life of [...lives, handler]) {
    if (life !== undefined) visit(life, { path: "", isHere: true }, { work });
  }
  return isFound;
}
