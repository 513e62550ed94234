/** A component's manifest as its guest describes it: untrusted bytes, decoded with bounds. */
import { decode } from "../../guest/cbor.ts";
import { type Definition, type Manifest, protocolVersion } from "../../guest/protocol.ts";
import { SporeError } from "../../runtime/errors.ts";

export const manifestLimits = Object.freeze({
  bytesMax: 4 * 1024 * 1024,
  definitionsMax: 10_000,
  methodsMax: 1_000,
  nameCharsMax: 256,
});

/** Throws invalid-component. */
export function decodeManifest(bytes: Uint8Array): Manifest {
  if (bytes.length > manifestLimits.bytesMax) throw refused(`has ${bytes.length} bytes`);
  let value: unknown;
  try {
    value = decode(bytes);
  } catch (cause) {
    throw refused("isn't CBOR", cause);
  }
  if (!isRecord(value)) throw refused("isn't a map");
  if (value.protocol !== protocolVersion) {
    throw refused(`speaks protocol ${String(value.protocol)}; this host speaks ${protocolVersion}`);
  }
  const definitions = value.definitions;
  if (!Array.isArray(definitions)) throw refused("has no definitions");
  if (definitions.length > manifestLimits.definitionsMax) {
    throw refused(`has ${definitions.length} definitions, over ${manifestLimits.definitionsMax}`);
  }
  const seen = new Set<string>();
  return {
    protocol: protocolVersion,
    definitions: definitions.map((definition) => readDefinition(definition, seen)),
  };
}

function readDefinition(value: unknown, seen: Set<string>): Definition {
  if (!isRecord(value)) throw refused("has a definition that isn't a map");
  const { kind, name, methods } = value;
  if (kind !== "step" && kind !== "workflow" && kind !== "actor") {
    throw refused("has a definition of unknown kind");
  }
  if (!isName(name)) throw refused(`has a ${kind} without a proper name`);
  // A workflow may be named as one of its steps; two of one kind could not be told apart.
  if (seen.has(`${kind} ${name}`)) throw refused(`defines the ${kind} ${name} twice`);
  seen.add(`${kind} ${name}`);
  if (kind === "workflow" && value["queue"] !== undefined) {
    return { kind, name, queue: readQueue(value["queue"], name) };
  }
  if (methods === undefined) return { kind, name };
  return { kind, name, methods: readMethods(methods, name), ...readTraits(value, name) };
}

/** What an actor type says of itself beside its methods. */
function readTraits(
  value: Readonly<Record<string, unknown>>,
  name: string,
): Pick<
  Definition,
  "upgrades" | "upgradesByHand" | "reentrant" | "expiresAfterMs" | "stopsOnError"
> {
  const { expiresAfterMs } = value;
  for (const trait of ["upgrades", "upgradesByHand", "reentrant", "stopsOnError"]) {
    const isProper = value[trait] === undefined || typeof value[trait] === "boolean";
    if (!isProper) throw refused(`has an improper ${trait} for ${name}`);
  }
  if (expiresAfterMs !== undefined && !isExpiry(expiresAfterMs)) {
    throw refused(`has an improper expiresAfterMs for ${name}`);
  }
  return {
    ...(value["upgrades"] === true ? { upgrades: true } : {}),
    ...(value["upgradesByHand"] === true ? { upgradesByHand: true } : {}),
    ...(value["reentrant"] === true ? { reentrant: true } : {}),
    ...(value["stopsOnError"] === true ? { stopsOnError: true } : {}),
    ...(expiresAfterMs === undefined ? {} : { expiresAfterMs }),
  };
}

const queueNamePattern = /^(?!\.+$)[A-Za-z0-9._:~@+=,-]{1,200}$/;
const countMax = 1_000_000_000;

/** The queue that a workflow's runs pass. */
function readQueue(value: unknown, workflow: string): NonNullable<Definition["queue"]> {
  const improper = refused(`has an improper queue for ${workflow}`);
  if (!isRecord(value)) throw improper;
  const { name, key, limits } = value;
  const isNamed = typeof name === "string" && queueNamePattern.test(name) && name !== "all";
  const isKeyed = key === undefined || (typeof key === "string" && key.length <= 500);
  if (!isNamed || !isKeyed || (limits !== undefined && !isRecord(limits))) throw improper;
  const count = (what: unknown, min: number): number | undefined => {
    if (what === undefined) return undefined;
    if (typeof what !== "number" || !Number.isInteger(what)) throw improper;
    if (what < min || what > countMax) throw improper;
    return what;
  };
  const given = limits ?? {};
  const concurrency = count(given["concurrency"], 1);
  const keyConcurrency = count(given["keyConcurrency"], 1);
  const maxPending = count(given["maxPending"], 0);
  const { rate } = given;
  if (rate !== undefined && !isRecord(rate)) throw improper;
  const limit = count(rate?.["limit"], 1);
  const periodMs = count(rate?.["periodMs"], 1);
  const burst = count(rate?.["burst"], 1);
  if (rate !== undefined && (limit === undefined || periodMs === undefined)) throw improper;
  return {
    name,
    ...(key === undefined ? {} : { key }),
    ...(limits === undefined
      ? {}
      : {
          limits: {
            ...(concurrency === undefined ? {} : { concurrency }),
            ...(keyConcurrency === undefined ? {} : { keyConcurrency }),
            ...(maxPending === undefined ? {} : { maxPending }),
            ...(limit === undefined || periodMs === undefined
              ? {}
              : { rate: { limit, periodMs, ...(burst === undefined ? {} : { burst }) } }),
          },
        }),
  };
}

function isExpiry(value: unknown): value is number {
  return typeof value === "number" && value >= 1000 && value <= Number.MAX_SAFE_INTEGER;
}

function readMethods(value: unknown, name: string): { name: string; readonly: boolean }[] {
  if (!Array.isArray(value) || value.length > manifestLimits.methodsMax) {
    throw refused(`has an improper list of methods for ${name}`);
  }
  return value.map((method: unknown) => {
    if (!isRecord(method) || !isName(method.name) || typeof method.readonly !== "boolean") {
      throw refused(`has an improper method of ${name}`);
    }
    return { name: method.name, readonly: method.readonly };
  });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isName(value: unknown): value is string {
  return typeof value === "string" && value !== "" && value.length <= manifestLimits.nameCharsMax;
}

function refused(what: string, cause?: unknown): SporeError {
  return new SporeError("invalid-component", `the component's manifest ${what}`, { cause });
}

/** Code that runs, but doesn't say what it defines. */
export function undescribed(reason: string): SporeError {
  return new SporeError("invalid-component", `describing it: ${reason}`, {
    hint: "Deploy what spore build makes, or let spore deploy build it.",
  });
}
