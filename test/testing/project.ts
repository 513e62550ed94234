/** What the tests of the testing kit run. */
import {
  actor,
  context,
  type Graph,
  query,
  run,
  signal,
  sleep,
  step,
  workflow,
} from "sporeflow/guest";

export const charge = step("charge", async (customer: string, euros: number) => {
  const response = await fetch("https://bank.example/charges", {
    method: "POST",
    headers: { "idempotency-key": context().step?.idempotencyKey ?? "" },
    body: JSON.stringify({ customer, euros }),
  });
  if (!response.ok) throw new Error(`the bank says ${response.status}`);
  return (await response.json()) as { receipt: string };
});

export const double = step("double", (n: number) => n * 2, { catchErrors: true });
export const doubled = workflow("doubled", (n: number) => double(n));
export const add = step("add", (a: number, b: number) => a + b);
export const sum = step(
  "sum",
  (n: number): Graph<number> => (n === 0 ? 0 : add.step(n, sum.step(n - 1))),
);

export const order = workflow("order", async (customer: string, euros: number) => {
  let status = "charging";
  query("status", () => status);
  const { receipt } = await charge(customer, euros);
  status = "waiting";
  const isApproved = await signal<boolean>("approve", { timeout: "7 days" }).catch(() => false);
  status = isApproved ? "shipped" : "refused";
  return { status, receipt };
});

export const nap = workflow("nap", async (days: number) => {
  await sleep(`${days} days`);
  return new Date();
});

export const slow = step("slow", async () => 1, { timeout: "1 minute", retries: 1 });
export const impatient = workflow("impatient", () => slow());
export const inline = workflow("inline", () => run("dice", () => 4));
export const waiting = workflow("waiting", () => signal("never"));
export const broken = workflow("broken", async () => {
  await add(1, 2);
  throw new TypeError("no such thing");
});
/** Two steps that fail at once, the first time: one will be tried again, the run fails of the other. */
function secondTime(n: number): number {
  if (context().step?.attempt === 1) throw new Error(`${n}: not yet`);
  return n;
}
const shaky = step("shaky", secondTime);
const fatal = step("fatal", secondTime, { retries: 0 });
export const both = workflow("both", () => Promise.all([shaky(1), fatal(2)]));
export const tick = workflow("tick", () => context().run.runId);

export const Account = actor(
  "Account",
  class {
    cents = 0;
    pay(cents: number): number {
      this.cents += cents;
      return this.cents;
    }
    async payCard(customer: string, euros: number): Promise<number> {
      await charge(customer, euros);
      return this.pay(euros * 100);
    }
    balance(): number {
      return this.cents;
    }
  },
  { readonly: ["balance"] },
);
