/**
 * Booking a trip: several services that each may fail, and no transaction over all of them. Each
 * step says how it is undone; when a later one fails for good, or somebody cancels the run, the
 * steps that are done are undone, the last first. Each compensation is a step of its own: durable,
 * tried again, and visible with `spore steps`.
 *
 *     $ npx spore run trip '{"to":"Rome","car":"none left"}' --id trip_1
 *     $ npx spore steps trip_1
 */
import { context, NonRetryableError, step, workflow } from "sporeflow/guest";

export interface Trip {
  readonly to: string;
  /** `none left` makes the last booking fail. */
  readonly car: string;
}

/** Stands for a service: the key makes a second attempt find the booking of the first. */
function book(what: string, to: string): string {
  return `${what} to ${to}, booked as ${context().step?.idempotencyKey}`;
}

/** A compensation with options of its own: given up only after two days. */
export const cancelFlight = step(
  "cancelFlight",
  (booking: string, trip: Trip) => `${booking}: cancelled (${trip.to})`,
  { retries: 50, totalTimeout: "2 days" },
);

export const bookFlight = step("bookFlight", (trip: Trip) => book("flight", trip.to), {
  compensate: cancelFlight,
});

export const bookHotel = step("bookHotel", (trip: Trip) => book("hotel", trip.to), {
  compensate: (booking) => `${booking}: cancelled`,
});

export const bookCar = step("bookCar", (trip: Trip) => {
  if (trip.car === "none left") throw new NonRetryableError(`no car in ${trip.to}`);
  return book(trip.car, trip.to);
});

export const trip = workflow("trip", async (wish: Trip) => {
  const flight = await bookFlight(wish);
  const hotel = await bookHotel(wish);
  const car = await bookCar(wish);
  return { flight, hotel, car };
});
