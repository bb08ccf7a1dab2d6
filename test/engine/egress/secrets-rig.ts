import { once } from "node:events";
import { createServer as createPlain, request as httpRequest, type IncomingMessage } from "node:http";
import { type ClientHttp2Session, connect as connectHttp2, createSecureServer } from "node:http2";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { Duplex } from "node:stream";
import { text } from "node:stream/consumers";
import { connect as connectTls, type TLSSocket } from "node:tls";
import { createEgress, type Egress } from "../../../src/engine/egress/egress.ts";
import { createAuthority, openAuthority } from "../../../src/engine/egress/intercept/authority.ts";
import type { LiveSecret } from "../../../src/engine/egress/intercept/bindings.ts";
import { createRoots } from "../../../src/engine/egress/intercept/roots.ts";
import type { EgressEvent } from "../../../src/engine/egress/upstream.ts";
import { createAuthority as createTestAuthority } from "../../server/certificates.ts";

export const VALUE = "s3cr3t-Value/with+chars=42";
export const PLACEHOLDER = "warren-secret-0123456789abcdef0123456789abcdef";

export interface Rig extends AsyncDisposable {
  egress: Egress;
  events: EgressEvent[];
  /** Of the server that the names lead to. */
  port: number;
  /** Of another without TLS, which adds to `seen` too. */
  plainPort: number;
  /** What the engine's certificates are checked with. */
  ca: string;
  proxyPort: number;
  /** All requests that the server had: header and URL, as text. */
  seen: string[];
  server: ReturnType<typeof createSecureServer>;
  secret(more?: Partial<LiveSecret>): LiveSecret;
}

export interface RigOptions {
  secrets?: (port: number) => LiveSecret[];
  /** Names that the server's certificate has. */
  subjects?: string;
  /** The engine does not trust the server's authority. */
  isDistrusting?: boolean;
  now?: () => number;
  /** Clients come as streams that are no sockets, as those of a mux do. */
  asStreams?: boolean;
}

/** A sandbox's way out with a secret for api.test, and an echoing server that api.test and other.test lead to. */
export async function openRig(options: RigOptions = {}): Promise<Rig> {
  using authority = createTestAuthority();
  const { key, cert } = authority.issue(
    "server",
    options.subjects ?? "DNS:api.test,DNS:other.test,IP:127.0.0.1",
  );
  const seen: string[] = [];
  const server = createSecureServer({ key, cert, allowHTTP1: true }, (request, response) => {
    seen.push(`${request.method} ${request.url} ${JSON.stringify(request.headers)}`);
    response.setHeader("x-echo", String(request.headers.authorization ?? ""));
    request.pipe(response as unknown as NodeJS.WritableStream);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const plain = createPlain((request, response) => {
    seen.push(`${request.method} ${request.url} ${JSON.stringify(request.headers)}`);
    response.end(`you said ${request.headers.authorization ?? "nothing"}`);
  }).listen(0, "127.0.0.1");
  await once(plain, "listening");
  const secret = (more: Partial<LiveSecret> = {}): LiveSecret => ({
    name: "TOKEN",
    hosts: [`api.test:${port}`],
    header: { name: "Authorization", template: "Bearer {}" },
    placeholder: PLACEHOLDER,
    value: VALUE,
    ...more,
  });
  const files = await createAuthority(Date.now(), "test");
  const own = openAuthority(files, options.now ?? Date.now);
  const roots = createRoots(options.isDistrusting ? undefined : authority.caFile);
  await roots(); // the file goes with the test's authority
  const events: EgressEvent[] = [];
  const context = await roots();
  const egress = createEgress({
    rules: { allow: ["internal:api.test", "internal:other.test", "127.0.0.1"], deny: [] },
    resolve: async () => ["127.0.0.1"],
    onDecision: (event) => void events.push(event),
    secrets: {
      all: options.secrets?.(port) ?? [secret()],
      tls: { authority: () => own, roots: async () => context },
    },
  });
  const proxy = createServer({ allowHalfOpen: true }, (client) =>
    egress.serve(options.asStreams ? asStream(client) : client),
  ).listen(0, "127.0.0.1");
  await once(proxy, "listening");
  return {
    egress,
    events,
    port,
    plainPort: (plain.address() as AddressInfo).port,
    ca: files.cert,
    proxyPort: (proxy.address() as AddressInfo).port,
    seen,
    server,
    secret,
    async [Symbol.asyncDispose]() {
      egress.close();
      for (const one of [proxy, server, plain]) one.close();
    },
  };
}

/** A CONNECT through the proxy. */
export async function tunnel(rig: Rig, host: string, port = rig.port): Promise<Socket> {
  const request = httpRequest({
    host: "127.0.0.1",
    port: rig.proxyPort,
    method: "CONNECT",
    path: `${host}:${port}`,
    headers: { host: `${host}:${port}` },
  });
  request.end();
  const [response, socket, head] = (await once(request, "connect")) as [IncomingMessage, Socket, Buffer];
  if (response.statusCode !== 200) throw new Error(`CONNECT: ${response.statusCode}`);
  if (head.length > 0) socket.unshift(head);
  return socket;
}

/** A port that leads to this host through the egress, as a captured connection does. */
export async function openDirect(rig: Rig, host: string): Promise<AsyncDisposable & { port: number }> {
  const server = createServer({ allowHalfOpen: true }, (client) =>
    rig.egress.serveDirect(client, host, rig.port),
  ).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: async () => void server.close(),
  };
}

export interface TlsWish {
  servername?: string;
  protocols?: string[];
  ca?: string;
}

/** TLS through a tunnel, trusting the engine's authority only. */
export async function secure(rig: Rig, host: string, wish: TlsWish = {}): Promise<TLSSocket> {
  const socket = connectTls({
    socket: await tunnel(rig, host),
    ca: wish.ca ?? rig.ca,
    ...(/^[\d.]+$/.test(host) ? { host } : { servername: wish.servername ?? host }),
    ALPNProtocols: wish.protocols ?? ["http/1.1"],
  });
  await once(socket, "secureConnect");
  return socket;
}

export interface Reply {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: string;
}

/** One request over HTTP/1.1 on a connection of its own, or on `socket`. */
export async function ask(
  rig: Rig,
  host: string,
  options: {
    method?: string;
    path?: string;
    headers?: Record<string, string>;
    body?: string;
    socket?: TLSSocket;
  } = {},
): Promise<Reply> {
  const socket = options.socket ?? (await secure(rig, host));
  const request = httpRequest({
    createConnection: () => socket,
    method: options.method ?? (options.body === undefined ? "GET" : "POST"),
    path: options.path ?? "/",
    headers: { host: `${host}:${rig.port}`, ...options.headers },
  });
  request.end(options.body);
  const [response] = (await once(request, "response")) as [IncomingMessage];
  return { status: response.statusCode ?? 0, headers: response.headers, body: await text(response) };
}

/** A request without TLS through the proxy. */
export async function askPlain(rig: Rig, url: string, headers: Record<string, string> = {}): Promise<Reply> {
  const request = httpRequest({
    host: "127.0.0.1",
    port: rig.proxyPort,
    path: url,
    headers: { host: new URL(url).host, ...headers },
  });
  request.end();
  const [response] = (await once(request, "response")) as [IncomingMessage];
  return { status: response.statusCode ?? 0, headers: response.headers, body: await text(response) };
}

/** What comes back to one who says all this on a connection, until it ends. */
export async function say(socket: TLSSocket, ...pieces: string[]): Promise<string> {
  for (const piece of pieces) socket.write(piece);
  return await text(socket).catch((error: Error) => error.message);
}

/** An HTTP/2 connection of a client that offers both versions. */
export async function openHttp2(rig: Rig, host: string): Promise<ClientHttp2Session> {
  const socket = await secure(rig, host, { protocols: ["h2", "http/1.1"] });
  if (socket.alpnProtocol !== "h2") throw new Error(`not HTTP/2 but ${String(socket.alpnProtocol)}`);
  const session = connectHttp2(`https://${host}:${rig.port}`, { createConnection: () => socket });
  session.on("error", () => {});
  await once(session, "connect");
  return session;
}

function asStream(socket: Socket): Duplex {
  const stream = new Duplex({
    allowHalfOpen: true,
    read: () => void socket.resume(),
    write: (chunk, _encoding, done) => void socket.write(chunk, () => done()),
    final: (done) => void socket.end(done),
    destroy: (error, done) => {
      socket.destroy();
      done(error);
    },
  });
  socket.on("data", (chunk) => {
    if (!stream.push(chunk)) socket.pause();
  });
  socket.on("end", () => stream.push(null));
  socket.on("close", () => stream.destroy());
  socket.on("error", () => {});
  return stream;
}
