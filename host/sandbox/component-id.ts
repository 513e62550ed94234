/**
 * A component's id: the hash of the source, and of the engine for JavaScript. Not of what is
 * compiled from it, because two compilations of one source differ in a few bytes.
 */
import type { ComponentSource, Digest } from "../../runtime/ports.ts";
import { hex } from "./engine.ts";

/** Hex; the same on every host for the same source and engine. */
export function componentIdOf(source: ComponentSource, engine: string, digest: Digest): string {
  if (source.kind === "component") return hex(digest.sha256(source.bytes));
  const text = `javascript\0${source.code}\0${engine}`;
  return hex(digest.sha256(new TextEncoder().encode(text)));
}
