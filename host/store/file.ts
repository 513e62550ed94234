/**
 * Objects as files below one folder. Owns atomicity and durability: an object appears
 * whole or not at all, and what `put` reported is there after a power cut.
 *
 * A put writes a temporary file in the same file system, flushes it, gives it its name
 * (`link`, which fails if the name is taken: create-if-absent; or `rename`, which
 * overwrites), and flushes the folder. Puts that wait for the same folder share one flush
 * of it. Only the two flushes leave the event loop: they take as long as the disk likes;
 * opening, writing a few kilobytes into the page cache and linking take microseconds, and
 * a thread-pool round trip for each would be most of the cost of a commit.
 *
 * Several processes may use one folder. Limits: the file system must be local (`link` over
 * some network file systems is not exclusive) and case-sensitive; and no key may be a
 * folder of another (`a` beside `a/b`), which is refused, never mixed up.
 */
import * as fs from "node:fs";
import * as path from "node:path";
import { promisify } from "node:util";
import { assert, SporeError } from "../../runtime/errors.ts";
import type { ByteRange, ListResult, PutResult, Store } from "../../runtime/ports.ts";
import { checkKey } from "./key.ts";

const fdatasync = promisify(fs.fdatasync);
const fsync = promisify(fs.fsync);
const read = promisify(fs.read);
const unlink = promisify(fs.unlink);
const write = promisify(fs.write);

/** Starts with a dot, which no encoded segment does. */
const temporaryFolder = ".temporary";
/** A temporary file lives for milliseconds; one this old belongs to a dead process. */
const temporaryAgeMaxMs = 60_000;
/** Above this a write or read leaves the event loop too. */
const inlineBytesMax = 64 * 1024;

export class FileStore implements Store {
  readonly #root: string;
  readonly #temporary: string;
  /** Folders known to exist durably. */
  readonly #folders = new Set<string>();
  readonly #flushes = new Map<string, Promise<void>>();
  readonly #flushesQueued = new Map<string, Promise<void>>();
  readonly #removals = new Set<Promise<void>>();
  readonly #token = `${process.pid}-${Math.random().toString(36).slice(2, 10)}`;
  #counter = 0;

  /** Use `open`, which also prepares the folder. */
  constructor(root: string) {
    this.#root = path.resolve(root);
    this.#temporary = path.join(this.#root, temporaryFolder);
  }

  /** Creates the folder if need be and removes what dead processes left behind. */
  static async open(root: string): Promise<FileStore> {
    const store = new FileStore(root);
    await guarded(root, async () => {
      await store.#makeFolder(store.#temporary);
      for (const name of fs.readdirSync(store.#temporary)) store.#removeIfOld(name);
    });
    return store;
  }

  async get(key: string, range?: ByteRange): Promise<Uint8Array | undefined> {
    const file = this.#pathOf(key);
    return guarded(key, async () => {
      const fd = openIfThere(file);
      if (fd === undefined) return undefined;
      try {
        const stat = fs.fstatSync(fd);
        if (stat.isDirectory()) return undefined;
        const offset = Math.min(range?.offset ?? 0, stat.size);
        const length = Math.min(range?.length ?? stat.size, stat.size - offset);
        return await readAll(fd, offset, length);
      } finally {
        fs.closeSync(fd);
      }
    });
  }

  async put(
    key: string,
    bytes: Uint8Array,
    options: { ifAbsent?: boolean } = {},
  ): Promise<PutResult> {
    const target = this.#pathOf(key);
    const isExclusive = options.ifAbsent === true;
    return guarded(key, async () => {
      // An early answer only: `link` below decides. The winner's flush may still be under
      // way, so the loser waits for one too: what it reads back must not vanish.
      if (isExclusive && isFile(target)) {
        await this.#flushFolder(path.dirname(target));
        return "exists";
      }
      const folder = path.dirname(target);
      assert(!isFolder(target) && !this.#isBelowFile(folder), `no key is a folder of "${key}"`);
      await this.#makeFolder(folder);
      const source = await this.#writeTemporary(bytes);
      const result = isExclusive
        ? linkIfFree(source, target, () => this.#discard(source))
        : overwrite(source, target, () => this.#discard(source));
      await this.#flushFolder(folder);
      return result;
    });
  }

  async delete(key: string): Promise<void> {
    const file = this.#pathOf(key);
    await guarded(key, async () => {
      try {
        fs.unlinkSync(file);
      } catch (error) {
        // Unlinking a folder is EISDIR or EPERM, by system; a folder is not an object.
        if (!isCode(error, "ENOENT", "ENOTDIR") && !isFolder(file)) throw error;
        return;
      }
      await this.#flushFolder(path.dirname(file));
    });
  }

  async list(
    prefix: string,
    options: { after?: string; limit?: number } = {},
  ): Promise<ListResult> {
    const { after = "", limit = 1000 } = options;
    return guarded(prefix, async () => {
      const keys: { key: string; size: number }[] = [];
      for (const entry of this.#walk("", { prefix, after })) {
        if (keys.length === limit) return { keys, isTruncated: true };
        keys.push(entry);
      }
      return { keys, isTruncated: false };
    });
  }

  async close(): Promise<void> {
    const flushes = [...this.#flushes.values(), ...this.#flushesQueued.values()];
    await Promise.allSettled([...flushes, ...this.#removals]);
  }

  #pathOf(key: string): string {
    return path.join(this.#root, ...checkKey(key).split("/").map(encodeSegment));
  }

  #isBelowFile(folder: string): boolean {
    if (folder === this.#root || this.#folders.has(folder)) return false;
    return isFile(folder) || this.#isBelowFile(path.dirname(folder));
  }

  async #writeTemporary(bytes: Uint8Array): Promise<string> {
    this.#counter += 1;
    const file = path.join(this.#temporary, `${this.#token}-${this.#counter}`);
    const fd = fs.openSync(file, "wx");
    try {
      await writeAll(fd, bytes);
      await fdatasync(fd);
    } finally {
      fs.closeSync(fd);
    }
    return file;
  }

  /** Nobody waits for it; what stays behind after a crash is removed by a later `open`. */
  #discard(temporary: string): void {
    const removal = unlink(temporary).catch(() => {});
    this.#removals.add(removal);
    removal.finally(() => this.#removals.delete(removal));
  }

  #removeIfOld(name: string): void {
    const file = path.join(this.#temporary, name);
    try {
      if (Date.now() - fs.statSync(file).mtimeMs > temporaryAgeMaxMs) fs.unlinkSync(file);
    } catch (error) {
      // Another process opened the same store and removed it first.
      if (!isCode(error, "ENOENT")) throw error;
    }
  }

  /** Makes the folder and its parents, each durable in its own parent before it is used. */
  async #makeFolder(folder: string): Promise<void> {
    if (this.#folders.has(folder)) return;
    const isRoot = folder === this.#root;
    if (!isRoot) await this.#makeFolder(path.dirname(folder));
    const isMade = fs.mkdirSync(folder, { recursive: true }) !== undefined;
    // A folder that was there may be another put's, not flushed yet. Above the root we may
    // not even be allowed to look, so there only what we made is flushed.
    if (isMade || !isRoot) await this.#flushFolder(path.dirname(folder));
    this.#folders.add(folder);
  }

  /**
   * Resolves when everything that was in the folder at the call is durable: a flush that
   * already runs may have begun too early, so callers share the one that comes after it.
   */
  #flushFolder(folder: string): Promise<void> {
    const running = this.#flushes.get(folder);
    if (running === undefined) return this.#startFlush(folder);
    let queued = this.#flushesQueued.get(folder);
    if (queued === undefined) {
      const next = (): Promise<void> => {
        this.#flushesQueued.delete(folder);
        return this.#startFlush(folder);
      };
      queued = running.then(next, next);
      this.#flushesQueued.set(folder, queued);
    }
    return queued;
  }

  #startFlush(folder: string): Promise<void> {
    const flush = syncFolder(folder).finally(() => {
      if (this.#flushes.get(folder) === flush) this.#flushes.delete(folder);
    });
    this.#flushes.set(folder, flush);
    return flush;
  }

  /** Objects below a folder in code-unit order of their keys; skips what can't match. */
  *#walk(
    above: string,
    wanted: { prefix: string; after: string },
  ): Generator<{ key: string; size: number }> {
    for (const name of this.#namesIn(above)) {
      const key = above + name;
      if (name.endsWith("/")) {
        const mayMatch = key.startsWith(wanted.prefix) || wanted.prefix.startsWith(key);
        const isPast = key < wanted.after && !wanted.after.startsWith(key);
        if (mayMatch && !isPast) yield* this.#walk(key, wanted);
      } else if (key.startsWith(wanted.prefix) && key > wanted.after) {
        const stat = fs.statSync(this.#pathOf(key), { throwIfNoEntry: false });
        if (stat !== undefined) yield { key, size: stat.size };
      }
    }
  }

  /** Segments in one folder, folders with a `/`, which is how they sort among keys. */
  #namesIn(above: string): string[] {
    const folder = above === "" ? this.#root : this.#pathOf(above.slice(0, -1));
    const names: string[] = [];
    for (const entry of readFolder(folder)) {
      if (entry.name.startsWith(".")) continue;
      const segment = decodeURIComponent(entry.name);
      names.push(entry.isDirectory() ? `${segment}/` : segment);
    }
    return names.sort();
  }
}

/** Percent signs for what some file system, shell or person might trip over. */
function encodeSegment(segment: string): string {
  return segment.replace(/^\.|[^A-Za-z0-9._=@+,-]/g, (character) => {
    return `%${character.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`;
  });
}

function linkIfFree(source: string, target: string, discard: () => void): PutResult {
  try {
    fs.linkSync(source, target);
    return "created";
  } catch (error) {
    if (isCode(error, "EEXIST")) return "exists";
    throw error;
  } finally {
    discard();
  }
}

function overwrite(source: string, target: string, discard: () => void): PutResult {
  try {
    fs.renameSync(source, target);
    return "created";
  } catch (error) {
    discard();
    throw error;
  }
}

async function writeAll(fd: number, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const left = bytes.length - at;
    at +=
      bytes.length <= inlineBytesMax
        ? fs.writeSync(fd, bytes, at, left, at)
        : await write(fd, bytes, at, left, at).then((done) => done.bytesWritten);
  }
}

async function readAll(fd: number, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let at = 0;
  while (at < length) {
    const count =
      length <= inlineBytesMax
        ? fs.readSync(fd, bytes, at, length - at, offset + at)
        : await read(fd, bytes, at, length - at, offset + at).then((done) => done.bytesRead);
    if (count === 0) break;
    at += count;
  }
  return at === length ? bytes : bytes.slice(0, at);
}

async function syncFolder(folder: string): Promise<void> {
  const fd = fs.openSync(folder, "r");
  try {
    await fsync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

function openIfThere(file: string): number | undefined {
  try {
    return fs.openSync(file, "r");
  } catch (error) {
    if (isCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw error;
  }
}

function readFolder(folder: string): fs.Dirent[] {
  try {
    return fs.readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if (isCode(error, "ENOENT", "ENOTDIR")) return [];
    throw error;
  }
}

function isFile(file: string): boolean {
  try {
    return fs.statSync(file, { throwIfNoEntry: false })?.isFile() === true;
  } catch (error) {
    if (isCode(error, "ENOTDIR")) return false;
    throw error;
  }
}

function isFolder(file: string): boolean {
  try {
    return fs.statSync(file, { throwIfNoEntry: false })?.isDirectory() === true;
  } catch (error) {
    if (isCode(error, "ENOTDIR")) return false;
    throw error;
  }
}

function isCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}

/** Whatever the file system says, the caller's move is the same: try again later. */
async function guarded<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (cause instanceof SporeError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new SporeError("store-unavailable", `file store, ${what}: ${reason}`, {
      cause,
      hint: "Check the folder's permissions and free space.",
    });
  }
}
