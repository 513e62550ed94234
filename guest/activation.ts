/**
 * The run's machine: takes activations in (`deliver`), gives commands out (`drain`).
 */
import type { Kernel } from "./kernel.ts";

export type { CommandPromise, Kernel, LogLevel } from "./kernel.ts";

export declare const kernel: Kernel;
/** Hands one encoded Activation to the machine. Never throws. */
export declare function deliver(bytes: Uint8Array): Promise<void>;
/** The encoded Drained of everything since the last drain. Never throws. */
export declare function drain(): Uint8Array;
/** The encoded Manifest of everything that was defined. Never throws. */
export declare function describe(): Uint8Array;
