/**
 * Code of which there are many versions: a component's text says `variant 3 from 2;`, and the
 * sandbox says here which one is at work. There is only one guest, so this is how components differ.
 */
import { sleep, step, workflow } from "../../guest/index.ts";
import { effect } from "./guest.ts";

export interface Variant {
  readonly variant: number;
  /** The first round in which it says so. */
  readonly from: number;
}

/** Of the component whose activation this is. */
export const code: { variant: Variant } = { variant: { variant: 0, from: 0 } };

export function variantOf(text: string): Variant {
  const [, variant = "0", from = "0"] = /variant (\d+) from (\d+);/.exec(text) ?? [];
  return { variant: Number(variant), from: Number(from) };
}

/** What code of that variant says in so many rounds. */
export function saidBy({ variant, from }: Variant, rounds: number): number[] {
  return Array.from({ length: rounds }, (_, round) => (round >= from ? variant : 0));
}

const saying = step("saying", (round: number): number => {
  const { variant, from } = code.variant;
  return round >= from ? variant : 0;
});

export const coded = workflow("coded", async (rounds: number) => {
  const said: number[] = [];
  for (let round = 0; round < rounds; round++) {
    said.push(await saying(round));
    await effect(`round ${round}`);
    await sleep(25);
  }
  return said;
});
