/**
 * Objects as files below one folder. Owns atomicity and durability: an object appears
 * whole or not at all, and what `put` reported is there after a power cut.
 *
 * A put writes a temporary file in the same file system, flushes it, gives it its name
 * (`link`, which fails if the name is taken: create-if-absent; or `rename`, which
 * overwrites), and flushes the folder. Puts that wait for the same folder share one flush
 * of it. What may wait for the disk leaves the event loop: the two flushes, and making
 * files, which a journaling file system holds up while it flushes. So the next temporary
 * file is made beforehand, beside the flushes of this one. Writing a few kilobytes into the
 * page cache, linking and unlinking take microseconds, and a thread-pool round trip for
 * each would be most of the cost of a commit.
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
const open = promisify(fs.open);
const read = promisify(fs.read);
const write = promisify(fs.write);

/** Starts with a dot, which no encoded segment does. */
const temporaryFolder = ".temporary";
/** A temporary file lives for milliseconds; one this old belongs to a dead process. */
const temporaryAgeMaxMs = 60_000;
/** Above this a write or read leaves the event loop too. */
const inlineBytesMax = 64 * 1024;
/** Folders kept open for their flushes. */
const folderFdsMax = 64;

interface Temporary {
  readonly file: string;
  readonly fd: number;
  readonly madeAtMs: number;
}

export class FileStore implements Store {
  readonly #root: string;
  readonly #temporary: string;
  /** Folders known to exist durably. */
  readonly #folders = new Set<string>();
  readonly #flushes = new Map<string, Promise<void>>();
  readonly #flushesQueued = new Map<string, Promise<void>>();
  /** Folders that are flushed again and again, by path. */
  readonly #folderFds = new Map<string, number>();
  /** A temporary file made beforehand. */
  #spare: Promise<Temporary> | undefined;
  readonly #token = `${process.pid}-${Math.random().toString(36).slice(2, 10)}`;
  #counter = 0;

  /** For reading only. Whoever writes uses `open`, which also prepares the folder. */
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
      const folder = path.dirname(target);
      assert(!this.#isBelowFile(folder), `no key is a folder of "${key}"`);
      await this.#makeFolder(folder);
      const source = await this.#writeTemporary(bytes);
      try {
        const result = isExclusive ? linkIfFree(source, target) : overwrite(source, target);
        // The winner's flush may still be under way, so the loser waits for one too: what
        // it reads back must not vanish.
        await this.#flushFolder(folder);
        return result;
      } catch (error) {
        assert(!isFolder(target), `no key is a folder of "${key}"`);
        throw error;
      } finally {
        // After the flush, which would otherwise wait for this too.
        if (isExclusive) removeIfThere(source);
      }
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
    await Promise.allSettled([...this.#flushes.values(), ...this.#flushesQueued.values()]);
    for (const fd of this.#folderFds.values()) fs.closeSync(fd);
    this.#folderFds.clear();
    const spare = await this.#spare?.catch(() => undefined);
    this.#spare = undefined;
    if (spare === undefined) return;
    fs.closeSync(spare.fd);
    removeIfThere(spare.file);
  }

  #pathOf(key: string): string {
    return path.join(this.#root, ...checkKey(key).split("/").map(encodeSegment));
  }

  #isBelowFile(folder: string): boolean {
    if (folder === this.#root || this.#folders.has(folder)) return false;
    return isFile(folder) || this.#isBelowFile(path.dirname(folder));
  }

  async #writeTemporary(bytes: Uint8Array): Promise<string> {
    const { file, fd } = (await this.#takeSpare()) ?? (await this.#makeTemporary());
    try {
      await writeAll(fd, bytes);
      const flushed = fdatasync(fd);
      this.#spare ??= this.#makeTemporary();
      this.#spare.catch(() => {}); // the put that takes it hears of it
      await flushed;
    } catch (error) {
      removeIfThere(file);
      throw error;
    } finally {
      fs.closeSync(fd);
    }
    return file;
  }

  /** An old one may be gone: another process that opens the folder takes it for a dead one's. */
  async #takeSpare(): Promise<Temporary | undefined> {
    const taken = this.#spare;
    this.#spare = undefined;
    const spare = await taken;
    if (spare === undefined) return undefined;
    if (performance.now() - spare.madeAtMs < temporaryAgeMaxMs / 2) return spare;
    fs.closeSync(spare.fd);
    removeIfThere(spare.file);
    return undefined;
  }

  async #makeTemporary(): Promise<Temporary> {
    this.#counter += 1;
    const file = path.join(this.#temporary, `${this.#token}-${this.#counter}`);
    return { file, fd: await open(file, "wx"), madeAtMs: performance.now() };
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
    const flush = this.#syncFolder(folder).finally(() => {
      if (this.#flushes.get(folder) === flush) this.#flushes.delete(folder);
    });
    this.#flushes.set(folder, flush);
    return flush;
  }

  async #syncFolder(folder: string): Promise<void> {
    let fd = this.#folderFds.get(folder);
    if (fd !== undefined) return fsync(fd);
    fd = fs.openSync(folder, "r");
    try {
      await fsync(fd);
    } finally {
      if (this.#folderFds.size < folderFdsMax) this.#folderFds.set(folder, fd);
      else fs.closeSync(fd);
    }
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

function linkIfFree(source: string, target: string): PutResult {
  try {
    fs.linkSync(source, target);
    return "created";
  } catch (error) {
    if (isCode(error, "EEXIST") && !isFolder(target)) return "exists";
    throw error;
  }
}

function overwrite(source: string, target: string): PutResult {
  try {
    fs.renameSync(source, target);
    return "created";
  } catch (error) {
    removeIfThere(source);
    throw error;
  }
}

function removeIfThere(file: string): void {
  try {
    fs.unlinkSync(file);
  } catch (error) {
    // What stays behind is removed by a later `open`, by its age.
    if (!isCode(error, "ENOENT", "EACCES", "EIO", "EROFS")) throw error;
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
