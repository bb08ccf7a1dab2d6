import type { PortMapping, PublishedPort, portProtocols } from "../contracts/ports.ts";
import { UsageError } from "./report.ts";

type Protocol = (typeof portProtocols)[number];

/**
 * `[ADDRESS:]HOST:SANDBOX[/udp]` as Docker's users know it, or `SANDBOX` alone for a host port that is chosen. Without an address
 * 127.0.0.1 is meant, not all addresses.
 */
export function parsePublish(entry: string): PortMapping {
  const match = /^(?:(?:\[([^\]]*)\]|([^:[\]]*)):)?(?:(\d*):)?(\d+)(?:\/([a-z]+))?$/i.exec(entry);
  const [, bracketed, plain, host, sandbox, word] = match ?? [];
  // `8080:80` has a host port and no address.
  const isShort = bracketed === undefined && plain !== undefined && host === undefined;
  const address = isShort ? undefined : (bracketed ?? plain);
  const hostPort = isShort ? plain : (host ?? "");
  const sandbox_port = number(sandbox, 1);
  const host_port = hostPort === "" ? 0 : number(hostPort, 0);
  const protocol = protocolOf(word);
  if (!match || address === "" || sandbox_port === undefined || host_port === undefined || !protocol) {
    throw new UsageError(
      `${JSON.stringify(entry)} is not a port`,
      "write it as 8080:80, 127.0.0.1:8080:80, [::1]:8080:80/udp, or 80 for a host port that is chosen",
    );
  }
  return { sandbox_port, host_port, protocol, ...(address === undefined ? {} : { address }) };
}

/** `80` or `53/udp`: a port inside. */
export function parsePort(entry: string): { sandboxPort: number; protocol: Protocol } {
  const [port = "", word, ...more] = entry.split("/");
  const protocol = protocolOf(word);
  const sandboxPort = number(port, 1);
  if (more.length > 0 || !protocol || sandboxPort === undefined) {
    throw new UsageError(
      `${JSON.stringify(entry)} is not a port inside`,
      "name it alone, such as 80 or 53/udp, published or not",
    );
  }
  return { sandboxPort, protocol };
}

function number(text: string | undefined, least: number): number | undefined {
  const port = /^\d{1,5}$/.test(text ?? "") ? Number(text) : -1;
  return port >= least && port <= 65_535 ? port : undefined;
}

function protocolOf(word: string | undefined): Protocol | undefined {
  return (["tcp", "udp"] as const).find((one) => one === (word ?? "tcp").toLowerCase());
}

/** `127.0.0.1:8080`; port 0 is one that is chosen when the sandbox starts. */
export function hostSide({ address, host_port: port }: Pick<PublishedPort, "address" | "host_port">): string {
  return `${address.includes(":") ? `[${address}]` : address}:${port}`;
}
