/**
 * The process in which compile.ts runs componentize-qjs. Takes one request, answers once.
 * The compiler works on its own thread, so this one is free to watch the process's size:
 * Wasm memory of the module under evaluation may grow to 4 GiB.
 */
import { componentize } from "componentize-qjs";
import type { CompileReply, CompileRequest } from "./compile.ts";

const watchEveryMs = 20;

// A parent that was killed can't end us, and the module may never end by itself.
process.once("disconnect", () => process.exit(1));
process.once("message", (message) => {
  const request = message as CompileRequest; // from our own parent
  setInterval(() => {
    if (process.memoryUsage.rss() > request.memoryBytesMax) process.exit(1);
  }, watchEveryMs);
  compile(request).then(
    (reply) => process.send?.(reply),
    () => process.exit(1),
  );
});

async function compile(request: CompileRequest): Promise<CompileReply> {
  try {
    // Without a path of its own the module can import nothing from the disk.
    const { component } = await componentize({
      witPath: request.witPath,
      jsSource: request.code,
      world: "guest",
      stubWasi: true,
    });
    return { kind: "ok", component: new Uint8Array(component) };
  } catch (error) {
    return { kind: "failed", message: error instanceof Error ? error.message : String(error) };
  }
}
