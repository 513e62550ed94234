/** The code about itself: what may import what, what is banned where, and that documents are true. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { errorCodes } from "../runtime/errors.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Files that git tracks, and new ones that it doesn't ignore. */
const files = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], {
  cwd: root,
  encoding: "utf8",
})
  .split("\n")
  .filter((file) => file !== "" && existsSync(join(root, file)));
const sources = files.filter((file) => file.endsWith(".ts"));

function read(file: string): string {
  return readFileSync(join(root, file), "utf8");
}

/** Code without comments and strings, so that a word in prose is no finding. */
function codeOf(file: string): string {
  return read(file)
    .replace(/\/\*[\s\S]*?\*\//g, "")
    .replace(/(^|[^:])\/\/.*$/gm, "$1")
    .replace(/"(?:[^"\\\n]|\\.)*"/g, '""')
    .replace(/'(?:[^'\\\n]|\\.)*'/g, "''");
}

interface Import {
  readonly specifier: string;
  readonly isType: boolean;
}

function importsOf(file: string): Import[] {
  const found: Import[] = [];
  const pattern = /^(?:import|export)\s+(type\s)?[^;"']*?from\s+["']([^"']+)["']/gm;
  const bare = /^import\s+["']([^"']+)["']/gm;
  const text = read(file);
  for (const match of text.matchAll(pattern)) {
    found.push({ specifier: match[2] ?? "", isType: match[1] !== undefined });
  }
  for (const match of text.matchAll(bare)) found.push({ specifier: match[1] ?? "", isType: false });
  return found;
}

function resolved(file: string, specifier: string): string {
  return specifier.startsWith(".") ? normalize(join(dirname(file), specifier)) : specifier;
}

interface Rule {
  /** Files that it is about. */
  readonly from: RegExp;
  /** What they may import; anything else is a finding. */
  readonly may: readonly RegExp[];
}

const rules: readonly Rule[] = [
  { from: /^guest\/(protocol|cbor)\.ts$/, may: [] },
  { from: /^guest\//, may: [/^guest\//, /^whatwg-url-minimum$/] },
  {
    from: /^runtime\//,
    may: [/^runtime\//, /^guest\/(protocol|cbor)\.ts$/],
  },
  {
    from: /^client\//,
    may: [/^client\//, /^guest\/(protocol|cbor|define|kernel|index)\.ts$/, /^runtime\/errors\.ts$/],
  },
  {
    from: /^testing\//,
    may: [
      /^testing\//,
      /^host\//,
      /^client\/index\.ts$/,
      /^runtime\/(index|ports|errors)\.ts$/,
      /^guest\/(protocol|cbor|define|errors|mocks|random|time)\.ts$/,
      /^node:/,
    ],
  },
  {
    from: /^host\/store\//,
    may: [/^host\/store\//, /^runtime\/(ports|errors|ids)\.ts$/, /^node:/, /^@aws-sdk\//],
  },
  {
    from: /^host\//,
    may: [
      /^host\//,
      /^runtime\/(index|ports|errors|image|ids|host|trace)\.ts$/,
      /^client\//,
      /^guest\/(protocol|cbor|spore)/,
      /^node:/,
      /^[a-z@]/,
    ],
  },
];

/** Layers of the engine, lowest first: a file imports only from its own layer or below. */
const layers: readonly (readonly string[])[] = [
  ["errors", "ids", "ports", "bytes", "index", "outcomes"],
  [
    "format",
    "image",
    "heap",
    "timers",
    "queue-members",
    "cursors",
    "retry",
    "deadline",
    "entry",
    "tail",
    "batch",
    "sorted",
    "segment",
    "keyring",
    "seal",
    "shares",
    "tokens",
    "wire",
    "trace",
    "refs",
    "components",
    "drained",
    "objects",
  ],
  [
    "entries",
    "log",
    "register",
    "segments",
    "merge",
    "table",
    "state",
    "layout",
    "namespace",
    "replica",
    "follower",
    "reading",
    "followers",
    "generations",
  ],
  [
    "machine",
    "published",
    "events",
    "commands",
    "run",
    "fork",
    "actor",
    "schedule",
    "queue",
    "stored",
    "effects",
  ],
  ["deadlock", "outbox", "alarms", "commits", "activations", "residents"],
  ["messages"],
  ["partition"],
  ["history", "steps", "walk", "listing", "past", "difference"],
  ["asking", "deployments", "seats", "collector", "admissions", "cut", "check", "copy"],
  ["runs", "forks", "uploads", "actors", "schedules", "queues", "bulk", "routing", "members"],
  ["tenant"],
  ["host", "survey", "reshard", "collecting"],
  ["moving"],
];

describe("imports", () => {
  it("go host → runtime → guest types, as the table allows", () => {
    const findings: string[] = [];
    for (const file of sources) {
      const rule = rules.find(({ from }) => from.test(file));
      if (rule === undefined) continue;
      for (const { specifier } of importsOf(file)) {
        const target = resolved(file, specifier);
        if (!rule.may.some((pattern) => pattern.test(target))) findings.push(`${file} → ${target}`);
      }
    }
    expect(findings).toEqual([]);
  });

  it("of the engine go from higher layers to lower ones", () => {
    const layerOf = (file: string): number =>
      layers.findIndex((names) => names.includes(file.replace(/^runtime\/|\.ts$/g, "")));
    const findings: string[] = [];
    for (const file of sources.filter((name) => /^runtime\/[^/]+\.ts$/.test(name))) {
      const layer = layerOf(file);
      if (layer === -1) findings.push(`${file} is in no layer`);
      for (const { specifier, isType } of importsOf(file)) {
        const target = resolved(file, specifier);
        if (isType || !target.startsWith("runtime/") || file === "runtime/index.ts") continue;
        if (layerOf(target) > layer) findings.push(`${file} → ${target}`);
      }
    }
    expect(findings).toEqual([]);
  });

  it("have no cycle at run time in the engine and the SDK", () => {
    const graph = new Map<string, string[]>();
    for (const file of sources.filter((name) => /^(runtime|guest)\//.test(name))) {
      const targets = importsOf(file)
        .filter(({ specifier, isType }) => specifier.startsWith(".") && !isType)
        .map(({ specifier }) => resolved(file, specifier));
      graph.set(file, targets);
    }
    expect(cycleIn(graph)).toEqual([]);
  });
});

function cycleIn(graph: ReadonlyMap<string, readonly string[]>): string[] {
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): string[] => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (done.has(file)) return [];
    path.push(file);
    for (const target of graph.get(file) ?? []) {
      const cycle = visit(target);
      if (cycle.length > 0) return cycle;
    }
    path.pop();
    done.add(file);
    return [];
  };
  for (const file of graph.keys()) {
    const cycle = visit(file);
    if (cycle.length > 0) return cycle;
  }
  return [];
}

describe("the engine and the SDK", () => {
  const banned: readonly (readonly [RegExp, string])[] = [
    [/\bDate\.now\b/, "Clock.nowMs or kernel.nowMs"],
    [/\bnew Date\(\)/, "Clock.nowMs or kernel.nowMs"],
    [/\bMath\.random\b/, "Random.bytes or kernel.random"],
    [/\bsetTimeout\b|\bsetInterval\b|\bsetImmediate\b/, "Clock.after or a timer command"],
    [/\bcrypto\./, "Digest or Random"],
    [/\bperformance\./, "Clock.nowMs"],
    [/\bprocess\./, "an option handed in"],
    [/\bBuffer\b/, "Uint8Array"],
    [/\bconsole\./, "Observer.log or kernel.log"],
    [/\bfetch\(/, "Outbound or a fetch command"],
    [/\bpostMessage\b/, "a port"],
  ];

  it("use nothing ambient", () => {
    const findings: string[] = [];
    for (const file of sources) {
      if (!/^(runtime|guest)\//.test(file) || /^guest\/globals(\/|\.ts)/.test(file)) continue;
      // Calls of the port and its declaration are what should be there instead.
      const code = codeOf(file).replace(
        /\b(?:outbound|ports\.outbound|this\.#ports\.outbound)\.fetch\(|^\s*fetch\(request: FetchRequest/gm,
        "",
      );
      for (const [word, instead] of banned) {
        if (word.test(code)) findings.push(`${file}: ${word.source}; use ${instead}`);
      }
    }
    expect(findings).toEqual([]);
  });

  it("have no `any` and no non-null assertion", () => {
    const findings: string[] = [];
    for (const file of sources) {
      if (!/^(runtime|guest|client|testing)\//.test(file)) continue;
      const code = codeOf(file);
      for (const match of code.matchAll(/(?::\s*|<|\bas\s+)any\b|[\w)\]]!(?=[.[;,)])/g)) {
        findings.push(`${file}: ${match[0]}`);
      }
    }
    expect(findings).toEqual([]);
  });

  /** Of a file that is longer: how long it may be, so that it can only become shorter. */
  const linesMax = 1200;
  const longer: Readonly<Record<string, number>> = {
    // One class each, which would weigh on every component's heap as two.
    "guest/activation.ts": 1340,
    "guest/steps.ts": 1300,
  };

  it("have no file that has grown beyond one concept, nor has the host", () => {
    const findings = sources
      .filter((file) => /^(runtime|guest|host)\//.test(file))
      .map((file) => ({ file, lines: read(file).split("\n").length - 1 }))
      .filter(({ file, lines }) => lines > (longer[file] ?? linesMax))
      .map(({ file, lines }) => `${file} has ${lines} lines: which second concept is inside?`);
    expect(findings).toEqual([]);
    expect(Object.keys(longer).filter((file) => !files.includes(file))).toEqual([]);
  });

  it("say at the head of each file what it is for", () => {
    const without = sources
      .filter((file) => /^(runtime|guest|host|client|testing)\//.test(file))
      .filter((file) => !/^(#!.*\n)?\/\*\*/.test(read(file)));
    expect(without).toEqual([]);
  });
});

describe("pure transitions", () => {
  it("contain no await", () => {
    const pure = ["state", "machine", "commands", "run", "actor", "format", "timers", "ids"];
    const findings = pure.filter((name) =>
      /\bawait\b|\basync\b/.test(codeOf(`runtime/${name}.ts`)),
    );
    expect(findings).toEqual([]);
  });
});

describe("tests", () => {
  it("are not focused, and nothing is left to fix", () => {
    const findings = sources
      .filter((file) => file !== "test/tidy.test.ts")
      .filter((file) => /\.only\(|FIXME/.test(read(file)));
    expect(findings).toEqual([]);
  });
});

describe("documents", () => {
  const documents = files.filter((file) => file.endsWith(".md"));

  it("have an entry for every error code, and no other", () => {
    const headings = [...read("docs/ERRORS.md").matchAll(/^### `([a-z-]+)`/gm)].map(
      ([, code]) => code,
    );
    expect(headings.filter((code) => !(code !== undefined && code in errorCodes))).toEqual([]);
    expect(Object.keys(errorCodes).filter((code) => !headings.includes(code))).toEqual([]);
  });

  it("have one title each and no dead links", () => {
    const findings: string[] = [];
    for (const file of documents) {
      const text = read(file).replace(/```[\s\S]*?```/g, "");
      if ((text.match(/^# /gm) ?? []).length !== 1) findings.push(`${file}: not one title`);
      for (const [, link = ""] of text.matchAll(/\]\(([^)#\s]+)[^)]*\)/g)) {
        if (/^[a-z]+:/.test(link)) continue;
        const target = join(root, dirname(file), link);
        if (!existsSync(target)) findings.push(`${file}: ${relative(root, target)}`);
      }
    }
    expect(findings).toEqual([]);
  });

  it("build images of the versions that are tested", () => {
    const { devDependencies } = JSON.parse(read("package.json"));
    const [, node] = /^ARG NODE=(\S+)$/m.exec(read("Dockerfile")) ?? [];
    expect(node).toBe(devDependencies.node);
    const [, server] = /^version=(\S+)$/m.exec(read(".ci/with-s3")) ?? [];
    expect(read("compose.yaml")).toContain(`image: versity/versitygw:${server}\n`);
  });

  it("and sources stay of a readable size", () => {
    const large = files
      .filter((file) => !/package-lock\.json$/.test(file))
      .filter((file) => readFileSync(join(root, file)).length > 200_000);
    expect(large).toEqual([]);
  });
});
