/**
 * In how many partitions a namespace lies, and in which folder. It begins with what `namespace`
 * says; each change is a version of a register (reshard.ts makes them).
 *
 * Y1 Who changes the layout seals the log of every partition first: the seal is a claim that
 *    names the version to come. Behind a seal nobody claims before that version exists, so
 *    the log ends there while the new layout is being decided.
 * Y2 The version is made once: by the one who changes the layout, or by a host that gives up
 *    waiting for it and writes the old layout again. What it says holds for all seals with
 *    its number, whoever comes late.
 */
import { decode, encode } from "../guest/cbor.ts";
import { SporeError } from "./errors.ts";
import { decodeRow } from "./format.ts";
import type { Clock, Digest, Observer, Random, Store } from "./ports.ts";
import { Register, type RegisterVersion } from "./register.ts";

export const partitionsMax = 1024;

export interface Layout {
  /** Version of the register; 0 for the layout that the namespace was made with. */
  readonly number: number;
  readonly partitions: number;
  /** Of the partitions' objects, below the namespace's prefix; without a slash at its end. */
  readonly folder: string;
}

export interface LayoutsOptions {
  readonly store: Store;
  /** Of the namespace. */
  readonly prefix: string;
  readonly random: Random;
  readonly digest: Digest;
  readonly clock: Clock;
  readonly observer: Observer;
}

/** Where the layouts after the first are. */
export function layoutRegister(options: LayoutsOptions): Register {
  return new Register({ ...options, prefix: `${options.prefix}layouts` });
}

export class Layouts {
  readonly #register: Register;
  readonly #first: Layout;

  /** `partitions`: what `namespace` says. */
  constructor(register: Register, partitions: number) {
    this.#register = register;
    this.#first = { number: 0, partitions, folder: "p" };
  }

  async current(): Promise<Layout> {
    return this.at(await this.#register.readLatest());
  }

  /** The layout that a version of the register is; none: the first. */
  at(version: RegisterVersion | undefined): Layout {
    return version === undefined ? this.#first : readLayout(version.seq, version.value);
  }

  /** Makes the version after `before`, unless somebody else did: then that is answered (Y2). */
  async change(before: Layout, next: Omit<Layout, "number">): Promise<Layout> {
    const { partitions, folder } = next;
    const result = await this.#register.append(encode({ partitions, folder }), before.number);
    return result.kind === "written"
      ? { number: result.seq, partitions, folder }
      : readLayout(result.found.seq, result.found.value);
  }

  close(): void {
    this.#register.close();
  }
}

/** The version of the layout that a sealing claim is for (Y1); else 0. */
export function sealOf(claim: Uint8Array): number {
  return decodeRow<{ seal?: number }>("claim", claim).seal ?? 0;
}

function readLayout(number: number, value: Uint8Array): Layout {
  const { partitions, folder } = decode(value) as Partial<Layout>; // checked below
  const isSound =
    typeof partitions === "number" &&
    Number.isInteger(partitions) &&
    partitions >= 1 &&
    partitions <= partitionsMax &&
    typeof folder === "string" &&
    /^p[a-z0-9-]*$/.test(folder);
  if (isSound) return { number, partitions, folder };
  throw new SporeError("corrupt-log", `layout ${number} of the namespace can't be read`);
}
