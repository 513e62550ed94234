/** What the simulated tenants run for the stories of ids, lists, steps and events (guest.ts). */
import {
  continueAsNew,
  externalEvent,
  GuestError,
  get,
  publish,
  type Ref,
  run,
  setTags,
  signal,
  sleep,
  update,
  workflow,
} from "../../guest/index.ts";
import { add, guarded } from "./guest.ts";

/** Says which of those under its id it is, and needs two signals to end. */
export const successor = workflow("successor", async (generation: number) => {
  publish("generation", generation);
  const first = await signal<string>("item");
  await sleep(200);
  publish("stage", await add(generation, 0));
  return [generation, first, await signal<string>("item")];
});

/** Is what it was told to be last, until it is told to be nothing. */
export const chameleon = workflow("chameleon", async () => {
  for (;;) {
    const color = await signal<string>("color");
    if (color === "") return;
    setTags({ color });
    publish("color", color);
  }
});

/** Updates that take a while; some are refused, and some are still at work when it ends. */
export const clerk = workflow("clerk", async () => {
  const done: string[] = [];
  update(
    "work",
    async (item: string, ms: number) => {
      await sleep(ms);
      done.push(item);
      return done.length;
    },
    {
      validate: (item: string) => {
        if (item.startsWith("bad")) throw new GuestError("it is bad", { code: "bad" });
      },
    },
  );
  await signal("close");
  return done;
});

/** Steps of every kind of end: one that is caught, one that holds the run up until its switch is on. */
export const various = workflow("various", async (name: string) => {
  const sum = await add(1, 2);
  const caught = await run("caught", () =>
    Promise.reject(new GuestError("no", { retryable: false })),
  ).catch(() => "caught");
  const value = await guarded(name);
  await sleep(30);
  return [sum, caught, value];
});

/** Awaits one event after the other; whose token is revoked is awaited no longer. */
export const jury = workflow("jury", async (count: number, isAnew: boolean, before: string[]) => {
  const said = [...before];
  while (said.length < count) {
    const event = await externalEvent<string>("verdict");
    publish("token", [said.length, event.token]);
    try {
      said.push(await event.result());
    } catch (error) {
      if (!(error instanceof GuestError) || error.code !== "event-revoked") throw error;
      said.push("revoked");
    }
    if (isAnew && said.length < count) continueAsNew(count, isAnew, said);
  }
  return said;
});

/** Reads what a client has stored, now and then, until it is told to end. */
export const borrower = workflow("borrower", async (ref: Ref<string>, ms: number) => {
  const text = await get(ref);
  await sleep(ms);
  return text === (await get(ref)) ? text : "another";
});

/** Waits until somebody ends it. */
export const idler = workflow("idler", () => sleep("30 days"));
