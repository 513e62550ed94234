/**
 * The package as people get it: packed from a copy of the repository, unpacked under
 * node_modules of a new project, and used there by its own commands. Offline: what it
 * depends on is linked from here.
 */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, readdir, readFile, rename, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, it } from "vitest";
import { removeFolder, root, temporaryFolder, until } from "./kit.ts";

const run = promisify(execFile);
const copied = ["bin", "client", "docs", "guest", "host", "runtime", "testing"];
const files = [
  "package.json",
  "tsconfig.json",
  "wrangler.toml",
  "README.md",
  "CHANGELOG.md",
  "LICENSE",
];

let folder = "";
let app = "";
let bin = "";
let packed: readonly string[] = [];

beforeAll(async () => {
  folder = await temporaryFolder();
  const sources = join(folder, "sources");
  app = join(folder, "app");
  const installed = join(app, "node_modules", "sporeflow");
  await mkdir(sources);
  for (const name of [...copied, ...files]) {
    await cp(join(root, name), join(sources, name), { recursive: true });
  }
  await symlink(join(root, "node_modules"), join(sources, "node_modules"));
  const before = await readFile(join(sources, "package.json"), "utf8");
  await run("npm", ["pack", "--offline", "--pack-destination", folder], { cwd: sources });
  expect(await readFile(join(sources, "package.json"), "utf8")).toBe(before);

  const archive = (await readdir(folder)).find((name) => name.endsWith(".tgz")) ?? "";
  await run("tar", ["xzf", join(folder, archive)], { cwd: folder });
  packed = await readdir(join(folder, "package"), { recursive: true });
  await mkdir(join(app, "node_modules"), { recursive: true });
  for (const name of await readdir(join(root, "node_modules"))) {
    if (name.startsWith(".")) continue;
    await symlink(join(root, "node_modules", name), join(app, "node_modules", name));
  }
  await rename(join(folder, "package"), installed);
  bin = join(installed, "bin", "spore.mjs");
  await spore("init", ".");
}, 240_000);

afterAll(() => removeFolder(folder));

async function spore(...args: readonly string[]): Promise<string> {
  return (await run(process.execPath, [bin, ...args], { cwd: app })).stdout;
}

it("holds JavaScript and types, and neither sources nor tests", () => {
  const sources = packed.filter((name) => name.endsWith(".ts") && !name.endsWith(".d.ts"));
  expect(sources).toEqual([]);
  for (const entry of ["guest/index", "client/index", "testing/index", "host/cli"]) {
    expect(packed).toContain(`dist/${entry}.js`);
    expect(packed).toContain(`dist/${entry}.d.ts`);
  }
  expect(packed.filter((name) => /^(dist\/)?(test|bench|examples)\b/.test(name))).toEqual([]);
});

it("a new project takes it from the registry, by its version", async () => {
  const { dependencies } = JSON.parse(await readFile(join(app, "package.json"), "utf8"));
  expect(dependencies.sporeflow).toMatch(/^\^\d+\./);
});

it("a new project of it compiles, with the types of the package", async () => {
  const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
  await run(process.execPath, [tsc, "-p", app]);
  await writeFile(
    join(app, "wrong.ts"),
    'import { order } from "./index.ts";\nvoid order.with("Ada", "20");\n',
  );
  const wrong = await run(process.execPath, [tsc, "-p", app]).catch((error) => error);
  expect(wrong.stdout).toMatch(
    /wrong\.ts.*'string' is not assignable to parameter of type 'number'/,
  );
}, 120_000);

it("its test passes, with the package's testing kit", async () => {
  const { stdout } = await run(process.execPath, ["--test"], { cwd: app });
  expect(stdout).toMatch(/pass 1\b/);
}, 120_000);

it("builds, serves and runs a workflow", async () => {
  const built = await spore("build", "index.ts");
  expect(built).toContain("3 definitions");
  const server = spawn(process.execPath, [bin, "dev", "index.ts", "--port", "0"], { cwd: app });
  try {
    let printed = "";
    server.stdout.on("data", (chunk: Buffer) => (printed += chunk));
    await until("it serves", () => printed.includes("Watching for changes"));
    expect(printed).toContain("1 workflow, 1 step, 1 actor");
    const url = /http:\/\/127\.0\.0\.1:\d+/.exec(printed)?.[0] ?? "";
    const output = await spore("run", "order", "Ada", "20", "--url", url);
    expect(JSON.parse(output)).toMatchObject({ status: "shipped", receipt: { euros: 20 } });
  } finally {
    server.kill("SIGTERM");
    await once(server, "exit");
  }
}, 120_000);
