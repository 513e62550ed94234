/**
 * Objects in an S3-compatible bucket, through the AWS SDK. The SDK's own retries are off:
 * a repeated PUT whose first reply got lost answers 412 against our own object, and only
 * the log, which knows the bytes, can tell that from a lost race. Integrity is ours too
 * (hashes inside the objects), so the SDK adds checksums only where S3 demands them; not
 * every compatible server understands the newer ones.
 */
import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  type S3ClientConfig,
} from "@aws-sdk/client-s3";
import { SporeError } from "../../runtime/errors.ts";
import type { ByteRange, ListResult, PutResult, Store } from "../../runtime/ports.ts";
import { checkKey } from "./key.ts";

export interface S3Options {
  readonly bucket: string;
  /** Before every key, without slashes at the ends; "" for the whole bucket. */
  readonly prefix?: string;
  /** Default: the SDK's, from the environment; `us-east-1` if an endpoint is given. */
  readonly region?: string;
  /** For servers that are not AWS. */
  readonly endpoint?: string;
  /** `http://host/bucket/key` instead of `http://bucket.host/key`. */
  readonly pathStyle?: boolean;
  /** Bound on one request, from connecting to the last byte. Default 30,000. */
  readonly timeoutMs?: number;
  /** Default: the SDK's chain (environment, files, instance). */
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string };
}

const connectTimeoutMs = 5_000;
const requestTimeoutMs = 30_000;
/** What S3 gives at most in one LIST. */
const listKeysMax = 1000;

export class S3Store implements Store {
  readonly #client: S3Client;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #timeoutMs: number;

  constructor(options: S3Options) {
    this.#bucket = options.bucket;
    this.#prefix = options.prefix ? `${options.prefix}/` : "";
    this.#timeoutMs = options.timeoutMs ?? requestTimeoutMs;
    this.#client = new S3Client(clientConfig(options));
  }

  async get(key: string, range?: ByteRange): Promise<Uint8Array | undefined> {
    const name = this.#nameOf(key);
    if (range !== undefined && range.length <= 0) return this.#getNothing(key);
    try {
      const reply = await this.#client.send(
        new GetObjectCommand({
          Bucket: this.#bucket,
          Key: name,
          ...(range && { Range: `bytes=${range.offset}-${range.offset + range.length - 1}` }),
        }),
        this.#bound(),
      );
      const bytes = (await reply.Body?.transformToByteArray()) ?? new Uint8Array();
      return range === undefined ? bytes : partOf(bytes, range, reply.$metadata.httpStatusCode);
    } catch (error) {
      if (isMissing(error)) return undefined;
      // The range begins at or after the end.
      if (statusOf(error) === 416) return new Uint8Array();
      throw unavailable(error, `GET ${key}`);
    }
  }

  async put(
    key: string,
    bytes: Uint8Array,
    options: { ifAbsent?: boolean } = {},
  ): Promise<PutResult> {
    const command = (): PutObjectCommand =>
      new PutObjectCommand({
        Bucket: this.#bucket,
        Key: this.#nameOf(key),
        Body: bytes,
        ContentLength: bytes.length,
        ContentType: "application/octet-stream",
        ...(options.ifAbsent === true && { IfNoneMatch: "*" }),
      });
    // 409: a delete or another conditional PUT of the same key was under way. Once more
    // settles the usual case; then it is the caller who retries.
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#client.send(command(), this.#bound());
        return "created";
      } catch (error) {
        const status = statusOf(error);
        if (options.ifAbsent === true && status === 412) return "exists";
        if (status !== 409 || attempt === 2) throw unavailable(error, `PUT ${key}`);
      }
    }
  }

  async delete(key: string): Promise<void> {
    try {
      await this.#client.send(
        new DeleteObjectCommand({ Bucket: this.#bucket, Key: this.#nameOf(key) }),
        this.#bound(),
      );
    } catch (error) {
      if (!isMissing(error)) throw unavailable(error, `DELETE ${key}`);
    }
  }

  async list(
    prefix: string,
    options: { after?: string; limit?: number } = {},
  ): Promise<ListResult> {
    const { after, limit = listKeysMax } = options;
    try {
      const reply = await this.#client.send(
        new ListObjectsV2Command({
          Bucket: this.#bucket,
          Prefix: this.#prefix + prefix,
          MaxKeys: Math.min(limit, listKeysMax),
          ...(after !== undefined && { StartAfter: this.#prefix + after }),
        }),
        this.#bound(),
      );
      const keys = (reply.Contents ?? []).map(({ Key = "", Size = 0 }) => {
        return { key: Key.slice(this.#prefix.length), size: Size };
      });
      return { keys, isTruncated: reply.IsTruncated === true };
    } catch (error) {
      throw unavailable(error, `LIST ${prefix}`);
    }
  }

  async close(): Promise<void> {
    this.#client.destroy();
  }

  async #getNothing(key: string): Promise<Uint8Array | undefined> {
    try {
      await this.#client.send(
        new HeadObjectCommand({ Bucket: this.#bucket, Key: this.#nameOf(key) }),
        this.#bound(),
      );
      return new Uint8Array();
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw unavailable(error, `HEAD ${key}`);
    }
  }

  #nameOf(key: string): string {
    return this.#prefix + checkKey(key);
  }

  #bound(): { abortSignal: AbortSignal } {
    return { abortSignal: AbortSignal.timeout(this.#timeoutMs) };
  }
}

function clientConfig(options: S3Options): S3ClientConfig {
  const region = options.region ?? (options.endpoint === undefined ? undefined : "us-east-1");
  return {
    maxAttempts: 1,
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
    requestHandler: {
      connectionTimeout: connectTimeoutMs,
      requestTimeout: options.timeoutMs ?? requestTimeoutMs,
    },
    ...(region !== undefined && { region }),
    ...(options.endpoint !== undefined && { endpoint: options.endpoint }),
    ...(options.pathStyle !== undefined && { forcePathStyle: options.pathStyle }),
    ...(options.credentials !== undefined && { credentials: options.credentials }),
  };
}

/** A server that ignores `Range` answers 200 with the whole object. */
function partOf(bytes: Uint8Array, range: ByteRange, status: number | undefined): Uint8Array {
  if (status === 206) return bytes;
  return bytes.slice(range.offset, range.offset + range.length);
}

function isMissing(error: unknown): boolean {
  // A missing bucket is a 404 too, but it isn't a missing object: a host that took it for
  // one would see an empty log.
  return statusOf(error) === 404 && !(error instanceof Error && error.name === "NoSuchBucket");
}

function statusOf(error: unknown): number | undefined {
  if (typeof error !== "object" || error === null || !("$metadata" in error)) return undefined;
  const metadata = error.$metadata;
  if (typeof metadata !== "object" || metadata === null) return undefined;
  return "httpStatusCode" in metadata ? Number(metadata.httpStatusCode) : undefined;
}

/** What to throw for a failed call; our own errors (a bad key) say enough as they are. */
function unavailable(cause: unknown, what: string): SporeError {
  if (cause instanceof SporeError) return cause;
  const reason = cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause);
  const status = statusOf(cause);
  return new SporeError("store-unavailable", `s3 store, ${what}: ${status ?? ""} ${reason}`, {
    cause,
    hint:
      status === 401 || status === 403
        ? "The bucket refuses the credentials: check the key, its policy and the region."
        : "Check the endpoint, the bucket's name and the network.",
  });
}
