/**
 * Deletes objects, components, source maps and segments that nothing refers to, from any host
 * or none, while others serve, crash, deploy and store. Reads the bucket only: partitions as
 * `Replica` shows them. Nothing here waits for a clock but C5.
 *
 * What refers to what: rows speak of objects (`Ref`s in values) and components by 64 hex
 * digits, at whatever depth; a guest's memory, which can't be searched, has rows beside it that
 * say what got into it (`rowKeys.hold`, machine.ts); a `put` that is going on is a row with the
 * value itself. So a row names whatever may ever be read, from before it can be to after it
 * was. What a client remembers counts for nothing: it may bring a Ref back only while something
 * durable still has it, else the answer to reading it is `object-not-found`.
 *
 * The danger is an old object that nobody refers to and that a `put` of the same value finds in
 * its place at the moment it is deleted; or a DELETE that arrives hours late. Therefore names
 * are never used again: an object's name ends with the generation in which it was stored.
 *
 * C1 A collection begins by beginning a generation g (one create-if-absent). A `put` asks for
 *    the current generation after its command is durable, and stores into that. What objects
 *    there are is listed before: all of them are of earlier generations.
 * C2 Then the collector marks: all rows of all partitions, read after that (Replica R1), and
 *    every entry that was appended since (R2), up to a moment T after the last row was read.
 *    It stops early when nothing is left unmarked, as nothing is deleted then.
 * C3 It deletes only objects of generations before g whose hash wasn't marked.
 *
 * Why nothing that is referred to is missing. Let X be of a generation before g, and let a row
 * refer to it at some time after T. (a) If a row did so at T: that row was there when its
 * partition was first read, and was read then; or was written since, and its entry was read.
 * X is marked. (b) If not, a row came to refer to it after T. Rows get Refs from rows, and then
 * one referred to X at T, or from a `put` whose command isn't older than T: which is after C1,
 * so it asked later and stored into g or later, which isn't X. (a put that stored X asked
 * before C1, so its command was durable before C2 and is marked.) The argument never says when
 * a DELETE arrives, so it may be as late as it likes, and any number of collectors may be at
 * work, each with its own g.
 *
 * C4 Components are named by their content alone, because runs name them so. Deleting one takes
 *    two collections: the first condemns it (an object that is never deleted), and only a later
 *    one, C5, deletes what is still not marked. Whoever deploys stores the component, then
 *    appends the deployment, and then looks whether it is condemned. If it isn't, any collector
 *    that condemns it afterwards sees the deployment when it comes to delete. If it is, it is
 *    stored once more under the next name, which isn't (components.ts).
 * C5 Tenants are found by LIST, so a LIST must show within `condemnedMs` what was stored: that,
 *    and nothing else, rests on time.
 * C6 Segments have names that nobody uses again. Those of epochs before the current owner's
 *    which the newest checkpoint doesn't name are in nobody's table (table.ts, `sweep`).
 * C7 Rows of an earlier layout, and of one that was given up, are nobody's: its number is
 *    decided, so nobody claims there again (layout.ts Y2). Of a log stay the claims and what finds
 *    its end (tail.ts T2): an owner that has slept meanwhile still meets its fence.
 * C8 The entries of logs are their owners' business (log.ts L5). So are images: they are rows.
 */
import { decode, encode } from "../guest/cbor.ts";
import type { Batch } from "./batch.ts";
import { type ComponentName, componentNameOf, condemnationKey } from "./components.ts";
import { decodeHeader, headerBytes } from "./entry.ts";
import { SporeError } from "./errors.ts";
import { decodeRow, type Pending, rowKeys } from "./format.ts";
import { Generations } from "./generations.ts";
import { toHex } from "./ids.ts";
import type { GarbageReport } from "./index.ts";
import type { Layouts } from "./layout.ts";
import type { Ports } from "./ports.ts";
import { forEachHash, generationOfName, hashOfName, isObjectName } from "./refs.ts";
import { Register } from "./register.ts";
import { Replica } from "./replica.ts";
import { Retrier } from "./retry.ts";
import { findTail, seqText, staysBelow } from "./tail.ts";

export type CollectorPorts = Pick<Ports, "store" | "random" | "digest" | "clock" | "observer">;

export interface CollectorOptions {
  readonly prefix: string;
  readonly layouts: Layouts;
  /** Says what would be deleted, and writes nothing. */
  readonly isDryRun?: boolean | undefined;
  /** C5. Default one hour. */
  readonly condemnedMs?: number | undefined;
  /** Default 100,000. */
  readonly candidatesMax?: number | undefined;
}

/** Objects judged in one collection, which bounds its memory; the next goes on after them. */
const candidatesMaxDefault = 100_000;
/** Other names, of which there are fewer. */
const namesMax = 100_000;
/** Deployments of a tenant whose components stay, so that it can go back to them. */
const deploymentsKept = 10;
const condemnedMsDefault = 3_600_000;
const rowsPerPage = 20_000;
const pageBytes = 1024 * 1024;
/** Rows are read once, and of all partitions in turn. */
const cacheBytesMax = 1024 * 1024;
/** Rows between two looks at what was appended meanwhile. */
const rowsPerLook = 10_000;
const rescansMax = 10;
/** Deletions at once. */
const parallelMax = 16;

/** An object of a partition, by its layout's folder (FORMAT 2.1). */
const layoutObject = /^(p(?:(\d+)-[0-9a-f]{8})?)\/(\d+)\/(log|table)\/(.+)$/;
const commandRow = /^e\/.+\/c\/[0-9a-f]{8}$/;

interface Candidate {
  readonly key: string;
  readonly bytes: number;
}

/** Candidates by the hash that would keep them. */
class Candidates {
  readonly #byHash = new Map<string, Candidate[]>();
  count = 0;

  add(hash: string, candidate: Candidate): void {
    const same = this.#byHash.get(hash);
    if (same === undefined) this.#byHash.set(hash, [candidate]);
    else same.push(candidate);
    this.count += 1;
  }

  has(hash: string): boolean {
    return this.#byHash.has(hash);
  }

  readonly mark = (hash: string): void => {
    const marked = this.#byHash.get(hash);
    if (marked === undefined) return;
    this.#byHash.delete(hash);
    this.count -= marked.length;
  };

  get all(): readonly Candidate[] {
    return [...this.#byHash.values()].flat();
  }
}

/** One collection. Throws host-busy if another one began, or logs grow too fast to be read. */
export async function collect(
  ports: CollectorPorts,
  options: CollectorOptions,
): Promise<GarbageReport> {
  return new Collection(ports, options).run();
}

class Collection {
  readonly #ports: CollectorPorts;
  readonly #options: CollectorOptions;
  readonly #retrier: Retrier;
  readonly #objects = new Candidates();
  readonly #components = new Candidates();
  readonly #maps = new Candidates();
  #folder = "";
  #layout = 0;

  constructor(ports: CollectorPorts, options: CollectorOptions) {
    this.#ports = ports;
    this.#options = options;
    this.#retrier = new Retrier(ports.clock, ports.observer);
  }

  async run(): Promise<GarbageReport> {
    try {
      return await this.#collect();
    } catch (error) {
      const isDamage = error instanceof SporeError && error.kind === "corrupt";
      if (!isDamage || !(await this.#isOfEarlierLayout())) throw error;
      // What is missing was freed by another collection, as C7 says.
      throw layoutChanged();
    }
  }

  async #isOfEarlierLayout(): Promise<boolean> {
    return this.#folder !== "" && (await this.#options.layouts.current()).number !== this.#layout;
  }

  async #collect(): Promise<GarbageReport> {
    const { prefix } = this.#options;
    await this.#begin();
    await this.#eachListed(`${prefix}components/`, (key, bytes) => {
      const name = componentNameOf(key.slice(`${prefix}components/`.length));
      if (name !== undefined) this.#components.add(name.id, { key, bytes });
    });
    await this.#tenants((key, bytes) => {
      const map = /\/maps\/([0-9a-f]{64})$/.exec(key)?.[1];
      if (map !== undefined) this.#maps.add(map, { key, bytes });
    });
    const replicas = await this.#mark();
    const condemned = await this.#condemned();
    const segments = [...(await this.#segments(replicas)), ...(await this.#oldLayouts())];
    const maps = this.#maps.all.filter(({ key }) => {
      // Its component goes now, or went before.
      const id = key.slice(-64);
      return !this.#components.has(id) || condemned.ids.has(id);
    });
    return {
      isDryRun: this.#options.isDryRun === true,
      objects: await this.#delete("objects", this.#objects.all),
      components: await this.#delete("components", condemned.due),
      maps: await this.#delete("maps", maps),
      segments: await this.#delete("segments", segments),
      condemned: condemned.fresh,
    };
  }

  /** C1. A dry run begins none, and judges what a run that begins now would. */
  async #begin(): Promise<void> {
    const generations = new Generations({ ...this.#ports, prefix: this.#options.prefix });
    const newest = await generations.newest();
    const upTo = await this.#listObjects(newest.generation, newest.upTo);
    if (this.#options.isDryRun === true) return;
    if (await generations.advance(newest.generation, upTo)) return;
    throw new SporeError("host-busy", "another collection has just begun", {
      hint: "Let it finish, then try again.",
    });
  }

  /** Those up to a generation (C3), after a key; where it stopped if there may be more. */
  async #listObjects(generation: number, from: string | undefined): Promise<string | undefined> {
    const { prefix, candidatesMax = candidatesMaxDefault } = this.#options;
    let upTo: string | undefined;
    const after = from === undefined ? undefined : prefix + from;
    const isWhole = await this.#eachListed(
      `${prefix}objects/`,
      (key, bytes) => {
        upTo = key.slice(prefix.length);
        const name = key.slice(key.lastIndexOf("/") + 1);
        const isOld = isObjectName(name) && generationOfName(name) <= generation;
        if (isOld) this.#objects.add(hashOfName(name), { key, bytes });
      },
      { after, isEnough: () => this.#objects.count >= candidatesMax },
    );
    return isWhole ? undefined : upTo;
  }

  // ---------------------------------------------------------------- marking

  /** C2. */
  async #mark(): Promise<readonly Replica[]> {
    const { prefix, layouts } = this.#options;
    const layout = await layouts.current();
    this.#folder = `${prefix}${layout.folder}`;
    this.#layout = layout.number;
    const replicas: Replica[] = [];
    for (let partition = 0; partition < layout.partitions; partition += 1) {
      const place = { prefix: `${this.#folder}/${partition}`, partition, cacheBytesMax };
      replicas.push(await Replica.open({ ...this.#ports, ...place }));
    }
    const behind = new Set<Replica>();
    const look = async (): Promise<void> => {
      for (const replica of replicas) {
        if (!(await replica.follow((batch) => this.#markBatch(batch)))) behind.add(replica);
      }
    };
    for (const replica of replicas) await this.#markRows(replica, look);
    await look();
    for (let rescans = 1; behind.size > 0; rescans += 1) {
      if (rescans > rescansMax) {
        throw new SporeError("host-busy", "the logs grow faster than they can be read", {
          hint: "Collect when there is less to do; nothing was deleted.",
        });
      }
      for (const replica of [...behind]) {
        behind.delete(replica);
        await replica.reopen();
        await this.#markRows(replica, look);
      }
      await look();
    }
    // T: if these are the partitions still, nothing was anywhere else.
    if (await this.#isOfEarlierLayout()) throw layoutChanged();
    return replicas;
  }

  async #markRows(replica: Replica, look: () => Promise<void>): Promise<void> {
    let after: string | undefined;
    let sinceLook = 0;
    while (!this.#isAllMarked) {
      const range = { limit: rowsPerPage, bytesMax: pageBytes };
      const rest = after === undefined ? range : { ...range, after };
      const page = await replica.scan(rest).catch(async (error: unknown) => {
        const isDamage = error instanceof SporeError && error.kind === "corrupt";
        if (!isDamage || !(await replica.isStale())) throw error;
        // What was changed in the rows before `after` is in the entries that are followed.
        await replica.refresh();
        return undefined;
      });
      if (page === undefined) continue;
      for (const [key, value] of page.entries) this.#markRow(key, value);
      after = page.entries.at(-1)?.[0] ?? after;
      if (page.isDone) return;
      sinceLook += page.entries.length;
      if (sinceLook < rowsPerLook) continue;
      sinceLook = 0;
      await look();
    }
  }

  /** Rows have nothing to say any more: where nobody stores objects, a collection reads none. */
  get #isAllMarked(): boolean {
    return this.#objects.count + this.#components.count + this.#maps.count === 0;
  }

  #markBatch(batch: Batch): void {
    for (const [key, value] of batch) if (value !== undefined) this.#markRow(key, value);
  }

  #markRow(key: string, value: Uint8Array): void {
    const mark = (hash: string): void => {
      this.#objects.mark(hash);
      this.#components.mark(hash);
      this.#maps.mark(hash);
    };
    forEachHash(value, mark);
    if (key.startsWith(rowKeys.held)) mark(key.slice(-64));
    if (!commandRow.test(key)) return;
    const pending = decodeRow<Pending>(key, value);
    if (pending.kind === "put") mark(toHex(this.#ports.digest.sha256(pending.value)));
  }

  /** Marks what tenants have deployed, and gives what else there is of them. */
  async #tenants(found: (key: string, bytes: number) => void): Promise<void> {
    const { prefix } = this.#options;
    const names = new Set<string>();
    await this.#eachListed(`${prefix}tenants/`, (key, bytes) => {
      const [name = ""] = key.slice(`${prefix}tenants/`.length).split("/");
      names.add(name);
      found(key, bytes);
    });
    for (const name of names) {
      const register = new Register({
        ...this.#ports,
        prefix: `${prefix}tenants/${name}/deployments`,
      });
      const latest = await register.readLatest();
      if (latest === undefined) continue;
      this.#markDeployment(latest.value);
      for (let seq = latest.seq - 1; seq > latest.seq - deploymentsKept && seq > 0; seq -= 1) {
        this.#markDeployment((await register.readVersion(seq)).value);
      }
    }
  }

  #markDeployment(value: Uint8Array): void {
    const { component } = decode(value) as { component: string }; // written by deployments.ts
    this.#components.mark(component);
    this.#maps.mark(component);
  }

  // ---------------------------------------------------------------- what may go

  /** C4: condemns what is not marked, and gives what was condemned long enough ago. */
  async #condemned(): Promise<{ due: Candidate[]; ids: Set<string>; fresh: number }> {
    const { store, clock } = this.#ports;
    const { prefix, isDryRun = false, condemnedMs = condemnedMsDefault } = this.#options;
    const due: Candidate[] = [];
    const ids = new Set<string>();
    let fresh = 0;
    for (const candidate of this.#components.all) {
      const name = componentNameOf(candidate.key.slice(`${prefix}components/`.length));
      if (name === undefined) continue;
      const atMs = await this.#condemnedAtMs(name);
      if (atMs === undefined) {
        fresh += 1;
        if (isDryRun) continue;
        const key = condemnationKey(prefix, name);
        const value = encode({ atMs: clock.nowMs() });
        await this.#retrier.run("condemn", () => store.put(key, value, { ifAbsent: true }));
      } else if (clock.nowMs() - atMs >= condemnedMs) {
        due.push(candidate);
        ids.add(name.id);
      }
    }
    return { due, ids, fresh };
  }

  async #condemnedAtMs(name: ComponentName): Promise<number | undefined> {
    const key = condemnationKey(this.#options.prefix, name);
    const bytes = await this.#retrier.run("condemnation", () => this.#ports.store.get(key));
    if (bytes === undefined) return undefined;
    return (decode(bytes) as { atMs: number }).atMs; // written above
  }

  /** C6. */
  async #segments(replicas: readonly Replica[]): Promise<Candidate[]> {
    const found: Candidate[] = [];
    for (const replica of replicas) {
      const place = `${this.#folder}/${replica.partition}/table/`;
      const listed: Candidate[] = [];
      await this.#eachListed(place, (key, bytes) => void listed.push({ key, bytes }));
      // Asked after LIST: a checkpoint that was written meanwhile may name more.
      await replica.reopen();
      const named = new Set(replica.segments.map(({ key }) => key));
      const before = place + seqText(replica.epoch);
      found.push(...listed.filter(({ key }) => key < before && !named.has(key)));
    }
    return found;
  }

  /** C7. A change that goes on writes below a number that isn't decided yet. */
  async #oldLayouts(): Promise<Candidate[]> {
    const { prefix } = this.#options;
    const found: Candidate[] = [];
    if (this.#layout === 0) return found;
    const logs = new Map<string, { readonly seq: number; readonly candidate: Candidate }[]>();
    await this.#eachListed(`${prefix}p`, (key, bytes) => {
      const [, place, number = "0", partition, kind, name] =
        layoutObject.exec(key.slice(prefix.length)) ?? [];
      if (place === undefined || Number(number) > this.#layout) return;
      if (`${prefix}${place}` === this.#folder) return;
      const candidate = { key, bytes };
      if (kind === "table") {
        found.push(candidate);
        return;
      }
      const log = `${prefix}${place}/${partition}/log/`;
      const entries = logs.get(log) ?? [];
      logs.set(log, entries);
      entries.push({ seq: Number.parseInt(name ?? "", 16), candidate });
    });
    for (const [log, entries] of logs) {
      const read = (key: string): Promise<Uint8Array | undefined> => {
        const range = { offset: 0, length: headerBytes };
        return this.#retrier.run("collector get", () => this.#ports.store.get(key, range));
      };
      const tail = await findTail(
        async (seq) => (await read(`${log}${seqText(seq)}`)) !== undefined,
      );
      for (const { seq, candidate } of entries) {
        if (staysBelow(seq, tail)) continue;
        const bytes = await read(candidate.key);
        if (bytes === undefined) continue;
        const place = { key: candidate.key, partition: Number(log.split("/").at(-3)), seq };
        if (decodeHeader(bytes, place, this.#ports.digest).kind !== "claim") found.push(candidate);
      }
    }
    return found;
  }

  /** Page by page, until there are no more or, at the end of one, it is enough: false. */
  async #eachListed(
    prefix: string,
    found: (key: string, bytes: number) => void,
    range: { readonly after?: string | undefined; readonly isEnough?: () => boolean } = {},
  ): Promise<boolean> {
    let count = 0;
    const { isEnough = () => count >= namesMax } = range;
    for (let { after } = range; ; ) {
      const options = after === undefined ? {} : { after };
      const page = await this.#retrier.run("collector list", () =>
        this.#ports.store.list(prefix, options),
      );
      for (const { key, size } of page.keys) found(key, size);
      count += page.keys.length;
      after = page.keys.at(-1)?.key;
      if (!page.isTruncated || after === undefined) return true;
      if (isEnough()) return false;
    }
  }

  async #delete(
    what: string,
    candidates: readonly Candidate[],
  ): Promise<{ count: number; bytes: number }> {
    const { store, observer } = this.#ports;
    let count = 0;
    let bytes = 0;
    for (let at = 0; at < candidates.length; at += parallelMax) {
      const part = candidates.slice(at, at + parallelMax);
      if (this.#options.isDryRun !== true) {
        await Promise.all(
          part.map(({ key }) => this.#retrier.run("collector delete", () => store.delete(key))),
        );
      }
      count += part.length;
      bytes += part.reduce((sum, candidate) => sum + candidate.bytes, 0);
    }
    if (this.#options.isDryRun !== true) observer.count("spore_collected_total", count, { what });
    return { count, bytes };
  }
}

function layoutChanged(): SporeError {
  return new SporeError("host-busy", "the number of partitions has just been changed", {
    hint: "Collect again; nothing was deleted.",
  });
}
