/**
 * Reads everything that a namespace keeps and says what of it is damaged: logs, segments, rows,
 * images, components, registers, stored values, and whether the partitions agree about their messages.
 * Changes nothing, and may run beside hosts that serve: what they delete meanwhile is no damage.
 *
 * Found by hashes: any changed byte. Found by reference: what is missing. Not found: an entry
 * that a log has lost at its very end, because nothing tells that it ever was.
 */
import { decode } from "../guest/cbor.ts";
import { isSameBytes } from "./bytes.ts";
import { Components, componentKey, componentNameOf } from "./components.ts";
import { align } from "./cut.ts";
import { decodeEntry } from "./entry.ts";
import { SporeError } from "./errors.ts";
import { decodeRow, type Message, rowKeys } from "./format.ts";
import { type EntityKey, nameOf, tenantOf, toHex } from "./ids.ts";
import { checkImage } from "./image.ts";
import type { CheckReport, Damage } from "./index.ts";
import type { Layouts } from "./layout.ts";
import type { Ports, Store } from "./ports.ts";
import { hashOfName, isObjectName, objectKey, refsIn, storedIn } from "./refs.ts";
import { Register } from "./register.ts";
import { Replica } from "./replica.ts";
import { Retrier } from "./retry.ts";
import { isClosed } from "./run.ts";
import { decodeBlock, decodeFooter, type SegmentInfo } from "./segment.ts";
import { type Entity, readEntity } from "./state.ts";
import { seqText } from "./tail.ts";

export type CheckPorts = Pick<Ports, "store" | "random" | "digest" | "clock" | "observer">;

export interface CheckOptions {
  readonly prefix: string;
  readonly layouts: Layouts;
  /** Told now and then what is being read. */
  readonly onProgress?: ((what: string) => void) | undefined;
}

/** Findings that are named; more are only counted. */
const damagesMax = 1000;
const rowsPerPage = 1000;
const registerVersion = /^(.*(?:collections|layouts|deployments|queues))\/([0-9a-f]{16})$/;
/** An owner merges and truncates under the check: so often a partition is begun anew. */
const attemptsMax = 5;

/** Throws corrupt-log only if there is no namespace to look at. */
export async function check(ports: CheckPorts, options: CheckOptions): Promise<CheckReport> {
  return new Check(ports, options).run();
}

export interface LogReport {
  readonly entries: number;
  readonly damages: readonly Damage[];
  /** What is wrong if there are entries that the replica doesn't know of: the search missed them. */
  readonly hidden: string | undefined;
}

/** Reads every entry that is there, also those that only the search for the end needs. */
export async function readEntries(
  ports: CheckPorts,
  replica: Replica,
  place: string,
): Promise<LogReport> {
  const { store, digest, clock, observer } = ports;
  const { partition, seq: lastSeq } = replica;
  const retrier = new Retrier(clock, observer);
  const last = `${place}/log/${seqText(lastSeq)}`;
  const damages: Damage[] = [];
  let entries = 0;
  let isLater = false;
  for await (const { key } of listed(store, retrier, `${place}/log/`)) {
    const bytes = await retrier.run("check get", () => store.get(key));
    if (bytes === undefined) continue; // freed meanwhile
    const seq = Number.parseInt(key.slice(key.lastIndexOf("/") + 1), 16);
    entries += 1;
    try {
      decodeEntry(bytes, { key, partition, seq }, digest);
    } catch (error) {
      if (!(error instanceof SporeError) || error.kind !== "corrupt") throw error;
      damages.push({ key, what: error.message });
    }
    if (key > last) isLater = true;
  }
  // Beyond the end that the search finds: either appended meanwhile, or the search is misled.
  const isHidden =
    isLater && (await Replica.open({ ...ports, prefix: place, partition })).seq === lastSeq;
  const hidden = `there are entries behind ${last}, which the search for the end misses`;
  return { entries, damages, hidden: isHidden ? hidden : undefined };
}

/** All objects below a prefix. */
export async function* listed(
  store: Store,
  retrier: Retrier,
  prefix: string,
): AsyncGenerator<{ readonly key: string; readonly size: number }> {
  for (let after: string | undefined; ; ) {
    const options = after === undefined ? {} : { after };
    const page = await retrier.run("list", () => store.list(prefix, options));
    yield* page.keys;
    after = page.keys.at(-1)?.key;
    if (!page.isTruncated || after === undefined) return;
  }
}

class Check {
  readonly #ports: CheckPorts;
  readonly #options: CheckOptions;
  readonly #retrier: Retrier;
  readonly #damages: Damage[] = [];
  #damageCount = 0;
  #counts = { entries: 0, segments: 0, rows: 0, runs: 0, actors: 0, images: 0 };
  #objectBytes = 0;
  /** Component ids by one who needs it. */
  readonly #components = new Map<string, string>();
  /** Keys of objects by a row that speaks of it. */
  readonly #objects = new Map<string, string>();
  #folder = "";

  constructor(ports: CheckPorts, options: CheckOptions) {
    this.#ports = ports;
    this.#options = options;
    this.#retrier = new Retrier(ports.clock, ports.observer);
  }

  async run(): Promise<CheckReport> {
    const { prefix, layouts } = this.#options;
    const layout = await layouts.current();
    this.#folder = `${prefix}${layout.folder}`;
    const replicas: Replica[] = [];
    for (let partition = 0; partition < layout.partitions; partition += 1) {
      const replica = await this.#partition(partition);
      if (replica !== undefined) replicas.push(replica);
    }
    // With rows that can't be read nobody knows what partitions have told each other.
    if (this.#damageCount === 0) {
      for (const { partition, what } of await this.#guarded("cursors", () => align(replicas), [])) {
        this.#found(`${this.#folder}/${partition}`, what);
      }
    }
    await this.#checkRegisters();
    await this.#checkComponents();
    await this.#checkObjects();
    return {
      isSound: this.#damageCount === 0,
      damages: this.#damages,
      damageCount: this.#damageCount,
      partitions: layout.partitions,
      ...this.#counts,
      components: this.#components.size,
      objects: this.#objects.size,
      objectBytes: this.#objectBytes,
    };
  }

  #found(key: string, what: string, touches?: readonly string[]): void {
    this.#damageCount += 1;
    if (this.#damages.length >= damagesMax) return;
    this.#damages.push({ key, what, ...(touches === undefined ? {} : { touches }) });
  }

  /** Damage becomes a finding; anything else isn't ours to judge. */
  async #guarded<T>(key: string, work: () => Promise<T>, otherwise: T): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof SporeError) || error.kind !== "corrupt") throw error;
      this.#found(key, error.message);
      return otherwise;
    }
  }

  // ---------------------------------------------------------------- a partition

  async #partition(partition: number): Promise<Replica | undefined> {
    const place = `${this.#folder}/${partition}`;
    this.#options.onProgress?.(place);
    const replica = await this.#guarded(
      place,
      () => Replica.open({ ...this.#ports, prefix: place, partition }),
      undefined,
    );
    if (replica === undefined) return undefined;
    await this.#checkEntries(replica, place);
    for (let attempt = 1; ; attempt += 1) {
      const before = { ...this.#counts };
      const damages = this.#damageCount;
      const isWhole = await this.#checkSegments(replica);
      // A segment that was merged away under the check is no damage: look at the new ones.
      const isTouched = this.#damageCount > damages && (await replica.isStale());
      if (!isTouched || attempt === attemptsMax) {
        if (isWhole) await this.#checkRows(replica, place);
        return replica;
      }
      this.#damages.length = Math.min(this.#damages.length, damages);
      this.#damageCount = damages;
      this.#counts = before;
      await replica.reopen();
    }
  }

  async #checkEntries(replica: Replica, place: string): Promise<void> {
    const { entries, damages, hidden } = await readEntries(this.#ports, replica, place);
    this.#counts.entries += entries;
    for (const { key, what } of damages) this.#found(key, what);
    if (hidden !== undefined) this.#found(place, hidden);
  }

  /** Whether all rows can be read. */
  async #checkSegments(replica: Replica): Promise<boolean> {
    let isWhole = true;
    for (const info of replica.segments) {
      this.#counts.segments += 1;
      const before = this.#damageCount;
      await this.#guarded(info.key, () => this.#checkSegment(info), undefined);
      if (this.#damageCount > before) isWhole = false;
    }
    return isWhole;
  }

  async #checkSegment(info: SegmentInfo): Promise<void> {
    const { digest, store } = this.#ports;
    const bytes = await this.#retrier.run("check get", () => store.get(info.key));
    if (bytes === undefined) {
      this.#found(info.key, "it is missing", touched(info.firstKey, info.lastKey));
      return;
    }
    const footer = decodeFooter(bytes.subarray(info.footerOffset), info, digest);
    for (const [index, place] of footer.blocks.entries()) {
      const stored = bytes.subarray(place.offset, place.offset + place.length);
      try {
        decodeBlock(stored, place, { digest, codec: undefined, key: info.key });
      } catch (error) {
        if (!(error instanceof SporeError) || error.kind !== "corrupt") throw error;
        const [from = "", to = info.lastKey] = footer.firstKeys.slice(index, index + 2);
        this.#found(info.key, error.message, touched(from, to));
      }
    }
  }

  // ---------------------------------------------------------------- rows

  async #checkRows(replica: Replica, place: string): Promise<void> {
    let entity: { key: EntityKey; rows: [string, Uint8Array][] } | undefined;
    let after: string | undefined;
    for (let attempts = 0; ; ) {
      const range = { limit: rowsPerPage, ...(after === undefined ? {} : { after }) };
      let page: Awaited<ReturnType<Replica["scan"]>>;
      try {
        page = await replica.scan(range);
      } catch (error) {
        const isDamage = error instanceof SporeError && error.kind === "corrupt";
        if (!isDamage || attempts === attemptsMax || !(await replica.isStale())) throw error;
        attempts += 1;
        await replica.refresh();
        continue;
      }
      for (const [key, value] of page.entries) {
        this.#counts.rows += 1;
        after = key;
        const owner = key.startsWith("e/") ? entityOf(key) : undefined;
        if (entity !== undefined && entity.key !== owner) this.#checkEntity(entity, place);
        if (owner === undefined) entity = undefined;
        else if (entity?.key === owner) entity.rows.push([key, value]);
        else entity = { key: owner, rows: [[key, value]] };
        if (owner === undefined) this.#checkRow(key, value);
        this.#checkRefs(key, value);
      }
      if (page.isDone) break;
    }
    if (entity !== undefined) this.#checkEntity(entity, place);
  }

  #checkEntity(
    found: { readonly key: EntityKey; readonly rows: readonly [string, Uint8Array][] },
    place: string,
  ): void {
    const { key, rows } = found;
    let entity: Entity | undefined;
    try {
      entity = readEntity(key, rows, this.#ports.clock.nowMs());
    } catch (error) {
      if (!(error instanceof SporeError)) throw error;
      this.#found(`${place}: ${rowKeys.entity(key)}`, error.message, [nameOf(key)]);
      return;
    }
    // Rows without a head are what a deletion has not come to yet.
    if (entity === undefined) return;
    const { head } = entity;
    if (head.kind === "run") this.#counts.runs += 1;
    if (head.kind === "actor") this.#counts.actors += 1;
    if (head.imageVersion + entity.journal.length !== head.version) {
      const what = `version ${head.version} is not image ${head.imageVersion} and journal ${entity.journal.length}`;
      this.#found(`${place}: ${rowKeys.head(key)}`, what, [nameOf(key)]);
    }
    if (entity.image !== undefined) {
      this.#counts.images += 1;
      this.#checkImage(key, entity.image, place);
    }
    const isOver = head.kind === "run" && isClosed(head.status) && head.version === 0;
    const hasMachine = head.kind === "run" || head.kind === "actor";
    if (hasMachine && !isOver) this.#components.set(head.component, nameOf(key));
  }

  #checkImage(key: EntityKey, image: Uint8Array, place: string): void {
    try {
      checkImage(image, this.#ports.digest);
    } catch (error) {
      if (!(error instanceof SporeError) || error.kind !== "corrupt") throw error;
      this.#found(`${place}: ${rowKeys.image(key)}`, error.message, [nameOf(key)]);
    }
  }

  #checkRow(key: string, value: Uint8Array): void {
    if (value.length === 0) return;
    try {
      decode(value);
    } catch {
      this.#found(key, "the row is not CBOR");
    }
  }

  #checkRefs(key: string, value: Uint8Array): void {
    const names = [...refsIn(value), ...storedIn(value)];
    if (names.length === 0) return;
    const tenant = key.startsWith(rowKeys.outboxes)
      ? tenantOf(decodeRow<Message>(key, value).to)
      : key.split("/")[1];
    if (tenant === undefined) return;
    for (const name of names) {
      this.#objects.set(objectKey(this.#options.prefix, tenant, name), key);
    }
  }

  // ---------------------------------------------------------------- objects

  /** Each version; and what a tenant has deployed is needed, though no run has it yet. */
  async #checkRegisters(): Promise<void> {
    const { prefix } = this.#options;
    this.#options.onProgress?.("registers");
    const latest = new Map<string, Uint8Array>();
    for (const place of ["collections/", "layouts/", "tenants/"]) {
      for await (const { key } of listed(this.#ports.store, this.#retrier, prefix + place)) {
        const [, register = "", seq = ""] = registerVersion.exec(key) ?? [];
        if (seq === "") continue;
        const value = await this.#guarded(key, () => this.#version(register, seq), undefined);
        if (value !== undefined) latest.set(register, value);
      }
    }
    for (const [register, value] of latest) {
      const tenant = /\/?tenants\/([^/]+)\/deployments$/.exec(register)?.[1];
      if (tenant === undefined) continue;
      const { component } = decode(value) as { component: string }; // written by deployments.ts
      if (!this.#components.has(component)) this.#components.set(component, `tenant ${tenant}`);
    }
  }

  async #version(register: string, seq: string): Promise<Uint8Array> {
    const opened = new Register({ ...this.#ports, prefix: register });
    return (await opened.readVersion(Number.parseInt(seq, 16))).value;
  }

  async #checkComponents(): Promise<void> {
    const { prefix } = this.#options;
    this.#options.onProgress?.("components");
    const components = new Components(this.#ports.store, prefix, this.#retrier);
    for await (const { key } of listed(this.#ports.store, this.#retrier, `${prefix}components/`)) {
      const name = componentNameOf(key.slice(`${prefix}components/`.length));
      if (name === undefined) continue;
      const bytes = await this.#retrier.run("check get", () => this.#ports.store.get(key));
      if (bytes !== undefined && !this.#endsWithHash(bytes)) {
        this.#found(componentKey(prefix, name), "its hash does not fit");
      }
    }
    for (const [id, who] of this.#components) {
      try {
        await components.check(id);
      } catch (error) {
        if (!(error instanceof SporeError) || error.code !== "component-not-found") throw error;
        this.#found(`${prefix}components/${id}`, "it is missing", [who]);
      }
    }
  }

  async #checkObjects(): Promise<void> {
    this.#options.onProgress?.("objects");
    for (const [key, row] of this.#objects) {
      const bytes = await this.#retrier.run("check get", () => this.#ports.store.get(key));
      const name = key.slice(key.lastIndexOf("/") + 1);
      const who = entityOf(row);
      const touches = who === undefined ? undefined : [nameOf(who)];
      if (bytes === undefined) {
        // The row may be gone as well, and a collection have come by.
        this.#found(key, `it is missing; ${row} refers to it`, touches);
        continue;
      }
      this.#objectBytes += bytes.length;
      const isSound =
        isObjectName(name) && toHex(this.#ports.digest.sha256(bytes)) === hashOfName(name);
      if (!isSound) this.#found(key, "its bytes don't have its hash", touches);
    }
  }

  #endsWithHash(bytes: Uint8Array): boolean {
    const at = Math.max(0, bytes.length - 32);
    return isSameBytes(bytes.subarray(at), this.#ports.digest.sha256(bytes.subarray(0, at)));
  }
}

/** The entity of a row whose key has it in its second part. */
function entityOf(rowKey: string): EntityKey | undefined {
  const match = /^[ehgkb]\/([^/]+\/(?:r|s|q)\/[^/]+|[^/]+\/a\/[^/]+\/[^/]+)\//.exec(rowKey);
  return match?.[1] as EntityKey | undefined; // as rowKeys writes them
}

/** Runs, actors and schedules whose rows lie between these, as far as their names say. */
function touched(from: string, to: string): readonly string[] {
  const names = [from, to].map((key) => {
    const entity = entityOf(key);
    return entity === undefined ? key : nameOf(entity);
  });
  return [...new Set(names)];
}
