/** The Worker in workerd does over HTTP what a server process does. */
import { afterAll } from "vitest";
import { testHost } from "../suites/host.ts";
import { startEdge, stopEdges } from "./kit.ts";

testHost({ name: "a Worker", open: () => startEdge() });
testHost({
  name: "a Worker with an isolate for each component",
  open: () => startEdge({ isIsolated: true }),
});

afterAll(stopEdges);
