/** docs/PROTOCOL.md, and the tables of ERRORS and ARCHITECTURE, against the code. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { jsonOfValue, valueOfJson } from "../../client/json.ts";
import {
  bigintBytesMax,
  decode,
  depthMax,
  encode,
  encodedBytesMax,
  Ref,
} from "../../guest/cbor.ts";
import { objectBytesMax, pieceBytesMax, stateBytesMax } from "../../guest/protocol.ts";
import { apiLimits } from "../../host/api/exchange.ts";
import { exitCodeOf, exitCodes } from "../../host/cli/failures.ts";
import { runCli } from "../../host/cli.ts";
import { outboundDefaults, requestHeaderBytesMax } from "../../host/outbound.ts";
import { statusOf } from "../../host/problems.ts";
import { engineLimits } from "../../host/sandbox/engine.ts";
import { manifestLimits } from "../../host/sandbox/manifest.ts";
import { threadSandboxDefaults } from "../../host/sandbox/threads.ts";
import { waitMsMax } from "../../host/waits.ts";
import { mailFromEntitiesMax, mailMax, sessionsMax } from "../../runtime/actor.ts";
import { signalsMax } from "../../runtime/commands.ts";
import { type ErrorCode, errorCodes, SporeError } from "../../runtime/errors.ts";
import { callsRemembered, inputsMax } from "../../runtime/machine.ts";
import { publishedBytesMax, publishedMax } from "../../runtime/published.ts";
import { createKit } from "../api/kit.ts";
import { hexOf, readDocument, tableOf } from "./examples.ts";

const protocol = readDocument("PROTOCOL.md");

function readSource(file: string): string {
  return readFileSync(new URL(`../../${file}`, import.meta.url), "utf8");
}

/** The section below a heading of the third level. */
function section(heading: string): string {
  const from = protocol.indexOf(`\n### ${heading}`);
  if (from < 0) throw new Error(`there is no section ${heading}`);
  const to = protocol.indexOf("\n##", from + 1);
  return protocol.slice(from, to < 0 ? undefined : to);
}

describe("the guest protocol's tables", () => {
  /** The kinds of a union in guest/protocol.ts, the variants of other names included. */
  function kindsOf(type: string, until: string): string[] {
    const source = readSource("guest/protocol.ts");
    const from = source.indexOf(`export type ${type} =`);
    const text = source.slice(from, source.indexOf(until, from));
    return [...text.matchAll(/\bkind: "(\w+)"/g)].map(([, kind = ""]) => kind).toSorted();
  }

  it("name every input and every command, and no other", () => {
    const inputs = tableOf(section("1.4 "), "| kind |").map(([kind]) => kind);
    // TurnInput is declared right after Input, within the span.
    expect(inputs.toSorted()).toEqual(kindsOf("Input", "export interface ActorRef"));
    const commands = tableOf(section("1.5 "), "| kind |").map(([kind]) => kind);
    expect(commands.toSorted()).toEqual(kindsOf("Command", "export interface StartOptions"));
  });

  it("name every event of a record", () => {
    const source = readSource("guest/protocol.ts");
    const events = /readonly event: (.*);/.exec(source)?.[1]?.match(/\w+/g) ?? [];
    expect(events.length).toBeGreaterThan(3);
    for (const event of events) expect(section("1.7 ")).toContain(`\`${event}\``);
  });

  it("give the limits that the code has", () => {
    const limits = new Map(tableOf(section("1.11 "), "| limit |").map(([a = "", b]) => [a, b]));
    const expected: readonly (readonly [string, number])[] = [
      ["inputs in one activation", inputsMax],
      ["bytes drained in one activation", threadSandboxDefaults.drainedBytesMax],
      ["milliseconds of one activation", threadSandboxDefaults.activationMsMax],
      ["memory of a machine, in pages of 64 KiB", threadSandboxDefaults.memoryPagesMax],
      ["bytes of a piece of a value", pieceBytesMax],
      ["bytes of a stored value", objectBytesMax],
      ["bytes of a component", engineLimits.componentBytesMax],
      ["unread signals of a run", signalsMax],
      ["names under which a run publishes", publishedMax],
      ["bytes of a published value", publishedBytesMax],
      ["bytes of an actor's state", stateBytesMax],
      ["calls waiting in an actor's mailbox", mailMax],
      ["calls of runs and actors waiting there", mailFromEntitiesMax],
      ["call and message ids remembered by a run or actor", callsRemembered],
      ["client sessions remembered by an actor", sessionsMax],
      ["bytes of an answer to fetch", outboundDefaults.responseBytesMax],
      ["bytes of the headers of a fetch", requestHeaderBytesMax],
      ["milliseconds of a fetch", outboundDefaults.timeoutMs],
      ["definitions in a manifest", manifestLimits.definitionsMax],
    ];
    expect([...limits]).toEqual(expected.map(([name, value]) => [name, String(value)]));
    expect([depthMax, encodedBytesMax, bigintBytesMax]).toEqual([128, 64 * 2 ** 20, 4096]);
    expect(section("1.3 ")).toContain("at most 128 deep; one value has at most 64 MiB");
    expect(section("1.3 ")).toContain("bigint, at most 4096 bytes");
  });
});

describe("a value in PROTOCOL", () => {
  const values: readonly (readonly [text: string, value: unknown])[] = [
    ["undefined", undefined],
    ["null", null],
    ["true", true],
    ["23", 23],
    ["-1", -1],
    ["4294967296", 4294967296],
    ["1.5", 1.5],
    ["-0", -0],
    ["NaN", Number.NaN],
    ['"é"', "é"],
    ["Uint8Array [1, 2]", Uint8Array.of(1, 2)],
    ['[1, "a"]', [1, "a"]],
    ["{ a: 1 }", { a: 1 }],
    ["new Date(1500)", new Date(1500)],
    ["2n ** 64n", 2n ** 64n],
    ["-1n", -1n],
    ["new Set([1])", new Set([1])],
    ["new Map([[1, 2]])", new Map([[1, 2]])],
    ["Float32Array [1]", Float32Array.of(1)],
    ["ArrayBuffer [1]", Uint8Array.of(1).buffer],
    ['new Ref("ab", 3)', new Ref("ab", 3)],
  ];

  it("has the bytes that it has there, and comes back from them", () => {
    const rows = tableOf(section("1.3 "), "| value | bytes |");
    expect(rows).toEqual(values.map(([text, value]) => [text, hexOf(encode(value))]));
    for (const [at, [text, value]] of values.entries()) {
      const bytes = Buffer.from(rows[at]?.[1] ?? "", "hex");
      expect(decode(new Uint8Array(bytes)), text).toStrictEqual(value);
    }
  });

  it("has the JSON that it has there, and comes back from it", () => {
    const lines = section("2.3 ").replaceAll(/^ {3}\|/gm, "|");
    const rows = tableOf(lines, "| value | JSON |");
    expect(rows.length).toBeGreaterThan(10);
    for (const [text = "", shown = ""] of rows) {
      const value = valueOfJson(JSON.parse(shown));
      expect(value, `${text} is tagged`).not.toEqual(JSON.parse(shown));
      const again = jsonOfValue(value);
      // An Error made here has a stack of its own.
      if (value instanceof Error) expect(again).toMatchObject(JSON.parse(shown));
      else expect(JSON.stringify(again), text).toBe(shown);
    }
    const tags = rows.map(([, shown = ""]) => /\$+(\w+)/.exec(shown)?.[1]);
    const known = /tagNames = "([^"]*)"/.exec(readSource("client/json.ts"))?.[1]?.split("|");
    expect([...new Set(tags)].toSorted()).toEqual(known?.toSorted());
  });
});

interface OpenApi {
  readonly paths: Readonly<
    Record<
      string,
      Readonly<
        Record<
          string,
          { readonly parameters?: readonly { readonly in: string; readonly name: string }[] }
        >
      >
    >
  >;
}

async function openApi(): Promise<OpenApi> {
  const kit = createKit({ metrics: () => "" });
  return (await (await kit.fetch("/openapi.json")).json()) as OpenApi;
}

describe("the HTTP tables", () => {
  it("list the routes of the OpenAPI document, and no other", async () => {
    const { paths } = await openApi();
    const served = Object.entries(paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
    );
    const documented = tableOf(section("2.1 "), "| method | path |").map(
      ([method, path]) => `${method} ${path}`,
    );
    expect(documented.toSorted()).toEqual(served.toSorted());
  });

  it("list the query parameters of the OpenAPI document, and no other", async () => {
    const { paths } = await openApi();
    const parameters = Object.values(paths)
      .flatMap((methods) => Object.values(methods))
      .flatMap((operation) => operation.parameters ?? []);
    const taken = parameters.filter((each) => each.in === "query").map((each) => each.name);
    const documented = tableOf(section("2.5 "), "| parameter |").flatMap(([names = ""]) =>
      names.split(", "),
    );
    expect(documented.toSorted()).toEqual([...new Set(taken)].toSorted());
    const headers = parameters.filter((each) => each.in === "header").map((each) => each.name);
    for (const name of headers) expect(section("2.6 ")).toContain(`\`${name}\``);
  });

  it("give the limits and waits that the code has", () => {
    expect(apiLimits).toEqual({
      bodyBytesMax: 2 ** 20,
      componentBytesMax: 16 * 2 ** 20,
      objectBytesMax: 256 * 2 ** 20,
      heartbeatMs: 15_000,
      updateWaitMs: 60_000,
    });
    expect(section("2.3 ")).toContain("at most 1 MiB");
    expect(section("2.3 ")).toContain("A component has at most 16 MiB");
    expect(section("2.17 ")).toContain("at most 256 MiB");
    expect(section("2.8 ")).toContain("A comment every 15 s");
    expect(section("2.7 ")).toContain("an update 60 s");
    expect(waitMsMax).toBe(300_000);
    expect(section("2.5 ")).toContain("at most 300 s");
  });

  it("are true of HEAD, OPTIONS and what needs no key", async () => {
    const keys = [{ tenant: "acme", sha256: "0".repeat(64) }];
    const { fetch } = createKit({ keys });
    for (const path of ["/healthz", "/readyz", "/openapi.json"]) {
      expect((await fetch(path)).status, path).toBe(200);
      expect((await fetch(path, { method: "HEAD" })).status, path).toBe(200);
    }
    expect((await fetch("/v1/runs")).status).toBe(401);
    const options = await fetch("/v1/runs/a/output", { method: "OPTIONS" });
    expect([options.status, options.headers.get("allow")]).toEqual([204, "GET, HEAD, OPTIONS"]);
  });
});

describe("the command line's tables", () => {
  async function help(...argv: string[]): Promise<string[]> {
    let out = "";
    await runCli([...argv, "--help"], {
      out: (text) => {
        out += text;
      },
      err: () => undefined,
      env: {},
      isTty: false,
      stdin: () => "",
    });
    const lines = out.slice(out.indexOf("Commands:")).split("\n").slice(1);
    return lines
      .map((line) => /^ {2}(\S+(?: (?:<\S+>|\[\S+\]))*)/.exec(line)?.[1] ?? "")
      .filter((usage) => usage !== "" && !usage.startsWith("help"))
      .map((usage) => usage.replace(" [options]", ""));
  }

  it("list the commands that there are, with their arguments", async () => {
    const groups = ["tokens", "actor", "schedule", "queue"];
    const commands = (await help()).filter((usage) => !groups.includes(usage));
    for (const group of groups) {
      commands.push(...(await help(group)).map((usage) => `${group} ${usage}`));
    }
    const documented = tableOf(section("3.1 "), "| command |").map(([usage]) => usage);
    expect(documented).toEqual(commands);
    expect(documented.length).toBeGreaterThan(20);
  });

  it("list the exit codes", () => {
    const documented = tableOf(section("3.3 "), "| code |").map(([code]) => Number(code));
    expect(documented).toEqual(Object.values(exitCodes));
  });
});

describe("other documents", () => {
  it("ERRORS gives each kind the status and the exit code that it has", () => {
    const rows = tableOf(readDocument("ERRORS.md"), "| kind |");
    const codesOf = (kind: string): ErrorCode[] =>
      (Object.keys(errorCodes) as ErrorCode[]).filter((code) => errorCodes[code] === kind);
    const numbersIn = (cell = ""): number[] => (cell.match(/\d+/g) ?? []).map(Number);
    const sorted = (numbers: Iterable<number>): number[] =>
      [...new Set(numbers)].toSorted((left, right) => left - right);
    expect(rows.map(([kind]) => kind)).toEqual(
      [...new Set(Object.values(errorCodes))].toSorted(
        (left, right) =>
          rows.findIndex(([kind]) => kind === left) - rows.findIndex(([kind]) => kind === right),
      ),
    );
    for (const [kind = "", , statuses, codes] of rows) {
      const errors = codesOf(kind).map((code) => new SporeError(code, "an example"));
      expect(sorted(numbersIn(statuses)), kind).toEqual(sorted(errors.map(statusOf)));
      expect(sorted(numbersIn(codes)), kind).toEqual(sorted(errors.map(exitCodeOf)));
    }
  });

  it("ARCHITECTURE shows the transitions of runtime/run.ts", () => {
    const table = /const transitions[^{]*\{([^}]*)\}/.exec(readSource("runtime/run.ts"))?.[1] ?? "";
    const transitions = new Map(
      [...table.matchAll(/(\w+): \[([^\]]*)\]/g)].map(([, from = "", to = ""]) => [
        from,
        to.match(/\w+/g) ?? [],
      ]),
    );
    const shown = tableOf(readDocument("ARCHITECTURE.md"), "| from | to |").flatMap(
      ([from = "", to = ""]) =>
        from.split(", ").map((status) => [status, to.match(/[A-Z]{2,}/g) ?? []] as const),
    );
    const order = ([left]: readonly [string, unknown], [right]: readonly [string, unknown]) =>
      left < right ? -1 : 1;
    expect(shown.toSorted(order)).toEqual([...transitions].toSorted(order));
  });
});
