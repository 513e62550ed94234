/** Source maps at the end of a bundle and inside a component. */
import { describe, expect, test } from "vitest";
import {
  attachToBundle,
  attachToComponent,
  detachFromBundle,
  mapOfComponent,
} from "../../host/attached-map.ts";

const map = '{"version":3,"sources":["ünicode.ts"],"mappings":"AAAA"}';
const header = Uint8Array.of(0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0);
/** A custom section with a name of one letter, as other tools leave them. */
const section = Uint8Array.of(0, 3, 1, 0x78, 0xff);
const component = new Uint8Array([...header, ...section]);

describe("a bundle", () => {
  test("is its code again when its map has been taken off", () => {
    const code = "export const a = 1;\n";
    const sent = attachToBundle(code, map);
    expect(sent.startsWith(`${code}//# sourceMappingURL=data:application/json;base64,`)).toBe(true);
    expect(detachFromBundle(sent)).toEqual({ code, map });
  });

  test("of another tool gives its inline map, with and without a last line end", () => {
    const url = `data:application/json;charset=utf-8;base64,${btoa('{"version":3}')}`;
    for (const end of ["", "\n", "\r\n", "\n\n"]) {
      const sent = `const a = 1;\n//# sourceMappingURL=${url}${end}`;
      expect(detachFromBundle(sent)).toEqual({ code: "const a = 1;\n", map: '{"version":3}' });
    }
  });

  test.each([
    ["has none", "const a = 1;\n"],
    ["names a file", "const a = 1;\n//# sourceMappingURL=bundle.js.map\n"],
    ["has code after it", "//# sourceMappingURL=data:application/json;base64,e30=\nconst a = 1;\n"],
    ["has it in a string", 'const a = "//# sourceMappingURL=data:application/json;base64,e30=";'],
  ])("that %s stays as it is", (_what, code) => {
    expect(detachFromBundle(code)).toEqual({ code, map: undefined });
  });

  test.each([
    ["is no base64", "application/json;base64,%%%"],
    ["is no UTF-8", `application/json;base64,${btoa("\xff")}`],
    ["is of another type", "text/plain;base64,e30="],
    ["is too large", `application/json;base64,${"A".repeat(24 * 1024 * 1024)}`],
  ])("loses a map that %s", (_what, url) => {
    const sent = `const a = 1;\n//# sourceMappingURL=data:${url}\n`;
    expect(detachFromBundle(sent)).toEqual({ code: "const a = 1;\n", map: undefined });
  });
});

describe("a component", () => {
  test("has the map last, and keeps its other sections", () => {
    const sent = attachToComponent(component, map);
    expect([...sent.subarray(0, component.length)]).toEqual([...component]);
    expect(mapOfComponent(sent)).toBe(map);
  });

  test("has one map, however often one is attached", () => {
    const long = JSON.stringify({ version: 3, mappings: ";".repeat(1_000_000) });
    const once = attachToComponent(component, map);
    expect(mapOfComponent(attachToComponent(once, long))).toBe(long);
    expect(attachToComponent(attachToComponent(once, long), map)).toEqual(once);
  });

  test("that is cut anywhere, or is nothing at all, has no map or the whole one", () => {
    const sent = attachToComponent(component, map);
    for (let length = 0; length < sent.length; length++) {
      expect(mapOfComponent(sent.subarray(0, length))).toBeUndefined();
    }
    const endless = new Uint8Array([...header, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    expect(mapOfComponent(endless)).toBeUndefined();
  });
});
