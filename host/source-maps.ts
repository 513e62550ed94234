/**
 * From positions in a bundle to the user's own files: for stacks of guest errors and for
 * code frames. The stack format is QuickJS's: `    at name (file:line:column)`, both
 * numbers counting from 1.
 */
import { originalPositionFor, sourceContentFor, TraceMap } from "@jridgewell/trace-mapping";

/** Bounds on what one stack may cost; a guest chooses the text of its stacks. */
export const stackLimits = Object.freeze({ charactersMax: 16_384, framesMax: 64 });

export interface Position {
  /** As `showPath` gives it. */
  readonly file: string;
  /** From 1. */
  readonly line: number;
  /** From 1. */
  readonly column: number;
}

export interface SourceMapperOptions {
  /** Turns a source of the map into the path that is shown; by default it stays. */
  readonly showPath?: (source: string) => string;
}

/** Frames of the bundle: the name that the component's toolchain gives it, or our file's. */
const bundleFrame =
  /^(\s*at )(?:(.*) \()?[^\s()]*?(?:user\.js|bundle\.js|module):(\d{1,9}):(\d{1,9})\)?$/;

export class SourceMapper {
  readonly #text: string;
  readonly #showPath: (source: string) => string;
  #map: TraceMap | undefined;

  /** The map is parsed at first use. Throws there if `mapText` is no source map. */
  constructor(mapText: string, options: SourceMapperOptions = {}) {
    this.#text = mapText;
    this.#showPath = options.showPath ?? ((source) => source);
  }

  /** The text with every frame of the bundle replaced by the user's file and line. */
  mapStack(stack: string): string {
    const lines = stack.slice(0, stackLimits.charactersMax).split("\n");
    const mapped = lines.slice(0, stackLimits.framesMax).map((line) => this.#mapFrame(line));
    const isCut = stack.length > stackLimits.charactersMax || lines.length > stackLimits.framesMax;
    return (isCut ? [...mapped, "    … more frames"] : mapped).join("\n");
  }

  /** The places of the bundle's frames in order, innermost first. */
  positions(stack: string): readonly Position[] {
    const lines = stack.slice(0, stackLimits.charactersMax).split("\n", stackLimits.framesMax);
    return lines.flatMap((line) => {
      const frame = bundleFrame.exec(line);
      const position = frame && this.position(Number(frame[3]), Number(frame[4]));
      return position ? [position] : [];
    });
  }

  position(line: number, column: number): Position | undefined {
    const found = this.#find(line, column);
    if (found === undefined) return undefined;
    const file = this.#showPath(found.source);
    return { file, line: found.line, column: found.column + 1 };
  }

  /** The source line at a position of the bundle, with a mark under the column. */
  codeFrame(stack: string, isWanted: (position: Position) => boolean): string | undefined {
    for (const line of stack.slice(0, stackLimits.charactersMax).split("\n")) {
      const frame = bundleFrame.exec(line);
      const found = frame ? this.#find(Number(frame[3]), Number(frame[4])) : undefined;
      if (found === undefined) continue;
      const position = { ...found, file: this.#showPath(found.source), column: found.column + 1 };
      if (!isWanted(position)) continue;
      const text = sourceContentFor(this.#trace(), found.source)?.split("\n")[found.line - 1];
      return text === undefined ? undefined : codeFrame(text, position);
    }
    return undefined;
  }

  #mapFrame(line: string): string {
    const frame = bundleFrame.exec(line);
    if (frame === null) return line;
    const position = this.position(Number(frame[3]), Number(frame[4]));
    if (position === undefined) return line;
    const place = `${position.file}:${position.line}:${position.column}`;
    return frame[2] === undefined ? `${frame[1]}${place}` : `${frame[1]}${frame[2]} (${place})`;
  }

  #find(
    line: number,
    column: number,
  ): { source: string; line: number; column: number } | undefined {
    if (line < 1 || column < 1) return undefined;
    const found = originalPositionFor(this.#trace(), { line, column: column - 1 });
    if (found.source === null) return undefined;
    return { source: found.source, line: found.line, column: found.column };
  }

  #trace(): TraceMap {
    this.#map ??= new TraceMap(this.#text);
    return this.#map;
  }
}

const frameWidthMax = 160;

/** One line of source with a mark under the column. */
export function codeFrame(lineText: string, at: { line: number; column: number }): string {
  const gutter = String(at.line);
  const text = lineText.slice(0, frameWidthMax);
  const pad = text.slice(0, Math.max(0, at.column - 1)).replace(/[^\t]/g, " ");
  return `  ${gutter} | ${text}\n  ${" ".repeat(gutter.length)} | ${pad}^`;
}
