import * as fastCheck from "fast-check";
import { describe, expect, test } from "vitest";
import { nodeCodec } from "../../host/sandbox/codec.ts";
import {
  applyDifference,
  difference,
  extentsOf,
  hash32,
  type ImageBase,
  openImage,
  resetMemory,
  restoreImage,
  takeImage,
  wasmPageBytes,
} from "../../runtime/image.ts";

const pages = 3;
const pristine = Uint8Array.from({ length: pages * wasmPageBytes }, (_, at) => (at * 7) & 255);
const base: ImageBase = {
  engine: "a".repeat(64),
  component: "b".repeat(64),
  pristine,
  pristineHash: nodeCodec.digest.sha256(pristine),
};

/** Pristine memory with some bytes changed, grown by `grown` pages. */
function changed(writes: readonly (readonly [number, number])[], grown = 0): Uint8Array {
  const memory = new Uint8Array(pristine.length + grown * wasmPageBytes);
  memory.set(pristine);
  for (const [at, value] of writes) memory[at % memory.length] = value;
  return memory;
}

/** An image whose plain difference is `plain`, sealed as a proper one is. */
function imageOf(plain: Uint8Array, patch: (view: DataView) => void = () => {}): Uint8Array {
  const packed = nodeCodec.compressor.compress(plain);
  const image = new Uint8Array(72 + packed.length + 16);
  image.set(takeImage(pristine, base, nodeCodec).subarray(0, 72));
  image.set(packed, 72);
  const view = new DataView(image.buffer);
  view.setUint32(64, plain.length, true);
  view.setUint32(68, packed.length, true);
  patch(view);
  const sum = nodeCodec.digest.sha256(image.subarray(0, image.length - 16));
  image.set(sum.subarray(0, 16), image.length - 16);
  return image;
}

/** A plain difference from its page table and the count of blocks that follow. */
function plainOf(table: readonly (readonly [page: number, mask: number])[], blocks: number) {
  const start = 4 + table.length * 4 + Math.ceil(table.length / 2) * 4;
  const plain = new Uint8Array(start + blocks * 256);
  const view = new DataView(plain.buffer);
  view.setUint32(0, table.length, true);
  for (const [index, [page, mask]] of table.entries()) {
    view.setUint32(4 + index * 4, page, true);
    view.setUint16(4 + table.length * 4 + index * 2, mask, true);
  }
  return plain;
}

describe("an image", () => {
  test("brings any memory back exactly, with either way to compare", () => {
    const writes = fastCheck.array(fastCheck.tuple(fastCheck.nat(400_000), fastCheck.nat(255)), {
      maxLength: 60,
    });
    fastCheck.assert(
      fastCheck.property(writes, fastCheck.nat(2), (list, grown) => {
        const memory = changed(list, grown);
        const image = takeImage(memory, base, nodeCodec);
        const { compressor, digest } = nodeCodec;
        expect(takeImage(memory, base, { compressor, digest })).toEqual(image);
        const target = new Uint8Array(memory.length).fill(255);
        restoreImage(image, target, base, nodeCodec);
        expect(Buffer.compare(target, memory)).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  test("holds the blocks that differ and no others", () => {
    const plain = difference(changed([[4096 * 5 + 300, 1]]), pristine);
    expect(plain.length).toBe(4 + 4 + 4 + 256);
    const view = new DataView(plain.buffer);
    expect([view.getUint32(0, true), view.getUint32(4, true)]).toEqual([1, 5]);
    expect(view.getUint16(8, true)).toBe(0b10);
    expect(plain[12 + 44]).toBe(1 ^ (pristine[4096 * 5 + 300] ?? 0));
    const memory = pristine.slice();
    applyDifference(plain, memory);
    expect(memory[4096 * 5 + 300]).toBe(1);
  });

  test("of pristine memory is its header and next to nothing", () => {
    expect(takeImage(pristine, base, nodeCodec).length).toBeLessThan(72 + 16 + 20);
  });

  test("is written as the format says", () => {
    const image = takeImage(changed([[9, 9]], 1), base, nodeCodec);
    const view = new DataView(image.buffer);
    expect(new TextDecoder().decode(image.subarray(0, 4))).toBe("SPIM");
    expect([...image.subarray(4, 8)]).toEqual([1, 1, 0, 0]);
    expect([...image.subarray(8, 24)]).toEqual(Array.from({ length: 16 }, () => 0xaa));
    expect([...image.subarray(24, 40)]).toEqual(Array.from({ length: 16 }, () => 0xbb));
    expect(image.subarray(40, 56)).toEqual(new Uint8Array(base.pristineHash.subarray(0, 16)));
    expect(view.getUint32(56, true)).toBe(pages + 1);
    expect(view.getUint32(64, true)).toBe(12 + 256);
    expect(view.getUint32(68, true)).toBe(image.length - 72 - 16);
  });

  test("is refused when any byte is another or missing, and memory stays as it was", () => {
    const image = takeImage(changed([[1000, 1]]), base, nodeCodec);
    const target = changed([[5, 5]]);
    const corrupt = expect.objectContaining({ code: "corrupt-image" });
    for (let at = 0; at < image.length; at++) {
      const copy = image.slice();
      copy[at] = (copy[at] ?? 0) ^ 0x40;
      expect(() => restoreImage(copy, target, base, nodeCodec)).toThrow(corrupt);
      expect(() => restoreImage(image.subarray(0, at), target, base, nodeCodec)).toThrow(corrupt);
    }
    expect(Buffer.compare(target, changed([[5, 5]]))).toBe(0);
  });

  test.each([
    ["engine", { ...base, engine: "c".repeat(64) }, "another engine"],
    ["component", { ...base, component: "c".repeat(64) }, "another component"],
    ["build", { ...base, pristineHash: new Uint8Array(32) }, "another build"],
  ])("of another %s is refused", (_what, other, message) => {
    const image = takeImage(pristine, base, nodeCodec);
    expect(() => openImage(image, other, nodeCodec)).toThrow(message);
  });

  test.each([
    [
      "unsorted pages",
      plainOf(
        [
          [5, 1],
          [4, 1],
        ],
        2,
      ),
      "unsorted",
    ],
    [
      "a page twice",
      plainOf(
        [
          [5, 1],
          [5, 1],
        ],
        2,
      ),
      "unsorted",
    ],
    ["a page past the memory", plainOf([[48, 1]], 1), "past the memory"],
    ["a page without a block", plainOf([[1, 0]], 0), "without a block"],
    ["missing blocks", plainOf([[1, 3]], 1), "other blocks"],
    ["stray blocks", plainOf([[1, 1]], 2), "other blocks"],
    ["no table", new Uint8Array(3), "no block table"],
    ["a table longer than itself", Uint8Array.of(40, 0, 0, 0), "dirty pages"],
  ])("with %s is refused though its checksum is right", (_what, plain, message) => {
    const target = pristine.slice();
    expect(() => restoreImage(imageOf(plain), target, base, nodeCodec)).toThrow(message);
    expect(Buffer.compare(target, pristine)).toBe(0);
  });

  test("that unpacks to more than it declares is refused at the declared size", () => {
    const bomb = new Uint8Array(64 * 1024 * 1024);
    const small = imageOf(bomb, (view) => view.setUint32(64, 300, true));
    expect(() => openImage(small, base, nodeCodec)).toThrow("can't be decompressed");
    expect(() => openImage(imageOf(bomb), base, nodeCodec)).toThrow("declares a difference of");
  });

  test("that declares impossible memory is refused", () => {
    for (const count of [0, pages - 1, 20_000, 0xffffffff]) {
      const image = imageOf(plainOf([], 0), (view) => view.setUint32(56, count, true));
      expect(() => openImage(image, base, nodeCodec)).toThrow("memory pages");
    }
  });

  test("goes only into memory of its own page count", () => {
    const image = takeImage(changed([], 1), base, nodeCodec);
    expect(() => restoreImage(image, pristine.slice(), base, nodeCodec)).toThrow("pages");
  });
});

test("resetting memory by its extents gives the same bytes as copying it whole", () => {
  const sparse = new Uint8Array(3 * wasmPageBytes);
  sparse.set([1, 0, 2], 70_000);
  sparse[70_002 + 16 * 1024] = 3;
  sparse[sparse.length - 1] = 4;
  expect(extentsOf(sparse)).toEqual([
    { from: 70_000, to: 70_003 + 16 * 1024 },
    { from: sparse.length - 1, to: sparse.length },
  ]);
  expect(extentsOf(new Uint8Array(10))).toEqual([]);
  for (const each of [sparse, pristine, new Uint8Array(wasmPageBytes)]) {
    const memory = new Uint8Array(each.length + wasmPageBytes).fill(9);
    resetMemory(memory, each, extentsOf(each));
    expect(Buffer.compare(memory.subarray(0, each.length), each)).toBe(0);
    expect(memory.subarray(each.length).every((byte) => byte === 0)).toBe(true);
  }
});

test("resetting memory clears what lies past the pristine length", () => {
  const memory = changed([[pristine.length + 5, 1]], 1);
  resetMemory(memory, pristine);
  expect(Buffer.compare(memory, changed([], 1))).toBe(0);
});

test.each([
  ["", 0x811c9dc5],
  ["a", 0xe40c292c],
  ["foobar", 0xbf9cf968],
])("hash32 of %j is FNV-1a's", (text, hash) => {
  expect(hash32(new TextEncoder().encode(text))).toBe(hash);
});
