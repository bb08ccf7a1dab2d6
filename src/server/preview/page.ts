import type { IncomingMessage, ServerResponse } from "node:http";
import type { WarrenError } from "../../contracts/errors.ts";
import { discardBody, sendError } from "../send-error.ts";

/** True for who shows what it gets to a person. */
export function wantsPage({ headers }: IncomingMessage): boolean {
  return (headers.accept ?? "").includes("text/html");
}

/** An error as a page for a person, and as JSON for programs. */
export function sendFailure(request: IncomingMessage, response: ServerResponse, error: WarrenError): void {
  if (!wantsPage(request)) {
    response.setHeader("cache-control", "no-store");
    sendError(request, response, error);
    return;
  }
  const body = page(error);
  response.writeHead(error.status, {
    "content-type": "text/html; charset=utf-8",
    "content-length": Buffer.byteLength(body),
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
  });
  response.end(request.method === "HEAD" ? undefined : body);
  void discardBody(request, response);
}

function page({ status, code, message, hint }: WarrenError): string {
  return `<!doctype html>
<meta charset="utf-8">
<title>${status} ${escaped(code)}</title>
<style>body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem }</style>
<h1>${escaped(message)}</h1>
${hint === undefined ? "" : `<p>${escaped(hint)}</p>\n`}<p><code>${escaped(code)}</code></p>
`;
}

function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
