import { fork } from "node:child_process";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { nodeCodec } from "../../host/sandbox/codec.ts";
import { compileJavaScript } from "../../host/sandbox/compile.ts";
import {
  type Baseline,
  createInstance,
  decodeBaseline,
  encodeBaseline,
  parseComponent,
  readBaseline,
} from "../../host/sandbox/engine.ts";
import { takeImage } from "../../runtime/image.ts";
import { act, guestSource } from "./guest.ts";
import { baseOf, memorySum, openEngine, play, startGuest } from "./kit.ts";
import type { Answer, Question } from "./other-process.ts";

let component: Uint8Array;
let baseline: Baseline;
let opened: Awaited<ReturnType<typeof openEngine>>;
beforeAll(async () => {
  [component, opened] = await Promise.all([compileJavaScript(guestSource()), openEngine()]);
  const id = createHash("sha256").update(component).digest("hex");
  baseline = readBaseline(component, id, opened.host);
}, 60_000);

function elsewhere(question: Question): Promise<Answer> {
  const file = fileURLToPath(new URL("./other-process.ts", import.meta.url));
  const child = fork(file, [], { serialization: "advanced", execArgv: [] });
  return new Promise((resolve, reject) => {
    child.once("message", (answer) => resolve(answer as Answer));
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`the other process ended with ${code}`)));
    child.send(question);
  });
}

/** Calls with each number of a seeded sequence: xorshift, so that a failure can be repeated. */
function seeded(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

describe("the engine", () => {
  const story = [act("add", 7), act("hold", 200), act("random"), act("wait"), act("resume", 1)];

  test("gives the same memory for the same activations in two instances", () => {
    const one = startGuest(opened.engine, baseline);
    const two = startGuest(opened.engine, baseline);
    expect(play(one, story)).toEqual(play(two, story));
    expect(memorySum(one)).toBe(memorySum(two));
    play(one, [act("add", 1)]);
    expect(memorySum(one)).not.toBe(memorySum(two));
  });

  test("gives the same memory for the same activations in another process", async () => {
    const here = startGuest(opened.engine, baseline);
    const drained = play(here, story);
    const stored = encodeBaseline(baseline, nodeCodec);
    const there = await elsewhere({ stored, image: undefined, activations: story });
    expect(there).toEqual({ drained, sum: memorySum(here) });
  });

  test("goes on in the middle of an await in another process", async () => {
    const here = startGuest(opened.engine, baseline);
    play(here, [act("hold", 250), act("wait"), act("resume", 1)]);
    const image = takeImage(here.memory(), baseOf(baseline), nodeCodec);
    const rest = [act("resume", 2)];
    const stored = encodeBaseline(baseline, nodeCodec);
    const there = await elsewhere({ stored, image, activations: rest });
    const drained = play(here, rest);
    expect(new TextDecoder().decode(Uint8Array.from(drained))).toBe("first 1 2");
    expect(there).toEqual({ drained, sum: memorySum(here) });
  });

  test("has no state but linear memory: an instance that lived is as good as a fresh one", () => {
    const used = startGuest(opened.engine, baseline);
    play(used, [act("hold", 9), act("survive"), act("wait"), act("resume", 4)]);
    used.memory().set(baseline.memory);
    const fresh = startGuest(opened.engine, baseline);
    expect(play(used, story)).toEqual(play(fresh, story));
    expect(memorySum(used)).toBe(memorySum(fresh));
  });

  test("leaves a guest room to grow before its page count changes", () => {
    const guest = startGuest(opened.engine, baseline);
    play(guest, [act("hold", 200), act("hold", 200)]);
    expect(guest.memory().length).toBe(baseline.memory.length);
  });

  test("imports nothing that a guest could learn from", () => {
    const given = new Set(["reset_adapter_state", "[context-get-0]", "[context-set-0]"]);
    const functions = WebAssembly.Module.imports(opened.engine.modules.runtime).filter(
      (entry) => entry.kind === "function" && !given.has(entry.name),
    );
    // Each of them is a trap, which the guest finds out when it asks for the time.
    expect(functions.length).toBeGreaterThan(20);
    const guest = startGuest(opened.engine, baseline);
    expect(() => guest.deliver(act("clock"))).toThrow("system clock");
  });

  test("refuses to run memory that isn't a guest's", () => {
    const instance = createInstance(opened.engine);
    expect(() => instance.describe()).toThrow(expect.objectContaining({ code: "guest-trap" }));
  });
});

describe("a component", () => {
  const refused = expect.objectContaining({ code: "invalid-component" });
  const read = (bytes: Uint8Array): Baseline =>
    readBaseline(bytes, baseline.component, opened.host);

  test("is five modules of the engine and its memory", () => {
    const { modules, exports } = parseComponent(component);
    expect(modules.length).toBeGreaterThan(5);
    expect(exports).toEqual(expect.arrayContaining(["deliver", "drain", "describe"]));
    expect(baseline.engine).toBe(opened.engine.hash);
  });

  test.each([
    ["nothing", new Uint8Array(0), "at byte 0: the component is empty"],
    ["text", new TextEncoder().encode("export const x = 1;"), "isn't WebAssembly"],
    ["half a header", Uint8Array.of(0, 0x61, 0x73), "is truncated"],
    ["a core module", Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0), "is a core module"],
    ["an empty component", Uint8Array.of(0, 0x61, 0x73, 0x6d, 13, 0, 1, 0), "doesn't export"],
    [
      "a section past the end",
      Uint8Array.of(0, 0x61, 0x73, 0x6d, 13, 0, 1, 0, 1, 9),
      "at byte 8: the component has a section that runs past its end",
    ],
    [
      "an over-long number",
      Uint8Array.of(0, 0x61, 0x73, 0x6d, 13, 0, 1, 0, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0),
      "number over",
    ],
  ])("is refused when it is %s", (_what, bytes, message) => {
    expect(() => read(bytes)).toThrow(refused);
    if (message !== "number over") expect(() => read(bytes)).toThrow(message);
  });

  test("is refused when it nests components without end", () => {
    const header = [0, 0x61, 0x73, 0x6d, 13, 0, 1, 0];
    let bytes = Uint8Array.from(header);
    for (let depth = 0; depth < 12; depth++) {
      bytes = Uint8Array.from([...header, 4, bytes.length | 0x80, bytes.length >> 7, ...bytes]);
    }
    expect(() => read(bytes)).toThrow("nests components too deep");
  });

  test("is refused when it is too large, before anything is read", () => {
    expect(() => read(new Uint8Array(17 * 1024 * 1024))).toThrow("16777216");
  });

  test("is refused when it is cut off at any section, and says where", () => {
    const { modules } = parseComponent(component);
    const cuts = modules.flatMap(({ offset, bytes }) => [
      offset - 1,
      offset,
      offset + 8,
      offset + bytes.length - 1,
      offset + bytes.length,
    ]);
    expect(cuts.length).toBeGreaterThan(50);
    for (const cut of cuts) {
      expect(() => read(component.subarray(0, cut))).toThrow(/at byte \d+/);
    }
  });

  test("is refused when a byte of the engine is another", () => {
    const runtime = parseComponent(component).modules.find(({ bytes }) => bytes.length > 1_000_000);
    const copy = component.slice();
    const at = (runtime?.offset ?? 0) + 600_000;
    copy[at] = (copy[at] ?? 0) ^ 1;
    expect(() => read(copy)).toThrow("its runtime differs");
  });

  test("with random damage is refused, or is memory that can only harm itself", () => {
    const random = seeded(20_261_121);
    let accepted = 0;
    for (let round = 0; round < 120; round++) {
      const copy = component.slice();
      for (let hits = 1 + random(3); hits > 0; hits--) copy[random(copy.length)] = random(256);
      // Half of the rounds hit the small parts, where the structure is.
      if (round % 2 === 0) copy[random(2048)] = random(256);
      let damaged: Baseline;
      try {
        damaged = read(copy);
      } catch (error) {
        expect(error).toEqual(refused);
        continue;
      }
      accepted += 1;
      expect(damaged.memory.length).toBe(baseline.memory.length);
      const guest = startGuest(opened.engine, damaged);
      try {
        play(guest, [act("add", 1)]);
      } catch (error) {
        expect((error as { code?: string }).code).toMatch(/^guest-/);
      }
    }
    expect(accepted).toBeGreaterThan(0);
  }, 60_000);

  test("whose data lies outside its memory is refused", () => {
    // A segment high in memory: active, `i32.const` with a number of four bytes, `end`.
    const { offset = 0 } = parseComponent(component).modules[0] ?? {};
    const at = component.findIndex((byte, index) => {
      const number = component.subarray(index + 2, index + 6);
      const isNumber = number.every((digit, place) => digit >= 0x80 === place < 3);
      const isPlace = byte === 0 && component[index + 1] === 0x41 && component[index + 6] === 0x0b;
      return index > offset + 1000 && isNumber && isPlace;
    });
    expect(at).toBeGreaterThan(0);
    for (const place of [
      [0xff, 0xff, 0xff, 0x3f],
      [0xff, 0xff, 0xff, 0x7f],
    ]) {
      const copy = component.slice();
      copy.set(place, at + 2);
      expect(() => read(copy)).toThrow("a data segment outside its memory");
    }
  });

  test("of another world is refused", () => {
    const parts = { ...opened.parts, sums: { ...opened.parts.sums, glue: "0".repeat(64) } };
    const host = { ...opened.host, parts };
    expect(() => readBaseline(component, baseline.component, host)).toThrow("its glue differs");
  });

  test("that needs more memory than the host allows is refused", () => {
    const host = { ...opened.host, pagesMax: 25 };
    expect(() => readBaseline(component, baseline.component, host)).toThrow("25 are allowed");
  });
});

describe("a stored component", () => {
  test("comes back as it was", () => {
    const stored = encodeBaseline(baseline, nodeCodec);
    expect(decodeBaseline(stored, opened.engine, nodeCodec)).toEqual(baseline);
    expect(encodeBaseline(baseline, nodeCodec)).toEqual(stored);
  });

  test("is refused when any of it is damaged or missing", () => {
    const stored = encodeBaseline(baseline, nodeCodec);
    const corrupt = expect.objectContaining({ code: "corrupt-image" });
    const random = seeded(7);
    for (const length of [0, 3, 60, 112, 143, stored.length - 1]) {
      const cut = stored.subarray(0, length);
      expect(() => decodeBaseline(cut, opened.engine, nodeCodec)).toThrow(corrupt);
    }
    for (const at of [
      0,
      4,
      5,
      40,
      72,
      104,
      108,
      ...Array.from({ length: 40 }, () => random(stored.length)),
    ]) {
      const copy = stored.slice();
      copy[at] = (copy[at] ?? 0) ^ 0x10;
      expect(() => decodeBaseline(copy, opened.engine, nodeCodec)).toThrow(corrupt);
    }
  });

  test("of another engine is refused by name", () => {
    const stored = encodeBaseline(baseline, nodeCodec);
    const engine = { ...opened.engine, hash: "0".repeat(64) };
    expect(() => decodeBaseline(stored, engine, nodeCodec)).toThrow(baseline.engine);
  });
});
