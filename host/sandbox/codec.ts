/**
 * What Node brings for images and baselines, and workerd with the same names: zstd, sha256
 * and memcmp. Both make frames that the other reads.
 */
import { createHash } from "node:crypto";
import { constants, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import type { ImageCodec } from "../../runtime/image.ts";

/** What workerd's buffer grows by at first. */
const growthBytes = 128 * 1024;

function codecOf(level: number): ImageCodec {
  const options = { params: { [constants.ZSTD_c_compressionLevel]: level } };
  return Object.freeze({
    compressor: {
      id: 1,
      compress: (bytes: Uint8Array) => plain(zstdCompressSync(bytes, options)),
      decompress: (bytes: Uint8Array, sizeMax: number) => {
        // A bomb is cut off. workerd counts the buffer that it grows and not what is in it,
        // so it refuses honest bytes near the limit unless the limit leaves room.
        const maxOutputLength = 2 * sizeMax + growthBytes;
        const plainBytes = plain(zstdDecompressSync(bytes, { maxOutputLength }));
        if (plainBytes.length <= sizeMax) return plainBytes;
        throw new RangeError(`more than ${sizeMax} bytes`);
      },
    },
    digest: {
      sha256: (bytes: Uint8Array) => plain(createHash("sha256").update(bytes).digest()),
    },
    isSame: (left: Uint8Array, right: Uint8Array, from: number, to: number) =>
      asBuffer(left).compare(asBuffer(right), from, to, from, to) === 0,
  });
}

/** For images: one is made while its run waits, and more effort saves a tenth of its size. */
export const nodeCodec: ImageCodec = codecOf(1);
/** For baselines, which are made once: a fifth smaller in 10 ms instead of 7. */
export const baselineCodec: ImageCodec = codecOf(3);

/** A Buffer's own methods differ from an array's (`slice` shares), so none leaves this file. */
function plain(buffer: Buffer): Uint8Array {
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.length);
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}
