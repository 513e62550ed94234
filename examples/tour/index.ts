/**
 * The tour: what `npm start` builds and serves. Small definitions that show one idea
 * each, from graphs of steps to an order that waits for a week.
 *
 *     $ npx spore run fib 10
 *     $ npx spore run order '{"items":[{"name":"book","price":12}]}' --id order_1 --detach
 *     $ npx spore signal order_1 approve true
 */
import {
  actor,
  type Graph,
  query,
  type Self,
  signal,
  sleep,
  start,
  step,
  TimeoutError,
  update,
  workflow,
} from "sporeflow/guest";

// Graphs. A client runs them as they are: client.run(add.step(100, one.step())).

export const one = step("one", () => 1);

export const add = step("add", (left: number, right: number) => left + right);

/** A step may return a graph: it continues there. */
export const fib = step(
  "fib",
  (n: number): Graph<number> => (n <= 1 ? n : add.step(fib.step(n - 1), fib.step(n - 2))),
);

export const hello = step("hello", (message: string) => `hello ${message}`);

export const words = step("words", () => ["good", "morning"]);

/** Nodes may sit anywhere in the arguments: concat.step([hello.step("a"), words.step()]). */
export const concat = step("concat", (parts: readonly (string | readonly string[])[]) =>
  parts.flat().join(" "),
);

export const double = step("double", (value: number) => 2 * value);

// Actors. Each key is an object of its own, whose calls come one at a time.

export const Counter = actor(
  "Counter",
  class {
    n: number;

    constructor(n = 0) {
      this.n = n;
    }

    incr(by = 1): number {
      this.n += by;
      return this.n;
    }

    value(): number {
      return this.n;
    }
  },
  { readonly: ["value"] },
);

class Doubler {
  value = 1;

  /** Gives the double, or also stores it: then the step's value goes to another method. */
  double(this: Self<Doubler>, isStored: boolean): Graph<number> {
    const node = double.step(this.value);
    return isStored ? this.update.step(node) : node;
  }

  update(value: number): number {
    this.value = value;
    return this.value;
  }
}

export const Actor = actor("Actor", Doubler);

export interface Item {
  readonly name: string;
  readonly price: number;
}

export const packItem = step("packItem", (item: Item) => `${item.name} packed`);

/** Shipping takes its time, so it is a workflow and not a part of the cart's turn. */
export const ship = workflow("ship", async (items: readonly Item[]) => {
  const packed: string[] = [];
  for (const item of items) packed.push(await packItem(item));
  await sleep("1 s");
  return { shipped: packed.length };
});

export const ShoppingCart = actor(
  "ShoppingCart",
  class {
    items: Item[] = [];
    orderId: string;
    shipmentId: string | undefined;

    constructor(orderId: string) {
      this.orderId = orderId;
    }

    addItem(item: Item): number {
      this.items.push(item);
      return this.items.length;
    }

    /** Starts the shipment and returns; the id is the same however often this runs. */
    async checkout(): Promise<string> {
      const id = `ship_${this.orderId}`;
      await start(ship.with(this.items), { id });
      this.shipmentId = id;
      return id;
    }

    contents(): { items: readonly Item[]; total: number; shipmentId: string | undefined } {
      const total = this.items.reduce((sum, { price }) => sum + price, 0);
      return { items: this.items, total, shipmentId: this.shipmentId };
    }
  },
  { readonly: ["contents"] },
);

// Workflows.

export interface Order {
  readonly items: readonly Item[];
  /** Small steps to run after the payment. */
  readonly steps?: number;
  /** Gets a POST for each payment that is really made. */
  readonly counterUrl?: string;
}

export const charge = step("charge", async (order: Order) => {
  const amount = order.items.reduce((sum, { price }) => sum + price, 0);
  if (order.counterUrl !== undefined) await countAt(order.counterUrl, "charge");
  return { amount };
});

/** Calls a counter outside once per execution: shows that a finished step never runs again. */
export const visit = step("visit", (counterUrl: string) => countAt(counterUrl, "visit"));

async function countAt(counterUrl: string, name: string): Promise<string> {
  const response = await fetch(counterUrl, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ step: name }),
  });
  if (!response.ok) throw new Error(`the counter answered ${response.status}`);
  return response.text();
}

/** One visit after the other: each waits for the outside world. */
export const rounds = workflow("rounds", async (counterUrl: string, count: number) => {
  const answers: string[] = [];
  for (let round = 0; round < count; round++) {
    answers.push(await visit(`${counterUrl}/${round}`));
  }
  return answers.length;
});

export const inspectItem = step("inspectItem", (checked: number) => checked + 1);

export const order = workflow("order", async (input: Order) => {
  let status = "charging";
  query("status", () => status);
  const receipt = await charge(input);

  status = "inspecting";
  let checked = 0;
  while (checked < (input.steps ?? 0)) checked = await inspectItem(checked);

  status = "waiting for approval";
  if (!(await approval())) {
    status = "refused";
    return { status, receipt, checked };
  }

  status = "shipping";
  await sleep("1 s");
  const shipment = await ship(input.items);
  status = "shipped";
  return { status, receipt, checked, ...shipment };
});

/** Nobody's answer within a week is a no. */
async function approval(): Promise<boolean> {
  try {
    return await signal<boolean>("approve", { timeout: "7 days" });
  } catch (error) {
    if (error instanceof TimeoutError) return false;
    throw error;
  }
}

const pointsForGold = 1000;

export const welcome = step("welcome", (customer: string) => `Welcome, ${customer}!`);

/** A workflow as an actor: one customer's points, kept until the customer leaves. */
export const loyalty = workflow("loyalty", async (customer: string, points: number = 0) => {
  const message = (): string =>
    points >= pointsForGold ? "Welcome to Gold Status!" : "Thanks for being a loyal customer!";
  query("getLoyaltyMessage", message);
  query("points", () => points);
  update("addLoyaltyPoint", () => {
    points += 1;
    return message();
  });
  if (points === 0) await welcome(customer);
  await signal("leave");
  return points;
});

/** A race of approvals with a deadline, and steps side by side: plain promises. */
export const quotes = workflow("quotes", async (amounts: readonly number[]) => {
  const doubled = await Promise.all(amounts.map((amount) => double(amount)));
  const best = Math.min(...doubled);
  const answer = await Promise.race([
    signal<string>("choose"),
    sleep("30 days").then(() => "nobody chose"),
  ]);
  return { best, answer };
});
