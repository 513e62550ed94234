/** Names of this machine: without API keys a host answers to these only. */

export function isLoopback(hostname: string): boolean {
  return (
    hostname === "localhost" ||
    hostname.endsWith(".localhost") ||
    hostname === "::1" ||
    hostname === "[::1]" ||
    /^127(?:\.\d{1,3}){3}$/.test(hostname)
  );
}

/** Of a Host header, with or without a port. */
export function isLoopbackHost(header: string): boolean {
  return isLoopback(header.toLowerCase().replace(/:\d{1,5}$/, ""));
}
