/**
 * What a store accepts as a key, in one place, so that every store accepts the same.
 * `/` separates segments; a segment is printable ASCII without `\`, never empty, `.`
 * or `..`. A broken key is a bug of ours, not of a caller outside.
 */
import { assert } from "../../runtime/errors.ts";

const keyBytesMax = 900;
const wellFormed = /^(?!.*(?:^|\/)\.{1,2}(?:\/|$))[!-.0-[\]-~]+(?:\/[!-.0-[\]-~]+)*$/;

export function checkKey(key: string): string {
  assert(key.length <= keyBytesMax, `an object key has at most ${keyBytesMax} bytes`);
  assert(wellFormed.test(key), `"${key}" is an object key`);
  return key;
}
