import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  constants,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  performServerHandshake,
  type ServerHttp2Session,
  type ServerHttp2Stream,
  sensitiveHeaders,
} from "node:http2";
import type { TLSSocket } from "node:tls";
import {
  type Admitted,
  type Origin,
  type Redaction,
  type Refusal,
  type RequestGuard,
  refuse,
} from "../guard.ts";
import { sameAuthority } from "../http-target.ts";
import { cleanAnswer, lead } from "./answer.ts";

/** Bytes that each side may be ahead of the other, of one stream and of all: 64 KiB, the default, is little over distances. */
const STREAM_WINDOW = 1024 * 1024;
const SESSION_WINDOW = 4 * STREAM_WINDOW;
/** Requests at one time on one connection. Servers usually allow as many. */
const MOST_STREAMS = 128;
/** Of a header, names and values. */
const MAX_HEADER_BYTES = 32_768;
/** MiB that a session may take. */
const MAX_MEMORY = 16;

const settings = {
  enablePush: false,
  initialWindowSize: STREAM_WINDOW,
  maxHeaderListSize: MAX_HEADER_BYTES,
};

export interface BridgeOptions {
  /** Of the client, whose TLS ends here. */
  inner: TLSSocket;
  /** Of the one server that it may talk to. */
  outer: TLSSocket;
  origin: Origin;
  guard: () => RequestGuard;
  deny: (reason: string) => void;
}

/** Passes requests on from one HTTP/2 connection to another, with their headers looked at. */
export function bridgeHttp2({ inner, outer, origin, guard, deny }: BridgeOptions): void {
  const client: ServerHttp2Session = performServerHandshake(inner, {
    settings: { ...settings, maxConcurrentStreams: MOST_STREAMS },
    maxSessionMemory: MAX_MEMORY,
  });
  const server: ClientHttp2Session = connect(`https://${origin.host}:${origin.port}`, {
    createConnection: () => outer,
    settings,
    maxSessionMemory: MAX_MEMORY,
  });
  for (const [session, other] of [
    [client, server],
    [server, client],
  ] as const) {
    session.on("error", () => {}); // told by its end
    session.once("close", () => other.destroy());
    session.once("goaway", () => other.close());
  }
  server.once("connect", () => server.setLocalWindowSize(SESSION_WINDOW));
  client.setLocalWindowSize(SESSION_WINDOW);

  client.on("stream", (stream, headers, flags) => {
    stream.on("error", () => {}); // the client's loss
    const asked = admit(headers, origin, guard());
    if ("status" in asked) {
      deny(asked.reason);
      return answer(stream, asked);
    }
    if (server.destroyed || server.closed) return stream.close(constants.NGHTTP2_REFUSED_STREAM);
    const endStream = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0;
    const outgoing = server.request(asked.headers, { endStream, waitForTrailers: !endStream });
    pass(stream, outgoing, asked.admitted.redaction, headers[":method"] === "HEAD");
  });
}

function pass(
  stream: ServerHttp2Stream,
  outgoing: ClientHttp2Stream,
  redaction: Redaction | undefined,
  isHead: boolean,
): void {
  outgoing.on("error", () => {});
  let requestTrailers: OutgoingHttpHeaders = {};
  stream.once("trailers", (fields) => {
    requestTrailers = plain(fields);
  });
  outgoing.once("wantTrailers", () => outgoing.sendTrailers(requestTrailers));
  stream.pipe(outgoing);

  outgoing.on("headers", (fields) => {
    if (!stream.headersSent && !stream.destroyed) stream.additionalHeaders(clean(fields, redaction));
  });
  outgoing.once("response", (fields, flags) => {
    if (stream.destroyed) return;
    const status = Number(fields[":status"]);
    const endStream = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0;
    const cleaned = cleanAnswer(redaction, {
      fields: rawOf(fields),
      hasBody: !endStream && !isHead,
      isPartial: status === 206,
    });
    if ("status" in cleaned) {
      outgoing.close(constants.NGHTTP2_CANCEL);
      return answer(stream, cleaned);
    }
    const head = { ":status": status, ...objectOf(cleaned.fields) };
    if (endStream) return stream.respond(head, { endStream });
    stream.respond(head, { waitForTrailers: true });
    let trailers: OutgoingHttpHeaders = {};
    outgoing.once("trailers", (more) => {
      trailers = clean(more, redaction);
    });
    stream.once("wantTrailers", () => stream.sendTrailers(trailers));
    const body = lead(outgoing, cleaned.through);
    body.once("error", () => stream.close(constants.NGHTTP2_INTERNAL_ERROR));
    body.pipe(stream);
  });
  // A stream that one side resets is reset on the other, with the same reason.
  stream.once("close", () => {
    if (!outgoing.closed) outgoing.close(stream.rstCode || constants.NGHTTP2_CANCEL);
  });
  outgoing.once("close", () => {
    if (outgoing.rstCode !== constants.NGHTTP2_NO_ERROR && !stream.closed) stream.close(outgoing.rstCode);
    else if (!stream.headersSent && !stream.closed) answer(stream, refuse(502, "the server has gone"));
  });
}

function admit(
  headers: IncomingHttpHeaders,
  origin: Origin,
  guard: RequestGuard,
): { headers: OutgoingHttpHeaders; admitted: Admitted } | Refusal {
  const { ":method": method, ":path": path, ":scheme": scheme, ":authority": authority, host } = headers;
  if (method === undefined || method === "CONNECT" || headers[":protocol"] !== undefined) {
    return refuse(400, "this connection leads to one server");
  }
  if (
    scheme !== "https" ||
    path === undefined ||
    !(path.startsWith("/") || (path === "*" && method === "OPTIONS"))
  ) {
    return refuse(400, "this is no request to a server");
  }
  // One connection for several hosts (RFC 9113, 9.1.1) would take what is meant for one to the other.
  for (const named of [authority ?? host, host ?? authority]) {
    if (!sameAuthority(named, origin, 443))
      return refuse(421, "the authority is not what this connection was made for");
  }
  const fields = rawOf(headers).filter((_text, i, all) => all[i - (i % 2)] !== "host");
  const admitted = guard.admit(origin, path, fields);
  if ("status" in admitted) return admitted;
  const out = objectOf(admitted.fields);
  // Never in the compression's tables, where lengths tell what was guessed right.
  const secret = ["authorization", ...Object.keys(out).filter((name) => out[name] !== headers[name])];
  return {
    admitted,
    headers: {
      ":method": method,
      ":scheme": scheme,
      ":authority": authority ?? host ?? "",
      ":path": path,
      ...out,
      [sensitiveHeaders]: [...new Set(secret)].filter((name) => Object.hasOwn(out, name)),
    },
  };
}

/** Names and values in turn, without what begins with a colon. */
function rawOf(headers: IncomingHttpHeaders): string[] {
  return Object.entries(headers).flatMap(([name, value]) => {
    if (name.startsWith(":") || value === undefined) return [];
    return (Array.isArray(value) ? value : [value]).flatMap((one) => [name, one]);
  });
}

function objectOf(fields: readonly string[]): OutgoingHttpHeaders {
  const headers: Record<string, string | string[]> = Object.create(null);
  for (let i = 0; i < fields.length; i += 2) {
    const [name = "", value = ""] = [fields[i]?.toLowerCase(), fields[i + 1]];
    const before = headers[name];
    headers[name] = before === undefined ? value : [before, value].flat();
  }
  return headers;
}

function plain(headers: IncomingHttpHeaders): OutgoingHttpHeaders {
  return objectOf(rawOf(headers));
}

function clean(headers: IncomingHttpHeaders, redaction: Redaction | undefined): OutgoingHttpHeaders {
  const status = headers[":status"];
  const fields = rawOf(headers).map((text) => redaction?.text(text) ?? text);
  return { ...(status === undefined ? {} : { ":status": status }), ...objectOf(fields) };
}

function answer(stream: ServerHttp2Stream, { status, reason }: Refusal): void {
  if (stream.destroyed || stream.headersSent) {
    stream.close(constants.NGHTTP2_INTERNAL_ERROR);
    return;
  }
  stream.respond({ ":status": status, "content-type": "text/plain" });
  stream.end(`${reason}\n`);
}
