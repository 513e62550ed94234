/** What the command line prints: tables and colour for people, JSON lines for programs. */
import { inspect } from "node:util";
import Table from "cli-table3";
import pc from "picocolors";
import type { ErrorFrame, RunEvent } from "../../client/index.ts";
import { jsonOfValue } from "../../client/json.ts";
import { codeFrame } from "../source-maps.ts";

export interface PrinterOptions {
  readonly out: (text: string) => void;
  readonly isJson: boolean;
  readonly isTty: boolean;
}

const cellCharsMax = 60;

const statusColours: Readonly<Record<string, (text: string) => string>> = {
  SUCCESSFUL: pc.green,
  FAILED: pc.red,
  CANCELED: pc.yellow,
  PAUSED: pc.yellow,
  RESUMABLE: pc.yellow,
  RUNNING: pc.cyan,
  RETRYING: pc.yellow,
};

export interface Printer {
  /** One answer: JSON as it is, or lines for people. */
  result<Value extends object>(value: Value, lines: (value: Value) => readonly string[]): void;
  /** A user's value; piped, it is JSON as well, so that other tools can read it. */
  value(around: object, member: string, value: unknown): void;
  rows(rows: readonly object[], columns: readonly string[]): void;
  record(record: object): void;
  event(event: RunEvent): void;
  status(status: string): string;
}

export function printer({ out, isJson, isTty }: PrinterOptions): Printer {
  const line = (text: string): void => out(`${text}\n`);
  const json = (value: unknown): void => line(JSON.stringify(jsonOf(value)));
  const colours = isTty && pc.isColorSupported;
  const status = (text: string): string => (colours ? (statusColours[text] ?? String)(text) : text);
  const cell = (column: string, value: unknown, charsMax: number): string => {
    if (value === undefined) return "";
    if (column === "status" || column === "result") return status(String(value));
    if (column === "error") return shorten(messageOf(value));
    return shorten(typeof value === "string" ? value : JSON.stringify(jsonOf(value)), charsMax);
  };
  return {
    status,
    result(value, lines) {
      if (isJson) json(value);
      else for (const text of lines(value)) line(text);
    },
    value(around, member, value) {
      if (isJson) json({ ...around, [member]: value });
      else if (typeof value === "string") line(value);
      else if (isTty) line(inspect(value, { colors: colours, depth: 10 }));
      else if (value !== undefined) json(value);
    },
    rows(rows, columns) {
      if (isJson) {
        for (const row of rows) json(row);
        return;
      }
      // What a tool reads is whole, and so are findings: the end of a list is one, too.
      const cells = rows.map((row) =>
        columns.map((name) => {
          const isWhole = !isTty || name === "details";
          return cell(
            name,
            Reflect.get(row, name),
            isWhole ? Number.POSITIVE_INFINITY : cellCharsMax,
          );
        }),
      );
      if (!isTty) {
        for (const row of [columns, ...cells]) line(row.join("\t"));
        return;
      }
      const table = new Table({ head: [...columns], chars: bare, style: { head: ["dim"] } });
      table.push(...cells);
      line(table.toString());
    },
    record(record) {
      if (isJson) {
        json(record);
        return;
      }
      for (const [name, value] of Object.entries(record)) {
        if (name === "error" && value !== undefined)
          for (const text of errorLines(value)) line(text);
        else if (!isEmpty(value)) line(`${name.padEnd(14)} ${cell(name, value, lineCharsMax)}`);
      }
    },
    event(event) {
      if (isJson) {
        json(event);
        return;
      }
      const data = Object.keys(event.data).length === 0 ? "" : JSON.stringify(jsonOf(event.data));
      line(
        `${String(event.index).padStart(5)}  ${event.at}  ${event.type.padEnd(18)} ${shorten(data)}`,
      );
    },
  };
}

/** Nothing to show: lists and objects of people's are in values, which are printed alone. */
function isEmpty(value: unknown): boolean {
  if (value === undefined || value === "") return true;
  if (Array.isArray(value)) return value.length === 0;
  if (typeof value !== "object" || value === null) return false;
  return Object.getPrototypeOf(value) === Object.prototype && Object.keys(value).length === 0;
}

/** What comes from the host has absent members; a value of the user's keeps its `undefined`. */
function jsonOf(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    return jsonOfValue(value);
  if (Object.getPrototypeOf(value) !== Object.prototype) return jsonOfValue(value);
  const entries = Object.entries(value).filter(([, member]) => member !== undefined);
  return Object.fromEntries(entries.map(([name, member]) => [name, jsonOfValue(member)]));
}

function messageOf(value: unknown): string {
  if (typeof value !== "object" || value === null) return String(value);
  const place = placeOf(frameOf(value));
  const message = `${Reflect.get(value, "name")}: ${Reflect.get(value, "message")}`;
  if (place === "") return message;
  // The place is the part that must not be cut off.
  return `${shorten(message, Math.max(20, cellCharsMax - place.length - 1))} ${place}`;
}

const messageLinesMax = 3;
const lineCharsMax = 300;
const callersMax = 2;
const causesMax = 2;

/**
 * A user's error for people, in at most ten lines: what, the author's line, who called it,
 * and what caused it.
 */
export function errorLines(error: unknown): readonly string[] {
  if (typeof error !== "object" || error === null) return [`${pc.red("✗")} ${String(error)}`];
  const frame = frameOf(error);
  const [head = "", ...frames] = frameLines(error, frame);
  const lines = messageLines(error).map((text, at) => (at === 0 ? `${pc.red("✗")} ${text}` : text));
  if (head !== "") lines.push(pc.dim(head));
  if (frame?.text !== undefined) lines.push(...codeFrame(frame.text, frame).split("\n"));
  lines.push(...frames.slice(0, callersMax).map((text) => pc.dim(text)));
  let cause: unknown = Reflect.get(error, "cause");
  for (let depth = 0; depth < causesMax && typeof cause === "object" && cause !== null; depth++) {
    const [text = ""] = messageLines(cause);
    lines.push(pc.dim(`  caused by ${text} ${placeOf(frameOf(cause))}`.trimEnd()));
    cause = Reflect.get(cause, "cause");
  }
  return lines;
}

function messageLines(error: object): string[] {
  const message = `${Reflect.get(error, "name")}: ${Reflect.get(error, "message")}`;
  const isPlain = Reflect.get(error, "name") === "Error";
  const lines = (isPlain ? String(Reflect.get(error, "message")) : message).split("\n");
  const shown = lines.slice(0, messageLinesMax).map((line) => shorten(line, lineCharsMax));
  return lines.length > messageLinesMax ? [...shown.slice(0, -1), "…"] : shown;
}

/** The author's frame first, then what called it. */
function frameLines(error: object, frame: ErrorFrame | undefined): string[] {
  const stack: unknown = Reflect.get(error, "stack");
  const frames = String(stack ?? "")
    .split("\n")
    .filter((line) => /^\s+at /.test(line))
    .map((line) => line.slice(0, lineCharsMax));
  const own = frames.findIndex((line) => frame !== undefined && line.includes(placeText(frame)));
  return own < 0 ? frames : frames.slice(own);
}

function frameOf(error: object): ErrorFrame | undefined {
  const frame: unknown = Reflect.get(error, "frame");
  if (typeof frame !== "object" || frame === null) return undefined;
  // A user's error may have a field of that name.
  const { file, line, column, text } = frame as Partial<Record<keyof ErrorFrame, unknown>>;
  if (typeof file !== "string" || typeof line !== "number" || typeof column !== "number") {
    return undefined;
  }
  return typeof text === "string" ? { file, line, column, text } : { file, line, column };
}

function placeText({ file, line, column }: ErrorFrame): string {
  return `${file}:${line}:${column}`;
}

function placeOf(frame: ErrorFrame | undefined): string {
  return frame === undefined ? "" : `(${placeText(frame)})`;
}

function shorten(text: string, charsMax = cellCharsMax): string {
  const flat = text.replaceAll(/\s+/g, " ");
  return flat.length > charsMax ? `${flat.slice(0, charsMax - 1)}…` : flat;
}

const bare = {
  top: "",
  "top-mid": "",
  "top-left": "",
  "top-right": "",
  bottom: "",
  "bottom-mid": "",
  "bottom-left": "",
  "bottom-right": "",
  left: "",
  "left-mid": "",
  mid: "",
  "mid-mid": "",
  right: "",
  "right-mid": "",
  middle: " ",
};
