/**
 * Values that clients store. What a guest stores, its rows refer to; what a client stores,
 * nothing does until it is handed to a run. So the upload itself is a row, for a day: durable
 * before the value is stored (collector.ts C1), and gone by a timer.
 */
import type { Encoded } from "../guest/protocol.ts";
import { rowKeys, systemTimers } from "./format.ts";
import type { Generations } from "./generations.ts";
import { type EntityKey, toHex } from "./ids.ts";
import type { StoredObject, TenantHost } from "./index.ts";
import type { Objects } from "./objects.ts";
import type { Partition } from "./partition.ts";
import type { ByteRange, Ports } from "./ports.ts";
import { objectKey, objectName } from "./refs.ts";
import type { Retrier } from "./retry.ts";

/** How long an upload stands for a value that nobody refers to. */
export const uploadMs = 86_400_000;

export interface UploadsParts {
  readonly tenant: string;
  readonly ports: Ports;
  readonly prefix: string;
  readonly retrier: Retrier;
  readonly objects: Objects;
  readonly generations: Generations;
}

export class Uploads {
  readonly #parts: UploadsParts;

  constructor(parts: UploadsParts) {
    this.#parts = parts;
  }

  /** `hold` makes the row durable, in whichever host has its partition. */
  async put(
    value: Encoded,
    hold: (hash: string, expiresAtMs: number) => Promise<void>,
  ): Promise<StoredObject> {
    const { tenant, ports, prefix, retrier, generations } = this.#parts;
    const hash = toHex(ports.digest.sha256(value));
    const expiresAtMs = ports.clock.nowMs() + uploadMs;
    await hold(hash, expiresAtMs);
    const name = objectName(hash, await generations.current());
    await retrier.run("object put", () =>
      ports.store.put(objectKey(prefix, tenant, name), value, { ifAbsent: true }),
    );
    return { hash: name, size: value.length, expiresAtMs };
  }

  get(name: string): Promise<Encoded> {
    const { tenant, retrier, objects } = this.#parts;
    return objects.read(retrier, tenant, name);
  }

  bytesIn(name: string): ReturnType<TenantHost["objectBytes"]> {
    const { tenant, retrier, objects } = this.#parts;
    return objects.bytesIn(retrier, tenant, name);
  }

  getPart(name: string, range: ByteRange): Promise<Uint8Array> {
    const { tenant, retrier, objects } = this.#parts;
    return objects.readPart(retrier, { tenant, name }, range);
  }
}

/** In the partition of the upload's key. Repeating it changes nothing. */
export async function holdUpload(
  partition: Partition,
  key: EntityKey,
  upload: { readonly hash: string; readonly expiresAtMs: number },
): Promise<void> {
  const { hash, expiresAtMs } = upload;
  await partition.request(key, (_none, sink) => {
    sink.changes.put(rowKeys.hold(key, hash), new Uint8Array(0));
    sink.changes.put(rowKeys.timer(expiresAtMs, key, systemTimers.retention), new Uint8Array(0));
    sink.setTimer({ key }, systemTimers.retention, expiresAtMs);
  });
  await partition.durable();
}
