/** `spore init`: a small project that works, and never overwrites anything. */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { SporeError } from "../runtime/errors.ts";
import { ownDependency } from "./own-files.ts";

export interface Made {
  readonly folder: string;
  readonly files: readonly string[];
  readonly next: string;
}

export function init(folder: string): Made {
  const root = resolve(folder);
  const name =
    basename(root)
      .toLowerCase()
      .replaceAll(/[^a-z0-9-]+/g, "-") || "my-workflows";
  const files: Readonly<Record<string, string>> = {
    "package.json": packageJson(name),
    "index.ts": indexTs,
    "index.test.ts": testTs,
    "client.ts": clientTs,
    "tsconfig.json": tsconfigJson,
    "README.md": readme(name),
    ".gitignore": "node_modules/\n.spore/\ndata/\n",
  };
  for (const file of Object.keys(files)) {
    if (!existsSync(join(root, file))) continue;
    throw new SporeError("invalid-request", `${join(folder, file)} is there already`, {
      hint: "give an empty folder: npx spore init my-workflows",
    });
  }
  mkdirSync(root, { recursive: true });
  for (const [file, text] of Object.entries(files)) writeFileSync(join(root, file), text);
  const enter = folder === "." ? "" : `cd ${folder} && `;
  return { folder: root, files: Object.keys(files), next: `${enter}npm install && npm start` };
}

function packageJson(name: string): string {
  const content = {
    name,
    private: true,
    type: "module",
    scripts: {
      start: "spore dev index.ts",
      test: "node --test",
      check: "tsc",
      client: "node client.ts",
    },
    dependencies: { sporeflow: ownDependency() },
    devDependencies: { "@types/node": "^26.1.0", node: "^26.10.0", typescript: "^7.0.2" },
    allowScripts: { node: true, esbuild: true },
  };
  return `${JSON.stringify(content, undefined, 2)}\n`;
}

const indexTs = `/**
 * Workflows, steps and actors. Try, while \`npm start\` runs:
 *
 *   $ npx spore run order Ada 20
 *   $ npx spore actor create Counter visits
 *   $ npx spore actor call Counter visits incr 5
 */
import { actor, signal, sleep, step, workflow } from "sporeflow/guest";

// A step runs at least once and, once its result is stored, never again.
export const charge = step("charge", (customer: string, euros: number) => {
  console.log(\`charging \${customer} \${euros} euros\`);
  return { customer, euros, at: new Date() };
});

// A workflow survives crashes and restarts, and may wait for a year.
export const order = workflow("order", async (customer: string, euros: number) => {
  const receipt = await charge(customer, euros);
  if (euros > 100) {
    const ok = await signal<boolean>("approve", { timeout: "7 days" });
    if (!ok) return { status: "refused" };
  }
  await sleep("1 second");
  return { status: "shipped", receipt };
});

// An actor is an object with a key; its calls come one at a time, its state is kept.
export const Counter = actor(
  "Counter",
  class {
    n: number;
    constructor(n = 0) {
      this.n = n;
    }
    incr(by = 1) {
      this.n += by;
      return this.n;
    }
    value() {
      return this.n;
    }
  },
  { readonly: ["value"] },
);
`;

const testTs = `import assert from "node:assert/strict";
import { test } from "node:test";
import { createTestHost } from "sporeflow/testing";
import { charge, order } from "./index.ts";

test("a large order is shipped once somebody has approved it", async () => {
  await using spore = await createTestHost({ entry: new URL("./index.ts", import.meta.url) });
  spore.mock(charge, (customer, euros) => ({ customer, euros, at: spore.now() }));
  const run = await spore.client.start(order.with("Bob", 500));
  await spore.sleep("6 days"); // of the test's own time
  await run.signal("approve", true);
  assert.equal((await run.result()).status, "shipped");
});
`;

const tsconfigJson = `{
  "compilerOptions": {
    "target": "es2024",
    "lib": ["es2024", "esnext.disposable", "dom"],
    "module": "nodenext",
    "types": ["node"],
    "strict": true,
    "noEmit": true,
    "allowImportingTsExtensions": true,
    "erasableSyntaxOnly": true,
    "skipLibCheck": true
  }
}
`;

const clientTs = `import { createClient } from "sporeflow/client";
import { Counter, order } from "./index.ts";

const client = createClient({ url: process.env.SPORE_URL });
console.log(await client.run(order.with("Ada", 20)));

const counter = await client.getOrCreate(Counter, "visits");
console.log("visits:", await counter.incr());
`;

function readme(name: string): string {
  return `# ${name}

Durable workflows with [Spore](https://www.npmjs.com/package/sporeflow).

\`\`\`sh
npm install
npm start                             # builds index.ts, serves it, reloads on change
npm test                              # in a process and a time of its own
\`\`\`

In another terminal:

\`\`\`sh
npx spore run order Ada 20            # start a workflow and wait for its output
npx spore run order Bob 500 --id bob --detach
npx spore status bob                  # waits for the signal "approve"
npx spore signal bob approve true
npx spore output bob
npx spore actor create Counter visits
npx spore actor call Counter visits incr 5
npm run client                        # the same from TypeScript, typed
\`\`\`

State is kept in \`./data\`. Set \`SPORE_STORAGE=s3://bucket/prefix?region=…\` to keep it in a bucket.
`;
}
