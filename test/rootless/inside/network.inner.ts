import { existsSync } from "node:fs";
import { connect } from "node:net";
import { openEngine } from "../../../src/engine/engine.ts";
import { silentLogger } from "../../../src/lib/log.ts";
import { ociPrograms } from "../../../src/runtimes/oci/programs.ts";
import { type OpenNetworkPlaces, testOpenNetwork } from "../../../src/testing/index.ts";
import { openTestRuntime } from "../../runtimes/oci/support/open.ts";

const places: OpenNetworkPlaces = {
  ...JSON.parse(process.env.WARREN_LAB ?? "{}"),
  fromHost: (host, port) =>
    new Promise<boolean>((resolve) => {
      const socket = connect({ host, port, timeout: 2000 });
      const end = (reached: boolean) => {
        socket.destroy();
        resolve(reached);
      };
      socket.once("connect", () => end(true));
      socket.once("error", () => end(false));
      socket.once("timeout", () => end(false));
    }),
};

const hasCgroups =
  existsSync(`/sys/fs/cgroup/warren-${process.getuid?.()}`) ||
  existsSync(`/sys/fs/cgroup/memory/warren-${process.getuid?.()}`);

for (const program of ociPrograms) {
  testOpenNetwork(
    `rootless oci with ${program}`,
    async () => {
      const test = await openTestRuntime(program);
      const engine = await openEngine({
        stateDir: test.stateDir,
        runtimes: { oci: test.runtime },
        defaultRuntime: "oci",
        log: silentLogger,
      });
      return {
        api: engine,
        places,
        close: async () => {
          await engine.close();
          await test.reopen();
          await test.close();
        },
      };
    },
    { defaults: hasCgroups ? {} : { unlimited: true }, lacks: hasCgroups ? [] : ["pause"] },
  );
}
