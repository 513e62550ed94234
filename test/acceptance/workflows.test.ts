/** Workflows and actors against a real server process. */
import { afterAll } from "vitest";
import { testHost } from "../suites/host.ts";
import { putAway, startServer, temporaryFolder } from "./kit.ts";

testHost({
  name: "a server process",
  open: async () => startServer({ folder: await temporaryFolder() }),
});

afterAll(putAway);
