import { once } from "node:events";
import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type RequestListener,
  type Server,
} from "node:http";
import { type AddressInfo, connect } from "node:net";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { PreviewLink } from "../../src/contracts/ports.ts";
import type { Logger } from "../../src/lib/log.ts";
import type { PortOptions, ServerOptions, TcpOptions } from "../../src/server/server.ts";
import { type Served, serve } from "./serve.ts";

export const KEY = "the key of the API";
/** The port of the sandbox `box` that the tests' server listens on. */
export const PORT = 3000;

export interface Rig extends AsyncDisposable {
  served: Served;
  /** The server inside. */
  inside: Server;
  dial: PortOptions["dial"];
  /** What it was asked, the last one last. */
  asked: IncomingMessage[];
  /** `3000-box.localhost:port`, and so on. */
  host(port?: number, sandbox?: string): string;
  link(port?: number, expires?: number): Promise<PreviewLink>;
  /** One request to the server's listener; nothing is followed. */
  ask(options: Asked): Promise<Answer>;
  /** All lines of the server's log. */
  log: string;
}

export interface Asked {
  path?: string;
  host?: string;
  method?: string;
  headers?: Record<string, string | string[]>;
  body?: Uint8Array | string;
}

export interface Answer {
  status: number;
  headers: IncomingMessage["headers"];
  body: string;
}

/** A server with keys whose sandbox `box` has one HTTP server, of this process. */
export async function previewRig(
  listener: RequestListener,
  { ports, ...options }: Partial<Omit<ServerOptions, "ports">> & { ports?: Partial<PortOptions> } = {},
  listen: Partial<TcpOptions> = {},
): Promise<Rig> {
  const asked: IncomingMessage[] = [];
  const inside = createServer((request, response) => {
    asked.push(request);
    listener(request, response);
  }).listen(0, "127.0.0.1");
  await once(inside, "listening");
  const { port } = inside.address() as AddressInfo;
  const rig = { log: "" };
  const dial: PortOptions["dial"] = async (id, wanted) => {
    if (id !== "box") throw new WarrenError("sandbox_wrong_state", `sandbox ${id} is not running`);
    if (wanted !== PORT) throw new WarrenError("port_unreachable", `port ${wanted}: nothing listens there`);
    const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    await once(socket, "connect");
    return socket;
  };
  const served = await serve(
    {
      apiKeys: [KEY],
      log: capturing((line) => {
        rig.log += line;
      }),
      ports: {
        key: Buffer.alloc(32, 7),
        dial,
        ...ports,
      },
      ...options,
    },
    listen,
  );
  const host = (of = PORT, sandbox = "box") => `${of}-${sandbox}.localhost:${served.port}`;
  return Object.assign(rig, {
    served,
    inside,
    dial,
    asked,
    host,
    async link(of = PORT, expires?: number) {
      const response = await fetch(`${served.url}/api/v1/sandboxes/box/ports/${of}/preview`, {
        method: "POST",
        headers: { "x-api-key": KEY },
        body: JSON.stringify(expires === undefined ? {} : { expires_in: expires }),
      });
      if (response.status !== 201) throw new Error(await response.text());
      return (await response.json()) as PreviewLink;
    },
    ask: ({ path = "/", host: name = host(), method = "GET", headers = {}, body }: Asked) =>
      new Promise<Answer>((resolve, reject) => {
        const request = httpRequest({
          port: served.port,
          path,
          method,
          headers: { host: name, ...headers },
          agent: false,
        });
        request.once("response", async (response) => {
          try {
            const chunks: Buffer[] = [];
            for await (const chunk of response) chunks.push(chunk);
            const text = Buffer.concat(chunks).toString("latin1");
            resolve({ status: response.statusCode ?? 0, headers: response.headers, body: text });
          } catch (error) {
            reject(error);
          }
        });
        request.once("error", reject);
        request.end(body);
      }),
    async [Symbol.asyncDispose]() {
      await served[Symbol.asyncDispose]();
      inside.closeAllConnections();
      inside.close();
    },
  });
}

function capturing(write: (line: string) => void): Logger {
  const line = (...parts: unknown[]) => write(`${JSON.stringify(parts)}\n`);
  const log: Logger = { debug: line, info: line, warn: line, error: line, child: () => log };
  return log;
}

/** The `name=value` of the first cookie that an answer sets. */
export function cookieOf({ headers }: Answer): string {
  return (headers["set-cookie"]?.[0] ?? "").split(";")[0] ?? "";
}
