import type { ProbeFinding, ProbeReport } from "../../contracts/runtime.ts";
import { type ProgramVersion, weaknessFinding } from "../common/known-weaknesses.ts";
import type { ApiClient } from "../containers/api-client.ts";
import { describeEndpoint } from "../containers/endpoint.ts";
import { capabilitiesOf } from "./capabilities.ts";
import { type PodmanInfo, readInfo } from "./info.ts";

/** The oldest whose API has what is used here: keep-id with ids, and limits of a running container. */
const OLDEST = [4, 3] as const;
/** What images use of ids: nobody is 65534. */
const NEEDED_IDS = 65_536;

export async function probePodman(client: ApiClient, uid: number): Promise<ProbeReport> {
  const info = await readInfo(client);
  const findings = findingsOf(info, describeEndpoint(client.endpoint), uid);
  return {
    runtime: "podman",
    usable: findings.every(({ level }) => level !== "error"),
    version: `podman ${info.version}`,
    findings,
  };
}

export function findingsOf(info: PodmanInfo, where: string, uid: number): ProbeFinding[] {
  const { limits, limitsMissing } = capabilitiesOf(info);
  const findings: ProbeFinding[] = [
    {
      level: "ok",
      message:
        `podman ${info.version}, ${info.isRootless ? "rootless" : "as root"}, at ${where}, ` +
        `with ${info.program ? `${info.program.name} ${info.program.version}` : "an unknown program"} ` +
        `and the storage driver ${info.storageDriver}`,
    },
  ];
  const [major = 0, minor = 0] = info.version.split(".").map(Number);
  if (major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1])) {
    findings.push({
      level: "error",
      message: `podman ${info.version} is too old: ${OLDEST.join(".")} is needed`,
      fix: "install Podman 4.3 or newer",
    });
  }
  if (!info.hasSeccomp) {
    findings.push({
      level: "error",
      message: "this Podman was built without seccomp",
      fix: "install a Podman and a kernel with seccomp",
    });
  }
  if (limits.length > 0) {
    findings.push({ level: "ok", message: `cgroup v${info.cgroupVersion} limits ${limits.join(", ")}` });
  }
  if (limitsMissing) {
    findings.push({ level: "warning", message: limitsMissing.why, fix: limitsMissing.fix });
  }
  if (info.ids !== undefined && info.ids < NEEDED_IDS) {
    findings.push({
      level: "warning",
      message: `sandboxes have only ${info.ids} user ids: images with files of other users can't be used`,
      fix: `as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ${uid}, then podman system migrate`,
    });
  }
  if (info.storageDriver === "vfs") {
    findings.push({
      level: "warning",
      message: "the storage driver vfs copies the whole image for each sandbox",
      fix: "use the storage driver overlay: https://docs.podman.io/en/latest/markdown/podman.1.html#storage-driver-value",
    });
  }
  const mitigation = info.isRootless
    ? "the user namespace of each sandbox keeps these from being root on the host"
    : undefined;
  for (const program of weakPrograms(info)) {
    const finding = weaknessFinding(program, mitigation);
    if (finding) findings.push(finding);
  }
  const builder = builderOf(info);
  const finding = builder && weaknessFinding(builder, "only whoever writes a Dockerfile can use them");
  if (finding) findings.push(finding);
  return findings;
}

/** What stands between a build and the host. */
export function builderOf({ buildah }: PodmanInfo): ProgramVersion | undefined {
  return buildah === undefined ? undefined : { name: "buildah", version: buildah };
}

/** The programs between a sandbox and the host, as far as their weaknesses are known. */
export function weakPrograms({ version, program }: PodmanInfo): ProgramVersion[] {
  const own: ProgramVersion = { name: "podman", version };
  if (program?.name !== "crun" && program?.name !== "runc") return [own];
  return [own, { name: program.name, version: program.version, revision: program.version }];
}
