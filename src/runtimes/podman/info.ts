import { z } from "zod";
import { readAnswer } from "../containers/answers.ts";
import { type ApiClient, engineFailure, engineWords } from "../containers/api-client.ts";

const Words = z.string().transform(engineWords);

const Info = z.object({
  host: z.object({
    buildahVersion: Words.optional(),
    cgroupVersion: Words,
    slirp4netns: z.object({ executable: z.string().optional() }).nullish(),
    cgroupManager: Words.optional(),
    cgroupControllers: z.array(z.string()).nullish(),
    ociRuntime: z.object({ name: Words, version: z.string() }).optional(),
    security: z.object({ rootless: z.boolean(), seccompEnabled: z.boolean().optional() }),
    idMappings: z.object({ uidmap: z.array(z.object({ size: z.number().int() })).nullish() }).nullish(),
  }),
  store: z.object({ graphDriverName: Words, graphRoot: z.string() }),
  version: z.object({ Version: Words }),
});

/** What is known of a Podman; its words are cleaned. */
export interface PodmanInfo {
  version: string;
  /** Of what builds its images. */
  buildah?: string;
  isRootless: boolean;
  hasSeccomp: boolean;
  cgroupVersion: 1 | 2;
  /** That it may use. */
  controllers: readonly string[];
  storageDriver: string;
  /** crun or runc, and its version. */
  program?: { name: string; version: string };
  /** What carries the packets of an ordinary user's containers. */
  hasSlirp4netns: boolean;
  /** How many ids its sandboxes can have; undefined as root, where they have all. */
  ids?: number;
}

/** @throws WarrenError `runtime_unavailable`, `runtime_failed` */
export async function readInfo(client: ApiClient): Promise<PodmanInfo> {
  const answer = await client.json({ path: "/libpod/info" }).catch((error: unknown) => {
    throw engineFailure(error, "Podman does not say what it is");
  });
  const { host, store, version } = readAnswer(Info, answer);
  const { ociRuntime, security, idMappings } = host;
  const ids = (idMappings?.uidmap ?? []).reduce((sum, { size }) => sum + size, 0);
  const programVersion = /\bversion (\S+)/.exec(ociRuntime?.version ?? "")?.[1];
  return {
    version: version.Version,
    isRootless: security.rootless,
    hasSlirp4netns: (host.slirp4netns?.executable ?? "") !== "",
    hasSeccomp: security.seccompEnabled === true,
    cgroupVersion: host.cgroupVersion === "v2" ? 2 : 1,
    controllers: host.cgroupControllers ?? [],
    storageDriver: store.graphDriverName,
    ...(host.buildahVersion ? { buildah: host.buildahVersion } : {}),
    ...(ociRuntime && programVersion
      ? { program: { name: ociRuntime.name, version: engineWords(programVersion) } }
      : {}),
    ...(security.rootless ? { ids } : {}),
  };
}
