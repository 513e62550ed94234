/**
 * Words as people type them, read into values: JSON where it is JSON, else text; durations,
 * times, numbers, tags.
 */
import { readFileSync } from "node:fs";
import { type Command, InvalidArgumentError } from "commander";
import type { QueueOptions } from "../../client/index.ts";
import { parseJson, valueOfJson } from "../../client/json.ts";
import { SporeError } from "../../runtime/errors.ts";
import { parseDuration } from "../waits.ts";
import type { CliPorts } from "./verb.ts";

export function inputOptions(command: Command): Command {
  return command.option("-i, --input <file>", "JSON arguments from a file; - is standard input");
}

/**
 * Arguments as people type them: JSON where it is JSON, else text; `key=value` words make
 * one object of them.
 */
export function readArgs(
  words: readonly string[],
  options: Readonly<Record<string, unknown>>,
  ports: Pick<CliPorts, "stdin">,
): readonly unknown[] {
  const file = options.input;
  if (typeof file === "string") {
    const bytes = file === "-" ? new TextEncoder().encode(ports.stdin()) : readFileSync(file);
    const value = valueOfJson(parseJson(bytes));
    const list = Array.isArray(value) ? value : [value];
    return [...list, ...readWords(words)];
  }
  return readWords(words);
}

function readWords(words: readonly string[]): readonly unknown[] {
  const pairs = words.map((word) => /^([A-Za-z_][\w.-]*)=([\s\S]*)$/.exec(word));
  if (words.length > 0 && pairs.every((pair) => pair !== null)) {
    const entries = pairs.map((pair) => [pair?.[1] ?? "", readWord(pair?.[2] ?? "")]);
    return [Object.fromEntries(entries)];
  }
  return words.map(readWord);
}

function readWord(word: string): unknown {
  let json: unknown;
  try {
    json = JSON.parse(word);
  } catch (error) {
    // Not JSON: it is text, as in `spore run greet Ada`. What begins like an object or an array
    // was meant as one.
    if (!/^\s*[{[]/.test(word)) return word;
    throw new SporeError("invalid-request", `${word} is not JSON: ${(error as Error).message}`, {
      hint: "put it in single quotes for the shell; text goes as JSON: '\"[draft]\"'",
    });
  }
  return valueOfJson(json);
}

/** `name=value` as a signal; without a value it is undefined. */
export function namedValue(word: string): { readonly name: string; readonly value?: unknown } {
  const at = word.indexOf("=");
  return at < 0 ? { name: word } : { name: word.slice(0, at), value: readWord(word.slice(at + 1)) };
}

export function collectTag(
  pair: string,
  tags: Record<string, string> = {},
): Record<string, string> {
  const at = pair.indexOf("=");
  if (at <= 0) throw new InvalidArgumentError("write key=value");
  return { ...tags, [pair.slice(0, at)]: pair.slice(at + 1) };
}

export function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError("a whole number");
  return Number(text);
}

export function portNumber(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) > 65_535) {
    throw new InvalidArgumentError("a number from 0 to 65535");
  }
  return Number(text);
}

export function duration(text: string): number {
  const durationMs = parseDuration(text);
  if (durationMs === undefined)
    throw new InvalidArgumentError("a duration such as 500ms, 30s or 2m");
  return durationMs;
}

export function instant(text: string): Date {
  const durationMs = parseDuration(text);
  const at = new Date(durationMs === undefined ? text : Date.now() + durationMs);
  // A date without a time, or without a zone, would mean another moment elsewhere.
  const isExact = durationMs !== undefined || /T.*(?:Z|[+-]\d\d:?\d\d)$/.test(text);
  if (isExact && !Number.isNaN(at.getTime())) return at;
  throw new InvalidArgumentError("a time such as 2030-01-31T12:00:00Z, or a duration such as 30s");
}

/** MiB as pages: from what an engine needs to begin with to what a memory can have. */
export function guestMemory(text: string): number {
  const mebibytes = Number(text);
  if (/^\d{1,4}$/.test(text) && mebibytes >= 16 && mebibytes <= 4095) return mebibytes * 16;
  throw new InvalidArgumentError(`16 to 4095 MiB for a guest, not ${text}`);
}

export function queueOptionsOf(options: Readonly<Record<string, unknown>>): {
  readonly queue?: QueueOptions;
} {
  const name = options.queue as string | undefined;
  const key = options.queueKey as string | undefined;
  const priority = options.priority as number | undefined;
  const isGiven = name !== undefined || key !== undefined || priority !== undefined;
  return isGiven ? { queue: { name, key, priority } } : {};
}

export function priorityOf(text: string): number {
  if (/^-?\d{1,4}$/.test(text)) return Number(text);
  throw new InvalidArgumentError("a whole number from -1000 to 1000");
}

/** A value as `spore run` takes them: JSON with the tags of PROTOCOL 2.3. */
export function json(text: string): unknown {
  try {
    return valueOfJson(JSON.parse(text));
  } catch (error) {
    throw new InvalidArgumentError(`JSON: ${error instanceof Error ? error.message : ""}`);
  }
}
