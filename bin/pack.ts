/**
 * Makes the published package of the repository, as the scripts `prepack` and `postpack` of
 * `npm pack` and `npm publish`: compiles everything into dist/ and points package.json there;
 * afterwards package.json is as it was. The repository itself always runs from its sources.
 */
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

interface PackageJson {
  exports: Record<string, unknown>;
  scripts?: Record<string, string>;
  devDependencies?: Record<string, string>;
  [member: string]: unknown;
}

const root = fileURLToPath(new URL("..", import.meta.url));
const dist = join(root, "dist");
const manifest = join(root, "package.json");
/** The manifest of the sources, while package.json is the package's. */
const kept = join(root, ".package.json.kept");
/** What the compiler leaves: neither code nor types. */
const copied = ["guest/spore.wit"];

function prepack(): void {
  postpack(); // a run before this one may have broken off
  rmSync(dist, { recursive: true, force: true });
  compile();
  for (const file of copied) copyFileSync(join(root, file), join(dist, file));
  const sources = readFileSync(manifest, "utf8");
  writeFileSync(kept, sources);
  writeFileSync(manifest, `${JSON.stringify(published(JSON.parse(sources)), undefined, 2)}\n`);
}

function postpack(): void {
  if (!existsSync(kept)) return;
  copyFileSync(kept, manifest);
  rmSync(kept);
}

function compile(): void {
  const typescript = createRequire(import.meta.url).resolve("typescript/package.json");
  const { bin } = JSON.parse(readFileSync(typescript, "utf8")) as { bin: { tsc: string } };
  const args = [join(dirname(typescript), bin.tsc), "-p", join(root, "bin/tsconfig.json")];
  const { status } = spawnSync(process.execPath, args, { stdio: "inherit" });
  if (status !== 0) throw new Error("the sources don't compile");
}

/** Each `./guest/index.ts` becomes its JavaScript and its types in dist/. */
function published(sources: PackageJson): PackageJson {
  const { scripts: _scripts, devDependencies: _tools, ...rest } = sources;
  const exports = Object.fromEntries(
    Object.entries(sources.exports).map(([name, path]) => {
      const base = `./dist/${String(path).slice(2).replace(/\.ts$/, "")}`;
      return [name, { types: `${base}.d.ts`, default: `${base}.js` }];
    }),
  );
  return { ...rest, exports: { ...exports, "./package.json": "./package.json" } };
}

if (process.argv[2] === "before") prepack();
else postpack();
