/**
 * Where this package's own files are: TypeScript in the repository, and in a published
 * package the JavaScript that was made of it, in a folder of the same layout. (Node strips no
 * types inside node_modules.)
 */
import { readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const isSource = import.meta.url.endsWith(".ts");

/** The folder that has guest/, host/ and the others in it. */
export const ownFolder: string = realpathSync(fileURLToPath(new URL("..", import.meta.url)));

/** One of our modules, by its path without an ending: `ownModule("guest/index")`. */
export function ownModule(path: string): string {
  return join(ownFolder, `${path}.${isSource ? "ts" : "js"}`);
}

/**
 * How a project's package.json names this package: by its version, or, as long as it is run
 * from the repository, by the folder, because a registry need not have it.
 */
export function ownDependency(): string {
  return isSource ? `file:${ownFolder}` : `^${packageVersion()}`;
}

export function packageVersion(): string {
  const manifest = join(ownFolder, ...(isSource ? [] : [".."]), "package.json");
  return String((JSON.parse(readFileSync(manifest, "utf8")) as { version?: unknown }).version);
}
