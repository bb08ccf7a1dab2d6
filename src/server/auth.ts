import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { WarrenError } from "../contracts/errors.ts";

/** Prefix of the WebSocket subprotocol that carries a key: a browser can set no header on an upgrade. */
export const KEY_PROTOCOL = "warren-key.";

/** Checks API keys. Only their SHA-256 is kept: keys are long and random, so a slow hash would add nothing. */
export class ApiKeys {
  readonly #hashes: readonly Buffer[];

  constructor(keys: readonly string[]) {
    if (keys.some((key) => key.trim() === ""))
      throw new WarrenError("invalid_request", "an API key is empty");
    this.#hashes = keys.map(sha256);
  }

  get required(): boolean {
    return this.#hashes.length > 0;
  }

  /** Whether a request comes with a key of ours. */
  areIn(request: IncomingMessage): boolean {
    const presented = presentedKey(request);
    return presented !== undefined && this.holds(presented);
  }

  holds(text: string): boolean {
    const hash = sha256(text);
    let known = false;
    // All keys are compared, so that the time tells nothing about which one came close.
    for (const candidate of this.#hashes) known = timingSafeEqual(candidate, hash) || known;
    return known;
  }

  /** Tells the keys apart: the hash of the one that was presented. @throws WarrenError `unauthenticated`, with den's sentences. */
  check(request: IncomingMessage): string {
    const presented = presentedKey(request);
    if (presented === undefined) {
      throw new WarrenError("unauthenticated", "missing API key", {
        hint: "send it as X-API-Key, or as Authorization: Bearer",
      });
    }
    if (!this.holds(presented)) throw new WarrenError("unauthenticated", "invalid API key");
    return sha256(presented).toString("base64url");
  }
}

function presentedKey({ headers }: IncomingMessage): string | undefined {
  const header = headers["x-api-key"];
  if (typeof header === "string") return header;
  const bearer = /^Bearer +(\S+) *$/i.exec(headers.authorization ?? "");
  if (bearer) return bearer[1];
  const protocol = headers["sec-websocket-protocol"]
    ?.split(",")
    .map((name) => name.trim())
    .find((name) => name.startsWith(KEY_PROTOCOL));
  return protocol === undefined
    ? undefined
    : Buffer.from(protocol.slice(KEY_PROTOCOL.length), "base64url").toString("utf8");
}

function sha256(text: string): Buffer {
  return createHash("sha256").update(text, "utf8").digest();
}
