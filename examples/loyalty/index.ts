/**
 * A loyalty programme: each customer is an actor that lives as long as the customer does.
 * It collects points through any number of messages, keeps nothing but its state, and needs
 * no loop, no history limit and nobody to start it again.
 *
 *     $ npx spore actor call Customer ada addPoints 600
 *     $ npx spore actor call Customer ada message
 */
import { actor, context, remind, sleep, start, step, workflow } from "sporeflow/guest";

interface Level {
  readonly name: string;
  readonly pointsMin: number;
}

export const levels: readonly Level[] = [
  { name: "Platinum", pointsMin: 5000 },
  { name: "Gold", pointsMin: 1000 },
  { name: "Silver", pointsMin: 500 },
  { name: "Member", pointsMin: 0 },
];

export function levelOf(points: number): string {
  return levels.find(({ pointsMin }) => points >= pointsMin)?.name ?? "Member";
}

/** Points that a customer gets for a friend who reaches a level. */
const friendPoints = 100;

export const chooseGift = step("chooseGift", (level: string) => `a gift of the ${level} kind`);

/** A reward takes a while, so it is a workflow of its own: the customer goes on meanwhile. */
export const reward = workflow("reward", async (customer: string, level: string) => {
  const gift = await chooseGift(level);
  await sleep("2 days");
  await Customer.get(customer).rewarded(gift);
  return gift;
});

export class LoyalCustomer {
  points = 0;
  level = "Member";
  /** Counts the years: levels are earned anew in each. */
  year = 1;
  invitedBy: string | undefined;
  rewards: string[] = [];

  constructor(invitedBy?: string) {
    this.invitedBy = invitedBy;
    // Leaves together with the first state: no customer without the reminder, and one each.
    remind("year", { cron: "0 0 1 1 *" }, this.beginYear);
  }

  /** What a level brings happens once for each time it is reached, or the points aren't kept. */
  addPoints(points: number): string {
    if (!(points > 0)) throw new RangeError("points must be more than 0");
    const before = this.level;
    this.points += points;
    this.level = levelOf(this.points);
    if (this.level !== before) celebrate(this);
    return this.message();
  }

  /** Makes a customer of a friend, unless the friend is one already. */
  invite(friend: string): void {
    void Customer.getOrCreate(friend, keyOfThis()).send.hello();
  }

  /** The first message of an invitation; that there is one creates the customer. */
  hello(): string {
    return this.message();
  }

  friendRose(friend: string, level: string): string {
    return `${this.addPoints(friendPoints)} ${friend} has reached ${level}.`;
  }

  rewarded(gift: string): void {
    this.rewards.push(gift);
  }

  /** The reminder calls it, as anybody may. */
  beginYear(): void {
    this.year += 1;
    this.points = 0;
    this.level = "Member";
  }

  message(): string {
    const next = levels.findLast(({ pointsMin }) => pointsMin > this.points);
    const more =
      next === undefined ? "" : ` ${next.pointsMin - this.points} more for ${next.name}.`;
    return `${this.level}, ${this.points} points.${more}`;
  }

  account(): Pick<LoyalCustomer, "points" | "level" | "invitedBy" | "rewards"> {
    const { points, level, invitedBy, rewards } = this;
    return { points, level, invitedBy, rewards };
  }
}

/** Two messages that nobody awaits: they leave when the method has ended well. */
function celebrate({ level, year, invitedBy }: LoyalCustomer): void {
  const own = keyOfThis();
  void start(reward.with(own, level), { id: `reward_${own}_${level}_${year}` });
  if (invitedBy !== undefined) void Customer.get(invitedBy).send.friendRose(own, level);
}

export const Customer = actor("Customer", LoyalCustomer, {
  readonly: ["message", "account"],
  expiresAfter: "1000 days",
});

function keyOfThis(): string {
  return context().actor?.key ?? "";
}
