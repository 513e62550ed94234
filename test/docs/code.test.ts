/** The code in the guides compiles, runs, and prints what they say. */
import { execFile, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inspect, promisify } from "node:util";
import { createTestHost } from "sporeflow/testing";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { type Block, blocksOf, examplesOf, moduleOf, root } from "./code.ts";

vi.setConfig({ testTimeout: 60_000 });

const documents = ["docs/GUIDE.md", "docs/TESTING.md"];
const folder = join(root, ".spore", `guides-${process.pid}`);

const tsconfig = {
  extends: "../../tsconfig.json",
  compilerOptions: { noUnusedLocals: false },
  include: ["."],
};

function folderOf(document: string): string {
  return join(folder, document.replaceAll(/\W+/g, "-"));
}

/** Our own runner must not take a document's test for one of its own, should it be left over. */
function nameOf(file: string): string {
  return file.replace(/\.test\.ts$/, ".check.ts");
}

function write(document: string): void {
  const blocks = blocksOf(document);
  const place = folderOf(document);
  mkdirSync(place, { recursive: true });
  const files = new Map<string, Block[]>();
  for (const block of blocks) files.set(block.place, [...(files.get(block.place) ?? []), block]);
  const clients = files.get("client") ?? [];
  files.delete("client");
  for (const [name, of] of files) writeFileSync(join(place, nameOf(name)), moduleOf(of));
  if (clients.length === 0) return;
  const definitions = moduleOf(files.get("workflows.ts") ?? []);
  writeFileSync(join(place, "examples.ts"), examplesOf(clients, definitions));
}

beforeAll(() => {
  for (const document of documents) write(document);
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(tsconfig));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("every block of TypeScript says where it belongs", () => {
  for (const document of documents) {
    const lost = blocksOf(document).filter(
      ({ place }) => !/^(client|[\w-]+(\.test)?\.ts)$/.test(place),
    );
    expect(lost).toEqual([]);
  }
});

test("all of it compiles", async () => {
  const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
  const done = await promisify(execFile)(process.execPath, [tsc, "-p", folder]).catch(
    (error) => error,
  );
  expect(done.stdout).toBe("");
});

describe.each(documents)("%s", (document) => {
  const clients = blocksOf(document).filter(({ place }) => place === "client");

  test.each(clients.map(({ heading, line }) => `${heading} (line ${line})`))(
    "%s",
    async (title) => {
      const { examples } = await import(join(folderOf(document), "examples.ts"));
      const entry = join(folderOf(document), "workflows.ts");
      await using spore = await createTestHost({
        entry,
        now: new Date("2027-03-01T08:00:00Z"),
        fetch: () => Response.json({ receipt: "r1" }),
      });
      const shown = (value: unknown, expected: string): void => {
        const options = { breakLength: Number.POSITIVE_INFINITY, depth: 9 };
        const text =
          typeof value === "string"
            ? JSON.stringify(value)
            : inspect(value, options).replaceAll("'", '"');
        expect(text).toBe(expected);
      };
      await examples.get(title)({ client: spore.client, spore, shown });
    },
  );

  test("its tests pass", () => {
    const place = folderOf(document);
    const tests = existsSync(place)
      ? readdirSync(place).filter((name) => name.endsWith(".check.ts"))
      : [];
    const told = blocksOf(document).filter(({ place }) => place.endsWith(".test.ts"));
    expect(tests).toHaveLength(new Set(told.map(({ place }) => place)).size);
    for (const name of tests) {
      const { status, stdout } = spawnSync(process.execPath, ["--test", join(place, name)], {
        encoding: "utf8",
      });
      expect([status, status === 0 ? "" : stdout]).toEqual([0, ""]);
    }
  });
});
