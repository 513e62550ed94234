/**
 * Makes the bounds of pages, batches, windows and pools so small that the few rows of a simulation
 * reach them, as FoundationDB's simulation does with its knobs: what no test reaches, nobody tests.
 * They are constants of the modules, nobody's options, so they are changed as the modules are loaded,
 * after this one: `npm run sim -- --small`. Bounds that a caller can see (a refusal, a format) stay what they are.
 */
import { registerHooks } from "node:module";

const small: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  actors: { readsOfAbsentMax: 2 },
  alarms: { timerWindow: 3 },
  asking: { eventsPerRead: 2 },
  bulk: { bulkAtOnce: 2 },
  check: { rowsPerPage: 3 },
  collector: { rowsPerPage: 2, pageBytes: 300, rowsPerLook: 5, parallelMax: 1 },
  commits: { lingerRowsMax: 20 },
  followers: { followersMax: 1, openingMax: 1 },
  history: { rowsPerRead: 2 },
  listing: { rowsMax: 5 },
  log: { parallelMax: 2 },
  outbox: { envelopesMax: 2 },
  partition: { revivedAtOnce: 1, expiringMax: 1, rowsPerDelete: 2 },
  queue: { placesPerTransition: 2 },
  "queue-members": { litterMax: 3 },
  replica: { parallelMax: 2 },
  reshard: {
    pageRows: 2,
    pageBytes: 300,
    copiesAtOnce: 1,
    checkpointBytesMin: 2000,
    checkpointBytesMax: 2000,
    changesFew: 2,
  },
  schedule: { slotsPerTick: 2, missedCountMax: 2 },
  segments: { readAheadMax: 2, wholeBlocksMax: 1, readAheadBytes: 300 },
  sorted: { chunkKeysMax: 4 },
  steps: { stride: 2, runsMax: 2 },
  uploads: { uploadMs: 200_000 }, // so that their end comes; callers are told of it
  walk: { pageRowsMax: 2 },
  table: { pageRowsDefault: 3, rowsPerRead: 3, sliceRows: 2, breathBytes: 200 },
};

/** Of the SDK: values of a few hundred bytes move in pieces. */
const smallGuest: typeof small = { protocol: { pieceBytesMax: 150 } };

registerHooks({
  load(url, context, nextLoad) {
    const loaded = nextLoad(url, context);
    const [, folder, name = ""] = /\/(runtime|guest)\/([a-z-]+)\.ts$/.exec(url) ?? [];
    const bounds = folder === "guest" ? smallGuest[name] : small[name];
    if (bounds === undefined) return loaded;
    return { ...loaded, source: withBounds(String(loaded.source), bounds, url) };
  },
});

function withBounds(source: string, bounds: Readonly<Record<string, number>>, url: string): string {
  return Object.entries(bounds).reduce((text, [name, value]) => {
    const declaration = new RegExp(`^((?:export )?const ${name} = )[^;]+;`, "m");
    if (!declaration.test(text)) throw new Error(`${url} has no constant ${name} any more`);
    return text.replace(declaration, `$1${value};`);
  }, source);
}
