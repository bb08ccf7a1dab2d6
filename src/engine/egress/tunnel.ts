import type { Duplex } from "node:stream";
import { MAX_HELLO, readHello } from "./client-hello.ts";
import { type Host, parseHost } from "./host-name.ts";

/** What a client begins with. */
export type Opening =
  | { kind: "tls"; serverName?: string; protocols?: string[] }
  | { kind: "http" }
  | { kind: "other" };

/** A method's token (RFC 9110, 9.1; the registered ones are shorter) and the space behind it. */
const httpStart = /^[A-Z]{1,32} /;
const maybeHttp = /^[A-Z]{0,32}$/;

/**
 * Looks at a client's first bytes and puts them back; nothing is taken after that. It takes as long as the client does, so that
 * waiting is no way round: a protocol in which the server speaks first goes on in the other direction meanwhile.
 */
export function peek(client: Duplex): Promise<Opening> {
  return new Promise((resolve) => {
    let seen = Buffer.alloc(0);
    const done = (result: Opening) => {
      client.removeListener("readable", onReadable);
      for (const event of endings) client.removeListener(event, onEnd);
      if (seen.length > 0 && !client.destroyed) client.unshift(seen);
      resolve(result);
    };
    const onEnd = () => done({ kind: "other" });
    const onReadable = () => {
      for (let chunk: Buffer | null = client.read(); chunk; chunk = client.read()) {
        seen = Buffer.concat([seen, chunk]);
      }
      if (seen.length === 0) return;
      const hello = readHello(seen);
      if (hello.kind === "tls") return done(hello);
      if (hello.kind === "more") {
        // A greeting in empty pieces, or none at all.
        if (seen.length > 2 * MAX_HELLO) done({ kind: "other" });
        return;
      }
      const start = seen.subarray(0, 33).toString("latin1");
      if (httpStart.test(start)) done({ kind: "http" });
      else if (!maybeHttp.test(start)) done({ kind: "other" });
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
