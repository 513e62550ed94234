// Loads this package's TypeScript when it is installed in node_modules, where Node itself
// refuses to strip types. Only files of this package are touched.
import { readFileSync } from "node:fs";
import { registerHooks, stripTypeScriptTypes } from "node:module";
import { fileURLToPath } from "node:url";

const root = new URL("..", import.meta.url).href;

registerHooks({
  load(url, context, nextLoad) {
    const isOurs = url.startsWith(root) && url.endsWith(".ts");
    if (!isOurs || url.slice(root.length).includes("node_modules/")) return nextLoad(url, context);
    const source = stripTypeScriptTypes(readFileSync(fileURLToPath(url), "utf8"));
    return { format: "module", source, shortCircuit: true };
  },
});
