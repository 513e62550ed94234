/**
 * Copies a namespace from one store into another, as of one moment, while hosts serve it.
 *
 * D1 The rows of all partitions are those of one consistent cut (cut.ts). Each partition gets a
 *    log of its own: a claim, and a checkpoint that has the cut's rows and names the segments.
 *    Nothing else of the old log is needed (log.ts L4).
 * D2 Everything else is copied under its name, after the cut was made, so that what its rows
 *    refer to is there. Names stand for their bytes, so what an earlier attempt has copied stays.
 * D3 The target is marked `incomplete` from before its first object to after its last: no host
 *    begins on it (namespace.ts), and only a copy may go on with it. Before the mark goes, all of
 *    the target is read and checked (check.ts).
 * D4 An owner that merges segments away under the copy makes it begin anew, with a later cut.
 * D5 The log is read whole, too: what is damaged besides what the cut needs is told, and entries
 *    that the search for its end misses would be missing in the copy, so there is none then.
 */
import { check, listed, readEntries } from "./check.ts";
import { align } from "./cut.ts";
import { Entries } from "./entries.ts";
import { encodeEntry, hashBytes, nonceBytes } from "./entry.ts";
import { SporeError } from "./errors.ts";
import { encodeRow } from "./format.ts";
import type { CheckReport, CopyReport, Damage } from "./index.ts";
import type { Layout } from "./layout.ts";
import { findNamespace, incompleteKey, openCopy } from "./namespace.ts";
import type { Ports, Store } from "./ports.ts";
import { Replica } from "./replica.ts";
import { Retrier } from "./retry.ts";
import { seqText } from "./tail.ts";

export type CopyPorts = Pick<Ports, "random" | "digest" | "clock" | "observer">;

export interface CopyOptions {
  readonly source: Store;
  readonly target: Store;
  /** Told after each object. */
  readonly onProgress?: ((copied: { objects: number; bytes: number }) => void) | undefined;
}

/** What belongs to hosts, to other layouts' partitions, or to a test of the bucket. */
const notCopied = /^(?:p[a-z0-9-]*|hosts|probe|doctor)\//;
const attemptsMax = 10;
/** Objects at once; large ones go alone. */
const parallelMax = 8;
const largeBytes = 16 * 1024 * 1024;

interface Listed {
  readonly key: string;
  readonly size: number;
}

/** Throws storage-in-use if the target has a namespace, corrupt-log if the source has none. */
export async function copyNamespace(ports: CopyPorts, options: CopyOptions): Promise<CopyReport> {
  return new Copy(ports, options).run();
}

class Copy {
  readonly #ports: CopyPorts;
  readonly #options: CopyOptions;
  readonly #retrier: Retrier;
  /** In the target, with their sizes. */
  readonly #there = new Map<string, number>();
  #objects = 0;
  #bytes = 0;
  #kept = 0;
  #damages: Damage[] = [];

  constructor(ports: CopyPorts, options: CopyOptions) {
    this.#ports = ports;
    this.#options = options;
    this.#retrier = new Retrier(ports.clock, ports.observer);
  }

  async run(): Promise<CopyReport> {
    const { source, target } = this.#options;
    const layouts = await findNamespace({ ...this.#ports, store: source, prefix: "" });
    await openCopy(target, { atMs: this.#ports.clock.nowMs() });
    for await (const { key, size } of listed(target, this.#retrier, "")) this.#there.set(key, size);
    const layout = await layouts.current();
    const payloads = await this.#tables(layout);
    const keys: Listed[] = [];
    for await (const found of listed(source, this.#retrier, "")) {
      if (!notCopied.test(found.key)) keys.push(found);
    }
    await this.#copyAll(keys);
    if ((await layouts.current()).number !== layout.number) {
      throw new SporeError("host-busy", "the number of partitions was changed under the copy", {
        hint: "Copy again; it goes on with what is there.",
      });
    }
    for (const [partition, payload] of payloads.entries()) {
      await this.#writeLog(`${layout.folder}/${partition}`, partition, payload);
    }
    const report = await this.#check();
    if (!report.isSound) {
      const [first] = report.damages;
      throw new SporeError("corrupt-log", `the copy isn't sound: ${first?.key} ${first?.what}`, {
        hint: "spore verify says what the source lacks; a copy may also be begun again.",
      });
    }
    await target.delete(incompleteKey);
    const { runs, actors, rows } = report;
    const { partitions } = layout;
    const [objects, bytes, alreadyThere] = [this.#objects, this.#bytes, this.#kept];
    const damages = this.#damages;
    return { objects, bytes, alreadyThere, damages, partitions, runs, actors, rows };
  }

  /** D1: the checkpoints of one moment, whose segments are in the target. */
  async #tables(layout: Layout): Promise<Uint8Array[]> {
    for (let attempt = 1; ; attempt += 1) {
      const replicas: Replica[] = [];
      for (let partition = 0; partition < layout.partitions; partition += 1) {
        const prefix = `${layout.folder}/${partition}`;
        const { source: store } = this.#options;
        replicas.push(await Replica.open({ ...this.#ports, store, prefix, partition }));
      }
      try {
        const [imbalance] = await align(replicas);
        if (imbalance !== undefined) throw new SporeError("corrupt-log", imbalance.what);
        // Before the segments: they are those that this names.
        const payloads = replicas.map((replica) => replica.checkpoint());
        for (const { segments } of replicas) {
          await this.#copyAll(segments.map(({ key, bytes }) => ({ key, size: bytes })));
        }
        await this.#lookBesides(replicas, layout);
        return payloads;
      } catch (error) {
        const isDamage = error instanceof SporeError && error.kind === "corrupt";
        const stale = await Promise.all(replicas.map((replica) => replica.isStale()));
        if (!isDamage || !stale.includes(true) || attempt === attemptsMax) throw error; // D4
      }
    }
  }

  /** D5. Throws corrupt-log if there are entries that the cut should have had. */
  async #lookBesides(replicas: readonly Replica[], layout: Layout): Promise<void> {
    this.#damages = [];
    for (const replica of replicas) {
      const place = `${layout.folder}/${replica.partition}`;
      const ports = { ...this.#ports, store: this.#options.source };
      const { damages, hidden } = await readEntries(ports, replica, place);
      if (hidden !== undefined) {
        throw new SporeError("corrupt-log", `${place}: ${hidden}`, {
          hint: "The copy would lack them. Restore the object that is missing between them.",
        });
      }
      this.#damages.push(...damages);
    }
  }

  async #copyAll(all: readonly Listed[]): Promise<void> {
    const small = all.filter(({ size }) => size <= largeBytes);
    for (let at = 0; at < small.length; at += parallelMax) {
      await Promise.all(small.slice(at, at + parallelMax).map((each) => this.#copy(each)));
    }
    for (const each of all) if (each.size > largeBytes) await this.#copy(each);
  }

  async #copy({ key, size }: Listed): Promise<void> {
    const { source, target, onProgress } = this.#options;
    // D2: a map alone may have other bytes under its name, and of what an attempt began to copy
    // there is all or nothing.
    if (this.#there.get(key) === size && !key.includes("/maps/")) {
      this.#kept += 1;
      return;
    }
    const bytes = await this.#retrier.run("copy get", () => source.get(key));
    if (bytes === undefined) {
      // A segment that is gone makes the cut void; of the rest, the check finds what is needed.
      if (key.includes("/table/")) throw new SporeError("corrupt-segment", `${key} is gone`);
      return;
    }
    await this.#retrier.run("copy put", () => target.put(key, bytes));
    this.#there.set(key, bytes.length);
    this.#objects += 1;
    this.#bytes += bytes.length;
    onProgress?.({ objects: this.#objects, bytes: this.#bytes });
  }

  /** D1. Nobody reads the log of an incomplete copy, so an earlier attempt's is overwritten. */
  async #writeLog(place: string, partition: number, checkpoint: Uint8Array): Promise<void> {
    const { random, digest } = this.#ports;
    const common = { partition, epoch: 1, freedTo: 0 };
    const claim = encodeEntry(
      {
        ...common,
        kind: "claim",
        seq: 1,
        base: 0,
        nonce: random.bytes(nonceBytes),
        previous: new Uint8Array(hashBytes),
      },
      encodeRow({ hostId: "copy" }),
      digest,
    );
    const entry = encodeEntry(
      {
        ...common,
        kind: "checkpoint",
        seq: 2,
        base: 2,
        nonce: random.bytes(nonceBytes),
        previous: claim.hash,
      },
      checkpoint,
      digest,
    );
    const { target } = this.#options;
    // A base has a mark before it has a successor (tail.ts T3), also one that nobody follows.
    await new Entries({ store: target, prefix: place, partition, digest }, this.#retrier).pass(0);
    for (const [seq, { bytes }] of [
      [1, claim],
      [2, entry],
    ] as const) {
      const key = `${place}/log/${seqText(seq)}`;
      await this.#retrier.run("copy log", () => target.put(key, bytes));
      this.#objects += 1;
      this.#bytes += bytes.length;
    }
  }

  /** D3. */
  async #check(): Promise<CheckReport> {
    const ports = { ...this.#ports, store: this.#options.target };
    const layouts = await findNamespace({ ...ports, prefix: "" }, { isCopy: true });
    return check(ports, { prefix: "", layouts });
  }
}
