/** The first minute: what is printed works, the README's code runs, edited code is reloaded. */
import { execFile, spawn } from "node:child_process";
import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, expect, it, onTestFinished } from "vitest";
import { ask, folderOfTest, freePort, launch, putAway, root, spore, until } from "./kit.ts";

const run = promisify(execFile);

afterAll(putAway);

/** A folder inside of the repository, where `sporeflow` resolves as it does for its users. */
async function projectFolder(name: string): Promise<string> {
  const folder = join(root, ".spore", `acceptance-${name}-${process.pid}`);
  await mkdir(folder, { recursive: true });
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

it("npm start prints the address, the storage and three commands that work", async () => {
  const folder = await folderOfTest();
  const { scripts } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as {
    scripts: Record<string, string>;
  };
  expect(scripts.start).toBe("node host/cli.ts dev examples/tour/index.ts");
  const entry = join(root, "examples/tour/index.ts");
  const server = await launch({ folder, command: ["dev", entry], cwd: folder });
  await until("the commands are printed", () => server.printed().includes("Watching"));
  const printed = server.printed();
  expect(printed).toContain(`address   ${server.url}`);
  expect(printed).toContain(`storage   file:${folder}`);
  const commands = [...printed.matchAll(/^\s+(SPORE_URL=\S+ npx spore .+)$/gm)].map(
    ([, command]) => command ?? "",
  );
  expect(commands).toHaveLength(3);
  const outputs: string[] = [];
  for (const command of commands) {
    const real = command.replace("npx spore", `"${process.execPath}" "${root}/bin/spore.mjs"`);
    outputs.push((await run("sh", ["-c", real], { cwd: root })).stdout.trim());
  }
  expect(outputs.slice(0, 2)).toEqual(["55", "order_1"]);
  const output = await spore(["output", "order_1"], { env: { SPORE_URL: server.url } });
  expect(JSON.parse(output.out)).toMatchObject({ status: "shipped", shipped: 1 });
  await server.stop();
});

it("new runs take edited code, old ones keep theirs, and code that doesn't build changes nothing", async () => {
  const folder = await projectFolder("reload");
  const entry = join(folder, "index.ts");
  const code = (version: number): string => `
import { signal, workflow } from "sporeflow/guest";
export const versioned = workflow("versioned", async (waits: boolean) => {
  if (waits) await signal("go");
  return ${version};
});
`;
  await writeFile(entry, code(1));
  const server = await launch({
    folder: await folderOfTest(),
    command: ["dev", entry],
    cwd: folder,
  });
  const { client } = server;
  await until("the first build serves", async () => (await client.currentComponent()).id !== "");
  const start = (id: string, waits: boolean) =>
    ask(server, "POST", `/v1/workflows/versioned${waits ? "" : "?wait=20s"}`, {
      json: { id, args: [waits] },
    });
  await start("old", true);
  expect((await start("first", false)).body.output).toBe(1);
  await writeFile(entry, code(2));
  await until("it is reloaded", () => server.printed().includes("reloaded"));
  expect((await start("second", false)).body.output).toBe(2);
  await writeFile(entry, code(3).replace("return 3", "return 3 +"));
  await until("the failure is shown", () => server.printed().includes("does not build"));
  expect(server.printed()).toMatch(/index\.ts:\d+/);
  expect((await start("third", false)).body.output).toBe(2);
  await client.handle("old").signal("go");
  expect(await client.getOutput("old")).toBe(1);
  await server.stop();
});

it("the README's code builds, runs and prints what its comments say", async () => {
  const readme = await readFile(join(root, "README.md"), "utf8");
  const blocks = [...readme.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code ?? "");
  expect(blocks).toHaveLength(2);
  const folder = await projectFolder("readme");
  await writeFile(join(folder, "index.ts"), blocks[0] ?? "");
  await writeFile(join(folder, "client.ts"), blocks[1] ?? "");
  const server = await launch({
    folder: await folderOfTest(),
    command: ["dev", join(folder, "index.ts")],
    cwd: folder,
  });
  await until("it serves", async () => (await server.client.currentComponent()).id !== "");
  const { stdout } = await run(process.execPath, [join(folder, "client.ts")], {
    env: { ...process.env, SPORE_URL: server.url, NO_COLOR: "1" },
  });
  expect(stdout.trim().split("\n")).toEqual(["101", "{ status: 'shipped', euros: 20 }", "20"]);
  const curl = /curl '(\S+)' -d '(.+)'/.exec(readme);
  const url = (curl?.[1] ?? "").replace("http://127.0.0.1:7070", server.url);
  // The content type that curl sends with -d.
  const headers = { "content-type": "application/x-www-form-urlencoded" };
  const response = await fetch(url, { method: "POST", headers, body: curl?.[2] ?? "" });
  expect(await response.json()).toMatchObject({ status: "SUCCESSFUL", output: 55 });
  await server.stop();
  const test = /```ts index\.test\.ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
  await writeFile(join(folder, "index.check.ts"), test);
  const tested = await run(process.execPath, ["--test", "index.check.ts"], { cwd: folder });
  expect(tested.stdout).toMatch(/pass 1\b/);
});

it("a folder with state can be copied, and serves from its new place", async () => {
  const folder = await folderOfTest();
  const first = await launch({ folder, command: ["dev", join(root, "examples/tour/index.ts")] });
  await until("it serves", async () => (await first.client.currentComponent()).id !== "");
  const env = { SPORE_URL: first.url };
  expect((await spore(["run", "fib", "6", "--id", "copied"], { env })).out.trim()).toBe("8");
  await first.kill();
  const copy = await folderOfTest();
  await cp(folder, copy, { recursive: true });
  expect(await readdir(copy)).toEqual(await readdir(folder));
  const second = await launch({ folder: copy });
  expect((await spore(["output", "copied"], { env: { SPORE_URL: second.url } })).out.trim()).toBe(
    "8",
  );
  await second.stop();
});

it("a server ends with the process that people started, however that is killed", async () => {
  const port = String(await freePort());
  const storage = ["--storage", `file:${await folderOfTest()}`];
  const bin = join(root, "bin/spore.mjs");
  const started = spawn(process.execPath, [bin, "serve", ...storage, "--port", port], {
    stdio: "ignore",
  });
  onTestFinished(() => void started.kill("SIGTERM"));
  const isServing = (): Promise<boolean> =>
    fetch(`http://127.0.0.1:${port}/healthz`).then(
      ({ ok }) => ok,
      () => false,
    );
  await until("it serves", isServing);
  started.kill("SIGKILL");
  await until("nobody listens any more", async () => !(await isServing()));
});

it("the commands of the command line exist, and unknown ones say so", async () => {
  const { out } = await spore(["--help"]);
  const readme = await readFile(join(root, "README.md"), "utf8");
  const table = readme.slice(
    readme.indexOf("| command | does |"),
    readme.indexOf("Every command has"),
  );
  const first = [...table.matchAll(/^\| (.+?) \|/gm)].map(([, cell]) => cell ?? "").join(" ");
  const named = [...first.matchAll(/`(?:spore )?([a-z]+)`/g)].map(([, name]) => name ?? "");
  expect(named.length).toBeGreaterThan(15);
  for (const name of named) expect(out).toMatch(new RegExp(`^  ${name}\\b`, "m"));
  expect((await spore(["fly"])).code).toBe(2);
});
