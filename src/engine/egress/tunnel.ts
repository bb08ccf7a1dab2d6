import type { Duplex } from "node:stream";
import { type Host, parseHost } from "../../lib/host-name.ts";
import { readHello } from "./client-hello.ts";

/** What a client begins with. */
export type Opening =
  | { kind: "tls"; serverName?: string; protocols?: string[] }
  | { kind: "http" }
  /** Another protocol. `rest` is all that a client has said that has ended already. */
  | { kind: "other"; rest?: Buffer }
  /** TLS or HTTP that servers may read in more than one way. */
  | { kind: "broken" };

/** Of a request's first line: what servers take is less. */
const MAX_LINE = 65_536;
/** Of a word with which a line begins, such as a method. */
const MAX_WORD = 8_192;
/** RFC 9110, 5.6.2. */
const word = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+/;
/** With these servers take a line for a request of old HTTP, without a version, and fields after it for its own. */
const oldMethod = /^(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT)$/i;

/**
 * Whether text is a request to some server: empty lines and blanks before it, any token as a method, any blanks in it. `undefined`:
 * more bytes are needed.
 */
export function readRequestLine(bytes: Buffer): "http" | "other" | "broken" | undefined {
  const text = bytes
    .subarray(0, MAX_LINE)
    .toString("latin1")
    .replace(/^[\r\n\t ]+/, "");
  const isFull = bytes.length >= MAX_LINE;
  if (text === "") return isFull ? "broken" : undefined;
  const first = word.exec(text)?.[0];
  if (first === undefined) return "other";
  if (first.length === text.length) return text.length >= MAX_WORD ? "broken" : undefined;
  if (!/[\t\v\f\r ]/.test(text[first.length] ?? "")) return "other";
  const end = text.indexOf("\n");
  const line = end < 0 ? text : text.slice(0, end);
  if (line.includes("\0")) return "other";
  if (end < 0) return isFull ? "broken" : undefined;
  return oldMethod.test(first) || /\sHTTP\/\d/i.test(line) ? "http" : "other";
}

/**
 * Looks at a client's first bytes and puts them back; nothing is taken after that. It takes as long as the client does, so that
 * waiting is no way round: a protocol in which the server speaks first goes on in the other direction meanwhile.
 */
export function peek(client: Duplex): Promise<Opening> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let length = 0;
    let need = 1;
    let isTls = false;
    const done = (result: Opening) => {
      client.removeListener("readable", onReadable);
      for (const event of endings) client.removeListener(event, onEnd);
      if (length > 0 && !client.destroyed && !client.readableEnded) {
        client.unshift(Buffer.concat(chunks, length));
      }
      resolve(result);
    };
    const onEnd = () =>
      done(isTls ? { kind: "broken" } : { kind: "other", rest: Buffer.concat(chunks, length) });
    const onReadable = () => {
      for (let chunk: Buffer | null = client.read(); chunk; chunk = client.read()) {
        chunks.push(chunk);
        length += chunk.length;
      }
      // Looked at only when there is enough to look at: each look costs as much as there is.
      if (length < need) return;
      const seen = Buffer.concat(chunks.splice(0), length);
      chunks.push(seen);
      const hello = readHello(seen);
      isTls = hello.kind !== "other";
      if (hello.kind === "more") {
        need = hello.need;
      } else if (hello.kind !== "other") {
        done(hello);
      } else {
        const kind = readRequestLine(seen);
        if (kind === undefined) need = length + 1;
        else done({ kind });
      }
    };
    const endings = ["end", "error", "close"] as const;
    client.on("readable", onReadable);
    for (const event of endings) client.once(event, onEnd);
    onReadable();
  });
}

/**
 * Whether the name in a TLS greeting is the one that was asked for: a server behind an allowed address must not be made to
 * answer for another name. An address has no name in TLS (RFC 6066, 3), so what a client says of one counts for nothing.
 */
export function agrees(host: Host, serverName: string | undefined): boolean {
  if (serverName === undefined || host.kind === "address") return true;
  const named = parseHost(serverName);
  return named?.kind === "name" && named.name === host.name;
}
