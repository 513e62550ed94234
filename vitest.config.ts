import { defineConfig } from "vitest/config";

/** A test that takes a second here may take ten on a loaded machine; one that hangs still ends. */
export default defineConfig({ test: { testTimeout: 30_000, hookTimeout: 30_000 } });
