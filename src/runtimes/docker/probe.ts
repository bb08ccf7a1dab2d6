import type { Capabilities, ProbeFinding, ProbeReport } from "../../contracts/runtime.ts";
import { weaknessFinding } from "../common/known-weaknesses.ts";
import type { ApiClient } from "../containers/api-client.ts";
import { describeEndpoint } from "../containers/endpoint.ts";
import { capabilitiesOf } from "./capabilities.ts";
import { type Daemon, readDaemon } from "./daemon.ts";

/** Asks the daemon anew. @throws WarrenError when it does not answer */
export async function probeDocker(client: ApiClient): Promise<ProbeReport> {
  const daemon = await readDaemon(client);
  const { endpoint } = client;
  return {
    runtime: "docker",
    usable: daemon.hasSeccomp,
    version: `${daemon.isPodman ? "podman" : "docker"} ${daemon.version}`,
    findings: [
      { level: "ok", message: describeDaemon(daemon, describeEndpoint(endpoint)) },
      ...(daemon.hasSeccomp ? [] : [noSeccomp]),
      ...(daemon.hasUserNamespace ? [] : [rootIsRoot(daemon)]),
      ...limitFindings(daemon, capabilitiesOf(daemon)),
      ...(endpoint.kind === "tcp" && !endpoint.tls ? [plainTcp(describeEndpoint(endpoint))] : []),
      ...weaknessFindings(daemon),
    ],
  };
}

function describeDaemon(daemon: Daemon, where: string): string {
  const { isPodman, isRootless, version, storageDriver, cgroupDriver, cgroupVersion } = daemon;
  return (
    `${isRootless ? "rootless " : ""}${isPodman ? "podman" : "docker"} ${version} answers at ${where}: ` +
    `storage ${storageDriver}, cgroup v${cgroupVersion} by ${cgroupDriver}`
  );
}

const noSeccomp: ProbeFinding = {
  level: "error",
  message: "the Docker daemon can't filter system calls, without which no sandbox is started",
  fix: "use a kernel with CONFIG_SECCOMP_FILTER, and a Docker that is built with seccomp",
};

function rootIsRoot(daemon: Daemon): ProbeFinding {
  const how = daemon.isPodman
    ? "run Podman without root, or use the runtime podman"
    : 'put "userns-remap": "default" into /etc/docker/daemon.json and restart Docker (it keeps images and containers apart then), use rootless Docker, or the runtime oci';
  return {
    level: "warning",
    message:
      "root in a sandbox is root on the host, held by capabilities, seccomp and no_new_privs only: Docker uses no user namespace",
    fix: how,
  };
}

function limitFindings(daemon: Daemon, { limits, limitsMissing }: Capabilities): ProbeFinding[] {
  const findings: ProbeFinding[] = [];
  if (limits.length > 0) {
    findings.push({ level: "ok", message: `cgroup v${daemon.cgroupVersion} limits ${limits.join(", ")}` });
  }
  if (limitsMissing) {
    findings.push({
      level: "warning",
      message: `${limitsMissing.why}: such limits are refused`,
      fix: limitsMissing.fix,
    });
  }
  return findings;
}

function plainTcp(where: string): ProbeFinding {
  return {
    level: "warning",
    message: `${where} is neither encrypted nor authenticated: whoever reaches it is root on its machine`,
    fix: "use TLS (DOCKER_TLS_VERIFY and DOCKER_CERT_PATH) or ssh://",
  };
}

function weaknessFindings(daemon: Daemon): ProbeFinding[] {
  const mitigation = daemon.hasUserNamespace
    ? "its user namespace keeps these from being root on the host"
    : undefined;
  return weakPrograms(daemon)
    .map((program) => weaknessFinding(program, mitigation))
    .filter((finding) => finding !== undefined);
}

/** What of this daemon may have published weaknesses. */
export function weakPrograms(daemon: Daemon): Parameters<typeof weaknessFinding>[0][] {
  return [
    ...(daemon.isPodman ? [] : [{ name: "docker" as const, version: daemon.version }]),
    ...(daemon.runc ? [{ name: "runc" as const, ...daemon.runc }] : []),
  ];
}
