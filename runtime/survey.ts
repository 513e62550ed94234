/**
 * Who serves a namespace, seen from outside: the hosts that have announced themselves in its
 * bucket, and what each of them says of itself. Takes part in nothing.
 */
import { Keyring } from "./keyring.ts";
import { readHost } from "./members.ts";
import type { Ports } from "./ports.ts";
import { Retrier } from "./retry.ts";
import { Seals } from "./seal.ts";
import { encodeRequest, type HostNews, valueOfAnswer } from "./wire.ts";

export interface FoundHost {
  readonly hostId: string;
  readonly address: string;
  /** Absent: it doesn't answer. */
  readonly news?: HostNews | undefined;
}

type SurveyPorts = Pick<Ports, "store" | "clock" | "random" | "digest" | "observer" | "peers">;

const hostsMax = 1000;
const answerMsMax = 3000;

export async function surveyHosts(
  ports: SurveyPorts,
  options: { readonly prefix: string; readonly hostId: string },
): Promise<readonly FoundHost[]> {
  const { store, clock, observer } = ports;
  const { prefix, hostId } = options;
  const { keys } = await store.list(`${prefix}hosts/`, { limit: hostsMax });
  const seals = new Seals(new Keyring(ports, prefix, new Retrier(clock, observer)), hostId);
  const found = await Promise.all(
    keys.map(async ({ key }): Promise<FoundHost | undefined> => {
      const said = readHost(await store.get(key));
      if (said === undefined) return undefined;
      const host = { hostId: key.slice(prefix.length + "hosts/".length), address: said.address };
      try {
        return { ...host, news: await newsOf(ports, seals, host) };
      } catch {
        return host; // gone, or not to be reached from here: that is what is asked for
      }
    }),
  );
  return found.filter((host) => host !== undefined);
}

async function newsOf(
  { peers }: SurveyPorts,
  seals: Seals,
  { hostId, address }: { readonly hostId: string; readonly address: string },
): Promise<HostNews | undefined> {
  // Who only asks means no partitions, whatever the layout.
  const { bytes, mac } = await seals.seal(hostId, encodeRequest({ kind: "hello" }, 0));
  const sealed = await peers?.call(address, bytes, { timeoutMs: answerMsMax });
  if (sealed === undefined) return undefined;
  // Written by `Members.greeted` of a host that has the key.
  return valueOfAnswer(await seals.openAnswer(mac, sealed)) as HostNews;
}
