/** What must compile, and what must not, of tests. Compiled by `check`, never run. */
import { step } from "sporeflow/guest";
import { crashTest, type TestHost } from "sporeflow/testing";

const charge = step("charge", async (customer: string, euros: number) => ({ customer, euros }));
const half = step("half", (n: number) => n / 2, { catchErrors: true });

export function mocks(spore: TestHost): void {
  spore.mock(charge, (customer, euros) => ({ customer: customer.trim(), euros: euros + 1 }));
  spore.mock(charge, async (customer) => ({ customer, euros: 1 }));
  spore.mock(charge, function (customer) {
    return { customer, euros: this.attempt };
  });
  // Not the pair that the caller gets: the mock stands for the body.
  spore.mock(half, (n) => n);
  spore.mock("inline", (text: string) => text.length);

  // @ts-expect-error: a step gives an object.
  spore.mock(charge, () => 1);
  // @ts-expect-error: euros is a number.
  spore.mock(charge, (customer: string, _euros: string) => ({ customer, euros: 1 }));
  // @ts-expect-error: the bare value, not a pair.
  spore.mock(half, (n) => [n, undefined]);
  // @ts-expect-error: a workflow's body is what is tested.
  spore.mock({ kind: "workflow" }, () => 1);
}

export async function crashes(entry: URL): Promise<number> {
  const result = await crashTest({ entry, pointsMax: 10 }, async (spore) => {
    const run = await spore.client.start(charge.step("Ada", 1));
    const output: { customer: string; euros: number } = await run.result();
    spore.now().setTime(output.euros);
  });
  return result.crashes;
}
