/**
 * Values that a run publishes: the latest under each name is a row of its own, which stays
 * as long as the run exists. They are read without waking the run.
 */
import type { Encoded } from "../guest/protocol.ts";
import { encodeRow, type PublishedRow, type RunHead, rowKeys } from "./format.ts";
import { nameOf } from "./ids.ts";
import { addHostEvent, type Entity, type Sink } from "./state.ts";

/** Names under which one run may publish. */
export const publishedMax = 64;
export const publishedBytesMax = 256 * 1024;

const namePattern = /^[^\u0000-\u001f\u007f/\\]{1,128}$/;

/** Keeps the value, or notes in the history why not; publishing can't fail for its author. */
export function keepPublished(
  entity: Entity,
  sink: Sink,
  published: { readonly head: RunHead; readonly name: string; readonly value: Encoded },
): void {
  const { head, name, value } = published;
  const reason = refusal(head, name, value);
  if (reason !== undefined) {
    addHostEvent(entity, sink, "publish.refused", { key: name.slice(0, 128), reason });
    sink.log(entity, "warn", `run ${nameOf(entity.key)} published nothing: ${reason}`);
    return;
  }
  if (head.published?.includes(name) !== true) head.published = [...(head.published ?? []), name];
  const row: PublishedRow = { atMs: head.lastNowMs, value };
  sink.changes.put(rowKeys.published(entity.key, name), () => encodeRow(row));
  addHostEvent(entity, sink, "published", { key: name, value });
}

function refusal(head: RunHead, name: string, value: Encoded): string | undefined {
  if (!namePattern.test(name)) return "its name is not one";
  if (value.length > publishedBytesMax) return `the value is over ${publishedBytesMax} bytes`;
  const known = head.published ?? [];
  if (known.length < publishedMax || known.includes(name)) return undefined;
  return `it has ${publishedMax} names already`;
}
