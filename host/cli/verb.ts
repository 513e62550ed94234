/**
 * What every verb has: its options, a printer, a client of the host that it talks to, and a
 * spinner for people who wait.
 */
import { type Command, Option } from "commander";
import ora from "ora";
import { type Client, createClient } from "../../client/index.ts";
import { usage } from "./failures.ts";
import { printer } from "./print.ts";

export interface CliPorts {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly isTty: boolean;
  /** Whole standard input. */
  readonly stdin: () => string;
  /** Default: a client over fetch. */
  readonly connect?:
    | ((options: { url: string; apiKey?: string; attemptsMax: number }) => Client)
    | undefined;
}

/** A person waits: a host that is away is reported after a second or so. */
const attemptsMax = 3;

interface GlobalOptions {
  readonly json?: boolean;
  readonly url?: string;
  readonly key?: string;
}

export type Verb = (usage: string, description: string) => Command;

/** Commands under a program or a noun; each takes the options of all, wherever they stand. */
export function verbsOf(parent: Command): Verb {
  return (usage, description) =>
    parent
      .command(usage)
      .description(description)
      .exitOverride()
      .addOption(new Option("--json").hideHelp())
      .addOption(new Option("--url <url>").hideHelp())
      .addOption(new Option("--key <key>").hideHelp());
}

/** A noun that has verbs of its own: `spore actor call`. */
export function noun(verb: Verb, name: string, description: string): Verb {
  return verbsOf(verb(name, description));
}

export interface VerbContext {
  readonly options: Readonly<Record<string, unknown>>;
  readonly print: ReturnType<typeof printer>;
  client(): Client;
  /** On standard error, for people only. Shows that something is going on, and what, if `work` says so. */
  spin<Result>(
    text: string,
    work: (say: (detail: string) => void) => Promise<Result>,
  ): Promise<Result>;
}

export type Action = (...args: unknown[]) => Promise<void>;

/** Commander's actions get the arguments, the options and the command; ours get a context first. */
export function action<Args extends readonly (string | string[] | undefined)[]>(
  ports: CliPorts,
  run: (context: VerbContext, ...args: Args) => Promise<void>,
): Action {
  return async (...given) => {
    const command = given.at(-1) as Command;
    const options = command.optsWithGlobals<GlobalOptions & Record<string, unknown>>();
    const isJson = options.json === true;
    // Commander checked their number and made strings of them.
    const args = given.slice(0, -2) as unknown as Args;
    const connect = ports.connect ?? createClient;
    const context: VerbContext = {
      options,
      print: printer({ out: ports.out, isJson, isTty: ports.isTty }),
      client: () => {
        const apiKey = options.key ?? ports.env.SPORE_API_KEY;
        const url = options.url ?? ports.env.SPORE_URL ?? "http://127.0.0.1:7070";
        if (!/^https?:$/.test(URL.parse(url)?.protocol ?? "")) {
          throw usage(`${url} is not a URL that begins with http:// or https://`);
        }
        return connect({ url, attemptsMax, ...(apiKey === undefined ? {} : { apiKey }) });
      },
      async spin(text, work) {
        const spinner =
          ports.isTty && !isJson ? ora({ text, stream: process.stderr }).start() : undefined;
        try {
          return await work((detail) => {
            if (spinner !== undefined) spinner.text = `${text}: ${detail}`;
          });
        } finally {
          spinner?.stop();
        }
      },
    };
    await run(context, ...args);
  };
}
