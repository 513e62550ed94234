/** What Node brings for images and baselines: zstd, sha256 and memcmp. */
import { createHash } from "node:crypto";
import { constants, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import type { ImageCodec } from "../../runtime/image.ts";

/** Level 1: an image is made while its run waits; higher levels save a tenth at twice the time. */
const level = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };

export const nodeCodec: ImageCodec = Object.freeze({
  compressor: {
    id: 1,
    compress: (bytes: Uint8Array) => plain(zstdCompressSync(bytes, level)),
    // The output is cut off at the limit, so a bomb costs no more than what it may be.
    decompress: (bytes: Uint8Array, sizeMax: number) =>
      plain(zstdDecompressSync(bytes, { maxOutputLength: Math.max(1, sizeMax) })),
  },
  digest: { sha256: (bytes: Uint8Array) => plain(createHash("sha256").update(bytes).digest()) },
  isSame: (left: Uint8Array, right: Uint8Array, from: number, to: number) =>
    asBuffer(left).compare(asBuffer(right), from, to, from, to) === 0,
});

/** A Buffer's own methods differ from an array's (`slice` shares), so none leaves this file. */
function plain(buffer: Buffer): Uint8Array {
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.length);
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}
