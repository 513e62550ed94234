/** The example objects of docs/FORMAT.md, made by the real code, and the documents' own text. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { encode } from "../../guest/cbor.ts";
import { MemoryStore } from "../../host/store/memory.ts";
import { encodeBatch } from "../../runtime/batch.ts";
import { encodeEntry } from "../../runtime/entry.ts";
import {
  difference,
  type ImageBase,
  type ImageCodec,
  sealDifference,
} from "../../runtime/image.ts";
import type { Digest } from "../../runtime/ports.ts";
import { Register } from "../../runtime/register.ts";
import { SegmentWriter } from "../../runtime/segment.ts";
import { Table } from "../../runtime/table.ts";

export const digest: Digest = {
  sha256: (bytes) => new Uint8Array(createHash("sha256").update(bytes).digest()),
};

/** 00 01 02 … */
const random = { bytes: (count: number) => Uint8Array.from({ length: count }, (_, at) => at) };
const clock = { nowMs: () => 0, after: () => () => undefined };
const observer = { log: () => undefined, count: () => undefined, observe: () => undefined };

export function readDocument(name: string): string {
  return readFileSync(new URL(`../../docs/${name}`, import.meta.url), "utf8");
}

export function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

/** The bytes of the block that begins with "```hex <name>". */
export function exampleOf(document: string, name: string): string {
  const block = new RegExp(`\`\`\`hex ${name}\n([^\`]*)\`\`\``).exec(document)?.[1];
  if (block === undefined) throw new Error(`there is no example ${name}`);
  return block.replaceAll(/[^0-9a-f]/g, "");
}

/** The rows of the table that begins with this head, without the backticks of their cells. */
export function tableOf(document: string, head: string): string[][] {
  const lines = document.split("\n");
  const at = lines.findIndex((line) => line.startsWith(head));
  if (at < 0) throw new Error(`there is no table ${head}`);
  const end = lines.findIndex((line, index) => index > at && !line.startsWith("|"));
  return lines.slice(at + 2, end < 0 ? undefined : end).map((line) =>
    line
      .slice(1, -1)
      .split(/(?<!\\)\|/)
      .map((cell) => cell.trim().replaceAll("\\|", "|").replaceAll("`", "")),
  );
}

export const exampleRows: ReadonlyMap<string, Uint8Array | undefined> = new Map([
  ["a/acme/r/a1", undefined],
  ["e/acme/r/a1/u/s1", encode(3)],
]);

export const exampleEntry = {
  kind: "batch",
  partition: 3,
  seq: 2,
  epoch: 1,
  base: 0,
  freedTo: 0,
  nonce: random.bytes(16),
  previous: new Uint8Array(32).fill(0x11),
} as const;

const pristine = new Uint8Array(65_536);
export const exampleBase: ImageBase = {
  engine: "11".repeat(32),
  component: "22".repeat(32),
  pristine,
  pristineHash: digest.sha256(pristine),
};
/** Pristine but for one byte, in the second block of the second page. */
export const exampleMemory = pristine.slice().fill(7, 4096 + 256, 4096 + 257);
export const plainCodec: ImageCodec = {
  compressor: { id: 0, compress: (bytes) => bytes, decompress: (bytes) => bytes },
  digest,
};

export function exampleImage(): Uint8Array {
  const plain = difference(exampleMemory, pristine);
  return sealDifference(plain, exampleMemory.length, exampleBase, plainCodec);
}

export function exampleSegment() {
  const writer = new SegmentWriter({ digest, codec: undefined, blockBytes: 1024 });
  for (const [key, value] of exampleRows) writer.add(key, value);
  return writer.finish({ key: "p/3/table/example", level: 0 });
}

export async function exampleRegister(): Promise<Uint8Array> {
  const store = new MemoryStore();
  const options = { store, prefix: "deployments", random, digest, clock, observer };
  await new Register(options).append(encode({ component: "c0ffee", atMs: 0 }), 0);
  return (await store.get("deployments/0000000000000001")) ?? new Uint8Array(0);
}

export function openTable(checkpoint?: Uint8Array): Table {
  const store = new MemoryStore();
  const options = { store, prefix: "p/3", epoch: 1, random, digest, clock, observer };
  return Table.open(options, checkpoint);
}

export function exampleCheckpoint(): Uint8Array {
  const table = openTable();
  table.apply(exampleRows);
  return table.checkpoint().bytes;
}

/** Every example by its name in FORMAT. */
export async function examples(): Promise<ReadonlyMap<string, Uint8Array>> {
  const batch = encodeBatch(exampleRows);
  return new Map([
    ["namespace", encode({ version: 1, partitions: 4 })],
    ["register", await exampleRegister()],
    ["batch", batch],
    ["entry", encodeEntry(exampleEntry, batch, digest).bytes],
    ["checkpoint", exampleCheckpoint()],
    ["segment", exampleSegment().bytes],
    ["image-header", exampleImage().subarray(0, 72)],
  ]);
}
