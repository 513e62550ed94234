/**
 * The Worker with what tests need: an object that aborts at once, in the middle of whatever
 * it does, as the platform's own restarts do, or whose alarms fail; a way to the faulty bucket's
 * plan, which is told of every invocation of an object.
 */
import worker, { SporePartition as Base } from "./worker.js";

export class SporePartition extends Base {
  async fetch(request) {
    await this.#invoked();
    return super.fetch(request);
  }
  async serve(request) {
    await this.#invoked();
    return super.serve(request);
  }
  async wake(takesOver) {
    await this.#invoked();
    return super.wake(takesOver);
  }
  async upkeep() {
    await this.#invoked();
    return super.upkeep();
  }
  async alarm() {
    await this.#invoked();
    const left = (await this.ctx.storage.get("test.alarms")) ?? [];
    const [fault, ...later] = left;
    if (fault === undefined) return super.alarm();
    await this.ctx.storage.put("test.alarms", later);
    await this.ctx.storage.sync();
    if (fault === "throw") throw new Error("an alarm that fails, by a test");
    // In the middle of what it does: its next alarm is set, and the engine is being started.
    setTimeout(() => this.ctx.abort("crashed by a test"), 5);
    return super.alarm();
  }
  crash() {
    this.ctx.abort("crashed by a test");
  }
  /** The next alarms, in order: each throws or dies. */
  async failAlarms(faults) {
    await this.ctx.storage.put("test.alarms", faults);
  }
  /** How many of them are still to come. */
  async alarmsLeft() {
    return ((await this.ctx.storage.get("test.alarms")) ?? []).length;
  }

  async #invoked() {
    if (this.env.SPORE_STORAGE?.startsWith("r2:FAULTY")) await this.env.FAULTY.invoked();
  }
}

export default {
  ...worker,
  async fetch(request, env, context) {
    const { pathname } = new URL(request.url);
    if (pathname === "/disturb")
      return Response.json(await env.FAULTY.disturb(await request.json()));
    if (pathname === "/strew") return Response.json(await env.FAULTY.strew(await request.json()));
    const [, what, index] = /^\/(crash|alarms)\/(\d+)$/.exec(pathname) ?? [];
    if (index === undefined) return worker.fetch(request, env, context);
    const object = env.PARTITIONS.get(env.PARTITIONS.idFromName(`partition-${index}`));
    if (what === "alarms") {
      if (request.method === "POST") await object.failAlarms(await request.json());
      return Response.json(await object.alarmsLeft());
    }
    await object.crash().catch(() => undefined); // what an abort answers
    return new Response("crashed");
  },
};
