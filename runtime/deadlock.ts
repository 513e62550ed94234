/**
 * Finds calls that wait for each other, over any number of actors, runs and partitions, and
 * ends one of them: edge chasing (Chandy, Misra and Haas 1983). When somebody comes to wait
 * for an entity that waits itself, a probe goes along all that the entity waits for, and on
 * from there. One that comes back to where it began has gone round a circle. Pure
 * transitions; probes are messages like any other, so none is lost by a crash.
 *
 * - K1 A circle is closed by the arrival of its last wait. The probe that begins there finds
 *   all other waits of the circle in place.
 * - K2 A probe goes on only from an entity in which the wait that it came along still waits.
 *   So what it brings back is a circle of waits, unless one of them was given up meanwhile.
 * - K3 Of one circle one wait is ended, although several probes may find it: that of the
 *   highest rank, and only a probe that began there may do it.
 *
 * Whoever waits is taken to need all that it waits for: that a call is raced by a timer, or
 * that nobody looks at its result, can't be seen from here.
 */
import { canNest, takeBackMail, takeReturning, waitsForTurn } from "./actor.ts";
import { type Mail, type Probe, type ReplyTo, rowKeys, type Wait } from "./format.ts";
import { nameOf } from "./ids.ts";
import { answer, replyTo } from "./machine.ts";
import { failed, hostError } from "./outcomes.ts";
import type { Entity, Sink } from "./state.ts";

/** Entities that a probe passes at most: a longer circle isn't found. */
export const probePathMax = 64;
/** Probes that may come of one wait, where an entity waits for many others. */
export const probesMax = 256;

/** Somebody waits for this entity from now on: maybe the entity waits for them, too. */
export function beginProbe(entity: Entity, sink: Sink, asker: ReplyTo): void {
  const rank = rankOf(entity, sink, asker);
  if (rank === undefined) return;
  const origin: Wait = { to: entity.key, asker };
  sendOn(entity, sink, {
    origin,
    victim: { ...origin, rank },
    path: [nameOf(entity.key)],
    branches: probesMax,
  });
}

export function takeProbe(entity: Entity, sink: Sink, probe: Probe): void {
  const { asker, origin, path, branches } = probe;
  if (origin === undefined) {
    beginProbe(entity, sink, asker);
    return;
  }
  if (!isWaitedFor(entity, asker)) return; // K2
  const rank = rankOf(entity, sink, asker);
  if (isSame(origin, { to: entity.key, asker })) {
    endCircle(entity, sink, { ...probe, origin });
    return;
  }
  const name = nameOf(entity.key);
  if (path.includes(name) || path.length >= probePathMax) return;
  const isHigher = rank !== undefined && rank > (probe.victim?.rank ?? "");
  const victim = isHigher ? { to: entity.key, asker, rank } : probe.victim;
  sendOn(entity, sink, { origin, victim, path: [...path, name], branches });
}

function sendOn(
  entity: Entity,
  sink: Sink,
  probe: Pick<Probe, "origin" | "victim" | "path" | "branches">,
): void {
  const awaited: Wait[] = [];
  for (const [id, pending] of entity.pending) {
    if (pending.kind !== "message" || pending.awaits === undefined) continue;
    if (awaited.length >= probe.branches) break;
    awaited.push({ to: pending.awaits, asker: replyTo(entity, id) });
  }
  const branches = Math.floor((probe.branches - awaited.length) / awaited.length);
  for (const wait of awaited) sink.send({ ...probe, ...wait, kind: "probe", branches });
}

/** K3: the victim's own probe ends it; another one only sends word. */
function endCircle(entity: Entity, sink: Sink, probe: Probe & { readonly origin: Wait }): void {
  const { victim, origin, path, asker } = probe;
  if (victim !== undefined && !isSame(victim, origin)) {
    sink.send({ kind: "probe", to: victim.to, asker: victim.asker, path: [], branches: probesMax });
    return;
  }
  const chain = [...path, nameOf(entity.key)];
  const mail = mailOf(entity, asker);
  if (mail !== undefined) {
    takeReturning(entity, sink, takeBackMail(entity, sink, mail), chain);
    return;
  }
  const watcher = entity.watchers.find((each) => isFrom(each.replyTo, asker));
  if (watcher === undefined) return;
  entity.watchers = entity.watchers.filter((each) => each !== watcher);
  sink.changes.delete(rowKeys.watcher(entity.key, watcher.index));
  sink.changes.touch(entity);
  const message = `a wait for a run would wait for itself: ${chain.join(" → ")}`;
  answer(sink, asker, failed(hostError("call-deadlock", message)));
}

/**
 * How gladly this wait is ended; undefined for a call whose turn is going on, which can't be.
 * Best is a call that a re-entrant actor can serve at once: then nobody gets an error.
 */
function rankOf(entity: Entity, sink: Sink, asker: ReplyTo): string | undefined {
  const suffix = `${entity.key} ${asker.key} ${asker.id}`;
  const mail = mailOf(entity, asker);
  if (mail !== undefined) return `${canNest(entity, sink, mail) ? "c" : "b"} ${suffix}`;
  const isWatched = entity.watchers.some((each) => isFrom(each.replyTo, asker));
  return isWatched ? `a ${suffix}` : undefined;
}

function isWaitedFor(entity: Entity, asker: ReplyTo): boolean {
  const { head } = entity;
  const calls = head.kind === "actor" ? [head.turn, ...(head.nested ?? [])] : [];
  return (
    calls.some((call) => call?.replyTo !== undefined && isFrom(call.replyTo, asker)) ||
    mailOf(entity, asker) !== undefined ||
    entity.watchers.some((each) => isFrom(each.replyTo, asker))
  );
}

/** A call that waits for its turn; a read that is free waits for nobody. */
function mailOf(entity: Entity, asker: ReplyTo): Mail | undefined {
  const mail = entity.mail.find(({ replyTo }) => replyTo !== undefined && isFrom(replyTo, asker));
  return mail !== undefined && waitsForTurn(entity, mail) ? mail : undefined;
}

function isSame(left: Wait, right: Wait): boolean {
  return left.to === right.to && isFrom(left.asker, right.asker);
}

function isFrom(left: ReplyTo, right: ReplyTo): boolean {
  return left.key === right.key && left.id === right.id && left.life === right.life;
}
