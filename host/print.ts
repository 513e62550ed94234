/** What the command line prints: tables and colour for people, JSON lines for programs. */
import { inspect } from "node:util";
import Table from "cli-table3";
import pc from "picocolors";
import type { RunEvent } from "../client/index.ts";
import { jsonOfValue } from "../client/json.ts";

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
  const cell = (column: string, value: unknown): string => {
    if (value === undefined) return "";
    if (column === "status" || column === "result") return status(String(value));
    if (column === "error") return shorten(messageOf(value));
    return shorten(typeof value === "string" ? value : JSON.stringify(jsonOf(value)));
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
      const cells = rows.map((row) => columns.map((name) => cell(name, Reflect.get(row, name))));
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
        if (value !== undefined) line(`${name.padEnd(14)} ${cell(name, value)}`);
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
  return `${Reflect.get(value, "name")}: ${Reflect.get(value, "message")}`;
}

function shorten(text: string): string {
  const flat = text.replaceAll(/\s+/g, " ");
  return flat.length > cellCharsMax ? `${flat.slice(0, cellCharsMax - 1)}…` : flat;
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
