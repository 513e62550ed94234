/**
 * The code of a document as files. A block says in its fence where it belongs: a file
 * (` ```ts workflows.ts `), whose blocks follow each other with their imports put together, or
 * `client` for a few lines that use what the document has defined. What such a line prints
 * stands in its comment: `console.log(1 + 1); // 2`.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const root: string = fileURLToPath(new URL("../..", import.meta.url));

export interface Block {
  /** What the fence says after the language. */
  readonly place: string;
  readonly code: string;
  /** The document's heading above it. */
  readonly heading: string;
  readonly line: number;
}

export function blocksOf(document: string): readonly Block[] {
  const blocks: Block[] = [];
  let heading = "";
  let open: { readonly place: string; readonly line: number; readonly lines: string[] } | undefined;
  for (const [index, line] of readFileSync(join(root, document), "utf8").split("\n").entries()) {
    const fence = /^```(\w*) ?(.*)$/.exec(line);
    if (open !== undefined) {
      if (fence === null) open.lines.push(line);
      else {
        const { place, lines } = open;
        blocks.push({ place, code: lines.join("\n"), heading, line: open.line });
        open = undefined;
      }
    } else if (fence?.[1] === "ts") open = { place: fence[2] ?? "", line: index + 1, lines: [] };
    else if (fence !== null) open = { place: "(other)", line: index + 1, lines: [] };
    else heading = /^#+ (.*)$/.exec(line)?.[1] ?? heading;
  }
  return blocks.filter(({ place }) => place !== "(other)");
}

/** One module of the blocks of a file, each name imported once. */
export function moduleOf(blocks: readonly Block[]): string {
  const imports = new Map<string, Set<string>>();
  const bodies = blocks.map(({ code }) =>
    code.replace(
      /^import (?:(\w+)|\{([^}]*)\}) from "([^"]+)";\n/gm,
      (_all, whole, names, from) => {
        const known = imports.get(from) ?? new Set();
        imports.set(from, known);
        if (whole !== undefined) known.add(`default as ${whole}`);
        for (const name of (names ?? "").split(",")) if (name.trim() !== "") known.add(name.trim());
        return "";
      },
    ),
  );
  const head = [...imports].map(
    ([from, names]) => `import { ${[...names].join(", ")} } from "${from}";`,
  );
  return [...head, ...bodies].join("\n");
}

/** A module that exports `examples`: the blocks' lines as functions, each with its title. */
export function examplesOf(blocks: readonly Block[], definitions: string): string {
  const names = [...definitions.matchAll(/^export (?:const|class|function) (\w+)/gm)].map(
    ([, name]) => name ?? "",
  );
  const functions = blocks.map(({ code, heading, line }) => {
    const checked = code.replace(
      /^(\s*)console\.log\((.*)\); \/\/ (.*)$/gm,
      (_all, indent, value, expected) => `${indent}shown(${value}, ${JSON.stringify(expected)});`,
    );
    const title = JSON.stringify(`${heading} (line ${line})`);
    return `examples.set(${title}, async ({ client, spore, shown }) => {\n${checked}\n});`;
  });
  return `import type { Client } from "sporeflow/client";
import type { TestHost } from "sporeflow/testing";
import { ${names.join(", ")} } from "./workflows.ts";
export interface Surroundings {
  readonly client: Client;
  readonly spore: TestHost;
  readonly shown: (value: unknown, expected: string) => void;
}
export const examples = new Map<string, (surroundings: Surroundings) => Promise<void>>();
${functions.join("\n")}
`;
}
