/**
 * fetch, Request, Response and Headers. A request is one durable command: the host
 * performs it after the state that led to it is durable, and the whole response comes
 * back as one input. So bodies are complete when a Response exists: `body` is a stream
 * of one chunk. FormData, Blob, manual redirects and request streams are refused.
 */
import type { Kernel } from "../kernel.ts";
import type { FetchResponse } from "../protocol.ts";
import { AbortSignal } from "./events.ts";
import { TextDecoder, TextEncoder, viewBytes } from "./text.ts";
import { URL, URLSearchParams } from "./url.ts";

export type HeadersInit =
  | Headers
  | Iterable<readonly [string, string]>
  | Readonly<Record<string, string>>;

export class Headers {
  /** Lower-case name to its values in order. */
  readonly #values = new Map<string, string[]>();

  constructor(init?: HeadersInit | null) {
    if (init === undefined || init === null) return;
    for (const [name, value] of headerPairs(init)) this.append(name, value);
  }

  append(name: string, value: string): void {
    const key = headerName(name);
    const values = this.#values.get(key) ?? [];
    values.push(headerValue(name, value));
    this.#values.set(key, values);
  }

  delete(name: string): void {
    this.#values.delete(headerName(name));
  }

  get(name: string): string | null {
    return this.#values.get(headerName(name))?.join(", ") ?? null;
  }

  getSetCookie(): string[] {
    return [...(this.#values.get("set-cookie") ?? [])];
  }

  has(name: string): boolean {
    return this.#values.has(headerName(name));
  }

  set(name: string, value: string): void {
    this.#values.set(headerName(name), [headerValue(name, value)]);
  }

  forEach(callback: (value: string, name: string, headers: Headers) => void, self?: unknown): void {
    for (const [name, value] of this) callback.call(self, value, name, this);
  }

  /** Sorted by name; cookies stay apart, because they can't be joined. */
  *entries(): Generator<[string, string], undefined> {
    for (const name of [...this.#values.keys()].sort()) {
      const values = this.#values.get(name) ?? [];
      if (name !== "set-cookie") yield [name, values.join(", ")];
      else for (const value of values) yield [name, value];
    }
    return undefined;
  }

  *keys(): Generator<string, undefined> {
    for (const [name] of this) yield name;
    return undefined;
  }

  *values(): Generator<string, undefined> {
    for (const [, value] of this) yield value;
    return undefined;
  }

  [Symbol.iterator](): Generator<[string, string], undefined> {
    return this.entries();
  }
}

function headerPairs(init: HeadersInit): Iterable<readonly [string, string]> {
  if (Symbol.iterator in init) return init;
  return Object.entries(init);
}

function headerName(name: string): string {
  const text = String(name);
  if (!/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(text)) {
    throw new TypeError(`Invalid header name: ${JSON.stringify(text)}`);
  }
  return text.toLowerCase();
}

function headerValue(name: string, value: string): string {
  const text = String(value).replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, "");
  if (/[\0\r\n]/.test(text) || /[^\0-\xff]/.test(text)) {
    throw new TypeError(`Invalid value of header ${name}`);
  }
  return text;
}

type BodyInit = string | URLSearchParams | ArrayBufferLike | ArrayBufferView | null;

interface Content {
  readonly bytes: Uint8Array;
  readonly type: string | undefined;
}

/** The bytes of a body and the content type that it implies. */
function contentOf(body: BodyInit | undefined): Content | undefined {
  if (body === undefined || body === null) return undefined;
  if (body instanceof URLSearchParams) {
    const type = "application/x-www-form-urlencoded;charset=UTF-8";
    return { bytes: new TextEncoder().encode(String(body)), type };
  }
  if (body instanceof ArrayBuffer || ArrayBuffer.isView(body)) {
    return { bytes: viewBytes(body).slice(), type: undefined };
  }
  if (typeof body === "object" && !(Object(body) instanceof String)) {
    const name = Object.prototype.toString.call(body);
    throw new TypeError(
      `A body can be a string, URLSearchParams or bytes, not ${name}: use JSON.stringify?`,
    );
  }
  return { bytes: new TextEncoder().encode(String(body)), type: "text/plain;charset=UTF-8" };
}

/** What Request and Response share: a body that can be read once. */
class Body {
  readonly #bytes: Uint8Array | undefined;
  #stream: BodyStream | undefined;

  constructor(bytes: Uint8Array | undefined) {
    this.#bytes = bytes;
  }

  get body(): BodyStream | null {
    if (this.#bytes === undefined) return null;
    this.#stream ??= new BodyStream(this.#bytes);
    return this.#stream;
  }

  get bodyUsed(): boolean {
    return this.#stream?.isDisturbed ?? false;
  }

  async bytes(): Promise<Uint8Array> {
    return this.consume() ?? new Uint8Array(0);
  }

  /** Reads the body, undefined if there is none. Throws if it was read before. */
  consume(): Uint8Array | undefined {
    const { body } = this;
    if (body === null) return undefined;
    if (body.locked || body.isDisturbed) {
      throw new TypeError("Body is unusable: it has already been read");
    }
    return body.take() ?? new Uint8Array(0);
  }

  async arrayBuffer(): Promise<ArrayBuffer> {
    return new Uint8Array(await this.bytes()).buffer;
  }

  async text(): Promise<string> {
    return new TextDecoder().decode(await this.bytes());
  }

  async json(): Promise<unknown> {
    return JSON.parse(await this.text());
  }

  /** The bytes for a copy of this body. */
  peek(): Uint8Array | undefined {
    if (this.bodyUsed || this.#stream?.locked) {
      throw new TypeError("Body is unusable: it can't be copied after it was read");
    }
    return this.#bytes;
  }
}

/** A ReadableStream of one chunk, as far as readers and `for await` need it. */
class BodyStream {
  #chunk: Uint8Array | undefined;
  #isDisturbed = false;
  locked = false;

  constructor(chunk: Uint8Array) {
    this.#chunk = chunk.length > 0 ? chunk : undefined;
  }

  get isDisturbed(): boolean {
    return this.#isDisturbed;
  }

  take(): Uint8Array | undefined {
    const chunk = this.#chunk;
    this.#chunk = undefined;
    this.#isDisturbed = true;
    return chunk;
  }

  getReader(): BodyReader {
    if (this.locked) throw new TypeError("The body already has a reader");
    this.locked = true;
    return {
      closed: Promise.resolve(undefined),
      read: async () => {
        const value = this.take();
        return value === undefined ? { done: true, value } : { done: false, value };
      },
      cancel: async () => void this.take(),
      releaseLock: () => {
        this.locked = false;
      },
    };
  }

  async cancel(): Promise<void> {
    this.take();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, undefined> {
    const chunk = this.take();
    if (chunk !== undefined) yield chunk;
    return undefined;
  }
}

interface BodyReader {
  readonly closed: Promise<undefined>;
  read(): Promise<
    | { readonly done: false; readonly value: Uint8Array }
    | { readonly done: true; readonly value: undefined }
  >;
  cancel(): Promise<void>;
  releaseLock(): void;
}

export interface RequestInit {
  readonly method?: string;
  readonly headers?: HeadersInit;
  readonly body?: BodyInit;
  readonly signal?: AbortSignal | null;
  readonly redirect?: string;
}

const normalizedMethods = ["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"];

export class Request extends Body {
  readonly method: string;
  readonly url: string;
  readonly headers: Headers;
  readonly signal: AbortSignal;
  readonly redirect = "follow";

  constructor(input: string | URL | Request, init: RequestInit = {}) {
    const source = input instanceof Request ? input : undefined;
    const content = contentOf(init.body);
    const method = methodOf(init.method ?? source?.method ?? "GET");
    const bytes = content?.bytes ?? source?.peek();
    if (bytes !== undefined && (method === "GET" || method === "HEAD")) {
      throw new TypeError(`A ${method} request can't have a body`);
    }
    super(bytes);
    if (init.redirect !== undefined && init.redirect !== "follow") {
      throw new TypeError(`redirect: "${init.redirect}" is not supported in a guest`);
    }
    this.method = method;
    this.url = source?.url ?? requestUrl(String(input));
    this.headers = new Headers(init.headers ?? source?.headers);
    this.signal = init.signal ?? source?.signal ?? AbortSignal.create();
    addContentType(this.headers, content);
    // Reading the source's body moves it here, as `fetch` does.
    if (source !== undefined && content === undefined) source.body?.take();
  }

  clone(): Request {
    return new Request(this.url, {
      method: this.method,
      headers: this.headers,
      signal: this.signal,
      body: this.peek() ?? null,
    });
  }
}

function methodOf(method: string): string {
  const text = String(method);
  if (!/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(text) || /^(connect|trace|track)$/i.test(text)) {
    throw new TypeError(`Invalid request method: ${JSON.stringify(text)}`);
  }
  const upper = text.toUpperCase();
  return normalizedMethods.includes(upper) ? upper : text;
}

function requestUrl(input: string): string {
  const url = URL.parse(input);
  if (url === null) throw new TypeError(`Invalid URL: ${input}`);
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw new TypeError(`fetch knows http and https, not ${url.protocol}`);
  }
  if (url.username !== "" || url.password !== "") {
    throw new TypeError("A request's URL can't contain credentials: use a header");
  }
  return url.href;
}

function addContentType(headers: Headers, content: Content | undefined): void {
  if (content?.type !== undefined && !headers.has("content-type")) {
    headers.set("content-type", content.type);
  }
}

export interface ResponseInit {
  readonly status?: number;
  readonly statusText?: string;
  readonly headers?: HeadersInit;
}

const bodylessStatuses = [101, 103, 204, 205, 304];

export class Response extends Body {
  readonly status: number;
  readonly statusText: string;
  readonly headers: Headers;
  #url = "";
  #isRedirected = false;
  #type: "default" | "error" | "basic" = "default";

  constructor(body?: BodyInit, init: ResponseInit = {}) {
    const content = contentOf(body);
    const status = init.status ?? 200;
    if (!Number.isInteger(status) || status < 200 || status > 599) {
      throw new RangeError(`A response's status is 200 to 599, not ${status}`);
    }
    if (content !== undefined && bodylessStatuses.includes(status)) {
      throw new TypeError(`A response with status ${status} can't have a body`);
    }
    super(content?.bytes);
    this.status = status;
    this.statusText = String(init.statusText ?? "");
    this.headers = new Headers(init.headers);
    addContentType(this.headers, content);
  }

  static json(data: unknown, init: ResponseInit = {}): Response {
    const headers = new Headers(init.headers);
    if (!headers.has("content-type")) headers.set("content-type", "application/json");
    const text = JSON.stringify(data);
    if (text === undefined) throw new TypeError("Response.json: the value has no JSON form");
    return new Response(text, { ...init, headers });
  }

  static redirect(url: string | URL, status = 302): Response {
    if (![301, 302, 303, 307, 308].includes(status)) {
      throw new RangeError(`Not a redirect status: ${status}`);
    }
    return new Response(null, { status, headers: { location: new URL(String(url)).href } });
  }

  /** What a `fetch` command resolved with. */
  static received(answer: FetchResponse, requested: string): Response {
    const hasBody = !bodylessStatuses.includes(answer.status);
    const response = new Response(hasBody ? answer.body : null, answer);
    response.#url = answer.url;
    response.#isRedirected = answer.url !== requested;
    response.#type = "basic";
    return response;
  }

  get ok(): boolean {
    return this.status >= 200 && this.status <= 299;
  }

  get url(): string {
    return this.#url;
  }

  get redirected(): boolean {
    return this.#isRedirected;
  }

  get type(): string {
    return this.#type;
  }

  clone(): Response {
    const { status, statusText, headers } = this;
    const copy = new Response(this.peek() ?? null, { status, statusText, headers });
    copy.#url = this.#url;
    copy.#isRedirected = this.#isRedirected;
    copy.#type = this.#type;
    return copy;
  }
}

export type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>;

export function fetchFunction(kernel: Kernel): Fetch {
  return async function fetch(input, init = {}): Promise<Response> {
    const request = new Request(input, init);
    const { method, url, headers, signal } = request;
    signal.throwIfAborted();
    // Not awaited: the command belongs to the code that called, also in order.
    const body = request.consume();
    const command = kernel.command((id) => ({
      kind: "fetch",
      id,
      request: { method, url, headers: [...headers], ...(body && { body }) },
    }));
    const answer = await settled(kernel, command, signal).catch((error: unknown) => {
      throw signal.aborted ? signal.reason : networkError(error, request);
    });
    return Response.received(kernel.decode(answer) as FetchResponse, url); // PROTOCOL: fetch.
  };
}

/** The command's result, or the signal's reason: then the command is dropped. */
function settled(
  kernel: Kernel,
  command: ReturnType<Kernel["command"]>,
  signal: AbortSignal,
): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const give = (): void => {
      kernel.drop(command.id);
      reject(signal.reason);
    };
    signal.addEventListener("abort", give, { once: true });
    const done = (): void => signal.removeEventListener("abort", give);
    command.then(
      (value) => {
        done();
        resolve(value);
      },
      (error: unknown) => {
        done();
        reject(error);
      },
    );
  });
}

/** A TypeError as fetch gives it; the host's own error, with its code, is the cause. */
function networkError(error: unknown, request: Request): unknown {
  if (!(error instanceof Error) || error.name === "CancelledError") return error;
  const message = `${request.method} ${request.url} failed: ${error.message}`;
  const failure = new TypeError(message, { cause: error });
  for (const key of ["code", "class", "retryable"]) {
    const value: unknown = Reflect.get(error, key);
    if (value !== undefined) Object.defineProperty(failure, key, { value, configurable: true });
  }
  return failure;
}
