/** The one module of the platform that is imported, as far as it is used. */
declare module "cloudflare:workers" {
  export class WorkerEntrypoint<Env> {
    protected readonly env: Env;
    constructor(ctx: unknown, env: Env);
  }
  export class DurableObject<Env> {
    protected readonly ctx: import("./platform.ts").ObjectState;
    protected readonly env: Env;
    constructor(ctx: import("./platform.ts").ObjectState, env: Env);
  }
}
