/**
 * The proof that a store keeps what it has: two writes on one key under the condition that
 * there is nothing yet. A store that lets the second one through would let two hosts own
 * one partition, so no host starts on it. Only what was seen counts as evidence: a call
 * without an answer proves nothing and is repeated.
 */
import { SporeError } from "../../runtime/errors.ts";
import type { Store } from "../../runtime/ports.ts";

/** Creators that race for one key, at once. */
const racersCount = 4;
const waitMs = 500;

export interface Proof {
  /** What to call the store in a refusal. */
  readonly name: string;
  /**
   * Keys that creators race for, all at once. In a store that looks first and then writes most
   * races have one winner: the more there are, the surer it is found out.
   */
  readonly races: number;
  /** Bound on waiting for a store that doesn't answer. */
  readonly patienceMs: number;
  /** Whether asking again is no use. */
  readonly isFinal: (error: SporeError) => boolean;
}

/**
 * Throws store-unsafe if the store has no create-if-absent, store-unavailable if it gave no
 * answer for so long. Leaves nothing behind.
 */
export async function proveCreates(store: Store, proof: Proof): Promise<void> {
  const endMs = Date.now() + proof.patienceMs;
  const prefix = `probe/${globalThis.crypto.randomUUID()}`;
  const twice = `${prefix}-twice`;
  const raced = Array.from({ length: proof.races }, (_, index) => `${prefix}-race-${index}`);
  const create = (key: string, byte: number): Promise<boolean> =>
    patiently(proof, endMs, async () => {
      return (await store.put(key, new Uint8Array([byte]), { ifAbsent: true })) === "created";
    });
  try {
    await create(twice, 1);
    const isOverwritten = await create(twice, 2);
    const kept = await patiently(proof, endMs, () => store.get(twice));
    if (isOverwritten || kept?.join() !== "1") throw refusal(proof, "an object was overwritten");
    const race = async (key: string): Promise<number> => {
      const racers = Array.from({ length: racersCount }, (_, index) => create(key, index));
      return (await Promise.all(racers)).filter((isWinner) => isWinner).length;
    };
    // None is possible: the winner's answer was lost, and it then met its own object.
    const winners = Math.max(...(await Promise.all(raced.map(race))));
    if (winners > 1) throw refusal(proof, `${winners} of ${racersCount} creators won`);
  } finally {
    // What stays is a few tiny objects that nobody reads.
    await Promise.allSettled([twice, ...raced].map((key) => store.delete(key)));
  }
}

async function patiently<T>(proof: Proof, endMs: number, work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof SporeError) || error.code !== "store-unavailable") throw error;
      if (proof.isFinal(error) || Date.now() + waitMs > endMs) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, waitMs));
  }
}

function refusal(proof: Proof, what: string): SporeError {
  return new SporeError(
    "store-unsafe",
    `${proof.name} has no conditional writes (If-None-Match): ${what}`,
    { hint: "Two hosts could own one partition there. Use a store with create-if-absent." },
  );
}
