/** `sporeflow/testing`: tests of workflows and actors in their own process and their own time. */
export { type CrashTestOptions, type CrashTestResult, crashTest } from "./crash.ts";
export { createTestHost, type TestHost, type TestHostOptions } from "./host.ts";
export type { MockContext } from "./mocks.ts";
