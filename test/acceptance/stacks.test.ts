/** Components as files, and errors at their author's lines, on a real server process. */
import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Runnable } from "../../client/index.ts";
import {
  ask,
  type Finished,
  launch,
  putAway,
  type RawAnswer,
  removeFolder,
  type ServerProcess,
  spore,
  startServer,
  temporaryFolder,
  until,
} from "./kit.ts";

const source = `import { actor, publish, query, signal, step, workflow } from "sporeflow/guest";
import { declined } from "./card";

export const charge = step("charge", (amount: number): number => {
  if (amount > 100) throw declined(amount);
  return amount;
}, { retries: 0 });
export const pay = workflow("pay", async (amount: number) => await charge(amount));
export const wrap = workflow("wrap", async (amount: number) => {
  try {
    return await charge(amount);
  } catch (cause) {
    throw new Error("no payment", { cause });
  }
});
export const many = workflow("many", () => Promise.any([charge(101), charge(102)]));
export const asked = workflow("asked", async () => {
  query("broken", () => { throw new TypeError("no answer"); });
  await signal("end");
});
export const Till = actor("Till", class {
  constructor(isBroken = false) { if (isBroken) throw new RangeError("no till"); }
  take() { throw new RangeError("nothing in it"); }
});
export const logged = workflow("logged", () => {
  console.error(new Error("look here"));
});
export const packed = workflow("packed", async () => charge({ deep: { er: [Symbol("s")] } } as never));
class Card {}
export const caught = workflow("caught", async () => {
  const [, error] = await charge.options({ catchErrors: true })(500);
  publish("error", error);
  query("error", () => ({ in: new Map([["a", [error]]]) }));
  return { error };
});
export const unstorable = workflow("unstorable", async () => ({ cards: [new Card()] }));
export const unstorableStep = step("unstorableStep", () => new Card());
export const lateSignal = workflow("lateSignal", async () => {
  await signal("end", { timeout: 1 });
});
export const parent = workflow("parent", () => pay(500));
export const Wallet = actor("Wallet", class {
  card() { return new Card(); }
});
`;
const card = `export class CardError extends Error {
  override name = "CardError";
}

export function declined(amount: number): CardError {
  return new CardError(\`\${amount} is too much\`);
}
`;
/** Of `new CardError` in card.ts, and of its call in index.ts. */
const thrownAt = "card.ts:6:";
const calledAt = "index.ts:5:";

let folder: string;
let server: ServerProcess;

const command = (...args: string[]): Promise<Finished> =>
  spore(args, { cwd: folder, env: { SPORE_URL: server.url } });
const put = (body: BodyInit, type: string): Promise<RawAnswer> =>
  ask(server, "PUT", "/v1/components", { body, headers: { "content-type": type } });
const built = (name: string): Promise<Buffer<ArrayBuffer>> =>
  readFile(join(folder, ".spore", name));
const run = async (workflow: string, args: unknown[], id: string): Promise<void> => {
  await ask(server, "POST", `/v1/workflows/${workflow}?wait=30s`, { json: { id, args } });
};

beforeAll(async () => {
  folder = await temporaryFolder();
  server = await startServer({ folder: await temporaryFolder() });
  await writeFile(join(folder, "index.ts"), source);
  await writeFile(join(folder, "card.ts"), card);
  const made = await command("build");
  expect(made.err).toBe("");
  expect(made.code).toBe(0);
});

afterAll(async () => {
  await putAway();
  await removeFolder(folder);
});

describe("spore build", () => {
  it("writes a component, and says what it wrote with sizes", async () => {
    const { out } = await command("build");
    expect(out).toMatch(/\d+ definitions \(unchanged\)/);
    expect(out).toMatch(/\.spore\/component\.wasm +\d+ KB/);
    const json = JSON.parse((await command("build", "--json")).out);
    const { size } = await stat(join(folder, ".spore/component.wasm"));
    expect(json.isUnchanged).toBe(true);
    expect(json.files).toContainEqual(
      expect.objectContaining({ name: "component.wasm", bytes: size }),
    );
    expect([...(await built("component.wasm")).subarray(0, 8)]).toEqual([
      0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0,
    ]);
  });
});

describe("a component file", () => {
  it("is deployed and runs; the same bytes have the same id", async () => {
    const bytes = await built("component.wasm");
    const first = await put(bytes, "application/wasm");
    expect(first.status).toBe(200);
    await run("pay", [7], "from-wasm");
    expect((await ask(server, "GET", "/v1/runs/from-wasm")).body).toMatchObject({
      status: "SUCCESSFUL",
      component: first.body.id,
    });
    expect(await server.client.getOutput("from-wasm")).toBe(7);
    expect((await put(bytes, "application/wasm")).body.id).toBe(first.body.id);
    const sent = await command("deploy", ".spore/component.wasm", "--json");
    expect(JSON.parse(sent.out).id).toBe(first.body.id);
  });

  it("leads to the author's lines, because its source map is in it", async () => {
    await put(await built("component.wasm"), "application/wasm");
    await run("pay", [500], "wasm-fails");
    const { body } = await ask(server, "GET", "/v1/runs/wasm-fails");
    expect(body).toMatchObject({ error: { frame: { file: "card.ts", line: 6 } } });
  });

  it("leads to them from a value that can't be stored, too, which is found deep in the SDK", async () => {
    await run("packed", [], "packed");
    const { body } = await ask(server, "GET", "/v1/runs/packed");
    expect(body).toMatchObject({
      error: { code: "not-serialisable", details: { path: "$[0].deep.er[0]" } },
    });
    const line = source.split("\n").findIndex((each) => each.includes("const packed")) + 1;
    expect(body.error).toMatchObject({ frame: { file: "index.ts", line } });
  });

  it("is as good as its bundle", async () => {
    const { status, body } = await put(await built("bundle.js"), "text/javascript");
    expect(status).toBe(200);
    await run("pay", [8], "from-bundle");
    expect(await server.client.getOutput("from-bundle")).toBe(8);
    const sent = await command("deploy", ".spore/bundle.js", "--json");
    expect(JSON.parse(sent.out).id).toBe(body.id);
    expect(JSON.parse((await command("build", "--json")).out).id).toBe(body.id);
  });

  it.each([
    ["a core module", () => new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0])],
    ["a component without our world", () => new Uint8Array([0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0])],
    ["a text", () => new TextEncoder().encode("export const a = 1;")],
    ["one that is cut short", (whole: Uint8Array) => whole.subarray(0, whole.length - 1)],
    ["one that is cut in the middle", (whole: Uint8Array) => whole.subarray(0, 1_000_000)],
  ])("that is %s is refused", async (_what, make) => {
    const bytes = new Uint8Array(make(new Uint8Array(await built("component.wasm"))));
    const { status, body } = await put(bytes, "application/wasm");
    expect([status, body.code]).toEqual([400, "invalid-component"]);
  });
});

describe("an error", () => {
  beforeAll(async () => {
    const deployed = await command("deploy");
    expect([deployed.code, deployed.err]).toEqual([0, ""]);
    await run("pay", [500], "fails");
  });

  const expectStack = (stack: unknown): void => {
    const [maker, ...lines] = String(stack).split("\n");
    expect(maker).toContain("at CardError (card.ts:3:");
    expect(lines[0]).toContain(`at declined (${thrownAt}`);
    expect(lines[1]).toContain(calledAt);
    expect(String(stack)).not.toContain("user.js");
    expect(lines.slice(2).join()).toMatch(/^ {4}… \d+ inside sporeflow$/);
  };

  it("of a run has the author's lines in every answer about it", async () => {
    const frame = { file: "card.ts", line: 6, text: expect.stringContaining("new CardError") };
    const about = async (path: string): Promise<Record<string, unknown>> =>
      (await ask(server, "GET", `/v1/runs/fails${path}`)).body;
    const { error } = (await about("")) as { error: { stack: string } };
    expect(error).toMatchObject({ name: "CardError", frame });
    expectStack(error.stack);
    const output = (await about("/output")) as { code: string; error: { stack: string } };
    expect(output).toMatchObject({ code: "run-failed", error: { frame } });
    expectStack(output.error.stack);
    const { steps } = (await about("/steps")) as { steps: { error: { stack: string } }[] };
    expectStack(steps[0]?.error.stack);
    const { events } = (await about("/history")) as {
      events: { type: string; data: { error?: { stack: string } } }[];
    };
    const failures = events.filter(({ data }) => data.error !== undefined);
    expect(failures.map(({ type }) => type)).toEqual(["step.failed", "run.failed"]);
    for (const { data } of failures) expectStack(data.error?.stack);
    const stream = await fetch(`${server.url}/v1/runs/fails/events`);
    const text = await stream.text();
    expect(text).toContain(thrownAt);
    expect(text).not.toContain("user.js");
  });

  it("is in the client as one of its own, with the author's stack", async () => {
    const error = await server.client.getOutput("fails").catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(Error);
    const [head, ...frames] = (error as Error).stack?.split("\n") ?? [];
    expect(head).toBe("CardError: 500 is too much");
    expectStack(frames.join("\n"));
  });

  it("keeps the lines of its causes, and of the errors in an AggregateError", async () => {
    await run("wrap", [500], "wrapped");
    const wrapped = await ask(server, "GET", "/v1/runs/wrapped");
    expect(wrapped.body).toMatchObject({
      error: {
        frame: { file: "index.ts", line: 13 },
        cause: { frame: { file: "card.ts", line: 6 } },
      },
    });
    await run("many", [], "many");
    const { error } = (await ask(server, "GET", "/v1/runs/many")).body as {
      error: { name: string; details: { errors: { stack: string }[] } };
    };
    expect(error.name).toBe("AggregateError");
    expect(error.details.errors).toHaveLength(2);
    for (const { stack } of error.details.errors) expectStack(stack);
    const own = await server.client.getOutput("many").catch((thrown: unknown) => thrown);
    expect(own).toBeInstanceOf(AggregateError);
  });

  it("of a query, an actor's method and its constructor has the author's line", async () => {
    await ask(server, "POST", "/v1/workflows/asked", { json: { id: "asked", args: [] } });
    await until("the run waits", async () => {
      const { body } = await ask(server, "GET", "/v1/runs/asked");
      return JSON.stringify(body.waiting ?? "").includes("end");
    });
    const query = await ask(server, "POST", "/v1/runs/asked/queries/broken", { json: {} });
    expect(query.body).toMatchObject({ error: { frame: { file: "index.ts", line: 18 } } });
    await ask(server, "PUT", "/v1/actors/Till/a", { json: {} });
    const call = await ask(server, "POST", "/v1/actors/Till/a/take", { json: {} });
    expect(call.body).toMatchObject({ error: { frame: { file: "index.ts", line: 23 } } });
    const born = await ask(server, "PUT", "/v1/actors/Till/b", { json: { args: [true] } });
    expect(born.body).toMatchObject({
      code: "actor-init-failed",
      error: { frame: { file: "index.ts", line: 22 } },
    });
  });

  it("that is made while no line of the author's runs has that of what it came out of", async () => {
    const lineOf = (text: string): number =>
      source.split("\n").findIndex((line) => line.includes(text)) + 1;
    const failed = [
      ["unstorable", "$.cards[0]: an instance of Card can't be stored (in the value of"],
      ["lateSignal", "no signal end came within 1 ms"],
      ["parent", /^workflow pay \(run [^ ]+\) failed: 500 is too much$/],
    ] as const;
    for (const [name, message] of failed) {
      await run(name, [], name);
      const { error } = (await ask(server, "GET", `/v1/runs/${name}`)).body as {
        error: { message: string; stack: string };
      };
      expect(error.message).toMatch(message);
      const frame = { file: "index.ts", line: lineOf(`workflow("${name}"`) };
      expect(error).toMatchObject({ frame });
      expect(error.stack.split("\n")[0]).toContain(`at workflow ${name} (index.ts:${frame.line}:`);
    }
    const { cause } = (await ask(server, "GET", "/v1/runs/parent")).body.error as {
      cause: object;
    };
    expect(cause).toMatchObject({ name: "CardError", frame: { file: "card.ts", line: 6 } });
    const unstorable = { $step: "unstorableStep", args: [] } as unknown as Runnable<unknown>;
    const step = await server.client.start(unstorable, { id: "unstorable-step" });
    await step.result().catch(() => undefined);
    expect((await step.info()).error).toMatchObject({
      frame: { file: "index.ts", line: lineOf('step("unstorableStep"') },
    });
    const card = await ask(server, "POST", "/v1/actors/Wallet/a/card", { json: {} });
    expect(card.body).toMatchObject({ error: { frame: { line: lineOf("card() {") } } });
    await ask(server, "POST", "/v1/workflows/asked", { json: { id: "canceled", args: [] } });
    await ask(server, "POST", "/v1/runs/canceled/cancel", { json: {} });
    const canceled = await ask(server, "GET", "/v1/runs/canceled/output?wait=30s");
    expect(canceled.body).toMatchObject({
      detail: "run canceled was canceled: the run was canceled",
      error: { name: "CancelledError", frame: { line: lineOf('workflow("asked"') } },
    });
  });

  it("within a value has the author's lines wherever that is shown", async () => {
    await run("caught", [], "caught");
    const stackIn = (body: unknown): unknown =>
      /"\$error":\{.*?"stack":("(?:[^"\\]|\\.)*")/.exec(JSON.stringify(body))?.[1];
    const answers = [
      ["GET", "/output"],
      ["GET", "/steps"],
      ["GET", "/history"],
      ["GET", "/published/error"],
      ["POST", "/queries/error"],
    ] as const;
    for (const [method, path] of answers) {
      const { body } = await ask(server, method, `/v1/runs/caught${path}`);
      expectStack(JSON.parse(String(stackIn(body))));
    }
    const { error } = (await server.client.getOutput("caught")) as { error: Error };
    expect([error.name, error.message]).toEqual(["CardError", "500 is too much"]);
    expectStack(error.stack);
  });

  it("that is only logged has the author's line in the history", async () => {
    await run("logged", [], "logged");
    const { body } = await ask(server, "GET", "/v1/runs/logged/history");
    const events = body.events as { type: string; data: { message?: string } }[];
    const message = events.find(({ type }) => type === "log")?.data.message;
    expect(message).toContain("look here");
    expect(message).toContain("index.ts:26:");
  });

  it("is a few lines on the command line: what, where, the code, what to do", async () => {
    const { code, err } = await command("run", "pay", "500", "--id", "shown");
    expect(code).toBe(1);
    const lines = err.trimEnd().split("\n");
    expect(lines.length).toBeLessThan(12);
    expect(lines[0]).toBe("✗ CardError: 500 is too much");
    expect(lines[1]).toContain(`at declined (${thrownAt}`);
    expect(lines[2]).toBe(`  6 |   return new CardError(\`\${amount} is too much\`);`);
    expect(lines[3]).toMatch(/^ {4}\| +\^$/);
    expect(lines[4]).toContain(calledAt);
    expect(lines.at(-1)).toContain("spore resume shown");
    const json = JSON.parse((await command("output", "shown", "--json")).err);
    expect(json.error).toMatchObject({ name: "CardError", frame: { file: "card.ts", line: 6 } });
    expectStack(json.error.stack.split("\n").slice(1).join("\n"));
    expect((await command("status", "shown")).out).toContain(`at declined (${thrownAt}`);
    expect((await command("steps", "shown")).out).toContain(`(${thrownAt}`);
  });

  it("of a run under spore dev is on its console, with the author's lines", async () => {
    const dev = await launch({
      folder: await temporaryFolder(),
      command: ["dev", "index.ts"],
      cwd: folder,
    });
    await until("the code is deployed", () => dev.printed().includes("is ready"));
    await dev.client.start({ $workflow: "pay", args: [500] } as unknown as Runnable<unknown>);
    await until("the console has it", () => dev.printed().includes("run failed: CardError"));
    expect(dev.printed()).toContain(`at declined (${thrownAt}`);
    await dev.client.start({ $workflow: "logged", args: [] } as unknown as Runnable<unknown>);
    await until("the console has the log", () => dev.printed().includes("look here"));
    expect(dev.printed()).toContain("index.ts:26:");
    const id = (await dev.client.listAll()).find(({ name }) => name === "pay")?.id;
    const { body } = await ask(dev, "GET", `/v1/runs/${id}`);
    expect(body).toMatchObject({ error: { frame: { file: "card.ts", line: 6 } } });
    await dev.stop();
  });

  it("moves with the code, also when only a comment was added", async () => {
    const before = await server.client.currentComponent();
    await writeFile(join(folder, "card.ts"), `// A comment.\n${card}`);
    expect((await command("deploy")).code).toBe(0);
    expect((await server.client.currentComponent()).id).toBe(before.id);
    await run("pay", [500], "moved");
    const { body } = await ask(server, "GET", "/v1/runs/moved");
    expect(body).toMatchObject({ error: { frame: { file: "card.ts", line: 7 } } });
  });

  it("of a bundle with a map that is nonsense keeps the stack that it has", async () => {
    const code = `${await built("bundle.js")}// another one\n`;
    const url = `data:application/json;base64,${btoa('{"version":3,"mappings":5}')}`;
    const { status } = await put(`${code}//# sourceMappingURL=${url}\n`, "text/javascript");
    expect(status).toBe(200);
    await run("pay", [500], "unmapped");
    const { body } = await ask(server, "GET", "/v1/runs/unmapped");
    expect(body).toMatchObject({ error: { stack: expect.stringContaining("user.js") } });
  });
});
