/**
 * URL and URLSearchParams: the WHATWG parser of `whatwg-url-minimum` (IDNA included),
 * since a parser that differs from the host's would let a URL mean two things. Its
 * tables are unpacked with the engine's own `atob` while it loads.
 */
export { URL, URLSearchParams } from "whatwg-url-minimum";
