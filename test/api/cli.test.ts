import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { createClient } from "../../client/index.ts";
import { decode } from "../../guest/cbor.ts";
import { readArgs } from "../../host/cli/arguments.ts";
import { exitCodeOf } from "../../host/cli/failures.ts";
import { printer } from "../../host/cli/print.ts";
import { runCli } from "../../host/cli.ts";
import { SporeError } from "../../runtime/errors.ts";
import { createKit } from "./kit.ts";

const folders: string[] = [];

function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "spore-cli-"));
  folders.push(folder);
  return folder;
}

afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

/** Command lines against an API over the fake host. */
function createShell(stdin = "") {
  const kit = createKit();
  const connect = () =>
    createClient({
      url: "http://localhost",
      attemptsMax: 1,
      fetch: async (request) => {
        const path = request.url.slice("http://localhost".length);
        const body = request.body === null ? {} : { body: await request.arrayBuffer() };
        return kit.fetch(path, { method: request.method, headers: request.headers, ...body });
      },
    });
  return {
    kit,
    async spore(...argv: string[]) {
      let out = "";
      let err = "";
      const code = await runCli(argv, {
        out: (text) => {
          out += text;
        },
        err: (text) => {
          err += text;
        },
        env: {},
        isTty: false,
        stdin: () => stdin,
        connect,
      });
      return { code, out, err };
    },
  };
}

describe("exit codes", () => {
  it.each([
    [0, ["run", "echo", "1"]],
    [1, ["run", "boom"]],
    [2, ["run"]],
    [2, ["fly"]],
    [2, ["list", "--limit", "many"]],
    [2, ["list", "--status", "odd"]],
    [2, ["resume"]],
    [2, ["status", "a b"]],
    [3, ["status", "nobody"]],
    [3, ["run", "missing"]],
    [0, ["--help"]],
    [0, ["run", "--help"]],
  ])("are %i for %j", async (code, argv) => {
    expect((await createShell().spore(...argv)).code).toBe(code);
  });

  it("are 4 for a conflict and 5 for a host that is away", async () => {
    const { spore, kit } = createShell();
    await spore("run", "wait", "--id", "a", "--detach");
    expect((await spore("run", "wait", "--id", "a", "--if-exists", "fail")).code).toBe(4);
    kit.host.failNext = new SporeError("host-stopping", "bye");
    expect((await spore("list")).code).toBe(5);
  });
});

describe("an exit code", () => {
  it("of 1 says that the run failed, never that the host did", () => {
    expect(exitCodeOf(new Error("card declined"))).toBe(1);
    expect(exitCodeOf(new SporeError("run-canceled", "run a was canceled"))).toBe(1);
    expect(exitCodeOf(new SporeError("unauthorised", "no valid API key was given"))).toBe(2);
    expect(exitCodeOf(new SporeError("corrupt-log", "log entry 7 is damaged"))).toBe(5);
    expect(exitCodeOf(new SporeError("internal", "unexpected failure"))).toBe(5);
  });
});

describe("verbs", () => {
  it("run prints the output alone, so that other tools can take it", async () => {
    const { spore } = createShell();
    expect(await spore("run", "echo", '{"n":1}')).toEqual({ code: 0, out: '{"n":1}\n', err: "" });
    expect((await spore("run", "echo", "text")).out).toBe("text\n");
    expect((await spore("run", "echo", "n=1", "who=Ada")).out).toBe('{"n":1,"who":"Ada"}\n');
  });

  it("run names the error of a failed run on standard error", async () => {
    const { spore } = createShell();
    const { out, err } = await spore("run", "boom");
    expect(out).toBe("");
    expect(err).toContain("PaymentError: card declined");
    const json = JSON.parse((await spore("run", "boom", "--json")).err);
    expect(json).toMatchObject({
      error: { name: "PaymentError", message: "card declined", code: "declined" },
      exitCode: 1,
    });
  });

  it("list prints a table, or one run a line with --json", async () => {
    const { spore } = createShell();
    await spore("run", "echo", "--id", "a", "--tag", "team=x");
    await spore("run", "wait", "--id", "b", "--detach");
    const plain = await spore("list");
    expect(plain.out.split("\n")[0]).toBe("id\tname\tstatus\tcreatedAt\tclosedAt");
    expect(plain.out).toContain("a\techo\tSUCCESSFUL");
    const lines = (await spore("list", "--json")).out.trimEnd().split("\n");
    expect(lines.map((line) => JSON.parse(line).id)).toEqual(["b", "a"]);
    expect((await spore("--json", "list", "--status", "running")).out).toContain('"id":"b"');
  });

  it("signal, output, events and delete go through a run's life", async () => {
    const { spore } = createShell();
    expect((await spore("run", "wait", "--id", "a", "--detach")).out).toBe("a\n");
    expect((await spore("output", "a", "--no-wait")).code).toBe(5);
    expect((await spore("signal", "a", "go", "7")).code).toBe(0);
    expect((await spore("output", "a")).out).toBe("7\n");
    const events = (await spore("events", "a", "--json")).out.trimEnd().split("\n");
    expect(events.map((line) => JSON.parse(line).type)).toEqual(["run.started", "run.successful"]);
    expect((await spore("history", "a")).out).toContain("run.successful");
    expect((await spore("steps", "a")).out).toContain("one_0\tSUCCESSFUL");
    expect((await spore("delete", "a")).code).toBe(0);
    expect((await spore("status", "a")).code).toBe(3);
  });

  it("pause, resume, cancel, query and update say what became of the run", async () => {
    const { spore } = createShell();
    await spore("run", "wait", "--id", "a", "--detach");
    expect((await spore("pause", "a")).out).toBe("a PAUSED\n");
    expect((await spore("resume", "--all", "--json")).out).toBe('{"id":"a","status":"RUNNING"}\n');
    expect((await spore("resume", "a")).out).toBe("a RUNNING\n");
    expect((await spore("query", "a", "progress", "1")).out).toBe("[1]\n");
    expect((await spore("update", "a", "rename", "x")).out).toBe('["x"]\n');
    expect((await spore("cancel", "a", "--reason", "enough")).out).toBe("a CANCELED\n");
    expect((await spore("output", "a")).code).toBe(1);
  });

  it("actor creates, calls, shows and deletes", async () => {
    const { spore } = createShell();
    expect((await spore("actor", "create", "Counter", "c", "5")).out).toBe("Counter c created\n");
    expect((await spore("actor", "call", "Counter", "c", "incr", "2")).out).toBe("7\n");
    expect((await spore("actor", "get", "Counter", "c", "--json")).out).toContain('"turns":1');
    expect((await spore("actor", "delete", "Counter", "c")).code).toBe(0);
    expect((await spore("actor", "get", "Counter", "c")).code).toBe(3);
  });

  it.each([
    [["run", "order", "--input", "missing.json"], "no such file or directory, open 'missing.json'"],
    [["list", "--url", "localhost:7070"], "localhost:7070 is not a URL that begins with http://"],
    [["serve", "--port", "99999"], "a number from 0 to 65535"],
    [["dev", "missing.ts"], "there is no file missing.ts"],
  ])("wrong usage (%s) is said in a sentence, without a stack", async (argv, message) => {
    const { spore } = createShell();
    const { code, err } = await spore(...argv);
    expect(err).toContain(message);
    expect(err).not.toMatch(/^ +at /m);
    expect(code).toBe(argv[0] === "dev" ? 1 : 2);
  });

  it("--version prints the package's version", async () => {
    const { spore } = createShell();
    const { version } = JSON.parse(readFileSync("package.json", "utf8"));
    expect(await spore("--version")).toMatchObject({ code: 0, out: `${version}\n` });
  });

  it("init writes a project once and overwrites nothing", async () => {
    const { spore } = createShell();
    const folder = join(temporaryFolder(), "shop");
    expect((await spore("init", folder)).code).toBe(0);
    const { name, dependencies } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    // From the repository `npm install` works before anything is published.
    expect([name, dependencies]).toEqual(["shop", { sporeflow: `file:${process.cwd()}` }]);
    expect(readFileSync(join(folder, "index.ts"), "utf8")).toContain('workflow("order"');
    expect((await spore("init", folder)).code).toBe(2);
  });

  it("what only reads a storage makes none where there is none", async () => {
    const { spore } = createShell();
    const folder = temporaryFolder();
    const there = join(folder, "there");
    mkdirSync(there);
    for (const name of ["missing", "there"]) {
      const uri = `file:${join(folder, name)}`;
      const copy = `file:${join(folder, "copy")}`;
      const commands = [["verify"], ["gc"], ["gc", "--dry-run"], ["export", copy]];
      for (const command of commands) {
        const { code, err } = await spore(...command, "--storage", uri);
        expect([command, code]).toEqual([command, 5]);
        expect(err).toContain("the storage is empty");
      }
      const { code } = await spore("import", uri, "--storage", copy);
      expect(code).toBe(5);
    }
    expect(readdirSync(folder)).toEqual(["there"]);
    expect(readdirSync(there)).toEqual([]);
  });

  it("doctor finds a sound storage sound", async () => {
    const { spore } = createShell();
    const { code, out } = await spore("doctor", "--storage", `file:${temporaryFolder()}`, "--json");
    const checks = out
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect([code, checks.filter(({ result }) => result !== "ok")]).toEqual([0, []]);
    expect(checks.length).toBeGreaterThanOrEqual(6);
  });
});

describe("tables", () => {
  const details = Array.from(
    { length: 5 },
    (_, index) => `host ${index} at 10.0.0.${index}`,
  ).join();
  const shown = (isTty: boolean, column: string): string => {
    let text = "";
    const out = (more: string) => {
      text += more;
    };
    printer({ out, isJson: false, isTty }).rows([{ [column]: details }], [column]);
    return text;
  };

  it("cut long cells for people, but neither findings nor what a tool reads", () => {
    expect(shown(true, "metadata")).not.toContain("host 4");
    expect(shown(true, "details")).toContain("host 4 at 10.0.0.4");
    expect(shown(false, "metadata")).toBe(`metadata\n${details}\n`);
  });

  it("of one thing show its ids whole", () => {
    let text = "";
    const id = "e91bd35651655d46".repeat(4);
    const out = (more: string) => {
      text += more;
    };
    printer({ out, isJson: false, isTty: true }).record({ component: id });
    expect(text).toContain(id);
  });
});

describe("arguments", () => {
  const stdin = () => '[1, {"$date": "1970-01-01T00:00:00.000Z"}]';

  it("are JSON where they are JSON, else text", () => {
    expect(readArgs(["1", "true", "x y", '"1"', "[1]", "a=b c"], {}, { stdin })).toEqual([
      1,
      true,
      "x y",
      "1",
      [1],
      "a=b c",
    ]);
    for (const broken of ['{"items":', "[draft] title"]) {
      expect(() => readArgs([broken], {}, { stdin })).toThrow(`${broken} is not JSON`);
    }
  });

  it("come from a file or from standard input", async () => {
    expect(readArgs([], { input: "-" }, { stdin })).toEqual([1, new Date(0)]);
    const file = join(temporaryFolder(), "args.json");
    writeFileSync(file, '{"n":1}');
    const { spore, kit } = createShell();
    await spore("run", "echo", "-i", file);
    const request = kit.host.asked[0]?.args[0] as { args: Uint8Array };
    expect(decode(request.args)).toEqual([{ n: 1 }]);
  });
});
