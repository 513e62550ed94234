/** The trip example: what is booked is cancelled when the last booking fails. */
import { beforeEach, expect, test } from "vitest";
import type { Trip } from "../../examples/trip/index.ts";
import "../../examples/trip/index.ts";
import { TestHost } from "../guest/host.ts";

let host: TestHost;
beforeEach(() => {
  host = new TestHost();
});

const rome: Trip = { to: "Rome", car: "small" };

test("a trip books flight, hotel and car", async () => {
  await host.start("trip", rome);
  await host.settle();
  expect(Object.keys(host.output() as object)).toEqual(["flight", "hotel", "car"]);
});

test("without a car the hotel is cancelled and then the flight, and the run says why", async () => {
  await host.start("trip", { ...rome, car: "none left" });
  await host.settle();
  expect(host.error().message).toBe("no car in Rome");
  const undone = host.records.filter(({ compensates }) => compensates !== undefined);
  expect(undone.map(({ step, event, compensates }) => [step, event, compensates])).toEqual([
    ["bookHotel.compensate", "started", "bookHotel"],
    ["bookHotel.compensate", "succeeded", "bookHotel"],
    ["cancelFlight", "started", "bookFlight"],
    ["cancelFlight", "succeeded", "bookFlight"],
  ]);
});

test("a trip that is cancelled on its way is undone as well", async () => {
  host.stepsMax = 1;
  await host.start("trip", rome);
  await host.deliver({ kind: "cancel", reason: "ill" });
  await host.settle();
  expect(host.events().at(-1)).toBe("cancelFlight:succeeded");
  expect(host.error().class).toBe("cancelled");
});
