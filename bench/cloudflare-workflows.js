/** The peer of edge.ts: ten steps in a row on Cloudflare's own Workflows engine. */
import { WorkflowEntrypoint } from "cloudflare:workers";

export class Ten extends WorkflowEntrypoint {
  async run(_event, step) {
    let n = 0;
    for (let index = 0; index < 10; index++) {
      n = await step.do(`step ${index}`, async () => n + 1);
    }
    return n;
  }
}

export default {
  async fetch(_request, env) {
    const instance = await env.TEN.create();
    for (;;) {
      const { status, output, error } = await instance.status();
      if (status === "complete") return Response.json(output);
      if (status === "errored" || status === "terminated") throw new Error(String(error));
      await scheduler.wait(1);
    }
  },
};
