/**
 * What goes wrong between partitions, which may be on two hosts: batches of messages come
 * twice, late, apart or in another order, and their acknowledgement gets lost. The receiver
 * has to apply each message once and in order all the same (I4, partition.ts P4). And what
 * goes wrong between hosts: their requests get lost, come twice or late, or their answers do.
 */
import { SporeError } from "../../runtime/errors.ts";
import type { Envelope } from "../../runtime/outbox.ts";
import { Partition } from "../../runtime/partition.ts";
import type { SimHost, World } from "./world.ts";

const delaysMs = [0.5, 20, 300, 4000];
/** Less than the quiet before the audit (run.ts): what is under way then is nobody's omission. */
const delayMsMax = 8000;

/** Puts the network between the partitions of this world; the result takes it out again. */
export function disturb(world: World): () => void {
  const { receive } = Partition.prototype;
  Partition.prototype.receive = function (this: Partition, source, envelopes): Promise<void> {
    const apply = (part: readonly Envelope[]): Promise<void> => receive.call(this, source, part);
    const host = world.running;
    if (host === undefined || !host.random.chance(world.faults.messages)) return apply(envelopes);
    return deliver(world, host, envelopes, apply);
  };
  return () => {
    Partition.prototype.receive = receive;
  };
}

async function deliver(
  world: World,
  host: SimHost,
  envelopes: readonly Envelope[],
  apply: (part: readonly Envelope[]) => Promise<void>,
): Promise<void> {
  const { random } = host;
  const fault = random.pick(["lost", "late", "unanswered", "delayed", "doubled", "apart"] as const);
  world.count(`messages: ${fault}`);
  world.trace(`${host.id} ${envelopes.length} messages ${fault}`);
  const later = (part: readonly Envelope[]): Promise<void> =>
    new Promise((resolve, reject) => {
      const delayMs = Math.min(random.latency(random.pick(delaysMs)), delayMsMax);
      world.at(delayMs, () => host.enter(() => void apply(part).then(resolve, reject)));
    });
  const unheard = (part: readonly Envelope[]): void => void later(part).catch(() => undefined);
  switch (fault) {
    case "lost":
      break;
    case "late":
      unheard(envelopes);
      break;
    case "unanswered":
      await apply(envelopes);
      break;
    case "delayed":
      return later(envelopes);
    case "doubled":
      unheard(envelopes);
      return apply(envelopes);
    case "apart":
      for (const envelope of envelopes) unheard([envelope]);
      break;
  }
  throw new SporeError("host-busy", `injected fault: messages are ${fault}`);
}

// ---------------------------------------------------------------- hosts

/** One request from a host to another, whose address is its id. */
export function ask(
  from: SimHost,
  asked: { readonly address: string; readonly request: Uint8Array; readonly timeoutMs: number },
): Promise<Uint8Array> {
  const { world, random } = from;
  const { address, request, timeoutMs } = asked;
  const isDisturbed = random.chance(world.faults.peers);
  const fault = isDisturbed
    ? random.pick(["lost", "unanswered", "late", "doubled"] as const)
    : undefined;
  if (fault !== undefined) world.count(`peers: ${fault}`);
  world.count("peer requests");
  return new Promise((resolve, reject) => {
    const fail = (code: "peer-refused" | "peer-unavailable"): void =>
      from.enter(() => reject(new SporeError(code, `${address} does not answer ${from.id}`)));
    world.at(timeoutMs / from.rate, () => fail("peer-unavailable"));
    const arrive = (isAnswered: boolean): void => {
      const target = world.hosts.find(({ id }) => id === address);
      if (world.isCut || target?.isCrashed !== false || target.host === undefined) {
        world.at(random.latency(1), () => fail("peer-refused"));
        return;
      }
      target.enter(() => {
        target.host?.serve(request).then(
          (answer) => {
            if (!isAnswered) return;
            world.at(random.latency(1), () => from.enter(() => resolve(answer)));
          },
          () => {
            if (isAnswered) world.at(random.latency(1), () => fail("peer-refused"));
          },
        );
      });
    };
    const thereMs = random.latency(fault === "late" ? random.pick([100, 3000, 30_000]) : 1);
    if (fault !== "lost") world.at(thereMs, () => arrive(fault !== "unanswered"));
    if (fault === "doubled") world.at(random.latency(random.pick(delaysMs)), () => arrive(false));
  });
}
