/**
 * The laws, as named predicates over what happens. `Laws` reads every log entry as it is
 * created in the bucket and keeps what is durable from it (the truth), so that an answer,
 * an effect or a write is judged at the moment it happens:
 *
 * L-writer     (I2) an entry after the tail is a claim, or its writer is the owner.
 * L-acked      (I2) an acknowledged batch is the one that stands in the log.
 * L-gate       (I3) an effect leaves only when its command is durable.
 * L-once       (I1) an effect of a step whose success is durable is not performed again.
 * L-attempt    (I1) an attempt with a durable result is not performed again.
 * L-told       (I3) what a client is told is durable at that moment (`told`).
 * L-rebuilt    (I5) a rebuilt memory gives the answers that the journal has, so a race between a
 *              signal, a timer and an answer is decided by their places in the log (sandbox.ts).
 * L-cursor     (I4) how far the messages of a partition are applied only rises.
 * L-outbox     (I4) a message leaves its outbox only when it is durable at its target.
 * L-journal    (I8) a durable journal is never longer than what makes an image due.
 * L-flat       (I8) a wake-up costs the same late, and beside many sleepers (flat.ts).
 * L-idle       (I8) what nobody waits for leaves memory (run.ts).
 * L-passed     (I2) a base is marked as passed before it has a successor, or its layout is left.
 * L-schedule   a schedule whose runs come one after the other never has two (schedule-laws.ts).
 * L-kept       an object is deleted only if no durable row has a Ref to it.
 * L-freed      (I3) what a recovery needs is in the bucket (end.ts).
 *
 * The clients' own laws (what was acknowledged stays, in order and once) are in jobs.ts.
 */
import { createHash } from "node:crypto";
import { decode } from "../../guest/cbor.ts";
import type { FetchRequest, StepRecord } from "../../guest/protocol.ts";
import { decodeBatch } from "../../runtime/batch.ts";
import { ByteReader } from "../../runtime/bytes.ts";
import { decodeEntry } from "../../runtime/entry.ts";
import {
  decodeRow,
  type HistoryRow,
  type JournalRow,
  type Pending,
  rowKeys,
} from "../../runtime/format.ts";
import { actorKey, type EntityKey, partitionOf, runKey } from "../../runtime/ids.ts";
import { partitionLimits } from "../../runtime/partition.ts";
import type { OutboundContext, PutResult } from "../../runtime/ports.ts";
import { seqText } from "../../runtime/tail.ts";
import { QueueLaws } from "./queue-laws.ts";
import { ScheduleLaws } from "./schedule-laws.ts";
import type { SimHost, World } from "./world.ts";

export interface Violation {
  readonly law: string;
  readonly message: string;
  readonly atMs: number;
}

interface Truth {
  seq: number;
  owner: string;
  epoch: number;
  /** The newest checkpoint. */
  base: number;
  /** Hash of the entry at each place, as first created. */
  readonly hashes: Map<number, string>;
  readonly rows: Map<string, Uint8Array>;
}

const digest = {
  sha256: (bytes: Uint8Array) => new Uint8Array(createHash("sha256").update(bytes).digest()),
};

export class Laws {
  readonly violations: Violation[] = [];
  readonly #world: World;
  /** Logs by their folder and partition. */
  readonly #truths = new Map<string, Truth>();
  #layout: { readonly folder: string; readonly partitions: number };
  /** `<entity>|<attempt of the run>/<step>` whose success is durable. */
  readonly #succeeded = new Set<string>();
  /** Sizes of the durable activations, per entity. */
  readonly #journals = new Map<string, Map<string, number>>();
  readonly #grown = new Set<string>();
  readonly #lives = new Map<string, number>();
  /** How often an entity was begun under its key. */
  readonly #starts = new Map<string, number>();
  /** Times that steps were seen for L-once, per prefix. */
  staleEffects = 0;
  /** Keys of entities that nobody makes: L-ghost. */
  readonly ghosts = new Set<string>();
  readonly queues = new QueueLaws(this);
  readonly schedules = new ScheduleLaws(this);

  constructor(world: World) {
    this.#world = world;
    this.#layout = { folder: "p", partitions: world.options.partitions };
  }

  /** When it is, and how often a log has changed hands. */
  get moment(): { readonly atMs: number; readonly owners: number } {
    return { atMs: this.#world.nowMs, owners: this.#world.counts.get("claims") ?? 0 };
  }

  violate(law: string, message: string): void {
    this.#world.trace(`VIOLATION ${law}: ${message}`);
    this.violations.push({ law, message, atMs: this.#world.nowMs });
  }

  check(condition: boolean, law: string, message: string): void {
    if (!condition) this.violate(law, message);
  }

  hostError(host: SimHost, message: string, fields: Readonly<Record<string, unknown>>): void {
    if (fields["code"] === "partition-moved") return;
    this.violate("no-fault", `${host.id}: ${message} ${String(fields["stack"] ?? "")}`);
  }

  // ---------------------------------------------------------------- the truth

  /** In the layout that holds, unless it says another folder. */
  truth(partition: number, folder = this.#layout.folder): Truth {
    const name = `${folder}/${partition}`;
    const known = this.#truths.get(name);
    if (known !== undefined) return known;
    const fresh: Truth = {
      seq: 0,
      owner: "",
      epoch: 0,
      base: 0,
      hashes: new Map(),
      rows: new Map(),
    };
    this.#truths.set(name, fresh);
    return fresh;
  }

  truthOf(key: EntityKey): Truth {
    return this.truth(partitionOf(key, this.#layout.partitions));
  }

  /** The layout that holds, by what is in the bucket. */
  get layout(): { readonly folder: string; readonly partitions: number } {
    return this.#layout;
  }

  get partitions(): number[] {
    return Array.from({ length: this.#layout.partitions }, (_, index) => index);
  }

  startsOf(entity: string): number {
    return this.#starts.get(entity) ?? 0;
  }

  rowsBelow(key: EntityKey, prefix: string): string[] {
    return [...this.truthOf(key).rows.keys()].filter((rowKey) => rowKey.startsWith(prefix));
  }

  /** What there is of an entity: its rows, and what would be done with it. */
  leftOf(key: EntityKey): string[] {
    return [...this.truthOf(key).rows.keys()].filter((row) => {
      if (row.startsWith("t/")) return row.endsWith(`/${key}`);
      return (
        row === `a/${key}` ||
        (/^[ehkg]$/.test(row.split("/")[0] ?? "") && row.startsWith(`${row[0]}/${key}/`))
      );
    });
  }

  written(host: SimHost, key: string, bytes: Uint8Array): void {
    if (key.startsWith("layouts/")) this.#moves(layoutOf(bytes));
    const match = logKey.exec(key);
    if (match === null) return;
    const folder = match[1] ?? "";
    const partition = Number(match[2]);
    const truth = this.truth(partition, folder);
    const seq = seqOf(bytes);
    const entry = decodeEntry(bytes, { key, partition, seq }, digest);
    if (seq <= truth.seq) {
      // Litter in a place that was freed; harmless if nobody is told that it counts.
      this.#world.count("litter");
      return;
    }
    this.check(seq === truth.seq + 1, "L-writer", `${key} by ${host.id} leaves a gap`);
    if (entry.kind === "claim") {
      truth.owner = host.id;
      truth.epoch = seq;
      this.#world.count("claims");
    } else if (entry.epoch !== truth.epoch) {
      this.violate("L-writer", `${key} by ${host.id} of epoch ${entry.epoch}, now ${truth.epoch}`);
    }
    truth.seq = seq;
    truth.hashes.set(seq, hexOf(entry.hash));
    if (entry.kind === "batch") {
      this.#world.count("commits");
      this.#world.count("commit bytes", entry.payload.length);
      for (const [rowKey, value] of decodeBatch(entry.payload)) {
        if (folder !== this.#layout.folder) {
          // A copy for a layout that isn't one yet: what happened has been judged.
          if (value === undefined) truth.rows.delete(rowKey);
          else truth.rows.set(rowKey, value.slice());
          continue;
        }
        this.#message(partition, truth, rowKey, value);
        this.#row(truth, rowKey, value);
        this.#journal(truth, rowKey, value);
      }
      this.queues.batch();
      for (const entity of this.#grown) this.#checkJournal(entity);
      this.#grown.clear();
    }
    if (entry.kind !== "checkpoint") return;
    this.#world.count("checkpoints");
    this.#passed(`${folder}/${partition}`, truth.base);
    truth.base = seq;
  }

  #moves(layout: { readonly folder: string; readonly partitions: number }): void {
    if (layout.folder !== this.#layout.folder) {
      for (const partition of this.partitions) {
        this.#passed(`${this.#layout.folder}/${partition}`, this.truth(partition).base);
      }
    }
    this.#layout = layout;
  }

  /** tail.ts T3: what followers conclude from, and nothing but time would tell. */
  #passed(place: string, base: number): void {
    const mark = `${place}/passed/${seqText(base)}`;
    this.check(this.#world.bucket.objects.has(mark), "L-passed", `${mark} is missing`);
  }

  #message(source: number, truth: Truth, rowKey: string, value: Uint8Array | undefined): void {
    const before = truth.rows.get(rowKey);
    if (rowKey.startsWith(rowKeys.inboxes) && before !== undefined && value !== undefined) {
      const from = decodeRow<number>(rowKey, before);
      const to = decodeRow<number>(rowKey, value);
      this.check(
        to >= from,
        "L-cursor",
        `${rowKey} of partition ${source} falls to ${to}, ${from}`,
      );
    }
    if (!rowKey.startsWith(rowKeys.outboxes) || before === undefined || value !== undefined) return;
    const target = Number.parseInt(rowKey.slice(2, 6), 16);
    if (target === source) return;
    const index = Number.parseInt(rowKey.slice(7), 16);
    const inboxKey = rowKeys.inbox(source);
    const cursor = this.truth(target).rows.get(inboxKey);
    const applied = cursor === undefined ? 0 : decodeRow<number>(inboxKey, cursor);
    const what = `message ${index} of ${source} to ${target}`;
    this.check(applied >= index, "L-outbox", `${what} is dropped, ${applied} are applied`);
  }

  #row(truth: Truth, rowKey: string, value: Uint8Array | undefined): void {
    this.queues.row(truth.rows.get(rowKey), rowKey, value);
    this.schedules.row(rowKey, value);
    for (const ghost of this.ghosts) {
      const isIts = rowKey.startsWith(`e/${ghost}/`) || rowKey.startsWith(`h/${ghost}/`);
      this.check(!isIts, "L-ghost", `${rowKey} is written, and nobody made ${ghost}`);
    }
    if (value === undefined) truth.rows.delete(rowKey);
    else truth.rows.set(rowKey, value.slice());
    if (rowKey.startsWith("h/") && value !== undefined) this.#history(rowKey, value);
  }

  #journal(truth: Truth, rowKey: string, value: Uint8Array | undefined): void {
    const at = rowKey.indexOf("/j/");
    if (!rowKey.startsWith("e/") || at < 0) return;
    const entity = rowKey.slice(0, at + 3);
    const journal = this.#journals.get(entity) ?? new Map<string, number>();
    this.#journals.set(entity, journal);
    if (value === undefined) journal.delete(rowKey);
    else
      journal.set(
        rowKey,
        decodeRow<JournalRow>(rowKey, truth.rows.get(rowKey) ?? value).activation.length,
      );
    if (value !== undefined) this.#grown.add(entity);
  }

  /** Two activations more: the one that passes the limit, and the one after which is the image. */
  #checkJournal(entity: string): void {
    const sizes = [...(this.#journals.get(entity)?.values() ?? [])];
    const sum = sizes.reduce((bytes, size) => bytes + size, 0);
    const { imageAfterBytes = partitionLimits.imageAfterBytes } = this.#world.options.limits;
    const most = imageAfterBytes + 2 * Math.max(...sizes);
    this.check(sum <= most, "L-journal", `${entity} takes ${sum} bytes, ${most} at most`);
  }

  #history(rowKey: string, value: Uint8Array): void {
    const entity = rowKey.slice(2, rowKey.lastIndexOf("/"));
    for (const item of decodeRow<HistoryRow>(rowKey, value).events) {
      if (item.kind === "record") {
        const record = recordOf(item.record);
        if (record?.event !== "succeeded") continue;
        this.#succeeded.add(`${entity}|${this.#lives.get(entity) ?? 1}/${record.step}`);
      } else if (item.type === "run.continued") {
        this.#lives.set(entity, Number(item.data["attempt"]));
      } else if (item.type === "turn.succeeded" || item.type === "turn.failed") {
        this.#lives.set(entity, (this.#lives.get(entity) ?? 1) + 1);
      } else if (item.type === "run.started" || item.type === "actor.created") {
        this.#lives.delete(entity);
        this.#starts.set(entity, this.startsOf(entity) + 1);
        for (const name of this.#succeeded) {
          if (name.startsWith(`${entity}|`)) this.#succeeded.delete(name);
        }
      }
    }
  }

  deleted(host: SimHost, key: string): void {
    // What a log or a table needs is judged by what a recovery finds.
    const name = /^objects\/[^/]+\/(.+)$/.exec(key)?.[1];
    if (name === undefined) return;
    for (const partition of this.partitions) {
      const truth = this.truth(partition);
      for (const [rowKey, bytes] of truth.rows) {
        if (!hasName(bytes, name)) continue;
        this.violate("L-kept", `${host.id} deletes ${key}, of which ${rowKey} speaks`);
      }
    }
  }

  putAnswered(host: SimHost, key: string, bytes: Uint8Array, result: PutResult): void {
    const match = logKey.exec(key);
    if (match === null || result !== "created") return;
    const folder = match[1] ?? "";
    const partition = Number(match[2]);
    const seq = seqOf(bytes);
    const entry = decodeEntry(bytes, { key, partition, seq }, digest);
    if (entry.kind === "claim") return; // may be late: the claimer finds out
    const stands = this.truth(partition, folder).hashes.get(seq);
    this.check(
      stands === hexOf(entry.hash),
      "L-acked",
      `${host.id} was told that ${key} is its own`,
    );
  }

  // ---------------------------------------------------------------- effects

  effectStarts(host: SimHost, request: FetchRequest, context: OutboundContext): void {
    const key = this.#entityOf(context);
    const truth = this.truthOf(key);
    if (truth.owner !== host.id) {
      // A host that doesn't know yet that it was replaced: the service's key protects.
      this.#world.count("effects of zombies");
      return;
    }
    const commands = this.rowsBelow(key, `${rowKeys.entity(key)}c/`);
    const isDurable = commands.some((rowKey) => {
      const bytes = truth.rows.get(rowKey);
      if (bytes === undefined) return false;
      const pending = decodeRow<Pending>(rowKey, bytes);
      return pending.kind === "fetch" && pending.request.url === request.url;
    });
    this.check(isDurable, "L-gate", `${host.id} performs ${request.url}, which isn't durable`);
    const url = new URL(request.url);
    if (url.hostname !== "ledger") return;
    const [, attempt = "", step = ""] =
      /^.*\/(\d+)\/([^/]+)$/.exec(decodeURIComponent(url.pathname)) ?? [];
    const name = `${key}|${attempt}/${step}`;
    this.check(!this.#succeeded.has(name), "L-once", `${host.id} performs ${name} again`);
  }

  #entityOf(context: OutboundContext): EntityKey {
    const slash = context.runId.indexOf("/");
    return slash < 0
      ? runKey(context.tenant, context.runId)
      : actorKey(context.tenant, context.runId.slice(0, slash), context.runId.slice(slash + 1));
  }
}

/** In a Ref, the name's length stands before it. */
function hasName(bytes: Uint8Array, name: string): boolean {
  return Buffer.from(bytes).includes(Buffer.from(`Refx${String.fromCharCode(name.length)}${name}`));
}

function seqOf(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(16, true);
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

const logKey = /^(p[a-z0-9-]*)\/(\d+)\/log\/[^/]+$/;

/** A version of the register (FORMAT 4): after its head come the length of the value and the value. */
function layoutOf(bytes: Uint8Array): { readonly folder: string; readonly partitions: number } {
  const reader = new ByteReader(bytes);
  reader.raw(21); // magic, version and nonce
  return decode(reader.bytes()) as { folder: string; partitions: number };
}

/** Undefined: of a guest that forges them. */
function recordOf(bytes: Uint8Array): StepRecord | undefined {
  try {
    return decode(bytes) as StepRecord | undefined;
  } catch {
    return undefined;
  }
}
