import type { IncomingMessage } from "node:http";
import type { Caller } from "../contracts/api.ts";
import type { Entrance } from "./gate.ts";

/** Of a key's hash: enough to tell an owner's keys apart, and too little to find one by. */
const KEY_CHARACTERS = 8;

/** Who a request is from, for the audit log. `identity` is the gate's word for it. */
export function callerOf(request: IncomingMessage, entrance: Entrance, identity: string): Caller {
  const claimed = request.headers["x-warren-client"];
  const client = typeof claimed === "string" && /^[a-z0-9._/-]{1,40}$/i.test(claimed) ? claimed : undefined;
  const named = client === undefined ? {} : { client };
  if (entrance === "unix") return { via: "socket", ...named };
  const address = request.socket.remoteAddress;
  return {
    via: "tcp",
    ...named,
    ...(address === undefined ? {} : { address }),
    ...(identity.startsWith("key ") ? { key: identity.slice(4, 4 + KEY_CHARACTERS) } : {}),
  };
}
