/**
 * Many runs from one: writes a run's rows again under other ids, as the partitions' owner
 * would, some 20,000 rows an entry. A million runs take minutes instead of hours, and are in
 * every byte but their names what the engine writes itself.
 */
import { clock, digest, random } from "../host/node.ts";
import { openStore } from "../host/store/open.ts";
import { decodeBatch, encodeBatch } from "../runtime/batch.ts";
import { decodeRow, encodeRow, hex, type Pending, rowKeys } from "../runtime/format.ts";
import { partitionOf, runKey } from "../runtime/ids.ts";
import { Log } from "../runtime/log.ts";
import { Table } from "../runtime/table.ts";

export interface Copies {
  readonly folder: string;
  readonly partitions: number;
  /** Id of the run that is copied; must not be a part of any other word in its rows' names. */
  readonly template: string;
  readonly from: number;
  readonly to: number;
  readonly idOf: (index: number) => string;
  /** When its timer is due; default: as the template's. */
  readonly atMs?: (index: number) => number;
}

const rowsPerEntry = 20_000;
const bytesPerCheckpoint = 64 * 1024 * 1024;
const observer = { log() {}, count() {}, observe() {} };

type Row = readonly [key: string, value: Uint8Array];

/** The storage has no owner meanwhile. */
export async function makeCopies(copies: Copies): Promise<void> {
  const { folder, partitions, template, from, to, idOf } = copies;
  const store = await openStore(`file:${folder}`);
  const owners: Owner[] = [];
  for (let partition = 0; partition < partitions; partition++) {
    const owner = new Owner(store, partition);
    await owner.open();
    owners.push(owner);
  }
  const rows = (await Promise.all(owners.map((owner) => owner.rowsOf(template)))).flat();
  if (rows.length === 0) throw new Error(`there is no run ${template}`);
  for (let index = from; index < to; index++) {
    const id = idOf(index);
    const owner = owners[partitionOf(runKey("default", id), partitions)];
    for (const row of rows) owner?.add(copyOf(row, { ...copies, id, index }));
    if (owner?.isFull === true) await owner.write();
  }
  for (const owner of owners) await owner.close();
  await store.close();
}

function copyOf([key, value]: Row, copy: Copies & { readonly id: string; index: number }): Row {
  const named = key.replaceAll(copy.template, copy.id);
  const atMs = copy.atMs?.(copy.index);
  if (atMs === undefined) return [named, value];
  if (key.startsWith(rowKeys.timers)) return [`t/${hex(atMs, 12)}${named.slice(14)}`, value];
  if (!/\/c\/[0-9a-f]+$/.test(key)) return [named, value];
  const pending = decodeRow<Pending>(key, value);
  return [named, pending.kind === "timer" ? encodeRow({ ...pending, atMs }) : value];
}

/** Owns one partition for as long as it writes. */
class Owner {
  readonly #log: Log;
  readonly #store: Awaited<ReturnType<typeof openStore>>;
  readonly #prefix: string;
  #table: Table | undefined;
  #rows = new Map<string, Uint8Array>();
  #bytes = 0;

  constructor(store: Awaited<ReturnType<typeof openStore>>, partition: number) {
    this.#store = store;
    this.#prefix = `p/${partition}`;
    this.#log = new Log({
      store,
      prefix: this.#prefix,
      partition,
      random,
      digest,
      clock,
      observer,
    });
  }

  get isFull(): boolean {
    return this.#rows.size >= rowsPerEntry;
  }

  async open(): Promise<void> {
    const claim = await this.#log.claim(encodeRow({ hostId: "copies" }));
    if (claim.kind !== "claimed") throw new Error("somebody serves the storage");
    const { epoch, checkpoint, entries } = claim;
    const parts = { store: this.#store, prefix: this.#prefix, epoch };
    this.#table = Table.open({ ...parts, random, digest, clock, observer }, checkpoint);
    for (const { payload } of entries) this.#table.apply(decodeBatch(payload));
    // The copies have all rows that a run has: what the template's partition says is true here.
    this.add([rowKeys.indexedFrom, encodeRow(0)]);
  }

  async rowsOf(id: string): Promise<readonly Row[]> {
    const found: Row[] = [];
    const kinds = ["e/", "h/", rowKeys.timers, "x/", "a/", "g/", "y/"];
    for (const kind of kinds) {
      const prefixes = kind === "e/" || kind === "h/" ? [`${kind}default/r/${id}/`] : [kind];
      for (const prefix of prefixes) {
        const page = await this.#table?.scan({ prefix, limit: 10_000 });
        for (const row of page?.entries ?? [])
          if (row[0].endsWith(id) || row[0].includes(`${id}/`)) found.push(row);
      }
    }
    return found;
  }

  add([key, value]: Row): void {
    this.#rows.set(key, value);
  }

  async write(): Promise<void> {
    if (this.#rows.size === 0) return;
    const payload = encodeBatch(this.#rows);
    await this.#append("batch", payload);
    this.#table?.apply(this.#rows);
    this.#rows = new Map();
    this.#bytes += payload.length;
    if (this.#bytes >= bytesPerCheckpoint) await this.#checkpoint();
  }

  async close(): Promise<void> {
    await this.write();
    await this.#checkpoint();
    this.#log.close();
    this.#table?.close();
  }

  async #checkpoint(): Promise<void> {
    const table = this.#table;
    if (table === undefined) return;
    this.#bytes = 0;
    await table.flush();
    while (await table.compact());
    const { bytes, generation } = table.checkpoint();
    await this.#append("checkpoint", bytes);
    await table.commit(generation);
    await this.#log.truncate();
  }

  async #append(kind: "batch" | "checkpoint", payload: Uint8Array): Promise<void> {
    const result = await this.#log.append(kind, payload);
    if (result.kind !== "written") throw new Error("somebody took the partition over");
  }
}
