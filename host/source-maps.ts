/**
 * From positions in a bundle to the user's own files: for stacks of guest errors and for
 * code frames. The stack format is QuickJS's: `    at name (file:line:column)`, both
 * numbers counting from 1.
 */
import {
  type EncodedSourceMap,
  originalPositionFor,
  sourceContentFor,
  TraceMap,
} from "@jridgewell/trace-mapping";

/** Bounds on what one stack may cost; a guest chooses the text of its stacks. */
export const stackLimits = Object.freeze({ charactersMax: 16_384, framesMax: 64 });

/** Bounds on a map that a tenant sent. */
export const mapLimits = Object.freeze({
  linesMax: 500_000,
  segmentsMax: 1_000_000,
  sourcesMax: 20_000,
  pathCharsMax: 1024,
  /** Of a source that is shown in a code frame: finding its line reads all of it. */
  contentCharsMax: 1024 * 1024,
});

export interface Position {
  /** As `showPath` gives it. */
  readonly file: string;
  /** From 1. */
  readonly line: number;
  /** From 1. */
  readonly column: number;
}

/** Where an error came from in its author's code. */
export interface ErrorFrame extends Position {
  /** The source line, if the map has it. */
  readonly text?: string | undefined;
}

export interface ExplainedStack {
  readonly stack: string;
  /** Innermost frame of the author's own. */
  readonly frame?: ErrorFrame | undefined;
}

export interface SourceMapperOptions {
  /** Turns a source of the map into the path that is shown; by default it stays. */
  readonly showPath?: (source: string) => string;
}

/** A source map in parts that are of the right types and sizes, and what it costs to keep. */
export interface ReadSourceMap {
  readonly map: EncodedSourceMap;
  /** Estimate of the memory that it takes when it has been used. */
  readonly memoryBytes: number;
}

/** Reads a map from outside. Throws an Error that says what is wrong with it. */
export function readSourceMap(text: string): ReadSourceMap {
  const value: unknown = JSON.parse(text);
  if (typeof value !== "object" || value === null) throw new Error("it isn't an object");
  const { version, mappings, sources, sourcesContent } = value as Record<string, unknown>;
  if (version !== 3) throw new Error("it isn't of version 3");
  if (typeof mappings !== "string") throw new Error("it has no encoded mappings");
  const lines = countOf(mappings, ";");
  const segments = lines + countOf(mappings, ",");
  if (lines > mapLimits.linesMax) throw new Error(`it has ${lines} lines`);
  if (segments > mapLimits.segmentsMax) throw new Error(`it has ${segments} segments`);
  if (!Array.isArray(sources) || sources.length > mapLimits.sourcesMax || !sources.every(isPath)) {
    throw new Error("its sources aren't a list of paths");
  }
  const contents: unknown[] = Array.isArray(sourcesContent) ? sourcesContent : [];
  const map: EncodedSourceMap = {
    version: 3,
    names: [],
    sources: sources.map((source) => source ?? ""),
    sourcesContent: sources.map((_, index) => contentOf(contents[index])),
    mappings,
  };
  return { map, memoryBytes: 2 * text.length + 100 * segments };
}

function countOf(text: string, character: string): number {
  let count = 0;
  for (let at = text.indexOf(character); at >= 0; at = text.indexOf(character, at + 1)) count += 1;
  return count;
}

function isPath(source: unknown): source is string | null {
  if (source === null) return true;
  return typeof source === "string" && source.length <= mapLimits.pathCharsMax;
}

function contentOf(content: unknown): string | null {
  const isShown = typeof content === "string" && content.length <= mapLimits.contentCharsMax;
  return isShown ? content : null;
}

/** Prefix of the SDK's own modules in the maps that `spore` sends. */
export const sdkSource = "sporeflow:";
const sdkPath = /^sporeflow:|(?:^|\/)node_modules\/sporeflow\/guest\//;
const packagePath = /(?:^|\/)node_modules\//;

const nativeFrame = /\(native\)$/;

/** Frames of the bundle: the name that the component's toolchain gives it, or our file's. */
const bundleFrame =
  /^(\s*at )(?:(.*) \()?[^\s()]*?(?:user\.js|bundle\.js|module):(\d{1,9}):(\d{1,9})\)?$/;

/** What the SDK puts below a stack: the step, workflow or handler that an error came out of. */
const originName = /^(?:step|workflow|query|update|method|constructor of) /;

interface PlacedFrame {
  /** `origin` says where to look where there is no frame that says it better. */
  readonly kind: "own" | "origin";
  readonly line: string;
  readonly found: Found;
  readonly text: string;
  /** Of the function. */
  readonly name: string;
}

type Frame = PlacedFrame | { readonly kind: "inner" | "native" | "other"; readonly line: string };

/** As in the map: the line from 1, the column from 0. */
interface Found {
  readonly source: string;
  readonly line: number;
  readonly column: number;
}

export class SourceMapper {
  readonly #source: string | EncodedSourceMap;
  readonly #showPath: (source: string) => string;
  #map: TraceMap | undefined;

  /** The map is parsed at first use. Throws there if it is a text that is no source map. */
  constructor(map: string | EncodedSourceMap, options: SourceMapperOptions = {}) {
    this.#source = map;
    this.#showPath = options.showPath ?? ((source) => source);
  }

  /** The text with every frame of the bundle replaced by the user's file and line. */
  mapStack(stack: string): string {
    const lines = stack.slice(0, stackLimits.charactersMax).split("\n");
    const mapped = lines.slice(0, stackLimits.framesMax).map((line) => this.#mapFrame(line));
    const isCut = stack.length > stackLimits.charactersMax || lines.length > stackLimits.framesMax;
    return (isCut ? [...mapped, "    … more frames"] : mapped).join("\n");
  }

  /**
   * A stack as its author wants it: own files and packages as they are, frames inside the
   * SDK as one line at the end. One without any frame of the author's has all of them.
   * `errorName` tells the error's own constructor from the place that calls it.
   */
  explain(stack: string, errorName = ""): ExplainedStack {
    const lines = stack.slice(0, stackLimits.charactersMax).split("\n", stackLimits.framesMax);
    const all = lines.filter((line) => line !== "").map((line) => this.#frameOf(line));
    const wanted = all.some(({ kind }) => kind === "own") ? "own" : "origin";
    // Above an origin no frame of the bundle is the author's, so nor is what called the engine's own;
    // others come from a test that stands in for a step.
    const unwanted = wanted === "own" ? "origin" : "native";
    const frames = all.filter(({ kind }) => kind !== unwanted);
    const lastOwn = frames.findLastIndex(({ kind }) => kind === wanted);
    if (lastOwn < 0) return { stack: this.mapStack(stack) };
    const shown = frames.filter(({ kind }, at) => kind !== "inner" && at <= lastOwn);
    const folded = frames.length - shown.length;
    const texts = shown.map((frame) => ("text" in frame ? frame.text : frame.line));
    if (folded > 0) texts.push(`    … ${folded} inside sporeflow`);
    const own = frames.filter((frame): frame is PlacedFrame => frame.kind === wanted);
    const thrown = own.slice(
      Math.max(
        0,
        own.findIndex(({ name }) => !isMaker(name, errorName)),
      ),
    );
    const first = thrown.find(({ found }) => !packagePath.test(found.source)) ?? thrown[0];
    return { stack: texts.join("\n"), frame: first && this.#errorFrame(first.found) };
  }

  #frameOf(line: string): Frame {
    const frame = bundleFrame.exec(line);
    if (frame === null) return { kind: nativeFrame.test(line) ? "native" : "other", line };
    const found = this.#find(Number(frame[3]), Number(frame[4]));
    if (found === undefined || sdkPath.test(found.source)) return { kind: "inner", line };
    const name = frame[2] ?? "";
    const kind = originName.test(name) ? "origin" : "own";
    return { kind, line, found, text: this.#mapFrame(line), name };
  }

  #errorFrame(found: Found): ErrorFrame {
    const file = this.#showPath(found.source);
    const text = this.#lineOf(found)?.slice(0, frameWidthMax);
    const place = { file, line: found.line, column: found.column + 1 };
    return text === undefined ? place : { ...place, text };
  }

  #lineOf(found: Found): string | undefined {
    return sourceContentFor(this.#trace(), found.source)?.split("\n")[found.line - 1];
  }

  /** Any text with its first frames replaced, and nothing cut. */
  mapText(text: string): string {
    let frames = 0;
    const lines = text.split("\n").map((line) => {
      const isFrame =
        frames < stackLimits.framesMax && line.length < 1000 && bundleFrame.test(line);
      if (isFrame) frames += 1;
      return isFrame ? this.#mapFrame(line) : line;
    });
    return lines.join("\n");
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
      const text = this.#lineOf(found);
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

  #find(line: number, column: number): Found | undefined {
    if (line < 1 || column < 1) return undefined;
    const found = originalPositionFor(this.#trace(), { line, column: column - 1 });
    // A map from outside may point at a source that it doesn't have, or before the first line.
    if (typeof found.source !== "string" || !(found.line >= 1) || !(found.column >= 0)) {
      return undefined;
    }
    return { source: found.source, line: found.line, column: found.column };
  }

  #trace(): TraceMap {
    this.#map ??= new TraceMap(this.#source);
    return this.#map;
  }
}

/** A constructor of the error itself. A class of errors may have no name of its own. */
function isMaker(functionName: string, errorName: string): boolean {
  return functionName === errorName || (errorName === "Error" && /Error$/.test(functionName));
}

const frameWidthMax = 160;

/** One line of source with a mark under the column. */
export function codeFrame(lineText: string, at: { line: number; column: number }): string {
  const gutter = String(at.line);
  const text = lineText.slice(0, frameWidthMax);
  const pad = text.slice(0, Math.max(0, at.column - 1)).replace(/[^\t]/g, " ");
  return `  ${gutter} | ${text}\n  ${" ".repeat(gutter.length)} | ${pad}^`;
}
