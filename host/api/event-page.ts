/**
 * The pages behind an event's url, for people: one that asks, and what came of it. No
 * scripts, nothing from elsewhere; a GET decides nothing, so links may be scanned.
 */
import type { ErrorCode } from "../../runtime/errors.ts";

const style =
  "body{max-width:32rem;margin:4rem auto;padding:0 1rem;font:1.1rem/1.5 system-ui,sans-serif;" +
  "color-scheme:light dark}form{display:inline}" +
  "button{margin-right:.5rem;padding:.5rem 1.25rem;font:inherit}";
/** SHA-256 of the style, which lets a browser have it and no other (CSP 3, 6.7.3). */
const styleHash = "Ke0+51reqeOwT8uBjLCzojGSWcZKiIRKdnVxyEsMnVQ=";

export const pageHeaders = {
  "content-type": "text/html; charset=utf-8",
  "content-security-policy":
    `default-src 'none'; style-src 'sha256-${styleHash}'; form-action 'self'; ` +
    "frame-ancestors 'none'; base-uri 'none'",
  // With no-referrer a browser would not say where its form comes from.
  "referrer-policy": "same-origin",
} as const;

export function askingPage(name: string): string {
  return page(
    "A decision is asked for",
    `<p>${escaped(name)}</p>
<form method="post" action="?decision=approve"><button>Approve</button></form>
<form method="post" action="?decision=decline"><button>Decline</button></form>`,
  );
}

export function decidedPage(): string {
  return page("Decided", "<p>This has been decided. You can close this page.</p>");
}

/** Why nothing can be decided here; undefined for faults that are no answer to a person. */
export function refusalPage(code: ErrorCode): string | undefined {
  if (code === "event-decided") {
    return page("Decided before", "<p>This has been decided otherwise, and stays so.</p>");
  }
  if (code !== "event-not-found") return undefined;
  const why = "The link has expired, was revoked, isn't complete, or nobody waits for it any more.";
  return page("Nothing to decide", `<p>${why}</p>`);
}

function page(title: string, body: string): string {
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="robots" content="noindex">
<meta name="viewport" content="width=device-width"><title>${title}</title>
<style>${style}</style></head>
<body>
<h1>${title}</h1>
${body}
</body>
</html>
`;
}

function escaped(text: string): string {
  return text.replaceAll(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
