/**
 * A shopping cart in its good and its bad forms. A cart is an actor; its shipment takes days.
 * An actor serves one call after the other, so what takes days must not be a part of a call.
 *
 *     $ npx spore actor call Cart order_1 addItem '{"name":"book","price":12}'
 *     $ npx spore actor call Cart order_1 checkout
 *     $ npx spore status ship_order_1
 */
import { actor, context, type Graph, sleep, start, step, workflow } from "sporeflow/guest";

export interface Item {
  readonly name: string;
  readonly price: number;
}

export interface Shipment {
  readonly shipped: number;
}

export const packItem = step("packItem", (item: Item) => `${item.name} packed`);

export const countPacked = step(
  "countPacked",
  (packed: readonly string[]): Shipment => ({ shipped: packed.length }),
);

/** Packs, waits for the carrier, and tells the cart. */
export const ship = workflow("ship", async (orderId: string, items: readonly Item[]) => {
  const packed = await Promise.all(items.map((item) => packItem(item)));
  await sleep("3 days");
  const shipment = await countPacked(packed);
  await Cart.get(orderId).shipped(shipment);
  return shipment;
});

/** What the forms have in common. */
class Items {
  items: Item[] = [];

  addItem(item: Item): number {
    this.items.push(item);
    return this.items.length;
  }

  total(): number {
    return this.items.reduce((sum, { price }) => sum + price, 0);
  }
}

class GoodCart extends Items {
  shipmentId: string | undefined;
  shipment: Shipment | undefined;

  /**
   * Good: starts a workflow of its own and returns. Its id follows from the order, so that a
   * second checkout finds the first one's shipment. It starts with the same commit that keeps
   * `shipmentId`: there is never one without the other.
   */
  checkout(): string {
    const orderId = context().actor?.key ?? "";
    this.shipmentId = `ship_${orderId}`;
    void start(ship.with(orderId, this.items), { id: this.shipmentId });
    return this.shipmentId;
  }

  /** The shipment's news come as a call like any other. */
  shipped(shipment: Shipment): void {
    this.shipment = shipment;
  }

  status(): "open" | "ordered" | "shipped" {
    if (this.shipment !== undefined) return "shipped";
    return this.shipmentId === undefined ? "open" : "ordered";
  }
}

export const Cart = actor("Cart", GoodCart, { readonly: ["total", "status"] });

class BadCart extends Items {
  shipment: Shipment | undefined;

  /** Bad: for three days every other call waits behind this one, and readers see the cart as it was. */
  async checkout(): Promise<Shipment> {
    this.shipment = await ship(context().actor?.key ?? "", this.items);
    return this.shipment;
  }

  /** No better: a graph is part of the call too. Good for a few quick steps, bad for slow ones. */
  checkoutInSteps(): Graph<Shipment> {
    return countPacked.step(this.items.map((item) => packItem.step(item)));
  }
}

export const SlowCart = actor("SlowCart", BadCart, { readonly: ["total"] });
