/**
 * Changes to a table as bytes, for log entries and checkpoints: their number, then for each
 * its key, the length of its value plus one (0: deleted) and the value.
 */
import { ByteReader, ByteWriter, Truncated } from "./bytes.ts";
import { SporeError } from "./errors.ts";

/** Rows to set, and with `undefined` to delete. */
export type Batch = ReadonlyMap<string, Uint8Array | undefined>;

/** The changes as bytes, for a log entry. */
export function encodeBatch(batch: Batch): Uint8Array {
  const writer = new ByteWriter();
  writer.count(batch.size);
  for (const [key, value] of batch) {
    writer.latin1(key);
    writer.count(value === undefined ? 0 : value.length + 1);
    if (value !== undefined) writer.raw(value);
  }
  return writer.done();
}

/** Throws corrupt-log unless the bytes are exactly one batch. Values are views of them. */
export function decodeBatch(bytes: Uint8Array): Map<string, Uint8Array | undefined> {
  try {
    return readBatch(new ByteReader(bytes));
  } catch (error) {
    if (!(error instanceof Truncated)) throw error;
    throw new SporeError("corrupt-log", `a batch is damaged: ${error.message}`);
  }
}

/** The rest of what is read as one batch; throws Truncated. */
export function readBatch(reader: ByteReader): Map<string, Uint8Array | undefined> {
  const batch = new Map<string, Uint8Array | undefined>();
  for (let left = reader.count(); left > 0; left -= 1) {
    const key = reader.latin1();
    const length = reader.count();
    batch.set(key, length === 0 ? undefined : reader.raw(length - 1));
  }
  if (reader.left > 0) throw new Truncated("there are bytes after its end");
  return batch;
}
