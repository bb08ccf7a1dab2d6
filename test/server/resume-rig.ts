import { WebSocket } from "ws";
import { createClient } from "../../src/client/index.ts";
import { createNodeClient } from "../../src/client/node/index.ts";
import type { SandboxApi } from "../../src/contracts/api.ts";
import type { ExecSession } from "../../src/contracts/exec.ts";
import { silentLogger } from "../../src/lib/log.ts";
import type { DetachableLimits } from "../../src/server/detachable-execs.ts";
import { PREFIX } from "../../src/server/route.ts";
import { createServer, type WarrenServer } from "../../src/server/server.ts";
import { type CuttingProxy, openCuttingProxy } from "./cutting-proxy.ts";

export const KEY = "the key of the one who started it";
export const OTHER_KEY = "a key of somebody else";

export interface Rig extends AsyncDisposable {
  server: WarrenServer;
  proxy: CuttingProxy;
  /** Through the proxy. */
  client: SandboxApi;
  /** The same as a page in a browser has it. */
  page: SandboxApi;
  /** How the connection of the clients' streams has been since. */
  states: ("lost" | "restored")[];
  /** A connection past the proxy, for a client that behaves in its own way. */
  open(id: string, key?: string): RawStream;
}

/** A real server over TCP in front of an API, with a bad network before it. */
export async function openRig(api: SandboxApi, resumable: Partial<DetachableLimits> = {}): Promise<Rig> {
  const server = createServer(api, { apiKeys: [KEY, OTHER_KEY], log: silentLogger, resumable });
  const { url } = await server.listenTcp({ host: "127.0.0.1", port: 0 });
  const proxy = await openCuttingProxy(Number(new URL(url).port));
  const states: ("lost" | "restored")[] = [];
  const at = {
    url: proxy.url,
    apiKey: KEY,
    onConnection: (state: "lost" | "restored") => states.push(state),
  };
  return {
    server,
    proxy,
    client: createNodeClient(at),
    page: createClient(at),
    states,
    open: (id, key = KEY) =>
      new RawStream(`${url.replace("http", "ws")}${PREFIX}/sandboxes/${id}/exec/stream`, key),
    async [Symbol.asyncDispose]() {
      await server.close();
      await proxy[Symbol.asyncDispose]();
    },
  };
}

type TextFrame = { type: string; [name: string]: unknown };

/** The protocol by hand. */
export class RawStream {
  readonly socket: WebSocket;
  readonly frames: TextFrame[] = [];
  /** Output of both streams, without the byte that names it. */
  readonly output: Buffer[] = [];
  readonly #opened: Promise<unknown>;
  closed: { code: number } | undefined;

  constructor(url: string, key: string) {
    this.socket = new WebSocket(url, ["warren.v1"], { headers: { "x-api-key": key } });
    this.#opened = new Promise((resolve) => this.socket.once("open", resolve));
    this.socket.on("error", () => {});
    this.socket.on("message", (data: Buffer, isBinary) => {
      if (isBinary) this.output.push(data.subarray(1));
      else this.frames.push(JSON.parse(data.toString()));
    });
    this.socket.once("close", (code) => {
      this.closed = { code };
    });
  }

  async send(frame: object | Uint8Array): Promise<void> {
    await this.#opened;
    this.socket.send(frame instanceof Uint8Array ? frame : JSON.stringify(frame));
  }

  find(type: string): TextFrame | undefined {
    return this.frames.find((frame) => frame.type === type);
  }

  get text(): string {
    return Buffer.concat(this.output).toString();
  }
}

/** Reads everything, by stream. */
export function gather(session: ExecSession) {
  const said = { stdout: [] as Uint8Array[], stderr: [] as Uint8Array[] };
  let bytes = 0;
  const done = (async () => {
    for await (const { stream, data } of session.output) {
      said[stream].push(data);
      bytes += data.length;
    }
  })();
  done.catch(() => {});
  return {
    done,
    get bytes() {
      return bytes;
    },
    stdout: () => Buffer.concat(said.stdout),
    stderr: () => Buffer.concat(said.stderr),
  };
}
