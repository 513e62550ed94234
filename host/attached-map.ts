/**
 * A source map on its way to a host: at the end of a bundle as the usual comment with a
 * `data:` URL, in a component as a custom section of its own. The bundle's id is that of
 * its code alone, so the comment comes off before anything looks at it; a component is
 * its bytes, so the section stays in.
 */

export const attachedMapLimits = Object.freeze({ mapBytesMax: 16 * 1024 * 1024 });

const comment = "//# sourceMappingURL=data:";
const encoding = "application/json;base64,";
const sectionName = "spore:source-map";

/** The bundle with its map as the last line. */
export function attachToBundle(code: string, map: string): string {
  const lineEnd = code.endsWith("\n") ? "" : "\n";
  const base64 = base64Of(new TextEncoder().encode(map));
  return `${code}${lineEnd}${comment}${encoding}${base64}\n`;
}

/** The code as it was before, and its map if there is one that can be read. */
export function detachFromBundle(code: string): { code: string; map: string | undefined } {
  const start = code.lastIndexOf(comment);
  const isLine = start === 0 || code[start - 1] === "\n";
  if (start < 0 || !isLine) return { code, map: undefined };
  const lineEnd = code.indexOf("\n", start);
  const end = lineEnd < 0 ? code.length : lineEnd;
  if (code.slice(end).trim() !== "") return { code, map: undefined };
  const url = code.slice(start + comment.length, end).trimEnd();
  return { code: code.slice(0, start), map: textOfUrl(url) };
}

/** The rest of a `data:` URL; undefined if it isn't JSON in base64, or too large. */
function textOfUrl(url: string): string | undefined {
  const head = /^application\/json(?:;charset=utf-8)?;base64,/i.exec(url.slice(0, 80))?.[0];
  if (head === undefined || url.length > attachedMapLimits.mapBytesMax * 1.4) return undefined;
  try {
    const binary = atob(url.slice(head.length));
    return utf8(Uint8Array.from(binary, (character) => character.charCodeAt(0)));
  } catch {
    return undefined; // Not base64: a bundle with a bad map is as good as one without.
  }
}

/** The component with this map in place of any that it had. */
export function attachToComponent(component: Uint8Array, map: string): Uint8Array {
  const bare = withoutMap(component);
  const name = new TextEncoder().encode(sectionName);
  const text = new TextEncoder().encode(map);
  const length = lebOf(1 + name.length + text.length);
  return concat([bare, [0], length, [name.length], name, text]);
}

/** The component's map, if it has one that can be read; what is no component has none. */
export function mapOfComponent(component: Uint8Array): string | undefined {
  const section = mapSections(component)[0];
  if (section === undefined) return undefined;
  const { textStart, end } = section;
  if (end - textStart > attachedMapLimits.mapBytesMax) return undefined;
  return utf8(component.subarray(textStart, end));
}

function withoutMap(component: Uint8Array): Uint8Array {
  const parts: Uint8Array[] = [];
  let from = 0;
  for (const { start, end } of mapSections(component)) {
    parts.push(component.subarray(from, start));
    from = end;
  }
  return concat([...parts, component.subarray(from)]);
}

interface MapSection {
  readonly start: number;
  readonly textStart: number;
  readonly end: number;
}

const preambleBytes = 8;

/** Top-level sections of our name. Stops at what is no section: the sandbox will refuse it. */
function mapSections(bytes: Uint8Array): readonly MapSection[] {
  const name = new TextEncoder().encode(sectionName);
  const found: MapSection[] = [];
  for (let start = preambleBytes; start < bytes.length; ) {
    const length = lebAt(bytes, start + 1);
    if (length === undefined || length.value > bytes.length - length.end) break;
    const end = length.end + length.value;
    const textStart = length.end + 1 + name.length;
    const isNamed = textStart <= end && bytes[length.end] === name.length;
    if (
      bytes[start] === 0 &&
      isNamed &&
      name.every((byte, at) => bytes[length.end + 1 + at] === byte)
    ) {
      found.push({ start, textStart, end });
    }
    start = end;
  }
  return found;
}

function lebAt(bytes: Uint8Array, start: number): { value: number; end: number } | undefined {
  let value = 0;
  for (let at = start; at < start + 5; at++) {
    const byte = bytes[at];
    if (byte === undefined) return undefined;
    value += (byte & 0x7f) * 2 ** (7 * (at - start));
    if (byte < 0x80) return { value, end: at + 1 };
  }
  return undefined;
}

function lebOf(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...bytes, rest];
    bytes.push((rest % 128) | 0x80);
  }
}

function concat(parts: readonly (Uint8Array | readonly number[])[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}

const chunkBytes = 0x8000;

function base64Of(bytes: Uint8Array): string {
  let binary = "";
  for (let at = 0; at < bytes.length; at += chunkBytes) {
    binary += String.fromCharCode(...bytes.subarray(at, at + chunkBytes));
  }
  return btoa(binary);
}

function utf8(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return undefined; // As for base64.
  }
}
