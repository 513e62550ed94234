/** docs/OPERATIONS.md against the code that counts and measures. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { readDocument } from "./examples.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

it("every metric of the code is in OPERATIONS, under the name that a scrape shows, and no other", () => {
  const files = execFileSync("git", ["ls-files", "runtime/*.ts", "host/*.ts"], {
    cwd: root,
    encoding: "utf8",
  });
  const names = new Set<string>();
  for (const file of files.split("\n").filter((name) => name !== "")) {
    const code = readFileSync(`${root}/${file}`, "utf8");
    for (const [, how, name = ""] of code.matchAll(
      /\.(count|observe|gauge)\(\s*"(?:spore_)?([a-z_]+)"/g,
    )) {
      const isCounter = how === "count";
      names.add(`spore_${name}${isCounter && !name.endsWith("_total") ? "_total" : ""}`);
    }
  }
  const told = [...readDocument("OPERATIONS.md").matchAll(/^\| `(spore_[a-z_]+)` \|/gm)];
  expect(told.map(([, name]) => name).toSorted()).toEqual([...names].toSorted());
});
