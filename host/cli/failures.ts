/**
 * What a failed command says and with which exit code it ends: 0 done, 1 the run failed,
 * 2 wrong usage or no permission, 3 not found, 4 conflict, 5 the host can't do it.
 */
import { CommanderError } from "commander";
import pc from "picocolors";
import { ClientError } from "../../client/index.ts";
import { SporeError } from "../../runtime/errors.ts";
import { errorLines } from "./print.ts";
import type { CliPorts } from "./verb.ts";

export const exitCodes = Object.freeze({
  done: 0,
  runFailed: 1,
  usage: 2,
  notFound: 3,
  conflict: 4,
  unavailable: 5,
});

export function failed(error: unknown, ports: CliPorts, isJson: boolean): number {
  if (error instanceof CommanderError) {
    const isHelp = error.exitCode === 0;
    return isHelp ? exitCodes.done : exitCodes.usage;
  }
  const code = exitCodeOf(error);
  const shown = error instanceof Error ? error : new Error(String(error));
  const details = describe(shown);
  if (isJson) {
    ports.err(`${JSON.stringify({ error: details, exitCode: code })}\n`);
    return code;
  }
  const lines = isUserError(shown)
    ? errorLines(shown)
    : [`${pc.red("✗")} ${details.message}`, ...causeLines(shown)];
  for (const line of lines) ports.err(`${line}\n`);
  if (details.hint !== undefined && details.hint !== "") ports.err(`  ${pc.dim(details.hint)}\n`);
  return code;
}

/** A run's or a method's own error, as the client rejects with it. */
function isUserError(error: Error): boolean {
  return !(error instanceof ClientError || error instanceof SporeError || isSystemError(error));
}

/** What the host's refusal was caused by, where that is the user's own error. */
function causeLines(error: Error): readonly string[] {
  const { cause } = error;
  const isOwn = error instanceof ClientError && cause instanceof Error && "frame" in cause;
  return isOwn ? errorLines(cause) : [];
}

interface Described {
  readonly name: string;
  readonly message: string;
  readonly code?: string;
  readonly hint?: string;
  readonly stack?: string;
  readonly frame?: unknown;
  readonly cause?: Described;
}

/** Everything, for `--json`; stacks of user errors only. */
function describe(error: Error): Described {
  const text = (key: string): object => {
    const value: unknown = Reflect.get(error, key);
    return typeof value === "string" ? { [key]: value } : {};
  };
  const { name, message, cause } = error;
  const frame: unknown = Reflect.get(error, "frame");
  const own = isUserError(error)
    ? { ...text("stack"), ...(frame === undefined ? {} : { frame }) }
    : {};
  const isShown = cause instanceof Error && isUserError(cause);
  const caused = isShown ? { cause: describe(cause) } : {};
  return { name, message, ...text("code"), ...text("hint"), ...own, ...caused };
}

/** A file that isn't there or may not be written: what was asked for can't be. */
function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && "syscall" in error && "code" in error;
}

export function exitCodeOf(error: unknown): number {
  if (isSystemError(error)) return exitCodes.usage;
  if (!(error instanceof ClientError) && !(error instanceof SporeError)) return exitCodes.runFailed;
  const failures = ["run-canceled", "build-failed", "storage-damaged", "upgrade-failed"];
  if (failures.includes(error.code)) return exitCodes.runFailed;
  switch (error.kind) {
    case "invalid":
    case "denied":
      return exitCodes.usage;
    case "missing":
      return exitCodes.notFound;
    case "conflict":
      return exitCodes.conflict;
    // The host couldn't do it: nothing is said about the run.
    default:
      return exitCodes.unavailable;
  }
}

export function usage(message: string): SporeError {
  return new SporeError("invalid-request", message);
}
