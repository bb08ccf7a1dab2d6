import { z } from "zod";
import { readAnswer } from "../containers/answers.ts";
import { type ApiClient, engineFailure, engineWords } from "../containers/api-client.ts";

const Info = z.object({
  ServerVersion: z.string().optional(),
  OperatingSystem: z.string().optional(),
  Driver: z.string().optional(),
  DriverStatus: z.array(z.array(z.string())).nullish(),
  CgroupDriver: z.string().optional(),
  CgroupVersion: z.string().optional(),
  DefaultRuntime: z.string().optional(),
  SecurityOptions: z.array(z.string()).nullish(),
  MemoryLimit: z.boolean().optional(),
  SwapLimit: z.boolean().optional(),
  CpuCfsPeriod: z.boolean().optional(),
  CpuCfsQuota: z.boolean().optional(),
  PidsLimit: z.boolean().optional(),
});

const Version = z.object({
  Components: z
    .array(
      z.object({
        Name: z.string(),
        Version: z.string(),
        Details: z.record(z.string(), z.string()).nullish(),
      }),
    )
    .nullish(),
});

const CONTAINERD_IMAGES = "driver-type,io.containerd.snapshotter.v1";

/** What is known of a daemon; its words are cleaned. */
export interface Daemon {
  version: string;
  /** runc, where that is what starts containers; `revision` is a commit, or a distributor's own number. */
  runc?: { version: string; revision: string };
  /** Podman answers to Docker's API too. */
  isPodman: boolean;
  /** Docker Desktop's runs in a virtual machine. */
  isDesktop: boolean;
  /** Root inside is not root outside. */
  hasUserNamespace: boolean;
  isRootless: boolean;
  hasSelinux: boolean;
  hasSeccomp: boolean;
  storageDriver: string;
  /** Its images are containerd's, as is Docker 29's default. */
  hasContainerdImages: boolean;
  cgroupDriver: string;
  cgroupVersion: string;
  enforces: { memory: boolean; swap: boolean; cpu: boolean; pids: boolean };
}

/** @throws WarrenError `runtime_unavailable`, `runtime_failed` */
export async function readDaemon(client: ApiClient): Promise<Daemon> {
  const fail = (error: unknown) => {
    throw engineFailure(error, "the Docker daemon does not say what it is");
  };
  const info = readAnswer(Info, await client.json({ path: "/info" }).catch(fail));
  const { Components } = readAnswer(Version, await client.json({ path: "/version" }).catch(fail));
  const options = new Set(info.SecurityOptions?.map((option) => option.split(",")[0]));
  const runc = info.DefaultRuntime === "runc" && Components?.find(({ Name }) => Name === "runc");
  const words = (text: string | undefined) => (text === undefined ? "unknown" : engineWords(text));
  return {
    version: words(info.ServerVersion),
    ...(runc ? { runc: { version: words(runc.Version), revision: words(runc.Details?.GitCommit) } } : {}),
    isPodman: Components?.some(({ Name }) => /podman/i.test(Name)) ?? false,
    isDesktop: info.OperatingSystem === "Docker Desktop",
    hasUserNamespace: options.has("name=userns") || options.has("name=rootless"),
    isRootless: options.has("name=rootless"),
    hasSelinux: options.has("name=selinux"),
    hasSeccomp: options.has("name=seccomp"),
    storageDriver: words(info.Driver),
    hasContainerdImages: info.DriverStatus?.some((pair) => pair.join() === CONTAINERD_IMAGES) ?? false,
    cgroupDriver: words(info.CgroupDriver),
    cgroupVersion: words(info.CgroupVersion),
    enforces: {
      memory: info.MemoryLimit === true,
      swap: info.SwapLimit === true,
      cpu: info.CpuCfsPeriod === true && info.CpuCfsQuota === true,
      pids: info.PidsLimit === true,
    },
  };
}
