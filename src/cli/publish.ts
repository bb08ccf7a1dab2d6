import type { PortMapping, portProtocols } from "../contracts/ports.ts";
import { UsageError } from "./report.ts";

type Protocol = (typeof portProtocols)[number];

/**
 * `[ADDRESS:]HOST:SANDBOX[/udp]` as Docker's users know it, or `SANDBOX` alone for a host port that is chosen. Without an address
 * 127.0.0.1 is meant, not all addresses.
 */
export function parsePublish(entry: string): PortMapping {
  const match = /^(?:(?:\[([^\]]*)\]|([^:[\]]*)):)?(?:(\d*):)?(\d+)(?:\/([a-z]+))?$/i.exec(entry);
  const [, bracketed, plain, host, sandbox, protocol] = match ?? [];
  // `8080:80` has a host port and no address.
  const isShort = bracketed === undefined && plain !== undefined && host === undefined;
  const address = isShort ? undefined : (bracketed ?? plain);
  const hostPort = isShort ? plain : (host ?? "");
  if (!match || address === "" || !/^\d*$/.test(hostPort ?? "")) throw notAPort(entry);
  return {
    sandbox_port: number(sandbox, 1, entry),
    host_port: hostPort === "" ? 0 : number(hostPort, 0, entry),
    protocol: protocolOf(protocol, entry),
    ...(address === undefined ? {} : { address }),
  };
}

/** `80` or `53/udp`: a port inside. */
export function parsePort(entry: string): { sandboxPort: number; protocol: Protocol } {
  const [port = "", protocol, ...more] = entry.split("/");
  if (more.length > 0) throw notAPort(entry);
  return { sandboxPort: number(port, 1, entry), protocol: protocolOf(protocol, entry) };
}

function number(text: string | undefined, least: number, entry: string): number {
  const port = /^\d{1,5}$/.test(text ?? "") ? Number(text) : -1;
  if (port >= least && port <= 65_535) return port;
  throw notAPort(entry);
}

function protocolOf(word: string | undefined, entry: string): Protocol {
  const protocol = (["tcp", "udp"] as const).find((one) => one === (word ?? "tcp").toLowerCase());
  if (protocol) return protocol;
  throw notAPort(entry);
}

function notAPort(entry: string): UsageError {
  return new UsageError(
    `${JSON.stringify(entry)} is not a port`,
    "write it as 8080:80, 127.0.0.1:8080:80, [::1]:8080:80/udp, or 80 for a host port that is chosen",
  );
}
