/**
 * What clients do with versions of code: they deploy and go back while runs begin, move runs to other
 * code, fork them into it and do them again with it.
 */
import { encode } from "../../guest/cbor.ts";
import type { DeploymentView, MoveResult } from "../../runtime/index.ts";
import { Client, codeOf, isFault, type Job, same } from "./clients.ts";
import { saidBy, type Variant } from "./code-guest.ts";
import { settler } from "./tenant-jobs.ts";

interface Code extends Variant {
  readonly component: string;
}

async function deploy(client: Client, id: string, variant: Variant): Promise<Code> {
  const code = `export {}; // ${id} variant ${variant.variant} from ${variant.from};`;
  const { id: component } = await client.ask(`deploy ${id}`, (tenant) =>
    tenant.deploy({ kind: "javascript", code }),
  );
  return { ...variant, component };
}

// ---------------------------------------------------------------- moves

/** A run has the results of one code from its beginning to its end, whichever it is moved to. */
export const recoding: Job = async (client, id) => {
  const { random, world } = client;
  const { own } = await settler(client, id);
  const rounds = random.between(1, 5);
  const [a, b] = [
    await deploy(own, `${id}a`, { variant: 1, from: random.between(0, rounds) }),
    await deploy(own, `${id}b`, { variant: 2, from: random.between(0, rounds) }),
  ];
  const request = { id, workflow: "coded", args: encode([rounds]), component: a.component };
  await own.ask(`start ${id}`, (tenant) => tenant.startRun(request));
  await world.sleep(random.latency(random.pick([1, 60, 200])));
  const isForked = random.chance(0.5);
  if (random.chance(0.5)) await moved(own, id, { a, b, rounds });
  else await finished(own, id, saidBy(a, rounds));
  if (isForked) await forked(own, id, { a, b, rounds });
  await again(own, id, b, rounds);
};

interface Codes {
  readonly a: Code;
  readonly b: Code;
  readonly rounds: number;
}

async function finished(client: Client, id: string, said: readonly number[]): Promise<void> {
  same(client, "J-code: a run is of one code", await client.value(id), said, id);
}

async function moved(client: Client, id: string, { a, b, rounds }: Codes): Promise<void> {
  const law = "J-move: all of it or nothing";
  const move = async (isDryRun: boolean): Promise<MoveResult | string> => {
    try {
      return await client.ask(`move ${id} ${isDryRun}`, (tenant) =>
        tenant.moveRun(id, { component: b.component, isDryRun }),
      );
    } catch (error) {
      return codeOf(error);
    }
  };
  const isRefused = (answer: string): boolean =>
    answer === "run-closed" || answer === "run-active" || isFault(answer);
  if (client.random.chance(0.3)) {
    const dry = await move(true);
    const isFine = typeof dry === "string" ? isRefused(dry) : dry.kind !== "moved";
    client.world.laws.check(isFine, law, `${id}, dry: ${JSON.stringify(dry)}`);
    same(client, law, (await client.view(id)).component, a.component, `${id} isn't moved`);
  }
  const answer = await move(false);
  const output = await client.value(id);
  const [saidA, saidB] = [saidBy(a, rounds), saidBy(b, rounds)];
  const { component } = await client.view(id);
  const isB = component === b.component;
  same(client, law, output, isB ? saidB : saidA, `${id} after ${JSON.stringify(answer)}`);
  if (typeof answer === "string") {
    client.world.laws.check(isRefused(answer), law, `${id}: ${answer}`);
  } else if (!client.hasRepeated) same(client, law, isB, answer.kind === "moved", id);
}

/** Before a step: where both codes have said the same until then, and not otherwise. */
async function forked(client: Client, id: string, codes: Codes): Promise<void> {
  const law = "J-fork: mended code goes on with the same past";
  const { b, rounds } = codes;
  const past = (await client.value(id)) as number[];
  const said = saidBy(b, rounds);
  const at = client.random.below(rounds);
  const step = at === 0 ? "saying" : `saying_${at}`;
  const forkId = `${id}-f`;
  const isSame = past.slice(0, at).every((each, round) => each === said[round]);
  for (;;) {
    let answer = "forked";
    try {
      await client.ask(`fork ${id} before ${step}`, (tenant) =>
        tenant.forkRun(id, { step, id: forkId, component: b.component }),
      );
    } catch (error) {
      answer = codeOf(error);
    }
    if (isFault(answer)) continue;
    same(client, law, answer, isSame ? "forked" : "move-diverged", `${id} before ${step}`);
    if (isSame) await finished(client, forkId, said);
    return;
  }
}

/** All anew, or with the results that are there. */
async function again(client: Client, id: string, { component, ...b }: Code, rounds: number) {
  const reuse = client.random.chance(0.5);
  const rerunId = `${id}-r`;
  await client.ask(`rerun ${id}`, (tenant) =>
    tenant.rerunRun(id, { id: rerunId, reuse, component }),
  );
  const said = reuse ? ((await client.value(id)) as number[]) : saidBy(b, rounds);
  await finished(client, rerunId, said);
  same(client, "J-rerun: linked", (await client.view(rerunId)).rerunOf, id, rerunId);
}

// ---------------------------------------------------------------- releases

/** Longer than a host goes by what it knows of deployments. */
const knownMs = 6000;

/** Deployments of one tenant, by what was told of them. */
class Releases {
  readonly #id: string;
  /** Components by their number; none is ever another one. */
  readonly #seen = new Map<number, string>();
  readonly codes: Code[] = [];
  #count = 0;

  constructor(id: string) {
    this.#id = id;
  }

  async deploy(client: Client): Promise<void> {
    this.#count += 1;
    const variant = { variant: this.#count, from: 0 };
    const code = await deploy(client, `${this.#id}.${this.#count}`, variant);
    this.codes.push(code);
    const list = await this.list(client);
    const isThere = list.some(({ component }) => component === code.component);
    client.world.laws.check(isThere, releaseLaw, `${this.#id}: ${code.component} isn't there`);
  }

  /** Back to what was before, or to one that is named. */
  async rollBack(client: Client, isAlone: boolean): Promise<void> {
    const before = await this.list(client);
    const to = client.random.chance(0.5) ? client.random.pick(this.codes).component : undefined;
    client.hasRepeated = false;
    let answer: DeploymentView | string;
    try {
      answer = await client.ask(`roll back ${this.#id} ${to ?? ""}`, (tenant) =>
        tenant.rollBack(to),
      );
    } catch (error) {
      answer = codeOf(error);
    }
    const after = await this.list(client);
    if (typeof answer === "string") {
      const isFine = answer === "no-component" || (answer === "deployment-changed" && !isAlone);
      const what = `${this.#id}: ${answer}`;
      client.world.laws.check(isFine || client.hasRepeated, releaseLaw, what);
      return;
    }
    const wanted = to ?? previousOf(before);
    const isSure = to !== undefined || (isAlone && !client.hasRepeated);
    if (isSure) same(client, releaseLaw, answer.component, wanted, this.#id);
    const { seq, component } = answer;
    same(
      client,
      releaseLaw,
      after.find((each) => each.seq === seq)?.component,
      component,
      this.#id,
    );
  }

  /** All of them, newest first, page by page. */
  async list(client: Client): Promise<DeploymentView[]> {
    const all: DeploymentView[] = [];
    for (let before: number | undefined; before === undefined || before > 1; ) {
      const limit = client.random.between(1, 4);
      const page = await client.ask("deployments", (tenant) =>
        tenant.deployments({ limit, before }),
      );
      all.push(...page);
      before = page.at(-1)?.seq ?? 1;
    }
    const [newest] = all;
    const wanted = all.map((_, i) => (newest?.seq ?? 0) - i);
    same(
      client,
      releaseLaw,
      all.map(({ seq }) => seq),
      wanted,
      `${this.#id}: numbers`,
    );
    same(client, releaseLaw, all.at(-1)?.seq, 1, `${this.#id}: the first`);
    for (const { seq, component } of all) {
      same(client, releaseLaw, component, this.#seen.get(seq) ?? component, `${this.#id} ${seq}`);
      this.#seen.set(seq, component);
    }
    return all;
  }
}

const releaseLaw = "J-deploy: what was current stays written, in its order";

/** What a rollback goes to that names none. */
function previousOf(all: readonly DeploymentView[]): string | undefined {
  const [present] = all;
  if (present === undefined) return undefined;
  const from = (present.rollbackTo ?? present.seq) - 1;
  return all.find(({ seq, component }) => seq <= from && component !== present.component)
    ?.component;
}

/** Runs begin with what is current, while it changes; each stays with what it began with. */
export const releasing: Job = async (client, id) => {
  const { random, world } = client;
  const { own } = await settler(client, id);
  const releases = new Releases(id);
  await releases.deploy(own);
  const isAlone = random.chance(0.5);
  const release = async (name: string): Promise<void> => {
    const releaser = new Client(world, `${own.name}.${name}`, own.tenant);
    for (let count = random.between(1, 4); count > 0; count -= 1) {
      await world.sleep(random.latency(random.pick([1, 40, 3000])));
      if (random.chance(0.5)) await releases.deploy(releaser);
      else await releases.rollBack(releaser, isAlone);
    }
  };
  const begin = async (): Promise<void> => {
    for (let n = random.between(1, 4); n > 0; n -= 1) await beginRun(own, `${id}-${n}`, releases);
  };
  await Promise.all([begin(), release("r1"), isAlone ? undefined : release("r2")]);
  await releases.list(own);
};

async function beginRun(client: Client, id: string, releases: Releases): Promise<void> {
  const { random, world } = client;
  const law = "J-deploy: a run begins with what is current";
  const rounds = random.between(1, 3);
  const [newest] = await releases.list(client);
  // Hosts may go by what they know for a while.
  const isLate = random.chance(0.5);
  if (isLate) await world.sleep(random.latency(knownMs) + knownMs);
  await client.start(id, "coded", [rounds]);
  const { component } = await client.view(id);
  const all = await releases.list(client);
  const isByTheClock = !world.counts.has("clock jumps") && !world.counts.has("clock drifts");
  const from = isLate && isByTheClock ? (newest?.seq ?? 1) : 1;
  const isCurrent = all.some((each) => each.component === component && each.seq >= from);
  world.laws.check(isCurrent, law, `${id}: ${component} isn't of ${from} or later`);
  const code = releases.codes.find((each) => each.component === component);
  const said = code === undefined ? undefined : saidBy(code, rounds);
  const output = await client.value(id);
  if (said !== undefined) same(client, "J-code: a run is of one code", output, said, id);
}

// ---------------------------------------------------------------- upgrades by request

/** Who moves by request only stays where it is until then; then a call or a read finds it moved. */
export const settling: Job = async (client, id) => {
  const { random, world } = client;
  const law = "J-upgrades by request: nobody moves before";
  const { own } = await settler(client, id);
  const keys = ["x1", "x2", "y1"].slice(0, random.between(1, 3)).map((name) => `${id}-${name}`);
  const count = new Map(keys.map((key) => [key, 0]));
  const moves = new Map(keys.map((key) => [key, 0]));
  let calls = 0;
  const look = async (key: string): Promise<void> => {
    calls += 1;
    const isRead = count.get(key) !== 0 && random.chance(0.5);
    if (!isRead) count.set(key, (count.get(key) ?? 0) + 1);
    const options = isRead ? {} : { callId: `${id}-${calls}` };
    const found = (await own.call(
      "Settler",
      key,
      isRead ? "value" : "add",
      [],
      options,
    )) as number[];
    const most = moves.get(key) ?? 0;
    // The upgrade comes before the next call; a read may come before it.
    const isRight = found[1] === most || (isRead && found[1] === most - 1);
    world.laws.check(isRight && found[0] === count.get(key), law, `${key}: ${found} of ${most}`);
  };
  for (const key of keys) await look(key);
  for (let round = 1, rounds = random.between(1, 3); round <= rounds; round += 1) {
    const { component } = await deploy(own, `${id}.${round}`, { variant: round, from: 0 });
    await world.sleep(random.pick([0, knownMs]));
    for (const key of keys) await look(key);
    const prefix = random.pick(["x", "y", ""]);
    const asked = keys.filter((key) => key.startsWith(`${id}-${prefix}`));
    const [one] = asked;
    const isOne = one !== undefined && random.chance(0.3);
    const which = isOne ? { key: one } : { keyPrefix: `${id}-${prefix}` };
    await own.ask(`upgrade ${id} ${prefix}`, (tenant) =>
      tenant.upgradeActors({ type: "Settler", ...which, component }),
    );
    for (const key of isOne ? [one] : asked) moves.set(key, (moves.get(key) ?? 0) + 1);
    for (const key of keys) await look(key);
  }
};
