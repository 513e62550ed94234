/** docs/FORMAT.md against the code that writes and reads the bucket. */
import { describe, expect, it } from "vitest";
import { decode } from "../../guest/cbor.ts";
import { decodeBatch, encodeBatch } from "../../runtime/batch.ts";
import { decodeEntry, type EntryKind, encodeEntry } from "../../runtime/entry.ts";
import { indexOfName, rowKeys } from "../../runtime/format.ts";
import { runKey } from "../../runtime/ids.ts";
import { openImage, restoreImage } from "../../runtime/image.ts";
import { decodeBlock, decodeFooter } from "../../runtime/segment.ts";
import {
  digest,
  exampleBase,
  exampleEntry,
  exampleImage,
  exampleMemory,
  exampleOf,
  exampleRows,
  exampleSegment,
  examples,
  hexOf,
  openTable,
  plainCodec,
  readDocument,
  tableOf,
} from "./examples.ts";

const format = readDocument("FORMAT.md");

function example(name: string): Uint8Array {
  return new Uint8Array(Buffer.from(exampleOf(format, name), "hex"));
}

describe("an example in FORMAT", () => {
  it("is what the code writes, and every block of bytes is one", async () => {
    const written = await examples();
    const shown = [...format.matchAll(/^```hex (\S+)$/gm)].map(([, name]) => name);
    expect(shown.toSorted()).toEqual([...written.keys()].toSorted());
    for (const [name, bytes] of written) {
      expect(exampleOf(format, name), name).toBe(hexOf(bytes));
    }
  });

  it("of a log entry is read as that entry, and no changed byte of it is", () => {
    const place = { key: "p/3/log/0000000000000002", partition: 3, seq: 2 };
    const bytes = example("entry");
    const entry = decodeEntry(bytes, place, digest);
    expect(entry).toMatchObject(exampleEntry);
    expect(decodeBatch(entry.payload)).toEqual(exampleRows);
    for (let at = 0; at < bytes.length; at += 1) {
      const changed = bytes.slice();
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(() => decodeEntry(changed, place, digest), `byte ${at}`).toThrowError("is damaged");
    }
  });

  it("of a batch, a checkpoint and a namespace are read as what the text says", async () => {
    expect(decodeBatch(example("batch"))).toEqual(exampleRows);
    expect(decode(example("namespace"))).toEqual({ version: 1, partitions: 4 });
    const table = openTable(example("checkpoint"));
    const { entries } = await table.scan();
    expect(entries).toEqual([...exampleRows].filter(([, value]) => value !== undefined));
  });

  it("of a segment has its footer where the text says", () => {
    const { info } = exampleSegment();
    const bytes = example("segment");
    expect(format).toContain(`its footer begins at byte ${info.footerOffset}:`);
    const footer = decodeFooter(bytes.subarray(info.footerOffset), info, digest);
    const [place] = footer.blocks;
    if (place === undefined) throw new Error("a segment has a block");
    const options = { key: info.key, digest, codec: undefined };
    const stored = bytes.subarray(place.offset, place.offset + place.length);
    const { keys, values } = decodeBlock(stored, place, options);
    expect(keys.map((key, at) => [key, values[at]])).toEqual([...exampleRows]);
  });

  it("of an image's header belongs to an image that gives the memory back", () => {
    const image = exampleImage();
    image.set(example("image-header"), 0);
    expect(openImage(image, exampleBase, plainCodec).pages).toBe(1);
    const memory = new Uint8Array(65_536).fill(9);
    restoreImage(image, memory, exampleBase, plainCodec);
    expect(memory).toEqual(exampleMemory);
  });
});

describe("offsets in FORMAT", () => {
  /** First column of the table below a heading, where it is a number. */
  function offsetsBelow(heading: string): Map<string, number> {
    const section = format.slice(format.indexOf(`\n${heading}\n`));
    const rows = tableOf(section, "| offset | bytes | field |");
    return new Map(rows.map(([offset = "", , field = ""]) => [field, Number(offset)]));
  }

  it("are those of a log entry", () => {
    const offsets = offsetsBelow("## 5 Log entries");
    const bytes = example("entry");
    const view = new DataView(bytes.buffer);
    const at = (field: string): number => {
      const found = [...offsets].find(([name]) => name.startsWith(field));
      if (found === undefined) throw new Error(`there is no field ${field}`);
      return found[1];
    };
    expect(view.getUint32(at("partition"), true)).toBe(exampleEntry.partition);
    expect(view.getBigUint64(at("seq"), true)).toBe(2n);
    expect(view.getBigUint64(at("epoch"), true)).toBe(1n);
    expect(bytes.subarray(at("nonce"), at("nonce") + 16)).toEqual(exampleEntry.nonce);
    expect(bytes.subarray(at("hash of the entry before")).subarray(0, 32)).toEqual(
      exampleEntry.previous,
    );
    expect(view.getUint32(at("n,"), true)).toBe(encodeBatch(exampleRows).length);
    expect(bytes.subarray(at("payload"), -32)).toEqual(encodeBatch(exampleRows));
  });

  it("leave no gap and no overlap", () => {
    for (const heading of ["## 3 Components", "## 5 Log entries", "## 9 Images"]) {
      const section = format.slice(format.indexOf(`\n${heading}\n`));
      let next = 0;
      for (const [offset, bytes] of tableOf(section, "| offset | bytes | field |")) {
        if (offset?.includes("n")) break;
        expect(Number(offset), heading).toBe(next);
        next += Number(bytes);
      }
    }
  });

  it("name the kinds of entries by their numbers", () => {
    const kinds: readonly EntryKind[] = ["claim", "batch", "checkpoint"];
    for (const [at, kind] of kinds.entries()) {
      const { bytes } = encodeEntry({ ...exampleEntry, kind }, new Uint8Array(0), digest);
      expect(format).toContain(`${bytes[5]} ${kind}`);
      expect(bytes[5]).toBe(at + 1);
    }
  });
});

describe("row keys in FORMAT", () => {
  const key = runKey("acme", "a1");
  /** Each function of `rowKeys` with arguments that can be told apart. */
  const written: Readonly<Record<keyof typeof rowKeys, string>> = {
    entity: rowKeys.entity(key),
    event: rowKeys.event(key, 26),
    head: rowKeys.head(key),
    command: rowKeys.command(key, 26),
    call: rowKeys.call(key, 26),
    image: rowKeys.image(key),
    journal: rowKeys.journal(key, 26),
    mail: rowKeys.mail(key, 26),
    input: rowKeys.input(key, 26),
    state: rowKeys.state(key),
    member: rowKeys.member(key, 26),
    reminder: rowKeys.reminder(key, "a1"),
    signal: rowKeys.signal(key, 26),
    session: rowKeys.session(key, "s1"),
    previous: rowKeys.previous(key),
    watcher: rowKeys.watcher(key, 26),
    hold: rowKeys.hold(key, "ab".repeat(32)),
    heldBy: rowKeys.heldBy(key),
    held: rowKeys.held,
    history: rowKeys.history(key, 26),
    historyOf: rowKeys.historyOf(key),
    published: rowKeys.published(key, "a1"),
    publishedOf: rowKeys.publishedOf(key),
    past: rowKeys.past(key, 26),
    pastOf: rowKeys.pastOf(key),
    listed: rowKeys.listed("acme", "r", "RUNNING", 0xffff_ffff_ffff - 26, "a1"),
    listedRuns: rowKeys.listedRuns("acme"),
    indexed: rowKeys.indexed("acme", indexOfName("order"), "RUNNING/00000000001a/a1"),
    indexedFrom: rowKeys.indexedFrom,
    listedIn: rowKeys.listedIn("acme", "r", "RUNNING"),
    listedActors: rowKeys.listedActors("acme"),
    listedQueues: rowKeys.listedQueues("acme"),
    listedSchedules: rowKeys.listedSchedules("acme"),
    removal: rowKeys.removal(key),
    removals: rowKeys.removals,
    timer: rowKeys.timer(26, key, 26),
    timers: rowKeys.timers,
    attention: rowKeys.attention(key),
    attentions: rowKeys.attentions,
    outbox: rowKeys.outbox(26, 26),
    outboxes: rowKeys.outboxes,
    outboxCounter: rowKeys.outboxCounter(26),
    outboxCounters: rowKeys.outboxCounters,
    inbox: rowKeys.inbox(26),
    inboxes: rowKeys.inboxes,
  };
  const texts: Readonly<Record<string, string>> = {
    key,
    tenant: "acme",
    kind: "r",
    status: "RUNNING",
    name: "a1",
    session: "s1",
    index: indexOfName("order"),
    hash: "ab".repeat(32),
  };

  function filled(pattern: string): string {
    return pattern
      .replaceAll(/<\w+:(\d+)>/g, (_, width) => (26).toString(16).padStart(Number(width), "0"))
      .replaceAll(/<(\w+)>/g, (whole, name) => texts[name] ?? whole);
  }

  const documented = tableOf(format, "| name | key | value |").map(([name = "", pattern = ""]) => [
    name,
    filled(pattern),
  ]);

  it("are those that the code writes, all of them", () => {
    expect(Object.fromEntries(documented)).toEqual(written);
    expect(Object.keys(rowKeys).toSorted()).toEqual(documented.map(([name]) => name).toSorted());
  });
});
