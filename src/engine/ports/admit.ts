import { isIP, isIPv6 } from "node:net";
import { CREDENTIALS_PORT, egressPorts } from "../../contracts/constants.ts";
import { type ErrorDetails, WarrenError } from "../../contracts/errors.ts";
import type { PortMappingParsed } from "../../contracts/ports.ts";
import type { NetworkMode } from "../../contracts/runtime.ts";
import type { SandboxRecord, StoredPort } from "../record.ts";

/** Published ports of one sandbox at most, as many as one request may have. */
export const MOST_PORTS = 256;

const wildcards: Readonly<Record<string, true>> = { "0.0.0.0": true, "::": true };

/** What of a sandbox leads to what it alone may use. */
export interface WaysOut {
  mode: NetworkMode | undefined;
  hasCredentials: boolean;
}

export const waysOut = ({ spec, credentials }: Pick<SandboxRecord, "spec" | "credentials">): WaysOut => ({
  mode: spec?.network,
  hasCredentials: (credentials?.length ?? 0) > 0,
});

/** @throws WarrenError `invalid_request` for what can't be published, whoever else publishes what */
export function admitPorts(ports: readonly PortMappingParsed[], ways: WaysOut): StoredPort[] {
  const admitted = ports.map((port) => {
    refuseWayOut(port.sandbox_port, ways);
    return { ...port, address: canonicalAddress(port.address) };
  });
  for (const [i, port] of admitted.entries()) {
    if (admitted.slice(0, i).some((other) => collide(port, other)))
      throw portInUse(port, "is asked for twice");
  }
  return admitted;
}

/**
 * Ports that are no way into a sandbox but one out of it: the guest's own, by which whoever reached it could use what the sandbox is
 * allowed to reach, and with the machine's network all ports of the machine.
 * @throws WarrenError `forbidden`
 */
export function refuseWayOut(port: number, { mode, hasCredentials }: WaysOut): void {
  if (mode === "host") {
    throw new WarrenError(
      "forbidden",
      `ports: a sandbox with the network host has no port ${port} of its own`,
      {
        hint: "its programs listen on the engine's machine; they are reached there",
      },
    );
  }
  const isProxy = mode === "filtered" && egressPorts.includes(port);
  if (!isProxy && !(hasCredentials && port === CREDENTIALS_PORT)) return;
  throw new WarrenError(
    "forbidden",
    isProxy
      ? `ports: port ${port} of a sandbox with filtered network is its own way out`
      : `ports: port ${port} of a sandbox with credentials gives them to whoever asks`,
    {
      hint: "have the server inside listen on another port",
    },
  );
}

/** @throws WarrenError `port_in_use` when one of these sandboxes, running or not, has one of the ports */
export function refuseTaken(ports: readonly StoredPort[], records: Iterable<SandboxRecord>): void {
  for (const { id, name = id, ports: theirs = [] } of records) {
    for (const port of ports) {
      const other = theirs.find((one) => collide(port, one));
      if (!other) continue;
      const giveUp = `warren port rm ${name} ${other.sandbox_port}${other.protocol === "udp" ? "/udp" : ""}`;
      throw portInUse(port, `belongs to sandbox ${name}`, {
        hint: `${ANOTHER}; or have it given up: ${giveUp}`,
      });
    }
  }
}

/** The ports, with a free one in the place of each that one of these sandboxes, running or not, has. */
export function orFree(ports: readonly StoredPort[], records: readonly SandboxRecord[]): StoredPort[] {
  const theirs = records.flatMap((record) => record.ports ?? []);
  return ports.map((port) =>
    theirs.some((other) => collide(port, other)) ? { ...port, host_port: 0 } : port,
  );
}

/** Whether both can't be had at one time. */
function collide(one: StoredPort, other: StoredPort): boolean {
  return (
    one.host_port !== 0 &&
    one.host_port === other.host_port &&
    one.protocol === other.protocol &&
    isIPv6(one.address) === isIPv6(other.address) &&
    (one.address === other.address || one.address in wildcards || other.address in wildcards)
  );
}

const ANOTHER = "choose another host port, or 0 for a free one";

export function portInUse(port: StoredPort, why: string, details: ErrorDetails = {}): WarrenError {
  return new WarrenError("port_in_use", `${describe(port)} ${why}`, { hint: ANOTHER, ...details });
}

export function describe({ address, host_port, protocol }: StoredPort): string {
  return `${protocol} port ${host_port} of ${address}`;
}

function canonicalAddress(address: string): string {
  if (address === "" || address === "localhost") return "127.0.0.1";
  const bare = address.replace(/^\[(.*)\]$/, "$1");
  const family = isIP(bare);
  if (family === 4) return bare;
  const canonical =
    family === 6 && !bare.includes("%") ? new URL(`http://[${bare}]`).hostname.slice(1, -1) : "";
  // What is written must be what is meant: the mapped form is an IPv4 address in other clothes.
  if (canonical !== "" && !canonical.startsWith("::ffff:")) return canonical;
  throw new WarrenError("invalid_request", `ports: ${JSON.stringify(address)} is not an IP address`, {
    hint: "write it as in 127.0.0.1 or ::1",
  });
}
