import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Files that take longest, the longest first. */
const long = [
  "runtimes/containers/images",
  "conformance/api-oci",
  "crash/steps",
  "crash/life",
  "conformance/open-network",
  "runtimes/podman/crash",
  "hostile/floods",
  "conformance/docker",
  "conformance/podman",
  "conformance/api-containers",
  "fuzz/native",
  "conformance/api-engine",
  "conformance/api-http",
  "conformance/gvisor",
  "cli/cli",
  "cli/run",
  "conformance/oci",
  "server/exec-resume",
  "hostile/images",
  "crash/building",
  "network/uplink",
  "runtimes/docker/behaviour",
  "engine/reconcile",
  "runtimes/docker/reach",
  "cli/serve",
  "hostile/egress-capture",
  "hostile/builds",
  "bench/bench",
  "runtimes/oci/probe",
  "conformance/orbstack",
  "runtimes/containers/build-network",
  "runtimes/oci/host-image",
  "crash/random",
  "hostile/mounts",
  "hostile/races",
  "hostile/kernel-files",
  "rootless/hostile",
  "rootless/conformance",
  "rootless/images",
  "rootless/podman",
  "rootless/network",
];

/** Begins with what takes longest, so that at the end no worker is left alone with it. */
export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) => {
      const at = long.findIndex((name) => moduleId.endsWith(`/test/${name}.test.ts`));
      return at < 0 ? long.length : at;
    };
    const others = await super.sort(files);
    return others.toSorted((a, b) => rank(a) - rank(b));
  }
}
