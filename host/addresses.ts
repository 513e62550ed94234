/**
 * Which IP addresses are those of the public internet. What isn't (this machine, networks of
 * one's own, links, metadata services, multicast, what is reserved) no stranger's code may
 * reach. By value only: nothing is resolved here.
 */

/** The one spelling of an address; undefined for what is none. IPv6 without brackets. */
export function canonicalAddress(text: string): string | undefined {
  const host = text.includes(":") ? `[${text.replace(/^\[(.*)\]$/, "$1")}]` : text;
  const hostname = URL.parse(`http://${host}/`)?.hostname ?? "";
  if (hostname.startsWith("[")) return hostname.slice(1, -1);
  return /^\d+\.\d+\.\d+\.\d+$/.test(hostname) ? hostname : undefined;
}

/** False for what is no address, or has a zone. */
export function isPublicAddress(text: string): boolean {
  const address = canonicalAddress(text);
  if (address === undefined) return false;
  return address.includes(":") ? isPublic6(wordsOf(address)) : isPublic4(bytesOf(address));
}

/** Address and length of each block that isn't public: IANA's registries, and Azure's host. */
const privateBlocks = (
  "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 " +
  "192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 " +
  "203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
)
  .split(" ")
  .map((block) => {
    const [address = "", length] = block.split("/");
    const shift = 32 - Number(length);
    return { prefix: numberOf(bytesOf(address)) >>> shift, shift };
  });

function isPublic4(bytes: readonly number[]): boolean {
  const number = numberOf(bytes);
  return !privateBlocks.some(({ prefix, shift }) => number >>> shift === prefix);
}

/** Of IPv6 only what is given out is public (2000::/3), less what carries or means another. */
function isPublic6(words: readonly number[]): boolean {
  const [first = 0, second = 0] = words;
  // NAT64: networks without IPv4 reach public IPv4 addresses by this one.
  const isTranslated = first === 0x64 && second === 0xff9b && words.slice(2, 6).every(isZero);
  if (isTranslated) return isPublic4(words.slice(6).flatMap((word) => [word >> 8, word & 255]));
  if (first >> 13 !== 0b001) return false;
  const isProtocol = first === 0x2001 && second < 0x200; // Teredo among them
  const isExample = (first === 0x2001 && second === 0xdb8) || (first === 0x3fff && second < 0x1000);
  const is6to4 = first === 0x2002;
  return !isProtocol && !isExample && !is6to4;
}

function isZero(word: number): boolean {
  return word === 0;
}

function bytesOf(address: string): number[] {
  return address.split(".").map(Number);
}

function numberOf(bytes: readonly number[]): number {
  return bytes.reduce((number, byte) => ((number << 8) | byte) >>> 0, 0);
}

/** Of a canonical IPv6 address, which is written in hexadecimal throughout. */
function wordsOf(address: string): number[] {
  const [head = "", tail] = address.split("::").map((part) => part.split(":").filter(Boolean));
  const before = [...head].map(hexadecimal);
  const after = [...(tail ?? [])].map(hexadecimal);
  return [...before, ...Array<number>(8 - before.length - after.length).fill(0), ...after];
}

function hexadecimal(word: string): number {
  return Number.parseInt(word, 16);
}
