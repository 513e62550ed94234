/**
 * What the machine (activation.ts) gives to the rest of the guest: time, randomness and
 * commands. Everything ambient that guest code may have comes through this interface.
 */
import type { Command, Encoded } from "./protocol.ts";

/** The result of a command to come. Rejects with an Error made from the host's ErrorValue. */
export type CommandPromise = Promise<Encoded> & { readonly id: number };

export type LogLevel = "debug" | "info" | "warn" | "error";

export interface Kernel {
  /** Time of the activation that is being handled; never goes backwards; 0 before the first. */
  nowMs(): number;
  /** The next number in [0, 1) of the run's own seeded sequence. */
  random(): number;
  randomBytes(count: number): Uint8Array;
  /**
   * Allocates an id, queues the command that `build` makes with it, and returns the result
   * to come. On cancellation the command is dropped and the promise rejects with
   * CancelledError; a rejection nobody handles is harmless.
   */
  command(build: (id: number) => Command): CommandPromise;
  /** The result of `id` is no longer wanted: its promise stays pending for ever. */
  drop(id: number): void;
  /** Queues a command that has no id of its own. */
  emit(command: Command): void;
  /** Queues a log line (shortened to 8 KiB; 256 lines in one activation). */
  log(level: LogLevel, message: string): void;
  encode(value: unknown): Encoded;
  decode(bytes: Encoded): unknown;
}
