/** `sporeflow/guest`: what people write steps, workflows and actors with. */
export { Ref, SerialisationError } from "./cbor.ts";
export {
  type Actor,
  type ActorClass,
  type ActorHandle,
  type ActorOptions,
  actor,
  type Caught,
  type Graph,
  type Invocation,
  type Lifted,
  type Resolved,
  type Self,
  type StateOf,
  type Step,
  type StepNode,
  step,
  type Workflow,
  type WorkflowOptions,
  workflow,
} from "./define.ts";
export {
  CancelledError,
  ChildError,
  GuestError,
  type GuestErrorOptions,
  NonRetryableError,
  RetryableError,
  ThrownValue,
  TimeoutError,
} from "./errors.ts";
export type { Backoff, ErrorMatcher, StepOptions } from "./options.ts";
export type { ActorRef, RunInfo } from "./protocol.ts";
export {
  type Context,
  cancelRun,
  context,
  continueAsNew,
  type ExternalEvent,
  externalEvent,
  get,
  type Handle,
  handle,
  type MapOptions,
  map,
  publish,
  put,
  query,
  run,
  type SignalOptions,
  type Started,
  type StartOptions,
  type StepContext,
  setTags,
  signal,
  sleep,
  sleepUntil,
  start,
  type UpdateOptions,
  update,
} from "./run.ts";
export type { Duration } from "./time.ts";
export { forgetReminder, type ReminderTime, remind, self } from "./turn.ts";
