import { defineConfig } from "vitest/config";

/** A test that takes a second here may take ten on a loaded machine; one that hangs still ends. */
const timeouts = { testTimeout: 30_000, hookTimeout: 30_000 };

/** Two files at a time also where there are two processors: many wait for other processes. */
export default defineConfig({ test: { ...timeouts, maxWorkers: 2 } });
