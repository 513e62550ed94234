/**
 * Finds the end of a dense sequence of objects 1, 2, 3 … without LIST, without a hint and
 * without an object that is ever overwritten, also after most of the early objects were
 * deleted. Owns the rule which objects must stay so that this works.
 *
 * T1 Objects are created in order and each at most once while the sequence needs it: if n
 *    was created, so were 1 … n-1.
 * T2 Deleting begins from a base b, which exists: every n < b may go, except powers of two
 *    and the *prefixes* of b, which are b with some of its low bits cleared. Later bases
 *    are greater.
 * T3 Before there is a base after c (0: before the first), and before anything above c is
 *    deleted for any other reason, the object `passed/<c>` is created. It is never deleted.
 *
 * Why the search below always finds its way: let N be the greatest object and q a prefix
 * of N, q < b <= N for the newest base b. Clearing the low i bits of N gives q, and b lies
 * between the two, so clearing the low i bits of b gives q as well: q is a prefix of b and
 * stays (T2). The same with b in the place of N and an earlier base in the place of b says
 * that what a base needs below an earlier one was kept by the earlier one too. So all
 * powers of two up to N and all prefixes of N exist, and nothing above N does: galloping
 * over the powers finds the top bit of N, and each lower bit is set exactly if the object
 * with it exists. Further objects below b that happen to exist do no harm.
 *
 * Why two questions tell whether n is the greatest object, for who has read n and knows the
 * newest base c up to it: first n+1 is not there, *then* `passed/<c>` is not there. If n+1 had
 * been created before the first question, it was deleted by then. What deleted it had a base
 * after c, or another reason, and either way `passed/<c>` was created before (T3) and is there
 * for ever; but it was not there. So n was the greatest at the moment of the first question.
 * Both answers are absences on purpose. That an object is *there* proves nothing: a PUT that was
 * on its way for long may create an old one again (log.ts L2), and n, for one, may have gone
 * and come back. In the other order they prove nothing either: all may happen in between.
 */

/** Whether object `seq` exists, asked of the store now. */
export type Exists = (seq: number) => Promise<boolean>;

/** Probes sent at once while galloping: 1 … 128 costs one round trip. */
const gallopProbes = 8;

/**
 * The greatest object, 0 if there is none. While others append and delete, the answer may
 * be too small: whoever depends on it creates the next object and asks `hasLater`. `probes`:
 * how many powers of two are asked for at once.
 */
export async function findTail(exists: Exists, probes = gallopProbes): Promise<number> {
  const top = await findTopBit(exists, probes);
  let found = top;
  let bit = top / 2;
  // Two bits per round trip: the object decides with both bits, with the first, with the
  // second alone.
  while (bit >= 1) {
    const half = bit / 2;
    const isLast = half < 1;
    const [both, first, second] = await Promise.all([
      isLast ? false : exists(found + bit + half),
      exists(found + bit),
      isLast ? false : exists(found + half),
    ]);
    if (first) found += both ? bit + half : bit;
    else if (second) found += half;
    bit = half / 2;
  }
  return found;
}

/** The greatest power of two that exists, 0 if none. */
async function findTopBit(exists: Exists, probes: number): Promise<number> {
  for (let base = 1, top = 0; ; base *= 2 ** probes) {
    const powers = Array.from({ length: probes }, (_, index) => base * 2 ** index);
    const found = await Promise.all(powers.map(exists));
    for (const [index, power] of powers.entries()) {
      if (found[index] !== true) return top;
      top = power;
    }
  }
}

/**
 * Whether an object after `seq` exists. Sound whatever others append and delete meanwhile:
 * if one existed when the question was asked, the answer is true.
 *
 * As long as the tail N is greater than seq, the prefix of N that ends at the highest bit
 * in which the two differ exists; it is the prefix of seq above that bit, plus the bit. N
 * only grows, so that bit only moves up. The probes go from the lowest bit to the highest,
 * one after the other: each absent probe proves that the bit is above it already, and the
 * last one, the next power of two, is never deleted. (From high to low would be unsound:
 * the tail can pass from behind a probe not made yet to one already made.)
 */
export async function hasLater(exists: Exists, seq: number): Promise<boolean> {
  let bit = 1;
  for (; bit <= seq; bit *= 2) {
    const isClear = Math.floor(seq / bit) % 2 === 0;
    if (isClear && (await exists(seq - (seq % bit) + bit))) return true;
  }
  return exists(bit);
}

/** T2: whether object `seq` must stay when everything below `base` may go. */
export function staysBelow(seq: number, base: number): boolean {
  const bit = lowestBit(seq);
  return seq >= base || seq === bit || base - (base % bit) === seq;
}

/** `seq` with its low bits cleared one after the other, without 0 and itself. */
export function prefixesOf(seq: number): number[] {
  const prefixes: number[] = [];
  for (let rest = seq - lowestBit(seq); rest > 0; rest -= lowestBit(rest)) prefixes.push(rest);
  return prefixes;
}

/** Bit operators would cut at 32 bits. */
function lowestBit(seq: number): number {
  let bit = 1;
  while (seq > 0 && seq % (bit * 2) === 0) bit *= 2;
  return bit;
}

/** Part of a key: 16 hex digits, so that keys sort as numbers do. */
export function seqText(seq: number): string {
  return seq.toString(16).padStart(16, "0");
}
