import { request as requestHttp } from "node:http";
import { request as requestHttps } from "node:https";
import type { Duplex } from "node:stream";
import { responseError } from "../failures.ts";
import { PREFIX } from "../http.ts";
import { readCaFile } from "./ca-file.ts";
import { toResponse } from "./response.ts";
import { parseTarget, trust } from "./target.ts";

/** A raw connection to a TCP port inside, through the server; each direction ends by itself. */
export function dialPort(
  url: string,
  {
    id,
    port,
    apiKey,
    caFile,
  }: { id: string; port: number; apiKey?: string | undefined; caFile?: string | undefined },
): Promise<Duplex> {
  const parsed = parseTarget(url);
  const target = parsed.tls && caFile ? { ...parsed, ca: readCaFile(caFile) } : parsed;
  const path = `${PREFIX}/sandboxes/${encodeURIComponent(id)}/ports/${port}/connect`;
  return new Promise((resolve, reject) => {
    const request = (target.tls ? requestHttps : requestHttp)({
      ...target.connection,
      ...(target.tls ? trust(target) : {}),
      agent: false,
      path: target.basePath + path,
      headers: {
        connection: "Upgrade",
        upgrade: "tcp",
        ...(!apiKey ? {} : { "x-api-key": apiKey }),
      },
    });
    request.once("upgrade", (_response, socket: Duplex, head: Buffer) => {
      socket.allowHalfOpen = true;
      if (head.length > 0) socket.unshift(head);
      resolve(socket);
    });
    request.once("response", (response) => {
      responseError(toResponse(response)).then(reject, reject);
    });
    request.once("error", reject);
    request.end();
  });
}
