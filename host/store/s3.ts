/**
 * Objects in an S3-compatible bucket, through the AWS SDK. The SDK's own retries are off:
 * a repeated PUT whose first reply got lost answers 412 against our own object, and only
 * the log, which knows the bytes, can tell that from a lost race. Integrity is ours too
 * (hashes inside the objects), so the SDK adds checksums only where S3 demands them; not
 * every compatible server understands the newer ones.
 *
 * Large objects go up and come down in parts, so that the bound on one request doesn't
 * bound an object. The condition of a create stands on the request that completes it; a
 * read's parts are held together by the object's ETag.
 */
import {
  AbortMultipartUploadCommand,
  type CompletedPart,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  type GetObjectCommandOutput,
  HeadBucketCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  type S3ClientConfig,
  UploadPartCommand,
} from "@aws-sdk/client-s3";
import { SporeError } from "../../runtime/errors.ts";
import type { ByteRange, ListResult, PutResult, Store } from "../../runtime/ports.ts";
import { checkKey } from "./key.ts";

export interface S3Options {
  readonly bucket: string;
  /** Before every key, without slashes at the ends; "" for the whole bucket. */
  readonly prefix?: string;
  /** Default: the SDK's sources (environment, files); then `us-east-1`. */
  readonly region?: string;
  /** For servers that are not AWS. Default: the SDK's sources (`AWS_ENDPOINT_URL_S3`). */
  readonly endpoint?: string;
  /** `http://host/bucket/key` instead of `http://bucket.host/key`. */
  readonly pathStyle?: boolean;
  /** Bound on one request, from connecting to the last byte. Default 30,000. */
  readonly timeoutMs?: number;
  /** Default: the SDK's chain (environment, files, instance). */
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string };
  /** Objects over this many bytes go in parts of this size. S3 wants at least 5 MiB. Default 8 MiB. */
  readonly partBytes?: number;
}

/** What a server says of itself with its answers. */
export interface S3Server {
  /** Its `Server` header. */
  readonly name: string | undefined;
  /** Its clock minus ours in milliseconds, to the second. */
  readonly skewMs: number | undefined;
}

const connectTimeoutMs = 5_000;
const requestTimeoutMs = 30_000;
const partBytesDefault = 8 * 1024 * 1024;
/** Requests under way at once; each has a connection of its own. */
const requestsMax = 128;
/** Parts of one object under way at once. */
const parallelParts = 4;
/** Reads of an object that is overwritten all the time are given up after so many. */
const readAttemptsMax = 3;
/** What S3 gives at most in one LIST. */
const listKeysMax = 1000;

export class S3Store implements Store {
  readonly #client: S3Client;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #timeoutMs: number;
  readonly #partBytes: number;
  readonly #send: S3Client["send"];
  #underWay = 0;
  readonly #waiting: (() => void)[] = [];
  #server: S3Server = { name: undefined, skewMs: undefined };

  constructor(options: S3Options) {
    this.#bucket = options.bucket;
    this.#prefix = options.prefix ? `${options.prefix}/` : "";
    this.#timeoutMs = options.timeoutMs ?? requestTimeoutMs;
    this.#partBytes = options.partBytes ?? partBytesDefault;
    this.#client = new S3Client(clientConfig(options));
    this.#listenToServer();
    // What waits for its turn hasn't begun: its time isn't running yet.
    this.#send = (async (command: Parameters<S3Client["send"]>[0]) => {
      await this.#turn();
      try {
        const abortSignal = AbortSignal.timeout(this.#timeoutMs);
        return await this.#client.send(command, { abortSignal });
      } finally {
        const next = this.#waiting.shift();
        if (next === undefined) this.#underWay -= 1;
        else next(); // takes this one's place
      }
    }) as S3Client["send"];
  }

  async get(key: string, range?: ByteRange): Promise<Uint8Array | undefined> {
    const name = this.#nameOf(key);
    if (range !== undefined && range.length <= 0) return this.#getNothing(key);
    try {
      if (range === undefined) return await this.#getWhole(name);
      const reply = await this.#getRange(name, range);
      return partOf(await bodyOf(reply), range, reply.$metadata.httpStatusCode);
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
    const name = this.#nameOf(key);
    const condition: Condition = options.ifAbsent === true ? { IfNoneMatch: "*" } : {};
    // 409: a delete or another conditional PUT of the same key was under way. Once more
    // settles the usual case; then it is the caller who retries.
    for (let attempt = 1; ; attempt += 1) {
      try {
        if (bytes.length > this.#partBytes) await this.#putParts(name, bytes, condition);
        else await this.#putWhole(name, bytes, condition);
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
      await this.#send(new DeleteObjectCommand({ Bucket: this.#bucket, Key: this.#nameOf(key) }));
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
      const reply = await this.#send(
        new ListObjectsV2Command({
          Bucket: this.#bucket,
          Prefix: this.#prefix + prefix,
          MaxKeys: Math.min(limit, listKeysMax),
          ...(after !== undefined && { StartAfter: this.#prefix + after }),
        }),
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

  /** Asks whether the bucket is there, and what the server says of itself. */
  async examine(): Promise<S3Server> {
    try {
      await this.#send(new HeadBucketCommand({ Bucket: this.#bucket }));
    } catch (error) {
      throw unavailable(error, `HEAD bucket ${this.#bucket}`);
    }
    return this.#server;
  }

  async #turn(): Promise<void> {
    if (this.#underWay < requestsMax) this.#underWay += 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  async #getWhole(name: string): Promise<Uint8Array> {
    for (let attempt = 1; ; attempt += 1) {
      const head = await this.#getRange(name, { offset: 0, length: this.#partBytes });
      const first = await bodyOf(head);
      const size = Number(/\/(\d+)$/.exec(head.ContentRange ?? "")?.[1] ?? first.length);
      if (size <= first.length) return first;
      try {
        return await this.#getRest(name, first, { size, etag: head.ETag });
      } catch (error) {
        // Overwritten or deleted between two parts: another object, from the beginning.
        const isOther = statusOf(error) === 412 || statusOf(error) === 416;
        if (!isOther || attempt === readAttemptsMax) throw error;
      }
    }
  }

  async #getRest(
    name: string,
    first: Uint8Array,
    whole: { readonly size: number; readonly etag: string | undefined },
  ): Promise<Uint8Array> {
    const bytes = new Uint8Array(whole.size);
    bytes.set(first);
    await this.#inParts(first.length, whole.size, async (offset, length) => {
      const range = { offset, length };
      const reply = await this.#getRange(name, range, whole.etag);
      const part = partOf(await bodyOf(reply), range, reply.$metadata.httpStatusCode);
      if (part.length !== length) throw new Error(`${part.length} of ${length} bytes came`);
      bytes.set(part, offset);
    });
    return bytes;
  }

  #getRange(name: string, range: ByteRange, etag?: string): Promise<GetObjectCommandOutput> {
    return this.#send(
      new GetObjectCommand({
        Bucket: this.#bucket,
        Key: name,
        Range: `bytes=${range.offset}-${range.offset + range.length - 1}`,
        ...(etag !== undefined && { IfMatch: etag }),
      }),
    );
  }

  async #putWhole(name: string, bytes: Uint8Array, condition: Condition): Promise<void> {
    await this.#send(
      new PutObjectCommand({
        ...this.#target(name),
        ...condition,
        Body: bytes,
        ContentLength: bytes.length,
        ContentType: contentType,
      }),
    );
  }

  async #putParts(name: string, bytes: Uint8Array, condition: Condition): Promise<void> {
    const target = this.#target(name);
    const { UploadId } = await this.#send(
      new CreateMultipartUploadCommand({ ...target, ContentType: contentType }),
    );
    const upload = { ...target, UploadId };
    try {
      const parts: CompletedPart[] = [];
      await this.#inParts(0, bytes.length, async (offset, length) => {
        const PartNumber = offset / this.#partBytes + 1;
        const Body = bytes.subarray(offset, offset + length);
        const part = new UploadPartCommand({ ...upload, PartNumber, Body, ContentLength: length });
        const { ETag } = await this.#send(part);
        parts.push({ PartNumber, ...(ETag !== undefined && { ETag }) });
      });
      parts.sort((left, right) => Number(left.PartNumber) - Number(right.PartNumber));
      const complete = { ...upload, ...condition, MultipartUpload: { Parts: parts } };
      await this.#send(new CompleteMultipartUploadCommand(complete));
    } catch (error) {
      // An upload that isn't aborted costs storage until the bucket's own rule ends it; one
      // that did complete, its reply lost, is no longer there.
      const abort = new AbortMultipartUploadCommand(upload);
      await this.#send(abort).catch(() => undefined);
      throw error;
    }
  }

  /** Calls for each part of a size between two places, a few at once. */
  async #inParts(
    from: number,
    to: number,
    work: (offset: number, length: number) => Promise<void>,
  ): Promise<void> {
    let next = from;
    const worker = async (): Promise<void> => {
      while (next < to) {
        const offset = next;
        const length = Math.min(this.#partBytes, to - offset);
        next += length;
        try {
          await work(offset, length);
        } catch (error) {
          next = to; // the others finish what they have, and no more
          throw error;
        }
      }
    };
    const settled = await Promise.allSettled(Array.from({ length: parallelParts }, worker));
    for (const each of settled) if (each.status === "rejected") throw each.reason;
  }

  /** Notes what each answer's headers say, also of one that is an error. */
  #listenToServer(): void {
    this.#client.middlewareStack.add(
      (next) => async (args) => {
        const result = await next(args);
        const headers = headersOf(result.response);
        const serverMs = Date.parse(headers.date ?? "");
        this.#server = {
          name: headers.server,
          skewMs: Number.isNaN(serverMs) ? undefined : serverMs - Date.now(),
        };
        return result;
      },
      { step: "deserialize", priority: "low", name: "listenToServer" },
    );
  }

  async #getNothing(key: string): Promise<Uint8Array | undefined> {
    try {
      await this.#send(new HeadObjectCommand({ Bucket: this.#bucket, Key: this.#nameOf(key) }));
      return new Uint8Array();
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw unavailable(error, `HEAD ${key}`);
    }
  }

  #target(name: string): { Bucket: string; Key: string } {
    return { Bucket: this.#bucket, Key: name };
  }

  #nameOf(key: string): string {
    return this.#prefix + checkKey(key);
  }
}

interface Condition {
  readonly IfNoneMatch?: "*";
}

const contentType = "application/octet-stream";

function clientConfig(options: S3Options): S3ClientConfig {
  const timeoutMs = options.timeoutMs ?? requestTimeoutMs;
  return {
    maxAttempts: 1,
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
    requestHandler: {
      connectionTimeout: Math.min(connectTimeoutMs, timeoutMs),
      requestTimeout: timeoutMs,
      socketTimeout: timeoutMs,
      httpAgent: { keepAlive: true, maxSockets: requestsMax },
      httpsAgent: { keepAlive: true, maxSockets: requestsMax },
    },
    region: options.region ?? usualRegion,
    ...(options.endpoint !== undefined && { endpoint: options.endpoint }),
    ...(options.pathStyle !== undefined && { forcePathStyle: options.pathStyle }),
    ...(options.credentials !== undefined && { credentials: options.credentials }),
  };
}

/** What the SDK finds in the environment and its files; signatures want some region. */
async function usualRegion(): Promise<string> {
  const client = new S3Client({});
  try {
    return await client.config.region();
  } catch {
    return "us-east-1"; // the SDK rejects when it finds none
  } finally {
    client.destroy();
  }
}

async function bodyOf(reply: GetObjectCommandOutput): Promise<Uint8Array> {
  return (await reply.Body?.transformToByteArray()) ?? new Uint8Array();
}

function headersOf(response: unknown): Readonly<Record<string, string>> {
  if (typeof response !== "object" || response === null || !("headers" in response)) return {};
  return (response.headers ?? {}) as Record<string, string>; // the SDK's own, lower case
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

/** Bad request, refused, no bucket, not implemented: they don't pass by themselves. */
const finalStatuses: ReadonlySet<number | undefined> = new Set([400, 401, 403, 404, 501]);

/** Whether asking again after this error of the store is no use. */
export function isFinalRefusal(error: SporeError): boolean {
  return finalStatuses.has(statusOf(error.cause));
}

/** The HTTP status behind an error of the SDK, if there was an answer. */
export function statusOf(error: unknown): number | undefined {
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
  const said = status === undefined ? reason : `${status} ${reason}`;
  const hint = remedyFor(cause, status);
  return new SporeError("store-unavailable", `s3 store, ${what}: ${said}`, { cause, hint });
}

function remedyFor(cause: unknown, status: number | undefined): string {
  if (status === 401 || status === 403) {
    return "The bucket refuses the credentials: check the key, its policy and the region.";
  }
  if (cause instanceof Error && cause.name === "CredentialsProviderError") {
    return "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or put key:secret@ before the bucket.";
  }
  return "Check the endpoint, the bucket's name and the network.";
}
