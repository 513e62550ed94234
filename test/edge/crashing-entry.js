/**
 * The Worker with what tests need: an object that aborts at once, in the middle of whatever
 * it does, as the platform's own restarts do; and a way to the faulty bucket's plan.
 */
import worker, { SporePartition as Base } from "./worker.js";

export class SporePartition extends Base {
  crash() {
    this.ctx.abort("crashed by a test");
  }
}

export default {
  ...worker,
  async fetch(request, env, context) {
    const { pathname } = new URL(request.url);
    if (pathname === "/disturb")
      return Response.json(await env.FAULTY.disturb(await request.json()));
    const [, index] = /^\/crash\/(\d+)$/.exec(pathname) ?? [];
    if (index === undefined) return worker.fetch(request, env, context);
    const object = env.PARTITIONS.get(env.PARTITIONS.idFromName(`partition-${index}`));
    await object.crash().catch(() => undefined); // what an abort answers
    return new Response("crashed");
  },
};
